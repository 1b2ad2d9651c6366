#include "pipeline_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "base/limits.h"

/* A checkpoint costs a sync of the table's dirty pages; this many segments or this much time of
 * work is what a crash makes the source ask the site about. */
#define CHECKPOINT_SEGMENTS (REPL_SENT_MAX / 2)
#define CHECKPOINT_NS       (INT64_C(60) * 1000000000)

/* Intervals without a point before the state says so. */
#define STUCK_INTERVALS 3

repl_result repl_pipeline_init(struct repl_pipeline *p, const struct repl_pipeline_options *options,
                               const struct repl_source_state *state, struct repl_error *err)
{
    static const struct repl_head none;
    uint64_t page_count = repl_page_count_of(options->volume_size);
    *p = (struct repl_pipeline){
        .options = *options, .state = *state, .full_wanted = options->full_wanted};
    repl_epoch_init(&p->epoch, options->interval_ns, options->quiesce, state->next_seq,
                    state->last_end_ns);
    p->epoch.resync = state->resync_seq != 0;
    p->site_point = (struct repl_point){
        .seq = state->point_seq, .begin_ns = state->point_begin_ns, .end_ns = state->point_end_ns};
    repl_ship_init(&p->ship, state);
    REPL_TRY(repl_round_init(&p->round, page_count, err));
    REPL_TRY(repl_digest_table_init(&p->table, options->digests, page_count, err));
    /* Without a checkpoint the file may hold anything: entries of a chain that began anew since,
     * whose forgetting a power cut has undone. And a full says all there is. */
    if (repl_digest_equal(&state->checkpoint.digest, &none.digest) || options->full_wanted)
        repl_digest_table_forget(&p->table, 0, page_count);
    return REPL_SUCCESS;
}

void repl_pipeline_fini(struct repl_pipeline *p)
{
    while (p->segments.oldest != NULL)
        repl_pipeline_segment_free(p, &p->segments, p->segments.oldest);
    while (p->acknowledged.oldest != NULL)
        repl_pipeline_segment_free(p, &p->acknowledged, p->acknowledged.oldest);
    repl_segment_builder_free(p->builder);
    repl_digest_table_fini(&p->table);
    repl_round_fini(&p->round);
    repl_ship_fini(&p->ship);
    repl_buffer_fini(&p->drops);
    repl_buffer_fini(&p->lost);
}

/* --- durability ------------------------------------------------------------------------------ */

/* Whether the checkpoint lags behind what the site is known to have. */
static bool checkpoint_is_behind(const struct repl_pipeline *p)
{
    return !repl_digest_equal(&p->state.checkpoint.digest, &p->ship.head.digest);
}

/* A host that crashes again and again, each time before the site has acknowledged anything, fills
 * the list with segments that never were committed. The oldest of them is the least likely to
 * be under way still. */
static bool sent_make_room(struct repl_pipeline *p)
{
    if (checkpoint_is_behind(p))
        return false;
    p->state.sent_count--;
    memmove(p->state.sent, p->state.sent + 1, p->state.sent_count * sizeof p->state.sent[0]);
    return true;
}

/* The oldest that is on its way and whose end may not be sent yet. */
static const struct repl_ship_segment *unreleased(const struct repl_pipeline *p)
{
    for (size_t i = 0; i < p->ship.segment_count; i++) {
        const struct repl_ship_segment *s = &p->ship.segments[i];
        if (s->number > p->released && repl_ship_in_flight(&p->ship, s->number))
            return s;
        if (i > p->ship.acknowledged)
            break; /* no more than two are */
    }
    return NULL;
}

/* A segment on its way is complete: before its end is sent, remember it. */
static void remember_sending(struct repl_pipeline *p)
{
    const struct repl_ship_segment *s = unreleased(p);
    if (s == NULL || !s->complete || p->state_due || p->state_out)
        return;
    if (repl_pipeline_place_of(&p->state, &s->digest) >= 0) {
        p->released = s->number;
        p->release_due = true;
        return;
    }
    if (p->state.sent_count == REPL_SENT_MAX && !sent_make_room(p))
        return; /* until the checkpoint has made room */
    p->state.sent[p->state.sent_count++] = (struct repl_head){.from_seq = s->from_seq,
                                                              .to_seq = s->to_seq,
                                                              .part = s->part,
                                                              .has_point = s->has_point,
                                                              .digest = s->digest};
    if (p->state.next_seq <= s->to_seq)
        p->state.next_seq = s->to_seq + s->has_point;
    p->state.last_end_ns = p->epoch.last_end_ns;
    p->state_due = true;
}

/* The acknowledged segment's digests become what the site holds. */
static void segment_apply(struct repl_pipeline *p, struct repl_pipeline_segment *segment)
{
    const struct repl_batch_digest *digests = (const void *)segment->digests.data;
    size_t count = segment->digests.size / sizeof *digests;
    for (size_t i = 0; i < count; i++)
        repl_digest_table_set(&p->table, digests[i].page, &digests[i].digest, segment->number);
    repl_digest_table_acknowledged(&p->table, segment->number);
    repl_pipeline_segment_free(p, &p->acknowledged, segment);
}

void repl_pipeline_state_written(struct repl_pipeline *p)
{
    ensure(p->state_out);
    p->state_out = false;
    if (p->acknowledged.oldest == NULL)
        return;
    while (p->acknowledged.oldest != NULL && p->acknowledged.oldest->number <= p->applying)
        segment_apply(p, p->acknowledged.oldest);
    repl_pipeline_rest(p);
}

/* The acknowledgements wait for the next state that has to be written anyway, unless that is what
 * the checkpoint waits for, or they are too many to be kept. */
static bool acknowledged_is_due(const struct repl_pipeline *p, bool checkpoint)
{
    uint64_t bytes = 0;
    for (const struct repl_pipeline_segment *s = p->acknowledged.oldest; s != NULL; s = s->next)
        bytes += s->digests.size;
    return p->acknowledged.oldest != NULL && (checkpoint || bytes > REPL_PART_DIGESTS_MAX);
}

static bool checkpoint_wanted(const struct repl_pipeline *p, int64_t now_ns)
{
    if (p->checkpoint_out || p->state_due || p->state_out)
        return false;
    if (!checkpoint_is_behind(p))
        return p->forget_due;
    /* While the link is down, the spool is worth most: it is taken over where the checkpoint ends.
     */
    return p->stopping || p->forget_due || p->ship.state == REPL_SHIP_DOWN ||
           p->state.sent_count >= CHECKPOINT_SEGMENTS ||
           now_ns - p->checkpoint_ns >= CHECKPOINT_NS || now_ns < p->checkpoint_ns;
}

void repl_pipeline_checkpointed(struct repl_pipeline *p)
{
    ensure(p->checkpoint_out);
    p->checkpoint_out = false;
    if (p->checkpoint_void)
        return;
    p->forget_due = false;
    p->state.checkpoint = p->checkpoint_head;
    uint32_t kept = 0, behind = 0;
    for (uint32_t i = 0; i < p->state.sent_count; i++) {
        if (repl_digest_equal(&p->state.sent[i].digest, &p->checkpoint_head.digest))
            behind = i + 1;
    }
    for (uint32_t i = behind; i < p->state.sent_count; i++)
        p->state.sent[kept++] = p->state.sent[i];
    p->state.sent_count = kept;
    p->state.acknowledged_count -=
        p->state.acknowledged_count < behind ? p->state.acknowledged_count : behind;
    p->state_due = true;
    repl_pipeline_note(p);
}

bool repl_pipeline_stopped(const struct repl_pipeline *p)
{
    return p->stopping && !checkpoint_is_behind(p) && !p->state_due && !p->state_out &&
           !p->checkpoint_out && p->round.batches_out == 0 && p->hold == REPL_HOLD_NONE;
}

/* --- what to do next ------------------------------------------------------------------------- */

void repl_pipeline_site_point(struct repl_pipeline *p, const struct repl_point *point)
{
    p->site_point = *point;
    p->state.point_seq = point->seq;
    p->state.point_begin_ns = point->begin_ns;
    p->state.point_end_ns = point->end_ns;
}

static void segment_acknowledged(struct repl_pipeline *p, const struct repl_ship_action *action)
{
    struct repl_pipeline_segment *segment = p->segments.oldest;
    ensure(segment != NULL && segment->number == action->number);
    /* before its end was sent, it was noted */
    int place = repl_pipeline_place_of(&p->state, &action->head.digest);
    if (place > (int)p->state.acknowledged_count)
        p->state.acknowledged_count = (uint32_t)place;
    if (p->options.acknowledged != NULL)
        p->options.acknowledged(p->options.chunk_context, segment->number);
    p->spool_bytes -= segment->size;
    p->sent_bytes += segment->size;
    p->kept_bytes -= segment->kept;
    segment->kept = 0;
    if (p->options.records != NULL && (segment->stamp != 0 || segment->full))
        p->options.records->settled(p->options.records->context, segment->settled,
                                    segment->full && segment->point.seq != 0);
    if (segment->point.seq != 0)
        repl_pipeline_site_point(p, &segment->point);
    repl_pipeline_list_remove(&p->segments, segment);
    repl_pipeline_list_add(&p->acknowledged, segment);
    repl_pipeline_drop(p, segment->number);
    repl_pipeline_resync_end(p);
    repl_pipeline_rest(p);
}

/* Lets the ship say what it wants until it waits. */
static int64_t ship_drain(struct repl_pipeline *p, int64_t now_ns)
{
    for (;;) {
        struct repl_ship_action action;
        repl_ship_next(&p->ship, now_ns, &action);
        switch (action.type) {
        case REPL_SHIP_WAIT:
            return action.until_ns;
        case REPL_SHIP_HELLO:
            p->hello_due = true;
            break;
        case REPL_SHIP_SEND:
            p->send_due = true;
            p->send_number = action.number;
            p->send_offset = action.offset;
            break;
        case REPL_SHIP_SEND_AHEAD:
            p->ahead_due = true;
            p->ahead_number = action.number;
            break;
        case REPL_SHIP_SEND_SUPPLY:
            p->supply_due = true;
            p->send_number = action.number;
            break;
        case REPL_SHIP_CHECK:
            p->check_due = true;
            p->send_number = action.number;
            break;
        case REPL_SHIP_ACKNOWLEDGED:
            segment_acknowledged(p, &action);
            break;
        case REPL_SHIP_RECOVER:
            p->recover_due = p->recovering = true;
            p->recover_head = action.head;
            repl_pipeline_drop_all(p);
            repl_ship_dropped(&p->ship);
            repl_pipeline_round_void(p, now_ns);
            break;
        case REPL_SHIP_RESTART:
            repl_pipeline_restart(p, now_ns);
            break;
        }
    }
}

/* What may have reached the site before the start is behind the checkpoint, whole: whether it is
 * there or not, it will be before what comes next. */
static bool sent_is_kept(const struct repl_pipeline *p)
{
    uint32_t count = p->state.sent_count;
    if (count == 0)
        return true;
    for (size_t i = 0; i < p->ship.segment_count; i++) {
        const struct repl_ship_segment *s = &p->ship.segments[i];
        if (s->complete && repl_digest_equal(&s->digest, &p->state.sent[count - 1].digest))
            return true;
    }
    return false;
}

/* After an unclean end with segments that may have reached the site, and are not kept any more, the
 * table is exact only once the site has been asked, and has been heard out. */
static bool may_read(const struct repl_pipeline *p)
{
    return !p->stopping && !p->recovering && (p->greeted || sent_is_kept(p)) &&
           (!p->audited || p->audit.base.completed_known);
}

static int64_t epoch_drain(struct repl_pipeline *p, int64_t now_ns)
{
    int64_t until_ns;
    if (!may_read(p))
        return INT64_MAX;
    if (repl_epoch_tick(&p->epoch, now_ns, &until_ns))
        p->sync_due = true;
    return until_ns;
}

static bool durability_next(struct repl_pipeline *p, int64_t now_ns,
                            struct repl_pipeline_action *action)
{
    bool checkpoint = checkpoint_wanted(p, now_ns);
    remember_sending(p);
    if (acknowledged_is_due(p, checkpoint))
        p->state_due = true;
    if (p->state_due && !p->state_out) {
        p->state_due = false;
        p->state_out = true;
        p->applying = p->acknowledged.newest != NULL ? p->acknowledged.newest->number : 0;
        action->type = REPL_PIPELINE_STATE;
        action->state = &p->state;
        return true;
    }
    if (checkpoint_wanted(p, now_ns) && p->acknowledged.oldest == NULL) {
        p->checkpoint_out = true;
        p->checkpoint_void = false;
        p->checkpoint_ns = now_ns;
        p->checkpoint_head = p->ship.head;
        action->type = REPL_PIPELINE_CHECKPOINT;
        return true;
    }
    return false;
}

static bool link_next(struct repl_pipeline *p, struct repl_pipeline_action *action)
{
    if (repl_pipeline_take_due(&p->hello_due)) {
        action->type = REPL_PIPELINE_HELLO;
    } else if (repl_pipeline_take_due(&p->recover_due)) {
        action->type = REPL_PIPELINE_RECOVER;
        action->from = p->ship.head;
        action->head = p->recover_head;
    } else if (repl_pipeline_take_due(&p->supply_due)) {
        action->type = REPL_PIPELINE_SUPPLY;
        action->number = p->send_number;
    } else if (repl_pipeline_take_due(&p->check_due)) {
        action->type = REPL_PIPELINE_CHECK;
        action->number = p->send_number;
    } else if (repl_pipeline_take_due(&p->send_due)) {
        action->type = REPL_PIPELINE_SEND;
        action->number = p->send_number;
        action->offset = p->send_offset;
    } else if (repl_pipeline_take_due(&p->ahead_due) &&
               repl_ship_in_flight(&p->ship, p->ahead_number)) {
        action->type = REPL_PIPELINE_SEND_AHEAD;
        action->number = p->ahead_number;
    } else {
        return false;
    }
    return true;
}

void repl_pipeline_next(struct repl_pipeline *p, int64_t now_ns,
                        struct repl_pipeline_action *action)
{
    int64_t ship_until = ship_drain(p, now_ns);
    repl_pipeline_full_next(p, now_ns);
    int64_t epoch_until = epoch_drain(p, now_ns);
    *action = (struct repl_pipeline_action){.type = REPL_PIPELINE_WAIT,
                                            .until_ns = ship_until < epoch_until ? ship_until
                                                                                 : epoch_until};
    if (p->drops.size > 0) {
        action->type = REPL_PIPELINE_DROP;
        p->drops.size -= sizeof action->number;
        memcpy(&action->number, p->drops.data + p->drops.size, sizeof action->number);
        return;
    }
    if (repl_pipeline_coalesce_next(p, action) || repl_pipeline_round_next(p, now_ns, action) ||
        durability_next(p, now_ns, action) || link_next(p, action))
        return;
    if (repl_pipeline_take_due(&p->release_due)) {
        action->type = REPL_PIPELINE_RELEASE;
        action->number = p->released;
    }
}

/* --- the link -------------------------------------------------------------------------------- */

void repl_pipeline_hello(const struct repl_pipeline *p, uint32_t rpo_ms, int64_t now_ns,
                         struct repl_hello *out)
{
    *out = (struct repl_hello){.version_min = REPL_PROTOCOL_MIN,
                               .version_max = REPL_PROTOCOL_MAX,
                               .volume = p->state.volume,
                               .kind = p->options.records != NULL ? REPL_VOLUME_TREE
                                                                  : REPL_VOLUME_BLOCK,
                               .lineage = p->state.lineage,
                               .volume_size = p->options.volume_size,
                               .rpo_ms = rpo_ms,
                               .sent_ns = now_ns};
}

void repl_pipeline_welcome(struct repl_pipeline *p, const struct repl_welcome *welcome,
                           int64_t now_ns)
{
    if (!p->greeted && welcome->known)
        repl_pipeline_site_found(p, &welcome->head, now_ns);
    repl_ship_welcome(&p->ship, welcome, now_ns);
    if (p->ship.state == REPL_SHIP_READY) {
        p->greeted = true;
        p->recovering = false;
    }
}

static void request_ended(struct repl_pipeline *p)
{
    p->send_due = p->supply_due = p->hello_due = p->recover_due = false;
}

void repl_pipeline_ack(struct repl_pipeline *p, uint64_t number, const struct repl_ack *ack,
                       int64_t now_ns)
{
    if (!repl_ship_in_turn(&p->ship, number)) {
        repl_ship_ahead_ack(&p->ship, ack);
        return;
    }
    request_ended(p);
    repl_ship_ack(&p->ship, ack, now_ns);
}

void repl_pipeline_refused(struct repl_pipeline *p, const struct repl_refusal *refusal,
                           int64_t now_ns)
{
    request_ended(p);
    repl_ship_refused(&p->ship, refusal, now_ns);
}

void repl_pipeline_missing(struct repl_pipeline *p)
{
    request_ended(p);
    repl_ship_missing(&p->ship);
}

void repl_pipeline_supplied(struct repl_pipeline *p)
{
    request_ended(p);
    repl_ship_supplied(&p->ship);
}

void repl_pipeline_lost(struct repl_pipeline *p, const char *cause, int64_t now_ns)
{
    request_ended(p);
    repl_ship_lost(&p->ship, cause, now_ns);
}

void repl_pipeline_forget(struct repl_pipeline *p, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / REPL_PAGE_SIZE;
    uint64_t end = repl_page_count_of(offset + length);
    if (end > p->table.page_count)
        end = p->table.page_count;
    if (first >= end)
        return;
    repl_digest_table_forget(&p->table, first, end - first);
    /* Compared with what was forgotten, a page that differs may have been found equal. */
    repl_bitmap_set(&p->round.dirty, first, end - first);
}

void repl_pipeline_recovered(struct repl_pipeline *p, int64_t now_ns)
{
    repl_pipeline_drop_all(p);
    repl_pipeline_settle_all(p);
    repl_ship_recovered(&p->ship);
    p->greeted = true;
    p->recovering = false;
    /* The forgetting must be durable before the checkpoint says that the table is exact. */
    p->checkpoint_ns = 0;
    if (p->epoch.next_seq <= p->ship.head.to_seq)
        p->epoch.next_seq = p->ship.head.to_seq + p->ship.head.has_point;
    repl_pipeline_round_void(p, now_ns);
}

/* --- for people ------------------------------------------------------------------------------ */

/* Down, as the site itself says or as nothing is heard of it. */
static enum repl_state down_state(const struct repl_ship *ship)
{
    switch (ship->refused_by) {
    case REPL_REFUSAL_BUSY:
        return REPL_STATE_SITE_BUSY;
    case REPL_REFUSAL_NO_SPACE:
        return REPL_STATE_SITE_FULL;
    case REPL_REFUSAL_INTERNAL:
        return REPL_STATE_SITE_ERROR;
    default:
        return REPL_STATE_LINK_DOWN;
    }
}

static enum repl_state pipeline_state(const struct repl_pipeline *p, int64_t now_ns, char *cause)
{
    const struct repl_ship *ship = &p->ship;
    /* A hello that nobody has answered yet ends nothing. */
    enum repl_ship_state link =
        ship->state == REPL_SHIP_GREETING ? ship->greeting_from : ship->state;
    int64_t stuck_ns = repl_epoch_stuck_ns(&p->epoch, now_ns);
    cause[0] = '\0';
    if (p->error.code != REPL_OK) {
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "%.*s", (int)REPL_WIRE_TEXT_MAX, p->error.text);
        return REPL_STATE_FAILED;
    }
    if (link == REPL_SHIP_HALTED || link == REPL_SHIP_DOWN) {
        bool full = repl_pipeline_spool_is_full(p);
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "%.*s%s", (int)REPL_WIRE_TEXT_MAX - 60, ship->cause,
                 full ? "; the spool is full, no point is cut until then" : "");
        return link == REPL_SHIP_HALTED ? REPL_STATE_REFUSED : down_state(ship);
    }
    if (stuck_ns > STUCK_INTERVALS * p->epoch.interval_ns) {
        const char *why = !p->epoch.tracked ? "each comparison had a write fall into it"
                          : p->options.records != NULL
                              ? "something had changed whenever what had changed was read"
                              : "no moment between two write barriers was long enough";
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "for %lld s %s, %u tries",
                 (long long)(stuck_ns / 1000000000), why, p->epoch.torn);
        return REPL_STATE_NO_WINDOW;
    }
    if (p->ship.point_seq == 0)
        return REPL_STATE_SEEDING;
    if (p->epoch.tracked && p->comparing) {
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "%s", p->degraded_cause);
        return REPL_STATE_DEGRADED;
    }
    if (p->epoch.resync)
        return REPL_STATE_RESYNC;
    if (p->full_wanted && p->full_marked) {
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1,
                 "the site has lost part of the history: all is sent once more, and is a point "
                 "when it is there");
        return REPL_STATE_SEEDING;
    }
    snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "%s", p->quiesce_cause);
    bool reading = p->round.phase != REPL_ROUND_NONE;
    return p->segments.oldest == NULL && !reading ? REPL_STATE_IDLE : REPL_STATE_OK;
}

void repl_pipeline_report(const struct repl_pipeline *p, int64_t now_ns, struct repl_report *out)
{
    *out = (struct repl_report){.sent_ns = now_ns};
    out->state = pipeline_state(p, now_ns, out->cause);
    out->backlog_bytes =
        p->spool_bytes + (p->builder != NULL ? repl_segment_builder_size(p->builder) : 0);
    if (p->round.phase != REPL_ROUND_NONE && !p->round.parked &&
        (out->state == REPL_STATE_SEEDING || out->state == REPL_STATE_RESYNC ||
         out->state == REPL_STATE_DEGRADED)) {
        uint64_t left = p->round.dirty.set_count, all = p->round.page_count;
        out->done_bytes = (left < all ? all - left : 0) * REPL_PAGE_SIZE;
        out->total_bytes = all * REPL_PAGE_SIZE;
    }
    /* Only of a point the site has, and only while the volume is known to equal it. */
    if (p->epoch.at_point && p->segments.oldest == NULL && p->ship.head.has_point &&
        p->unchanged_until_ns > 0) {
        out->seq = p->ship.point_seq;
        out->unchanged_until_ns = p->unchanged_until_ns;
    }
}
