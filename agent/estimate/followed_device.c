#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block/read_full.h"
#include "estimate/followed.h"
#include "loop/loop.h"
#include "source/capture/device.h"
#include "source/capture/tracker.h"

#define BEGIN_SAMPLES 5

struct device_followed {
    struct repl_followed base;
    const struct repl_device *device;
    struct repl_tracker *tracker;
    struct repl_write_counters counters; /* at the begin */
    int64_t ahead[2];                    /* of the kernel's count: the programs', at the begin */
};

static struct device_followed *of(struct repl_followed *followed)
{
    return (struct device_followed *)(void *)followed;
}

static repl_result device_look(struct repl_followed *followed, struct repl_bitmap *taken,
                               int64_t *at_ns, uint64_t *records, struct repl_error *err)
{
    struct device_followed *d = of(followed);
    *records = 0;
    REPL_TRY(repl_tracker_check(d->tracker, NULL, err));
    REPL_TRY(repl_device_sync(d->device, err));
    *at_ns = repl_now_mono_ns();
    repl_tracker_exchange(d->tracker, taken);
    repl_tracker_settle(d->tracker, NULL, 0, false);
    return REPL_SUCCESS;
}

static repl_result device_read(struct repl_followed *followed, uint64_t page, uint32_t count,
                               size_t size, uint8_t *to, struct repl_error *err)
{
    uint64_t offset = page * REPL_PAGE_SIZE;
    ssize_t got = repl_read_full(of(followed)->device->fd, to, size, offset);
    (void)count;
    if (got != (ssize_t)size)
        return repl_fail_errno(err, REPL_E_IO, got < 0 ? errno : ENODATA,
                               "%s: reading %zu bytes at offset %" PRIu64, followed->path, size,
                               offset);
    return REPL_SUCCESS;
}

/* --- what the kernel counts ------------------------------------------------------------------ */

/* By how much the programs' count is above the kernel's, read before or after it. */
static int64_t ahead_of(const struct repl_audit_sample *sample, unsigned quantity, bool before)
{
    const struct repl_audit_kernel *kernel = before ? &sample->before : &sample->after;
    return (int64_t)(sample->counts.completed[quantity] - kernel->done[quantity]);
}

/* A write is traced before it is accounted: of several samples the lowest has least in between. */
static repl_result ahead_find(struct device_followed *d, struct repl_error *err)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    struct repl_audit_sample sample;
    for (unsigned n = 0; n < BEGIN_SAMPLES; n++) {
        REPL_TRY(repl_tracker_sample(d->tracker, &sample, err));
        for (unsigned i = REPL_AUDIT_WRITTEN; i <= REPL_AUDIT_DISCARDED; i++) {
            int64_t ahead = ahead_of(&sample, i, false);
            if (n == 0 || ahead < d->ahead[i])
                d->ahead[i] = ahead;
        }
        nanosleep(&pause, NULL);
    }
    return REPL_SUCCESS;
}

static repl_result device_begin(struct repl_followed *followed, struct repl_error *err)
{
    return repl_device_counters(of(followed)->device, &of(followed)->counters, err);
}

/* What the kernel has counted for sure, and the programs have not. */
static repl_result device_counts(struct repl_followed *followed, struct repl_followed_counts *out,
                                 struct repl_error *err)
{
    struct device_followed *d = of(followed);
    struct repl_audit_sample sample;
    struct repl_write_counters now;
    REPL_TRY(repl_tracker_sample(d->tracker, &sample, err));
    *out = (struct repl_followed_counts){.known = true};
    for (unsigned i = REPL_AUDIT_WRITTEN; i <= REPL_AUDIT_DISCARDED; i++) {
        int64_t missed = d->ahead[i] - ahead_of(&sample, i, true);
        out->missed += missed > 0 ? (uint64_t)missed : 0;
    }
    REPL_TRY(repl_device_counters(d->device, &now, err));
    out->written = (now.sectors_written - d->counters.sectors_written) * REPL_SYSFS_SECTOR_SIZE;
    out->discarded =
        (now.sectors_discarded - d->counters.sectors_discarded) * REPL_SYSFS_SECTOR_SIZE;
    return REPL_SUCCESS;
}

/* --- open and close -------------------------------------------------------------------------- */

static void device_close(struct repl_followed *followed)
{
    repl_tracker_close(of(followed)->tracker);
    free(of(followed));
}

static const struct repl_followed_ops device_ops = {.look = device_look,
                                                    .begin = device_begin,
                                                    .read = device_read,
                                                    .counts = device_counts,
                                                    .close = device_close};

static repl_result tracker_open(struct device_followed *d, struct repl_error *err)
{
    struct repl_track_target target;
    REPL_TRY(repl_track_target_find(d->device->number, &target, err));
    REPL_TRY(repl_tracker_open_private(&target, &d->tracker, err));
    return ahead_find(d, err);
}

repl_result repl_followed_device(const struct repl_device *device, struct repl_followed **out,
                                 struct repl_error *err)
{
    struct device_followed *d = calloc(1, sizeof *d);
    if (d == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    d->base = (struct repl_followed){
        .ops = &device_ops, .kind = "block", .path = device->path, .size = device->size};
    memcpy(d->base.identity, device->identity, sizeof d->base.identity);
    d->device = device;
    repl_result result = tracker_open(d, err);
    if (!repl_ok(result))
        device_close(&d->base);
    else
        *out = &d->base;
    return result;
}

void repl_followed_close(struct repl_followed *followed)
{
    if (followed != NULL)
        followed->ops->close(followed);
}
