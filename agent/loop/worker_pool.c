/*
 * The worker pool: threads that do what would hold up the loop.
 *
 * A job goes queue -> work() on one of the threads -> loop->finished, from
 * where the loop's thread takes it and calls done(). The queue has no bound of
 * its own: a job struct is the caller's memory, so callers bound what they put
 * in. There is the pool behind repl_loop_work, the I/O threads of the epoll
 * backend, and what is made with repl_pool_new.
 *
 * The threads block all signals but those that report a fault of their own, so
 * that a signal for the process can only reach the loop's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/ensure.h"
#include "loop/loop_internal.h"

void loop_job_queue_init(struct loop_job_queue *queue)
{
    queue->head = NULL;
    queue->tail = &queue->head;
}

void loop_job_queue_put(struct loop_job_queue *queue, struct repl_job *job)
{
    job->next = NULL;
    *queue->tail = job;
    queue->tail = &job->next;
}

struct repl_job *loop_job_queue_take(struct loop_job_queue *queue)
{
    struct repl_job *job = queue->head;
    if (job == NULL)
        return NULL;
    queue->head = job->next;
    if (queue->head == NULL)
        queue->tail = &queue->head;
    return job;
}

/* Brings busy_ns up to now. A thread is busy while there is a job for it, taken or not: one that
 * waits for a processor is no idle one. Under the lock. */
static void pool_account(struct loop_pool *pool)
{
    int64_t now_ns = repl_now_mono_ns();
    size_t busy = pool->outstanding < pool->count ? pool->outstanding : pool->count;
    pool->busy_ns += (int64_t)busy * (now_ns - pool->busy_until_ns);
    pool->busy_until_ns = now_ns;
}

/* Waits for a job; NULL: the pool is being closed. ended: the thread comes from one. */
static struct repl_job *pool_take(struct loop_pool *pool, bool ended)
{
    pthread_mutex_lock(&pool->lock);
    if (ended) {
        pool_account(pool);
        pool->outstanding--;
    }
    while (pool->queue.head == NULL && !pool->quit)
        pthread_cond_wait(&pool->more, &pool->lock);
    struct repl_job *job = loop_job_queue_take(&pool->queue);
    pthread_mutex_unlock(&pool->lock);
    return job;
}

static void *pool_thread(void *argument)
{
    struct loop_pool *pool = argument;
    /* Niceness is a thread's own on Linux. Only upwards: that is always allowed. */
    if (pool->nice > getpriority(PRIO_PROCESS, 0))
        setpriority(PRIO_PROCESS, 0, pool->nice);

    struct repl_job *job = NULL;
    while ((job = pool_take(pool, job != NULL)) != NULL) {
        job->work(job);
        loop_job_finished(pool->loop, job);
    }
    return NULL;
}

static int pool_start_threads(struct loop_pool *pool, unsigned count, const char *name)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&blocked, faults[i]);

    /* A thread inherits the mask of the one that makes it. */
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int rc = 0;
    for (; pool->count < count; pool->count++) {
        rc = pthread_create(&pool->threads[pool->count], NULL, pool_thread, pool);
        if (rc != 0)
            break;
        pthread_setname_np(pool->threads[pool->count], name);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

repl_result loop_pool_open(struct loop_pool *pool, struct repl_loop *loop, unsigned count, int nice,
                           const char *name, struct repl_error *err)
{
    pthread_t *threads = calloc(count, sizeof *threads);
    if (threads == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %u threads of the loop", count);

    *pool = (struct loop_pool){.loop = loop, .nice = nice, .threads = threads};
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->more, NULL);
    loop_job_queue_init(&pool->queue);

    int rc = pool_start_threads(pool, count, name);
    if (rc != 0) {
        unsigned started = pool->count;
        loop_pool_close(pool);
        return repl_fail_errno(err, REPL_E_IO, rc,
                               "cannot start thread %u of %u (%s); raise the limit on tasks "
                               "(TasksMax=, ulimit -u) or ask for fewer workers",
                               started + 1, count, name);
    }
    return REPL_SUCCESS;
}

void loop_pool_close(struct loop_pool *pool)
{
    if (pool->threads == NULL)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->quit = true;
    pthread_cond_broadcast(&pool->more);
    pthread_mutex_unlock(&pool->lock);

    for (unsigned i = 0; i < pool->count; i++)
        pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->more);
    pthread_mutex_destroy(&pool->lock);
    free(pool->threads);
    pool->threads = NULL;
    pool->count = 0;
}

void loop_pool_put(struct loop_pool *pool, struct repl_job *job)
{
    pool->loop->job_count++;
    pthread_mutex_lock(&pool->lock);
    pool_account(pool);
    pool->outstanding++;
    loop_job_queue_put(&pool->queue, job);
    pthread_cond_signal(&pool->more);
    pthread_mutex_unlock(&pool->lock);
}

void repl_loop_work(struct repl_loop *loop, struct repl_job *job)
{
    ensure(job->work != NULL && job->done != NULL);
    job->loop = loop;
    loop_pool_put(&loop->workers, job);
}

unsigned repl_loop_worker_count(const struct repl_loop *loop)
{
    return loop->workers.count;
}

int64_t repl_loop_worker_busy_ns(struct repl_loop *loop)
{
    struct loop_pool *pool = &loop->workers;
    pthread_mutex_lock(&pool->lock);
    pool_account(pool);
    int64_t busy_ns = pool->busy_ns;
    pthread_mutex_unlock(&pool->lock);
    return busy_ns;
}

/* --- pools of one's own ---------------------------------------------------------------------- */

struct repl_pool {
    struct loop_pool threads;
};

repl_result repl_pool_new(struct repl_loop *loop, unsigned threads, int nice, const char *name,
                          struct repl_pool **out, struct repl_error *err)
{
    struct repl_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the threads %s", name);
    repl_result result = loop_pool_open(&pool->threads, loop, threads, nice, name, err);
    if (!repl_ok(result)) {
        free(pool);
        return result;
    }
    *out = pool;
    return REPL_SUCCESS;
}

void repl_pool_free(struct repl_pool *pool)
{
    if (pool == NULL)
        return;
    loop_pool_close(&pool->threads);
    free(pool);
}

void repl_pool_work(struct repl_pool *pool, struct repl_job *job)
{
    ensure(job->work != NULL && job->done != NULL);
    job->loop = pool->threads.loop;
    loop_pool_put(&pool->threads, job);
}
