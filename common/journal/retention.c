#include "journal/retention.h"

#include <stdio.h>
#include <string.h>

#include "base/ensure.h"

#define SECOND_NS    INT64_C(1000000000)
#define BLANKS       " \t"
#define PAIR_SHOWN   40 /* bytes of a wrong pair that are quoted */
#define FOREVER_TEXT "forever"

_Static_assert(REPL_RETENTION_FOR_MAX_S <= INT64_MAX / SECOND_NS / 2, "in ns, and a sum of two");
_Static_assert(REPL_RETENTION_RULES_MAX * sizeof "3153600000s:3153600000s" <
                   REPL_RETENTION_TEXT_SIZE,
               "any policy has room");

static const struct {
    char letter;
    int64_t seconds;
} units[] = {{'y', 365 * 86400}, {'w', 7 * 86400}, {'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};
#define UNIT_COUNT (sizeof units / sizeof units[0])

/* --- text ------------------------------------------------------------------------------------ */

/* A pair of the text, for messages. */
struct pair {
    unsigned number;
    const char *text;
    size_t size;
};

#define PAIR_FORMAT     "pair %u, \"%.*s%s\": "
#define PAIR_ARGS(pair) (pair)->number, pair_shown(pair), (pair)->text, pair_more(pair)

static int pair_shown(const struct pair *pair)
{
    return pair->size > PAIR_SHOWN ? PAIR_SHOWN : (int)pair->size;
}

static const char *pair_more(const struct pair *pair)
{
    return pair->size > PAIR_SHOWN ? "..." : "";
}

/* "30d". Returns 0 where it is no length of time, and more than the longest where it is too long.
 */
static int64_t parse_time(const char *text, size_t size)
{
    int64_t number = 0;
    if (size < 2)
        return 0;
    for (size_t i = 0; i < size - 1; i++) {
        if (text[i] < '0' || text[i] > '9')
            return 0;
        if (number <= REPL_RETENTION_FOR_MAX_S)
            number = number * 10 + (text[i] - '0');
    }
    for (size_t i = 0; i < UNIT_COUNT; i++) {
        if (units[i].letter != text[size - 1])
            continue;
        return number > REPL_RETENTION_FOR_MAX_S / units[i].seconds ? REPL_RETENTION_FOR_MAX_S + 1
                                                                    : number * units[i].seconds;
    }
    return 0;
}

static repl_result parse_half(const struct pair *pair, const char *name, const char *text,
                              size_t size, int64_t *out, struct repl_error *err)
{
    *out = parse_time(text, size);
    if (*out == 0)
        return repl_fail(err, REPL_E_USAGE,
                         PAIR_FORMAT "%s is no length of time: write a number from 1 up and one of "
                                     "s, m, h, d, w, y, such as 1m:30d",
                         PAIR_ARGS(pair), name);
    if (*out > REPL_RETENTION_FOR_MAX_S)
        return repl_fail(err, REPL_E_USAGE,
                         PAIR_FORMAT "%s is more than 100y: write less, or a FOR of " FOREVER_TEXT,
                         PAIR_ARGS(pair), name);
    return REPL_SUCCESS;
}

static repl_result parse_pair(const struct pair *pair, struct repl_retention_rule *out,
                              struct repl_error *err)
{
    const char *colon = memchr(pair->text, ':', pair->size);
    if (colon == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         PAIR_FORMAT "the colon is missing: write EVERY:FOR, such as 1m:1d",
                         PAIR_ARGS(pair));
    size_t every_size = (size_t)(colon - pair->text), for_size = pair->size - every_size - 1;
    REPL_TRY(parse_half(pair, "EVERY", pair->text, every_size, &out->every_s, err));
    if (for_size == strlen(FOREVER_TEXT) && memcmp(colon + 1, FOREVER_TEXT, for_size) == 0)
        out->for_s = REPL_RETENTION_FOREVER;
    else
        REPL_TRY(parse_half(pair, "FOR", colon + 1, for_size, &out->for_s, err));
    if (out->for_s < out->every_s)
        return repl_fail(err, REPL_E_USAGE,
                         PAIR_FORMAT "FOR is shorter than EVERY, which would keep less than one "
                                     "point: write a FOR that is at least EVERY",
                         PAIR_ARGS(pair));
    return REPL_SUCCESS;
}

/* Finer rules first; a rule that is both coarser and shorter than the one before keeps nothing. */
static repl_result check_order(const struct pair *pair, const struct repl_retention_rule *before,
                               const struct repl_retention_rule *rule, struct repl_error *err)
{
    if (rule->every_s <= before->every_s)
        return repl_fail(err, REPL_E_USAGE,
                         PAIR_FORMAT "EVERY is not longer than that of the pair before: write "
                                     "pairs from the finest to the coarsest, each once",
                         PAIR_ARGS(pair));
    if (rule->for_s <= before->for_s)
        return repl_fail(err, REPL_E_USAGE,
                         PAIR_FORMAT "FOR is not longer than that of the pair before, which keeps "
                                     "more points as long: write a longer FOR, or remove the pair",
                         PAIR_ARGS(pair));
    return REPL_SUCCESS;
}

repl_result repl_retention_parse(const char *text, struct repl_retention *out,
                                 struct repl_error *err)
{
    *out = (struct repl_retention){0};
    for (text += strspn(text, BLANKS); *text != '\0'; text += strspn(text, BLANKS)) {
        struct pair pair = {.number = out->count + 1, .text = text};
        while (text[pair.size] != '\0' && strchr(BLANKS, text[pair.size]) == NULL)
            pair.size++;
        if (out->count == REPL_RETENTION_RULES_MAX)
            return repl_fail(err, REPL_E_USAGE, PAIR_FORMAT "more than %u pairs: leave some out",
                             PAIR_ARGS(&pair), REPL_RETENTION_RULES_MAX);
        struct repl_retention_rule *rule = &out->rules[out->count];
        REPL_TRY(parse_pair(&pair, rule, err));
        if (out->count > 0)
            REPL_TRY(check_order(&pair, rule - 1, rule, err));
        out->count++;
        text += pair.size;
    }
    if (out->count == 0)
        return repl_fail(err, REPL_E_USAGE,
                         "no pair: write EVERY:FOR, such as \"1s:1h 1m:1d 1h:30d 1d:1y\"");
    return REPL_SUCCESS;
}

static size_t format_time(int64_t seconds, char *text, size_t size)
{
    size_t unit = 0;
    if (seconds == REPL_RETENTION_FOREVER)
        return (size_t)snprintf(text, size, FOREVER_TEXT);
    while (seconds % units[unit].seconds != 0)
        unit++;
    return (size_t)snprintf(text, size, "%lld%c", (long long)(seconds / units[unit].seconds),
                            units[unit].letter);
}

void repl_retention_format(const struct repl_retention *policy, char text[REPL_RETENTION_TEXT_SIZE])
{
    size_t used = 0;
    for (unsigned i = 0; i < policy->count; i++) {
        if (i > 0)
            text[used++] = ' ';
        used += format_time(policy->rules[i].every_s, text + used, REPL_RETENTION_TEXT_SIZE - used);
        text[used++] = ':';
        used += format_time(policy->rules[i].for_s, text + used, REPL_RETENTION_TEXT_SIZE - used);
    }
    ensure(used < REPL_RETENTION_TEXT_SIZE);
    text[used] = '\0';
}

/* --- the decision ---------------------------------------------------------------------------- */

/* Rounded down, before 1970 too. */
static int64_t interval_of(int64_t time_ns, int64_t every_ns)
{
    return time_ns / every_ns - (time_ns % every_ns < 0);
}

/* The end of FOR behind the end of the interval; the last moment there is where it lies behind. */
static int64_t rule_until(const struct repl_retention_rule *rule, int64_t interval)
{
    int64_t until_ns;
    if (rule->for_s == REPL_RETENTION_FOREVER ||
        __builtin_mul_overflow(interval + 1, rule->every_s * SECOND_NS, &until_ns) ||
        __builtin_add_overflow(until_ns, rule->for_s * SECOND_NS, &until_ns))
        return REPL_RETENTION_FOREVER;
    return until_ns;
}

int64_t repl_retention_until(const struct repl_retention *policy, const int64_t *previous_ns,
                             int64_t time_ns, unsigned *rule)
{
    int64_t until_ns = REPL_RETENTION_NEVER;
    unsigned by = policy->count;
    for (unsigned i = 0; i < policy->count; i++) {
        int64_t every_ns = policy->rules[i].every_s * SECOND_NS;
        int64_t interval = interval_of(time_ns, every_ns);
        if (previous_ns != NULL && interval_of(*previous_ns, every_ns) == interval)
            continue;
        int64_t of_rule_ns = rule_until(&policy->rules[i], interval);
        if (of_rule_ns >= until_ns) {
            until_ns = of_rule_ns;
            by = i;
        }
    }
    if (rule != NULL)
        *rule = by;
    return until_ns;
}

int64_t repl_retention_pass(const struct repl_retention *policy,
                            const struct repl_retention_point *points, size_t count, size_t from,
                            int64_t now_ns, bool *keep)
{
    int64_t change_ns = REPL_RETENTION_FOREVER;
    for (size_t i = from; i < count; i++) {
        int64_t until_ns = repl_retention_until(policy, i > 0 ? &points[i - 1].time_ns : NULL,
                                                points[i].time_ns, NULL);
        keep[i] = until_ns >= now_ns || points[i].protect != 0;
        if (until_ns >= now_ns && until_ns < change_ns && points[i].protect == 0)
            change_ns = until_ns + 1;
    }
    return change_ns;
}
