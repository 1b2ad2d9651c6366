#include "sim.h"

#include <string.h>

/*
 * The tracking programs and their maps, and what the source does with these, as
 * agent/source/capture/tracker.h says.
 *
 * The programs are called for each event or, in some seeds, not for some. What
 * is overlooked is neither marked nor counted; of a range that could not be
 * marked whole nothing is marked, and it is counted as lost.
 */

void sim_tracker_begin(struct sim_tracker *tracker, struct sim *sim)
{
    *tracker = (struct sim_tracker){.sim = sim, .pinned = true, .swapped_ns = sim->now_ns};
}

/* --- the programs ---------------------------------------------------------------------------- */

void sim_tracker_mark(struct sim_tracker *tracker, const struct sim_write *write,
                      enum sim_side side)
{
    bool *bits = side == SIM_COMPLETION ? tracker->landed : tracker->touched[write->touched];
    if (!tracker->pinned || write->overlooked[side])
        return;
    if (!write->lost[side])
        memset(bits + write->page, 1, write->count);
    else if (side == SIM_COMPLETION)
        tracker->counts.lost_completions++;
    else
        tracker->counts.lost_submissions++;
    if (side == SIM_COMPLETION)
        tracker->marks += write->lost[side] ? 1 : write->count;
}

void sim_tracker_count(struct sim_tracker *tracker, const struct sim_write *write,
                       enum sim_side side)
{
    uint64_t bytes = (uint64_t)write->count * REPL_PAGE_SIZE;
    if (!tracker->pinned || write->overlooked[side])
        return;
    if (side == SIM_SUBMISSION) {
        tracker->counts.submitted[write->discard ? REPL_AUDIT_DISCARDED : REPL_AUDIT_WRITTEN] +=
            bytes;
        return;
    }
    tracker->fua_writes += write->fua;
    tracker->counts.completed[write->discard ? REPL_AUDIT_DISCARDED : REPL_AUDIT_WRITTEN] += bytes;
}

/* --- the source ------------------------------------------------------------------------------ */

void sim_tracker_exchange(struct sim_tracker *tracker, struct repl_bitmap *into)
{
    bool keeps = tracker->sim->options.bug == SIM_BUG_CLEAR_LATE;
    for (uint32_t page = 0; page < into->bit_count; page++) {
        if (!tracker->landed[page])
            continue;
        tracker->taken[page] = true;
        tracker->landed[page] = keeps;
        repl_bitmap_set(into, page, 1);
    }
}

void sim_tracker_or_touched(struct sim_tracker *tracker, struct repl_bitmap *into)
{
    enum sim_bug bug = tracker->sim->options.bug;
    for (uint32_t page = 0; page < into->bit_count; page++) {
        bool touched = tracker->touched[tracker->active][page] ||
                       (bug != SIM_BUG_TOUCHED_OLD && tracker->touched[!tracker->active][page]);
        if (touched && bug != SIM_BUG_REPAIR_NOTHING)
            repl_bitmap_set(into, page, 1);
        if (repl_bitmap_test(into, page))
            tracker->taken[page] = true;
    }
}

void sim_tracker_recover(struct sim_tracker *tracker, struct repl_bitmap *into)
{
    for (uint32_t page = 0; page < into->bit_count; page++) {
        if (tracker->taken[page] && tracker->sim->options.bug != SIM_BUG_RECOVER_NOTHING)
            repl_bitmap_set(into, page, 1);
    }
}

void sim_tracker_settle(struct sim_tracker *tracker,
                        const struct repl_bitmap *unsafe[REPL_PIPELINE_UNSAFE], bool all)
{
    for (uint32_t page = 0; page < SIM_PAGES_MAX; page++) {
        bool is_unsafe = false;
        for (unsigned i = 0; i < REPL_PIPELINE_UNSAFE; i++)
            is_unsafe |= page < unsafe[i]->bit_count && repl_bitmap_test(unsafe[i], page);
        if (tracker->sim->options.bug == SIM_BUG_SETTLE_ALL)
            is_unsafe = false;
        tracker->taken[page] = is_unsafe && (all || tracker->taken[page]);
    }
}

void sim_tracker_swap(struct sim_tracker *tracker, const struct repl_audit *audit)
{
    struct sim *sim = tracker->sim;
    unsigned swaps = repl_audit_swap_due(audit, tracker->swapped_ns);
    if (sim->options.bug == SIM_BUG_SWAP_EARLY)
        swaps = 2;
    if (sim->options.bug == SIM_BUG_SWAP_HUNG)
        swaps = audit->base.even_ns >= tracker->swapped_ns + sim->io_timeout_ns;
    sim->counts->swaps += swaps;
    for (; swaps > 0; swaps--) {
        tracker->active = !tracker->active;
        memset(tracker->touched[tracker->active], 0, sizeof tracker->touched[0]);
        tracker->swapped_ns = sim->now_ns;
    }
}
