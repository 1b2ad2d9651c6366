/*
 * The tables of a plan, for tree_plan.c and tree_resolve.c.
 */
#ifndef REPL_AGENT_TREE_PLAN_INTERNAL_H
#define REPL_AGENT_TREE_PLAN_INTERNAL_H

#include "recover/tree_keys.h"
#include "recover/tree_plan.h"

/* Numbers in keys are big-endian, so that they are in order. */
enum plan_table {
    PLAN_RECORDS, /* object, type, offset, index -> the record as a segment has it */
    PLAN_WHERE,   /* object -> parent, name */
    PLAN_LINKS,   /* object, index -> parent, name */
    PLAN_WORK,    /* place in the space, object -> nothing */
    PLAN_DIRS,    /* number -> object */
    PLAN_TABLE_COUNT,
};

#define PLAN_RECORD_KEY_SIZE 21u

struct repl_tree_plan {
    char *directory; /* for messages */
    MDB_env *env;
    MDB_dbi tables[PLAN_TABLE_COUNT];
    uint64_t root;
    uint64_t node_count; /* loaded */
};

struct repl_tree_reader {
    struct repl_tree_plan *plan;
    MDB_txn *txn;
    MDB_cursor *records;
};

REPL_RESULT repl_tree_plan_fail(const struct repl_tree_plan *plan, int error,
                                struct repl_error *err);
/* A reader that may write: commit makes what was written so far be of the file, and goes on. */
REPL_RESULT repl_tree_reader_begin(struct repl_tree_reader *reader, struct repl_tree_plan *plan,
                                   bool writable, struct repl_error *err);
REPL_RESULT repl_tree_reader_commit(struct repl_tree_reader *reader, struct repl_error *err);
void repl_tree_reader_end(struct repl_tree_reader *reader); /* what is not committed is undone */

#endif
