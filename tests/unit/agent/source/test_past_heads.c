/*
 * What has left a source's state is found again: among many, behind a torn one,
 * and for as long as another file is filled.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "source/past_heads.h"
#include "source/state_dir.h"
#include "unit/temporary.h"

#define FULL_SIZE ((off_t)REPL_PAST_HEADS_MAX * 16)

static int dir_fd = -1;

static int set_up(void **state)
{
    static struct temporary directory;
    *state = &directory;
    if (temporary_make(&directory) != 0)
        return -1;
    dir_fd = open(directory.path, O_RDONLY | O_DIRECTORY);
    return dir_fd >= 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    close(dir_fd);
    temporary_remove(*state);
    return 0;
}

static struct repl_digest digest_of(unsigned i)
{
    struct repl_digest digest = {.bytes = {1, 2, 3}};
    memcpy(digest.bytes + 8, &i, sizeof i);
    return digest;
}

static void add(unsigned first, size_t count)
{
    struct repl_digest heads[8];
    struct repl_error err;
    for (unsigned i = 0; i < count; i++)
        heads[i] = digest_of(first + i);
    assert_true(repl_ok(repl_past_heads_add(dir_fd, heads, count, &err)));
}

static bool is_found(unsigned i)
{
    struct repl_digest digest = digest_of(i);
    struct repl_error err;
    bool found;
    assert_true(repl_ok(repl_past_heads_find(dir_fd, &digest, &found, &err)));
    return found;
}

static void resize(off_t size)
{
    int fd = openat(dir_fd, "heads", O_WRONLY);
    assert_true(fd >= 0 && ftruncate(fd, size) == 0);
    close(fd);
}

static void each_is_found(void **state)
{
    (void)state;
    assert_false(is_found(1));
    for (unsigned i = 0; i < 8000; i += 8) /* more than are read at once */
        add(i, 8);
    assert_true(is_found(0) && is_found(4095) && is_found(4096) && is_found(7999));
    assert_false(is_found(8000));
}

static void a_torn_one_is_written_over(void **state)
{
    (void)state;
    add(1, 2);
    resize(2 * 16 - 3);
    assert_true(is_found(1) && !is_found(2));
    add(3, 1);
    assert_true(is_found(1) && is_found(3));
}

static void a_full_file_stays_until_the_next_is(void **state)
{
    struct stat status;
    (void)state;
    add(1, 1);
    resize(FULL_SIZE);
    add(2, 1);
    assert_true(is_found(1) && is_found(2));
    assert_true(fstatat(dir_fd, "heads", &status, 0) == 0 && status.st_size == 16);
    resize(FULL_SIZE);
    add(3, 1);
    assert_true(!is_found(1) && is_found(2) && is_found(3));
}

static void what_cannot_be_read_is_said(void **state)
{
    struct repl_digest digest = digest_of(1);
    struct repl_error err;
    bool found;
    (void)state;
    assert_int_equal(mkdirat(dir_fd, "heads", 0700), 0);
    assert_int_equal(repl_past_heads_find(dir_fd, &digest, &found, &err).code, REPL_E_IO);
    assert_non_null(strstr(err.text, "heads"));
    assert_int_equal(repl_past_heads_add(dir_fd, &digest, 1, &err).code, REPL_E_IO);
    assert_int_equal(unlinkat(dir_fd, "heads", AT_REMOVEDIR), 0);
}

/* As a state is written without them, and by whoever opens it next. */
static void what_leaves_the_state_is_kept(void **state)
{
    const struct temporary *t = *state;
    struct repl_state_dir dir;
    struct repl_error err;
    assert_true(repl_ok(repl_state_dir_open(t->path, "data", 8192, "serial:1", &dir, &err)));
    struct repl_source_state next = dir.state;
    next.checkpoint.digest = digest_of(1);
    next.sent_count = 2;
    next.sent[0].digest = digest_of(2);
    next.sent[1].digest = digest_of(3);
    assert_true(repl_ok(repl_state_dir_write(&dir, &next, &err)));
    repl_state_dir_close(&dir);

    assert_true(repl_ok(repl_state_dir_open(t->path, "data", 8192, "serial:1", &dir, &err)));
    int top = dir_fd;
    dir_fd = dir.dir_fd;
    assert_false(is_found(1) || is_found(2) || is_found(3));
    next.checkpoint = next.sent[0];
    next.sent[0] = next.sent[1];
    next.sent_count = 1;
    assert_true(repl_ok(repl_state_dir_write(&dir, &next, &err)));
    assert_true(is_found(1));
    assert_false(is_found(2) || is_found(3));
    next.checkpoint = (struct repl_head){0};
    next.sent_count = 0;
    assert_true(repl_ok(repl_state_dir_write(&dir, &next, &err)));
    assert_true(is_found(1) && is_found(2) && is_found(3));
    dir_fd = top;
    repl_state_dir_close(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(each_is_found, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_torn_one_is_written_over, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_full_file_stays_until_the_next_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_is_said, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_leaves_the_state_is_kept, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
