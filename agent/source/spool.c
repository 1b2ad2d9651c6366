/*
 * Each append is a write of its own at the next offset; they may complete in
 * any order, so a file keeps them in a queue and its readable size moves when
 * the oldest are done. A file that is dropped while writes are under way lives
 * on, without a name, until the last of them has come back.
 */
#include "source/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ensure.h"

struct spool_write {
    struct repl_io io;
    struct spool_write *next; /* the one appended after it */
    struct repl_spool_file *file;
    uint64_t end;
    size_t size;
    bool done;
    uint8_t data[];
};

struct repl_spool_file {
    struct repl_spool_file *next;
    struct repl_spool *spool;
    uint64_t number;
    int fd;
    uint64_t readable;
    uint64_t appended;
    struct spool_write *oldest, **newest;
    bool dropped;
};

void repl_spool_init(struct repl_spool *spool, struct repl_loop *loop, int dir_fd,
                     repl_spool_fn *progress, void *context)
{
    *spool = (struct repl_spool){
        .loop = loop, .dir_fd = dir_fd, .suffix = "seg", .progress = progress, .context = context};
}

void repl_spool_name(uint64_t number, char name[REPL_SPOOL_NAME_SIZE])
{
    snprintf(name, REPL_SPOOL_NAME_SIZE, "%020llu.seg", (unsigned long long)number);
}

static void file_name(const struct repl_spool *spool, uint64_t number,
                      char name[REPL_SPOOL_NAME_SIZE])
{
    snprintf(name, REPL_SPOOL_NAME_SIZE, "%020llu.%s", (unsigned long long)number, spool->suffix);
}

static void file_free(struct repl_spool_file *file)
{
    struct repl_spool_file **link = &file->spool->files;
    while (*link != file)
        link = &(*link)->next;
    *link = file->next;
    while (file->oldest != NULL) { /* behind one that failed */
        struct spool_write *write = file->oldest;
        file->oldest = write->next;
        free(write);
    }
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

/* The completed writes at the front of the queue become readable. */
static void readable_advance(struct repl_spool_file *file)
{
    while (file->oldest != NULL && file->oldest->done) {
        struct spool_write *write = file->oldest;
        file->readable = write->end;
        file->oldest = write->next;
        if (file->oldest == NULL)
            file->newest = &file->oldest;
        free(write);
    }
}

void repl_spool_drop(struct repl_spool *spool, uint64_t number)
{
    struct repl_spool_file *file = repl_spool_find(spool, number);
    if (file == NULL)
        return;
    char name[REPL_SPOOL_NAME_SIZE];
    file_name(spool, number, name);
    unlinkat(spool->dir_fd, name, 0);
    file->dropped = true;
    readable_advance(file);
    if (file->oldest == NULL)
        file_free(file);
}

void repl_spool_fini(struct repl_spool *spool)
{
    ensure(spool->writes_out == 0);
    while (spool->files != NULL)
        file_free(spool->files);
}

struct repl_spool_file *repl_spool_find(struct repl_spool *spool, uint64_t number)
{
    for (struct repl_spool_file *file = spool->files; file != NULL; file = file->next) {
        if (file->number == number && !file->dropped)
            return file;
    }
    return NULL;
}

/* A link that is down for long leaves thousands of files: only those in use keep a descriptor. One
 * that is read again is opened again. */
static void idle_files_close(struct repl_spool *spool)
{
    for (struct repl_spool_file *file = spool->files; file != NULL; file = file->next) {
        if (file->fd < 0 || file->oldest != NULL)
            continue;
        close(file->fd);
        file->fd = -1;
    }
}

/* In the list; NULL: out of memory. */
static struct repl_spool_file *file_new(struct repl_spool *spool, uint64_t number, int fd)
{
    struct repl_spool_file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return NULL;
    file->fd = fd;
    file->spool = spool;
    file->number = number;
    file->newest = &file->oldest;
    file->next = spool->files;
    spool->files = file;
    return file;
}

static repl_result file_make(struct repl_spool *spool, uint64_t number,
                             struct repl_spool_file **out, struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    file_name(spool, number, name);
    idle_files_close(spool);
    int fd = openat(spool->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                               "spool: making %s", name);
    *out = file_new(spool, number, fd);
    if (*out != NULL)
        return REPL_SUCCESS;
    close(fd);
    return repl_fail(err, REPL_E_NOMEM, "out of memory for a spool file");
}

repl_result repl_spool_adopt(struct repl_spool *spool, uint64_t number, uint64_t size,
                             struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    struct stat status;
    ensure(repl_spool_find(spool, number) == NULL);
    file_name(spool, number, name);
    if (fstatat(spool->dir_fd, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: taking over %s", name);
    if (!S_ISREG(status.st_mode) || (uint64_t)status.st_size != size)
        return repl_fail(err, REPL_E_CORRUPT, "spool: %s is not a file of %llu bytes", name,
                         (unsigned long long)size);
    struct repl_spool_file *file = file_new(spool, number, -1);
    if (file == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a spool file");
    file->readable = file->appended = size;
    return REPL_SUCCESS;
}

static repl_result file_reopen(struct repl_spool_file *file, struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    file_name(file->spool, file->number, name);
    file->fd = openat(file->spool->dir_fd, name, O_RDWR | O_CLOEXEC);
    if (file->fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: opening %s again", name);
    return REPL_SUCCESS;
}

static void write_done(struct repl_io *io, int64_t result)
{
    struct spool_write *write = io->context;
    struct repl_spool_file *file = write->file;
    struct repl_spool *spool = file->spool;
    struct repl_error err = {0};
    repl_result outcome = REPL_SUCCESS;
    spool->writes_out--;
    if (result != (int64_t)write->size) {
        int failed = result < 0 ? (int)-result : ENOSPC;
        outcome =
            repl_fail_errno(&err, failed == ENOSPC || failed == EDQUOT ? REPL_E_NOSPACE : REPL_E_IO,
                            failed, "spool: writing a segment; is the disk of [agent] state full?");
    }
    write->done = true;
    bool dropped = file->dropped;
    if (repl_ok(outcome) || dropped)
        readable_advance(file);
    if (dropped && file->oldest == NULL)
        file_free(file);
    if (dropped)
        spool->progress(spool->context, NULL, REPL_SUCCESS, NULL);
    else
        spool->progress(spool->context, file, outcome, &err);
}

repl_result repl_spool_append(struct repl_spool *spool, uint64_t number, const void *data,
                              size_t size, struct repl_error *err)
{
    struct repl_spool_file *file = repl_spool_find(spool, number);
    if (file == NULL)
        REPL_TRY(file_make(spool, number, &file, err));
    if (file->fd < 0)
        REPL_TRY(file_reopen(file, err));
    struct spool_write *write = malloc(sizeof *write + size);
    if (write == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the spool");
    *write = (struct spool_write){.io = {.done = write_done, .context = write},
                                  .file = file,
                                  .end = file->appended + size,
                                  .size = size};
    memcpy(write->data, data, size);
    *file->newest = write;
    file->newest = &write->next;
    spool->writes_out++;
    repl_loop_write(spool->loop, &write->io, file->fd, write->data, size, file->appended);
    file->appended += size;
    return REPL_SUCCESS;
}

repl_result repl_spool_open(const struct repl_spool *spool, uint64_t number, int *fd,
                            struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    file_name(spool, number, name);
    *fd = openat(spool->dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: opening %s", name);
    return REPL_SUCCESS;
}

uint64_t repl_spool_readable(const struct repl_spool_file *file)
{
    return file->readable;
}

uint64_t repl_spool_appended(const struct repl_spool_file *file)
{
    return file->appended;
}

repl_result repl_spool_read(struct repl_spool_file *file, uint64_t offset, void *out, size_t size,
                            struct repl_error *err)
{
    ensure(offset + size <= file->readable);
    if (file->fd < 0)
        REPL_TRY(file_reopen(file, err));
    for (uint8_t *to = out; size > 0;) {
        ssize_t got = pread(file->fd, to, size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return repl_fail_errno(err, REPL_E_IO, got < 0 ? errno : EIO,
                                   "spool: reading a segment back");
        to += got;
        offset += (uint64_t)got;
        size -= (size_t)got;
    }
    return REPL_SUCCESS;
}
