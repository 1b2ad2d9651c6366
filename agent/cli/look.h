/*
 * How the verbs that look into a history begin: from a time as people write it
 * to a point.
 */
#ifndef REPL_AGENT_LOOK_H
#define REPL_AGENT_LOOK_H

#include <jansson.h>

#include "recover/history.h"

/* What the reader should know of the history goes to standard error. On failure *out is NULL. */
REPL_RESULT repl_look_open(const char *verb, const struct repl_origin_options *options,
                           const char *volume, struct repl_history **out, struct repl_error *err);
/* Which point at means (when.h), said on standard error. option: "--at", for messages. */
REPL_RESULT repl_look_point(const struct repl_history *history, const char *option, const char *at,
                            size_t *point, struct repl_error *err);

/* Of which kind the volume is, by the segment that the point is in. */
REPL_RESULT repl_look_kind(struct repl_history *history, size_t point, enum repl_volume_kind *kind,
                           struct repl_error *err);

/* {"seq", "time", "time_ns", "consistency"}; NULL: out of memory. */
json_t *repl_look_json_of(const struct repl_point *point);
json_t *repl_look_point_json(const struct repl_history *history, size_t point);
/* Prints an object, as far as it goes: of its last member, an array, named list, the elements are
 * yet to be printed, and "]}" behind them. Takes over head, NULL: out of memory. */
REPL_RESULT repl_look_json_begin(json_t *head, const char *list, struct repl_error *err);

#endif
