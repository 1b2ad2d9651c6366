/*
 * Reads back what an earlier run of the agent left in a volume's spool, so that
 * it can be sent instead of being read and compressed again.
 *
 * Nothing in the spool has been synced, and a power cut may have left any part
 * of it: every file is checked down to its last byte, and only an unbroken chain
 * is taken, from the segment on that the site has to be sent next. A segment that
 * names chunks is whole only with the bytes of all of them beside it (supply.h).
 * What does not belong to the chain is removed.
 */
#ifndef REPL_AGENT_SPOOL_LOAD_H
#define REPL_AGENT_SPOOL_LOAD_H

#include "base/cursor.h"
#include "repl/error.h"
#include "repl/format.h"

struct repl_spool_segment {
    uint64_t number;
    struct repl_segment_header header;
    struct repl_digest digest;
    uint64_t size_bytes;
    uint64_t volume_size;
    uint64_t raw_bytes; /* data in its frames */
    bool has_point;
    struct repl_point point;
    /* struct repl_batch_digest, one for each page the segment speaks of, in order: what a digest
     * table is told as sent. */
    struct repl_buffer digests;
    /* struct repl_digest each: names of the chunks it carries, and of those that are held beside
     * it, in the order in which they lie there. */
    struct repl_buffer carried, held;
};

struct repl_spool_load_options {
    int dir_fd;
    struct repl_uuid volume;
    uint64_t lineage;
    struct repl_digest prev;   /* what the first segment has to follow */
    uint64_t volume_size_max;  /* one of a larger volume ends the chain */
    unsigned threads;          /* how many files are read at once; 3 MiB each */
    uint64_t digest_bytes_max; /* of all segments together; the chain ends before it has more */
};

struct repl_spool_load {
    struct repl_spool_segment *segments; /* the oldest first */
    size_t segment_count;
    size_t removed_count; /* segments of the chain: a broken one, and all behind it */
    /* Why, for the log; code REPL_OK: there was none. */
    struct repl_error why;
};

/* Blocks, for as long as reading the whole spool takes. Fails only where the directory cannot be
 * read or changed, or memory or descriptors are short: what is whole is then still there. What
 * is before the chain (the site has it, and a power cut has brought it back), chunks without their
 * segment, and plain files of other names are removed without a word. */
REPL_RESULT repl_spool_load(const struct repl_spool_load_options *options,
                            struct repl_spool_load *out, struct repl_error *err);
void repl_spool_load_fini(struct repl_spool_load *load);
/* Removes a segment's file and the chunks held beside it; none there is fine. */
REPL_RESULT repl_spool_remove(int dir_fd, uint64_t number, struct repl_error *err);

#endif
