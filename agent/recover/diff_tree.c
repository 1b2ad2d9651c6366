/*
 * Names are paired by the directory object they are in, so that what lies below
 * a directory that was moved stays where it is. What has no pair is one object
 * that went from one name to another, or was put in the place of another, or was
 * not there before, or is not any more.
 */
#include "recover/diff_tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "segment/tree_merge.h"

/* Where an object's contents and attributes lie, so that two of these are the same where those are.
 */
struct content {
    uint64_t object;
    struct repl_page_digest runs, attributes;
    bool runs_written, attributes_written; /* since the older point */
};

struct key {
    uint64_t parent; /* the directory's object */
    size_t entry;
};

struct side {
    struct repl_tree_list *list;
    const struct repl_tree_entry *entries;
    struct key *keys; /* by directory and name */
    size_t key_count;
    struct repl_buffer contents; /* struct content each, by object */
};

/* A name that only one of the points has. */
struct loose {
    uint64_t object;
    size_t entry;
    size_t twin; /* in the other side's: of the same name; SIZE_MAX: there is none */
    bool used;
};

struct change {
    struct repl_diff_tree_change told;
    size_t path, from; /* in the paths */
};

struct diff {
    const struct repl_diff_tree_options *options;
    struct side before, after;
    struct repl_view *written;         /* of the space, since; NULL: a full begins in between */
    struct repl_buffer removed, added; /* struct loose each */
    struct repl_buffer changes, paths; /* struct change each; their bytes */
    struct repl_buffer path;           /* scratch */
};

/* --- contents -------------------------------------------------------------------------------- */

struct gathering {
    struct side *side;
    const struct repl_view *written;
    struct repl_sha256 *runs, *attributes;
    struct content content;
    uint64_t offset, place, length; /* the run that may go on; length 0: none */
};

static bool is_written(const struct repl_view *written, uint64_t place, uint64_t length)
{
    uint64_t size = written != NULL ? repl_view_size(written) : 0;
    uint64_t end = place < size && length > size - place ? size : place + length;
    while (written != NULL && place < size && place < end) {
        bool said;
        uint64_t stretch = repl_view_said(written, place, end - place, &said);
        if (said)
            return true;
        place += stretch;
    }
    return false;
}

static void number_add(struct repl_sha256 *sha, uint64_t number)
{
    repl_sha256_update(sha, &number, sizeof number);
}

static void run_end(struct gathering *g)
{
    if (g->length == 0)
        return;
    number_add(g->runs, g->offset);
    number_add(g->runs, g->place);
    number_add(g->runs, g->length);
    g->length = 0;
}

static void run_add(struct gathering *g, const struct repl_record *run)
{
    g->content.runs_written |= is_written(g->written, run->place, run->length);
    if (g->length > 0 && run->offset == g->offset + g->length &&
        run->place == g->place + g->length) {
        g->length += run->length;
        return;
    }
    run_end(g);
    g->offset = run->offset;
    g->place = run->place;
    g->length = run->length;
}

static void attribute_add(struct gathering *g, const struct repl_record *attribute)
{
    number_add(g->attributes, attribute->name_size);
    repl_sha256_update(g->attributes, attribute->name, attribute->name_size);
    number_add(g->attributes, attribute->value_size);
    if (attribute->value != NULL) {
        repl_sha256_update(g->attributes, attribute->value, attribute->value_size);
        return;
    }
    if (g->written != NULL)
        number_add(g->attributes, attribute->place);
    g->content.attributes_written |=
        is_written(g->written, attribute->place, attribute->value_size);
}

static repl_result content_end(struct gathering *g, struct repl_error *err)
{
    struct repl_digest digest;
    if (g->content.object == 0)
        return REPL_SUCCESS;
    run_end(g);
    repl_sha256_end(g->runs, &digest);
    g->content.runs = repl_page_digest_of(&digest);
    repl_sha256_end(g->attributes, &digest);
    g->content.attributes = repl_page_digest_of(&digest);
    return repl_buffer_append(&g->side->contents, &g->content, sizeof g->content, err);
}

static repl_result record_take(struct gathering *g, const struct repl_record *record,
                               struct repl_error *err)
{
    if (record->object != g->content.object) {
        REPL_TRY(content_end(g, err));
        g->content = (struct content){.object = record->object};
        repl_sha256_begin(g->runs);
        repl_sha256_begin(g->attributes);
    }
    if (record->type == REPL_RECORD_RUN)
        run_add(g, record);
    else if (record->type == REPL_RECORD_XATTR)
        attribute_add(g, record);
    return REPL_SUCCESS;
}

static repl_result records_take(struct gathering *g, struct repl_tree_merge *merge,
                                struct repl_error *err)
{
    for (bool done = false;;) {
        struct repl_record record;
        REPL_TRY(repl_tree_merge_next(merge, &record, &done, err));
        if (done)
            return content_end(g, err);
        REPL_TRY(record_take(g, &record, err));
    }
}

static repl_result contents_gather(struct diff *d, struct side *side, size_t point,
                                   struct repl_error *err)
{
    struct gathering g = {.side = side, .written = d->written};
    struct repl_tree_merge_options options = {.full = true};
    const struct repl_segment **segments = NULL;
    struct repl_frame_coder *coder = NULL;
    struct repl_tree_merge *merge = NULL;
    repl_result result = repl_history_tree_segments(d->options->history, point, &segments,
                                                    &options.segment_count, err);
    options.segments = segments;
    if (repl_ok(result))
        result = repl_frame_coder_new(&coder, err);
    if (repl_ok(result))
        result = repl_sha256_new(&g.runs, err);
    if (repl_ok(result))
        result = repl_sha256_new(&g.attributes, err);
    if (repl_ok(result))
        result = repl_tree_merge_new(&options, coder, &merge, err);
    if (repl_ok(result))
        result = records_take(&g, merge, err);
    repl_tree_merge_free(merge);
    repl_sha256_free(g.attributes);
    repl_sha256_free(g.runs);
    repl_frame_coder_free(coder);
    free(segments);
    return result;
}

static int content_order(const void *left, const void *right)
{
    const struct content *a = left, *b = right;
    return (a->object > b->object) - (a->object < b->object);
}

static const struct content *content_of(const struct side *side, uint64_t object)
{
    const struct content wanted = {.object = object};
    size_t count = side->contents.size / sizeof wanted;
    return count == 0 ? NULL
                      : bsearch(&wanted, side->contents.data, count, sizeof wanted, content_order);
}

/* --- what is different ----------------------------------------------------------------------- */

static unsigned node_compare(const struct repl_node *a, const struct repl_node *b)
{
    bool target = a->target_size == b->target_size &&
                  (a->target_size == 0 || memcmp(a->target, b->target, a->target_size) == 0);
    unsigned what = 0;
    if (a->kind != b->kind)
        return REPL_DIFF_TYPE;
    what |= a->mode != b->mode ? REPL_DIFF_MODE : 0;
    what |= a->uid != b->uid || a->gid != b->gid ? REPL_DIFF_OWNER : 0;
    what |= a->mtime_ns != b->mtime_ns && a->kind != REPL_NODE_DIRECTORY ? REPL_DIFF_MTIME : 0;
    what |= a->flags != b->flags ? REPL_DIFF_FLAGS : 0;
    what |= a->project != b->project ? REPL_DIFF_PROJECT : 0;
    what |= a->kind == REPL_NODE_FILE && a->size != b->size ? REPL_DIFF_SIZE : 0;
    what |= a->kind == REPL_NODE_SYMLINK && !target ? REPL_DIFF_TARGET : 0;
    what |= a->major != b->major || a->minor != b->minor ? REPL_DIFF_DEVICE : 0;
    return what;
}

static unsigned compare(const struct diff *d, const struct repl_tree_entry *a,
                        const struct repl_tree_entry *b)
{
    unsigned what = node_compare(&a->node, &b->node);
    const struct content *x = content_of(&d->before, a->object),
                         *y = content_of(&d->after, b->object);
    bool file = b->node.kind == REPL_NODE_FILE && (what & REPL_DIFF_TYPE) == 0;
    bool attributes =
        x != NULL && y != NULL &&
        (y->attributes_written || !repl_page_digest_equal(&x->attributes, &y->attributes));
    what |= attributes ? REPL_DIFF_ATTRIBUTES : 0;
    bool content = d->written == NULL || a->object != b->object
                       ? (what & (REPL_DIFF_SIZE | REPL_DIFF_MTIME)) != 0
                       : x != NULL && y != NULL &&
                             (y->runs_written || !repl_page_digest_equal(&x->runs, &y->runs));
    content |= (what & REPL_DIFF_SIZE) != 0; /* of what was cut off no place is another */
    return what | (file && content ? REPL_DIFF_CONTENT : 0);
}

/* --- telling --------------------------------------------------------------------------------- */

static repl_result path_add(struct diff *d, const struct side *side, size_t entry, size_t *at,
                            size_t *size, struct repl_error *err)
{
    REPL_TRY(repl_tree_list_path(side->list, entry, &d->path, err));
    *at = d->paths.size;
    *size = d->path.size;
    return repl_buffer_append(&d->paths, d->path.data, d->path.size, err);
}

/* before, after: entries; SIZE_MAX: none. */
static repl_result change_add(struct diff *d, enum repl_diff_change change, size_t before,
                              size_t after, unsigned what, struct repl_error *err)
{
    struct change c = {.told = {.change = change, .what = what}};
    bool removed = after == SIZE_MAX;
    if (before != SIZE_MAX)
        c.told.before = &d->before.entries[before];
    if (!removed)
        c.told.after = &d->after.entries[after];
    REPL_TRY(path_add(d, removed ? &d->before : &d->after, removed ? before : after, &c.path,
                      &c.told.path_size, err));
    if (change == REPL_DIFF_RENAMED)
        REPL_TRY(path_add(d, &d->before, before, &c.from, &c.told.from_size, err));
    return repl_buffer_append(&d->changes, &c, sizeof c, err);
}

static int bytes_order(const char *a, size_t a_size, const char *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

static int change_order(const void *left, const void *right)
{
    const struct repl_diff_tree_change *a = &((const struct change *)left)->told;
    const struct repl_diff_tree_change *b = &((const struct change *)right)->told;
    int order = bytes_order(a->path, a->path_size, b->path, b->path_size);
    return order != 0 ? order : (int)a->change - (int)b->change;
}

static repl_result changes_tell(struct diff *d, struct repl_diff_tree *out, struct repl_error *err)
{
    struct change *changes = (void *)d->changes.data;
    size_t count = d->changes.size / sizeof *changes;
    for (size_t i = 0; i < count; i++) { /* the paths stay where they are from now on */
        changes[i].told.path = (const char *)d->paths.data + changes[i].path;
        changes[i].told.from = (const char *)d->paths.data + changes[i].from;
    }
    if (count > 1)
        qsort(changes, count, sizeof *changes, change_order);
    for (size_t i = 0; i < count; i++) {
        out->counts[changes[i].told.change]++;
        REPL_TRY(d->options->change(d->options->context, &changes[i].told, err));
    }
    return REPL_SUCCESS;
}

/* --- pairing --------------------------------------------------------------------------------- */

static int name_order(const struct side *a, const struct key *x, const struct side *b,
                      const struct key *y)
{
    const struct repl_tree_entry *left = &a->entries[x->entry], *right = &b->entries[y->entry];
    if (x->parent != y->parent)
        return x->parent < y->parent ? -1 : 1;
    return bytes_order(left->name, left->name_size, right->name, right->name_size);
}

static int key_order(const void *left, const void *right, void *side)
{
    const struct key *a = left, *b = right;
    int order = name_order(side, a, side, b);
    return order != 0 ? order : (a->entry > b->entry) - (a->entry < b->entry);
}

static repl_result side_read(struct diff *d, struct side *side, size_t point,
                             struct repl_error *err)
{
    size_t count;
    REPL_TRY(repl_tree_list_new(d->options->history, point, &side->list, err));
    REPL_TRY(repl_tree_list_read(side->list, "", REPL_TREE_LIST_ALL, err));
    side->entries = repl_tree_list_entries(side->list, &count);
    side->keys = calloc(count + 1, sizeof *side->keys);
    if (side->keys == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu names", count);
    for (size_t i = 1; i < count; i++) {
        const struct repl_tree_entry *entry = &side->entries[i];
        if (entry->found)
            side->keys[side->key_count++] =
                (struct key){.parent = side->entries[entry->parent].object, .entry = i};
    }
    qsort_r(side->keys, side->key_count, sizeof *side->keys, key_order, side);
    return contents_gather(d, side, point, err);
}

static repl_result loose_add(struct repl_buffer *of, const struct side *side, size_t entry,
                             size_t twin, struct repl_error *err)
{
    struct loose loose = {.object = side->entries[entry].object, .entry = entry, .twin = twin};
    return repl_buffer_append(of, &loose, sizeof loose, err);
}

static repl_result kept(struct diff *d, size_t before, size_t after, struct repl_error *err)
{
    unsigned what = compare(d, &d->before.entries[before], &d->after.entries[after]);
    return what == 0 ? REPL_SUCCESS : change_add(d, REPL_DIFF_CHANGED, before, after, what, err);
}

static repl_result names_pair(struct diff *d, struct repl_error *err)
{
    const struct side *a = &d->before, *b = &d->after;
    REPL_TRY(kept(d, 0, 0, err));
    for (size_t i = 0, k = 0; i < a->key_count || k < b->key_count;) {
        int order = i == a->key_count   ? 1
                    : k == b->key_count ? -1
                                        : name_order(a, &a->keys[i], b, &b->keys[k]);
        size_t before = order <= 0 ? a->keys[i++].entry : 0;
        size_t after = order >= 0 ? b->keys[k++].entry : 0;
        if (order == 0 && a->entries[before].object == b->entries[after].object) {
            REPL_TRY(kept(d, before, after, err));
            continue;
        }
        size_t removed = d->removed.size / sizeof(struct loose),
               added = d->added.size / sizeof(struct loose);
        if (order <= 0)
            REPL_TRY(loose_add(&d->removed, a, before, order == 0 ? added : SIZE_MAX, err));
        if (order >= 0)
            REPL_TRY(loose_add(&d->added, b, after, order == 0 ? removed : SIZE_MAX, err));
    }
    return REPL_SUCCESS;
}

static int loose_order(const void *left, const void *right)
{
    const struct loose *a = *(struct loose *const *)left, *b = *(struct loose *const *)right;
    if (a->object != b->object)
        return a->object < b->object ? -1 : 1;
    return (a->entry > b->entry) - (a->entry < b->entry);
}

static struct loose **loose_sorted(const struct repl_buffer *of, size_t *count)
{
    *count = of->size / sizeof(struct loose);
    struct loose **sorted = calloc(*count + 1, sizeof(struct loose *));
    for (size_t i = 0; sorted != NULL && i < *count; i++)
        sorted[i] = (struct loose *)(void *)of->data + i;
    if (sorted != NULL && *count > 1)
        qsort(sorted, *count, sizeof *sorted, loose_order);
    return sorted;
}

/* An object that left one name and has another is renamed. */
static repl_result renames_find(struct diff *d, struct loose **removed, size_t removed_count,
                                struct loose **added, size_t added_count, struct repl_error *err)
{
    for (size_t i = 0, k = 0; i < removed_count && k < added_count;) {
        struct loose *from = removed[i], *to = added[k];
        if (from->object != to->object) {
            i += from->object < to->object;
            k += from->object > to->object;
            continue;
        }
        const struct repl_tree_entry *before = &d->before.entries[from->entry],
                                     *after = &d->after.entries[to->entry];
        REPL_TRY(change_add(d, REPL_DIFF_RENAMED, from->entry, to->entry, compare(d, before, after),
                            err));
        from->used = to->used = true;
        i++;
        k++;
    }
    return REPL_SUCCESS;
}

/* What is left was put in the place of another, or was not there, or is not any more. */
static repl_result rest_tell(struct diff *d, struct repl_error *err)
{
    struct loose *removed = (void *)d->removed.data, *added = (void *)d->added.data;
    size_t removed_count = d->removed.size / sizeof *removed;
    for (size_t i = 0; i < d->added.size / sizeof *added; i++) {
        struct loose *to = &added[i];
        struct loose *from = to->twin != SIZE_MAX ? &removed[to->twin] : NULL;
        if (to->used)
            continue;
        if (from == NULL || from->used) {
            REPL_TRY(change_add(d, REPL_DIFF_ADDED, SIZE_MAX, to->entry, 0, err));
            continue;
        }
        from->used = true;
        REPL_TRY(change_add(
            d, REPL_DIFF_REPLACED, from->entry, to->entry,
            compare(d, &d->before.entries[from->entry], &d->after.entries[to->entry]), err));
    }
    for (size_t i = 0; i < removed_count; i++) {
        if (!removed[i].used)
            REPL_TRY(change_add(d, REPL_DIFF_REMOVED, removed[i].entry, SIZE_MAX, 0, err));
    }
    return REPL_SUCCESS;
}

static repl_result loose_pair(struct diff *d, struct repl_error *err)
{
    size_t removed_count, added_count;
    struct loose **removed = loose_sorted(&d->removed, &removed_count);
    struct loose **added = loose_sorted(&d->added, &added_count);
    repl_result result = removed == NULL || added == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for names")
                             : renames_find(d, removed, removed_count, added, added_count, err);
    free(removed);
    free(added);
    REPL_TRY(result);
    return rest_tell(d, err);
}

static repl_result steps(struct diff *d, struct repl_diff_tree *out, struct repl_error *err)
{
    const struct repl_diff_tree_options *options = d->options;
    REPL_TRY(repl_history_changes(options->history, options->from, options->to, &d->written, err));
    out->full = d->written == NULL;
    REPL_TRY(side_read(d, &d->before, options->from, err));
    REPL_TRY(side_read(d, &d->after, options->to, err));
    REPL_TRY(names_pair(d, err));
    REPL_TRY(loose_pair(d, err));
    return changes_tell(d, out, err);
}

static void side_fini(struct side *side)
{
    repl_tree_list_free(side->list);
    free(side->keys);
    repl_buffer_fini(&side->contents);
}

repl_result repl_diff_tree(const struct repl_diff_tree_options *options, struct repl_diff_tree *out,
                           struct repl_error *err)
{
    struct diff d = {.options = options};
    *out = (struct repl_diff_tree){0};
    if (options->from == options->to)
        return REPL_SUCCESS;
    repl_result result = steps(&d, out, err);
    side_fini(&d.before);
    side_fini(&d.after);
    repl_view_free(d.written);
    repl_buffer_fini(&d.removed);
    repl_buffer_fini(&d.added);
    repl_buffer_fini(&d.changes);
    repl_buffer_fini(&d.paths);
    repl_buffer_fini(&d.path);
    return result;
}
