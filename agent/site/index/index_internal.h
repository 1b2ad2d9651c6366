/*
 * What the parts of the index share: index.c (what is in it, and reading it),
 * index_apply.c and index_group.c (what changes it), index_drop.c (what forgets a
 * volume), index_pool.c (whose chunks are shared), index_references.c (who refers to
 * a chunk), index_lost.c (which of these lie nowhere) and index_env.c (the LMDB file under all of
 * it).
 */
#ifndef REPL_AGENT_INDEX_INTERNAL_H
#define REPL_AGENT_INDEX_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>

#include "base/cursor.h"
#include "site/index/index.h"

#define REPL_INDEX_VERSION 5u

/* Address space, not disk: the file grows with what is in it. */
#define REPL_INDEX_MAP_SIZE ((size_t)64 << 30)

enum index_table {
    INDEX_MAIN,
    INDEX_NUMBERS,
    INDEX_POOLS,
    INDEX_VOLUMES,
    INDEX_POINTS,
    INDEX_SEGMENTS,
    INDEX_CHUNKS,
    INDEX_REFERENCES,
    INDEX_MARKS,
    INDEX_DROPPED,
    INDEX_TABLE_COUNT,
};

struct repl_index {
    MDB_env *env;
    char *path;
    bool writable;
    MDB_dbi tables[INDEX_TABLE_COUNT];
    _Atomic uint64_t remakes;
    pthread_rwlock_t map_lock; /* shared: a reading transaction; exclusive: the map's size */
    /* The writing thread's. */
    int broken; /* a commit or sync failed: EIO, or ENOSPC or EDQUOT; 0: none has */
    bool in_batch;
    MDB_txn *batch;         /* NULL within a batch: a call failed, the batch is undone */
    unsigned sync_fails_in; /* a test's: the sync so many from now fails, 0: none, with */
    int sync_errno;
};

/* --- index_env.c: errors and transactions ---------------------------------------------------- */

REPL_RESULT repl_index_fail(const struct repl_index *index, int error, struct repl_error *err,
                            const char *what);
REPL_RESULT repl_index_damaged(const struct repl_index *index, enum index_table table,
                               struct repl_error *err);

REPL_RESULT repl_index_read_begin(struct repl_index *index, MDB_txn **txn, struct repl_error *err);
void repl_index_read_end(struct repl_index *index, MDB_txn *txn);
/* *found false: no such key. */
REPL_RESULT repl_index_get(const struct repl_index *index, MDB_txn *txn, enum index_table table,
                           MDB_val key, MDB_val *value, bool *found, struct repl_error *err);

/* A transaction that writes, and the last error LMDB gave in it: MDB_MAP_FULL is answered by
 * growing the map and doing the work again. */
struct index_write {
    struct repl_index *index;
    MDB_txn *txn;
    int error;
};
typedef repl_result index_write_fn(struct index_write *write, void *context,
                                   struct repl_error *err);
/* Does the work in one transaction, or in that of the batch. */
REPL_RESULT repl_index_write(struct repl_index *index, index_write_fn *work, void *context,
                             struct repl_error *err);
/* The fields, and behind them a checksum of the entry. */
REPL_RESULT repl_index_put(struct index_write *write, enum index_table table, MDB_val key,
                           const struct repl_writer *fields, struct repl_error *err);
/* At the fields of an entry; failed where its checksum does not match. */
struct repl_reader repl_index_reader_of(enum index_table table, const MDB_val *key,
                                        const MDB_val *value);
REPL_RESULT repl_index_write_fail(struct index_write *write, int error, struct repl_error *err);
const char *repl_index_table_name(enum index_table table);

/* Room for one more behind count items of item_size bytes. The list, moved where it had to grow;
 * NULL: out of memory, and the list is what it was. */
void *repl_index_list_grow(void *list, size_t count, size_t *room, size_t item_size);

/* --- index_examine.c ------------------------------------------------------------------------- */

/* Reads all of the file that no process has open. CORRUPT: LMDB is not to be given it. */
REPL_RESULT repl_index_examine(const char *path, struct repl_error *err);

/* --- index.c: keys and values ---------------------------------------------------------------- */

#define INDEX_KEY_SIZE_MAX (4u + REPL_MARK_NAME_SIZE)

struct index_key {
    uint8_t bytes[INDEX_KEY_SIZE_MAX];
    size_t size;
};

struct index_key repl_index_volume_key(uint32_t volume);
struct index_key repl_index_point_key(uint32_t volume, uint64_t seq);
struct index_key repl_index_segment_key(uint32_t volume, uint64_t to_seq, uint32_t part);
struct index_key repl_index_chunk_key(uint32_t pool, const struct repl_digest *name);
struct index_key repl_index_reference_key(uint32_t pool, const struct repl_digest *name,
                                          uint32_t volume, const struct repl_segment_id *id);
struct index_key repl_index_mark_key(uint32_t volume, const char *name);
/* The number in size bytes of a key; zeros where the key is too short. */
uint64_t repl_index_key_number(const MDB_val *key, size_t offset, size_t size);

static inline MDB_val repl_index_key_val(struct index_key *key)
{
    return (MDB_val){.mv_size = key->size, .mv_data = key->bytes};
}

MDB_val repl_index_text_val(const char *text);

struct index_volume {
    uint32_t number;
    uint32_t pool; /* the number of the pool that it is of; its own: it shares with nobody */
    uint64_t log_end;
    uint64_t record_number;
    uint64_t point_seq; /* the last point; 0: none */
};

/* Of the fields. */
#define INDEX_VOLUME_SIZE 32u
#define INDEX_POINT_SIZE  (81u + REPL_CHURN_SIZE)
#define INDEX_CHUNK_SIZE  34u
#define INDEX_MARK_SIZE   12u
#define INDEX_PIECE_SIZE  (1u + REPL_LOG_PIECE_SIZE_MAX)
#define INDEX_FIELDS_MAX  INDEX_PIECE_SIZE

REPL_RESULT repl_index_volume_get(const struct repl_index *index, MDB_txn *txn, const char *name,
                                  struct index_volume *out, bool *found, struct repl_error *err);
REPL_RESULT repl_index_point_decode(const struct repl_index *index, const MDB_val *key,
                                    const MDB_val *value, struct repl_points_entry *out,
                                    struct repl_error *err);

REPL_RESULT repl_index_piece_decode(const struct repl_index *index, const MDB_val *key,
                                    const MDB_val *value, struct repl_log_piece *out,
                                    struct repl_error *err);
/* The name of the volume with that number; *found false: it was dropped. */
REPL_RESULT repl_index_name_get(const struct repl_index *index, MDB_txn *txn, uint32_t volume,
                                char name[REPL_VOLUME_NAME_SIZE + 1], bool *found,
                                struct repl_error *err);
/* Whether the segment is there, and made by that merge. */
REPL_RESULT repl_index_segment_is_there(const struct repl_index *index, MDB_txn *txn,
                                        uint32_t volume, const struct repl_segment_id *id,
                                        bool *there, struct repl_error *err);
/* Where a chunk lies, and whether what lies there is still part of a history. */
REPL_RESULT repl_index_place_get(const struct repl_index *index, MDB_txn *txn, uint32_t pool,
                                 const struct repl_digest *name, struct repl_chunk_place *place,
                                 bool *found, bool *good, struct repl_error *err);

/* --- index_apply.c --------------------------------------------------------------------------- */

REPL_RESULT repl_index_piece_put(struct index_write *write, uint32_t volume,
                                 const struct repl_log_piece *piece, struct repl_error *err);
/* The point that the piece ends in. */
REPL_RESULT repl_index_point_put(struct index_write *write, uint32_t volume,
                                 const struct repl_log_piece *piece, struct repl_error *err);
REPL_RESULT repl_index_mark_put(struct index_write *write, uint32_t volume,
                                const struct repl_log_mark *mark, struct repl_error *err);
REPL_RESULT repl_index_chunks_put(struct index_write *write, const struct index_volume *volume,
                                  const struct repl_segment_id *id,
                                  const struct repl_chunk_entry *chunks, uint32_t count,
                                  struct repl_error *err);
/* It need not be there. */
REPL_RESULT repl_index_key_remove(struct index_write *write, enum index_table table,
                                  struct index_key *key, struct repl_error *err);
/* A number that was given to nothing yet, be it volume or pool. */
REPL_RESULT repl_index_number_take(struct index_write *write, uint32_t *out,
                                   struct repl_error *err);

/* --- index_drop.c ---------------------------------------------------------------------------- */

/* Removes up to *left entries of a table that begin with prefix, and counts *left down. */
REPL_RESULT repl_index_prefix_remove(struct index_write *write, enum index_table table,
                                     struct index_key *prefix, uint32_t *left,
                                     struct repl_error *err);
/* Removes what dropped volumes have left. */
REPL_RESULT repl_index_purge(struct repl_index *index, struct repl_error *err);

/* --- index_pool.c ---------------------------------------------------------------------------- */

/* The volume, which had a pool of its own, is of the pool of that name; what it had in its own goes
 * along. The caller stores the volume. */
REPL_RESULT repl_index_pool_join(struct index_write *write, struct index_volume *volume,
                                 const char *name, struct repl_error *err);

/* --- index_references.c ----------------------------------------------------------------------- */

/* The segment refers to the names. What segments that are gone have left of references to them is
 * removed where a merge has put it in the place of what follows from_seq. Of a segment that is not
 * in the table yet from_seq is its own to_seq: so may others be that are to come with it. */
REPL_RESULT repl_index_references_put(struct index_write *write, const struct index_volume *volume,
                                      uint64_t from_seq, const struct repl_segment_id *id,
                                      const struct repl_digest *names, uint32_t count,
                                      struct repl_error *err);
/* Removes references to a chunk by segments of the pool that are gone. */
REPL_RESULT repl_index_references_sweep(struct index_write *write, uint32_t pool,
                                        const struct repl_digest *name, struct repl_error *err);

/* --- index_group.c --------------------------------------------------------------------------- */

/* A MERGE or CHECKPOINT, and what belongs to it. */
REPL_RESULT repl_index_merge_apply(struct index_write *write, const struct index_volume *volume,
                                   const struct repl_index_record *records, size_t count,
                                   struct repl_error *err);
REPL_RESULT repl_index_checkpoint_apply(struct index_write *write, struct index_volume *volume,
                                        const struct repl_index_record *records, size_t count,
                                        struct repl_error *err);

/* --- for tests ------------------------------------------------------------------------------- */

/* repl_index_open with another size of the map to begin with. */
REPL_RESULT repl_index_open_sized(const char *path, bool writable, size_t map_size,
                                  struct repl_index **out, struct repl_error *err);
/* Lets the count-th commit or sync from now fail with this errno, as a broken disk would. */
void repl_index_break_sync(struct repl_index *index, unsigned count, int os_errno);
/* Writes another version number, as another release would have. */
REPL_RESULT repl_index_set_version(struct repl_index *index, uint32_t version,
                                   struct repl_error *err);
/* Entries under all volumes, dropped ones included. */
REPL_RESULT repl_index_entry_count(struct repl_index *index, uint64_t *count,
                                   struct repl_error *err);

#endif
