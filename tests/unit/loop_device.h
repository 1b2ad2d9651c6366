/*
 * A loop device over a sparse file, for one test. It goes when its last user
 * closes it. None can be had: the test skips.
 */
#ifndef TESTS_UNIT_LOOP_DEVICE_H
#define TESTS_UNIT_LOOP_DEVICE_H

#include <fcntl.h>
#include <linux/blkpg.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct loop_device {
    char path[32]; /* "/dev/loop0" */
    int fd;
    dev_t number;
};

/* What its last user has set, the next one finds. */
static inline void loop_device_as_new(const char *path)
{
    char attribute[80];
    snprintf(attribute, sizeof attribute, "/sys/block/%.32s/queue/write_cache",
             path + strlen("/dev/"));
    int fd = open(attribute, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "write back", strlen("write back")) < 0)
        perror(attribute);
    if (fd >= 0)
        close(fd);
}

static inline bool loop_device_configure(int fd, int backing)
{
    struct loop_config config = {.fd = (uint32_t)backing,
                                 .block_size = 512,
                                 .info = {.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN}};
    return ioctl(fd, LOOP_CONFIGURE, &config) == 0;
}

static inline bool loop_device_bind(struct loop_device *loop, int backing)
{
    struct stat status;
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    bool bound = false;
    loop->fd = -1;
    /* others look for a free one, too */
    for (int tries = 0; control >= 0 && !bound && tries < 20; tries++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(loop->path, sizeof loop->path, "/dev/loop%d", number);
        loop->fd = number < 0 ? -1 : open(loop->path, O_RDWR | O_CLOEXEC);
        bound = loop->fd >= 0 && loop_device_configure(loop->fd, backing);
        if (loop->fd >= 0 && !bound)
            close(loop->fd);
    }
    if (control >= 0)
        close(control);
    if (!bound) {
        loop->fd = -1;
        return false;
    }
    loop_device_as_new(loop->path);
    loop->number = fstat(loop->fd, &status) == 0 ? status.st_rdev : 0;
    return true;
}

static inline bool loop_device_make(struct loop_device *loop, const char *file, uint64_t size)
{
    int backing = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    loop->fd = -1;
    if (backing < 0)
        return false;
    bool made = ftruncate(backing, (off_t)size) == 0 && loop_device_bind(loop, backing);
    close(backing);
    return made;
}

static inline void loop_device_close(struct loop_device *loop)
{
    if (loop->fd >= 0)
        close(loop->fd);
    loop->fd = -1;
}

/* Adds partition 1; its number and the path of its node, which may take a moment to appear. */
static inline bool loop_device_partition(struct loop_device *loop, uint64_t start, uint64_t size,
                                         char *path, size_t path_size, dev_t *number)
{
    struct blkpg_partition partition = {
        .start = (long long)start, .length = (long long)size, .pno = 1};
    struct blkpg_ioctl_arg add = {
        .op = BLKPG_ADD_PARTITION, .datalen = sizeof partition, .data = &partition};
    struct stat status = {0};
    snprintf(path, path_size, "%sp1", loop->path);
    if (ioctl(loop->fd, BLKPG, &add) != 0)
        return false;
    for (int tries = 0; tries < 100 && stat(path, &status) != 0; tries++)
        usleep(10000);
    *number = status.st_rdev;
    return S_ISBLK(status.st_mode);
}

#endif
