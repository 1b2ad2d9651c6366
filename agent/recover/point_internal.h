/*
 * What the two halves of a point reader share: the seats. A seat has the tools
 * that serve one thread at a time; a call takes one for as long as it reads.
 */
#ifndef REPL_AGENT_POINT_INTERNAL_H
#define REPL_AGENT_POINT_INTERNAL_H

#include <pthread.h>

#include "recover/point_reader.h"

struct repl_point_seat {
    struct repl_view_reader *view;
    struct repl_tree_reader *tree; /* NULL: of a block volume */
    uint64_t at;                   /* where the last read ended */
    bool busy;
};

struct repl_point_reader {
    struct repl_history *history;
    struct repl_view *view;
    struct repl_tree_plan *plan; /* NULL: of a block volume */
    unsigned seat_frames;        /* the cache of each, MiB */
    pthread_mutex_t mutex;       /* guards all below */
    pthread_cond_t idle;
    struct repl_point_seat seats[REPL_POINT_SEATS];
    unsigned seat_count;
};

/* For what the history is not read for. */
#define REPL_POINT_ANYWHERE UINT64_MAX
/* The idle one whose last read ended nearest to there, as it has the frames around it. */
REPL_RESULT repl_point_seat_take(struct repl_point_reader *reader, uint64_t at,
                                 struct repl_point_seat **out, struct repl_error *err);
/* at: where the next read goes on, if one does. */
void repl_point_seat_give(struct repl_point_reader *reader, struct repl_point_seat *seat,
                          uint64_t at);

/* --- point_tree.c ---------------------------------------------------------------------------- */

REPL_RESULT repl_point_tree_open(struct repl_point_reader *reader,
                                 const struct repl_point_options *options, struct repl_error *err);

#endif
