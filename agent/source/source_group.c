#include "source/source_group.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/ensure.h"
#include "control/control.h"
#include "source/source_volume_internal.h"

enum place { AWAY, AT_QUIESCE, AT_OPEN, AT_CLOSE, AT_COMMIT };

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
    struct repl_source_hold *hold;
    bool looking_through;     /* all are at the open, and trees are busy with it */
    bool comparing;           /* all are at the close, the counters are read, and trees are busy */
    int64_t begin_ns, end_ns; /* of the round under way */
    struct repl_write_counters counters[REPL_SOURCE_GROUP_MAX]; /* at its end */
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
    if (v->tree != NULL ? !repl_tree_is_watched(v->tree) : v->tracker == NULL)
        return "is not tracked";
    if (v->pipeline.comparing)
        return "is being compared";
    if (v->pipeline.ship.point_seq == 0)
        return "has no point at the site yet";
    if (v->tree != NULL && repl_pipeline_is_full(&v->pipeline))
        return "is sent anew";
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

/* Each at the open, or about to be quiesced. */
static bool all_between_rounds(const struct repl_source_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        if (group->members[i].place != AT_OPEN && group->members[i].place != AT_QUIESCE)
            return false;
    }
    return true;
}

static bool is_busy(const struct member *member)
{
    return member->volume->tree != NULL && volume_tree_is_busy(member->volume);
}

static bool any_busy(const struct repl_source_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        if (is_busy(&group->members[i]))
            return true;
    }
    return false;
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
    enum place place = member->place;
    member->place = AWAY;
    member->in_round = false;
    if (place == AT_QUIESCE)
        volume_quiesce(member->volume);
    else
        volume_round_open(member->volume);
}

static void each_alone(struct repl_source_group *group)
{
    patience_end(group);
    group->looking_through = false;
    for (size_t i = 0; i < group->count; i++) {
        struct member *member = &group->members[i];
        bool waits = member->place == AT_OPEN || member->place == AT_QUIESCE;
        if (!waits || !volume_is_up(member->volume))
            continue;
        alone(member);
        volume_pump(member->volume);
    }
}

static void quiesce_all(struct repl_source_group *group)
{
    struct repl_source_volume *volumes[REPL_SOURCE_GROUP_MAX];
    patience_end(group);
    for (size_t i = 0; i < group->count; i++) {
        group->members[i].place = AWAY;
        volumes[i] = group->members[i].volume;
    }
    repl_source_hold_begin(group->hold, volumes, group->count);
}

/* Those that would be quiesced open a round with the others. */
static void quiesce_later(struct repl_source_group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        struct member *member = &group->members[i];
        if (member->place != AT_QUIESCE)
            continue;
        member->place = AWAY;
        repl_pipeline_quiesce_later(&member->volume->pipeline);
        volume_pump(member->volume);
    }
}

static void look_through_all(struct repl_source_group *group)
{
    group->looking_through = true;
    group->begin_ns = repl_now_wall_ns();
    for (size_t i = 0; i < group->count; i++) {
        if (group->members[i].volume->tree != NULL)
            volume_tree_look(group->members[i].volume);
    }
    group->look_again = true;
}

/* All counters, then the marks of all. */
static void open_all(struct repl_source_group *group)
{
    struct repl_write_counters counters[REPL_SOURCE_GROUP_MAX];
    struct repl_error err;
    bool unchanged = true;
    patience_end(group);
    group->looking_through = false;
    for (size_t i = 0; i < group->count; i++) {
        if (!repl_ok(volume_counters_begin(group->members[i].volume, &counters[i], &err))) {
            volume_fail(group->members[i].volume, &err);
            each_alone(group);
            return;
        }
    }
    for (size_t i = 0; i < group->count; i++) {
        struct repl_source_volume *v = group->members[i].volume;
        volume_marks_take(v);
        unchanged = unchanged && repl_pipeline_is_unchanged(&v->pipeline, &counters[i]);
    }
    group->spoilt = group->comparing = false;
    for (size_t i = 0; i < group->count; i++) {
        struct member *member = &group->members[i];
        member->place = AWAY;
        member->in_round = !unchanged;
        repl_pipeline_opened(&member->volume->pipeline, group->begin_ns, &counters[i], !unchanged);
    }
    for (size_t i = 0; i < group->count; i++)
        volume_pump(group->members[i].volume);
}

/* All is read: first the counters, then what was heard of the trees, if it still matters. */
static void compare_all(struct repl_source_group *group)
{
    struct repl_error err;
    bool whole = true;
    patience_end(group);
    group->comparing = group->look_again = true;
    for (size_t i = 0; i < group->count; i++) {
        struct repl_source_volume *v = group->members[i].volume;
        if (!repl_ok(volume_counters_end(v, &group->counters[i], &err))) {
            volume_fail(v, &err);
            group->spoilt = true;
            return;
        }
        whole = whole && repl_pipeline_is_whole(&v->pipeline, &group->counters[i]);
    }
    group->end_ns = repl_now_wall_ns();
    for (size_t i = 0; whole && i < group->count; i++) {
        if (group->members[i].volume->tree != NULL)
            volume_tree_compare(group->members[i].volume);
    }
}

static void close_all(struct repl_source_group *group)
{
    struct repl_epoch_group together = {.whole = true, .small = true};
    struct repl_error err;
    group->comparing = false;
    for (size_t i = 0; i < group->count; i++) {
        struct repl_source_volume *v = group->members[i].volume;
        struct repl_write_counters *counters = &group->counters[i];
        if (v->tree != NULL) /* by now it is known */
            repl_ignore(volume_counters_end(v, counters, &err));
        together.whole = together.whole && repl_pipeline_is_whole(&v->pipeline, counters);
        together.small = together.small && v->pipeline.small;
        together.give_up =
            together.give_up || repl_epoch_gives_up(&v->pipeline.epoch, group->end_ns);
    }
    for (size_t i = 0; i < group->count; i++) {
        struct member *member = &group->members[i];
        member->place = AWAY;
        member->in_round = together.whole;
        repl_pipeline_closed(&member->volume->pipeline, group->end_ns, &group->counters[i],
                             &together);
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
    group->comparing = false;
    for (size_t i = 0; i < group->count; i++) {
        struct member *member = &group->members[i];
        bool proving = member->volume->pipeline.round.phase == REPL_ROUND_PROVING;
        bool waits = member->place != AWAY && !is_busy(member);
        if (member->in_round && (waits || proving || is_lost(member)))
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
    else if (!group->comparing && all_at(group, AT_CLOSE))
        compare_all(group);
    else if (group->comparing && !any_busy(group))
        close_all(group);
    else if (all_at(group, AT_COMMIT))
        commit_all(group);
}

static void between_rounds_follow(struct repl_source_group *group)
{
    if (!all_able(group))
        each_alone(group);
    else if (all_at(group, AT_OPEN) && !group->looking_through)
        look_through_all(group);
    else if (all_at(group, AT_OPEN) && !any_busy(group))
        open_all(group);
    else if (all_at(group, AT_QUIESCE))
        quiesce_all(group);
    else if (all_between_rounds(group) && !group->looking_through)
        quiesce_later(group);
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
        else
            between_rounds_follow(group);
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

/* Whoever is held by itself goes on by itself: its writers wait for nobody else. */
static bool is_held_alone(const struct repl_source_volume *volume)
{
    return volume->pipeline.hold == REPL_HOLD_ON && volume->held_by == NULL;
}

/* To where the next round is about to begin. */
static void come(struct repl_source_group *group, struct repl_source_volume *volume,
                 enum place place)
{
    struct member *member = member_of(group, volume);
    member->left_out = false;
    member->place = place;
    if (member->in_round) { /* it was torn: so were the others' */
        group->spoilt = true;
        member->in_round = false;
    }
    if (!all_able(group) || is_held_alone(volume)) {
        alone(member);
        return;
    }
    patience_begin(group, volume);
    for (size_t i = 0; i < group->count; i++) {
        struct repl_source_volume *other = group->members[i].volume;
        if (group->members[i].place == AWAY && !group->members[i].in_round && other != volume) {
            repl_pipeline_hurry(&other->pipeline, repl_now_wall_ns());
            volume_wake(other);
        }
    }
}

void repl_source_group_quiesce(struct repl_source_group *group, struct repl_source_volume *volume)
{
    come(group, volume, AT_QUIESCE);
}

void repl_source_group_open(struct repl_source_group *group, struct repl_source_volume *volume)
{
    come(group, volume, AT_OPEN);
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
        group->members[i].left_out = group->members[i].place == AWAY || is_busy(&group->members[i]);
    repl_source_group_look(group);
    if (!any_in_round(group))
        each_alone(group);
}

/* --- a life ---------------------------------------------------------------------------------- */

repl_result repl_source_group_new(struct repl_loop *loop, const char *name, const char *guard,
                                  size_t member_count, struct repl_source_group **out,
                                  struct repl_error *err)
{
    if (member_count > REPL_SOURCE_GROUP_MAX)
        return repl_fail(err, REPL_E_USAGE,
                         "group %s has %zu volumes; at most %d can be cut at once", name,
                         member_count, REPL_SOURCE_GROUP_MAX);
    struct repl_source_group *group = calloc(1, sizeof *group);
    if (group == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a group");
    group->members = calloc(member_count, sizeof *group->members);
    repl_result result = group->members == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for a group")
                             : repl_source_hold_new(loop, guard, name, &group->hold, err);
    if (!repl_ok(result)) {
        free(group->members);
        free(group);
        return result;
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
    repl_source_hold_free(group->hold);
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
