#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "epoch.h"
#include "unit/expect_abort.h"

#define MS       INT64_C(1000000)
#define SECOND   (1000 * MS)
#define START    (1000 * SECOND)
#define INTERVAL SECOND

static const struct repl_write_counters quiet = {.sectors_written = 40};
static const struct repl_write_counters written = {.sectors_written = 48};

static struct repl_epoch epoch_new(void)
{
    struct repl_epoch epoch;
    repl_epoch_init(&epoch, INTERVAL, REPL_QUIESCE_WINDOW, 1, 0);
    return epoch;
}

static struct repl_epoch epoch_tracked(enum repl_quiesce quiesce)
{
    struct repl_epoch epoch;
    repl_epoch_init(&epoch, INTERVAL, quiesce, 1, 0);
    epoch.tracked = true;
    return epoch;
}

/* From rest to where a round may be opened. */
static void interval_begin(struct repl_epoch *epoch, int64_t now_ns)
{
    int64_t until_ns;
    assert_true(repl_epoch_tick(epoch, now_ns, &until_ns));
    assert_true(until_ns <= now_ns);
    repl_epoch_synced(epoch);
}

static void round_begin(struct repl_epoch *epoch, int64_t now_ns,
                        const struct repl_write_counters *counters)
{
    interval_begin(epoch, now_ns);
    assert_false(repl_epoch_is_unchanged(epoch, counters, 1));
    repl_epoch_opened(epoch, now_ns, counters, 1);
}

static int64_t rests_until(struct repl_epoch *epoch, int64_t now_ns)
{
    int64_t until_ns;
    assert_false(repl_epoch_tick(epoch, now_ns, &until_ns));
    return until_ns;
}

static struct repl_point point_of(const struct repl_epoch *epoch)
{
    struct repl_point point;
    repl_epoch_point(epoch, 4096, &point);
    return point;
}

static void point_cut(struct repl_epoch *epoch, int64_t now_ns)
{
    round_begin(epoch, now_ns, &quiet);
    assert_int_equal(repl_epoch_closed(epoch, now_ns, &quiet, true, NULL), REPL_EPOCH_WHOLE);
    repl_epoch_cut_done(epoch, now_ns);
}

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

/* --- windows --------------------------------------------------------------------------------- */

static const struct repl_write_counters back = {
    .sectors_written = 40, .flushes = 7, .fua_writes = 3, .marks = 90, .write_back = true};

static enum repl_epoch_verdict closed_with(const struct repl_write_counters *begin,
                                           const struct repl_write_counters *end)
{
    struct repl_epoch epoch = epoch_tracked(REPL_QUIESCE_WINDOW);
    round_begin(&epoch, START, begin);
    enum repl_epoch_verdict verdict = repl_epoch_closed(&epoch, START + 1, end, true, NULL);
    assert_true(verdict == REPL_EPOCH_WHOLE || verdict == REPL_EPOCH_AGAIN);
    return verdict;
}

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

/* Opens and closes, a barrier in between. */
static enum repl_epoch_verdict torn(struct repl_epoch *epoch, int64_t now_ns, uint64_t pages,
                                    bool small)
{
    struct repl_write_counters end = back;
    end.flushes++;
    end.marks++;
    repl_epoch_opened(epoch, now_ns, &back, pages);
    return repl_epoch_closed(epoch, now_ns + MS, &end, small, NULL);
}

static enum repl_epoch_verdict whole(struct repl_epoch *epoch, int64_t now_ns, uint64_t pages,
                                     bool small)
{
    repl_epoch_opened(epoch, now_ns, &back, pages);
    return repl_epoch_closed(epoch, now_ns + MS, &back, small, NULL);
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

/* --- quiesced -------------------------------------------------------------------------------- */

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
        cmocka_unit_test(with_a_write_back_cache_only_barriers_tear),
        cmocka_unit_test(with_a_write_through_cache_each_write_tears),
        cmocka_unit_test(the_cache_mode_may_change_meanwhile),
        cmocka_unit_test(a_window_is_a_point),
        cmocka_unit_test(marked_pages_are_a_change),
        cmocka_unit_test(windows_are_tried_for_a_share_of_the_interval),
        cmocka_unit_test(the_tries_end_though_the_clock_stands),
        cmocka_unit_test(an_interval_without_a_window_is_frozen),
        cmocka_unit_test(neither_window_nor_freeze_is_vain),
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
        cmocka_unit_test(big_rounds_go_on_while_they_find_less),
        cmocka_unit_test(a_big_round_may_be_whole),
        cmocka_unit_test(rounds_that_find_no_less_are_vain),
        cmocka_unit_test(an_interval_without_a_window_is_cut_per_file),
        cmocka_unit_test(a_round_in_which_nothing_changed_is_a_window_all_the_same),
        cmocka_unit_test(files_that_are_never_stable_are_taken_in_the_end),
        cmocka_unit_test(what_may_have_been_overlooked_is_no_point),
        cmocka_unit_test(writers_as_fast_as_the_reading_are_cut_per_file),
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
