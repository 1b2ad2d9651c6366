/*
 * What an estimate found, for people and for machines (docs/formats/estimate.md).
 */
#ifndef REPL_AGENT_ESTIMATE_PRINT_H
#define REPL_AGENT_ESTIMATE_PRINT_H

#include <jansson.h>
#include <stdio.h>

#include "estimate/follow.h"

/* asked_ns: how long it was to be followed. */
void repl_estimate_print(FILE *out, const struct repl_followed *followed,
                         const struct repl_follow *follow, int64_t asked_ns);
/* A new reference; NULL: out of memory. */
json_t *repl_estimate_json(const struct repl_followed *followed, const struct repl_follow *follow,
                           int64_t asked_ns);

#endif
