/*
 * Whether the filesystem on a device is there as a whole. One that has a part
 * on another device (its journal, or its data) is not consistent in a copy of
 * this one alone.
 */
#ifndef REPL_AGENT_FILESYSTEM_H
#define REPL_AGENT_FILESYSTEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "repl/error.h"

/* Enough of a device's beginning for every superblock that is known here. */
#define REPL_FILESYSTEM_HEAD_SIZE (128u << 10)

enum repl_filesystem_kind {
    REPL_FILESYSTEM_OTHER,
    REPL_FILESYSTEM_EXT,
    REPL_FILESYSTEM_EXT_JOURNAL, /* the journal of one, on a device of its own */
    REPL_FILESYSTEM_XFS,
    REPL_FILESYSTEM_BTRFS,
};

struct repl_filesystem {
    enum repl_filesystem_kind kind;
    bool external_journal;
    dev_t journal;         /* the device it is on; 0: the superblock does not say */
    uint64_t device_count; /* of a btrfs, else 1 */
};

/* By the superblock in the first bytes of a device, at most REPL_FILESYSTEM_HEAD_SIZE of them. */
void repl_filesystem_parse(const uint8_t *head, size_t size, struct repl_filesystem *out);

/* Refuses the device, which fd has open, where the filesystem on it, or on a partition of it, has
 * a part on another disk or partition; and one that is itself such a part. path is for messages. */
REPL_RESULT repl_filesystem_check(dev_t device, int fd, const char *path, struct repl_error *err);

#endif
