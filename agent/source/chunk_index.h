/*
 * The chunks that the site is known to hold: a set of names on disk (LMDB), so
 * that a chunk the site has is sent by its name alone. One for all volumes of an
 * agent, by the pools within which the site shares chunks: volumes of one pool
 * profit from each other, others know nothing of it.
 *
 * It is a guess: what is in it and wrong costs a round trip (the site answers which
 * chunks it lacks), what is right and not in it costs sending a chunk once more.
 * So names may be lost at any time, a file that is damaged or too short is begun
 * anew, and of a name only the first 8 bytes are kept (repl_chunk_prefix), which is
 * what a site says of those that others brought.
 *
 * Bounded: two generations of limit / 2 names each. Names go into the young one;
 * when it is full the old one is dropped and takes its place. A name that is
 * added again while it is in use moves to the young one with it.
 *
 * All calls may come from any thread at any time; all of them block, and but for has
 * they wait for each other: none is for the loop's thread.
 */
#ifndef REPL_AGENT_CHUNK_INDEX_H
#define REPL_AGENT_CHUNK_INDEX_H

#include <stdbool.h>

#include "repl/error.h"
#include "repl/format.h"

struct repl_chunk_index;

struct repl_chunk_index_options {
    const char *path; /* the file, and path-lock beside it; one process at a time */
    uint64_t limit;   /* names; more with what is expected of volumes */
};

/* A pool, by the first 8 bytes of what the site calls it; a volume that shares with nobody is one.
 */
uint64_t repl_chunk_pool_of(const struct repl_uuid *id);

/* Fails for want of memory alone: a file that cannot be made is tried again with each change, and
 * nothing is known until then. */
REPL_RESULT repl_chunk_index_open(const struct repl_chunk_index_options *options,
                                  struct repl_chunk_index **out, struct repl_error *err);
/* NULL does nothing. */
void repl_chunk_index_close(struct repl_chunk_index *index);

/* The limit has room for so many names of a volume, once for each volume; and which pool it was in
 * when that was last said. */
REPL_RESULT repl_chunk_index_expect(struct repl_chunk_index *index, const struct repl_uuid *volume,
                                    uint64_t names, uint64_t *pool, struct repl_error *err);
/* The volume is in that pool; remembered. */
REPL_RESULT repl_chunk_index_join(struct repl_chunk_index *index, const struct repl_uuid *volume,
                                  uint64_t pool, struct repl_error *err);

/* What cannot be read is not there. */
bool repl_chunk_index_has(struct repl_chunk_index *index, uint64_t pool,
                          const struct repl_digest *name);

/* One transaction each, but for clear. prefixes are sorted on the way. After an error the index may
 * have been begun anew; where that fails too, it stays empty until the next change. */
REPL_RESULT repl_chunk_index_add(struct repl_chunk_index *index, uint64_t pool, uint64_t *prefixes,
                                 size_t count, struct repl_error *err);
REPL_RESULT repl_chunk_index_remove(struct repl_chunk_index *index, uint64_t pool,
                                    uint64_t *prefixes, size_t count, struct repl_error *err);
REPL_RESULT repl_chunk_index_clear(struct repl_chunk_index *index, uint64_t pool,
                                   struct repl_error *err);

/* Names in it; one that is in both generations counts twice. */
uint64_t repl_chunk_index_count(struct repl_chunk_index *index);
/* How many of others' names are worth being asked for at once: a quarter of the limit. */
uint64_t repl_chunk_index_guesses(struct repl_chunk_index *index);

/* A pool's names are asked of the site by one of its volumes at a time, and are good for all: who
 * begins is told that it is his turn, that another one is at it, or that one was, not FRESH ago. Of
 * the loop's thread; index NULL: each for itself. */
#define REPL_CHUNK_NAMES_FRESH_NS (INT64_C(600) * 1000000000)
enum repl_chunk_names_turn {
    REPL_CHUNK_NAMES_MINE,
    REPL_CHUNK_NAMES_OTHERS,
    REPL_CHUNK_NAMES_FRESH
};
enum repl_chunk_names_turn repl_chunk_index_names_begin(struct repl_chunk_index *index,
                                                        uint64_t pool, int64_t now_ns);
/* Who had the turn has them, or gives up. */
void repl_chunk_index_names_end(struct repl_chunk_index *index, uint64_t pool, bool whole,
                                int64_t now_ns);

/* For tests: lets the next commit fail with this errno, as a broken disk would. */
void repl_chunk_index_break_commit(struct repl_chunk_index *index, int os_errno);

#endif
