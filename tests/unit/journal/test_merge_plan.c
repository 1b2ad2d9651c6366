/*
 * Which segments are merged: each rule by itself, and then any history, against a list of segments
 * that knows nothing but what may be merged.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "journal/merge_plan.h"
#include "unit/random.h"

#define SECOND INT64_C(1000000000)
#define HOUR   (3600 * SECOND)
#define DAY    (24 * HOUR)

/* --- single rules: segments of 10 bytes, a point a second ------------------------------------ */

static void add_parts(struct repl_merge_plan *plan, uint64_t from_seq, uint64_t to_seq,
                      uint32_t first_part, uint32_t parts, bool ends)
{
    struct repl_error err;
    for (uint32_t i = 0; i < parts; i++) {
        struct repl_merge_segment segment = {.from_seq = from_seq,
                                             .to_seq = to_seq,
                                             .part = first_part + i,
                                             .has_point = ends && i + 1 == parts,
                                             .time_ns = (int64_t)to_seq * SECOND,
                                             .file_size = 10};
        assert_true(repl_ok(repl_merge_plan_add(plan, &segment, &err)));
    }
}

/* A full with point 1, and each point up to that one. */
static struct repl_merge_plan plan_of(uint64_t points, uint64_t bytes_max)
{
    struct repl_merge_plan plan;
    repl_merge_plan_init(&plan, bytes_max);
    for (uint64_t seq = 1; seq <= points; seq++)
        add_parts(&plan, seq - 1, seq, 0, 1, true);
    return plan;
}

static void drop_range(struct repl_merge_plan *plan, uint64_t from_seq, uint64_t to_seq)
{
    for (uint64_t seq = from_seq; seq <= to_seq; seq++)
        repl_merge_plan_drop(plan, seq, 0);
}

/* However often it is asked, until all runs have been looked at. */
static bool asked(struct repl_merge_plan *plan, int64_t now_ns, struct repl_merge *merge)
{
    for (size_t i = 0; i <= plan->count / REPL_MERGE_SWEEP + 1; i++) {
        if (repl_merge_plan_next(plan, now_ns, merge))
            return true;
    }
    return false;
}

static bool same(const struct repl_merge *a, const struct repl_merge *b)
{
    return a->kind == b->kind && a->after_seq == b->after_seq && a->to_seq == b->to_seq &&
           a->from_seq == b->from_seq && a->segments == b->segments && a->needless == b->needless &&
           a->size_bytes == b->size_bytes;
}

static void assert_next(struct repl_merge_plan *plan, int64_t now_ns,
                        const struct repl_merge *expected, bool done, int line)
{
    struct repl_merge merge;
    if (!asked(plan, now_ns, &merge))
        fail_msg("line %d: no merge", line);
    if (!same(&merge, expected))
        fail_msg("line %d: kind %d behind %llu to %llu from %llu, %u segments, %u needless, "
                 "%llu bytes",
                 line, merge.kind, (unsigned long long)merge.after_seq,
                 (unsigned long long)merge.to_seq, (unsigned long long)merge.from_seq,
                 merge.segments, merge.needless, (unsigned long long)merge.size_bytes);
    if (done)
        repl_merge_plan_done(plan, &merge, merge.size_bytes);
}
#define NEXT(plan, now_ns, done, ...)                                                              \
    assert_next(plan, now_ns, &(const struct repl_merge){__VA_ARGS__}, done, __LINE__)

static void assert_no_merge(struct repl_merge_plan *plan, int64_t now_ns, int line)
{
    struct repl_merge merge;
    if (asked(plan, now_ns, &merge))
        fail_msg("line %d: behind %llu to %llu", line, (unsigned long long)merge.after_seq,
                 (unsigned long long)merge.to_seq);
}
#define NONE(plan, now_ns) assert_no_merge(plan, now_ns, __LINE__)

static void a_run_is_merged_when_it_is_passed_over(void **state)
{
    (void)state;
    struct repl_merge_plan plan = plan_of(40, UINT64_MAX);
    drop_range(&plan, 2, 9); /* 1 and 10 are kept */
    NONE(&plan, 0);
    repl_merge_plan_drop(&plan, 11, 0);
    NEXT(&plan, 0, true, REPL_MERGE_RUN, 1, 10, 1, 9, 0, 90);
    NONE(&plan, 0);
    assert_int_equal(repl_merge_plan_count(&plan), 32);
    drop_range(&plan, 12, 39);
    NONE(&plan, 0); /* the newest is never touched */
    add_parts(&plan, 40, 41, 0, 1, true);
    add_parts(&plan, 41, 42, 0, 1, true);
    repl_merge_plan_drop(&plan, 41, 0);
    NEXT(&plan, 0, true, REPL_MERGE_RUN, 10, 40, 10, 30, 0, 300);
    /* what has been merged is merged again as a part of more */
    drop_range(&plan, 1, 10);
    NONE(&plan, 0);
    NEXT(&plan, 6 * HOUR, true, REPL_MERGE_BASE, 0, 40, 0, 3, 0, 400);
    NONE(&plan, DAY);
    repl_merge_plan_fini(&plan);
}

/* That a finer rule has passed over a point says nothing of the coarser one, which comes to it. */
static void each_rule_passes_over_by_itself(void **state)
{
    (void)state;
    struct repl_merge_plan plan = plan_of(202, UINT64_MAX);
    for (uint64_t seq = 2; seq <= 201; seq++) {
        if (seq % 10 != 1)
            repl_merge_plan_drop(&plan, seq, 0);
    }
    for (uint64_t seq = 11; seq < 201; seq += 10)
        NEXT(&plan, 0, true, REPL_MERGE_RUN, seq - 10, seq, seq - 10, 10, 0, 100);
    for (uint64_t seq = 11; seq < 191; seq += 10) {
        if (seq == 101)
            continue;
        NONE(&plan, 0);
        repl_merge_plan_drop(&plan, seq, 0);
        if (seq == 111)
            NEXT(&plan, 0, true, REPL_MERGE_RUN, 1, 101, 1, 10, 0, 1000);
    }
    repl_merge_plan_fini(&plan);
}

static void a_few_dropped_points_rest_first(void **state)
{
    (void)state;
    struct repl_merge_plan plan = plan_of(40, UINT64_MAX);
    drop_range(&plan, 3, 4);
    drop_range(&plan, 6, 6);
    repl_merge_plan_drop(&plan, 7, HOUR);
    NONE(&plan, 6 * HOUR - 1);
    NEXT(&plan, 6 * HOUR, true, REPL_MERGE_RUN, 2, 5, 2, 3, 0, 30);
    NONE(&plan, 7 * HOUR - 1);
    NEXT(&plan, 7 * HOUR, true, REPL_MERGE_RUN, 5, 8, 5, 3, 0, 30);
    NONE(&plan, 100 * DAY);
    repl_merge_plan_fini(&plan);
}

/* The run of points days apart is longer than the least rest. */
static void a_run_rests_for_as_long_as_it_spans(void **state)
{
    (void)state;
    struct repl_merge_plan plan;
    struct repl_error err;
    repl_merge_plan_init(&plan, UINT64_MAX);
    for (uint64_t seq = 1; seq <= 9; seq++) {
        struct repl_merge_segment segment = {.from_seq = seq - 1,
                                             .to_seq = seq,
                                             .has_point = true,
                                             .time_ns = (int64_t)seq * DAY,
                                             .file_size = 10};
        assert_true(repl_ok(repl_merge_plan_add(&plan, &segment, &err)));
    }
    drop_range(&plan, 2, 4);
    NONE(&plan, 3 * DAY - 1);
    NEXT(&plan, 3 * DAY, true, REPL_MERGE_RUN, 1, 5, 1, 4, 0, 40);
    repl_merge_plan_fini(&plan);
}

static void the_oldest_full_is_told_apart(void **state)
{
    (void)state;
    struct repl_merge_plan plan = plan_of(400, 50);
    drop_range(&plan, 1, 7);
    NONE(&plan, 0);
    repl_merge_plan_drop(&plan, 8, 0);
    /* whatever its size */
    NEXT(&plan, 0, true, REPL_MERGE_BASE, 0, 9, 0, 9, 0, 90);
    drop_range(&plan, 9, 300);
    NEXT(&plan, 0, true, REPL_MERGE_BASE, 0, 136, 0, 128, 0, 1360);
    NEXT(&plan, 0, true, REPL_MERGE_BASE, 0, 263, 0, 128, 0, 2630);
    NEXT(&plan, 0, true, REPL_MERGE_BASE, 0, 301, 0, 39, 0, 3010);
    NONE(&plan, DAY);
    repl_merge_plan_fini(&plan);

    /* Up to the newest, which stays, where nothing else is kept. */
    plan = plan_of(10, UINT64_MAX);
    drop_range(&plan, 1, 9);
    NEXT(&plan, 0, true, REPL_MERGE_BASE, 0, 9, 0, 9, 0, 90);
    add_parts(&plan, 10, 11, 0, 1, true);
    NONE(&plan, 5 * HOUR);
    repl_merge_plan_drop(&plan, 10, 5 * HOUR);
    NONE(&plan, 11 * HOUR - 1);
    NEXT(&plan, 11 * HOUR, true, REPL_MERGE_BASE, 0, 10, 0, 2, 0, 100);
    NONE(&plan, DAY);
    repl_merge_plan_fini(&plan);
}

static void a_later_full_makes_needless_what_is_before_it(void **state)
{
    (void)state;
    struct repl_merge_plan plan = plan_of(10, 45);
    add_parts(&plan, 10, 11, 0, 3, false); /* left without an end */
    add_parts(&plan, 0, 20, 0, 2, true);
    for (uint64_t seq = 21; seq <= 40; seq++)
        add_parts(&plan, seq - 1, seq, 0, 1, true);
    drop_range(&plan, 6, 10);
    drop_range(&plan, 20, 23);
    /* 2 parts and (20, 22] fit; then (22, 24] */
    NEXT(&plan, DAY, false, REPL_MERGE_RUN, 5, 22, 0, 12, 8, 40);
    NEXT(&plan, DAY, false, REPL_MERGE_RUN, 22, 24, 22, 2, 0, 20);
    NONE(&plan, DAY);
    repl_merge_plan_fini(&plan);

    /* The full alone: there is nothing to be written. */
    plan = plan_of(10, 15);
    add_parts(&plan, 10, 11, 0, 3, false);
    add_parts(&plan, 0, 20, 0, 2, true);
    add_parts(&plan, 20, 21, 0, 1, true);
    NEXT(&plan, DAY, true, REPL_MERGE_RUN, 10, 20, 0, 5, 3, 0);
    drop_range(&plan, 6, 10);
    NEXT(&plan, DAY, true, REPL_MERGE_RUN, 5, 20, 0, 7, 5, 0);
    NONE(&plan, 10 * DAY);
    drop_range(&plan, 1, 5);
    NEXT(&plan, 10 * DAY, true, REPL_MERGE_BASE, 0, 20, 0, 7, 5, 0);
    NONE(&plan, 100 * DAY);
    repl_merge_plan_fini(&plan);
}

static void parts_without_an_end_are_not_touched(void **state)
{
    (void)state;
    struct repl_merge_plan plan = plan_of(20, UINT64_MAX);
    struct repl_merge_segment other = {.from_seq = 20, .to_seq = 22, .part = 2};
    struct repl_error err;
    add_parts(&plan, 20, 21, 0, 2, false);
    drop_range(&plan, 2, 19);
    NONE(&plan, DAY); /* point 20 is the newest still */
    assert_int_equal(repl_merge_plan_add(&plan, &other, &err).code, REPL_E_CORRUPT);
    assert_string_equal(err.text, "segment (20, 22], part 2, does not follow what is there");
    add_parts(&plan, 20, 21, 2, 1, true);
    NEXT(&plan, DAY, true, REPL_MERGE_RUN, 1, 20, 1, 19, 0, 190);
    add_parts(&plan, 21, 22, 0, 1, true);
    repl_merge_plan_drop(&plan, 20, DAY);
    repl_merge_plan_drop(&plan, 1, DAY);
    NEXT(&plan, 2 * DAY, true, REPL_MERGE_BASE, 0, 21, 0, 5, 0, 230);
    repl_merge_plan_fini(&plan);
}

static void what_does_not_follow_is_refused(void **state)
{
    (void)state;
    static const struct repl_merge_segment wrong[] = {
        {.from_seq = 1, .to_seq = 4, .has_point = true},
        {.from_seq = 3, .to_seq = 3, .has_point = true},
        {.from_seq = 0, .to_seq = 3, .has_point = true},
        {.from_seq = 4, .to_seq = 5, .has_point = true},
    };
    struct repl_merge_plan plan = plan_of(3, UINT64_MAX);
    struct repl_error err;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(repl_merge_plan_add(&plan, &wrong[i], &err).code, REPL_E_CORRUPT);
    repl_merge_plan_drop(&plan, 77, 0); /* no segment ends there */
    repl_merge_plan_fini(&plan);
}

static void a_merge_that_failed_comes_again(void **state)
{
    (void)state;
    struct repl_merge_plan plan = plan_of(40, UINT64_MAX);
    struct repl_merge merge;
    drop_range(&plan, 2, 20);
    repl_merge_plan_drop(&plan, 22, 2 * HOUR);
    assert_true(repl_merge_plan_next(&plan, 0, &merge));
    repl_merge_plan_failed(&plan, &merge, HOUR);
    NONE(&plan, 7 * HOUR - 1);
    repl_merge_plan_drop(&plan, 21, 7 * HOUR - 1);
    NONE(&plan, 7 * HOUR - 1); /* 23 is the end now, and nobody has passed it over */
    repl_merge_plan_drop(&plan, 24, 7 * HOUR - 1);
    NEXT(&plan, 7 * HOUR - 1, true, REPL_MERGE_RUN, 1, 23, 1, 22, 0, 220);
    repl_merge_plan_fini(&plan);
}

/* A day whose seconds are dropped one by one, with nothing kept between: merged while it goes on,
 * and each second three times at most. */
static void a_long_run_is_merged_in_steps(void **state)
{
    (void)state;
    const uint64_t points = 86400;
    struct repl_merge_plan plan = plan_of(points + 2, UINT64_MAX);
    struct repl_merge merge;
    uint64_t written = 0;
    size_t most = 0;
    for (uint64_t seq = 2; seq <= points + 2; seq++) {
        if (seq != points && seq < points + 2)
            repl_merge_plan_drop(&plan, seq, 0);
        bool end = seq == points + 2;
        while (end ? asked(&plan, DAY, &merge) : repl_merge_plan_next(&plan, 0, &merge)) {
            assert_true(merge.segments <= REPL_MERGE_INPUTS_MAX);
            written += merge.size_bytes;
            repl_merge_plan_done(&plan, &merge, merge.size_bytes);
        }
        size_t thinned = repl_merge_plan_count(&plan) - (points + 2 - seq);
        most = thinned > most ? thinned : most;
    }
    assert_int_equal(repl_merge_plan_count(&plan), 4);
    assert_true(written <= 3 * 10 * points && written > 2 * 10 * points);
    assert_in_range(most, 2, points / REPL_MERGE_INPUTS_MAX + 2 * REPL_MERGE_INPUTS_MAX);
    repl_merge_plan_fini(&plan);
}

/* The same where each point is kept only while it is the newest: the run always ends there. */
static void the_run_of_the_newest_is_merged_in_steps(void **state)
{
    (void)state;
    const uint64_t points = 20000;
    struct repl_merge_plan plan = plan_of(2, UINT64_MAX);
    struct repl_merge merge;
    uint64_t written = 0;
    for (uint64_t seq = 2; seq <= points; seq++) {
        add_parts(&plan, seq, seq + 1, 0, 1, true);
        repl_merge_plan_drop(&plan, seq, (int64_t)seq * SECOND);
        while (asked(&plan, (int64_t)seq * SECOND, &merge)) {
            assert_true(merge.kind == REPL_MERGE_RUN && merge.to_seq <= seq);
            written += merge.size_bytes;
            repl_merge_plan_done(&plan, &merge, merge.size_bytes);
        }
        assert_true(repl_merge_plan_count(&plan) <
                    seq / REPL_MERGE_INPUTS_MAX + 2 * REPL_MERGE_INPUTS_MAX);
    }
    assert_true(written > 10 * (points - 2 * REPL_MERGE_INPUTS_MAX) && written <= 10 * points);
    repl_merge_plan_fini(&plan);
}

/* --- any history ----------------------------------------------------------------------------- */

#define SEGMENTS_MAX 6000
#define FLIGHT_MAX   32

/* A volume's segments, and what has been handed out. */
struct world {
    struct random random;
    struct repl_merge_plan plan;
    uint64_t bytes_max;
    struct repl_merge_segment segments[SEGMENTS_MAX];
    bool dropped[SEGMENTS_MAX]; /* the point it ends in */
    size_t count;
    size_t groups; /* with a point */
    struct repl_merge flight[FLIGHT_MAX];
    size_t flying;
    int64_t now_ns;
    unsigned merges, windows, bases, needless, compactions;
};

static uint64_t last_seq(const struct world *w)
{
    return w->count > 0 ? w->segments[w->count - 1].to_seq : 0;
}

static void world_append(struct world *w, uint64_t from_seq, uint64_t to_seq, uint32_t parts,
                         bool ends)
{
    for (uint32_t i = 0; i < parts; i++) {
        struct repl_error err;
        assert_true(w->count < SEGMENTS_MAX);
        w->dropped[w->count] = false;
        w->segments[w->count] =
            (struct repl_merge_segment){.from_seq = from_seq,
                                        .to_seq = to_seq,
                                        .part = i,
                                        .has_point = ends && i + 1 == parts,
                                        .time_ns = w->now_ns,
                                        .file_size = 1 + random_below(&w->random, 100)};
        assert_true(repl_ok(repl_merge_plan_add(&w->plan, &w->segments[w->count++], &err)));
    }
}

static void world_add(struct world *w)
{
    uint64_t last = last_seq(w), to = last + 1 + random_below(&w->random, 3);
    uint32_t parts = random_below(&w->random, 8) == 0 ? 3 : 1;
    bool full = last == 0 || random_below(&w->random, 200) == 0;
    if (full && random_below(&w->random, 2) == 0) {
        world_append(w, last, to, parts, false); /* parts without an end, then a full */
        to++;
    }
    world_append(w, full ? 0 : last, to, parts, true);
    w->now_ns += (int64_t)random_below(&w->random, 2 * SECOND);
}

/* Drops the points of a stretch, but for some: of the older half, or of any. */
static void world_drop(struct world *w, bool old)
{
    size_t from = old ? 0 : random_below(&w->random, w->count);
    size_t to = old ? w->count / 2 : random_below(&w->random, w->count);
    uint64_t kept = 1 + random_below(&w->random, 60);
    for (size_t i = from; i < to && i + 1 < w->count; i++) {
        if (!w->segments[i].has_point || random_below(&w->random, kept) == 0)
            continue;
        w->dropped[i] = true;
        repl_merge_plan_drop(&w->plan, w->segments[i].to_seq, w->now_ns);
    }
}

/* The segments [*first, *last] of a merge. */
static void world_find(const struct world *w, const struct repl_merge *merge, size_t *first,
                       size_t *last)
{
    for (*first = 0; merge->after_seq > 0; ++*first) {
        assert_true(*first < w->count);
        if (w->segments[*first].has_point && w->segments[*first].to_seq == merge->after_seq) {
            ++*first;
            break;
        }
    }
    for (*last = *first; *last < w->count; ++*last) {
        if (w->segments[*last].has_point && w->segments[*last].to_seq == merge->to_seq)
            return;
    }
    fail_msg("no segment ends in %llu", (unsigned long long)merge->to_seq);
}

static void assert_may_be_merged(struct world *w, const struct repl_merge *merge)
{
    size_t first, last, full = SIZE_MAX, groups = 0;
    uint64_t size = 0;
    world_find(w, merge, &first, &last);
    assert_int_equal(merge->segments, last - first + 1);
    assert_true(last + 1 < w->count);
    assert_true((merge->kind == REPL_MERGE_BASE) == (first == 0));
    for (size_t i = first; i <= last; i++) {
        if (i < last && w->segments[i].has_point)
            assert_true(w->dropped[i]);
        if (w->segments[i].from_seq == 0 && w->segments[i].part == 0)
            full = i;
    }
    size_t read = full == SIZE_MAX ? first : full;
    assert_int_equal(merge->needless, read - first);
    assert_int_equal(merge->from_seq, full == SIZE_MAX ? merge->after_seq : 0);
    for (size_t i = read; i <= last; i++) {
        size += w->segments[i].file_size;
        groups += w->segments[i].has_point;
    }
    assert_true(groups <= REPL_MERGE_INPUTS_MAX);
    if (groups > 1) {
        assert_int_equal(merge->size_bytes, size);
        assert_true(size <= w->bytes_max || first == 0);
    } else {
        assert_true(merge->size_bytes == 0 && merge->needless > 0);
    }
    for (size_t k = 0; k < w->flying; k++) {
        size_t other_first, other_last;
        world_find(w, &w->flight[k], &other_first, &other_last);
        assert_true(last < other_first || first > other_last);
    }
    w->merges++;
    w->bases += first == 0;
    w->windows += first > 0 && w->dropped[last];
    w->needless += merge->needless > 0;
}

static void world_merge(struct world *w, const struct repl_merge *merge)
{
    size_t first, last;
    world_find(w, merge, &first, &last);
    uint64_t size = 1 + merge->size_bytes / (1 + random_below(&w->random, 3));
    size_t from = merge->size_bytes == 0 ? first + merge->needless : last;
    if (merge->size_bytes > 0) {
        w->segments[last].from_seq = merge->from_seq;
        w->segments[last].part = 0;
        w->segments[last].file_size = size;
    }
    memmove(&w->segments[first], &w->segments[from], (w->count - from) * sizeof w->segments[0]);
    memmove(&w->dropped[first], &w->dropped[from], (w->count - from) * sizeof w->dropped[0]);
    w->count -= from - first;
    uint32_t gone = w->plan.gone;
    repl_merge_plan_done(&w->plan, merge, size);
    w->compactions += w->plan.gone < gone;
}

/* Ends one of the merges that are out. */
static void world_land(struct world *w, bool may_fail)
{
    size_t k = random_below(&w->random, w->flying);
    struct repl_merge merge = w->flight[k];
    w->flight[k] = w->flight[--w->flying];
    if (may_fail && random_below(&w->random, 10) == 0)
        repl_merge_plan_failed(&w->plan, &merge, w->now_ns);
    else
        world_merge(w, &merge);
}

/* Takes a merge, if there is one. */
static bool world_take(struct world *w)
{
    struct repl_merge merge;
    if (w->flying == FLIGHT_MAX || !repl_merge_plan_next(&w->plan, w->now_ns, &merge))
        return false;
    assert_may_be_merged(w, &merge);
    w->flight[w->flying++] = merge;
    return true;
}

static void world_restart(struct world *w)
{
    struct repl_error err;
    repl_merge_plan_fini(&w->plan);
    repl_merge_plan_init(&w->plan, w->bytes_max);
    w->flying = 0;
    for (size_t i = 0; i < w->count; i++)
        assert_true(repl_ok(repl_merge_plan_add(&w->plan, &w->segments[i], &err)));
    for (size_t i = 0; i < w->count; i++) {
        if (w->dropped[i])
            repl_merge_plan_drop(&w->plan, w->segments[i].to_seq, w->now_ns);
    }
}

/* Long after the last change nothing is left to be merged: one segment lies between two kept
 * points, or no two neighbours fit together. */
static void world_settle(struct world *w)
{
    for (unsigned idle = 0; idle < w->plan.count / REPL_MERGE_SWEEP + 2; idle++) {
        while (world_take(w))
            idle = 0;
        while (w->flying > 0)
            world_land(w, false);
        w->now_ns += DAY;
    }
    size_t newest = w->count;
    while (newest > 0 && !w->segments[newest - 1].has_point)
        newest--;
    for (size_t i = 0; i + 1 < newest; i++) {
        if (!w->dropped[i])
            continue;
        size_t end = i; /* the run ends in the newest, or has had its chance */
        while (w->dropped[end] || !w->segments[end].has_point)
            end++;
        if (end + 1 == newest)
            break;
        assert_true(w->bytes_max != UINT64_MAX);
        uint64_t size = w->segments[i].file_size, next = 0;
        for (size_t k = i; k > 0 && !w->segments[k - 1].has_point; k--)
            size += w->segments[k - 1].file_size;
        for (size_t k = i + 1; next == 0 || !w->segments[k - 1].has_point; k++)
            next += w->segments[k].file_size;
        assert_true(size + next > w->bytes_max);
    }
}

static void any_history(void **state)
{
    (void)state;
    static struct world w;
    unsigned merges = 0, windows = 0, bases = 0, needless = 0, compactions = 0;
    struct random random = random_begin("any_history", 1);
    for (unsigned i = 0; i < 200; i++) {
        w = (struct world){.random = {random_next(&random)},
                           .bytes_max = i % 2 == 0 ? UINT64_MAX : 2000};
        repl_merge_plan_init(&w.plan, w.bytes_max);
        for (unsigned step = 0; step < 3000; step++) {
            uint64_t what = random_below(&w.random, 100);
            if (what < 60 && w.count < SEGMENTS_MAX - 8)
                world_add(&w);
            else if (what < 64 && w.count > 0)
                world_drop(&w, what == 60);
            else if (what < 80)
                world_take(&w);
            else if (w.flying > 0)
                world_land(&w, true);
            w.now_ns += what == 99 ? HOUR : 0;
            if (random_below(&w.random, 1000) == 0)
                world_restart(&w);
        }
        world_settle(&w);
        compactions += w.compactions;
        merges += w.merges;
        windows += w.windows;
        bases += w.bases;
        needless += w.needless;
        repl_merge_plan_fini(&w.plan);
    }
    printf("%u merges: %u of a window, %u of a base, %u of a later full; %u compactions\n", merges,
           windows, bases, needless, compactions);
    assert_true(windows > 100 && bases > 100 && needless > 100 && compactions > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_merged_when_it_is_passed_over),
        cmocka_unit_test(each_rule_passes_over_by_itself),
        cmocka_unit_test(a_few_dropped_points_rest_first),
        cmocka_unit_test(a_run_rests_for_as_long_as_it_spans),
        cmocka_unit_test(the_oldest_full_is_told_apart),
        cmocka_unit_test(a_later_full_makes_needless_what_is_before_it),
        cmocka_unit_test(parts_without_an_end_are_not_touched),
        cmocka_unit_test(what_does_not_follow_is_refused),
        cmocka_unit_test(a_merge_that_failed_comes_again),
        cmocka_unit_test(a_long_run_is_merged_in_steps),
        cmocka_unit_test(the_run_of_the_newest_is_merged_in_steps),
        cmocka_unit_test(any_history),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
