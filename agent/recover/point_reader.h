/*
 * One point of a volume, to be read at random and without being restored: the
 * bytes of a block volume; the names, metadata and contents of a tree.
 *
 * A point never changes, so neither does what a call gives, and all of it may
 * be kept by the caller. All calls but open and close may come from any number
 * of threads. Calls that read the history wait for it as long as its origin
 * does (origin.h), and fail then; the next call tries again.
 */
#ifndef REPL_AGENT_POINT_READER_H
#define REPL_AGENT_POINT_READER_H

#include "recover/history.h"
#include "recover/tree_plan.h"

/* Of decoded frames; it takes as much again for what it is made of. */
#define REPL_POINT_CACHE_BYTES (UINT64_C(128) << 20)
/* So many calls read at once; others wait for one of these to end. */
#define REPL_POINT_SEATS 8u

struct repl_point_reader;

struct repl_point_options {
    struct repl_history *history; /* stays open for longer */
    size_t point;                 /* in the catalogue */
    uint64_t cache_bytes;         /* 0: REPL_POINT_CACHE_BYTES. At least a MiB for each seat */
    const char *state;            /* of a tree: the directory for a temporary file; made if it is
                                     not there */
    const char *path;             /* of a tree: of all names, only what is reached from here; NULL:
                                     from the top. Objects are the same, repl_point_find finds
                                     nothing */
    /* Of a tree: what makes no sense and is left out, while it is opened. path: from the top, safe
     * for a terminal. May be NULL. */
    void (*fault)(void *context, const char *path, const struct repl_error *err);
    void *context;
};

/* Reads what the point is made of; of a tree, all names and metadata. */
REPL_RESULT repl_point_open(const struct repl_point_options *options,
                            struct repl_point_reader **out, struct repl_error *err);
void repl_point_close(struct repl_point_reader *reader); /* no call is under way */

/* The kind of a volume at a point, for which no reader is needed. */
REPL_RESULT repl_point_kind(struct repl_history *history, size_t point, enum repl_volume_kind *out,
                            struct repl_error *err);

/* --- a block volume -------------------------------------------------------------------------- */

uint64_t repl_point_size(const struct repl_point_reader *reader);
/* [offset, offset + size), which lies within it. */
REPL_RESULT repl_point_read(struct repl_point_reader *reader, uint64_t offset, void *out,
                            size_t size, struct repl_error *err);
/* Where the first byte at or after offset lies that is not among the zeros of the manifests (data),
 * or is (not data); the size: there is none. */
uint64_t repl_point_seek(const struct repl_point_reader *reader, uint64_t offset, bool data);

/* --- a tree ---------------------------------------------------------------------------------- */

/* Objects are those of the history: they name the same file at each point. The top is
 * REPL_OBJECT_ROOT. Whatever is reached has a name, and a directory only one. */
struct repl_point_node {
    uint64_t object;
    uint64_t parent;       /* the directory of its first name; of the top itself */
    struct repl_node node; /* a link's target lies in the reader's memory until that is closed */
    uint64_t links;        /* names; of a directory 1 */
    uint64_t data_bytes;   /* of a file: in no hole */
};
/* REPL_E_MISSING: the point has none. */
REPL_RESULT repl_point_node(struct repl_point_reader *reader, uint64_t object,
                            struct repl_point_node *out, struct repl_error *err);
/* 0 in *object: there is nothing of that name. */
REPL_RESULT repl_point_lookup(struct repl_point_reader *reader, uint64_t directory,
                              const char *name, size_t name_size, uint64_t *object,
                              struct repl_error *err);
/* From the top; "" and "/" are the top. Links are not followed, nor "..". REPL_E_MISSING. */
REPL_RESULT repl_point_find(struct repl_point_reader *reader, const char *path, uint64_t *object,
                            struct repl_error *err);

/* A walk over a directory's names, in no particular order, or an object's attributes. Zeroed to
 * begin with; a copy may be kept to go on from there. */
struct repl_point_walk {
    uint64_t offset;
    uint32_t index;
};
struct repl_point_name {
    const char *name; /* not terminated; in the reader's memory until that is closed */
    uint32_t name_size;
    uint64_t object;
    enum repl_node_kind kind;
};
REPL_RESULT repl_point_list(struct repl_point_reader *reader, uint64_t directory,
                            struct repl_point_walk *walk, struct repl_point_name *out, bool *found,
                            struct repl_error *err);

struct repl_point_attribute {
    const char *name; /* as above */
    uint32_t name_size;
    const uint8_t *value; /* NULL: it lies in the history, at place */
    uint32_t value_size;
    uint64_t place;
};
REPL_RESULT repl_point_attributes(struct repl_point_reader *reader, uint64_t object,
                                  struct repl_point_walk *walk, struct repl_point_attribute *out,
                                  bool *found, struct repl_error *err);
/* All value_size bytes of it. */
REPL_RESULT repl_point_attribute_read(struct repl_point_reader *reader,
                                      const struct repl_point_attribute *attribute, void *out,
                                      struct repl_error *err);

/* What a file has of [offset, offset + size): *got is less where it ends. */
REPL_RESULT repl_point_file_read(struct repl_point_reader *reader, uint64_t object, uint64_t offset,
                                 void *out, size_t size, size_t *got, struct repl_error *err);
/* The same as repl_point_seek, of a file and its holes. */
REPL_RESULT repl_point_file_seek(struct repl_point_reader *reader, uint64_t object, uint64_t offset,
                                 bool data, uint64_t *at, struct repl_error *err);

#endif
