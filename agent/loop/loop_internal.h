/*
 * What the files of the loop know of each other.
 *
 * Threads. Everything belongs to the loop's thread except what is named here:
 *   - a job (and the repl_io around it) belongs to a pool's thread from the
 *     moment it leaves the pool's queue until it stands in loop->finished;
 *   - loop->finished is guarded by finished_lock, a pool's queue and its quit
 *     flag by the pool's lock;
 *   - loop->stopping is atomic and wake_fd is only ever written to from afar.
 *
 * Lock order: finished_lock and the pools' locks are leaves. No thread holds
 * two of them, and none is held while a callback or a system call on a file
 * runs.
 */
#ifndef REPL_AGENT_LOOP_INTERNAL_H
#define REPL_AGENT_LOOP_INTERNAL_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "loop/loop.h"

/* What one read or write moves at most: the kernel's own limit, on both backends. */
#define LOOP_IO_SIZE_MAX 0x7ffff000u
#define LOOP_WORKERS_MAX 256u

enum loop_io_kind {
    LOOP_IO_READ,
    LOOP_IO_WRITE,
    LOOP_IO_SYNC,
};

/*
 * The loop's side of a repl_poll. It is on the heap because it outlives the
 * caller's struct: the kernel, or a batch of events being delivered, may still
 * name it after the poll was stopped.
 */
struct loop_watch {
    struct repl_poll *poll; /* NULL: stopped, and to be freed by the backend */
    struct repl_loop *loop;
    struct loop_watch *previous, *next; /* loop->watches */
    struct loop_watch *link;            /* one of the backend's lists */
    int fd;
    unsigned events;
    union {
        struct {
            bool listed;    /* on to_arm or to_cancel */
            bool in_kernel; /* a completion will name it */
        } ring;
        struct {
            int own_fd;      /* a duplicate, where fd is watched already; else -1 */
            unsigned forced; /* not 0: epoll does not take the file; always ready like this */
        } epoll;
    } as;
};

struct loop_job_queue {
    struct repl_job *head;
    struct repl_job **tail;
};

struct loop_pool {
    struct repl_loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct loop_job_queue queue; /* guarded by lock */
    bool quit;                   /* guarded by lock */
    /* guarded by lock: */
    size_t outstanding; /* jobs in the queue or at work */
    int64_t busy_ns;    /* of all threads, until busy_until_ns */
    int64_t busy_until_ns;
    int nice;
    unsigned count;
    pthread_t *threads;
};

struct loop_backend {
    const char *name;
    repl_result (*open)(struct repl_loop *loop, struct repl_error *err);
    void (*close)(struct repl_loop *loop);
    /* Submits, waits for wait_ns at most (negative: no limit) and calls back what is ready. */
    repl_result (*turn)(struct repl_loop *loop, int64_t wait_ns, struct repl_error *err);
    void (*io_start)(struct repl_loop *loop, struct repl_io *io);
    void (*watch_start)(struct loop_watch *watch);
    /* The same descriptor with other events; false: stop it and start anew. */
    bool (*watch_change)(struct loop_watch *watch, unsigned events);
    /* watch->poll is NULL by now; frees the watch as soon as nothing can name it. */
    void (*watch_stop)(struct loop_watch *watch);
};

struct repl_loop {
    const struct loop_backend *backend;
    void *backend_state;
    bool in_turn;
    uint64_t callbacks; /* called so far, those of the loop's own polls left out */
    size_t io_count;    /* started and not called back */
    size_t job_count;   /* in a pool or on finished */
    struct loop_watch *watches;

    /* Set where a function without a result failed; the next turn reports it. */
    const char *broken_text;
    int broken_errno;

    struct repl_timer **heap; /* from slot 1 */
    size_t heap_count, heap_size;
    uint64_t timer_sequence;
    int64_t fired_ns; /* timers due by then have been called */

    atomic_bool stopping;
    int wake_fd; /* eventfd: finished is no longer empty, or stopping is set */
    struct repl_poll wake;
    pthread_mutex_t finished_lock;
    struct loop_job_queue finished; /* guarded by finished_lock */

    struct loop_pool workers;

    int signal_fd;
    struct repl_poll signal_poll;
    repl_signal_fn *signal_fn;
    void *signal_context;
    sigset_t signals_were; /* the mask to go back to */
};

extern const struct loop_backend loop_uring_backend;
extern const struct loop_backend loop_epoll_backend;

/* Calls back a repl_io that has ended. */
void loop_io_finish(struct repl_io *io, int64_t result);

/* Calls back a watch, unless it was stopped or asks for none of these events by now. */
void loop_watch_deliver(struct loop_watch *watch, unsigned events);
void loop_watch_free(struct loop_watch *watch);

/* From any thread: job->done will be called on the loop's. The job has been counted. */
void loop_job_finished(struct repl_loop *loop, struct repl_job *job);

void loop_job_queue_init(struct loop_job_queue *queue);
void loop_job_queue_put(struct loop_job_queue *queue, struct repl_job *job);
struct repl_job *loop_job_queue_take(struct loop_job_queue *queue);

/* name: of the threads, at most 15 bytes. After a failure there is nothing to close. */
REPL_RESULT loop_pool_open(struct loop_pool *pool, struct repl_loop *loop, unsigned count, int nice,
                           const char *name, struct repl_error *err);
void loop_pool_close(struct loop_pool *pool);
/* On the loop's thread. */
void loop_pool_put(struct loop_pool *pool, struct repl_job *job);

#endif
