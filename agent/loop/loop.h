/*
 * The event loop: one thread, completions in, callbacks out.
 *
 * Reads, writes, syncs, socket readiness and timers go through io_uring where
 * the kernel allows it, else through epoll and a few I/O threads; the callers
 * see no difference. Heavy computing and calls that block go to the worker
 * pool and come back as a callback on the loop's thread. So everything outside
 * a worker's function runs on one thread and needs no lock.
 *
 * Ownership: an operation struct belongs to the caller, must stay in place
 * until its callback has been called, and may be used again from within it.
 * The callback is never called from inside the function that starts the
 * operation.
 *
 * Polls and timers are zeroed before their first use; nothing else must be.
 * All functions but repl_loop_stop and the clocks belong to the thread that
 * runs the loop (or, before it runs, to the one that made it), and none of
 * new, free, run and once may be called from a callback.
 */
#ifndef REPL_AGENT_LOOP_H
#define REPL_AGENT_LOOP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "repl/error.h"

struct repl_loop;

enum repl_loop_backend {
    REPL_LOOP_AUTO, /* io_uring, else epoll; REPL_NO_IO_URING=1 in the environment says epoll */
    REPL_LOOP_IO_URING,
    REPL_LOOP_EPOLL,
};

struct repl_loop_options {
    enum repl_loop_backend backend;
    unsigned workers; /* threads of the pool, up to 256; 0: one a processor, within 2 to 16 */
    int worker_nice;  /* niceness of the pool's threads, 0 to 19; never less than the caller's */
};

REPL_RESULT repl_loop_new(const struct repl_loop_options *options, struct repl_loop **out,
                          struct repl_error *err);
/*
 * No operation may be outstanding but polls and timers, which are dropped
 * without a callback (their structs are still written to, so that a later stop
 * or cancel does nothing). NULL does nothing.
 */
void repl_loop_free(struct repl_loop *loop);
/* "io_uring" or "epoll". */
const char *repl_loop_backend_name(const struct repl_loop *loop);

/*
 * Runs until repl_loop_stop. Returns an error only if the kernel's interface
 * itself fails or memory for a poll or timer ran out; the loop is then beyond
 * use and what is in flight may still come, so the process should end.
 */
REPL_RESULT repl_loop_run(struct repl_loop *loop, struct repl_error *err);
/*
 * Runs what is ready; waits for at most timeout_ms (0: not at all, negative: no
 * limit) if nothing is. It returns early only after a callback or a stop.
 */
REPL_RESULT repl_loop_once(struct repl_loop *loop, int timeout_ms, struct repl_error *err);
/*
 * Makes run return once the callbacks of the turn under way have been called; a
 * stop asked for before run makes it return at once. From any thread.
 */
void repl_loop_stop(struct repl_loop *loop);

/* CLOCK_MONOTONIC, CLOCK_REALTIME, and CLOCK_BOOTTIME, which goes on while the machine is
 * suspended; in nanoseconds. */
int64_t repl_now_mono_ns(void);
int64_t repl_now_wall_ns(void);
int64_t repl_now_boot_ns(void);

/* --- the worker pool ------------------------------------------------------------------------- */

struct repl_job;
typedef void repl_job_fn(struct repl_job *job);

struct repl_job {
    repl_job_fn *work; /* on a worker's thread; may not call the loop, but stop */
    repl_job_fn *done; /* then on the loop's thread */
    void *context;
    /* private to the loop */
    struct repl_job *next;
    struct repl_loop *loop;
};

/* Jobs are begun in the order in which they are given, and end in any. */
void repl_loop_work(struct repl_loop *loop, struct repl_job *job);
/* Workers of the pool. */
unsigned repl_loop_worker_count(const struct repl_loop *loop);
/* How long workers have had a job, all of them together: wall time, and that too for which one
 * waited for a worker to come to a processor. It only grows; its begin means nothing. */
int64_t repl_loop_worker_busy_ns(struct repl_loop *loop);

/*
 * Threads of one's own, for jobs that may take so long that those of the loop
 * should not wait for them. name: at most 15 bytes. Not freed before its jobs
 * have been called back, and before the loop is.
 */
struct repl_pool;
REPL_RESULT repl_pool_new(struct repl_loop *loop, unsigned threads, int nice, const char *name,
                          struct repl_pool **out, struct repl_error *err);
/* NULL does nothing. */
void repl_pool_free(struct repl_pool *pool);
void repl_pool_work(struct repl_pool *pool, struct repl_job *job);

/* --- file I/O -------------------------------------------------------------------------------- */

struct repl_io;
/* result: bytes moved (short at end of file), 0 for a sync, or -errno. */
typedef void repl_io_fn(struct repl_io *io, int64_t result);

struct repl_io {
    repl_io_fn *done;
    void *context; /* for the callback */
    /* private to the loop */
    struct repl_io *next;
    struct repl_loop *loop;
    int kind;
    int fd;
    uint64_t offset;
    struct iovec vec;
    int64_t result;
    struct repl_job job;
};

/*
 * For regular files and block devices; sockets and pipes want a poll.
 * Operations in flight together run in any order: a sync covers the writes
 * whose callbacks came before it was started. The descriptor must stay open
 * until the callback. At most 2 GiB less a page are moved at once; an offset
 * past INT64_MAX is -EINVAL.
 */
void repl_loop_read(struct repl_loop *loop, struct repl_io *io, int fd, void *buffer, size_t size,
                    uint64_t offset);
void repl_loop_write(struct repl_loop *loop, struct repl_io *io, int fd, const void *buffer,
                     size_t size, uint64_t offset);
/* fdatasync */
void repl_loop_sync(struct repl_loop *loop, struct repl_io *io, int fd);

/* --- readiness ------------------------------------------------------------------------------- */

struct repl_poll;
/*
 * events: POLLIN, POLLOUT, POLLERR, POLLHUP as ready. Level-triggered: called
 * again while ready. POLLERR | POLLNVAL: the descriptor cannot be watched. An
 * earlier callback of the same turn may have taken what was ready, so the
 * descriptor should be non-blocking.
 */
typedef void repl_poll_fn(struct repl_poll *poll, unsigned events);

struct repl_poll {
    repl_poll_fn *ready;
    void *context;
    /* private to the loop */
    struct repl_loop *loop;
    void *impl;
    int fd;
    unsigned events;
};

/*
 * Starts watching, or changes what is watched for. Several polls may watch one
 * descriptor.
 */
void repl_poll_start(struct repl_loop *loop, struct repl_poll *poll, int fd, unsigned events);
/*
 * No callback comes after it, and the struct may be freed. Stop before closing
 * the descriptor; the kernel may then hold on to the open file until the end of
 * the turn (shutdown(2) first, where the peer must see the end at once).
 */
void repl_poll_stop(struct repl_poll *poll);

/* --- timers ---------------------------------------------------------------------------------- */

struct repl_timer;
typedef void repl_timer_fn(struct repl_timer *timer);

struct repl_timer {
    repl_timer_fn *fire;
    void *context;
    /* private to the loop */
    struct repl_loop *loop;
    int64_t due_ns;
    uint64_t sequence;
    size_t heap_slot; /* 0: not armed */
};

/*
 * Once, at due_ns on the monotonic clock; those due at the same time in the
 * order of arming. Arming an armed timer moves it.
 */
void repl_timer_arm(struct repl_loop *loop, struct repl_timer *timer, int64_t due_ns);
void repl_timer_cancel(struct repl_timer *timer);

/* --- signals --------------------------------------------------------------------------------- */

/*
 * SIGINT, SIGTERM and SIGHUP are blocked and arrive here; call it before any
 * other thread is made (the loop's own have all signals blocked). A child
 * process inherits the mask and has to undo it. Freeing the loop undoes it here.
 */
typedef void repl_signal_fn(void *context, int signal_number);
REPL_RESULT repl_loop_signals(struct repl_loop *loop, repl_signal_fn *fn, void *context,
                              struct repl_error *err);

#endif
