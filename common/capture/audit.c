#include "capture/audit.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/ensure.h"

static const char *const quantity_names[REPL_AUDIT_QUANTITIES] = {"bytes of writes",
                                                                  "bytes of discards", "flushes"};

static void state_enter(struct repl_audit *audit, enum repl_audit_state state)
{
    audit->state = state;
    audit->samples = 0;
    audit->quiet = 0;
    memset(audit->steady, 0, sizeof audit->steady);
    memset(audit->even, 0, sizeof audit->even);
    audit->even_ns = INT64_MAX;
}

void repl_audit_init(struct repl_audit *audit, const struct repl_audit_limits *limits,
                     const struct repl_audit_baseline *base)
{
    ensure(limits->enough > 0 && limits->enough <= limits->most);
    *audit = (struct repl_audit){
        .limits = *limits, .base = {.even_ns = INT64_MIN}, .settled_ns = INT64_MIN};
    if (base != NULL)
        audit->base = *base;
    repl_audit_begin(audit);
}

void repl_audit_begin(struct repl_audit *audit)
{
    state_enter(audit, audit->base.completed_known ? REPL_AUDIT_AUDITING : REPL_AUDIT_BASING);
    audit->data_short = false;
    audit->next_ns = 0;
}

/* --- what a sample says ---------------------------------------------------------------------- */

static bool is_steady(const struct repl_audit_sample *sample, unsigned quantity)
{
    return sample->before.done[quantity] == sample->after.done[quantity];
}

/* No write was on its way: what was submitted has been completed. */
static bool is_quiet(const struct repl_audit_sample *sample)
{
    return sample->before.in_flight == 0 && sample->after.in_flight == 0 &&
           is_steady(sample, REPL_AUDIT_WRITTEN) && is_steady(sample, REPL_AUDIT_DISCARDED);
}

/* How far C is ahead of K, as seen from the baseline; negative: behind. */
static int64_t ahead_completed(const struct repl_audit *audit,
                               const struct repl_audit_sample *sample, unsigned quantity)
{
    return (int64_t)(sample->counts.completed[quantity] - sample->before.done[quantity] -
                     audit->base.completed[quantity]);
}

static int64_t ahead_submitted(const struct repl_audit *audit,
                               const struct repl_audit_sample *sample, unsigned quantity)
{
    return (int64_t)(sample->counts.submitted[quantity] - sample->before.done[quantity] -
                     audit->base.submitted[quantity]);
}

static enum repl_audit_verdict degrade(struct repl_audit *audit, const char *why)
{
    /* whoever goes on from here begins anew: nothing before is claimed */
    audit->base = (struct repl_audit_baseline){.even_ns = INT64_MIN};
    audit->settled_ns = INT64_MIN;
    if (why != NULL)
        snprintf(audit->cause, sizeof audit->cause, "%s", why);
    repl_audit_begin(audit);
    return REPL_AUDIT_DEGRADED;
}

/* --- the baseline ---------------------------------------------------------------------------- */

static bool baseline_collect(struct repl_audit *audit, const struct repl_audit_sample *sample)
{
    bool enough = true;
    for (unsigned i = 0; i < REPL_AUDIT_QUANTITIES; i++) {
        if (is_steady(sample, i)) {
            uint64_t offset = sample->counts.completed[i] - sample->before.done[i];
            if (audit->steady[i]++ == 0 || (int64_t)(offset - audit->found.completed[i]) < 0)
                audit->found.completed[i] = offset;
        }
        enough = enough && audit->steady[i] >= audit->limits.enough;
    }
    audit->found.lost_completions = sample->counts.lost_completions;
    return enough;
}

/* Whether this much more than the baseline, neither more nor less, has been seen at every quiet
 * sample for so long that it is no bio that has been traced and is not yet in flight: its submitter
 * may be preempted between the two, a scheduler keep it. Taken for the baseline, it would be missed
 * later. */
static bool raise_is_confirmed(struct repl_audit *audit, unsigned quantity, uint64_t offset,
                               int64_t at_ns)
{
    struct repl_audit_raise *raise = &audit->raises[quantity];
    if (!raise->seen || raise->offset != offset)
        *raise = (struct repl_audit_raise){.offset = offset, .since_ns = at_ns, .seen = true};
    return at_ns - raise->since_ns >= audit->limits.trust_ns;
}

/* At a quiet sample at which everything is equal, submissions get a fresh baseline: drift (a
 * driver that ends bios in its own way) must not add up. */
static void submissions_rebase(struct repl_audit *audit, const struct repl_audit_sample *sample)
{
    for (unsigned i = 0; i < REPL_AUDIT_SUBMITTED; i++) {
        uint64_t offset = sample->counts.submitted[i] - sample->before.done[i];
        bool raise =
            audit->base.submitted_known != 0 && (int64_t)(offset - audit->base.submitted[i]) > 0;
        if (raise && !raise_is_confirmed(audit, i, offset, sample->at_ns))
            continue;
        audit->raises[i].seen = false;
        audit->base.submitted[i] = offset;
    }
    audit->base.lost_submissions = sample->counts.lost_submissions;
    audit->base.submitted_known = 1;
}

static enum repl_audit_verdict basing_feed(struct repl_audit *audit,
                                           const struct repl_audit_sample *sample)
{
    if (audit->samples == 1) {
        audit->found = (struct repl_audit_baseline){.even_ns = INT64_MIN};
        /* a range lost before the baseline is read with everything else after it */
        audit->found.lost_submissions = sample->counts.lost_submissions;
    }
    if (!baseline_collect(audit, sample))
        return audit->samples < audit->limits.most ? REPL_AUDIT_MORE : REPL_AUDIT_BUSY;
    audit->base = audit->found;
    audit->base.completed_known = 1;
    bool even = is_quiet(sample);
    for (unsigned i = 0; i < REPL_AUDIT_QUANTITIES; i++)
        even = even && is_steady(sample, i) && ahead_completed(audit, sample, i) == 0;
    if (even)
        submissions_rebase(audit, sample);
    return REPL_AUDIT_BASED;
}

/* --- shortfall and repair -------------------------------------------------------------------- */

static enum repl_audit_verdict repair(struct repl_audit *audit)
{
    memcpy(audit->base.completed, audit->found.completed, sizeof audit->base.completed);
    audit->repairs++;
    repl_audit_begin(audit);
    return REPL_AUDIT_REPAIR;
}

/* Submissions that S itself shows to be missing. */
static bool submissions_short(const struct repl_audit *audit,
                              const struct repl_audit_sample *sample)
{
    for (unsigned i = 0; i < REPL_AUDIT_SUBMITTED; i++)
        if (ahead_submitted(audit, sample, i) < 0)
            return true;
    return false;
}

static bool submissions_even(const struct repl_audit *audit, const struct repl_audit_sample *sample)
{
    for (unsigned i = 0; i < REPL_AUDIT_SUBMITTED; i++)
        if (ahead_submitted(audit, sample, i) != 0)
            return false;
    return true;
}

static enum repl_audit_verdict shortfall_found(struct repl_audit *audit,
                                               const struct repl_audit_sample *sample)
{
    audit->shortfalls++;
    audit->short_bytes = 0;
    size_t length = 0;
    audit->cause[0] = '\0';
    for (unsigned i = 0; i < REPL_AUDIT_QUANTITIES; i++) {
        int64_t ahead = ahead_completed(audit, sample, i);
        if (ahead >= 0)
            continue;
        if (i != REPL_AUDIT_FLUSHES) {
            audit->data_short = true;
            audit->short_bytes += (uint64_t)-ahead;
        }
        int wrote =
            snprintf(audit->cause + length, sizeof audit->cause - length, "%s%" PRId64 " %s",
                     length == 0 ? "the tracker overlooked " : ", ", -ahead, quantity_names[i]);
        length += wrote > 0 && (size_t)wrote < sizeof audit->cause - length ? (size_t)wrote : 0;
    }
    if (audit->data_short && !audit->base.submitted_known)
        return degrade(audit, "completions were overlooked before any quiet moment at which "
                              "submissions could be measured");
    state_enter(audit, REPL_AUDIT_REBASING);
    audit->found = audit->base;
    return REPL_AUDIT_MORE;
}

static enum repl_audit_verdict rebasing_feed(struct repl_audit *audit,
                                             const struct repl_audit_sample *sample)
{
    if (!baseline_collect(audit, sample)) {
        if (audit->samples < audit->limits.most)
            return REPL_AUDIT_MORE;
        return degrade(audit, "completions were overlooked, and the device was too busy for a new "
                              "baseline");
    }
    if (!audit->data_short) /* only the order of events was in doubt: cutting again settles it */
        return repair(audit);
    state_enter(audit, REPL_AUDIT_PROVING);
    return REPL_AUDIT_MORE;
}

static enum repl_audit_verdict proving_feed(struct repl_audit *audit,
                                            const struct repl_audit_sample *sample)
{
    if (is_quiet(sample) && submissions_even(audit, sample)) {
        if (audit->quiet++ == 0)
            audit->quiet_ns = sample->at_ns;
        if (audit->quiet >= audit->limits.enough &&
            sample->at_ns - audit->quiet_ns >= audit->limits.proof_ns)
            return repair(audit);
    }
    if (sample->at_ns - audit->began_ns < audit->limits.patience_ns)
        return REPL_AUDIT_MORE;
    return degrade(audit, "completions were overlooked, and in no quiet moment did the submissions "
                          "show that they were all seen");
}

/* While a shortfall is being mended, whatever makes the mending inexact. */
static const char *repair_obstacle(const struct repl_audit *audit,
                                   const struct repl_audit_sample *sample)
{
    if (!audit->data_short)
        return NULL;
    if (sample->counts.lost_submissions != audit->base.lost_submissions)
        return "completions were overlooked, and a submitted range could not be marked whole";
    if (submissions_short(audit, sample))
        return "completions and submissions were both overlooked";
    return NULL;
}

/* --- the audit ------------------------------------------------------------------------------- */

static enum repl_audit_verdict audit_end(struct repl_audit *audit, bool all_even)
{
    if (all_even) {
        audit->audits++;
        audit->base.even_ns = audit->even_ns;
        return REPL_AUDIT_PASSED;
    }
    if (audit->samples < audit->limits.most)
        return REPL_AUDIT_MORE;
    for (unsigned i = 0; i < REPL_AUDIT_QUANTITIES; i++) {
        if (audit->even[i] || audit->steady[i] < audit->limits.enough)
            continue;
        snprintf(audit->cause, sizeof audit->cause,
                 "the tracker counts more %s than the kernel does; was the device's I/O "
                 "accounting switched off?",
                 quantity_names[i]);
        return degrade(audit, NULL);
    }
    return REPL_AUDIT_BUSY;
}

static enum repl_audit_verdict auditing_feed(struct repl_audit *audit,
                                             const struct repl_audit_sample *sample)
{
    bool even_now = true, all_even = audit->samples >= audit->limits.enough;
    for (unsigned i = 0; i < REPL_AUDIT_QUANTITIES; i++) {
        int64_t ahead = ahead_completed(audit, sample, i);
        if (ahead < 0)
            return shortfall_found(audit, sample);
        bool even = ahead == 0 && is_steady(sample, i);
        audit->steady[i] += is_steady(sample, i);
        audit->even[i] = audit->even[i] || even;
        /* the time by which each quantity was proved: of its first even sample, the earliest */
        if (even && sample->at_ns < audit->even_ns)
            audit->even_ns = sample->at_ns;
        even_now = even_now && even;
        all_even = all_even && audit->even[i];
    }
    if (even_now && is_quiet(sample)) {
        if (audit->base.submitted_known && submissions_even(audit, sample))
            audit->settled_ns = sample->at_ns;
        submissions_rebase(audit, sample);
    }
    return audit_end(audit, all_even);
}

enum repl_audit_verdict repl_audit_feed(struct repl_audit *audit,
                                        const struct repl_audit_sample *sample)
{
    if (audit->samples++ == 0)
        audit->began_ns = sample->at_ns;
    audit->next_ns = sample->at_ns + audit->limits.spacing_ns;
    if (audit->state == REPL_AUDIT_BASING)
        return basing_feed(audit, sample);
    if (sample->counts.lost_completions != audit->base.lost_completions)
        return degrade(audit, "a completed range could not be marked whole");
    if (audit->state == REPL_AUDIT_AUDITING)
        return auditing_feed(audit, sample);
    const char *obstacle = repair_obstacle(audit, sample);
    if (obstacle != NULL)
        return degrade(audit, obstacle);
    return audit->state == REPL_AUDIT_REBASING ? rebasing_feed(audit, sample)
                                               : proving_feed(audit, sample);
}

bool repl_audit_swap_due(const struct repl_audit *audit, int64_t swapped_ns)
{
    return audit->settled_ns >= swapped_ns;
}
