/* Needs root and loop devices for all but the comparison. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/sysmacros.h>

#include "block/identity.h"
#include "unit/loop_device.h"
#include "unit/temporary.h"

#define MIB (UINT64_C(1) << 20)

static void a_name_may_change_its_size(void **state)
{
    (void)state;
    assert_true(repl_identity_same("wwid:a", "wwid:a"));
    assert_false(repl_identity_same("wwid:a", "wwid:ab"));
    assert_false(repl_identity_same("wwid:a:1", "wwid:a:2"));
    assert_true(repl_identity_same("name:vda:1", "name:vda:2"));
    assert_false(repl_identity_same("name:vda:1", "name:vdaa:1"));
    assert_false(repl_identity_same("name:vda:1", "name:vdb:1"));
    assert_false(repl_identity_same("name:vda:1", "wwid:a"));
}

static void a_loop_device_is_its_file(void **state)
{
    struct temporary temporary;
    struct loop_device loop = {.fd = -1};
    struct stat status, backing;
    char file[300], path[40], expected[300], found[REPL_IDENTITY_MAX + 1];
    dev_t partition = 0;
    (void)state;
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(file, sizeof file, "%s/disk", temporary.path);
    if (!loop_device_make(&loop, file, 8 * MIB)) {
        temporary_remove(&temporary);
        skip();
    }
    assert_int_equal(stat(file, &status), 0);
    snprintf(expected, sizeof expected, "loop:%u:%u:%llu", major(status.st_dev),
             minor(status.st_dev), (unsigned long long)status.st_ino);
    repl_identity_find(loop.number, found);
    assert_string_equal(found, expected);
    assert_true(repl_identity_backing(loop.number, &backing));
    assert_true(backing.st_ino == status.st_ino);
    if (loop_device_partition(&loop, MIB, MIB, path, sizeof path, &partition)) {
        strcat(expected, ":part1");
        repl_identity_find(partition, found);
        assert_string_equal(found, expected);
    }
    assert_int_equal(unlink(file), 0);
    assert_false(repl_identity_backing(loop.number, &backing));
    snprintf(expected, sizeof expected, "name:%s:%llu", loop.path + strlen("/dev/"),
             (unsigned long long)(8 * MIB));
    repl_identity_find(loop.number, found);
    assert_string_equal(found, expected);
    loop_device_close(&loop);
    temporary_remove(&temporary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_name_may_change_its_size),
                                       cmocka_unit_test(a_loop_device_is_its_file)};
    return cmocka_run_group_tests_name("identity", tests, NULL, NULL);
}
