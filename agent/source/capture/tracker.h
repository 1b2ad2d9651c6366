/*
 * The tracking of one volume's device: eBPF programs that keep bitmaps of what
 * was written, pinned in the host's bpffs, so that they go on when the agent
 * stops and the next one continues where it left off.
 *
 *   /sys/fs/bpf/repl/UUID/{bits,config,counts,completed,submitted,withdrawn}
 *
 * Nothing here is taken on trust: take a sample after what was read, and let
 * capture/audit.h decide. One thread at a time, and one agent: the caller holds
 * the lock of its state directory.
 *
 * Kernel memory: 4 bits a page, 128 MiB a TiB, and a quarter more as headroom.
 */
#ifndef REPL_AGENT_TRACKER_H
#define REPL_AGENT_TRACKER_H

#include "base/bitmap.h"
#include "capture/audit.h"
#include "repl/error.h"
#include "repl/format.h"
#include "source/capture/track_layout.h"
#include "source/capture/track_target.h"

struct repl_tracker;

enum repl_track_origin {
    REPL_TRACK_NEW,       /* nothing was pinned: what was written before is not known */
    REPL_TRACK_CONTINUED, /* it has been tracked since it was last open */
    REPL_TRACK_LOST,      /* something was pinned that could not be used: begun anew. cause */
};

#define REPL_TRACK_CAUSE_SIZE 700

/* NEW and LOST: take a baseline (an audit until BASED), then compare the whole device. CONTINUED:
 * begin with repl_tracker_recover, and with the saved baseline. */
REPL_RESULT repl_tracker_open(const struct repl_track_target *target,
                              const struct repl_uuid *volume, struct repl_tracker **out,
                              enum repl_track_origin *origin, char cause[REPL_TRACK_CAUSE_SIZE],
                              struct repl_error *err);
/* One of this process alone, begun anew: nothing is pinned, no BPF filesystem is needed, and it
 * ends with the close or the process. Any number may follow one device, an agent's among them. */
REPL_RESULT repl_tracker_open_private(const struct repl_track_target *target,
                                      struct repl_tracker **out, struct repl_error *err);
/* What is pinned goes on. NULL is allowed. */
void repl_tracker_close(struct repl_tracker *tracker);
/* The tracking ends; what was pinned for the volume is gone. None pinned is fine. */
REPL_RESULT repl_tracker_forget(const struct repl_uuid *volume, struct repl_error *err);

/* Whether the kernel takes the programs: loads them for the smallest of devices, attaches nothing
 * and lets go of them. From any thread. */
REPL_RESULT repl_tracker_try(struct repl_error *err);

/* The pages the tracker can hold, which is more than the device has. */
uint64_t repl_tracker_capacity(const struct repl_tracker *tracker);

/* Moves what was completed since the last call into the bitmap (ORs it), and remembers it as
 * taken. Writes that complete during the call are in this one or the next. */
void repl_tracker_exchange(struct repl_tracker *tracker, struct repl_bitmap *into);
/* For a repair: what was submitted lately, completed or not. */
void repl_tracker_or_touched(struct repl_tracker *tracker, struct repl_bitmap *into);
/* What was taken and never settled: an agent before this one took it and ended. */
void repl_tracker_recover(struct repl_tracker *tracker, struct repl_bitmap *into);
/* Of all that was taken, only what is set in one of unsafe would be lost if the agent ended now;
 * the rest is in an acknowledged segment. add: what is in unsafe and was never taken is needed too.
 */
void repl_tracker_settle(struct repl_tracker *tracker, const struct repl_bitmap *const *unsafe,
                         size_t count, bool add);

/* Empties the older touched bitmap and makes it the active one, if the audit allows it by now
 * (repl_audit_swap_due); true if so. Call it after every audit that passed. */
bool repl_tracker_swap_touched(struct repl_tracker *tracker, const struct repl_audit *audit);

/* K, C, K, as an audit wants them. */
REPL_RESULT repl_tracker_sample(const struct repl_tracker *tracker, struct repl_audit_sample *out,
                                struct repl_error *err);
void repl_tracker_counts(const struct repl_tracker *tracker, struct repl_track_counts *out);
/* The clock of the samples. */
int64_t repl_tracker_now_ns(void);

/* A few words that a later open finds again (the audit's baseline); torn by no crash. size is at
 * most 8 * REPL_TRACK_SAVED_WORDS. load: false if there is nothing of that size. */
void repl_tracker_save(struct repl_tracker *tracker, const void *data, size_t size);
bool repl_tracker_load(const struct repl_tracker *tracker, void *data, size_t size);

/* Whether the device is still what it was: identity, diskseq, place, accounting. REPL_E_REFUSED
 * with the reason: tracking is void. sector_count (may be NULL): the size now. */
REPL_RESULT repl_tracker_check(const struct repl_tracker *tracker, uint64_t *sector_count,
                               struct repl_error *err);
/* Follows a device that has grown. Afterwards the caller reads all that was added. REPL_E_NOMEM:
 * more than the bitmaps hold; forget, open again and compare everything. */
REPL_RESULT repl_tracker_grow(struct repl_tracker *tracker, uint64_t sector_count,
                              struct repl_error *err);

#endif
