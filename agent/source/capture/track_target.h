/*
 * What is tracked: the disk a protected device lies on, its place there, and
 * what the kernel accounts for that disk by itself. All of it from sysfs.
 */
#ifndef REPL_AGENT_TRACK_TARGET_H
#define REPL_AGENT_TRACK_TARGET_H

#include <stdint.h>
#include <sys/types.h>

#include "block/sysfs.h"
#include "capture/audit.h"
#include "format/slot.h"
#include "repl/error.h"

struct repl_track_target {
    char disk[REPL_SYSFS_NAME_SIZE];      /* the kernel's name: "sda" */
    char identity[REPL_IDENTITY_MAX + 1]; /* of the device: see block/identity.h */
    dev_t device;                         /* may be a partition */
    uint64_t disk_major, disk_minor;
    uint64_t diskseq;      /* 0: a kernel before 5.15 */
    uint64_t start_sector; /* 0 for a whole disk */
    uint64_t sector_count;
};

REPL_RESULT repl_track_target_find(dev_t device, struct repl_track_target *out,
                                   struct repl_error *err);
/* False: the device of now is not the one of then, and why says how it differs. A device that has
 * grown is the same. */
bool repl_track_target_same(const struct repl_track_target *then,
                            const struct repl_track_target *now, char *why, size_t why_size);

/* Open files, for reading over and over. */
struct repl_accounting {
    int stat_fd;     /* /sys/block/DISK/stat */
    int inflight_fd; /* /sys/block/DISK/inflight */
};

REPL_RESULT repl_accounting_open(const struct repl_track_target *target,
                                 struct repl_accounting *out, struct repl_error *err);
void repl_accounting_close(struct repl_accounting *accounting);
REPL_RESULT repl_accounting_read(const struct repl_accounting *accounting,
                                 struct repl_audit_kernel *out, struct repl_error *err);

#endif
