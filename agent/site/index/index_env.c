/*
 * The LMDB file under the index: its transactions, its map, its syncs.
 *
 * The map is only address space. Where it is full all the same it is doubled,
 * which LMDB allows only while this process has no transaction: reading calls
 * hold map_lock shared as long as theirs is open.
 *
 * After a failed sync, what is on the disk is unknown, and LMDB's two pages of
 * metadata no longer protect what they point at. The file is then removed and
 * the index refuses to write until it is made anew (repl_index_remake, or the
 * next start); what was in it can still be read until then.
 */
#include "site/index/index_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "control/control.h"
#include "lmdb_file.h"

#define VERSION_KEY "repl-index-version"

#define CHECKSUM_SIZE    8u
#define ENTRY_KEY_MAX    INDEX_KEY_SIZE_MAX
#define ENTRY_FIELDS_MAX INDEX_FIELDS_MAX

#define ENV_FLAGS (MDB_NOSUBDIR | MDB_NOTLS | MDB_NOMETASYNC | MDB_NORDAHEAD)

static const char *const table_names[INDEX_TABLE_COUNT] = {
    "keys",     "numbers", "pools",      "volumes", "points",
    "segments", "chunks",  "references", "marks",   "dropped"};
_Static_assert(ENTRY_KEY_MAX >= REPL_VOLUME_NAME_SIZE, "a volume's key is its name");
_Static_assert(ENTRY_FIELDS_MAX >= INDEX_POINT_SIZE && ENTRY_FIELDS_MAX >= REPL_VOLUME_NAME_SIZE,
               "no entry has more than a segment's");

const char *repl_index_table_name(enum index_table table)
{
    return table_names[table];
}

void *repl_index_list_grow(void *list, size_t count, size_t *room, size_t item_size)
{
    size_t wanted = *room == 0 ? 16 : 2 * *room;
    if (count < *room)
        return list;
    void *larger = reallocarray(list, wanted, item_size);
    if (larger != NULL)
        *room = wanted;
    return larger;
}

/* --- errors ---------------------------------------------------------------------------------- */

repl_result repl_index_fail(const struct repl_index *index, int error, struct repl_error *err,
                            const char *what)
{
    error = repl_lmdb_error(index->path, error);
    if (error > 0) {
        enum repl_code code = error == ENOSPC || error == EDQUOT ? REPL_E_NOSPACE
                              : error == ENOMEM                  ? REPL_E_NOMEM
                              : error == ENOENT                  ? REPL_E_MISSING
                                                                 : REPL_E_IO;
        return repl_fail_errno(err, code, error, "cannot %s the index %s", what, index->path);
    }
    switch (error) {
    case MDB_MAP_FULL:
        return repl_fail(err, REPL_E_NOSPACE, "cannot %s the index %s: its map is full", what,
                         index->path);
    case MDB_PANIC:
        return repl_fail(err, REPL_E_RETRY,
                         "cannot %s the index %s: a write to it has failed; the site makes it anew "
                         "as soon as it can",
                         what, index->path);
    case MDB_READERS_FULL:
        return repl_fail(err, REPL_E_RETRY, "cannot %s the index %s: too many readers", what,
                         index->path);
    case MDB_VERSION_MISMATCH:
        return repl_fail(err, REPL_E_VERSION,
                         "the index %s was made by another release: the site makes it anew when "
                         "it starts",
                         index->path);
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
        return repl_fail(err, REPL_E_CORRUPT,
                         "the index %s is damaged (%s): stop the site, remove the file, start the "
                         "site, which makes it anew",
                         index->path, mdb_strerror(error));
    default:
        return repl_fail(err, REPL_E_INTERNAL, "cannot %s the index %s: %s", what, index->path,
                         mdb_strerror(error));
    }
}

repl_result repl_index_damaged(const struct repl_index *index, enum index_table table,
                               struct repl_error *err)
{
    return repl_fail(err, REPL_E_CORRUPT,
                     "the index %s has a damaged entry among its %s: stop the site, remove the "
                     "file, start the site, which makes it anew",
                     index->path, table_names[table]);
}

repl_result repl_index_write_fail(struct index_write *write, int error, struct repl_error *err)
{
    write->error = error;
    return repl_index_fail(write->index, error, err, "write to");
}

/* --- transactions ---------------------------------------------------------------------------- */

repl_result repl_index_get(const struct repl_index *index, MDB_txn *txn, enum index_table table,
                           MDB_val key, MDB_val *value, bool *found, struct repl_error *err)
{
    int error = mdb_get(txn, index->tables[table], &key, value);
    *found = error == 0;
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : repl_index_fail(index, error, err, "read");
}

/* LMDB has no checksums. Table and key are part of it: an entry whose key has changed would else
 * be a whole one of something else. */
static uint64_t entry_checksum(enum index_table table, const MDB_val *key, const void *fields,
                               size_t size)
{
    uint8_t bytes[1 + ENTRY_KEY_MAX + ENTRY_FIELDS_MAX];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u8(&w, (uint8_t)table);
    repl_write_bytes(&w, key->mv_data, key->mv_size);
    repl_write_bytes(&w, fields, size);
    ensure(!w.failed);
    return repl_xxh3(bytes, w.position);
}

repl_result repl_index_put(struct index_write *write, enum index_table table, MDB_val key,
                           const struct repl_writer *fields, struct repl_error *err)
{
    uint8_t bytes[ENTRY_FIELDS_MAX + CHECKSUM_SIZE];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    ensure(!fields->failed && fields->position == fields->size);
    repl_write_bytes(&w, fields->data, fields->size);
    repl_write_u64(&w, entry_checksum(table, &key, fields->data, fields->size));
    MDB_val value = {.mv_size = w.position, .mv_data = bytes};
    int error = mdb_put(write->txn, write->index->tables[table], &key, &value, 0);
    return error == 0 ? REPL_SUCCESS : repl_index_write_fail(write, error, err);
}

struct repl_reader repl_index_reader_of(enum index_table table, const MDB_val *key,
                                        const MDB_val *value)
{
    size_t size = value->mv_size - CHECKSUM_SIZE;
    struct repl_reader r = repl_reader_of(value->mv_data, value->mv_size);
    r.failed =
        value->mv_size < CHECKSUM_SIZE || size > ENTRY_FIELDS_MAX || key->mv_size > ENTRY_KEY_MAX;
    if (r.failed)
        return r;
    r.position = size;
    uint64_t checksum = repl_read_u64(&r);
    r = repl_reader_of(value->mv_data, size);
    r.failed = checksum != entry_checksum(table, key, value->mv_data, size);
    return r;
}

/* size 0: the one another process has chosen. */
static int map_resize(struct repl_index *index, size_t size)
{
    MDB_envinfo info;
    pthread_rwlock_wrlock(&index->map_lock);
    mdb_env_info(index->env, &info);
    int error = mdb_env_set_mapsize(index->env, size);
    /* LMDB has given the old map up by then, and without one nothing can go on. */
    if (error != 0)
        ensure(mdb_env_set_mapsize(index->env, info.me_mapsize) == 0);
    pthread_rwlock_unlock(&index->map_lock);
    return error;
}

static int map_double(struct repl_index *index)
{
    MDB_envinfo info;
    mdb_env_info(index->env, &info);
    return map_resize(index, info.me_mapsize * 2);
}

repl_result repl_index_read_begin(struct repl_index *index, MDB_txn **txn, struct repl_error *err)
{
    for (;;) {
        pthread_rwlock_rdlock(&index->map_lock);
        if (index->env == NULL) {
            pthread_rwlock_unlock(&index->map_lock);
            return repl_fail(err, REPL_E_RETRY, "the index %s is being made anew", index->path);
        }
        int error = mdb_txn_begin(index->env, NULL, MDB_RDONLY, txn);
        if (error == 0)
            return REPL_SUCCESS;
        pthread_rwlock_unlock(&index->map_lock);
        if (error != MDB_MAP_RESIZED || map_resize(index, 0) != 0)
            return repl_index_fail(index, error, err, "read");
    }
}

void repl_index_read_end(struct repl_index *index, MDB_txn *txn)
{
    mdb_txn_abort(txn);
    pthread_rwlock_unlock(&index->map_lock);
}

static repl_result write_check(const struct repl_index *index, struct repl_error *err)
{
    if (!index->writable)
        return repl_fail(err, REPL_E_REFUSED, "the index %s was opened for reading only",
                         index->path);
    if (index->broken == EIO)
        return repl_fail(err, REPL_E_IO,
                         "the index %s was abandoned after a failed sync: check the disk under it; "
                         "the site makes it anew as soon as it can",
                         index->path);
    if (index->broken != 0)
        return repl_fail_errno(err, REPL_E_NOSPACE, index->broken,
                               "the index %s was abandoned, as not all that was to be written to "
                               "it was: make room on its disk; the site then makes it anew",
                               index->path);
    return REPL_SUCCESS;
}

static repl_result write_begin(struct repl_index *index, MDB_txn **txn, struct repl_error *err)
{
    REPL_TRY(write_check(index, err));
    int error = mdb_txn_begin(index->env, NULL, 0, txn);
    return error == 0 ? REPL_SUCCESS : repl_index_fail(index, error, err, "write to");
}

/* Durably: what may be damaged must not come back after a power cut. False: it may. */
static bool index_files_remove(const char *path)
{
    char text[PATH_MAX];
    bool good = unlink(path) == 0 || errno == ENOENT;
    if ((size_t)snprintf(text, sizeof text, "%s-lock", path) < sizeof text)
        unlink(text);
    if ((size_t)snprintf(text, sizeof text, "%s", path) >= sizeof text)
        return false;
    int directory = open(dirname(text), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    good = good && directory >= 0 && fsync(directory) == 0;
    if (directory >= 0)
        close(directory);
    return good;
}

/* LMDB gives up for good where a page of metadata could not be written. */
static bool is_given_up(struct repl_index *index)
{
    MDB_txn *txn;
    int error = mdb_txn_begin(index->env, NULL, MDB_RDONLY, &txn);
    if (error == 0)
        mdb_txn_abort(txn);
    return error == MDB_PANIC;
}

/* A full disk is said before the sync; what else the kernel reports is taken for a failed one. */
static void check_sync(struct repl_index *index, int error)
{
    bool harmless = error == 0 || error == ENOSPC || error == EDQUOT || error == ENOMEM ||
                    (error < 0 && error != MDB_PANIC);
    if (index->broken != 0 || (harmless && (error == 0 || !is_given_up(index))))
        return;
    index->broken = repl_lmdb_error(index->path, error > 0 ? error : EIO);
    index_files_remove(index->path);
}

/* What a test wants to fail here, else 0. */
static int sync_broken(struct repl_index *index)
{
    return index->sync_fails_in > 0 && --index->sync_fails_in == 0 ? index->sync_errno : 0;
}

static int commit(struct repl_index *index, MDB_txn *txn)
{
    int error = sync_broken(index);
    if (error != 0)
        mdb_txn_abort(txn);
    else
        error = mdb_txn_commit(txn);
    check_sync(index, error);
    return error;
}

static repl_result write_in_batch(struct repl_index *index, index_write_fn *work, void *context,
                                  struct repl_error *err)
{
    if (index->batch == NULL)
        return repl_fail(err, REPL_E_INTERNAL, "a batch of the index %s was undone", index->path);
    struct index_write write = {.index = index, .txn = index->batch};
    repl_result result = work(&write, context, err);
    if (!repl_ok(result)) {
        mdb_txn_abort(index->batch);
        index->batch = NULL;
    }
    return result;
}

/* Does the work in one transaction, again in a larger map where it did not fit. */
repl_result repl_index_write(struct repl_index *index, index_write_fn *work, void *context,
                             struct repl_error *err)
{
    if (index->in_batch)
        return write_in_batch(index, work, context, err);
    for (;;) {
        struct index_write write = {.index = index};
        REPL_TRY(write_begin(index, &write.txn, err));
        repl_result result = work(&write, context, err);
        if (!repl_ok(result)) {
            mdb_txn_abort(write.txn);
        } else {
            write.error = commit(index, write.txn);
            if (write.error != 0)
                result = repl_index_fail(index, write.error, err, "write to");
        }
        if (repl_ok(result) || write.error != MDB_MAP_FULL || map_double(index) != 0)
            return result;
    }
}

repl_result repl_index_batch_begin(struct repl_index *index, struct repl_error *err)
{
    ensure(!index->in_batch);
    REPL_TRY(write_check(index, err));
    /* A batch cannot be done again from here, so it begins with half of the map before it. */
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(index->env, &info);
    mdb_env_stat(index->env, &stat);
    if (index->writable && info.me_last_pgno > info.me_mapsize / stat.ms_psize / 2) {
        int error = map_double(index);
        if (error != 0)
            return repl_index_fail(index, error, err, "enlarge");
    }
    REPL_TRY(write_begin(index, &index->batch, err));
    index->in_batch = true;
    return REPL_SUCCESS;
}

repl_result repl_index_batch_end(struct repl_index *index, struct repl_error *err)
{
    ensure(index->in_batch);
    MDB_txn *txn = index->batch;
    index->in_batch = false;
    index->batch = NULL;
    if (txn == NULL)
        return repl_fail(err, REPL_E_RETRY,
                         "a batch of the index %s was undone: begin again where it ends",
                         index->path);
    int error = commit(index, txn);
    return error == 0 ? REPL_SUCCESS : repl_index_fail(index, error, err, "write to");
}

repl_result repl_index_sync(struct repl_index *index, struct repl_error *err)
{
    MDB_txn *txn;
    /* Also says whether one may write, and lets nobody else do so meanwhile. */
    REPL_TRY(write_begin(index, &txn, err));
    mdb_txn_abort(txn);
    int error = sync_broken(index);
    if (error == 0)
        error = mdb_env_sync(index->env, 1);
    check_sync(index, error);
    return error == 0 ? REPL_SUCCESS : repl_index_fail(index, error, err, "sync");
}

/* --- opening and closing --------------------------------------------------------------------- */

static repl_result version_check(struct repl_index *index, MDB_txn *txn, struct repl_error *err)
{
    MDB_val key = repl_index_text_val(VERSION_KEY), value = {0};
    bool found;
    REPL_TRY(repl_index_get(index, txn, INDEX_MAIN, key, &value, &found, err));
    /* Whatever follows it in another version. */
    struct repl_reader r = repl_reader_of(value.mv_data, value.mv_size);
    uint32_t version = found ? repl_read_u32(&r) : 0;
    if (version != REPL_INDEX_VERSION)
        return repl_fail(err, REPL_E_VERSION,
                         "the index %s has version %u, and this version of repl knows %u: the site "
                         "makes it anew when it starts",
                         index->path, version, REPL_INDEX_VERSION);
    r = repl_index_reader_of(INDEX_MAIN, &key, &value);
    return r.failed ? repl_index_damaged(index, INDEX_MAIN, err) : REPL_SUCCESS;
}

static repl_result version_put(struct repl_index *index, MDB_txn *txn, uint32_t version,
                               struct repl_error *err)
{
    uint8_t bytes[4];
    struct index_write write = {.index = index, .txn = txn};
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_write_u32(&w, version);
    return repl_index_put(&write, INDEX_MAIN, repl_index_text_val(VERSION_KEY), &w, err);
}

static repl_result tables_open(struct repl_index *index, MDB_txn *txn, struct repl_error *err)
{
    MDB_stat stat;
    int error = mdb_dbi_open(txn, NULL, 0, &index->tables[INDEX_MAIN]);
    if (error == 0)
        error = mdb_stat(txn, index->tables[INDEX_MAIN], &stat);
    if (error != 0)
        return repl_index_fail(index, error, err, "open");
    if (index->writable && stat.ms_entries == 0)
        REPL_TRY(version_put(index, txn, REPL_INDEX_VERSION, err));
    REPL_TRY(version_check(index, txn, err));
    for (enum index_table table = INDEX_MAIN + 1; table < INDEX_TABLE_COUNT; table++) {
        error = mdb_dbi_open(txn, table_names[table], index->writable ? MDB_CREATE : 0,
                             &index->tables[table]);
        if (error != 0)
            return repl_index_fail(index, error == MDB_NOTFOUND ? MDB_INVALID : error, err, "open");
    }
    return REPL_SUCCESS;
}

static repl_result env_open(struct repl_index *index, size_t map_size, struct repl_error *err)
{
    MDB_txn *txn;
    int dead_readers;
    unsigned flags = ENV_FLAGS | (index->writable ? 0 : MDB_RDONLY);
    int error = mdb_env_create(&index->env);
    if (error != 0)
        return repl_index_fail(index, error, err, "open");
    mdb_env_set_maxdbs(index->env, INDEX_TABLE_COUNT);
    mdb_env_set_mapsize(index->env, map_size);
    error = mdb_env_open(index->env, index->path, flags, 0600);
    if (error == 0)
        error = repl_lmdb_length_check(index->env);
    if (error == 0)
        error = mdb_reader_check(index->env, &dead_readers);
    if (error == 0)
        error = mdb_txn_begin(index->env, NULL, index->writable ? 0 : MDB_RDONLY, &txn);
    if (error != 0)
        return repl_index_fail(index, error, err, "open");
    repl_result result = tables_open(index, txn, err);
    if (!repl_ok(result)) {
        mdb_txn_abort(txn);
        return result;
    }
    /* Even after a transaction that only read: it is what keeps the tables open. */
    error = mdb_txn_commit(txn);
    return error == 0 ? REPL_SUCCESS : repl_index_fail(index, error, err, "open");
}

static void env_close(struct repl_index *index)
{
    if (index->env != NULL)
        mdb_env_close(index->env);
    index->env = NULL;
}

repl_result repl_index_open_sized(const char *path, bool writable, size_t map_size,
                                  struct repl_index **out, struct repl_error *err)
{
    struct repl_index *index = calloc(1, sizeof *index);
    if (index == NULL || (index->path = strdup(path)) == NULL) {
        free(index);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the index %s", path);
    }
    index->writable = writable;
    pthread_rwlock_init(&index->map_lock, NULL);
    repl_result result =
        writable && access(path, F_OK) == 0 ? repl_index_examine(path, err) : REPL_SUCCESS;
    if (repl_ok(result))
        result = env_open(index, map_size, err);
    if (repl_ok(result) && writable)
        result = repl_index_purge(index, err);
    if (writable && (result.code == REPL_E_VERSION || result.code == REPL_E_CORRUPT)) {
        repl_log(LOG_WARNING, "%s; now it is, from logs and segments", err->text);
        env_close(index);
        if (!index_files_remove(path))
            result = repl_index_fail(index, errno, err, "remove");
        else
            result = env_open(index, map_size, err);
    }
    if (!repl_ok(result)) {
        repl_index_close(index);
        return result;
    }
    *out = index;
    return REPL_SUCCESS;
}

repl_result repl_index_open(const char *path, bool writable, struct repl_index **out,
                            struct repl_error *err)
{
    return repl_index_open_sized(path, writable, REPL_INDEX_MAP_SIZE, out, err);
}

bool repl_index_is_broken(const struct repl_index *index)
{
    return index->broken != 0;
}

repl_result repl_index_remake(struct repl_index *index, struct repl_error *err)
{
    ensure(index->writable && !index->in_batch);
    pthread_rwlock_wrlock(&index->map_lock);
    env_close(index);
    repl_result result = REPL_SUCCESS;
    if (!index_files_remove(index->path))
        result = repl_index_fail(index, errno != 0 ? errno : EIO, err, "remove");
    if (repl_ok(result))
        result = env_open(index, REPL_INDEX_MAP_SIZE, err);
    if (!repl_ok(result))
        env_close(index);
    else
        index->remakes++;
    index->broken = repl_ok(result) ? 0 : result.code == REPL_E_NOSPACE ? ENOSPC : EIO;
    pthread_rwlock_unlock(&index->map_lock);
    return result;
}

uint64_t repl_index_remakes(struct repl_index *index)
{
    return index->remakes;
}

void repl_index_close(struct repl_index *index)
{
    if (index == NULL)
        return;
    if (index->batch != NULL)
        mdb_txn_abort(index->batch);
    env_close(index);
    pthread_rwlock_destroy(&index->map_lock);
    free(index->path);
    free(index);
}

/* --- for tests ------------------------------------------------------------------------------- */

void repl_index_break_sync(struct repl_index *index, unsigned count, int os_errno)
{
    index->sync_fails_in = count;
    index->sync_errno = os_errno;
}

static repl_result version_work(struct index_write *write, void *context, struct repl_error *err)
{
    const uint32_t *version = context;
    return version_put(write->index, write->txn, *version, err);
}

repl_result repl_index_set_version(struct repl_index *index, uint32_t version,
                                   struct repl_error *err)
{
    return repl_index_write(index, version_work, &version, err);
}

repl_result repl_index_entry_count(struct repl_index *index, uint64_t *count,
                                   struct repl_error *err)
{
    MDB_txn *txn;
    *count = 0;
    REPL_TRY(repl_index_read_begin(index, &txn, err));
    int error = 0;
    for (enum index_table table = INDEX_POINTS; error == 0 && table < INDEX_TABLE_COUNT; table++) {
        MDB_stat stat;
        error = mdb_stat(txn, index->tables[table], &stat);
        *count += error == 0 ? stat.ms_entries : 0;
    }
    repl_index_read_end(index, txn);
    return error == 0 ? REPL_SUCCESS : repl_index_fail(index, error, err, "read");
}
