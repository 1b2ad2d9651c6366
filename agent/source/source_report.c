/*
 * How the volume fares: each second the site is told, and what has changed goes
 * into the log.
 */
#include <stdio.h>
#include <syslog.h>

#include "control/control.h"
#include "source/source_volume_internal.h"

#define REPORT_NS REPL_SECOND_NS

/* A report is the link's heartbeat: where no segment is on its way, nothing else would notice that
 * the site has gone or has changed its mind. */
static void report_failed(struct repl_source_volume *v, repl_result result,
                          const struct repl_error *err, int64_t now_ns)
{
    struct repl_refusal refusal;
    struct repl_error mine;
    if (v->link_out || v->sends[0].out || v->sends[1].out || v->recover_out ||
        v->pipeline.ship.state != REPL_SHIP_READY)
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

/* Of what leaves, not of what is acknowledged: that comes a segment at a time, and over a narrow
 * link one may take a minute. The second in which one is begun again counts for nothing. */
static void rate_follow(struct repl_source_volume *v)
{
    int64_t now_ns = repl_now_mono_ns();
    uint64_t sent = volume_sent_bytes(v);
    double seconds = (double)(now_ns - v->rate_ns) / 1e9;
    double rate =
        (double)(sent > v->rate_bytes ? sent - v->rate_bytes : 0) / (seconds > 0 ? seconds : 1);
    v->rate = v->rate == 0 ? rate : 0.8 * v->rate + 0.2 * rate;
    v->rate_bytes = sent;
    v->rate_ns = now_ns;
}

static void lost_log(struct repl_source_volume *v)
{
    uint64_t lost = v->pipeline.lost_points - v->lost_logged;
    v->lost_logged += lost;
    if (lost > 0)
        repl_log(LOG_WARNING,
                 "volume %s: %llu points that the site did not have yet were lost with the spool; "
                 "what they held is in the next one",
                 volume_name(v), (unsigned long long)lost);
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

void volume_report(struct repl_timer *timer)
{
    struct repl_source_volume *v = timer->context;
    struct repl_report report;
    struct repl_error err;
    repl_timer_arm(v->options.loop, &v->report_timer, repl_now_mono_ns() + REPORT_NS);
    rate_follow(v);
    volume_space_look(v);
    volume_names_look(v);
    volume_resend_look(v);
    v->report_sent_ns = repl_now_wall_ns();
    repl_pipeline_report(&v->pipeline, v->report_sent_ns, &report);
    state_log(v, &report);
    lost_log(v);
    volume_tree_log(v);
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
