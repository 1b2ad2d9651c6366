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
#include <strings.h>
#include <syslog.h>

#include "site/site_volume.h"

#define SMALL_BODY_MAX (16u << 10) /* hello and report are below 1 KiB */
#define PARTS_MAX      7

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

/* BUSY and GREET belong to everyday life, NOT_FOUND to reading. */
static void refusal_log(struct site_request *request, const struct repl_refusal *refusal)
{
    struct repl_site *site = request->site;
    if (refusal->code == REPL_REFUSAL_BUSY || refusal->code == REPL_REFUSAL_GREET ||
        refusal->code == REPL_REFUSAL_NOT_FOUND || request->exchange == NULL)
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

void site_refuse_error(struct site_request *request, const struct repl_error *err)
{
    switch (err->code) {
    case REPL_E_NOSPACE:
        site_refuse_text(request, REPL_REFUSAL_NO_SPACE, "the site's store is full");
        return;
    case REPL_E_RETRY:
    case REPL_E_LOCKED:
    case REPL_E_NOMEM:
        site_refuse_text(request, REPL_REFUSAL_BUSY, "%.350s", err->text);
        return;
    default:
        repl_log(LOG_ERR, "volume %s: %s", request->name, err->text);
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
           kind == SITE_REQUEST_UPLOAD || kind == SITE_REQUEST_SUPPLY;
}

static bool permission_check(struct site_request *request, const struct repl_config_peer *peer)
{
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    repl_fingerprint_format(&peer->fingerprint, text);
    if (!site_peer_has_volume(peer, request->name))
        site_refuse_text(request, REPL_REFUSAL_PERMISSION,
                         "the key %s (peer %s) is not for volume %s: see volumes in its [peer] "
                         "section at the site",
                         text, peer->name, request->name);
    else if (is_write(request->kind) && peer->recovery)
        site_refuse_text(request, REPL_REFUSAL_PERMISSION,
                         "the key %s (peer %s) is for recovery: it may read volume %s, not write "
                         "it",
                         text, peer->name, request->name);
    else
        return true;
    return false;
}

bool site_request_permit(struct site_request *request)
{
    const struct repl_config_peer *peer = peer_check(request);
    return peer != NULL && permission_check(request, peer);
}

/* --- paths ----------------------------------------------------------------------------------- */

struct path {
    char text[512];
    const char *parts[PARTS_MAX];
    size_t count;
};

/* "/a/b" into its parts. False: not such a path, or too long for any of ours. */
static bool path_split(const char *from, struct path *path)
{
    path->count = 0;
    if (from[0] != '/' || strlen(from) >= sizeof path->text)
        return false;
    strcpy(path->text, from);
    for (char *rest = path->text + 1; rest != NULL;) {
        char *part = strsep(&rest, "/");
        if (path->count == PARTS_MAX || part[0] == '\0')
            return false;
        path->parts[path->count++] = part;
    }
    return true;
}

/* One way to write each: no leading zeros. */
static bool number_parse(const char *text, size_t size, uint64_t *out)
{
    *out = 0;
    if (size > 1 && text[0] == '0')
        return false;
    for (size_t i = 0; i < size; i++) {
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (text[i] < '0' || text[i] > '9' || *out > (UINT64_MAX - digit) / 10)
            return false;
        *out = *out * 10 + digit;
    }
    return size > 0;
}

/* "TO.PART" or "TO.PART.N", N from 1 on. */
static bool id_parse(const char *text, struct repl_segment_id *out)
{
    uint64_t numbers[3] = {0};
    size_t count = 0;
    for (; count < 3; text++, count++) {
        size_t size = strcspn(text, ".");
        if (!number_parse(text, size, &numbers[count]))
            return false;
        text += size;
        if (*text == '\0')
            break;
    }
    if (*text != '\0' || count == 0 || count == 3 || numbers[1] > UINT32_MAX ||
        numbers[2] > UINT32_MAX || (count == 2 && numbers[2] == 0))
        return false;
    *out = (struct repl_segment_id){
        .to_seq = numbers[0], .part = (uint32_t)numbers[1], .supply = (uint32_t)numbers[2]};
    return true;
}

/* "FIRST.COUNT" */
static bool pages_parse(const char *text, struct site_request *request)
{
    size_t size = strcspn(text, ".");
    uint64_t count;
    if (!number_parse(text, size, &request->first_page) || text[size] != '.' ||
        !number_parse(text + size + 1, strlen(text + size + 1), &count) || count > REPL_DIGESTS_MAX)
        return false;
    request->page_count = (uint32_t)count;
    return true;
}

/* The version of the protocol is in the path: /v1/. */
static bool path_version_check(struct site_request *request, const struct path *path)
{
    uint64_t version;
    const char *first = path->count > 0 ? path->parts[0] : "";
    if (first[0] != 'v' || !number_parse(first + 1, strlen(first + 1), &version))
        return true; /* no path of ours; refused below */
    if (version >= REPL_PROTOCOL_MIN && version <= REPL_PROTOCOL_MAX)
        return true;
    site_refuse_text(request, REPL_REFUSAL_VERSION,
                     "this site speaks protocol versions %u to %u, and /%s/ was asked for: upgrade "
                     "the older one",
                     REPL_PROTOCOL_MIN, REPL_PROTOCOL_MAX, first);
    return false;
}

/* What stands behind /v1/volumes/NAME. *method: the one it wants. */
static bool volume_path_parse(struct site_request *request, const struct path *path,
                              const char **method)
{
    const char *word = path->parts[3];
    bool put = strcasecmp(repl_exchange_method(request->exchange), "PUT") == 0;
    *method = "GET";
    if (path->count == 4 && strcmp(word, "hello") == 0) {
        *method = "POST";
        request->kind = SITE_REQUEST_HELLO;
    } else if (path->count == 4 && strcmp(word, "report") == 0) {
        *method = "POST";
        request->kind = SITE_REQUEST_REPORT;
    } else if (path->count == 4 && strcmp(word, "supplies") == 0) {
        request->kind = SITE_REQUEST_SUPPLIES;
    } else if (path->count == 5 && strcmp(word, "points") == 0) {
        request->kind = SITE_REQUEST_POINTS;
        return number_parse(path->parts[4], strlen(path->parts[4]), &request->after);
    } else if (path->count == 5 && strcmp(word, "replica") == 0) {
        request->kind = SITE_REQUEST_DIGESTS;
        return pages_parse(path->parts[4], request);
    } else if (path->count == 6 && strcmp(word, "segments") == 0 &&
               strcmp(path->parts[4], "after") == 0) {
        request->kind = SITE_REQUEST_SEGMENTS;
        return id_parse(path->parts[5], &request->id) && request->id.supply == 0;
    } else if (path->count == 5 && strcmp(word, "segments") == 0) {
        *method = put ? "PUT" : "GET";
        if (!id_parse(path->parts[4], &request->id))
            return false;
        request->kind = !put                      ? SITE_REQUEST_SEGMENT
                        : request->id.supply != 0 ? SITE_REQUEST_SUPPLY
                                                  : SITE_REQUEST_UPLOAD;
    } else {
        return false;
    }
    return true;
}

static bool path_parse(struct site_request *request, const struct path *path, const char **method)
{
    if (path->count < 2 || strcmp(path->parts[0], "v1") != 0 ||
        strcmp(path->parts[1], "volumes") != 0)
        return false;
    if (path->count == 2) {
        *method = "GET";
        request->kind = SITE_REQUEST_VOLUMES;
        return true;
    }
    if (path->count < 4 || !repl_volume_name_valid(path->parts[2]))
        return false;
    snprintf(request->name, sizeof request->name, "%s", path->parts[2]);
    return volume_path_parse(request, path, method);
}

static bool offset_parse(struct site_request *request)
{
    const char *text = repl_exchange_header(request->exchange, "Repl-Offset");
    if (text == NULL)
        return true;
    if (number_parse(text, strlen(text), &request->offset) &&
        request->offset <= REPL_SEGMENT_HARD_LIMIT)
        return true;
    site_refuse_text(request, REPL_REFUSAL_REQUEST, "Repl-Offset: \"%.40s\" is not an offset",
                     text);
    return false;
}

/* True: the request is understood and its path fits its method. */
static bool request_parse(struct site_request *request)
{
    struct path path;
    const char *method = NULL;
    bool split = path_split(repl_exchange_path(request->exchange), &path);
    if (split && !path_version_check(request, &path))
        return false;
    if (!split || !path_parse(request, &path, &method)) {
        site_refuse_text(request, REPL_REFUSAL_NOT_FOUND,
                         "there is no such path: docs/formats/wire.md lists them");
        return false;
    }
    if (strcmp(repl_exchange_method(request->exchange), method) != 0) {
        site_refuse_status(request, 405, REPL_REFUSAL_REQUEST, "this path wants %s", method);
        return false;
    }
    return offset_parse(request);
}

/* --- the handler ----------------------------------------------------------------------------- */

static bool volume_check(struct site_request *request)
{
    const struct site_volume *v = request->volume;
    if (v != NULL && v->damaged[0] != '\0') {
        site_refuse_text(request, REPL_REFUSAL_INTERNAL,
                         "the site does not serve volume %s: %.300s", v->name, v->damaged);
        return false;
    }
    if ((v == NULL || !v->journal.exists) && !is_write(request->kind)) {
        site_refuse_text(request, REPL_REFUSAL_NOT_FOUND, "there is no volume %s at this site",
                         request->name);
        return false;
    }
    if ((v == NULL || !v->journal.exists) && request->kind != SITE_REQUEST_HELLO) {
        site_refuse_text(request, REPL_REFUSAL_GREET, "no hello was said for volume %s",
                         request->name);
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
    if (request->kind == SITE_REQUEST_VOLUMES || !permission_check(request, peer))
        return;
    request->volume = site_find_volume(request->site, request->name);
    if (!volume_check(request))
        return;
    if (request->kind == SITE_REQUEST_UPLOAD) {
        repl_exchange_pause(request->exchange);
        site_volume_enqueue(request->volume, request, SITE_CHANGE_UPLOAD);
    } else if (request->kind == SITE_REQUEST_SUPPLY) {
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
    switch (request->kind) {
    case SITE_REQUEST_UPLOAD:
        site_upload_body(request->volume, request, data, size);
        return;
    case SITE_REQUEST_SUPPLY:
        site_supply_body(request, data, size);
        return;
    case SITE_REQUEST_HELLO:
    case SITE_REQUEST_REPORT:
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
    request->volume = site_find_volume(site, request->name);
    if (request->volume == NULL && site->volume_count >= SITE_VOLUMES_MAX) {
        site_refuse_text(request, REPL_REFUSAL_BUSY, "this site keeps %u volumes already",
                         SITE_VOLUMES_MAX);
        return;
    }
    if (request->volume == NULL) {
        if (!repl_ok(site_volume_new(site, request->name, &request->volume, &err))) {
            site_refuse_text(request, REPL_REFUSAL_BUSY, "%.350s", err.text);
            return;
        }
        site_add_volume(site, request->volume);
    }
    site_volume_enqueue(request->volume, request, SITE_CHANGE_HELLO);
}

static void on_end(void *owner, struct repl_exchange *exchange)
{
    (void)owner;
    struct site_request *request = repl_exchange_context(exchange);
    switch (request->kind) {
    case SITE_REQUEST_HELLO:
        hello_enqueue(request);
        return;
    case SITE_REQUEST_REPORT:
        site_volume_enqueue(request->volume, request, SITE_CHANGE_REPORT);
        return;
    case SITE_REQUEST_UPLOAD:
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
    if (request->kind == SITE_REQUEST_UPLOAD && request->volume != NULL &&
        site_upload_is_fed_by(request->volume, request))
        site_upload_detach(request->volume, "");
    site_supply_closed(request);
    site_request_unhold(request);
}

const struct repl_exchange_handler site_exchange_handler = {
    .begin = on_begin,
    .body = on_body,
    .end = on_end,
    .closed = on_closed,
};
