/*
 * What a volume's rounds do: clean the page cache, read the counters, take the
 * marks, read pages and have them reduced, audit the tracker. When, and what it
 * proves, common/pipeline_round.c decides.
 *
 * The counters at the end of a round are read as soon as the last page has been
 * read, before anything is hashed: what lies between the two readings is the
 * window.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "base/limits.h"
#include "block/sysfs.h"
#include "control/control.h"
#include "source/source_volume_internal.h"

/* Frames on their way to the spool's disk, each a copy of up to 1 MiB: with more, reading waits. */
#define SPOOL_WRITES_MAX 32
#define SYNC_LIMIT_NS    REPL_SECOND_NS
/* The kernel's counters are kept for each processor and summed by whoever reads them; so long after
 * the last page was read, every completion of before has come to the sum. */
#define COUNTERS_SETTLE_NS (INT64_C(20) * 1000000)

/* --- reading --------------------------------------------------------------------------------- */

/* The pipeline goes, and does not ask for it back. */
static void batch_drop(struct volume_batch *b)
{
    b->state = BATCH_IDLE;
    repl_batch_clear(&b->batch);
}

static void batch_hand_in(struct volume_batch *b)
{
    struct repl_source_volume *v = b->volume;
    if (!volume_is_up(v)) {
        batch_drop(b);
        volume_close_if_drained(v);
        return;
    }
    b->state = BATCH_IDLE;
    repl_pipeline_batch_done(&v->pipeline, &b->batch, b->result, &b->err, repl_now_wall_ns());
    volume_pump(v);
}

static void batch_reduced(struct repl_job *job)
{
    batch_hand_in(job->context);
}

/* On a worker. */
static void batch_reduce(struct repl_job *job)
{
    struct volume_batch *b = job->context;
    if (repl_ok(b->result))
        b->result = repl_batch_reduce(&b->batch, &b->err);
}

static void reads_begin(struct repl_source_volume *v);

/* Some of its reads have come back. */
static void batch_go_on(struct volume_batch *b)
{
    struct repl_source_volume *v = b->volume;
    if (!volume_is_up(v)) {
        if (b->reads_done < b->reads_begun)
            return;
        batch_drop(b);
        volume_close_if_drained(v);
        return;
    }
    reads_begin(v);
    if (b->reads_done < b->batch.read_count)
        return;
    b->state = BATCH_READ;
    repl_pipeline_batch_read(&v->pipeline, &b->batch);
    volume_pump(v);
}

static void batch_read(struct repl_io *io, int64_t result)
{
    struct volume_batch *b = io->context;
    struct repl_source_volume *v = b->volume;
    if (result != (int64_t)io->vec.iov_len && repl_ok(b->result))
        b->result = repl_fail_errno(
            &b->err, REPL_E_IO, result < 0 ? (int)-result : EIO,
            "%s: reading %zu bytes at offset %llu%s; look for the disk's errors in the kernel log",
            v->device.path, io->vec.iov_len, (unsigned long long)io->offset,
            result >= 0 ? " came back short" : "");
    v->reads_out--;
    b->reads_done++;
    batch_go_on(b);
}

static void tree_batch_read(struct repl_job *job)
{
    struct volume_batch *b = job->context;
    b->reads_done = b->batch.read_count;
    b->volume->tree_reads_out--;
    volume_snapshot_follow(b->volume);
    batch_go_on(b);
}

static void read_begin(struct volume_batch *b)
{
    struct repl_source_volume *v = b->volume;
    const struct repl_batch_read *read = &b->batch.reads[b->reads_begun];
    struct repl_io *io = &b->ios[b->reads_begun++];
    *io = (struct repl_io){.done = batch_read, .context = b};
    v->reads_out++;
    repl_loop_read(v->options.loop, io, v->device.fd, repl_batch_read_to(&b->batch, read),
                   repl_batch_read_size(&b->batch, read), read->page * REPL_PAGE_SIZE);
}

static void reads_begin(struct repl_source_volume *v)
{
    for (unsigned i = 0; i < REPL_SOURCE_BATCHES; i++) {
        struct volume_batch *b = &v->batches[i];
        while (b->state == BATCH_READING && b->reads_begun < b->batch.read_count &&
               v->reads_out < REPL_SOURCE_READS)
            read_begin(b);
    }
}

static bool batch_start(struct volume_batch *b)
{
    if (!repl_pipeline_fill(&b->volume->pipeline, &b->batch))
        return false;
    b->state = BATCH_READING;
    b->result = REPL_SUCCESS;
    b->reads_begun = b->reads_done = 0;
    if (b->volume->tree != NULL) {
        b->reads_begun = b->batch.read_count;
        volume_tree_batch_read(b, tree_batch_read);
    }
    return true;
}

/* What has been read goes to a worker, or back, as soon as the pipeline says so. */
static bool batch_follow(struct volume_batch *b)
{
    struct repl_source_volume *v = b->volume;
    enum repl_batch_fate fate = repl_pipeline_batch_fate(&v->pipeline, &b->batch);
    if (fate == REPL_BATCH_DISCARD || !repl_ok(b->result)) {
        batch_hand_in(b);
        return true;
    }
    if (fate == REPL_BATCH_WAIT)
        return false;
    b->state = BATCH_REDUCING;
    if (v->options.level != NULL)
        b->batch.level = repl_level_now(v->options.level);
    b->job = (struct repl_job){.work = batch_reduce, .done = batch_reduced, .context = b};
    repl_loop_work(v->options.loop, &b->job);
    return true;
}

bool volume_batches_run(struct repl_source_volume *v)
{
    bool any = false;
    if (volume_names_hold(v))
        return false;
    for (unsigned i = 0; i < REPL_SOURCE_BATCHES; i++) {
        struct volume_batch *b = &v->batches[i];
        if (b->state == BATCH_READ)
            any |= batch_follow(b);
        if ((b->state == BATCH_IDLE || b->state == BATCH_READ) && !repl_dedup_is_behind(v->dedup) &&
            v->spool.writes_out < SPOOL_WRITES_MAX)
            any |= batch_start(b);
    }
    reads_begin(v);
    return any;
}

/* --- the page cache and the size ------------------------------------------------------------- */

static repl_result grow(struct repl_source_volume *v, uint64_t size, struct repl_error *err)
{
    repl_log(LOG_NOTICE, "volume %s: the device grew from %llu to %llu bytes", volume_name(v),
             (unsigned long long)v->device.size, (unsigned long long)size);
    if (v->tracker != NULL) {
        repl_result result = repl_tracker_grow(v->tracker, size / REPL_SYSFS_SECTOR_SIZE, err);
        if (!repl_ok(result)) {
            /* opened again, it is laid out for the new size */
            repl_ignore(repl_tracker_forget(&v->dir.state.volume, NULL));
            return result;
        }
    }
    REPL_TRY(repl_state_dir_grow(&v->dir, size, err));
    REPL_TRY(repl_pipeline_grow(&v->pipeline, size, v->dir.digests, err));
    v->device.size = size;
    return REPL_SUCCESS;
}

/* Follows a device that has grown; one that shrank, or is another one by now, is an error. */
static repl_result device_follow(struct repl_source_volume *v, struct repl_error *err)
{
    uint64_t size;
    REPL_TRY(repl_device_size(&v->device, &size, err));
    if (size < v->device.size)
        return repl_fail(err, REPL_E_REFUSED, "%s shrank from %llu to %llu bytes", v->device.path,
                         (unsigned long long)v->device.size, (unsigned long long)size);
    if (v->tracker != NULL)
        REPL_TRY(repl_tracker_check(v->tracker, NULL, err));
    if (size == v->device.size || v->checkpoint_out || !repl_pipeline_may_grow(&v->pipeline))
        return REPL_SUCCESS;
    return grow(v, size, err);
}

static void cache_synced(void *context, bool in_time)
{
    struct repl_source_volume *v = context;
    struct repl_error err;
    (void)in_time; /* late or not: what is on the device is what is replicated */
    if (!volume_is_up(v))
        return;
    v->syncing = false;
    if (v->tree == NULL && !repl_ok(device_follow(v, &err))) {
        volume_fail(v, &err);
        return;
    }
    repl_pipeline_synced(&v->pipeline);
    volume_pump(v);
}

void volume_sync(struct repl_source_volume *v)
{
    v->syncing = true;
    if (v->options.volume->sync && v->tree == NULL) /* a tree is read through the page cache */
        repl_syncer_start(v->syncer, &v->device, SYNC_LIMIT_NS);
    else
        cache_synced(v, true);
}

/* --- the counters ---------------------------------------------------------------------------- */

/* Those the order of writes hangs on: the last to be read before a round, the first after it. */
static repl_result order_read(struct repl_source_volume *v, struct repl_write_counters *out,
                              struct repl_error *err)
{
    struct repl_track_counts counts;
    if (v->tracker == NULL)
        return REPL_SUCCESS;
    REPL_TRY(repl_device_write_back(&v->device, &out->write_back, err));
    repl_tracker_counts(v->tracker, &counts);
    out->flushes = counts.flushes;
    out->fua_writes = counts.fua_writes;
    out->marks = counts.lost[REPL_TRACK_COMPLETION];
    for (unsigned i = 0; i < REPL_TRACK_CLASSES; i++)
        out->marks += counts.tallies[REPL_TRACK_COMPLETION][i].pages;
    return REPL_SUCCESS;
}

repl_result volume_counters_begin(struct repl_source_volume *v, struct repl_write_counters *out,
                                  struct repl_error *err)
{
    *out = (struct repl_write_counters){0};
    if (v->tree != NULL) {
        *out = volume_tree_counters(v);
        return REPL_SUCCESS;
    }
    REPL_TRY(repl_device_counters(&v->device, out, err));
    return order_read(v, out, err);
}

repl_result volume_counters_end(struct repl_source_volume *v, struct repl_write_counters *out,
                                struct repl_error *err)
{
    *out = (struct repl_write_counters){0};
    if (v->tree != NULL) {
        *out = volume_tree_counters(v);
        return REPL_SUCCESS;
    }
    REPL_TRY(order_read(v, out, err));
    /* what is read without a tracker hangs on these alone */
    return v->tracker == NULL ? repl_device_counters(&v->device, out, err) : REPL_SUCCESS;
}

void volume_marks_take(struct repl_source_volume *v)
{
    if (v->tracker != NULL)
        repl_tracker_exchange(v->tracker, &v->pipeline.round.dirty);
}

void volume_round_open(struct repl_source_volume *v)
{
    struct repl_write_counters counters;
    struct repl_error err;
    int64_t now_ns = repl_now_wall_ns();
    if (v->tree != NULL) {
        volume_tree_round_open(v);
        return;
    }
    if (!repl_ok(volume_counters_begin(v, &counters, &err))) {
        volume_fail(v, &err);
        return;
    }
    volume_marks_take(v);
    repl_pipeline_opened(&v->pipeline, now_ns, &counters, false);
}

static void round_close_alone(struct repl_source_volume *v)
{
    struct repl_write_counters counters;
    struct repl_error err;
    if (!repl_ok(volume_counters_end(v, &counters, &err))) {
        volume_fail(v, &err);
        return;
    }
    repl_pipeline_closed(&v->pipeline, repl_now_wall_ns(), &counters, NULL);
}

static void counters_settled(struct repl_timer *timer)
{
    struct repl_source_volume *v = timer->context;
    round_close_alone(v);
    volume_pump(v);
}

void volume_round_close(struct repl_source_volume *v)
{
    if (v->tree != NULL)
        volume_tree_round_close(v);
    else if (v->tracker != NULL)
        round_close_alone(v);
    else
        repl_timer_arm(v->options.loop, &v->counters_timer,
                       repl_now_mono_ns() + COUNTERS_SETTLE_NS);
}

/* --- the tracker ----------------------------------------------------------------------------- */

static repl_result tracker_open(struct repl_source_volume *v, struct repl_error *err)
{
    struct repl_track_target target;
    REPL_TRY(repl_track_target_find(v->device.number, &target, err));
    REPL_TRY(repl_tracker_open(&target, &v->dir.state.volume, &v->tracker, &v->origin, v->untracked,
                               err));
    /* grown while nobody looked, and perhaps beyond what was laid out */
    if (repl_ok(repl_tracker_grow(v->tracker, target.sector_count, err)))
        return REPL_SUCCESS;
    repl_tracker_close(v->tracker);
    REPL_TRY(repl_tracker_forget(&v->dir.state.volume, err));
    return repl_tracker_open(&target, &v->dir.state.volume, &v->tracker, &v->origin, v->untracked,
                             err);
}

void volume_tracker_open(struct repl_source_volume *v)
{
    struct repl_error err;
    v->untracked[0] = '\0';
    if (repl_ok(tracker_open(v, &err)))
        return;
    v->tracker = NULL;
    snprintf(v->untracked, sizeof v->untracked, "%s", err.text);
}

void volume_tracker_start(struct repl_source_volume *v)
{
    struct repl_track_record record;
    char cause[REPL_WIRE_TEXT_MAX + 1];
    if (v->tracker == NULL)
        return;
    bool continued = v->origin == REPL_TRACK_CONTINUED;
    bool found = continued && repl_tracker_load(v->tracker, &record, sizeof record);
    if (v->origin == REPL_TRACK_LOST)
        snprintf(cause, sizeof cause, "the tracking of writes had to begin anew: %.150s",
                 v->untracked);
    else
        snprintf(cause, sizeof cause, "%s",
                 continued ? "the tracking of writes ended without a baseline"
                           : "writes were not tracked before; was the host restarted?");
    if (repl_pipeline_track(&v->pipeline, found ? &record : NULL, cause))
        repl_tracker_recover(v->tracker, &v->pipeline.round.dirty);
}

static void audit_fired(struct repl_timer *timer)
{
    struct repl_source_volume *v = timer->context;
    struct repl_audit_sample sample;
    struct repl_error err;
    if (!repl_ok(repl_tracker_sample(v->tracker, &sample, &err))) {
        volume_fail(v, &err);
        return;
    }
    uint64_t repairs = v->pipeline.audit.repairs, degradations = v->pipeline.degradations;
    repl_pipeline_audited(&v->pipeline, &sample, repl_now_wall_ns());
    if (v->pipeline.audit.repairs != repairs)
        repl_log(LOG_INFO, "volume %s: %s; repaired", volume_name(v), v->pipeline.audit.cause);
    if (v->pipeline.degradations != degradations)
        repl_log(LOG_WARNING, "volume %s: %s; everything is compared", volume_name(v),
                 v->pipeline.degraded_cause);
    volume_pump(v);
}

void volume_audit(struct repl_source_volume *v, int64_t delay_ns)
{
    repl_timer_arm(v->options.loop, &v->audit_timer, repl_now_mono_ns() + delay_ns);
}

void volume_repair(struct repl_source_volume *v)
{
    repl_tracker_or_touched(v->tracker, &v->pipeline.round.dirty);
}

void volume_settle(struct repl_source_volume *v, enum repl_settle settle)
{
    const struct repl_bitmap *unsafe[REPL_PIPELINE_UNSAFE];
    repl_pipeline_unsafe(&v->pipeline, unsafe);
    if (settle != REPL_SETTLE_NONE)
        repl_tracker_settle(v->tracker, unsafe, REPL_PIPELINE_UNSAFE, settle == REPL_SETTLE_ALL);
    const struct repl_track_record record = repl_pipeline_record(&v->pipeline);
    repl_tracker_save(v->tracker, &record, sizeof record);
    repl_tracker_swap_touched(v->tracker, &v->pipeline.audit);
}

/* --- a life ---------------------------------------------------------------------------------- */

repl_result volume_rounds_new(struct repl_source_volume *v, struct repl_error *err)
{
    v->counters_timer = (struct repl_timer){.fire = counters_settled, .context = v};
    v->audit_timer = (struct repl_timer){.fire = audit_fired, .context = v};
    v->batches = calloc(REPL_SOURCE_BATCHES, sizeof *v->batches);
    if (v->batches == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a volume");
    REPL_TRY(repl_syncer_new(v->options.loop, cache_synced, v, &v->syncer, err));
    REPL_TRY(volume_hold_new(v, err));
    for (unsigned i = 0; i < REPL_SOURCE_BATCHES; i++) {
        v->batches[i].volume = v;
        REPL_TRY(repl_batch_init(&v->batches[i].batch, err));
    }
    return REPL_SUCCESS;
}

void volume_rounds_free(struct repl_source_volume *v)
{
    repl_hold_free(v->hold);
    repl_syncer_free(v->syncer);
    for (unsigned i = 0; v->batches != NULL && i < REPL_SOURCE_BATCHES; i++)
        repl_batch_fini(&v->batches[i].batch);
    free(v->batches);
}

void volume_rounds_cancel(struct repl_source_volume *v)
{
    repl_timer_cancel(&v->counters_timer);
    repl_timer_cancel(&v->audit_timer);
    repl_syncer_cancel(v->syncer);
    v->syncing = false;
    volume_resume(v);
    for (unsigned i = 0; i < REPL_SOURCE_BATCHES; i++) {
        struct volume_batch *b = &v->batches[i];
        bool waits = b->state == BATCH_READING && b->reads_done == b->reads_begun;
        if (b->state == BATCH_READ || waits)
            batch_drop(b);
    }
}

bool volume_rounds_idle(const struct repl_source_volume *v)
{
    for (unsigned i = 0; v->batches != NULL && i < REPL_SOURCE_BATCHES; i++) {
        if (v->batches[i].state != BATCH_IDLE)
            return false;
    }
    return !v->holding && v->held_by == NULL;
}
