/*
 * What is mounted, by the kernel's list: nothing is asked of a mount, as the
 * process that would answer may be gone.
 */
#ifndef REPL_AGENT_MOUNTED_H
#define REPL_AGENT_MOUNTED_H

#include <limits.h>

#include "repl/error.h"

#define REPL_MOUNTED_TYPE      "fuse.repl"
#define REPL_MOUNTED_TYPE_SIZE 64u

/* The path without links, where what is mounted there need not answer. */
REPL_RESULT repl_mounted_path(const char *given, char out[PATH_MAX], struct repl_error *err);
/* What was mounted last on just this directory; "": nothing is. */
REPL_RESULT repl_mounted_type(const char *path, char type[REPL_MOUNTED_TYPE_SIZE],
                              struct repl_error *err);

#endif
