/*
 * The event loop where the kernel refuses what it asks for. Each case is a process of its own,
 * forked while there is only one thread.
 */
#include "unit/agent/loop/loop_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* From here on the call fails in this process with this error. */
static void forbid(unsigned call, int error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = 4, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(77);
}

static void in_child(int (*run)(int argument), int argument)
{
    int status;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(run(argument));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static int child_without_uring(int error)
{
    forbid(SYS_io_uring_setup, error);
    unsetenv("REPL_NO_IO_URING");
    if (strcmp(auto_backend_name(), "epoll") != 0)
        return 1;
    struct repl_error err = {0};
    struct repl_loop *loop = NULL;
    struct repl_loop_options options = {.backend = REPL_LOOP_IO_URING};
    repl_result result = repl_loop_new(&options, &loop, &err);
    return result.code == REPL_E_IO && err.os_errno == error &&
                   strstr(err.text, "kernel.io_uring_disabled") != NULL
               ? 0
               : 2;
}

static void test_backend_without_uring(void **state)
{
    (void)state;
    in_child(child_without_uring, EPERM);
    in_child(child_without_uring, ENOSYS);
}

static struct repl_loop *child_uring_loop(void)
{
    struct repl_error err;
    struct repl_loop *loop = NULL;
    struct repl_loop_options options = {.backend = REPL_LOOP_IO_URING, .workers = 1};
    if (!repl_ok(repl_loop_new(&options, &loop, &err)))
        _exit(77);
    return loop;
}

/* A kernel that takes no more for now is not an error, whatever is waiting to be submitted. */
static int child_kernel_busy(int error)
{
    static struct io_probe probes[2000];
    struct repl_loop *loop = child_uring_loop();
    struct repl_error err;
    int calls = 0;
    forbid(SYS_io_uring_enter, error);
    for (size_t i = 0; i < 2000; i++) {
        io_init(&probes[i], &calls);
        repl_loop_sync(loop, &probes[i].io, -1);
    }
    return repl_ok(repl_loop_once(loop, 5, &err)) && calls == 0 ? 0 : 1;
}

static int child_kernel_fails(int error)
{
    struct repl_loop *loop = child_uring_loop();
    struct repl_error err = {0};
    forbid(SYS_io_uring_enter, error);
    repl_result result = repl_loop_run(loop, &err);
    return result.code == REPL_E_IO && err.os_errno == error ? 0 : 1;
}

static void test_kernel_busy_and_failing(void **state)
{
    (void)state;
    in_child(child_kernel_busy, EBUSY);
    in_child(child_kernel_busy, EAGAIN);
    in_child(child_kernel_fails, EOPNOTSUPP);
}

/* Whatever cannot be had, making a loop says so and leaves nothing behind. */
static int child_out_of_descriptors(int backend)
{
    if (backend == REPL_LOOP_IO_URING)
        repl_loop_free(child_uring_loop()); /* or exit, for the test to be skipped */
    struct rlimit none;
    getrlimit(RLIMIT_NOFILE, &none);
    int last = dup(0), lowest = dup(0);
    (void)last;
    for (int room = 0; room < 3; room++) {
        struct repl_error err = {0};
        struct repl_loop *loop = NULL;
        struct repl_loop_options options = {.backend = (enum repl_loop_backend)backend};
        none.rlim_cur = (rlim_t)lowest + 1 + (rlim_t)room;
        setrlimit(RLIMIT_NOFILE, &none);
        repl_result result = repl_loop_new(&options, &loop, &err);
        if (repl_ok(result) != (room == 2) || (room < 2 && err.os_errno != EMFILE))
            return 1 + room;
        repl_loop_free(loop);
    }
    return 0;
}

static int child_out_of_threads(int backend)
{
    if (backend == REPL_LOOP_IO_URING)
        repl_loop_free(child_uring_loop());
    struct repl_error err = {0};
    struct repl_loop *loop = NULL;
    struct repl_loop_options options = {.backend = (enum repl_loop_backend)backend};
    forbid(SYS_clone3, EAGAIN);
    forbid(SYS_clone, EAGAIN);
    repl_result result = repl_loop_new(&options, &loop, &err);
    return result.code == REPL_E_IO && err.os_errno == EAGAIN &&
                   strstr(err.text, "TasksMax") != NULL
               ? 0
               : 1;
}

static void test_nothing_left(void **state)
{
    (void)state;
    in_child(child_out_of_descriptors, REPL_LOOP_EPOLL);
    in_child(child_out_of_threads, REPL_LOOP_EPOLL);
    in_child(child_out_of_threads, REPL_LOOP_IO_URING);
    in_child(child_out_of_descriptors, REPL_LOOP_IO_URING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backend_without_uring),
        cmocka_unit_test(test_kernel_busy_and_failing),
        cmocka_unit_test(test_nothing_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
