/*
 * Random operations on a directory tree: what the parts of tree_churn share.
 *
 * The generator works in a directory with two areas: "root", which is protected,
 * and "outside", from and to which things are moved. Several writers, threads,
 * do one operation after the other until they are held or ended.
 */
#ifndef REPL_TREE_CHURN_H
#define REPL_TREE_CHURN_H

#include <dirent.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PAGE        4096u
#define WRITERS_MAX 8u
#define MAPPINGS    6u
#define OPEN_FILES  4u
#define POOL_SIZE   (1u << 20) /* random bytes that all content is cut from */
#define FILE_USUAL  (256u << 10)
#define MAPPED_MAX  (512u << 10)
#define WRITE_MAX   (128u << 10)

/* A file that stays mapped, whatever becomes of its names. */
struct mapping {
    uint8_t *at; /* NULL: none */
    size_t size;
};

struct writer {
    struct world *world;
    unsigned number;
    uint64_t random;
    uint64_t made;                     /* names, so that each is new */
    struct mapping mappings[MAPPINGS]; /* kept over operations, and while held */
    int open_files[OPEN_FILES];        /* of files without a name; -1: none */
    int frozen_fd;                     /* of a file that is immutable; -1: none */
    uint8_t *buffer;                   /* WRITE_MAX, page-aligned */
};

struct world {
    int base_fd;
    uint8_t *pool;
    atomic_long objects;                  /* about as many as there are */
    atomic_int error[128];                /* of an operation that the filesystem has refused */
    atomic_ullong done[128], failed[128]; /* by operation */
};

/* 0, or an errno: nothing was done, by reason of what another writer does, or because the
 * filesystem cannot do it. */
typedef int operation_fn(struct writer *w);

enum effect { CHANGES, MAKES, REMOVES };

struct operation {
    const char *name;
    operation_fn *run;
    unsigned weight;
    enum effect effect;
};
/* Each ends with one without a name. */
extern const struct operation name_operations[], content_operations[], metadata_operations[],
    slow_operations[];
/* Of the file that is immutable: while it is, nothing tells of its flags. */
void flags_clear(struct writer *w);

/* --- choosing -------------------------------------------------------------------------------- */

uint64_t any(struct writer *w, uint64_t below); /* 0 where below is */
/* size bytes of random content, at most WRITE_MAX, in w->buffer; a part of it zeros now and then */
void content(struct writer *w, size_t size);

enum area { ROOT, OUTSIDE, EITHER };
enum wanted {
    WANT_FILE = 1,
    WANT_DIRECTORY = 2,
    WANT_OTHER = 4,
    WANT_ANY = 7,
};
struct place {
    int fd; /* of the directory */
    unsigned depth;
    char name[NAME_MAX + 1];
};
/* An entry of a directory below an area, by a random walk. ENOENT: the walk found none. fd is -1
 * then, else place_end closes it. */
int place_find(struct writer *w, enum area area, unsigned wanted, struct place *out);
/* A directory, and a name that is new in it. */
int place_new(struct writer *w, enum area area, struct place *out);
void place_end(struct place *place);
/* Opens a random file. */
int file_open(struct writer *w, int flags, int *fd);

int rm_tree(struct writer *w, int fd, const char *name);
int error_of(int result); /* 0, or errno where it is negative */

#endif
