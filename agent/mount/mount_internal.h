/*
 * What a mounted block volume and a mounted tree have in common.
 */
#ifndef REPL_AGENT_MOUNT_INTERNAL_H
#define REPL_AGENT_MOUNT_INTERNAL_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

#include "mount/mount.h"

/* A point does not change: the kernel may keep what it was told. Seconds. */
#define REPL_MOUNT_KEEP 86400.0

struct repl_mount {
    struct repl_mount_options options;
    struct fuse_session *session;
    bool mounted;
    atomic_bool quiet, ended;
    pthread_mutex_t mutex; /* guards what has been told of errors: */
    int64_t told_s;        /* when; 0: never */
    uint64_t untold;       /* errors since then */
};

/* Answers with EIO, and says why, at most every ten seconds. */
void repl_mount_reply_failed(struct repl_mount *mount, fuse_req_t request,
                             const struct repl_error *err);

extern const struct fuse_lowlevel_ops repl_mount_image_ops;
extern const struct fuse_lowlevel_ops repl_mount_tree_ops;

#endif
