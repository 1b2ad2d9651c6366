/*
 * The names of the chunks that a segment refers to.
 */
#ifndef REPL_SEGMENT_REFERENCES_H
#define REPL_SEGMENT_REFERENCES_H

#include "segment/segment_reader.h"

/* Each once, sorted, its own chunks among them where it refers to those. *names: heap, freed by the
 * caller; NULL where *count is 0. */
REPL_RESULT repl_segment_references(const struct repl_segment *segment,
                                    struct repl_frame_coder *coder, struct repl_digest **names,
                                    uint32_t *count, struct repl_error *err);

#endif
