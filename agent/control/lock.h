/*
 * One process for each state, store and control socket: how long the next one
 * waits for the one before.
 */
#ifndef REPL_AGENT_LOCK_H
#define REPL_AGENT_LOCK_H

/* A process that was killed lets go of its files and its process id a moment later, which is as
 * soon as its disk lets it. Who is started in that moment waits for so long before it is refused.
 */
#define REPL_LOCK_WAIT_MS 2000

/* flock(2), exclusive. Blocks for at most REPL_LOCK_WAIT_MS. Returns 0, EWOULDBLOCK where another
 * process has it, or the errno of what went wrong. */
int repl_lock_take(int fd);

#endif
