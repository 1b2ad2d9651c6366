/*
 * Pools: the volumes among which chunks are shared. What is known of chunks and of
 * who refers to them lies under the number of the pool, so nobody finds what is of
 * another one.
 *
 * A volume begins with a pool of its own, and may once join one that has a name. All
 * that it had goes along in the transaction of the record that says so: were a part
 * left behind for a while, a merge of another volume could take a chunk for one that
 * nobody refers to.
 */
#include "site/index/index_internal.h"

#include <string.h>

#include "base/ensure.h"

static repl_result pool_make(struct index_write *write, const char *name, uint32_t *number,
                             struct repl_error *err)
{
    MDB_val key = repl_index_text_val(name), value;
    uint8_t bytes[4];
    bool found;
    REPL_TRY(repl_index_get(write->index, write->txn, INDEX_POOLS, key, &value, &found, err));
    if (found) {
        struct repl_reader r = repl_index_reader_of(INDEX_POOLS, &key, &value);
        *number = repl_read_u32(&r);
        return repl_ok(repl_reader_end(&r, NULL, ""))
                   ? REPL_SUCCESS
                   : repl_index_damaged(write->index, INDEX_POOLS, err);
    }
    REPL_TRY(repl_index_number_take(write, number, err));
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u32(&w, *number);
    return repl_index_put(write, INDEX_POOLS, key, &w, err);
}

/* The entry where the cursor is, under another number. */
static repl_result entry_move(struct index_write *write, enum index_table table, MDB_cursor *cursor,
                              const MDB_val *key, const MDB_val *value, const struct index_key *to,
                              struct repl_error *err)
{
    struct repl_reader r = repl_index_reader_of(table, key, value);
    uint8_t fields[INDEX_CHUNK_SIZE];
    struct index_key moved = {.size = key->mv_size};
    if (r.failed || r.size > sizeof fields)
        return repl_index_damaged(write->index, table, err);
    memcpy(moved.bytes, key->mv_data, key->mv_size);
    memcpy(moved.bytes, to->bytes, to->size);
    struct repl_writer w = repl_writer_of(fields, r.size);
    repl_write_bytes(&w, r.data, r.size);
    int error = mdb_cursor_del(cursor, 0);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    return repl_index_put(write, table, repl_index_key_val(&moved), &w, err);
}

static repl_result table_move(struct index_write *write, enum index_table table, uint32_t from,
                              uint32_t to, struct repl_error *err)
{
    struct index_key prefix = repl_index_volume_key(from), target = repl_index_volume_key(to);
    MDB_cursor *cursor;
    int error = mdb_cursor_open(write->txn, write->index->tables[table], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result)) {
        MDB_val key = repl_index_key_val(&prefix), value;
        error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (error != 0 || key.mv_size < prefix.size ||
            memcmp(key.mv_data, prefix.bytes, prefix.size) != 0)
            break;
        result = entry_move(write, table, cursor, &key, &value, &target, err);
    }
    mdb_cursor_close(cursor);
    REPL_TRY(result);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_write_fail(write, error, err);
}

repl_result repl_index_pool_join(struct index_write *write, struct index_volume *volume,
                                 const char *name, struct repl_error *err)
{
    uint32_t pool;
    REPL_TRY(pool_make(write, name, &pool, err));
    if (volume->pool == pool)
        return REPL_SUCCESS;
    if (volume->pool != volume->number)
        return repl_fail(err, REPL_E_INTERNAL, "a volume of one pool was to join the pool %s",
                         name);
    REPL_TRY(table_move(write, INDEX_CHUNKS, volume->number, pool, err));
    REPL_TRY(table_move(write, INDEX_REFERENCES, volume->number, pool, err));
    volume->pool = pool;
    return REPL_SUCCESS;
}
