/*
 * The freeze guard on loop devices with ext4 and xfs under a writer: what is
 * held is still, and whatever dies in the middle, the writer goes on.
 *
 * Nothing but the loop devices made here is ever frozen. A janitor process,
 * made first and in a session of its own, thaws, ends, unmounts and removes
 * everything when this program ends, however it ends.
 *
 * Usage: REPL=program freeze_guard [rounds]; exit 77: this machine cannot.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "source/freeze/guard_mounts.h"
#include "source/freeze/guard_record.h"
#include "source/freeze/hold.h"

#define NS_PER_MS  INT64_C(1000000)
#define SLACK_MS   100 /* beyond the budget, on a machine that others use as well */
#define MOUNTS_MAX 16
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

static struct shared *shared;
static int lifeline[2];
static pid_t janitor;
static const char *program;
static pid_t supervisor, killed_worker;
static int rounds = 3;
static int64_t worst_ns; /* beyond the budget */

/* --- ends ------------------------------------------------------------------------------------ */

static _Noreturn void end(int status)
{
    close(lifeline[1]);
    waitpid(janitor, NULL, 0);
    exit(status);
}

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

#define fail(...)                                                                                  \
    do {                                                                                           \
        note("FAILED at line %d: " __VA_ARGS__);                                                   \
        show_log();                                                                                \
        end(1);                                                                                    \
    } while (0)
#define check(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail("%s", __LINE__, #condition);                                                      \
    } while (0)

static int sh(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int sh(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command);
}

#define sh_quiet(...)                                                                              \
    do {                                                                                           \
        int status_ = sh(__VA_ARGS__);                                                             \
        (void)status_;                                                                             \
    } while (0)

static void show_log(void)
{
    sh_quiet("echo '--- guard.log'; tail -n 40 %s/guard.log", shared->directory);
}

/* The janitor must see the end of this program, not of its children. */
static void child_begin(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(lifeline[1]);
}

static void thaw_where(const char *where)
{
    int fd = open(where, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        ioctl(fd, FITHAW, 0);
        close(fd);
    }
}

static void thaw_everything(void)
{
    for (unsigned i = 0; i < atomic_load(&shared->mount_count); i++)
        thaw_where(shared->mounts[i]);
}

static _Noreturn void janitor_main(void)
{
    char byte;
    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    while (read(lifeline[0], &byte, 1) > 0 || errno == EINTR)
        continue;
    for (size_t i = 0; i < PIDS_MAX; i++) {
        if (atomic_load(&shared->pids[i]) > 0)
            kill(atomic_load(&shared->pids[i]), SIGKILL);
    }
    usleep(200000); /* what the guard itself does at its end */
    thaw_everything();
    /* One in use goes when it is unmounted, and so lets go of the filesystem its file is on. */
    for (unsigned i = atomic_load(&shared->loop_count); i-- > 0;)
        sh_quiet("losetup -d %s 2>/dev/null", shared->loops[i]);
    for (unsigned i = atomic_load(&shared->mount_count); i-- > 0;) {
        for (int tries = 0; tries < 20 && sh("umount %s 2>/dev/null", shared->mounts[i]) != 0;
             tries++) {
            if (sh("mountpoint -q %s", shared->mounts[i]) != 0)
                break;
            thaw_everything();
            usleep(100000);
        }
    }
    for (unsigned i = atomic_load(&shared->loop_count); i-- > 0;)
        sh_quiet("partx -d %s 2>/dev/null; losetup -d %s 2>/dev/null", shared->loops[i],
                 shared->loops[i]);
    sh_quiet("rm -rf %s %s", shared->directory, shared->run);
    _exit(0);
}

static unsigned pid_keep(pid_t pid)
{
    for (unsigned i = 0; i < PIDS_MAX; i++) {
        if (atomic_load(&shared->pids[i]) == 0) {
            atomic_store(&shared->pids[i], pid);
            return i;
        }
    }
    fail("too many processes", __LINE__);
}

static void pid_forget(pid_t pid)
{
    for (unsigned i = 0; i < PIDS_MAX; i++) {
        pid_t expected = pid;
        atomic_compare_exchange_strong(&shared->pids[i], &expected, 0);
    }
}

/* --- filesystems and writers ----------------------------------------------------------------- */

static void loop_make(char device[64], const char *file, const char *size)
{
    char command[512];
    if (sh("truncate -s %s %s", size, file) != 0)
        fail("truncate %s", __LINE__, file);
    snprintf(command, sizeof command, "losetup --find --show %s", file);
    FILE *out = popen(command, "re");
    if (out == NULL || fscanf(out, "%63s", device) != 1 || pclose(out) != 0) {
        note("skipped: no loop device");
        end(77);
    }
    unsigned at = atomic_load(&shared->loop_count);
    snprintf(shared->loops[at], sizeof shared->loops[at], "%s", device);
    atomic_store(&shared->loop_count, at + 1);
}

static void mount_make(const char *device, const char *where)
{
    unsigned at = atomic_load(&shared->mount_count);
    check(at < MOUNTS_MAX);
    snprintf(shared->mounts[at], sizeof shared->mounts[at], "%s", where);
    atomic_store(&shared->mount_count, at + 1);
    if (sh("mkdir -p %s && mount %s %s", where, device, where) != 0)
        fail("mount %s", __LINE__, device);
}

static dev_t device_number(const char *device)
{
    struct stat status;
    check(stat(device, &status) == 0);
    return status.st_rdev;
}

static _Noreturn void writer_main(struct writer *writer, const char *where, bool sync)
{
    static char page[4096];
    char path[256];
    child_begin();
    snprintf(path, sizeof path, "%s/written%d", where, sync);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    atomic_store(&writer->last_ns, repl_now_mono_ns());
    for (unsigned i = 0;; i++) {
        memset(page, (int)i, sizeof page);
        ssize_t written = pwrite(fd, page, sizeof page, (off_t)(rand() % 1024) * 4096);
        (void)written;
        if (sync) {
            fdatasync(fd);
            continue;
        }
        int64_t now = repl_now_mono_ns(), gap = now - atomic_load(&writer->last_ns);
        if (gap > atomic_load(&writer->gap_ns))
            atomic_store(&writer->gap_ns, gap);
        atomic_store(&writer->last_ns, now);
        atomic_fetch_add(&writer->count, 1);
        usleep(200);
    }
}

static void writer_start(struct filesystem *fs, bool sync)
{
    pid_t pid = fork();
    if (pid == 0)
        writer_main(fs->writer, fs->where, sync);
    pid_keep(pid);
}

static void filesystem_make(struct filesystem *fs, const char *type, unsigned index)
{
    char file[256];
    fs->type = type;
    fs->writer = &shared->writers[index];
    snprintf(file, sizeof file, "%s/%s.img", shared->directory, type);
    snprintf(fs->where, sizeof fs->where, "%s/%s", shared->directory, type);
    loop_make(fs->device, file, "320M");
    if (sh("mkfs.%s -q %s", type, fs->device) != 0)
        fail("mkfs.%s", __LINE__, type);
    mount_make(fs->device, fs->where);
    fs->number = device_number(fs->device);
    writer_start(fs, false);
    writer_start(fs, true);
}

/* The longest time without a write since gap_reset, the one under way included. */
static void gap_reset(struct filesystem *fs)
{
    atomic_store(&fs->writer->gap_ns, 0);
}

static int64_t gap_ns(struct filesystem *fs)
{
    int64_t now = repl_now_mono_ns() - atomic_load(&fs->writer->last_ns);
    int64_t gap = atomic_load(&fs->writer->gap_ns);
    return now > gap ? now : gap;
}

static bool writer_moves(struct filesystem *fs, int64_t wait_ms)
{
    uint64_t before = atomic_load(&fs->writer->count);
    int64_t until = repl_now_mono_ns() + wait_ms * NS_PER_MS;
    while (repl_now_mono_ns() < until) {
        if (atomic_load(&fs->writer->count) > before + 2)
            return true;
        usleep(500);
    }
    return false;
}

/* --- the guard ------------------------------------------------------------------------------- */

static void config_write(const char *state, const char *run)
{
    char path[256];
    snprintf(path, sizeof path, "%s/agent.conf", shared->directory);
    FILE *out = fopen(path, "we");
    check(out != NULL);
    fprintf(out,
            "[agent]\nstate = %s\ncontrol = %s/agent.sock\nguard = %s/guard.sock\n"
            "[remote]\naddress = h:1\nfingerprint = SHA256:%064d\n",
            state, run, run, 0);
    fclose(out);
}

static void guard_start(const char *binary, const char *run)
{
    char config[256], log[256], path[256];
    snprintf(config, sizeof config, "%s/agent.conf", shared->directory);
    snprintf(log, sizeof log, "%s/guard.log", shared->directory);
    supervisor = fork();
    if (supervisor == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, STDERR_FILENO);
        close(lifeline[1]);
        sh_quiet("echo 100 >/proc/$PPID/oom_score_adj");
        execl(binary, "repl", "guard", "--config", config, (char *)NULL);
        _exit(127);
    }
    pid_keep(supervisor);
    snprintf(path, sizeof path, "%s/guard.sock", run);
    for (int tries = 0; tries < 400; tries++) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        strcpy(address.sun_path, path);
        int rc = connect(fd, (const struct sockaddr *)(const void *)&address, sizeof address);
        close(fd);
        if (rc == 0)
            return;
        usleep(25000);
    }
    fail("the guard does not answer", __LINE__);
}

static pid_t worker_of(pid_t parent)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", parent, parent);
    for (int tries = 0; tries < 1000; tries++) { /* the socket is there before the worker is */
        FILE *file = fopen(path, "re");
        check(file != NULL);
        int got = fscanf(file, "%d", &pid);
        fclose(file);
        if (got == 1)
            return pid;
        usleep(1000);
    }
    fail("the guard has no worker", __LINE__);
}

static bool process_lives(pid_t pid)
{
    char path[64], state = 'Z';
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool got = fscanf(file, "%*d (%*[^)]) %c", &state) == 1;
    fclose(file);
    return got && state != 'Z';
}

static int guard_wait(void)
{
    int status = 0;
    waitpid(supervisor, &status, 0);
    pid_forget(supervisor);
    supervisor = 0;
    for (int tries = 0; killed_worker > 0 && tries < 5000 && process_lives(killed_worker); tries++)
        usleep(1000);
    killed_worker = 0;
    return status;
}

static void guard_stop(void)
{
    kill(supervisor, SIGTERM);
    int status = guard_wait();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail("the guard ended with status %x", __LINE__, (unsigned)status);
}

static void guard_restart(void)
{
    guard_start(program, shared->run);
}

/* --- the client ------------------------------------------------------------------------------ */

static void client_event(void *context, const struct repl_hold_event *event)
{
    struct client *c = context;
    c->last = *event;
    c->events++;
}

static void client_open(struct client *c, const char *run)
{
    struct repl_error err;
    char path[160];
    *c = (struct client){0};
    snprintf(path, sizeof path, "%s/guard.sock", run);
    if (!repl_ok(repl_loop_new(&(struct repl_loop_options){.workers = 1}, &c->loop, &err)) ||
        !repl_ok(repl_hold_new(c->loop, path, client_event, c, &c->hold, &err)))
        fail("%s", __LINE__, err.text);
}

static void client_close(struct client *c)
{
    repl_hold_free(c->hold);
    repl_loop_free(c->loop);
}

/* False: no event in that time. */
static bool client_await(struct client *c, int64_t limit_ms)
{
    struct repl_error err;
    unsigned before = c->events;
    int64_t until = repl_now_mono_ns() + limit_ms * NS_PER_MS;
    while (c->events == before && repl_now_mono_ns() < until) {
        if (!repl_ok(repl_loop_once(c->loop, 10, &err)))
            fail("%s", __LINE__, err.text);
    }
    return c->events != before;
}

static void expect(struct client *c, enum repl_hold_event_kind kind, int line)
{
    static const char *const words[] = {"HELD", "FAILED", "RELEASED"};
    if (!client_await(c, 15000))
        fail("no event (called at line %d)", __LINE__, line);
    if (c->last.kind != kind)
        fail("%s instead of %s (called at line %d): %s", __LINE__, words[c->last.kind], words[kind],
             line, c->last.error.text);
}
#define EXPECT(client, kind) expect(client, kind, __LINE__)

static struct repl_hold_options freeze_options(const struct filesystem *fs, int64_t budget_ms)
{
    return (struct repl_hold_options){.device = fs->number,
                                      .volume = fs->type,
                                      .freeze = true,
                                      .budget_ms = budget_ms,
                                      .command_timeout_ms = 2000};
}

static void hold_begin(struct client *c, const struct filesystem *fs, int64_t budget_ms)
{
    struct repl_hold_options options = freeze_options(fs, budget_ms);
    repl_hold_begin(c->hold, &options);
}

/* FIFREEZE's own flush may be over the budget where others use the disk: then once more. */
static void hold_until_held(struct client *c, struct filesystem *fs, int64_t budget_ms)
{
    for (int tries = 0; tries < 10; tries++) {
        gap_reset(fs);
        hold_begin(c, fs, budget_ms);
        if (!client_await(c, 15000))
            fail("no event", __LINE__);
        if (c->last.kind == REPL_HOLD_HELD)
            return;
        if (strstr(c->last.error.text, "OVER BUDGET") == NULL)
            fail("not held: %s", __LINE__, c->last.error.text);
        note("  FIFREEZE was over the budget of %lld ms: again", (long long)budget_ms);
        check(writer_moves(fs, 5000));
    }
    fail("never held", __LINE__);
}

/* The writer stood still no longer than it may. FIFREEZE's own flush may outlast the budget: only
 * where HELD came in time is there a bound. */
static void goes_on_in_time(struct filesystem *fs, int64_t budget_ms, const char *what)
{
    check(writer_moves(fs, 5000));
    int64_t gap = gap_ns(fs);
    int64_t over = gap - budget_ms * NS_PER_MS;
    worst_ns = over > worst_ns ? over : worst_ns;
    note("  %s, %s: the writer waited %.1f ms (budget %lld)", fs->type, what, (double)gap / 1e6,
         (long long)budget_ms);
    if (over > SLACK_MS * NS_PER_MS)
        fail("that is too long", __LINE__);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_release(struct filesystem *fs)
{
    struct client c;
    note("%s: hold and release", fs->type);
    client_open(&c, shared->run);
    for (int i = 0; i < rounds * 3; i++) {
        hold_until_held(&c, fs, 1000);
        check(repl_hold_is_intact(c.hold));
        int64_t took = c.last.took_ns;
        usleep(2000);
        uint64_t count = atomic_load(&fs->writer->count);
        usleep(30000);
        check(atomic_load(&fs->writer->count) <= count + 1);
        repl_hold_end(c.hold);
        EXPECT(&c, REPL_HOLD_RELEASED);
        check(c.last.intact);
        check(c.last.stall_ns > 30 * NS_PER_MS && c.last.stall_ns < 1000 * NS_PER_MS);
        check(writer_moves(fs, 1000));
        if (i == 0)
            note("  FIFREEZE took %.1f ms, the stall was %.1f ms, the writer waited %.1f ms",
                 (double)took / 1e6, (double)c.last.stall_ns / 1e6, (double)gap_ns(fs) / 1e6);
    }
    client_close(&c);
}

static void test_budget(struct filesystem *fs)
{
    struct client c;
    note("%s: the budget is over", fs->type);
    client_open(&c, shared->run);
    for (int i = 0; i < rounds; i++) {
        hold_until_held(&c, fs, 250);
        EXPECT(&c, REPL_HOLD_RELEASED);
        check(!c.last.intact);
        check(strstr(c.last.error.text, "OVER BUDGET") != NULL);
        check(c.last.stall_ns >= 250 * NS_PER_MS && c.last.stall_ns < (250 + SLACK_MS) * NS_PER_MS);
        goes_on_in_time(fs, 250, "budget over");
        repl_hold_end(c.hold); /* crossed: means nothing */
    }
    client_close(&c);
}

/* A client that is killed while it holds. */
static void test_client_dies(struct filesystem *fs)
{
    note("%s: SIGKILL of the client", fs->type);
    for (int i = 0; i < rounds; i++) {
        int ready[2];
        int64_t took_ns;
        check(pipe(ready) == 0);
        pid_t pid = fork();
        if (pid == 0) {
            struct client c;
            child_begin();
            client_open(&c, shared->run);
            hold_until_held(&c, fs, 10000);
            check(write(ready[1], &c.last.took_ns, sizeof c.last.took_ns) ==
                  (ssize_t)sizeof c.last.took_ns);
            for (;;)
                pause();
        }
        pid_keep(pid);
        check(read(ready[0], &took_ns, sizeof took_ns) == (ssize_t)sizeof took_ns);
        usleep(20000);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        pid_forget(pid);
        close(ready[0]);
        close(ready[1]);
        goes_on_in_time(fs, took_ns / NS_PER_MS + 250, "client killed");
    }
}

enum victim { WORKER, SUPERVISOR, BOTH, WORKER_STOPPED };

static void kill_guard(enum victim victim)
{
    pid_t worker = worker_of(supervisor);
    unsigned kept = pid_keep(worker);
    killed_worker = worker;
    if (victim == BOTH)
        kill(supervisor, SIGSTOP); /* neither has the time to see the other's end */
    if (victim == WORKER || victim == BOTH)
        kill(worker, SIGKILL);
    if (victim == SUPERVISOR || victim == BOTH)
        kill(supervisor, SIGKILL);
    if (victim == WORKER_STOPPED)
        kill(worker, SIGSTOP);
    atomic_store(&shared->pids[kept], 0);
}

static void test_guard_dies(struct filesystem *fs, enum victim victim, const char *what)
{
    note("%s: %s", fs->type, what);
    for (int i = 0; i < rounds; i++) {
        struct client c;
        client_open(&c, shared->run);
        hold_until_held(&c, fs, 250);
        usleep(20000);
        kill_guard(victim);
        EXPECT(&c, REPL_HOLD_RELEASED);
        check(!c.last.intact);
        goes_on_in_time(fs, 250, what);
        guard_wait();
        guard_restart();
        /* the same client finds the new guard */
        hold_until_held(&c, fs, 1000);
        repl_hold_end(c.hold);
        EXPECT(&c, REPL_HOLD_RELEASED);
        check(c.last.intact);
        client_close(&c);
    }
}

/* Killed at any moment of the freeze, FIFREEZE included. */
static void test_guard_dies_freezing(struct filesystem *fs)
{
    note("%s: SIGKILL at some moment of the freeze", fs->type);
    for (int i = 0; i < rounds * 3; i++) {
        struct client c;
        client_open(&c, shared->run);
        hold_begin(&c, fs, 250);
        usleep((useconds_t)(rand() % 8000));
        kill_guard(i % 3 == 0 ? WORKER : i % 3 == 1 ? SUPERVISOR : BOTH);
        while (client_await(&c, 500) && c.last.kind == REPL_HOLD_HELD)
            continue;
        check(c.last.kind != REPL_HOLD_RELEASED || !c.last.intact);
        check(writer_moves(fs, 2000));
        client_close(&c);
        guard_wait();
        guard_restart();
    }
}

static void expect_order(const char *expected, int line)
{
    for (int tries = 0; tries < 100; tries++) {
        if (sh("test \"$(tr '\\n' ' ' <%s/order 2>/dev/null)\" = '%s '", shared->directory,
               expected) == 0) {
            sh_quiet("rm -f %s/order", shared->directory);
            return;
        }
        usleep(50000);
    }
    sh_quiet("cat %s/order", shared->directory);
    fail("the commands did not leave \"%s\" (called at line %d)", __LINE__, expected, line);
}
#define EXPECT_ORDER(expected) expect_order(expected, __LINE__)

/* All die; the next guard finds the record. What it runs then, it does not wait for. */
static void test_all_die(struct filesystem *fs)
{
    struct client c;
    char log[256];
    note("%s: SIGKILL of the guard and the client; the next guard thaws and runs post_command",
         fs->type);
    snprintf(log, sizeof log, "sleep 0.2; echo post >>%s/order", shared->directory);
    sh_quiet("rm -f %s/order", shared->directory);
    int ready[2];
    char byte;
    check(pipe(ready) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        child_begin();
        client_open(&c, shared->run);
        struct repl_hold_options options = freeze_options(fs, 10000);
        options.post_command = log;
        repl_hold_begin(c.hold, &options);
        EXPECT(&c, REPL_HOLD_HELD);
        check(write(ready[1], "h", 1) == 1);
        for (;;)
            pause();
    }
    pid_keep(pid);
    check(read(ready[0], &byte, 1) == 1);
    kill(pid, SIGSTOP);
    kill_guard(BOTH);
    guard_wait();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    pid_forget(pid);
    close(ready[0]);
    close(ready[1]);
    check(!writer_moves(fs, 200)); /* nobody is left to thaw it */
    guard_restart();
    check(writer_moves(fs, 1000));
    EXPECT_ORDER("post");
}

static void test_foreign(struct filesystem *fs)
{
    struct client c;
    note("%s: frozen by somebody else", fs->type);
    client_open(&c, shared->run);
    int fd = open(fs->where, O_RDONLY | O_CLOEXEC);
    check(fd >= 0 && ioctl(fd, FIFREEZE, 0) == 0);
    hold_begin(&c, fs, 250);
    EXPECT(&c, REPL_HOLD_FAILED);
    check(c.last.error.code == REPL_E_LOCKED);
    check(strstr(c.last.error.text, "by somebody else") != NULL);
    check(!writer_moves(fs, 400)); /* left as it was, beyond the budget too */
    check(ioctl(fd, FITHAW, 0) == 0);
    check(writer_moves(fs, 1000));

    note("%s: thawed by somebody else", fs->type);
    hold_until_held(&c, fs, 1000);
    check(ioctl(fd, FITHAW, 0) == 0);
    check(writer_moves(fs, 1000));
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(!c.last.intact);
    check(strstr(c.last.error.text, "thawed by somebody else") != NULL);

    note("%s: a freeze made after ours is not thawed by the death of the guard", fs->type);
    hold_until_held(&c, fs, 1000);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(c.last.intact);
    check(ioctl(fd, FIFREEZE, 0) == 0);
    kill_guard(BOTH);
    guard_wait();
    client_await(&c, 200);
    guard_restart();
    check(!writer_moves(fs, 200));
    check(ioctl(fd, FITHAW, 0) == 0);
    close(fd);
    client_close(&c);
}

static void test_commands(struct filesystem *fs)
{
    struct client c;
    char pre[512], post[512], failing[512], hanging[512], touch[512];
    note("%s: commands", fs->type);
    sh_quiet("rm -f %s/order", shared->directory);
    /* Both write to the filesystem itself, so neither can run while it is frozen. */
    snprintf(pre, sizeof pre, "touch %s/by-pre && echo pre-$REPL_VOLUME >>%s/order", fs->where,
             shared->directory);
    snprintf(post, sizeof post, "touch %s/by-post && echo post-$REPL_VOLUME >>%s/order", fs->where,
             shared->directory);
    snprintf(failing, sizeof failing, "echo failing >>%s/order; exit 3", shared->directory);
    snprintf(hanging, sizeof hanging, "echo hanging >>%s/order; sleep 7531 & wait",
             shared->directory);
    snprintf(touch, sizeof touch, "pre-%s held released post-%s", fs->type, fs->type);
    client_open(&c, shared->run);
    struct repl_hold_options options = freeze_options(fs, 10000);
    options.pre_command = pre;
    options.post_command = post;

    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    sh_quiet("echo held >>%s/order; echo released >>%s/order", shared->directory,
             shared->directory);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(c.last.intact);
    EXPECT_ORDER(touch);

    note("  a command may be ended for want of memory like any other process");
    snprintf(touch, sizeof touch, "cat /proc/self/oom_score_adj >>%s/order", shared->directory);
    options.pre_command = touch;
    options.post_command = NULL;
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    EXPECT_ORDER("0");
    options.pre_command = pre;
    options.post_command = post;

    note("  without a freeze");
    options.freeze = false;
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    check(writer_moves(fs, 1000));
    sh_quiet("echo held >>%s/order; echo released >>%s/order", shared->directory,
             shared->directory);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(c.last.intact && c.last.stall_ns == 0);
    options.freeze = true;
    /* begun before post_command has ended */
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    snprintf(touch, sizeof touch, "pre-%s held released post-%s pre-%s post-%s", fs->type, fs->type,
             fs->type, fs->type);
    EXPECT_ORDER(touch);

    note("  budget over, guard killed, agent killed: post_command runs");
    snprintf(touch, sizeof touch, "pre-%s post-%s", fs->type, fs->type);
    options.budget_ms = 100;
    repl_hold_begin(c.hold, &options);
    while (client_await(&c, 5000) && c.last.kind == REPL_HOLD_HELD)
        continue;
    check(!c.last.intact);
    EXPECT_ORDER(touch);
    options.budget_ms = 10000;
    for (enum victim victim = WORKER; victim <= BOTH; victim++) {
        repl_hold_begin(c.hold, &options);
        EXPECT(&c, REPL_HOLD_HELD);
        kill_guard(victim);
        EXPECT(&c, REPL_HOLD_RELEASED);
        guard_wait();
        guard_restart();
        EXPECT_ORDER(touch);
    }
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    client_close(&c);
    EXPECT_ORDER(touch);
    client_open(&c, shared->run);

    note("  a failing pre_command");
    snprintf(touch, sizeof touch, "failing post-%s", fs->type);
    options.pre_command = failing;
    gap_reset(fs);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_FAILED);
    check(strstr(c.last.error.text, "status 3") != NULL);
    EXPECT_ORDER(touch);

    note("  a hanging pre_command");
    snprintf(touch, sizeof touch, "hanging post-%s", fs->type);
    options.pre_command = hanging;
    options.command_timeout_ms = 300;
    int64_t begin = repl_now_mono_ns();
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_FAILED);
    int64_t took_ms = (repl_now_mono_ns() - begin) / NS_PER_MS;
    check(took_ms >= 300 && took_ms < 1500);
    check(strstr(c.last.error.text, "after 300 ms") != NULL);
    EXPECT_ORDER(touch);
    check(sh("pgrep -x -f 'sleep 7531' >/dev/null") != 0);

    note("  a hanging pre_command, and the worker, or the agent, is killed");
    options.command_timeout_ms = 5000;
    repl_hold_begin(c.hold, &options);
    client_await(&c, 300);
    kill_guard(WORKER);
    EXPECT(&c, REPL_HOLD_FAILED);
    guard_wait();
    guard_restart();
    EXPECT_ORDER(touch);
    check(sh("pgrep -x -f 'sleep 7531' >/dev/null") != 0);
    repl_hold_begin(c.hold, &options);
    client_await(&c, 300);
    client_close(&c);
    EXPECT_ORDER(touch);
    check(sh("pgrep -x -f 'sleep 7531' >/dev/null") != 0);
}

/* An agent that dies and is started again. */
static void test_turns(struct filesystem *fs)
{
    struct client a, b;
    char slow[512], pre[512], post[512];
    note("%s: a hold waits for the post_command of one that was left behind", fs->type);
    sh_quiet("rm -f %s/order", shared->directory);
    snprintf(pre, sizeof pre, "echo pre >>%s/order", shared->directory);
    snprintf(post, sizeof post, "echo post >>%s/order", shared->directory);
    snprintf(slow, sizeof slow, "sleep 1; echo slow >>%s/order", shared->directory);
    struct repl_hold_options options = freeze_options(fs, 10000);
    options.pre_command = pre;
    for (int i = 0; i < 3; i++) {
        client_open(&a, shared->run);
        client_open(&b, shared->run);
        options.post_command = slow;
        repl_hold_begin(a.hold, &options);
        EXPECT(&a, REPL_HOLD_HELD);
        client_close(&a);
        options.post_command = post;
        repl_hold_begin(b.hold, &options);
        if (i == 0) {
            EXPECT(&b, REPL_HOLD_HELD);
            repl_hold_end(b.hold);
            EXPECT(&b, REPL_HOLD_RELEASED);
            check(b.last.intact);
            EXPECT_ORDER("pre slow pre post");
        }
        if (i == 1) {
            check(!client_await(&b, 300));
            repl_hold_end(b.hold);
            check(client_await(&b, 300));
            check(b.last.kind == REPL_HOLD_FAILED);
            EXPECT_ORDER("pre slow");
        }
        if (i == 2) {
            check(!client_await(&b, 300));
            kill(supervisor, SIGTERM);
            check(client_await(&b, 300));
            check(b.last.kind == REPL_HOLD_FAILED);
            guard_wait();
            guard_restart();
            EXPECT_ORDER("pre slow");
        }
        client_close(&b);
    }
}

/* The next guard does not wait for it, but a hold of the same volume does. */
static void test_owed(struct filesystem *fs)
{
    struct client c;
    char slow[512], pre[512];
    note("%s: a post_command that a dead guard owes", fs->type);
    snprintf(pre, sizeof pre, "echo pre >>%s/order", shared->directory);
    snprintf(slow, sizeof slow, "sleep 2; echo slow >>%s/order", shared->directory);
    struct repl_hold_options options = freeze_options(fs, 10000);
    options.command_timeout_ms = 5000;
    options.pre_command = pre;
    options.post_command = slow;
    client_open(&c, shared->run);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    kill_guard(BOTH);
    EXPECT(&c, REPL_HOLD_RELEASED);
    guard_wait();
    int64_t begin = repl_now_mono_ns();
    guard_restart();
    check(repl_now_mono_ns() - begin < 1500 * NS_PER_MS);
    options.post_command = NULL;
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    EXPECT_ORDER("pre slow pre");
    client_close(&c);
}

static void test_dirty(struct filesystem *fs)
{
    struct client c;
    char pre[512];
    note("%s: dirty after pre_command", fs->type);
    snprintf(pre, sizeof pre, "dd if=/dev/zero of=%s/dirt bs=1M count=128 status=none", fs->where);
    struct repl_hold_options options = freeze_options(fs, 1000);
    options.pre_command = pre;
    options.command_timeout_ms = 20000;
    client_open(&c, shared->run);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    note("  FIFREEZE took %.1f ms", (double)c.last.took_ns / 1e6);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(c.last.intact);
    client_close(&c);
    sh_quiet("rm -f %s/dirt", fs->where);
}

/* On a disk that does not take a block: its file is on a frozen filesystem. */
static void test_dirty_for_good(struct filesystem *fs)
{
    struct client c;
    char path[256], device[64], where[128], post[512];
    note("%s: dirty, and it cannot be written back", fs->type);
    snprintf(path, sizeof path, "%s/still.img", fs->where);
    loop_make(device, path, "16M");
    check(sh("mkfs.ext4 -q %s", device) == 0);
    snprintf(where, sizeof where, "%s/still", shared->directory);
    mount_make(device, where);
    snprintf(post, sizeof post, "echo post >>%s/order", shared->directory);
    struct repl_hold_options options = {.device = device_number(device),
                                        .volume = "still",
                                        .freeze = true,
                                        .budget_ms = 5000,
                                        .post_command = post,
                                        .command_timeout_ms = 300};
    check(sh("sync -f %s && dd if=/dev/zero of=%s/dirt bs=1M count=4 status=none", where, where) ==
          0);
    int fd = open(fs->where, O_RDONLY | O_CLOEXEC);
    check(fd >= 0 && ioctl(fd, FIFREEZE, 0) == 0);
    client_open(&c, shared->run);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_FAILED);
    check(c.last.stall_ns == 0);
    check(strstr(c.last.error.text, "write back") != NULL);
    EXPECT_ORDER("post");
    check(ioctl(fd, FITHAW, 0) == 0);
    close(fd);
    options.command_timeout_ms = 5000;
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(c.last.intact);
    EXPECT_ORDER("post");
    client_close(&c);
}

static void test_many(struct filesystem *fs)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct client c[REPL_GUARD_SLOTS + 1];
    int fds[REPL_GUARD_SLOTS];
    note("more connections than slots");
    struct repl_hold_options options = freeze_options(fs, 10000);
    options.freeze = false;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/guard.sock", shared->run);
    for (unsigned i = 0; i <= REPL_GUARD_SLOTS; i++) {
        client_open(&c[i], shared->run);
        repl_hold_begin(c[i].hold, &options);
        EXPECT(&c[i], REPL_HOLD_HELD);
        repl_hold_end(c[i].hold);
        EXPECT(&c[i], REPL_HOLD_RELEASED);
        client_await(&c[i], 20); /* DONE */
    }
    usleep(100000);
    for (unsigned i = 0; i < REPL_GUARD_SLOTS; i++) {
        fds[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        check(connect(fds[i], (const struct sockaddr *)(const void *)&address, sizeof address) ==
              0);
    }
    for (int i = 0; i < 2; i++) {
        repl_hold_begin(c[0].hold, &options);
        EXPECT(&c[0], REPL_HOLD_FAILED);
        check(strstr(c[0].last.error.text, "takes no more") != NULL);
    }
    for (unsigned i = 0; i < REPL_GUARD_SLOTS; i++)
        close(fds[i]);
    usleep(100000);
    repl_hold_begin(c[0].hold, &options);
    EXPECT(&c[0], REPL_HOLD_HELD);
    for (unsigned i = 0; i <= REPL_GUARD_SLOTS; i++)
        client_close(&c[i]);
}

static void test_two_at_once(struct filesystem *first, struct filesystem *second)
{
    struct client a, b;
    note("two connections freeze together");
    client_open(&a, shared->run);
    client_open(&b, shared->run);
    for (int i = 0; i < rounds; i++) {
        hold_begin(&a, first, 10000);
        hold_begin(&b, second, 10000);
        EXPECT(&a, REPL_HOLD_HELD);
        EXPECT(&b, REPL_HOLD_HELD);
        check(repl_hold_is_intact(a.hold) && repl_hold_is_intact(b.hold));
        repl_hold_end(a.hold);
        repl_hold_end(b.hold);
        EXPECT(&a, REPL_HOLD_RELEASED);
        check(a.last.intact);
        EXPECT(&b, REPL_HOLD_RELEASED);
        check(b.last.intact);
    }
    client_close(&a);
    client_close(&b);
}

static bool is_frozen(const char *where)
{
    int fd = open(where, O_RDONLY | O_CLOEXEC);
    check(fd >= 0);
    bool frozen = ioctl(fd, FIFREEZE, 0) != 0 && errno == EBUSY;
    if (!frozen)
        ioctl(fd, FITHAW, 0);
    close(fd);
    return frozen;
}

static void test_partitions(void)
{
    struct client c;
    char file[192], device[64], where[2][192], partition[96];
    note("a disk with two mounted partitions: all or nothing");
    snprintf(file, sizeof file, "%s/disk.img", shared->directory);
    loop_make(device, file, "64M");
    if (sh("addpart %s 1 2048 49152 && addpart %s 2 51200 49152", device, device) != 0)
        fail("addpart", __LINE__);
    for (int i = 0; i < 2; i++) {
        snprintf(where[i], sizeof where[i], "%s/part%d", shared->directory, i);
        snprintf(partition, sizeof partition, "%sp%d", device, i + 1);
        if (access(partition, F_OK) != 0) {
            note("  left out: no partitions on loop devices here");
            return;
        }
        if (sh("mkfs.ext4 -q %s", partition) != 0)
            fail("mkfs.ext4 %s", __LINE__, partition);
        mount_make(partition, where[i]);
    }
    struct repl_hold_options options = {.device = device_number(device),
                                        .volume = "disk",
                                        .freeze = true,
                                        .budget_ms = 10000,
                                        .command_timeout_ms = 1000};
    client_open(&c, shared->run);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    check(is_frozen(where[0]) && is_frozen(where[1]));
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(c.last.intact);
    check(!is_frozen(where[0]) && !is_frozen(where[1]));

    int fd = open(where[1], O_RDONLY | O_CLOEXEC);
    check(ioctl(fd, FIFREEZE, 0) == 0);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_FAILED);
    check(c.last.error.code == REPL_E_LOCKED);
    check(!is_frozen(where[0]) && is_frozen(where[1]));
    check(ioctl(fd, FITHAW, 0) == 0);
    close(fd);
    client_close(&c);
}

static void expect_refused(dev_t device, const char *run, const char *text, int line)
{
    struct client c;
    struct repl_hold_options options = {.device = device,
                                        .volume = "v",
                                        .freeze = true,
                                        .budget_ms = 50,
                                        .command_timeout_ms = 1000};
    client_open(&c, run);
    repl_hold_begin(c.hold, &options);
    expect(&c, REPL_HOLD_FAILED, line);
    if (strstr(c.last.error.text, text) == NULL)
        fail("\"%s\" is not in: %s (called at line %d)", __LINE__, text, c.last.error.text, line);
    client_close(&c);
}
#define EXPECT_REFUSED(device, run, text) expect_refused(device, run, text, __LINE__)

static void guard_with(const char *state, const char *run, const char *binary)
{
    guard_stop();
    config_write(state, run);
    guard_start(binary, run);
}

static void test_refusals(struct filesystem *fs)
{
    char device[64], path[256], other[256];
    struct repl_error err;
    struct repl_freeze_set set;
    struct stat root;
    note("refusals");
    snprintf(path, sizeof path, "%s/unmounted.img", shared->directory);
    loop_make(device, path, "16M");
    EXPECT_REFUSED(device_number(device), shared->run, "no filesystem of device");

    /* Without a guard, so that nothing could be frozen. */
    check(stat("/", &root) == 0);
    const struct repl_freeze_protected protect = {"/", "the root of the system"};
    repl_result result = repl_freeze_set_open(root.st_dev, &protect, 1, &set, &err);
    check(!repl_ok(result));
    note("  %s", err.text);

    snprintf(path, sizeof path, "%s/state/not/yet", fs->where);
    guard_with(path, shared->run, program);
    EXPECT_REFUSED(fs->number, shared->run, "the agent's state and spool");

    note("  state on a loop device whose file is on the filesystem");
    snprintf(path, sizeof path, "%s/inner.img", fs->where);
    loop_make(device, path, "16M");
    snprintf(other, sizeof other, "%s/inner", shared->directory);
    check(sh("mkfs.ext4 -q %s", device) == 0);
    mount_make(device, other);
    guard_with(other, shared->run, program);
    EXPECT_REFUSED(fs->number, shared->run, "the agent's state and spool");

    snprintf(path, sizeof path, "%s/run", fs->where);
    guard_with(shared->directory, path, program);
    EXPECT_REFUSED(fs->number, path, "the guard's run directory");

    snprintf(path, sizeof path, "%s/program", fs->where);
    check(sh("cp %s %s", program, path) == 0);
    guard_with(shared->directory, shared->run, path);
    EXPECT_REFUSED(fs->number, shared->run, "the guard's program");
    guard_stop();
    EXPECT_REFUSED(fs->number, shared->run, "systemctl start repl-guard.service");
    guard_restart();
}

static void test_strangers(struct filesystem *fs)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct repl_guard_request packet = {.volume = "v"};
    char byte;
    note("strangers");
    snprintf(address.sun_path, sizeof address.sun_path, "%s/guard.sock", shared->run);
    const struct sockaddr *to = (const struct sockaddr *)(const void *)&address;
    pid_t pid = fork();
    if (pid == 0) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        _exit(setuid(65534) == 0 && connect(fd, to, sizeof address) != 0 ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0);

    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    check(connect(fd, to, sizeof address) == 0);
    packet.device = fs->number;
    check(send(fd, &packet, sizeof packet, 0) == (ssize_t)sizeof packet);
    check(recv(fd, &byte, 1, 0) <= 0); /* closed without a word */
    close(fd);
}

/* --- main ------------------------------------------------------------------------------------ */

static void on_signal(int number)
{
    (void)number;
    _exit(130); /* the janitor does the rest */
}

static void setup(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED || pipe2(lifeline, O_CLOEXEC) != 0)
        exit(1);
    strcpy(shared->directory, "/var/tmp/repl-freeze.XXXXXX");
    strcpy(shared->run, access("/dev/shm", W_OK) == 0 ? "/dev/shm/repl-freeze.XXXXXX"
                                                      : "/var/tmp/repl-freeze.XXXXXX");
    if (mkdtemp(shared->directory) == NULL || mkdtemp(shared->run) == NULL)
        exit(1);
    janitor = fork();
    if (janitor == 0) {
        close(lifeline[1]);
        janitor_main();
    }
    close(lifeline[0]);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
}

static void test_filesystem(struct filesystem *fs)
{
    test_release(fs);
    test_budget(fs);
    test_client_dies(fs);
    test_guard_dies(fs, WORKER, "SIGKILL of the worker");
    test_guard_dies(fs, SUPERVISOR, "SIGKILL of the supervisor");
    test_guard_dies(fs, BOTH, "SIGKILL of both");
    test_guard_dies(fs, WORKER_STOPPED, "SIGSTOP of the worker");
    test_guard_dies_freezing(fs);
    test_all_die(fs);
    test_foreign(fs);
    test_commands(fs);
    test_turns(fs);
    test_owed(fs);
    test_dirty(fs);
}

int main(int argc, char **argv)
{
    struct filesystem ext4, xfs;
    program = getenv("REPL");
    if (argc > 1)
        rounds = atoi(argv[1]);
    if (program == NULL || geteuid() != 0 ||
        system("command -v mkfs.ext4 mkfs.xfs losetup addpart partx >/dev/null") != 0) {
        puts("skipped: needs root, $REPL, mkfs.ext4, mkfs.xfs, losetup, addpart and partx");
        return 77;
    }
    setup();
    filesystem_make(&ext4, "ext4", 0);
    filesystem_make(&xfs, "xfs", 1);
    config_write(shared->directory, shared->run);
    guard_restart();
    test_filesystem(&ext4);
    test_filesystem(&xfs);
    test_dirty_for_good(&ext4);
    test_many(&ext4);
    test_two_at_once(&ext4, &xfs);
    test_partitions();
    test_strangers(&ext4);
    test_refusals(&ext4);
    guard_stop();
    note("all passed; at worst a writer waited %.1f ms beyond the budget", (double)worst_ns / 1e6);
    end(0);
}
