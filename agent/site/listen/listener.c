/*
 * The site's front door.
 *
 * libmicrohttpd (MHD) runs without a thread of its own. Its epoll descriptor is
 * a repl_poll, its next deadline a repl_timer, and either ends in
 * listener_drive, which calls MHD_run until MHD has nothing left at hand.
 *
 * Who a peer is, its certificate's public key says; TLS 1.3 has made it prove
 * that it has the private one. Which keys are welcome is the handler's decision.
 *
 * Who has not been found welcome yet is a stranger (door.c), and has little time.
 *
 * Memory a peer can make us hold: POOL_SIZE a connection, and the TLS session.
 * GnuTLS hands out one record at a time, so the body comes in pieces of at most
 * 16 KiB however large the buffer is.
 */
#include "site/listen/listener_internal.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ensure.h"
#include "link/transfer.h"
#include "site/listen/framing.h"

#define IDLE_TIMEOUT_S_DEFAULT 60u
#define LISTEN_BACKLOG         128

#define POOL_SIZE          (64u << 10)
#define HANDSHAKE_SIZE_MAX (32u << 10) /* certificates: ours are below 1 KiB */
#define DRIVE_ROUNDS_MAX   64          /* then the loop's other work has its turn */
#define QUIET_ROUNDS_MAX   4
#define QUIET_WAIT_MS      10

/* TLS 1.3 alone; no tickets are issued, so every connection proves its key anew. */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3"

/* --- MHD's calls ----------------------------------------------------------------------------- */

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct repl_listener *listener = context;
    struct door *door = *socket_context;
    listener->calls++;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (door != NULL)
            door_close(door);
        *socket_context = NULL;
        return;
    }
    door = door_new(listener, connection);
    *socket_context = door;
    if (door == NULL)
        return;
    gnutls_session_t session = connection_session(connection);
    gnutls_handshake_set_max_packet_length(session, HANDSHAKE_SIZE_MAX);
    /* Our own certificate stands in for the list of issuers that MHD wants; no peer needs it. */
    gnutls_certificate_send_x509_rdn_sequence(session, 1);
}

/* Before a connection costs anything. */
static enum MHD_Result on_accept(void *context, const struct sockaddr *address, socklen_t size)
{
    (void)size;
    struct repl_listener *listener = context;
    if (listener->closing)
        return MHD_NO;
    door_make_room(listener, address);
    return MHD_YES;
}

/* The first that is heard of a request; its result is the exchange in MHD's later calls. From here
 * on MHD calls on_completed in every case. */
static void *on_uri(void *context, const char *uri, struct MHD_Connection *connection)
{
    (void)context;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct door *door = info->socket_context;
    if (door == NULL)
        return NULL;
    struct repl_listener *listener = door->listener;
    listener->calls++;
    if (!door->asked)
        listener->handshaking--;
    door->asked = true;
    struct repl_exchange *exchange = exchange_new(listener, door, connection);
    if (exchange == NULL)
        return NULL;
    exchange->uri_size = strlen(uri);
    exchange->uri_bad = !framing_uri_acceptable(uri);
    return exchange;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *size, void **exchange_context)
{
    (void)connection;
    struct repl_listener *listener = context;
    struct repl_exchange *exchange = *exchange_context;
    listener->calls++;
    if (exchange == NULL || listener->closing)
        return MHD_NO;
    if (exchange->state == EXCHANGE_HEADERS)
        return exchange_begin(exchange, url, method, version);
    if (*size > 0)
        return exchange_body(exchange, data, size);
    return exchange_end(exchange);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **exchange_context,
                         enum MHD_RequestTerminationCode code)
{
    (void)context, (void)connection;
    struct repl_exchange *exchange = *exchange_context;
    *exchange_context = NULL;
    if (exchange != NULL)
        exchange_close(exchange, code == MHD_REQUEST_TERMINATED_COMPLETED_OK);
}

__attribute__((format(printf, 2, 0))) static void on_log(void *context, const char *format,
                                                         va_list args)
{
    struct repl_listener *listener = context;
    if (listener->daemon != NULL) /* of single connections, that is their peers' concern */
        return;
    vsnprintf(listener->log, sizeof listener->log, format, args);
    listener->log[strcspn(listener->log, "\n")] = '\0';
}

/* --- driving MHD ----------------------------------------------------------------------------- */

/* Runs MHD once; returns in how many milliseconds it wants to run again, -1 for never. */
static int64_t daemon_run(struct repl_listener *listener)
{
    MHD_UNSIGNED_LONG_LONG wait_ms = 0;
    listener->woken = false;
    MHD_run(listener->daemon);
    if (listener->woken)
        return 0;
    return MHD_get_timeout(listener->daemon, &wait_ms) == MHD_YES ? (int64_t)wait_ms : -1;
}

/*
 * MHD says "at once" for as long as a TLS handshake waits for its peer: it does
 * not note that the socket has run dry then. So while one is under way, rounds
 * in which nothing happened are not repeated at once. Nothing is lost: what
 * comes in makes the epoll descriptor ready.
 */
static void listener_drive(struct repl_listener *listener)
{
    int64_t wait_ms = 0;
    int quiet = 0;
    listener->driving = true;
    for (int round = 0; round < DRIVE_ROUNDS_MAX && wait_ms == 0; round++) {
        uint64_t calls = listener->calls;
        wait_ms = daemon_run(listener);
        quiet = calls == listener->calls ? quiet + 1 : 0;
        if (wait_ms == 0 && listener->handshaking > 0 && quiet >= QUIET_ROUNDS_MAX)
            wait_ms = QUIET_WAIT_MS;
    }
    listener->driving = false;
    if (wait_ms >= 0)
        repl_timer_arm(listener->loop, &listener->timer, repl_now_mono_ns() + wait_ms * NS_PER_MS);
    else
        repl_timer_cancel(&listener->timer);
}

static void listener_ready(struct repl_poll *poll, unsigned events)
{
    (void)events;
    listener_drive(poll->context);
}

static void listener_due(struct repl_timer *timer)
{
    listener_drive(timer->context);
}

/* Without threads MHD neither wakes its epoll descriptor for a resumed connection nor counts it as
 * due. */
void listener_wake(struct repl_listener *listener)
{
    listener->woken = true;
    if (!listener->driving)
        repl_timer_arm(listener->loop, &listener->timer, 0);
}

/* --- opening and closing --------------------------------------------------------------------- */

static repl_result socket_bind(int fd, const struct addrinfo *address, const char *text,
                               struct repl_error *err)
{
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (address->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, LISTEN_BACKLOG) != 0)
        return repl_fail_errno(err, errno == EADDRINUSE ? REPL_E_LOCKED : REPL_E_IO, errno,
                               "cannot listen on %s", text);
    return REPL_SUCCESS;
}

static repl_result socket_open(const char *text, int *out, struct repl_error *err)
{
    char host[LINK_HOST_SIZE], port[LINK_PORT_SIZE];
    REPL_TRY(link_address_split(text, host, port, err));
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *address;
    int rc = getaddrinfo(host, port, &hints, &address);
    if (rc != 0)
        return repl_fail(err, REPL_E_USAGE, "cannot listen on %s: %s; check [site] listen", text,
                         gai_strerror(rc));
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    repl_result result =
        fd < 0 ? repl_fail_errno(err, REPL_E_IO, errno, "cannot make a socket for %s", text)
               : socket_bind(fd, address, text, err);
    freeaddrinfo(address);
    if (!repl_ok(result)) {
        if (fd >= 0)
            close(fd);
        return result;
    }
    *out = fd;
    return REPL_SUCCESS;
}

static unsigned socket_port(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    if (getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        return 0;
    /* Both kinds keep the port in the same place. */
    return ntohs(((struct sockaddr_in *)&address)->sin_port);
}

/* MHD owns the socket once this has succeeded. */
static repl_result daemon_start(struct repl_listener *listener,
                                const struct repl_listener_options *options, int fd,
                                const char *pem, struct repl_error *err)
{
    unsigned flags = MHD_USE_EPOLL | MHD_USE_TLS | MHD_USE_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    listener->daemon = MHD_start_daemon(
        flags, 0, on_accept, listener, on_request, listener, MHD_OPTION_EXTERNAL_LOGGER, on_log,
        listener, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_HTTPS_MEM_KEY, pem,
        MHD_OPTION_HTTPS_MEM_CERT, pem,
        /* Any: it makes MHD ask the peer for a certificate. Who may come in is not its decision. */
        MHD_OPTION_HTTPS_MEM_TRUST, pem, MHD_OPTION_HTTPS_PRIORITIES, TLS_PRIORITIES,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_SIZE,
        MHD_OPTION_CONNECTION_LIMIT, listener->connection_limit, MHD_OPTION_CONNECTION_TIMEOUT,
        or_default(options->idle_timeout_s, IDLE_TIMEOUT_S_DEFAULT), MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, listener, MHD_OPTION_URI_LOG_CALLBACK, on_uri, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
    if (listener->daemon == NULL)
        return repl_fail(err, REPL_E_INTERNAL, "cannot start TLS on %s with the key %s: %s",
                         options->address, options->key_path,
                         listener->log[0] != '\0' ? listener->log : "no reason given");
    return REPL_SUCCESS;
}

static repl_result listener_open(struct repl_listener *listener,
                                 const struct repl_listener_options *options,
                                 struct repl_error *err)
{
    char *pem;
    struct repl_digest own;
    int fd = -1;
    REPL_TRY(repl_key_load(options->key_path, &pem, &own, err));
    repl_result result = socket_open(options->address, &fd, err);
    if (repl_ok(result)) {
        listener->port = socket_port(fd);
        result = daemon_start(listener, options, fd, pem, err);
        if (!repl_ok(result))
            close(fd);
    }
    repl_key_wipe(pem); /* GnuTLS has its own copy */
    free(pem);
    return result;
}

repl_result repl_listener_new(struct repl_loop *loop, const struct repl_listener_options *options,
                              struct repl_listener **out, struct repl_error *err)
{
    *out = NULL;
    struct repl_listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory to listen on %s", options->address);
    listener->loop = loop;
    listener->handler = options->handler;
    listener->owner = options->owner;
    listener->poll = (struct repl_poll){.ready = listener_ready, .context = listener};
    listener->timer = (struct repl_timer){.fire = listener_due, .context = listener};
    doors_init(listener, options);
    repl_result result = listener_open(listener, options, err);
    if (!repl_ok(result)) {
        free(listener);
        return result;
    }
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(listener->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    ensure(info != NULL);
    repl_poll_start(loop, &listener->poll, info->epoll_fd, POLLIN);
    /* MHD puts the listening socket into its epoll set in its first run. */
    repl_timer_arm(loop, &listener->timer, 0);
    *out = listener;
    return REPL_SUCCESS;
}

void repl_listener_free(struct repl_listener *listener)
{
    if (listener == NULL)
        return;
    ensure(!listener->driving);
    listener->closing = true;
    repl_poll_stop(&listener->poll);
    /* MHD refuses to stop over suspended connections. */
    for (struct repl_exchange *exchange = listener->exchanges; exchange != NULL;
         exchange = exchange->next)
        exchange_wake(exchange);
    MHD_stop_daemon(listener->daemon);
    repl_timer_cancel(&listener->timer); /* the waking has armed it */
    repl_timer_cancel(&listener->stranger_timer);
    ensure(listener->exchanges == NULL);
    free(listener);
}

unsigned repl_listener_port(const struct repl_listener *listener)
{
    return listener->port;
}
