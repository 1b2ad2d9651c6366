#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>

#include "source/capture/track_bits.h"
#include "source/capture/track_layout.h"
#include "unit/random.h"

#define CAPACITY  (2 * (uint64_t)REPL_TRACK_UNIT_PAGES)
#define PAGES     (CAPACITY - 1000)
#define PRODUCERS 3
#define MARKS     400000

struct fixture {
    uint64_t *words;
    struct repl_track_bits landed, touched, taken;
    struct repl_bitmap into;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->words = calloc(REPL_TRACK_AREAS * (CAPACITY / 64 + CAPACITY / 64 / 512), sizeof *f->words);
    f->landed = repl_track_bits_at(f->words, CAPACITY, REPL_TRACK_LANDED);
    f->touched = repl_track_bits_at(f->words, CAPACITY, REPL_TRACK_TOUCHED_A);
    f->taken = repl_track_bits_at(f->words, CAPACITY, REPL_TRACK_TAKEN);
    *state = f;
    return repl_ok(repl_bitmap_init(&f->into, PAGES, NULL)) ? 0 : 1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    repl_bitmap_fini(&f->into);
    free(f->words);
    free(f);
    return 0;
}

static void the_areas_do_not_overlap(void **state)
{
    struct fixture *f = *state;
    uint64_t area = CAPACITY / 64 + CAPACITY / 64 / 512;
    assert_ptr_equal(f->landed.leaf, f->words);
    assert_ptr_equal(f->landed.summary, f->words + CAPACITY / 64);
    assert_ptr_equal(f->touched.leaf, f->words + area);
    assert_ptr_equal(f->taken.leaf, f->words + 3 * area);
}

static void what_is_moved_is_taken_until_it_is_settled(void **state)
{
    struct fixture *f = *state;
    static const uint64_t pages[] = {0, 63, 64, 511, 512, 32767, 32768, PAGES - 1};
    struct repl_bitmap again, keep;
    assert_true(repl_ok(repl_bitmap_init(&again, PAGES, NULL)));
    assert_true(repl_ok(repl_bitmap_init(&keep, PAGES, NULL)));
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++)
        repl_track_bits_set(&f->landed, pages[i]);
    repl_track_bits_move(&f->landed, &f->taken, &f->into);
    assert_int_equal(f->into.set_count, 8);
    repl_track_bits_move(&f->landed, &f->taken, &again);
    assert_int_equal(again.set_count, 0);
    repl_track_bits_or_into(&f->taken, &again); /* the next agent */
    assert_int_equal(again.set_count, 8);
    repl_bitmap_set(&keep, 64, 1);
    repl_bitmap_set(&keep, 700, 1);
    const struct repl_bitmap *kept = &keep;
    repl_track_bits_add(&f->taken, kept);
    repl_track_bits_retain(&f->taken, &kept, 1);
    repl_bitmap_clear_all(&again);
    repl_track_bits_or_into(&f->taken, &again);
    assert_int_equal(again.set_count, 2);
    assert_true(repl_bitmap_test(&again, 64) && repl_bitmap_test(&again, 700));
    repl_track_bits_clear(&f->taken);
    for (uint64_t i = 0; i < CAPACITY / 64 + CAPACITY / 64 / 512; i++)
        assert_true(f->taken.leaf[i] == 0);
    repl_bitmap_fini(&again);
    repl_bitmap_fini(&keep);
}

static void what_is_past_the_end_stays_for_a_larger_bitmap(void **state)
{
    struct fixture *f = *state;
    repl_track_bits_set(&f->landed, PAGES - 1);
    repl_track_bits_set(&f->landed, PAGES);
    repl_track_bits_move(&f->landed, &f->taken, &f->into);
    assert_int_equal(f->into.set_count, 1);
    assert_true(repl_ok(repl_bitmap_grow(&f->into, CAPACITY, NULL)));
    repl_track_bits_move(&f->landed, &f->taken, &f->into);
    assert_int_equal(f->into.set_count, 2);
    assert_true(repl_bitmap_test(&f->into, PAGES));
}

static void a_lost_summary_is_rebuilt(void **state)
{
    struct fixture *f = *state;
    repl_track_bits_set(&f->landed, 12345);
    f->landed.summary[0] = 0; /* an agent died just here */
    repl_track_bits_move(&f->landed, &f->taken, &f->into);
    assert_int_equal(f->into.set_count, 0);
    repl_track_bits_rebuild(&f->landed);
    repl_track_bits_move(&f->landed, &f->taken, &f->into);
    assert_true(repl_bitmap_test(&f->into, 12345));
}

/* --- no bit is lost -------------------------------------------------------------------------- */

/* Each producer writes a serial to a page of its own range, then marks it; the consumer moves the
 * bits and then reads the serials. At the end it must have read the last serial of every page. */
#define RANGE (PAGES / PRODUCERS)

struct producer {
    const struct repl_track_bits *landed;
    uint64_t *device; /* a serial a page */
    uint64_t first;
    struct random random;
};

static _Atomic unsigned producing;

static void *produce(void *argument)
{
    struct producer *p = argument;
    for (uint64_t serial = 1; serial <= MARKS; serial++) {
        /* few pages, so that bits are taken while they are set */
        uint64_t page = p->first + random_below(&p->random, serial % 16 == 0 ? RANGE : 700);
        __atomic_store_n(&p->device[page], serial, __ATOMIC_RELAXED);
        repl_track_bits_set(p->landed, page);
    }
    producing--;
    return NULL;
}

static void consume(struct fixture *f, const uint64_t *device, uint64_t *copy)
{
    uint64_t first, count;
    repl_track_bits_move(&f->landed, &f->taken, &f->into);
    for (uint64_t at = 0; repl_bitmap_next_run(&f->into, at, 1000, &first, &count);
         at = first + count)
        for (uint64_t page = first; page < first + count; page++)
            copy[page] = __atomic_load_n(&device[page], __ATOMIC_RELAXED);
    repl_bitmap_clear_all(&f->into);
}

static void no_bit_is_lost_between_threads(void **state)
{
    struct fixture *f = *state;
    uint64_t *device = calloc(PAGES, sizeof *device), *copy = calloc(PAGES, sizeof *copy);
    struct random random = random_begin("track_bits", 1);
    struct producer producers[PRODUCERS];
    pthread_t threads[PRODUCERS];
    producing = PRODUCERS;
    for (unsigned i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){&f->landed, device, i * RANGE, {random_next(&random)}};
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }
    while (producing > 0)
        consume(f, device, copy);
    for (unsigned i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    consume(f, device, copy);
    assert_memory_equal(device, copy, PAGES * sizeof *device);
    free(device);
    free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_areas_do_not_overlap, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_moved_is_taken_until_it_is_settled, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_past_the_end_stays_for_a_larger_bitmap, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_lost_summary_is_rebuilt, setup, teardown),
        cmocka_unit_test_setup_teardown(no_bit_is_lost_between_threads, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
