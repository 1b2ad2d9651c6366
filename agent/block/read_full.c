#include "block/read_full.h"

#include <errno.h>
#include <unistd.h>

ssize_t repl_read_full(int fd, void *out, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t got = pread(fd, (char *)out + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

bool repl_write_full(int fd, const void *data, size_t size, uint64_t offset)
{
    const uint8_t *bytes = data;
    while (size > 0) {
        ssize_t written = pwrite(fd, bytes, size, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            errno = written < 0 ? errno : ENOSPC;
            return false;
        }
        bytes += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    return true;
}
