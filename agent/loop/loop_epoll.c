/*
 * The epoll backend, for kernels and containers without io_uring.
 *
 * Readiness is epoll's own, level-triggered. File operations, which epoll knows
 * nothing of, are jobs of a small pool of I/O threads that do pread, pwrite and
 * fdatasync; they come back as jobs of the worker pool do.
 *
 * epoll watches an open file under a descriptor once only. A second poll of the
 * same descriptor therefore watches a duplicate. A file epoll refuses (a
 * regular file; a descriptor that is not open) becomes a forced watch, which is
 * reported in every turn: as ready, as poll(2) does, or as an error.
 *
 * A watch that is stopped may still be named by the batch of events under way,
 * or be the next one in the walk over the forced ones. It stays on loop->watches
 * and goes on the list of the dead, which is emptied after the turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop/loop_internal.h"

#define IO_THREADS  4u
#define EVENT_BATCH 256

#define NS_PER_MS 1000000ll

_Static_assert(EPOLLIN == POLLIN && EPOLLPRI == POLLPRI && EPOLLOUT == POLLOUT &&
                   EPOLLERR == POLLERR && EPOLLHUP == POLLHUP && EPOLLRDHUP == POLLRDHUP,
               "events are passed on as they are");

struct epoll_state {
    int fd;
    size_t forced_count;
    struct loop_watch *dead; /* through link */
    struct loop_pool io_threads;
};

/* --- file operations ------------------------------------------------------------------------- */

/* On an I/O thread. */
static void io_work(struct repl_job *job)
{
    struct repl_io *io = job->context;
    ssize_t rc;
    do {
        if (io->kind == LOOP_IO_READ)
            rc = pread(io->fd, io->vec.iov_base, io->vec.iov_len, (off_t)io->offset);
        else if (io->kind == LOOP_IO_WRITE)
            rc = pwrite(io->fd, io->vec.iov_base, io->vec.iov_len, (off_t)io->offset);
        else
            rc = fdatasync(io->fd);
    } while (rc < 0 && errno == EINTR);
    io->result = rc < 0 ? -errno : rc;
}

static void io_done(struct repl_job *job)
{
    struct repl_io *io = job->context;
    loop_io_finish(io, io->result);
}

static void epoll_io_start(struct repl_loop *loop, struct repl_io *io)
{
    struct epoll_state *state = loop->backend_state;
    io->job = (struct repl_job){.work = io_work, .done = io_done, .context = io, .loop = loop};
    loop_pool_put(&state->io_threads, &io->job);
}

/* --- watches --------------------------------------------------------------------------------- */

static int watch_fd(const struct loop_watch *watch)
{
    return watch->as.epoll.own_fd >= 0 ? watch->as.epoll.own_fd : watch->fd;
}

static int watch_control(struct loop_watch *watch, int operation, unsigned events)
{
    struct epoll_state *state = watch->loop->backend_state;
    struct epoll_event event = {.events = events, .data.ptr = watch};
    return epoll_ctl(state->fd, operation, watch_fd(watch), &event) == 0 ? 0 : errno;
}

static void epoll_watch_start(struct loop_watch *watch)
{
    struct epoll_state *state = watch->loop->backend_state;
    watch->as.epoll.own_fd = -1;
    int rc = watch_control(watch, EPOLL_CTL_ADD, watch->events);
    if (rc == EEXIST) {
        watch->as.epoll.own_fd = fcntl(watch->fd, F_DUPFD_CLOEXEC, 0);
        rc =
            watch->as.epoll.own_fd < 0 ? errno : watch_control(watch, EPOLL_CTL_ADD, watch->events);
    }
    if (rc == 0)
        return;
    watch->as.epoll.forced = rc == EPERM ? POLLIN | POLLOUT : POLLERR | POLLNVAL;
    state->forced_count++;
}

static bool epoll_watch_change(struct loop_watch *watch, unsigned events)
{
    if (watch->as.epoll.forced == 0 && watch_control(watch, EPOLL_CTL_MOD, events) != 0)
        return false;
    watch->events = events;
    return true;
}

static void epoll_watch_stop(struct loop_watch *watch)
{
    struct epoll_state *state = watch->loop->backend_state;
    if (watch->as.epoll.forced != 0)
        state->forced_count--;
    else
        watch_control(watch, EPOLL_CTL_DEL, 0);
    if (watch->as.epoll.own_fd >= 0)
        close(watch->as.epoll.own_fd);
    watch->link = state->dead;
    state->dead = watch;
}

static void bury_the_dead(struct epoll_state *state)
{
    while (state->dead != NULL) {
        struct loop_watch *watch = state->dead;
        state->dead = watch->link;
        loop_watch_free(watch);
    }
}

static void deliver_forced(struct repl_loop *loop)
{
    struct epoll_state *state = loop->backend_state;
    if (state->forced_count == 0)
        return;
    /* New watches join at the head, so this meets each that was there, once. */
    for (struct loop_watch *watch = loop->watches; watch != NULL; watch = watch->next)
        if (watch->as.epoll.forced != 0)
            loop_watch_deliver(watch, watch->as.epoll.forced);
}

/* --- turning --------------------------------------------------------------------------------- */

/* Upwards: a timer must not find its turn ended just before it is due. */
static int wait_ms(int64_t wait_ns)
{
    if (wait_ns < 0)
        return -1;
    int64_t ms = wait_ns / NS_PER_MS + (wait_ns % NS_PER_MS != 0);
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

static bool forced_ready(struct repl_loop *loop)
{
    struct epoll_state *state = loop->backend_state;
    if (state->forced_count == 0)
        return false;
    for (struct loop_watch *watch = loop->watches; watch != NULL; watch = watch->next)
        if (watch->poll != NULL &&
            (watch->as.epoll.forced & (watch->events | POLLERR | POLLNVAL)) != 0)
            return true;
    return false;
}

static repl_result epoll_turn(struct repl_loop *loop, int64_t wait_ns, struct repl_error *err)
{
    struct epoll_state *state = loop->backend_state;
    struct epoll_event batch[EVENT_BATCH];
    int count =
        epoll_wait(state->fd, batch, EVENT_BATCH, forced_ready(loop) ? 0 : wait_ms(wait_ns));
    if (count < 0 && errno != EINTR)
        return repl_fail_errno(err, REPL_E_IO, errno, "waiting for events with epoll failed");

    for (int i = 0; i < count; i++)
        loop_watch_deliver(batch[i].data.ptr, batch[i].events);
    deliver_forced(loop);
    bury_the_dead(state);
    return REPL_SUCCESS;
}

/* --- making and freeing ---------------------------------------------------------------------- */

static repl_result epoll_open(struct repl_loop *loop, struct repl_error *err)
{
    struct epoll_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the epoll backend");
    state->fd = epoll_create1(EPOLL_CLOEXEC);
    if (state->fd < 0) {
        repl_result result = repl_fail_errno(err, REPL_E_IO, errno, "cannot make an epoll set");
        free(state);
        return result;
    }
    repl_result result = loop_pool_open(&state->io_threads, loop, IO_THREADS, 0, "repl-io", err);
    if (!repl_ok(result)) {
        close(state->fd);
        free(state);
        return result;
    }
    loop->backend_state = state;
    return REPL_SUCCESS;
}

static void epoll_close(struct repl_loop *loop)
{
    struct epoll_state *state = loop->backend_state;
    loop_pool_close(&state->io_threads);
    bury_the_dead(state);
    for (struct loop_watch *watch = loop->watches; watch != NULL; watch = watch->next)
        if (watch->as.epoll.own_fd >= 0)
            close(watch->as.epoll.own_fd);
    close(state->fd);
    free(state);
    loop->backend_state = NULL;
}

const struct loop_backend loop_epoll_backend = {
    .name = "epoll",
    .open = epoll_open,
    .close = epoll_close,
    .turn = epoll_turn,
    .io_start = epoll_io_start,
    .watch_start = epoll_watch_start,
    .watch_change = epoll_watch_change,
    .watch_stop = epoll_watch_stop,
};
