/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the programs that notice writes to a tree's files share with the agent:
 *
 * dirty    a set of inode numbers: files whose pages have turned dirty, or that were
 *          written to directly, since the agent took them out.
 * state    one struct repl_tree_dirty_state.
 */
#ifndef REPL_AGENT_TREE_DIRTY_LAYOUT_H
#define REPL_AGENT_TREE_DIRTY_LAYOUT_H

#include <linux/types.h>

/* Files that turn dirty between two looks; with more, which they were is not known. */
#define REPL_TREE_DIRTY_FILES 65536

struct repl_tree_dirty_state {
    __u64 device; /* the filesystem's, as the kernel writes it; the agent's to set */
    __u64 marks;  /* files put into the set, or found there */
    __u64 lost;   /* and for which there was no room */
};

#endif
