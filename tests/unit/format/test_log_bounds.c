/*
 * What a record of the log may not say, and the words and names in it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/format/log_model.h"

#define COMMIT_10                                                                                  \
    .from_seq = 9, .to_seq = 10, .has_point = true,                                                \
    .point = {.seq = 10,                                                                           \
              .begin_ns = 100,                                                                     \
              .end_ns = 105,                                                                       \
              .consistency = REPL_CONSISTENCY_CRASH,                                               \
              .cut = REPL_CUT_QUIET,                                                               \
              .attempts = 1}

enum good { COMMIT, TROUBLE, CREATE, IDLE, MERGE, PIECE, PART, MARK, POOL, CHECKPOINT, STATE };

static const struct repl_log_record goods[] = {
    [COMMIT] = {.type = REPL_LOG_COMMIT, .commit = {COMMIT_10}},
    [TROUBLE] = {.type = REPL_LOG_COMMIT,
                 .commit = {COMMIT_10, .churn = {.known = true,
                                                 .trouble = REPL_TROUBLE_ENCRYPTION,
                                                 .trouble_before_seq = 9}}},
    [CREATE] = {.type = REPL_LOG_CREATE, .create = {.name = "n", .kind = REPL_VOLUME_BLOCK}},
    [IDLE] = {.type = REPL_LOG_IDLE, .idle = {.seq = 1}},
    [MERGE] = {.type = REPL_LOG_MERGE, .merge = {.from_seq = 1, .to_seq = 2, .records = 1}},
    [PIECE] = {.type = REPL_LOG_PIECE, .piece = {.commit = {.to_seq = 9}, .end = {.object = 1}}},
    [PART] = {.type = REPL_LOG_PIECE,
              .piece = {.commit = {.to_seq = 9, .part = 1}, .end = {.object = 1}}},
    [MARK] = {.type = REPL_LOG_MARK, .mark = {.kind = REPL_MARK_HELD, .seq = 3, .name = "n"}},
    [POOL] = {.type = REPL_LOG_POOL, .pool = {.name = "n"}},
    [CHECKPOINT] = {.type = REPL_LOG_CHECKPOINT,
                    .checkpoint = {.create = {.name = "n", .kind = REPL_VOLUME_BLOCK}}},
    [STATE] = {.type = REPL_LOG_STATE},
};

#define FIELD(name)                                                                                \
    offsetof(struct repl_log_record, name), sizeof((const struct repl_log_record *)NULL)->name

/* What is good, with one of its fields changed. */
static const struct {
    enum good good;
    size_t offset, size;
    uint64_t value;
} refused[] = {
    {COMMIT, FIELD(number), 0},
    {COMMIT, FIELD(commit.from_seq), 10},
    {COMMIT, FIELD(commit.volume_size), REPL_VOLUME_SIZE_MAX + 1},
    {COMMIT, FIELD(commit.file_size), REPL_SEGMENT_HARD_LIMIT + 1},
    {COMMIT, FIELD(commit.point.seq), 9},
    {COMMIT, FIELD(commit.point.end_ns), 99},
    {COMMIT, FIELD(commit.point.consistency), REPL_CONSISTENCY_NONE},
    {TROUBLE, FIELD(commit.churn.trouble), REPL_TROUBLE_NONE},
    {TROUBLE, FIELD(commit.churn.trouble), REPL_TROUBLE_COUNT},
    {TROUBLE, FIELD(commit.churn.trouble_before_seq), 0},
    {TROUBLE, FIELD(commit.churn.trouble_before_seq), 10},
    {CREATE, FIELD(create.kind), 0},
    {CREATE, FIELD(create.kind), REPL_VOLUME_TREE + 1},
    {CREATE, FIELD(create.name[0]), '\0'},
    {IDLE, FIELD(idle.seq), 0},
    {MERGE, FIELD(merge.from_seq), 2},
    {PIECE, FIELD(piece.unchanged_until_ns), 1},
    {PIECE, FIELD(piece.begin.object), 1},
    {PART, FIELD(piece.begins), true},
    {PART, FIELD(piece.commit.from_seq), 8},
    {MARK, FIELD(mark.seq), 0},
    {MARK, FIELD(mark.name[0]), '\0'},
    {MARK, FIELD(mark.kind), REPL_MARK_REMOVED},
    {MARK, FIELD(mark.kind), REPL_MARK_PROVEN},
    {MARK, FIELD(mark.kind), 4},
    {POOL, FIELD(pool.name[0]), '\0'},
    {CHECKPOINT, FIELD(checkpoint.create.name[0]), '\0'},
    {STATE, FIELD(state.state), REPL_STATE_REPORTED_COUNT},
};

static void field_set(struct repl_log_record *record, size_t offset, size_t size, uint64_t value)
{
    uint8_t *field = (uint8_t *)record + offset;
    if (size == sizeof(uint64_t))
        memcpy(field, &value, size);
    else if (size == sizeof(uint32_t))
        memcpy(field, &(uint32_t){(uint32_t)value}, size);
    else if (size == sizeof(uint16_t))
        memcpy(field, &(uint16_t){(uint16_t)value}, size);
    else
        *field = (uint8_t)value;
}

static void fields_are_held_to_their_bounds(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goods / sizeof *goods; i++) {
        struct repl_log_record record = goods[i];
        record.number = 1;
        if (record_there_and_back(&record) != REPL_OK)
            fail_msg("good record %zu is refused", i);
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct repl_log_record record = goods[refused[i].good];
        record.number = 1;
        field_set(&record, refused[i].offset, refused[i].size, refused[i].value);
        if (record_there_and_back(&record) != REPL_E_CORRUPT)
            fail_msg("record %zu is not refused", i);
    }
    struct repl_log_record none = goods[PIECE]; /* begins behind its end */
    none.number = 1;
    none.piece.end.object = 0;
    none.piece.begin.offset = 1;
    assert_int_equal(record_there_and_back(&none), REPL_E_CORRUPT);
}

/* Types that are not there; a byte too many; has_point neither 0 nor 1. */
static void bytes_are_held_to_their_bounds(void **state)
{
    (void)state;
    uint8_t data[REPL_LOG_RECORD_SIZE_MAX];
    size_t size;
    struct repl_log_record record = goods[STATE];
    record.number = 1;
    repl_log_record_encode(&record, data, &size);
    for (unsigned type = 0; type < 256; type++) {
        data[7] = (uint8_t)type;
        record_seal(data, size);
        if (type < REPL_LOG_CREATE || type > REPL_LOG_STATE) /* later ones have a later version */
            assert_int_equal(record_decode_copy(data, size), REPL_E_CORRUPT);
    }
    data[7] = REPL_LOG_STATE;
    size++;
    data[4] = (uint8_t)size;
    data[5] = (uint8_t)(size >> 8);
    record_seal(data, size);
    assert_int_equal(record_decode_copy(data, size), REPL_E_CORRUPT);
    record = (struct repl_log_record){
        .type = REPL_LOG_COMMIT, .number = 1, .commit = {.from_seq = 1, .to_seq = 2}};
    repl_log_record_encode(&record, data, &size);
    data[HEADER_SIZE + 76] = 2;
    record_seal(data, size);
    assert_int_equal(record_decode_copy(data, size), REPL_E_CORRUPT);
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
        cmocka_unit_test(fields_are_held_to_their_bounds),
        cmocka_unit_test(bytes_are_held_to_their_bounds),
        cmocka_unit_test(words_are_made_fit_to_be_read),
        cmocka_unit_test(states_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
