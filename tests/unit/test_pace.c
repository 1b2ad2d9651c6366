#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pace.h"
#include "unit/random.h"

#define SECOND INT64_C(1000000000)
#define HOUR   3600u

static void the_first_window_that_holds_the_time_rules(void **state)
{
    (void)state;
    const struct repl_pace_plan plan = {.bytes_per_s = 100,
                                        .count = 3,
                                        .windows = {{8 * HOUR, 18 * HOUR, 10},
                                                    {17 * HOUR, 20 * HOUR, 20},
                                                    {22 * HOUR, 6 * HOUR, 0}}};
    assert_int_equal(repl_pace_rate(&plan, 8 * HOUR - 1), 100);
    assert_int_equal(repl_pace_rate(&plan, 8 * HOUR), 10);
    assert_int_equal(repl_pace_rate(&plan, 17 * HOUR), 10);
    assert_int_equal(repl_pace_rate(&plan, 18 * HOUR), 20);
    assert_int_equal(repl_pace_rate(&plan, 20 * HOUR), 100);
    assert_int_equal(repl_pace_rate(&plan, 22 * HOUR), 0);
    assert_int_equal(repl_pace_rate(&plan, REPL_PACE_DAY_S - 1), 0);
    assert_int_equal(repl_pace_rate(&plan, 0), 0);
    assert_int_equal(repl_pace_rate(&plan, 6 * HOUR), 100);
}

static void without_a_limit_everything_goes(void **state)
{
    (void)state;
    struct repl_pace pace = {0};
    int64_t until_ns;
    assert_int_equal(repl_pace_take(&pace, 5, 0, UINT64_MAX, &until_ns), UINT64_MAX);
}

/* Any rate, any pieces, waiting as told or longer: never more than the rate and one burst, and
 * hardly less while there is always something to send. */
static void what_goes_is_the_rate(void **state)
{
    (void)state;
    struct random random = random_begin("pace", 1);
    for (unsigned world = 0; world < 200; world++) {
        uint64_t rate = 1 + random_below(&random, UINT64_C(1) << random_below(&random, 37));
        struct repl_pace pace = {0};
        int64_t begin_ns = (int64_t)random_below(&random, UINT64_C(1) << 50), now_ns = begin_ns;
        uint64_t sent = 0;
        while (now_ns - begin_ns < 20 * SECOND) {
            uint64_t want = 1 + random_below(&random, 1 << 20);
            int64_t until_ns = 0;
            uint64_t got = repl_pace_take(&pace, now_ns, rate, want, &until_ns);
            assert_true(got <= want);
            sent += got;
            if (got == 0) {
                assert_true(until_ns > now_ns);
                now_ns = until_ns + (int64_t)random_below(&random, 1000000);
            } else {
                now_ns += (int64_t)random_below(&random, 100000);
            }
            double seconds = (double)(now_ns - begin_ns) / 1e9;
            assert_true((double)sent <= (double)rate * (seconds + 0.25) + 1);
        }
        if (rate < 1 << 27) /* above, the pieces asked for are less */
            assert_true((double)sent >= 0.9 * (double)rate * 19);
    }
}

static void an_idle_line_saves_nothing_up(void **state)
{
    (void)state;
    struct repl_pace pace = {0};
    int64_t until_ns;
    repl_pace_take(&pace, 0, 1 << 20, UINT64_MAX, &until_ns);
    assert_int_equal(repl_pace_take(&pace, 3600 * SECOND, 1 << 20, UINT64_MAX, &until_ns), 1 << 18);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_window_that_holds_the_time_rules),
        cmocka_unit_test(without_a_limit_everything_goes),
        cmocka_unit_test(what_goes_is_the_rate),
        cmocka_unit_test(an_idle_line_saves_nothing_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
