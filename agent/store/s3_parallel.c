#include "store/s3_parallel.h"

#include <pthread.h>

#define THREADS_MAX 8u

struct work {
    pthread_mutex_t mutex; /* guards what follows */
    size_t next, count;
    repl_result result;
    struct repl_error err;

    s3_each_fn *each;
    void *context;
};

/* False: there is none left, or no need of it. */
static bool next_take(struct work *work, size_t *i)
{
    pthread_mutex_lock(&work->mutex);
    bool taken = repl_ok(work->result) && work->next < work->count;
    if (taken)
        *i = work->next++;
    pthread_mutex_unlock(&work->mutex);
    return taken;
}

static void *work_run(void *context)
{
    struct work *work = context;
    size_t i;
    while (next_take(work, &i)) {
        struct repl_error err;
        repl_result result = work->each(work->context, i, &err);
        if (repl_ok(result))
            continue;
        pthread_mutex_lock(&work->mutex);
        if (repl_ok(work->result)) {
            work->result = result;
            work->err = err;
        }
        pthread_mutex_unlock(&work->mutex);
    }
    return NULL;
}

repl_result s3_each(size_t count, s3_each_fn *each, void *context, struct repl_error *err)
{
    struct work work = {.count = count, .each = each, .context = context};
    pthread_t threads[THREADS_MAX - 1];
    unsigned started = 0;
    pthread_mutex_init(&work.mutex, NULL);
    /* One that cannot be started is not needed: this thread does all that is left. */
    while (started < THREADS_MAX - 1 && started + 1 < count &&
           pthread_create(&threads[started], NULL, work_run, &work) == 0)
        started++;
    work_run(&work);
    while (started > 0)
        pthread_join(threads[--started], NULL);
    pthread_mutex_destroy(&work.mutex);
    if (!repl_ok(work.result) && err != NULL)
        *err = work.err;
    return work.result;
}
