/*
 * The pipeline decides, this file does. volume_pump asks for actions until there
 * are none, hands idle batches out, and arms the timer; every completion ends
 * in volume_pump again.
 *
 *   CLOSED --> OPENING --> RUNNING --failure--> CLOSING --drained--> CLOSED --10 s--> ...
 *                             \--stop--> STOPPING --checkpoint or time limit--> CLOSING
 *
 * A failure of the spool, the state or the device's descriptor is not mended in
 * place: the volume is closed and opened again, which is the same as a restart
 * of the agent and therefore known to be safe. CLOSING waits for everything
 * that still holds a pointer into the volume.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <syslog.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/limits.h"
#include "control/control.h"
#include "source/source_volume_internal.h"
#include "source/spool_load.h"

#define REOPEN_NS (10 * REPL_SECOND_NS)
#define STOP_NS   (5 * REPL_SECOND_NS)

/* A full disk under the spool: so much more room than there was, or this time, is worth a try. */
#define SPACE_WORTH_BYTES (UINT64_C(8) << 20)
#define SPACE_RETRY_NS    (60 * REPL_SECOND_NS)

/* What a round of a tree may read and be worth trying again at once, or a freeze: 256 MiB. Files
 * that were written to are compared whole. */
#define TREE_SMALL_PAGES (UINT64_C(1) << 16)

static void volume_open(struct repl_source_volume *v);

const char *volume_name(const struct repl_source_volume *v)
{
    return v->options.volume->name;
}

const char *volume_path(const struct repl_source_volume *v)
{
    const struct repl_config_volume *volume = v->options.volume;
    return volume->kind == REPL_VOLUME_TREE ? volume->path : volume->device;
}

uint64_t volume_size(const struct repl_source_volume *v)
{
    return v->tree != NULL ? v->pipeline.options.volume_size : v->device.size;
}

bool volume_is_up(const struct repl_source_volume *v)
{
    return v->phase == VOLUME_RUNNING || v->phase == VOLUME_STOPPING;
}

/* --- closing --------------------------------------------------------------------------------- */

static void parts_close(struct repl_source_volume *v)
{
    repl_dedup_free(v->dedup);
    v->dedup = NULL;
    repl_spool_fini(&v->spool);
    repl_pipeline_fini(&v->pipeline);
    repl_tracker_close(v->tracker);
    v->tracker = NULL;
    repl_state_dir_close(&v->dir);
    volume_tree_close(v);
    repl_device_close(&v->device);
}

void volume_close_if_drained(struct repl_source_volume *v)
{
    if (v->phase != VOLUME_CLOSING || !volume_rounds_idle(v) || !repl_spool_is_idle(&v->spool) ||
        v->state_out || v->checkpoint_out || v->head_out || v->tree_out || v->recover_out ||
        v->coalesce != NULL || v->checks_out > 0 || !repl_dedup_is_idle(v->dedup))
        return;
    parts_close(v);
    v->phase = VOLUME_CLOSED;
    if (v->stop_wanted)
        v->options.stopped(v->options.context);
    else
        repl_timer_arm(v->options.loop, &v->reopen_timer, repl_now_mono_ns() + REOPEN_NS);
}

static void volume_close(struct repl_source_volume *v)
{
    v->phase = VOLUME_CLOSING;
    repl_timer_cancel(&v->timer);
    repl_timer_cancel(&v->report_timer);
    repl_timer_cancel(&v->stop_timer);
    repl_timer_cancel(&v->fail_timer);
    if (v->coalesce != NULL)
        repl_coalesce_job_cancel(v->coalesce);
    volume_tree_cancel(v);
    volume_rounds_cancel(v);
    volume_link_cancel(v);
    volume_close_if_drained(v);
    if (v->options.group != NULL)
        repl_source_group_look(v->options.group);
}

void volume_fail(struct repl_source_volume *v, const struct repl_error *err)
{
    if (!volume_is_up(v))
        return;
    v->why = *err;
    repl_log(LOG_ERR, "volume %s: %s; trying again in %d s", volume_name(v), err->text,
             (int)(REOPEN_NS / REPL_SECOND_NS));
    volume_close(v);
}

/* --- a spool whose disk is full ------------------------------------------------------------------
 */

void volume_spool_failed(struct repl_source_volume *v, uint64_t number, repl_result result,
                         const struct repl_error *err)
{
    if (result.code != REPL_E_NOSPACE || number == 0) {
        volume_fail(v, err);
        return;
    }
    v->space_known = false;
    repl_pipeline_spool_full(&v->pipeline, number, err, repl_now_wall_ns());
    volume_pump(v);
}

void volume_space_look(struct repl_source_volume *v)
{
    struct statvfs fs;
    int64_t now_ns = repl_now_mono_ns();
    if (!v->pipeline.disk_full) {
        v->space_known = false;
        return;
    }
    uint64_t free_bytes =
        fstatvfs(v->dir.spool_fd, &fs) == 0 ? (uint64_t)fs.f_bfree * fs.f_frsize : 0;
    if (!v->space_known) { /* what was given up is gone by now */
        v->space_known = true;
        v->space_bytes = free_bytes;
        v->space_ns = now_ns;
    } else if (free_bytes >= v->space_bytes + SPACE_WORTH_BYTES ||
               now_ns - v->space_ns >= SPACE_RETRY_NS) {
        v->space_known = false;
        repl_pipeline_spool_freed(&v->pipeline, repl_now_wall_ns());
        volume_wake(v);
    }
}

/* --- a spool that fills ---------------------------------------------------------------------- */

static void coalesced(void *context, const struct repl_coalesce_result *done)
{
    struct repl_source_volume *v = context;
    struct repl_error err;
    v->coalesce = NULL;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
        return;
    }
    if (!repl_ok(done->result))
        repl_log(LOG_WARNING, "volume %s: the spool could not be coalesced: %s", volume_name(v),
                 done->err.text);
    if (repl_pipeline_coalesced(&v->pipeline, done->result, done->into, &done->header,
                                &done->footer)) {
        repl_log(LOG_NOTICE,
                 "volume %s: the spool fills: %u points became one, %llu bytes became %llu",
                 volume_name(v), done->footer.point_count, (unsigned long long)done->input_bytes,
                 (unsigned long long)done->footer.file_size);
        if (!repl_ok(repl_spool_adopt(&v->spool, done->into, done->footer.file_size, &err)))
            volume_fail(v, &err);
    } else {
        repl_ignore(repl_spool_remove(v->dir.spool_fd, done->into, &err));
    }
    volume_pump(v);
}

static void coalesce_if_due(struct repl_source_volume *v)
{
    const struct repl_pipeline_action *action = &v->coalesce_due;
    struct repl_error err;
    if (action->type != REPL_PIPELINE_COALESCE || v->spool.writes_out > 0)
        return;
    struct repl_buffer numbers = {0};
    repl_result result = repl_pipeline_run(&v->pipeline, action->number, &numbers, &err);
    if (repl_ok(result))
        result = repl_coalesce_job_start(
            v->options.loop, v->dir.spool_fd, (const uint64_t *)(const void *)numbers.data,
            numbers.size / sizeof(uint64_t), action->into, coalesced, v, &v->coalesce, &err);
    repl_buffer_fini(&numbers);
    if (!repl_ok(result))
        repl_pipeline_coalesced(&v->pipeline, result, action->into, NULL, NULL);
    v->coalesce_due.type = REPL_PIPELINE_WAIT;
}

/* --- durability ------------------------------------------------------------------------------ */

static void state_write(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->state_result = repl_state_dir_write(&v->dir, &v->state, &v->state_err);
}

static void state_written(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->state_out = false;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
    } else if (!repl_ok(v->state_result)) {
        volume_fail(v, &v->state_err);
    } else {
        repl_pipeline_state_written(&v->pipeline);
        volume_pump(v);
    }
}

static void checkpoint_write(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->checkpoint_result = repl_state_dir_checkpoint(&v->dir, &v->checkpoint_err);
}

static void checkpoint_written(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->checkpoint_out = false;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
    } else if (!repl_ok(v->checkpoint_result)) {
        volume_fail(v, &v->checkpoint_err);
    } else {
        repl_pipeline_checkpointed(&v->pipeline);
        volume_tree_follow(v);
        volume_pump(v);
    }
}

static repl_result spool_sink(void *context, const void *data, size_t size, struct repl_error *err)
{
    struct repl_source_volume *v = context;
    return repl_spool_append(&v->spool, v->pipeline.number, data, size, err);
}

static void spool_progress(void *context, struct repl_spool_file *file, repl_result result,
                           const struct repl_error *err)
{
    struct repl_source_volume *v = context;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
    } else if (!repl_ok(result)) {
        volume_spool_failed(v, repl_spool_number(file), result, err);
    } else if (file != NULL) {
        volume_send_resume(v, repl_spool_number(file));
    }
    if (volume_is_up(v)) {
        coalesce_if_due(v);
        volume_pump(v);
    }
}

/* --- the pump -------------------------------------------------------------------------------- */

static void cut_together(struct repl_source_volume *v, enum repl_pipeline_action_type type)
{
    if (type == REPL_PIPELINE_QUIESCE)
        repl_source_group_quiesce(v->options.group, v);
    else if (type == REPL_PIPELINE_OPEN)
        repl_source_group_open(v->options.group, v);
    else if (type == REPL_PIPELINE_CLOSE)
        repl_source_group_close(v->options.group, v);
    else
        repl_source_group_commit(v->options.group, v);
}

static void cut_alone(struct repl_source_volume *v, enum repl_pipeline_action_type type)
{
    if (type == REPL_PIPELINE_QUIESCE)
        volume_quiesce(v);
    else if (type == REPL_PIPELINE_OPEN)
        volume_round_open(v);
    else if (type == REPL_PIPELINE_CLOSE)
        volume_round_close(v);
    else
        repl_pipeline_commit(&v->pipeline, true, repl_now_wall_ns());
}

static void action_perform(struct repl_source_volume *v, const struct repl_pipeline_action *action)
{
    switch (action->type) {
    case REPL_PIPELINE_WAIT:
        break;
    case REPL_PIPELINE_SYNC:
        volume_sync(v);
        break;
    case REPL_PIPELINE_QUIESCE:
    case REPL_PIPELINE_OPEN:
    case REPL_PIPELINE_CLOSE:
    case REPL_PIPELINE_COMMIT:
        if (v->options.group != NULL)
            cut_together(v, action->type);
        else
            cut_alone(v, action->type);
        break;
    case REPL_PIPELINE_RESUME:
        volume_resume(v);
        break;
    case REPL_PIPELINE_AUDIT:
        volume_audit(v, action->delay_ns);
        break;
    case REPL_PIPELINE_REPAIR:
        volume_repair(v);
        break;
    case REPL_PIPELINE_SETTLE:
        volume_settle(v, action->settle);
        break;
    case REPL_PIPELINE_STATE:
        v->state_out = true;
        v->state = *action->state;
        repl_loop_work(v->options.loop, &v->state_job);
        break;
    case REPL_PIPELINE_CHECKPOINT:
        v->checkpoint_out = true;
        repl_loop_work(v->options.loop, &v->checkpoint_job);
        break;
    case REPL_PIPELINE_HELLO:
        volume_hello_send(v);
        break;
    case REPL_PIPELINE_SEND:
        volume_segment_send(v, action->number, action->offset, false);
        break;
    case REPL_PIPELINE_SEND_AHEAD:
        volume_segment_send(v, action->number, 0, true);
        break;
    case REPL_PIPELINE_RELEASE:
        volume_send_resume(v, 0);
        break;
    case REPL_PIPELINE_SUPPLY:
        volume_supply(v, action->number);
        break;
    case REPL_PIPELINE_CHECK:
        volume_segment_check(v, action->number);
        break;
    case REPL_PIPELINE_DROP:
        volume_segment_drop(v, action->number);
        break;
    case REPL_PIPELINE_COALESCE:
        v->coalesce_due = *action;
        coalesce_if_due(v);
        break;
    case REPL_PIPELINE_RECOVER:
        volume_recover(v, &action->from, &action->head);
        break;
    }
}

/* Wall-clock times of the pipeline become monotonic ones of the loop. A wall clock that is set
 * while the timer runs is noticed within a second. */
static void timer_arm(struct repl_source_volume *v, int64_t until_ns)
{
    int64_t wait_ns = until_ns - repl_now_wall_ns();
    if (wait_ns > REPL_SECOND_NS)
        wait_ns = REPL_SECOND_NS;
    if (wait_ns < 0)
        wait_ns = 0;
    repl_timer_arm(v->options.loop, &v->timer, repl_now_mono_ns() + wait_ns);
}

void volume_pump(struct repl_source_volume *v)
{
    struct repl_pipeline_action action;
    if (v->pumping || !volume_is_up(v))
        return; /* an action that ended at once: the loop below goes on with what it led to */
    v->pumping = true;
    do {
        repl_pipeline_next(&v->pipeline, repl_now_wall_ns(), &action);
        volume_sends_settle(v);
        action_perform(v, &action);
    } while (volume_is_up(v) && (action.type != REPL_PIPELINE_WAIT || volume_batches_run(v)));
    v->pumping = false;
    if (v->phase == VOLUME_STOPPING && repl_pipeline_stopped(&v->pipeline))
        volume_close(v);
    else if (volume_is_up(v))
        timer_arm(v, action.until_ns);
    if (v->options.group != NULL)
        repl_source_group_look(v->options.group);
}

void volume_wake(struct repl_source_volume *v)
{
    if (volume_is_up(v))
        repl_timer_arm(v->options.loop, &v->timer, repl_now_mono_ns());
}

static void timer_fired(struct repl_timer *timer)
{
    volume_pump(timer->context);
}

/* --- open, stop, new, free ------------------------------------------------------------------- */

/* A device that grew while nobody looked. The tracker has followed already: what it tracks is never
 * less than what the state says is protected. */
static repl_result grown_follow(struct repl_source_volume *v, struct repl_error *err)
{
    uint64_t size = v->tree != NULL ? repl_tree_space_size(v->tree) : v->device.size;
    if (size <= v->dir.state.volume_size)
        return REPL_SUCCESS;
    if (v->tree != NULL)
        REPL_TRY(repl_state_dir_grow(&v->dir, size, err));
    return repl_pipeline_grow(&v->pipeline, size, v->dir.digests, err);
}

static repl_result segment_adopt(struct repl_source_volume *v, struct repl_spool_segment *segment,
                                 struct repl_error *err)
{
    const struct repl_ship_segment adopted = {
        .number = segment->number,
        .from_seq = segment->header.from_seq,
        .to_seq = segment->header.to_seq,
        .part = segment->header.part,
        .created_ns = segment->header.created_ns,
        .prev = segment->header.prev,
        .complete = true,
        .has_point = segment->has_point,
        .digest = segment->digest,
        .size = segment->size_bytes,
    };
    uint64_t kept;
    REPL_TRY(repl_spool_adopt(&v->spool, segment->number, segment->size_bytes, err));
    REPL_TRY(
        repl_dedup_adopt(v->dedup, segment->number, &segment->carried, &segment->held, &kept, err));
    return repl_pipeline_adopt(&v->pipeline, &adopted, segment->has_point ? &segment->point : NULL,
                               &segment->digests, kept, err);
}

/* What an earlier run of the agent had built and the site has not got; if that was with another
 * index of a tree, what it says goes with no other. */
static repl_result spool_take_over(struct repl_source_volume *v, struct repl_error *err)
{
    const struct repl_spool_load_options options = {
        .dir_fd = v->dir.spool_fd,
        .volume = v->dir.state.volume,
        .lineage = v->dir.state.lineage,
        .prev = v->dir.state.checkpoint.digest,
        .volume_size_max = v->dir.state.volume_size,
        .threads = 1,
        .digest_bytes_max = REPL_VOLUME_DIGESTS_MAX,
    };
    struct repl_spool_load load;
    bool foreign = v->tree != NULL && repl_tree_is_new(v->tree);
    REPL_TRY(repl_spool_load(&options, &load, err));
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < load.segment_count; i++)
        result = foreign ? repl_spool_remove(v->dir.spool_fd, load.segments[i].number, err)
                         : segment_adopt(v, &load.segments[i], err);
    v->adopted = foreign ? 0 : load.segment_count;
    if (load.why.code != REPL_OK)
        repl_log(LOG_WARNING, "volume %s: of the spool, %zu segments could not be used: %s",
                 volume_name(v), load.removed_count, load.why.text);
    repl_spool_load_fini(&load);
    return result;
}

static repl_result pipeline_open(struct repl_source_volume *v, struct repl_error *err)
{
    const struct repl_source_volume_options *o = &v->options;
    struct repl_pipeline_options options = {
        .volume_size = v->dir.state.volume_size,
        .interval_ns = o->rpo_ms * 1000000 / 2,
        .quiesce = o->volume->quiesce,
        .parked_pages = REPL_SOURCE_BATCHES * REPL_BATCH_PAGES_SURE,
        .audit = REPL_AUDIT_LIMITS_DEFAULT,
        .spool_limit_bytes = o->config->spool_limit_bytes,
        .digests = v->dir.digests,
        .chunk_known = repl_dedup_known,
        .keep = repl_dedup_keep,
        .acknowledged = repl_dedup_acknowledged,
        .chunk_context = v->dedup,
        .sink = spool_sink,
        .sink_context = v,
    };
    if (v->tree != NULL) {
        volume_tree_records(v, &v->records);
        options.records = &v->records;
        options.parked_pages = TREE_SMALL_PAGES;
        options.full_wanted = repl_tree_full_wanted(v->tree);
    }
    repl_spool_init(&v->spool, o->loop, v->dir.spool_fd, REPL_SPOOL_SEGMENT, spool_progress, v);
    repl_result result = repl_pipeline_init(&v->pipeline, &options, &v->dir.state, err);
    if (repl_ok(result))
        result = spool_take_over(v, err);
    if (repl_ok(result)) {
        volume_tracker_start(v);
        if (v->tree != NULL && repl_tree_is_watched(v->tree))
            repl_pipeline_watch(&v->pipeline);
        result = grown_follow(v, err);
    }
    if (!repl_ok(result)) {
        repl_spool_fini(&v->spool);
        repl_pipeline_fini(&v->pipeline);
    }
    return result;
}

static repl_result dedup_open(struct repl_source_volume *v, struct repl_error *err)
{
    /* What releases before kept for each volume; nobody misses it where that fails. */
    (void)unlinkat(v->dir.dir_fd, "chunks", 0);
    (void)unlinkat(v->dir.dir_fd, "chunks-lock", 0);
    const struct repl_source_volume_options *o = &v->options;
    const struct repl_dedup_options options = {
        .loop = o->loop,
        .index = o->chunks,
        .name = o->volume->name,
        .volume = v->dir.state.volume,
        .volume_size = v->dir.state.volume_size,
        .spool_fd = v->dir.spool_fd,
        .moved = volume_dedup_moved,
        .supply_made = volume_supply_made,
        .context = v,
    };
    return repl_dedup_new(&options, &v->dedup, err);
}

/* What is protected, and what is kept of it. */
static repl_result protected_open(struct repl_source_volume *v, struct repl_error *err)
{
    const struct repl_source_volume_options *o = &v->options;
    if (o->volume->kind == REPL_VOLUME_TREE)
        return volume_tree_open(v, err);
    REPL_TRY(repl_device_open(o->volume->device, &v->device, err));
    return repl_state_dir_open(o->config->state, o->volume->name, v->device.size,
                               v->device.identity, &v->dir, err);
}

static repl_result parts_open(struct repl_source_volume *v, struct repl_error *err)
{
    v->device =
        (struct repl_device){.fd = -1, .stat_fd = -1, .iostats_fd = -1, .write_cache_fd = -1};
    repl_result result = protected_open(v, err);
    if (repl_ok(result)) {
        result = dedup_open(v, err);
        if (repl_ok(result)) {
            if (v->tree == NULL)
                volume_tracker_open(v);
            result = pipeline_open(v, err);
        }
        if (!repl_ok(result)) {
            repl_dedup_free(v->dedup);
            v->dedup = NULL;
            repl_tracker_close(v->tracker);
            v->tracker = NULL;
            repl_state_dir_close(&v->dir);
        }
    }
    if (!repl_ok(result)) {
        volume_tree_close(v);
        repl_device_close(&v->device);
    }
    return result;
}

/* On a thread for it: laying out the digests of a large device, loading the tracker or reading the
 * spool back takes a while. */
static void open_work(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->open_result = parts_open(v, &v->open_err);
}

static void open_log(const struct repl_source_volume *v)
{
    repl_log(LOG_NOTICE, "volume %s: %s (%s), %llu bytes%s", volume_name(v), volume_path(v),
             v->dir.state.identity, (unsigned long long)volume_size(v),
             v->dir.is_new ? ", new" : "");
    if (v->adopted > 0)
        repl_log(LOG_NOTICE, "volume %s: %zu segments of before are in the spool, to be sent",
                 volume_name(v), v->adopted);
    if (v->tracker == NULL && v->tree == NULL)
        repl_log(LOG_WARNING,
                 "volume %s: writes are not tracked, each round compares the whole device: %s",
                 volume_name(v), v->untracked);
    else if (v->pipeline.comparing && !v->dir.is_new)
        repl_log(LOG_WARNING, "volume %s: %s; the device is compared", volume_name(v),
                 v->pipeline.degraded_cause);
}

static void open_done(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    bool opened = repl_ok(v->open_result);
    v->phase = VOLUME_CLOSED;
    if (!opened) {
        if (strcmp(v->why.text, v->open_err.text) != 0)
            repl_log(LOG_ERR, "volume %s: %s", volume_name(v), v->open_err.text);
        v->why = v->open_err;
    }
    if (v->stop_wanted) {
        if (opened)
            parts_close(v);
        v->options.stopped(v->options.context);
        return;
    }
    if (!opened) {
        repl_timer_arm(v->options.loop, &v->reopen_timer, repl_now_mono_ns() + REOPEN_NS);
        return;
    }
    v->phase = VOLUME_RUNNING;
    v->coalesce_due.type = REPL_PIPELINE_WAIT;
    v->space_known = false;
    v->lost_logged = 0;
    v->files_logged = v->unstable_logged = false;
    repl_dedup_start(v->dedup);
    volume_names_start(v);
    v->why = (struct repl_error){0};
    v->logged = REPL_STATE_COUNT;
    v->rate_ns = repl_now_mono_ns();
    v->rate_bytes = 0;
    v->rate = 0;
    open_log(v);
    volume_tree_start(v);
    repl_timer_arm(v->options.loop, &v->report_timer, repl_now_mono_ns() + REPL_SECOND_NS);
    volume_pump(v);
}

static void volume_open(struct repl_source_volume *v)
{
    ensure(v->phase == VOLUME_CLOSED);
    v->phase = VOLUME_OPENING;
    v->open_job = (struct repl_job){.work = open_work, .done = open_done, .context = v};
    repl_pool_work(v->options.openers, &v->open_job);
}

static void reopen_fired(struct repl_timer *timer)
{
    volume_open(timer->context);
}

static void fail_fired(struct repl_timer *timer)
{
    struct repl_source_volume *v = timer->context;
    volume_fail(v, &v->late_failure);
}

static void stop_fired(struct repl_timer *timer)
{
    volume_close(timer->context);
}

repl_result repl_source_volume_new(const struct repl_source_volume_options *options,
                                   struct repl_source_volume **out, struct repl_error *err)
{
    struct repl_source_volume *v = calloc(1, sizeof *v);
    if (v == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a volume");
    v->options = *options;
    v->timer = (struct repl_timer){.fire = timer_fired, .context = v};
    v->report_timer = (struct repl_timer){.fire = volume_report, .context = v};
    v->reopen_timer = (struct repl_timer){.fire = reopen_fired, .context = v};
    v->stop_timer = (struct repl_timer){.fire = stop_fired, .context = v};
    v->fail_timer = (struct repl_timer){.fire = fail_fired, .context = v};
    v->state_job = (struct repl_job){.work = state_write, .done = state_written, .context = v};
    v->checkpoint_job =
        (struct repl_job){.work = checkpoint_write, .done = checkpoint_written, .context = v};
    repl_result result = volume_rounds_new(v, err);
    if (!repl_ok(result)) {
        repl_source_volume_free(v);
        return result;
    }
    if (v->options.group != NULL)
        repl_source_group_join(v->options.group, v);
    volume_open(v);
    *out = v;
    return REPL_SUCCESS;
}

void repl_source_volume_stop(struct repl_source_volume *v)
{
    v->stop_wanted = true;
    if (volume_is_up(v) && v->tree != NULL)
        repl_tree_stop(v->tree);
    switch (v->phase) {
    case VOLUME_CLOSED:
        repl_timer_cancel(&v->reopen_timer);
        v->options.stopped(v->options.context);
        break;
    case VOLUME_RUNNING:
        v->phase = VOLUME_STOPPING;
        repl_timer_arm(v->options.loop, &v->stop_timer, repl_now_mono_ns() + STOP_NS);
        repl_pipeline_stop(&v->pipeline, repl_now_wall_ns());
        volume_pump(v);
        break;
    case VOLUME_OPENING:
    case VOLUME_STOPPING:
    case VOLUME_CLOSING:
        break;
    }
}

void repl_source_volume_free(struct repl_source_volume *v)
{
    if (v == NULL)
        return;
    ensure(v->phase == VOLUME_CLOSED);
    volume_rounds_free(v);
    repl_buffer_fini(&v->link_body);
    repl_buffer_fini(&v->report_body);
    free(v);
}

/* --- status ---------------------------------------------------------------------------------- */

static const char *remedy_of(enum repl_state state, bool tracked, bool heard)
{
    switch (state) {
    case REPL_STATE_NO_WINDOW:
        if (heard) /* of a tree */
            return "allow points that are cut per file (quiesce = window-else-files) or a freeze "
                   "(window-else-freeze), or a longer rpo";
        return tracked ? "allow a freeze (quiesce = window-else-freeze), or a longer rpo"
                       : "the volume is written to all the time: a point comes as soon as it rests "
                         "for the time of one comparison";
    case REPL_STATE_LINK_DOWN:
        return "check the site and the network; nothing is lost, sending goes on by itself";
    case REPL_STATE_SITE_BUSY:
        return "nothing to do if it passes; if it stays, look at the site, which gives the cause; "
               "nothing is lost, sending goes on by itself";
    case REPL_STATE_SITE_ERROR:
        return "see the log of the site and \"repl status\" there, and mend what it names; nothing "
               "is lost, asked again by itself";
    case REPL_STATE_SITE_FULL:
        return "see that the operator of the site makes room there or raises its space_limit; "
               "nothing is lost, sending goes on by itself";
    case REPL_STATE_REFUSED:
        return "a person has to decide; asked again every minute";
    case REPL_STATE_FAILED:
        return "mend the cause; tried again by itself";
    case REPL_STATE_DEGRADED:
        return "nothing to do: it is being compared, the points at the site stay good";
    default:
        return "";
    }
}

static uint64_t under_way_bytes(const struct repl_source_volume *v)
{
    return (v->sends[0].out ? v->sends[0].at : 0) + (v->sends[1].out ? v->sends[1].at : 0);
}

uint64_t volume_sent_bytes(const struct repl_source_volume *v)
{
    return v->pipeline.sent_bytes + under_way_bytes(v);
}

uint64_t volume_unsent_bytes(const struct repl_source_volume *v)
{
    const struct repl_pipeline *p = &v->pipeline;
    uint64_t built =
        p->spool_bytes + (p->builder != NULL ? repl_segment_builder_size(p->builder) : 0);
    uint64_t under_way = under_way_bytes(v);
    return built > under_way ? built - under_way : 0;
}

static void pipeline_status(const struct repl_source_volume *v, struct repl_volume_status *out)
{
    const struct repl_pipeline *p = &v->pipeline;
    int64_t now_ns = repl_now_wall_ns();
    struct repl_report report;
    repl_pipeline_report(p, now_ns, &report);
    out->state = report.state;
    snprintf(out->cause, sizeof out->cause, "%s", report.cause);
    out->backlog_bytes = report.backlog_bytes;
    out->done_bytes = report.done_bytes;
    out->total_bytes = report.total_bytes;
    if (report.backlog_bytes > 0)
        out->catch_up_ms =
            v->rate > 1 ? (int64_t)((double)volume_unsent_bytes(v) / v->rate * 1e3) : -1;
    else
        out->catch_up_ms = 0;
    out->size = volume_size(v);
    out->unchanged_until_ns = report.unchanged_until_ns;
    out->point.seq = p->ship.point_seq;
    if (p->site_point.seq == p->ship.point_seq)
        out->point = p->site_point;
    out->lag_ms = -1;
    int64_t known_ns = report.seq != 0 ? report.unchanged_until_ns : p->site_point.begin_ns;
    if (p->ship.point_seq != 0 && known_ns != 0)
        out->lag_ms = now_ns > known_ns ? (now_ns - known_ns) / 1000000 : 0;
    out->clock_known = p->ship.clock_known;
    out->clock_offset_ms = p->ship.clock_offset_ns / 1000000;
    out->points = p->point_count;
    out->bytes_changed = p->changed_bytes;
    out->bytes_sent = p->sent_bytes;
    out->rounds_torn = p->torn_rounds;
    out->tracked = v->tree != NULL ? repl_tree_is_watched(v->tree) : v->tracker != NULL;
    if (!out->tracked)
        snprintf(out->untracked, sizeof out->untracked, "%.*s", (int)sizeof out->untracked - 1,
                 v->tree != NULL ? repl_tree_unwatched(v->tree) : v->untracked);
    out->audits = p->audit.audits;
    out->shortfalls = p->audit.shortfalls;
    out->repairs = p->audit.repairs;
    out->degradations = p->degradations;
    out->unstable_files = p->unstable_files;
    out->stall_max_ms = v->stall_max_ns / 1000000;
}

void repl_source_volume_flow(const struct repl_source_volume *v, uint64_t *sent, uint64_t *unsent)
{
    *sent = *unsent = 0;
    if (!volume_is_up(v))
        return;
    enum repl_ship_state link = v->pipeline.ship.state;
    *sent = volume_sent_bytes(v);
    if (link == REPL_SHIP_READY || link == REPL_SHIP_SENDING)
        *unsent = volume_unsent_bytes(v);
}

void repl_source_volume_status(const struct repl_source_volume *v, struct repl_volume_status *out)
{
    *out = (struct repl_volume_status){.lag_ms = -1, .catch_up_ms = -1};
    snprintf(out->name, sizeof out->name, "%s", volume_name(v));
    snprintf(out->device, sizeof out->device, "%s", volume_path(v));
    out->rpo_ms = v->options.volume->rpo_ms;
    if (volume_is_up(v)) {
        pipeline_status(v, out);
        if (v->options.group != NULL && out->cause[0] == '\0')
            repl_source_group_cause(v->options.group, out->cause, sizeof out->cause);
    } else if (v->why.text[0] == '\0') {
        out->state = REPL_STATE_RESYNC;
        snprintf(out->cause, sizeof out->cause, "it is being opened");
    } else {
        out->state = REPL_STATE_FAILED;
        snprintf(out->cause, sizeof out->cause, "%.*s", (int)REPL_WIRE_TEXT_MAX, v->why.text);
    }
    bool heard = v->tree != NULL && repl_tree_is_watched(v->tree);
    snprintf(out->remedy, sizeof out->remedy, "%s", remedy_of(out->state, out->tracked, heard));
}
