/*
 * repl restore: resolves the point and says which it is, makes sure that the
 * target is meant, and restores with a line of progress on a terminal. Whether
 * the volume is a block device or a tree, its segments say.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/look.h"
#include "cli/path_words.h"
#include "cli/restore_words.h"
#include "cli/tree_words.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "recover/common_point.h"
#include "recover/restore.h"
#include "recover/restore_progress.h"
#include "recover/source_guard.h"
#include "recover/tree_restore.h"
#include "recover/words.h"

#define PROGRESS_DIRECTORY "/var/lib/repl/restore"

static struct repl_origin_options restore_origin;
static const char *restore_at;
static const char *restore_to;
static const char *restore_state;
static const char *restore_bandwidth;
static bool restore_yes, restore_overwrite, restore_onto_source, restore_whole;
static bool restore_dry_run, restore_json;
static struct repl_pace_plan restore_pace; /* of --bandwidth */
static uint64_t restore_again_seq;         /* of several volumes: the first one's point */
static uint64_t restore_threads;
/* Of trees only: */
static const char *restore_path, *restore_owner;
static bool restore_delete;
static bool restore_lacking; /* the target could not hold all of the metadata */

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

/* Asks for the device's own name, which nobody types by accident. */
static repl_result confirm(const struct repl_target *target, const struct repl_points_entry *point,
                           struct repl_error *err)
{
    char answer[PATH_MAX + 2];
    if (!target->is_device || restore_dry_run)
        return REPL_SUCCESS;
    repl_restore_print_device(target, point);
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
    return repl_target_try_open(target, err); /* before anybody is asked */
}

/* --- doing it -------------------------------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static repl_result run_and_print(const struct repl_restore_options *options, struct repl_error *err)
{
    struct repl_restore_result result;
    uint64_t limit = repl_bandwidth_now(&restore_pace);
    int64_t begin_ns = now_ns();
    repl_interrupt_catch();
    repl_result ran = repl_restore_run(options, &result, err);
    if (options->status != NULL)
        fputc('\n', stderr);
    REPL_TRY(repl_restore_explain(ran, &result, options, err));
    if (!restore_dry_run)
        repl_restore_print_result(options, &result);
    else if (!restore_json)
        repl_restore_print_plan(options, &result, limit);
    if (restore_json)
        REPL_TRY(repl_restore_print_json(options, &result, limit, now_ns() - begin_ns, err));
    return repl_output_end(err);
}

/* Of a target that has been checked, and is meant. */
static repl_result restore_to_target(struct repl_history *history, size_t point,
                                     struct repl_target *target, struct repl_error *err)
{
    char progress_path[PATH_MAX];
    if (target->is_device && !restore_dry_run)
        REPL_TRY(repl_restore_state_make(restore_state, err));
    REPL_TRY(repl_restore_progress_path(target, restore_state, progress_path, sizeof progress_path,
                                        err));
    if (repl_restore_is_resumable(progress_path) && !restore_overwrite && !restore_dry_run)
        fprintf(stderr, "going on with an unfinished restore (%s)\n", progress_path);
    bool animated = isatty(STDERR_FILENO) && !restore_dry_run;
    const struct repl_restore_options options = {.history = history,
                                                 .point = point,
                                                 .target = target,
                                                 .progress_path = progress_path,
                                                 .overwrite = restore_overwrite,
                                                 .whole = restore_whole,
                                                 .dry_run = restore_dry_run,
                                                 .estimate = true,
                                                 .again_seq = restore_again_seq,
                                                 .threads = (unsigned)restore_threads,
                                                 .interrupted = repl_interrupt_flag(),
                                                 .status =
                                                     animated ? repl_restore_print_progress : NULL};
    return run_and_print(&options, err);
}

/* --- trees ----------------------------------------------------------------------------------- */

static uint64_t json_changes; /* printed */
static bool json_failed;

static void print_json_change(const char *change, const char *path)
{
    json_t *json = json_pack("{s:s, s:s}", "change", change, "path", path);
    printf("%s\n  ", json_changes++ > 0 ? "," : "");
    if (json == NULL || json_dumpf(json, stdout, JSON_COMPACT) != 0)
        json_failed = true;
    json_decref(json);
}

static void print_tree_change(void *context, enum repl_tree_change change, const char *path)
{
    static const char *const words[] = {"make", "change", "metadata", "remove"};
    (void)context;
    if (restore_json)
        print_json_change(words[change], path);
    else
        printf("%-8s %s\n", words[change], path);
}

static repl_result check_tree_target(struct repl_error *err)
{
    const char *given = restore_origin.config, *store = restore_origin.store;
    bool of_agent = given != NULL && !repl_config_is_of_site(given);
    if (!restore_onto_source)
        REPL_TRY(repl_directory_source_guard(restore_to, of_agent ? given : REPL_AGENT_CONFIG_PATH,
                                             of_agent, err));
    if (store != NULL)
        REPL_TRY(repl_directory_guard(restore_to, &store, 1, "the store itself",
                                      "restore somewhere else", err));
    if (given != NULL && !of_agent)
        REPL_TRY(repl_directory_site_guard(restore_to, given, err));
    return repl_directory_site_guard(restore_to, REPL_SITE_CONFIG_PATH, err);
}

static void print_tree_result(const struct repl_tree_result *result, uint64_t seq)
{
    char data[REPL_WORDS_SIZE];
    repl_words_bytes(result->data_bytes, data);
    if (restore_dry_run)
        fprintf(stderr,
                "nothing was changed: %" PRIu64 " would be made, %" PRIu64 " changed, %" PRIu64
                " given other metadata, %" PRIu64 " removed; %" PRIu64 " files are equal\n",
                result->changes[REPL_TREE_MAKE], result->changes[REPL_TREE_CONTENT],
                result->changes[REPL_TREE_METADATA], result->changes[REPL_TREE_REMOVE],
                result->equal);
    else
        fprintf(stderr,
                "restored and verified: %s holds point %" PRIu64 ": %" PRIu64 " files, %" PRIu64
                " directories, %s of data, %" PRIu64 " equal already\n",
                restore_to, seq, result->files, result->directories, data, result->equal);
}

static repl_result tree_json_begin(struct repl_history *history, size_t point,
                                   struct repl_error *err)
{
    json_t *target = json_pack("{s:s}", "kind", "directory");
    if (target != NULL && !repl_path_json(target, "path", restore_to, strlen(restore_to))) {
        json_decref(target);
        target = NULL;
    }
    json_t *head = repl_restore_json_head(history, repl_history_origin(history), point, "tree",
                                          restore_dry_run, target);
    const char *path = restore_path != NULL ? restore_path : "";
    if (head != NULL && !repl_path_json(head, "path", path, strlen(path))) {
        json_decref(head);
        head = NULL;
    }
    json_changes = 0;
    json_failed = false;
    return repl_look_json_begin(head, "changes", err);
}

static repl_result tree_json_end(const struct repl_tree_result *result, struct repl_error *err)
{
    printf("%s],\"made\":%" PRIu64 ",\"changed\":%" PRIu64 ",\"metadata\":%" PRIu64
           ",\"removed\":%" PRIu64 ",\"equal\":%" PRIu64 ",\"files\":%" PRIu64
           ",\"directories\":%" PRIu64 ",\"data_bytes\":%" PRIu64 ",\"lacking\":%s}\n",
           json_changes > 0 ? "\n" : "", result->changes[REPL_TREE_MAKE],
           result->changes[REPL_TREE_CONTENT], result->changes[REPL_TREE_METADATA],
           result->changes[REPL_TREE_REMOVE], result->equal, result->files, result->directories,
           result->data_bytes, restore_lacking ? "true" : "false");
    return json_failed ? repl_fail(err, REPL_E_NOMEM, "out of memory, or standard output is closed")
                       : REPL_SUCCESS;
}

static repl_result restore_tree(struct repl_history *history, size_t point, struct repl_error *err)
{
    struct repl_tree_result result;
    bool terminal = isatty(STDERR_FILENO);
    struct repl_tree_options options = {.history = history,
                                        .point = point,
                                        .to = restore_to,
                                        .path = restore_path != NULL ? restore_path : "",
                                        .state = restore_state,
                                        .overwrite = restore_overwrite,
                                        .exact = restore_delete,
                                        .dry_run = restore_dry_run,
                                        .threads = (unsigned)restore_threads,
                                        .interrupted = repl_interrupt_flag(),
                                        .status = terminal ? repl_tree_print_progress : NULL,
                                        .change = print_tree_change,
                                        .fault = repl_tree_print_fault,
                                        .context = (void *)(uintptr_t) "restore"};
    REPL_TRY(repl_tree_owner_parse(restore_owner, &options, err));
    REPL_TRY(check_tree_target(err));
    if (restore_json)
        REPL_TRY(tree_json_begin(history, point, err));
    repl_interrupt_catch();
    repl_result ran = repl_tree_restore(&options, &result, err);
    if (terminal)
        fputc('\n', stderr);
    restore_lacking = repl_tree_print_lacks("restore", &result);
    REPL_TRY(ran);
    if (restore_json)
        REPL_TRY(tree_json_end(&result, err));
    print_tree_result(&result, repl_history_catalogue(history)->points[point].point.seq);
    return repl_output_end(err);
}

/* --- either of them -------------------------------------------------------------------------- */

static repl_result check_block_options(struct repl_history *history, struct repl_error *err)
{
    if (restore_path != NULL || restore_owner != NULL || restore_delete)
        return repl_fail(err, REPL_E_USAGE,
                         "--path, --owner and --delete are for directory trees, and %s "
                         "is a block volume",
                         repl_history_origin(history)->volume);
    return REPL_SUCCESS;
}

static repl_result restore_block(struct repl_history *history, size_t point, struct repl_error *err)
{
    struct repl_target target = {.fd = -1, .direct_fd = -1};
    const struct repl_points_entry *entry = &repl_history_catalogue(history)->points[point];
    REPL_TRY(check_block_options(history, err));
    repl_result result = repl_target_examine(restore_to, &target, err);
    if (repl_ok(result))
        result = check_target(&target, entry, err);
    if (repl_ok(result))
        result = confirm(&target, entry, err);
    if (repl_ok(result))
        result = restore_to_target(history, point, &target, err);
    repl_target_fini(&target);
    return result;
}

static repl_result throttle_make(struct repl_error *err)
{
    restore_pace = (struct repl_pace_plan){0};
    if (restore_bandwidth == NULL)
        return REPL_SUCCESS;
    REPL_TRY(repl_forward(repl_parse_bandwidth(restore_bandwidth, &restore_pace, err), err,
                          "--bandwidth"));
    if (restore_pace.bytes_per_s == 0 && restore_pace.count == 0)
        return REPL_SUCCESS;
    return repl_throttle_new(&restore_pace, NULL, &restore_origin.throttle, err);
}

static repl_result restore_one(const char *volume, struct repl_error *err)
{
    struct repl_history *history = NULL;
    size_t point = 0;
    enum repl_volume_kind kind = REPL_VOLUME_BLOCK;
    if (restore_to == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "--to is missing: name a block device or a new file, or for a "
                         "directory tree a directory");
    REPL_TRY(repl_look_open("restore", &restore_origin, volume, &history, err));
    repl_result result = repl_look_point(history, "--at", restore_at, &point, err);
    if (repl_ok(result))
        result = repl_look_kind(history, point, &kind, err);
    if (repl_ok(result))
        result = kind == REPL_VOLUME_TREE ? restore_tree(history, point, err)
                                          : restore_block(history, point, err);
    repl_history_close(history);
    return result;
}

/* --- several volumes, as of one point -------------------------------------------------------- */

struct member {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    const char *to;
    struct repl_history *history;
    size_t point;
    enum repl_volume_kind kind;
    struct repl_target target; /* of a block volume */
};

static repl_result member_open(struct member *m, const char *word, struct repl_error *err)
{
    const char *sign = strchr(word, '=');
    if (sign == NULL || sign[1] == '\0')
        return repl_fail(err, REPL_E_USAGE,
                         "%s: of several volumes each is given with its target, VOLUME=TARGET",
                         word);
    if ((size_t)(sign - word) > REPL_VOLUME_NAME_SIZE)
        return repl_fail(err, REPL_E_USAGE, "%s: the volume's name is too long", word);
    memcpy(m->volume, word, (size_t)(sign - word));
    m->to = sign + 1;
    return repl_look_open("restore", &restore_origin, m->volume, &m->history, err);
}

/* The point that all have in common, said of each on standard error. */
static repl_result members_point(struct member *members, size_t count, struct repl_error *err)
{
    struct repl_common_volume volumes[REPL_COMMON_VOLUMES_MAX];
    struct repl_when when;
    struct timespec now;
    for (size_t i = 0; i < count; i++)
        volumes[i] = (struct repl_common_volume){
            .name = members[i].volume, .catalogue = repl_history_catalogue(members[i].history)};
    clock_gettime(CLOCK_REALTIME, &now);
    REPL_TRY(repl_forward(
        repl_when_parse(restore_at, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, &when, err),
        err, "--at"));
    REPL_TRY(repl_forward(repl_common_point_find(&when, volumes, count, err), err, "--at"));
    for (size_t i = 0; i < count; i++) {
        const struct repl_points_entry *entry = &volumes[i].catalogue->points[volumes[i].point];
        char *text = repl_when_describe(&when, entry);
        if (text == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory");
        fprintf(stderr, "%s: %s", members[i].volume, text);
        free(text);
        members[i].point = volumes[i].point;
        REPL_TRY(repl_look_kind(members[i].history, members[i].point, &members[i].kind, err));
    }
    restore_again_seq = volumes[0].catalogue->points[volumes[0].point].point.seq;
    return REPL_SUCCESS;
}

/* All that can be known of it without writing. */
static repl_result member_check(struct member *m, struct repl_error *err)
{
    char progress_path[PATH_MAX];
    struct repl_restore_result result;
    restore_to = m->to;
    if (m->kind == REPL_VOLUME_TREE)
        return check_tree_target(err);
    REPL_TRY(check_block_options(m->history, err));
    REPL_TRY(repl_target_examine(m->to, &m->target, err));
    REPL_TRY(check_target(&m->target, &repl_history_catalogue(m->history)->points[m->point], err));
    REPL_TRY(repl_restore_progress_path(&m->target, restore_state, progress_path,
                                        sizeof progress_path, err));
    const struct repl_restore_options options = {.history = m->history,
                                                 .point = m->point,
                                                 .target = &m->target,
                                                 .progress_path = progress_path,
                                                 .overwrite = restore_overwrite,
                                                 .whole = restore_whole,
                                                 .dry_run = true};
    return repl_restore_run(&options, &result, err);
}

/* Two that would overwrite each other. */
static bool members_collide(const struct member *a, const struct member *b)
{
    bool block = a->kind == REPL_VOLUME_BLOCK && b->kind == REPL_VOLUME_BLOCK;
    return strcmp(a->to, b->to) == 0 || strcmp(a->volume, b->volume) == 0 ||
           (block && repl_target_overlaps(&a->target, b->to));
}

static repl_result members_check(struct member *members, size_t count, struct repl_error *err)
{
    for (size_t i = 0; i < count; i++) {
        REPL_TRY(repl_forward(member_check(&members[i], err), err, "%s: nothing was written",
                              members[i].volume));
        for (size_t j = 0; j < i; j++) {
            if (members_collide(&members[i], &members[j]))
                return repl_fail(err, REPL_E_USAGE,
                                 "%s=%s and %s=%s: each volume is given once, and goes to a target "
                                 "of its own; nothing was written",
                                 members[j].volume, members[j].to, members[i].volume,
                                 members[i].to);
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (members[i].kind == REPL_VOLUME_BLOCK)
            REPL_TRY(confirm(&members[i].target,
                             &repl_history_catalogue(members[i].history)->points[members[i].point],
                             err));
    }
    return REPL_SUCCESS;
}

static int member_restore(struct member *m)
{
    struct repl_error err;
    restore_to = m->to;
    repl_result result = m->kind == REPL_VOLUME_TREE
                             ? restore_tree(m->history, m->point, &err)
                             : restore_to_target(m->history, m->point, &m->target, &err);
    if (repl_ok(result))
        return restore_lacking ? REPL_EXIT_WARNING : REPL_EXIT_OK;
    repl_ignore(repl_forward(result, &err, "%s", m->volume));
    return repl_verb_fail("restore", &err);
}

/* One after the other. What fails leaves the next ones to be tried, but for an interruption. */
static int members_restore(struct member *members, size_t count)
{
    size_t done = 0;
    int worst = REPL_EXIT_OK;
    for (size_t i = 0; i < count && !atomic_load(repl_interrupt_flag()); i++) {
        int code = member_restore(&members[i]);
        done += code <= REPL_EXIT_WARNING;
        worst = code > worst ? code : worst;
    }
    fprintf(stderr, "%zu of %zu volumes %s, as of one point\n", done, count,
            restore_dry_run ? "can be restored" : "are restored and verified");
    if (done < count && worst <= REPL_EXIT_WARNING) /* interrupted between two */
        return REPL_EXIT_RETRY;
    return worst;
}

static int restore_several(char **words, size_t count)
{
    struct member members[REPL_COMMON_VOLUMES_MAX] = {{.to = NULL}};
    struct repl_error err;
    repl_result result = REPL_SUCCESS;
    if (restore_to != NULL || restore_path != NULL)
        result = repl_fail(&err, REPL_E_USAGE, "--to and --path are for one volume alone");
    for (size_t i = 0; i < count; i++) {
        members[i].target.fd = members[i].target.direct_fd = -1;
        if (repl_ok(result))
            result = member_open(&members[i], words[i], &err);
    }
    if (repl_ok(result))
        result = members_point(members, count, &err);
    if (repl_ok(result))
        result = members_check(members, count, &err);
    int code = repl_ok(result) ? members_restore(members, count) : repl_verb_fail("restore", &err);
    for (size_t i = 0; i < count; i++) {
        repl_target_fini(&members[i].target);
        repl_history_close(members[i].history);
    }
    return code;
}

/* --- the verb -------------------------------------------------------------------------------- */

static int restore_any(int argc, char **argv)
{
    struct repl_error err;
    repl_result result = throttle_make(&err);
    if (repl_ok(result) && restore_threads > 64)
        result = repl_fail(&err, REPL_E_USAGE, "--threads: at most 64");
    if (repl_ok(result) && (argc > 1 || strchr(argv[0], '=') != NULL))
        return restore_several(argv, (size_t)argc);
    if (repl_ok(result))
        result = restore_one(argv[0], &err);
    if (!repl_ok(result))
        return repl_verb_fail("restore", &err);
    return restore_lacking ? REPL_EXIT_WARNING : REPL_EXIT_OK;
}

static int restore_run(int argc, char **argv)
{
    if (restore_at == NULL)
        restore_at = "latest";
    if (restore_state == NULL)
        restore_state = PROGRESS_DIRECTORY;
    restore_again_seq = 0;
    restore_lacking = false;
    int code = restore_any(argc, argv);
    repl_throttle_free(restore_origin.throttle);
    restore_origin.throttle = NULL;
    return code;
}

static const struct repl_option restore_options[] = {
    {"at", "WHEN", REPL_OPTION_TEXT, &restore_at,
     "Which point: its number, its name, \"before \" and a name, or a time, for which the newest "
     "point that was complete by then is taken. A time is \"10 min ago\", \"yesterday 17:00\", "
     "\"monday 09:30\" or \"17:00\" (the last that has been), \"2026-05-04 13:37:00\" (local time, "
     "that of TZ) or 2026-05-04T13:37:00Z. \"before trouble\" is the last point before what looks "
     "like trouble (\"repl points\"), \"before encryption\" the last before what looks like that. "
     "What can mean two points is refused. Without --at it is the latest point."},
    {"to", "DEVICE|FILE|DIR", REPL_OPTION_TEXT, &restore_to,
     "Where to: a block device, or a regular file, which is made (sparse). For a volume that is a "
     "directory tree, a directory, which is made if it is not there."},
    {"path", "SUB", REPL_OPTION_TEXT, &restore_path,
     "Of a tree, only this, named from the tree's top: a directory, of which DIR becomes the copy, "
     "or anything else, which is put into DIR under its own name."},
    {"delete", NULL, REPL_OPTION_FLAG, &restore_delete,
     "Removes what is in DIR and not in the tree, so that DIR is exactly the tree. What is mounted "
     "there stays, and links are not followed."},
    {"dry-run", NULL, REPL_OPTION_FLAG, &restore_dry_run,
     "Checks all that a restore does, with the same exit code, and writes nothing. Of a block "
     "volume it prints the plan: point, target, what has to be fetched, and how long that takes at "
     "least, measured by some seconds of reading. Of a tree it prints what would be made, changed "
     "and removed, a line each, in no particular order."},
    {"json", NULL, REPL_OPTION_FLAG, &restore_json,
     "Prints one JSON object on standard output, docs/formats/restore.md: with --dry-run the plan, "
     "else what came of the restore."},
    {"owner", "numeric|skip|UID:GID", REPL_OPTION_TEXT, &restore_owner, REPL_TREE_OWNER_HELP},
    {"yes", NULL, REPL_OPTION_FLAG, &restore_yes,
     "Does not ask before a device is overwritten: for scripts."},
    {"overwrite", NULL, REPL_OPTION_FLAG, &restore_overwrite,
     "Replaces a file that exists, and gives up an unfinished restore to the same target. Of a "
     "tree: replaces what is of another kind than it was, a directory where a file was, say, with "
     "all that is in it."},
    {"whole", NULL, REPL_OPTION_FLAG, &restore_whole,
     "Writes all of a block volume. Without it what a device, or a file to be replaced, holds "
     "already is compared, and only what differs is fetched and written."},
    {"onto-source", NULL, REPL_OPTION_FLAG, &restore_onto_source,
     "Allows a device or directory that this host's agent is configured to protect. For a device "
     "stop the agent first."},
    {"bandwidth", "RATE", REPL_OPTION_TEXT, &restore_bandwidth,
     "Bytes a second that may be fetched of segments, by all threads together, written as the "
     "agent's bandwidth is: \"20M\", or with other limits for times of the day \"20 MiB, 5 MiB "
     "08:00-18:00\". 0, and without it, is no limit."},
    {"threads", "N", REPL_OPTION_COUNT, &restore_threads,
     "How many threads; without it one for each processor, two at least."},
    {"state", "DIR", REPL_OPTION_TEXT, &restore_state,
     "Where the progress of a restore to a device is remembered; /var/lib/repl/restore without "
     "it. That of a restore to FILE lies beside it, in FILE.repl-restore. For a tree, where "
     "temporary files go: some 400 bytes for each of its files."},
    REPL_ORIGIN_OPTION_ROWS(restore_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_restore = {
    .name = "restore",
    .synopsis = "VOLUME [--at WHEN] --to DEVICE|FILE|DIR [--path SUB] [--dry-run] | "
                "VOLUME=TARGET... [--at WHEN]",
    .summary =
        "Writes a volume as it was at a point to a device, file or directory, and verifies it.",
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
        "A directory tree is restored into a directory. What is there and equal is left alone, to "
        "its times; a file that differs is written beside itself and renamed, or, if it is larger "
        "than 64 MiB and little of it differs, changed in place. What cannot be restored is named, "
        "and all else goes on; the exit code is then 5, or 4 if the history is damaged or "
        "something was not read back as it was written. It is 1 where only some metadata could "
        "not be kept. A run that was killed may leave files named .repl-restore-*, which --delete "
        "removes.\n"
        "\n"
        "Several volumes, each with its target as VOLUME=TARGET, are restored as of one point: a "
        "moment at which they were cut together, as volumes of a group are. --at is a time, for "
        "which the newest such point by then is taken, or a number or name of the first volume's. "
        "All volumes and targets are checked, and all devices asked for, before the first is "
        "written; the exit code is the worst of all. After an interruption the same command with "
        "--at and the number of the first volume's point goes on; files that are complete by then "
        "take --overwrite, and are compared.\n"
        "\n"
        "The history comes from the site that the configuration names, or from a store directory "
        "(--store), for which no site has to run.",
    .options = restore_options,
    .positional_min = 1,
    .positional_max = REPL_COMMON_VOLUMES_MAX,
    .run = restore_run,
};
