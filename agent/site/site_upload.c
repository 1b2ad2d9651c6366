/*
 * A segment's arrival.
 *
 *   begin    its turn in the volume's queue: the journal says whether these
 *            bytes are wanted; a file is made or gone on with
 *   body     bytes into the file; the header goes to the journal as soon as it
 *            is there, so that what cannot be appended is not received first
 *   end      everything is written: the commit waits in the queue
 *
 * A volume receives one segment at a time. Whoever comes next (the source on a
 * new connection, while we do not know yet that the old one is dead) takes over
 * from it. What a lost connection has brought is kept and counted by the
 * journal as it reaches the file, never before.
 */
#include <inttypes.h>
#include <stdio.h>
#include <syslog.h>

#include "format/segment_format.h"
#include "site/site_volume.h"

static repl_result staging_open(struct site_volume *v, const struct site_request *request,
                                struct repl_error *err)
{
    char name[64];
    if (request->ask.offset > 0)
        return site_intake_resume(&v->intake, request->ask.offset, err);
    site_intake_close(&v->intake, true);
    snprintf(name, sizeof name, "%020" PRIu64 ".%06" PRIu32 ".upload", request->ask.id.to_seq,
             request->ask.id.part);
    v->header_known = false;
    return site_intake_create(&v->intake, v, name, err);
}

static void request_resume(struct site_request *request)
{
    if (request->exchange != NULL)
        repl_exchange_resume(request->exchange);
}

void site_upload_begin(struct site_volume *v, struct site_request *request)
{
    struct repl_refusal refusal;
    struct repl_error err;
    if (request->exchange == NULL)
        return;
    switch (repl_journal_upload_begin(&v->journal, request->ask.id.to_seq, request->ask.id.part,
                                      request->ask.offset, &refusal)) {
    case REPL_VERDICT_REFUSE:
        site_refuse(request, &refusal);
        return;
    case REPL_VERDICT_DUPLICATE:
        /* Taken in to its end: an answer in the middle of it could get lost with the connection. */
        request->discard = true;
        request_resume(request);
        return;
    case REPL_VERDICT_ACCEPT:
        break;
    }
    if (!repl_ok(staging_open(v, request, &err))) {
        site_upload_drop(v);
        site_refuse_error(request, &err);
        return;
    }
    v->intake.feeder = request;
    request_resume(request);
}

void site_upload_drop(struct site_volume *v)
{
    struct site_intake *intake = &v->intake;
    repl_journal_upload_drop(&v->journal);
    v->header_known = false;
    intake->feeder = NULL;
    if (intake->busy) {
        repl_buffer_fini(&intake->filling);
        v->intake_dropped = true; /* site_upload_moved does it */
    } else {
        site_intake_close(intake, true);
    }
}

void site_upload_detach(struct site_volume *v, const char *why)
{
    struct site_request *feeder = v->intake.feeder;
    if (feeder == NULL)
        return;
    v->intake.feeder = NULL;
    if (v->header_known)
        site_intake_flush(&v->intake);
    else
        site_upload_drop(v);
    site_refuse_text(feeder, REPL_REFUSAL_BUSY, "%s", why);
}

bool site_upload_is_fed_by(const struct site_volume *v, const struct site_request *request)
{
    return v->intake.feeder == request;
}

/* The first bytes have come. False: refused. */
static bool header_look(struct site_volume *v, struct site_request *request)
{
    struct repl_segment_header header;
    struct repl_refusal refusal;
    struct repl_error err;
    const struct repl_buffer *bytes = &v->intake.filling;
    repl_result result =
        repl_segment_header_decode(bytes->data, REPL_SEGMENT_HEADER_SIZE, &header, &err);
    if (!repl_ok(result)) {
        site_upload_drop(v);
        site_refuse_damaged(request, &err);
        return false;
    }
    if (repl_journal_upload_header(&v->journal, &header, &refusal) == REPL_VERDICT_REFUSE) {
        site_upload_drop(v);
        site_refuse(request, &refusal);
        return false;
    }
    v->header_known = true;
    return true;
}

void site_upload_body(struct site_volume *v, struct site_request *request, const void *data,
                      size_t size)
{
    struct site_intake *intake = &v->intake;
    struct repl_error err;
    if (request->discard || intake->feeder != request)
        return;
    if (site_intake_size(intake) + size > REPL_SEGMENT_HARD_LIMIT) {
        site_upload_drop(v);
        site_refuse_text(request, REPL_REFUSAL_REQUEST,
                         "a segment has at most %" PRIu64 " bytes, and this one has more",
                         REPL_SEGMENT_HARD_LIMIT);
        return;
    }
    if (!repl_ok(site_intake_put(intake, data, size, &err))) {
        site_upload_drop(v);
        site_refuse_error(request, &err);
        return;
    }
    /* The whole header is in the first buffer: nothing is written before it has been looked at. */
    if (!v->header_known &&
        (intake->filling.size < REPL_SEGMENT_HEADER_SIZE || !header_look(v, request)))
        return;
    site_intake_push(intake);
}

void site_upload_end(struct site_volume *v, struct site_request *request)
{
    if (request->discard) {
        site_answer_ack(request, v, 201);
        return;
    }
    if (v->intake.feeder != request)
        return;
    if (!v->header_known) {
        site_upload_drop(v);
        site_refuse_text(request, REPL_REFUSAL_DAMAGED, "the segment ended within its header");
        return;
    }
    request->ended = true;
    site_intake_flush(&v->intake);
    if (site_intake_is_idle(&v->intake))
        site_volume_enqueue(v, request, SITE_CHANGE_COMMIT);
}

static void upload_failed(struct site_volume *v)
{
    struct site_request *feeder = v->intake.feeder;
    v->intake.feeder = NULL;
    repl_log(LOG_ERR, "volume %s: receiving segment %llu.%u: %s", v->name,
             (unsigned long long)v->journal.upload.to_seq, v->journal.upload.part,
             v->intake.err.text);
    if (feeder != NULL)
        site_refuse_error(feeder, &v->intake.err);
}

void site_upload_moved(struct site_intake *intake)
{
    struct site_volume *v = intake->context;
    if (v->intake_dropped) {
        if (intake->busy)
            return;
        v->intake_dropped = false;
        site_intake_close(intake, true);
        site_volume_pump(v);
        return;
    }
    if (intake->written > v->journal.upload.bytes)
        repl_journal_upload_grow(&v->journal, intake->written - v->journal.upload.bytes);
    if (!intake->busy && !repl_ok(intake->result))
        upload_failed(v);
    else if (intake->feeder != NULL && intake->feeder->ended && site_intake_is_idle(intake))
        site_volume_enqueue(v, intake->feeder, SITE_CHANGE_COMMIT);
    site_volume_pump(v);
}
