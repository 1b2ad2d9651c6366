/*
 * The clock guard: each way in and out of doubt, and then any steps of a clock.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "journal/clock_guard.h"
#include "unit/expect_abort.h"
#include "unit/random.h"

#define SECOND INT64_C(1000000000)
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define BEGIN  (20000 * DAY) /* 2024 */

/* A site whose clocks are read every ten seconds. */
struct site {
    struct repl_clock_guard guard;
    int64_t wall_ns, monotonic_ns;
};

/* Which was known to run until some time before now. */
static struct site site_started(int64_t off_ns)
{
    struct site s = {.wall_ns = BEGIN, .monotonic_ns = HOUR};
    repl_clock_guard_init(&s.guard, true, BEGIN - off_ns, s.wall_ns, s.monotonic_ns);
    return s;
}

static void site_runs(struct site *s, int64_t for_ns)
{
    while (for_ns > 0) {
        int64_t step_ns = for_ns < 10 * SECOND ? for_ns : 10 * SECOND;
        s->wall_ns += step_ns;
        s->monotonic_ns += step_ns;
        for_ns -= step_ns;
        repl_clock_guard_read(&s->guard, s->wall_ns, s->monotonic_ns);
    }
}

/* The clock is set, and read a second later. */
static void site_is_set(struct site *s, int64_t by_ns)
{
    s->wall_ns += by_ns;
    site_runs(s, SECOND);
}

/* Hosts that have just been heard. */
static void site_asks(struct site *s, unsigned right, unsigned wrong)
{
    struct repl_clock_source sources[8];
    assert_true(right + wrong <= 8);
    for (unsigned i = 0; i < right + wrong; i++)
        sources[i] = (struct repl_clock_source){
            .ahead_ns = i < right ? (i % 2 == 0 ? 1 : -1) * REPL_CLOCK_AGREE_NS : 2 * MINUTE,
            .heard_ns = s->monotonic_ns};
    repl_clock_guard_ask(&s->guard, sources, right + wrong);
}

static void assert_state(const struct site *s, enum repl_clock_state expected, const char *words)
{
    char text[REPL_CLOCK_TEXT_SIZE];
    repl_clock_guard_describe(&s->guard, text);
    if (s->guard.state != expected || strstr(text, words) == NULL)
        fail_msg("state %d: %s", s->guard.state, text);
    assert_true(repl_clock_guard_trusts(&s->guard) == (expected == REPL_CLOCK_TRUSTED));
}

static void a_short_restart_is_trusted(void **state)
{
    (void)state;
    struct site s = site_started(REPL_CLOCK_GAP_MAX_NS);
    assert_state(&s, REPL_CLOCK_TRUSTED, "is trusted");
    s = site_started(-REPL_CLOCK_JUMP_MAX_NS);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    site_runs(&s, DAY);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    assert_true(s.guard.known && s.guard.known_ns == s.wall_ns);
}

static void a_long_gap_is_not(void **state)
{
    (void)state;
    struct site s = site_started(REPL_CLOCK_GAP_MAX_NS + 1);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "10 min after the last time it is known");
    s = site_started(3 * DAY);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "3 days after the last time it is known");
    site_runs(&s, DAY);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "(so far 0 of 0 heard since)");
    assert_true(s.guard.known_ns == BEGIN - 3 * DAY); /* what is durable stays */
}

static void the_first_start_ever(void **state)
{
    (void)state;
    struct site s = {.wall_ns = BEGIN};
    repl_clock_guard_init(&s.guard, false, 0, s.wall_ns, 0);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "no earlier time of the site is known");
    assert_false(s.guard.known);
    site_runs(&s, REPL_CLOCK_SETTLE_NS);
    site_asks(&s, 1, 0);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    assert_true(s.guard.known && s.guard.known_ns == s.wall_ns);
}

static void behind_what_was_reached(void **state)
{
    (void)state;
    struct site s = site_started(-2 * HOUR);
    assert_state(&s, REPL_CLOCK_JUMPED_BACK, "2 h behind a time that was reached before");
    site_runs(&s, HOUR);
    assert_state(&s, REPL_CLOCK_JUMPED_BACK, "60 min behind");
}

/* A machine without a clock that runs while it is off: right as soon as it has been set. */
static void set_right_after_the_start(void **state)
{
    (void)state;
    struct site s = site_started(-2000 * DAY);
    assert_state(&s, REPL_CLOCK_JUMPED_BACK, "2000 days behind");
    site_runs(&s, HOUR);
    site_is_set(&s, 2000 * DAY);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
}

static void hosts_end_the_doubt(void **state)
{
    (void)state;
    struct site s = site_started(DAY);
    site_asks(&s, 3, 0); /* too early */
    site_runs(&s, REPL_CLOCK_SETTLE_NS - 1);
    site_asks(&s, 3, 0);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "(so far 3 of 3 heard since)");
    site_runs(&s, 1);
    assert_state(&s, REPL_CLOCK_UNKNOWN, ""); /* nobody was asked */
    site_asks(&s, 0, 0);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "0 of 0");
    site_asks(&s, 2, 2);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "2 of 4");
    site_asks(&s, 3, 2);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    site_runs(&s, SECOND);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
}

static void a_person_ends_the_doubt(void **state)
{
    (void)state;
    struct site s = site_started(DAY);
    repl_clock_guard_confirm(&s.guard);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    assert_true(s.guard.known_ns == BEGIN);
    site_runs(&s, HOUR);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    site_is_set(&s, MINUTE);
    assert_state(&s, REPL_CLOCK_JUMPED_AHEAD, "was set ahead by 60 s");
    repl_clock_guard_confirm(&s.guard);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    site_runs(&s, HOUR);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
}

static void a_clock_that_is_set(void **state)
{
    (void)state;
    struct site s = site_started(0);
    site_is_set(&s, REPL_CLOCK_JUMP_MAX_NS);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    s = site_started(0);
    site_runs(&s, HOUR);
    int64_t before_ns = s.wall_ns;
    site_is_set(&s, DAY * 3);
    assert_state(&s, REPL_CLOCK_JUMPED_AHEAD, "was set ahead by 3 days");
    site_runs(&s, HOUR);
    assert_state(&s, REPL_CLOCK_JUMPED_AHEAD, "see to the site's time service");
    assert_true(s.guard.known_ns == before_ns);
    site_is_set(&s, -3 * DAY); /* and back */
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    site_is_set(&s, -HOUR);
    assert_state(&s, REPL_CLOCK_JUMPED_BACK, "was set back by 60 min");
    site_runs(&s, REPL_CLOCK_SETTLE_NS);
    site_asks(&s, 2, 1);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    site_runs(&s, HOUR);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
}

/* What was heard before the clock was set says nothing of it. */
static void old_words_do_not_count(void **state)
{
    (void)state;
    struct site s = site_started(0);
    struct repl_clock_source source = {.ahead_ns = 0, .heard_ns = s.monotonic_ns};
    site_is_set(&s, DAY);
    site_runs(&s, REPL_CLOCK_SETTLE_NS);
    repl_clock_guard_ask(&s.guard, &source, 1);
    assert_state(&s, REPL_CLOCK_JUMPED_AHEAD, "0 of 0");
    source.heard_ns = s.monotonic_ns - SECOND;
    repl_clock_guard_ask(&s.guard, &source, 1);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
}

/* A clock that has been confirmed where it is runs evenly from then on only. */
static void nor_do_those_of_before_it_was_confirmed(void **state)
{
    (void)state;
    struct site s = site_started(0);
    struct repl_clock_source source = {.ahead_ns = 0, .heard_ns = s.monotonic_ns};
    site_runs(&s, REPL_CLOCK_SETTLE_NS);
    site_is_set(&s, -20 * SECOND);
    repl_clock_guard_confirm(&s.guard);
    site_is_set(&s, 40 * SECOND);
    repl_clock_guard_ask(&s.guard, &source, 1);
    assert_state(&s, REPL_CLOCK_JUMPED_AHEAD, "0 of 0");
}

/* Set again, the clock has to run evenly for the whole time again. */
static void doubt_begins_anew(void **state)
{
    (void)state;
    struct site s = site_started(DAY);
    site_runs(&s, REPL_CLOCK_SETTLE_NS - MINUTE);
    site_is_set(&s, HOUR);
    site_runs(&s, REPL_CLOCK_SETTLE_NS - MINUTE);
    site_asks(&s, 1, 0);
    assert_state(&s, REPL_CLOCK_UNKNOWN, "1 of 1");
    site_runs(&s, MINUTE);
    site_asks(&s, 1, 0);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
}

/* Steps of a time service add up to nothing; larger ones, each below the bound, to a jump. */
static void many_small_steps(void **state)
{
    (void)state;
    struct site s = site_started(0);
    for (int i = 0; i < 10000; i++) {
        site_is_set(&s, SECOND / 2000);
        assert_state(&s, REPL_CLOCK_TRUSTED, "");
    }
    for (int i = 0; i < 30; i++)
        site_is_set(&s, SECOND);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
    site_is_set(&s, SECOND);
    assert_state(&s, REPL_CLOCK_JUMPED_AHEAD, "");
}

/* Suspended, or stopped: both clocks went on. */
static void a_long_time_between_readings(void **state)
{
    (void)state;
    struct site s = site_started(0);
    repl_clock_guard_read(&s.guard, s.wall_ns + DAY, s.monotonic_ns + DAY);
    assert_state(&s, REPL_CLOCK_TRUSTED, "");
}

static void any_numbers(void **state)
{
    (void)state;
    static const int64_t numbers[] = {INT64_MIN, INT64_MIN + 1, -1, 0, 1, INT64_MAX};
    const size_t count = sizeof numbers / sizeof numbers[0];
    struct repl_clock_source source = {INT64_MIN, INT64_MAX};
    char text[REPL_CLOCK_TEXT_SIZE];
    for (size_t i = 0; i < count * count * count; i++) {
        struct repl_clock_guard guard;
        repl_clock_guard_init(&guard, true, numbers[i % count], numbers[i / count % count], 0);
        repl_clock_guard_describe(&guard, text);
        repl_clock_guard_read(&guard, numbers[i / count / count], HOUR);
        repl_clock_guard_ask(&guard, &source, 1);
        repl_clock_guard_describe(&guard, text);
        repl_clock_guard_confirm(&guard);
        repl_clock_guard_read(&guard, numbers[i % count], 2 * HOUR);
        repl_clock_guard_describe(&guard, text);
        assert_true(strlen(text) > 0);
    }
}

static void read_backwards(void *context)
{
    struct site *s = context;
    repl_clock_guard_read(&s->guard, s->wall_ns, s->monotonic_ns - 1);
}

static void the_monotonic_clock_only_grows(void **state)
{
    (void)state;
    struct site s = site_started(0);
    assert_true(aborts(read_backwards, &s));
}

/* Whatever a clock does: while nobody vouches for it, it is trusted only where it should be. */
static void never_far_off(void **state)
{
    (void)state;
    struct random random = random_begin("never_far_off", 1);
    for (unsigned world = 0; world < 2000; world++) {
        struct site s = site_started(0);
        int64_t off_ns = 0; /* of the clock, from what is right */
        unsigned trusted = 0, jumped = 0;
        for (unsigned i = 0; i < 200; i++) {
            int64_t by_ns = 0;
            if (random_below(&random, 8) == 0)
                by_ns = (int64_t)random_below(&random, UINT64_C(1) << random_below(&random, 52)) *
                        (random_below(&random, 2) == 0 ? 1 : -1);
            if (random_below(&random, 20) == 0)
                by_ns = -off_ns;
            off_ns += by_ns;
            s.wall_ns += by_ns;
            site_runs(&s, 1 + (int64_t)random_below(&random, 20) * SECOND);
            int64_t slack_ns = (s.monotonic_ns - HOUR) / 1000 * 2;
            bool trusts = repl_clock_guard_trusts(&s.guard);
            trusted += trusts;
            jumped += !trusts;
            if (trusts)
                assert_true(llabs(off_ns) <= REPL_CLOCK_JUMP_MAX_NS + slack_ns);
            else
                assert_true(llabs(off_ns) >= REPL_CLOCK_JUMP_MAX_NS - slack_ns);
        }
        assert_true(trusted + jumped == 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_restart_is_trusted),
        cmocka_unit_test(a_long_gap_is_not),
        cmocka_unit_test(the_first_start_ever),
        cmocka_unit_test(behind_what_was_reached),
        cmocka_unit_test(set_right_after_the_start),
        cmocka_unit_test(hosts_end_the_doubt),
        cmocka_unit_test(a_person_ends_the_doubt),
        cmocka_unit_test(a_clock_that_is_set),
        cmocka_unit_test(old_words_do_not_count),
        cmocka_unit_test(nor_do_those_of_before_it_was_confirmed),
        cmocka_unit_test(doubt_begins_anew),
        cmocka_unit_test(many_small_steps),
        cmocka_unit_test(a_long_time_between_readings),
        cmocka_unit_test(any_numbers),
        cmocka_unit_test(the_monotonic_clock_only_grows),
        cmocka_unit_test(never_far_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
