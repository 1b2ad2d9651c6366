/*
 * Whether the site's clock may be acted on: what is thinned by a clock that is ahead is gone.
 *
 * The guard is given readings of the clock together with one that only grows, and compares:
 *
 *   while it runs   how far the clock is from the monotonic one, which changes only when the clock
 *                   is set. It may be adjusted in small steps, by a thousandth of the time that
 *                   passes; beyond that it has JUMPED, back or ahead.
 *   after a start   the clock with the last time that was made durable. Behind it: JUMPED back.
 *                   Well ahead of it: UNKNOWN, as the site may have been off, or the clock be
 *                   wrong.
 *
 * A clock that comes back to where it should be is trusted again at once. Else it is when it has
 * run evenly for a while, and most of the hosts heard since then agree with it; or when a person
 * confirms it. A single host is most of them, where there is no other: it can end the doubt in a
 * clock that has jumped, and by itself make none jump.
 *
 * Of the clock only what was read while it was trusted is made durable (known_ns), so that a start
 * does not forgive a jump: one by less than GAP_MAX it does.
 */
#ifndef REPL_CLOCK_GUARD_H
#define REPL_CLOCK_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REPL_CLOCK_SECOND_NS INT64_C(1000000000)
/* Thinning goes by seconds to years: errors below this do no harm, and are none of NTP's. */
#define REPL_CLOCK_JUMP_MAX_NS (30 * REPL_CLOCK_SECOND_NS)
/* Known to be away for no longer than this the site is believed to have been restarted. */
#define REPL_CLOCK_GAP_MAX_NS (600 * REPL_CLOCK_SECOND_NS)
/* So long a clock has run evenly before others are asked about it. */
#define REPL_CLOCK_SETTLE_NS (600 * REPL_CLOCK_SECOND_NS)
/* Clocks this far apart agree: what messages take on the way is in it. */
#define REPL_CLOCK_AGREE_NS  (60 * REPL_CLOCK_SECOND_NS)
#define REPL_CLOCK_TEXT_SIZE 512u

enum repl_clock_state {
    REPL_CLOCK_TRUSTED,
    REPL_CLOCK_UNKNOWN,
    REPL_CLOCK_JUMPED_BACK,
    REPL_CLOCK_JUMPED_AHEAD,
};

/* What the clock of a host says: one entry a host, however many volumes it has. */
struct repl_clock_source {
    int64_t ahead_ns; /* its clock minus ours, by the message heard last alone */
    int64_t heard_ns; /* when that was, monotonic */
};

struct repl_clock_guard {
    enum repl_clock_state state;
    int64_t wall_ns, monotonic_ns; /* the last reading */
    bool known;                    /* there is a time to be made durable: */
    int64_t known_ns;              /* the clock when it was trusted last */
    bool anchored;                 /* it was, since the start */
    int64_t anchor_ns;             /* then: clock minus monotonic */
    int64_t started_ns;            /* monotonic */
    int64_t off_ns;                /* from where it should be; after a start: from known_ns */
    int64_t even_ns;               /* clock minus monotonic, which has been even */
    int64_t even_since_ns;         /* since then, monotonic */
    unsigned heard, agreed;        /* hosts, when they were asked last */
};

/* known: whether a time is durable of before the start: known_ns. monotonic_ns: a clock that only
 * grows, also while the machine is suspended. */
void repl_clock_guard_init(struct repl_clock_guard *guard, bool known, int64_t known_ns,
                           int64_t wall_ns, int64_t monotonic_ns);
/* The two clocks, read one right after the other. What is decided by the clock next is decided by
 * this reading. */
void repl_clock_guard_read(struct repl_clock_guard *guard, int64_t wall_ns, int64_t monotonic_ns);
/* What hosts say, as of the last reading. Those not heard since the clock began to run evenly do
 * not count. */
void repl_clock_guard_ask(struct repl_clock_guard *guard, const struct repl_clock_source *sources,
                          size_t count);
/* A person says that the clock, as read last, is right. */
void repl_clock_guard_confirm(struct repl_clock_guard *guard);

bool repl_clock_guard_trusts(const struct repl_clock_guard *guard);
/* The state in words: what was seen, and what to do about it. */
void repl_clock_guard_describe(const struct repl_clock_guard *guard,
                               char text[REPL_CLOCK_TEXT_SIZE]);

#endif
