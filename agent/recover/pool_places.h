/*
 * Where the chunks lie that a store's volumes have brought to a pool, out of the
 * lists of their segments, for a recovery without a site and its index. 16 bytes
 * of memory a chunk: a terabyte of them takes 256 MiB.
 */
#ifndef REPL_AGENT_POOL_PLACES_H
#define REPL_AGENT_POOL_PLACES_H

#include "store/store.h"

struct repl_pool_places;

/* The store outlives it. */
REPL_RESULT repl_pool_places_new(struct repl_store *store, struct repl_pool_places **out,
                                 struct repl_error *err);
/* NULL does nothing. */
void repl_pool_places_free(struct repl_pool_places *places);

/* Adds what a segment lists; file_size 0: not known. What cannot be read is left out, and said by
 * whoever does not find a chunk. One thread, before the first read. */
REPL_RESULT repl_pool_places_add(struct repl_pool_places *places, const char *volume,
                                 const struct repl_segment_id *id, uint64_t file_size,
                                 struct repl_error *err);
/* The same of a volume that could not be looked at at all. */
void repl_pool_places_lack(struct repl_pool_places *places, const char *why);
/* Behind the last add. */
void repl_pool_places_sort(struct repl_pool_places *places);

/* The chunks' bytes, one behind the other, each compared with its name. REPL_E_MISSING: one of them
 * lies nowhere, or only where it is damaged. From any number of threads. */
REPL_RESULT repl_pool_places_read(struct repl_pool_places *places, const struct repl_digest *names,
                                  uint32_t count, uint8_t *out, struct repl_error *err);

#endif
