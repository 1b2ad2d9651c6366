/*
 * Who refers to a chunk: an entry for each name and each segment that refers to
 * it.
 *
 * Not a number for each name, as a merge would have to take away what the
 * segments that go have added: for that somebody has to know their names, and
 * where a log is caught up with their files may be gone; or the index keeps a
 * list for each segment, which is written besides. An entry for a name and a
 * segment is put where the number would have been written, on the same page, and
 * nothing need be undone: it counts while its segment is there, as a place does.
 * It takes more disk, and counting walks; who asks whether anybody refers to a
 * chunk mostly finds one at once.
 *
 * What segments that are gone have left is removed where a merge writes the same
 * name anyway, next to it, and when the chunk is forgotten.
 */
#include "site/index/index_internal.h"

#include <stdlib.h>
#include <string.h>

#include "store/segment_name.h"

#define NAME_END (4u + (unsigned)sizeof(struct repl_digest)) /* of the key */
#define KEY_SIZE (NAME_END + 24u)

struct walk {
    const struct repl_index *index;
    MDB_txn *txn;
    struct index_key prefix;
    MDB_cursor *cursor;
    int error;       /* of LMDB; MDB_NOTFOUND: the end */
    uint32_t volume; /* whose segment refers to the chunk, */
    struct repl_segment_id id;
};

static void walk_look(struct walk *walk, MDB_val *key, MDB_val *value, struct repl_error *err,
                      repl_result *result)
{
    if (walk->error != 0)
        return;
    if (key->mv_size < NAME_END || memcmp(key->mv_data, walk->prefix.bytes, NAME_END) != 0) {
        walk->error = MDB_NOTFOUND;
        return;
    }
    if (repl_index_reader_of(INDEX_REFERENCES, key, value).failed || key->mv_size != KEY_SIZE)
        *result = repl_index_damaged(walk->index, INDEX_REFERENCES, err);
    walk->volume = (uint32_t)repl_index_key_number(key, NAME_END, 4);
    walk->id =
        (struct repl_segment_id){.to_seq = repl_index_key_number(key, NAME_END + 4, 8),
                                 .part = (uint32_t)repl_index_key_number(key, NAME_END + 12, 4),
                                 .merge = repl_index_key_number(key, NAME_END + 16, 8)};
}

/* At the first reference by that volume behind from_seq, or by one with a greater number;
 * walk.error says whether there is one. */
static repl_result walk_begin(struct walk *walk, const struct repl_index *index, MDB_txn *txn,
                              uint32_t pool, const struct repl_digest *name, uint32_t volume,
                              uint64_t from_seq, struct repl_error *err)
{
    const struct repl_segment_id from = {.to_seq = from_seq};
    *walk = (struct walk){
        .index = index, .txn = txn, .prefix = repl_index_reference_key(pool, name, volume, &from)};
    MDB_val key = repl_index_key_val(&walk->prefix), value;
    repl_result result = REPL_SUCCESS;
    int error = mdb_cursor_open(txn, index->tables[INDEX_REFERENCES], &walk->cursor);
    if (error != 0)
        return repl_index_fail(index, error, err, "read");
    walk->error = mdb_cursor_get(walk->cursor, &key, &value, MDB_SET_RANGE);
    walk_look(walk, &key, &value, err, &result);
    return result;
}

static repl_result walk_next(struct walk *walk, struct repl_error *err)
{
    MDB_val key, value;
    repl_result result = REPL_SUCCESS;
    walk->error = mdb_cursor_get(walk->cursor, &key, &value, MDB_NEXT);
    walk_look(walk, &key, &value, err, &result);
    return result;
}

/* Closes it: REPL_SUCCESS at the end or before it, else what LMDB has said. */
static repl_result walk_end(struct walk *walk, repl_result result, struct repl_error *err)
{
    if (walk->cursor != NULL)
        mdb_cursor_close(walk->cursor);
    REPL_TRY(result);
    return walk->error == 0 || walk->error == MDB_NOTFOUND
               ? REPL_SUCCESS
               : repl_index_fail(walk->index, walk->error, err, "read");
}

/* --- writing --------------------------------------------------------------------------------- */

/* Removes where the walk is what a segment that is gone has left, and goes on. */
static repl_result sweep_one(struct walk *walk, struct repl_error *err)
{
    bool there;
    REPL_TRY(
        repl_index_segment_is_there(walk->index, walk->txn, walk->volume, &walk->id, &there, err));
    if (!there)
        walk->error = mdb_cursor_del(walk->cursor, 0);
    return walk->error == 0 ? walk_next(walk, err) : REPL_SUCCESS;
}

static repl_result sweep_end(struct index_write *write, struct walk *walk, repl_result result,
                             struct repl_error *err)
{
    if (walk->error != MDB_NOTFOUND)
        write->error = walk->error;
    return walk_end(walk, result, err);
}

repl_result repl_index_references_sweep(struct index_write *write, uint32_t pool,
                                        const struct repl_digest *name, struct repl_error *err)
{
    struct walk walk;
    repl_result result = walk_begin(&walk, write->index, write->txn, pool, name, 0, 0, err);
    while (repl_ok(result) && walk.error == 0)
        result = sweep_one(&walk, err);
    return sweep_end(write, &walk, result, err);
}

/* Those of the volume alone with from_seq < to_seq <= last_seq. */
static repl_result span_sweep(struct index_write *write, const struct index_volume *volume,
                              const struct repl_digest *name, uint64_t from_seq, uint64_t last_seq,
                              struct repl_error *err)
{
    struct walk walk;
    repl_result result = walk_begin(&walk, write->index, write->txn, volume->pool, name,
                                    volume->number, from_seq, err);
    while (repl_ok(result) && walk.error == 0 && walk.volume == volume->number &&
           walk.id.to_seq <= last_seq)
        result = sweep_one(&walk, err);
    return sweep_end(write, &walk, result, err);
}

repl_result repl_index_references_put(struct index_write *write, const struct index_volume *volume,
                                      uint64_t from_seq, const struct repl_segment_id *id,
                                      const struct repl_digest *names, uint32_t count,
                                      struct repl_error *err)
{
    struct repl_writer nothing = repl_writer_of(NULL, 0);
    for (uint32_t i = 0; i < count; i++) {
        struct index_key key =
            repl_index_reference_key(volume->pool, &names[i], volume->number, id);
        if (id->merge != 0 && from_seq < id->to_seq)
            REPL_TRY(span_sweep(write, volume, &names[i], from_seq, id->to_seq, err));
        REPL_TRY(repl_index_put(write, INDEX_REFERENCES, repl_index_key_val(&key), &nothing, err));
    }
    return REPL_SUCCESS;
}

/* --- reading --------------------------------------------------------------------------------- */

struct count {
    const struct repl_digest *name;
    const struct repl_segment_id *without;
    size_t without_count;
    bool own; /* by the volume's own segments alone */
    uint64_t limit, count;
};

static int id_order(const void *a, const void *b)
{
    return repl_segment_id_order(a, b);
}

static bool counts(const struct count *count, uint32_t volume, const struct walk *walk)
{
    if (walk->volume != volume)
        return !count->own;
    return count->without_count == 0 || bsearch(&walk->id, count->without, count->without_count,
                                                sizeof walk->id, id_order) == NULL;
}

static repl_result count_in(struct repl_index *index, MDB_txn *txn,
                            const struct index_volume *volume, struct count *count,
                            struct repl_error *err)
{
    struct walk walk;
    repl_result result = walk_begin(&walk, index, txn, volume->pool, count->name, 0, 0, err);
    while (repl_ok(result) && walk.error == 0 && count->count < count->limit) {
        bool there = counts(count, volume->number, &walk);
        if (there)
            result = repl_index_segment_is_there(index, txn, walk.volume, &walk.id, &there, err);
        count->count += repl_ok(result) && there;
        if (repl_ok(result))
            result = walk_next(&walk, err);
    }
    return walk_end(&walk, result, err);
}

static repl_result references_count(struct repl_index *index, const char *name, struct count *count,
                                    struct repl_error *err)
{
    struct index_volume volume;
    MDB_txn *txn;
    bool found;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = repl_index_volume_get(index, txn, name, &volume, &found, err);
    if (repl_ok(result) && found)
        result = count_in(index, txn, &volume, count, err);
    repl_index_read_end(index, txn);
    return result;
}

repl_result repl_index_references(struct repl_index *index, const char *volume,
                                  const struct repl_digest *name, uint64_t *out,
                                  struct repl_error *err)
{
    struct count count = {.name = name, .limit = UINT64_MAX};
    repl_result result = references_count(index, volume, &count, err);
    *out = count.count;
    return result;
}

repl_result repl_index_is_referred_by(struct repl_index *index, const char *volume,
                                      const struct repl_digest *name, bool *referred,
                                      struct repl_error *err)
{
    struct count count = {.name = name, .own = true, .limit = 1};
    repl_result result = references_count(index, volume, &count, err);
    *referred = count.count > 0;
    return result;
}

repl_result repl_index_is_referred(struct repl_index *index, const char *volume,
                                   const struct repl_digest *name,
                                   const struct repl_segment_id *without, size_t without_count,
                                   bool *referred, struct repl_error *err)
{
    struct count count = {
        .name = name, .without = without, .without_count = without_count, .limit = 1};
    repl_result result = references_count(index, volume, &count, err);
    *referred = count.count > 0;
    return result;
}

static repl_result referrer_add(const struct walk *walk, struct repl_buffer *out,
                                struct repl_error *err)
{
    struct repl_chunk_referrer referrer = {.segment = walk->id};
    bool there;
    REPL_TRY(
        repl_index_segment_is_there(walk->index, walk->txn, walk->volume, &walk->id, &there, err));
    if (there)
        REPL_TRY(repl_index_name_get(walk->index, walk->txn, walk->volume, referrer.volume, &there,
                                     err));
    return there ? repl_buffer_append(out, &referrer, sizeof referrer, err) : REPL_SUCCESS;
}

static repl_result referrers_list(struct repl_index *index, MDB_txn *txn, uint32_t pool,
                                  const struct repl_digest *name, struct repl_buffer *out,
                                  struct repl_error *err)
{
    struct walk walk;
    repl_result result = walk_begin(&walk, index, txn, pool, name, 0, 0, err);
    while (repl_ok(result) && walk.error == 0) {
        result = referrer_add(&walk, out, err);
        if (repl_ok(result))
            result = walk_next(&walk, err);
    }
    return walk_end(&walk, result, err);
}

repl_result repl_index_referrers(struct repl_index *index, const char *volume,
                                 const struct repl_digest *name, struct repl_buffer *out,
                                 struct repl_error *err)
{
    struct index_volume entry;
    MDB_txn *txn;
    bool found;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = repl_index_volume_get(index, txn, volume, &entry, &found, err);
    if (repl_ok(result) && found)
        result = referrers_list(index, txn, entry.pool, name, out, err);
    repl_index_read_end(index, txn);
    return result;
}
