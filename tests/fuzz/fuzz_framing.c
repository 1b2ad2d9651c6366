/*
 * Which bytes count as an HTTP request: any bytes go through libmicrohttpd, with the site's own
 * check in its first call, as agent/site/listen/ has it. What is accepted is read once more here,
 * by the letter, and both must see the same request, with the same headers, and the same end of it:
 * where two readers differ, one request can hide another.
 */
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/ensure.h"
#include "site/listen/framing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define INPUT_SIZE_MAX (32u << 10)
#define ROUNDS_MAX     1000

static struct MHD_Daemon *daemon_here;
static struct MHD_Response *response;
static const char *rest, *rest_end; /* of the input, behind the requests that are through */
static bool uri_bad, over, closed;
static size_t uri_size;
static struct framing framing; /* of the present request */
static uint64_t body_size;     /* what has come */

/* --- the other reader ------------------------------------------------------------------------ */

/* The line at *at, without its end. That is CRLF, and behind the last one twice CRLF; what a NUL or
 * a colon can make of it is known (framing.c). */
static const char *line_take(const char **at, size_t *size, bool last)
{
    const char *line = *at, *end = line;
    size_t end_size = last ? 4 : 2;
    while (end < rest_end && *end != '\r' && *end != '\n' && *end != '\0')
        end++;
    ensure(end > line && (size_t)(rest_end - end) >= end_size && end[end_size - 1] == '\n');
    if (memchr(end, '\0', end_size) == NULL && memchr(end, ':', end_size) == NULL)
        ensure(memcmp(end, "\r\n\r\n", end_size) == 0);
    *size = (size_t)(end - line);
    *at = end + end_size;
    return line;
}

static void headers_check(struct MHD_Connection *connection, const char **at, int count)
{
    static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    uint64_t announced = 0;
    size_t size;
    for (; count > 0; count--) {
        const char *line = line_take(at, &size, count == 1);
        char *copy = strndup(line, size);
        ensure(copy != NULL);
        size_t name_size = strspn(copy, token);
        ensure(name_size > 0 && copy[name_size] == ':' && copy[name_size + 1] == ' ');
        copy[name_size] = '\0';
        const char *value = copy + name_size + 2;
        const char *known = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, copy);
        ensure(known != NULL && strcmp(known, value) == 0);
        if (strcasecmp(copy, "Content-Length") == 0) {
            ensure(value[0] != '\0' && value[strspn(value, "0123456789")] == '\0');
            announced = strtoull(value, NULL, 10);
        } else if (strcasecmp(copy, "Transfer-Encoding") == 0) {
            ensure(strcasecmp(value, "chunked") == 0);
            announced = FRAMING_BODY_UNKNOWN;
        }
        free(copy);
    }
    ensure(framing.body_size == announced);
}

static void path_check(const char *path)
{
    ensure(path[0] == '/');
    for (const char *c = path; *c != '\0'; c++)
        ensure((unsigned char)*c >= ' ' && *c != 0x7f);
}

/* Empty lines before a request belong to none; to MHD a line is empty that begins with a NUL. */
static void empty_skip(void)
{
    while (rest < rest_end && (*rest == '\0' || *rest == '\r' || *rest == '\n')) {
        const char *end = memchr(rest, '\n', (size_t)(rest_end - rest));
        if (end == NULL || (*rest == '\r' && end != rest + 1))
            return;
        rest = end + 1;
    }
}

static void request_check(struct MHD_Connection *connection, const char *method, const char *path)
{
    size_t size;
    empty_skip();
    int count = MHD_get_connection_values(connection, MHD_HEADER_KIND, NULL, NULL);
    const char *line = line_take(&rest, &size, count == 0);
    size_t method_size = strlen(method);
    ensure(size == method_size + 1 + uri_size + 1 + strlen("HTTP/1.1"));
    ensure(memcmp(line, method, method_size) == 0 && line[method_size] == ' ');
    ensure(memchr(line + method_size + 1, ' ', uri_size) == NULL);
    ensure(memcmp(line + method_size + 1 + uri_size, " HTTP/1.1", 9) == 0);
    headers_check(connection, &rest, count);
    path_check(path);
}

/* --- MHD's calls ----------------------------------------------------------------------------- */

static void *on_uri(void *context, const char *uri, struct MHD_Connection *connection)
{
    (void)context, (void)connection;
    uri_size = strlen(uri);
    uri_bad = !framing_uri_acceptable(uri);
    return NULL;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **state)
{
    (void)context, (void)data;
    if (over)
        return MHD_NO;
    if (*state == NULL) {
        *state = &framing;
        framing = framing_check(connection, method, uri_size, version);
        ensure((framing.wrong != NULL) == (framing.status != 0));
        body_size = 0;
        if (framing.wrong == NULL && !uri_bad) {
            request_check(connection, method, url);
            return MHD_YES;
        }
        over = true; /* the connection ends with a refusal */
        return MHD_NO;
    }
    if (*size > 0) {
        body_size += *size;
        *size = 0;
        return MHD_YES;
    }
    if (framing.body_size == FRAMING_BODY_UNKNOWN) {
        over = true; /* where its end is, MHD decides */
        return MHD_NO;
    }
    ensure(body_size == framing.body_size && body_size <= (size_t)(rest_end - rest));
    rest += body_size;
    return MHD_queue_response(connection, MHD_HTTP_NO_CONTENT, response);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    (void)context, (void)connection, (void)socket_context;
    closed = code == MHD_CONNECTION_NOTIFY_CLOSED;
}

static void leave(void)
{
    MHD_destroy_response(response);
    MHD_stop_daemon(daemon_here);
}

static void enter(void)
{
    daemon_here =
        MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, NULL,
                         MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                         (size_t)(64u << 10), MHD_OPTION_NOTIFY_CONNECTION, on_connection, NULL,
                         MHD_OPTION_URI_LOG_CALLBACK, on_uri, NULL, MHD_OPTION_END);
    response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    ensure(daemon_here != NULL && response != NULL && atexit(leave) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int ends[2];
    if (size > INPUT_SIZE_MAX)
        return 0;
    if (daemon_here == NULL)
        enter();
    rest = (const char *)data;
    rest_end = rest + size;
    over = closed = false;
    ensure(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    ensure(send(ends[0], data, size, MSG_NOSIGNAL) == (ssize_t)size);
    ensure(shutdown(ends[0], SHUT_WR) == 0);
    ensure(MHD_add_connection(daemon_here, ends[1], (const struct sockaddr *)(const void *)&address,
                              sizeof address) == MHD_YES);
    for (int i = 0; i < ROUNDS_MAX && !closed; i++)
        ensure(MHD_run(daemon_here) == MHD_YES);
    close(ends[0]);
    for (int i = 0; i < ROUNDS_MAX && !closed; i++)
        ensure(MHD_run(daemon_here) == MHD_YES);
    ensure(closed);
    return 0;
}
