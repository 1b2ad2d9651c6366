/*
 * When to look for changes, when a round of reading was a consistent copy, and
 * what to do when it was not; one volume.
 *
 * Each interval: clean the page cache (SYNC), then open a round: take the time,
 * the counters and what is marked as changed. If the kernel has counted no write
 * since the last point was cut, the volume is as it was and the point's time
 * moves on (UNCHANGED). Else what is marked is read, and the round closed: the
 * counters again, and the time. It is WHOLE if nothing came in between that the
 * order of writes hangs on:
 *
 *   without a tracker  no write completed at all. What was completed before the
 *                      round is all there, and of what was submitted meanwhile a
 *                      part.
 *   in a window        no flush and no FUA write completed (write-back cache), or
 *                      none of this device's writes (write-through). A crash image
 *                      of a disk is legal when it has every write that completed
 *                      before the last completed flush and any part of the later
 *                      ones; the round has all that completed before it was opened,
 *                      and the last flush completed before that.
 *   quiesced           the filesystem is frozen: nothing at all was written to the
 *                      device. Between the user's commands: as in a window. From a
 *                      snapshot: what is read cannot change.
 *
 * A round that was torn is not in vain: what it has read has gone ahead, as in
 * live migration, and the next one finds less to do. It is opened AGAIN at once
 * for a share of the interval; then the filesystem is frozen, where that is
 * allowed, or the volume rests and has no point.
 *
 * Or the point of a tree is cut per file, where that is allowed: a round looks at
 * all that has changed, and the next ones only at those files that changed while
 * they were read, until none did, or the time for it is over; then they are taken
 * as they were read last, and counted (unstable). It begins with the first of
 * these rounds and ends with the last.
 */
#ifndef REPL_EPOCH_H
#define REPL_EPOCH_H

#include <stdbool.h>
#include <stdint.h>

#include "repl/format.h"

/* How a point may be cut. */
enum repl_quiesce {
    REPL_QUIESCE_WINDOW,             /* between barriers or not at all */
    REPL_QUIESCE_WINDOW_ELSE_FREEZE, /* frozen where no window is found */
    REPL_QUIESCE_FREEZE,             /* always frozen: clean without journal replay */
    REPL_QUIESCE_COMMAND,            /* in a window between the user's commands */
    /* of a tree: */
    REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT, /* read from a snapshot where no window is found */
    REPL_QUIESCE_SNAPSHOT,             /* always read from a snapshot */
    REPL_QUIESCE_WINDOW_ELSE_FILES,    /* of a tree: per file where no window is found */
};

static inline bool repl_quiesce_has_snapshots(enum repl_quiesce quiesce)
{
    return quiesce == REPL_QUIESCE_SNAPSHOT || quiesce == REPL_QUIESCE_WINDOW_ELSE_SNAPSHOT;
}

struct repl_write_counters {
    /* What the kernel has counted for the device (/sys/block/DEV/stat). Sectors only: they are
     * added before whoever wrote learns that the write is complete, while the number of requests is
     * added later and also grows with flushes that write nothing, our own syncs among them. */
    uint64_t sectors_written;
    uint64_t sectors_discarded;
    /* What the tracker has, before whoever wrote learns of it; zeros without one. */
    uint64_t flushes;    /* of the whole disk */
    uint64_t fua_writes; /* of the whole disk */
    uint64_t marks;      /* pages of the device, and ranges that could not be marked */
    bool write_back;     /* the disk's cache: false means that each completed write is durable */
    /* At the end of a round of a tree that is cut per file: files that were read in it and have
     * changed since, or are none of one moment. */
    uint64_t unstable;
};
#define REPL_UNSTABLE_UNKNOWN UINT64_MAX /* of unstable: some may have been overlooked */

enum repl_epoch_state {
    REPL_EPOCH_REST,
    REPL_EPOCH_SYNCING,
    REPL_EPOCH_TRYING, /* between rounds, or in one */
};

enum repl_epoch_verdict {
    REPL_EPOCH_WHOLE,   /* prove it (the audit), then ask for the point */
    REPL_EPOCH_AGAIN,   /* open another round at once */
    REPL_EPOCH_QUIESCE, /* freeze or run the command, then open another round */
    REPL_EPOCH_VAIN,    /* nothing this time; resting */
};

struct repl_epoch {
    int64_t interval_ns;
    enum repl_quiesce quiesce;
    bool tracked;
    enum repl_epoch_state state;
    bool resync;      /* the next rounds compare the whole volume because trust was lost */
    int64_t due_ns;   /* when the next interval begins */
    int64_t pause_ns; /* added to it after rounds in vain */
    int64_t began_ns; /* when this interval did */
    bool at_point;    /* the counters below are those of the last point */
    struct repl_write_counters at_cut;
    uint64_t next_seq;
    int64_t last_end_ns; /* of the last point: times never go back */

    /* this interval's tries */
    bool quiesced;
    bool no_quiesce;       /* it has failed */
    int64_t tries_ns;      /* when the first small round was opened; 0: none was */
    uint32_t tries;        /* small rounds torn */
    uint32_t stalls;       /* rounds that found hardly less than the one before */
    uint64_t found;        /* pages, by the last round */
    bool files;            /* no window was found: rounds are cut per file */
    uint32_t files_rounds; /* such rounds closed */
    int64_t files_begin_ns, files_closed_ns; /* of the first of them; 0: there was none */
    bool per_file;                           /* the one that was closed last is such a point, */
    uint64_t unstable;                       /* with so many files that were written to all along */
    int64_t first_torn_ns; /* when trying began that has not led to a point yet; 0: not trying */
    uint32_t attempts;     /* rounds since the last point */
    uint32_t torn;         /* of these, torn ones that count for people */

    /* the round */
    int64_t round_begin_ns, round_end_ns;
    struct repl_write_counters round_begin;
};

void repl_epoch_init(struct repl_epoch *epoch, int64_t interval_ns, enum repl_quiesce quiesce,
                     uint64_t next_seq, int64_t last_end_ns);

/* True: clean the page cache, then call synced (after a time limit at most). Else nothing is to do
 * before until_ns, or at all but for what is under way (INT64_MAX). */
bool repl_epoch_tick(struct repl_epoch *epoch, int64_t now_ns, int64_t *until_ns);
/* Not only at the end of the interval but as soon as possible. */
void repl_epoch_hurry(struct repl_epoch *epoch, int64_t now_ns);
void repl_epoch_synced(struct repl_epoch *epoch);

/* A round is to be opened, and there is something to be read, though not all there is: whether it
 * is to be quiesced before that. With a snapshot nobody waits, and whatever were read ahead of it
 * would be read again; so this is true of one. Then as after QUIESCE. */
bool repl_epoch_quiesce_first(struct repl_epoch *epoch);
/* No freeze, no command, no snapshot: what is tried instead, until the interval's end. */
enum repl_epoch_verdict repl_epoch_not_quiesced(struct repl_epoch *epoch, int64_t now_ns);
/* Whether the last point is still the present; pages are those marked. */
bool repl_epoch_is_unchanged(const struct repl_epoch *epoch,
                             const struct repl_write_counters *counters, uint64_t pages);
/* A round is opened; now was read before the counters and before the marked pages were taken. */
void repl_epoch_opened(struct repl_epoch *epoch, int64_t now_ns,
                       const struct repl_write_counters *counters, uint64_t pages);
/* Or there is no need of one: the volume rests. */
void repl_epoch_unchanged(struct repl_epoch *epoch, int64_t now_ns);
/* Whether the round would be whole if it were closed with these. One that is to be followed by a
 * freeze, or by the commands, never is: it only goes ahead. */
bool repl_epoch_is_whole(const struct repl_epoch *epoch,
                         const struct repl_write_counters *counters);
/* Small rounds are not tried again after this one: what comes is a freeze or a rest. */
bool repl_epoch_gives_up(const struct repl_epoch *epoch, int64_t now_ns);
/* The volumes of a group, this one among them, as they are about to be closed: a group tries, is
 * quiesced and rests as one. */
struct repl_epoch_group {
    bool whole;   /* each of them is */
    bool small;   /* each of the rounds is a small one */
    bool give_up; /* one of them does */
};
/* All of it has been read; now was read after the counters. small: so few pages that opening the
 * next one at once is worth it. group: NULL where it is cut by itself. */
enum repl_epoch_verdict repl_epoch_closed(struct repl_epoch *epoch, int64_t now_ns,
                                          const struct repl_write_counters *counters, bool small,
                                          const struct repl_epoch_group *group);
/* What was to hold it still has not been asked for: others of its group need another round first.
 */
void repl_epoch_quiesce_later(struct repl_epoch *epoch);
/* A whole round turned out not to be one (the freeze had ended, the audit was without a verdict,
 * another volume of the group failed). */
enum repl_epoch_verdict repl_epoch_spoilt(struct repl_epoch *epoch, int64_t now_ns);

/* The point that the whole round stands for; then call cut_done or, if there was nothing to cut,
 * cut_empty. */
void repl_epoch_point(const struct repl_epoch *epoch, uint64_t changed_bytes,
                      struct repl_point *out);
void repl_epoch_cut_done(struct repl_epoch *epoch, int64_t now_ns);
void repl_epoch_cut_empty(struct repl_epoch *epoch, int64_t now_ns);
/* The round broke off (an unreadable page, a full spool, no freeze): tried again after a rest. */
void repl_epoch_round_failed(struct repl_epoch *epoch, int64_t now_ns);
/* What is at the site is not what was thought: the last point no longer tells the present. resync:
 * the whole volume is compared. */
void repl_epoch_distrust(struct repl_epoch *epoch, bool resync, int64_t now_ns);

/* How long no point could be cut although there were changes; 0: all is well. */
int64_t repl_epoch_stuck_ns(const struct repl_epoch *epoch, int64_t now_ns);

#endif
