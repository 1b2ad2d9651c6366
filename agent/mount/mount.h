/*
 * A point as a filesystem, by FUSE: read-only, without a restore.
 *
 * Whoever reads it never waits without end: a read waits for the history as
 * long as its origin does, and gives EIO then, which is logged with the reason;
 * the next read tries again. When the process ends, however it does, whatever
 * waits for it gets an error from the kernel.
 */
#ifndef REPL_AGENT_MOUNT_H
#define REPL_AGENT_MOUNT_H

#include "recover/point_reader.h"

struct repl_mount_options {
    struct repl_history *history;
    struct repl_point_reader *reader;
    const struct repl_points_entry *point;
    enum repl_volume_kind kind;
    const char *about;     /* which point it is, in words: lines of text. Of a block volume */
    const char *directory; /* checked */
};

/* Whether one may be mounted on the directory: it is one, and no point is mounted there, nor one
 * left of a process that is gone. directory: without links (mounted.h). */
REPL_RESULT repl_mount_check(const char *directory, struct repl_error *err);

struct repl_mount;
/* Mounted when it returns, but not served before repl_mount_serve. */
REPL_RESULT repl_mount_begin(const struct repl_mount_options *options, struct repl_mount **out,
                             struct repl_error *err);
/* Until it is unmounted, or SIGTERM, SIGINT or SIGHUP comes; it is unmounted then. quiet: nobody
 * reads standard error, so the system's log is told why a read fails. */
REPL_RESULT repl_mount_serve(struct repl_mount *mount, bool quiet, struct repl_error *err);
void repl_mount_end(struct repl_mount *mount);

#endif
