/*
 * The site's front door: TLS and HTTP/1.1 (libmicrohttpd on GnuTLS), driven by
 * the event loop, so that all of it runs on the loop's thread.
 *
 * It authenticates (which key speaks) and bounds (what a peer can make us hold);
 * what a request means is its handler's business. Requests whose framing could
 * be read in two ways (two Content-Length, Content-Length with
 * Transfer-Encoding, another coding than chunked) are refused with 400 and the
 * connection is closed. A peer without a certificate is refused.
 */
#ifndef REPL_AGENT_LISTENER_H
#define REPL_AGENT_LISTENER_H

#include <stdbool.h>

#include "link/keys.h"
#include "loop/loop.h"

struct repl_listener;
struct repl_exchange;

/* What a handler is told, in this order: begin; body, any number of times; then exactly one of
 * end (the request is complete and must be answered now or later) or nothing if it was answered
 * before; and last, always, closed, after which the exchange is gone. */
struct repl_exchange_handler {
    /* The headers are there. May answer at once, else sets repl_exchange_context. Whoever answers
     * before the end hears of nothing but closed any more: a body of up to 64 KiB is read away,
     * with a longer one the answer (at most 32 KiB) goes out at once and the connection ends. */
    void (*begin)(void *owner, struct repl_exchange *exchange);
    /* Bytes of the body, at most 16 KiB (a TLS record) at a time, which the handler must take
     * whole. To slow the peer down it calls repl_exchange_pause and, later, repl_exchange_resume;
     * in between there is neither body nor end. */
    void (*body)(void *owner, struct repl_exchange *exchange, const void *data, size_t size);
    void (*end)(void *owner, struct repl_exchange *exchange);
    /* complete: the answer went out whole, as far as this end can know. A peer that leaves while
     * its exchange is suspended is noticed only when it is resumed or answered. */
    void (*closed)(void *owner, struct repl_exchange *exchange, bool complete);
};

struct repl_listener_options {
    const char *address; /* "0.0.0.0:7420", "[::]:7420"; port 0: any, see repl_listener_port */
    const char *key_path;
    unsigned connection_limit; /* those that come beyond it wait, at most; 0: 256 */
    unsigned idle_timeout_s;   /* 0: 60; a suspended exchange does not count as idle */
    /* Of peers for which repl_exchange_trust was not called: how long a connection lasts, 0: 10 s,
     * and how many one address may have, 0: 16. All of them have half of the connections. */
    unsigned stranger_time_ms;
    unsigned stranger_limit_per_address;
    const struct repl_exchange_handler *handler;
    void *owner; /* first argument of the handler's calls */
};

REPL_RESULT repl_listener_new(struct repl_loop *loop, const struct repl_listener_options *options,
                              struct repl_listener **out, struct repl_error *err);
/* Closes every connection; each exchange still gets its closed call, in which it must not be
 * answered any more. Not from within a handler's call. NULL does nothing. */
void repl_listener_free(struct repl_listener *listener);
unsigned repl_listener_port(const struct repl_listener *listener);

/* --- what a handler asks and says ------------------------------------------------------------ */

const char *repl_exchange_method(const struct repl_exchange *exchange);
/* Decoded, no query; begins with '/', and has no control character. ".." may be in it. */
const char *repl_exchange_path(const struct repl_exchange *exchange);
/* NULL if absent. Names are compared without case; no header occurs twice. */
const char *repl_exchange_header(const struct repl_exchange *exchange, const char *name);
/* The peer's key, proven by the TLS handshake. */
const struct repl_digest *repl_exchange_peer(const struct repl_exchange *exchange);
/* The peer is known: its connection may stay. */
void repl_exchange_trust(struct repl_exchange *exchange);
/* "203.0.113.7:51234", for logs. */
const char *repl_exchange_remote(const struct repl_exchange *exchange);

void repl_exchange_set_context(struct repl_exchange *exchange, void *context);
void *repl_exchange_context(const struct repl_exchange *exchange);

void repl_exchange_pause(struct repl_exchange *exchange);
void repl_exchange_resume(struct repl_exchange *exchange);

/* Answers, from within a call or later (an exchange that waits for its answer is suspended by
 * itself). body is copied. content_type NULL: application/octet-stream. Answering twice is an
 * assertion. */
void repl_exchange_respond(struct repl_exchange *exchange, int status, const char *content_type,
                           const void *body, size_t size);
/* Answers with size bytes of fd from offset (status 200 becomes 206 with Content-Range when
 * total > size). Takes over fd and closes it. A file that turns out too short breaks the
 * connection. Not before the end of a request with a body beyond 64 KiB. */
void repl_exchange_respond_file(struct repl_exchange *exchange, int status, int fd, uint64_t offset,
                                uint64_t size, uint64_t total);

#endif
