/*
 * A verb, run on the volume of a store_model, and what it prints.
 */
#ifndef TESTS_UNIT_VERB_OUTPUT_H
#define TESTS_UNIT_VERB_OUTPUT_H

#include <jansson.h>

#include "cli/verbs.h"

struct verb_output {
    char out[16384], err[4096];
};

static inline void verb_output_take(FILE *file, char *text, size_t size)
{
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
}

static inline void verb_options_reset(const struct repl_verb *verb)
{
    for (const struct repl_option *option = verb->options; option->name != NULL; option++) {
        if (option->kind == REPL_OPTION_FLAG)
            *(bool *)option->value = false;
        else if (option->kind == REPL_OPTION_TEXT)
            *(const char **)option->value = NULL;
    }
}

/* The verb with these arguments, up to 12 and a NULL; no option of its table is given before. */
static inline int verb_output(const struct repl_verb *verb, struct verb_output *to,
                              const char *const *arguments)
{
    char words[12][400], *argv[14] = {(char *)(uintptr_t)verb->name};
    int argc = 1;
    for (; arguments[argc - 1] != NULL; argc++) {
        snprintf(words[argc - 1], sizeof words[0], "%s", arguments[argc - 1]);
        argv[argc] = words[argc - 1];
    }
    verb_options_reset(verb);
    FILE *out = tmpfile(), *err = tmpfile();
    assert_true(out != NULL && err != NULL);
    fflush(stdout);
    fflush(stderr);
    int saved_out = dup(STDOUT_FILENO), saved_err = dup(STDERR_FILENO);
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    int exit_code = repl_verb_dispatch(verb, argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(saved_out, STDOUT_FILENO);
    dup2(saved_err, STDERR_FILENO);
    close(saved_out);
    close(saved_err);
    verb_output_take(out, to->out, sizeof to->out);
    verb_output_take(err, to->err, sizeof to->err);
    return exit_code;
}

#endif
