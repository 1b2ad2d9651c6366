/*
 * Reads a segment by ranges: header, footer and index when it is opened, then
 * blocks of the manifest and frames as they are wanted.
 *
 * Nothing in the file is trusted: every number is held to its bounds, every
 * block and frame to its checksum, and the records' order, their place in the
 * frames and their count are checked while they are walked. Whoever needs to
 * know that the file as a whole is what its digest says verifies it
 * (segment_verify.h).
 */
#ifndef REPL_SEGMENT_READER_H
#define REPL_SEGMENT_READER_H

#include "base/cursor.h"
#include "repl/error.h"
#include "repl/format.h"
#include "segment/frame.h"
#include "segment/record_order.h"

/* Reads exactly size bytes at offset, or fails. May be called from several threads at once if the
 * segment is used from several. */
typedef repl_result repl_read_at_fn(void *context, uint64_t offset, void *out, size_t size,
                                    struct repl_error *err);

/* Parts of a frame, one behind the other, into out, without all of it being read. What they are is
 * the caller's to find out: the frame's checksum says nothing of them. Fails as read_at does, or
 * because there is no such way. Any number of threads, each with a coder of its own. */
typedef repl_result repl_read_slices_fn(void *context, const struct repl_frame_entry *frame,
                                        const struct repl_slice *slices, uint32_t count,
                                        struct repl_frame_coder *coder, void *out,
                                        struct repl_error *err);

/* Opened, immutable, may be shared between threads. */
struct repl_segment {
    struct repl_segment_header header;
    struct repl_segment_footer footer;
    struct repl_frame_entry *frames;
    struct repl_block_entry *blocks;
    struct repl_chunk_entry *chunks;
    struct repl_point *points;
    uint64_t *pages; /* where each frame's list of pages is, if it has one */
    repl_read_at_fn *read_at;
    repl_read_slices_fn *read_slices; /* may be set once it is open; NULL: there is no such way */
    void *context;                    /* of both */
};

REPL_RESULT repl_segment_open(repl_read_at_fn *read_at, void *context, uint64_t file_size,
                              struct repl_segment **out, struct repl_error *err);
void repl_segment_free(struct repl_segment *segment);

/* The point the segment ends in; NULL for a part that others follow and for a SUPPLY. */
const struct repl_point *repl_segment_last_point(const struct repl_segment *segment);

/* Frame index into raw, which has room for REPL_FRAME_RAW_MAX bytes; *size is how many there are.
 * stored is scratch space that grows as needed. */
REPL_RESULT repl_segment_read_frame(const struct repl_segment *segment, uint32_t index,
                                    struct repl_frame_coder *coder, struct repl_buffer *stored,
                                    void *raw, size_t *size, struct repl_error *err);

/* What a frame holds, a digest for each of its pages from its first byte on, the last of which may
 * be a part of one: at most REPL_FRAME_PAGES_MAX. None, and a *count of 0, where it has no list. */
REPL_RESULT repl_segment_read_pages(const struct repl_segment *segment, uint32_t frame,
                                    struct repl_page_digest *out, uint32_t *count,
                                    struct repl_error *err);

/* A walk over the manifest's records. */
struct repl_record_walk {
    const struct repl_segment *segment;
    struct repl_frame_coder *coder;
    struct repl_buffer stored;
    struct repl_buffer raw;
    struct repl_reader reader;
    uint32_t next_block;
    uint64_t record_count;
    bool sought; /* some records were passed over */
    struct repl_record_order order;
};

void repl_record_walk_begin(struct repl_record_walk *walk, const struct repl_segment *segment,
                            struct repl_frame_coder *coder);
/* *done instead of a record at the end, by when the count has been checked too. Texts in the record
 * stay until the next call. */
REPL_RESULT repl_record_walk_next(struct repl_record_walk *walk, struct repl_record *record,
                                  bool *done, struct repl_error *err);
/* Behind the first record at least: passes over blocks whose records all stand before (object,
 * offset), and do not reach there. What comes next may still stand before it. */
void repl_record_walk_seek(struct repl_record_walk *walk, uint64_t object, uint64_t offset);
void repl_record_walk_end(struct repl_record_walk *walk);

#endif
