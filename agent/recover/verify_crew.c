#include "recover/verify_crew.h"

#include <unistd.h>

#define THREADS_MAX 16u

static bool crew_next(struct repl_crew *crew, uint64_t *item)
{
    const atomic_bool *interrupted = crew->options->interrupted;
    pthread_mutex_lock(&crew->mutex);
    if (interrupted != NULL && atomic_load(interrupted) && repl_ok(crew->result)) {
        crew->result = repl_fail(&crew->err, REPL_E_RETRY, "interrupted");
        crew->stop = true;
    }
    bool taken = !crew->stop && crew->next < crew->item_count;
    if (taken)
        *item = crew->next++;
    pthread_mutex_unlock(&crew->mutex);
    return taken;
}

static void *crew_thread(void *context)
{
    struct repl_crew *crew = context;
    struct repl_error err;
    void *of_thread = NULL;
    uint64_t item;
    repl_result result = crew->thread_begin(crew->context, &of_thread, &err);
    while (repl_ok(result) && crew_next(crew, &item))
        result = crew->item(crew->context, of_thread, item, &err);
    if (of_thread != NULL)
        crew->thread_end(of_thread);
    pthread_mutex_lock(&crew->mutex);
    if (!repl_ok(result)) {
        crew->stop = true;
        if (repl_ok(crew->result)) {
            crew->result = result;
            crew->err = err;
        }
    }
    pthread_mutex_unlock(&crew->mutex);
    return NULL;
}

repl_result repl_crew_run(struct repl_crew *crew, struct repl_error *err)
{
    pthread_t threads[THREADS_MAX];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned count = crew->options->threads > 0 ? crew->options->threads
                     : processors > 2           ? (unsigned)processors
                                                : 2;
    unsigned started = 0;
    if (count > THREADS_MAX)
        count = THREADS_MAX;
    pthread_mutex_init(&crew->mutex, NULL);
    while (started < count && pthread_create(&threads[started], NULL, crew_thread, crew) == 0)
        started++;
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&crew->mutex);
    if (started == 0)
        return repl_fail(err, REPL_E_NOMEM, "cannot start a thread");
    if (!repl_ok(crew->result) && err != NULL)
        *err = crew->err;
    return crew->result;
}
