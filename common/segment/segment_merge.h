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
 */
#ifndef REPL_SEGMENT_MERGE_H
#define REPL_SEGMENT_MERGE_H

#include "segment/segment_builder.h"
#include "segment/segment_reader.h"

/* Whether somebody outside the run may refer to a chunk by this name. */
typedef bool repl_merge_chunk_fn(void *context, const struct repl_digest *name);

struct repl_merge_options {
    const struct repl_segment *const *segments; /* oldest first */
    size_t segment_count;                       /* 1 or more */
    /* What the segment after each names as prev; NULL: each one's own digest. */
    const struct repl_digest *links;
    /* A chunk the run lists is kept if its bytes survive, if the result refers to it, or if this
     * says so; NULL: it says no. */
    repl_merge_chunk_fn *chunk_wanted;
    void *chunk_context;
    repl_sink_fn *sink;
    void *sink_context;
};

struct repl_merge_report {
    struct repl_segment_header header; /* of the result */
    struct repl_segment_footer footer;
    uint64_t volume_size;
    uint64_t input_size_bytes; /* of the segments as files */
    uint64_t dropped_bytes;    /* raw data that was superseded */
    uint64_t dropped_chunks;   /* listed in the run, not in the result */
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
