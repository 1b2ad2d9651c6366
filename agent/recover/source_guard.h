/*
 * Keeps a restore off the devices that this host protects.
 */
#ifndef REPL_AGENT_SOURCE_GUARD_H
#define REPL_AGENT_SOURCE_GUARD_H

#include "recover/target.h"

/* REPL_E_REFUSED where the agent's configuration at the path protects what the target overlaps,
 * or cannot be read, so that nobody knows. Without a file there is no protected host, unless
 * required. */
REPL_RESULT repl_source_guard(const struct repl_target *target, const char *config_path,
                              bool required, struct repl_error *err);

#endif
