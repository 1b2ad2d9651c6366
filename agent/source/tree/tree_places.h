/*
 * Gives out places in a tree's space: pieces of 2^n pages that begin at a
 * multiple of their size, so that a piece of a chunk or more begins where a
 * chunk does (the buddy system: Knuth, The Art of Computer Programming, vol. 1,
 * 2.5). What is given back merges with its buddy if that is free too. Places are
 * numbers, and cost 16 bytes a page in the table of digests and some bits:
 * giving out more than is used is cheap, moving what is there is not.
 *
 * Pages that come into use or go out of it are noted, for who has to look at
 * them again.
 */
#ifndef REPL_AGENT_TREE_PLACES_H
#define REPL_AGENT_TREE_PLACES_H

#include "source/tree/tree_index.h"

#define REPL_TREE_ORDER_CHUNK 4u  /* 16 pages: a chunk */
#define REPL_TREE_ORDER_MAX   18u /* 1 GiB */

/* Whose a piece of the space is. */
struct repl_tree_block {
    uint64_t place;
    uint64_t size; /* bytes */
    uint64_t object;
    uint64_t offset;   /* of the piece in the file; of an attribute's value: XXH3 of its name */
    uint32_t is_value; /* of an attribute */
    uint32_t reserved;
};

/* Pages that have to be read: struct repl_tree_pages each, in the order in which they were noted;
 * neighbours are one. */
struct repl_tree_pages {
    uint64_t page, count;
};
REPL_RESULT repl_tree_pages_note(struct repl_buffer *pages, uint64_t place, uint64_t size,
                                 struct repl_error *err);

/* Makes the space as large as end, if it is not; what is new is free. */
REPL_RESULT repl_tree_space_reach(struct repl_tree_txn *txn, uint64_t end, struct repl_error *err);

/* The least order of so many bytes, which are not more than REPL_TREE_ORDER_MAX holds. */
unsigned repl_tree_order_of(uint64_t size);

/* A piece of this order for object, offset and is_value of *block; the space grows if it has to. */
REPL_RESULT repl_tree_place_take(struct repl_tree_txn *txn, unsigned order,
                                 struct repl_tree_block *block, struct repl_error *err);
/* It is nobody's any more: reads as zeros from now on. */
REPL_RESULT repl_tree_place_give(struct repl_tree_txn *txn, const struct repl_tree_block *block,
                                 struct repl_buffer *pages, struct repl_error *err);
/* Those of an object, by offset: struct repl_tree_block each; of its content or its attributes'
 * values. */
REPL_RESULT repl_tree_place_list(struct repl_tree_txn *txn, uint64_t object, bool values,
                                 struct repl_buffer *blocks, struct repl_error *err);
/* The piece that place is in, or the next one behind it; *found: there is one. */
REPL_RESULT repl_tree_place_find(struct repl_tree_txn *txn, uint64_t place,
                                 struct repl_tree_block *block, bool *found,
                                 struct repl_error *err);

#endif
