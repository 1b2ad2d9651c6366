/*
 * What verbs that write trees (recover/tree_restore.h) say to people.
 */
#ifndef REPL_AGENT_TREE_WORDS_H
#define REPL_AGENT_TREE_WORDS_H

#include "recover/tree_restore.h"

#define REPL_TREE_OWNER_HELP                                                                       \
    "Of a tree: as it was, by numbers (the default); skip: all belongs to whoever restores, "      \
    "which is what one can do who is not root; or all belongs to this one. Set-user-ID and "       \
    "set-group-ID bits are left out of files that get another owner."

/* --owner; text NULL: numeric. */
REPL_RESULT repl_tree_owner_parse(const char *text, struct repl_tree_options *options,
                                  struct repl_error *err);

/* For the options of a restore. A line that the next one takes the place of: for a terminal. */
void repl_tree_print_progress(void *context, const struct repl_tree_status *status);
/* context: the verb's name. */
void repl_tree_print_fault(void *context, const char *path, const struct repl_error *err);

/* True: some metadata could not be kept, and it was said. */
bool repl_tree_print_lacks(const char *verb, const struct repl_tree_result *result);

#endif
