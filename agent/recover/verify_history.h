/*
 * Whether a history is whole: every segment against its digest, the chain,
 * every chunk that is referred to, whether a tree makes sense; and the site's
 * replica against the history.
 */
#ifndef REPL_AGENT_VERIFY_HISTORY_H
#define REPL_AGENT_VERIFY_HISTORY_H

#include <stdatomic.h>

#include "recover/history.h"

/* One sentence about something that is wrong. From any thread, one at a time. */
typedef void repl_finding_fn(void *context, const char *text);

struct repl_verify_options {
    struct repl_history *history;
    const bool *skip;               /* of each segment, then of each supply: it is whole; or NULL */
    unsigned threads;               /* 0: one for each processor, two at least */
    const atomic_bool *interrupted; /* may be NULL */
    repl_finding_fn *finding;
    void *context;
};

struct repl_verify_result {
    uint64_t segment_count, supply_count, bytes, reference_count;
    uint64_t damaged_count; /* segments and supplies that are not what they should be */
    uint64_t broken_links;
    bool tree;                            /* the volume is one: */
    uint64_t tree_count, senseless_count; /* looked at as a whole; that make no sense */
    bool *point_affected;                 /* of each point of the catalogue; freed by fini */
    uint64_t affected_count;
};
void repl_verify_result_fini(struct repl_verify_result *result);

/* skip is about what is read: what is left out counts as whole, also in the chain and in a tree
 * none of which is read. Success also where damage was found: *out says so. */
REPL_RESULT repl_verify_history(const struct repl_verify_options *options,
                                struct repl_verify_result *out, struct repl_error *err);

enum repl_replica_verdict {
    REPL_REPLICA_SAME,
    REPL_REPLICA_DIFFERS,
    REPL_REPLICA_EMPTY,   /* nothing has been applied to it yet */
    REPL_REPLICA_BETWEEN, /* being brought forward: between two points */
    REPL_REPLICA_MOVED,   /* it went on while it was compared, and parts differed: try again */
};

struct repl_replica_result {
    enum repl_replica_verdict verdict;
    uint64_t seq; /* the point it stands at */
    uint64_t compared_bytes, differing_bytes /* in pages */, first_difference;
};

/* state_path: its replica.state; image_path: the image or device. */
REPL_RESULT repl_verify_replica(const struct repl_verify_options *options, const char *state_path,
                                const char *image_path, struct repl_replica_result *out,
                                struct repl_error *err);

#endif
