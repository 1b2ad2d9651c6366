/*
 * A segment's arrival.
 *
 *   begin    its turn in the volume's queue: the journal says whether these
 *            bytes are wanted; a file is made or gone on with
 *   body     bytes into the file; the header goes to the journal as soon as it
 *            is there, so that what cannot be appended is not received first
 *   end      everything is written: the commit waits in the queue
 *
 * A volume receives one segment in its turn, and one ahead of it, which waits
 * when it is complete until the first one is committed. Whoever comes next for
 * either (the source on a new connection, while we do not know yet that the old
 * one is dead) takes over from it. What a lost connection has brought is kept and counted by the
 * journal as it reaches the file, never before.
 */
#include <inttypes.h>
#include <stdio.h>
#include <syslog.h>

#include "format/segment_format.h"
#include "site/site_volume.h"

static struct repl_journal_upload *place_of(struct site_volume *v, const struct site_upload *u)
{
    return u == v->upload ? &v->journal.upload : &v->journal.ahead;
}

static struct site_upload *upload_fed_by(struct site_volume *v, const struct site_request *request)
{
    return v->upload->intake.feeder == request  ? v->upload
           : v->ahead->intake.feeder == request ? v->ahead
                                                : NULL;
}

/* --- giving up ------------------------------------------------------------------------------- */

static void intake_drop(struct site_upload *u)
{
    struct site_intake *intake = &u->intake;
    intake->feeder = NULL;
    if (intake->busy) {
        repl_buffer_fini(&intake->filling);
        u->dropped = true; /* site_upload_moved does it */
    } else {
        site_intake_close(intake, true);
    }
}

static void ahead_end(struct site_volume *v)
{
    struct site_request *feeder = v->ahead->intake.feeder;
    intake_drop(v->ahead);
    if (feeder != NULL)
        site_refuse_text(feeder, REPL_REFUSAL_BUSY, "its turn has not come: send it again");
}

void site_ahead_drop(struct site_volume *v)
{
    repl_journal_ahead_drop(&v->journal);
    ahead_end(v);
}

void site_upload_drop(struct site_volume *v)
{
    repl_journal_upload_drop(&v->journal);
    intake_drop(v->upload);
    ahead_end(v);
}

/* Either; its feeder is for the caller to answer. */
static void upload_drop(struct site_volume *v, struct site_upload *u)
{
    u->intake.feeder = NULL;
    if (u == v->upload)
        site_upload_drop(v);
    else
        site_ahead_drop(v);
}

void site_upload_forbid(struct site_volume *v, const struct site_request *request)
{
    struct site_upload *u = upload_fed_by(v, request);
    if (u != NULL)
        upload_drop(v, u);
}

/* Nobody feeds it any more; what has arrived is kept, if it is known what it is. */
static void upload_detach(struct site_volume *v, struct site_upload *u)
{
    u->intake.feeder = NULL;
    if (place_of(v, u)->header_known)
        site_intake_flush(&u->intake);
    else
        upload_drop(v, u);
}

void site_upload_detach(struct site_volume *v, const char *why)
{
    struct site_request *feeder = v->upload->intake.feeder;
    if (feeder == NULL)
        return;
    upload_detach(v, v->upload);
    site_refuse_text(feeder, REPL_REFUSAL_BUSY, "%s", why);
}

void site_upload_closed(struct site_volume *v, const struct site_request *request)
{
    struct site_upload *u = upload_fed_by(v, request);
    if (u == NULL)
        return;
    /* Only a hello goes on with the first one, and while what is ahead of its turn waits nobody
     * sees whether its peer is there at all. */
    if (u == v->upload && !v->site->closing)
        site_ahead_drop(v);
    upload_detach(v, u);
}

/* --- its beginning --------------------------------------------------------------------------- */

/* False: there is no room, and the request has been answered. */
static bool space_check(struct site_volume *v, struct site_request *request)
{
    char why[REPL_WIRE_TEXT_MAX + 1];
    if (site_space_permits(v, why))
        return true;
    site_refuse_text(request, REPL_REFUSAL_NO_SPACE, "%s", why);
    return false;
}

static repl_result staging_open(struct site_volume *v, struct site_upload *u,
                                const struct site_request *request, struct repl_error *err)
{
    char name[64];
    if (request->ask.offset > 0)
        return site_intake_resume(&u->intake, request->ask.offset, err);
    site_intake_close(&u->intake, true);
    /* The other one's may have been given up and be removed only when it is written. */
    snprintf(name, sizeof name, "%020" PRIu64 ".%06" PRIu32 ".%d.upload", request->ask.id.to_seq,
             request->ask.id.part, (int)(u - v->uploads));
    return site_intake_create(&u->intake, v, name, err);
}

static void request_resume(struct site_request *request)
{
    if (request->exchange != NULL)
        repl_exchange_resume(request->exchange);
}

/* The journal has said what becomes of it. */
static void upload_receive(struct site_volume *v, struct site_upload *u,
                           struct site_request *request, enum repl_verdict verdict,
                           const struct repl_refusal *refusal)
{
    struct repl_error err;
    if (verdict == REPL_VERDICT_REFUSE) {
        site_refuse(request, refusal);
        return;
    }
    if (verdict == REPL_VERDICT_DUPLICATE) {
        /* Taken in to its end: an answer in the middle of it could get lost with the connection. */
        request->discard = true;
        request_resume(request);
        return;
    }
    if (!repl_ok(staging_open(v, u, request, &err))) {
        upload_drop(v, u);
        site_refuse_error(request, &err);
        return;
    }
    u->intake.feeder = request;
    request_resume(request);
}

void site_upload_begin(struct site_volume *v, struct site_request *request)
{
    struct repl_refusal refusal;
    if (request->exchange == NULL || !space_check(v, request))
        return;
    enum repl_verdict verdict = repl_journal_upload_begin(
        &v->journal, request->ask.id.to_seq, request->ask.id.part, request->ask.offset, &refusal);
    if (verdict == REPL_VERDICT_ACCEPT && request->ask.offset == 0)
        ahead_end(v);
    upload_receive(v, v->upload, request, verdict, &refusal);
}

void site_ahead_begin(struct site_volume *v, struct site_request *request)
{
    struct repl_journal_upload *place;
    struct repl_refusal refusal;
    if (request->exchange == NULL || !space_check(v, request))
        return;
    enum repl_verdict verdict = repl_journal_ahead_begin(&v->journal, request->ask.id.to_seq,
                                                         request->ask.id.part, &place, &refusal);
    if (verdict != REPL_VERDICT_ACCEPT) {
        upload_receive(v, v->ahead, request, verdict, &refusal);
        return;
    }
    struct site_upload *u = place == &v->journal.upload ? v->upload : v->ahead;
    if (u == v->ahead)
        ahead_end(v);
    if (!site_intake_is_idle(&u->intake)) { /* what was given up is being written yet */
        upload_drop(v, u);
        site_refuse_text(request, REPL_REFUSAL_BUSY, "its turn has not come: send it again");
        return;
    }
    upload_receive(v, u, request, verdict, &refusal);
}

void site_upload_next(struct site_volume *v)
{
    struct site_upload *committed = v->upload;
    struct repl_refusal refusal;
    site_intake_close(&committed->intake, false); /* the file has its own name by now */
    v->upload = v->ahead;
    v->ahead = committed;
    struct site_request *feeder = v->upload->intake.feeder;
    if (repl_journal_upload_next(&v->journal, &refusal) != REPL_VERDICT_ACCEPT) {
        site_upload_drop(v);
        if (feeder != NULL)
            site_refuse(feeder, &refusal);
    } else if (feeder != NULL && feeder->ended && site_intake_is_idle(&v->upload->intake)) {
        site_volume_enqueue(v, feeder, SITE_CHANGE_COMMIT);
    }
}

/* --- its bytes ------------------------------------------------------------------------------- */

/* The first bytes have come. False: refused. */
static bool header_look(struct site_volume *v, struct site_upload *u, struct site_request *request)
{
    struct repl_segment_header header;
    struct repl_refusal refusal;
    struct repl_error err;
    const struct repl_buffer *bytes = &u->intake.filling;
    repl_result result =
        repl_segment_header_decode(bytes->data, REPL_SEGMENT_HEADER_SIZE, &header, &err);
    if (!repl_ok(result)) {
        upload_drop(v, u);
        site_refuse_damaged(request, &err);
        return false;
    }
    if (repl_journal_upload_header(&v->journal, place_of(v, u), &header, &refusal) ==
        REPL_VERDICT_REFUSE) {
        upload_drop(v, u);
        site_refuse(request, &refusal);
        return false;
    }
    return true;
}

void site_upload_body(struct site_volume *v, struct site_request *request, const void *data,
                      size_t size)
{
    struct site_upload *u = upload_fed_by(v, request);
    struct repl_error err;
    if (request->discard || u == NULL)
        return;
    if (!space_check(v, request)) {
        upload_detach(v, u);
        return;
    }
    if (site_intake_size(&u->intake) + size > REPL_SEGMENT_HARD_LIMIT) {
        upload_drop(v, u);
        site_refuse_text(request, REPL_REFUSAL_REQUEST,
                         "a segment has at most %" PRIu64 " bytes, and this one has more",
                         REPL_SEGMENT_HARD_LIMIT);
        return;
    }
    if (!repl_ok(site_intake_put(&u->intake, data, size, &err))) {
        upload_drop(v, u);
        site_refuse_error(request, &err);
        return;
    }
    /* The whole header is in the first buffer: nothing is written before it has been looked at. */
    if (!place_of(v, u)->header_known &&
        (u->intake.filling.size < REPL_SEGMENT_HEADER_SIZE || !header_look(v, u, request)))
        return;
    site_intake_push(&u->intake);
}

void site_upload_end(struct site_volume *v, struct site_request *request)
{
    struct site_upload *u = upload_fed_by(v, request);
    if (request->discard) {
        site_answer_ack(request, v, 201);
        return;
    }
    if (u == NULL)
        return;
    if (!place_of(v, u)->header_known) {
        upload_drop(v, u);
        site_refuse_text(request, REPL_REFUSAL_DAMAGED, "the segment ended within its header");
        return;
    }
    request->ended = true;
    site_intake_flush(&u->intake);
    if (u == v->upload && site_intake_is_idle(&u->intake))
        site_volume_enqueue(v, request, SITE_CHANGE_COMMIT);
}

static void upload_failed(struct site_volume *v, struct site_upload *u)
{
    struct site_request *feeder = u->intake.feeder;
    const struct repl_journal_upload *place = place_of(v, u);
    u->intake.feeder = NULL;
    repl_log(LOG_ERR, "volume %s: receiving segment %llu.%u: %s", v->name,
             (unsigned long long)place->to_seq, place->part, u->intake.err.text);
    if (feeder != NULL)
        site_refuse_error(feeder, &u->intake.err);
    site_ahead_drop(v); /* itself, or what waits for it */
}

void site_upload_moved(struct site_intake *intake)
{
    struct site_upload *u = intake->context;
    struct site_volume *v = u->volume;
    struct repl_journal_upload *place = place_of(v, u);
    if (u->dropped) {
        if (intake->busy)
            return;
        u->dropped = false;
        site_intake_close(intake, true);
        site_volume_pump(v);
        return;
    }
    if (intake->written > place->bytes)
        repl_journal_upload_grow(place, intake->written - place->bytes);
    if (!intake->busy && !repl_ok(intake->result))
        upload_failed(v, u);
    else if (u == v->upload && intake->feeder != NULL && intake->feeder->ended &&
             site_intake_is_idle(intake))
        site_volume_enqueue(v, intake->feeder, SITE_CHANGE_COMMIT);
    site_volume_pump(v);
}
