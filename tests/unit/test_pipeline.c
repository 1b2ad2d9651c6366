#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "pipeline.h"

#define SECOND INT64_C(1000000000)
#define START  (1000 * SECOND)
#define PAGES  40u

/* A volume in memory, and a shell that does at once what it is told, but for the link, which each
 * test plays itself. */
struct rig {
    struct repl_pipeline p;
    struct repl_source_state state; /* as it is on disk */
    struct repl_page_digest digests[2 * PAGES];
    uint8_t device[2 * PAGES * REPL_PAGE_SIZE];
    struct repl_write_counters counters;
    struct repl_batch batch;
    int64_t now_ns;
    bool hold_state, hold_checkpoint, hold_sample; /* handed out, not answered */
    bool state_held, checkpoint_held, sample_held;
    bool read_fails, sink_fails;
    unsigned hellos, sends, recovers, supplies, states, checkpoints;
    struct repl_pipeline_action send, recover, supply;
    uint64_t released, dropped;
};

static repl_result sink(void *context, const void *data, size_t size, struct repl_error *err)
{
    const struct rig *rig = context;
    (void)data;
    (void)size;
    return rig->sink_fails ? repl_fail(err, REPL_E_NOSPACE, "spool: no space") : REPL_SUCCESS;
}

static void write_page(struct rig *rig, uint64_t page, uint8_t value)
{
    memset(rig->device + page * REPL_PAGE_SIZE, value, REPL_PAGE_SIZE);
    rig->counters.sectors_written++;
}

static struct rig *rig_new(const struct repl_source_state *state, uint64_t spool_limit_bytes)
{
    static struct rig rig;
    memset(&rig, 0, sizeof rig);
    rig.state = state != NULL ? *state : (struct repl_source_state){.lineage = 1, .next_seq = 1};
    rig.now_ns = START;
    for (uint64_t i = 0; i < PAGES; i++)
        memset(rig.device + i * REPL_PAGE_SIZE, (int)(i % 5), REPL_PAGE_SIZE);
    struct repl_pipeline_options options = {.volume_size = PAGES * REPL_PAGE_SIZE - 512,
                                            .interval_ns = SECOND,
                                            .spool_limit_bytes = spool_limit_bytes,
                                            .digests = rig.digests,
                                            .sink = sink,
                                            .sink_context = &rig};
    assert_true(repl_ok(repl_batch_init(&rig.batch, NULL)));
    assert_true(repl_ok(repl_pipeline_init(&rig.p, &options, &rig.state, NULL)));
    return &rig;
}

static void rig_free(struct rig *rig)
{
    repl_pipeline_fini(&rig->p);
    repl_batch_fini(&rig->batch);
}

static void act(struct rig *rig, const struct repl_pipeline_action *action)
{
    switch (action->type) {
    case REPL_PIPELINE_WAIT:
        break;
    case REPL_PIPELINE_SYNC:
        repl_pipeline_synced(&rig->p, rig->now_ns, &rig->counters);
        break;
    case REPL_PIPELINE_SAMPLE:
        rig->sample_held = rig->hold_sample;
        if (!rig->hold_sample)
            repl_pipeline_sampled(&rig->p, rig->now_ns, &rig->counters);
        break;
    case REPL_PIPELINE_STATE:
        rig->states++;
        rig->state_held = rig->hold_state;
        if (rig->hold_state)
            break;
        rig->state = *action->state;
        repl_pipeline_state_written(&rig->p);
        break;
    case REPL_PIPELINE_CHECKPOINT:
        rig->checkpoints++;
        rig->checkpoint_held = rig->hold_checkpoint;
        if (!rig->hold_checkpoint)
            repl_pipeline_checkpointed(&rig->p);
        break;
    case REPL_PIPELINE_HELLO:
        rig->hellos++;
        break;
    case REPL_PIPELINE_SEND:
        rig->sends++;
        rig->send = *action;
        break;
    case REPL_PIPELINE_RELEASE:
        rig->released = action->number;
        break;
    case REPL_PIPELINE_SUPPLY:
        rig->supplies++;
        rig->supply = *action;
        break;
    case REPL_PIPELINE_DROP:
        rig->dropped = action->number;
        break;
    case REPL_PIPELINE_RECOVER:
        rig->recovers++;
        rig->recover = *action;
        break;
    }
}

static bool read_some(struct rig *rig)
{
    struct repl_error err = {0};
    if (!repl_pipeline_fill(&rig->p, &rig->batch))
        return false;
    memcpy(rig->batch.pages, rig->device + rig->batch.runs[0].page * REPL_PAGE_SIZE,
           repl_batch_bytes(&rig->batch));
    repl_result result = rig->read_fails ? repl_fail(&err, REPL_E_IO, "sector 8 cannot be read")
                                         : repl_batch_reduce(&rig->batch, &err);
    repl_pipeline_batch_done(&rig->p, &rig->batch, result, &err, rig->now_ns);
    return true;
}

/* Until it waits. */
static int64_t run(struct rig *rig)
{
    struct repl_pipeline_action action;
    for (unsigned i = 0; i < 1000; i++) {
        repl_pipeline_next(&rig->p, rig->now_ns, &action);
        act(rig, &action);
        if (action.type == REPL_PIPELINE_WAIT && !read_some(rig))
            return action.until_ns;
    }
    fail_msg("it never waits");
    return 0;
}

static void later(struct rig *rig, int64_t span_ns)
{
    rig->now_ns += span_ns;
    run(rig);
}

static void welcome(struct rig *rig, const struct repl_head *head)
{
    struct repl_welcome message = {.known = head != NULL};
    if (head != NULL)
        message.head = *head;
    repl_pipeline_welcome(&rig->p, &message, rig->now_ns);
    run(rig);
}

static struct repl_head head_of_number(const struct rig *rig, uint64_t number)
{
    const struct repl_ship_segment *s = repl_ship_find(&rig->p.ship, number);
    assert_non_null(s);
    return (struct repl_head){.from_seq = s->from_seq,
                              .to_seq = s->to_seq,
                              .part = s->part,
                              .has_point = s->has_point,
                              .digest = s->digest};
}

/* The segment on its way is the site's now. */
static struct repl_head acknowledge(struct rig *rig)
{
    struct repl_ack ack = {.head = head_of_number(rig, rig->send.number)};
    repl_pipeline_ack(&rig->p, &ack, rig->now_ns);
    run(rig);
    return ack.head;
}

/* A volume seeded, its first point acknowledged. */
static struct rig *rig_seeded(void)
{
    struct rig *rig = rig_new(NULL, 1u << 30);
    run(rig);
    welcome(rig, NULL);
    assert_true(rig->sends == 1 && rig->released == 1);
    acknowledge(rig);
    return rig;
}

static struct repl_report report_of(struct rig *rig)
{
    struct repl_report report;
    repl_pipeline_report(&rig->p, rig->now_ns, &report);
    return report;
}

static void seeds_and_follows(void **state)
{
    (void)state;
    struct rig *rig = rig_new(NULL, 1u << 30);
    assert_int_equal(report_of(rig).state, REPL_STATE_LINK_DOWN);
    run(rig);
    assert_true(rig->hellos == 1 && rig->p.point_count == 1 && rig->sends == 0);
    assert_int_equal(report_of(rig).state, REPL_STATE_SEEDING);
    welcome(rig, NULL);
    assert_true(rig->send.number == 1 && rig->send.offset == 0);
    assert_true(rig->state.sent_count == 1 && rig->state.next_seq == 2);
    assert_true(report_of(rig).seq == 0); /* the site does not have it yet */
    struct repl_head first = acknowledge(rig);
    assert_true(first.from_seq == 0 && first.to_seq == 1 && first.has_point && rig->dropped == 1);
    struct repl_report report = report_of(rig);
    assert_int_equal(report.state, REPL_STATE_IDLE);
    assert_true(report.seq == 1 && report.unchanged_until_ns == START);
    later(rig, SECOND);
    assert_true(report_of(rig).unchanged_until_ns == START + SECOND && rig->sends == 1);
    write_page(rig, 3, 77);
    later(rig, SECOND);
    assert_true(rig->sends == 2 && rig->p.point.changed_bytes == REPL_PAGE_SIZE);
    struct repl_head second = acknowledge(rig);
    assert_true(second.from_seq == 1 && second.to_seq == 2);
    write_page(rig, 3, 77); /* the same bytes again */
    later(rig, SECOND);
    assert_true(rig->sends == 2 && report_of(rig).seq == 2);
    rig_free(rig);
}

static void the_end_is_held_until_the_state_is_durable(void **state)
{
    (void)state;
    struct rig *rig = rig_new(NULL, 1u << 30);
    rig->hold_state = true;
    run(rig);
    welcome(rig, NULL);
    assert_true(rig->sends == 1 && rig->state_held && rig->released == 0);
    later(rig, SECOND);
    assert_true(rig->states == 1 && rig->released == 0);
    rig->state = rig->p.state;
    repl_pipeline_state_written(&rig->p);
    run(rig);
    assert_true(rig->released == 1);
    rig_free(rig);
}

static void a_page_on_its_way_is_sent_again(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    uint8_t before = rig->device[7 * REPL_PAGE_SIZE];
    write_page(rig, 7, 99);
    later(rig, SECOND);
    write_page(rig, 7, before); /* back to what the site had, and does not have for long */
    later(rig, SECOND);
    assert_true(rig->p.point_count == 3);
    acknowledge(rig);
    acknowledge(rig);
    assert_true(rig->p.ship.point_seq == 3);
    rig_free(rig);
}

static void an_unreadable_device_is_said_and_forgotten(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->counters.sectors_written++; /* the same bytes */
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

static void a_full_spool_gives_up_the_segment(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->sink_fails = true;
    write_page(rig, 1, 50);
    later(rig, SECOND);
    assert_int_equal(report_of(rig).state, REPL_STATE_FAILED);
    assert_true(rig->p.segments == NULL && rig->dropped == 2);
    rig->sink_fails = false;
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2 && rig->send.number == 3);
    rig_free(rig);
}

/* What was being built alone filled the spool, and could never leave it. */
static void a_small_spool_does_not_stop_the_volume(void **state)
{
    (void)state;
    struct rig *rig = rig_new(NULL, 200);
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

static void growth_ends_the_part_and_voids_the_round(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->hold_sample = true;
    write_page(rig, 2, 60);
    later(rig, SECOND);
    assert_true(rig->sample_held && rig->p.builder != NULL);
    assert_true(
        repl_ok(repl_pipeline_grow(&rig->p, 2 * PAGES * REPL_PAGE_SIZE, rig->digests, NULL)));
    repl_pipeline_sampled(&rig->p, rig->now_ns, &rig->counters); /* saw none of the new pages */
    assert_true(rig->p.point_count == 1);
    rig->hold_sample = false;
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    struct repl_head part = acknowledge(rig);
    assert_true(!part.has_point && part.part == 0);
    struct repl_head last = acknowledge(rig);
    assert_true(last.has_point && last.part == 1 && last.to_seq == part.to_seq);
    assert_true(rig->state.volume_size == 2 * PAGES * REPL_PAGE_SIZE);
    rig_free(rig);
}

static void growth_survives_a_full_spool(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->hold_sample = true;
    write_page(rig, 2, 60);
    later(rig, SECOND);
    rig->sink_fails = true;
    assert_true(
        repl_ok(repl_pipeline_grow(&rig->p, 2 * PAGES * REPL_PAGE_SIZE, rig->digests, NULL)));
    rig->sink_fails = rig->hold_sample = false;
    repl_pipeline_sampled(&rig->p, rig->now_ns, &rig->counters);
    later(rig, SECOND);
    assert_true(rig->p.point_count == 2);
    assert_true(acknowledge(rig).has_point);
    rig_free(rig);
}

static void recovers_from_what_the_site_has(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    struct repl_source_state before;
    write_page(rig, 3, 77);
    later(rig, SECOND);
    struct repl_head second = head_of_number(rig, rig->send.number);
    before = rig->state;
    assert_true(before.sent_count == 1);
    rig_free(rig);

    rig = rig_new(&before, 1u << 30);
    write_page(rig, 3, 77);
    run(rig);
    assert_true(!rig->p.reading && rig->p.point_count == 0); /* the site is asked first */
    welcome(rig, &second);
    assert_true(rig->recovers == 1);
    assert_true(repl_digest_equal(&rig->recover.head.digest, &second.digest));
    later(rig, 10 * SECOND);
    assert_true(rig->p.point_count == 0); /* and heard out */
    repl_pipeline_forget(&rig->p, 0, PAGES * REPL_PAGE_SIZE);
    repl_pipeline_recovered(&rig->p, rig->now_ns);
    run(rig);
    assert_true(rig->checkpoints == 1);
    assert_true(rig->state.sent_count == 1 && rig->state.sent[0].to_seq == 3); /* a new one */
    assert_true(repl_digest_equal(&rig->state.checkpoint.digest, &second.digest));
    assert_true(rig->p.point_count == 1 && rig->p.point.seq == 3);
    assert_int_equal(rig->p.point.flags, REPL_POINT_RESYNC);
    rig_free(rig);
}

static void a_lost_site_is_filled_anew(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    write_page(rig, 3, 77);
    later(rig, SECOND);
    acknowledge(rig);
    repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    rig->hold_checkpoint = true;
    later(rig, 61 * SECOND);
    assert_true(rig->checkpoint_held);
    welcome(rig, NULL);
    repl_pipeline_checkpointed(&rig->p); /* of a table that was forgotten meanwhile */
    later(rig, SECOND);
    assert_true(repl_digest_is_zero(&rig->state.checkpoint.digest));
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
                                            .digests = stale,
                                            .sink = sink};
    assert_true(repl_ok(repl_pipeline_init(&p, &options, &s, NULL)));
    assert_true(repl_is_zero(stale, sizeof stale));
    repl_pipeline_fini(&p);
    memset(stale, 5, sizeof stale);
    memset(s.checkpoint.digest.bytes, 1, sizeof s.checkpoint.digest.bytes);
    assert_true(repl_ok(repl_pipeline_init(&p, &options, &s, NULL)));
    assert_int_equal(stale[3].bytes[0], 5);
    repl_pipeline_fini(&p);
}

static void a_full_list_of_sent_segments_is_no_dead_end(void **state)
{
    (void)state;
    struct repl_source_state s = {.lineage = 1, .next_seq = 500, .sent_count = REPL_SENT_MAX};
    for (uint32_t i = 0; i < REPL_SENT_MAX; i++) {
        s.sent[i].to_seq = i + 1;
        memset(s.sent[i].digest.bytes, (int)i + 1, sizeof s.sent[i].digest.bytes);
    }
    struct rig *rig = rig_new(&s, 1u << 30);
    run(rig);
    welcome(rig, NULL);
    later(rig, SECOND);
    assert_true(rig->released == 1 && rig->state.sent_count == REPL_SENT_MAX);
    assert_true(rig->state.sent[0].to_seq == 2);
    acknowledge(rig);
    assert_true(rig->state.sent_count == 0); /* the checkpoint has made room */
    rig_free(rig);
}

static void supplies_name_their_segment(void **state)
{
    (void)state;
    struct rig *rig = rig_new(NULL, 1u << 30);
    run(rig);
    welcome(rig, NULL);
    repl_pipeline_missing(&rig->p);
    run(rig);
    assert_true(rig->supplies == 1 && rig->supply.number == 1);
    repl_pipeline_supplied(&rig->p);
    run(rig);
    assert_true(rig->sends == 2 && rig->send.number == 1);
    rig_free(rig);
}

static void stops_with_a_checkpoint(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    write_page(rig, 1, 42);
    later(rig, SECOND);
    acknowledge(rig);
    rig->hold_checkpoint = true;
    repl_pipeline_stop(&rig->p);
    run(rig);
    assert_false(repl_pipeline_stopped(&rig->p));
    repl_pipeline_checkpointed(&rig->p);
    run(rig);
    assert_true(repl_pipeline_stopped(&rig->p));
    assert_true(repl_digest_equal(&rig->state.checkpoint.digest, &rig->p.ship.head.digest));
    rig_free(rig);
}

static void says_why_there_is_no_point(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->hold_sample = true;
    for (unsigned i = 0; i < 6; i++) {
        write_page(rig, 4, (uint8_t)(100 + i));
        later(rig, SECOND);
        write_page(rig, 5, (uint8_t)(100 + i));
        if (rig->sample_held)
            repl_pipeline_sampled(&rig->p, rig->now_ns, &rig->counters);
        rig->sample_held = false;
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
    struct rig *rig = rig_new(NULL, 1u << 30);
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
        cmocka_unit_test(a_full_spool_gives_up_the_segment),
        cmocka_unit_test(a_small_spool_does_not_stop_the_volume),
        cmocka_unit_test(growth_ends_the_part_and_voids_the_round),
        cmocka_unit_test(growth_survives_a_full_spool),
        cmocka_unit_test(recovers_from_what_the_site_has),
        cmocka_unit_test(a_lost_site_is_filled_anew),
        cmocka_unit_test(without_a_checkpoint_nothing_is_known),
        cmocka_unit_test(a_full_list_of_sent_segments_is_no_dead_end),
        cmocka_unit_test(supplies_name_their_segment),
        cmocka_unit_test(stops_with_a_checkpoint),
        cmocka_unit_test(says_why_there_is_no_point),
        cmocka_unit_test(hello_says_who_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
