/*
 * Chunks out of stored segments, of whichever volume. What is asked for together
 * is read in the order in which it lies, so that each segment is opened and each
 * frame decoded once; the last of both are kept for the next call.
 */
#ifndef REPL_AGENT_CHUNK_READER_H
#define REPL_AGENT_CHUNK_READER_H

#include "base/limits.h"
#include "store/store.h"

struct repl_placed_chunk {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id segment;
    uint32_t frame, frame_offset;
    uint32_t at; /* the place of its name among those that are asked for */
};

/* The 65,536 bytes of the chunk whose name is the at-th. */
typedef repl_result repl_chunk_sink_fn(void *context, uint32_t at, const void *bytes,
                                       struct repl_error *err);

struct repl_chunk_reader; /* one thread at a time; blocks */

/* The store outlives it. */
REPL_RESULT repl_chunk_reader_new(struct repl_store *store, struct repl_chunk_reader **out,
                                  struct repl_error *err);
/* NULL does nothing. */
void repl_chunk_reader_free(struct repl_chunk_reader *reader);

/* Gives each chunk to the sink, in any order; chunks is sorted on the way. REPL_E_CORRUPT: one of
 * them is not what it is named for, or what it lies in is damaged. */
REPL_RESULT repl_chunk_reader_read(struct repl_chunk_reader *reader,
                                   struct repl_placed_chunk *chunks, uint32_t count,
                                   const struct repl_digest *names, repl_chunk_sink_fn *sink,
                                   void *context, struct repl_error *err);

#endif
