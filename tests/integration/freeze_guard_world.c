/* Loop devices with filesystems under writers, the freeze guard and its client: see the header. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "integration/freeze_guard.h"

struct shared *shared;
const char *program;
pid_t supervisor;
int rounds = 3;
int64_t worst_ns;

static int lifeline[2];
static pid_t janitor;
static int killed_worker = -1; /* its pidfd */

/* --- begin and end --------------------------------------------------------------------------- */

_Noreturn void leave(int status)
{
    close(lifeline[1]);
    waitpid(janitor, NULL, 0);
    exit(status);
}

void note(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

int sh(const char *format, ...)
{
    char command[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    return system(command);
}

static void show_log(void)
{
    sh_quiet("echo '--- guard.log'; tail -n 40 %s/guard.log", shared->directory);
}

_Noreturn void fail_at(const char *file, int line, const char *format, ...)
{
    va_list args;
    printf("FAILED at %s:%d: ", strrchr(file, '/') != NULL ? strrchr(file, '/') + 1 : file, line);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    show_log();
    leave(1);
}

void child_begin(void)
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

unsigned pid_keep(pid_t pid)
{
    for (unsigned i = 0; i < PIDS_MAX; i++) {
        if (atomic_load(&shared->pids[i]) == 0) {
            atomic_store(&shared->pids[i], pid);
            return i;
        }
    }
    fail("too many processes");
}

void pid_forget(pid_t pid)
{
    for (unsigned i = 0; i < PIDS_MAX; i++) {
        pid_t expected = pid;
        atomic_compare_exchange_strong(&shared->pids[i], &expected, 0);
    }
}
static void on_signal(int number)
{
    (void)number;
    _exit(130); /* the janitor does the rest */
}

void setup(void)
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

/* --- filesystems and writers ----------------------------------------------------------------- */

void loop_make(char device[64], const char *file, const char *size)
{
    char command[512];
    if (sh("truncate -s %s %s", size, file) != 0)
        fail("truncate %s", file);
    snprintf(command, sizeof command, "losetup --find --show %s", file);
    FILE *out = popen(command, "re");
    if (out == NULL || fscanf(out, "%63s", device) != 1 || pclose(out) != 0) {
        note("skipped: no loop device");
        leave(77);
    }
    unsigned at = atomic_load(&shared->loop_count);
    snprintf(shared->loops[at], sizeof shared->loops[at], "%s", device);
    atomic_store(&shared->loop_count, at + 1);
}

void mount_make(const char *device, const char *where)
{
    unsigned at = atomic_load(&shared->mount_count);
    check(at < MOUNTS_MAX);
    snprintf(shared->mounts[at], sizeof shared->mounts[at], "%s", where);
    atomic_store(&shared->mount_count, at + 1);
    if (sh("mkdir -p %s && mount %s %s", where, device, where) != 0)
        fail("mount %s", device);
}

dev_t device_number(const char *device)
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

void filesystem_make(struct filesystem *fs, const char *type, unsigned index)
{
    char file[256];
    fs->type = type;
    fs->writer = &shared->writers[index];
    snprintf(file, sizeof file, "%s/%s.img", shared->directory, type);
    snprintf(fs->where, sizeof fs->where, "%s/%s", shared->directory, type);
    loop_make(fs->device, file, "320M");
    if (sh("mkfs.%s -q %s", type, fs->device) != 0)
        fail("mkfs.%s", type);
    mount_make(fs->device, fs->where);
    fs->number = device_number(fs->device);
    writer_start(fs, false);
    writer_start(fs, true);
}

void gap_reset(struct filesystem *fs)
{
    atomic_store(&fs->writer->gap_ns, 0);
}

int64_t gap_ns(struct filesystem *fs)
{
    int64_t now = repl_now_mono_ns() - atomic_load(&fs->writer->last_ns);
    int64_t gap = atomic_load(&fs->writer->gap_ns);
    return now > gap ? now : gap;
}

bool writer_moves(struct filesystem *fs, int64_t wait_ms)
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

void config_write(const char *state, const char *run)
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

void guard_start(const char *binary, const char *run)
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
    fail("the guard does not answer");
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
    fail("the guard has no worker");
}

int guard_wait(void)
{
    int status = 0;
    waitpid(supervisor, &status, 0);
    pid_forget(supervisor);
    supervisor = 0;
    if (killed_worker < 0)
        return status;
    /* The process is a zombie as soon as its main thread has ended. What the others still have
     * open, the listening socket too, is closed when all have, and that is when the pidfd is ready.
     */
    struct pollfd ended = {.fd = killed_worker, .events = POLLIN};
    if (poll(&ended, 1, 5000) != 1)
        fail("the killed worker has not ended");
    close(killed_worker);
    killed_worker = -1;
    return status;
}

void guard_stop(void)
{
    kill(supervisor, SIGTERM);
    int status = guard_wait();
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail("the guard ended with status %x", (unsigned)status);
}

void guard_restart(void)
{
    guard_start(program, shared->run);
}

void kill_guard(enum victim victim)
{
    pid_t worker = worker_of(supervisor);
    unsigned kept = pid_keep(worker);
    killed_worker = pidfd_open(worker, 0);
    check(killed_worker >= 0);
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

/* --- the client ------------------------------------------------------------------------------ */

static void client_event(void *context, const struct repl_hold_event *event)
{
    struct client *c = context;
    c->last = *event;
    c->events++;
}

void client_open(struct client *c, const char *run)
{
    struct repl_error err;
    char path[160];
    *c = (struct client){0};
    snprintf(path, sizeof path, "%s/guard.sock", run);
    if (!repl_ok(repl_loop_new(&(struct repl_loop_options){.workers = 1}, &c->loop, &err)) ||
        !repl_ok(repl_hold_new(c->loop, path, client_event, c, &c->hold, &err)))
        fail("%s", err.text);
}

void client_close(struct client *c)
{
    repl_hold_free(c->hold);
    repl_loop_free(c->loop);
}

bool client_await(struct client *c, int64_t limit_ms)
{
    struct repl_error err;
    unsigned before = c->events;
    int64_t until = repl_now_mono_ns() + limit_ms * NS_PER_MS;
    while (c->events == before && repl_now_mono_ns() < until) {
        if (!repl_ok(repl_loop_once(c->loop, 10, &err)))
            fail("%s", err.text);
    }
    return c->events != before;
}

void expect(struct client *c, enum repl_hold_event_kind kind, const char *file, int line)
{
    static const char *const words[] = {"HELD", "FAILED", "RELEASED"};
    if (!client_await(c, 15000))
        fail_at(file, line, "no event");
    if (c->last.kind != kind)
        fail_at(file, line, "%s instead of %s: %s", words[c->last.kind], words[kind],
                c->last.error.text);
}

struct repl_hold_options freeze_options(const struct filesystem *fs, int64_t budget_ms)
{
    return (struct repl_hold_options){.device = fs->number,
                                      .volume = fs->type,
                                      .freeze = true,
                                      .budget_ms = budget_ms,
                                      .command_timeout_ms = 2000};
}

void hold_begin(struct client *c, const struct filesystem *fs, int64_t budget_ms)
{
    struct repl_hold_options options = freeze_options(fs, budget_ms);
    repl_hold_begin(c->hold, &options);
}

void hold_until_held(struct client *c, struct filesystem *fs, int64_t budget_ms)
{
    for (int tries = 0; tries < 10; tries++) {
        gap_reset(fs);
        hold_begin(c, fs, budget_ms);
        if (!client_await(c, 15000))
            fail("no event");
        if (c->last.kind == REPL_HOLD_HELD)
            return;
        if (strstr(c->last.error.text, "OVER BUDGET") == NULL)
            fail("not held: %s", c->last.error.text);
        note("  FIFREEZE was over the budget of %lld ms: again", (long long)budget_ms);
        check(writer_moves(fs, 5000));
    }
    fail("never held");
}

void goes_on_in_time(struct filesystem *fs, int64_t budget_ms, const char *what)
{
    check(writer_moves(fs, 5000));
    int64_t gap = gap_ns(fs);
    int64_t over = gap - budget_ms * NS_PER_MS;
    worst_ns = over > worst_ns ? over : worst_ns;
    note("  %s, %s: the writer waited %.1f ms (budget %lld)", fs->type, what, (double)gap / 1e6,
         (long long)budget_ms);
    if (over > SLACK_MS * NS_PER_MS)
        fail("that is too long");
}

void expect_order(const char *expected, const char *file, int line)
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
    fail_at(file, line, "the commands did not leave \"%s\"", expected);
}
