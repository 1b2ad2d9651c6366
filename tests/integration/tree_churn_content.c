/* tree_churn: what changes what is in files. */
#include "tree_churn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SPARSE_MAX (UINT64_C(1) << 36) /* where in a sparse file the data may lie */

static uint64_t size_of(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static int end(int fd, int error)
{
    close(fd);
    return error;
}

static int write_content(struct writer *w, int fd, uint64_t offset, size_t size)
{
    content(w, size);
    return error_of((int)pwrite(fd, w->buffer, size, (off_t)offset));
}

/* --- writing --------------------------------------------------------------------------------- */

static int write_page(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY, &fd);
    if (error != 0)
        return error;
    uint64_t pages = size_of(fd) / PAGE;
    uint64_t among = pages < FILE_USUAL / PAGE ? pages + 1 : pages;
    return end(fd, write_content(w, fd, any(w, among) * PAGE, PAGE));
}

static int write_unaligned(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY, &fd);
    if (error != 0)
        return error;
    uint64_t size = size_of(fd) < FILE_USUAL ? FILE_USUAL : size_of(fd);
    return end(fd, write_content(w, fd, any(w, size), 1 + any(w, 3 * PAGE)));
}

static int write_large(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY, &fd);
    if (error != 0)
        return error;
    return end(fd, write_content(w, fd, any(w, FILE_USUAL), WRITE_MAX / 2 + any(w, WRITE_MAX / 2)));
}

static int append(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY | O_APPEND, &fd);
    if (error != 0)
        return error;
    size_t size = 1 + any(w, 6000);
    content(w, size);
    return end(fd, error_of((int)write(fd, w->buffer, size)));
}

static int write_zeros(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY, &fd);
    if (error != 0)
        return error;
    size_t size = PAGE * (1 + any(w, 8));
    memset(w->buffer, 0, size);
    return end(fd, error_of((int)pwrite(fd, w->buffer, size,
                                        (off_t)(any(w, size_of(fd) / PAGE + 1) * PAGE))));
}

static int write_synced(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY | O_DSYNC, &fd);
    if (error != 0)
        return error;
    return end(fd, write_content(w, fd, any(w, size_of(fd) + 1), 1 + any(w, PAGE)));
}

static int write_direct(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY | O_DIRECT, &fd);
    if (error != 0)
        return error;
    return end(
        fd, write_content(w, fd, any(w, size_of(fd) / PAGE + 1) * PAGE, PAGE * (1 + any(w, 16))));
}

/* Pieces far apart, holes between them. */
static int write_sparse(struct writer *w)
{
    struct place p;
    int error = place_new(w, EITHER, &p);
    if (error != 0)
        return error;
    int fd = openat(p.fd, p.name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    error = error_of(fd);
    for (unsigned i = 0; error == 0 && i < 4; i++)
        error = write_content(w, fd, any(w, SPARSE_MAX >> any(w, 20)), 1 + any(w, 2 * PAGE));
    if (fd >= 0)
        close(fd);
    if (error == 0)
        atomic_fetch_add(&w->world->objects, 1);
    place_end(&p);
    return error;
}

/* --- size and space -------------------------------------------------------------------------- */

static int truncate_shorter(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY, &fd);
    if (error != 0)
        return error;
    return end(fd, error_of(ftruncate(fd, (off_t)any(w, size_of(fd)))));
}

static int truncate_longer(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY, &fd);
    if (error != 0)
        return error;
    return end(fd, error_of(ftruncate(fd, (off_t)(size_of(fd) + any(w, 3 * FILE_USUAL)))));
}

/* Shorter and longer again between two looks at it. */
static int truncate_twice(struct writer *w)
{
    int fd, error = file_open(w, O_WRONLY, &fd);
    if (error != 0)
        return error;
    uint64_t size = size_of(fd);
    error = error_of(ftruncate(fd, (off_t)any(w, size)));
    return end(fd, error != 0 ? error : error_of(ftruncate(fd, (off_t)size)));
}

static int space(struct writer *w, int mode, bool at_pages)
{
    int fd, error = file_open(w, O_RDWR, &fd);
    if (error != 0)
        return error;
    uint64_t size = size_of(fd), offset = any(w, size + 1), length = 1 + any(w, 8 * PAGE);
    if (at_pages) {
        offset = offset / PAGE * PAGE;
        length = (length + PAGE - 1) / PAGE * PAGE;
        if (offset + length >= size) /* nothing to move */
            return end(fd, EAGAIN);
    }
    return end(fd, error_of(fallocate(fd, mode, (off_t)offset, (off_t)length)));
}

static int allocate(struct writer *w)
{
    return space(w, any(w, 2) == 0 ? 0 : FALLOC_FL_KEEP_SIZE, false);
}

static int punch_hole(struct writer *w)
{
    return space(w, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, false);
}

static int zero_range(struct writer *w)
{
    return space(w, FALLOC_FL_ZERO_RANGE | (any(w, 2) == 0 ? 0 : FALLOC_FL_KEEP_SIZE), false);
}

static int collapse_range(struct writer *w)
{
    return space(w, FALLOC_FL_COLLAPSE_RANGE, true);
}

static int insert_range(struct writer *w)
{
    return space(w, FALLOC_FL_INSERT_RANGE, true);
}

/* --- from file to file ----------------------------------------------------------------------- */

static int two_open(struct writer *w, int *from, int *to)
{
    int error = file_open(w, O_RDONLY, from);
    if (error != 0)
        return error;
    error = file_open(w, O_WRONLY, to);
    if (error != 0)
        close(*from);
    return error;
}

static int copy_range(struct writer *w)
{
    int from, to, error = two_open(w, &from, &to);
    if (error != 0)
        return error;
    off_t at = (off_t)any(w, size_of(from)), into = (off_t)any(w, size_of(to) + 1);
    ssize_t copied = copy_file_range(from, &at, to, &into, 1 + any(w, FILE_USUAL), 0);
    error = copied < 0 ? errno : copied == 0 ? EAGAIN : 0;
    close(from);
    return end(to, error);
}

static int reflink(struct writer *w)
{
    int from, to, error = two_open(w, &from, &to);
    if (error != 0)
        return error;
    error = error_of(ioctl(to, FICLONE, from));
    close(from);
    return end(to, error);
}

static int reflink_range(struct writer *w)
{
    int from, to, error = two_open(w, &from, &to);
    if (error != 0)
        return error;
    const struct file_clone_range range = {
        .src_fd = from,
        .src_offset = any(w, size_of(from) / PAGE / 2) * PAGE,
        .src_length = PAGE * (1 + any(w, size_of(from) / PAGE / 2)),
        .dest_offset = any(w, size_of(to) / PAGE + 1) * PAGE,
    };
    error = size_of(from) < 4 * PAGE ? EAGAIN : error_of(ioctl(to, FICLONERANGE, &range));
    close(from);
    return end(to, error);
}

/* --- mappings -------------------------------------------------------------------------------- */

/* A page behind the end of a file that somebody else has made shorter. */
static _Thread_local sigjmp_buf escape;
static _Thread_local volatile sig_atomic_t escape_is_set;

static void on_bus_error(int signal)
{
    if (!escape_is_set)
        _exit(128 + signal);
    siglongjmp(escape, 1);
}

static int mapping_write(struct writer *w, struct mapping *m)
{
    static atomic_bool handled;
    if (!atomic_exchange(&handled, true))
        sigaction(SIGBUS, &(struct sigaction){.sa_handler = on_bus_error, .sa_flags = SA_NODEFER},
                  NULL);
    size_t size = 1 + any(w, 2 * PAGE), offset;
    size = size < m->size ? size : m->size;
    offset = any(w, m->size - size + 1);
    content(w, size);
    escape_is_set = 1;
    if (sigsetjmp(escape, 0) == 0) {
        memcpy(m->at + offset, w->buffer, size);
        escape_is_set = 0;
        return 0;
    }
    escape_is_set = 0;
    return EAGAIN;
}

static struct mapping *mapping_any(struct writer *w)
{
    return &w->mappings[any(w, MAPPINGS)];
}

static int mapping_begin(struct writer *w)
{
    struct mapping *m = mapping_any(w);
    int fd, error = file_open(w, O_RDWR, &fd);
    if (error != 0)
        return error;
    uint64_t size = size_of(fd) < MAPPED_MAX ? size_of(fd) : MAPPED_MAX;
    if (size == 0)
        return end(fd, EAGAIN);
    if (m->at != NULL)
        munmap(m->at, m->size);
    m->at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    m->size = size;
    if (m->at != MAP_FAILED)
        return end(fd, mapping_write(w, m));
    m->at = NULL;
    return end(fd, errno);
}

static int mapping_use(struct writer *w)
{
    struct mapping *m = mapping_any(w);
    return m->at == NULL ? EAGAIN : mapping_write(w, m);
}

static int mapping_sync(struct writer *w)
{
    struct mapping *m = mapping_any(w);
    int error = m->at == NULL ? EAGAIN : mapping_write(w, m);
    return error != 0 ? error : error_of(msync(m->at, m->size, MS_SYNC));
}

static int mapping_end(struct writer *w)
{
    struct mapping *m = mapping_any(w);
    if (m->at == NULL)
        return EAGAIN;
    int error = mapping_write(w, m);
    munmap(m->at, m->size);
    m->at = NULL;
    return error;
}

const struct operation content_operations[] = {
    {"write_page", write_page, 60, CHANGES},
    {"write_unaligned", write_unaligned, 40, CHANGES},
    {"write_large", write_large, 6, CHANGES},
    {"append", append, 40, CHANGES},
    {"write_zeros", write_zeros, 12, CHANGES},
    {"write_synced", write_synced, 3, CHANGES},
    {"write_direct", write_direct, 12, CHANGES},
    {"write_sparse", write_sparse, 6, MAKES},
    {"truncate_shorter", truncate_shorter, 16, CHANGES},
    {"truncate_longer", truncate_longer, 10, CHANGES},
    {"truncate_twice", truncate_twice, 10, CHANGES},
    {"allocate", allocate, 12, CHANGES},
    {"punch_hole", punch_hole, 12, CHANGES},
    {"zero_range", zero_range, 8, CHANGES},
    {"collapse_range", collapse_range, 8, CHANGES},
    {"insert_range", insert_range, 8, CHANGES},
    {"copy_range", copy_range, 12, CHANGES},
    {"reflink", reflink, 10, CHANGES},
    {"reflink_range", reflink_range, 10, CHANGES},
    {"map", mapping_begin, 12, CHANGES},
    {"map_write", mapping_use, 40, CHANGES},
    {"map_write_sync", mapping_sync, 4, CHANGES},
    {"map_end", mapping_end, 6, CHANGES},
    {0},
};
