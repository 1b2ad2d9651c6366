#include "sim.h"

#include <stdlib.h>
#include <string.h>

/*
 * One seed: which faults it has, when they strike, and how it must end. The
 * faults last for a while; then all is calm, and within a bounded time the
 * site's last point, the replica and the device must be the same.
 */

/* The longest pause after a torn round, and some. */
#define CALM_NS (1500 * SIM_SECOND)

#define START_NS (INT64_C(1700000000) * SIM_SECOND)

/* Half of the seeds know a fault at all; those that do, in quite different strengths. */
static unsigned strength(struct sim *sim, unsigned most)
{
    if (sim_chance(sim, 500))
        return 0;
    return 1 + (unsigned)(sim_random(sim, most) >> sim_random(sim, 4));
}

struct strike {
    unsigned source_crash, source_power, source_stop, site_crash, site_power, site_wipe;
    unsigned link_down, source_clock, site_clock, grow, clone, disk_full, cache, full;
};

static void faults_choose(struct sim *sim, struct strike *s)
{
    sim->faults = (struct sim_faults){.disk_write = strength(sim, 40),
                                      .disk_sync = strength(sim, 100),
                                      .device_read = strength(sim, 60),
                                      .commit_crash = strength(sim, 60),
                                      .settle_crash = strength(sim, 60),
                                      .completion = strength(sim, 150),
                                      .submission = strength(sim, 40),
                                      .both = strength(sim, 40),
                                      .flush = strength(sim, 150),
                                      .range = strength(sim, 30),
                                      .hang = strength(sim, 60),
                                      .tracker_lost = strength(sim, 300),
                                      .quiesce = strength(sim, 400),
                                      .hold = strength(sim, 300)};
    sim->net = (struct sim_net){.request_loss = strength(sim, 150),
                                .answer_loss = strength(sim, 200),
                                .slow = strength(sim, 100),
                                .duplicate = strength(sim, 300),
                                .cut_upload = strength(sim, 300),
                                .flip = strength(sim, 60),
                                .latency_ns = sim_span(sim, SIM_MS / 10, 200 * SIM_MS)};
    *s = (struct strike){.source_crash = strength(sim, 120),
                         .source_power = strength(sim, 100),
                         .source_stop = strength(sim, 60),
                         .site_crash = strength(sim, 100),
                         .site_power = strength(sim, 100),
                         .site_wipe = sim_chance(sim, 300) ? strength(sim, 50) : 0,
                         .link_down = strength(sim, 80),
                         .source_clock = strength(sim, 60),
                         .site_clock = strength(sim, 60),
                         .grow = strength(sim, 60),
                         .clone = strength(sim, 50),
                         .disk_full = strength(sim, 40),
                         .cache = sim_chance(sim, 200) ? strength(sim, 100) : 0,
                         .full = strength(sim, 100)};
}

/* --- what strikes ---------------------------------------------------------------------------- */

static void source_start(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    (void)argument;
    (void)payload;
    if (!source->up)
        sim_source_start(source);
}

static void source_down(struct sim *sim, bool power)
{
    struct sim_source *source = &sim->source;
    if (!source->up)
        return;
    *(power ? &sim->counts->source_power_cuts : &sim->counts->source_crashes) += 1;
    sim_trace(sim, "source %s", power ? "power cut" : "crash");
    sim_source_crash(source, power);
    sim_after(sim, sim_span(sim, 10 * SIM_MS, 5 * SIM_SECOND), &sim->world, source_start, source, 0,
              NULL, NULL);
}

void sim_source_fall(struct sim_source *source)
{
    source_down(source->sim, false);
}

/* An orderly end is asked for, and awaited for so long. */
static void source_stopped(void *actor, uint64_t left, void *payload)
{
    struct sim *sim = actor;
    (void)payload;
    if (!sim->source.up || !sim->source.pipeline.stopping)
        return;
    if (left > 0 && !repl_pipeline_stopped(&sim->source.pipeline)) {
        sim_after(sim, 100 * SIM_MS, &sim->world, source_stopped, sim, left - 1, NULL, NULL);
        return;
    }
    sim->counts->source_stops++;
    sim_source_crash(&sim->source, false);
    sim_after(sim, sim_span(sim, 10 * SIM_MS, SIM_SECOND), &sim->world, source_start, &sim->source,
              0, NULL, NULL);
}

static void source_stop(struct sim *sim)
{
    if (!sim->source.up)
        return;
    repl_pipeline_stop(&sim->source.pipeline, sim_source_now(&sim->source));
    sim_source_run(&sim->source);
    source_stopped(sim, 50, NULL);
}

static void site_down(struct sim *sim, bool power)
{
    if (!sim->site.up)
        return;
    *(power ? &sim->counts->site_power_cuts : &sim->counts->site_crashes) += 1;
    sim_trace(sim, "site %s", power ? "power cut" : "crash");
    sim_site_crash(&sim->site, power);
}

/* With the site everything under way to it is gone too. */
static void site_wipe(struct sim *sim)
{
    sim->counts->site_wipes++;
    sim_trace(sim, "site loses everything");
    sim->world_net.number++;
    sim_site_wipe(&sim->site);
}

static void clock_step(struct sim *sim, int64_t *clock_ns, uint64_t *count)
{
    int64_t step = sim_span(sim, SIM_MS, 7200 * SIM_SECOND);
    *clock_ns += sim_chance(sim, 500) ? step : -step;
    (*count)++;
    sim_trace(sim, "a clock is set to %+lld s", (long long)(*clock_ns / SIM_SECOND));
}

static void grow(struct sim *sim)
{
    struct sim_device *device = &sim->source.device;
    uint64_t more = 512 * (1 + sim_random(sim, 16 * 8));
    uint64_t size = device->size + more;
    uint32_t pages = (uint32_t)((size + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE);
    if (pages > SIM_PAGES_MAX || device->writes_out > 0)
        return;
    sim->counts->growths++;
    sim_trace(sim, "device grows to %llu", (unsigned long long)size);
    device->size = size;
    device->page_count = pages;
}

/* An administrator who knows better than the disk. */
static void cache_switch(struct sim *sim)
{
    struct sim_device *device = &sim->source.device;
    sim->counts->caches_switched++;
    device->write_back = !device->write_back;
    sim_trace(sim, "the disk is %s now", device->write_back ? "write-back" : "write-through");
}

/* What the site asks for when it cannot open a segment any more. */
static void full_ask(struct sim *sim)
{
    struct sim_source *source = &sim->source;
    if (!source->up || !repl_pipeline_send_full(&source->pipeline, sim_source_now(source)))
        return;
    sim->counts->fulls++;
    sim_trace(sim, "the source is asked for a full");
    sim_source_run(source);
}

/* --- a clone --------------------------------------------------------------------------------- */

/* The copy is made at one time and started at another, when the original has gone on. */
static bool clone_is_behind(const struct sim *sim)
{
    struct repl_source_state state;
    uint64_t generation;
    const struct sim_inode *inode = sim_disk_open(&sim->clone.disk, "state");
    if (inode == NULL || sim->check.history_count == 0 || inode->cached.size < REPL_SLOT_FILE ||
        !repl_ok(repl_source_state_decode(inode->cached.data, &state, &generation, NULL)))
        return false;
    const struct repl_digest *head = &sim->check.history[sim->check.history_count - 1].digest;
    if (memcmp(head, &state.checkpoint.digest, sizeof *head) == 0)
        return false;
    for (uint32_t i = 0; i < state.sent_count; i++) {
        if (memcmp(head, &state.sent[i].digest, sizeof *head) == 0)
            return false;
    }
    return true;
}

static void clone_drop(struct sim *sim)
{
    sim_source_fini(&sim->clone);
    sim->cloned = false;
}

static void clone_ended(void *actor, uint64_t argument, void *payload)
{
    struct sim *sim = actor;
    (void)argument;
    (void)payload;
    const struct repl_ship *ship = &sim->clone.pipeline.ship;
    if (ship->state == REPL_SHIP_HALTED && ship->refused_by == REPL_REFUSAL_FORK)
        sim->counts->forks++;
    clone_drop(sim);
}

static void clone_strike(struct sim *sim)
{
    if (!sim->cloned) {
        sim_source_clone(&sim->clone, &sim->source);
        sim->cloned = true;
    } else if (!sim->clone.up && clone_is_behind(sim)) {
        for (unsigned i = 0; i < 5; i++)
            sim_device_write(&sim->clone.device);
        sim_source_start(&sim->clone);
        sim_after(sim, 5 * SIM_SECOND, &sim->world, clone_ended, sim, 0, NULL, NULL);
    }
}

/* --- time ------------------------------------------------------------------------------------ */

static void strike(struct sim *sim, const struct strike *s)
{
    if (sim_chance(sim, s->source_crash))
        source_down(sim, false);
    if (sim_chance(sim, s->source_power))
        source_down(sim, true);
    if (sim_chance(sim, s->source_stop))
        source_stop(sim);
    if (sim_chance(sim, s->site_crash))
        site_down(sim, false);
    if (sim_chance(sim, s->site_power))
        site_down(sim, true);
    if (sim_chance(sim, s->site_wipe))
        site_wipe(sim);
    if (sim_chance(sim, s->source_clock)) {
        clock_step(sim, &sim->source.clock_ns, &sim->counts->source_steps);
        sim_source_run(&sim->source);
    }
    if (sim_chance(sim, s->site_clock))
        clock_step(sim, &sim->site.clock_ns, &sim->counts->site_steps);
    if (sim_chance(sim, s->grow))
        grow(sim);
    if (sim_chance(sim, s->cache))
        cache_switch(sim);
    if (sim_chance(sim, s->full))
        full_ask(sim);
    if (sim_chance(sim, s->clone))
        clone_strike(sim);
    if (sim_chance(sim, s->link_down)) {
        sim->counts->link_downs++;
        sim->net.down_until_ns = sim->now_ns + sim_span(sim, 100 * SIM_MS, 60 * SIM_SECOND);
    }
    sim->site.disk.full =
        sim->site.disk.full ? sim_chance(sim, 700) : sim_chance(sim, s->disk_full);
}

static void run_until(struct sim *sim, int64_t until_ns)
{
    while (sim_step(sim, until_ns))
        ;
}

/* Stretches of writing and of rest take turns, so that points are cut under load and at rest. */
static void write_some(struct sim *sim, unsigned permille)
{
    while (sim_chance(sim, permille))
        sim_device_write(&sim->source.device);
}

static void stormy(struct sim *sim, const struct strike *s, int64_t duration_ns)
{
    int64_t end_ns = sim->now_ns + duration_ns, step_ns = 250 * SIM_MS;
    int64_t trouble_until_ns = 0;
    unsigned writes = 0;
    while (sim->now_ns < end_ns) {
        if (sim_chance(sim, 100))
            writes = sim_chance(sim, 500) ? 0 : (unsigned)sim_random(sim, 800);
        write_some(sim, writes);
        run_until(sim, sim->now_ns + 1 + (int64_t)sim_random(sim, (uint64_t)step_ns));
        strike(sim, s);
        /* Troubles come in clusters: who has just come back is the likeliest to fall again. */
        if (!sim->source.up || !sim->site.up)
            trouble_until_ns = sim->now_ns + 5 * SIM_SECOND;
        if (sim->now_ns < trouble_until_ns && sim_chance(sim, 400))
            strike(sim, s);
    }
}

static void calm(struct sim *sim)
{
    sim->calm = true;
    sim->net.down_until_ns = 0;
    sim->site.disk.full = false;
    if (sim->cloned && !sim->clone.up)
        clone_drop(sim);
    int64_t end_ns = sim->now_ns + CALM_NS;
    const char *missing = sim_check_converged(sim);
    while (missing != NULL && sim->now_ns < end_ns) {
        run_until(sim, sim->now_ns + SIM_SECOND);
        missing = sim_check_converged(sim);
    }
    if (missing == NULL)
        return;
    struct repl_report report;
    repl_pipeline_report(&sim->source.pipeline, sim_source_now(&sim->source), &report);
    sim_fail(sim, "liveness", "%lld s after the last fault: %s (source: %s, %s)",
             (long long)(CALM_NS / SIM_SECOND), missing, repl_state_name(report.state),
             report.cause);
}

static void configure(struct sim *sim)
{
    sim->atomic_writes = sim_chance(sim, 500);
    sim->deduplicate = sim_chance(sim, 300);
    sim->stale_names = strength(sim, 900);
    sim->interval_ns = sim_span(sim, SIM_SECOND / 4, 3 * SIM_SECOND);
    sim->spool_limit_bytes = sim_chance(sim, 500) ? 1u << 30 : 2000 + sim_random(sim, 40000);
    sim->source.clock_ns = sim_chance(sim, 500) ? 0 : sim_span(sim, SIM_MS, 3600 * SIM_SECOND);
    sim->site.clock_ns = sim_chance(sim, 500) ? 0 : -sim_span(sim, SIM_MS, 3600 * SIM_SECOND);
}

static void configure_capture(struct sim *sim)
{
    sim->tracked = sim_chance(sim, 600);
    sim->quiesce = (enum repl_quiesce)sim_random(sim, 4);
    sim->grouped = sim->tracked && sim_chance(sim, 100);
    sim->command_stops = sim_chance(sim, 500);
    sim->fua = sim_chance(sim, 500) ? 0 : (unsigned)sim_random(sim, 300);
    sim->flush = sim_chance(sim, 300) ? 0 : (unsigned)sim_random(sim, 700);
    sim->chain = sim_chance(sim, 400) ? 0 : (unsigned)sim_random(sim, 550);
    sim->slow_work = sim_chance(sim, 800) ? 20 : (unsigned)sim_random(sim, 500);
    sim->source.device.write_back = sim_chance(sim, 650);
    sim->source.device.kernel.done[REPL_AUDIT_WRITTEN] = SIM_SECTOR * sim_random(sim, 100000);
    sim->batch_count = sim_chance(sim, 300) ? 1 : SIM_BATCHES;
    sim->parked_pages = sim_chance(sim, 500) ? 1 + sim_random(sim, 40) : 200 * sim->batch_count;
    sim->audit = (struct repl_audit_limits){.spacing_ns = sim_span(sim, SIM_MS / 5, SIM_MS),
                                            .enough = 2 + (uint32_t)sim_random(sim, 3),
                                            .most = 10 + (uint32_t)sim_random(sim, 300),
                                            .patience_ns = sim_span(sim, 20 * SIM_MS, SIM_SECOND),
                                            .proof_ns = sim_span(sim, SIM_MS, 10 * SIM_MS),
                                            .trust_ns = 30 * SIM_SECOND};
    sim->gap_ns = sim_span(sim, 2000, sim->audit.spacing_ns / 8);
    sim->pace_ns = sim_span(sim, SIM_MS / 100, sim_chance(sim, 300) ? 60 * SIM_MS : 10 * SIM_MS);
    sim->reduce_ns = sim_span(sim, SIM_MS, 2 * SIM_SECOND);
    sim->io_timeout_ns = SIM_SECOND; /* the longest write takes less, if it does not hang */
}

static uint64_t volume_size_choose(struct sim *sim)
{
    uint64_t pages = sim_chance(sim, 150) ? 100 + sim_random(sim, 200) : 4 + sim_random(sim, 44);
    uint64_t size = pages * REPL_PAGE_SIZE;
    return sim_chance(sim, 500) ? size : size - 512 * (1 + sim_random(sim, 7));
}

void sim_run_seed(struct sim *sim)
{
    struct strike s;
    sim->random = (struct random){sim->options.seed};
    random_next(&sim->random);
    sim->now_ns = START_NS;
    uint64_t size = volume_size_choose(sim);
    sim_source_init(&sim->source, sim, size);
    sim_site_init(&sim->site, sim);
    configure(sim);
    configure_capture(sim);
    faults_choose(sim, &s);
    sim_site_start(&sim->site);
    sim_source_start(&sim->source);
    int64_t longest = size > 64 * REPL_PAGE_SIZE ? 15 * SIM_SECOND : 60 * SIM_SECOND;
    stormy(sim, &s, sim_span(sim, 8 * SIM_SECOND, longest));
    calm(sim);
    sim_check_restore_all(sim);
    sim_check_replica(sim);
    if (sim_chance(sim, 100))
        sim_check_rot(sim);
    if (sim->cloned)
        clone_drop(sim);
    sim_source_fini(&sim->source);
    sim_site_fini(&sim->site);
    sim_check_fini(&sim->check);
    sim_queue_fini(&sim->queue);
    sim->counts->seeds++;
}
