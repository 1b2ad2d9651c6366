/*
 * What the scripts for the shells are made of.
 */
#ifndef REPL_AGENT_COMPLETION_INTERNAL_H
#define REPL_AGENT_COMPLETION_INTERNAL_H

#include "cli/completion.h"

typedef void completion_print_fn(const struct repl_verb *const *verbs, size_t count, FILE *out);
completion_print_fn completion_bash, completion_zsh, completion_fish;

/* Whether the argument of an option may be a path. */
bool completion_is_path(const char *argument);
/* Whether it may be words that are written as they stand; these, a space before each. */
bool completion_has_words(const char *argument);
void completion_words(const char *argument, FILE *out);
/* Whether a verb's last argument is a file. */
bool completion_takes_file(const struct repl_verb *verb);
/* "-" or "--", as goes before its name. */
const char *completion_dashes(const struct repl_option *option);
/* The names of the verbs, a space behind each. */
void completion_verbs(const struct repl_verb *const *verbs, size_t count, FILE *out);
/* The first sentence of a text without its end, to be put into single quotes: a backslash goes
 * before each character of escaped. */
void completion_sentence(const char *text, const char *escaped, FILE *out);

#endif
