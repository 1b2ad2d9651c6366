/*
 * repl diff: which bytes of a block volume, or which files of a tree, differ
 * between two points. The JSON is docs/formats/diff.md.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "cli/look.h"
#include "cli/path_words.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "recover/diff_block.h"
#include "recover/diff_tree.h"
#include "recover/words.h"

static struct repl_origin_options diff_origin;
static bool diff_json, diff_compare;

struct diff {
    struct repl_history *history;
    size_t points[2]; /* as they were given */
    struct repl_diff_block result;
    uint64_t printed;
};

static void extent_print(void *context, uint64_t offset, uint64_t length)
{
    struct diff *d = context;
    if (diff_json)
        printf("%s{\"offset\":%" PRIu64 ",\"length\":%" PRIu64 "}",
               d->printed > 0 ? ",\n  " : "\n  ", offset, length);
    else
        printf("%20" PRIu64 " %20" PRIu64 "\n", offset, length);
    d->printed++;
}

static repl_result json_begin(const struct diff *d, struct repl_error *err)
{
    const struct repl_origin *origin = repl_history_origin(d->history);
    const struct repl_catalogue *c = repl_history_catalogue(d->history);
    return repl_look_json_begin(
        json_pack("{s:i, s:s, s:s, s:s, s:o, s:o, s:I, s:I}", "schema", 1, "volume", origin->volume,
                  "kind", "block", "origin", origin->label, "a",
                  repl_look_point_json(d->history, d->points[0]), "b",
                  repl_look_point_json(d->history, d->points[1]), "a_volume_bytes",
                  (json_int_t)c->points[d->points[0]].volume_size, "b_volume_bytes",
                  (json_int_t)c->points[d->points[1]].volume_size),
        "extents", err);
}

static void summary_print(const struct diff *d)
{
    char changed[REPL_WORDS_SIZE], all[REPL_WORDS_SIZE], read[REPL_WORDS_SIZE];
    const struct repl_diff_block *r = &d->result;
    bool compared = diff_compare || r->full;
    repl_words_bytes(r->changed_bytes, changed);
    repl_words_bytes(r->to_size, all);
    repl_words_bytes(r->compared_bytes, read);
    if (diff_json)
        printf("%s],\"compared\":%s,\"compared_bytes\":%" PRIu64 ",\"extent_count\":%" PRIu64
               ",\"changed_bytes\":%" PRIu64 "}\n",
               d->printed > 0 ? "\n" : "", compared ? "true" : "false", r->compared_bytes,
               r->extent_count, r->changed_bytes);
    fprintf(stderr, "%" PRIu64 " extents with %s differ, of %s", r->extent_count, changed, all);
    if (compared)
        fprintf(stderr, "; %s were read of both points and compared\n", read);
    else
        fputs("; written since, perhaps with what was there before (--compare tells)\n", stderr);
    if (r->full)
        fputs("a full copy lies in between, so all of the volume was compared\n", stderr);
    if (r->from_size != r->to_size)
        fprintf(stderr, "the volume had %" PRIu64 " bytes, and then %" PRIu64 "\n", r->from_size,
                r->to_size);
}

static repl_result block_diff(struct diff *d, struct repl_error *err)
{
    size_t a = d->points[0], b = d->points[1];
    const struct repl_diff_block_options options = {.history = d->history,
                                                    .from = a < b ? a : b,
                                                    .to = a < b ? b : a,
                                                    .compare = diff_compare,
                                                    .extent = extent_print,
                                                    .context = d};
    if (diff_json)
        REPL_TRY(json_begin(d, err));
    REPL_TRY(repl_diff_block(&options, &d->result, err));
    summary_print(d);
    return repl_output_end(err);
}

/* --- trees ----------------------------------------------------------------------------------- */

static const char *const change_names[] = {[REPL_DIFF_ADDED] = "added",
                                           [REPL_DIFF_REMOVED] = "removed",
                                           [REPL_DIFF_RENAMED] = "renamed",
                                           [REPL_DIFF_REPLACED] = "replaced",
                                           [REPL_DIFF_CHANGED] = "changed"};
static const char *const what_names[REPL_DIFF_WHAT_COUNT] = {
    "content", "size",       "mode",   "owner", "mtime", "flags",
    "project", "attributes", "target", "type",  "device"};

static repl_result change_text(const struct repl_diff_tree_change *change, struct repl_error *err)
{
    const char *before = " (";
    bool directory =
        (change->after != NULL ? change->after : change->before)->node.kind == REPL_NODE_DIRECTORY;
    printf("%-8s  ", change_names[change->change]);
    if (change->change == REPL_DIFF_RENAMED) {
        REPL_TRY(repl_path_print(stdout, change->from, change->from_size, err));
        fputs(" -> ", stdout);
    }
    if (change->path_size == 0)
        putchar('.');
    REPL_TRY(repl_path_print(stdout, change->path, change->path_size, err));
    if (directory)
        putchar('/');
    for (unsigned i = 0; i < REPL_DIFF_WHAT_COUNT; i++) {
        if ((change->what & 1u << i) == 0)
            continue;
        printf("%s%s", before, what_names[i]);
        before = ", ";
    }
    puts(before[0] == ',' ? ")" : "");
    return REPL_SUCCESS;
}

static json_t *change_to_json(const struct repl_diff_tree_change *change)
{
    const struct repl_tree_entry *entry = change->after != NULL ? change->after : change->before;
    json_t *what = json_array();
    json_t *json = json_pack("{s:s, s:s, s:I, s:o}", "change", change_names[change->change], "type",
                             repl_words_node(entry->node.kind), "object", (json_int_t)entry->object,
                             "what", what);
    bool ok = json != NULL && repl_path_json(json, "path", change->path, change->path_size) &&
              (change->change != REPL_DIFF_RENAMED ||
               repl_path_json(json, "from", change->from, change->from_size));
    for (unsigned i = 0; ok && i < REPL_DIFF_WHAT_COUNT; i++)
        ok = (change->what & 1u << i) == 0 ||
             json_array_append_new(what, json_string(what_names[i])) == 0;
    if (ok)
        return json;
    json_decref(json);
    return NULL;
}

static repl_result change_print(void *context, const struct repl_diff_tree_change *change,
                                struct repl_error *err)
{
    struct diff *d = context;
    if (!diff_json)
        return change_text(change, err);
    json_t *json = change_to_json(change);
    if (json == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    fputs(d->printed++ > 0 ? ",\n  " : "\n  ", stdout);
    bool written = json_dumpf(json, stdout, JSON_COMPACT) == 0;
    json_decref(json);
    return written ? REPL_SUCCESS : repl_output_end(err);
}

static repl_result tree_diff(struct diff *d, struct repl_error *err)
{
    size_t a = d->points[0], b = d->points[1];
    struct repl_diff_tree result;
    const struct repl_diff_tree_options options = {.history = d->history,
                                                   .from = a < b ? a : b,
                                                   .to = a < b ? b : a,
                                                   .change = change_print,
                                                   .context = d};
    if (diff_compare)
        return repl_fail(err, REPL_E_USAGE,
                         "--compare is for block volumes: %s is a directory tree",
                         repl_history_origin(d->history)->volume);
    if (diff_json)
        REPL_TRY(
            repl_look_json_begin(json_pack("{s:i, s:s, s:s, s:s, s:o, s:o}", "schema", 1, "volume",
                                           repl_history_origin(d->history)->volume, "kind", "tree",
                                           "origin", repl_history_origin(d->history)->label, "a",
                                           repl_look_point_json(d->history, a), "b",
                                           repl_look_point_json(d->history, b)),
                                 "changes", err));
    REPL_TRY(repl_diff_tree(&options, &result, err));
    if (diff_json)
        printf("%s],\"full_between\":%s", d->printed > 0 ? "\n" : "",
               result.full ? "true" : "false");
    for (unsigned i = 0; diff_json && i <= REPL_DIFF_CHANGED; i++)
        printf(",\"%s\":%" PRIu64, change_names[i], result.counts[i]);
    if (diff_json)
        puts("}");
    fprintf(stderr,
            "from the older to the newer point: %" PRIu64 " added, %" PRIu64 " removed, %" PRIu64
            " renamed, %" PRIu64 " replaced by another, %" PRIu64 " changed\n",
            result.counts[REPL_DIFF_ADDED], result.counts[REPL_DIFF_REMOVED],
            result.counts[REPL_DIFF_RENAMED], result.counts[REPL_DIFF_REPLACED],
            result.counts[REPL_DIFF_CHANGED]);
    if (result.full)
        fputs("a full copy lies in between: files with the same size and time count as unchanged\n",
              stderr);
    return repl_output_end(err);
}

static repl_result diff(char **arguments, struct repl_error *err)
{
    struct diff d = {0};
    enum repl_volume_kind kind = REPL_VOLUME_BLOCK;
    repl_result result = repl_look_open("diff", &diff_origin, arguments[0], &d.history, err);
    for (unsigned i = 0; i < 2 && repl_ok(result); i++)
        result =
            repl_look_point(d.history, i == 0 ? "A" : "B", arguments[1 + i], &d.points[i], err);
    if (repl_ok(result))
        result = repl_look_kind(d.history, d.points[1], &kind, err);
    if (repl_ok(result))
        result = kind == REPL_VOLUME_TREE ? tree_diff(&d, err) : block_diff(&d, err);
    repl_history_close(d.history);
    return result;
}

static int diff_run(int argc, char **argv)
{
    struct repl_error err;
    (void)argc;
    return repl_ok(diff(argv, &err)) ? REPL_EXIT_OK : repl_verb_fail("diff", &err);
}

static const struct repl_option diff_options[] = {
    {"compare", NULL, REPL_OPTION_FLAG, &diff_compare,
     "Reads what was written in between as of both points, and leaves out the pages in which they "
     "are the same: what was written and undone again. It costs reading that much, twice. Of block "
     "volumes."},
    {"json", NULL, REPL_OPTION_FLAG, &diff_json, "Prints one JSON object, docs/formats/diff.md."},
    REPL_ORIGIN_OPTION_ROWS(diff_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_diff = {
    .name = "diff",
    .synopsis = "VOLUME A B [--compare] [--json]",
    .summary = "Lists what changed of a volume between two points.",
    .description =
        "A and B are points: their numbers, names or times, as for \"repl restore --at\"; which is "
        "the older does not matter. Of a block volume each line has an extent's offset and length "
        "in bytes, front to "
        "back; neighbours are one. Where the volume has grown, what is new of it counts as "
        "changed.\n"
        "\n"
        "Without --compare only the segments' manifests are read, and of those in between alone, "
        "so it costs what changed, not what the volume holds; it lists what was written. Where a "
        "full copy lies in between, contents are compared in any case, of all of the volume that "
        "is not zeros in both.\n"
        "\n"
        "How much that is, and whether it was compared, is said on standard error.\n"
        "\n"
        "Of a directory tree each line has what was added, removed, renamed, replaced (another "
        "file "
        "has the name) or changed from the older point to the newer, with what is different of it, "
        "in the order of the paths; what lies in a renamed directory goes with it and is not "
        "listed. Names and metadata are read, and no content: a file's content counts as changed "
        "where any of it was written.",
    .options = diff_options,
    .positional_min = 3,
    .positional_max = 3,
    .run = diff_run,
};
