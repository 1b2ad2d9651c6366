#include "source/source_group.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/ensure.h"
#include "control/control.h"
#include "source/source_volume_internal.h"

enum place { AWAY, AT_OPEN, AT_CLOSE, AT_COMMIT };

struct member {
    struct repl_source_volume *volume;
    enum place place; /* where it waits */
    bool in_round;    /* of the group */
    bool left_out;    /* it was waited for in vain, and has not come since */
};

struct repl_source_group {
    struct repl_loop *loop;
    const char *name;
    struct member *members;
    size_t count, capacity;
    bool spoilt; /* the round under way will be no point of the group */
    bool looking, look_again;
    bool patient; /* the timer is armed */
    struct repl_timer patience;
};

/* --- who takes part -------------------------------------------------------------------------- */

/* Why it cannot be cut with the others; NULL: it can. */
static const char *obstacle_of(const struct member *member)
{
    const struct repl_source_volume *v = member->volume;
    if (v->phase != VOLUME_RUNNING)
        return "does not run";
    if (v->tracker == NULL)
        return "is not tracked";
    if (v->pipeline.comparing)
        return "is being compared";
    if (v->pipeline.ship.point_seq == 0)
        return "has no point at the site yet";
    return member->left_out ? "did not come to the common point in time" : NULL;
}

static bool all_able(const struct repl_source_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        if (obstacle_of(&group->members[i]) != NULL)
            return false;
    }
    return group->count == group->capacity;
}

static bool any_in_round(const struct repl_source_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        if (group->members[i].in_round)
            return true;
    }
    return false;
}

static bool all_at(const struct repl_source_group *group, enum place place)
{
    for (size_t i = 0; i < group->count; i++) {
        if (group->members[i].place != place)
            return false;
    }
    return true;
}

static struct member *member_of(struct repl_source_group *group,
                                const struct repl_source_volume *volume)
{
    for (size_t i = 0; i < group->count; i++) {
        if (group->members[i].volume == volume)
            return &group->members[i];
    }
    ensure(!"a volume of another group");
    return NULL;
}

/* A member of the round that is no longer where the round is. */
static bool is_lost(const struct member *member)
{
    enum repl_round_phase phase = member->volume->pipeline.round.phase;
    return !volume_is_up(member->volume) || phase < REPL_ROUND_READING ||
           phase == REPL_ROUND_DRAINING;
}

/* --- the common steps ------------------------------------------------------------------------ */

static void patience_end(struct repl_source_group *group)
{
    repl_timer_cancel(&group->patience);
    group->patient = false;
}

static void alone(struct member *member)
{
    member->place = AWAY;
    member->in_round = false;
    volume_round_open(member->volume);
}

static void open_each_alone(struct repl_source_group *group)
{
    patience_end(group);
    for (size_t i = 0; i < group->count; i++) {
        if (group->members[i].place == AT_OPEN && volume_is_up(group->members[i].volume)) {
            alone(&group->members[i]);
            volume_pump(group->members[i].volume);
        }
    }
}

/* All counters, then the marks of all. */
static void open_all(struct repl_source_group *group)
{
    struct repl_write_counters counters[REPL_SOURCE_GROUP_MAX];
    struct repl_error err;
    bool unchanged = true;
    patience_end(group);
    int64_t now_ns = repl_now_wall_ns();
    for (size_t i = 0; i < group->count; i++) {
        if (!repl_ok(volume_counters_begin(group->members[i].volume, &counters[i], &err))) {
            volume_fail(group->members[i].volume, &err);
            open_each_alone(group);
            return;
        }
    }
    for (size_t i = 0; i < group->count; i++) {
        struct repl_source_volume *v = group->members[i].volume;
        volume_marks_take(v);
        unchanged = unchanged && repl_pipeline_is_unchanged(&v->pipeline, &counters[i]);
    }
    group->spoilt = false;
    for (size_t i = 0; i < group->count; i++) {
        struct member *member = &group->members[i];
        member->place = AWAY;
        member->in_round = !unchanged;
        repl_pipeline_opened(&member->volume->pipeline, now_ns, &counters[i], !unchanged);
    }
    for (size_t i = 0; i < group->count; i++)
        volume_pump(group->members[i].volume);
}

static void close_all(struct repl_source_group *group)
{
    struct repl_write_counters counters[REPL_SOURCE_GROUP_MAX];
    struct repl_error err;
    struct repl_epoch_group together = {.whole = true, .small = true};
    patience_end(group);
    for (size_t i = 0; i < group->count; i++) {
        struct repl_source_volume *v = group->members[i].volume;
        if (!repl_ok(volume_counters_end(v, &counters[i], &err))) {
            volume_fail(v, &err);
            group->spoilt = true;
            return;
        }
        together.whole = together.whole && repl_pipeline_is_whole(&v->pipeline, &counters[i]);
        together.small = together.small && v->pipeline.small;
    }
    int64_t now_ns = repl_now_wall_ns();
    for (size_t i = 0; i < group->count; i++)
        together.give_up = together.give_up ||
                           repl_epoch_gives_up(&group->members[i].volume->pipeline.epoch, now_ns);
    for (size_t i = 0; i < group->count; i++) {
        group->members[i].place = AWAY;
        repl_pipeline_closed(&group->members[i].volume->pipeline, now_ns, &counters[i], &together);
    }
    for (size_t i = 0; i < group->count; i++)
        volume_pump(group->members[i].volume);
}

static void commit_all(struct repl_source_group *group)
{
    patience_end(group);
    int64_t now_ns = repl_now_wall_ns();
    for (size_t i = 0; i < group->count; i++) {
        group->members[i].place = AWAY;
        group->members[i].in_round = false;
        repl_pipeline_commit(&group->members[i].volume->pipeline, true, now_ns);
    }
    for (size_t i = 0; i < group->count; i++)
        volume_pump(group->members[i].volume);
}

void repl_source_group_cause(const struct repl_source_group *group, char *cause, size_t size)
{
    cause[0] = '\0';
    for (size_t i = 0; i < group->count; i++) {
        const char *obstacle = obstacle_of(&group->members[i]);
        if (obstacle == NULL)
            continue;
        snprintf(cause, size, "group %s is cut each volume for itself: %s %s", group->name,
                 volume_name(group->members[i].volume), obstacle);
        return;
    }
}

/* One of the round is gone: the others' rounds are in vain. */
static void release(struct member *member)
{
    struct repl_source_volume *v = member->volume;
    enum place place = member->place;
    struct repl_write_counters counters = v->pipeline.epoch.round_begin;
    int64_t now_ns = repl_now_wall_ns();
    member->place = AWAY;
    member->in_round = false;
    if (!volume_is_up(v))
        return;
    if (place == AT_CLOSE)
        repl_pipeline_closed(&v->pipeline, now_ns, &counters,
                             &(struct repl_epoch_group){.small = true});
    else /* it has been proven, or that would be in vain */
        repl_pipeline_commit(&v->pipeline, false, now_ns);
    volume_pump(v);
}

static void round_spoil(struct repl_source_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        struct member *member = &group->members[i];
        bool proving = member->volume->pipeline.round.phase == REPL_ROUND_PROVING;
        if (member->in_round && (member->place != AWAY || proving || is_lost(member)))
            release(member);
    }
}

/* --- the barrier ----------------------------------------------------------------------------- */

static void round_follow(struct repl_source_group *group)
{
    for (size_t i = 0; i < group->count; i++)
        group->spoilt |= group->members[i].in_round && is_lost(&group->members[i]);
    if (group->spoilt)
        round_spoil(group);
    else if (all_at(group, AT_CLOSE))
        close_all(group);
    else if (all_at(group, AT_COMMIT))
        commit_all(group);
}

void repl_source_group_look(struct repl_source_group *group)
{
    group->look_again = true;
    if (group->looking)
        return; /* whoever is looking will again */
    group->looking = true;
    while (group->look_again) {
        group->look_again = false;
        for (size_t i = 0; i < group->count; i++) {
            if (!volume_is_up(group->members[i].volume) && !group->members[i].in_round)
                group->members[i].place = AWAY;
        }
        if (any_in_round(group))
            round_follow(group);
        else if (!all_able(group))
            open_each_alone(group);
        else if (all_at(group, AT_OPEN))
            open_all(group);
    }
    group->looking = false;
}

/* Of whoever waits for the others, wherever that is. */
static void patience_begin(struct repl_source_group *group, const struct repl_source_volume *volume)
{
    int64_t patience_ns = 2 * volume->pipeline.options.interval_ns;
    if (!group->patient)
        repl_timer_arm(group->loop, &group->patience, repl_now_mono_ns() + patience_ns);
    group->patient = true;
}

void repl_source_group_open(struct repl_source_group *group, struct repl_source_volume *volume)
{
    struct member *member = member_of(group, volume);
    member->left_out = false;
    if (member->in_round) { /* it was torn: so were the others' */
        group->spoilt = true;
        member->in_round = false;
    }
    if (!all_able(group)) {
        alone(member);
        return;
    }
    member->place = AT_OPEN;
    patience_begin(group, volume);
    for (size_t i = 0; i < group->count; i++) {
        struct repl_source_volume *other = group->members[i].volume;
        if (group->members[i].place == AWAY && !group->members[i].in_round && other != volume) {
            repl_pipeline_hurry(&other->pipeline, repl_now_wall_ns());
            volume_wake(other);
        }
    }
}

static bool waits(struct repl_source_group *group, struct repl_source_volume *volume,
                  enum place place)
{
    struct member *member = member_of(group, volume);
    if (!member->in_round)
        return false;
    member->place = place;
    patience_begin(group, volume);
    return true;
}

void repl_source_group_close(struct repl_source_group *group, struct repl_source_volume *volume)
{
    if (!waits(group, volume, AT_CLOSE))
        volume_round_close(volume);
}

void repl_source_group_commit(struct repl_source_group *group, struct repl_source_volume *volume)
{
    if (!waits(group, volume, AT_COMMIT))
        repl_pipeline_commit(&volume->pipeline, true, repl_now_wall_ns());
}

static void patience_over(struct repl_timer *timer)
{
    struct repl_source_group *group = timer->context;
    group->patient = false;
    group->spoilt = true; /* a round under way: one of them does not come to its end */
    for (size_t i = 0; i < group->count; i++)
        group->members[i].left_out = group->members[i].place == AWAY;
    repl_source_group_look(group);
    if (!any_in_round(group))
        open_each_alone(group);
}

/* --- a life ---------------------------------------------------------------------------------- */

repl_result repl_source_group_new(struct repl_loop *loop, const char *name, size_t member_count,
                                  struct repl_source_group **out, struct repl_error *err)
{
    if (member_count > REPL_SOURCE_GROUP_MAX)
        return repl_fail(err, REPL_E_USAGE,
                         "group %s has %zu volumes; at most %d can be cut at once", name,
                         member_count, REPL_SOURCE_GROUP_MAX);
    struct repl_source_group *group = calloc(1, sizeof *group);
    if (group == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a group");
    group->members = calloc(member_count, sizeof *group->members);
    if (group->members == NULL) {
        free(group);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a group");
    }
    group->loop = loop;
    group->name = name;
    group->capacity = member_count;
    group->patience = (struct repl_timer){.fire = patience_over, .context = group};
    *out = group;
    return REPL_SUCCESS;
}

void repl_source_group_free(struct repl_source_group *group)
{
    if (group == NULL)
        return;
    patience_end(group);
    free(group->members);
    free(group);
}

const char *repl_source_group_name(const struct repl_source_group *group)
{
    return group->name;
}

void repl_source_group_join(struct repl_source_group *group, struct repl_source_volume *volume)
{
    ensure(group->count < group->capacity);
    group->members[group->count++] = (struct member){.volume = volume};
}
