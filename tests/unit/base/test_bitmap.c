#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "unit/expect_abort.h"
#include "unit/random.h"

#define BITS 9000u /* more than a word of the second level */

static void assert_same(const struct repl_bitmap *bitmap, const bool *model, uint64_t count)
{
    uint64_t set = 0;
    for (uint64_t i = 0; i < count; i++) {
        assert_true(repl_bitmap_test(bitmap, i) == model[i]);
        set += model[i];
    }
    assert_true(bitmap->set_count == set);
}

static void assert_next_run(const struct repl_bitmap *bitmap, const bool *model, uint64_t from,
                            uint64_t limit)
{
    uint64_t first = 0, count = 0, expected = from;
    while (expected < bitmap->bit_count && !model[expected])
        expected++;
    bool found = repl_bitmap_next_run(bitmap, from, limit, &first, &count);
    assert_true(found == (expected < bitmap->bit_count));
    if (!found)
        return;
    assert_true(first == expected);
    while (expected < bitmap->bit_count && model[expected] && expected - first < limit)
        expected++;
    assert_true(count == expected - first);
}

static void behaves_as_an_array_of_bools(void **state)
{
    (void)state;
    struct random random = random_begin("bitmap", 1);
    struct repl_bitmap bitmap, other;
    struct repl_error err;
    bool model[BITS] = {false}, other_model[BITS] = {false};
    assert_true(repl_ok(repl_bitmap_init(&bitmap, BITS, &err)));
    assert_true(repl_ok(repl_bitmap_init(&other, BITS, &err)));
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t first = random_below(&random, BITS);
        uint64_t count = random_below(&random, BITS - first + 1);
        if (random_below(&random, 2) == 0)
            count = count % 70;
        bool set = random_below(&random, 2) == 0;
        struct repl_bitmap *target = round % 8 == 0 ? &other : &bitmap;
        (set ? repl_bitmap_set : repl_bitmap_clear)(target, first, count);
        memset((round % 8 == 0 ? other_model : model) + first, set, count);
        if (round % 500 == 250) {
            repl_bitmap_merge(&bitmap, &other);
            for (unsigned i = 0; i < BITS; i++)
                model[i] |= other_model[i];
        }
        if (round % 16 == 0)
            assert_same(&bitmap, model, BITS);
        assert_next_run(&bitmap, model, random_below(&random, BITS + 1),
                        1 + random_below(&random, 200));
    }
    repl_bitmap_clear_all(&bitmap);
    memset(model, 0, sizeof model);
    assert_same(&bitmap, model, BITS);
    repl_bitmap_fini(&bitmap);
    repl_bitmap_fini(&other);
}

static void grows_with_clear_bits(void **state)
{
    (void)state;
    struct repl_bitmap bitmap;
    struct repl_error err;
    bool model[BITS] = {false};
    uint64_t first, count;
    assert_true(repl_ok(repl_bitmap_init(&bitmap, 0, &err)));
    assert_false(repl_bitmap_next_run(&bitmap, 0, 1, &first, &count));
    repl_bitmap_clear_all(&bitmap);
    for (uint64_t size = 1; size < BITS; size += 1 + size / 3) {
        assert_true(repl_ok(repl_bitmap_grow(&bitmap, size, &err)));
        repl_bitmap_set(&bitmap, size - 1, 1);
        model[size - 1] = true;
        assert_same(&bitmap, model, size);
    }
    repl_bitmap_fini(&bitmap);
}

/* A full of 2^26 pages (256 GiB) asks for runs of a frame's length, one after the other: each must
 * cost what it returns, not what the run it lies in is long. This test ends within seconds only
 * if that is so. */
static void short_runs_of_a_long_one_are_cheap(void **state)
{
    (void)state;
    struct repl_bitmap bitmap;
    struct repl_error err;
    const uint64_t bits = UINT64_C(1) << 26;
    assert_true(repl_ok(repl_bitmap_init(&bitmap, bits, &err)));
    repl_bitmap_set(&bitmap, 0, bits);
    uint64_t at = 0, first, count;
    for (; repl_bitmap_next_run(&bitmap, at, 256, &first, &count); at = first + count)
        assert_true(first == at && count == 256);
    assert_true(at == bits);
    repl_bitmap_fini(&bitmap);
}

/* Likewise of a few bits among many. */
static void few_bits_among_many_are_found_soon(void **state)
{
    (void)state;
    struct repl_bitmap bitmap;
    struct repl_error err;
    const uint64_t bits = UINT64_C(1) << 28;
    uint64_t first, count;
    assert_true(repl_ok(repl_bitmap_init(&bitmap, bits, &err)));
    repl_bitmap_set(&bitmap, bits - 70, 3);
    for (unsigned i = 0; i < 5000; i++) {
        assert_true(repl_bitmap_next_run(&bitmap, i, 256, &first, &count));
        assert_true(first == bits - 70 && count == 3);
    }
    assert_false(repl_bitmap_next_run(&bitmap, bits - 67, 256, &first, &count));
    repl_bitmap_fini(&bitmap);
}

static void words_are_set_as_bits_are(void **state)
{
    (void)state;
    struct repl_bitmap bitmap;
    struct repl_error err;
    uint64_t first, count;
    assert_true(repl_ok(repl_bitmap_init(&bitmap, 8192 + 10, &err)));
    repl_bitmap_set_word(&bitmap, 3, 0);
    assert_false(repl_bitmap_next_run(&bitmap, 0, 8, &first, &count));
    repl_bitmap_set_word(&bitmap, 128, 0x3c0);
    repl_bitmap_set_word(&bitmap, 128, 0x180);
    assert_true(bitmap.set_count == 4);
    assert_true(repl_bitmap_next_run(&bitmap, 0, 8, &first, &count));
    assert_true(first == 8192 + 6 && count == 4);
    repl_bitmap_fini(&bitmap);
}

static void set_outside(void *bitmap)
{
    repl_bitmap_set(bitmap, 99, 2);
}

static void set_word_outside(void *bitmap)
{
    repl_bitmap_set_word(bitmap, 1, UINT64_C(1) << 36);
}

static void test_outside(void *bitmap)
{
    (void)repl_bitmap_test(bitmap, 100);
}

static void shrink(void *bitmap)
{
    repl_ignore(repl_bitmap_grow(bitmap, 99, NULL)); /* never returns */
}

static void bounds_are_asserted(void **state)
{
    (void)state;
    struct repl_bitmap bitmap;
    struct repl_error err;
    assert_true(repl_ok(repl_bitmap_init(&bitmap, 100, &err)));
    assert_true(aborts(set_outside, &bitmap));
    assert_true(aborts(set_word_outside, &bitmap));
    assert_true(aborts(test_outside, &bitmap));
    assert_true(aborts(shrink, &bitmap));
    repl_bitmap_fini(&bitmap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behaves_as_an_array_of_bools),
        cmocka_unit_test(grows_with_clear_bits),
        cmocka_unit_test(short_runs_of_a_long_one_are_cheap),
        cmocka_unit_test(few_bits_among_many_are_found_soon),
        cmocka_unit_test(words_are_set_as_bits_are),
        cmocka_unit_test(bounds_are_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
