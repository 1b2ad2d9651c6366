#include "source/capture/track_target.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* A kernel that does not show queue/io_timeout has the default of 30 s, too. */
#define IO_TIMEOUT_DEFAULT_MS 30000

/* --- sysfs ----------------------------------------------------------------------------------- */

static bool text_read(const char *directory, const char *name, char *out, size_t size)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
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
    return true;
}

static bool number_read(const char *directory, const char *name, uint64_t *out)
{
    char text[64], *end;
    *out = 0;
    if (!text_read(directory, name, text, sizeof text))
        return false;
    *out = strtoull(text, &end, 10);
    return end != text;
}

/* The device's directory in sysfs, and its disk's, which for a partition is the one above. */
static repl_result directories_find(dev_t device, char own[PATH_MAX], char disk[PATH_MAX],
                                    struct repl_error *err)
{
    char path[64];
    uint64_t partition;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u", major(device), minor(device));
    if (realpath(path, own) == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: has the device gone?", path);
    memcpy(disk, own, strlen(own) + 1);
    if (number_read(own, "partition", &partition))
        *strrchr(disk, '/') = '\0';
    return REPL_SUCCESS;
}

repl_result repl_track_target_find(dev_t device, const char *identity,
                                   struct repl_track_target *out, struct repl_error *err)
{
    char own[PATH_MAX], disk[PATH_MAX], text[64];
    uint64_t timeout_ms;
    unsigned disk_major, disk_minor;
    REPL_TRY(directories_find(device, own, disk, err));
    *out = (struct repl_track_target){.device = device};
    snprintf(out->disk, sizeof out->disk, "%.63s", strrchr(disk, '/') + 1);
    snprintf(out->identity, sizeof out->identity, "%.255s", identity);
    if (!text_read(disk, "dev", text, sizeof text) ||
        sscanf(text, "%u:%u", &disk_major, &disk_minor) != 2)
        return repl_fail(err, REPL_E_IO, "%s/dev cannot be read", disk);
    out->disk_major = disk_major;
    out->disk_minor = disk_minor;
    number_read(own, "start", &out->start_sector); /* a whole disk has none */
    if (!number_read(own, "size", &out->sector_count) || out->sector_count == 0)
        return repl_fail(err, REPL_E_REFUSED, "%s has no medium (its size is 0)", out->disk);
    number_read(disk, "diskseq", &out->diskseq);
    if (!text_read(disk, "queue/iostats", text, sizeof text) || strcmp(text, "0") == 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "the kernel does not account the I/O of %s, so its tracking could not be "
                         "audited; echo 1 > /sys/block/%s/queue/iostats",
                         out->disk, out->disk);
    if (!number_read(disk, "queue/io_timeout", &timeout_ms) || timeout_ms == 0)
        timeout_ms = IO_TIMEOUT_DEFAULT_MS;
    out->io_timeout_ns = (int64_t)timeout_ms * 1000000;
    return REPL_SUCCESS;
}

bool repl_track_target_same(const struct repl_track_target *then,
                            const struct repl_track_target *now, char *why, size_t why_size)
{
    why[0] = '\0';
    if (strcmp(then->identity, now->identity) != 0)
        snprintf(why, why_size, "the device was %s and is now %s", then->identity, now->identity);
    else if (then->disk_major != now->disk_major || then->disk_minor != now->disk_minor)
        snprintf(why, why_size,
                 "the disk was %" PRIu64 ":%" PRIu64 " and is now %" PRIu64 ":%" PRIu64,
                 then->disk_major, then->disk_minor, now->disk_major, now->disk_minor);
    else if (then->diskseq != now->diskseq)
        snprintf(why, why_size,
                 "the disk was taken away and came back (diskseq %" PRIu64 ", now %" PRIu64 ")",
                 then->diskseq, now->diskseq);
    else if (then->start_sector != now->start_sector)
        snprintf(why, why_size, "the partition began at sector %" PRIu64 " and now at %" PRIu64,
                 then->start_sector, now->start_sector);
    else if (then->sector_count > now->sector_count)
        snprintf(why, why_size, "the device shrank from %" PRIu64 " to %" PRIu64 " sectors",
                 then->sector_count, now->sector_count);
    return why[0] == '\0';
}

/* --- accounting ------------------------------------------------------------------------------ */

repl_result repl_accounting_open(const struct repl_track_target *target,
                                 struct repl_accounting *out, struct repl_error *err)
{
    static const char *const names[] = {"stat", "inflight"};
    int *const fds[] = {&out->stat_fd, &out->inflight_fd};
    *out = (struct repl_accounting){.stat_fd = -1, .inflight_fd = -1};
    for (unsigned i = 0; i < 2; i++) {
        char path[128];
        snprintf(path, sizeof path, "/sys/block/%s/%s", target->disk, names[i]);
        *fds[i] = open(path, O_RDONLY | O_CLOEXEC);
        if (*fds[i] < 0) {
            repl_result result = repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
            repl_accounting_close(out);
            return result;
        }
    }
    return REPL_SUCCESS;
}

void repl_accounting_close(struct repl_accounting *accounting)
{
    if (accounting->stat_fd >= 0)
        close(accounting->stat_fd);
    if (accounting->inflight_fd >= 0)
        close(accounting->inflight_fd);
    *accounting = (struct repl_accounting){.stat_fd = -1, .inflight_fd = -1};
}

/* The numbers of a small file, at least wanted of them. */
static repl_result numbers_read(int fd, const char *name, uint64_t *out, size_t wanted,
                                struct repl_error *err)
{
    char text[512];
    ssize_t got = pread(fd, text, sizeof text - 1, 0);
    if (got <= 0)
        return repl_fail_errno(err, REPL_E_IO, got < 0 ? errno : ENODATA,
                               "reading the disk's I/O accounting (%s)", name);
    text[got] = '\0';
    char *at = text;
    for (size_t i = 0; i < wanted; i++) {
        char *end;
        out[i] = strtoull(at, &end, 10);
        if (end == at)
            return repl_fail(err, REPL_E_VERSION,
                             "the disk's I/O accounting (%s) has only %zu fields of %zu; a kernel "
                             "of 5.5 or newer is needed",
                             name, i, wanted);
        at = end;
    }
    return REPL_SUCCESS;
}

repl_result repl_accounting_read(const struct repl_accounting *accounting,
                                 struct repl_audit_kernel *out, struct repl_error *err)
{
    /* Documentation/block/stat.rst: reads, writes, the present, discards, flushes (ios, ms) */
    uint64_t stat[17] = {0}, inflight[2] = {0};
    REPL_TRY(numbers_read(accounting->stat_fd, "stat", stat, 17, err));
    REPL_TRY(numbers_read(accounting->inflight_fd, "inflight", inflight, 2, err));
    *out = (struct repl_audit_kernel){
        .done = {[REPL_AUDIT_WRITTEN] = stat[6] * REPL_SECTOR_SIZE,
                 [REPL_AUDIT_DISCARDED] = stat[13] * REPL_SECTOR_SIZE,
                 [REPL_AUDIT_FLUSHES] = stat[15]},
        .in_flight = inflight[1], /* discards are in the number of the writes */
    };
    return REPL_SUCCESS;
}
