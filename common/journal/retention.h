/*
 * Which points of the past are kept: a policy in words, and what it says of a point.
 *
 * A policy is up to eight pairs EVERY:FOR, such as "1s:1h 1m:1d 1h:30d 1d:1y". Of each pair, time
 * is cut into intervals of EVERY, from 1970-01-01 on, and the first point in each is kept until the
 * interval has been over for FOR. So whoever goes back by less than FOR finds a point in each
 * interval that had one. (A week begins on a Thursday then; a year is 365 days.)
 *
 * What is decided is final, whenever and however often it is asked, before and after restarts:
 *
 *   - The first point of an interval stays the first, as points come in the order of time.
 *   - It is kept for as long as its pair cares about the interval at all. (Were FOR counted from
 *     the point, the second point of an interval would become its first when that is given up, for
 *     a while.) So what was thinned before never changes what is first.
 *   - Until when a point is kept follows from its time and that of the point before it, alone: the
 *     point before it which is still there will do.
 *
 * "Now" is the site's clock, and only while it is trusted (clock_guard.h). A point's time may be by
 * any clock that does not go back from point to point, but is the same each time it is asked about.
 * Where times do go back, more is kept: a point begins an interval if the one before it lies in
 * another.
 */
#ifndef REPL_RETENTION_H
#define REPL_RETENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"

#define REPL_RETENTION_RULES_MAX 8u
#define REPL_RETENTION_FOR_MAX_S (INT64_C(100) * 365 * 86400) /* a longer one is "forever" */
#define REPL_RETENTION_FOREVER   INT64_MAX                    /* of for_s, and of until_ns */
#define REPL_RETENTION_NEVER     INT64_MIN                    /* of until_ns: no rule keeps it */
#define REPL_RETENTION_TEXT_SIZE 208u /* of the longest canonical text, its end included */

struct repl_retention_rule {
    int64_t every_s; /* 1 or more, ascending from rule to rule */
    int64_t for_s;   /* every_s or more, ascending, at most FOR_MAX_S, or FOREVER */
};

struct repl_retention {
    unsigned count; /* 1 or more */
    struct repl_retention_rule rules[REPL_RETENTION_RULES_MAX];
};

/* Why a point is kept whatever the rules say. */
#define REPL_PROTECT_NEWEST  1u  /* the newest of its volume */
#define REPL_PROTECT_AGREED  2u  /* the last that source and site agree on */
#define REPL_PROTECT_HELD    4u  /* marked by a person, or in use */
#define REPL_PROTECT_PROVEN  8u  /* the last that was proved good */
#define REPL_PROTECT_TROUBLE 16u /* the last before what looks like trouble, for a while */

struct repl_retention_point {
    uint64_t seq;
    int64_t time_ns;
    unsigned protect; /* of REPL_PROTECT_*; 0: the rules decide */
};

/* Pairs separated by blanks. Units are s, m (minutes), h, d, w and y; FOR may be "forever".
 * REPL_E_USAGE says which pair is wrong, and what would be right. */
REPL_RESULT repl_retention_parse(const char *text, struct repl_retention *out,
                                 struct repl_error *err);
/* The canonical text: each time in the largest unit that it is a whole number of. */
void repl_retention_format(const struct repl_retention *policy,
                           char text[REPL_RETENTION_TEXT_SIZE]);

/* Until when, that moment included, the rules keep a point; FOREVER, or NEVER if it is the first of
 * no interval. previous_ns: the time of the point before it; NULL: there is none. *rule (which may
 * be NULL): the one that keeps it so long; policy->count where none does. */
int64_t repl_retention_until(const struct repl_retention *policy, const int64_t *previous_ns,
                             int64_t time_ns, unsigned *rule);

/* What is kept at a time of points, oldest first: keep[i] for each from the given one on; those
 * before it are only looked at for what is the first of an interval. Linear. Returns the first
 * moment at which time alone changes that; FOREVER if there is none. */
int64_t repl_retention_pass(const struct repl_retention *policy,
                            const struct repl_retention_point *points, size_t count, size_t from,
                            int64_t now_ns, bool *keep);

#endif
