/*
 * A block device followed for a while without being replicated: what its changes
 * would cost at each RPO. Nothing is sent, and nothing is kept: the tracking is
 * this process's own (repl_tracker_open_private), and what is read is counted and
 * thrown away. An agent may replicate the device meanwhile.
 *
 * Once a second the page cache is written back, as an agent does twice in each
 * RPO, and what was written since is taken. Where a second takes longer, its
 * window is longer: all rates are by the time that it took.
 *
 * Memory: some 120 MiB, and 300 MiB for each TiB of the device.
 */
#ifndef REPL_AGENT_ESTIMATE_FOLLOW_H
#define REPL_AGENT_ESTIMATE_FOLLOW_H

#include <stdatomic.h>

#include "estimate.h"
#include "repl/error.h"
#include "source/capture/device.h"

struct repl_follow_options {
    const struct repl_device *device; /* open, and outlives the call */
    int64_t for_ns;                   /* at least a second */
    const atomic_bool *interrupted;   /* ends it early */
    /* once a second; NULL: not */
    void (*progress)(int64_t measured_ns, int64_t for_ns, uint64_t changed_bytes);
};

struct repl_follow {
    struct repl_estimate estimate;
    int64_t measured_ns;
    bool ended_early;
    uint64_t written_bytes, discarded_bytes; /* as the kernel counts them */
    uint64_t changed_bytes;                  /* of whole pages, each once a second */
    uint64_t missed_bytes;                   /* written or discarded and not seen by the tracking */
    bool known_full[REPL_ESTIMATE_CHOICES];  /* not all that was sent could be remembered */
};

/* REPL_E_REFUSED: the kernel does not let this process track, or the device is not what it was. */
REPL_RESULT repl_follow(const struct repl_follow_options *options, struct repl_follow *out,
                        struct repl_error *err);

#endif
