/*
 * The chunks of one volume that the site is known to hold: a set of names on
 * disk (LMDB), so that a chunk the site has is sent by its name alone.
 *
 * It belongs to a volume, as the site shares chunks within a volume only. It is
 * a guess: what is in it and wrong costs a round trip (the site answers which
 * chunks it lacks), what is right and not in it costs sending a chunk once more.
 * So names may be lost at any time, and a file that is damaged, of another
 * volume or too short is begun anew.
 *
 * Bounded: two generations of limit / 2 names each. Names go into the young one;
 * when it is full the old one is dropped and takes its place. A name that is
 * added again while it is in use moves to the young one with it.
 *
 * has may be called from any thread at any time; of the rest one call at a time,
 * and all of them block: none is for the loop's thread.
 */
#ifndef REPL_AGENT_CHUNK_INDEX_H
#define REPL_AGENT_CHUNK_INDEX_H

#include <stdbool.h>

#include "repl/error.h"
#include "repl/format.h"

struct repl_chunk_index;

struct repl_chunk_index_options {
    const char *path; /* the file, and path-lock beside it; one process at a time */
    struct repl_uuid volume;
    uint64_t limit; /* names */
};

REPL_RESULT repl_chunk_index_open(const struct repl_chunk_index_options *options,
                                  struct repl_chunk_index **out, struct repl_error *err);
/* NULL does nothing. */
void repl_chunk_index_close(struct repl_chunk_index *index);

/* What cannot be read is not there. */
bool repl_chunk_index_has(struct repl_chunk_index *index, const struct repl_digest *name);

/* One transaction each. After an error the index may have been begun anew; where that fails too, it
 * stays empty until the next change. */
REPL_RESULT repl_chunk_index_add(struct repl_chunk_index *index, const struct repl_digest *names,
                                 size_t count, struct repl_error *err);
REPL_RESULT repl_chunk_index_remove(struct repl_chunk_index *index, const struct repl_digest *names,
                                    size_t count, struct repl_error *err);
REPL_RESULT repl_chunk_index_clear(struct repl_chunk_index *index, struct repl_error *err);

/* Names in it; one that is in both generations counts twice. */
uint64_t repl_chunk_index_count(struct repl_chunk_index *index);

/* For tests: lets the next commit fail with this errno, as a broken disk would. */
void repl_chunk_index_break_commit(struct repl_chunk_index *index, int os_errno);

#endif
