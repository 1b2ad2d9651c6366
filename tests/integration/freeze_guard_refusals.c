/* What the freeze guard refuses: what must not stand still, strangers, and one too many. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "integration/freeze_guard.h"
#include "source/freeze/guard_mounts.h"
#include "source/freeze/guard_record.h"

void test_many(struct filesystem *fs)
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

static void expect_refused(dev_t device, const char *run, const char *text, const char *file,
                           int line)
{
    struct client c;
    struct repl_hold_options options = {.device = device,
                                        .volume = "v",
                                        .freeze = true,
                                        .budget_ms = 50,
                                        .command_timeout_ms = 1000};
    client_open(&c, run);
    repl_hold_begin(c.hold, &options);
    expect(&c, REPL_HOLD_FAILED, file, line);
    if (strstr(c.last.error.text, text) == NULL)
        fail_at(file, line, "\"%s\" is not in: %s", text, c.last.error.text);
    client_close(&c);
}
#define EXPECT_REFUSED(device, run, text) expect_refused(device, run, text, __FILE__, __LINE__)

static void guard_with(const char *state, const char *run, const char *binary)
{
    guard_stop();
    config_write(state, run);
    guard_start(binary, run);
}

void test_refusals(struct filesystem *fs)
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
    repl_result result = repl_freeze_set_open(&root.st_dev, 1, &protect, 1, &set, &err);
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

/* In a chroot on a directory of the filesystem jail_on: whether fs may be frozen there, if "/" must
 * not be. What "/" is on is not listed among the mounts. */
static bool may_freeze_in_chroot(const char *jail_on, const struct filesystem *fs)
{
    static const struct repl_freeze_protected protect = {"/", "the root of the system"};
    const char *const seen[] = {"/proc", "/sys", fs->where}, *const as[] = {"proc", "sys", "fs"};
    char jail[200], option[256], where[256];
    struct repl_freeze_set set;
    struct repl_error err;
    int status;
    snprintf(jail, sizeof jail, "%s/jail", jail_on);
    for (unsigned i = 0; i < 3; i++) {
        snprintf(option, sizeof option, "--bind %s", seen[i]);
        snprintf(where, sizeof where, "%s/%s", jail, as[i]);
        mount_make(option, where);
    }
    pid_t pid = fork();
    if (pid == 0) {
        child_begin();
        check(chroot(jail) == 0 && chdir("/") == 0);
        repl_result result = repl_freeze_set_open(&fs->number, 1, &protect, 1, &set, &err);
        if (repl_ok(result))
            repl_freeze_set_close(&set);
        else
            check(strstr(err.text, "it holds the root of the system") != NULL);
        _exit(repl_ok(result) ? 0 : 2);
    }
    check(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) != 1);
    return WEXITSTATUS(status) == 0;
}

void test_chroot(struct filesystem *fs)
{
    note("a chroot");
    check(may_freeze_in_chroot(shared->directory, fs));
    check(!may_freeze_in_chroot(fs->where, fs));
}

void test_strangers(struct filesystem *fs)
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
