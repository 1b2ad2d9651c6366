/*
 * How fast bytes may leave for the site: a limit, and others for times of the day.
 *
 * A token bucket (as in RFC 3290, section 5.1.1): it fills at the rate of the
 * moment and holds what that makes in a quarter of a second, so that a line that
 * was idle is not followed by a burst that others would feel.
 */
#ifndef REPL_PACE_H
#define REPL_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define REPL_PACE_WINDOWS_MAX 8u
#define REPL_PACE_DAY_S       86400u

/* [from, to) of each day, local time; from > to: over midnight. A limit is at most 2^36. */
struct repl_pace_window {
    uint32_t from_s, to_s;
    uint64_t bytes_per_s; /* 0: no limit */
};

struct repl_pace_plan {
    uint64_t bytes_per_s; /* where no window is; 0: no limit */
    uint32_t count;
    struct repl_pace_window
        windows[REPL_PACE_WINDOWS_MAX]; /* the first that holds the time rules */
};

struct repl_pace {
    bool begun;
    int64_t filled_ns;
    uint64_t bytes; /* that may go now */
};

/* The limit at this second of the day; 0: none. */
uint64_t repl_pace_rate(const struct repl_pace_plan *plan, uint32_t second_of_day);

/* How many of want bytes may go now; they are taken. 0: none before *until_ns. now_ns: a clock that
 * only grows; rate: of repl_pace_rate. */
uint64_t repl_pace_take(struct repl_pace *pace, int64_t now_ns, uint64_t rate, uint64_t want,
                        int64_t *until_ns);
/* So many of what was taken did not go. */
void repl_pace_give(struct repl_pace *pace, uint64_t bytes);

#endif
