#include "source/capture/device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/major.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/filesystem.h"
#include "block/identity.h"
#include "block/mounts.h"

/* --- refusals -------------------------------------------------------------------------------- */

/* Tracking hangs on the completion of requests, and the audit on what the kernel counts of them. A
 * bio-based device has no requests: its completions are traced never or elsewhere, and some of
 * their drivers count nothing whatever iostats says. */
static repl_result driver_check(const struct repl_device *device, struct repl_error *err)
{
    static const char *const bio_based[][2] = {
        {"dm", "device-mapper"}, {"md", "md RAID"}, {"multipath", "NVMe multipath"}};
    for (size_t i = 0; i < sizeof bio_based / sizeof bio_based[0]; i++) {
        if (repl_sysfs_has(device->disk_number, bio_based[i][0]))
            return repl_fail(err, REPL_E_REFUSED,
                             "%s: %s devices are not supported yet; protect the disks or "
                             "partitions below it",
                             device->path, bio_based[i][1]);
    }
    if (!repl_sysfs_has(device->disk_number, "mq"))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the driver of %s has no request queue (as those of RAM disks, zram, "
                         "DRBD and bcache), so its writes cannot be followed; protect the disks or "
                         "partitions below it",
                         device->path, device->disk);
    if (major(device->disk_number) == NBD_MAJOR)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: an nbd device can be connected to another server and keep its name, "
                         "and nothing would show it; protect the disk on the host that serves it",
                         device->path);
    return REPL_SUCCESS;
}

static repl_result suitability_check(const struct repl_device *device, struct repl_error *err)
{
    dev_t disk = device->disk_number;
    char text[64];
    REPL_TRY(driver_check(device, err));
    if (!repl_sysfs_read(disk, "queue/iostats", text, sizeof text) || strcmp(text, "1") != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the kernel does not count its I/O, so nothing could be audited; "
                         "echo 1 > /sys/block/%s/queue/iostats",
                         device->path, device->disk);
    if (repl_sysfs_read(disk, "queue/zoned", text, sizeof text) && strcmp(text, "none") != 0)
        return repl_fail(err, REPL_E_REFUSED, "%s: a zoned device (%s) cannot be protected",
                         device->path, text);
    if (repl_sysfs_read(disk, "queue/dax", text, sizeof text) && strcmp(text, "0") != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: a DAX device is written without I/O and cannot be followed",
                         device->path);
    return repl_filesystem_check(device->number, device->fd, device->path, err);
}

/* --- open ------------------------------------------------------------------------------------ */

static repl_result device_find(struct repl_device *device, struct repl_error *err)
{
    struct stat st;
    if (fstat(device->fd, &st) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: stat", device->path);
    if (!S_ISBLK(st.st_mode))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is not a block device; for a file, put a loop device over it",
                         device->path);
    device->number = st.st_rdev;
    device->disk_number = repl_sysfs_disk(st.st_rdev);
    REPL_TRY(
        repl_forward(repl_sysfs_name(device->number, device->name, err), err, "%s", device->path));
    REPL_TRY(repl_forward(repl_sysfs_name(device->disk_number, device->disk, err), err, "%s",
                          device->path));
    return repl_device_size(device, &device->size, err);
}

static repl_result attributes_open(struct repl_device *device, struct repl_error *err)
{
    REPL_TRY(repl_sysfs_open(device->number, "stat", &device->stat_fd, err));
    REPL_TRY(repl_sysfs_open(device->disk_number, "queue/iostats", &device->iostats_fd, err));
    return repl_sysfs_open(device->disk_number, "queue/write_cache", &device->write_cache_fd, err);
}

static repl_result device_examine(struct repl_device *device, struct repl_error *err)
{
    REPL_TRY(device_find(device, err));
    REPL_TRY(suitability_check(device, err));
    repl_identity_find(device->number, device->identity);
    return repl_forward(attributes_open(device, err), err, "%s", device->path);
}

repl_result repl_device_open(const char *path, struct repl_device *out, struct repl_error *err)
{
    *out = (struct repl_device){.fd = -1, .stat_fd = -1, .iostats_fd = -1, .write_cache_fd = -1};
    if (strlen(path) >= sizeof out->path)
        return repl_fail(err, REPL_E_USAGE, "the device's path is too long: %s", path);
    snprintf(out->path, sizeof out->path, "%s", path);
    out->fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
    if (out->fd < 0 && errno == EINVAL) /* a file on a filesystem without direct I/O, a directory */
        out->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (out->fd < 0)
        return repl_fail_errno(err, errno == EACCES || errno == EPERM ? REPL_E_REFUSED : REPL_E_IO,
                               errno, "open %s", path);
    repl_result result = device_examine(out, err);
    if (!repl_ok(result))
        repl_device_close(out);
    return result;
}

void repl_device_close(struct repl_device *device)
{
    int *const fds[] = {&device->fd, &device->stat_fd, &device->iostats_fd,
                        &device->write_cache_fd};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

repl_result repl_device_size(const struct repl_device *device, uint64_t *size,
                             struct repl_error *err)
{
    if (ioctl(device->fd, BLKGETSIZE64, size) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: size", device->path);
    if (*size == 0)
        return repl_fail(err, REPL_E_REFUSED, "%s has no medium (its size is 0)", device->path);
    return REPL_SUCCESS;
}

/* --- counters and write cache ---------------------------------------------------------------- */

/* Documentation/block/stat.rst: 4 fields of reads, 4 of writes, in_flight, 2 times, then 4 of
 * discards. */
static repl_result stat_parse(char *text, const char *name, struct repl_write_counters *out,
                              struct repl_error *err)
{
    unsigned long long v[15];
    char *at = text;
    for (size_t i = 0; i < sizeof v / sizeof v[0]; i++) {
        char *end;
        v[i] = strtoull(at, &end, 10);
        if (end == at)
            return repl_fail(err, REPL_E_IO,
                             "/sys/class/block/%s/stat has only %zu fields; a kernel of 4.18 or "
                             "newer is needed",
                             name, i);
        at = end;
    }
    *out = (struct repl_write_counters){.sectors_written = v[6], .sectors_discarded = v[13]};
    return REPL_SUCCESS;
}

/* below: "" for the disk itself, "NAME/" for one of its partitions. */
static repl_result stat_read(dev_t disk, const char *below, const char *name,
                             struct repl_write_counters *out, struct repl_error *err)
{
    char attribute[300], text[512];
    snprintf(attribute, sizeof attribute, "%.255sstat", below);
    if (!repl_sysfs_read(disk, attribute, text, sizeof text))
        return repl_fail(err, REPL_E_IO, "/sys/class/block/%s/stat cannot be read", name);
    return stat_parse(text, name, out, err);
}

struct partitions {
    dev_t disk;
    struct repl_write_counters sum;
};

static repl_result partition_add(void *context, const char *name, struct repl_error *err)
{
    struct partitions *partitions = context;
    struct repl_write_counters one = {0};
    char below[300];
    snprintf(below, sizeof below, "%.255s/", name);
    REPL_TRY(stat_read(partitions->disk, below, name, &one, err));
    partitions->sum.sectors_written += one.sectors_written;
    partitions->sum.sectors_discarded += one.sectors_discarded;
    return REPL_SUCCESS;
}

/* What all partitions of the disk have counted together. */
static repl_result partitions_sum(const struct repl_device *device, struct repl_write_counters *sum,
                                  struct repl_error *err)
{
    struct partitions partitions = {.disk = device->disk_number};
    REPL_TRY(repl_sysfs_partitions(device->disk_number, partition_add, &partitions, err));
    *sum = partitions.sum;
    return REPL_SUCCESS;
}

/* Writes by way of the whole disk count for no partition, wherever they go: what the disk has
 * counted more than its partitions is added. Numbers that moved between the reads only make the
 * result look as if something had been written. */
static repl_result outside_add(const struct repl_device *device, struct repl_write_counters *out,
                               struct repl_error *err)
{
    struct repl_write_counters before = {0}, disk = {0}, after = {0};
    for (int tries = 0;; tries++) {
        REPL_TRY(partitions_sum(device, &before, err));
        REPL_TRY(stat_read(device->disk_number, "", device->disk, &disk, err));
        REPL_TRY(partitions_sum(device, &after, err));
        if (tries == 4 || (before.sectors_written == after.sectors_written &&
                           before.sectors_discarded == after.sectors_discarded))
            break;
    }
    out->sectors_written += disk.sectors_written - after.sectors_written;
    out->sectors_discarded += disk.sectors_discarded - after.sectors_discarded;
    return REPL_SUCCESS;
}

repl_result repl_device_counters(const struct repl_device *device, struct repl_write_counters *out,
                                 struct repl_error *err)
{
    char text[512], on = '\0';
    ssize_t got = pread(device->stat_fd, text, sizeof text - 1, 0);
    if (got <= 0)
        return repl_fail_errno(err, REPL_E_IO, got < 0 ? errno : ENODATA,
                               "%s: reading its I/O counters", device->path);
    text[got] = '\0';
    REPL_TRY(repl_forward(stat_parse(text, device->name, out, err), err, "%s", device->path));
    if (device->number != device->disk_number)
        REPL_TRY(repl_forward(outside_add(device, out, err), err, "%s", device->path));
    if (pread(device->iostats_fd, &on, 1, 0) != 1 || on != '1')
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the kernel's counting of its I/O was switched off, so writes cannot "
                         "be noticed; echo 1 > /sys/block/%s/queue/iostats",
                         device->path, device->disk);
    return REPL_SUCCESS;
}

repl_result repl_device_write_back(const struct repl_device *device, bool *write_back,
                                   struct repl_error *err)
{
    static const char cached[] = "write back", uncached[] = "write through";
    char text[32] = "";
    ssize_t got = pread(device->write_cache_fd, text, sizeof text - 1, 0);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: reading what its write cache does",
                               device->path);
    text[strcspn(text, "\n")] = '\0';
    *write_back = strcmp(text, cached) == 0;
    if (!*write_back && strcmp(text, uncached) != 0)
        return repl_fail(err, REPL_E_VERSION,
                         "%s: \"%s\" in /sys/block/%s/queue/write_cache is neither \"%s\" nor "
                         "\"%s\"",
                         device->path, text, device->disk, cached, uncached);
    return REPL_SUCCESS;
}

/* --- sync ------------------------------------------------------------------------------------ */

static repl_result mount_sync(const struct repl_mount *mount, struct repl_error *err)
{
    struct stat st;
    int fd = open(mount->point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        fd = open(mount->point, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a file bind-mounted */
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: open", mount->point);
    /* something else may be mounted over it */
    bool covered = fstat(fd, &st) != 0 || (major(mount->number) != 0 && st.st_dev != mount->number);
    int failed = !covered && syncfs(fd) != 0 ? errno : 0;
    close(fd);
    if (failed != 0)
        return repl_fail_errno(err, REPL_E_IO, failed, "%s: syncfs", mount->point);
    return REPL_SUCCESS;
}

static repl_result ours_sync(void *context, const struct repl_mount *mount, struct repl_error *err)
{
    const struct repl_device *device = context;
    bool ours = mount->device == device->number || repl_sysfs_disk(mount->device) == device->number;
    return ours ? mount_sync(mount, err) : REPL_SUCCESS;
}

repl_result repl_device_sync(const struct repl_device *device, struct repl_error *err)
{
    REPL_TRY(repl_mounts_visit(ours_sync, (void *)device, err));
    if (fsync(device->fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: fsync", device->path);
    return REPL_SUCCESS;
}
