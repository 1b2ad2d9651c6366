/*
 * An event loop of either backend: for the tests of the loop.
 */
#ifndef TESTS_UNIT_LOOP_FIXTURE_H
#define TESTS_UNIT_LOOP_FIXTURE_H

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "loop/loop.h"

#define MS         1000000ll
#define TURN_LIMIT 5000 /* ms; far more than anything here takes */

struct fixture {
    enum repl_loop_backend backend;
    struct repl_loop *loop; /* NULL: the kernel has no io_uring for us */
    FILE *file;
    int fd;
};

static inline int set_up(void **state)
{
    enum repl_loop_backend backend = *(enum repl_loop_backend *)*state;
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct repl_loop_options options = {.backend = backend, .workers = 3, .worker_nice = 5};
    struct repl_error err;
    fixture->backend = backend;
    fixture->file = tmpfile();
    fixture->fd = fileno(fixture->file);
    if (!repl_ok(repl_loop_new(&options, &fixture->loop, &err)) && backend == REPL_LOOP_EPOLL) {
        print_error("%s\n", err.text);
        return -1;
    }
    *state = fixture;
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *fixture = *state;
    repl_loop_free(fixture->loop);
    fclose(fixture->file);
    free(fixture);
    return 0;
}

static inline struct fixture *fixture_of(void **state)
{
    struct fixture *fixture = *state;
    if (fixture->loop == NULL)
        skip();
    return fixture;
}

static inline void once(struct repl_loop *loop, int timeout_ms)
{
    struct repl_error err = {0};
    if (!repl_ok(repl_loop_once(loop, timeout_ms, &err)))
        fail_msg("%s", err.text);
}

static inline void turn_until(struct repl_loop *loop, const int *counter, int wanted)
{
    int64_t end_ns = repl_now_mono_ns() + TURN_LIMIT * MS;
    while (*counter < wanted) {
        once(loop, 100);
        if (repl_now_mono_ns() > end_ns)
            fail_msg("%d of %d callbacks came", *counter, wanted);
    }
}

struct io_probe {
    struct repl_io io;
    int64_t result;
    int *calls;
    bool starting; /* within the function that starts it */
};

static inline void io_done(struct repl_io *io, int64_t result)
{
    struct io_probe *probe = io->context;
    assert_false(probe->starting);
    probe->result = result;
    (*probe->calls)++;
}

static inline void io_init(struct io_probe *probe, int *calls)
{
    /* Not zeroed: an operation needs no more than its public fields. */
    memset(probe, 0xa5, sizeof *probe);
    probe->starting = true;
    probe->calls = calls;
    probe->io.done = io_done;
    probe->io.context = probe;
}

struct poll_probe {
    struct repl_poll poll;
    struct repl_loop *loop;
    int fd;
    int calls;
    unsigned seen;
    bool take; /* reads one byte a call */
    int stop_at;
    struct repl_poll *victim; /* stopped from the callback */
    int change_at;
    unsigned change_to;
};

static inline void poll_ready(struct repl_poll *poll, unsigned events)
{
    struct poll_probe *probe = poll->context;
    char byte;
    probe->seen |= events;
    probe->calls++;
    if (probe->take)
        assert_int_equal(read(probe->fd, &byte, 1), 1);
    if (probe->calls == probe->stop_at)
        repl_poll_stop(poll);
    if (probe->calls == probe->change_at)
        repl_poll_start(probe->loop, poll, probe->fd, probe->change_to);
    if (probe->victim != NULL)
        repl_poll_stop(probe->victim);
}

static inline void poll_init(struct poll_probe *probe, struct repl_loop *loop, int fd)
{
    memset(probe, 0, sizeof *probe);
    probe->poll.ready = poll_ready;
    probe->poll.context = probe;
    probe->loop = loop;
    probe->fd = fd;
}

static inline void make_pipe(int ends[2])
{
    assert_int_equal(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
}

static inline void close_pipe(int ends[2])
{
    close(ends[0]);
    close(ends[1]);
}

static inline void quiet(struct repl_loop *loop)
{
    for (int i = 0; i < 5; i++)
        once(loop, 1);
}

static inline const char *auto_backend_name(void)
{
    struct repl_error err;
    struct repl_loop *loop = NULL;
    struct repl_loop_options options = {.backend = REPL_LOOP_AUTO};
    if (!repl_ok(repl_loop_new(&options, &loop, &err)))
        return err.text[0] == '\0' ? "failed" : "failed with a text";
    const char *name = repl_loop_backend_name(loop);
    repl_loop_free(loop);
    return name;
}

#define ON(test, name, backend)                                                                    \
    {                                                                                              \
#test "/" name, test, set_up, tear_down, &(enum repl_loop_backend)                         \
        {                                                                                          \
            backend                                                                                \
        }                                                                                          \
    }
#define ON_URING(test) ON(test, "uring", REPL_LOOP_IO_URING)
#define ON_EPOLL(test) ON(test, "epoll", REPL_LOOP_EPOLL)
#define BOTH(test)     ON_URING(test), ON_EPOLL(test)

#endif
