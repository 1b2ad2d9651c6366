/*
 * Readiness of descriptors, against both backends of the event loop.
 */
#include "unit/agent/loop/loop_fixture.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void test_poll_level_triggered(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe probe;
    int ends[2];
    make_pipe(ends);
    poll_init(&probe, fixture->loop, ends[0]);
    probe.take = true;
    repl_poll_start(fixture->loop, &probe.poll, ends[0], POLLIN);
    quiet(fixture->loop);
    assert_int_equal(probe.calls, 0);

    assert_int_equal(write(ends[1], "abc", 3), 3);
    turn_until(fixture->loop, &probe.calls, 3);
    quiet(fixture->loop);
    assert_int_equal(probe.calls, 3);
    assert_int_equal(probe.seen, POLLIN);

    assert_int_equal(write(ends[1], "d", 1), 1);
    turn_until(fixture->loop, &probe.calls, 4);
    probe.take = false;
    close(ends[1]);
    turn_until(fixture->loop, &probe.calls, 6);
    assert_true((probe.seen & POLLHUP) != 0);
    repl_poll_stop(&probe.poll);
    repl_poll_stop(&probe.poll); /* stopped: nothing */
    quiet(fixture->loop);
    assert_int_equal(probe.calls, 6);
    close(ends[0]);
}

static void test_poll_change(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe probe;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    poll_init(&probe, fixture->loop, pair[0]);

    /* From the outside, while the kernel watches for something else. */
    repl_poll_start(fixture->loop, &probe.poll, pair[0], POLLIN);
    quiet(fixture->loop);
    repl_poll_start(fixture->loop, &probe.poll, pair[0], POLLIN | POLLOUT);
    turn_until(fixture->loop, &probe.calls, 2);
    assert_int_equal(probe.seen, POLLOUT);
    repl_poll_start(fixture->loop, &probe.poll, pair[0], POLLIN);
    int calls = probe.calls;
    quiet(fixture->loop);
    assert_int_equal(probe.calls, calls);

    /* From the callback. */
    probe.change_at = calls + 1;
    probe.change_to = POLLOUT;
    probe.seen = 0;
    assert_int_equal(write(pair[1], "x", 1), 1);
    turn_until(fixture->loop, &probe.calls, calls + 3);
    assert_int_equal(probe.seen, POLLIN | POLLOUT);

    /* To another descriptor. */
    int ends[2];
    make_pipe(ends);
    repl_poll_start(fixture->loop, &probe.poll, ends[0], POLLIN);
    calls = probe.calls;
    quiet(fixture->loop);
    assert_int_equal(probe.calls, calls);
    assert_int_equal(write(ends[1], "x", 1), 1);
    turn_until(fixture->loop, &probe.calls, calls + 1);
    repl_poll_stop(&probe.poll);
    close_pipe(ends);
    close_pipe(pair);
}

static void test_poll_change_drops_stale_events(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe probe;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    poll_init(&probe, fixture->loop, pair[0]);
    repl_poll_start(fixture->loop, &probe.poll, pair[0], POLLOUT);
    turn_until(fixture->loop, &probe.calls, 1); /* the next request is ready at once */
    repl_poll_start(fixture->loop, &probe.poll, pair[0], POLLIN);
    int calls = probe.calls;
    quiet(fixture->loop);
    assert_int_equal(probe.calls, calls);
    repl_poll_stop(&probe.poll);
    close_pipe(pair);
}

static void test_poll_stop_from_callback(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe probe;
    int ends[2];
    make_pipe(ends);
    assert_int_equal(write(ends[1], "abc", 3), 3);
    poll_init(&probe, fixture->loop, ends[0]);
    probe.stop_at = 2;
    repl_poll_start(fixture->loop, &probe.poll, ends[0], POLLIN);
    turn_until(fixture->loop, &probe.calls, 2);
    quiet(fixture->loop);
    assert_int_equal(probe.calls, 2);

    /* Stopped and started again within one callback. */
    probe.stop_at = 3;
    probe.change_at = 3;
    probe.change_to = POLLIN;
    repl_poll_start(fixture->loop, &probe.poll, ends[0], POLLIN);
    turn_until(fixture->loop, &probe.calls, 5);
    repl_poll_stop(&probe.poll);
    close_pipe(ends);
}

/* Whichever of two ready polls comes first stops and frees the other. */
static struct poll_probe *rivals[2];

static void rival_ready(struct repl_poll *poll, unsigned events)
{
    (void)events;
    struct poll_probe *self = poll->context;
    int other = rivals[0] == self;
    self->calls++;
    if (rivals[other] == NULL)
        return;
    repl_poll_stop(&rivals[other]->poll);
    free(rivals[other]);
    rivals[other] = NULL;
}

static void test_poll_stop_with_completion_queued(void **state)
{
    struct fixture *fixture = fixture_of(state);
    int ends[2][2];
    for (int i = 0; i < 2; i++) {
        make_pipe(ends[i]);
        rivals[i] = malloc(sizeof *rivals[i]);
        poll_init(rivals[i], fixture->loop, ends[i][0]);
        rivals[i]->poll.ready = rival_ready;
        repl_poll_start(fixture->loop, &rivals[i]->poll, ends[i][0], POLLIN);
    }
    quiet(fixture->loop);
    for (int i = 0; i < 2; i++)
        assert_int_equal(write(ends[i][1], "x", 1), 1);
    once(fixture->loop, TURN_LIMIT);
    struct poll_probe *left = rivals[0] != NULL ? rivals[0] : rivals[1];
    assert_true(rivals[0] == NULL || rivals[1] == NULL);
    assert_int_equal(left->calls, 1);
    turn_until(fixture->loop, &left->calls, 4);

    repl_poll_stop(&left->poll);
    free(left);
    quiet(fixture->loop);
    for (int i = 0; i < 2; i++)
        close_pipe(ends[i]);
}

static void test_poll_stop_outside_and_free(void **state)
{
    struct fixture *fixture = fixture_of(state);
    int ends[2];
    make_pipe(ends);
    assert_int_equal(write(ends[1], "x", 1), 1);
    for (int turns = 0; turns < 3; turns++) {
        struct poll_probe *probe = malloc(sizeof *probe);
        poll_init(probe, fixture->loop, ends[0]);
        repl_poll_start(fixture->loop, &probe->poll, ends[0], POLLIN);
        for (int i = 0; i < turns; i++)
            once(fixture->loop, TURN_LIMIT);
        repl_poll_stop(&probe->poll);
        free(probe);
        quiet(fixture->loop);
    }
    close_pipe(ends);
}

/* More polls than the submission ring has entries, all ready, all stopped. */
static void test_poll_many(void **state)
{
    enum { POLLS = 1500 };
    struct fixture *fixture = fixture_of(state);
    struct poll_probe *probes = calloc(POLLS, sizeof *probes);
    int ends[2];
    make_pipe(ends);
    for (int i = 0; i < POLLS; i++) {
        poll_init(&probes[i], fixture->loop, ends[i % 2]);
        repl_poll_start(fixture->loop, &probes[i].poll, ends[i % 2], i % 2 == 0 ? POLLIN : POLLOUT);
        if (fixture->backend == REPL_LOOP_EPOLL && i >= 200)
            break; /* each costs a descriptor there */
    }
    assert_int_equal(write(ends[1], "x", 1), 1);
    turn_until(fixture->loop, &probes[200].calls, 2);
    turn_until(fixture->loop, &probes[199].calls, 2);
    for (int i = 0; i < POLLS; i++)
        repl_poll_stop(&probes[i].poll);
    int calls = probes[0].calls;
    quiet(fixture->loop);
    assert_int_equal(probes[0].calls, calls);
    free(probes);
    close_pipe(ends);
}

static void test_poll_twice_on_one_descriptor(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe in, out;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    poll_init(&in, fixture->loop, pair[0]);
    poll_init(&out, fixture->loop, pair[0]);
    repl_poll_start(fixture->loop, &in.poll, pair[0], POLLIN);
    repl_poll_start(fixture->loop, &out.poll, pair[0], POLLOUT);
    turn_until(fixture->loop, &out.calls, 2);
    assert_int_equal(in.calls, 0);
    repl_poll_stop(&in.poll);
    int calls = out.calls;
    turn_until(fixture->loop, &out.calls, calls + 2);
    repl_poll_stop(&out.poll);
    close_pipe(pair);
}

static void test_poll_of_what_cannot_be_watched(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe bad, file, victim;
    poll_init(&bad, fixture->loop, -1);
    bad.stop_at = 1;
    repl_poll_start(fixture->loop, &bad.poll, -1, POLLIN);
    assert_int_equal(bad.calls, 0);
    turn_until(fixture->loop, &bad.calls, 1);
    assert_int_equal(bad.seen, POLLERR | POLLNVAL);

    /* A regular file is always ready, as for poll(2). */
    poll_init(&victim, fixture->loop, fixture->fd);
    poll_init(&file, fixture->loop, fixture->fd);
    repl_poll_start(fixture->loop, &victim.poll, fixture->fd, POLLOUT);
    repl_poll_start(fixture->loop, &file.poll, fixture->fd, POLLIN);
    turn_until(fixture->loop, &file.calls, 2);
    turn_until(fixture->loop, &victim.calls, 2);
    assert_int_equal(file.seen, POLLIN);
    assert_int_equal(victim.seen, POLLOUT);
    repl_poll_start(fixture->loop, &file.poll, fixture->fd, POLLOUT);
    file.seen = 0;
    int calls = file.calls;
    turn_until(fixture->loop, &file.calls, calls + 2);
    assert_int_equal(file.seen, POLLOUT);
    file.victim = &victim.poll;
    once(fixture->loop, TURN_LIMIT);
    calls = victim.calls;
    repl_poll_stop(&file.poll);
    quiet(fixture->loop);
    assert_int_equal(victim.calls, calls);
    assert_int_equal(bad.calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_poll_level_triggered),
        BOTH(test_poll_change),
        BOTH(test_poll_change_drops_stale_events),
        BOTH(test_poll_stop_from_callback),
        BOTH(test_poll_stop_with_completion_queued),
        BOTH(test_poll_stop_outside_and_free),
        BOTH(test_poll_many),
        BOTH(test_poll_twice_on_one_descriptor),
        BOTH(test_poll_of_what_cannot_be_watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
