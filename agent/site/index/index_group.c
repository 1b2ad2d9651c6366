/*
 * Records that come together: a MERGE, which takes segments away and puts others
 * in their place, and a CHECKPOINT, which says all there is.
 *
 * Which segments go is the rule of journal/chain.c, and so is which of what is
 * left ends in a point: a base that has been brought forward has tiles that were
 * made at earlier points, and these are points no more.
 */
#include "site/index/index_internal.h"

#include <string.h>

#include "journal/chain.h"

/* Points and segments of a volume in (from, to]. */
struct span {
    uint32_t volume;
    uint64_t from, to;
};

static bool is_within(const struct span *span, const MDB_val *key)
{
    return key->mv_size >= 12 && repl_index_key_number(key, 0, 4) == span->volume &&
           repl_index_key_number(key, 4, 8) <= span->to;
}

/* --- segments that go ------------------------------------------------------------------------ */

/* Of a merge that brings the base forward, tiles only go where a GONE says so. */
static repl_result segments_remove(struct index_write *write, const struct span *span,
                                   bool tiles_stay, struct repl_error *err)
{
    struct index_key from = repl_index_segment_key(span->volume, span->from + 1, 0);
    MDB_val key = repl_index_key_val(&from), value;
    MDB_cursor *cursor;
    int error = mdb_cursor_open(write->txn, write->index->tables[INDEX_SEGMENTS], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    repl_result result = REPL_SUCCESS;
    error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (error == 0 && is_within(span, &key)) {
        struct repl_log_piece piece;
        result = repl_index_piece_decode(write->index, &key, &value, &piece, err);
        if (!repl_ok(result))
            break;
        if (!tiles_stay || piece.commit.from_seq > 0)
            error = mdb_cursor_del(cursor, 0);
        if (error == 0)
            error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    REPL_TRY(result);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_write_fail(write, error, err);
}

static repl_result tile_remove(struct index_write *write, uint32_t volume,
                               const struct repl_log_gone *gone, struct repl_error *err)
{
    struct index_key key = repl_index_segment_key(volume, gone->to_seq, gone->part);
    MDB_val key_value = repl_index_key_val(&key), value;
    struct repl_log_piece piece;
    bool found;
    REPL_TRY(
        repl_index_get(write->index, write->txn, INDEX_SEGMENTS, key_value, &value, &found, err));
    if (!found)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_piece_decode(write->index, &key_value, &value, &piece, err));
    if (piece.merge != gone->merge)
        return REPL_SUCCESS;
    int error = mdb_del(write->txn, write->index->tables[INDEX_SEGMENTS], &key_value, NULL);
    return error == 0 ? REPL_SUCCESS : repl_index_write_fail(write, error, err);
}

/* --- points ---------------------------------------------------------------------------------- */

static repl_result points_remove(struct index_write *write, const struct span *span,
                                 struct repl_error *err)
{
    struct index_key from = repl_index_point_key(span->volume, span->from + 1);
    MDB_val key = repl_index_key_val(&from);
    MDB_cursor *cursor;
    int error = mdb_cursor_open(write->txn, write->index->tables[INDEX_POINTS], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    error = mdb_cursor_get(cursor, &key, NULL, MDB_SET_RANGE);
    while (error == 0 && is_within(span, &key)) {
        error = mdb_cursor_del(cursor, 0);
        if (error == 0)
            error = mdb_cursor_get(cursor, &key, NULL, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_write_fail(write, error, err);
}

/* The first of two neighbours, or of the list's last one alone, may end in a point. */
static repl_result point_of(struct index_write *write, const struct span *span,
                            struct repl_log_piece *pair, size_t count, uint64_t *last,
                            struct repl_error *err)
{
    const struct repl_chain neighbours = {.entries = pair, .count = count};
    if (!repl_chain_has_point(&neighbours, 0))
        return REPL_SUCCESS;
    *last = pair[0].commit.to_seq;
    return repl_index_point_put(write, span->volume, &pair[0], err);
}

/* Puts the points of the segments in the span. *last: the last of them, if there is one. */
static repl_result points_put(struct index_write *write, const struct span *span, uint64_t *last,
                              struct repl_error *err)
{
    struct index_key from = repl_index_segment_key(span->volume, span->from + 1, 0);
    MDB_val key = repl_index_key_val(&from), value;
    struct repl_log_piece pair[2];
    size_t count = 0;
    MDB_cursor *cursor;
    int error = mdb_cursor_open(write->txn, write->index->tables[INDEX_SEGMENTS], &cursor);
    if (error != 0)
        return repl_index_write_fail(write, error, err);
    repl_result result = REPL_SUCCESS;
    bool within = true;
    error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (error == 0 && within && repl_index_key_number(&key, 0, 4) == span->volume) {
        within = is_within(span, &key); /* the one behind it is still a neighbour */
        result = repl_index_piece_decode(write->index, &key, &value, &pair[count++], err);
        if (repl_ok(result) && count == 2) {
            result = point_of(write, span, pair, count--, last, err);
            pair[0] = pair[1];
        }
        if (!repl_ok(result))
            break;
        error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    REPL_TRY(result);
    if (error != 0 && error != MDB_NOTFOUND)
        return repl_index_write_fail(write, error, err);
    return within && count == 1 ? point_of(write, span, pair, 1, last, err) : REPL_SUCCESS;
}

/* --- groups ---------------------------------------------------------------------------------- */

static repl_result piece_add(struct index_write *write, const struct index_volume *volume,
                             const struct repl_index_record *added, struct repl_error *err)
{
    const struct repl_log_piece *piece = &added->record->piece;
    struct repl_segment_id id = {
        .to_seq = piece->commit.to_seq, .part = piece->commit.part, .merge = piece->merge};
    REPL_TRY(repl_index_piece_put(write, volume->number, piece, err));
    REPL_TRY(repl_index_chunks_put(write, volume, &id, added->chunks, added->chunk_count, err));
    return repl_index_references_put(write, volume, piece->commit.from_seq, &id, added->refs,
                                     added->ref_count, err);
}

repl_result repl_index_merge_apply(struct index_write *write, const struct index_volume *volume,
                                   const struct repl_index_record *records, size_t count,
                                   struct repl_error *err)
{
    const struct repl_log_merge *merge = &records[0].record->merge;
    struct span span = {.volume = volume->number, .from = merge->from_seq, .to = merge->to_seq};
    uint64_t last;
    REPL_TRY(segments_remove(write, &span, merge->from_seq == 0, err));
    for (size_t i = 1; i < count; i++) {
        if (records[i].record->type == REPL_LOG_GONE)
            REPL_TRY(tile_remove(write, span.volume, &records[i].record->gone, err));
    }
    for (size_t i = 1; i < count; i++) {
        if (records[i].record->type == REPL_LOG_PIECE)
            REPL_TRY(piece_add(write, volume, &records[i], err));
    }
    REPL_TRY(points_remove(write, &span, err));
    return points_put(write, &span, &last, err);
}

repl_result repl_index_checkpoint_apply(struct index_write *write, struct index_volume *volume,
                                        const struct repl_index_record *records, size_t count,
                                        struct repl_error *err)
{
    static const enum index_table tables[] = {INDEX_POINTS, INDEX_SEGMENTS, INDEX_MARKS};
    struct span all = {.volume = volume->number, .to = UINT64_MAX};
    struct index_key prefix = repl_index_volume_key(volume->number);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        uint32_t left = UINT32_MAX;
        REPL_TRY(repl_index_prefix_remove(write, tables[i], &prefix, &left, err));
    }
    for (size_t i = 1; i < count; i++) {
        const struct repl_log_record *record = records[i].record;
        if (record->type == REPL_LOG_PIECE)
            REPL_TRY(piece_add(write, volume, &records[i], err));
        else if (record->type == REPL_LOG_POOL)
            REPL_TRY(repl_index_pool_join(write, volume, record->pool.name, err));
        else if (record->type == REPL_LOG_MARK)
            REPL_TRY(repl_index_mark_put(write, volume->number, &record->mark, err));
    }
    volume->point_seq = 0;
    return points_put(write, &all, &volume->point_seq, err);
}
