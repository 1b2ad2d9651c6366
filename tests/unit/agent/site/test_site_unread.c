/*
 * A volume that there is no memory to read when the site begins: it is not taken for damaged, the
 * others go on, and it is served as soon as there is memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "site/site_volume.h"
#include "unit/agent/site/site_fixture.h"

static atomic_bool starved;

/* The log of volume data. */
static bool is_meant(int directory, const char *name)
{
    static const char end[] = "/volumes/data";
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t size = strcmp(name, "log") == 0 ? readlink(link, path, sizeof path) : -1;
    return size >= (ssize_t)strlen(end) && memcmp(path + size - strlen(end), end, strlen(end)) == 0;
}

int instead_of_openat64(int directory, const char *name, int flags,
                        mode_t mode) __asm__("openat64");
int instead_of_openat64(int directory, const char *name, int flags, mode_t mode)
{
    if (!atomic_load(&starved) || !is_meant(directory, name))
        return (int)syscall(SYS_openat, directory, name, flags, mode);
    errno = ENOMEM;
    return -1;
}

static void tick(struct world *w)
{
    w->site->tick.fire(&w->site->tick);
    PUMP_UNTIL(w, w->site->jobs == 0);
}

static void expect_unread(struct world *w)
{
    struct repl_volume_status status = volume_status(w, "data");
    struct repl_hello message = hello_of(w);
    size_t volumes, damaged;
    assert_int_equal(status.state, REPL_STATE_FAILED);
    assert_non_null(strstr(status.cause, "want of memory"));
    assert_null(strstr(status.cause, "damaged"));
    assert_non_null(strstr(status.remedy, "more memory"));
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "want of memory");
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 503);
    repl_site_count(w->site, &volumes, &damaged);
    assert_int_equal(damaged, 0);
}

static void test_read_later(void **state)
{
    struct world *w = *state;
    seed(w);
    increment(w);
    expect_replica(w);
    site_stop(w);
    atomic_store(&starved, true);
    site_start(w);
    expect_unread(w);
    tick(w); /* in vain */
    expect_unread(w);
    atomic_store(&starved, false);
    /* Meanwhile the index has been made anew. */
    w->site->tick.fire(&w->site->tick);
    w->site->index_generation++;
    PUMP_UNTIL(w, w->site->jobs == 0);
    assert_int_equal(w->site->volume_count, 1);
    PUMP_UNTIL(w, !site_find_volume(w->site, "data")->index_behind);
    assert_int_equal(volume_status(w, "data").point.seq, 2);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 200);
    hello(w);
    increment(w);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 3);
}

/* The end comes while it is read. */
static void test_stopped_meanwhile(void **state)
{
    struct world *w = *state;
    seed(w);
    site_stop(w);
    atomic_store(&starved, true);
    site_start(w);
    atomic_store(&starved, false);
    w->site->tick.fire(&w->site->tick);
    site_restart(w);
    increment(w);
    expect_replica(w);
}

/* It is found damaged then. */
static void test_what_it_turns_out_to_be(void **state)
{
    struct world *w = *state;
    char path[256];
    seed(w);
    site_stop(w);
    atomic_store(&starved, true);
    site_start(w);
    file_path(w, path, "log");
    assert_int_equal(truncate(path, 60), 0);
    atomic_store(&starved, false);
    tick(w);
    assert_non_null(strstr(volume_status(w, "data").cause, "history damaged"));
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 500);
}

static int set_up(void **state)
{
    static struct world w;
    atomic_store(&starved, false);
    world_init(&w, "image");
    site_start(&w);
    *state = &w;
    return 0;
}

static int tear_down(void **state)
{
    world_fini(*state);
    return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_read_later),
        TEST(test_stopped_meanwhile),
        TEST(test_what_it_turns_out_to_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
