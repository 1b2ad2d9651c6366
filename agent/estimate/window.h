/*
 * One window of an estimate: the pages that changed in it are read and reduced
 * as an agent would, and what comes out is counted and thrown away.
 *
 * So that a busy disk is not read as much as it is written, and one window is
 * over before the next, at most REPL_WINDOW_BATCHES of 1 MiB are read of each,
 * and none is begun later than REPL_WINDOW_BUDGET_NS after the first. Which, is
 * spread over the whole of what changed.
 */
#ifndef REPL_AGENT_ESTIMATE_WINDOW_H
#define REPL_AGENT_ESTIMATE_WINDOW_H

#include "base/bitmap.h"
#include "capture/batch.h"
#include "estimate.h"
#include "estimate/followed.h"
#include "estimate/known.h"

#define REPL_WINDOW_BATCHES   64u
#define REPL_WINDOW_BUDGET_NS INT64_C(150000000)

/* changed: pages. known: what the choice's windows before have sent; learns of this
 * one. batch: any, initialised. */
REPL_RESULT repl_window_reduce(struct repl_followed *followed, const struct repl_bitmap *changed,
                               struct repl_known *known, struct repl_batch *batch,
                               struct repl_estimate_window *out, struct repl_error *err);

#endif
