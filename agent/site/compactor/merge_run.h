/*
 * One merge on real files: the segments of a run are read, what they say is
 * written as pieces into the store, read back and compared. Nothing of the run is
 * touched, and nothing refers to the pieces yet: the log is the caller's.
 *
 *   merge_run.c     the run's files; the pieces, halved where one is too much
 *   merge_base.c    which segments of the base something has changed in
 *   merge_chunks.c  which chunks are carried along, and which are dropped
 *   merge_check.c   whether the pieces say what the run says
 */
#ifndef REPL_AGENT_SITE_MERGE_RUN_H
#define REPL_AGENT_SITE_MERGE_RUN_H

#include <stdatomic.h>

#include "format/log_record.h"
#include "segment/segment_merge.h"
#include "site/site_patch.h"
#include "store/store.h"

/* What a piece holds at most: some 100 MiB of memory, and files of a few hundred. */
#define SITE_PIECE_EXTENTS_MAX  (UINT64_C(1) << 20)
#define SITE_PIECE_RAW_SIZE_MAX (UINT64_C(512) << 20)
#define SITE_PIECE_RECORDS_MAX  (UINT64_C(4) << 20) /* of a tree's objects */
/* Stretches of the space are halved to this, and no further. */
#define SITE_PIECE_SIZE_MIN (UINT64_C(1) << 20)

/* Whether a segment of the history refers to the chunk that is none of these, which are in order
 * (repl_segment_id_order). */
typedef repl_result site_merge_referred_fn(void *context, const struct repl_digest *name,
                                           const struct repl_segment_id *without, size_t count,
                                           bool *referred, struct repl_error *err);

struct site_merge_options {
    struct repl_store *store;
    const char *volume;
    /* Oldest first, and in the order of the chain: increments from one point to another, or a full
     * or base and what follows it. */
    const struct repl_log_piece *entries;
    size_t entry_count;
    size_t needless_count; /* right before them, of which only chunks may still be wanted */
    /* The point that the run begins behind; 0: it begins with the base, of which only what has
     * changed is made anew. */
    uint64_t after_seq;
    /* Of a base that nothing follows, one for each entry: whether it is made anew though nothing
     * has changed; those that have its point's number have to be. NULL: none. */
    const bool *remade;
    const struct site_patch *patch; /* for frames of one of them that are damaged; NULL: none */
    uint64_t merge;                 /* the number that the pieces' names have */
    site_merge_referred_fn *referred;
    void *referred_context;
    uint64_t extents_max, raw_size_max, records_max;
    /* Called as bytes are written, to hold back; NULL: full speed. */
    void (*pace)(void *context, uint64_t bytes);
    void *pace_context;
    const atomic_bool *stop; /* NULL: never */
};

struct site_merge_result {
    struct repl_log_piece *pieces;
    struct site_merge_chunks {
        struct repl_chunk_entry *entries;
        struct repl_digest *refs;
        uint32_t count, ref_count;
    } * chunks; /* that each of them lists, and the names that it refers to */
    size_t piece_count;
    struct repl_log_gone *gone; /* of the base */
    size_t gone_count;
    struct repl_segment_id *going; /* what the pieces take the place of, in order */
    size_t going_count;
    struct repl_digest *dropped; /* chunks that what goes lists, and the pieces do not; in order */
    size_t dropped_count;
    uint64_t read_bytes, written_bytes;
};
void site_merge_result_fini(struct site_merge_result *result);

/* Blocks. REPL_E_RETRY: told to stop. Where it fails it removes the pieces it has made; those that
 * it could not are still in the result. */
REPL_RESULT site_merge_run(const struct site_merge_options *options,
                           struct site_merge_result *result, struct repl_error *err);

/* The same where nothing is made, as all that stays is a full or base as it is. *wanted: a chunk of
 * the needless is referred to, so it has to be merged all the same. */
REPL_RESULT site_merge_needless(const struct site_merge_options *options,
                                struct site_merge_result *result, bool *wanted,
                                struct repl_error *err);

/* What the log is told of it, as one group: a MERGE and what belongs to it, numbered from
 * first_number on. The caller frees *out. */
REPL_RESULT site_merge_records(const struct site_merge_options *options,
                               const struct site_merge_result *result, uint64_t first_number,
                               int64_t time_ns, struct repl_log_record **out, size_t *count,
                               struct repl_error *err);

/* --- shared by the parts --------------------------------------------------------------------- */

struct merge_input {
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    const struct site_patch *patch; /* NULL: it is read as it lies there */
    bool goes;                      /* the pieces take its place */
};

/* Which chunks are carried (merge_chunks.c). */
struct merge_chunks {
    struct merge_input *needless; /* those that list a chunk that may be wanted */
    size_t needless_count;
    struct repl_buffer candidates;       /* listed by what goes; by name */
    struct repl_buffer listed, referred; /* struct repl_digest: by the pieces so far */
    const struct repl_segment **donors;  /* of the piece being made */
    repl_result result;                  /* of asking who refers to them */
    struct repl_error err;
};

struct merge_run {
    const struct site_merge_options *options;
    struct site_merge_result *result;
    struct merge_input *inputs; /* one for each entry */
    struct merge_chunks chunks;
    struct repl_frame_coder *coder;
};

/* The file of entry i, before the entries where it is negative. */
REPL_RESULT site_merge_input_open(struct merge_run *run, ptrdiff_t i, struct merge_input *input,
                                  struct repl_error *err);
void site_merge_input_close(struct merge_input *input);

/* All inputs are open and marked as going or not. */
REPL_RESULT site_merge_chunks_begin(struct merge_run *run, struct repl_error *err);
/* Into the options of the next piece: what of chunks is carried in it. */
void site_merge_chunks_ask(struct merge_run *run, struct repl_merge_options *options, bool last);
/* It is made, and this is what it lists and refers to. */
REPL_RESULT site_merge_chunks_made(struct merge_run *run, const struct site_merge_chunks *of,
                                   struct repl_error *err);
/* All pieces are made: what was dropped. */
REPL_RESULT site_merge_chunks_end(struct merge_run *run, struct repl_error *err);
void site_merge_chunks_fini(struct merge_run *run);

/* Which of the base's entries are made anew, by their place; NULL: they are not tiles yet, so all
 * are. The caller frees it. */
REPL_RESULT site_merge_touched(struct merge_run *run, size_t base_count, bool **touched,
                               struct repl_error *err);
/* A piece as it lies in the store against the segments it was made of: REPL_E_CORRUPT. */
REPL_RESULT site_merge_check(struct merge_run *run, const struct repl_segment *const *segments,
                             size_t count, const struct repl_merge_piece *how,
                             const struct repl_log_piece *piece, struct site_merge_chunks *chunks,
                             struct repl_error *err);

/* The stretch that an entry of the base speaks of, and back. */
struct repl_merge_range site_merge_range_of(const struct repl_log_piece *entry);
void site_merge_range_put(const struct repl_merge_range *range, struct repl_log_piece *entry);

#endif
