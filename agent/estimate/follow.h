/*
 * A block device or a tree followed for a while without being replicated: what its changes
 * would cost at each RPO. Nothing is sent, and nothing is kept: the tracking is
 * this process's own, and what is read is counted and thrown away. An agent may
 * replicate the same meanwhile.
 *
 * Once a second the page cache is written back, as an agent does twice in each
 * RPO, and what was written since is taken. Where a second takes longer, its
 * window is longer: all rates are by the time that it took.
 *
 * Memory: some 120 MiB, and 300 MiB for each TiB that is followed.
 */
#ifndef REPL_AGENT_ESTIMATE_FOLLOW_H
#define REPL_AGENT_ESTIMATE_FOLLOW_H

#include <stdatomic.h>

#include "estimate.h"
#include "estimate/followed.h"
#include "repl/error.h"

struct repl_follow_options {
    struct repl_followed *followed;
    int64_t for_ns;                 /* at least a second */
    const atomic_bool *interrupted; /* ends it early */
    /* once a second; NULL: not */
    void (*progress)(int64_t measured_ns, int64_t for_ns, uint64_t changed_bytes);
};

struct repl_follow {
    struct repl_estimate estimate;
    int64_t measured_ns;
    bool ended_early;
    struct repl_followed_counts counts;
    uint64_t changed_bytes;                 /* of whole pages, each once a second */
    bool known_full[REPL_ESTIMATE_CHOICES]; /* not all that was sent could be remembered */
};

/* REPL_E_REFUSED: the kernel does not let this process track, or what is followed is not what it
 * was. */
REPL_RESULT repl_follow(const struct repl_follow_options *options, struct repl_follow *out,
                        struct repl_error *err);

#endif
