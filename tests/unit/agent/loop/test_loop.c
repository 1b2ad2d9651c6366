/*
 * The event loop, every test against both backends: file I/O, timers, jobs, signals. Where the
 * kernel refuses io_uring those runs are skipped.
 */
#include "unit/agent/loop/loop_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MANY 5000 /* more than the submission ring and the limit in flight */

/* --- file I/O -------------------------------------------------------------------------------- */

static int64_t do_io(struct repl_loop *loop, char kind, int fd, void *buffer, size_t size,
                     uint64_t offset)
{
    struct io_probe probe;
    int calls = 0;
    io_init(&probe, &calls);
    if (kind == 'r')
        repl_loop_read(loop, &probe.io, fd, buffer, size, offset);
    else if (kind == 'w')
        repl_loop_write(loop, &probe.io, fd, buffer, size, offset);
    else
        repl_loop_sync(loop, &probe.io, fd);
    assert_int_equal(calls, 0);
    probe.starting = false;
    turn_until(loop, &calls, 1);
    once(loop, 0);
    assert_int_equal(calls, 1);
    return probe.result;
}

static void test_write_sync_read(void **state)
{
    struct fixture *fixture = fixture_of(state);
    char text[] = "acknowledged", got[16] = {0};
    assert_int_equal(do_io(fixture->loop, 'w', fixture->fd, text, 12, 4096), 12);
    assert_int_equal(do_io(fixture->loop, 's', fixture->fd, NULL, 0, 0), 0);
    assert_int_equal(do_io(fixture->loop, 'r', fixture->fd, got, 12, 4096), 12);
    assert_string_equal(got, "acknowledged");
    assert_int_equal(do_io(fixture->loop, 'r', fixture->fd, got, 4, 0), 4);
    assert_memory_equal(got, "\0\0\0\0", 4);
    assert_int_equal(do_io(fixture->loop, 'w', fixture->fd, text, 0, 0), 0);
}

static void test_short_at_end(void **state)
{
    struct fixture *fixture = fixture_of(state);
    char buffer[4096] = {0};
    assert_int_equal(do_io(fixture->loop, 'w', fixture->fd, buffer, 100, 0), 100);
    assert_int_equal(do_io(fixture->loop, 'r', fixture->fd, buffer, sizeof buffer, 40), 60);
    assert_int_equal(do_io(fixture->loop, 'r', fixture->fd, buffer, sizeof buffer, 100), 0);
    assert_int_equal(do_io(fixture->loop, 'r', fixture->fd, buffer, sizeof buffer, 5000), 0);
}

static void test_errors_are_results(void **state)
{
    struct fixture *fixture = fixture_of(state);
    char buffer[16] = {0};
    int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int null_in = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(do_io(fixture->loop, 'r', -1, buffer, 16, 0), -EBADF);
    assert_int_equal(do_io(fixture->loop, 's', -1, NULL, 0, 0), -EBADF);
    assert_int_equal(do_io(fixture->loop, 'w', null_in, buffer, 16, 0), -EBADF);
    assert_int_equal(do_io(fixture->loop, 'r', directory, buffer, 16, 0), -EISDIR);
    assert_int_equal(do_io(fixture->loop, 's', null_in, NULL, 0, 0), -EINVAL);
    assert_int_equal(do_io(fixture->loop, 'r', fixture->fd, buffer, 16, UINT64_MAX), -EINVAL);
    assert_int_equal(do_io(fixture->loop, 'w', fixture->fd, buffer, 16, 1ull << 63), -EINVAL);
    close(directory);
    close(null_in);
}

static void test_many_at_once(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct io_probe *probes = malloc(MANY * sizeof *probes);
    uint64_t *values = malloc(MANY * sizeof *values);
    for (int pass = 0; pass < 2; pass++) {
        int calls = 0;
        for (int i = 0; i < MANY; i++) {
            io_init(&probes[i], &calls);
            values[i] = pass == 0 ? (uint64_t)i * 2654435761u : 0;
            if (pass == 0)
                repl_loop_write(fixture->loop, &probes[i].io, fixture->fd, &values[i], 8,
                                (uint64_t)i * 8);
            else
                repl_loop_read(fixture->loop, &probes[i].io, fixture->fd, &values[i], 8,
                               (uint64_t)i * 8);
            probes[i].starting = false;
        }
        assert_int_equal(calls, 0);
        turn_until(fixture->loop, &calls, MANY);
        for (int i = 0; i < MANY; i++) {
            assert_int_equal(probes[i].result, 8);
            assert_int_equal(values[i], (uint64_t)i * 2654435761u);
        }
    }
    free(values);
    free(probes);
}

struct chain {
    struct repl_loop *loop;
    int fd;
    int step;
    char buffer[8];
};

/* write, write over it, sync, read: one struct, used again from its own callback */
static void chain_done(struct repl_io *io, int64_t result)
{
    struct chain *chain = io->context;
    switch (++chain->step) {
    case 1:
        assert_int_equal(result, 5);
        repl_loop_write(chain->loop, io, chain->fd, "newer", 5, 0);
        break;
    case 2:
        assert_int_equal(result, 5);
        repl_loop_sync(chain->loop, io, chain->fd);
        break;
    case 3:
        assert_int_equal(result, 0);
        repl_loop_read(chain->loop, io, chain->fd, chain->buffer, sizeof chain->buffer, 0);
        break;
    case 4:
        assert_int_equal(result, 5);
        assert_memory_equal(chain->buffer, "newer", 5);
        repl_loop_stop(chain->loop);
        break;
    default:
        fail();
    }
}

static void test_reuse_from_callback(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct chain chain = {.loop = fixture->loop, .fd = fixture->fd};
    struct repl_io io = {.done = chain_done, .context = &chain};
    struct repl_error err;
    repl_loop_write(fixture->loop, &io, fixture->fd, "older", 5, 0);
    assert_true(repl_ok(repl_loop_run(fixture->loop, &err)));
    assert_int_equal(chain.step, 4);
}

/* --- timers ---------------------------------------------------------------------------------- */

#define TIMERS 600

struct timer_probe {
    struct repl_timer timer;
    struct repl_loop *loop;
    struct repl_timer *victim; /* cancelled from the callback */
    int rearm;                 /* times */
    int64_t rearm_ns;
    int calls;
    int *order; /* NULL or where the callback's place is taken from */
    int place;
};

static void timer_fired(struct repl_timer *timer)
{
    struct timer_probe *probe = timer->context;
    assert_true(repl_now_mono_ns() >= timer->due_ns);
    probe->calls++;
    if (probe->order != NULL)
        probe->place = (*probe->order)++;
    if (probe->victim != NULL)
        repl_timer_cancel(probe->victim);
    if (probe->rearm-- > 0)
        repl_timer_arm(probe->loop, timer, probe->rearm_ns);
}

static void timer_init(struct timer_probe *probe, struct repl_loop *loop)
{
    memset(probe, 0, sizeof *probe);
    probe->timer.fire = timer_fired;
    probe->timer.context = probe;
    probe->loop = loop;
}

static void test_timers_in_order(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct timer_probe *probes = calloc(TIMERS, sizeof *probes);
    unsigned random = 12345;
    int order = 0, armed = 0;
    int64_t base_ns = repl_now_mono_ns() + 20 * MS;
    for (int i = 0; i < TIMERS; i++) {
        timer_init(&probes[i], fixture->loop);
        probes[i].order = &order;
        random = random * 1103515245u + 12345u;
        /* Few enough values that many are equal; some are moved once more. */
        repl_timer_arm(fixture->loop, &probes[i].timer, base_ns + (random >> 16) % 50 * MS / 10);
        if (i % 7 == 0)
            repl_timer_arm(fixture->loop, &probes[i].timer,
                           base_ns + (random >> 20) % 50 * MS / 10);
    }
    for (int i = 0; i < TIMERS; i += 3)
        repl_timer_cancel(&probes[i].timer);
    for (int i = 0; i < TIMERS; i++)
        armed += i % 3 != 0;
    turn_until(fixture->loop, &order, armed);

    const struct repl_timer *by_place[TIMERS] = {0};
    for (int i = 0; i < TIMERS; i++) {
        assert_int_equal(probes[i].calls, i % 3 != 0);
        if (probes[i].calls != 0)
            by_place[probes[i].place] = &probes[i].timer;
    }
    for (int i = 1; i < armed; i++) {
        assert_true(by_place[i - 1]->due_ns <= by_place[i]->due_ns);
        /* Equal times fire in the order of arming; the array was armed from its start. */
        if (by_place[i - 1]->due_ns == by_place[i]->due_ns)
            assert_true(by_place[i - 1] < by_place[i]);
    }
    free(probes);
}

static void test_timer_cancel(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct timer_probe first, second, third;
    int64_t due_ns = repl_now_mono_ns() + 2 * MS;
    timer_init(&first, fixture->loop);
    timer_init(&second, fixture->loop);
    timer_init(&third, fixture->loop);
    repl_timer_cancel(&first.timer); /* never armed: nothing */
    first.victim = &second.timer;
    repl_timer_arm(fixture->loop, &first.timer, due_ns);
    repl_timer_arm(fixture->loop, &second.timer, due_ns); /* due in the same turn */
    repl_timer_arm(fixture->loop, &third.timer, due_ns + 1 * MS);
    turn_until(fixture->loop, &third.calls, 1);
    assert_int_equal(first.calls, 1);
    assert_int_equal(second.calls, 0);
    repl_timer_cancel(&third.timer); /* fired: nothing */

    repl_timer_arm(fixture->loop, &third.timer, INT64_MAX);
    repl_timer_arm(fixture->loop, &third.timer, 0); /* moved to the front */
    once(fixture->loop, TURN_LIMIT);
    assert_int_equal(third.calls, 2);
}

static void test_timer_rearmed_for_the_past(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct timer_probe eager, other;
    struct io_probe io;
    int calls = 0;
    char buffer[1] = {0};
    timer_init(&eager, fixture->loop);
    timer_init(&other, fixture->loop);
    eager.rearm = 1000000;
    repl_timer_arm(fixture->loop, &eager.timer, INT64_MIN);
    once(fixture->loop, 0);
    assert_int_equal(eager.calls, 1); /* once a turn */

    /* It keeps neither I/O nor another timer from their turn. */
    repl_timer_arm(fixture->loop, &other.timer, repl_now_mono_ns());
    io_init(&io, &calls);
    repl_loop_write(fixture->loop, &io.io, fixture->fd, buffer, 1, 0);
    io.starting = false;
    turn_until(fixture->loop, &calls, 1);
    turn_until(fixture->loop, &other.calls, 1);
    repl_timer_cancel(&eager.timer);
}

/* --- the worker pool ------------------------------------------------------------------------- */

struct job_probe {
    struct repl_job job;
    struct repl_loop *loop;
    int *done;
    int again;
    int worked;
    int nice;
    pthread_t thread;
    sigset_t mask;
};

static void job_work(struct repl_job *job)
{
    struct job_probe *probe = job->context;
    probe->worked++;
    probe->thread = pthread_self();
    probe->nice = getpriority(PRIO_PROCESS, 0);
    pthread_sigmask(SIG_BLOCK, NULL, &probe->mask);
}

static void job_done(struct repl_job *job)
{
    struct job_probe *probe = job->context;
    assert_false(pthread_equal(probe->thread, pthread_self()));
    if (probe->again-- > 0)
        repl_loop_work(probe->loop, job);
    else
        (*probe->done)++;
}

static void test_jobs(void **state)
{
    enum { JOBS = 2000 };
    struct fixture *fixture = fixture_of(state);
    struct job_probe *probes = calloc(JOBS, sizeof *probes);
    int done = 0;
    assert_int_equal(repl_loop_worker_count(fixture->loop), 3);
    for (int i = 0; i < JOBS; i++) {
        probes[i].job =
            (struct repl_job){.work = job_work, .done = job_done, .context = &probes[i]};
        probes[i].loop = fixture->loop;
        probes[i].done = &done;
        probes[i].again = i % 2;
        repl_loop_work(fixture->loop, &probes[i].job);
    }
    assert_int_equal(done, 0);
    turn_until(fixture->loop, &done, JOBS);
    for (int i = 0; i < JOBS; i++) {
        assert_int_equal(probes[i].worked, 1 + i % 2);
        assert_true(probes[i].nice >= 5);
        assert_int_equal(sigismember(&probes[i].mask, SIGTERM), 1);
    }
    free(probes);
}

static void job_sleep(struct repl_job *job)
{
    (void)job;
    usleep(100000);
}

static void job_slept(struct repl_job *job)
{
    ++*(int *)job->context;
}

/* Jobs of 100 ms on three workers: a thread counts while it has one, none for more than a thread.
 */
static void test_busy_time(void **state)
{
    enum { JOBS = 7 };
    struct fixture *fixture = fixture_of(state);
    struct repl_job jobs[JOBS];
    int done = 0;
    int64_t idle_ns = repl_loop_worker_busy_ns(fixture->loop);
    usleep(10000);
    assert_true(repl_loop_worker_busy_ns(fixture->loop) == idle_ns);
    int64_t begin_ns = repl_now_mono_ns();
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = (struct repl_job){.work = job_sleep, .done = job_slept, .context = &done};
        repl_loop_work(fixture->loop, &jobs[i]);
    }
    usleep(50000); /* also while none has ended */
    int64_t half_ns = repl_loop_worker_busy_ns(fixture->loop) - idle_ns;
    assert_true(half_ns >= 3 * 50 * MS && half_ns <= 3 * (repl_now_mono_ns() - begin_ns));
    turn_until(fixture->loop, &done, JOBS);
    usleep(10000); /* the last one's thread says so when it asks for the next */
    int64_t busy_ns = repl_loop_worker_busy_ns(fixture->loop) - idle_ns;
    assert_true(busy_ns >= JOBS * 100 * MS && busy_ns <= 3 * (repl_now_mono_ns() - begin_ns));
}

/* --- run, once, stop ------------------------------------------------------------------------- */

static void stop_fired(struct repl_timer *timer)
{
    repl_loop_stop(timer->context);
}

static void *stop_thread(void *loop)
{
    usleep(5000);
    repl_loop_stop(loop);
    return NULL;
}

static void test_run_and_stop(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct repl_error err;
    struct repl_timer timer = {.fire = stop_fired, .context = fixture->loop};
    for (int i = 0; i < 2; i++) { /* it can be run again */
        repl_timer_arm(fixture->loop, &timer, repl_now_mono_ns() + MS);
        assert_true(repl_ok(repl_loop_run(fixture->loop, &err)));
    }
    repl_loop_stop(fixture->loop);
    assert_true(repl_ok(repl_loop_run(fixture->loop, &err)));

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_thread, fixture->loop), 0);
    assert_true(repl_ok(repl_loop_run(fixture->loop, &err)));
    pthread_join(thread, NULL);
}

static void test_once_timeout(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe probe;
    struct timer_probe timer;
    int ends[2];
    make_pipe(ends);
    poll_init(&probe, fixture->loop, ends[0]);
    repl_poll_start(fixture->loop, &probe.poll, ends[0], POLLIN);
    quiet(fixture->loop);

    /* The end of the kernel's request for a stopped poll does not cut it short. */
    repl_poll_stop(&probe.poll);
    int64_t begin_ns = repl_now_mono_ns();
    once(fixture->loop, 30);
    int64_t took_ns = repl_now_mono_ns() - begin_ns;
    assert_true(took_ns >= 30 * MS);

    begin_ns = repl_now_mono_ns();
    once(fixture->loop, 0);
    assert_true(repl_now_mono_ns() - begin_ns < 1000 * MS);

    timer_init(&timer, fixture->loop);
    repl_timer_arm(fixture->loop, &timer.timer, repl_now_mono_ns() + 3 * MS);
    begin_ns = repl_now_mono_ns();
    once(fixture->loop, TURN_LIMIT);
    assert_int_equal(timer.calls, 1);
    repl_timer_arm(fixture->loop, &timer.timer, repl_now_mono_ns() + 3 * MS);
    once(fixture->loop, -1);
    assert_int_equal(timer.calls, 2);
    assert_true(repl_now_mono_ns() - begin_ns < TURN_LIMIT * MS);
    close_pipe(ends);
}

/* --- signals --------------------------------------------------------------------------------- */

static int signals_seen[3];
static int signal_calls;

static void signal_came(void *context, int signal_number)
{
    assert_ptr_equal(context, signals_seen);
    signals_seen[signal_calls++] = signal_number;
}

static void test_signals(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct repl_error err;
    sigset_t mask;
    signal_calls = 0;
    assert_true(repl_ok(repl_loop_signals(fixture->loop, signal_came, signals_seen, &err)));
    assert_int_equal(repl_loop_signals(fixture->loop, signal_came, signals_seen, &err).code,
                     REPL_E_INTERNAL);
    kill(getpid(), SIGHUP);
    turn_until(fixture->loop, &signal_calls, 1);
    assert_int_equal(signals_seen[0], SIGHUP);
    kill(getpid(), SIGTERM);
    kill(getpid(), SIGINT);
    turn_until(fixture->loop, &signal_calls, 3);
    assert_int_equal(signals_seen[1] + signals_seen[2], SIGTERM + SIGINT);

    repl_loop_free(fixture->loop);
    fixture->loop = NULL;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    assert_int_equal(sigismember(&mask, SIGTERM), 0);
}

/* --- making and freeing ---------------------------------------------------------------------- */

static void test_free_with_polls_and_timers(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct poll_probe ready, idle, unsubmitted, stopped, twin;
    struct timer_probe timer;
    int ends[2];
    make_pipe(ends);
    poll_init(&ready, fixture->loop, ends[1]);
    poll_init(&idle, fixture->loop, ends[0]);
    poll_init(&stopped, fixture->loop, ends[0]);
    poll_init(&unsubmitted, fixture->loop, ends[0]);
    poll_init(&twin, fixture->loop, fixture->fd);
    timer_init(&timer, fixture->loop);
    repl_poll_start(fixture->loop, &ready.poll, ends[1], POLLOUT);
    repl_poll_start(fixture->loop, &idle.poll, ends[0], POLLIN);
    repl_poll_start(fixture->loop, &stopped.poll, ends[0], POLLIN);
    turn_until(fixture->loop, &ready.calls, 2);
    repl_poll_start(fixture->loop, &unsubmitted.poll, ends[0], POLLIN);
    repl_poll_start(fixture->loop, &twin.poll, fixture->fd, POLLIN);
    repl_poll_stop(&stopped.poll);
    repl_timer_arm(fixture->loop, &timer.timer, repl_now_mono_ns());
    repl_loop_free(fixture->loop);
    fixture->loop = NULL;

    repl_poll_stop(&ready.poll); /* nothing, the loop is gone */
    repl_timer_cancel(&timer.timer);
    assert_int_equal(timer.calls, 0);
    close_pipe(ends);
}

static void test_options(void **state)
{
    struct fixture *fixture = fixture_of(state);
    struct repl_error err;
    struct repl_loop *loop = NULL;
    struct repl_loop_options options = {.backend = fixture->backend};
    const char *name = fixture->backend == REPL_LOOP_EPOLL ? "epoll" : "io_uring";
    assert_string_equal(repl_loop_backend_name(fixture->loop), name);

    assert_true(repl_ok(repl_loop_new(&options, &loop, &err)));
    assert_in_range(repl_loop_worker_count(loop), 2, 16);
    repl_loop_free(loop);
    repl_loop_free(NULL);

    options.worker_nice = 20;
    assert_int_equal(repl_loop_new(&options, &loop, &err).code, REPL_E_USAGE);
    options.worker_nice = 0;
    options.workers = 100000;
    assert_int_equal(repl_loop_new(&options, &loop, &err).code, REPL_E_USAGE);
}

static void test_clocks(void **state)
{
    (void)state;
    int64_t mono_ns = repl_now_mono_ns();
    assert_true(mono_ns > 0 && repl_now_mono_ns() >= mono_ns);
    assert_true(repl_now_wall_ns() > 1600000000ll * 1000 * MS);
}

static void test_backend_by_environment(void **state)
{
    const char *before = getenv("REPL_NO_IO_URING");
    char *saved = before == NULL ? NULL : strdup(before);
    setenv("REPL_NO_IO_URING", "1", 1);
    assert_string_equal(auto_backend_name(), "epoll");
    setenv("REPL_NO_IO_URING", "0", 1);
    const char *allowed = auto_backend_name();
    unsetenv("REPL_NO_IO_URING");
    assert_string_equal(auto_backend_name(), allowed);
    if (saved != NULL)
        setenv("REPL_NO_IO_URING", saved, 1);
    free(saved);
    fixture_of(state);
    assert_string_equal(allowed, "io_uring");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clocks),
        ON_URING(test_backend_by_environment),
        BOTH(test_options),
        BOTH(test_write_sync_read),
        BOTH(test_short_at_end),
        BOTH(test_errors_are_results),
        BOTH(test_many_at_once),
        BOTH(test_reuse_from_callback),
        BOTH(test_timers_in_order),
        BOTH(test_timer_cancel),
        BOTH(test_timer_rearmed_for_the_past),
        BOTH(test_jobs),
        BOTH(test_busy_time),
        BOTH(test_run_and_stop),
        BOTH(test_once_timeout),
        BOTH(test_signals),
        BOTH(test_free_with_polls_and_timers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
