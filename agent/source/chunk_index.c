/*
 * Keys are the first 16 bytes of a name, values are empty: two chunks that
 * agree in 128 bits of SHA-256 are not to be expected, and would cost a round
 * trip.
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
#include "lmdb_file.h"

#define KEY_SIZE      16u
#define VERSION       1u
#define IDENTITY_SIZE 20u /* version, volume */
#define ENV_FLAGS     (MDB_NOSUBDIR | MDB_NOTLS | MDB_NOMETASYNC | MDB_NORDAHEAD)

/* Address space, not disk: a name takes some 50 bytes in a tree filled at random; pages that a
 * commit replaces are used again two commits later. */
#define MAP_SIZE_BASE (UINT64_C(1) << 30)
#define MAP_PER_NAME  256u

enum { TABLE_MAIN, TABLE_A, TABLE_B, TABLE_COUNT };
static const char *const table_names[TABLE_COUNT] = {NULL, "a", "b"};

struct repl_chunk_index {
    struct repl_chunk_index_options options;
    char *path;
    pthread_rwlock_t env_lock; /* shared: env is used; exclusive: it is opened or closed */
    MDB_env *env;              /* NULL: the disk failed; nothing is known */
    MDB_dbi tables[TABLE_COUNT];
    int commit_errno; /* a test's */
};

/* --- errors ---------------------------------------------------------------------------------- */

static repl_result index_fail(const struct repl_chunk_index *index, int error, const char *what,
                              struct repl_error *err)
{
    if (error == ENOSPC || error == EDQUOT)
        return repl_fail_errno(err, REPL_E_NOSPACE, error, "%s: %s", index->path, what);
    if (error > 0)
        return repl_fail_errno(err, error == ENOMEM ? REPL_E_NOMEM : REPL_E_IO, error, "%s: %s",
                               index->path, what);
    return repl_fail(err, REPL_E_CORRUPT, "%s: %s: %s", index->path, what, mdb_strerror(error));
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

static MDB_val key_val(const struct repl_digest *name)
{
    return (MDB_val){.mv_size = KEY_SIZE, .mv_data = (void *)(uintptr_t)name->bytes};
}

static void identity_encode(const struct repl_chunk_index *index, uint8_t bytes[IDENTITY_SIZE])
{
    struct repl_writer w = repl_writer_of(bytes, IDENTITY_SIZE);
    repl_write_u32(&w, VERSION);
    repl_write_uuid(&w, &index->options.volume);
}

/* 0, or MDB_INVALID for a file that is not this volume's. */
static int identity_check(struct repl_chunk_index *index, MDB_txn *txn)
{
    uint8_t bytes[IDENTITY_SIZE];
    MDB_val key = text_val("identity"), value = {.mv_size = sizeof bytes, .mv_data = bytes}, found;
    identity_encode(index, bytes);
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
    mdb_env_set_mapsize(index->env, MAP_SIZE_BASE + index->options.limit * MAP_PER_NAME);
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
    index->options = *options;
    index->options.path = index->path;
    /* Workers that look up one chunk after the other must not keep the writer out. */
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&index->env_lock, &attributes);
    pthread_rwlockattr_destroy(&attributes);
    int error = env_open(index);
    if (!is_harmless(error))
        error = env_begin_anew(index);
    if (error != 0) {
        repl_result result = index_fail(index, error, "opening the index of chunks", err);
        repl_chunk_index_close(index);
        return result;
    }
    *out = index;
    return REPL_SUCCESS;
}

void repl_chunk_index_close(struct repl_chunk_index *index)
{
    if (index == NULL)
        return;
    env_close(index);
    pthread_rwlock_destroy(&index->env_lock);
    free(index->path);
    free(index);
}

/* --- reading --------------------------------------------------------------------------------- */

static bool env_has(struct repl_chunk_index *index, const struct repl_digest *name)
{
    MDB_txn *txn;
    MDB_val key = key_val(name), value;
    bool found = false;
    if (index->env == NULL || mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn) != 0)
        return false;
    for (int i = TABLE_A; i < TABLE_COUNT && !found; i++)
        found = mdb_get(txn, index->tables[i], &key, &value) == 0;
    mdb_txn_abort(txn);
    return found;
}

bool repl_chunk_index_has(struct repl_chunk_index *index, const struct repl_digest *name)
{
    pthread_rwlock_rdlock(&index->env_lock);
    bool found = env_has(index, name);
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
    const struct repl_digest *names;
    size_t count;
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

/* Only this thread closes the environment, so it needs no lock to use it. */
static repl_result change_make(struct repl_chunk_index *index, change_fn *work,
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
    if (error != 0 || count == 0 || count + more <= index->options.limit / 2)
        return error;
    *young = old_of(*young);
    error = mdb_drop(txn, index->tables[*young], 0);
    return error == 0 ? young_set(index, txn, *young) : error;
}

static int add_work(struct repl_chunk_index *index, MDB_txn *txn, struct change *change)
{
    int young;
    int error = generations_turn(index, txn, change->count, &young);
    for (size_t i = 0; error == 0 && i < change->count; i++) {
        MDB_val key = key_val(&change->names[i]), value = {0};
        error = mdb_put(txn, index->tables[young], &key, &value, MDB_NOOVERWRITE);
        if (error == MDB_KEYEXIST)
            error = 0;
    }
    return error;
}

static int name_order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct repl_digest));
}

repl_result repl_chunk_index_add(struct repl_chunk_index *index, const struct repl_digest *names,
                                 size_t count, struct repl_error *err)
{
    if (count > index->options.limit / 2)
        count = (size_t)(index->options.limit / 2);
    if (count == 0)
        return REPL_SUCCESS;
    /* In order, names that share a page of the tree touch it once. */
    struct repl_digest *sorted = malloc(count * sizeof *sorted);
    if (sorted == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for names of chunks");
    memcpy(sorted, names, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, name_order);
    struct change change = {.names = sorted, .count = count};
    repl_result result = change_make(index, add_work, &change, err);
    free(sorted);
    return result;
}

static int remove_work(struct repl_chunk_index *index, MDB_txn *txn, struct change *change)
{
    int error = 0;
    for (size_t i = 0; error == 0 && i < change->count; i++) {
        for (int table = TABLE_A; error == 0 && table < TABLE_COUNT; table++) {
            MDB_val key = key_val(&change->names[i]);
            error = mdb_del(txn, index->tables[table], &key, NULL);
            if (error == MDB_NOTFOUND)
                error = 0;
        }
    }
    return error;
}

repl_result repl_chunk_index_remove(struct repl_chunk_index *index, const struct repl_digest *names,
                                    size_t count, struct repl_error *err)
{
    struct change change = {.names = names, .count = count};
    return change_make(index, remove_work, &change, err);
}

repl_result repl_chunk_index_clear(struct repl_chunk_index *index, struct repl_error *err)
{
    int error = env_begin_anew(index);
    return error == 0 ? REPL_SUCCESS : index_fail(index, error, "making it anew", err);
}

void repl_chunk_index_break_commit(struct repl_chunk_index *index, int os_errno)
{
    index->commit_errno = os_errno;
}
