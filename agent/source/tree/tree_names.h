/*
 * Names and objects of a tree's index as changes are found: which number what is
 * found has, what a name leads to, and what has no name any more.
 */
#ifndef REPL_AGENT_TREE_NAMES_H
#define REPL_AGENT_TREE_NAMES_H

#include "source/tree/tree_content.h"
#include "source/tree/tree_object.h"

/* What goes with one round of changes. */
struct repl_tree_changes {
    struct repl_tree_txn txn;
    const struct repl_tree_root *root;
    bool full;   /* nothing is noted as pending */
    bool settle; /* what changed just now is waited for */
    /* In a snapshot, where what stands for a subvolume has nothing else of its own: the name that
     * is followed, and its directory. */
    uint64_t directory, hash;
    /* Where files were written to (struct repl_tree_mark, sorted); NULL: not known. Kept only if
     * what else may have changed a file shows in its mapping, which is kept then too. */
    const struct repl_buffer *marks;
    bool mapped;
    struct repl_buffer *pages;
    struct repl_buffer nameless; /* uint64_t: have lost a name, their last one perhaps */
    bool files;                  /* a circle of directories is not left to the next look: */
    struct repl_buffer moved;    /* uint64_t: directories that were given a name */
    struct repl_buffer
        *hidden; /* where what still exists without a name is put; NULL: it is gone */
    struct repl_buffer attributes, data, wanted; /* scratch */
    uint64_t count;                              /* of changes that are to be told */
    uint64_t writes;                             /* to the index, about */
};

/* What fd has open (O_PATH), as it is now: a new object, or one whose node, attributes or content
 * may have changed. *object: as it is in the index afterwards. */
REPL_RESULT repl_tree_object_follow(struct repl_tree_changes *c, int fd,
                                    struct repl_tree_object *object, struct repl_error *err);
/* The name leads to this object; 0: there is none any more. */
REPL_RESULT repl_tree_name_set(struct repl_tree_changes *c, uint64_t directory, const char *name,
                               size_t size, uint64_t object, struct repl_error *err);
/* Of what has lost a name: *hidden, if something has none left, and is still there; it may have
 * been moved to where the scan had been already. */
REPL_RESULT repl_tree_nameless_look(struct repl_tree_changes *c, bool *hidden,
                                    struct repl_error *err);
/* Takes the name from a directory that was moved and has come to lie within itself, as others were
 * moved meanwhile. */
REPL_RESULT repl_tree_circles_break(struct repl_tree_changes *c, struct repl_error *err);
/* The name that the object is known to have; *size: 0 if it has none. */
REPL_RESULT repl_tree_name_of(struct repl_tree_txn *txn, const struct repl_tree_object *o,
                              char name[REPL_NAME_MAX], size_t *size, struct repl_error *err);
/* What has no name left is gone, and what was below it. */
REPL_RESULT repl_tree_nameless_drop(struct repl_tree_changes *c, struct repl_error *err);

/* A directory's path from the top, "" or ending in a slash; malloc'ed. For people and patterns. */
REPL_RESULT repl_tree_path_of(struct repl_tree_txn *txn, uint64_t directory, char **path,
                              struct repl_error *err);

#endif
