#include <stdlib.h>
#include <string.h>

#include "source/source_volume_internal.h"

/* "" or " 1777889820000000000". */
static repl_result since_parse(const char *text, int64_t *since_ns, struct repl_error *err)
{
    size_t digits = text[0] == ' ' ? strspn(text + 1, "0123456789") : 0;
    *since_ns = 0;
    if (text[0] != '\0' && (digits == 0 || digits > 19 || text[1 + digits] != '\0'))
        return repl_fail(err, REPL_E_USAGE, "\"%.40s\" is not a time", text);
    if (digits > 0)
        *since_ns = strtoll(text + 1, NULL, 10);
    return REPL_SUCCESS;
}

json_t *repl_source_volume_point(struct repl_source_volume *v, const char *since,
                                 struct repl_error *err)
{
    struct repl_volume_status status;
    uint64_t unchanged_seq = 0;
    int64_t since_ns, now_ns = repl_now_wall_ns();
    if (!repl_ok(since_parse(since, &since_ns, err)))
        return NULL;
    bool asks = since_ns != 0, there = false;
    repl_source_volume_status(v, &status);
    if (!asks && !volume_is_up(v)) {
        repl_ignore(repl_fail(err, REPL_E_RETRY, "volume %s does not run now: %s", volume_name(v),
                              status.cause));
        return NULL;
    }
    if (!asks)
        since_ns = repl_pipeline_since(&v->pipeline, now_ns);
    else if (volume_is_up(v))
        there = repl_pipeline_has_since(&v->pipeline, since_ns, now_ns, &unchanged_seq);
    if (!there && volume_is_up(v)) {
        repl_pipeline_want(&v->pipeline, now_ns);
        volume_wake(v);
    }
    return json_pack("{s:I, s:b, s:I, s:s, s:s}", "since_ns", (json_int_t)since_ns, "there", there,
                     "unchanged_seq", (json_int_t)unchanged_seq, "state",
                     repl_state_name(status.state), "cause", status.cause);
}
