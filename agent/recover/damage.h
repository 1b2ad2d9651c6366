/*
 * Which points of a history are known to be damaged, as the site has found when it
 * read what it stores.
 */
#ifndef REPL_AGENT_RECOVER_DAMAGE_H
#define REPL_AGENT_RECOVER_DAMAGE_H

#include "recover/origin.h"

/* Behind the catalogue. Where nobody says exactly (a store without a site, an older site) it is all
 * points from a damaged segment to the next full. REPL_E_MISSING: nobody says anything. */
REPL_RESULT repl_damage_find(struct repl_origin *origin, const struct repl_catalogue *catalogue,
                             struct repl_damaged *out, struct repl_error *err);

#endif
