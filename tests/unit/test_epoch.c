/*
 * Rounds and intervals: what is a point without a tracker and in a group, when the next one is due,
 * and that nothing may be said out of turn.
 */
#include "unit/epoch_calls.h"
#include "unit/expect_abort.h"

/* --- without a tracker ----------------------------------------------------------------------- */

static void a_quiet_round_is_a_point(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    round_begin(&epoch, START, &quiet);
    assert_true(rests_until(&epoch, START + 9 * SECOND) == INT64_MAX);
    assert_int_equal(repl_epoch_closed(&epoch, START + 7, &quiet, false, NULL), REPL_EPOCH_WHOLE);
    struct repl_point point = point_of(&epoch);
    assert_true(point.seq == 1 && point.changed_bytes == 4096 && point.flags == 0);
    assert_true(point.begin_ns == START && point.end_ns == START + 7);
    assert_int_equal(point.attempts, 1);
    assert_int_equal(point.cut, REPL_CUT_QUIET);
    assert_int_equal(point.consistency, REPL_CONSISTENCY_CRASH);
    repl_epoch_cut_done(&epoch, START + 7);
    assert_true(epoch.next_seq == 2);
    assert_true(rests_until(&epoch, START + 8) == START + 7 + SECOND);
}

static void unmoved_counters_say_unchanged(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    interval_begin(&epoch, START);
    assert_false(repl_epoch_is_unchanged(&epoch, &quiet, 0)); /* than what? */
    repl_epoch_opened(&epoch, START, &quiet, 9);
    assert_int_equal(repl_epoch_closed(&epoch, START, &quiet, false, NULL), REPL_EPOCH_WHOLE);
    repl_epoch_cut_done(&epoch, START);
    interval_begin(&epoch, START + SECOND);
    assert_true(repl_epoch_is_unchanged(&epoch, &quiet, 9)); /* which nobody tracks */
    assert_false(repl_epoch_is_unchanged(&epoch, &written, 9));
    repl_epoch_unchanged(&epoch, START + SECOND);
    assert_true(rests_until(&epoch, START + SECOND) == START + 2 * SECOND);
    round_begin(&epoch, START + 2 * SECOND, &written);
}

static void every_counter_counts(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct repl_epoch epoch = epoch_new();
        struct repl_write_counters moved = quiet;
        *(i == 0 ? &moved.sectors_written : &moved.sectors_discarded) += 1;
        round_begin(&epoch, START, &quiet);
        assert_true(repl_epoch_is_whole(&epoch, &quiet));
        assert_false(repl_epoch_is_whole(&epoch, &moved));
        assert_int_equal(repl_epoch_closed(&epoch, START + 1, &moved, false, NULL),
                         REPL_EPOCH_VAIN);
    }
}

static void a_torn_round_is_tried_again_after_a_pause(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    round_begin(&epoch, START, &quiet);
    assert_true(repl_epoch_stuck_ns(&epoch, START + SECOND) == 0);
    assert_int_equal(repl_epoch_closed(&epoch, START + 2 * SECOND, &written, false, NULL),
                     REPL_EPOCH_VAIN);
    /* 2 s in vain: 6 s and an interval */
    assert_true(rests_until(&epoch, START + 2 * SECOND) == START + 9 * SECOND);
    assert_true(repl_epoch_stuck_ns(&epoch, START + 3 * SECOND) == 3 * SECOND);
    round_begin(&epoch, START + 9 * SECOND, &written);
    assert_int_equal(repl_epoch_closed(&epoch, START + 10 * SECOND, &written, false, NULL),
                     REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).attempts, 2);
    repl_epoch_cut_done(&epoch, START + 10 * SECOND);
    assert_true(repl_epoch_stuck_ns(&epoch, START + 20 * SECOND) == 0);
    assert_true(rests_until(&epoch, START + 10 * SECOND) == START + 11 * SECOND);
}

static void an_empty_cut_keeps_the_number(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    point_cut(&epoch, START);
    round_begin(&epoch, START + SECOND, &written);
    assert_int_equal(repl_epoch_closed(&epoch, START + SECOND, &written, false, NULL),
                     REPL_EPOCH_WHOLE);
    repl_epoch_cut_empty(&epoch, START + SECOND);
    assert_true(epoch.next_seq == 2 && epoch.at_point);
    interval_begin(&epoch, START + 2 * SECOND);
    assert_true(repl_epoch_is_unchanged(&epoch, &written, 0));
}

static void a_failed_round_is_tried_again_after_a_pause(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    round_begin(&epoch, START, &quiet);
    repl_epoch_round_failed(&epoch, START + 1);
    assert_true(rests_until(&epoch, START + 2) == START + 1 + SECOND + 3 && !epoch.at_point);
    /* the longer a dying disk took, the longer it is left alone */
    round_begin(&epoch, START + 2 * SECOND, &quiet);
    repl_epoch_round_failed(&epoch, START + 100 * SECOND);
    assert_true(rests_until(&epoch, START + 101 * SECOND) == START + (100 + 1 + 3 * 98) * SECOND);
}

static void distrust_compares_at_once_and_says_so(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_new();
    point_cut(&epoch, START);
    repl_epoch_distrust(&epoch, true, START + 1);
    interval_begin(&epoch, START + 1);
    assert_false(repl_epoch_is_unchanged(&epoch, &quiet, 0)); /* though the counters did not move */
    repl_epoch_opened(&epoch, START + 1, &quiet, 0);
    repl_epoch_distrust(&epoch, true, START + 2); /* while it reads */
    assert_int_equal(repl_epoch_closed(&epoch, START + 3, &quiet, false, NULL), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).flags, REPL_POINT_RESYNC);
    repl_epoch_cut_done(&epoch, START + 3);
    assert_false(epoch.resync);
}

static void distrust_of_a_part_is_no_resync(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    point_cut(&epoch, START);
    repl_epoch_distrust(&epoch, false, START + 1);
    interval_begin(&epoch, START + 1);
    assert_false(repl_epoch_is_unchanged(&epoch, &quiet, 0));
    repl_epoch_opened(&epoch, START + 1, &quiet, 0);
    assert_int_equal(repl_epoch_closed(&epoch, START + 2, &quiet, true, NULL), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).flags, 0);
    /* nor does it take back that everything is compared */
    repl_epoch_distrust(&epoch, true, START + 3);
    repl_epoch_distrust(&epoch, false, START + 4);
    assert_int_equal(point_of(&epoch).flags, REPL_POINT_RESYNC);
}

/* Whatever may be configured, without a tracker there is only the quiet round. */
static void nothing_is_quiesced_without_a_tracker(void **state)
{
    (void)state;
    for (int quiesce = REPL_QUIESCE_WINDOW; quiesce <= REPL_QUIESCE_COMMAND; quiesce++) {
        struct repl_epoch epoch;
        repl_epoch_init(&epoch, INTERVAL, quiesce, 1, 0);
        round_begin(&epoch, START, &quiet);
        assert_int_equal(repl_epoch_closed(&epoch, START + 1, &written, true, NULL),
                         REPL_EPOCH_VAIN);
        point_cut(&epoch, START + 3 * SECOND);
    }
}

static void a_group_stands_and_falls_together(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct repl_epoch epoch = epoch_new();
        epoch.tracked = tracked != 0;
        round_begin(&epoch, START, &quiet);
        assert_true(repl_epoch_is_whole(&epoch, &quiet));
        assert_int_equal(repl_epoch_closed(&epoch, START + 1, &quiet, true,
                                           &(struct repl_epoch_group){.small = true}),
                         tracked ? REPL_EPOCH_AGAIN : REPL_EPOCH_VAIN);
    }
}

/* Frozen each as soon as it is ready, they would never be so at the same moment. */
static void a_group_is_quiesced_as_one(void **state)
{
    (void)state;
    struct repl_epoch_group group = {.whole = true, .small = false, .give_up = true};
    static const enum repl_quiesce modes[] = {REPL_QUIESCE_FREEZE, REPL_QUIESCE_COMMAND};
    for (unsigned i = 0; i < 2; i++) {
        struct repl_epoch ready = epoch_tracked(modes[i]), behind = epoch_tracked(modes[i]);
        round_begin(&ready, START, &quiet);
        round_begin(&behind, START, &quiet);
        assert_false(repl_epoch_is_whole(&ready, &quiet)); /* it only goes ahead */
        group.small = false;
        assert_int_equal(repl_epoch_closed(&ready, START + 1, &quiet, true, &group),
                         REPL_EPOCH_AGAIN);
        assert_int_equal(repl_epoch_closed(&behind, START + 1, &quiet, false, &group),
                         REPL_EPOCH_AGAIN);
        repl_epoch_opened(&ready, START + 2, &quiet, 1);
        repl_epoch_opened(&behind, START + 2, &quiet, 1);
        group.small = true;
        assert_int_equal(repl_epoch_closed(&ready, START + 3, &quiet, true, &group),
                         REPL_EPOCH_QUIESCE);
        assert_int_equal(repl_epoch_closed(&behind, START + 3, &quiet, true, &group),
                         REPL_EPOCH_QUIESCE);
    }
}

static void a_group_stops_trying_as_one(void **state)
{
    (void)state;
    for (unsigned freeze = 0; freeze < 2; freeze++) {
        struct repl_epoch epoch =
            epoch_tracked(freeze ? REPL_QUIESCE_WINDOW_ELSE_FREEZE : REPL_QUIESCE_WINDOW);
        struct repl_epoch_group group = {.small = true};
        round_begin(&epoch, START, &quiet);
        assert_false(repl_epoch_gives_up(&epoch, START + INTERVAL / 2 - 1));
        assert_true(repl_epoch_gives_up(&epoch, START + INTERVAL / 2));
        assert_int_equal(repl_epoch_closed(&epoch, START + 1, &quiet, true, &group),
                         REPL_EPOCH_AGAIN);
        group.give_up = true;
        repl_epoch_opened(&epoch, START + 2, &quiet, 1);
        assert_int_equal(repl_epoch_closed(&epoch, START + 3, &quiet, true, &group),
                         freeze ? REPL_EPOCH_QUIESCE : REPL_EPOCH_VAIN);
        if (!freeze)
            continue;
        repl_epoch_quiesce_later(&epoch); /* another one needs a round before */
        repl_epoch_opened(&epoch, START + 4, &quiet, 1);
        group = (struct repl_epoch_group){.whole = true, .small = true};
        assert_int_equal(repl_epoch_closed(&epoch, START + 5, &quiet, true, &group),
                         REPL_EPOCH_WHOLE);
        assert_int_equal(point_of(&epoch).cut, REPL_CUT_WINDOW);
    }
}

/* What the others read takes the time, however long: its own tries have not begun. */
static void beside_a_big_round_a_small_one_is_no_try(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW_ELSE_FREEZE);
    const struct repl_epoch_group group = {.give_up = true};
    round_begin(&epoch, START, &quiet);
    for (int64_t at_ns = START; at_ns < START + 100 * SECOND; at_ns += 10 * SECOND) {
        assert_int_equal(repl_epoch_closed(&epoch, at_ns + 9 * SECOND, &quiet, true, &group),
                         REPL_EPOCH_AGAIN);
        repl_epoch_opened(&epoch, at_ns + 10 * SECOND, &quiet, 1);
    }
    assert_int_equal(epoch.tries, 0);
}

/* --- cadence and clocks ---------------------------------------------------------------------- */

static void intervals_begin_an_interval_apart(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    interval_begin(&epoch, START);
    assert_int_equal(whole(&epoch, START + 100 * MS, 1, true), REPL_EPOCH_WHOLE);
    repl_epoch_cut_done(&epoch, START + 300 * MS);
    assert_true(rests_until(&epoch, START + 300 * MS) == START + SECOND);
    interval_begin(&epoch, START + SECOND);
    repl_epoch_unchanged(&epoch, START + SECOND + 10 * MS);
    assert_true(rests_until(&epoch, START + SECOND + 10 * MS) == START + 2 * SECOND);
    /* one that took longer than an interval is followed by the next at once */
    interval_begin(&epoch, START + 2 * SECOND);
    assert_int_equal(whole(&epoch, START + 2 * SECOND, 1, false), REPL_EPOCH_WHOLE);
    repl_epoch_cut_done(&epoch, START + 5 * SECOND);
    interval_begin(&epoch, START + 5 * SECOND);
}

static void hurry_ends_the_rest(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    point_cut(&epoch, START);
    repl_epoch_hurry(&epoch, START + 10);
    interval_begin(&epoch, START + 10);
    repl_epoch_hurry(&epoch, START + 11); /* it is under way */
    assert_true(rests_until(&epoch, START + 9 * SECOND) == INT64_MAX);
    repl_epoch_opened(&epoch, START + 12, &quiet, 1);
    assert_int_equal(repl_epoch_closed(&epoch, START + 13, &quiet, true, NULL), REPL_EPOCH_WHOLE);
    repl_epoch_cut_done(&epoch, START + 13);
    assert_true(rests_until(&epoch, START + 13) == START + 10 + SECOND);
}

static void hurry_does_not_delay(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    point_cut(&epoch, START);
    repl_epoch_hurry(&epoch, START + 3 * SECOND);
    assert_true(epoch.due_ns == START + SECOND);
}

static void a_clock_set_back(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct repl_epoch epoch = epoch_new();
        int64_t then = START - 500 * SECOND;
        epoch.tracked = tracked != 0;
        point_cut(&epoch, START);
        /* waits no longer than an interval */
        assert_true(rests_until(&epoch, then) == then + SECOND);
        round_begin(&epoch, then + SECOND, &written);
        assert_int_equal(repl_epoch_closed(&epoch, then + 2 * SECOND, &written, true, NULL),
                         REPL_EPOCH_WHOLE);
        struct repl_point point = point_of(&epoch);
        assert_true(point.begin_ns == START && point.end_ns == START);
    }
}

static void a_clock_set_back_within_an_interval(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    interval_begin(&epoch, START);
    repl_epoch_opened(&epoch, START, &back, 1);
    assert_int_equal(repl_epoch_closed(&epoch, START - 500 * SECOND, &back, true, NULL),
                     REPL_EPOCH_WHOLE);
    struct repl_point point = point_of(&epoch);
    assert_true(point.begin_ns == START - 500 * SECOND && point.begin_ns == point.end_ns);
    repl_epoch_cut_done(&epoch, START - 500 * SECOND);
    int64_t until_ns;
    repl_epoch_tick(&epoch, START - 500 * SECOND, &until_ns);
    assert_true(until_ns <= START - 499 * SECOND);
}

static void a_clock_set_forward_within_a_round(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct repl_epoch epoch = epoch_new();
        int64_t then = START + 86400 * SECOND;
        epoch.tracked = tracked != 0;
        round_begin(&epoch, START, &back);
        struct repl_write_counters end = back;
        end.sectors_written++;
        end.flushes++;
        assert_int_equal(repl_epoch_closed(&epoch, then, &end, true, NULL), REPL_EPOCH_VAIN);
        assert_true(rests_until(&epoch, then) <= then + 901 * SECOND);
    }
}

/* --- out of turn ----------------------------------------------------------------------------- */

static void cut_out_of_turn(void *context)
{
    repl_epoch_cut_done(context, START);
}

static void empty_out_of_turn(void *context)
{
    repl_epoch_cut_empty(context, START);
}

static void point_out_of_turn(void *context)
{
    struct repl_point point;
    repl_epoch_point(context, 0, &point);
}

static void opened_out_of_turn(void *context)
{
    repl_epoch_opened(context, START, &quiet, 0);
}

static void closed_out_of_turn(void *context)
{
    repl_epoch_closed(context, START, &quiet, true, NULL);
}

static void unchanged_out_of_turn(void *context)
{
    repl_epoch_unchanged(context, START);
}

static void not_quiesced_out_of_turn(void *context)
{
    repl_epoch_not_quiesced(context, START);
}

static void spoilt_out_of_turn(void *context)
{
    repl_epoch_spoilt(context, START);
}

static void synced_out_of_turn(void *context)
{
    repl_epoch_synced(context);
}

static void events_out_of_turn_abort(void **state)
{
    (void)state;
    static void (*const events[])(void *) = {
        cut_out_of_turn,    empty_out_of_turn,     point_out_of_turn,        opened_out_of_turn,
        closed_out_of_turn, unchanged_out_of_turn, not_quiesced_out_of_turn, spoilt_out_of_turn,
    };
    struct repl_epoch epoch = epoch_new();
    int64_t until_ns;
    for (unsigned syncing = 0; syncing < 2; syncing++) {
        for (size_t i = 0; i < sizeof events / sizeof events[0]; i++)
            assert_true(aborts(events[i], &epoch));
        if (!syncing) {
            assert_true(aborts(synced_out_of_turn, &epoch));
            assert_true(repl_epoch_tick(&epoch, START, &until_ns));
        }
    }
    repl_epoch_synced(&epoch);
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
        cmocka_unit_test(distrust_of_a_part_is_no_resync),
        cmocka_unit_test(nothing_is_quiesced_without_a_tracker),
        cmocka_unit_test(a_group_stands_and_falls_together),
        cmocka_unit_test(a_group_is_quiesced_as_one),
        cmocka_unit_test(a_group_stops_trying_as_one),
        cmocka_unit_test(beside_a_big_round_a_small_one_is_no_try),
        cmocka_unit_test(intervals_begin_an_interval_apart),
        cmocka_unit_test(hurry_ends_the_rest),
        cmocka_unit_test(hurry_does_not_delay),
        cmocka_unit_test(a_clock_set_back),
        cmocka_unit_test(a_clock_set_back_within_an_interval),
        cmocka_unit_test(a_clock_set_forward_within_a_round),
        cmocka_unit_test(events_out_of_turn_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
