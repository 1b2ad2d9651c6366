/*
 * What a restore of a block volume would have to fetch, and how long that and
 * reading back would take at the rates that are measured for it, in a few
 * seconds, by reading alone.
 */
#ifndef REPL_AGENT_RESTORE_ESTIMATE_H
#define REPL_AGENT_RESTORE_ESTIMATE_H

#include <stdatomic.h>

#include "recover/history.h"
#include "recover/target.h"

/* What a rate was measured over. All 0: it was not measured. */
struct repl_restore_rate {
    uint64_t bytes;
    int64_t ns;
};

struct repl_restore_estimate {
    uint64_t data_bytes;  /* of the volume that are not zeros by its manifests */
    uint64_t done_bytes;  /* of the volume that an earlier run has left on the target */
    uint64_t write_bytes; /* data that is not among them */
    uint64_t fetch_bytes; /* as it is stored: of each frame and chunk these are made of, once */
    struct repl_restore_rate fetched; /* and decoded; not measured where there is a limit */
    struct repl_restore_rate read;    /* of the target; not measured of a file that is not there */
};

struct repl_restore_estimate_options {
    struct repl_history *history;
    struct repl_view *view;
    const uint64_t *hashes; /* of each piece; 0: not done (restore_progress.h) */
    const struct repl_target *target;
    unsigned threads;               /* 1 to REPL_RESTORE_THREADS_MAX */
    const atomic_bool *interrupted; /* may be NULL */
};

/* Takes up to some seconds. REPL_E_RETRY: interrupted. */
REPL_RESULT repl_restore_estimate(const struct repl_restore_estimate_options *options,
                                  struct repl_restore_estimate *out, struct repl_error *err);

/* How long so many bytes take at a rate; -1: it was not measured. */
int64_t repl_restore_rate_ns(const struct repl_restore_rate *rate, uint64_t bytes);

#endif
