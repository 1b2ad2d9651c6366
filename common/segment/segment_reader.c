#include "segment/segment_reader.h"

#include <stdlib.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "base/limits.h"
#include "format/segment_format.h"

static repl_result header_read(struct repl_segment *s, uint64_t file_size, struct repl_error *err)
{
    if (file_size < REPL_SEGMENT_HEADER_SIZE + REPL_SEGMENT_FOOTER_SIZE)
        return repl_fail(err, REPL_E_CORRUPT, "%llu bytes are too few for a segment",
                         (unsigned long long)file_size);
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    REPL_TRY(s->read_at(s->context, 0, bytes, sizeof bytes, err));
    REPL_TRY(repl_segment_header_decode(bytes, sizeof bytes, &s->header, err));
    uint8_t footer[REPL_SEGMENT_FOOTER_SIZE];
    REPL_TRY(s->read_at(s->context, file_size - sizeof footer, footer, sizeof footer, err));
    REPL_TRY(repl_segment_footer_decode(footer, sizeof footer, &s->footer, err));
    if (s->footer.file_size != file_size)
        return repl_fail(err, REPL_E_CORRUPT, "the file has %llu bytes, its footer says %llu",
                         (unsigned long long)file_size, (unsigned long long)s->footer.file_size);
    return REPL_SUCCESS;
}

static repl_result tables_allocate(struct repl_segment *s, struct repl_error *err)
{
    const struct repl_segment_footer *f = &s->footer;
    s->frames = calloc(f->frame_count + 1, sizeof *s->frames);
    s->blocks = calloc(f->block_count + 1, sizeof *s->blocks);
    s->chunks = calloc(f->chunk_count + 1, sizeof *s->chunks);
    s->points = calloc(f->point_count + 1, sizeof *s->points);
    s->pages = calloc(f->frame_count + 1, sizeof *s->pages);
    if (s->frames == NULL || s->blocks == NULL || s->chunks == NULL || s->points == NULL ||
        s->pages == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment's index");
    return REPL_SUCCESS;
}

static void tables_decode(struct repl_segment *s, struct repl_reader *r)
{
    for (uint32_t i = 0; i < s->footer.frame_count && !r->failed; i++)
        repl_frame_entry_decode(r, &s->frames[i]);
    for (uint32_t i = 0; i < s->footer.block_count && !r->failed; i++)
        repl_block_entry_decode(r, &s->blocks[i]);
    for (uint32_t i = 0; i < s->footer.chunk_count && !r->failed; i++)
        repl_chunk_entry_decode(r, &s->chunks[i]);
    for (uint32_t i = 0; i < s->footer.point_count && !r->failed; i++)
        repl_point_decode(r, &s->points[i]);
}

static bool block_before(const struct repl_block_entry *a, const struct repl_block_entry *b)
{
    return a->first_object != b->first_object ? a->first_object < b->first_object
                                              : a->first_offset < b->first_offset;
}

/* Where each frame's list of pages lies, from position on; where the last one ends. */
static repl_result pages_place(struct repl_segment *s, uint64_t *position, struct repl_error *err)
{
    bool announced = (s->header.features & REPL_FEATURE_PAGES) != 0;
    for (uint32_t i = 0; i < s->footer.frame_count; i++) {
        s->pages[i] = *position;
        if (!s->frames[i].has_pages)
            continue;
        if (!announced)
            return repl_fail(err, REPL_E_CORRUPT, "frame %u has a list of pages, unannounced", i);
        *position += repl_frame_pages_size(&s->frames[i]);
    }
    for (uint32_t i = 0; i < s->footer.block_count; i++) {
        if (s->blocks[i].frame.has_pages)
            return repl_fail(err, REPL_E_CORRUPT, "manifest block %u has a list of pages", i);
    }
    return REPL_SUCCESS;
}

/* Frames, then blocks, then lists of pages cover the file from header to index without gap or
 * overlap. */
static repl_result layout_check(struct repl_segment *s, struct repl_error *err)
{
    uint64_t position = REPL_SEGMENT_HEADER_SIZE, raw_size = 0, manifest_size = 0;
    for (uint32_t i = 0; i < s->footer.frame_count; i++) {
        if (s->frames[i].offset != position)
            return repl_fail(err, REPL_E_CORRUPT, "frame %u does not begin where %s ends", i,
                             i == 0 ? "the header" : "the one before it");
        position += s->frames[i].stored_size;
        raw_size += s->frames[i].raw_size;
    }
    for (uint32_t i = 0; i < s->footer.block_count; i++) {
        if (s->blocks[i].frame.offset != position)
            return repl_fail(err, REPL_E_CORRUPT,
                             "manifest block %u does not begin where what precedes it ends", i);
        if (i > 0 && block_before(&s->blocks[i], &s->blocks[i - 1]))
            return repl_fail(err, REPL_E_CORRUPT, "manifest block %u is out of order", i);
        position += s->blocks[i].frame.stored_size;
        manifest_size += s->blocks[i].frame.raw_size;
    }
    if (manifest_size > REPL_MANIFEST_RAW_MAX)
        return repl_fail(err, REPL_E_CORRUPT, "a manifest of %llu bytes, decoded",
                         (unsigned long long)manifest_size);
    REPL_TRY(pages_place(s, &position, err));
    if (position != s->footer.index_offset || raw_size != s->footer.raw_size)
        return repl_fail(err, REPL_E_CORRUPT, "the index does not describe the whole file");
    return REPL_SUCCESS;
}

static repl_result contents_check(const struct repl_segment *s, struct repl_error *err)
{
    const struct repl_segment_footer *f = &s->footer;
    bool supply = s->header.kind == REPL_SEGMENT_SUPPLY;
    if (supply ? f->block_count != 0 || f->point_count != 0 : f->block_count == 0)
        return repl_fail(err, REPL_E_CORRUPT, "the tables do not fit the segment's kind");
    for (uint32_t i = 0; i < f->chunk_count; i++) {
        const struct repl_chunk_entry *chunk = &s->chunks[i];
        if (chunk->frame >= f->frame_count ||
            (uint64_t)chunk->frame_offset + REPL_CHUNK_SIZE > s->frames[chunk->frame].raw_size)
            return repl_fail(err, REPL_E_CORRUPT, "chunk %u lies outside its frame", i);
    }
    uint64_t seq = s->header.from_seq;
    for (uint32_t i = 0; i < f->point_count; i++) {
        bool last = i + 1 == f->point_count;
        bool merged = (s->points[i].flags & REPL_POINT_MERGED) != 0;
        if (s->points[i].seq <= seq || last == merged ||
            (last && s->points[i].seq != s->header.to_seq))
            return repl_fail(err, REPL_E_CORRUPT, "point %u is out of order", i);
        if (s->points[i].cut >= REPL_CUT_FILES && s->header.volume_kind != REPL_VOLUME_TREE)
            return repl_fail(err, REPL_E_CORRUPT,
                             "point %u is cut as only a tree's are, in a block volume", i);
        seq = s->points[i].seq;
    }
    return REPL_SUCCESS;
}

static repl_result index_read(struct repl_segment *s, struct repl_error *err)
{
    size_t size = (size_t)repl_segment_index_size(&s->footer);
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment's index");
    struct repl_reader r = repl_reader_of(bytes, size);
    repl_result result = s->read_at(s->context, s->footer.index_offset, bytes, size, err);
    if (repl_ok(result) && repl_xxh3(bytes, size) != s->footer.index_xxh3)
        result = repl_fail(err, REPL_E_CORRUPT, "segment index: checksum does not match");
    if (repl_ok(result))
        result = tables_allocate(s, err);
    if (repl_ok(result)) {
        tables_decode(s, &r);
        result = repl_reader_end(&r, err, "segment index");
    }
    free(bytes);
    REPL_TRY(result);
    REPL_TRY(layout_check(s, err));
    return contents_check(s, err);
}

repl_result repl_segment_open(repl_read_at_fn *read_at, void *context, uint64_t file_size,
                              struct repl_segment **out, struct repl_error *err)
{
    struct repl_segment *s = calloc(1, sizeof *s);
    if (s == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment");
    s->read_at = read_at;
    s->context = context;
    repl_result result = header_read(s, file_size, err);
    if (repl_ok(result))
        result = index_read(s, err);
    if (!repl_ok(result)) {
        repl_segment_free(s);
        return result;
    }
    *out = s;
    return REPL_SUCCESS;
}

void repl_segment_free(struct repl_segment *s)
{
    if (s == NULL)
        return;
    free(s->frames);
    free(s->blocks);
    free(s->chunks);
    free(s->points);
    free(s->pages);
    free(s);
}

const struct repl_point *repl_segment_last_point(const struct repl_segment *s)
{
    return s->footer.point_count > 0 ? &s->points[s->footer.point_count - 1] : NULL;
}

static repl_result frame_read(const struct repl_segment *s, const struct repl_frame_entry *entry,
                              struct repl_frame_coder *coder, struct repl_buffer *stored, void *raw,
                              struct repl_error *err)
{
    stored->size = 0;
    uint8_t *bytes = repl_buffer_extend(stored, entry->stored_size);
    if (bytes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
    REPL_TRY(s->read_at(s->context, entry->offset, bytes, entry->stored_size, err));
    return repl_frame_decode(coder, entry, bytes, raw, err);
}

repl_result repl_segment_read_frame(const struct repl_segment *s, uint32_t index,
                                    struct repl_frame_coder *coder, struct repl_buffer *stored,
                                    void *raw, size_t *size, struct repl_error *err)
{
    if (index >= s->footer.frame_count)
        return repl_fail(err, REPL_E_CORRUPT, "there is no frame %u", index);
    *size = s->frames[index].raw_size;
    return frame_read(s, &s->frames[index], coder, stored, raw, err);
}

repl_result repl_segment_read_pages(const struct repl_segment *s, uint32_t frame,
                                    struct repl_page_digest *out, uint32_t *count,
                                    struct repl_error *err)
{
    uint8_t bytes[REPL_FRAME_PAGES_MAX * REPL_PAGE_ENTRY_SIZE + REPL_PAGES_TAIL];
    if (frame >= s->footer.frame_count || !s->frames[frame].has_pages) {
        *count = 0;
        return REPL_SUCCESS;
    }
    size_t size = (size_t)repl_frame_pages_size(&s->frames[frame]);
    REPL_TRY(s->read_at(s->context, s->pages[frame], bytes, size, err));
    struct repl_reader r = repl_reader_of(bytes, size);
    *count = (uint32_t)repl_page_count_of(s->frames[frame].raw_size);
    for (uint32_t i = 0; i < *count; i++)
        repl_read_bytes(&r, out[i].bytes, sizeof out[i].bytes);
    if (repl_read_u64(&r) != repl_xxh3(bytes, size - REPL_PAGES_TAIL))
        return repl_fail(err, REPL_E_CORRUPT, "frame %u: its list of pages is damaged", frame);
    return repl_reader_end(&r, err, "list of pages");
}

void repl_record_walk_begin(struct repl_record_walk *walk, const struct repl_segment *segment,
                            struct repl_frame_coder *coder)
{
    *walk = (struct repl_record_walk){.segment = segment, .coder = coder};
}

void repl_record_walk_end(struct repl_record_walk *walk)
{
    repl_buffer_fini(&walk->stored);
    repl_buffer_fini(&walk->raw);
}

static repl_result block_load(struct repl_record_walk *walk, struct repl_error *err)
{
    const struct repl_block_entry *block = &walk->segment->blocks[walk->next_block];
    walk->raw.size = 0;
    uint8_t *raw = repl_buffer_extend(&walk->raw, block->frame.raw_size);
    if (raw == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a manifest block");
    REPL_TRY(
        repl_forward(frame_read(walk->segment, &block->frame, walk->coder, &walk->stored, raw, err),
                     err, "manifest block %u", walk->next_block));
    walk->reader = repl_reader_of(raw, block->frame.raw_size);
    walk->next_block++;
    return REPL_SUCCESS;
}

static repl_result record_check(struct repl_record_walk *walk, const struct repl_record *record,
                                struct repl_error *err)
{
    const struct repl_segment *s = walk->segment;
    if (record->object != REPL_OBJECT_DEVICE && s->header.volume_kind != REPL_VOLUME_TREE)
        return repl_fail(err, REPL_E_CORRUPT, "a record of object %llu in a block volume",
                         (unsigned long long)record->object);
    if (record->type == REPL_RECORD_OBJECT && s->header.volume_kind == REPL_VOLUME_TREE &&
        record->size % REPL_PAGE_SIZE != 0)
        return repl_fail(err, REPL_E_CORRUPT, "a space of %llu bytes ends within a page",
                         (unsigned long long)record->size);
    REPL_TRY(repl_record_order_next(&walk->order, record, err));
    if (record->type == REPL_RECORD_DATA &&
        (record->frame >= s->footer.frame_count ||
         record->frame_offset + record->length > s->frames[record->frame].raw_size))
        return repl_fail(err, REPL_E_CORRUPT, "the extent at offset %llu lies outside its frame",
                         (unsigned long long)record->offset);
    return REPL_SUCCESS;
}

/* What a block's entry says of its first record is what a search by offset relies on. */
static repl_result block_key_check(const struct repl_record_walk *walk,
                                   const struct repl_record *record, struct repl_error *err)
{
    const struct repl_block_entry *block = &walk->segment->blocks[walk->next_block - 1];
    if (block->first_object != record->object || block->first_offset != record->offset)
        return repl_fail(err, REPL_E_CORRUPT, "manifest block %u begins at another key",
                         walk->next_block - 1);
    return REPL_SUCCESS;
}

repl_result repl_record_walk_next(struct repl_record_walk *walk, struct repl_record *record,
                                  bool *done, struct repl_error *err)
{
    const struct repl_segment_footer *footer = &walk->segment->footer;
    bool block_begins = false;
    *done = false;
    if (repl_reader_left(&walk->reader) == 0) {
        if (walk->next_block == footer->block_count) {
            if (walk->record_count != footer->record_count && !walk->sought)
                return repl_fail(err, REPL_E_CORRUPT, "%llu records instead of %llu",
                                 (unsigned long long)walk->record_count,
                                 (unsigned long long)footer->record_count);
            *done = true;
            return REPL_SUCCESS;
        }
        REPL_TRY(block_load(walk, err));
        block_begins = true;
    }
    repl_record_decode(&walk->reader, record);
    if (walk->reader.failed)
        return repl_fail(err, REPL_E_CORRUPT,
                         "manifest block %u: record %llu has a field out of its bounds",
                         walk->next_block - 1, (unsigned long long)walk->record_count);
    REPL_TRY(record_check(walk, record, err));
    if (block_begins)
        REPL_TRY(block_key_check(walk, record, err));
    walk->record_count++;
    return REPL_SUCCESS;
}

static bool block_is_before(const struct repl_block_entry *block, uint64_t object, uint64_t offset)
{
    return block->first_object != object ? block->first_object < object
                                         : block->first_offset < offset;
}

void repl_record_walk_seek(struct repl_record_walk *walk, uint64_t object, uint64_t offset)
{
    const struct repl_segment *s = walk->segment;
    uint32_t low = 0, high = s->footer.block_count; /* the first that is not before lies there */
    ensure(walk->record_count > 0);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (block_is_before(&s->blocks[middle], object, offset))
            low = middle + 1;
        else
            high = middle;
    }
    /* What reaches there, or belongs to the object, may begin in the block before that. */
    if (low < 2 || low - 1 < walk->next_block)
        return;
    walk->next_block = low - 1;
    walk->reader = repl_reader_of(NULL, 0);
    walk->sought = true;
    repl_record_order_skip(&walk->order, s->blocks[low - 1].first_object);
}
