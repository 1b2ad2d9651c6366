#include "source/capture/track_target.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "block/identity.h"

/* The numbers of the disk and of the device's place on it. */
static repl_result place_find(dev_t device, struct repl_track_target *out, struct repl_error *err)
{
    dev_t disk = repl_sysfs_disk(device);
    REPL_TRY(repl_sysfs_name(disk, out->disk, err));
    out->device = device;
    out->disk_major = major(disk);
    out->disk_minor = minor(disk);
    repl_sysfs_read_number(disk, "diskseq", &out->diskseq);
    repl_sysfs_read_number(device, "start", &out->start_sector); /* a whole disk has none */
    if (!repl_sysfs_read_number(device, "size", &out->sector_count) || out->sector_count == 0)
        return repl_fail(err, REPL_E_REFUSED, "%s has no medium (its size is 0)", out->disk);
    return REPL_SUCCESS;
}

repl_result repl_track_target_find(dev_t device, struct repl_track_target *out,
                                   struct repl_error *err)
{
    dev_t disk = repl_sysfs_disk(device);
    char text[64];
    *out = (struct repl_track_target){0};
    REPL_TRY(place_find(device, out, err));
    repl_identity_find(device, out->identity);
    if (!repl_sysfs_read(disk, "queue/iostats", text, sizeof text) || strcmp(text, "0") == 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "the kernel does not account the I/O of %s, so its tracking could not be "
                         "audited; echo 1 > /sys/block/%s/queue/iostats",
                         out->disk, out->disk);
    return REPL_SUCCESS;
}

bool repl_track_target_same(const struct repl_track_target *then,
                            const struct repl_track_target *now, char *why, size_t why_size)
{
    why[0] = '\0';
    if (!repl_identity_same(then->identity, now->identity))
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
    dev_t disk = repl_sysfs_disk(target->device);
    *out = (struct repl_accounting){.stat_fd = -1, .inflight_fd = -1};
    repl_result result = repl_sysfs_open(disk, "stat", &out->stat_fd, err);
    if (repl_ok(result))
        result = repl_sysfs_open(disk, "inflight", &out->inflight_fd, err);
    if (!repl_ok(result))
        repl_accounting_close(out);
    return result;
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
        .done = {[REPL_AUDIT_WRITTEN] = stat[6] * REPL_SYSFS_SECTOR_SIZE,
                 [REPL_AUDIT_DISCARDED] = stat[13] * REPL_SYSFS_SECTOR_SIZE,
                 [REPL_AUDIT_FLUSHES] = stat[15]},
        .in_flight = inflight[1], /* discards are in the number of the writes */
    };
    return REPL_SUCCESS;
}
