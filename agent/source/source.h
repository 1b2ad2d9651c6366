/*
 * The protected host: configuration, event loop, link to the site, control
 * socket and volumes, put together.
 */
#ifndef REPL_AGENT_SOURCE_H
#define REPL_AGENT_SOURCE_H

#include "config/config.h"
#include "repl/error.h"

/* Runs until SIGTERM or SIGINT; then stops in order. */
REPL_RESULT repl_source_run(const struct repl_config *config, struct repl_error *err);

#endif
