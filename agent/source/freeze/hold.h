/*
 * The agent's side of the freeze guard: asks it to hold a volume still, and
 * learns whether it was.
 *
 *     begin -> HELD   -> end -> RELEASED
 *                     -> RELEASED, if it ended by itself
 *           -> FAILED
 *
 * Between begin and HELD or FAILED pre_command runs and the filesystem is
 * frozen. From HELD to RELEASED the thread that runs the loop should neither
 * log nor write files that could lie on the volume. post_command runs after
 * RELEASED; a hold begun meanwhile waits for it.
 *
 * If the guard dies, what it had frozen is thawed here, and the hold was not
 * intact.
 */
#ifndef REPL_AGENT_HOLD_H
#define REPL_AGENT_HOLD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "loop/loop.h"
#include "repl/error.h"

struct repl_hold;

enum repl_hold_event_kind {
    REPL_HOLD_HELD,
    REPL_HOLD_FAILED,
    REPL_HOLD_RELEASED,
};

struct repl_hold_event {
    enum repl_hold_event_kind kind;
    /* HELD, on the monotonic clock: when the freeze began, and how long it took until all was
     * frozen. Without a freeze: when pre_command had ended, and 0. */
    int64_t begin_ns;
    int64_t took_ns;
    /* RELEASED: held without interruption from HELD until repl_hold_end, as the guard found when it
     * let go. */
    bool intact;
    /* RELEASED and FAILED: for how long writers may have waited; 0: nothing was frozen. */
    int64_t stall_ns;
    /* FAILED, and RELEASED where it was not intact: why. */
    struct repl_error error;
};

/* On the loop's thread, never from inside begin, end or free. May call begin and end, not free. */
typedef void repl_hold_fn(void *context, const struct repl_hold_event *event);

struct repl_hold_options {
    dev_t device; /* the protected block device */
    /* Of a group, which is frozen and has no commands: further devices, none of them twice, at most
     * REPL_GUARD_OTHERS_MAX. */
    const dev_t *others;
    size_t other_count;
    const char *volume;
    bool group;        /* volume names one */
    bool freeze;       /* else the commands alone */
    int64_t budget_ms; /* of the freeze, 50 ms to 10 s; without one from HELD to end, to 1 h */
    const char *pre_command;  /* NULL: none */
    const char *post_command; /* NULL: none */
    int64_t command_timeout_ms;
};

/* socket_path: the option guard. Connected while a hold is on. */
REPL_RESULT repl_hold_new(struct repl_loop *loop, const char *socket_path, repl_hold_fn *done,
                          void *context, struct repl_hold **out, struct repl_error *err);
/* A hold that is on ends, without a callback. NULL does nothing. */
void repl_hold_free(struct repl_hold *hold);
/* One hold at a time: only after FAILED or RELEASED. The options are copied. */
void repl_hold_begin(struct repl_hold *hold, const struct repl_hold_options *options);
/* Before HELD it gives the hold up: FAILED comes, or HELD and RELEASED if they crossed. Does
 * nothing where no hold is on. */
void repl_hold_end(struct repl_hold *hold);

/* As far as can be seen from here; what counts is what RELEASED says. */
bool repl_hold_is_intact(const struct repl_hold *hold);

#endif
