/*
 * What the two halves of the posix store share: store_posix.c (the directory,
 * its lock, volumes, segments) and store_posix_log.c (logs and their syncs).
 */
#ifndef REPL_AGENT_STORE_POSIX_INTERNAL_H
#define REPL_AGENT_STORE_POSIX_INTERNAL_H

#include <pthread.h>
#include <sys/types.h>

#include "base/limits.h"
#include "store/store.h"

/* The calls whose failure the rules of durability turn on: a test puts its own in their place. */
struct posix_store_calls {
    int (*fsync)(int fd);
    int (*fdatasync)(int fd);
    ssize_t (*pwrite)(int fd, const void *data, size_t size, off_t offset);
};

struct posix_log;

/* Lock order: mutex, then that of a log. */
struct posix_store {
    struct repl_store base;
    struct posix_store_calls calls;
    char *path; /* absolute */
    int root_fd;
    int volumes_fd;
    int lock_fd; /* -1: a reader */
    bool writable;
    pthread_mutex_t mutex;  /* guards the list below; its members live as long as the store */
    struct posix_log *logs; /* of the volumes whose log has been opened for writing */
};

static inline struct posix_store *posix_store_of(struct repl_store *store)
{
    return (struct posix_store *)store;
}

/* repl_fail_errno with the code that belongs to os_errno. */
REPL_RESULT repl_posix_fail(struct repl_error *err, int os_errno, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* REPL_E_REFUSED where the store was opened for reading. */
REPL_RESULT repl_posix_need_writable(const struct posix_store *store, struct repl_error *err);
/* The directory of a volume, closed by the caller. REPL_E_MISSING if there is no such volume. */
REPL_RESULT repl_posix_volume_open(const struct posix_store *store, const char *volume, int *fd,
                                   struct repl_error *err);
/* Is fd a regular file? Fills *size. */
REPL_RESULT repl_posix_file_size(int fd, const char *volume, const char *name, uint64_t *size,
                                 struct repl_error *err);

repl_result repl_posix_log_read(struct repl_store *store, const char *volume,
                                struct repl_buffer *out, uint64_t *begin, struct repl_error *err);
repl_result repl_posix_log_append(struct repl_store *store, const char *volume, uint64_t end,
                                  const void *data, size_t size, struct repl_error *err);
repl_result repl_posix_log_replace(struct repl_store *store, const char *volume, const void *data,
                                   size_t size, uint64_t *end, struct repl_error *err);
void repl_posix_logs_free(struct posix_store *store);

#endif
