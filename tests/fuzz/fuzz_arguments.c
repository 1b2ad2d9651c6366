/*
 * The verb dispatcher on any argument list: the input, cut at its NULs and line
 * feeds. Whatever reaches the verb must keep to the table's bounds.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "cli/verbs.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WORDS_MAX 64

static bool flag;
static const char *text;
static uint64_t bytes, count;

static int run(int argc, char **argv)
{
    ensure(argc >= 1 && argc <= 3);
    for (int i = 0; i < argc; i++)
        ensure(argv[i] != NULL);
    ensure(argv[argc] == NULL);
    ensure(text == NULL || text[0] != '\0');
    return REPL_EXIT_OK;
}

static const struct repl_option options[] = {
    {"flag", NULL, REPL_OPTION_FLAG, &flag, "A flag."},
    {"text", "FILE", REPL_OPTION_TEXT, &text, "A text."},
    {"size", "SIZE", REPL_OPTION_SIZE, &bytes, "A size."},
    {"count", "N", REPL_OPTION_COUNT, &count, "A number."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

static const struct repl_verb verb = {
    .name = "fuzz",
    .synopsis = "A [B [C]]",
    .summary = "Takes any arguments.",
    .options = options,
    .positional_min = 1,
    .positional_max = 3,
    .run = run,
};

/* What the dispatcher prints goes nowhere. The fuzzer's own reports must not: they are written to
 * the descriptor that standard error had, so only the streams are turned away. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    FILE *null = fopen("/dev/null", "w");
    ensure(null != NULL);
    stdout = null;
    stderr = null;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1);
    char name[] = "fuzz";
    char *argv[WORDS_MAX + 1] = {name};
    int argc = 1;
    if (copy == NULL)
        return 0;
    memcpy(copy, data, size);
    copy[size] = '\0';
    for (char *at = copy, *end = copy + size; at < end && argc < WORDS_MAX; argc++) {
        argv[argc] = at;
        at += strcspn(at, "\n");
        *at++ = '\0';
    }
    flag = false;
    text = NULL;
    int exit_code = repl_verb_dispatch(&verb, argc, argv);
    ensure(exit_code == REPL_EXIT_OK || exit_code == REPL_EXIT_USAGE);
    free(copy);
    return 0;
}
