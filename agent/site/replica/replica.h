/*
 * A volume's replica at the site: a file or block device, or of a directory tree
 * a directory, that is brought forward to each committed point, so that it can be
 * used at any time.
 *
 * It follows on the worker pool, several points at a time where it is behind.
 * What it was told to reach is kept in memory only: at a start the site tells it
 * again. Its calls belong to the loop's thread.
 */
#ifndef REPL_AGENT_REPLICA_H
#define REPL_AGENT_REPLICA_H

#include "format/wire.h"
#include "loop/loop.h"
#include "repl/error.h"
#include "site/index/index.h"
#include "store/store.h"

struct repl_replica;

/* Strings are copied; loop, pool, store and index must outlive the replica. */
struct repl_replica_options {
    struct repl_loop *loop;
    struct repl_pool *pool; /* whose threads may be held up by a slow disk */
    struct repl_store *store;
    struct repl_index *index;
    const char *volume;
    struct repl_uuid uuid;
    enum repl_volume_kind kind;
    const char *directory; /* the volume's on this machine: state and image lie there */
    const char *target;    /* "image", or the absolute path of a device, file or directory */
};

/* The file that keeps the state of a volume's replica, in the volume's directory. False: too
 * long. */
bool repl_replica_state_path(const char *directory, const char *target, char *path,
                             size_t path_size);

REPL_RESULT repl_replica_new(const struct repl_replica_options *options, struct repl_replica **out,
                             struct repl_error *err);
/* Not while busy. NULL does nothing. */
void repl_replica_free(struct repl_replica *replica);

/* The newest segment it may apply, committed and in the index: the end of a point, or, of a block
 * volume, any part of the first full. Zeros: none yet, only see whether the target is usable. */
void repl_replica_follow(struct repl_replica *replica, const struct repl_head *goal);

/* Digests of its pages, all of them as of the point it stands at: nothing is applied while it is
 * read, and what waits to be applied goes first every other time. Not of a directory tree. */
struct repl_replica_read {
    /* set by the caller; must stay until done has been called */
    uint64_t first_page;
    uint32_t page_count; /* at most REPL_DIGESTS_MAX; fewer are read where the volume ends */
    void (*done)(struct repl_replica_read *read, repl_result result, const struct repl_error *err);
    void *context;
    struct repl_digests answer; /* from done on the caller's, to be freed */
    /* private */
    struct repl_replica_read *next;
    repl_result result;
    struct repl_error err;
};
/* done is called on the loop, never from within. REPL_E_RETRY: it is not at a point just now, or it
 * was stopped. Not after stop. */
void repl_replica_read(struct repl_replica *replica, struct repl_replica_read *read);

/* Ends what is under way soon, at a place from where it can go on. For good. */
void repl_replica_stop(struct repl_replica *replica);
bool repl_replica_is_busy(const struct repl_replica *replica);

struct repl_replica_status {
    char path[256];
    struct repl_head reached;           /* zeros: nothing applied */
    bool applying;                      /* between two points */
    int64_t behind_ms;                  /* since a goal was there that it has not reached; 0 */
    char problem[REPL_ERROR_TEXT_SIZE]; /* "": none; else it tries again by itself */
};
void repl_replica_look(const struct repl_replica *replica, struct repl_replica_status *out);

#endif
