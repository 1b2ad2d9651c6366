/*
 * Which bytes of a block volume differ between two of its points.
 *
 * What was written in between stands in the manifests of the segments in
 * between, so that is what it costs. Of what was overwritten with what it had
 * been before, as a file that is made and removed again, only a comparison of
 * contents knows: it reads what was written in between, as of both points.
 */
#ifndef REPL_AGENT_DIFF_BLOCK_H
#define REPL_AGENT_DIFF_BLOCK_H

#include "recover/history.h"

struct repl_diff_block_options {
    struct repl_history *history;
    size_t from, to; /* in the catalogue; from is not behind to */
    bool compare;    /* contents */
    /* From front to back; neighbours are one. */
    void (*extent)(void *context, uint64_t offset, uint64_t length);
    void *context;
};

struct repl_diff_block {
    uint64_t from_size, to_size; /* of the volume */
    bool full;                   /* one begins in between: all of the volume was compared */
    uint64_t extent_count, changed_bytes;
    uint64_t compared_bytes;
};

/* What was told by extent before a failure is not all. */
REPL_RESULT repl_diff_block(const struct repl_diff_block_options *options,
                            struct repl_diff_block *out, struct repl_error *err);

#endif
