/*
 * The compactor: gives up points as policy says, merges what lies between those
 * that are kept, and removes the files that others have taken the place of.
 *
 *   compactor.c          its turns, on the loop: whose is it, the log, what is told
 *   compactor_visit.c    a visit of a volume, on a thread of its own: what is due, one merge
 *   compactor_failures.c runs that could not be merged, and what they wait for
 *   compactor_sweep.c    segments that carry too much which nothing refers to
 *   compactor_dropped.c  chunks that a merge leaves out: whether it still may
 *   compactor_remove.c   files that go when their grace is over
 *   compactor_supplies.c files with chunks that came on request, when nothing needs them
 *   compactor_clock.c    whether the site's clock may be acted on
 *   checkpoint.c         a log that is written anew when most of it is of the past
 *   merge_run.h          a merge itself
 *
 * One merge at a time, of one volume. A visit reads what the index says, decides
 * by the pure plan (journal/merge_plan.h), and merges at most one run into pieces
 * that nothing refers to. Back on the loop the pieces take the run's place with
 * one append to the volume's log, in the order of all changes to it. A crash
 * leaves the run as it was, or the pieces in its place: what the log does not
 * name are leftovers, which go after the grace like everything else.
 */
#ifndef REPL_AGENT_COMPACTOR_H
#define REPL_AGENT_COMPACTOR_H

#include <stdatomic.h>

#include "repl/error.h"

struct repl_site;
struct site_volume;
struct site_compactor;

REPL_RESULT site_compactor_new(struct repl_site *site, struct site_compactor **out,
                               struct repl_error *err);
/* Not while busy. NULL does nothing. */
void site_compactor_free(struct site_compactor *compactor);
/* What is under way ends soon, and nothing else begins. */
void site_compactor_stop(struct site_compactor *compactor);
bool site_compactor_is_busy(const struct site_compactor *compactor);

/* True while a merge reads and writes, for whoever gives way to it; as long as the compactor. */
const atomic_bool *site_compactor_merging(const struct site_compactor *compactor);

/* Takes over what lay in the volume's directory, when it was read, without being part of its
 * history: it goes after the grace. Of those that the site has at the start this is done. */
void site_compactor_leftovers(struct site_compactor *compactor, struct site_volume *volume);

/* Every few seconds. */
void site_compactor_tick(struct site_compactor *compactor);
/* The volume is not busy: if a merge of it waits for the log, it is its turn. */
void site_compactor_pump(struct site_compactor *compactor, struct site_volume *volume);
/* A person says that this machine's clock is right. */
void site_compactor_confirm_clock(struct site_compactor *compactor);
/* Points of the volume are not merged before a segment that is damaged is whole again. */
bool site_compactor_waits(const struct site_volume *volume);
/* Why no points are given up; "" if they are. */
const char *site_compactor_doubt(const struct site_compactor *compactor);

#endif
