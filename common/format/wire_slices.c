/*
 * Parts of a frame, for a recovery that has the others: what is asked for, and the
 * answer.
 */
#include <stdlib.h>

#include "format/segment_format.h"
#include "format/wire_internal.h"

#define SLICE_SIZE 8u

_Static_assert(12 + REPL_FRAME_ENTRY_SIZE + REPL_SLICES_BYTES_MAX < REPL_MESSAGE_SIZE_MAX,
               "it fits");

/* --- slices ---------------------------------------------------------------------------------- */

uint32_t repl_slices_size(const struct repl_slice *slices, uint32_t count)
{
    uint32_t size = 0;
    for (uint32_t i = 0; i < count; i++)
        size += slices[i].length;
    return size;
}

/* Behind the one before it, and not touching it, as there is one way to write each. */
static bool slice_valid(const struct repl_slices *m, uint32_t i)
{
    const struct repl_slice *slice = &m->slices[i], *before = i > 0 ? slice - 1 : NULL;
    return slice->length > 0 && slice->offset < m->frame.raw_size &&
           slice->length <= m->frame.raw_size - slice->offset &&
           (before == NULL || slice->offset > before->offset + before->length);
}

repl_result repl_slices_encode(const struct repl_slices *m, struct repl_buffer *out,
                               struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_SLICES, m->count, REPL_SLICES_MAX,
                                 8 + REPL_FRAME_ENTRY_SIZE + (size_t)m->count * SLICE_SIZE, &w,
                                 err));
    repl_write_u32(&w, m->count);
    repl_write_zeros(&w, 4);
    repl_frame_entry_encode(&w, &m->frame);
    for (uint32_t i = 0; i < m->count; i++) {
        repl_write_u32(&w, m->slices[i].offset);
        repl_write_u32(&w, m->slices[i].length);
    }
    return repl_wire_close(out, REPL_WIRE_SLICES, &w, err);
}

repl_result repl_slices_decode(const void *data, size_t size, struct repl_slices *out,
                               struct repl_error *err)
{
    struct repl_reader r;
    void *slices;
    *out = (struct repl_slices){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_SLICES, &r, err));
    uint32_t count = repl_read_u32(&r);
    repl_read_zeros(&r, 4);
    repl_frame_entry_decode(&r, &out->frame);
    r.failed |= out->frame.has_pages || count == 0;
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_SLICES_MAX, SLICE_SIZE, sizeof out->slices[0],
                                     &slices, err));
    out->slices = slices;
    out->count = count;
    for (uint32_t i = 0; i < count && !r.failed; i++) {
        out->slices[i].offset = repl_read_u32(&r);
        out->slices[i].length = repl_read_u32(&r);
        r.failed |= !slice_valid(out, i);
    }
    r.failed |= repl_slices_size(out->slices, count) > REPL_SLICES_BYTES_MAX;
    repl_result result = repl_wire_leave(&r, REPL_WIRE_SLICES, err);
    if (!repl_ok(result))
        repl_slices_fini(out);
    return result;
}

void repl_slices_fini(struct repl_slices *slices)
{
    free(slices->slices);
    *slices = (struct repl_slices){0};
}

/* --- sliced ---------------------------------------------------------------------------------- */

repl_result repl_sliced_encode(const struct repl_sliced *m, struct repl_buffer *out,
                               struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_open(out, REPL_FRAME_ENTRY_SIZE + m->frame.stored_size, &w, err));
    repl_frame_entry_encode(&w, &m->frame);
    repl_write_bytes(&w, m->stored, m->frame.stored_size);
    return repl_wire_close(out, REPL_WIRE_SLICED, &w, err);
}

repl_result repl_sliced_decode(const void *data, size_t size, struct repl_sliced *out,
                               struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_sliced){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_SLICED, &r, err));
    repl_frame_entry_decode(&r, &out->frame);
    r.failed |= out->frame.has_pages || out->frame.offset != 0 ||
                out->frame.raw_size > REPL_SLICES_BYTES_MAX ||
                repl_reader_left(&r) != out->frame.stored_size;
    if (!r.failed) {
        out->stored = (const uint8_t *)data + r.position;
        r.position += out->frame.stored_size;
    }
    return repl_wire_leave(&r, REPL_WIRE_SLICED, err);
}
