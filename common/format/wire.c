/*
 * The messages. A header of 12 bytes (magic, type, size) and the fields, in the
 * order of docs/formats/wire.md. What a decoder accepts it has held to every
 * bound that the message alone can be held to; a page of a list, also to its
 * order, and one that says that there is more is not empty: whoever pages
 * through a list gets on with each page.
 *
 * An encoder that fails leaves nothing behind in the buffer.
 */
#include "format/wire.h"

#include <stdlib.h>

#include "format/segment_format.h"
#include "format/wire_internal.h"

#define WIRE_MAGIC       0x4c504552u /* "REPL" */
#define WIRE_HEADER_SIZE 12u

static const char *const type_names[] = {
    [REPL_WIRE_HELLO] = "hello",
    [REPL_WIRE_WELCOME] = "welcome",
    [REPL_WIRE_ACK] = "ack",
    [REPL_WIRE_REFUSAL] = "refusal",
    [REPL_WIRE_MISSING] = "missing",
    [REPL_WIRE_REPORT] = "report",
    [REPL_WIRE_POINTS] = "points",
    [REPL_WIRE_SEGMENTS] = "segments",
    [REPL_WIRE_DIGESTS] = "digests",
    [REPL_WIRE_MERGED_SEGMENTS] = "merged segments",
    [REPL_WIRE_MARK] = "mark",
    [REPL_WIRE_MARKS] = "marks",
    [REPL_WIRE_WANTED] = "wanted",
    [REPL_WIRE_POOL_NAMES] = "pool names",
    [REPL_WIRE_TIMELINE] = "timeline",
    [REPL_WIRE_RESEND] = "resend",
    [REPL_WIRE_DAMAGED] = "damaged points",
    [REPL_WIRE_SLICES] = "slices",
    [REPL_WIRE_SLICED] = "sliced",
    [REPL_WIRE_UNOPENED] = "unopened",
    [REPL_WIRE_TAILS] = "tails",
};

enum repl_wire_type repl_wire_type_of(const void *data, size_t size)
{
    struct repl_reader r = repl_reader_of(data, size);
    uint32_t magic = repl_read_u32(&r);
    uint16_t type = repl_read_u16(&r);
    repl_read_zeros(&r, 2);
    uint32_t whole = repl_read_u32(&r);
    bool valid = !r.failed && magic == WIRE_MAGIC && whole == size && type >= REPL_WIRE_HELLO &&
                 type <= REPL_WIRE_LAST;
    return valid ? (enum repl_wire_type)type : (enum repl_wire_type)0;
}

/* --- framing: every encoder is open, fields, close; every decoder enter, fields, leave ---- */

repl_result repl_wire_open(struct repl_buffer *out, size_t body_max, struct repl_writer *w,
                           struct repl_error *err)
{
    uint8_t *room = repl_buffer_extend(out, WIRE_HEADER_SIZE + body_max);
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a message");
    *w = repl_writer_of(room, WIRE_HEADER_SIZE + body_max);
    w->position = WIRE_HEADER_SIZE;
    return REPL_SUCCESS;
}

repl_result repl_wire_close(struct repl_buffer *out, enum repl_wire_type type,
                            const struct repl_writer *w, struct repl_error *err)
{
    if (w->failed || w->position > REPL_MESSAGE_SIZE_MAX) {
        out->size -= w->size;
        return repl_fail(err, REPL_E_INTERNAL, "a %s message does not fit its limit",
                         type_names[type]);
    }
    struct repl_writer header = repl_writer_of(w->data, WIRE_HEADER_SIZE);
    repl_write_u32(&header, WIRE_MAGIC);
    repl_write_u16(&header, (uint16_t)type);
    repl_write_u16(&header, 0);
    repl_write_u32(&header, (uint32_t)w->position);
    out->size -= w->size - w->position;
    return REPL_SUCCESS;
}

/* A list longer than its reader would take is refused here already. */
repl_result repl_wire_list_open(struct repl_buffer *out, enum repl_wire_type type, uint32_t count,
                                uint32_t limit, size_t body_max, struct repl_writer *w,
                                struct repl_error *err)
{
    if (count > limit)
        return repl_fail(err, REPL_E_INTERNAL, "a %s message of %u entries, at most %u may be",
                         type_names[type], count, limit);
    return repl_wire_open(out, body_max, w, err);
}

repl_result repl_wire_enter(const void *data, size_t size, enum repl_wire_type type,
                            struct repl_reader *r, struct repl_error *err)
{
    if (repl_wire_type_of(data, size) != type)
        return repl_fail(err, REPL_E_CORRUPT, "not a %s message", type_names[type]);
    *r = repl_reader_of(data, size);
    r->position = WIRE_HEADER_SIZE;
    return REPL_SUCCESS;
}

repl_result repl_wire_leave(const struct repl_reader *r, enum repl_wire_type type,
                            struct repl_error *err)
{
    return repl_reader_end(r, err, type_names[type]);
}

/* Memory for the entries a list announces, which must be about as long as the list says. */
repl_result repl_wire_list_allocate(const struct repl_reader *r, uint32_t count, uint32_t limit,
                                    size_t wire_size, size_t size, void **out,
                                    struct repl_error *err)
{
    if (r->failed || count > limit || repl_reader_left(r) != count * wire_size)
        return repl_fail(err, REPL_E_CORRUPT, "a list of %u entries does not fit its message",
                         count);
    *out = calloc(count + 1, size);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of %u entries", count);
    return REPL_SUCCESS;
}

bool repl_wire_read_bool(struct repl_reader *r)
{
    uint8_t value = repl_read_u8(r);
    if (value > 1)
        r->failed = true;
    return value == 1;
}

#define HEAD_SIZE 56u

static void head_encode(struct repl_writer *w, const struct repl_head *head)
{
    repl_write_u64(w, head->from_seq);
    repl_write_u64(w, head->to_seq);
    repl_write_u32(w, head->part);
    repl_write_u8(w, head->has_point);
    repl_write_zeros(w, 3);
    repl_write_digest(w, &head->digest);
}

static void head_decode(struct repl_reader *r, struct repl_head *out)
{
    out->from_seq = repl_read_u64(r);
    out->to_seq = repl_read_u64(r);
    out->part = repl_read_u32(r);
    out->has_point = repl_wire_read_bool(r);
    repl_read_zeros(r, 3);
    repl_read_digest(r, &out->digest);
    if (out->from_seq >= out->to_seq)
        r->failed = true;
}

/* The head of a journal in which there may be nothing yet: zeros then. */
static void head_or_none_decode(struct repl_reader *r, struct repl_head *out)
{
    struct repl_reader here = *r;
    repl_read_zeros(&here, HEAD_SIZE);
    if (here.failed)
        head_decode(r, out);
    else
        r->position = here.position;
}

/* --- hello and welcome ----------------------------------------------------------------------- */

repl_result repl_hello_encode(const struct repl_hello *m, struct repl_buffer *out,
                              struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_open(out, 64, &w, err));
    repl_write_u16(&w, m->version_min);
    repl_write_u16(&w, m->version_max);
    repl_write_uuid(&w, &m->volume);
    repl_write_u8(&w, (uint8_t)m->kind);
    repl_write_zeros(&w, 3);
    repl_write_u64(&w, m->lineage);
    repl_write_u64(&w, m->volume_size);
    repl_write_u32(&w, m->rpo_ms);
    repl_write_i64(&w, m->sent_ns);
    return repl_wire_close(out, REPL_WIRE_HELLO, &w, err);
}

repl_result repl_hello_decode(const void *data, size_t size, struct repl_hello *out,
                              struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_hello){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_HELLO, &r, err));
    out->version_min = repl_read_u16(&r);
    out->version_max = repl_read_u16(&r);
    /* What follows may differ in a version to come: only its place is known to us. */
    if (!r.failed && (out->version_min > REPL_PROTOCOL_MAX || out->version_max < REPL_PROTOCOL_MIN))
        return repl_fail(err, REPL_E_VERSION,
                         "the peer speaks protocol versions %u to %u, this side %u to %u: upgrade "
                         "the older one",
                         out->version_min, out->version_max, REPL_PROTOCOL_MIN, REPL_PROTOCOL_MAX);
    repl_read_uuid(&r, &out->volume);
    out->kind = repl_read_u8(&r);
    repl_read_zeros(&r, 3);
    out->lineage = repl_read_u64(&r);
    out->volume_size = repl_read_u64(&r);
    out->rpo_ms = repl_read_u32(&r);
    out->sent_ns = repl_read_i64(&r);
    if (out->version_min > out->version_max || out->kind < REPL_VOLUME_BLOCK ||
        out->kind > REPL_VOLUME_TREE || out->volume_size > REPL_VOLUME_SIZE_MAX)
        r.failed = true;
    return repl_wire_leave(&r, REPL_WIRE_HELLO, err);
}

repl_result repl_welcome_encode(const struct repl_welcome *m, struct repl_buffer *out,
                                struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_open(out, 64 + HEAD_SIZE + 64, &w, err));
    repl_write_u16(&w, m->version);
    repl_write_u8(&w, m->known);
    repl_write_zeros(&w, 1);
    repl_write_u64(&w, m->lineage);
    head_encode(&w, &m->head);
    repl_write_u64(&w, m->point_seq);
    repl_write_u64(&w, m->staged_to_seq);
    repl_write_u32(&w, m->staged_part);
    repl_write_i64(&w, m->staged_created_ns);
    repl_write_u64(&w, m->staged_bytes);
    repl_write_i64(&w, m->received_ns);
    repl_write_i64(&w, m->replied_ns);
    return repl_wire_close(out, REPL_WIRE_WELCOME, &w, err);
}

repl_result repl_welcome_decode(const void *data, size_t size, struct repl_welcome *out,
                                struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_welcome){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_WELCOME, &r, err));
    out->version = repl_read_u16(&r);
    if (!r.failed && (out->version < REPL_PROTOCOL_MIN || out->version > REPL_PROTOCOL_MAX))
        return repl_fail(err, REPL_E_VERSION,
                         "the site chose protocol version %u, and this side speaks %u to %u: "
                         "upgrade the older one",
                         out->version, REPL_PROTOCOL_MIN, REPL_PROTOCOL_MAX);
    out->known = repl_wire_read_bool(&r);
    repl_read_zeros(&r, 1);
    out->lineage = repl_read_u64(&r);
    head_or_none_decode(&r, &out->head);
    out->point_seq = repl_read_u64(&r);
    out->staged_to_seq = repl_read_u64(&r);
    out->staged_part = repl_read_u32(&r);
    out->staged_created_ns = repl_read_i64(&r);
    out->staged_bytes = repl_read_u64(&r);
    out->received_ns = repl_read_i64(&r);
    out->replied_ns = repl_read_i64(&r);
    if (out->staged_bytes > REPL_SEGMENT_HARD_LIMIT ||
        (out->staged_bytes > 0 && out->staged_to_seq == 0))
        r.failed = true;
    return repl_wire_leave(&r, REPL_WIRE_WELCOME, err);
}

/* --- ack, refusal --------------------------------------------------------------------------- */

repl_result repl_ack_encode(const struct repl_ack *m, struct repl_buffer *out,
                            struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_open(out, HEAD_SIZE + 16, &w, err));
    head_encode(&w, &m->head);
    repl_write_i64(&w, m->received_ns);
    repl_write_i64(&w, m->replied_ns);
    return repl_wire_close(out, REPL_WIRE_ACK, &w, err);
}

repl_result repl_ack_decode(const void *data, size_t size, struct repl_ack *out,
                            struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_ack){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_ACK, &r, err));
    head_or_none_decode(&r, &out->head);
    out->received_ns = repl_read_i64(&r);
    out->replied_ns = repl_read_i64(&r);
    return repl_wire_leave(&r, REPL_WIRE_ACK, err);
}

repl_result repl_refusal_encode(const struct repl_refusal *m, struct repl_buffer *out,
                                struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_open(out, 8 + REPL_WIRE_TEXT_MAX, &w, err));
    repl_write_u8(&w, (uint8_t)m->code);
    repl_write_zeros(&w, 3);
    repl_words_encode(&w, m->text);
    return repl_wire_close(out, REPL_WIRE_REFUSAL, &w, err);
}

repl_result repl_refusal_decode(const void *data, size_t size, struct repl_refusal *out,
                                struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_refusal){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_REFUSAL, &r, err));
    out->code = repl_read_u8(&r);
    repl_read_zeros(&r, 3);
    repl_read_text(&r, out->text, REPL_WIRE_TEXT_MAX);
    if (out->code < REPL_REFUSAL_BUSY || out->code > REPL_REFUSAL_INTERNAL)
        r.failed = true;
    return repl_wire_leave(&r, REPL_WIRE_REFUSAL, err);
}

/* --- report ---------------------------------------------------------------------------------- */

repl_result repl_report_encode(const struct repl_report *m, struct repl_buffer *out,
                               struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_open(out, 64 + REPL_WIRE_TEXT_MAX, &w, err));
    repl_write_u64(&w, m->seq);
    repl_write_i64(&w, m->unchanged_until_ns);
    repl_write_u8(&w, (uint8_t)m->state);
    repl_write_zeros(&w, 1);
    repl_words_encode(&w, m->cause);
    repl_write_u64(&w, m->backlog_bytes);
    repl_write_u64(&w, m->done_bytes);
    repl_write_u64(&w, m->total_bytes);
    repl_write_i64(&w, m->sent_ns);
    return repl_wire_close(out, REPL_WIRE_REPORT, &w, err);
}

repl_result repl_report_decode(const void *data, size_t size, struct repl_report *out,
                               struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_report){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_REPORT, &r, err));
    out->seq = repl_read_u64(&r);
    out->unchanged_until_ns = repl_read_i64(&r);
    out->state = repl_read_u8(&r);
    repl_read_zeros(&r, 1);
    repl_read_text(&r, out->cause, REPL_WIRE_TEXT_MAX);
    out->backlog_bytes = repl_read_u64(&r);
    out->done_bytes = repl_read_u64(&r);
    out->total_bytes = repl_read_u64(&r);
    out->sent_ns = repl_read_i64(&r);
    if (out->state >= REPL_STATE_REPORTED_COUNT)
        r.failed = true;
    return repl_wire_leave(&r, REPL_WIRE_REPORT, err);
}

/* --- what recovery reads --------------------------------------------------------------------- */

#define SEGMENTS_ENTRY_SIZE (HEAD_SIZE + 8u)
#define MERGED_ENTRY_SIZE   (SEGMENTS_ENTRY_SIZE + 41u)

static bool is_merged(const struct repl_segments_page *m)
{
    for (uint32_t i = 0; i < m->count; i++) {
        if (m->entries[i].merge != 0)
            return true;
    }
    return false;
}

/* As it always was where nothing has been merged. */
repl_result repl_segments_page_encode(const struct repl_segments_page *m, struct repl_buffer *out,
                                      struct repl_error *err)
{
    struct repl_writer w;
    bool merged = m->count <= REPL_LIST_ENTRIES_MAX && is_merged(m);
    enum repl_wire_type type = merged ? REPL_WIRE_MERGED_SEGMENTS : REPL_WIRE_SEGMENTS;
    size_t entry_size = merged ? MERGED_ENTRY_SIZE : SEGMENTS_ENTRY_SIZE;
    REPL_TRY(repl_wire_list_open(out, type, m->count, REPL_LIST_ENTRIES_MAX,
                                 8 + (size_t)m->count * entry_size, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_u8(&w, m->more);
    repl_write_zeros(&w, 3);
    for (uint32_t i = 0; i < m->count; i++) {
        head_encode(&w, &m->entries[i].head);
        repl_write_u64(&w, m->entries[i].file_size);
        if (!merged)
            continue;
        repl_write_u64(&w, m->entries[i].merge);
        repl_write_u8(&w, m->entries[i].begins);
        repl_write_digest(&w, &m->entries[i].link);
    }
    return repl_wire_close(out, type, &w, err);
}

static bool segments_entry_valid(const struct repl_segments_entry *entries, uint32_t i)
{
    const struct repl_head *head = &entries[i].head;
    if (entries[i].file_size > REPL_SEGMENT_HARD_LIMIT ||
        (entries[i].begins && (head->from_seq != 0 || head->part != 0)))
        return false;
    if (i == 0)
        return true;
    const struct repl_head *before = &entries[i - 1].head;
    return head->to_seq > before->to_seq ||
           (head->to_seq == before->to_seq && head->part > before->part);
}

repl_result repl_segments_page_decode(const void *data, size_t size, struct repl_segments_page *out,
                                      struct repl_error *err)
{
    struct repl_reader r;
    void *entries;
    *out = (struct repl_segments_page){0};
    bool merged = repl_wire_type_of(data, size) == REPL_WIRE_MERGED_SEGMENTS;
    enum repl_wire_type type = merged ? REPL_WIRE_MERGED_SEGMENTS : REPL_WIRE_SEGMENTS;
    REPL_TRY(repl_wire_enter(data, size, type, &r, err));
    uint32_t count = repl_read_u32(&r);
    out->more = repl_wire_read_bool(&r);
    repl_read_zeros(&r, 3);
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_LIST_ENTRIES_MAX,
                                     merged ? MERGED_ENTRY_SIZE : SEGMENTS_ENTRY_SIZE,
                                     sizeof out->entries[0], &entries, err));
    out->entries = entries;
    out->count = count;
    for (uint32_t i = 0; i < count; i++) {
        head_decode(&r, &out->entries[i].head);
        out->entries[i].file_size = repl_read_u64(&r);
        out->entries[i].link = out->entries[i].head.digest;
        out->entries[i].begins =
            out->entries[i].head.from_seq == 0 && out->entries[i].head.part == 0;
        if (merged) {
            out->entries[i].merge = repl_read_u64(&r);
            out->entries[i].begins = repl_wire_read_bool(&r);
            repl_read_digest(&r, &out->entries[i].link);
        }
        if (!segments_entry_valid(out->entries, i))
            r.failed = true;
    }
    if ((out->more && count == 0) || (merged && !is_merged(out)))
        r.failed = true;
    repl_result result = repl_wire_leave(&r, type, err);
    if (!repl_ok(result))
        repl_segments_page_fini(out);
    return result;
}

void repl_segments_page_fini(struct repl_segments_page *page)
{
    free(page->entries);
    *page = (struct repl_segments_page){0};
}

/* --- digests of a replica -------------------------------------------------------------------- */

#define DIGEST_SIZE sizeof(struct repl_page_digest)

_Static_assert(12 + 16 + REPL_WIRE_POINTS_ENTRY_SIZE + REPL_DIGESTS_MAX * DIGEST_SIZE <
                   REPL_MESSAGE_SIZE_MAX,
               "it fits");

repl_result repl_digests_encode(const struct repl_digests *m, struct repl_buffer *out,
                                struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_DIGESTS, m->count, REPL_DIGESTS_MAX,
                                 16 + REPL_WIRE_POINTS_ENTRY_SIZE + m->count * DIGEST_SIZE, &w,
                                 err));
    repl_write_u32(&w, m->count);
    repl_write_zeros(&w, 4);
    repl_write_u64(&w, m->first_page);
    if (m->at.point.seq != 0)
        repl_wire_points_entry_encode(&w, &m->at);
    else
        repl_write_zeros(&w, REPL_WIRE_POINTS_ENTRY_SIZE);
    repl_write_bytes(&w, m->pages, m->count * DIGEST_SIZE);
    return repl_wire_close(out, REPL_WIRE_DIGESTS, &w, err);
}

/* The point that a replica stands at, where there is one: zeros else. */
static void points_entry_or_none_decode(struct repl_reader *r, struct repl_points_entry *out)
{
    struct repl_reader here = *r;
    repl_read_zeros(&here, REPL_WIRE_POINTS_ENTRY_SIZE);
    if (here.failed)
        repl_wire_points_entry_decode(r, out);
    else
        r->position = here.position;
}

static bool digests_lie_within(const struct repl_digests *m)
{
    uint64_t pages = repl_page_count_of(m->at.volume_size);
    return m->count == 0 || (m->first_page < pages && m->count <= pages - m->first_page);
}

repl_result repl_digests_decode(const void *data, size_t size, struct repl_digests *out,
                                struct repl_error *err)
{
    struct repl_reader r;
    void *pages;
    *out = (struct repl_digests){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_DIGESTS, &r, err));
    uint32_t count = repl_read_u32(&r);
    repl_read_zeros(&r, 4);
    out->first_page = repl_read_u64(&r);
    points_entry_or_none_decode(&r, &out->at);
    REPL_TRY(repl_wire_list_allocate(&r, count, REPL_DIGESTS_MAX, DIGEST_SIZE, DIGEST_SIZE, &pages,
                                     err));
    out->pages = pages;
    out->count = count;
    repl_read_bytes(&r, out->pages, count * DIGEST_SIZE);
    if (!digests_lie_within(out))
        r.failed = true;
    repl_result result = repl_wire_leave(&r, REPL_WIRE_DIGESTS, err);
    if (!repl_ok(result))
        repl_digests_fini(out);
    return result;
}

void repl_digests_fini(struct repl_digests *digests)
{
    free(digests->pages);
    *digests = (struct repl_digests){0};
}

/* --- names of points ------------------------------------------------------------------------- */

#define MARK_ENTRY_MAX (1 + 8 + 2 + REPL_MARK_NAME_SIZE)

_Static_assert(12 + 8 + REPL_LIST_ENTRIES_MAX * MARK_ENTRY_MAX < REPL_MESSAGE_SIZE_MAX, "it fits");

repl_result repl_mark_encode(const struct repl_mark *m, struct repl_buffer *out,
                             struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_open(out, MARK_ENTRY_MAX, &w, err));
    repl_write_u64(&w, m->seq);
    repl_write_text(&w, m->name);
    return repl_wire_close(out, REPL_WIRE_MARK, &w, err);
}

repl_result repl_mark_decode(const void *data, size_t size, struct repl_mark *out,
                             struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_mark){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_MARK, &r, err));
    out->seq = repl_read_u64(&r);
    repl_read_text(&r, out->name, REPL_MARK_NAME_SIZE);
    if (out->seq == 0 || out->name[0] == '\0')
        r.failed = true;
    return repl_wire_leave(&r, REPL_WIRE_MARK, err);
}

repl_result repl_marks_encode(const struct repl_marks *m, struct repl_buffer *out,
                              struct repl_error *err)
{
    struct repl_writer w;
    REPL_TRY(repl_wire_list_open(out, REPL_WIRE_MARKS, m->count, REPL_LIST_ENTRIES_MAX,
                                 8 + (size_t)m->count * MARK_ENTRY_MAX, &w, err));
    repl_write_u32(&w, m->count);
    repl_write_zeros(&w, 4);
    for (uint32_t i = 0; i < m->count; i++) {
        repl_write_u8(&w, (uint8_t)m->marks[i].kind);
        repl_write_u64(&w, m->marks[i].seq);
        repl_write_text(&w, m->marks[i].name);
    }
    return repl_wire_close(out, REPL_WIRE_MARKS, &w, err);
}

static void marks_entry_decode(struct repl_reader *r, struct repl_log_mark *out)
{
    out->kind = repl_read_u8(r);
    out->seq = repl_read_u64(r);
    repl_read_text(r, out->name, REPL_MARK_NAME_SIZE);
    if (out->kind < REPL_MARK_NAME || out->kind > REPL_MARK_PROVEN || out->seq == 0 ||
        (out->name[0] == '\0') != (out->kind == REPL_MARK_PROVEN))
        r->failed = true;
}

repl_result repl_marks_decode(const void *data, size_t size, struct repl_marks *out,
                              struct repl_error *err)
{
    struct repl_reader r;
    *out = (struct repl_marks){0};
    REPL_TRY(repl_wire_enter(data, size, REPL_WIRE_MARKS, &r, err));
    uint32_t count = repl_read_u32(&r);
    repl_read_zeros(&r, 4);
    if (r.failed || count > REPL_LIST_ENTRIES_MAX)
        return repl_fail(err, REPL_E_CORRUPT, "a list of %u names is too long", count);
    out->marks = calloc(count + 1, sizeof out->marks[0]);
    if (out->marks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of %u names", count);
    out->count = count;
    for (uint32_t i = 0; i < count; i++)
        marks_entry_decode(&r, &out->marks[i]);
    repl_result result = repl_wire_leave(&r, REPL_WIRE_MARKS, err);
    if (!repl_ok(result))
        repl_marks_fini(out);
    return result;
}

void repl_marks_fini(struct repl_marks *marks)
{
    free(marks->marks);
    *marks = (struct repl_marks){0};
}

/* --- refusals as errors and statuses --------------------------------------------------------- */

repl_result repl_refusal_raise(const struct repl_refusal *refusal, struct repl_error *err)
{
    static const enum repl_code codes[] = {
        [REPL_REFUSAL_BUSY] = REPL_E_RETRY,         [REPL_REFUSAL_NO_SPACE] = REPL_E_NOSPACE,
        [REPL_REFUSAL_GREET] = REPL_E_RETRY,        [REPL_REFUSAL_DAMAGED] = REPL_E_RETRY,
        [REPL_REFUSAL_FORK] = REPL_E_FORK,          [REPL_REFUSAL_FENCED] = REPL_E_FENCED,
        [REPL_REFUSAL_PERMISSION] = REPL_E_REFUSED, [REPL_REFUSAL_VERSION] = REPL_E_VERSION,
        [REPL_REFUSAL_REQUEST] = REPL_E_REFUSED,    [REPL_REFUSAL_NOT_FOUND] = REPL_E_MISSING,
        [REPL_REFUSAL_INTERNAL] = REPL_E_RETRY,
    };
    bool known = refusal->code >= REPL_REFUSAL_BUSY && refusal->code <= REPL_REFUSAL_INTERNAL;
    return repl_fail(err, known ? codes[refusal->code] : REPL_E_INTERNAL, "%s", refusal->text);
}

int repl_refusal_status(enum repl_refusal_code code)
{
    switch (code) {
    case REPL_REFUSAL_BUSY:
        return 503;
    case REPL_REFUSAL_NO_SPACE:
        return 507;
    case REPL_REFUSAL_GREET:
    case REPL_REFUSAL_FORK:
        return 409;
    case REPL_REFUSAL_DAMAGED:
        return 422;
    case REPL_REFUSAL_FENCED:
    case REPL_REFUSAL_PERMISSION:
        return 403;
    case REPL_REFUSAL_VERSION:
        return 426;
    case REPL_REFUSAL_REQUEST:
        return 400;
    case REPL_REFUSAL_NOT_FOUND:
        return 404;
    case REPL_REFUSAL_INTERNAL:
        return 500;
    }
    return 500;
}
