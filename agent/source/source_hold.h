/*
 * What holds the volumes of a group still: the commands of each, and one freeze
 * of all the filesystems they are on, each of which is frozen once, however many
 * of them share it.
 *
 *     begin -> each one's pre_command -> the freeze -> all are told: held
 *     end   -> the thaw -> each one's post_command  -> all are told: resumed
 *
 * They are held all or none: where a command fails or a filesystem cannot be
 * frozen, all are told why. It ends for all as soon as one of them is done with
 * it: either that is the moment at which all are, or their round is in vain.
 */
#ifndef REPL_AGENT_SOURCE_HOLD_H
#define REPL_AGENT_SOURCE_HOLD_H

#include "source/freeze/hold.h"

struct repl_source_hold;
struct repl_source_volume;

/* guard: the path of its socket; group: a name, which outlives the hold. */
REPL_RESULT repl_source_hold_new(struct repl_loop *loop, const char *guard, const char *group,
                                 struct repl_source_hold **out, struct repl_error *err);
/* After its volumes have stopped. NULL does nothing. */
void repl_source_hold_free(struct repl_source_hold *hold);

/* Of volumes whose pipelines have asked for it, at most REPL_SOURCE_GROUP_MAX; each of them was
 * told of the end of the hold before. */
void repl_source_hold_begin(struct repl_source_hold *hold, struct repl_source_volume **volumes,
                            size_t count);
/* Does nothing where it is ending already. */
void repl_source_hold_end(struct repl_source_hold *hold);
/* The commands of one of its volumes: what has come of them. */
void repl_source_hold_followed(struct repl_source_hold *hold, struct repl_source_volume *volume,
                               const struct repl_hold_event *event);

#endif
