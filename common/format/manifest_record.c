/*
 * Every record begins with type (1 byte), a zero byte, its own size (2 bytes)
 * and the first four bytes of its body; sizes are multiples of 8, so that all
 * 64-bit fields lie aligned within a block.
 */
#include "base/ensure.h"
#include "base/limits.h"
#include "format/segment_format.h"

static uint16_t record_size(enum repl_record_type type)
{
    switch (type) {
    case REPL_RECORD_OBJECT:
        return 32;
    case REPL_RECORD_DATA:
        return 40;
    case REPL_RECORD_CHUNK:
        return 64;
    case REPL_RECORD_ZERO:
        return 32;
    }
    return 0;
}

void repl_record_encode(struct repl_writer *w, const struct repl_record *record)
{
    size_t start = w->position;
    repl_write_u8(w, (uint8_t)record->type);
    repl_write_u8(w, 0);
    repl_write_u16(w, record_size(record->type));
    repl_write_u32(w, record->type == REPL_RECORD_DATA ? record->frame : 0);
    repl_write_u64(w, record->object);
    switch (record->type) {
    case REPL_RECORD_OBJECT:
        repl_write_u64(w, record->size);
        repl_write_zeros(w, 8);
        break;
    case REPL_RECORD_DATA:
        repl_write_u64(w, record->offset);
        repl_write_u32(w, (uint32_t)record->length);
        repl_write_u32(w, record->frame_offset);
        repl_write_zeros(w, 8);
        break;
    case REPL_RECORD_CHUNK:
        repl_write_u64(w, record->offset);
        repl_write_u32(w, (uint32_t)record->length);
        repl_write_u32(w, record->chunk_offset);
        repl_write_digest(w, &record->chunk);
        break;
    case REPL_RECORD_ZERO:
        repl_write_u64(w, record->offset);
        repl_write_u64(w, record->length);
        break;
    }
    ensure(w->failed || w->position - start == record_size(record->type));
}

static bool extent_in_bounds(const struct repl_record *record)
{
    return record->length > 0 && record->length <= REPL_VOLUME_SIZE_MAX &&
           record->offset <= REPL_VOLUME_SIZE_MAX - record->length &&
           record->offset % REPL_PAGE_SIZE == 0;
}

static bool record_valid(const struct repl_record *record)
{
    switch (record->type) {
    case REPL_RECORD_OBJECT:
        return record->size > 0 && record->size <= REPL_VOLUME_SIZE_MAX;
    case REPL_RECORD_DATA:
        return extent_in_bounds(record) && record->length <= REPL_FRAME_RAW_MAX &&
               record->frame < REPL_FRAMES_MAX &&
               record->frame_offset <= REPL_FRAME_RAW_MAX - record->length;
    case REPL_RECORD_CHUNK:
        return extent_in_bounds(record) && record->length <= REPL_CHUNK_SIZE &&
               record->chunk_offset <= REPL_CHUNK_SIZE - record->length;
    case REPL_RECORD_ZERO:
        return extent_in_bounds(record);
    }
    return false;
}

void repl_record_decode(struct repl_reader *r, struct repl_record *out)
{
    *out = (struct repl_record){.type = repl_read_u8(r)};
    repl_read_zeros(r, 1);
    uint16_t size = repl_read_u16(r);
    uint32_t word = repl_read_u32(r);
    out->object = repl_read_u64(r);
    if (size == 0 || size != record_size(out->type) ||
        (word != 0 && out->type != REPL_RECORD_DATA) || out->object != REPL_OBJECT_DEVICE) {
        r->failed = true;
        return;
    }
    switch (out->type) {
    case REPL_RECORD_OBJECT:
        out->size = repl_read_u64(r);
        repl_read_zeros(r, 8);
        break;
    case REPL_RECORD_DATA:
        out->frame = word;
        out->offset = repl_read_u64(r);
        out->length = repl_read_u32(r);
        out->frame_offset = repl_read_u32(r);
        repl_read_zeros(r, 8);
        break;
    case REPL_RECORD_CHUNK:
        out->offset = repl_read_u64(r);
        out->length = repl_read_u32(r);
        out->chunk_offset = repl_read_u32(r);
        repl_read_digest(r, &out->chunk);
        break;
    case REPL_RECORD_ZERO:
        out->offset = repl_read_u64(r);
        out->length = repl_read_u64(r);
        break;
    }
    if (!r->failed && !record_valid(out))
        r->failed = true;
}
