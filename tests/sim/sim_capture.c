#include "sim.h"

#include <string.h>

/*
 * From the clock to a point, as agent/source/source_round.c does it: it reads
 * counters and pages, takes marks, takes samples and settles. Between any two
 * steps time passes, as whoever writes does not wait for the source. What it
 * must keep to beyond the words of pipeline.h:
 *
 *   - a sample of the tracker that was asked for takes the place of one that was
 *     asked for before and has not been handed in;
 *   - what is settled becomes so before the baseline is saved: a process that
 *     dies between the two is worse off, but not wrong;
 *   - what was added to the device while no source ran is read.
 */

static int64_t pace(const struct sim_source *source)
{
    return sim_span(source->sim, 1000, source->sim->pace_ns);
}

static bool is_tracked(const struct sim_source *source)
{
    return source->pipeline.epoch.tracked;
}

/* --- reading --------------------------------------------------------------------------------- */

static uint64_t page_at(const struct repl_batch *batch, uint32_t index)
{
    uint32_t run = 0;
    while (index >= batch->runs[run].count)
        index -= batch->runs[run++].count;
    return batch->runs[run].page + index;
}

static uint32_t pages_to_read(const struct sim_reading *reading)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < reading->read_count; i++)
        count += reading->reads[i].count;
    return count;
}

static void read_page(struct sim_source *source, struct sim_reading *reading, uint32_t index)
{
    struct repl_batch *batch = reading->batch;
    const struct repl_batch_read *read = reading->reads;
    while (index >= read->count)
        index -= read++->count;
    const struct repl_batch_read one = {
        .page = read->page + index, .count = 1, .place = read->place + index};
    reading->tags[one.place] = source->device.landed[one.page].tag;
    sim_page_fill(reading->tags[one.place], repl_batch_read_to(batch, &one),
                  repl_batch_read_size(batch, &one));
}

/* What the pipeline has taken is what the next point holds. */
static void reading_taken(struct sim_source *source, const struct sim_reading *reading)
{
    for (uint32_t i = 0; i < reading->batch->page_count; i++) {
        uint64_t page = page_at(reading->batch, i);
        if (!repl_bitmap_test(&source->pipeline.round.dirty, page))
            source->read_tags[page] = reading->tags[i];
    }
}

static void hand_in(struct sim_source *source, struct sim_reading *reading)
{
    struct sim *sim = source->sim;
    struct repl_batch *batch = reading->batch;
    struct repl_error err = {0};
    repl_result result = REPL_SUCCESS;
    if (reading->failed)
        result = repl_fail(&err, REPL_E_IO, "device: read failed");
    bool reduced = reading->state == SIM_REDUCING;
    if (repl_ok(result) && reduced)
        result = repl_batch_reduce(batch, &err);
    if (sim->options.bug == SIM_BUG_DIGESTS_AT_SEND) {
        for (uint32_t i = 0; repl_ok(result) && reduced && i < batch->digest_count; i++)
            repl_digest_table_set(&source->pipeline.table, batch->digests[i].page,
                                  &batch->digests[i].digest, 0);
    }
    reading->state = SIM_READING_IDLE;
    repl_pipeline_batch_done(&source->pipeline, batch, result, &err, sim_source_now(source));
    reading_taken(source, reading);
}

static void reduced(void *actor, uint64_t index, void *payload)
{
    struct sim_source *source = actor;
    (void)payload;
    hand_in(source, &source->readings[index]);
    sim_source_run(source);
}

static void reading_step(void *actor, uint64_t index, void *payload)
{
    struct sim_source *source = actor;
    struct sim *sim = source->sim;
    struct sim_reading *reading = &source->readings[index];
    (void)payload;
    uint32_t left = pages_to_read(reading) - reading->done;
    if (left > 0) {
        for (uint32_t n = 1 + (uint32_t)sim_random(sim, left); n > 0; n--)
            read_page(source, reading, reading->done++);
        sim_after(sim, sim_span(sim, SIM_MS / 100, 30 * SIM_MS), &source->life, reading_step,
                  source, index, NULL, NULL);
        return;
    }
    bool fails = !sim->calm && sim_chance(sim, sim->faults.device_read);
    if (fails) {
        sim->counts->read_failures++;
        memset(reading->batch->pages, 0, REPL_FRAME_RAW_MAX);
    }
    reading->failed = fails && sim->options.bug != SIM_BUG_FAILED_READ;
    reading->state = SIM_READING_DONE;
    if (sim->options.bug != SIM_BUG_READ_EARLY)
        repl_pipeline_batch_read(&source->pipeline, reading->batch);
    sim_source_run(source);
}

static void reduce_begin(struct sim_source *source, unsigned index)
{
    struct sim *sim = source->sim;
    source->readings[index].state = SIM_REDUCING;
    int64_t most_ns = sim_chance(sim, sim->slow_work) ? sim->reduce_ns : SIM_MS;
    sim_after(sim, sim_span(sim, SIM_MS / 100, most_ns), &source->life, reduced, source, index,
              NULL, NULL);
}

/* True: something was handed in. */
static bool read_go_on(struct sim_source *source)
{
    bool any = false;
    for (unsigned i = 0; i < SIM_BATCHES; i++) {
        struct sim_reading *reading = &source->readings[i];
        if (reading->state != SIM_READING_DONE)
            continue;
        enum repl_batch_fate fate = repl_pipeline_batch_fate(&source->pipeline, reading->batch);
        if (reading->failed || fate == REPL_BATCH_DISCARD) {
            hand_in(source, reading);
            any = true;
        } else if (fate == REPL_BATCH_REDUCE) {
            reduce_begin(source, i);
        }
    }
    return any;
}

static bool is_parked(const struct sim_source *source, const struct sim_reading *reading)
{
    return reading->state == SIM_READING_DONE &&
           repl_pipeline_batch_fate(&source->pipeline, reading->batch) == REPL_BATCH_WAIT;
}

static void reading_begin(struct sim_source *source, unsigned index, uint32_t kept_pages)
{
    struct sim_reading *reading = &source->readings[index];
    const struct repl_batch *batch = reading->batch;
    enum sim_bug bug = source->sim->options.bug;
    reading->state = SIM_READING_UNDER_WAY;
    reading->done = reading->read_count = 0;
    for (uint32_t i = 0; i < batch->read_count; i++) {
        bool again = batch->reads[i].place < kept_pages;
        source->sim->counts->read_again += again;
        if (!again || bug != SIM_BUG_PARKED_STALE)
            reading->reads[reading->read_count++] = batch->reads[i];
    }
    if (bug == SIM_BUG_READ_EARLY)
        repl_pipeline_batch_read(&source->pipeline, reading->batch);
    reading_step(source, index, NULL);
}

static void fill(struct sim_source *source)
{
    for (unsigned i = 0; i < source->sim->batch_count; i++) {
        struct sim_reading *reading = &source->readings[i];
        bool parked = is_parked(source, reading);
        uint32_t kept_pages = parked ? reading->batch->page_count : 0;
        if ((parked || reading->state == SIM_READING_IDLE) &&
            repl_pipeline_fill(&source->pipeline, reading->batch))
            reading_begin(source, i, kept_pages);
    }
}

void sim_capture_run(struct sim_source *source)
{
    if (read_go_on(source))
        sim_after(source->sim, 0, &source->life, sim_source_wake, source, 0, NULL, NULL);
    fill(source);
}

/* --- open ------------------------------------------------------------------------------------ */

static void counters_read(const struct sim_source *source, struct repl_write_counters *out)
{
    const struct sim_device *device = &source->device;
    enum sim_bug bug = source->sim->options.bug;
    *out = (struct repl_write_counters){
        .sectors_written = device->kernel.done[REPL_AUDIT_WRITTEN] / SIM_SECTOR,
        .sectors_discarded = device->kernel.done[REPL_AUDIT_DISCARDED] / SIM_SECTOR};
    if (!is_tracked(source))
        return;
    out->write_back = device->write_back || bug == SIM_BUG_CACHE_ASSUMED;
    out->flushes = source->tracker.counts.completed[REPL_AUDIT_FLUSHES];
    out->fua_writes = bug == SIM_BUG_FUA_UNCOUNTED ? 0 : source->tracker.fua_writes;
    out->marks = bug == SIM_BUG_MARKS_UNCOUNTED ? 0 : source->tracker.marks;
}

enum open_step { OPEN_CLOCK, OPEN_COUNTERS, OPEN_EXCHANGE, OPEN_STEPS };

static const enum open_step open_order[OPEN_STEPS] = {OPEN_CLOCK, OPEN_COUNTERS, OPEN_EXCHANGE};
static const enum open_step exchange_first[OPEN_STEPS] = {OPEN_CLOCK, OPEN_EXCHANGE, OPEN_COUNTERS};
static const enum open_step clock_last[OPEN_STEPS] = {OPEN_COUNTERS, OPEN_EXCHANGE, OPEN_CLOCK};

static uint64_t hold_of(const struct sim_source *source)
{
    return source->guard.state == SIM_GUARD_ON ? source->guard.hold : 0;
}

/* The time whose completed writes the point promises to have. */
static void open_clock(struct sim_source *source)
{
    struct sim_round *round = &source->round;
    const struct sim_device *device = &source->device;
    source->open_ns = sim_source_now(source);
    round->size = source->pipeline.options.volume_size;
    round->page_count = (uint32_t)source->pipeline.table.page_count;
    round->open_hold = hold_of(source);
    memcpy(round->open_landed, device->landed, sizeof round->open_landed);
    memcpy(round->open_stable, device->stable, sizeof round->open_stable);
}

static void opened(struct sim_source *source)
{
    struct sim *sim = source->sim;
    struct repl_pipeline *p = &source->pipeline;
    struct repl_digest digest = repl_ship_tail(&p->ship).digest;
    bool grouped = !sim->calm && sim->grouped && sim_chance(sim, 800);
    bool awaited = p->round.phase == REPL_ROUND_OPENING;
    source->opening = 0;
    repl_pipeline_opened(p, source->open_ns, &source->counters, grouped);
    if (awaited && p->round.phase == REPL_ROUND_NONE) {
        source->verified_until_ns = p->unchanged_until_ns;
        source->verified_digest = digest;
        sim_check_claim(source, &digest);
    }
    sim_source_run(source);
}

/* of: step, behind the number of the opening, which is over when another one has begun: what it was
 * for is gone. */
static void open_step(void *actor, uint64_t of, void *payload)
{
    struct sim_source *source = actor;
    enum sim_bug bug = source->sim->options.bug;
    uint64_t step = of % (OPEN_STEPS + 1);
    (void)payload;
    if (of - step != source->opening)
        return;
    const enum open_step *order = bug == SIM_BUG_EXCHANGE_FIRST ? exchange_first
                                  : bug == SIM_BUG_CLOCK_LAST   ? clock_last
                                                                : open_order;
    if (step == OPEN_STEPS) {
        opened(source);
        return;
    }
    switch (order[step]) {
    case OPEN_CLOCK:
        open_clock(source);
        break;
    case OPEN_COUNTERS:
        counters_read(source, &source->counters);
        break;
    default:
        if (is_tracked(source))
            sim_tracker_exchange(&source->tracker, &source->pipeline.round.dirty);
    }
    sim_after(source->sim, pace(source), &source->life, open_step, source, of + 1, NULL, NULL);
}

void sim_capture_open(struct sim_source *source)
{
    source->opening = source->openings += OPEN_STEPS + 1;
    open_step(source, source->opening, NULL);
}

static void synced(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    (void)argument;
    (void)payload;
    sim_capture_grow(source);
    repl_pipeline_synced(&source->pipeline);
    sim_source_run(source);
}

static void sample_take(struct sim_source *source);

void sim_capture_sync(struct sim_source *source)
{
    struct sim *sim = source->sim;
    if (sim_chance(sim, 500))
        sim_device_flush(&source->device);
    if (sim->options.bug == SIM_BUG_STALE_SAMPLE && is_tracked(source))
        sample_take(source);
    sim_after(sim, sim_span(sim, SIM_MS / 10, SIM_SECOND), &source->life, synced, source, 0, NULL,
              NULL);
}

/* --- close ----------------------------------------------------------------------------------- */

static void closed(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct sim *sim = source->sim;
    struct repl_pipeline *p = &source->pipeline;
    (void)argument;
    (void)payload;
    uint64_t torn = p->torn_rounds;
    bool grouped = p->grouped && !sim->calm;
    struct repl_epoch_group group = {0};
    if (grouped)
        group = (struct repl_epoch_group){.whole = sim_chance(sim, 800),
                                          .small = sim_chance(sim, 800),
                                          .give_up = sim_chance(sim, 100)};
    repl_pipeline_closed(p, sim_source_now(source), &source->counters, grouped ? &group : NULL);
    sim->counts->torn += p->torn_rounds - torn;
    sim->counts->torn_small += p->round.parked ? p->torn_rounds - torn : 0;
    sim_source_run(source);
}

static void close_counters(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct sim_round *round = &source->round;
    const struct sim_device *device = &source->device;
    (void)argument;
    (void)payload;
    enum sim_bug bug = source->sim->options.bug;
    if (bug != SIM_BUG_COUNTERS_AFTER)
        counters_read(source, &source->counters);
    if (bug == SIM_BUG_CLEAR_LATE)
        memset(source->tracker.landed, 0, sizeof source->tracker.landed);
    round->hold = hold_of(source);
    round->landing_end = device->landing_count;
    memcpy(round->close_landed, device->landed, sizeof round->close_landed);
    memcpy(round->close_durable, device->durable, sizeof round->close_durable);
    sim_after(source->sim, pace(source), &source->life, closed, source, 0, NULL, NULL);
}

void sim_capture_close(struct sim_source *source)
{
    sim_after(source->sim, pace(source), &source->life, close_counters, source, 0, NULL, NULL);
}

/* --- the proof ------------------------------------------------------------------------------- */

static void audited(struct sim_source *source)
{
    struct sim_counts *counts = source->sim->counts;
    struct repl_pipeline *p = &source->pipeline;
    struct repl_audit before = p->audit;
    uint64_t degradations = p->degradations;
    repl_pipeline_audited(p, &source->sample, sim_source_now(source));
    counts->audits += p->audit.audits - before.audits;
    counts->shortfalls += p->audit.shortfalls - before.shortfalls;
    counts->repairs += p->audit.repairs - before.repairs;
    counts->degradations += p->degradations - degradations;
    if (p->audit.shortfalls != before.shortfalls || p->degradations != degradations)
        sim_trace(source->sim, "audit: %s", p->audit.cause);
    sim_source_run(source);
}

static void sample_begin(struct sim_source *source)
{
    source->sample =
        (struct repl_audit_sample){.at_ns = source->sim->now_ns, .before = source->device.kernel};
}

static void sample_take(struct sim_source *source)
{
    sample_begin(source);
    source->sample.counts = source->tracker.counts;
    source->sample.after = source->device.kernel;
}

static void sample_end(void *actor, uint64_t number, void *payload)
{
    struct sim_source *source = actor;
    (void)payload;
    if (number != source->audit_number)
        return;
    source->sample.after = source->device.kernel;
    audited(source);
}

static void sample_counts(void *actor, uint64_t number, void *payload)
{
    struct sim_source *source = actor;
    (void)payload;
    if (number != source->audit_number)
        return;
    source->sample.counts = source->tracker.counts;
    sim_after(source->sim, pace(source), &source->life, sample_end, source, number, NULL, NULL);
}

static void sample_kernel(void *actor, uint64_t number, void *payload)
{
    struct sim_source *source = actor;
    (void)payload;
    if (number != source->audit_number)
        return;
    if (source->sim->options.bug == SIM_BUG_STALE_SAMPLE &&
        source->pipeline.audit.base.completed_known) {
        audited(source);
        return;
    }
    sample_begin(source);
    sim_after(source->sim, pace(source), &source->life, sample_counts, source, number, NULL, NULL);
}

void sim_capture_audit(struct sim_source *source, int64_t delay_ns)
{
    sim_after(source->sim, delay_ns, &source->life, sample_kernel, source, ++source->audit_number,
              NULL, NULL);
}

void sim_capture_repair(struct sim_source *source)
{
    sim_tracker_or_touched(&source->tracker, &source->pipeline.round.dirty);
}

void sim_capture_settle(struct sim_source *source, enum repl_settle settle)
{
    struct sim *sim = source->sim;
    struct sim_tracker *tracker = &source->tracker;
    const struct repl_bitmap *unsafe[REPL_PIPELINE_UNSAFE];
    repl_pipeline_unsafe(&source->pipeline, unsafe);
    if (settle != REPL_SETTLE_NONE)
        sim_tracker_settle(tracker, unsafe, settle == REPL_SETTLE_ALL);
    if (!sim->calm && !source->is_clone && sim_chance(sim, sim->faults.settle_crash)) {
        source->doomed = true;
        return;
    }
    tracker->saved = repl_pipeline_record(&source->pipeline);
    tracker->has_saved = true;
    sim_tracker_swap(tracker, &source->pipeline.audit);
}

/* --- the point ------------------------------------------------------------------------------- */

void sim_capture_commit(struct sim_source *source)
{
    struct sim *sim = source->sim;
    struct repl_pipeline *p = &source->pipeline;
    bool others = sim->calm || !p->grouped || sim_chance(sim, 900);
    bool cutting = p->round.phase == REPL_ROUND_CUTTING && !p->round.is_void && others;
    bool empty = p->builder == NULL && repl_ship_tail(&p->ship).has_point && !p->grouped;
    uint64_t points = p->point_count;
    repl_pipeline_commit(p, others, sim_source_now(source));
    struct repl_digest digest = repl_ship_tail(&p->ship).digest;
    if (p->point_count > points)
        sim_check_cut(source, &digest);
    else if (cutting && empty)
        sim_check_cut_empty(source, &digest);
    else
        return;
    source->verified_until_ns = p->unchanged_until_ns;
    source->verified_digest = digest;
}

/* --- a life ---------------------------------------------------------------------------------- */

void sim_capture_grow(struct sim_source *source)
{
    struct repl_pipeline *p = &source->pipeline;
    if (p->options.volume_size == source->device.size || source->opening ||
        !repl_pipeline_may_grow(p))
        return;
    ensure(repl_ok(repl_pipeline_grow(p, source->device.size, source->digests, NULL)));
}

/* What was added while no source ran, and the page that was the last and perhaps short. */
static void added_take(struct sim_source *source, uint64_t known_size)
{
    struct repl_bitmap *dirty = &source->pipeline.round.dirty;
    uint64_t first = known_size / REPL_PAGE_SIZE;
    if (known_size >= source->device.size)
        return;
    repl_bitmap_set(dirty, first, dirty->bit_count - first);
    for (uint64_t page = first; page < dirty->bit_count; page++)
        source->tracker.taken[page] = true;
}

void sim_capture_start(struct sim_source *source, uint64_t known_size)
{
    struct sim *sim = source->sim;
    struct sim_tracker *tracker = &source->tracker;
    if (!sim->tracked)
        return;
    source->device.tracker = tracker;
    bool lost = tracker->pinned && !sim->calm && sim_chance(sim, sim->faults.tracker_lost);
    bool found = tracker->pinned && !lost && tracker->has_saved;
    if (found && repl_pipeline_track(&source->pipeline, &tracker->saved, "no baseline")) {
        sim_tracker_recover(tracker, &source->pipeline.round.dirty);
        added_take(source, known_size);
        sim->counts->continued++;
        return;
    }
    sim->counts->trackers_lost += lost;
    if (!tracker->pinned || lost)
        sim_tracker_begin(tracker, sim);
    if (!found)
        repl_pipeline_track(&source->pipeline, NULL, lost ? "the pin is missing" : "new");
}

void sim_capture_crash(struct sim_source *source)
{
    for (unsigned i = 0; i < SIM_BATCHES; i++) {
        source->readings[i].state = SIM_READING_IDLE;
        repl_batch_clear(source->readings[i].batch);
    }
    source->opening = 0;
    sim_guard_free(source);
}
