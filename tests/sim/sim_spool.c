#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "capture/batch.h"
#include "segment/segment_chain.h"
#include "segment/segment_merge.h"
#include "segment/segment_verify.h"

/*
 * The source's spool: segments as bytes that are never synced. A process that
 * dies leaves them, but for the end of what was being written; a power cut takes
 * any part of them. The next life takes over what is whole and follows what the
 * site has (agent/source/spool_load.c). While the link is down a spool that fills
 * is merged.
 */

/* How long a merge takes at most. */
#define MERGE_NS (2 * SIM_SECOND)

/* --- what lies there ------------------------------------------------------------------------- */

struct sim_spooled *sim_spool_find(const struct sim_source *source, uint64_t number)
{
    for (size_t i = 0; i < source->spool_count; i++) {
        if (source->spool[i].number == number)
            return &source->spool[i];
    }
    return NULL;
}

static struct sim_spooled *spool_add(struct sim_source *source, uint64_t number)
{
    if (source->spool_count == source->spool_capacity) {
        source->spool_capacity = source->spool_capacity ? 2 * source->spool_capacity : 16;
        source->spool = realloc(source->spool, source->spool_capacity * sizeof *source->spool);
        ensure(source->spool != NULL);
    }
    struct sim_spooled *spooled = &source->spool[source->spool_count++];
    *spooled = (struct sim_spooled){.number = number};
    return spooled;
}

repl_result sim_spool_sink(void *context, const void *data, size_t size, struct repl_error *err)
{
    struct sim_source *source = context;
    struct sim *sim = source->sim;
    if (!sim->calm && sim_chance(sim, sim->faults.disk_write)) {
        sim->counts->write_failures++;
        return repl_fail(err, REPL_E_NOSPACE, "spool: no space left");
    }
    uint64_t number = source->pipeline.number;
    struct sim_spooled *spooled = sim_spool_find(source, number);
    if (spooled == NULL)
        spooled = spool_add(source, number);
    return repl_buffer_append(&spooled->bytes, data, size, err);
}

void sim_spool_release(struct sim_source *source, uint64_t number)
{
    for (size_t i = 0; i < source->spool_count; i++)
        source->spool[i].released |= source->spool[i].number <= number;
}

void sim_spool_drop(struct sim_source *source, uint64_t number)
{
    struct sim_spooled *spooled = sim_spool_find(source, number);
    sim_supply_drop(source, number);
    if (spooled == NULL)
        return; /* not a byte of it was taken */
    repl_buffer_fini(&spooled->bytes);
    *spooled = source->spool[--source->spool_count];
}

void sim_spool_fini(struct sim_source *source)
{
    while (source->spool_count > 0)
        sim_spool_drop(source, source->spool[0].number);
    free(source->spool);
    source->spool = NULL;
    source->spool_capacity = 0;
}

/* --- a crash --------------------------------------------------------------------------------- */

static void spooled_damage(struct sim *sim, struct sim_spooled *spooled)
{
    uint64_t size = spooled->bytes.size;
    if (size == 0)
        return;
    if (sim_chance(sim, 500))
        spooled->bytes.size = sim_random(sim, size);
    else
        spooled->bytes.data[sim_random(sim, size)] ^= (uint8_t)(1u << sim_random(sim, 8));
    sim->counts->spool_damages++;
}

void sim_spool_crash(struct sim_source *source, bool power)
{
    struct sim *sim = source->sim;
    uint64_t newest = 0;
    for (size_t i = 0; i < source->spool_count; i++) {
        source->spool[i].released = false;
        if (source->spool[i].number > newest)
            newest = source->spool[i].number;
    }
    for (size_t i = source->spool_count; i-- > 0;) {
        struct sim_spooled *spooled = &source->spool[i];
        if (power ? sim_chance(sim, 150) : spooled->number == newest && sim_chance(sim, 300))
            spooled_damage(sim, spooled);
        if (power && sim_chance(sim, 100))
            sim_spool_drop(source, spooled->number);
    }
    if (power)
        sim_supply_damage(source);
}

/* --- taken over ------------------------------------------------------------------------------ */

static struct repl_page_digest page_digest(const uint8_t *bytes, size_t size)
{
    struct repl_sha256 *sha;
    struct repl_digest digest;
    ensure(repl_ok(repl_sha256_new(&sha, NULL)));
    repl_page_digest(sha, bytes, size, &digest);
    repl_sha256_free(sha);
    return repl_page_digest_of(&digest);
}

/* The digests of an extent's pages; false: a chunk that it names is gone. */
static bool extent_digests(struct sim_source *source, uint64_t number,
                           const struct repl_segment *segment, const struct repl_record *record,
                           struct repl_buffer *digests)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    struct repl_buffer stored = {0};
    const uint8_t *bytes = raw + record->frame_offset;
    size_t size;
    if (record->type == REPL_RECORD_DATA) {
        ensure(repl_ok(repl_segment_read_frame(segment, record->frame, source->sim->coder, &stored,
                                               raw, &size, NULL)));
        repl_buffer_fini(&stored);
    } else if (record->type == REPL_RECORD_ZERO) {
        memset(raw, 0, REPL_PAGE_SIZE);
    } else {
        bytes = sim_supply_find(source, number, &record->chunk);
    }
    if (bytes == NULL)
        return false;
    for (uint64_t at = 0; at < record->length; at += REPL_PAGE_SIZE) {
        uint64_t left = record->length - at;
        struct repl_batch_digest digest = {
            .page = (record->offset + at) / REPL_PAGE_SIZE,
            .digest = page_digest(record->type == REPL_RECORD_ZERO ? raw : bytes + at,
                                  left < REPL_PAGE_SIZE ? (size_t)left : REPL_PAGE_SIZE)};
        ensure(repl_ok(repl_buffer_append(digests, &digest, sizeof digest, NULL)));
    }
    return true;
}

/* All of them; false: it cannot be taken over. */
static bool segment_digests(struct sim_source *source, uint64_t number, uint64_t known_size,
                            const struct repl_segment *segment, struct repl_buffer *digests)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool done = false, good = true;
    repl_record_walk_begin(&walk, segment, source->sim->coder);
    while (good) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        good = record.type == REPL_RECORD_OBJECT
                   ? record.size <= known_size
                   : extent_digests(source, number, segment, &record, digests);
    }
    repl_record_walk_end(&walk);
    if (source->sim->options.bug == SIM_BUG_ADOPT_BLIND)
        digests->size = 0;
    return good;
}

/* What the next one has to follow. */
struct chain {
    struct repl_segment_header header;
    struct repl_digest digest;
    bool has_point;
    bool begun;
};

static bool chain_goes_on(const struct chain *chain, const struct repl_segment *segment)
{
    const struct repl_segment_link link = {&chain->header, chain->has_point, chain->digest};
    return chain->begun ? repl_ok(repl_segment_chain_check(&link, &segment->header, NULL))
                        : repl_digest_equal(&segment->header.prev, &chain->digest);
}

static bool segment_adopt(struct sim_source *source, struct sim_spooled *spooled,
                          uint64_t known_size, struct chain *chain)
{
    struct repl_segment *segment;
    struct repl_buffer digests = {0};
    if (!repl_ok(
            repl_segment_open(sim_read_at, &spooled->bytes, spooled->bytes.size, &segment, NULL)))
        return false;
    bool good = repl_ok(repl_segment_verify(segment, source->sim->coder, NULL)) &&
                chain_goes_on(chain, segment) &&
                segment_digests(source, spooled->number, known_size, segment, &digests);
    if (good) {
        const struct repl_point *point = repl_segment_last_point(segment);
        const struct repl_ship_segment adopted = {.number = spooled->number,
                                                  .from_seq = segment->header.from_seq,
                                                  .to_seq = segment->header.to_seq,
                                                  .part = segment->header.part,
                                                  .created_ns = segment->header.created_ns,
                                                  .prev = segment->header.prev,
                                                  .complete = true,
                                                  .has_point = point != NULL,
                                                  .digest = segment->footer.digest,
                                                  .size = segment->footer.file_size};
        ensure(repl_ok(repl_pipeline_adopt(&source->pipeline, &adopted, point, &digests,
                                           sim_supply_bytes(source, spooled->number), NULL)));
        *chain = (struct chain){segment->header, segment->footer.digest, point != NULL, true};
        source->sim->counts->adopted++;
    }
    repl_buffer_fini(&digests);
    repl_segment_free(segment);
    return good;
}

static int number_order(const void *a, const void *b)
{
    const struct sim_spooled *x = a, *y = b;
    return x->number < y->number ? -1 : x->number > y->number;
}

void sim_spool_load(struct sim_source *source, const struct repl_digest *checkpoint,
                    uint64_t known_size)
{
    struct chain chain = {.digest = *checkpoint};
    size_t first = 0;
    if (source->spool_count > 0)
        qsort(source->spool, source->spool_count, sizeof *source->spool, number_order);
    while (first < source->spool_count &&
           !segment_adopt(source, &source->spool[first], known_size, &chain))
        first++;
    size_t end = first;
    while (end < source->spool_count &&
           (end == first || segment_adopt(source, &source->spool[end], known_size, &chain)))
        end++;
    struct repl_buffer left = {0};
    for (size_t i = 0; i < source->spool_count; i++) {
        if (i < first || i >= end)
            ensure(repl_ok(repl_buffer_append(&left, &source->spool[i].number,
                                              sizeof source->spool[i].number, NULL)));
    }
    const uint64_t *numbers = (const void *)left.data;
    for (size_t i = 0; i < left.size / sizeof *numbers; i++)
        sim_spool_drop(source, numbers[i]);
    repl_buffer_fini(&left);
}

/* --- a spool that fills ---------------------------------------------------------------------- */

struct merge {
    struct repl_buffer numbers; /* uint64_t, oldest first */
    uint64_t into;
    struct repl_buffer bytes;
    struct repl_merge_report report;
};

static void merge_drop(void *payload)
{
    struct merge *merge = payload;
    repl_buffer_fini(&merge->numbers);
    repl_buffer_fini(&merge->bytes);
    free(merge);
}

static repl_result merge_sink(void *context, const void *data, size_t size, struct repl_error *err)
{
    return repl_buffer_append(context, data, size, err);
}

static repl_result run_merge(struct sim_source *source, struct merge *merge)
{
    const uint64_t *numbers = (const void *)merge->numbers.data;
    size_t count = merge->numbers.size / sizeof *numbers, opened = 0;
    struct repl_segment **segments = sim_alloc((count + 1) * sizeof(void *));
    repl_result result = REPL_SUCCESS;
    for (; opened < count; opened++) {
        struct sim_spooled *spooled = sim_spool_find(source, numbers[opened]);
        if (spooled == NULL)
            result = (repl_result){REPL_E_MISSING};
        else
            result = repl_segment_open(sim_read_at, &spooled->bytes, spooled->bytes.size,
                                       &segments[opened], NULL);
        if (!repl_ok(result))
            break;
    }
    const struct repl_merge_options options = {.segments =
                                                   (const struct repl_segment *const *)segments,
                                               .segment_count = count,
                                               .sink = merge_sink,
                                               .sink_context = &merge->bytes};
    if (repl_ok(result))
        result = repl_segment_merge(&options, &merge->report, NULL);
    while (opened > 0)
        repl_segment_free(segments[--opened]);
    free(segments);
    return result;
}

/* The disk may have made something else of it. */
static repl_result merged_verify(struct sim_source *source, struct merge *merge)
{
    struct sim *sim = source->sim;
    struct repl_segment *segment = NULL;
    bool blind = sim->options.bug == SIM_BUG_MERGE_BLIND;
    if (!sim->calm && sim_chance(sim, blind ? 500 : sim->faults.disk_write)) {
        sim->counts->write_failures++;
        merge->bytes.data[sim_random(sim, merge->bytes.size)] ^= 1;
    }
    if (blind)
        return REPL_SUCCESS;
    REPL_TRY(repl_segment_open(sim_read_at, &merge->bytes, merge->bytes.size, &segment, NULL));
    repl_result result = repl_segment_verify(segment, sim->coder, NULL);
    repl_segment_free(segment);
    return result;
}

static void merged(void *actor, uint64_t argument, void *payload)
{
    struct sim_source *source = actor;
    struct merge *merge = payload;
    struct repl_digest last = repl_ship_tail(&source->pipeline.ship).digest;
    (void)argument;
    repl_result result = run_merge(source, merge);
    if (repl_ok(result))
        result = merged_verify(source, merge);
    if (repl_pipeline_coalesced(&source->pipeline, result, merge->into, &merge->report.header,
                                &merge->report.footer)) {
        struct sim_spooled *spooled = spool_add(source, merge->into);
        spooled->bytes = merge->bytes;
        merge->bytes = (struct repl_buffer){0};
        source->sim->counts->merges++;
        sim_trace(source->sim, "%zu segments of the spool become one",
                  merge->numbers.size / sizeof(uint64_t));
        sim_check_merged(source, &last, &merge->report.footer.digest);
    }
    merge_drop(merge);
    sim_source_run(source);
}

void sim_spool_coalesce(struct sim_source *source, const struct repl_pipeline_action *action)
{
    struct merge *merge = sim_alloc(sizeof *merge);
    merge->into = action->into;
    ensure(repl_ok(repl_pipeline_run(&source->pipeline, action->number, &merge->numbers, NULL)));
    sim_after(source->sim, sim_span(source->sim, SIM_MS, MERGE_NS), &source->life, merged, source,
              0, merge, merge_drop);
}
