/*
 * The messages: every type with random values there and back, the bytes where the specification
 * says, every truncation refused, lists held to their limits and order, other protocol versions
 * refused in words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/wire.h"
#include "unit/random.h"

#define ROUNDS 200

/* Any message, decoded. */
union message {
    struct repl_hello hello;
    struct repl_welcome welcome;
    struct repl_ack ack;
    struct repl_refusal refusal;
    struct repl_missing missing;
    struct repl_report report;
    struct repl_points_page points;
    struct repl_segments_page segments;
    struct repl_digests digests;
    struct repl_mark mark;
    struct repl_marks marks;
    struct repl_pool_names pool;
    struct repl_resend resend;
    struct repl_damaged damaged;
};

/* --- random messages, and whether two are the same ------------------------------------------- */

static void random_text(struct random *random, char *text)
{
    size_t size = random_below(random, REPL_WIRE_TEXT_MAX + 1);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)(random_below(random, 2) ? 0x20 + random_below(random, 0x5f)
                                                 : 0x80 + random_below(random, 0x80));
    text[size] = '\0';
}

static void random_digest(struct random *random, struct repl_digest *digest)
{
    random_fill(random, digest->bytes, sizeof digest->bytes);
}

static bool digest_same(const struct repl_digest *a, const struct repl_digest *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static struct repl_head random_head(struct random *random)
{
    struct repl_head head = {.to_seq = random_next(random) | 1,
                             .part = (uint32_t)random_next(random),
                             .has_point = random_below(random, 2)};
    head.from_seq = random_below(random, head.to_seq);
    random_digest(random, &head.digest);
    return head;
}

static bool head_same(const struct repl_head *a, const struct repl_head *b)
{
    return a->from_seq == b->from_seq && a->to_seq == b->to_seq && a->part == b->part &&
           a->has_point == b->has_point && digest_same(&a->digest, &b->digest);
}

static void hello_make(struct random *random, union message *m)
{
    m->hello = (struct repl_hello){.version_min = (uint16_t)random_below(random, 2),
                                   .version_max = (uint16_t)(1 + random_below(random, 65535)),
                                   .kind = REPL_VOLUME_BLOCK + random_below(random, 2),
                                   .lineage = random_next(random),
                                   .volume_size = random_below(random, REPL_VOLUME_SIZE_MAX + 1),
                                   .rpo_ms = (uint32_t)random_next(random),
                                   .sent_ns = (int64_t)random_next(random)};
    random_fill(random, m->hello.volume.bytes, sizeof m->hello.volume.bytes);
}

static bool hello_same(const union message *ma, const union message *mb)
{
    const struct repl_hello *a = &ma->hello, *b = &mb->hello;
    return a->version_min == b->version_min && a->version_max == b->version_max &&
           memcmp(&a->volume, &b->volume, sizeof a->volume) == 0 && a->kind == b->kind &&
           a->lineage == b->lineage && a->volume_size == b->volume_size && a->rpo_ms == b->rpo_ms &&
           a->sent_ns == b->sent_ns;
}

static void welcome_make(struct random *random, union message *m)
{
    m->welcome =
        (struct repl_welcome){.version = 1,
                              .known = random_below(random, 2),
                              .lineage = random_next(random),
                              .point_seq = random_next(random),
                              .staged_to_seq = random_next(random) | 1,
                              .staged_part = (uint32_t)random_next(random),
                              .staged_created_ns = (int64_t)random_next(random),
                              .staged_bytes = random_below(random, REPL_SEGMENT_HARD_LIMIT + 1),
                              .received_ns = (int64_t)random_next(random),
                              .replied_ns = (int64_t)random_next(random)};
    if (random_below(random, 2))
        m->welcome.head = random_head(random);
}

static bool welcome_same(const union message *ma, const union message *mb)
{
    const struct repl_welcome *a = &ma->welcome, *b = &mb->welcome;
    return a->version == b->version && a->known == b->known && a->lineage == b->lineage &&
           head_same(&a->head, &b->head) && a->point_seq == b->point_seq &&
           a->staged_to_seq == b->staged_to_seq && a->staged_part == b->staged_part &&
           a->staged_created_ns == b->staged_created_ns && a->staged_bytes == b->staged_bytes &&
           a->received_ns == b->received_ns && a->replied_ns == b->replied_ns;
}

static void ack_make(struct random *random, union message *m)
{
    m->ack = (struct repl_ack){.head = random_head(random),
                               .received_ns = (int64_t)random_next(random),
                               .replied_ns = (int64_t)random_next(random)};
}

static bool ack_same(const union message *a, const union message *b)
{
    return head_same(&a->ack.head, &b->ack.head) && a->ack.received_ns == b->ack.received_ns &&
           a->ack.replied_ns == b->ack.replied_ns;
}

static void refusal_make(struct random *random, union message *m)
{
    m->refusal.code = REPL_REFUSAL_BUSY + random_below(random, REPL_REFUSAL_INTERNAL);
    random_text(random, m->refusal.text);
}

static bool refusal_same(const union message *a, const union message *b)
{
    return a->refusal.code == b->refusal.code && strcmp(a->refusal.text, b->refusal.text) == 0;
}

static void missing_make(struct random *random, union message *m)
{
    uint32_t count = (uint32_t)random_below(random, 20);
    m->missing = (struct repl_missing){.count = count,
                                       .names = calloc(count + 1, sizeof m->missing.names[0])};
    for (uint32_t i = 0; i < count; i++)
        random_digest(random, &m->missing.names[i]);
}

static bool missing_same(const union message *a, const union message *b)
{
    return a->missing.count == b->missing.count &&
           memcmp(a->missing.names, b->missing.names, a->missing.count * 32u) == 0;
}

static void missing_free(union message *m)
{
    repl_missing_fini(&m->missing);
}

static void report_make(struct random *random, union message *m)
{
    m->report = (struct repl_report){
        .seq = random_next(random),
        .unchanged_until_ns = (int64_t)random_next(random),
        .state = (enum repl_state)random_below(random, REPL_STATE_REPORTED_COUNT),
        .backlog_bytes = random_next(random),
        .done_bytes = random_next(random),
        .total_bytes = random_next(random),
        .sent_ns = (int64_t)random_next(random)};
    random_text(random, m->report.cause);
}

static bool report_same(const union message *ma, const union message *mb)
{
    const struct repl_report *a = &ma->report, *b = &mb->report;
    return a->seq == b->seq && a->unchanged_until_ns == b->unchanged_until_ns &&
           a->state == b->state && strcmp(a->cause, b->cause) == 0 &&
           a->backlog_bytes == b->backlog_bytes && a->done_bytes == b->done_bytes &&
           a->total_bytes == b->total_bytes && a->sent_ns == b->sent_ns;
}

static struct repl_point random_point(struct random *random, uint64_t seq)
{
    int64_t begin_ns = (int64_t)(random_next(random) >> 2);
    bool per_file = random_below(random, 4) == 0;
    return (struct repl_point){
        .seq = seq,
        .begin_ns = begin_ns,
        .end_ns = begin_ns + (int64_t)random_below(random, 1000),
        .consistency =
            per_file ? REPL_CONSISTENCY_PER_FILE : REPL_CONSISTENCY_CRASH + random_below(random, 3),
        .cut = per_file ? REPL_CUT_FILES : REPL_CUT_QUIET + random_below(random, 4),
        .flags = (uint16_t)random_below(random, 8),
        .attempts = (uint32_t)random_next(random) | 1,
        .changed_bytes = random_next(random)};
}

static bool point_same(const struct repl_point *a, const struct repl_point *b)
{
    return a->seq == b->seq && a->begin_ns == b->begin_ns && a->end_ns == b->end_ns &&
           a->consistency == b->consistency && a->cut == b->cut && a->flags == b->flags &&
           a->attempts == b->attempts && a->changed_bytes == b->changed_bytes;
}

static struct repl_points_entry random_entry(struct random *random, uint64_t seq)
{
    struct repl_points_entry entry = {.point = random_point(random, seq),
                                      .volume_size =
                                          random_below(random, REPL_VOLUME_SIZE_MAX + 1)};
    entry.unchanged_until_ns = entry.point.end_ns + (int64_t)random_below(random, 1000);
    return entry;
}

static bool churn_same(const struct repl_churn *a, const struct repl_churn *b)
{
    return a->known == b->known && a->compared == b->compared &&
           a->changed_bytes == b->changed_bytes && a->stored_bytes == b->stored_bytes &&
           a->objects_changed == b->objects_changed && a->objects_removed == b->objects_removed &&
           a->trouble == b->trouble && a->trouble_before_seq == b->trouble_before_seq;
}

static bool entry_same(const struct repl_points_entry *a, const struct repl_points_entry *b)
{
    return point_same(&a->point, &b->point) && a->unchanged_until_ns == b->unchanged_until_ns &&
           a->volume_size == b->volume_size && churn_same(&a->churn, &b->churn);
}

static void points_make(struct random *random, union message *m)
{
    uint32_t count = (uint32_t)random_below(random, 20);
    uint64_t seq = 0;
    m->points =
        (struct repl_points_page){.count = count,
                                  .more = count > 0 && random_below(random, 2),
                                  .entries = calloc(count + 1, sizeof m->points.entries[0])};
    for (uint32_t i = 0; i < count; i++) {
        seq += 1 + random_below(random, 1000);
        m->points.entries[i] = random_entry(random, seq);
    }
}

static void timeline_make(struct random *random, union message *m)
{
    points_make(random, m);
    for (uint32_t i = 0; i < m->points.count; i++) {
        struct repl_points_entry *entry = &m->points.entries[i];
        if (random_below(random, 3) == 0)
            continue;
        entry->churn = (struct repl_churn){.known = true,
                                           .compared = random_below(random, 2),
                                           .changed_bytes = random_next(random),
                                           .stored_bytes = random_next(random),
                                           .objects_changed = random_next(random),
                                           .objects_removed = random_next(random)};
        if (entry->point.seq < 2)
            continue;
        entry->churn.trouble = (enum repl_trouble_kind)random_below(random, REPL_TROUBLE_COUNT);
        if (entry->churn.trouble != REPL_TROUBLE_NONE)
            entry->churn.trouble_before_seq = 1 + random_below(random, entry->point.seq - 1);
    }
}

static bool points_same(const union message *ma, const union message *mb)
{
    const struct repl_points_page *a = &ma->points, *b = &mb->points;
    bool same = a->count == b->count && a->more == b->more;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = entry_same(&a->entries[i], &b->entries[i]);
    return same;
}

static void points_free(union message *m)
{
    repl_points_page_fini(&m->points);
}

static void segments_make(struct random *random, union message *m)
{
    uint32_t count = (uint32_t)random_below(random, 20);
    uint64_t seq = 1;
    uint32_t part = 0;
    m->segments =
        (struct repl_segments_page){.count = count,
                                    .more = count > 0 && random_below(random, 2),
                                    .entries = calloc(count + 1, sizeof m->segments.entries[0])};
    for (uint32_t i = 0; i < count; i++) {
        struct repl_segments_entry *entry = &m->segments.entries[i];
        bool next = random_below(random, 2);
        seq += next;
        part = next ? 0 : part + 1;
        entry->head = random_head(random);
        entry->head.from_seq = seq - 1;
        entry->head.to_seq = seq;
        entry->head.part = part;
        entry->file_size = random_below(random, REPL_SEGMENT_HARD_LIMIT + 1);
    }
}

static bool segments_same(const union message *ma, const union message *mb)
{
    const struct repl_segments_page *a = &ma->segments, *b = &mb->segments;
    bool same = a->count == b->count && a->more == b->more;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = head_same(&a->entries[i].head, &b->entries[i].head) &&
               a->entries[i].file_size == b->entries[i].file_size;
    return same;
}

static void segments_free(union message *m)
{
    repl_segments_page_fini(&m->segments);
}

/* Of a page or more at the volume's end, of none, or of no replica. */
static void digests_make(struct random *random, union message *m)
{
    uint32_t count = (uint32_t)random_below(random, 20);
    m->digests = (struct repl_digests){.count = count,
                                       .at = random_entry(random, random_next(random) | 1),
                                       .pages = calloc(count + 1, sizeof m->digests.pages[0])};
    uint64_t least = (uint64_t)count * REPL_PAGE_SIZE;
    m->digests.at.volume_size = least + random_below(random, REPL_VOLUME_SIZE_MAX - least + 1);
    uint64_t pages = (m->digests.at.volume_size + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE;
    m->digests.first_page = random_below(random, pages - count + 1);
    random_fill(random, m->digests.pages, count * sizeof m->digests.pages[0]);
    if (count == 0 && random_below(random, 2))
        memset(&m->digests.at, 0, sizeof m->digests.at);
}

static bool digests_same(const union message *ma, const union message *mb)
{
    const struct repl_digests *a = &ma->digests, *b = &mb->digests;
    return a->count == b->count && a->first_page == b->first_page && entry_same(&a->at, &b->at) &&
           memcmp(a->pages, b->pages, a->count * sizeof a->pages[0]) == 0;
}

static void digests_free(union message *m)
{
    repl_digests_fini(&m->digests);
}

static void random_name(struct random *random, char *name)
{
    size_t size = 1 + random_below(random, REPL_MARK_NAME_SIZE);
    for (size_t i = 0; i < size; i++)
        name[i] = (char)(0x20 + random_below(random, 0x5f));
    name[size] = '\0';
}

static void mark_make(struct random *random, union message *m)
{
    m->mark.seq = random_next(random) | 1;
    random_name(random, m->mark.name);
}

static bool mark_same(const union message *a, const union message *b)
{
    return a->mark.seq == b->mark.seq && strcmp(a->mark.name, b->mark.name) == 0;
}

static void marks_make(struct random *random, union message *m)
{
    m->marks.count = (uint32_t)random_below(random, 20);
    m->marks.marks = calloc(m->marks.count + 1, sizeof m->marks.marks[0]);
    for (uint32_t i = 0; i < m->marks.count; i++) {
        struct repl_log_mark *mark = &m->marks.marks[i];
        mark->kind = REPL_MARK_NAME + (enum repl_mark_kind)random_below(random, 3);
        mark->seq = random_next(random) | 1;
        if (mark->kind != REPL_MARK_PROVEN)
            random_name(random, mark->name);
    }
}

static bool marks_same(const union message *ma, const union message *mb)
{
    const struct repl_marks *a = &ma->marks, *b = &mb->marks;
    bool same = a->count == b->count;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = a->marks[i].kind == b->marks[i].kind && a->marks[i].seq == b->marks[i].seq &&
               strcmp(a->marks[i].name, b->marks[i].name) == 0;
    return same;
}

static void marks_free(union message *m)
{
    repl_marks_fini(&m->marks);
}

/* In the place of missing. */
static void wanted_make(struct random *random, union message *m)
{
    missing_make(random, m);
    while (m->missing.count == 0) {
        repl_missing_fini(&m->missing);
        missing_make(random, m);
    }
}

static void pool_make(struct random *random, union message *m)
{
    uint32_t count = (uint32_t)random_below(random, 20);
    uint64_t prefix = 0;
    m->pool = (struct repl_pool_names){.count = count,
                                       .more = count > 0 && random_below(random, 2),
                                       .prefixes = calloc(count + 1, sizeof m->pool.prefixes[0])};
    random_fill(random, m->pool.pool.bytes, sizeof m->pool.pool.bytes);
    for (uint32_t i = 0; i < count; i++)
        m->pool.prefixes[i] = prefix += 1 + (random_next(random) >> 8);
}

static bool pool_same(const union message *ma, const union message *mb)
{
    const struct repl_pool_names *a = &ma->pool, *b = &mb->pool;
    return a->count == b->count && a->more == b->more &&
           memcmp(&a->pool, &b->pool, sizeof a->pool) == 0 &&
           memcmp(a->prefixes, b->prefixes, a->count * sizeof a->prefixes[0]) == 0;
}

static void pool_free(union message *m)
{
    repl_pool_names_fini(&m->pool);
}

static void resend_make(struct random *random, union message *m)
{
    uint32_t count = (uint32_t)random_below(random, 20);
    uint64_t at = 0;
    m->resend =
        (struct repl_resend){.count = count, .runs = calloc(count + 1, sizeof m->resend.runs[0])};
    for (uint32_t i = 0; i < count; i++) {
        at += i == 0 ? 0 : 1 + random_below(random, 1u << 20);
        m->resend.runs[i] =
            (struct repl_page_run){.first = at, .count = 1 + random_below(random, 1u << 20)};
        at += m->resend.runs[i].count;
    }
}

static bool resend_same(const union message *ma, const union message *mb)
{
    const struct repl_resend *a = &ma->resend, *b = &mb->resend;
    return a->count == b->count && memcmp(a->runs, b->runs, a->count * sizeof a->runs[0]) == 0;
}

static void resend_free(union message *m)
{
    repl_resend_fini(&m->resend);
}

static void damaged_make(struct random *random, union message *m)
{
    uint32_t count = (uint32_t)random_below(random, 20);
    m->damaged = (struct repl_damaged){.count = count,
                                       .complete = random_below(random, 2),
                                       .runs = calloc(count + 1, sizeof m->damaged.runs[0])};
    for (uint32_t i = 0; i < count; i++) {
        uint64_t first = 1 + (random_next(random) >> 1);
        m->damaged.runs[i] = (struct repl_point_run){.first_seq = first,
                                                     .last_seq = first + random_below(random, 9)};
    }
}

static bool damaged_same(const union message *ma, const union message *mb)
{
    const struct repl_damaged *a = &ma->damaged, *b = &mb->damaged;
    return a->count == b->count && a->complete == b->complete &&
           memcmp(a->runs, b->runs, a->count * sizeof a->runs[0]) == 0;
}

static void damaged_free(union message *m)
{
    repl_damaged_fini(&m->damaged);
}

/* --- the types, one row each ----------------------------------------------------------------- */

#define DOORS(name, type)                                                                          \
    static repl_result name##_out(const union message *m, struct repl_buffer *out,                 \
                                  struct repl_error *err)                                          \
    {                                                                                              \
        return repl_##type##_encode(&m->name, out, err);                                           \
    }                                                                                              \
    static repl_result name##_in(const void *data, size_t size, union message *m,                  \
                                 struct repl_error *err)                                           \
    {                                                                                              \
        return repl_##type##_decode(data, size, &m->name, err);                                    \
    }
DOORS(hello, hello)
DOORS(welcome, welcome)
DOORS(ack, ack)
DOORS(refusal, refusal)
DOORS(missing, missing)
DOORS(report, report)
DOORS(points, points_page)
DOORS(segments, segments_page)
DOORS(digests, digests)
DOORS(mark, mark)
DOORS(marks, marks)
DOORS(pool, pool_names)
DOORS(resend, resend)
DOORS(damaged, damaged)

static repl_result timeline_out(const union message *m, struct repl_buffer *out,
                                struct repl_error *err)
{
    return repl_timeline_encode(&m->points, out, err);
}

static repl_result timeline_in(const void *data, size_t size, union message *m,
                               struct repl_error *err)
{
    return repl_timeline_decode(data, size, &m->points, err);
}

static repl_result wanted_out(const union message *m, struct repl_buffer *out,
                              struct repl_error *err)
{
    return repl_wanted_encode(m->missing.names, m->missing.count, out, err);
}

static repl_result wanted_in(const void *data, size_t size, union message *m,
                             struct repl_error *err)
{
    return repl_wanted_decode(data, size, &m->missing, err);
}

static void nothing_to_free(union message *m)
{
    (void)m;
}

static const struct row {
    enum repl_wire_type type;
    void (*make)(struct random *random, union message *m);
    bool (*same)(const union message *a, const union message *b);
    repl_result (*encode)(const union message *m, struct repl_buffer *out, struct repl_error *err);
    repl_result (*decode)(const void *data, size_t size, union message *m, struct repl_error *err);
    void (*free)(union message *m);
} rows[] = {
    {REPL_WIRE_HELLO, hello_make, hello_same, hello_out, hello_in, nothing_to_free},
    {REPL_WIRE_WELCOME, welcome_make, welcome_same, welcome_out, welcome_in, nothing_to_free},
    {REPL_WIRE_ACK, ack_make, ack_same, ack_out, ack_in, nothing_to_free},
    {REPL_WIRE_REFUSAL, refusal_make, refusal_same, refusal_out, refusal_in, nothing_to_free},
    {REPL_WIRE_MISSING, missing_make, missing_same, missing_out, missing_in, missing_free},
    {REPL_WIRE_REPORT, report_make, report_same, report_out, report_in, nothing_to_free},
    {REPL_WIRE_POINTS, points_make, points_same, points_out, points_in, points_free},
    {REPL_WIRE_SEGMENTS, segments_make, segments_same, segments_out, segments_in, segments_free},
    {REPL_WIRE_DIGESTS, digests_make, digests_same, digests_out, digests_in, digests_free},
    {REPL_WIRE_MARK, mark_make, mark_same, mark_out, mark_in, nothing_to_free},
    {REPL_WIRE_MARKS, marks_make, marks_same, marks_out, marks_in, marks_free},
    {REPL_WIRE_WANTED, wanted_make, missing_same, wanted_out, wanted_in, missing_free},
    {REPL_WIRE_POOL_NAMES, pool_make, pool_same, pool_out, pool_in, pool_free},
    {REPL_WIRE_TIMELINE, timeline_make, points_same, timeline_out, timeline_in, points_free},
    {REPL_WIRE_RESEND, resend_make, resend_same, resend_out, resend_in, resend_free},
    {REPL_WIRE_DAMAGED, damaged_make, damaged_same, damaged_out, damaged_in, damaged_free},
};
#define ROW_COUNT (sizeof rows / sizeof rows[0])

/* A copy of exactly this size on the heap: where reading goes beyond, the sanitizers say so. */
static enum repl_code decode_copy(const struct row *row, const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    union message m;
    struct repl_error err = {.text = ""};
    memcpy(copy, data, size);
    enum repl_code code = row->decode(copy, size, &m, &err).code;
    free(copy);
    if (code == REPL_OK)
        row->free(&m);
    else
        assert_true(err.text[0] != '\0');
    return code;
}

static void random_messages_come_back(void **state)
{
    struct random random = random_begin("random_messages_come_back", 1);
    (void)state;
    for (size_t i = 0; i < ROW_COUNT * ROUNDS; i++) {
        const struct row *row = &rows[i % ROW_COUNT];
        union message m = {0}, back;
        struct repl_error err;
        struct repl_buffer buffer = {0};
        row->make(&random, &m);
        /* it is appended to what is there */
        assert_true(repl_ok(repl_buffer_append(&buffer, "before", 6, &err)));
        assert_true(repl_ok(row->encode(&m, &buffer, &err)));
        assert_memory_equal(buffer.data, "before", 6);
        const uint8_t *data = buffer.data + 6;
        size_t size = buffer.size - 6;
        assert_int_equal(repl_wire_type_of(data, size), row->type);
        for (size_t j = 0; j < ROW_COUNT; j++) {
            if (j != i % ROW_COUNT)
                assert_int_equal(decode_copy(&rows[j], data, size), REPL_E_CORRUPT);
        }
        assert_true(repl_ok(row->decode(data, size, &back, &err)));
        assert_true(row->same(&m, &back));
        row->free(&m);
        row->free(&back);
        repl_buffer_fini(&buffer);
    }
}

static void set_size(uint8_t *data, size_t size)
{
    struct repl_writer w = repl_writer_of(data + 8, 4);
    repl_write_u32(&w, (uint32_t)size);
}

/* Cut short, with the size it announces left as it was or cut as well; and made longer. */
static void every_truncation_is_refused(void **state)
{
    struct random random = random_begin("every_truncation_is_refused", 2);
    (void)state;
    for (size_t i = 0; i < ROW_COUNT * 4; i++) {
        const struct row *row = &rows[i % ROW_COUNT];
        union message m = {0};
        struct repl_error err;
        struct repl_buffer buffer = {0};
        row->make(&random, &m);
        assert_true(repl_ok(row->encode(&m, &buffer, &err)));
        size_t whole = buffer.size;
        for (size_t size = 0; size < whole; size++) {
            set_size(buffer.data, whole);
            assert_int_equal(decode_copy(row, buffer.data, size), REPL_E_CORRUPT);
            set_size(buffer.data, size);
            assert_int_equal(decode_copy(row, buffer.data, size), REPL_E_CORRUPT);
        }
        *repl_buffer_extend(&buffer, 1) = 0;
        set_size(buffer.data, whole);
        assert_int_equal(decode_copy(row, buffer.data, whole + 1), REPL_E_CORRUPT);
        set_size(buffer.data, whole + 1);
        assert_int_equal(decode_copy(row, buffer.data, whole + 1), REPL_E_CORRUPT);
        row->free(&m);
        repl_buffer_fini(&buffer);
    }
}

/* No checksum: TLS sees to the bytes. But whatever changes, a decoder survives it, and what it
 * accepts it encodes to the same bytes: there is one way to say each thing. */
static void what_is_accepted_is_canonical(void **state)
{
    struct random random = random_begin("what_is_accepted_is_canonical", 3);
    (void)state;
    for (size_t i = 0; i < ROW_COUNT * 2000; i++) {
        const struct row *row = &rows[i % ROW_COUNT];
        union message m = {0}, back;
        struct repl_error err;
        struct repl_buffer buffer = {0}, again = {0};
        row->make(&random, &m);
        assert_true(repl_ok(row->encode(&m, &buffer, &err)));
        for (uint64_t n = 1 + random_below(&random, 3); n > 0; n--)
            buffer.data[random_below(&random, buffer.size)] ^=
                (uint8_t)(1u << random_below(&random, 8));
        if (repl_ok(row->decode(buffer.data, buffer.size, &back, &err))) {
            assert_true(repl_ok(row->encode(&back, &again, &err)));
            assert_int_equal(again.size, buffer.size);
            assert_memory_equal(again.data, buffer.data, again.size);
            row->free(&back);
        }
        row->free(&m);
        repl_buffer_fini(&buffer);
        repl_buffer_fini(&again);
    }
}

/* --- the bytes, as docs/formats/wire.md has them --------------------------------------------- */

static void assert_encodes(const struct row *row, const union message *m, const char *bytes,
                           size_t size)
{
    struct repl_buffer buffer = {0};
    struct repl_error err;
    assert_true(repl_ok(row->encode(m, &buffer, &err)));
    assert_int_equal(buffer.size, size);
    assert_memory_equal(buffer.data, bytes, size);
    repl_buffer_fini(&buffer);
}

static void bytes_lie_where_the_specification_says(void **state)
{
    (void)state;
    union message m = {.hello = {.version_min = 1,
                                 .version_max = 0x0302,
                                 .kind = REPL_VOLUME_BLOCK,
                                 .lineage = 0x1112131415161718,
                                 .volume_size = 0x2122232425262728,
                                 .rpo_ms = 0x31323334,
                                 .sent_ns = -2}};
    memset(&m.hello.volume, 'v', sizeof m.hello.volume);
    assert_encodes(&rows[0], &m,
                   "REPL\1\0\0\0\x40\0\0\0"
                   "\1\0\2\3"
                   "vvvvvvvvvvvvvvvv\1\0\0\0"
                   "\x18\x17\x16\x15\x14\x13\x12\x11"
                   "\x28\x27\x26\x25\x24\x23\x22\x21"
                   "\x34\x33\x32\x31"
                   "\xfe\xff\xff\xff\xff\xff\xff\xff",
                   64);
    m = (union message){.ack = {.head = {.from_seq = 1, .to_seq = 2, .part = 3, .has_point = true},
                                .received_ns = 4,
                                .replied_ns = 5}};
    memset(&m.ack.head.digest, 'd', sizeof m.ack.head.digest);
    assert_encodes(&rows[2], &m,
                   "REPL\3\0\0\0\x54\0\0\0"
                   "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\1\0\0\0"
                   "dddddddddddddddddddddddddddddddd"
                   "\4\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0",
                   84);
    m = (union message){.refusal = {.code = REPL_REFUSAL_FORK, .text = "no"}};
    assert_encodes(&rows[3], &m, "REPL\4\0\0\0\x14\0\0\0\5\0\0\0\2\0no", 20);
    struct repl_page_digest page;
    memset(&page, 'p', sizeof page);
    m = (union message){.digests = {.count = 1,
                                    .first_page = 3,
                                    .at = {.point = {.seq = 9,
                                                     .begin_ns = 4,
                                                     .end_ns = 5,
                                                     .consistency = REPL_CONSISTENCY_CRASH,
                                                     .cut = REPL_CUT_WINDOW,
                                                     .flags = REPL_POINT_GROUP,
                                                     .attempts = 6,
                                                     .changed_bytes = 7},
                                           .unchanged_until_ns = 8,
                                           .volume_size = 0x3001},
                                    .pages = &page}};
    assert_encodes(&rows[8], &m,
                   "REPL\t\0\0\0\x7c\0\0\0"
                   "\1\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0"
                   "\t\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"
                   "\1\2\4\0\6\0\0\0\7\0\0\0\0\0\0\0"
                   "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
                   "\x8\0\0\0\0\0\0\0\1\x30\0\0\0\0\0\0"
                   "pppppppppppppppp",
                   124);
    m = (union message){.mark = {.seq = 0x0203, .name = "go"}};
    assert_encodes(&rows[9], &m, "REPL\xb\0\0\0\x18\0\0\0\3\2\0\0\0\0\0\0\2\0go", 24);
    struct repl_log_mark marks[] = {{REPL_MARK_HELD, 4, "a"}, {REPL_MARK_PROVEN, 5, ""}};
    m = (union message){.marks = {.count = 2, .marks = marks}};
    assert_encodes(&rows[10], &m,
                   "REPL\xc\0\0\0\x2b\0\0\0\2\0\0\0\0\0\0\0"
                   "\2\4\0\0\0\0\0\0\0\1\0a"
                   "\3\5\0\0\0\0\0\0\0\0\0",
                   43);
    struct repl_digest name;
    memset(&name, 'n', sizeof name);
    m = (union message){.missing = {.count = 1, .names = &name}};
    assert_encodes(&rows[11], &m, "REPL\xd\0\0\0\x30\0\0\0\1\0\0\0nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn",
                   48);
    uint64_t prefixes[] = {0x0102030405060708, 0x0102030405060709};
    m = (union message){.pool = {.count = 2, .more = true, .prefixes = prefixes}};
    memset(&m.pool.pool, 'p', sizeof m.pool.pool);
    assert_encodes(&rows[12], &m,
                   "REPL\xe\0\0\0\x34\0\0\0\2\0\0\0\1\0\0\0pppppppppppppppp"
                   "\1\2\3\4\5\6\7\x8\1\2\3\4\5\6\7\t",
                   52);
    memcpy(name.bytes, "\1\2\3\4\5\6\7\x8", 8);
    assert_true(repl_chunk_prefix(&name) == prefixes[0]); /* they are in the order of the names */
}

/* --- bounds ---------------------------------------------------------------------------------- */

static enum repl_code there_and_back(const struct row *row, const union message *m)
{
    struct repl_buffer buffer = {0};
    struct repl_error err;
    assert_true(repl_ok(row->encode(m, &buffer, &err)));
    enum repl_code code = decode_copy(row, buffer.data, buffer.size);
    repl_buffer_fini(&buffer);
    return code;
}

static void other_protocol_versions_are_refused_in_words(void **state)
{
    static const struct {
        uint16_t min, max;
        enum repl_code code;
    } cases[] = {{1, 1, REPL_OK},        {0, 1, REPL_OK},        {1, 9, REPL_OK},
                 {2, 9, REPL_E_VERSION}, {0, 0, REPL_E_VERSION}, {65535, 65535, REPL_E_VERSION},
                 {2, 1, REPL_E_VERSION}, {1, 0, REPL_E_VERSION}};
    struct random random = random_begin("other_protocol_versions", 4);
    struct repl_error err;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        union message m = {0}, back;
        struct repl_buffer buffer = {0};
        hello_make(&random, &m);
        m.hello.version_min = cases[i].min;
        m.hello.version_max = cases[i].max;
        assert_true(repl_ok(hello_out(&m, &buffer, &err)));
        repl_result result = hello_in(buffer.data, buffer.size, &back, &err);
        assert_int_equal(result.code, cases[i].code);
        if (cases[i].code == REPL_E_VERSION)
            assert_non_null(strstr(err.text, "upgrade"));
        repl_buffer_fini(&buffer);
    }
    for (uint16_t version = 0; version <= 3; version++) {
        union message m = {0};
        welcome_make(&random, &m);
        m.welcome.version = version;
        assert_int_equal(there_and_back(&rows[1], &m), version == 1 ? REPL_OK : REPL_E_VERSION);
    }
}

static void fields_are_held_to_their_bounds(void **state)
{
    struct random random = random_begin("fields_are_held_to_their_bounds", 5);
    (void)state;
    union message m = {0}, good;
    hello_make(&random, &good);
    m = good;
    for (unsigned kind = 0; kind < 256; kind++) {
        m.hello.kind = kind;
        assert_int_equal(there_and_back(&rows[0], &m),
                         kind == REPL_VOLUME_BLOCK || kind == REPL_VOLUME_TREE ? REPL_OK
                                                                               : REPL_E_CORRUPT);
    }
    m = good;
    m.hello.volume_size = REPL_VOLUME_SIZE_MAX + 1;
    assert_int_equal(there_and_back(&rows[0], &m), REPL_E_CORRUPT);

    memset(&good, 0, sizeof good);
    good.welcome.version = 1;
    assert_int_equal(there_and_back(&rows[1], &good), REPL_OK);
    m = good;
    m.welcome.head.part = 1; /* of nothing */
    assert_int_equal(there_and_back(&rows[1], &m), REPL_E_CORRUPT);
    m = good;
    m.welcome.staged_bytes = 1; /* of nothing */
    assert_int_equal(there_and_back(&rows[1], &m), REPL_E_CORRUPT);
    m.welcome.staged_to_seq = 1;
    assert_int_equal(there_and_back(&rows[1], &m), REPL_OK);
    m.welcome.staged_bytes = REPL_SEGMENT_HARD_LIMIT + 1;
    assert_int_equal(there_and_back(&rows[1], &m), REPL_E_CORRUPT);

    ack_make(&random, &m);
    m.ack.head.from_seq = m.ack.head.to_seq;
    assert_int_equal(there_and_back(&rows[2], &m), REPL_E_CORRUPT);
    memset(&m, 0, sizeof m);
    assert_int_equal(there_and_back(&rows[2], &m), REPL_OK); /* to a report, before any segment */
    m.ack.head.has_point = true;
    assert_int_equal(there_and_back(&rows[2], &m), REPL_E_CORRUPT);

    static const int codes[] = {0, REPL_REFUSAL_INTERNAL + 1, 255};
    for (size_t i = 0; i < 3; i++) {
        refusal_make(&random, &m);
        m.refusal.code = (enum repl_refusal_code)codes[i];
        assert_int_equal(there_and_back(&rows[3], &m), REPL_E_CORRUPT);
    }
    report_make(&random, &m);
    m.report.state = REPL_STATE_REPORTED_COUNT;
    assert_int_equal(there_and_back(&rows[5], &m), REPL_E_CORRUPT);
}

/* Three pages and a byte: the last page that may be spoken of is the fourth. */
static void digests_lie_within_the_volume(void **state)
{
    struct random random = random_begin("digests_lie_within_the_volume", 9);
    struct repl_page_digest pages[2] = {0};
    (void)state;
    union message m = {.digests = {.at = random_entry(&random, 1), .pages = pages}}, back;
    m.digests.at.volume_size = 3 * REPL_PAGE_SIZE + 1;
    for (uint32_t count = 0; count <= 2; count++) {
        for (uint64_t first = 0; first <= 5; first++) {
            struct repl_buffer buffer = {0};
            struct repl_error err;
            m.digests.count = count;
            m.digests.first_page = first;
            assert_true(repl_ok(digests_out(&m, &buffer, &err)));
            repl_result result = digests_in(buffer.data, buffer.size, &back, &err);
            assert_int_equal(result.code,
                             count == 0 || first + count <= 4 ? REPL_OK : REPL_E_CORRUPT);
            if (repl_ok(result))
                digests_free(&back);
            repl_buffer_fini(&buffer);
        }
    }
    m.digests.first_page = UINT64_MAX;
    assert_int_equal(there_and_back(&rows[8], &m), REPL_E_CORRUPT);
    /* what no replica holds has no digest */
    m.digests = (struct repl_digests){.count = 1, .pages = pages};
    assert_int_equal(there_and_back(&rows[8], &m), REPL_E_CORRUPT);
}

static void words_are_made_fit_to_be_read(void **state)
{
    (void)state;
    struct repl_error err;
    struct repl_buffer buffer = {0};
    struct repl_refusal refusal = {.code = REPL_REFUSAL_BUSY, .text = "a\nb\x1b[2J\x7f\xc3\xa9"};
    struct repl_refusal back;
    assert_true(repl_ok(repl_refusal_encode(&refusal, &buffer, &err)));
    assert_true(repl_ok(repl_refusal_decode(buffer.data, buffer.size, &back, &err)));
    assert_string_equal(back.text, "a?b?[2J?\xc3\xa9");
    /* from somebody less careful it is refused */
    buffer.data[12 + 4 + 2 + 1] = '\n';
    assert_int_equal(repl_refusal_decode(buffer.data, buffer.size, &back, &err).code,
                     REPL_E_CORRUPT);
    repl_buffer_fini(&buffer);
}

static void list_limits(const struct row *row, uint32_t limit, size_t head_size, size_t entry_size)
{
    struct repl_error err;
    struct repl_buffer buffer = {0};
    union message m = {0}, back;
    m.missing.count = limit; /* the first field of every list */
    void *entries = calloc(limit + 1, 256);
    if (row->type == REPL_WIRE_MISSING || row->type == REPL_WIRE_WANTED) {
        m.missing.names = entries;
    } else if (row->type == REPL_WIRE_POOL_NAMES) {
        m.pool.prefixes = entries;
        for (uint32_t i = 0; i <= limit; i++)
            m.pool.prefixes[i] = i;
    } else if (row->type == REPL_WIRE_POINTS || row->type == REPL_WIRE_TIMELINE) {
        m.points.entries = entries;
        for (uint32_t i = 0; i <= limit; i++)
            m.points.entries[i].point =
                (struct repl_point){.seq = i + 1, .consistency = 1, .cut = 1, .attempts = 1};
    } else if (row->type == REPL_WIRE_DIGESTS) {
        m.digests.pages = entries;
        m.digests.at = (struct repl_points_entry){
            .point = {.seq = 1, .consistency = 1, .cut = 1, .attempts = 1},
            .volume_size = REPL_VOLUME_SIZE_MAX};
    } else {
        m.segments.entries = entries;
        for (uint32_t i = 0; i <= limit; i++)
            m.segments.entries[i].head.to_seq = i + 1;
    }
    assert_true(repl_ok(row->encode(&m, &buffer, &err)));
    assert_int_equal(buffer.size, 12 + head_size + limit * entry_size);
    assert_true(repl_ok(row->decode(buffer.data, buffer.size, &back, &err)));
    assert_true(row->same(&m, &back));
    row->free(&back);

    /* one more is neither written nor read, and a count that is only claimed costs nothing */
    size_t size = buffer.size;
    m.missing.count = limit + 1;
    assert_int_equal(row->encode(&m, &buffer, &err).code, REPL_E_INTERNAL);
    assert_int_equal(buffer.size, size);
    m.missing.count = UINT32_MAX;
    assert_int_equal(row->encode(&m, &buffer, &err).code, REPL_E_INTERNAL);
    for (uint64_t count = limit + 1; count <= UINT32_MAX; count = count * 2 + 1) {
        struct repl_writer w = repl_writer_of(buffer.data + 12, 4);
        repl_write_u32(&w, (uint32_t)count);
        assert_int_equal(decode_copy(row, buffer.data, buffer.size), REPL_E_CORRUPT);
    }
    uint8_t *more = repl_buffer_extend(&buffer, entry_size);
    memcpy(more, more - entry_size, entry_size);
    set_size(buffer.data, buffer.size);
    struct repl_writer w = repl_writer_of(buffer.data + 12, 4);
    repl_write_u32(&w, limit + 1);
    assert_int_equal(decode_copy(row, buffer.data, buffer.size), REPL_E_CORRUPT);
    free(entries);
    repl_buffer_fini(&buffer);
}

static void lists_are_held_to_their_limits(void **state)
{
    (void)state;
    list_limits(&rows[4], REPL_MISSING_CHUNKS_MAX, 4, 32);
    list_limits(&rows[6], REPL_LIST_ENTRIES_MAX, 8, 80);
    list_limits(&rows[7], REPL_LIST_ENTRIES_MAX, 8, 64);
    list_limits(&rows[8], REPL_DIGESTS_MAX, 96, 16);
    list_limits(&rows[11], REPL_WANTED_CHUNKS_MAX, 4, 32);
    list_limits(&rows[12], REPL_POOL_NAMES_MAX, 24, 8);
    list_limits(&rows[13], REPL_LIST_ENTRIES_MAX, 8, 123);
}

static void names_are_held_to_their_bounds(void **state)
{
    (void)state;
    union message m = {.mark = {.seq = 1, .name = "a"}};
    assert_int_equal(there_and_back(&rows[9], &m), REPL_OK);
    m.mark.seq = 0;
    assert_int_equal(there_and_back(&rows[9], &m), REPL_E_CORRUPT);
    m.mark = (struct repl_mark){.seq = 1};
    assert_int_equal(there_and_back(&rows[9], &m), REPL_E_CORRUPT);

    struct repl_log_mark marks[] = {{REPL_MARK_NAME, 4, "a"}, {REPL_MARK_PROVEN, 4, ""}};
    m = (union message){.marks = {.count = 2, .marks = marks}};
    assert_int_equal(there_and_back(&rows[10], &m), REPL_OK);
    marks[1].kind = REPL_MARK_HELD;
    assert_int_equal(there_and_back(&rows[10], &m), REPL_E_CORRUPT);
    marks[1] = (struct repl_log_mark){REPL_MARK_PROVEN, 4, "b"};
    assert_int_equal(there_and_back(&rows[10], &m), REPL_E_CORRUPT);
    marks[1] = (struct repl_log_mark){REPL_MARK_REMOVED, 4, "b"};
    assert_int_equal(there_and_back(&rows[10], &m), REPL_E_CORRUPT);
    marks[1] = (struct repl_log_mark){REPL_MARK_HELD, 0, "b"};
    assert_int_equal(there_and_back(&rows[10], &m), REPL_E_CORRUPT);
    m.marks.count = REPL_LIST_ENTRIES_MAX + 1;
    struct repl_buffer buffer = {0};
    struct repl_error err;
    assert_int_equal(rows[10].encode(&m, &buffer, &err).code, REPL_E_INTERNAL);
}

static void pages_are_in_order_and_get_on(void **state)
{
    (void)state;
    struct repl_points_entry points[2] = {
        {.point = {.seq = 5, .end_ns = 9, .consistency = 1, .cut = 1, .attempts = 1},
         .unchanged_until_ns = 9},
        {.point = {.seq = 6, .end_ns = 9, .consistency = 1, .cut = 1, .attempts = 1},
         .unchanged_until_ns = 9},
    };
    union message m = {.points = {.count = 2, .entries = points}};
    assert_int_equal(there_and_back(&rows[6], &m), REPL_OK);
    points[1].point.seq = 5;
    assert_int_equal(there_and_back(&rows[6], &m), REPL_E_CORRUPT);
    points[1].point.seq = 6;
    points[1].unchanged_until_ns = 8;
    assert_int_equal(there_and_back(&rows[6], &m), REPL_E_CORRUPT);
    points[1].unchanged_until_ns = 9;
    points[0].volume_size = REPL_VOLUME_SIZE_MAX + 1;
    assert_int_equal(there_and_back(&rows[6], &m), REPL_E_CORRUPT);
    m.points = (struct repl_points_page){.more = true};
    assert_int_equal(there_and_back(&rows[6], &m), REPL_E_CORRUPT);

    struct repl_segments_entry segments[2] = {{.head = {.from_seq = 4, .to_seq = 5, .part = 1}},
                                              {.head = {.from_seq = 4, .to_seq = 5, .part = 2}}};
    m.segments = (struct repl_segments_page){.count = 2, .entries = segments};
    assert_int_equal(there_and_back(&rows[7], &m), REPL_OK);
    segments[1].head.part = 1;
    assert_int_equal(there_and_back(&rows[7], &m), REPL_E_CORRUPT);
    segments[1].head = (struct repl_head){.from_seq = 3, .to_seq = 4, .part = 9};
    assert_int_equal(there_and_back(&rows[7], &m), REPL_E_CORRUPT);
    segments[1].head = (struct repl_head){.from_seq = 6, .to_seq = 6};
    assert_int_equal(there_and_back(&rows[7], &m), REPL_E_CORRUPT);
    segments[1].head.to_seq = 7;
    segments[1].file_size = REPL_SEGMENT_HARD_LIMIT + 1;
    assert_int_equal(there_and_back(&rows[7], &m), REPL_E_CORRUPT);
    m.segments = (struct repl_segments_page){.more = true};
    assert_int_equal(there_and_back(&rows[7], &m), REPL_E_CORRUPT);

    uint64_t prefixes[] = {7, 8};
    m.pool = (struct repl_pool_names){.count = 2, .prefixes = prefixes};
    assert_int_equal(there_and_back(&rows[12], &m), REPL_OK);
    prefixes[1] = 7;
    assert_int_equal(there_and_back(&rows[12], &m), REPL_E_CORRUPT);
    m.pool = (struct repl_pool_names){.more = true};
    assert_int_equal(there_and_back(&rows[12], &m), REPL_E_CORRUPT);
    m.missing = (struct repl_missing){0}; /* nothing is wanted */
    assert_int_equal(there_and_back(&rows[11], &m), REPL_E_CORRUPT);

    const uint64_t end = REPL_VOLUME_SIZE_MAX / REPL_PAGE_SIZE;
    struct repl_page_run runs[] = {{.first = 0, .count = 2}, {.first = 3, .count = end - 3}};
    m.resend = (struct repl_resend){.count = 2, .runs = runs};
    assert_int_equal(there_and_back(&rows[14], &m), REPL_OK);
    runs[1].count++; /* past the end of any volume */
    assert_int_equal(there_and_back(&rows[14], &m), REPL_E_CORRUPT);
    runs[1] = (struct repl_page_run){.first = 2, .count = 1}; /* is one run with the first */
    assert_int_equal(there_and_back(&rows[14], &m), REPL_E_CORRUPT);
    runs[1] = (struct repl_page_run){.first = 9};
    assert_int_equal(there_and_back(&rows[14], &m), REPL_E_CORRUPT);

    struct repl_point_run seqs[] = {{.first_seq = 7, .last_seq = 9}};
    m.damaged = (struct repl_damaged){.count = 1, .runs = seqs};
    assert_int_equal(there_and_back(&rows[15], &m), REPL_OK);
    assert_true(repl_damaged_has(&m.damaged, 7) && repl_damaged_has(&m.damaged, 9));
    assert_false(repl_damaged_has(&m.damaged, 6) || repl_damaged_has(&m.damaged, 10));
    seqs[0].last_seq = 6;
    assert_int_equal(there_and_back(&rows[15], &m), REPL_E_CORRUPT);
    seqs[0] = (struct repl_point_run){.last_seq = 6};
    assert_int_equal(there_and_back(&rows[15], &m), REPL_E_CORRUPT);
}

static void refusals_are_errors_and_statuses(void **state)
{
    static const struct {
        enum repl_refusal_code refusal;
        enum repl_code code;
        int status;
    } cases[] = {
        {REPL_REFUSAL_BUSY, REPL_E_RETRY, 503},
        {REPL_REFUSAL_NO_SPACE, REPL_E_NOSPACE, 507},
        {REPL_REFUSAL_GREET, REPL_E_RETRY, 409},
        {REPL_REFUSAL_DAMAGED, REPL_E_RETRY, 422},
        {REPL_REFUSAL_FORK, REPL_E_FORK, 409},
        {REPL_REFUSAL_FENCED, REPL_E_FENCED, 403},
        {REPL_REFUSAL_PERMISSION, REPL_E_REFUSED, 403},
        {REPL_REFUSAL_VERSION, REPL_E_VERSION, 426},
        {REPL_REFUSAL_REQUEST, REPL_E_REFUSED, 400},
        {REPL_REFUSAL_NOT_FOUND, REPL_E_MISSING, 404},
        {REPL_REFUSAL_INTERNAL, REPL_E_RETRY, 500},
        {(enum repl_refusal_code)0, REPL_E_INTERNAL, 500},
        {(enum repl_refusal_code)200, REPL_E_INTERNAL, 500},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repl_refusal refusal = {.code = cases[i].refusal, .text = "100 % sure"};
        struct repl_error err;
        assert_int_equal(repl_refusal_raise(&refusal, &err).code, cases[i].code);
        assert_string_equal(err.text, "100 % sure");
        assert_int_equal(repl_refusal_status(cases[i].refusal), cases[i].status);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_messages_come_back),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(what_is_accepted_is_canonical),
        cmocka_unit_test(bytes_lie_where_the_specification_says),
        cmocka_unit_test(other_protocol_versions_are_refused_in_words),
        cmocka_unit_test(fields_are_held_to_their_bounds),
        cmocka_unit_test(digests_lie_within_the_volume),
        cmocka_unit_test(words_are_made_fit_to_be_read),
        cmocka_unit_test(lists_are_held_to_their_limits),
        cmocka_unit_test(names_are_held_to_their_bounds),
        cmocka_unit_test(pages_are_in_order_and_get_on),
        cmocka_unit_test(refusals_are_errors_and_statuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
