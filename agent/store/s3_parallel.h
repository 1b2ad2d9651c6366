/*
 * The same call for many objects, several at a time: what a request costs is
 * mostly the way there and back.
 */
#ifndef REPL_AGENT_S3_PARALLEL_H
#define REPL_AGENT_S3_PARALLEL_H

#include <stddef.h>

#include "repl/error.h"

typedef repl_result s3_each_fn(void *context, size_t i, struct repl_error *err);

/* Calls each(context, i) for i below count, from up to 8 threads. After a failure no further call
 * is begun, and that failure is the result. */
REPL_RESULT s3_each(size_t count, s3_each_fn *each, void *context, struct repl_error *err);

#endif
