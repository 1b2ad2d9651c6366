/*
 * A view: a volume as it was at one point, computed from segments, newest wins.
 *
 * Source: the merge of sorted runs of a log-structured store (O'Neil et al.,
 * "The log-structured merge-tree", 1996), read from the newest run to the
 * oldest; an extent map remembers what newer runs have already said.
 *
 * Which segments these are, and that each follows the one before it, is the
 * caller's to know (journal/chain.h).
 */
#ifndef REPL_VIEW_H
#define REPL_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"
#include "repl/format.h"

struct repl_segment;
struct repl_view;

/* Opens the i-th segment, counted from the newest, 0 being the one that ends in the wanted point.
 * NULL in *out: there are no more, as behind the base (or the last full). Segments stay the
 * caller's and must outlive the view. */
typedef repl_result repl_view_segment_fn(void *context, size_t i, const struct repl_segment **out,
                                         struct repl_error *err);

/* Where a chunk lies that a segment refers to by name; NULL in *segment: in none that can be read,
 * its bytes have to be fetched. From several threads at once if the view is read so. */
typedef repl_result repl_view_chunk_fn(void *context, const struct repl_digest *name,
                                       const struct repl_segment **segment, uint32_t *frame,
                                       uint32_t *frame_offset, struct repl_error *err);

/* The REPL_CHUNK_SIZE bytes of names[0], which lies in no segment that can be read. Those behind
 * it, at most REPL_VIEW_AHEAD in all, come next in the view, and are worth being fetched along. */
#define REPL_VIEW_AHEAD 64u
typedef repl_result repl_view_fetch_fn(void *context, const struct repl_digest *names, size_t count,
                                       void *out, struct repl_error *err);

/* Walks the manifests of all of them: REPL_E_MISSING names the first byte that no segment
 * carries. */
REPL_RESULT repl_view_open(repl_view_segment_fn *segment_at, repl_view_chunk_fn *find_chunk,
                           void *context, struct repl_view **out, struct repl_error *err);
/* The same of some segments alone, up to where segment_at gives no more, and of what they say of
 * [begin, end): the rest is not in it, and may not be read. */
REPL_RESULT repl_view_open_changes(repl_view_segment_fn *segment_at, repl_view_chunk_fn *find_chunk,
                                   void *context, uint64_t begin, uint64_t end,
                                   struct repl_view **out, struct repl_error *err);
/* Before the first reader. Without it a chunk that lies in no segment is REPL_E_MISSING. */
void repl_view_fetch_by(struct repl_view *view, repl_view_fetch_fn *fetch);
void repl_view_free(struct repl_view *view);

uint64_t repl_view_size(const struct repl_view *view);        /* of the volume, bytes */
size_t repl_view_segment_count(const struct repl_view *view); /* opened for it */

/* The next stretch at or after offset that is all zeros by the manifests (*zero) or is not, at
 * most limit bytes long. */
uint64_t repl_view_stretch(const struct repl_view *view, uint64_t offset, uint64_t limit,
                           bool *zero);
/* The next stretch at or after offset that the segments speak of (*said) or do not, at most limit
 * bytes long: of a whole view, all of it. */
uint64_t repl_view_said(const struct repl_view *view, uint64_t offset, uint64_t limit, bool *said);
/* What [offset, offset + length) is made of, but zeros, an extent at a time: a frame of a segment,
 * or where segment is NULL a chunk that has to be fetched by its name. What several extents need is
 * told for each. */
typedef repl_result repl_view_need_fn(void *context, const struct repl_segment *segment,
                                      uint32_t frame, const struct repl_digest *chunk,
                                      struct repl_error *err);
REPL_RESULT repl_view_needs(const struct repl_view *view, uint64_t offset, uint64_t length,
                            repl_view_need_fn *need, void *context, struct repl_error *err);
/* Extents the volume is made of: a measure of how scattered it lies. */
uint64_t repl_view_extent_count(const struct repl_view *view);

/* A reader of a view with its own decoder and cache of frames (up to cache_frames MiB); one thread
 * at a time, any number of readers of one view. */
struct repl_view_reader;
REPL_RESULT repl_view_reader_new(const struct repl_view *view, unsigned cache_frames,
                                 struct repl_view_reader **out, struct repl_error *err);
void repl_view_reader_free(struct repl_view_reader *reader);

/* Fills out with [offset, offset + size), which lies within the volume. Every frame has been
 * checked against its checksum, every referenced chunk against its name. */
REPL_RESULT repl_view_read(struct repl_view_reader *reader, uint64_t offset, void *out, size_t size,
                           struct repl_error *err);

/* Brings a copy of [offset, offset + size), which lies within the volume, to what repl_view_read
 * would give: offset is a multiple of REPL_PAGE_SIZE, size at most REPL_VIEW_CORRECT_MAX.
 * changed[i]: the copy's i-th page had other bytes. Frames of which the copy has all, by the
 * SHA-256 of pages and chunks, are not read. After an error the copy is neither. */
#define REPL_VIEW_CORRECT_MAX (1u << 20)
REPL_RESULT repl_view_correct(struct repl_view_reader *reader, uint64_t offset, void *data,
                              size_t size, bool *changed, struct repl_error *err);

/* Whether two views, of which these are readers, say the same of the same bytes: REPL_E_CORRUPT
 * names the first place where they do not. What both say is a chunk elsewhere is not looked for. */
REPL_RESULT repl_view_compare(struct repl_view_reader *a, struct repl_view_reader *b,
                              struct repl_error *err);

#endif
