/*
 * The segments that a volume's history is made of, as the log says: a fold over
 * its records, for whoever needs the list and not only its end (journal.h).
 *
 * Sorted by (to, part), which is the order of the chain:
 *
 *   (0,5].0 (0,5].1 | (5,6].0 (6,9].0 (9,12].0 ...          as received, and merged
 *   (0,5].1 (0,9].0 (0,9].1 | (9,12].0 ...                  the base brought forward to 9
 *
 * The *base* is the full that the history begins with. Each of its segments
 * speaks of a stretch of the manifest's order that no other one of it does, so
 * that bringing it forward to a later point makes anew only those that something
 * of theirs has changed: its tiles have been made at different points, and are
 * as of the last of these. A received full is a base of its own, wherever it
 * stands: what is behind it never looks at what is before it.
 *
 * A MERGE and the records that belong to it count when the last of them has been
 * applied; a log that ends in the middle of such a group ends before it.
 */
#ifndef REPL_CHAIN_H
#define REPL_CHAIN_H

#include "format/log_record.h"
#include "repl/error.h"

struct repl_chain {
    struct repl_log_piece *entries;
    size_t count;
    struct repl_log_mark *marks; /* names that points have, oldest first; none REMOVED */
    size_t mark_count;
    uint32_t group_left; /* records that are still to come of a MERGE or CHECKPOINT */
    /* private */
    size_t room, mark_room;
    bool in_checkpoint;
    struct repl_log_merge merge;
    struct repl_log_piece *added;
    size_t added_count, added_room;
    struct repl_log_gone *gone;
    size_t gone_count, gone_room;
};

void repl_chain_init(struct repl_chain *chain);
void repl_chain_fini(struct repl_chain *chain);

/* The next record, which repl_journal_apply has taken. REPL_E_CORRUPT: what a MERGE says does not
 * fit what there is. */
REPL_RESULT repl_chain_apply(struct repl_chain *chain, const struct repl_log_record *record,
                             struct repl_error *err);

/* The next entry of a list that somebody else has kept, in order: REPL_E_CORRUPT if it is not. */
REPL_RESULT repl_chain_add(struct repl_chain *chain, const struct repl_log_piece *piece,
                           struct repl_error *err);

/* Where the segments begin that make up the volume as entry i leaves it. */
size_t repl_chain_base_of(const struct repl_chain *chain, size_t i);
/* Whether entry i ends in a point that can be restored: not so a tile that was made at an earlier
 * point than the base is of now. */
bool repl_chain_has_point(const struct repl_chain *chain, size_t i);
/* The entry of that name, made by that merge; SIZE_MAX: there is none. */
size_t repl_chain_find(const struct repl_chain *chain, uint64_t to_seq, uint32_t part,
                       uint64_t merge);
/* The entry that ends in the point; SIZE_MAX: there is none. */
size_t repl_chain_find_point(const struct repl_chain *chain, uint64_t seq);
/* Whether a merge accounts for a segment that was received up to the point and is not an entry any
 * more: what it has made takes in the changes that the segment had, or they were needless, as the
 * next there is is a full. */
bool repl_chain_has_replaced(const struct repl_chain *chain, uint64_t to_seq);

#endif
