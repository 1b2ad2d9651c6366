/*
 * What changes the index: records of the log (index_group.c: those that come
 * together) and chunks of supplies; index_drop.c has dropping a volume.
 *
 * The index believes the log. What relates records to each other (that points
 * ascend, that an IDLE record speaks of the last point) was checked before they
 * were written; here, only that none is left out or applied twice.
 */
#include "site/index/index_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/ensure.h"
#include "format/segment_format.h"
#include "store/segment_name.h"

#define NEXT_NUMBER_KEY "next-number"

_Static_assert(INDEX_POINT_SIZE == REPL_POINT_SIZE + 17 + REPL_CHURN_SIZE,
               "a point, a time, a size, and how much has changed where that is known");

/* --- volumes --------------------------------------------------------------------------------- */

static repl_result volume_put(struct index_write *write, const char *name,
                              const struct index_volume *volume, struct repl_error *err)
{
    uint8_t bytes[INDEX_VOLUME_SIZE];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u32(&w, volume->number);
    repl_write_u32(&w, volume->pool);
    repl_write_u64(&w, volume->log_end);
    repl_write_u64(&w, volume->record_number);
    repl_write_u64(&w, volume->point_seq);
    return repl_index_put(write, INDEX_VOLUMES, repl_index_text_val(name), &w, err);
}

repl_result repl_index_number_take(struct index_write *write, uint32_t *out, struct repl_error *err)
{
    bool found;
    MDB_val key = repl_index_text_val(NEXT_NUMBER_KEY), value;
    REPL_TRY(repl_index_get(write->index, write->txn, INDEX_MAIN, key, &value, &found, err));
    *out = 1;
    if (found) {
        struct repl_reader r = repl_index_reader_of(INDEX_MAIN, &key, &value);
        *out = repl_read_u32(&r);
        if (!repl_ok(repl_reader_end(&r, NULL, "")) || *out == UINT32_MAX)
            return repl_index_damaged(write->index, INDEX_VOLUMES, err);
    }
    uint8_t bytes[4];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u32(&w, *out + 1);
    return repl_index_put(write, INDEX_MAIN, key, &w, err);
}

/* The volume's entry, or a new one with a number of its own (stored by the caller). */
static repl_result volume_make(struct index_write *write, const char *name,
                               struct index_volume *out, struct repl_error *err)
{
    uint8_t bytes[REPL_VOLUME_NAME_SIZE];
    bool found;
    REPL_TRY(repl_index_volume_get(write->index, write->txn, name, out, &found, err));
    if (found)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_number_take(write, &out->number, err));
    out->pool = out->number;
    struct index_key key = repl_index_volume_key(out->number);
    struct repl_writer w = repl_writer_of(bytes, strnlen(name, sizeof bytes));
    repl_write_bytes(&w, name, w.size);
    return repl_index_put(write, INDEX_NUMBERS, repl_index_key_val(&key), &w, err);
}

/* --- points, segments, chunks, names --------------------------------------------------------- */

static repl_result point_put(struct index_write *write, uint32_t volume,
                             const struct repl_points_entry *entry, struct repl_error *err)
{
    uint8_t bytes[INDEX_POINT_SIZE];
    struct index_key key = repl_index_point_key(volume, entry->point.seq);
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_point_encode(&w, &entry->point);
    repl_write_i64(&w, entry->unchanged_until_ns);
    repl_write_u64(&w, entry->volume_size);
    repl_write_u8(&w, entry->churn.known);
    if (entry->churn.known)
        repl_churn_encode(&w, &entry->churn);
    w.size = w.position;
    return repl_index_put(write, INDEX_POINTS, repl_index_key_val(&key), &w, err);
}

repl_result repl_index_point_put(struct index_write *write, uint32_t volume,
                                 const struct repl_log_piece *piece, struct repl_error *err)
{
    const struct repl_log_commit *commit_record = &piece->commit;
    struct repl_points_entry entry = {.point = commit_record->point,
                                      .unchanged_until_ns = piece->unchanged_until_ns,
                                      .volume_size = commit_record->volume_size,
                                      .churn = commit_record->churn};
    if (entry.unchanged_until_ns < entry.point.end_ns)
        entry.unchanged_until_ns = entry.point.end_ns;
    return point_put(write, volume, &entry, err);
}

repl_result repl_index_piece_put(struct index_write *write, uint32_t volume,
                                 const struct repl_log_piece *piece, struct repl_error *err)
{
    uint8_t bytes[INDEX_PIECE_SIZE];
    struct index_key key = repl_index_segment_key(volume, piece->commit.to_seq, piece->commit.part);
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u8(&w, piece->commit.churn.known);
    repl_log_piece_encode(&w, piece);
    w.size = w.position;
    return repl_index_put(write, INDEX_SEGMENTS, repl_index_key_val(&key), &w, err);
}

repl_result repl_index_chunks_put(struct index_write *write, const struct index_volume *volume,
                                  const struct repl_segment_id *id,
                                  const struct repl_chunk_entry *chunks, uint32_t count,
                                  struct repl_error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t bytes[INDEX_CHUNK_SIZE];
        struct index_key key = repl_index_chunk_key(volume->pool, &chunks[i].name);
        struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
        repl_write_u32(&w, volume->number);
        repl_write_u64(&w, id->to_seq);
        repl_write_u32(&w, id->part);
        repl_write_u16(&w, (uint16_t)id->supply);
        repl_write_u64(&w, id->merge);
        repl_write_u32(&w, chunks[i].frame);
        repl_write_u32(&w, chunks[i].frame_offset);
        REPL_TRY(repl_index_put(write, INDEX_CHUNKS, repl_index_key_val(&key), &w, err));
    }
    return REPL_SUCCESS;
}

repl_result repl_index_key_remove(struct index_write *write, enum index_table table,
                                  struct index_key *key, struct repl_error *err)
{
    MDB_val key_value = repl_index_key_val(key);
    int error = mdb_del(write->txn, write->index->tables[table], &key_value, NULL);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_write_fail(write, error, err);
}

repl_result repl_index_mark_put(struct index_write *write, uint32_t volume,
                                const struct repl_log_mark *mark, struct repl_error *err)
{
    uint8_t bytes[INDEX_MARK_SIZE];
    struct index_key key = repl_index_mark_key(volume, mark->name);
    if (mark->kind == REPL_MARK_REMOVED)
        return repl_index_key_remove(write, INDEX_MARKS, &key, err);
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u32(&w, mark->kind);
    repl_write_u64(&w, mark->seq);
    return repl_index_put(write, INDEX_MARKS, repl_index_key_val(&key), &w, err);
}

/* --- applying records ------------------------------------------------------------------------ */

static repl_result apply_commit(struct index_write *write, struct index_volume *volume,
                                const struct repl_index_record *added, struct repl_error *err)
{
    struct repl_log_piece piece;
    repl_log_piece_of_commit(added->record, &piece);
    struct repl_segment_id id = {.to_seq = piece.commit.to_seq, .part = piece.commit.part};
    REPL_TRY(repl_index_piece_put(write, volume->number, &piece, err));
    REPL_TRY(repl_index_chunks_put(write, volume, &id, added->chunks, added->chunk_count, err));
    REPL_TRY(repl_index_references_put(write, volume, piece.commit.from_seq, &id, added->refs,
                                       added->ref_count, err));
    if (!piece.commit.has_point)
        return REPL_SUCCESS;
    volume->point_seq = piece.commit.point.seq;
    return repl_index_point_put(write, volume->number, &piece, err);
}

/* The segment that ends in the point, which is the last one of those up to it. */
static repl_result idle_piece(struct index_write *write, uint32_t volume,
                              const struct repl_log_idle *idle, struct repl_error *err)
{
    struct repl_log_piece piece;
    struct index_key key = repl_index_segment_key(volume, idle->seq, UINT32_MAX);
    MDB_val key_value = repl_index_key_val(&key), value;
    MDB_cursor *cursor;
    int error = mdb_cursor_open(write->txn, write->index->tables[INDEX_SEGMENTS], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    error = mdb_cursor_get(cursor, &key_value, &value, MDB_SET_RANGE);
    if (error == MDB_NOTFOUND)
        error = mdb_cursor_get(cursor, &key_value, &value, MDB_LAST);
    else if (error == 0 && mdb_cmp(write->txn, write->index->tables[INDEX_SEGMENTS], &key_value,
                                   &(MDB_val){.mv_size = key.size, .mv_data = key.bytes}) > 0)
        error = mdb_cursor_get(cursor, &key_value, &value, MDB_PREV);
    bool found = error == 0 && key_value.mv_size == key.size &&
                 memcmp(key_value.mv_data, key.bytes, 12) == 0;
    repl_result result =
        found ? repl_index_piece_decode(write->index, &key_value, &value, &piece, err)
              : repl_index_damaged(write->index, INDEX_SEGMENTS, err);
    mdb_cursor_close(cursor);
    REPL_TRY(result);
    piece.unchanged_until_ns = idle->until_ns;
    return repl_index_piece_put(write, volume, &piece, err);
}

static repl_result apply_idle(struct index_write *write, const struct index_volume *volume,
                              const struct repl_log_idle *idle, struct repl_error *err)
{
    struct repl_points_entry entry;
    struct index_key key = repl_index_point_key(volume->number, idle->seq);
    MDB_val key_value = repl_index_key_val(&key), value;
    bool found;
    /* Of another point than the last one it says nothing that could be true. */
    if (idle->seq != volume->point_seq || idle->seq == 0)
        return REPL_SUCCESS;
    REPL_TRY(
        repl_index_get(write->index, write->txn, INDEX_POINTS, key_value, &value, &found, err));
    if (!found)
        return repl_index_damaged(write->index, INDEX_POINTS, err);
    REPL_TRY(repl_index_point_decode(write->index, &key_value, &value, &entry, err));
    if (idle->until_ns <= entry.unchanged_until_ns)
        return REPL_SUCCESS;
    entry.unchanged_until_ns = idle->until_ns;
    REPL_TRY(idle_piece(write, volume->number, idle, err));
    return point_put(write, volume->number, &entry, err);
}

struct apply {
    const char *name;
    const struct repl_index_record *records;
    size_t count;
    uint64_t log_end;
};

/* Whether the records are the next of the log, and no part of a group. */
static repl_result apply_check(const struct index_write *write, const struct index_volume *volume,
                               const struct apply *apply, struct repl_error *err)
{
    const struct repl_log_record *first = apply->records[0].record;
    bool anew = first->type == REPL_LOG_CHECKPOINT;
    size_t count = 1;
    if (first->type == REPL_LOG_MERGE)
        count += first->merge.records;
    else if (anew)
        count += first->checkpoint.records;
    bool fits =
        apply->count == count && first->type != REPL_LOG_PIECE && first->type != REPL_LOG_GONE &&
        (anew ? first->number > volume->record_number
              : first->number == volume->record_number + 1 && apply->log_end > volume->log_end);
    for (size_t i = 1; fits && i < count; i++)
        fits = apply->records[i].record->number == first->number + i;
    if (fits)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_INTERNAL,
                     "the index %s is at record %" PRIu64 " of volume %s, which ends at byte "
                     "%" PRIu64 ", and was given %zu from record %" PRIu64
                     " on, which end at %" PRIu64,
                     write->index->path, volume->record_number, apply->name, volume->log_end,
                     apply->count, first->number, apply->log_end);
}

static repl_result apply_records(struct index_write *write, struct index_volume *volume,
                                 const struct apply *apply, struct repl_error *err)
{
    const struct repl_log_record *first = apply->records[0].record;
    switch (first->type) {
    case REPL_LOG_COMMIT:
        return apply_commit(write, volume, &apply->records[0], err);
    case REPL_LOG_IDLE:
        return apply_idle(write, volume, &first->idle, err);
    case REPL_LOG_MARK:
        return repl_index_mark_put(write, volume->number, &first->mark, err);
    case REPL_LOG_MERGE:
        return repl_index_merge_apply(write, volume, apply->records, apply->count, err);
    case REPL_LOG_CHECKPOINT:
        return repl_index_checkpoint_apply(write, volume, apply->records, apply->count, err);
    case REPL_LOG_POOL:
        return repl_index_pool_join(write, volume, first->pool.name, err);
    case REPL_LOG_CREATE:
    case REPL_LOG_STATE:
    case REPL_LOG_PIECE:
    case REPL_LOG_GONE:
        break;
    }
    return REPL_SUCCESS;
}

static repl_result apply_work(struct index_write *write, void *context, struct repl_error *err)
{
    const struct apply *apply = context;
    struct index_volume volume;
    REPL_TRY(volume_make(write, apply->name, &volume, err));
    REPL_TRY(apply_check(write, &volume, apply, err));
    REPL_TRY(apply_records(write, &volume, apply, err));
    volume.record_number = apply->records[apply->count - 1].record->number;
    volume.log_end = apply->log_end;
    return volume_put(write, apply->name, &volume, err);
}

repl_result repl_index_apply(struct repl_index *index, const char *volume,
                             const struct repl_index_record *records, size_t count,
                             uint64_t log_end, struct repl_error *err)
{
    struct apply apply = {.name = volume, .records = records, .count = count, .log_end = log_end};
    ensure(count > 0);
    return repl_index_write(index, apply_work, &apply, err);
}

/* --- chunks ---------------------------------------------------------------------------------- */

struct segment_add {
    const char *name;
    struct repl_segment_id id;
    const struct repl_chunk_entry *chunks;
    uint32_t count;
    const struct repl_digest *refs;
    uint32_t ref_count;
};

static repl_result add_work(struct index_write *write, void *context, struct repl_error *err)
{
    const struct segment_add *add = context;
    struct index_volume volume;
    REPL_TRY(volume_make(write, add->name, &volume, err));
    REPL_TRY(repl_index_chunks_put(write, &volume, &add->id, add->chunks, add->count, err));
    REPL_TRY(repl_index_references_put(write, &volume, add->id.to_seq, &add->id, add->refs,
                                       add->ref_count, err));
    return volume_put(write, add->name, &volume, err);
}

repl_result repl_index_add_chunks(struct repl_index *index, const char *volume,
                                  const struct repl_segment_id *id,
                                  const struct repl_chunk_entry *chunks, uint32_t chunk_count,
                                  struct repl_error *err)
{
    struct segment_add add = {.name = volume, .id = *id, .chunks = chunks, .count = chunk_count};
    return repl_index_write(index, add_work, &add, err);
}

repl_result repl_index_add_references(struct repl_index *index, const char *volume,
                                      const struct repl_segment_id *id,
                                      const struct repl_digest *names, uint32_t count,
                                      struct repl_error *err)
{
    struct segment_add add = {.name = volume, .id = *id, .refs = names, .ref_count = count};
    return repl_index_write(index, add_work, &add, err);
}

struct chunks_forget {
    const char *name;
    const struct repl_digest *names;
    size_t count;
};

static repl_result forget_work(struct index_write *write, void *context, struct repl_error *err)
{
    const struct chunks_forget *forget = context;
    struct index_volume volume;
    struct repl_chunk_place place;
    bool found, good;
    REPL_TRY(repl_index_volume_get(write->index, write->txn, forget->name, &volume, &found, err));
    for (size_t i = 0; found && i < forget->count; i++) {
        struct index_key key = repl_index_chunk_key(volume.pool, &forget->names[i]);
        bool there;
        REPL_TRY(repl_index_place_get(write->index, write->txn, volume.pool, &forget->names[i],
                                      &place, &there, &good, err));
        if (there && !good)
            REPL_TRY(repl_index_key_remove(write, INDEX_CHUNKS, &key, err));
        REPL_TRY(repl_index_references_sweep(write, volume.pool, &forget->names[i], err));
    }
    return REPL_SUCCESS;
}

repl_result repl_index_forget_chunks(struct repl_index *index, const char *volume,
                                     const struct repl_digest *names, size_t count,
                                     struct repl_error *err)
{
    struct chunks_forget forget = {.name = volume, .names = names, .count = count};
    return repl_index_write(index, forget_work, &forget, err);
}

static repl_result forget_supply_work(struct index_write *write, void *context,
                                      struct repl_error *err)
{
    const struct segment_add *gone = context;
    struct index_volume volume;
    bool found;
    REPL_TRY(repl_index_volume_get(write->index, write->txn, gone->name, &volume, &found, err));
    for (uint32_t i = 0; found && i < gone->count; i++) {
        const struct repl_digest *name = &gone->chunks[i].name;
        struct index_key key = repl_index_chunk_key(volume.pool, name);
        struct repl_chunk_place place;
        bool there, good;
        REPL_TRY(repl_index_place_get(write->index, write->txn, volume.pool, name, &place, &there,
                                      &good, err));
        if (!good || strcmp(place.volume, gone->name) != 0 ||
            repl_segment_id_order(&place.segment, &gone->id) != 0)
            continue;
        REPL_TRY(repl_index_key_remove(write, INDEX_CHUNKS, &key, err));
        REPL_TRY(repl_index_references_sweep(write, volume.pool, name, err));
    }
    return REPL_SUCCESS;
}

repl_result repl_index_forget_supply(struct repl_index *index, const char *volume,
                                     const struct repl_segment_id *id,
                                     const struct repl_chunk_entry *chunks, uint32_t chunk_count,
                                     struct repl_error *err)
{
    struct segment_add gone = {.name = volume, .id = *id, .chunks = chunks, .count = chunk_count};
    ensure(id->supply != 0);
    return repl_index_write(index, forget_supply_work, &gone, err);
}
