/*
 * The pipeline decides, this file does. volume_pump asks for actions until there
 * are none, hands idle batches out, and arms the timer; every completion ends
 * in volume_pump again.
 *
 *   CLOSED --open--> RUNNING --failure--> CLOSING --drained--> CLOSED --10 s--> ...
 *                       \--stop--> STOPPING --checkpoint or time limit--> CLOSING
 *
 * A failure of the spool, the state or the device's descriptor is not mended in
 * place: the volume is closed and opened again, which is the same as a restart
 * of the agent and therefore known to be safe. CLOSING waits for everything
 * that still holds a pointer into the volume.
 */
#include "source/source_volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "control/control.h"
#include "pipeline.h"
#include "source/capture/device.h"
#include "source/capture/syncer.h"
#include "source/recover_job.h"
#include "source/spool.h"
#include "source/state_dir.h"

#define SECOND_NS INT64_C(1000000000)
/* The counters are kept for each processor and summed by whoever reads them; so long after the last
 * page was read, every completion of before has come to the sum. */
#define SETTLE_NS     (INT64_C(20) * 1000000)
#define REPORT_NS     SECOND_NS
#define REOPEN_NS     (10 * SECOND_NS)
#define STOP_NS       (5 * SECOND_NS)
#define SYNC_LIMIT_NS SECOND_NS

/* Batches in flight: enough that the disk, the processors and the spool are busy at once. Each
 * takes about 5 MiB. */
#define BATCH_COUNT 6

enum volume_phase { VOLUME_CLOSED, VOLUME_RUNNING, VOLUME_STOPPING, VOLUME_CLOSING };

struct volume_batch {
    struct repl_batch batch;
    struct repl_source_volume *volume;
    struct repl_io ios[REPL_BATCH_PAGES];
    uint32_t reads_out;
    bool busy;
    struct repl_job job;
    repl_result result;
    struct repl_error err;
};

struct repl_source_volume {
    struct repl_source_volume_options options;
    enum volume_phase phase;
    bool stop_wanted;
    bool pumping;
    struct repl_error why; /* of CLOSED and CLOSING */

    struct repl_device device;
    struct repl_state_dir dir;
    struct repl_pipeline pipeline;
    struct repl_spool spool;
    struct volume_batch *batches;
    struct repl_syncer *syncer;
    bool syncing;
    struct repl_timer timer, settle_timer, report_timer, reopen_timer, stop_timer, fail_timer;
    struct repl_error late_failure; /* of fail_timer */
    bool settling;

    /* state and checkpoint */
    struct repl_job state_job, checkpoint_job;
    bool state_out, checkpoint_out;
    struct repl_source_state state; /* being written */
    repl_result state_result, checkpoint_result;
    struct repl_error state_err, checkpoint_err;

    /* the link: one request of the pipeline's at a time, and reports beside it */
    struct repl_request link, report;
    bool link_out, report_out, recover_out;
    struct repl_buffer link_body, report_body;
    int64_t link_sent_ns, report_sent_ns;
    uint64_t send_number, send_at; /* the segment being sent; 0: none */
    struct repl_recover_job *recover;

    uint64_t rate_bytes; /* sent when the rate was last looked at */
    int64_t rate_ns;
    double rate; /* bytes a second, smoothed */
    enum repl_state logged;
};

static void volume_pump(struct repl_source_volume *v);
static void volume_open(struct repl_source_volume *v);

static const char *volume_name(const struct repl_source_volume *v)
{
    return v->options.volume->name;
}

/* --- closing --------------------------------------------------------------------------------- */

static bool batches_idle(const struct repl_source_volume *v)
{
    for (unsigned i = 0; v->batches != NULL && i < BATCH_COUNT; i++) {
        if (v->batches[i].busy)
            return false;
    }
    return true;
}

static void volume_close_if_drained(struct repl_source_volume *v)
{
    if (v->phase != VOLUME_CLOSING || !batches_idle(v) || v->spool.writes_out > 0 || v->state_out ||
        v->checkpoint_out || v->recover_out)
        return;
    repl_spool_fini(&v->spool);
    repl_pipeline_fini(&v->pipeline);
    repl_state_dir_close(&v->dir);
    repl_device_close(&v->device);
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
    repl_timer_cancel(&v->settle_timer);
    repl_timer_cancel(&v->report_timer);
    repl_timer_cancel(&v->stop_timer);
    repl_timer_cancel(&v->fail_timer);
    repl_syncer_cancel(v->syncer);
    v->settling = v->syncing = false;
    if (v->link_out)
        repl_request_cancel(&v->link);
    if (v->report_out)
        repl_request_cancel(&v->report);
    v->link_out = v->report_out = false;
    v->send_number = 0;
    volume_close_if_drained(v);
}

static void volume_fail(struct repl_source_volume *v, const struct repl_error *err)
{
    if (v->phase != VOLUME_RUNNING && v->phase != VOLUME_STOPPING)
        return;
    v->why = *err;
    repl_log(LOG_ERR, "volume %s: %s; trying again in %d s", volume_name(v), err->text,
             (int)(REOPEN_NS / SECOND_NS));
    volume_close(v);
}

static bool volume_is_up(const struct repl_source_volume *v)
{
    return v->phase == VOLUME_RUNNING || v->phase == VOLUME_STOPPING;
}

/* --- reading --------------------------------------------------------------------------------- */

static void batch_reduced(struct repl_job *job)
{
    struct volume_batch *b = job->context;
    struct repl_source_volume *v = b->volume;
    b->busy = false;
    if (volume_is_up(v)) {
        repl_pipeline_batch_done(&v->pipeline, &b->batch, b->result, &b->err, repl_now_wall_ns());
        volume_pump(v);
    } else {
        volume_close_if_drained(v);
    }
}

/* On a worker. */
static void batch_reduce(struct repl_job *job)
{
    struct volume_batch *b = job->context;
    if (repl_ok(b->result))
        b->result = repl_batch_reduce(&b->batch, &b->err);
}

static void batch_read(struct repl_io *io, int64_t result)
{
    struct volume_batch *b = io->context;
    const char *path = b->volume->device.path;
    if (result != (int64_t)io->vec.iov_len && repl_ok(b->result))
        b->result = repl_fail_errno(
            &b->err, REPL_E_IO, result < 0 ? (int)-result : EIO,
            "%s: reading %zu bytes at offset %llu%s; look for the disk's errors in the kernel log",
            path, io->vec.iov_len, (unsigned long long)io->offset,
            result >= 0 ? " came back short" : "");
    if (--b->reads_out > 0)
        return;
    b->job = (struct repl_job){.work = batch_reduce, .done = batch_reduced, .context = b};
    repl_loop_work(b->volume->options.loop, &b->job);
}

static void batch_start(struct volume_batch *b)
{
    struct repl_source_volume *v = b->volume;
    b->busy = true;
    b->result = REPL_SUCCESS;
    b->reads_out = b->batch.run_count;
    size_t total = repl_batch_bytes(&b->batch), at = 0;
    for (uint32_t i = 0; i < b->batch.run_count; i++) {
        const struct repl_batch_run *run = &b->batch.runs[i];
        size_t size = (size_t)run->count * REPL_PAGE_SIZE;
        if (at + size > total)
            size = total - at;
        b->ios[i] = (struct repl_io){.done = batch_read, .context = b};
        repl_loop_read(v->options.loop, &b->ios[i], v->device.fd, b->batch.pages + at, size,
                       run->page * REPL_PAGE_SIZE);
        at += size;
    }
}

static bool batches_fill(struct repl_source_volume *v)
{
    bool any = false;
    for (unsigned i = 0; i < BATCH_COUNT; i++) {
        struct volume_batch *b = &v->batches[i];
        if (b->busy || !repl_pipeline_fill(&v->pipeline, &b->batch))
            continue;
        batch_start(b);
        any = true;
    }
    return any;
}

/* --- the page cache and the counters --------------------------------------------------------- */

/* Follows a device that has grown; one that shrank is an error. */
static repl_result size_follow(struct repl_source_volume *v, struct repl_error *err)
{
    uint64_t size;
    REPL_TRY(repl_device_size(&v->device, &size, err));
    if (size < v->device.size)
        return repl_fail(err, REPL_E_REFUSED, "%s shrank from %llu to %llu bytes", v->device.path,
                         (unsigned long long)v->device.size, (unsigned long long)size);
    if (size == v->device.size || v->checkpoint_out)
        return REPL_SUCCESS;
    repl_log(LOG_NOTICE, "volume %s: the device grew from %llu to %llu bytes", volume_name(v),
             (unsigned long long)v->device.size, (unsigned long long)size);
    REPL_TRY(repl_state_dir_grow(&v->dir, size, err));
    REPL_TRY(repl_pipeline_grow(&v->pipeline, size, v->dir.digests, err));
    v->device.size = size;
    return REPL_SUCCESS;
}

static void cache_synced(void *context, bool in_time)
{
    struct repl_source_volume *v = context;
    struct repl_write_counters counters;
    struct repl_error err;
    (void)in_time; /* late or not: what is on the device is what is replicated */
    if (!volume_is_up(v))
        return;
    v->syncing = false;
    repl_result result = size_follow(v, &err);
    int64_t now_ns = repl_now_wall_ns();
    if (repl_ok(result))
        result = repl_device_counters(&v->device, &counters, &err);
    if (!repl_ok(result)) {
        volume_fail(v, &err);
        return;
    }
    repl_pipeline_synced(&v->pipeline, now_ns, &counters);
    volume_pump(v);
}

static void cache_sync(struct repl_source_volume *v)
{
    v->syncing = true;
    if (v->options.volume->sync) {
        repl_syncer_start(v->syncer, &v->device, SYNC_LIMIT_NS);
        return;
    }
    cache_synced(v, true);
}

static void counters_settled(struct repl_timer *timer)
{
    struct repl_source_volume *v = timer->context;
    struct repl_write_counters counters;
    struct repl_error err;
    v->settling = false;
    if (!repl_ok(repl_device_counters(&v->device, &counters, &err))) {
        volume_fail(v, &err);
        return;
    }
    repl_pipeline_sampled(&v->pipeline, repl_now_wall_ns(), &counters);
    volume_pump(v);
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
        volume_fail(v, err);
    } else if (file != NULL && v->link_out && v->send_number != 0 &&
               file == repl_spool_find(&v->spool, v->send_number)) {
        repl_request_resume(&v->link);
    }
}

/* --- the link -------------------------------------------------------------------------------- */

static void link_start(struct repl_source_volume *v, const char *method, const char *what,
                       const struct repl_buffer *body, repl_response_fn *done)
{
    struct repl_error err;
    v->link = (struct repl_request){.method = method, .offset = -1, .done = done, .context = v};
    snprintf(v->link.path, sizeof v->link.path, "/v1/volumes/%s/%s", volume_name(v), what);
    if (body != NULL) {
        v->link.body = body->data;
        v->link.body_size = body->size;
    }
    v->link_sent_ns = repl_now_wall_ns();
    if (repl_ok(repl_request_start(v->options.client, &v->link, &err)))
        v->link_out = true;
    else
        repl_pipeline_lost(&v->pipeline, err.text, repl_now_wall_ns());
}

/* An answer that is not the one hoped for: a refusal, the missing chunks, or nonsense. */
static void link_refused(struct repl_source_volume *v, int64_t now_ns)
{
    const struct repl_request *link = &v->link;
    struct repl_refusal refusal;
    struct repl_error err;
    if (repl_wire_type_of(link->response, link->response_size) == REPL_WIRE_MISSING) {
        repl_pipeline_missing(&v->pipeline);
    } else if (repl_ok(repl_refusal_decode(link->response, link->response_size, &refusal, &err))) {
        repl_pipeline_refused(&v->pipeline, &refusal, now_ns);
    } else {
        char text[REPL_WIRE_TEXT_MAX];
        snprintf(text, sizeof text, "the site answered with status %d and no message of its own",
                 link->status);
        repl_pipeline_lost(&v->pipeline, text, now_ns);
    }
}

static void hello_answered(struct repl_request *request, repl_result result,
                           const struct repl_error *err)
{
    struct repl_source_volume *v = request->context;
    int64_t now_ns = repl_now_wall_ns();
    struct repl_welcome welcome;
    struct repl_error mine;
    v->link_out = false;
    if (!repl_ok(result)) {
        repl_pipeline_lost(&v->pipeline, err->text, now_ns);
    } else if (request->status == 200 &&
               repl_ok(repl_welcome_decode(request->response, request->response_size, &welcome,
                                           &mine))) {
        repl_ship_clock(&v->pipeline.ship, v->link_sent_ns, welcome.received_ns, welcome.replied_ns,
                        now_ns);
        repl_pipeline_welcome(&v->pipeline, &welcome, now_ns);
    } else {
        link_refused(v, now_ns);
    }
    volume_pump(v);
}

static void hello_send(struct repl_source_volume *v)
{
    struct repl_hello hello;
    struct repl_error err;
    int64_t now_ns = repl_now_wall_ns();
    repl_pipeline_hello(&v->pipeline, (uint32_t)v->options.volume->rpo_ms, now_ns, &hello);
    v->link_body.size = 0;
    if (!repl_ok(repl_hello_encode(&hello, &v->link_body, &err))) {
        repl_pipeline_lost(&v->pipeline, err.text, now_ns);
        return;
    }
    link_start(v, "POST", "hello", &v->link_body, hello_answered);
}

static void segment_acknowledged(struct repl_source_volume *v, const struct repl_ack *ack,
                                 int64_t now_ns)
{
    repl_pipeline_ack(&v->pipeline, ack, now_ns);
    if (ack->head.has_point) /* the site is told at once how the volume fares now */
        repl_timer_arm(v->options.loop, &v->report_timer, repl_now_mono_ns());
}

static void send_answered(struct repl_request *request, repl_result result,
                          const struct repl_error *err)
{
    struct repl_source_volume *v = request->context;
    int64_t now_ns = repl_now_wall_ns();
    struct repl_ack ack;
    struct repl_error mine;
    v->link_out = false;
    v->send_number = 0;
    bool good = request->status == 200 || request->status == 201;
    if (!repl_ok(result))
        repl_pipeline_lost(&v->pipeline, err->text, now_ns);
    else if (good &&
             repl_ok(repl_ack_decode(request->response, request->response_size, &ack, &mine)))
        segment_acknowledged(v, &ack, now_ns);
    else
        link_refused(v, now_ns);
    volume_pump(v);
}

/* How far the segment being sent may go: not into its footer before its digest is remembered. */
static uint64_t send_limit(const struct repl_source_volume *v, const struct repl_spool_file *file,
                           bool *whole)
{
    const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, v->send_number);
    uint64_t readable = repl_spool_readable(file);
    *whole = s != NULL && s->complete && v->pipeline.released >= v->send_number;
    if (*whole)
        return readable < s->size ? readable : s->size;
    uint64_t appended = repl_spool_appended(file);
    uint64_t most = appended > REPL_SEGMENT_FOOTER_SIZE ? appended - REPL_SEGMENT_FOOTER_SIZE : 0;
    return readable < most ? readable : most;
}

static size_t send_body(struct repl_request *request, void *buffer, size_t size)
{
    struct repl_source_volume *v = request->context;
    struct repl_spool_file *file = repl_spool_find(&v->spool, v->send_number);
    struct repl_error err;
    bool whole;
    ensure(file != NULL);
    uint64_t limit = send_limit(v, file, &whole);
    if (v->send_at >= limit) {
        const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, v->send_number);
        return whole && v->send_at == s->size ? 0 : REPL_BODY_PAUSE;
    }
    size_t piece = limit - v->send_at < size ? (size_t)(limit - v->send_at) : size;
    if (!repl_ok(repl_spool_read(file, v->send_at, buffer, piece, &err))) {
        /* The segment is lost. Closing the volume ends this request, so not from within it. */
        v->late_failure = err;
        repl_timer_arm(v->options.loop, &v->fail_timer, repl_now_mono_ns());
        return REPL_BODY_PAUSE;
    }
    v->send_at += piece;
    return piece;
}

static void segment_send(struct repl_source_volume *v, uint64_t number, uint64_t offset)
{
    const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, number);
    char path[64];
    struct repl_error err;
    ensure(s != NULL);
    snprintf(path, sizeof path, "segments/%llu.%u", (unsigned long long)s->to_seq, s->part);
    v->send_number = number;
    v->send_at = offset;
    v->link = (struct repl_request){.method = "PUT",
                                    .offset = (int64_t)offset,
                                    .read_body = send_body,
                                    .done = send_answered,
                                    .context = v};
    snprintf(v->link.path, sizeof v->link.path, "/v1/volumes/%s/%s", volume_name(v), path);
    if (repl_ok(repl_request_start(v->options.client, &v->link, &err))) {
        v->link_out = true;
        return;
    }
    v->send_number = 0;
    repl_pipeline_lost(&v->pipeline, err.text, repl_now_wall_ns());
}

static void segment_drop(struct repl_source_volume *v, uint64_t number)
{
    if (v->send_number == number && v->link_out) {
        repl_request_cancel(&v->link);
        v->link_out = false;
        v->send_number = 0;
    }
    repl_spool_drop(&v->spool, number);
}

/* --- recovering what the site knows and we do not -------------------------------------------- */

static void recover_done(void *context, repl_result result, const struct repl_error *err,
                         const struct repl_recovered_extent *extents, size_t count)
{
    struct repl_source_volume *v = context;
    int64_t now_ns = repl_now_wall_ns();
    v->recover_out = false;
    v->recover = NULL;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
        return;
    }
    if (!repl_ok(result)) {
        repl_pipeline_lost(&v->pipeline, err->text, now_ns);
    } else {
        for (size_t i = 0; i < count; i++)
            repl_pipeline_forget(&v->pipeline, extents[i].offset, extents[i].length);
        repl_pipeline_recovered(&v->pipeline, now_ns);
        repl_log(LOG_NOTICE,
                 "volume %s: after an unclean end, %zu ranges are compared with the device again",
                 volume_name(v), count);
    }
    volume_pump(v);
}

static void recover_start(struct repl_source_volume *v, const struct repl_head *from,
                          const struct repl_head *head)
{
    struct repl_error err;
    repl_result result =
        repl_recover_job_start(v->options.loop, &v->options.client_options, volume_name(v), from,
                               head, recover_done, v, &v->recover, &err);
    if (repl_ok(result))
        v->recover_out = true;
    else
        repl_pipeline_lost(&v->pipeline, err.text, repl_now_wall_ns());
}

/* --- reports --------------------------------------------------------------------------------- */

/* A report is the link's heartbeat: where no segment is on its way, nothing else would notice that
 * the site has gone or has changed its mind. */
static void report_failed(struct repl_source_volume *v, repl_result result,
                          const struct repl_error *err, int64_t now_ns)
{
    struct repl_refusal refusal;
    struct repl_error mine;
    if (v->link_out || v->recover_out || v->pipeline.ship.state != REPL_SHIP_READY)
        return;
    if (!repl_ok(result))
        repl_pipeline_lost(&v->pipeline, err->text, now_ns);
    else if (repl_ok(
                 repl_refusal_decode(v->report.response, v->report.response_size, &refusal, &mine)))
        repl_pipeline_refused(&v->pipeline, &refusal, now_ns);
    volume_pump(v);
}

static void report_answered(struct repl_request *request, repl_result result,
                            const struct repl_error *err)
{
    struct repl_source_volume *v = request->context;
    int64_t now_ns = repl_now_wall_ns();
    struct repl_ack ack;
    struct repl_error mine;
    v->report_out = false;
    if (repl_ok(result) && request->status == 200 &&
        repl_ok(repl_ack_decode(request->response, request->response_size, &ack, &mine)))
        repl_ship_clock(&v->pipeline.ship, v->report_sent_ns, ack.received_ns, ack.replied_ns,
                        now_ns);
    else
        report_failed(v, result, err, now_ns);
}

static void rate_follow(struct repl_source_volume *v)
{
    int64_t now_ns = repl_now_mono_ns();
    double seconds = (double)(now_ns - v->rate_ns) / 1e9;
    double rate = (double)(v->pipeline.sent_bytes - v->rate_bytes) / (seconds > 0 ? seconds : 1);
    v->rate = v->rate == 0 ? rate : 0.8 * v->rate + 0.2 * rate;
    v->rate_bytes = v->pipeline.sent_bytes;
    v->rate_ns = now_ns;
}

static void state_log(struct repl_source_volume *v, const struct repl_report *report)
{
    enum repl_state state = report->state == REPL_STATE_IDLE ? REPL_STATE_OK : report->state;
    if (state == v->logged)
        return;
    v->logged = state;
    repl_log(state == REPL_STATE_OK ? LOG_NOTICE : LOG_WARNING, "volume %s: %s%s%s", volume_name(v),
             repl_state_name(state), report->cause[0] != '\0' ? ": " : "", report->cause);
}

static void report_send(struct repl_timer *timer)
{
    struct repl_source_volume *v = timer->context;
    struct repl_report report;
    struct repl_error err;
    repl_timer_arm(v->options.loop, &v->report_timer, repl_now_mono_ns() + REPORT_NS);
    rate_follow(v);
    v->report_sent_ns = repl_now_wall_ns();
    repl_pipeline_report(&v->pipeline, v->report_sent_ns, &report);
    state_log(v, &report);
    enum repl_ship_state link = v->pipeline.ship.state;
    if (v->report_out || (link != REPL_SHIP_READY && link != REPL_SHIP_SENDING))
        return;
    v->report_body.size = 0;
    if (!repl_ok(repl_report_encode(&report, &v->report_body, &err)))
        return;
    v->report = (struct repl_request){.method = "POST",
                                      .offset = -1,
                                      .body = v->report_body.data,
                                      .body_size = v->report_body.size,
                                      .done = report_answered,
                                      .context = v};
    snprintf(v->report.path, sizeof v->report.path, "/v1/volumes/%s/report", volume_name(v));
    v->report_out = repl_ok(repl_request_start(v->options.client, &v->report, &err));
}

/* --- the pump -------------------------------------------------------------------------------- */

static void action_perform(struct repl_source_volume *v, const struct repl_pipeline_action *action)
{
    switch (action->type) {
    case REPL_PIPELINE_WAIT:
        break;
    case REPL_PIPELINE_SYNC:
        cache_sync(v);
        break;
    case REPL_PIPELINE_SAMPLE:
        v->settling = true;
        repl_timer_arm(v->options.loop, &v->settle_timer, repl_now_mono_ns() + SETTLE_NS);
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
        hello_send(v);
        break;
    case REPL_PIPELINE_SEND:
        segment_send(v, action->number, action->offset);
        break;
    case REPL_PIPELINE_RELEASE:
        if (v->link_out && v->send_number != 0)
            repl_request_resume(&v->link);
        break;
    case REPL_PIPELINE_SUPPLY:
        /* Nothing is referred to by name yet, so nothing can be missing. */
        repl_pipeline_lost(&v->pipeline, "the site asked for chunks this host never referred to",
                           repl_now_wall_ns());
        break;
    case REPL_PIPELINE_DROP:
        segment_drop(v, action->number);
        break;
    case REPL_PIPELINE_RECOVER:
        recover_start(v, &action->from, &action->head);
        break;
    }
}

/* Wall-clock times of the pipeline become monotonic ones of the loop. A wall clock that is set
 * while the timer runs is noticed within a second. */
static void timer_arm(struct repl_source_volume *v, int64_t until_ns)
{
    int64_t wait_ns = until_ns - repl_now_wall_ns();
    if (wait_ns > SECOND_NS)
        wait_ns = SECOND_NS;
    if (wait_ns < 0)
        wait_ns = 0;
    repl_timer_arm(v->options.loop, &v->timer, repl_now_mono_ns() + wait_ns);
}

static void volume_pump(struct repl_source_volume *v)
{
    struct repl_pipeline_action action;
    if (v->pumping || !volume_is_up(v))
        return; /* an action that ended at once: the loop below goes on with what it led to */
    v->pumping = true;
    do {
        repl_pipeline_next(&v->pipeline, repl_now_wall_ns(), &action);
        action_perform(v, &action);
    } while (volume_is_up(v) && (action.type != REPL_PIPELINE_WAIT || batches_fill(v)));
    v->pumping = false;
    if (v->phase == VOLUME_STOPPING && repl_pipeline_stopped(&v->pipeline))
        volume_close(v);
    else if (volume_is_up(v))
        timer_arm(v, action.until_ns);
}

static void timer_fired(struct repl_timer *timer)
{
    volume_pump(timer->context);
}

/* --- open, stop, new, free ------------------------------------------------------------------- */

static repl_result pipeline_open(struct repl_source_volume *v, struct repl_error *err)
{
    const struct repl_source_volume_options *o = &v->options;
    struct repl_pipeline_options options = {
        .volume_size = v->dir.state.volume_size,
        .interval_ns = o->volume->rpo_ms * 1000000 / 2,
        .spool_limit_bytes = o->config->spool_limit_bytes,
        .digests = v->dir.digests,
        .sink = spool_sink,
        .sink_context = v,
    };
    repl_spool_init(&v->spool, o->loop, v->dir.spool_fd, spool_progress, v);
    repl_result result = repl_pipeline_init(&v->pipeline, &options, &v->dir.state, err);
    /* grown while nobody looked */
    if (repl_ok(result) && v->device.size > v->dir.state.volume_size)
        result = repl_pipeline_grow(&v->pipeline, v->device.size, v->dir.digests, err);
    if (!repl_ok(result))
        repl_pipeline_fini(&v->pipeline);
    return result;
}

static repl_result parts_open(struct repl_source_volume *v, struct repl_error *err)
{
    const struct repl_source_volume_options *o = &v->options;
    REPL_TRY(repl_device_open(o->volume->device, &v->device, err));
    repl_result result = repl_state_dir_open(o->config->state, o->volume->name, v->device.size,
                                             v->device.identity, &v->dir, err);
    if (repl_ok(result)) {
        result = pipeline_open(v, err);
        if (!repl_ok(result))
            repl_state_dir_close(&v->dir);
    }
    if (!repl_ok(result))
        repl_device_close(&v->device);
    return result;
}

static void volume_open(struct repl_source_volume *v)
{
    struct repl_error err;
    ensure(v->phase == VOLUME_CLOSED);
    if (!repl_ok(parts_open(v, &err))) {
        if (strcmp(v->why.text, err.text) != 0)
            repl_log(LOG_ERR, "volume %s: %s", volume_name(v), err.text);
        v->why = err;
        repl_timer_arm(v->options.loop, &v->reopen_timer, repl_now_mono_ns() + REOPEN_NS);
        return;
    }
    v->phase = VOLUME_RUNNING;
    v->why = (struct repl_error){0};
    v->logged = REPL_STATE_COUNT;
    v->rate_ns = repl_now_mono_ns();
    v->rate_bytes = 0;
    v->rate = 0;
    repl_log(LOG_NOTICE, "volume %s: %s (%s), %llu bytes%s", volume_name(v), v->device.path,
             v->device.identity, (unsigned long long)v->device.size, v->dir.is_new ? ", new" : "");
    repl_timer_arm(v->options.loop, &v->report_timer, repl_now_mono_ns() + REPORT_NS);
    volume_pump(v);
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
    v->settle_timer = (struct repl_timer){.fire = counters_settled, .context = v};
    v->report_timer = (struct repl_timer){.fire = report_send, .context = v};
    v->reopen_timer = (struct repl_timer){.fire = reopen_fired, .context = v};
    v->stop_timer = (struct repl_timer){.fire = stop_fired, .context = v};
    v->fail_timer = (struct repl_timer){.fire = fail_fired, .context = v};
    v->state_job = (struct repl_job){.work = state_write, .done = state_written, .context = v};
    v->checkpoint_job =
        (struct repl_job){.work = checkpoint_write, .done = checkpoint_written, .context = v};
    v->batches = calloc(BATCH_COUNT, sizeof *v->batches);
    repl_result result = v->batches == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for a volume")
                             : repl_syncer_new(options->loop, cache_synced, v, &v->syncer, err);
    for (unsigned i = 0; repl_ok(result) && i < BATCH_COUNT; i++) {
        v->batches[i].volume = v;
        result = repl_batch_init(&v->batches[i].batch, err);
    }
    if (!repl_ok(result)) {
        repl_source_volume_free(v);
        return result;
    }
    volume_open(v);
    *out = v;
    return REPL_SUCCESS;
}

void repl_source_volume_stop(struct repl_source_volume *v)
{
    v->stop_wanted = true;
    switch (v->phase) {
    case VOLUME_CLOSED:
        repl_timer_cancel(&v->reopen_timer);
        v->options.stopped(v->options.context);
        break;
    case VOLUME_RUNNING:
        v->phase = VOLUME_STOPPING;
        repl_timer_arm(v->options.loop, &v->stop_timer, repl_now_mono_ns() + STOP_NS);
        repl_pipeline_stop(&v->pipeline);
        volume_pump(v);
        break;
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
    repl_syncer_free(v->syncer);
    for (unsigned i = 0; v->batches != NULL && i < BATCH_COUNT; i++)
        repl_batch_fini(&v->batches[i].batch);
    free(v->batches);
    repl_buffer_fini(&v->link_body);
    repl_buffer_fini(&v->report_body);
    free(v);
}

/* --- status ---------------------------------------------------------------------------------- */

static const char *remedy_of(enum repl_state state)
{
    switch (state) {
    case REPL_STATE_NO_WINDOW:
        return "the volume is written to all the time: a point comes as soon as it rests for the "
               "time of one comparison";
    case REPL_STATE_LINK_DOWN:
        return "check the site and the network; nothing is lost, sending goes on by itself";
    case REPL_STATE_REFUSED:
        return "a person has to decide; asked again every minute";
    case REPL_STATE_FAILED:
        return "mend the cause; tried again every 10 s";
    default:
        return "";
    }
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
    out->catch_up_ms = report.backlog_bytes == 0 ? 0
                       : v->rate > 1 ? (int64_t)((double)report.backlog_bytes / v->rate * 1e3)
                                     : -1;
    out->size = v->device.size;
    out->unchanged_until_ns = report.unchanged_until_ns;
    out->point.seq = p->ship.point_seq;
    if (p->point.seq == p->ship.point_seq)
        out->point = p->point;
    out->lag_ms = -1;
    int64_t known_ns = report.seq != 0                     ? report.unchanged_until_ns
                       : p->point.seq == p->ship.point_seq ? p->point.end_ns
                                                           : 0;
    if (p->ship.point_seq != 0 && known_ns != 0)
        out->lag_ms = now_ns > known_ns ? (now_ns - known_ns) / 1000000 : 0;
    out->clock_known = p->ship.clock_known;
    out->clock_offset_ms = p->ship.clock_offset_ns / 1000000;
    out->points = p->point_count;
    out->bytes_changed = p->changed_bytes;
    out->bytes_sent = p->sent_bytes;
    out->rounds_torn = p->torn_rounds;
}

void repl_source_volume_status(const struct repl_source_volume *v, struct repl_volume_status *out)
{
    *out = (struct repl_volume_status){.lag_ms = -1, .catch_up_ms = -1};
    snprintf(out->name, sizeof out->name, "%s", volume_name(v));
    snprintf(out->device, sizeof out->device, "%s", v->options.volume->device);
    out->rpo_ms = v->options.volume->rpo_ms;
    if (volume_is_up(v)) {
        pipeline_status(v, out);
    } else {
        out->state = REPL_STATE_FAILED;
        snprintf(out->cause, sizeof out->cause, "%.*s", (int)REPL_WIRE_TEXT_MAX, v->why.text);
    }
    snprintf(out->remedy, sizeof out->remedy, "%s", remedy_of(out->state));
}
