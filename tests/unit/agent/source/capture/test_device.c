/* Needs root and loop devices; skipped where there are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "source/capture/device.h"
#include "unit/loop_device.h"
#include "unit/temporary.h"

#define MIB (UINT64_C(1) << 20)

struct fixture {
    struct temporary temporary;
    struct loop_device loop;
    struct repl_device device;
    struct repl_error err;
    char file[300];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->device =
        (struct repl_device){.fd = -1, .stat_fd = -1, .iostats_fd = -1, .write_cache_fd = -1};
    if (temporary_make(&f->temporary) != 0)
        return -1;
    snprintf(f->file, sizeof f->file, "%s/disk", f->temporary.path);
    loop_device_make(&f->loop, f->file, 64 * MIB);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_device_close(&f->device);
    loop_device_close(&f->loop);
    temporary_remove(&f->temporary);
    free(f);
    return 0;
}

static void device_open(struct fixture *f, const char *path)
{
    if (!repl_ok(repl_device_open(path, &f->device, &f->err)))
        fail_msg("%s", f->err.text);
}

static bool attribute_set(struct fixture *f, const char *attribute, const char *text)
{
    char path[100];
    snprintf(path, sizeof path, "/sys/block/%s/%s", f->loop.path + strlen("/dev/"), attribute);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool set = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return set;
}

static void a_disk_and_its_partition(void **state)
{
    struct fixture *f = *state;
    char path[40];
    dev_t partition = 0;
    if (f->loop.fd < 0 ||
        !loop_device_partition(&f->loop, MIB, 32 * MIB, path, sizeof path, &partition))
        skip();
    device_open(f, f->loop.path);
    assert_string_equal(f->device.name, f->loop.path + strlen("/dev/"));
    assert_string_equal(f->device.disk, f->device.name);
    assert_int_equal(f->device.size, 64 * MIB);
    repl_device_close(&f->device);
    device_open(f, path);
    assert_string_equal(f->device.name, path + strlen("/dev/"));
    assert_string_equal(f->device.disk, f->loop.path + strlen("/dev/"));
    assert_int_equal(f->device.size, 32 * MIB);
}

static void writes_by_way_of_either_count(void **state)
{
    struct fixture *f = *state;
    struct repl_write_counters before, after;
    char path[40], page[4096] = "x";
    dev_t partition = 0;
    if (f->loop.fd < 0 ||
        !loop_device_partition(&f->loop, MIB, 32 * MIB, path, sizeof path, &partition))
        skip();
    device_open(f, path);
    for (unsigned i = 0; i < 2; i++) {
        int fd = open(i == 0 ? path : f->loop.path, O_WRONLY | O_CLOEXEC);
        assert_true(repl_ok(repl_device_counters(&f->device, &before, &f->err)));
        assert_int_equal(pwrite(fd, page, sizeof page, 0), sizeof page);
        assert_int_equal(fsync(fd), 0);
        close(fd);
        assert_true(repl_ok(repl_device_counters(&f->device, &after, &f->err)));
        assert_int_equal(after.sectors_written - before.sectors_written, 8);
    }
    assert_true(repl_ok(repl_device_sync(&f->device, &f->err)));
}

static void the_write_cache_is_read_again(void **state)
{
    struct fixture *f = *state;
    bool write_back = false;
    if (f->loop.fd < 0)
        skip();
    device_open(f, f->loop.path);
    assert_true(repl_ok(repl_device_write_back(&f->device, &write_back, &f->err)));
    assert_true(write_back);
    if (!attribute_set(f, "queue/write_cache", "write through"))
        skip();
    assert_true(repl_ok(repl_device_write_back(&f->device, &write_back, &f->err)));
    assert_false(write_back);
    assert_true(attribute_set(f, "queue/write_cache", "write back"));
    assert_true(repl_ok(repl_device_write_back(&f->device, &write_back, &f->err)));
    assert_true(write_back);
}

static void what_cannot_be_protected(void **state)
{
    struct fixture *f = *state;
    struct repl_device device;
    uint8_t super[4096] = "XFSB";
    if (f->loop.fd < 0)
        skip();
    assert_int_equal(repl_device_open(f->file, &device, &f->err).code, REPL_E_REFUSED);
    assert_non_null(strstr(f->err.text, "not a block device"));
    assert_int_equal(pwrite(f->loop.fd, super, sizeof super, 0), sizeof super);
    assert_int_equal(fsync(f->loop.fd), 0);
    assert_int_equal(repl_device_open(f->loop.path, &device, &f->err).code, REPL_E_REFUSED);
    assert_non_null(strstr(f->err.text, "log on another device"));
    assert_int_equal(device.fd, -1);
    memset(super, 0, sizeof super);
    assert_int_equal(pwrite(f->loop.fd, super, sizeof super, 0), sizeof super);
    assert_int_equal(fsync(f->loop.fd), 0);
    if (!attribute_set(f, "queue/iostats", "0"))
        skip();
    repl_result result = repl_device_open(f->loop.path, &device, &f->err);
    assert_true(attribute_set(f, "queue/iostats", "1"));
    assert_int_equal(result.code, REPL_E_REFUSED);
    assert_non_null(strstr(f->err.text, "queue/iostats"));
}

/* --- drivers --------------------------------------------------------------------------------- */

/* What sysfs says of devices, made up, in a mount namespace of the test's own. */
#define FAKE_SYSFS "/sys/dev/block"

static bool fake_sysfs_mount(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", FAKE_SYSFS, "tmpfs", 0, "size=1m") == 0;
}

static int tear_down_sysfs(void **state)
{
    if (umount2(FAKE_SYSFS, MNT_DETACH) != 0 && errno != EINVAL)
        return -1;
    return tear_down(state);
}

static void fake_directory(const char *path)
{
    char full[200];
    snprintf(full, sizeof full, FAKE_SYSFS "/%s", path);
    assert_true(mkdir(full, 0755) == 0 || errno == EEXIST);
}

static void fake_attribute(const char *directory, const char *name, const char *text)
{
    char full[200];
    snprintf(full, sizeof full, FAKE_SYSFS "/%s/%s", directory, name);
    int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void fake_number(dev_t number, const char *target)
{
    char link[100];
    snprintf(link, sizeof link, FAKE_SYSFS "/%u:%u", major(number), minor(number));
    unlink(link);
    assert_int_equal(symlink(target, link), 0);
}

/* A disk with all that is read of one; driver is the directory that tells its driver. */
static void fake_disk(dev_t number, const char *name, const char *driver, const char *iostats)
{
    char path[100];
    fake_directory(name);
    snprintf(path, sizeof path, "%s/%s", name, driver);
    fake_directory(path);
    snprintf(path, sizeof path, "%s/queue", name);
    fake_directory(path);
    fake_attribute(path, "iostats", iostats);
    fake_attribute(path, "write_cache", "write back");
    fake_attribute(name, "stat", "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0");
    fake_number(number, name);
}

static void driver_refused(struct fixture *f, const char *phrase)
{
    struct repl_device device;
    assert_int_equal(repl_device_open(f->loop.path, &device, &f->err).code, REPL_E_REFUSED);
    if (strstr(f->err.text, phrase) == NULL)
        fail_msg("\"%s\" is not in: %s", phrase, f->err.text);
}

/* Of device-mapper and of RAM disks some kernels say that nothing is counted: to switch that on
 * would not help. */
static void drivers_whose_writes_cannot_be_followed(void **state)
{
    struct fixture *f = *state;
    if (f->loop.fd < 0 || !fake_sysfs_mount())
        skip();
    fake_disk(f->loop.number, "sda", "mq", "1");
    device_open(f, f->loop.path);
    fake_disk(f->loop.number, "sdb", "mq", "0");
    driver_refused(f, "echo 1 > /sys/block/sdb/queue/iostats");
    fake_disk(f->loop.number, "dm-0", "dm", "0");
    fake_directory("dm-0/mq"); /* a multipath target that has requests */
    driver_refused(f, "device-mapper");
    fake_disk(f->loop.number, "md0", "md", "1");
    driver_refused(f, "md RAID");
    fake_disk(f->loop.number, "nvme0n1", "multipath", "1");
    driver_refused(f, "NVMe multipath");
    for (unsigned i = 0; i < 2; i++) {
        fake_disk(f->loop.number, "ram0", "queue", i == 0 ? "0" : "1");
        driver_refused(f, "the driver of ram0 has no request queue");
    }
}

static void nbd_and_its_partitions(void **state)
{
    struct fixture *f = *state;
    if (f->loop.fd < 0 || !fake_sysfs_mount())
        skip();
    fake_disk(makedev(43, 16), "nbd1", "mq", "1");
    fake_attribute("nbd1", "dev", "43:16");
    fake_directory("nbd1/nbd1p1");
    fake_attribute("nbd1/nbd1p1", "partition", "1");
    fake_number(f->loop.number, "nbd1/nbd1p1");
    driver_refused(f, "nbd");
}

#define DEVICE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define DRIVER_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down_sysfs)

int main(void)
{
    const struct CMUnitTest tests[] = {
        DEVICE_TEST(a_disk_and_its_partition),
        DEVICE_TEST(writes_by_way_of_either_count),
        DEVICE_TEST(the_write_cache_is_read_again),
        DEVICE_TEST(what_cannot_be_protected),
        DRIVER_TEST(drivers_whose_writes_cannot_be_followed),
        DRIVER_TEST(nbd_and_its_partitions),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
