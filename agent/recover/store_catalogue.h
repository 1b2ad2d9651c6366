/*
 * What is committed of a volume in a store, without its site.
 */
#ifndef REPL_AGENT_STORE_CATALOGUE_H
#define REPL_AGENT_STORE_CATALOGUE_H

#include "journal/chain.h"
#include "recover/origin.h"

/* label: the store, for messages. out: zeroed; what it holds is the caller's to free, also where
 * this fails, and so is what chain holds, the segments as the log has them. pool: which one the
 * volume is of; "": it shares its chunks with nobody. */
REPL_RESULT repl_store_catalogue(struct repl_store *store, const char *label, const char *volume,
                                 struct repl_catalogue *out, struct repl_chain *chain,
                                 char pool[REPL_VOLUME_NAME_SIZE + 1], struct repl_error *err);

#endif
