/*
 * tree_churn: writes that take long. The kernel notes the time of a change when a
 * write begins; what it writes comes from memory that is not there yet, and is
 * given (userfaultfd) a good while later. On a disk that is busy, or where memory
 * is short, other writes are as slow.
 */
#include "tree_churn.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "unit/slow_memory.h"

#define SLOW_SIZE   (4 * PAGE)
#define SLOW_MIN_NS 30000000L
#define SLOW_MAX_NS 300000000L

struct slow {
    struct slow_memory memory; /* SLOW_SIZE */
    const uint8_t *with;
    long after_ns;
};

/* Ends when the first fault has been answered, which brings all of it. */
static void *slow_give(void *context)
{
    const struct slow *slow = context;
    if (slow_memory_wait(&slow->memory)) {
        nanosleep(&(struct timespec){.tv_nsec = slow->after_ns}, NULL);
        slow_memory_give(&slow->memory, slow->with);
    }
    return NULL;
}

static int slow_begin(struct writer *w, struct slow *slow)
{
    *slow = (struct slow){.with = w->buffer,
                          .after_ns =
                              SLOW_MIN_NS + (long)any(w, (uint64_t)(SLOW_MAX_NS - SLOW_MIN_NS))};
    content(w, SLOW_SIZE);
    return slow_memory_begin(&slow->memory, SLOW_SIZE);
}

/* Within the file's size, which would show otherwise. */
static int slow_write(struct writer *w, int flags)
{
    struct slow slow;
    struct stat status;
    pthread_t giver;
    int fd, error = any(w, 8) != 0 ? EAGAIN : file_open(w, O_WRONLY | flags, &fd);
    if (error != 0)
        return error;
    uint64_t size = fstat(fd, &status) == 0 ? (uint64_t)status.st_size : 0;
    error = size < SLOW_SIZE ? EAGAIN : slow_begin(w, &slow);
    if (error != 0) {
        close(fd);
        return error;
    }
    off_t offset = (off_t)(any(w, (size - SLOW_SIZE) / PAGE + 1) * PAGE);
    if (pthread_create(&giver, NULL, slow_give, &slow) != 0)
        _exit(2);
    error = error_of((int)pwrite(fd, slow.memory.bytes, SLOW_SIZE, offset));
    *(volatile uint8_t *)slow.memory.bytes; /* where the write has not come so far */
    pthread_join(giver, NULL);
    slow_memory_end(&slow.memory);
    close(fd);
    return error;
}

static int write_slow(struct writer *w)
{
    return slow_write(w, 0);
}

static int write_slow_direct(struct writer *w)
{
    return slow_write(w, O_DIRECT);
}

const struct operation slow_operations[] = {
    {"write_slow", write_slow, 8, CHANGES},
    {"write_slow_direct", write_slow_direct, 8, CHANGES},
    {0},
};
