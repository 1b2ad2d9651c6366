/* The mount needs root and loop devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/mount.h>

#include "block/mounts.h"
#include "unit/loop_device.h"
#include "unit/temporary.h"

#define MIB (UINT64_C(1) << 20)

struct wanted {
    const char *point;
    unsigned seen, found;
    dev_t number, device;
};

static repl_result look(void *context, const struct repl_mount *mount, struct repl_error *err)
{
    struct wanted *wanted = context;
    (void)err;
    wanted->seen++;
    if (strcmp(mount->point, wanted->point) == 0) {
        wanted->found++;
        wanted->number = mount->number;
        wanted->device = mount->device;
    }
    return REPL_SUCCESS;
}

static repl_result refuse(void *context, const struct repl_mount *mount, struct repl_error *err)
{
    repl_ignore(look(context, mount, err)); /* it only counts */
    return repl_fail(err, REPL_E_REFUSED, "no");
}

static void the_first_failure_ends_it(void **state)
{
    struct wanted wanted = {.point = "/proc"};
    struct repl_error err;
    (void)state;
    assert_true(repl_ok(repl_mounts_visit(look, &wanted, &err)));
    assert_true(wanted.found >= 1);
    wanted.seen = 0;
    assert_int_equal(repl_mounts_visit(refuse, &wanted, &err).code, REPL_E_REFUSED);
    assert_int_equal(wanted.seen, 1);
}

static void a_mount_of_a_device(void **state)
{
    struct temporary temporary;
    struct loop_device loop = {.fd = -1};
    struct repl_error err;
    char file[300], point[300], command[100];
    (void)state;
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(file, sizeof file, "%s/disk", temporary.path);
    snprintf(point, sizeof point, "%s/a blank\\040", temporary.path);
    bool made = loop_device_make(&loop, file, 8 * MIB);
    snprintf(command, sizeof command, "mke2fs -q -F %s 2>/dev/null", loop.path);
    if (!made || system(command) != 0 || mkdir(point, 0700) != 0 ||
        mount(loop.path, point, "ext2", 0, NULL) != 0) {
        loop_device_close(&loop);
        temporary_remove(&temporary);
        skip();
    }
    struct wanted wanted = {.point = point};
    bool visited = repl_ok(repl_mounts_visit(look, &wanted, &err));
    umount(point);
    loop_device_close(&loop);
    temporary_remove(&temporary);
    assert_true(visited);
    assert_int_equal(wanted.found, 1);
    assert_true(wanted.number == loop.number && wanted.device == loop.number);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_first_failure_ends_it),
                                       cmocka_unit_test(a_mount_of_a_device)};
    return cmocka_run_group_tests_name("mounts", tests, NULL, NULL);
}
