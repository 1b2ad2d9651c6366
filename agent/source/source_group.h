/*
 * Volumes that are cut at one common point: where their rounds meet.
 *
 * A group's window is common: there is a moment after all of them were opened and
 * read and before any of them is looked at again. A block volume is opened with
 * its counters, and then its marks are taken; it is right as of any moment after
 * its last page was read at which no barrier has completed since the counters. A
 * tree is opened by looking for what has changed, and is right as of any moment
 * after that at which nothing else has. So first all trees are looked through,
 * then all counters are read, then the marks of all are taken; and when the last
 * page of all has been read, all counters are read again, and after that the
 * trees are asked what has been heard of them. It is whole if it is for each of
 * them, and a point if each one's proof holds; all points of it carry the same
 * times.
 *
 * They are quiesced as one as well (source_hold.h): when all have come to that.
 * Where some have and others have come to open a round, all open one first, so
 * that it is never that some are frozen while others are not.
 *
 * That takes volumes that can be cut at all. While one of them has no point at
 * the site yet, is being compared or sent anew, is not tracked or has failed, the
 * others are cut each for itself, and their points say so by lacking the group's flag. One that
 * does not come within two intervals, or does not come to its round's end, is
 * waited for once, and then left out in the same way until it comes by itself.
 */
#ifndef REPL_AGENT_SOURCE_GROUP_H
#define REPL_AGENT_SOURCE_GROUP_H

#include "loop/loop.h"
#include "repl/error.h"

#define REPL_SOURCE_GROUP_MAX 64

struct repl_source_group;
struct repl_source_volume;

/* name outlives the group; guard: the path of the freeze guard's socket. */
REPL_RESULT repl_source_group_new(struct repl_loop *loop, const char *name, const char *guard,
                                  size_t member_count, struct repl_source_group **out,
                                  struct repl_error *err);
/* After its volumes have stopped. NULL is allowed. */
void repl_source_group_free(struct repl_source_group *group);
const char *repl_source_group_name(const struct repl_source_group *group);
void repl_source_group_join(struct repl_source_group *group, struct repl_source_volume *volume);

/* What the volume's pipeline asks for; done at once, or when the others have come. */
void repl_source_group_quiesce(struct repl_source_group *group, struct repl_source_volume *volume);
void repl_source_group_open(struct repl_source_group *group, struct repl_source_volume *volume);
void repl_source_group_close(struct repl_source_group *group, struct repl_source_volume *volume);
void repl_source_group_commit(struct repl_source_group *group, struct repl_source_volume *volume);
/* Why volumes of the group are cut each for itself, for people; empty: they are not. */
void repl_source_group_cause(const struct repl_source_group *group, char *cause, size_t size);
/* Something has happened to the volume: what waits for it may go on, or no longer has to. */
void repl_source_group_look(struct repl_source_group *group);

#endif
