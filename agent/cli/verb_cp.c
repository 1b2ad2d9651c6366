/*
 * repl cp: one file, or a directory, out of a tree as it was at a point: the
 * short way to what "repl restore --path" does for a whole directory.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/interrupt.h"
#include "cli/look.h"
#include "cli/path_words.h"
#include "cli/tree_words.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "recover/copy_out.h"
#include "recover/source_guard.h"
#include "recover/tree_list.h"
#include "recover/when.h"
#include "recover/words.h"

static struct repl_origin_options cp_origin;
static const char *cp_at, *cp_owner, *cp_state;
static bool cp_recursive, cp_overwrite;
static bool cp_lacking; /* the target could not hold all of the metadata */

struct cp {
    struct repl_history *history;
    size_t point;
    const char *path; /* from the tree's top */
    const char *dest; /* "-": standard output */
    enum repl_node_kind kind;
    uint64_t object;
    char *name; /* its own, "" for the top */
};

/* --- VOLUME:PATH@TIME ------------------------------------------------------------------------ */

/* Whether what stands behind an '@' says a point: any number or time does, a name only if a point
 * has it, as parts of paths look like names. */
static bool says_point(const struct repl_history *history, const char *text)
{
    struct repl_when when;
    struct timespec now;
    size_t point;
    struct repl_error err;
    clock_gettime(CLOCK_REALTIME, &now);
    if (!repl_ok(
            repl_when_parse(text, (int64_t)now.tv_sec * 1000000000 + now.tv_nsec, &when, &err)))
        return false;
    if (when.kind != REPL_WHEN_NAME)
        return true;
    repl_result result = repl_when_resolve_in(&when, repl_history_catalogue(history), &point, &err);
    return result.code != REPL_E_MISSING && result.code != REPL_E_USAGE;
}

/* Cuts it off the path; NULL: there is none. */
static const char *at_cut(const struct repl_history *history, char *path)
{
    for (char *end = path + strlen(path); end-- > path;) {
        if (*end != '@' || !says_point(history, end + 1))
            continue;
        *end = '\0';
        return end + 1;
    }
    return NULL;
}

static repl_result point_find(struct cp *cp, char *path, struct repl_error *err)
{
    cp->path = path;
    if (cp_at != NULL)
        return repl_look_point(cp->history, "--at", cp_at, &cp->point, err);
    const char *at = at_cut(cp->history, path);
    const char *where =
        at != NULL ? "behind the last @ (--at is for paths that have one)" : "the latest point";
    return repl_look_point(cp->history, where, at != NULL ? at : "latest", &cp->point, err);
}

/* --- what it is ------------------------------------------------------------------------------ */

static repl_result list_read(struct cp *cp, struct repl_tree_list *list, struct repl_error *err)
{
    size_t count;
    REPL_TRY(repl_tree_list_read(list, cp->path, REPL_TREE_LIST_ITSELF, err));
    const struct repl_tree_entry *entry = repl_tree_list_entries(list, &count);
    cp->kind = entry->node.kind;
    cp->object = entry->object;
    cp->name = strndup(entry->name, entry->name_size);
    return cp->name != NULL ? REPL_SUCCESS : repl_fail(err, REPL_E_NOMEM, "out of memory");
}

static repl_result what_find(struct cp *cp, struct repl_error *err)
{
    struct repl_tree_list *list = NULL;
    REPL_TRY(repl_tree_list_new(cp->history, cp->point, &list, err));
    repl_result result = list_read(cp, list, err);
    repl_tree_list_free(list);
    REPL_TRY(result);
    if (cp->kind != REPL_NODE_DIRECTORY || cp_recursive)
        return REPL_SUCCESS;
    return repl_fail(
        err, REPL_E_USAGE,
        "%s is a directory: --recursive copies it with all that is in it; \"repl "
        "restore %s --at %llu --path '%s' --to DIR\" brings one that is there to what "
        "it was",
        cp->path[0] != '\0' ? cp->path : "the tree's top", repl_history_origin(cp->history)->volume,
        (unsigned long long)repl_history_catalogue(cp->history)->points[cp->point].point.seq,
        cp->path);
}

/* --- copying --------------------------------------------------------------------------------- */

static const char *state_directory(void)
{
    return cp_state != NULL ? cp_state : "/var/lib/repl/restore";
}

static repl_result stream(struct cp *cp, struct repl_error *err)
{
    struct repl_point_reader *reader = NULL;
    uint64_t written = 0;
    if (cp->kind != REPL_NODE_FILE)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is no regular file, and only such a one can go to standard output: "
                         "name a file or directory instead of -",
                         cp->path);
    const struct repl_point_options options = {
        .history = cp->history, .point = cp->point, .state = state_directory(), .path = cp->path};
    REPL_TRY(repl_point_open(&options, &reader, err));
    repl_interrupt_catch();
    repl_result result = repl_copy_out_stream(reader, cp->object, STDOUT_FILENO,
                                              repl_interrupt_flag(), &written, err);
    repl_point_close(reader);
    return result;
}

/* A site's own directories are not for copies; a tree that this host protects may get one. */
static repl_result dest_check(const char *dest, struct repl_error *err)
{
    const char *given = cp_origin.config, *store = cp_origin.store;
    if (store != NULL)
        REPL_TRY(repl_directory_guard(dest, &store, 1, "the store itself", "copy to somewhere else",
                                      err));
    if (given != NULL && repl_config_is_of_site(given))
        REPL_TRY(repl_directory_site_guard(dest, given, err));
    return repl_directory_site_guard(dest, REPL_SITE_CONFIG_PATH, err);
}

static repl_result copied_print(const struct cp *cp, const struct repl_copy_out *out,
                                struct repl_error *err)
{
    char data[REPL_WORDS_SIZE];
    const struct repl_tree_result *r = &out->tree;
    repl_words_bytes(r->data_bytes, data);
    fputs("copied and verified: ", stderr);
    REPL_TRY(repl_path_print(stderr, out->path, strlen(out->path), err));
    fprintf(stderr, ", as of point %" PRIu64,
            repl_history_catalogue(cp->history)->points[cp->point].point.seq);
    if (cp->kind == REPL_NODE_DIRECTORY)
        fprintf(stderr, ": %" PRIu64 " files, %" PRIu64 " directories", r->files + r->others,
                r->directories);
    fprintf(stderr, ", %s of data\n", data);
    return REPL_SUCCESS;
}

static repl_result copy(struct cp *cp, struct repl_error *err)
{
    struct repl_copy_out out;
    bool terminal = isatty(STDERR_FILENO);
    struct repl_copy_out_options options = {
        .tree = {.history = cp->history,
                 .point = cp->point,
                 .path = cp->path,
                 .state = state_directory(),
                 .interrupted = repl_interrupt_flag(),
                 .status = terminal ? repl_tree_print_progress : NULL,
                 .fault = repl_tree_print_fault,
                 .context = (void *)(uintptr_t) "cp"},
        .kind = cp->kind,
        .name = cp->name,
        .name_size = strlen(cp->name),
        .dest = cp->dest,
        .overwrite = cp_overwrite};
    REPL_TRY(repl_tree_owner_parse(cp_owner, &options.tree, err));
    REPL_TRY(dest_check(cp->dest, err));
    repl_interrupt_catch();
    repl_result ran = repl_copy_out(&options, &out, err);
    if (terminal)
        fputc('\n', stderr);
    REPL_TRY(ran);
    cp_lacking = repl_tree_print_lacks("cp", &out.tree);
    return copied_print(cp, &out, err);
}

static repl_result cp_words(char *volume, const char *dest, struct repl_error *err)
{
    struct cp cp = {.dest = dest};
    char *colon = strchr(volume, ':');
    if (colon == NULL)
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" names no file: write %s:PATH@TIME, with the path from the tree's "
                         "top",
                         volume, volume);
    *colon = '\0';
    repl_result result = repl_look_open("cp", &cp_origin, volume, &cp.history, err);
    if (repl_ok(result))
        result = point_find(&cp, colon + 1, err);
    if (repl_ok(result))
        result = what_find(&cp, err);
    if (repl_ok(result))
        result = strcmp(dest, "-") == 0 ? stream(&cp, err) : copy(&cp, err);
    free(cp.name);
    repl_history_close(cp.history);
    return result;
}

static int cp_run(int argc, char **argv)
{
    struct repl_error err;
    (void)argc;
    cp_lacking = false;
    char *volume = strdup(argv[0]);
    repl_result result = volume != NULL ? cp_words(volume, argv[1], &err)
                                        : repl_fail(&err, REPL_E_NOMEM, "out of memory");
    free(volume);
    if (!repl_ok(result))
        return repl_verb_fail("cp", &err);
    return cp_lacking ? REPL_EXIT_WARNING : REPL_EXIT_OK;
}

static const struct repl_option cp_options[] = {
    {"at", "WHEN", REPL_OPTION_TEXT, &cp_at,
     "Which point, as for \"repl restore\"; all behind the colon is the path then."},
    {"recursive", NULL, REPL_OPTION_FLAG, &cp_recursive, "Copies a directory with all in it."},
    {"overwrite", NULL, REPL_OPTION_FLAG, &cp_overwrite,
     "Replaces a file that is there. A directory is never replaced."},
    {"owner", "numeric|skip|UID:GID", REPL_OPTION_TEXT, &cp_owner, REPL_TREE_OWNER_HELP},
    {"state", "DIR", REPL_OPTION_TEXT, &cp_state,
     "Where temporary files go: of a directory, some 400 bytes for each file of the tree; "
     "/var/lib/repl/restore without it."},
    REPL_ORIGIN_OPTION_ROWS(cp_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_cp = {
    .name = "cp",
    .synopsis = "VOLUME:PATH[@WHEN] DEST|- [--recursive] [--overwrite]",
    .summary = "Copies a file or directory out of a tree as it was at a point, and verifies it.",
    .description =
        "PATH is named from the tree's top; links are not followed, but copied. WHEN is a point's "
        "number, its name, or a time, as for \"repl restore --at\"; without it the latest point is "
        "meant. It begins behind the last @ that is followed by a number, a time or the name of a "
        "point. A path that has such an @ itself is written with --at, by which all behind the "
        "colon is the path.\n"
        "\n"
        "DEST is the name of the copy, or a directory that is there, into which it goes under its "
        "own name. What is there is not overwritten without --overwrite. The copy has mode, owner, "
        "times, attributes and holes. It is written under another name beside DEST, "
        "read back and compared, and renamed when all of it is there: where that fails, nothing is "
        "left. The exit code is 1 where only some metadata could not be kept.\n"
        "\n"
        "With - a file's bytes go to standard output.\n"
        "\n"
        "Of a file, only what the history has of it and of the directories above is read.",
    .options = cp_options,
    .positional_min = 2,
    .positional_max = 2,
    .run = cp_run,
};
