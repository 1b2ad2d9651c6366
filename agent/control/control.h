/*
 * The control socket: a Unix stream socket (mode 0600) over which the verbs ask
 * the running agent or site. One request line, one JSON answer, then it closes.
 */
#ifndef REPL_AGENT_CONTROL_H
#define REPL_AGENT_CONTROL_H

#include <jansson.h>

#include "loop/loop.h"
#include "repl/error.h"

struct repl_control;

/* Answers a request ("status", "forget data"); returns a new reference, or NULL with err filled,
 * which goes to the asker as {"error": {...}}. On the loop's thread. */
typedef json_t *repl_control_fn(void *owner, const char *request, struct repl_error *err);

/* A stale socket left by a killed process is replaced; one that somebody listens on is
 * REPL_E_LOCKED, after a moment in which that process may end. The socket's directory is made if
 * need be. */
REPL_RESULT repl_control_new(struct repl_loop *loop, const char *path, repl_control_fn *answer,
                             void *owner, struct repl_control **out, struct repl_error *err);
void repl_control_free(struct repl_control *control);

/* Asks, blocking, for at most 5 s. *answer is a new reference. */
REPL_RESULT repl_control_ask(const char *path, const char *request, json_t **answer,
                             struct repl_error *err);

/* sd_notify(3) without libsystemd: "READY=1", "STATUS=...", "WATCHDOG=1", to $NOTIFY_SOCKET; does
 * nothing where that is not set. */
void repl_notify(const char *state);

/* One line to standard error with the priority journald understands ("<4>..."), or the time when
 * standard error is not the journal's. level as in syslog(3): LOG_ERR, LOG_WARNING, LOG_INFO. */
void repl_log(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
