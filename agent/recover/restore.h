/*
 * Writes a volume, as it was at a point, to a target, and reads back what it
 * wrote.
 */
#ifndef REPL_AGENT_RESTORE_H
#define REPL_AGENT_RESTORE_H

#include <stdatomic.h>

#include "recover/history.h"
#include "recover/restore_estimate.h"
#include "recover/target.h"

enum repl_restore_phase {
    REPL_RESTORE_WRITING,
    REPL_RESTORE_VERIFYING,
};

struct repl_restore_status {
    enum repl_restore_phase phase;
    uint64_t done_bytes, total_bytes; /* of the volume; what earlier runs did counts as done */
    uint64_t start_bytes;             /* done when this run began */
    int64_t elapsed_ns;               /* of the phase */
};
typedef void repl_restore_status_fn(void *context, const struct repl_restore_status *status);

struct repl_restore_options {
    struct repl_history *history;
    size_t point;               /* in the catalogue */
    struct repl_target *target; /* examined, not open */
    const char *progress_path;  /* see repl_restore_progress_path */
    bool overwrite;             /* a file that exists, or an unfinished restore, may be given up */
    bool whole;                 /* all is written, whatever the target holds already */
    bool dry_run;               /* all is checked, nothing written */
    bool estimate;              /* of a dry run: what it takes, too */
    uint64_t again_seq;         /* how the same command names the point; 0: by its own number */
    unsigned threads;           /* 0: one for each processor, two at least */
    const atomic_bool *interrupted; /* may be NULL: set to end it so that it can go on later */
    repl_restore_status_fn *status; /* about once a second; may be NULL */
    void *context;
};

struct repl_restore_result {
    bool resumed;
    uint64_t volume_size;
    uint64_t data_bytes; /* of the volume that are not zeros by its manifests */
    uint64_t same_bytes; /* of data that the target held already, and that were not written */
    uint64_t verified_bytes;
    uint64_t lost_bytes; /* written by an earlier run, not found any more, and written again */
    bool touched;        /* the target is not what it was before */
    bool complete;       /* and verified, whatever failed afterwards */
    bool mismatch;       /* what this run wrote was not what was read back */
    struct repl_restore_estimate estimate; /* of a dry run */
};

/* Where the progress of a restore to the target is remembered: beside a file, in directory for a
 * device, which the caller makes. */
REPL_RESULT repl_restore_progress_path(const struct repl_target *target, const char *directory,
                                       char *path, size_t path_size, struct repl_error *err);
/* Whether an unfinished restore is remembered there. */
bool repl_restore_is_resumable(const char *progress_path);

/* Whether the volume fits: nothing is changed. */
REPL_RESULT repl_restore_check_size(const struct repl_target *target, uint64_t volume_size,
                                    struct repl_error *err);

/* How many threads a restore takes, of whatever kind. 0: one for each processor, two at least. */
#define REPL_RESTORE_THREADS_MAX 16u
unsigned repl_restore_thread_count(unsigned wanted);

/* REPL_E_RETRY: interrupted, or the origin is away; the same call goes on. */
REPL_RESULT repl_restore_run(const struct repl_restore_options *options,
                             struct repl_restore_result *out, struct repl_error *err);
/* Puts before the text of a failed run what the operator has to know of the target. */
REPL_RESULT repl_restore_explain(repl_result result, const struct repl_restore_result *out,
                                 const struct repl_restore_options *options,
                                 struct repl_error *err);

#endif
