/*
 * What clocks here show, and when they showed it: a local time may have been shown
 * once, twice or never, as zones begin and end summer time, or change for good.
 */
#ifndef REPL_AGENT_LOCAL_TIME_H
#define REPL_AGENT_LOCAL_TIME_H

#include <stdint.h>
#include <time.h>

struct repl_local_moments {
    unsigned count; /* of moments at which clocks showed it: 0, 1 or 2 */
    /* Seconds since 1970. Of 0: the two times on both sides of the gap that it may stand for, by
     * the offset from UTC of behind the gap and of before it. In order. */
    int64_t at_s[2];
};

/* local: year to second of a day that there is, in TZ; the rest of it is not looked at. */
void repl_local_moments(const struct tm *local, struct repl_local_moments *out);

/* Room for a text of it. */
#define REPL_LOCAL_TEXT_SIZE 48

/* "2026-10-25T02:30:00+01:00" */
void repl_local_text(int64_t at_s, char text[REPL_LOCAL_TEXT_SIZE]);

#endif
