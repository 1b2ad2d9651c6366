/*
 * The log of a volume in a posix store, and what happens when a sync fails.
 *
 *   log          the records, appended at the end that the caller knows
 *   log.new      a rewrite or replacement in progress; one found at a start is leftover
 *   log.suspect  exists from a failed sync until the rewrite that answers it
 *
 * Invariant: bytes that log_read returned, or that log_append took with
 * success, survive a power cut. So
 *
 * - the first use in a process syncs the file and the directory: a process
 *   killed between writing and syncing leaves records that one can read and
 *   that are not durable, and the site would build on them;
 * - a tail that is cut off is cut off durably before anything is written over
 *   it, else a power cut could put a new record before what was left of an old
 *   one and make a history of both;
 * - a sync that failed says nothing about the next one: the kernel may have
 *   marked the pages clean. Such a log is suspect: it is copied up to the end
 *   into a new file, which is synced and renamed over it, before it is used
 *   again. log.suspect tells this to a process that comes after us under the
 *   same kernel. It need not survive a power cut: then the cache is gone too,
 *   and what one reads is what the disk has.
 */
#include "store/store_posix_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/read_full.h"

#define LOG_NAME     "log"
#define NEW_NAME     "log.new"
#define SUSPECT_NAME "log.suspect"

#define COPY_SIZE (256u << 10)

struct posix_log {
    struct posix_log *next;
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    pthread_mutex_t mutex; /* guards what follows, for the length of a whole call */
    int fd;                /* -1: not open yet, or there is no log */
    bool suspect;          /* a sync failed: rewrite before use */
};

/* The entry of a volume, made if need be; NULL: out of memory. */
static struct posix_log *log_of(struct posix_store *store, const char *volume)
{
    pthread_mutex_lock(&store->mutex);
    struct posix_log *log = store->logs;
    while (log != NULL && strcmp(log->volume, volume) != 0)
        log = log->next;
    if (log == NULL && (log = calloc(1, sizeof *log)) != NULL) {
        snprintf(log->volume, sizeof log->volume, "%s", volume);
        pthread_mutex_init(&log->mutex, NULL);
        log->fd = -1;
        log->next = store->logs;
        store->logs = log;
    }
    pthread_mutex_unlock(&store->mutex);
    return log;
}

void repl_posix_logs_free(struct posix_store *store)
{
    while (store->logs != NULL) {
        struct posix_log *log = store->logs;
        store->logs = log->next;
        if (log->fd >= 0)
            close(log->fd);
        pthread_mutex_destroy(&log->mutex);
        free(log);
    }
}

static repl_result log_sync_failed(struct posix_log *log, int directory, int os_errno,
                                   struct repl_error *err)
{
    log->suspect = true;
    int mark = openat(directory, SUSPECT_NAME, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (mark >= 0)
        close(mark);
    return repl_posix_fail(err, os_errno,
                           "cannot make the log of volume %s durable: check the disk under the "
                           "store; the log is rewritten at the next attempt",
                           log->volume);
}

/* Opens the log if it is not open, and makes sure that what is in it is durable. Without create
 * and without a log, fd stays -1. */
static repl_result log_open(struct posix_store *store, struct posix_log *log, int directory,
                            bool create, struct repl_error *err)
{
    if (log->fd >= 0)
        return REPL_SUCCESS;
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | (create ? O_CREAT : 0);
    int fd = openat(directory, LOG_NAME, flags, 0600);
    if (fd < 0 && errno == ENOENT)
        return REPL_SUCCESS;
    if (fd < 0)
        return repl_posix_fail(err, errno, "cannot open the log of volume %s", log->volume);
    uint64_t size;
    repl_result result = repl_posix_file_size(fd, log->volume, LOG_NAME, &size, err);
    if (!repl_ok(result)) {
        close(fd);
        return result;
    }
    log->fd = fd;
    log->suspect = faccessat(directory, SUSPECT_NAME, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (store->calls.fdatasync(fd) != 0 || store->calls.fsync(directory) != 0)
        return log_sync_failed(log, directory, errno, err);
    return REPL_SUCCESS;
}

static repl_result write_all(struct posix_store *store, int fd, const char *volume, uint64_t offset,
                             const uint8_t *data, size_t size, struct repl_error *err)
{
    while (size > 0) {
        ssize_t written = store->calls.pwrite(fd, data, size, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return repl_posix_fail(err, written < 0 ? errno : EIO,
                                   "cannot write the log of volume %s at byte %llu", volume,
                                   (unsigned long long)offset);
        data += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    return REPL_SUCCESS;
}

/* All of [offset, offset + size); a file that ends before is an error. */
static repl_result read_all(int fd, const char *volume, uint64_t offset, uint8_t *data, size_t size,
                            struct repl_error *err)
{
    ssize_t got = repl_read_full(fd, data, size, offset);
    if (got < 0)
        return repl_posix_fail(err, errno, "cannot read the log of volume %s at byte %llu", volume,
                               (unsigned long long)offset);
    if ((size_t)got < size)
        return repl_fail(err, REPL_E_CORRUPT,
                         "the log of volume %s became shorter while it was read", volume);
    return REPL_SUCCESS;
}

/* The first end bytes of the log into another file. */
static repl_result copy_to(struct posix_store *store, const struct posix_log *log, int to,
                           uint64_t end, struct repl_error *err)
{
    uint8_t *bytes = malloc(COPY_SIZE);
    if (bytes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a copy of the log of volume %s",
                         log->volume);
    repl_result result = REPL_SUCCESS;
    for (uint64_t offset = 0; repl_ok(result) && offset < end;) {
        size_t size = end - offset < COPY_SIZE ? (size_t)(end - offset) : COPY_SIZE;
        result = read_all(log->fd, log->volume, offset, bytes, size, err);
        if (repl_ok(result))
            result = write_all(store, to, log->volume, offset, bytes, size, err);
        offset += size;
    }
    free(bytes);
    return result;
}

/* --- another file in its place --------------------------------------------------------------- */

static repl_result new_make(const struct posix_log *log, int directory, int *fd,
                            struct repl_error *err)
{
    /* Not O_TRUNC: a leftover may be a file of which a sync has failed. */
    if (unlinkat(directory, NEW_NAME, 0) != 0 && errno != ENOENT)
        return repl_posix_fail(err, errno, "cannot remove log.new of volume %s", log->volume);
    *fd = openat(directory, NEW_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0)
        return repl_posix_fail(err, errno, "cannot make a new log for volume %s", log->volume);
    return REPL_SUCCESS;
}

/* What has been written to the new file, well or not, becomes the log of that name; where that
 * fails, the file is gone. The name is not durable yet. */
static repl_result new_name(struct posix_store *store, const struct posix_log *log, int directory,
                            int fd, repl_result written, struct repl_error *err)
{
    repl_result result = written;
    if (repl_ok(result) && store->calls.fsync(fd) != 0)
        result = repl_posix_fail(err, errno, "cannot make the new log of volume %s durable",
                                 log->volume);
    if (repl_ok(result) && renameat(directory, NEW_NAME, directory, LOG_NAME) != 0)
        result =
            repl_posix_fail(err, errno, "cannot put a new log in place for volume %s", log->volume);
    if (!repl_ok(result)) {
        close(fd);
        unlinkat(directory, NEW_NAME, 0);
    }
    return result;
}

static void new_take(struct posix_log *log, int fd)
{
    close(log->fd);
    log->fd = fd;
}

static void suspect_clear(struct posix_log *log, int directory)
{
    unlinkat(directory, SUSPECT_NAME, 0);
    log->suspect = false;
}

/* Puts a new file with the first end bytes in the place of a suspect one. */
static repl_result log_rewrite(struct posix_store *store, struct posix_log *log, int directory,
                               uint64_t end, struct repl_error *err)
{
    int to;
    REPL_TRY(new_make(log, directory, &to, err));
    REPL_TRY(new_name(store, log, directory, to, copy_to(store, log, to, end, err), err));
    new_take(log, to);
    if (store->calls.fsync(directory) != 0)
        return log_sync_failed(log, directory, errno, err);
    suspect_clear(log, directory);
    return REPL_SUCCESS;
}

/* Brings the log to exactly end bytes, durably. */
static repl_result log_cut(struct posix_store *store, struct posix_log *log, int directory,
                           uint64_t end, struct repl_error *err)
{
    uint64_t size;
    REPL_TRY(repl_posix_file_size(log->fd, log->volume, LOG_NAME, &size, err));
    if (size < end)
        return repl_fail(err, REPL_E_CORRUPT,
                         "the log of volume %s has %llu bytes where %llu were committed: it was "
                         "changed from outside; bring the store back from its own replica",
                         log->volume, (unsigned long long)size, (unsigned long long)end);
    if (log->suspect)
        return log_rewrite(store, log, directory, end, err);
    if (size == end)
        return REPL_SUCCESS;
    if (ftruncate(log->fd, (off_t)end) != 0)
        return repl_posix_fail(err, errno, "cannot cut the log of volume %s to %llu bytes",
                               log->volume, (unsigned long long)end);
    if (store->calls.fdatasync(log->fd) != 0)
        return log_sync_failed(log, directory, errno, err);
    return REPL_SUCCESS;
}

static repl_result log_append_locked(struct posix_store *store, struct posix_log *log,
                                     int directory, uint64_t end, const void *data, size_t size,
                                     struct repl_error *err)
{
    REPL_TRY(log_open(store, log, directory, true, err));
    REPL_TRY(log_cut(store, log, directory, end, err));
    /* Where this fails, the part that was written lies behind the end: the next append cuts it. */
    REPL_TRY(write_all(store, log->fd, log->volume, end, data, size, err));
    if (store->calls.fdatasync(log->fd) != 0)
        return log_sync_failed(log, directory, errno, err);
    return REPL_SUCCESS;
}

static repl_result log_replace_locked(struct posix_store *store, struct posix_log *log,
                                      int directory, const void *data, size_t size,
                                      struct repl_error *err)
{
    int to;
    REPL_TRY(log_open(store, log, directory, true, err));
    REPL_TRY(new_make(log, directory, &to, err));
    REPL_TRY(new_name(store, log, directory, to,
                      write_all(store, to, log->volume, 0, data, size, err), err));
    if (store->calls.fsync(directory) != 0) {
        /* The old file goes on, and gets its name again with the rewrite. */
        int failed = errno;
        close(to);
        return log_sync_failed(log, directory, failed, err);
    }
    new_take(log, to);
    suspect_clear(log, directory);
    return REPL_SUCCESS;
}

/* The entry of a volume, its mutex held. */
static repl_result log_hold(struct posix_store *store, const char *volume, struct posix_log **log,
                            struct repl_error *err)
{
    *log = log_of(store, volume);
    if (*log == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the log of volume %s", volume);
    pthread_mutex_lock(&(*log)->mutex);
    return REPL_SUCCESS;
}

/* The same for a change; the caller closes the volume's directory. */
static repl_result log_change_begin(struct posix_store *store, const char *volume,
                                    struct posix_log **log, int *directory, struct repl_error *err)
{
    REPL_TRY(repl_posix_need_writable(store, err));
    REPL_TRY(repl_posix_volume_open(store, volume, directory, err));
    repl_result result = log_hold(store, volume, log, err);
    if (!repl_ok(result))
        close(*directory);
    return result;
}

static void log_change_end(struct posix_log *log, int directory)
{
    pthread_mutex_unlock(&log->mutex);
    close(directory);
}

repl_result repl_posix_log_append(struct repl_store *base, const char *volume, uint64_t end,
                                  const void *data, size_t size, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    struct posix_log *log;
    int directory;
    REPL_TRY(log_change_begin(store, volume, &log, &directory, err));
    repl_result result = log_append_locked(store, log, directory, end, data, size, err);
    log_change_end(log, directory);
    return result;
}

repl_result repl_posix_log_replace(struct repl_store *base, const char *volume, const void *data,
                                   size_t size, uint64_t *end, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    struct posix_log *log;
    int directory;
    REPL_TRY(log_change_begin(store, volume, &log, &directory, err));
    repl_result result = log_replace_locked(store, log, directory, data, size, err);
    if (repl_ok(result))
        *end = size;
    log_change_end(log, directory);
    return result;
}

static repl_result read_whole(int fd, const char *volume, struct repl_buffer *out,
                              struct repl_error *err)
{
    uint64_t size;
    REPL_TRY(repl_posix_file_size(fd, volume, LOG_NAME, &size, err));
    if (size == 0)
        return REPL_SUCCESS;
    uint8_t *room = repl_buffer_extend(out, size);
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the log of volume %s (%llu bytes)",
                         volume, (unsigned long long)size);
    return read_all(fd, volume, 0, room, size, err);
}

static repl_result log_read_locked(struct posix_store *store, struct posix_log *log, int directory,
                                   struct repl_buffer *out, struct repl_error *err)
{
    REPL_TRY(log_open(store, log, directory, false, err));
    if (log->fd < 0)
        return REPL_SUCCESS;
    uint64_t size;
    REPL_TRY(repl_posix_file_size(log->fd, log->volume, LOG_NAME, &size, err));
    if (log->suspect)
        REPL_TRY(log_rewrite(store, log, directory, size, err));
    return read_whole(log->fd, log->volume, out, err);
}

static repl_result log_read_writable(struct posix_store *store, const char *volume, int directory,
                                     struct repl_buffer *out, struct repl_error *err)
{
    struct posix_log *log;
    REPL_TRY(log_hold(store, volume, &log, err));
    repl_result result = log_read_locked(store, log, directory, out, err);
    pthread_mutex_unlock(&log->mutex);
    return result;
}

/* A reader takes what is there: durable or not is for the process that writes. */
static repl_result log_read_unlocked(int directory, const char *volume, struct repl_buffer *out,
                                     struct repl_error *err)
{
    int fd = openat(directory, LOG_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return REPL_SUCCESS;
    if (fd < 0)
        return repl_posix_fail(err, errno, "cannot open the log of volume %s", volume);
    repl_result result = read_whole(fd, volume, out, err);
    close(fd);
    return result;
}

repl_result repl_posix_log_read(struct repl_store *base, const char *volume,
                                struct repl_buffer *out, uint64_t *begin, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    int directory;
    out->size = 0;
    if (begin != NULL)
        *begin = 0;
    repl_result result = repl_posix_volume_open(store, volume, &directory, err);
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS;
    REPL_TRY(result);
    result = store->writable ? log_read_writable(store, volume, directory, out, err)
                             : log_read_unlocked(directory, volume, out, err);
    if (!repl_ok(result))
        out->size = 0;
    close(directory);
    return result;
}
