/*
 * Where the filesystem keeps a file (FIEMAP), as hashes of 2 MiB each in the
 * tree's index. What is given other blocks (a hole punched, a range collapsed, a
 * reflink) has changed without a page that turned dirty; that shows here.
 *
 * Not all does: blocks may have gone and come back with another content. For that
 * it takes two such operations from one look to the next, and the second one
 * marks the whole file when it begins (tree_dirty.bpf.c).
 */
#ifndef REPL_AGENT_TREE_MAPPING_H
#define REPL_AGENT_TREE_MAPPING_H

#include "source/tree/tree_index.h"

/* Smaller files are read whole. */
#define REPL_TREE_MAPPED_MIN (UINT64_C(128) << 10)

/* Looks at it again, when the file has been written out and before it is read; appends to pages
 * (struct repl_tree_pages, of the file) where it differs from the last time. *known: there was one,
 * and the filesystem tells. */
REPL_RESULT repl_tree_mapping_follow(struct repl_tree_txn *txn, uint64_t object, int fd,
                                     uint64_t size, struct repl_buffer *pages, bool *known,
                                     struct repl_error *err);
REPL_RESULT repl_tree_mapping_drop(struct repl_tree_txn *txn, uint64_t object,
                                   struct repl_error *err);

#endif
