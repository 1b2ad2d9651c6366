/*
 * The VERIFY step of a commit: is the staged segment whole, are the chunks there
 * that it names, and does it say something about every byte that it must.
 *
 * Most of it is decoding frames, which are independent of each other: a few of
 * them at a time are a job, and several such jobs run beside the one that looks
 * at everything else. A job is short, so that other volumes' jobs get their turn
 * on the same workers. Nobody begins another one once something has been found.
 *
 *   open -> rest (digest, records, chunks, coverage) -> all jobs are back
 *        -> frames, frames, ...                      ->
 */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/extent_map.h"
#include "base/hash.h"
#include "journal/churn.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

/* Of up to 1 MiB each, decoded: some 20 ms. */
#define FRAMES_A_JOB 16u

/* --- on a worker: are all chunks there ------------------------------------------------------- */

struct chunk_search {
    const struct site_volume *volume;
    struct repl_digest *own; /* names of the segment's own chunks, sorted */
    size_t own_count;
    struct repl_digest last; /* found last: extents of one chunk stand together */
    bool has_last, last_is_own;
    struct repl_missing *missing;
    struct repl_buffer *refs; /* struct repl_digest: all names that are referred to */
    struct repl_buffer *supplies;
    struct site_seen seen;
};

repl_result site_chunk_find(const struct site_volume *v, const struct repl_digest *name,
                            struct site_seen *seen, struct repl_chunk_place *place, bool *found,
                            struct repl_error *err)
{
    REPL_TRY(repl_index_chunk(v->site->index, v->name, name, place, found, err));
    if (*found && (site_scrub_doubts(v->site->scrub, place->volume, &place->segment) ||
                   site_chunk_is_leaving(v->site, name, place)))
        *found = false;
    return *found ? site_place_look(v, place, seen, found, err) : REPL_SUCCESS;
}

static repl_result own_chunks(const struct repl_segment *segment, struct chunk_search *search,
                              struct repl_error *err)
{
    search->own_count = segment->footer.chunk_count;
    search->own = malloc((search->own_count + 1) * sizeof *search->own);
    if (search->own == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the chunks of a segment");
    for (size_t i = 0; i < search->own_count; i++)
        search->own[i] = segment->chunks[i].name;
    qsort(search->own, search->own_count, sizeof *search->own, repl_digest_order);
    return REPL_SUCCESS;
}

static void search_fini(struct chunk_search *search)
{
    free(search->own);
    site_seen_fini(&search->seen);
}

static repl_result missing_add(struct repl_missing *missing, const struct repl_digest *name,
                               struct repl_error *err)
{
    if (missing->names == NULL)
        missing->names = malloc(REPL_MISSING_CHUNKS_MAX * sizeof *missing->names);
    if (missing->names == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a list of chunks");
    missing->names[missing->count++] = *name;
    return REPL_SUCCESS;
}

/* Most of a supply's chunks are found one behind the other. */
static repl_result supply_add(struct repl_buffer *supplies, const struct repl_chunk_place *place,
                              struct repl_error *err)
{
    struct site_supply_found found = {.id = place->segment};
    memcpy(found.volume, place->volume, sizeof found.volume);
    if (supplies->size > 0) {
        const struct site_supply_found *last =
            (const void *)(supplies->data + supplies->size - sizeof *last);
        if (repl_segment_id_order(&last->id, &found.id) == 0 &&
            strcmp(last->volume, found.volume) == 0)
            return REPL_SUCCESS;
    }
    return repl_buffer_append(supplies, &found, sizeof found, err);
}

static repl_result chunk_look(struct chunk_search *search, const struct repl_digest *name,
                              struct repl_error *err)
{
    struct repl_chunk_place place;
    bool found;
    search->last_is_own =
        bsearch(name, search->own, search->own_count, sizeof *name, repl_digest_order) != NULL;
    if (search->last_is_own)
        return REPL_SUCCESS;
    REPL_TRY(site_chunk_find(search->volume, name, &search->seen, &place, &found, err));
    if (found && place.segment.supply != 0)
        return supply_add(search->supplies, &place, err);
    return found ? REPL_SUCCESS : missing_add(search->missing, name, err);
}

static repl_result chunk_find(struct chunk_search *search, const struct repl_digest *name,
                              struct repl_error *err)
{
    if (search->has_last && repl_digest_equal(&search->last, name))
        return REPL_SUCCESS;
    search->last = *name;
    search->has_last = true;
    REPL_TRY(repl_buffer_append(search->refs, name, sizeof *name, err));
    return chunk_look(search, name, err);
}

static repl_result references_walk(struct site_commit *c, struct chunk_search *search,
                                   struct repl_frame_coder *coder, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    repl_record_walk_begin(&walk, c->segment, coder);
    repl_churn_begin(&c->churn, c->segment);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    /* A list that is full is asked for again when these have come. */
    while (repl_ok(result) && !done && c->missing.count < REPL_MISSING_CHUNKS_MAX) {
        if (record.type == REPL_RECORD_OBJECT)
            c->volume_size = record.size;
        if (record.type == REPL_RECORD_CHUNK)
            result = chunk_find(search, &record.chunk, err);
        repl_churn_record(&c->churn, &record, search->last_is_own);
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    c->missing.count = (uint32_t)repl_digests_unique(c->missing.names, c->missing.count);
    c->ref_count = (uint32_t)repl_digests_unique((struct repl_digest *)(void *)c->refs.data,
                                                 c->refs.size / sizeof(struct repl_digest));
    return result;
}

/* Some may have been taken away since: those that it does not hold itself. */
static repl_result chunks_again(struct site_volume *v, struct site_commit *c,
                                struct repl_error *err)
{
    const struct repl_digest *refs = (const struct repl_digest *)(const void *)c->refs.data;
    struct chunk_search search = {.volume = v, .missing = &c->missing, .supplies = &c->supplies};
    repl_result result = own_chunks(c->segment, &search, err);
    for (uint32_t i = 0; repl_ok(result) && i < c->ref_count; i++) {
        if (c->missing.count == REPL_MISSING_CHUNKS_MAX)
            break;
        result = chunk_look(&search, &refs[i], err);
    }
    search_fini(&search);
    return result;
}

/* --- on a worker: does a point say something about every byte that it must ------------------- */

/* What the parts of one group, which end in a point, say something about. */
struct coverage {
    struct repl_extent_map map;
    uint64_t from; /* below, what was there before counts */
};

/* Extents stand in order; those that touch count as one. */
static repl_result coverage_walk(struct coverage *coverage, struct repl_record_walk *walk,
                                 struct repl_error *err)
{
    struct repl_extent run = {.type = REPL_RECORD_ZERO};
    for (;;) {
        struct repl_record record = {0};
        bool done;
        REPL_TRY(repl_record_walk_next(walk, &record, &done, err));
        done |= record.object != REPL_OBJECT_DEVICE; /* behind a tree's space there is no content */
        if (!done && record.type == REPL_RECORD_OBJECT) {
            /* Cut off on the way, it has to be said again. */
            if (record.size < coverage->from)
                coverage->from = record.size / REPL_PAGE_SIZE * REPL_PAGE_SIZE;
            continue;
        }
        if (!done && record.offset == run.offset + run.length) {
            run.length += record.length;
            continue;
        }
        if (run.length > 0)
            REPL_TRY(repl_extent_map_fill(&coverage->map, &run, err));
        if (done)
            return REPL_SUCCESS;
        run.offset = record.offset;
        run.length = record.length;
    }
}

static repl_result coverage_add(struct coverage *coverage, const struct repl_segment *segment,
                                struct repl_frame_coder *coder, struct repl_error *err)
{
    struct repl_record_walk walk;
    repl_record_walk_begin(&walk, segment, coder);
    repl_result result = coverage_walk(coverage, &walk, err);
    repl_record_walk_end(&walk);
    return result;
}

/* A part that is part of the history already. What is wrong with it is not the fault of the one
 * that has come. */
static repl_result coverage_add_stored(struct coverage *coverage, struct site_volume *v,
                                       const struct repl_segment_id *id,
                                       struct repl_frame_coder *coder, struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    struct repl_stored_segment *file;
    struct repl_segment *segment = NULL;
    REPL_TRY(store->ops->segment_open(store, v->name, id, 0, &file, err));
    repl_result result =
        repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, err);
    if (repl_ok(result))
        result = coverage_add(coverage, segment, coder, err);
    repl_segment_free(segment);
    if (!repl_ok(result)) {
        struct repl_error why = *err;
        result = repl_fail(err, REPL_E_IO, "%s: %.300s: run repl verify", file->label, why.text);
    }
    file->close(file);
    return result;
}

static repl_result coverage_judge(const struct coverage *coverage, const struct site_commit *c,
                                  struct repl_error *err)
{
    uint64_t at = coverage->from, gap_end = c->volume_size;
    struct repl_extent_cursor cursor = repl_extent_map_seek(&coverage->map, at);
    const struct repl_extent *extent;
    while ((extent = repl_extent_cursor_next(&cursor)) != NULL && extent->offset <= at)
        at = extent->offset + extent->length;
    if (at >= c->volume_size)
        return REPL_SUCCESS;
    if (extent != NULL && extent->offset < gap_end)
        gap_end = extent->offset;
    return repl_fail(
        err, REPL_E_CORRUPT,
        "segment %llu.%u ends in a point of a volume of %llu bytes, and the %s says "
        "nothing about bytes %llu to %llu: the source has to send the volume anew",
        (unsigned long long)c->id.to_seq, c->id.part, (unsigned long long)c->volume_size,
        c->segment->header.from_seq == 0 ? "full that it completes" : "growth that it completes",
        (unsigned long long)at, (unsigned long long)gap_end);
}

/* A full has to hold the whole volume, changes at least what the volume has grown by: a replica
 * that is built of them would keep what was there. Parts may come in any order, so this is seen
 * when the point comes. */
static repl_result coverage_check(struct site_volume *v, struct site_commit *c,
                                  struct repl_frame_coder *coder, struct repl_error *err)
{
    struct coverage coverage = {.from = c->segment->header.from_seq == 0
                                            ? 0
                                            : c->point_size / REPL_PAGE_SIZE * REPL_PAGE_SIZE};
    bool grown = c->segment->header.from_seq == 0 || c->volume_size > c->point_size;
    if (repl_segment_last_point(c->segment) == NULL || !grown)
        return REPL_SUCCESS;
    repl_extent_map_init(&coverage.map);
    repl_result result = coverage_add(&coverage, c->segment, coder, err);
    for (uint32_t part = 0; part < c->id.part && repl_ok(result); part++) {
        struct repl_segment_id id = {.to_seq = c->id.to_seq, .part = part};
        result = coverage_add_stored(&coverage, v, &id, coder, err);
    }
    if (repl_ok(result))
        result = coverage_judge(&coverage, c, err);
    repl_extent_map_fini(&coverage.map);
    return result;
}

/* --- on a worker: the jobs ------------------------------------------------------------------- */

static void open_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_commit *c = &v->commit;
    c->result =
        repl_segment_open(site_read_at, &c->fd, v->upload->intake.written, &c->segment, &c->err);
    if (repl_ok(c->result))
        c->result = repl_frame_verifier_init(&c->frames, c->segment, &c->err);
}

static repl_result rest_verify(struct site_volume *v, struct site_commit *c,
                               struct repl_frame_coder *coder, struct repl_error *err)
{
    struct chunk_search search = {
        .volume = v, .missing = &c->missing, .refs = &c->refs, .supplies = &c->supplies};
    REPL_TRY(repl_segment_verify_digest(c->segment, &v->upload->digest, err));
    REPL_TRY(repl_segment_verify_records(c->segment, coder, err));
    repl_result result = own_chunks(c->segment, &search, err);
    if (repl_ok(result))
        result = references_walk(c, &search, coder, err);
    search_fini(&search);
    /* A walk that ended early is made again when the chunks have come. */
    if (repl_ok(result) && c->missing.count == 0)
        result = coverage_check(v, c, coder, err);
    return result;
}

static void rest_work(struct repl_job *job)
{
    struct site_check *check = job->context;
    struct repl_frame_coder *coder;
    check->result = repl_frame_coder_new(&coder, &check->err);
    if (!repl_ok(check->result))
        return;
    check->result = rest_verify(check->volume, &check->volume->commit, coder, &check->err);
    repl_frame_coder_free(coder);
}

/* A coder lives as long as the job, so that their number is the workers'. */
static void frames_work(struct repl_job *job)
{
    struct site_check *check = job->context;
    struct repl_frame_coder *coder;
    check->result = repl_frame_coder_new(&coder, &check->err);
    if (!repl_ok(check->result))
        return;
    check->result = repl_frame_verifier_run(&check->volume->commit.frames, check->first, check->end,
                                            coder, &check->err);
    repl_frame_coder_free(coder);
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void check_done(struct repl_job *job);

static void check_start(struct site_volume *v, struct site_check *check, repl_job_fn *work)
{
    check->volume = v;
    check->job = (struct repl_job){.work = work, .done = check_done, .context = check};
    v->commit.checks_out++;
    site_job_start(v->site, &check->job);
}

/* The next frames that nobody has looked at, if there are any. */
static void frames_start(struct site_volume *v, struct site_check *check)
{
    struct site_commit *c = &v->commit;
    uint32_t left = c->segment->footer.frame_count - c->next_frame;
    if (left == 0 || !repl_ok(c->result))
        return;
    check->first = c->next_frame;
    check->end = check->first + (left < FRAMES_A_JOB ? left : FRAMES_A_JOB);
    c->next_frame = check->end;
    check_start(v, check, frames_work);
}

static void check_done(struct repl_job *job)
{
    struct site_check *check = job->context;
    struct site_volume *v = check->volume;
    struct site_commit *c = &v->commit;
    site_job_ended(v->site);
    c->checks_out--;
    if (repl_ok(c->result) && !repl_ok(check->result)) {
        c->result = check->result;
        c->err = check->err;
    }
    frames_start(v, check);
    if (c->checks_out > 0)
        return;
    repl_frame_verifier_fini(&c->frames);
    site_commit_step_end(v);
}

static void open_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_commit *c = &v->commit;
    site_job_ended(v->site);
    if (!repl_ok(c->result)) {
        site_commit_step_end(v);
        return;
    }
    check_start(v, &c->checks[0], rest_work);
    for (size_t i = 1; i < SITE_CHECKS_MAX; i++)
        frames_start(v, &c->checks[i]);
}

static void chunks_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    v->commit.result = chunks_again(v, &v->commit, &v->commit.err);
}

static void chunks_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    site_job_ended(v->site);
    site_commit_step_end(v);
}

void site_verify_chunks(struct site_volume *v)
{
    v->commit.job = (struct repl_job){.work = chunks_work, .done = chunks_done, .context = v};
    site_job_start(v->site, &v->commit.job);
}

void site_verify_begin(struct site_volume *v)
{
    v->commit.job = (struct repl_job){.work = open_work, .done = open_done, .context = v};
    site_job_start(v->site, &v->commit.job);
}
