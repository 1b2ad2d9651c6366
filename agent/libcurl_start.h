/*
 * libcurl, made ready once for the whole process.
 */
#ifndef REPL_AGENT_LIBCURL_START_H
#define REPL_AGENT_LIBCURL_START_H

#include "repl/error.h"

/* Before the first handle of a thread; any number of times. From then on SIGPIPE is ignored:
 * libcurl would have to switch the process-wide disposition around each of its calls, which two
 * threads cannot do at once. A peer that went away is EPIPE to us, everywhere. */
REPL_RESULT repl_libcurl_start(struct repl_error *err);

#endif
