/*
 * What a target is, and whether it may be overwritten.
 *
 * sysfs says how devices relate (block/sysfs.h); who is built on a device stands
 * in its holders/.
 */
#include "recover/target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/mounts.h"
#include "block/sysfs.h"

/* --- sysfs ----------------------------------------------------------------------------------- */

/* Without blanks around it; "" where there is none. */
static void sys_read(dev_t device, const char *attribute, char *out, size_t out_size)
{
    char line[256];
    repl_sysfs_read(device, attribute, line, sizeof line);
    char *begin = line + strspn(line, " \t");
    size_t size = strlen(begin);
    while (size > 0 && begin[size - 1] == ' ')
        size--;
    snprintf(out, out_size, "%.*s", (int)size, begin);
    for (char *c = out; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?'; /* a device's own words are not to steer a terminal */
    }
}

/* The first of several attributes that has something. */
static void sys_read_any(dev_t device, const char *const *attributes, char *out, size_t out_size)
{
    out[0] = '\0';
    for (; *attributes != NULL && out[0] == '\0'; attributes++)
        sys_read(device, *attributes, out, out_size);
}

bool repl_target_overlaps(const struct repl_target *target, const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return false;
    if (target->is_device)
        return S_ISBLK(status.st_mode) && repl_sysfs_overlap(status.st_rdev, target->device);
    return target->exists && S_ISREG(status.st_mode) && status.st_dev == target->device &&
           status.st_ino == target->inode;
}

/* --- examining ------------------------------------------------------------------------------- */

struct signature {
    const char *name;
    size_t offset, size;
    const char *bytes;
};

/* Not complete: the operator is asked in any case. */
const char *repl_target_content(const uint8_t *head, size_t size)
{
    static const struct signature signatures[] = {
        {"an ext2, ext3 or ext4 filesystem", 1080, 2, "\x53\xef"},
        {"an XFS filesystem", 0, 4, "XFSB"},
        {"a Btrfs filesystem", 65600, 8, "_BHRfS_M"},
        {"an LVM physical volume", 512, 8, "LABELONE"},
        {"an encrypted volume (LUKS)", 0, 6, "LUKS\xba\xbe"},
        {"swap space", 4086, 10, "SWAPSPACE2"},
        {"a part of a software RAID", 4096, 4, "\xfc\x4e\x2b\xa9"},
        {"a partition table (GPT)", 512, 8, "EFI PART"},
        {"a partition table (GPT)", 4096, 8, "EFI PART"},
        {"a boot sector or partition table (MBR)", 510, 2, "\x55\xaa"},
    };
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
        const struct signature *s = &signatures[i];
        if (s->offset + s->size <= size && memcmp(head + s->offset, s->bytes, s->size) == 0)
            return s->name;
    }
    return "nothing that is known at its beginning";
}

static void content_guess(int fd, char *out, size_t out_size)
{
    uint8_t *bytes = calloc(1, REPL_TARGET_HEAD_SIZE);
    ssize_t got = bytes == NULL ? -1 : pread(fd, bytes, REPL_TARGET_HEAD_SIZE, 0);
    snprintf(out, out_size, "%s",
             got < 0 ? "could not be read" : repl_target_content(bytes, (size_t)got));
    free(bytes);
}

static void device_describe(struct repl_target *target)
{
    static const char *const models[] = {"device/model", "../device/model", "dm/name",
                                         "loop/backing_file", NULL};
    static const char *const serials[] = {
        "serial",      "device/serial",  "../device/serial", "wwid",
        "device/wwid", "../device/wwid", "dm/uuid",          NULL};
    char start[32], backing[160], sequence[32];
    sys_read_any(target->device, models, target->model, sizeof target->model);
    sys_read_any(target->device, serials, target->serial, sizeof target->serial);
    sys_read(target->device, "start", start, sizeof start);
    sys_read(target->device, "loop/backing_file", backing, sizeof backing);
    sys_read(repl_sysfs_disk(target->device), "diskseq", sequence, sizeof sequence);
    /* Where nothing stays the same over a reboot, the kernel's count of disks at least tells one
     * from the next that gets its number. */
    if (target->serial[0] != '\0')
        snprintf(target->identity, sizeof target->identity, "serial %s size %" PRIu64 " start %s",
                 target->serial, target->size, start);
    else if (backing[0] != '\0')
        snprintf(target->identity, sizeof target->identity, "loop %s size %" PRIu64 " start %s",
                 backing, target->size, start);
    else
        snprintf(target->identity, sizeof target->identity,
                 "device %u:%u sequence %s size %" PRIu64 " start %s", major(target->device),
                 minor(target->device), sequence, target->size, start);
}

repl_result repl_target_identify_device(struct repl_target *target, int fd, struct repl_error *err)
{
    struct stat status;
    int block_size = 0;
    if (fstat(fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine %s", target->path);
    if (!S_ISBLK(status.st_mode))
        return repl_fail(err, REPL_E_REFUSED, "%s is no block device any more: try again",
                         target->path);
    if (ioctl(fd, BLKGETSIZE64, &target->size) != 0 || ioctl(fd, BLKSSZGET, &block_size) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot find the size of %s", target->path);
    target->device = status.st_rdev;
    target->block_size = block_size > 0 ? (uint32_t)block_size : 512;
    repl_sysfs_read_number(repl_sysfs_disk(target->device), "diskseq", &target->diskseq);
    device_describe(target);
    return REPL_SUCCESS;
}

static repl_result device_examine(struct repl_target *target, struct repl_error *err)
{
    target->is_device = true;
    int fd = open(target->resolved, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open %s", target->path);
    repl_result result = repl_target_identify_device(target, fd, err);
    if (repl_ok(result))
        content_guess(fd, target->content, sizeof target->content);
    close(fd);
    return result;
}

void repl_target_identify_file(struct repl_target *target, int fd, const char *path,
                               const struct stat *status)
{
    struct statx more;
    char born[48] = "at a time not known";
    target->device = status->st_dev;
    target->inode = status->st_ino;
    /* A filesystem gives the number of a file that is gone to the next one. */
    if (statx(fd, path, AT_EMPTY_PATH, STATX_BTIME, &more) == 0 && more.stx_mask & STATX_BTIME)
        snprintf(born, sizeof born, "%lld.%09u", (long long)more.stx_btime.tv_sec,
                 (unsigned)more.stx_btime.tv_nsec);
    snprintf(target->identity, sizeof target->identity, "file %u:%u %llu born %s",
             major(status->st_dev), minor(status->st_dev), (unsigned long long)status->st_ino,
             born);
}

static void file_examine(struct repl_target *target, const struct stat *status)
{
    target->exists = true;
    target->size = (uint64_t)status->st_size;
    repl_target_identify_file(target, AT_FDCWD, target->resolved, status);
}

repl_result repl_target_examine(const char *path, struct repl_target *out, struct repl_error *err)
{
    struct stat status;
    *out = (struct repl_target){.fd = -1, .direct_fd = -1, .path = strdup(path)};
    out->resolved = realpath(path, NULL);
    if (out->resolved == NULL && errno == ENOENT && lstat(path, &status) != 0 && errno == ENOENT)
        out->resolved = strdup(path); /* a new file; that its directory is there, open finds out */
    repl_result result = REPL_SUCCESS;
    if (out->path == NULL)
        result = repl_fail(err, REPL_E_NOMEM, "out of memory");
    else if (out->resolved == NULL)
        result = repl_fail_errno(err, REPL_E_USAGE, errno, "cannot find %s", path);
    else if (stat(out->resolved, &status) != 0 && errno != ENOENT)
        result = repl_fail_errno(err, REPL_E_IO, errno, "cannot examine %s", path);
    else if (access(out->resolved, F_OK) != 0)
        out->exists = false;
    else if (S_ISBLK(status.st_mode))
        result = device_examine(out, err);
    else if (S_ISREG(status.st_mode))
        file_examine(out, &status);
    else
        result =
            repl_fail(err, REPL_E_USAGE,
                      "%s is neither a block device nor a regular file: name one of these", path);
    if (!repl_ok(result))
        repl_target_fini(out);
    return result;
}

/* --- who uses it ----------------------------------------------------------------------------- */

static bool path_overlaps(const struct repl_target *target, const char *path)
{
    return path[0] == '/' && repl_target_overlaps(target, path);
}

static repl_result check_mount(void *context, const struct repl_mount *mount,
                               struct repl_error *err)
{
    const struct repl_target *target = context;
    if (repl_sysfs_overlap(mount->device, target->device) || path_overlaps(target, mount->source))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s, or a part of it, is mounted on %s: unmount it first, or restore "
                         "somewhere else",
                         target->path, mount->point);
    return REPL_SUCCESS;
}

static repl_result check_swaps(const struct repl_target *target, struct repl_error *err)
{
    FILE *file = fopen("/proc/swaps", "re");
    char line[512], path[256];
    repl_result result = REPL_SUCCESS;
    if (file == NULL)
        return REPL_SUCCESS; /* a kernel without swap */
    while (repl_ok(result) && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%255s", path) == 1 && path_overlaps(target, path))
            result = repl_fail(err, REPL_E_REFUSED,
                               "%s, or a part of it, is swap space in use: \"swapoff %s\" first",
                               target->path, path);
    }
    fclose(file);
    return result;
}

/* Refuses where somebody is built on the device, or on the partition whose directory within it is
 * below ("" or "sda1/"). */
static repl_result check_holder(const struct repl_target *target, dev_t device, const char *below,
                                struct repl_error *err)
{
    char path[PATH_MAX];
    repl_result result = REPL_SUCCESS;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%sholders", major(device), minor(device),
             below);
    DIR *listing = opendir(path);
    if (listing == NULL)
        return REPL_SUCCESS;
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(listing)) != NULL;) {
        if (entry->d_name[0] != '.')
            result = repl_fail(err, REPL_E_REFUSED,
                               "%s, or a part of it, is used by %s (device-mapper, RAID or the "
                               "like): take that down first",
                               target->path, entry->d_name);
    }
    closedir(listing);
    return result;
}

static repl_result check_partition(void *context, const char *name, struct repl_error *err)
{
    const struct repl_target *target = context;
    char below[300];
    snprintf(below, sizeof below, "%.255s/", name);
    return check_holder(target, target->device, below, err);
}

static repl_result check_holders(const struct repl_target *target, struct repl_error *err)
{
    dev_t disk = repl_sysfs_disk(target->device);
    REPL_TRY(check_holder(target, target->device, "", err));
    if (disk != target->device)
        return check_holder(target, disk, "", err);
    return repl_sysfs_partitions(disk, check_partition, (void *)target, err);
}

static repl_result check_loops(const struct repl_target *target, struct repl_error *err)
{
    DIR *listing = opendir("/sys/block");
    repl_result result = REPL_SUCCESS;
    if (listing == NULL)
        return REPL_SUCCESS;
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(listing)) != NULL;) {
        char path[PATH_MAX], backing[PATH_MAX] = "";
        if (strncmp(entry->d_name, "loop", 4) != 0)
            continue;
        snprintf(path, sizeof path, "/sys/block/%s/loop/backing_file", entry->d_name);
        FILE *file = fopen(path, "re");
        if (file == NULL)
            continue;
        if (fgets(backing, sizeof backing, file) != NULL) {
            backing[strcspn(backing, "\n")] = '\0';
            if (path_overlaps(target, backing))
                result = repl_fail(err, REPL_E_REFUSED,
                                   "%s is what the device /dev/%s is made of: \"losetup -d "
                                   "/dev/%s\" first",
                                   target->path, entry->d_name, entry->d_name);
        }
        fclose(file);
    }
    closedir(listing);
    return result;
}

static repl_result check_writable(const struct repl_target *target, struct repl_error *err)
{
    char text[8];
    sys_read(target->device, "ro", text, sizeof text);
    if (strcmp(text, "1") == 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is read-only: \"blockdev --setrw %s\" if it should not be",
                         target->path, target->path);
    return REPL_SUCCESS;
}

repl_result repl_target_check_unused(const struct repl_target *target, struct repl_error *err)
{
    REPL_TRY(check_loops(target, err));
    if (!target->is_device)
        return target->exists ? check_swaps(target, err) : REPL_SUCCESS;
    REPL_TRY(check_writable(target, err));
    REPL_TRY(repl_mounts_visit(check_mount, (void *)target, err));
    REPL_TRY(check_swaps(target, err));
    return check_holders(target, err);
}
