/*
 * Requests: who asks for what, whether they may, and how they are answered
 * (docs/formats/wire.md).
 *
 * A request is freed when its exchange is closed and nobody holds it. Whoever
 * passes it to a job or a queue holds it, and may answer it at any time: where
 * the peer is gone meanwhile, the answer goes nowhere.
 *
 * Authority comes from the peer's key alone and is looked up in the config of
 * the moment, at each request and again when a change is made: a body may have
 * taken long to come. What a key may not see, it is not told about: permission is
 * checked before existence.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "site/site_volume.h"

#define SMALL_BODY_MAX (16u << 10) /* hello, report and mark are below 1 KiB, wanted below 9 */

/* --- life ------------------------------------------------------------------------------------ */

static void request_free(struct site_request *request)
{
    site_supply_free(request);
    repl_buffer_fini(&request->body);
    free(request);
}

void site_request_hold(struct site_request *request)
{
    request->holds++;
}

void site_request_unhold(struct site_request *request)
{
    request->holds--;
    if (request->holds == 0 && request->exchange == NULL)
        request_free(request);
}

/* --- answers --------------------------------------------------------------------------------- */

void site_answer(struct site_request *request, int status, const char *content_type,
                 const void *body, size_t size)
{
    if (request->exchange == NULL || request->answered)
        return;
    request->answered = true;
    repl_exchange_respond(request->exchange, status, content_type, body, size);
}

void site_answer_message(struct site_request *request, int status, repl_result encoded,
                         struct repl_buffer *message)
{
    if (repl_ok(encoded))
        site_answer(request, status, NULL, message->data, message->size);
    else
        site_answer(request, 503, NULL, NULL, 0); /* no memory even for a refusal */
    repl_buffer_fini(message);
}

void site_answer_ack(struct site_request *request, const struct site_volume *volume, int status)
{
    struct repl_buffer message = {0};
    struct repl_ack ack;
    struct repl_error err;
    repl_journal_ack(&volume->journal, request->received_ns, repl_now_wall_ns(), &ack);
    site_answer_message(request, status, repl_ack_encode(&ack, &message, &err), &message);
}

/* BUSY and GREET belong to everyday life, NOT_FOUND to reading; of NO_SPACE the volume's state
 * tells. */
static void refusal_log(struct site_request *request, const struct repl_refusal *refusal)
{
    struct repl_site *site = request->site;
    if (refusal->code == REPL_REFUSAL_BUSY || refusal->code == REPL_REFUSAL_GREET ||
        refusal->code == REPL_REFUSAL_NOT_FOUND || refusal->code == REPL_REFUSAL_NO_SPACE ||
        request->exchange == NULL)
        return;
    if (site->refusals_logged++ >= SITE_REFUSALS_LOGGED_MAX)
        return;
    const struct repl_config_peer *peer =
        repl_config_find_peer(site->config, repl_exchange_peer(request->exchange));
    repl_log(LOG_WARNING, "refused %s %s of %s (%s): %s", repl_exchange_method(request->exchange),
             repl_exchange_path(request->exchange), peer != NULL ? peer->name : "an unknown key",
             repl_exchange_remote(request->exchange), refusal->text);
}

static void refuse(struct site_request *request, int status, const struct repl_refusal *refusal)
{
    struct repl_buffer message = {0};
    struct repl_error err;
    refusal_log(request, refusal);
    site_answer_message(request, status, repl_refusal_encode(refusal, &message, &err), &message);
}

void site_refuse(struct site_request *request, const struct repl_refusal *refusal)
{
    refuse(request, repl_refusal_status(refusal->code), refusal);
}

void site_refuse_text(struct site_request *request, enum repl_refusal_code code, const char *format,
                      ...)
{
    struct repl_refusal refusal = {.code = code};
    va_list args;
    va_start(args, format);
    vsnprintf(refusal.text, sizeof refusal.text, format, args);
    va_end(args);
    site_refuse(request, &refusal);
}

void site_refuse_status(struct site_request *request, int status, enum repl_refusal_code code,
                        const char *format, ...)
{
    struct repl_refusal refusal = {.code = code};
    va_list args;
    va_start(args, format);
    vsnprintf(refusal.text, sizeof refusal.text, format, args);
    va_end(args);
    refuse(request, status, &refusal);
}

static bool brings_data(enum site_request_kind kind)
{
    return kind == SITE_REQUEST_UPLOAD || kind == SITE_REQUEST_AHEAD || kind == SITE_REQUEST_SUPPLY;
}

void site_refuse_error(struct site_request *request, const struct repl_error *err)
{
    switch (err->code) {
    case REPL_E_NOSPACE:
        if (request->volume != NULL)
            site_space_ran_out(
                request->volume,
                brings_data(request->ask.kind) ? SITE_SPACE_DATA_FULL : SITE_SPACE_LOG_FULL, err);
        site_refuse_text(request, REPL_REFUSAL_NO_SPACE, "the site's store is full");
        return;
    case REPL_E_RETRY:
    case REPL_E_LOCKED:
    case REPL_E_NOMEM:
        site_refuse_text(request, REPL_REFUSAL_BUSY, "%.350s", err->text);
        return;
    default:
        repl_log(LOG_ERR, "volume %s: %s", request->ask.name, err->text);
        site_refuse_text(request, REPL_REFUSAL_INTERNAL, "the site has failed: see its log");
        return;
    }
}

void site_refuse_damaged(struct site_request *request, const struct repl_error *err)
{
    site_refuse_text(request,
                     err->code == REPL_E_VERSION ? REPL_REFUSAL_VERSION : REPL_REFUSAL_DAMAGED,
                     "%.350s", err->text);
}

/* --- who may what ---------------------------------------------------------------------------- */

bool site_peer_has_volume(const struct repl_config_peer *peer, const char *name)
{
    if (peer == NULL || peer->revoked)
        return false;
    for (size_t i = 0; i < peer->volume_count; i++) {
        if (strcmp(peer->volumes[i], name) == 0)
            return true;
    }
    return peer->all_volumes;
}

/* NULL: refused. */
static const struct repl_config_peer *peer_check(struct site_request *request)
{
    const struct repl_config_peer *peer =
        repl_config_find_peer(request->site->config, &request->key);
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    repl_fingerprint_format(&request->key, text);
    if (peer == NULL)
        site_refuse_text(request, REPL_REFUSAL_PERMISSION,
                         "this site does not know the key %s: its operator has to enter it in a "
                         "[peer NAME] section and reload the site",
                         text);
    else if (peer->revoked)
        site_refuse_text(request, REPL_REFUSAL_PERMISSION,
                         "the key %s (peer %s) has been revoked at this site", text, peer->name);
    else
        return peer;
    return NULL;
}

static bool is_write(enum site_request_kind kind)
{
    return kind == SITE_REQUEST_HELLO || kind == SITE_REQUEST_REPORT ||
           kind == SITE_REQUEST_UPLOAD || kind == SITE_REQUEST_AHEAD ||
           kind == SITE_REQUEST_SUPPLY || kind == SITE_REQUEST_MARK;
}

/* Read, and nobody else's business. */
static bool is_for_sources(enum site_request_kind kind)
{
    return kind == SITE_REQUEST_POOL || kind == SITE_REQUEST_RESEND;
}

static bool permission_check(struct site_request *request, const struct repl_config_peer *peer)
{
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    repl_fingerprint_format(&peer->fingerprint, text);
    if (!site_peer_has_volume(peer, request->ask.name))
        site_refuse_text(request, REPL_REFUSAL_PERMISSION,
                         "the key %s (peer %s) is not for volume %s: see volumes in its [peer] "
                         "section at the site",
                         text, peer->name, request->ask.name);
    else if (is_write(request->ask.kind) && peer->recovery)
        site_refuse_text(request, REPL_REFUSAL_PERMISSION,
                         "the key %s (peer %s) is for recovery: it may read volume %s, not write "
                         "it",
                         text, peer->name, request->ask.name);
    else if (is_for_sources(request->ask.kind) && peer->recovery)
        site_refuse_text(
            request, REPL_REFUSAL_PERMISSION,
            "the key %s (peer %s) is for recovery: what %s volume %s %s is told to its source",
            text, peer->name, request->ask.kind == SITE_REQUEST_POOL ? "the pool of" : "of",
            request->ask.name, request->ask.kind == SITE_REQUEST_POOL ? "holds" : "is damaged");
    else
        return true;
    return false;
}

bool site_request_permit(struct site_request *request)
{
    if (request->order != NULL) /* who may use the control socket may do this */
        return true;
    const struct repl_config_peer *peer = peer_check(request);
    return peer != NULL && permission_check(request, peer);
}

/* True: the request is understood. */
static bool request_parse(struct site_request *request)
{
    struct repl_refusal refusal;
    int status = site_ask_parse(
        repl_exchange_method(request->exchange), repl_exchange_path(request->exchange),
        repl_exchange_header(request->exchange, "Repl-Offset"), &request->ask, &refusal);
    if (status == 0)
        return true;
    refuse(request, status, &refusal);
    return false;
}

/* --- the handler ----------------------------------------------------------------------------- */

bool site_volume_serves(struct site_request *request)
{
    const struct site_volume *v = request->volume;
    if (v == NULL || v->damaged[0] == '\0' || request->order != NULL) /* which has looked */
        return true;
    site_refuse_text(request, v->unread ? REPL_REFUSAL_BUSY : REPL_REFUSAL_INTERNAL,
                     "the site does not serve volume %s: %.300s", v->name, v->damaged);
    return false;
}

static bool volume_check(struct site_request *request)
{
    const struct site_volume *v = request->volume;
    if (!site_volume_serves(request))
        return false;
    if ((v == NULL || !v->journal.exists) && !is_write(request->ask.kind)) {
        site_refuse_text(request, REPL_REFUSAL_NOT_FOUND, "there is no volume %s at this site",
                         request->ask.name);
        return false;
    }
    if ((v == NULL || !v->journal.exists) && request->ask.kind != SITE_REQUEST_HELLO) {
        site_refuse_text(request, REPL_REFUSAL_GREET, "no hello was said for volume %s",
                         request->ask.name);
        return false;
    }
    return true;
}

static void request_route(struct site_request *request)
{
    const struct repl_config_peer *peer = peer_check(request);
    if (peer == NULL)
        return;
    repl_exchange_trust(request->exchange);
    if (!request_parse(request))
        return;
    if (request->ask.kind == SITE_REQUEST_VOLUMES || !permission_check(request, peer))
        return;
    request->volume = site_find_volume(request->site, request->ask.name);
    if (!volume_check(request)) {
        request->volume = NULL; /* it may be forgotten before this request has ended */
        return;
    }
    if (request->ask.kind == SITE_REQUEST_UPLOAD) {
        repl_exchange_pause(request->exchange);
        site_volume_enqueue(request->volume, request, SITE_CHANGE_UPLOAD);
    } else if (request->ask.kind == SITE_REQUEST_AHEAD) {
        repl_exchange_pause(request->exchange);
        site_volume_enqueue(request->volume, request, SITE_CHANGE_AHEAD);
    } else if (request->ask.kind == SITE_REQUEST_SUPPLY) {
        site_supply_begin(request->volume, request);
    }
}

static void on_begin(void *owner, struct repl_exchange *exchange)
{
    struct site_request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        repl_exchange_respond(exchange, 503, NULL, NULL, 0);
        return;
    }
    request->site = owner;
    request->exchange = exchange;
    request->key = *repl_exchange_peer(exchange);
    request->received_ns = repl_now_wall_ns();
    repl_exchange_set_context(exchange, request);
    request_route(request);
}

static void on_body(void *owner, struct repl_exchange *exchange, const void *data, size_t size)
{
    (void)owner;
    struct site_request *request = repl_exchange_context(exchange);
    struct repl_error err;
    switch (request->ask.kind) {
    case SITE_REQUEST_UPLOAD:
    case SITE_REQUEST_AHEAD:
        site_upload_body(request->volume, request, data, size);
        return;
    case SITE_REQUEST_SUPPLY:
        site_supply_body(request, data, size);
        return;
    case SITE_REQUEST_HELLO:
    case SITE_REQUEST_REPORT:
    case SITE_REQUEST_MARK:
    case SITE_REQUEST_CHUNKS:
    case SITE_REQUEST_SLICES:
    case SITE_REQUEST_TAILS:
        if (request->body.size + size > SMALL_BODY_MAX)
            site_refuse_status(request, 413, REPL_REFUSAL_REQUEST, "the message is too long");
        else if (!repl_ok(repl_buffer_append(&request->body, data, size, &err)))
            site_refuse_error(request, &err);
        return;
    default:
        return; /* a body that nobody asked for */
    }
}

/* A hello may be of a volume that is to be made. */
static void hello_enqueue(struct site_request *request)
{
    struct repl_site *site = request->site;
    struct repl_error err;
    request->volume = site_find_volume(site, request->ask.name);
    if (request->volume == NULL && site->volume_count >= SITE_VOLUMES_MAX) {
        site_refuse_text(request, REPL_REFUSAL_BUSY, "this site keeps %u volumes already",
                         SITE_VOLUMES_MAX);
        return;
    }
    if (request->volume == NULL) {
        struct site_volume *made;
        repl_result result = site_volume_new(site, request->ask.name, &made, &err);
        if (repl_ok(result))
            result = site_add_volume(site, made, &err);
        if (!repl_ok(result)) {
            site_refuse_text(request, REPL_REFUSAL_BUSY, "%.350s", err.text);
            return;
        }
        request->volume = made;
    }
    site_volume_enqueue(request->volume, request, SITE_CHANGE_HELLO);
}

static void on_end(void *owner, struct repl_exchange *exchange)
{
    (void)owner;
    struct site_request *request = repl_exchange_context(exchange);
    switch (request->ask.kind) {
    case SITE_REQUEST_HELLO:
        hello_enqueue(request);
        return;
    case SITE_REQUEST_REPORT:
        site_volume_enqueue(request->volume, request, SITE_CHANGE_REPORT);
        return;
    case SITE_REQUEST_MARK:
        site_volume_enqueue(request->volume, request, SITE_CHANGE_MARK);
        return;
    case SITE_REQUEST_UPLOAD:
    case SITE_REQUEST_AHEAD:
        site_upload_end(request->volume, request);
        return;
    case SITE_REQUEST_SUPPLY:
        site_supply_end(request);
        return;
    case SITE_REQUEST_VOLUMES:
        site_read_volumes(request);
        return;
    case SITE_REQUEST_DIGESTS:
        site_digests_begin(request);
        return;
    case SITE_REQUEST_RESEND:
        site_scrub_resend(request);
        return;
    case SITE_REQUEST_DAMAGED:
        site_scrub_damaged(request);
        return;
    default:
        site_read_begin(request);
        return;
    }
}

static void on_closed(void *owner, struct repl_exchange *exchange, bool complete)
{
    (void)owner, (void)complete;
    struct site_request *request = repl_exchange_context(exchange);
    if (request == NULL)
        return;
    site_request_hold(request);
    request->exchange = NULL;
    bool receives =
        request->ask.kind == SITE_REQUEST_UPLOAD || request->ask.kind == SITE_REQUEST_AHEAD;
    if (receives && request->volume != NULL) /* that of a refused hello may be forgotten by now */
        site_upload_closed(request->volume, request);
    site_supply_closed(request);
    site_request_unhold(request);
}

const struct repl_exchange_handler site_exchange_handler = {
    .begin = on_begin,
    .body = on_body,
    .end = on_end,
    .closed = on_closed,
};
