/*
 * The fields of the superblocks, by offset:
 *
 *   ext2-4  1024 +  24 log2 of the block size less 10   +  56 magic 0xef53
 *                +  76 revision                         +  92 compatible features
 *                +  96 incompatible features            + 228 number of the journal's device
 *   XFS        0 +   0 magic "XFSB"                     +  48 block of the log; 0: it is external
 *   btrfs  65536 +  64 magic "_BHRfS_M"                 + 136 number of devices
 *
 * ext and btrfs are little-endian, XFS is big-endian. In this order: mkfs.ext4 may leave an old
 * btrfs superblock behind, the others clear what was there.
 */
#include "block/filesystem.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/read_full.h"
#include "block/sysfs.h"

#define HEAD_ALIGNMENT 4096u /* what O_DIRECT wants of a buffer */

#define EXT_OFFSET               1024u
#define EXT_FIELDS_SIZE          232u
#define EXT_MAGIC                0xef53u
#define EXT_BLOCK_LOG_MAX        6u
#define EXT_REVISION_MAX         1u
#define EXT_COMPAT_HAS_JOURNAL   0x4u
#define EXT_INCOMPAT_JOURNAL_DEV 0x8u

#define XFS_FIELDS_SIZE 56u

#define BTRFS_OFFSET      65536u
#define BTRFS_FIELDS_SIZE 144u

/* --- superblocks ----------------------------------------------------------------------------- */

static uint32_t u32_at(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static uint64_t u64_at(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return le64toh(value);
}

static bool ext_parse(const uint8_t *super, struct repl_filesystem *out)
{
    /* two bytes of magic are few */
    if ((u32_at(super + 56) & 0xffff) != EXT_MAGIC || u32_at(super + 24) > EXT_BLOCK_LOG_MAX ||
        u32_at(super + 76) > EXT_REVISION_MAX)
        return false;
    bool is_journal = (u32_at(super + 96) & EXT_INCOMPAT_JOURNAL_DEV) != 0;
    uint32_t device = u32_at(super + 228);
    out->kind = is_journal ? REPL_FILESYSTEM_EXT_JOURNAL : REPL_FILESYSTEM_EXT;
    out->external_journal =
        !is_journal && (u32_at(super + 92) & EXT_COMPAT_HAS_JOURNAL) != 0 && device != 0;
    if (out->external_journal)
        out->journal =
            makedev((device & 0xfff00) >> 8, (device & 0xff) | ((device >> 12) & 0xfff00));
    return true;
}

void repl_filesystem_parse(const uint8_t *head, size_t size, struct repl_filesystem *out)
{
    static const uint8_t no_log[8];
    *out = (struct repl_filesystem){.device_count = 1};
    if (size >= EXT_OFFSET + EXT_FIELDS_SIZE && ext_parse(head + EXT_OFFSET, out))
        return;
    if (size >= XFS_FIELDS_SIZE && memcmp(head, "XFSB", 4) == 0) {
        out->kind = REPL_FILESYSTEM_XFS;
        out->external_journal = memcmp(head + 48, no_log, sizeof no_log) == 0;
    } else if (size >= BTRFS_OFFSET + BTRFS_FIELDS_SIZE &&
               memcmp(head + BTRFS_OFFSET + 64, "_BHRfS_M", 8) == 0) {
        out->kind = REPL_FILESYSTEM_BTRFS;
        out->device_count = u64_at(head + BTRFS_OFFSET + 136);
    }
}

/* --- one device ------------------------------------------------------------------------------ */

struct check {
    dev_t device;
    int fd;
    const char *path;
    uint8_t *head; /* REPL_FILESYSTEM_HEAD_SIZE */
    size_t partition_count;
};

static repl_result refuse_btrfs(const struct check *check, const char *other,
                                struct repl_error *err)
{
    return repl_fail(err, REPL_E_REFUSED,
                     "%s is one of several devices of a btrfs filesystem%s%s, and alone is not "
                     "consistent; take the others out of it (\"btrfs device remove\"), or protect "
                     "a filesystem that is on one device",
                     check->path, other[0] != '\0' ? ", another is " : "", other);
}

static repl_result refuse_ext(const struct check *check, const char *where, struct repl_error *err)
{
    return repl_fail(err, REPL_E_REFUSED,
                     "%s: the ext filesystem on %s has its journal on another device, and without "
                     "it is not consistent; unmount it and give it one of its own: \"tune2fs -O "
                     "^has_journal\", then \"tune2fs -j\"",
                     check->path, where);
}

static repl_result refuse_xfs(const struct check *check, const char *where, struct repl_error *err)
{
    return repl_fail(err, REPL_E_REFUSED,
                     "%s: the XFS filesystem on %s has its log on another device, and without it "
                     "is not consistent; XFS cannot move a log: copy the files to a filesystem "
                     "made without \"-l logdev\", and protect that one",
                     check->path, where);
}

/* where: "it", or the name of a partition. */
static repl_result filesystem_check(const struct check *check, const struct repl_filesystem *fs,
                                    const char *where, struct repl_error *err)
{
    if (fs->kind == REPL_FILESYSTEM_XFS && fs->external_journal)
        return refuse_xfs(check, where, err);
    /* by the number that the kernel, too, finds it by */
    if (fs->external_journal && repl_sysfs_disk(fs->journal) != check->device)
        return refuse_ext(check, where, err);
    if (fs->device_count > 1)
        return refuse_btrfs(check, "", err);
    return REPL_SUCCESS;
}

static repl_result head_read(const struct check *check, uint64_t offset,
                             struct repl_filesystem *out, struct repl_error *err)
{
    ssize_t got = repl_read_full(check->fd, check->head, REPL_FILESYSTEM_HEAD_SIZE, offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: reading the superblock at byte %llu",
                               check->path, (unsigned long long)offset);
    repl_filesystem_parse(check->head, (size_t)got, out);
    return REPL_SUCCESS;
}

static repl_result partition_check(void *context, const char *name, struct repl_error *err)
{
    struct check *check = context;
    struct repl_filesystem fs;
    char attribute[300];
    uint64_t start;
    snprintf(attribute, sizeof attribute, "%.250s/start", name);
    if (!repl_sysfs_read_number(check->device, attribute, &start))
        return REPL_SUCCESS; /* it has just been deleted */
    check->partition_count++;
    REPL_TRY(head_read(check, start * REPL_SYSFS_SECTOR_SIZE, &fs, err));
    return filesystem_check(check, &fs, name, err);
}

/* The filesystems on its partitions, or that on the device itself: a partition table need not have
 * overwritten an older superblock. */
static repl_result superblocks_check(struct check *check, struct repl_error *err)
{
    struct repl_filesystem fs;
    if (repl_sysfs_disk(check->device) == check->device)
        REPL_TRY(repl_sysfs_partitions(check->device, partition_check, check, err));
    if (check->partition_count > 0)
        return REPL_SUCCESS;
    REPL_TRY(head_read(check, 0, &fs, err));
    if (fs.kind == REPL_FILESYSTEM_EXT_JOURNAL)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is the external journal of an ext filesystem, which alone is of no "
                         "use; protect a filesystem that has its journal inside",
                         check->path);
    return filesystem_check(check, &fs, "it", err);
}

/* --- btrfs ----------------------------------------------------------------------------------- */

static bool link_number(int directory, const char *name, dev_t *out)
{
    char path[300], text[32] = "";
    unsigned high, low;
    snprintf(path, sizeof path, "%.250s/dev", name);
    int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    if (got <= 0 || sscanf(text, "%u:%u", &high, &low) != 2)
        return false;
    *out = makedev(high, low);
    return true;
}

/* devices: the directory of one mounted btrfs, with a link to each of its devices. */
static repl_result btrfs_check(const struct check *check, DIR *devices, struct repl_error *err)
{
    char other[NAME_MAX + 1] = "";
    bool ours = false;
    for (struct dirent *entry; (entry = readdir(devices)) != NULL;) {
        dev_t number;
        if (entry->d_name[0] == '.' || !link_number(dirfd(devices), entry->d_name, &number))
            continue;
        if (number == check->device || repl_sysfs_disk(number) == check->device)
            ours = true;
        else
            snprintf(other, sizeof other, "%s", entry->d_name);
    }
    return ours && other[0] != '\0' ? refuse_btrfs(check, other, err) : REPL_SUCCESS;
}

/* The mounted ones: to these a device may have been added since the superblock was written. */
static repl_result btrfs_all_check(const struct check *check, struct repl_error *err)
{
    DIR *all = opendir("/sys/fs/btrfs");
    repl_result result = REPL_SUCCESS;
    if (all == NULL)
        return REPL_SUCCESS; /* a kernel without btrfs */
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(all)) != NULL;) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "/sys/fs/btrfs/%s/devices", entry->d_name);
        DIR *devices = entry->d_name[0] != '.' ? opendir(path) : NULL;
        if (devices == NULL)
            continue;
        result = btrfs_check(check, devices, err);
        closedir(devices);
    }
    closedir(all);
    return result;
}

repl_result repl_filesystem_check(dev_t device, int fd, const char *path, struct repl_error *err)
{
    struct check check = {.device = device, .fd = fd, .path = path};
    REPL_TRY(btrfs_all_check(&check, err));
    check.head = aligned_alloc(HEAD_ALIGNMENT, REPL_FILESYSTEM_HEAD_SIZE);
    if (check.head == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    repl_result result = superblocks_check(&check, err);
    free(check.head);
    return result;
}
