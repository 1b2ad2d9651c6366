/*
 * Threads that do a common work, an item each at a time, until there is none or one
 * of them cannot go on. Private to verification.
 */
#ifndef REPL_AGENT_VERIFY_CREW_H
#define REPL_AGENT_VERIFY_CREW_H

#include <pthread.h>

#include "recover/verify_history.h"

/* One item of the common work: a segment, a supply, a piece. */
typedef repl_result repl_crew_item_fn(void *context, void *of_thread, uint64_t item,
                                      struct repl_error *err);

struct repl_crew {
    const struct repl_verify_options *options;
    repl_crew_item_fn *item;
    void *context;
    repl_result (*thread_begin)(void *context, void **of_thread, struct repl_error *err);
    void (*thread_end)(void *of_thread);
    uint64_t item_count;

    pthread_mutex_t mutex; /* guards all below, and what items sum up */
    uint64_t next;
    bool stop;
    repl_result result;
    struct repl_error err;
};

/* All of the items. threads: the options', or as many as there are processors. */
REPL_RESULT repl_crew_run(struct repl_crew *crew, struct repl_error *err);

#endif
