/*
 * Writes a tree, as it was at a point, into a directory, and reads back what it
 * wrote. What is there already and equal is left alone, to its times.
 *
 * A file whose content differs is written under another name beside it and
 * renamed over it, so that whoever reads it has it as it was or as it shall be;
 * only one of more than 64 MiB of which at most a quarter differs is changed in
 * place, page by page. A file that is not there is written under its own name.
 */
#ifndef REPL_AGENT_TREE_RESTORE_H
#define REPL_AGENT_TREE_RESTORE_H

#include <stdatomic.h>
#include <sys/types.h>

#include "recover/history.h"

enum repl_tree_phase {
    REPL_TREE_READING,   /* what the tree was, out of the history */
    REPL_TREE_WRITING,   /* and comparing with what is there */
    REPL_TREE_VERIFYING, /* reading back */
};

struct repl_tree_status {
    enum repl_tree_phase phase;
    uint64_t done, total; /* files and whatever else is no directory; total 0: not known yet */
    uint64_t bytes;       /* compared, written or read back */
    int64_t elapsed_ns;   /* of the phase */
};

enum repl_tree_owner {
    REPL_TREE_OWNER_NUMERIC, /* as it was */
    REPL_TREE_OWNER_SKIP,    /* whoever restores */
    REPL_TREE_OWNER_GIVEN,
};

/* What may happen to what is there. */
enum repl_tree_change {
    REPL_TREE_MAKE,
    REPL_TREE_CONTENT,
    REPL_TREE_METADATA,
    REPL_TREE_REMOVE,
    REPL_TREE_CHANGE_COUNT,
};

/* Kinds of metadata that a target may not be able to hold. */
enum repl_tree_lack {
    REPL_TREE_LACK_ATTRIBUTE,
    REPL_TREE_LACK_FLAGS,
    REPL_TREE_LACK_PROJECT,
    REPL_TREE_LACK_TIME,
    REPL_TREE_LACK_SETUID, /* of a file that gets another owner: it would run as somebody else */
    REPL_TREE_LACK_COUNT,
};

struct repl_tree_options {
    struct repl_history *history;
    size_t point;      /* in the catalogue */
    const char *to;    /* a directory; made if it is not there */
    const char *path;  /* "": all; else relative to the tree's top */
    const char *state; /* the directory for temporary files; made if it is not there */
    bool overwrite;    /* what is of another kind may be replaced */
    bool exact;        /* what the point does not have is removed */
    bool temporary;    /* what is in `to` goes if this fails: no later run goes on with it */
    bool dry_run;      /* nothing is changed, change is called for what would be */
    enum repl_tree_owner owner;
    uid_t uid; /* if given */
    gid_t gid;
    unsigned threads;               /* 0: one for each processor, two at least */
    const atomic_bool *interrupted; /* may be NULL: set to end it; the same call goes on later */
    /* All may be NULL, and are called by one thread at a time: status as a phase begins and about
     * once a second; change and fault with a path relative to `to`, safe for a terminal. */
    void (*status)(void *context, const struct repl_tree_status *status);
    void (*change)(void *context, enum repl_tree_change change, const char *path);
    void (*fault)(void *context, const char *path, const struct repl_error *err);
    void *context;
};

struct repl_tree_result {
    uint64_t files, directories, others; /* of the point, or of the part of it that is wanted */
    uint64_t data_bytes;                 /* of the files, without holes and zeros */
    uint64_t equal;                      /* files that were left alone */
    uint64_t changes[REPL_TREE_CHANGE_COUNT];
    uint64_t faults; /* things that could not be restored; each was told, but for those within a
                      * directory that was */
    bool corrupt;    /* one of them for the sake of the history, or of what was read back */
    bool touched;    /* the directory may not be what it was before */
    struct {
        uint64_t count;
        char first[REPL_ERROR_TEXT_SIZE]; /* where, and why */
    } lacks[REPL_TREE_LACK_COUNT];
};

/* REPL_E_RETRY: interrupted, or the origin is away. REPL_E_REFUSED or REPL_E_CORRUPT, with faults
 * counted: all but these is restored. */
REPL_RESULT repl_tree_restore(const struct repl_tree_options *options, struct repl_tree_result *out,
                              struct repl_error *err);

#endif
