/*
 * What repl restore says of itself: progress, the device that is meant, the
 * plan of a dry run, and what came of it.
 */
#ifndef REPL_AGENT_RESTORE_WORDS_H
#define REPL_AGENT_RESTORE_WORDS_H

#include <jansson.h>

#include "recover/restore.h"

/* One line on standard error that is written over each second: for terminals. */
void repl_restore_print_progress(void *context, const struct repl_restore_status *status);

/* What will be overwritten, on standard error. */
void repl_restore_print_device(const struct repl_target *target,
                               const struct repl_points_entry *point);

/* What a restore has done, on standard error. */
void repl_restore_print_result(const struct repl_restore_options *options,
                               const struct repl_restore_result *result);

/* A block volume's plan on standard output. limit: bytes a second that may be fetched now; 0: no
 * limit. */
void repl_restore_print_plan(const struct repl_restore_options *options,
                             const struct repl_restore_result *result, uint64_t limit);

/* The members that every object of docs/formats/restore.md begins with, target among them, which
 * is taken over, as {"path", "kind"} and more. NULL: out of memory. */
json_t *repl_restore_json_head(const struct repl_history *history, const struct repl_origin *origin,
                               size_t point, const char *kind, bool dry_run, json_t *target);
/* A block volume's plan, or what came of its restore, as one such object on standard output. */
REPL_RESULT repl_restore_print_json(const struct repl_restore_options *options,
                                    const struct repl_restore_result *result, uint64_t limit,
                                    int64_t elapsed_ns, struct repl_error *err);

#endif
