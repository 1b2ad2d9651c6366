/*
 * repl diff: which bytes of a block volume differ between two points. The JSON
 * is docs/formats/diff.md.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "cli/look.h"
#include "cli/path_words.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "recover/diff_block.h"
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
    if (repl_ok(result) && kind != REPL_VOLUME_BLOCK)
        result = repl_fail(err, REPL_E_REFUSED,
                           "%s is a directory tree, and block volumes alone are compared: compare "
                           "what \"repl ls %s --recursive -l --at WHEN\" prints of both points",
                           arguments[0], arguments[0]);
    if (repl_ok(result))
        result = block_diff(&d, err);
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
     "are the same: what was written and undone again. It costs reading that much, twice."},
    {"json", NULL, REPL_OPTION_FLAG, &diff_json, "Prints one JSON object, docs/formats/diff.md."},
    REPL_ORIGIN_OPTION_ROWS(diff_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_diff = {
    .name = "diff",
    .synopsis = "VOLUME A B [--compare] [--json]",
    .summary = "Lists what changed of a block volume between two points.",
    .description =
        "A and B are points: their numbers, names or times, as for \"repl restore --at\"; which is "
        "the older does not matter. Each line has an extent's offset and length in bytes, front to "
        "back; neighbours are one. Where the volume has grown, what is new of it counts as "
        "changed.\n"
        "\n"
        "Without --compare only the segments' manifests are read, and of those in between alone, "
        "so it costs what changed, not what the volume holds; it lists what was written. Where a "
        "full copy lies in between, contents are compared in any case, of all of the volume that "
        "is not zeros in both.\n"
        "\n"
        "How much that is, and whether it was compared, is said on standard error.",
    .options = diff_options,
    .positional_min = 3,
    .positional_max = 3,
    .run = diff_run,
};
