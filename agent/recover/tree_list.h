/*
 * What is in a directory of a tree, as it was at a point, or in all below it:
 * for looking, where a plan of all of the tree (tree_plan.h) would be too much.
 *
 * Only what is said of the wanted objects is read: of each segment the blocks of
 * its manifest in which they lie. Objects whose numbers lie close together are
 * read in one go. All that is listed is in memory, some 200 bytes a name.
 */
#ifndef REPL_AGENT_TREE_LIST_H
#define REPL_AGENT_TREE_LIST_H

#include "recover/history.h"

struct repl_tree_list;

struct repl_tree_entry {
    uint64_t object;
    size_t parent;  /* the entry of the directory that it is in; SIZE_MAX: of the first */
    size_t child;   /* where the entries of what is in it begin, in the order of their names, */
    size_t count;   /* and how many there are, if they were read */
    bool node_read; /* whether its node was looked for */
    bool found;     /* and the point has it */
    bool circle;    /* a directory that is in itself: what is in it is not listed again */
    struct repl_node node;
    char *name; /* not terminated; of the first: the last component of the path, "" for the top */
    uint32_t name_size;
};

/* The history stays open for longer. REPL_E_REFUSED: the volume is a block device. */
REPL_RESULT repl_tree_list_new(struct repl_history *history, size_t point,
                               struct repl_tree_list **out, struct repl_error *err);
void repl_tree_list_free(struct repl_tree_list *list);

enum repl_tree_list_depth {
    REPL_TREE_LIST_ITSELF, /* what is at the path, and not what is in it */
    REPL_TREE_LIST_NAMES,  /* of what is in a directory, without their nodes */
    REPL_TREE_LIST_NODES,
    REPL_TREE_LIST_ALL, /* also what is in its directories, and so on */
};
/* Once: reads what is at path, relative to the top, and in it. REPL_E_MISSING: there is nothing. */
REPL_RESULT repl_tree_list_read(struct repl_tree_list *list, const char *path,
                                enum repl_tree_list_depth depth, struct repl_error *err);

/* The first is what is at the path. */
const struct repl_tree_entry *repl_tree_list_entries(const struct repl_tree_list *list,
                                                     size_t *count);

/* The objects that the path leads through: the top, directories, and last what is at the path. */
const uint64_t *repl_tree_list_way(const struct repl_tree_list *list, size_t *count);

/* The path of an entry below the first: *out is grown as needed, and what it held before is gone.
 */
REPL_RESULT repl_tree_list_path(const struct repl_tree_list *list, size_t entry,
                                struct repl_buffer *out, struct repl_error *err);

#endif
