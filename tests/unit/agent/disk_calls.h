/*
 * The calls of a program, and of LMDB in it, that ask the disk for something: these here instead of
 * the C library's. Whoever includes this says what becomes of a call, by disk_stops; it may also
 * end the process.
 */
#ifndef TESTS_UNIT_DISK_CALLS_H
#define TESTS_UNIT_DISK_CALLS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The directory whose files are meant, those below it too; "": none. */
static char disk_path[128];

/* Whether a call for a file below disk_path is not made, as errno says then. removes: it gives room
 * back. */
static bool disk_stops_call(bool removes);
/* A write of which only a part may be done. */
static ssize_t disk_pwrite(int fd, const void *data, size_t size, off_t offset);

static inline bool disk_is_meant(const char *path)
{
    return disk_path[0] != '\0' && strncmp(path, disk_path, strlen(disk_path)) == 0;
}

static inline bool disk_is_meant_fd(int fd)
{
    char link[64], path[512];
    int kept = errno;
    if (disk_path[0] == '\0')
        return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (size <= 0)
        return false;
    path[size] = '\0';
    return disk_is_meant(path);
}

static inline bool disk_stops(const char *path)
{
    return disk_is_meant(path) && disk_stops_call(false);
}

static inline bool disk_stops_fd(int fd)
{
    return disk_is_meant_fd(fd) && disk_stops_call(false);
}

/* A name that may be relative to a directory. */
static inline bool disk_stops_at(int directory, const char *name)
{
    return name[0] == '/' ? disk_stops(name) : disk_stops_fd(directory);
}

static inline bool disk_stops_removal(int directory, const char *name)
{
    return (name[0] == '/' ? disk_is_meant(name) : disk_is_meant_fd(directory)) &&
           disk_stops_call(true);
}

#define INSTEAD_OF(name, type, ...)                                                                \
    type instead_of_##name(__VA_ARGS__) __asm__(#name);                                            \
    type instead_of_##name(__VA_ARGS__)

INSTEAD_OF(write, ssize_t, int fd, const void *data, size_t size)
{
    return disk_stops_fd(fd) ? -1 : syscall(SYS_write, fd, data, size);
}

INSTEAD_OF(writev, ssize_t, int fd, const struct iovec *parts, int count)
{
    return disk_stops_fd(fd) ? -1 : syscall(SYS_writev, fd, parts, count);
}

INSTEAD_OF(pwrite, ssize_t, int fd, const void *data, size_t size, off_t offset)
{
    return disk_pwrite(fd, data, size, offset);
}

INSTEAD_OF(pwrite64, ssize_t, int fd, const void *data, size_t size, off_t offset)
{
    return disk_pwrite(fd, data, size, offset);
}

INSTEAD_OF(fsync, int, int fd)
{
    return disk_stops_fd(fd) ? -1 : (int)syscall(SYS_fsync, fd);
}

INSTEAD_OF(fdatasync, int, int fd)
{
    return disk_stops_fd(fd) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

INSTEAD_OF(syncfs, int, int fd)
{
    return disk_stops_fd(fd) ? -1 : (int)syscall(SYS_syncfs, fd);
}

INSTEAD_OF(msync, int, void *address, size_t size, int flags)
{
    return (int)syscall(SYS_msync, address, size, flags);
}

INSTEAD_OF(ftruncate, int, int fd, off_t size)
{
    return disk_stops_fd(fd) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

INSTEAD_OF(ftruncate64, int, int fd, off_t size)
{
    return disk_stops_fd(fd) ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

INSTEAD_OF(fallocate64, int, int fd, int mode, off_t offset, off_t size)
{
    return disk_stops_fd(fd) ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, size);
}

INSTEAD_OF(mkdirat, int, int directory, const char *name, mode_t mode)
{
    return disk_stops_at(directory, name) ? -1 : (int)syscall(SYS_mkdirat, directory, name, mode);
}

INSTEAD_OF(mkdir, int, const char *name, mode_t mode)
{
    return disk_stops(name) ? -1 : (int)syscall(SYS_mkdir, name, mode);
}

INSTEAD_OF(symlinkat, int, const char *target, int directory, const char *name)
{
    return disk_stops_at(directory, name) ? -1
                                          : (int)syscall(SYS_symlinkat, target, directory, name);
}

INSTEAD_OF(linkat, int, int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return disk_stops_at(to_fd, to) ? -1
                                    : (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}

INSTEAD_OF(rename, int, const char *from, const char *to)
{
    return disk_stops(to) ? -1 : (int)syscall(SYS_rename, from, to);
}

INSTEAD_OF(renameat, int, int from_fd, const char *from, int to_fd, const char *to)
{
    return disk_stops_at(to_fd, to) ? -1 : (int)syscall(SYS_renameat, from_fd, from, to_fd, to);
}

INSTEAD_OF(renameat2, int, int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return disk_stops_at(to_fd, to) ? -1
                                    : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

static int open_some(int directory, const char *name, int flags, mode_t mode)
{
    if ((flags & O_CREAT) != 0 && disk_stops_at(directory, name))
        return -1;
    return (int)syscall(SYS_openat, directory, name, flags, mode);
}

INSTEAD_OF(open, int, const char *name, int flags, mode_t mode)
{
    return open_some(AT_FDCWD, name, flags, mode);
}

INSTEAD_OF(open64, int, const char *name, int flags, mode_t mode)
{
    return open_some(AT_FDCWD, name, flags, mode);
}

INSTEAD_OF(openat64, int, int directory, const char *name, int flags, mode_t mode)
{
    return open_some(directory, name, flags, mode);
}

INSTEAD_OF(unlink, int, const char *name)
{
    return disk_stops_removal(AT_FDCWD, name) ? -1 : (int)syscall(SYS_unlink, name);
}

INSTEAD_OF(unlinkat, int, int directory, const char *name, int flags)
{
    return disk_stops_removal(directory, name) ? -1
                                               : (int)syscall(SYS_unlinkat, directory, name, flags);
}

#endif
