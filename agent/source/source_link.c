/*
 * The volume's side of the link: requests on the pipeline's behalf (one or two
 * that bring segments, one of another kind).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <syslog.h>
#include <unistd.h>

#include "base/ensure.h"
#include "control/control.h"
#include "source/check_job.h"
#include "source/past_heads.h"
#include "source/source_volume_internal.h"

/* The site has a segment on its disk and looked through, up to REPL_SEGMENT_HARD_LIMIT of it,
 * before it answers. As long as its host is there, a slow disk is waited for. */
#define SEGMENT_STALL_TIMEOUT_MS 120000u

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

/* The site lacks chunks of the segment that was sent. */
static void missing_take(struct repl_source_volume *v, const struct repl_request *link,
                         int64_t now_ns)
{
    struct repl_missing missing = {0};
    struct repl_error err;
    if (v->pipeline.ship.state != REPL_SHIP_SENDING ||
        !repl_ok(repl_missing_decode(link->response, link->response_size, &missing, &err)) ||
        missing.count == 0) {
        repl_missing_fini(&missing);
        repl_pipeline_lost(&v->pipeline, "the site's list of missing chunks makes no sense",
                           now_ns);
        return;
    }
    repl_log(LOG_NOTICE, "volume %s: the site lacks %u chunks that were sent by name; sending them",
             volume_name(v), missing.count);
    repl_dedup_missing(v->dedup, &missing);
    repl_pipeline_missing(&v->pipeline);
}

/* An answer that is not the one hoped for: a refusal, the missing chunks, or nonsense. */
static void link_refused(struct repl_source_volume *v, const struct repl_request *link,
                         int64_t now_ns)
{
    struct repl_refusal refusal;
    struct repl_error err;
    if (repl_wire_type_of(link->response, link->response_size) == REPL_WIRE_MISSING) {
        missing_take(v, link, now_ns);
    } else if (repl_ok(repl_refusal_decode(link->response, link->response_size, &refusal, &err))) {
        repl_pipeline_refused(&v->pipeline, &refusal, now_ns);
    } else {
        char text[REPL_WIRE_TEXT_MAX];
        snprintf(text, sizeof text, "the site answered with status %d and no message of its own",
                 link->status);
        repl_pipeline_lost(&v->pipeline, text, now_ns);
    }
}

/* remembered: its head, which the state knows nothing of. */
static void welcome_take(struct repl_source_volume *v, const struct repl_welcome *welcome,
                         bool remembered)
{
    int64_t now_ns = repl_now_wall_ns();
    struct repl_error err;
    if (repl_pipeline_site_went_back(&v->pipeline, welcome, remembered)) {
        repl_ignore(repl_fail(&err, REPL_E_RETRY,
                              "the site's history ends in segment %llu.%u, before what it had "
                              "acknowledged: it was put back; the volume is begun again and "
                              "compared",
                              (unsigned long long)welcome->head.to_seq, welcome->head.part));
        volume_fail(v, &err);
        return;
    }
    if (!welcome->known && !repl_dedup_is_shared(v->dedup)) /* else it may have what others sent */
        repl_dedup_forget(v->dedup);
    if (!welcome->known)
        v->names_due_ns = 0;
    if (remembered)
        repl_pipeline_site_put_back(&v->pipeline, &welcome->head, now_ns);
    repl_pipeline_welcome(&v->pipeline, welcome, now_ns);
    volume_names_look(v);
    volume_resend_greeted(v);
}

static void head_look(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->head_result = repl_past_heads_find(v->dir.dir_fd, &v->welcome.head.digest,
                                          &v->head_remembered, &v->head_err);
}

static void head_looked(struct repl_job *job)
{
    struct repl_source_volume *v = job->context;
    v->head_out = false;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
        return;
    }
    if (repl_ok(v->head_result))
        welcome_take(v, &v->welcome, v->head_remembered);
    else
        repl_pipeline_lost(&v->pipeline, v->head_err.text, repl_now_wall_ns());
    volume_pump(v);
}

static void hello_answered(struct repl_request *request, repl_result result,
                           const struct repl_error *err)
{
    struct repl_source_volume *v = request->context;
    int64_t now_ns = repl_now_wall_ns();
    struct repl_error mine;
    v->link_out = false;
    if (!repl_ok(result)) {
        repl_pipeline_lost(&v->pipeline, err->text, now_ns);
    } else if (request->status == 200 &&
               repl_ok(repl_welcome_decode(request->response, request->response_size, &v->welcome,
                                           &mine))) {
        repl_ship_clock(&v->pipeline.ship, v->link_sent_ns, v->welcome.received_ns,
                        v->welcome.replied_ns, now_ns);
        if (repl_pipeline_is_unknown(&v->pipeline, &v->welcome)) {
            v->head_out = true;
            v->head_job = (struct repl_job){.work = head_look, .done = head_looked, .context = v};
            repl_loop_work(v->options.loop, &v->head_job);
        } else {
            welcome_take(v, &v->welcome, false);
        }
    } else {
        link_refused(v, request, now_ns);
    }
    volume_pump(v);
}

void volume_hello_send(struct repl_source_volume *v)
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

static void segment_acknowledged(struct repl_source_volume *v, uint64_t number,
                                 const struct repl_ack *ack, int64_t now_ns)
{
    repl_pipeline_ack(&v->pipeline, number, ack, now_ns);
    if (ack->head.has_point) /* the site is told at once how the volume fares now */
        repl_timer_arm(v->options.loop, &v->report_timer, repl_now_mono_ns());
}

/* What was sent ahead of its turn was not taken so: it is sent again, in its turn. */
static void ahead_refused(struct repl_source_volume *v, const struct volume_send *send)
{
    struct repl_refusal refusal;
    bool unknown = repl_ok(repl_refusal_decode(send->request.response, send->request.response_size,
                                               &refusal, NULL)) &&
                   refusal.code == REPL_REFUSAL_NOT_FOUND;
    repl_ship_ahead_failed(&v->pipeline.ship, send->number, unknown);
}

static void send_answered(struct repl_request *request, repl_result result,
                          const struct repl_error *err)
{
    struct volume_send *send = request->context;
    struct repl_source_volume *v = send->volume;
    int64_t now_ns = repl_now_wall_ns();
    bool in_turn = repl_ship_in_turn(&v->pipeline.ship, send->number);
    bool good = repl_ok(result) && (request->status == 200 || request->status == 201);
    struct repl_ack ack;
    struct repl_error mine;
    send->out = false;
    if (good && repl_ok(repl_ack_decode(request->response, request->response_size, &ack, &mine)))
        segment_acknowledged(v, send->number, &ack, now_ns);
    else if (!repl_ok(result) && in_turn)
        repl_pipeline_lost(&v->pipeline, err->text, now_ns);
    else if (!in_turn ||
             (send->ahead &&
              repl_wire_type_of(request->response, request->response_size) != REPL_WIRE_MISSING))
        ahead_refused(v, send);
    else
        link_refused(v, request, now_ns);
    volume_pump(v);
}

/* How far a segment being sent may go: not into its footer before its digest is remembered. */
static uint64_t send_limit(const struct volume_send *send, const struct repl_spool_file *file,
                           bool *whole)
{
    const struct repl_pipeline *p = &send->volume->pipeline;
    const struct repl_ship_segment *s = repl_ship_find(&p->ship, send->number);
    uint64_t readable = repl_spool_readable(file);
    *whole = s != NULL && s->complete && p->released >= send->number;
    if (*whole)
        return readable < s->size ? readable : s->size;
    uint64_t appended = repl_spool_appended(file);
    uint64_t most = appended > REPL_SEGMENT_FOOTER_SIZE ? appended - REPL_SEGMENT_FOOTER_SIZE : 0;
    return readable < most ? readable : most;
}

/* Everything that may be sent is: 0 at the end. */
static size_t send_wait(struct volume_send *send, bool whole)
{
    struct repl_source_volume *v = send->volume;
    const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, send->number);
    if (!whole || send->at < s->size)
        return REPL_BODY_PAUSE;
    repl_ship_left(&v->pipeline.ship, send->number);
    volume_wake(v);
    return 0;
}

static size_t send_body(struct repl_request *request, void *buffer, size_t size)
{
    struct volume_send *send = request->context;
    struct repl_source_volume *v = send->volume;
    struct repl_spool_file *file = repl_spool_find(&v->spool, send->number);
    struct repl_error err;
    bool whole;
    ensure(file != NULL);
    uint64_t limit = send_limit(send, file, &whole);
    if (send->at >= limit)
        return send_wait(send, whole);
    size_t piece = limit - send->at < size ? (size_t)(limit - send->at) : size;
    size_t got;
    if (!repl_ok(repl_spool_read(file, send->at, buffer, piece, &got, &err))) {
        /* The segment is lost. Closing the volume ends this request, so not from within it. */
        v->late_failure = err;
        repl_timer_arm(v->options.loop, &v->fail_timer, repl_now_mono_ns());
        return REPL_BODY_PAUSE;
    }
    send->at += got;
    return got > 0 ? got : REPL_BODY_PAUSE; /* until spool_progress */
}

void volume_segment_send(struct repl_source_volume *v, uint64_t number, uint64_t offset, bool ahead)
{
    const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, number);
    struct volume_send *send = v->sends[0].out ? &v->sends[1] : &v->sends[0];
    struct repl_error err;
    ensure(s != NULL && !send->out);
    *send = (struct volume_send){.volume = v, .ahead = ahead, .number = number, .at = offset};
    send->request = (struct repl_request){.method = "PUT",
                                          .offset = (int64_t)offset,
                                          .read_body = send_body,
                                          .stall_timeout_ms = SEGMENT_STALL_TIMEOUT_MS,
                                          .done = send_answered,
                                          .context = send};
    if (ahead) /* it waits for the one before it too */
        send->request.stall_timeout_ms *= 2;
    snprintf(send->request.path, sizeof send->request.path, "/v1/volumes/%s/%s/%llu.%u",
             volume_name(v), ahead ? "ahead" : "segments", (unsigned long long)s->to_seq, s->part);
    send->out = repl_ok(repl_request_start(v->options.client, &send->request, &err));
    if (send->out)
        return;
    if (repl_ship_in_turn(&v->pipeline.ship, number))
        repl_pipeline_lost(&v->pipeline, err.text, repl_now_wall_ns());
    else
        repl_ship_ahead_failed(&v->pipeline.ship, number, false);
}

static void send_end(struct volume_send *send)
{
    if (send->out)
        repl_request_cancel(&send->request);
    send->out = false;
}

void volume_sends_settle(struct repl_source_volume *v)
{
    for (size_t i = 0; i < 2; i++) {
        if (v->sends[i].out && !repl_ship_in_flight(&v->pipeline.ship, v->sends[i].number))
            send_end(&v->sends[i]);
    }
}

void volume_segment_drop(struct repl_source_volume *v, uint64_t number)
{
    for (size_t i = 0; i < 2; i++) {
        if (v->sends[i].number == number)
            send_end(&v->sends[i]);
    }
    repl_spool_drop(&v->spool, number);
    repl_dedup_drop(v->dedup, number);
}

/* --- a segment that the site refuses as damaged ---------------------------------------------- */

static void segment_checked(void *context, uint64_t number, repl_result result,
                            const struct repl_error *err)
{
    struct repl_source_volume *v = context;
    v->checks_out--;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
        return;
    }
    if (result.code == REPL_E_CORRUPT || result.code == REPL_E_IO)
        repl_log(LOG_ERR, "volume %s: %s; check the disk of [agent] state", volume_name(v),
                 err->text);
    repl_pipeline_checked(&v->pipeline, number, result, err, repl_now_wall_ns());
    volume_pump(v);
}

void volume_segment_check(struct repl_source_volume *v, uint64_t number)
{
    const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, number);
    struct repl_error err;
    int fd;
    ensure(s != NULL);
    repl_result result = repl_spool_open(&v->spool, number, &fd, &err);
    if (!repl_ok(result) && (err.os_errno == EMFILE || err.os_errno == ENFILE))
        result.code = REPL_E_NOMEM; /* which says nothing of the file */
    if (repl_ok(result))
        result =
            repl_check_job_start(v->options.loop, fd, number, &s->digest, segment_checked, v, &err);
    if (repl_ok(result))
        v->checks_out++;
    else
        repl_pipeline_checked(&v->pipeline, number, result, &err, repl_now_wall_ns());
}

/* --- chunks that were sent by name and are missing at the site ------------------------------- */

void volume_dedup_moved(void *context, uint64_t number, repl_result result,
                        const struct repl_error *err)
{
    struct repl_source_volume *v = context;
    if (!volume_is_up(v))
        volume_close_if_drained(v);
    else if (!repl_ok(result))
        volume_spool_failed(v, number, result, err);
    else {
        volume_names_follow(v);
        volume_pump(v);
    }
}

static size_t supply_body(struct repl_request *request, void *buffer, size_t size)
{
    struct repl_source_volume *v = request->context;
    uint64_t left = v->supply_size - v->supply_at;
    ssize_t got = left == 0 ? 0
                            : pread(v->supply_fd, buffer, left < size ? (size_t)left : size,
                                    (off_t)v->supply_at);
    if (got > 0)
        v->supply_at += (uint64_t)got;
    if (got > 0 || left == 0)
        return (size_t)got;
    repl_ignore(repl_fail_errno(&v->late_failure, REPL_E_IO, got < 0 ? errno : EIO,
                                "spool: reading a supply back"));
    repl_timer_arm(v->options.loop, &v->fail_timer, repl_now_mono_ns());
    return REPL_BODY_PAUSE;
}

static void supply_answered(struct repl_request *request, repl_result result,
                            const struct repl_error *err)
{
    struct repl_source_volume *v = request->context;
    int64_t now_ns = repl_now_wall_ns();
    v->link_out = false;
    repl_dedup_sent(v->dedup);
    if (!repl_ok(result)) {
        repl_pipeline_lost(&v->pipeline, err->text, now_ns);
    } else if (request->status == 200 || request->status == 201) {
        v->pipeline.sent_bytes += v->supply_size;
        repl_pipeline_supplied(&v->pipeline);
    } else {
        link_refused(v, request, now_ns);
    }
    volume_pump(v);
}

static void supply_send(struct repl_source_volume *v, const struct repl_segment_header *header)
{
    struct repl_error err;
    v->supply_at = 0;
    v->link = (struct repl_request){.method = "PUT",
                                    .offset = -1,
                                    .read_body = supply_body,
                                    .stall_timeout_ms = SEGMENT_STALL_TIMEOUT_MS,
                                    .done = supply_answered,
                                    .context = v};
    snprintf(v->link.path, sizeof v->link.path, "/v1/volumes/%s/segments/%llu.%u.1", volume_name(v),
             (unsigned long long)header->to_seq, header->part);
    v->link_out = repl_ok(repl_request_start(v->options.client, &v->link, &err));
    if (v->link_out)
        return;
    repl_dedup_sent(v->dedup);
    repl_pipeline_lost(&v->pipeline, err.text, repl_now_wall_ns());
}

/* Without a supply the segment cannot become part of the history: the volume is closed and opened
 * again, and what the segment held is compared and sent anew. */
void volume_supply_made(void *context, int fd, uint64_t size,
                        const struct repl_segment_header *header, repl_result result,
                        const struct repl_error *err)
{
    struct repl_source_volume *v = context;
    if (!volume_is_up(v)) {
        volume_close_if_drained(v);
    } else if (result.code == REPL_E_NOSPACE) { /* when there is room, it is asked for again */
        repl_dedup_sent(v->dedup);
        repl_pipeline_lost(&v->pipeline, err->text, repl_now_wall_ns());
        volume_pump(v);
    } else if (!repl_ok(result)) {
        volume_fail(v, err);
    } else {
        v->supply_fd = fd;
        v->supply_size = size;
        supply_send(v, header);
        volume_pump(v);
    }
}

void volume_supply(struct repl_source_volume *v, uint64_t number)
{
    const struct repl_ship_segment *s = repl_ship_find(&v->pipeline.ship, number);
    ensure(s != NULL);
    const struct repl_segment_header header = {
        .version = REPL_SEGMENT_VERSION,
        .kind = REPL_SEGMENT_SUPPLY,
        .volume = v->pipeline.state.volume,
        .lineage = v->pipeline.state.lineage,
        .from_seq = s->from_seq,
        .to_seq = s->to_seq,
        .part = s->part,
        .created_ns = repl_now_wall_ns(),
    };
    repl_dedup_supply(v->dedup, number, &header);
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

void volume_recover(struct repl_source_volume *v, const struct repl_head *from,
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

void volume_send_resume(struct repl_source_volume *v, uint64_t number)
{
    for (size_t i = 0; i < 2; i++) {
        if (v->sends[i].out && (number == 0 || number == v->sends[i].number))
            repl_request_resume(&v->sends[i].request);
    }
}

void volume_link_cancel(struct repl_source_volume *v)
{
    send_end(&v->sends[0]);
    send_end(&v->sends[1]);
    if (v->link_out)
        repl_request_cancel(&v->link);
    if (v->report_out)
        repl_request_cancel(&v->report);
    volume_names_cancel(v);
    volume_resend_cancel(v);
    v->link_out = v->report_out = false;
}
