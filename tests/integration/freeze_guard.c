/*
 * The freeze guard on loop devices with ext4 and xfs under a writer: what is
 * held is still, and whatever dies in the middle, the writer goes on.
 *
 * Here is what a hold is, and what the deaths of those that take part in it
 * leave behind; commands and refusals have files of their own.
 *
 * Usage: REPL=program freeze_guard [rounds]; exit 77: this machine cannot.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "integration/freeze_guard.h"

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

static void test_group(const struct filesystem *ext4, const struct filesystem *xfs)
{
    struct client c;
    struct repl_hold_options options = freeze_options(ext4, 10000);
    note("a group: all at once, or nothing");
    options.volume = "pair";
    options.group = true;
    options.others = &xfs->number;
    options.other_count = 1;
    client_open(&c, shared->run);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_HELD);
    check(is_frozen(ext4->where) && is_frozen(xfs->where));
    repl_hold_end(c.hold);
    EXPECT(&c, REPL_HOLD_RELEASED);
    check(c.last.intact);
    check(!is_frozen(ext4->where) && !is_frozen(xfs->where));

    int fd = open(xfs->where, O_RDONLY | O_CLOEXEC);
    check(fd >= 0 && ioctl(fd, FIFREEZE, 0) == 0);
    repl_hold_begin(c.hold, &options);
    EXPECT(&c, REPL_HOLD_FAILED);
    check(c.last.error.code == REPL_E_LOCKED);
    check(!is_frozen(ext4->where) && is_frozen(xfs->where));
    check(ioctl(fd, FITHAW, 0) == 0);
    close(fd);
    client_close(&c);
}

static void test_shared(struct filesystem *fs)
{
    struct client a, b;
    struct repl_hold_options options = freeze_options(fs, 10000);
    note("two volumes on one filesystem: one after the other");
    options.volume = "another";
    client_open(&a, shared->run);
    client_open(&b, shared->run);
    for (int i = 0; i < rounds; i++) {
        hold_begin(&a, fs, 10000);
        EXPECT(&a, REPL_HOLD_HELD);
        repl_hold_begin(b.hold, &options);
        check(!client_await(&b, 60));
        repl_hold_end(a.hold);
        EXPECT(&a, REPL_HOLD_RELEASED);
        EXPECT(&b, REPL_HOLD_HELD);
        check(a.last.intact && is_frozen(fs->where));
        repl_hold_end(b.hold);
        EXPECT(&b, REPL_HOLD_RELEASED);
        check(b.last.intact && !is_frozen(fs->where));
    }
    client_close(&a);
    client_close(&b);
}

static void test_partitions(void)
{
    struct client c;
    char file[192], device[64], where[2][192], partition[96];
    note("a disk with two mounted partitions: all or nothing");
    snprintf(file, sizeof file, "%s/disk.img", shared->directory);
    loop_make(device, file, "64M");
    if (sh("addpart %s 1 2048 49152 && addpart %s 2 51200 49152", device, device) != 0)
        fail("addpart");
    for (int i = 0; i < 2; i++) {
        snprintf(where[i], sizeof where[i], "%s/part%d", shared->directory, i);
        snprintf(partition, sizeof partition, "%sp%d", device, i + 1);
        if (access(partition, F_OK) != 0) {
            note("  left out: no partitions on loop devices here");
            return;
        }
        if (sh("mkfs.ext4 -q %s", partition) != 0)
            fail("mkfs.ext4 %s", partition);
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

    note("the disk and one of its partitions as a group: what they share is frozen once");
    const dev_t second = device_number(partition);
    struct repl_hold_options group = options;
    group.group = true;
    group.others = &second;
    group.other_count = 1;
    repl_hold_begin(c.hold, &group);
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
    test_group(&ext4, &xfs);
    test_shared(&ext4);
    test_partitions();
    test_strangers(&ext4);
    test_refusals(&ext4);
    test_chroot(&ext4);
    guard_stop();
    note("all passed; at worst a writer waited %.1f ms beyond the budget", (double)worst_ns / 1e6);
    leave(0);
}
