/*
 * Writing and reading back a target that target_check.c has found fit.
 *
 * A device is opened with O_EXCL, which the kernel grants to nobody else while
 * it is mounted or held, whatever mount namespace that is in; the checks before
 * are there to say why. Data goes past the page cache, so a restore does not
 * push the host's own working set out of memory. What O_DIRECT cannot do, an
 * end that is no whole block, goes through the cache.
 */
#include "recover/target.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/read_full.h"

static repl_result target_fail(const struct repl_target *target, struct repl_error *err,
                               const char *what)
{
    int os_errno = errno;
    enum repl_code code = os_errno == ENOSPC || os_errno == EDQUOT ? REPL_E_NOSPACE : REPL_E_IO;
    return repl_fail_errno(err, code, os_errno, "cannot %s %s", what, target->path);
}

static repl_result device_open_exclusive(struct repl_target *target, int flags,
                                         struct repl_error *err)
{
    target->fd = open(target->resolved, flags | O_EXCL | O_CLOEXEC);
    if (target->fd < 0 && errno == EBUSY)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is in use (mounted, perhaps in a container, or held by another "
                         "device): \"lsblk %s\" shows by what; release it first",
                         target->path, target->resolved);
    if (target->fd < 0)
        return target_fail(target, err, "open");
    const struct repl_target examined = *target;
    REPL_TRY(repl_target_identify_device(target, target->fd, err));
    if (target->device != examined.device || target->diskseq != examined.diskseq ||
        strcmp(target->identity, examined.identity) != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s became another device meanwhile (it was %s, and is %s): try again",
                         target->path, examined.identity, target->identity);
    return REPL_SUCCESS;
}

static repl_result device_open(struct repl_target *target, struct repl_error *err)
{
    char path[64];
    REPL_TRY(device_open_exclusive(target, O_RDWR, err));
    /* not by its name, which may be another's by now */
    snprintf(path, sizeof path, "/proc/self/fd/%d", target->fd);
    target->direct_fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    target->touched = true;
    return REPL_SUCCESS;
}

/* A new file's name is durable once its directory has been synced. */
static repl_result directory_sync(const struct repl_target *target, struct repl_error *err)
{
    char *copy = strdup(target->resolved);
    if (copy == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(copy);
    bool durable = fd >= 0 && fsync(fd) == 0;
    repl_result result =
        durable ? REPL_SUCCESS : target_fail(target, err, "make durable the name of");
    if (fd >= 0)
        close(fd);
    return result;
}

static repl_result file_open(struct repl_target *target, uint64_t volume_size, bool keep,
                             struct repl_error *err)
{
    struct stat status;
    int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (target->exists ? 0 : O_CREAT | O_EXCL);
    target->fd = open(target->resolved, flags, 0600);
    if (target->fd < 0)
        return target_fail(target, err, target->exists ? "open" : "make");
    if (fstat(target->fd, &status) != 0)
        return target_fail(target, err, "examine");
    char examined[REPL_TARGET_IDENTITY_SIZE];
    memcpy(examined, target->identity, sizeof examined);
    repl_target_identify_file(target, target->fd, "", &status);
    if (!S_ISREG(status.st_mode) || (target->exists && strcmp(examined, target->identity) != 0))
        return repl_fail(err, REPL_E_REFUSED, "%s became another file meanwhile: try again",
                         target->path);
    target->touched = true;
    if (!keep && ftruncate(target->fd, 0) != 0)
        return target_fail(target, err, "empty");
    if (ftruncate(target->fd, (off_t)volume_size) != 0)
        return target_fail(target, err, "give its size to");
    target->fresh = !keep;
    target->direct_fd = open(target->resolved, O_RDWR | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
    return target->exists ? REPL_SUCCESS : directory_sync(target, err);
}

repl_result repl_target_open(struct repl_target *target, uint64_t volume_size, bool keep,
                             struct repl_error *err)
{
    return target->is_device ? device_open(target, err) : file_open(target, volume_size, keep, err);
}

repl_result repl_target_try_open(const struct repl_target *target, struct repl_error *err)
{
    struct repl_target tried = *target;
    repl_result result = REPL_SUCCESS;
    if (target->is_device) { /* who opens it for writing makes udev look at it when it is closed */
        result = device_open_exclusive(&tried, O_RDONLY, err);
        if (tried.fd >= 0)
            close(tried.fd);
        REPL_TRY(result);
    }
    char *copy = strdup(target->resolved);
    if (copy == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    bool writable = access(target->exists || target->is_device ? copy : dirname(copy), W_OK) == 0;
    if (!writable)
        result = target_fail(target, err, target->exists || target->is_device ? "open" : "make");
    free(copy);
    return result;
}

static size_t direct_unit(const struct repl_target *target)
{
    return target->is_device ? target->block_size : REPL_TARGET_ALIGNMENT;
}

/* Whole blocks go past the page cache: for a file it costs several times what the disk takes, and
 * lets one thread in at a time. */
static int descriptor_for(const struct repl_target *target, uint64_t offset, size_t size)
{
    bool whole = target->direct_fd >= 0 && (offset | size) % direct_unit(target) == 0;
    return whole ? target->direct_fd : target->fd;
}

repl_result repl_target_write(const struct repl_target *target, uint64_t offset, const void *data,
                              size_t size, struct repl_error *err)
{
    const uint8_t *bytes = data;
    uint64_t begin = offset;
    size_t total = size;
    bool cached = false;
    while (size > 0) {
        int fd = cached ? target->fd : descriptor_for(target, offset, size);
        ssize_t written = pwrite(fd, bytes, size, (off_t)offset);
        if (written < 0 && errno == EINVAL && fd == target->direct_fd) {
            cached = true; /* it wants larger blocks */
            continue;
        }
        if (written < 0 && errno == EINTR)
            continue;
        if (written == 0)
            errno = EIO;
        if (written <= 0)
            return target_fail(target, err, "write");
        cached |= fd == target->fd;
        bytes += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    /* The disk begins with it now, not at the next sync, which says what came of it. */
    if (cached && !target->is_device)
        sync_file_range(target->fd, (off_t)begin, (off_t)total, SYNC_FILE_RANGE_WRITE);
    return REPL_SUCCESS;
}

static repl_result zeros_write(const struct repl_target *target, uint64_t offset, uint64_t size,
                               struct repl_error *err)
{
    size_t room = 1u << 20;
    void *zeros = aligned_alloc(REPL_TARGET_ALIGNMENT, room);
    if (zeros == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a buffer");
    memset(zeros, 0, room);
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result) && size > 0) {
        size_t piece = size < room ? (size_t)size : room;
        result = repl_target_write(target, offset, zeros, piece, err);
        offset += piece;
        size -= piece;
    }
    free(zeros);
    return result;
}

repl_result repl_target_zero(const struct repl_target *target, uint64_t offset, uint64_t size,
                             struct repl_error *err)
{
    if (target->fresh)
        return REPL_SUCCESS;
    /* A file gets a hole. So does a device that can give the room back and reads as zeros then; of
     * a device it has to be whole blocks. */
    bool whole = !target->is_device || (offset | size) % target->block_size == 0;
    if (whole && fallocate(target->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                           (off_t)size) == 0)
        return REPL_SUCCESS;
    /* Else the kernel lets the device zero it, or writes zeros itself. */
    uint64_t range[2] = {offset, size};
    if (target->is_device && whole && ioctl(target->fd, BLKZEROOUT, range) == 0)
        return REPL_SUCCESS;
    return zeros_write(target, offset, size, err);
}

/* Reads up to the end of the file, in whole aligned blocks; the bytes wanted must be among them. */
static bool direct_read(const struct repl_target *target, uint64_t offset, uint8_t *data,
                        size_t size)
{
    size_t unit = direct_unit(target);
    size_t rounded = (size + unit - 1) / unit * unit, done = 0;
    if (target->direct_fd < 0 || offset % unit != 0)
        return false;
    while (done < size) {
        ssize_t got = pread(target->direct_fd, data + done, rounded - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        /* A short read that ends within a block cannot be continued directly. */
        if (got <= 0 || ((size_t)got % unit != 0 && done + (size_t)got < size))
            return false;
        done += (size_t)got;
    }
    return true;
}

repl_result repl_target_read(const struct repl_target *target, uint64_t offset, void *data,
                             size_t size, struct repl_error *err)
{
    if (direct_read(target, offset, data, size))
        return REPL_SUCCESS;
    posix_fadvise(target->fd, (off_t)offset, (off_t)size, POSIX_FADV_DONTNEED);
    ssize_t got = repl_read_full(target->fd, data, size, offset);
    if (got >= 0)
        errno = EIO; /* it has become shorter */
    return got == (ssize_t)size ? REPL_SUCCESS : target_fail(target, err, "read back");
}

repl_result repl_target_sync(const struct repl_target *target, struct repl_error *err)
{
    if (fdatasync(target->fd) != 0)
        return target_fail(target, err, "make durable what was written to");
    return REPL_SUCCESS;
}

void repl_target_drop_cache(const struct repl_target *target)
{
    posix_fadvise(target->fd, 0, 0, POSIX_FADV_DONTNEED);
}

void repl_target_fini(struct repl_target *target)
{
    if (target->fd >= 0)
        close(target->fd);
    if (target->direct_fd >= 0)
        close(target->direct_fd);
    free(target->path);
    free(target->resolved);
    *target = (struct repl_target){.fd = -1, .direct_fd = -1};
}
