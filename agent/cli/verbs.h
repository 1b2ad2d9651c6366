/*
 * The verbs of the program. One file a verb; each gives a struct repl_verb
 * with a table of its options, from which the parser, --help and the man page
 * all come. main.c holds the table of verbs.
 */
#ifndef REPL_AGENT_VERBS_H
#define REPL_AGENT_VERBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "repl/error.h"

enum repl_option_kind {
    REPL_OPTION_FLAG,  /* bool * */
    REPL_OPTION_TEXT,  /* const char ** : points into argv */
    REPL_OPTION_SIZE,  /* uint64_t *, see repl_parse_size */
    REPL_OPTION_COUNT, /* uint64_t *, a plain number */
};

struct repl_option {
    const char *name;     /* "config": --config FILE; of one letter, "l": -l */
    const char *argument; /* "FILE"; NULL for a flag */
    enum repl_option_kind kind;
    void *value; /* where it goes; static storage of the verb's file */
    const char *help;
};

#define REPL_VERB_OPTIONS_MAX 32

struct repl_verb {
    const char *name;
    const char *synopsis;              /* "VOLUME [--at TIME] --to DEVICE|FILE" */
    const char *summary;               /* one line */
    const char *description;           /* paragraphs as in config/document.h; may be NULL */
    const struct repl_option *options; /* ended by a NULL name */
    int positional_min, positional_max;
    /* Returns an exit code of enum repl_exit; messages have been printed. */
    int (*run)(int argc, char **argv);
};

/* Parses argv (argv[0] is the verb) by its table and calls run with the positional arguments,
 * argv[0] being the first of them and a NULL after the last. Options and arguments may stand in any
 * order; "--name VALUE" and "--name=VALUE" are the same, and after "--" everything is an argument.
 * --help prints and returns 0. Errors go to standard error and give REPL_EXIT_USAGE. */
int repl_verb_dispatch(const struct repl_verb *verb, int argc, char **argv);
void repl_verb_help(const struct repl_verb *verb, FILE *out);
/* Troff: the sections SYNOPSIS, DESCRIPTION and OPTIONS of the verb's manual page. */
void repl_verb_document(const struct repl_verb *verb, FILE *out);

/* "repl VERB: TEXT" to standard error; returns the exit code that fits err->code. verb may be
 * NULL, for an error that belongs to none. */
int repl_verb_fail(const char *verb, const struct repl_error *err);

extern const struct repl_verb repl_verb_agent;
extern const struct repl_verb repl_verb_guard;
extern const struct repl_verb repl_verb_site;
extern const struct repl_verb repl_verb_keygen;
extern const struct repl_verb repl_verb_status;
extern const struct repl_verb repl_verb_points;
extern const struct repl_verb repl_verb_ls;
extern const struct repl_verb repl_verb_cp;
extern const struct repl_verb repl_verb_diff;
extern const struct repl_verb repl_verb_mount;
extern const struct repl_verb repl_verb_umount;
extern const struct repl_verb repl_verb_bisect;
extern const struct repl_verb repl_verb_inspect;
extern const struct repl_verb repl_verb_restore;
extern const struct repl_verb repl_verb_verify;
extern const struct repl_verb repl_verb_mark;
extern const struct repl_verb repl_verb_full;
extern const struct repl_verb repl_verb_forget;
extern const struct repl_verb repl_verb_doctor;
extern const struct repl_verb repl_verb_estimate;

#endif
