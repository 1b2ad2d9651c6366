/*
 * Whether the tracking programs were called for every write: C, what they
 * counted, against K, what the kernel accounted by itself.
 *
 * What is compared, and why it can be equal to the byte:
 *
 *   Completions. block/blk-mq.c (blk_update_request, and blk_complete_request for
 *   batches) calls the tracepoint with the bytes of this step, returns if the
 *   request has no bios, and then adds the same bytes to the sectors of the
 *   request's group: discards to one, every other operation with an odd number
 *   (write, write zeroes, secure erase) to writes. It does so for each partial
 *   completion, failed ones included, and for a write within a flush sequence
 *   once: the sequence's end comes by again with no bytes. The programs count
 *   under the same conditions, so C = K but for what is between the two lines of
 *   the kernel right now, and there C is ahead. Merges do not matter, for bytes
 *   add up. Requests (the ios of the same file) are not compared: they are
 *   counted later, at another place, in other units than events, and a skipped
 *   event that changed data always shows in bytes.
 *   Flushes. flush_end_io accounts each flush of the device once, after its
 *   completion went by the same tracepoint. An empty flush that a caller issues
 *   is a write of no bytes; what reaches the device for it is what is counted.
 *   Passthrough is in neither (if iostats_passthrough puts it into K, it is a
 *   shortfall that no repair can mend, and that is the truth about it).
 *   Submissions. A bio is traced once, whole, before it is split or merged, so
 *   submitted bytes S (less those of bios that ended without ever becoming a
 *   request: EAGAIN to a REQ_NOWAIT caller is an everyday case) equal K once
 *   nothing is in flight, and exceed it by what is in flight until then.
 *
 * The audit. K is read, then C, then K again. C < K: events were skipped, at once
 * and for good. It passes when several samples, spaced in time, all have C >= K,
 * and each quantity was in one of them equal with K unchanged around it. C > K in
 * every such sample: something else is wrong (accounting was switched off).
 *
 * The repair of a shortfall: what was submitted lately is taken for changed. It
 * is exact if no submission was skipped as well. What is in flight hides a skipped
 * submission (S may well be ahead of K and yet too small), so this is decided
 * only by quiet samples: the kernel has no write in flight, before and after, K
 * did not move, and S - K is what it was at an earlier quiet sample. S behind K
 * at any sample says no at once; never quiet within the patience: no, too.
 *
 * What sums cannot tell. A bio is traced some microseconds before it is in flight.
 * One that stays there (its submitter is preempted, a scheduler keeps it) makes up
 * in S for a skipped submission of just its size. So the quiet samples of a proof
 * lie proof_ns apart, which no bio stays there while the device has nothing else
 * to do. What is left: a write of which both events were skipped, while one of
 * just its size stayed there for longer, or several took turns at it.
 *
 * The order that makes it exact: (1) the new baseline of C; (2) the quiet
 * samples; (3) the caller ORs both touched bitmaps into what it reads next. A
 * completion skipped before (1) belongs to a write submitted before (2), all of
 * which are in touched; one skipped after (1) shows against the new baseline. The
 * baseline of S is only ever taken at a quiet sample at which C was equal too, so
 * that no unaudited completion belongs to a write submitted before it; and raised
 * only after the same was seen for long, for a bio is traced a while before it is
 * in flight.
 *
 * What touched may forget. A sample settles what was submitted before it: nothing
 * in flight, C equal to K, and S too. Each of those writes has ended and was
 * counted, or S would be ahead by it. A skipped submission as large as a write
 * that was traced and not yet in flight would look the same; but when that write
 * ends, S is behind, which no repair gets past. So a page need stay in touched
 * only until a sample has settled its write: with one a second, a repair reads
 * what was written in the last seconds. For this a submission is counted before
 * it is looked up which bitmap is the active one: what a sample has not counted
 * marks the bitmap that was active then, or a later one.
 *
 * Both counts start somewhere: what is compared are differences to a baseline,
 * modulo 2^64. The smallest C - K of several samples is taken: one taken too high
 * (in the gap between the two lines) is a false alarm later, one taken too low
 * (an event skipped just then) lies before the baseline, where nothing is claimed.
 */
#ifndef REPL_CAPTURE_AUDIT_H
#define REPL_CAPTURE_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

enum repl_audit_quantity {
    REPL_AUDIT_WRITTEN,   /* bytes */
    REPL_AUDIT_DISCARDED, /* bytes */
    REPL_AUDIT_FLUSHES,
    REPL_AUDIT_QUANTITIES,
};

/* Submissions are compared in bytes only. */
#define REPL_AUDIT_SUBMITTED 2

struct repl_audit_kernel {
    uint64_t done[REPL_AUDIT_QUANTITIES];
    uint64_t in_flight; /* writes and discards, as the kernel counts them */
};

struct repl_audit_counts {
    uint64_t completed[REPL_AUDIT_QUANTITIES];
    uint64_t submitted[REPL_AUDIT_SUBMITTED]; /* less what was withdrawn */
    uint64_t lost_completions;                /* ranges that could not be marked whole */
    uint64_t lost_submissions;
};

struct repl_audit_sample {
    int64_t at_ns; /* read before all else; a clock that only grows, over restarts too */
    struct repl_audit_kernel before, after;
    struct repl_audit_counts counts; /* read between the two */
};

/* What is kept over a restart of the agent: the tracking programs go on without it. */
struct repl_audit_baseline {
    uint64_t completed[REPL_AUDIT_QUANTITIES]; /* C - K */
    uint64_t submitted[REPL_AUDIT_SUBMITTED];  /* S - K */
    uint64_t lost_completions;
    uint64_t lost_submissions;
    uint64_t completed_known; /* 0 or 1 */
    uint64_t submitted_known;
    int64_t even_ns; /* everything completed by then is marked; INT64_MIN: nothing is */
};

struct repl_audit_limits {
    int64_t spacing_ns;  /* between samples */
    uint32_t enough;     /* samples that make a verdict */
    uint32_t most;       /* after so many, no verdict is one too */
    int64_t patience_ns; /* to wait for a quiet moment */
    int64_t proof_ns;    /* between the first and the last quiet sample of a proof */
    int64_t trust_ns;    /* that more was submitted than has ended, and nothing is in flight, is
                            taken for a fact after so long */
};

#define REPL_AUDIT_LIMITS_DEFAULT                                                                  \
    ((struct repl_audit_limits){.spacing_ns = 500000,                                              \
                                .enough = 3,                                                       \
                                .most = 2000,                                                      \
                                .patience_ns = INT64_C(10000000000),                               \
                                .proof_ns = 20000000,                                              \
                                .trust_ns = INT64_C(60000000000)})

enum repl_audit_verdict {
    REPL_AUDIT_MORE,     /* another sample, not before next_ns */
    REPL_AUDIT_BASED,    /* there was no baseline; now there is, and what comes after is audited */
    REPL_AUDIT_PASSED,   /* every change completed by even_ns is marked */
    REPL_AUDIT_REPAIR,   /* OR both touched into what is read next, cut again, audit again */
    REPL_AUDIT_BUSY,     /* K moved around every sample: no verdict, try again */
    REPL_AUDIT_DEGRADED, /* changes may be missing: compare everything. cause says why */
};

enum repl_audit_state {
    REPL_AUDIT_BASING, /* collects a baseline, for the first time */
    REPL_AUDIT_AUDITING,
    REPL_AUDIT_REBASING, /* after a shortfall: a new one */
    REPL_AUDIT_PROVING,  /* and the proof that no submission was skipped */
};

#define REPL_AUDIT_CAUSE_SIZE 200

/* A higher baseline of submissions, seen lately and not trusted yet. */
struct repl_audit_raise {
    uint64_t offset;
    int64_t since_ns;
    bool seen;
};

struct repl_audit {
    struct repl_audit_limits limits;
    struct repl_audit_baseline base;
    enum repl_audit_state state;
    uint32_t samples; /* in this state */
    uint32_t steady[REPL_AUDIT_QUANTITIES];
    bool even[REPL_AUDIT_QUANTITIES];
    uint32_t quiet;   /* samples that prove, */
    int64_t quiet_ns; /* and the first of them */
    int64_t began_ns; /* the state */
    int64_t next_ns;  /* the next sample's earliest time; 0: now */
    int64_t even_ns;
    int64_t settled_ns; /* what was submitted by then has ended and is marked; INT64_MIN: unknown */
    bool data_short;    /* not only flushes */
    struct repl_audit_raise raises[REPL_AUDIT_SUBMITTED];
    struct repl_audit_baseline found;     /* the baseline being collected */
    char cause[REPL_AUDIT_CAUSE_SIZE];    /* of the last DEGRADED or REPAIR, a sentence */
    uint64_t short_bytes;                 /* of the last shortfall */
    uint64_t audits, shortfalls, repairs; /* since init */
};

/* base: as saved, or NULL to begin anew. */
void repl_audit_init(struct repl_audit *audit, const struct repl_audit_limits *limits,
                     const struct repl_audit_baseline *base);
/* An audit (or, where there is no baseline, the taking of one) begins; then feed samples. */
void repl_audit_begin(struct repl_audit *audit);
enum repl_audit_verdict repl_audit_feed(struct repl_audit *audit,
                                        const struct repl_audit_sample *sample);

/* Whether the older touched bitmap may be emptied: a sample has settled what was submitted by the
 * last swap. Where none does (a write that hangs, a driver that loses bios) both bitmaps grow. */
bool repl_audit_swap_due(const struct repl_audit *audit, int64_t swapped_ns);

#endif
