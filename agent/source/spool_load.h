/*
 * Reads back what an earlier run of the agent left in a volume's spool, so that
 * it can be sent instead of being read and compressed again.
 *
 * Nothing in the spool has been synced, and a power cut may have left any part
 * of it: every file is checked down to its last byte, and only an unbroken chain
 * is taken, from the first file on. What does not belong to it is removed.
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
     * table is told as sent. Zeros for a page whose bytes are in a chunk known by name only. */
    struct repl_buffer digests;
};

struct repl_spool_load_options {
    int dir_fd;
    struct repl_uuid volume;
    uint64_t lineage;
    unsigned threads;          /* how many files are read at once; 3 MiB each */
    uint64_t digest_bytes_max; /* of all segments together; the chain ends before it has more */
};

struct repl_spool_load {
    struct repl_spool_segment *segments; /* the oldest first */
    size_t segment_count;
    size_t removed_count; /* segments: a broken one, and all behind it */
    /* Why, for the log; code REPL_OK: nothing was removed. */
    struct repl_error why;
};

/* Blocks, for as long as reading the whole spool takes. Fails only where the directory cannot be
 * read or changed, or memory or descriptors are short: what is whole is then still there. Plain
 * files that are no segments by their names are removed without a word. */
REPL_RESULT repl_spool_load(const struct repl_spool_load_options *options,
                            struct repl_spool_load *out, struct repl_error *err);
void repl_spool_load_fini(struct repl_spool_load *load);

#endif
