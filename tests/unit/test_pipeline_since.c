/*
 * A point of from now on: which times may stand for it, when the site has it, and that asking for
 * it does not press a volume that cannot be cut just now.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pipeline.h"

#define SECOND INT64_C(1000000000)
#define NOW    (1000 * SECOND)

/* At rest behind point 5, which the site has, and which is known to be the present until until_ns.
 */
static struct repl_pipeline at_rest(int64_t begin_ns, int64_t until_ns)
{
    struct repl_pipeline p = {.unchanged_until_ns = until_ns};
    repl_epoch_init(&p.epoch, 10 * SECOND, REPL_QUIESCE_WINDOW, 6, begin_ns + SECOND);
    p.epoch.at_point = true;
    p.epoch.tracked = true;
    p.epoch.due_ns = until_ns + 10 * SECOND;
    p.site_point = (struct repl_point){.seq = 5, .begin_ns = begin_ns, .end_ns = begin_ns + SECOND};
    p.ship.point_seq = 5;
    p.ship.head.has_point = true;
    p.ship.state = REPL_SHIP_READY;
    return p;
}

static void test_the_time(void **state)
{
    (void)state;
    struct repl_pipeline p = at_rest(NOW - 9 * SECOND, NOW - 8 * SECOND);
    assert_int_equal(repl_pipeline_since(&p, NOW), NOW);
    /* the clock was set back: what is cut before it has caught up seems to be as old as the last */
    p.epoch.last_end_ns = NOW + SECOND;
    assert_int_equal(repl_pipeline_since(&p, NOW), NOW + SECOND + 1);
    /* also while a round is read that was opened before that */
    p.epoch.round_begin_ns = NOW + 2 * SECOND;
    assert_int_equal(repl_pipeline_since(&p, NOW), NOW + 2 * SECOND + 1);
}

static void test_whether_it_is_there(void **state)
{
    (void)state;
    uint64_t unchanged;
    struct repl_pipeline p = at_rest(NOW, NOW);
    p.epoch.at_point = false;
    assert_true(repl_pipeline_has_since(&p, NOW, NOW + SECOND, &unchanged));
    assert_int_equal(unchanged, 0);
    assert_false(repl_pipeline_has_since(&p, NOW + 1, NOW + SECOND, &unchanged));
    assert_int_equal(unchanged, 0);
    p.ship.point_seq = 6; /* of which the times are not known */
    assert_false(repl_pipeline_has_since(&p, NOW - SECOND, NOW + SECOND, &unchanged));
    p = at_rest(NOW, NOW);
    p.site_point.seq = p.ship.point_seq = 0;
    assert_false(repl_pipeline_has_since(&p, NOW - SECOND, NOW + SECOND, &unchanged));
}

static void test_a_volume_at_rest(void **state)
{
    (void)state;
    uint64_t unchanged;
    struct repl_pipeline p = at_rest(NOW - 60 * SECOND, NOW);
    assert_true(repl_pipeline_has_since(&p, NOW, NOW + SECOND, &unchanged));
    assert_int_equal(unchanged, 5);
    assert_false(repl_pipeline_has_since(&p, NOW + 1, NOW + SECOND, &unchanged));
    p.epoch.at_point = false; /* it was touched since */
    assert_false(repl_pipeline_has_since(&p, NOW, NOW + SECOND, &unchanged));
    p.epoch.at_point = true;
    p.ship.head.has_point = false; /* parts of the next one are there already */
    assert_false(repl_pipeline_has_since(&p, NOW, NOW + SECOND, &unchanged));
}

static void test_it_is_hurried(void **state)
{
    (void)state;
    struct repl_pipeline p = at_rest(NOW - 60 * SECOND, NOW);
    assert_true(p.epoch.due_ns > NOW);
    repl_pipeline_want(&p, NOW);
    assert_int_equal(p.epoch.due_ns, NOW);
    /* rounds are torn: it goes on trying at its own pace */
    p = at_rest(NOW - 60 * SECOND, NOW);
    p.epoch.torn = 1;
    repl_pipeline_want(&p, NOW);
    assert_true(p.epoch.due_ns > NOW);
    p.epoch.torn = 0;
    p.epoch.pause_ns = SECOND;
    repl_pipeline_want(&p, NOW);
    assert_true(p.epoch.due_ns > NOW);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_time),
        cmocka_unit_test(test_whether_it_is_there),
        cmocka_unit_test(test_a_volume_at_rest),
        cmocka_unit_test(test_it_is_hurried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
