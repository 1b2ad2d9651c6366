/*
 * Retention: the text of a policy, then what it says of points: by itself, thinned bit by bit in
 * any way against all at once, and from a schedule.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "journal/retention.h"
#include "unit/journal/retention_schedule.h"
#include "unit/random.h"

#define SECOND       INT64_C(1000000000)
#define DAY          (86400 * SECOND)
#define DEFAULT_TEXT "1s:1h 1m:1d 1h:30d 1d:1y"

static struct repl_retention policy_of(const char *text)
{
    struct repl_retention policy;
    struct repl_error err = {.text = ""};
    if (!repl_ok(repl_retention_parse(text, &policy, &err)))
        fail_msg("%s: %s", text, err.text);
    return policy;
}

static void a_policy_has_a_canonical_text(void **state)
{
    (void)state;
    static const struct {
        const char *text, *canonical;
    } cases[] = {
        {DEFAULT_TEXT, DEFAULT_TEXT},
        {"  60s:3600s\t24h:forever ", "1m:1h 1d:forever"},
        {"1s:1s", "1s:1s"},
        {"90s:7d", "90s:1w"},
        {"1d:365d", "1d:1y"},
        {"007d:100y", "1w:100y"},
        {"1s:2s 2s:3s 3s:4s 4s:5s 5s:6s 6s:7s 7s:8s 8s:9s",
         "1s:2s 2s:3s 3s:4s 4s:5s 5s:6s 6s:7s 7s:8s 8s:9s"},
        {"1s:3153599999s", "1s:3153599999s"},
        {"100y:forever", "100y:forever"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repl_retention policy = policy_of(cases[i].text);
        char text[REPL_RETENTION_TEXT_SIZE];
        repl_retention_format(&policy, text);
        assert_string_equal(text, cases[i].canonical);
    }
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "no pair: write EVERY:FOR, such as"},
        {" \t ", "no pair"},
        {"1s", "pair 1, \"1s\": the colon is missing"},
        {"1s:1h 1m=1d", "pair 2, \"1m=1d\": the colon is missing"},
        {":", "pair 1, \":\": EVERY is no length of time"},
        {"1s:", "FOR is no length of time"},
        {"s:1h", "EVERY is no length"},
        {"1:1h", "EVERY is no length"},
        {"0s:1h", "EVERY is no length"},
        {"-1s:1h", "EVERY is no length"},
        {"1s:1h:1d", "FOR is no length"},
        {"1S:1h", "EVERY is no length"},
        {"1.5s:1h", "EVERY is no length"},
        {"1s:Forever", "FOR is no length"},
        {"forever:forever", "EVERY is no length"},
        {"1s:101y", "FOR is more than 100y"},
        {"1s:99999999999999999999999999y", "FOR is more than 100y"},
        {"36501d:forever", "EVERY is more than 100y"},
        {"1d:1h", "pair 1, \"1d:1h\": FOR is shorter than EVERY"},
        {"1m:1h 1s:1d", "pair 2, \"1s:1d\": EVERY is not longer"},
        {"1m:1h 60s:1d", "pair 2, \"60s:1d\": EVERY is not longer"},
        {"1s:1d 1m:24h", "pair 2, \"1m:24h\": FOR is not longer"},
        {"1s:forever 1m:forever", "pair 2, \"1m:forever\": FOR is not longer"},
        {"1s:2s 2s:3s 3s:4s 4s:5s 5s:6s 6s:7s 7s:8s 8s:9s 9s:10s",
         "pair 9, \"9s:10s\": more than 8 pairs"},
        {"1s:11111111111111111111111111111111111111111111",
         "pair 1, \"1s:1111111111111111111111111111111111111...\": FOR"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct repl_retention policy;
        struct repl_error err = {.text = ""};
        assert_int_equal(repl_retention_parse(cases[i].text, &policy, &err).code, REPL_E_USAGE);
        if (strstr(err.text, cases[i].message) == NULL)
            fail_msg("\"%s\": %s", cases[i].text, err.text);
    }
}

/* A point is kept until FOR behind the end of its interval; one that is first of none, never. */
static void until_when_a_point_is_kept(void **state)
{
    (void)state;
    const struct repl_retention policy = policy_of("1s:1h 1m:1d");
    const int64_t first = 120 * SECOND, later = first + SECOND / 2, next = first + SECOND;
    const int64_t last = INT64_MAX, old = -5;
    unsigned rule;
    assert_true(repl_retention_until(&policy, NULL, first, &rule) == 180 * SECOND + DAY);
    assert_int_equal(rule, 1);
    assert_true(repl_retention_until(&policy, &first, later, &rule) == REPL_RETENTION_NEVER);
    assert_int_equal(rule, policy.count);
    assert_true(repl_retention_until(&policy, &later, next, &rule) == 122 * SECOND + DAY / 24);
    assert_int_equal(rule, 0);
    /* before 1970, and at the end of time */
    assert_true(repl_retention_until(&policy, NULL, old, NULL) == DAY);
    assert_true(repl_retention_until(&policy, NULL, last, NULL) == REPL_RETENTION_FOREVER);
    /* a time that goes back begins an interval */
    assert_true(repl_retention_until(&policy, &next, old, NULL) == DAY);
    const struct repl_retention forever = policy_of("1s:1h 1d:forever");
    assert_true(repl_retention_until(&forever, NULL, first, NULL) == REPL_RETENTION_FOREVER);
}

static void what_is_protected_is_kept(void **state)
{
    (void)state;
    const struct repl_retention policy = policy_of("1m:1h");
    struct repl_retention_point points[] = {
        {1, 0, 0}, {2, 1, REPL_PROTECT_HELD}, {3, 2, 0}, {4, 3, REPL_PROTECT_NEWEST}};
    bool keep[4];
    assert_true(repl_retention_pass(&policy, points, 4, 0, 10, keep) == 3660 * SECOND + 1);
    assert_true(keep[0] && keep[1] && !keep[2] && keep[3]);
    assert_true(repl_retention_pass(&policy, points, 4, 0, 3660 * SECOND, keep) ==
                3660 * SECOND + 1);
    assert_true(keep[0]);
    assert_true(repl_retention_pass(&policy, points, 4, 0, 3660 * SECOND + 1, keep) ==
                REPL_RETENTION_FOREVER);
    assert_true(!keep[0] && keep[1] && !keep[2] && keep[3]);
    points[0].protect = REPL_PROTECT_PROVEN;
    assert_true(repl_retention_pass(&policy, points, 4, 0, 0, keep) == REPL_RETENTION_FOREVER);
    assert_true(keep[0]);
}

static void a_point_is_due_right_behind_its_last_moment(void **state)
{
    (void)state;
    const struct repl_retention policy = policy_of("1m:1h 1d:forever");
    const int64_t until_ns = (120 + 3600) * SECOND;
    struct repl_retention_schedule schedule;
    struct repl_error err;
    uint64_t seq;
    repl_retention_schedule_init(&schedule, &policy);
    assert_true(repl_ok(repl_retention_schedule_add(&schedule, 5, 0, &err)));
    assert_true(repl_retention_schedule_next_ns(&schedule) == REPL_RETENTION_FOREVER);
    assert_true(repl_ok(repl_retention_schedule_add(&schedule, 7, 60 * SECOND, &err)));
    assert_true(repl_retention_schedule_next_ns(&schedule) == until_ns + 1);
    assert_false(repl_retention_schedule_take(&schedule, until_ns, &seq));
    assert_true(repl_retention_schedule_take(&schedule, until_ns + 1, &seq));
    assert_int_equal(seq, 7);
    assert_false(repl_retention_schedule_take(&schedule, INT64_MAX, &seq));
    repl_retention_schedule_fini(&schedule);
}

/* --- any history ----------------------------------------------------------------------------- */

#define POINTS 600

struct history {
    struct repl_retention policy;
    struct repl_retention_point points[POINTS]; /* all there ever were */
    int64_t held_until_ns[POINTS];
    size_t arrived;
};

/* Small numbers, so that intervals of different rules begin and end in every way. */
static struct repl_retention random_policy(struct random *random, bool divides)
{
    struct repl_retention policy = {.count = 1 + (unsigned)random_below(random, 4)};
    int64_t every_s = 1, for_s = 0;
    for (unsigned i = 0; i < policy.count; i++) {
        every_s = divides ? every_s * (int64_t)(i == 0 ? 1 : 2 + random_below(random, 4))
                          : every_s + (int64_t)(i > 0) + (int64_t)random_below(random, 9);
        for_s = (for_s + 1 > every_s ? for_s + 1 : every_s) + (int64_t)random_below(random, 40);
        policy.rules[i] = (struct repl_retention_rule){every_s, for_s};
    }
    if (random_below(random, 4) == 0)
        policy.rules[policy.count - 1].for_s = REPL_RETENTION_FOREVER;
    return policy;
}

static void history_make(struct random *random, struct history *h, bool divides)
{
    int64_t time_ns = (int64_t)random_below(random, 1000) * SECOND - 300 * SECOND;
    *h = (struct history){.policy = random_policy(random, divides)};
    for (size_t i = 0; i < POINTS; i++) {
        bool gap = random_below(random, 40) == 0;
        time_ns += (int64_t)random_below(random, (uint64_t)(gap ? 90 : 2) * SECOND);
        h->points[i] = (struct repl_retention_point){.seq = i + 1, .time_ns = time_ns};
        h->held_until_ns[i] = random_below(random, 30) == 0
                                  ? time_ns + (int64_t)random_below(random, 200) * SECOND
                                  : INT64_MIN;
    }
}

static void protect(const struct history *h, struct repl_retention_point *points, size_t count,
                    int64_t now_ns)
{
    for (size_t i = 0; i < count; i++) {
        points[i].protect = h->held_until_ns[points[i].seq - 1] >= now_ns ? REPL_PROTECT_HELD : 0;
        if (i + 1 == count)
            points[i].protect |= REPL_PROTECT_NEWEST;
    }
}

/* Gives up what is not kept. Returns how many are left. */
static size_t thin(const struct history *h, struct repl_retention_point *points, size_t count,
                   int64_t now_ns)
{
    static bool keep[POINTS];
    size_t left = 0;
    protect(h, points, count, now_ns);
    repl_retention_pass(&h->policy, points, count, 0, now_ns, keep);
    for (size_t i = 0; i < count; i++) {
        if (keep[i])
            points[left++] = points[i];
    }
    return left;
}

static void assert_same(const struct repl_retention_point *a, size_t a_count,
                        const struct repl_retention_point *b, size_t b_count)
{
    assert_int_equal(a_count, b_count);
    for (size_t i = 0; i < a_count; i++)
        assert_int_equal(a[i].seq, b[i].seq);
}

/* The end of the interval that a time lies in. */
static int64_t interval_end(int64_t time_ns, int64_t every_ns)
{
    int64_t into_ns = time_ns % every_ns;
    return time_ns - (into_ns < 0 ? into_ns + every_ns : into_ns) + every_ns;
}

/* Whether point i of all that have arrived is the first of an interval, by one rule, that was not
 * over for longer than FOR. */
static bool is_promised(const struct history *h, size_t i, int64_t now_ns)
{
    for (unsigned k = 0; k < h->policy.count; k++) {
        const struct repl_retention_rule *rule = &h->policy.rules[k];
        int64_t every_ns = rule->every_s * SECOND;
        int64_t end_ns = interval_end(h->points[i].time_ns, every_ns);
        bool first = i == 0 || interval_end(h->points[i - 1].time_ns, every_ns) != end_ns;
        if (first &&
            (rule->for_s == REPL_RETENTION_FOREVER || now_ns - end_ns <= rule->for_s * SECOND))
            return true;
    }
    return false;
}

/* What is left is what the policy promises, and what is protected. */
static void assert_promise(const struct history *h, const struct repl_retention_point *left,
                           size_t count, int64_t now_ns)
{
    size_t at = 0;
    for (size_t i = 0; i < h->arrived; i++) {
        bool kept = at < count && left[at].seq == h->points[i].seq;
        bool is_protected = h->held_until_ns[i] >= now_ns || i + 1 == h->arrived;
        assert_true(kept == (is_protected || is_promised(h, i, now_ns)));
        at += kept;
    }
}

/* Thinned at any times, or all at once at the end: the same is left. Nothing is remembered from
 * one time to the next but the points that are left, so each is as good as a restart. */
static void thinned_bit_by_bit(void **state)
{
    (void)state;
    struct random random = random_begin("thinned_bit_by_bit", 1);
    static struct history h;
    static struct repl_retention_point left[POINTS], all[POINTS];
    for (unsigned world = 0; world < 400; world++) {
        history_make(&random, &h, world % 2 == 0);
        size_t count = 0;
        uint64_t often = 1 + random_below(&random, 60);
        for (size_t i = 0; i < POINTS; i++) {
            left[count++] = h.points[i];
            h.arrived = i + 1;
            if (random_below(&random, often) != 0)
                continue;
            int64_t now_ns = h.points[i].time_ns + (int64_t)random_below(&random, SECOND);
            if (i + 1 < POINTS && now_ns >= h.points[i + 1].time_ns)
                now_ns = h.points[i].time_ns;
            count = thin(&h, left, count, now_ns);
            assert_promise(&h, left, count, now_ns);
        }
        int64_t now_ns =
            h.points[POINTS - 1].time_ns + (1 + (int64_t)random_below(&random, 99)) * SECOND;
        count = thin(&h, left, count, now_ns);
        memcpy(all, h.points, sizeof all);
        assert_same(left, count, all, thin(&h, all, POINTS, now_ns));
    }
}

/* A pass over what is new says the same as one over everything, and nothing changes before it said
 * that something would. */
static void begun_in_the_middle(void **state)
{
    (void)state;
    struct random random = random_begin("begun_in_the_middle", 1);
    static struct history h;
    static bool whole[POINTS], parts[POINTS];
    for (unsigned world = 0; world < 300; world++) {
        history_make(&random, &h, world % 2 == 0);
        size_t cut = random_below(&random, POINTS + 1);
        int64_t now_ns = h.points[random_below(&random, POINTS)].time_ns + 30 * SECOND;
        protect(&h, h.points, POINTS, now_ns);
        int64_t change_ns = repl_retention_pass(&h.policy, h.points, POINTS, 0, now_ns, whole);
        int64_t first = repl_retention_pass(&h.policy, h.points, cut, 0, now_ns, parts);
        int64_t second = repl_retention_pass(&h.policy, h.points, POINTS, cut, now_ns, parts);
        assert_memory_equal(whole, parts, sizeof whole);
        assert_true(change_ns == (first < second ? first : second));
        if (change_ns == REPL_RETENTION_FOREVER)
            continue;
        assert_true(change_ns > now_ns);
        repl_retention_pass(&h.policy, h.points, POINTS, 0, change_ns - 1, parts);
        assert_memory_equal(whole, parts, sizeof whole);
        repl_retention_pass(&h.policy, h.points, POINTS, 0, change_ns, parts);
        assert_memory_not_equal(whole, parts, sizeof whole);
    }
}

/* A schedule of the points that are kept, as after a restart. */
static void schedule_again(const struct history *h, struct repl_retention_schedule *schedule,
                           const bool *keep, size_t count, bool *over)
{
    struct repl_error err;
    repl_retention_schedule_fini(schedule);
    repl_retention_schedule_init(schedule, &h->policy);
    for (size_t i = 0; i < count; i++) {
        over[i] = !keep[i];
        if (keep[i])
            assert_true(
                repl_ok(repl_retention_schedule_add(schedule, i + 1, h->points[i].time_ns, &err)));
    }
}

/* The points whose time is over by the schedule, less those that are protected, are those that a
 * pass does not keep. */
static void a_schedule_agrees(void **state)
{
    (void)state;
    struct random random = random_begin("a_schedule_agrees", 1);
    static struct history h;
    static struct repl_retention_point all[POINTS];
    static bool over[POINTS], keep[POINTS];
    for (unsigned world = 0; world < 300; world++) {
        struct repl_retention_schedule schedule;
        history_make(&random, &h, world % 2 == 0);
        repl_retention_schedule_init(&schedule, &h.policy);
        memset(over, 0, sizeof over);
        memcpy(all, h.points, sizeof all);
        for (size_t i = 0; i < POINTS; i++) {
            uint64_t seq;
            int64_t now_ns = all[i].time_ns;
            struct repl_error err;
            assert_true(
                repl_ok(repl_retention_schedule_add(&schedule, all[i].seq, all[i].time_ns, &err)));
            bool due = repl_retention_schedule_next_ns(&schedule) <= now_ns, any = false;
            while (repl_retention_schedule_take(&schedule, now_ns, &seq)) {
                assert_false(over[seq - 1]); /* once */
                over[seq - 1] = any = true;
            }
            assert_true(due == any);
            protect(&h, all, i + 1, now_ns);
            repl_retention_pass(&h.policy, all, i + 1, 0, now_ns, keep);
            for (size_t k = 0; k <= i; k++)
                assert_true(keep[k] == (!over[k] || all[k].protect != 0));
            if (random_below(&random, 100) == 0)
                schedule_again(&h, &schedule, keep, i + 1, over);
        }
        repl_retention_schedule_fini(&schedule);
    }
}

/* Times that go back: nothing breaks, and what a pass keeps the schedule does not give up. */
static void times_that_go_back(void **state)
{
    (void)state;
    struct random random = random_begin("times_that_go_back", 1);
    static struct history h;
    static bool keep[POINTS];
    for (unsigned world = 0; world < 100; world++) {
        struct repl_retention_schedule schedule;
        struct repl_error err;
        uint64_t seq;
        history_make(&random, &h, world % 2 == 0);
        repl_retention_schedule_init(&schedule, &h.policy);
        for (size_t i = 0; i < POINTS; i++) {
            h.points[i].time_ns -= (int64_t)random_below(&random, 30) * SECOND;
            assert_true(
                repl_ok(repl_retention_schedule_add(&schedule, i + 1, h.points[i].time_ns, &err)));
        }
        int64_t now_ns = h.points[POINTS - 1].time_ns;
        repl_retention_pass(&h.policy, h.points, POINTS, 0, now_ns, keep);
        while (repl_retention_schedule_take(&schedule, now_ns, &seq))
            assert_false(keep[seq - 1]);
        repl_retention_schedule_fini(&schedule);
    }
}

/* Two months at a point a second: what is left is what the pairs promise, and a pass is quick. */
static void five_million_points(void **state)
{
    (void)state;
    const struct repl_retention policy = policy_of(DEFAULT_TEXT);
    const size_t count = 5000000;
    struct repl_retention_point *points = calloc(count, sizeof *points);
    bool *keep = calloc(count, sizeof *keep);
    size_t kept = 0;
    assert_non_null(points);
    assert_non_null(keep);
    for (size_t i = 0; i < count; i++)
        points[i] = (struct repl_retention_point){i + 1, (int64_t)i * SECOND, 0};
    clock_t begin = clock();
    repl_retention_pass(&policy, points, count, 0, points[count - 1].time_ns, keep);
    printf("%zu points in %.0f ms\n", count,
           (double)(clock() - begin) * 1000 / (double)CLOCKS_PER_SEC);
    for (size_t i = 0; i < count; i++)
        kept += keep[i];
    /* seconds, then minutes, hours and days begun before those */
    assert_int_equal(kept, 3602 + 1381 + 697 + 28);
    free(keep);
    free(points);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_policy_has_a_canonical_text),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(until_when_a_point_is_kept),
        cmocka_unit_test(what_is_protected_is_kept),
        cmocka_unit_test(a_point_is_due_right_behind_its_last_moment),
        cmocka_unit_test(thinned_bit_by_bit),
        cmocka_unit_test(begun_in_the_middle),
        cmocka_unit_test(a_schedule_agrees),
        cmocka_unit_test(times_that_go_back),
        cmocka_unit_test(five_million_points),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
