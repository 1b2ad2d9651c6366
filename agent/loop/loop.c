/*
 * What both backends share: the turn, timers, the way back from other threads,
 * signals.
 *
 * A turn is: the backend submits what the callbacks of the last turn started,
 * waits, and calls back what is ready; then the timers that are due are fired.
 * Operations started from outside a turn only join a list (io_uring) or a
 * queue (epoll), so no callback can come from inside the function that starts
 * it.
 *
 * Timers stand in a binary heap ordered by (due_ns, sequence), whose slot 0
 * stays empty, so that heap_slot == 0 means "not armed". A timer armed for the
 * past is moved to just behind the last firing: it then waits for the next
 * turn, and one that always re-arms itself for "now" starves neither the I/O
 * nor the other timers.
 *
 * Other threads hand jobs back on loop->finished and write to an eventfd when
 * it was empty before. The loop reads the eventfd first and takes the whole
 * list after, so a job is either in the list taken or has a write of its own
 * behind it. The eventfd and the signalfd are ordinary polls of the loop.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/ensure.h"
#include "loop/loop_internal.h"

#define NS_PER_S  1000000000ll
#define NS_PER_MS 1000000ll

#define HEAP_SIZE_FIRST 64u

/* For functions that have no result: the next turn fails with it. */
static void loop_break(struct repl_loop *loop, int os_errno, const char *text)
{
    if (loop->broken_text != NULL)
        return;
    loop->broken_errno = os_errno;
    loop->broken_text = text;
}

/* --- clocks ---------------------------------------------------------------------------------- */

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * NS_PER_S + now.tv_nsec;
}

int64_t repl_now_mono_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t repl_now_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

int64_t repl_now_boot_ns(void)
{
    return clock_ns(CLOCK_BOOTTIME);
}

/* --- timers ---------------------------------------------------------------------------------- */

static bool timer_before(const struct repl_timer *a, const struct repl_timer *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->sequence < b->sequence;
}

static void heap_put(struct repl_loop *loop, size_t slot, struct repl_timer *timer)
{
    loop->heap[slot] = timer;
    timer->heap_slot = slot;
}

/* Finds the place of a timer for which slot is free. */
static void heap_settle(struct repl_loop *loop, size_t slot, struct repl_timer *timer)
{
    while (slot > 1 && timer_before(timer, loop->heap[slot / 2])) {
        heap_put(loop, slot, loop->heap[slot / 2]);
        slot /= 2;
    }
    for (;;) {
        size_t child = 2 * slot;
        if (child > loop->heap_count)
            break;
        if (child < loop->heap_count && timer_before(loop->heap[child + 1], loop->heap[child]))
            child++;
        if (!timer_before(loop->heap[child], timer))
            break;
        heap_put(loop, slot, loop->heap[child]);
        slot = child;
    }
    heap_put(loop, slot, timer);
}

static bool heap_reserve(struct repl_loop *loop)
{
    if (loop->heap_count + 1 < loop->heap_size)
        return true;
    size_t size = loop->heap_size == 0 ? HEAP_SIZE_FIRST : 2 * loop->heap_size;
    struct repl_timer **heap = reallocarray(loop->heap, size, sizeof(struct repl_timer *));
    if (heap == NULL)
        return false;
    loop->heap = heap;
    loop->heap_size = size;
    return true;
}

void repl_timer_arm(struct repl_loop *loop, struct repl_timer *timer, int64_t due_ns)
{
    ensure(timer->fire != NULL);
    ensure(timer->heap_slot == 0 || timer->loop == loop);
    timer->loop = loop;
    timer->due_ns = due_ns > loop->fired_ns ? due_ns : loop->fired_ns + 1;
    timer->sequence = loop->timer_sequence++;
    if (timer->heap_slot == 0) {
        if (!heap_reserve(loop)) {
            loop_break(loop, ENOMEM, "no memory to arm a timer");
            return;
        }
        heap_put(loop, ++loop->heap_count, timer);
    }
    heap_settle(loop, timer->heap_slot, timer);
}

void repl_timer_cancel(struct repl_timer *timer)
{
    size_t slot = timer->heap_slot;
    if (slot == 0)
        return;
    struct repl_loop *loop = timer->loop;
    struct repl_timer *last = loop->heap[loop->heap_count--];
    timer->heap_slot = 0;
    if (last != timer)
        heap_settle(loop, slot, last);
}

static void loop_fire_timers(struct repl_loop *loop)
{
    if (loop->heap_count == 0)
        return;
    int64_t now_ns = repl_now_mono_ns();
    loop->fired_ns = now_ns;
    while (loop->heap_count > 0 && loop->heap[1]->due_ns <= now_ns) {
        struct repl_timer *timer = loop->heap[1];
        repl_timer_cancel(timer);
        loop->callbacks++;
        timer->fire(timer);
    }
}

/* --- file I/O -------------------------------------------------------------------------------- */

void loop_io_finish(struct repl_io *io, int64_t result)
{
    io->result = result;
    io->loop->io_count--;
    io->loop->callbacks++;
    io->done(io, result);
}

static void io_invalid_done(struct repl_job *job)
{
    loop_io_finish(job->context, -EINVAL);
}

static void io_start(struct repl_loop *loop, struct repl_io *io, enum loop_io_kind kind, int fd,
                     void *buffer, size_t size, uint64_t offset)
{
    ensure(io->done != NULL);
    io->next = NULL;
    io->loop = loop;
    io->kind = kind;
    io->fd = fd;
    io->offset = offset;
    io->vec.iov_base = buffer;
    io->vec.iov_len = size < LOOP_IO_SIZE_MAX ? size : LOOP_IO_SIZE_MAX;
    io->result = 0;
    loop->io_count++;

    /* io_uring would take -1 for "at the file's position". */
    if (offset > INT64_MAX) {
        io->job = (struct repl_job){.done = io_invalid_done, .context = io, .loop = loop};
        loop->job_count++;
        loop_job_finished(loop, &io->job);
        return;
    }
    loop->backend->io_start(loop, io);
}

void repl_loop_read(struct repl_loop *loop, struct repl_io *io, int fd, void *buffer, size_t size,
                    uint64_t offset)
{
    io_start(loop, io, LOOP_IO_READ, fd, buffer, size, offset);
}

void repl_loop_write(struct repl_loop *loop, struct repl_io *io, int fd, const void *buffer,
                     size_t size, uint64_t offset)
{
    /* An iovec has no room for const; nothing writes to the buffer of a LOOP_IO_WRITE. */
    io_start(loop, io, LOOP_IO_WRITE, fd, (void *)(uintptr_t)buffer, size, offset);
}

void repl_loop_sync(struct repl_loop *loop, struct repl_io *io, int fd)
{
    io_start(loop, io, LOOP_IO_SYNC, fd, NULL, 0, 0);
}

/* --- readiness ------------------------------------------------------------------------------- */

void repl_poll_start(struct repl_loop *loop, struct repl_poll *poll, int fd, unsigned events)
{
    ensure(poll->ready != NULL);
    if (poll->impl != NULL) {
        ensure(poll->loop == loop);
        bool same_events = poll->events == events;
        poll->events = events;
        if (poll->fd == fd && (same_events || loop->backend->watch_change(poll->impl, events)))
            return;
        repl_poll_stop(poll);
    }

    poll->loop = loop;
    poll->fd = fd;
    poll->events = events;
    struct loop_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL) {
        loop_break(loop, ENOMEM, "no memory to watch a descriptor");
        return;
    }
    watch->poll = poll;
    watch->loop = loop;
    watch->fd = fd;
    watch->events = events;
    watch->next = loop->watches;
    if (watch->next != NULL)
        watch->next->previous = watch;
    loop->watches = watch;
    poll->impl = watch;
    loop->backend->watch_start(watch);
}

void repl_poll_stop(struct repl_poll *poll)
{
    struct loop_watch *watch = poll->impl;
    if (watch == NULL)
        return;
    poll->impl = NULL;
    watch->poll = NULL;
    watch->loop->backend->watch_stop(watch);
}

void loop_watch_deliver(struct loop_watch *watch, unsigned events)
{
    struct repl_poll *poll = watch->poll;
    events &= watch->events | POLLERR | POLLHUP | POLLNVAL;
    if (poll == NULL || events == 0)
        return;
    if (poll != &watch->loop->wake)
        watch->loop->callbacks++;
    poll->ready(poll, events);
}

void loop_watch_free(struct loop_watch *watch)
{
    if (watch->previous != NULL)
        watch->previous->next = watch->next;
    else
        watch->loop->watches = watch->next;
    if (watch->next != NULL)
        watch->next->previous = watch->previous;
    free(watch);
}

/* --- the way back from other threads --------------------------------------------------------- */

static void loop_wake(struct repl_loop *loop)
{
    uint64_t one = 1;
    /* EAGAIN would mean that the counter is full, hence that a wake-up is pending anyway. */
    ssize_t written = write(loop->wake_fd, &one, sizeof one);
    (void)written;
}

void loop_job_finished(struct repl_loop *loop, struct repl_job *job)
{
    pthread_mutex_lock(&loop->finished_lock);
    bool first = loop->finished.head == NULL;
    loop_job_queue_put(&loop->finished, job);
    pthread_mutex_unlock(&loop->finished_lock);
    if (first)
        loop_wake(loop);
}

static void wake_ready(struct repl_poll *poll, unsigned events)
{
    (void)events;
    struct repl_loop *loop = poll->loop;
    uint64_t count;
    ssize_t got = read(loop->wake_fd, &count, sizeof count);
    (void)got; /* EAGAIN: another turn has read it */

    pthread_mutex_lock(&loop->finished_lock);
    struct repl_job *job = loop->finished.head;
    loop_job_queue_init(&loop->finished);
    pthread_mutex_unlock(&loop->finished_lock);

    while (job != NULL) {
        struct repl_job *next = job->next; /* done() may put the job to use again */
        loop->job_count--;
        loop->callbacks++;
        job->done(job);
        job = next;
    }
}

/* --- signals --------------------------------------------------------------------------------- */

static void signal_ready(struct repl_poll *poll, unsigned events)
{
    (void)events;
    struct repl_loop *loop = poll->loop;
    struct signalfd_siginfo info;
    while (read(loop->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        loop->signal_fn(loop->signal_context, (int)info.ssi_signo);
}

repl_result repl_loop_signals(struct repl_loop *loop, repl_signal_fn *fn, void *context,
                              struct repl_error *err)
{
    if (loop->signal_fd >= 0)
        return repl_fail(err, REPL_E_INTERNAL, "the loop takes signals already");

    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    int fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make a descriptor for signals");
    int rc = pthread_sigmask(SIG_BLOCK, &signals, &loop->signals_were);
    if (rc != 0) {
        close(fd);
        return repl_fail_errno(err, REPL_E_IO, rc, "cannot block signals");
    }
    loop->signal_fd = fd;
    loop->signal_fn = fn;
    loop->signal_context = context;
    loop->signal_poll.ready = signal_ready;
    repl_poll_start(loop, &loop->signal_poll, fd, POLLIN);
    return REPL_SUCCESS;
}

/* Gives back only the three signals: the rest of the mask may have changed since. */
static void signals_undo(struct repl_loop *loop)
{
    static const int taken[] = {SIGINT, SIGTERM, SIGHUP};
    if (loop->signal_fd < 0)
        return;
    close(loop->signal_fd);
    sigset_t undo;
    sigemptyset(&undo);
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        if (!sigismember(&loop->signals_were, taken[i]))
            sigaddset(&undo, taken[i]);
    pthread_sigmask(SIG_UNBLOCK, &undo, NULL);
}

/* --- turning --------------------------------------------------------------------------------- */

static int64_t min_wait_ns(int64_t a, int64_t b)
{
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

static int64_t loop_timer_wait_ns(const struct repl_loop *loop)
{
    if (loop->heap_count == 0)
        return -1;
    int64_t wait_ns = loop->heap[1]->due_ns - repl_now_mono_ns();
    return wait_ns > 0 ? wait_ns : 0;
}

static repl_result loop_turn(struct repl_loop *loop, int64_t wait_ns, struct repl_error *err)
{
    ensure(!loop->in_turn); /* not from a callback */
    if (loop->broken_text != NULL)
        return repl_fail_errno(err, loop->broken_errno == ENOMEM ? REPL_E_NOMEM : REPL_E_IO,
                               loop->broken_errno, "event loop: %s", loop->broken_text);
    loop->in_turn = true;
    wait_ns = min_wait_ns(wait_ns, loop_timer_wait_ns(loop));
    repl_result result = loop->backend->turn(loop, wait_ns, err);
    if (repl_ok(result))
        loop_fire_timers(loop);
    loop->in_turn = false;
    return result;
}

repl_result repl_loop_run(struct repl_loop *loop, struct repl_error *err)
{
    while (!atomic_exchange(&loop->stopping, false))
        REPL_TRY(loop_turn(loop, -1, err));
    return REPL_SUCCESS;
}

repl_result repl_loop_once(struct repl_loop *loop, int timeout_ms, struct repl_error *err)
{
    uint64_t callbacks_before = loop->callbacks;
    int64_t end_ns = timeout_ms < 0 ? INT64_MAX : repl_now_mono_ns() + timeout_ms * NS_PER_MS;
    int64_t wait_ns = timeout_ms < 0 ? -1 : timeout_ms * NS_PER_MS;
    for (;;) {
        REPL_TRY(loop_turn(loop, wait_ns, err));
        if (loop->callbacks != callbacks_before || atomic_load(&loop->stopping))
            return REPL_SUCCESS;
        /* Housekeeping, such as the end of a stopped poll, ends a turn early. */
        if (timeout_ms < 0)
            continue;
        wait_ns = end_ns - repl_now_mono_ns();
        if (wait_ns <= 0)
            return REPL_SUCCESS;
    }
}

void repl_loop_stop(struct repl_loop *loop)
{
    atomic_store(&loop->stopping, true);
    loop_wake(loop);
}

/* --- making and freeing ---------------------------------------------------------------------- */

static bool uring_forbidden(void)
{
    const char *value = getenv("REPL_NO_IO_URING");
    return value != NULL && *value != '\0' && strcmp(value, "0") != 0;
}

static repl_result loop_open_backend(struct repl_loop *loop, enum repl_loop_backend wanted,
                                     struct repl_error *err)
{
    if (wanted == REPL_LOOP_IO_URING || (wanted == REPL_LOOP_AUTO && !uring_forbidden())) {
        loop->backend = &loop_uring_backend;
        repl_result result = loop->backend->open(loop, err);
        if (repl_ok(result) || wanted == REPL_LOOP_IO_URING)
            return result;
    }
    loop->backend = &loop_epoll_backend;
    return loop->backend->open(loop, err);
}

static unsigned worker_count(unsigned wanted)
{
    if (wanted != 0)
        return wanted;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (processors < 2)
        return 2;
    return processors > 16 ? 16 : (unsigned)processors;
}

static repl_result loop_open(struct repl_loop *loop, const struct repl_loop_options *options,
                             struct repl_error *err)
{
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (loop->wake_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make the event loop's eventfd");
    REPL_TRY(loop_open_backend(loop, options->backend, err));
    REPL_TRY(loop_pool_open(&loop->workers, loop, worker_count(options->workers),
                            options->worker_nice, "repl-work", err));
    loop->wake.ready = wake_ready;
    repl_poll_start(loop, &loop->wake, loop->wake_fd, POLLIN);
    return REPL_SUCCESS;
}

repl_result repl_loop_new(const struct repl_loop_options *options, struct repl_loop **out,
                          struct repl_error *err)
{
    if (options->workers > LOOP_WORKERS_MAX)
        return repl_fail(err, REPL_E_USAGE, "%u worker threads are too many; the most is %u",
                         options->workers, LOOP_WORKERS_MAX);
    if (options->worker_nice < 0 || options->worker_nice > 19)
        return repl_fail(err, REPL_E_USAGE, "niceness %d of the workers is not within 0 to 19",
                         options->worker_nice);

    struct repl_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the event loop");
    loop->wake_fd = -1;
    loop->signal_fd = -1;
    pthread_mutex_init(&loop->finished_lock, NULL);
    loop_job_queue_init(&loop->finished);

    repl_result result = loop_open(loop, options, err);
    if (!repl_ok(result)) {
        repl_loop_free(loop);
        return result;
    }
    *out = loop;
    return REPL_SUCCESS;
}

void repl_loop_free(struct repl_loop *loop)
{
    if (loop == NULL)
        return;
    ensure(!loop->in_turn); /* not from a callback */
    ensure(loop->io_count == 0);
    ensure(loop->job_count == 0);

    /* The threads write to wake_fd, so they go first. */
    loop_pool_close(&loop->workers);
    if (loop->backend_state != NULL)
        loop->backend->close(loop);
    while (loop->watches != NULL) {
        if (loop->watches->poll != NULL)
            loop->watches->poll->impl = NULL;
        loop_watch_free(loop->watches);
    }
    for (size_t slot = 1; slot <= loop->heap_count; slot++)
        loop->heap[slot]->heap_slot = 0;
    free(loop->heap);
    signals_undo(loop);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    pthread_mutex_destroy(&loop->finished_lock);
    free(loop);
}

const char *repl_loop_backend_name(const struct repl_loop *loop)
{
    return loop->backend->name;
}
