#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "level.h"
#include "segment/frame.h"
#include "unit/expect_abort.h"
#include "unit/random.h"

#define SECOND INT64_C(1000000000)
#define MIB    (UINT64_C(1) << 20)

/* Two workers that were busy for so many hundredths of a second's time; the link took 5 MiB. */
static struct repl_level_sample sample_of(unsigned busy_percent, uint64_t unsent)
{
    return (struct repl_level_sample){.elapsed_ns = SECOND,
                                      .busy_ns = 2 * SECOND / 100 * busy_percent,
                                      .workers = 2,
                                      .sent_bytes = 5 * MIB,
                                      .unsent_bytes = unsent};
}

static unsigned follow(struct repl_level *level, struct repl_level_sample sample)
{
    repl_level_follow(level, &sample);
    return repl_level_now(level);
}

static struct repl_level raised(void)
{
    struct repl_level level;
    repl_level_init(&level, 0);
    for (unsigned i = 0; i < 100; i++)
        follow(&level, sample_of(10, 100 * MIB));
    assert_int_equal(repl_level_now(&level), 6);
    return level;
}

static void a_full_link_and_idle_workers_raise_it_in_steps(void **state)
{
    (void)state;
    static const unsigned expected[] = {1, 1, 1, 3, 3, 3, 6, 6, 6, 6, 6};
    struct repl_level level;
    repl_level_init(&level, 0);
    assert_int_equal(repl_level_now(&level), 1);
    /* what waited before the first sample is not known */
    for (unsigned i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(follow(&level, sample_of(20, 100 * MIB)), expected[i]);
}

static void it_stays_where_only_one_of_the_two_is_so(void **state)
{
    (void)state;
    const struct repl_level_sample samples[] = {
        sample_of(30, 100 * MIB), /* the workers have something to do */
        sample_of(100, 100 * MIB),
        sample_of(0, 0),       /* nothing waits */
        sample_of(0, 5 * MIB), /* nothing waits for longer than until the next sample */
        {.elapsed_ns = SECOND, .workers = 2, .unsent_bytes = 100 * MIB}, /* nothing was sent */
    };
    for (unsigned i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        struct repl_level level;
        repl_level_init(&level, 0);
        for (unsigned n = 0; n < 100; n++)
            assert_int_equal(follow(&level, samples[i]), 1);
    }
}

/* Two good ones are not enough, however often. */
static void it_wants_them_in_a_row(void **state)
{
    (void)state;
    struct repl_level level;
    repl_level_init(&level, 0);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(follow(&level, sample_of(i % 4 == 0 ? 80 : 10, 100 * MIB)), 1);
}

static void busy_workers_end_it_at_once(void **state)
{
    (void)state;
    struct repl_level level = raised();
    assert_int_equal(follow(&level, sample_of(90, 100 * MIB)), 1);
    /* what the steps themselves may make of a quarter is not busy */
    level = raised();
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(follow(&level, sample_of(57, 100 * MIB)), 6);
    assert_int_equal(follow(&level, sample_of(75, 100 * MIB)), 1);
    /* nor is a burst, if it is over with the sample */
    level = raised();
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(follow(&level, sample_of(i % 3 == 0 ? 80 : 20, 100 * MIB)), 6);
}

static void a_link_with_room_ends_it_at_once(void **state)
{
    (void)state;
    struct repl_level level = raised();
    assert_int_equal(follow(&level, sample_of(10, 4 * MIB)), 1);
    level = raised();
    struct repl_level_sample cut = sample_of(10, 100 * MIB);
    cut.sent_bytes = 0;
    assert_int_equal(follow(&level, cut), 1);
}

/* The workers are too slow for level 3 or 6, at level 1 they have time: it tries ever less often.
 */
static void a_load_at_the_edge_does_not_swing(void **state)
{
    (void)state;
    struct repl_level level;
    unsigned changes = 0, before = 1, later = 0;
    repl_level_init(&level, 0);
    for (unsigned i = 0; i < 3600; i++) {
        unsigned now = follow(&level, sample_of(before > 1 ? 80 : 20, 100 * MIB));
        changes += now != before;
        later += now != before && i >= 1800;
        before = now;
    }
    assert_in_range(changes, 2, 40);
    assert_in_range(later, 2, 12);
    /* and when it has become another load, it comes to its level again */
    for (unsigned i = 0; i < 400; i++)
        follow(&level, sample_of(20, 100 * MIB));
    assert_int_equal(repl_level_now(&level), 6);
}

/* A fall long after the step is the load's doing: it is forgotten soon. */
static void a_burst_now_and_then_costs_little(void **state)
{
    (void)state;
    struct repl_level level = raised();
    unsigned high = 0;
    for (unsigned i = 0; i < 600; i++)
        high += follow(&level, sample_of(i % 60 == 0 ? 100 : 10, 100 * MIB)) == 6;
    assert_true(high >= 600 * 6 / 10);
}

/* Whatever comes: it never goes up sooner than after three samples, and never past the last step;
 * after a sample that speaks against it, it is 1. */
static void whatever_comes_it_is_calm(void **state)
{
    (void)state;
    struct random random = random_begin("level", 1);
    for (unsigned world = 0; world < 200; world++) {
        struct repl_level level;
        unsigned before = 1, since = 0;
        uint64_t most = 1 + random_below(&random, 40);
        repl_level_init(&level, 0);
        for (unsigned i = 0; i < 500; i++) {
            struct repl_level_sample sample = sample_of((unsigned)random_below(&random, 100) / 2,
                                                        random_below(&random, most) * MIB);
            if (random_below(&random, 30) == 0)
                sample.busy_ns = 2 * SECOND;
            unsigned now = follow(&level, sample);
            since++;
            assert_true(now == 1 || now == 3 || now == 6);
            if (now > before) {
                assert_true(since >= 3);
                since = 0;
            } else if (now < before) {
                since = 0;
            }
            if (sample.busy_ns == 2 * SECOND || sample.unsent_bytes <= sample.sent_bytes)
                assert_int_equal(now, 1);
            before = now;
        }
    }
}

static void a_fixed_one_stays(void **state)
{
    (void)state;
    for (unsigned fixed = 1; fixed <= REPL_FRAME_LEVEL_MAX; fixed++) {
        struct repl_level level;
        repl_level_init(&level, fixed);
        for (unsigned i = 0; i < 30; i++)
            assert_int_equal(follow(&level, sample_of(i % 2 == 0 ? 100 : 0, 100 * MIB)), fixed);
    }
}

static void init_beyond(void *context)
{
    (void)context;
    struct repl_level level;
    repl_level_init(&level, REPL_FRAME_LEVEL_MAX + 1);
}

static void bounds_are_asserted(void **state)
{
    (void)state;
    assert_true(aborts(init_beyond, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_link_and_idle_workers_raise_it_in_steps),
        cmocka_unit_test(it_stays_where_only_one_of_the_two_is_so),
        cmocka_unit_test(it_wants_them_in_a_row),
        cmocka_unit_test(busy_workers_end_it_at_once),
        cmocka_unit_test(a_link_with_room_ends_it_at_once),
        cmocka_unit_test(a_load_at_the_edge_does_not_swing),
        cmocka_unit_test(a_burst_now_and_then_costs_little),
        cmocka_unit_test(whatever_comes_it_is_calm),
        cmocka_unit_test(a_fixed_one_stays),
        cmocka_unit_test(bounds_are_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
