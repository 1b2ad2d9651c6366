/*
 * Frames: at most 1 MiB of raw bytes, compressed on its own (zstd) or stored.
 */
#ifndef REPL_SEGMENT_FRAME_H
#define REPL_SEGMENT_FRAME_H

#include "base/cursor.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_FRAME_ZSTD_LEVEL 1
#define REPL_FRAME_LEVEL_MAX  9

/* zstd's two contexts and a scratch frame; one thread at a time. About 2 MiB; once it has encoded
 * at level 6 about 5 MiB, at level 9 14 MiB, until it has been at level 1 again for a hundred
 * frames. */
struct repl_frame_coder;
REPL_RESULT repl_frame_coder_new(struct repl_frame_coder **out, struct repl_error *err);
void repl_frame_coder_free(struct repl_frame_coder *coder);
/* What follows is encoded at this level, 1 to REPL_FRAME_LEVEL_MAX; REPL_FRAME_ZSTD_LEVEL before.
 */
void repl_frame_coder_level(struct repl_frame_coder *coder, unsigned level);

/* Appends the stored form of raw to *stored and fills *entry but for its offset. What was
 * compressed is decoded again and compared before this returns, so that a broken encoder or
 * memory is found while the source bytes are still at hand (REPL_E_INTERNAL). */
REPL_RESULT repl_frame_encode(struct repl_frame_coder *coder, const void *raw, size_t raw_size,
                              struct repl_buffer *stored, struct repl_frame_entry *entry,
                              struct repl_error *err);

/* Decodes stored (entry->stored_size bytes) into raw (room for entry->raw_size) and checks it. */
REPL_RESULT repl_frame_decode(struct repl_frame_coder *coder, const struct repl_frame_entry *entry,
                              const void *stored, void *raw, struct repl_error *err);

#endif
