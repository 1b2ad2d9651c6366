/*
 * What the files of the listener know of each other: listener.c listens and
 * drives libmicrohttpd (MHD), door.c is one connection and who is at its other
 * end, exchange.c the life of one request, framing.c decides whether it is one.
 */
#ifndef REPL_AGENT_LISTENER_INTERNAL_H
#define REPL_AGENT_LISTENER_INTERNAL_H

#include <gnutls/gnutls.h>
#include <microhttpd.h>

#include "site/listen/listener.h"

#define NS_PER_MS        1000000ll
#define REMOTE_TEXT_SIZE 80

#define CONNECTION_LIMIT_DEFAULT 256u

/* One connection: what outlives its exchanges. */
struct door {
    struct repl_listener *listener;
    struct repl_exchange *exchange;
    bool asked;      /* a request has come; until then it counts as handshaking */
    bool identified; /* peer was looked for */
    bool has_peer;
    struct repl_digest peer;
    char remote[REMOTE_TEXT_SIZE];
    int fd;
    /* as long as the handler has not said that the peer is welcome */
    bool stranger;
    struct door *previous, *next; /* in the order of their coming */
    int64_t expires_ns;
    uint8_t address[16];
};

enum exchange_state {
    EXCHANGE_HEADERS,
    EXCHANGE_BODY,
    EXCHANGE_WAITING,
    EXCHANGE_DRAINING,
    EXCHANGE_REPLYING,
};

struct repl_exchange {
    struct repl_listener *listener;
    struct repl_exchange *previous, *next;
    struct MHD_Connection *connection;
    struct door *door;
    void *context;

    enum exchange_state state;
    bool told;      /* the handler knows of it */
    bool answered;  /* respond was called, or we refused it ourselves */
    bool beginning; /* within MHD's first call */
    bool paused;    /* by the handler */
    bool suspended; /* at MHD */

    const char *method, *path; /* MHD's memory */
    size_t uri_size;
    bool uri_bad;
    bool expects_continue;
    uint64_t body_size; /* announced; FRAMING_BODY_UNKNOWN: chunked */

    struct MHD_Response *response; /* to be queued when MHD takes it */
    unsigned status;
    bool sent_early; /* written by ourselves; the connection ends with this exchange */
    bool broken;     /* the same, but it did not go out */
    uint64_t drained;
    int64_t drain_until_ns;
};

struct repl_listener {
    struct repl_loop *loop;
    struct MHD_Daemon *daemon;
    const struct repl_exchange_handler *handler;
    void *owner;
    struct repl_exchange *exchanges; /* all that live */
    struct repl_poll poll;
    struct repl_timer timer;
    unsigned port;
    bool driving;
    bool woken; /* an exchange was resumed since MHD last ran */
    bool closing;
    struct door *strangers, *strangers_last;
    unsigned stranger_count, stranger_limit, stranger_limit_per_address;
    int64_t stranger_time_ns;
    struct repl_timer stranger_timer;
    int64_t replaced_logged_ns;
    unsigned connection_count, connection_limit;
    int64_t full_logged_ns;
    unsigned handshaking; /* connections that have not sent a request yet */
    uint64_t calls;       /* of MHD to us */
    char log[256];        /* what MHD last complained of while starting */
};

gnutls_session_t connection_session(struct MHD_Connection *connection);

static inline unsigned or_default(unsigned value, unsigned fallback)
{
    return value != 0 ? value : fallback;
}

void doors_init(struct repl_listener *listener, const struct repl_listener_options *options);
/* For one more stranger from there; an older one may have to go. */
void door_make_room(struct repl_listener *listener, const struct sockaddr *address);
/* NULL: out of memory. */
struct door *door_new(struct repl_listener *listener, struct MHD_Connection *connection);
void door_close(struct door *door);
/* The peer is welcome. */
void door_trust(struct door *door);
/* Finds out whose key it is, once; not before a request has come. */
void door_identify(struct door *door, struct MHD_Connection *connection);

/* A suspended exchange was resumed: MHD must run. */
void listener_wake(struct repl_listener *listener);

struct repl_exchange *exchange_new(struct repl_listener *listener, struct door *door,
                                   struct MHD_Connection *connection);
/* Tells the handler and frees it. */
void exchange_close(struct repl_exchange *exchange, bool sent_by_mhd);
void exchange_wake(struct repl_exchange *exchange);

/* MHD's calls for one request: the headers, the body in pieces, the end. */
enum MHD_Result exchange_begin(struct repl_exchange *exchange, const char *url, const char *method,
                               const char *version);
enum MHD_Result exchange_body(struct repl_exchange *exchange, const char *data, size_t *size);
enum MHD_Result exchange_end(struct repl_exchange *exchange);

#endif
