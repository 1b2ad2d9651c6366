#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "epoch.h"
#include "unit/expect_abort.h"

#define SECOND INT64_C(1000000000)
#define START  (1000 * SECOND)

static const struct repl_write_counters quiet = {.sectors_written = 40};
static const struct repl_write_counters written = {.sectors_written = 48};

static struct repl_epoch epoch_new(void)
{
    struct repl_epoch epoch;
    repl_epoch_init(&epoch, SECOND, 1, 0);
    return epoch;
}

/* From REST into READING. */
static void round_begin(struct repl_epoch *epoch, int64_t now_ns,
                        const struct repl_write_counters *counters)
{
    struct repl_epoch_action action;
    repl_epoch_tick(epoch, now_ns, &action);
    assert_int_equal(action.type, REPL_EPOCH_SYNC);
    repl_epoch_synced(epoch, now_ns, counters, &action);
    assert_int_equal(action.type, REPL_EPOCH_ROUND);
}

static void point_cut(struct repl_epoch *epoch, int64_t now_ns)
{
    struct repl_epoch_action action;
    round_begin(epoch, now_ns, &quiet);
    repl_epoch_round_done(epoch, now_ns, &quiet, 0, &action);
    assert_int_equal(action.type, REPL_EPOCH_CUT);
    repl_epoch_cut_done(epoch, now_ns);
}

static void a_quiet_round_is_a_point(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    round_begin(&epoch, START, &quiet);
    repl_epoch_tick(&epoch, START + 9 * SECOND, &action);
    assert_int_equal(action.type, REPL_EPOCH_WAIT);
    assert_true(action.until_ns == INT64_MAX);
    repl_epoch_round_done(&epoch, START + 7, &quiet, 4096, &action);
    assert_int_equal(action.type, REPL_EPOCH_CUT);
    assert_true(action.point.seq == 1);
    assert_true(action.point.begin_ns == START && action.point.end_ns == START + 7);
    assert_int_equal(action.point.attempts, 1);
    assert_int_equal(action.point.cut, REPL_CUT_QUIET);
    assert_int_equal(action.point.consistency, REPL_CONSISTENCY_CRASH);
    assert_true(action.point.changed_bytes == 4096);
    repl_epoch_cut_done(&epoch, START + 7);
    assert_true(epoch.next_seq == 2);
    repl_epoch_tick(&epoch, START + 8, &action);
    assert_int_equal(action.type, REPL_EPOCH_WAIT);
    assert_true(action.until_ns == START + 7 + SECOND);
}

static void unmoved_counters_say_unchanged(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    point_cut(&epoch, START);
    repl_epoch_tick(&epoch, START + SECOND, &action);
    repl_epoch_synced(&epoch, START + SECOND, &quiet, &action);
    assert_int_equal(action.type, REPL_EPOCH_UNCHANGED);
    assert_true(action.until_ns == START + SECOND);
    repl_epoch_tick(&epoch, START + 2 * SECOND, &action);
    repl_epoch_synced(&epoch, START + 2 * SECOND, &written, &action);
    assert_int_equal(action.type, REPL_EPOCH_ROUND);
}

static void every_counter_counts(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct repl_epoch epoch = epoch_new();
        struct repl_epoch_action action;
        struct repl_write_counters moved = quiet;
        *(i == 0 ? &moved.sectors_written : &moved.sectors_discarded) += 1;
        round_begin(&epoch, START, &quiet);
        repl_epoch_round_done(&epoch, START + 1, &moved, 0, &action);
        assert_int_equal(action.type, REPL_EPOCH_WAIT);
    }
}

static void a_torn_round_is_tried_again_after_a_pause(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    round_begin(&epoch, START, &quiet);
    assert_true(repl_epoch_stuck_ns(&epoch, START + SECOND) == 0);
    repl_epoch_round_done(&epoch, START + 2 * SECOND, &written, 0, &action);
    assert_int_equal(action.type, REPL_EPOCH_WAIT);
    assert_true(action.until_ns == START + 9 * SECOND); /* 2 s in vain: 6 s and an interval */
    assert_true(repl_epoch_stuck_ns(&epoch, START + 3 * SECOND) == 3 * SECOND);
    round_begin(&epoch, START + 9 * SECOND, &written);
    repl_epoch_round_done(&epoch, START + 10 * SECOND, &written, 0, &action);
    assert_int_equal(action.type, REPL_EPOCH_CUT);
    assert_int_equal(action.point.attempts, 2);
    repl_epoch_cut_done(&epoch, START + 10 * SECOND);
    assert_true(repl_epoch_stuck_ns(&epoch, START + 20 * SECOND) == 0);
}

static void an_empty_cut_keeps_the_number(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    point_cut(&epoch, START);
    round_begin(&epoch, START + SECOND, &written);
    repl_epoch_round_done(&epoch, START + SECOND, &written, 0, &action);
    repl_epoch_cut_empty(&epoch, START + SECOND);
    assert_true(epoch.next_seq == 2 && epoch.at_point);
    repl_epoch_tick(&epoch, START + 2 * SECOND, &action);
    repl_epoch_synced(&epoch, START + 2 * SECOND, &written, &action);
    assert_int_equal(action.type, REPL_EPOCH_UNCHANGED);
}

static void a_failed_round_is_tried_again_after_a_pause(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    round_begin(&epoch, START, &quiet);
    repl_epoch_round_failed(&epoch, START + 1);
    repl_epoch_tick(&epoch, START + 2, &action);
    assert_int_equal(action.type, REPL_EPOCH_WAIT);
    assert_true(action.until_ns == START + 1 + SECOND + 3 && !epoch.at_point);
    /* the longer a dying disk took, the longer it is left alone */
    round_begin(&epoch, START + 2 * SECOND, &quiet);
    repl_epoch_round_failed(&epoch, START + 100 * SECOND);
    repl_epoch_tick(&epoch, START + 101 * SECOND, &action);
    assert_true(action.until_ns == START + (100 + 1 + 3 * 98) * SECOND);
}

static void distrust_compares_at_once_and_says_so(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    point_cut(&epoch, START);
    repl_epoch_distrust(&epoch, START + 1);
    round_begin(&epoch, START + 1, &quiet); /* though the counters have not moved */
    repl_epoch_distrust(&epoch, START + 2); /* while it reads */
    repl_epoch_round_done(&epoch, START + 3, &quiet, 0, &action);
    assert_int_equal(action.point.flags, REPL_POINT_RESYNC);
    repl_epoch_cut_done(&epoch, START + 3);
    assert_false(epoch.resync);
}

static void a_clock_set_back(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    int64_t back = START - 500 * SECOND;
    point_cut(&epoch, START);
    repl_epoch_tick(&epoch, back, &action); /* waits no longer than an interval */
    assert_int_equal(action.type, REPL_EPOCH_WAIT);
    assert_true(action.until_ns == back + SECOND);
    round_begin(&epoch, back + SECOND, &written);
    repl_epoch_round_done(&epoch, back + 2 * SECOND, &written, 0, &action);
    assert_int_equal(action.type, REPL_EPOCH_CUT);
    assert_true(action.point.begin_ns == START && action.point.end_ns == START);
}

static void a_clock_set_forward_within_a_round(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    struct repl_epoch_action action;
    round_begin(&epoch, START, &quiet);
    repl_epoch_round_done(&epoch, START + 86400 * SECOND, &written, 0, &action);
    assert_int_equal(action.type, REPL_EPOCH_WAIT);
    assert_true(action.until_ns <= START + 86400 * SECOND + 901 * SECOND);
}

static void cut_out_of_turn(void *context)
{
    repl_epoch_cut_done(context, START);
}

static void round_out_of_turn(void *context)
{
    struct repl_epoch_action action;
    repl_epoch_round_done(context, START, &quiet, 0, &action);
}

static void synced_out_of_turn(void *context)
{
    struct repl_epoch_action action;
    repl_epoch_synced(context, START, &quiet, &action);
}

static void events_out_of_turn_abort(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    assert_true(aborts(cut_out_of_turn, &epoch));
    assert_true(aborts(round_out_of_turn, &epoch));
    assert_true(aborts(synced_out_of_turn, &epoch));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quiet_round_is_a_point),
        cmocka_unit_test(unmoved_counters_say_unchanged),
        cmocka_unit_test(every_counter_counts),
        cmocka_unit_test(a_torn_round_is_tried_again_after_a_pause),
        cmocka_unit_test(an_empty_cut_keeps_the_number),
        cmocka_unit_test(a_failed_round_is_tried_again_after_a_pause),
        cmocka_unit_test(distrust_compares_at_once_and_says_so),
        cmocka_unit_test(a_clock_set_back),
        cmocka_unit_test(a_clock_set_forward_within_a_round),
        cmocka_unit_test(events_out_of_turn_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
