/*
 * The replica's insides: its life (replica.c), its durable state
 * (replica_state.c), and a step of it. Of a block volume (replica_image.c) that
 * is the target (replica_target.c), applying one segment to it (replica_apply.c)
 * and reading it (replica_digests.c); of a directory tree (replica_directory.c)
 * what tree_replica.h has. Steps run on one worker's thread at a time.
 */
#ifndef REPL_AGENT_REPLICA_INTERNAL_H
#define REPL_AGENT_REPLICA_INTERNAL_H

#include <limits.h>
#include <stdatomic.h>

#include "format/slot.h"
#include "site/replica/replica.h"
#include "site/replica/tree_replica.h"

/* --- the target ------------------------------------------------------------------------------ */

struct replica_target {
    char path[PATH_MAX];
    bool image; /* ours, in the store: may be thrown away and made anew */
    bool block;
    int fd; /* -1: closed */
    uint64_t size;
    uint64_t identity;     /* tells one file or device under the path from the next; 0: unknown */
    uint64_t device;       /* of a device: its number */
    uint64_t disk_seq;     /* and how many disks the kernel had seen before it; 0: unknown */
    atomic_int sync_errno; /* a test's: the next sync fails with it */
    atomic_bool held;      /* a test's: writes hang */
};

/* Opens it for this process alone. *fresh: there is nothing in it yet, or it is shorter than
 * size_known. */
REPL_RESULT replica_target_open(struct replica_target *target, uint64_t size_known, bool *fresh,
                                struct repl_error *err);
void replica_target_close(struct replica_target *target);
/* Whether path still names what is open: a file that was deleted or replaced is nobody's replica,
 * and a device that went away takes no writes when it has come back. */
bool replica_target_is_there(const struct replica_target *target);
/* An image is thrown away and made anew, so that no page of which a sync has failed is left; what
 * is not ours stays and is written over. */
REPL_RESULT replica_target_reset(struct replica_target *target, struct repl_error *err);
/* A file becomes as long; a device has to be. */
REPL_RESULT replica_target_resize(struct replica_target *target, uint64_t size,
                                  struct repl_error *err);
REPL_RESULT replica_target_write(struct replica_target *target, uint64_t offset, const void *data,
                                 size_t size, struct repl_error *err);
REPL_RESULT replica_target_zero(struct replica_target *target, uint64_t offset, uint64_t size,
                                struct repl_error *err);
REPL_RESULT replica_target_sync(struct replica_target *target, struct repl_error *err);

/* Digests of the pages of [offset, offset + size); offset is that of a page, and the last page may
 * be a short one (replica_digests.c). */
REPL_RESULT replica_target_digest(const struct replica_target *target, uint64_t offset,
                                  uint64_t size, struct repl_page_digest *out,
                                  struct repl_error *err);

/* Enough of a target's beginning to know what it holds. */
#define REPLICA_SIGNATURE_HEAD_SIZE (256u << 10)

/* What else a target holds, in words, by its first bytes; NULL: nothing that is known
 * (replica_signature.c). */
const char *replica_signature_find(const uint8_t *bytes, size_t size);
/* The same of an open one. */
REPL_RESULT replica_target_foreign(const struct replica_target *target, const char **name,
                                   struct repl_error *err);

/* --- the state ------------------------------------------------------------------------------- */

struct replica_state {
    char path[PATH_MAX];
    struct repl_uuid uuid;
    int fd;              /* -1: closed */
    bool spoiled;        /* a write has failed: the file is only read */
    uint64_t generation; /* of the slot written last */
    struct repl_replica_state now;
};

/* Reads it; zeros, and why in *note, where there is none to rely on. REPL_E_VERSION: a newer
 * release wrote it. */
REPL_RESULT replica_state_open(struct replica_state *state, const char **note,
                               struct repl_error *err);
void replica_state_close(struct replica_state *state);
/* Makes *next durable. After a failure the file stays, and the next call puts a new one in its
 * place. */
REPL_RESULT replica_state_write(struct replica_state *state, const struct repl_replica_state *next,
                                struct repl_error *err);

/* --- applying -------------------------------------------------------------------------------- */

struct replica_applier;

/* *alive_ns: the time at each record. */
REPL_RESULT replica_applier_new(struct repl_store *store, struct repl_index *index,
                                const char *volume, struct replica_target *target,
                                const atomic_bool *stop, atomic_int_least64_t *alive_ns,
                                struct replica_applier **out, struct repl_error *err);
void replica_applier_free(struct replica_applier *applier);
/* Writes what a segment says, which follows what the target holds. REPL_E_RETRY where *stop was
 * set meanwhile. *written: bytes given to the target so far. */
REPL_RESULT replica_apply_segment(struct replica_applier *applier,
                                  const struct repl_segments_entry *entry, uint64_t *written,
                                  struct repl_error *err);

/* --- a replica ------------------------------------------------------------------------------- */

/* A step that has more to do gives way to other replicas after so long. */
#define REPLICA_SLICE_NS (INT64_C(10) * 1000000000)

struct repl_replica {
    struct repl_loop *loop;
    struct repl_pool *pool;
    struct repl_store *store;
    struct repl_index *index;
    char volume[REPL_VOLUME_NAME_SIZE + 1];

    /* the loop's */
    struct repl_head goal;
    struct repl_timer retry;
    int64_t retry_ns;         /* the next pause, doubled at each failure in a row */
    struct repl_job job;      /* a step */
    struct repl_job read_job; /* of the first of reads */
    bool busy;                /* with one of the two */
    bool asked;               /* there is a goal to look at */
    bool waiting;             /* a step has failed: until the timer fires */
    struct repl_replica_read *reads, *reads_last;
    struct repl_replica_status status;
    int64_t behind_ns; /* when the first goal came that has not been reached; 0: none */
    int64_t newer_ns;  /* the same of those behind the step's goal */
    int64_t stall_ns;  /* STALL_NS, or a test's */
    atomic_bool stop;
    int64_t asked_ns;              /* when a thread was asked for, to step or to read */
    atomic_int_least64_t alive_ns; /* when it last did something; 0: no thread has it yet */

    /* the worker's, while busy */
    bool opened;
    bool tree; /* a directory: */
    struct replica_tree directory;
    bool rebuild;                 /* nothing of the target can be relied on */
    struct replica_target target; /* of a tree its path, and nothing else */
    struct replica_state state;
    struct repl_head step_goal;
    repl_result result;
    struct repl_error err;
};

static inline bool replica_is_before(const struct repl_head *a, const struct repl_head *b)
{
    return a->to_seq != b->to_seq ? a->to_seq < b->to_seq : a->part < b->part;
}

/* replica_where.c: does the journal know the segment that a replica stands at? An index that is
 * being made anew does not know its own end either, and says nothing: REPL_E_RETRY. */
REPL_RESULT replica_reached_check(struct repl_replica *replica, const struct repl_head *reached,
                                  bool *known, struct repl_error *err);
/* Where to begin: behind *from, or at the last full between it and the step's goal (*full). */
REPL_RESULT replica_start_find(struct repl_replica *replica, struct repl_head *from, bool *full,
                               struct repl_error *err);

REPL_RESULT replica_image_step(struct repl_replica *replica, struct repl_error *err);
void replica_image_close(struct repl_replica *replica);
REPL_RESULT replica_image_digests(const struct repl_replica *replica,
                                  const struct repl_replica_read *read, struct repl_digests *out,
                                  struct repl_error *err);

REPL_RESULT replica_directory_step(struct repl_replica *replica, struct repl_error *err);

/* For tests: the target of a replica, and how long a step may do nothing before that is said. */
struct replica_target *repl_replica_target(struct repl_replica *replica);
void repl_replica_set_stall(struct repl_replica *replica, int64_t stall_ns);

#endif
