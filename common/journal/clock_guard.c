#include "journal/clock_guard.h"

#include <stdio.h>

#include "base/ensure.h"

#define ADJUST_SHARE 1000 /* a clock may be adjusted by one of so many parts of what passes */

/* a - b, the nearest there is where that is out of range: what was durable may be any number. */
static int64_t minus(int64_t a, int64_t b)
{
    int64_t difference;
    if (!__builtin_sub_overflow(a, b, &difference))
        return difference;
    return a < b ? INT64_MIN : INT64_MAX;
}

/* Moves *anchor_ns towards the offset by no more than the time that has passed allows. Returns how
 * far off the offset is still. */
static int64_t anchor_follow(int64_t *anchor_ns, int64_t offset_ns, int64_t passed_ns)
{
    int64_t most_ns = passed_ns / ADJUST_SHARE, off_ns = minus(offset_ns, *anchor_ns);
    int64_t step_ns = off_ns > most_ns ? most_ns : off_ns < -most_ns ? -most_ns : off_ns;
    *anchor_ns += step_ns;
    return off_ns - step_ns;
}

static bool within(int64_t value_ns, int64_t bound_ns)
{
    return value_ns >= -bound_ns && value_ns <= bound_ns;
}

static int64_t offset_of(const struct repl_clock_guard *guard)
{
    return minus(guard->wall_ns, guard->monotonic_ns);
}

static void even_begin(struct repl_clock_guard *guard)
{
    guard->even_ns = offset_of(guard);
    guard->even_since_ns = guard->monotonic_ns;
    guard->heard = guard->agreed = 0;
}

static void trust(struct repl_clock_guard *guard)
{
    guard->state = REPL_CLOCK_TRUSTED;
    guard->anchored = guard->known = true;
    guard->anchor_ns = offset_of(guard);
    guard->known_ns = guard->wall_ns;
    guard->off_ns = 0;
    even_begin(guard); /* so that it has jumped by both measures or by none */
}

static enum repl_clock_state judge_start(struct repl_clock_guard *guard)
{
    int64_t running_ns = guard->monotonic_ns - guard->started_ns;
    if (!guard->known)
        return REPL_CLOCK_UNKNOWN;
    guard->off_ns = minus(guard->wall_ns, guard->known_ns);
    if (guard->off_ns < -REPL_CLOCK_JUMP_MAX_NS)
        return REPL_CLOCK_JUMPED_BACK;
    return minus(guard->off_ns, running_ns) > REPL_CLOCK_GAP_MAX_NS ? REPL_CLOCK_UNKNOWN
                                                                    : REPL_CLOCK_TRUSTED;
}

/* While it is not trusted the anchor stays where it is, for the clock to come back to; and when it
 * has, or a clock that jumps to and fro would move it. */
static enum repl_clock_state judge_running(struct repl_clock_guard *guard, int64_t passed_ns)
{
    guard->off_ns = guard->state == REPL_CLOCK_TRUSTED
                        ? anchor_follow(&guard->anchor_ns, offset_of(guard), passed_ns)
                        : minus(offset_of(guard), guard->anchor_ns);
    if (within(guard->off_ns, REPL_CLOCK_JUMP_MAX_NS))
        return REPL_CLOCK_TRUSTED;
    return guard->off_ns < 0 ? REPL_CLOCK_JUMPED_BACK : REPL_CLOCK_JUMPED_AHEAD;
}

static void judge(struct repl_clock_guard *guard, int64_t passed_ns)
{
    guard->state = guard->anchored ? judge_running(guard, passed_ns) : judge_start(guard);
    if (guard->state != REPL_CLOCK_TRUSTED)
        return;
    if (!guard->anchored)
        trust(guard);
    guard->known_ns = guard->wall_ns;
}

void repl_clock_guard_init(struct repl_clock_guard *guard, bool known, int64_t known_ns,
                           int64_t wall_ns, int64_t monotonic_ns)
{
    *guard = (struct repl_clock_guard){.known = known,
                                       .known_ns = known_ns,
                                       .wall_ns = wall_ns,
                                       .monotonic_ns = monotonic_ns,
                                       .started_ns = monotonic_ns};
    even_begin(guard);
    judge(guard, 0);
}

void repl_clock_guard_read(struct repl_clock_guard *guard, int64_t wall_ns, int64_t monotonic_ns)
{
    ensure(monotonic_ns >= guard->monotonic_ns);
    int64_t passed_ns = monotonic_ns - guard->monotonic_ns;
    guard->wall_ns = wall_ns;
    guard->monotonic_ns = monotonic_ns;
    int64_t off_ns = anchor_follow(&guard->even_ns, offset_of(guard), passed_ns);
    if (!within(off_ns, REPL_CLOCK_JUMP_MAX_NS))
        even_begin(guard);
    judge(guard, passed_ns);
}

void repl_clock_guard_ask(struct repl_clock_guard *guard, const struct repl_clock_source *sources,
                          size_t count)
{
    guard->heard = guard->agreed = 0;
    for (size_t i = 0; i < count; i++) {
        if (sources[i].heard_ns < guard->even_since_ns)
            continue;
        guard->heard++;
        guard->agreed += within(sources[i].ahead_ns, REPL_CLOCK_AGREE_NS);
    }
    if (guard->state != REPL_CLOCK_TRUSTED && guard->agreed * 2 > guard->heard &&
        guard->monotonic_ns - guard->even_since_ns >= REPL_CLOCK_SETTLE_NS)
        trust(guard);
}

void repl_clock_guard_confirm(struct repl_clock_guard *guard)
{
    trust(guard);
}

bool repl_clock_guard_trusts(const struct repl_clock_guard *guard)
{
    return guard->state == REPL_CLOCK_TRUSTED;
}

/* --- words ----------------------------------------------------------------------------------- */

#define SPAN_SIZE 32

/* "90 s", "3 h": rounded, in the largest unit of which it is two at least. */
static const char *span(int64_t ns, char text[SPAN_SIZE])
{
    static const struct {
        const char *name;
        int64_t seconds;
    } spans[] = {{"days", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}};
    int64_t seconds =
        ns / REPL_CLOCK_SECOND_NS + ns % REPL_CLOCK_SECOND_NS * 2 / REPL_CLOCK_SECOND_NS;
    size_t i = 0;
    if (seconds < 0)
        seconds = -seconds;
    while (spans[i].seconds > 1 && seconds < 2 * spans[i].seconds)
        i++;
    snprintf(text, SPAN_SIZE, "%lld %s",
             (long long)((seconds + spans[i].seconds / 2) / spans[i].seconds), spans[i].name);
    return text;
}

static void describe_cause(const struct repl_clock_guard *guard, char *text, size_t size)
{
    char off[SPAN_SIZE];
    span(guard->off_ns, off);
    if (guard->state == REPL_CLOCK_UNKNOWN && !guard->known)
        snprintf(text, size, "no earlier time of the site is known to compare its clock with");
    else if (guard->state == REPL_CLOCK_UNKNOWN)
        snprintf(text, size,
                 "the site's clock is %s after the last time it is known to have been right: the "
                 "site was off so long, or the clock is ahead",
                 off);
    else if (!guard->anchored)
        snprintf(text, size,
                 "the site's clock is %s behind a time that was reached before the site started",
                 off);
    else
        snprintf(text, size, "the site's clock was set %s by %s",
                 guard->state == REPL_CLOCK_JUMPED_BACK ? "back" : "ahead", off);
}

void repl_clock_guard_describe(const struct repl_clock_guard *guard,
                               char text[REPL_CLOCK_TEXT_SIZE])
{
    char cause[160], settle[SPAN_SIZE], agree[SPAN_SIZE];
    if (guard->state == REPL_CLOCK_TRUSTED) {
        snprintf(text, REPL_CLOCK_TEXT_SIZE, "the site's clock is trusted");
        return;
    }
    describe_cause(guard, cause, sizeof cause);
    snprintf(text, REPL_CLOCK_TEXT_SIZE,
             "%s. No point is given up until it is right again, or has run evenly for %s and most "
             "hosts agree with it within %s (so far %u of %u heard since): see to the site's time "
             "service, or say that it is right (repl site --clock-is-right)",
             cause, span(REPL_CLOCK_SETTLE_NS, settle), span(REPL_CLOCK_AGREE_NS, agree),
             guard->agreed, guard->heard);
}
