/*
 * The segment reader on any bytes: open, every record, every frame, verify.
 *
 * Each input is tried twice: as it is, and with all checksums made to match whatever stands there,
 * because no mutation would find its way past them. A refusal must have words; what is accepted
 * must keep its promises: records in order and within their frames, verified means readable.
 */
#include <stdint.h>

#include <zstd.h>

#include "segment/segment_verify.h"
#include "unit/segment/segment_craft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct repl_frame_coder *coder;

static void put_u64(uint8_t *at, uint64_t value)
{
    struct repl_writer w = repl_writer_of(at, 8);
    repl_write_u64(&w, value);
}

/* Gives the entry at this place the checksum of what it points at, if that can be had. */
static void seal_entry(const struct repl_buffer *file, uint8_t *at)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    struct repl_reader r = repl_reader_of(at, REPL_FRAME_ENTRY_SIZE);
    struct repl_frame_entry entry;
    repl_frame_entry_decode(&r, &entry);
    if (r.failed || entry.offset > file->size || entry.stored_size > file->size - entry.offset)
        return;
    const uint8_t *stored = file->data + entry.offset;
    if (entry.codec == REPL_CODEC_STORED) {
        put_u64(at + 16, repl_xxh3(stored, entry.stored_size));
    } else {
        size_t size = ZSTD_decompress(raw, sizeof raw, stored, entry.stored_size);
        if (!ZSTD_isError(size))
            put_u64(at + 16, repl_xxh3(raw, size));
    }
}

static void seal_all(struct repl_buffer *file)
{
    const uint8_t *footer = file->data + file->size - REPL_SEGMENT_FOOTER_SIZE;
    struct repl_reader r = repl_reader_of(footer + 8, 16);
    uint64_t at = repl_read_u64(&r);
    uint32_t frames = repl_read_u32(&r), blocks = repl_read_u32(&r);
    for (uint32_t i = 0; i < frames && at < file->size && REPL_FRAME_ENTRY_SIZE <= file->size - at;
         i++) {
        seal_entry(file, file->data + at);
        at += REPL_FRAME_ENTRY_SIZE;
    }
    for (uint32_t i = 0; i < blocks && at < file->size && REPL_BLOCK_ENTRY_SIZE <= file->size - at;
         i++) {
        seal_entry(file, file->data + at);
        at += REPL_BLOCK_ENTRY_SIZE;
    }
    craft_seal(file);
}

static bool check_records(const struct repl_segment *s, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record;
    uint64_t end = 0, count = 0, size = 0, object = REPL_OBJECT_DEVICE;
    bool done = false;
    repl_record_walk_begin(&walk, s, coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    for (; repl_ok(result) && !done; result = repl_record_walk_next(&walk, &record, &done, err)) {
        ensure((record.type == REPL_RECORD_OBJECT) == (count++ == 0));
        if (record.type == REPL_RECORD_OBJECT) {
            size = record.size;
            continue;
        }
        if (record.object != REPL_OBJECT_DEVICE) {
            ensure(record.type >= REPL_RECORD_NODE && record.object >= object);
            object = record.object;
            continue;
        }
        ensure(object == REPL_OBJECT_DEVICE);
        ensure(record.offset >= end && record.length > 0);
        end = record.offset + record.length;
        ensure(end <= size);
        if (record.type == REPL_RECORD_DATA)
            ensure(record.frame_offset + record.length <= s->frames[record.frame].raw_size);
        if (record.type == REPL_RECORD_CHUNK)
            ensure(record.chunk_offset + record.length <= REPL_CHUNK_SIZE);
    }
    repl_record_walk_end(&walk);
    ensure(!repl_ok(result) || count == s->footer.record_count);
    return repl_ok(result);
}

static void read_segment(const uint8_t *data, size_t size)
{
    struct memory_span span = {data, size};
    struct repl_error err = {.text = ""};
    struct repl_segment *segment;
    struct repl_buffer frames = {0};
    if (!repl_ok(repl_segment_open(memory_read_at, &span, size, &segment, &err))) {
        ensure(err.text[0] != '\0');
        return;
    }
    bool readable = check_records(segment, &err) && segment->footer.raw_size < 64 << 20 &&
                    repl_ok(read_frames(segment, coder, &frames, &err));
    ensure(!readable || frames.size == segment->footer.raw_size);
    err.text[0] = '\0';
    if (!repl_ok(repl_segment_verify(segment, coder, &err)))
        ensure(err.text[0] != '\0');
    else
        ensure(readable || segment->footer.raw_size >= 64 << 20);
    repl_buffer_fini(&frames);
    repl_segment_free(segment);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (coder == NULL)
        ensure(repl_ok(repl_frame_coder_new(&coder, NULL)));
    read_segment(data, size);
    if (size < REPL_SEGMENT_HEADER_SIZE + REPL_SEGMENT_FOOTER_SIZE)
        return 0;
    struct repl_buffer file = {0};
    craft_append(&file, data, size);
    seal_all(&file);
    read_segment(file.data, file.size);
    repl_buffer_fini(&file);
    return 0;
}
