/*
 * Each form that a time may have is tried in turn; each either takes the whole
 * text or nothing. A local time that the clock skipped, or showed twice, is refused
 * rather than guessed, unless it is the first time and the second is still to come.
 */
#include "recover/when.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "journal/mark.h"
#include "recover/local_time.h"

#define NS_PER_S INT64_C(1000000000)

/* Seconds that still fit 64 bits of nanoseconds. */
#define SECONDS_MAX (INT64_MAX / NS_PER_S - 1)

/* --- small parts of a text ------------------------------------------------------------------- */

static bool take_digits(const char **text, unsigned min, unsigned max, int64_t *value)
{
    unsigned count = 0;
    *value = 0;
    for (; count < max && **text >= '0' && **text <= '9'; count++, (*text)++)
        *value = *value * 10 + (**text - '0');
    return count >= min;
}

static bool take_char(const char **text, char c)
{
    if (**text != c)
        return false;
    (*text)++;
    return true;
}

static bool take_word(const char **text, const char *word)
{
    size_t size = strlen(word);
    if (strncasecmp(*text, word, size) != 0)
        return false;
    *text += size;
    return true;
}

static void take_spaces(const char **text)
{
    while (**text == ' ')
        (*text)++;
}

/* "2026-05-04" */
static bool take_date(const char **text, struct tm *tm)
{
    int64_t year, month, day;
    if (!take_digits(text, 4, 4, &year) || !take_char(text, '-') ||
        !take_digits(text, 2, 2, &month) || !take_char(text, '-') ||
        !take_digits(text, 2, 2, &day) || month < 1 || month > 12 || day < 1 || day > 31)
        return false;
    tm->tm_year = (int)year - 1900;
    tm->tm_mon = (int)month - 1;
    tm->tm_mday = (int)day;
    return true;
}

/* "13:37", "13:37:00", "13:37:00.250", which ends only where .251 begins. */
static bool take_clock(const char **text, struct tm *tm, int64_t *ns, int64_t *digit_ns)
{
    int64_t hour, minute, second = 0;
    *ns = *digit_ns = 0;
    if (!take_digits(text, 1, 2, &hour) || !take_char(text, ':') ||
        !take_digits(text, 2, 2, &minute))
        return false;
    if (take_char(text, ':') && !take_digits(text, 2, 2, &second))
        return false;
    if (take_char(text, '.')) {
        const char *begin = *text;
        if (!take_digits(text, 1, 9, ns))
            return false;
        int64_t unit = 1;
        for (size_t i = (size_t)(*text - begin); i < 9; i++)
            unit *= 10;
        *digit_ns = unit - 1;
        *ns = *ns * unit + *digit_ns;
    }
    tm->tm_hour = (int)hour;
    tm->tm_min = (int)minute;
    tm->tm_sec = (int)second;
    return hour < 24 && minute < 60 && second < 60;
}

/* "Z", "+02:00", "+0200" */
static bool take_zone(const char **text, int64_t *offset_s)
{
    int64_t hour, minute;
    *offset_s = 0;
    if (take_char(text, 'Z') || take_char(text, 'z'))
        return true;
    bool west = **text == '-';
    if ((!take_char(text, '+') && !take_char(text, '-')) || !take_digits(text, 2, 2, &hour))
        return false;
    (void)take_char(text, ':');
    if (!take_digits(text, 2, 2, &minute) || hour > 23 || minute > 59)
        return false;
    *offset_s = (hour * 3600 + minute * 60) * (west ? -1 : 1);
    return true;
}

/* A time that a point may have: nanoseconds of the years 1678 to 2261 fit 64 bits. */
static repl_result time_of(const char *text, int64_t seconds, int64_t ns, int64_t *time_ns,
                           struct repl_error *err)
{
    if (seconds < -SECONDS_MAX || seconds >= SECONDS_MAX)
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is out of range: times go from the year 1678 to 2261", text);
    *time_ns = seconds * NS_PER_S + ns;
    return REPL_SUCCESS;
}

/* --- local time ------------------------------------------------------------------------------ */

static repl_result refuse_unclear(const char *text, const struct repl_local_moments *moments,
                                  struct repl_error *err)
{
    char first[REPL_LOCAL_TEXT_SIZE], second[REPL_LOCAL_TEXT_SIZE];
    repl_local_text(moments->at_s[0], first);
    repl_local_text(moments->at_s[1], second);
    return repl_fail(err, REPL_E_USAGE, "\"%s\" was %s: write %s or %s, whichever is meant", text,
                     moments->count == 0 ? "never shown by clocks here, which were put forward"
                                         : "shown twice by clocks here, which were put back",
                     first, second);
}

static bool is_day(const struct tm *tm)
{
    struct tm normal = *tm;
    (void)timegm(&normal);
    return normal.tm_mday == tm->tm_mday;
}

/* tm is of a day that there is. */
static repl_result local_time(const char *text, const struct tm *tm, int64_t ns, int64_t now_ns,
                              struct repl_when *out, struct repl_error *err)
{
    struct repl_local_moments moments;
    repl_local_moments(tm, &moments);
    REPL_TRY(time_of(text, moments.at_s[0], ns, &out->time_ns, err));
    bool second_is_past = moments.at_s[1] <= now_ns / NS_PER_S;
    if (moments.count == 1 || (moments.count == 2 && !second_is_past))
        return REPL_SUCCESS;
    return refuse_unclear(text, &moments, err);
}

/* --- the forms: each sets *matched where the text has it ------------------------------------- */

/* "1234", "#1234" */
static repl_result parse_seq(const char *text, struct repl_when *out, bool *matched,
                             struct repl_error *err)
{
    (void)err;
    char *end;
    const char *number = text + (text[0] == '#');
    size_t digits = strspn(number, "0123456789");
    if (digits == 0 || digits > 19 || number[digits] != '\0')
        return REPL_SUCCESS;
    *out = (struct repl_when){.kind = REPL_WHEN_SEQ, .seq = strtoull(number, &end, 10)};
    *matched = true;
    return REPL_SUCCESS;
}

/* "2026-05-04T13:37:00Z", "2026-05-04 13:37" */
static repl_result parse_date(const char *text, int64_t now_ns, struct repl_when *out,
                              bool *matched, struct repl_error *err)
{
    const char *rest = text;
    struct tm tm = {0};
    int64_t ns, offset_s;
    out->kind = REPL_WHEN_TIME;
    if (!take_date(&rest, &tm) || (!take_char(&rest, 'T') && !take_char(&rest, ' ')) ||
        !take_clock(&rest, &tm, &ns, &out->digit_ns))
        return REPL_SUCCESS;
    bool local = *rest == '\0';
    take_spaces(&rest);
    if (!local && (!take_zone(&rest, &offset_s) || *rest != '\0'))
        return REPL_SUCCESS;
    if (!is_day(&tm))
        return repl_fail(err, REPL_E_USAGE, "\"%s\": that month has no such day", text);
    *matched = true;
    if (local)
        return local_time(text, &tm, ns, now_ns, out, err);
    return time_of(text, (int64_t)timegm(&tm) - offset_s, ns, &out->time_ns, err);
}

/* 0 is Sunday; -1: none of them, and nothing was taken. */
static int take_weekday(const char **text)
{
    static const char *const names[] = {"sunday ",   "monday ", "tuesday ", "wednesday ",
                                        "thursday ", "friday ", "saturday "};
    for (int i = 0; i < 7; i++) {
        const char *rest = *text;
        if (take_word(text, names[i]))
            return i;
        char first[4] = {names[i][0], names[i][1], names[i][2], '\0'};
        if (take_word(&rest, first) && take_char(&rest, ' ')) {
            *text = rest;
            return i;
        }
    }
    return -1;
}

/* The day so many days before that of now, at the clock's time; a day is one of the calendar. */
static struct tm days_back(const struct tm *now, int days, const struct tm *clock)
{
    struct tm tm = {.tm_year = now->tm_year, .tm_mon = now->tm_mon, .tm_mday = now->tm_mday - days};
    (void)timegm(&tm);
    tm.tm_hour = clock->tm_hour;
    tm.tm_min = clock->tm_min;
    tm.tm_sec = clock->tm_sec;
    return tm;
}

/* Whether all of what may be meant is still to come. */
static bool is_to_come(const struct tm *tm, int64_t now_ns)
{
    struct repl_local_moments moments;
    repl_local_moments(tm, &moments);
    return moments.at_s[0] > now_ns / NS_PER_S;
}

/* "17:00" and "monday 17:00", the last of them that has been; "today 17:00", "yesterday 17:00" */
static repl_result parse_day(const char *text, int64_t now_ns, struct repl_when *out, bool *matched,
                             struct repl_error *err)
{
    const char *rest = text;
    time_t now_s = (time_t)(now_ns / NS_PER_S);
    struct tm now, clock = {0};
    int64_t ns;
    localtime_r(&now_s, &now);
    int days = take_word(&rest, "yesterday ") ? 1 : 0;
    bool fixed = days == 1 || take_word(&rest, "today ");
    int weekday = fixed ? -1 : take_weekday(&rest);
    if (weekday >= 0)
        days = (now.tm_wday - weekday + 7) % 7;
    take_spaces(&rest);
    if (!take_clock(&rest, &clock, &ns, &out->digit_ns) || *rest != '\0')
        return REPL_SUCCESS;
    struct tm tm = days_back(&now, days, &clock);
    if (!fixed && is_to_come(&tm, now_ns))
        tm = days_back(&now, weekday >= 0 ? days + 7 : 1, &clock);
    *matched = true;
    out->kind = REPL_WHEN_TIME;
    return local_time(text, &tm, ns, now_ns, out, err);
}

/* Seconds in a unit of time; 0 for another word. */
static int64_t unit_seconds(const char *unit, size_t size)
{
    static const struct {
        const char *name;
        int64_t seconds;
    } units[] = {
        {"s", 1},         {"sec", 1},        {"second", 1},   {"seconds", 1},  {"m", 60},
        {"min", 60},      {"minute", 60},    {"minutes", 60}, {"h", 3600},     {"hour", 3600},
        {"hours", 3600},  {"d", 86400},      {"day", 86400},  {"days", 86400}, {"w", 604800},
        {"week", 604800}, {"weeks", 604800},
    };
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strlen(units[i].name) == size && strncasecmp(unit, units[i].name, size) == 0)
            return units[i].seconds;
    }
    return 0;
}

/* "10 min", of "10 min ago" and of "2 h 5 min ago" */
static bool take_duration(const char **text, int64_t *seconds)
{
    int64_t number;
    const char *rest = *text;
    if (!take_digits(&rest, 1, 12, &number))
        return false;
    take_spaces(&rest);
    size_t size = strspn(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    int64_t unit = unit_seconds(rest, size);
    if (unit == 0)
        return false;
    *seconds = number > SECONDS_MAX / unit ? SECONDS_MAX : number * unit;
    *text = rest + size;
    take_spaces(text);
    return true;
}

static repl_result parse_ago(const char *text, int64_t now_ns, struct repl_when *out, bool *matched,
                             struct repl_error *err)
{
    const char *rest = text;
    int64_t seconds = 0, more;
    bool some = false;
    while (take_duration(&rest, &more)) {
        seconds = more > SECONDS_MAX - seconds ? SECONDS_MAX : seconds + more;
        some = true;
    }
    if (!some || !take_word(&rest, "ago") || *rest != '\0')
        return REPL_SUCCESS;
    if (seconds == SECONDS_MAX)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" lies before all time", text);
    *matched = true;
    *out = (struct repl_when){.kind = REPL_WHEN_TIME};
    out->time_ns = now_ns - seconds * NS_PER_S;
    return REPL_SUCCESS;
}

static repl_result parse_time(const char *text, int64_t now_ns, struct repl_when *out,
                              bool *matched, struct repl_error *err)
{
    REPL_TRY(parse_seq(text, out, matched, err));
    if (!*matched)
        REPL_TRY(parse_date(text, now_ns, out, matched, err));
    if (!*matched)
        REPL_TRY(parse_ago(text, now_ns, out, matched, err));
    if (!*matched)
        REPL_TRY(parse_day(text, now_ns, out, matched, err));
    if (*matched && out->kind == REPL_WHEN_TIME && out->time_ns - out->digit_ns > now_ns)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" has not been yet: name a time that is past",
                         text);
    return REPL_SUCCESS;
}

repl_result repl_when_parse(const char *text, int64_t now_ns, struct repl_when *out,
                            struct repl_error *err)
{
    bool matched = strcasecmp(text, "latest") == 0 || strcasecmp(text, "now") == 0;
    *out = (struct repl_when){.kind = REPL_WHEN_LATEST};
    bool trouble = strcasecmp(text, "before trouble") == 0;
    if (trouble || strcasecmp(text, "before encryption") == 0) {
        out->kind = trouble ? REPL_WHEN_TROUBLE : REPL_WHEN_ENCRYPTION;
        matched = true;
    }
    if (!matched)
        REPL_TRY(parse_time(text, now_ns, out, &matched, err));
    if (strlen(text) <= REPL_MARK_NAME_SIZE)
        strcpy(out->text, text);
    if (matched)
        return REPL_SUCCESS;
    out->kind = REPL_WHEN_NAME;
    if (repl_mark_name_flaw(text) != NULL)
        return repl_fail(
            err, REPL_E_USAGE,
            "\"%s\" is neither a time nor the number or name of a point: " REPL_WHEN_EXAMPLES,
            text);
    return REPL_SUCCESS;
}
