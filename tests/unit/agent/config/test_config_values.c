/*
 * What is written as a value: sizes, times, bandwidths, counts, addresses, names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/config/config_expect.h"

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"4096B", 4096},
        {"64M", 64 << 20},
        {"64m", 64 << 20},
        {"10 GiB", UINT64_C(10) << 30},
        {"3TiB", UINT64_C(3) << 40},
        {"1P", UINT64_C(1) << 50},
        {"1k", 1024},
        {"18446744073709551615", UINT64_MAX},
        {"16383P", UINT64_C(16383) << 50},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t bytes = 1;
        assert_true(repl_ok(repl_parse_size(good[i].text, &bytes, NULL)));
        assert_int_equal(bytes, good[i].bytes);
    }
    static const char *const bad[] = {"",      " 1",   "-1",     "1.5G",
                                      "10 MB", "M",    "1 X",    "1MiBs",
                                      "1M ",   "0x10", "16384P", "18446744073709551616"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes;
        assert_int_equal(repl_parse_size(bad[i], &bytes, NULL).code, REPL_E_USAGE);
    }
    uint64_t bytes;
    struct repl_error err;
    assert_false(repl_ok(repl_parse_size("10 MB", &bytes, &err)));
    assert_string_equal(err.text,
                        "\"10 MB\" is not a size: write a whole number of bytes, or one with K, M, "
                        "G, T or P behind it, such as 64M or 10 GiB");
}

static void test_durations(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        {"0s", 0},       {"250ms", 250},  {"4s", 4000},     {"10 min", 600000},
        {"10m", 600000}, {"1h", 3600000}, {"1d", 86400000}, {"9223372036854775807ms", INT64_MAX},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        int64_t ms = 1;
        assert_true(repl_ok(repl_parse_duration(good[i].text, &ms, NULL)));
        assert_int_equal(ms, good[i].ms);
    }
    static const char *const bad[] = {"",
                                      "4",
                                      "s",
                                      "-4s",
                                      "4 S",
                                      "1.5s",
                                      "4s ",
                                      "1y",
                                      "9223372036854775808ms",
                                      "9223372036854775807s"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int64_t ms;
        assert_int_equal(repl_parse_duration(bad[i], &ms, NULL).code, REPL_E_USAGE);
    }
}

static void test_bandwidths(void **state)
{
    (void)state;
    struct repl_pace_plan plan;
    struct repl_error err;
    assert_true(repl_ok(repl_parse_bandwidth("20 MiB", &plan, &err)));
    assert_true(plan.bytes_per_s == 20 << 20 && plan.count == 0);
    assert_true(repl_ok(
        repl_parse_bandwidth("20 MiB , 5M 08:00-18:30,0 22:00-06:00,1M 23:00-24:00", &plan, &err)));
    assert_true(plan.bytes_per_s == 20 << 20 && plan.count == 3);
    const struct repl_pace_window *w = plan.windows;
    assert_true(w[0].bytes_per_s == 5 << 20 && w[0].from_s == 8 * 3600 && w[0].to_s == 66600);
    assert_true(w[1].bytes_per_s == 0 && w[1].from_s == 22 * 3600 && w[1].to_s == 6 * 3600);
    assert_true(w[2].to_s == REPL_PACE_DAY_S);
    assert_true(repl_ok(repl_parse_bandwidth("5M 08:00-18:00", &plan, &err)));
    assert_true(plan.bytes_per_s == 0 && plan.count == 1);
    static const char *const bad[] = {
        "",
        ",",
        "5",
        "16383",
        "65G",
        "5 MB",
        "5M 8:00-18:00",
        "5M 08:00 - 18:00",
        "5M 08:00-18:60",
        "5M 08:00-25:00",
        "5M 24:00-06:00",
        "5M 08:00-08:00",
        "5M 08:00-",
        "5M 08:00-18:00x",
        "5M, 6M",
        "08:00-18:00",
        "5M 08:00-18:00 5M",
        ("1M 01:00-02:00,1M 02:00-03:00,1M 03:00-04:00,1M 04:00-05:00,1M 05:00-06:00,"
         "1M 06:00-07:00,1M 07:00-08:00,1M 08:00-09:00,1M 09:00-10:00"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (repl_ok(repl_parse_bandwidth(bad[i], &plan, &err)))
            fail_msg("\"%s\" was taken", bad[i]);
    }
}

static void test_counts(void **state)
{
    (void)state;
    uint64_t count = 1;
    assert_true(repl_ok(repl_parse_count("0012", &count, NULL)));
    assert_int_equal(count, 12);
    static const char *const bad[] = {"", "-1", "+1", "1 ", "1k", "18446744073709551616"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(repl_parse_count(bad[i], &count, NULL).code, REPL_E_USAGE);
}

static void test_addresses(void **state)
{
    (void)state;
    static const char *const good[] = {"a:1",
                                       "site.example.org:7420",
                                       "192.0.2.1:65535",
                                       "[2001:db8::7]:7420",
                                       "[fe80::1%eth0]:1",
                                       "a_b-c:080"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(repl_ok(repl_parse_address(good[i], 1, NULL)));
    assert_true(repl_ok(repl_parse_address("0.0.0.0:0", 0, NULL)));
    static const char *const bad[] = {"",        ":1",     "a",     "a:",        "a:0",
                                      "a:65536", "a:1x",   "a:-1",  "::1:1",     "[]:1",
                                      "[::1]",   "[::1:1", "a b:1", "http://a:1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(repl_parse_address(bad[i], 1, NULL).code, REPL_E_USAGE);
}

static void test_volume_names(void **state)
{
    (void)state;
    assert_true(repl_volume_name_valid("a"));
    assert_true(repl_volume_name_valid("_A.z-9"));
    assert_true(repl_volume_name_valid(NAME_63 "1"));
    static const char *const bad[] = {"",    ".",   "..",       "-a",  ".a",
                                      "a/b", "a b", "\xc3\xa4", "a\n", NAME_63 "12"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(repl_volume_name_valid(bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_durations),
        cmocka_unit_test(test_bandwidths), cmocka_unit_test(test_counts),
        cmocka_unit_test(test_addresses),  cmocka_unit_test(test_volume_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
