#include "control/lock.h"

#include <errno.h>
#include <stdint.h>
#include <sys/file.h>
#include <time.h>

#include "loop/loop.h"

#define NS_PER_MS    INT64_C(1000000)
#define TRY_PAUSE_MS 10

int repl_lock_take(int fd)
{
    const int64_t deadline_ns = repl_now_mono_ns() + REPL_LOCK_WAIT_MS * NS_PER_MS;
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK || repl_now_mono_ns() >= deadline_ns)
            return errno;
        nanosleep(&(struct timespec){.tv_nsec = TRY_PAUSE_MS * NS_PER_MS}, NULL);
    }
    return 0;
}
