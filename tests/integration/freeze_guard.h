/*
 * What the tests of the freeze guard share: loop devices with a filesystem and two
 * writers each, the guard, and a client of it. In freeze_guard_world.c.
 *
 * Nothing but the loop devices made here is ever frozen. A janitor process, made
 * first and in a session of its own, thaws, ends, unmounts and removes everything
 * when the program ends, however it ends.
 */
#ifndef TESTS_INTEGRATION_FREEZE_GUARD_H
#define TESTS_INTEGRATION_FREEZE_GUARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "source/freeze/hold.h"

#define NS_PER_MS  INT64_C(1000000)
#define SLACK_MS   100 /* beyond the budget, on a machine that others use as well */
#define MOUNTS_MAX 24
#define PIDS_MAX   64

struct writer {
    _Atomic uint64_t count;
    _Atomic int64_t last_ns, gap_ns; /* the longest since it was set to 0 */
};

/* Shared with the janitor and the writers. */
struct shared {
    char directory[64], run[64];
    char mounts[MOUNTS_MAX][192];
    char loops[MOUNTS_MAX][64];
    _Atomic unsigned mount_count, loop_count;
    _Atomic pid_t pids[PIDS_MAX];
    struct writer writers[2];
};

struct filesystem {
    const char *type;
    char device[64], where[192];
    struct writer *writer;
    dev_t number;
};

struct client {
    struct repl_loop *loop;
    struct repl_hold *hold;
    struct repl_hold_event last;
    unsigned events;
};

extern struct shared *shared;
extern const char *program;
extern pid_t supervisor;
extern int rounds;
extern int64_t worst_ns; /* beyond the budget */

/* --- begin and end --------------------------------------------------------------------------- */

/* Makes the janitor. */
void setup(void);
/* Waits for the janitor, and exits. */
_Noreturn void leave(int status);

void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail_at(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define fail(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail("%s", #condition);                                                                \
    } while (0)

int sh(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define sh_quiet(...)                                                                              \
    do {                                                                                           \
        int status_ = sh(__VA_ARGS__);                                                             \
        (void)status_;                                                                             \
    } while (0)

/* The janitor must see the end of this program, not of its children. */
void child_begin(void);
unsigned pid_keep(pid_t pid);
void pid_forget(pid_t pid);

/* --- filesystems and writers ----------------------------------------------------------------- */

void loop_make(char device[64], const char *file, const char *size);
/* device: and options, if need be. */
void mount_make(const char *device, const char *where);
dev_t device_number(const char *device);
void filesystem_make(struct filesystem *fs, const char *type, unsigned index);

/* The longest time without a write since gap_reset, the one under way included. */
void gap_reset(struct filesystem *fs);
int64_t gap_ns(struct filesystem *fs);
bool writer_moves(struct filesystem *fs, int64_t wait_ms);

/* --- the guard ------------------------------------------------------------------------------- */

void config_write(const char *state, const char *run);
void guard_start(const char *binary, const char *run);
int guard_wait(void);
void guard_stop(void);
void guard_restart(void);

enum victim { WORKER, SUPERVISOR, BOTH, WORKER_STOPPED };
void kill_guard(enum victim victim);

/* --- the client ------------------------------------------------------------------------------ */

void client_open(struct client *c, const char *run);
void client_close(struct client *c);
/* False: no event in that time. */
bool client_await(struct client *c, int64_t limit_ms);

void expect(struct client *c, enum repl_hold_event_kind kind, const char *file, int line);
#define EXPECT(client, kind) expect(client, kind, __FILE__, __LINE__)

struct repl_hold_options freeze_options(const struct filesystem *fs, int64_t budget_ms);
void hold_begin(struct client *c, const struct filesystem *fs, int64_t budget_ms);
/* FIFREEZE's own flush may be over the budget where others use the disk: then once more. */
void hold_until_held(struct client *c, struct filesystem *fs, int64_t budget_ms);
/* The writer stood still no longer than it may. FIFREEZE's own flush may outlast the budget: only
 * where HELD came in time is there a bound. */
void goes_on_in_time(struct filesystem *fs, int64_t budget_ms, const char *what);

/* The lines that commands have left in the file "order", which is removed. */
void expect_order(const char *expected, const char *file, int line);
#define EXPECT_ORDER(expected) expect_order(expected, __FILE__, __LINE__)

/* --- the tests ------------------------------------------------------------------------------- */

/* freeze_guard_commands.c */
void test_commands(struct filesystem *fs);
void test_turns(struct filesystem *fs);
void test_owed(struct filesystem *fs);

/* freeze_guard_refusals.c */
void test_many(struct filesystem *fs);
void test_refusals(struct filesystem *fs);
void test_chroot(struct filesystem *fs);
void test_strangers(struct filesystem *fs);

#endif
