#include "source/capture/tracker.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "source/capture/tracker_internal.h"

int64_t repl_tracker_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now); /* the same for the next agent, up to the reboot */
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static repl_result tracker_new(const struct repl_track_target *target, struct repl_tracker **out,
                               struct repl_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    (*out)->target = *target;
    repl_result result = repl_accounting_open(target, &(*out)->accounting, err);
    if (!repl_ok(result)) {
        free(*out);
        *out = NULL;
    }
    return result;
}

/* opened: how it went with the maps. */
static repl_result tracker_opened(struct repl_tracker **tracker, repl_result opened)
{
    if (!repl_ok(opened)) {
        repl_accounting_close(&(*tracker)->accounting);
        free(*tracker);
        *tracker = NULL;
        return opened;
    }
    /* the size that is followed, which may be smaller than the device by now */
    (*tracker)->target.sector_count = (*tracker)->maps.config->sector_count;
    return opened;
}

repl_result repl_tracker_open(const struct repl_track_target *target,
                              const struct repl_uuid *volume, struct repl_tracker **out,
                              enum repl_track_origin *origin, char cause[REPL_TRACK_CAUSE_SIZE],
                              struct repl_error *err)
{
    REPL_TRY(tracker_new(target, out, err));
    return tracker_opened(out,
                          repl_track_maps_open(target, volume, &(*out)->maps, origin, cause, err));
}

repl_result repl_tracker_open_private(const struct repl_track_target *target,
                                      struct repl_tracker **out, struct repl_error *err)
{
    REPL_TRY(tracker_new(target, out, err));
    return tracker_opened(out, repl_track_maps_private(target, &(*out)->maps, err));
}

void repl_tracker_close(struct repl_tracker *tracker)
{
    if (tracker == NULL)
        return;
    repl_track_maps_close(&tracker->maps);
    repl_accounting_close(&tracker->accounting);
    free(tracker);
}

struct repl_track_faults *repl_tracker_faults(const struct repl_tracker *tracker)
{
    return tracker->maps.faults;
}

/* --- the bitmaps ----------------------------------------------------------------------------- */

uint64_t repl_tracker_capacity(const struct repl_tracker *tracker)
{
    return tracker->maps.config->capacity_pages;
}

static struct repl_track_bits area_of(const struct repl_tracker *tracker, enum repl_track_area area)
{
    return repl_track_bits_at(tracker->maps.bits, tracker->maps.config->capacity_pages, area);
}

void repl_tracker_exchange(struct repl_tracker *tracker, struct repl_bitmap *into)
{
    struct repl_track_bits landed = area_of(tracker, REPL_TRACK_LANDED);
    struct repl_track_bits taken = area_of(tracker, REPL_TRACK_TAKEN);
    repl_track_bits_move(&landed, &taken, into);
}

void repl_tracker_or_touched(struct repl_tracker *tracker, struct repl_bitmap *into)
{
    struct repl_track_bits a = area_of(tracker, REPL_TRACK_TOUCHED_A);
    struct repl_track_bits b = area_of(tracker, REPL_TRACK_TOUCHED_B);
    struct repl_track_bits taken = area_of(tracker, REPL_TRACK_TAKEN);
    repl_track_bits_or_into(&a, into);
    repl_track_bits_or_into(&b, into);
    repl_track_bits_add(&taken, into);
}

void repl_tracker_recover(struct repl_tracker *tracker, struct repl_bitmap *into)
{
    struct repl_track_bits taken = area_of(tracker, REPL_TRACK_TAKEN);
    repl_track_bits_or_into(&taken, into);
}

void repl_tracker_settle(struct repl_tracker *tracker, const struct repl_bitmap *const *unsafe,
                         size_t count, bool add)
{
    struct repl_track_bits taken = area_of(tracker, REPL_TRACK_TAKEN);
    for (size_t i = 0; add && i < count; i++)
        repl_track_bits_add(&taken, unsafe[i]);
    repl_track_bits_retain(&taken, unsafe, count);
}

/* No program writes the older bitmap while it is emptied: one that looked at `active` before the
 * last swap had counted its write before that, so the write has ended. One that looks just before
 * this swap marks what becomes the older bitmap, which is kept until its write has. The time is put
 * down as unknown around the swap itself, so that an agent that dies here leaves one that is too
 * late, never one too early. */
bool repl_tracker_swap_touched(struct repl_tracker *tracker, const struct repl_audit *audit)
{
    struct repl_track_config *config = tracker->maps.config;
    if (!repl_audit_swap_due(audit, (int64_t)config->swapped_ns))
        return false;
    uint64_t older = config->active == 0;
    struct repl_track_bits bits =
        area_of(tracker, older == 0 ? REPL_TRACK_TOUCHED_A : REPL_TRACK_TOUCHED_B);
    __atomic_store_n(&config->swapped_ns, UINT64_MAX, __ATOMIC_SEQ_CST);
    repl_track_bits_clear(&bits);
    __atomic_store_n(&config->active, older, __ATOMIC_SEQ_CST);
    __atomic_store_n(&config->swapped_ns, (uint64_t)repl_tracker_now_ns(), __ATOMIC_SEQ_CST);
    return true;
}

/* --- counts ---------------------------------------------------------------------------------- */

static uint64_t load(const uint64_t *at)
{
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);
}

void repl_tracker_counts(const struct repl_tracker *tracker, struct repl_track_counts *out)
{
    /* in the layout all are 64-bit words */
    _Static_assert(sizeof *out % sizeof(uint64_t) == 0, "counts are words");
    const uint64_t *from = (const uint64_t *)(const void *)tracker->maps.counts;
    uint64_t *to = (uint64_t *)(void *)out;
    for (size_t i = 0; i < sizeof *out / sizeof *to; i++)
        to[i] = load(&from[i]);
}

static void counts_sample(const struct repl_track_counts *counts, struct repl_audit_counts *out)
{
    _Static_assert((int)REPL_AUDIT_WRITTEN == (int)REPL_TRACK_WRITE &&
                       (int)REPL_AUDIT_DISCARDED == (int)REPL_TRACK_DISCARD &&
                       (int)REPL_AUDIT_SUBMITTED == (int)REPL_TRACK_CLASSES,
                   "one index for both");
    const struct repl_track_tally(*tallies)[REPL_TRACK_CLASSES] = counts->tallies;
    for (unsigned i = 0; i < REPL_TRACK_CLASSES; i++) {
        /* what was withdrawn first: it was submitted before, so the difference is never too small
         */
        uint64_t withdrawn = load((const uint64_t *)&tallies[REPL_TRACK_WITHDRAWAL][i].bytes);
        out->submitted[i] =
            load((const uint64_t *)&tallies[REPL_TRACK_SUBMISSION][i].bytes) - withdrawn;
        out->completed[i] = load((const uint64_t *)&tallies[REPL_TRACK_COMPLETION][i].bytes);
    }
    out->completed[REPL_AUDIT_FLUSHES] = load((const uint64_t *)&counts->flushes);
    out->lost_completions = load((const uint64_t *)&counts->lost[REPL_TRACK_COMPLETION]);
    out->lost_submissions = load((const uint64_t *)&counts->lost[REPL_TRACK_SUBMISSION]);
}

repl_result repl_tracker_sample(const struct repl_tracker *tracker, struct repl_audit_sample *out,
                                struct repl_error *err)
{
    out->at_ns = repl_tracker_now_ns();
    REPL_TRY(repl_accounting_read(&tracker->accounting, &out->before, err));
    counts_sample(tracker->maps.counts, &out->counts);
    return repl_accounting_read(&tracker->accounting, &out->after, err);
}

/* --- what outlives the agent ----------------------------------------------------------------- */

static bool saved_is_whole(const struct repl_track_saved *slot, size_t size)
{
    return slot->serial != 0 && slot->size == size &&
           slot->hash == repl_xxh3(slot->words, sizeof slot->words);
}

void repl_tracker_save(struct repl_tracker *tracker, const void *data, size_t size)
{
    struct repl_track_saved *slots = tracker->maps.config->saved;
    struct repl_track_saved *slot = slots[0].serial <= slots[1].serial ? &slots[0] : &slots[1];
    uint64_t newest = slots[0].serial > slots[1].serial ? slots[0].serial : slots[1].serial;
    ensure(size <= sizeof slot->words);
    slot->serial = 0;                        /* not whole until it has one again */
    __atomic_signal_fence(__ATOMIC_SEQ_CST); /* what a killed process stored, it stored in order */
    memset(slot->words, 0, sizeof slot->words);
    memcpy(slot->words, data, size);
    slot->size = size;
    slot->hash = repl_xxh3(slot->words, sizeof slot->words);
    __atomic_store_n(&slot->serial, newest + 1, __ATOMIC_SEQ_CST);
}

bool repl_tracker_load(const struct repl_tracker *tracker, void *data, size_t size)
{
    const struct repl_track_saved *slots = tracker->maps.config->saved, *best = NULL;
    for (unsigned i = 0; i < 2; i++)
        if (saved_is_whole(&slots[i], size) && (best == NULL || slots[i].serial > best->serial))
            best = &slots[i];
    if (best != NULL)
        memcpy(data, best->words, size);
    return best != NULL;
}

/* --- the device ------------------------------------------------------------------------------ */

repl_result repl_tracker_check(const struct repl_tracker *tracker, uint64_t *sector_count,
                               struct repl_error *err)
{
    struct repl_track_target now;
    char why[REPL_TRACK_CAUSE_SIZE];
    REPL_TRY(repl_track_target_find(tracker->target.device, &now, err));
    if (!repl_track_target_same(&tracker->target, &now, why, sizeof why))
        return repl_fail(err, REPL_E_REFUSED, "%s: %s", tracker->target.disk, why);
    if (sector_count != NULL)
        *sector_count = now.sector_count;
    return REPL_SUCCESS;
}

repl_result repl_tracker_grow(struct repl_tracker *tracker, uint64_t sector_count,
                              struct repl_error *err)
{
    struct repl_track_config *config = tracker->maps.config;
    uint64_t capacity = config->capacity_pages * (REPL_TRACK_PAGE_SIZE / REPL_SYSFS_SECTOR_SIZE);
    ensure(sector_count >= config->sector_count);
    if (sector_count > capacity)
        return repl_fail(err, REPL_E_NOMEM,
                         "the device has grown to %" PRIu64 " sectors, and its tracking was laid "
                         "out for at most %" PRIu64 ": it must begin anew",
                         sector_count, capacity);
    __atomic_store_n(&config->sector_count, sector_count, __ATOMIC_SEQ_CST);
    tracker->target.sector_count = sector_count;
    return REPL_SUCCESS;
}
