/*
 * One volume: the queue of changes, and its log.
 *
 * Whatever may end in a record of the log (hello, report, commit, mark) is a change,
 * and changes are made one after the other: the journal decides on the basis of
 * its last record, so the next decision has to wait until that one is durable
 * and applied, or has failed.
 *
 *     enqueue -> queue -> (its turn) begin -> busy: jobs -> release -> next
 *
 * A hello and the beginning of an upload also end the upload that is under way:
 * the source has one connection for them, so the older one is dead. They wait
 * until what it brought is in the file, so that the count of bytes they are told
 * is right. A hello ends what comes ahead of its turn too, which cannot be
 * resumed before its turn.
 *
 * Receiving is no change. It goes on while reports are logged, and what comes
 * ahead of its turn begins while a segment is committed.
 *
 * A record is first in the log, durably, then in journal and index. Where the
 * index fails (disk full), the change counts all the same; the index catches up
 * from the log before it takes the next record.
 */
#include "site/site_volume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "site/compactor/compactor.h"

/* --- new and free ---------------------------------------------------------------------------- */

static repl_result upload_init(struct site_volume *v, struct site_upload *u, struct repl_error *err)
{
    u->volume = v;
    u->intake = (struct site_intake){
        .site = v->site, .fd = -1, .digest = &u->digest, .moved = site_upload_moved, .context = u};
    return repl_segment_digest_init(&u->digest, err);
}

repl_result site_volume_new(struct repl_site *site, const char *name, struct site_volume **out,
                            struct repl_error *err)
{
    struct site_volume *v = calloc(1, sizeof *v);
    if (v == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for volume %s", name);
    v->site = site;
    snprintf(v->name, sizeof v->name, "%s", name);
    repl_journal_init(&v->journal);
    v->upload = &v->uploads[0];
    v->ahead = &v->uploads[1];
    repl_result result = upload_init(v, v->upload, err);
    if (repl_ok(result) && !repl_ok(result = upload_init(v, v->ahead, err)))
        repl_segment_digest_fini(&v->upload->digest);
    if (!repl_ok(result)) {
        free(v);
        return result;
    }
    *out = v;
    return REPL_SUCCESS;
}

void site_volume_free(struct site_volume *v)
{
    ensure(!v->busy && v->queue == NULL);
    repl_replica_free(v->replica);
    site_scrub_volume_fini(v);
    free(v->leftovers);
    free(v->supplies);
    for (size_t i = 0; i < 2; i++) {
        site_intake_fini(&v->uploads[i].intake);
        repl_segment_digest_fini(&v->uploads[i].digest);
    }
    free(v);
}

bool site_volume_is_idle(const struct site_volume *v)
{
    return !v->busy && v->queue == NULL && !v->upload->intake.busy && !v->ahead->intake.busy &&
           (v->replica == NULL || !repl_replica_is_busy(v->replica));
}

/* --- the log --------------------------------------------------------------------------------- */

repl_result site_volume_apply(struct site_volume *v, const struct repl_log_record *record,
                              struct repl_error *err)
{
    REPL_TRY(repl_journal_apply(&v->journal, record, err));
    v->marks += record->type == REPL_LOG_MARK;
    const struct repl_log_commit *commit = NULL;
    if (record->type == REPL_LOG_COMMIT)
        commit = &record->commit;
    else if (record->type == REPL_LOG_PIECE && v->journal.in_checkpoint)
        commit = &record->piece.commit;
    if (commit != NULL && commit->has_point) {
        v->point_head = v->journal.head;
        v->point_size = commit->volume_size;
    }
    return REPL_SUCCESS;
}

static repl_result log_write(struct site_append *a, struct repl_error *err)
{
    struct repl_store *store = a->volume->site->store;
    const char *name = a->volume->name;
    struct repl_buffer bytes = {0};
    repl_result result = REPL_SUCCESS;
    if (a->create)
        REPL_TRY(store->ops->volume_create(store, name, err));
    for (size_t i = 0; i < a->record_count && repl_ok(result); i++) {
        uint8_t record[REPL_LOG_RECORD_SIZE_MAX];
        size_t size;
        repl_log_record_encode(a->records[i].record, record, &size);
        result = repl_buffer_append(&bytes, record, size, err);
    }
    if (repl_ok(result))
        result = store->ops->log_append(store, name, a->log_end, bytes.data, bytes.size, err);
    if (repl_ok(result))
        a->log_end += bytes.size;
    repl_buffer_fini(&bytes);
    return result;
}

static void append_work(struct repl_job *job)
{
    struct site_append *a = job->context;
    a->result = log_write(a, &a->err);
    if (!repl_ok(a->result))
        return;
    site_index_append(a);
}

static void append_failed(struct site_volume *v)
{
    struct site_append *a = &v->append;
    v->unsettled = v->settling_vain = true;
    v->unsettled_ns = repl_now_mono_ns();
    repl_log(LOG_ERR, "volume %s: record %llu could not be logged: %s", v->name,
             (unsigned long long)a->records[0].record->number, a->err.text);
}

/* One line for a cause, however often it is tried again. */
static void index_problem_note(struct site_volume *v, const struct repl_error *err)
{
    char text[sizeof v->index_problem];
    snprintf(text, sizeof text, "%.350s", err->text);
    if (strcmp(text, v->index_problem) != 0)
        repl_log(LOG_WARNING,
                 "volume %s: the index is not complete and will catch up; until then its points "
                 "are not listed: %s",
                 v->name, text);
    memcpy(v->index_problem, text, sizeof text);
}

static void append_applied(struct site_volume *v)
{
    struct site_append *a = &v->append;
    struct repl_error err;
    v->log_end = a->log_end;
    v->unsettled = v->drop_unsure = false;
    site_space_went_well(v, SITE_SPACE_LOG_FULL);
    v->site->index_dirty = true;
    /* The log says nothing of supplies: a lost one is not whole before it has been filled again. */
    v->index_behind =
        !repl_ok(a->index_result) || a->generation != v->site->index_generation || v->index_lost;
    v->index_stale = v->index_stale && v->index_behind;
    if (!repl_ok(a->index_result))
        index_problem_note(v, &a->index_err);
    else if (!v->index_behind)
        v->index_problem[0] = '\0';
    /* The journal made these records out of the state it is in. */
    for (size_t i = 0; i < a->record_count; i++)
        ensure(repl_ok(site_volume_apply(v, a->records[i].record, &err)));
}

static void append_done(struct repl_job *job)
{
    struct site_append *a = job->context;
    struct site_volume *v = a->volume;
    site_job_ended(v->site);
    if (repl_ok(a->result))
        append_applied(v);
    else
        append_failed(v);
    a->done(v, a->result, &a->err);
}

static void append_start(struct site_volume *v)
{
    struct site_append *a = &v->append;
    ensure(v->busy);
    a->volume = v;
    a->log_end = v->log_end;
    a->index_behind = v->index_behind;
    a->generation = v->site->index_generation;
    a->job = (struct repl_job){.work = append_work, .done = append_done, .context = a};
    site_job_start(v->site, &a->job);
}

void site_volume_append(struct site_volume *v, const struct repl_index_record *added,
                        void (*done)(struct site_volume *, repl_result, const struct repl_error *))
{
    struct site_append *a = &v->append;
    *a = (struct site_append){.record = *added->record,
                              .create = added->record->type == REPL_LOG_CREATE,
                              .record_count = 1,
                              .done = done};
    a->one = *added;
    a->one.record = &a->record;
    a->records = &a->one;
    append_start(v);
}

void site_volume_append_group(struct site_volume *v, const struct repl_index_record *records,
                              size_t count,
                              void (*done)(struct site_volume *, repl_result,
                                           const struct repl_error *))
{
    v->append = (struct site_append){.records = records, .record_count = count, .done = done};
    append_start(v);
}

/* --- one after the other --------------------------------------------------------------------- */

static void change_begin(struct site_volume *v, struct site_request *request)
{
    if (!site_request_permit(request) || !site_volume_serves(request)) {
        site_upload_forbid(v, request);
        return;
    }
    switch (request->change) {
    case SITE_CHANGE_HELLO:
        site_hello_begin(v, request);
        break;
    case SITE_CHANGE_REPORT:
        site_report_begin(v, request);
        break;
    case SITE_CHANGE_UPLOAD:
        site_upload_begin(v, request);
        break;
    case SITE_CHANGE_AHEAD:
        site_ahead_begin(v, request);
        break;
    case SITE_CHANGE_COMMIT:
        site_commit_begin(v, request);
        break;
    case SITE_CHANGE_SUPPLY:
        site_supply_commit(v, request);
        break;
    case SITE_CHANGE_MARK:
        site_mark_begin(v, request);
        break;
    }
}

/* May it begin? If not, site_upload_moved calls again. */
static bool change_ready(struct site_volume *v, const struct site_request *request)
{
    if (request->change != SITE_CHANGE_HELLO && request->change != SITE_CHANGE_UPLOAD)
        return true;
    site_upload_detach(v, "another connection has taken over: say hello again");
    if (request->change == SITE_CHANGE_HELLO)
        site_ahead_drop(v);
    return site_intake_is_idle(&v->upload->intake);
}

static void refill_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    v->refill.result = site_index_refill(v, v->refill.lost, v->refill.log_end, &v->refill.err);
}

static void refill_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    site_job_ended(v->site);
    v->busy = false;
    v->site->index_dirty = true;
    if (!repl_ok(v->refill.result)) {
        v->index_vain = true;
        index_problem_note(v, &v->refill.err);
    } else if (v->refill.generation == v->site->index_generation) {
        v->index_behind = v->index_lost = v->index_stale = false;
        v->index_problem[0] = '\0';
        repl_log(LOG_INFO, "volume %s: the index is complete again", v->name);
        site_volume_follow(v);
    }
    site_volume_pump(v);
}

static void settle_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct repl_store *store = v->site->store;
    /* Why an append failed has been told. */
    v->settle_result = store->ops->log_append(store, v->name, v->log_end, "", 0, NULL);
}

static void settle_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    site_job_ended(v->site);
    v->busy = false;
    v->unsettled = !repl_ok(v->settle_result);
    v->settling_vain = v->unsettled;
    v->drop_unsure = v->drop_unsure && v->unsettled;
    site_volume_pump(v);
}

/* A commit does so by itself. Where none comes, as there is no room for one, merging must not wait
 * for it. */
static void settle_if_idle(struct site_volume *v)
{
    int64_t late_ns = v->site->store->late_ms * 1000000;
    if (v->busy || !v->unsettled || v->settling_vain || v->queue != NULL || v->site->closing ||
        repl_now_mono_ns() - v->unsettled_ns < late_ns)
        return;
    v->busy = true;
    v->settle_job = (struct repl_job){.work = settle_work, .done = settle_done, .context = v};
    site_job_start(v->site, &v->settle_job);
}

/* Before any further change: a commit looks for chunks in the index. */
static void refill_if_behind(struct site_volume *v)
{
    if (!v->index_behind || v->index_vain || v->busy || v->site->closing || v->damaged[0] != '\0')
        return;
    v->busy = true;
    v->refill.log_end = v->log_end;
    v->refill.lost = v->index_lost;
    v->refill.generation = v->site->index_generation;
    v->refill.job = (struct repl_job){.work = refill_work, .done = refill_done, .context = v};
    site_job_start(v->site, &v->refill.job);
}

static struct site_request *queue_take(struct site_volume *v, struct site_request *previous)
{
    struct site_request **link = previous != NULL ? &previous->next : &v->queue;
    struct site_request *request = *link;
    *link = request->next;
    if (v->queue_last == request)
        v->queue_last = previous;
    return request;
}

/* What need not wait for the commit that is under way. Whatever begins an upload is not overtaken:
 * it may be the one that this is ahead of. */
static void aheads_begin(struct site_volume *v)
{
    struct site_request *previous = NULL;
    while (v->commit.request != NULL && !v->site->closing) {
        const struct site_request *request = previous != NULL ? previous->next : v->queue;
        if (request == NULL || request->change == SITE_CHANGE_HELLO ||
            request->change == SITE_CHANGE_UPLOAD)
            return;
        if (request->change != SITE_CHANGE_AHEAD) {
            previous = previous != NULL ? previous->next : v->queue;
            continue;
        }
        struct site_request *ahead = queue_take(v, previous);
        previous = NULL;
        change_begin(v, ahead);
        site_request_unhold(ahead);
    }
}

void site_volume_pump(struct site_volume *v)
{
    refill_if_behind(v);
    settle_if_idle(v);
    site_watch_pump(v);
    if (!v->busy && v->site->compactor != NULL)
        site_compactor_pump(v->site->compactor, v);
    while (!v->busy && v->queue != NULL && change_ready(v, v->queue)) {
        struct site_request *request = queue_take(v, NULL);
        v->current = request;
        if (!v->site->closing)
            change_begin(v, request);
        if (!v->busy) {
            v->current = NULL;
            site_request_unhold(request);
        }
    }
    aheads_begin(v);
}

void site_volume_enqueue(struct site_volume *v, struct site_request *request,
                         enum site_change change)
{
    request->change = change;
    request->next = NULL;
    site_request_hold(request);
    if (v->queue_last != NULL)
        v->queue_last->next = request;
    else
        v->queue = request;
    v->queue_last = request;
    site_volume_pump(v);
}

void site_volume_hold(struct site_volume *v)
{
    v->busy = true;
    v->change_ns = repl_now_mono_ns();
}

void site_volume_release(struct site_volume *v)
{
    struct site_request *request = v->current;
    v->busy = false;
    v->change_ns = 0;
    v->current = NULL;
    site_request_unhold(request);
    site_volume_pump(v);
}

/* --- the replica ----------------------------------------------------------------------------- */

static void replica_make(struct site_volume *v)
{
    char directory[PATH_MAX];
    struct repl_error err;
    const struct repl_config_volume *config = repl_config_find_volume(v->site->config, v->name);
    const char *target = config != NULL && config->replica != NULL ? config->replica : "image";
    if (strcmp(target, "none") == 0)
        return;
    const struct repl_store *store = v->site->store;
    repl_result result =
        store->ops->volume_directory(store, v->name, directory, sizeof directory, &err);
    struct repl_replica_options options = {.loop = v->site->loop,
                                           .pool = v->site->replica_pool,
                                           .store = v->site->store,
                                           .index = v->site->index,
                                           .volume = v->name,
                                           .uuid = v->journal.create.volume,
                                           .kind = v->journal.create.kind,
                                           .directory = directory,
                                           .target = target};
    if (repl_ok(result))
        result = repl_replica_new(&options, &v->replica, &err);
    if (repl_ok(result))
        return;
    repl_log(LOG_ERR, "volume %s: there is no replica: %s", v->name, err.text);
    snprintf(v->replica_problem, sizeof v->replica_problem, "%.350s", err.text);
}

void site_volume_follow(struct site_volume *v)
{
    const struct repl_journal *j = &v->journal;
    if (v->site->closing)
        return;
    if (v->replica == NULL)
        replica_make(v);
    /* Parts of the first full may be applied to an image as they come: there is no good point to
     * spoil. */
    bool parts = j->point.seq == 0 && j->create.kind != REPL_VOLUME_TREE;
    if (v->replica != NULL)
        repl_replica_follow(v->replica, parts ? &j->head : &v->point_head);
}
