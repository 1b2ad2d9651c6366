/*
 * What changed of a tree between two of its points: by its names and metadata,
 * the identity of its objects, and where their contents lie.
 *
 * No content is read. A file's content counts as changed where other places of
 * the space belong to it, or what lies there was written since, perhaps with
 * what had been there before. Where a full lies in between, which says all of
 * the space anew, it counts as changed where size or time are others.
 *
 * All names of both points are in memory, some 500 bytes for each of both.
 */
#ifndef REPL_AGENT_DIFF_TREE_H
#define REPL_AGENT_DIFF_TREE_H

#include "recover/history.h"
#include "recover/tree_list.h"

enum repl_diff_change {
    REPL_DIFF_ADDED,
    REPL_DIFF_REMOVED,
    REPL_DIFF_RENAMED,  /* or moved, and perhaps changed too; what lies in a directory goes with it
                         */
    REPL_DIFF_REPLACED, /* another object has the name, as after an editor's save */
    REPL_DIFF_CHANGED,
};

enum repl_diff_what {
    REPL_DIFF_CONTENT = 1 << 0,
    REPL_DIFF_SIZE = 1 << 1,
    REPL_DIFF_MODE = 1 << 2,
    REPL_DIFF_OWNER = 1 << 3,
    REPL_DIFF_MTIME = 1 << 4, /* not of directories, whose time is that of their names */
    REPL_DIFF_FLAGS = 1 << 5,
    REPL_DIFF_PROJECT = 1 << 6,
    REPL_DIFF_ATTRIBUTES = 1 << 7,
    REPL_DIFF_TARGET = 1 << 8,
    REPL_DIFF_TYPE = 1 << 9,
    REPL_DIFF_DEVICE = 1 << 10,
};
#define REPL_DIFF_WHAT_COUNT 11u

struct repl_diff_tree_change {
    enum repl_diff_change change;
    unsigned what;    /* of all but ADDED and REMOVED; 0: only the name */
    const char *path; /* not terminated; from the top; of what was REMOVED, where it was */
    size_t path_size;
    const char *from; /* of what was RENAMED: where it was */
    size_t from_size;
    const struct repl_tree_entry *before, *after; /* NULL: it was not, or is not, there */
};

struct repl_diff_tree_options {
    struct repl_history *history;
    size_t from, to; /* in the catalogue; from is not behind to */
    /* In the order of the paths. */
    repl_result (*change)(void *context, const struct repl_diff_tree_change *change,
                          struct repl_error *err);
    void *context;
};

struct repl_diff_tree {
    uint64_t counts[REPL_DIFF_CHANGED + 1];
    bool full; /* one begins in between */
};

REPL_RESULT repl_diff_tree(const struct repl_diff_tree_options *options, struct repl_diff_tree *out,
                           struct repl_error *err);

#endif
