/*
 * Memory whose contents come when the test says so (userfaultfd): a write out of
 * it is on its way until then, as on a disk that is busy.
 */
#ifndef REPL_TEST_SLOW_MEMORY_H
#define REPL_TEST_SLOW_MEMORY_H

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct slow_memory {
    int faults;
    uint8_t *bytes;
    size_t size; /* whole pages */
};

/* 0 or errno. */
static inline int slow_memory_begin(struct slow_memory *slow, size_t size)
{
    struct uffdio_api api = {.api = UFFD_API};
    *slow = (struct slow_memory){.size = size};
    slow->faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (slow->faults < 0)
        return errno;
    slow->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register range = {.range = {(uintptr_t)slow->bytes, size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
    int error = slow->bytes == MAP_FAILED || ioctl(slow->faults, UFFDIO_API, &api) != 0 ||
                        ioctl(slow->faults, UFFDIO_REGISTER, &range) != 0
                    ? errno
                    : 0;
    if (error != 0)
        close(slow->faults);
    return error;
}

/* Until somebody reads it. */
static inline bool slow_memory_wait(const struct slow_memory *slow)
{
    struct uffd_msg message;
    return read(slow->faults, &message, sizeof message) == (ssize_t)sizeof message;
}

/* All of it; who waits for it goes on. */
static inline bool slow_memory_give(const struct slow_memory *slow, const uint8_t *bytes)
{
    struct uffdio_copy copy = {
        .dst = (uintptr_t)slow->bytes, .src = (uintptr_t)bytes, .len = slow->size};
    return ioctl(slow->faults, UFFDIO_COPY, &copy) == 0;
}

static inline void slow_memory_end(struct slow_memory *slow)
{
    munmap(slow->bytes, slow->size);
    close(slow->faults);
}

#endif
