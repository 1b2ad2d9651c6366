/*
 * repl status: how the volumes fare, on either side, worst first.
 *
 * What is printed for people says for each volume that is not well why, and
 * what to do. --json prints the answer of the service as it came.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "config/config.h"
#include "control/control.h"
#include "control/status.h"

#define AGENT_SOCKET "/run/repl/agent.sock"
#define SITE_SOCKET  "/run/repl/site.sock"
#define WATCH_S      2
#define PATH_SIZE    512

static const char *status_config_path;
static const char *status_socket;
static bool status_json;
static bool status_watch;

/* --- whom to ask ----------------------------------------------------------------------------- */

static repl_result config_socket(const char *path, char socket[PATH_SIZE], struct repl_error *err)
{
    struct repl_config *config;
    REPL_TRY(repl_config_load_either(path, &config, err));
    snprintf(socket, PATH_SIZE, "%s", config->control);
    repl_config_free(config);
    return REPL_SUCCESS;
}

/* The socket of a role on this host: as its configuration has it, if there is one. */
static void default_socket(const char *config_path, const char *fallback, char socket[PATH_SIZE])
{
    struct repl_error err;
    if (access(config_path, R_OK) != 0 || !repl_ok(config_socket(config_path, socket, &err)))
        snprintf(socket, PATH_SIZE, "%s", fallback);
}

static repl_result ask_somebody(json_t **answer, struct repl_error *err)
{
    char agent[PATH_SIZE], site[PATH_SIZE];
    struct repl_error site_err;
    default_socket(REPL_AGENT_CONFIG_PATH, AGENT_SOCKET, agent);
    default_socket(REPL_SITE_CONFIG_PATH, SITE_SOCKET, site);
    repl_result result = repl_control_ask(agent, "status", answer, err);
    if (result.code != REPL_E_RETRY)
        return result;
    result = repl_control_ask(site, "status", answer, &site_err);
    if (repl_ok(result))
        return result;
    if (result.code != REPL_E_RETRY) {
        *err = site_err;
        return result;
    }
    return repl_fail(err, REPL_E_RETRY,
                     "neither an agent nor a site answers here (%s, %s): start one, or name its "
                     "socket with --socket",
                     agent, site);
}

static repl_result ask(json_t **answer, struct repl_error *err)
{
    char socket[PATH_SIZE];
    if (status_socket != NULL)
        return repl_control_ask(status_socket, "status", answer, err);
    if (status_config_path == NULL)
        return ask_somebody(answer, err);
    REPL_TRY(config_socket(status_config_path, socket, err));
    return repl_control_ask(socket, "status", answer, err);
}

/* --- values for people ----------------------------------------------------------------------- */

#define CELL_SIZE               40
#define REPLICA_BEHIND_SHOWN_MS 10000

static void size_format(uint64_t bytes, char cell[CELL_SIZE])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    snprintf(cell, CELL_SIZE, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value,
             units[unit]);
}

static void duration_format(int64_t ms, char cell[CELL_SIZE])
{
    int64_t s = ms / 1000;
    if (ms < 0)
        snprintf(cell, CELL_SIZE, "-");
    else if (ms < 60000)
        snprintf(cell, CELL_SIZE, "%.1f s", (double)ms / 1000);
    else if (s < 3600)
        snprintf(cell, CELL_SIZE, "%" PRId64 " min %" PRId64 " s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(cell, CELL_SIZE, "%" PRId64 " h %" PRId64 " min", s / 3600, s / 60 % 60);
    else
        snprintf(cell, CELL_SIZE, "%" PRId64 " d %" PRId64 " h", s / 86400, s / 3600 % 24);
}

static void time_format(int64_t time_ns, char cell[CELL_SIZE])
{
    time_t seconds = (time_t)(time_ns / 1000000000);
    struct tm parts;
    localtime_r(&seconds, &parts);
    strftime(cell, CELL_SIZE, "%Y-%m-%d %H:%M:%S", &parts);
}

/* --- the table ------------------------------------------------------------------------------- */

static bool is_late(const struct repl_volume_status *volume)
{
    return volume->rpo_ms > 0 && volume->lag_ms > volume->rpo_ms;
}

static bool is_well(const struct repl_volume_status *volume)
{
    return volume->state <= REPL_STATE_IDLE && !is_late(volume) && volume->clock_ahead_ms == 0 &&
           volume->trouble[0] == '\0';
}

static int worst_first(const void *a, const void *b)
{
    const struct repl_volume_status *x = a, *y = b;
    if (x->state != y->state)
        return repl_state_rank(x->state) > repl_state_rank(y->state) ? -1 : 1;
    if (is_late(x) != is_late(y))
        return is_late(x) ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* What the cause leaves out, as there is something worse to say. */
static void print_problem(const struct repl_volume_status *volume, const char *what,
                          const char *problem)
{
    if (problem[0] != '\0' && strstr(volume->cause, what) == NULL)
        printf("    besides: %s: %s\n", what, problem);
}

static void print_replica(const struct repl_volume_status *volume)
{
    char behind[CELL_SIZE];
    if (!volume->replica_on) {
        printf("    replica: none\n");
        return;
    }
    printf("    replica: %s%s, ", volume->device, volume->tree ? " (directory)" : "");
    if (!volume->replica_applying)
        printf("at point %" PRIu64, volume->replica_seq);
    else
        printf("being brought forward%s",
               volume->replica_seq == 0 ? "; it has not reached a point yet" : "");
    if (volume->replica_behind_ms >= REPLICA_BEHIND_SHOWN_MS) {
        duration_format(volume->replica_behind_ms, behind);
        printf(", behind for %s", behind);
    }
    printf("\n");
}

static void print_stored(uint64_t stored_bytes, uint64_t limit_bytes)
{
    char stored[CELL_SIZE], limit[CELL_SIZE];
    size_format(stored_bytes, stored);
    size_format(limit_bytes, limit);
    printf("stored:  %s%s%s", stored, limit_bytes > 0 ? " of " : "", limit_bytes > 0 ? limit : "");
}

static void print_scrub(const struct repl_volume_status *volume)
{
    char age[CELL_SIZE];
    if (volume->damaged[0] != '\0')
        printf("    damaged: %s\n", volume->damaged);
    if (volume->unverified_ms <= 0) /* 0: of a site that does not say */
        return;
    duration_format(volume->unverified_ms, age);
    printf("    store:   all of it was verified within %s\n", age);
}

static void print_notes(const struct repl_status *status, const struct repl_volume_status *volume)
{
    char done[CELL_SIZE], total[CELL_SIZE], time[CELL_SIZE];
    if (volume->cause[0] != '\0')
        printf("    cause:   %s\n", volume->cause);
    if (volume->remedy[0] != '\0')
        printf("    remedy:  %s\n", volume->remedy);
    if (is_late(volume))
        printf("    late:    what could be restored is older than the volume's rpo allows\n");
    if (volume->total_bytes > 0) {
        size_format(volume->done_bytes, done);
        size_format(volume->total_bytes, total);
        printf("    copied:  %s of %s (%.0f %%)\n", done, total,
               100.0 * (double)volume->done_bytes / (double)volume->total_bytes);
    }
    if (volume->unstable_files > 0)
        printf("    files:   %" PRIu64
               " in the last point changed whenever they were read, and are "
               "as they were read last\n",
               volume->unstable_files);
    if (volume->backlog_bytes > 0 && volume->catch_up_ms >= 0) {
        duration_format(volume->catch_up_ms, time);
        printf("    backlog: gone in about %s\n", time);
    }
    if (status->site) {
        print_problem(volume, "the replica cannot follow", volume->replica_problem);
        print_problem(volume, "the index is not complete", volume->index_problem);
        print_replica(volume);
        printf("    ");
        print_stored(volume->stored_bytes, volume->space_limit_bytes);
        printf("\n");
        print_scrub(volume);
    } else if (volume->untracked[0] != '\0') {
        printf("    slow:    changes are not tracked, each round looks at all of it: %s\n",
               volume->untracked);
    }
}

static void print_volume(const struct repl_status *status, const struct repl_volume_status *volume,
                         int name_width)
{
    char lag[CELL_SIZE], rpo[CELL_SIZE], point[CELL_SIZE] = "none", size[CELL_SIZE],
                                         backlog[CELL_SIZE];
    duration_format(volume->lag_ms, lag);
    duration_format(volume->rpo_ms > 0 ? volume->rpo_ms : -1, rpo);
    size_format(volume->size, size);
    size_format(volume->backlog_bytes, backlog);
    if (volume->point.seq != 0)
        snprintf(point, sizeof point, "time not known");
    if (volume->point.end_ns != 0)
        time_format(volume->point.end_ns, point);
    printf("%-*s  %-9s  %-11s  %-11s  %-19s  %-9s  %s\n", name_width, volume->name,
           repl_state_name(volume->state), lag, rpo, point, size, backlog);
    print_notes(status, volume);
}

static void print_space(const struct repl_status *status)
{
    char left[CELL_SIZE], reserve[CELL_SIZE];
    size_format(status->free_bytes, left);
    size_format(status->space_reserve_bytes, reserve);
    print_stored(status->stored_bytes, status->space_limit_bytes);
    printf("; %s free, of which %s stay so\n", left, reserve);
}

static void print_host(const struct repl_status *status)
{
    char now[CELL_SIZE], bandwidth[CELL_SIZE];
    time_format(status->time_ns, now);
    printf("%s %s, repl %s (%s), %s\n", status->site ? "site" : "agent", status->name,
           status->version, status->io, now);
    if (status->bandwidth_bytes_per_s > 0) {
        size_format(status->bandwidth_bytes_per_s, bandwidth);
        printf("bandwidth: %s a second at most\n", bandwidth);
    }
    if (status->site)
        print_space(status);
    if (status->clock_doubt[0] != '\0')
        printf("retention: %s\n", status->clock_doubt);
    if (status->store_warning[0] != '\0')
        printf("store: %s\n", status->store_warning);
    if (status->compression_level > 1)
        printf("compression: level %" PRIu64 "\n", status->compression_level);
    printf("\n");
}

static void print_status(struct repl_status *status)
{
    int name_width = 6;
    print_host(status);
    if (status->volume_count == 0) {
        printf("No volumes.\n");
        return;
    }
    qsort(status->volumes, status->volume_count, sizeof *status->volumes, worst_first);
    for (size_t i = 0; i < status->volume_count; i++) {
        int width = (int)strlen(status->volumes[i].name);
        name_width = width > name_width ? width : name_width;
    }
    printf("%-*s  %-9s  %-11s  %-11s  %-19s  %-9s  %s\n", name_width, "VOLUME", "STATE", "AGE",
           "RPO", "LAST POINT", "SIZE", "BACKLOG");
    for (size_t i = 0; i < status->volume_count; i++)
        print_volume(status, &status->volumes[i], name_width);
}

static int status_exit(const struct repl_status *status)
{
    for (size_t i = 0; i < status->volume_count; i++) {
        if (!is_well(&status->volumes[i]))
            return REPL_EXIT_WARNING;
    }
    return REPL_EXIT_OK;
}

/* --- the verb -------------------------------------------------------------------------------- */

static repl_result show(int *exit_code, struct repl_error *err)
{
    struct repl_status status;
    json_t *answer;
    REPL_TRY(ask(&answer, err));
    repl_result result = repl_status_from_json(answer, &status, err);
    if (repl_ok(result) && status_watch && !status_json && isatty(STDOUT_FILENO))
        fputs("\033[H\033[2J", stdout);
    if (repl_ok(result) && status_json) {
        json_dumpf(answer, stdout, status_watch ? JSON_COMPACT : JSON_INDENT(2));
        putchar('\n');
    } else if (repl_ok(result)) {
        print_status(&status);
    }
    json_decref(answer);
    if (!repl_ok(result))
        return result;
    *exit_code = status_exit(&status);
    repl_status_fini(&status);
    return REPL_SUCCESS;
}

/* Until somebody has seen enough. A service that is being restarted is waited for. */
static int watch(void)
{
    for (;;) {
        struct repl_error err;
        int exit_code;
        repl_result result = show(&exit_code, &err);
        if (!repl_ok(result) && result.code != REPL_E_RETRY)
            return repl_verb_fail("status", &err);
        if (!repl_ok(result))
            fprintf(stderr, "repl status: %s\n", err.text);
        if (fflush(stdout) != 0)
            return REPL_EXIT_OK; /* the reader went away */
        sleep(WATCH_S);
    }
}

static int status_run(int argc, char **argv)
{
    (void)argc, (void)argv;
    struct repl_error err;
    int exit_code;
    if (status_config_path != NULL && status_socket != NULL) {
        repl_ignore(repl_fail(&err, REPL_E_USAGE,
                              "--config and --socket both say whom to ask: remove one"));
        return repl_verb_fail("status", &err);
    }
    if (status_watch)
        return watch();
    if (!repl_ok(show(&exit_code, &err)))
        return repl_verb_fail("status", &err);
    return exit_code;
}

static const struct repl_option status_options[] = {
    {"json", NULL, REPL_OPTION_FLAG, &status_json,
     "Prints JSON instead of a table; docs/formats/status.md explains it. With --watch, one line a "
     "look."},
    {"watch", NULL, REPL_OPTION_FLAG, &status_watch, "Looks again every 2 seconds, until ended."},
    {"config", "FILE", REPL_OPTION_TEXT, &status_config_path,
     "Asks the service with this configuration."},
    {"socket", "PATH", REPL_OPTION_TEXT, &status_socket,
     "Asks the service with this control socket."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_status = {
    .name = "status",
    .synopsis = "[--json] [--watch] [--config FILE | --socket PATH]",
    .summary = "Shows how the volumes fare, on a host or at a site.",
    .description =
        "Asks the agent that runs on this host, or else the site. The worst volume comes first; a "
        "volume that is not well is followed by the cause and by what to do. AGE is the age of "
        "what the site could restore now.\n"
        "\n"
        "The exit code is 0 if every volume is ok or idle and within its rpo, 1 if one is not "
        "(a first copy that is still under way counts as not), 2 if no service answers.",
    .options = status_options,
    .run = status_run,
};
