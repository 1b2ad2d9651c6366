/*
 * A site that gives up points while more of them come: what is kept restores as it was, what is
 * merged is less than what came, files go when their grace is over, a restart at any moment changes
 * nothing, and a clock in doubt gives up nothing.
 */
#include "unit/agent/site/compactor/compactor_world.h"

static void points_are_given_up(void **state)
{
    size_t segments, left;
    (void)state;
    begin(PERIOD_RETENTION);
    periods_begin();
    points_make(60);
    assert_int_equal(points_check(&segments), 61);
    hurry();
    for (unsigned rounds = 1; rounds <= 12 || log_size() > w.head.to_seq * 100; rounds++) {
        assert_true(rounds < 50); /* the log is written anew by then */
        site_compactor_tick(w.site->compactor);
        points_make(12); /* beside its visit */
        compactor_rest();
        if (rounds % 4 == 0)
            points_check(&segments);
    }
    while (visit_whole("data"))
        ;
    left = points_check(&segments);
    print_message("%llu points came, %zu are left in %zu segments\n",
                  (unsigned long long)w.head.to_seq, left, segments);
    assert_true(left <= w.head.to_seq / 2);
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

enum stage { STAGE_BEGUN, STAGE_READS, STAGE_WRITES, STAGE_WAITS, STAGE_LOGS, STAGE_OVER, STAGES };

/* The visit has come so far, or is over already; there were so many files when it began. */
static bool stage_is_reached(enum stage stage, size_t files)
{
    const struct site_compactor *c = w.site->compactor;
    switch (stage) {
    case STAGE_BEGUN:
        return true;
    case STAGE_READS:
        if (atomic_load(&c->merging))
            return true;
        break;
    case STAGE_WRITES:
        if (files_count() > files)
            return true;
        break;
    case STAGE_WAITS:
        if (c->waits != NULL)
            return true;
        break;
    case STAGE_LOGS:
        if (c->logging)
            return true;
        break;
    default:
        break;
    }
    return !c->out && c->waits == NULL;
}

static void visit_until(enum stage stage)
{
    struct repl_error err;
    size_t files = files_count();
    expect_replica(&w); /* or there is nothing to merge */
    site_compactor_tick(w.site->compactor);
    assert_true(w.site->compactor->out);
    while (!stage_is_reached(stage, files))
        must(repl_loop_once(w.loop, 1, &err), &err);
}

/* While it merges the process ends, again and again, and begins anew. */
static void restarts_in_the_middle(void **state)
{
    size_t segments, left;
    (void)state;
    begin(PERIOD_RETENTION);
    periods_begin();
    points_make(40);
    tick_stop();
    for (unsigned i = 0; i < 2 * STAGES; i++) {
        hurry();
        points_make(12);
        visit_until(i % STAGES);
        site_restart(&w);
        tick_stop();
        if (i % 3 == 2)
            points_check(&segments);
    }
    hurry();
    while (visit_whole("data"))
        ;
    left = points_check(&segments);
    assert_true(left <= w.head.to_seq / 2);
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
