/*
 * What a request asks for: its method, its path, and the headers that say which
 * bytes are meant (docs/formats/wire.md). Private to site/.
 */
#ifndef REPL_AGENT_SITE_ASK_H
#define REPL_AGENT_SITE_ASK_H

#include "format/wire.h"
#include "store/store.h"

enum site_request_kind {
    SITE_REQUEST_HELLO,
    SITE_REQUEST_REPORT,
    SITE_REQUEST_UPLOAD,
    SITE_REQUEST_AHEAD,
    SITE_REQUEST_SUPPLY,
    SITE_REQUEST_VOLUMES,
    SITE_REQUEST_POINTS,
    SITE_REQUEST_TIMELINE,
    SITE_REQUEST_SEGMENTS,
    SITE_REQUEST_SEGMENT,
    SITE_REQUEST_SUPPLIES,
    SITE_REQUEST_DIGESTS,
    SITE_REQUEST_MARK,
    SITE_REQUEST_MARKS,
    SITE_REQUEST_VERIFIED,
    SITE_REQUEST_CHUNKS,
    SITE_REQUEST_SLICES,
    SITE_REQUEST_TAILS,
    SITE_REQUEST_POOL,
    SITE_REQUEST_RESEND,
    SITE_REQUEST_DAMAGED,
};

struct site_ask {
    enum site_request_kind kind;
    char name[REPL_VOLUME_NAME_SIZE + 1]; /* of the volume; "": none is meant */
    struct repl_segment_id id;
    uint64_t first_page; /* digests */
    uint32_t page_count;
    uint64_t after;  /* points, pool */
    uint64_t offset; /* Repl-Offset */
};

/* path: decoded, no query. offset: the header Repl-Offset; NULL: there is none. 0, or the HTTP
 * status of a refusal, with its words in *refusal. */
int site_ask_parse(const char *method, const char *path, const char *offset, struct site_ask *out,
                   struct repl_refusal *refusal);

/* The header Range, "bytes=A-B", "bytes=A-" or "bytes=-N", of a file of total bytes: one range, cut
 * to what is there. False: none of it is. */
bool site_range_parse(const char *text, uint64_t total, uint64_t *offset, uint64_t *size);

#endif
