/*
 * A loop device over a file, for one test. It goes when its last user closes it.
 * None can be had: the test skips.
 *
 * What is made with LO_FLAGS_DIRECT_IO is read and written directly on both
 * levels; what is made with LO_FLAGS_PARTSCAN can have partitions.
 */
#ifndef TESTS_UNIT_LOOP_DEVICE_H
#define TESTS_UNIT_LOOP_DEVICE_H

#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct loop_device {
    char path[32]; /* "/dev/loop0" */
    int fd;
    dev_t number;
};

/* False: this machine has none to give. */
static inline bool loop_device_possible(void)
{
    return access("/dev/loop-control", R_OK | W_OK) == 0;
}

/* A sparse file without a name, for a device; -1: it could not be made. */
static inline int loop_device_backing(const char *directory, uint64_t size)
{
    char path[512];
    snprintf(path, sizeof path, "%s/loop_device.XXXXXX", directory);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0)
        return -1;
    unlink(path);
    if (ftruncate(fd, (off_t)size) == 0)
        return fd;
    close(fd);
    return -1;
}

/* "write back" or "write through". */
static inline bool loop_device_cache(const struct loop_device *loop, const char *mode)
{
    char attribute[80];
    snprintf(attribute, sizeof attribute, "/sys/block/%.32s/queue/write_cache",
             loop->path + strlen("/dev/"));
    int fd = open(attribute, O_WRONLY | O_CLOEXEC);
    bool set = fd >= 0 && write(fd, mode, strlen(mode)) == (ssize_t)strlen(mode);
    if (fd >= 0 && !set)
        perror(attribute);
    if (fd >= 0)
        close(fd);
    return set;
}

static inline bool loop_device_configure(int fd, int backing, uint32_t flags)
{
    struct loop_config config = {.fd = (uint32_t)backing,
                                 .block_size = 512,
                                 .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | flags}};
    return ioctl(fd, LOOP_CONFIGURE, &config) == 0;
}

static inline bool loop_device_bind(struct loop_device *loop, int backing, uint32_t flags)
{
    int mode = O_RDWR | O_CLOEXEC | (flags & LO_FLAGS_DIRECT_IO ? O_DIRECT : 0);
    struct stat status;
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    bool bound = false;
    loop->fd = -1;
    /* others look for a free one, too */
    for (int tries = 0; control >= 0 && !bound && tries < 20; tries++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(loop->path, sizeof loop->path, "/dev/loop%d", number);
        loop->fd = number < 0 ? -1 : open(loop->path, mode);
        bound = loop->fd >= 0 && loop_device_configure(loop->fd, backing, flags);
        if (loop->fd >= 0 && !bound)
            close(loop->fd);
    }
    if (control >= 0)
        close(control);
    if (!bound) {
        loop->fd = -1;
        return false;
    }
    loop_device_cache(loop, "write back"); /* what its last user has set, the next one finds */
    loop->number = fstat(loop->fd, &status) == 0 ? status.st_rdev : 0;
    return true;
}

static inline bool loop_device_make(struct loop_device *loop, const char *file, uint64_t size)
{
    int backing = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    loop->fd = -1;
    if (backing < 0)
        return false;
    bool made =
        ftruncate(backing, (off_t)size) == 0 && loop_device_bind(loop, backing, LO_FLAGS_PARTSCAN);
    close(backing);
    return made;
}

static inline void loop_device_close(struct loop_device *loop)
{
    if (loop->fd >= 0)
        close(loop->fd);
    loop->fd = -1;
}

/* Adds partition 1. */
static inline bool loop_device_partition_add(struct loop_device *loop, uint64_t start,
                                             uint64_t size)
{
    struct blkpg_partition partition = {
        .start = (long long)start, .length = (long long)size, .pno = 1};
    struct blkpg_ioctl_arg add = {
        .op = BLKPG_ADD_PARTITION, .datalen = sizeof partition, .data = &partition};
    return ioctl(loop->fd, BLKPG, &add) == 0;
}

/* The same; its number and the path of its node, which may take a moment to appear. */
static inline bool loop_device_partition(struct loop_device *loop, uint64_t start, uint64_t size,
                                         char *path, size_t path_size, dev_t *number)
{
    struct stat status = {0};
    snprintf(path, path_size, "%sp1", loop->path);
    if (!loop_device_partition_add(loop, start, size))
        return false;
    for (int tries = 0; tries < 100 && stat(path, &status) != 0; tries++)
        usleep(10000);
    *number = status.st_rdev;
    return S_ISBLK(status.st_mode);
}

#endif
