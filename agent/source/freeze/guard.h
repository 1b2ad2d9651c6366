/*
 * The freeze guard: a process of its own that freezes filesystems on behalf of
 * the agent, and thaws them when the agent asks, dies, or takes too long.
 *
 * It is two processes with one table of descriptors (CLONE_FILES) and one
 * record of what is frozen (guard_record.h), both locked in memory. The worker
 * listens and has one thread for each connection (guard_keeper.c). The
 * supervisor only watches: if the worker dies or is stopped, or if something is
 * still frozen a little after its deadline, it thaws. If the supervisor dies,
 * the worker thaws and ends. If both do, the agent thaws (hold.h); if it does
 * not live either, the next guard.
 */
#ifndef REPL_AGENT_GUARD_H
#define REPL_AGENT_GUARD_H

#include "source/freeze/guard_mounts.h"

struct repl_guard_options {
    const char *socket_path;
    /* Besides "/", the program itself and the socket's directory. */
    const struct repl_freeze_protected *protects;
    size_t protect_count;
};

#define REPL_GUARD_PROTECTS_MAX 8u

/* Runs until SIGTERM or SIGINT. Thaws at its start what an earlier guard has left frozen. */
REPL_RESULT repl_guard_run(const struct repl_guard_options *options, struct repl_error *err);

#endif
