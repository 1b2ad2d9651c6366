/*
 * How the verbs that look into a history begin: from a time as people write it
 * to a point.
 */
#ifndef REPL_AGENT_LOOK_H
#define REPL_AGENT_LOOK_H

#include "recover/history.h"

/* What the reader should know of the history goes to standard error. On failure *out is NULL. */
REPL_RESULT repl_look_open(const char *verb, const struct repl_origin_options *options,
                           const char *volume, struct repl_history **out, struct repl_error *err);
/* Which point at means (when.h), said on standard error. option: "--at", for messages. */
REPL_RESULT repl_look_point(const struct repl_history *history, const char *option, const char *at,
                            size_t *point, struct repl_error *err);

#endif
