/*
 * What the pipeline does for a tree beside what it does for a device: records in its segments, in
 * parts where they are many, told when they are the site's and when they have to be said again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "pipeline_internal.h"

#define SECOND INT64_C(1000000000)
#define PAGES  8u

/* A tree that has so much to say, in segments of one object each. */
struct tree {
    unsigned left, objects; /* to be said now; all there are */
    bool begun, full;
    uint64_t told_to;
    uint64_t stamp, settled, lost; /* lost: the lowest since it was looked at */
    unsigned fulls;                /* settled */
    unsigned order_errors;
};

static struct rig {
    struct repl_pipeline p;
    struct repl_pipeline_records records;
    struct repl_page_digest digests[PAGES];
    struct repl_source_state state;
    struct repl_batch batch;
    struct tree tree;
    struct repl_write_counters counters;
    bool restless;     /* each round ends with a change, */
    uint64_t unstable; /* and with so many files that changed while they were read */
    int64_t now_ns;
    uint64_t sent, dropped;
    unsigned parts; /* finished since it was looked at */
    bool quiesce_fails;
    bool fills, fills_late; /* the spool is full when a round is opened; when it is quiesced */
    unsigned quiesces, resumes;
} the_rig;

static bool are_pending(const void *context)
{
    const struct tree *tree = context;
    return tree->left > 0;
}

static bool are_many(const void *context, bool full)
{
    const struct tree *tree = context;
    return (full && !tree->begun ? tree->objects : tree->left) > 1;
}

static bool are_torn(const void *context, uint64_t to_seq)
{
    const struct tree *tree = context;
    return !tree->begun && to_seq <= tree->told_to;
}

static repl_result segment_begin(void *context, bool full, uint64_t to_seq, uint64_t *stamp,
                                 struct repl_error *err)
{
    (void)err;
    struct tree *tree = context;
    if (full && !tree->begun && tree->objects > 1)
        tree->told_to = to_seq;
    if (full && !tree->begun)
        tree->left = tree->objects;
    tree->begun = true;
    tree->full = full;
    *stamp = tree->stamp;
    return REPL_SUCCESS;
}

static repl_result segment_record(void *context, struct repl_record *record, bool *done,
                                  struct repl_error *err)
{
    (void)context, (void)record, (void)err;
    *done = true;
    return REPL_SUCCESS;
}

static bool segment_end(void *context)
{
    struct tree *tree = context;
    the_rig.parts++;
    tree->left -= tree->left > 0;
    tree->begun = tree->left > 0;
    if (!tree->begun)
        tree->stamp++;
    return !tree->begun;
}

static void records_settled(void *context, uint64_t stamp, bool full)
{
    struct tree *tree = context;
    tree->order_errors += stamp != 0 && stamp < tree->settled;
    tree->settled = stamp > tree->settled ? stamp : tree->settled;
    tree->fulls += full;
}

static void records_lost(void *context, uint64_t stamp)
{
    struct tree *tree = context;
    tree->order_errors += stamp <= tree->settled;
    if (tree->lost == 0 || stamp < tree->lost)
        tree->lost = stamp;
    tree->left = 1;
    tree->begun = false;
}

static repl_result sink(void *context, const void *data, size_t size, struct repl_error *err)
{
    (void)context, (void)data, (void)size, (void)err;
    return REPL_SUCCESS;
}

/* --- the rig --------------------------------------------------------------------------------- */

static void start(struct rig *rig, bool full_wanted)
{
    const struct repl_pipeline_options options = {.volume_size = PAGES * REPL_PAGE_SIZE,
                                                  .interval_ns = SECOND,
                                                  .quiesce = REPL_QUIESCE_WINDOW_ELSE_FILES,
                                                  .parked_pages = PAGES,
                                                  .spool_limit_bytes = 1u << 20,
                                                  .digests = rig->digests,
                                                  .records = &rig->records,
                                                  .full_wanted = full_wanted,
                                                  .sink = sink};
    assert_true(repl_ok(repl_pipeline_init(&rig->p, &options, &rig->state, NULL)));
    repl_pipeline_watch(&rig->p);
}

static struct rig *rig_new(unsigned objects)
{
    struct rig *rig = &the_rig;
    *rig = (struct rig){.state = {.lineage = 1, .next_seq = 1}, .now_ns = 1000 * SECOND};
    rig->tree = (struct tree){.objects = objects, .left = objects, .stamp = 1};
    rig->records = (struct repl_pipeline_records){.are_pending = are_pending,
                                                  .are_many = are_many,
                                                  .are_torn = are_torn,
                                                  .begin = segment_begin,
                                                  .next = segment_record,
                                                  .end = segment_end,
                                                  .settled = records_settled,
                                                  .lost = records_lost,
                                                  .context = &rig->tree};
    assert_true(repl_ok(repl_batch_init(&rig->batch, NULL)));
    start(rig, false);
    return rig;
}

static void rig_free(struct rig *rig)
{
    assert_int_equal(rig->tree.order_errors, 0);
    repl_pipeline_fini(&rig->p);
    repl_batch_fini(&rig->batch);
}

static bool batch_move(struct rig *rig)
{
    struct repl_error err = {0};
    if (!repl_pipeline_fill(&rig->p, &rig->batch))
        return false;
    for (uint32_t i = 0; i < rig->batch.read_count; i++)
        memset(repl_batch_read_to(&rig->batch, &rig->batch.reads[i]), 7,
               repl_batch_read_size(&rig->batch, &rig->batch.reads[i]));
    repl_pipeline_batch_read(&rig->p, &rig->batch);
    repl_result result = repl_batch_reduce(&rig->batch, &err);
    repl_pipeline_batch_done(&rig->p, &rig->batch, result, &err, rig->now_ns);
    return true;
}

static void quiesced(struct rig *rig)
{
    struct repl_error err = {0};
    repl_result result = REPL_SUCCESS;
    rig->quiesces++;
    if (rig->fills_late)
        rig->p.options.spool_limit_bytes = 1;
    if (rig->quiesce_fails)
        result = repl_fail(&err, REPL_E_IO, "no room for a snapshot");
    assert_false(repl_pipeline_quiesce_first(&rig->p)); /* no round is to be opened */
    repl_pipeline_quiesced(&rig->p, result, &err, rig->now_ns);
}

static void round_close(struct rig *rig)
{
    struct repl_write_counters counters = rig->counters;
    if (rig->restless) {
        rig->now_ns += SECOND / 100;
        rig->counters.marks++;
        counters.marks++;
        counters.unstable = rig->unstable;
    }
    repl_pipeline_closed(&rig->p, rig->now_ns, &counters, NULL);
}

static void act(struct rig *rig, const struct repl_pipeline_action *action)
{
    switch (action->type) {
    case REPL_PIPELINE_SYNC:
        repl_pipeline_synced(&rig->p);
        break;
    case REPL_PIPELINE_QUIESCE:
        quiesced(rig);
        break;
    case REPL_PIPELINE_RESUME:
        rig->resumes++;
        repl_pipeline_resumed(&rig->p, true, rig->now_ns);
        break;
    case REPL_PIPELINE_OPEN:
        if (rig->fills)
            rig->p.options.spool_limit_bytes = 1;
        if (repl_pipeline_is_unchanged(&rig->p, &rig->counters) ||
            !repl_pipeline_quiesce_first(&rig->p))
            repl_pipeline_opened(&rig->p, rig->now_ns, &rig->counters, false);
        break;
    case REPL_PIPELINE_CLOSE:
        round_close(rig);
        break;
    case REPL_PIPELINE_COMMIT:
        repl_pipeline_commit(&rig->p, true, rig->now_ns);
        break;
    case REPL_PIPELINE_STATE:
        rig->state = *action->state;
        repl_pipeline_state_written(&rig->p);
        break;
    case REPL_PIPELINE_CHECKPOINT:
        repl_pipeline_checkpointed(&rig->p);
        break;
    case REPL_PIPELINE_SEND:
        rig->sent = action->number;
        break;
    default:
        break;
    }
}

static void run(struct rig *rig)
{
    struct repl_pipeline_action action;
    for (unsigned i = 0; i < 10000; i++) {
        repl_pipeline_next(&rig->p, rig->now_ns, &action);
        act(rig, &action);
        bool tells = rig->p.round.phase == REPL_ROUND_TELLING;
        if (action.type == REPL_PIPELINE_WAIT && !batch_move(rig) && !tells)
            return;
    }
    fail_msg("it never waits");
}

static void later(struct rig *rig)
{
    rig->now_ns += 2 * SECOND;
    run(rig);
}

static void change(struct rig *rig, unsigned objects)
{
    rig->tree.left += objects;
    rig->counters.sectors_written++;
    rig->counters.marks++;
}

static void welcome(struct rig *rig)
{
    repl_pipeline_welcome(&rig->p, &(struct repl_welcome){.known = false}, rig->now_ns);
    run(rig);
}

static void acknowledge(struct rig *rig)
{
    const struct repl_ship_segment *s = repl_ship_find(&rig->p.ship, rig->sent);
    assert_non_null(s);
    const struct repl_ack ack = {.head = {.from_seq = s->from_seq,
                                          .to_seq = s->to_seq,
                                          .part = s->part,
                                          .has_point = s->has_point,
                                          .digest = s->digest}};
    repl_pipeline_ack(&rig->p, rig->sent, &ack, rig->now_ns);
    run(rig);
}

/* The site has what it had. */
static void greet_again(struct rig *rig)
{
    const struct repl_welcome message = {.known = true, .head = rig->p.ship.head};
    run(rig);
    repl_pipeline_welcome(&rig->p, &message, rig->now_ns);
    run(rig);
}

/* A tree of one object, of which the site has a full. */
static struct rig *rig_seeded(void)
{
    struct rig *rig = rig_new(1);
    run(rig);
    welcome(rig);
    assert_int_equal(rig->parts, 1);
    acknowledge(rig);
    assert_int_equal(rig->tree.settled, 1);
    assert_int_equal(rig->tree.fulls, 1);
    repl_pipeline_stop(&rig->p, rig->now_ns); /* with a checkpoint */
    run(rig);
    rig->p.stopping = false;
    rig->parts = 0;
    return rig;
}

static const struct repl_ship_segment *newest(const struct rig *rig)
{
    return repl_ship_find(&rig->p.ship, rig->p.segments.newest->number);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void many_records_go_into_parts(void **state)
{
    (void)state;
    struct rig *rig = rig_new(3);
    run(rig);
    welcome(rig);
    assert_int_equal(rig->parts, 3);
    assert_int_equal(rig->p.point_count, 1);
    assert_int_equal(newest(rig)->from_seq, 0);
    assert_int_equal(newest(rig)->part, 2);
    acknowledge(rig);
    acknowledge(rig);
    assert_int_equal(rig->tree.settled, 0);
    assert_int_equal(rig->tree.fulls, 0);
    acknowledge(rig);
    assert_int_equal(rig->tree.settled, 1);
    assert_int_equal(rig->tree.fulls, 1);
    rig_free(rig);
}

static void nothing_to_be_said_is_no_point(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    later(rig);
    later(rig);
    assert_int_equal(rig->p.point_count, 1);
    change(rig, 1); /* a name, and no page */
    later(rig);
    assert_int_equal(rig->p.point_count, 2);
    assert_int_equal(rig->parts, 1);
    assert_int_equal(newest(rig)->from_seq, 1);
    rig_free(rig);
}

static void a_point_per_file_is_followed_by_one_of_one_moment(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    change(rig, 1);
    rig->restless = true;
    rig->unstable = 2;
    later(rig);
    assert_int_equal(rig->p.point_count, 2);
    assert_int_equal(rig->p.point.consistency, REPL_CONSISTENCY_PER_FILE);
    assert_int_equal(rig->p.point.cut, REPL_CUT_FILES);
    assert_int_equal(rig->p.unstable_files, 2);
    acknowledge(rig);
    rig->restless = false;
    later(rig); /* nothing has changed, which the last point does not say */
    assert_int_equal(rig->p.point_count, 3);
    assert_int_equal(rig->p.point.cut, REPL_CUT_WINDOW);
    assert_int_equal(rig->p.unstable_files, 0);
    later(rig);
    assert_int_equal(rig->p.point_count, 3);
    rig_free(rig);
}

static void what_is_given_up_is_said_again(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    for (unsigned i = 0; i < 3; i++) {
        change(rig, 1);
        later(rig);
    }
    assert_int_equal(rig->p.point_count, 4);
    acknowledge(rig);
    assert_int_equal(rig->tree.settled, 2);
    repl_pipeline_spool_lost(&rig->p, rig->p.segments.oldest->number, rig->now_ns);
    assert_int_equal(rig->tree.lost, 3);
    assert_false(repl_pipeline_is_full(&rig->p));
    later(rig);
    assert_int_equal(newest(rig)->from_seq, 2);
    acknowledge(rig);
    assert_int_equal(rig->tree.settled, 5);
    rig_free(rig);
}

static void a_full_that_is_given_up_is_begun_anew(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    repl_pipeline_fini(&rig->p);
    start(rig, true);
    assert_true(repl_pipeline_is_full(&rig->p));
    greet_again(rig);
    assert_int_equal(newest(rig)->from_seq, 0);
    assert_false(repl_pipeline_is_full(&rig->p));
    repl_pipeline_spool_lost(&rig->p, rig->p.segments.oldest->number, rig->now_ns);
    assert_true(repl_pipeline_is_full(&rig->p));
    later(rig);
    assert_int_equal(newest(rig)->from_seq, 0);
    rig_free(rig);
}

/* The first part that an earlier run has left in the spool, with its point or not. */
static void adopt(struct rig *rig, uint64_t from_seq, bool has_point)
{
    struct repl_head tail = repl_ship_tail(&rig->p.ship);
    const struct repl_ship_segment segment = {.number = 10,
                                              .from_seq = from_seq,
                                              .to_seq = tail.to_seq + 1,
                                              .prev = tail.digest,
                                              .complete = true,
                                              .has_point = has_point,
                                              .digest = {{9}},
                                              .size = 1000};
    const struct repl_point point = {.seq = tail.to_seq + 1,
                                     .begin_ns = rig->now_ns,
                                     .end_ns = rig->now_ns,
                                     .consistency = REPL_CONSISTENCY_CRASH,
                                     .cut = REPL_CUT_QUIET,
                                     .attempts = 1};
    struct repl_buffer digests = {0};
    assert_true(repl_ok(
        repl_pipeline_adopt(&rig->p, &segment, has_point ? &point : NULL, &digests, 0, NULL)));
}

static struct rig *rig_adopted(void)
{
    struct rig *rig = rig_seeded();
    repl_pipeline_fini(&rig->p);
    rig->tree.fulls = 0;
    start(rig, true);
    adopt(rig, 0, true);
    assert_false(repl_pipeline_is_full(&rig->p));
    greet_again(rig);
    return rig;
}

static void an_adopted_full_that_is_given_up_is_begun_anew(void **state)
{
    (void)state;
    struct rig *rig = rig_adopted();
    repl_pipeline_spool_lost(&rig->p, 10, rig->now_ns);
    assert_true(repl_pipeline_is_full(&rig->p));
    change(rig, 1);
    later(rig);
    assert_int_equal(newest(rig)->from_seq, 0);
    rig_free(rig);
}

static void an_adopted_full_is_the_sites(void **state)
{
    (void)state;
    struct rig *rig = rig_adopted();
    assert_int_equal(rig->sent, 10);
    acknowledge(rig);
    assert_int_equal(rig->tree.fulls, 1);
    assert_int_equal(rig->tree.settled, 1);
    rig_free(rig);
}

/* The point that an earlier run had begun is not completed: what it said of pages, the full says
 * again. */
static void parts_without_an_end_are_left_behind_by_a_full(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    repl_pipeline_fini(&rig->p);
    rig->tree.fulls = 0;
    start(rig, true);
    adopt(rig, 1, false);
    repl_bitmap_set(&rig->p.round.dirty, 0, 3);
    change(rig, 1);
    assert_true(repl_pipeline_is_full(&rig->p));
    greet_again(rig);
    assert_int_equal(newest(rig)->from_seq, 0);
    assert_int_equal(newest(rig)->to_seq, 3);
    assert_int_equal(newest(rig)->part, 0);
    assert_true(newest(rig)->has_point);
    assert_int_equal(rig->p.point.seq, 3);
    assert_int_equal(rig->p.segments.newest->digests.size / sizeof(struct repl_batch_digest),
                     PAGES);
    acknowledge(rig);
    acknowledge(rig);
    assert_int_equal(rig->tree.fulls, 1);
    change(rig, 1);
    later(rig);
    assert_int_equal(newest(rig)->from_seq, 3);
    assert_int_equal(newest(rig)->to_seq, 4);
    rig_free(rig);
}

/* One that an earlier run had begun is gone on with, unless it has said what is there. */
static void a_full_without_an_end_is_gone_on_with_unless_it_is_torn(void **state)
{
    (void)state;
    for (unsigned torn = 0; torn < 2; torn++) {
        struct rig *rig = rig_seeded();
        repl_pipeline_fini(&rig->p);
        start(rig, true);
        adopt(rig, 0, false);
        rig->tree.told_to = torn ? 2 : 1;
        change(rig, 1);
        assert_true(repl_pipeline_is_full(&rig->p));
        greet_again(rig);
        assert_int_equal(newest(rig)->from_seq, 0);
        assert_int_equal(newest(rig)->to_seq, torn ? 3 : 2);
        assert_int_equal(newest(rig)->part, torn ? 0 : 1);
        assert_true(newest(rig)->has_point);
        assert_int_equal(rig->p.segments.newest->digests.size / sizeof(struct repl_batch_digest),
                         PAGES);
        rig_free(rig);
    }
}

static void what_may_have_been_missed_is_said_until_the_next_point(void **state)
{
    (void)state;
    struct repl_report report;
    struct rig *rig = rig_seeded();
    repl_pipeline_unsure(&rig->p, "not all was heard", rig->now_ns);
    repl_pipeline_report(&rig->p, rig->now_ns, &report);
    assert_int_equal(report.state, REPL_STATE_DEGRADED);
    assert_string_equal(report.cause, "not all was heard");
    change(rig, 1);
    later(rig);
    assert_true((rig->p.point.flags & REPL_POINT_RESYNC) != 0);
    repl_pipeline_report(&rig->p, rig->now_ns, &report);
    assert_int_not_equal(report.state, REPL_STATE_DEGRADED);
    rig_free(rig);
}

/* Nothing is read ahead of it; where there is nothing to be read, none is made. */
static void a_snapshot_comes_first(void **state)
{
    (void)state;
    struct rig *rig = rig_seeded();
    rig->p.epoch.quiesce = REPL_QUIESCE_SNAPSHOT;
    later(rig);
    assert_int_equal(rig->quiesces, 0);
    change(rig, 1);
    later(rig);
    assert_true(rig->quiesces == 1 && rig->resumes == 1);
    assert_int_equal(rig->p.point_count, 2);
    assert_int_equal(rig->p.point.cut, REPL_CUT_SNAPSHOT);
    assert_int_equal(rig->p.point.consistency, REPL_CONSISTENCY_CRASH);
    assert_int_equal(rig->p.point.attempts, 1);
    later(rig);
    assert_int_equal(rig->quiesces, 1);
    rig_free(rig);
}

/* The spool fills as the round is opened: a freeze has been asked for by then, and is short; what
 * is read from a snapshot waits for the link, and so does the snapshot. */
static void a_snapshot_waits_for_room_in_the_spool(void **state)
{
    (void)state;
    for (int freeze = 0; freeze < 2; freeze++) {
        struct rig *rig = rig_seeded();
        change(rig, 1);
        later(rig);
        assert_int_equal(rig->p.point_count, 2); /* and not acknowledged */
        rig->p.epoch.quiesce = freeze ? REPL_QUIESCE_FREEZE : REPL_QUIESCE_SNAPSHOT;
        rig->fills = true;
        change(rig, 1);
        later(rig);
        assert_int_equal(rig->quiesces, freeze);
        acknowledge(rig);
        rig->p.options.spool_limit_bytes = 1u << 20;
        rig->fills = false;
        later(rig);
        assert_int_equal(rig->quiesces, 1);
        assert_int_equal(rig->p.point_count, 3);
        assert_int_equal(rig->p.point.cut, freeze ? REPL_CUT_FREEZE : REPL_CUT_SNAPSHOT);
        rig_free(rig);
    }
}

/* It would hold on to what is overwritten until the link is back. */
static void a_snapshot_does_not_wait_for_a_link_that_is_down(void **state)
{
    (void)state;
    for (int down = 0; down < 2; down++) {
        struct rig *rig = rig_seeded();
        change(rig, 1);
        later(rig);
        if (down)
            repl_pipeline_lost(&rig->p, "cut", rig->now_ns);
        rig->p.epoch.quiesce = REPL_QUIESCE_SNAPSHOT;
        rig->fills_late = true;
        change(rig, 1);
        later(rig);
        assert_int_equal(rig->quiesces, 1);
        assert_int_equal(rig->resumes, down);
        assert_int_equal(rig->p.round.phase, down ? REPL_ROUND_NONE : REPL_ROUND_OPENING);
        rig->p.options.spool_limit_bytes = 1u << 20;
        rig->fills_late = false;
        later(rig);
        assert_int_equal(rig->p.point_count, 3);
        assert_int_equal(rig->p.point.cut, REPL_CUT_SNAPSHOT);
        assert_int_equal(rig->quiesces, 1 + down);
        rig_free(rig);
    }
}

static void a_snapshot_that_fails_is_said(void **state)
{
    (void)state;
    struct repl_report report;
    struct rig *rig = rig_seeded();
    rig->p.epoch.quiesce = REPL_QUIESCE_SNAPSHOT;
    rig->quiesce_fails = true;
    change(rig, 1);
    later(rig);
    assert_true(rig->quiesces == 1 && rig->resumes == 0);
    assert_int_equal(rig->p.point_count, 2);
    assert_int_equal(rig->p.point.cut, REPL_CUT_WINDOW);
    repl_pipeline_report(&rig->p, rig->now_ns, &report);
    assert_string_equal(report.cause, "no room for a snapshot");
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_records_go_into_parts),
        cmocka_unit_test(nothing_to_be_said_is_no_point),
        cmocka_unit_test(a_point_per_file_is_followed_by_one_of_one_moment),
        cmocka_unit_test(what_is_given_up_is_said_again),
        cmocka_unit_test(a_full_that_is_given_up_is_begun_anew),
        cmocka_unit_test(an_adopted_full_that_is_given_up_is_begun_anew),
        cmocka_unit_test(an_adopted_full_is_the_sites),
        cmocka_unit_test(parts_without_an_end_are_left_behind_by_a_full),
        cmocka_unit_test(a_full_without_an_end_is_gone_on_with_unless_it_is_torn),
        cmocka_unit_test(what_may_have_been_missed_is_said_until_the_next_point),
        cmocka_unit_test(a_snapshot_comes_first),
        cmocka_unit_test(a_snapshot_waits_for_room_in_the_spool),
        cmocka_unit_test(a_snapshot_does_not_wait_for_a_link_that_is_down),
        cmocka_unit_test(a_snapshot_that_fails_is_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
