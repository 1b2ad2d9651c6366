/*
 * The pace of a scrub: in time for everything, even, and never more than it takes; over simulated
 * months.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "journal/scrub_plan.h"
#include "unit/random.h"

#define S_NS     INT64_C(1000000000)
#define DAY_NS   (86400 * S_NS)
#define EVERY_NS (30 * DAY_NS)
#define HOUR_NS  (3600 * S_NS)
#define COUNT    500u

static void what_was_read_longest_ago_comes_first(void **state)
{
    struct repl_scrub_item items[] = {{5, 1, 0}, {3, 1, 1}, {5, 1, 2}, {-4, 1, 3}};
    static const size_t order[] = {3, 1, 0, 2};
    (void)state;
    repl_scrub_sort(items, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(items[i].index, order[i]);
}

static void a_first_copy_is_spread(void **state)
{
    struct repl_scrub_item items[COUNT];
    size_t late;
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        items[i] = (struct repl_scrub_item){.verified_ns = 0, .size_bytes = 1 << 30, .index = i};
    uint64_t rate = repl_scrub_rate(items, COUNT, EVERY_NS, 0, &late);
    double even = (double)COUNT * (1 << 30) / (27 * 86400.0);
    assert_int_equal(late, 0);
    assert_true((double)rate >= even && (double)rate <= even * 1.0001 + 1);
    repl_scrub_rate(items, COUNT, EVERY_NS, 28 * DAY_NS, &late);
    assert_int_equal(late, COUNT);
    assert_int_equal(repl_scrub_rate(items, 0, EVERY_NS, 0, &late), 1);
}

/* Visits once an hour, as a site makes them, each with the credit of the plan. The history is taken
 * in within an hour, grows later, and a week passes in which nothing is read. */
static void nothing_is_unread_for_longer(void **state)
{
    static struct repl_scrub_item items[2 * COUNT];
    struct random random = random_begin("scrub_plan", 11);
    double credit = 0, most = 0;
    size_t count = COUNT;
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        items[i] = (struct repl_scrub_item){.verified_ns = (int64_t)i * S_NS,
                                            .size_bytes = 1 + random_below(&random, 1 << 30)};
    for (int64_t now_ns = HOUR_NS; now_ns < 120 * DAY_NS; now_ns += HOUR_NS) {
        bool away = now_ns > 70 * DAY_NS && now_ns < 77 * DAY_NS;
        size_t late;
        if (now_ns % (6 * HOUR_NS) == 0 && count < 2 * COUNT)
            items[count++] = (struct repl_scrub_item){.verified_ns = now_ns, .size_bytes = 1 << 28};
        if (away)
            continue;
        repl_scrub_sort(items, count);
        if (now_ns < 70 * DAY_NS || now_ns > 80 * DAY_NS)
            assert_true(now_ns - items[0].verified_ns <= EVERY_NS);
        uint64_t rate = repl_scrub_rate(items, count, EVERY_NS, now_ns, &late);
        double read = 0;
        credit += (double)rate * 3600;
        for (size_t i = 0; i < count && (i < late || credit >= (double)items[i].size_bytes); i++) {
            credit -= i < late ? 0 : (double)items[i].size_bytes;
            read += (double)items[i].size_bytes;
            items[i].verified_ns = now_ns;
        }
        if (now_ns < 70 * DAY_NS && read > most)
            most = read;
    }
    /* The largest segment, and what an hour takes of some 400 GiB in 27 days, and some. */
    assert_true(most < 3.0 * (1 << 30));
}

static void times_that_are_believed(void **state)
{
    (void)state;
    assert_int_equal(repl_scrub_verified_ns(0, 50, 100, 1000), 50);
    assert_int_equal(repl_scrub_verified_ns(70, 50, 100, 1000), 70);
    assert_int_equal(repl_scrub_verified_ns(40, 50, 100, 1000), 50);
    assert_int_equal(repl_scrub_verified_ns(2000, 50, 100, 1000), 50); /* a clock was ahead */
    assert_int_equal(repl_scrub_verified_ns(2000, 1500, 100, 1000), 900);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_read_longest_ago_comes_first),
        cmocka_unit_test(a_first_copy_is_spread),
        cmocka_unit_test(nothing_is_unread_for_longer),
        cmocka_unit_test(times_that_are_believed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
