/*
 * A supply: chunks that a segment refers to and the site was found to lack.
 *
 * It is staged, synced, verified and stored beside the segments, and its chunks
 * go into the index; the history does not change by it. A supply that is stored
 * is never replaced, as the index points into it: where another one has the
 * number already, this one gets the next that is free. When nothing refers to its
 * chunks any more it goes (compactor_supplies.c). One that nobody lacks, to
 * a segment that is committed or of chunks that are all known, is acknowledged
 * and not kept.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <syslog.h>
#include <unistd.h>

#include "base/hash.h"
#include "segment/segment_verify.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

static void supply_moved(struct site_intake *intake)
{
    struct site_request *request = intake->context;
    struct site_volume *v = request->volume;
    if (intake->busy)
        return;
    if (!repl_ok(intake->result))
        site_refuse_error(request, &intake->err);
    else if (request->ended && request->exchange != NULL && !request->answered &&
             site_intake_is_idle(intake))
        site_volume_enqueue(v, request, SITE_CHANGE_SUPPLY);
    if (request->exchange == NULL)
        site_supply_closed(request);
}

void site_supply_begin(struct site_volume *v, struct site_request *request)
{
    struct repl_error err;
    char name[64], why[REPL_WIRE_TEXT_MAX + 1];
    if (!site_space_permits(v, why)) {
        site_refuse_text(request, REPL_REFUSAL_NO_SPACE, "%s", why);
        return;
    }
    struct site_intake *intake = calloc(1, sizeof *intake);
    if (intake == NULL) {
        site_refuse_text(request, REPL_REFUSAL_BUSY, "the site is out of memory just now");
        return;
    }
    intake->fd = -1;
    intake->moved = supply_moved;
    intake->context = request;
    request->supply = intake;
    snprintf(name, sizeof name, "%" PRIu64 ".supply", ++v->supplies_begun);
    if (!repl_ok(site_intake_create(intake, v, name, &err))) {
        site_refuse_error(request, &err);
        return;
    }
    intake->feeder = request;
    request->supply_open = true;
    site_request_hold(request); /* for as long as something may be written */
}

void site_supply_body(struct site_request *request, const void *data, size_t size)
{
    struct site_intake *intake = request->supply;
    struct repl_error err;
    char why[REPL_WIRE_TEXT_MAX + 1];
    if (!request->supply_open || request->answered)
        return;
    if (!site_space_permits(request->volume, why))
        site_refuse_text(request, REPL_REFUSAL_NO_SPACE, "%s", why);
    else if (site_intake_size(intake) + size > REPL_SEGMENT_HARD_LIMIT)
        site_refuse_text(request, REPL_REFUSAL_REQUEST, "a segment has at most %" PRIu64 " bytes",
                         REPL_SEGMENT_HARD_LIMIT);
    else if (!repl_ok(site_intake_put(intake, data, size, &err)))
        site_refuse_error(request, &err);
    else
        site_intake_push(intake);
}

void site_supply_end(struct site_request *request)
{
    struct site_intake *intake = request->supply;
    request->ended = true;
    site_intake_flush(intake);
    if (site_intake_is_idle(intake))
        site_volume_enqueue(request->volume, request, SITE_CHANGE_SUPPLY);
}

/* --- on a worker ----------------------------------------------------------------------------- */

/* Is the supply of that number the same one? REPL_E_MISSING: there is none. */
static repl_result stored_compare(struct site_volume *v, const struct repl_segment_id *id,
                                  const struct repl_digest *digest, bool *same,
                                  struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    struct repl_stored_segment *file;
    struct repl_segment *segment = NULL;
    REPL_TRY(store->ops->segment_open(store, v->name, id, 0, &file, err));
    /* One that cannot be read is not the same; what the index says of it is not believed either. */
    repl_result result =
        repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, err);
    *same = repl_ok(result) && repl_digest_equal(&segment->footer.digest, digest) &&
            !site_scrub_doubts(v->site->scrub, v->name, id);
    repl_segment_free(segment);
    file->close(file);
    return REPL_SUCCESS;
}

repl_result site_supply_number(struct site_volume *v, const struct repl_digest *digest,
                               struct repl_segment_id *id, bool *stored, struct repl_error *err)
{
    for (; id->supply <= REPL_SEGMENT_SUPPLY_MAX; id->supply++) {
        repl_result result = stored_compare(v, id, digest, stored, err);
        if (result.code == REPL_E_MISSING)
            return REPL_SUCCESS;
        REPL_TRY(result);
        if (*stored)
            return REPL_SUCCESS;
    }
    return repl_fail(err, REPL_E_RETRY, "segment %llu.%u has %u supplies already",
                     (unsigned long long)id->to_seq, id->part, REPL_SEGMENT_SUPPLY_MAX);
}

static repl_result supply_needed(struct site_volume *v, const struct repl_segment *segment,
                                 bool *needed, struct repl_error *err)
{
    struct site_seen seen = {0};
    repl_result result = REPL_SUCCESS;
    *needed = false;
    for (uint32_t i = 0; i < segment->footer.chunk_count && repl_ok(result) && !*needed; i++) {
        struct repl_chunk_place place;
        bool found = false;
        result = site_chunk_find(v, &segment->chunks[i].name, &seen, &place, &found, err);
        *needed = !found;
    }
    site_seen_fini(&seen);
    return result;
}

static repl_result supply_store(struct site_volume *v, struct site_request *request,
                                const struct repl_segment *segment, struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    struct repl_segment_id id = request->ask.id;
    bool stored = false, needed;
    REPL_TRY(supply_needed(v, segment, &needed, err));
    if (!needed)
        return REPL_SUCCESS;
    REPL_TRY(site_supply_number(v, &segment->footer.digest, &id, &stored, err));
    if (!stored)
        REPL_TRY(store->ops->segment_publish(store, v->name, &id, request->supply->fd,
                                             request->supply->path, err));
    v->supply_kept = id;
    pthread_mutex_lock(&v->site->index_lock);
    repl_result result = repl_index_add_chunks(v->site->index, v->name, &id, segment->chunks,
                                               segment->footer.chunk_count, err);
    pthread_mutex_unlock(&v->site->index_lock);
    return result;
}

static repl_result supply_check(struct site_volume *v, const struct site_request *request,
                                const struct repl_segment *segment, struct repl_error *err)
{
    const struct repl_segment_header *header = &segment->header;
    if (header->kind != REPL_SEGMENT_SUPPLY)
        return repl_fail(err, REPL_E_CORRUPT, "it is not a supply");
    if (!repl_uuid_equal(&header->volume, &v->journal.create.volume))
        return repl_fail(err, REPL_E_CORRUPT, "it is of another volume");
    if (header->volume_kind != v->journal.create.kind)
        return repl_fail(err, REPL_E_CORRUPT, "it is of another kind of volume");
    if (header->to_seq != request->ask.id.to_seq || header->part != request->ask.id.part)
        return repl_fail(err, REPL_E_CORRUPT, "it was sent under another segment's name");
    return REPL_SUCCESS;
}

static repl_result supply_verify(struct site_volume *v, struct site_request *request,
                                 struct repl_segment **segment, struct repl_error *err)
{
    struct site_intake *intake = request->supply;
    struct repl_frame_coder *coder;
    if (fsync(intake->fd) != 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                               "cannot make %s durable", intake->path);
    REPL_TRY(repl_segment_open(site_read_at, &intake->fd, intake->written, segment, err));
    REPL_TRY(supply_check(v, request, *segment, err));
    REPL_TRY(repl_frame_coder_new(&coder, err));
    repl_result result = repl_segment_verify(*segment, coder, err);
    repl_frame_coder_free(coder);
    return result;
}

static void supply_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_request *request = v->current;
    struct site_intake *intake = request->supply;
    struct repl_segment *segment = NULL;
    intake->result = supply_verify(v, request, &segment, &intake->err);
    if (repl_ok(intake->result))
        intake->result = supply_store(v, request, segment, &intake->err);
    repl_segment_free(segment);
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void supply_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_request *request = v->current;
    struct site_intake *intake = request->supply;
    site_job_ended(v->site);
    bool theirs = intake->result.code == REPL_E_CORRUPT || intake->result.code == REPL_E_VERSION;
    if (!repl_ok(intake->result))
        repl_log(LOG_ERR, "volume %s: a supply to segment %llu.%u was not taken in: %s", v->name,
                 (unsigned long long)request->ask.id.to_seq, request->ask.id.part,
                 intake->err.text);
    if (v->supply_kept.supply != 0)
        site_supply_note(v, &v->supply_kept);
    site_intake_close(intake, true); /* published, it is not under that name any more */
    v->site->index_dirty = true;
    if (theirs)
        site_refuse_damaged(request, &intake->err);
    else if (!repl_ok(intake->result))
        site_refuse_error(request, &intake->err);
    else {
        site_space_went_well(v, SITE_SPACE_DATA_FULL);
        site_answer_ack(request, v, 201);
    }
    site_volume_release(v);
}

void site_supply_note(struct site_volume *v, const struct repl_segment_id *id)
{
    site_supply_drop(v, id);
    struct site_supply *larger =
        reallocarray(v->supplies, v->supply_count + 1, sizeof *v->supplies);
    if (larger == NULL)
        return;
    v->supplies = larger;
    larger[v->supply_count++] = (struct site_supply){.id = *id, .look_ns = repl_now_mono_ns()};
}

void site_supply_drop(struct site_volume *v, const struct repl_segment_id *id)
{
    size_t kept = 0;
    for (size_t i = 0; i < v->supply_count; i++) {
        if (repl_segment_id_order(&v->supplies[i].id, id) != 0)
            v->supplies[kept++] = v->supplies[i];
    }
    v->supply_count = kept;
}

void site_supplies_found(const struct site_volume *v)
{
    const struct repl_buffer *supplies = &v->commit.supplies;
    const struct site_supply_found *found = (const void *)supplies->data;
    for (size_t i = 0; i < supplies->size / sizeof *found; i++) {
        struct site_volume *of = site_find_volume(v->site, found[i].volume);
        for (size_t k = 0; of != NULL && k < of->supply_count; k++) {
            if (repl_segment_id_order(&of->supplies[k].id, &found[i].id) == 0)
                of->supplies[k].idle_ns = 0;
        }
    }
}

bool site_supply_is_late(const struct site_volume *v, const struct repl_segment_id *id)
{
    const struct repl_head *head = &v->journal.head;
    return v->journal.has_head &&
           (id->to_seq < head->to_seq || (id->to_seq == head->to_seq && id->part <= head->part));
}

void site_supply_commit(struct site_volume *v, struct site_request *request)
{
    request->supply->feeder = NULL;
    if (site_supply_is_late(v, &request->ask.id)) {
        site_intake_close(request->supply, true);
        site_answer_ack(request, v, 201);
        return;
    }
    site_volume_hold(v);
    v->supply_kept.supply = 0;
    v->supply_job = (struct repl_job){.work = supply_work, .done = supply_done, .context = v};
    site_job_start(v->site, &v->supply_job);
}

void site_supply_closed(struct site_request *request)
{
    struct site_intake *intake = request->supply;
    if (!request->supply_open)
        return;
    intake->feeder = NULL;
    if (intake->busy) /* supply_moved comes back here */
        return;
    request->supply_open = false;
    site_request_unhold(request);
}

void site_supply_free(struct site_request *request)
{
    if (request->supply == NULL)
        return;
    site_intake_close(request->supply, true);
    site_intake_fini(request->supply);
    free(request->supply);
    request->supply = NULL;
}
