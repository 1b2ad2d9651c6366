#include "site/replica/tree_map.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cursor.h"
#include "format/segment_format.h"
#include "lmdb_file.h"
#include "loop/loop.h"

#define VERSION   1u
#define ENV_FLAGS (MDB_NOSUBDIR | MDB_NOTLS | MDB_NOLOCK | MDB_NORDAHEAD)
/* Address space, not disk: an object with its name takes some 500 bytes. */
#define MAP_SIZE (UINT64_C(1) << 38)
/* So many changes are in memory before they are committed. */
#define CHANGES_MAX 50000u

static const char *const table_names[REPLICA_TABLES] = {
    "meta",  "node", "xattr",     "name",     "where",      "run",
    "place", "todo", "todo-name", "todo-old", "todo-range",
};

struct meta_row {
    uint32_t version, phase;
    uint8_t volume[16];
    struct {
        uint64_t from, to;
        uint32_t part, has_point;
        uint8_t digest[32];
    } reached, goal;
};

static repl_result map_fail(const struct replica_map *map, int error, struct repl_error *err)
{
    return repl_lmdb_fail(map->path, "", error, err);
}

repl_result replica_pulse_beat(const struct replica_pulse *pulse, struct repl_error *err)
{
    atomic_store(pulse->alive_ns, repl_now_mono_ns());
    return atomic_load(pulse->stop) ? repl_fail(err, REPL_E_RETRY, "stopped") : REPL_SUCCESS;
}

/* --- keys and entries ------------------------------------------------------------------------ */

struct replica_key replica_key_of(const uint64_t *numbers, size_t count, const char *name,
                                  size_t name_size)
{
    struct replica_key key = {.size = count * 8 + name_size};
    repl_tree_numbers_put(key.bytes, numbers, count);
    if (name_size > 0)
        memcpy(key.bytes + count * 8, name, name_size);
    return key;
}

repl_result replica_map_get(struct replica_map *map, enum replica_table table,
                            const struct replica_key *key, MDB_val *value, bool *found,
                            struct repl_error *err)
{
    MDB_val k = repl_tree_val(key->bytes, key->size);
    int error = mdb_get(map->txn, map->tables[table], &k, value);
    *found = error == 0;
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS : map_fail(map, error, err);
}

repl_result replica_map_put(struct replica_map *map, enum replica_table table,
                            const struct replica_key *key, const void *value, size_t size,
                            struct repl_error *err)
{
    MDB_val k = repl_tree_val(key->bytes, key->size), v = repl_tree_val(value, size);
    int error = mdb_put(map->txn, map->tables[table], &k, &v, 0);
    map->changes++;
    return error == 0 ? REPL_SUCCESS : map_fail(map, error, err);
}

repl_result replica_map_del(struct replica_map *map, enum replica_table table,
                            const struct replica_key *key, struct repl_error *err)
{
    MDB_val k = repl_tree_val(key->bytes, key->size);
    int error = mdb_del(map->txn, map->tables[table], &k, NULL);
    map->changes++;
    return error == 0 || error == MDB_NOTFOUND ? REPL_SUCCESS : map_fail(map, error, err);
}

static repl_result seek(struct replica_map *map, enum replica_table table, struct replica_key *key,
                        size_t prefix, bool backwards, MDB_val *value, bool *found,
                        struct repl_error *err)
{
    MDB_val k = repl_tree_val(key->bytes, key->size);
    int error = 0;
    *found = false;
    if (map->cursors[table] == NULL)
        error = mdb_cursor_open(map->txn, map->tables[table], &map->cursors[table]);
    if (error != 0)
        return map_fail(map, error, err);
    error = mdb_cursor_get(map->cursors[table], &k, value, MDB_SET_RANGE);
    bool exact =
        error == 0 && k.mv_size == key->size && memcmp(k.mv_data, key->bytes, key->size) == 0;
    if (backwards && !exact && (error == 0 || error == MDB_NOTFOUND))
        error = mdb_cursor_get(map->cursors[table], &k, value, error == 0 ? MDB_PREV : MDB_LAST);
    if (error != 0)
        return error == MDB_NOTFOUND ? REPL_SUCCESS : map_fail(map, error, err);
    *found = k.mv_size >= prefix && k.mv_size <= REPLICA_KEY_MAX &&
             memcmp(k.mv_data, key->bytes, prefix) == 0;
    if (*found) {
        memcpy(key->bytes, k.mv_data, k.mv_size);
        key->size = k.mv_size;
    }
    return REPL_SUCCESS;
}

repl_result replica_map_next(struct replica_map *map, enum replica_table table,
                             struct replica_key *key, size_t prefix, MDB_val *value, bool *found,
                             struct repl_error *err)
{
    return seek(map, table, key, prefix, false, value, found, err);
}

repl_result replica_map_last(struct replica_map *map, enum replica_table table,
                             struct replica_key *key, size_t prefix, MDB_val *value, bool *found,
                             struct repl_error *err)
{
    return seek(map, table, key, prefix, true, value, found, err);
}

repl_result replica_map_node(struct replica_map *map, uint64_t object, struct repl_node *node,
                             bool *found, struct repl_error *err)
{
    const struct replica_key key = REPLICA_KEY(object);
    struct repl_record record = {0};
    MDB_val value;
    REPL_TRY(replica_map_get(map, REPLICA_NODE, &key, &value, found, err));
    if (!*found)
        return REPL_SUCCESS;
    struct repl_reader reader = repl_reader_of(value.mv_data, value.mv_size);
    repl_record_decode(&reader, &record);
    if (reader.failed)
        return map_fail(map, MDB_CORRUPTED, err);
    *node = record.node;
    return REPL_SUCCESS;
}

repl_result replica_map_todo(struct replica_map *map, uint64_t object, struct replica_todo *todo,
                             bool *found, struct repl_error *err)
{
    const struct replica_key key = REPLICA_KEY(object);
    MDB_val value;
    REPL_TRY(replica_map_get(map, REPLICA_TODO, &key, &value, found, err));
    if (*found && value.mv_size != sizeof *todo)
        return map_fail(map, MDB_CORRUPTED, err);
    if (*found)
        memcpy(todo, value.mv_data, sizeof *todo);
    return REPL_SUCCESS;
}

/* --- transactions ---------------------------------------------------------------------------- */

repl_result replica_map_begin(struct replica_map *map, bool write, struct repl_error *err)
{
    int error = mdb_txn_begin(map->env, NULL, write ? 0 : MDB_RDONLY, &map->txn);
    map->writing = write;
    map->changes = 0;
    if (error == 0)
        return REPL_SUCCESS;
    map->txn = NULL;
    return map_fail(map, error, err);
}

bool replica_map_is_given_up(struct replica_map *map)
{
    MDB_txn *txn;
    if (map->env == NULL)
        return true;
    int error = mdb_txn_begin(map->env, NULL, MDB_RDONLY, &txn);
    if (error == 0)
        mdb_txn_abort(txn);
    return error == MDB_PANIC;
}

static void cursors_close(struct replica_map *map)
{
    for (unsigned i = 0; i < REPLICA_TABLES; i++) {
        if (map->cursors[i] != NULL)
            mdb_cursor_close(map->cursors[i]);
        map->cursors[i] = NULL;
    }
}

void replica_map_end(struct replica_map *map)
{
    cursors_close(map);
    if (map->txn != NULL)
        mdb_txn_abort(map->txn);
    map->txn = NULL;
}

repl_result replica_map_commit(struct replica_map *map, struct repl_error *err)
{
    cursors_close(map);
    int error = mdb_txn_commit(map->txn);
    map->txn = NULL;
    return error == 0 ? REPL_SUCCESS : map_fail(map, error, err);
}

repl_result replica_map_breathe(struct replica_map *map, struct repl_error *err)
{
    if (map->changes < CHANGES_MAX)
        return REPL_SUCCESS;
    REPL_TRY(replica_map_commit(map, err));
    return replica_map_begin(map, true, err);
}

/* --- the row of all -------------------------------------------------------------------------- */

#define HEAD_PUT(row, head)                                                                        \
    do {                                                                                           \
        (row).from = (head).from_seq;                                                              \
        (row).to = (head).to_seq;                                                                  \
        (row).part = (head).part;                                                                  \
        (row).has_point = (head).has_point;                                                        \
        memcpy((row).digest, (head).digest.bytes, sizeof(row).digest);                             \
    } while (0)

#define HEAD_GET(row, head)                                                                        \
    do {                                                                                           \
        (head).from_seq = (row).from;                                                              \
        (head).to_seq = (row).to;                                                                  \
        (head).part = (row).part;                                                                  \
        (head).has_point = (row).has_point != 0;                                                   \
        memcpy((head).digest.bytes, (row).digest, sizeof(row).digest);                             \
    } while (0)

static repl_result meta_put(struct replica_map *map, enum replica_phase phase,
                            struct repl_error *err)
{
    struct meta_row row = {.version = VERSION, .phase = phase};
    const struct replica_key key = REPLICA_KEY(0);
    memcpy(row.volume, map->volume.bytes, sizeof row.volume);
    HEAD_PUT(row.reached, map->reached);
    HEAD_PUT(row.goal, map->goal);
    return replica_map_put(map, REPLICA_META, &key, &row, sizeof row, err);
}

static repl_result meta_get(struct replica_map *map, struct repl_error *err)
{
    const struct replica_key key = REPLICA_KEY(0);
    struct meta_row row;
    MDB_val value;
    bool found;
    map->phase = REPLICA_EMPTY;
    REPL_TRY(replica_map_get(map, REPLICA_META, &key, &value, &found, err));
    if (!found || value.mv_size != sizeof row)
        return REPL_SUCCESS;
    memcpy(&row, value.mv_data, sizeof row);
    if (row.version != VERSION || row.phase > REPLICA_ATTACHING ||
        memcmp(row.volume, map->volume.bytes, sizeof row.volume) != 0)
        return REPL_SUCCESS;
    map->phase = row.phase;
    HEAD_GET(row.reached, map->reached);
    HEAD_GET(row.goal, map->goal);
    return REPL_SUCCESS;
}

repl_result replica_map_phase(struct replica_map *map, enum replica_phase phase,
                              struct repl_error *err)
{
    int error = 0;
    REPL_TRY(replica_map_begin(map, true, err));
    for (unsigned i = REPLICA_TODO; phase == REPLICA_AT && i < REPLICA_TABLES && error == 0; i++)
        error = mdb_drop(map->txn, map->tables[i], 0);
    repl_result result = error == 0 ? meta_put(map, phase, err) : map_fail(map, error, err);
    if (repl_ok(result))
        result = replica_map_commit(map, err);
    replica_map_end(map);
    if (repl_ok(result))
        map->phase = phase;
    return result;
}

/* --- the file -------------------------------------------------------------------------------- */

static repl_result tables_open(struct replica_map *map, struct repl_error *err)
{
    REPL_TRY(replica_map_begin(map, true, err));
    int error = 0;
    for (unsigned i = 0; i < REPLICA_TABLES && error == 0; i++)
        error = mdb_dbi_open(map->txn, table_names[i], MDB_CREATE, &map->tables[i]);
    repl_result result = error == 0 ? meta_get(map, err) : map_fail(map, error, err);
    if (repl_ok(result))
        result = replica_map_commit(map, err);
    replica_map_end(map);
    return result;
}

repl_result replica_map_open(struct replica_map *map, struct repl_error *err)
{
    int error = mdb_env_create(&map->env);
    if (error != 0) {
        map->env = NULL;
        return map_fail(map, error, err);
    }
    mdb_env_set_maxdbs(map->env, REPLICA_TABLES);
    mdb_env_set_mapsize(map->env, MAP_SIZE);
    error = mdb_env_open(map->env, map->path, ENV_FLAGS, 0600);
    if (error == 0)
        error = repl_lmdb_length_check(map->env);
    repl_result result = error == 0 ? tables_open(map, err) : map_fail(map, error, err);
    if (!repl_ok(result))
        replica_map_close(map);
    return result;
}

void replica_map_close(struct replica_map *map)
{
    replica_map_end(map);
    if (map->env != NULL)
        mdb_env_close(map->env);
    map->env = NULL;
}

repl_result replica_map_remake(struct replica_map *map, struct repl_error *err)
{
    replica_map_close(map);
    if (unlink(map->path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove %s", map->path);
    map->reached = map->goal = (struct repl_head){0};
    return replica_map_open(map, err);
}
