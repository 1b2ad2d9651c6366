#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "format/segment_format.h"
#include "pipeline_internal.h"
#include "unit/random.h"

#define MS         INT64_C(1000000)
#define SECOND     (1000 * MS)
#define START      (1000 * SECOND)
#define PAGES      40u
#define PAGES_MAX  1000u
#define PARKED     16u
#define BATCHES    4u
#define PLENTY     (1u << 30)
#define ACTION_MAX (REPL_PIPELINE_RECOVER + 1)

enum place { PLACE_IDLE, PLACE_OUT, PLACE_READ };

/* What outlives the agent: the disk, the tracker, the table's file and the site. */
struct world {
    struct repl_source_state state; /* as it is on disk */
    struct repl_page_digest digests[PAGES_MAX];
    uint8_t device[PAGES_MAX * REPL_PAGE_SIZE];
    struct repl_page_digest present[PAGES_MAX], site[PAGES_MAX];
    struct repl_head head; /* of the site */
    struct repl_write_counters counters;
    struct repl_audit_kernel kernel;
    struct repl_audit_counts counts;
    bool marked[PAGES_MAX], touched[PAGES_MAX];
    bool kept[PAGES_MAX]; /* taken from the tracker, and not settled yet */
    struct repl_track_record base;
    int64_t tracker_ns;
    bool missed; /* writes were, and were not made good yet */
};

/* A volume in memory, and a shell that does at once what it is told, unless a test holds it back;
 * but for the link, which each test plays itself. */
struct rig {
    struct repl_pipeline p;
    struct repl_batch batches[BATCHES];
    enum place places[BATCHES];
    uint64_t pages;
    int64_t now_ns;
    bool hold[ACTION_MAX], held[ACTION_MAX]; /* held: handed out, not answered */
    bool hold_reads, hold_reduced;
    bool read_fails, sink_fails, quiesce_fails, broken, grouped, others_torn, others_unproven;
    unsigned busy; /* samples, each with a write in its midst */
    unsigned count[ACTION_MAX], reduced;
    uint64_t pages_read;
    bool was_read[PAGES_MAX];
    struct repl_pipeline_action send, recover, supply, check;
    enum repl_settle settle;
    struct repl_source_state state_out;
    uint64_t released, dropped;
    bool keep_fails;
    uint64_t kept_number, acknowledged; /* of the last */
    uint32_t kept_references;
    uint32_t built_points; /* in the segment finished last */
};

static struct world world;
static struct rig the_rig;

static repl_result sink(void *context, const void *data, size_t size, struct repl_error *err)
{
    struct rig *rig = context;
    struct repl_segment_footer footer;
    if (size == REPL_SEGMENT_FOOTER_SIZE &&
        repl_ok(repl_segment_footer_decode(data, size, &footer, NULL)))
        rig->built_points = footer.point_count;
    return rig->sink_fails ? repl_fail(err, REPL_E_NOSPACE, "spool: no space") : REPL_SUCCESS;
}

/* --- the disk -------------------------------------------------------------------------------- */

static struct repl_page_digest present_digest(uint64_t page, uint64_t volume_size)
{
    static struct repl_sha256 *sha;
    struct repl_digest digest;
    uint64_t left = volume_size - page * REPL_PAGE_SIZE;
    if (sha == NULL)
        assert_true(repl_ok(repl_sha256_new(&sha, NULL)));
    repl_page_digest(sha, world.device + page * REPL_PAGE_SIZE,
                     left < REPL_PAGE_SIZE ? (size_t)left : REPL_PAGE_SIZE, &digest);
    return repl_page_digest_of(&digest);
}

static void put(struct rig *rig, uint64_t page, uint8_t value)
{
    memset(world.device + page * REPL_PAGE_SIZE, value, REPL_PAGE_SIZE);
    world.present[page] = present_digest(page, rig->p.options.volume_size);
}

/* What the tracker's two programs see of a write. */
enum seen { SEEN_NOT, SEEN_SUBMITTED, SEEN };

static void write_seen(struct rig *rig, uint64_t page, uint8_t value, enum seen seen)
{
    put(rig, page, value);
    world.counters.sectors_written += 8;
    world.kernel.done[REPL_AUDIT_WRITTEN] += REPL_PAGE_SIZE;
    if (seen >= SEEN_SUBMITTED) {
        world.counts.submitted[REPL_AUDIT_WRITTEN] += REPL_PAGE_SIZE;
        world.touched[page] = true;
    }
    if (seen == SEEN) {
        world.counts.completed[REPL_AUDIT_WRITTEN] += REPL_PAGE_SIZE;
        world.counters.marks++;
        world.marked[page] = true;
    } else {
        world.missed = true;
    }
}

static void write_page(struct rig *rig, uint64_t page, uint8_t value)
{
    write_seen(rig, page, value, SEEN);
}

static void flush(void)
{
    world.counters.flushes++;
    world.kernel.done[REPL_AUDIT_FLUSHES]++;
    world.counts.completed[REPL_AUDIT_FLUSHES]++;
}

/* --- what must always be true ---------------------------------------------------------------- */

static bool differs(uint64_t page)
{
    return memcmp(&world.present[page], &world.site[page], sizeof world.site[page]) != 0;
}

static bool is_out(const struct rig *rig, uint64_t page)
{
    for (unsigned b = 0; b < BATCHES; b++) {
        for (uint32_t i = 0; rig->places[b] != PLACE_IDLE && i < rig->batches[b].run_count; i++) {
            const struct repl_batch_run *run = &rig->batches[b].runs[i];
            if (page >= run->page && page < run->page + run->count)
                return true;
        }
    }
    return false;
}

static bool is_unsafe(const struct rig *rig, uint64_t page)
{
    const struct repl_bitmap *unsafe[REPL_PIPELINE_UNSAFE];
    repl_pipeline_unsafe(&rig->p, unsafe);
    for (unsigned i = 0; i < REPL_PIPELINE_UNSAFE; i++) {
        if (repl_bitmap_test(unsafe[i], page))
            return true;
    }
    return false;
}

static bool is_based(const struct rig *rig)
{
    return rig->p.epoch.tracked && rig->p.audit.base.completed_known != 0;
}

/* No page that the site lacks is forgotten; what the tracker missed is another matter. */
static void assert_none_forgotten(const struct rig *rig)
{
    if (!is_based(rig) || world.missed)
        return;
    for (uint64_t page = 0; page < rig->pages; page++) {
        if (differs(page) && !world.marked[page] && !is_unsafe(rig, page) && !is_out(rig, page))
            fail_msg("page %u is forgotten", (unsigned)page);
    }
}

/* Were the agent to end here, for good or by a power cut. */
static void assert_none_lost(const struct rig *rig)
{
    static const struct repl_head none;
    if (world.missed || repl_digest_equal(&rig->p.state.checkpoint.digest, &none.digest))
        return; /* then all is read */
    for (uint64_t page = 0; page < rig->pages; page++) {
        if (differs(page) && !world.marked[page] && !world.kept[page])
            fail_msg("page %u would be lost", (unsigned)page);
    }
}

/* --- the shell ------------------------------------------------------------------------------- */

static void take_marks(struct rig *rig, bool *from)
{
    for (uint64_t page = 0; page < rig->pages; page++) {
        if (!from[page])
            continue;
        repl_bitmap_set(&rig->p.round.dirty, page, 1);
        world.kept[page] = true;
    }
    if (from == world.marked)
        memset(world.marked, 0, sizeof world.marked);
}

static void settle(struct rig *rig, enum repl_settle how)
{
    rig->settle = how;
    for (uint64_t page = 0; how != REPL_SETTLE_NONE && page < rig->pages; page++)
        world.kept[page] = is_unsafe(rig, page) && (how == REPL_SETTLE_ALL || world.kept[page]);
    world.base = repl_pipeline_record(&rig->p);
    if (rig->p.round.dirty.set_count == rig->pages)
        world.missed = false;
    if (is_based(rig))
        assert_none_lost(rig);
}

static void audited(struct rig *rig)
{
    struct repl_audit_sample sample = {.at_ns = world.tracker_ns += MS, .before = world.kernel};
    sample.counts = world.counts;
    sample.after = world.kernel;
    if (rig->busy > 0) {
        rig->busy--;
        sample.after.done[REPL_AUDIT_WRITTEN]++;
    }
    repl_pipeline_audited(&rig->p, &sample, rig->now_ns);
}

static void quiesced(struct rig *rig)
{
    struct repl_error err = {0};
    repl_result result = REPL_SUCCESS;
    if (rig->quiesce_fails)
        result = repl_fail(&err, REPL_E_IO, "the filesystem cannot be frozen");
    repl_pipeline_quiesced(&rig->p, result, &err, rig->now_ns);
}

/* To what is said once and done. */
static void answer_round(struct rig *rig, enum repl_pipeline_action_type type)
{
    if (type == REPL_PIPELINE_SYNC) {
        repl_pipeline_synced(&rig->p);
    } else if (type == REPL_PIPELINE_QUIESCE) {
        quiesced(rig);
    } else if (type == REPL_PIPELINE_OPEN) {
        struct repl_write_counters counters = world.counters;
        take_marks(rig, world.marked);
        repl_pipeline_opened(&rig->p, rig->now_ns, &counters, rig->grouped);
    } else if (type == REPL_PIPELINE_CLOSE) {
        const struct repl_epoch_group torn = {.small = true};
        repl_pipeline_closed(&rig->p, rig->now_ns, &world.counters,
                             rig->others_torn ? &torn : NULL);
    } else if (type == REPL_PIPELINE_RESUME) {
        repl_pipeline_resumed(&rig->p, !rig->broken, rig->now_ns);
    } else if (type == REPL_PIPELINE_AUDIT) {
        audited(rig);
    } else if (type == REPL_PIPELINE_COMMIT) {
        repl_pipeline_commit(&rig->p, !rig->others_unproven, rig->now_ns);
    }
}

static void answer(struct rig *rig, enum repl_pipeline_action_type type)
{
    assert_true(rig->held[type]);
    rig->held[type] = false;
    if (type == REPL_PIPELINE_STATE) {
        world.state = rig->state_out;
        repl_pipeline_state_written(&rig->p);
    } else if (type == REPL_PIPELINE_CHECKPOINT) {
        repl_pipeline_checkpointed(&rig->p);
    } else {
        answer_round(rig, type);
    }
}

static bool is_answered(enum repl_pipeline_action_type type)
{
    switch (type) {
    case REPL_PIPELINE_SYNC:
    case REPL_PIPELINE_QUIESCE:
    case REPL_PIPELINE_OPEN:
    case REPL_PIPELINE_CLOSE:
    case REPL_PIPELINE_RESUME:
    case REPL_PIPELINE_AUDIT:
    case REPL_PIPELINE_COMMIT:
    case REPL_PIPELINE_STATE:
    case REPL_PIPELINE_CHECKPOINT:
        return true;
    default:
        return false;
    }
}

static void note(struct rig *rig, const struct repl_pipeline_action *action)
{
    if (action->type == REPL_PIPELINE_STATE)
        rig->state_out = *action->state;
    else if (action->type == REPL_PIPELINE_SEND)
        rig->send = *action;
    else if (action->type == REPL_PIPELINE_RELEASE)
        rig->released = action->number;
    else if (action->type == REPL_PIPELINE_SUPPLY)
        rig->supply = *action;
    else if (action->type == REPL_PIPELINE_DROP)
        rig->dropped = action->number;
    else if (action->type == REPL_PIPELINE_CHECK)
        rig->check = *action;
    else if (action->type == REPL_PIPELINE_RECOVER)
        rig->recover = *action;
}

static void act(struct rig *rig, const struct repl_pipeline_action *action)
{
    rig->count[action->type]++;
    note(rig, action);
    if (action->type == REPL_PIPELINE_REPAIR) {
        take_marks(rig, world.touched);
        world.missed = false;
    } else if (action->type == REPL_PIPELINE_SETTLE) {
        settle(rig, action->settle);
    } else if (action->type == REPL_PIPELINE_COALESCE) { /* as if it gained nothing */
        repl_pipeline_coalesced(&rig->p, (repl_result){REPL_E_NOSPACE}, action->into, NULL, NULL);
    } else if (is_answered(action->type)) {
        /* nothing twice before it was answered, but for a timer that is set anew, and what a group
         * holds back for a round that is gone */
        assert_true(!rig->held[action->type] || action->type == REPL_PIPELINE_AUDIT ||
                    action->type == REPL_PIPELINE_OPEN || action->type == REPL_PIPELINE_COMMIT);
        rig->held[action->type] = true;
        if (action->type == REPL_PIPELINE_OPEN) /* a group knows by it that the round is gone */
            rig->held[REPL_PIPELINE_COMMIT] = false;
        if (!rig->hold[action->type])
            answer(rig, action->type);
    }
}

static bool batch_fill(struct rig *rig, unsigned b)
{
    struct repl_batch *batch = &rig->batches[b];
    if (!repl_pipeline_fill(&rig->p, batch))
        return false;
    rig->places[b] = PLACE_OUT;
    return true;
}

static void batch_read(struct rig *rig, unsigned b)
{
    struct repl_batch *batch = &rig->batches[b];
    for (uint32_t i = 0; i < batch->read_count; i++) {
        const struct repl_batch_read *read = &batch->reads[i];
        memcpy(repl_batch_read_to(batch, read), world.device + read->page * REPL_PAGE_SIZE,
               repl_batch_read_size(batch, read));
        memset(rig->was_read + read->page, 1, read->count);
        rig->pages_read += read->count;
    }
    rig->places[b] = PLACE_READ;
    repl_pipeline_batch_read(&rig->p, batch);
    if (!rig->read_fails)
        return;
    struct repl_error err = {0};
    repl_result failed = repl_fail(&err, REPL_E_IO, "sector 8 cannot be read");
    rig->places[b] = PLACE_IDLE;
    repl_pipeline_batch_done(&rig->p, batch, failed, &err, rig->now_ns);
}

static bool batch_hand_in(struct rig *rig, unsigned b)
{
    struct repl_error err = {0};
    repl_result result = REPL_SUCCESS;
    enum repl_batch_fate fate = repl_pipeline_batch_fate(&rig->p, &rig->batches[b]);
    if (fate == REPL_BATCH_WAIT)
        return batch_fill(rig, b);
    if (fate == REPL_BATCH_REDUCE) {
        result = repl_batch_reduce(&rig->batches[b], &err);
        rig->reduced++;
    }
    rig->places[b] = PLACE_IDLE;
    repl_pipeline_batch_done(&rig->p, &rig->batches[b], result, &err, rig->now_ns);
    return true;
}

static bool batches_move(struct rig *rig)
{
    bool moved = false;
    for (unsigned b = 0; b < BATCHES; b++) {
        if (rig->places[b] == PLACE_IDLE) {
            moved = batch_fill(rig, b) || moved;
        } else if (rig->places[b] == PLACE_OUT && !rig->hold_reads) {
            batch_read(rig, b);
            moved = true;
        } else if (rig->places[b] == PLACE_READ && !rig->hold_reduced) {
            moved = batch_hand_in(rig, b) || moved;
        }
        assert_none_forgotten(rig);
    }
    return moved;
}

/* Until it waits. */
static int64_t run(struct rig *rig)
{
    struct repl_pipeline_action action;
    for (unsigned i = 0; i < 100000; i++) {
        repl_pipeline_next(&rig->p, rig->now_ns, &action);
        act(rig, &action);
        assert_none_forgotten(rig);
        if (action.type == REPL_PIPELINE_WAIT && !batches_move(rig))
            return action.until_ns;
    }
    fail_msg("it never waits");
    return 0;
}

static void later(struct rig *rig, int64_t span_ns)
{
    rig->now_ns += span_ns;
    if (rig->p.disk_full && !rig->sink_fails)
        repl_pipeline_spool_freed(&rig->p, rig->now_ns);
    run(rig);
}

/* Answers what is held, and holds it no longer. */
static void let(struct rig *rig, enum repl_pipeline_action_type type)
{
    rig->hold[type] = false;
    if (rig->held[type])
        answer(rig, type);
}

/* --- beginning and end ----------------------------------------------------------------------- */

struct setup {
    uint64_t pages, spool_limit_bytes, parked_pages;
    enum repl_quiesce quiesce;
    bool tracked;
    const struct repl_track_record *base;
};

static struct rig *rig_start(const struct setup *setup)
{
    struct rig *rig = &the_rig;
    memset(rig, 0, sizeof *rig);
    rig->now_ns = START;
    rig->pages = setup->pages != 0 ? setup->pages : PAGES;
    struct repl_pipeline_options options = {
        .volume_size = rig->pages * REPL_PAGE_SIZE - 512,
        .interval_ns = SECOND,
        .quiesce = setup->quiesce,
        .parked_pages = setup->parked_pages != 0 ? setup->parked_pages : PARKED,
        .audit = {.spacing_ns = MS, .enough = 3, .most = 20, .patience_ns = 50 * MS},
        .spool_limit_bytes = setup->spool_limit_bytes != 0 ? setup->spool_limit_bytes : PLENTY,
        .digests = world.digests,
        .sink = sink,
        .sink_context = rig};
    for (unsigned b = 0; b < BATCHES; b++)
        assert_true(repl_ok(repl_batch_init(&rig->batches[b], NULL)));
    assert_true(repl_ok(repl_pipeline_init(&rig->p, &options, &world.state, NULL)));
    if (!setup->tracked)
        return rig;
    if (repl_pipeline_track(&rig->p, setup->base, "the host was started anew"))
        take_marks(rig, world.kept);
    return rig;
}

/* A new world, and an agent in it. */
static struct rig *rig_new(const struct setup *setup)
{
    memset(&world, 0, sizeof world);
    world.state = (struct repl_source_state){.lineage = 1, .next_seq = 1};
    world.counters.write_back = true;
    struct rig *rig = rig_start(setup);
    for (uint64_t i = 0; i < PAGES_MAX; i++)
        memset(world.device + i * REPL_PAGE_SIZE, (int)(i % 5), REPL_PAGE_SIZE);
    for (uint64_t i = 0; i < rig->pages; i++)
        world.present[i] = present_digest(i, rig->p.options.volume_size);
    return rig;
}

static struct rig *rig_plain(void)
{
    return rig_new(&(struct setup){.pages = PAGES});
}

static void rig_free(struct rig *rig)
{
    repl_pipeline_fini(&rig->p);
    for (unsigned b = 0; b < BATCHES; b++)
        repl_batch_fini(&rig->batches[b]);
}

/* The agent ended, however it did; what the site has stays. */
static struct rig *rig_again(struct rig *rig, const struct setup *setup)
{
    rig_free(rig);
    return rig_start(setup);
}

static void welcome(struct rig *rig, const struct repl_head *head)
{
    struct repl_welcome message = {.known = head != NULL};
    if (head != NULL)
        message.head = *head;
    else
        memset(world.site, 0, sizeof world.site);
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

/* The site has the segment on its way, whether we are told or not. */
static void site_commits(struct rig *rig)
{
    const struct repl_pipeline_segment *segment = rig->p.segments.oldest;
    assert_true(segment != NULL && segment->number == rig->send.number);
    const struct repl_batch_digest *digests = (const void *)segment->digests.data;
    for (size_t i = 0; i < segment->digests.size / sizeof *digests; i++)
        world.site[digests[i].page] = digests[i].digest;
    world.head = head_of_number(rig, rig->send.number);
}

/* The segment on its way is the site's now. */
static struct repl_head acknowledge(struct rig *rig)
{
    site_commits(rig);
    struct repl_ack ack = {.head = world.head};
    repl_pipeline_ack(&rig->p, rig->send.number, &ack, rig->now_ns);
    run(rig);
    return ack.head;
}

static void acknowledge_all(struct rig *rig)
{
    for (unsigned i = 0; i < 100 && rig->p.ship.state == REPL_SHIP_SENDING; i++) {
        const struct repl_ship_segment *s = repl_ship_find(&rig->p.ship, rig->send.number);
        if (s == NULL || !s->complete || rig->released < s->number)
            return;
        acknowledge(rig);
    }
}

/* A volume seeded, its first point acknowledged. */
static struct rig *rig_seeded_as(const struct setup *setup)
{
    struct rig *rig = rig_new(setup);
    run(rig);
    welcome(rig, NULL);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 1 && rig->released == 1);
    acknowledge(rig);
    return rig;
}

static struct rig *rig_seeded(void)
{
    return rig_seeded_as(&(struct setup){.pages = PAGES});
}

static struct rig *rig_tracked(enum repl_quiesce quiesce)
{
    struct rig *rig = rig_seeded_as(&(struct setup){.tracked = true, .quiesce = quiesce});
    assert_true(rig->p.point_count == 1);
    return rig;
}

static struct repl_report report_of(struct rig *rig)
{
    struct repl_report report;
    repl_pipeline_report(&rig->p, rig->now_ns, &report);
    return report;
}

static void assert_site_is_device(const struct rig *rig)
{
    for (uint64_t page = 0; page < rig->pages; page++)
        assert_false(differs(page));
}

/* --- without a tracker ----------------------------------------------------------------------- */

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

static repl_result grow(struct rig *rig, uint64_t pages)
{
    uint64_t before = rig->pages - 1;
    struct repl_error err;
    repl_result result = repl_pipeline_grow(&rig->p, pages * REPL_PAGE_SIZE, world.digests, &err);
    rig->pages = pages;
    for (uint64_t page = before; page < pages; page++)
        world.present[page] = present_digest(page, pages * REPL_PAGE_SIZE);
    return result;
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
                                            .sink = sink};
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

/* --- deduplication --------------------------------------------------------------------------- */

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

/* --- with a tracker -------------------------------------------------------------------------- */

static void stop_and_wait(struct rig *rig)
{
    repl_pipeline_stop(&rig->p, rig->now_ns);
    run(rig);
    assert_true(repl_pipeline_stopped(&rig->p));
}

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
    acknowledge(rig);
    later(rig, SECOND);
    assert_true(rig->count[REPL_PIPELINE_OPEN] > opens);
    for (unsigned i = 0; i < 20; i++) {
        acknowledge_all(rig);
        later(rig, SECOND);
    }
    assert_site_is_device(rig);
    rig_free(rig);
}

/* --- quiesced -------------------------------------------------------------------------------- */

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

/* --- stopping -------------------------------------------------------------------------------- */

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

/* --- groups ---------------------------------------------------------------------------------- */

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

/* --- whatever happens ------------------------------------------------------------------------ */

static struct rig *chance_crash(struct rig *rig, struct setup *setup)
{
    static struct repl_track_record base;
    int64_t now_ns = rig->now_ns;
    assert_none_lost(rig);
    base = world.base;
    setup->base = base.base.completed_known != 0 ? &base : NULL;
    rig = rig_again(rig, setup);
    rig->now_ns = now_ns;
    return rig;
}

/* The site answers, or does not; or has forgotten the volume. */
static void chance_link(struct rig *rig, struct random *random)
{
    static const struct repl_head none;
    struct repl_head *head =
        repl_digest_equal(&world.head.digest, &none.digest) ? NULL : &world.head;
    uint64_t what = random_below(random, 20);
    if (rig->p.ship.state == REPL_SHIP_GREETING && rig->p.recovering) {
        repl_pipeline_forget(&rig->p, 0, PAGES * REPL_PAGE_SIZE);
        repl_pipeline_recovered(&rig->p, rig->now_ns);
    } else if (rig->p.ship.state == REPL_SHIP_GREETING && what < 12) {
        if (what == 0)
            world.head = none;
        welcome(rig, what == 0 ? NULL : head);
    } else if (rig->p.ship.state == REPL_SHIP_SENDING && what < 12) {
        const struct repl_ship_segment *s = repl_ship_find(&rig->p.ship, rig->send.number);
        if (s == NULL || !s->complete || rig->released < s->number)
            return;
        if (what > 0)
            acknowledge(rig);
        else
            site_commits(rig); /* and the answer is lost */
    } else if (what == 12 && rig->p.ship.state == REPL_SHIP_SENDING) {
        repl_pipeline_lost(&rig->p, "gone", rig->now_ns);
    }
}

static void chance_hold(struct rig *rig, struct random *random)
{
    static const enum repl_pipeline_action_type steps[] = {
        REPL_PIPELINE_SYNC,   REPL_PIPELINE_QUIESCE, REPL_PIPELINE_OPEN,
        REPL_PIPELINE_CLOSE,  REPL_PIPELINE_AUDIT,   REPL_PIPELINE_RESUME,
        REPL_PIPELINE_COMMIT, REPL_PIPELINE_STATE,   REPL_PIPELINE_CHECKPOINT,
    };
    enum repl_pipeline_action_type step = steps[random_below(random, 9)];
    if (random_below(random, 3) == 0)
        rig->hold[step] = true;
    else
        let(rig, step);
    rig->hold_reads = random_below(random, 4) == 0;
    rig->hold_reduced = random_below(random, 4) == 0;
}

static void chance_fault(struct rig *rig, struct random *random)
{
    rig->read_fails = random_below(random, 8) == 0;
    rig->sink_fails = random_below(random, 8) == 0;
    if (random_below(random, 40) == 0 && rig->p.segments.oldest != NULL) {
        struct repl_error err = {0};
        repl_ignore(repl_fail(&err, REPL_E_NOSPACE, "full"));
        repl_pipeline_spool_full(&rig->p, rig->p.number - random_below(random, 3), &err,
                                 rig->now_ns);
        run(rig); /* before anything is asked of what is gone */
    }
    rig->quiesce_fails = random_below(random, 4) == 0;
    rig->broken = random_below(random, 8) == 0;
    rig->busy = random_below(random, 8) == 0 ? (unsigned)random_below(random, 70) : 0;
    rig->grouped = random_below(random, 4) == 0;
    rig->others_torn = rig->grouped && random_below(random, 4) == 0;
    rig->others_unproven = rig->grouped && random_below(random, 4) == 0;
    if (rig->p.hold == REPL_HOLD_ON && random_below(random, 3) == 0)
        repl_pipeline_resumed(&rig->p, false, rig->now_ns);
}

static void chance_write(struct rig *rig, struct random *random)
{
    uint64_t count = random_below(random, 12) == 0 ? PARKED + 5 : random_below(random, 3);
    for (uint64_t i = 0; i < count; i++)
        write_seen(rig, random_below(random, PAGES), (uint8_t)random_below(random, 3),
                   random_below(random, 40) == 0 ? SEEN_SUBMITTED : SEEN);
    if (random_below(random, 6) == 0)
        flush();
}

/* All is well again, for long enough. */
static void calm(struct rig *rig)
{
    static const struct repl_head none;
    rig->read_fails = rig->sink_fails = rig->quiesce_fails = rig->broken = false;
    rig->busy = 0;
    rig->grouped = rig->others_torn = rig->others_unproven = false;
    rig->hold_reads = rig->hold_reduced = false;
    for (unsigned type = 0; type < ACTION_MAX; type++)
        let(rig, type);
    for (unsigned i = 0; i < 200; i++) {
        later(rig, SECOND);
        if (rig->p.recovering) {
            repl_pipeline_forget(&rig->p, 0, PAGES * REPL_PAGE_SIZE);
            repl_pipeline_recovered(&rig->p, rig->now_ns);
        } else if (rig->p.ship.state == REPL_SHIP_GREETING) {
            welcome(rig, repl_digest_equal(&world.head.digest, &none.digest) ? NULL : &world.head);
        }
        acknowledge_all(rig);
    }
}

static void chance(enum repl_quiesce quiesce, uint64_t spool_limit_bytes, struct random *random)
{
    struct setup setup = {.pages = PAGES,
                          .tracked = true,
                          .quiesce = quiesce,
                          .spool_limit_bytes = spool_limit_bytes};
    struct rig *rig = rig_new(&setup);
    for (unsigned i = 0; i < 600; i++) {
        chance_write(rig, random);
        chance_hold(rig, random);
        chance_fault(rig, random);
        chance_link(rig, random);
        if (random_below(random, 100) == 0)
            rig = chance_crash(rig, &setup);
        later(rig, (int64_t)random_below(random, 3) * SECOND / 2);
    }
    calm(rig);
    assert_site_is_device(rig);
    assert_true(rig->p.point_count > 0 && rig->p.hold == REPL_HOLD_NONE);
    assert_true(report_of(rig).state <= REPL_STATE_IDLE);
    uint64_t points = rig->p.point_count;
    write_page(rig, 1, 99);
    later(rig, SECOND);
    assert_true(rig->p.point_count == points + 1);
    acknowledge(rig);
    stop_and_wait(rig);
    rig_free(rig);
}

static void no_page_is_ever_forgotten(void **state)
{
    (void)state;
    struct random random = random_begin("pipeline", 1);
    for (int quiesce = REPL_QUIESCE_WINDOW; quiesce <= REPL_QUIESCE_COMMAND; quiesce++) {
        for (unsigned i = 0; i < 6; i++)
            chance(quiesce, i % 2 == 0 ? PLENTY : 3000, &random);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seeds_and_follows),
        cmocka_unit_test(the_end_is_held_until_the_state_is_durable),
        cmocka_unit_test(a_page_on_its_way_is_sent_again),
        cmocka_unit_test(an_unreadable_device_is_said_and_forgotten),
        cmocka_unit_test(a_full_disk_gives_up_the_segment),
        cmocka_unit_test(a_disk_that_is_full_loses_the_end_of_the_chain),
        cmocka_unit_test(what_the_site_says_is_not_a_link_that_is_down),
        cmocka_unit_test(what_has_rotted_in_the_spool_is_sent_anew),
        cmocka_unit_test(what_is_whole_in_the_spool_is_the_link_or_the_site),
        cmocka_unit_test(a_small_spool_does_not_stop_the_volume),
        cmocka_unit_test(growth_ends_the_part),
        cmocka_unit_test(growth_alone_is_a_change),
        cmocka_unit_test(growth_survives_a_full_disk),
        cmocka_unit_test(recovers_from_what_the_site_has),
        cmocka_unit_test(what_the_site_wants_again_is_sent),
        cmocka_unit_test(what_was_sent_and_is_kept_need_not_be_asked_for),
        cmocka_unit_test(a_lost_site_is_filled_anew),
        cmocka_unit_test(without_a_checkpoint_nothing_is_known),
        cmocka_unit_test(a_full_list_of_sent_segments_is_no_dead_end),
        cmocka_unit_test(supplies_name_their_segment),
        cmocka_unit_test(keeps_what_is_referred_to),
        cmocka_unit_test(what_is_kept_counts_against_the_spool),
        cmocka_unit_test(what_cannot_be_kept_is_not_sent),
        cmocka_unit_test(stops_with_a_checkpoint),
        cmocka_unit_test(says_why_there_is_no_point),
        cmocka_unit_test(hello_says_who_it_is),
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
        cmocka_unit_test(the_newest_point_at_the_site_keeps_its_times),
        cmocka_unit_test(audits_without_a_verdict_tear_the_round),
        cmocka_unit_test(a_round_waits_for_the_batches_of_the_one_before),
        cmocka_unit_test(a_busy_device_gets_its_base_in_the_end),
        cmocka_unit_test(a_chain_that_begins_anew_has_all),
        cmocka_unit_test(a_chain_may_begin_anew_at_any_time),
        cmocka_unit_test(an_unreadable_page_stays_dirty),
        cmocka_unit_test(growth_is_settled),
        cmocka_unit_test(with_a_full_spool_nothing_is_opened),
        cmocka_unit_test(a_frozen_round_is_held),
        cmocka_unit_test(a_freeze_that_ended_early_is_no_proof),
        cmocka_unit_test(a_freeze_may_end_by_itself_at_any_time),
        cmocka_unit_test(a_freeze_that_fails_is_said),
        cmocka_unit_test(no_window_is_frozen_where_that_is_allowed),
        cmocka_unit_test(between_commands_a_torn_window_is_tried_again),
        cmocka_unit_test(a_late_sample_is_not_heard),
        cmocka_unit_test(a_record_of_a_later_history_is_of_no_use),
        cmocka_unit_test(a_site_that_went_back_is_given_everything),
        cmocka_unit_test(a_site_that_goes_back_meanwhile_is_noticed),
        cmocka_unit_test(a_site_that_went_back_further_is_given_everything),
        cmocka_unit_test(digests_that_the_site_lost_are_not_believed),
        cmocka_unit_test(a_freeze_does_not_wait_for_the_link),
        cmocka_unit_test(stops_at_any_time),
        cmocka_unit_test(stops_with_batches_out),
        cmocka_unit_test(a_failing_quiesce_stops_too),
        cmocka_unit_test(a_group_cuts_together),
        cmocka_unit_test(what_befalls_the_others_befalls_it),
        cmocka_unit_test(what_the_others_spoil_is_not_proven),
        cmocka_unit_test(a_volume_of_a_group_may_be_hurried),
        cmocka_unit_test(no_page_is_ever_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
