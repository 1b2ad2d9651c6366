/*
 * Writes segments that no builder would: every number can be made wrong, and all checksums still
 * match, so that what refuses them is the check meant and not a checksum before it. Needs no zstd
 * and its bytes depend on nothing but what it is told: the golden files are made with it.
 *
 * In three steps: add frames, records, chunks, points; craft_layout places them (then any entry
 * or the footer can be changed); craft_write makes the bytes (then any byte can be changed, and
 * craft_seal computes the checksums anew).
 */
#ifndef TESTS_UNIT_SEGMENT_CRAFT_H
#define TESTS_UNIT_SEGMENT_CRAFT_H

#include "unit/segment/segment_fixture.h"

#define CRAFT_MAX 8

struct craft {
    struct repl_segment_header header;
    struct repl_frame_entry frames[CRAFT_MAX];
    struct repl_buffer frame_bytes[CRAFT_MAX];
    struct repl_buffer page_bytes[CRAFT_MAX]; /* of each frame: its list of pages, as stored */
    struct repl_block_entry blocks[CRAFT_MAX];
    struct repl_buffer block_bytes[CRAFT_MAX]; /* records; always stored as they are */
    struct repl_chunk_entry chunks[CRAFT_MAX];
    struct repl_point points[CRAFT_MAX];
    struct repl_segment_footer footer; /* the counts are the numbers of what has been added */
};

static inline void craft_fini(struct craft *craft)
{
    for (size_t i = 0; i < CRAFT_MAX; i++) {
        repl_buffer_fini(&craft->frame_bytes[i]);
        repl_buffer_fini(&craft->page_bytes[i]);
        repl_buffer_fini(&craft->block_bytes[i]);
    }
}

static inline void craft_append(struct repl_buffer *buffer, const void *bytes, size_t size)
{
    ensure(repl_ok(repl_buffer_append(buffer, bytes, size, NULL)));
}

static inline uint32_t craft_frame(struct craft *craft, enum repl_codec codec, const void *stored,
                                   size_t stored_size, const void *raw, size_t raw_size)
{
    uint32_t index = craft->footer.frame_count++;
    ensure(index < CRAFT_MAX);
    craft_append(&craft->frame_bytes[index], stored, stored_size);
    craft->frames[index] = (struct repl_frame_entry){.stored_size = (uint32_t)stored_size,
                                                     .raw_size = (uint32_t)raw_size,
                                                     .raw_xxh3 = repl_xxh3(raw, raw_size),
                                                     .codec = codec};
    return index;
}

static inline uint32_t craft_stored_frame(struct craft *craft, const void *raw, size_t size)
{
    return craft_frame(craft, REPL_CODEC_STORED, raw, size, raw, size);
}

/* A zstd frame written by hand: size times the byte, as RLE blocks of at most 128 KiB. */
static inline size_t craft_zstd_run(uint8_t byte, uint32_t size, uint8_t out[64])
{
    struct repl_writer w = repl_writer_of(out, 64);
    repl_write_u32(&w, 0xfd2fb528); /* magic */
    repl_write_u8(&w, 0xa0);        /* single segment, four bytes of content size */
    repl_write_u32(&w, size);
    while (size > 0) {
        uint32_t block = size < 131072 ? size : 131072;
        size -= block;
        uint32_t head = block << 3 | 1u << 1 | (size == 0);
        repl_write_u16(&w, (uint16_t)head);
        repl_write_u8(&w, (uint8_t)(head >> 16));
        repl_write_u8(&w, byte);
    }
    ensure(!w.failed);
    return w.position;
}

static inline uint32_t craft_run_frame(struct craft *craft, uint8_t byte, uint32_t size)
{
    uint8_t stored[64];
    uint8_t *raw = malloc(size);
    ensure(raw != NULL);
    memset(raw, byte, size);
    size_t stored_size = craft_zstd_run(byte, size, stored);
    uint32_t index = craft_frame(craft, REPL_CODEC_ZSTD, stored, stored_size, raw, size);
    free(raw);
    return index;
}

/* Gives a frame the list of the pages that it would hold if all its bytes were byte. */
static inline void craft_run_pages(struct craft *craft, uint32_t frame, uint8_t byte)
{
    static uint8_t page[REPL_PAGE_SIZE];
    struct repl_buffer *list = &craft->page_bytes[frame];
    uint8_t checksum[REPL_PAGES_TAIL];
    memset(page, byte, sizeof page);
    for (uint32_t left = craft->frames[frame].raw_size; left > 0;) {
        uint32_t step = left < sizeof page ? left : (uint32_t)sizeof page;
        struct repl_digest digest = sha256_of(page, step);
        craft_append(list, digest.bytes, REPL_PAGE_ENTRY_SIZE);
        left -= step;
    }
    repl_frame_pages_seal((const void *)list->data, list->size / REPL_PAGE_ENTRY_SIZE, checksum);
    craft_append(list, checksum, sizeof checksum);
    craft->frames[frame].has_pages = true;
    craft->header.features |= REPL_FEATURE_PAGES;
}

/* Behind the records of this block, which is the last one or a new one. */
static inline void craft_record(struct craft *craft, uint32_t block, struct repl_record record)
{
    ensure(block < CRAFT_MAX && block <= craft->footer.block_count);
    if (record.object == 0)
        record.object = REPL_OBJECT_DEVICE;
    if (block == craft->footer.block_count) {
        craft->footer.block_count++;
        craft->blocks[block].first_object = record.object;
        craft->blocks[block].first_offset = record.offset;
    }
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_record_encode(&w, &record);
    craft_append(&craft->block_bytes[block], bytes, w.position);
    craft->footer.record_count++;
}

static inline void craft_object(struct craft *craft, uint64_t size)
{
    craft_record(craft, 0, (struct repl_record){.type = REPL_RECORD_OBJECT, .size = size});
}

static inline void craft_data(struct craft *craft, uint32_t block, uint64_t offset, uint64_t length,
                              uint32_t frame, uint32_t frame_offset)
{
    craft_record(craft, block,
                 (struct repl_record){.type = REPL_RECORD_DATA,
                                      .offset = offset,
                                      .length = length,
                                      .frame = frame,
                                      .frame_offset = frame_offset});
}

static inline void craft_zero(struct craft *craft, uint32_t block, uint64_t offset, uint64_t length)
{
    craft_record(
        craft, block,
        (struct repl_record){.type = REPL_RECORD_ZERO, .offset = offset, .length = length});
}

static inline void craft_reference(struct craft *craft, uint32_t block, uint64_t offset,
                                   uint64_t length, const struct repl_digest *name,
                                   uint32_t chunk_offset)
{
    craft_record(craft, block,
                 (struct repl_record){.type = REPL_RECORD_CHUNK,
                                      .offset = offset,
                                      .length = length,
                                      .chunk = *name,
                                      .chunk_offset = chunk_offset});
}

/* Lists the chunk of one repeated byte that lies in a frame. */
static inline void craft_run_chunk(struct craft *craft, uint8_t byte, uint32_t frame,
                                   uint32_t frame_offset)
{
    static uint8_t bytes[REPL_CHUNK_SIZE];
    memset(bytes, byte, sizeof bytes);
    ensure(craft->footer.chunk_count < CRAFT_MAX);
    craft->chunks[craft->footer.chunk_count++] = (struct repl_chunk_entry){
        .name = chunk_name_of(bytes), .frame = frame, .frame_offset = frame_offset};
}

static inline void craft_point(struct craft *craft, uint64_t seq, uint16_t flags)
{
    int64_t begin_ns = INT64_C(1700000000000000000) + (int64_t)seq * 1000000000;
    ensure(craft->footer.point_count < CRAFT_MAX);
    craft->points[craft->footer.point_count++] =
        (struct repl_point){.seq = seq,
                            .begin_ns = begin_ns,
                            .end_ns = begin_ns + 280000,
                            .consistency = REPL_CONSISTENCY_CRASH,
                            .cut = REPL_CUT_WINDOW,
                            .flags = flags,
                            .attempts = 1,
                            .changed_bytes = 4096 * seq};
}

static inline void craft_layout(struct craft *craft)
{
    struct repl_segment_footer *f = &craft->footer;
    uint64_t position = REPL_SEGMENT_HEADER_SIZE;
    f->raw_size = 0;
    for (uint32_t i = 0; i < f->frame_count; i++) {
        craft->frames[i].offset = position;
        position += craft->frames[i].stored_size;
        f->raw_size += craft->frames[i].raw_size;
    }
    for (uint32_t i = 0; i < f->block_count; i++) {
        struct repl_frame_entry *entry = &craft->blocks[i].frame;
        const struct repl_buffer *bytes = &craft->block_bytes[i];
        entry->offset = position;
        entry->raw_size = entry->stored_size = (uint32_t)bytes->size;
        entry->raw_xxh3 = repl_xxh3(bytes->data, bytes->size);
        position += bytes->size;
    }
    for (uint32_t i = 0; i < f->frame_count; i++)
        position += craft->page_bytes[i].size;
    f->index_offset = position;
    f->file_size = position + repl_segment_index_size(f) + REPL_SEGMENT_FOOTER_SIZE;
}

/* Computes every checksum and the digest anew, over whatever stands there. */
static inline void craft_seal(struct repl_buffer *file)
{
    ensure(file->size >= REPL_SEGMENT_HEADER_SIZE + REPL_SEGMENT_FOOTER_SIZE);
    uint8_t *footer = file->data + file->size - REPL_SEGMENT_FOOTER_SIZE;
    struct repl_writer w = repl_writer_of(file->data + 120, 8);
    repl_write_u64(&w, repl_xxh3(file->data, 120));
    struct repl_reader r = repl_reader_of(footer + 8, 8);
    uint64_t index_offset = repl_read_u64(&r);
    uint64_t index_end = file->size - REPL_SEGMENT_FOOTER_SIZE;
    if (index_offset <= index_end) {
        w = repl_writer_of(footer + 32, 8);
        repl_write_u64(&w, repl_xxh3(file->data + index_offset, index_end - index_offset));
    }
    struct repl_digest digest = sha256_of(file->data, file->size - REPL_SEGMENT_DIGEST_TAIL);
    w = repl_writer_of(footer + 80, 32);
    repl_write_digest(&w, &digest);
    w = repl_writer_of(footer + 120, 8);
    repl_write_u64(&w, repl_xxh3(footer, 120));
}

static inline void craft_write(const struct craft *craft, struct repl_buffer *file)
{
    const struct repl_segment_footer *f = &craft->footer;
    uint8_t header[REPL_SEGMENT_HEADER_SIZE], footer[REPL_SEGMENT_FOOTER_SIZE];
    uint8_t index[CRAFT_MAX * 256];
    struct repl_writer w = repl_writer_of(index, sizeof index);
    repl_segment_header_encode(&craft->header, header);
    craft_append(file, header, sizeof header);
    for (uint32_t i = 0; i < CRAFT_MAX; i++)
        craft_append(file, craft->frame_bytes[i].data, craft->frame_bytes[i].size);
    for (uint32_t i = 0; i < CRAFT_MAX; i++)
        craft_append(file, craft->block_bytes[i].data, craft->block_bytes[i].size);
    for (uint32_t i = 0; i < CRAFT_MAX; i++)
        craft_append(file, craft->page_bytes[i].data, craft->page_bytes[i].size);
    for (uint32_t i = 0; i < f->frame_count; i++)
        repl_frame_entry_encode(&w, &craft->frames[i]);
    for (uint32_t i = 0; i < f->block_count; i++)
        repl_block_entry_encode(&w, &craft->blocks[i]);
    for (uint32_t i = 0; i < f->chunk_count; i++)
        repl_chunk_entry_encode(&w, &craft->chunks[i]);
    for (uint32_t i = 0; i < f->point_count; i++)
        repl_point_encode(&w, &craft->points[i]);
    ensure(!w.failed);
    craft_append(file, index, w.position);
    repl_segment_footer_encode(f, footer);
    craft_append(file, footer, sizeof footer);
    craft_seal(file);
}

/* --- the segment that most tests start from -------------------------------------------------- */

#define CRAFT_VOLUME_SIZE (UINT64_C(262144) + 1000)

static inline struct repl_segment_header craft_header(uint64_t from_seq, uint64_t to_seq)
{
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_CHANGES,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .lineage = 3,
                                         .from_seq = from_seq,
                                         .to_seq = to_seq,
                                         .created_ns = INT64_C(1700000000123456789)};
    for (size_t i = 0; i < sizeof header.volume.bytes; i++)
        header.volume.bytes[i] = (uint8_t)(0x10 + i);
    if (from_seq > 0)
        memset(header.prev.bytes, 0xab, sizeof header.prev.bytes);
    return header;
}

/* Every kind of record, two compressed frames, two manifest blocks, a chunk, three points. */
static inline void craft_sample(struct craft *craft)
{
    static const uint8_t elsewhere[REPL_CHUNK_SIZE] = {1, 2, 3};
    struct repl_digest name = chunk_name_of(elsewhere);
    *craft = (struct craft){.header = craft_header(7, 10)};
    craft_run_frame(craft, 'A', 8192);
    craft_run_frame(craft, 'C', REPL_CHUNK_SIZE);
    craft_object(craft, CRAFT_VOLUME_SIZE);
    craft_data(craft, 0, 0, 4096, 0, 4096);
    craft_data(craft, 0, 8192, 4096, 0, 0);
    craft_reference(craft, 0, 65536, 65536, &name, 0);
    craft_data(craft, 1, 131072, 65536, 1, 0);
    craft_zero(craft, 1, 196608, 65536);
    craft_data(craft, 1, 262144, 1000, 0, 0);
    craft_run_chunk(craft, 'C', 1, 0);
    craft_point(craft, 8, REPL_POINT_MERGED);
    craft_point(craft, 9, REPL_POINT_MERGED | REPL_POINT_RESYNC);
    craft_point(craft, 10, 0);
}

/* The same, with a list of the pages of the frame that is no listed chunk. */
static inline void craft_pages(struct craft *craft)
{
    craft_sample(craft);
    craft_run_pages(craft, 0, 'A');
}

#endif
