/*
 * A limit that threads share: how long it takes is computed, by a clock that
 * passes only while somebody waits.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/config.h"
#include "link/throttle.h"

#define MIB       (UINT64_C(1) << 20)
#define SECOND_NS INT64_C(1000000000)

struct fixture {
    _Atomic int64_t now_ns;
    struct repl_throttle *throttle;
    struct repl_error err;
};

static int64_t now_ns(void *context)
{
    return atomic_load(&((struct fixture *)context)->now_ns);
}

/* Time is the same for all: whoever waits longest moves it. */
static void wait_until(void *context, int64_t until_ns)
{
    struct fixture *f = context;
    int64_t was_ns = atomic_load(&f->now_ns);
    while (was_ns < until_ns && !atomic_compare_exchange_weak(&f->now_ns, &was_ns, until_ns)) {
    }
}

static void limit(struct fixture *f, const char *text)
{
    struct repl_pace_plan plan;
    const struct repl_throttle_clock clock = {
        .now_ns = now_ns, .wait_until = wait_until, .context = f};
    repl_throttle_free(f->throttle);
    atomic_store(&f->now_ns, 5 * SECOND_NS);
    if (!repl_ok(repl_parse_bandwidth(text, &plan, &f->err)) ||
        !repl_ok(repl_throttle_new(&plan, &clock, &f->throttle, &f->err)))
        fail_msg("%s", f->err.text);
}

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct fixture));
    return *state == NULL;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_throttle_free(f->throttle);
    free(f);
    return 0;
}

static void wait_for(struct fixture *f, uint64_t bytes)
{
    if (!repl_ok(repl_throttle_wait(f->throttle, bytes, &f->err)))
        fail_msg("%s", f->err.text);
}

/* So long, but for what a quarter of a second makes and the last wait. */
static void assert_seconds(struct fixture *f, double seconds)
{
    double passed = (double)(atomic_load(&f->now_ns) - 5 * SECOND_NS) / (double)SECOND_NS;
    if (passed < seconds - 0.26 || passed > seconds + 0.02)
        fail_msg("%.3f s, not %.3f", passed, seconds);
}

static void test_rate(void **state)
{
    struct fixture *f = *state;
    limit(f, "1M");
    wait_for(f, 10 * MIB);
    assert_seconds(f, 10);
    limit(f, "64M");
    for (unsigned i = 0; i < 640; i++)
        wait_for(f, MIB);
    assert_seconds(f, 10);
    limit(f, "16K");
    wait_for(f, MIB);
    assert_seconds(f, 64);
}

static void test_no_limit(void **state)
{
    struct fixture *f = *state;
    limit(f, "0");
    wait_for(f, UINT64_C(1) << 40);
    assert_seconds(f, 0);
}

static void *fetch(void *context)
{
    struct fixture *f = context;
    for (unsigned i = 0; i < 100; i++)
        repl_ignore(repl_throttle_wait(f->throttle, 100000, NULL));
    return NULL;
}

static void test_threads_share(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[8];
    limit(f, "10M");
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fetch, f), 0);
    for (unsigned i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    /* What fills up while nobody looks is a quarter of a second's at most, so it may take longer.
     */
    double passed = (double)(atomic_load(&f->now_ns) - 5 * SECOND_NS) / (double)SECOND_NS;
    assert_true(passed > 80e6 / (10.0 * (double)MIB) - 0.26);
}

static void test_stop(void **state)
{
    struct fixture *f = *state;
    limit(f, "1M");
    repl_throttle_stop(f->throttle);
    repl_throttle_stop(NULL);
    assert_int_equal(repl_throttle_wait(f->throttle, 1, &f->err).code, REPL_E_RETRY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rate, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_limit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads_share, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stop, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
