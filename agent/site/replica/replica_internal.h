/*
 * The replica's insides: the target (replica_target.c), applying one segment to
 * it (replica_apply.c), reading it (replica_digests.c), and its durable state
 * (replica_state.c). All of it runs on one worker's thread at a time.
 */
#ifndef REPL_AGENT_REPLICA_INTERNAL_H
#define REPL_AGENT_REPLICA_INTERNAL_H

#include <limits.h>
#include <stdatomic.h>

#include "format/slot.h"
#include "site/replica/replica.h"

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

/* For tests: the target of a replica, and how long a step may do nothing before that is said. */
struct replica_target *repl_replica_target(struct repl_replica *replica);
void repl_replica_set_stall(struct repl_replica *replica, int64_t stall_ns);

#endif
