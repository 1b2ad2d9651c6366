/*
 * When merges took the place of segments, as the log says: a fold over its
 * records, for whoever lets files of before go when their grace is over, and has
 * been started anew meanwhile.
 *
 * What is said is never too early: a segment of the base may have outlived merges
 * of it, so the last of them counts, and of what a log that was written anew does
 * not speak of, its beginning.
 */
#ifndef REPL_MERGE_TIMES_H
#define REPL_MERGE_TIMES_H

#include "base/cursor.h"
#include "format/log_record.h"
#include "repl/error.h"

/* Zeroed, to begin with. */
struct repl_merge_times {
    struct repl_buffer merges; /* private */
    uint64_t checkpoint_number;
    int64_t checkpoint_ns;
};

void repl_merge_times_fini(struct repl_merge_times *times);
/* The next record that the volume's chain has taken. */
REPL_RESULT repl_merge_times_apply(struct repl_merge_times *times,
                                   const struct repl_log_record *record, struct repl_error *err);
/* Of a segment that is not part of the chain any more; merge: by which it was made, 0: as it was
 * received. By the site's clock; 0: the log does not say so. */
int64_t repl_merge_times_find(const struct repl_merge_times *times, uint64_t to_seq,
                              uint64_t merge);

#endif
