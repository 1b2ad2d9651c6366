/*
 * Everything comes from sysfs and mountinfo. A device is bound to what it is,
 * not to the name it has today: the identity is the best of partition UUID,
 * WWID, serial number and, for a loop device, the file behind it.
 */
#include "source/capture/device.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Reads a small file of sysfs without its line end; false if it is not there or empty. */
static bool sysfs_read(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool sysfs_read(char *out, size_t size, const char *format, ...)
{
    char path[PATH_MAX];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(path, sizeof path, format, args);
    va_end(args);
    out[0] = '\0';
    if (length < 0 || (size_t)length >= sizeof path)
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, out, size - 1);
    close(fd);
    if (got <= 0)
        return false;
    out[got] = '\0';
    out[strcspn(out, "\n")] = '\0';
    char *end = out + strlen(out);
    while (end > out && end[-1] == ' ')
        *--end = '\0';
    return out[0] != '\0';
}

/* The disk a partition is on, or the name itself. */
static void disk_name(const char *name, char *disk, size_t size)
{
    char link[PATH_MAX], path[128];
    snprintf(disk, size, "%s", name);
    snprintf(path, sizeof path, "/sys/class/block/%s/partition", name);
    if (access(path, F_OK) != 0)
        return;
    snprintf(path, sizeof path, "/sys/class/block/%s", name);
    ssize_t length = readlink(path, link, sizeof link - 1);
    if (length <= 0)
        return;
    link[length] = '\0';
    char *slash = strrchr(link, '/');
    if (slash == NULL)
        return;
    *slash = '\0';
    char *parent = strrchr(link, '/');
    if (parent != NULL)
        snprintf(disk, size, "%s", parent + 1);
}

/* --- identity -------------------------------------------------------------------------------- */

/* The partition's UUID by the link udev keeps for it. */
static bool partition_uuid(dev_t number, char *out, size_t size)
{
    static const char directory[] = "/dev/disk/by-partuuid";
    DIR *dir = opendir(directory);
    if (dir == NULL)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(dir)) != NULL;) {
        struct stat st;
        if (entry->d_name[0] == '.' || fstatat(dirfd(dir), entry->d_name, &st, 0) != 0)
            continue;
        found = S_ISBLK(st.st_mode) && st.st_rdev == number;
        if (found)
            snprintf(out, size, "%.127s", entry->d_name);
    }
    closedir(dir);
    return found;
}

static bool disk_identity(const char *disk, char *out, size_t size)
{
    static const struct {
        const char *file, *kind;
    } sources[] = {
        {"wwid", "wwid"},
        {"device/wwid", "wwid"},
        {"device/serial", "serial"},
        {"serial", "serial"},
    };
    char text[192];
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
        if (sysfs_read(text, sizeof text, "/sys/class/block/%s/%s", disk, sources[i].file)) {
            snprintf(out, size, "%s:%s", sources[i].kind, text);
            return true;
        }
    }
    if (sysfs_read(text, sizeof text, "/sys/class/block/%s/loop/backing_file", disk)) {
        struct stat st;
        if (stat(text, &st) != 0)
            return false;
        snprintf(out, size, "loop:%u:%u:%llu", major(st.st_dev), minor(st.st_dev),
                 (unsigned long long)st.st_ino);
        return true;
    }
    return false;
}

static void identity_find(struct repl_device *device, const char *disk)
{
    char uuid[128], text[224], number[16];
    bool partition =
        sysfs_read(number, sizeof number, "/sys/class/block/%s/partition", device->name);
    if (partition && partition_uuid(device->number, uuid, sizeof uuid))
        snprintf(device->identity, sizeof device->identity, "partuuid:%s", uuid);
    else if (!disk_identity(disk, text, sizeof text))
        /* virtual disks without a serial: the size and the name are all there is */
        snprintf(device->identity, sizeof device->identity, "name:%s:%llu", device->name,
                 (unsigned long long)device->size);
    else if (partition)
        snprintf(device->identity, sizeof device->identity, "%s:part%s", text, number);
    else
        snprintf(device->identity, sizeof device->identity, "%s", text);
}

/* --- refusals -------------------------------------------------------------------------------- */

static repl_result suitability_check(const struct repl_device *device, const char *disk,
                                     struct repl_error *err)
{
    char text[64], path[128];
    if (!sysfs_read(text, sizeof text, "/sys/class/block/%s/queue/iostats", disk) ||
        strcmp(text, "1") != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: the kernel does not count its I/O, so nothing could be audited; "
                         "echo 1 > /sys/block/%s/queue/iostats",
                         device->path, disk);
    if (sysfs_read(text, sizeof text, "/sys/class/block/%s/queue/zoned", disk) &&
        strcmp(text, "none") != 0)
        return repl_fail(err, REPL_E_REFUSED, "%s: a zoned device (%s) cannot be protected",
                         device->path, text);
    if (sysfs_read(text, sizeof text, "/sys/class/block/%s/queue/dax", disk) &&
        strcmp(text, "0") != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s: a DAX device is written without I/O and cannot be followed",
                         device->path);
    static const char *const bio_based[][2] = {
        {"dm", "device-mapper"}, {"md", "md RAID"}, {"multipath", "NVMe multipath"}};
    for (size_t i = 0; i < sizeof bio_based / sizeof bio_based[0]; i++) {
        snprintf(path, sizeof path, "/sys/class/block/%s/%s", disk, bio_based[i][0]);
        if (access(path, F_OK) == 0)
            return repl_fail(err, REPL_E_REFUSED,
                             "%s: %s devices are not supported yet; protect the disks or "
                             "partitions below it",
                             device->path, bio_based[i][1]);
    }
    return REPL_SUCCESS;
}

/* --- open ------------------------------------------------------------------------------------ */

static repl_result device_find(struct repl_device *device, struct repl_error *err)
{
    struct stat st;
    char link[PATH_MAX], path[64];
    if (fstat(device->fd, &st) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: stat", device->path);
    if (!S_ISBLK(st.st_mode))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is not a block device; for a file, put a loop device over it",
                         device->path);
    device->number = st.st_rdev;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(st.st_rdev), minor(st.st_rdev));
    ssize_t length = readlink(path, link, sizeof link - 1);
    if (length <= 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: %s; is /sys mounted?", device->path,
                               path);
    link[length] = '\0';
    const char *slash = strrchr(link, '/');
    snprintf(device->name, sizeof device->name, "%.63s", slash != NULL ? slash + 1 : link);
    return repl_device_size(device, &device->size, err);
}

static repl_result device_examine(struct repl_device *device, struct repl_error *err)
{
    char path[128];
    REPL_TRY(device_find(device, err));
    disk_name(device->name, device->disk, sizeof device->disk);
    REPL_TRY(suitability_check(device, device->disk, err));
    identity_find(device, device->disk);
    snprintf(path, sizeof path, "/sys/class/block/%s/stat", device->name);
    device->stat_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (device->stat_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    snprintf(path, sizeof path, "/sys/class/block/%s/queue/iostats", device->disk);
    device->iostats_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (device->iostats_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    return REPL_SUCCESS;
}

repl_result repl_device_open(const char *path, struct repl_device *out, struct repl_error *err)
{
    *out = (struct repl_device){.fd = -1, .stat_fd = -1, .iostats_fd = -1};
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
    if (device->fd >= 0)
        close(device->fd);
    if (device->stat_fd >= 0)
        close(device->stat_fd);
    if (device->iostats_fd >= 0)
        close(device->iostats_fd);
    device->fd = device->stat_fd = device->iostats_fd = -1;
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

/* --- counters and sync ----------------------------------------------------------------------- */

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

static repl_result stat_read(const char *name, struct repl_write_counters *out,
                             struct repl_error *err)
{
    char text[512];
    if (!sysfs_read(text, sizeof text, "/sys/class/block/%s/stat", name))
        return repl_fail(err, REPL_E_IO, "/sys/class/block/%s/stat cannot be read", name);
    return stat_parse(text, name, out, err);
}

/* What all partitions of the disk have counted together. */
static repl_result partitions_sum(const struct repl_device *device, struct repl_write_counters *sum,
                                  struct repl_error *err)
{
    char path[128], partition[16];
    *sum = (struct repl_write_counters){0};
    snprintf(path, sizeof path, "/sys/class/block/%s", device->disk);
    DIR *dir = opendir(path);
    if (dir == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    repl_result result = REPL_SUCCESS;
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(dir)) != NULL;) {
        struct repl_write_counters one = {0};
        if (entry->d_name[0] == '.' ||
            !sysfs_read(partition, sizeof partition, "%s/%s/partition", path, entry->d_name))
            continue;
        result = stat_read(entry->d_name, &one, err);
        if (repl_ok(result)) {
            sum->sectors_written += one.sectors_written;
            sum->sectors_discarded += one.sectors_discarded;
        }
    }
    closedir(dir);
    return result;
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
        REPL_TRY(stat_read(device->disk, &disk, err));
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
    if (strcmp(device->name, device->disk) != 0)
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
    char text[64];
    if (!sysfs_read(text, sizeof text, "/sys/class/block/%s/queue/write_cache", device->disk))
        return repl_fail(err, REPL_E_IO, "%s: write_cache", device->path);
    *write_back = strcmp(text, "write back") == 0;
    return REPL_SUCCESS;
}

/* Undoes mountinfo's octal escapes in place. */
static void mount_unescape(char *text)
{
    char *out = text;
    for (const char *in = text; *in != '\0'; out++) {
        if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' &&
            in[3] >= '0' && in[3] <= '7') {
            *out = (char)((in[1] - '0') << 6 | (in[2] - '0') << 3 | (in[3] - '0'));
            in += 4;
        } else {
            *out = *in++;
        }
    }
    *out = '\0';
}

/* Whether a mount with this device number and source is of the device or a partition of it. btrfs
 * and its like have numbers of their own: there the source decides. */
static bool mount_is_ours(const struct repl_device *device, dev_t number, const char *source)
{
    struct stat st;
    char link[PATH_MAX], path[64], disk[64];
    if (major(number) == 0 && stat(source, &st) == 0 && S_ISBLK(st.st_mode))
        number = st.st_rdev;
    if (number == device->number)
        return true;
    if (strcmp(device->name, device->disk) != 0 || major(number) == 0)
        return false;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(number), minor(number));
    ssize_t length = readlink(path, link, sizeof link - 1);
    if (length <= 0)
        return false;
    link[length] = '\0';
    const char *slash = strrchr(link, '/');
    disk_name(slash != NULL ? slash + 1 : link, disk, sizeof disk);
    return strcmp(disk, device->disk) == 0;
}

static repl_result mount_sync(const char *point, dev_t number, struct repl_error *err)
{
    struct stat st;
    int fd = open(point, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        fd = open(point, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a file bind-mounted */
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: open", point);
    /* something else may be mounted over it */
    bool covered = fstat(fd, &st) != 0 || (major(number) != 0 && st.st_dev != number);
    int failed = !covered && syncfs(fd) != 0 ? errno : 0;
    close(fd);
    if (failed != 0)
        return repl_fail_errno(err, REPL_E_IO, failed, "%s: syncfs", point);
    return REPL_SUCCESS;
}

repl_result repl_device_sync(const struct repl_device *device, struct repl_error *err)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    if (file == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "/proc/self/mountinfo");
    char *line = NULL;
    size_t capacity = 0;
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result) && getline(&line, &capacity, file) > 0) {
        unsigned major_number, minor_number;
        char where[PATH_MAX], source[PATH_MAX] = "";
        const char *tail = strstr(line, " - ");
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &major_number, &minor_number, where) != 3 ||
            tail == NULL || sscanf(tail, " - %*s %4095s", source) != 1)
            continue;
        mount_unescape(where);
        mount_unescape(source);
        if (mount_is_ours(device, makedev(major_number, minor_number), source))
            result = mount_sync(where, makedev(major_number, minor_number), err);
    }
    free(line);
    fclose(file);
    REPL_TRY(result);
    if (fsync(device->fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: fsync", device->path);
    return REPL_SUCCESS;
}
