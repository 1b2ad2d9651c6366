/*
 * Pages that are suspected to differ: each rule by itself, and then any history of
 * writes of a page, followed by a source that misses none of them or one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "suspect.h"
#include "unit/random.h"

static struct repl_page_digest content(uint64_t n)
{
    struct repl_page_digest digest = {{0}};
    memcpy(digest.bytes, &n, sizeof n);
    return digest;
}

static struct repl_suspect_look look(char replica, int64_t told_ns, char source, int64_t read_ns)
{
    return (struct repl_suspect_look){.replica = content((uint64_t)replica),
                                      .told_ns = told_ns,
                                      .source = content((uint64_t)source),
                                      .read_ns = read_ns};
}

/* The verdict of looks one after the other, the first of which makes the suspect. */
static enum repl_suspect_verdict judge(const struct repl_suspect_look *looks, size_t count,
                                       struct repl_suspect *s)
{
    enum repl_suspect_verdict verdict = REPL_SUSPECT_OPEN;
    repl_suspect_init(s, 7, &looks[0]);
    for (size_t i = 1; i < count; i++) {
        assert_int_equal(verdict, REPL_SUSPECT_OPEN);
        verdict = repl_suspect_look(s, &looks[i]);
    }
    return verdict;
}

#define JUDGE(verdict, ...)                                                                        \
    do {                                                                                           \
        const struct repl_suspect_look looks_[] = {__VA_ARGS__};                                   \
        struct repl_suspect suspect_;                                                              \
        assert_int_equal(judge(looks_, sizeof looks_ / sizeof looks_[0], &suspect_), verdict);     \
    } while (0)

static void test_equal_at_any_time(void **state)
{
    (void)state;
    JUDGE(REPL_SUSPECT_EQUAL, look('B', 1, 'A', 10), look('A', 2, 'A', 20));
    JUDGE(REPL_SUSPECT_EQUAL, look('B', 1, 'A', 10), look('C', 11, 'C', 20));
    JUDGE(REPL_SUSPECT_EQUAL, look('B', 1, 'A', 10), look('B', 11, 'A', 20), look('B', 21, 'A', 30),
          look('A', 31, 'A', 40));
}

static void test_three_proofs(void **state)
{
    (void)state;
    JUDGE(REPL_SUSPECT_OPEN, look('B', 1, 'A', 10), look('B', 11, 'A', 20), look('B', 21, 'A', 30));
    JUDGE(REPL_SUSPECT_DIFFERS, look('B', 1, 'A', 10), look('B', 11, 'A', 20),
          look('B', 21, 'A', 30), look('B', 31, 'A', 40));
}

/* The same point again is no new proof, and neither is one that was cut before the page was read.
 */
static void test_old_news(void **state)
{
    (void)state;
    JUDGE(REPL_SUSPECT_OPEN, look('B', 1, 'A', 10), look('B', 1, 'A', 20), look('B', 1, 'A', 30),
          look('B', 10, 'A', 40), look('B', 10, 'A', 50), look('B', 9, 'A', 60));
    JUDGE(REPL_SUSPECT_OPEN, look('B', 1, 'A', 10), look('B', 11, 'A', 20), look('B', 11, 'A', 30),
          look('B', 20, 'A', 40), look('B', 21, 'A', 50));
    /* but where the page stays the same, its first reading is what counts */
    JUDGE(REPL_SUSPECT_DIFFERS, look('B', 1, 'A', 10), look('B', 5, 'A', 20),
          look('B', 11, 'A', 30), look('B', 31, 'A', 40), look('B', 41, 'A', 50));
}

/* As of a time that has not come: the clock was set back. */
static void test_clock_set_back(void **state)
{
    (void)state;
    JUDGE(REPL_SUSPECT_OPEN, look('B', 1, 'A', 10), look('B', 101, 'A', 20),
          look('B', 102, 'A', 30), look('B', 103, 'A', 40), look('B', 104, 'A', 50));
    JUDGE(REPL_SUSPECT_OPEN, look('B', 1, 'A', 10), look('B', 101, 'A', 100),
          look('B', 101, 'A', 102), look('B', 101, 'A', 103), look('B', 101, 'A', 104));
}

static void test_changes_begin_anew(void **state)
{
    (void)state;
    /* the device's content */
    JUDGE(REPL_SUSPECT_OPEN, look('B', 1, 'A', 10), look('B', 11, 'A', 20), look('B', 21, 'A', 30),
          look('B', 31, 'C', 40), look('B', 41, 'C', 50), look('B', 51, 'C', 60));
    JUDGE(REPL_SUSPECT_DIFFERS, look('B', 1, 'A', 10), look('B', 11, 'C', 20),
          look('B', 21, 'C', 30), look('B', 31, 'C', 40), look('B', 41, 'C', 50));
    /* the replica's */
    JUDGE(REPL_SUSPECT_OPEN, look('B', 1, 'A', 10), look('B', 11, 'A', 20), look('B', 21, 'A', 30),
          look('C', 31, 'A', 40), look('C', 41, 'A', 50), look('C', 51, 'A', 60));
}

static void test_always_changing(void **state)
{
    (void)state;
    struct repl_suspect s;
    struct repl_suspect_look first = look('B', 0, 'A', 1);
    repl_suspect_init(&s, 0, &first);
    for (int i = 1; i <= (int)REPL_SUSPECT_CHANGES; i++) {
        struct repl_suspect_look next =
            look('B', 10 * i, i % 2 ? 'C' : 'A', 10 * i + 1); /* to and fro */
        assert_int_equal(repl_suspect_look(&s, &next), i == (int)REPL_SUSPECT_CHANGES
                                                           ? REPL_SUSPECT_CHANGING
                                                           : REPL_SUSPECT_OPEN);
        assert_int_equal(repl_suspect_give_up(&s), REPL_SUSPECT_CHANGING);
    }
}

static void test_vague(void **state)
{
    (void)state;
    struct repl_suspect s;
    struct repl_suspect_look next = look('B', 0, 'A', 1);
    repl_suspect_init(&s, 0, &next);
    assert_int_equal(repl_suspect_give_up(&s), REPL_SUSPECT_UNCLEAR);
    for (int i = 1; i <= (int)REPL_SUSPECT_VAGUE; i++) {
        next = look('B', 10 * i, 'A', 10 * i + 1);
        next.vague = true;
        assert_int_equal(repl_suspect_look(&s, &next),
                         i == (int)REPL_SUSPECT_VAGUE ? REPL_SUSPECT_UNCLEAR : REPL_SUSPECT_OPEN);
        assert_int_equal(repl_suspect_give_up(&s), REPL_SUSPECT_UNCLEAR);
    }
}

static void test_told(void **state)
{
    (void)state;
    struct repl_points_entry at = {.point = {.begin_ns = 10, .end_ns = 20},
                                   .unchanged_until_ns = 20};
    struct repl_suspect_look told;
    for (at.point.cut = REPL_CUT_QUIET; at.point.cut <= REPL_CUT_COMMAND; at.point.cut++) {
        repl_suspect_told(&at, &told);
        assert_int_equal(told.told_ns, 10);
        assert_int_equal(told.vague,
                         at.point.cut == REPL_CUT_FREEZE || at.point.cut == REPL_CUT_COMMAND);
        /* nothing was written since: not by a thaw either */
        at.unchanged_until_ns = 21;
        repl_suspect_told(&at, &told);
        assert_int_equal(told.told_ns, 21);
        assert_false(told.vague);
        at.unchanged_until_ns = 20;
    }
}

/* --- any history of writes ------------------------------------------------------------------- */

#define TICKS  400
#define POINTS TICKS

struct history {
    uint8_t device[TICKS]; /* what the page held at each tick */
    struct {
        int64_t told_ns;
        uint8_t content;
        int64_t there; /* the replica has it from then on */
    } points[POINTS];
    size_t point_count;
};

/* A writer that is sometimes busy, with few contents so that they return; a source that cuts points
 * at uneven times, each as of a tick of its window, or misses one write and never reads that page
 * again; a site that is behind by more than one point. */
static void history_make(struct random *random, struct history *h, bool misses, uint64_t busy)
{
    int64_t missed = misses ? 1 + (int64_t)random_below(random, 20) : TICKS;
    uint8_t now = 1;
    h->point_count = 0;
    for (int64_t t = 0; t < TICKS; t++) {
        if (t < missed && random_below(random, 100) < busy)
            now = (uint8_t)(1 + random_below(random, 3));
        if (t == missed)
            now = 9;
        h->device[t] = now;
    }
    int64_t lag = (int64_t)random_below(random, 12), there = 0;
    for (int64_t t = 0; t < TICKS - 8; t += 1 + (int64_t)random_below(random, 6)) {
        int64_t cut = t + (int64_t)random_below(random, 3); /* within the window */
        there = cut + lag > there ? cut + lag + (int64_t)random_below(random, 4) : there + 1;
        h->points[h->point_count].told_ns = t;
        h->points[h->point_count].content = h->device[cut < missed ? cut : missed - 1];
        h->points[h->point_count++].there = there;
    }
}

/* Looks at uneven times until there is a verdict. */
static enum repl_suspect_verdict history_judge(struct random *random, const struct history *h)
{
    struct repl_suspect s;
    bool suspected = false;
    for (int64_t t = 30; t < TICKS - 1; t += 1 + (int64_t)random_below(random, 9)) {
        size_t last = SIZE_MAX;
        for (size_t i = 0; i < h->point_count; i++) {
            if (h->points[i].there <= t)
                last = i;
        }
        if (last == SIZE_MAX)
            continue;
        t += (int64_t)random_below(random, 2); /* the page is read a little later */
        struct repl_suspect_look next = {.replica = content(h->points[last].content),
                                         .told_ns = h->points[last].told_ns,
                                         .source = content(h->device[t]),
                                         .read_ns = t};
        enum repl_suspect_verdict verdict = REPL_SUSPECT_OPEN;
        if (suspected)
            verdict = repl_suspect_look(&s, &next);
        else if (repl_page_digest_equal(&next.source, &next.replica))
            verdict = REPL_SUSPECT_EQUAL;
        else
            repl_suspect_init(&s, 0, &next);
        suspected = true;
        if (verdict != REPL_SUSPECT_OPEN)
            return verdict;
    }
    return REPL_SUSPECT_OPEN;
}

/* A writer that writes at most every other point cannot be in step with three of them: who misses
 * nothing is never convicted. Who misses a write always is. */
static void test_histories(void **state)
{
    (void)state;
    struct random random = random_begin("test_histories", 1);
    struct history h;
    unsigned convicted = 0;
    for (int i = 0; i < 20000; i++) {
        history_make(&random, &h, false, i % 8);
        assert_int_not_equal(history_judge(&random, &h), REPL_SUSPECT_DIFFERS);
        history_make(&random, &h, true, i % 8);
        if (h.device[TICKS - 1] == h.points[h.point_count - 1].content)
            continue;
        assert_int_equal(history_judge(&random, &h), REPL_SUSPECT_DIFFERS);
        convicted++;
    }
    assert_true(convicted > 15000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_at_any_time),
        cmocka_unit_test(test_three_proofs),
        cmocka_unit_test(test_old_news),
        cmocka_unit_test(test_clock_set_back),
        cmocka_unit_test(test_changes_begin_anew),
        cmocka_unit_test(test_always_changing),
        cmocka_unit_test(test_vague),
        cmocka_unit_test(test_told),
        cmocka_unit_test(test_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
