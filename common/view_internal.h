/*
 * A view and its readers from within: what view.c makes of segments, and
 * view_correct.c compares with what somebody has already.
 */
#ifndef REPL_VIEW_INTERNAL_H
#define REPL_VIEW_INTERNAL_H

#include "base/extent_map.h"
#include "base/hash.h"
#include "repl/view.h"
#include "segment/frame.h"
#include "segment/segment_reader.h"

/*
 * Extents of the map: source of DATA is segment << 32 | frame (segment: its
 * place in segments[]); of CHUNK the place of the name in names.
 */
struct repl_view {
    uint64_t size;
    uint64_t begin, end; /* what lies outside is not looked at */
    struct repl_extent_map extents;
    const struct repl_segment **segments;
    size_t segment_count, segment_capacity;
    struct repl_buffer names; /* struct repl_digest each */
    repl_view_chunk_fn *find_chunk;
    repl_view_fetch_fn *fetch; /* NULL: there is none */
    void *context;
};

/* So many frames are kept where they are small, as those that a merge has packed are, in the place
 * of one of the largest. */
#define VIEW_SMALL_FRAMES 8u

struct view_frame {
    const struct repl_segment *segment;
    uint32_t frame;
    size_t size;
    uint64_t used; /* the reader's clock when last used */
    uint8_t *raw;  /* NULL: empty */
};

struct repl_view_reader {
    const struct repl_view *view;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_buffer stored;
    uint64_t clock;
    unsigned cache_size;
    size_t cached_bytes, cached_bytes_max;
    struct view_frame *cache;
    uint8_t *fetched; /* a chunk; NULL: none was yet */
    uint8_t *scratch; /* REPL_SLICES_BYTES_MAX, of what compares; NULL: not needed yet */
};

/* Whether the frame is in the cache. */
bool view_frame_is_kept(const struct repl_view_reader *reader, const struct repl_segment *segment,
                        uint32_t frame);
/* The frame from the cache, or decoded into it: valid until the reader's next one. */
REPL_RESULT view_frame_get(struct repl_view_reader *reader, const struct repl_segment *segment,
                           uint32_t frame, const struct view_frame **out, struct repl_error *err);

/* Of an extent that is a CHUNK. */
const struct repl_digest *view_chunk_name(const struct repl_view *v,
                                          const struct repl_extent *extent);

#endif
