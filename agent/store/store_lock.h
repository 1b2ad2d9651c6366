/*
 * The file that one process at a time holds a lock on while it writes a store.
 */
#ifndef REPL_AGENT_STORE_LOCK_H
#define REPL_AGENT_STORE_LOCK_H

#include "repl/error.h"

#define REPL_STORE_LOCK_NAME "lock"

/* Makes the file in the directory, named directory_path in messages, and locks it; the caller
 * closes *fd, which lets go of it, also where this fails (-1: not opened). REPL_E_LOCKED names the
 * process that has it. */
REPL_RESULT repl_store_lock(int directory, const char *directory_path, int *fd,
                            struct repl_error *err);

#endif
