/*
 * What the space of a tree holds at a point, for its replica: first what the
 * segments behind the point that it stands at say, which is nearly always all
 * that is asked for; and what they do not speak of, out of the whole history,
 * which is looked at only then (a file that was given a place whose bytes did
 * not change).
 */
#ifndef REPL_AGENT_REPLICA_TREE_BYTES_H
#define REPL_AGENT_REPLICA_TREE_BYTES_H

#include "recover/history.h"
#include "repl/view.h"
#include "site/index/index.h"

/* Where a volume's segments are. */
struct replica_journal {
    struct repl_store *store;
    struct repl_index *index;
    const char *volume;
};

struct replica_bytes;

/* Of the segments behind `from` up to goal, which end in goal's point. */
REPL_RESULT replica_bytes_open(const struct replica_journal *journal, const struct repl_head *from,
                               const struct repl_head *goal, struct replica_bytes **out,
                               struct repl_error *err);
void replica_bytes_free(struct replica_bytes *bytes);

/* The segments, oldest first; they stay with the bytes. */
const struct repl_segment *const *replica_bytes_segments(const struct replica_bytes *bytes,
                                                         size_t *count);
/* Of the segments alone. */
const struct repl_view *replica_bytes_changes(const struct replica_bytes *bytes);

/* Bytes of the space as of goal. REPL_E_CORRUPT: they lie behind its end. */
REPL_RESULT replica_bytes_read(struct replica_bytes *bytes, uint64_t place, void *out, size_t size,
                               struct repl_error *err);

/* The history out of the store, and which of its points the segment ends in. The journal outlives
 * it. */
REPL_RESULT replica_history_open(const struct replica_journal *journal,
                                 const struct repl_head *head, struct repl_history **out,
                                 size_t *point, struct repl_error *err);

#endif
