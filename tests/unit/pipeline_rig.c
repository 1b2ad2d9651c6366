#include "unit/pipeline_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "format/segment_format.h"

struct world world;
static struct rig the_rig;

repl_result rig_sink(void *context, const void *data, size_t size, struct repl_error *err)
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

void put(struct rig *rig, uint64_t page, uint8_t value)
{
    memset(world.device + page * REPL_PAGE_SIZE, value, REPL_PAGE_SIZE);
    world.present[page] = present_digest(page, rig->p.options.volume_size);
}

void write_seen(struct rig *rig, uint64_t page, uint8_t value, enum seen seen)
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

void write_page(struct rig *rig, uint64_t page, uint8_t value)
{
    write_seen(rig, page, value, SEEN);
}

void flush(void)
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

bool is_out(const struct rig *rig, uint64_t page)
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
void assert_none_lost(const struct rig *rig)
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

void answer(struct rig *rig, enum repl_pipeline_action_type type)
{
    assert_true(rig->held[type]);
    rig->held[type] = false;
    if (type == REPL_PIPELINE_STATE) {
        world.state = rig->state_out;
        repl_pipeline_state_written(&rig->p);
    } else if (type == REPL_PIPELINE_CHECKPOINT) {
        memcpy(world.durable, world.digests, sizeof world.durable);
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
int64_t run(struct rig *rig)
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

void later(struct rig *rig, int64_t span_ns)
{
    rig->now_ns += span_ns;
    if (rig->p.disk_full && !rig->sink_fails)
        repl_pipeline_spool_freed(&rig->p, rig->now_ns);
    run(rig);
}

/* Answers what is held, and holds it no longer. */
void let(struct rig *rig, enum repl_pipeline_action_type type)
{
    rig->hold[type] = false;
    if (rig->held[type])
        answer(rig, type);
}

/* --- beginning and end ----------------------------------------------------------------------- */

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
        .sink = rig_sink,
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
struct rig *rig_new(const struct setup *setup)
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

struct rig *rig_plain(void)
{
    return rig_new(&(struct setup){.pages = PAGES});
}

void rig_free(struct rig *rig)
{
    repl_pipeline_fini(&rig->p);
    for (unsigned b = 0; b < BATCHES; b++)
        repl_batch_fini(&rig->batches[b]);
}

/* The agent ended, however it did; what the site has stays. */
struct rig *rig_again(struct rig *rig, const struct setup *setup)
{
    rig_free(rig);
    return rig_start(setup);
}

void table_put_back(void)
{
    memcpy(world.digests, world.durable, sizeof world.digests);
}

void welcome(struct rig *rig, const struct repl_head *head)
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
void site_commits(struct rig *rig)
{
    const struct repl_pipeline_segment *segment = rig->p.segments.oldest;
    assert_true(segment != NULL && segment->number == rig->send.number);
    const struct repl_batch_digest *digests = (const void *)segment->digests.data;
    const struct repl_head head = head_of_number(rig, rig->send.number);
    if (head.from_seq == 0 && head.part == 0)
        memset(world.site, 0, sizeof world.site);
    for (size_t i = 0; i < segment->digests.size / sizeof *digests; i++)
        world.site[digests[i].page] = digests[i].digest;
    world.head = head;
}

/* The segment on its way is the site's now. */
struct repl_head acknowledge(struct rig *rig)
{
    site_commits(rig);
    struct repl_ack ack = {.head = world.head};
    repl_pipeline_ack(&rig->p, rig->send.number, &ack, rig->now_ns);
    run(rig);
    return ack.head;
}

void acknowledge_all(struct rig *rig)
{
    for (unsigned i = 0; i < 100 && rig->p.ship.state == REPL_SHIP_SENDING; i++) {
        const struct repl_ship_segment *s = repl_ship_find(&rig->p.ship, rig->send.number);
        if (s == NULL || !s->complete || rig->released < s->number)
            return;
        acknowledge(rig);
    }
}

/* A volume seeded, its first point acknowledged. */
struct rig *rig_seeded_as(const struct setup *setup)
{
    struct rig *rig = rig_new(setup);
    run(rig);
    welcome(rig, NULL);
    assert_true(rig->count[REPL_PIPELINE_SEND] == 1 && rig->released == 1);
    acknowledge(rig);
    return rig;
}

struct rig *rig_seeded(void)
{
    return rig_seeded_as(&(struct setup){.pages = PAGES});
}

struct rig *rig_tracked(enum repl_quiesce quiesce)
{
    struct rig *rig = rig_seeded_as(&(struct setup){.tracked = true, .quiesce = quiesce});
    assert_true(rig->p.point_count == 1);
    return rig;
}

struct repl_report report_of(struct rig *rig)
{
    struct repl_report report;
    repl_pipeline_report(&rig->p, rig->now_ns, &report);
    return report;
}

void assert_site_is_device(const struct rig *rig)
{
    for (uint64_t page = 0; page < rig->pages; page++)
        assert_false(differs(page));
}

repl_result grow(struct rig *rig, uint64_t pages)
{
    uint64_t before = rig->pages - 1;
    struct repl_error err;
    repl_result result = repl_pipeline_grow(&rig->p, pages * REPL_PAGE_SIZE, world.digests, &err);
    rig->pages = pages;
    for (uint64_t page = before; page < pages; page++)
        world.present[page] = present_digest(page, pages * REPL_PAGE_SIZE);
    return result;
}

void stop_and_wait(struct rig *rig)
{
    repl_pipeline_stop(&rig->p, rig->now_ns);
    run(rig);
    assert_true(repl_pipeline_stopped(&rig->p));
}
