/*
 * When which point is given up, without a walk through the history for each: a
 * queue for each rule, as what a rule keeps it gives up in the order in which it
 * came. The site walks, as it looks only now and then (journal/retention.h); this
 * is for tests with millions of points, and to hold the walk against.
 *
 * What is due is handed out once. Protection is the caller's to see to.
 */
#ifndef TESTS_UNIT_RETENTION_SCHEDULE_H
#define TESTS_UNIT_RETENTION_SCHEDULE_H

#include <stdlib.h>

#include "journal/retention.h"

/* Points in the order in which they are due; a ring. */
struct repl_retention_queue {
    struct repl_retention_due {
        uint64_t seq;
        int64_t until_ns;
    } * entries;
    size_t first, count, capacity; /* capacity: 0 or a power of two */
};

struct repl_retention_schedule {
    struct repl_retention policy;
    bool begun;
    int64_t last_ns; /* the time of the point added last */
    /* by the rule that keeps a point longest, and what none keeps */
    struct repl_retention_queue queues[REPL_RETENTION_RULES_MAX + 1];
};

#define QUEUE_SIZE_MIN 64u

static inline struct repl_retention_due *queue_at(const struct repl_retention_queue *queue,
                                                  size_t i)
{
    return &queue->entries[(queue->first + i) & (queue->capacity - 1)];
}

static inline bool queue_grow(struct repl_retention_queue *queue)
{
    size_t capacity = queue->capacity == 0 ? QUEUE_SIZE_MIN : queue->capacity * 2;
    struct repl_retention_due *entries = calloc(capacity, sizeof *entries);
    if (entries == NULL)
        return false;
    for (size_t i = 0; i < queue->count; i++)
        entries[i] = *queue_at(queue, i);
    free(queue->entries);
    queue->entries = entries;
    queue->first = 0;
    queue->capacity = capacity;
    return true;
}

static inline void repl_retention_schedule_init(struct repl_retention_schedule *schedule,
                                                const struct repl_retention *policy)
{
    *schedule = (struct repl_retention_schedule){.policy = *policy};
}

static inline void repl_retention_schedule_fini(struct repl_retention_schedule *schedule)
{
    for (unsigned i = 0; i <= REPL_RETENTION_RULES_MAX; i++)
        free(schedule->queues[i].entries);
    *schedule = (struct repl_retention_schedule){0};
}

static inline repl_result repl_retention_schedule_add(struct repl_retention_schedule *schedule,
                                                      uint64_t seq, int64_t time_ns,
                                                      struct repl_error *err)
{
    unsigned rule;
    int64_t until_ns = repl_retention_until(
        &schedule->policy, schedule->begun ? &schedule->last_ns : NULL, time_ns, &rule);
    struct repl_retention_queue *queue = &schedule->queues[rule];
    if (until_ns != REPL_RETENTION_FOREVER) {
        if (queue->count == queue->capacity && !queue_grow(queue))
            return repl_fail(err, REPL_E_NOMEM, "out of memory for the times of %zu points",
                             queue->count);
        *queue_at(queue, queue->count++) = (struct repl_retention_due){seq, until_ns};
    }
    schedule->begun = true;
    schedule->last_ns = time_ns;
    return REPL_SUCCESS;
}

static inline bool repl_retention_schedule_take(struct repl_retention_schedule *schedule,
                                                int64_t now_ns, uint64_t *seq)
{
    for (unsigned i = 0; i <= schedule->policy.count; i++) {
        struct repl_retention_queue *queue = &schedule->queues[i];
        if (queue->count == 0 || queue_at(queue, 0)->until_ns >= now_ns)
            continue;
        *seq = queue_at(queue, 0)->seq;
        queue->first = (queue->first + 1) & (queue->capacity - 1);
        queue->count--;
        return true;
    }
    return false;
}

static inline int64_t
repl_retention_schedule_next_ns(const struct repl_retention_schedule *schedule)
{
    int64_t next_ns = REPL_RETENTION_FOREVER;
    for (unsigned i = 0; i <= schedule->policy.count; i++) {
        const struct repl_retention_queue *queue = &schedule->queues[i];
        if (queue->count > 0 && queue_at(queue, 0)->until_ns < next_ns)
            next_ns = queue_at(queue, 0)->until_ns + 1;
    }
    return next_ns;
}

#endif
