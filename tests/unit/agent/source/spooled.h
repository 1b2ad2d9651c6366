/*
 * What stands for a segment in a spool, where only its header is looked at.
 */
#ifndef TESTS_UNIT_SOURCE_SPOOLED_H
#define TESTS_UNIT_SOURCE_SPOOLED_H

#include <fcntl.h>
#include <unistd.h>

#include "format/segment_format.h"
#include "source/spool.h"

static inline void spooled_write(int dir_fd, uint64_t number,
                                 const struct repl_segment_header *header)
{
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    char name[REPL_SPOOL_NAME_SIZE];
    repl_segment_header_encode(header, bytes);
    repl_spool_name(number, REPL_SPOOL_SEGMENT, name);
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes);
    close(fd);
}

#endif
