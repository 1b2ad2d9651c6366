/*
 * An agent that begins again, and a site that has something else than was left there: more, less,
 * nothing, or what it had earlier.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/pipeline_rig.h"

static void recovers_from_what_the_site_has(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    write_page(rig, 3, 77);
    later(rig, SECOND);
    site_commits(rig);
    struct repl_head second = world.head;
    assert_true(world.state.sent_count == 1);

    rig = rig_again(rig, &(struct setup){.pages = PAGES});
    run(rig);
    assert_true(rig->p.round.phase == REPL_ROUND_NONE && rig->p.point_count == 0);
    assert_true(rig->count[REPL_PIPELINE_SYNC] == 0); /* the site is asked first */
    welcome(rig, &second);
    assert_true(rig->count[REPL_PIPELINE_RECOVER] == 1);
    assert_true(repl_digest_equal(&rig->recover.head.digest, &second.digest));
    later(rig, 10 * SECOND);
    assert_true(rig->p.point_count == 0); /* and heard out */
    repl_pipeline_forget(&rig->p, 0, PAGES * REPL_PAGE_SIZE);
    repl_pipeline_recovered(&rig->p, rig->now_ns);
    run(rig);
    assert_true(rig->count[REPL_PIPELINE_CHECKPOINT] == 1);
    assert_true(world.state.sent_count == 1 && world.state.sent[0].to_seq == 3); /* a new one */
    assert_true(repl_digest_equal(&world.state.checkpoint.digest, &second.digest));
    assert_true(rig->p.point_count == 1 && rig->p.point.seq == 3);
    assert_int_equal(rig->p.point.flags, REPL_POINT_RESYNC);
    rig_free(rig);
}

/* Pages that the site has lost are sent once more though they have not changed, also where it says
 * so in the middle of a round, and they are no reason to read anything else. */
static void what_the_site_wants_again_is_sent(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        bool reading = i % 2 != 0;
        struct rig *rig = i < 2 ? rig_seeded() : rig_tracked(REPL_QUIESCE_WINDOW);
        later(rig, 10 * SECOND);
        uint64_t points = rig->p.point_count;
        if (reading) {
            rig->hold_reads = true;
            write_page(rig, 9, 77);
            later(rig, SECOND);
        }
        repl_pipeline_send_again(&rig->p, 3 * REPL_PAGE_SIZE, 2 * REPL_PAGE_SIZE);
        repl_pipeline_want(&rig->p, rig->now_ns);
        rig->hold_reads = false;
        later(rig, SECOND);
        assert_int_equal(rig->p.point_count, points + 1);
        assert_int_equal(rig->p.point.changed_bytes, (2 + reading) * REPL_PAGE_SIZE);
        acknowledge_all(rig);
        assert_site_is_device(rig);
        later(rig, 10 * SECOND);
        assert_int_equal(rig->p.point_count, points + 1); /* once */
        rig_free(rig);
    }
}

/* A segment may have reached the site whole, and the link is down when the agent starts again: with
 * the segment in the spool, points go on being cut. */
static void what_was_sent_and_is_kept_need_not_be_asked_for(void **state)
{
    (void)state;
    for (unsigned arrived = 0; arrived < 2; arrived++) {
        struct rig *rig = rig_seeded();
        struct repl_head first = world.head;
        write_page(rig, 3, 77);
        later(rig, SECOND);
        assert_true(world.state.sent_count == 1);
        const struct repl_ship_segment segment =
            *repl_ship_find(&rig->p.ship, rig->p.segments.newest->number);
        struct repl_point point = rig->p.point;
        struct repl_buffer digests = {0};
        const struct repl_buffer *from = &rig->p.segments.newest->digests;
        assert_true(repl_ok(repl_buffer_append(&digests, from->data, from->size, NULL)));
        if (arrived)
            site_commits(rig);
        struct repl_head second = world.head;

        rig = rig_again(rig, &(struct setup){.pages = PAGES});
        assert_true(repl_ok(repl_pipeline_adopt(&rig->p, &segment, &point, &digests, 0, NULL)));
        run(rig);
        write_page(rig, 4, 78);
        later(rig, SECOND);
        assert_true(rig->p.point_count > 0 && rig->p.point.seq > 2);
        welcome(rig, arrived ? &second : &first);
        acknowledge_all(rig);
        assert_int_equal(rig->count[REPL_PIPELINE_RECOVER], 0);
        later(rig, SECOND);
        acknowledge_all(rig);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

static void a_lost_site_is_filled_anew(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    write_page(rig, 3, 77);
    later(rig, SECOND);
    acknowledge(rig);
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    rig->hold[REPL_PIPELINE_CHECKPOINT] = true;
    later(rig, 61 * SECOND);
    assert_true(rig->held[REPL_PIPELINE_CHECKPOINT]);
    welcome(rig, NULL);
    /* of a table that was forgotten meanwhile */
    answer(rig, REPL_PIPELINE_CHECKPOINT);
    later(rig, SECOND);
    assert_true(repl_digest_is_zero(&world.state.checkpoint.digest));
    struct repl_head full = acknowledge(rig);
    assert_true(full.from_seq == 0 && full.to_seq == 3 && full.has_point);
    write_page(rig, 1, 42); /* it goes on to read, greeted or not */
    later(rig, SECOND);
    assert_true(rig->p.point_count == 4);
    rig_free(rig);
}

static void without_a_checkpoint_nothing_is_known(void **state)
{
    (void)state;
    static struct repl_page_digest stale[PAGES];
    memset(stale, 5, sizeof stale);
    struct repl_pipeline p;
    struct repl_source_state s = {.lineage = 1, .next_seq = 9};
    struct repl_pipeline_options options = {.volume_size = PAGES * REPL_PAGE_SIZE,
                                            .interval_ns = SECOND,
                                            .audit = REPL_AUDIT_LIMITS_DEFAULT,
                                            .digests = stale,
                                            .sink = rig_sink};
    struct repl_track_record base = {.base.completed_known = 1};
    assert_true(repl_ok(repl_pipeline_init(&p, &options, &s, NULL)));
    assert_true(repl_is_zero(stale, sizeof stale));
    assert_true(repl_pipeline_track(&p, &base, NULL)); /* whatever the tracker has */
    assert_true(p.round.dirty.set_count == PAGES);
    repl_pipeline_fini(&p);
    memset(stale, 5, sizeof stale);
    memset(s.checkpoint.digest.bytes, 1, sizeof s.checkpoint.digest.bytes);
    assert_true(repl_ok(repl_pipeline_init(&p, &options, &s, NULL)));
    assert_int_equal(stale[3].bytes[0], 5);
    base.head = s.checkpoint.digest;
    assert_true(repl_pipeline_track(&p, &base, NULL));
    assert_true(p.round.dirty.set_count == 0);
    repl_pipeline_fini(&p);
}

static void a_full_list_of_sent_segments_is_no_dead_end(void **state)
{
    (void)state;
    struct rig *rig = rig_plain();
    world.state =
        (struct repl_source_state){.lineage = 1, .next_seq = 500, .sent_count = REPL_SENT_MAX};
    for (uint32_t i = 0; i < REPL_SENT_MAX; i++) {
        world.state.sent[i].to_seq = i + 1;
        memset(world.state.sent[i].digest.bytes, (int)i + 1, sizeof(struct repl_digest));
    }
    rig = rig_again(rig, &(struct setup){.pages = PAGES});
    run(rig);
    welcome(rig, NULL);
    later(rig, SECOND);
    assert_true(rig->released == 1 && world.state.sent_count == REPL_SENT_MAX);
    assert_true(world.state.sent[0].to_seq == 2);
    acknowledge(rig);
    assert_true(world.state.sent_count == 0); /* the checkpoint has made room */
    rig_free(rig);
}

/* Whatever is cut behind it, and over a restart. */
static void the_newest_point_at_the_site_keeps_its_times(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    struct repl_point first = rig->p.point;
    assert_true(first.seq == 1 && first.begin_ns != 0);
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    write_page(rig, 3, 5);
    later(rig, 20 * SECOND);
    assert_true(rig->p.point.seq == 2 && rig->p.site_point.seq == 1);
    assert_memory_equal(&rig->p.site_point, &first, sizeof first);
    rig = rig_again(rig, &(struct setup){.tracked = true});
    assert_true(rig->p.ship.point_seq == 1 && rig->p.site_point.seq == 1);
    assert_true(rig->p.site_point.begin_ns == first.begin_ns &&
                rig->p.site_point.end_ns == first.end_ns);
    run(rig);
    welcome(rig, NULL); /* and then the site has none */
    assert_true(rig->p.site_point.seq == 0 && world.state.point_seq == 0);
    rig_free(rig);
}

static void a_chain_that_begins_anew_has_all(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    write_page(rig, 3, 77);
    later(rig, SECOND);
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    rig->hold[REPL_PIPELINE_OPEN] = true;
    later(rig, 20 * SECOND);
    rig->pages_read = 0;
    world.head = (struct repl_head){0};
    rig->settle = REPL_SETTLE_NONE;
    welcome(rig, NULL);
    assert_int_equal(rig->settle, REPL_SETTLE_ALL);
    for (uint64_t page = 0; page < PAGES; page++)
        assert_true(world.kept[page]);
    let(rig, REPL_PIPELINE_OPEN);
    later(rig, SECOND);
    assert_true(rig->pages_read == PAGES);
    struct repl_head full = acknowledge(rig);
    assert_true(full.from_seq == 0 && full.to_seq == 3 && full.has_point);
    assert_site_is_device(rig);
    rig_free(rig);
}

/* At whatever step the round is when the site turns out to be empty. */
static void a_chain_may_begin_anew_at_any_time(void **state)
{
    (void)state;
    static const enum repl_pipeline_action_type steps[] = {
        REPL_PIPELINE_SYNC,   REPL_PIPELINE_QUIESCE, REPL_PIPELINE_OPEN,   REPL_PIPELINE_CLOSE,
        REPL_PIPELINE_RESUME, REPL_PIPELINE_AUDIT,   REPL_PIPELINE_COMMIT,
    };
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        struct rig *rig = rig_tracked(REPL_QUIESCE_FREEZE);
        rig->hold[steps[i]] = true;
        write_page(rig, 3, 77);
        repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
        later(rig, 10 * SECOND);
        assert_true(rig->held[steps[i]]);
        welcome(rig, NULL);
        let(rig, steps[i]);
        run(rig);
        for (unsigned k = 0; k < 3; k++) {
            later(rig, SECOND);
            acknowledge_all(rig);
        }
        assert_site_is_device(rig);
        assert_true(rig->p.ship.point_seq > 0 && rig->p.hold == REPL_HOLD_NONE);
        rig_free(rig);
    }
}

/* The host's state was put back from a copy, while the kernel went on tracking. */
static void a_record_of_a_later_history_is_of_no_use(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    stop_and_wait(rig);
    struct repl_source_state before = world.state;
    struct repl_track_record record = world.base;
    rig = rig_again(rig, &(struct setup){.tracked = true, .base = &record});
    run(rig);
    assert_false(rig->p.comparing);
    welcome(rig, &world.head);
    write_page(rig, 3, 99);
    later(rig, SECOND);
    acknowledge(rig);
    stop_and_wait(rig);
    record = world.base;
    world.state = before;
    rig = rig_again(rig, &(struct setup){.tracked = true, .base = &record});
    assert_true(rig->p.comparing && strstr(rig->p.degraded_cause, "put back") != NULL);
    rig_free(rig);
}

/* The site's history was put back, to where the host's state still knows of it. */
static void a_site_that_went_back_is_given_everything(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    struct repl_head back = world.head;
    write_page(rig, 3, 99);
    later(rig, SECOND);
    acknowledge(rig);
    assert_true(world.state.sent_count > 0); /* killed before the checkpoint */
    struct repl_track_record record = world.base;
    rig = rig_again(rig, &(struct setup){.tracked = true, .base = &record});
    assert_false(rig->p.comparing);
    run(rig);
    welcome(rig, &back);
    later(rig, SECOND);
    later(rig, SECOND);
    assert_true(rig->was_read[3] && rig->pages_read >= rig->pages);
    assert_true(rig->p.point_count == 1 && (rig->p.point.flags & REPL_POINT_RESYNC) != 0);
    rig_free(rig);
}

/* It went back while the source ran: only a beginning from the state can tell what is at neither
 * end. Of a head that is no older than what was acknowledged nothing of the kind is said. */
static void a_site_that_goes_back_meanwhile_is_noticed(void **state)
{
    (void)state;
    struct rig *rig = rig_tracked(REPL_QUIESCE_WINDOW);
    struct repl_welcome message = {.known = true, .head = world.head};
    for (uint64_t page = 3; page < 5; page++) {
        assert_false(repl_pipeline_site_went_back(&rig->p, &message, false));
        write_page(rig, page, 99);
        later(rig, SECOND);
        acknowledge(rig);
        assert_true(repl_pipeline_site_went_back(&rig->p, &message, false));
        message.head = world.head;
    }
    assert_false(repl_pipeline_site_went_back(&rig->p, &message, false));
    assert_false(repl_pipeline_is_unknown(&rig->p, &message));
    message.head.digest.bytes[0] ^= 1; /* not of this host, or of long ago */
    assert_true(repl_pipeline_is_unknown(&rig->p, &message));
    assert_false(repl_pipeline_site_went_back(&rig->p, &message, false));
    assert_true(repl_pipeline_site_went_back(&rig->p, &message, true));
    rig_free(rig);
}

/* To before the checkpoint, which the state knows nothing of: whoever remembers the head says so.
 * Until the table without what was lost is durable, a start from the state believes nothing of what
 * is in its file. */
static void a_site_that_went_back_further_is_given_everything(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = tracked});
        struct repl_welcome message = {.known = true, .head = world.head};
        struct repl_page_digest site[PAGES_MAX], table[PAGES_MAX];
        memcpy(site, world.site, sizeof site);
        for (uint64_t page = 3; page < 6; page++) {
            write_page(rig, page, 99);
            later(rig, SECOND);
            acknowledge(rig);
        }
        stop_and_wait(rig); /* with a checkpoint */
        assert_true(world.state.sent_count == 0);
        memcpy(table, world.digests, sizeof table);
        for (unsigned power_cut = 0; power_cut < 2; power_cut++) {
            rig = rig_again(rig, &(struct setup){.tracked = tracked});
            rig->hold[REPL_PIPELINE_CHECKPOINT] = true;
            run(rig);
            memcpy(world.site, site, sizeof site);
            assert_true(repl_pipeline_is_unknown(&rig->p, &message) == (power_cut == 0));
            if (power_cut == 0) {
                repl_pipeline_site_put_back(&rig->p, &message.head, rig->now_ns);
                welcome(rig, &message.head);
                assert_true(rig->p.greeted);
                assert_int_equal(rig->count[REPL_PIPELINE_RECOVER], 0);
                assert_true(world.state.checkpoint.to_seq == 0);
                memcpy(world.digests, table,
                       sizeof table); /* of what was forgotten nothing is left */
                continue;
            }
            welcome(rig, &message.head);
            assert_int_equal(rig->count[REPL_PIPELINE_RECOVER], 1);
            repl_pipeline_recovered(&rig->p, rig->now_ns);
        }
        for (unsigned i = 0; i < 5; i++) {
            later(rig, SECOND);
            acknowledge_all(rig);
        }
        assert_true(rig->p.point_count >= 1 && (rig->p.point.flags & REPL_POINT_RESYNC) != 0);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

/* Until there is one, each start has the site list all of its history. */
static void what_was_put_back_has_a_checkpoint_at_once(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = tracked});
        struct repl_head back = world.head;
        struct repl_page_digest site[PAGES_MAX];
        memcpy(site, world.site, sizeof site);
        write_page(rig, 3, 99);
        later(rig, SECOND);
        acknowledge(rig);
        stop_and_wait(rig);
        rig = rig_again(rig, &(struct setup){.tracked = tracked});
        run(rig);
        memcpy(world.site, site, sizeof site);
        repl_pipeline_site_put_back(&rig->p, &back, rig->now_ns);
        run(rig);
        assert_int_equal(rig->count[REPL_PIPELINE_CHECKPOINT], 1);
        assert_true(repl_digest_equal(&world.state.checkpoint.digest, &back.digest));
        assert_int_equal(world.state.sent_count, 0);
        welcome(rig, &back);
        assert_int_equal(rig->count[REPL_PIPELINE_RECOVER], 0);
        rig_free(rig);
    }
}

/* The same without a tracker, or with one that a reboot has ended: the digests that the site no
 * longer has are in the table, which may be ahead of the checkpoint. */
static void digests_that_the_site_lost_are_not_believed(void **state)
{
    (void)state;
    for (unsigned tracked = 0; tracked < 2; tracked++) {
        struct rig *rig = rig_seeded_as(&(struct setup){.tracked = tracked});
        struct repl_head back = world.head;
        struct repl_page_digest site[PAGES_MAX];
        memcpy(site, world.site, sizeof site);
        for (uint64_t page = 3; page < 6; page++) {
            write_page(rig, page, 99);
            later(rig, SECOND);
            acknowledge(rig);
        }
        assert_true(world.state.sent_count == 3 && world.state.acknowledged_count == 2);
        struct setup again = {.tracked = tracked};
        rig = rig_again(rig, &again);
        memcpy(world.site, site, sizeof site);
        run(rig);
        welcome(rig, &back);
        if (rig->held[REPL_PIPELINE_RECOVER] || rig->count[REPL_PIPELINE_RECOVER] > 0) {
            for (uint64_t page = 0; page < PAGES; page++) /* up to where it went back to */
                repl_pipeline_forget(&rig->p, page * REPL_PAGE_SIZE, REPL_PAGE_SIZE);
            repl_pipeline_recovered(&rig->p, rig->now_ns);
        }
        for (unsigned i = 0; i < 5; i++) {
            later(rig, SECOND);
            acknowledge_all(rig);
        }
        assert_true(rig->p.point_count == 1 && (rig->p.point.flags & REPL_POINT_RESYNC) != 0);
        assert_site_is_device(rig);
        rig_free(rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recovers_from_what_the_site_has),
        cmocka_unit_test(what_the_site_wants_again_is_sent),
        cmocka_unit_test(what_was_sent_and_is_kept_need_not_be_asked_for),
        cmocka_unit_test(a_lost_site_is_filled_anew),
        cmocka_unit_test(without_a_checkpoint_nothing_is_known),
        cmocka_unit_test(a_full_list_of_sent_segments_is_no_dead_end),
        cmocka_unit_test(the_newest_point_at_the_site_keeps_its_times),
        cmocka_unit_test(a_chain_that_begins_anew_has_all),
        cmocka_unit_test(a_chain_may_begin_anew_at_any_time),
        cmocka_unit_test(a_record_of_a_later_history_is_of_no_use),
        cmocka_unit_test(a_site_that_went_back_is_given_everything),
        cmocka_unit_test(a_site_that_goes_back_meanwhile_is_noticed),
        cmocka_unit_test(a_site_that_went_back_further_is_given_everything),
        cmocka_unit_test(what_was_put_back_has_a_checkpoint_at_once),
        cmocka_unit_test(digests_that_the_site_lost_are_not_believed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
