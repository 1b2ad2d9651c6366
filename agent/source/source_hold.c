/*
 * A volume that is cut by itself has one hold, of its commands and its freeze.
 * In a group the commands of each volume are a hold of its own, without a freeze,
 * and the freeze is one more, of the group. As long as a volume has part in that
 * one, held_by says so.
 *
 *     IDLE -> COMMANDS -> FREEZING -> HELD -> ENDING -> IDLE
 *                  \____________\_____________/
 */
#include "source/source_hold.h"

#include <stdlib.h>
#include <syslog.h>

#include "base/ensure.h"
#include "control/control.h"
#include "source/freeze/guard_protocol.h"
#include "source/source_volume_internal.h"

_Static_assert(REPL_SOURCE_GROUP_MAX <= REPL_GUARD_OTHERS_MAX + 1, "a device for each volume");

enum hold_state { STATE_IDLE, STATE_COMMANDS, STATE_FREEZING, STATE_HELD, STATE_ENDING };

struct repl_source_hold {
    const char *group;
    enum hold_state state;
    struct repl_source_volume *volumes[REPL_SOURCE_GROUP_MAX];
    size_t count;
    unsigned commands_awaited; /* not held yet */
    struct repl_hold *freeze;
    bool freeze_out; /* begun, and not over */
    bool was_held;
    bool intact; /* these three: what is told at the end */
    int64_t stall_ns;
    struct repl_error why;
};

/* --- a volume -------------------------------------------------------------------------------- */

/* How long a hold of the commands alone may take. */
static int64_t window_ms(const struct repl_source_volume *v)
{
    int64_t interval_ms = v->pipeline.options.interval_ns / 1000000;
    return interval_ms < REPL_GUARD_LONGEST_MS ? interval_ms : REPL_GUARD_LONGEST_MS;
}

static dev_t device_of(const struct repl_source_volume *v)
{
    return v->tree != NULL ? repl_tree_device(v->tree) : v->device.number;
}

static void volume_hold_begin(struct repl_source_volume *v, bool freeze, int64_t budget_ms)
{
    const struct repl_config_volume *config = v->options.volume;
    v->holding = true;
    repl_hold_begin(v->hold, &(struct repl_hold_options){
                                 .device = device_of(v),
                                 .volume = config->name,
                                 .freeze = freeze,
                                 .budget_ms = budget_ms,
                                 .pre_command = config->pre_command,
                                 .post_command = config->post_command,
                                 .command_timeout_ms = config->command_timeout_ms,
                             });
}

static void volume_tell(struct repl_source_volume *v, const struct repl_hold_event *event)
{
    struct repl_pipeline *p = &v->pipeline;
    int64_t now_ns = repl_now_wall_ns();
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
        return;
    }
    if (event->kind == REPL_HOLD_HELD)
        repl_pipeline_quiesced(p, REPL_SUCCESS, NULL, now_ns);
    else if (event->kind == REPL_HOLD_FAILED)
        repl_pipeline_quiesced(p, (repl_result){event->error.code}, &event->error, now_ns);
    else
        repl_pipeline_resumed(p, event->intact, now_ns);
    if (event->kind != REPL_HOLD_HELD && event->stall_ns > v->stall_max_ns)
        v->stall_max_ns = event->stall_ns;
    volume_pump(v);
}

static void volume_followed(void *context, const struct repl_hold_event *event)
{
    struct repl_source_volume *v = context;
    v->holding = event->kind == REPL_HOLD_HELD;
    if (v->held_by != NULL)
        repl_source_hold_followed(v->held_by, v, event);
    else
        volume_tell(v, event);
}

repl_result volume_hold_new(struct repl_source_volume *v, struct repl_error *err)
{
    enum repl_quiesce quiesce = v->options.volume->quiesce;
    if (quiesce == REPL_QUIESCE_WINDOW || quiesce == REPL_QUIESCE_WINDOW_ELSE_FILES ||
        repl_quiesce_has_snapshots(quiesce))
        return REPL_SUCCESS;
    return repl_hold_new(v->options.loop, v->options.config->guard, volume_followed, v, &v->hold,
                         err);
}

void volume_quiesce(struct repl_source_volume *v)
{
    const struct repl_config_volume *config = v->options.volume;
    if (repl_quiesce_has_snapshots(config->quiesce)) {
        volume_snapshot_begin(v);
        return;
    }
    bool freeze = config->quiesce != REPL_QUIESCE_COMMAND;
    volume_hold_begin(v, freeze, freeze ? config->freeze_budget_ms : window_ms(v));
}

void volume_resume(struct repl_source_volume *v)
{
    if (repl_quiesce_has_snapshots(v->options.volume->quiesce))
        volume_snapshot_end(v);
    else if (v->held_by != NULL)
        repl_source_hold_end(v->held_by);
    else if (v->holding)
        repl_hold_end(v->hold);
}

/* --- a group: the end ------------------------------------------------------------------------ */

/* Nothing of it is out any more. */
static void group_tell_end(struct repl_source_hold *h)
{
    struct repl_hold_event event = {.kind = h->was_held ? REPL_HOLD_RELEASED : REPL_HOLD_FAILED,
                                    .intact = h->intact,
                                    .stall_ns = h->stall_ns,
                                    .error = h->why};
    h->state = STATE_IDLE;
    for (size_t i = 0; i < h->count; i++)
        h->volumes[i]->held_by = NULL;
    for (size_t i = 0; i < h->count; i++)
        volume_tell(h->volumes[i], &event);
}

/* First the thaw. */
static void group_unwind(struct repl_source_hold *h)
{
    bool out = false;
    if (h->freeze_out)
        return;
    for (size_t i = 0; i < h->count; i++) {
        out |= h->volumes[i]->holding;
        if (h->volumes[i]->holding)
            repl_hold_end(h->volumes[i]->hold);
    }
    if (!out)
        group_tell_end(h);
}

void repl_source_hold_end(struct repl_source_hold *h)
{
    if (h->state == STATE_IDLE || h->state == STATE_ENDING)
        return;
    h->state = STATE_ENDING;
    if (!h->was_held && h->intact)
        repl_ignore(
            repl_fail(&h->why, REPL_E_RETRY, "given up before all of group %s was held", h->group));
    if (h->freeze_out)
        repl_hold_end(h->freeze);
    group_unwind(h);
}

/* One of the holds is over: that of a group's freeze, or of a volume's commands. */
static void group_released(struct repl_source_hold *h, const struct repl_hold_event *event)
{
    bool intact = event->kind == REPL_HOLD_RELEASED && event->intact;
    if (!intact && h->intact)
        h->why = event->error;
    h->intact = h->intact && intact;
    if (event->stall_ns > h->stall_ns)
        h->stall_ns = event->stall_ns;
    if (h->state == STATE_ENDING)
        group_unwind(h);
    else
        repl_source_hold_end(h);
}

/* --- a group: the begin ---------------------------------------------------------------------- */

static void group_held(struct repl_source_hold *h)
{
    const struct repl_hold_event event = {.kind = REPL_HOLD_HELD};
    h->state = STATE_HELD;
    h->was_held = true;
    for (size_t i = 0; i < h->count; i++)
        volume_tell(h->volumes[i], &event);
}

static size_t devices_collect(const struct repl_source_hold *h, dev_t devices[])
{
    size_t count = 0;
    for (size_t i = 0; i < h->count; i++) {
        dev_t device = device_of(h->volumes[i]);
        size_t at = 0;
        while (at < count && devices[at] != device)
            at++;
        devices[at] = device;
        count += at == count;
    }
    return count;
}

static void freeze_begin(struct repl_source_hold *h)
{
    dev_t devices[REPL_SOURCE_GROUP_MAX] = {0};
    size_t count = devices_collect(h, devices);
    struct repl_hold_options options = {.device = devices[0],
                                        .others = devices + 1,
                                        .other_count = count - 1,
                                        .volume = h->group,
                                        .group = true,
                                        .freeze = true,
                                        .budget_ms = REPL_GUARD_BUDGET_MAX_MS};
    for (size_t i = 0; i < h->count; i++) { /* nobody's writers wait for longer than allowed */
        const struct repl_config_volume *config = h->volumes[i]->options.volume;
        if (config->freeze_budget_ms < options.budget_ms)
            options.budget_ms = config->freeze_budget_ms;
        if (config->command_timeout_ms > options.command_timeout_ms)
            options.command_timeout_ms = config->command_timeout_ms;
    }
    h->state = STATE_FREEZING;
    h->freeze_out = true;
    repl_hold_begin(h->freeze, &options);
}

static void group_freeze(struct repl_source_hold *h)
{
    if (h->volumes[0]->options.volume->quiesce == REPL_QUIESCE_COMMAND)
        group_held(h);
    else
        freeze_begin(h);
}

static void freeze_followed(void *context, const struct repl_hold_event *event)
{
    struct repl_source_hold *h = context;
    h->freeze_out = event->kind == REPL_HOLD_HELD;
    if (event->kind != REPL_HOLD_HELD)
        group_released(h, event);
    else if (h->state == STATE_FREEZING) /* else it was given up, which crossed */
        group_held(h);
}

void repl_source_hold_followed(struct repl_source_hold *h, struct repl_source_volume *v,
                               const struct repl_hold_event *event)
{
    ensure(h->state != STATE_IDLE && v->held_by == h);
    if (event->kind != REPL_HOLD_HELD)
        group_released(h, event);
    else if (h->state == STATE_COMMANDS && --h->commands_awaited == 0)
        group_freeze(h);
}

/* Those of the others are waited for, and the freeze. */
static int64_t commands_budget_ms(const struct repl_source_hold *h)
{
    int64_t longest_ms = 0;
    for (size_t i = 0; i < h->count; i++) {
        const struct repl_config_volume *config = h->volumes[i]->options.volume;
        int64_t ms =
            window_ms(h->volumes[i]) + config->freeze_budget_ms + 2 * config->command_timeout_ms;
        longest_ms = ms > longest_ms ? ms : longest_ms;
    }
    return longest_ms < REPL_GUARD_LONGEST_MS ? longest_ms : REPL_GUARD_LONGEST_MS;
}

void repl_source_hold_begin(struct repl_source_hold *h, struct repl_source_volume **volumes,
                            size_t count)
{
    ensure(h->state == STATE_IDLE && count > 0);
    h->state = STATE_COMMANDS;
    h->count = count;
    h->commands_awaited = 0;
    h->was_held = false;
    h->intact = true;
    h->stall_ns = 0;
    for (size_t i = 0; i < count; i++) {
        h->volumes[i] = volumes[i];
        volumes[i]->held_by = h;
    }
    int64_t budget_ms = commands_budget_ms(h);
    for (size_t i = 0; i < count; i++) {
        const struct repl_config_volume *config = volumes[i]->options.volume;
        if (config->pre_command == NULL && config->post_command == NULL)
            continue;
        h->commands_awaited++;
        volume_hold_begin(volumes[i], false, budget_ms);
    }
    if (h->commands_awaited == 0)
        group_freeze(h);
}

/* --- a life ---------------------------------------------------------------------------------- */

repl_result repl_source_hold_new(struct repl_loop *loop, const char *guard, const char *group,
                                 struct repl_source_hold **out, struct repl_error *err)
{
    struct repl_source_hold *h = calloc(1, sizeof *h);
    if (h == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a group's hold");
    h->group = group;
    repl_result result = repl_hold_new(loop, guard, freeze_followed, h, &h->freeze, err);
    if (!repl_ok(result)) {
        free(h);
        return result;
    }
    *out = h;
    return REPL_SUCCESS;
}

void repl_source_hold_free(struct repl_source_hold *h)
{
    if (h == NULL)
        return;
    repl_hold_free(h->freeze);
    free(h);
}
