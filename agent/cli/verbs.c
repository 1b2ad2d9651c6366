/*
 * From a verb's table to its parsed arguments, its help and its manual page.
 *
 * The parser is our own and not getopt_long, because of what it must not do:
 * take an abbreviated option (a new option in the next version would change
 * what a script means), take the next option for a forgotten value, or let the
 * second of two "--to" win in silence. Every mistake names the word it is about
 * and where to look next, and gives REPL_EXIT_USAGE.
 */
#include "cli/verbs.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "config/config.h"
#include "config/document.h"

struct verb_parser {
    const struct repl_verb *verb;
    int argc;
    char **argv;
    int next;                         /* index of the first word not yet taken */
    bool seen[REPL_VERB_OPTIONS_MAX]; /* by the option's index in the table */
    bool help;
    int count; /* of positional arguments */
    char **positional;
};

int repl_verb_fail(const char *verb, const struct repl_error *err)
{
    fprintf(stderr, "repl%s%s: %s\n", verb != NULL ? " " : "", verb != NULL ? verb : "", err->text);
    return (int)repl_exit_code(err->code);
}

/* --- arguments ------------------------------------------------------------------------------- */

static const char *dashes_of(const char *name)
{
    return name[0] != '\0' && name[1] == '\0' ? "-" : "--";
}

/* word: the name, perhaps with "=VALUE" behind it. NULL where there is no such option. */
static const struct repl_option *find_option(const struct repl_verb *verb, const char *word)
{
    size_t size = strcspn(word, "=");
    for (const struct repl_option *option = verb->options; option->name != NULL; option++) {
        if (strlen(option->name) == size && memcmp(option->name, word, size) == 0)
            return option;
    }
    return NULL;
}

static repl_result store_option(const struct repl_option *option, char *value,
                                struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    switch (option->kind) {
    case REPL_OPTION_FLAG:
        *(bool *)option->value = true;
        break;
    case REPL_OPTION_TEXT:
        *(const char **)option->value = value;
        break;
    case REPL_OPTION_SIZE:
        result = repl_parse_size(value, option->value, err);
        break;
    case REPL_OPTION_COUNT:
        result = repl_parse_count(value, option->value, err);
        break;
    }
    return repl_forward(result, err, "--%s", option->name);
}

/* The value of an option that takes one: behind '=' or the next word. NULL where it was forgotten;
 * a next word that is an option itself is no value ("--name=--value" says so if it is meant). */
static char *take_value(struct verb_parser *parser, char *word)
{
    char *equals = strchr(word, '=');
    if (equals != NULL)
        return equals[1] != '\0' ? equals + 1 : NULL;
    if (parser->next == parser->argc || strncmp(parser->argv[parser->next], "--", 2) == 0 ||
        parser->argv[parser->next][0] == '\0')
        return NULL;
    return parser->argv[parser->next++];
}

/* word: an argument that began with dashes, without these. */
static repl_result take_option(struct verb_parser *parser, const char *dashes, char *word,
                               struct repl_error *err)
{
    const struct repl_verb *verb = parser->verb;
    if (dashes[1] != '\0' && strcmp(word, "help") == 0) {
        parser->help = true;
        return REPL_SUCCESS;
    }
    const struct repl_option *option = find_option(verb, word);
    if (option == NULL || strcmp(dashes_of(option->name), dashes) != 0)
        return repl_fail(err, REPL_E_USAGE,
                         "there is no option %s%.*s: \"repl %s --help\" lists what there is",
                         dashes, (int)strcspn(word, "="), word, verb->name);
    ensure(option - verb->options < REPL_VERB_OPTIONS_MAX);
    bool *seen = &parser->seen[option - verb->options];
    if (*seen)
        return repl_fail(err, REPL_E_USAGE, "%s%s is given twice: remove one", dashes,
                         option->name);
    *seen = true;

    char *value = NULL;
    if (option->kind == REPL_OPTION_FLAG && strchr(word, '=') != NULL)
        return repl_fail(err, REPL_E_USAGE, "%s%s takes no value: write %s%s alone", dashes,
                         option->name, dashes, option->name);
    if (option->kind != REPL_OPTION_FLAG && (value = take_value(parser, word)) == NULL)
        return repl_fail(err, REPL_E_USAGE, "--%s lacks its value: write --%s %s", option->name,
                         option->name, option->argument);
    return store_option(option, value, err);
}

static repl_result check_count(const struct verb_parser *parser, struct repl_error *err)
{
    const struct repl_verb *verb = parser->verb;
    if (parser->count > verb->positional_max)
        return repl_fail(err, REPL_E_USAGE,
                         "\"%s\" is one argument too many: the usage is repl %s %s",
                         parser->positional[verb->positional_max], verb->name, verb->synopsis);
    if (parser->count < verb->positional_min)
        return repl_fail(err, REPL_E_USAGE, "an argument is missing: the usage is repl %s %s",
                         verb->name, verb->synopsis);
    return REPL_SUCCESS;
}

static repl_result parse_arguments(struct verb_parser *parser, struct repl_error *err)
{
    bool options_end = false;
    while (parser->next < parser->argc) {
        char *word = parser->argv[parser->next++];
        if (options_end || word[0] != '-' || word[1] == '\0') {
            parser->positional[parser->count++] = word;
        } else if (strcmp(word, "--") == 0) {
            options_end = true;
        } else if (strncmp(word, "--", 2) == 0) {
            REPL_TRY(take_option(parser, "--", word + 2, err));
        } else if (strcmp(word, "-h") == 0) {
            parser->help = true;
        } else {
            REPL_TRY(take_option(parser, "-", word + 1, err));
        }
        if (parser->help)
            return REPL_SUCCESS;
    }
    return check_count(parser, err);
}

int repl_verb_dispatch(const struct repl_verb *verb, int argc, char **argv)
{
    struct repl_error err = {0};
    struct verb_parser parser = {.verb = verb, .argc = argc, .argv = argv, .next = 1};
    parser.positional = calloc((size_t)argc + 1, sizeof *parser.positional);
    if (parser.positional == NULL) {
        repl_ignore(repl_fail(&err, REPL_E_NOMEM, "out of memory"));
        return repl_verb_fail(verb->name, &err);
    }
    int exit_code;
    if (!repl_ok(parse_arguments(&parser, &err))) {
        exit_code = repl_verb_fail(verb->name, &err);
    } else if (parser.help) {
        repl_verb_help(verb, stdout);
        exit_code = REPL_EXIT_OK;
    } else {
        exit_code = verb->run(parser.count, parser.positional);
    }
    free(parser.positional);
    return exit_code;
}

/* --- documentation --------------------------------------------------------------------------- */

static const struct repl_option help_option = {
    .name = "help", .kind = REPL_OPTION_FLAG, .help = "Shows this text."};

static void print_option(FILE *out, const struct repl_option *option)
{
    fprintf(out, "  %s%s%s%s\n", dashes_of(option->name), option->name,
            option->argument != NULL ? " " : "", option->argument != NULL ? option->argument : "");
    repl_document_fill(out, 6, option->help);
}

void repl_verb_help(const struct repl_verb *verb, FILE *out)
{
    fprintf(out, "Usage: repl %s%s%s\n\n", verb->name, verb->synopsis[0] != '\0' ? " " : "",
            verb->synopsis);
    repl_document_fill(out, 0, verb->summary);
    if (verb->description != NULL) {
        fputc('\n', out);
        repl_document_fill(out, 0, verb->description);
    }
    fputs("\nOptions:\n", out);
    for (const struct repl_option *option = verb->options; option->name != NULL; option++)
        print_option(out, option);
    print_option(out, &help_option);
}

static void document_option(FILE *out, const struct repl_option *option)
{
    fputs(dashes_of(option->name)[1] != '\0' ? ".TP\n\\fB\\-\\-" : ".TP\n\\fB\\-", out);
    repl_document_troff_words(out, option->name);
    fputs("\\fR", out);
    if (option->argument != NULL) {
        fputs(" \\fI", out);
        repl_document_troff_words(out, option->argument);
        fputs("\\fR", out);
    }
    fputc('\n', out);
    repl_document_troff(out, option->help);
}

void repl_verb_document(const struct repl_verb *verb, FILE *out)
{
    fprintf(out, ".SH SYNOPSIS\n.B repl %s\n", verb->name);
    if (verb->synopsis[0] != '\0') {
        repl_document_troff_words(out, verb->synopsis);
        fputc('\n', out);
    }
    fputs(".SH DESCRIPTION\n", out);
    repl_document_troff(out, verb->summary);
    if (verb->description != NULL) {
        fputs(".sp\n", out);
        repl_document_troff(out, verb->description);
    }
    fputs(".SH OPTIONS\n", out);
    for (const struct repl_option *option = verb->options; option->name != NULL; option++)
        document_option(out, option);
    document_option(out, &help_option);
}
