/*
 * What a protected tree holds, on disk (LMDB): its objects, names and
 * attributes, where in the space the contents of files lie, and what of all that
 * the site has not been told yet.
 *
 *   object     number -> what it is (struct repl_tree_object)
 *   handle     file handle (inode and generation) -> number
 *   inode      inode number -> number
 *   name       directory, XXH3 of the name, name -> number
 *   attribute  number -> its extended attributes
 *   extent     number, offset -> where in the space that range of the file lies, or a hole
 *   mapping    number, GiB of the file -> where the filesystem keeps it (tree_mapping.h)
 *   block      place -> whose it is: a piece of the space that was given out
 *   piece      number, of an attribute or not, offset -> the same, by object
 *   free       order, place: pieces that were given back (tree_places.h)
 *   pending    stamp, number, what -> nothing: to be said to the site
 *
 * Numbers in keys are big-endian, so that LMDB's order is theirs.
 *
 * A commit is durable (LMDB as it is by default): what a segment says is in here
 * before the segment leaves the host, so that after a crash no number is given
 * to a second object. What is in here and was not sent is pending.
 *
 * One writer, on a worker; readers on any thread. All of it may block on the
 * disk.
 */
#ifndef REPL_AGENT_TREE_INDEX_H
#define REPL_AGENT_TREE_INDEX_H

#include <lmdb.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cursor.h"
#include "repl/error.h"
#include "repl/format.h"

enum repl_tree_table {
    REPL_TREE_META,
    REPL_TREE_OBJECT,
    REPL_TREE_HANDLE,
    REPL_TREE_INODE,
    REPL_TREE_NAME,
    REPL_TREE_ATTRIBUTE,
    REPL_TREE_EXTENT,
    REPL_TREE_MAPPING,
    REPL_TREE_BLOCK,
    REPL_TREE_PIECE,
    REPL_TREE_FREE,
    REPL_TREE_PENDING,
    REPL_TREE_TABLES,
};

struct repl_tree_index;

/* A transaction, and what has to outlive it. */
struct repl_tree_txn {
    struct repl_tree_index *index;
    MDB_txn *txn;
    bool changed;
};

/* What a file handle is made of; size 0: a directory that something else is mounted on. */
#define REPL_TREE_HANDLE_MAX 128u
struct repl_tree_handle {
    int32_t type;
    uint32_t size;
    uint8_t bytes[REPL_TREE_HANDLE_MAX];
};

struct repl_tree_object {
    uint64_t object;
    struct repl_node node; /* target: the member below */
    int64_t ctime_ns;      /* content and metadata are those of this time */
    int64_t read_ns;       /* when that was looked at */
    uint64_t inode;
    uint64_t parent, hash; /* one of its names: the directory, and XXH3 of the name */
    uint32_t links;        /* names that lead to it here */
    bool racy;             /* it was changed in the very moment it was looked at: look again */
    bool mount;            /* something is mounted on it: what is below is not looked at */
    bool journaled;        /* its pages turn dirty when they have been in the filesystem's journal;
                              not kept */
    struct repl_tree_handle handle;
    char target[REPL_TARGET_MAX];
};

#define REPL_TREE_STAMP_FIRST 1u

struct repl_tree_meta {
    uint64_t next_object;
    uint64_t space_size; /* bytes */
    uint64_t told_size;  /* as the site knows it: what is behind may not have been sent */
    uint64_t stamp;      /* of what is noted as pending now */
    bool full_wanted;    /* the site may have a tree whose objects have other numbers */
    uint64_t told_to;    /* of fulls up to (0, told_to] records may have been given, if not all */
};

/* Opens or makes the file at path (and path-lock). One that is damaged, or of another volume, is
 * begun anew, with numbers from first_object on and an empty space. */
struct repl_tree_index_options {
    const char *path;
    struct repl_uuid volume;
    uint64_t first_object;
    bool full_wanted; /* if it is begun anew */
    uint64_t told_to; /* then too */
};
REPL_RESULT repl_tree_index_open(const struct repl_tree_index_options *options,
                                 struct repl_tree_index **out, struct repl_error *err);
/* NULL does nothing. */
void repl_tree_index_close(struct repl_tree_index *index);

/* The one writer's, and as of the last commit or what that transaction has made of it. */
struct repl_tree_meta *repl_tree_meta(struct repl_tree_index *index);

REPL_RESULT repl_tree_begin(struct repl_tree_index *index, bool write, struct repl_tree_txn *txn,
                            struct repl_error *err);
/* With nothing changed nothing is written. In both cases the transaction is over. */
REPL_RESULT repl_tree_commit(struct repl_tree_txn *txn, struct repl_error *err);
/* The end of one that only read; of one that wrote too, if the index is closed next. */
void repl_tree_abort(struct repl_tree_txn *txn);

/* Rows of a table, by the last commit; 0 where that cannot be told. */
uint64_t repl_tree_count(struct repl_tree_index *index, enum repl_tree_table table);

/* --- keys ------------------------------------------------------------------------------------ */

#define REPL_TREE_KEY_MAX (3 * 8 + 1 + REPL_NAME_MAX)

struct repl_tree_key {
    uint8_t bytes[REPL_TREE_KEY_MAX];
    size_t size;
};

/* Starts with a zeroed key. */
void repl_tree_key_u64(struct repl_tree_key *key, uint64_t number);
void repl_tree_key_u8(struct repl_tree_key *key, uint8_t number);
void repl_tree_key_bytes(struct repl_tree_key *key, const void *bytes, size_t size);
uint64_t repl_tree_key_read(const void *bytes); /* eight of them */

/* *found; the value lies in the file's memory until the transaction ends or writes. */
REPL_RESULT repl_tree_get(struct repl_tree_txn *txn, enum repl_tree_table table,
                          const struct repl_tree_key *key, MDB_val *value, bool *found,
                          struct repl_error *err);
REPL_RESULT repl_tree_put(struct repl_tree_txn *txn, enum repl_tree_table table,
                          const struct repl_tree_key *key, const void *value, size_t size,
                          struct repl_error *err);
/* What is not there is gone already. */
REPL_RESULT repl_tree_del(struct repl_tree_txn *txn, enum repl_tree_table table,
                          const struct repl_tree_key *key, struct repl_error *err);

/* Walks a table from a key on; end closes the cursor. */
struct repl_tree_walk {
    struct repl_tree_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    bool done;
};
REPL_RESULT repl_tree_walk_begin(struct repl_tree_txn *txn, enum repl_tree_table table,
                                 const struct repl_tree_key *from, struct repl_tree_walk *walk,
                                 struct repl_error *err);
REPL_RESULT repl_tree_walk_next(struct repl_tree_walk *walk, struct repl_error *err);
/* To the one before; from the end on to the last. Without one it is done. */
REPL_RESULT repl_tree_walk_back(struct repl_tree_walk *walk, struct repl_error *err);
/* Removes what it is at, and goes to the next. */
REPL_RESULT repl_tree_walk_remove(struct repl_tree_walk *walk, struct repl_error *err);
void repl_tree_walk_end(struct repl_tree_walk *walk);
/* Whether it is at a key that begins with this number. */
bool repl_tree_walk_is_at(const struct repl_tree_walk *walk, uint64_t number);

/* --- objects and names ----------------------------------------------------------------------- */

/* *found: false if there is none of that number. */
REPL_RESULT repl_tree_object_get(struct repl_tree_txn *txn, uint64_t object,
                                 struct repl_tree_object *out, bool *found, struct repl_error *err);
REPL_RESULT repl_tree_object_put(struct repl_tree_txn *txn, const struct repl_tree_object *object,
                                 struct repl_error *err);
/* *object: 0 if there is none with this handle. */
REPL_RESULT repl_tree_object_find(struct repl_tree_txn *txn, const struct repl_tree_handle *handle,
                                  uint64_t *object, struct repl_error *err);
/* *object: 0 if there is none with this inode number. */
REPL_RESULT repl_tree_inode_find(struct repl_tree_txn *txn, uint64_t inode, uint64_t *object,
                                 struct repl_error *err);
/* Whose handle and inode number these are; object_put does not say so. */
REPL_RESULT repl_tree_object_identify(struct repl_tree_txn *txn,
                                      const struct repl_tree_object *object,
                                      struct repl_error *err);
REPL_RESULT repl_tree_object_del(struct repl_tree_txn *txn, const struct repl_tree_object *object,
                                 struct repl_error *err);
/* *child: 0 if the directory has no such name. */
REPL_RESULT repl_tree_name_get(struct repl_tree_txn *txn, uint64_t directory, const char *name,
                               size_t size, uint64_t *child, struct repl_error *err);
void repl_tree_name_key(uint64_t directory, const char *name, size_t size,
                        struct repl_tree_key *key);

/* --- pending --------------------------------------------------------------------------------- */

/* In the order of a segment's records; CONTENT is no record, but says that pages of the file may
 * not be at the site as they are. */
enum repl_tree_pending {
    REPL_TREE_PENDING_NODE,
    REPL_TREE_PENDING_NAME,
    REPL_TREE_PENDING_EXTENTS,
    REPL_TREE_PENDING_CONTENT,
};

/* name: of NAME. */
REPL_RESULT repl_tree_pending_add(struct repl_tree_txn *txn, uint64_t object,
                                  enum repl_tree_pending what, const char *name, size_t size,
                                  struct repl_error *err);
/* What was noted up to this stamp is the site's. */
REPL_RESULT repl_tree_pending_settle(struct repl_tree_txn *txn, uint64_t stamp,
                                     struct repl_error *err);
/* What was noted from this stamp on is to be said again: noted under the present one. */
REPL_RESULT repl_tree_pending_again(struct repl_tree_txn *txn, uint64_t stamp,
                                    struct repl_error *err);

#endif
