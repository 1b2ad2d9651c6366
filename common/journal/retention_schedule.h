/*
 * When which point is given up, for a site that gets one a second: no walk through its history for
 * each, only what is due.
 *
 * A point is added once, when it arrives, or at a start when those that are there are read, oldest
 * first. What a rule keeps it gives up in the order in which it came, so each rule has a queue, and
 * only their fronts have to be looked at. What is due is handed out once: from then on no rule
 * wants the point any more, and it goes when nothing protects it (the newest, for one, often is
 * due at once), which is the caller's to see to. Where the policy changes, the schedule is made
 * anew of the points that are there.
 *
 * 16 bytes a point that is kept for a time, none for those kept forever.
 */
#ifndef REPL_RETENTION_SCHEDULE_H
#define REPL_RETENTION_SCHEDULE_H

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

void repl_retention_schedule_init(struct repl_retention_schedule *schedule,
                                  const struct repl_retention *policy);
void repl_retention_schedule_fini(struct repl_retention_schedule *schedule);

/* The next point. REPL_E_NOMEM: it was not added. */
REPL_RESULT repl_retention_schedule_add(struct repl_retention_schedule *schedule, uint64_t seq,
                                        int64_t time_ns, struct repl_error *err);
/* A point that no rule keeps any more now; false: there is none. */
bool repl_retention_schedule_take(struct repl_retention_schedule *schedule, int64_t now_ns,
                                  uint64_t *seq);
/* The first moment at which there is one; it may have passed. FOREVER: none comes. */
int64_t repl_retention_schedule_next_ns(const struct repl_retention_schedule *schedule);

#endif
