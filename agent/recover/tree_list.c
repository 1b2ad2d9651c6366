#include "recover/tree_list.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "recover/tree_plan.h"
#include "segment/tree_merge.h"

/* Each merge begins in all segments anew, so what lies close together is taken by one; how close
 * that is grows until so many are enough. */
#define GAP_MIN    64u
#define MERGES_MAX 64u

struct repl_tree_list {
    const struct repl_segment **segments;
    size_t segment_count;
    struct repl_frame_coder *coder;
    struct repl_tree_entry *entries;
    size_t count, room;
    uint64_t *way; /* the objects from the top to what is at the path */
    size_t way_count;
};

/* --- segments -------------------------------------------------------------------------------- */

repl_result repl_tree_list_new(struct repl_history *history, size_t point,
                               struct repl_tree_list **out, struct repl_error *err)
{
    struct repl_tree_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    repl_result result =
        repl_history_tree_segments(history, point, &list->segments, &list->segment_count, err);
    if (repl_ok(result))
        result = repl_frame_coder_new(&list->coder, err);
    if (!repl_ok(result)) {
        repl_tree_list_free(list);
        return result;
    }
    *out = list;
    return REPL_SUCCESS;
}

void repl_tree_list_free(struct repl_tree_list *list)
{
    if (list == NULL)
        return;
    for (size_t i = 0; i < list->count; i++) {
        free(list->entries[i].name);
        free((void *)(uintptr_t)list->entries[i].node.target);
    }
    free(list->entries);
    free(list->way);
    repl_frame_coder_free(list->coder);
    free(list->segments);
    free(list);
}

const struct repl_tree_entry *repl_tree_list_entries(const struct repl_tree_list *list,
                                                     size_t *count)
{
    *count = list->count;
    return list->entries;
}

typedef repl_result record_fn(void *context, const struct repl_record *record,
                              struct repl_error *err);

/* What the point has of the objects from begin to before end. */
static repl_result records_read(const struct repl_tree_list *list, uint64_t begin, uint64_t end,
                                record_fn *take, void *context, struct repl_error *err)
{
    struct repl_tree_merge *merge;
    const struct repl_tree_merge_options options = {.segments = list->segments,
                                                    .segment_count = list->segment_count,
                                                    .full = true,
                                                    .object_begin = begin,
                                                    .object_end = end};
    REPL_TRY(repl_tree_merge_new(&options, list->coder, &merge, err));
    repl_result result = REPL_SUCCESS;
    for (bool done = false; repl_ok(result);) {
        struct repl_record record;
        result = repl_tree_merge_next(merge, &record, &done, err);
        if (!repl_ok(result) || done)
            break;
        result = take(context, &record, err);
    }
    repl_tree_merge_free(merge);
    return result;
}

/* --- entries --------------------------------------------------------------------------------- */

static repl_result text_copy(const char *text, size_t size, char **out, struct repl_error *err)
{
    *out = malloc(size + 1);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a name");
    memcpy(*out, text, size);
    return REPL_SUCCESS;
}

static repl_result entry_add(struct repl_tree_list *list, size_t parent, uint64_t object,
                             const char *name, size_t name_size, struct repl_error *err)
{
    if (list->count == list->room) {
        size_t room = list->room * 2 + 64;
        struct repl_tree_entry *entries = realloc(list->entries, room * sizeof *entries);
        if (entries == NULL)
            return repl_fail(err, REPL_E_NOMEM,
                             "out of memory for more than %zu names: list a directory further down",
                             list->count);
        list->entries = entries;
        list->room = room;
    }
    struct repl_tree_entry *entry = &list->entries[list->count];
    *entry = (struct repl_tree_entry){
        .object = object, .parent = parent, .name_size = (uint32_t)name_size};
    REPL_TRY(text_copy(name, name_size, &entry->name, err));
    list->count++;
    return REPL_SUCCESS;
}

static int entry_order(const void *left, const void *right)
{
    const struct repl_tree_entry *a = left, *b = right;
    size_t least = a->name_size < b->name_size ? a->name_size : b->name_size;
    int order = memcmp(a->name, b->name, least);
    return order != 0 ? order : (a->name_size > b->name_size) - (a->name_size < b->name_size);
}

/* --- reading entries ------------------------------------------------------------------------- */

/* Entries that are read, in the order of their objects. */
struct reading {
    struct repl_tree_list *list;
    bool names; /* also what is in directories */
    struct wanted {
        uint64_t object;
        size_t entry;
    } * wanted;
    size_t count, at;
};

static int wanted_order(const void *left, const void *right)
{
    const struct wanted *a = left, *b = right;
    if (a->object != b->object)
        return a->object < b->object ? -1 : 1;
    return (a->entry > b->entry) - (a->entry < b->entry);
}

static bool is_in_itself(const struct repl_tree_list *list, size_t entry)
{
    uint64_t object = list->entries[entry].object;
    for (size_t at = list->entries[entry].parent; at != SIZE_MAX; at = list->entries[at].parent) {
        if (list->entries[at].object == object)
            return true;
    }
    return false;
}

static repl_result node_take(struct repl_tree_list *list, size_t number,
                             const struct repl_node *node, struct repl_error *err)
{
    struct repl_tree_entry *entry = &list->entries[number];
    entry->node = *node;
    entry->node.target = NULL;
    entry->found = true;
    entry->circle = node->kind == REPL_NODE_DIRECTORY && is_in_itself(list, number);
    if (node->kind != REPL_NODE_SYMLINK)
        return REPL_SUCCESS;
    char *target;
    REPL_TRY(text_copy(node->target, node->target_size, &target, err));
    entry->node.target = target;
    return REPL_SUCCESS;
}

/* Of a directory that makes no sense, as it has several names, all is listed below the first. */
static repl_result name_take(struct reading *r, const struct repl_record *record,
                             struct repl_error *err)
{
    struct repl_tree_list *list = r->list;
    size_t directory = r->wanted[r->at].entry;
    if (!r->names || list->entries[directory].circle)
        return REPL_SUCCESS;
    if (list->entries[directory].count++ == 0)
        list->entries[directory].child = list->count;
    return entry_add(list, directory, record->child, record->name, record->name_size, err);
}

static repl_result wanted_take(void *context, const struct repl_record *record,
                               struct repl_error *err)
{
    struct reading *r = context;
    while (r->at < r->count && r->wanted[r->at].object < record->object)
        r->at++;
    if (r->at == r->count || r->wanted[r->at].object != record->object)
        return REPL_SUCCESS;
    if (record->type == REPL_RECORD_NAME)
        return name_take(r, record, err);
    for (size_t i = r->at;
         record->type == REPL_RECORD_NODE && i < r->count && r->wanted[i].object == record->object;
         i++)
        REPL_TRY(node_take(r->list, r->wanted[i].entry, &record->node, err));
    return REPL_SUCCESS;
}

static size_t range_end(const struct reading *r, size_t begin, uint64_t gap)
{
    size_t end = begin + 1;
    while (end < r->count && r->wanted[end].object - r->wanted[end - 1].object <= gap)
        end++;
    return end;
}

static repl_result wanted_read(struct reading *r, struct repl_error *err)
{
    uint64_t gap = GAP_MIN / 2;
    for (size_t merges = SIZE_MAX; merges > MERGES_MAX;) {
        gap *= 2;
        merges = 0;
        for (size_t i = 0; i < r->count; i = range_end(r, i, gap))
            merges++;
    }
    for (size_t begin = 0; begin < r->count;) {
        size_t end = range_end(r, begin, gap);
        r->at = begin;
        REPL_TRY(records_read(r->list, r->wanted[begin].object, r->wanted[end - 1].object + 1,
                              wanted_take, r, err));
        begin = end;
    }
    return REPL_SUCCESS;
}

static void children_sort(struct repl_tree_list *list, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        const struct repl_tree_entry *entry = &list->entries[i];
        if (entry->count > 1)
            qsort(list->entries + entry->child, entry->count, sizeof *entry, entry_order);
    }
}

/* The nodes of the entries from begin to before end, and what is in those that are directories. */
static repl_result entries_read(struct repl_tree_list *list, size_t begin, size_t end, bool names,
                                struct repl_error *err)
{
    struct reading r = {.list = list, .names = names, .count = end - begin};
    if (r.count == 0)
        return REPL_SUCCESS;
    r.wanted = calloc(r.count, sizeof *r.wanted);
    if (r.wanted == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu names", r.count);
    for (size_t i = 0; i < r.count; i++) {
        r.wanted[i] = (struct wanted){list->entries[begin + i].object, begin + i};
        list->entries[begin + i].node_read = true;
    }
    qsort(r.wanted, r.count, sizeof *r.wanted, wanted_order);
    repl_result result = wanted_read(&r, err);
    free(r.wanted);
    children_sort(list, begin, end);
    return result;
}

/* --- the path -------------------------------------------------------------------------------- */

struct component {
    const char *name;
    size_t size;
    uint64_t hash, child;
    const char *path; /* all of it up to here: for messages */
    size_t path_size;
};

static repl_result component_take(void *context, const struct repl_record *record,
                                  struct repl_error *err)
{
    struct component *c = context;
    if (record->type == REPL_RECORD_NODE && record->node.kind == REPL_NODE_SYMLINK) {
        char text[4 * REPL_NAME_MAX + 1];
        uint32_t size = record->node.target_size;
        repl_tree_name_text(record->node.target, size < REPL_NAME_MAX ? size : REPL_NAME_MAX, text);
        return repl_fail(err, REPL_E_USAGE,
                         "%.*s is a symbolic link, and none is followed: name what it leads to "
                         "(%s)",
                         (int)c->path_size, c->path, text);
    }
    if (record->type == REPL_RECORD_NAME && record->offset == c->hash &&
        record->name_size == c->size && memcmp(record->name, c->name, c->size) == 0)
        c->child = record->child;
    return REPL_SUCCESS;
}

static repl_result way_add(struct repl_tree_list *list, uint64_t object, struct repl_error *err)
{
    uint64_t *way = realloc(list->way, (list->way_count + 1) * sizeof *way);
    if (way == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a path");
    list->way = way;
    way[list->way_count++] = object;
    return REPL_SUCCESS;
}

static repl_result path_find(struct repl_tree_list *list, const char *path, struct repl_error *err)
{
    struct component c = {.name = "", .child = REPL_OBJECT_ROOT, .path = path};
    REPL_TRY(way_add(list, c.child, err));
    for (const char *at = path;;) {
        at += strspn(at, "/");
        size_t size = strcspn(at, "/");
        if (size == 0)
            return entry_add(list, SIZE_MAX, c.child, c.name, c.size, err);
        if (size == 2 && memcmp(at, "..", 2) == 0)
            return repl_fail(err, REPL_E_USAGE,
                             "%s: .. is not followed, name it from the tree's top", path);
        if (size != 1 || *at != '.') {
            uint64_t directory = c.child;
            c.name = at;
            c.size = size;
            c.hash = repl_xxh3(at, size);
            c.child = 0;
            REPL_TRY(records_read(list, directory, directory + 1, component_take, &c, err));
            c.path_size = (size_t)(at - path) + size;
            if (c.child == 0)
                return repl_fail(err, REPL_E_MISSING,
                                 "the point has no %.*s: \"repl ls\" of the directory lists what "
                                 "there is",
                                 (int)c.path_size, path);
            REPL_TRY(way_add(list, c.child, err));
        }
        at += size;
    }
}

/* --- all of it ------------------------------------------------------------------------------- */

repl_result repl_tree_list_read(struct repl_tree_list *list, const char *path,
                                enum repl_tree_list_depth depth, struct repl_error *err)
{
    REPL_TRY(path_find(list, path, err));
    REPL_TRY(entries_read(list, 0, 1, depth != REPL_TREE_LIST_ITSELF, err));
    const struct repl_tree_entry *top = &list->entries[0];
    if (!top->found || (top->object == REPL_OBJECT_ROOT && top->node.kind != REPL_NODE_DIRECTORY))
        return repl_fail(err, REPL_E_CORRUPT, "the point lacks %s",
                         top->name_size > 0 ? path : "the directory at its top");
    for (size_t begin = 1; depth >= REPL_TREE_LIST_NODES && begin < list->count;) {
        size_t end = list->count;
        REPL_TRY(entries_read(list, begin, end, depth == REPL_TREE_LIST_ALL, err));
        begin = end;
    }
    return REPL_SUCCESS;
}

const uint64_t *repl_tree_list_way(const struct repl_tree_list *list, size_t *count)
{
    *count = list->way_count;
    return list->way;
}

repl_result repl_tree_list_path(const struct repl_tree_list *list, size_t entry,
                                struct repl_buffer *out, struct repl_error *err)
{
    size_t size = 0;
    for (size_t at = entry; at != 0; at = list->entries[at].parent)
        size += list->entries[at].name_size + 1u;
    out->size = 0;
    uint8_t *end = repl_buffer_extend(out, size + 1);
    if (end == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a path");
    end += size;
    for (size_t at = entry; at != 0; at = list->entries[at].parent) {
        const struct repl_tree_entry *of = &list->entries[at];
        if (at != entry)
            *--end = '/';
        end -= of->name_size;
        memcpy(end, of->name, of->name_size);
    }
    out->size = size > 0 ? size - 1 : 0; /* no slash stands behind the last */
    memmove(out->data, end, out->size);
    return REPL_SUCCESS;
}
