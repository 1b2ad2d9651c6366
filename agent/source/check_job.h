/*
 * Reads a segment in the spool to its last byte, on a worker: the site has
 * refused it as damaged, and it is to be known where it was.
 */
#ifndef REPL_AGENT_CHECK_JOB_H
#define REPL_AGENT_CHECK_JOB_H

#include "loop/loop.h"
#include "repl/error.h"
#include "repl/format.h"

/* On the loop's thread. result: as repl_pipeline_checked takes it. */
typedef void repl_check_fn(void *context, uint64_t number, repl_result result,
                           const struct repl_error *err);

/* fd: of the segment's file, taken over also on failure. digest: of the segment as it was built. */
REPL_RESULT repl_check_job_start(struct repl_loop *loop, int fd, uint64_t number,
                                 const struct repl_digest *digest, repl_check_fn *done,
                                 void *context, struct repl_error *err);

#endif
