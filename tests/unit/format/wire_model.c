#include "unit/format/wire_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

struct repl_points_entry random_entry(struct random *random, uint64_t seq)
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
    m->resend = (struct repl_resend){.full = count == 0 && random_below(random, 2) == 0,
                                     .count = count,
                                     .runs = calloc(count + 1, sizeof m->resend.runs[0])};
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
    return a->full == b->full && a->count == b->count &&
           memcmp(a->runs, b->runs, a->count * sizeof a->runs[0]) == 0;
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

static struct repl_frame_entry random_frame(struct random *random, uint32_t raw_max)
{
    struct repl_frame_entry frame = {.raw_size = 1 + (uint32_t)random_below(random, raw_max),
                                     .raw_xxh3 = random_next(random),
                                     .codec = REPL_CODEC_STORED};
    frame.stored_size = frame.raw_size;
    if (frame.raw_size > 1 && random_below(random, 2) == 0) {
        frame.codec = REPL_CODEC_ZSTD;
        frame.stored_size = 1 + (uint32_t)random_below(random, frame.raw_size - 1);
    }
    return frame;
}

static bool frame_same(const struct repl_frame_entry *a, const struct repl_frame_entry *b)
{
    return a->offset == b->offset && a->stored_size == b->stored_size &&
           a->raw_size == b->raw_size && a->raw_xxh3 == b->raw_xxh3 && a->codec == b->codec &&
           a->has_pages == b->has_pages;
}

static void slices_make(struct random *random, union message *m)
{
    m->slices = (struct repl_slices){.frame = random_frame(random, REPL_FRAME_RAW_MAX),
                                     .slices = calloc(8, sizeof m->slices.slices[0])};
    m->slices.frame.offset = random_next(random);
    uint32_t raw = m->slices.frame.raw_size, at = (uint32_t)random_below(random, raw);
    do {
        uint32_t length = 1 + (uint32_t)random_below(random, raw - at < 60000 ? raw - at : 60000);
        m->slices.slices[m->slices.count++] = (struct repl_slice){at, length};
        at += length + 1 + (uint32_t)random_below(random, 5000);
    } while (at < raw && m->slices.count < 8);
}

static bool slices_same(const union message *ma, const union message *mb)
{
    const struct repl_slices *a = &ma->slices, *b = &mb->slices;
    return a->count == b->count && frame_same(&a->frame, &b->frame) &&
           memcmp(a->slices, b->slices, a->count * sizeof a->slices[0]) == 0;
}

static void slices_free(union message *m)
{
    repl_slices_fini(&m->slices);
}

static void unopened_make(struct random *random, union message *m)
{
    uint32_t count = 1 + (uint32_t)random_below(random, 9);
    m->unopened = (struct repl_unopened){.count = count,
                                         .entries = calloc(count, sizeof m->unopened.entries[0])};
    for (uint32_t i = 0; i < count; i++)
        m->unopened.entries[i] =
            (struct repl_unopened_entry){.to_seq = random_next(random),
                                         .merge = random_below(random, 3),
                                         .part = (uint32_t)random_below(random, 5)};
}

static bool unopened_same(const union message *ma, const union message *mb)
{
    const struct repl_unopened *a = &ma->unopened, *b = &mb->unopened;
    bool same = a->count == b->count;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = a->entries[i].to_seq == b->entries[i].to_seq &&
               a->entries[i].merge == b->entries[i].merge &&
               a->entries[i].part == b->entries[i].part;
    return same;
}

static void unopened_free(union message *m)
{
    repl_unopened_fini(&m->unopened);
}

static void tails_make(struct random *random, union message *m)
{
    static uint8_t bytes[2000];
    uint32_t count = (uint32_t)random_below(random, 6);
    random_fill(random, bytes, sizeof bytes);
    m->tails =
        (struct repl_tails){.count = count, .tails = calloc(count + 1, sizeof m->tails.tails[0])};
    for (uint32_t i = 0; i < count; i++) {
        if (random_below(random, 4) == 0)
            continue;
        m->tails.tails[i] = (struct repl_tail){.size = 1 + (uint32_t)random_below(random, 1000),
                                               .begin = 128 + random_below(random, 1 << 20),
                                               .header = bytes,
                                               .bytes = bytes + random_below(random, 1000)};
    }
}

/* What is decoded is in the message, which may be gone. */
static bool tails_same(const union message *ma, const union message *mb)
{
    const struct repl_tails *a = &ma->tails, *b = &mb->tails;
    bool same = a->count == b->count;
    for (uint32_t i = 0; same && i < a->count; i++)
        same = a->tails[i].size == b->tails[i].size && a->tails[i].begin == b->tails[i].begin;
    return same;
}

static void tails_free(union message *m)
{
    repl_tails_fini(&m->tails);
}

static void sliced_make(struct random *random, union message *m)
{
    static uint8_t bytes[2000];
    random_fill(random, bytes, sizeof bytes);
    m->sliced = (struct repl_sliced){.frame = random_frame(random, sizeof bytes), .stored = bytes};
}

/* What is decoded is in the message, which may be gone. */
static bool sliced_same(const union message *ma, const union message *mb)
{
    return frame_same(&ma->sliced.frame, &mb->sliced.frame);
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
DOORS(slices, slices)
DOORS(unopened, unopened)
DOORS(tails, tails)
DOORS(sliced, sliced)
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

const struct row rows[ROW_COUNT] = {
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
    {REPL_WIRE_SLICES, slices_make, slices_same, slices_out, slices_in, slices_free},
    {REPL_WIRE_SLICED, sliced_make, sliced_same, sliced_out, sliced_in, nothing_to_free},
    {REPL_WIRE_UNOPENED, unopened_make, unopened_same, unopened_out, unopened_in, unopened_free},
    {REPL_WIRE_TAILS, tails_make, tails_same, tails_out, tails_in, tails_free},
};

enum repl_code decode_copy(const struct row *row, const uint8_t *data, size_t size)
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

const struct row *row_of(enum repl_wire_type type)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (rows[i].type == type)
            return &rows[i];
    }
    fail_msg("no row for type %d", (int)type);
    return NULL;
}

enum repl_code there_and_back(enum repl_wire_type type, const union message *m)
{
    const struct row *row = row_of(type);
    struct repl_buffer buffer = {0};
    struct repl_error err;
    assert_true(repl_ok(row->encode(m, &buffer, &err)));
    enum repl_code code = decode_copy(row, buffer.data, buffer.size);
    repl_buffer_fini(&buffer);
    return code;
}

void set_size(uint8_t *data, size_t size)
{
    struct repl_writer w = repl_writer_of(data + 8, 4);
    repl_write_u32(&w, (uint32_t)size);
}
