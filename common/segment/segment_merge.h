/*
 * Merges neighbouring segments of one volume into one that says the same as all
 * of them: newest wins, what is superseded is left out.
 *
 * The manifests are walked from the newest to the oldest and kept in memory (32
 * bytes an extent, three times); the data goes through one frame at a time. A
 * frame that survives whole is checked and copied as it lies, of others the
 * surviving bytes are packed into new frames.
 *
 *   run                                              result
 *   whole increments (a, b] (b, c] ... (y, z]        (a, z], part 0, ends in point z
 *   the same with a full (0, x] in it                (0, z], part 0: the full and what follows it
 *   parts i to k of (a, b], k the last               (a, b], part i, ends in point b
 *   parts i to k of (a, b], k not the last           (a, b], part i, a part that others follow
 *
 * A run that reaches from one increment into a part of another has no segment
 * that could stand for it. The result follows what the run's first segment
 * followed; what came after the run has to be linked to it anew
 * (segment_relink.h), and to be renumbered where a part followed.
 *
 * The records of a tree's objects are merged by tree_merge.h.
 *
 * All points are kept. All but the last get REPL_POINT_MERGED and their own
 * changed_bytes; the last one's are the sum of all.
 *
 * Where a run is too much for one segment, or is to be kept by stretches of the
 * volume, it is merged into several: pieces, each of which has what the run says
 * of one stretch of the manifest's order, and which together say what the run
 * says. They have the last point only. Several may be made at once.
 */
#ifndef REPL_SEGMENT_MERGE_H
#define REPL_SEGMENT_MERGE_H

#include "segment/segment_builder.h"
#include "segment/segment_reader.h"

/* Whether a chunk that the run lists is kept where its bytes do not survive. referred: the result
 * refers to it, and does not have it so far. */
typedef bool repl_merge_chunk_fn(void *context, const struct repl_digest *name, bool referred);

/* A stretch of the manifest's order. */
struct repl_merge_range {
    uint64_t begin, end;               /* of the space, bytes; multiples of a page */
    uint64_t object_begin, object_end; /* of a tree's other objects, by number */
};

struct repl_merge_piece {
    struct repl_merge_range range;
    uint32_t part;           /* of the result */
    struct repl_digest prev; /* what it names as the segment before it */
    bool last;               /* it ends in the run's last point */
    /* The run is segments of the base (one that a merge has made, or all of a full as it was
     * received) and the increments behind it: in the order of the chain, though not each next to
     * the one before it. The result is of the base. */
    bool base;
    /* More than that is REPL_E_REFUSED and report->too_large: of extents and bytes before anything
     * is written, of records of a tree's objects on the way. A piece takes some 100 bytes of memory
     * an extent. */
    uint64_t extents_max, raw_size_max, records_max;
};

struct repl_merge_options {
    const struct repl_merge_piece *piece;       /* NULL: all of the run */
    const struct repl_segment *const *segments; /* oldest first */
    size_t segment_count;                       /* 1 or more */
    /* What the segment after each names as prev; NULL: each one's own digest. */
    const struct repl_digest *links;
    /* A chunk the run lists is kept if its bytes survive, or if this says so; NULL: it says so once
     * of what the result refers to. */
    repl_merge_chunk_fn *chunk_wanted;
    void *chunk_context;
    /* Segments of which nothing is read but chunks that are wanted. */
    const struct repl_segment *const *donors;
    size_t donor_count;
    repl_sink_fn *sink;
    void *sink_context;
};

struct repl_merge_report {
    struct repl_segment_header header; /* of the result */
    struct repl_segment_footer footer;
    uint64_t volume_size;
    uint64_t input_size_bytes; /* of the segments as files, donors too */
    uint64_t dropped_bytes;    /* raw data that was superseded */
    uint64_t dropped_chunks;   /* listed in the run, not in the result */
    bool too_large;            /* for one piece */
    uint32_t copied_frames;    /* as they lay */
    uint32_t packed_frames;    /* made of what survived of others */
};

/* REPL_E_REFUSED: the run cannot be one segment. REPL_E_CORRUPT: the segments do not follow each
 * other, or one is damaged: the text names it and the place. What has gone to the sink by then is
 * no segment. Only what goes into the result is read: verify the result before giving up the
 * run. */
REPL_RESULT repl_segment_merge(const struct repl_merge_options *options,
                               struct repl_merge_report *report, struct repl_error *err);

#endif
