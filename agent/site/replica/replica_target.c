/*
 * What the replica is written to: an image of ours in the store, a file
 * somewhere else, or a block device.
 *
 * A device is opened with O_EXCL, which the kernel refuses while it, or a
 * partition of it, is mounted or otherwise taken, and which keeps others from
 * mounting it under our hands. A file is locked with flock. Neither is ever
 * truncated to less than the volume has.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "block/identity.h"
#include "block/sysfs.h"
#include "site/replica/replica_internal.h"

#define ZERO_BLOCK_SIZE (1u << 20)

static enum repl_code code_of(int os_errno)
{
    return os_errno == ENOSPC || os_errno == EDQUOT ? REPL_E_NOSPACE : REPL_E_IO;
}

static repl_result open_failed(const struct replica_target *target, int os_errno,
                               struct repl_error *err)
{
    if (os_errno == EBUSY)
        return repl_fail(err, REPL_E_LOCKED,
                         "%s is mounted or in use by another program: release it, or name another "
                         "replica in [volume NAME]",
                         target->path);
    if (os_errno == ENOENT)
        return repl_fail(err, REPL_E_MISSING,
                         "%s is not there: connect the device, or correct replica in [volume NAME]",
                         target->path);
    return repl_fail_errno(err, code_of(os_errno), os_errno, "cannot open the replica %s",
                           target->path);
}

/* Whether what is missing at path would be a device's name: on the filesystem of /dev, whose names
 * the kernel makes, and not on one mounted below it, such as /dev/shm. Without a filesystem of its
 * own /dev goes by its name. */
static bool is_for_device(const char *path)
{
    struct stat dev, root, parent;
    char copy[PATH_MAX];
    bool named = strncmp(path, "/dev/", 5) == 0;
    if (stat("/dev", &dev) != 0 || stat("/", &root) != 0 || dev.st_dev == root.st_dev)
        return named;
    snprintf(copy, sizeof copy, "%s", path);
    char *directory = dirname(copy);
    while (stat(directory, &parent) != 0 && errno == ENOENT && strlen(directory) > 1)
        directory = dirname(directory);
    return stat(directory, &parent) == 0 ? parent.st_dev == dev.st_dev : named;
}

/* What is never made under a name that leads nowhere: a device, and a file that would come to lie
 * wherever a link points. */
static repl_result missing_examine(const struct replica_target *target, struct repl_error *err)
{
    struct stat link;
    if (is_for_device(target->path))
        return open_failed(target, ENOENT, err);
    if (lstat(target->path, &link) == 0)
        return repl_fail(err, REPL_E_MISSING,
                         "%s is a link that leads nowhere: connect the device it is for, or "
                         "correct replica in [volume NAME]",
                         target->path);
    return REPL_SUCCESS;
}

static repl_result target_examine(struct replica_target *target, bool *exists,
                                  struct repl_error *err)
{
    struct stat status;
    *exists = stat(target->path, &status) == 0;
    if (!*exists && errno != ENOENT)
        return open_failed(target, errno, err);
    if (!*exists)
        REPL_TRY(missing_examine(target, err));
    target->block = *exists && S_ISBLK(status.st_mode);
    if (*exists && !target->block && !S_ISREG(status.st_mode))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is neither a block device nor a file: correct replica in "
                         "[volume NAME]",
                         target->path);
    return REPL_SUCCESS;
}

static repl_result target_lock(const struct replica_target *target, struct repl_error *err)
{
    while (!target->block && flock(target->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return repl_fail(err, REPL_E_LOCKED,
                             "another process holds the replica %s: stop that one first",
                             target->path);
        if (errno != EINTR)
            return repl_fail_errno(err, REPL_E_IO, errno, "cannot lock the replica %s",
                                   target->path);
    }
    return REPL_SUCCESS;
}

static repl_result target_measure(struct replica_target *target, struct repl_error *err)
{
    struct stat status;
    uint64_t size;
    if (target->block ? ioctl(target->fd, BLKGETSIZE64, &size) != 0
                      : fstat(target->fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot tell the size of %s", target->path);
    target->size = target->block ? size : (uint64_t)status.st_size;
    return REPL_SUCCESS;
}

/* --- identity -------------------------------------------------------------------------------- */

static uint64_t hash_of(const char *text)
{
    uint64_t hash = repl_xxh3(text, strlen(text));
    return hash != 0 ? hash : 1;
}

static uint64_t device_identity(dev_t device)
{
    const char *kind;
    char serial[PATH_MAX], part[32], text[PATH_MAX + 64];
    struct stat backing;
    dev_t disk = repl_sysfs_disk(device);
    repl_sysfs_read(device, "partition", part, sizeof part);
    if (repl_identity_serial(disk, &kind, serial, sizeof serial))
        snprintf(text, sizeof text, "%s part %s", serial, part);
    else if (repl_identity_backing(disk, &backing))
        snprintf(text, sizeof text, "loop %llu:%llu part %s", (unsigned long long)backing.st_dev,
                 (unsigned long long)backing.st_ino, part);
    else
        return 0;
    return hash_of(text);
}

/* Never given twice while the system runs, unlike the device's number. */
static uint64_t disk_seq(dev_t device)
{
    uint64_t seq;
    repl_sysfs_read_number(repl_sysfs_disk(device), "diskseq", &seq);
    return seq;
}

/* Not the size: that of a device may grow. */
static repl_result target_identify(struct replica_target *target, struct repl_error *err)
{
    struct stat status;
    char text[64];
    uint64_t opened_seq = 0;
    if (fstat(target->fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine the replica %s",
                               target->path);
    snprintf(text, sizeof text, "file %llu:%llu", (unsigned long long)status.st_dev,
             (unsigned long long)status.st_ino);
    target->identity = target->block ? device_identity(status.st_rdev) : hash_of(text);
    if (!target->block)
        return REPL_SUCCESS;
    target->device = status.st_rdev;
    target->disk_seq =
        ioctl(target->fd, BLKGETDISKSEQ, &opened_seq) == 0 ? opened_seq : disk_seq(status.st_rdev);
    return REPL_SUCCESS;
}

/* --- opening --------------------------------------------------------------------------------- */

/* The name of a new file is durable when its directory is. */
static repl_result directory_sync(const struct replica_target *target, struct repl_error *err)
{
    char copy[PATH_MAX];
    strcpy(copy, target->path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    int os_errno = errno;
    if (fd >= 0)
        close(fd);
    if (!good)
        return repl_fail_errno(err, REPL_E_IO, os_errno, "cannot make the name %s durable",
                               target->path);
    return REPL_SUCCESS;
}

repl_result replica_target_open(struct replica_target *target, uint64_t size_known, bool *fresh,
                                struct repl_error *err)
{
    bool exists;
    REPL_TRY(target_examine(target, &exists, err));
    int flags = O_RDWR | O_CLOEXEC | (target->image ? O_NOFOLLOW : 0);
    flags |= target->block ? O_EXCL : O_CREAT;
    target->fd = open(target->path, flags, 0600);
    if (target->fd < 0)
        return open_failed(target, errno, err);
    repl_result result = target_lock(target, err);
    if (repl_ok(result))
        result = target_measure(target, err);
    if (repl_ok(result))
        result = target_identify(target, err);
    if (repl_ok(result) && !exists)
        result = directory_sync(target, err);
    if (!repl_ok(result))
        replica_target_close(target);
    *fresh = !exists || (target->size == 0 && !target->block) || target->size < size_known;
    return result;
}

void replica_target_close(struct replica_target *target)
{
    if (target->fd >= 0)
        close(target->fd);
    target->fd = -1;
}

static bool device_is_there(const struct replica_target *target)
{
    struct stat named;
    return stat(target->path, &named) == 0 && S_ISBLK(named.st_mode) &&
           named.st_rdev == target->device &&
           (target->disk_seq == 0 || disk_seq(named.st_rdev) == target->disk_seq);
}

bool replica_target_is_there(const struct replica_target *target)
{
    struct stat opened, named;
    if (target->fd < 0 || target->block)
        return target->fd >= 0 && device_is_there(target);
    return fstat(target->fd, &opened) == 0 && stat(target->path, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

repl_result replica_target_reset(struct replica_target *target, struct repl_error *err)
{
    bool fresh;
    if (!target->image && target->fd >= 0)
        return REPL_SUCCESS;
    replica_target_close(target);
    if (target->image && unlink(target->path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove the old replica %s",
                               target->path);
    return replica_target_open(target, 0, &fresh, err);
}

repl_result replica_target_resize(struct replica_target *target, uint64_t size,
                                  struct repl_error *err)
{
    if (target->block && target->size < size)
        REPL_TRY(target_measure(target, err)); /* it may have been enlarged */
    if (target->block && target->size < size)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s has %llu bytes and the volume %llu: enlarge the device, or name "
                         "another replica in [volume NAME]",
                         target->path, (unsigned long long)target->size, (unsigned long long)size);
    if (target->block || target->size == size)
        return REPL_SUCCESS;
    if (ftruncate(target->fd, (off_t)size) != 0)
        return repl_fail_errno(err, code_of(errno), errno, "cannot make %s %llu bytes long",
                               target->path, (unsigned long long)size);
    target->size = size;
    return REPL_SUCCESS;
}

repl_result replica_target_write(struct replica_target *target, uint64_t offset, const void *data,
                                 size_t size, struct repl_error *err)
{
    const uint8_t *bytes = data;
    while (atomic_load(&target->held))
        usleep(1000);
    while (size > 0) {
        ssize_t written = pwrite(target->fd, bytes, size, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            int os_errno = written < 0 ? errno : ENOSPC;
            return repl_fail_errno(err, code_of(os_errno), os_errno,
                                   "cannot write the replica %s at byte %llu", target->path,
                                   (unsigned long long)offset);
        }
        bytes += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    return REPL_SUCCESS;
}

/* Where neither a hole nor the device's own zeroes can be had. */
static repl_result zeros_write(struct replica_target *target, uint64_t offset, uint64_t size,
                               struct repl_error *err)
{
    uint8_t *zeros = calloc(1, ZERO_BLOCK_SIZE);
    repl_result result = REPL_SUCCESS;
    if (zeros == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory to write zeros to %s", target->path);
    while (repl_ok(result) && size > 0) {
        size_t piece = size < ZERO_BLOCK_SIZE ? (size_t)size : ZERO_BLOCK_SIZE;
        result = replica_target_write(target, offset, zeros, piece, err);
        offset += piece;
        size -= piece;
    }
    free(zeros);
    return result;
}

repl_result replica_target_zero(struct replica_target *target, uint64_t offset, uint64_t size,
                                struct repl_error *err)
{
    uint64_t range[2] = {offset, size};
    if (target->block && ioctl(target->fd, BLKZEROOUT, range) == 0)
        return REPL_SUCCESS;
    if (!target->block && fallocate(target->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                    (off_t)offset, (off_t)size) == 0)
        return REPL_SUCCESS;
    return zeros_write(target, offset, size, err);
}

repl_result replica_target_sync(struct replica_target *target, struct repl_error *err)
{
    int os_errno = atomic_exchange(&target->sync_errno, 0);
    if (os_errno == 0 && fdatasync(target->fd) != 0)
        os_errno = errno;
    if (os_errno != 0)
        return repl_fail_errno(err, REPL_E_IO, os_errno,
                               "cannot make the replica %s durable: check the disk under it",
                               target->path);
    return REPL_SUCCESS;
}
