/*
 * Whether it pays to look at what a target holds already, before a piece of it
 * is fetched and written.
 *
 * Each piece that is looked at moves a mean, which forgets, by an eighth: after
 * some twenty of which nothing was there only each 16th is looked at, and one of
 * these that was there is enough for all to be looked at again.
 */
#ifndef REPL_AGENT_RESTORE_COMPARE_H
#define REPL_AGENT_RESTORE_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialised: the target held nothing, and is not looked at. */
struct repl_restore_compare {
    bool on;
    double same;     /* of what was looked at, mostly lately: 0 to 1 */
    unsigned passed; /* pieces in a row that were not looked at */
};

void repl_restore_compare_begin(struct repl_restore_compare *compare);
/* Whether the next piece is to be looked at. */
bool repl_restore_compare_next(struct repl_restore_compare *compare);
/* One has been: so many of its bytes were there. */
void repl_restore_compare_note(struct repl_restore_compare *compare, size_t same, size_t size);

#endif
