#include "sim.h"

/*
 * Who freezes the filesystem or runs the user's command: a process of its own,
 * which thaws when the source dies or takes too long. It may refuse, be slow,
 * or lose what it holds; it may say so unasked, or only when it is told to let
 * go.
 *
 * While a filesystem is frozen nobody writes, and nothing is on its way to the
 * device. A command may stop whoever writes, or not.
 */

#define SLOW_NS (3 * SIM_SECOND)

static bool is_freeze(const struct sim_source *source)
{
    return source->sim->quiesce != REPL_QUIESCE_COMMAND;
}

static void let_go(struct sim_source *source)
{
    source->device.blocked = false;
}

void sim_guard_free(struct sim_source *source)
{
    let_go(source);
    source->guard.state = SIM_GUARD_FREE;
}

static void lost_reported(void *actor, uint64_t hold, void *payload)
{
    struct sim_source *source = actor;
    (void)payload;
    if (source->guard.hold != hold || source->guard.state != SIM_GUARD_LOST)
        return;
    source->guard.state = SIM_GUARD_FREE;
    repl_pipeline_resumed(&source->pipeline, source->sim->options.bug == SIM_BUG_RESUMED_BLIND,
                          sim_source_now(source));
    sim_source_run(source);
}

static void hold_lost(void *actor, uint64_t hold, void *payload)
{
    struct sim_source *source = actor;
    struct sim *sim = source->sim;
    (void)payload;
    if (source->guard.hold != hold || source->guard.state != SIM_GUARD_ON)
        return;
    sim->counts->freezes_lost++;
    sim_trace(sim, "the guard loses its hold");
    let_go(source);
    source->guard.state = SIM_GUARD_LOST;
    if (sim_chance(sim, 500))
        sim_after(sim, sim_span(sim, SIM_MS / 10, 100 * SIM_MS), &source->life, lost_reported,
                  source, hold, NULL, NULL);
}

static void refuse(struct sim_source *source)
{
    struct repl_error err;
    source->sim->counts->freezes_failed++;
    sim_guard_free(source);
    repl_pipeline_quiesced(&source->pipeline,
                           repl_fail(&err, REPL_E_REFUSED, "guard: somebody else froze it"), &err,
                           sim_source_now(source));
    sim_source_run(source);
}

static void try(void *actor, uint64_t hold, void *payload)
{
    struct sim_source *source = actor;
    struct sim *sim = source->sim;
    (void)payload;
    if (!sim->calm && sim_chance(sim, sim->faults.quiesce)) {
        refuse(source);
        return;
    }
    source->device.blocked = is_freeze(source) || sim->command_stops;
    if (is_freeze(source) && source->device.writes_out > 0) {
        sim_after(sim, SIM_MS, &source->life, try, source, hold, NULL, NULL);
        return;
    }
    source->guard.state = SIM_GUARD_ON;
    if (!sim->calm && sim_chance(sim, sim->faults.hold))
        sim_after(sim, sim_span(sim, SIM_MS / 10, 200 * SIM_MS), &source->life, hold_lost, source,
                  hold, NULL, NULL);
    repl_pipeline_quiesced(&source->pipeline, REPL_SUCCESS, NULL, sim_source_now(source));
    sim_source_run(source);
}

void sim_guard_quiesce(struct sim_source *source)
{
    struct sim *sim = source->sim;
    if (source->guard.state != SIM_GUARD_FREE)
        sim_fail(sim, "guard", "told to quiesce what is not at rest");
    source->guard = (struct sim_guard){.state = SIM_GUARD_ASKED, .hold = source->guard.hold + 1};
    int64_t most_ns = sim_chance(sim, 100) ? SLOW_NS : 50 * SIM_MS;
    sim_after(sim, sim_span(sim, SIM_MS / 10, most_ns), &source->life, try, source,
              source->guard.hold, NULL, NULL);
}

static void resumed(void *actor, uint64_t hold, void *payload)
{
    struct sim_source *source = actor;
    (void)hold;
    (void)payload;
    bool intact = source->guard.state == SIM_GUARD_ENDING;
    sim_guard_free(source);
    if (source->sim->options.bug == SIM_BUG_RESUMED_BLIND)
        intact = true;
    repl_pipeline_resumed(&source->pipeline, intact, sim_source_now(source));
    sim_source_run(source);
}

static void told(void *actor, uint64_t hold, void *payload)
{
    struct sim_source *source = actor;
    struct sim *sim = source->sim;
    (void)payload;
    if (source->guard.hold != hold || source->guard.state == SIM_GUARD_FREE)
        return;                    /* it had ended, and that has been said meanwhile */
    source->guard.hold = hold + 1; /* no more reports */
    if (source->guard.state == SIM_GUARD_ON) {
        source->guard.state = SIM_GUARD_ENDING;
        let_go(source);
    }
    int64_t most_ns = sim_chance(sim, 100) ? SLOW_NS : 20 * SIM_MS;
    sim_after(sim, sim_span(sim, SIM_MS / 10, most_ns), &source->life, resumed, source, hold, NULL,
              NULL);
}

void sim_guard_resume(struct sim_source *source)
{
    struct sim *sim = source->sim;
    if (source->guard.state != SIM_GUARD_ON && source->guard.state != SIM_GUARD_LOST)
        sim_fail(sim, "guard", "told to resume what is not held");
    sim_after(sim, sim_span(sim, SIM_MS / 100, 5 * SIM_MS), &source->life, told, source,
              source->guard.hold, NULL, NULL);
}
