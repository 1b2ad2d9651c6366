/*
 * The messages that list points: points, and timeline, which says of each how
 * much has changed too.
 */
#include <stdlib.h>

#include "format/segment_format.h"
#include "format/wire_internal.h"

#define TIMELINE_ENTRY_SIZE (REPL_WIRE_POINTS_ENTRY_SIZE + 1u + REPL_CHURN_SIZE)

_Static_assert(REPL_WIRE_POINTS_ENTRY_SIZE == REPL_POINT_SIZE + 16, "a point, a time and a size");
_Static_assert(20 + REPL_LIST_ENTRIES_MAX * TIMELINE_ENTRY_SIZE < REPL_MESSAGE_SIZE_MAX, "it fits");

/* --- entries --------------------------------------------------------------------------------- */

void repl_wire_points_entry_encode(struct repl_writer *w, const struct repl_points_entry *entry)
{
    repl_point_encode(w, &entry->point);
    repl_write_i64(w, entry->unchanged_until_ns);
    repl_write_u64(w, entry->volume_size);
}

void repl_wire_points_entry_decode(struct repl_reader *r, struct repl_points_entry *out)
{
    repl_point_decode(r, &out->point);
    out->unchanged_until_ns = repl_read_i64(r);
    out->volume_size = repl_read_u64(r);
    if (out->unchanged_until_ns < out->point.end_ns || out->volume_size > REPL_VOLUME_SIZE_MAX)
        r->failed = true;
}

/* All entries have one size: a list is as long as its count says. */
static void churn_or_none_encode(struct repl_writer *w, const struct repl_churn *churn)
{
    repl_write_u8(w, churn->known);
    if (churn->known)
        repl_churn_encode(w, churn);
    else
        repl_write_zeros(w, REPL_CHURN_SIZE);
}

static void churn_or_none_decode(struct repl_reader *r, struct repl_points_entry *out)
{
    if (repl_wire_read_bool(r))
        repl_churn_decode(r, &out->churn);
    else
        repl_read_zeros(r, REPL_CHURN_SIZE);
    if (out->churn.trouble_before_seq >= out->point.seq)
        r->failed = true;
}

/* --- pages ----------------------------------------------------------------------------------- */

static repl_result page_encode(enum repl_wire_type type, const struct repl_points_page *m,
                               struct repl_buffer *out, struct repl_error *err)
{
    bool churn = type == REPL_WIRE_TIMELINE;
    size_t entry_size = churn ? TIMELINE_ENTRY_SIZE : REPL_WIRE_POINTS_ENTRY_SIZE;
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, type, m->count, REPL_LIST_ENTRIES_MAX,
                                 8 + (size_t)m->count * entry_size, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_u8(&w, m->more);
    repl_write_zeros(&w, 3);
    for (uint32_t i = 0; i < m->count; i++) {
        repl_wire_points_entry_encode(&w, &m->entries[i]);
        if (churn)
            churn_or_none_encode(&w, &m->entries[i].churn);
    }
    return repl_wire_close(out, type, &w, err);
}

static repl_result page_decode(enum repl_wire_type type, const void *data, size_t size,
                               struct repl_points_page *out, struct repl_error *err)
{
    bool churn = type == REPL_WIRE_TIMELINE;
    struct repl_reader r;
    void *entries;
    *out = (struct repl_points_page){0};
    REPL_TRY(repl_wire_enter(data, size, type, &r, err));
    uint32_t count = repl_read_u32(&r);
    out->more = repl_wire_read_bool(&r);
    repl_read_zeros(&r, 3);
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_LIST_ENTRIES_MAX,
                                     churn ? TIMELINE_ENTRY_SIZE : REPL_WIRE_POINTS_ENTRY_SIZE,
                                     sizeof out->entries[0], &entries, err));
    out->entries = entries;
    out->count = count;
    for (uint32_t i = 0; i < count; i++) {
        repl_wire_points_entry_decode(&r, &out->entries[i]);
        if (churn)
            churn_or_none_decode(&r, &out->entries[i]);
        if (i > 0 && out->entries[i].point.seq <= out->entries[i - 1].point.seq)
            r.failed = true;
    }
    if (out->more && count == 0)
        r.failed = true;
    repl_result result = repl_wire_leave(&r, type, err);
    if (!repl_ok(result))
        repl_points_page_fini(out);
    return result;
}

repl_result repl_points_page_encode(const struct repl_points_page *m, struct repl_buffer *out,
                                    struct repl_error *err)
{
    return page_encode(REPL_WIRE_POINTS, m, out, err);
}

repl_result repl_points_page_decode(const void *data, size_t size, struct repl_points_page *out,
                                    struct repl_error *err)
{
    return page_decode(REPL_WIRE_POINTS, data, size, out, err);
}

repl_result repl_timeline_encode(const struct repl_points_page *m, struct repl_buffer *out,
                                 struct repl_error *err)
{
    return page_encode(REPL_WIRE_TIMELINE, m, out, err);
}

repl_result repl_timeline_decode(const void *data, size_t size, struct repl_points_page *out,
                                 struct repl_error *err)
{
    return page_decode(REPL_WIRE_TIMELINE, data, size, out, err);
}

void repl_points_page_fini(struct repl_points_page *page)
{
    free(page->entries);
    *page = (struct repl_points_page){0};
}
