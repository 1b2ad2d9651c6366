/*
 * The commit sequence of a segment, step by step as the core hands it out
 * (repl_commit_next): each step is a worker's job (VERIFY several,
 * site_verify.c), and what it finds is judged on the loop.
 *
 * A crash leaves, after
 *   SYNC, VERIFY   a staged file: resumed or removed at the next start
 *   PUBLISH        a segment the log does not know: set aside at the next start
 *   LOG            a committed segment that was not acknowledged: the source
 *                  learns of it with its next hello
 *
 * Between VERIFY and PUBLISH it passes the gate of its pool (site_gate.h): if chunks
 * were taken away while it was verified, those that it refers to are looked for again.
 *
 * A failure in the middle leaves the same. An append that failed may or may not
 * be in the log after a crash, so its segment stays as it is until the log has
 * been cut back: publishing begins with that (settle).
 */
#include <errno.h>
#include <syslog.h>
#include <unistd.h>

#include "base/ensure.h"
#include "site/scrub/scrub.h"
#include "site/site_volume.h"

static void commit_run(struct site_volume *v);

/* --- on a worker: the steps ------------------------------------------------------------------ */

static void sync_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_commit *c = &v->commit;
    c->result = REPL_SUCCESS;
    if (fsync(c->fd) != 0)
        c->result = repl_fail_errno(&c->err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                                    "cannot make %s durable", v->upload->intake.path);
}

/* After this the log ends where we think, on the disk too, and knows no segment that is not. */
static repl_result settle(struct site_volume *v, const struct repl_segment_id *id,
                          struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    if (v->unsettled)
        REPL_TRY(store->ops->log_append(store, v->name, v->log_end, "", 0, err));
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
    c->result =
        store->ops->segment_publish(store, v->name, &c->id, c->fd, v->upload->intake.path, &c->err);
    if (!repl_ok(c->result)) { /* it may have got its name all the same */
        v->has_orphan = true;
        v->orphan = c->id;
    }
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void commit_end(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    if (c->inside)
        site_gate_leave(&c->pass);
    repl_segment_free(c->segment);
    repl_missing_fini(&c->missing);
    repl_buffer_fini(&c->refs);
    repl_buffer_fini(&c->supplies);
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
                               c->volume_size, repl_segment_last_point(c->segment), &c->churn,
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

static void trouble_tell(const struct site_volume *v)
{
    const struct repl_churn *churn = &v->commit.record.commit.churn;
    if (churn->trouble != REPL_TROUBLE_NONE)
        repl_log(LOG_WARNING,
                 "volume %s: point %llu looks like %s. The last point before it is %llu: \"repl "
                 "points\" shows both, and --at \"before trouble\" means that one",
                 v->name, (unsigned long long)v->commit.id.to_seq,
                 repl_trouble_words(churn->trouble), (unsigned long long)churn->trouble_before_seq);
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
    v->bytes_received += v->upload->intake.written;
    v->points += c->record.commit.has_point;
    site_space_went_well(v, SITE_SPACE_DATA_FULL);
    trouble_tell(v);
    site_supplies_found(v);
    site_scrub_committed(v, c->record.commit.from_seq);
    site_answer_ack(c->request, v, 201);
    site_upload_next(v);
    site_volume_follow(v);
    commit_end(v);
}

void site_commit_step_end(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    bool good = repl_ok(c->result);
    if (good && c->step == REPL_COMMIT_VERIFY && !commit_check(v))
        return;
    if (!good) {
        commit_failed(v);
        return;
    }
    c->step = repl_commit_next(c->step, true);
    commit_run(v);
}

static void step_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    site_job_ended(v->site);
    site_commit_step_end(v);
}

static void gate_entered(void *context)
{
    struct site_volume *v = context;
    v->commit.inside = true;
    commit_run(v);
}

/* An index that lacks a merge finds what is not there any more. */
static bool refuse_stale(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    if (c->ref_count == 0 || !site_pool_is_stale(v))
        return false;
    site_refuse_text(c->request, REPL_REFUSAL_BUSY,
                     "the site's index is not complete just now: try again later");
    commit_end(v);
    return true;
}

/* Whether what was found still counts, and goes on counting; if not, it goes on by itself. */
static bool gate_passed(struct site_volume *v)
{
    struct site_commit *c = &v->commit;
    if (c->gate != NULL && !c->inside) {
        c->pass = (struct site_pass){.entered = gate_entered, .context = v};
        c->inside = site_gate_enter(c->gate, &c->pass);
        if (!c->inside)
            return false;
    }
    if (refuse_stale(v))
        return false;
    if (c->gate == NULL || c->gate->takings == c->takings)
        return true;
    c->takings = c->gate->takings;
    c->step = REPL_COMMIT_VERIFY;
    site_verify_chunks(v);
    return false;
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
        c->takings = c->gate != NULL ? c->gate->takings : 0;
        site_verify_begin(v);
        return;
    case REPL_COMMIT_PUBLISH:
        if (!gate_passed(v))
            return;
        work = publish_work;
        break;
    case REPL_COMMIT_LOG:
        site_volume_append(
            v,
            &(struct repl_index_record){.record = &c->record,
                                        .chunks = c->segment->chunks,
                                        .chunk_count = c->segment->footer.chunk_count,
                                        .refs = (const struct repl_digest *)(void *)c->refs.data,
                                        .ref_count = c->ref_count},
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
    struct site_gate *gate;
    struct repl_error err;
    if (v->upload->intake.feeder != request) /* somebody else took over while it waited */
        return;
    v->upload->intake.feeder = NULL;
    if (!repl_ok(site_gate_of(v, &gate, &err))) {
        site_refuse_error(request, &err);
        return;
    }
    site_volume_hold(v);
    v->journal.upload.committing = true;
    *c =
        (struct site_commit){.request = request,
                             .step = REPL_COMMIT_SYNC,
                             .id = {.to_seq = request->ask.id.to_seq, .part = request->ask.id.part},
                             .fd = v->upload->intake.fd,
                             .gate = gate,
                             .point_size = v->point_size};
    commit_run(v);
}
