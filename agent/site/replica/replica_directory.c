/*
 * A step of a directory tree's replica. What it holds, and how far a step came
 * that was interrupted, its map knows (tree_map.h): the state says the same for
 * whoever asks, after the fact.
 */
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "base/hash.h"
#include "control/control.h"
#include "site/replica/replica_internal.h"

/* Segments that are open at once; points are brought together up to so many. */
#define SEGMENTS_MAX 256u

static repl_result state_put(struct repl_replica *r, const struct repl_head *reached, bool applying,
                             struct repl_error *err)
{
    const struct repl_replica_state next = {
        .volume = r->state.uuid, .reached = *reached, .applying = applying};
    if (r->state.fd >= 0 && r->state.now.applying == applying &&
        repl_digest_equal(&r->state.now.reached.digest, &reached->digest))
        return REPL_SUCCESS;
    return replica_state_write(&r->state, &next, err);
}

static repl_result directory_open(struct repl_replica *r, struct repl_error *err)
{
    struct replica_tree *t = &r->directory;
    const char *note = NULL;
    if (r->opened && replica_tree_is_there(t) && !replica_map_is_given_up(&t->map))
        return REPL_SUCCESS;
    if (r->opened) {
        replica_tree_close(t);
        replica_state_close(&r->state);
        r->opened = false;
    }
    REPL_TRY(replica_tree_open(t, err));
    repl_result result = replica_state_open(&r->state, &note, err);
    if (!repl_ok(result)) {
        replica_tree_close(t);
        return result;
    }
    r->opened = true;
    return REPL_SUCCESS;
}

/* Is what the map says worth anything? */
static repl_result map_check(struct repl_replica *r, bool *known, struct repl_error *err)
{
    const struct replica_map *map = &r->directory.map;
    *known = map->phase != REPLICA_EMPTY;
    return *known ? replica_reached_check(r, &map->reached, known, err) : REPL_SUCCESS;
}

static repl_result compare(struct repl_replica *r, const char *why, struct repl_error *err)
{
    static const struct repl_head nothing;
    struct replica_tree *t = &r->directory;
    if (why != NULL)
        repl_log(LOG_WARNING,
                 "volume %s: the replica %s is compared with the point that it shall be, because "
                 "%s; until then it is not to be used",
                 r->volume, t->path, why);
    REPL_TRY(state_put(r, &nothing, true, err));
    REPL_TRY(replica_tree_compare(t, &r->step_goal, err));
    replica_tree_succeeded(t);
    return state_put(r, &t->map.reached, false, err);
}

/* The last point up to the goal of which not too many segments are to be opened; at least one. */
static repl_result goal_find(struct repl_replica *r, struct repl_head *goal, struct repl_error *err)
{
    struct repl_head at = r->directory.map.reached;
    uint32_t count = 0;
    bool more = true, any = false;
    *goal = r->step_goal;
    for (bool found = false; more && (count < SEGMENTS_MAX || !found);) {
        struct repl_segments_page page;
        REPL_TRY(repl_index_segments(r->index, r->volume, at.to_seq, at.part, &page, err));
        more = page.more && page.count > 0;
        for (uint32_t i = 0; i < page.count && (count < SEGMENTS_MAX || !found); i++, count++) {
            at = page.entries[i].head;
            if (replica_is_before(&r->step_goal, &at)) {
                more = false;
                break;
            }
            /* A base has the point of its last segment; those before it are as of earlier ones. */
            found |= any && at.from_seq != 0;
            if (at.has_point) {
                found |= at.from_seq != 0;
                any = true;
                *goal = at;
            }
        }
        repl_segments_page_fini(&page);
    }
    return REPL_SUCCESS;
}

/* What was begun is ended first, whatever the goal is by now. */
static repl_result forward(struct repl_replica *r, bool *done, struct repl_error *err)
{
    struct replica_tree *t = &r->directory;
    struct repl_head goal = t->map.goal, from = t->map.reached;
    *done = false;
    if (t->map.phase == REPLICA_AT) {
        bool full;
        *done = !replica_is_before(&t->map.reached, &r->step_goal);
        if (*done) {
            replica_tree_succeeded(t);
            return state_put(r, &t->map.reached, false, err);
        }
        REPL_TRY(replica_start_find(r, &from, &full, err));
        if (full)
            return compare(r, NULL, err);
        REPL_TRY(goal_find(r, &goal, err));
    }
    REPL_TRY(state_put(r, &t->map.reached, true, err));
    repl_result result = replica_tree_advance(t, &goal, err);
    if (repl_ok(result)) {
        replica_tree_succeeded(t);
        return state_put(r, &t->map.reached, false, err);
    }
    if (!t->contradicts)
        return result;
    char why[REPL_ERROR_TEXT_SIZE];
    snprintf(why, sizeof why, "%s", err->text);
    return compare(r, why, err);
}

repl_result replica_directory_step(struct repl_replica *r, struct repl_error *err)
{
    bool known;
    int64_t end_ns = repl_now_mono_ns() + REPLICA_SLICE_NS;
    REPL_TRY(directory_open(r, err));
    REPL_TRY(map_check(r, &known, err));
    if (!r->step_goal.has_point)
        return REPL_SUCCESS;
    if (!known) {
        bool begun = r->directory.map.phase != REPLICA_EMPTY;
        return compare(r, begun ? "what it holds is not part of the journal" : NULL, err);
    }
    for (bool done = false; !done && repl_now_mono_ns() < end_ns;)
        REPL_TRY(forward(r, &done, err));
    return REPL_SUCCESS;
}
