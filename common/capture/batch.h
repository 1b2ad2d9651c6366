/*
 * A batch: up to 1 MiB of pages that were just read, reduced to what has to be
 * sent. One hashing pass serves the comparison with what the site holds, the
 * names of chunks, and the digests to remember; what is left over becomes one
 * compressed frame. Pure and self-contained: it runs on a worker while the loop
 * goes on.
 */
#ifndef REPL_CAPTURE_BATCH_H
#define REPL_CAPTURE_BATCH_H

#include "base/cursor.h"
#include "base/extent_map.h"
#include "base/hash.h"
#include "capture/digest_table.h"
#include "repl/error.h"
#include "repl/format.h"
#include "segment/frame.h"

#define REPL_BATCH_PAGES (REPL_FRAME_RAW_MAX / REPL_PAGE_SIZE)
/* What fits into one at least, where the run that fills it has to end where a chunk does. */
#define REPL_BATCH_PAGES_SURE (REPL_BATCH_PAGES - REPL_CHUNK_PAGES + 1)

/* A run of pages; its bytes come behind those of the runs before it. */
struct repl_batch_run {
    uint64_t page;
    uint32_t count;
};

/* A run of pages to be read now. */
struct repl_batch_read {
    uint64_t page;
    uint32_t count;
    uint32_t place; /* of the first among the batch's pages */
};

/* Whether the site is known to hold a chunk. Called on the worker. */
typedef bool repl_chunk_known_fn(void *context, const struct repl_digest *name);

struct repl_batch_reference {
    uint64_t offset; /* of a whole chunk in the volume */
    uint32_t place;  /* of its bytes among the batch's pages, in bytes */
    struct repl_digest name;
};

struct repl_batch_digest {
    uint64_t page;
    struct repl_page_digest digest;
};

/* Everything one worker needs, reused from batch to batch. */
struct repl_batch {
    /* in */
    struct repl_batch_run runs[REPL_BATCH_PAGES];
    uint32_t run_count;
    uint32_t page_count;
    uint64_t volume_size;
    unsigned level;                                 /* of the frame's compression */
    struct repl_page_digest held[REPL_BATCH_PAGES]; /* by the site, in the order of the pages */
    uint8_t *pages;                   /* their bytes, a page each; the volume's last may be short */
    repl_chunk_known_fn *chunk_known; /* NULL: no deduplication */
    void *chunk_context;

    /* out; extents' source is 0 (the frame) but for CHUNK, where it is a place in references */
    struct repl_extent extents[REPL_BATCH_PAGES];
    uint32_t extent_count;
    struct repl_batch_reference references[REPL_BATCH_PAGES / REPL_CHUNK_PAGES];
    uint32_t reference_count;
    struct repl_chunk_entry chunks[REPL_BATCH_PAGES / REPL_CHUNK_PAGES]; /* frame: 0 */
    uint32_t chunk_count;
    struct repl_batch_digest digests[REPL_BATCH_PAGES]; /* of the pages that are sent */
    uint32_t digest_count;
    bool has_frame;
    struct repl_frame_entry frame;                         /* offset: not yet */
    struct repl_buffer stored;                             /* the frame's bytes */
    struct repl_page_digest frame_pages[REPL_BATCH_PAGES]; /* of what the frame holds */
    bool frame_pages_fit; /* it is pages, one behind the other: only the last may be short */

    /* between a round and its shell (capture/round.h) */
    struct repl_batch_read reads[REPL_BATCH_PAGES];
    uint32_t read_count;
    bool parked; /* read, and kept until the round is closed or the next one opened */
    struct repl_batch *next_parked;

    /* private */
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_digest zero_page; /* the digest of a whole page of zeros */
    uint8_t *raw;
    size_t raw_size;
};

REPL_RESULT repl_batch_init(struct repl_batch *batch, struct repl_error *err);
void repl_batch_fini(struct repl_batch *batch);

/* Whatever was in it; also for one that was out when its round came to an end with all the rest. */
void repl_batch_clear(struct repl_batch *batch);
/* Adds a run as far as there is room, and has it read; returns how many pages fit. The caller then
 * fills held and pages. */
uint32_t repl_batch_add(struct repl_batch *batch, uint64_t page, uint64_t count);
/* How many bytes it is, as the volume's size cuts off the last page, and where they go to. */
size_t repl_batch_read_size(const struct repl_batch *batch, const struct repl_batch_read *read);
uint8_t *repl_batch_read_to(const struct repl_batch *batch, const struct repl_batch_read *read);

/* From in to out. */
REPL_RESULT repl_batch_reduce(struct repl_batch *batch, struct repl_error *err);

#endif
