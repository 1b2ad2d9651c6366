/*
 * Names of points: which may be given, by whom, to which point.
 *
 * A name stands for one point of a volume for as long as it is there. A host may
 * add names to its own volumes and do nothing else with them: what it has named,
 * whoever has taken over the host cannot make disappear, or point elsewhere. The
 * operator of the site may hold and remove them too, and say which point was
 * restored and found good last. Nobody moves a name: who wants that removes it first.
 *
 * A name is never what --at (recover/when.h) reads as a time or a number, so none
 * can pass for one.
 */
#ifndef REPL_MARK_H
#define REPL_MARK_H

#include "journal/journal.h"

/* Names of one volume: a host that gives one to each of its points is stopped. */
#define REPL_MARKS_MAX 1024u

enum repl_mark_by {
    REPL_MARK_BY_HOST,
    REPL_MARK_BY_OPERATOR, /* of the site */
};

struct repl_mark_wish {
    enum repl_mark_by by;
    /* NAME, HELD, REMOVED or PROVEN, with the seq that it is for; REMOVED: 0. The name is as it
     * came, and is looked at here. */
    struct repl_log_mark mark;
};

/* What the volume's log says, up to the journal's last record. */
struct repl_mark_facts {
    const struct repl_log_mark *marks; /* none REMOVED */
    size_t count;
    bool point_is_there; /* that of the wish, and can be restored */
};

/* NULL: it may be a name, of 1 to REPL_MARK_NAME_SIZE bytes of UTF-8 without control characters,
 * and without spaces at its ends. Else what stands against it, for people. */
const char *repl_mark_name_flaw(const char *name);

/* Decides on a wish. ACCEPT: *record is to be made durable and applied; DUPLICATE: it is so
 * already. */
enum repl_verdict repl_journal_mark(const struct repl_journal *journal,
                                    const struct repl_mark_facts *facts,
                                    const struct repl_mark_wish *wish, int64_t now_ns,
                                    struct repl_log_record *record, struct repl_refusal *refusal);

/* The one with that name; NULL: there is none. */
const struct repl_log_mark *repl_mark_find(const struct repl_log_mark *marks, size_t count,
                                           const char *name);

/* The first of the points, oldest first, that has in it all that was written before asked_ns, by
 * the clock that points carry; unchanged_seq: the point that the volume was seen to be equal to
 * later than that, for where there is none; 0: it was not. SIZE_MAX: neither is there. */
size_t repl_mark_choose(const struct repl_points_entry *points, size_t count, int64_t asked_ns,
                        uint64_t unchanged_seq);

#endif
