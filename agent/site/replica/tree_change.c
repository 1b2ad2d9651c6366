/*
 * Which file has a place in the space: a run is kept a second time, cut into
 * aligned pieces of 4 KiB, 64 KiB, 1 MiB and so on, as large as they fit. So a
 * run of any length is a few dozen pieces at most, and what a changed stretch
 * touches is found by one search for each size.
 */
#include "site/replica/tree_change.h"

#include <string.h>

#include "base/cursor.h"
#include "format/segment_format.h"

#define SIZES     11u /* 4 KiB << 40 is more than any space has */
#define SIZE_STEP 4u
#define NO_END    (UINT64_C(1) << 62) /* behind all offsets */

struct change {
    struct replica_map *map;
    uint64_t space_size;
    bool todo;
    uint64_t xattr_count; /* of the object whose node was last */
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* --- what is to do --------------------------------------------------------------------------- */

/* Notes what there was at A the first time; before the tables say anything else of the object. */
static repl_result todo_add(struct change *c, uint64_t object, uint32_t flags,
                            struct repl_error *err)
{
    const struct replica_key key = REPLICA_KEY(object);
    struct replica_todo todo = {0};
    bool found, known;
    if (!c->todo)
        return REPL_SUCCESS;
    REPL_TRY(replica_map_todo(c->map, object, &todo, &found, err));
    if (found && (todo.flags & flags) == flags)
        return REPL_SUCCESS;
    if (!found) {
        struct repl_node node;
        REPL_TRY(replica_map_node(c->map, object, &node, &known, err));
        if (known)
            todo = (struct replica_todo){
                .old_kind = node.kind, .old_size = node.size, .old_mtime_ns = node.mtime_ns};
    }
    todo.flags |= flags;
    return replica_map_put(c->map, REPLICA_TODO, &key, &todo, sizeof todo, err);
}

/* Of what is new, all is written anyway. */
static repl_result range_add(struct change *c, uint64_t object, uint64_t offset, uint64_t length,
                             struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(object, offset);
    struct replica_todo todo;
    uint8_t bytes[8];
    MDB_val value;
    bool found;
    if (!c->todo || length == 0)
        return REPL_SUCCESS;
    REPL_TRY(todo_add(c, object, REPLICA_TODO_CONTENT | REPLICA_TODO_META, err));
    REPL_TRY(replica_map_todo(c->map, object, &todo, &found, err));
    if (todo.old_kind == REPL_NODE_GONE)
        return REPL_SUCCESS;
    REPL_TRY(replica_map_last(c->map, REPLICA_TODO_RANGE, &key, 8, &value, &found, err));
    uint64_t begin = found ? replica_key_number(&key, 1) : offset, end = offset + length;
    if (found && begin + repl_tree_number(value.mv_data) >= end)
        return REPL_SUCCESS;
    if (!found || begin + repl_tree_number(value.mv_data) < offset)
        begin = offset;
    length = end - begin;
    key = REPLICA_KEY(object, begin);
    repl_tree_numbers_put(bytes, &length, 1);
    return replica_map_put(c->map, REPLICA_TODO_RANGE, &key, bytes, sizeof bytes, err);
}

/* --- runs ------------------------------------------------------------------------------------ */

struct run {
    uint64_t offset, length, place;
};

static repl_result pieces_set(struct change *c, uint64_t object, const struct run *run, bool there,
                              struct repl_error *err)
{
    uint64_t end = run->place + run->length;
    for (uint64_t at = run->place; at < end;) {
        uint64_t unit = REPL_PAGE_SIZE, size = 0;
        while (size + 1 < SIZES && at % (unit << SIZE_STEP) == 0 && end - at >= unit << SIZE_STEP) {
            unit <<= SIZE_STEP;
            size++;
        }
        const struct replica_key key =
            REPLICA_KEY(size, at, object, run->offset + (at - run->place));
        REPL_TRY(there ? replica_map_put(c->map, REPLICA_PLACE, &key, "", 0, err)
                       : replica_map_del(c->map, REPLICA_PLACE, &key, err));
        at += unit;
    }
    return REPL_SUCCESS;
}

static repl_result run_set(struct change *c, uint64_t object, const struct run *run, bool there,
                           struct repl_error *err)
{
    const struct replica_key key = REPLICA_KEY(object, run->offset);
    const uint64_t numbers[2] = {run->length, run->place};
    uint8_t bytes[16];
    if (run->length == 0)
        return REPL_SUCCESS;
    repl_tree_numbers_put(bytes, numbers, 2);
    REPL_TRY(there ? replica_map_put(c->map, REPLICA_RUN, &key, bytes, sizeof bytes, err)
                   : replica_map_del(c->map, REPLICA_RUN, &key, err));
    return pieces_set(c, object, run, there, err);
}

/* The first run of the object that ends behind *at, which is at its offset afterwards. */
static repl_result run_find(struct change *c, uint64_t object, uint64_t at, struct run *run,
                            bool *found, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(object, at);
    MDB_val value;
    REPL_TRY(replica_map_last(c->map, REPLICA_RUN, &key, 8, &value, found, err));
    if (*found && replica_key_number(&key, 1) + repl_tree_number(value.mv_data) <= at)
        *found = false;
    if (!*found) {
        key = REPLICA_KEY(object, at);
        REPL_TRY(replica_map_next(c->map, REPLICA_RUN, &key, 8, &value, found, err));
    }
    if (*found)
        *run = (struct run){.offset = replica_key_number(&key, 1),
                            .length = repl_tree_number(value.mv_data),
                            .place = repl_tree_number((const uint8_t *)value.mv_data + 8)};
    return REPL_SUCCESS;
}

/* Leaves nothing of the object's runs within [begin, end). */
static repl_result runs_cut(struct change *c, uint64_t object, uint64_t begin, uint64_t end,
                            struct repl_error *err)
{
    for (struct run run;;) {
        bool found;
        REPL_TRY(run_find(c, object, begin, &run, &found, err));
        if (!found || run.offset >= end)
            return REPL_SUCCESS;
        REPL_TRY(run_set(c, object, &run, false, err));
        uint64_t run_end = run.offset + run.length;
        if (run.offset < begin) {
            const struct run left = {run.offset, begin - run.offset, run.place};
            REPL_TRY(run_set(c, object, &left, true, err));
        }
        if (run_end > end) {
            const struct run right = {end, run_end - end, run.place + (end - run.offset)};
            REPL_TRY(run_set(c, object, &right, true, err));
        }
    }
}

/* What of [begin, end) does not lie, or does not yet lie, where the record says. */
static repl_result ranges_differing(struct change *c, const struct repl_record *record,
                                    struct repl_error *err)
{
    bool hole = record->type == REPL_RECORD_HOLE;
    uint64_t end = record->offset + record->length;
    for (uint64_t at = record->offset, to; at < end; at = to) {
        struct run run;
        bool found;
        REPL_TRY(run_find(c, record->object, at, &run, &found, err));
        bool inside = found && run.offset <= at;
        to = inside ? least(end, run.offset + run.length) : found ? least(end, run.offset) : end;
        bool same =
            inside ? !hole && run.place + (at - run.offset) == record->place + (at - record->offset)
                   : hole;
        if (!same)
            REPL_TRY(range_add(c, record->object, at, to - at, err));
    }
    return REPL_SUCCESS;
}

static repl_result range_load(struct change *c, const struct repl_record *record,
                              struct repl_error *err)
{
    const struct run run = {record->offset, record->length, record->place};
    REPL_TRY(ranges_differing(c, record, err));
    REPL_TRY(runs_cut(c, record->object, run.offset, run.offset + run.length, err));
    return record->type == REPL_RECORD_RUN ? run_set(c, record->object, &run, true, err)
                                           : REPL_SUCCESS;
}

/* --- names ----------------------------------------------------------------------------------- */

static repl_result name_get(struct change *c, const struct replica_key *key, uint64_t *child,
                            struct repl_error *err)
{
    MDB_val value;
    bool found;
    REPL_TRY(replica_map_get(c->map, REPLICA_NAME, key, &value, &found, err));
    *child = found ? repl_tree_number(value.mv_data) : 0;
    return REPL_SUCCESS;
}

/* What the directory has under the name at A: the first time that it changes. */
static repl_result name_note(struct change *c, const struct replica_key *key, uint64_t old,
                             uint64_t now, struct repl_error *err)
{
    uint64_t directory = replica_key_number(key, 0);
    MDB_val value;
    uint8_t bytes[8];
    bool found;
    if (!c->todo)
        return REPL_SUCCESS;
    REPL_TRY(todo_add(c, directory, REPLICA_TODO_META, err));
    if (now != 0)
        REPL_TRY(todo_add(c, now, REPLICA_TODO_NAMES | REPLICA_TODO_META, err));
    if (old != 0)
        REPL_TRY(todo_add(c, old, REPLICA_TODO_NAMES | REPLICA_TODO_META, err));
    REPL_TRY(replica_map_get(c->map, REPLICA_TODO_NAME, key, &value, &found, err));
    if (found)
        return REPL_SUCCESS;
    repl_tree_numbers_put(bytes, &old, 1);
    REPL_TRY(replica_map_put(c->map, REPLICA_TODO_NAME, key, bytes, sizeof bytes, err));
    const struct replica_key from = replica_key_of(&old, 1, (const char *)key->bytes, key->size);
    return old == 0 ? REPL_SUCCESS : replica_map_put(c->map, REPLICA_TODO_OLD, &from, "", 0, err);
}

static repl_result name_set(struct change *c, const struct replica_key *key, uint64_t child,
                            struct repl_error *err)
{
    uint64_t old;
    uint8_t bytes[8];
    REPL_TRY(name_get(c, key, &old, err));
    if (old == child)
        return REPL_SUCCESS;
    REPL_TRY(name_note(c, key, old, child, err));
    if (old != 0) {
        const struct replica_key where =
            replica_key_of(&old, 1, (const char *)key->bytes, key->size);
        REPL_TRY(replica_map_del(c->map, REPLICA_WHERE, &where, err));
    }
    if (child == 0)
        return replica_map_del(c->map, REPLICA_NAME, key, err);
    repl_tree_numbers_put(bytes, &child, 1);
    REPL_TRY(replica_map_put(c->map, REPLICA_NAME, key, bytes, sizeof bytes, err));
    const struct replica_key where = replica_key_of(&child, 1, (const char *)key->bytes, key->size);
    return replica_map_put(c->map, REPLICA_WHERE, &where, "", 0, err);
}

/* --- objects --------------------------------------------------------------------------------- */

static repl_result xattrs_remove(struct change *c, uint64_t object, struct repl_error *err)
{
    for (bool found = true; found;) {
        struct replica_key key = REPLICA_KEY(object);
        MDB_val value;
        REPL_TRY(replica_map_next(c->map, REPLICA_XATTR, &key, 8, &value, &found, err));
        if (found)
            REPL_TRY(replica_map_del(c->map, REPLICA_XATTR, &key, err));
    }
    return REPL_SUCCESS;
}

static repl_result names_remove(struct change *c, uint64_t directory, struct repl_error *err)
{
    for (bool found = true; found;) {
        struct replica_key key = REPLICA_KEY(directory);
        MDB_val value;
        REPL_TRY(replica_map_next(c->map, REPLICA_NAME, &key, 8, &value, &found, err));
        if (found)
            REPL_TRY(name_set(c, &key, 0, err));
    }
    return REPL_SUCCESS;
}

static repl_result gone_load(struct change *c, uint64_t object, struct repl_error *err)
{
    const struct replica_key key = REPLICA_KEY(object);
    REPL_TRY(todo_add(c, object, REPLICA_TODO_NAMES, err));
    REPL_TRY(names_remove(c, object, err));
    REPL_TRY(runs_cut(c, object, 0, NO_END, err));
    REPL_TRY(xattrs_remove(c, object, err));
    return replica_map_del(c->map, REPLICA_NODE, &key, err);
}

/* What cannot be changed in what is there. */
static bool is_made_anew(const struct repl_node *old, const struct repl_node *node)
{
    return old->major != node->major || old->minor != node->minor ||
           old->target_size != node->target_size ||
           (node->target_size > 0 && memcmp(old->target, node->target, node->target_size) != 0);
}

static repl_result node_load(struct change *c, const struct repl_record *record,
                             struct repl_error *err)
{
    const struct repl_node *node = &record->node;
    const struct replica_key key = REPLICA_KEY(record->object);
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    struct repl_node old;
    uint32_t flags = REPLICA_TODO_META;
    bool known;
    c->xattr_count = 0;
    if (node->kind == REPL_NODE_GONE)
        return gone_load(c, record->object, err);
    REPL_TRY(replica_map_node(c->map, record->object, &old, &known, err));
    if (known && old.kind != node->kind)
        return repl_fail(err, REPL_E_CORRUPT, "object %llu has become something else",
                         (unsigned long long)record->object);
    if (!known || old.size != node->size || is_made_anew(&old, node))
        flags |= REPLICA_TODO_CONTENT;
    REPL_TRY(todo_add(c, record->object, flags, err));
    REPL_TRY(xattrs_remove(c, record->object, err));
    if (node->kind == REPL_NODE_FILE)
        REPL_TRY(runs_cut(c, record->object, repl_page_count_of(node->size) * REPL_PAGE_SIZE,
                          NO_END, err));
    repl_record_encode(&w, record);
    return replica_map_put(c->map, REPLICA_NODE, &key, bytes, w.position, err);
}

static repl_result place_check(const struct change *c, const struct repl_record *record,
                               uint64_t size, struct repl_error *err)
{
    if (record->place <= c->space_size && size <= c->space_size - record->place)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_CORRUPT,
                     "object %llu has bytes at place %llu of the space, which has only %llu",
                     (unsigned long long)record->object, (unsigned long long)record->place,
                     (unsigned long long)c->space_size);
}

static repl_result record_load(struct change *c, const struct repl_record *record,
                               struct repl_error *err)
{
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    struct replica_key key;
    switch (record->type) {
    case REPL_RECORD_NODE:
        return node_load(c, record, err);
    case REPL_RECORD_XATTR:
        if (record->value == NULL)
            REPL_TRY(place_check(c, record, record->value_size, err));
        repl_record_encode(&w, record);
        key = REPLICA_KEY(record->object, c->xattr_count++);
        return replica_map_put(c->map, REPLICA_XATTR, &key, bytes, w.position, err);
    case REPL_RECORD_NAME:
        key = replica_key_of(&record->object, 1, record->name, record->name_size);
        return name_set(c, &key, record->child, err);
    case REPL_RECORD_RUN:
        REPL_TRY(place_check(c, record, record->length, err));
        return range_load(c, record, err);
    case REPL_RECORD_HOLE:
        return range_load(c, record, err);
    default:
        return repl_fail(err, REPL_E_INTERNAL, "a record of the space among those of objects");
    }
}

repl_result replica_change_records(struct replica_map *map, struct repl_tree_merge *merge,
                                   uint64_t space_size, bool todo,
                                   const struct replica_pulse *pulse, struct repl_error *err)
{
    struct change c = {.map = map, .space_size = space_size, .todo = todo};
    REPL_TRY(replica_map_begin(map, true, err));
    repl_result result;
    for (bool done = false;;) {
        struct repl_record record;
        result = repl_tree_merge_next(merge, &record, &done, err);
        if (!repl_ok(result) || done)
            break;
        result = record_load(&c, &record, err);
        if (repl_ok(result))
            result = replica_map_breathe(map, err);
        if (repl_ok(result))
            result = replica_pulse_beat(pulse, err);
        if (!repl_ok(result))
            break;
    }
    if (repl_ok(result))
        result = replica_map_commit(map, err);
    replica_map_end(map);
    return result;
}

/* --- the space ------------------------------------------------------------------------------- */

/* Pieces of one size that lie within [begin, end) of the space, or around it. */
static repl_result pieces_touch(struct change *c, uint64_t size, uint64_t begin, uint64_t end,
                                struct repl_error *err)
{
    uint64_t unit = (uint64_t)REPL_PAGE_SIZE << (size * SIZE_STEP);
    struct replica_key key = REPLICA_KEY(size, begin / unit * unit);
    for (bool found = true;;) {
        MDB_val value;
        REPL_TRY(replica_map_next(c->map, REPLICA_PLACE, &key, 8, &value, &found, err));
        uint64_t place = found ? replica_key_number(&key, 1) : end;
        if (!found || place >= end)
            return REPL_SUCCESS;
        uint64_t from = most(begin, place), to = least(end, place + unit);
        uint64_t object = replica_key_number(&key, 2);
        uint64_t offset = replica_key_number(&key, 3) + (from - place);
        if (from < to)
            REPL_TRY(range_add(c, object, offset, to - from, err));
        replica_key_pass(&key);
    }
}

static repl_result space_touch(struct change *c, const struct repl_view *changes,
                               const struct replica_pulse *pulse, struct repl_error *err)
{
    bool has[SIZES], said;
    for (uint64_t i = 0; i < SIZES; i++) {
        struct replica_key key = REPLICA_KEY(i);
        MDB_val value;
        REPL_TRY(replica_map_next(c->map, REPLICA_PLACE, &key, 8, &value, &has[i], err));
    }
    uint64_t size = repl_view_size(changes);
    for (uint64_t at = 0, length; at < size; at += length) {
        length = repl_view_said(changes, at, size - at, &said);
        for (uint64_t i = 0; said && i < SIZES; i++) {
            if (has[i])
                REPL_TRY(pieces_touch(c, i, at, at + length, err));
        }
        REPL_TRY(replica_pulse_beat(pulse, err));
        REPL_TRY(replica_map_breathe(c->map, err));
    }
    return REPL_SUCCESS;
}

/* What is put in the place of a file changes the times of the directory. */
static repl_result directories_touch(struct change *c, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(0);
    for (bool found = true;; replica_key_pass(&key)) {
        MDB_val value;
        REPL_TRY(replica_map_next(c->map, REPLICA_TODO, &key, 0, &value, &found, err));
        if (!found)
            return REPL_SUCCESS;
        struct replica_key where = REPLICA_KEY(replica_key_number(&key, 0));
        for (bool more = true;; replica_key_pass(&where)) {
            REPL_TRY(replica_map_next(c->map, REPLICA_WHERE, &where, 8, &value, &more, err));
            if (!more)
                break;
            REPL_TRY(todo_add(c, replica_key_number(&where, 1), REPLICA_TODO_META, err));
        }
        REPL_TRY(replica_map_breathe(c->map, err));
    }
}

repl_result replica_change_space(struct replica_map *map, const struct repl_view *changes,
                                 const struct replica_pulse *pulse, struct repl_error *err)
{
    struct change c = {.map = map, .space_size = repl_view_size(changes), .todo = true};
    REPL_TRY(replica_map_begin(map, true, err));
    repl_result result = space_touch(&c, changes, pulse, err);
    if (repl_ok(result))
        result = directories_touch(&c, err);
    if (repl_ok(result))
        result = replica_map_commit(map, err);
    replica_map_end(map);
    return result;
}
