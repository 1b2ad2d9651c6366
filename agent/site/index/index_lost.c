/*
 * Of a segment or supply that does not open nobody knows any more what it lists but
 * the index, and that neither where it has been computed anew since. So what it may
 * have is what is said to lie there, and what is referred to and lies nowhere.
 *
 * All places or references of the pool are walked, so many names in a transaction, as a
 * long one keeps LMDB from using pages again.
 */
#include <string.h>

#include "site/index/index_internal.h"
#include "store/segment_name.h"

#define NAMES_MAX 4096u /* in a transaction */

struct lost {
    struct repl_index *index;
    enum index_table table; /* of references, or of places */
    const char *volume;
    const struct repl_segment_id *id; /* NULL: its supplies are wanted, not names */
    struct repl_buffer *out;
    size_t left;
    struct index_key next; /* the walk goes on from here */
    bool more;
};

/* There are few of them. */
static repl_result supply_note(struct lost *lost, const struct repl_chunk_place *place,
                               struct repl_error *err)
{
    const struct repl_segment_id *ids = (const void *)lost->out->data;
    if (place->segment.supply == 0 || strcmp(place->volume, lost->volume) != 0)
        return REPL_SUCCESS;
    for (size_t i = lost->out->size / sizeof *ids; i > 0; i--) {
        if (repl_segment_id_order(&ids[i - 1], &place->segment) == 0)
            return REPL_SUCCESS;
    }
    return repl_buffer_append(lost->out, &place->segment, sizeof place->segment, err);
}

static repl_result name_look(struct lost *lost, MDB_txn *txn, uint32_t pool,
                             const struct repl_digest *name, struct repl_error *err)
{
    struct repl_chunk_place place;
    bool found, good;
    REPL_TRY(repl_index_place_get(lost->index, txn, pool, name, &place, &found, &good, err));
    if (lost->id == NULL)
        return good ? supply_note(lost, &place, err) : REPL_SUCCESS;
    bool there = good && strcmp(place.volume, lost->volume) == 0 &&
                 repl_segment_id_order(&place.segment, lost->id) == 0;
    if (!there && (good || lost->table == INDEX_CHUNKS))
        return REPL_SUCCESS;
    lost->left--;
    return repl_buffer_append(lost->out, name, sizeof *name, err);
}

/* Behind the name's place, and all references to it. */
static struct index_key key_behind(uint32_t pool, const struct repl_digest *name)
{
    const struct repl_segment_id last = {
        .to_seq = UINT64_MAX, .part = UINT32_MAX, .merge = UINT64_MAX};
    return repl_index_reference_key(pool, name, UINT32_MAX, &last);
}

static repl_result step_walk(struct lost *lost, MDB_txn *txn, uint32_t pool, MDB_cursor *cursor,
                             struct repl_error *err)
{
    const size_t head = 4, end = head + sizeof(struct repl_digest);
    for (unsigned i = 0; i < NAMES_MAX && lost->left > 0; i++) {
        MDB_val key = repl_index_key_val(&lost->next), value;
        struct repl_digest name;
        int error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        if (error != 0 && error != MDB_NOTFOUND)
            return repl_index_fail(lost->index, error, err, "read");
        if (error != 0 || key.mv_size < end || memcmp(key.mv_data, lost->next.bytes, head) != 0)
            return REPL_SUCCESS;
        memcpy(name.bytes, (const uint8_t *)key.mv_data + head, sizeof name);
        REPL_TRY(name_look(lost, txn, pool, &name, err));
        lost->next = key_behind(pool, &name);
    }
    lost->more = lost->left > 0;
    return REPL_SUCCESS;
}

static repl_result step(struct lost *lost, MDB_txn *txn, struct repl_error *err)
{
    const struct repl_digest first = {0};
    const struct repl_segment_id none = {0};
    struct index_volume entry;
    MDB_cursor *cursor;
    bool found;
    lost->more = false;
    REPL_TRY(repl_index_volume_get(lost->index, txn, lost->volume, &entry, &found, err));
    if (!found)
        return REPL_SUCCESS;
    if (lost->next.size == 0)
        lost->next = repl_index_reference_key(entry.pool, &first, 0, &none);
    int error = mdb_cursor_open(txn, lost->index->tables[lost->table], &cursor);
    if (error != 0)
        return repl_index_fail(lost->index, error, err, "read");
    repl_result result = step_walk(lost, txn, entry.pool, cursor, err);
    mdb_cursor_close(cursor);
    return result;
}

static repl_result names_find(struct lost *lost, struct repl_error *err)
{
    lost->more = true;
    while (lost->more) {
        MDB_txn *txn;
        REPL_TRY(repl_index_read_begin(lost->index, &txn, err));
        repl_result result = step(lost, txn, err);
        repl_index_read_end(lost->index, txn);
        REPL_TRY(result);
    }
    return REPL_SUCCESS;
}

repl_result repl_index_lost(struct repl_index *index, const char *volume,
                            const struct repl_segment_id *id, struct repl_buffer *out, size_t room,
                            struct repl_error *err)
{
    struct lost lost = {.index = index,
                        .table = INDEX_REFERENCES,
                        .volume = volume,
                        .id = id,
                        .out = out,
                        .left = room};
    return names_find(&lost, err);
}

repl_result repl_index_listed(struct repl_index *index, const char *volume,
                              const struct repl_segment_id *id, struct repl_buffer *out,
                              struct repl_error *err)
{
    struct lost lost = {.index = index,
                        .table = INDEX_CHUNKS,
                        .volume = volume,
                        .id = id,
                        .out = out,
                        .left = SIZE_MAX};
    return names_find(&lost, err);
}

repl_result repl_index_supplies(struct repl_index *index, const char *volume,
                                struct repl_buffer *out, struct repl_error *err)
{
    struct lost lost = {
        .index = index, .table = INDEX_CHUNKS, .volume = volume, .out = out, .left = SIZE_MAX};
    return names_find(&lost, err);
}
