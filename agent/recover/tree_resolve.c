/*
 * From the top, directory by directory: those that are found go to the end of
 * the list that is being worked through. Each is taken once, so a tree that
 * runs in circles comes to an end here, and nobody behind sees that it did.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "recover/tree_plan_internal.h"

/* A transaction keeps in memory what it changes: names until the next commit. */
#define COMMIT_NAMES 30000u

struct resolving {
    struct repl_tree_reader reader;
    struct repl_tree_totals *totals;
    repl_tree_fault_fn *fault;
    void *context;
    uint64_t dir_count;
    unsigned names; /* since the last commit */
};

static repl_result put(struct resolving *r, enum plan_table table, const uint64_t *key,
                       size_t key_count, const void *data, size_t size, bool *is_new,
                       struct repl_error *err)
{
    uint8_t bytes[16];
    repl_tree_numbers_put(bytes, key, key_count);
    MDB_val key_val = repl_tree_val(bytes, key_count * 8), value = repl_tree_val(data, size);
    struct repl_tree_plan *plan = r->reader.plan;
    int error = mdb_put(r->reader.txn, plan->tables[table], &key_val, &value, MDB_NOOVERWRITE);
    *is_new = error == 0;
    return error == 0 || error == MDB_KEYEXIST ? REPL_SUCCESS
                                               : repl_tree_plan_fail(plan, error, err);
}

static size_t place_encode(const struct repl_tree_place *place, uint8_t out[8 + REPL_NAME_MAX])
{
    repl_tree_numbers_put(out, &place->parent, 1);
    memcpy(out + 8, place->name, place->name_size);
    return 8 + place->name_size;
}

/* *is_new: it has not been reached before, under another name. */
static repl_result where_put(struct resolving *r, uint64_t object,
                             const struct repl_tree_place *place, bool *is_new,
                             struct repl_error *err)
{
    uint8_t bytes[8 + REPL_NAME_MAX];
    size_t size = place_encode(place, bytes);
    return put(r, PLAN_WHERE, &object, 1, bytes, size, is_new, err);
}

static repl_result directory_put(struct resolving *r, uint64_t object, struct repl_error *err)
{
    uint8_t bytes[8];
    bool is_new;
    repl_tree_numbers_put(bytes, &object, 1);
    REPL_TRY(put(r, PLAN_DIRS, &r->dir_count, 1, bytes, sizeof bytes, &is_new, err));
    r->dir_count++;
    r->totals->directories++;
    return REPL_SUCCESS;
}

static repl_result leaf_put(struct resolving *r, uint64_t object, const struct repl_node *node,
                            const struct repl_tree_place *place, struct repl_error *err)
{
    bool is_new, found;
    REPL_TRY(where_put(r, object, place, &is_new, err));
    if (!is_new) {
        uint8_t bytes[8 + REPL_NAME_MAX];
        uint64_t key[2] = {object, r->totals->links++};
        return put(r, PLAN_LINKS, key, 2, bytes, place_encode(place, bytes), &is_new, err);
    }
    struct repl_tree_key run = {.object = object, .type = REPL_RECORD_RUN};
    struct repl_record first = {0};
    REPL_TRY(repl_tree_next(&r->reader, &run, &first, &found, err));
    uint64_t key[2] = {found ? first.place : 0, object};
    REPL_TRY(put(r, PLAN_WORK, key, 2, "", 0, &is_new, err));
    if (node->kind == REPL_NODE_FILE)
        r->totals->files++;
    else
        r->totals->others++;
    return REPL_SUCCESS;
}

__attribute__((format(printf, 3, 4))) static void
senseless(struct resolving *r, const struct repl_tree_place *place, const char *format, ...)
{
    struct repl_error err = {.code = REPL_E_CORRUPT};
    va_list args;
    va_start(args, format);
    vsnprintf(err.text, sizeof err.text, format, args);
    va_end(args);
    r->fault(r->context, &r->reader, place, &err);
}

static repl_result name_resolve(struct resolving *r, uint64_t object,
                                const struct repl_tree_place *place, struct repl_error *err)
{
    struct repl_node node;
    bool found, is_new = false;
    REPL_TRY(repl_tree_node(&r->reader, object, &node, &found, err));
    if (!found) {
        senseless(r, place, "it leads to object %llu, which the point does not have",
                  (unsigned long long)object);
        return REPL_SUCCESS;
    }
    if (node.kind != REPL_NODE_DIRECTORY)
        return leaf_put(r, object, &node, place, err);
    if (object != r->reader.plan->root)
        REPL_TRY(where_put(r, object, place, &is_new, err));
    if (is_new)
        return directory_put(r, object, err);
    senseless(r, place, "directory %llu has another name already, or is in itself",
              (unsigned long long)object);
    return REPL_SUCCESS;
}

static repl_result names_resolve(struct resolving *r, uint64_t directory, struct repl_error *err)
{
    struct repl_tree_key key = {.object = directory, .type = REPL_RECORD_NAME};
    for (bool found = true;;) {
        struct repl_record record;
        REPL_TRY(repl_tree_next(&r->reader, &key, &record, &found, err));
        if (!found)
            return REPL_SUCCESS;
        const struct repl_tree_place place = {directory, record.name, record.name_size};
        REPL_TRY(name_resolve(r, record.child, &place, err));
        if (++r->names < COMMIT_NAMES)
            continue;
        r->names = 0;
        REPL_TRY(repl_tree_reader_commit(&r->reader, err));
    }
}

/* --- the top --------------------------------------------------------------------------------- */

struct top {
    uint64_t object;
    const char *name; /* the last component; "" for the tree's own top */
    size_t name_size;
};

static repl_result top_find(struct resolving *r, const char *path, struct top *top,
                            struct repl_error *err)
{
    *top = (struct top){.object = REPL_OBJECT_ROOT, .name = ""};
    for (const char *at = path;;) {
        at += strspn(at, "/");
        size_t size = strcspn(at, "/");
        if (size == 0)
            return REPL_SUCCESS;
        if (size == 2 && memcmp(at, "..", 2) == 0)
            return repl_fail(err, REPL_E_USAGE, "--path: .. is not followed, name it from the top");
        if (size != 1 || *at != '.') {
            uint64_t child;
            REPL_TRY(repl_tree_child(&r->reader, top->object, at, size, &child, err));
            if (child == 0)
                return repl_fail(err, REPL_E_MISSING, "the point has no %s", path);
            *top = (struct top){child, at, size};
        }
        at += size;
    }
}

static repl_result top_resolve(struct resolving *r, const char *path, struct repl_error *err)
{
    struct top top;
    struct repl_node node;
    bool found;
    REPL_TRY(top_find(r, path, &top, err));
    REPL_TRY(repl_tree_node(&r->reader, top.object, &node, &found, err));
    if (!found || (top.object == REPL_OBJECT_ROOT && node.kind != REPL_NODE_DIRECTORY))
        return repl_fail(err, REPL_E_CORRUPT, "the point lacks %s",
                         top.name_size > 0 ? path : "the directory at its top");
    if (node.kind == REPL_NODE_DIRECTORY) {
        r->reader.plan->root = top.object;
        return directory_put(r, top.object, err);
    }
    r->reader.plan->root = REPL_TREE_TARGET;
    const struct repl_tree_place place = {REPL_TREE_TARGET, top.name, (uint32_t)top.name_size};
    return leaf_put(r, top.object, &node, &place, err);
}

/* Of a whole tree: what no name leads to. */
static void unnamed_tell(struct resolving *r)
{
    const struct repl_tree_totals *t = r->totals;
    uint64_t count = r->reader.plan->node_count - t->files - t->directories - t->others;
    if (r->reader.plan->root != REPL_OBJECT_ROOT || count == 0)
        return;
    const struct repl_tree_place whole = {.parent = REPL_TREE_TARGET};
    senseless(r, &whole, "%llu files or directories of the point have no name, and are left out",
              (unsigned long long)count);
}

static repl_result resolve(struct resolving *r, const char *path, struct repl_error *err)
{
    REPL_TRY(top_resolve(r, path, err));
    for (uint64_t i = 0; i < r->dir_count; i++) {
        uint64_t directory;
        bool found;
        REPL_TRY(repl_tree_directory(&r->reader, i, &directory, &found, err));
        REPL_TRY(names_resolve(r, directory, err));
    }
    unnamed_tell(r);
    return repl_tree_reader_commit(&r->reader, err);
}

repl_result repl_tree_plan_resolve(struct repl_tree_plan *plan, const char *path,
                                   repl_tree_fault_fn *fault, void *context,
                                   struct repl_tree_totals *totals, struct repl_error *err)
{
    struct resolving r = {.totals = totals, .fault = fault, .context = context};
    *totals = (struct repl_tree_totals){0};
    repl_result result = repl_tree_reader_begin(&r.reader, plan, true, err);
    if (repl_ok(result))
        result = resolve(&r, path, err);
    repl_tree_reader_end(&r.reader);
    return result;
}
