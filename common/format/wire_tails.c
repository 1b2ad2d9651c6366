/*
 * The ends of segments, for a recovery that is to open many of them: one question
 * in the place of one or two for each.
 */
#include <stdlib.h>

#include "format/segment_format.h"
#include "format/wire_internal.h"

#define UNOPENED_SIZE 20u
#define TAIL_SIZE     16u /* without its bytes */

/* --- unopened -------------------------------------------------------------------------------- */

repl_result repl_unopened_encode(const struct repl_unopened *m, struct repl_buffer *out,
                                 struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_UNOPENED, m->count, REPL_TAILS_MAX,
                                 8 + (size_t)m->count * UNOPENED_SIZE, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_zeros(&w, 4);
    for (uint32_t i = 0; i < m->count; i++) {
        repl_write_u64(&w, m->entries[i].to_seq);
        repl_write_u32(&w, m->entries[i].part);
        repl_write_u64(&w, m->entries[i].merge);
    }
    return repl_wire_close(out, REPL_WIRE_UNOPENED, &w, err);
}

repl_result repl_unopened_decode(const void *data, size_t size, struct repl_unopened *out,
                                 struct repl_error *err)
{
    struct repl_reader r;
    void *entries;
    *out = (struct repl_unopened){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_UNOPENED, &r, err));
    uint32_t count = repl_read_u32(&r);
    repl_read_zeros(&r, 4);
    r.failed |= count == 0;
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_TAILS_MAX, UNOPENED_SIZE,
                                     sizeof out->entries[0], &entries, err));
    out->entries = entries;
    out->count = count;
    for (uint32_t i = 0; i < count; i++) {
        out->entries[i].to_seq = repl_read_u64(&r);
        out->entries[i].part = repl_read_u32(&r);
        out->entries[i].merge = repl_read_u64(&r);
    }
    repl_result result = repl_wire_leave(&r, REPL_WIRE_UNOPENED, err);
    if (!repl_ok(result))
        repl_unopened_fini(out);
    return result;
}

void repl_unopened_fini(struct repl_unopened *unopened)
{
    free(unopened->entries);
    *unopened = (struct repl_unopened){0};
}

/* --- tails ----------------------------------------------------------------------------------- */

size_t repl_tail_room(const struct repl_tail *tail)
{
    return tail->size == 0 ? TAIL_SIZE : TAIL_SIZE + REPL_SEGMENT_HEADER_SIZE + (size_t)tail->size;
}

repl_result repl_tails_encode(const struct repl_tails *m, struct repl_buffer *out,
                              struct repl_error *err)
{
    struct repl_writer w;
    size_t room = 8;
    for (uint32_t i = 0; i < m->count; i++)
        room += repl_tail_room(&m->tails[i]);
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_TAILS, m->count, REPL_TAILS_MAX, room, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_zeros(&w, 4);
    for (uint32_t i = 0; i < m->count; i++) {
        const struct repl_tail *tail = &m->tails[i];
        repl_write_u32(&w, tail->size);
        repl_write_zeros(&w, 4);
        repl_write_u64(&w, tail->begin);
        if (tail->size == 0)
            continue;
        repl_write_bytes(&w, tail->header, REPL_SEGMENT_HEADER_SIZE);
        repl_write_bytes(&w, tail->bytes, tail->size);
    }
    return repl_wire_close(out, REPL_WIRE_TAILS, &w, err);
}

static const uint8_t *pass(struct repl_reader *r, size_t size)
{
    const uint8_t *bytes = r->data + r->position;
    if (r->failed || repl_reader_left(r) < size) {
        r->failed = true;
        return NULL;
    }
    r->position += size;
    return bytes;
}

static void tail_decode(struct repl_reader *r, struct repl_tail *out)
{
    out->size = repl_read_u32(r);
    repl_read_zeros(r, 4);
    out->begin = repl_read_u64(r);
    if (out->size == 0) {
        r->failed |= out->begin != 0;
        return;
    }
    if (out->size > REPL_TAIL_BYTES_MAX || out->begin < REPL_SEGMENT_HEADER_SIZE ||
        out->begin > REPL_SEGMENT_HARD_LIMIT - out->size)
        r->failed = true;
    out->header = pass(r, REPL_SEGMENT_HEADER_SIZE);
    out->bytes = pass(r, out->size);
}

repl_result repl_tails_decode(const void *data, size_t size, struct repl_tails *out,
                              struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_tails){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_TAILS, &r, err));
    uint32_t count = repl_read_u32(&r);
    repl_read_zeros(&r, 4);
    if (r.failed || count > REPL_TAILS_MAX || repl_reader_left(&r) < (size_t)count * TAIL_SIZE)
        return repl_fail(err, REPL_E_CORRUPT, "a list of %u tails does not fit its message", count);
    out->tails = calloc(count + 1, sizeof out->tails[0]);
    if (out->tails == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of %u tails", count);
    out->count = count;
    for (uint32_t i = 0; i < count && !r.failed; i++)
        tail_decode(&r, &out->tails[i]);
    repl_result result = repl_wire_leave(&r, REPL_WIRE_TAILS, err);
    if (!repl_ok(result))
        repl_tails_fini(out);
    return result;
}

void repl_tails_fini(struct repl_tails *tails)
{
    free(tails->tails);
    *tails = (struct repl_tails){0};
}
