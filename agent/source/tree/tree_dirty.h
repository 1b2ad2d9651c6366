/*
 * Which pages of a tree's files are written to, as the programs of
 * tree_dirty.bpf.c notice it, through mappings too; and whether they noticed all
 * of it.
 *
 * Nothing that a tracing program says is taken on trust, for calls do get
 * skipped. The kernel counts the pages that turn dirty by itself (nr_dirtied of
 * /proc/vmstat: K), and the programs count them at the same place, just ahead of
 * it (C). K is kept apart by processor; to put it together (vm.stat_refresh) the
 * kernel runs a piece of work on each of them and waits for it, by when whatever
 * was between the two places is past the second. So with no page counted between
 * two readings of C, and a refresh and a reading of K in between, C - K is what
 * it was at the start, to the page; each call that was skipped leaves K ahead for
 * good. On a host where pages turn dirty all the time (K is of all filesystems)
 * there may be no such moment: then, this time, the marks say which files to look
 * at, and not where in them. Nor where C is ahead: a page that could not be written
 * out and is dirty again (folio_account_redirty) is taken out of K. (One that was
 * skipped in the same while would make up for it: not to be expected of two rare
 * things.)
 *
 * Direct writes are not in K. Their begin and their end are noticed apart: an end
 * without its begin marks the whole file, and what has begun and not ended is
 * marked each time; a file whose mtime changed without any mark is read whole
 * (tree_names.c). What is left is a direct write of which both went unnoticed,
 * in a file with other marks.
 */
#ifndef REPL_AGENT_TREE_DIRTY_H
#define REPL_AGENT_TREE_DIRTY_H

#include "source/tree/tree_marks.h"
#include "source/tree/tree_object.h"

struct repl_tree_dirty;

/* Marks are made from now on; whether they are is tried with a file without a name. What it cannot
 * do is said. */
REPL_RESULT repl_tree_dirty_open(const struct repl_tree_root *root, struct repl_tree_dirty **out,
                                 struct repl_error *err);
/* NULL does nothing. */
void repl_tree_dirty_close(struct repl_tree_dirty *dirty);

/* Whether the kernel takes the programs for the filesystem of this tree: loads them, attaches
 * nothing and lets go of them. From any thread. */
REPL_RESULT repl_tree_dirty_try(const struct repl_tree_root *root, struct repl_error *err);

/* Whether all that changes a file's content is noticed, so that it need be read only where that was
 * (the kernel has the tracepoints of this filesystem). From any thread. */
bool repl_tree_dirty_is_precise(const struct repl_tree_dirty *dirty);
/* Nothing has been marked since the last take, and nothing that is on its way is due to be read
 * again. Not while one of the calls below is under way. */
bool repl_tree_dirty_is_quiet(const struct repl_tree_dirty *dirty);

/* Takes the marks out, appends them, and sorts them all. A page that was marked by then, and is
 * cleaned (its file written out) from then on, is marked anew by the next store to it. *lost: there
 * were more than there is room for. One call at a time; waits some 10 ms for the programs where
 * there are any. */
REPL_RESULT repl_tree_dirty_take(struct repl_tree_dirty *dirty, struct repl_buffer *marks,
                                 bool *lost, struct repl_error *err);
/* Appends what direct writes that may not have ended write to: their end may go unnoticed, or is
 * not told by this kernel. Does not sort. */
REPL_RESULT repl_tree_dirty_on_its_way(struct repl_tree_dirty *dirty, struct repl_buffer *marks,
                                       struct repl_error *err);

enum repl_tree_verdict {
    REPL_TREE_AUDIT_PASSED, /* what was marked before the last take is all there was */
    REPL_TREE_AUDIT_BUSY,   /* that cannot be told now */
    REPL_TREE_AUDIT_SHORT,  /* calls were skipped since the last time it passed */
};
/* One call at a time, on the thread that takes. overlooked: pages, for SHORT. */
enum repl_tree_verdict repl_tree_dirty_audit(struct repl_tree_dirty *dirty, uint64_t *overlooked);

#endif
