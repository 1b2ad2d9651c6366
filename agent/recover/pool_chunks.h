/*
 * Chunks that a volume refers to and that another volume of its pool brought: by
 * name, from wherever the origin gets them, a few dozen at a time, as each asking
 * may be a round trip. A bounded cache keeps those that came along; what several
 * threads want at once is fetched once.
 */
#ifndef REPL_AGENT_POOL_CHUNKS_H
#define REPL_AGENT_POOL_CHUNKS_H

#include "recover/origin.h"

struct repl_pool_chunks;

/* The origin outlives it. */
REPL_RESULT repl_pool_chunks_new(struct repl_origin *origin, struct repl_pool_chunks **out,
                                 struct repl_error *err);
/* NULL does nothing. */
void repl_pool_chunks_free(struct repl_pool_chunks *pool);

/* The bytes of names[0], which have been compared with the name. Those behind it, up to
 * REPL_VIEW_AHEAD in all, come along where they are not there yet. REPL_E_MISSING: names[0] is not
 * to be had. From any number of threads. */
REPL_RESULT repl_pool_chunks_read(struct repl_pool_chunks *pool, const struct repl_digest *names,
                                  size_t count, void *out, struct repl_error *err);
/* Whether all of the chunks are to be had: reads each, and keeps none. */
REPL_RESULT repl_pool_chunks_check(struct repl_pool_chunks *pool, const struct repl_digest *names,
                                   size_t count, struct repl_error *err);

#endif
