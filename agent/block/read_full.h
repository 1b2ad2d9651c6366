/*
 * Reading and writing all of what was asked for. pread(2) and pwrite(2) may do less than that, also
 * where there is more, and may be interrupted before they have done anything.
 */
#ifndef REPL_BLOCK_READ_FULL_H
#define REPL_BLOCK_READ_FULL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The bytes read: fewer than size only where the file ends. -1: errno says why; what is in out then
 * is anybody's guess. */
ssize_t repl_read_full(int fd, void *out, size_t size, uint64_t offset);
/* False: errno says why; any of it may have been written. */
bool repl_write_full(int fd, const void *data, size_t size, uint64_t offset);

#endif
