/*
 * One connection, and who is at its other end.
 *
 * Until the handler has found the peer's key welcome it is a stranger. Strangers
 * cost a connection and a TLS session each, whatever they do or leave undone, so
 * there are never many: each has a time from its coming, not from its last byte;
 * one address may have a few; and where there are many, of one address or of
 * all, the oldest makes room for the next. The next is never turned away: it may
 * be a host whose key is known, behind the same address, and that one is through
 * within a few round trips.
 *
 * One that has to go has its socket shut down, which MHD takes for the peer's
 * leaving. One whose host is gone without a word is found by keepalive, known or
 * not; the connection of a host that was cut off does not keep a place for long.
 */
#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <syslog.h>

#include "base/ensure.h"
#include "control/control.h"
#include "link/pulse.h"
#include "site/listen/listener_internal.h"

#define STRANGER_TIME_MS_DEFAULT           10000u
#define STRANGER_LIMIT_PER_ADDRESS_DEFAULT 16u
#define LOGGED_AGAIN_NS                    (INT64_C(60) * 1000000000)

/* --- the peer -------------------------------------------------------------------------------- */

static void remote_format(const struct sockaddr *address, char text[REMOTE_TEXT_SIZE])
{
    char host[64], port[8];
    socklen_t size =
        address->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    if (getnameinfo(address, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        snprintf(text, REMOTE_TEXT_SIZE, "unknown");
        return;
    }
    static const char mapped[] = "::ffff:"; /* an IPv4 peer on a socket for both */
    const char *name = host;
    if (strncmp(host, mapped, sizeof mapped - 1) == 0 && strchr(host, '.') != NULL)
        name += sizeof mapped - 1;
    snprintf(text, REMOTE_TEXT_SIZE, strchr(name, ':') != NULL ? "[%s]:%s" : "%s:%s", name, port);
}

gnutls_session_t connection_session(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    ensure(info != NULL);
    return (gnutls_session_t)info->tls_session;
}

/* The SHA-256 of the SubjectPublicKeyInfo of the peer's certificate, whose private key TLS 1.3 has
 * made it prove. False: it showed none, or one that cannot be read. */
static bool peer_fingerprint(gnutls_session_t session, struct repl_digest *out)
{
    unsigned count = 0;
    const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &count);
    if (chain == NULL || count == 0)
        return false;
    gnutls_x509_crt_t certificate = NULL;
    gnutls_pubkey_t key = NULL;
    gnutls_datum_t der = {NULL, 0};
    bool ok =
        gnutls_x509_crt_init(&certificate) == GNUTLS_E_SUCCESS &&
        gnutls_x509_crt_import(certificate, &chain[0], GNUTLS_X509_FMT_DER) == GNUTLS_E_SUCCESS &&
        gnutls_pubkey_init(&key) == GNUTLS_E_SUCCESS &&
        gnutls_pubkey_import_x509(key, certificate, 0) == GNUTLS_E_SUCCESS &&
        gnutls_pubkey_export2(key, GNUTLS_X509_FMT_DER, &der) == GNUTLS_E_SUCCESS;
    size_t size = sizeof out->bytes;
    ok = ok && gnutls_fingerprint(GNUTLS_DIG_SHA256, &der, out->bytes, &size) == GNUTLS_E_SUCCESS &&
         size == sizeof out->bytes;
    gnutls_free(der.data);
    if (key != NULL)
        gnutls_pubkey_deinit(key);
    if (certificate != NULL)
        gnutls_x509_crt_deinit(certificate);
    return ok;
}

void door_identify(struct door *door, struct MHD_Connection *connection)
{
    if (door->identified)
        return;
    door->identified = true;
    door->has_peer = peer_fingerprint(connection_session(connection), &door->peer);
}

/* What counts as one address: of IPv6, the network, in which anybody has 2^64 of them. */
static void address_key(const struct sockaddr *address, uint8_t key[16])
{
    memset(key, 0, 16);
    if (address->sa_family == AF_INET) {
        memcpy(key, &((const struct sockaddr_in *)(const void *)address)->sin_addr, 4);
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *in6 =
            &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(in6))
            memcpy(key, in6->s6_addr + 12, 4);
        else
            memcpy(key + 8, in6->s6_addr, 8);
    }
}

/* --- strangers ------------------------------------------------------------------------------- */

static void stranger_remove(struct door *door)
{
    struct repl_listener *listener = door->listener;
    if (!door->stranger)
        return;
    door->stranger = false;
    listener->stranger_count--;
    *(door->previous != NULL ? &door->previous->next : &listener->strangers) = door->next;
    *(door->next != NULL ? &door->next->previous : &listener->strangers_last) = door->previous;
    if (listener->strangers == NULL)
        repl_timer_cancel(&listener->stranger_timer);
}

static void stranger_add(struct door *door)
{
    struct repl_listener *listener = door->listener;
    door->stranger = true;
    door->expires_ns = repl_now_mono_ns() + listener->stranger_time_ns;
    door->previous = listener->strangers_last;
    *(door->previous != NULL ? &door->previous->next : &listener->strangers) = door;
    listener->strangers_last = door;
    listener->stranger_count++;
    if (listener->strangers == door)
        repl_timer_arm(listener->loop, &listener->stranger_timer, door->expires_ns);
}

static void stranger_expel(struct door *door)
{
    stranger_remove(door);
    shutdown(door->fd, SHUT_RDWR);
}

/* One line a minute, however often there is a reason. */
static bool log_is_due(int64_t *logged_ns)
{
    int64_t now_ns = repl_now_mono_ns();
    if (*logged_ns != 0 && now_ns - *logged_ns < LOGGED_AGAIN_NS)
        return false;
    *logged_ns = now_ns;
    return true;
}

/* For another one's sake. */
static void stranger_replace(struct door *door)
{
    if (log_is_due(&door->listener->replaced_logged_ns))
        repl_log(LOG_WARNING,
                 "connections were closed before they showed a known key, as newer ones came: the "
                 "last from %s. If hosts cannot get through, see what connects from there",
                 door->remote);
    stranger_expel(door);
}

static void strangers_due(struct repl_timer *timer)
{
    struct repl_listener *listener = timer->context;
    while (listener->strangers != NULL && listener->strangers->expires_ns <= repl_now_mono_ns())
        stranger_expel(listener->strangers);
    if (listener->strangers != NULL)
        repl_timer_arm(listener->loop, timer, listener->strangers->expires_ns);
}

void doors_init(struct repl_listener *listener, const struct repl_listener_options *options)
{
    listener->connection_limit = or_default(options->connection_limit, CONNECTION_LIMIT_DEFAULT);
    listener->stranger_limit = listener->connection_limit / 2 + 1;
    listener->stranger_limit_per_address =
        or_default(options->stranger_limit_per_address, STRANGER_LIMIT_PER_ADDRESS_DEFAULT);
    listener->stranger_time_ns =
        or_default(options->stranger_time_ms, STRANGER_TIME_MS_DEFAULT) * NS_PER_MS;
    listener->stranger_timer = (struct repl_timer){.fire = strangers_due, .context = listener};
}

void door_make_room(struct repl_listener *listener, const struct sockaddr *address)
{
    uint8_t key[16];
    unsigned same = 0;
    struct door *oldest = NULL;
    address_key(address, key);
    for (struct door *door = listener->strangers; door != NULL; door = door->next) {
        if (memcmp(door->address, key, sizeof key) != 0)
            continue;
        if (same++ == 0)
            oldest = door;
    }
    if (oldest != NULL && same >= listener->stranger_limit_per_address)
        stranger_replace(oldest);
    else if (listener->strangers != NULL && listener->stranger_count >= listener->stranger_limit)
        stranger_replace(listener->strangers);
}

/* --- doors ----------------------------------------------------------------------------------- */

struct door *door_new(struct repl_listener *listener, struct MHD_Connection *connection)
{
    struct door *door = calloc(1, sizeof *door);
    if (door == NULL)
        return NULL;
    door->listener = listener;
    listener->handshaking++;
    listener->connection_count++;
    /* MHD accepts no more then, and says nothing. */
    if (listener->connection_count == listener->connection_limit &&
        log_is_due(&listener->full_logged_ns))
        repl_log(LOG_WARNING,
                 "all %u connections are in use: what comes now waits for one to end. If these are "
                 "hosts of yours, raise [site] connections",
                 listener->connection_limit);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    remote_format(info->client_addr, door->remote);
    address_key(info->client_addr, door->address);
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    door->fd = info->connect_fd;
    link_pulse_keep(door->fd);
    stranger_add(door);
    return door;
}

void door_close(struct door *door)
{
    stranger_remove(door);
    door->listener->connection_count--;
    if (!door->asked)
        door->listener->handshaking--;
    /* Left over only where MHD drops a connection without ending its request. */
    if (door->exchange != NULL)
        exchange_close(door->exchange, false);
    free(door);
}

void door_trust(struct door *door)
{
    stranger_remove(door);
}
