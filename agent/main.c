/*
 * The program: a table of verbs. "help" is one of them, so the texts for people
 * and the manual pages come out of the same tables as the parsing does.
 */
#include <errno.h>
#include <malloc.h>
#include <string.h>

#include "cli/completion.h"
#include "cli/verbs.h"
#include "config/config.h"
#include "config/document.h"

static const struct repl_verb verb_help;

static const struct repl_verb *const verbs[] = {
    &repl_verb_agent,  &repl_verb_guard,   &repl_verb_site,    &repl_verb_keygen,
    &repl_verb_status, &repl_verb_points,  &repl_verb_ls,      &repl_verb_diff,
    &repl_verb_cp,     &repl_verb_inspect, &repl_verb_restore, &repl_verb_mount,
    &repl_verb_umount, &repl_verb_verify,  &repl_verb_mark,    &repl_verb_full,
    &repl_verb_forget, &repl_verb_bisect,  &repl_verb_doctor,  &repl_verb_estimate,
    &verb_help,
};

#define VERB_COUNT (sizeof verbs / sizeof verbs[0])

static const char program_summary[] = "continuous cross-site storage replication";

static const struct {
    enum repl_exit code;
    const char *meaning;
} exit_codes[] = {
    {REPL_EXIT_OK, "Done."},
    {REPL_EXIT_WARNING, "Done, but something wants attention."},
    {REPL_EXIT_RETRY, "Not now: no connection, no space, a busy peer. Later it may work."},
    {REPL_EXIT_LOCKED, "Another program holds what is needed."},
    {REPL_EXIT_CORRUPT, "Data is damaged or missing."},
    {REPL_EXIT_REFUSED, "Refused: not permitted, not safe, or not the same history."},
    {REPL_EXIT_USAGE, "The arguments or the configuration are wrong."},
    {REPL_EXIT_INTERNAL, "The machine or this program failed."},
};

static const struct repl_verb *find_verb(const char *name)
{
    for (size_t i = 0; i < VERB_COUNT; i++) {
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    }
    return NULL;
}

static void print_program_help(FILE *out)
{
    fprintf(out, "Usage: repl VERB [OPTIONS] [ARGUMENTS]\n\nrepl: %s\n\nVerbs:\n", program_summary);
    for (size_t i = 0; i < VERB_COUNT; i++)
        fprintf(out, "  %-9s %s\n", verbs[i]->name, verbs[i]->summary);
    fputs("\n\"repl help VERB\" or \"repl VERB --help\" shows a verb's arguments, \"repl help "
          "config\"\nthe options of the configuration files, \"repl --version\" the version.\n"
          "\nExit codes:\n",
          out);
    for (size_t i = 0; i < sizeof exit_codes / sizeof exit_codes[0]; i++)
        fprintf(out, "  %-3d %s\n", exit_codes[i].code, exit_codes[i].meaning);
}

static void print_version(void)
{
    printf("repl %s\n", REPL_VERSION);
}

/* --- manual pages ---------------------------------------------------------------------------- */

static void page_begin(const char *title, const char *section, const char *name,
                       const char *summary)
{
    printf(".TH %s %s \"\" \"repl %s\"\n.SH NAME\n%s \\- ", title, section, REPL_VERSION, name);
    repl_document_troff_words(stdout, summary);
    putchar('\n');
}

static void print_exit_codes(void)
{
    fputs(".SH EXIT STATUS\n", stdout);
    for (size_t i = 0; i < sizeof exit_codes / sizeof exit_codes[0]; i++)
        printf(".TP\n%d\n%s\n", exit_codes[i].code, exit_codes[i].meaning);
}

static void print_program_page(void)
{
    page_begin("REPL", "1", "repl", program_summary);
    fputs(".SH SYNOPSIS\n.B repl\n\\fIVERB\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]\n"
          ".SH VERBS\nEach has a page of its own.\n",
          stdout);
    for (size_t i = 0; i < VERB_COUNT; i++) {
        printf(".TP\n.BR repl\\-%s (1)\n", verbs[i]->name);
        repl_document_troff(stdout, verbs[i]->summary);
    }
    print_exit_codes();
    fputs(".SH FILES\n" REPL_AGENT_CONFIG_PATH ", " REPL_SITE_CONFIG_PATH "\n"
          ".SH SEE ALSO\n.BR repl.conf (5)\n",
          stdout);
}

static void print_verb_page(const struct repl_verb *verb)
{
    char name[64];
    snprintf(name, sizeof name, "repl\\-%s", verb->name);
    page_begin(name, "1", name, verb->summary);
    repl_verb_document(verb, stdout);
    print_exit_codes();
    fputs(".SH SEE ALSO\n.BR repl (1),\n.BR repl.conf (5)\n", stdout);
}

static void print_config_page(void)
{
    page_begin("REPL.CONF", "5", "repl.conf", "configuration of repl's agent and site");
    fputs(".SH DESCRIPTION\n", stdout);
    repl_config_document(stdout, true);
    fputs(".SH SEE ALSO\n.BR repl (1)\n", stdout);
}

/* --- help ------------------------------------------------------------------------------------ */

static bool help_man;
static const char *help_completion;

static int help_on_verb(const char *name)
{
    const struct repl_verb *verb = find_verb(name);
    if (verb == NULL) {
        struct repl_error err;
        repl_ignore(repl_fail(&err, REPL_E_USAGE,
                              "there is no verb \"%s\": \"repl --help\" lists them", name));
        return repl_verb_fail("help", &err);
    }
    if (help_man)
        print_verb_page(verb);
    else
        repl_verb_help(verb, stdout);
    return REPL_EXIT_OK;
}

static int completion_print(int argc)
{
    struct repl_error err;
    repl_result result =
        argc > 0 || help_man
            ? repl_fail(&err, REPL_E_USAGE, "--completion goes with nothing else")
            : repl_completion_print(help_completion, verbs, VERB_COUNT, stdout, &err);
    return repl_ok(result) ? REPL_EXIT_OK : repl_verb_fail("help", &err);
}

static int help_run(int argc, char **argv)
{
    if (help_completion != NULL)
        return completion_print(argc);
    bool config = argc == 1 && strcmp(argv[0], "config") == 0;
    if (argc == 1 && !config)
        return help_on_verb(argv[0]);
    if (config && help_man)
        print_config_page();
    else if (config)
        repl_config_document(stdout, false);
    else if (help_man)
        print_program_page();
    else
        print_program_help(stdout);
    return REPL_EXIT_OK;
}

static const struct repl_option help_options[] = {
    {"man", NULL, REPL_OPTION_FLAG, &help_man,
     "Prints the manual page repl(1), of a verb repl-VERB(1), or with \"config\" repl.conf(5), as "
     "troff input."},
    {"completion", REPL_COMPLETION_SHELLS, REPL_OPTION_TEXT, &help_completion,
     "Prints what a shell completes verbs and options by: source <(repl help --completion bash). "
     "An installation has it where bash, zsh and fish look for it."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

static const struct repl_verb verb_help = {
    .name = "help",
    .synopsis = "[--man] [VERB|config] | --completion " REPL_COMPLETION_SHELLS,
    .summary = "Explains a verb, or the configuration files.",
    .options = help_options,
    .positional_max = 1,
    .run = help_run,
};

/* --- main ------------------------------------------------------------------------------------ */

static int run_program(int argc, char **argv)
{
    if (argc < 2) {
        print_program_help(stderr);
        return REPL_EXIT_USAGE;
    }
    const char *word = argv[1];
    const struct repl_verb *verb = find_verb(word);
    if (verb != NULL)
        return repl_verb_dispatch(verb, argc - 1, argv + 1);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        print_program_help(stdout);
        return REPL_EXIT_OK;
    }
    if (strcmp(word, "--version") == 0) {
        print_version();
        return REPL_EXIT_OK;
    }
    struct repl_error err;
    repl_ignore(repl_fail(&err, REPL_E_USAGE,
                          "there is no %s \"%s\": \"repl --help\" lists what "
                          "there is",
                          word[0] == '-' ? "option" : "verb", word));
    return repl_verb_fail(NULL, &err);
}

/* Buffers of megabytes come and go: each gets a map of its own and gives it back. Left to itself,
 * malloc puts them among the small ones as soon as the first is freed (mallopt(3), "dynamic mmap
 * threshold"), where they leave gaps: 12 MiB of 67 in an agent that seeds a tree. */
#define MAPPED_FROM (128 << 10)

int main(int argc, char **argv)
{
    mallopt(M_MMAP_THRESHOLD, MAPPED_FROM);
    int exit_code = run_program(argc, argv);
    /* Output that did not arrive (a full disk behind a redirection) is no success. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && exit_code == REPL_EXIT_OK) {
        fprintf(stderr, "repl: cannot write to standard output: %s\n", strerror(errno));
        exit_code = REPL_EXIT_INTERNAL;
    }
    return exit_code;
}
