#include "cli/look.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "recover/when.h"

repl_result repl_look_open(const char *verb, const struct repl_origin_options *options,
                           const char *volume, struct repl_history **out, struct repl_error *err)
{
    struct repl_origin *origin = NULL;
    *out = NULL;
    REPL_TRY(repl_origin_open(options, volume, &origin, err));
    REPL_TRY(repl_history_open(origin, out, err));
    const struct repl_catalogue *c = repl_history_catalogue(*out);
    if (c->note[0] != '\0')
        fprintf(stderr, "repl %s: %s\n", verb, c->note);
    return REPL_SUCCESS;
}

repl_result repl_look_point(const struct repl_history *history, const char *option, const char *at,
                            size_t *point, struct repl_error *err)
{
    struct repl_when when;
    struct timespec now;
    const struct repl_catalogue *c = repl_history_catalogue(history);
    clock_gettime(CLOCK_REALTIME, &now);
    REPL_TRY(repl_forward(
        repl_when_parse(at, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, &when, err), err, "%s",
        option));
    REPL_TRY(repl_when_resolve_in(&when, c, point, err));
    char *text = repl_when_describe_in(&when, c, *point);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    fputs(text, stderr);
    free(text);
    return REPL_SUCCESS;
}
