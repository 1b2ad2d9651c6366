/*
 * The times that people write (--at), on any text. A refusal must have words; what is accepted
 * must resolve in a catalogue, or say why not; what is a time or a number can be no name, also one
 * that would be wrong just now.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "journal/mark.h"
#include "recover/when.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_NS (INT64_C(1777889820) * 1000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct repl_points_entry points[] = {
        {.point = {.seq = 3, .begin_ns = NOW_NS - 2000, .end_ns = NOW_NS - 1000},
         .unchanged_until_ns = NOW_NS - 500},
        {.point = {.seq = 9, .begin_ns = NOW_NS - 20, .end_ns = NOW_NS - 10},
         .unchanged_until_ns = NOW_NS,
         .churn = {.known = true, .trouble = REPL_TROUBLE_CHANGE, .trouble_before_seq = 3}},
    };
    static struct repl_log_mark marks[] = {{REPL_MARK_NAME, 9, "v1"},
                                           {REPL_MARK_HELD, 9, "12:00"},
                                           {REPL_MARK_HELD, 3, "before v1"},
                                           {REPL_MARK_NAME, 3, "trouble"}};
    const struct repl_catalogue catalogue = {
        .points = points, .point_count = 2, .marks = marks, .mark_count = 4};
    char *text = malloc(size + 1);
    struct repl_when when;
    struct repl_error err = {.text = ""};
    size_t index;
    ensure(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    bool parsed = repl_ok(repl_when_parse(text, NOW_NS, &when, &err));
    ensure((parsed && when.kind == REPL_WHEN_NAME) == (repl_mark_name_flaw(text) == NULL));
    if (!parsed) {
        ensure(err.text[0] != '\0');
    } else if (repl_ok(repl_when_resolve_in(&when, &catalogue, &index, &err))) {
        ensure(index < 2);
        char *words = repl_when_describe_in(&when, &catalogue, index);
        ensure(words != NULL && words[0] != '\0');
        free(words);
    } else {
        ensure(err.text[0] != '\0');
    }
    free(text);
    return 0;
}
