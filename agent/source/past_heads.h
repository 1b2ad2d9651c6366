/*
 * The segments of a volume that have left this host, or may have, and of which
 * its state (state_dir.h) does not speak any more: a site that is put back from
 * an older copy says that its history ends in one of them, and is told by that
 * from one which somebody else has written.
 *
 *   STATE/volumes/NAME/heads, heads.old   docs/formats/state.md
 */
#ifndef REPL_AGENT_PAST_HEADS_H
#define REPL_AGENT_PAST_HEADS_H

#include "repl/error.h"
#include "repl/format.h"

/* In one file; when it is full it becomes the old one, in whose place it comes. */
#define REPL_PAST_HEADS_MAX (UINT64_C(1) << 19)

/* Durable when it returns. Blocks; one at a time. */
REPL_RESULT repl_past_heads_add(int dir_fd, const struct repl_digest *heads, size_t count,
                                struct repl_error *err);
/* Blocks, for as long as it takes to read 16 MiB; beside add, from any thread. */
REPL_RESULT repl_past_heads_find(int dir_fd, const struct repl_digest *head, bool *found,
                                 struct repl_error *err);

#endif
