/*
 * The records of a tree's objects in neighbouring segments, merged into those
 * that say the same as all of them: of each object the newest node with its
 * attributes, the newest of each name, of each byte of a file the newest run or
 * hole, as far as the file still reaches. What is gone is only said to be gone,
 * and behind a full not even that.
 *
 * One pass over all manifests at once, in the order of the records: of each
 * segment one block is in memory, and of one file at a time its runs.
 */
#ifndef REPL_TREE_MERGE_H
#define REPL_TREE_MERGE_H

#include "segment/segment_reader.h"

struct repl_tree_merge;

struct repl_tree_merge_options {
    const struct repl_segment *const *segments; /* oldest first, of one tree, in the order of its */
    size_t segment_count;                       /* chain; they outlive the merge */
    bool full;                                  /* the first is a full, or all of the base */
    uint64_t object_begin, object_end;          /* only objects in between; 0, 0: all */
};
REPL_RESULT repl_tree_merge_new(const struct repl_tree_merge_options *options,
                                struct repl_frame_coder *coder, struct repl_tree_merge **out,
                                struct repl_error *err);
void repl_tree_merge_free(struct repl_tree_merge *merge);

/* A repl_records_fn (segment_builder.h); context: the merge. REPL_E_CORRUPT where a segment is
 * damaged, or an object has more said of it after it was gone than that. */
REPL_RESULT repl_tree_merge_next(void *context, struct repl_record *record, bool *done,
                                 struct repl_error *err);

#endif
