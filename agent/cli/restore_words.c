#include "cli/restore_words.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/look.h"
#include "cli/path_words.h"
#include "recover/words.h"

void repl_restore_print_progress(void *context, const struct repl_restore_status *status)
{
    static const char *const phases[] = {"writing", "verifying"};
    char done[REPL_WORDS_SIZE], total[REPL_WORDS_SIZE], rate[REPL_WORDS_SIZE],
        left[REPL_WORDS_SIZE] = "?";
    (void)context;
    double seconds = (double)status->elapsed_ns / 1e9;
    double per_second =
        seconds > 0 ? (double)(status->done_bytes - status->start_bytes) / seconds : 0;
    repl_words_bytes(status->done_bytes, done);
    repl_words_bytes(status->total_bytes, total);
    repl_words_bytes((uint64_t)per_second, rate);
    if (per_second >= 1) {
        double wait_s = (double)(status->total_bytes - status->done_bytes) / per_second;
        repl_words_duration((int64_t)((wait_s < 1e9 ? wait_s : 1e9) * 1e9), left);
    }
    fprintf(stderr, "\r%s: %s of %s, %s/s, %s left\033[K", phases[status->phase], done, total, rate,
            left);
}

void repl_restore_print_device(const struct repl_target *target,
                               const struct repl_points_entry *point)
{
    char host[HOST_NAME_MAX + 1] = "?", size[REPL_WORDS_SIZE];
    if (gethostname(host, sizeof host - 1) != 0)
        strcpy(host, "?");
    repl_words_bytes(target->size, size);
    fprintf(stderr,
            "\nEverything on this device will be overwritten:\n"
            "  host     %s\n"
            "  device   %s%s%s\n"
            "  model    %s\n"
            "  serial   %s\n"
            "  size     %s (%" PRIu64 " bytes)\n"
            "  holds    %s\n",
            host, target->resolved, strcmp(target->path, target->resolved) != 0 ? ", as " : "",
            strcmp(target->path, target->resolved) != 0 ? target->path : "",
            target->model[0] != '\0' ? target->model : "not known",
            target->serial[0] != '\0' ? target->serial : "not known", size, target->size,
            target->content);
    if (target->size > point->volume_size)
        fprintf(stderr, "The volume is smaller: the last %" PRIu64 " bytes stay as they are.\n",
                target->size - point->volume_size);
}

void repl_restore_print_result(const struct repl_restore_options *options,
                               const struct repl_restore_result *result)
{
    char size[REPL_WORDS_SIZE], data[REPL_WORDS_SIZE];
    const char *path = options->target->path;
    if (result->lost_bytes > 0) {
        repl_words_bytes(result->lost_bytes, data);
        fprintf(stderr,
                "%s of what an earlier run wrote was not on %s any more and has been written "
                "again: see what else writes to it\n",
                data, path);
    }
    repl_words_bytes(result->volume_size, size);
    repl_words_bytes(result->data_bytes, data);
    fprintf(stderr, "restored and verified: %s holds point %" PRIu64 ", %s (%s of data)\n", path,
            repl_history_catalogue(options->history)->points[options->point].point.seq, size, data);
    if (result->same_bytes > 0) {
        char fetched[REPL_WORDS_SIZE];
        struct repl_origin *origin = repl_history_origin(options->history);
        repl_words_bytes(result->same_bytes, data);
        repl_words_bytes(atomic_load(&origin->fetched_bytes), fetched);
        fprintf(stderr, "%s of it were there already; %s were fetched\n", data, fetched);
    }
}

/* --- a plan in words ------------------------------------------------------------------------- */

static void print_point(const struct repl_point *point)
{
    char local[REPL_WORDS_SIZE], utc[REPL_WORDS_SIZE];
    repl_words_local(point->end_ns, local);
    repl_words_utc(point->end_ns, utc);
    printf("point     %" PRIu64 ", %s (%s), consistency: %s, cut: %s\n", point->seq, local, utc,
           repl_words_consistency(point->consistency), repl_words_cut(point->cut));
}

static void print_target(const struct repl_target *target)
{
    char size[REPL_WORDS_SIZE];
    repl_words_bytes(target->size, size);
    if (target->is_device)
        printf("target    device %s of %s, model %s, serial %s, holds %s\n", target->resolved, size,
               target->model[0] != '\0' ? target->model : "not known",
               target->serial[0] != '\0' ? target->serial : "not known", target->content);
    else if (target->exists)
        printf("target    file %s of %s\n", target->resolved, size);
    else
        printf("target    file %s, which is made\n", target->resolved);
}

/* Bytes a second; 0: not known. */
static uint64_t rate_of(const struct repl_restore_rate *rate)
{
    return rate->ns > 0 ? (uint64_t)((double)rate->bytes / ((double)rate->ns / 1e9)) : 0;
}

/* As far as it is known: -1 where nothing is. */
static int64_t fetch_ns(const struct repl_restore_estimate *e, uint64_t limit)
{
    const struct repl_restore_rate limited = {.bytes = limit, .ns = 1000000000};
    return repl_restore_rate_ns(limit > 0 ? &limited : &e->fetched, e->fetch_bytes);
}

static void print_part(const char *what, int64_t ns, uint64_t rate, const char *source)
{
    char time[REPL_WORDS_SIZE], speed[REPL_WORDS_SIZE];
    repl_words_duration(ns, time);
    repl_words_bytes(rate, speed);
    if (ns < 0)
        printf("          to %s: not known before\n", what);
    else if (ns == 0)
        printf("          to %s: nothing\n", what);
    else
        printf("          to %s: %s, at %s/s (%s)\n", what, time, speed, source);
}

void repl_restore_print_plan(const struct repl_restore_options *options,
                             const struct repl_restore_result *result, uint64_t limit)
{
    char size[REPL_WORDS_SIZE], done[REPL_WORDS_SIZE], write[REPL_WORDS_SIZE],
        fetch[REPL_WORDS_SIZE], time[REPL_WORDS_SIZE];
    const struct repl_restore_estimate *e = &result->estimate;
    const struct repl_origin *origin = repl_history_origin(options->history);
    int64_t fetching = fetch_ns(e, limit);
    int64_t reading = repl_restore_rate_ns(&e->read, result->volume_size);
    const struct repl_target *target = options->target;
    bool compared = !options->whole && (target->is_device || target->exists);
    repl_words_bytes(result->volume_size, size);
    repl_words_bytes(e->done_bytes, done);
    repl_words_bytes(e->write_bytes, write);
    repl_words_bytes(e->fetch_bytes, fetch);
    printf("volume    %s of %s, from %s\n", origin->volume, size, origin->label);
    print_point(&repl_history_catalogue(options->history)->points[options->point].point);
    print_target(target);
    if (result->resumed)
        printf("goes on   with an unfinished restore of this point, which left %s of %s\n", done,
               size);
    printf("writes    %s of data; the rest of what is not there yet is zeros\n", write);
    printf("fetches   %s%s, as it is stored%s\n", compared ? "at most " : "", fetch,
           compared ? ": what the target holds already is found out while restoring" : "");
    repl_words_duration((fetching > 0 ? fetching : 0) + (reading > 0 ? reading : 0), time);
    if (fetching < 0 && reading < 0)
        puts("takes     not known before");
    else
        printf("takes     %s%s: how fast the target is written is not known before\n", time,
               compared ? ", and writing" : " at least");
    print_part("fetch", fetching, limit > 0 ? limit : rate_of(&e->fetched),
               limit > 0 ? "--bandwidth" : "measured now");
    print_part("read back", reading, rate_of(&e->read), "measured now");
}

/* --- JSON ------------------------------------------------------------------------------------ */

json_t *repl_restore_json_head(const struct repl_history *history, const struct repl_origin *origin,
                               size_t point, const char *kind, bool dry_run, json_t *target)
{
    json_t *json = json_pack("{s:i, s:b, s:s, s:s, s:s, s:o, s:o}", "schema", 1, "dry_run", dry_run,
                             "volume", origin->volume, "kind", kind, "origin", origin->label,
                             "point", repl_look_point_json(history, point), "target", target);
    const char *cut = repl_words_cut(repl_history_catalogue(history)->points[point].point.cut);
    if (json == NULL ||
        json_object_set_new(json_object_get(json, "point"), "cut", json_string(cut)) == 0)
        return json;
    json_decref(json);
    return NULL;
}

static json_t *target_json(const struct repl_target *target)
{
    json_t *json =
        json_pack("{s:s, s:b, s:I}", "kind", target->is_device ? "device" : "file", "exists",
                  target->exists || target->is_device, "bytes", (json_int_t)target->size);
    bool ok =
        json != NULL && repl_path_json(json, "path", target->resolved, strlen(target->resolved));
    if (ok && target->is_device)
        ok = json_object_set_new(json, "model", json_string(target->model)) == 0 &&
             json_object_set_new(json, "serial", json_string(target->serial)) == 0 &&
             json_object_set_new(json, "holds", json_string(target->content)) == 0;
    if (ok)
        return json;
    json_decref(json);
    return NULL;
}

/* null for what is not known. */
static json_t *known(bool is, uint64_t value)
{
    return is ? json_integer((json_int_t)value) : json_null();
}

static json_t *plan_json(const struct repl_restore_result *result, uint64_t limit)
{
    const struct repl_restore_estimate *e = &result->estimate;
    int64_t fetching = fetch_ns(e, limit);
    int64_t reading = repl_restore_rate_ns(&e->read, result->volume_size);
    uint64_t fetch_rate = limit > 0 ? limit : rate_of(&e->fetched), read_rate = rate_of(&e->read);
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "resumed",
                     result->resumed, "volume_bytes", (json_int_t)result->volume_size, "data_bytes",
                     (json_int_t)e->data_bytes, "done_bytes", (json_int_t)e->done_bytes,
                     "write_bytes", (json_int_t)e->write_bytes, "fetch_bytes",
                     (json_int_t)e->fetch_bytes, "fetch_bytes_per_s",
                     known(fetch_rate > 0, fetch_rate), "fetch_rate_from",
                     fetch_rate == 0 ? json_null() : json_string(limit > 0 ? "limit" : "measured"),
                     "read_bytes_per_s", known(read_rate > 0, read_rate), "fetch_ns",
                     known(fetching >= 0, (uint64_t)fetching), "read_back_ns",
                     known(reading >= 0, (uint64_t)reading));
}

static json_t *result_json(const struct repl_restore_result *result, uint64_t fetched,
                           int64_t elapsed_ns)
{
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "resumed", result->resumed,
                     "volume_bytes", (json_int_t)result->volume_size, "data_bytes",
                     (json_int_t)result->data_bytes, "same_bytes", (json_int_t)result->same_bytes,
                     "verified_bytes", (json_int_t)result->verified_bytes, "rewritten_bytes",
                     (json_int_t)result->lost_bytes, "fetched_bytes", (json_int_t)fetched,
                     "elapsed_ns", (json_int_t)elapsed_ns);
}

repl_result repl_restore_print_json(const struct repl_restore_options *options,
                                    const struct repl_restore_result *result, uint64_t limit,
                                    int64_t elapsed_ns, struct repl_error *err)
{
    struct repl_origin *origin = repl_history_origin(options->history);
    json_t *json = repl_restore_json_head(options->history, origin, options->point, "block",
                                          options->dry_run, target_json(options->target));
    json_t *more = options->dry_run
                       ? plan_json(result, limit)
                       : result_json(result, atomic_load(&origin->fetched_bytes), elapsed_ns);
    bool ok = json != NULL && more != NULL && json_object_update(json, more) == 0 &&
              json_dumpf(json, stdout, JSON_COMPACT) == 0 && putchar('\n') != EOF;
    json_decref(more);
    json_decref(json);
    if (!ok)
        return repl_fail(err, REPL_E_NOMEM, "out of memory, or standard output is closed");
    return REPL_SUCCESS;
}
