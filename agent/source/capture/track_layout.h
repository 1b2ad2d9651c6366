/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the tracking programs in the kernel and the agent share: the layout of
 * the pinned maps. Any change of it, or of what the programs do, is a new
 * REPL_TRACK_VERSION: programs of the same version go on through an upgrade.
 *
 * bits     four bitmaps ("areas") over the pages of the protected device, one
 *          after the other, each of two levels: the leaf, one bit a page, then the
 *          summary, one bit for each 512 pages (a cache line of the leaf).
 * config   one struct repl_track_config: what is followed. Written by the agent;
 *          the programs read it at every event.
 * counts   one struct repl_track_counts: written by the programs.
 * faults   one struct repl_track_faults, in the test build only.
 */
#ifndef REPL_AGENT_TRACK_LAYOUT_H
#define REPL_AGENT_TRACK_LAYOUT_H

#include <linux/types.h>

#define REPL_TRACK_MAGIC     0x6b636172746c7072ull
#define REPL_TRACK_VERSION   2u
#define REPL_TRACK_PAGE_SIZE 4096u

/* Pages a summary bit stands for, and the unit a map's capacity is rounded up to: whole words of
 * the summary. */
#define REPL_TRACK_LINE_PAGES 512u
#define REPL_TRACK_LINE_WORDS (REPL_TRACK_LINE_PAGES / 64u)
#define REPL_TRACK_UNIT_PAGES (64u * REPL_TRACK_LINE_PAGES)

enum repl_track_area {
    REPL_TRACK_LANDED,    /* set at completion */
    REPL_TRACK_TOUCHED_A, /* set at submission, while config.active is 0 */
    REPL_TRACK_TOUCHED_B, /* the same, while it is 1 */
    REPL_TRACK_TAKEN,     /* of the agent alone: taken out of landed, not yet settled */
    REPL_TRACK_AREAS,
};

/* The classes of operations, as /sys/block/DISK/stat groups them: discards, and everything else
 * that writes (write zeroes and secure erase too). */
enum repl_track_class {
    REPL_TRACK_WRITE,
    REPL_TRACK_DISCARD,
    REPL_TRACK_CLASSES,
};

enum repl_track_side {
    REPL_TRACK_COMPLETION,
    REPL_TRACK_SUBMISSION,
    REPL_TRACK_WITHDRAWAL, /* submissions that ended without ever becoming a request */
    REPL_TRACK_SIDES,
};

struct repl_track_tally {
    __u64 bytes; /* of the whole disk, in whole sectors, as the kernel counts them */
    __u64 events;
    __u64 pages; /* marked, of the protected device */
};

struct repl_track_counts {
    struct repl_track_tally tallies[REPL_TRACK_SIDES][REPL_TRACK_CLASSES];
    __u64 flushes;
    __u64 fua_writes;
    __u64 lost[REPL_TRACK_SIDES]; /* ranges that could not be marked whole */
    __u64 reserved[8];
};

#define REPL_TRACK_IDENTITY_SIZE 256
#define REPL_TRACK_SAVED_WORDS   24

/* What the caller keeps over its restarts; of two slots the newer whole one counts. */
struct repl_track_saved {
    __u64 serial;
    __u64 size;
    __u64 hash; /* over the words */
    __u64 words[REPL_TRACK_SAVED_WORDS];
};

struct repl_track_config {
    __u64 magic;
    __u64 version;
    __u64 disk_major; /* the whole disk */
    __u64 disk_minor;
    __u64 diskseq;        /* 0: the kernel does not tell */
    __u64 start_sector;   /* of the protected device on it */
    __u64 sector_count;   /* may grow, see repl_tracker_grow */
    __u64 capacity_pages; /* a multiple of REPL_TRACK_UNIT_PAGES */
    __u64 leaf_words;     /* capacity_pages / 64 */
    __u64 area_words;     /* leaf_words + leaf_words / 512 */
    __u64 active;         /* which touched bitmap submissions go to */
    __u64 swapped_ns;     /* CLOCK_BOOTTIME of the last swap or the creation; UINT64_MAX: now */
    __u64 complete;       /* 1 once everything is pinned: what is not is never reused */
    struct repl_track_saved saved[2];
    char identity[REPL_TRACK_IDENTITY_SIZE];
};

/* Test build: which events the programs are to overlook, as if they had never been called. */
enum repl_track_fault {
    REPL_TRACK_DROP_WRITE_COMPLETION = 1 << 0,
    REPL_TRACK_DROP_DISCARD_COMPLETION = 1 << 1,
    REPL_TRACK_DROP_WRITE_SUBMISSION = 1 << 2,
    REPL_TRACK_DROP_DISCARD_SUBMISSION = 1 << 3,
    REPL_TRACK_DROP_FLUSH = 1 << 4,
};

struct repl_track_faults {
    __u64 mask;
    __u64 every; /* of the ranges (chosen by their first page, the same on both sides) or
                    flushes one in so many */
    __u64 limit; /* drop so many, then no more; 0: no limit */
    __u64 dropped;
    __u64 delay_loops; /* busy loops between the steps of a program, to widen the race */
    __u64 flush_serial;
};

#endif
