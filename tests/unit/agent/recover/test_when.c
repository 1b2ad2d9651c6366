/*
 * Times as people write them, in UTC and in a zone with summer time; and which
 * point they mean.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "journal/mark.h"
#include "recover/when.h"
#include "recover/words.h"

#define S INT64_C(1000000000)

#define NOW (INT64_C(1777889820) * S) /* 2026-05-04T10:17:00Z, 12:17 in Berlin, a Monday */

static void set_zone(const char *zone)
{
    setenv("TZ", zone, 1);
    tzset();
}

static int set_up(void **state)
{
    (void)state;
    set_zone("CET-1CEST,M3.5.0,M10.5.0/3");
    return 0;
}

static int64_t parsed(const char *text)
{
    struct repl_when when;
    struct repl_error err;
    if (!repl_ok(repl_when_parse(text, NOW, &when, &err)))
        fail_msg("%s: %s", text, err.text);
    assert_int_equal(when.kind, REPL_WHEN_TIME);
    return when.time_ns;
}

static void assert_refused(const char *text, const char *part)
{
    struct repl_when when;
    struct repl_error err = {0};
    repl_result result = repl_when_parse(text, NOW, &when, &err);
    if (result.code != REPL_E_USAGE || strstr(err.text, part) == NULL)
        fail_msg("\"%s\": code %d, %s", text, (int)result.code, err.text);
}

static void test_forms(void **state)
{
    (void)state;
    struct repl_when when;
    assert_true(repl_ok(repl_when_parse("latest", NOW, &when, NULL)));
    assert_int_equal(when.kind, REPL_WHEN_LATEST);
    assert_true(repl_ok(repl_when_parse("NOW", NOW, &when, NULL)));
    assert_int_equal(when.kind, REPL_WHEN_LATEST);
    assert_true(repl_ok(repl_when_parse("123", NOW, &when, NULL)));
    assert_int_equal(when.kind, REPL_WHEN_SEQ);
    assert_int_equal(when.seq, 123);

    assert_int_equal(parsed("10 min ago"), NOW - 600 * S);
    assert_int_equal(parsed("10min ago"), NOW - 600 * S);
    assert_int_equal(parsed("2 hours ago"), NOW - 7200 * S);
    assert_int_equal(parsed("1 day ago"), NOW - 86400 * S);
    assert_int_equal(parsed("3w ago"), NOW - 3 * 7 * 86400 * S);
    assert_int_equal(parsed("0 s ago"), NOW);
    assert_int_equal(parsed("1h 30min 5 s ago"), NOW - 5405 * S);

    assert_int_equal(parsed("2026-05-04T10:17:00Z"), NOW);
    assert_int_equal(parsed("2026-05-04T12:17:00+02:00"), NOW);
    assert_int_equal(parsed("2026-05-04 05:17:00-05:00"), NOW);
    assert_int_equal(parsed("2026-05-04T10:16:59.25Z"), NOW - S * 3 / 4 + S / 100 - 1);
    assert_int_equal(parsed("2026-05-04 12:17:00 +0200"), NOW);
    assert_int_equal(parsed("2026-05-04 12:17:00.000 +0200"), NOW + S / 1000 - 1);

    assert_int_equal(parsed("2026-05-04 12:17"), NOW);
    assert_int_equal(parsed("2026-05-04T12:16:30"), NOW - 30 * S);
    assert_int_equal(parsed("2026-01-04 11:17"), parsed("2026-01-04T10:17:00Z"));
    assert_int_equal(parsed("12:00"), NOW - 17 * 60 * S);
    assert_int_equal(parsed("today 12:00"), NOW - 17 * 60 * S);
    assert_int_equal(parsed("yesterday 12:17"), NOW - 86400 * S);
    assert_int_equal(parsed("Yesterday 23:59:59"), parsed("2026-05-03 23:59:59"));
    assert_int_equal(parsed("12:17"), NOW);
    assert_int_equal(parsed("12:18"), NOW - (86400 - 60) * S);
    assert_int_equal(parsed("MONDAY  12:17"), NOW);
    assert_int_equal(parsed("mon 12:18"), NOW - (7 * 86400 - 60) * S);
    assert_int_equal(parsed("tuesday 12:17"), NOW - 6 * 86400 * S);
}

static void test_summer_time(void **state)
{
    (void)state;
    assert_refused("2026-03-29 02:30", "never shown");
    assert_refused("2025-10-26 02:30", "twice");
    assert_int_equal(parsed("2025-10-26T02:30:00+02:00") + 3600 * S,
                     parsed("2025-10-26T02:30:00+01:00"));
    assert_int_equal(parsed("2026-03-29 03:30"), parsed("2026-03-29T01:30:00Z"));
    set_zone("UTC0");
    assert_int_equal(parsed("2026-03-29 02:30"), parsed("2026-03-29T02:30:00Z"));
    set_up(NULL);
}

static void test_refusals(void **state)
{
    (void)state;
    assert_refused("0526-02-04T13:37:00Z", "out of range");
    assert_refused("9999-12-31T23:59:59Z", "out of range");
    assert_refused("0526-02-04 13:37", "out of range");
    static const char *const neither[] = {
        "",
        "10 parsecs ago",
        "10 min 3 parsecs ago",
        "monday 25:00",
        "#99999999999999999999",
        "2026-05-04",
        "2026-13-04 10:00",
        "2026-05-04T25:00:00Z",
        "2026-05-04T10:00:00+2",
        "12:00 ",
        "99999999999999999999",
        "2026-05-04 12:60",
        "today noon",
        "a name that is as long as no name of a point may be, which is 65 b",
    };
    for (size_t i = 0; i < sizeof neither / sizeof neither[0]; i++)
        assert_refused(neither[i], "neither a time nor");
    assert_refused("2026-02-30 10:00", "no such day");
    assert_refused("2026-02-30T10:00:00Z", "no such day");
    assert_refused("2026-05-04T10:17:01Z", "has not been yet");
    assert_refused("today 23:00", "has not been yet");
    assert_refused("999999999999 weeks ago", "before all time");
    assert_refused("9000000000 s 9000000000 s ago", "before all time");
}

static const struct repl_points_entry points[] = {
    {.point = {.seq = 3, .begin_ns = 100 * S - 1, .end_ns = 100 * S},
     .unchanged_until_ns = 105 * S},
    {.point = {.seq = 4, .begin_ns = 110 * S - 1, .end_ns = 110 * S},
     .unchanged_until_ns = 110 * S},
    {.point = {.seq = 9, .begin_ns = 120 * S - 1, .end_ns = 120 * S},
     .unchanged_until_ns = 120 * S},
};

static uint64_t resolved(enum repl_when_kind kind, uint64_t seq, int64_t time_ns)
{
    struct repl_when when = {.kind = kind, .seq = seq, .time_ns = time_ns};
    struct repl_error err;
    size_t index;
    if (!repl_ok(repl_when_resolve(&when, points, 3, &index, &err)))
        return 0;
    return points[index].point.seq;
}

static void test_resolve(void **state)
{
    (void)state;
    assert_int_equal(resolved(REPL_WHEN_LATEST, 0, 0), 9);
    assert_int_equal(resolved(REPL_WHEN_SEQ, 4, 0), 4);
    assert_int_equal(resolved(REPL_WHEN_SEQ, 5, 0), 0);
    assert_int_equal(resolved(REPL_WHEN_TIME, 0, 100 * S), 3);
    assert_int_equal(resolved(REPL_WHEN_TIME, 0, 110 * S - 1), 3);
    assert_int_equal(resolved(REPL_WHEN_TIME, 0, 110 * S), 4);
    assert_int_equal(resolved(REPL_WHEN_TIME, 0, 1000 * S), 9);
    assert_int_equal(resolved(REPL_WHEN_TIME, 0, 100 * S - 1), 0);

    struct repl_when when = {.kind = REPL_WHEN_SEQ, .seq = 5};
    struct repl_error err;
    size_t index;
    assert_int_equal(repl_when_resolve(&when, points, 3, &index, &err).code, REPL_E_MISSING);
    assert_non_null(strstr(err.text, "4 and 9"));
    when.seq = 12;
    assert_int_equal(repl_when_resolve(&when, points, 3, &index, &err).code, REPL_E_MISSING);
    assert_non_null(strstr(err.text, "last is 9"));
    assert_int_equal(repl_when_resolve(&when, points, 0, &index, &err).code, REPL_E_MISSING);
}

/* The last point before the newest jump; where the one that was meant is gone, the last before it.
 */
static void test_before_trouble(void **state)
{
    (void)state;
    struct repl_points_entry some[6] = {{.point = {.seq = 2}}, {.point = {.seq = 4}},
                                        {.point = {.seq = 5}}, {.point = {.seq = 7}},
                                        {.point = {.seq = 8}}, {.point = {.seq = 9}}};
    struct repl_when when;
    struct repl_error err;
    size_t index;
    assert_true(repl_ok(repl_when_parse("Before Trouble", NOW, &when, &err)));
    assert_int_equal(when.kind, REPL_WHEN_TROUBLE);
    assert_non_null(repl_mark_name_flaw("before trouble"));
    assert_int_equal(repl_when_resolve(&when, some, 6, &index, &err).code, REPL_E_MISSING);
    assert_non_null(strstr(err.text, "older release"));
    some[1].churn = (struct repl_churn){
        .known = true, .trouble = REPL_TROUBLE_ENCRYPTION, .trouble_before_seq = 2};
    assert_true(repl_ok(repl_when_resolve(&when, some, 6, &index, &err)));
    assert_int_equal(index, 0);
    some[4].churn =
        (struct repl_churn){.known = true, .trouble = REPL_TROUBLE_CHANGE, .trouble_before_seq = 6};
    assert_true(repl_ok(repl_when_resolve(&when, some, 6, &index, &err)));
    assert_int_equal(index, 2);
    struct repl_when encryption;
    assert_true(repl_ok(repl_when_parse("before ENCRYPTION", NOW, &encryption, &err)));
    assert_int_equal(encryption.kind, REPL_WHEN_ENCRYPTION);
    assert_true(repl_ok(repl_when_resolve(&encryption, some, 6, &index, &err)));
    assert_int_equal(index, 0);
    char *words = repl_when_describe(&encryption, &some[0]);
    assert_non_null(strstr(words, "before what looks like encryption"));
    free(words);
    some[1].churn.trouble = REPL_TROUBLE_CHANGE;
    assert_int_equal(repl_when_resolve(&encryption, some, 6, &index, &err).code, REPL_E_MISSING);
    assert_non_null(strstr(err.text, "no point is marked as encryption"));
    assert_non_null(strstr(err.text, "--at \"before trouble\""));
    words = repl_when_describe(&when, &some[2]);
    assert_non_null(strstr(words, "before what looks like trouble"));
    free(words);
    assert_int_equal(repl_when_resolve(&when, some + 4, 2, &index, &err).code, REPL_E_MISSING);
    assert_non_null(strstr(err.text, "behind point 6"));
    some[4].churn.trouble = some[1].churn.trouble = REPL_TROUBLE_NONE;
    assert_int_equal(repl_when_resolve(&when, some, 6, &index, &err).code, REPL_E_MISSING);
    assert_null(strstr(err.text, "older release"));
    /* in a catalogue that is not whole it is not the newest one that is meant */
    some[4].churn.trouble = REPL_TROUBLE_CHANGE;
    const struct repl_catalogue catalogue = {.points = some, .point_count = 6, .damaged = true};
    assert_true(repl_ok(repl_when_resolve_in(&when, &catalogue, &index, &err)));
    assert_int_equal(index, 2);
}

/* Whatever repl prints of a point names that point. */
static void test_printed(void **state)
{
    (void)state;
    enum { COUNT = 500 };
    static struct repl_points_entry many[COUNT];
    static const char *const zones[] = {"UTC0", "CET-1CEST,M3.5.0,M10.5.0/3", "NST3:30"};
    /* Some around the hour that clocks in Berlin show twice, none in the same millisecond. */
    for (int64_t i = 0; i < COUNT; i++)
        many[i].point = (struct repl_point){
            .seq = (uint64_t)i + 1,
            .end_ns = INT64_C(1761432000) * S + i * 29 * S + (i * 777777777) % S,
        };
    for (size_t z = 0; z < sizeof zones / sizeof zones[0]; z++) {
        set_zone(zones[z]);
        for (size_t i = 0; i < 2 * COUNT; i++) {
            char text[REPL_WORDS_SIZE];
            struct repl_when when;
            struct repl_error err;
            size_t found = COUNT;
            (i % 2 == 0 ? repl_words_local : repl_words_utc)(many[i / 2].point.end_ns, text);
            /* Even at once. */
            if (!repl_ok(repl_when_parse(text, many[i / 2].point.end_ns, &when, &err)) ||
                !repl_ok(repl_when_resolve(&when, many, COUNT, &found, &err)))
                fail_msg("%s: %s", text, err.text);
            assert_int_equal(found, i / 2);
        }
    }
    set_up(NULL);
}

static void assert_resolved_in(bool damaged, const struct repl_when *when, uint64_t seq)
{
    static struct repl_points_entry copy[3];
    memcpy(copy, points, sizeof copy);
    struct repl_catalogue c = {.points = copy, .point_count = 3, .damaged = damaged};
    struct repl_error err = {0};
    size_t index;
    repl_result result = repl_when_resolve_in(when, &c, &index, &err);
    if (seq > 0) {
        assert_true(repl_ok(result));
        assert_int_equal(points[index].point.seq, seq);
        return;
    }
    assert_int_equal(result.code, REPL_E_CORRUPT);
    assert_non_null(
        strstr(err.text, "the newest that is listed is point 9: give --at 9 if that is meant"));
}

/* What is no time may be a name, and only the catalogue can tell. */
static void test_names(void **state)
{
    (void)state;
    static const char *const names[] = {
        "soon", "ago", "-3 min ago", "12:", "2026-5-4 10:00", "10 min ago!", "tomorrow 10:00"};
    struct repl_log_mark marks[] = {{REPL_MARK_NAME, 4, "soon"},
                                    {REPL_MARK_PROVEN, 3, ""},
                                    {REPL_MARK_HELD, 9, "Soon"},
                                    {REPL_MARK_NAME, 5, "lost"},
                                    {REPL_MARK_NAME, 3, "12:00"}}; /* which no site gives */
    struct repl_points_entry copy[3];
    memcpy(copy, points, sizeof copy);
    struct repl_catalogue c = {.points = copy, .point_count = 3, .marks = marks, .mark_count = 5};
    struct repl_when when;
    struct repl_error err;
    size_t index;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_true(repl_ok(repl_when_parse(names[i], NOW, &when, &err)));
        assert_int_equal(when.kind, REPL_WHEN_NAME);
        assert_string_equal(when.text, names[i]);
    }
    assert_int_equal(repl_when_resolve_in(&when, &c, &index, &err).code, REPL_E_USAGE);
    assert_non_null(
        strstr(err.text, "no point has the name \"tomorrow 10:00\", and it is no time"));
    assert_int_equal(repl_when_resolve(&when, points, 3, &index, &err).code, REPL_E_USAGE);
    c.names_unknown = true;
    assert_int_equal(repl_when_resolve_in(&when, &c, &index, &err).code, REPL_E_USAGE);
    assert_non_null(strstr(err.text, "older release"));

    assert_true(repl_ok(repl_when_parse("soon", NOW, &when, &err)));
    assert_true(repl_ok(repl_when_resolve_in(&when, &c, &index, &err)));
    assert_int_equal(points[index].point.seq, 4);
    char *text = repl_when_describe(&when, &points[index]);
    assert_non_null(strstr(text, "with the name \"soon\""));
    free(text);
    assert_true(repl_ok(repl_when_parse("Soon", NOW, &when, &err)));
    assert_true(repl_ok(repl_when_resolve_in(&when, &c, &index, &err)));
    assert_int_equal(points[index].point.seq, 9);
    assert_true(repl_ok(repl_when_parse("lost", NOW, &when, &err)));
    assert_int_equal(repl_when_resolve_in(&when, &c, &index, &err).code, REPL_E_MISSING);

    assert_true(repl_ok(repl_when_parse("12:00", NOW, &when, &err)));
    assert_int_equal(repl_when_resolve_in(&when, &c, &index, &err).code, REPL_E_USAGE);
    assert_non_null(strstr(err.text, "\"12:00\" can mean the time 2026-05-04 12:00:00.000 +0200 "
                                     "(2026-05-04T10:00:00.000Z), and the name of point 3"));
    assert_true(repl_ok(repl_when_parse("4", NOW, &when, &err)));
    assert_true(repl_ok(repl_when_resolve_in(&when, &c, &index, &err)));
    assert_true(repl_ok(repl_when_parse("latest", NOW, &when, &err)));
    assert_true(repl_ok(repl_when_resolve_in(&when, &c, &index, &err)));
    assert_int_equal(points[index].point.seq, 9);
}

static void assert_before(struct repl_catalogue *c, const char *text, uint64_t seq,
                          const char *part)
{
    struct repl_when when;
    struct repl_error err = {0};
    size_t index;
    assert_true(repl_ok(repl_when_parse(text, NOW, &when, &err)));
    repl_result result = repl_when_resolve_in(&when, c, &index, &err);
    if (!repl_ok(result)) {
        if (seq > 0 || strstr(err.text, part) == NULL)
            fail_msg("%s: %s", text, err.text);
        return;
    }
    assert_int_equal(points[index].point.seq, seq);
    char *words = repl_when_describe_in(&when, c, index);
    if (strstr(words, part) == NULL)
        fail_msg("%s: %s", text, words);
    free(words);
}

static void test_before_a_name(void **state)
{
    (void)state;
    struct repl_log_mark marks[] = {
        {REPL_MARK_NAME, 9, "v1"},        {REPL_MARK_NAME, 3, "oldest"},
        {REPL_MARK_NAME, 4, "before it"}, {REPL_MARK_NAME, 4, "before v1"},
        {REPL_MARK_NAME, 9, "v2"},        {REPL_MARK_NAME, 3, "before v2"},
        {REPL_MARK_NAME, 12, "later"},    {REPL_MARK_NAME, 4, "trouble"},
        {REPL_MARK_NAME, 4, "#9"},        {REPL_MARK_NAME, 9, "#9 is the last"},
    };
    struct repl_points_entry copy[3];
    memcpy(copy, points, sizeof copy);
    copy[2].churn =
        (struct repl_churn){.known = true, .trouble = REPL_TROUBLE_CHANGE, .trouble_before_seq = 4};
    struct repl_catalogue c = {.points = copy,
                               .point_count = 3,
                               .marks = marks,
                               .mark_count = sizeof marks / sizeof marks[0]};
    assert_before(&c, "Before  v1", 4, "the last one before point 9, which has the name \"v1\"");
    assert_before(&c, "before it", 4, "with the name \"before it\"");
    assert_before(&c, "before before it", 3, "which has the name \"before it\"");
    assert_before(&c, "before oldest", 0, "no point before \"oldest\", which is point 3");
    /* both meanings are point 4 */
    assert_before(&c, "before v1", 4, "with the name \"before v1\"");
    assert_before(&c, "before v2", 0,
                  "can mean the name of point 3, and the last point before \"v2\", point 9: write");
    assert_before(&c, "before trouble", 0,
                  "can mean the last point before what looks like trouble, and the last point "
                  "before \"trouble\", point 4");
    assert_before(&c, "#9", 0, "can mean the number of point 9, and the name of point 4");
    assert_before(&c, "9", 9, "point 9");
    assert_before(&c, "before V1", 0, "no point has the name \"before V1\"");
    /* what lies before it may be missing from the list */
    assert_before(&c, "before later", 9, "before point 12");
    c.damaged = true;
    assert_before(&c, "before later", 0, "newer ones may be missing");
    assert_before(&c, "v1", 9, "with the name \"v1\"");
}

static void test_damaged(void **state)
{
    (void)state;
    struct repl_when latest = {.kind = REPL_WHEN_LATEST};
    struct repl_when seq = {.kind = REPL_WHEN_SEQ, .seq = 9};
    struct repl_when late = {.kind = REPL_WHEN_TIME, .time_ns = 1000 * S};
    struct repl_when early = {.kind = REPL_WHEN_TIME, .time_ns = 115 * S};
    assert_resolved_in(false, &latest, 9);
    assert_resolved_in(true, &latest, 0);
    assert_resolved_in(true, &seq, 9);
    assert_resolved_in(false, &late, 9);
    assert_resolved_in(true, &late, 0);
    assert_resolved_in(true, &early, 4);
}

static void assert_described(int64_t time_ns, size_t index, const char *part)
{
    struct repl_when when = {.kind = REPL_WHEN_TIME, .time_ns = time_ns};
    char *text = repl_when_describe(&when, &points[index]);
    assert_non_null(text);
    if (strstr(text, part) == NULL)
        fail_msg("%s: %s", part, text);
    free(text);
}

static void test_describe(void **state)
{
    (void)state;
    assert_described(103 * S, 0, "did not change until the time that was asked for");
    assert_described(108 * S, 0,
                     "asked for: 1970-01-01 01:01:48.000 +0100 (1970-01-01T00:01:48.000Z)");
    assert_described(108 * S, 0, "3.0 s before the time that was asked for");
    assert_described(108 * S, 0, "point 3 of 1970-01-01 01:01:40.000 +0100 (1970-01-01T00:01:40");
    struct repl_points_entry entry = {
        .point = {.consistency = REPL_CONSISTENCY_PER_FILE, .cut = REPL_CUT_FILES}};
    char *text = repl_when_describe(&(struct repl_when){.kind = REPL_WHEN_LATEST}, &entry);
    assert_non_null(strstr(text, "each file by itself, and not all of them as of one instant, cut "
                                 "by reading each file until it was stable"));
    free(text);
    entry.point.consistency = REPL_CONSISTENCY_CRASH;
    entry.point.cut = REPL_CUT_SNAPSHOT;
    text = repl_when_describe(&(struct repl_when){.kind = REPL_WHEN_LATEST}, &entry);
    assert_non_null(strstr(text, "as after a power cut, cut by a snapshot of the filesystem"));
    free(text);
}

static void test_words(void **state)
{
    (void)state;
    static const struct {
        int64_t ns;
        const char *text;
    } durations[] = {{0, "0 ms"},
                     {-5000000, "-5 ms"},
                     {S * 42 / 10, "4.2 s"},
                     {S * 200, "3 min 20 s"},
                     {S * 7500, "2 h 5 min"},
                     {S * 273600, "3 d 4 h"}};
    static const struct {
        uint64_t bytes;
        const char *text;
    } sizes[] = {{0, "0 B"}, {1023, "1023 B"}, {1536, "1.5 KiB"}, {1u << 30, "1 GiB"}};
    char text[REPL_WORDS_SIZE];
    for (size_t i = 0; i < sizeof durations / sizeof durations[0]; i++) {
        repl_words_duration(durations[i].ns, text);
        assert_string_equal(text, durations[i].text);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        repl_words_bytes(sizes[i].bytes, text);
        assert_string_equal(text, sizes[i].text);
    }
    repl_words_utc(-S / 4, text);
    assert_string_equal(text, "1969-12-31T23:59:59.750Z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),          cmocka_unit_test(test_summer_time),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_resolve),
        cmocka_unit_test(test_before_trouble), cmocka_unit_test(test_describe),
        cmocka_unit_test(test_words),          cmocka_unit_test(test_printed),
        cmocka_unit_test(test_names),          cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_before_a_name),
    };
    return cmocka_run_group_tests_name("when", tests, set_up, NULL);
}
