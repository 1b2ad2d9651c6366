/*
 * What a target is, and whether it may be overwritten.
 *
 * sysfs says how devices relate: a partition lies in its disk's directory, who
 * is built on a device stands in its holders/. Two devices overlap when they are
 * the same, or one is the disk that the other is a partition of.
 */
#include "recover/target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* --- sysfs ----------------------------------------------------------------------------------- */

/* The first line of a file of sysfs, without blanks around it; "" where there is none. */
static void sys_read(dev_t device, const char *below, char *out, size_t out_size)
{
    char path[PATH_MAX], line[256] = "";
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%s", major(device), minor(device), below);
    FILE *file = fopen(path, "re");
    if (file != NULL) {
        if (fgets(line, sizeof line, file) == NULL)
            line[0] = '\0';
        fclose(file);
    }
    char *begin = line + strspn(line, " \t");
    size_t size = strcspn(begin, "\n");
    while (size > 0 && begin[size - 1] == ' ')
        size--;
    snprintf(out, out_size, "%.*s", (int)size, begin);
    for (char *c = out; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = '?'; /* a device's own words are not to steer a terminal */
    }
}

/* The first of several files that has something. */
static void sys_read_any(dev_t device, const char *const *below, char *out, size_t out_size)
{
    out[0] = '\0';
    for (; *below != NULL && out[0] == '\0'; below++)
        sys_read(device, *below, out, out_size);
}

static bool sys_number(dev_t device, const char *below, dev_t *out)
{
    char text[64];
    unsigned high, low;
    sys_read(device, below, text, sizeof text);
    if (sscanf(text, "%u:%u", &high, &low) != 2)
        return false;
    *out = makedev(high, low);
    return true;
}

/* The disk a partition lies on; the device itself where it is none. */
static dev_t disk_of(dev_t device)
{
    char partition[16];
    dev_t disk;
    sys_read(device, "partition", partition, sizeof partition);
    if (partition[0] == '\0' || !sys_number(device, "../dev", &disk))
        return device;
    return disk;
}

static bool overlap(dev_t a, dev_t b)
{
    dev_t disk_a = disk_of(a), disk_b = disk_of(b);
    return a == b || (disk_a == disk_b && (a == disk_a || b == disk_b));
}

bool repl_target_overlaps(const struct repl_target *target, const char *path)
{
    struct stat status;
    if (stat(path, &status) != 0)
        return false;
    if (target->is_device)
        return S_ISBLK(status.st_mode) && overlap(status.st_rdev, target->device);
    return target->exists && S_ISREG(status.st_mode) && status.st_dev == target->device &&
           status.st_ino == target->inode;
}

/* --- examining ------------------------------------------------------------------------------- */

struct signature {
    const char *name;
    size_t offset, size;
    const char *bytes;
};

/* What people would not want to lose. Not complete: the operator is asked in any case. */
static void content_guess(int fd, char *out, size_t out_size)
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
    size_t room = 128u << 10;
    uint8_t *bytes = calloc(1, room);
    ssize_t got = bytes == NULL ? -1 : pread(fd, bytes, room, 0);
    const char *found = got < 0 ? "could not be read" : "nothing that is known at its beginning";
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0] && got > 0; i++) {
        const struct signature *s = &signatures[i];
        if (s->offset + s->size <= (size_t)got &&
            memcmp(bytes + s->offset, s->bytes, s->size) == 0) {
            found = s->name;
            break;
        }
    }
    free(bytes);
    snprintf(out, out_size, "%s", found);
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
    sys_read(disk_of(target->device), "diskseq", sequence, sizeof sequence);
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

static repl_result device_examine(struct repl_target *target, dev_t device, struct repl_error *err)
{
    target->is_device = true;
    target->device = device;
    int fd = open(target->resolved, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open %s", target->path);
    int block_size = 0;
    bool known =
        ioctl(fd, BLKGETSIZE64, &target->size) == 0 && ioctl(fd, BLKSSZGET, &block_size) == 0;
    int os_errno = errno;
    content_guess(fd, target->content, sizeof target->content);
    close(fd);
    if (!known)
        return repl_fail_errno(err, REPL_E_IO, os_errno, "cannot find the size of %s",
                               target->path);
    target->block_size = block_size > 0 ? (uint32_t)block_size : 512;
    device_describe(target);
    return REPL_SUCCESS;
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
        result = device_examine(out, status.st_rdev, err);
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

/* By number, and by source: btrfs shows a number that belongs to no device. */
static repl_result check_mounts(const struct repl_target *target, struct repl_error *err)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t room = 0;
    repl_result result = REPL_SUCCESS;
    if (file == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read /proc/self/mountinfo");
    while (repl_ok(result) && getline(&line, &room, file) > 0) {
        unsigned high, low;
        char where[256], source[256] = "";
        if (sscanf(line, "%*s %*s %u:%u %*s %255s", &high, &low, where) != 3)
            continue;
        const char *rest = strstr(line, " - ");
        if (rest == NULL || sscanf(rest, " - %*s %255s", source) != 1)
            source[0] = '\0';
        if (overlap(makedev(high, low), target->device) || path_overlaps(target, source))
            result = repl_fail(err, REPL_E_REFUSED,
                               "%s, or a part of it, is mounted on %s: unmount it first, or "
                               "restore somewhere else",
                               target->path, where);
    }
    free(line);
    fclose(file);
    return result;
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

/* The name of somebody who is built on the device; false: nobody. */
static bool holder_find(dev_t device, const char *below, char *holder, size_t size)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/%sholders", major(device), minor(device),
             below);
    DIR *listing = opendir(path);
    bool found = false;
    if (listing == NULL)
        return false;
    for (struct dirent *entry; !found && (entry = readdir(listing)) != NULL;) {
        found = entry->d_name[0] != '.';
        if (found)
            snprintf(holder, size, "%s", entry->d_name);
    }
    closedir(listing);
    return found;
}

/* The device's own, and those of its partitions, which are directories within its own. */
static repl_result check_holders(const struct repl_target *target, struct repl_error *err)
{
    char path[PATH_MAX], below[300], holder[256];
    dev_t disk = disk_of(target->device);
    bool held = holder_find(target->device, "", holder, sizeof holder) ||
                (disk != target->device && holder_find(disk, "", holder, sizeof holder));
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(target->device),
             minor(target->device));
    DIR *listing = held ? NULL : opendir(path);
    for (struct dirent *entry; listing != NULL && !held && (entry = readdir(listing)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(below, sizeof below, "%s/", entry->d_name);
        held = entry->d_type == DT_DIR && strcmp(entry->d_name, "holders") != 0 &&
               holder_find(target->device, below, holder, sizeof holder);
    }
    if (listing != NULL)
        closedir(listing);
    if (held)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s, or a part of it, is used by %s (device-mapper, RAID or the like): "
                         "take that down first",
                         target->path, holder);
    return REPL_SUCCESS;
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
    REPL_TRY(check_mounts(target, err));
    REPL_TRY(check_swaps(target, err));
    return check_holders(target, err);
}
