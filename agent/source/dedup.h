/*
 * Deduplication of one volume at the source: the index of chunks the site is
 * known to hold (chunk_index.h), what is held of those that were sent by name
 * (supply.h), and the jobs that keep both off the loop's thread.
 *
 * It never fails a volume for the sake of the index: without one, chunks are
 * sent as bytes.
 */
#ifndef REPL_AGENT_DEDUP_H
#define REPL_AGENT_DEDUP_H

#include "format/wire.h"
#include "pipeline.h"
#include "source/supply.h"

struct repl_dedup;
struct repl_chunk_index;

struct repl_dedup_options {
    struct repl_loop *loop;
    struct repl_chunk_index *index; /* of all volumes; NULL: there is none */
    const char *name;               /* of the volume; these two outlive it */
    struct repl_uuid volume;
    uint64_t volume_size;
    int spool_fd; /* directory */
    /* Something that was under way has come to its end, or could not be written: what is held for
     * segment number is incomplete then. It may free the repl_dedup, if that is idle. */
    void (*moved)(void *context, uint64_t number, repl_result result, const struct repl_error *err);
    /* The end of repl_dedup_supply, never called from within it: a supply of size bytes to be read
     * from fd, which is closed by repl_dedup_sent; or why there is none. */
    void (*supply_made)(void *context, int fd, uint64_t size,
                        const struct repl_segment_header *header, repl_result result,
                        const struct repl_error *err);
    void *context;
};

REPL_RESULT repl_dedup_new(const struct repl_dedup_options *options, struct repl_dedup **out,
                           struct repl_error *err);
/* Looks which pool the volume was in, on a worker; until then no chunk is known. */
void repl_dedup_start(struct repl_dedup *dedup);
/* When it is idle; NULL does nothing. */
void repl_dedup_free(struct repl_dedup *dedup);
/* Nothing is under way. NULL is idle. */
bool repl_dedup_is_idle(const struct repl_dedup *dedup);
/* The disk does not keep up with what is to be held: nothing more should be read just now. */
bool repl_dedup_is_behind(const struct repl_dedup *dedup);

/* For struct repl_pipeline_options: chunk_known (on workers), keep and acknowledged, with a
 * repl_dedup as their context. */
bool repl_dedup_known(void *dedup, const struct repl_digest *name);
REPL_RESULT repl_dedup_keep(void *dedup, uint64_t number, const struct repl_batch *batch,
                            uint64_t *kept, struct repl_error *err);
void repl_dedup_acknowledged(void *dedup, uint64_t number);

/* What an earlier run holds for a segment it left in the spool (see repl_supply_adopt); before the
 * start. *kept: bytes that takes there. */
REPL_RESULT repl_dedup_adopt(struct repl_dedup *dedup, uint64_t number, struct repl_buffer *carried,
                             struct repl_buffer *held, uint64_t *kept, struct repl_error *err);
void repl_dedup_drop(struct repl_dedup *dedup, uint64_t number);
/* The site holds nothing of the volume's pool. */
void repl_dedup_forget(struct repl_dedup *dedup);
/* Which pool the volume is in, as the site says. */
void repl_dedup_join(struct repl_dedup *dedup, uint64_t pool);
/* Whether it shares its pool with others, as far as is known. */
bool repl_dedup_is_shared(const struct repl_dedup *dedup);
/* A page of what the pool holds, which is emptied; one at a time. */
void repl_dedup_learn(struct repl_dedup *dedup, struct repl_pool_names *names);
/* How many names are worth being asked for. */
uint64_t repl_dedup_guesses(const struct repl_dedup *dedup);
bool repl_dedup_is_learning(const struct repl_dedup *dedup);
/* What the site lacks, for the supply that follows; the names leave the index. */
void repl_dedup_missing(struct repl_dedup *dedup, struct repl_missing *missing);
/* Makes a supply of what was said to be missing, for the segment of that header, which is number
 * here; of the volume's kind the spool knows. */
void repl_dedup_supply(struct repl_dedup *dedup, uint64_t number,
                       const struct repl_segment_header *header);
/* The supply is not needed any more. */
void repl_dedup_sent(struct repl_dedup *dedup);

#endif
