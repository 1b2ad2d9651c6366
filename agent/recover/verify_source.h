/*
 * Whether the site's replica holds what the live device does.
 *
 * The device is read from its beginning to its end, a piece at a time, and each
 * piece compared with the replica's digests. What is not equal is only suspected:
 * the volume is written meanwhile, and the replica is behind. Suspects are looked
 * at again as newer points reach the replica, until common/suspect.h has made up
 * its mind about each.
 */
#ifndef REPL_AGENT_VERIFY_SOURCE_H
#define REPL_AGENT_VERIFY_SOURCE_H

#include <stdatomic.h>

#include "recover/origin.h"
#include "source/capture/device.h"

struct repl_verify_source_status {
    bool settling;                    /* suspects, at done_bytes of the device */
    uint64_t done_bytes, total_bytes; /* of the volume */
    size_t suspect_count;
    int64_t elapsed_ns;
};

struct repl_verify_source_options {
    struct repl_origin *origin;       /* a site */
    const struct repl_device *device; /* open */
    int64_t patience_ns;              /* so long no newer point is waited for, > 0 */
    const atomic_bool *interrupted;
    void (*status)(void *context, const struct repl_verify_source_status *status); /* NULL: none */
    void *context;
};

struct repl_page_tally {
    uint64_t page_count, first_page;
};

struct repl_verify_source_result {
    uint64_t volume_size, compared_bytes;
    uint64_t first_seq, last_seq; /* the points the replica stood at meanwhile */
    struct repl_page_tally differing, changing, unclear;
    bool vague;   /* points are cut under a freeze or between commands, which may write as well */
    bool stopped; /* so much differs that the rest was not compared */
};

/* Success also where something differs: *out says so. One thread, one read of 1 MiB at a time.
 * REPL_E_REFUSED: the site keeps no replica; REPL_E_VERSION: it is too old. */
REPL_RESULT repl_verify_source(const struct repl_verify_source_options *options,
                               struct repl_verify_source_result *out, struct repl_error *err);

#endif
