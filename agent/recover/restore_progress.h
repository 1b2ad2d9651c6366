/*
 * What an interrupted restore needs to go on: a small file that says which
 * pieces of the target are durable, and what was written there, so that they
 * can be verified without being read from the history again.
 */
#ifndef REPL_AGENT_RESTORE_PROGRESS_H
#define REPL_AGENT_RESTORE_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "recover/target.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_RESTORE_PIECE_SIZE (1u << 20)

/* What is restored where. A file made for anything else is not gone on with. */
struct repl_restore_plan {
    struct repl_uuid volume;
    uint64_t seq;
    struct repl_digest digest; /* of the segment that ends in the point */
    uint64_t volume_size;
    char identity[REPL_TARGET_IDENTITY_SIZE]; /* of the target */
};

struct repl_restore_progress;

/* Makes the directory for what restores have to remember, with those above it. */
REPL_RESULT repl_restore_state_make(const char *directory, struct repl_error *err);

/* Opens or makes the file at path. *resumed: it is there and was made for this plan, and hashes
 * has been filled from it: of each piece the XXH3 of what is durable on the target, or 0. A file
 * made for another plan is REPL_E_REFUSED unless fresh is set, with which any file is replaced. */
REPL_RESULT repl_restore_progress_open(const char *path, const struct repl_restore_plan *plan,
                                       bool fresh, uint64_t *hashes,
                                       struct repl_restore_progress **out, bool *resumed,
                                       struct repl_error *err);
/* Leaves the file as it is. */
/* The same of a file that is there, without making or changing anything. */
REPL_RESULT repl_restore_progress_look(const char *path, const struct repl_restore_plan *plan,
                                       uint64_t *hashes, bool *resumed, struct repl_error *err);
void repl_restore_progress_close(struct repl_restore_progress *progress);

uint64_t repl_restore_piece_count(uint64_t volume_size);

/* Notes what has been written, in memory. One thread at a time. */
void repl_restore_progress_note(struct repl_restore_progress *progress, uint64_t piece,
                                uint64_t hash);
/* Takes what has been noted so far, to be saved once the target has been synced. One thread at a
 * time, and not together with note. */
REPL_RESULT repl_restore_progress_take(struct repl_restore_progress *progress,
                                       struct repl_error *err);
/* Makes durable what was taken. May run together with note. */
REPL_RESULT repl_restore_progress_save(struct repl_restore_progress *progress,
                                       struct repl_error *err);
/* The restore is complete: removes the file. */
REPL_RESULT repl_restore_progress_remove(struct repl_restore_progress *progress,
                                         struct repl_error *err);

/* The plan and the pieces that are done, for repl inspect. */
REPL_RESULT repl_restore_progress_read(const char *path, struct repl_restore_plan *plan,
                                       uint64_t *done_count, struct repl_error *err);
/* What such a file begins with. */
bool repl_restore_progress_is(const void *data, size_t size);

#endif
