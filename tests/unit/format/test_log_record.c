/*
 * Records of the log: every type with random values there and back, the bytes where the
 * specification says, and nothing accepted that was not written so: no flipped bit, no truncation,
 * no other version.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "unit/format/log_model.h"

#define ROUNDS 400

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
    assert_int_equal(record_there_and_back(&record), REPL_OK);
    record = (struct repl_log_record){.type = REPL_LOG_CREATE, .number = UINT64_MAX};
    record.create.kind = REPL_VOLUME_BLOCK;
    memset(record.create.name, 'n', REPL_VOLUME_NAME_SIZE);
    assert_int_equal(record_there_and_back(&record), REPL_OK);
    record = (struct repl_log_record){.type = REPL_LOG_MARK, .number = 1};
    record.mark.kind = REPL_MARK_HELD;
    record.mark.seq = 1;
    memset(record.mark.name, 'n', REPL_MARK_NAME_SIZE);
    assert_int_equal(record_there_and_back(&record), REPL_OK);
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
}

#define UUID_U                                                                                     \
    {                                                                                              \
        "uuuuuuuuuuuuuuuu"                                                                         \
    }
#define DIGEST_L                                                                                   \
    {                                                                                              \
        "llllllllllllllllllllllllllllllll"                                                         \
    }
#define BYTES(at, bytes)                                                                           \
    {                                                                                              \
        at, bytes, sizeof bytes - 1                                                                \
    }

/* Between its header and its checksum: how much there is, and what of it stands where. */
static const struct body {
    struct repl_log_record record;
    unsigned version;
    size_t size;
    struct {
        size_t at;
        const char *bytes;
        size_t size;
    } parts[2];
} bodies[] = {
    {.record = {.type = REPL_LOG_STATE, .state = {.state = REPL_STATE_DEGRADED, .cause = "x"}},
     .version = REPL_LOG_VERSION,
     .size = 4,
     .parts = {BYTES(0, "\5\1\0x")}},
    {.record =
         {.type = REPL_LOG_CREATE,
          .create = {.name = "data", .volume = UUID_U, .kind = REPL_VOLUME_BLOCK, .lineage = 9}},
     .version = REPL_LOG_VERSION,
     .size = 31,
     .parts = {BYTES(0, "\4\0datauuuuuuuuuuuuuuuu\1\x09\0\0\0\0\0\0\0")}},
    {.record = {.type = REPL_LOG_COMMIT, .commit = {.from_seq = 1, .to_seq = 2}},
     .version = REPL_LOG_VERSION,
     .size = 77},
    {.record = {.type = REPL_LOG_COMMIT,
                .commit = {.from_seq = 1, .to_seq = 2, .has_point = true, .point = {.seq = 2}}},
     .version = REPL_LOG_VERSION,
     .size = 77 + 64,
     .parts = {BYTES(0, "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0"), BYTES(76, "\1\2\0\0\0\0\0\0\0")}},
    {.record = {.type = REPL_LOG_COMMIT,
                .commit = {.from_seq = 1,
                           .to_seq = 2,
                           .has_point = true,
                           .point = {.seq = 2},
                           .churn = {.known = true,
                                     .compared = true,
                                     .changed_bytes = 5,
                                     .stored_bytes = 4,
                                     .objects_changed = 3,
                                     .objects_removed = 2,
                                     .trouble = REPL_TROUBLE_REMOVAL,
                                     .trouble_before_seq = 1}}},
     .version = REPL_LOG_VERSION_POOL,
     .size = 77 + 64 + 42,
     .parts = {BYTES(141, "\1\2\1\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0"
                          "\3\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0")}},
    {.record = {.type = REPL_LOG_MERGE, .merge = {7, 9, 3}},
     .version = REPL_LOG_VERSION_MERGE,
     .size = 20,
     .parts = {BYTES(0, "\7\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\3\0\0\0")}},
    {.record = {.type = REPL_LOG_PIECE,
                .piece = {.commit = {.to_seq = 2},
                          .merge = 4,
                          .link = DIGEST_L,
                          .begin = {1, 2},
                          .end = {3, 4}}},
     .version = REPL_LOG_VERSION_MERGE,
     .size = 89 + 77,
     .parts = {BYTES(0, "\4\0\0\0\0\0\0\0\0l"),
               BYTES(57, "\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0")}},
    {.record = {.type = REPL_LOG_MARK, .mark = {.kind = REPL_MARK_NAME, .seq = 5, .name = "x"}},
     .version = REPL_LOG_VERSION_MERGE,
     .size = 12,
     .parts = {BYTES(0, "\1\5\0\0\0\0\0\0\0\1\0x")}},
};

static void bodies_lie_where_the_specification_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        const struct body *body = &bodies[i];
        uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
        size_t size;
        struct repl_log_record record = body->record;
        record.number = 1;
        repl_log_record_encode(&record, data, &size);
        assert_int_equal(size, HEADER_SIZE + body->size + TAIL_SIZE);
        assert_int_equal(data[6], body->version);
        for (size_t k = 0; k < 2; k++)
            assert_memory_equal(data + HEADER_SIZE + body->parts[k].at, body->parts[k].bytes,
                                body->parts[k].size);
    }
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
            assert_int_equal(record_decode_copy(data, cut), REPL_E_CORRUPT);
        /* more bytes behind, so that a changed size finds something there */
        random_fill(&random, data + size, sizeof data - size);
        for (size_t at = 0; at < size; at++) {
            for (unsigned bits = 1; bits < 256; bits += i < TYPE_COUNT ? 1 : 17) {
                data[at] ^= (uint8_t)bits;
                assert_int_equal(record_decode_copy(data, sizeof data), REPL_E_CORRUPT);
                data[at] ^= (uint8_t)bits;
            }
        }
        assert_int_equal(record_decode_copy(data, sizeof data), REPL_OK);
    }
    uint8_t zeros[4096] = {0};
    assert_int_equal(record_decode_copy(zeros, sizeof zeros), REPL_E_CORRUPT);
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
        record_seal(data, size);
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
            record_seal(data, size);
            assert_int_equal(record_decode_copy(data, size), REPL_E_VERSION);
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
            record_seal(data, size);
            assert_int_equal(record_decode_copy(data, size),
                             create ? REPL_E_CORRUPT : REPL_E_VERSION);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_records_come_back),
        cmocka_unit_test(the_longest_fit),
        cmocka_unit_test(bytes_lie_where_the_specification_says),
        cmocka_unit_test(bodies_lie_where_the_specification_says),
        cmocka_unit_test(every_flip_and_truncation_is_refused),
        cmocka_unit_test(another_version_is_refused_in_words),
        cmocka_unit_test(a_tree_is_created_under_a_version_of_its_own),
        cmocka_unit_test(churn_has_a_version_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
