#include "repl/view.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "view_internal.h"

static repl_result segment_add(struct repl_view *v, const struct repl_segment *segment,
                               struct repl_error *err)
{
    if (v->segment_count == v->segment_capacity) {
        size_t capacity = v->segment_capacity ? 2 * v->segment_capacity : 16;
        const struct repl_segment **segments = realloc(v->segments, capacity * sizeof *v->segments);
        if (segments == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for a view of %zu segments",
                             v->segment_count);
        v->segments = segments;
        v->segment_capacity = capacity;
    }
    v->segments[v->segment_count++] = segment;
    return REPL_SUCCESS;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static repl_result record_add(struct repl_view *v, const struct repl_record *record, size_t segment,
                              struct repl_error *err)
{
    uint64_t begin = record->offset > v->begin ? record->offset : v->begin;
    uint64_t end = least(record->offset + record->length, least(v->size, v->end));
    if (begin >= end) /* or the volume was larger then */
        return REPL_SUCCESS;
    uint32_t cut =
        (uint32_t)(begin - record->offset); /* too small for ZERO, which has no use of it */
    struct repl_extent extent = {.offset = begin, .length = end - begin, .type = record->type};
    if (record->type == REPL_RECORD_DATA) {
        extent.source = (uint64_t)segment << 32 | record->frame;
        extent.source_offset = record->frame_offset + cut;
    } else if (record->type == REPL_RECORD_CHUNK) {
        extent.source = v->names.size / sizeof record->chunk;
        extent.source_offset = record->chunk_offset + cut;
        REPL_TRY(repl_buffer_append(&v->names, &record->chunk, sizeof record->chunk, err));
    }
    return repl_extent_map_fill(&v->extents, &extent, err);
}

static repl_result manifest_add(struct repl_view *v, size_t segment, struct repl_frame_coder *coder,
                                struct repl_error *err)
{
    struct repl_record_walk walk;
    repl_record_walk_begin(&walk, v->segments[segment], coder);
    repl_result result;
    for (bool done = false;;) {
        struct repl_record record;
        result = repl_record_walk_next(&walk, &record, &done, err);
        if (!repl_ok(result) || done || record.object != REPL_OBJECT_DEVICE ||
            (record.type != REPL_RECORD_OBJECT && record.offset >= v->end))
            break; /* what comes behind the space is no content */
        if (record.type == REPL_RECORD_OBJECT) {
            if (segment == 0)
                v->size = record.size;
            repl_record_walk_seek(&walk, REPL_OBJECT_DEVICE, v->begin);
            continue;
        }
        result = record_add(v, &record, segment, err);
        if (!repl_ok(result))
            break;
    }
    repl_record_walk_end(&walk);
    return result;
}

/* The first byte that nothing covers; size: all is covered. */
static uint64_t first_gap(const struct repl_view *v)
{
    uint64_t end = 0;
    struct repl_extent_cursor cursor = repl_extent_map_seek(&v->extents, 0);
    for (const struct repl_extent *e; (e = repl_extent_cursor_next(&cursor)) != NULL;) {
        if (e->offset > end)
            break;
        end = e->offset + e->length;
    }
    return end;
}

static repl_result segments_walk(struct repl_view *v, repl_view_segment_fn *segment_at,
                                 struct repl_frame_coder *coder, bool whole, struct repl_error *err)
{
    for (size_t i = 0;; i++) {
        const struct repl_segment *segment;
        REPL_TRY(segment_at(v->context, i, &segment, err));
        if (segment == NULL)
            break;
        if (whole && i == 0 && repl_segment_last_point(segment) == NULL)
            return repl_fail(err, REPL_E_CORRUPT, "segment %llu.%u does not end in a point",
                             (unsigned long long)segment->header.to_seq, segment->header.part);
        REPL_TRY(segment_add(v, segment, err));
        REPL_TRY(repl_forward(manifest_add(v, i, coder, err), err, "segment %llu.%u",
                              (unsigned long long)segment->header.to_seq, segment->header.part));
    }
    if (v->segment_count == 0)
        return repl_fail(err, REPL_E_MISSING, "no segment ends in this point");
    uint64_t gap = first_gap(v);
    if (whole && gap < v->size)
        return repl_fail(err, REPL_E_MISSING,
                         "no segment carries the bytes from offset %llu: an older one is missing",
                         (unsigned long long)gap);
    return REPL_SUCCESS;
}

static repl_result view_open(repl_view_segment_fn *segment_at, repl_view_chunk_fn *find_chunk,
                             void *context, uint64_t begin, uint64_t end, bool whole,
                             struct repl_view **out, struct repl_error *err)
{
    struct repl_view *v = calloc(1, sizeof *v);
    if (v == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a view");
    repl_extent_map_init(&v->extents);
    v->begin = begin;
    v->end = end;
    v->find_chunk = find_chunk;
    v->context = context;
    struct repl_frame_coder *coder = NULL;
    repl_result result = repl_frame_coder_new(&coder, err);
    if (repl_ok(result))
        result = segments_walk(v, segment_at, coder, whole, err);
    repl_frame_coder_free(coder);
    if (!repl_ok(result)) {
        repl_view_free(v);
        return result;
    }
    *out = v;
    return REPL_SUCCESS;
}

repl_result repl_view_open(repl_view_segment_fn *segment_at, repl_view_chunk_fn *find_chunk,
                           void *context, struct repl_view **out, struct repl_error *err)
{
    return view_open(segment_at, find_chunk, context, 0, UINT64_MAX, true, out, err);
}

repl_result repl_view_open_changes(repl_view_segment_fn *segment_at, repl_view_chunk_fn *find_chunk,
                                   void *context, uint64_t begin, uint64_t end,
                                   struct repl_view **out, struct repl_error *err)
{
    return view_open(segment_at, find_chunk, context, begin, end, false, out, err);
}

void repl_view_free(struct repl_view *v)
{
    if (v == NULL)
        return;
    repl_extent_map_fini(&v->extents);
    repl_buffer_fini(&v->names);
    free(v->segments);
    free(v);
}

void repl_view_fetch_by(struct repl_view *v, repl_view_fetch_fn *fetch)
{
    v->fetch = fetch;
}

uint64_t repl_view_size(const struct repl_view *v)
{
    return v->size;
}

size_t repl_view_segment_count(const struct repl_view *v)
{
    return v->segment_count;
}

uint64_t repl_view_extent_count(const struct repl_view *v)
{
    return v->extents.extent_count;
}

uint64_t repl_view_stretch(const struct repl_view *v, uint64_t offset, uint64_t limit, bool *zero)
{
    ensure(offset < v->size && limit > 0);
    uint64_t end = limit < v->size - offset ? offset + limit : v->size;
    uint64_t at = offset;
    struct repl_extent_cursor cursor = repl_extent_map_seek(&v->extents, offset);
    const struct repl_extent *e = repl_extent_cursor_next(&cursor);
    *zero = e != NULL && e->type == REPL_RECORD_ZERO;
    for (; e != NULL && at < end && (e->type == REPL_RECORD_ZERO) == *zero;
         e = repl_extent_cursor_next(&cursor))
        at = e->offset + e->length;
    return (at < end ? at : end) - offset;
}

uint64_t repl_view_said(const struct repl_view *v, uint64_t offset, uint64_t limit, bool *said)
{
    ensure(offset < v->size && limit > 0);
    uint64_t end = limit < v->size - offset ? offset + limit : v->size;
    uint64_t at = offset;
    struct repl_extent_cursor cursor = repl_extent_map_seek(&v->extents, offset);
    const struct repl_extent *e = repl_extent_cursor_next(&cursor);
    *said = e != NULL && e->offset <= offset;
    if (!*said)
        at = e != NULL ? e->offset : end;
    for (; *said && e != NULL && e->offset <= at && at < end; e = repl_extent_cursor_next(&cursor))
        at = e->offset + e->length;
    return (at < end ? at : end) - offset;
}

repl_result repl_view_needs(const struct repl_view *v, uint64_t offset, uint64_t length,
                            repl_view_need_fn *need, void *context, struct repl_error *err)
{
    struct repl_extent_cursor cursor = repl_extent_map_seek(&v->extents, offset);
    for (const struct repl_extent *e; (e = repl_extent_cursor_next(&cursor)) != NULL;) {
        const struct repl_segment *segment;
        const struct repl_digest *name = NULL;
        uint32_t frame = (uint32_t)e->source, frame_offset;
        if (e->offset >= offset + length)
            break;
        if (e->type == REPL_RECORD_ZERO)
            continue;
        if (e->type == REPL_RECORD_CHUNK) {
            name = view_chunk_name(v, e);
            REPL_TRY(v->find_chunk(v->context, name, &segment, &frame, &frame_offset, err));
        } else {
            segment = v->segments[e->source >> 32];
        }
        REPL_TRY(need(context, segment, frame, name, err));
    }
    return REPL_SUCCESS;
}

/* --- reading --------------------------------------------------------------------------------- */

repl_result repl_view_reader_new(const struct repl_view *view, unsigned cache_frames,
                                 struct repl_view_reader **out, struct repl_error *err)
{
    ensure(cache_frames > 0);
    struct repl_view_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a reader");
    reader->view = view;
    reader->cache_size = cache_frames * VIEW_SMALL_FRAMES;
    reader->cached_bytes_max = (size_t)cache_frames * REPL_FRAME_RAW_MAX;
    reader->cache = calloc(reader->cache_size, sizeof *reader->cache);
    repl_result result = reader->cache == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for a reader")
                             : repl_frame_coder_new(&reader->coder, err);
    if (repl_ok(result))
        result = repl_sha256_new(&reader->sha, err);
    if (!repl_ok(result)) {
        repl_view_reader_free(reader);
        return result;
    }
    *out = reader;
    return REPL_SUCCESS;
}

void repl_view_reader_free(struct repl_view_reader *reader)
{
    if (reader == NULL)
        return;
    for (unsigned i = 0; reader->cache != NULL && i < reader->cache_size; i++)
        free(reader->cache[i].raw);
    free(reader->cache);
    free(reader->fetched);
    free(reader->scratch);
    repl_frame_coder_free(reader->coder);
    repl_sha256_free(reader->sha);
    repl_buffer_fini(&reader->stored);
    free(reader);
}

static void cached_drop(struct repl_view_reader *reader, struct view_frame *c)
{
    reader->cached_bytes -= c->size;
    free(c->raw);
    *c = (struct view_frame){0};
}

/* A place for a frame of this size, for which those go that were used least recently; with the
 * memory of the last of these, if it is of the same size. */
static struct view_frame *room_make(struct repl_view_reader *reader, size_t size)
{
    for (;;) {
        struct view_frame *empty = NULL, *oldest = NULL;
        for (unsigned i = 0; i < reader->cache_size; i++) {
            struct view_frame *c = &reader->cache[i];
            if (c->raw == NULL)
                empty = c;
            else if (oldest == NULL || c->used < oldest->used)
                oldest = c;
        }
        if (empty != NULL && reader->cached_bytes + size <= reader->cached_bytes_max)
            return empty;
        ensure(oldest != NULL);
        if (oldest->size == size) {
            oldest->segment = NULL;
            return oldest;
        }
        cached_drop(reader, oldest);
    }
}

bool view_frame_is_kept(const struct repl_view_reader *reader, const struct repl_segment *segment,
                        uint32_t frame)
{
    for (unsigned i = 0; i < reader->cache_size; i++) {
        if (reader->cache[i].segment == segment && reader->cache[i].frame == frame)
            return true;
    }
    return false;
}

repl_result view_frame_get(struct repl_view_reader *reader, const struct repl_segment *segment,
                           uint32_t frame, const struct view_frame **out, struct repl_error *err)
{
    reader->clock++;
    for (unsigned i = 0; i < reader->cache_size; i++) {
        struct view_frame *c = &reader->cache[i];
        if (c->segment == segment && c->frame == frame) {
            c->used = reader->clock;
            *out = c;
            return REPL_SUCCESS;
        }
    }
    if (frame >= segment->footer.frame_count)
        return repl_fail(err, REPL_E_CORRUPT, "segment %llu.%u: there is no frame %u",
                         (unsigned long long)segment->header.to_seq, segment->header.part, frame);
    size_t size = segment->frames[frame].raw_size;
    struct view_frame *c = room_make(reader, size);
    if (c->raw == NULL) {
        c->raw = malloc(size);
        if (c->raw == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
        c->size = size;
        reader->cached_bytes += size;
    }
    c->segment = segment;
    c->frame = frame;
    c->used = reader->clock;
    repl_result result =
        repl_segment_read_frame(segment, frame, reader->coder, &reader->stored, c->raw, &size, err);
    if (!repl_ok(result)) {
        cached_drop(reader, c);
        return repl_forward(result, err, "segment %llu.%u",
                            (unsigned long long)segment->header.to_seq, segment->header.part);
    }
    *out = c;
    return REPL_SUCCESS;
}

const struct repl_digest *view_chunk_name(const struct repl_view *v, const struct repl_extent *e)
{
    return &((const struct repl_digest *)(const void *)v->names.data)[e->source];
}

/* The chunk of an extent and those behind it that lie in no segment either. */
static repl_result names_ahead(const struct repl_view *v, const struct repl_extent *extent,
                               struct repl_digest names[REPL_VIEW_AHEAD], size_t *count,
                               struct repl_error *err)
{
    struct repl_extent_cursor cursor = repl_extent_map_seek(&v->extents, extent->offset);
    *count = 0;
    for (unsigned looked = 0; looked < 4 * REPL_VIEW_AHEAD && *count < REPL_VIEW_AHEAD; looked++) {
        const struct repl_extent *e = repl_extent_cursor_next(&cursor);
        const struct repl_segment *segment;
        uint32_t frame, offset;
        if (e == NULL)
            return REPL_SUCCESS;
        if (e->type != REPL_RECORD_CHUNK ||
            (*count > 0 && repl_digest_equal(&names[*count - 1], view_chunk_name(v, e))))
            continue;
        REPL_TRY(v->find_chunk(v->context, view_chunk_name(v, e), &segment, &frame, &offset, err));
        if (segment == NULL)
            names[(*count)++] = *view_chunk_name(v, e);
    }
    return REPL_SUCCESS;
}

static repl_result chunk_fetch(struct repl_view_reader *reader, const struct repl_extent *extent,
                               const uint8_t **out, struct repl_error *err)
{
    const struct repl_view *v = reader->view;
    struct repl_digest names[REPL_VIEW_AHEAD];
    size_t count;
    if (v->fetch == NULL)
        return repl_fail(err, REPL_E_MISSING, "a chunk lies in no segment that can be read");
    if (reader->fetched == NULL && (reader->fetched = malloc(REPL_CHUNK_SIZE)) == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a chunk");
    REPL_TRY(names_ahead(v, extent, names, &count, err));
    *out = reader->fetched;
    return v->fetch(v->context, names, count, reader->fetched, err);
}

static repl_result chunk_find(struct repl_view_reader *reader, const struct repl_extent *extent,
                              const struct repl_segment **segment, const uint8_t **out,
                              struct repl_error *err)
{
    const struct repl_view *v = reader->view;
    const struct view_frame *frame;
    uint32_t index, offset;
    REPL_TRY(v->find_chunk(v->context, view_chunk_name(v, extent), segment, &index, &offset, err));
    if (*segment == NULL)
        return chunk_fetch(reader, extent, out, err);
    REPL_TRY(view_frame_get(reader, *segment, index, &frame, err));
    if ((uint64_t)offset + REPL_CHUNK_SIZE > frame->size)
        return repl_fail(err, REPL_E_CORRUPT, "a chunk lies outside its frame");
    *out = frame->raw + offset;
    return REPL_SUCCESS;
}

static repl_result chunk_read(struct repl_view_reader *reader, const struct repl_extent *extent,
                              uint64_t skip, void *out, size_t size, struct repl_error *err)
{
    const struct repl_segment *segment;
    const uint8_t *bytes;
    struct repl_digest found;
    REPL_TRY(chunk_find(reader, extent, &segment, &bytes, err));
    repl_chunk_digest(reader->sha, bytes, &found);
    if (!repl_digest_equal(&found, view_chunk_name(reader->view, extent)) && segment == NULL)
        return repl_fail(err, REPL_E_CORRUPT, "other bytes were given for a chunk of the pool");
    if (!repl_digest_equal(&found, view_chunk_name(reader->view, extent)))
        return repl_fail(err, REPL_E_CORRUPT,
                         "segment %llu.%u: a chunk does not have the content it is named for",
                         (unsigned long long)segment->header.to_seq, segment->header.part);
    memcpy(out, bytes + extent->source_offset + skip, size);
    return REPL_SUCCESS;
}

static repl_result data_read(struct repl_view_reader *reader, const struct repl_extent *extent,
                             uint64_t skip, void *out, size_t size, struct repl_error *err)
{
    const struct repl_segment *segment = reader->view->segments[extent->source >> 32];
    const struct view_frame *frame;
    REPL_TRY(view_frame_get(reader, segment, (uint32_t)extent->source, &frame, err));
    ensure(extent->source_offset + skip + size <= frame->size);
    memcpy(out, frame->raw + extent->source_offset + skip, size);
    return REPL_SUCCESS;
}

repl_result repl_view_read(struct repl_view_reader *reader, uint64_t offset, void *out, size_t size,
                           struct repl_error *err)
{
    const struct repl_view *v = reader->view;
    ensure(offset <= v->size && size <= v->size - offset);
    uint8_t *to = out;
    struct repl_extent_cursor cursor = repl_extent_map_seek(&v->extents, offset);
    while (size > 0) {
        const struct repl_extent *extent = repl_extent_cursor_next(&cursor);
        ensure(extent != NULL && extent->offset <= offset);
        uint64_t skip = offset - extent->offset;
        uint64_t left = extent->length - skip;
        size_t piece = left < size ? (size_t)left : size;
        if (extent->type == REPL_RECORD_ZERO)
            memset(to, 0, piece);
        else if (extent->type == REPL_RECORD_CHUNK)
            REPL_TRY(chunk_read(reader, extent, skip, to, piece, err));
        else
            REPL_TRY(data_read(reader, extent, skip, to, piece, err));
        to += piece;
        offset += piece;
        size -= piece;
    }
    return REPL_SUCCESS;
}

/* --- comparing ------------------------------------------------------------------------------- */

#define COMPARE_SIZE 65536u

static repl_result differs(uint64_t offset, const char *how, struct repl_error *err)
{
    return repl_fail(err, REPL_E_CORRUPT, "from offset %llu on one %s", (unsigned long long)offset,
                     how);
}

static repl_result bytes_compare(struct repl_view_reader *a, struct repl_view_reader *b,
                                 uint64_t offset, uint64_t end, struct repl_error *err)
{
    uint8_t *bytes = malloc(2 * (size_t)COMPARE_SIZE);
    if (bytes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory to compare");
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result) && offset < end) {
        size_t size = (size_t)least(end - offset, COMPARE_SIZE);
        result = repl_view_read(a, offset, bytes, size, err);
        if (repl_ok(result))
            result = repl_view_read(b, offset, bytes + COMPARE_SIZE, size, err);
        if (repl_ok(result) && memcmp(bytes, bytes + COMPARE_SIZE, size) != 0)
            result = differs(offset, "has other bytes than the other", err);
        offset += size;
    }
    free(bytes);
    return result;
}

/* What both say of [offset, end), which lies within one extent of each. */
static repl_result piece_compare(struct repl_view_reader *a, const struct repl_extent *x,
                                 struct repl_view_reader *b, const struct repl_extent *y,
                                 uint64_t offset, uint64_t end, struct repl_error *err)
{
    if (x->type == REPL_RECORD_ZERO && y->type == REPL_RECORD_ZERO)
        return REPL_SUCCESS;
    if (x->type == REPL_RECORD_CHUNK && y->type == REPL_RECORD_CHUNK &&
        repl_digest_equal(view_chunk_name(a->view, x), view_chunk_name(b->view, y)) &&
        x->source_offset + (offset - x->offset) == y->source_offset + (offset - y->offset))
        return REPL_SUCCESS;
    return bytes_compare(a, b, offset, end, err);
}

repl_result repl_view_compare(struct repl_view_reader *a, struct repl_view_reader *b,
                              struct repl_error *err)
{
    struct repl_extent_cursor left = repl_extent_map_seek(&a->view->extents, 0);
    struct repl_extent_cursor right = repl_extent_map_seek(&b->view->extents, 0);
    const struct repl_extent *x = repl_extent_cursor_next(&left);
    const struct repl_extent *y = repl_extent_cursor_next(&right);
    uint64_t at = 0; /* all below is the same */
    if (a->view->size != b->view->size)
        return repl_fail(err, REPL_E_CORRUPT, "one has %llu bytes and the other %llu",
                         (unsigned long long)a->view->size, (unsigned long long)b->view->size);
    while (x != NULL && y != NULL) {
        uint64_t from = x->offset > at ? x->offset : at;
        if (from != (y->offset > at ? y->offset : at))
            return differs(from < y->offset ? from : y->offset, "says what the other does not",
                           err);
        uint64_t x_end = x->offset + x->length, y_end = y->offset + y->length;
        at = least(x_end, y_end);
        REPL_TRY(piece_compare(a, x, b, y, from, at, err));
        if (x_end == at)
            x = repl_extent_cursor_next(&left);
        if (y_end == at)
            y = repl_extent_cursor_next(&right);
    }
    if (x != NULL || y != NULL)
        return differs(at, "says what the other does not", err);
    return REPL_SUCCESS;
}
