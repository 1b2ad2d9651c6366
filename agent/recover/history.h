/*
 * A volume's history as one can read it: its points, its segments, and a view
 * of the volume at any point, whatever origin it comes from.
 *
 * Segments are opened when they are first wanted and stay open, with their
 * tables, until the history is closed. All calls but open and close may come
 * from several threads at once.
 */
#ifndef REPL_AGENT_HISTORY_H
#define REPL_AGENT_HISTORY_H

#include "recover/origin.h"
#include "repl/view.h"
#include "segment/segment_reader.h"

struct repl_history;

/* Reads the catalogue. Takes over the origin, also where it fails. */
REPL_RESULT repl_history_open(struct repl_origin *origin, struct repl_history **out,
                              struct repl_error *err);
/* Every view must be gone. */
void repl_history_close(struct repl_history *history);

const struct repl_catalogue *repl_history_catalogue(const struct repl_history *history);
struct repl_origin *repl_history_origin(struct repl_history *history);

/* The i-th segment of the catalogue, found to be the one the catalogue means. */
REPL_RESULT repl_history_segment(struct repl_history *history, size_t i,
                                 const struct repl_segment **out, struct repl_error *err);
REPL_RESULT repl_history_supply(struct repl_history *history, size_t i,
                                const struct repl_segment **out, struct repl_error *err);
/* Where in the catalogue the segment stands that ends in a point; SIZE_MAX: nowhere. */
size_t repl_history_segment_of(const struct repl_history *history, uint64_t seq);
/* Where the segments begin that a view of the point which segment i ends in is made of. */
size_t repl_history_base_of(const struct repl_history *history, size_t i);
/* Whether they begin with segment i. */
bool repl_history_is_base(const struct repl_history *history, size_t i);
/* Whether segment, the i-th, names the one before it as such, if it has to: a full may have been
 * left the first of what there is. */
bool repl_history_is_linked(const struct repl_history *history, size_t i,
                            const struct repl_segment *segment);

/* Those that the i-th point of a tree is made of, from the full on, oldest first, into an array
 * that the caller frees. REPL_E_REFUSED: the volume is a block device. */
REPL_RESULT repl_history_tree_segments(struct repl_history *history, size_t point,
                                       const struct repl_segment ***out, size_t *count,
                                       struct repl_error *err);

/* The volume as it was at the i-th point of the catalogue. */
REPL_RESULT repl_history_view(struct repl_history *history, size_t point, struct repl_view **out,
                              struct repl_error *err);
/* What has been said since the one point up to a later one, and may be read. NULL in *out: a full
 * begins in between, which says all of the volume, and nothing of what changed. */
REPL_RESULT repl_history_changes(struct repl_history *history, size_t from, size_t to,
                                 struct repl_view **out, struct repl_error *err);

/* Where a chunk lies: in which segment, or supply, and that one's place in its list. */
struct repl_chunk_home {
    const struct repl_segment *segment; /* NULL: in none that can be read */
    size_t index;
    bool supply;
    uint32_t frame, frame_offset;
};
REPL_RESULT repl_history_chunk(struct repl_history *history, const struct repl_digest *name,
                               struct repl_chunk_home *out, struct repl_error *err);
/* Whether chunks that lie in none are to be had from the volume's pool, each with the content it is
 * named for. REPL_E_MISSING: one is not; it says too which segment could not be read. */
REPL_RESULT repl_history_pool_check(struct repl_history *history, const struct repl_digest *names,
                                    size_t count, struct repl_error *err);

#endif
