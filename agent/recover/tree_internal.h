/*
 * What the parts of a tree's restore share: the run, and the workers that do
 * it.
 */
#ifndef REPL_AGENT_TREE_INTERNAL_H
#define REPL_AGENT_TREE_INTERNAL_H

#include <pthread.h>

#include "recover/tree_dirs.h"
#include "recover/tree_meta.h"

struct repl_tree_run {
    const struct repl_tree_options *options;
    struct repl_tree_plan *plan;
    struct repl_view *view;
    struct repl_tree_totals totals;
    int top_fd; /* of the directory that is restored to; -1: a dry run, and there is none */
    bool privileged;
    uint64_t *hashes; /* by the order of work, on disk: of a file's contents as written; 0: left
                         alone */
    pthread_mutex_t mutex;  /* guards all below, and the result */
    pthread_mutex_t taking; /* guards the next work */
    pthread_cond_t ended;   /* a thread has */
    struct repl_tree_result *result;
    struct repl_tree_reader *work_reader;
    struct repl_tree_work next_work;
    uint64_t next_number;
    enum repl_tree_phase phase;
    int64_t begin_ns;
    uint64_t done, bytes;
    unsigned running;
    atomic_bool stop;
    repl_result failure; /* the first that ends it all */
    struct repl_error err;
};

/* One thread's tools. */
struct repl_tree_worker {
    struct repl_tree_run *run;
    struct repl_tree_reader *plan;
    struct repl_view_reader *view;
    struct repl_tree_dirs dirs;
    struct repl_tree_meta_by meta;
    uint8_t *wanted, *present; /* REPL_TREE_BUFFER_SIZE each */
};

/* --- tree_restore.c: what is told ------------------------------------------------------------ */

bool repl_tree_stopped(const struct repl_tree_run *run);
/* A failed result that is about this place alone is told, and is a success; others stay. */
REPL_RESULT repl_tree_go_on(struct repl_tree_worker *worker, const struct repl_tree_place *place,
                            repl_result result, struct repl_error *err);
void repl_tree_lacks(struct repl_tree_worker *worker, const struct repl_tree_place *place,
                     enum repl_tree_lack lack, const char *what, int os_errno);
/* Counts it; in a dry run it is told. */
void repl_tree_changes(struct repl_tree_worker *worker, const struct repl_tree_place *place,
                       enum repl_tree_change change);
/* What lies in a directory that could not be made, which was told. */
void repl_tree_is_lost(struct repl_tree_worker *worker);
void repl_tree_is_equal(struct repl_tree_worker *worker);
void repl_tree_bytes(struct repl_tree_worker *worker, uint64_t bytes);
/* Of a file that is as it shall be. */
void repl_tree_data(struct repl_tree_worker *worker, uint64_t bytes);

/* --- tree_file.c ----------------------------------------------------------------------------- */

/* What the file at fd has in common with the one that is wanted. */
struct repl_tree_comparison {
    bool equal;
    uint64_t differing; /* bytes, by pages; once it is too much, no more is looked at */
    uint64_t data;      /* bytes that are no hole, of what was looked at */
};
REPL_RESULT repl_tree_file_compare(struct repl_tree_worker *worker,
                                   const struct repl_tree_item *item, int fd,
                                   struct repl_tree_comparison *out, struct repl_error *err);
/* Writes all of it to an empty file, or, to one that has contents, what differs. Notes what a
 * reader has to find. *data: bytes that are no hole. */
REPL_RESULT repl_tree_file_write(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                                 int fd, bool empty, uint64_t *data, struct repl_error *err);
/* Reads back what has been written. */
REPL_RESULT repl_tree_file_verify(struct repl_tree_worker *worker,
                                  const struct repl_tree_item *item, struct repl_error *err);
/* A file of so many bytes is changed in place if little of it differs. */
#define REPL_TREE_PATCH_SIZE (UINT64_C(64) << 20)

/* --- tree_leaf.c: what is no directory ------------------------------------------------------- */

/* Fills item with object, node and where it lies, and what is there. */
REPL_RESULT repl_tree_item_find(struct repl_tree_worker *worker, uint64_t object,
                                const struct repl_tree_place *place, struct repl_tree_item *item,
                                struct repl_error *err);
/* REPL_E_REFUSED where what is there is of another kind and may not be replaced. */
REPL_RESULT repl_tree_kind_check(const struct repl_tree_run *run, const struct repl_tree_item *item,
                                 struct repl_error *err);
REPL_RESULT repl_tree_leaf(struct repl_tree_worker *worker, struct repl_tree_item *item,
                           struct repl_error *err);
/* Second and further names of what has several. */
REPL_RESULT repl_tree_links(struct repl_tree_worker *worker, struct repl_error *err);

/* --- tree_walk.c: directories ---------------------------------------------------------------- */

/* Looks for what is of another kind, and tells it: nothing is changed. */
REPL_RESULT repl_tree_check_kinds(struct repl_tree_worker *worker, struct repl_error *err);
/* Makes those that are not there. */
REPL_RESULT repl_tree_make_directories(struct repl_tree_worker *worker, struct repl_error *err);
/* Removes what is not wanted, and gives them their metadata: the last thing that is done in them.
 */
REPL_RESULT repl_tree_finish_directories(struct repl_tree_worker *worker, struct repl_error *err);

#endif
