/* What LMDB does not look at when it opens a file, and does not tell when it cannot write one. */
#ifndef REPL_AGENT_LMDB_FILE_H
#define REPL_AGENT_LMDB_FILE_H

#include <lmdb.h>

#include "repl/error.h"

/* Whether the file that env has open is as long as the pages in it that are used: one behind its
 * end would be a SIGBUS in the map. Pages at the end that a transaction took and gave back were
 * never written, and may be missing in a file that is whole; it is made as long as it says it is,
 * unless it is open for reading only.
 *
 * 0; MDB_CORRUPTED: it was cut off; else an error of LMDB or of the system. No transaction is open
 * in this thread. */
int repl_lmdb_length_check(MDB_env *env);

/* What LMDB's error stands for. Of a write that was cut short, as a disk does that becomes full
 * under it, it says EIO, as of a broken disk: where the disk of the file, or directory, at path has
 * no room, that is ENOSPC or EDQUOT. Of every other error it is that one. */
int repl_lmdb_error(const char *path, int error);
/* Raises it, with "path: what" before it; what "": the path alone. */
REPL_RESULT repl_lmdb_fail(const char *path, const char *what, int error, struct repl_error *err);

#endif
