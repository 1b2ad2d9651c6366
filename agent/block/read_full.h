/*
 * Reading all of what was asked for. pread(2) may return less than that, also where there is more,
 * and may be interrupted before it has read anything.
 */
#ifndef REPL_BLOCK_READ_FULL_H
#define REPL_BLOCK_READ_FULL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The bytes read: fewer than size only where the file ends. -1: errno says why; what is in out then
 * is anybody's guess. */
ssize_t repl_read_full(int fd, void *out, size_t size, uint64_t offset);

#endif
