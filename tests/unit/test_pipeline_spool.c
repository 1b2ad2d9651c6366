/*
 * What the spool, the disk under it or the site has no room for, or has damaged; and chunks that
 * are kept beside a segment because it refers to them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/pipeline_rig.h"
#include "unit/random.h"

static void a_full_disk_gives_up_the_segment(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = tracked != 0});
        rig->sink_fails = true;
        write_page(rig, 1, 50);
        later(rig, SECOND);
        assert_int_equal(report_of(rig).state, REPL_STATE_FAILED);
        assert_true(rig->p.segments.oldest == NULL && rig->dropped == 2);
        assert_true(repl_bitmap_test(&rig->p.round.dirty, 1)); /* as long as it is not sent */
        rig->sink_fails = false;
        later(rig, SECOND);
        assert_true(rig->p.point_count == 2 && rig->send.number == 3);
        acknowledge(rig);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

/* The sink learns of a full disk later than it takes the bytes: segment 3 is written, 4 is not. */
static void a_disk_that_is_full_loses_the_end_of_the_chain(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded_as(&(struct setup){.tracked = true});
    struct repl_error err = {0};
    for (uint8_t i = 0; i < 4; i++) {
        write_page(rig, i, 60 + i);
        later(rig, SECOND);
    }
    assert_true(rig->p.point_count == 5 && rig->p.point.seq == 5 && rig->send.number == 2);
    uint64_t reads = rig->pages_read;
    repl_ignore(repl_fail(&err, REPL_E_NOSPACE, "the disk under [agent] state is full"));
    rig->sink_fails = true;
    repl_pipeline_spool_full(&rig->p, 4, &err, rig->now_ns);
    run(rig);
    assert_true(rig->dropped == 4 || rig->dropped == 5);
    assert_int_equal(rig->count[REPL_PIPELINE_DROP], 3); /* 1 was acknowledged */
    assert_int_equal(rig->p.lost_points, 2);
    assert_int_equal(report_of(rig).state, REPL_STATE_FAILED);
    assert_string_equal(report_of(rig).cause, "the disk under [agent] state is full");
    for (unsigned i = 0; i < 20; i++) {
        write_page(rig, 7, (uint8_t)(90 + i));
        later(rig, SECOND);
    }
    assert_true(rig->pages_read == reads && rig->p.point_count == 5); /* the map only */
    acknowledge(rig);
    acknowledge(rig);
    assert_true(rig->p.ship.point_seq == 3 && rig->p.segments.oldest == NULL);
    rig->sink_fails = false;
    later(rig, SECOND);
    assert_true(rig->p.point.seq == 6 && rig->send.number > 5);
    assert_int_equal(rig->built_points, 3); /* 4 and 5 as times */
    acknowledge(rig);
    assert_site_is_device(rig);
    later(rig, SECOND);
    assert_int_equal(report_of(rig).state, REPL_STATE_IDLE);
    rig_free(rig);
}

static void refuse_damaged(struct rig *rig)
{
    const struct repl_refusal refusal = {.code = REPL_REFUSAL_DAMAGED, .text = "frame 3"};
    repl_pipeline_refused(&rig->p, &refusal, rig->now_ns);
    run(rig);
}

static void greet_again(struct rig *rig, int64_t after_ns)
{
    struct repl_head head = world.head;
    later(rig, after_ns);
    welcome(rig, &head);
}

/* It is there, and says so itself: no network is to blame. What the link is like afterwards is said
 * as ever. */
static void what_the_site_says_is_not_a_link_that_is_down(void **state)
{
    (void)state;
    static const struct {
        struct repl_refusal refusal;
        enum repl_state state;
    } cases[] = {
        {{.code = REPL_REFUSAL_NO_SPACE, .text = "no room"}, REPL_STATE_SITE_FULL},
        {{.code = REPL_REFUSAL_BUSY, .text = "later"}, REPL_STATE_SITE_BUSY},
        {{.code = REPL_REFUSAL_INTERNAL, .text = "see its log"}, REPL_STATE_SITE_ERROR},
    };
    for (unsigned c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = true});
        write_page(rig, 1, 60);
        later(rig, SECOND);
        for (unsigned i = 0; i < 3; i++) {
            repl_pipeline_refused(&rig->p, &cases[c].refusal, rig->now_ns);
            run(rig);
            assert_int_equal(report_of(rig).state, cases[c].state);
            assert_string_equal(report_of(rig).cause, cases[c].refusal.text);
            rig->hold[REPL_PIPELINE_HELLO] = true; /* asked again, and not answered yet */
            later(rig, 11 * SECOND);
            assert_int_equal(report_of(rig).state, cases[c].state);
            if (i == 0) /* to a hello too */
                continue;
            if (i == 1) {
                greet_again(rig, 0);
                continue;
            }
            repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
            assert_int_equal(report_of(rig).state, REPL_STATE_LINK_DOWN);
        }
        greet_again(rig, 11 * SECOND);
        assert_true(report_of(rig).state < REPL_STATE_DEGRADED);
        acknowledge_all(rig);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

/* Twice damaged at the site, and damaged in the spool: sent anew from the device. */
static void what_has_rotted_in_the_spool_is_sent_anew(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = tracked != 0});
        struct repl_error err = {0};
        for (uint8_t i = 0; i < 3; i++) {
            write_page(rig, i, 60 + i);
            later(rig, SECOND);
        }
        assert_int_equal(rig->send.number, 2);
        refuse_damaged(rig);
        assert_int_equal(rig->count[REPL_PIPELINE_CHECK], 0);
        greet_again(rig, SECOND);
        assert_true(rig->send.number == 2 && rig->send.offset == 0);
        refuse_damaged(rig);
        assert_true(rig->count[REPL_PIPELINE_CHECK] == 1 && rig->check.number == 2);
        repl_result rotten = repl_fail(&err, REPL_E_CORRUPT, "frame 3");
        repl_pipeline_checked(&rig->p, 2, rotten, &err, rig->now_ns);
        run(rig);
        assert_int_equal(rig->p.lost_points, 3);
        repl_pipeline_checked(&rig->p, 2, rotten, &err, rig->now_ns); /* nothing more */
        later(rig, SECOND);
        assert_true(rig->p.point.seq == 5 && rig->send.number > 4);
        assert_int_equal(rig->built_points, 4);
        acknowledge(rig);
        assert_site_is_device(rig);
        assert_true(rig->p.ship.head.from_seq == 1 && rig->p.ship.head.to_seq == 5);
        rig_free(rig);
    }
}

static void what_is_whole_in_the_spool_is_the_link_or_the_site(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded_as(&(struct setup){.tracked = true});
    struct repl_error err = {0};
    write_page(rig, 1, 60);
    later(rig, SECOND);
    refuse_damaged(rig);
    greet_again(rig, SECOND);
    for (unsigned i = 1; i < 4; i++) {
        refuse_damaged(rig);
        assert_int_equal(rig->count[REPL_PIPELINE_CHECK], i);
        repl_result busy = repl_fail(&err, REPL_E_NOMEM, "out of memory");
        if (i == 2) { /* says nothing */
            repl_pipeline_checked(&rig->p, 2, busy, &err, rig->now_ns);
            assert_int_equal(report_of(rig).state, REPL_STATE_LINK_DOWN);
        } else {
            repl_pipeline_checked(&rig->p, 2, REPL_SUCCESS, NULL, rig->now_ns);
            assert_int_equal(report_of(rig).state, REPL_STATE_REFUSED);
            assert_non_null(strstr(report_of(rig).cause, "segment 2.0"));
            assert_non_null(strstr(report_of(rig).cause, "check the network path"));
            assert_non_null(strstr(report_of(rig).cause, "frame 3"));
        }
        unsigned hellos = rig->count[REPL_PIPELINE_HELLO];
        later(rig, i == 2 ? SECOND / 10 : 50 * SECOND);
        assert_int_equal(rig->count[REPL_PIPELINE_HELLO], hellos); /* not at once */
        greet_again(rig, 11 * SECOND);
        assert_true(rig->send.number == 2 && rig->send.offset == 0);
    }
    acknowledge(rig);
    assert_int_equal(rig->p.ship.damages, 0);
    assert_int_equal(rig->p.lost_points, 0);
    rig_free(rig);
}

/* What was being built alone filled the spool, and could never leave it. */
static void a_small_spool_does_not_stop_the_volume(void **state)
{
    (void)state;
    struct rig *rig = rig_new(&(struct setup){.spool_limit_bytes = 200});
    run(rig);
    welcome(rig, NULL);
    for (unsigned i = 0; i < 5 && rig->p.ship.point_seq == 0; i++) {
        assert_true(rig->p.ship.state == REPL_SHIP_SENDING);
        acknowledge(rig);
        later(rig, SECOND);
    }
    assert_true(rig->p.ship.point_seq == 1 && rig->p.ship.head.part == 1);
    rig_free(rig);
}

static void with_a_full_spool_nothing_is_opened(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded_as(&(struct setup){.tracked = true, .spool_limit_bytes = 4000});
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    unsigned points = 0;
    for (uint64_t page = 0; page < 2 * PAGES; page++) {
        struct random random = {page};
        write_page(rig, page % PAGES, 1);
        random_fill(&random, world.device + page % PAGES * REPL_PAGE_SIZE, 600);
        write_page(rig, page % PAGES, (uint8_t)(page + 9));
        later(rig, SECOND);
        points += rig->p.point_count > 1 + points;
    }
    assert_true(points > 1 && points < 2 * PAGES);
    assert_true(repl_pipeline_spool_is_full(&rig->p));
    unsigned opens = rig->count[REPL_PIPELINE_OPEN];
    write_page(rig, 5, 250);
    later(rig, 2 * SECOND);
    assert_true(rig->count[REPL_PIPELINE_OPEN] == opens && world.marked[5]);
    welcome(rig, &world.head);
    for (unsigned i = 0; rig->count[REPL_PIPELINE_OPEN] == opens; i++) {
        assert_true(i < 4); /* room comes with what is acknowledged */
        acknowledge(rig);
        later(rig, SECOND);
    }
    for (unsigned i = 0; i < 20; i++) {
        acknowledge_all(rig);
        later(rig, SECOND);
    }
    assert_site_is_device(rig);
    rig_free(rig);
}

/* --- deduplication ---------------------------------------------------------------------------- */

static void supplies_name_their_segment(void **state)
{
    (void)state;
    struct rig *rig = rig_plain();
    run(rig);
    welcome(rig, NULL);
    repl_pipeline_missing(&rig->p);
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_SUPPLY] == 1 && rig->supply.number == 1);
    repl_pipeline_supplied(&rig->p);
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 2 && rig->send.number == 1);
    rig_free(rig);
}

static bool knows_all(void *context, const struct repl_digest *name)
{
    (void)context;
    (void)name;
    return true;
}

static repl_result keep(void *context, uint64_t number, const struct repl_batch *batch,
                        uint64_t *kept, struct repl_error *err)
{
    struct rig *rig = context;
    if (rig->keep_fails)
        return repl_fail(err, REPL_E_NOSPACE, "no room for what is referred to");
    rig->kept_number = number;
    rig->kept_references += batch->reference_count;
    *kept = (uint64_t)batch->reference_count * REPL_CHUNK_SIZE;
    return REPL_SUCCESS;
}

static void was_acknowledged(void *context, uint64_t number)
{
    struct rig *rig = context;
    assert_true(rig->dropped < number);
    rig->acknowledged = number;
}

/* Two chunks of the volume hold data, and both are taken for known. */
static struct rig *rig_that_knows(uint64_t spool_limit_bytes)
{
    struct rig *rig = rig_new(&(struct setup){.spool_limit_bytes = spool_limit_bytes});
    for (uint64_t page = 0; page < 2 * REPL_CHUNK_PAGES; page++)
        put(rig, page, 1);
    rig->p.options.chunk_known = knows_all;
    rig->p.options.keep = keep;
    rig->p.options.acknowledged = was_acknowledged;
    rig->p.options.chunk_context = rig;
    return rig;
}

static void keeps_what_is_referred_to(void **state)
{
    (void)state;
    struct rig *rig = rig_that_knows(1u << 30);
    run(rig);
    assert_true(rig->kept_number == 1 && rig->kept_references == 2);
    assert_true(rig->p.kept_bytes == 2 * REPL_CHUNK_SIZE);
    welcome(rig, NULL);
    assert_true(rig->acknowledged == 0);
    acknowledge(rig);
    assert_true(rig->acknowledged == 1 && rig->dropped == 1 && rig->p.kept_bytes == 0);
    rig_free(rig);
}

static void what_is_kept_counts_against_the_spool(void **state)
{
    (void)state;
    struct rig *rig = rig_that_knows(REPL_CHUNK_SIZE);
    run(rig);
    /* the part has ended, so that it can be acknowledged and reading goes on */
    assert_null(rig->p.builder);
    assert_true(rig->p.segments.oldest != NULL && rig->p.kept_bytes > 0);
    welcome(rig, NULL);
    acknowledge(rig);
    assert_true(rig->p.kept_bytes == 0 && rig->p.point_count == 1);
    rig_free(rig);
}

static void what_cannot_be_kept_is_not_sent(void **state)
{
    (void)state;
    struct rig *rig = rig_that_knows(1u << 30);
    rig->keep_fails = true;
    run(rig);
    assert_true(rig->dropped == 1 && rig->p.segments.oldest == NULL && rig->p.point_count == 0);
    assert_int_equal(report_of(rig).state, REPL_STATE_FAILED);
    rig->keep_fails = false;
    later(rig, 10 * SECOND);
    assert_true(rig->p.point_count == 1 && rig->kept_number == 2);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_disk_gives_up_the_segment),
        cmocka_unit_test(a_disk_that_is_full_loses_the_end_of_the_chain),
        cmocka_unit_test(what_the_site_says_is_not_a_link_that_is_down),
        cmocka_unit_test(what_has_rotted_in_the_spool_is_sent_anew),
        cmocka_unit_test(what_is_whole_in_the_spool_is_the_link_or_the_site),
        cmocka_unit_test(a_small_spool_does_not_stop_the_volume),
        cmocka_unit_test(supplies_name_their_segment),
        cmocka_unit_test(keeps_what_is_referred_to),
        cmocka_unit_test(what_is_kept_counts_against_the_spool),
        cmocka_unit_test(what_cannot_be_kept_is_not_sent),
        cmocka_unit_test(with_a_full_spool_nothing_is_opened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
