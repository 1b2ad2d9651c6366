/*
 * A step of a block volume's replica, from where the state says it is to the
 * newest goal:
 *
 *     state {reached = A, applying} durable
 *     every segment behind A up to the goal applied, in order
 *     target synced
 *     state {reached = goal} durable
 *
 * A crash anywhere in it leaves {A, applying}, and applying the same segments
 * again gives the same bytes. A long step records how far it came after each
 * CHECKPOINT_SIZE bytes, still as "applying", and gives way to other replicas
 * after REPLICA_SLICE_NS. A full among the segments makes what lies before it
 * superfluous, so a step begins at the last one.
 *
 * The state is believed only as far as the journal knows the segment it names.
 * Where it does not (a state of another history, of another target, none at
 * all), where the target lost bytes, and after a failed sync, the replica is
 * built anew from the journal; that is said in the log.
 *
 * The state of a target outside the store lies in a file of its own, named after
 * the target's path: what is known of one is never believed of another. Nor what
 * is known of one file of another that has taken its place; a device that has
 * taken another's is refused.
 */
#include <stdlib.h>
#include <syslog.h>

#include "control/control.h"
#include "site/replica/replica_internal.h"

#define CHECKPOINT_SIZE (UINT64_C(1) << 30)

/* --- on a worker: where does it stand -------------------------------------------------------- */

static void say_rebuild(const struct repl_replica *r, const char *why)
{
    repl_log(LOG_WARNING,
             "volume %s: the replica %s is built anew from the journal, because %s; until then it "
             "is not to be used",
             r->volume, r->target.path, why);
}

/* Another target than the state is about? A file is simply built anew; a device may hold what
 * somebody else needs. */
static repl_result identity_check(struct repl_replica *r, const char **note, struct repl_error *err)
{
    uint64_t known = r->state.now.target, found = r->target.identity;
    if (known == 0 || found == 0 || known == found)
        return REPL_SUCCESS;
    if (r->target.block)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is not the device that held the replica of volume %s: connect that "
                         "one, or, for this one to be overwritten, remove %s",
                         r->target.path, r->volume, r->state.path);
    if (r->state.now.reached.to_seq != 0)
        *note = "another file lies in its place";
    return REPL_SUCCESS;
}

/* A device that no state calls ours may be a wrong path in a config. */
static repl_result foreign_check(const struct repl_replica *r, bool ours, struct repl_error *err)
{
    const char *name;
    if (!r->target.block || ours)
        return REPL_SUCCESS;
    REPL_TRY(replica_target_foreign(&r->target, &name, err));
    if (name == NULL)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_REFUSED,
                     "%s holds %s, and nothing says that it is the replica of volume %s: it is not "
                     "overwritten. Correct replica in [volume NAME], or, if nothing on it is "
                     "needed, run wipefs -a %s: the replica then begins by itself",
                     r->target.path, name, r->volume, r->target.path);
}

static repl_result replica_open(struct repl_replica *r, struct repl_error *err)
{
    const char *note = NULL;
    bool fresh;
    REPL_TRY(replica_state_open(&r->state, &note, err));
    repl_result result = replica_target_open(&r->target, r->state.now.size, &fresh, err);
    if (repl_ok(result))
        result = foreign_check(r, note == NULL, err);
    if (repl_ok(result))
        result = identity_check(r, &note, err);
    if (!repl_ok(result)) {
        replica_target_close(&r->target);
        replica_state_close(&r->state);
        return result;
    }
    r->opened = true;
    if (r->state.now.reached.to_seq != 0 && fresh)
        note = "it is shorter than it was";
    /* A fresh target without a state is simply a new replica. */
    bool rebuild = note != NULL && !(fresh && r->state.now.reached.to_seq == 0);
    if (rebuild)
        say_rebuild(r, note);
    r->rebuild = r->rebuild || rebuild;
    return REPL_SUCCESS;
}

/* From here on nothing is believed of the target: the state says so before its bytes go. */
static repl_result replica_reset(struct repl_replica *r, struct repl_error *err)
{
    struct repl_replica_state nothing = {
        .volume = r->state.uuid, .applying = true, .target = r->target.identity};
    REPL_TRY(replica_state_write(&r->state, &nothing, err));
    REPL_TRY(replica_target_reset(&r->target, err));
    r->rebuild = false;
    return REPL_SUCCESS;
}

void replica_image_close(struct repl_replica *r)
{
    replica_target_close(&r->target);
    replica_state_close(&r->state);
    r->opened = false;
}

static repl_result replica_prepare(struct repl_replica *r, struct repl_error *err)
{
    bool known = true;
    if (r->opened && !replica_target_is_there(&r->target))
        replica_image_close(r);
    if (!r->opened)
        REPL_TRY(replica_open(r, err));
    if (!r->rebuild && r->state.now.reached.to_seq != 0)
        REPL_TRY(replica_reached_check(r, &r->state.now.reached, &known, err));
    if (!known)
        say_rebuild(r, "what it holds is not part of the journal");
    if (!known || r->rebuild)
        return replica_reset(r, err);
    return REPL_SUCCESS;
}

/* --- on a worker: forward -------------------------------------------------------------------- */

static repl_result state_advance(struct repl_replica *r, const struct repl_head *reached,
                                 bool applying, struct repl_error *err)
{
    struct repl_replica_state next = {.volume = r->state.uuid,
                                      .reached = *reached,
                                      .applying = applying,
                                      .size = reached->to_seq != 0 ? r->target.size : 0,
                                      .target = r->target.identity};
    if (r->target.block)
        next.size = 0; /* a device's own: not what a shorter file would show */
    return replica_state_write(&r->state, &next, err);
}

static repl_result durable(struct repl_replica *r, const struct repl_head *reached, bool applying,
                           struct repl_error *err)
{
    repl_result result = replica_target_sync(&r->target, err);
    /* A device that went away holds what was synced before, and the rest is applied again. */
    if (!repl_ok(result) && replica_target_is_there(&r->target)) {
        r->rebuild = true;
        say_rebuild(r, err->text);
    }
    REPL_TRY(result);
    return state_advance(r, reached, applying, err);
}

static repl_result page_apply(struct repl_replica *r, struct replica_applier *applier,
                              const struct repl_segments_page *page, int64_t end_ns,
                              struct repl_head *at, uint64_t *unsynced, struct repl_error *err)
{
    for (uint32_t i = 0; i < page->count && (i == 0 || repl_now_mono_ns() < end_ns); i++) {
        const struct repl_segments_entry *entry = &page->entries[i];
        if (replica_is_before(&r->step_goal, &entry->head))
            return REPL_SUCCESS;
        REPL_TRY(replica_apply_segment(applier, entry, unsynced, err));
        *at = entry->head;
        if (*unsynced >= CHECKPOINT_SIZE) {
            REPL_TRY(durable(r, at, true, err));
            *unsynced = 0;
        }
    }
    return REPL_SUCCESS;
}

/* Up to the goal, or to the end of a slice. */
static repl_result segments_apply(struct repl_replica *r, struct replica_applier *applier,
                                  struct repl_head at, struct repl_error *err)
{
    uint64_t unsynced = 0;
    int64_t end_ns = repl_now_mono_ns() + REPLICA_SLICE_NS;
    while (replica_is_before(&at, &r->step_goal) && repl_now_mono_ns() < end_ns) {
        struct repl_segments_page page;
        struct repl_head before = at;
        REPL_TRY(repl_index_segments(r->index, r->volume, at.to_seq, at.part, &page, err));
        repl_result result = page_apply(r, applier, &page, end_ns, &at, &unsynced, err);
        repl_segments_page_fini(&page);
        REPL_TRY(result);
        if (!replica_is_before(&before, &at))
            return repl_fail(err, REPL_E_MISSING,
                             "the index ends before segment %llu.%u of volume %s: the site "
                             "completes it as soon as it can",
                             (unsigned long long)r->step_goal.to_seq, r->step_goal.part, r->volume);
    }
    /* The end of a seed's part is no point: the replica is still between two. */
    return durable(r, &at, !at.has_point, err);
}

repl_result replica_image_step(struct repl_replica *r, struct repl_error *err)
{
    struct replica_applier *applier;
    bool full;
    REPL_TRY(replica_prepare(r, err));
    struct repl_head at = r->state.now.reached;
    if (!replica_is_before(&at, &r->step_goal))
        return REPL_SUCCESS;
    REPL_TRY(replica_start_find(r, &at, &full, err));
    if (!r->state.now.applying || r->state.fd < 0)
        REPL_TRY(state_advance(r, &r->state.now.reached, true, err));
    REPL_TRY(replica_applier_new(r->store, r->index, r->volume, &r->target, &r->stop, &r->alive_ns,
                                 &applier, err));
    repl_result result = segments_apply(r, applier, at, err);
    replica_applier_free(applier);
    return result;
}

/* --- reading --------------------------------------------------------------------------------- */

/* The point that the state names, as the index has it. */
static repl_result point_find(const struct repl_replica *r, struct repl_points_entry *out,
                              struct repl_error *err)
{
    struct repl_points_page page;
    uint64_t seq = r->state.now.reached.to_seq;
    REPL_TRY(repl_index_points(r->index, r->volume, seq - 1, &page, err));
    bool found = page.count > 0 && page.entries[0].point.seq == seq;
    if (found)
        *out = page.entries[0];
    repl_points_page_fini(&page);
    if (!found)
        return repl_fail(err, REPL_E_RETRY, "the index of volume %s is being made anew", r->volume);
    return REPL_SUCCESS;
}

static repl_result readable_check(const struct repl_replica *r, struct repl_error *err)
{
    const struct repl_replica_state *now = &r->state.now;
    if (!r->opened || !replica_target_is_there(&r->target))
        return repl_fail(err, REPL_E_RETRY, "the replica %s of volume %s is not there just now",
                         r->target.path, r->volume);
    if (r->rebuild || now->applying || !now->reached.has_point)
        return repl_fail(err, REPL_E_RETRY,
                         "the replica of volume %s is being built or brought forward, and stands "
                         "at no point just now: try again later",
                         r->volume);
    return REPL_SUCCESS;
}

repl_result replica_image_digests(const struct repl_replica *r,
                                  const struct repl_replica_read *read, struct repl_digests *out,
                                  struct repl_error *err)
{
    REPL_TRY(readable_check(r, err));
    REPL_TRY(point_find(r, &out->at, err));
    uint64_t size = out->at.volume_size, pages = repl_page_count_of(size);
    uint64_t left = read->first_page < pages ? pages - read->first_page : 0;
    out->first_page = read->first_page;
    out->count = read->page_count < left ? read->page_count : (uint32_t)left;
    if (out->count == 0)
        return REPL_SUCCESS;
    out->pages = calloc(out->count, sizeof out->pages[0]);
    if (out->pages == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for digests of volume %s", r->volume);
    uint64_t offset = out->first_page * REPL_PAGE_SIZE;
    uint64_t end = offset + (uint64_t)out->count * REPL_PAGE_SIZE;
    return replica_target_digest(&r->target, offset, (end < size ? end : size) - offset, out->pages,
                                 err);
}
