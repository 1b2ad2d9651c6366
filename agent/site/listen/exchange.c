/*
 * One request, from its headers to its end. By what MHD has told us:
 *
 *     HEADERS --begin--> BODY --body*--> WAITING --respond--> REPLYING --> closed
 *                         \
 *                          respond --> DRAINING (--> REPLYING) --> closed
 *
 * An exchange in WAITING whose answer is not there is suspended, and so is one
 * in BODY that is paused: MHD then neither reads nor times out its connection,
 * and does not see the peer leave either; that shows when it is resumed.
 * Suspending happens only inside MHD's calls for the body or the end, never in
 * its first call, which MHD would repeat in the same words as its last one.
 *
 * Answers before the end of the request. MHD would accept one in its first call
 * only, and then close the connection on the unread body, so that the peer
 * finds a reset instead of the answer. So:
 *   - a body known to be short is read away, and the answer goes out as usual;
 *   - else the answer is written to the TLS session here (MHD has nothing in
 *     flight towards the peer before the end of a request) and that direction
 *     closed; what still comes is thrown away within bounds. The answer's headers
 *     say nothing of closing: libcurl ends an upload on an error, but not if the
 *     error comes with "Connection: close".
 *   - a peer that waits for 100 Continue has sent nothing: MHD's way is right.
 */
#include "site/listen/listener_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/ensure.h"
#include "site/listen/framing.h"

#define FILE_BLOCK_SIZE      (256u << 10)
#define FILE_AHEAD_SIZE      (1u << 20)
#define EARLY_ANSWER_MAX     (32u << 10) /* fits an empty socket buffer */
#define DRAIN_SIZE_KEPT      (64u << 10) /* so much is read away to keep the connection */
#define DRAIN_SIZE_MAX       (32u << 20) /* what may be under way on a long fat line */
#define DRAIN_TIME_NS        10000000000ll
#define DRAIN_IDLE_TIMEOUT_S 3u

#define NO_CERTIFICATE_TEXT                                                                        \
    "This site talks only to hosts whose key it knows, and no certificate came with this "         \
    "connection. Configure a key file (option key), and have the site's operator enter its "       \
    "fingerprint as a peer.\n"

/* --- beginning and end ----------------------------------------------------------------------- */

struct repl_exchange *exchange_new(struct repl_listener *listener, struct door *door,
                                   struct MHD_Connection *connection)
{
    struct repl_exchange *exchange = calloc(1, sizeof *exchange);
    if (exchange == NULL)
        return NULL;
    exchange->listener = listener;
    exchange->connection = connection;
    exchange->door = door;
    exchange->next = listener->exchanges;
    if (exchange->next != NULL)
        exchange->next->previous = exchange;
    listener->exchanges = exchange;
    door->exchange = exchange;
    return exchange;
}

void exchange_close(struct repl_exchange *exchange, bool sent_by_mhd)
{
    struct repl_listener *listener = exchange->listener;
    bool complete = exchange->sent_early ||
                    (exchange->state == EXCHANGE_REPLYING && sent_by_mhd && !exchange->broken);
    exchange->door->exchange = NULL;
    if (exchange->previous != NULL)
        exchange->previous->next = exchange->next;
    else
        listener->exchanges = exchange->next;
    if (exchange->next != NULL)
        exchange->next->previous = exchange->previous;
    if (exchange->told)
        listener->handler->closed(listener->owner, exchange, complete);
    if (exchange->response != NULL)
        MHD_destroy_response(exchange->response);
    free(exchange);
}

static void exchange_suspend(struct repl_exchange *exchange)
{
    if (exchange->suspended)
        return;
    exchange->suspended = true;
    MHD_suspend_connection(exchange->connection);
}

void exchange_wake(struct repl_exchange *exchange)
{
    if (!exchange->suspended)
        return;
    exchange->suspended = false;
    MHD_resume_connection(exchange->connection);
    listener_wake(exchange->listener);
}

/* --- answers --------------------------------------------------------------------------------- */

static bool session_send(gnutls_session_t session, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = gnutls_record_send(session, data, size);
        if (sent == GNUTLS_E_INTERRUPTED)
            continue;
        /* The buffer of a socket on which nothing was under way takes an early answer whole. A
         * peer that has filled it by not reading earlier answers is not waited for. */
        if (sent <= 0)
            return false;
        data += sent;
        size -= (size_t)sent;
    }
    return true;
}

/* Tells the peer that nothing more will come, while we still read. */
static void connection_half_close(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    gnutls_bye(connection_session(connection), GNUTLS_SHUT_WR);
    shutdown(info->connect_fd, SHUT_WR);
}

static void exchange_send_early(struct repl_exchange *exchange, unsigned status,
                                const char *content_type, const void *body, size_t size)
{
    char head[512];
    bool head_only = strcmp(exchange->method, MHD_HTTP_METHOD_HEAD) == 0;
    int head_size = snprintf(head, sizeof head,
                             "HTTP/1.1 %u %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                             status, MHD_get_reason_phrase_for(status), content_type, size);
    ensure(head_size > 0 && (size_t)head_size < sizeof head);

    gnutls_session_t session = connection_session(exchange->connection);
    exchange->sent_early = size <= EARLY_ANSWER_MAX &&
                           session_send(session, head, (size_t)head_size) &&
                           (head_only || session_send(session, body, size));
    exchange->broken = !exchange->sent_early;
    connection_half_close(exchange->connection);
    exchange->drain_until_ns = repl_now_mono_ns() + DRAIN_TIME_NS;
    MHD_set_connection_option(exchange->connection, MHD_CONNECTION_OPTION_TIMEOUT,
                              DRAIN_IDLE_TIMEOUT_S);
}

/* Gives the response to MHD, which must be in its first or last call for this request. */
static enum MHD_Result exchange_queue(struct repl_exchange *exchange)
{
    struct MHD_Response *response = exchange->response;
    exchange->response = NULL;
    exchange->state = EXCHANGE_REPLYING;
    enum MHD_Result result = MHD_queue_response(exchange->connection, exchange->status, response);
    MHD_destroy_response(response);
    return result;
}

/* Who is no stranger is told which program answers. */
static struct MHD_Response *response_new(const struct repl_exchange *exchange,
                                         const char *content_type, const void *body, size_t size)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(size, (void *)(uintptr_t)body, MHD_RESPMEM_MUST_COPY);
    if (response == NULL)
        return NULL;
    if (MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type) == MHD_YES &&
        (exchange->door->stranger ||
         MHD_add_response_header(response, "Repl-Version", REPL_VERSION) == MHD_YES))
        return response;
    MHD_destroy_response(response);
    return NULL;
}

/* Whether the rest of the request will be read, and then answered through MHD. */
static bool exchange_can_keep(const struct repl_exchange *exchange)
{
    return exchange->state == EXCHANGE_WAITING ||
           (exchange->state == EXCHANGE_BODY && !exchange->expects_continue &&
            exchange->body_size <= DRAIN_SIZE_KEPT);
}

/* Takes over the response; NULL: out of memory, which breaks the connection. */
static void exchange_answer(struct repl_exchange *exchange, unsigned status,
                            struct MHD_Response *response)
{
    exchange->answered = true;
    exchange->paused = false;
    exchange->status = status;
    exchange->response = response;
    exchange->broken = response == NULL;
    if (exchange->state != EXCHANGE_WAITING)
        exchange->state = EXCHANGE_DRAINING;
    if (exchange->beginning && exchange->expects_continue && response != NULL)
        exchange->broken = exchange_queue(exchange) != MHD_YES;
    exchange_wake(exchange);
}

static void exchange_answer_buffer(struct repl_exchange *exchange, unsigned status,
                                   const char *content_type, const void *body, size_t size,
                                   bool keep)
{
    if (keep || (exchange->beginning && exchange->expects_continue)) {
        exchange_answer(exchange, status, response_new(exchange, content_type, body, size));
        return;
    }
    exchange->answered = true;
    exchange->paused = false;
    exchange->state = EXCHANGE_DRAINING;
    exchange_send_early(exchange, status, content_type, body, size);
    exchange_wake(exchange);
}

/* An answer of our own; the connection ends with it. */
static void exchange_refuse(struct repl_exchange *exchange, unsigned status, const char *text)
{
    exchange_answer_buffer(exchange, status, "text/plain", text, strlen(text), false);
}

/* --- MHD's calls ----------------------------------------------------------------------------- */

enum MHD_Result exchange_begin(struct repl_exchange *exchange, const char *url, const char *method,
                               const char *version)
{
    struct repl_listener *listener = exchange->listener;
    struct framing framing =
        framing_check(exchange->connection, method, exchange->uri_size, version);
    exchange->path = url;
    exchange->method = method;
    exchange->beginning = true;
    exchange->state = EXCHANGE_BODY;
    exchange->body_size = framing.body_size;
    exchange->expects_continue = framing.expects_continue;
    door_identify(exchange->door, exchange->connection);
    if (framing.wrong != NULL) {
        exchange_refuse(exchange, framing.status, framing.wrong);
    } else if (exchange->uri_bad) {
        exchange_refuse(exchange, MHD_HTTP_BAD_REQUEST, "the request's path is malformed\n");
    } else if (!exchange->door->has_peer) {
        exchange_refuse(exchange, MHD_HTTP_FORBIDDEN, NO_CERTIFICATE_TEXT);
    } else {
        exchange->told = true;
        listener->handler->begin(listener->owner, exchange);
    }
    exchange->beginning = false;
    return exchange->broken ? MHD_NO : MHD_YES;
}

static enum MHD_Result exchange_drain(struct repl_exchange *exchange, size_t size)
{
    exchange->drained += size;
    if (exchange->broken)
        return MHD_NO;
    if (!exchange->sent_early)
        return exchange->drained <= DRAIN_SIZE_KEPT ? MHD_YES : MHD_NO;
    return exchange->drained <= DRAIN_SIZE_MAX && repl_now_mono_ns() < exchange->drain_until_ns
               ? MHD_YES
               : MHD_NO;
}

enum MHD_Result exchange_body(struct repl_exchange *exchange, const char *data, size_t *size)
{
    struct repl_listener *listener = exchange->listener;
    /* MHD gives what it has in one piece a chunk, paused or not; what is left stays with it. */
    if (exchange->state == EXCHANGE_BODY && !exchange->paused) {
        exchange->expects_continue = false; /* it has been sent */
        listener->handler->body(listener->owner, exchange, data, *size);
        *size = 0;
        if (exchange->broken)
            return MHD_NO;
    }
    if (exchange->state == EXCHANGE_BODY) {
        if (exchange->paused)
            exchange_suspend(exchange);
        return MHD_YES;
    }
    size_t rest = *size;
    *size = 0;
    return exchange_drain(exchange, rest);
}

enum MHD_Result exchange_end(struct repl_exchange *exchange)
{
    struct repl_listener *listener = exchange->listener;
    if (exchange->state == EXCHANGE_REPLYING)
        return MHD_YES;
    if (exchange->state == EXCHANGE_BODY && exchange->paused) {
        exchange_suspend(exchange);
        return MHD_YES;
    }
    if (exchange->state == EXCHANGE_BODY) {
        exchange->state = EXCHANGE_WAITING;
        listener->handler->end(listener->owner, exchange);
    }
    if (exchange->broken || exchange->sent_early)
        return MHD_NO;
    if (exchange->response != NULL)
        return exchange_queue(exchange);
    exchange_suspend(exchange);
    return MHD_YES;
}

/* --- what a handler asks and says ------------------------------------------------------------ */

const char *repl_exchange_method(const struct repl_exchange *exchange)
{
    return exchange->method;
}

const char *repl_exchange_path(const struct repl_exchange *exchange)
{
    return exchange->path;
}

const char *repl_exchange_header(const struct repl_exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

const struct repl_digest *repl_exchange_peer(const struct repl_exchange *exchange)
{
    return &exchange->door->peer;
}

void repl_exchange_trust(struct repl_exchange *exchange)
{
    door_trust(exchange->door);
}

const char *repl_exchange_remote(const struct repl_exchange *exchange)
{
    return exchange->door->remote;
}

void repl_exchange_set_context(struct repl_exchange *exchange, void *context)
{
    exchange->context = context;
}

void *repl_exchange_context(const struct repl_exchange *exchange)
{
    return exchange->context;
}

void repl_exchange_pause(struct repl_exchange *exchange)
{
    /* MHD hears of it when it next has something for us. */
    exchange->paused = exchange->state == EXCHANGE_BODY;
}

void repl_exchange_resume(struct repl_exchange *exchange)
{
    exchange->paused = false;
    if (exchange->state == EXCHANGE_BODY)
        exchange_wake(exchange);
}

void repl_exchange_respond(struct repl_exchange *exchange, int status, const char *content_type,
                           const void *body, size_t size)
{
    ensure(!exchange->answered);
    if (content_type == NULL)
        content_type = "application/octet-stream";
    exchange_answer_buffer(exchange, (unsigned)status, content_type, body, size,
                           exchange_can_keep(exchange));
}

struct file_answer {
    int fd;
    uint64_t offset;
};

static ssize_t file_answer_read(void *context, uint64_t position, char *buffer, size_t size)
{
    struct file_answer *file = context;
    ssize_t got = pread(file->fd, buffer, size, (off_t)(file->offset + position));
    /* This is the loop's thread: what it will want next is fetched meanwhile. */
    posix_fadvise(file->fd, (off_t)(file->offset + position + size), FILE_AHEAD_SIZE,
                  POSIX_FADV_WILLNEED);
    /* The length was promised: an early end is as bad as an error, and breaks the connection. */
    return got > 0 ? got : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void file_answer_free(void *context)
{
    struct file_answer *file = context;
    close(file->fd);
    free(file);
}

static struct MHD_Response *file_response_new(int fd, uint64_t offset, uint64_t size,
                                              uint64_t total)
{
    struct file_answer *file = malloc(sizeof *file);
    struct MHD_Response *response = NULL;
    if (file != NULL) {
        *file = (struct file_answer){fd, offset};
        /* MHD's own response for a file reads 4 KiB at a time. */
        response = MHD_create_response_from_callback(size, FILE_BLOCK_SIZE, file_answer_read, file,
                                                     file_answer_free);
    }
    if (response == NULL) {
        close(fd);
        free(file);
        return NULL;
    }
    char range[96];
    snprintf(range, sizeof range, "bytes %llu-%llu/%llu", (unsigned long long)offset,
             (unsigned long long)(offset + size - 1), (unsigned long long)total);
    bool ok = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
                                      "application/octet-stream") == MHD_YES &&
              (total <= size || size == 0 ||
               MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_RANGE, range) == MHD_YES);
    if (ok)
        return response;
    MHD_destroy_response(response);
    return NULL;
}

void repl_exchange_respond_file(struct repl_exchange *exchange, int status, int fd, uint64_t offset,
                                uint64_t size, uint64_t total)
{
    ensure(!exchange->answered);
    if (total > size && status == MHD_HTTP_OK)
        status = MHD_HTTP_PARTIAL_CONTENT;
    exchange_answer(exchange, (unsigned)status, file_response_new(fd, offset, size, total));
}
