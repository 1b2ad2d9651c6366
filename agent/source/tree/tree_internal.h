/* What the files that make up a tree share: tree.c, tree_read.c (contents), and tree_files.c
 * (points that are cut per file). */
#ifndef REPL_AGENT_TREE_INTERNAL_H
#define REPL_AGENT_TREE_INTERNAL_H

#include "source/tree/tree.h"
#include "source/tree/tree_dirty.h"
#include "source/tree/tree_records.h"
#include "source/tree/tree_snapshot.h"

/* What is heard of segments that were made. */
struct repl_tree_news {
    uint64_t settled; /* what was noted up to this stamp is the site's */
    uint64_t again;   /* what was noted from here on is to be said again; UINT64_MAX: nothing is */
    bool full;        /* a full is the site's */
    uint64_t told_size; /* of the space, as the site knows it; 0: nothing new of that */
};

struct repl_tree {
    struct repl_tree_root root;
    dev_t device; /* that its filesystem is on */
    struct repl_tree_exclude exclude;
    struct repl_tree_index *index;
    atomic_bool stop;
    atomic_bool torn; /* something was not there any more when it was read */

    struct repl_tree_news news; /* since the last gather was begun */

    /* the gather's, and the loop's thread's between two of them */
    struct repl_tree_news heard;
    bool full; /* the next segment that takes records belongs to a full */
    struct repl_tree_records records;
    struct repl_tree_watch *watch; /* both or none; NULL: unwatched says why */
    struct repl_tree_dirty *dirty;
    char unwatched[256];
    struct repl_tree_heard heard_since; /* the last gather was begun */
    struct repl_tree_heard hearing;     /* what the gather goes by */
    struct repl_buffer touched;         /* by the last gather: uint64_t each */
    bool scanned;                       /* all of it, since it is watched */
    bool marks_hold;                    /* those of hearing are all there are */
    bool auditing;                      /* the next gather looks besides where all was heard of */
    uint64_t emitted_size;              /* of the space, with the last stamp that was told */
    bool pending;                       /* a record is, under the present stamp */
    bool opened;                        /* and not scanned since */
    bool content_unsure; /* since the start: what is pending of contents has to be read */

    /* of a point that is cut per file */
    enum repl_tree_look look; /* of the last gather */
    bool early;               /* hearing is of a look at what was hidden: nothing was read yet */
    struct repl_tree_heard later; /* what LOOK_AGAIN went by: for the next other one */
    struct repl_buffer hidden;    /* uint64_t each: objects without a name that exist */
    struct repl_buffer unstable;  /* uint64_t each */
    bool unread;                  /* of these, some were gone before they had been read */
    struct repl_tree_held held;

    struct repl_tree_snapshots *snapshots; /* NULL: none are wanted */
    struct repl_tree_root copy;            /* in the snapshot that is there; fd -1: none is */
    bool in_copy;                          /* gather and read are of that */
    struct repl_tree_heard overlap;        /* since it was begun, until the gather is */
    bool overlapping;                      /* that has not been begun */
    uint64_t overlooked;                   /* pages, as it was made */
};

/* What is looked at and read. */
static inline const struct repl_tree_root *repl_tree_root_now(const struct repl_tree *tree)
{
    return tree->in_copy ? &tree->copy : &tree->root;
}

struct repl_tree_scan_options repl_tree_scan_options_of(struct repl_tree *tree);
/* Takes what was written to, for a look. */
REPL_RESULT repl_tree_marks_take(struct repl_tree *tree, struct repl_tree_found *found,
                                 struct repl_error *err);
/* What was written to since, and whether anything went unnoticed. */
REPL_RESULT repl_tree_marks_hear(struct repl_tree *tree, struct repl_error *err);

/* What a look at what was hidden went by is heard of since the files were looked at that are read
 * next. */
void repl_tree_early_keep(struct repl_tree *tree);
/* LOOK_AGAIN, but for what is pending. */
REPL_RESULT repl_tree_gather_again(struct repl_tree *tree, struct repl_tree_found *found,
                                   struct repl_error *err);

#endif
