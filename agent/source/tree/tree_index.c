#include "source/tree/tree_index.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "base/hash.h"
#include "control/control.h"
#include "lmdb_file.h"

#define VERSION   5u
#define ENV_FLAGS (MDB_NOSUBDIR | MDB_NOTLS | MDB_NORDAHEAD)

/* Address space, not disk: an object with its name takes some 500 bytes. */
#define MAP_SIZE (UINT64_C(1) << 38)

static const char *const table_names[REPL_TREE_TABLES] = {
    "meta",   "object",  "handle", "inode", "name", "attribute",
    "extent", "mapping", "block",  "piece", "free", "pending",
};

struct repl_tree_index {
    char *path;
    struct repl_uuid volume;
    MDB_env *env;
    MDB_dbi tables[REPL_TREE_TABLES];
    struct repl_tree_meta meta;
};

static repl_result index_fail(const struct repl_tree_index *index, int error,
                              struct repl_error *err)
{
    return repl_lmdb_fail(index->path, "", error, err);
}

/* --- keys ------------------------------------------------------------------------------------ */

void repl_tree_key_bytes(struct repl_tree_key *key, const void *bytes, size_t size)
{
    memcpy(key->bytes + key->size, bytes, size);
    key->size += size;
}

void repl_tree_key_u8(struct repl_tree_key *key, uint8_t number)
{
    repl_tree_key_bytes(key, &number, 1);
}

void repl_tree_key_u64(struct repl_tree_key *key, uint64_t number)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(number >> (56 - 8 * i));
    repl_tree_key_bytes(key, bytes, sizeof bytes);
}

uint64_t repl_tree_key_read(const void *bytes)
{
    const uint8_t *b = bytes;
    uint64_t number = 0;
    for (int i = 0; i < 8; i++)
        number = number << 8 | b[i];
    return number;
}

static MDB_val key_val(const struct repl_tree_key *key)
{
    return (MDB_val){.mv_size = key->size, .mv_data = (void *)(uintptr_t)key->bytes};
}

repl_result repl_tree_get(struct repl_tree_txn *txn, enum repl_tree_table table,
                          const struct repl_tree_key *key, MDB_val *value, bool *found,
                          struct repl_error *err)
{
    MDB_val k = key_val(key);
    int error = mdb_get(txn->txn, txn->index->tables[table], &k, value);
    *found = error == 0;
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS : index_fail(txn->index, error, err);
}

repl_result repl_tree_put(struct repl_tree_txn *txn, enum repl_tree_table table,
                          const struct repl_tree_key *key, const void *value, size_t size,
                          struct repl_error *err)
{
    MDB_val k = key_val(key), v = {.mv_size = size, .mv_data = (void *)(uintptr_t)value};
    int error = mdb_put(txn->txn, txn->index->tables[table], &k, &v, 0);
    txn->changed = true;
    return error == 0 ? REPL_SUCCESS : index_fail(txn->index, error, err);
}

repl_result repl_tree_del(struct repl_tree_txn *txn, enum repl_tree_table table,
                          const struct repl_tree_key *key, struct repl_error *err)
{
    MDB_val k = key_val(key);
    int error = mdb_del(txn->txn, txn->index->tables[table], &k, NULL);
    txn->changed |= error == 0;
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS : index_fail(txn->index, error, err);
}

/* --- walks ----------------------------------------------------------------------------------- */

static repl_result walk_follow(struct repl_tree_walk *walk, int error, struct repl_error *err)
{
    walk->done = error == MDB_NOTFOUND;
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS
                                               : index_fail(walk->txn->index, error, err);
}

repl_result repl_tree_walk_begin(struct repl_tree_txn *txn, enum repl_tree_table table,
                                 const struct repl_tree_key *from, struct repl_tree_walk *walk,
                                 struct repl_error *err)
{
    *walk = (struct repl_tree_walk){.txn = txn, .key = key_val(from)};
    int error = mdb_cursor_open(txn->txn, txn->index->tables[table], &walk->cursor);
    if (error != 0) {
        walk->cursor = NULL;
        return index_fail(txn->index, error, err);
    }
    error = mdb_cursor_get(walk->cursor, &walk->key, &walk->value,
                           from->size > 0 ? MDB_SET_RANGE : MDB_FIRST);
    return walk_follow(walk, error, err);
}

repl_result repl_tree_walk_next(struct repl_tree_walk *walk, struct repl_error *err)
{
    int error = mdb_cursor_get(walk->cursor, &walk->key, &walk->value, MDB_NEXT);
    return walk_follow(walk, error, err);
}

repl_result repl_tree_walk_back(struct repl_tree_walk *walk, struct repl_error *err)
{
    int error =
        mdb_cursor_get(walk->cursor, &walk->key, &walk->value, walk->done ? MDB_LAST : MDB_PREV);
    return walk_follow(walk, error, err);
}

repl_result repl_tree_walk_remove(struct repl_tree_walk *walk, struct repl_error *err)
{
    int error = mdb_cursor_del(walk->cursor, 0);
    walk->txn->changed = true;
    if (error == 0) /* after a removal: what came behind it */
        error = mdb_cursor_get(walk->cursor, &walk->key, &walk->value, MDB_NEXT);
    return walk_follow(walk, error, err);
}

void repl_tree_walk_end(struct repl_tree_walk *walk)
{
    if (walk->cursor != NULL)
        mdb_cursor_close(walk->cursor);
    walk->cursor = NULL;
}

bool repl_tree_walk_is_at(const struct repl_tree_walk *walk, uint64_t number)
{
    return !walk->done && walk->key.mv_size >= 8 && repl_tree_key_read(walk->key.mv_data) == number;
}

/* --- the file -------------------------------------------------------------------------------- */

struct meta_row {
    uint32_t version;
    uint32_t full_wanted;
    uint8_t volume[16];
    uint64_t next_object, space_size, told_size, stamp, told_to;
};

static repl_result meta_put(struct repl_tree_txn *txn, struct repl_error *err)
{
    const struct repl_tree_index *index = txn->index;
    struct meta_row row = {.version = VERSION,
                           .full_wanted = index->meta.full_wanted,
                           .next_object = index->meta.next_object,
                           .space_size = index->meta.space_size,
                           .told_size = index->meta.told_size,
                           .stamp = index->meta.stamp,
                           .told_to = index->meta.told_to};
    struct repl_tree_key key = {0};
    memcpy(row.volume, index->volume.bytes, sizeof row.volume);
    repl_tree_key_u8(&key, 0);
    return repl_tree_put(txn, REPL_TREE_META, &key, &row, sizeof row, err);
}

/* *found: the file is of this volume and can be gone on with. */
static repl_result meta_get(struct repl_tree_txn *txn, bool *found, struct repl_error *err)
{
    struct repl_tree_index *index = txn->index;
    struct repl_tree_key key = {0};
    struct meta_row row;
    MDB_val value;
    repl_tree_key_u8(&key, 0);
    REPL_TRY(repl_tree_get(txn, REPL_TREE_META, &key, &value, found, err));
    *found = *found && value.mv_size == sizeof row;
    if (!*found)
        return REPL_SUCCESS;
    memcpy(&row, value.mv_data, sizeof row);
    *found =
        row.version == VERSION && memcmp(row.volume, index->volume.bytes, sizeof row.volume) == 0;
    index->meta = (struct repl_tree_meta){.next_object = row.next_object,
                                          .space_size = row.space_size,
                                          .told_size = row.told_size,
                                          .stamp = row.stamp,
                                          .told_to = row.told_to,
                                          .full_wanted = row.full_wanted != 0};
    return REPL_SUCCESS;
}

static repl_result tables_open(struct repl_tree_txn *txn, struct repl_error *err)
{
    for (int i = 0; i < REPL_TREE_TABLES; i++) {
        int error = mdb_dbi_open(txn->txn, table_names[i], MDB_CREATE, &txn->index->tables[i]);
        if (error != 0)
            return index_fail(txn->index, error, err);
    }
    return REPL_SUCCESS;
}

static void env_close(struct repl_tree_index *index)
{
    if (index->env != NULL)
        mdb_env_close(index->env);
    index->env = NULL;
}

/* *found: what it holds is this volume's. */
static repl_result env_open(struct repl_tree_index *index, bool *found, struct repl_error *err)
{
    struct repl_tree_txn txn;
    int dead_readers;
    int error = mdb_env_create(&index->env);
    if (error != 0) {
        index->env = NULL;
        return index_fail(index, error, err);
    }
    mdb_env_set_maxdbs(index->env, REPL_TREE_TABLES);
    mdb_env_set_mapsize(index->env, MAP_SIZE);
    error = mdb_env_open(index->env, index->path, ENV_FLAGS, 0600);
    if (error == 0)
        error = mdb_reader_check(index->env, &dead_readers);
    if (error == 0)
        error = repl_lmdb_length_check(index->env);
    if (error != 0)
        return index_fail(index, error, err);
    REPL_TRY(repl_tree_begin(index, true, &txn, err));
    repl_result result = tables_open(&txn, err);
    if (repl_ok(result))
        result = meta_get(&txn, found, err);
    if (!repl_ok(result)) {
        repl_tree_abort(&txn);
        return result;
    }
    txn.changed = true;
    return repl_tree_commit(&txn, err);
}

static repl_result files_remove(const struct repl_tree_index *index, struct repl_error *err)
{
    char path[4096];
    snprintf(path, sizeof path, "%s-lock", index->path);
    if ((unlink(index->path) != 0 && errno != ENOENT) || (unlink(path) != 0 && errno != ENOENT))
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: removing it", index->path);
    return REPL_SUCCESS;
}

static repl_result begin_anew(struct repl_tree_index *index,
                              const struct repl_tree_index_options *options, struct repl_error *err)
{
    bool found;
    env_close(index);
    REPL_TRY(files_remove(index, err));
    REPL_TRY(env_open(index, &found, err));
    index->meta = (struct repl_tree_meta){.next_object = options->first_object,
                                          .stamp = REPL_TREE_STAMP_FIRST,
                                          .full_wanted = options->full_wanted,
                                          .told_to = options->told_to};
    struct repl_tree_txn txn;
    REPL_TRY(repl_tree_begin(index, true, &txn, err));
    txn.changed = true;
    return repl_tree_commit(&txn, err);
}

repl_result repl_tree_index_open(const struct repl_tree_index_options *options,
                                 struct repl_tree_index **out, struct repl_error *err)
{
    struct repl_tree_index *index = calloc(1, sizeof *index);
    bool found = false;
    if (index == NULL || (index->path = strdup(options->path)) == NULL) {
        free(index);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the index of a tree");
    }
    index->volume = options->volume;
    repl_result result = env_open(index, &found, err);
    bool damaged = !repl_ok(result) && result.code == REPL_E_CORRUPT;
    if (damaged)
        repl_log(LOG_WARNING, "%s: the tree's index is begun anew, and all of the tree is sent",
                 err != NULL ? err->text : index->path);
    if (damaged || (repl_ok(result) && !found))
        result = begin_anew(index, options, err);
    if (!repl_ok(result)) {
        repl_tree_index_close(index);
        return result;
    }
    *out = index;
    return REPL_SUCCESS;
}

void repl_tree_index_close(struct repl_tree_index *index)
{
    if (index == NULL)
        return;
    env_close(index);
    free(index->path);
    free(index);
}

struct repl_tree_meta *repl_tree_meta(struct repl_tree_index *index)
{
    return &index->meta;
}

uint64_t repl_tree_count(struct repl_tree_index *index, enum repl_tree_table table)
{
    struct repl_tree_txn txn;
    MDB_stat stat = {0};
    if (!repl_ok(repl_tree_begin(index, false, &txn, NULL)))
        return 0;
    if (mdb_stat(txn.txn, index->tables[table], &stat) != 0)
        stat.ms_entries = 0;
    repl_tree_abort(&txn);
    return stat.ms_entries;
}

repl_result repl_tree_begin(struct repl_tree_index *index, bool write, struct repl_tree_txn *txn,
                            struct repl_error *err)
{
    *txn = (struct repl_tree_txn){.index = index};
    int error = mdb_txn_begin(index->env, NULL, write ? 0 : MDB_RDONLY, &txn->txn);
    if (error == 0)
        return REPL_SUCCESS;
    txn->txn = NULL;
    return index_fail(index, error, err);
}

repl_result repl_tree_commit(struct repl_tree_txn *txn, struct repl_error *err)
{
    repl_result result = txn->changed ? meta_put(txn, err) : REPL_SUCCESS;
    if (!txn->changed || !repl_ok(result)) {
        repl_tree_abort(txn);
        return result;
    }
    int error = mdb_txn_commit(txn->txn);
    txn->txn = NULL;
    return error == 0 ? REPL_SUCCESS : index_fail(txn->index, error, err);
}

void repl_tree_abort(struct repl_tree_txn *txn)
{
    if (txn->txn != NULL)
        mdb_txn_abort(txn->txn);
    txn->txn = NULL;
}

/* --- objects --------------------------------------------------------------------------------- */

/* Followed by the handle and the target. */
struct object_row {
    uint8_t kind, mount : 1, racy : 1;
    uint16_t mode;
    uint32_t uid, gid, major, minor, flags, project, links;
    uint32_t handle_size, target_size;
    int32_t handle_type;
    uint64_t size, inode, parent, hash;
    int64_t mtime_ns, ctime_ns, read_ns;
};

static void object_key(uint64_t object, struct repl_tree_key *key)
{
    *key = (struct repl_tree_key){0};
    repl_tree_key_u64(key, object);
}

/* A handle begins with the inode's number (ext4, xfs, btrfs), as the processor keeps it. Of its
 * lower half the most significant byte comes first here, so that neighbours lie side by side: else
 * a million files that are looked at in turn come to lie all over the table, and each transaction
 * writes another page for each of them, 7.4 GB in all. */
static void handle_key(const struct repl_tree_handle *handle, struct repl_tree_key *key)
{
    uint32_t inode;
    *key = (struct repl_tree_key){0};
    repl_tree_key_bytes(key, &handle->type, sizeof handle->type);
    repl_tree_key_bytes(key, handle->bytes, handle->size);
    if (handle->size < sizeof inode)
        return;
    memcpy(&inode, handle->bytes, sizeof inode);
    inode = htobe32(inode);
    memcpy(key->bytes + sizeof handle->type, &inode, sizeof inode);
}

static bool object_decode(const MDB_val *value, struct repl_tree_object *out)
{
    struct object_row row;
    if (value->mv_size < sizeof row)
        return false;
    memcpy(&row, value->mv_data, sizeof row);
    const uint8_t *text = (const uint8_t *)value->mv_data + sizeof row;
    if (row.handle_size > sizeof out->handle.bytes || row.target_size > sizeof out->target ||
        value->mv_size != sizeof row + row.handle_size + row.target_size)
        return false;
    memcpy(out->handle.bytes, text, row.handle_size);
    memcpy(out->target, text + row.handle_size, row.target_size);
    out->handle.type = row.handle_type;
    out->handle.size = row.handle_size;
    out->node = (struct repl_node){.kind = row.kind,
                                   .mode = row.mode,
                                   .uid = row.uid,
                                   .gid = row.gid,
                                   .major = row.major,
                                   .minor = row.minor,
                                   .flags = row.flags,
                                   .project = row.project,
                                   .size = row.size,
                                   .mtime_ns = row.mtime_ns,
                                   .target = out->target,
                                   .target_size = row.target_size};
    out->ctime_ns = row.ctime_ns;
    out->read_ns = row.read_ns;
    out->inode = row.inode;
    out->parent = row.parent;
    out->hash = row.hash;
    out->links = row.links;
    out->mount = row.mount != 0;
    out->racy = row.racy != 0;
    return true;
}

repl_result repl_tree_object_get(struct repl_tree_txn *txn, uint64_t object,
                                 struct repl_tree_object *out, bool *found, struct repl_error *err)
{
    struct repl_tree_key key;
    MDB_val value;
    object_key(object, &key);
    REPL_TRY(repl_tree_get(txn, REPL_TREE_OBJECT, &key, &value, found, err));
    out->object = object;
    if (*found && !object_decode(&value, out))
        return repl_fail(err, REPL_E_CORRUPT, "%s: object %llu", txn->index->path,
                         (unsigned long long)object);
    return REPL_SUCCESS;
}

repl_result repl_tree_object_put(struct repl_tree_txn *txn, const struct repl_tree_object *o,
                                 struct repl_error *err)
{
    const struct object_row row = {.kind = (uint8_t)o->node.kind,
                                   .mount = o->mount,
                                   .racy = o->racy,
                                   .mode = o->node.mode,
                                   .uid = o->node.uid,
                                   .gid = o->node.gid,
                                   .major = o->node.major,
                                   .minor = o->node.minor,
                                   .flags = o->node.flags,
                                   .project = o->node.project,
                                   .links = o->links,
                                   .handle_size = o->handle.size,
                                   .target_size = o->node.target_size,
                                   .handle_type = o->handle.type,
                                   .size = o->node.size,
                                   .inode = o->inode,
                                   .parent = o->parent,
                                   .hash = o->hash,
                                   .mtime_ns = o->node.mtime_ns,
                                   .ctime_ns = o->ctime_ns,
                                   .read_ns = o->read_ns};
    uint8_t value[sizeof row + REPL_TREE_HANDLE_MAX + REPL_TARGET_MAX];
    struct repl_tree_key key;
    memcpy(value, &row, sizeof row);
    memcpy(value + sizeof row, o->handle.bytes, row.handle_size);
    memcpy(value + sizeof row + row.handle_size, o->target, row.target_size);
    object_key(o->object, &key);
    return repl_tree_put(txn, REPL_TREE_OBJECT, &key, value,
                         sizeof row + row.handle_size + row.target_size, err);
}

static repl_result number_find(struct repl_tree_txn *txn, enum repl_tree_table table,
                               const struct repl_tree_key *key, uint64_t *object,
                               struct repl_error *err)
{
    MDB_val value;
    bool found;
    *object = 0;
    REPL_TRY(repl_tree_get(txn, table, key, &value, &found, err));
    if (found && value.mv_size == 8)
        *object = repl_tree_key_read(value.mv_data);
    return REPL_SUCCESS;
}

repl_result repl_tree_object_find(struct repl_tree_txn *txn, const struct repl_tree_handle *handle,
                                  uint64_t *object, struct repl_error *err)
{
    struct repl_tree_key key;
    handle_key(handle, &key);
    return number_find(txn, REPL_TREE_HANDLE, &key, object, err);
}

repl_result repl_tree_inode_find(struct repl_tree_txn *txn, uint64_t inode, uint64_t *object,
                                 struct repl_error *err)
{
    struct repl_tree_key key;
    object_key(inode, &key);
    return number_find(txn, REPL_TREE_INODE, &key, object, err);
}

repl_result repl_tree_object_identify(struct repl_tree_txn *txn, const struct repl_tree_object *o,
                                      struct repl_error *err)
{
    struct repl_tree_key key, number;
    object_key(o->object, &number);
    handle_key(&o->handle, &key);
    REPL_TRY(repl_tree_put(txn, REPL_TREE_HANDLE, &key, number.bytes, number.size, err));
    object_key(o->inode, &key);
    return o->mount ? REPL_SUCCESS
                    : repl_tree_put(txn, REPL_TREE_INODE, &key, number.bytes, number.size, err);
}

repl_result repl_tree_object_del(struct repl_tree_txn *txn, const struct repl_tree_object *o,
                                 struct repl_error *err)
{
    struct repl_tree_key key;
    uint64_t other; /* that has its inode by now */
    handle_key(&o->handle, &key);
    REPL_TRY(repl_tree_del(txn, REPL_TREE_HANDLE, &key, err));
    REPL_TRY(repl_tree_inode_find(txn, o->inode, &other, err));
    object_key(o->inode, &key);
    if (other == o->object && !o->mount)
        REPL_TRY(repl_tree_del(txn, REPL_TREE_INODE, &key, err));
    object_key(o->object, &key);
    return repl_tree_del(txn, REPL_TREE_OBJECT, &key, err);
}

void repl_tree_name_key(uint64_t directory, const char *name, size_t size,
                        struct repl_tree_key *key)
{
    *key = (struct repl_tree_key){0};
    repl_tree_key_u64(key, directory);
    repl_tree_key_u64(key, repl_xxh3(name, size));
    repl_tree_key_bytes(key, name, size);
}

repl_result repl_tree_name_get(struct repl_tree_txn *txn, uint64_t directory, const char *name,
                               size_t size, uint64_t *child, struct repl_error *err)
{
    struct repl_tree_key key;
    repl_tree_name_key(directory, name, size, &key);
    return number_find(txn, REPL_TREE_NAME, &key, child, err);
}

/* --- pending --------------------------------------------------------------------------------- */

repl_result repl_tree_pending_add(struct repl_tree_txn *txn, uint64_t object,
                                  enum repl_tree_pending what, const char *name, size_t size,
                                  struct repl_error *err)
{
    struct repl_tree_key key = {0};
    repl_tree_key_u64(&key, txn->index->meta.stamp);
    repl_tree_key_u64(&key, object);
    repl_tree_key_u8(&key, (uint8_t)what);
    if (what == REPL_TREE_PENDING_NAME) {
        repl_tree_key_u64(&key, repl_xxh3(name, size));
        repl_tree_key_bytes(&key, name, size);
    }
    return repl_tree_put(txn, REPL_TREE_PENDING, &key, NULL, 0, err);
}

repl_result repl_tree_pending_settle(struct repl_tree_txn *txn, uint64_t stamp,
                                     struct repl_error *err)
{
    struct repl_tree_key first = {0};
    struct repl_tree_walk walk;
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_PENDING, &first, &walk, err);
    while (repl_ok(result) && !walk.done && repl_tree_key_read(walk.key.mv_data) <= stamp)
        result = repl_tree_walk_remove(&walk, err);
    repl_tree_walk_end(&walk);
    return result;
}

repl_result repl_tree_pending_again(struct repl_tree_txn *txn, uint64_t stamp,
                                    struct repl_error *err)
{
    struct repl_tree_key from = {0}, key;
    uint64_t now = txn->index->meta.stamp;
    struct repl_tree_walk walk;
    repl_tree_key_u64(&from, stamp);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_PENDING, &from, &walk, err);
    while (repl_ok(result) && !walk.done && repl_tree_key_read(walk.key.mv_data) < now) {
        key = (struct repl_tree_key){0};
        repl_tree_key_u64(&key, now);
        repl_tree_key_bytes(&key, (const uint8_t *)walk.key.mv_data + 8, walk.key.mv_size - 8);
        result = repl_tree_put(txn, REPL_TREE_PENDING, &key, NULL, 0, err);
        if (repl_ok(result))
            result = repl_tree_walk_remove(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}
