/*
 * A page of a live volume that was not found as the replica has it: does it
 * really differ?
 *
 * The volume is written all the while, and the replica is always a little
 * behind, so that a difference says nothing by itself. It is real only where the
 * page should have been in the replica, and is not. One look is: the site tells
 * what the replica holds, as of a point; then, not before, the page is read from
 * the device.
 *
 *     read: A, at t      t < told      the site tells: B      read again: A
 *     -------|---------------|----------------|-------------------|-------> time
 *
 * A point whose window began after t holds every write that had completed by
 * then. If the page was A at t and is A now, and nobody wrote it in between, the
 * point should have A: one proof against the replica. Somebody may have written B
 * before the point and A again behind it, so that proofs have to come in a row,
 * each from a point of its own, and A and B have to be the same in all of them;
 * whatever changes, they begin anew.
 *
 * Where a volume is at rest no new points come, but the source goes on to say
 * until when nothing was written (unchanged_until). That is proof in the same way,
 * as of that time.
 *
 * A point that was cut under a frozen filesystem or between the user's commands
 * is none: freezing, or the command, may write a page before each point and put it
 * back behind it, in step with all of them.
 *
 * Times are the source's clock, with which the points were cut and which the
 * reader of the device has too. It may be set back: what is told as of a time that
 * has not come yet is no proof.
 */
#ifndef REPL_SUSPECT_H
#define REPL_SUSPECT_H

#include "format/wire.h"
#include "repl/format.h"

#define REPL_SUSPECT_PROOFS  3u
#define REPL_SUSPECT_CHANGES 10u /* so often it is seen to change before it is left alone */
#define REPL_SUSPECT_VAGUE   10u /* so many points of the wrong kind */

enum repl_suspect_verdict {
    REPL_SUSPECT_OPEN,     /* look again when the site has something newer */
    REPL_SUSPECT_EQUAL,    /* replica and device hold the same */
    REPL_SUSPECT_DIFFERS,  /* for good */
    REPL_SUSPECT_CHANGING, /* written again and again */
    REPL_SUSPECT_UNCLEAR,  /* there was no proof for either */
};

/* One look at a page. */
struct repl_suspect_look {
    struct repl_page_digest replica; /* as the site told */
    int64_t told_ns;                 /* as of when */
    bool vague;                      /* of a point that proves nothing */
    struct repl_page_digest source;  /* as the device had it after that */
    int64_t read_ns;                 /* when it had been read */
};

struct repl_suspect {
    uint64_t page;
    struct repl_page_digest source, replica;
    int64_t read_ns; /* source held this then, and at every look since */
    uint8_t proofs, vague, changes;
};

/* Fills in as of when the site told something, and whether it is vague, from where its replica
 * stood. */
void repl_suspect_told(const struct repl_points_entry *at, struct repl_suspect_look *look);

/* The first look, which found a difference. */
void repl_suspect_init(struct repl_suspect *suspect, uint64_t page,
                       const struct repl_suspect_look *look);
enum repl_suspect_verdict repl_suspect_look(struct repl_suspect *suspect,
                                            const struct repl_suspect_look *look);
/* What is left to say of one that is open still when nobody looks any more. */
enum repl_suspect_verdict repl_suspect_give_up(const struct repl_suspect *suspect);

#endif
