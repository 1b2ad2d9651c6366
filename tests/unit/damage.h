/*
 * Damage to a file: what it holds is taken into memory, changed there or cut off,
 * and put back.
 */
#ifndef TESTS_UNIT_DAMAGE_H
#define TESTS_UNIT_DAMAGE_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/ensure.h"
#include "unit/sanitized.h"

/* From one place that is damaged to the next. ThreadSanitizer is there for what threads do, which
 * is the same wherever it is, and some places are enough for it. AddressSanitizer makes what is
 * done at each of them cost ten times as much; each byte of a format is flipped under it where the
 * format is tested. (Prime to the numbers of bits and of kinds of damage that take turns.) */
#define DAMAGE_STEP (SANITIZED ? 7u : 1u)

struct damage {
    char path[400];
    uint8_t *bytes;
    size_t size;
};

static inline void damage_take(struct damage *d, const char *path)
{
    snprintf(d->path, sizeof d->path, "%s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ensure(fd >= 0);
    d->size = (size_t)lseek(fd, 0, SEEK_END);
    free(d->bytes);
    d->bytes = malloc(d->size);
    ensure(pread(fd, d->bytes, d->size, 0) == (ssize_t)d->size);
    close(fd);
}

/* In place: a file that is truncated and written anew would be flushed to the disk each time. */
static inline void damage_put(const struct damage *d, size_t size)
{
    int fd = open(d->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ensure(fd >= 0 && pwrite(fd, d->bytes, size, 0) == (ssize_t)size);
    ensure(ftruncate(fd, (off_t)size) == 0 && close(fd) == 0);
}

static inline void damage_fini(struct damage *d)
{
    free(d->bytes);
    d->bytes = NULL;
}

/* Flips bits of one byte of a file; a negative offset counts from its end. */
static inline void flip_bits(const char *path, off_t offset, uint8_t bits)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    ensure(fd >= 0);
    if (offset < 0)
        offset += lseek(fd, 0, SEEK_END);
    ensure(pread(fd, &byte, 1, offset) == 1);
    byte ^= bits;
    ensure(pwrite(fd, &byte, 1, offset) == 1 && close(fd) == 0);
}

static inline void flip_bit(const char *path, off_t offset)
{
    flip_bits(path, offset, 0x10);
}

static inline void append_bytes(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    ensure(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
}

#endif
