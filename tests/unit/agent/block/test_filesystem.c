/* By superblocks made here, and by those of mkfs where there is one, with root and loop devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "block/filesystem.h"
#include "unit/loop_device.h"
#include "unit/temporary.h"

#define MIB (UINT64_C(1) << 20)

/* --- superblocks ----------------------------------------------------------------------------- */

static uint8_t head[REPL_FILESYSTEM_HEAD_SIZE];

static struct repl_filesystem parsed(size_t size)
{
    struct repl_filesystem fs;
    /* a copy of exactly that size: what reads beyond it is noticed by the sanitizer */
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, head, size);
    repl_filesystem_parse(copy, size, &fs);
    free(copy);
    return fs;
}

static void ext_superblock(void **state)
{
    (void)state;
    memset(head, 0, sizeof head);
    assert_int_equal(parsed(sizeof head).kind, REPL_FILESYSTEM_OTHER);
    memcpy(head + 1024 + 56, "\x53\xef", 2);
    head[1024 + 92] = 0x4;
    struct repl_filesystem fs = parsed(sizeof head);
    assert_int_equal(fs.kind, REPL_FILESYSTEM_EXT);
    assert_false(fs.external_journal);
    memcpy(head + 1024 + 228, "\x11\x07\x10\x00", 4);
    fs = parsed(sizeof head);
    assert_true(fs.external_journal);
    assert_int_equal(major(fs.journal), 7);
    assert_int_equal(minor(fs.journal), 0x111);
    assert_int_equal(parsed(1024 + 231).kind, REPL_FILESYSTEM_OTHER);
    head[1024 + 96] = 0x8;
    fs = parsed(sizeof head);
    assert_int_equal(fs.kind, REPL_FILESYSTEM_EXT_JOURNAL);
    assert_false(fs.external_journal);
    head[1024 + 24] = 7; /* no block size: the magic is chance */
    assert_int_equal(parsed(sizeof head).kind, REPL_FILESYSTEM_OTHER);
}

static void xfs_superblock(void **state)
{
    (void)state;
    memset(head, 0, sizeof head);
    memcpy(head, "XFSB", 4);
    struct repl_filesystem fs = parsed(sizeof head);
    assert_int_equal(fs.kind, REPL_FILESYSTEM_XFS);
    assert_true(fs.external_journal);
    head[55] = 1;
    assert_false(parsed(sizeof head).external_journal);
    assert_int_equal(parsed(55).kind, REPL_FILESYSTEM_OTHER);
}

static void btrfs_superblock(void **state)
{
    (void)state;
    memset(head, 0, sizeof head);
    memcpy(head + 65536 + 64, "_BHRfS_M", 8);
    head[65536 + 136] = 2;
    struct repl_filesystem fs = parsed(sizeof head);
    assert_int_equal(fs.kind, REPL_FILESYSTEM_BTRFS);
    assert_int_equal(fs.device_count, 2);
    assert_int_equal(parsed(65536 + 143).kind, REPL_FILESYSTEM_OTHER);
}

/* --- devices --------------------------------------------------------------------------------- */

struct fixture {
    struct temporary temporary;
    struct loop_device a, b;
    char file_a[300], file_b[300], point[300];
    struct repl_error err;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (temporary_make(&f->temporary) != 0)
        return -1;
    snprintf(f->file_a, sizeof f->file_a, "%s/a", f->temporary.path);
    snprintf(f->file_b, sizeof f->file_b, "%s/b", f->temporary.path);
    snprintf(f->point, sizeof f->point, "%s/mnt", f->temporary.path);
    loop_device_make(&f->a, f->file_a, 400 * MIB);
    loop_device_make(&f->b, f->file_b, 400 * MIB);
    return mkdir(f->point, 0700);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    umount(f->point);
    loop_device_close(&f->a);
    loop_device_close(&f->b);
    temporary_remove(&f->temporary);
    free(f);
    return 0;
}

static bool run(const char *format, ...) __attribute__((format(printf, 1, 2)));

static bool run(const char *format, ...)
{
    char command[400], quiet[440];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    snprintf(quiet, sizeof quiet, "(%s) >/dev/null 2>&1", command);
    return system(quiet) == 0;
}

static repl_result check(struct fixture *f, const char *path, dev_t number)
{
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    assert_true(fd >= 0);
    repl_result result = repl_filesystem_check(number, fd, path, &f->err);
    close(fd);
    return result;
}

static void assert_refused(struct fixture *f, const char *path, dev_t number, const char *words)
{
    assert_int_equal(check(f, path, number).code, REPL_E_REFUSED);
    if (strstr(f->err.text, words) == NULL)
        fail_msg("\"%s\" is not in: %s", words, f->err.text);
}

static void an_ext4_journal_elsewhere(void **state)
{
    struct fixture *f = *state;
    if (f->b.fd < 0)
        skip();
    assert_true(repl_ok(check(f, f->a.path, f->a.number))); /* nothing is on it */
    if (!run("mke2fs -q -F -b 4096 -O journal_dev %s", f->b.path) ||
        !run("mke2fs -q -F -t ext4 -b 4096 -J device=%s %s", f->b.path, f->a.path))
        skip();
    assert_refused(f, f->a.path, f->a.number, "tune2fs -j");
    assert_refused(f, f->b.path, f->b.number, "external journal of an ext filesystem");
    assert_true(run("mke2fs -q -F -t ext4 %s", f->a.path));
    assert_true(repl_ok(check(f, f->a.path, f->a.number)));
}

static void an_xfs_log_elsewhere(void **state)
{
    struct fixture *f = *state;
    if (f->b.fd < 0 || !run("mkfs.xfs -q -f -l logdev=%s,size=64m %s", f->b.path, f->a.path))
        skip();
    assert_refused(f, f->a.path, f->a.number, "has its log on another device");
    assert_true(run("mkfs.xfs -q -f %s", f->a.path));
    assert_true(repl_ok(check(f, f->a.path, f->a.number)));
}

static void a_partition_of_the_disk(void **state)
{
    struct fixture *f = *state;
    char path[40], name[64];
    dev_t partition = 0;
    if (f->b.fd < 0 ||
        !loop_device_partition(&f->a, MIB, 350 * MIB, path, sizeof path, &partition) ||
        !run("mkfs.xfs -q -f -l logdev=%s,size=64m %s", f->b.path, path))
        skip();
    snprintf(name, sizeof name, "on %s has", path + strlen("/dev/"));
    assert_refused(f, path, partition, "has its log on another device");
    assert_refused(f, f->a.path, f->a.number, name);
}

static void a_btrfs_of_two_devices(void **state)
{
    struct fixture *f = *state;
    if (f->b.fd < 0 || !run("mkfs.btrfs -q -f %s", f->a.path))
        skip();
    assert_true(repl_ok(check(f, f->a.path, f->a.number)));
    assert_true(run("mkfs.btrfs -q -f %s %s", f->a.path, f->b.path));
    assert_refused(f, f->b.path, f->b.number, "btrfs device remove");
    if (!run("mkfs.btrfs -q -f %s", f->a.path) || mount(f->a.path, f->point, "btrfs", 0, NULL) != 0)
        skip();
    assert_true(repl_ok(check(f, f->a.path, f->a.number)));
    assert_true(run("btrfs device add -f %s %s", f->b.path, f->point));
    assert_refused(f, f->a.path, f->a.number, f->b.path + strlen("/dev/"));
    assert_refused(f, f->b.path, f->b.number, f->a.path + strlen("/dev/"));
    assert_true(run("btrfs device remove %s %s", f->b.path, f->point));
    assert_true(repl_ok(check(f, f->a.path, f->a.number)));
}

#define DEVICE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ext_superblock),    cmocka_unit_test(xfs_superblock),
        cmocka_unit_test(btrfs_superblock),  DEVICE_TEST(an_ext4_journal_elsewhere),
        DEVICE_TEST(an_xfs_log_elsewhere),   DEVICE_TEST(a_partition_of_the_disk),
        DEVICE_TEST(a_btrfs_of_two_devices),
    };
    return cmocka_run_group_tests_name("filesystem", tests, NULL, NULL);
}
