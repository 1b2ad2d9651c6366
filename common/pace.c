#include "pace.h"

#include "base/ensure.h"

#define SECOND_NS INT64_C(1000000000)
#define BURST     4u /* a second's bytes by this */
/* Less is not worth a call of its own; of a very low rate, what it makes in the burst's time. */
#define PIECE_MIN 4096u

uint64_t repl_pace_rate(const struct repl_pace_plan *plan, uint32_t second_of_day)
{
    ensure(second_of_day < REPL_PACE_DAY_S && plan->count <= REPL_PACE_WINDOWS_MAX);
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct repl_pace_window *w = &plan->windows[i];
        bool within = w->from_s <= w->to_s ? w->from_s <= second_of_day && second_of_day < w->to_s
                                           : w->from_s <= second_of_day || second_of_day < w->to_s;
        if (within)
            return w->bytes_per_s;
    }
    return plan->bytes_per_s;
}

static uint64_t burst_of(uint64_t rate)
{
    return rate / BURST > 0 ? rate / BURST : 1;
}

static void pace_fill(struct repl_pace *pace, int64_t now_ns, uint64_t rate)
{
    uint64_t most = burst_of(rate);
    int64_t passed_ns = now_ns - pace->filled_ns;
    if (!pace->begun || passed_ns >= SECOND_NS / BURST) {
        *pace = (struct repl_pace){.begun = true, .filled_ns = now_ns, .bytes = most};
        return;
    }
    /* of a quarter of a second at most: 2^28 ns times 2^36 bytes is no overflow yet */
    uint64_t more = passed_ns > 0 ? (uint64_t)passed_ns * rate / SECOND_NS : 0;
    if (more == 0)
        return; /* what a fraction makes is not lost: the time stays */
    pace->filled_ns = now_ns;
    pace->bytes = pace->bytes + more < most ? pace->bytes + more : most;
}

uint64_t repl_pace_take(struct repl_pace *pace, int64_t now_ns, uint64_t rate, uint64_t want,
                        int64_t *until_ns)
{
    if (rate == 0) {
        pace->begun = false;
        return want;
    }
    pace_fill(pace, now_ns, rate);
    uint64_t least = burst_of(rate) < PIECE_MIN ? burst_of(rate) : PIECE_MIN;
    if (want < least)
        least = want;
    if (pace->bytes < least) {
        *until_ns = now_ns + (int64_t)((least - pace->bytes) * SECOND_NS / rate) + 1;
        return 0;
    }
    uint64_t taken = want < pace->bytes ? want : pace->bytes;
    pace->bytes -= taken;
    return taken;
}

void repl_pace_give(struct repl_pace *pace, uint64_t bytes)
{
    if (pace->begun) /* else there was no limit */
        pace->bytes += bytes;
}
