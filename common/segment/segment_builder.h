/*
 * Builds a segment front to back, so that it can be streamed while it grows.
 *
 * Frames are written as they come; extents may come in any order, and a later
 * one replaces what an earlier one said of the same bytes (pages read again in
 * a later round of the same point). The manifest is sorted and written at the
 * end; bytes of frames that nothing refers to any more are left behind.
 *
 * Pure: bytes leave through the sink, in order. After a failed call the builder
 * can only be freed.
 */
#ifndef REPL_SEGMENT_BUILDER_H
#define REPL_SEGMENT_BUILDER_H

#include "base/extent_map.h"
#include "repl/error.h"
#include "repl/format.h"

struct repl_segment_builder;

typedef repl_result repl_sink_fn(void *context, const void *data, size_t size,
                                 struct repl_error *err);

/* Writes the header. volume_size is the object's size at this point, 1 byte to
 * REPL_VOLUME_SIZE_MAX (else REPL_E_REFUSED), of a tree's space whole pages; 0 for a SUPPLY
 * segment. */
REPL_RESULT repl_segment_builder_new(const struct repl_segment_header *header, uint64_t volume_size,
                                     repl_sink_fn *sink, void *sink_context,
                                     struct repl_segment_builder **out, struct repl_error *err);
void repl_segment_builder_free(struct repl_segment_builder *builder);

/* Writes an encoded frame; *index is what extents and chunks call it. pages, where the header has
 * REPL_FEATURE_PAGES: what it holds, a digest for each page from its first byte on; NULL: no list
 * of it is made. Nor is there one of a frame that is all listed chunks, whose names say as much. */
REPL_RESULT repl_segment_builder_frame(struct repl_segment_builder *builder,
                                       const struct repl_frame_entry *entry, const void *stored,
                                       const struct repl_page_digest *pages, uint32_t *index,
                                       struct repl_error *err);
/* Says that a whole chunk lies in a frame of this segment, for others to refer to. */
REPL_RESULT repl_segment_builder_chunk(struct repl_segment_builder *builder,
                                       const struct repl_chunk_entry *chunk,
                                       struct repl_error *err);
/* A chunk that is elsewhere; *source is what an extent of type CHUNK calls it. */
REPL_RESULT repl_segment_builder_reference(struct repl_segment_builder *builder,
                                           const struct repl_digest *name, uint64_t *source,
                                           struct repl_error *err);
/* DATA: source is a frame's index; CHUNK: what reference gave; ZERO: no source. Within the
 * volume, page-aligned but for the volume's end. */
REPL_RESULT repl_segment_builder_extent(struct repl_segment_builder *builder,
                                        const struct repl_extent *extent, struct repl_error *err);

/* Of a tree: where its objects' records come from when the builder is finished, in order; their
 * texts stay until the next one is asked for. Not set: there are none. One that a reader would
 * refuse is REPL_E_CORRUPT. */
typedef repl_result repl_records_fn(void *context, struct repl_record *record, bool *done,
                                    struct repl_error *err);
void repl_segment_builder_records(struct repl_segment_builder *builder, repl_records_fn *records,
                                  void *context);

/* Bytes written so far. */
uint64_t repl_segment_builder_size(const struct repl_segment_builder *builder);
/* Whether any extent has been added. */
bool repl_segment_builder_is_empty(const struct repl_segment_builder *builder);

/* Writes manifest, index and footer. points may be empty: then this is a part that others
 * follow. A point that no reader would take is REPL_E_INTERNAL, a segment over the format's limits
 * REPL_E_NOMEM: the footer has not been written then. */
REPL_RESULT repl_segment_builder_finish(struct repl_segment_builder *builder,
                                        const struct repl_point *points, size_t point_count,
                                        struct repl_segment_footer *footer, struct repl_error *err);

#endif
