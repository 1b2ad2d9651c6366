/*
 * A round of a directory tree: it is opened by looking for what has changed
 * (source/tree/tree_scan.h), its pages are read from the files they belong to,
 * and it is closed by looking once more: if nothing has changed in between, the
 * copy is of the tree as it was all that time. Or it is cut per file: then the
 * next round is about those files that have changed (source/tree/tree_files.c).
 */
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "control/control.h"
#include "source/source_volume_internal.h"
#include "source/tree/tree_places.h"

/* Programs that trace the kernel do get skipped: so often everything is looked at all the same.
 * (A test that has changes overlooked does not wait for that long.) */
#ifndef REPL_TREE_AUDIT_NS
#define REPL_TREE_AUDIT_NS (3600 * REPL_SECOND_NS)
#endif
#define LISTEN_NS (INT64_C(100) * 1000000) /* between two looks at what there is to hear */

/* --- opening --------------------------------------------------------------------------------- */

/* What the agent writes would change the tree, and be written again. */
static repl_result state_check(const struct repl_source_volume *v, struct repl_error *err)
{
    char tree[PATH_MAX], state[PATH_MAX];
    const char *path = v->options.volume->path;
    if (realpath(path, tree) == NULL || realpath(v->options.config->state, state) == NULL)
        return REPL_SUCCESS; /* opening them says why */
    size_t size = strcmp(tree, "/") == 0 ? 0 : strlen(tree);
    if (strncmp(state, tree, size) == 0 && (state[size] == '/' || state[size] == '\0'))
        return repl_fail(err, REPL_E_REFUSED,
                         "the agent's state, %s, lies in %s, which it is to protect: name another "
                         "directory as state in [agent]",
                         state, path);
    return REPL_SUCCESS;
}

static uint64_t sent_to(const struct repl_source_state *state)
{
    return state->sent_count > 0 ? state->sent[state->sent_count - 1].to_seq
                                 : state->checkpoint.to_seq;
}

repl_result volume_tree_open(struct repl_source_volume *v, struct repl_error *err)
{
    const struct repl_source_volume_options *o = &v->options;
    char identity[REPL_IDENTITY_MAX + 1], index_path[PATH_MAX];
    REPL_TRY(state_check(v, err)); /* which is there: the agent has locked it */
    REPL_TRY(repl_tree_identify(o->volume->path, identity, sizeof identity, err));
    REPL_TRY(repl_state_dir_open(o->config->state, o->volume->name, 0, identity, &v->dir, err));
    snprintf(index_path, sizeof index_path, "%s/volumes/%s/tree", o->config->state,
             o->volume->name);
    const struct repl_tree_options options = {.path = o->volume->path,
                                              .exclude = o->volume->exclude,
                                              .index_path = index_path,
                                              .volume = v->dir.state.volume,
                                              .next_seq = v->dir.state.next_seq,
                                              .sent_to = sent_to(&v->dir.state),
                                              .space_size = v->dir.state.volume_size,
                                              .snapshots =
                                                  repl_quiesce_has_snapshots(o->volume->quiesce)};
    repl_result result = repl_tree_open(&options, &v->tree, err);
    if (!repl_ok(result))
        repl_state_dir_close(&v->dir);
    return result;
}

/* --- listening ------------------------------------------------------------------------------- */

static void listen_again(struct repl_timer *timer)
{
    struct repl_source_volume *v = timer->context;
    repl_poll_start(v->options.loop, &v->tree_poll, repl_tree_watch_fd_of(v->tree), POLLIN);
}

static repl_result hear(struct repl_source_volume *v, struct repl_error *err)
{
    return v->tree_comparing ? REPL_SUCCESS : repl_tree_hear(v->tree, err);
}

/* The queue has room for many events, and in it those that say the same become one. */
static void heard(struct repl_poll *poll, unsigned events)
{
    struct repl_source_volume *v = poll->context;
    struct repl_error err;
    (void)events;
    repl_poll_stop(poll);
    repl_timer_arm(v->options.loop, &v->tree_timer, repl_now_mono_ns() + LISTEN_NS);
    if (!repl_ok(hear(v, &err)))
        volume_fail(v, &err);
}

void volume_tree_start(struct repl_source_volume *v)
{
    if (v->tree == NULL)
        return;
    v->tree_poll = (struct repl_poll){.ready = heard, .context = v};
    v->tree_timer = (struct repl_timer){.fire = listen_again, .context = v};
    if (repl_tree_is_watched(v->tree))
        listen_again(&v->tree_timer);
    else
        repl_log(LOG_WARNING,
                 "volume %s: changes are not heard of, each round looks at every name%s: %s",
                 volume_name(v),
                 v->options.volume->quiesce == REPL_QUIESCE_WINDOW_ELSE_FILES
                     ? ", and no point is cut per file"
                     : "",
                 repl_tree_unwatched(v->tree));
}

void volume_tree_cancel(struct repl_source_volume *v)
{
    if (v->tree == NULL)
        return;
    repl_tree_stop(v->tree);
    repl_timer_cancel(&v->tree_timer);
    repl_poll_stop(&v->tree_poll);
}

void volume_tree_close(struct repl_source_volume *v)
{
    repl_tree_close(v->tree);
    v->tree = NULL;
    v->tree_gathered = false;
    repl_tree_found_fini(&v->tree_found);
}

void volume_tree_records(struct repl_source_volume *v, struct repl_pipeline_records *out)
{
    *out = (struct repl_pipeline_records){.are_pending = repl_tree_records_are_pending,
                                          .are_many = repl_tree_records_are_many,
                                          .are_torn = repl_tree_records_are_torn,
                                          .begin = repl_tree_segment_begin,
                                          .next = repl_tree_segment_record,
                                          .end = repl_tree_segment_end,
                                          .settled = repl_tree_records_settled,
                                          .lost = repl_tree_records_lost,
                                          .context = v->tree};
}

/* --- rounds ---------------------------------------------------------------------------------- */

/* Whoever ended it has said so already. */
static bool job_over(struct repl_source_volume *v)
{
    v->tree_out = false;
    volume_snapshot_follow(v);
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
        return false;
    }
    if (v->tree_result.code == REPL_E_RETRY && v->stop_wanted) {
        volume_pump(v);
        return false;
    }
    if (!repl_ok(v->tree_result)) {
        volume_fail(v, &v->tree_err);
        return false;
    }
    return true;
}

struct repl_write_counters volume_tree_counters(const struct repl_source_volume *v)
{
    return (struct repl_write_counters){.sectors_written = v->tree_changes,
                                        .marks = v->tree_changes};
}

/* What was written to is among the files whose ctime is another than it was. */
static void overlooked_say(struct repl_source_volume *v)
{
    repl_log(LOG_WARNING,
             "volume %s: %llu pages turned dirty without the programs that notice it being called: "
             "all names were looked at",
             volume_name(v), (unsigned long long)v->tree_found.overlooked);
    repl_pipeline_unsure(&v->pipeline, "writes were not noticed: all names were looked at",
                         v->tree_begin_ns);
}

static void unheard_say(struct repl_source_volume *v)
{
    repl_log(LOG_WARNING,
             "volume %s: %llu changes were found that had not been heard of: the points since all "
             "names were last looked at may be without them, the next one has them",
             volume_name(v), (unsigned long long)v->tree_found.unheard);
    repl_pipeline_unsure(&v->pipeline, "changes were found that had not been heard of",
                         v->tree_begin_ns);
}

static repl_result found_take(struct repl_source_volume *v, struct repl_error *err)
{
    const struct repl_tree_pages *pages = (const void *)v->tree_found.pages.data;
    uint64_t size = repl_tree_space_size(v->tree);
    if (size > v->pipeline.options.volume_size) {
        REPL_TRY(repl_state_dir_grow(&v->dir, size, err));
        REPL_TRY(repl_pipeline_grow(&v->pipeline, size, v->dir.digests, err));
    }
    for (size_t i = 0; i < v->tree_found.pages.size / sizeof *pages; i++)
        repl_bitmap_set(&v->pipeline.round.dirty, pages[i].page, pages[i].count);
    v->tree_changes += v->tree_found.changes;
    if (v->tree_found.mounts > v->tree_mounts) {
        v->tree_mounts = v->tree_found.mounts;
        repl_log(LOG_NOTICE,
                 "volume %s: something else is mounted on %llu directories of it, which are kept "
                 "without what is in them",
                 volume_name(v), (unsigned long long)v->tree_mounts);
    }
    REPL_TRY(hear(v, err));
    if (v->tree_found.overlooked > 0)
        overlooked_say(v);
    if (v->tree_found.unheard > 0 && repl_tree_is_quiet(v->tree))
        unheard_say(v);
    repl_tree_found_fini(&v->tree_found);
    v->tree_found = (struct repl_tree_found){0};
    return REPL_SUCCESS;
}

static void opened_alone(struct repl_source_volume *v)
{
    const struct repl_write_counters counters = volume_tree_counters(v);
    repl_pipeline_opened(&v->pipeline, v->tree_begin_ns, &counters, false);
}

void volume_tree_follow(struct repl_source_volume *v)
{
    struct repl_error err;
    if (!v->tree_gathered || v->checkpoint_out)
        return; /* which writes out the table of digests where it lies */
    v->tree_gathered = false;
    if (!repl_ok(found_take(v, &err))) {
        volume_fail(v, &err);
        return;
    }
    if (v->tree_alone)
        opened_alone(v);
}

static void gather_work(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->tree_result = repl_tree_gather(v->tree, &v->tree_found, &v->tree_err);
}

static void gather_begin(struct repl_source_volume *v, enum repl_tree_look look);

static void gather_done(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    struct repl_error err;
    if (!job_over(v))
        return;
    if (repl_tree_hides(v->tree)) {
        if (!repl_ok(hear(v, &err)))
            volume_fail(v, &err);
        else
            gather_begin(v, REPL_TREE_LOOK_AGAIN);
        return;
    }
    v->tree_gathered = true;
    volume_tree_follow(v);
    volume_pump(v);
}

static void job_start(struct repl_source_volume *v, repl_job_fn *work, repl_job_fn *done)
{
    v->tree_out = true;
    v->tree_job = (struct repl_job){.work = work, .done = done, .context = v};
    repl_loop_work(v->options.loop, &v->tree_job);
}

static void gather_begin(struct repl_source_volume *v, enum repl_tree_look look)
{
    repl_tree_gather_begin(v->tree, repl_pipeline_is_full(&v->pipeline), look);
    job_start(v, gather_work, gather_done);
}

static enum repl_tree_look look_now(const struct repl_source_volume *v)
{
    const struct repl_epoch *epoch = &v->pipeline.epoch;
    return !epoch->files              ? REPL_TREE_LOOK
           : epoch->files_rounds == 0 ? REPL_TREE_LOOK_FILES
                                      : REPL_TREE_LOOK_AGAIN;
}

/* Looks at everything, besides where something was heard of: then there is nothing to be found. Not
 * while writers wait for the end of the round, nor where some files are looked at again. */
static bool audit_is_due(const struct repl_source_volume *v)
{
    bool held = v->pipeline.hold != REPL_HOLD_NONE;
    return !held && look_now(v) != REPL_TREE_LOOK_AGAIN &&
           repl_now_mono_ns() - v->tree_scan_ns >= REPL_TREE_AUDIT_NS;
}

static void gather_start(struct repl_source_volume *v)
{
    bool unsure = repl_tree_is_unsure(v->tree), audit = audit_is_due(v);
    if (audit)
        repl_tree_audit(v->tree);
    if (unsure && repl_tree_is_watched(v->tree))
        repl_pipeline_unsure(&v->pipeline,
                             "changes may not have been heard of: all names are looked at",
                             v->tree_begin_ns);
    if (unsure || audit)
        v->tree_scan_ns = repl_now_mono_ns();
    gather_begin(v, look_now(v));
}

static void same_work(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->tree_unstable = 0;
    v->tree_result =
        v->tree_files ? repl_tree_unstable(v->tree, &v->tree_same, &v->tree_unstable, &v->tree_err)
                      : repl_tree_is_same(v->tree, &v->tree_same, &v->tree_err);
}

/* What was heard is about something else, and all there is to do is to note what the site has; or a
 * snapshot is made. */
static void looked_ahead(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->tree_comparing = false;
    if (!job_over(v))
        return;
    if (v->tree_same || !repl_pipeline_quiesce_first(&v->pipeline))
        gather_start(v);
    volume_pump(v);
}

/* A snapshot is a commit of the filesystem: none for what others write there. Nor for a look at all
 * there is, or a full: as much of that as goes without a snapshot is read ahead of it, so that it
 * is there for what has changed meanwhile and no longer, for it holds on to what is overwritten. */
static bool is_for_snapshot(const struct repl_source_volume *v)
{
    return v->options.volume->quiesce == REPL_QUIESCE_SNAPSHOT && !repl_tree_is_snapshot(v->tree) &&
           !repl_tree_is_unsure(v->tree) && !audit_is_due(v) &&
           !repl_pipeline_is_full(&v->pipeline);
}

void volume_tree_look(struct repl_source_volume *v)
{
    struct repl_error err;
    bool snapshot = repl_tree_is_snapshot(v->tree);
    v->tree_alone = false;
    v->tree_begin_ns = snapshot ? v->snapshot_begin_ns : repl_now_wall_ns();
    if (!repl_ok(hear(v, &err))) {
        volume_fail(v, &err);
        return;
    }
    if (!snapshot && !audit_is_due(v) && look_now(v) == REPL_TREE_LOOK &&
        repl_tree_is_idle(v->tree) && !repl_pipeline_is_full(&v->pipeline))
        return;
    if (is_for_snapshot(v)) {
        v->tree_comparing = true;
        job_start(v, same_work, looked_ahead);
    } else {
        gather_start(v);
    }
}

bool volume_tree_is_busy(const struct repl_source_volume *v)
{
    return v->tree_out || v->tree_gathered;
}

void volume_tree_round_open(struct repl_source_volume *v)
{
    if (!volume_tree_is_busy(v))
        volume_tree_look(v);
    v->tree_alone = true;
    if (volume_is_up(v) && !volume_tree_is_busy(v))
        opened_alone(v); /* else what it finds opens the round */
}

static void same_done(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->tree_comparing = false;
    if (!job_over(v))
        return;
    v->tree_changes += !v->tree_same;
    if (v->tree_alone) {
        struct repl_write_counters counters = volume_tree_counters(v);
        int64_t end_ns = repl_tree_is_snapshot(v->tree) ? v->snapshot_end_ns : repl_now_wall_ns();
        counters.unstable = v->tree_unstable;
        repl_pipeline_closed(&v->pipeline, end_ns, &counters, NULL);
    }
    volume_pump(v);
}

void volume_tree_compare(struct repl_source_volume *v)
{
    struct repl_error err;
    if (!repl_ok(hear(v, &err))) {
        volume_fail(v, &err);
        return;
    }
    v->tree_comparing = true;
    v->tree_files = v->pipeline.epoch.files;
    job_start(v, same_work, same_done);
}

void volume_tree_round_close(struct repl_source_volume *v)
{
    v->tree_alone = true;
    volume_tree_compare(v);
}

void volume_tree_log(struct repl_source_volume *v)
{
    const struct repl_pipeline *p = &v->pipeline;
    bool files = p->point.consistency == REPL_CONSISTENCY_PER_FILE;
    if (files != v->files_logged)
        repl_log(LOG_NOTICE, "volume %s: %s", volume_name(v),
                 files ? "no moment without a change was found: points are cut per file"
                       : "points are of one moment again");
    bool unstable = p->unstable_files > 0;
    if (unstable && !v->unstable_logged)
        repl_log(LOG_WARNING,
                 "volume %s: %llu files changed whenever they were read: in point %llu they are as "
                 "they were read last, and may be of no single moment",
                 volume_name(v), (unsigned long long)p->unstable_files,
                 (unsigned long long)p->point.seq);
    v->files_logged = files;
    v->unstable_logged = files && (v->unstable_logged || unstable);
}

/* --- batches --------------------------------------------------------------------------------- */

static void batch_work(struct repl_job *job)
{
    struct volume_batch *b = job->context;
    for (uint32_t i = 0; repl_ok(b->result) && i < b->batch.read_count; i++) {
        const struct repl_batch_read *read = &b->batch.reads[i];
        b->result = repl_tree_read(b->volume->tree, read->page, read->count,
                                   repl_batch_read_to(&b->batch, read), &b->err);
    }
}

void volume_tree_batch_read(struct volume_batch *b, repl_job_fn *done)
{
    b->job = (struct repl_job){.work = batch_work, .done = done, .context = b};
    b->volume->tree_reads_out++;
    repl_loop_work(b->volume->options.loop, &b->job);
}
