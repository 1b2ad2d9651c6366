/*
 * Each form that a time may have is tried in turn; each either takes the whole
 * text or nothing. A local time that the clock skipped, or showed twice, when
 * summer time began or ended is refused rather than guessed.
 */
#include "recover/when.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "journal/mark.h"
#include "journal/trouble.h"
#include "recover/words.h"

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

/* The moment at which clocks here showed tm, under one assumption about summer time. */
static bool local_try(const struct tm *tm, int is_dst, time_t *out)
{
    struct tm copy = *tm, back;
    copy.tm_isdst = is_dst;
    *out = mktime(&copy);
    return localtime_r(out, &back) != NULL && back.tm_isdst == is_dst &&
           back.tm_year == tm->tm_year && back.tm_mon == tm->tm_mon &&
           back.tm_mday == tm->tm_mday && back.tm_hour == tm->tm_hour &&
           back.tm_min == tm->tm_min && back.tm_sec == tm->tm_sec;
}

static repl_result local_time(const char *text, const struct tm *tm, int64_t ns, int64_t *time_ns,
                              struct repl_error *err)
{
    time_t winter, summer;
    bool in_winter = local_try(tm, 0, &winter), in_summer = local_try(tm, 1, &summer);
    if (in_winter && in_summer && winter != summer)
        return repl_fail(err, REPL_E_USAGE,
                         "clocks here showed \"%s\" twice, when summer time ended: write it with "
                         "its offset, such as 2026-10-25T02:30:00+01:00",
                         text);
    if (!in_winter && !in_summer)
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" was never shown by clocks here: there is no such day, or summer "
                         "time began and skipped it",
                         text);
    return time_of(text, in_winter ? winter : summer, ns, time_ns, err);
}

/* --- the forms: each sets *matched where the text has it ------------------------------------- */

/* "1234" */
static repl_result parse_seq(const char *text, struct repl_when *out, bool *matched,
                             struct repl_error *err)
{
    (void)err;
    char *end;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 19 || text[digits] != '\0')
        return REPL_SUCCESS;
    *out = (struct repl_when){.kind = REPL_WHEN_SEQ, .seq = strtoull(text, &end, 10)};
    *matched = true;
    return REPL_SUCCESS;
}

/* "2026-05-04T13:37:00Z", "2026-05-04 13:37" */
static repl_result parse_date(const char *text, struct repl_when *out, bool *matched,
                              struct repl_error *err)
{
    const char *rest = text;
    struct tm tm = {0};
    int64_t ns, offset_s;
    out->kind = REPL_WHEN_TIME;
    if (!take_date(&rest, &tm) || (!take_char(&rest, 'T') && !take_char(&rest, ' ')) ||
        !take_clock(&rest, &tm, &ns, &out->digit_ns))
        return REPL_SUCCESS;
    if (*rest == '\0') {
        *matched = true;
        return local_time(text, &tm, ns, &out->time_ns, err);
    }
    take_spaces(&rest);
    if (!take_zone(&rest, &offset_s) || *rest != '\0')
        return REPL_SUCCESS;
    struct tm normal = tm;
    time_t utc = timegm(&normal);
    if (normal.tm_mday != tm.tm_mday)
        return repl_fail(err, REPL_E_USAGE, "\"%s\": that month has no such day", text);
    *matched = true;
    return time_of(text, (int64_t)utc - offset_s, ns, &out->time_ns, err);
}

/* "17:00", "today 17:00", "yesterday 17:00" */
static repl_result parse_day(const char *text, int64_t now_ns, struct repl_when *out, bool *matched,
                             struct repl_error *err)
{
    const char *rest = text;
    time_t now = (time_t)(now_ns / NS_PER_S);
    struct tm tm, clock = {0};
    int64_t ns;
    localtime_r(&now, &tm);
    if (take_word(&rest, "yesterday ")) {
        /* Noon is on the same day whatever summer time does. */
        tm.tm_mday--;
        tm.tm_hour = 12;
        tm.tm_isdst = -1;
        mktime(&tm);
    } else {
        (void)take_word(&rest, "today ");
    }
    take_spaces(&rest);
    if (!take_clock(&rest, &clock, &ns, &out->digit_ns) || *rest != '\0')
        return REPL_SUCCESS;
    tm.tm_hour = clock.tm_hour;
    tm.tm_min = clock.tm_min;
    tm.tm_sec = clock.tm_sec;
    *matched = true;
    out->kind = REPL_WHEN_TIME;
    return local_time(text, &tm, ns, &out->time_ns, err);
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

/* "10 min ago" */
static repl_result parse_ago(const char *text, int64_t now_ns, struct repl_when *out, bool *matched,
                             struct repl_error *err)
{
    const char *rest = text;
    int64_t number;
    if (!take_digits(&rest, 1, 12, &number))
        return REPL_SUCCESS;
    take_spaces(&rest);
    size_t size = strspn(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
    int64_t seconds = unit_seconds(rest, size);
    rest += size;
    take_spaces(&rest);
    if (seconds == 0 || !take_word(&rest, "ago") || *rest != '\0')
        return REPL_SUCCESS;
    if (number > SECONDS_MAX / seconds)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" lies before all time", text);
    *matched = true;
    *out = (struct repl_when){.kind = REPL_WHEN_TIME};
    out->time_ns = now_ns - number * seconds * NS_PER_S;
    return REPL_SUCCESS;
}

static repl_result parse_time(const char *text, int64_t now_ns, struct repl_when *out,
                              bool *matched, struct repl_error *err)
{
    REPL_TRY(parse_seq(text, out, matched, err));
    if (!*matched)
        REPL_TRY(parse_date(text, out, matched, err));
    if (!*matched)
        REPL_TRY(parse_ago(text, now_ns, out, matched, err));
    if (!*matched)
        REPL_TRY(parse_day(text, now_ns, out, matched, err));
    if (*matched && out->kind == REPL_WHEN_TIME && out->time_ns - out->digit_ns > now_ns)
        return repl_fail(err, REPL_E_USAGE, "\"%s\" has not been yet: name a time that is past",
                         text);
    return REPL_SUCCESS;
}

#define WHEN_EXAMPLES                                                                              \
    "write for example \"10 min ago\", \"yesterday 17:00\", \"2026-05-04 13:37\" (local time), "   \
    "2026-05-04T13:37:00Z, latest, \"before trouble\", or a number or a name that "                \
    "\"repl points\" shows"

repl_result repl_when_parse(const char *text, int64_t now_ns, struct repl_when *out,
                            struct repl_error *err)
{
    bool matched = strcasecmp(text, "latest") == 0 || strcasecmp(text, "now") == 0;
    *out = (struct repl_when){.kind = REPL_WHEN_LATEST};
    if (strcasecmp(text, "before trouble") == 0) {
        out->kind = REPL_WHEN_TROUBLE;
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
            "\"%s\" is neither a time nor the number or name of a point: " WHEN_EXAMPLES, text);
    return REPL_SUCCESS;
}

/* --- resolving ------------------------------------------------------------------------------- */

static repl_result resolve_seq(uint64_t seq, const struct repl_points_entry *points, size_t count,
                               size_t *index, struct repl_error *err)
{
    uint64_t before = 0, after = 0;
    for (size_t i = 0; i < count; i++) {
        *index = i;
        if (points[i].point.seq == seq)
            return REPL_SUCCESS;
        if (points[i].point.seq < seq)
            before = points[i].point.seq;
        else if (after == 0)
            after = points[i].point.seq;
    }
    if (before == 0 || after == 0)
        return repl_fail(err, REPL_E_MISSING, "there is no point %" PRIu64 ": the %s is %" PRIu64,
                         seq, before == 0 ? "first" : "last", before == 0 ? after : before);
    return repl_fail(err, REPL_E_MISSING,
                     "there is no point %" PRIu64 ": its neighbours are %" PRIu64 " and %" PRIu64,
                     seq, before, after);
}

static repl_result resolve_trouble(const struct repl_points_entry *points, size_t count,
                                   size_t *index, struct repl_error *err)
{
    bool known = false;
    for (size_t i = count; i > 0; i--) {
        const struct repl_churn *churn = &points[i - 1].churn;
        known |= churn->known;
        if (churn->trouble == REPL_TROUBLE_NONE)
            continue;
        *index = repl_trouble_last_before(points, i - 1, churn->trouble_before_seq);
        if (*index != SIZE_MAX)
            return REPL_SUCCESS;
        return repl_fail(err, REPL_E_MISSING,
                         "what point %" PRIu64 " was marked for began behind point %" PRIu64
                         ", and neither that one nor an older one is there any more",
                         points[i - 1].point.seq, churn->trouble_before_seq);
    }
    return repl_fail(err, REPL_E_MISSING,
                     "no point is marked as trouble%s: \"repl points\" shows how much each has "
                     "changed; give the number of one",
                     known ? "" : " (the site is of an older release, which does not look for it)");
}

static repl_result no_such_name(const struct repl_when *when, bool unknown, struct repl_error *err)
{
    return repl_fail(
        err, REPL_E_USAGE, "no point has the name \"%s\"%s, and it is no time: " WHEN_EXAMPLES,
        when->text,
        unknown ? " (the names could not be read; a site of an older release has none)" : "");
}

repl_result repl_when_resolve(const struct repl_when *when, const struct repl_points_entry *points,
                              size_t count, size_t *index, struct repl_error *err)
{
    if (count == 0)
        return repl_fail(err, REPL_E_MISSING,
                         "the volume has no point yet: its first copy is not complete");
    if (when->kind == REPL_WHEN_NAME)
        return no_such_name(when, false, err);
    if (when->kind == REPL_WHEN_SEQ)
        return resolve_seq(when->seq, points, count, index, err);
    if (when->kind == REPL_WHEN_TROUBLE)
        return resolve_trouble(points, count, index, err);
    for (size_t i = count; i > 0; i--) {
        if (when->kind == REPL_WHEN_LATEST || points[i - 1].point.end_ns <= when->time_ns) {
            *index = i - 1;
            return REPL_SUCCESS;
        }
    }
    char asked[REPL_WORDS_SIZE], first[REPL_WORDS_SIZE];
    repl_words_local(when->time_ns, asked);
    repl_words_local(points[0].point.end_ns, first);
    return repl_fail(err, REPL_E_MISSING,
                     "nothing is known of the volume at %s: its first point, %" PRIu64
                     ", is of %s; to take that one, write --at %" PRIu64,
                     asked, points[0].point.seq, first, points[0].point.seq);
}

/* What a name stands for: the number of its point. */
static repl_result name_follow(const struct repl_when *when, const struct repl_catalogue *c,
                               struct repl_when *out, struct repl_error *err)
{
    const struct repl_log_mark *mark = repl_mark_find(c->marks, c->mark_count, when->text);
    *out = *when;
    if (when->kind == REPL_WHEN_NAME && mark == NULL)
        return no_such_name(when, c->names_unknown, err);
    if (when->kind != REPL_WHEN_NAME && mark != NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is the name of point %" PRIu64
                         ", and may be meant for something else: write the number of the point "
                         "that is meant",
                         when->text, mark->seq);
    if (mark != NULL)
        *out = (struct repl_when){.kind = REPL_WHEN_SEQ, .seq = mark->seq};
    return REPL_SUCCESS;
}

repl_result repl_when_resolve_in(const struct repl_when *asked,
                                 const struct repl_catalogue *catalogue, size_t *index,
                                 struct repl_error *err)
{
    struct repl_when meant, *when = &meant;
    REPL_TRY(name_follow(asked, catalogue, when, err));
    repl_result result =
        repl_when_resolve(when, catalogue->points, catalogue->point_count, index, err);
    if (!catalogue->damaged)
        return result;
    REPL_TRY(repl_forward(result, err, "the list of points is not whole"));
    if (when->kind == REPL_WHEN_SEQ || *index + 1 < catalogue->point_count)
        return REPL_SUCCESS;
    uint64_t seq = catalogue->points[*index].point.seq;
    return repl_fail(err, REPL_E_CORRUPT,
                     "the list of points is not whole, so newer ones may be missing from it; the "
                     "newest that is listed is point %" PRIu64 ": give --at %" PRIu64
                     " if that is meant",
                     seq, seq);
}

/* --- words ----------------------------------------------------------------------------------- */

static const char *consistency_sentence(const struct repl_point *point)
{
    switch (point->consistency) {
    case REPL_CONSISTENCY_CRASH:
        return "crash-consistent: as after a power cut";
    case REPL_CONSISTENCY_FILESYSTEM:
        return "filesystem-consistent: clean without journal replay";
    case REPL_CONSISTENCY_APPLICATION:
        return "application-consistent: vouched for by the configured command";
    case REPL_CONSISTENCY_PER_FILE:
        return "each file by itself, and not all of them as of one instant";
    case REPL_CONSISTENCY_NONE:
        break;
    }
    return "not consistent";
}

static const char *cut_sentence(const struct repl_point *point)
{
    switch (point->cut) {
    case REPL_CUT_QUIET:
        return "while nothing was written";
    case REPL_CUT_WINDOW:
        return "in a quiet window";
    case REPL_CUT_FREEZE:
        return "under a frozen filesystem";
    case REPL_CUT_COMMAND:
        return "between the configured commands";
    case REPL_CUT_FILES:
        return "by reading each file until it was stable, or to the last try";
    case REPL_CUT_SNAPSHOT:
        return "by a snapshot of the filesystem";
    }
    return "in a way this version does not know";
}

static void describe_distance(FILE *out, const struct repl_when *when,
                              const struct repl_points_entry *entry)
{
    char distance[REPL_WORDS_SIZE];
    if (when->kind != REPL_WHEN_TIME)
        return;
    if (when->time_ns <= entry->unchanged_until_ns) {
        fputs("  and the volume did not change until the time that was asked for\n", out);
        return;
    }
    repl_words_duration(when->time_ns - entry->unchanged_until_ns, distance);
    fprintf(out,
            "  %s before the time that was asked for: what was written in between is in no "
            "earlier point\n",
            distance);
}

char *repl_when_describe(const struct repl_when *when, const struct repl_points_entry *entry)
{
    const struct repl_point *point = &entry->point;
    char local[REPL_WORDS_SIZE], utc[REPL_WORDS_SIZE], window[REPL_WORDS_SIZE],
        until[REPL_WORDS_SIZE];
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return NULL;
    repl_words_local(point->end_ns, local);
    repl_words_utc(point->end_ns, utc);
    repl_words_duration(point->end_ns - point->begin_ns, window);
    fprintf(out, "point %" PRIu64 " of %s (%s)\n", point->seq, local, utc);
    if (when->kind == REPL_WHEN_TROUBLE)
        fputs("  the last one before what looks like trouble\n", out);
    if (when->kind == REPL_WHEN_NAME)
        fprintf(out, "  with the name \"%s\"\n", when->text);
    fprintf(out, "  %s, cut %s (within %s)%s%s\n", consistency_sentence(point), cut_sentence(point),
            window, point->flags & REPL_POINT_RESYNC ? ", by comparison (resync)" : "",
            point->flags & REPL_POINT_GROUP ? ", together with its group" : "");
    if (entry->unchanged_until_ns > point->end_ns) {
        repl_words_local(entry->unchanged_until_ns, until);
        fprintf(out, "  unchanged until %s\n", until);
    }
    describe_distance(out, when, entry);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
