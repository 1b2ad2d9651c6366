/*
 * repl restore: resolves the point and says which it is, makes sure that the
 * target is meant, and restores with a line of progress on a terminal.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "recover/restore.h"
#include "recover/source_guard.h"
#include "recover/when.h"
#include "recover/words.h"

#define PROGRESS_DIRECTORY "/var/lib/repl/restore"

static struct repl_origin_options restore_origin;
static const char *restore_at = "latest";
static const char *restore_to;
static const char *restore_state = PROGRESS_DIRECTORY;
static bool restore_yes, restore_overwrite, restore_onto_source;
static uint64_t restore_threads;

/* --- progress -------------------------------------------------------------------------------- */

static void print_progress(void *context, const struct repl_restore_status *status)
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

/* --- is it safe, is it meant ----------------------------------------------------------------- */

/* What this host's agent protects and its site keeps must not be overwritten by accident. */
static repl_result check_host(const struct repl_target *target, struct repl_error *err)
{
    const char *given = restore_origin.config;
    bool of_site = given != NULL && repl_config_is_of_site(given);
    bool of_agent = given != NULL && !of_site;
    if (!restore_onto_source)
        REPL_TRY(
            repl_source_guard(target, of_agent ? given : REPL_AGENT_CONFIG_PATH, of_agent, err));
    if (of_site)
        REPL_TRY(repl_replica_guard(target, given, err));
    return repl_replica_guard(target, REPL_SITE_CONFIG_PATH, err);
}

static void print_device(const struct repl_target *target, const struct repl_points_entry *point)
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

/* Asks for the device's own name, which nobody types by accident. */
static repl_result confirm(const struct repl_target *target, const struct repl_points_entry *point,
                           struct repl_error *err)
{
    char answer[PATH_MAX + 2];
    if (!target->is_device)
        return REPL_SUCCESS;
    print_device(target, point);
    if (restore_yes)
        return REPL_SUCCESS;
    fprintf(stderr, "To go on, type %s: ", target->resolved);
    if (fgets(answer, sizeof answer, stdin) == NULL)
        return repl_fail(err, REPL_E_REFUSED,
                         "no confirmation was given, and nothing written: a script gives --yes");
    answer[strcspn(answer, "\n")] = '\0';
    if (strcmp(answer, target->resolved) != 0)
        return repl_fail(err, REPL_E_REFUSED, "\"%.80s\" is not %s: nothing was written", answer,
                         target->resolved);
    return REPL_SUCCESS;
}

static repl_result check_target(const struct repl_target *target,
                                const struct repl_points_entry *point, struct repl_error *err)
{
    REPL_TRY(repl_target_check_unused(target, err));
    REPL_TRY(check_host(target, err));
    REPL_TRY(repl_store_guard(target, restore_origin.store, err));
    REPL_TRY(repl_restore_check_size(target, point->volume_size, err));
    return confirm(target, point, err);
}

/* --- doing it -------------------------------------------------------------------------------- */

static repl_result resolve(struct repl_history *history, const struct repl_when *when,
                           size_t *point, struct repl_error *err)
{
    const struct repl_catalogue *c = repl_history_catalogue(history);
    if (c->note[0] != '\0')
        fprintf(stderr, "repl restore: %s\n", c->note);
    REPL_TRY(repl_when_resolve_in(when, c, point, err));
    char *text = repl_when_describe(when, &c->points[*point]);
    if (text == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    fprintf(stderr, "%s", text);
    free(text);
    return REPL_SUCCESS;
}

static repl_result restore_to_target(struct repl_history *history, size_t point,
                                     struct repl_target *target, struct repl_error *err)
{
    char progress_path[PATH_MAX], size[REPL_WORDS_SIZE], data[REPL_WORDS_SIZE];
    const struct repl_points_entry *entry = &repl_history_catalogue(history)->points[point];
    struct repl_restore_result result;
    REPL_TRY(check_target(target, entry, err));
    REPL_TRY(repl_restore_progress_path(target, restore_state, progress_path, sizeof progress_path,
                                        err));
    if (repl_restore_is_resumable(progress_path) && !restore_overwrite)
        fprintf(stderr, "going on with an unfinished restore (%s)\n", progress_path);
    bool terminal = isatty(STDERR_FILENO);
    struct repl_restore_options options = {.history = history,
                                           .point = point,
                                           .target = target,
                                           .progress_path = progress_path,
                                           .overwrite = restore_overwrite,
                                           .threads = (unsigned)restore_threads,
                                           .interrupted = repl_interrupt_flag(),
                                           .status = terminal ? print_progress : NULL};
    repl_interrupt_catch();
    repl_result ran = repl_restore_run(&options, &result, err);
    if (terminal)
        fputc('\n', stderr);
    REPL_TRY(repl_restore_explain(ran, &result, &options, err));
    if (result.lost_bytes > 0) {
        repl_words_bytes(result.lost_bytes, data);
        fprintf(stderr,
                "%s of what an earlier run wrote was not on %s any more and has been written "
                "again: see what else writes to it\n",
                data, target->path);
    }
    repl_words_bytes(result.volume_size, size);
    repl_words_bytes(result.data_bytes, data);
    fprintf(stderr, "restored and verified: %s holds point %" PRIu64 ", %s (%s of data)\n",
            target->path, entry->point.seq, size, data);
    return REPL_SUCCESS;
}

static repl_result restore(const char *volume, struct repl_error *err)
{
    struct repl_when when;
    struct repl_origin *origin = NULL;
    struct repl_history *history = NULL;
    struct repl_target target = {.fd = -1, .direct_fd = -1};
    struct timespec now;
    size_t point = 0;
    clock_gettime(CLOCK_REALTIME, &now);
    REPL_TRY(repl_forward(
        repl_when_parse(restore_at, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, &when, err),
        err, "--at"));
    if (restore_to == NULL)
        return repl_fail(err, REPL_E_USAGE, "--to is missing: name a block device or a new file");
    if (restore_threads > 64)
        return repl_fail(err, REPL_E_USAGE, "--threads: at most 64");
    REPL_TRY(repl_origin_open(&restore_origin, volume, &origin, err));
    REPL_TRY(repl_history_open(origin, &history, err));
    repl_result result = resolve(history, &when, &point, err);
    if (repl_ok(result))
        result = repl_target_examine(restore_to, &target, err);
    if (repl_ok(result))
        result = restore_to_target(history, point, &target, err);
    repl_target_fini(&target);
    repl_history_close(history);
    return result;
}

static int restore_run(int argc, char **argv)
{
    struct repl_error err;
    (void)argc;
    if (!repl_ok(restore(argv[0], &err)))
        return repl_verb_fail("restore", &err);
    return REPL_EXIT_OK;
}

static const struct repl_option restore_options[] = {
    {"at", "WHEN", REPL_OPTION_TEXT, &restore_at,
     "Which point: its number, or a time, for which the newest point that was complete by then is "
     "taken. A time is \"10 min ago\", \"yesterday 17:00\", \"2026-05-04 13:37:00\" (local time) "
     "or 2026-05-04T13:37:00Z. Without --at it is the latest point."},
    {"to", "DEVICE|FILE", REPL_OPTION_TEXT, &restore_to,
     "Where to: a block device, or a regular file, which is made (sparse)."},
    {"yes", NULL, REPL_OPTION_FLAG, &restore_yes,
     "Does not ask before a device is overwritten: for scripts."},
    {"overwrite", NULL, REPL_OPTION_FLAG, &restore_overwrite,
     "Replaces a file that exists, and gives up an unfinished restore to the same target."},
    {"onto-source", NULL, REPL_OPTION_FLAG, &restore_onto_source,
     "Allows a device that this host's agent is configured to protect. Stop the agent first."},
    {"threads", "N", REPL_OPTION_COUNT, &restore_threads,
     "How many threads; without it one for each processor, two at least."},
    {"state", "DIR", REPL_OPTION_TEXT, &restore_state,
     "Where the progress of a restore to a device is remembered; /var/lib/repl/restore without "
     "it. That of a restore to FILE lies beside it, in FILE.repl-restore."},
    REPL_ORIGIN_OPTION_ROWS(restore_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_restore = {
    .name = "restore",
    .synopsis = "VOLUME [--at WHEN] --to DEVICE|FILE",
    .summary = "Writes a volume as it was at a point to a device or file, and verifies it.",
    .description =
        "The point that is meant is shown first, with its time, how it was cut and what that "
        "guarantees. A device that is mounted, in use, too small, protected by this host or a "
        "replica of its site is refused; before any other is overwritten, its name has to be "
        "typed.\n"
        "\n"
        "All that was written is read back and compared. A restore that was interrupted, by a "
        "signal, a crash or a lost link, goes on where it ended when the same command is given "
        "again. Name the point by its number then: \"latest\" may have moved on.\n"
        "\n"
        "The history comes from the site that the configuration names, or from a store directory "
        "(--store), for which no site has to run.",
    .options = restore_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = restore_run,
};
