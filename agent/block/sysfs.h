/*
 * What sysfs says of a block device, which is named by its number: the name may
 * be another's tomorrow. Attributes are paths below the device's directory
 * ("queue/iostats", "sda1/start").
 */
#ifndef REPL_AGENT_SYSFS_H
#define REPL_AGENT_SYSFS_H

#include <stdint.h>
#include <sys/types.h>

#include "repl/error.h"

#define REPL_SYSFS_NAME_SIZE   64
#define REPL_SYSFS_SECTOR_SIZE 512u /* of "size", "start" and "stat", whatever the device has */

/* The first line, without its end; false if there is none, or an empty one. */
bool repl_sysfs_read(dev_t device, const char *attribute, char *out, size_t size);
/* false: *out is 0. */
bool repl_sysfs_read_number(dev_t device, const char *attribute, uint64_t *out);
bool repl_sysfs_has(dev_t device, const char *attribute);
/* For an attribute that is read over and over. */
REPL_RESULT repl_sysfs_open(dev_t device, const char *attribute, int *fd, struct repl_error *err);

/* "sda1" */
REPL_RESULT repl_sysfs_name(dev_t device, char out[REPL_SYSFS_NAME_SIZE], struct repl_error *err);
/* The disk that a partition lies on; of anything else itself. */
dev_t repl_sysfs_disk(dev_t device);
/* Whether they are the same, or one is the disk that the other is a partition of. */
bool repl_sysfs_overlap(dev_t a, dev_t b);

typedef REPL_RESULT repl_sysfs_partition_fn(void *context, const char *name,
                                            struct repl_error *err);
/* Calls visit for each partition of the disk, up to the first that fails. */
REPL_RESULT repl_sysfs_partitions(dev_t disk, repl_sysfs_partition_fn *visit, void *context,
                                  struct repl_error *err);

#endif
