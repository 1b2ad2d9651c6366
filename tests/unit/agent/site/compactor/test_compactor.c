/*
 * A site that gives up points while more of them come: what is kept restores as it was, what is
 * merged is less than what came, files go when their grace is over, a restart at any moment changes
 * nothing, and a clock in doubt gives up nothing.
 */
#include "unit/agent/site/compactor/compactor_world.h"

/* Of so many seconds one point is kept: enough come in them on a slow machine too. */
#define POLICY "5s:1h 1h:1d"

/* More points, and a turn of the compactor. */
static void go_on(void)
{
    points_make(12);
    site_compactor_tick(w.site->compactor);
    turns(40);
}

static void points_are_given_up(void **state)
{
    size_t segments, left = SIZE_MAX;
    (void)state;
    begin(POLICY);
    points_make(60);
    assert_int_equal(points_check(&segments), 61);
    hurry();
    int64_t until_ns = repl_now_mono_ns() + LIMIT_NS;
    for (unsigned rounds = 1; left > w.head.to_seq / 2; rounds++) {
        go_on();
        if (rounds % 4 == 0 && log_size() <= w.head.to_seq * 100)
            left = points_check(&segments);
        assert_true(repl_now_mono_ns() < until_ns);
    }
    PUMP_UNTIL(&w, !site_compactor_is_busy(w.site->compactor));
    left = points_check(&segments);
    print_message("%llu points came, %zu are left in %zu segments\n",
                  (unsigned long long)w.head.to_seq, left, segments);
    expect_stored(&w);
    site_restart(&w);
    expect_stored(&w);
    assert_int_equal(points_check(&segments), left);
    points_make(2);
    points_check(&segments);
    end();
}

static void a_clock_in_doubt_gives_up_nothing(void **state)
{
    size_t segments;
    (void)state;
    begin("1s:1h");
    points_make(40);
    for (unsigned i = 0; i < 10; i++) {
        site_compactor_tick(w.site->compactor);
        turns(20);
    }
    assert_int_equal(points_check(&segments), 41);
    assert_string_not_equal(site_compactor_doubt(w.site->compactor), "");
    site_compactor_confirm_clock(w.site->compactor);
    assert_string_equal(site_compactor_doubt(w.site->compactor), "");
    end();
}

/* While it merges the process ends, again and again, and begins anew. */
static void restarts_in_the_middle(void **state)
{
    size_t segments = 0, left = 0;
    (void)state;
    begin(POLICY);
    points_make(40);
    int64_t until_ns = repl_now_mono_ns() + 2 * LIMIT_NS;
    for (unsigned i = 0; i < 12 || left > w.head.to_seq / 2; i++) {
        hurry();
        points_make(12);
        site_compactor_tick(w.site->compactor);
        turns(i % 12 * 3 * (1 + i / 6)); /* on a slow machine a merge needs longer */
        site_restart(&w);
        if (i % 3 == 2)
            left = points_check(&segments);
        assert_true(repl_now_mono_ns() < until_ns);
    }
    assert_true(files_count() >= segments); /* their grace is not over */
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(points_are_given_up),
        cmocka_unit_test(a_clock_in_doubt_gives_up_nothing),
        cmocka_unit_test(restarts_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
