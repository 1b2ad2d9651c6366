/*
 * repl ls: what is in a directory of a tree, as it was at a point, without
 * restoring any of it. One walk over what was read, with a printer for people
 * and one for machines; the JSON is docs/formats/ls.md.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "cli/look.h"
#include "cli/path_words.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "recover/tree_list.h"
#include "recover/words.h"

static struct repl_origin_options ls_origin;
static const char *ls_at;
static bool ls_long, ls_recursive, ls_json;

struct listing {
    struct repl_history *history;
    size_t point;
    const char *path;
    const struct repl_tree_list *list;
    const struct repl_tree_entry *entries;
    size_t count;
    uint64_t printed, missing, circles;
};

/* --- the printers ---------------------------------------------------------------------------- */

static const char *kind_name(const struct repl_tree_entry *entry)
{
    return entry->found ? repl_words_node(entry->node.kind) : "missing";
}

/* As ls(1) has it. */
static void mode_text(const struct repl_node *node, char text[11])
{
    static const char kinds[] = "?-dlpcbs", bits[] = "rwxrwxrwx";
    text[0] = kinds[node->kind];
    for (unsigned i = 0; i < 9; i++)
        text[1 + i] = node->mode & (0400u >> i) ? bits[i] : '-';
    static const struct {
        unsigned bit, at;
        char with, without;
    } special[] = {{04000, 3, 's', 'S'}, {02000, 6, 's', 'S'}, {01000, 9, 't', 'T'}};
    for (unsigned i = 0; i < 3; i++) {
        if (node->mode & special[i].bit)
            text[special[i].at] = text[special[i].at] == 'x' ? special[i].with : special[i].without;
    }
    text[10] = '\0';
}

static void node_text(const struct repl_tree_entry *entry)
{
    char mode[11], size[32], time[REPL_WORDS_SIZE];
    const struct repl_node *node = &entry->node;
    if (!entry->found) {
        printf("%-10s %10s %10s %20s  %-29s  ", "?---------", "?", "?", "?", "?");
        return;
    }
    mode_text(node, mode);
    if (node->kind == REPL_NODE_CHARACTER || node->kind == REPL_NODE_BLOCK)
        snprintf(size, sizeof size, "%u,%u", node->major, node->minor);
    else
        snprintf(size, sizeof size, "%" PRIu64, node->size);
    repl_words_local(node->mtime_ns, time);
    printf("%s %10u %10u %20s  %-29s  ", mode, node->uid, node->gid, size, time);
}

static repl_result entry_text(const struct repl_tree_entry *entry, const char *path, size_t size,
                              struct repl_error *err)
{
    if (ls_long)
        node_text(entry);
    REPL_TRY(repl_path_print(stdout, path, size, err));
    if (ls_long && entry->found && entry->node.kind == REPL_NODE_SYMLINK) {
        fputs(" -> ", stdout);
        REPL_TRY(repl_path_print(stdout, entry->node.target, entry->node.target_size, err));
    }
    putchar('\n');
    return REPL_SUCCESS;
}

static json_t *entry_to_json(const struct repl_tree_entry *entry, const char *path, size_t size)
{
    char mode[16], time[REPL_WORDS_SIZE];
    const struct repl_node *node = &entry->node;
    json_t *json =
        json_pack("{s:s, s:I}", "type", kind_name(entry), "object", (json_int_t)entry->object);
    bool ok = json != NULL && repl_path_json(json, "path", path, size);
    if (ok && entry->found) {
        snprintf(mode, sizeof mode, "%04o", node->mode);
        repl_words_utc(node->mtime_ns, time);
        json_t *meta = json_pack("{s:s, s:I, s:I, s:s, s:I, s:I, s:I}", "mode", mode, "uid",
                                 (json_int_t)node->uid, "gid", (json_int_t)node->gid, "mtime", time,
                                 "mtime_ns", (json_int_t)node->mtime_ns, "flags",
                                 (json_int_t)node->flags, "project", (json_int_t)node->project);
        ok = json_object_update(json, meta) == 0;
        json_decref(meta);
    }
    if (ok && entry->found && node->kind == REPL_NODE_FILE)
        ok = json_object_set_new(json, "size", json_integer((json_int_t)node->size)) == 0;
    if (ok && entry->found && node->kind == REPL_NODE_SYMLINK)
        ok = repl_path_json(json, "target", node->target, node->target_size);
    if (ok && entry->found && (node->kind == REPL_NODE_CHARACTER || node->kind == REPL_NODE_BLOCK))
        ok = json_object_set_new(json, "major", json_integer(node->major)) == 0 &&
             json_object_set_new(json, "minor", json_integer(node->minor)) == 0;
    if (ok)
        return json;
    json_decref(json);
    return NULL;
}

/* One at a time, as there may be millions. */
static repl_result entry_json(const struct listing *l, const struct repl_tree_entry *entry,
                              const char *path, size_t size, struct repl_error *err)
{
    json_t *json = entry_to_json(entry, path, size);
    if (json == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    fputs(l->printed > 0 ? ",\n  " : "\n  ", stdout);
    bool written = json_dumpf(json, stdout, JSON_COMPACT) == 0;
    json_decref(json);
    return written ? REPL_SUCCESS : repl_output_end(err);
}

/* --- the walk -------------------------------------------------------------------------------- */

static repl_result put(struct listing *l, size_t number, const char *path, size_t size,
                       struct repl_error *err)
{
    const struct repl_tree_entry *entry = &l->entries[number];
    REPL_TRY(ls_json ? entry_json(l, entry, path, size, err) : entry_text(entry, path, size, err));
    l->printed++;
    l->missing += entry->node_read && !entry->found;
    l->circles += entry->circle;
    return REPL_SUCCESS;
}

/* Behind an entry comes what is in it, then the next of its directory. */
static size_t next_of(const struct listing *l, size_t at)
{
    if (l->entries[at].count > 0)
        return l->entries[at].child;
    while (at != 0) {
        const struct repl_tree_entry *parent = &l->entries[l->entries[at].parent];
        if (at + 1 < parent->child + parent->count)
            return at + 1;
        at = l->entries[at].parent;
    }
    return 0;
}

static repl_result walk(struct listing *l, struct repl_error *err)
{
    struct repl_buffer path = {0};
    const struct repl_tree_entry *top = &l->entries[0];
    if (top->node.kind != REPL_NODE_DIRECTORY)
        return put(l, 0, top->name, top->name_size, err);
    repl_result result = REPL_SUCCESS;
    for (size_t at = next_of(l, 0); at != 0 && repl_ok(result); at = next_of(l, at)) {
        result = repl_tree_list_path(l->list, at, &path, err);
        if (repl_ok(result))
            result = put(l, at, (const char *)path.data, path.size, err);
    }
    repl_buffer_fini(&path);
    return result;
}

static repl_result json_head(const struct listing *l, struct repl_error *err)
{
    const struct repl_origin *origin = repl_history_origin(l->history);
    json_t *head =
        json_pack("{s:i, s:s, s:s, s:o}", "schema", 1, "volume", origin->volume, "origin",
                  origin->label, "point", repl_look_point_json(l->history, l->point));
    if (head != NULL && !repl_path_json(head, "path", l->path, strlen(l->path))) {
        json_decref(head);
        head = NULL;
    }
    return repl_look_json_begin(head, "entries", err);
}

static repl_result print(struct listing *l, struct repl_error *err)
{
    if (ls_json)
        REPL_TRY(json_head(l, err));
    REPL_TRY(walk(l, err));
    if (ls_json)
        fputs(l->printed > 0 ? "\n]}\n" : "]}\n", stdout);
    REPL_TRY(repl_output_end(err));
    if (l->missing + l->circles == 0)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_CORRUPT,
                     "%" PRIu64 " names lead to nothing that the point has, %" PRIu64
                     " directories are in themselves; all else is listed: \"repl verify\" says "
                     "what is damaged",
                     l->missing, l->circles);
}

/* --- the verb -------------------------------------------------------------------------------- */

static repl_result list_at(struct repl_history *history, size_t point, const char *path,
                           struct repl_error *err)
{
    struct repl_tree_list *list = NULL;
    struct listing l = {.history = history, .point = point, .path = path};
    bool nodes = ls_long || ls_json;
    REPL_TRY(repl_tree_list_new(history, point, &list, err));
    repl_result result = repl_tree_list_read(list, path,
                                             ls_recursive ? REPL_TREE_LIST_ALL
                                             : nodes      ? REPL_TREE_LIST_NODES
                                                          : REPL_TREE_LIST_NAMES,
                                             err);
    l.list = list;
    l.entries = repl_tree_list_entries(list, &l.count);
    if (repl_ok(result))
        result = print(&l, err);
    repl_tree_list_free(list);
    return result;
}

static repl_result ls(char *volume, struct repl_error *err)
{
    struct repl_history *history = NULL;
    size_t point;
    char *colon = strchr(volume, ':');
    const char *path = colon != NULL ? colon + 1 : "";
    if (colon != NULL)
        *colon = '\0';
    repl_result result = repl_look_open("ls", &ls_origin, volume, &history, err);
    if (repl_ok(result))
        result = repl_look_point(history, "--at", ls_at != NULL ? ls_at : "latest", &point, err);
    if (repl_ok(result))
        result = list_at(history, point, path, err);
    repl_history_close(history);
    if (colon != NULL)
        *colon = ':';
    return result;
}

static int ls_run(int argc, char **argv)
{
    struct repl_error err;
    (void)argc;
    return repl_ok(ls(argv[0], &err)) ? REPL_EXIT_OK : repl_verb_fail("ls", &err);
}

static const struct repl_option ls_options[] = {
    {"at", "WHEN", REPL_OPTION_TEXT, &ls_at,
     "Which point: its number, its name, or a time, as for \"repl restore\". Without --at it is "
     "the latest point."},
    {"l", NULL, REPL_OPTION_FLAG, &ls_long,
     "Also prints kind and mode, owner and group by number, size in bytes (of a device its "
     "numbers), the time of the last change in local time, and what a symbolic link leads to."},
    {"recursive", NULL, REPL_OPTION_FLAG, &ls_recursive,
     "Also lists what is in directories, and so on, each with its path below PATH. It takes some "
     "200 bytes of memory a name."},
    {"json", NULL, REPL_OPTION_FLAG, &ls_json,
     "Prints one JSON object, docs/formats/ls.md, with all that -l prints, and times in "
     "nanoseconds since 1970 UTC too."},
    REPL_ORIGIN_OPTION_ROWS(ls_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_ls = {
    .name = "ls",
    .synopsis = "VOLUME[:PATH] [--at WHEN] [-l] [--recursive] [--json]",
    .summary = "Lists a directory of a tree as it was at a point, without restoring it.",
    .description =
        "PATH is named from the tree's top; links are not followed. Of a directory what is in it "
        "is listed, a line each, in the order of the names' bytes; of anything else, itself. The "
        "point that is meant is said on standard error.\n"
        "\n"
        "A backslash, a control character, and each byte that is of no printable UTF-8 is written "
        "\\xHH, with two hexadecimal digits, so that a name is one line and can be told "
        "exactly.\n"
        "\n"
        "Only what the history says of this directory is read, and no contents of files. The exit "
        "code is 4 where there is no such path at the point, or the history is damaged.\n"
        "\n"
        "A block volume has no names to list: \"repl mount\" makes it an image, to be mounted in "
        "turn.",
    .options = ls_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = ls_run,
};
