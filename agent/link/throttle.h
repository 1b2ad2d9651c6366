/*
 * One limit of bytes a second that any number of threads share, for programs
 * without a loop: who wants to fetch something waits until it may. The same
 * limits, for times of the day too, as those of an agent (pace.h).
 */
#ifndef REPL_AGENT_THROTTLE_H
#define REPL_AGENT_THROTTLE_H

#include "pace.h"
#include "repl/error.h"

/* Bytes a second at this time of the day, by the clock of the host's time zone; 0: no limit. */
uint64_t repl_bandwidth_now(const struct repl_pace_plan *plan);

struct repl_throttle;

/* What time it is, and a way to wait until then at the latest: a test has its own. */
struct repl_throttle_clock {
    int64_t (*now_ns)(void *context);
    void (*wait_until)(void *context, int64_t until_ns);
    void *context;
};

/* clock: NULL for the host's. */
REPL_RESULT repl_throttle_new(const struct repl_pace_plan *plan,
                              const struct repl_throttle_clock *clock, struct repl_throttle **out,
                              struct repl_error *err);
/* NULL is allowed. */
void repl_throttle_free(struct repl_throttle *throttle);

/* Waits until so many bytes may go, a piece at a time, so that of several that wait each gets on.
 * REPL_E_RETRY: stopped. From any thread. */
REPL_RESULT repl_throttle_wait(struct repl_throttle *throttle, uint64_t bytes,
                               struct repl_error *err);
/* Whoever waits gives up within a moment, and so does whoever would. From any thread. */
void repl_throttle_stop(struct repl_throttle *throttle);

#endif
