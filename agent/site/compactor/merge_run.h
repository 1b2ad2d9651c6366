/*
 * One merge on real files: the segments of a run are read, what they say is
 * written as pieces into the store, read back and compared. Nothing of the run is
 * touched, and nothing refers to the pieces yet: the log is the caller's.
 *
 *   merge_run.c     the run's files; the pieces, halved where one is too much
 *   merge_base.c    which segments of the base something has changed in
 *   merge_check.c   whether the pieces say what the run says
 */
#ifndef REPL_AGENT_SITE_MERGE_RUN_H
#define REPL_AGENT_SITE_MERGE_RUN_H

#include <stdatomic.h>

#include "format/log_record.h"
#include "segment/segment_merge.h"
#include "store/store.h"

/* What a piece holds at most: some 100 MiB of memory, and files of a few hundred. */
#define SITE_PIECE_EXTENTS_MAX  (UINT64_C(1) << 20)
#define SITE_PIECE_RAW_SIZE_MAX (UINT64_C(512) << 20)
#define SITE_PIECE_RECORDS_MAX  (UINT64_C(4) << 20) /* of a tree's objects */
/* Stretches of the space are halved to this, and no further. */
#define SITE_PIECE_SIZE_MIN (UINT64_C(1) << 20)

struct site_merge_options {
    struct repl_store *store;
    const char *volume;
    /* Oldest first, and in the order of the chain: increments from one point to another, or a full
     * or base and what follows it. */
    const struct repl_log_piece *entries;
    size_t entry_count;
    /* The point that the run begins behind; 0: it begins with the base, of which only what has
     * changed is made anew. */
    uint64_t after_seq;
    uint64_t merge; /* the number that the pieces' names have */
    /* Whether somebody else refers to a chunk that the run lists; asked for the last piece, and of
     * the base for each. */
    repl_merge_chunk_fn *chunk_wanted;
    void *chunk_context;
    uint64_t extents_max, raw_size_max, records_max;
    /* Called as bytes are read and written, to hold back; NULL: full speed. */
    void (*pace)(void *context, uint64_t bytes);
    void *pace_context;
    const atomic_bool *stop; /* NULL: never */
};

struct site_merge_result {
    struct repl_log_piece *pieces;
    struct site_merge_chunks {
        struct repl_chunk_entry *entries;
        uint32_t count;
    } * chunks; /* that each of them lists */
    size_t piece_count;
    struct repl_log_gone *gone; /* of the base */
    size_t gone_count;
    uint64_t read_bytes, written_bytes;
};
void site_merge_result_fini(struct site_merge_result *result);

/* Blocks. REPL_E_RETRY: told to stop. Where it fails, pieces may lie in the store that nobody knows
 * of: what a crash leaves as well. */
REPL_RESULT site_merge_run(const struct site_merge_options *options,
                           struct site_merge_result *result, struct repl_error *err);

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
};

struct merge_run {
    const struct site_merge_options *options;
    struct site_merge_result *result;
    struct merge_input *inputs; /* one for each entry */
    struct repl_frame_coder *coder;
};

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
