/*
 * What a site says of damage: what it wants to be sent once more, and which points
 * are touched.
 */
#include <stdlib.h>

#include "format/wire_internal.h"

#define RUN_SIZE  16u /* of either kind */
#define PAGES_MAX (REPL_VOLUME_SIZE_MAX / REPL_PAGE_SIZE)

/* --- resend ---------------------------------------------------------------------------------- */

_Static_assert(12 + 8 + REPL_LIST_ENTRIES_MAX * RUN_SIZE < REPL_MESSAGE_SIZE_MAX, "it fits");

repl_result repl_resend_encode(const struct repl_resend *m, struct repl_buffer *out,
                               struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_RESEND, m->count, REPL_LIST_ENTRIES_MAX,
                                 8 + (size_t)m->count * RUN_SIZE, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_u8(&w, m->full);
    repl_write_zeros(&w, 3);
    for (uint32_t i = 0; i < m->count; i++) {
        repl_write_u64(&w, m->runs[i].first);
        repl_write_u64(&w, m->runs[i].count);
    }
    return repl_wire_close(out, REPL_WIRE_RESEND, &w, err);
}

/* Behind the one before it, and not touching it, as there is one way to write each. */
static bool run_valid(const struct repl_page_run *runs, uint32_t i)
{
    const struct repl_page_run *run = &runs[i];
    return run->count > 0 && run->first < PAGES_MAX && run->count <= PAGES_MAX - run->first &&
           (i == 0 || run->first > runs[i - 1].first + runs[i - 1].count);
}

repl_result repl_resend_decode(const void *data, size_t size, struct repl_resend *out,
                               struct repl_error *err)
{
    struct repl_reader r;
    void *runs;
    *out = (struct repl_resend){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_RESEND, &r, err));
    uint32_t count = repl_read_u32(&r);
    out->full = repl_wire_read_bool(&r);
    repl_read_zeros(&r, 3);
    r.failed |= out->full && count > 0;
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_LIST_ENTRIES_MAX, RUN_SIZE,
                                     sizeof out->runs[0], &runs, err));
    out->runs = runs;
    out->count = count;
    for (uint32_t i = 0; i < count && !r.failed; i++) {
        out->runs[i].first = repl_read_u64(&r);
        out->runs[i].count = repl_read_u64(&r);
        if (!run_valid(out->runs, i))
            r.failed = true;
    }
    repl_result result = repl_wire_leave(&r, REPL_WIRE_RESEND, err);
    if (!repl_ok(result))
        repl_resend_fini(out);
    return result;
}

void repl_resend_fini(struct repl_resend *resend)
{
    free(resend->runs);
    *resend = (struct repl_resend){0};
}

/* --- damaged points -------------------------------------------------------------------------- */

repl_result repl_damaged_encode(const struct repl_damaged *m, struct repl_buffer *out,
                                struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_DAMAGED, m->count, REPL_LIST_ENTRIES_MAX,
                                 8 + (size_t)m->count * RUN_SIZE, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_u8(&w, m->complete);
    repl_write_zeros(&w, 3);
    for (uint32_t i = 0; i < m->count; i++) {
        repl_write_u64(&w, m->runs[i].first_seq);
        repl_write_u64(&w, m->runs[i].last_seq);
    }
    return repl_wire_close(out, REPL_WIRE_DAMAGED, &w, err);
}

repl_result repl_damaged_decode(const void *data, size_t size, struct repl_damaged *out,
                                struct repl_error *err)
{
    struct repl_reader r;
    void *runs;
    *out = (struct repl_damaged){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_DAMAGED, &r, err));
    uint32_t count = repl_read_u32(&r);
    out->complete = repl_wire_read_bool(&r);
    repl_read_zeros(&r, 3);
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_LIST_ENTRIES_MAX, RUN_SIZE,
                                     sizeof out->runs[0], &runs, err));
    out->runs = runs;
    out->count = count;
    for (uint32_t i = 0; i < count && !r.failed; i++) {
        struct repl_point_run *run = &out->runs[i];
        run->first_seq = repl_read_u64(&r);
        run->last_seq = repl_read_u64(&r);
        r.failed |= run->first_seq == 0 || run->last_seq < run->first_seq;
    }
    repl_result result = repl_wire_leave(&r, REPL_WIRE_DAMAGED, err);
    if (!repl_ok(result))
        repl_damaged_fini(out);
    return result;
}

void repl_damaged_fini(struct repl_damaged *damaged)
{
    free(damaged->runs);
    *damaged = (struct repl_damaged){0};
}

bool repl_damaged_has(const struct repl_damaged *damaged, uint64_t seq)
{
    for (uint32_t i = 0; i < damaged->count; i++) {
        if (seq >= damaged->runs[i].first_seq && seq <= damaged->runs[i].last_seq)
            return true;
    }
    return false;
}
