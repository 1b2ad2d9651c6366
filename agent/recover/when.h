/*
 * --at: which point is meant by a time as people write it, or by its name.
 */
#ifndef REPL_AGENT_WHEN_H
#define REPL_AGENT_WHEN_H

#include "recover/origin.h"
#include "repl/error.h"

enum repl_when_kind {
    REPL_WHEN_LATEST,     /* the newest point */
    REPL_WHEN_SEQ,        /* the point with that number */
    REPL_WHEN_TIME,       /* the newest point that was complete by then */
    REPL_WHEN_NAME,       /* the point that has it; "before NAME": the last one before that */
    REPL_WHEN_TROUBLE,    /* the last one before the newest jump (journal/trouble.h) */
    REPL_WHEN_ENCRYPTION, /* the last one before the newest that looked like encryption */
};

struct repl_when {
    enum repl_when_kind kind;
    uint64_t seq;
    int64_t time_ns;
    int64_t digit_ns; /* so much of it was added: a fraction's last digit means all of itself */
    char text[REPL_MARK_NAME_SIZE + 1]; /* as it was written; "" where it is longer */
};

/* For messages: what may be written. */
#define REPL_WHEN_EXAMPLES                                                                         \
    "write for example \"10 min ago\", \"yesterday 17:00\", \"monday 09:30\", "                    \
    "\"2026-05-04 13:37\" (local time), 2026-05-04T13:37:00Z, latest, \"before trouble\", or a "   \
    "number or a name that \"repl points\" shows"

/* docs/TIMES.md says what is understood, and its tables are a test. What words.h prints, which is
 * rounded down, is a time at which what happened then had happened. Whatever is no time and no
 * number and can be a name (journal/mark.h) is one. Local time is that of TZ. */
REPL_RESULT repl_when_parse(const char *text, int64_t now_ns, struct repl_when *out,
                            struct repl_error *err);

/* Which of the points, oldest first, is meant by a number or a time. REPL_E_MISSING says what there
 * is instead. */
REPL_RESULT repl_when_resolve(const struct repl_when *when, const struct repl_points_entry *points,
                              size_t count, size_t *index, struct repl_error *err);

/* The same in a catalogue, which has the names too. What has several meanings there is refused,
 * unless they are the same point: a name that is a time as well (no site gives such a name), or
 * "before X" where X is a name and "before X" another. Where the catalogue is damaged, newer points
 * may be missing from it, so what resolves to its newest only because nothing newer is listed is
 * REPL_E_CORRUPT. */
REPL_RESULT repl_when_resolve_in(const struct repl_when *when,
                                 const struct repl_catalogue *catalogue, size_t *index,
                                 struct repl_error *err);

/* The resolved point in words, several lines: number, time in local time and UTC, how it was cut,
 * what was asked for and how far it lies from that. A name is one that the point has. Freed by the
 * caller; NULL: out of memory. */
char *repl_when_describe(const struct repl_when *when, const struct repl_points_entry *point);

/* The same of what repl_when_resolve_in has found; a name may be one that the point lies before. */
char *repl_when_describe_in(const struct repl_when *when, const struct repl_catalogue *catalogue,
                            size_t index);

#endif
