/*
 * What a restore of a block volume asks of its target before it changes
 * anything, beside what restore.h lets others ask.
 */
#ifndef REPL_AGENT_RESTORE_CHECK_H
#define REPL_AGENT_RESTORE_CHECK_H

#include "recover/restore.h"

/* A file on a filesystem that cannot hold so many bytes of data is refused before it fills it. */
REPL_RESULT repl_restore_check_space(const struct repl_target *target, uint64_t data,
                                     struct repl_error *err);
/* Whether what is there may be continued or replaced by a volume of that size; *keep: it is not
 * emptied first. */
REPL_RESULT repl_restore_check_existing(const struct repl_restore_options *options, uint64_t size,
                                        bool *keep, struct repl_error *err);

#endif
