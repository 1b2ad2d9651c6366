/*
 * syncfs in a thread of its own: it may take as long as the disk wants, and
 * nobody waits for it longer than they have said.
 */
#ifndef REPL_AGENT_SYNCER_H
#define REPL_AGENT_SYNCER_H

#include <stdbool.h>

#include "loop/loop.h"
#include "source/capture/device.h"

struct repl_syncer;

/* The sync is over, or the time limit is; in time says which. */
typedef void repl_syncer_fn(void *context, bool in_time);

REPL_RESULT repl_syncer_new(struct repl_loop *loop, repl_syncer_fn *done, void *context,
                            struct repl_syncer **out, struct repl_error *err);
/* Waits for a sync that is still under way. */
void repl_syncer_free(struct repl_syncer *syncer);
/* Syncs the device's filesystem; done is called once, after limit_ns at the latest. While an
 * earlier sync still hangs no second one is begun: done is called after limit_ns. */
void repl_syncer_start(struct repl_syncer *syncer, const struct repl_device *device,
                       int64_t limit_ns);
/* done will not be called for the sync asked for last. */
void repl_syncer_cancel(struct repl_syncer *syncer);

#endif
