/*
 * Paths of a history as verbs print them: any bytes but NUL may be in one.
 */
#ifndef REPL_AGENT_PATH_WORDS_H
#define REPL_AGENT_PATH_WORDS_H

#include <jansson.h>
#include <stdio.h>

#include "repl/error.h"

/* Safe for a terminal and a line: a backslash, a control character, and each byte that is of no
 * printable UTF-8 is written \xHH. So a line can be turned back into the path. */
REPL_RESULT repl_path_print(FILE *out, const char *path, size_t size, struct repl_error *err);

/* "KEY": the path. Where that is not UTF-8, what repl_path_print prints, and "KEY_hex" has its
 * bytes. False: out of memory. */
bool repl_path_json(json_t *object, const char *key, const char *path, size_t size);

/* REPL_E_IO where something could not be written to standard output. At the end of a verb. */
REPL_RESULT repl_output_end(struct repl_error *err);

#endif
