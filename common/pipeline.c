#include "pipeline.h"

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

struct repl_pipeline_segment {
    struct repl_pipeline_segment *next;
    uint64_t number;
    uint64_t size;              /* once complete */
    struct repl_buffer digests; /* struct repl_batch_digest each */
};

static uint64_t page_count_of(uint64_t volume_size)
{
    return (volume_size + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE;
}

repl_result repl_pipeline_init(struct repl_pipeline *p, const struct repl_pipeline_options *options,
                               const struct repl_source_state *state, struct repl_error *err)
{
    static const struct repl_head none;
    *p = (struct repl_pipeline){.options = *options, .state = *state};
    repl_epoch_init(&p->epoch, options->interval_ns, state->next_seq, state->last_end_ns);
    repl_ship_init(&p->ship, state);
    REPL_TRY(repl_digest_table_init(&p->table, options->digests,
                                    page_count_of(options->volume_size), err));
    /* Without a checkpoint the file may hold anything: entries of a chain that began anew since,
     * whose forgetting a power cut has undone. */
    if (repl_digest_equal(&state->checkpoint.digest, &none.digest))
        repl_digest_table_forget(&p->table, 0, p->table.page_count);
    return REPL_SUCCESS;
}

static void segment_free(struct repl_pipeline *p, struct repl_pipeline_segment *segment)
{
    p->digest_bytes -= segment->digests.size;
    repl_buffer_fini(&segment->digests);
    free(segment);
}

void repl_pipeline_fini(struct repl_pipeline *p)
{
    while (p->segments != NULL) {
        struct repl_pipeline_segment *segment = p->segments;
        p->segments = segment->next;
        segment_free(p, segment);
    }
    repl_segment_builder_free(p->builder);
    repl_digest_table_fini(&p->table);
    repl_ship_fini(&p->ship);
    repl_buffer_fini(&p->drops);
}

/* --- failures -------------------------------------------------------------------------------- */

static void round_fail(struct repl_pipeline *p, const struct repl_error *err)
{
    p->round_void = true;
    p->error = *err;
}

static void drop(struct repl_pipeline *p, uint64_t number)
{
    /* Without memory for eight bytes the segment stays in the spool until the next start. */
    repl_ignore(repl_buffer_append(&p->drops, &number, sizeof number, NULL));
    if (p->sending == number)
        p->sending = 0;
    if (p->send_number == number)
        p->send_due = p->supply_due = false;
}

/* What was sent in a segment that is given up is not known to be at the site, nor known not to be:
 * its pages stay pending, and are sent again whatever they hold. */
static void segment_give_up(struct repl_pipeline *p, struct repl_pipeline_segment *segment)
{
    const struct repl_batch_digest *digests = (const void *)segment->digests.data;
    size_t count = segment->digests.size / sizeof *digests;
    for (size_t i = 0; i < count; i++)
        repl_digest_table_dropped(&p->table, digests[i].page, segment->number);
    drop(p, segment->number);
    segment_free(p, segment);
}

static void building_abandon(struct repl_pipeline *p)
{
    if (p->builder == NULL)
        return;
    repl_segment_builder_free(p->builder);
    p->builder = NULL;
    repl_ship_abandon(&p->ship, p->number);
    struct repl_pipeline_segment **link = &p->segments;
    while ((*link)->next != NULL)
        link = &(*link)->next;
    ensure((*link)->number == p->number);
    segment_give_up(p, *link);
    *link = NULL;
}

/* --- the segment being built ----------------------------------------------------------------- */

static repl_result segment_begin(struct repl_pipeline *p, int64_t now_ns, struct repl_error *err)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    bool continues = !tail.has_point && tail.to_seq != 0;
    struct repl_segment_header header = {
        .version = REPL_SEGMENT_VERSION,
        .kind = REPL_SEGMENT_CHANGES,
        .volume_kind = REPL_VOLUME_BLOCK,
        .volume = p->state.volume,
        .lineage = p->state.lineage,
        .from_seq = continues ? tail.from_seq : tail.to_seq,
        .to_seq = continues ? tail.to_seq : p->epoch.next_seq,
        .part = continues ? tail.part + 1 : 0,
        .created_ns = now_ns,
        .prev = tail.digest,
    };
    struct repl_pipeline_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment");
    segment->number = ++p->number;
    repl_result result = repl_segment_builder_new(&header, p->options.volume_size, p->options.sink,
                                                  p->options.sink_context, &p->builder, err);
    if (repl_ok(result))
        result = repl_ship_begin(&p->ship,
                                 &(struct repl_ship_segment){.number = segment->number,
                                                             .from_seq = header.from_seq,
                                                             .to_seq = header.to_seq,
                                                             .part = header.part,
                                                             .created_ns = now_ns,
                                                             .prev = header.prev},
                                 err);
    if (!repl_ok(result)) {
        repl_segment_builder_free(p->builder);
        p->builder = NULL;
        drop(p, segment->number); /* the sink may have taken some of it */
        segment_free(p, segment);
        return result;
    }
    struct repl_pipeline_segment **link = &p->segments;
    while (*link != NULL)
        link = &(*link)->next;
    *link = segment;
    p->epoch.next_seq = header.to_seq;
    return REPL_SUCCESS;
}

static struct repl_pipeline_segment *building_segment(struct repl_pipeline *p)
{
    struct repl_pipeline_segment *segment = p->segments;
    while (segment->next != NULL)
        segment = segment->next;
    ensure(segment->number == p->number);
    return segment;
}

/* Ends the segment being built, in a point or, as a part that others follow, without one. */
static repl_result segment_finish(struct repl_pipeline *p, const struct repl_point *point,
                                  struct repl_error *err)
{
    struct repl_segment_footer footer;
    REPL_TRY(repl_segment_builder_finish(p->builder, point, point != NULL, &footer, err));
    repl_segment_builder_free(p->builder);
    p->builder = NULL;
    building_segment(p)->size = footer.file_size;
    p->spool_bytes += footer.file_size;
    repl_ship_complete(&p->ship, p->number, &footer.digest, footer.file_size, point != NULL);
    return REPL_SUCCESS;
}

static repl_result batch_references(struct repl_pipeline *p, const struct repl_batch *batch,
                                    uint64_t *first, struct repl_error *err)
{
    for (uint32_t i = 0; i < batch->reference_count; i++) {
        uint64_t source;
        REPL_TRY(
            repl_segment_builder_reference(p->builder, &batch->references[i].name, &source, err));
        if (i == 0)
            *first = source;
    }
    return REPL_SUCCESS;
}

/* The reduced batch into the builder. */
static repl_result batch_build(struct repl_pipeline *p, const struct repl_batch *batch,
                               struct repl_error *err)
{
    uint32_t frame = 0;
    uint64_t first_reference = 0;
    if (batch->has_frame)
        REPL_TRY(
            repl_segment_builder_frame(p->builder, &batch->frame, batch->stored.data, &frame, err));
    REPL_TRY(batch_references(p, batch, &first_reference, err));
    for (uint32_t i = 0; i < batch->chunk_count; i++) {
        struct repl_chunk_entry chunk = batch->chunks[i];
        chunk.frame = frame;
        REPL_TRY(repl_segment_builder_chunk(p->builder, &chunk, err));
    }
    for (uint32_t i = 0; i < batch->extent_count; i++) {
        struct repl_extent extent = batch->extents[i];
        if (extent.type == REPL_RECORD_DATA)
            extent.source = frame;
        else if (extent.type == REPL_RECORD_CHUNK)
            extent.source += first_reference;
        REPL_TRY(repl_segment_builder_extent(p->builder, &extent, err));
    }
    return REPL_SUCCESS;
}

static bool spool_is_full(const struct repl_pipeline *p)
{
    uint64_t building = p->builder != NULL ? repl_segment_builder_size(p->builder) : 0;
    return p->spool_bytes + building > p->options.spool_limit_bytes ||
           p->digest_bytes > REPL_VOLUME_DIGESTS_MAX;
}

static repl_result batch_take(struct repl_pipeline *p, const struct repl_batch *batch,
                              int64_t now_ns, struct repl_error *err)
{
    if (batch->digest_count == 0)
        return REPL_SUCCESS;
    if (p->builder == NULL)
        REPL_TRY(segment_begin(p, now_ns, err));
    /* On the segment's list before anything else: should the building fail, giving the segment up
     * makes what was noted of them void. */
    REPL_TRY(repl_buffer_append(&building_segment(p)->digests, batch->digests,
                                batch->digest_count * sizeof batch->digests[0], err));
    p->digest_bytes += batch->digest_count * sizeof batch->digests[0];
    for (uint32_t i = 0; i < batch->digest_count; i++)
        repl_digest_table_sent(&p->table, batch->digests[i].page, &batch->digests[i].digest,
                               p->number);
    REPL_TRY(batch_build(p, batch, err));
    uint64_t bytes = (uint64_t)batch->digest_count * REPL_PAGE_SIZE;
    p->point_changed_bytes += bytes;
    p->changed_bytes += bytes;
    /* What is still being built cannot be acknowledged: with the spool full it would never get
     * empty again. */
    if (repl_segment_builder_size(p->builder) < REPL_SEGMENT_SOFT_LIMIT &&
        building_segment(p)->digests.size < REPL_PART_DIGESTS_MAX && !spool_is_full(p))
        return REPL_SUCCESS;
    return segment_finish(p, NULL, err);
}

/* --- the round ------------------------------------------------------------------------------- */

bool repl_pipeline_fill(struct repl_pipeline *p, struct repl_batch *batch)
{
    uint64_t page_count = p->table.page_count;
    if (!p->reading || p->round_void || p->stopping || p->next_page == page_count ||
        spool_is_full(p))
        return false;
    repl_batch_clear(batch);
    batch->volume_size = p->options.volume_size;
    batch->chunk_known = p->options.chunk_known;
    batch->chunk_context = p->options.chunk_context;
    uint64_t first = p->next_page;
    p->next_page += repl_batch_add(batch, first, page_count - first);
    for (uint32_t i = 0; i < batch->page_count; i++)
        batch->held[i] = repl_digest_table_get(&p->table, first + i);
    p->batches_out++;
    return true;
}

static void round_end_if_over(struct repl_pipeline *p, int64_t now_ns)
{
    if (!p->reading || p->batches_out > 0)
        return;
    if (p->round_void) {
        p->reading = false;
        repl_epoch_round_failed(&p->epoch, now_ns);
    } else if (p->next_page == p->table.page_count) {
        p->reading = false;
        p->sample_due = true;
    }
}

void repl_pipeline_batch_done(struct repl_pipeline *p, struct repl_batch *batch, repl_result result,
                              const struct repl_error *err, int64_t now_ns)
{
    ensure(p->batches_out > 0);
    p->batches_out--;
    struct repl_error mine = {0};
    if (!repl_ok(result)) {
        round_fail(p, err);
    } else if (!p->round_void && !repl_ok(batch_take(p, batch, now_ns, &mine))) {
        round_fail(p, &mine);
        building_abandon(p);
    }
    round_end_if_over(p, now_ns);
}

static void round_begin(struct repl_pipeline *p)
{
    ensure(!p->reading && p->batches_out == 0);
    p->reading = true;
    p->round_void = false;
    p->next_page = 0;
}

void repl_pipeline_synced(struct repl_pipeline *p, int64_t now_ns,
                          const struct repl_write_counters *counters)
{
    struct repl_epoch_action action;
    repl_epoch_synced(&p->epoch, now_ns, counters, &action);
    if (action.type == REPL_EPOCH_UNCHANGED)
        p->unchanged_until_ns = action.until_ns;
    else if (action.type == REPL_EPOCH_ROUND)
        round_begin(p);
}

/* The round found the volume at rest: a point, unless the last one says it all. */
static void point_cut(struct repl_pipeline *p, const struct repl_point *point, int64_t now_ns)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    struct repl_error err = {0};
    if (p->builder == NULL && tail.has_point) {
        repl_epoch_cut_empty(&p->epoch, now_ns);
        p->unchanged_until_ns = point->begin_ns;
        p->error.code = REPL_OK;
        return;
    }
    repl_result result = p->builder == NULL ? segment_begin(p, now_ns, &err) : REPL_SUCCESS;
    struct repl_point numbered = *point;
    numbered.seq = p->epoch.next_seq;
    if (repl_ok(result))
        result = segment_finish(p, &numbered, &err);
    if (!repl_ok(result)) {
        p->error = err;
        building_abandon(p);
        repl_epoch_round_failed(&p->epoch, now_ns);
        return;
    }
    p->point = numbered;
    p->point_changed_bytes = 0;
    p->point_count++;
    p->unchanged_until_ns = numbered.end_ns;
    p->error.code = REPL_OK;
    repl_epoch_cut_done(&p->epoch, now_ns);
}

void repl_pipeline_sampled(struct repl_pipeline *p, int64_t now_ns,
                           const struct repl_write_counters *counters)
{
    struct repl_epoch_action action;
    if (p->round_void) {
        repl_epoch_round_failed(&p->epoch, now_ns);
        return;
    }
    repl_epoch_round_done(&p->epoch, now_ns, counters, p->point_changed_bytes, &action);
    if (action.type == REPL_EPOCH_CUT)
        point_cut(p, &action.point, now_ns);
    else
        p->torn_rounds++;
}

repl_result repl_pipeline_grow(struct repl_pipeline *p, uint64_t volume_size,
                               struct repl_page_digest *digests, struct repl_error *err)
{
    ensure(!p->reading && volume_size >= p->options.volume_size);
    /* The last page may have been a short one: what the site holds of it is of another length. */
    uint64_t last = p->table.page_count - 1;
    REPL_TRY(repl_digest_table_grow(&p->table, digests, page_count_of(volume_size), err));
    if (p->options.volume_size % REPL_PAGE_SIZE != 0)
        repl_digest_table_forget(&p->table, last, 1);
    struct repl_error unfinished;
    if (p->builder != NULL && !repl_ok(segment_finish(p, NULL, &unfinished)))
        building_abandon(p);
    /* A round that only waits for its sample has not seen the new pages. */
    p->round_void = true;
    p->options.volume_size = volume_size;
    p->state.volume_size = volume_size;
    p->state_due = true;
    p->epoch.at_point = false;
    return REPL_SUCCESS;
}

/* --- durability ------------------------------------------------------------------------------ */

static bool is_sent(const struct repl_pipeline *p, const struct repl_digest *digest)
{
    for (uint32_t i = 0; i < p->state.sent_count; i++) {
        if (repl_digest_equal(&p->state.sent[i].digest, digest))
            return true;
    }
    return false;
}

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

/* The segment on its way is complete: before its end is sent, remember it. */
static void remember_sending(struct repl_pipeline *p)
{
    const struct repl_ship_segment *s =
        p->sending != 0 ? repl_ship_find(&p->ship, p->sending) : NULL;
    if (s == NULL || !s->complete || p->released >= s->number || p->state_due || p->state_out)
        return;
    if (is_sent(p, &s->digest)) {
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

void repl_pipeline_state_written(struct repl_pipeline *p)
{
    ensure(p->state_out);
    p->state_out = false;
}

static bool checkpoint_wanted(const struct repl_pipeline *p, int64_t now_ns)
{
    if (!checkpoint_is_behind(p) || p->checkpoint_out || p->state_due || p->state_out)
        return false;
    return p->stopping || p->state.sent_count >= CHECKPOINT_SEGMENTS ||
           now_ns - p->checkpoint_ns >= CHECKPOINT_NS || now_ns < p->checkpoint_ns;
}

void repl_pipeline_checkpointed(struct repl_pipeline *p)
{
    ensure(p->checkpoint_out);
    p->checkpoint_out = false;
    if (p->checkpoint_void)
        return;
    p->state.checkpoint = p->checkpoint_head;
    uint32_t kept = 0, behind = 0;
    for (uint32_t i = 0; i < p->state.sent_count; i++) {
        if (repl_digest_equal(&p->state.sent[i].digest, &p->checkpoint_head.digest))
            behind = i + 1;
    }
    for (uint32_t i = behind; i < p->state.sent_count; i++)
        p->state.sent[kept++] = p->state.sent[i];
    p->state.sent_count = kept;
    p->state_due = true;
}

void repl_pipeline_stop(struct repl_pipeline *p)
{
    p->stopping = true;
}

bool repl_pipeline_stopped(const struct repl_pipeline *p)
{
    return p->stopping && !checkpoint_is_behind(p) && !p->state_due && !p->state_out &&
           !p->checkpoint_out && p->batches_out == 0;
}

/* --- what to do next ------------------------------------------------------------------------- */

/* The acknowledged segment's digests become what the site holds. */
static void segment_acknowledged(struct repl_pipeline *p, uint64_t number)
{
    struct repl_pipeline_segment *segment = p->segments;
    ensure(segment != NULL && segment->number == number);
    const struct repl_batch_digest *digests = (const void *)segment->digests.data;
    size_t count = segment->digests.size / sizeof *digests;
    for (size_t i = 0; i < count; i++)
        repl_digest_table_set(&p->table, digests[i].page, &digests[i].digest, number);
    repl_digest_table_acknowledged(&p->table, number);
    p->spool_bytes -= segment->size;
    p->sent_bytes += segment->size;
    p->segments = segment->next;
    segment_free(p, segment);
    drop(p, number);
}

static void all_segments_drop(struct repl_pipeline *p)
{
    building_abandon(p);
    while (p->segments != NULL) {
        struct repl_pipeline_segment *segment = p->segments;
        p->segments = segment->next;
        segment_give_up(p, segment);
    }
    p->spool_bytes = 0;
    p->point_changed_bytes = 0;
}

/* Digests were forgotten: what a round has compared with them so far proves nothing any more. */
static void comparisons_void(struct repl_pipeline *p, int64_t now_ns)
{
    p->round_void = true;
    p->checkpoint_void = true;
    round_end_if_over(p, now_ns);
    repl_epoch_distrust(&p->epoch, now_ns);
}

/* The site has nothing of this volume any more: a new chain, everything anew. */
static void chain_restart(struct repl_pipeline *p, int64_t now_ns)
{
    all_segments_drop(p);
    repl_digest_table_forget(&p->table, 0, p->table.page_count);
    p->state.checkpoint = (struct repl_head){0};
    p->state.sent_count = 0;
    p->state_due = true;
    if (p->epoch.next_seq < p->state.next_seq)
        p->epoch.next_seq = p->state.next_seq;
    repl_ship_restarted(&p->ship);
    p->greeted = true;
    p->recovering = false;
    comparisons_void(p, now_ns);
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
            p->send_number = p->sending = action.number;
            p->send_offset = action.offset;
            break;
        case REPL_SHIP_SEND_SUPPLY:
            p->supply_due = true;
            p->send_number = action.number;
            break;
        case REPL_SHIP_ACKNOWLEDGED:
            segment_acknowledged(p, action.number);
            break;
        case REPL_SHIP_RECOVER:
            p->recover_due = p->recovering = true;
            p->recover_head = action.head;
            all_segments_drop(p);
            repl_ship_dropped(&p->ship);
            comparisons_void(p, now_ns);
            break;
        case REPL_SHIP_RESTART:
            chain_restart(p, now_ns);
            break;
        }
    }
}

/* After an unclean end with segments that may have reached the site, the table is exact only once
 * the site has been asked, and has been heard out. */
static bool may_read(const struct repl_pipeline *p)
{
    return !p->stopping && !p->recovering && (p->greeted || p->state.sent_count == 0);
}

static int64_t epoch_drain(struct repl_pipeline *p, int64_t now_ns)
{
    struct repl_epoch_action action;
    if (!may_read(p))
        return INT64_MAX;
    repl_epoch_tick(&p->epoch, now_ns, &action);
    if (action.type == REPL_EPOCH_SYNC)
        p->sync_due = true;
    return action.until_ns;
}

static bool take(bool *due)
{
    bool was = *due;
    *due = false;
    return was;
}

static bool durability_next(struct repl_pipeline *p, int64_t now_ns,
                            struct repl_pipeline_action *action)
{
    remember_sending(p);
    if (p->state_due && !p->state_out) {
        p->state_due = false;
        p->state_out = true;
        action->type = REPL_PIPELINE_STATE;
        action->state = &p->state;
        return true;
    }
    if (checkpoint_wanted(p, now_ns)) {
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
    if (take(&p->hello_due)) {
        action->type = REPL_PIPELINE_HELLO;
    } else if (take(&p->recover_due)) {
        action->type = REPL_PIPELINE_RECOVER;
        action->from = p->ship.head;
        action->head = p->recover_head;
    } else if (take(&p->supply_due)) {
        action->type = REPL_PIPELINE_SUPPLY;
        action->number = p->send_number;
    } else if (take(&p->send_due)) {
        action->type = REPL_PIPELINE_SEND;
        action->number = p->send_number;
        action->offset = p->send_offset;
    } else {
        return false;
    }
    return true;
}

void repl_pipeline_next(struct repl_pipeline *p, int64_t now_ns,
                        struct repl_pipeline_action *action)
{
    int64_t ship_until = ship_drain(p, now_ns);
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
    if (durability_next(p, now_ns, action) || link_next(p, action))
        return;
    if (take(&p->release_due)) {
        action->type = REPL_PIPELINE_RELEASE;
        action->number = p->released;
    } else if (take(&p->sync_due)) {
        action->type = REPL_PIPELINE_SYNC;
    } else if (take(&p->sample_due)) {
        action->type = REPL_PIPELINE_SAMPLE;
    }
}

/* --- the link -------------------------------------------------------------------------------- */

void repl_pipeline_hello(const struct repl_pipeline *p, uint32_t rpo_ms, int64_t now_ns,
                         struct repl_hello *out)
{
    *out = (struct repl_hello){.version_min = REPL_PROTOCOL_MIN,
                               .version_max = REPL_PROTOCOL_MAX,
                               .volume = p->state.volume,
                               .kind = REPL_VOLUME_BLOCK,
                               .lineage = p->state.lineage,
                               .volume_size = p->options.volume_size,
                               .rpo_ms = rpo_ms,
                               .sent_ns = now_ns};
}

void repl_pipeline_welcome(struct repl_pipeline *p, const struct repl_welcome *welcome,
                           int64_t now_ns)
{
    repl_ship_welcome(&p->ship, welcome, now_ns);
    if (p->ship.state == REPL_SHIP_READY) {
        p->greeted = true;
        p->recovering = false;
    }
}

static void request_ended(struct repl_pipeline *p)
{
    p->send_due = p->supply_due = p->hello_due = p->recover_due = false;
    p->sending = 0;
}

void repl_pipeline_ack(struct repl_pipeline *p, const struct repl_ack *ack, int64_t now_ns)
{
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
    uint64_t end = page_count_of(offset + length);
    if (end > p->table.page_count)
        end = p->table.page_count;
    if (first < end)
        repl_digest_table_forget(&p->table, first, end - first);
}

void repl_pipeline_recovered(struct repl_pipeline *p, int64_t now_ns)
{
    all_segments_drop(p);
    repl_ship_recovered(&p->ship);
    p->greeted = true;
    p->recovering = false;
    /* The forgetting must be durable before the checkpoint says that the table is exact. */
    p->checkpoint_ns = 0;
    if (p->epoch.next_seq <= p->ship.head.to_seq)
        p->epoch.next_seq = p->ship.head.to_seq + p->ship.head.has_point;
    comparisons_void(p, now_ns);
}

/* --- for people ------------------------------------------------------------------------------ */

static enum repl_state pipeline_state(const struct repl_pipeline *p, int64_t now_ns, char *cause)
{
    const struct repl_ship *ship = &p->ship;
    int64_t stuck_ns = repl_epoch_stuck_ns(&p->epoch, now_ns);
    cause[0] = '\0';
    if (p->error.code != REPL_OK) {
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "%.*s", (int)REPL_WIRE_TEXT_MAX, p->error.text);
        return REPL_STATE_FAILED;
    }
    if (ship->state == REPL_SHIP_HALTED || ship->state == REPL_SHIP_DOWN) {
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1, "%s", ship->cause);
        return ship->state == REPL_SHIP_HALTED ? REPL_STATE_REFUSED : REPL_STATE_LINK_DOWN;
    }
    if (stuck_ns > STUCK_INTERVALS * p->epoch.interval_ns) {
        snprintf(cause, REPL_WIRE_TEXT_MAX + 1,
                 "for %lld s each comparison had a write fall into it, %u tries",
                 (long long)(stuck_ns / 1000000000), p->epoch.torn);
        return REPL_STATE_NO_WINDOW;
    }
    if (p->ship.point_seq == 0)
        return REPL_STATE_SEEDING;
    if (p->epoch.resync)
        return REPL_STATE_RESYNC;
    return p->segments == NULL && !p->reading ? REPL_STATE_IDLE : REPL_STATE_OK;
}

void repl_pipeline_report(const struct repl_pipeline *p, int64_t now_ns, struct repl_report *out)
{
    *out = (struct repl_report){.sent_ns = now_ns};
    out->state = pipeline_state(p, now_ns, out->cause);
    out->backlog_bytes =
        p->spool_bytes + (p->builder != NULL ? repl_segment_builder_size(p->builder) : 0);
    if (p->reading && (out->state == REPL_STATE_SEEDING || out->state == REPL_STATE_RESYNC)) {
        out->done_bytes = p->next_page * REPL_PAGE_SIZE;
        out->total_bytes = p->table.page_count * REPL_PAGE_SIZE;
    }
    /* Only of a point the site has, and only while the volume is known to equal it. */
    if (p->epoch.at_point && p->segments == NULL && p->ship.head.has_point &&
        p->unchanged_until_ns > 0) {
        out->seq = p->ship.point_seq;
        out->unchanged_until_ns = p->unchanged_until_ns;
    }
}
