/*
 * Rounds under a freeze, between commands or from a snapshot.
 */
#include "unit/epoch_calls.h"

static void a_small_round_freezes_and_a_big_one_goes_ahead(void **state)
{
    (void)state;
    static const enum repl_quiesce modes[] = {REPL_QUIESCE_FREEZE, REPL_QUIESCE_COMMAND};
    for (unsigned i = 0; i < 2; i++) {
        for (unsigned tear = 0; tear < 2; tear++) {
            struct repl_epoch epoch = epoch_tracked(modes[i]);
            enum repl_epoch_verdict (*go)(struct repl_epoch *, int64_t, uint64_t, bool) =
                tear ? torn : whole;
            interval_begin(&epoch, START);
            assert_int_equal(go(&epoch, START, 9000, false), REPL_EPOCH_AGAIN);
            assert_int_equal(go(&epoch, START + 10 * SECOND, 10, true), REPL_EPOCH_QUIESCE);
            assert_int_equal(whole(&epoch, START + 11 * SECOND, 1, true), REPL_EPOCH_WHOLE);
            struct repl_point point = point_of(&epoch);
            assert_int_equal(point.cut, i == 0 ? REPL_CUT_FREEZE : REPL_CUT_COMMAND);
            assert_int_equal(point.consistency,
                             i == 0 ? REPL_CONSISTENCY_FILESYSTEM : REPL_CONSISTENCY_APPLICATION);
            assert_int_equal(point.attempts, 3);
        }
    }
}

static void a_snapshot_is_read_from_the_first_round_on(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_SNAPSHOT);
    interval_begin(&epoch, START);
    assert_true(repl_epoch_quiesce_first(&epoch));
    assert_false(repl_epoch_quiesce_first(&epoch)); /* it is by now */
    assert_int_equal(whole(&epoch, START, 9000, false), REPL_EPOCH_WHOLE);
    struct repl_point point = point_of(&epoch);
    assert_int_equal(point.cut, REPL_CUT_SNAPSHOT);
    assert_int_equal(point.consistency, REPL_CONSISTENCY_CRASH);
    repl_epoch_cut_done(&epoch, START + MS);
    /* without one there are windows; what was read live goes ahead */
    interval_begin(&epoch, START + SECOND);
    assert_int_equal(whole(&epoch, START + SECOND, 1, true), REPL_EPOCH_QUIESCE);
    assert_int_equal(repl_epoch_not_quiesced(&epoch, START + SECOND), REPL_EPOCH_AGAIN);
    assert_false(repl_epoch_quiesce_first(&epoch));
    assert_int_equal(whole(&epoch, START + SECOND, 1, true), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_WINDOW);
}

static void a_snapshot_where_there_is_no_window(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT);
    interval_begin(&epoch, START);
    assert_false(repl_epoch_quiesce_first(&epoch));
    assert_int_equal(torn(&epoch, START, 4, true), REPL_EPOCH_AGAIN);
    assert_int_equal(torn(&epoch, START + 500 * MS, 4, true), REPL_EPOCH_QUIESCE);
    assert_int_equal(whole(&epoch, START + 600 * MS, 0, true), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_SNAPSHOT);
    repl_epoch_cut_done(&epoch, START + 601 * MS);
    /* a big round that was torn is not tried again: it is read from a snapshot at once */
    interval_begin(&epoch, START + SECOND);
    assert_int_equal(torn(&epoch, START + SECOND, 9000, false), REPL_EPOCH_QUIESCE);
    assert_int_equal(repl_epoch_not_quiesced(&epoch, START + SECOND), REPL_EPOCH_VAIN);
    assert_false(epoch.quiesced || epoch.no_quiesce);
    interval_begin(&epoch, START + 2 * SECOND);
    assert_int_equal(whole(&epoch, START + 2 * SECOND, 4, true), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_WINDOW);
}

static void only_a_snapshot_comes_first(void **state)
{
    (void)state;
    for (int quiesce = REPL_QUIESCE_WINDOW; quiesce < REPL_QUIESCE_SNAPSHOT; quiesce++) {
        struct repl_epoch epoch = epoch_tracked(quiesce);
        interval_begin(&epoch, START);
        assert_false(repl_epoch_quiesce_first(&epoch));
    }
    struct repl_epoch untracked = epoch_tracked(REPL_QUIESCE_SNAPSHOT);
    untracked.tracked = false;
    interval_begin(&untracked, START);
    assert_false(repl_epoch_quiesce_first(&untracked));
}

static void frozen_nothing_at_all_is_written(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_FREEZE);
    struct repl_write_counters end = back;
    interval_begin(&epoch, START);
    assert_int_equal(whole(&epoch, START, 1, true), REPL_EPOCH_QUIESCE);
    repl_epoch_opened(&epoch, START + MS, &back, 1);
    end.flushes++; /* of an empty cache, or of another partition */
    assert_true(repl_epoch_is_whole(&epoch, &end));
    end.marks++; /* past the filesystem */
    assert_false(repl_epoch_is_whole(&epoch, &end));
    assert_int_equal(repl_epoch_closed(&epoch, START + 2 * MS, &end, true, NULL), REPL_EPOCH_VAIN);
    assert_false(epoch.quiesced);
    assert_true(rests_until(&epoch, START + 2 * MS) == START + 2 * MS + INTERVAL / 4);
}

/* More than is parked had to be written for the freeze: that is no reason to hold it. */
static void a_big_frozen_round_that_is_torn_is_vain(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_FREEZE);
    interval_begin(&epoch, START);
    assert_int_equal(whole(&epoch, START, 1, true), REPL_EPOCH_QUIESCE);
    assert_int_equal(torn(&epoch, START + MS, 9000, false), REPL_EPOCH_VAIN);
}

static void between_commands_it_is_a_window(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_COMMAND);
    struct repl_write_counters end = back;
    interval_begin(&epoch, START);
    assert_int_equal(whole(&epoch, START, 1, true), REPL_EPOCH_QUIESCE);
    assert_int_equal(torn(&epoch, START + MS, 1, true), REPL_EPOCH_AGAIN);
    repl_epoch_opened(&epoch, START + 3 * MS, &back, 1);
    end.marks++;
    assert_int_equal(repl_epoch_closed(&epoch, START + 4 * MS, &end, true, NULL), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_COMMAND);
}

static void commands_are_held_for_a_share_of_the_interval(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_COMMAND);
    interval_begin(&epoch, START);
    assert_int_equal(whole(&epoch, START, 1, true), REPL_EPOCH_QUIESCE);
    assert_int_equal(torn(&epoch, START + 600 * MS, 1, true), REPL_EPOCH_AGAIN);
    assert_int_equal(torn(&epoch, START + 1090 * MS, 1, true), REPL_EPOCH_AGAIN);
    assert_int_equal(torn(&epoch, START + 1100 * MS, 1, true), REPL_EPOCH_VAIN);
}

static void without_a_freeze_there_are_windows(void **state)
{
    (void)state;
    static const enum repl_quiesce modes[] = {REPL_QUIESCE_FREEZE, REPL_QUIESCE_COMMAND};
    for (unsigned i = 0; i < 2; i++) {
        struct repl_epoch epoch = epoch_tracked(modes[i]);
        interval_begin(&epoch, START);
        assert_int_equal(torn(&epoch, START, 1, true), REPL_EPOCH_QUIESCE);
        assert_int_equal(repl_epoch_not_quiesced(&epoch, START + MS), REPL_EPOCH_AGAIN);
        assert_int_equal(torn(&epoch, START + 2 * MS, 1, true), REPL_EPOCH_AGAIN);
        assert_int_equal(whole(&epoch, START + 4 * MS, 1, true), REPL_EPOCH_WHOLE);
        assert_int_equal(point_of(&epoch).cut, REPL_CUT_WINDOW);
        assert_int_equal(point_of(&epoch).consistency, REPL_CONSISTENCY_CRASH);
        repl_epoch_cut_done(&epoch, START + 5 * MS);
        interval_begin(&epoch, START + SECOND); /* it is asked again */
        assert_int_equal(whole(&epoch, START + SECOND, 1, true), REPL_EPOCH_QUIESCE);
    }
}

/* The marks are gone, and what is between the last point and a quiesced one is not. */
static void a_quiesced_round_is_never_unchanged(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_FREEZE);
    interval_begin(&epoch, START);
    whole(&epoch, START, 0, true);
    assert_int_equal(whole(&epoch, START + MS, 0, true), REPL_EPOCH_WHOLE);
    repl_epoch_cut_done(&epoch, START + MS);
    interval_begin(&epoch, START + SECOND);
    assert_true(repl_epoch_is_unchanged(&epoch, &back, 0));
    assert_int_equal(whole(&epoch, START + SECOND, 1, true), REPL_EPOCH_QUIESCE);
    assert_false(repl_epoch_is_unchanged(&epoch, &back, 0));
}

static void a_spoilt_round_is_vain(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_FREEZE);
    interval_begin(&epoch, START);
    whole(&epoch, START, 1, true);
    assert_int_equal(whole(&epoch, START + MS, 1, true), REPL_EPOCH_WHOLE);
    assert_int_equal(repl_epoch_spoilt(&epoch, START + 2 * MS), REPL_EPOCH_VAIN);
    assert_true(rests_until(&epoch, START + 2 * MS) == START + 2 * MS + INTERVAL / 4);
    assert_true(repl_epoch_stuck_ns(&epoch, START + SECOND) > 0 && epoch.next_seq == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_round_freezes_and_a_big_one_goes_ahead),
        cmocka_unit_test(a_snapshot_is_read_from_the_first_round_on),
        cmocka_unit_test(a_snapshot_where_there_is_no_window),
        cmocka_unit_test(only_a_snapshot_comes_first),
        cmocka_unit_test(frozen_nothing_at_all_is_written),
        cmocka_unit_test(a_big_frozen_round_that_is_torn_is_vain),
        cmocka_unit_test(between_commands_it_is_a_window),
        cmocka_unit_test(commands_are_held_for_a_share_of_the_interval),
        cmocka_unit_test(without_a_freeze_there_are_windows),
        cmocka_unit_test(a_quiesced_round_is_never_unchanged),
        cmocka_unit_test(a_spoilt_round_is_vain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
