/*
 * What makes one segment the continuation of another.
 */
#ifndef REPL_SEGMENT_CHAIN_H
#define REPL_SEGMENT_CHAIN_H

#include "format/wire.h"
#include "repl/error.h"
#include "repl/format.h"

/* The end of a chain, as far as the segment after it is concerned. */
struct repl_segment_link {
    const struct repl_segment_header *header;
    bool has_point;
    struct repl_digest digest; /* what the next segment calls prev */
};

/* Whether segment (from, to].part may come right after older: the next part, the part 0 of what
 * comes after a point, or that of a new full, which leaves parts without an end behind. */
bool repl_segment_follows(const struct repl_head *older, uint64_t from, uint64_t to, uint32_t part);
/* REPL_E_CORRUPT says in which way newer does not come right after older. */
REPL_RESULT repl_segment_chain_check(const struct repl_segment_link *older,
                                     const struct repl_segment_header *newer,
                                     struct repl_error *err);

#endif
