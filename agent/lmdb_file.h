/* What LMDB does not look at when it opens a file. */
#ifndef REPL_AGENT_LMDB_FILE_H
#define REPL_AGENT_LMDB_FILE_H

#include <lmdb.h>

/* Whether the file that env has open is as long as the pages in it that are used: one behind its
 * end would be a SIGBUS in the map. Pages at the end that a transaction took and gave back were
 * never written, and may be missing in a file that is whole; it is made as long as it says it is,
 * unless it is open for reading only.
 *
 * 0; MDB_CORRUPTED: it was cut off; else an error of LMDB or of the system. No transaction is open
 * in this thread. */
int repl_lmdb_length_check(MDB_env *env);

#endif
