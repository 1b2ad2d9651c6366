/*
 * Rounds that the filesystem is held for, by a freeze or between commands; rounds of a group; and
 * an end in the midst of any.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/pipeline_rig.h"

static void a_frozen_round_is_held(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_FREEZE);
    unsigned quiesces = rig->count[REPL_PIPELINE_QUIESCE];
    assert_true(quiesces == 1 && rig->count[REPL_PIPELINE_RESUME] == 1);
    rig->hold[REPL_PIPELINE_QUIESCE] = rig->hold[REPL_PIPELINE_RESUME] = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_QUIESCE] && rig->p.builder != NULL);
    assert_int_equal(rig->p.hold, REPL_HOLD_ASKED);
    write_page(rig, 4, 77); /* the freeze itself writes */
    let(rig, REPL_PIPELINE_QUIESCE);
    run(rig);
    assert_true(rig->held[REPL_PIPELINE_RESUME] && rig->p.point_count == 1);
    assert_int_equal(rig->p.hold, REPL_HOLD_ENDING);
    write_page(rig, 5, 77); /* the next point's */
    let(rig, REPL_PIPELINE_RESUME);
    run(rig);
    assert_int_equal(rig->p.hold, REPL_HOLD_NONE);
    assert_true(rig->p.point_count == 2);
    assert_int_equal(rig->p.point.cut, REPL_CUT_FREEZE);
    assert_int_equal(rig->p.point.consistency, REPL_CONSISTENCY_FILESYSTEM);
    assert_true(rig->p.point.changed_bytes == 2 * REPL_PAGE_SIZE && world.marked[5]);
    later(rig, SECOND);
    acknowledge_all(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void a_freeze_that_ended_early_is_no_proof(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_FREEZE);
    rig->broken = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->p.point_count == 1 && rig->p.torn_rounds == 1);
    assert_true(rig->p.round.phase == REPL_ROUND_NONE && rig->p.hold == REPL_HOLD_NONE);
    rig->broken = false;
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

/* The shell says, unasked, that the freeze is over. */
static void a_freeze_may_end_by_itself_at_any_time(void **state)
{
    (void)state;
    static const enum repl_pipeline_action_type steps[] = {
        REPL_PIPELINE_OPEN, REPL_PIPELINE_CLOSE, REPL_PIPELINE_RESUME, REPL_PIPELINE_WAIT};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct rig *rig = rig_tracked(REPL_QUIESCE_FREEZE);
        rig->hold[REPL_PIPELINE_QUIESCE] = true;
        write_page(rig, 3, 77);
        later(rig, SECOND);
        bool reading = steps[i] == REPL_PIPELINE_WAIT;
        if (!reading)
            rig->hold[steps[i]] = true;
        rig->hold_reads = reading;
        write_page(rig, 4, 77);
        let(rig, REPL_PIPELINE_QUIESCE);
        run(rig);
        assert_true(reading ? is_out(rig, 4) : rig->held[steps[i]]);
        repl_pipeline_resumed(&rig->p, false, rig->now_ns);
        run(rig);
        rig->hold_reads = false;
        if (!reading)
            let(rig, steps[i]);
        run(rig);
        assert_true(rig->p.point_count == 1 && rig->p.hold == REPL_HOLD_NONE);
        later(rig, SECOND);
        later(rig, SECOND);
        assert_true(rig->p.point_count == 2);
        acknowledge(rig);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

static void a_freeze_that_fails_is_said(void **state)
{
    (void)state;
    static const enum repl_quiesce modes[] = {REPL_QUIESCE_FREEZE, REPL_QUIESCE_COMMAND};
    for (unsigned i = 0; i < 2; i++) {
        struct rig *rig = rig_tracked(modes[i]);
        unsigned resumes = rig->count[REPL_PIPELINE_RESUME];
        rig->quiesce_fails = true;
        write_page(rig, 3, 77);
        later(rig, SECOND);
        assert_true(rig->p.point_count == 2); /* in a window then */
        assert_int_equal(rig->p.point.cut, REPL_CUT_WINDOW);
        assert_true(rig->count[REPL_PIPELINE_RESUME] == resumes);
        assert_int_equal(report_of(rig).state, REPL_STATE_OK);
        assert_string_equal(report_of(rig).cause, "the filesystem cannot be frozen");
        acknowledge(rig);
        rig->quiesce_fails = false;
        write_page(rig, 3, 78);
        later(rig, SECOND);
        assert_int_equal(rig->p.point.cut, i == 0 ? REPL_CUT_FREEZE : REPL_CUT_COMMAND);
        assert_string_equal(report_of(rig).cause, "");
        rig_free(rig);
    }
}

static void no_window_is_frozen_where_that_is_allowed(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW_ELSE_FREEZE);
    assert_int_equal(rig->count[REPL_PIPELINE_QUIESCE], 0);
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    rig->now_ns += 600 * MS;
    flush();
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_int_equal(rig->count[REPL_PIPELINE_QUIESCE], 1);
    assert_int_equal(rig->p.point.cut, REPL_CUT_FREEZE);
    assert_true(rig->p.point_count == 2);
    rig_free(rig);
}

static void between_commands_a_torn_window_is_tried_again(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_COMMAND);
    unsigned resumes = rig->count[REPL_PIPELINE_RESUME];
    rig->hold[REPL_PIPELINE_QUIESCE] = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    let(rig, REPL_PIPELINE_QUIESCE);
    run(rig);
    flush();
    answer(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->held[REPL_PIPELINE_CLOSE] && rig->p.hold == REPL_HOLD_ON);
    assert_true(rig->count[REPL_PIPELINE_RESUME] == resumes);
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_RESUME] == resumes + 1 && rig->p.point_count == 2);
    assert_int_equal(rig->p.point.consistency, REPL_CONSISTENCY_APPLICATION);
    rig_free(rig);
}

/* What the freeze itself has the filesystem write is more than is parked, and the spool is full. */
static void a_freeze_does_not_wait_for_the_link(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded_as(&(struct setup){
        .tracked = true, .quiesce = REPL_QUIESCE_FREEZE, .spool_limit_bytes = 4000});
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    rig->hold[REPL_PIPELINE_QUIESCE] = true;
    write_page(rig, 0, 77);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_QUIESCE]);
    rig->p.spool_bytes += 4000;
    for (uint64_t page = 0; page < PARKED + 1; page++)
        write_page(rig, page, 78);
    let(rig, REPL_PIPELINE_QUIESCE);
    run(rig);
    assert_true(rig->p.point_count == 2 && rig->p.hold == REPL_HOLD_NONE);
    rig_free(rig);
}

/* --- stopping --------------------------------------------------------------------------------- */

static void stops_with_a_checkpoint(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    write_page(rig, 1, 42);
    later(rig, SECOND);
    acknowledge(rig);
    rig->hold[REPL_PIPELINE_CHECKPOINT] = true;
    repl_pipeline_stop(&rig->p, rig->now_ns);
    run(rig);
    assert_false(repl_pipeline_stopped(&rig->p));
    answer(rig, REPL_PIPELINE_CHECKPOINT);
    run(rig);
    assert_true(repl_pipeline_stopped(&rig->p));
    assert_true(repl_digest_equal(&world.state.checkpoint.digest, &rig->p.ship.head.digest));
    rig_free(rig);
}

static void assert_stops(struct rig *rig)
{
    run(rig);
    acknowledge_all(rig);
    assert_true(repl_pipeline_stopped(&rig->p));
    assert_int_equal(rig->p.hold, REPL_HOLD_NONE);
    assert_true(rig->count[REPL_PIPELINE_RESUME] == rig->count[REPL_PIPELINE_QUIESCE]);
    for (uint64_t page = 0; page < rig->pages; page++)
        assert_false(is_out(rig, page));
    assert_none_lost(rig);
    later(rig, 10 * SECOND);
    assert_true(repl_pipeline_stopped(&rig->p));
}

static void stops_at_any_time(void **state)
{
    (void)state;
    static const enum repl_pipeline_action_type steps[] = {
        REPL_PIPELINE_SYNC,   REPL_PIPELINE_QUIESCE, REPL_PIPELINE_OPEN,   REPL_PIPELINE_CLOSE,
        REPL_PIPELINE_RESUME, REPL_PIPELINE_AUDIT,   REPL_PIPELINE_COMMIT,
    };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        /* second: the step of the round under the freeze */
        for (unsigned second = 0; second < 2; second++) {
            for (unsigned before = 0; before < 2; before++) {
                struct rig *rig = rig_tracked(REPL_QUIESCE_FREEZE);
                rig->hold[second ? REPL_PIPELINE_QUIESCE : steps[i]] = true;
                write_page(rig, 3, 77);
                later(rig, SECOND);
                if (second) {
                    rig->hold[steps[i]] = true;
                    write_page(rig, 4, 77);
                    if (steps[i] != REPL_PIPELINE_QUIESCE)
                        let(rig, REPL_PIPELINE_QUIESCE);
                    run(rig);
                }
                bool held = rig->held[steps[i]];
                assert_true(held || (second && steps[i] == REPL_PIPELINE_SYNC));
                repl_pipeline_stop(&rig->p, rig->now_ns);
                if (before)
                    run(rig);
                let(rig, steps[i]);
                assert_stops(rig);
                rig_free(rig);
            }
        }
    }
}

static void stops_with_batches_out(void **state)
{
    (void)state;
    for (unsigned big = 0; big < 2; big++) {
        for (unsigned reading = 0; reading < 2; reading++) {
            struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
            rig->hold_reads = reading != 0;
            rig->hold_reduced = reading == 0;
            for (uint64_t page = 0; page < (big ? PARKED + 1 : 1); page++)
                write_page(rig, page, 77);
            later(rig, SECOND);
            assert_true(is_out(rig, 0));
            repl_pipeline_stop(&rig->p, rig->now_ns);
            run(rig);
            assert_false(repl_pipeline_stopped(&rig->p));
            rig->hold_reads = rig->hold_reduced = false;
            assert_stops(rig);
            assert_true(repl_bitmap_test(&rig->p.round.dirty, 0) && rig->p.point_count == 1);
            rig_free(rig);
        }
    }
}

static void a_failing_quiesce_stops_too(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_FREEZE);
    rig->hold[REPL_PIPELINE_QUIESCE] = rig->quiesce_fails = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    repl_pipeline_stop(&rig->p, rig->now_ns);
    run(rig);
    assert_false(repl_pipeline_stopped(&rig->p));
    let(rig, REPL_PIPELINE_QUIESCE);
    run(rig);
    assert_true(repl_pipeline_stopped(&rig->p));
    rig_free(rig);
}

/* --- groups ----------------------------------------------------------------------------------- */

static void a_group_cuts_together(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->grouped = true;
    later(rig, SECOND); /* though nothing has changed here */
    assert_true(rig->p.point_count == 2 && rig->p.point.seq == 2);
    assert_int_equal(rig->p.point.flags, REPL_POINT_GROUP);
    assert_true(rig->p.point.changed_bytes == 0);
    struct repl_head empty = acknowledge(rig);
    assert_true(empty.has_point && empty.to_seq == 2);
    rig->grouped = false;
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2 && report_of(rig).seq == 2);
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->p.point_count == 3 && rig->p.point.flags == 0);
    rig_free(rig);
}

static void what_befalls_the_others_befalls_it(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->grouped = rig->others_unproven = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->p.point_count == 1 && rig->p.torn_rounds == 1);
    assert_true(rig->p.round.phase == REPL_ROUND_NONE);
    rig->others_unproven = false;
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    later(rig, SECOND);
    rig->others_torn = true;
    rig->now_ns += SECOND;
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->p.point_count == 1 && rig->p.torn_rounds == 2);
    rig->others_torn = false;
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    assert_int_equal(rig->p.point.flags, REPL_POINT_GROUP);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

/* Nor is it proven to its end what cannot become a point. */
static void what_the_others_spoil_is_not_proven(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->grouped = true;
    rig->hold[REPL_PIPELINE_AUDIT] = true;
    write_seen(rig, 3, 77, SEEN_SUBMITTED); /* there is something to repair */
    write_page(rig, 4, 77);
    later(rig, SECOND);
    assert_int_equal(rig->p.round.phase, REPL_ROUND_PROVING);
    repl_pipeline_commit(&rig->p, false, rig->now_ns);
    run(rig);
    assert_true(rig->p.round.phase == REPL_ROUND_NONE && rig->p.torn_rounds == 1);
    let(rig, REPL_PIPELINE_AUDIT); /* the sample that was on its way */
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_REPAIR] == 0 && rig->p.point_count == 1);
    later(rig, SECOND);
    assert_true(rig->count[REPL_PIPELINE_REPAIR] == 1 && rig->p.point_count == 2);
    acknowledge_all(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void a_volume_of_a_group_may_be_hurried(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    unsigned syncs = rig->count[REPL_PIPELINE_SYNC];
    later(rig, MS);
    assert_true(rig->count[REPL_PIPELINE_SYNC] == syncs);
    repl_pipeline_hurry(&rig->p, rig->now_ns);
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_SYNC] == syncs + 1);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stops_with_a_checkpoint),
        cmocka_unit_test(a_frozen_round_is_held),
        cmocka_unit_test(a_freeze_that_ended_early_is_no_proof),
        cmocka_unit_test(a_freeze_may_end_by_itself_at_any_time),
        cmocka_unit_test(a_freeze_that_fails_is_said),
        cmocka_unit_test(no_window_is_frozen_where_that_is_allowed),
        cmocka_unit_test(between_commands_a_torn_window_is_tried_again),
        cmocka_unit_test(a_freeze_does_not_wait_for_the_link),
        cmocka_unit_test(stops_at_any_time),
        cmocka_unit_test(stops_with_batches_out),
        cmocka_unit_test(a_failing_quiesce_stops_too),
        cmocka_unit_test(a_group_cuts_together),
        cmocka_unit_test(what_befalls_the_others_befalls_it),
        cmocka_unit_test(what_the_others_spoil_is_not_proven),
        cmocka_unit_test(a_volume_of_a_group_may_be_hurried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
