/*
 * Is it a request at all? What libmicrohttpd lets through that could be read in
 * two ways is refused here, before anybody acts on it.
 */
#ifndef REPL_AGENT_FRAMING_H
#define REPL_AGENT_FRAMING_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAMING_BODY_UNKNOWN UINT64_MAX

struct framing {
    /* where it is refused: the answer */
    unsigned status;
    const char *wrong; /* a line of text; NULL: nothing is wrong */
    /* where it is not */
    uint64_t body_size; /* announced; FRAMING_BODY_UNKNOWN: chunked */
    bool expects_continue;
};

/* uri as it came, escapes and query included. */
bool framing_uri_acceptable(const char *uri);

/* In libmicrohttpd's first call for a request. uri_size is that of the URI as it came. */
struct framing framing_check(struct MHD_Connection *connection, const char *method, size_t uri_size,
                             const char *version);

#endif
