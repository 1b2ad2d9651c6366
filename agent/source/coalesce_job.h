/*
 * Merges segments of a volume's spool into one, on a worker (see
 * common/pipeline_coalesce.c for when).
 */
#ifndef REPL_AGENT_COALESCE_JOB_H
#define REPL_AGENT_COALESCE_JOB_H

#include "loop/loop.h"
#include "repl/error.h"
#include "repl/format.h"

struct repl_coalesce_job;

struct repl_coalesce_result {
    uint64_t into; /* the file is there, complete and verified, if result is a success */
    repl_result result;
    struct repl_error err;
    struct repl_segment_header header;
    struct repl_segment_footer footer;
    uint64_t input_bytes;
};

/* On the loop's thread; the job frees itself after it. */
typedef void repl_coalesce_fn(void *context, const struct repl_coalesce_result *result);

/* numbers: of the segments, oldest first; copied. dir_fd: of the spool, stays open until done. */
REPL_RESULT repl_coalesce_job_start(struct repl_loop *loop, int dir_fd, const uint64_t *numbers,
                                    size_t count, uint64_t into, repl_coalesce_fn *done,
                                    void *context, struct repl_coalesce_job **out,
                                    struct repl_error *err);
/* It ends soon, with a failure. */
void repl_coalesce_job_cancel(struct repl_coalesce_job *job);

#endif
