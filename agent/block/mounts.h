/*
 * What is mounted, in the mount namespace of this process.
 */
#ifndef REPL_AGENT_MOUNTS_H
#define REPL_AGENT_MOUNTS_H

#include <sys/types.h>

#include "repl/error.h"

struct repl_mount {
    unsigned long long id; /* as statx shows it */
    dev_t number;          /* of the filesystem, as stat shows it for its files */
    dev_t device;          /* the block device it is on; the same, but for btrfs and its like */
    const char *point, *type, *source;
};

typedef REPL_RESULT repl_mount_fn(void *context, const struct repl_mount *mount,
                                  struct repl_error *err);
/* Calls visit for each mount, up to the first that fails. */
REPL_RESULT repl_mounts_visit(repl_mount_fn *visit, void *context, struct repl_error *err);

/* number and device of the mount that an open file is on, which need not be what stat says of the
 * file: subvolumes of btrfs have numbers of their own. REPL_E_MISSING: it is not listed. path is
 * for messages. */
REPL_RESULT repl_mount_of(int fd, const char *path, dev_t *number, dev_t *device,
                          struct repl_error *err);

#endif
