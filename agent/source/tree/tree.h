/*
 * A protected directory tree: its index, and what the rounds of its volume ask
 * of it. What is in a tree's files lies in a space of pages, as on a disk
 * (docs/formats/segment.md, section 6a), so that the pipeline reads, compares and
 * sends them as it does those of a device.
 */
#ifndef REPL_AGENT_TREE_H
#define REPL_AGENT_TREE_H

#include <sys/types.h>

#include "source/tree/tree_scan.h"

struct repl_tree;

/* A name for the tree that stays: the filesystem and the directory in it, whatever their paths. */
REPL_RESULT repl_tree_identify(const char *path, char *identity, size_t size,
                               struct repl_error *err);

struct repl_tree_options {
    const char *path;       /* of its top directory; outlives it */
    const char *exclude;    /* patterns (tree_exclude.h), may be NULL */
    const char *index_path; /* where its index lies */
    struct repl_uuid volume;
    uint64_t next_seq;   /* of the volume: what was sent under lower ones may have used numbers */
    uint64_t space_size; /* as the site may know it already */
    uint64_t sent_to;    /* the newest segment that earlier runs may have sent ends in; 0: none */
    bool snapshots;      /* it is to be read from such (tree_snapshot.h) */
};
/* Refuses a filesystem without file handles, one in memory, and one where snapshots are wanted and
 * cannot be made. Blocks. */
REPL_RESULT repl_tree_open(const struct repl_tree_options *options, struct repl_tree **out,
                           struct repl_error *err);
/* NULL does nothing. */
void repl_tree_close(struct repl_tree *tree);
/* From any thread: a scan that is under way ends soon, with REPL_E_RETRY. */
void repl_tree_stop(struct repl_tree *tree);
uint64_t repl_tree_space_size(const struct repl_tree *tree);
/* The site may have a tree of before, whose objects had other numbers: the next segment has to
 * begin a full. */
bool repl_tree_full_wanted(const struct repl_tree *tree);
/* No segment has been made with its index, as far as that is known: those that an earlier run left
 * are about objects of other numbers. */
bool repl_tree_is_new(const struct repl_tree *tree);

/* --- what is heard of it: on the loop's thread ------------------------------------------------ */

/* Whether changes are heard of; why not. Else each round looks at every name. */
bool repl_tree_is_watched(const struct repl_tree *tree);
const char *repl_tree_unwatched(const struct repl_tree *tree);
/* Readable when there is something to hear; -1: nothing ever is. */
int repl_tree_watch_fd_of(const struct repl_tree *tree);
/* Hears what there is, while nothing runs on a worker but reading. */
REPL_RESULT repl_tree_hear(struct repl_tree *tree, struct repl_error *err);
/* The next gather looks everywhere besides, and counts what it finds there as unheard. */
void repl_tree_audit(struct repl_tree *tree);
/* A gather would find nothing to do. */
bool repl_tree_is_idle(const struct repl_tree *tree);
/* Nothing was heard since the last gather was begun. */
bool repl_tree_is_quiet(const struct repl_tree *tree);
/* The device that the filesystem is on, to be frozen. */
dev_t repl_tree_device(const struct repl_tree *tree);
/* All that was heard since the last scan may not be all there was. */
bool repl_tree_is_unsure(const struct repl_tree *tree);

/* --- a round: on a worker, one call at a time ------------------------------------------------ */

enum repl_tree_look {
    REPL_TREE_LOOK,       /* for a point of one moment */
    REPL_TREE_LOOK_FILES, /* for one that is cut per file (tree_files.c) */
    REPL_TREE_LOOK_AGAIN, /* for the same: at what is unstable or hidden; or at all, if need be */
};
/* First, on the loop's thread. full: the next segment that takes records belongs to a full. */
void repl_tree_gather_begin(struct repl_tree *tree, bool full, enum repl_tree_look look);
/* Looks for what has changed: where something was heard of, or everywhere. */
REPL_RESULT repl_tree_gather(struct repl_tree *tree, struct repl_tree_found *found,
                             struct repl_error *err);
/* Of a gather with LOOK_FILES: something is not where it was, and not found elsewhere: another one,
 * with LOOK_AGAIN, has to follow before anything is read. */
bool repl_tree_hides(const struct repl_tree *tree);
/* Of a round that is cut per file: *count of the files that were read in it may be none of one
 * moment, which the next LOOK_AGAIN is about; REPL_UNSTABLE_UNKNOWN: there may be others. *same: as
 * below. */
REPL_RESULT repl_tree_unstable(struct repl_tree *tree, bool *same, uint64_t *count,
                               struct repl_error *err);
/* Whether nothing has changed since, and all that was read in between is of one state. */
REPL_RESULT repl_tree_is_same(struct repl_tree *tree, bool *same, struct repl_error *err);
/* Reads pages of the space, as the files have them now; what belongs to no file, or is behind one's
 * end, is zeros. On any number of workers, between a gather and the next. */
REPL_RESULT repl_tree_read(struct repl_tree *tree, uint64_t page, uint32_t count, uint8_t *to,
                           struct repl_error *err);

/* --- a snapshot ------------------------------------------------------------------------------
 *
 * Between take and release, gather and read are of the snapshot, and whatever they find is as of
 * one instant. One gather for each. Nothing is forgotten: what was heard of before the snapshot was
 * begun had been complete by then, and is in it; what was heard of later, until gather_begin, may
 * be in it or not. So it is looked for there, and kept for the next gather too. What else changes
 * is heard of later yet. (The kernel tells of a change of names when it has been made: one that is
 * made as the snapshot is, and told of more than some 10 ms later, is the next point's, though
 * something that came after it may be this one's.) */

/* On a worker, while nothing else runs, and nothing is heard; a tree that is watched. Blocks.
 * *begin_ns: all that was written before is in it; *end_ns: nothing that was written after. */
REPL_RESULT repl_tree_snapshot_take(struct repl_tree *tree, int64_t *begin_ns, int64_t *end_ns,
                                    struct repl_error *err);
bool repl_tree_is_snapshot(const struct repl_tree *tree);
/* On the loop's thread, while no gather and no read is under way: the tree is read itself again. */
void repl_tree_snapshot_release(struct repl_tree *tree);
/* After that, on a worker. */
REPL_RESULT repl_tree_snapshot_drop(struct repl_tree *tree, struct repl_error *err);

/* --- records: on the loop's thread, between a gather and the next ---------------------------- */

/* For struct repl_pipeline_records (pipeline.h); context: the tree. */
bool repl_tree_records_are_pending(const void *tree);
bool repl_tree_records_are_many(const void *tree, bool full);
bool repl_tree_records_are_torn(const void *tree, uint64_t to_seq);
REPL_RESULT repl_tree_segment_begin(void *tree, bool full, uint64_t to_seq, uint64_t *stamp,
                                    struct repl_error *err);
REPL_RESULT repl_tree_segment_record(void *tree, struct repl_record *record, bool *done,
                                     struct repl_error *err);
bool repl_tree_segment_end(void *tree);
void repl_tree_records_settled(void *tree, uint64_t stamp, bool full);
void repl_tree_records_lost(void *tree, uint64_t stamp);

#endif
