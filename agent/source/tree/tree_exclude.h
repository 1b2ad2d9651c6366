/*
 * What of a tree is left out: patterns as fnmatch(3) has them. One without a
 * slash is for any name in the tree; one with a slash for a path from the top
 * ("/cache/tmp", "home/?/.thumbnails"), where "*" ends at a slash. What is left
 * out of a directory's names is left out with all below it.
 */
#ifndef REPL_AGENT_TREE_EXCLUDE_H
#define REPL_AGENT_TREE_EXCLUDE_H

#include <stdbool.h>
#include <stddef.h>

#include "repl/error.h"

struct repl_tree_exclude {
    char *text; /* the patterns, each with a NUL behind it */
    size_t count;
    bool by_path;    /* one of them has a slash */
    const char *own; /* a name in the top directory that is the agent's; NULL: none is */
};

/* patterns: separated by blanks, a blank in one is "\ "; NULL: none. */
REPL_RESULT repl_tree_exclude_new(const char *patterns, struct repl_tree_exclude *out,
                                  struct repl_error *err);
void repl_tree_exclude_fini(struct repl_tree_exclude *exclude);
/* directory: the path from the top, "" or ending in a slash. */
bool repl_tree_is_excluded(const struct repl_tree_exclude *exclude, const char *directory,
                           const char *name);

#endif
