/*
 * Records of the log: every type with random values there and back, the bytes where the
 * specification says, and nothing accepted that was not written so: no flipped bit, no truncation,
 * no other version.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "format/log_record.h"
#include "unit/random.h"

#define ROUNDS      400
#define TYPE_COUNT  REPL_LOG_POOL
#define HEADER_SIZE 24
#define TAIL_SIZE   8

static void random_text(struct random *random, char *text, size_t least, size_t limit)
{
    size_t size = least + random_below(random, limit - least + 1);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)(0x20 + random_below(random, 0x5f));
    text[size] = '\0';
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

static void random_create(struct random *random, struct repl_log_create *create)
{
    random_text(random, create->name, 1, REPL_VOLUME_NAME_SIZE);
    random_fill(random, create->volume.bytes, sizeof create->volume.bytes);
    create->kind = REPL_VOLUME_BLOCK + random_below(random, 2);
    create->lineage = random_next(random);
}

static void random_churn(struct random *random, uint64_t to_seq, struct repl_churn *churn)
{
    *churn = (struct repl_churn){.known = true,
                                 .compared = random_below(random, 2),
                                 .changed_bytes = random_next(random),
                                 .stored_bytes = random_next(random),
                                 .objects_changed = random_next(random),
                                 .objects_removed = random_next(random)};
    if (to_seq < 2 || random_below(random, 2) == 0)
        return;
    churn->trouble = REPL_TROUBLE_CHANGE + random_below(random, REPL_TROUBLE_COUNT - 1);
    churn->trouble_before_seq = 1 + random_below(random, to_seq - 1);
}

static void random_commit(struct random *random, struct repl_log_commit *commit)
{
    commit->to_seq = random_next(random) | 1;
    commit->from_seq = random_below(random, commit->to_seq);
    commit->part = (uint32_t)random_next(random);
    commit->lineage = random_next(random);
    commit->file_size = random_below(random, REPL_SEGMENT_HARD_LIMIT + 1);
    commit->volume_size = random_below(random, REPL_VOLUME_SIZE_MAX + 1);
    random_fill(random, commit->digest.bytes, sizeof commit->digest.bytes);
    commit->has_point = random_below(random, 2);
    if (commit->has_point)
        commit->point = random_point(random, commit->to_seq);
    if (random_below(random, 2) != 0)
        random_churn(random, commit->to_seq, &commit->churn);
}

static void random_piece(struct random *random, struct repl_log_piece *piece)
{
    random_commit(random, &piece->commit);
    piece->merge = random_next(random);
    if (piece->commit.from_seq == 0 && piece->commit.part == 0)
        piece->begins = random_below(random, 2);
    random_fill(random, piece->link.bytes, sizeof piece->link.bytes);
    piece->committed_ns = (int64_t)random_next(random);
    if (piece->commit.has_point)
        piece->unchanged_until_ns =
            piece->commit.point.begin_ns + (int64_t)random_below(random, 1000);
    if (random_below(random, 2) == 0)
        return;
    piece->commit.from_seq = 0;
    piece->begin = (struct repl_record_place){random_below(random, 100), random_next(random)};
    piece->end = (struct repl_record_place){piece->begin.object + 1, random_next(random)};
}

static struct repl_log_record random_record(struct random *random, enum repl_log_type type)
{
    struct repl_log_record record = {
        .type = type, .number = random_next(random) | 1, .time_ns = (int64_t)random_next(random)};
    switch (type) {
    case REPL_LOG_CREATE:
        random_create(random, &record.create);
        break;
    case REPL_LOG_COMMIT:
        random_commit(random, &record.commit);
        break;
    case REPL_LOG_IDLE:
        record.idle.seq = random_next(random) | 1;
        record.idle.until_ns = (int64_t)random_next(random);
        break;
    case REPL_LOG_STATE:
        record.state.state = (enum repl_state)random_below(random, REPL_STATE_REPORTED_COUNT);
        random_text(random, record.state.cause, 0, REPL_WIRE_TEXT_MAX);
        break;
    case REPL_LOG_MERGE:
        record.merge.to_seq = random_next(random) | 1;
        record.merge.from_seq = random_below(random, record.merge.to_seq);
        record.merge.records = (uint32_t)random_next(random) | 1;
        break;
    case REPL_LOG_PIECE:
        random_piece(random, &record.piece);
        break;
    case REPL_LOG_GONE:
        record.gone = (struct repl_log_gone){random_next(random), (uint32_t)random_next(random),
                                             random_next(random)};
        break;
    case REPL_LOG_CHECKPOINT:
        random_create(random, &record.checkpoint.create);
        record.checkpoint.lineage = random_next(random);
        record.checkpoint.records = (uint32_t)random_next(random);
        record.checkpoint.heard_ns = (int64_t)random_next(random);
        record.checkpoint.created_ns = (int64_t)random_next(random);
        break;
    case REPL_LOG_MARK:
        record.mark.kind = (enum repl_mark_kind)random_below(random, 4);
        if (record.mark.kind != REPL_MARK_REMOVED)
            record.mark.seq = random_next(random) | 1;
        if (record.mark.kind != REPL_MARK_PROVEN)
            random_text(random, record.mark.name, 1, REPL_MARK_NAME_SIZE);
        break;
    case REPL_LOG_POOL:
        random_text(random, record.pool.name, 1, REPL_VOLUME_NAME_SIZE);
        break;
    }
    return record;
}

static bool churn_same(const struct repl_churn *a, const struct repl_churn *b)
{
    return a->known == b->known && a->compared == b->compared &&
           a->changed_bytes == b->changed_bytes && a->stored_bytes == b->stored_bytes &&
           a->objects_changed == b->objects_changed && a->objects_removed == b->objects_removed &&
           a->trouble == b->trouble && a->trouble_before_seq == b->trouble_before_seq;
}

static bool commit_same(const struct repl_log_commit *a, const struct repl_log_commit *b)
{
    const struct repl_point *p = &a->point, *q = &b->point;
    return a->from_seq == b->from_seq && a->to_seq == b->to_seq && a->part == b->part &&
           a->lineage == b->lineage && a->file_size == b->file_size &&
           a->volume_size == b->volume_size && repl_digest_equal(&a->digest, &b->digest) &&
           a->has_point == b->has_point && p->seq == q->seq && p->begin_ns == q->begin_ns &&
           p->end_ns == q->end_ns && p->consistency == q->consistency && p->cut == q->cut &&
           p->flags == q->flags && p->attempts == q->attempts &&
           p->changed_bytes == q->changed_bytes && churn_same(&a->churn, &b->churn);
}

static bool create_same(const struct repl_log_create *a, const struct repl_log_create *b)
{
    return strcmp(a->name, b->name) == 0 && repl_uuid_equal(&a->volume, &b->volume) &&
           a->kind == b->kind && a->lineage == b->lineage;
}

static bool place_same(const struct repl_record_place *a, const struct repl_record_place *b)
{
    return a->object == b->object && a->offset == b->offset;
}

static bool piece_same(const struct repl_log_piece *a, const struct repl_log_piece *b)
{
    return commit_same(&a->commit, &b->commit) && a->merge == b->merge && a->begins == b->begins &&
           a->committed_ns == b->committed_ns && repl_digest_equal(&a->link, &b->link) &&
           a->unchanged_until_ns == b->unchanged_until_ns && place_same(&a->begin, &b->begin) &&
           place_same(&a->end, &b->end);
}

static bool record_same(const struct repl_log_record *a, const struct repl_log_record *b)
{
    if (a->type != b->type || a->number != b->number || a->time_ns != b->time_ns)
        return false;
    switch (a->type) {
    case REPL_LOG_CREATE:
        return create_same(&a->create, &b->create);
    case REPL_LOG_COMMIT:
        return commit_same(&a->commit, &b->commit);
    case REPL_LOG_IDLE:
        return a->idle.seq == b->idle.seq && a->idle.until_ns == b->idle.until_ns;
    case REPL_LOG_STATE:
        return a->state.state == b->state.state && strcmp(a->state.cause, b->state.cause) == 0;
    case REPL_LOG_MERGE:
        return a->merge.from_seq == b->merge.from_seq && a->merge.to_seq == b->merge.to_seq &&
               a->merge.records == b->merge.records;
    case REPL_LOG_PIECE:
        return piece_same(&a->piece, &b->piece);
    case REPL_LOG_GONE:
        return a->gone.to_seq == b->gone.to_seq && a->gone.part == b->gone.part &&
               a->gone.merge == b->gone.merge;
    case REPL_LOG_CHECKPOINT:
        return create_same(&a->checkpoint.create, &b->checkpoint.create) &&
               a->checkpoint.lineage == b->checkpoint.lineage &&
               a->checkpoint.records == b->checkpoint.records &&
               a->checkpoint.heard_ns == b->checkpoint.heard_ns &&
               a->checkpoint.created_ns == b->checkpoint.created_ns;
    case REPL_LOG_MARK:
        return a->mark.kind == b->mark.kind && a->mark.seq == b->mark.seq &&
               strcmp(a->mark.name, b->mark.name) == 0;
    case REPL_LOG_POOL:
        return strcmp(a->pool.name, b->pool.name) == 0;
    }
    return false;
}

/* From a copy of exactly this size on the heap: where reading goes beyond, the sanitizers say so.
 */
static enum repl_code decode_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);
    struct repl_log_record record;
    struct repl_error err = {.text = ""};
    size_t used;
    memcpy(copy, data, size);
    enum repl_code code = repl_log_record_decode(copy, size, &record, &used, &err).code;
    free(copy);
    if (code != REPL_OK)
        assert_true(err.text[0] != '\0');
    return code;
}

static void seal(uint8_t *data, size_t size)
{
    struct repl_writer tail = repl_writer_of(data + size - TAIL_SIZE, TAIL_SIZE);
    repl_write_u64(&tail, repl_xxh3(data, size - TAIL_SIZE));
}

static enum repl_code there_and_back(const struct repl_log_record *record)
{
    uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    repl_log_record_encode(record, data, &size);
    return decode_copy(data, size);
}

/* --- there and back -------------------------------------------------------------------------- */

static void random_records_come_back(void **state)
{
    struct random random = random_begin("random_records_come_back", 1);
    (void)state;
    for (unsigned i = 0; i < TYPE_COUNT * ROUNDS; i++) {
        struct repl_log_record record = random_record(&random, REPL_LOG_CREATE + i % TYPE_COUNT),
                               back;
        uint8_t data[2 * REPL_LOG_RECORD_SIZE_MAX];
        size_t size, used;
        struct repl_error err;
        repl_log_record_encode(&record, data, &size);
        assert_in_range(size, HEADER_SIZE + TAIL_SIZE, REPL_LOG_RECORD_SIZE_MAX);
        assert_true(repl_ok(repl_log_record_decode(data, size, &back, &used, &err)));
        assert_int_equal(used, size);
        assert_true(record_same(&record, &back));
        /* what follows is not its business */
        random_fill(&random, data + size, REPL_LOG_RECORD_SIZE_MAX);
        assert_true(repl_ok(
            repl_log_record_decode(data, size + REPL_LOG_RECORD_SIZE_MAX, &back, &used, &err)));
        assert_int_equal(used, size);
    }
}

static void the_longest_fit(void **state)
{
    (void)state;
    struct repl_log_record record = {.type = REPL_LOG_STATE, .number = 1};
    memset(record.state.cause, 'c', REPL_WIRE_TEXT_MAX);
    assert_int_equal(there_and_back(&record), REPL_OK);
    record = (struct repl_log_record){.type = REPL_LOG_CREATE, .number = UINT64_MAX};
    record.create.kind = REPL_VOLUME_BLOCK;
    memset(record.create.name, 'n', REPL_VOLUME_NAME_SIZE);
    assert_int_equal(there_and_back(&record), REPL_OK);
    record = (struct repl_log_record){.type = REPL_LOG_MARK, .number = 1};
    record.mark.kind = REPL_MARK_HELD;
    record.mark.seq = 1;
    memset(record.mark.name, 'n', REPL_MARK_NAME_SIZE);
    assert_int_equal(there_and_back(&record), REPL_OK);
}

static void bytes_lie_where_the_specification_says(void **state)
{
    (void)state;
    uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    struct repl_log_record record = {.type = REPL_LOG_IDLE,
                                     .number = 0x0102030405060708,
                                     .time_ns = -2,
                                     .idle = {.seq = 5, .until_ns = 6}};
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, 48);
    assert_memory_equal(data,
                        "RLOG\x30\0\1\3"
                        "\x08\x07\x06\x05\x04\x03\x02\x01"
                        "\xfe\xff\xff\xff\xff\xff\xff\xff"
                        "\5\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0",
                        40);
    uint64_t sum = repl_xxh3(data, 40);
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(data[40 + i], (uint8_t)(sum >> 8 * i));

    record = (struct repl_log_record){
        .type = REPL_LOG_STATE, .number = 1, .state = {.state = REPL_STATE_DEGRADED, .cause = "x"}};
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 4 + TAIL_SIZE);
    assert_memory_equal(data + HEADER_SIZE, "\5\1\0x", 4);

    record = (struct repl_log_record){.type = REPL_LOG_CREATE, .number = 1};
    record.create.kind = REPL_VOLUME_BLOCK;
    record.create.lineage = 9;
    memset(record.create.volume.bytes, 'u', 16);
    strcpy(record.create.name, "data");
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 31 + TAIL_SIZE);
    assert_memory_equal(data + HEADER_SIZE, "\4\0datauuuuuuuuuuuuuuuu\1\x09\0\0\0\0\0\0\0", 31);

    record = (struct repl_log_record){.type = REPL_LOG_COMMIT, .number = 1};
    record.commit.from_seq = 1;
    record.commit.to_seq = 2;
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 77 + TAIL_SIZE);
    record.commit.has_point = true;
    record.commit.point.seq = 2;
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 77 + 64 + TAIL_SIZE);
    assert_memory_equal(data + HEADER_SIZE, "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 16);
    assert_memory_equal(data + HEADER_SIZE + 76, "\1\2\0\0\0\0\0\0\0", 9);
    record.commit.churn = (struct repl_churn){.known = true,
                                              .compared = true,
                                              .changed_bytes = 5,
                                              .stored_bytes = 4,
                                              .objects_changed = 3,
                                              .objects_removed = 2,
                                              .trouble = REPL_TROUBLE_REMOVAL,
                                              .trouble_before_seq = 1};
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 77 + 64 + 42 + TAIL_SIZE);
    assert_memory_equal(data + HEADER_SIZE + 141,
                        "\1\2\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0"
                        "\3\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0",
                        42);

    record = (struct repl_log_record){.type = REPL_LOG_MERGE, .number = 1, .merge = {7, 9, 3}};
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 20 + TAIL_SIZE);
    assert_int_equal(data[6], REPL_LOG_VERSION_MERGE);
    assert_memory_equal(data + HEADER_SIZE, "\7\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\3\0\0\0", 20);

    record = (struct repl_log_record){.type = REPL_LOG_PIECE, .number = 1};
    record.piece.merge = 4;
    memset(record.piece.link.bytes, 'l', 32);
    record.piece.begin = (struct repl_record_place){1, 2};
    record.piece.end = (struct repl_record_place){3, 4};
    record.piece.commit.to_seq = 2;
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 89 + 77 + TAIL_SIZE);
    assert_memory_equal(data + HEADER_SIZE, "\4\0\0\0\0\0\0\0\0l", 10);
    assert_memory_equal(data + HEADER_SIZE + 57,
                        "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0", 32);

    record = (struct repl_log_record){.type = REPL_LOG_MARK, .number = 1};
    record.mark = (struct repl_log_mark){.kind = REPL_MARK_NAME, .seq = 5, .name = "x"};
    repl_log_record_encode(&record, data, &size);
    assert_int_equal(size, HEADER_SIZE + 12 + TAIL_SIZE);
    assert_memory_equal(data + HEADER_SIZE, "\1\5\0\0\0\0\0\0\0\1\0x", 12);
}

/* --- what is refused ------------------------------------------------------------------------- */

static void every_flip_and_truncation_is_refused(void **state)
{
    struct random random = random_begin("every_flip_and_truncation_is_refused", 2);
    (void)state;
    for (unsigned i = 0; i < 2 * TYPE_COUNT; i++) {
        struct repl_log_record record = random_record(&random, REPL_LOG_CREATE + i % TYPE_COUNT);
        uint8_t data[REPL_LOG_RECORD_SIZE_MAX + 256];
        size_t size;
        repl_log_record_encode(&record, data, &size);
        for (size_t cut = 0; cut < size; cut++)
            assert_int_equal(decode_copy(data, cut), REPL_E_CORRUPT);
        /* more bytes behind, so that a changed size finds something there */
        random_fill(&random, data + size, sizeof data - size);
        for (size_t at = 0; at < size; at++) {
            for (unsigned bits = 1; bits < 256; bits += i < TYPE_COUNT ? 1 : 17) {
                data[at] ^= (uint8_t)bits;
                assert_int_equal(decode_copy(data, sizeof data), REPL_E_CORRUPT);
                data[at] ^= (uint8_t)bits;
            }
        }
        assert_int_equal(decode_copy(data, sizeof data), REPL_OK);
    }
    uint8_t zeros[4096] = {0};
    assert_int_equal(decode_copy(zeros, sizeof zeros), REPL_E_CORRUPT);
}

/* The checksum is right, so it is no damage, and must not be cut off as a torn tail. */
static void another_version_is_refused_in_words(void **state)
{
    struct random random = random_begin("another_version_is_refused_in_words", 3);
    (void)state;
    for (unsigned version = 0; version < 256; version++) {
        struct repl_log_record record = random_record(&random, REPL_LOG_COMMIT), back;
        uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
        size_t size, used;
        struct repl_error err;
        repl_log_record_encode(&record, data, &size);
        data[6] = (uint8_t)version;
        seal(data, size);
        repl_result result = repl_log_record_decode(data, size, &back, &used, &err);
        /* with how much has changed, or without: a field too many, or too few */
        bool read = version == REPL_LOG_VERSION || version == REPL_LOG_VERSION_POOL;
        bool own = record.commit.churn.known == (version == REPL_LOG_VERSION_POOL);
        assert_int_equal(result.code, !read ? REPL_E_VERSION : own ? REPL_OK : REPL_E_CORRUPT);
        if (!read)
            assert_non_null(strstr(err.text, "version"));
    }
}

/* So does what says how much has changed, to a release that does not count. */
static void churn_has_a_version_of_its_own(void **state)
{
    struct random random = random_begin("churn_has_a_version_of_its_own", 6);
    (void)state;
    for (unsigned type = REPL_LOG_CREATE; type <= REPL_LOG_MARK; type++) {
        for (unsigned known = 0; known < 2; known++) {
            struct repl_log_record record = random_record(&random, type);
            bool may = type == REPL_LOG_COMMIT || type == REPL_LOG_PIECE;
            uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
            size_t size;
            if (type == REPL_LOG_COMMIT)
                record.commit.churn = (struct repl_churn){.known = known != 0};
            if (type == REPL_LOG_PIECE)
                record.piece.commit.churn = (struct repl_churn){.known = known != 0};
            repl_log_record_encode(&record, data, &size);
            assert_true((data[6] == 4) == (may && known != 0));
            if (may)
                continue;
            data[6] = 4;
            seal(data, size);
            assert_int_equal(decode_copy(data, size), REPL_E_VERSION);
        }
    }
}

/* The first record of a tree's log is what a release that knows no trees stops at. */
static void a_tree_is_created_under_a_version_of_its_own(void **state)
{
    struct random random = random_begin("a_tree_is_created_under_a_version_of_its_own", 5);
    (void)state;
    for (unsigned type = REPL_LOG_CREATE; type <= REPL_LOG_STATE; type++) {
        for (unsigned kind = REPL_VOLUME_BLOCK; kind <= REPL_VOLUME_TREE; kind++) {
            struct repl_log_record record = random_record(&random, type);
            bool create = type == REPL_LOG_CREATE;
            uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
            size_t size;
            if (create)
                record.create.kind = kind;
            if (type == REPL_LOG_COMMIT)
                record.commit.churn = (struct repl_churn){0};
            repl_log_record_encode(&record, data, &size);
            assert_int_equal(data[6], create && kind == REPL_VOLUME_TREE ? 2 : 1);
            data[6] = 3 - data[6];
            seal(data, size);
            assert_int_equal(decode_copy(data, size), create ? REPL_E_CORRUPT : REPL_E_VERSION);
        }
    }
}

static void fields_are_held_to_their_bounds(void **state)
{
    struct random random = random_begin("fields_are_held_to_their_bounds", 4);
    (void)state;
    struct repl_log_record good = random_record(&random, REPL_LOG_COMMIT), record;
    good.commit.to_seq = 10;
    good.commit.from_seq = 9;
    good.commit.churn = (struct repl_churn){0};
    good.commit.has_point = true;
    good.commit.point = random_point(&random, 10);
    assert_int_equal(there_and_back(&good), REPL_OK);
#define REFUSED(change)                                                                            \
    do {                                                                                           \
        record = good;                                                                             \
        change;                                                                                    \
        assert_int_equal(there_and_back(&record), REPL_E_CORRUPT);                                 \
    } while (0)
    REFUSED(record.number = 0);
    REFUSED(record.commit.from_seq = 10);
    REFUSED(record.commit.volume_size = REPL_VOLUME_SIZE_MAX + 1);
    REFUSED(record.commit.file_size = REPL_SEGMENT_HARD_LIMIT + 1);
    REFUSED(record.commit.point.seq = 9);
    REFUSED(record.commit.point.end_ns = record.commit.point.begin_ns - 1);
    REFUSED(record.commit.point.consistency = REPL_CONSISTENCY_NONE);
    good.commit.churn = (struct repl_churn){
        .known = true, .trouble = REPL_TROUBLE_ENCRYPTION, .trouble_before_seq = 9};
    assert_int_equal(there_and_back(&good), REPL_OK);
    REFUSED(record.commit.churn.trouble = REPL_TROUBLE_NONE);
    REFUSED(record.commit.churn.trouble = REPL_TROUBLE_COUNT);
    REFUSED(record.commit.churn.trouble_before_seq = 0);
    REFUSED(record.commit.churn.trouble_before_seq = 10);
    good = random_record(&random, REPL_LOG_CREATE);
    REFUSED(record.create.kind = 0);
    REFUSED(record.create.kind = REPL_VOLUME_TREE + 1);
    REFUSED(record.create.name[0] = '\0');
    good = random_record(&random, REPL_LOG_IDLE);
    REFUSED(record.idle.seq = 0);
    good = random_record(&random, REPL_LOG_MERGE);
    REFUSED(record.merge.from_seq = record.merge.to_seq);
    good = (struct repl_log_record){.type = REPL_LOG_PIECE, .number = 1};
    random_commit(&random, &good.piece.commit);
    good.piece.commit.from_seq = 0;
    good.piece.commit.churn = (struct repl_churn){0};
    good.piece.commit.has_point = false;
    good.piece.commit.point = (struct repl_point){0};
    good.piece.end.object = 1;
    assert_int_equal(there_and_back(&good), REPL_OK);
    REFUSED(record.piece.unchanged_until_ns = 1);
    REFUSED(record.piece.begin.object = 1);
    REFUSED(record.piece.end.object = 0; record.piece.begin.offset = 1);
    good.piece.commit.part = 1;
    REFUSED(record.piece.begins = true);
    good.piece.commit.to_seq = 9;
    REFUSED(record.piece.commit.from_seq = 8);
    good = (struct repl_log_record){.type = REPL_LOG_MARK, .number = 1};
    good.mark = (struct repl_log_mark){.kind = REPL_MARK_HELD, .seq = 3, .name = "n"};
    assert_int_equal(there_and_back(&good), REPL_OK);
    REFUSED(record.mark.seq = 0);
    REFUSED(record.mark.name[0] = '\0');
    REFUSED(record.mark.kind = REPL_MARK_REMOVED);
    REFUSED(record.mark.kind = REPL_MARK_PROVEN);
    REFUSED(record.mark.kind = 4);
    good = random_record(&random, REPL_LOG_POOL);
    REFUSED(record.pool.name[0] = '\0');
    good = random_record(&random, REPL_LOG_CHECKPOINT);
    REFUSED(record.checkpoint.create.name[0] = '\0');
    good = random_record(&random, REPL_LOG_STATE);
    REFUSED(record.state.state = REPL_STATE_REPORTED_COUNT);

    /* types that are not there; a byte too many; has_point neither 0 nor 1 */
    uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    repl_log_record_encode(&good, data, &size);
    for (unsigned type = 0; type < 256; type++) {
        data[7] = (uint8_t)type;
        seal(data, size);
        if (type < REPL_LOG_CREATE || type > REPL_LOG_STATE) /* later ones have a later version */
            assert_int_equal(decode_copy(data, size), REPL_E_CORRUPT);
    }
    data[7] = REPL_LOG_STATE;
    size++;
    data[4] = (uint8_t)size;
    data[5] = (uint8_t)(size >> 8);
    seal(data, size);
    assert_int_equal(decode_copy(data, size), REPL_E_CORRUPT);
    good = random_record(&random, REPL_LOG_COMMIT);
    good.commit.has_point = false;
    good.commit.churn = (struct repl_churn){0};
    repl_log_record_encode(&good, data, &size);
    data[HEADER_SIZE + 76] = 2;
    seal(data, size);
    assert_int_equal(decode_copy(data, size), REPL_E_CORRUPT);
}

/* A cause comes from wherever an error message does, and must not break the log. */
static void words_are_made_fit_to_be_read(void **state)
{
    (void)state;
    struct repl_log_record record = {.type = REPL_LOG_STATE, .number = 1}, back;
    uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
    size_t size, used;
    struct repl_error err;
    for (unsigned byte = 1; byte < 256; byte++)
        record.state.cause[byte - 1] = (char)byte;
    repl_log_record_encode(&record, data, &size);
    assert_true(repl_ok(repl_log_record_decode(data, size, &back, &used, &err)));
    for (unsigned byte = 1; byte < 256; byte++)
        assert_int_equal((uint8_t)back.state.cause[byte - 1],
                         byte < 0x20 || byte == 0x7f ? '?' : byte);
}

static void states_have_names(void **state)
{
    (void)state;
    for (unsigned i = 0; i < REPL_STATE_COUNT; i++) {
        assert_string_not_equal(repl_state_name((enum repl_state)i), "unknown");
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(repl_state_name((enum repl_state)i),
                                    repl_state_name((enum repl_state)j));
    }
    assert_string_equal(repl_state_name(REPL_STATE_NO_WINDOW), "no-window");
    static const enum repl_state worse[] = {
        REPL_STATE_OK,        REPL_STATE_IDLE,       REPL_STATE_SEEDING,   REPL_STATE_RESYNC,
        REPL_STATE_NO_WINDOW, REPL_STATE_DEGRADED,   REPL_STATE_SITE_BUSY, REPL_STATE_LINK_DOWN,
        REPL_STATE_SITE_FULL, REPL_STATE_SITE_ERROR, REPL_STATE_REFUSED,   REPL_STATE_FAILED};
    assert_int_equal(sizeof worse / sizeof *worse, REPL_STATE_COUNT);
    for (unsigned i = 1; i < REPL_STATE_COUNT; i++)
        assert_true(repl_state_rank(worse[i - 1]) < repl_state_rank(worse[i]));
    assert_string_equal(repl_state_name((enum repl_state)99), "unknown");
    assert_string_equal(repl_trouble_name(REPL_TROUBLE_ENCRYPTION), "encryption");
    assert_string_equal(repl_trouble_name((enum repl_trouble_kind)99), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_records_come_back),
        cmocka_unit_test(the_longest_fit),
        cmocka_unit_test(bytes_lie_where_the_specification_says),
        cmocka_unit_test(every_flip_and_truncation_is_refused),
        cmocka_unit_test(another_version_is_refused_in_words),
        cmocka_unit_test(a_tree_is_created_under_a_version_of_its_own),
        cmocka_unit_test(churn_has_a_version_of_its_own),
        cmocka_unit_test(fields_are_held_to_their_bounds),
        cmocka_unit_test(words_are_made_fit_to_be_read),
        cmocka_unit_test(states_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
