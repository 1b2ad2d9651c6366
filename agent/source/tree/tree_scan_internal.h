/* What tree_scan.c (all of a tree), tree_heard.c (what was heard of it) and tree_files.c (what
 * changed while it was read) share. */
#ifndef REPL_AGENT_TREE_SCAN_INTERNAL_H
#define REPL_AGENT_TREE_SCAN_INTERNAL_H

#include "source/tree/tree_names.h"
#include "source/tree/tree_scan.h"

struct repl_tree_scan {
    const struct repl_tree_scan_options *options;
    struct repl_tree_changes changes;
    struct repl_tree_found *found; /* NULL: only compared, and */
    bool differs;                  /* this is the result */
    struct repl_buffer stack;      /* uint64_t: directories to be read */
    struct repl_buffer listed; /* uint64_t: hashes of the names of one, sorted once it is read */
    uint64_t committed;        /* changes.writes then */
    int64_t begin_ns;
    bool heard;         /* of directories only new ones are entered: */
    uint64_t first_new; /* those from this number on, */
    bool moved;         /* and where this is set, all that come after */
};

REPL_RESULT repl_tree_scan_begin(struct repl_tree_scan *s,
                                 const struct repl_tree_scan_options *options,
                                 struct repl_tree_found *found, struct repl_error *err);
void repl_tree_scan_fini(struct repl_tree_scan *s);
/* As far as a stat tells. */
bool repl_tree_is_as_known(const struct repl_tree_object *o, const struct repl_tree_glance *now);
/* An object was looked at, which path_fd is of: it is among those that are looked at in the end. */
REPL_RESULT repl_tree_scan_touch(struct repl_tree_scan *s, const struct repl_tree_object *object,
                                 int path_fd, struct repl_error *err);
/* Looks at a name of the directory that fd has open; *there: it is one of the tree's. A directory
 * to be entered goes onto the stack. REPL_E_MISSING: there is no such name. */
REPL_RESULT repl_tree_scan_name(struct repl_tree_scan *s, uint64_t directory, int fd,
                                const char *name, bool *there, struct repl_error *err);
/* Reads those on the stack, and what is below them. */
REPL_RESULT repl_tree_scan_directories(struct repl_tree_scan *s, struct repl_error *err);
/* At the end of a look: what has no name left is gone. */
REPL_RESULT repl_tree_scan_settle(struct repl_tree_scan *s, struct repl_error *err);
/* A transaction keeps in memory what it has changed: commits it once that is much. */
REPL_RESULT repl_tree_scan_commit_some(struct repl_tree_scan *s, struct repl_error *err);

/* --- tree_heard.c ---------------------------------------------------------------------------- */

/* A look at what was heard of; its end, with what came of it. */
REPL_RESULT repl_tree_follow_begin(struct repl_tree_scan *s,
                                   const struct repl_tree_scan_options *options,
                                   const struct repl_tree_heard *heard,
                                   struct repl_tree_found *found, struct repl_error *err);
REPL_RESULT repl_tree_follow_end(struct repl_tree_scan *s, repl_result result,
                                 struct repl_error *err);
REPL_RESULT repl_tree_follow_names(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                   struct repl_error *err);
/* The tree's among what was heard of, in the order of their numbers, some of them twice. */
REPL_RESULT repl_tree_heard_objects(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                    struct repl_buffer *objects, struct repl_error *err);

/* The directory that was looked at last; begins with fd -1. */
struct repl_tree_directory {
    uint64_t object; /* 0: none */
    int fd;          /* -1: it is gone */
    char *path;
};
REPL_RESULT repl_tree_directory_open(struct repl_tree_scan *s, uint64_t object,
                                     struct repl_tree_directory *d, struct repl_error *err);
void repl_tree_directory_close(struct repl_tree_directory *d);

/* The order of uint64_t, for qsort and bsearch. */
int repl_tree_numbers_order(const void *a, const void *b);

#endif
