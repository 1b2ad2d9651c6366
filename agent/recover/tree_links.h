/*
 * The objects of a tree and the names that lead to them, put in as they come
 * and taken out by object. What does not fit into the memory allowed goes
 * through a temporary file, as sorted runs that are merged.
 */
#ifndef REPL_AGENT_TREE_LINKS_H
#define REPL_AGENT_TREE_LINKS_H

#include "repl/error.h"
#include "repl/format.h"

struct repl_tree_links;

struct repl_tree_link {
    uint64_t object;
    uint64_t parent;          /* the directory in which a name leads to it; 0: the object itself */
    enum repl_node_kind kind; /* of the object itself */
};

/* room: so many links are held in memory, 1 or more. */
REPL_RESULT repl_tree_links_new(size_t room, struct repl_tree_links **out, struct repl_error *err);
void repl_tree_links_free(struct repl_tree_links *links);

/* Not after the first next. REPL_E_NOMEM, as of next: there is no room for them on the disk
 * either. */
REPL_RESULT repl_tree_links_add(struct repl_tree_links *links, const struct repl_tree_link *link,
                                struct repl_error *err);
/* The next by object, the object itself before the names that lead to it; *done: there is none. */
REPL_RESULT repl_tree_links_next(struct repl_tree_links *links, struct repl_tree_link *out,
                                 bool *done, struct repl_error *err);

#endif
