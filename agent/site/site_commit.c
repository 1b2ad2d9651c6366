/*
 * The commit sequence of a segment, step by step as the core hands it out
 * (repl_commit_next): each step is a worker's job, and what it finds is judged
 * on the loop.
 *
 * A crash leaves, after
 *   SYNC, VERIFY   a staged file: resumed or removed at the next start
 *   PUBLISH        a segment the log does not know: set aside at the next start
 *   LOG            a committed segment that was not acknowledged: the source
 *                  learns of it with its next hello
 *
 * A failure in the middle leaves the same. An append that failed may or may not
 * be in the log after a crash, so its segment stays as it is until the log has
 * been cut back: publishing begins with that (settle).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/extent_map.h"
#include "base/hash.h"
#include "site/site_volume.h"

static void commit_run(struct site_volume *v);

/* --- on a worker: are all chunks there ------------------------------------------------------- */

struct chunk_search {
    struct repl_index *index;
    const char *volume;
    struct repl_digest *own; /* names of the segment's own chunks, sorted */
    size_t own_count;
    struct repl_digest last; /* found last: extents of one chunk stand together */
    bool has_last;
    struct repl_missing *missing;
};

static int digest_order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct repl_digest));
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
    qsort(search->own, search->own_count, sizeof *search->own, digest_order);
    return REPL_SUCCESS;
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

static repl_result chunk_find(struct chunk_search *search, const struct repl_digest *name,
                              struct repl_error *err)
{
    struct repl_chunk_place place;
    bool found;
    if (search->has_last && repl_digest_equal(&search->last, name))
        return REPL_SUCCESS;
    search->last = *name;
    search->has_last = true;
    if (bsearch(name, search->own, search->own_count, sizeof *name, digest_order) != NULL)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_chunk(search->index, search->volume, name, &place, &found, err));
    return found ? REPL_SUCCESS : missing_add(search->missing, name, err);
}

/* The list's order means nothing; each name stands in it once. */
static void missing_unique(struct repl_missing *missing)
{
    uint32_t kept = 0;
    if (missing->count > 0)
        qsort(missing->names, missing->count, sizeof *missing->names, digest_order);
    for (uint32_t i = 0; i < missing->count; i++) {
        if (kept == 0 || !repl_digest_equal(&missing->names[kept - 1], &missing->names[i]))
            missing->names[kept++] = missing->names[i];
    }
    missing->count = kept;
}

static repl_result references_walk(struct site_commit *c, struct chunk_search *search,
                                   struct repl_frame_coder *coder, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    repl_record_walk_begin(&walk, c->segment, coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    /* A list that is full is asked for again when these have come. */
    while (repl_ok(result) && !done && c->missing.count < REPL_MISSING_CHUNKS_MAX) {
        if (record.type == REPL_RECORD_OBJECT)
            c->volume_size = record.size;
        if (record.type == REPL_RECORD_CHUNK)
            result = chunk_find(search, &record.chunk, err);
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    missing_unique(&c->missing);
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
    REPL_TRY(store->ops->segment_open(store, v->name, id, &file, err));
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

static repl_result segment_verify(struct site_volume *v, struct site_commit *c,
                                  struct repl_frame_coder *coder, struct repl_error *err)
{
    struct chunk_search search = {
        .index = v->site->index, .volume = v->name, .missing = &c->missing};
    REPL_TRY(repl_segment_open(site_read_at, &c->fd, v->intake.written, &c->segment, err));
    REPL_TRY(repl_segment_verify(c->segment, coder, err));
    repl_result result = own_chunks(c->segment, &search, err);
    if (repl_ok(result))
        result = references_walk(c, &search, coder, err);
    free(search.own);
    /* A walk that ended early is made again when the chunks have come. */
    if (repl_ok(result) && c->missing.count == 0)
        result = coverage_check(v, c, coder, err);
    return result;
}

/* --- on a worker: the steps ------------------------------------------------------------------ */

static void sync_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_commit *c = &v->commit;
    c->result = REPL_SUCCESS;
    if (fsync(c->fd) != 0)
        c->result = repl_fail_errno(&c->err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                                    "cannot make %s durable", v->intake.path);
}

static void verify_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_commit *c = &v->commit;
    struct repl_frame_coder *coder;
    c->result = repl_frame_coder_new(&coder, &c->err);
    if (!repl_ok(c->result))
        return;
    c->result = segment_verify(v, c, coder, &c->err);
    repl_frame_coder_free(coder);
}

/* After this the log ends where we think, on the disk too, and knows no segment that is not. */
static repl_result settle(struct site_volume *v, const struct repl_segment_id *id,
                          struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    if (v->unsettled)
        REPL_TRY(store->ops->log_append(store, v->name, v->log_end, "", 0, err));
    v->unsettled = false;
    REPL_TRY(site_found_set_aside(v, err));
    bool replaced = v->orphan.to_seq == id->to_seq && v->orphan.part == id->part;
    if (v->has_orphan && !replaced)
        REPL_TRY(store->ops->segment_remove(store, v->name, &v->orphan, err));
    v->has_orphan = false;
    return REPL_SUCCESS;
}

static void publish_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_commit *c = &v->commit;
    struct repl_store *store = v->site->store;
    c->result = settle(v, &c->id, &c->err);
    if (!repl_ok(c->result))
        return;
    c->result = store->ops->segment_publish(store, v->name, &c->id, c->fd, v->intake.path, &c->err);
    if (!repl_ok(c->result)) { /* it may have got its name all the same */
        v->has_orphan = true;
        v->orphan = c->id;
    }
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void commit_end(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    repl_segment_free(c->segment);
    repl_missing_fini(&c->missing);
    *c = (struct site_commit){0};
    v->journal.upload.committing = false;
    site_volume_release(v);
}

static void commit_failed(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    bool theirs = c->step == REPL_COMMIT_VERIFY &&
                  (c->result.code == REPL_E_CORRUPT || c->result.code == REPL_E_VERSION);
    repl_log(LOG_ERR, "volume %s: segment %llu.%u was not taken in: %s", v->name,
             (unsigned long long)c->id.to_seq, c->id.part, c->err.text);
    if (theirs)
        site_refuse_damaged(c->request, &c->err);
    else
        site_refuse_error(c->request, &c->err);
    site_upload_drop(v);
    commit_end(v);
}

/* The file stays: once the chunks have come, the source asks again without sending it. */
static void commit_missing(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    struct repl_buffer message = {0};
    struct repl_error err;
    repl_log(LOG_INFO, "volume %s: segment %llu.%u needs %u chunks that are not here", v->name,
             (unsigned long long)c->id.to_seq, c->id.part, c->missing.count);
    site_answer_message(c->request, 409, repl_missing_encode(&c->missing, &message, &err),
                        &message);
    commit_end(v);
}

/* Whether the segment may become part of the history; if not, it has been answered. */
static bool commit_check(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    struct repl_refusal refusal;
    /* Reading all of it takes its time, in which a key may have been revoked. */
    if (!site_request_permit(c->request)) {
        site_upload_drop(v);
        commit_end(v);
        return false;
    }
    if (c->missing.count > 0) {
        commit_missing(v);
        return false;
    }
    switch (repl_journal_check(&v->journal, &c->segment->header, &c->segment->footer,
                               c->volume_size, repl_segment_last_point(c->segment),
                               repl_now_wall_ns(), &c->record, &refusal)) {
    case REPL_VERDICT_ACCEPT:
        return true;
    case REPL_VERDICT_DUPLICATE:
        site_upload_drop(v);
        site_answer_ack(c->request, v, 201);
        break;
    case REPL_VERDICT_REFUSE:
        site_upload_drop(v);
        site_refuse(c->request, &refusal);
        break;
    }
    commit_end(v);
    return false;
}

static void commit_logged(struct site_volume *v, repl_result result, const struct repl_error *err)
{
    struct site_commit *c = &v->commit;
    if (!repl_ok(result)) {
        v->has_orphan = true;
        v->orphan = c->id;
        c->result = result;
        c->err = *err;
        ensure(repl_commit_next(c->step, false) == REPL_COMMIT_FAILED);
        commit_failed(v);
        return;
    }
    ensure(repl_commit_next(c->step, true) == REPL_COMMIT_DONE);
    v->bytes_received += v->intake.written;
    v->points += c->record.commit.has_point;
    repl_journal_upload_drop(&v->journal);
    v->header_known = false;
    site_intake_close(&v->intake, false); /* the file has its own name by now */
    site_answer_ack(c->request, v, 201);
    site_volume_follow(v);
    commit_end(v);
}

static void step_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_commit *c = &v->commit;
    bool good = repl_ok(c->result);
    site_job_ended(v->site);
    if (good && c->step == REPL_COMMIT_VERIFY && !commit_check(v))
        return;
    if (!good) {
        commit_failed(v);
        return;
    }
    c->step = repl_commit_next(c->step, true);
    commit_run(v);
}

static void commit_run(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    repl_job_fn *work = NULL;
    switch (c->step) {
    case REPL_COMMIT_SYNC:
        work = sync_work;
        break;
    case REPL_COMMIT_VERIFY:
        work = verify_work;
        break;
    case REPL_COMMIT_PUBLISH:
        work = publish_work;
        break;
    case REPL_COMMIT_LOG:
        site_volume_append(v, &c->record, c->segment->chunks, c->segment->footer.chunk_count,
                           commit_logged);
        return;
    case REPL_COMMIT_DONE:
    case REPL_COMMIT_FAILED:
        break;
    }
    ensure(work != NULL);
    c->job = (struct repl_job){.work = work, .done = step_done, .context = v};
    site_job_start(v->site, &c->job);
}

void site_commit_begin(struct site_volume *v, struct site_request *request)
{
    struct site_commit *c = &v->commit;
    if (v->intake.feeder != request) /* somebody else took over while it waited */
        return;
    v->intake.feeder = NULL;
    v->busy = true;
    v->journal.upload.committing = true;
    *c = (struct site_commit){.request = request,
                              .step = REPL_COMMIT_SYNC,
                              .id = {.to_seq = request->id.to_seq, .part = request->id.part},
                              .fd = v->intake.fd,
                              .point_size = v->point_size};
    commit_run(v);
}
