/*
 * The status as it comes over a control socket, on any JSON. What is accepted is said once more and
 * read again, and must then be the same.
 */
#include <stdint.h>
#include <string.h>

#include "base/ensure.h"
#include "control/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As text; freed by the caller. */
static char *said(const struct repl_status *status)
{
    json_t *json = repl_status_to_json(status);
    ensure(json != NULL);
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(json);
    return text;
}

static void try_json(const json_t *json)
{
    struct repl_status status, again;
    struct repl_error err = {.text = ""};
    if (!repl_ok(repl_status_from_json(json, &status, &err))) {
        ensure(err.text[0] != '\0');
        return;
    }
    char *first = said(&status);
    ensure(first != NULL);
    json_t *copy = json_loads(first, 0, NULL);
    ensure(copy != NULL && repl_ok(repl_status_from_json(copy, &again, &err)));
    char *second = said(&again);
    ensure(second != NULL && strcmp(first, second) == 0);
    json_decref(copy);
    free(first);
    free(second);
    repl_status_fini(&status);
    repl_status_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json = json_loadb((const char *)data, size, 0, NULL);
    if (json != NULL)
        try_json(json);
    json_decref(json);
    return 0;
}
