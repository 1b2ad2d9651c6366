/*
 * A volume without a tracker, from its first point on: what is read, sent and said.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/pipeline_rig.h"

static void seeds_and_follows(void **state)
{
    (void)state;
    struct rig *rig = rig_plain();
    assert_int_equal(report_of(rig).state, REPL_STATE_LINK_DOWN);
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_HELLO] == 1 && rig->p.point_count == 1);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 0);
    assert_int_equal(report_of(rig).state, REPL_STATE_LINK_DOWN); /* nobody has answered */
    welcome(rig, NULL);
    assert_int_equal(report_of(rig).state, REPL_STATE_SEEDING);
    assert_true(rig->send.number == 1 && rig->send.offset == 0);
    assert_true(world.state.sent_count == 1 && world.state.next_seq == 2);
    assert_true(report_of(rig).seq == 0); /* the site does not have it yet */
    struct repl_head first = acknowledge(rig);
    assert_true(first.from_seq == 0 && first.to_seq == 1 && first.has_point && rig->dropped == 1);
    struct repl_report report = report_of(rig);
    assert_int_equal(report.state, REPL_STATE_IDLE);
    assert_true(report.seq == 1 && report.unchanged_until_ns == START);
    later(rig, SECOND);
    assert_true(report_of(rig).unchanged_until_ns == START + SECOND);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 1);
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 2);
    assert_true(rig->p.point.changed_bytes == REPL_PAGE_SIZE && rig->p.point.flags == 0);
    struct repl_head second = acknowledge(rig);
    assert_true(second.from_seq == 1 && second.to_seq == 2);
    write_page(rig, 3, 77); /* the same bytes again */
    later(rig, SECOND);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 2 && report_of(rig).seq == 2);
    assert_true(rig->count[REPL_PIPELINE_AUDIT] == 0 && rig->count[REPL_PIPELINE_SETTLE] == 0);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void the_end_is_held_until_the_state_is_durable(void **state)
{
    (void)state;
    struct rig *rig = rig_plain();
    rig->hold[REPL_PIPELINE_STATE] = true;
    run(rig);
    welcome(rig, NULL);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 1 && rig->held[REPL_PIPELINE_STATE]);
    assert_true(rig->released == 0);
    later(rig, SECOND);
    assert_true(rig->count[REPL_PIPELINE_STATE] == 1 && rig->released == 0);
    answer(rig, REPL_PIPELINE_STATE);
    run(rig);
    assert_true(rig->released == 1);
    rig_free(rig);
}

static void a_page_on_its_way_is_sent_again(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = tracked != 0});
        uint8_t before = world.device[7 * REPL_PAGE_SIZE];
        write_page(rig, 7, 99);
        later(rig, SECOND);
        write_page(rig, 7, before); /* back to what the site had, and does not have for long */
        later(rig, SECOND);
        assert_true(rig->p.point_count == 3);
        acknowledge(rig);
        acknowledge(rig);
        assert_true(rig->p.ship.point_seq == 3);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

static void an_unreadable_device_is_said_and_forgotten(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    world.counters.sectors_written++; /* the same bytes */
    rig->read_fails = true;
    later(rig, SECOND);
    struct repl_report report = report_of(rig);
    assert_int_equal(report.state, REPL_STATE_FAILED);
    assert_string_equal(report.cause, "sector 8 cannot be read");
    assert_true(report.seq == 1 && report.unchanged_until_ns == START);
    rig->read_fails = false;
    later(rig, SECOND); /* The round finds nothing: the error is over all the same. */
    assert_int_equal(report_of(rig).state, REPL_STATE_IDLE);
    rig_free(rig);
}

static void growth_ends_the_part(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    write_page(rig, 2, 60);
    later(rig, SECOND);
    assert_true(rig->held[REPL_PIPELINE_CLOSE] && rig->p.builder != NULL);
    assert_false(repl_pipeline_may_grow(&rig->p)); /* in the middle of a round */
    write_page(rig, 2, 61);
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->p.point_count == 1 && rig->p.builder != NULL);
    assert_true(repl_pipeline_may_grow(&rig->p));
    assert_true(repl_ok(grow(rig, 2 * PAGES)));
    assert_true(rig->p.builder == NULL);
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    struct repl_head part = acknowledge(rig);
    assert_true(!part.has_point && part.part == 0);
    struct repl_head last = acknowledge(rig);
    assert_true(last.has_point && last.part == 1 && last.to_seq == part.to_seq);
    assert_true(world.state.volume_size == 2 * PAGES * REPL_PAGE_SIZE);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void growth_alone_is_a_change(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = tracked != 0});
        rig->settle = REPL_SETTLE_NONE;
        assert_true(repl_ok(grow(rig, 2 * PAGES)));
        later(rig, SECOND);
        assert_true(rig->p.point_count == 2);
        assert_true(acknowledge(rig).has_point);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

static void growth_survives_a_full_disk(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    write_page(rig, 2, 60);
    later(rig, SECOND);
    write_page(rig, 3, 60);
    let(rig, REPL_PIPELINE_CLOSE);
    run(rig);
    assert_true(rig->p.builder != NULL);
    rig->sink_fails = true;
    assert_true(repl_ok(grow(rig, 2 * PAGES)));
    rig->sink_fails = false;
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    assert_true(acknowledge(rig).has_point);
    assert_site_is_device(rig);
    rig_free(rig);
}

static void says_why_there_is_no_point(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->hold[REPL_PIPELINE_CLOSE] = true;
    for (unsigned i = 0; i < 6; i++) {
        write_page(rig, 4, (uint8_t)(100 + i));
        later(rig, SECOND);
        write_page(rig, 5, (uint8_t)(100 + i));
        if (rig->held[REPL_PIPELINE_CLOSE])
            answer(rig, REPL_PIPELINE_CLOSE);
    }
    struct repl_report report = report_of(rig);
    assert_int_equal(report.state, REPL_STATE_NO_WINDOW);
    assert_non_null(strstr(report.cause, "had a write fall into it"));
    assert_true(report.seq == 0 || report.unchanged_until_ns == START);
    struct repl_refusal refusal = {.code = REPL_REFUSAL_FENCED, .text = "lineage 2 owns it"};
    repl_pipeline_refused(&rig->p, &refusal, rig->now_ns);
    report = report_of(rig);
    assert_int_equal(report.state, REPL_STATE_REFUSED);
    assert_string_equal(report.cause, "lineage 2 owns it");
    rig_free(rig);
}

static void hello_says_who_it_is(void **state)
{
    (void)state;
    struct rig *rig = rig_plain();
    struct repl_hello hello;
    repl_pipeline_hello(&rig->p, 5000, START, &hello);
    assert_true(hello.lineage == 1 && hello.volume_size == PAGES * REPL_PAGE_SIZE - 512 &&
                hello.rpo_ms == 5000 && hello.sent_ns == START);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_and_follows),
        cmocka_unit_test(the_end_is_held_until_the_state_is_durable),
        cmocka_unit_test(a_page_on_its_way_is_sent_again),
        cmocka_unit_test(an_unreadable_device_is_said_and_forgotten),
        cmocka_unit_test(growth_ends_the_part),
        cmocka_unit_test(growth_alone_is_a_change),
        cmocka_unit_test(growth_survives_a_full_disk),
        cmocka_unit_test(says_why_there_is_no_point),
        cmocka_unit_test(hello_says_who_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
