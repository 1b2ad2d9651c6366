/*
 * Keys are 8 bytes of the pool and 8 of the name, values are empty: two chunks that
 * agree in 64 bits of SHA-256 are hardly to be expected, and cost a round trip.
 *
 * MDB_NOMETASYNC: a commit syncs what it wrote before it writes the page of
 * metadata that points at it, so a power cut may undo the last commits and
 * leaves a whole tree. MDB_NOSYNC and MDB_MAPASYNC write in any order: a power
 * cut could leave a tree that is not one, and LMDB, which has no checksums,
 * would walk it. The sync is a worker's, one for each segment acknowledged that
 * carries whole chunks.
 *
 * After a failed sync the kernel takes the pages for clean, whatever is on the
 * disk: after a failed commit, whatever the reason, the file is removed and
 * begun anew.
 */
#include "source/chunk_index.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <lmdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "format/wire.h"
#include "lmdb_file.h"

#define KEY_SIZE      16u
#define VERSION       2u
#define IDENTITY_SIZE 4u
#define ENV_FLAGS     (MDB_NOSUBDIR | MDB_NOTLS | MDB_NOMETASYNC | MDB_NORDAHEAD)

/* Address space, not disk: a name takes some 50 bytes in a tree filled at random; pages that a
 * commit replaces are used again two commits later. */
#define MAP_SIZE (UINT64_C(256) << 30)

/* Of a pool that is forgotten, in one transaction. */
#define CLEAR_STEP 65536u

enum { TABLE_MAIN, TABLE_A, TABLE_B, TABLE_COUNT };
static const char *const table_names[TABLE_COUNT] = {NULL, "a", "b"};

struct expected {
    struct repl_uuid volume;
    uint64_t names;
};

/* Of a pool whose names are asked for, or were. */
struct names_turn {
    uint64_t pool;
    bool out;
    int64_t taken_ns; /* when they last had come; 0: never */
};

struct repl_chunk_index {
    char *path;
    pthread_mutex_t
        mutex; /* one change at a time; guards limit, what is expected and commit_errno */
    uint64_t limit;
    struct expected *expected;
    size_t expected_count;
    pthread_rwlock_t env_lock; /* shared: env is used; exclusive: it is opened or closed */
    MDB_env *env;              /* NULL: the disk failed; nothing is known */
    MDB_dbi tables[TABLE_COUNT];
    int commit_errno;         /* a test's */
    struct names_turn *turns; /* the loop's */
    size_t turn_count;
};

/* --- errors ---------------------------------------------------------------------------------- */

static repl_result index_fail(const struct repl_chunk_index *index, int error, const char *what,
                              struct repl_error *err)
{
    return repl_lmdb_fail(index->path, what, error, err);
}

/* What says nothing about the disk under the file. A full one may be said by the sync, too late to
 * be harmless. */
static bool is_harmless(int error)
{
    return error == 0 || error == ENOMEM;
}

/* --- the file -------------------------------------------------------------------------------- */

static MDB_val text_val(const char *text)
{
    return (MDB_val){.mv_size = strlen(text), .mv_data = (void *)(uintptr_t)text};
}

struct key {
    uint8_t bytes[KEY_SIZE];
};

/* In LMDB's order that of pools, and within one of names. */
static struct key key_of(uint64_t pool, uint64_t prefix)
{
    struct key key;
    for (size_t i = 0; i < 8; i++) {
        key.bytes[i] = (uint8_t)(pool >> (56 - 8 * i));
        key.bytes[8 + i] = (uint8_t)(prefix >> (56 - 8 * i));
    }
    return key;
}

static MDB_val key_val(struct key *key)
{
    return (MDB_val){.mv_size = KEY_SIZE, .mv_data = key->bytes};
}

uint64_t repl_chunk_pool_of(const struct repl_uuid *id)
{
    uint64_t pool = 0;
    for (size_t i = 0; i < 8; i++)
        pool = pool << 8 | id->bytes[i];
    return pool;
}

/* 0, or MDB_INVALID for a file of another version. */
static int identity_check(struct repl_chunk_index *index, MDB_txn *txn)
{
    uint8_t bytes[IDENTITY_SIZE];
    MDB_val key = text_val("identity"), value = {.mv_size = sizeof bytes, .mv_data = bytes}, found;
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u32(&w, VERSION);
    int error = mdb_get(txn, index->tables[TABLE_MAIN], &key, &found);
    if (error == MDB_NOTFOUND) {
        MDB_stat stat;
        error = mdb_stat(txn, index->tables[TABLE_MAIN], &stat);
        if (error == 0 && stat.ms_entries > 0)
            error = MDB_INVALID;
        return error != 0 ? error : mdb_put(txn, index->tables[TABLE_MAIN], &key, &value, 0);
    }
    if (error != 0)
        return error;
    bool same = found.mv_size == sizeof bytes && memcmp(found.mv_data, bytes, sizeof bytes) == 0;
    return same ? 0 : MDB_INVALID;
}

static int tables_open(struct repl_chunk_index *index, MDB_txn *txn)
{
    int error = mdb_dbi_open(txn, NULL, 0, &index->tables[TABLE_MAIN]);
    if (error == 0)
        error = identity_check(index, txn);
    for (int i = TABLE_A; error == 0 && i < TABLE_COUNT; i++)
        error = mdb_dbi_open(txn, table_names[i], MDB_CREATE, &index->tables[i]);
    return error;
}

static int env_fill(struct repl_chunk_index *index)
{
    MDB_txn *txn;
    int dead_readers;
    int error = mdb_env_open(index->env, index->path, ENV_FLAGS, 0600);
    if (error == 0)
        error = mdb_reader_check(index->env, &dead_readers);
    if (error == 0)
        error = repl_lmdb_length_check(index->env);
    if (error == 0)
        error = mdb_txn_begin(index->env, NULL, 0, &txn);
    if (error != 0)
        return error;
    error = tables_open(index, txn);
    if (error == 0)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return error;
}

static void env_close(struct repl_chunk_index *index)
{
    if (index->env != NULL)
        mdb_env_close(index->env);
    index->env = NULL;
}

static int env_open(struct repl_chunk_index *index)
{
    int error = mdb_env_create(&index->env);
    if (error != 0) {
        index->env = NULL;
        return error;
    }
    mdb_env_set_maxdbs(index->env, TABLE_COUNT);
    mdb_env_set_mapsize(index->env, MAP_SIZE);
    error = env_fill(index);
    if (error != 0)
        env_close(index);
    return error;
}

/* Durably: a power cut must not bring back a file whose sync failed. */
static int files_remove(const struct repl_chunk_index *index)
{
    char path[4096];
    if ((size_t)snprintf(path, sizeof path, "%s-lock", index->path) >= sizeof path)
        return ENAMETOOLONG;
    if ((unlink(index->path) != 0 || unlink(path) != 0) && errno != ENOENT)
        return errno;
    snprintf(path, sizeof path, "%s", index->path);
    int fd = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 || fsync(fd) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return error;
}

static int env_begin_anew(struct repl_chunk_index *index)
{
    pthread_rwlock_wrlock(&index->env_lock);
    env_close(index);
    int error = files_remove(index);
    if (error == 0)
        error = env_open(index);
    pthread_rwlock_unlock(&index->env_lock);
    return error;
}

repl_result repl_chunk_index_open(const struct repl_chunk_index_options *options,
                                  struct repl_chunk_index **out, struct repl_error *err)
{
    struct repl_chunk_index *index = calloc(1, sizeof *index);
    if (index == NULL || (index->path = strdup(options->path)) == NULL) {
        free(index);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the index of chunks");
    }
    index->limit = options->limit;
    pthread_mutex_init(&index->mutex, NULL);
    /* Workers that look up one chunk after the other must not keep the writer out. */
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&index->env_lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    int error = env_open(index);
    if (!is_harmless(error))
        (void)env_begin_anew(index); /* if that fails too, the next change tries it again */
    *out = index;
    return REPL_SUCCESS;
}

void repl_chunk_index_close(struct repl_chunk_index *index)
{
    if (index == NULL)
        return;
    env_close(index);
    pthread_rwlock_destroy(&index->env_lock);
    pthread_mutex_destroy(&index->mutex);
    free(index->expected);
    free(index->turns);
    free(index->path);
    free(index);
}

/* --- reading --------------------------------------------------------------------------------- */

static bool env_has(struct repl_chunk_index *index, uint64_t pool, const struct repl_digest *name)
{
    MDB_txn *txn;
    struct key bytes = key_of(pool, repl_chunk_prefix(name));
    MDB_val key = key_val(&bytes), value;
    bool found = false;
    if (index->env == NULL || mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn) != 0)
        return false;
    for (int i = TABLE_A; i < TABLE_COUNT && !found; i++)
        found = mdb_get(txn, index->tables[i], &key, &value) == 0;
    mdb_txn_abort(txn);
    return found;
}

bool repl_chunk_index_has(struct repl_chunk_index *index, uint64_t pool,
                          const struct repl_digest *name)
{
    pthread_rwlock_rdlock(&index->env_lock);
    bool found = env_has(index, pool, name);
    pthread_rwlock_unlock(&index->env_lock);
    return found;
}

static int table_count(struct repl_chunk_index *index, MDB_txn *txn, int table, uint64_t *count)
{
    MDB_stat stat;
    int error = mdb_stat(txn, index->tables[table], &stat);
    *count = error == 0 ? stat.ms_entries : 0;
    return error;
}

uint64_t repl_chunk_index_count(struct repl_chunk_index *index)
{
    MDB_txn *txn;
    uint64_t total = 0, count;
    pthread_rwlock_rdlock(&index->env_lock);
    if (index->env != NULL && mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn) == 0) {
        for (int i = TABLE_A; i < TABLE_COUNT; i++) {
            if (table_count(index, txn, i, &count) == 0)
                total += count;
        }
        mdb_txn_abort(txn);
    }
    pthread_rwlock_unlock(&index->env_lock);
    return total;
}

/* --- writing --------------------------------------------------------------------------------- */

struct change {
    uint64_t pool;
    uint64_t *prefixes;
    size_t count;
    const struct repl_uuid *volume; /* that joins the pool */
};
typedef int change_fn(struct repl_chunk_index *index, MDB_txn *txn, struct change *change);

static int commit(struct repl_chunk_index *index, MDB_txn *txn)
{
    int error = index->commit_errno;
    index->commit_errno = 0;
    if (error == 0)
        return mdb_txn_commit(txn);
    mdb_txn_abort(txn);
    return error;
}

static int transact(struct repl_chunk_index *index, change_fn *work, struct change *change)
{
    MDB_txn *txn;
    int error = mdb_txn_begin(index->env, NULL, 0, &txn);
    if (error != 0)
        return error;
    error = work(index, txn, change);
    if (error == 0)
        return commit(index, txn);
    mdb_txn_abort(txn);
    return error;
}

/* With the mutex. Only whoever has it closes the environment, so it needs no lock to use it. */
static repl_result change_locked(struct repl_chunk_index *index, change_fn *work,
                                 struct change *change, struct repl_error *err)
{
    if (index->env == NULL) {
        int again = env_begin_anew(index);
        if (again != 0)
            return index_fail(index, again, "making it anew", err);
    }
    int error = transact(index, work, change);
    if (error == 0)
        return REPL_SUCCESS;
    if (!is_harmless(error))
        (void)env_begin_anew(index); /* if that fails too, the next change tries it again */
    return index_fail(index, error, "writing; chunks may be sent again", err);
}

static int prefix_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* In order, names that share a page of the tree touch it once. */
static repl_result change_make(struct repl_chunk_index *index, change_fn *work,
                               struct change *change, struct repl_error *err)
{
    if (change->count > 0)
        qsort(change->prefixes, change->count, sizeof *change->prefixes, prefix_order);
    pthread_mutex_lock(&index->mutex);
    repl_result result = change_locked(index, work, change, err);
    pthread_mutex_unlock(&index->mutex);
    return result;
}

/* Which generation is young: that of the key "young", at first a. */
static int young_get(struct repl_chunk_index *index, MDB_txn *txn, int *young)
{
    MDB_val key = text_val("young"), value;
    int error = mdb_get(txn, index->tables[TABLE_MAIN], &key, &value);
    *young = TABLE_A;
    if (error == 0 && value.mv_size == 1 && *(const uint8_t *)value.mv_data == TABLE_B)
        *young = TABLE_B;
    return error == MDB_NOTFOUND ? 0 : error;
}

static int young_set(struct repl_chunk_index *index, MDB_txn *txn, int young)
{
    uint8_t byte = (uint8_t)young;
    MDB_val key = text_val("young"), value = {.mv_size = 1, .mv_data = &byte};
    return mdb_put(txn, index->tables[TABLE_MAIN], &key, &value, 0);
}

static int old_of(int young)
{
    return young == TABLE_A ? TABLE_B : TABLE_A;
}

/* Room for more names in the young generation. */
static int generations_turn(struct repl_chunk_index *index, MDB_txn *txn, size_t more, int *young)
{
    uint64_t count;
    int error = young_get(index, txn, young);
    if (error == 0)
        error = table_count(index, txn, *young, &count);
    if (error != 0 || count == 0 || count + more <= index->limit / 2)
        return error;
    *young = old_of(*young);
    error = mdb_drop(txn, index->tables[*young], 0);
    return error == 0 ? young_set(index, txn, *young) : error;
}

static int add_work(struct repl_chunk_index *index, MDB_txn *txn, struct change *change)
{
    int young;
    if (change->count > index->limit / 2)
        change->count = (size_t)(index->limit / 2);
    int error = generations_turn(index, txn, change->count, &young);
    for (size_t i = 0; error == 0 && i < change->count; i++) {
        struct key bytes = key_of(change->pool, change->prefixes[i]);
        MDB_val key = key_val(&bytes), value = {0};
        error = mdb_put(txn, index->tables[young], &key, &value, MDB_NOOVERWRITE);
        if (error == MDB_KEYEXIST)
            error = 0;
    }
    return error;
}

repl_result repl_chunk_index_add(struct repl_chunk_index *index, uint64_t pool, uint64_t *prefixes,
                                 size_t count, struct repl_error *err)
{
    struct change change = {.pool = pool, .prefixes = prefixes, .count = count};
    return count == 0 ? REPL_SUCCESS : change_make(index, add_work, &change, err);
}

static int remove_work(struct repl_chunk_index *index, MDB_txn *txn, struct change *change)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < change->count; i++) {
        for (int table = TABLE_A; error == 0 && table < TABLE_COUNT; table++) {
            struct key bytes = key_of(change->pool, change->prefixes[i]);
            MDB_val key = key_val(&bytes);
            error = mdb_del(txn, index->tables[table], &key, NULL);
            if (error == MDB_NOTFOUND)
                error = 0;
        }
    }
    return error;
}

repl_result repl_chunk_index_remove(struct repl_chunk_index *index, uint64_t pool,
                                    uint64_t *prefixes, size_t count, struct repl_error *err)
{
    struct change change = {.pool = pool, .prefixes = prefixes, .count = count};
    return change_make(index, remove_work, &change, err);
}

/* Up to CLEAR_STEP names of the pool, of one table; change->count says how many there were. */
static int table_clear(struct repl_chunk_index *index, MDB_txn *txn, int table,
                       struct change *change)
{
    struct key first = key_of(change->pool, 0);
    MDB_cursor *cursor;
    MDB_val key = key_val(&first), value;
    int error = mdb_cursor_open(txn, index->tables[table], &cursor);
    if (error != 0)
        return error;
    error = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (error == 0 && key.mv_size == KEY_SIZE && memcmp(key.mv_data, first.bytes, 8) == 0 &&
           change->count < CLEAR_STEP) {
        change->count++;
        error = mdb_cursor_del(cursor, 0);
        if (error == 0)
            error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return error == MDB_NOTFOUND ? 0 : error;
}

static int clear_work(struct repl_chunk_index *index, MDB_txn *txn, struct change *change)
{
    change->count = 0;
    int error = table_clear(index, txn, TABLE_A, change);
    return error == 0 ? table_clear(index, txn, TABLE_B, change) : error;
}

repl_result repl_chunk_index_clear(struct repl_chunk_index *index, uint64_t pool,
                                   struct repl_error *err)
{
    struct change change = {.pool = pool};
    do {
        change.count = 0; /* what is sorted ahead of a change: nothing */
        REPL_TRY(change_make(index, clear_work, &change, err));
    } while (change.count > 0);
    return REPL_SUCCESS;
}

/* --- volumes --------------------------------------------------------------------------------- */

#define VOLUME_KEY_SIZE (1 + sizeof(struct repl_uuid))

static MDB_val volume_key(uint8_t bytes[VOLUME_KEY_SIZE], const struct repl_uuid *volume)
{
    bytes[0] = 'v';
    memcpy(bytes + 1, volume->bytes, sizeof volume->bytes);
    return (MDB_val){.mv_size = VOLUME_KEY_SIZE, .mv_data = bytes};
}

/* Its own, where nothing else was said, or it cannot be read. */
static uint64_t pool_read(struct repl_chunk_index *index, const struct repl_uuid *volume)
{
    MDB_txn *txn;
    uint64_t pool = repl_chunk_pool_of(volume);
    uint8_t bytes[VOLUME_KEY_SIZE];
    MDB_val key = volume_key(bytes, volume), value;
    if (index->env == NULL || mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn) != 0)
        return pool;
    if (mdb_get(txn, index->tables[TABLE_MAIN], &key, &value) == 0 && value.mv_size == 8) {
        struct repl_reader r = repl_reader_of(value.mv_data, value.mv_size);
        pool = repl_read_u64(&r);
    }
    mdb_txn_abort(txn);
    return pool;
}

static repl_result expect_locked(struct repl_chunk_index *index, const struct repl_uuid *volume,
                                 uint64_t names, struct repl_error *err)
{
    size_t i = 0;
    while (i < index->expected_count &&
           memcmp(&index->expected[i].volume, volume, sizeof *volume) != 0)
        i++;
    if (i == index->expected_count) {
        struct expected *larger = reallocarray(index->expected, i + 1, sizeof *larger);
        if (larger == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for the index of chunks");
        index->expected = larger;
        index->expected[i] = (struct expected){.volume = *volume};
        index->expected_count++;
    }
    if (names > index->expected[i].names) {
        index->limit += names - index->expected[i].names;
        index->expected[i].names = names;
    }
    return REPL_SUCCESS;
}

repl_result repl_chunk_index_expect(struct repl_chunk_index *index, const struct repl_uuid *volume,
                                    uint64_t names, uint64_t *pool, struct repl_error *err)
{
    pthread_mutex_lock(&index->mutex);
    repl_result result = expect_locked(index, volume, names, err);
    *pool = pool_read(index, volume);
    pthread_mutex_unlock(&index->mutex);
    return result;
}

static int join_work(struct repl_chunk_index *index, MDB_txn *txn, struct change *change)
{
    uint8_t bytes[VOLUME_KEY_SIZE], pool[8];
    MDB_val key = volume_key(bytes, change->volume);
    MDB_val value = {.mv_size = sizeof pool, .mv_data = pool};
    struct repl_writer w = repl_writer_of(pool, sizeof pool);
    repl_write_u64(&w, change->pool);
    return mdb_put(txn, index->tables[TABLE_MAIN], &key, &value, 0);
}

repl_result repl_chunk_index_join(struct repl_chunk_index *index, const struct repl_uuid *volume,
                                  uint64_t pool, struct repl_error *err)
{
    struct change change = {.pool = pool, .volume = volume};
    return change_make(index, join_work, &change, err);
}

uint64_t repl_chunk_index_guesses(struct repl_chunk_index *index)
{
    pthread_mutex_lock(&index->mutex);
    uint64_t guesses = index->limit / 4;
    pthread_mutex_unlock(&index->mutex);
    return guesses;
}

void repl_chunk_index_break_commit(struct repl_chunk_index *index, int os_errno)
{
    pthread_mutex_lock(&index->mutex);
    index->commit_errno = os_errno;
    pthread_mutex_unlock(&index->mutex);
}

/* --- whose turn it is to ask for names ---------------------------------------------------------
 */

static struct names_turn *turn_of(struct repl_chunk_index *index, uint64_t pool)
{
    for (size_t i = 0; i < index->turn_count; i++) {
        if (index->turns[i].pool == pool)
            return &index->turns[i];
    }
    return NULL;
}

enum repl_chunk_names_turn repl_chunk_index_names_begin(struct repl_chunk_index *index,
                                                        uint64_t pool, int64_t now_ns)
{
    if (index == NULL)
        return REPL_CHUNK_NAMES_MINE;
    struct names_turn *turn = turn_of(index, pool);
    if (turn == NULL) {
        struct names_turn *larger =
            reallocarray(index->turns, index->turn_count + 1, sizeof *larger);
        if (larger == NULL)
            return REPL_CHUNK_NAMES_MINE;
        index->turns = larger;
        turn = &larger[index->turn_count++];
        *turn = (struct names_turn){.pool = pool};
    }
    if (turn->out)
        return REPL_CHUNK_NAMES_OTHERS;
    if (turn->taken_ns != 0 && now_ns - turn->taken_ns < REPL_CHUNK_NAMES_FRESH_NS)
        return REPL_CHUNK_NAMES_FRESH;
    turn->out = true;
    return REPL_CHUNK_NAMES_MINE;
}

void repl_chunk_index_names_end(struct repl_chunk_index *index, uint64_t pool, bool whole,
                                int64_t now_ns)
{
    struct names_turn *turn = index != NULL ? turn_of(index, pool) : NULL;
    if (turn == NULL)
        return;
    turn->out = false;
    if (whole)
        turn->taken_ns = now_ns;
}
