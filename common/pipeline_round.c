/*
 * A point, from the clock to its segment:
 *
 *   SYNC, [QUIESCE], OPEN, read, CLOSE, [RESUME], AUDIT ..., COMMIT
 *
 * A round that was torn goes back to OPEN, or by way of QUIESCE; one whose proof
 * fails too. What a round has read stays in the segment being built, whatever
 * becomes of the round.
 */
#include "pipeline_internal.h"

#include <stdio.h>

#include "base/ensure.h"

/* Audits without a verdict until the round counts as torn. */
#define BUSY_MAX 3

static bool is_audited(const struct repl_pipeline *p)
{
    return p->audited;
}

static bool is_tree(const struct repl_pipeline *p)
{
    return p->options.records != NULL;
}

static bool is_based(const struct repl_pipeline *p)
{
    return p->audit.base.completed_known != 0;
}

/* --- the audit is begun, and what is settled -------------------------------------------------- */

static void audit_begin(struct repl_pipeline *p)
{
    repl_audit_begin(&p->audit);
    p->audit_due = true;
    p->audit_delay_ns = 0;
}

static void settle(struct repl_pipeline *p, enum repl_settle how)
{
    p->settle_due = true;
    if (p->settle < how)
        p->settle = how;
}

void repl_pipeline_settle_all(struct repl_pipeline *p)
{
    if (is_audited(p))
        settle(p, REPL_SETTLE_ALL);
}

void repl_pipeline_all_dirty(struct repl_pipeline *p)
{
    repl_round_set_all(&p->round);
    repl_pipeline_settle_all(p);
}

void repl_pipeline_note(struct repl_pipeline *p)
{
    if (is_audited(p))
        settle(p, REPL_SETTLE_NONE);
}

struct repl_track_record repl_pipeline_record(const struct repl_pipeline *p)
{
    return (struct repl_track_record){.base = p->audit.base, .head = p->ship.head.digest};
}

/* The point that ends it has to say so, whatever befalls us until the site has it. */
static void resync_note(struct repl_pipeline *p)
{
    p->epoch.resync = true;
    p->state.resync_seq = p->epoch.next_seq;
    p->state_due = true;
}

void repl_pipeline_resync(struct repl_pipeline *p, int64_t now_ns)
{
    resync_note(p);
    repl_epoch_distrust(&p->epoch, true, now_ns);
}

void repl_pipeline_watch(struct repl_pipeline *p)
{
    p->epoch.tracked = true;
}

void repl_pipeline_unsure(struct repl_pipeline *p, const char *cause, int64_t now_ns)
{
    if (p->epoch.next_seq <= 1 || p->comparing)
        return;
    p->comparing = true;
    p->degradations++;
    snprintf(p->degraded_cause, sizeof p->degraded_cause, "%s", cause);
    repl_pipeline_resync(p, now_ns);
}

void repl_pipeline_resync_end(struct repl_pipeline *p)
{
    bool under_way = p->epoch.resync;
    for (const struct repl_pipeline_segment *s = p->segments.oldest; s != NULL; s = s->next)
        under_way |= s->resync;
    if (p->state.resync_seq == 0 || under_way)
        return;
    p->state.resync_seq = 0;
    p->state_due = true;
}

bool repl_pipeline_track(struct repl_pipeline *p, const struct repl_track_record *record,
                         const char *cause)
{
    static const struct repl_head none;
    bool based = record != NULL && record->base.completed_known != 0;
    bool older = based && repl_pipeline_place_of(&p->state, &record->head) < 0;
    p->epoch.tracked = p->audited = true;
    repl_audit_init(&p->audit, &p->options.audit, based && !older ? &record->base : NULL);
    if (based && !older) {
        p->settled_head = record->head;
        /* the table has been forgotten: a chain that began anew may not have been settled */
        if (repl_digest_equal(&p->state.checkpoint.digest, &none.digest))
            repl_pipeline_all_dirty(p);
        p->comparing = p->epoch.resync;
        snprintf(p->degraded_cause, sizeof p->degraded_cause,
                 "the comparison that was under way when the agent ended goes on");
        return true;
    }
    p->comparing = true;
    if (p->state.next_seq > 1)
        resync_note(p);
    snprintf(p->degraded_cause, sizeof p->degraded_cause, "%s",
             older
                 ? "what is kept of the volume here is older than the tracking of its writes; was "
                   "it put back?"
                 : cause);
    audit_begin(p);
    return false;
}

/* --- the phases ------------------------------------------------------------------------------ */

static void resume(struct repl_pipeline *p)
{
    if (p->hold == REPL_HOLD_ON) {
        p->hold = REPL_HOLD_ENDING;
        p->resume_due = true;
    }
}

static void open_begin(struct repl_pipeline *p)
{
    p->round.phase = REPL_ROUND_OPENING;
    p->open_due = true;
}

static void round_none(struct repl_pipeline *p)
{
    p->round.phase = REPL_ROUND_NONE;
    p->open_due = p->close_due = p->commit_due = p->quiesce_due = false;
    resume(p);
}

static void quiesce_begin(struct repl_pipeline *p)
{
    p->round.phase = REPL_ROUND_QUIESCING;
    p->quiesce_due = true;
}

/* No batch is out any more. */
static void drained(struct repl_pipeline *p, int64_t now_ns)
{
    if (p->round.batches_out > 0)
        return;
    switch (p->stopping ? REPL_AFTER_REST : p->after) {
    case REPL_AFTER_OPEN:
        open_begin(p);
        break;
    case REPL_AFTER_QUIESCE:
        quiesce_begin(p);
        break;
    case REPL_AFTER_FAILURE:
        round_none(p);
        repl_epoch_round_failed(&p->epoch, now_ns);
        break;
    case REPL_AFTER_REST:
        round_none(p);
        break;
    }
}

static void drain(struct repl_pipeline *p, enum repl_after after, int64_t now_ns)
{
    p->round.phase = REPL_ROUND_DRAINING;
    p->after = after;
    p->open_due = p->close_due = p->commit_due = p->quiesce_due = false;
    if (after == REPL_AFTER_REST || after == REPL_AFTER_FAILURE)
        resume(p); /* frozen no longer than it is of use */
    drained(p, now_ns);
}

static void follow(struct repl_pipeline *p, enum repl_epoch_verdict verdict, int64_t now_ns)
{
    switch (verdict) {
    case REPL_EPOCH_WHOLE:
        break;
    case REPL_EPOCH_AGAIN:
        p->torn_rounds += p->round.parked;
        if (p->round.parked)
            open_begin(p); /* what is parked is kept */
        else
            drain(p, REPL_AFTER_OPEN, now_ns);
        break;
    case REPL_EPOCH_QUIESCE: /* what has been read goes ahead */
        drain(p, REPL_AFTER_QUIESCE, now_ns);
        break;
    case REPL_EPOCH_VAIN:
        p->round.torn = true;
        p->torn_rounds++;
        drain(p, REPL_AFTER_REST, now_ns);
        break;
    }
}

/* --- pages ----------------------------------------------------------------------------------- */

static void reading_over(struct repl_pipeline *p)
{
    if (p->round.phase != REPL_ROUND_READING || p->round.is_void || !repl_round_is_read(&p->round))
        return;
    p->round.phase = REPL_ROUND_CLOSING;
    p->close_due = true;
}

/* Of what writers wait for no part waits for the link. */
static bool is_awaited(const struct repl_pipeline *p)
{
    return p->hold == REPL_HOLD_ON && !repl_quiesce_has_snapshots(p->epoch.quiesce);
}

bool repl_pipeline_fill(struct repl_pipeline *p, struct repl_batch *batch)
{
    if (p->round.phase != REPL_ROUND_READING || p->round.is_void || p->stopping ||
        (!p->round.parked && !is_awaited(p) && repl_pipeline_spool_is_full(p)))
        return false;
    if (!repl_round_fill(&p->round, &p->table, batch))
        return false;
    batch->volume_size = p->options.volume_size;
    batch->chunk_known = p->options.chunk_known;
    batch->chunk_context = p->options.chunk_context;
    return true;
}

enum repl_batch_fate repl_pipeline_batch_fate(const struct repl_pipeline *p,
                                              const struct repl_batch *batch)
{
    return repl_round_batch_fate(&p->round, batch);
}

void repl_pipeline_batch_read(struct repl_pipeline *p, struct repl_batch *batch)
{
    repl_round_batch_read(&p->round, batch);
    reading_over(p);
}

static void prove_if_done(struct repl_pipeline *p, int64_t now_ns);

/* A round that is void ends as soon as nothing of it is out. */
static void void_if_over(struct repl_pipeline *p, int64_t now_ns)
{
    if (!p->round.is_void || p->round.batches_out > 0)
        return;
    if (p->round.phase == REPL_ROUND_READING || p->round.phase == REPL_ROUND_PROVING ||
        p->round.phase == REPL_ROUND_TELLING || p->round.phase == REPL_ROUND_CUTTING)
        drain(p, REPL_AFTER_FAILURE, now_ns);
}

/* Between two rounds: what is parked is of no use to the next one. */
static void unpark(struct repl_pipeline *p, int64_t now_ns)
{
    if (p->round.phase == REPL_ROUND_OPENING && p->round.batches_out > 0)
        drain(p, REPL_AFTER_OPEN, now_ns);
}

static void round_fail(struct repl_pipeline *p, const struct repl_error *err)
{
    p->round.is_void = true;
    p->error = *err;
    p->disk_full = p->disk_full || err->code == REPL_E_NOSPACE;
}

void repl_pipeline_batch_done(struct repl_pipeline *p, struct repl_batch *batch, repl_result result,
                              const struct repl_error *err, int64_t now_ns)
{
    struct repl_error mine = {0};
    bool taken = false;
    if (!repl_ok(result)) {
        round_fail(p, err);
    } else if (repl_round_batch_fate(&p->round, batch) != REPL_BATCH_DISCARD) {
        taken = repl_ok(repl_pipeline_take(p, batch, now_ns, &mine));
        if (!taken) {
            round_fail(p, &mine);
            repl_pipeline_abandon(p);
        }
    }
    repl_round_batch_back(&p->round, batch, taken);
    void_if_over(p, now_ns);
    if (p->round.phase == REPL_ROUND_DRAINING)
        drained(p, now_ns);
    prove_if_done(p, now_ns);
}

void repl_pipeline_round_void(struct repl_pipeline *p, int64_t now_ns)
{
    p->round.is_void = true;
    p->checkpoint_void = true;
    if (is_audited(p) || is_tree(p))
        repl_epoch_distrust(&p->epoch, false, now_ns);
    else
        repl_pipeline_resync(p, now_ns);
    void_if_over(p, now_ns);
    unpark(p, now_ns);
}

void repl_pipeline_stop(struct repl_pipeline *p, int64_t now_ns)
{
    p->stopping = true;
    p->round.is_void = true;
    void_if_over(p, now_ns);
    if (p->round.phase == REPL_ROUND_OPENING || p->quiesce_due)
        round_none(p);
    resume(p);
}

/* --- open and close -------------------------------------------------------------------------- */

void repl_pipeline_synced(struct repl_pipeline *p)
{
    repl_epoch_synced(&p->epoch);
    if (p->round.phase == REPL_ROUND_DRAINING)
        p->after = REPL_AFTER_OPEN; /* batches of the round before are still out */
    else
        open_begin(p);
}

bool repl_pipeline_quiesce_first(struct repl_pipeline *p)
{
    if (p->round.phase != REPL_ROUND_OPENING || !repl_epoch_quiesce_first(&p->epoch))
        return false;
    quiesce_begin(p);
    return true;
}

bool repl_pipeline_is_unchanged(const struct repl_pipeline *p,
                                const struct repl_write_counters *counters)
{
    uint64_t pages = p->round.dirty.set_count + repl_round_parked_pages(&p->round);
    bool tree_changed = is_tree(p) && (pages > 0 || repl_pipeline_has_records(p));
    return !tree_changed && repl_epoch_is_unchanged(&p->epoch, counters, pages);
}

void repl_pipeline_opened(struct repl_pipeline *p, int64_t now_ns,
                          const struct repl_write_counters *counters, bool grouped)
{
    if (p->round.phase != REPL_ROUND_OPENING)
        return; /* the volume is being stopped */
    p->grouped = grouped;
    if (!grouped && repl_pipeline_is_unchanged(p, counters)) {
        p->unchanged_until_ns = now_ns;
        p->error.code = REPL_OK;
        repl_epoch_unchanged(&p->epoch, now_ns);
        round_none(p);
        return;
    }
    if (is_tree(p) && repl_pipeline_is_full(p) && (!p->full_marked || repl_pipeline_is_torn(p)))
        repl_pipeline_full_mark(p);
    else if (!is_tree(p) && !is_audited(p)) /* of a tree, what has changed is known */
        repl_round_set_all(&p->round);
    uint64_t pages = p->round.dirty.set_count + repl_round_parked_pages(&p->round);
    repl_epoch_opened(&p->epoch, now_ns, counters, p->round.dirty.set_count);
    p->small = p->epoch.tracked && pages <= p->options.parked_pages;
    repl_round_begin(&p->round, p->small && !is_tree(p));
    reading_over(p);
}

/* What was to hold the volume still does, as far as is known. */
static bool is_held(const struct repl_pipeline *p)
{
    return !p->epoch.quiesced || p->hold == REPL_HOLD_ON;
}

bool repl_pipeline_is_whole(const struct repl_pipeline *p,
                            const struct repl_write_counters *counters)
{
    return !p->round.is_void && is_held(p) && repl_epoch_is_whole(&p->epoch, counters);
}

void repl_pipeline_closed(struct repl_pipeline *p, int64_t now_ns,
                          const struct repl_write_counters *counters,
                          const struct repl_epoch_group *group)
{
    ensure(p->round.phase == REPL_ROUND_CLOSING);
    if (p->round.is_void) {
        drain(p, REPL_AFTER_FAILURE, now_ns);
        return;
    }
    enum repl_epoch_verdict verdict =
        is_held(p) ? repl_epoch_closed(&p->epoch, now_ns, counters, p->small, group)
                   : repl_epoch_spoilt(&p->epoch, now_ns);
    if (verdict != REPL_EPOCH_WHOLE) {
        follow(p, verdict, now_ns);
        return;
    }
    p->round.phase = REPL_ROUND_PROVING;
    p->proven = !is_audited(p);
    p->held_throughout = true;
    p->busy_audits = 0;
    resume(p);
    if (is_audited(p))
        audit_begin(p);
    prove_if_done(p, now_ns);
}

/* --- quiescing ------------------------------------------------------------------------------- */

void repl_pipeline_quiesced(struct repl_pipeline *p, repl_result result,
                            const struct repl_error *err, int64_t now_ns)
{
    ensure(p->hold == REPL_HOLD_ASKED);
    bool on = repl_ok(result);
    p->hold = on ? REPL_HOLD_ON : REPL_HOLD_NONE;
    p->quiesce_cause[0] = '\0';
    p->quiesce_due = false; /* of a round that came after the one that asked */
    if (p->round.phase != REPL_ROUND_QUIESCING) {
        resume(p);
    } else if (p->stopping) {
        round_none(p);
    } else if (on) {
        open_begin(p);
    } else {
        snprintf(p->quiesce_cause, sizeof p->quiesce_cause, "%.*s", (int)REPL_WIRE_TEXT_MAX,
                 err->text);
        follow(p, repl_epoch_not_quiesced(&p->epoch, now_ns), now_ns);
    }
}

void repl_pipeline_quiesce_later(struct repl_pipeline *p)
{
    ensure(p->hold == REPL_HOLD_ASKED);
    p->hold = REPL_HOLD_NONE;
    p->quiesce_due = false;
    if (p->round.phase != REPL_ROUND_QUIESCING)
        return;
    repl_epoch_quiesce_later(&p->epoch);
    if (p->stopping)
        round_none(p);
    else
        open_begin(p);
}

void repl_pipeline_resumed(struct repl_pipeline *p, bool intact, int64_t now_ns)
{
    p->hold = REPL_HOLD_NONE;
    p->resume_due = false;
    p->held_throughout = p->held_throughout && intact;
    prove_if_done(p, now_ns);
}

/* --- the proof ------------------------------------------------------------------------------- */

static void prove_if_done(struct repl_pipeline *p, int64_t now_ns)
{
    if (p->round.phase != REPL_ROUND_PROVING || p->round.batches_out > 0 || !p->proven ||
        p->hold != REPL_HOLD_NONE || p->round.is_void)
        return;
    if (p->epoch.quiesced && !p->held_throughout) {
        follow(p, repl_epoch_spoilt(&p->epoch, now_ns), now_ns);
        return;
    }
    p->round.phase = is_tree(p) ? REPL_ROUND_TELLING : REPL_ROUND_CUTTING;
    p->commit_due = p->round.phase == REPL_ROUND_CUTTING;
}

static void cut_fail(struct repl_pipeline *p, const struct repl_error *err)
{
    p->error = *err;
    p->disk_full = p->disk_full || err->code == REPL_E_NOSPACE;
    repl_pipeline_abandon(p);
}

/* One part of records that do not fit into the point's own segment. */
static void tell(struct repl_pipeline *p, int64_t now_ns)
{
    const struct repl_pipeline_records *records = p->options.records;
    struct repl_error err = {0};
    if (!records->are_many(records->context, repl_pipeline_is_full(p))) {
        p->round.phase = REPL_ROUND_CUTTING;
        p->commit_due = true;
        return;
    }
    repl_result result = p->builder == NULL ? repl_pipeline_begin(p, now_ns, &err) : REPL_SUCCESS;
    if (repl_ok(result))
        result = repl_pipeline_finish(p, NULL, true, &err);
    if (!repl_ok(result)) {
        cut_fail(p, &err);
        drain(p, REPL_AFTER_FAILURE, now_ns);
    }
}

/* Changes may have been missed: from the new baseline on, everything is read. */
static void distrust(struct repl_pipeline *p, int64_t now_ns)
{
    p->comparing = true;
    p->degradations++;
    snprintf(p->degraded_cause, sizeof p->degraded_cause, "%s", p->audit.cause);
    settle(p, REPL_SETTLE_NONE);
    repl_pipeline_resync(p, now_ns);
    p->round.is_void = true;
    if (p->round.phase == REPL_ROUND_PROVING)
        drain(p, REPL_AFTER_FAILURE, now_ns);
    audit_begin(p);
}

/* What the tracker overlooked is among what was submitted lately. */
static void repair(struct repl_pipeline *p, int64_t now_ns)
{
    p->repair_due = true;
    settle(p, REPL_SETTLE_NONE);
    drain(p, REPL_AFTER_OPEN, now_ns);
}

static void audit_busy(struct repl_pipeline *p, int64_t now_ns)
{
    if (p->round.phase == REPL_ROUND_PROVING && ++p->busy_audits >= BUSY_MAX)
        follow(p, repl_epoch_spoilt(&p->epoch, now_ns), now_ns);
    else if (p->round.phase == REPL_ROUND_PROVING || !is_based(p))
        audit_begin(p);
}

void repl_pipeline_audited(struct repl_pipeline *p, const struct repl_audit_sample *sample,
                           int64_t now_ns)
{
    if (is_based(p) && p->round.phase != REPL_ROUND_PROVING)
        return; /* of a round that came to nothing */
    switch (repl_audit_feed(&p->audit, sample)) {
    case REPL_AUDIT_MORE:
        p->audit_due = true;
        p->audit_delay_ns = p->audit.limits.spacing_ns;
        break;
    case REPL_AUDIT_BASED:
        repl_pipeline_all_dirty(p);
        repl_epoch_hurry(&p->epoch, now_ns);
        break;
    case REPL_AUDIT_PASSED:
        p->proven = true;
        prove_if_done(p, now_ns);
        break;
    case REPL_AUDIT_REPAIR:
        repair(p, now_ns);
        break;
    case REPL_AUDIT_BUSY:
        audit_busy(p, now_ns);
        break;
    case REPL_AUDIT_DEGRADED:
        distrust(p, now_ns);
        break;
    }
}

/* With nothing on its way, an agent that ends now leaves nothing to be read again. */
void repl_pipeline_rest(struct repl_pipeline *p)
{
    if (is_audited(p) && p->segments.oldest == NULL && p->round.batches_out == 0)
        settle(p, REPL_SETTLE_REST);
}

/* --- the point ------------------------------------------------------------------------------- */

static void point_reached(struct repl_pipeline *p, const struct repl_point *point)
{
    p->unchanged_until_ns = point->begin_ns;
    p->error.code = REPL_OK;
    p->comparing = false;
    if (is_audited(p))
        settle(p, REPL_SETTLE_REST);
}

/* The round is whole and proven: a point, unless the last one says it all. That everything is of
 * one moment, one that was cut per file did not say. */
static void point_cut(struct repl_pipeline *p, int64_t now_ns)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    struct repl_error err = {0};
    struct repl_point point;
    repl_epoch_point(&p->epoch, p->point_changed_bytes, &point);
    bool says_more = p->point.consistency == REPL_CONSISTENCY_PER_FILE && !p->epoch.per_file;
    if (p->builder == NULL && tail.has_point && !p->grouped && !says_more &&
        !repl_pipeline_has_records(p)) {
        repl_epoch_cut_empty(&p->epoch, now_ns);
        repl_pipeline_resync_end(p);
        point_reached(p, &point);
        return;
    }
    repl_result result = p->builder == NULL ? repl_pipeline_begin(p, now_ns, &err) : REPL_SUCCESS;
    point.seq = p->epoch.next_seq;
    if (p->grouped)
        point.flags |= REPL_POINT_GROUP;
    if (repl_ok(result))
        result = repl_pipeline_finish(p, &point, true, &err);
    if (!repl_ok(result)) {
        cut_fail(p, &err);
        repl_epoch_round_failed(&p->epoch, now_ns);
        return;
    }
    p->point = point;
    p->unstable_files = p->epoch.per_file ? p->epoch.unstable : 0;
    p->point_changed_bytes = 0;
    p->point_count++;
    repl_epoch_cut_done(&p->epoch, now_ns);
    point_reached(p, &point);
}

void repl_pipeline_commit(struct repl_pipeline *p, bool others_proven, int64_t now_ns)
{
    if (p->round.phase == REPL_ROUND_PROVING && !p->round.is_void) {
        ensure(!others_proven);
        follow(p, repl_epoch_spoilt(&p->epoch, now_ns), now_ns);
        return;
    }
    if (p->round.phase != REPL_ROUND_CUTTING || p->round.is_void) {
        void_if_over(p, now_ns);
        return;
    }
    if (others_proven) {
        point_cut(p, now_ns);
        round_none(p);
    } else {
        follow(p, repl_epoch_spoilt(&p->epoch, now_ns), now_ns);
    }
}

void repl_pipeline_unsafe(const struct repl_pipeline *p,
                          const struct repl_bitmap *out[REPL_PIPELINE_UNSAFE])
{
    out[0] = &p->round.dirty;
    out[1] = &p->table.pending[0];
    out[2] = &p->table.pending[1];
}

void repl_pipeline_hurry(struct repl_pipeline *p, int64_t now_ns)
{
    repl_epoch_hurry(&p->epoch, now_ns);
}

/* --- growth ---------------------------------------------------------------------------------- */

bool repl_pipeline_may_grow(const struct repl_pipeline *p)
{
    return p->round.phase <= REPL_ROUND_OPENING && p->round.batches_out == 0;
}

repl_result repl_pipeline_grow(struct repl_pipeline *p, uint64_t volume_size,
                               struct repl_page_digest *digests, struct repl_error *err)
{
    ensure(repl_pipeline_may_grow(p) && volume_size >= p->options.volume_size);
    /* The last page may have been a short one: what the site holds of it is of another length. */
    uint64_t last = p->table.page_count - 1;
    REPL_TRY(repl_round_grow(&p->round, repl_page_count_of(volume_size), err));
    REPL_TRY(repl_digest_table_grow(&p->table, digests, repl_page_count_of(volume_size), err));
    if (p->options.volume_size % REPL_PAGE_SIZE != 0) {
        repl_digest_table_forget(&p->table, last, 1);
        repl_bitmap_set(&p->round.dirty, last, 1);
    }
    struct repl_error unfinished;
    if (p->builder != NULL && !repl_ok(repl_pipeline_finish(p, NULL, false, &unfinished)))
        repl_pipeline_abandon(p);
    p->options.volume_size = volume_size;
    p->state.volume_size = volume_size;
    p->state_due = true;
    p->epoch.at_point = false;
    if (is_audited(p))
        settle(p, REPL_SETTLE_ALL);
    return REPL_SUCCESS;
}

/* --- what to do next ------------------------------------------------------------------------- */

/* With the spool full nothing is opened: what changes is on the tracker's map, and stays there. */
static bool may_open(const struct repl_pipeline *p)
{
    return !p->stopping && !p->recovering && !p->coalescing && !p->forget_due &&
           (!is_audited(p) || is_based(p)) && (is_awaited(p) || !repl_pipeline_spool_is_full(p));
}

/* No snapshot is there before there is room for what is read from it. */
static bool may_quiesce(const struct repl_pipeline *p)
{
    return p->hold == REPL_HOLD_NONE && !p->disk_full &&
           (may_open(p) || !repl_quiesce_has_snapshots(p->epoch.quiesce));
}

/* A snapshot holds on to what is overwritten: it is not kept for as long as a link may be down. */
static void snapshot_give_up(struct repl_pipeline *p, int64_t now_ns)
{
    bool waits = p->round.phase == REPL_ROUND_READING ||
                 (p->round.phase == REPL_ROUND_OPENING && p->open_due);
    bool sends = p->ship.state == REPL_SHIP_READY || p->ship.state == REPL_SHIP_SENDING;
    if (waits && !sends && p->hold == REPL_HOLD_ON && !is_awaited(p) &&
        repl_pipeline_spool_is_full(p))
        drain(p, REPL_AFTER_FAILURE, now_ns);
}

bool repl_pipeline_round_next(struct repl_pipeline *p, int64_t now_ns,
                              struct repl_pipeline_action *action)
{
    snapshot_give_up(p, now_ns);
    if (p->round.phase == REPL_ROUND_TELLING) {
        tell(p, now_ns);
        action->until_ns = now_ns; /* the next part, after whatever else there is to do */
    }
    if (repl_pipeline_take_due(&p->resume_due)) {
        action->type = REPL_PIPELINE_RESUME;
    } else if (repl_pipeline_take_due(&p->repair_due)) {
        action->type = REPL_PIPELINE_REPAIR;
    } else if (p->settle_due && !(p->settle == REPL_SETTLE_ALL && p->round.batches_out > 0)) {
        /* Pages in a batch are in none of the bitmaps. What was not settled for that reason is at
         * the next point; where new pages have to be added, that waits, and the record with it. */
        p->settle_due = false;
        action->type = REPL_PIPELINE_SETTLE;
        action->settle = p->round.batches_out > 0 ? REPL_SETTLE_NONE : p->settle;
        p->settle = REPL_SETTLE_NONE;
    } else if (repl_pipeline_take_due(&p->close_due)) {
        action->type = REPL_PIPELINE_CLOSE;
    } else if (repl_pipeline_take_due(&p->commit_due)) {
        action->type = REPL_PIPELINE_COMMIT;
    } else if (p->quiesce_due && may_quiesce(p)) {
        p->quiesce_due = false;
        p->hold = REPL_HOLD_ASKED;
        action->type = REPL_PIPELINE_QUIESCE;
    } else if (p->open_due && may_open(p)) {
        p->open_due = false;
        action->type = REPL_PIPELINE_OPEN;
    } else if (repl_pipeline_take_due(&p->sync_due)) {
        action->type = REPL_PIPELINE_SYNC;
    } else if (repl_pipeline_take_due(&p->audit_due)) {
        action->type = REPL_PIPELINE_AUDIT;
        action->delay_ns = p->audit_delay_ns;
    } else {
        return false;
    }
    return true;
}
