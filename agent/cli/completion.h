/*
 * Completion of verbs and options in a shell, out of the verbs' tables.
 */
#ifndef REPL_AGENT_COMPLETION_H
#define REPL_AGENT_COMPLETION_H

#include "cli/verbs.h"

/* What completion may be asked for, as --completion takes it. */
#define REPL_COMPLETION_SHELLS "bash|zsh|fish"

/* Prints the script for a shell. The verb "help" takes names of verbs. */
REPL_RESULT repl_completion_print(const char *shell, const struct repl_verb *const *verbs,
                                  size_t count, FILE *out, struct repl_error *err);

#endif
