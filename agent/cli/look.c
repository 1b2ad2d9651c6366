#include "cli/look.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "recover/when.h"
#include "recover/words.h"

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
    REPL_TRY(repl_forward(repl_when_resolve_in(&when, c, point, err), err, "%s", option));
    char *text = repl_when_describe_in(&when, c, *point);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    fputs(text, stderr);
    free(text);
    return REPL_SUCCESS;
}

repl_result repl_look_kind(struct repl_history *history, size_t point, enum repl_volume_kind *kind,
                           struct repl_error *err)
{
    const struct repl_segment *segment;
    uint64_t seq = repl_history_catalogue(history)->points[point].point.seq;
    size_t i = repl_history_segment_of(history, seq);
    if (i == SIZE_MAX)
        return repl_fail(err, REPL_E_MISSING, "no segment ends in point %llu",
                         (unsigned long long)seq);
    REPL_TRY(repl_history_segment(history, i, &segment, err));
    *kind = segment->header.volume_kind;
    return REPL_SUCCESS;
}

json_t *repl_look_json_of(const struct repl_point *p)
{
    char time[REPL_WORDS_SIZE];
    repl_words_utc(p->end_ns, time);
    return json_pack("{s:I, s:s, s:I, s:s}", "seq", (json_int_t)p->seq, "time", time, "time_ns",
                     (json_int_t)p->end_ns, "consistency", repl_words_consistency(p->consistency));
}

json_t *repl_look_point_json(const struct repl_history *history, size_t point)
{
    return repl_look_json_of(&repl_history_catalogue(history)->points[point].point);
}

repl_result repl_look_json_begin(json_t *head, const char *list, struct repl_error *err)
{
    char *text = head != NULL ? json_dumps(head, JSON_COMPACT) : NULL;
    json_decref(head);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    text[strlen(text) - 1] = '\0'; /* its brace */
    printf("%s,\"%s\":[", text, list);
    free(text);
    return REPL_SUCCESS;
}
