/*
 * Records of what was read when: as they are written for good, there and back, what is refused, and
 * a file that a crash has cut anywhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "format/verified_record.h"
#include "unit/random.h"

#define SIZE REPL_VERIFIED_RECORD_SIZE

static void as_it_is_written(void **state)
{
    static const uint8_t golden[SIZE - 8] = {
        1,  1, 0,    0,    0,    0,    0,    0,    /* version, damaged */
        12, 0, 0,    0,    0,    0,    0,    0,    /* to */
        3,  0, 0,    0,                            /* part */
        0,  0, 0,    0,                            /* supply */
        7,  0, 0,    0,    0,    0,    0,    0,    /* merge */
        0,  0, 0x2a, 0x36, 0xfe, 0x9c, 0x97, 0x17, /* time: 1700000000 s */
    };
    const struct repl_verified in = {.to_seq = 12,
                                     .part = 3,
                                     .merge = 7,
                                     .time_ns = INT64_C(1700000000) * 1000000000,
                                     .damaged = true};
    uint8_t bytes[SIZE], sum[8];
    (void)state;
    repl_verified_encode(&in, bytes);
    assert_memory_equal(bytes, golden, sizeof golden);
    uint64_t checksum = repl_xxh3(golden, sizeof golden);
    for (size_t i = 0; i < sizeof sum; i++)
        sum[i] = (uint8_t)(checksum >> (8 * i));
    assert_memory_equal(bytes + sizeof golden, sum, sizeof sum);
}

static void there_and_back(void **state)
{
    const struct repl_verified ins[] = {
        {.to_seq = 1, .time_ns = -5},
        {.to_seq = UINT64_MAX, .part = UINT32_MAX, .merge = UINT64_MAX, .time_ns = INT64_MAX},
        {.to_seq = 9, .supply = 4, .time_ns = 1, .damaged = true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof ins / sizeof ins[0]; i++) {
        uint8_t bytes[SIZE], again[SIZE];
        struct repl_verified out;
        repl_verified_encode(&ins[i], bytes);
        assert_true(repl_ok(repl_verified_decode(bytes, &out, NULL)));
        assert_int_equal(repl_verified_order(&ins[i], &out), 0);
        repl_verified_encode(&out, again);
        assert_memory_equal(bytes, again, SIZE);
    }
}

static void seal(uint8_t bytes[SIZE])
{
    uint64_t checksum = repl_xxh3(bytes, SIZE - 8);
    for (size_t i = 0; i < 8; i++)
        bytes[SIZE - 8 + i] = (uint8_t)(checksum >> (8 * i));
}

static void expect_sealed(uint8_t bytes[SIZE], enum repl_code code)
{
    struct repl_verified out;
    struct repl_error err = {.text = ""};
    seal(bytes);
    assert_int_equal(repl_verified_decode(bytes, &out, &err).code, code);
    assert_string_not_equal(err.text, "");
}

static void what_is_none_is_refused(void **state)
{
    const struct repl_verified in = {.to_seq = 5, .supply = 1, .time_ns = 77};
    uint8_t good[SIZE], bytes[SIZE];
    struct repl_verified out;
    (void)state;
    repl_verified_encode(&in, good);
    for (size_t bit = 0; bit < 8 * SIZE; bit++) {
        memcpy(bytes, good, SIZE);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(repl_verified_decode(bytes, &out, NULL).code, REPL_E_CORRUPT);
    }
    static const struct {
        size_t at;
        uint8_t value;
        enum repl_code code;
    } cases[] = {
        {0, 2, REPL_E_VERSION},  {1, 2, REPL_E_CORRUPT},
        {7, 1, REPL_E_CORRUPT},  {8, 0, REPL_E_CORRUPT}, /* to 0 */
        {24, 1, REPL_E_CORRUPT},                         /* a supply that a merge has made */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memcpy(bytes, good, SIZE);
        bytes[cases[i].at] = cases[i].value;
        expect_sealed(bytes, cases[i].code);
    }
}

/* The last record of each segment counts; a file that ends anywhere has what is whole of it. */
static void the_last_one_counts(void **state)
{
    uint8_t bytes[20 * SIZE];
    struct random random = random_begin("verified", 7);
    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        const struct repl_verified record = {.to_seq = 1 + (i * 7) % 5, .time_ns = (int64_t)i};
        repl_verified_encode(&record, bytes + i * SIZE);
    }
    for (size_t size = 0; size <= sizeof bytes; size += 1 + random_below(&random, 9)) {
        struct repl_verified_list list;
        size_t whole;
        assert_true(repl_ok(repl_verified_list_read(bytes, size, &list, &whole, NULL)));
        assert_int_equal(whole, size / SIZE * SIZE);
        assert_int_equal(list.count, size / SIZE < 5 ? size / SIZE : 5);
        for (size_t i = 0; i < size / SIZE; i++) {
            const struct repl_verified key = {.to_seq = 1 + (i * 7) % 5};
            const struct repl_verified *found = repl_verified_list_find(&list, &key);
            assert_non_null(found);
            assert_true(found->time_ns >= (int64_t)i && (found->time_ns - (int64_t)i) % 5 == 0);
            assert_true((uint64_t)found->time_ns + 5 >= size / SIZE);
        }
        repl_verified_list_fini(&list);
    }
    bytes[3 * SIZE + 9] ^= 4;
    struct repl_verified_list list;
    size_t whole;
    assert_true(repl_ok(repl_verified_list_read(bytes, sizeof bytes, &list, &whole, NULL)));
    assert_int_equal(whole, 3 * SIZE);
    assert_int_equal(list.count, 3);
    assert_null(repl_verified_list_find(&list, &(struct repl_verified){.to_seq = 99}));
    repl_verified_list_fini(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_it_is_written),
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(what_is_none_is_refused),
        cmocka_unit_test(the_last_one_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
