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

static repl_result file_look(const char *path, dev_t *number, dev_t *device)
{
    struct repl_error err;
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    repl_result result = repl_mount_of(fd, path, number, device, &err);
    close(fd);
    return result;
}

static void a_mount(const char *make, const char *type, uint64_t size)
{
    struct temporary temporary;
    struct loop_device loop = {.fd = -1};
    struct repl_error err;
    char file[300], point[300], command[100];
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(file, sizeof file, "%s/disk", temporary.path);
    snprintf(point, sizeof point, "%s/a blank\\040", temporary.path);
    bool made = loop_device_make(&loop, file, size);
    snprintf(command, sizeof command, "%s %s >/dev/null 2>&1", make, loop.path);
    if (!made || system(command) != 0 || mkdir(point, 0700) != 0 ||
        mount(loop.path, point, type, 0, NULL) != 0) {
        loop_device_close(&loop);
        temporary_remove(&temporary);
        skip();
    }
    struct wanted wanted = {.point = point};
    bool visited = repl_ok(repl_mounts_visit(look, &wanted, &err));
    dev_t number = 0, device = 0;
    bool found = repl_ok(file_look(point, &number, &device));
    umount(point);
    loop_device_close(&loop);
    temporary_remove(&temporary);
    assert_true(visited);
    assert_int_equal(wanted.found, 1);
    assert_true(wanted.device == loop.number);
    assert_true(found && number == wanted.number && device == wanted.device);
}

static void a_mount_of_a_device(void **state)
{
    (void)state;
    a_mount("mke2fs -q -F", "ext2", 8 * MIB);
}

static void a_mount_with_a_number_of_its_own(void **state)
{
    (void)state;
    a_mount("mkfs.btrfs -q", "btrfs", 128 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_first_failure_ends_it),
                                       cmocka_unit_test(a_mount_of_a_device),
                                       cmocka_unit_test(a_mount_with_a_number_of_its_own)};
    return cmocka_run_group_tests_name("mounts", tests, NULL, NULL);
}
