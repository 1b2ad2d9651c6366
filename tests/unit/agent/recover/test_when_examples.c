/*
 * docs/TIMES.md: every row of its tables is what repl does. The zones are given by their rules, as
 * not every machine has the files of zones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "recover/when.h"
#include "recover/words.h"

#define S INT64_C(1000000000)

#define COLUMNS 4

static void zone_set(const char *name)
{
    static const struct {
        const char *name, *rules;
    } zones[] = {
        {"Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"},
        {"America/New_York", "EST5EDT,M3.2.0,M11.1.0"},
        {"Asia/Kolkata", "IST-5:30"},
        {"Australia/Lord_Howe", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"},
    };
    for (size_t i = 0; i < sizeof zones / sizeof zones[0]; i++) {
        if (strcmp(zones[i].name, name) == 0) {
            setenv("TZ", zones[i].rules, 1);
            tzset();
            return;
        }
    }
    fail_msg("no rules for zone %s", name);
}

/* Local time as the table has it, which is read without what is tested. */
static int64_t clock_read(const char *text)
{
    struct tm tm = {.tm_isdst = -1};
    const char *rest = strptime(text, "%Y-%m-%d %H:%M:%S", &tm);
    if (rest == NULL) {
        rest = strptime(text, "%Y-%m-%dT%H:%M:%S%z", &tm);
        assert_non_null(rest);
        int64_t offset_s = tm.tm_gmtoff;
        return ((int64_t)timegm(&tm) - offset_s) * S;
    }
    return (int64_t)mktime(&tm) * S;
}

/* What refuses says is behind "refused: ". NULL: it is a time or point. */
static const char *refusal_of(const char *means)
{
    static const char word[] = "refused: ";
    return strncmp(means, word, sizeof word - 1) == 0 ? means + sizeof word - 1 : NULL;
}

static void check(const char *asked, const char *means, repl_result result, const char *found,
                  const struct repl_error *err)
{
    const char *refusal = refusal_of(means);
    if (refusal != NULL && (repl_ok(result) || strstr(err->text, refusal) == NULL))
        fail_msg("%s: %s, not %s", asked, repl_ok(result) ? found : err->text, means);
    if (refusal == NULL && !repl_ok(result))
        fail_msg("%s: %s", asked, err->text);
    if (refusal == NULL && strcmp(found, means) != 0)
        fail_msg("%s: is %s, not %s", asked, found, means);
}

static void check_time(const char *zone, const char *clock, const char *asked, const char *means)
{
    struct repl_when when;
    struct repl_error err = {0};
    char found[REPL_WORDS_SIZE] = "";
    zone_set(zone);
    repl_result result = repl_when_parse(asked, clock_read(clock), &when, &err);
    if (repl_ok(result)) {
        assert_int_equal(when.kind, REPL_WHEN_TIME);
        time_t at = (time_t)(when.time_ns / S);
        struct tm utc;
        strftime(found, sizeof found, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&at, &utc));
    }
    check(asked, means, result, found, &err);
}

static void check_point(const char *asked, const char *means)
{
    static struct repl_points_entry points[] = {
        {.point = {.seq = 3}},
        {.point = {.seq = 4},
         .churn = {.known = true, .trouble = REPL_TROUBLE_ENCRYPTION, .trouble_before_seq = 3}},
        {.point = {.seq = 7}},
        {.point = {.seq = 8}},
        {.point = {.seq = 9},
         .churn = {.known = true, .trouble = REPL_TROUBLE_CHANGE, .trouble_before_seq = 7}},
    };
    static struct repl_log_mark marks[] = {{REPL_MARK_NAME, 8, "v2"},
                                           {REPL_MARK_HELD, 4, "after v1"}};
    const struct repl_catalogue c = {
        .points = points, .point_count = 5, .marks = marks, .mark_count = 2};
    struct repl_when when;
    struct repl_error err = {0};
    char found[REPL_WORDS_SIZE] = "";
    size_t index = 0;
    repl_result result = repl_when_parse(asked, INT64_C(1777889820) * S, &when, &err);
    if (repl_ok(result))
        result = repl_when_resolve_in(&when, &c, &index, &err);
    if (repl_ok(result))
        snprintf(found, sizeof found, "point %llu", (unsigned long long)points[index].point.seq);
    check(asked, means, result, found, &err);
}

/* "| a | b |": its columns, without the spaces around them; 0: the line is no row. */
static size_t columns_split(char *line, char *columns[COLUMNS])
{
    size_t count = 0;
    if (line[0] != '|')
        return 0;
    for (char *rest = line + 1, *end; (end = strchr(rest, '|')) != NULL; rest = end + 1) {
        assert_true(count < COLUMNS);
        while (*rest == ' ')
            rest++;
        char *last = end;
        while (last > rest && last[-1] == ' ')
            last--;
        *last = '\0';
        columns[count++] = rest;
    }
    return count;
}

/* "`17:00`": what stands between; NULL: the column is a heading. */
static char *code_of(char *column)
{
    size_t size = strlen(column);
    if (size < 3 || column[0] != '`' || column[size - 1] != '`' || strcmp(column, "`--at`") == 0)
        return NULL;
    column[size - 1] = '\0';
    return column + 1;
}

static void test_the_page_is_right(void **state)
{
    (void)state;
    char path[4096], line[1024], *columns[COLUMNS];
    size_t times = 0, points = 0;
    snprintf(path, sizeof path, "%s/docs/TIMES.md", REPL_SOURCE_DIR);
    FILE *page = fopen(path, "r");
    assert_non_null(page);
    while (fgets(line, sizeof line, page) != NULL) {
        size_t count = columns_split(line, columns);
        char *asked = count >= 2 ? code_of(columns[count - 2]) : NULL;
        if (asked == NULL)
            continue;
        if (count == 4) {
            check_time(columns[0], columns[1], asked, columns[3]);
            times++;
        } else {
            check_point(asked, columns[1]);
            points++;
        }
    }
    fclose(page);
    assert_true(times >= 35);
    assert_true(points >= 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_page_is_right)};
    return cmocka_run_group_tests_name("when_examples", tests, NULL, NULL);
}
