/*
 * The io_uring backend.
 *
 * Starting an operation only puts it on a list. Once a turn, ring_flush makes
 * submission entries of the lists and one system call submits them all and
 * waits. An operation is thus in one of three places:
 *
 *   pending list -> kernel (counted in in_flight) -> called back
 *
 * No more than IO_DEPTH file operations are in the kernel at once, so that
 * their completions fit the completion ring with room for the polls; the kernel
 * keeps what overflows (IORING_FEAT_NODROP), but refuses new work meanwhile on
 * some versions. When the submission ring is full it is submitted and filled
 * again; when the kernel will not take more now, the rest stays on the lists
 * until completions have been called back.
 *
 * A poll is a one-shot request that is made anew after each callback. The
 * kernel looks at the readiness when a request is made, so this is
 * level-triggered, and the new request rides along with the turn's submission.
 * (A multishot request reports edges.) A watch is in one of these states:
 *
 *   listed on to_arm      new, or just called back; no request in the kernel
 *   in_kernel             one request, whose completion will name the watch
 *   in_kernel and listed  stopped; on to_cancel
 *   listed on to_cancel   stopped, and the completion has come meanwhile
 *
 * Stopping takes the poll off the watch at once, which is what silences a
 * completion that is queued already. The watch itself is freed by ring_flush
 * while it is listed, else by its completion. Removals are submitted before new
 * requests, in order: a removal can never hit a new watch at the old address.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>

#include "base/ensure.h"
#include "loop/loop_internal.h"

#define SQ_ENTRIES 512u
#define CQ_ENTRIES 4096u
#define IO_DEPTH   2048u
_Static_assert(IO_DEPTH <= CQ_ENTRIES / 2, "half of the completion ring is for polls");

/* user_data: a pointer to a repl_io or, with this bit, to a loop_watch; 0: nobody asks. */
#define TAG_WATCH 1u
_Static_assert(_Alignof(struct repl_io) > TAG_WATCH && _Alignof(struct loop_watch) > TAG_WATCH,
               "the tag must not be a bit of the address");

struct watch_list {
    struct loop_watch *head;
    struct loop_watch **tail;
};

struct ring_state {
    struct io_uring ring;
    struct repl_io *pending;
    struct repl_io **pending_tail;
    unsigned in_flight;
    struct watch_list to_arm;
    struct watch_list to_cancel;
};

static void watch_list_init(struct watch_list *list)
{
    list->head = NULL;
    list->tail = &list->head;
}

static void watch_list_put(struct watch_list *list, struct loop_watch *watch)
{
    watch->link = NULL;
    watch->as.ring.listed = true;
    *list->tail = watch;
    list->tail = &watch->link;
}

static void watch_list_drop_head(struct watch_list *list)
{
    struct loop_watch *watch = list->head;
    watch->as.ring.listed = false;
    list->head = watch->link;
    if (list->head == NULL)
        list->tail = &list->head;
}

static uint64_t watch_data(struct loop_watch *watch)
{
    return (uint64_t)(uintptr_t)watch | TAG_WATCH;
}

/* --- submission ------------------------------------------------------------------------------ */

/* NULL: the kernel takes no more for now; *error is set where that is for good. */
static struct io_uring_sqe *ring_sqe(struct ring_state *state, int *error)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&state->ring);
    if (sqe != NULL)
        return sqe;
    int rc = io_uring_submit(&state->ring);
    if (rc < 0 && rc != -EBUSY && rc != -EAGAIN && rc != -EINTR)
        *error = rc;
    return io_uring_get_sqe(&state->ring);
}

static bool ring_flush_cancels(struct ring_state *state, int *error)
{
    struct loop_watch *watch;
    while ((watch = state->to_cancel.head) != NULL) {
        if (watch->as.ring.in_kernel) {
            struct io_uring_sqe *sqe = ring_sqe(state, error);
            if (sqe == NULL)
                return false;
            io_uring_prep_poll_remove(sqe, watch_data(watch));
            io_uring_sqe_set_data64(sqe, 0);
        }
        watch_list_drop_head(&state->to_cancel);
        if (!watch->as.ring.in_kernel)
            loop_watch_free(watch);
    }
    return true;
}

static bool ring_flush_arms(struct ring_state *state, int *error)
{
    struct loop_watch *watch;
    while ((watch = state->to_arm.head) != NULL) {
        if (watch->poll != NULL) {
            struct io_uring_sqe *sqe = ring_sqe(state, error);
            if (sqe == NULL)
                return false;
            io_uring_prep_poll_add(sqe, watch->fd, watch->events);
            io_uring_sqe_set_data64(sqe, watch_data(watch));
            watch->as.ring.in_kernel = true;
        }
        watch_list_drop_head(&state->to_arm);
        if (watch->poll == NULL)
            loop_watch_free(watch);
    }
    return true;
}

static void ring_prepare(struct io_uring_sqe *sqe, struct repl_io *io)
{
    switch ((enum loop_io_kind)io->kind) {
    case LOOP_IO_READ:
        io_uring_prep_read(sqe, io->fd, io->vec.iov_base, (unsigned)io->vec.iov_len, io->offset);
        break;
    case LOOP_IO_WRITE:
        io_uring_prep_write(sqe, io->fd, io->vec.iov_base, (unsigned)io->vec.iov_len, io->offset);
        break;
    case LOOP_IO_SYNC:
        io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
        break;
    }
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)io);
}

static bool ring_flush_ios(struct ring_state *state, int *error)
{
    while (state->pending != NULL && state->in_flight < IO_DEPTH) {
        struct io_uring_sqe *sqe = ring_sqe(state, error);
        if (sqe == NULL)
            return false;
        struct repl_io *io = state->pending;
        state->pending = io->next;
        if (state->pending == NULL)
            state->pending_tail = &state->pending;
        state->in_flight++;
        ring_prepare(sqe, io);
    }
    return true;
}

/* True: the lists are empty, or only completions can make room for the rest. */
static bool ring_flush(struct ring_state *state, int *error)
{
    return ring_flush_cancels(state, error) && ring_flush_arms(state, error) &&
           ring_flush_ios(state, error);
}

/* --- completion ------------------------------------------------------------------------------ */

static void ring_io_start(struct repl_loop *loop, struct repl_io *io)
{
    struct ring_state *state = loop->backend_state;
    io->next = NULL;
    *state->pending_tail = io;
    state->pending_tail = &io->next;
}

static void ring_io_completed(struct ring_state *state, struct repl_io *io, int result)
{
    state->in_flight--;
    if (result == -EINTR) { /* a signal met the kernel's thread; pread(2) would begin again too */
        ring_io_start(io->loop, io);
        return;
    }
    loop_io_finish(io, result);
}

static void ring_watch_completed(struct ring_state *state, struct loop_watch *watch, int result)
{
    watch->as.ring.in_kernel = false;
    if (watch->poll == NULL) {
        if (!watch->as.ring.listed)
            loop_watch_free(watch);
        return;
    }
    /* Before the callback, which may stop the poll: then ring_flush frees the watch. */
    watch_list_put(&state->to_arm, watch);
    loop_watch_deliver(watch, result < 0 ? POLLERR | POLLNVAL : (unsigned)result);
}

/* Only what is there now, so that a fast device cannot keep timers waiting. */
static void ring_reap(struct ring_state *state)
{
    struct io_uring_cqe *cqe;
    for (unsigned left = io_uring_cq_ready(&state->ring); left > 0; left--) {
        if (io_uring_peek_cqe(&state->ring, &cqe) != 0)
            break;
        uint64_t data = cqe->user_data;
        int result = cqe->res;
        io_uring_cqe_seen(&state->ring, cqe);
        if ((data & TAG_WATCH) != 0)
            ring_watch_completed(
                state, (struct loop_watch *)(uintptr_t)(data & ~(uint64_t)TAG_WATCH), result);
        else if (data != 0)
            ring_io_completed(state, (struct repl_io *)(uintptr_t)data, result);
    }
}

static int ring_wait(struct ring_state *state, int64_t wait_ns)
{
    if (wait_ns == 0)
        return io_uring_submit_and_get_events(&state->ring);
    if (wait_ns < 0)
        return io_uring_submit_and_wait(&state->ring, 1);
    struct __kernel_timespec timeout = {
        .tv_sec = wait_ns / 1000000000,
        .tv_nsec = wait_ns % 1000000000,
    };
    struct io_uring_cqe *cqe;
    return io_uring_submit_and_wait_timeout(&state->ring, &cqe, 1, &timeout, NULL);
}

static repl_result ring_turn(struct repl_loop *loop, int64_t wait_ns, struct repl_error *err)
{
    struct ring_state *state = loop->backend_state;
    int rc = 0;
    bool all = ring_flush(state, &rc);
    if (rc == 0)
        rc = ring_wait(state, all ? wait_ns : 0);
    if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
        return repl_fail_errno(err, REPL_E_IO, -rc,
                               "io_uring failed; set REPL_NO_IO_URING=1 to work without it");
    ring_reap(state);
    return REPL_SUCCESS;
}

/* --- watches --------------------------------------------------------------------------------- */

static void ring_watch_start(struct loop_watch *watch)
{
    struct ring_state *state = watch->loop->backend_state;
    watch_list_put(&state->to_arm, watch);
}

static bool ring_watch_change(struct loop_watch *watch, unsigned events)
{
    if (watch->as.ring.in_kernel)
        return false;
    watch->events = events;
    return true;
}

static void ring_watch_stop(struct loop_watch *watch)
{
    struct ring_state *state = watch->loop->backend_state;
    ensure(watch->as.ring.in_kernel != watch->as.ring.listed);
    if (watch->as.ring.in_kernel)
        watch_list_put(&state->to_cancel, watch);
}

/* --- making and freeing ---------------------------------------------------------------------- */

static int ring_set_up(struct io_uring *ring)
{
    /*
     * Completions are only looked at after entering the kernel, so it need not
     * interrupt the thread to post them. Kernels before 5.19 know no such flag.
     */
    struct io_uring_params params = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_COOP_TASKRUN,
        .cq_entries = CQ_ENTRIES,
    };
    int rc = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
    if (rc == -EINVAL) {
        params = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = CQ_ENTRIES};
        rc = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
    }
    if (rc < 0)
        return rc;

    /* 5.11: waiting with a timeout. Whoever has it has every request used here. */
    unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;
    if ((params.features & needed) != needed) {
        io_uring_queue_exit(ring);
        return -EOPNOTSUPP;
    }
    return 0;
}

static repl_result ring_open(struct repl_loop *loop, struct repl_error *err)
{
    struct ring_state *state = calloc(1, sizeof *state);
    if (state == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the io_uring backend");
    int rc = ring_set_up(&state->ring);
    if (rc < 0) {
        free(state);
        return repl_fail_errno(err, REPL_E_IO, -rc,
                               "cannot set up io_uring (needs Linux 5.11, sysctl "
                               "kernel.io_uring_disabled=0 and leave of a container's seccomp "
                               "profile; the epoll backend needs none of them)");
    }
    state->pending_tail = &state->pending;
    watch_list_init(&state->to_arm);
    watch_list_init(&state->to_cancel);
    loop->backend_state = state;
    return REPL_SUCCESS;
}

/* The kernel cancels the polls left; nobody will read what it says of them. */
static void ring_close(struct repl_loop *loop)
{
    struct ring_state *state = loop->backend_state;
    io_uring_queue_exit(&state->ring);
    free(state);
    loop->backend_state = NULL;
}

const struct loop_backend loop_uring_backend = {
    .name = "io_uring",
    .open = ring_open,
    .close = ring_close,
    .turn = ring_turn,
    .io_start = ring_io_start,
    .watch_start = ring_watch_start,
    .watch_change = ring_watch_change,
    .watch_stop = ring_watch_stop,
};
