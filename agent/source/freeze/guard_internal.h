/*
 * Private to the guard: what its two processes and its threads share.
 */
#ifndef REPL_AGENT_GUARD_INTERNAL_H
#define REPL_AGENT_GUARD_INTERNAL_H

#include "source/freeze/guard.h"
#include "source/freeze/guard_mounts.h"
#include "source/freeze/guard_record.h"

/* Filled before the worker is made, and never changed. */
struct guard {
    struct repl_guard_record record;
    int listen_fd;
    int watch_fd; /* eventfd: a freeze begins, so the supervisor has a deadline to look after */
    int stop_fd;  /* eventfd, never read: the worker's threads end their holds and themselves */
    int ended_fd; /* eventfd: a thread of the worker has ended */
    const char *socket_path;
    struct repl_freeze_protected protects[REPL_GUARD_PROTECTS_MAX];
    size_t protect_count;
};

/* The calling thread goes ahead of others, but what it starts does not. Where that is not permitted
 * it goes on as it is. */
void guard_hurry(void);

/* Runs the slot's post command if it is owed, and says in the log how it went. */
REPL_RESULT guard_post_run(struct repl_guard_slot *slot, struct repl_error *err);

/* --- guard_turns.c: who waits for whom ----------------------------------------------------- */

/* What a hold is about, for people: "volume data", "group pair". */
#define GUARD_WHO_SIZE (sizeof "volume " + REPL_GUARD_VOLUME_SIZE)

/* Of one volume or group one hold is on at a time: an agent that was started again asks on another
 * connection while the hold it has left behind still ends. False: another one is on. */
bool guard_turn_take(unsigned slot, const char *who);
/* And a filesystem that several lead to is frozen by one of them at a time. All of these, or none.
 */
bool guard_turn_freeze(unsigned slot, const struct repl_freeze_set *set);
void guard_turn_thawed(unsigned slot);
void guard_turn_end(unsigned slot);

/* --- guard_keeper.c: one connection -------------------------------------------------------- */

struct guard_keeper;

/* Takes over the connection and a free slot. Connection -1: a slot that an earlier guard has left,
 * to run the post_command it owes. */
REPL_RESULT guard_keeper_new(struct guard *guard, int connection, unsigned slot,
                             struct guard_keeper **out, struct repl_error *err);
/* Whether its thread is at its end. */
bool guard_keeper_has_ended(const struct guard_keeper *keeper);
/* Waits for its thread. */
void guard_keeper_free(struct guard_keeper *keeper);

#endif
