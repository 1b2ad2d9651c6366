/*
 * What the site asks to be sent once more: pages of which what it has is damaged.
 * They count as unknown from then on and are read for the next point, as they are
 * by then. Or all of the volume, in a full, which the operator may ask for as well.
 *
 * The site is asked when the link is up, and then from time to time. What it wants
 * is bounded by the list and the pause between two: a site that always wants
 * everything gets each page as often as a digest resync would send it, and no
 * writer waits for that. A full holds up the points, so it is not begun again soon
 * because a site says so.
 */
#include <inttypes.h>
#include <stdio.h>
#include <syslog.h>

#include "control/control.h"
#include "source/source_volume_internal.h"

#define RESEND_EACH_NS (600 * REPL_SECOND_NS)
/* A link that goes and comes does not make a volume be read again and again. */
#define RESEND_PAUSE_NS (30 * REPL_SECOND_NS)

#define RESEND_FULL_NS (6 * 3600 * REPL_SECOND_NS)

static bool full_begin(struct repl_source_volume *v)
{
    if (!repl_pipeline_send_full(&v->pipeline, repl_now_wall_ns()))
        return false;
    repl_log(LOG_NOTICE,
             "volume %s: all of it is sent once more, and the next point comes when that is done",
             volume_name(v));
    return true;
}

json_t *repl_source_volume_full(struct repl_source_volume *v, struct repl_error *err)
{
    if (!volume_is_up(v)) {
        struct repl_volume_status status;
        repl_source_volume_status(v, &status);
        repl_ignore(repl_fail(err, REPL_E_RETRY, "volume %s does not run now: %s", volume_name(v),
                              status.cause));
        return NULL;
    }
    bool begun = full_begin(v);
    volume_wake(v);
    return json_pack("{s:b}", "begun", begun);
}

static void full_take(struct repl_source_volume *v)
{
    int64_t now_ns = repl_now_mono_ns();
    if (v->full_taken_ns != 0 && now_ns - v->full_taken_ns < RESEND_FULL_NS)
        return;
    repl_log(LOG_WARNING,
             "volume %s: the site cannot open a part of the history any more, and nothing behind "
             "it can be restored there before it has all of the volume once more",
             volume_name(v));
    v->full_taken_ns = now_ns;
    full_begin(v);
}

static void list_take(struct repl_source_volume *v, const struct repl_resend *resend)
{
    uint64_t pages = 0;
    for (uint32_t i = 0; i < resend->count; i++) {
        const struct repl_page_run *run = &resend->runs[i];
        repl_pipeline_send_again(&v->pipeline, run->first * REPL_PAGE_SIZE,
                                 run->count * REPL_PAGE_SIZE);
        pages += run->count;
    }
    if (pages == 0)
        return;
    v->resend_taken_ns = repl_now_mono_ns();
    repl_log(LOG_NOTICE,
             "volume %s: %" PRIu64 " pages are sent once more, as they are damaged at the site",
             volume_name(v), pages);
    repl_pipeline_want(&v->pipeline, repl_now_wall_ns());
}

static void resend_answered(struct repl_request *request, repl_result result,
                            const struct repl_error *err)
{
    struct repl_source_volume *v = request->context;
    struct repl_resend resend;
    struct repl_error ignored;
    (void)err; /* it is asked again, and whether the link is up is found out elsewhere */
    v->resend_out = false;
    v->resend_due_ns = repl_now_mono_ns() + RESEND_EACH_NS;
    /* A site that knows nothing of this says NOT_FOUND. */
    if (repl_ok(result) && request->status == 200 &&
        repl_ok(repl_resend_decode(request->response, request->response_size, &resend, &ignored))) {
        if (resend.full)
            full_take(v);
        list_take(v, &resend);
        repl_resend_fini(&resend);
    }
    volume_pump(v);
}

void volume_resend_greeted(struct repl_source_volume *v)
{
    v->resend_due_ns = v->resend_taken_ns == 0 ? 0 : v->resend_taken_ns + RESEND_PAUSE_NS;
}

void volume_resend_look(struct repl_source_volume *v)
{
    enum repl_ship_state link = v->pipeline.ship.state;
    struct repl_error err;
    if (v->resend_out || repl_now_mono_ns() < v->resend_due_ns ||
        (link != REPL_SHIP_READY && link != REPL_SHIP_SENDING))
        return;
    v->resend =
        (struct repl_request){.method = "GET", .offset = -1, .done = resend_answered, .context = v};
    snprintf(v->resend.path, sizeof v->resend.path, "/v1/volumes/%s/resend", volume_name(v));
    v->resend_out = repl_ok(repl_request_start(v->options.client, &v->resend, &err));
    if (!v->resend_out)
        v->resend_due_ns = repl_now_mono_ns() + RESEND_EACH_NS;
}

void volume_resend_cancel(struct repl_source_volume *v)
{
    if (v->resend_out)
        repl_request_cancel(&v->resend);
    v->resend_out = false;
}
