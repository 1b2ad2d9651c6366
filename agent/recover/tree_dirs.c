#include "recover/tree_dirs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Directories within directories that are removed by going into them, each with a descriptor; what
 * lies deeper is moved up first. */
#define REMOVE_DEPTH 32u

repl_result repl_tree_fail(struct repl_error *err, int os_errno, const char *what)
{
    switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
        return repl_fail_errno(err, REPL_E_NOSPACE, os_errno, "%s", what);
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return repl_fail_errno(err, REPL_E_NOMEM, os_errno, "%s", what);
    case EIO:
    case EROFS:
    case ESTALE:
    case ENODEV:
        return repl_fail_errno(err, REPL_E_IO, os_errno, "%s", what);
    case ENOSYS:
        return repl_fail_errno(err, REPL_E_VERSION, os_errno, "%s: this needs Linux 5.6 or later",
                               what);
    case EXDEV:
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: something is mounted there, or a link leads away", what);
    default:
        return repl_fail_errno(err, REPL_E_REFUSED, os_errno, "%s", what);
    }
}

int repl_tree_openat(int directory, const char *name, int flags)
{
    struct open_how how = {.flags = (uint64_t)(flags | O_NOFOLLOW | O_CLOEXEC),
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
                                      RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV};
    if ((flags & O_CREAT) != 0)
        how.mode = 0600;
    return (int)syscall(SYS_openat2, directory, name, &how, sizeof how);
}

void repl_tree_temporary(char name[REPL_TREE_TEMPORARY_SIZE])
{
    static atomic_uint count;
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        random = (uint64_t)getpid();
    snprintf(name, REPL_TREE_TEMPORARY_SIZE, REPL_TREE_TEMPORARY "%016llx%08x",
             (unsigned long long)random, atomic_fetch_add(&count, 1));
}

/* --- the cache ------------------------------------------------------------------------------- */

void repl_tree_dirs_init(struct repl_tree_dirs *dirs, repl_tree_where_fn *where, void *context,
                         uint64_t root, int root_fd)
{
    *dirs = (struct repl_tree_dirs){
        .where = where, .context = context, .root = root, .root_fd = root_fd};
}

void repl_tree_dirs_fini(struct repl_tree_dirs *dirs)
{
    for (unsigned i = 0; i < REPL_TREE_DIRS_OPEN; i++) {
        if (dirs->open[i].object != 0)
            close(dirs->open[i].fd);
    }
    repl_buffer_fini(&dirs->chain);
}

/* -1: it is not open. */
static int cached(struct repl_tree_dirs *dirs, uint64_t object)
{
    if (object == dirs->root)
        return dirs->root_fd;
    for (unsigned i = 0; i < REPL_TREE_DIRS_OPEN; i++) {
        if (dirs->open[i].object == object) {
            dirs->open[i].used = ++dirs->clock;
            return dirs->open[i].fd;
        }
    }
    return -1;
}

static void keep(struct repl_tree_dirs *dirs, uint64_t object, int fd)
{
    unsigned victim = 0;
    for (unsigned i = 1; i < REPL_TREE_DIRS_OPEN; i++) {
        if (dirs->open[i].used < dirs->open[victim].used)
            victim = i;
    }
    if (dirs->open[victim].object != 0)
        close(dirs->open[victim].fd);
    dirs->open[victim].object = object;
    dirs->open[victim].fd = fd;
    dirs->open[victim].used = ++dirs->clock;
}

/* From the directory that fd is down to the object. */
static repl_result step_down(struct repl_tree_dirs *dirs, uint64_t object, int *fd,
                             struct repl_error *err)
{
    struct repl_tree_place place;
    char name[REPL_NAME_MAX + 1];
    bool found;
    REPL_TRY(dirs->where(dirs->context, object, &place, &found, err));
    if (!found)
        return repl_fail(err, REPL_E_INTERNAL, "object %llu has no place",
                         (unsigned long long)object);
    memcpy(name, place.name, place.name_size);
    name[place.name_size] = '\0';
    *fd = repl_tree_openat(*fd, name, O_RDONLY | O_DIRECTORY);
    if (*fd >= 0) {
        keep(dirs, object, *fd);
        return REPL_SUCCESS;
    }
    /* Not there, no directory, or not to be entered: that is the caller's to tell. */
    repl_result result = repl_tree_fail(err, errno, "cannot open the directory");
    return result.code == REPL_E_REFUSED ? REPL_SUCCESS : result;
}

repl_result repl_tree_dirs_get(struct repl_tree_dirs *dirs, uint64_t object, int *fd,
                               struct repl_error *err)
{
    dirs->chain.size = 0;
    while ((*fd = cached(dirs, object)) < 0 && object != dirs->root) {
        struct repl_tree_place place;
        bool found;
        REPL_TRY(repl_buffer_append(&dirs->chain, &object, sizeof object, err));
        REPL_TRY(dirs->where(dirs->context, object, &place, &found, err));
        if (!found)
            return repl_fail(err, REPL_E_INTERNAL, "object %llu has no place",
                             (unsigned long long)object);
        object = place.parent;
    }
    while (*fd >= 0 && dirs->chain.size > 0) {
        dirs->chain.size -= sizeof object;
        memcpy(&object, dirs->chain.data + dirs->chain.size, sizeof object);
        REPL_TRY(step_down(dirs, object, fd, err));
    }
    return REPL_SUCCESS;
}

/* --- removing and replacing ------------------------------------------------------------------ */

int repl_tree_unlock(int directory, const char *name)
{
    unsigned flags = 0;
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0)
        return errno;
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        return EPERM; /* to open a device may do something */
    int fd = repl_tree_openat(directory, name, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return errno;
    int error = ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 ? errno : 0;
    if (error == 0 && (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) == 0)
        error = EPERM;
    flags &= ~(unsigned)(FS_IMMUTABLE_FL | FS_APPEND_FL);
    if (error == 0 && ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0)
        error = errno;
    close(fd);
    return error;
}

repl_result repl_tree_replace(int directory, const char *from, const char *to,
                              struct repl_error *err)
{
    if (renameat(directory, from, directory, to) == 0)
        return REPL_SUCCESS;
    if (errno == EPERM && repl_tree_unlock(directory, to) == 0 &&
        renameat(directory, from, directory, to) == 0)
        return REPL_SUCCESS;
    int os_errno = errno;
    unlinkat(directory, from, 0);
    return repl_tree_fail(err, os_errno, "cannot put it in place of what is there");
}

struct remover {
    int base;                 /* the directory that something is removed from */
    struct repl_buffer moved; /* names that were moved up into it, REPL_TREE_TEMPORARY_SIZE each */
};

static repl_result entry_remove(struct remover *r, int directory, const char *name, unsigned depth,
                                struct repl_error *err);

/* A directory that lies too deep goes up to the base, to be removed from there. */
static repl_result move_up(struct remover *r, int directory, const char *name,
                           struct repl_error *err)
{
    char temporary[REPL_TREE_TEMPORARY_SIZE] = {0};
    repl_tree_temporary(temporary);
    if (renameat(directory, name, r->base, temporary) != 0)
        return repl_tree_fail(err, errno, "cannot remove a directory");
    return repl_buffer_append(&r->moved, temporary, sizeof temporary, err);
}

static repl_result entries_remove(struct remover *r, int fd, unsigned depth, struct repl_error *err)
{
    DIR *stream = fdopendir(fd);
    if (stream == NULL) {
        int os_errno = errno;
        close(fd);
        return repl_tree_fail(err, os_errno, "cannot read a directory");
    }
    repl_result result = REPL_SUCCESS;
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(stream)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = entry_remove(r, dirfd(stream), entry->d_name, depth + 1, err);
    }
    closedir(stream);
    return result;
}

static repl_result directory_remove(struct remover *r, int directory, const char *name,
                                    unsigned depth, struct repl_error *err)
{
    int fd = repl_tree_openat(directory, name, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return repl_tree_fail(err, errno, "cannot remove a directory");
    if (depth >= REMOVE_DEPTH) {
        close(fd);
        return move_up(r, directory, name, err);
    }
    repl_tree_unlock(directory, name); /* what this leaves locked fails below */
    REPL_TRY(entries_remove(r, fd, depth, err));
    if (unlinkat(directory, name, AT_REMOVEDIR) != 0)
        return repl_tree_fail(err, errno, "cannot remove a directory");
    return REPL_SUCCESS;
}

static repl_result entry_remove(struct remover *r, int directory, const char *name, unsigned depth,
                                struct repl_error *err)
{
    struct stat status;
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT)
        return REPL_SUCCESS;
    int os_errno = errno;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode))
        return directory_remove(r, directory, name, depth, err);
    if (os_errno == EPERM && repl_tree_unlock(directory, name) == 0) {
        if (unlinkat(directory, name, 0) == 0)
            return REPL_SUCCESS;
        os_errno = errno;
    }
    return repl_tree_fail(err, os_errno, "cannot remove it");
}

repl_result repl_tree_remove(int directory, const char *name, struct repl_error *err)
{
    struct remover r = {.base = directory};
    repl_result result = entry_remove(&r, directory, name, 0, err);
    while (repl_ok(result) && r.moved.size > 0) {
        char temporary[REPL_TREE_TEMPORARY_SIZE];
        r.moved.size -= sizeof temporary;
        memcpy(temporary, r.moved.data + r.moved.size, sizeof temporary);
        result = entry_remove(&r, directory, temporary, 0, err);
    }
    repl_buffer_fini(&r.moved);
    return result;
}
