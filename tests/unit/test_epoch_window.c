/*
 * Rounds between write barriers: which are a point, how long they are tried for, and points that
 * are cut per file where no round is one.
 */
#include "unit/epoch_calls.h"

/* --- windows --------------------------------------------------------------------------------- */

static void with_a_write_back_cache_only_barriers_tear(void **state)
{
    (void)state;
    struct repl_write_counters end = back;
    end.sectors_written += 800;
    end.sectors_discarded += 8;
    end.marks += 100;
    assert_int_equal(closed_with(&back, &end), REPL_EPOCH_WHOLE);
    end = back;
    end.flushes++;
    assert_int_equal(closed_with(&back, &end), REPL_EPOCH_AGAIN);
    end = back;
    end.fua_writes++;
    assert_int_equal(closed_with(&back, &end), REPL_EPOCH_AGAIN);
}

static void with_a_write_through_cache_each_write_tears(void **state)
{
    (void)state;
    struct repl_write_counters begin = back, end;
    begin.write_back = false;
    end = begin;
    end.flushes++; /* of no use to the disk, and another partition's writes are not ours */
    end.fua_writes++;
    end.sectors_written += 8;
    assert_int_equal(closed_with(&begin, &end), REPL_EPOCH_WHOLE);
    end.marks++;
    assert_int_equal(closed_with(&begin, &end), REPL_EPOCH_AGAIN);
}

static void the_cache_mode_may_change_meanwhile(void **state)
{
    (void)state;
    struct repl_write_counters through = back, end;
    through.write_back = false;
    for (unsigned i = 0; i < 2; i++) {
        const struct repl_write_counters *begin = i == 0 ? &back : &through;
        end = i == 0 ? through : back;
        assert_int_equal(closed_with(begin, &end), REPL_EPOCH_WHOLE);
        end.marks++;
        assert_int_equal(closed_with(begin, &end), REPL_EPOCH_AGAIN);
    }
}

static void a_window_is_a_point(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    struct repl_write_counters end = back;
    end.marks++;
    round_begin(&epoch, START, &back);
    assert_int_equal(repl_epoch_closed(&epoch, START + 5, &end, true, NULL), REPL_EPOCH_WHOLE);
    struct repl_point point = point_of(&epoch);
    assert_int_equal(point.cut, REPL_CUT_WINDOW);
    assert_int_equal(point.consistency, REPL_CONSISTENCY_CRASH);
    assert_true(point.begin_ns == START && point.end_ns == START + 5);
}

static void marked_pages_are_a_change(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    point_cut(&epoch, START);
    interval_begin(&epoch, START + SECOND);
    assert_true(repl_epoch_is_unchanged(&epoch, &quiet, 0));
    assert_false(repl_epoch_is_unchanged(&epoch, &quiet, 1));
    assert_false(repl_epoch_is_unchanged(&epoch, &written, 0)); /* which the audit will tell */
}

static void windows_are_tried_for_a_share_of_the_interval(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    interval_begin(&epoch, START);
    for (int64_t at = 0; at < 490 * MS; at += 10 * MS)
        assert_int_equal(torn(&epoch, START + at, 4, true), REPL_EPOCH_AGAIN);
    assert_int_equal(torn(&epoch, START + 499 * MS, 4, true), REPL_EPOCH_VAIN);
    assert_true(rests_until(&epoch, START + 500 * MS) == START + 500 * MS + INTERVAL / 4);
    assert_true(repl_epoch_stuck_ns(&epoch, START + 10 * SECOND) == 10 * SECOND);
    /* the next time it is tried as long */
    interval_begin(&epoch, START + SECOND);
    assert_int_equal(torn(&epoch, START + SECOND, 4, true), REPL_EPOCH_AGAIN);
    assert_int_equal(whole(&epoch, START + SECOND + 400 * MS, 4, true), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).attempts, 52);
    repl_epoch_cut_done(&epoch, START + 2 * SECOND);
    assert_true(repl_epoch_stuck_ns(&epoch, START + 20 * SECOND) == 0);
}

static void the_tries_end_though_the_clock_stands(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    unsigned tries = 1;
    interval_begin(&epoch, START);
    while (torn(&epoch, START - 100 * SECOND, 1, true) == REPL_EPOCH_AGAIN)
        assert_true(++tries < 100000);
    assert_true(tries > 1000);
}

static void an_interval_without_a_window_is_frozen(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW_ELSE_FREEZE);
    interval_begin(&epoch, START);
    assert_int_equal(torn(&epoch, START, 4, true), REPL_EPOCH_AGAIN);
    assert_int_equal(torn(&epoch, START + 500 * MS, 4, true), REPL_EPOCH_QUIESCE);
    assert_int_equal(whole(&epoch, START + 600 * MS, 0, true), REPL_EPOCH_WHOLE);
    struct repl_point point = point_of(&epoch);
    assert_int_equal(point.cut, REPL_CUT_FREEZE);
    assert_int_equal(point.consistency, REPL_CONSISTENCY_FILESYSTEM);
    repl_epoch_cut_done(&epoch, START + 601 * MS);
    /* the next interval begins with windows again */
    interval_begin(&epoch, START + SECOND);
    assert_int_equal(whole(&epoch, START + SECOND, 4, true), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_WINDOW);
}

static void neither_window_nor_freeze_is_vain(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW_ELSE_FREEZE);
    interval_begin(&epoch, START);
    torn(&epoch, START, 4, true);
    assert_int_equal(torn(&epoch, START + 500 * MS, 4, true), REPL_EPOCH_QUIESCE);
    assert_int_equal(repl_epoch_not_quiesced(&epoch, START + 600 * MS), REPL_EPOCH_VAIN);
    assert_true(rests_until(&epoch, START + 600 * MS) == START + 600 * MS + INTERVAL / 4);
    assert_false(epoch.quiesced || epoch.no_quiesce);
}

/* --- pre-copy -------------------------------------------------------------------------------- */

static void big_rounds_go_on_while_they_find_less(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    int64_t now_ns = START;
    interval_begin(&epoch, now_ns);
    for (uint64_t pages = 1 << 20; pages > 1000; pages /= 2) {
        assert_int_equal(torn(&epoch, now_ns, pages, false), REPL_EPOCH_AGAIN);
        now_ns += 3600 * SECOND; /* however long it takes */
        assert_true(repl_epoch_stuck_ns(&epoch, now_ns) == 0);
    }
    assert_int_equal(whole(&epoch, now_ns, 10, true), REPL_EPOCH_WHOLE);
    assert_true(point_of(&epoch).begin_ns == now_ns);
}

static void a_big_round_may_be_whole(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    interval_begin(&epoch, START);
    assert_int_equal(whole(&epoch, START, 1 << 20, false), REPL_EPOCH_WHOLE);
}

static void rounds_that_find_no_less_are_vain(void **state)
{
    (void)state;
    static const enum repl_quiesce modes[] = {REPL_QUIESCE_WINDOW, REPL_QUIESCE_WINDOW_ELSE_FREEZE,
                                              REPL_QUIESCE_FREEZE};
    for (unsigned i = 0; i < 3; i++) {
        struct repl_epoch epoch = epoch_tracked(modes[i]);
        unsigned rounds = 1;
        int64_t now_ns = START;
        interval_begin(&epoch, now_ns);
        while (torn(&epoch, now_ns, 9000, false) == REPL_EPOCH_AGAIN) {
            assert_true(++rounds < 100);
            now_ns += SECOND;
        }
        assert_true(rounds > 2 && rounds < 10);
        assert_true(rests_until(&epoch, now_ns) == now_ns + MS + INTERVAL / 4);
        assert_true(repl_epoch_stuck_ns(&epoch, now_ns + SECOND) > 0);
    }
}

/* --- per file -------------------------------------------------------------------------------- */

/* A round that is cut per file, in which so many files were written to while they were read. */
static enum repl_epoch_verdict unstable(struct repl_epoch *epoch, int64_t now_ns, uint64_t files)
{
    struct repl_write_counters end = back;
    end.flushes++;
    end.marks++;
    end.unstable = files;
    repl_epoch_opened(epoch, now_ns, &back, 4);
    return repl_epoch_closed(epoch, now_ns + MS, &end, true, NULL);
}

/* Up to where the rounds are cut per file. */
static struct repl_epoch epoch_without_window(void)
{
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW_ELSE_FILES);
    interval_begin(&epoch, START);
    assert_int_equal(torn(&epoch, START, 4, true), REPL_EPOCH_AGAIN);
    assert_false(epoch.files);
    assert_int_equal(torn(&epoch, START + 500 * MS, 4, true), REPL_EPOCH_AGAIN);
    assert_true(epoch.files);
    return epoch;
}

static void an_interval_without_a_window_is_cut_per_file(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_without_window();
    assert_int_equal(unstable(&epoch, START + 600 * MS, 3), REPL_EPOCH_AGAIN);
    assert_int_equal(unstable(&epoch, START + 610 * MS, 1), REPL_EPOCH_AGAIN);
    assert_int_equal(unstable(&epoch, START + 620 * MS, 0), REPL_EPOCH_WHOLE);
    struct repl_point point = point_of(&epoch);
    assert_int_equal(point.consistency, REPL_CONSISTENCY_PER_FILE);
    assert_int_equal(point.cut, REPL_CUT_FILES);
    assert_true(point.begin_ns == START + 600 * MS && point.end_ns == START + 621 * MS);
    assert_int_equal(point.attempts, 5);
    assert_int_equal(epoch.unstable, 0);
    repl_epoch_cut_done(&epoch, START + 630 * MS);
    /* the next interval begins with windows again, and nothing is known to be as it was */
    interval_begin(&epoch, START + SECOND);
    assert_false(repl_epoch_is_unchanged(&epoch, &back, 0));
    assert_int_equal(whole(&epoch, START + SECOND, 0, true), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_WINDOW);
    assert_true(point_of(&epoch).begin_ns == START + SECOND);
}

static void a_round_in_which_nothing_changed_is_a_window_all_the_same(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_without_window();
    assert_int_equal(unstable(&epoch, START + 600 * MS, 3), REPL_EPOCH_AGAIN);
    assert_int_equal(whole(&epoch, START + 610 * MS, 4, true), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_WINDOW);
    assert_true(point_of(&epoch).begin_ns == START + 610 * MS);
}

static void files_that_are_never_stable_are_taken_in_the_end(void **state)
{
    (void)state;
    for (unsigned clock = 0; clock < 2; clock++) {
        struct repl_epoch epoch = epoch_without_window();
        enum repl_epoch_verdict verdict = REPL_EPOCH_AGAIN;
        int64_t now_ns = START + 600 * MS;
        unsigned rounds = 0;
        for (; verdict == REPL_EPOCH_AGAIN; now_ns += clock * 50 * MS) {
            verdict = unstable(&epoch, now_ns, 2);
            assert_true(++rounds < 100);
        }
        assert_int_equal(verdict, REPL_EPOCH_WHOLE);
        assert_int_equal(rounds, clock ? 6 : 16);
        assert_int_equal(point_of(&epoch).cut, REPL_CUT_FILES);
        assert_int_equal(epoch.unstable, 2);
    }
}

static void what_may_have_been_overlooked_is_no_point(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_without_window();
    enum repl_epoch_verdict verdict = REPL_EPOCH_AGAIN;
    for (unsigned rounds = 0; verdict == REPL_EPOCH_AGAIN; rounds++) { /* however late */
        assert_true(rounds < 16);
        verdict = unstable(&epoch, START + 600 * MS + rounds * SECOND, REPL_UNSTABLE_UNKNOWN);
        assert_true(verdict == REPL_EPOCH_AGAIN || rounds == 15);
    }
    assert_int_equal(verdict, REPL_EPOCH_VAIN);
    assert_false(epoch.files);
}

static void writers_as_fast_as_the_reading_are_cut_per_file(void **state)
{
    (void)state;
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW_ELSE_FILES);
    interval_begin(&epoch, START);
    for (unsigned i = 0; !epoch.files; i++) {
        assert_int_equal(torn(&epoch, START + i * SECOND, 9000, false), REPL_EPOCH_AGAIN);
        assert_true(i < 10);
    }
    assert_int_equal(unstable(&epoch, START + 20 * SECOND, 0), REPL_EPOCH_WHOLE);
    assert_int_equal(point_of(&epoch).cut, REPL_CUT_FILES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_a_write_back_cache_only_barriers_tear),
        cmocka_unit_test(with_a_write_through_cache_each_write_tears),
        cmocka_unit_test(the_cache_mode_may_change_meanwhile),
        cmocka_unit_test(a_window_is_a_point),
        cmocka_unit_test(marked_pages_are_a_change),
        cmocka_unit_test(windows_are_tried_for_a_share_of_the_interval),
        cmocka_unit_test(the_tries_end_though_the_clock_stands),
        cmocka_unit_test(an_interval_without_a_window_is_frozen),
        cmocka_unit_test(neither_window_nor_freeze_is_vain),
        cmocka_unit_test(big_rounds_go_on_while_they_find_less),
        cmocka_unit_test(a_big_round_may_be_whole),
        cmocka_unit_test(rounds_that_find_no_less_are_vain),
        cmocka_unit_test(an_interval_without_a_window_is_cut_per_file),
        cmocka_unit_test(a_round_in_which_nothing_changed_is_a_window_all_the_same),
        cmocka_unit_test(files_that_are_never_stable_are_taken_in_the_end),
        cmocka_unit_test(what_may_have_been_overlooked_is_no_point),
        cmocka_unit_test(writers_as_fast_as_the_reading_are_cut_per_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
