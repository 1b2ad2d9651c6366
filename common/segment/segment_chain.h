/*
 * What makes one segment the continuation of another.
 */
#ifndef REPL_SEGMENT_CHAIN_H
#define REPL_SEGMENT_CHAIN_H

#include "repl/error.h"
#include "repl/format.h"

/* The end of a chain, as far as the segment after it is concerned. */
struct repl_segment_link {
    const struct repl_segment_header *header;
    bool has_point;
    struct repl_digest digest; /* what the next segment calls prev */
};

/* REPL_E_CORRUPT says in which way newer does not come right after older. */
REPL_RESULT repl_segment_chain_check(const struct repl_segment_link *older,
                                     const struct repl_segment_header *newer,
                                     struct repl_error *err);

#endif
