/*
 * A volume with a tracker: only what is marked is read, and no mark is taken on trust.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/pipeline_rig.h"

static void only_what_is_marked_is_read(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->pages_read = 0;
    write_page(rig, 3, 77);
    write_page(rig, 39, 78); /* the last, and a short one */
    later(rig, SECOND);
    assert_true(rig->pages_read == 2 && rig->p.point_count == 2);
    assert_int_equal(rig->p.point.cut, REPL_CUT_WINDOW);
    assert_true(rig->p.point.flags == 0 && rig->p.point.changed_bytes == 2 * REPL_PAGE_SIZE);
    acknowledge(rig);
    assert_site_is_device(rig);
    later(rig, SECOND);
    assert_true(rig->pages_read == 2 && report_of(rig).unchanged_until_ns == rig->now_ns);
    rig_free(rig);
}

static void a_base_goes_on(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    write_page(rig, 1, 70);
    later(rig, SECOND);
    acknowledge(rig);
    stop_and_wait(rig);
    assert_false(world.kept[1]); /* settled as soon as the site had it */
    write_page(rig, 5, 70);      /* while there is no agent */
    world.kept[9] = true;        /* taken by the last one, and not seen through */
    put(rig, 9, 71);
    struct repl_track_record base = world.base;
    rig = rig_again(rig, &(struct setup){.tracked = true, .base = &base});
    run(rig);
    welcome(rig, &world.head);
    later(rig, SECOND);
    assert_true(rig->pages_read == 2 && rig->was_read[5] && rig->was_read[9]);
    assert_true(rig->p.point_count == 1 && rig->p.point.seq == 3 && rig->p.point.flags == 0);
    assert_true(rig->p.point.changed_bytes == 2 * REPL_PAGE_SIZE);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void without_a_base_all_is_read(void **state)
{
    (void)state;
    struct rig *rig = rig_new(&(struct setup){.tracked = true});
    rig->hold[REPL_PIPELINE_AUDIT] = true;
    run(rig);
    welcome(rig, NULL);
    later(rig, 10 * SECOND);
    assert_true(rig->held[REPL_PIPELINE_AUDIT] && rig->count[REPL_PIPELINE_SYNC] == 0);
    assert_int_equal(report_of(rig).state, REPL_STATE_SEEDING);
    let(rig, REPL_PIPELINE_AUDIT);
    rig->hold[REPL_PIPELINE_SYNC] = true;
    run(rig);
    assert_true(rig->held[REPL_PIPELINE_SYNC] && rig->p.round.dirty.set_count == PAGES);
    assert_int_equal(rig->count[REPL_PIPELINE_AUDIT], 3);
    assert_int_equal(rig->settle, REPL_SETTLE_ALL);
    assert_true(world.base.base.completed_known != 0);
    let(rig, REPL_PIPELINE_SYNC);
    run(rig);
    assert_true(rig->pages_read == PAGES && rig->p.point.seq == 1);
    assert_int_equal(rig->p.point.flags, 0); /* there was no point before */
    assert_int_equal(report_of(rig).state, REPL_STATE_SEEDING);
    acknowledge(rig);
    assert_int_equal(report_of(rig).state, REPL_STATE_IDLE);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void a_base_that_is_lost_is_said(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    stop_and_wait(rig);
    write_seen(rig, 5, 70, SEEN_NOT); /* there was no tracker */
    rig = rig_again(rig, &(struct setup){.tracked = true});
    rig->hold[REPL_PIPELINE_OPEN] = true;
    run(rig);
    welcome(rig, &world.head);
    struct repl_report report = report_of(rig);
    assert_int_equal(report.state, REPL_STATE_DEGRADED);
    assert_string_equal(report.cause, "the host was started anew");
    let(rig, REPL_PIPELINE_OPEN);
    run(rig);
    assert_true(rig->pages_read == PAGES && rig->p.point.seq == 2);
    assert_int_equal(rig->p.point.flags, REPL_POINT_RESYNC);
    assert_true(rig->p.point.changed_bytes == REPL_PAGE_SIZE);
    assert_int_equal(report_of(rig).state, REPL_STATE_OK);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void a_parked_round_that_is_torn_is_kept(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    unsigned reduced = rig->reduced;
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    write_page(rig, 3, 77);
    write_page(rig, 5, 77);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_CLOSE] && is_out(rig, 3));
    flush();
    rig->hold[REPL_PIPELINE_OPEN] = true;
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->held[REPL_PIPELINE_OPEN] && is_out(rig, 3) && is_out(rig, 5));
    assert_true(rig->reduced == reduced && rig->p.builder == NULL &&
                rig->p.segments.oldest == NULL);
    assert_true(rig->p.torn_rounds == 1);
    write_page(rig, 3, 78);
    write_page(rig, 4, 77);
    rig->pages_read = 0;
    let(rig, REPL_PIPELINE_OPEN);
    run(rig);
    assert_true(rig->pages_read == 2);
    assert_true(rig->p.point_count == 2 && rig->p.point.attempts == 2);
    assert_true(rig->p.point.changed_bytes == 3 * REPL_PAGE_SIZE);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void a_big_round_that_is_torn_goes_ahead(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    for (uint64_t page = 0; page < PARKED + 4; page++)
        write_page(rig, page, 88);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_CLOSE] && !is_out(rig, 0) && rig->p.builder != NULL);
    write_page(rig, 0, 89);
    flush();
    rig->pages_read = 0;
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->pages_read == 1 && rig->p.point_count == 2);
    assert_true(rig->p.torn_rounds == 0); /* nobody's loss */
    assert_true(rig->p.point.changed_bytes == (PARKED + 5) * REPL_PAGE_SIZE);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void windows_end_with_the_interval(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    rig->now_ns += SECOND;
    flush();
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->p.round.phase == REPL_ROUND_NONE && rig->p.point_count == 1);
    assert_true(repl_bitmap_test(&rig->p.round.dirty, 3));
    assert_true(report_of(rig).unchanged_until_ns == START);
    rig->now_ns += 5 * SECOND;
    assert_int_equal(report_of(rig).state, REPL_STATE_NO_WINDOW);
    assert_non_null(strstr(report_of(rig).cause, "between two write barriers"));
    run(rig);
    assert_true(rig->p.point_count == 2);
    assert_int_equal(report_of(rig).state, REPL_STATE_OK);
    rig_free(rig);
}

static void a_round_is_proven_before_it_is_a_point(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    unsigned settles = rig->count[REPL_PIPELINE_SETTLE];
    rig->hold[REPL_PIPELINE_AUDIT] = rig->hold[REPL_PIPELINE_COMMIT] = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_AUDIT] && !rig->held[REPL_PIPELINE_COMMIT]);
    assert_true(rig->p.point_count == 1);
    let(rig, REPL_PIPELINE_AUDIT);
    run(rig);
    assert_true(rig->held[REPL_PIPELINE_COMMIT] && rig->p.point_count == 1);
    assert_true(rig->count[REPL_PIPELINE_SETTLE] == settles && world.kept[3]);
    let(rig, REPL_PIPELINE_COMMIT);
    run(rig);
    assert_true(rig->p.point_count == 2 && rig->count[REPL_PIPELINE_SETTLE] == settles + 1);
    assert_int_equal(rig->settle, REPL_SETTLE_REST);
    assert_true(world.kept[3]); /* the site does not have it yet */
    acknowledge(rig);
    assert_true(world.kept[3]); /* the state does not say yet that it has */
    write_page(rig, 4, 77);
    later(rig, SECOND);
    acknowledge(rig);
    write_page(rig, 5, 77);
    later(rig, SECOND);
    assert_true(!world.kept[3] && world.kept[4] && world.kept[5]);
    rig_free(rig);
}

static void what_was_overlooked_is_made_good(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    unsigned opens = rig->count[REPL_PIPELINE_OPEN];
    write_page(rig, 8, 66);
    write_seen(rig, 7, 66, SEEN_SUBMITTED);
    later(rig, SECOND);
    assert_true(rig->count[REPL_PIPELINE_REPAIR] == 1);
    assert_true(rig->count[REPL_PIPELINE_OPEN] == opens + 2 && rig->was_read[7]);
    assert_true(rig->p.point_count == 2 && rig->p.point.flags == 0);
    assert_true(rig->p.degradations == 0 && rig->p.torn_rounds == 0);
    assert_true(rig->p.point.changed_bytes == 2 * REPL_PAGE_SIZE);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void what_cannot_be_made_good_is_compared(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->hold[REPL_PIPELINE_SYNC] = true;
    later(rig, SECOND);
    rig->pages_read = 0;
    write_page(rig, 8, 66);
    write_seen(rig, 7, 66, SEEN_NOT);
    answer(rig, REPL_PIPELINE_SYNC);
    run(rig);
    assert_true(rig->p.point_count == 1 && rig->p.degradations == 1);
    assert_int_equal(rig->settle, REPL_SETTLE_ALL);
    struct repl_report report = report_of(rig);
    assert_int_equal(report.state, REPL_STATE_DEGRADED);
    assert_string_equal(report.cause, "completions and submissions were both overlooked");
    later(rig, SECOND);
    assert_true(rig->pages_read == 1);
    let(rig, REPL_PIPELINE_SYNC);
    run(rig);
    assert_true(rig->pages_read == PAGES + 1 && rig->p.point_count == 2);
    assert_int_equal(rig->p.point.flags, REPL_POINT_RESYNC);
    acknowledge(rig);
    assert_site_is_device(rig);
    assert_int_equal(report_of(rig).state, REPL_STATE_IDLE);
    rig_free(rig);
}

/* A tracked volume that is being compared, as completions and submissions were overlooked. */
static struct rig *rig_comparing(void)
{
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->hold[REPL_PIPELINE_SYNC] = true;
    later(rig, SECOND);
    write_page(rig, 8, 66);
    write_seen(rig, 7, 66, SEEN_NOT);
    answer(rig, REPL_PIPELINE_SYNC);
    run(rig);
    assert_true(rig->p.comparing && rig->p.point_count == 1);
    return rig;
}

/* And has been: the point that says so is cut. */
static struct rig *rig_compared(void)
{
    struct rig *rig = rig_comparing();
    later(rig, SECOND);
    let(rig, REPL_PIPELINE_SYNC);
    run(rig);
    assert_true(rig->p.point_count == 2);
    return rig;
}

static struct rig *rig_killed(struct rig *rig)
{
    struct repl_track_record record = world.base;
    rig = rig_again(rig, &(struct setup){.tracked = true, .base = &record});
    run(rig);
    welcome(rig, &world.head);
    if (rig->count[REPL_PIPELINE_RECOVER] > 0) {
        repl_pipeline_recovered(&rig->p, rig->now_ns);
        run(rig);
    }
    return rig;
}

/* Whatever it is that ends it, and whenever: the next point to reach the site says so. */
static void a_comparison_outlives_the_agent(void **state)
{
    (void)state;
    struct rig *rig = rig_comparing();
    struct repl_track_record record = world.base;
    rig = rig_again(rig, &(struct setup){.tracked = true, .base = &record});
    assert_true(rig->p.comparing);
    rig->hold[REPL_PIPELINE_OPEN] = true;
    run(rig);
    welcome(rig, &world.head);
    assert_int_equal(report_of(rig).state, REPL_STATE_DEGRADED);
    assert_non_null(strstr(report_of(rig).cause, "when the agent ended"));
    let(rig, REPL_PIPELINE_OPEN);
    later(rig, SECOND);
    assert_true(rig->p.point_count == 1 && rig->p.point.flags == REPL_POINT_RESYNC);
    assert_false(rig->p.comparing);
    rig = rig_killed(rig); /* the point is cut, and has not reached the site */
    later(rig, SECOND);
    assert_true(rig->p.point_count == 1 && rig->p.point.flags == REPL_POINT_RESYNC);
    acknowledge_all(rig);
    assert_site_is_device(rig);
    assert_true(world.state.resync_seq == 0);
    rig = rig_killed(rig); /* now it has */
    write_page(rig, 3, 5);
    later(rig, SECOND);
    assert_true(rig->p.point_count >= 1 && rig->p.point.flags == 0);
    rig_free(rig);
}

/* The point that ends a comparison is cut, and what it is in is given up: there is no such point.
 */
static void a_comparison_ends_at_the_site(void **state)
{
    (void)state;
    struct rig *rig = rig_compared();
    assert_true(rig->p.point.flags == REPL_POINT_RESYNC && world.state.resync_seq == 2);
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    write_page(rig, 3, 5);
    later(rig, 20 * SECOND);
    assert_int_equal(rig->p.point.flags, 0); /* there are two points now */
    welcome(rig, NULL);                      /* and the site has lost everything */
    later(rig, SECOND);
    assert_true(rig->p.point.flags == REPL_POINT_RESYNC && world.state.resync_seq == 4);
    acknowledge_all(rig);
    assert_true(world.state.resync_seq == 0);
    rig_free(rig);
}

/* Of one that is taken over from the spool, only that can be said which is not in it. */
static void a_comparison_in_the_spool_is_over(void **state)
{
    (void)state;
    for (unsigned again = 0; again < 2; again++) {
        struct rig *rig = rig_compared();
        const struct repl_ship_segment segment =
            *repl_ship_find(&rig->p.ship, rig->p.segments.newest->number);
        struct repl_point point = rig->p.point;
        struct repl_buffer digests = {0};
        const struct repl_buffer *from = &rig->p.segments.newest->digests;
        assert_true(repl_ok(repl_buffer_append(&digests, from->data, from->size, NULL)));
        struct repl_track_record record = world.base;
        rig = rig_again(rig, &(struct setup){.pages = PAGES});
        if (again == 1)
            rig->p.state.resync_seq = 3; /* trust was lost once more, after it was cut */
        assert_true(rig->p.epoch.resync);
        assert_true(repl_ok(repl_pipeline_adopt(&rig->p, &segment, &point, &digests, 0, NULL)));
        assert_true(repl_pipeline_track(&rig->p, &record, "none"));
        assert_int_equal(rig->p.comparing, again == 1);
        assert_int_equal(rig->p.epoch.resync, again == 1);
        rig_free(rig);
    }
}

static void audits_without_a_verdict_tear_the_round(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    unsigned audits = rig->count[REPL_PIPELINE_AUDIT];
    rig->busy = 3 * 20;
    write_page(rig, 8, 66);
    later(rig, SECOND);
    assert_true(rig->count[REPL_PIPELINE_AUDIT] == audits + 3 * 20);
    assert_true(rig->p.point_count == 1 && rig->p.torn_rounds == 1 && rig->p.degradations == 0);
    assert_true(rig->p.round.phase == REPL_ROUND_NONE);
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

/* A worker that takes longer than the rest after a round in vain. */
static void a_round_waits_for_the_batches_of_the_one_before(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    unsigned opens = rig->count[REPL_PIPELINE_OPEN];
    rig->hold_reduced = true;
    rig->busy = 3 * 20;
    write_page(rig, 8, 66);
    later(rig, SECOND);
    assert_true(is_out(rig, 8) && rig->p.torn_rounds == 1);
    later(rig, SECOND);
    assert_true(is_out(rig, 8) && rig->count[REPL_PIPELINE_OPEN] == opens + 1);
    rig->hold_reduced = false;
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_OPEN] == opens + 2 && rig->p.point_count == 2);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void a_busy_device_gets_its_base_in_the_end(void **state)
{
    (void)state;
    struct rig *rig = rig_new(&(struct setup){.tracked = true});
    rig->busy = 500;
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_AUDIT] > 500 && rig->p.point_count == 1);
    assert_true(rig->p.degradations == 0);
    rig_free(rig);
}

/* The audit of a round that came to nothing proves nothing of the next. */
static void a_late_sample_is_not_heard(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->hold[REPL_PIPELINE_AUDIT] = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_AUDIT]);
    repl_pipeline_round_void(&rig->p, rig->now_ns);
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    write_seen(rig, 4, 77, SEEN_SUBMITTED);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_CLOSE]);
    let(rig, REPL_PIPELINE_AUDIT);
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_REPAIR] == 0);
    let(rig, REPL_PIPELINE_CLOSE); /* now it is audited, and without page 4 it is no point */
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_REPAIR] == 1);
    assert_true(rig->p.point_count == 2 && rig->was_read[4]);
    acknowledge_all(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void an_unreadable_page_stays_dirty(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->read_fails = true;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_int_equal(report_of(rig).state, REPL_STATE_FAILED);
    assert_true(repl_bitmap_test(&rig->p.round.dirty, 3) && rig->p.point_count == 1);
    rig->read_fails = false;
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    acknowledge(rig);
    assert_int_equal(report_of(rig).state, REPL_STATE_IDLE);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void growth_is_settled(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->pages_read = 0;
    assert_true(repl_ok(grow(rig, 2 * PAGES)));
    run(rig);
    assert_true(world.kept[PAGES] && world.kept[2 * PAGES - 1]);
    assert_true(world.kept[PAGES - 1] && !world.kept[0]); /* which was a short one */
    later(rig, SECOND);
    assert_true(rig->pages_read == PAGES + 1 && rig->p.point_count == 2);
    acknowledge(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_is_marked_is_read),
        cmocka_unit_test(a_base_goes_on),
        cmocka_unit_test(without_a_base_all_is_read),
        cmocka_unit_test(a_base_that_is_lost_is_said),
        cmocka_unit_test(a_parked_round_that_is_torn_is_kept),
        cmocka_unit_test(a_big_round_that_is_torn_goes_ahead),
        cmocka_unit_test(windows_end_with_the_interval),
        cmocka_unit_test(a_round_is_proven_before_it_is_a_point),
        cmocka_unit_test(what_was_overlooked_is_made_good),
        cmocka_unit_test(what_cannot_be_made_good_is_compared),
        cmocka_unit_test(a_comparison_outlives_the_agent),
        cmocka_unit_test(a_comparison_ends_at_the_site),
        cmocka_unit_test(a_comparison_in_the_spool_is_over),
        cmocka_unit_test(audits_without_a_verdict_tear_the_round),
        cmocka_unit_test(a_round_waits_for_the_batches_of_the_one_before),
        cmocka_unit_test(a_busy_device_gets_its_base_in_the_end),
        cmocka_unit_test(an_unreadable_page_stays_dirty),
        cmocka_unit_test(growth_is_settled),
        cmocka_unit_test(a_late_sample_is_not_heard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
