/*
 * Each append is a write of its own at the next offset; they may complete in
 * any order, so a file keeps them in a queue and its readable size moves when
 * the oldest are done. A file that is dropped while something is under way lives
 * on, without a name, until the last of it has come back.
 */
#include "source/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/ensure.h"

/* Read through the loop at once. */
#define AHEAD_SIZE (1u << 20)

struct spool_write {
    struct repl_io io;
    struct spool_write *next; /* the one appended after it */
    struct repl_spool_file *file;
    uint64_t end;
    size_t size;
    bool done;
    uint8_t data[];
};

/* A piece of a file that was not in the page cache. */
struct spool_ahead {
    struct repl_io io;
    bool out; /* it is being read */
    uint64_t offset;
    size_t size; /* bytes that are there */
    uint8_t data[AHEAD_SIZE];
};

struct repl_spool_file {
    struct repl_spool_file *prev, *next;
    struct repl_spool *spool;
    uint64_t number;
    int fd;
    uint64_t readable;
    uint64_t appended;
    struct spool_write *oldest, **newest;
    struct spool_ahead *ahead; /* NULL: none was needed lately */
    bool dropped;
};

void repl_spool_init(struct repl_spool *spool, struct repl_loop *loop, int dir_fd,
                     const char *suffix, repl_spool_fn *progress, void *context)
{
    *spool = (struct repl_spool){
        .loop = loop, .dir_fd = dir_fd, .suffix = suffix, .progress = progress, .context = context};
}

bool repl_spool_is_idle(const struct repl_spool *spool)
{
    return spool->writes_out == 0 && spool->reads_out == 0;
}

void repl_spool_name(uint64_t number, const char *suffix, char name[REPL_SPOOL_NAME_SIZE])
{
    snprintf(name, REPL_SPOOL_NAME_SIZE, "%020llu.%s", (unsigned long long)number, suffix);
}

/* --- the list -------------------------------------------------------------------------------- */

/* At the end, as a rule: numbers grow. */
static void list_insert(struct repl_spool *spool, struct repl_spool_file *file)
{
    struct repl_spool_file *prev = spool->newest;
    while (prev != NULL && prev->number > file->number)
        prev = prev->prev;
    file->prev = prev;
    file->next = prev != NULL ? prev->next : spool->oldest;
    *(file->next != NULL ? &file->next->prev : &spool->newest) = file;
    *(prev != NULL ? &prev->next : &spool->oldest) = file;
}

static void list_remove(struct repl_spool *spool, struct repl_spool_file *file)
{
    *(file->next != NULL ? &file->next->prev : &spool->newest) = file->prev;
    *(file->prev != NULL ? &file->prev->next : &spool->oldest) = file->next;
}

/* The newest is what is written, the oldest what is sent: neither takes a search. */
struct repl_spool_file *repl_spool_find(struct repl_spool *spool, uint64_t number)
{
    struct repl_spool_file *newest = spool->newest;
    if (newest != NULL && newest->number == number && !newest->dropped)
        return newest;
    for (struct repl_spool_file *file = spool->oldest; file != NULL && file->number <= number;
         file = file->next) {
        if (file->number == number && !file->dropped)
            return file;
    }
    return NULL;
}

/* --- a file ---------------------------------------------------------------------------------- */

static bool is_busy(const struct repl_spool_file *file)
{
    return file->oldest != NULL || (file->ahead != NULL && file->ahead->out);
}

static void file_free(struct repl_spool_file *file)
{
    list_remove(file->spool, file);
    while (file->oldest != NULL) { /* behind one that failed */
        struct spool_write *write = file->oldest;
        file->oldest = write->next;
        free(write);
    }
    if (file->fd >= 0)
        close(file->fd);
    free(file->ahead);
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
    repl_spool_name(number, spool->suffix, name);
    unlinkat(spool->dir_fd, name, 0);
    file->dropped = true;
    readable_advance(file);
    if (!is_busy(file))
        file_free(file);
}

void repl_spool_fini(struct repl_spool *spool)
{
    ensure(repl_spool_is_idle(spool));
    while (spool->oldest != NULL)
        file_free(spool->oldest);
}

/* A link that is down for long leaves thousands of files: only those in use keep a descriptor. One
 * that is read again is opened again. */
static void idle_files_close(struct repl_spool *spool)
{
    for (struct repl_spool_file *file = spool->oldest; file != NULL; file = file->next) {
        if (file->fd < 0 || is_busy(file))
            continue;
        close(file->fd);
        file->fd = -1;
        free(file->ahead);
        file->ahead = NULL;
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
    list_insert(spool, file);
    return file;
}

/* An error of the file system under the spool, a full one told apart. */
static repl_result disk_fail(struct repl_error *err, int failed, const char *doing,
                             const char *name)
{
    if (failed == ENOSPC || failed == EDQUOT)
        return repl_fail_errno(err, REPL_E_NOSPACE, failed,
                               "no room for the spool under [agent] state, so no point is cut; "
                               "what changes is remembered, and goes on as soon as there is room: "
                               "%s %s",
                               doing, name);
    return repl_fail_errno(err, REPL_E_IO, failed, "spool: %s %s", doing, name);
}

static repl_result file_make(struct repl_spool *spool, uint64_t number,
                             struct repl_spool_file **out, struct repl_error *err)
{
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(number, spool->suffix, name);
    idle_files_close(spool);
    int fd = openat(spool->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return disk_fail(err, errno, "making", name);
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
    repl_spool_name(number, spool->suffix, name);
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
    repl_spool_name(file->number, file->spool->suffix, name);
    file->fd = openat(file->spool->dir_fd, name, O_RDWR | O_CLOEXEC);
    if (file->fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: opening %s again", name);
    return REPL_SUCCESS;
}

/* Something of the file has come to its end: it is told, and what was dropped may go. */
static void progress(struct repl_spool_file *file, repl_result result, const struct repl_error *err)
{
    struct repl_spool *spool = file->spool;
    if (!file->dropped) {
        spool->progress(spool->context, file, result, err);
        return;
    }
    if (!is_busy(file))
        file_free(file);
    spool->progress(spool->context, NULL, REPL_SUCCESS, NULL);
}

/* --- writing --------------------------------------------------------------------------------- */

static void write_done(struct repl_io *io, int64_t result)
{
    struct spool_write *write = io->context;
    struct repl_spool_file *file = write->file;
    struct repl_spool *spool = file->spool;
    struct repl_error err = {0};
    repl_result outcome = REPL_SUCCESS;
    spool->writes_out--;
    if (result != (int64_t)write->size) {
        char name[REPL_SPOOL_NAME_SIZE];
        repl_spool_name(file->number, spool->suffix, name);
        outcome = disk_fail(&err, result < 0 ? (int)-result : ENOSPC, "writing", name);
    }
    write->done = true;
    if (repl_ok(outcome) || file->dropped)
        readable_advance(file);
    progress(file, outcome, &err);
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
    repl_spool_name(number, spool->suffix, name);
    *fd = openat(spool->dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: opening %s", name);
    return REPL_SUCCESS;
}

uint64_t repl_spool_number(const struct repl_spool_file *file)
{
    return file->number;
}

uint64_t repl_spool_readable(const struct repl_spool_file *file)
{
    return file->readable;
}

uint64_t repl_spool_appended(const struct repl_spool_file *file)
{
    return file->appended;
}

/* --- reading --------------------------------------------------------------------------------- */

static void ahead_done(struct repl_io *io, int64_t result)
{
    struct repl_spool_file *file = io->context;
    struct spool_ahead *ahead = file->ahead;
    struct repl_error err = {0};
    repl_result outcome = REPL_SUCCESS;
    file->spool->reads_out--;
    ahead->out = false;
    ahead->size = result > 0 ? (size_t)result : 0;
    if (result <= 0)
        outcome = repl_fail_errno(&err, REPL_E_IO, result < 0 ? (int)-result : EIO,
                                  "spool: reading a segment back");
    progress(file, outcome, &err);
}

static repl_result ahead_start(struct repl_spool_file *file, uint64_t offset,
                               struct repl_error *err)
{
    struct repl_spool *spool = file->spool;
    if (file->ahead == NULL)
        file->ahead = malloc(sizeof *file->ahead);
    struct spool_ahead *ahead = file->ahead;
    if (ahead == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for reading the spool back");
    uint64_t left = file->readable - offset;
    ahead->io = (struct repl_io){.done = ahead_done, .context = file};
    ahead->out = true;
    ahead->offset = offset;
    ahead->size = 0;
    spool->reads_out++;
    repl_loop_read(spool->loop, &ahead->io, file->fd, ahead->data,
                   left < AHEAD_SIZE ? (size_t)left : AHEAD_SIZE, offset);
    return REPL_SUCCESS;
}

repl_result repl_spool_read(struct repl_spool_file *file, uint64_t offset, void *out, size_t size,
                            size_t *got, struct repl_error *err)
{
    struct spool_ahead *ahead = file->ahead;
    *got = 0;
    ensure(offset + size <= file->readable);
    if (ahead != NULL && ahead->out)
        return REPL_SUCCESS;
    if (ahead != NULL && offset >= ahead->offset && offset < ahead->offset + ahead->size) {
        size_t skip = (size_t)(offset - ahead->offset);
        *got = size < ahead->size - skip ? size : ahead->size - skip;
        memcpy(out, ahead->data + skip, *got);
        return REPL_SUCCESS;
    }
    if (file->fd < 0)
        REPL_TRY(file_reopen(file, err));
    struct iovec vec = {.iov_base = out, .iov_len = size};
    ssize_t moved = preadv2(file->fd, &vec, 1, (off_t)offset, RWF_NOWAIT);
    if (moved > 0) {
        *got = (size_t)moved;
        return REPL_SUCCESS;
    }
    /* not in the page cache, or a filesystem that cannot tell; what else is wrong shows there too
     */
    return ahead_start(file, offset, err);
}
