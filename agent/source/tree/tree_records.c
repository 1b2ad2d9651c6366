#include "source/tree/tree_records.h"

#include <string.h>

enum phase { PHASE_NEXT, PHASE_ATTRIBUTES, PHASE_NAMES, PHASE_EXTENTS };

repl_result repl_tree_records_begin(struct repl_tree_records *r, struct repl_tree_index *index,
                                    bool full, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    r->full = full;
    r->limit = REPL_TREE_RECORDS_OBJECTS;
    r->phase = PHASE_NEXT;
    r->left = false;
    r->given = r->next != 0 ? r->given : 0;
    REPL_TRY(repl_tree_begin(index, false, &r->txn, err));
    r->begun = true;
    if (!full)
        repl_tree_key_u64(&key, r->stamp);
    repl_tree_key_u64(&key, r->next);
    repl_result result = repl_tree_walk_begin(&r->txn, full ? REPL_TREE_OBJECT : REPL_TREE_PENDING,
                                              &key, &r->list, err);
    if (!repl_ok(result))
        repl_tree_records_end(r);
    return result;
}

void repl_tree_records_end(struct repl_tree_records *r)
{
    if (!r->begun)
        return;
    repl_tree_walk_end(&r->inner);
    repl_tree_walk_end(&r->list);
    repl_tree_abort(&r->txn);
    r->begun = false;
    if (!r->left)
        r->next = 0;
}

/* --- of one object --------------------------------------------------------------------------- */

static repl_result inner_begin(struct repl_tree_records *r, enum repl_tree_table table,
                               enum phase phase, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    repl_tree_key_u64(&key, r->object.object);
    repl_tree_walk_end(&r->inner);
    r->phase = phase;
    return repl_tree_walk_begin(&r->txn, table, &key, &r->inner, err);
}

static repl_result node_give(struct repl_tree_records *r, struct repl_record *record,
                             struct repl_error *err)
{
    struct repl_tree_key key = {0};
    bool found;
    *record = (struct repl_record){
        .type = REPL_RECORD_NODE, .object = r->object.object, .node = r->object.node};
    r->attribute = 0;
    r->phase = PHASE_ATTRIBUTES;
    repl_tree_key_u64(&key, r->object.object);
    REPL_TRY(repl_tree_get(&r->txn, REPL_TREE_ATTRIBUTE, &key, &r->attributes, &found, err));
    if (!found)
        r->attributes.mv_size = 0;
    return REPL_SUCCESS;
}

static bool attribute_give(struct repl_tree_records *r, struct repl_record *record)
{
    struct repl_tree_attribute a;
    if (!repl_tree_attribute_next(r->attributes.mv_data, r->attributes.mv_size, &r->attribute, &a))
        return false;
    bool inside = a.value_size <= REPL_XATTR_INLINE_MAX;
    *record = (struct repl_record){.type = REPL_RECORD_XATTR,
                                   .object = r->object.object,
                                   .name = a.name,
                                   .name_size = a.name_size,
                                   .value = inside ? a.value : NULL,
                                   .value_size = a.value_size,
                                   .place = inside ? 0 : a.place};
    return true;
}

/* text: hash, name. */
static void name_fill(uint64_t directory, const uint8_t *text, size_t size, uint64_t child,
                      struct repl_record *record)
{
    *record = (struct repl_record){.type = REPL_RECORD_NAME,
                                   .object = directory,
                                   .offset = repl_tree_key_read(text),
                                   .name = (const char *)text + 8,
                                   .name_size = (uint32_t)(size - 8),
                                   .child = child};
}

static repl_result name_give(struct repl_tree_records *r, struct repl_record *record, bool *given,
                             struct repl_error *err)
{
    *given = repl_tree_walk_is_at(&r->inner, r->object.object);
    if (!*given)
        return REPL_SUCCESS;
    name_fill(r->object.object, (const uint8_t *)r->inner.key.mv_data + 8, r->inner.key.mv_size - 8,
              repl_tree_key_read(r->inner.value.mv_data), record);
    return repl_tree_walk_next(&r->inner, err);
}

static repl_result extent_give(struct repl_tree_records *r, struct repl_record *record, bool *given,
                               struct repl_error *err)
{
    struct repl_tree_extent extent;
    *given = repl_tree_walk_is_at(&r->inner, r->object.object);
    if (!*given)
        return REPL_SUCCESS;
    memcpy(&extent, r->inner.value.mv_data, sizeof extent);
    bool hole = extent.place == REPL_TREE_HOLE;
    *record = (struct repl_record){
        .type = hole ? REPL_RECORD_HOLE : REPL_RECORD_RUN,
        .object = r->object.object,
        .offset = repl_tree_key_read((const uint8_t *)r->inner.key.mv_data + 8),
        .length = extent.length,
        .place = hole ? 0 : extent.place};
    return repl_tree_walk_next(&r->inner, err);
}

/* --- the list -------------------------------------------------------------------------------- */

static repl_result list_next(struct repl_tree_records *r, struct repl_error *err)
{
    r->given++;
    return repl_tree_walk_next(&r->list, err);
}

/* Whether the list's next object may still go into this segment. */
static bool object_begin(struct repl_tree_records *r, uint64_t object)
{
    if (object == r->next)
        return true;
    r->next = object;
    r->left = r->limit == 0;
    if (!r->left)
        r->limit--;
    return !r->left;
}

static repl_result full_next(struct repl_tree_records *r, struct repl_record *record, bool *given,
                             bool *done, struct repl_error *err)
{
    bool found;
    uint64_t object = r->list.done ? 0 : repl_tree_key_read(r->list.key.mv_data);
    *done = r->list.done || !object_begin(r, object);
    if (*done)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_object_get(&r->txn, object, &r->object, &found, err));
    *given = true;
    REPL_TRY(node_give(r, record, err));
    return list_next(r, err);
}

/* What is noted of an object that is gone by now is but that. */
static repl_result gone_next(struct repl_tree_records *r, enum repl_tree_pending what,
                             struct repl_record *record, bool *given, struct repl_error *err)
{
    *given = what == REPL_TREE_PENDING_NODE;
    *record = (struct repl_record){.type = REPL_RECORD_NODE, .object = r->object.object};
    return list_next(r, err);
}

static repl_result pending_name(struct repl_tree_records *r, const uint8_t *text, size_t size,
                                struct repl_record *record, struct repl_error *err)
{
    uint64_t child;
    REPL_TRY(repl_tree_name_get(&r->txn, r->object.object, (const char *)text + 8, size - 8, &child,
                                err));
    name_fill(r->object.object, text, size, child, record);
    return REPL_SUCCESS;
}

static repl_result pending_next(struct repl_tree_records *r, struct repl_record *record,
                                bool *given, bool *done, struct repl_error *err)
{
    const uint8_t *key = r->list.key.mv_data;
    size_t size = r->list.key.mv_size;
    bool found;
    *done = r->list.done || repl_tree_key_read(key) != r->stamp ||
            !object_begin(r, repl_tree_key_read(key + 8));
    if (*done)
        return REPL_SUCCESS;
    enum repl_tree_pending what = key[16];
    REPL_TRY(repl_tree_object_get(&r->txn, repl_tree_key_read(key + 8), &r->object, &found, err));
    if (!found)
        return gone_next(r, what, record, given, err);
    switch (what) {
    case REPL_TREE_PENDING_NODE:
        *given = true;
        REPL_TRY(node_give(r, record, err));
        break;
    case REPL_TREE_PENDING_NAME:
        *given = true;
        REPL_TRY(pending_name(r, key + 17, size - 17, record, err));
        break;
    case REPL_TREE_PENDING_EXTENTS:
        REPL_TRY(inner_begin(r, REPL_TREE_EXTENT, PHASE_EXTENTS, err));
        break;
    case REPL_TREE_PENDING_CONTENT:
        break;
    }
    return list_next(r, err);
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result step(struct repl_tree_records *r, struct repl_record *record, bool *given,
                        bool *done, struct repl_error *err)
{
    switch ((enum phase)r->phase) {
    case PHASE_NEXT:
        return r->full ? full_next(r, record, given, done, err)
                       : pending_next(r, record, given, done, err);
    case PHASE_ATTRIBUTES:
        *given = attribute_give(r, record);
        if (*given)
            return REPL_SUCCESS;
        r->phase = PHASE_NEXT;
        return r->full ? inner_begin(r, REPL_TREE_NAME, PHASE_NAMES, err) : REPL_SUCCESS;
    case PHASE_NAMES:
        REPL_TRY(name_give(r, record, given, err));
        return *given ? REPL_SUCCESS : inner_begin(r, REPL_TREE_EXTENT, PHASE_EXTENTS, err);
    case PHASE_EXTENTS:
        REPL_TRY(extent_give(r, record, given, err));
        if (!*given)
            r->phase = PHASE_NEXT;
        return REPL_SUCCESS;
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_records_next(void *context, struct repl_record *record, bool *done,
                                   struct repl_error *err)
{
    bool given = false;
    *done = false;
    while (!given && !*done)
        REPL_TRY(step(context, record, &given, done, err));
    return REPL_SUCCESS;
}
