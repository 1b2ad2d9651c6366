#include "source/freeze/guard.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "control/control.h"
#include "loop/loop.h"
#include "source/freeze/guard_internal.h"

/* What a worker that is alive may be late with a thaw before the supervisor does it. */
#define GRACE_NS        INT64_C(40000000)
#define ACCEPT_PAUSE_NS 10000000
#define HURRY_NICE      (-15)
#define REFUSAL_MS      100

static volatile sig_atomic_t terminated;

static void signal_terminate(int number)
{
    (void)number;
    terminated = 1;
}

static void signal_child(int number)
{
    (void)number; /* it only has to end a ppoll */
}

/* Blocked everywhere but in a ppoll; *waiting is the mask for that. */
static void signals_take(sigset_t *waiting)
{
    sigset_t block;
    sigemptyset(&block);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGCHLD);
    sigprocmask(SIG_BLOCK, &block, waiting);
    sigdelset(waiting, SIGTERM);
    sigdelset(waiting, SIGINT);
    sigdelset(waiting, SIGCHLD);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = signal_terminate}, NULL);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = signal_terminate}, NULL);
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = signal_child}, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static repl_result memory_lock(struct repl_error *err)
{
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        return repl_fail_errno(err, REPL_E_REFUSED, errno,
                               "cannot lock the guard in memory, so it could itself wait for a "
                               "frozen filesystem: run it as root with CAP_IPC_LOCK");
    return REPL_SUCCESS;
}

void guard_hurry(void)
{
    struct sched_param parameters = {0};
    if (sched_setscheduler(0, SCHED_OTHER | SCHED_RESET_ON_FORK, &parameters) == 0)
        setpriority(PRIO_PROCESS, 0, HURRY_NICE);
}

static void event_add(int fd)
{
    const uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof one);
    (void)written;
}

static void event_drain(int fd)
{
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof count);
    (void)got;
}

/* --- what has been left frozen --------------------------------------------------------------- */

static void slot_clear(struct repl_guard_slot *slot)
{
    atomic_store(&slot->hold, 0);
    atomic_store(&slot->deadline_ns, 0);
    atomic_store(&slot->command_pid, 0);
    atomic_store(&slot->post_owed, 0);
    atomic_store(&slot->connection, -1);
}

static bool slot_owes(const struct repl_guard_slot *slot)
{
    return atomic_load(&slot->post_owed) == 1 && slot->post_command[0] != '\0';
}

static void slot_post(struct repl_guard_slot *slot)
{
    struct repl_error err;
    if (!slot_owes(slot))
        return;
    repl_log(LOG_WARNING, "volume %s: running the post_command that is still owed", slot->volume);
    repl_ignore(guard_post_run(slot, &err)); /* it has been logged */
}

/* By an earlier guard; its descriptors are gone. */
static void slot_thaw_found(struct repl_guard_slot *slot)
{
    uint64_t hold = atomic_load(&slot->hold);
    for (uint32_t i = 0; i < slot->mount_count; i++) {
        struct repl_freeze_entry *entry = &slot->mounts[i];
        uint64_t word = atomic_load(&entry->word);
        if (word < repl_freeze_word(hold, REPL_FREEZE_FREEZING) ||
            word > repl_freeze_word(hold, REPL_FREEZE_THAWING))
            continue;
        int fd = repl_freeze_open_by_device((dev_t)entry->device);
        if (fd < 0)
            repl_log(LOG_ERR,
                     "volume or group %s: a filesystem that an earlier guard froze is not mounted "
                     "here any "
                     "more, and may still be frozen: mount it and fsfreeze --unfreeze it",
                     slot->volume);
        else if (repl_freeze_thaw_left(entry, hold, fd))
            repl_log(LOG_WARNING,
                     "volume or group %s: thawed what an earlier guard had left frozen",
                     slot->volume);
        if (fd >= 0)
            close(fd);
    }
}

/* The thaws. The commands, which may take their time, are left to the worker. */
static void leftovers_thaw(struct repl_guard_table *table)
{
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        if (atomic_load(&table->slots[i].hold) != 0)
            slot_thaw_found(&table->slots[i]);
    }
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        struct repl_guard_slot *slot = &table->slots[i];
        uint64_t hold = slot_owes(slot) ? atomic_load(&slot->hold) : 0;
        slot_clear(slot);
        slot->mount_count = 0; /* its descriptors were the earlier guard's */
        atomic_store(&slot->post_owed, hold != 0 ? 1 : 0);
        atomic_store(&slot->hold, hold);
    }
}

/* By the worker, which is dead: FIFREEZE cannot be under way any more. */
static void worker_leftovers_end(struct repl_guard_table *table)
{
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        struct repl_guard_slot *slot = &table->slots[i];
        uint64_t hold = atomic_load(&slot->hold);
        for (uint32_t m = 0; hold != 0 && m < slot->mount_count; m++)
            repl_freeze_thaw_left(&slot->mounts[m], hold, slot->mounts[m].fd);
    }
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        int connection = atomic_load(&table->slots[i].connection);
        if (connection >= 0)
            shutdown(connection, SHUT_RDWR);
    }
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        struct repl_guard_slot *slot = &table->slots[i];
        /* The supervisor is its reaper now, so the number is still its own. */
        int command = atomic_load(&slot->command_pid);
        if (command > 0)
            kill(-command, SIGKILL);
        if (atomic_load(&slot->hold) != 0)
            slot_post(slot);
        slot_clear(slot);
    }
}

/* --- the supervisor -------------------------------------------------------------------------- */

struct supervisor {
    struct guard *guard;
    pid_t worker;
    sigset_t waiting;
    bool ready;
    bool asked;                      /* the worker was told to end */
    uint64_t seen[REPL_GUARD_SLOTS]; /* the hold whose deadline has been dealt with */
};

/* When to look again; INT64_MAX: only when woken. */
static int64_t overdue_thaw(struct supervisor *s)
{
    int64_t next_ns = INT64_MAX, now_ns = repl_now_mono_ns();
    for (size_t i = 0; i < REPL_GUARD_SLOTS; i++) {
        struct repl_guard_slot *slot = &s->guard->record.table->slots[i];
        uint64_t hold = atomic_load(&slot->hold);
        int64_t deadline_ns = atomic_load(&slot->deadline_ns);
        if (hold == 0 || deadline_ns == 0 || s->seen[i] == hold)
            continue;
        if (deadline_ns + GRACE_NS > now_ns) {
            next_ns = deadline_ns + GRACE_NS < next_ns ? deadline_ns + GRACE_NS : next_ns;
            continue;
        }
        s->seen[i] = hold;
        for (uint32_t m = 0; m < slot->mount_count; m++)
            repl_freeze_thaw(&slot->mounts[m], hold, slot->mounts[m].fd);
    }
    return next_ns;
}

/* True: the worker is dead, with its wait status. */
static bool worker_look(struct supervisor *s, int *status)
{
    int got = 0;
    pid_t pid = waitpid(s->worker, &got, WNOHANG | WUNTRACED);
    if (pid == s->worker && !WIFSTOPPED(got)) {
        *status = got;
        return true;
    }
    if (pid == s->worker)
        kill(s->worker, SIGKILL); /* stopped, it keeps nothing it has promised */
    /* What commands have left behind. */
    for (siginfo_t info = {0}; waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
                               info.si_pid != 0 && info.si_pid != s->worker;
         info.si_pid = 0)
        waitpid(info.si_pid, NULL, WNOHANG);
    return false;
}

static void supervisor_wait(struct supervisor *s, int64_t until_ns)
{
    struct pollfd fds = {.fd = s->guard->watch_fd, .events = POLLIN};
    int64_t left_ns = until_ns == INT64_MAX ? INT64_MAX : until_ns - repl_now_mono_ns();
    left_ns = left_ns < 0 ? 0 : left_ns;
    struct timespec left = {.tv_sec = left_ns / 1000000000, .tv_nsec = left_ns % 1000000000};
    if (ppoll(&fds, 1, left_ns == INT64_MAX ? NULL : &left, &s->waiting) <= 0)
        return;
    event_drain(s->guard->watch_fd);
    if (!s->ready) {
        s->ready = true;
        repl_log(LOG_NOTICE, "the freeze guard listens on %s", s->guard->socket_path);
        repl_notify("READY=1");
    }
}

static repl_result supervisor_run(struct supervisor *s, struct repl_error *err)
{
    int status = 0;
    while (!worker_look(s, &status)) {
        if (terminated && !s->asked) {
            s->asked = true;
            repl_notify("STOPPING=1");
            kill(s->worker, SIGTERM);
        }
        supervisor_wait(s, overdue_thaw(s));
    }
    worker_leftovers_end(s->guard->record.table);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_INTERNAL,
                     "the guard's worker has ended (%s %d), and what it held is thawed: the "
                     "service manager starts the guard again",
                     WIFSIGNALED(status) ? "signal" : "status",
                     WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* --- the worker ------------------------------------------------------------------------------ */

struct worker {
    struct guard *guard;
    pid_t supervisor;
    struct guard_keeper *keepers[REPL_GUARD_SLOTS];
    unsigned keeper_count;
    bool stopping;
};

static bool peer_is_root(int connection)
{
    struct ucred peer;
    socklen_t size = sizeof peer;
    return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == 0;
}

/* What is closed with a request unread loses the answer. */
static void connection_refuse(int connection, const struct repl_error *err)
{
    union repl_guard_packet packet;
    repl_guard_packet_init(&packet, REPL_GUARD_FAILED);
    packet.outcome.code = err->code;
    repl_guard_text_set(packet.outcome.text, sizeof packet.outcome.text, err->text);
    struct pollfd request = {.fd = connection, .events = POLLIN};
    if (poll(&request, 1, REFUSAL_MS) <= 0 || recv(connection, &(char){0}, 1, MSG_DONTWAIT) <= 0)
        return;
    send(connection, &packet, sizeof packet.outcome, MSG_NOSIGNAL | MSG_DONTWAIT);
    repl_guard_packet_init(&packet, REPL_GUARD_DONE);
    send(connection, &packet, sizeof packet.done, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* The listening socket blocks nobody: a connection beyond the slots is told so. */
static void worker_accept(struct worker *w)
{
    struct repl_error err;
    int connection = accept4(w->guard->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (connection < 0) {
        /* Out of descriptors it stays readable: do not spin. */
        nanosleep(&(struct timespec){.tv_nsec = ACCEPT_PAUSE_NS}, NULL);
        return;
    }
    unsigned slot = 0;
    while (slot < REPL_GUARD_SLOTS && w->keepers[slot] != NULL)
        slot++;
    repl_result result;
    if (!peer_is_root(connection))
        result = repl_fail(&err, REPL_E_REFUSED, "a connection that is not root's was refused");
    else if (slot == REPL_GUARD_SLOTS)
        result = repl_fail(&err, REPL_E_LOCKED,
                           "the freeze guard has %u connections already, and takes no more",
                           REPL_GUARD_SLOTS);
    else
        result = guard_keeper_new(w->guard, connection, slot, &w->keepers[slot], &err);
    if (repl_ok(result)) {
        w->keeper_count++;
        return;
    }
    repl_log(LOG_ERR, "%s", err.text);
    if (peer_is_root(connection))
        connection_refuse(connection, &err);
    close(connection);
}

static void worker_collect(struct worker *w)
{
    event_drain(w->guard->ended_fd);
    for (unsigned i = 0; i < REPL_GUARD_SLOTS; i++) {
        if (w->keepers[i] == NULL || !guard_keeper_has_ended(w->keepers[i]))
            continue;
        guard_keeper_free(w->keepers[i]);
        w->keepers[i] = NULL;
        w->keeper_count--;
    }
}

static void worker_loop(struct worker *w, const sigset_t *waiting)
{
    while (!w->stopping || w->keeper_count > 0) {
        struct pollfd fds[] = {{.fd = w->guard->ended_fd, .events = POLLIN},
                               {.fd = w->stopping ? -1 : w->guard->listen_fd, .events = POLLIN}};
        int ready = ppoll(fds, 2, NULL, waiting);
        if (terminated && !w->stopping) {
            w->stopping = true;
            shutdown(w->guard->listen_fd, SHUT_RDWR); /* an agent must not find this one any more */
            event_add(w->guard->stop_fd);
        }
        if (ready > 0 && fds[0].revents != 0)
            worker_collect(w);
        if (ready > 0 && fds[1].revents != 0 && !w->stopping)
            worker_accept(w);
    }
}

/* Before the first connection, so that a hold of the same volume waits. */
static void worker_leftovers_start(struct worker *w)
{
    struct repl_error err;
    for (unsigned i = 0; i < REPL_GUARD_SLOTS; i++) {
        struct repl_guard_slot *slot = &w->guard->record.table->slots[i];
        if (atomic_load(&slot->hold) == 0)
            continue;
        if (repl_ok(guard_keeper_new(w->guard, -1, i, &w->keepers[i], &err))) {
            w->keeper_count++;
            continue;
        }
        repl_log(LOG_ERR, "%s", err.text);
        slot_post(slot);
        slot_clear(slot);
    }
}

static int worker_main(struct guard *guard, pid_t supervisor, const sigset_t *waiting)
{
    struct worker w = {.guard = guard, .supervisor = supervisor};
    struct repl_error err;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != supervisor)
        return REPL_EXIT_INTERNAL;
    if (!repl_ok(memory_lock(&err))) {
        repl_log(LOG_ERR, "%s", err.text);
        return REPL_EXIT_REFUSED;
    }
    worker_leftovers_start(&w);
    event_add(guard->watch_fd); /* ready */
    worker_loop(&w, waiting);
    if (getppid() != supervisor)
        repl_log(LOG_ERR, "the guard's supervisor has died: all is thawed, and the worker ends");
    return REPL_EXIT_OK;
}

/* --- start ----------------------------------------------------------------------------------- */

static repl_result address_of(const char *path, struct sockaddr_un *out, struct repl_error *err)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof out->sun_path)
        return repl_fail(err, REPL_E_USAGE,
                         "the path of the guard's socket %s is longer than %zu bytes: choose a "
                         "shorter one (option guard)",
                         path, sizeof out->sun_path - 1);
    strcpy(out->sun_path, path);
    return REPL_SUCCESS;
}

/* The record's lock is ours, so what is in the socket's place is an earlier guard's. */
static repl_result listen_open(struct guard *guard, struct repl_error *err)
{
    struct sockaddr_un address;
    struct stat status;
    const char *path = guard->socket_path;
    REPL_TRY(address_of(path, &address, err));
    if (lstat(path, &status) == 0 && !S_ISSOCK(status.st_mode))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is in the place of the guard's socket and is no socket: move it away",
                         path);
    if (unlink(path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove the stale socket %s", path);
    guard->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (guard->listen_fd < 0 || fchmod(guard->listen_fd, 0600) != 0 ||
        bind(guard->listen_fd, (const struct sockaddr *)(const void *)&address, sizeof address) !=
            0 ||
        listen(guard->listen_fd, REPL_GUARD_SLOTS) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot listen on %s", path);
    return REPL_SUCCESS;
}

static repl_result events_open(struct guard *guard, struct repl_error *err)
{
    guard->watch_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    guard->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    guard->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (guard->watch_fd < 0 || guard->stop_fd < 0 || guard->ended_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "eventfd");
    return REPL_SUCCESS;
}

static repl_result guard_open(struct guard *guard, const char *directory, struct repl_error *err)
{
    char path[PATH_MAX];
    if (mkdir(directory, 0755) != 0 && errno != EEXIST)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make the run directory %s",
                               directory);
    snprintf(path, sizeof path, "%s.record", guard->socket_path);
    REPL_TRY(repl_guard_record_open(path, &guard->record, err));
    leftovers_thaw(guard->record.table);
    REPL_TRY(events_open(guard, err));
    return listen_open(guard, err);
}

static void guard_close(struct guard *guard)
{
    const int fds[] = {guard->listen_fd, guard->watch_fd, guard->stop_fd, guard->ended_fd};
    if (guard->listen_fd >= 0)
        unlink(guard->socket_path);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    repl_guard_record_close(&guard->record);
}

/* A process with the same table of descriptors: what is open for a thaw in one is open in the
 * other, and outlives either. fork cannot do that. The C library's fork handlers are not run; there
 * is one thread here, and they have nothing to do. */
static pid_t fork_sharing_descriptors(void)
{
    struct clone_args arguments = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

static repl_result guard_start(struct guard *guard, struct repl_error *err)
{
    struct supervisor s = {.guard = guard};
    const pid_t self = getpid();
    signals_take(&s.waiting);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    s.worker = fork_sharing_descriptors();
    if (s.worker == 0)
        _exit(worker_main(guard, self, &s.waiting));
    if (s.worker < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make the guard's worker");
    guard_hurry();
    repl_result result = memory_lock(err);
    if (!repl_ok(result)) {
        kill(s.worker, SIGKILL);
        waitpid(s.worker, NULL, 0);
        return result;
    }
    return supervisor_run(&s, err);
}

repl_result repl_guard_run(const struct repl_guard_options *options, struct repl_error *err)
{
    struct guard guard = {.listen_fd = -1,
                          .watch_fd = -1,
                          .stop_fd = -1,
                          .ended_fd = -1,
                          .record = {.fd = -1, .lock_fd = -1},
                          .socket_path = options->socket_path};
    char program[PATH_MAX] = "", directory[PATH_MAX];
    ssize_t got = readlink("/proc/self/exe", program, sizeof program - 1);
    if (got <= 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "/proc/self/exe");
    snprintf(directory, sizeof directory, "%s", options->socket_path);
    dirname(directory);
    guard.protects[guard.protect_count++] =
        (struct repl_freeze_protected){"/", "the root of the system"};
    guard.protects[guard.protect_count++] =
        (struct repl_freeze_protected){program, "the guard's program"};
    guard.protects[guard.protect_count++] =
        (struct repl_freeze_protected){directory, "the guard's run directory"};
    for (size_t i = 0; i < options->protect_count; i++) {
        if (guard.protect_count == REPL_GUARD_PROTECTS_MAX)
            return repl_fail(err, REPL_E_INTERNAL, "too many protected paths");
        guard.protects[guard.protect_count++] = options->protects[i];
    }
    repl_result result = guard_open(&guard, directory, err);
    if (repl_ok(result))
        result = guard_start(&guard, err);
    guard_close(&guard);
    return result;
}
