/*
 * What the index has to say to the site, as records of a segment: all there is,
 * where the segment belongs to a full, else what is pending.
 */
#ifndef REPL_AGENT_TREE_RECORDS_H
#define REPL_AGENT_TREE_RECORDS_H

#include "source/tree/tree_content.h"

/* Objects in one segment; the others go into the next. */
#define REPL_TREE_RECORDS_OBJECTS 32768u

struct repl_tree_records {
    struct repl_tree_txn txn;
    bool full;
    uint64_t stamp;
    uint64_t next;  /* the first object that no segment has yet */
    uint64_t limit; /* objects that may still be begun */
    uint64_t given; /* rows of the list that have been given so far, by all its segments */
    bool begun;     /* between begin and end */
    bool left;      /* the limit was reached */
    int phase;      /* of the object */
    struct repl_tree_object object;
    size_t attribute; /* where the next one is */
    MDB_val attributes;
    struct repl_tree_walk list;  /* objects, or what is pending */
    struct repl_tree_walk inner; /* names or extents of one of them */
};

/* From records->next on, under records->stamp. */
REPL_RESULT repl_tree_records_begin(struct repl_tree_records *records,
                                    struct repl_tree_index *index, bool full,
                                    struct repl_error *err);
/* A repl_records_fn; context: the records. */
REPL_RESULT repl_tree_records_next(void *context, struct repl_record *record, bool *done,
                                   struct repl_error *err);
/* next is 0 if nothing is left for another segment. */
void repl_tree_records_end(struct repl_tree_records *records);

#endif
