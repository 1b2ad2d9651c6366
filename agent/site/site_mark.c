/*
 * Names of points: a change of the volume's, asked for by a host over the wire or
 * by the operator over the control socket.
 *
 *     begin -> the names there are, on a worker -> decided -> MARK record -> answered
 *
 * The operator's request has no exchange. What came of it is kept in its order,
 * for whoever asks with the ticket, and is overwritten by a later one.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "control/mark_request.h"
#include "site/site_volume.h"

/* --- the names there are --------------------------------------------------------------------- */

static repl_result point_look(struct repl_site *site, const char *volume, uint64_t seq,
                              bool *is_there, struct repl_error *err)
{
    struct repl_points_page page;
    *is_there = false;
    if (seq == 0)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_points(site->index, volume, seq - 1, &page, err));
    *is_there = page.count > 0 && page.entries[0].point.seq == seq;
    repl_points_page_fini(&page);
    return REPL_SUCCESS;
}

repl_result site_marks_read(struct repl_site *site, const char *volume, uint64_t seq,
                            struct site_marks *out, struct repl_error *err)
{
    *out = (struct site_marks){0};
    REPL_TRY(point_look(site, volume, seq, &out->point_is_there, err));
    return repl_index_marks(site->index, volume, &out->marks, &out->count, err);
}

void site_marks_fini(struct site_marks *marks)
{
    free(marks->marks);
    *marks = (struct site_marks){0};
}

/* --- the change ------------------------------------------------------------------------------ */

static void finish_well(struct site_volume *v, struct site_request *request)
{
    if (request->order != NULL)
        request->order->done = true;
    else
        site_answer_ack(request, v, 200);
}

static void finish_refused(struct site_request *request, const struct repl_refusal *refusal)
{
    struct site_order *order = request->order;
    if (order == NULL) {
        site_refuse(request, refusal);
        return;
    }
    order->result = repl_refusal_raise(refusal, &order->err);
    order->done = true;
}

static void finish_failed(struct site_request *request, repl_result result,
                          const struct repl_error *err)
{
    struct site_order *order = request->order;
    if (order == NULL) {
        site_refuse_error(request, err);
        return;
    }
    order->result = result;
    order->err = *err;
    order->done = true;
}

static void mark_logged(struct site_volume *v, repl_result result, const struct repl_error *err)
{
    const struct repl_log_mark *mark = &v->append.record.mark;
    if (!repl_ok(result)) {
        finish_failed(v->current, result, err);
    } else {
        if (mark->kind == REPL_MARK_REMOVED)
            repl_log(LOG_NOTICE, "volume %s: the name \"%s\" was removed", v->name, mark->name);
        else if (mark->kind == REPL_MARK_PROVEN)
            repl_log(LOG_NOTICE, "volume %s: point %" PRIu64 " was restored and found good",
                     v->name, mark->seq);
        else
            repl_log(LOG_INFO, "volume %s: point %" PRIu64 " has the name \"%s\"%s", v->name,
                     mark->seq, mark->name, mark->kind == REPL_MARK_HELD ? ", held" : "");
        finish_well(v, v->current);
    }
    site_volume_release(v);
}

static void marks_work(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct site_marking *m = &v->marking;
    m->result = site_marks_read(v->site, v->name, m->wish.mark.seq, &m->marks, &m->err);
}

/* The marks go before another change may begin, which has its own. */
static enum repl_verdict mark_decide(struct site_volume *v, struct repl_log_record *record,
                                     struct repl_refusal *refusal)
{
    struct site_marking *m = &v->marking;
    const struct repl_mark_facts facts = {.marks = m->marks.marks,
                                          .count = m->marks.count,
                                          .point_is_there = m->marks.point_is_there};
    enum repl_verdict verdict =
        repl_journal_mark(&v->journal, &facts, &m->wish, repl_now_wall_ns(), record, refusal);
    site_marks_fini(&m->marks);
    return verdict;
}

static void marks_done(struct repl_job *job)
{
    struct site_volume *v = job->context;
    struct repl_log_record record;
    struct repl_refusal refusal;
    site_job_ended(v->site);
    if (!repl_ok(v->marking.result)) {
        finish_failed(v->current, v->marking.result, &v->marking.err);
        site_volume_release(v);
        return;
    }
    switch (mark_decide(v, &record, &refusal)) {
    case REPL_VERDICT_ACCEPT:
        site_volume_append(v, &(struct repl_index_record){.record = &record}, mark_logged);
        return;
    case REPL_VERDICT_DUPLICATE:
        finish_well(v, v->current);
        break;
    case REPL_VERDICT_REFUSE:
        finish_refused(v->current, &refusal);
        break;
    }
    site_volume_release(v);
}

void site_mark_begin(struct site_volume *v, struct site_request *request)
{
    struct site_marking *m = &v->marking;
    struct repl_mark message;
    struct repl_error err;
    *m = (struct site_marking){0};
    if (v->index_behind) {
        repl_result behind = repl_fail(&err, REPL_E_RETRY,
                                       "the index of volume %s is not complete just now: try again "
                                       "later",
                                       v->name);
        finish_failed(request, behind, &err);
        return;
    }
    if (request->order != NULL) {
        m->wish = request->order->wish;
    } else if (repl_ok(repl_mark_decode(request->body.data, request->body.size, &message, &err))) {
        m->wish = (struct repl_mark_wish){.by = REPL_MARK_BY_HOST,
                                          .mark = {.kind = REPL_MARK_NAME, .seq = message.seq}};
        memcpy(m->wish.mark.name, message.name, sizeof message.name);
    } else {
        site_refuse_text(request, REPL_REFUSAL_REQUEST, "%.350s", err.text);
        return;
    }
    v->busy = true;
    m->job = (struct repl_job){.work = marks_work, .done = marks_done, .context = v};
    site_job_start(v->site, &m->job);
}

/* --- the operator ---------------------------------------------------------------------------- */

static repl_result order_take(struct repl_site *site, const struct repl_mark_request *wanted,
                              struct site_order **out, struct repl_error *err)
{
    struct site_volume *v = site_find_volume(site, wanted->volume);
    if (v == NULL || (!v->journal.exists && v->damaged[0] == '\0'))
        return repl_fail(err, REPL_E_MISSING, "there is no volume %s at this site", wanted->volume);
    if (v->damaged[0] != '\0')
        return repl_fail(err, v->unread ? REPL_E_RETRY : REPL_E_CORRUPT,
                         "the site does not serve volume %s: %s", v->name, v->damaged);
    struct site_order *order = &site->orders[(site->orders_taken + 1) % SITE_ORDERS_MAX];
    struct site_request *request = calloc(1, sizeof *request);
    if (request == NULL || (order->ticket != 0 && !order->done)) {
        free(request);
        return repl_fail(err, REPL_E_RETRY, "the site is busy with names just now: try again");
    }
    *order = (struct site_order){
        .ticket = ++site->orders_taken,
        .wish = {.by = REPL_MARK_BY_OPERATOR, .mark = wanted->mark},
        .result = REPL_SUCCESS,
    };
    request->site = site;
    request->order = order;
    request->volume = v;
    request->received_ns = repl_now_wall_ns();
    site_volume_enqueue(v, request, SITE_CHANGE_MARK); /* which frees it when it is made */
    *out = order;
    return REPL_SUCCESS;
}

json_t *site_mark_control(struct repl_site *site, const char *text, struct repl_error *err)
{
    struct repl_mark_request request;
    struct site_order *order = NULL;
    if (!repl_ok(repl_mark_request_parse(text, &request, err)))
        return NULL;
    if (request.ticket == 0) {
        if (!repl_ok(order_take(site, &request, &order, err)))
            return NULL;
        return json_pack("{s:I}", "ticket", (json_int_t)order->ticket);
    }
    order = &site->orders[request.ticket % SITE_ORDERS_MAX];
    if (order->ticket != request.ticket) {
        repl_ignore(repl_fail(err, REPL_E_MISSING,
                              "what became of it is not known any more: see the list of names"));
        return NULL;
    }
    if (order->done && !repl_ok(order->result)) {
        *err = order->err;
        return NULL;
    }
    return json_pack("{s:b}", "done", order->done);
}
