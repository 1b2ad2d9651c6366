/*
 * Gives a segment another place in its chain: the same content behind another
 * one, with another digest. For what comes after a merged segment and has not
 * been seen by the site.
 */
#ifndef REPL_SEGMENT_RELINK_H
#define REPL_SEGMENT_RELINK_H

#include "segment/segment_builder.h"
#include "segment/segment_reader.h"

/* Copies segment (CHANGES) to the sink with this prev and part. It is held to its digest on the
 * way: REPL_E_CORRUPT if it is not what it was, before the last bytes are written. */
REPL_RESULT repl_segment_relink(const struct repl_segment *segment, const struct repl_digest *prev,
                                uint32_t part, repl_sink_fn *sink, void *sink_context,
                                struct repl_segment_footer *footer, struct repl_error *err);

#endif
