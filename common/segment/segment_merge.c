#include "segment/segment_merge.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/extent_map.h"
#include "base/hash.h"
#include "base/limits.h"
#include "segment/segment_chain.h"
#include "segment/tree_merge.h"

/* What is packed lies in the order in which it was written, and is read in that of the volume: for
 * a page here and there each time a whole frame is read and decoded. So frames are filled with no
 * more than PACK_MAX, which compresses nearly as well as more. One that survives whole is copied if
 * it has COPY_MIN; smaller ones are packed together, or merging would leave ever more of them. */
#define PACK_MAX (REPL_FRAME_RAW_MAX / 8)
#define COPY_MIN (PACK_MAX / 2)

/* Bytes of a frame that are kept. */
struct range {
    uint32_t begin, end;
};

/* A chunk that the result refers to. */
struct reference {
    struct repl_digest name;
    bool listed; /* in the result */
};

/*
 * Extents of the map and of pieces: source of DATA is segment << 32 | frame
 * (segment: its place in the run); of CHUNK the place of the name in names.
 */
struct merge {
    const struct repl_merge_options *options;
    struct repl_merge_report *report;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_segment_builder *builder;
    struct repl_tree_merge *tree; /* NULL: it is none */
    uint64_t record_count;        /* that have come out of it */

    struct repl_merge_range range;
    bool whole;     /* the run has all there is: it begins with a full, or is of the base */
    size_t first;   /* of the run: a full, or its beginning */
    uint64_t limit; /* what lies behind it in the segments still to be walked is gone */
    struct repl_extent_map extents;
    struct repl_buffer names;      /* struct repl_digest */
    struct repl_buffer references; /* struct reference, by name */
    struct repl_buffer pieces;     /* struct repl_extent: DATA, in the order of the frames */
    struct repl_buffer points;

    struct repl_buffer chunks; /* struct repl_chunk_entry of one segment, in order */
    struct repl_buffer ranges; /* of one frame */
    struct repl_buffer stored;
    uint8_t *raw; /* a frame as it was */

    uint8_t *packed; /* the frame being filled */
    size_t packed_size;
    struct repl_buffer packed_extents; /* what lies in it: struct repl_extent */
    struct repl_buffer packed_chunks;
    struct repl_buffer packed_stored;
};

#define TABLE(buffer, type) ((type *)(void *)(buffer).data)
#define COUNT(buffer, type) ((buffer).size / sizeof(type))

/* --- the run --------------------------------------------------------------------------------- */

static repl_result segment_error(const struct merge *m, size_t i, repl_result result,
                                 struct repl_error *err)
{
    const struct repl_segment_header *h = &m->options->segments[i]->header;
    return repl_forward(result, err, "segment %llu.%u", (unsigned long long)h->to_seq, h->part);
}

static repl_result links_check(const struct repl_merge_options *o, struct repl_error *err)
{
    for (size_t i = 1; i < o->segment_count; i++) {
        const struct repl_segment *older = o->segments[i - 1];
        struct repl_segment_link link = {.header = &older->header,
                                         .has_point = repl_segment_last_point(older) != NULL,
                                         .digest = o->links != NULL ? o->links[i - 1]
                                                                    : older->footer.digest};
        REPL_TRY(repl_segment_chain_check(&link, &o->segments[i]->header, err));
        if (older->header.volume_kind != o->segments[i]->header.volume_kind)
            return repl_fail(err, REPL_E_CORRUPT, "a segment of a tree and one of a block volume");
        if (older->header.lineage != o->segments[i]->header.lineage)
            return repl_fail(err, REPL_E_REFUSED,
                             "segments of lineage %llu and %llu are not merged: it would hide who "
                             "wrote what",
                             (unsigned long long)older->header.lineage,
                             (unsigned long long)o->segments[i]->header.lineage);
    }
    return REPL_SUCCESS;
}

/* The base is many segments side by side: only those that are given are looked at. */
static repl_result base_check(const struct repl_merge_options *o, struct repl_error *err)
{
    const struct repl_segment *last = o->segments[o->segment_count - 1];
    uint64_t to = 0;
    if (o->segments[0]->header.from_seq != 0 || repl_segment_last_point(last) == NULL)
        return repl_fail(err, REPL_E_REFUSED,
                         "the run does not lead from the base to a point: it is none of the base");
    for (size_t i = 0; i < o->segment_count; i++) {
        const struct repl_segment_header *h = &o->segments[i]->header;
        if (h->kind != REPL_SEGMENT_CHANGES || h->to_seq < to ||
            !repl_uuid_equal(&h->volume, &last->header.volume) ||
            h->volume_kind != last->header.volume_kind)
            return repl_fail(err, REPL_E_CORRUPT, "segment %llu.%u is not of that run",
                             (unsigned long long)h->to_seq, h->part);
        to = h->to_seq;
    }
    return REPL_SUCCESS;
}

static repl_result run_check(const struct repl_merge_options *o, struct repl_error *err)
{
    const struct repl_segment *first = o->segments[0], *last = o->segments[o->segment_count - 1];
    const struct repl_segment_header *a = &first->header, *z = &last->header;
    if (o->piece != NULL && o->piece->base)
        return base_check(o, err);
    if (a->kind != REPL_SEGMENT_CHANGES)
        return repl_fail(err, REPL_E_REFUSED, "a segment that carries only chunks is not merged");
    REPL_TRY(links_check(o, err));
    if (a->from_seq == z->from_seq && a->to_seq == z->to_seq)
        return REPL_SUCCESS;
    if (a->part > 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "the run begins with part %u of (%llu, %llu] and goes on behind it: no "
                         "segment can follow part %u and end there",
                         a->part, (unsigned long long)a->from_seq, (unsigned long long)a->to_seq,
                         a->part - 1);
    if (repl_segment_last_point(last) == NULL)
        return repl_fail(err, REPL_E_REFUSED,
                         "the run ends with part %u of (%llu, %llu], which is not the last: no "
                         "segment can end there and begin with an earlier point",
                         z->part, (unsigned long long)z->from_seq, (unsigned long long)z->to_seq);
    return REPL_SUCCESS;
}

static bool is_full(const struct repl_segment *segment)
{
    return segment->header.from_seq == 0 && segment->header.part == 0;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* One segment's points, behind those before them. The last one of a merged segment has the sum of
 * all; among those that keep only their times it gets back what is its own. */
static repl_result points_add(struct merge *m, const struct repl_segment *s, uint64_t *changed,
                              struct repl_error *err)
{
    uint64_t merged = 0;
    for (uint32_t i = 0; i < s->footer.point_count; i++) {
        struct repl_point point = s->points[i];
        size_t count = COUNT(m->points, struct repl_point);
        if (count > 0 && TABLE(m->points, struct repl_point)[count - 1].seq >= point.seq)
            return repl_fail(err, REPL_E_CORRUPT, "its point %llu is not behind those before it",
                             (unsigned long long)point.seq);
        if (i + 1 < s->footer.point_count) {
            merged = sum(merged, point.changed_bytes);
        } else {
            *changed = sum(*changed, point.changed_bytes);
            if (merged <= point.changed_bytes)
                point.changed_bytes -= merged;
        }
        point.flags |= REPL_POINT_MERGED;
        REPL_TRY(repl_buffer_append(&m->points, &point, sizeof point, err));
    }
    return REPL_SUCCESS;
}

static repl_result points_gather(struct merge *m, struct repl_error *err)
{
    const struct repl_merge_options *o = m->options;
    uint64_t changed = 0;
    for (size_t i = 0; i < o->segment_count; i++)
        REPL_TRY(segment_error(m, i, points_add(m, o->segments[i], &changed, err), err));
    size_t count = COUNT(m->points, struct repl_point);
    if (count > REPL_POINTS_MAX)
        return repl_fail(err, REPL_E_REFUSED, "a segment can hold %u points, the run has %zu",
                         REPL_POINTS_MAX, count);
    if (count > 0) {
        struct repl_point *last = &TABLE(m->points, struct repl_point)[count - 1];
        last->flags &= (uint16_t)~REPL_POINT_MERGED;
        last->changed_bytes = changed;
    }
    return REPL_SUCCESS;
}

/* Of pieces the last one has the run's last point; those before it are not to be had any more. */
static repl_result piece_point(struct merge *m, struct repl_error *err)
{
    const struct repl_merge_options *o = m->options;
    const struct repl_point *last = repl_segment_last_point(o->segments[o->segment_count - 1]);
    uint64_t changed = 0;
    if (last == NULL || !o->piece->last)
        return REPL_SUCCESS;
    struct repl_point point = *last;
    for (size_t i = 0; i < o->segment_count; i++) {
        const struct repl_point *of = repl_segment_last_point(o->segments[i]);
        if (of != NULL && o->segments[i]->header.from_seq != 0)
            changed = sum(changed, of->changed_bytes);
    }
    if (changed > 0) /* else it is the full's own */
        point.changed_bytes = changed;
    return repl_buffer_append(&m->points, &point, sizeof point, err);
}

/* --- the manifests --------------------------------------------------------------------------- */

/* The first byte in [offset, end) of which no segment walked so far speaks; end: there is none. */
static uint64_t first_gap(const struct merge *m, uint64_t offset, uint64_t end)
{
    struct repl_extent_cursor cursor = repl_extent_map_seek(&m->extents, offset);
    const struct repl_extent *e;
    while (offset < end && (e = repl_extent_cursor_next(&cursor)) != NULL && e->offset <= offset)
        offset = e->offset + e->length;
    return offset < end ? offset : end;
}

static bool ends_in_point(const struct merge *m)
{
    const struct repl_merge_options *o = m->options;
    return repl_segment_last_point(o->segments[o->segment_count - 1]) != NULL;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t greatest(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* What lies behind the end of a segment's volume is not in it nor in any older one, whatever they
 * say: newer ones must have spoken of it. */
static repl_result size_add(struct merge *m, uint64_t size, struct repl_error *err)
{
    if (size >= m->limit)
        return REPL_SUCCESS;
    uint64_t end = least(m->limit, m->range.end);
    uint64_t gap = first_gap(m, greatest(size, m->range.begin), end);
    if (gap < end)
        return repl_fail(err, ends_in_point(m) ? REPL_E_CORRUPT : REPL_E_REFUSED,
                         "the volume has %llu bytes and is larger later, but no segment of the run "
                         "after it carries the bytes from offset %llu",
                         (unsigned long long)size, (unsigned long long)gap);
    m->limit = size;
    return REPL_SUCCESS;
}

static repl_result record_add(struct merge *m, size_t i, const struct repl_record *record,
                              struct repl_error *err)
{
    uint64_t begin = greatest(record->offset, m->range.begin);
    uint64_t end = least(record->offset + record->length, least(m->limit, m->range.end));
    if (begin >= end)
        return REPL_SUCCESS;
    uint32_t cut = (uint32_t)(begin - record->offset); /* 0 where it could be more: ZERO */
    struct repl_extent extent = {.offset = begin, .length = end - begin, .type = record->type};
    if (record->type == REPL_RECORD_DATA) {
        extent.source = (uint64_t)i << 32 | record->frame;
        extent.source_offset = record->frame_offset + cut;
    } else if (record->type == REPL_RECORD_CHUNK) {
        extent.source = COUNT(m->names, struct repl_digest);
        extent.source_offset = record->chunk_offset + cut;
        REPL_TRY(repl_buffer_append(&m->names, &record->chunk, sizeof record->chunk, err));
    }
    return repl_extent_map_fill(&m->extents, &extent, err);
}

static repl_result too_large(struct merge *m, struct repl_error *err)
{
    m->report->too_large = true;
    return repl_fail(err, REPL_E_REFUSED, "the stretch from offset %llu is too much for a piece",
                     (unsigned long long)m->range.begin);
}

static repl_result extents_check(struct merge *m, struct repl_error *err)
{
    const struct repl_merge_piece *piece = m->options->piece;
    return piece != NULL && m->extents.extent_count > piece->extents_max ? too_large(m, err)
                                                                         : REPL_SUCCESS;
}

static repl_result manifest_add(struct merge *m, size_t i, struct repl_error *err)
{
    struct repl_record_walk walk;
    repl_record_walk_begin(&walk, m->options->segments[i], m->coder);
    repl_result result;
    for (bool done = false;;) {
        struct repl_record record;
        result = repl_record_walk_next(&walk, &record, &done, err);
        if (!repl_ok(result) || done || record.object != REPL_OBJECT_DEVICE ||
            (record.type != REPL_RECORD_OBJECT && record.offset >= m->range.end))
            break;
        if (record.type != REPL_RECORD_OBJECT)
            result = record_add(m, i, &record, err);
        else if (i + 1 == m->options->segment_count)
            m->report->volume_size = m->limit = record.size;
        else
            result = size_add(m, record.size, err);
        if (repl_ok(result) && record.type == REPL_RECORD_OBJECT)
            repl_record_walk_seek(&walk, REPL_OBJECT_DEVICE, m->range.begin);
        if (repl_ok(result))
            result = extents_check(m, err);
        if (!repl_ok(result))
            break;
    }
    repl_record_walk_end(&walk);
    return result;
}

static bool is_base(const struct repl_merge_options *o)
{
    return o->piece != NULL && o->piece->base;
}

static repl_result manifests_walk(struct merge *m, struct repl_error *err)
{
    const struct repl_merge_options *o = m->options;
    for (size_t i = o->segment_count; i-- > 0;) {
        m->first = i;
        REPL_TRY(segment_error(m, i, manifest_add(m, i, err), err));
        m->whole = is_full(o->segments[i]) && !is_base(o);
        if (m->whole)
            break;
    }
    m->whole |= is_base(o);
    uint64_t size = least(m->report->volume_size, m->range.end);
    uint64_t gap = first_gap(m, m->range.begin, size);
    if (m->whole && ends_in_point(m) && gap < size)
        return repl_fail(err, REPL_E_CORRUPT,
                         "the run begins with a full, but no segment carries the bytes from offset "
                         "%llu",
                         (unsigned long long)gap);
    return REPL_SUCCESS;
}

static int reference_order(const void *a, const void *b)
{
    const struct reference *x = a, *y = b;
    return memcmp(x->name.bytes, y->name.bytes, sizeof x->name.bytes);
}

static int piece_order(const void *a, const void *b)
{
    const struct repl_extent *x = a, *y = b;
    if (x->source != y->source)
        return x->source < y->source ? -1 : 1;
    if (x->source_offset != y->source_offset)
        return x->source_offset < y->source_offset ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* From the order of the volume to that of the frames, and which chunks must still be found. */
static repl_result survivors_sort(struct merge *m, struct repl_error *err)
{
    struct repl_extent_cursor cursor = repl_extent_map_seek(&m->extents, 0);
    for (const struct repl_extent *e; (e = repl_extent_cursor_next(&cursor)) != NULL;) {
        if (e->type == REPL_RECORD_DATA)
            REPL_TRY(repl_buffer_append(&m->pieces, e, sizeof *e, err));
        if (e->type != REPL_RECORD_CHUNK)
            continue;
        struct reference r = {.name = TABLE(m->names, struct repl_digest)[e->source]};
        REPL_TRY(repl_buffer_append(&m->references, &r, sizeof r, err));
    }
    size_t pieces = COUNT(m->pieces, struct repl_extent);
    size_t references = COUNT(m->references, struct reference), unique = 0;
    struct reference *r = TABLE(m->references, struct reference);
    if (pieces > 1)
        qsort(m->pieces.data, pieces, sizeof(struct repl_extent), piece_order);
    if (references > 1)
        qsort(r, references, sizeof *r, reference_order);
    for (size_t i = 0; i < references; i++) {
        if (unique == 0 || !repl_digest_equal(&r[unique - 1].name, &r[i].name))
            r[unique++] = r[i];
    }
    m->references.size = unique * sizeof *r;
    return REPL_SUCCESS;
}

static struct reference *reference_find(const struct merge *m, const struct repl_digest *name)
{
    struct reference *all = TABLE(m->references, struct reference);
    for (size_t low = 0, high = COUNT(m->references, struct reference); low < high;) {
        size_t middle = low + (high - low) / 2;
        int order = memcmp(name->bytes, all[middle].name.bytes, sizeof name->bytes);
        if (order == 0)
            return &all[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* --- writing --------------------------------------------------------------------------------- */

/* What has no bytes in a frame. */
static repl_result extents_write(struct merge *m, struct repl_error *err)
{
    uint64_t name = UINT64_MAX, source = 0; /* of the reference made last */
    struct repl_extent_cursor cursor = repl_extent_map_seek(&m->extents, 0);
    for (const struct repl_extent *e; (e = repl_extent_cursor_next(&cursor)) != NULL;) {
        struct repl_extent extent = *e;
        if (e->type == REPL_RECORD_DATA)
            continue;
        if (e->type == REPL_RECORD_CHUNK) {
            if (e->source != name)
                REPL_TRY(repl_segment_builder_reference(
                    m->builder, &TABLE(m->names, struct repl_digest)[e->source], &source, err));
            name = e->source;
            extent.source = source;
        }
        REPL_TRY(repl_segment_builder_extent(m->builder, &extent, err));
    }
    return REPL_SUCCESS;
}

static repl_result frame_write(struct merge *m, const struct repl_frame_entry *entry,
                               const void *stored, const uint8_t *raw, uint32_t *index,
                               struct repl_error *err)
{
    struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
    if (repl_segment_builder_size(m->builder) + entry->stored_size > REPL_SEGMENT_HARD_LIMIT)
        return repl_fail(err, REPL_E_REFUSED,
                         "what survives of the run is more than a segment can hold");
    repl_page_digests(m->sha, raw, entry->raw_size, pages);
    return repl_segment_builder_frame(m->builder, entry, stored, pages, index, err);
}

static repl_result packed_flush(struct merge *m, struct repl_error *err)
{
    struct repl_frame_entry entry;
    uint32_t index;
    if (m->packed_size == 0)
        return REPL_SUCCESS;
    m->packed_stored.size = 0;
    REPL_TRY(
        repl_frame_encode(m->coder, m->packed, m->packed_size, &m->packed_stored, &entry, err));
    REPL_TRY(frame_write(m, &entry, m->packed_stored.data, m->packed, &index, err));
    m->report->packed_frames++;
    m->packed_size = 0;
    for (size_t i = 0; i < COUNT(m->packed_extents, struct repl_extent); i++) {
        struct repl_extent *extent = &TABLE(m->packed_extents, struct repl_extent)[i];
        extent->source = index;
        REPL_TRY(repl_segment_builder_extent(m->builder, extent, err));
    }
    for (size_t i = 0; i < COUNT(m->packed_chunks, struct repl_chunk_entry); i++) {
        struct repl_chunk_entry *chunk = &TABLE(m->packed_chunks, struct repl_chunk_entry)[i];
        chunk->frame = index;
        REPL_TRY(repl_segment_builder_chunk(m->builder, chunk, err));
    }
    m->packed_extents.size = m->packed_chunks.size = 0;
    return REPL_SUCCESS;
}

/* One frame of the run, and what of it concerns the result. */
struct survivor {
    const struct repl_segment *segment;
    uint32_t frame;
    const struct repl_extent *pieces;
    size_t piece_count;
    const struct repl_chunk_entry *chunks; /* listed in it */
    size_t chunk_count;
};

static int range_order(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Whether a chunk must be kept even where nothing else of its frame is. */
static bool chunk_wanted(struct merge *m, const struct repl_digest *name)
{
    const struct repl_merge_options *o = m->options;
    struct reference *reference = reference_find(m, name);
    bool referred = reference != NULL && !reference->listed;
    bool wanted =
        o->chunk_wanted != NULL ? o->chunk_wanted(o->chunk_context, name, referred) : referred;
    if (reference != NULL)
        reference->listed |= wanted;
    return wanted;
}

static repl_result range_add(struct merge *m, uint32_t begin, uint64_t length,
                             struct repl_error *err)
{
    struct range range = {begin, begin + (uint32_t)length};
    return repl_buffer_append(&m->ranges, &range, sizeof range, err);
}

/* The bytes to keep, as ranges in order that neither overlap nor touch: bytes that several extents
 * share are kept once, and a chunk that is kept lies in one range. */
static repl_result ranges_find(struct merge *m, const struct survivor *s, struct repl_error *err)
{
    m->ranges.size = 0;
    for (size_t i = 0; i < s->piece_count; i++)
        REPL_TRY(range_add(m, s->pieces[i].source_offset, s->pieces[i].length, err));
    for (size_t i = 0; i < s->chunk_count; i++) {
        if (chunk_wanted(m, &s->chunks[i].name))
            REPL_TRY(range_add(m, s->chunks[i].frame_offset, REPL_CHUNK_SIZE, err));
    }
    size_t count = COUNT(m->ranges, struct range), joined = 0;
    struct range *r = TABLE(m->ranges, struct range);
    if (count > 1)
        qsort(r, count, sizeof *r, range_order);
    for (size_t i = 0; i < count; i++) {
        if (joined > 0 && r[i].begin <= r[joined - 1].end) {
            if (r[joined - 1].end < r[i].end)
                r[joined - 1].end = r[i].end;
        } else {
            r[joined++] = r[i];
        }
    }
    m->ranges.size = joined * sizeof *r;
    return REPL_SUCCESS;
}

/* The frame goes as it lies. */
static repl_result frame_copy(struct merge *m, const struct survivor *s, struct repl_error *err)
{
    uint32_t index;
    REPL_TRY(frame_write(m, &s->segment->frames[s->frame], m->stored.data, m->raw, &index, err));
    m->report->copied_frames++;
    for (size_t i = 0; i < s->piece_count; i++) {
        struct repl_extent extent = s->pieces[i];
        extent.source = index;
        REPL_TRY(repl_segment_builder_extent(m->builder, &extent, err));
    }
    for (size_t i = 0; i < s->chunk_count; i++) {
        struct repl_chunk_entry chunk = s->chunks[i];
        chunk.frame = index;
        REPL_TRY(repl_segment_builder_chunk(m->builder, &chunk, err));
    }
    m->report->dropped_chunks -= s->chunk_count;
    return REPL_SUCCESS;
}

/* Packs one range, and notes where its extents and chunks lie now. */
static repl_result range_pack(struct merge *m, const struct survivor *s, const struct range *range,
                              size_t *piece, size_t *chunk, struct repl_error *err)
{
    uint32_t size = range->end - range->begin;
    if (m->packed_size + size > PACK_MAX)
        REPL_TRY(packed_flush(m, err));
    uint32_t base = (uint32_t)m->packed_size;
    memcpy(m->packed + base, m->raw + range->begin, size);
    m->packed_size += size;
    for (; *piece < s->piece_count && s->pieces[*piece].source_offset < range->end; (*piece)++) {
        struct repl_extent extent = s->pieces[*piece];
        extent.source_offset += base - range->begin;
        REPL_TRY(repl_buffer_append(&m->packed_extents, &extent, sizeof extent, err));
    }
    for (; *chunk < s->chunk_count && s->chunks[*chunk].frame_offset < range->end; (*chunk)++) {
        struct repl_chunk_entry entry = s->chunks[*chunk];
        if (entry.frame_offset < range->begin || entry.frame_offset + REPL_CHUNK_SIZE > range->end)
            continue;
        entry.frame_offset += base - range->begin;
        REPL_TRY(repl_buffer_append(&m->packed_chunks, &entry, sizeof entry, err));
        m->report->dropped_chunks--;
    }
    return REPL_SUCCESS;
}

static repl_result frame_carry(struct merge *m, const struct survivor *s, struct repl_error *err)
{
    size_t raw_size, piece = 0, chunk = 0;
    REPL_TRY(ranges_find(m, s, err));
    if (m->ranges.size == 0)
        return REPL_SUCCESS;
    REPL_TRY(repl_forward(
        repl_segment_read_frame(s->segment, s->frame, m->coder, &m->stored, m->raw, &raw_size, err),
        err, "segment %llu.%u: frame %u", (unsigned long long)s->segment->header.to_seq,
        s->segment->header.part, s->frame));
    const struct range *ranges = TABLE(m->ranges, struct range);
    if (raw_size >= COPY_MIN && ranges[0].begin == 0 && ranges[0].end == raw_size)
        return frame_copy(m, s, err);
    for (size_t i = 0; i < COUNT(m->ranges, struct range); i++)
        REPL_TRY(range_pack(m, s, &ranges[i], &piece, &chunk, err));
    ensure(piece == s->piece_count);
    return REPL_SUCCESS;
}

static int chunk_order(const void *a, const void *b)
{
    const struct repl_chunk_entry *x = a, *y = b;
    if (x->frame != y->frame)
        return x->frame < y->frame ? -1 : 1;
    return x->frame_offset < y->frame_offset ? -1 : x->frame_offset > y->frame_offset;
}

/* The frames of a segment, the i-th of the run, of which pieces from *piece on lie in it. */
static repl_result segment_carry(struct merge *m, const struct repl_segment *segment, uint64_t i,
                                 size_t *piece, struct repl_error *err)
{
    size_t chunk_count = segment->footer.chunk_count, chunk = 0;
    size_t piece_count = COUNT(m->pieces, struct repl_extent);
    m->chunks.size = 0;
    REPL_TRY(repl_buffer_append(&m->chunks, segment->chunks, chunk_count * sizeof *segment->chunks,
                                err));
    const struct repl_chunk_entry *chunks = TABLE(m->chunks, struct repl_chunk_entry);
    if (chunk_count > 1)
        qsort(m->chunks.data, chunk_count, sizeof *chunks, chunk_order);
    const struct repl_extent *pieces = TABLE(m->pieces, struct repl_extent);
    for (uint32_t frame = 0; frame < segment->footer.frame_count; frame++) {
        size_t first_piece = *piece, first_chunk = chunk;
        while (*piece < piece_count && pieces[*piece].source == (i << 32 | frame))
            ++*piece;
        while (chunk < chunk_count && chunks[chunk].frame == frame)
            chunk++;
        struct survivor survivor = {.segment = segment,
                                    .frame = frame,
                                    .piece_count = *piece - first_piece,
                                    .chunk_count = chunk - first_chunk};
        if (survivor.piece_count > 0)
            survivor.pieces = &pieces[first_piece];
        if (survivor.chunk_count > 0)
            survivor.chunks = &chunks[first_chunk];
        if (survivor.piece_count > 0 || survivor.chunk_count > 0)
            REPL_TRY(frame_carry(m, &survivor, err));
    }
    return REPL_SUCCESS;
}

static void report_input(struct repl_merge_report *report, const struct repl_segment *segment)
{
    report->input_size_bytes += segment->footer.file_size;
    report->dropped_bytes += segment->footer.raw_size;
    report->dropped_chunks += segment->footer.chunk_count;
}

static void report_begin(struct merge *m)
{
    const struct repl_merge_options *o = m->options;
    const struct repl_segment_header *last = &o->segments[o->segment_count - 1]->header;
    struct repl_segment_header *header = &m->report->header;
    *header = o->segments[0]->header;
    header->to_seq = last->to_seq;
    header->features |= REPL_FEATURE_PAGES;
    if (m->first > 0)
        header->from_seq = 0;
    if (o->piece != NULL) {
        header->part = o->piece->part;
        header->prev = o->piece->prev;
        header->lineage = last->lineage;
        header->features |= last->features;
    }
    for (size_t i = 0; i < o->segment_count; i++)
        report_input(m->report, o->segments[i]);
    for (size_t i = 0; i < o->donor_count; i++)
        report_input(m->report, o->donors[i]);
}

static repl_result tree_record_next(void *context, struct repl_record *record, bool *done,
                                    struct repl_error *err)
{
    struct merge *m = context;
    REPL_TRY(repl_tree_merge_next(m->tree, record, done, err));
    if (m->options->piece != NULL && !*done && ++m->record_count > m->options->piece->records_max) {
        m->report->too_large = true;
        return repl_fail(err, REPL_E_REFUSED, "the objects from %llu on are too many for a piece",
                         (unsigned long long)m->range.object_begin);
    }
    return REPL_SUCCESS;
}

/* A full hides the data of what lies before it, not the chunks that others may want. */
static repl_result result_write(struct merge *m, struct repl_error *err)
{
    const struct repl_merge_options *o = m->options;
    size_t piece = 0;
    REPL_TRY(repl_segment_builder_new(&m->report->header, m->report->volume_size, o->sink,
                                      o->sink_context, &m->builder, err));
    REPL_TRY(extents_write(m, err));
    for (size_t i = 0; i < o->segment_count; i++)
        REPL_TRY(segment_carry(m, o->segments[i], i, &piece, err));
    for (size_t i = 0; i < o->donor_count; i++)
        REPL_TRY(segment_carry(m, o->donors[i], UINT32_MAX, &piece, err));
    ensure(piece == COUNT(m->pieces, struct repl_extent));
    REPL_TRY(packed_flush(m, err));
    if (m->report->header.volume_kind == REPL_VOLUME_TREE &&
        m->range.object_begin < m->range.object_end) {
        const struct repl_tree_merge_options tree = {.segments = o->segments + m->first,
                                                     .segment_count = o->segment_count - m->first,
                                                     .full = m->whole,
                                                     .object_begin = m->range.object_begin,
                                                     .object_end = m->range.object_end};
        REPL_TRY(repl_tree_merge_new(&tree, m->coder, &m->tree, err));
        repl_segment_builder_records(m->builder, tree_record_next, m);
    }
    REPL_TRY(repl_segment_builder_finish(m->builder, TABLE(m->points, struct repl_point),
                                         COUNT(m->points, struct repl_point), &m->report->footer,
                                         err));
    m->report->dropped_bytes -= m->report->footer.raw_size;
    return REPL_SUCCESS;
}

static repl_result raw_size_check(struct merge *m, struct repl_error *err)
{
    uint64_t raw_size = 0;
    for (size_t i = 0; i < COUNT(m->pieces, struct repl_extent); i++)
        raw_size += TABLE(m->pieces, struct repl_extent)[i].length;
    return m->options->piece != NULL && raw_size > m->options->piece->raw_size_max
               ? too_large(m, err)
               : REPL_SUCCESS;
}

static repl_result merge(struct merge *m, struct repl_error *err)
{
    REPL_TRY(run_check(m->options, err));
    REPL_TRY(m->options->piece != NULL ? piece_point(m, err) : points_gather(m, err));
    REPL_TRY(repl_frame_coder_new(&m->coder, err));
    REPL_TRY(repl_sha256_new(&m->sha, err));
    m->raw = malloc(REPL_FRAME_RAW_MAX);
    m->packed = malloc(REPL_FRAME_RAW_MAX);
    if (m->raw == NULL || m->packed == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for two frames");
    REPL_TRY(manifests_walk(m, err));
    REPL_TRY(survivors_sort(m, err));
    REPL_TRY(raw_size_check(m, err));
    report_begin(m);
    return result_write(m, err);
}

repl_result repl_segment_merge(const struct repl_merge_options *options,
                               struct repl_merge_report *report, struct repl_error *err)
{
    ensure(options->segment_count > 0);
    *report = (struct repl_merge_report){0};
    struct merge m = {.options = options,
                      .report = report,
                      .range = options->piece != NULL
                                   ? options->piece->range
                                   : (struct repl_merge_range){.end = UINT64_MAX,
                                                               .object_begin = REPL_OBJECT_ROOT,
                                                               .object_end = UINT64_MAX}};
    repl_extent_map_init(&m.extents);
    repl_result result = merge(&m, err);
    repl_segment_builder_free(m.builder);
    repl_tree_merge_free(m.tree);
    repl_frame_coder_free(m.coder);
    repl_sha256_free(m.sha);
    repl_extent_map_fini(&m.extents);
    struct repl_buffer *const buffers[] = {
        &m.names,  &m.references, &m.pieces,         &m.points,        &m.chunks,
        &m.ranges, &m.stored,     &m.packed_extents, &m.packed_chunks, &m.packed_stored};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        repl_buffer_fini(buffers[i]);
    free(m.raw);
    free(m.packed);
    return result;
}
