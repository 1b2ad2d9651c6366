/*
 * What the replica of a directory tree knows beside the directory: an LMDB file
 * with each object's metadata, the names that lead to it and the places of the
 * space that its contents lie in; and what is still to be done to the directory.
 *
 * It is the journal of what is done to the directory. The way from point A to
 * point G:
 *
 *     AT A        the directory is what the tables say
 *     LOADING G   the records of (A, G] go into the tables, and beside each
 *                 change what it means for the directory: in several commits,
 *                 and again from the beginning after a crash, which adds nothing
 *     STAGING     contents, new directories and second names are made ready in
 *                 the staging directory, which is emptied first; then all synced
 *     DETACHING   directories that move or are gone go into staging, each by one
 *                 rename; then all synced
 *     ATTACHING   what is ready is renamed to where it belongs; what is gone is
 *                 removed; metadata is set; then all synced
 *     AT G
 *
 * Each of these is a commit of its own, and within one the tables are only read:
 * what is done then depends on them and on what lies in staging, under the number
 * of its object, and not on how often it was begun before. That is why detaching
 * is not part of attaching: a directory is looked for where it was at A in the
 * one, where it is at G in the other, and in staging first in both.
 *
 * A file that is changed in place, where nothing else can be done, is written
 * while attaching. Keys are numbers, big-endian, and names; a key has at most 271
 * bytes, LMDB takes 511. One thread at a time.
 */
#ifndef REPL_AGENT_REPLICA_TREE_MAP_H
#define REPL_AGENT_REPLICA_TREE_MAP_H

#include <limits.h>
#include <stdatomic.h>

#include "format/wire.h"
#include "recover/tree_keys.h"
#include "repl/error.h"
#include "repl/format.h"

enum replica_table {
    REPLICA_META,  /* one row: volume, phase, points */
    REPLICA_NODE,  /* object -> its record, as a segment has it */
    REPLICA_XATTR, /* object, number -> the record */
    REPLICA_NAME,  /* directory, name -> object */
    REPLICA_WHERE, /* object, directory, name -> nothing */
    REPLICA_RUN,   /* object, offset -> length, place */
    REPLICA_PLACE, /* size, place, object, offset -> nothing: runs in aligned pieces of few sizes */
    /* Between two points, what is to do: */
    REPLICA_TODO,       /* object -> struct replica_todo */
    REPLICA_TODO_NAME,  /* directory, name -> what it led to at A, or 0 */
    REPLICA_TODO_OLD,   /* object, directory, name -> nothing: the same from the other side */
    REPLICA_TODO_RANGE, /* object, offset -> length: contents to be written, of what was at A */
    REPLICA_TABLES,
};

enum replica_phase {
    REPLICA_EMPTY, /* nothing is known of the directory */
    REPLICA_AT,
    REPLICA_LOADING,
    REPLICA_STAGING,
    REPLICA_DETACHING,
    REPLICA_ATTACHING,
};

#define REPLICA_TODO_META    1u
#define REPLICA_TODO_CONTENT 2u /* what is no file is made anew */
#define REPLICA_TODO_NAMES   4u

struct replica_todo {
    uint32_t flags;
    uint32_t old_kind; /* at A; REPL_NODE_GONE: it is new */
    uint64_t old_size;
    int64_t old_mtime_ns;
};

/* What a long work looks at, and shows. */
struct replica_pulse {
    const atomic_bool *stop;        /* it is to end: REPL_E_RETRY */
    atomic_int_least64_t *alive_ns; /* when it last did something */
};

#define REPLICA_KEY_MAX (24u + REPL_NAME_MAX)

struct replica_key {
    uint8_t bytes[REPLICA_KEY_MAX + 1];
    size_t size;
};

struct replica_map {
    char path[PATH_MAX];
    struct repl_uuid volume;
    enum replica_phase phase;
    struct repl_head reached, goal; /* A and G; goal: from LOADING on */
    /* private */
    MDB_env *env; /* NULL: closed */
    MDB_dbi tables[REPLICA_TABLES];
    MDB_txn *txn;
    MDB_cursor *cursors[REPLICA_TABLES];
    bool writing;
    size_t changes; /* since the last commit */
};

/* Opens it, empty if it is not there or is not this volume's. REPL_E_CORRUPT: remove it. */
REPL_RESULT replica_map_open(struct replica_map *map, struct repl_error *err);
void replica_map_close(struct replica_map *map);
/* By LMDB, where a page of metadata could not be written, as on a full disk: opened anew, it has
 * what was committed before. Or it could not be made anew. Not between begin and end. */
bool replica_map_is_given_up(struct replica_map *map);
/* Puts an empty one in its place. */
REPL_RESULT replica_map_remake(struct replica_map *map, struct repl_error *err);

/* Everything below happens between begin and commit or end, which undoes. */
REPL_RESULT replica_map_begin(struct replica_map *map, bool write, struct repl_error *err);
REPL_RESULT replica_map_commit(struct replica_map *map, struct repl_error *err);
void replica_map_end(struct replica_map *map);
/* Commits and begins again once much has been written, as a transaction is kept in memory. */
REPL_RESULT replica_map_breathe(struct replica_map *map, struct repl_error *err);
/* Makes the phase durable, alone. AT: what was to do is forgotten. */
REPL_RESULT replica_map_phase(struct replica_map *map, enum replica_phase phase,
                              struct repl_error *err);

struct replica_key replica_key_of(const uint64_t *numbers, size_t count, const char *name,
                                  size_t name_size);
#define REPLICA_KEY(...)                                                                           \
    replica_key_of((const uint64_t[]){__VA_ARGS__},                                                \
                   sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t), NULL, 0)

/* Values stay until the next change, or until the end where it is only read. */
REPL_RESULT replica_map_get(struct replica_map *map, enum replica_table table,
                            const struct replica_key *key, MDB_val *value, bool *found,
                            struct repl_error *err);
REPL_RESULT replica_map_put(struct replica_map *map, enum replica_table table,
                            const struct replica_key *key, const void *value, size_t size,
                            struct repl_error *err);
REPL_RESULT replica_map_del(struct replica_map *map, enum replica_table table,
                            const struct replica_key *key, struct repl_error *err);
/* The first entry from *key on, which becomes its key, if that begins with prefix bytes of *key. */
REPL_RESULT replica_map_next(struct replica_map *map, enum replica_table table,
                             struct replica_key *key, size_t prefix, MDB_val *value, bool *found,
                             struct repl_error *err);
/* The last entry up to *key, likewise. */
REPL_RESULT replica_map_last(struct replica_map *map, enum replica_table table,
                             struct replica_key *key, size_t prefix, MDB_val *value, bool *found,
                             struct repl_error *err);
/* Behind this one. */
static inline void replica_key_pass(struct replica_key *key)
{
    key->bytes[key->size++] = 0;
}
static inline uint64_t replica_key_number(const struct replica_key *key, size_t i)
{
    return repl_tree_number(key->bytes + i * 8);
}

/* There is more to do. */
REPL_RESULT replica_pulse_beat(const struct replica_pulse *pulse, struct repl_error *err);

/* The object's record. Its texts lie in the map. */
REPL_RESULT replica_map_node(struct replica_map *map, uint64_t object, struct repl_node *node,
                             bool *found, struct repl_error *err);
REPL_RESULT replica_map_todo(struct replica_map *map, uint64_t object, struct replica_todo *todo,
                             bool *found, struct repl_error *err);

#endif
