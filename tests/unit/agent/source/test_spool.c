/*
 * The spool: what has been appended becomes readable in order, a file that is
 * dropped while it is written goes without a trace, and a full disk is told.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "source/spool.h"
#include "unit/temporary.h"

struct fixture {
    struct temporary directory;
    struct repl_loop *loop;
    struct repl_spool spool;
    int dir_fd;
    unsigned told, failed;
    struct repl_error err;
};

static void progress(void *context, struct repl_spool_file *file, repl_result result,
                     const struct repl_error *err)
{
    struct fixture *f = context;
    (void)file;
    f->told++;
    if (!repl_ok(result)) {
        f->failed++;
        f->err = *err;
    }
}

static int set_up(void **state)
{
    static struct fixture f;
    struct repl_loop_options options = {.workers = 2};
    struct repl_error err;
    f = (struct fixture){0};
    if (temporary_make(&f.directory) != 0)
        return -1;
    f.dir_fd = open(f.directory.path, O_RDONLY | O_DIRECTORY);
    if (f.dir_fd < 0 || !repl_ok(repl_loop_new(&options, &f.loop, &err)))
        return -1;
    repl_spool_init(&f.spool, f.loop, f.dir_fd, REPL_SPOOL_SEGMENT, progress, &f);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_spool_fini(&f->spool);
    repl_loop_free(f->loop);
    close(f->dir_fd);
    temporary_remove(&f->directory);
    return 0;
}

static void drain(struct fixture *f)
{
    struct repl_error err;
    for (int turns = 0; !repl_spool_is_idle(&f->spool); turns++) {
        assert_in_range(turns, 0, 1000);
        assert_true(repl_ok(repl_loop_once(f->loop, 1000, &err)));
    }
}

static void append(struct fixture *f, uint64_t number, const void *data, size_t size)
{
    struct repl_error err;
    assert_true(repl_ok(repl_spool_append(&f->spool, number, data, size, &err)));
}

/* All of it, in as many pieces as it takes; how often it was not in memory. */
static unsigned read_back(struct fixture *f, struct repl_spool_file *file, uint64_t offset,
                          void *out, size_t size)
{
    struct repl_error err;
    unsigned waits = 0;
    for (size_t at = 0, got; at < size; at += got) {
        assert_true(repl_ok(
            repl_spool_read(file, offset + at, (uint8_t *)out + at, size - at, &got, &err)));
        waits += got == 0;
        assert_true(got <= size - at && waits < 1000);
        if (got == 0)
            drain(f);
    }
    return waits;
}

static unsigned file_count(const struct fixture *f)
{
    unsigned count = 0;
    DIR *dir = opendir(f->directory.path);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(dir);
    return count;
}

static void appended_bytes_become_readable(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[300000], back[sizeof data];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    for (size_t at = 0, size; at < sizeof data; at += size) {
        size = 1 + at % 9973;
        if (size > sizeof data - at)
            size = sizeof data - at;
        append(f, 7, data + at, size);
    }
    struct repl_spool_file *file = repl_spool_find(&f->spool, 7);
    assert_non_null(file);
    assert_int_equal(repl_spool_appended(file), sizeof data);
    drain(f);
    assert_int_equal(repl_spool_readable(file), sizeof data);
    read_back(f, file, 0, back, sizeof back);
    assert_memory_equal(data, back, sizeof data);
    read_back(f, file, 299000, back, 1000);
    assert_memory_equal(data + 299000, back, 1000);
    assert_int_equal(f->failed, 0);
}

static void a_dropped_file_is_gone_at_once(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[1 << 20];
    for (int i = 0; i < 8; i++)
        append(f, 1, data, sizeof data);
    append(f, 2, "x", 1);
    repl_spool_drop(&f->spool, 1); /* its writes are under way */
    assert_null(repl_spool_find(&f->spool, 1));
    assert_int_equal(file_count(f), 1);
    append(f, 1, "again", 5); /* the number may come back */
    drain(f);
    assert_int_equal(repl_spool_readable(repl_spool_find(&f->spool, 1)), 5);
    assert_int_equal(f->failed, 0);
    repl_spool_drop(&f->spool, 1);
    repl_spool_drop(&f->spool, 2);
    repl_spool_drop(&f->spool, 3); /* never was */
    assert_int_equal(file_count(f), 0);
}

/* Hours without a link: what is to be sent has long left the memory. */
static void what_is_not_in_memory_is_awaited(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[(3 << 20) + 5], back[sizeof data];
    struct repl_error err;
    size_t got;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 13 + i / 4099);
    append(f, 1, data, sizeof data);
    drain(f);
    int fd;
    assert_true(repl_ok(repl_spool_open(&f->spool, 1, &fd, &err)));
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    struct repl_spool_file *file = repl_spool_find(&f->spool, 1);
    unsigned told = f->told;
    assert_true(repl_ok(repl_spool_read(file, 7, back, 1000, &got, &err)));
    assert_int_equal(got, 0);
    assert_true(repl_ok(repl_spool_read(file, 7, back, 1000, &got, &err)));
    assert_int_equal(got, 0);
    assert_false(repl_spool_is_idle(&f->spool));
    drain(f);
    assert_int_equal(f->told, told + 1);
    assert_true(repl_ok(repl_spool_read(file, 7, back, 1000, &got, &err)));
    assert_int_equal(got, 1000);
    assert_memory_equal(back, data + 7, 1000);
    read_back(f, file, 0, back, sizeof back);
    assert_memory_equal(back, data, sizeof back);
    /* dropped while it is read */
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_true(repl_ok(repl_spool_read(file, 2 << 20, back, 1000, &got, &err)));
    repl_spool_drop(&f->spool, 1);
    drain(f);
    assert_int_equal(f->failed, 0);
    assert_int_equal(file_count(f), 0);
    close(fd);
}

static void a_file_that_lost_its_end_is_told(void **state)
{
    struct fixture *f = *state;
    char back[8];
    struct repl_error err;
    size_t got;
    append(f, 1, "whole", 5);
    drain(f);
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(1, REPL_SPOOL_SEGMENT, name);
    int fd = openat(f->dir_fd, name, O_WRONLY | O_TRUNC);
    assert_true(fd >= 0 && close(fd) == 0);
    assert_true(repl_ok(repl_spool_read(repl_spool_find(&f->spool, 1), 0, back, 5, &got, &err)));
    assert_int_equal(got, 0);
    drain(f);
    assert_int_equal(f->failed, 1);
    assert_non_null(strstr(f->err.text, "spool: reading a segment back"));
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count;
}

/* Hours without a link: every file can be read, few are open. */
static void many_files_take_few_descriptors(void **state)
{
    struct fixture *f = *state;
    unsigned before = open_descriptors();
    for (uint64_t number = 1; number <= 300; number++) {
        append(f, number, &number, sizeof number);
        drain(f);
    }
    assert_in_range(open_descriptors(), before, before + 3);
    for (uint64_t number = 1; number <= 300; number += 37) {
        uint64_t back;
        struct repl_spool_file *file = repl_spool_find(&f->spool, number);
        read_back(f, file, 0, &back, sizeof back);
        assert_int_equal(back, number);
        append(f, number, "more", 4); /* and written on */
        drain(f);
    }
    for (uint64_t number = 1; number <= 300; number++)
        repl_spool_drop(&f->spool, number);
    assert_int_equal(open_descriptors(), before);
    assert_int_equal(f->failed, 0);
}

/* A file may grow to so many bytes in this process, for the time of one test: the disk is full. */
static void a_failed_write_is_told(void **state)
{
    struct fixture *f = *state;
    static uint8_t data[65536];
    struct rlimit before, small = {.rlim_cur = 100000, .rlim_max = RLIM_INFINITY};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    append(f, 1, data, sizeof data);
    append(f, 1, data, sizeof data);
    append(f, 1, data, sizeof data);
    drain(f);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(f->failed >= 1);
    assert_non_null(strstr(f->err.text, "spool: writing 00000000000000000001.seg"));
    /* what comes after a failed write is not readable, however it went */
    assert_true(repl_spool_readable(repl_spool_find(&f->spool, 1)) <= 2 * sizeof data);
    repl_spool_drop(&f->spool, 1);
    assert_int_equal(file_count(f), 0);
}

static void a_file_of_an_earlier_run_is_adopted(void **state)
{
    struct fixture *f = *state;
    static const char name[] = "00000000000000000042.seg";
    struct repl_error err;
    char back[16];
    int fd = openat(f->dir_fd, name, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0 && write(fd, "from before", 11) == 11 && close(fd) == 0);
    unsigned before = open_descriptors();
    assert_int_equal(repl_spool_adopt(&f->spool, 42, 12, &err).code, REPL_E_CORRUPT);
    assert_int_equal(repl_spool_adopt(&f->spool, 43, 11, &err).code, REPL_E_IO);
    assert_null(repl_spool_find(&f->spool, 42));
    assert_true(repl_ok(repl_spool_adopt(&f->spool, 42, 11, &err)));
    struct repl_spool_file *file = repl_spool_find(&f->spool, 42);
    assert_true(repl_spool_readable(file) == 11 && repl_spool_appended(file) == 11);
    assert_int_equal(open_descriptors(), before);
    read_back(f, file, 5, back, 6);
    assert_memory_equal(back, "before", 6);
    append(f, 43, "x", 1); /* beside it, the spool goes on */
    drain(f);
    read_back(f, file, 0, back, 4);
    assert_memory_equal(back, "from", 4);
    assert_int_equal(file_count(f), 2);
    repl_spool_drop(&f->spool, 42);
    assert_int_equal(file_count(f), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(appended_bytes_become_readable, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_dropped_file_is_gone_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_not_in_memory_is_awaited, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_that_lost_its_end_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_files_take_few_descriptors, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_write_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_of_an_earlier_run_is_adopted, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
