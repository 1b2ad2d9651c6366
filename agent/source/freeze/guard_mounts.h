/*
 * Which filesystems protected block devices carry, and which must never be
 * frozen because what would thaw them depends on them.
 */
#ifndef REPL_AGENT_GUARD_MOUNTS_H
#define REPL_AGENT_GUARD_MOUNTS_H

#include <stddef.h>
#include <sys/types.h>

#include "source/freeze/guard_protocol.h"

struct repl_freeze_mount {
    dev_t device; /* of the filesystem, as mountinfo has it */
    int fd;       /* its root, or another directory of it */
    char where[256];
    char type[32];
};

struct repl_freeze_set {
    size_t count;
    struct repl_freeze_mount mounts[REPL_GUARD_MOUNTS_MAX];
};

/* What a freeze must not touch: a path, and what it is in the words of a message. Where the path
 * does not exist yet, the directory it would be made in counts. */
struct repl_freeze_protected {
    const char *path;
    const char *what;
};

/* Opens each filesystem mounted from one of the devices, from a partition of it or from what lies
 * on it (device-mapper, md); one that several of them lead to once. REPL_E_REFUSED if a device has
 * none, or if one holds something protected, be it below loop devices; the text says what to do
 * instead. */
REPL_RESULT repl_freeze_set_open(const dev_t *devices, size_t device_count,
                                 const struct repl_freeze_protected *protects, size_t protect_count,
                                 struct repl_freeze_set *out, struct repl_error *err);
void repl_freeze_set_close(struct repl_freeze_set *set);

/* Opens the filesystem with that device number for a thaw; -1: it is not mounted here. */
int repl_freeze_open_by_device(dev_t device);

#endif
