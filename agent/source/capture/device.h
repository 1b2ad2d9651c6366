/*
 * A protected block device: what it is, how large, and what the kernel has
 * counted of writes to it.
 */
#ifndef REPL_AGENT_DEVICE_H
#define REPL_AGENT_DEVICE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "block/sysfs.h"
#include "epoch.h"
#include "format/slot.h"
#include "repl/error.h"

struct repl_device {
    char path[256];                       /* as configured */
    char name[REPL_SYSFS_NAME_SIZE];      /* the kernel's: "sda1", "loop0" */
    char identity[REPL_IDENTITY_MAX + 1]; /* see block/identity.h */
    char disk[REPL_SYSFS_NAME_SIZE];      /* the whole disk it is on, or is */
    dev_t number, disk_number;
    int fd;             /* O_DIRECT, read only */
    int stat_fd;        /* /sys/class/block/NAME/stat */
    int iostats_fd;     /* of the disk's queue: whether it counts at all */
    int write_cache_fd; /* of the disk's queue */
    uint64_t size;
};

/* Refuses, with the reason, what cannot be protected: no block device, one without a request queue
 * (device-mapper, md, NVMe multipath, RAM disks, zram, DRBD), nbd, one without I/O accounting,
 * zoned or DAX devices, and a filesystem that has a part on another device (block/filesystem.h). */
REPL_RESULT repl_device_open(const char *path, struct repl_device *out, struct repl_error *err);
void repl_device_close(struct repl_device *device);

/* The size now: it may have grown since open. */
REPL_RESULT repl_device_size(const struct repl_device *device, uint64_t *size,
                             struct repl_error *err);
/* Sectors written and discarded so far, by way of the partition or of the whole disk it is on.
 * REPL_E_REFUSED if counting was switched off, which nothing else would show. */
REPL_RESULT repl_device_counters(const struct repl_device *device, struct repl_write_counters *out,
                                 struct repl_error *err);

/* Whether the disk has a volatile write cache, as the kernel sees it: a completed write is durable
 * only after a flush. It may be switched at any time. */
REPL_RESULT repl_device_write_back(const struct repl_device *device, bool *write_back,
                                   struct repl_error *err);

/* Writes back what the page cache holds for it: syncfs of each filesystem mounted from it or from a
 * partition of it, and fsync of the device itself. Blocks for as long as that takes. */
REPL_RESULT repl_device_sync(const struct repl_device *device, struct repl_error *err);

#endif
