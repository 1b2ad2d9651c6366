/*
 * Reads a tree, as it was at a point, out of the history and into a plan.
 */
#ifndef REPL_AGENT_TREE_PLAN_FILL_H
#define REPL_AGENT_TREE_PLAN_FILL_H

#include "recover/history.h"
#include "recover/tree_plan.h"

/* view: of that point. The plan is loaded, and not resolved yet. Where what is at path is no
 * directory, it has only that and the directories that lead there: one file costs as much in a tree
 * of millions. REPL_E_REFUSED: the volume is no tree; REPL_E_MISSING: there is nothing at path. */
REPL_RESULT repl_tree_plan_fill(struct repl_history *history, size_t point,
                                const struct repl_view *view, const char *path,
                                struct repl_tree_plan *plan, struct repl_error *err);

#endif
