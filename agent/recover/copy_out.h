/*
 * A file or directory of a tree, as it was at a point, under a name of its
 * choice: a restore (tree_restore.h) to a temporary name beside it, which is
 * renamed when all of it is written, synced and read back. So whatever happens,
 * the name leads to all of it, or to what it led to before.
 */
#ifndef REPL_AGENT_COPY_OUT_H
#define REPL_AGENT_COPY_OUT_H

#include <limits.h>

#include "recover/point_reader.h"
#include "recover/tree_restore.h"

struct repl_copy_out_options {
    struct repl_tree_options tree; /* but for to and temporary */
    enum repl_node_kind kind;      /* of what is at its path */
    const char *name;              /* its own, "" for the tree's top; not terminated */
    size_t name_size;
    const char *dest; /* a name; of a directory that is there: into this, under its own name */
    bool overwrite;   /* what is there, unless it is a directory, or one is copied */
};

struct repl_copy_out {
    struct repl_tree_result tree;
    char path[PATH_MAX]; /* where it is */
};

/* REPL_E_REFUSED: there is something already, or something could not be copied; where it fails,
 * nothing is left. */
REPL_RESULT repl_copy_out(const struct repl_copy_out_options *options, struct repl_copy_out *out,
                          struct repl_error *err);

/* A file's bytes, to a descriptor. */
REPL_RESULT repl_copy_out_stream(struct repl_point_reader *reader, uint64_t object, int fd,
                                 const atomic_bool *interrupted, uint64_t *written,
                                 struct repl_error *err);

#endif
