/*
 * Times, sizes and labels in words, as recovery's verbs print them.
 */
#ifndef REPL_AGENT_WORDS_H
#define REPL_AGENT_WORDS_H

#include <stdint.h>

#include "repl/format.h"

/* Room for any text made here. */
#define REPL_WORDS_SIZE 64

/* "2026-05-04 13:37:00.250 +0200": local time. */
void repl_words_local(int64_t time_ns, char text[REPL_WORDS_SIZE]);
/* "2026-05-04T11:37:00.250Z". */
void repl_words_utc(int64_t time_ns, char text[REPL_WORDS_SIZE]);
/* "250 ms", "4.2 s", "3 min 20 s", "2 h 5 min", "3 d 4 h". */
void repl_words_duration(int64_t duration_ns, char text[REPL_WORDS_SIZE]);
/* "512 B", "1.5 GiB". */
void repl_words_bytes(uint64_t bytes, char text[REPL_WORDS_SIZE]);

/* "file", "directory", "symlink", "fifo", "character", "block", "socket". */
const char *repl_words_node(enum repl_node_kind kind);

/* "crash", "filesystem", "application", "per-file", "none". */
const char *repl_words_consistency(enum repl_consistency consistency);
/* "quiet", "window", "freeze", "command", "files",
 * "snapshot". */
const char *repl_words_cut(enum repl_cut cut);

#endif
