/*
 * A full behind the first, as somebody asks for it: it says all there is and needs nothing of what
 * is before it, whatever happens on the way.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/pipeline_rig.h"

/* More pages than one batch takes, and a spool in which two batches are not at once. */
#define MANY  1000u
#define SMALL 1u

static void expect_full(const struct repl_head *head, bool whole)
{
    assert_int_equal(head->from_seq, 0);
    assert_true(head->has_point == whole);
}

/* However many parts it takes. */
static void all_arrives(struct rig *rig)
{
    for (unsigned i = 0; i < 20; i++) {
        acknowledge_all(rig);
        later(rig, SECOND);
    }
    acknowledge_all(rig);
}

static void all_is_said_once(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = tracked ? rig_tracked(REPL_QUIESCE_WINDOW) : rig_seeded();
        later(rig, 10 * SECOND);
        uint64_t points = rig->p.point_count;
        assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
        assert_false(repl_pipeline_send_full(&rig->p, rig->now_ns));
        assert_int_equal(report_of(rig).state, REPL_STATE_SEEDING);
        later(rig, SECOND);
        assert_int_equal(rig->p.point_count, points + 1);
        assert_false(repl_pipeline_send_full(&rig->p, rig->now_ns)); /* it is not there yet */
        struct repl_head head = acknowledge(rig);
        expect_full(&head, true);
        assert_int_equal(report_of(rig).state, REPL_STATE_IDLE);
        assert_site_is_device(rig);
        write_page(rig, 3, 77);
        later(rig, 2 * SECOND);
        struct repl_head behind = acknowledge(rig);
        assert_int_equal(behind.from_seq, head.to_seq);
        assert_int_equal(rig->p.point.changed_bytes, REPL_PAGE_SIZE);
        assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
        rig_free(rig);
    }
}

/* What is read already was compared with what is to be forgotten: that point comes first. */
static void a_round_under_way_ends_first(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    rig->hold_reads = true;
    write_page(rig, 9, 77);
    later(rig, SECOND);
    assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
    rig->hold_reads = false;
    run(rig);
    struct repl_head before = acknowledge(rig);
    assert_true(before.from_seq != 0 && before.has_point);
    later(rig, SECOND);
    struct repl_head head = acknowledge(rig);
    expect_full(&head, true);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void nothing_is_said_before_it_is_forgotten_for_good(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    later(rig, 10 * SECOND);
    rig->hold[REPL_PIPELINE_CHECKPOINT] = true;
    uint64_t points = rig->p.point_count;
    unsigned opened = rig->count[REPL_PIPELINE_OPEN];
    assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
    later(rig, 10 * SECOND);
    assert_true(rig->held[REPL_PIPELINE_CHECKPOINT]);
    assert_int_equal(rig->count[REPL_PIPELINE_OPEN], opened);
    let(rig, REPL_PIPELINE_CHECKPOINT);
    later(rig, SECOND);
    assert_int_equal(rig->p.point_count, points + 1);
    acknowledge_all(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

/* A checkpoint that was begun before does not have it. */
static void a_checkpoint_of_before_does_not_count(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    write_page(rig, 3, 77);
    later(rig, SECOND);
    acknowledge(rig);
    rig->hold[REPL_PIPELINE_CHECKPOINT] = true;
    later(rig, 61 * SECOND);
    assert_true(rig->held[REPL_PIPELINE_CHECKPOINT]);
    assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
    unsigned opened = rig->count[REPL_PIPELINE_OPEN];
    answer(rig, REPL_PIPELINE_CHECKPOINT);
    run(rig);
    assert_true(rig->held[REPL_PIPELINE_CHECKPOINT]); /* another one */
    assert_int_equal(rig->count[REPL_PIPELINE_OPEN], opened);
    let(rig, REPL_PIPELINE_CHECKPOINT);
    later(rig, SECOND);
    acknowledge_all(rig);
    assert_site_is_device(rig);
    rig_free(rig);
}

static struct rig *many_seeded(uint64_t spool_limit_bytes)
{
    struct rig *rig = rig_new(
        &(struct setup){.pages = MANY, .tracked = true, .spool_limit_bytes = spool_limit_bytes});
    run(rig);
    welcome(rig, NULL);
    all_arrives(rig);
    assert_true(rig->p.point_count > 0 && rig->p.segments.oldest == NULL);
    return rig;
}

/* Of a crash in the middle of it the table keeps nothing of before the full: what was said before
 * is said again, whether its first part is asked for at the site or was kept. */
static void a_crash_in_its_midst_loses_nothing(void **state)
{
    (void)state;
    for (unsigned power = 0; power < 2; power++) {
        struct rig *rig = many_seeded(SMALL);
        later(rig, 61 * SECOND);
        assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
        later(rig, SECOND);
        const struct repl_pipeline_segment *first = rig->p.segments.oldest;
        assert_true(first != NULL && first->size > 0 && first->point.seq == 0);
        struct repl_buffer said = {0};
        assert_true(
            repl_ok(repl_buffer_append(&said, first->digests.data, first->digests.size, NULL)));
        site_commits(rig); /* nobody hears of it */
        expect_full(&world.head, false);
        static struct repl_track_record base;
        base = world.base;
        int64_t now_ns = rig->now_ns;
        rig = rig_again(rig, &(struct setup){.pages = MANY,
                                             .tracked = true,
                                             .spool_limit_bytes = SMALL,
                                             .base = power ? NULL : &base});
        rig->now_ns = now_ns;
        if (power)
            table_put_back();
        later(rig, SECOND);
        welcome(rig, &world.head);
        assert_true(rig->p.recovering);
        const struct repl_batch_digest *digests = (const void *)said.data;
        for (size_t i = 0; i < said.size / sizeof *digests; i++)
            repl_pipeline_forget(&rig->p, digests[i].page * REPL_PAGE_SIZE, REPL_PAGE_SIZE);
        repl_buffer_fini(&said);
        repl_pipeline_recovered(&rig->p, rig->now_ns);
        all_arrives(rig);
        expect_full(&world.head, true);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

/* What is taken over of the segment, for the next life. */
struct kept {
    struct repl_ship_segment segment;
    struct repl_point point;
    struct repl_buffer digests;
};

static void keep(const struct rig *rig, const struct repl_pipeline_segment *segment,
                 struct kept *out)
{
    *out = (struct kept){.segment = *repl_ship_find(&rig->p.ship, segment->number),
                         .point = segment->point};
    assert_true(repl_ok(
        repl_buffer_append(&out->digests, segment->digests.data, segment->digests.size, NULL)));
}

/* A point that is not acknowledged yet is taken over with the first part of a full that follows it:
 * what the point said does not count in the full. */
static void what_was_on_its_way_before_it_does_not_count(void **state)
{
    (void)state;
    struct kept kept[2];
    struct rig *rig = many_seeded(PLENTY);
    later(rig, 61 * SECOND);
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    run(rig);
    write_page(rig, MANY - 1, 77);
    later(rig, SECOND);
    keep(rig, rig->p.segments.oldest, &kept[0]);
    assert_true(kept[0].point.seq != 0);
    rig->p.options.spool_limit_bytes = rig->p.spool_bytes + SMALL;
    assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
    later(rig, SECOND);
    keep(rig, rig->p.segments.oldest->next, &kept[1]);
    assert_true(kept[1].segment.from_seq == 0 && !kept[1].segment.has_point);
    static struct repl_track_record base;
    base = world.base;
    int64_t now_ns = rig->now_ns;
    struct repl_head head = world.head;
    rig = rig_again(rig, &(struct setup){.pages = MANY, .tracked = true, .base = &base});
    rig->now_ns = now_ns;
    for (unsigned i = 0; i < 2; i++)
        assert_true(repl_ok(repl_pipeline_adopt(
            &rig->p, &kept[i].segment, i == 0 ? &kept[i].point : NULL, &kept[i].digests, 0, NULL)));
    later(rig, SECOND);
    welcome(rig, &head);
    all_arrives(rig);
    expect_full(&world.head, true);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void what_is_lost_of_it_is_asked_for_again(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    later(rig, 61 * SECOND);
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
    later(rig, SECOND);
    assert_non_null(rig->p.segments.oldest);
    repl_pipeline_spool_lost(&rig->p, rig->p.segments.oldest->number, rig->now_ns);
    write_page(rig, 3, 77);
    run(rig);
    welcome(rig, &world.head);
    all_arrives(rig);
    expect_full(&world.head, true);
    assert_site_is_device(rig);
    rig_free(rig);
}

/* The site turns out to have parts of an increment whose end it does not have. What was to be in
 * the full ends that; then comes the full. */
static void parts_that_turn_up_are_ended_first(void **state)
{
    (void)state;
    struct rig *rig = many_seeded(SMALL);
    later(rig, 61 * SECOND);
    for (uint64_t page = 0; page < MANY; page++)
        write_page(rig, page, (uint8_t)(page % 7 + 90));
    later(rig, SECOND);
    site_commits(rig);
    assert_true(world.head.from_seq != 0 && !world.head.has_point);
    int64_t now_ns = rig->now_ns;
    rig = rig_again(rig, &(struct setup){.pages = MANY, .tracked = true});
    rig->now_ns = now_ns;
    run(rig);
    assert_true(repl_pipeline_send_full(&rig->p, rig->now_ns));
    later(rig, SECOND);
    welcome(rig, &world.head);
    assert_true(rig->p.recovering);
    repl_pipeline_forget(&rig->p, 0, MANY * REPL_PAGE_SIZE);
    repl_pipeline_recovered(&rig->p, rig->now_ns);
    all_arrives(rig);
    expect_full(&world.head, true);
    assert_site_is_device(rig);
    assert_int_equal(report_of(rig).state, REPL_STATE_IDLE);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_said_once),
        cmocka_unit_test(a_round_under_way_ends_first),
        cmocka_unit_test(nothing_is_said_before_it_is_forgotten_for_good),
        cmocka_unit_test(a_checkpoint_of_before_does_not_count),
        cmocka_unit_test(a_crash_in_its_midst_loses_nothing),
        cmocka_unit_test(what_was_on_its_way_before_it_does_not_count),
        cmocka_unit_test(what_is_lost_of_it_is_asked_for_again),
        cmocka_unit_test(parts_that_turn_up_are_ended_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
