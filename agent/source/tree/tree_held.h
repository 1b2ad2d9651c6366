/*
 * Files of a tree that are kept open from the look at them until they have been
 * read: for a point that is cut per file, as others may be given their names
 * meanwhile.
 */
#ifndef REPL_AGENT_TREE_HELD_H
#define REPL_AGENT_TREE_HELD_H

#include "source/tree/tree_object.h"

/* Where more are looked at, those behind are not held. */
#define REPL_TREE_HELD_MAX 128u

struct repl_tree_held {
    unsigned count;
    struct {
        uint64_t object;
        int fd;
        uint64_t end; /* XXH3 of its end, as it was then */
    } files[REPL_TREE_HELD_MAX];
};

/* Opens what path_fd is of, if it is a file. */
void repl_tree_hold(struct repl_tree_held *held, const struct repl_tree_object *object,
                    int path_fd);
/* The descriptor of the object's file; -1: it is not held. From any thread. */
int repl_tree_held_fd(const struct repl_tree_held *held, uint64_t object);
/* Whether what was the end of a file that is held still is, or is what comes before it now: bytes
 * [*from, object->node.size), *from at a page. */
bool repl_tree_held_end_is_same(const struct repl_tree_held *held,
                                const struct repl_tree_object *object, uint64_t *from);
void repl_tree_held_close(struct repl_tree_held *held);

#endif
