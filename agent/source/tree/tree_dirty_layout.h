/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the programs that notice writes to a tree's files share with the agent:
 *
 * active   an array of one map: the one that marks go into. Its key is struct
 *          repl_tree_dirty_key, its value struct repl_tree_dirty_bits. The agent
 *          has two, and puts the other one there before it takes marks out.
 * direct   direct reads and writes on their way, by the address of their kiocb:
 *          struct repl_tree_direct.
 * state    one struct repl_tree_dirty_state.
 */
#ifndef REPL_AGENT_TREE_DIRTY_LAYOUT_H
#define REPL_AGENT_TREE_DIRTY_LAYOUT_H

#include <linux/types.h>

/* Blocks of files that turn dirty between two looks; with more, which they were is not known. */
#define REPL_TREE_DIRTY_BLOCKS 65536

/* Pages of a file that are marked by one entry. A folio lies within one: it is no larger, and
 * begins at a multiple of its size. */
#define REPL_TREE_BLOCK_SHIFT 9
#define REPL_TREE_BLOCK_PAGES (1u << REPL_TREE_BLOCK_SHIFT)
#define REPL_TREE_BLOCK_WORDS (REPL_TREE_BLOCK_PAGES / 64)

struct repl_tree_dirty_key {
    __u64 inode;
    __u64 block; /* pages [block * 512, + 512) of the file; REPL_TREE_WHOLE: all of it */
};
#define REPL_TREE_WHOLE (((__u64)1 << 62) - 1)
/* Of block: by a direct write, the end of which this kernel does not tell. */
#define REPL_TREE_LATE ((__u64)1 << 62)

struct repl_tree_dirty_bits {
    __u64 words[REPL_TREE_BLOCK_WORDS];
};

struct repl_tree_direct {
    __u64 inode, first, last; /* pages */
    __u64 since_ns;           /* CLOCK_MONOTONIC */
    __u64 is_write;
};
#define REPL_TREE_DIRECT_MOST 4096

/* One for each processor, or for several. */
#define REPL_TREE_DIRTY_LANES 64
struct repl_tree_dirty_lane {
    __u64 pages; /* that turned dirty, on any filesystem, as the kernel counts them (nr_dirtied) */
    __u64 spare[7];
};

struct repl_tree_dirty_state {
    __u64 device;  /* the filesystem's, as the kernel writes it; the agent's to set */
    __u64 marks;   /* made on it */
    __u64 lost;    /* for which there was no room */
    __u64 unknown; /* folios whose size could not be told */
    __u64 spare[4];
    struct repl_tree_dirty_lane lanes[REPL_TREE_DIRTY_LANES];
};

#endif
