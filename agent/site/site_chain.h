/*
 * The segments that a volume's history is made of, as the index has them. Private to site/.
 */
#ifndef REPL_AGENT_SITE_CHAIN_H
#define REPL_AGENT_SITE_CHAIN_H

#include "journal/chain.h"
#include "site/index/index.h"

/* chain: initialised, without entries. Marks are not read. Blocks; from any thread. */
REPL_RESULT site_chain_read(struct repl_index *index, const char *volume, struct repl_chain *chain,
                            struct repl_error *err);
/* Whether the segment is part of the history now; a supply is, as long as it lies there. */
REPL_RESULT site_chain_lists(struct repl_index *index, const char *volume,
                             const struct repl_segment_id *id, bool *listed,
                             struct repl_error *err);

#endif
