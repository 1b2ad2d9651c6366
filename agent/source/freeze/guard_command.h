/*
 * A volume's pre or post command: /bin/sh -c in a process group of its own,
 * REPL_VOLUME in its environment, standard output and error to the guard's log.
 */
#ifndef REPL_AGENT_GUARD_COMMAND_H
#define REPL_AGENT_GUARD_COMMAND_H

#include <stdatomic.h>
#include <stdint.h>

#include "repl/error.h"

struct repl_guard_command {
    const char *what; /* "pre_command": for messages */
    const char *text;
    const char *volume;
    int64_t timeout_ms;
    _Atomic int32_t *pid; /* where to leave the process's number while it runs */
};

/* Readable descriptors mean that nobody wants the command's result any more; -1: none. */
#define REPL_GUARD_CANCEL_FDS 2

/* Waits for its end. Kills the group when the time is over (REPL_E_RETRY) or when one of cancel_fds
 * is ready (REPL_E_RETRY as well). What the command has left running in its group when it ended by
 * itself goes on. */
REPL_RESULT repl_guard_command_run(const struct repl_guard_command *command,
                                   const int cancel_fds[REPL_GUARD_CANCEL_FDS],
                                   struct repl_error *err);

#endif
