/*
 * When to look for changes and when a point is cut, one volume.
 *
 * Each interval: clean the page cache (SYNC), then look at the kernel's count
 * of completed writes. If it has not moved since the last point was cut, the
 * volume is as it was and the point's time moves on (UNCHANGED). Else a ROUND:
 * the changed pages are read, compared and put into the segment being built. A
 * round during which no write completed is a consistent copy: what completed
 * before it is all there, and what was submitted meanwhile is there in part, a
 * state that a crash at the round's end could have left. That is a point (CUT).
 * A round that a write fell into was not in vain: its pages have gone ahead, and
 * the next one finds less to do.
 *
 * Times handed in are read before the counters are at the start of a round, and
 * after them at its end: a point's times enclose what they claim.
 */
#ifndef REPL_EPOCH_H
#define REPL_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

#include "repl/format.h"

/* What the kernel has counted for the device (/sys/block/DEV/stat). Sectors only: they are added
 * before whoever wrote learns that the write is complete, while the number of requests is added
 * later and also grows with flushes that write nothing, our own syncs among them. */
struct repl_write_counters {
    uint64_t sectors_written;
    uint64_t sectors_discarded;
};

enum repl_epoch_state {
    REPL_EPOCH_REST,
    REPL_EPOCH_SYNCING,
    REPL_EPOCH_READING,
};

enum repl_epoch_action_type {
    REPL_EPOCH_WAIT,      /* until until_ns */
    REPL_EPOCH_SYNC,      /* clean the page cache, then call synced (after a time limit at most) */
    REPL_EPOCH_ROUND,     /* read and compare, then call round_done */
    REPL_EPOCH_UNCHANGED, /* the last point is still the present at until_ns */
    REPL_EPOCH_CUT,       /* finish the segment with this point, then call cut_done; where it is
                             empty, there is nothing to cut: call cut_empty */
};

struct repl_epoch_action {
    enum repl_epoch_action_type type;
    int64_t until_ns;
    struct repl_point point;
};

struct repl_epoch {
    int64_t interval_ns;
    enum repl_epoch_state state;
    bool resync;      /* the next rounds compare the whole volume because trust was lost */
    int64_t due_ns;   /* when the next interval begins */
    int64_t pause_ns; /* added to it after a round in vain */
    bool at_point;    /* the counters below are those of the last point */
    struct repl_write_counters at_cut;
    uint64_t next_seq;
    uint32_t attempts;
    uint32_t torn; /* rounds that a write fell into since the last point */
    int64_t round_begin_ns;
    struct repl_write_counters round_begin;
    int64_t last_end_ns;   /* of the last point: times never go back */
    int64_t first_torn_ns; /* when trying began that has not led to a point yet; 0: not trying */
};

void repl_epoch_init(struct repl_epoch *epoch, int64_t interval_ns, uint64_t next_seq,
                     int64_t last_end_ns);

/* What to do at now. Only in state REST does time alone lead to anything but WAIT. */
void repl_epoch_tick(struct repl_epoch *epoch, int64_t now_ns, struct repl_epoch_action *action);
/* The page cache is clean, or the time limit is over: ROUND or UNCHANGED. now was read before
 * counters. */
void repl_epoch_synced(struct repl_epoch *epoch, int64_t now_ns,
                       const struct repl_write_counters *counters,
                       struct repl_epoch_action *action);
/* All that was changed has been read and is in the segment: CUT, or WAIT for the next try. now was
 * read after counters. */
void repl_epoch_round_done(struct repl_epoch *epoch, int64_t now_ns,
                           const struct repl_write_counters *counters, uint64_t changed_bytes,
                           struct repl_epoch_action *action);
void repl_epoch_cut_done(struct repl_epoch *epoch, int64_t now_ns);
/* The round found nothing that the last point does not have. */
void repl_epoch_cut_empty(struct repl_epoch *epoch, int64_t now_ns);
/* The round broke off (an unreadable page, a full spool): tried again after an interval. */
void repl_epoch_round_failed(struct repl_epoch *epoch, int64_t now_ns);
/* What was compared before is worth nothing (the chain began anew, digests were forgotten). */
void repl_epoch_distrust(struct repl_epoch *epoch, int64_t now_ns);

/* How long no point could be cut although there were changes; 0: all is well. */
int64_t repl_epoch_stuck_ns(const struct repl_epoch *epoch, int64_t now_ns);

#endif
