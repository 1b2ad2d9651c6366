/*
 * What a restore of a tree has to make, in a temporary file: a tree's records
 * come in the order of their objects' numbers, and are wanted by directory, by
 * path and by place. An LMDB file takes them, so that memory does not bound how
 * many files a tree may have; its name is gone as soon as it is open, so that
 * nothing of it outlives the program.
 *
 * Loaded, then resolved, then only read, by any number of readers.
 */
#ifndef REPL_AGENT_TREE_PLAN_H
#define REPL_AGENT_TREE_PLAN_H

#include "repl/error.h"
#include "repl/format.h"
#include "segment/tree_merge.h"

struct repl_tree_plan;

/* One thread's look at a plan. Texts of records and places lie in the plan's memory, and stay until
 * it is freed. */
struct repl_tree_reader;

/* Where something is: under this name in this directory. */
struct repl_tree_place {
    uint64_t parent;  /* an object; REPL_TREE_TARGET: the directory that is restored to */
    const char *name; /* not terminated; NULL: the tree as a whole */
    uint32_t name_size;
};

/* No object of a tree has this number. */
#define REPL_TREE_TARGET 1u

struct repl_tree_totals {
    uint64_t files, directories, others; /* objects; the directory at the top counts */
    uint64_t links;                      /* names beyond the first of each object */
};

/* What is wrong with the tree at one place: it is left out, and all goes on. reader only for
 * repl_tree_path. */
typedef void repl_tree_fault_fn(void *context, struct repl_tree_reader *reader,
                                const struct repl_tree_place *place, const struct repl_error *err);

/* The file lies in directory, which is there. */
REPL_RESULT repl_tree_plan_new(const char *directory, struct repl_tree_plan **out,
                               struct repl_error *err);
void repl_tree_plan_free(struct repl_tree_plan *plan); /* every reader is gone */

/* All that the merge gives, of a tree whose space has so many bytes. REPL_E_CORRUPT: something is
 * said to lie behind its end. */
REPL_RESULT repl_tree_plan_load(struct repl_tree_plan *plan, struct repl_tree_merge *merge,
                                uint64_t space_size, struct repl_error *err);
/* Finds what is reached from path, which is relative to the top ("" is the top itself): a
 * directory, which becomes the target's, or anything else, which is put into it under its own name.
 * Each object is reached once, whatever the records say; what makes no sense is told to fault.
 * REPL_E_MISSING: there is nothing at path. */
REPL_RESULT repl_tree_plan_resolve(struct repl_tree_plan *plan, const char *path,
                                   repl_tree_fault_fn *fault, void *context,
                                   struct repl_tree_totals *totals, struct repl_error *err);
/* Which object is the directory that is restored to; REPL_TREE_TARGET if none is. */
uint64_t repl_tree_plan_root(const struct repl_tree_plan *plan);

REPL_RESULT repl_tree_reader_new(struct repl_tree_plan *plan, struct repl_tree_reader **out,
                                 struct repl_error *err);
void repl_tree_reader_free(struct repl_tree_reader *reader);

/* Where a walk over an object's records of one type stands: begin with the object and the type, and
 * the offset from which on they are wanted. */
struct repl_tree_key {
    uint64_t object;
    enum repl_record_type type;
    uint64_t offset;
    uint32_t index;
};
REPL_RESULT repl_tree_next(struct repl_tree_reader *reader, struct repl_tree_key *key,
                           struct repl_record *record, bool *found, struct repl_error *err);

REPL_RESULT repl_tree_node(struct repl_tree_reader *reader, uint64_t object, struct repl_node *node,
                           bool *found, struct repl_error *err);
/* The run of a file that a byte of it lies in, or, if that lies in none, the first behind it. */
REPL_RESULT repl_tree_run_at(struct repl_tree_reader *reader, uint64_t object, uint64_t offset,
                             struct repl_record *run, bool *found, struct repl_error *err);
/* The object that a name in a directory leads to; 0: it is not there. */
REPL_RESULT repl_tree_child(struct repl_tree_reader *reader, uint64_t directory, const char *name,
                            size_t name_size, uint64_t *child, struct repl_error *err);

/* The first name of what has been reached, the target directory excepted. */
REPL_RESULT repl_tree_where(struct repl_tree_reader *reader, uint64_t object,
                            struct repl_tree_place *place, bool *found, struct repl_error *err);
/* Its further names. A walk over all objects' begins with object 0, and goes by *object, *index. */
REPL_RESULT repl_tree_link_next(struct repl_tree_reader *reader, uint64_t *object, uint64_t *index,
                                struct repl_tree_place *place, bool *found, struct repl_error *err);
/* The directories, each behind the one that it is in; the number-th, from 0 on. */
REPL_RESULT repl_tree_directory(struct repl_tree_reader *reader, uint64_t number, uint64_t *object,
                                bool *found, struct repl_error *err);
/* Everything else, in the order in which its contents begin in the space. A walk begins with zeros.
 */
struct repl_tree_work {
    uint64_t space_place;
    uint64_t object;
};
REPL_RESULT repl_tree_work_next(struct repl_tree_reader *reader, struct repl_tree_work *work,
                                bool *found, struct repl_error *err);

/* A path in words: relative to the directory that is restored to, safe for a terminal, and with
 * "..." for its beginning where it is too long. */
#define REPL_TREE_PATH_SIZE 4096
void repl_tree_path(struct repl_tree_reader *reader, const struct repl_tree_place *place,
                    char text[REPL_TREE_PATH_SIZE]);
/* The same of one name: four bytes for each of its own, and the NUL. */
size_t repl_tree_name_text(const char *name, size_t name_size, char *text);

#endif
