/*
 * More than a year at a point a second, thinned by the common policy and merged as planned, against
 * a virtual clock: how many segments there are, and how often what came is written again. Segments
 * are sizes only: what so many points in a row wrote, each page once, where pages are written all
 * alike (the least is superseded) or as Zipf has it (a few of them all the time).
 *
 *   REPL_TEST_DAYS=400 test_merge_year     so many days, each of the runs
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "journal/merge_plan.h"
#include "unit/journal/retention_schedule.h"

#define SECOND      INT64_C(1000000000)
#define DAY_S       86400u
#define DAYS_LONG   400u /* more than the policy keeps any but the newest of */
#define DAYS        60u
#define POLICY      "1s:1h 1m:1d 1h:30d 1d:1y"
#define PAGES       (UINT64_C(1) << 24) /* of the volume: 64 GiB */
#define WRITES      64u                 /* pages a point: 22 GB a day */
#define PAGE        4096u
#define CURVE       27u /* points in a row, as powers of two: more than the days have */
#define RANK_SHARES 16u /* parts of an octave of ranks that are written alike */

/* --- how much is left of what so many points wrote ------------------------------------------- */

struct curve {
    double bytes[CURVE]; /* of 2^i points */
};

/* So many pages, each of which a write is about with this probability. */
static void curve_add(struct curve *curve, double pages, double probability)
{
    double missed = 1; /* by all writes of a point, then of two, of four */
    for (unsigned i = 0; i < WRITES; i++)
        missed *= 1 - probability;
    for (unsigned i = 0; i < CURVE; i++) {
        curve->bytes[i] += pages * (1 - missed) * PAGE;
        missed *= missed;
    }
}

static struct curve curve_uniform(void)
{
    struct curve curve = {{0}};
    curve_add(&curve, (double)PAGES, 1.0 / (double)PAGES);
    return curve;
}

/* The page of rank r is written as often as 1/r says. */
static struct curve curve_zipf(void)
{
    struct curve curve = {{0}};
    double sum = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t rank = 1, step = 1; rank < PAGES; rank += step) {
            step = rank / RANK_SHARES > 0 ? rank / RANK_SHARES : 1;
            double middle = (double)rank + (double)(step - 1) / 2;
            if (pass == 0)
                sum += (double)step / middle;
            else
                curve_add(&curve, (double)step, 1 / middle / sum);
        }
    }
    return curve;
}

static uint64_t curve_bytes(const struct curve *curve, uint64_t points)
{
    unsigned i = 0;
    while (points >> (i + 1) > 0)
        i++;
    assert_true(i + 1 < CURVE);
    double above = (double)points / (double)(UINT64_C(1) << i) - 1;
    return (uint64_t)(curve->bytes[i] + above * (curve->bytes[i + 1] - curve->bytes[i]));
}

/* --- the site -------------------------------------------------------------------------------- */

struct year {
    struct curve curve;
    struct repl_retention_schedule schedule;
    struct repl_merge_plan plan;
    uint64_t came_bytes, written_bytes, into_base_bytes;
    uint64_t merges, dropped, newest;
    size_t segments_max;
    size_t kept_max;
};

static void year_add(struct year *y, uint64_t second)
{
    struct repl_error err;
    struct repl_merge_segment segment = {.from_seq = second,
                                         .to_seq = second + 1,
                                         .has_point = true,
                                         .time_ns = (int64_t)second * SECOND,
                                         .file_size = curve_bytes(&y->curve, 1)};
    y->newest = segment.to_seq;
    if (second == 0)
        segment.file_size = PAGES * PAGE;
    else
        y->came_bytes += segment.file_size;
    assert_true(repl_ok(repl_merge_plan_add(&y->plan, &segment, &err)));
    assert_true(
        repl_ok(repl_retention_schedule_add(&y->schedule, segment.to_seq, segment.time_ns, &err)));
}

static void year_merge(struct year *y, int64_t now_ns)
{
    struct repl_merge merge;
    while (repl_merge_plan_next(&y->plan, now_ns, &merge)) {
        uint64_t size = PAGES * PAGE;
        if (merge.kind == REPL_MERGE_BASE) {
            y->into_base_bytes += merge.size_bytes - size;
        } else {
            size = curve_bytes(&y->curve, merge.to_seq - merge.after_seq);
            y->written_bytes += size;
        }
        y->merges++;
        repl_merge_plan_done(&y->plan, &merge, size);
    }
}

static void year_thin(struct year *y, int64_t now_ns)
{
    uint64_t seq;
    while (repl_retention_schedule_take(&y->schedule, now_ns, &seq)) {
        if (seq == y->newest) /* is protected */
            continue;
        repl_merge_plan_drop(&y->plan, seq, now_ns);
        y->dropped++;
    }
}

static struct year year_begin(const char *policy_text, struct curve curve, uint64_t bytes_max)
{
    struct year y = {.curve = curve};
    struct repl_retention policy;
    struct repl_error err;
    assert_true(repl_ok(repl_retention_parse(policy_text, &policy, &err)));
    repl_retention_schedule_init(&y.schedule, &policy);
    repl_merge_plan_init(&y.plan, bytes_max);
    return y;
}

static void year_end(struct year *y, const char *name, uint64_t seconds, clock_t begin)
{
    printf("%s, %llu days: %.1f TB came, %.2f of it written again, %.3f into the base; %llu "
           "merges; at most %zu points and %zu segments; %.1f s\n",
           name, (unsigned long long)(seconds / DAY_S), (double)y->came_bytes / 1e12,
           (double)y->written_bytes / (double)y->came_bytes,
           (double)y->into_base_bytes / (double)y->came_bytes, (unsigned long long)y->merges,
           y->kept_max, y->segments_max, (double)(clock() - begin) / (double)CLOCKS_PER_SEC);
    repl_retention_schedule_fini(&y->schedule);
    repl_merge_plan_fini(&y->plan);
}

/* written_max: of what came, written again. */
static void year_check(const char *name, uint64_t days, struct curve curve, uint64_t bytes_max,
                       double written_max, size_t segments_max)
{
    const char *text = getenv("REPL_TEST_DAYS");
    uint64_t seconds = (text != NULL ? strtoull(text, NULL, 10) : days) * DAY_S;
    struct year y = year_begin(POLICY, curve, bytes_max);
    clock_t begin = clock();
    for (uint64_t second = 0; second < seconds; second++) {
        int64_t now_ns = (int64_t)second * SECOND;
        year_add(&y, second);
        year_thin(&y, now_ns);
        year_merge(&y, now_ns);
        size_t segments = repl_merge_plan_count(&y.plan), kept = second + 1 - y.dropped;
        y.segments_max = segments > y.segments_max ? segments : y.segments_max;
        y.kept_max = kept > y.kept_max ? kept : y.kept_max;
    }
    year_end(&y, name, seconds, begin);
    assert_true((double)y.written_bytes < written_max * (double)y.came_bytes);
    assert_true(y.segments_max < segments_max);
    assert_true(seconds < DAYS_LONG * DAY_S || y.into_base_bytes > 0);
}

static void pages_written_alike(void **state)
{
    (void)state;
    year_check("alike", DAYS, curve_uniform(), UINT64_MAX, 2.8, 6200);
}

static void pages_written_as_zipf_has_it(void **state)
{
    (void)state;
    year_check("zipf", DAYS_LONG, curve_zipf(), UINT64_MAX, 1.5, 6200);
}

static void each_result_one_segment(void **state)
{
    (void)state;
    year_check("alike, bounded", DAYS, curve_uniform(), REPL_MERGE_BYTES_MAX, 2.8, 23000);
    year_check("zipf, bounded", DAYS, curve_zipf(), REPL_MERGE_BYTES_MAX, 1.5, 14000);
}

/* History that nobody has thinned: everything is dropped at once, and then merged. In linear time,
 * or this would not end. */
static void backlog_check(const char *policy, uint64_t days, size_t segments_max)
{
    const uint64_t seconds = days * DAY_S;
    const int64_t now_ns = (int64_t)seconds * SECOND;
    struct year y = year_begin(policy, curve_zipf(), UINT64_MAX);
    clock_t begin = clock();
    for (uint64_t second = 0; second < seconds; second++)
        year_add(&y, second);
    year_thin(&y, now_ns);
    for (unsigned later = 1; later <= 20; later++) { /* so that all of it is looked at, and rests */
        for (uint64_t i = 0; i < 2000; i++)
            year_merge(&y, now_ns + later * DAY_S * SECOND);
    }
    y.kept_max = seconds - y.dropped;
    y.segments_max = repl_merge_plan_count(&y.plan);
    year_end(&y, policy, seconds, begin);
    assert_in_range(y.segments_max, y.kept_max, segments_max);
}

static void a_backlog(void **state)
{
    (void)state;
    backlog_check(POLICY, DAYS, 6000);
    backlog_check("1s:1h", 20, 3700);
    backlog_check("1w:forever", 20, 10 + 7 * DAY_S / REPL_MERGE_INPUTS_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_written_alike),
        cmocka_unit_test(pages_written_as_zipf_has_it),
        cmocka_unit_test(each_result_one_segment),
        cmocka_unit_test(a_backlog),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
