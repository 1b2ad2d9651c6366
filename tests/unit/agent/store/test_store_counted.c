/*
 * The store that counts, over a directory: it is a store as any other, and what it
 * says is what lies there.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "store/store_counted.h"
#include "store/store_posix_internal.h"
#include "unit/agent/store/store_contract.h"

struct fixture {
    struct contract c;
    char path[PATH_SIZE];
};

static repl_result open_again(struct contract *c, bool writable, struct repl_store **out)
{
    struct fixture *f = (struct fixture *)c;
    struct repl_store *inner;
    repl_result result = repl_posix_store_open(f->path, writable, writable, &inner, &c->err);
    return repl_ok(result) ? repl_store_counted(inner, out, &c->err) : result;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->c.open = open_again;
    if (temporary_make(&f->c.temporary) != 0)
        return -1;
    snprintf(f->path, sizeof f->path, "%s/store", f->c.temporary.path);
    assert_code(&f->c, open_again(&f->c, true, &f->c.store), REPL_OK);
    assert_code(&f->c, f->c.store->ops->volume_create(f->c.store, "data", &f->c.err), REPL_OK);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    close_store(&f->c);
    temporary_remove(&f->c.temporary);
    free(f);
    return 0;
}

static uint64_t used(struct fixture *f)
{
    struct repl_store_usage *usage;
    assert_code(&f->c, repl_store_usage_of(f->c.store, "data", &usage, &f->c.err), REPL_OK);
    assert_int_equal(repl_store_usage_total(f->c.store), repl_store_usage_bytes(usage));
    return repl_store_usage_bytes(usage);
}

static repl_result nothing(void *context, const struct repl_segment_id *id, uint64_t size,
                           struct repl_error *err)
{
    (void)context, (void)id, (void)size, (void)err;
    return REPL_SUCCESS;
}

/* As a site begins. */
static uint64_t used_after_restart(struct fixture *f)
{
    struct repl_buffer log = {0};
    reopen(&f->c);
    assert_int_equal(used(f), 0);
    assert_code(&f->c, f->c.store->ops->log_read(f->c.store, "data", &log, NULL, &f->c.err),
                REPL_OK);
    repl_buffer_fini(&log);
    for (int i = 0; i < 2; i++) /* the second list adds nothing */
        assert_code(&f->c, f->c.store->ops->segments(f->c.store, "data", nothing, NULL, &f->c.err),
                    REPL_OK);
    return used(f);
}

static void what_comes_and_goes_is_counted(void **state)
{
    struct fixture *f = *state;
    struct contract *c = &f->c;
    const struct repl_store_ops *ops = c->store->ops;
    const struct repl_segment_id first = {.to_seq = 1}, second = {.to_seq = 2},
                                 supply = {.to_seq = 2, .supply = 1},
                                 piece = {.to_seq = 2, .merge = 7};
    uint64_t end = 0;
    char name[128];
    assert_int_equal(used(f), 0);
    assert_code(c, publish(c, &first, "0123456789"), REPL_OK);
    assert_code(c, publish(c, &supply, "012"), REPL_OK);
    assert_code(c, publish(c, &second, "01234"), REPL_OK);
    assert_int_equal(used(f), 18);
    assert_code(c, publish(c, &second, "0"), REPL_OK); /* replaced: it was never committed */
    assert_code(c, publish(c, &piece, "0123"), REPL_OK);
    assert_int_equal(used(f), 18);
    assert_code(c, append(c, 0, "one."), REPL_OK);
    assert_code(c, append(c, 4, "two."), REPL_OK);
    assert_int_equal(used(f), 26);
    assert_code(c, append(c, 4, ""), REPL_OK); /* cut off */
    assert_int_equal(used(f), 22);
    end = 4;
    assert_code(c, ops->log_replace(c->store, "data", "1.2.3.", 6, &end, &c->err), REPL_OK);
    assert_int_equal(used(f), 24);
    assert_int_equal(used_after_restart(f), 24);
    ops = c->store->ops;
    char path[PATH_SIZE];
    int fd = stage(c, "9876543210", path); /* in the place of what was damaged */
    assert_code(c, ops->segment_replace(c->store, "data", &first, fd, path, &c->err), REPL_OK);
    close(fd);
    assert_segment(c, &first, "9876543210");
    assert_int_equal(used(f), 24);
    assert_code(c, ops->segment_remove(c->store, "data", &first, &c->err), REPL_OK);
    assert_code(c, ops->segment_remove(c->store, "data", &first, &c->err), REPL_OK);
    assert_int_equal(used(f), 14);
    assert_code(c, ops->segment_set_aside(c->store, "data", &second, name, sizeof name, &c->err),
                REPL_OK);
    assert_int_equal(used(f), 13);
    assert_code(c, ops->segment_remove(c->store, "data", &piece, &c->err), REPL_OK);
    assert_code(c, ops->segment_remove(c->store, "data", &supply, &c->err), REPL_OK);
    assert_int_equal(used(f), 6);
    assert_int_equal(used_after_restart(f), 6);
}

static int fsync_that_fails(int fd)
{
    (void)fd;
    errno = ENOSPC;
    return -1;
}

/* It may have got its name or not: it counts until that is settled. */
static void a_segment_that_may_be_there_counts_once(void **state)
{
    struct fixture *f = *state;
    struct contract *c = &f->c;
    const struct repl_segment_id id = {.to_seq = 1}, piece = {.to_seq = 1, .merge = 3};
    struct posix_store_calls *calls = &posix_store_of(repl_store_counted_inner(c->store))->calls;
    char path[PATH_SIZE];
    int fd = stage(c, "01234", path);
    calls->fsync = fsync_that_fails;
    assert_code(c, c->store->ops->segment_publish(c->store, "data", &id, fd, path, &c->err),
                REPL_E_NOSPACE);
    close(fd);
    assert_int_equal(used(f), 5);
    assert_code(c, c->store->ops->segment_remove(c->store, "data", &id, &c->err), REPL_E_NOSPACE);
    assert_int_equal(used(f), 5);
    calls->fsync = fsync;
    assert_code(c, publish(c, &id, "0123456"), REPL_OK);
    assert_int_equal(used(f), 7);
    assert_code(c, c->store->ops->segment_remove(c->store, "data", &id, &c->err), REPL_OK);
    assert_int_equal(used(f), 0);
    fd = stage(c, "01234", path);
    calls->fsync = fsync_that_fails;
    assert_code(c, c->store->ops->segment_publish(c->store, "data", &piece, fd, path, &c->err),
                REPL_E_NOSPACE);
    close(fd);
    calls->fsync = fsync;
    assert_int_equal(used(f), 0); /* left over, if it is there: the next start finds it */
    assert_int_equal(used_after_restart(f), 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_CONTRACT_TESTS,
        TEST(what_comes_and_goes_is_counted),
        TEST(a_segment_that_may_be_there_counts_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
