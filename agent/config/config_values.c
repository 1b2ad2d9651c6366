/*
 * The values people write: sizes, times, counts, addresses and volume names,
 * in the configuration file and on the command line alike.
 *
 * Strict on purpose. What is ambiguous (a time without a unit, MB for a million
 * or for 2^20) is refused with what to write instead, since a value taken
 * another way than it was meant shows itself only on the day of the recovery.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"

/* The digits at the start of *text. False where there are none or too many of them. */
static bool take_number(const char **text, uint64_t *number)
{
    const char *at = *text;
    uint64_t value = 0;
    if (!isdigit((unsigned char)*at))
        return false;
    for (; isdigit((unsigned char)*at); at++) {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            return false;
    }
    *text = at;
    *number = value;
    return true;
}

repl_result repl_parse_count(const char *text, uint64_t *count, struct repl_error *err)
{
    const char *rest = text;
    if (!take_number(&rest, count) || *rest != '\0')
        return repl_fail(err, REPL_E_USAGE, "\"%s\" is not a number: write digits only", text);
    return REPL_SUCCESS;
}

/* The power of 1024 of "", "B", "K", "KiB", "M", ...; -1 for another word. */
static int size_unit(const char *unit)
{
    static const char prefixes[] = "KMGTP";
    if (unit[0] == '\0' || strcasecmp(unit, "B") == 0)
        return 0;
    const char *prefix = strchr(prefixes, toupper((unsigned char)unit[0]));
    if (prefix == NULL || (unit[1] != '\0' && strcasecmp(unit + 1, "iB") != 0))
        return -1;
    return (int)(prefix - prefixes) + 1;
}

repl_result repl_parse_size(const char *text, uint64_t *bytes, struct repl_error *err)
{
    const char *rest = text;
    uint64_t number = 0;
    int unit = -1;
    if (take_number(&rest, &number)) {
        while (*rest == ' ')
            rest++;
        unit = size_unit(rest);
    }
    if (unit < 0 || __builtin_mul_overflow(number, UINT64_C(1) << (10 * unit), bytes))
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is not a size: write a whole number of bytes, or one with K, M, "
                         "G, T or P behind it, such as 64M or 10 GiB",
                         text);
    return REPL_SUCCESS;
}

/* Milliseconds in one "ms", "s", "m" or "min", "h", "d"; 0 for another word. */
static int64_t duration_unit(const char *unit)
{
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {
        {"ms", 1},      {"s", 1000},       {"m", 60000},
        {"min", 60000}, {"h", 60 * 60000}, {"d", INT64_C(24) * 60 * 60000},
    };
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(unit, units[i].name) == 0)
            return units[i].ms;
    }
    return 0;
}

repl_result repl_parse_duration(const char *text, int64_t *ms, struct repl_error *err)
{
    const char *rest = text;
    uint64_t number = 0;
    int64_t unit = 0;
    if (take_number(&rest, &number)) {
        while (*rest == ' ')
            rest++;
        unit = duration_unit(rest);
    }
    if (unit == 0 || __builtin_mul_overflow(number, unit, ms))
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is not a time: write a whole number and its unit, ms, s, min, h "
                         "or d, such as 250ms or 10 min",
                         text);
    return REPL_SUCCESS;
}

/* Less would not get a point to the site in a day. */
#define BANDWIDTH_MIN 16384u
#define BANDWIDTH_MAX (UINT64_C(64) << 30)

/* "HH:MM" at *text; 24:00 is the end of the day. */
static bool take_time(const char **text, uint32_t *second)
{
    const char *t = *text;
    for (size_t i = 0; i < 5; i++) {
        if (i == 2 ? t[i] != ':' : !isdigit((unsigned char)t[i]))
            return false;
    }
    uint32_t hour = (uint32_t)(t[0] - '0') * 10 + (uint32_t)(t[1] - '0');
    uint32_t minute = (uint32_t)(t[3] - '0') * 10 + (uint32_t)(t[4] - '0');
    *second = hour * 3600 + minute * 60;
    *text += 5;
    return minute < 60 && *second <= REPL_PACE_DAY_S;
}

/* One item without the blanks around it: "5 MiB" or "5 MiB 08:00-18:00". */
static repl_result bandwidth_item(char *item, struct repl_pace_plan *plan, bool *rest_given,
                                  struct repl_error *err)
{
    struct repl_pace_window window = {0};
    char *blank = strrchr(item, ' ');
    const char *when = blank != NULL && strchr(blank, ':') != NULL ? blank + 1 : NULL;
    if (when != NULL) {
        bool good = take_time(&when, &window.from_s) && *when++ == '-' &&
                    take_time(&when, &window.to_s) && *when == '\0' &&
                    window.from_s != window.to_s && window.from_s < REPL_PACE_DAY_S;
        if (!good)
            return repl_fail(err, REPL_E_USAGE,
                             "\"%s\" is no time of the day: write HH:MM-HH:MM, such as 08:00-18:00 "
                             "or 22:00-06:00",
                             blank + 1);
        *blank = '\0';
    }
    REPL_TRY(repl_parse_size(item, &window.bytes_per_s, err));
    if (window.bytes_per_s != 0 &&
        (window.bytes_per_s < BANDWIDTH_MIN || window.bytes_per_s > BANDWIDTH_MAX))
        return repl_fail(err, REPL_E_USAGE,
                         "%s a second is no limit: write 16 KiB to 64 GiB, or 0 for none", item);
    if (when == NULL && *rest_given)
        return repl_fail(err, REPL_E_USAGE,
                         "%s: there is a size without a time already: give this one a time", item);
    if (when != NULL && plan->count == REPL_PACE_WINDOWS_MAX)
        return repl_fail(err, REPL_E_USAGE, "more than %u times", REPL_PACE_WINDOWS_MAX);
    if (when != NULL) {
        plan->windows[plan->count++] = window;
    } else {
        plan->bytes_per_s = window.bytes_per_s;
        *rest_given = true;
    }
    return REPL_SUCCESS;
}

repl_result repl_parse_bandwidth(const char *text, struct repl_pace_plan *plan,
                                 struct repl_error *err)
{
    char copy[512];
    bool rest_given = false;
    *plan = (struct repl_pace_plan){0};
    if ((size_t)snprintf(copy, sizeof copy, "%s", text) >= sizeof copy)
        return repl_fail(err, REPL_E_USAGE, "the list is too long");
    for (char *rest = copy, *item; (item = strsep(&rest, ",")) != NULL;) {
        item += strspn(item, " ");
        size_t size = strlen(item);
        while (size > 0 && item[size - 1] == ' ')
            item[--size] = '\0';
        REPL_TRY(bandwidth_item(item, plan, &rest_given, err));
    }
    return REPL_SUCCESS;
}

static bool host_valid(const char *host, size_t size)
{
    bool bracketed = size > 2 && host[0] == '[' && host[size - 1] == ']';
    if (bracketed) {
        host++;
        size -= 2;
    }
    /* The longest name the DNS knows; what it means is the resolver's business. */
    if (size == 0 || size > 253)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (!isalnum((unsigned char)host[i]) &&
            strchr(bracketed ? ".-_:%" : ".-_", host[i]) == NULL)
            return false;
    }
    return true;
}

repl_result repl_parse_address(const char *text, unsigned port_min, struct repl_error *err)
{
    const char *colon = strrchr(text, ':');
    uint64_t port = 0;
    if (colon == NULL || !host_valid(text, (size_t)(colon - text)) ||
        !repl_ok(repl_parse_count(colon + 1, &port, NULL)) || port < port_min || port > 65535)
        return repl_fail(
            err, REPL_E_USAGE,
            "\"%s\" is not an address: write host:port, such as "
            "site.example.org:7420 or [2001:db8::7]:7420, with a port from %u to 65535",
            text, port_min);
    return REPL_SUCCESS;
}

bool repl_volume_name_valid(const char *name)
{
    size_t size = strlen(name);
    if (size == 0 || size > REPL_VOLUME_NAME_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        /* Not isalnum: what a name may hold must not depend on the locale. */
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}
