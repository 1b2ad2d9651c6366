#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "source/capture/syncer.h"
#include "unit/temporary.h"

#define LIMIT_NS (INT64_C(60) * 1000000000)

struct fixture {
    struct temporary temporary;
    struct repl_loop *loop;
    struct repl_syncer *syncer;
    unsigned in_time;
    int saved_stderr, log_fd;
    char log[4096];
};

static void synced(void *context, bool in_time)
{
    struct fixture *f = context;
    f->in_time += in_time;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct repl_loop_options options = {.workers = 1};
    char path[300];
    *state = f;
    if (temporary_make(&f->temporary) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/log", f->temporary.path);
    f->log_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    f->saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (f->log_fd < 0 || f->saved_stderr < 0)
        return -1;
    struct repl_error err;
    return repl_ok(repl_loop_new(&options, &f->loop, &err)) &&
                   repl_ok(repl_syncer_new(f->loop, synced, f, &f->syncer, &err))
               ? 0
               : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_syncer_free(f->syncer);
    repl_loop_free(f->loop);
    close(f->saved_stderr);
    close(f->log_fd);
    temporary_remove(&f->temporary);
    free(f);
    return 0;
}

/* Syncs what has this descriptor, and waits for it. */
static void sync_once(struct fixture *f, int fd)
{
    struct repl_device device = {.path = "the disk", .fd = fd};
    unsigned before = f->in_time;
    struct repl_error err;
    dup2(f->log_fd, STDERR_FILENO);
    repl_syncer_start(f->syncer, &device, LIMIT_NS);
    while (f->in_time == before)
        assert_true(repl_ok(repl_loop_once(f->loop, 5000, &err)));
    dup2(f->saved_stderr, STDERR_FILENO);
    ssize_t got = pread(f->log_fd, f->log, sizeof f->log - 1, 0);
    assert_true(got >= 0);
    f->log[got] = '\0';
}

static unsigned lines_with(const struct fixture *f, const char *phrase)
{
    unsigned count = 0;
    for (const char *at = f->log; (at = strstr(at, phrase)) != NULL; at++)
        count++;
    return count;
}

static void a_sync_that_fails_is_said_once(void **state)
{
    struct fixture *f = *state;
    int pipe_ends[2]; /* nothing that can be synced */
    assert_int_equal(pipe2(pipe_ends, O_CLOEXEC), 0);
    sync_once(f, f->log_fd);
    assert_string_equal(f->log, "");
    for (unsigned i = 0; i < 3; i++)
        sync_once(f, pipe_ends[0]);
    assert_int_equal(lines_with(f, "the disk: fsync: "), 1);
    assert_int_equal(lines_with(f, "may be missing"), 1);
    for (unsigned i = 0; i < 2; i++)
        sync_once(f, f->log_fd);
    assert_int_equal(lines_with(f, "it can be synced again"), 1);
    sync_once(f, pipe_ends[0]);
    assert_int_equal(lines_with(f, "may be missing"), 2);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_sync_that_fails_is_said_once, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("syncer", tests, NULL, NULL);
}
