/*
 * When a merge took the place of a segment, by the log: never too early.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "journal/merge_times.h"

static struct repl_merge_times times;

static void apply(enum repl_log_type type, uint64_t number, uint64_t from, uint64_t to)
{
    struct repl_error err;
    const struct repl_log_record record = {.type = type,
                                           .number = number,
                                           .time_ns = (int64_t)number * 10,
                                           .merge = {.from_seq = from, .to_seq = to}};
    assert_true(repl_ok(repl_merge_times_apply(&times, &record, &err)));
}

static int tear_down(void **state)
{
    (void)state;
    repl_merge_times_fini(&times);
    return 0;
}

static void expect(uint64_t to_seq, uint64_t merge, int64_t time_ns)
{
    assert_int_equal(repl_merge_times_find(&times, to_seq, merge), time_ns);
}

static void what_was_received(void **state)
{
    (void)state;
    apply(REPL_LOG_COMMIT, 1, 0, 0);
    apply(REPL_LOG_MERGE, 20, 4, 8);
    apply(REPL_LOG_MERGE, 30, 4, 12);
    expect(4, 0, 0);
    expect(5, 0, 200); /* with the first, whatever was merged after it */
    expect(8, 0, 200);
    expect(9, 0, 300);
    expect(13, 0, 0);
}

static void what_a_merge_has_made(void **state)
{
    (void)state;
    apply(REPL_LOG_MERGE, 20, 4, 8);
    expect(8, 20, 0); /* which is its own */
    expect(8, 23, 0);
    apply(REPL_LOG_MERGE, 30, 4, 12);
    expect(8, 20, 300);
    expect(12, 30, 0);
    expect(12, 31, 0); /* one that nothing came of */
}

/* Which of its segments went with which merge it does not say: the last. */
static void what_the_base_has_taken_in(void **state)
{
    (void)state;
    apply(REPL_LOG_MERGE, 20, 0, 4);
    apply(REPL_LOG_MERGE, 30, 0, 8);
    expect(3, 0, 300);
    expect(4, 20, 300);
    expect(6, 0, 300);
    expect(8, 30, 0);
}

static void what_a_log_written_anew_does_not_speak_of(void **state)
{
    (void)state;
    apply(REPL_LOG_CHECKPOINT, 50, 0, 0);
    expect(3, 0, 500);
    expect(3, 20, 500);
    expect(3, 50, 0); /* later than that */
    apply(REPL_LOG_MERGE, 60, 2, 8);
    expect(3, 20, 600); /* it may have been there then */
    expect(2, 0, 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_was_received, tear_down),
        cmocka_unit_test_teardown(what_a_merge_has_made, tear_down),
        cmocka_unit_test_teardown(what_the_base_has_taken_in, tear_down),
        cmocka_unit_test_teardown(what_a_log_written_anew_does_not_speak_of, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
