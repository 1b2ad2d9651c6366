/*
 * One HTTP exchange through libcurl: what client.c (multi interface, on the
 * loop) and fetcher.c (easy interface, blocking) have in common. Not for the
 * rest of the program.
 */
#ifndef REPL_AGENT_TRANSFER_H
#define REPL_AGENT_TRANSFER_H

#include <curl/curl.h>
#include <stdbool.h>

#include "link/client.h"

#define LINK_HOST_SIZE    256u
#define LINK_PORT_SIZE    6u
#define LINK_ADDRESS_SIZE (LINK_HOST_SIZE + LINK_PORT_SIZE + 4u)
/* Every byte of a path may become three. */
#define LINK_URL_SIZE (sizeof "https://" + LINK_ADDRESS_SIZE + 3u * 512u)

/* "host:port" or "[v6]:port" into its parts, the host without brackets. */
REPL_RESULT link_address_split(const char *text, char host[LINK_HOST_SIZE],
                               char port[LINK_PORT_SIZE], struct repl_error *err);

/* --- the other side, and how to be sure of it ------------------------------------------------ */

struct link_site {
    char address[LINK_ADDRESS_SIZE];
    char *pem; /* our key and certificate */
    struct repl_digest fingerprint;
    char pin[64]; /* the same for CURLOPT_PINNEDPUBLICKEY */
    unsigned connect_timeout_ms;
    unsigned stall_timeout_ms;
    unsigned silence_timeout_ms;
};

REPL_RESULT link_site_init(struct link_site *site, const struct repl_client_options *options,
                           struct repl_error *err);
void link_site_fini(struct link_site *site);

/* --- one exchange ---------------------------------------------------------------------------- */

struct link_transfer_spec {
    const char *method;
    const char *path;
    const char *range; /* NULL or "": none */
    int64_t offset;    /* < 0: none */
    const void *body;
    size_t body_size;
    curl_read_callback read_body; /* not NULL: instead of body; gets read_context */
    void *read_context;
    size_t response_limit;     /* 0: 1 MiB */
    unsigned stall_timeout_ms; /* 0: the site's */
};

struct link_transfer {
    const struct link_site *site;
    CURL *easy;
    void (*on_header)(struct link_transfer *transfer); /* a line of the answer is here; or NULL */
    struct curl_slist *headers;
    char curl_text[CURL_ERROR_SIZE];

    char *response; /* NULL: nothing came */
    size_t response_size, response_room, response_limit;
    bool response_too_large;
    bool out_of_memory;

    int64_t sent_ns;     /* connected, key proven, the request's first byte about to be sent */
    int64_t answered_ns; /* the answer's first byte was here */

    int64_t moved_ns; /* when a byte last moved, as far as we looked */
    uint64_t moved;   /* the counters at that time */
    unsigned stall_timeout_ms;
    bool stalled;
    bool silent; /* set by who looks for it: the other end is gone */
};

/* easy is fresh or reset; it must be cleaned up, or reset, before fini. */
REPL_RESULT link_transfer_init(struct link_transfer *transfer, const struct link_site *site,
                               CURL *easy, const struct link_transfer_spec *spec,
                               struct repl_error *err);
void link_transfer_fini(struct link_transfer *transfer);

/* Looks whether bytes moved since the last look; unsent: of the socket's queue. True, and
 * transfer->stalled, once none did for the whole stall timeout. */
bool link_transfer_look(struct link_transfer *transfer, int64_t now_ns, uint64_t unsent);
/* Starts the stall clock anew. */
void link_transfer_touch(struct link_transfer *transfer, int64_t now_ns);

/* What the end of the transfer means; success when there is an answer. */
REPL_RESULT link_transfer_result(const struct link_transfer *transfer, CURLcode code,
                                 struct repl_error *err);

#endif
