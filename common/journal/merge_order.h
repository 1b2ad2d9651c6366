/*
 * The order of the steps of a merge, handed out one at a time, so that the site
 * and the simulator take the same ones, and a crash may come between any two:
 *
 *   for each piece: written to a staged file -> synced -> published under its name
 *                   -> read back and compared
 *   then, in the volume's turn among all changes: chunks that are dropped are looked
 *   at once more -> MERGE and what belongs to it appended and synced, at once ->
 *   what stood in the pieces' place goes when its grace is over
 *
 * Until the append is durable the run is the history, and nothing refers to the
 * pieces; since then the pieces are, and nothing refers to the run. So whichever
 * of them a crash leaves over can go.
 */
#ifndef REPL_MERGE_ORDER_H
#define REPL_MERGE_ORDER_H

#include <stdbool.h>

enum repl_merge_step {
    REPL_MERGE_WRITE,   /* a piece into a staged file */
    REPL_MERGE_SYNC,    /* fsync it */
    REPL_MERGE_PUBLISH, /* give it its name, durably */
    REPL_MERGE_CHECK,   /* read it back under that name, compare it with what it was made of */
    REPL_MERGE_MADE,    /* the next piece, from WRITE on; behind the last one it went well */
    REPL_MERGE_LOOK,    /* may what it drops still be dropped? */
    REPL_MERGE_LOG,     /* append to the log, durably; apply */
    REPL_MERGE_RETIRE,  /* what it took the place of waits for its grace, then goes */
    REPL_MERGE_DISCARD, /* the pieces go: nothing refers to them */
    REPL_MERGE_LEAVE,   /* nobody knows whether the pieces are the history: nothing goes */
};

/* The step after one that went well or not; not after the last three. */
enum repl_merge_step repl_merge_step_next(enum repl_merge_step step, bool succeeded);

#endif
