#include "pipeline_internal.h"

#include <stdlib.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "base/limits.h"

void repl_pipeline_list_add(struct repl_pipeline_list *list, struct repl_pipeline_segment *segment)
{
    segment->prev = list->newest;
    segment->next = NULL;
    *(list->newest != NULL ? &list->newest->next : &list->oldest) = segment;
    list->newest = segment;
}

void repl_pipeline_list_remove(struct repl_pipeline_list *list,
                               struct repl_pipeline_segment *segment)
{
    *(segment->next != NULL ? &segment->next->prev : &list->newest) = segment->prev;
    *(segment->prev != NULL ? &segment->prev->next : &list->oldest) = segment->next;
}

void repl_pipeline_segment_free(struct repl_pipeline *p, struct repl_pipeline_list *list,
                                struct repl_pipeline_segment *segment)
{
    repl_pipeline_list_remove(list, segment);
    p->digest_bytes -= segment->digests.size;
    p->kept_bytes -= segment->kept;
    repl_buffer_fini(&segment->digests);
    free(segment);
}

/* --- giving up ------------------------------------------------------------------------------- */

void repl_pipeline_drop(struct repl_pipeline *p, uint64_t number)
{
    /* Without memory for eight bytes the segment stays in the spool until the next start. */
    repl_ignore(repl_buffer_append(&p->drops, &number, sizeof number, NULL));
    if (p->send_number == number)
        p->send_due = p->supply_due = false;
}

/* What was sent in a segment that is given up is not known to be at the site, nor known not to be:
 * its pages stay pending, are dirty, and are sent again whatever they hold. */
void repl_pipeline_give_up(struct repl_pipeline *p, struct repl_pipeline_segment *segment)
{
    const struct repl_batch_digest *digests = (const void *)segment->digests.data;
    size_t count = segment->digests.size / sizeof *digests;
    for (size_t i = 0; i < count; i++) {
        repl_digest_table_dropped(&p->table, digests[i].page, segment->number);
        repl_bitmap_set(&p->round.dirty, digests[i].page, 1);
    }
    p->epoch.resync |= segment->resync;
    if (segment->stamp != 0)
        p->options.records->lost(p->options.records->context, segment->stamp);
    /* of a block volume what is lost of a full is not made good by what other parts say */
    *(p->options.records != NULL ? &p->full_wanted : &p->full_asked) |= segment->full;
    repl_pipeline_drop(p, segment->number);
    repl_pipeline_segment_free(p, &p->segments, segment);
}

void repl_pipeline_abandon(struct repl_pipeline *p)
{
    if (p->builder == NULL)
        return;
    repl_segment_builder_free(p->builder);
    p->builder = NULL;
    repl_ship_abandon(&p->ship, p->number);
    ensure(p->segments.newest->number == p->number);
    repl_pipeline_give_up(p, p->segments.newest);
}

/* Its point, which the site will never have, as a time. */
static void lost_note(struct repl_pipeline *p, const struct repl_pipeline_segment *segment)
{
    struct repl_point point = segment->point;
    if (point.seq == 0)
        return;
    p->lost_points++;
    point.flags |= REPL_POINT_MERGED;
    /* Without memory for it, or with more of them than a segment holds, not even that. */
    if (p->lost.size / sizeof point + 1 < REPL_POINTS_MAX)
        repl_ignore(repl_buffer_append(&p->lost, &point, sizeof point, NULL));
}

static struct repl_pipeline_segment *segment_find(const struct repl_pipeline *p, uint64_t number)
{
    struct repl_pipeline_segment *segment = p->segments.oldest;
    while (segment != NULL && segment->number != number)
        segment = segment->next;
    return segment;
}

void repl_pipeline_spool_lost(struct repl_pipeline *p, uint64_t number, int64_t now_ns)
{
    if (segment_find(p, number) == NULL)
        return;
    repl_pipeline_abandon(p);
    for (struct repl_pipeline_segment *segment = segment_find(p, number), *next; segment != NULL;
         segment = next) {
        next = segment->next;
        p->spool_bytes -= segment->size;
        lost_note(p, segment);
        repl_pipeline_give_up(p, segment);
    }
    p->check_due = false;
    p->point_changed_bytes = 0;
    repl_ship_cut(&p->ship, number, &p->state);
    repl_pipeline_settle_all(p);
    repl_pipeline_round_void(p, now_ns);
}

void repl_pipeline_spool_full(struct repl_pipeline *p, uint64_t number,
                              const struct repl_error *err, int64_t now_ns)
{
    p->disk_full = true;
    p->error = *err;
    repl_pipeline_spool_lost(p, number, now_ns);
}

void repl_pipeline_spool_freed(struct repl_pipeline *p, int64_t now_ns)
{
    p->disk_full = false;
    repl_epoch_hurry(&p->epoch, now_ns);
}

void repl_pipeline_checked(struct repl_pipeline *p, uint64_t number, repl_result result,
                           const struct repl_error *err, int64_t now_ns)
{
    const struct repl_pipeline_segment *oldest = p->segments.oldest;
    if (p->ship.state != REPL_SHIP_CHECKING || oldest == NULL || oldest->number != number)
        return;
    if (repl_ok(result))
        repl_ship_checked(&p->ship, now_ns);
    else if (result.code == REPL_E_CORRUPT || result.code == REPL_E_VERSION ||
             result.code == REPL_E_IO)
        repl_pipeline_spool_lost(p, number, now_ns);
    else
        repl_ship_lost(&p->ship, err->text, now_ns);
}

/* --- the segment being built ----------------------------------------------------------------- */

/* A new full leaves parts that have no end behind: its points are later than theirs. */
static uint64_t next_seq(const struct repl_pipeline *p, const struct repl_head *tail)
{
    uint64_t behind = tail->to_seq + 1;
    return p->epoch.next_seq > behind || tail->has_point ? p->epoch.next_seq : behind;
}

repl_result repl_pipeline_begin(struct repl_pipeline *p, int64_t now_ns, struct repl_error *err)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    bool next_part = repl_pipeline_continues(p), full = repl_pipeline_is_full(p);
    bool tree = p->options.records != NULL;
    struct repl_segment_header header = {
        .version = REPL_SEGMENT_VERSION,
        .kind = REPL_SEGMENT_CHANGES,
        .volume_kind = tree ? REPL_VOLUME_TREE : REPL_VOLUME_BLOCK,
        .features = REPL_FEATURE_PAGES | (tree ? REPL_FEATURE_TREE : 0),
        .volume = p->state.volume,
        .lineage = p->state.lineage,
        .from_seq = full        ? 0
                    : next_part ? tail.from_seq
                                : tail.to_seq,
        .to_seq = next_part ? tail.to_seq : next_seq(p, &tail),
        .part = next_part ? tail.part + 1 : 0,
        .created_ns = now_ns,
        .prev = tail.digest,
    };
    struct repl_pipeline_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment");
    segment->number = ++p->number;
    segment->full = !tree && full;
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
        repl_pipeline_drop(p, segment->number); /* the sink may have taken some of it */
        free(segment);
        return result;
    }
    repl_pipeline_list_add(&p->segments, segment);
    p->epoch.next_seq = header.to_seq;
    return REPL_SUCCESS;
}

repl_result repl_pipeline_adopt(struct repl_pipeline *p, const struct repl_ship_segment *segment,
                                const struct repl_point *point, struct repl_buffer *digests,
                                uint64_t kept, struct repl_error *err)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    ensure(segment->complete && segment->number > p->number);
    ensure(repl_digest_equal(&tail.digest, &segment->prev));
    struct repl_pipeline_segment *adopted = calloc(1, sizeof *adopted);
    if (adopted == NULL || !repl_ok(repl_ship_begin(&p->ship, segment, err))) {
        free(adopted);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment");
    }
    /* What was on its way before a full does not count in what is still to be said of it. */
    if (segment->from_seq == 0 && segment->part == 0)
        repl_digest_table_begin_anew(&p->table, p->number);
    const struct repl_batch_digest *pages = (const void *)digests->data;
    size_t count = digests->size / sizeof *pages;
    for (size_t i = 0; i < count; i++)
        repl_digest_table_sent(&p->table, pages[i].page, &pages[i].digest, segment->number);
    adopted->number = p->number = segment->number;
    if (repl_pipeline_place_of(&p->state, &segment->digest) > 0) { /* the site may have it */
        p->released = segment->number;
        p->release_due = true;
    }
    adopted->size = segment->size;
    adopted->kept = kept;
    adopted->full = segment->from_seq == 0;
    p->full_wanted = p->full_wanted && !adopted->full; /* begun, at least */
    adopted->digests = *digests;
    *digests = (struct repl_buffer){0};
    p->spool_bytes += segment->size;
    p->digest_bytes += adopted->digests.size;
    p->kept_bytes += kept;
    repl_pipeline_list_add(&p->segments, adopted);
    uint64_t next_seq = segment->to_seq + segment->has_point;
    if (p->epoch.next_seq < next_seq)
        p->epoch.next_seq = next_seq;
    if (point != NULL) {
        adopted->point = p->point = *point;
        adopted->resync = (point->flags & REPL_POINT_RESYNC) != 0;
        if (adopted->resync && point->seq >= p->state.resync_seq)
            p->epoch.resync = false;
        if (p->epoch.last_end_ns < point->end_ns)
            p->epoch.last_end_ns = point->end_ns;
    }
    return REPL_SUCCESS;
}

static struct repl_pipeline_segment *building_segment(struct repl_pipeline *p)
{
    ensure(p->segments.newest->number == p->number);
    return p->segments.newest;
}

/* Points of segments that were given up, as far as they fit before this one: as times only. In
 * parts that go on with a point from before them, they do not. */
static repl_result finish_with_lost(struct repl_pipeline *p, const struct repl_point *point,
                                    struct repl_segment_footer *footer, struct repl_error *err)
{
    const struct repl_ship_segment *s = repl_ship_find(&p->ship, p->number);
    const struct repl_point *lost = (const void *)p->lost.data;
    struct repl_buffer points = {0};
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < p->lost.size / sizeof *lost; i++) {
        if (lost[i].seq > s->from_seq && lost[i].seq < point->seq &&
            lost[i].end_ns <= point->end_ns)
            result = repl_buffer_append(&points, &lost[i], sizeof lost[i], err);
    }
    if (repl_ok(result))
        result = repl_buffer_append(&points, point, sizeof *point, err);
    if (repl_ok(result))
        result = repl_segment_builder_finish(p->builder, (const void *)points.data,
                                             points.size / sizeof *point, footer, err);
    repl_buffer_fini(&points);
    if (repl_ok(result))
        p->lost.size = 0;
    return result;
}

static repl_result builder_finish(struct repl_pipeline *p, const struct repl_point *point,
                                  struct repl_segment_footer *footer, struct repl_error *err)
{
    return point != NULL ? finish_with_lost(p, point, footer, err)
                         : repl_segment_builder_finish(p->builder, NULL, 0, footer, err);
}

/* The same, with what there is to be said of a tree. */
static repl_result finish_with_records(struct repl_pipeline *p, const struct repl_point *point,
                                       struct repl_segment_footer *footer, struct repl_error *err)
{
    const struct repl_pipeline_records *records = p->options.records;
    struct repl_pipeline_segment *segment = building_segment(p);
    uint64_t to_seq = repl_ship_find(&p->ship, p->number)->to_seq;
    segment->full = repl_pipeline_is_full(p);
    REPL_TRY(records->begin(records->context, segment->full, to_seq, &segment->stamp, err));
    repl_segment_builder_records(p->builder, records->next, records->context);
    repl_result result = builder_finish(p, point, footer, err);
    segment->settled = records->end(records->context) ? segment->stamp : segment->stamp - 1;
    return result;
}

repl_result repl_pipeline_finish(struct repl_pipeline *p, const struct repl_point *point,
                                 bool records, struct repl_error *err)
{
    struct repl_segment_footer footer;
    REPL_TRY(records && p->options.records != NULL ? finish_with_records(p, point, &footer, err)
                                                   : builder_finish(p, point, &footer, err));
    repl_segment_builder_free(p->builder);
    p->builder = NULL;
    building_segment(p)->size = footer.file_size;
    if (point != NULL) {
        building_segment(p)->point = *point;
        building_segment(p)->resync = (point->flags & REPL_POINT_RESYNC) != 0;
        repl_pipeline_full_note(p, building_segment(p)->full);
    }
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
        REPL_TRY(repl_segment_builder_frame(p->builder, &batch->frame, batch->stored.data,
                                            batch->frame_pages_fit ? batch->frame_pages : NULL,
                                            &frame, err));
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

bool repl_pipeline_spool_is_full(const struct repl_pipeline *p)
{
    uint64_t building = p->builder != NULL ? repl_segment_builder_size(p->builder) : 0;
    bool full_of_tree = p->options.records != NULL && repl_pipeline_is_full(p);
    uint64_t digests = full_of_tree ? REPL_FULL_DIGESTS_MAX : REPL_VOLUME_DIGESTS_MAX;
    return p->spool_bytes + p->kept_bytes + building > p->options.spool_limit_bytes ||
           p->digest_bytes > digests || p->disk_full;
}

static repl_result batch_keep(struct repl_pipeline *p, const struct repl_batch *batch,
                              struct repl_error *err)
{
    uint64_t kept = 0;
    if (p->options.keep == NULL)
        return REPL_SUCCESS;
    REPL_TRY(p->options.keep(p->options.chunk_context, p->number, batch, &kept, err));
    building_segment(p)->kept += kept;
    p->kept_bytes += kept;
    return REPL_SUCCESS;
}

repl_result repl_pipeline_take(struct repl_pipeline *p, const struct repl_batch *batch,
                               int64_t now_ns, struct repl_error *err)
{
    if (batch->digest_count == 0)
        return REPL_SUCCESS;
    if (p->builder == NULL)
        REPL_TRY(repl_pipeline_begin(p, now_ns, err));
    /* On the segment's list before anything else: should the building fail, giving the segment up
     * makes what was noted of them void. */
    REPL_TRY(repl_buffer_append(&building_segment(p)->digests, batch->digests,
                                batch->digest_count * sizeof batch->digests[0], err));
    p->digest_bytes += batch->digest_count * sizeof batch->digests[0];
    for (uint32_t i = 0; i < batch->digest_count; i++)
        repl_digest_table_sent(&p->table, batch->digests[i].page, &batch->digests[i].digest,
                               p->number);
    REPL_TRY(batch_build(p, batch, err));
    REPL_TRY(batch_keep(p, batch, err));
    uint64_t bytes = (uint64_t)batch->digest_count * REPL_PAGE_SIZE;
    p->point_changed_bytes += bytes;
    p->changed_bytes += bytes;
    /* What is still being built cannot be acknowledged: with the spool full it would never get
     * empty again. */
    if (repl_segment_builder_size(p->builder) < REPL_SEGMENT_SOFT_LIMIT &&
        building_segment(p)->digests.size < REPL_PART_DIGESTS_MAX &&
        !repl_pipeline_spool_is_full(p))
        return REPL_SUCCESS;
    return repl_pipeline_finish(p, NULL, false, err);
}
