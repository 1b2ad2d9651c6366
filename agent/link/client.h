/*
 * HTTP/1.1 over TLS to one site, driven by the event loop (libcurl's multi
 * interface). The site is known by its public key's fingerprint, we by ours;
 * a site with another key is refused before a byte of the request is sent.
 */
#ifndef REPL_AGENT_CLIENT_H
#define REPL_AGENT_CLIENT_H

#include "link/keys.h"
#include "loop/loop.h"
#include "pace.h"

struct repl_client;

struct repl_client_options {
    const char *address;             /* "host:port", "[v6]:port" */
    const char *key_path;            /* our key file */
    struct repl_digest fingerprint;  /* of the site's key */
    unsigned connect_timeout_ms;     /* 0: 10 s */
    unsigned stall_timeout_ms;       /* no byte either way for so long ends a request; 0: 30 s */
    unsigned silence_timeout_ms;     /* not even an acknowledgement ends all requests; 0: 7 s */
    struct repl_pace_plan bandwidth; /* of all streamed bodies together; those under way share it
                                        evenly. By the clock of the host's time zone */
};

REPL_RESULT repl_client_new(struct repl_loop *loop, const struct repl_client_options *options,
                            struct repl_client **out, struct repl_error *err);
/* Cancels what is outstanding without calling back. */
void repl_client_free(struct repl_client *client);
/* Bytes a second that streamed bodies may take at this time of the day; 0: no limit. */
uint64_t repl_client_bandwidth(const struct repl_client *client);

struct repl_request;

/* The next bytes of the body. Returns how many were put into buffer (at most size), 0 at the
 * end, or REPL_BODY_PAUSE when there are none yet: repl_request_resume then asks again (which may
 * also happen unasked). A paused request is not a stalled one. It may start, resume and cancel
 * requests, its own too, but not free the client. */
#define REPL_BODY_PAUSE ((size_t)-1)
typedef size_t repl_body_fn(struct repl_request *request, void *buffer, size_t size);

/* result: success when the site answered at all, whatever the status. From the beginning of this
 * call on the struct belongs to the caller again; it may start it anew, or free the client.
 * response is NUL-terminated beyond its size. A site that refuses a streamed body answers before
 * its end: the rest is then not asked for. */
typedef void repl_response_fn(struct repl_request *request, repl_result result,
                              const struct repl_error *err);

struct repl_request {
    /* set by the caller, who zeroes the struct before its first use */
    const char *method; /* "GET", "PUT", "POST" */
    char path[512];   /* "/v1/volumes/data/hello": as the site shall see it, no escapes, no query */
    char range[64];   /* "" or "0-1023": a Range header */
    int64_t offset;   /* >= 0: a Repl-Offset header */
    const void *body; /* a body known at once, which must stay until done; or */
    size_t body_size;
    repl_body_fn *read_body;   /* one that is produced as it is sent (chunked coding) */
    size_t response_limit;     /* more is an error; 0: 1 MiB */
    unsigned stall_timeout_ms; /* 0: the client's */
    repl_response_fn *done;
    void *context;
    /* the answer, valid within done */
    int status;
    char *response;
    size_t response_size;
    int64_t round_trip_ns; /* from the first byte of the request sent to the answer's first byte */
    /* private */
    struct repl_client *client;
    void *impl;
};

/* Starts it. Never calls back from within. */
REPL_RESULT repl_request_start(struct repl_client *client, struct repl_request *request,
                               struct repl_error *err);
/* May be called at any time, from within read_body too. */
void repl_request_resume(struct repl_request *request);
/* Ends it without calling back. A request that is not under way is left alone. */
void repl_request_cancel(struct repl_request *request);

/* --- for programs without a loop: one blocking exchange on a connection of its own ----------- */

struct repl_fetcher; /* keeps its connection between calls; one thread at a time */

REPL_RESULT repl_fetcher_new(const struct repl_client_options *options, struct repl_fetcher **out,
                             struct repl_error *err);
void repl_fetcher_free(struct repl_fetcher *fetcher);

/* One request with a body known at once. *response is malloc'ed, NUL-terminated beyond its size,
 * freed by the caller. range may be NULL. Success when the site answered at all. */
REPL_RESULT repl_fetch(struct repl_fetcher *fetcher, const char *method, const char *path,
                       const char *range, const void *body, size_t body_size, size_t response_limit,
                       int *status, char **response, size_t *response_size, struct repl_error *err);
/* Of the program that gave the last answer; "": it did not say. Until the next call. */
const char *repl_fetcher_version(const struct repl_fetcher *fetcher);

#endif
