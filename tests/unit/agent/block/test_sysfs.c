/* Needs root and loop devices; skipped where there are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/sysmacros.h>

#include "block/sysfs.h"
#include "unit/loop_device.h"
#include "unit/temporary.h"

#define MIB (UINT64_C(1) << 20)

struct fixture {
    struct temporary temporary;
    struct loop_device loop;
    char file[300];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (temporary_make(&f->temporary) != 0)
        return -1;
    snprintf(f->file, sizeof f->file, "%s/disk", f->temporary.path);
    loop_device_make(&f->loop, f->file, 8 * MIB);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    loop_device_close(&f->loop);
    temporary_remove(&f->temporary);
    free(f);
    return 0;
}

static void attributes_of_a_disk(void **state)
{
    struct fixture *f = *state;
    char text[4096], name[REPL_SYSFS_NAME_SIZE];
    struct repl_error err;
    uint64_t number;
    int fd;
    if (f->loop.fd < 0)
        skip();
    assert_true(repl_sysfs_read(f->loop.number, "loop/backing_file", text, sizeof text));
    assert_string_equal(text, f->file);
    assert_true(repl_sysfs_read(f->loop.number, "loop/backing_file", text, 5));
    assert_int_equal(strlen(text), 4);
    assert_false(repl_sysfs_read(f->loop.number, "no/such", text, sizeof text));
    assert_string_equal(text, "");
    assert_true(repl_sysfs_read_number(f->loop.number, "size", &number));
    assert_int_equal(number, 8 * MIB / REPL_SYSFS_SECTOR_SIZE);
    assert_false(repl_sysfs_read_number(f->loop.number, "queue/write_cache", &number));
    assert_int_equal(number, 0);
    assert_true(repl_sysfs_has(f->loop.number, "queue"));
    assert_false(repl_sysfs_has(f->loop.number, "partition"));
    assert_true(repl_ok(repl_sysfs_open(f->loop.number, "stat", &fd, &err)));
    close(fd);
    assert_int_equal(repl_sysfs_open(f->loop.number, "no/such", &fd, &err).code, REPL_E_IO);
    assert_int_equal(fd, -1);
    assert_true(repl_ok(repl_sysfs_name(f->loop.number, name, &err)));
    assert_string_equal(name, f->loop.path + strlen("/dev/"));
    assert_true(repl_sysfs_disk(f->loop.number) == f->loop.number);
}

static repl_result count(void *context, const char *name, struct repl_error *err)
{
    (void)err;
    *(unsigned *)context += strstr(name, "p1") != NULL;
    return REPL_SUCCESS;
}

static repl_result refuse(void *context, const char *name, struct repl_error *err)
{
    (void)context;
    return repl_fail(err, REPL_E_REFUSED, "%s", name);
}

static void a_partition_and_its_disk(void **state)
{
    struct fixture *f = *state;
    char path[40];
    dev_t partition = 0;
    struct repl_error err;
    unsigned found = 0;
    if (f->loop.fd < 0)
        skip();
    assert_true(repl_ok(repl_sysfs_partitions(f->loop.number, count, &found, &err)));
    assert_int_equal(found, 0);
    if (!loop_device_partition(&f->loop, MIB, 4 * MIB, path, sizeof path, &partition))
        skip();
    assert_true(repl_ok(repl_sysfs_partitions(f->loop.number, count, &found, &err)));
    assert_int_equal(found, 1);
    assert_int_equal(repl_sysfs_partitions(f->loop.number, refuse, NULL, &err).code,
                     REPL_E_REFUSED);
    assert_true(repl_sysfs_disk(partition) == f->loop.number);
    assert_true(repl_sysfs_overlap(partition, f->loop.number));
    assert_true(repl_sysfs_overlap(f->loop.number, partition));
    assert_false(repl_sysfs_overlap(partition, makedev(1, 0)));
}

static void a_device_that_is_not_there(void **state)
{
    char text[16], name[REPL_SYSFS_NAME_SIZE];
    dev_t none = makedev(511, 77);
    struct repl_error err;
    (void)state;
    assert_false(repl_sysfs_read(none, "size", text, sizeof text));
    assert_true(repl_sysfs_disk(none) == none);
    assert_int_equal(repl_sysfs_name(none, name, &err).code, REPL_E_IO);
    assert_non_null(strstr(err.text, "511:77"));
    assert_int_equal(repl_sysfs_partitions(none, refuse, NULL, &err).code, REPL_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(attributes_of_a_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_partition_and_its_disk, set_up, tear_down),
        cmocka_unit_test(a_device_that_is_not_there),
    };
    return cmocka_run_group_tests_name("sysfs", tests, NULL, NULL);
}
