#include "sim_lmdb.h"

#include <errno.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>

#define TABLES_MAX   16u
#define NAME_SIZE    32u
#define KEY_MAX      511u
#define VERSIONS_MAX 4096u
#define PAGE_SIZE    4096u
#define TABLE_MAIN   1u

/* Never changed once it is there, and kept: whoever reads has pointers to it. */
struct entry {
    struct entry *next; /* of all there ever were */
    MDB_dbi table;
    size_t key_size, value_size;
    uint8_t bytes[];
};

/* By table and key. */
struct version {
    bool exists;
    struct entry **entries;
    size_t count;
};

struct MDB_env {
    size_t map_size;
};

struct MDB_txn {
    bool writes;
    struct version version; /* of one that reads, the file's */
};

struct MDB_cursor {
    MDB_txn *txn;
    MDB_dbi table;
    uint8_t key[KEY_MAX];
    size_t key_size;
};

static struct {
    struct version versions[VERSIONS_MAX]; /* since the last sync, which is the first of them */
    size_t count;
    struct entry *entries;
    char tables[TABLES_MAX][NAME_SIZE];
    struct MDB_env *env; /* that has it open */
    bool writing;
    uint64_t transactions;
    void (*here)(void *context, const char *what);
    void *context;
} file;

/* --- versions -------------------------------------------------------------------------------- */

static struct version *newest(void)
{
    if (file.count == 0)
        file.count = 1; /* there is no file */
    return &file.versions[file.count - 1];
}

static struct version version_copy(const struct version *of)
{
    struct version copy = {.exists = of->exists,
                           .entries = sim_alloc((of->count + 1) * sizeof *of->entries),
                           .count = of->count};
    if (of->count > 0)
        memcpy(copy.entries, of->entries, of->count * sizeof *of->entries);
    return copy;
}

static void version_add(struct version version)
{
    (void)newest();
    ensure(file.count < VERSIONS_MAX);
    file.versions[file.count++] = version;
}

/* Only the one at place is left. */
static void versions_drop(size_t place)
{
    for (size_t i = 0; i < file.count; i++) {
        if (i != place)
            free(file.versions[i].entries);
    }
    file.versions[0] = file.versions[place];
    file.count = 1;
}

static void happened(const char *what)
{
    if (file.here != NULL)
        file.here(file.context, what);
}

/* --- the world ------------------------------------------------------------------------------- */

void sim_lmdb_observe(void (*here)(void *context, const char *what), void *context)
{
    file.here = here;
    file.context = context;
}

void sim_lmdb_process_end(void)
{
    file.env = NULL;
    file.writing = false;
}

void sim_lmdb_power_cut(struct sim *sim)
{
    sim_lmdb_process_end();
    (void)newest();
    versions_drop((size_t)sim_random(sim, file.count));
}

void sim_lmdb_remove(void)
{
    version_add((struct version){.exists = false});
    versions_drop(file.count - 1);
}

void sim_lmdb_fini(void)
{
    sim_lmdb_remove();
    while (file.entries != NULL) {
        struct entry *next = file.entries->next;
        free(file.entries);
        file.entries = next;
    }
}

int sim_lmdb_access(const char *path, int mode)
{
    (void)path, (void)mode;
    return newest()->exists ? 0 : -1;
}

/* Of the two files, the one with the locks is not there. */
int sim_lmdb_unlink(const char *path)
{
    size_t size = strlen(path);
    if ((size > 5 && strcmp(path + size - 5, "-lock") == 0) || !newest()->exists) {
        errno = ENOENT;
        return -1;
    }
    version_add((struct version){.exists = false});
    happened("removal of the index");
    return 0;
}

int sim_lmdb_fsync(int fd)
{
    (void)fd;
    versions_drop(file.count - 1);
    happened("sync of the index's directory");
    return 0;
}

/* --- entries --------------------------------------------------------------------------------- */

static int bytes_order(const void *a, size_t a_size, const void *b, size_t b_size)
{
    int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    if (order != 0)
        return order;
    return a_size < b_size ? -1 : a_size > b_size;
}

static int entry_order(const struct entry *e, MDB_dbi table, const void *key, size_t key_size)
{
    if (e->table != table)
        return e->table < table ? -1 : 1;
    return bytes_order(e->bytes, e->key_size, key, key_size);
}

/* Where the key is, or would be. */
static size_t place_of(const struct version *v, MDB_dbi table, const void *key, size_t key_size,
                       bool *found)
{
    size_t low = 0, high = v->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (entry_order(v->entries[middle], table, key, key_size) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < v->count && entry_order(v->entries[low], table, key, key_size) == 0;
    return low;
}

static struct entry *entry_make(MDB_dbi table, const MDB_val *key, const MDB_val *value)
{
    struct entry *e = sim_alloc(sizeof *e + key->mv_size + value->mv_size);
    e->table = table;
    e->key_size = key->mv_size;
    e->value_size = value->mv_size;
    memcpy(e->bytes, key->mv_data, key->mv_size);
    if (value->mv_size > 0)
        memcpy(e->bytes + e->key_size, value->mv_data, value->mv_size);
    e->next = file.entries;
    file.entries = e;
    return e;
}

static void entry_remove(struct version *v, size_t place)
{
    memmove(&v->entries[place], &v->entries[place + 1],
            (v->count - place - 1) * sizeof *v->entries);
    v->count--;
}

static void entry_show(struct entry *e, MDB_val *key, MDB_val *value)
{
    if (key != NULL)
        *key = (MDB_val){.mv_size = e->key_size, .mv_data = e->bytes};
    if (value != NULL)
        *value = (MDB_val){.mv_size = e->value_size, .mv_data = e->bytes + e->key_size};
}

int mdb_get(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data)
{
    bool found;
    size_t place = place_of(&txn->version, dbi, key->mv_data, key->mv_size, &found);
    if (!found)
        return MDB_NOTFOUND;
    entry_show(txn->version.entries[place], NULL, data);
    return 0;
}

int mdb_put(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data, unsigned int flags)
{
    struct version *v = &txn->version;
    bool found;
    ensure(txn->writes && flags == 0 && key->mv_size > 0 && key->mv_size <= KEY_MAX);
    size_t place = place_of(v, dbi, key->mv_data, key->mv_size, &found);
    struct entry *e = entry_make(dbi, key, data);
    if (!found) {
        v->entries = realloc(v->entries, (v->count + 1) * sizeof *v->entries);
        ensure(v->entries != NULL);
        memmove(&v->entries[place + 1], &v->entries[place],
                (v->count - place) * sizeof *v->entries);
        v->count++;
    }
    v->entries[place] = e;
    return 0;
}

int mdb_del(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, MDB_val *data)
{
    bool found;
    ensure(txn->writes && data == NULL);
    size_t place = place_of(&txn->version, dbi, key->mv_data, key->mv_size, &found);
    if (!found)
        return MDB_NOTFOUND;
    entry_remove(&txn->version, place);
    return 0;
}

int mdb_cmp(MDB_txn *txn, MDB_dbi dbi, const MDB_val *a, const MDB_val *b)
{
    (void)txn, (void)dbi;
    return bytes_order(a->mv_data, a->mv_size, b->mv_data, b->mv_size);
}

/* --- cursors --------------------------------------------------------------------------------- */

int mdb_cursor_open(MDB_txn *txn, MDB_dbi dbi, MDB_cursor **cursor)
{
    *cursor = sim_alloc(sizeof **cursor);
    (*cursor)->txn = txn;
    (*cursor)->table = dbi;
    return 0;
}

void mdb_cursor_close(MDB_cursor *cursor)
{
    free(cursor);
}

/* It stands at a key, be that there still or not: so the one behind a key that was removed is the
 * next. */
static size_t cursor_place(const MDB_cursor *c, const MDB_val *key, MDB_cursor_op op)
{
    const struct version *v = &c->txn->version;
    bool found;
    size_t place;
    switch (op) {
    case MDB_FIRST:
        return place_of(v, c->table, "", 0, &found);
    case MDB_LAST: /* SIZE_MAX: before the first */
        return place_of(v, c->table + 1, "", 0, &found) - 1;
    case MDB_SET_RANGE:
        return place_of(v, c->table, key->mv_data, key->mv_size, &found);
    case MDB_NEXT:
        place = place_of(v, c->table, c->key, c->key_size, &found);
        return place + found;
    case MDB_PREV:
        return place_of(v, c->table, c->key, c->key_size, &found) - 1;
    default:
        abort();
    }
}

int mdb_cursor_get(MDB_cursor *c, MDB_val *key, MDB_val *data, MDB_cursor_op op)
{
    const struct version *v = &c->txn->version;
    size_t place = cursor_place(c, key, op);
    if (place >= v->count || v->entries[place]->table != c->table)
        return MDB_NOTFOUND;
    struct entry *e = v->entries[place];
    memcpy(c->key, e->bytes, e->key_size);
    c->key_size = e->key_size;
    entry_show(e, key, data);
    return 0;
}

int mdb_cursor_del(MDB_cursor *c, unsigned int flags)
{
    bool found;
    ensure(c->txn->writes && flags == 0);
    size_t place = place_of(&c->txn->version, c->table, c->key, c->key_size, &found);
    ensure(found);
    entry_remove(&c->txn->version, place);
    return 0;
}

/* --- transactions ---------------------------------------------------------------------------- */

int mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned int flags, MDB_txn **txn)
{
    ensure(env == file.env && parent == NULL);
    *txn = sim_alloc(sizeof **txn);
    (*txn)->writes = (flags & MDB_RDONLY) == 0;
    if (!(*txn)->writes) {
        (*txn)->version = *newest();
        return 0;
    }
    ensure(!file.writing);
    file.writing = true;
    (*txn)->version = version_copy(newest());
    return 0;
}

void mdb_txn_abort(MDB_txn *txn)
{
    if (txn->writes) {
        file.writing = false;
        free(txn->version.entries);
    }
    free(txn);
}

int mdb_txn_commit(MDB_txn *txn)
{
    bool writes = txn->writes;
    if (writes) {
        file.writing = false;
        file.transactions++;
        version_add(txn->version);
    }
    free(txn);
    if (writes)
        happened("a transaction of the index");
    return 0;
}

int mdb_dbi_open(MDB_txn *txn, const char *name, unsigned int flags, MDB_dbi *dbi)
{
    (void)txn, (void)flags;
    *dbi = TABLE_MAIN;
    if (name == NULL)
        return 0;
    for (++*dbi; *dbi < TABLES_MAX; ++*dbi) {
        char *known = file.tables[*dbi];
        if (known[0] == '\0')
            snprintf(known, NAME_SIZE, "%s", name);
        if (strcmp(known, name) == 0)
            return 0;
    }
    return MDB_DBS_FULL;
}

int mdb_stat(MDB_txn *txn, MDB_dbi dbi, MDB_stat *stat)
{
    *stat = (MDB_stat){.ms_psize = PAGE_SIZE};
    for (size_t i = 0; i < txn->version.count; i++)
        stat->ms_entries += txn->version.entries[i]->table == dbi;
    return 0;
}

/* --- the file -------------------------------------------------------------------------------- */

int mdb_env_create(MDB_env **env)
{
    *env = sim_alloc(sizeof **env);
    return 0;
}

int mdb_env_open(MDB_env *env, const char *path, unsigned int flags, mdb_mode_t mode)
{
    (void)path, (void)flags, (void)mode;
    ensure(file.env == NULL);
    file.env = env;
    if (!newest()->exists)
        version_add((struct version){.exists = true});
    return 0;
}

void mdb_env_close(MDB_env *env)
{
    ensure(env == file.env && !file.writing);
    file.env = NULL;
    free(env);
}

int mdb_env_sync(MDB_env *env, int force)
{
    (void)force;
    ensure(env == file.env);
    versions_drop(file.count - 1);
    happened("sync of the index");
    return 0;
}

int mdb_env_info(MDB_env *env, MDB_envinfo *info)
{
    *info = (MDB_envinfo){.me_mapsize = env->map_size, .me_last_txnid = file.transactions};
    return 0;
}

int mdb_env_stat(MDB_env *env, MDB_stat *stat)
{
    (void)env;
    *stat = (MDB_stat){.ms_psize = PAGE_SIZE};
    return 0;
}

int mdb_env_set_mapsize(MDB_env *env, size_t size)
{
    env->map_size = size;
    return 0;
}

int mdb_env_set_maxdbs(MDB_env *env, MDB_dbi dbs)
{
    (void)env;
    ensure(dbs < TABLES_MAX);
    return 0;
}

int mdb_reader_check(MDB_env *env, int *dead)
{
    (void)env;
    *dead = 0;
    return 0;
}

char *mdb_strerror(int error)
{
    static char text[32];
    snprintf(text, sizeof text, "LMDB error %d", error);
    return text;
}
