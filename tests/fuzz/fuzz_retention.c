/*
 * The policy of retention on any text. A refusal must have words; what is accepted must be within
 * its bounds, and its canonical text must mean the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "journal/retention.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_bounds(const struct repl_retention *policy)
{
    ensure(policy->count >= 1 && policy->count <= REPL_RETENTION_RULES_MAX);
    for (unsigned i = 0; i < policy->count; i++) {
        const struct repl_retention_rule *rule = &policy->rules[i];
        ensure(rule->every_s >= 1 && rule->every_s <= rule->for_s);
        ensure(rule->every_s <= REPL_RETENTION_FOR_MAX_S);
        ensure(rule->for_s <= REPL_RETENTION_FOR_MAX_S || rule->for_s == REPL_RETENTION_FOREVER);
        ensure(i == 0 || (rule->every_s > rule[-1].every_s && rule->for_s > rule[-1].for_s));
    }
}

/* Any two times, taken from the text. */
static void check_until(const struct repl_retention *policy, const char *text, size_t size)
{
    int64_t times[2] = {0};
    unsigned rule;
    memcpy(times, text, size < sizeof times ? size : sizeof times);
    int64_t alone_ns = repl_retention_until(policy, NULL, times[1], NULL);
    int64_t until_ns = repl_retention_until(policy, &times[0], times[1], &rule);
    ensure(alone_ns >= times[1] && until_ns <= alone_ns);
    ensure((rule == policy->count) == (until_ns == REPL_RETENTION_NEVER));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), canonical[REPL_RETENTION_TEXT_SIZE];
    struct repl_retention policy, again;
    struct repl_error err = {.text = ""};
    ensure(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    if (repl_ok(repl_retention_parse(text, &policy, &err))) {
        check_bounds(&policy);
        repl_retention_format(&policy, canonical);
        ensure(repl_ok(repl_retention_parse(canonical, &again, &err)));
        ensure(memcmp(&policy, &again, sizeof policy) == 0);
        check_until(&policy, text, size);
    } else {
        ensure(err.text[0] != '\0');
    }
    free(text);
    return 0;
}
