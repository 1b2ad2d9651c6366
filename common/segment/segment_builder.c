#include "segment/segment_builder.h"

#include <stdlib.h>

#include "base/cursor.h"
#include "base/ensure.h"
#include "base/hash.h"
#include "base/limits.h"
#include "format/segment_format.h"
#include "segment/frame.h"
#include "segment/record_order.h"

/* Small enough that a reader who looks for one extent does not decode much, large enough that
 * the block table stays a thousandth of the manifest. */
#define BLOCK_RAW_SIZE (256u * 1024)

#define NO_PAGES SIZE_MAX
struct frame_note {
    uint32_t raw_size;
    size_t pages; /* where its list begins in pages, or NO_PAGES */
};

struct repl_segment_builder {
    struct repl_segment_header header;
    uint64_t volume_size;
    repl_sink_fn *sink;
    void *sink_context;
    struct repl_sha256 *sha;
    uint64_t position; /* bytes given to the sink */
    struct repl_extent_map extents;
    struct repl_buffer frames; /* encoded entries, as the index will hold them */
    struct repl_buffer blocks;
    struct repl_buffer chunks;
    struct repl_buffer references; /* struct repl_digest each */
    struct repl_buffer notes;      /* struct frame_note each */
    struct repl_buffer pages;      /* struct repl_page_digest each */
    repl_records_fn *records;      /* NULL: none */
    void *records_context;
    struct repl_segment_footer footer;
};

static repl_result emit(struct repl_segment_builder *b, const void *data, size_t size,
                        struct repl_error *err)
{
    if (size == 0)
        return REPL_SUCCESS;
    repl_sha256_update(b->sha, data, size);
    b->position += size;
    return b->sink(b->sink_context, data, size, err);
}

repl_result repl_segment_builder_new(const struct repl_segment_header *header, uint64_t volume_size,
                                     repl_sink_fn *sink, void *sink_context,
                                     struct repl_segment_builder **out, struct repl_error *err)
{
    struct repl_segment_builder *b = calloc(1, sizeof *b);
    if (b == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment builder");
    ensure(header->kind != REPL_SEGMENT_SUPPLY || volume_size == 0);
    ensure(header->volume_kind != REPL_VOLUME_TREE || volume_size % REPL_PAGE_SIZE == 0);
    b->header = *header;
    b->volume_size = volume_size;
    b->sink = sink;
    b->sink_context = sink_context;
    repl_extent_map_init(&b->extents);
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    repl_segment_header_encode(header, bytes);
    struct repl_segment_header check;
    repl_result result = repl_segment_header_decode(bytes, sizeof bytes, &check, err);
    if (repl_ok(result) && header->kind == REPL_SEGMENT_CHANGES &&
        (volume_size == 0 || volume_size > REPL_VOLUME_SIZE_MAX))
        result =
            repl_fail(err, REPL_E_REFUSED, "a volume of %llu bytes: 1 to %llu can be replicated",
                      (unsigned long long)volume_size, (unsigned long long)REPL_VOLUME_SIZE_MAX);
    if (repl_ok(result))
        result = repl_sha256_new(&b->sha, err);
    if (repl_ok(result)) {
        repl_sha256_begin(b->sha);
        result = emit(b, bytes, sizeof bytes, err);
    }
    if (!repl_ok(result)) {
        repl_segment_builder_free(b);
        return result;
    }
    *out = b;
    return REPL_SUCCESS;
}

void repl_segment_builder_free(struct repl_segment_builder *b)
{
    if (b == NULL)
        return;
    repl_sha256_free(b->sha);
    repl_extent_map_fini(&b->extents);
    repl_buffer_fini(&b->frames);
    repl_buffer_fini(&b->blocks);
    repl_buffer_fini(&b->chunks);
    repl_buffer_fini(&b->references);
    repl_buffer_fini(&b->notes);
    repl_buffer_fini(&b->pages);
    free(b);
}

/* Room for one more entry in a table of the index. */
static repl_result table_extend(struct repl_buffer *table, size_t size, struct repl_writer *w,
                                struct repl_error *err)
{
    uint8_t *room = repl_buffer_extend(table, size);
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment's index");
    *w = repl_writer_of(room, size);
    return REPL_SUCCESS;
}

repl_result repl_segment_builder_frame(struct repl_segment_builder *b,
                                       const struct repl_frame_entry *entry, const void *stored,
                                       const struct repl_page_digest *pages, uint32_t *index,
                                       struct repl_error *err)
{
    struct frame_note note = {.raw_size = entry->raw_size, .pages = NO_PAGES};
    ensure(b->footer.block_count == 0);
    if (b->footer.frame_count == REPL_FRAMES_MAX)
        return repl_fail(err, REPL_E_NOMEM, "a segment of more than %u frames", REPL_FRAMES_MAX);
    struct repl_frame_entry placed = *entry;
    placed.offset = b->position;
    placed.has_pages = pages != NULL && (b->header.features & REPL_FEATURE_PAGES) != 0;
    if (placed.has_pages) {
        note.pages = b->pages.size;
        REPL_TRY(repl_buffer_append(&b->pages, pages,
                                    repl_page_count_of(entry->raw_size) * sizeof *pages, err));
    }
    struct repl_writer w;
    REPL_TRY(table_extend(&b->frames, REPL_FRAME_ENTRY_SIZE, &w, err));
    repl_frame_entry_encode(&w, &placed);
    REPL_TRY(repl_buffer_append(&b->notes, &note, sizeof note, err));
    *index = b->footer.frame_count++;
    b->footer.raw_size += entry->raw_size;
    return emit(b, stored, entry->stored_size, err);
}

static const struct frame_note *note_of(const struct repl_segment_builder *b, uint64_t frame)
{
    ensure(frame < b->footer.frame_count);
    return &((const struct frame_note *)(const void *)b->notes.data)[frame];
}

repl_result repl_segment_builder_chunk(struct repl_segment_builder *b,
                                       const struct repl_chunk_entry *chunk, struct repl_error *err)
{
    ensure((uint64_t)chunk->frame_offset + REPL_CHUNK_SIZE <= note_of(b, chunk->frame)->raw_size);
    if (b->footer.chunk_count == REPL_CHUNKS_MAX)
        return repl_fail(err, REPL_E_NOMEM, "a segment of more than %u chunks", REPL_CHUNKS_MAX);
    struct repl_writer w;
    REPL_TRY(table_extend(&b->chunks, REPL_CHUNK_ENTRY_SIZE, &w, err));
    repl_chunk_entry_encode(&w, chunk);
    b->footer.chunk_count++;
    return REPL_SUCCESS;
}

repl_result repl_segment_builder_reference(struct repl_segment_builder *b,
                                           const struct repl_digest *name, uint64_t *source,
                                           struct repl_error *err)
{
    *source = b->references.size / sizeof *name;
    return repl_buffer_append(&b->references, name, sizeof *name, err);
}

repl_result repl_segment_builder_extent(struct repl_segment_builder *b,
                                        const struct repl_extent *extent, struct repl_error *err)
{
    ensure(extent->type == REPL_RECORD_DATA || extent->type == REPL_RECORD_CHUNK ||
           extent->type == REPL_RECORD_ZERO);
    ensure(extent->offset % REPL_PAGE_SIZE == 0 && extent->length > 0 &&
           extent->offset < b->volume_size && extent->length <= b->volume_size - extent->offset);
    ensure(extent->length % REPL_PAGE_SIZE == 0 ||
           extent->offset + extent->length == b->volume_size);
    if (extent->type == REPL_RECORD_DATA)
        ensure(extent->source_offset + extent->length <= note_of(b, extent->source)->raw_size);
    if (extent->type == REPL_RECORD_CHUNK)
        ensure(extent->source < b->references.size / sizeof(struct repl_digest) &&
               extent->source_offset + extent->length <= REPL_CHUNK_SIZE);
    return repl_extent_map_put(&b->extents, extent, err);
}

void repl_segment_builder_records(struct repl_segment_builder *b, repl_records_fn *records,
                                  void *context)
{
    ensure(b->header.volume_kind == REPL_VOLUME_TREE);
    b->records = records;
    b->records_context = context;
}

uint64_t repl_segment_builder_size(const struct repl_segment_builder *b)
{
    return b->position;
}

bool repl_segment_builder_is_empty(const struct repl_segment_builder *b)
{
    return b->extents.extent_count == 0;
}

/* Whether next goes on where extent ends, in place and in its source, so that one record says
 * both. */
static bool extent_continues(const struct repl_extent *extent, const struct repl_extent *next)
{
    if (extent->type != next->type || extent->offset + extent->length != next->offset)
        return false;
    if (extent->type == REPL_RECORD_ZERO)
        return true;
    return extent->source == next->source &&
           extent->source_offset + extent->length == next->source_offset;
}

struct manifest_writer {
    struct repl_segment_builder *builder;
    struct repl_frame_coder *coder;
    struct repl_buffer raw;
    struct repl_record_order order;
    uint64_t first_object, first_offset; /* of the block being filled */
    uint64_t raw_size;                   /* of all blocks so far */
};

static repl_result block_flush(struct manifest_writer *m, struct repl_error *err)
{
    struct repl_segment_builder *b = m->builder;
    if (m->raw.size == 0)
        return REPL_SUCCESS;
    m->raw_size += m->raw.size;
    if (m->raw_size > REPL_MANIFEST_RAW_MAX)
        return repl_fail(err, REPL_E_NOMEM, "a segment's manifest of more than %llu bytes",
                         (unsigned long long)REPL_MANIFEST_RAW_MAX);
    struct repl_block_entry entry = {.first_object = m->first_object,
                                     .first_offset = m->first_offset};
    struct repl_buffer stored = {0};
    struct repl_writer w;
    repl_result result =
        repl_frame_encode(m->coder, m->raw.data, m->raw.size, &stored, &entry.frame, err);
    entry.frame.offset = b->position;
    if (repl_ok(result))
        result = table_extend(&b->blocks, REPL_BLOCK_ENTRY_SIZE, &w, err);
    if (repl_ok(result)) {
        repl_block_entry_encode(&w, &entry);
        b->footer.block_count++;
        result = emit(b, stored.data, stored.size, err);
    }
    repl_buffer_fini(&stored);
    m->raw.size = 0;
    return result;
}

/* Encoded already. */
static repl_result bytes_add(struct manifest_writer *m, const struct repl_record *record,
                             const uint8_t *bytes, size_t size, struct repl_error *err)
{
    if (m->raw.size + size > BLOCK_RAW_SIZE)
        REPL_TRY(block_flush(m, err));
    if (m->raw.size == 0) {
        m->first_object = record->object;
        m->first_offset = record->offset;
    }
    m->builder->footer.record_count++;
    return repl_buffer_append(&m->raw, bytes, size, err);
}

static repl_result record_add(struct manifest_writer *m, const struct repl_record *record,
                              struct repl_error *err)
{
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_record_encode(&w, record);
    return bytes_add(m, record, bytes, w.position, err);
}

/* One that comes from outside is read as a reader would. */
static repl_result tree_record_add(struct manifest_writer *m, const struct repl_record *record,
                                   struct repl_error *err)
{
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    struct repl_record check;
    repl_record_encode(&w, record);
    struct repl_reader r = repl_reader_of(bytes, w.position);
    repl_record_decode(&r, &check);
    if (r.failed || record->object == REPL_OBJECT_DEVICE)
        return repl_fail(err, REPL_E_CORRUPT, "a record of object %llu is out of bounds",
                         (unsigned long long)record->object);
    REPL_TRY(repl_record_order_next(&m->order, record, err));
    return bytes_add(m, record, bytes, w.position, err);
}

static repl_result extent_add(struct manifest_writer *m, const struct repl_extent *extent,
                              struct repl_error *err)
{
    struct repl_record record = {.type = extent->type,
                                 .object = REPL_OBJECT_DEVICE,
                                 .offset = extent->offset,
                                 .length = extent->length};
    if (extent->type == REPL_RECORD_DATA) {
        record.frame = (uint32_t)extent->source;
        record.frame_offset = extent->source_offset;
    } else if (extent->type == REPL_RECORD_CHUNK) {
        const void *names = m->builder->references.data;
        record.chunk = ((const struct repl_digest *)names)[extent->source];
        record.chunk_offset = extent->source_offset;
    }
    return record_add(m, &record, err);
}

static repl_result manifest_write(struct manifest_writer *m, struct repl_error *err)
{
    struct repl_segment_builder *b = m->builder;
    const struct repl_record object = {
        .type = REPL_RECORD_OBJECT, .object = REPL_OBJECT_DEVICE, .size = b->volume_size};
    REPL_TRY(record_add(m, &object, err));
    struct repl_extent_cursor cursor = repl_extent_map_seek(&b->extents, 0);
    const struct repl_extent *next = repl_extent_cursor_next(&cursor);
    while (next != NULL) {
        struct repl_extent extent = *next;
        while (
            (next = repl_extent_cursor_next(&cursor)) != NULL && extent_continues(&extent, next) &&
            (extent.type == REPL_RECORD_ZERO || extent.length + next->length <= REPL_FRAME_RAW_MAX))
            extent.length += next->length;
        REPL_TRY(extent_add(m, &extent, err));
    }
    m->order =
        (struct repl_record_order){.object = REPL_OBJECT_DEVICE, .space_size = b->volume_size};
    for (bool done = b->records == NULL; !done;) {
        struct repl_record record = {0};
        REPL_TRY(b->records(b->records_context, &record, &done, err));
        if (!done)
            REPL_TRY(tree_record_add(m, &record, err));
    }
    return block_flush(m, err);
}

static repl_result manifest_finish(struct repl_segment_builder *b, struct repl_error *err)
{
    struct manifest_writer m = {.builder = b};
    repl_result result = repl_frame_coder_new(&m.coder, err);
    if (repl_ok(result))
        result = manifest_write(&m, err);
    repl_frame_coder_free(m.coder);
    repl_buffer_fini(&m.raw);
    return result;
}

/* What a reader will ask of a point; a clock that was set back between its two ends is enough to
 * make one that would be refused for ever. */
static repl_result point_check(const struct repl_segment_builder *b,
                               const struct repl_point *points, size_t index, size_t count,
                               const uint8_t *bytes, struct repl_error *err)
{
    struct repl_reader r = repl_reader_of(bytes, REPL_POINT_SIZE);
    struct repl_point check;
    repl_point_decode(&r, &check);
    uint64_t before = index == 0 ? b->header.from_seq : points[index - 1].seq;
    bool last = index + 1 == count, merged = (points[index].flags & REPL_POINT_MERGED) != 0;
    bool misplaced =
        points[index].cut >= REPL_CUT_FILES && b->header.volume_kind != REPL_VOLUME_TREE;
    if (r.failed || points[index].seq <= before || last == merged || misplaced)
        return repl_fail(err, REPL_E_INTERNAL,
                         "point %llu has a field out of its bounds or is out of order",
                         (unsigned long long)points[index].seq);
    return REPL_SUCCESS;
}

static repl_result frame_pages_write(struct repl_segment_builder *b, uint32_t frame,
                                     struct repl_error *err)
{
    const struct frame_note *note = note_of(b, frame);
    const void *list = b->pages.data + note->pages;
    uint64_t count = repl_page_count_of(note->raw_size);
    uint8_t tail[REPL_PAGES_TAIL];
    repl_frame_pages_seal(list, count, tail);
    REPL_TRY(emit(b, list, (size_t)count * REPL_PAGE_ENTRY_SIZE, err));
    return emit(b, tail, sizeof tail, err);
}

static repl_result pages_write(struct repl_segment_builder *b, struct repl_error *err)
{
    for (uint32_t i = 0; i < b->footer.frame_count; i++) {
        if (note_of(b, i)->pages != NO_PAGES)
            REPL_TRY(frame_pages_write(b, i, err));
    }
    return REPL_SUCCESS;
}

/* The four tables as one piece of memory: the index as it will lie in the file. */
static repl_result index_assemble(struct repl_segment_builder *b, const struct repl_point *points,
                                  size_t point_count, struct repl_buffer *index,
                                  struct repl_error *err)
{
    REPL_TRY(repl_buffer_append(index, b->frames.data, b->frames.size, err));
    REPL_TRY(repl_buffer_append(index, b->blocks.data, b->blocks.size, err));
    REPL_TRY(repl_buffer_append(index, b->chunks.data, b->chunks.size, err));
    for (size_t i = 0; i < point_count; i++) {
        struct repl_writer w;
        REPL_TRY(table_extend(index, REPL_POINT_SIZE, &w, err));
        repl_point_encode(&w, &points[i]);
        REPL_TRY(point_check(b, points, i, point_count, w.data, err));
    }
    return REPL_SUCCESS;
}

/* Hashes the footer behind all that has been written, and has it read as a reader would: what
 * grew over a limit of the format must not be taken for a segment. */
static repl_result footer_seal(struct repl_segment_builder *b,
                               uint8_t bytes[REPL_SEGMENT_FOOTER_SIZE], struct repl_error *err)
{
    repl_segment_footer_encode(&b->footer, bytes);
    repl_sha256_update(b->sha, bytes, REPL_SEGMENT_FOOTER_SIZE - REPL_SEGMENT_DIGEST_TAIL);
    repl_sha256_end(b->sha, &b->footer.digest);
    repl_segment_footer_seal(&b->footer.digest, bytes);
    struct repl_segment_footer check;
    if (repl_ok(repl_segment_footer_decode(bytes, REPL_SEGMENT_FOOTER_SIZE, &check, err)))
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_NOMEM,
                     "a segment of %llu bytes with %u frames, %u chunks and %llu records is over "
                     "the format's limits",
                     (unsigned long long)b->footer.file_size, b->footer.frame_count,
                     b->footer.chunk_count, (unsigned long long)b->footer.record_count);
}

repl_result repl_segment_builder_finish(struct repl_segment_builder *b,
                                        const struct repl_point *points, size_t point_count,
                                        struct repl_segment_footer *footer, struct repl_error *err)
{
    ensure(point_count <= REPL_POINTS_MAX);
    ensure(point_count == 0 || (b->header.kind == REPL_SEGMENT_CHANGES &&
                                points[point_count - 1].seq == b->header.to_seq));
    if (b->header.kind == REPL_SEGMENT_CHANGES)
        REPL_TRY(manifest_finish(b, err));
    REPL_TRY(pages_write(b, err));
    struct repl_buffer index = {0};
    repl_result result = index_assemble(b, points, point_count, &index, err);
    if (repl_ok(result)) {
        b->footer.point_count = (uint32_t)point_count;
        b->footer.index_offset = b->position;
        b->footer.index_xxh3 = repl_xxh3(index.data, index.size);
        b->footer.file_size = b->position + index.size + REPL_SEGMENT_FOOTER_SIZE;
        result = emit(b, index.data, index.size, err);
    }
    repl_buffer_fini(&index);
    REPL_TRY(result);
    uint8_t bytes[REPL_SEGMENT_FOOTER_SIZE];
    REPL_TRY(footer_seal(b, bytes, err));
    b->position += sizeof bytes;
    *footer = b->footer;
    return b->sink(b->sink_context, bytes, sizeof bytes, err);
}
