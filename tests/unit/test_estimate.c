#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "estimate.h"

#define SECOND INT64_C(1000000000)
#define BEGIN  (INT64_C(12345) * SECOND)
#define MIB    (UINT64_C(1) << 20)

static const struct repl_estimate_window nothing;

static struct repl_estimate_window sent(uint64_t bytes)
{
    return (struct repl_estimate_window){
        .changed_bytes = bytes, .read_bytes = bytes, .frame_bytes = bytes, .stored_bytes = bytes};
}

static void windows_end_when_they_are_due(void **state)
{
    (void)state;
    struct repl_estimate estimate;
    repl_estimate_begin(&estimate, BEGIN);
    for (unsigned i = 0; i < REPL_ESTIMATE_CHOICES; i++) {
        int64_t length = repl_estimate_rpo_ms[i] * 1000000;
        assert_false(repl_estimate_due(&estimate, i, BEGIN));
        assert_false(repl_estimate_due(&estimate, i, BEGIN + length - SECOND / 2));
        assert_true(repl_estimate_due(&estimate, i, BEGIN + length - SECOND / 5));
        assert_true(repl_estimate_due(&estimate, i, BEGIN + length));
    }
    repl_estimate_add(&estimate, 0, BEGIN + SECOND, &nothing);
    assert_false(repl_estimate_due(&estimate, 0, BEGIN + SECOND + SECOND / 2));
    assert_true(repl_estimate_due(&estimate, 0, BEGIN + 2 * SECOND));
    assert_int_equal(estimate.choices[0].windows, 1);
    assert_int_equal(estimate.choices[1].windows, 0);
}

static void the_mean_and_the_busiest(void **state)
{
    (void)state;
    struct repl_estimate estimate;
    repl_estimate_begin(&estimate, BEGIN);
    const struct repl_estimate_window one = sent(MIB), six = sent(6 * MIB);
    repl_estimate_add(&estimate, 0, BEGIN + SECOND, &one);
    repl_estimate_add(&estimate, 0, BEGIN + 3 * SECOND, &six); /* a second that took two */
    repl_estimate_add(&estimate, 0, BEGIN + 4 * SECOND, &nothing);
    const struct repl_estimate_choice *c = &estimate.choices[0];
    assert_int_equal(c->measured_ns, 4 * SECOND);
    assert_float_equal(repl_estimate_bytes_per_s(c), 7.0 / 4 * MIB, 1);
    assert_float_equal(c->busiest_bytes_per_s, 3.0 * MIB, 1);
    assert_float_equal(repl_estimate_bytes_per_day(c), 7.0 / 4 * MIB * 86400, 86400);
    assert_true(c->whole);
    assert_false(c->sampled);
}

static void what_was_not_read_is_like_what_was(void **state)
{
    (void)state;
    struct repl_estimate estimate;
    repl_estimate_begin(&estimate, BEGIN);
    const struct repl_estimate_window window = {.changed_bytes = 40 * MIB,
                                                .read_bytes = 10 * MIB,
                                                .unchanged_bytes = MIB,
                                                .zero_bytes = 2 * MIB,
                                                .duplicate_bytes = 3 * MIB,
                                                .frame_bytes = 4 * MIB,
                                                .stored_bytes = MIB,
                                                .notes_bytes = MIB / 4,
                                                .records_bytes = MIB};
    repl_estimate_add(&estimate, 1, BEGIN + 10 * SECOND, &window);
    const struct repl_estimate_choice *c = &estimate.choices[1];
    assert_true(c->sampled);
    assert_float_equal(c->changed_bytes, 40.0 * MIB, 1);
    assert_float_equal(c->unchanged_bytes, 4.0 * MIB, 1);
    assert_float_equal(c->zero_bytes, 8.0 * MIB, 1);
    assert_float_equal(c->duplicate_bytes, 12.0 * MIB, 1);
    assert_float_equal(c->frame_bytes, 16.0 * MIB, 1);
    assert_float_equal(c->stored_bytes, 4.0 * MIB, 1);
    assert_float_equal(repl_estimate_bytes_per_s(c), 0.6 * MIB, 1);
}

/* One that was not whole counts where there is no other, and says so. */
static void a_window_that_was_cut_short(void **state)
{
    (void)state;
    struct repl_estimate estimate;
    repl_estimate_begin(&estimate, BEGIN);
    const struct repl_estimate_window window = sent(20 * MIB);
    repl_estimate_add(&estimate, 2, BEGIN + 20 * SECOND, &window);
    assert_false(estimate.choices[2].whole);
    assert_int_equal(estimate.choices[2].windows, 1);
    assert_float_equal(repl_estimate_bytes_per_s(&estimate.choices[2]), 1.0 * MIB, 1);
    repl_estimate_add(&estimate, 1, BEGIN + 10 * SECOND, &nothing);
    repl_estimate_add(&estimate, 1, BEGIN + 12 * SECOND, &window);
    assert_true(estimate.choices[1].whole);
    assert_int_equal(estimate.choices[1].windows, 1);
    assert_int_equal(estimate.choices[1].measured_ns, 10 * SECOND);
    assert_float_equal(repl_estimate_bytes_per_s(&estimate.choices[1]), 0, 0);
}

static void of_no_time_nothing_is_known(void **state)
{
    (void)state;
    struct repl_estimate estimate;
    repl_estimate_begin(&estimate, BEGIN);
    const struct repl_estimate_window window = sent(MIB);
    repl_estimate_add(&estimate, 0, BEGIN, &window);
    assert_int_equal(estimate.choices[0].windows, 0);
    assert_float_equal(repl_estimate_bytes_per_s(&estimate.choices[0]), 0, 0);
    assert_float_equal(repl_estimate_share(1, 0), 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_end_when_they_are_due),
        cmocka_unit_test(the_mean_and_the_busiest),
        cmocka_unit_test(what_was_not_read_is_like_what_was),
        cmocka_unit_test(a_window_that_was_cut_short),
        cmocka_unit_test(of_no_time_nothing_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
