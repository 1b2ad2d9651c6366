/*
 * Forgetting a volume: in one small transaction it is known no more, and then what it
 * has left is removed in many, which a start goes on with.
 *
 * What lies under the volume's number is found at once. In a pool that it shared,
 * places and references lie among those of others, in the order of the names: all of
 * the two tables is walked for them. Nothing is lost on others by that: their
 * references stay, and what the volume was the place of is found nowhere, as before.
 */
#include "site/index/index_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"

/* Removed, and looked at, in one transaction. */
#define PURGE_BATCH 10000u
#define PURGE_LOOKS 100000u

static repl_result drop_work(struct index_write *write, void *context, struct repl_error *err)
{
    struct repl_index *index = write->index;
    const char *name = context;
    struct index_volume volume;
    bool found;
    REPL_TRY(repl_index_volume_get(index, write->txn, name, &volume, &found, err));
    if (!found)
        return REPL_SUCCESS;
    MDB_val key = repl_index_text_val(name);
    int error = mdb_del(write->txn, index->tables[INDEX_VOLUMES], &key, NULL);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    struct index_key dropped = repl_index_volume_key(volume.number);
    REPL_TRY(repl_index_key_remove(write, INDEX_NUMBERS, &dropped, err));
    struct repl_writer nothing = repl_writer_of(NULL, 0);
    return repl_index_put(write, INDEX_DROPPED, repl_index_key_val(&dropped), &nothing, err);
}

repl_result repl_index_prefix_remove(struct index_write *write, enum index_table table,
                                     struct index_key *prefix, uint32_t *left,
                                     struct repl_error *err)
{
    MDB_cursor *cursor;
    int error = mdb_cursor_open(write->txn, write->index->tables[table], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    while (*left > 0) {
        MDB_val key = repl_index_key_val(prefix);
        error = mdb_cursor_get(cursor, &key, NULL, MDB_SET_RANGE);
        if (error != 0 || key.mv_size < prefix->size ||
            memcmp(key.mv_data, prefix->bytes, prefix->size) != 0)
            break;
        error = mdb_cursor_del(cursor, 0);
        if (error != 0)
            break;
        *left -= 1;
    }
    mdb_cursor_close(cursor);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_write_fail(write, error, err);
}

/* What has been looked through, so far, and with the next transaction. */
struct purge {
    uint32_t volume; /* 0: none is left */
    struct purge_place {
        bool own;      /* what lies under its number is removed */
        size_t shared; /* of the tables that pools share, this one is next, */
        struct index_key at;
    } done, next;
};

static const enum index_table own_tables[] = {INDEX_POINTS, INDEX_SEGMENTS, INDEX_CHUNKS,
                                              INDEX_REFERENCES, INDEX_MARKS};
static const enum index_table shared_tables[] = {INDEX_CHUNKS, INDEX_REFERENCES};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* *out: of a volume that was dropped; 0: there is none. */
static repl_result dropped_find(struct index_write *write, uint32_t *out, struct repl_error *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    *out = 0;
    int error = mdb_cursor_open(write->txn, write->index->tables[INDEX_DROPPED], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    error = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    bool whole = error != 0 || !repl_index_reader_of(INDEX_DROPPED, &key, &value).failed;
    if (error == 0)
        *out = (uint32_t)repl_index_key_number(&key, 0, 4);
    mdb_cursor_close(cursor);
    if (!whole) /* it may name a volume that lives */
        return repl_index_damaged(write->index, INDEX_DROPPED, err);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_write_fail(write, error, err);
}

static bool is_of(enum index_table table, const MDB_val *key, const MDB_val *value, uint32_t volume)
{
    if (table == INDEX_REFERENCES)
        return repl_index_key_number(key, 4 + sizeof(struct repl_digest), 4) == volume;
    struct repl_reader r = repl_index_reader_of(table, key, value);
    return !r.failed && repl_read_u32(&r) == volume;
}

/* From *at on; behind the last one it is empty. */
static repl_result shared_walk(struct index_write *write, enum index_table table, uint32_t volume,
                               struct index_key *at, uint32_t *looks, struct repl_error *err)
{
    MDB_cursor *cursor;
    MDB_val key = repl_index_key_val(at), value;
    int error = mdb_cursor_open(write->txn, write->index->tables[table], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    error = mdb_cursor_get(cursor, &key, &value, at->size == 0 ? MDB_FIRST : MDB_SET_RANGE);
    for (; error == 0 && *looks > 0; --*looks) {
        if (is_of(table, &key, &value, volume))
            error = mdb_cursor_del(cursor, 0);
        if (error == 0)
            error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    at->size = 0;
    if (error == 0 && key.mv_size <= sizeof at->bytes) {
        memcpy(at->bytes, key.mv_data, key.mv_size);
        at->size = key.mv_size;
    }
    mdb_cursor_close(cursor);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_write_fail(write, error, err);
}

/* One transaction's worth of what a dropped volume left. */
static repl_result purge_work(struct index_write *write, void *context, struct repl_error *err)
{
    struct purge *purge = context;
    struct purge_place *place = &purge->next;
    uint32_t left = PURGE_BATCH, looks = PURGE_LOOKS;
    *place = purge->done;
    REPL_TRY(dropped_find(write, &purge->volume, err));
    if (purge->volume == 0)
        return REPL_SUCCESS;
    struct index_key prefix = repl_index_volume_key(purge->volume);
    for (size_t i = 0; i < COUNT(own_tables) && !place->own; i++)
        REPL_TRY(repl_index_prefix_remove(write, own_tables[i], &prefix, &left, err));
    place->own |= left > 0;
    while (place->own && place->shared < COUNT(shared_tables) && looks > 0) {
        REPL_TRY(shared_walk(write, shared_tables[place->shared], purge->volume, &place->at, &looks,
                             err));
        place->shared += place->at.size == 0;
    }
    if (place->shared < COUNT(shared_tables))
        return REPL_SUCCESS;
    *place = (struct purge_place){0}; /* for the next volume */
    return repl_index_key_remove(write, INDEX_DROPPED, &prefix, err);
}

repl_result repl_index_purge(struct repl_index *index, struct repl_error *err)
{
    struct purge purge = {.volume = UINT32_MAX};
    while (purge.volume != 0) {
        REPL_TRY(repl_index_write(index, purge_work, &purge, err));
        purge.done = purge.next;
    }
    return REPL_SUCCESS;
}

repl_result repl_index_drop(struct repl_index *index, const char *volume, struct repl_error *err)
{
    char name[REPL_VOLUME_NAME_SIZE + 1];
    ensure(!index->in_batch);
    snprintf(name, sizeof name, "%s", volume);
    REPL_TRY(repl_index_write(index, drop_work, name, err));
    return repl_index_purge(index, err);
}

/* --- which there are ------------------------------------------------------------------------- */

struct member_list {
    struct repl_index_member *members;
    size_t count, room;
};

/* "" of a pool without one. */
static repl_result pool_name_get(const struct repl_index *index, MDB_txn *txn, uint32_t pool,
                                 char name[REPL_VOLUME_NAME_SIZE + 1], struct repl_error *err)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    bool whole = true;
    name[0] = '\0';
    int error = mdb_cursor_open(txn, index->tables[INDEX_POOLS], &cursor);
    if (error != 0)
        return repl_index_fail(index, error, err, "read");
    error = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; error == 0 && whole; error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct repl_reader r = repl_index_reader_of(INDEX_POOLS, &key, &value);
        uint32_t number = repl_read_u32(&r);
        whole = repl_ok(repl_reader_end(&r, NULL, "")) && key.mv_size <= REPL_VOLUME_NAME_SIZE;
        if (whole && number == pool) {
            memcpy(name, key.mv_data, key.mv_size);
            name[key.mv_size] = '\0';
        }
    }
    mdb_cursor_close(cursor);
    if (!whole)
        return repl_index_damaged(index, INDEX_POOLS, err);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_fail(index, error, err, "read");
}

static repl_result member_add(const struct repl_index *index, const MDB_val *key, MDB_txn *txn,
                              struct member_list *list, struct repl_error *err)
{
    struct repl_index_member *member;
    struct index_volume volume;
    bool found;
    if (key->mv_size > REPL_VOLUME_NAME_SIZE)
        return repl_index_damaged(index, INDEX_VOLUMES, err);
    struct repl_index_member *larger =
        repl_index_list_grow(list->members, list->count, &list->room, sizeof *larger);
    if (larger == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of volumes");
    list->members = larger;
    member = &list->members[list->count];
    *member = (struct repl_index_member){0};
    memcpy(member->volume, key->mv_data, key->mv_size);
    REPL_TRY(repl_index_volume_get(index, txn, member->volume, &volume, &found, err));
    member->pool = volume.pool;
    if (volume.pool != volume.number)
        REPL_TRY(pool_name_get(index, txn, volume.pool, member->pool_name, err));
    list->count++;
    return REPL_SUCCESS;
}

repl_result repl_index_members(struct repl_index *index, struct repl_index_member **out,
                               size_t *count, struct repl_error *err)
{
    struct member_list list = {0};
    MDB_cursor *cursor = NULL;
    MDB_val key, value;
    MDB_txn *txn;
    *out = NULL;
    *count = 0;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = REPL_SUCCESS;
    int error = mdb_cursor_open(txn, index->tables[INDEX_VOLUMES], &cursor);
    if (error == 0)
        error = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    while (error == 0 && repl_ok(result)) {
        result = member_add(index, &key, txn, &list, err);
        if (repl_ok(result))
            error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    if (cursor != NULL)
        mdb_cursor_close(cursor);
    repl_index_read_end(index, txn);
    if (repl_ok(result) && error != MDB_NOTFOUND)
        result = repl_index_fail(index, error, err, "read");
    if (!repl_ok(result)) {
        free(list.members);
        return result;
    }
    *out = list.members;
    *count = list.count;
    return REPL_SUCCESS;
}
