/* What of an object may fail once and not again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "source/tree/tree_object.h"
#include "source/tree/tree_places.h"
#include "unit/temporary.h"

static unsigned failures, calls;

/* In place of the C library's: the first failures of it fail. */
int sync_file_range(int fd, off_t offset, off_t count, unsigned flags)
{
    calls++;
    if (calls > failures)
        return (int)syscall(SYS_sync_file_range, fd, offset, count, flags);
    errno = EIO;
    return -1;
}

static repl_result look(unsigned fail, size_t *ranges)
{
    struct temporary temporary;
    struct repl_buffer data = {0};
    struct repl_error err;
    char path[300];
    uint8_t page[REPL_PAGE_SIZE] = {1};
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(path, sizeof path, "%s/file", temporary.path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, page, sizeof page), sizeof page);
    failures = fail;
    calls = 0;
    repl_result result = repl_tree_data_find(fd, sizeof page, &data, &err);
    *ranges = data.size / sizeof(struct repl_tree_pages);
    repl_buffer_fini(&data);
    close(fd);
    temporary_remove(&temporary);
    return result;
}

/* A direct write that met a page of the cache leaves an error behind, which the next one who writes
 * out the file is told of, though all of it can be read. */
static void an_error_of_before_is_told_once(void **state)
{
    size_t ranges;
    (void)state;
    assert_true(repl_ok(look(1, &ranges)));
    assert_int_equal(ranges, 1);
    assert_int_equal(calls, 2);
}

static void an_error_that_stays_is_one(void **state)
{
    size_t ranges;
    (void)state;
    assert_int_equal(look(2, &ranges).code, REPL_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(an_error_of_before_is_told_once),
                                       cmocka_unit_test(an_error_that_stays_is_one)};
    return cmocka_run_group_tests_name("tree_object", tests, NULL, NULL);
}
