#include "source/freeze/guard_command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop/loop.h"

#define NS_PER_MS INT64_C(1000000)

extern char **environ;

/* environ with REPL_VOLUME; the caller frees the array and its last string. */
static char **environment_new(const char *volume, char **variable)
{
    size_t count = 0, kept = 0;
    while (environ != NULL && environ[count] != NULL)
        count++;
    char **out = calloc(count + 2, sizeof *out);
    if (out == NULL || asprintf(variable, "REPL_VOLUME=%s", volume) < 0) {
        free(out);
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        /* neither ours, nor what the service manager told the guard */
        if (strncmp(environ[i], "REPL_VOLUME=", 12) != 0 &&
            strncmp(environ[i], "NOTIFY_SOCKET=", 14) != 0)
            out[kept++] = environ[i];
    }
    out[kept] = *variable;
    return out;
}

/* What the kernel may not end for want of memory is the guard, not what it starts. */
static const char start_text[] =
    "{ echo 0 >/proc/self/oom_score_adj; } 2>/dev/null; exec /bin/sh -c \"$1\" sh";

static int spawn_prepared(const char *text, char **environment, posix_spawnattr_t *attributes,
                          posix_spawn_file_actions_t *actions, pid_t *pid)
{
    char *const arguments[] = {(char *)"sh", (char *)"-c", (char *)start_text,
                               (char *)"sh", (char *)text, NULL};
    sigset_t none, defaults;
    sigemptyset(&none);
    sigfillset(&defaults);
    int failed = posix_spawnattr_setflags(
        attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (failed == 0)
        failed = posix_spawnattr_setpgroup(attributes, 0);
    if (failed == 0)
        failed = posix_spawnattr_setsigmask(attributes, &none);
    if (failed == 0)
        failed = posix_spawnattr_setsigdefault(attributes, &defaults);
    if (failed == 0)
        failed = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (failed == 0)
        failed = posix_spawn_file_actions_adddup2(actions, STDERR_FILENO, STDOUT_FILENO);
    if (failed == 0)
        failed = posix_spawn(pid, "/bin/sh", actions, attributes, arguments, environment);
    return failed;
}

/* 0 or an errno. */
static int spawn_shell(const struct repl_guard_command *command, pid_t *pid)
{
    char *variable = NULL;
    char **environment = environment_new(command->volume, &variable);
    if (environment == NULL)
        return ENOMEM;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_init(&actions);
    int failed = spawn_prepared(command->text, environment, &attributes, &actions, pid);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    free(environment);
    free(variable);
    return failed;
}

enum wait_end { WAIT_ENDED, WAIT_TIME_OVER, WAIT_CANCELLED };

static enum wait_end wait_for_end(int pid_fd, int64_t deadline_ns, const int *cancel_fds)
{
    for (;;) {
        struct pollfd fds[1 + REPL_GUARD_CANCEL_FDS] = {{.fd = pid_fd, .events = POLLIN}};
        for (size_t i = 0; i < REPL_GUARD_CANCEL_FDS; i++)
            fds[1 + i] = (struct pollfd){.fd = cancel_fds[i], .events = POLLIN};
        int64_t left_ns = deadline_ns - repl_now_mono_ns();
        int64_t left_ms = left_ns <= 0 ? 0 : (left_ns + NS_PER_MS - 1) / NS_PER_MS;
        int ready = poll(fds, sizeof fds / sizeof fds[0], (int)left_ms);
        if (ready > 0 && fds[0].revents != 0)
            return WAIT_ENDED;
        if (ready > 0)
            return WAIT_CANCELLED;
        if (left_ns <= 0)
            return WAIT_TIME_OVER;
    }
}

static int reap(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return status;
}

static repl_result judge(const struct repl_guard_command *command, enum wait_end end, int status,
                         struct repl_error *err)
{
    if (end == WAIT_TIME_OVER)
        return repl_fail(err, REPL_E_RETRY,
                         "%s of volume %s had not ended after %lld ms and was killed: raise "
                         "command_timeout, or make it quicker",
                         command->what, command->volume, (long long)command->timeout_ms);
    if (end == WAIT_CANCELLED)
        return repl_fail(err, REPL_E_RETRY, "%s of volume %s was killed: nobody waits for it",
                         command->what, command->volume);
    if (WIFSIGNALED(status))
        return repl_fail(err, REPL_E_RETRY, "%s of volume %s was ended by signal %d", command->what,
                         command->volume, WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return repl_fail(err, REPL_E_RETRY,
                         "%s of volume %s ended with status %d: the guard's log has what it said",
                         command->what, command->volume, WEXITSTATUS(status));
    return REPL_SUCCESS;
}

repl_result repl_guard_command_run(const struct repl_guard_command *command,
                                   const int cancel_fds[REPL_GUARD_CANCEL_FDS],
                                   struct repl_error *err)
{
    const int64_t deadline_ns = repl_now_mono_ns() + command->timeout_ms * NS_PER_MS;
    pid_t pid;
    int failed = spawn_shell(command, &pid);
    if (failed != 0)
        return repl_fail_errno(err, REPL_E_RETRY, failed, "%s of volume %s: /bin/sh", command->what,
                               command->volume);
    atomic_store(command->pid, (int32_t)pid);
    int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    enum wait_end end = WAIT_TIME_OVER;
    if (pid_fd >= 0) {
        end = wait_for_end(pid_fd, deadline_ns, cancel_fds);
        close(pid_fd);
    }
    if (end != WAIT_ENDED)
        kill(-pid, SIGKILL);
    int status = reap(pid);
    atomic_store(command->pid, 0);
    return judge(command, end, status, err);
}
