/*
 * What a restore writes to: a block device or a regular file. Found, examined
 * and refused before a byte of it is changed; then written and read back.
 */
#ifndef REPL_AGENT_TARGET_H
#define REPL_AGENT_TARGET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "repl/error.h"

/* What aligned reads and writes have to be aligned to, buffers included. */
#define REPL_TARGET_ALIGNMENT 4096u

#define REPL_TARGET_IDENTITY_SIZE 256u

/* Enough of a device's beginning to know what is on it. */
#define REPL_TARGET_HEAD_SIZE (128u << 10)

struct repl_target {
    char *path;     /* as given */
    char *resolved; /* without symbolic links; of a file that does not exist yet, its own path */
    bool is_device;
    bool exists;
    uint64_t size;              /* bytes; of a file that does not exist 0 */
    dev_t device;               /* of a device: its own number; of a file: that of its filesystem */
    ino_t inode;                /* of a file */
    char model[64], serial[64]; /* of a device; "" where the kernel does not say */
    char content[64];           /* of a device: what seems to be on it */
    uint32_t block_size;        /* of a device: logical */
    uint64_t diskseq;           /* of a device: the kernel's count of disks; 0 before 5.15 */
    /* Tells it from another that gets its name, or a file's number, later. */
    char identity[REPL_TARGET_IDENTITY_SIZE];
    /* open: */
    int fd;        /* through the page cache; -1: not open */
    int direct_fd; /* past it; -1 where that cannot be done */
    bool touched;  /* it may not be any more what it was */
    bool fresh;    /* a file made by us: what was never written reads as zeros */
};

/* Looks at what path names, and reads nothing but its first bytes. */
REPL_RESULT repl_target_examine(const char *path, struct repl_target *out, struct repl_error *err);
void repl_target_fini(struct repl_target *target);
/* What people would not want to lose, in words, by the first bytes of a device. */
const char *repl_target_content(const uint8_t *head, size_t size);
/* Notes number, sizes and identity of the device that fd has open. */
REPL_RESULT repl_target_identify_device(struct repl_target *target, int fd, struct repl_error *err);
/* Notes device, number and identity of the regular file that path names, or fd, where path is
 * "". */
void repl_target_identify_file(struct repl_target *target, int fd, const char *path,
                               const struct stat *status);

/* Refuses a device that is mounted, used for swapping or held by another device, with its
 * partitions and the disk it is a part of; one that cannot be written; and a file that a loop
 * device has open. */
REPL_RESULT repl_target_check_unused(const struct repl_target *target, struct repl_error *err);
/* Whether the target is the device at path, a part of it, or contains it. */
bool repl_target_overlaps(const struct repl_target *target, const char *path);

/* Opens it for writing, a device exclusively. A file that exists is emptied, unless keep is set;
 * it gets its size. */
REPL_RESULT repl_target_open(struct repl_target *target, uint64_t volume_size, bool keep,
                             struct repl_error *err);

/* Whether that could be done, as far as one can tell without it: nothing is changed. */
REPL_RESULT repl_target_try_open(const struct repl_target *target, struct repl_error *err);

/* data is aligned to, and has room up to a multiple of, REPL_TARGET_ALIGNMENT. Any number of
 * threads. */
REPL_RESULT repl_target_write(const struct repl_target *target, uint64_t offset, const void *data,
                              size_t size, struct repl_error *err);
/* Makes the range read as zeros. */
REPL_RESULT repl_target_zero(const struct repl_target *target, uint64_t offset, uint64_t size,
                             struct repl_error *err);
/* What the device has, not what the page cache has: only after repl_target_sync. */
REPL_RESULT repl_target_read(const struct repl_target *target, uint64_t offset, void *data,
                             size_t size, struct repl_error *err);
REPL_RESULT repl_target_sync(const struct repl_target *target, struct repl_error *err);
/* Ahead of reading back: forgets what the page cache has of it. */
void repl_target_drop_cache(const struct repl_target *target);

#endif
