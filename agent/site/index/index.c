/*
 * The site's index: one LMDB file.
 *
 *   (main)    "repl-index-version" -> u32, "next-volume" -> u32, and the names of those below
 *   numbers   VOLUME               -> its name
 *   pools     NAME                 -> number of the pool
 *   volumes   NAME                 -> number of the volume and of its pool, and how far its log is
 *                                     in here
 *   points    VOLUME SEQ           -> the point, how long it was the present, the volume's size
 *   segments  VOLUME TO PART       -> struct repl_log_piece
 *   chunks    POOL DIGEST          -> the place that was named last, by volume and segment
 *   references POOL DIGEST VOLUME TO PART MERGE
 *                              -> nothing: that segment refers to the chunk
 *   marks     VOLUME MARK          -> the point that has this name, and what kind of name it is
 *   dropped   VOLUME               -> nothing: its entries are still to be removed
 *
 * Keys are big-endian, so that LMDB's order by bytes is the order by number;
 * values go through the cursor, end in XXH3 of table, key and fields, and
 * whoever reads one checks it. VOLUME and POOL are
 * numbers of 32 bits that are never given twice, so a volume is forgotten in one
 * small transaction, and what it leaves behind is removed in many: an index of
 * a large volume has more entries than one transaction should hold. A volume that
 * shares chunks with nobody is a pool of its own, with its own number.
 *
 * A merge leaves places behind that name a segment which is gone. Finding them
 * would take its list of chunks; so they stay, and a place counts only while the
 * segment it names is in the table, made by the same merge. References are the
 * same (index_references.c).
 */
#include "site/index/index_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "format/segment_format.h"

/* --- keys ------------------------------------------------------------------------------------ */

static void key_add(struct index_key *key, uint64_t value, size_t size)
{
    ensure(key->size + size <= sizeof key->bytes);
    for (size_t i = size; i-- > 0;)
        key->bytes[key->size++] = (uint8_t)(value >> 8 * i);
}

uint64_t repl_index_key_number(const MDB_val *key, size_t offset, size_t size)
{
    const uint8_t *bytes = key->mv_data;
    uint64_t value = 0;
    for (size_t i = 0; i < size && offset + i < key->mv_size; i++)
        value = value << 8 | bytes[offset + i];
    return value;
}

struct index_key repl_index_volume_key(uint32_t number)
{
    struct index_key key = {.size = 0};
    key_add(&key, number, 4);
    return key;
}

struct index_key repl_index_point_key(uint32_t number, uint64_t seq)
{
    struct index_key key = repl_index_volume_key(number);
    key_add(&key, seq, 8);
    return key;
}

struct index_key repl_index_segment_key(uint32_t number, uint64_t to_seq, uint32_t part)
{
    struct index_key key = repl_index_volume_key(number);
    key_add(&key, to_seq, 8);
    key_add(&key, part, 4);
    return key;
}

struct index_key repl_index_chunk_key(uint32_t pool, const struct repl_digest *name)
{
    struct index_key key = repl_index_volume_key(pool);
    memcpy(key.bytes + key.size, name->bytes, sizeof name->bytes);
    key.size += sizeof name->bytes;
    return key;
}
_Static_assert(4 + sizeof(struct repl_digest) <= INDEX_KEY_SIZE_MAX, "a chunk's key fits");

struct index_key repl_index_reference_key(uint32_t pool, const struct repl_digest *name,
                                          uint32_t volume, const struct repl_segment_id *id)
{
    struct index_key key = repl_index_chunk_key(pool, name);
    key_add(&key, volume, 4);
    key_add(&key, id->to_seq, 8);
    key_add(&key, id->part, 4);
    key_add(&key, id->merge, 8);
    return key;
}
_Static_assert(4 + sizeof(struct repl_digest) + 24 <= INDEX_KEY_SIZE_MAX, "a reference's key fits");

struct index_key repl_index_mark_key(uint32_t number, const char *name)
{
    struct index_key key = repl_index_volume_key(number);
    size_t size = strnlen(name, REPL_MARK_NAME_SIZE);
    memcpy(key.bytes + key.size, name, size);
    key.size += size;
    return key;
}

MDB_val repl_index_text_val(const char *text)
{
    union {
        const char *in;
        void *out; /* LMDB only reads it */
    } pointer = {.in = text};
    return (MDB_val){.mv_size = strlen(text), .mv_data = pointer.out};
}

/* --- values ---------------------------------------------------------------------------------- */

repl_result repl_index_volume_get(const struct repl_index *index, MDB_txn *txn, const char *name,
                                  struct index_volume *out, bool *found, struct repl_error *err)
{
    MDB_val key = repl_index_text_val(name), value;
    *out = (struct index_volume){0};
    REPL_TRY(repl_index_get(index, txn, INDEX_VOLUMES, key, &value, found, err));
    if (!*found)
        return REPL_SUCCESS;
    struct repl_reader r = repl_index_reader_of(INDEX_VOLUMES, &key, &value);
    out->number = repl_read_u32(&r);
    out->pool = repl_read_u32(&r);
    out->log_end = repl_read_u64(&r);
    out->record_number = repl_read_u64(&r);
    out->point_seq = repl_read_u64(&r);
    if (!repl_ok(repl_reader_end(&r, NULL, "")))
        return repl_index_damaged(index, INDEX_VOLUMES, err);
    return REPL_SUCCESS;
}

repl_result repl_index_point_decode(const struct repl_index *index, const MDB_val *key,
                                    const MDB_val *value, struct repl_points_entry *out,
                                    struct repl_error *err)
{
    struct repl_reader r = repl_index_reader_of(INDEX_POINTS, key, value);
    repl_point_decode(&r, &out->point);
    out->unchanged_until_ns = repl_read_i64(&r);
    out->volume_size = repl_read_u64(&r);
    out->churn = (struct repl_churn){0};
    if (repl_read_u8(&r) != 0)
        repl_churn_decode(&r, &out->churn);
    if (!repl_ok(repl_reader_end(&r, NULL, "")) || key->mv_size != 12 ||
        out->point.seq != repl_index_key_number(key, 4, 8) ||
        out->unchanged_until_ns < out->point.end_ns || out->volume_size > REPL_VOLUME_SIZE_MAX)
        return repl_index_damaged(index, INDEX_POINTS, err);
    return REPL_SUCCESS;
}

repl_result repl_index_piece_decode(const struct repl_index *index, const MDB_val *key,
                                    const MDB_val *value, struct repl_log_piece *out,
                                    struct repl_error *err)
{
    struct repl_reader r = repl_index_reader_of(INDEX_SEGMENTS, key, value);
    *out = (struct repl_log_piece){0};
    bool churn_known = repl_read_u8(&r) != 0;
    repl_log_piece_decode(&r, churn_known, out);
    if (!repl_ok(repl_reader_end(&r, NULL, "")) || key->mv_size != 16 ||
        out->commit.to_seq != repl_index_key_number(key, 4, 8) ||
        out->commit.part != repl_index_key_number(key, 12, 4))
        return repl_index_damaged(index, INDEX_SEGMENTS, err);
    return REPL_SUCCESS;
}

static repl_result mark_decode(const struct repl_index *index, const MDB_val *key,
                               const MDB_val *value, struct repl_log_mark *out,
                               struct repl_error *err)
{
    struct repl_reader r = repl_index_reader_of(INDEX_MARKS, key, value);
    *out = (struct repl_log_mark){0};
    out->kind = repl_read_u32(&r);
    out->seq = repl_read_u64(&r);
    if (!repl_ok(repl_reader_end(&r, NULL, "")) || key->mv_size > INDEX_KEY_SIZE_MAX)
        return repl_index_damaged(index, INDEX_MARKS, err);
    memcpy(out->name, (const char *)key->mv_data + 4, key->mv_size - 4);
    return REPL_SUCCESS;
}

static repl_result place_decode(const struct repl_index *index, const MDB_val *key,
                                const MDB_val *value, uint32_t *volume,
                                struct repl_chunk_place *out, struct repl_error *err)
{
    struct repl_reader r = repl_index_reader_of(INDEX_CHUNKS, key, value);
    *volume = repl_read_u32(&r);
    out->segment.to_seq = repl_read_u64(&r);
    out->segment.part = repl_read_u32(&r);
    out->segment.supply = repl_read_u16(&r);
    out->segment.merge = repl_read_u64(&r);
    out->frame = repl_read_u32(&r);
    out->frame_offset = repl_read_u32(&r);
    if (!repl_ok(repl_reader_end(&r, NULL, "")) ||
        out->frame_offset > REPL_FRAME_RAW_MAX - REPL_CHUNK_SIZE)
        return repl_index_damaged(index, INDEX_CHUNKS, err);
    return REPL_SUCCESS;
}

repl_result repl_index_segment_is_there(const struct repl_index *index, MDB_txn *txn,
                                        uint32_t volume, const struct repl_segment_id *id,
                                        bool *there, struct repl_error *err)
{
    struct index_key key = repl_index_segment_key(volume, id->to_seq, id->part);
    MDB_val key_value = repl_index_key_val(&key), value;
    struct repl_log_piece piece;
    REPL_TRY(repl_index_get(index, txn, INDEX_SEGMENTS, key_value, &value, there, err));
    if (!*there)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_piece_decode(index, &key_value, &value, &piece, err));
    *there = piece.merge == id->merge;
    return REPL_SUCCESS;
}

repl_result repl_index_name_get(const struct repl_index *index, MDB_txn *txn, uint32_t volume,
                                char name[REPL_VOLUME_NAME_SIZE + 1], bool *found,
                                struct repl_error *err)
{
    struct index_key key = repl_index_volume_key(volume);
    MDB_val key_value = repl_index_key_val(&key), value;
    REPL_TRY(repl_index_get(index, txn, INDEX_NUMBERS, key_value, &value, found, err));
    if (!*found)
        return REPL_SUCCESS;
    struct repl_reader r = repl_index_reader_of(INDEX_NUMBERS, &key_value, &value);
    if (r.failed || r.size == 0 || r.size > REPL_VOLUME_NAME_SIZE)
        return repl_index_damaged(index, INDEX_NUMBERS, err);
    memcpy(name, r.data, r.size);
    name[r.size] = '\0';
    return REPL_SUCCESS;
}

repl_result repl_index_place_get(const struct repl_index *index, MDB_txn *txn, uint32_t pool,
                                 const struct repl_digest *name, struct repl_chunk_place *place,
                                 bool *found, bool *good, struct repl_error *err)
{
    struct index_key key = repl_index_chunk_key(pool, name);
    MDB_val key_value = repl_index_key_val(&key), value;
    uint32_t volume;
    REPL_TRY(repl_index_get(index, txn, INDEX_CHUNKS, key_value, &value, found, err));
    *good = *found;
    if (!*found)
        return REPL_SUCCESS;
    REPL_TRY(place_decode(index, &key_value, &value, &volume, place, err));
    REPL_TRY(repl_index_name_get(index, txn, volume, place->volume, good, err));
    if (!*good || place->segment.supply != 0)
        return REPL_SUCCESS;
    return repl_index_segment_is_there(index, txn, volume, &place->segment, good, err);
}

/* --- reading --------------------------------------------------------------------------------- */

repl_result repl_index_position(struct repl_index *index, const char *volume, uint64_t *log_end,
                                uint64_t *record_number, struct repl_error *err)
{
    struct index_volume entry;
    MDB_txn *txn;
    bool found;
    *log_end = *record_number = 0;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = repl_index_volume_get(index, txn, volume, &entry, &found, err);
    repl_index_read_end(index, txn);
    REPL_TRY(result);
    *log_end = entry.log_end;
    *record_number = entry.record_number;
    return REPL_SUCCESS;
}

repl_result repl_index_chunk(struct repl_index *index, const char *volume,
                             const struct repl_digest *name, struct repl_chunk_place *place,
                             bool *found, struct repl_error *err)
{
    struct index_volume entry;
    MDB_txn *txn;
    bool good = false;
    *place = (struct repl_chunk_place){0};
    *found = false;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = repl_index_volume_get(index, txn, volume, &entry, found, err);
    if (repl_ok(result) && *found)
        result = repl_index_place_get(index, txn, entry.pool, name, place, found, &good, err);
    repl_index_read_end(index, txn);
    *found = repl_ok(result) && good;
    return result;
}

/* One entry into its place in a page. */
typedef repl_result entry_fn(const struct repl_index *index, const MDB_val *key,
                             const MDB_val *value, void *page, uint32_t place,
                             struct repl_error *err);

/* Entries of one volume from a key on, as many as there is room for. */
static repl_result page_fill(struct repl_index *index, MDB_txn *txn, enum index_table table,
                             struct index_key *from, entry_fn *entry, void *page, uint32_t room,
                             uint32_t *count, bool *more, struct repl_error *err)
{
    MDB_cursor *cursor;
    MDB_val key = repl_index_key_val(from), value;
    int error = mdb_cursor_open(txn, index->tables[table], &cursor);
    if (error != 0)
        return repl_index_fail(index, error, err, "read");
    repl_result result = REPL_SUCCESS;
    error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (error == 0 && key.mv_size >= 4 && memcmp(key.mv_data, from->bytes, 4) == 0) {
        *more = *count == room;
        if (*more)
            break;
        result = entry(index, &key, &value, page, *count, err);
        if (!repl_ok(result))
            break;
        *count += 1;
        error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (error != 0 && error != MDB_NOTFOUND)
        return repl_index_fail(index, error, err, "read");
    return result;
}

static repl_result points_entry(const struct repl_index *index, const MDB_val *key,
                                const MDB_val *value, void *page, uint32_t place,
                                struct repl_error *err)
{
    struct repl_points_page *points = page;
    return repl_index_point_decode(index, key, value, &points->entries[place], err);
}

static repl_result segments_entry(const struct repl_index *index, const MDB_val *key,
                                  const MDB_val *value, void *page, uint32_t place,
                                  struct repl_error *err)
{
    struct repl_segments_page *segments = page;
    struct repl_log_piece piece;
    REPL_TRY(repl_index_piece_decode(index, key, value, &piece, err));
    const struct repl_log_commit *commit_record = &piece.commit;
    segments->entries[place] =
        (struct repl_segments_entry){.head = {.from_seq = commit_record->from_seq,
                                              .to_seq = commit_record->to_seq,
                                              .part = commit_record->part,
                                              .has_point = commit_record->has_point,
                                              .digest = commit_record->digest},
                                     .file_size = commit_record->file_size,
                                     .merge = piece.merge,
                                     .begins = piece.begins,
                                     .link = piece.link};
    return REPL_SUCCESS;
}

static repl_result pieces_entry(const struct repl_index *index, const MDB_val *key,
                                const MDB_val *value, void *page, uint32_t place,
                                struct repl_error *err)
{
    struct repl_log_piece *pieces = page;
    return repl_index_piece_decode(index, key, value, &pieces[place], err);
}

repl_result repl_index_points(struct repl_index *index, const char *volume, uint64_t after,
                              struct repl_points_page *out, struct repl_error *err)
{
    struct index_volume entry;
    MDB_txn *txn;
    bool found;
    *out = (struct repl_points_page){0};
    out->entries = calloc(REPL_LIST_ENTRIES_MAX, sizeof out->entries[0]);
    if (out->entries == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of points");
    repl_result result = repl_index_read_begin(index, &txn, err);
    if (repl_ok(result)) {
        result = repl_index_volume_get(index, txn, volume, &entry, &found, err);
        if (repl_ok(result) && found && after < UINT64_MAX) {
            struct index_key from = repl_index_point_key(entry.number, after + 1);
            result = page_fill(index, txn, INDEX_POINTS, &from, points_entry, out,
                               REPL_LIST_ENTRIES_MAX, &out->count, &out->more, err);
        }
        repl_index_read_end(index, txn);
    }
    if (!repl_ok(result))
        repl_points_page_fini(out);
    return result;
}

/* Segments behind (after_to, after_part) into a page of either kind. */
static repl_result segments_fill(struct repl_index *index, const char *volume, uint64_t after_to,
                                 uint32_t after_part, entry_fn *entry, void *page, uint32_t room,
                                 uint32_t *count, bool *more, struct repl_error *err)
{
    struct index_volume found_volume;
    MDB_txn *txn;
    bool found, carry = after_part == UINT32_MAX;
    *count = 0;
    *more = false;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = repl_index_volume_get(index, txn, volume, &found_volume, &found, err);
    if (repl_ok(result) && found && !(carry && after_to == UINT64_MAX)) {
        struct index_key from =
            repl_index_segment_key(found_volume.number, after_to + carry, after_part + 1);
        result = page_fill(index, txn, INDEX_SEGMENTS, &from, entry, page, room, count, more, err);
    }
    repl_index_read_end(index, txn);
    return result;
}

repl_result repl_index_segments(struct repl_index *index, const char *volume, uint64_t after_to,
                                uint32_t after_part, struct repl_segments_page *out,
                                struct repl_error *err)
{
    *out = (struct repl_segments_page){0};
    out->entries = calloc(REPL_LIST_ENTRIES_MAX, sizeof out->entries[0]);
    if (out->entries == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of segments");
    repl_result result = segments_fill(index, volume, after_to, after_part, segments_entry, out,
                                       REPL_LIST_ENTRIES_MAX, &out->count, &out->more, err);
    if (!repl_ok(result))
        repl_segments_page_fini(out);
    return result;
}

repl_result repl_index_pieces(struct repl_index *index, const char *volume, uint64_t after_to,
                              uint32_t after_part, struct repl_log_piece *out, uint32_t room,
                              uint32_t *count, bool *more, struct repl_error *err)
{
    return segments_fill(index, volume, after_to, after_part, pieces_entry, out, room, count, more,
                         err);
}

/* --- names of points ------------------------------------------------------------------------- */

struct mark_list {
    struct repl_log_mark *marks;
    size_t room;
};

static repl_result marks_entry(const struct repl_index *index, const MDB_val *key,
                               const MDB_val *value, void *page, uint32_t place,
                               struct repl_error *err)
{
    struct mark_list *list = page;
    struct repl_log_mark *larger =
        repl_index_list_grow(list->marks, place, &list->room, sizeof *larger);
    if (larger == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the names of points");
    list->marks = larger;
    return mark_decode(index, key, value, &list->marks[place], err);
}

repl_result repl_index_marks(struct repl_index *index, const char *volume,
                             struct repl_log_mark **out, size_t *count, struct repl_error *err)
{
    struct mark_list list = {0};
    struct index_volume entry;
    MDB_txn *txn;
    bool found, more;
    uint32_t marks = 0;
    *out = NULL;
    *count = 0;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    repl_result result = repl_index_volume_get(index, txn, volume, &entry, &found, err);
    if (repl_ok(result) && found) {
        struct index_key from = repl_index_volume_key(entry.number);
        result = page_fill(index, txn, INDEX_MARKS, &from, marks_entry, &list, UINT32_MAX, &marks,
                           &more, err);
    }
    repl_index_read_end(index, txn);
    if (!repl_ok(result)) {
        free(list.marks);
        return result;
    }
    *out = list.marks;
    *count = marks;
    return REPL_SUCCESS;
}
