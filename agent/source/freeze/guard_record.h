/*
 * What is frozen right now, in a file of the run directory (a tmpfs) that the
 * guard's two processes and, during a hold, the agent have mapped. Whoever of
 * them outlives the others finds in it what is left to thaw; so does the next
 * guard.
 *
 * The kernel knows no owner of a freeze: FITHAW ends whatever freeze there is.
 * So each freeze of ours may be thawed once, by the one who claims it:
 *
 *     IDLE -> FREEZING -> FROZEN -> THAWING -> THAWED
 *                     \-> IDLE (FIFREEZE failed)
 *
 * Each step is a compare-and-swap on one word that also has the hold's number,
 * so a claim cannot hit a later hold in the same slot. After THAWED nobody
 * calls FITHAW for that hold again.
 *
 * What the kernel's interface leaves open:
 *   - A process killed between FITHAW and writing THAWED (or between a refused
 *     FIFREEZE and writing IDLE): a survivor calls FITHAW once more. That does
 *     nothing, unless somebody else has frozen the filesystem in between.
 *   - Somebody else thaws our freeze: seen at our own thaw (EINVAL), and the
 *     hold was not intact. Where they froze it again as well, their freeze
 *     cannot be told from ours.
 */
#ifndef REPL_AGENT_GUARD_RECORD_H
#define REPL_AGENT_GUARD_RECORD_H

#include <stdatomic.h>
#include <sys/types.h>

#include "source/freeze/guard_protocol.h"

/* Connections at once: volumes of one host that freeze at the same moment. */
#define REPL_GUARD_SLOTS 64u

enum repl_freeze_phase {
    REPL_FREEZE_IDLE,
    REPL_FREEZE_FREEZING,
    REPL_FREEZE_FROZEN,
    REPL_FREEZE_THAWING,
    REPL_FREEZE_THAWED,
};

struct repl_freeze_entry {
    _Atomic uint64_t word; /* the hold's number and a phase, see repl_freeze_word */
    uint64_t device;       /* of the filesystem, as mountinfo has it */
    int32_t fd;            /* in the guard's table of descriptors */
    uint32_t reserved;
};

struct repl_guard_slot {
    _Atomic uint64_t hold;       /* number of the hold that is on; 0: none */
    _Atomic int64_t deadline_ns; /* of the freeze, CLOCK_MONOTONIC; 0: nothing is frozen */
    _Atomic int32_t connection;  /* descriptor; -1: none */
    _Atomic int32_t command_pid; /* of the command that runs, leader of its group; 0: none */
    _Atomic uint32_t post_owed;  /* 1: pre_command was started, post_command has not ended */
    uint32_t command_timeout_ms;
    uint32_t mount_count;
    uint32_t reserved;
    char volume[REPL_GUARD_VOLUME_SIZE];
    char post_command[REPL_GUARD_COMMAND_SIZE];
    struct repl_freeze_entry mounts[REPL_GUARD_MOUNTS_MAX];
};

struct repl_guard_table {
    uint64_t magic;
    uint32_t size;
    uint32_t reserved;
    char boot_id[40]; /* a freeze ends with the kernel it was made in */
    _Atomic uint64_t last_hold;
    struct repl_guard_slot slots[REPL_GUARD_SLOTS];
};

#define REPL_GUARD_TABLE_MAGIC UINT64_C(0x316472677c706572)

struct repl_guard_record {
    struct repl_guard_table *table;
    int fd;      /* to be given away */
    int lock_fd; /* held for as long as a guard with this record lives */
};

/* Takes the record at path, waiting a few seconds for an earlier guard to end; REPL_E_LOCKED if
 * another one goes on. What an earlier guard left in it is still there. */
REPL_RESULT repl_guard_record_open(const char *path, struct repl_guard_record *out,
                                   struct repl_error *err);
void repl_guard_record_close(struct repl_guard_record *record);
/* The agent's side: maps the record whose descriptor came with PREPARED. */
REPL_RESULT repl_guard_table_map(int fd, struct repl_guard_table **out, struct repl_error *err);
void repl_guard_table_unmap(struct repl_guard_table *table);

static inline uint64_t repl_freeze_word(uint64_t hold, enum repl_freeze_phase phase)
{
    return hold << 3 | (uint64_t)phase;
}

/* Moves the entry on; false if it is not (any more) at that hold and phase. */
bool repl_freeze_step(struct repl_freeze_entry *entry, uint64_t hold, enum repl_freeze_phase from,
                      enum repl_freeze_phase to);

/* Thaws what is FROZEN, if nobody else has claimed it. 0, or FITHAW's errno; -1: it was not
 * FROZEN. No allocation, no I/O, any thread. */
int repl_freeze_thaw(struct repl_freeze_entry *entry, uint64_t hold, int fd);
/* The same when all others who could thaw it are dead: whatever phase they have left it in.
 * True: FITHAW ended a freeze. */
bool repl_freeze_thaw_left(struct repl_freeze_entry *entry, uint64_t hold, int fd);

#endif
