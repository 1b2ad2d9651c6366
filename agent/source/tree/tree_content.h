/*
 * Where the contents of a tree's files, and long values of attributes, lie in
 * the space.
 *
 * A file of up to a chunk is one piece, of the least power of two of pages that
 * holds it; a larger one is made of pieces that begin at chunks of the file and
 * of the space, so that the same bytes in two files are the same chunks. Only
 * where there is data: holes take no place. A file that grows gets a piece as
 * large as its largest, up to 64 MiB, so that a log that is appended to is made
 * of few.
 */
#ifndef REPL_AGENT_TREE_CONTENT_H
#define REPL_AGENT_TREE_CONTENT_H

#include "source/tree/tree_object.h"
#include "source/tree/tree_places.h"

/* One row of the table of extents; key: object, offset. */
struct repl_tree_extent {
    uint64_t length; /* bytes, whole pages */
    uint64_t place;  /* UINT64_MAX: a hole */
};
#define REPL_TREE_HOLE UINT64_MAX

/* A file's content may have changed, and data lies where it says (repl_tree_data_find): gives
 * places, and notes what is to be read: of wanted (struct repl_tree_pages, of the file) what is
 * data, all that was data or not data before, and places it does not use any more; with wanted NULL
 * all of its pages. *remapped: its extents have changed. */
REPL_RESULT repl_tree_content_follow(struct repl_tree_txn *txn, uint64_t object, uint64_t size,
                                     const struct repl_buffer *data,
                                     const struct repl_buffer *wanted, struct repl_buffer *pages,
                                     bool *remapped, struct repl_error *err);
/* Notes all pages of a file. */
REPL_RESULT repl_tree_content_note(struct repl_tree_txn *txn, uint64_t object,
                                   struct repl_buffer *pages, struct repl_error *err);
/* Attributes as they were read; *changed: they were others. */
REPL_RESULT repl_tree_attributes_follow(struct repl_tree_txn *txn, uint64_t object,
                                        struct repl_buffer *attributes, struct repl_buffer *pages,
                                        bool *changed, struct repl_error *err);
/* Notes all pages of an object's long values. */
REPL_RESULT repl_tree_attributes_note(struct repl_tree_txn *txn, uint64_t object,
                                      struct repl_buffer *pages, struct repl_error *err);
/* Gives back all of an object's places, and forgets its extents and attributes. */
REPL_RESULT repl_tree_content_drop(struct repl_tree_txn *txn, uint64_t object,
                                   struct repl_buffer *pages, struct repl_error *err);

#endif
