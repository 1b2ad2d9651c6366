/*
 * What a pool holds, for a host that is about to send some of it: the table of
 * places is in the order of the names, so a page is a stretch of it.
 */
#include <string.h>

#include "site/index/index_internal.h"

/* Of the names that agree in the prefix, the one that stands before all others. */
static struct repl_digest least_name(uint64_t prefix)
{
    struct repl_digest name = {0};
    for (size_t i = 0; i < 8; i++)
        name.bytes[i] = (uint8_t)(prefix >> (56 - 8 * i));
    return name;
}

static repl_result prefixes_walk(struct repl_index *index, MDB_txn *txn, struct index_key *from,
                                 uint64_t *out, uint32_t room, uint32_t *count, bool *more,
                                 struct repl_error *err)
{
    MDB_cursor *cursor;
    MDB_val key = repl_index_key_val(from), value;
    size_t head = from->size - sizeof(struct repl_digest);
    int error = mdb_cursor_open(txn, index->tables[INDEX_CHUNKS], &cursor);
    if (error != 0)
        return repl_index_fail(index, error, err, "read");
    error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (error == 0 && key.mv_size >= head + 8 && memcmp(key.mv_data, from->bytes, head) == 0) {
        uint64_t prefix = repl_index_key_number(&key, head, 8);
        bool again = *count > 0 && out[*count - 1] == prefix;
        *more = *count == room && !again;
        if (*more)
            break;
        if (!again)
            out[(*count)++] = prefix;
        error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_fail(index, error, err, "read");
}

repl_result repl_index_prefixes(struct repl_index *index, const char *volume, uint64_t after,
                                uint64_t *out, uint32_t room, uint32_t *count, bool *more,
                                struct repl_error *err)
{
    struct index_volume entry;
    MDB_txn *txn;
    bool found;
    *count = 0;
    *more = false;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = repl_index_volume_get(index, txn, volume, &entry, &found, err);
    if (repl_ok(result) && found && after < UINT64_MAX) {
        struct repl_digest name = least_name(after == 0 ? 0 : after + 1);
        struct index_key from = repl_index_chunk_key(entry.pool, &name);
        result = prefixes_walk(index, txn, &from, out, room, count, more, err);
    }
    repl_index_read_end(index, txn);
    return result;
}
