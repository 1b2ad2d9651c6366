/*
 * Which segments of a volume are merged next, as its points are given up; decides only.
 *
 * Between two kept points a and b lies a run: the segments of (a, b]. Where points in it have been
 * dropped they are to become one segment (a, b]. To do so at each dropped point would write the
 * minute that is being thinned sixty times; so a run is merged when it will not change soon again:
 *
 * - closed: since the run ends in b, the point right behind b has been dropped too. Points are
 *   dropped in the order of time, so what drops them has passed over b: b is kept by a coarser
 *   rule. It has DROPPED_MIN dropped points at least; a smaller run is soon part of a larger one.
 * - rested: no point of it was dropped for as long as the run spans, and for REST_MIN_NS.
 * - long: it is not closed, but INPUTS_MAX segments have come to it since it was looked at last:
 *   those become one, and that one waits.
 *
 * Under "1s:1h 1m:1d 1h:30d 1d:1y" each minute is merged once, then each hour, then each day: what
 * comes is written again three times at most, less what is superseded, and there are about as many
 * segments as kept points. Of 400 days at a point a second (tests/unit/journal/test_merge_year.c;
 * 22 GB a day, volume of 64 GiB):
 *
 *   pages written     results bounded by   written again, of what came   segments, at most
 *   all alike         nothing                        2.76                6164, 6016 points
 *   as Zipf has it    nothing                        1.49                6164
 *   all alike         BYTES_MAX                      1.99               22619
 *   as Zipf has it    BYTES_MAX                      1.23               13861
 *
 * At most INPUTS_MAX groups of so many bytes are merged at once. A longer run is cut evenly into
 * windows, and what they became is merged again: each byte is written once for each factor of
 * INPUTS_MAX. What is too large to be merged stays several segments, with what is superseded in
 * them.
 *
 * The run that begins with the oldest full is the BASE: its merge would write the whole volume, so
 * it is named apart, for whoever brings a full forward in another way. It is due when DROPPED_MIN
 * points of it have been dropped, or it has rested. Where a later full lies in a run, what comes
 * before it in the run is needless.
 *
 * The newest segment is never touched, nor what is before it in its run but as a long run or a
 * base, nor the parts of a group whose last part is not there: only what has a point is looked at,
 * the group as a whole.
 *
 * The segments lie in an array in their order, with merged ones as gaps until half of it is gaps. A
 * dropped point refers to what lies behind it, shortened as it is followed (union-find), so that
 * the run it belongs to is found at once. What is done for a dropped point does not depend on how
 * long the history is, but for the search of its number; a run is walked once for each time that
 * it is merged, and each call of repl_merge_plan_next looks at SWEEP runs for whether they have
 * rested. 80 bytes a segment.
 */
#ifndef REPL_MERGE_PLAN_H
#define REPL_MERGE_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"

#define REPL_MERGE_DROPPED_MIN 8u
#define REPL_MERGE_INPUTS_MAX  128u /* groups, which are a file each where none is in parts */
#define REPL_MERGE_BYTES_MAX   (UINT64_C(768) << 20) /* the result is a segment, even so */
#define REPL_MERGE_REST_MIN_NS (INT64_C(6) * 3600 * 1000000000)
#define REPL_MERGE_SWEEP       16u

struct repl_merge_segment {
    uint64_t from_seq, to_seq; /* from 0: a full */
    uint32_t part;
    bool has_point; /* point to_seq; else the next part follows, or a full */
    int64_t time_ns;
    uint64_t file_size;
};

enum repl_merge_kind {
    REPL_MERGE_RUN,
    REPL_MERGE_BASE, /* the first segment that is read is the oldest full */
};

/* Neighbouring segments that become one, which ends in point to_seq. */
struct repl_merge {
    enum repl_merge_kind kind;
    uint64_t after_seq;  /* they begin behind the segment that ends in this point; 0: with the
                            oldest */
    uint64_t to_seq;     /* and end with the one that ends in this point */
    uint64_t from_seq;   /* of the result */
    uint32_t segments;   /* how many, */
    uint32_t needless;   /* of which these, at the front, are not read: they just go */
    uint64_t size_bytes; /* of those to be read; 0: none is, the needless go and the rest stays */
};

/* A group of parts with its point. Of this file alone, as are the next two. */
struct repl_merge_item {
    uint64_t to_seq;
    uint64_t size_bytes;
    int64_t time_ns;
    uint32_t segments, needless; /* needless: parts left without an end, before this full */
    uint32_t next;               /* dropped, gone: an item behind it, not behind the kept one */
    bool full, dropped, gone;    /* gone: merged into one behind it */
    /* of the run that ends here; only while it is kept: */
    bool closed, queued, settled; /* settled: not before it has rested */
    uint32_t first;               /* its first item, which may be gone */
    uint32_t count;               /* items that are not gone */
    uint32_t fresh_first, fresh;  /* those behind what was looked at last */
    uint32_t out;                 /* merges handed out or ready */
    uint32_t fulls;               /* items that are fulls */
    int64_t changed_ns;           /* when a point of it was dropped last */
};

struct repl_merge_plan {
    uint64_t bytes_max;
    struct repl_merge_item *items; /* oldest first */
    uint32_t count, capacity, gone;
    uint32_t oldest;             /* the first that is not gone; the run it is in is the BASE */
    struct repl_merge_item open; /* the parts of a group that has no point yet */
    uint32_t sweep;              /* the item looked at next */
    uint64_t *queue;             /* the ends of runs that may be due: a ring */
    size_t queue_first, queue_count, queue_capacity;
    struct repl_merge *ready; /* found and not handed out yet */
    size_t ready_first, ready_count, ready_capacity;
};

/* bytes_max: of what is read for one merge, the BASE excepted; REPL_MERGE_BYTES_MAX where the
 * result has to be one segment. */
void repl_merge_plan_init(struct repl_merge_plan *plan, uint64_t bytes_max);
void repl_merge_plan_fini(struct repl_merge_plan *plan);

/* The next segment of the chain; its point is kept. REPL_E_CORRUPT: it does not follow.
 * REPL_E_NOMEM: it was not added, and nothing may be added behind it. */
REPL_RESULT repl_merge_plan_add(struct repl_merge_plan *plan,
                                const struct repl_merge_segment *segment, struct repl_error *err);
/* A point is given up, for good; not the newest. Nothing happens if no segment ends in it. After a
 * start all segments are added, and then those points dropped that are given up already. now_ns: of
 * any one clock, here and below; while it goes back, runs rest longer. */
void repl_merge_plan_drop(struct repl_merge_plan *plan, uint64_t seq, int64_t now_ns);

/* The next merge, each once; none is about segments that another is about which is not done yet.
 * false: none is due. Where memory is short one may come late. */
bool repl_merge_plan_next(struct repl_merge_plan *plan, int64_t now_ns, struct repl_merge *out);
/* A merge is durable: its segments are one of so many bytes (of those that stayed, where nothing
 * was read: the same as before). */
void repl_merge_plan_done(struct repl_merge_plan *plan, const struct repl_merge *merge,
                          uint64_t size_bytes);
/* It did not happen: it is named again when its run has rested or changes. */
void repl_merge_plan_failed(struct repl_merge_plan *plan, const struct repl_merge *merge,
                            int64_t now_ns);

/* Groups there are; segments if none was in parts. */
size_t repl_merge_plan_count(const struct repl_merge_plan *plan);

#endif
