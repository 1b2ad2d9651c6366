/* What the parts of the pipeline share: pipeline.c (link, durability, what to do next),
 * pipeline_back.c (a site that has less than it had), pipeline_round.c (from the clock to a
 * point), pipeline_full.c (segments from 0), pipeline_build.c (segments in the spool). */
#ifndef REPL_PIPELINE_INTERNAL_H
#define REPL_PIPELINE_INTERNAL_H

#include "pipeline.h"

struct repl_pipeline_segment {
    struct repl_pipeline_segment *prev, *next;
    uint64_t number;
    uint64_t size;              /* once complete */
    uint64_t kept;              /* bytes kept of what it refers to */
    struct repl_point point;    /* seq 0: it has none */
    bool resync;                /* a point in it ends a comparison */
    struct repl_buffer digests; /* struct repl_batch_digest each */
    /* of the records of a tree in it; 0: it has none, or is of an earlier run */
    uint64_t stamp;   /* what has to be said again without it */
    uint64_t settled; /* what is the site's with it */
    bool full;        /* it belongs to a full; of a tree: and has records */
};

/* --- pipeline_build.c ------------------------------------------------------------------------ */

/* At the end of the list. */
void repl_pipeline_list_add(struct repl_pipeline_list *list, struct repl_pipeline_segment *segment);
void repl_pipeline_list_remove(struct repl_pipeline_list *list,
                               struct repl_pipeline_segment *segment);
/* Off the list. */
void repl_pipeline_segment_free(struct repl_pipeline *p, struct repl_pipeline_list *list,
                                struct repl_pipeline_segment *segment);
/* Has the shell remove it from the spool. */
void repl_pipeline_drop(struct repl_pipeline *p, uint64_t number);
void repl_pipeline_give_up(struct repl_pipeline *p, struct repl_pipeline_segment *segment);
/* Gives up the segment being built, if there is one. */
void repl_pipeline_abandon(struct repl_pipeline *p);
REPL_RESULT repl_pipeline_begin(struct repl_pipeline *p, int64_t now_ns, struct repl_error *err);
/* Ends the segment being built, in a point or, as a part that others follow, without one; records:
 * with those of a tree, as many as it takes. */
REPL_RESULT repl_pipeline_finish(struct repl_pipeline *p, const struct repl_point *point,
                                 bool records, struct repl_error *err);
/* Into the segment being built, which is begun if need be. */
REPL_RESULT repl_pipeline_take(struct repl_pipeline *p, const struct repl_batch *batch,
                               int64_t now_ns, struct repl_error *err);
bool repl_pipeline_spool_is_full(const struct repl_pipeline *p);

/* --- pipeline_full.c ------------------------------------------------------------------------- */

/* The next segment is one more part of what the last one belongs to. */
bool repl_pipeline_continues(const struct repl_pipeline *p);
/* It would be, but that what was said in those parts cannot be gone on with: a full comes next. */
bool repl_pipeline_is_torn(const struct repl_pipeline *p);
/* Begins the full that was asked for, if it can be now. */
void repl_pipeline_full_next(struct repl_pipeline *p, int64_t now_ns);
/* A point is complete; full: that of a full. */
void repl_pipeline_full_note(struct repl_pipeline *p, bool full);
/* All there is is to be read in the round that is being opened, as a full begins with it. */
void repl_pipeline_full_mark(struct repl_pipeline *p);

/* --- pipeline_coalesce.c --------------------------------------------------------------------- */

/* What to do about a spool that fills, if anything. */
bool repl_pipeline_coalesce_next(struct repl_pipeline *p, struct repl_pipeline_action *action);

/* --- pipeline_back.c ------------------------------------------------------------------------- */

/* How far along the segments that the state knows of this one is; 0: the checkpoint, -1: it knows
 * of no such. */
int repl_pipeline_place_of(const struct repl_source_state *state, const struct repl_digest *head);
/* Every segment, with those that are acknowledged and not in the table yet. */
void repl_pipeline_drop_all(struct repl_pipeline *p);
void repl_pipeline_restart(struct repl_pipeline *p, int64_t now_ns);
/* The site's last segment, as it says for the first time. */
void repl_pipeline_site_found(struct repl_pipeline *p, const struct repl_head *head,
                              int64_t now_ns);

/* --- pipeline_round.c ------------------------------------------------------------------------ */

/* What has been read so far proves nothing any more: digests were forgotten. */
void repl_pipeline_round_void(struct repl_pipeline *p, int64_t now_ns);
/* What is at the site is not what was thought: the whole volume is compared. */
void repl_pipeline_resync(struct repl_pipeline *p, int64_t now_ns);
/* If that has been made good, and the site has it, the state forgets it. */
void repl_pipeline_resync_end(struct repl_pipeline *p);
/* All pages are to be read and sent. */
void repl_pipeline_all_dirty(struct repl_pipeline *p);
/* Pages have become dirty that the tracker never had. */
void repl_pipeline_settle_all(struct repl_pipeline *p);
/* A segment has been acknowledged. */
void repl_pipeline_rest(struct repl_pipeline *p);
/* The state will forget segments before the last that the site is known to have: the record must
 * not name one of those. */
void repl_pipeline_note(struct repl_pipeline *p);
/* The newest that is known to be the site's; zeros: none is. */
void repl_pipeline_site_point(struct repl_pipeline *p, const struct repl_point *point);
/* What to do next for it, if anything. */
bool repl_pipeline_round_next(struct repl_pipeline *p, int64_t now_ns,
                              struct repl_pipeline_action *action);

static inline bool repl_pipeline_has_records(const struct repl_pipeline *p)
{
    const struct repl_pipeline_records *records = p->options.records;
    return records != NULL && records->are_pending(records->context);
}

static inline bool repl_pipeline_take_due(bool *due)
{
    bool was = *due;
    *due = false;
    return was;
}

#endif
