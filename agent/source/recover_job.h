/*
 * Asks the site which pages its segments behind a checkpoint carry (of a tree,
 * pages of its space): after an unclean end their digests here cannot be trusted
 * (see pipeline.h).
 */
#ifndef REPL_AGENT_RECOVER_JOB_H
#define REPL_AGENT_RECOVER_JOB_H

#include "format/wire.h"
#include "link/client.h"
#include "loop/loop.h"

struct repl_recover_job;

struct repl_recovered_extent {
    uint64_t offset, length;
};

/* extents are valid during the call only. On the loop's thread. */
typedef void repl_recover_fn(void *context, repl_result result, const struct repl_error *err,
                             const struct repl_recovered_extent *extents, size_t count);

/* Runs on a worker with a connection of its own. The job frees itself after done. */
REPL_RESULT repl_recover_job_start(struct repl_loop *loop, const struct repl_client_options *client,
                                   const char *volume, const struct repl_head *from,
                                   const struct repl_head *head, repl_recover_fn *done,
                                   void *context, struct repl_recover_job **out,
                                   struct repl_error *err);

#endif
