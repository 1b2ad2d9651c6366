/*
 * The verb dispatcher: what reaches a verb, and what is said instead. Standard
 * output and error are turned into a file for the length of a call.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/verbs.h"

static bool test_flag;
static const char *test_text;
static bool test_letter;
static uint64_t test_size, test_count;

static int run_argc;
static char **run_argv;
static char run_words[256]; /* the arguments, each followed by a comma */

static int test_run(int argc, char **argv)
{
    run_argc = argc;
    run_argv = argv;
    run_words[0] = '\0';
    for (int i = 0; i < argc; i++) {
        strcat(run_words, argv[i]);
        strcat(run_words, ",");
    }
    assert_null(argv[argc]);
    return 42;
}

static const struct repl_option test_options[] = {
    {"flag", NULL, REPL_OPTION_FLAG, &test_flag, "A flag."},
    {"text", "FILE", REPL_OPTION_TEXT, &test_text,
     "A text's help\n\n    as it stands\nand filled."},
    {"size", "SIZE", REPL_OPTION_SIZE, &test_size, "A size."},
    {"count", "N", REPL_OPTION_COUNT, &test_count, "A 'count' of \\things."},
    {"x", NULL, REPL_OPTION_FLAG, &test_letter, "A letter."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

static const struct repl_verb test_verb = {
    .name = "try",
    .synopsis = "[--flag] A [B]",
    .summary = "Tries things.",
    .description = "First paragraph.\n\nSecond one.",
    .options = test_options,
    .positional_min = 1,
    .positional_max = 2,
    .run = test_run,
};

static char captured[4096];

/* Runs the verb on the words up to a NULL; its output is in captured afterwards. */
static int dispatch(const struct repl_verb *verb, ...)
{
    char words[16][64];
    char *argv[17];
    int argc = 0;
    va_list args;
    va_start(args, verb);
    for (const char *word; (word = va_arg(args, const char *)) != NULL; argc++) {
        snprintf(words[argc], sizeof words[argc], "%s", word);
        argv[argc] = words[argc];
    }
    va_end(args);
    argv[argc] = NULL;

    test_flag = test_letter = false;
    test_text = NULL;
    test_size = test_count = 0;
    run_argc = -1;
    FILE *file = tmpfile();
    assert_non_null(file);
    fflush(stdout);
    int saved_out = dup(STDOUT_FILENO), saved_err = dup(STDERR_FILENO);
    dup2(fileno(file), STDOUT_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    int exit_code = repl_verb_dispatch(verb, argc, argv);
    fflush(stdout);
    dup2(saved_out, STDOUT_FILENO);
    dup2(saved_err, STDERR_FILENO);
    close(saved_out);
    close(saved_err);
    rewind(file);
    captured[fread(captured, 1, sizeof captured - 1, file)] = '\0';
    fclose(file);
    return exit_code;
}

#define END (const char *)NULL

static void test_arguments(void **state)
{
    (void)state;
    assert_int_equal(dispatch(&test_verb, "try", "a", END), 42);
    assert_string_equal(run_words, "a,");
    assert_false(test_flag);
    assert_string_equal(captured, "");
    assert_int_equal(dispatch(&test_verb, "try", "a", "b", END), 42);
    assert_string_equal(run_words, "a,b,");
    assert_int_equal(dispatch(&test_verb, "try", "-", END), 42);
    assert_string_equal(run_words, "-,");
    assert_int_equal(dispatch(&test_verb, "try", "--", "--flag", "-h", END), 42);
    assert_string_equal(run_words, "--flag,-h,");
    assert_false(test_flag);
}

static void test_options_given(void **state)
{
    (void)state;
    assert_int_equal(dispatch(&test_verb, "try", "--flag", "a", "--text", "-x", "b", "--size",
                              "2 KiB", "--count=7", END),
                     42);
    assert_string_equal(run_words, "a,b,");
    assert_true(test_flag);
    assert_string_equal(test_text, "-x");
    assert_int_equal(test_size, 2048);
    assert_int_equal(test_count, 7);
    assert_int_equal(dispatch(&test_verb, "try", "--text=--a=b", "a", END), 42);
    assert_string_equal(test_text, "--a=b");
    assert_false(test_letter);
    assert_int_equal(dispatch(&test_verb, "try", "-x", "a", END), 42);
    assert_true(test_letter);
}

static void expect_usage(const char *message)
{
    assert_int_equal(run_argc, -1);
    assert_string_equal(captured, message);
}

static void test_options_refused(void **state)
{
    (void)state;
    assert_int_equal(dispatch(&test_verb, "try", "--flg", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: there is no option --flg: \"repl try --help\" lists what there is\n");
    assert_int_equal(dispatch(&test_verb, "try", "--fla=1", END), REPL_EXIT_USAGE);
    expect_usage("repl try: there is no option --fla: \"repl try --help\" lists what there is\n");
    assert_int_equal(dispatch(&test_verb, "try", "-f", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: there is no option -f: \"repl try --help\" lists what there is\n");
    assert_int_equal(dispatch(&test_verb, "try", "-flag", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: there is no option -flag: \"repl try --help\" lists what there is\n");
    assert_int_equal(dispatch(&test_verb, "try", "--x", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: there is no option --x: \"repl try --help\" lists what there is\n");
    assert_int_equal(dispatch(&test_verb, "try", "-x", "-x", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: -x is given twice: remove one\n");
    assert_int_equal(dispatch(&test_verb, "try", "-x=1", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: -x takes no value: write -x alone\n");
    assert_int_equal(dispatch(&test_verb, "try", "a", "--text", END), REPL_EXIT_USAGE);
    expect_usage("repl try: --text lacks its value: write --text FILE\n");
    assert_int_equal(dispatch(&test_verb, "try", "--text", "--flag", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: --text lacks its value: write --text FILE\n");
    assert_int_equal(dispatch(&test_verb, "try", "--text=", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: --text lacks its value: write --text FILE\n");
    assert_int_equal(dispatch(&test_verb, "try", "--text", "", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: --text lacks its value: write --text FILE\n");
    assert_int_equal(dispatch(&test_verb, "try", "--flag=yes", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: --flag takes no value: write --flag alone\n");
    assert_int_equal(dispatch(&test_verb, "try", "--text=a", "--text", "b", "a", END),
                     REPL_EXIT_USAGE);
    expect_usage("repl try: --text is given twice: remove one\n");
    assert_int_equal(dispatch(&test_verb, "try", "--count", "x", "a", END), REPL_EXIT_USAGE);
    expect_usage("repl try: --count: \"x\" is not a number: write digits only\n");
    assert_int_equal(dispatch(&test_verb, "try", "--size=1Q", "a", END), REPL_EXIT_USAGE);
    assert_non_null(strstr(captured, "repl try: --size: \"1Q\" is not a size: "));
}

static void test_count_refused(void **state)
{
    (void)state;
    assert_int_equal(dispatch(&test_verb, "try", "--flag", END), REPL_EXIT_USAGE);
    expect_usage("repl try: an argument is missing: the usage is repl try [--flag] A [B]\n");
    assert_int_equal(dispatch(&test_verb, "try", "a", "b", "c", "d", END), REPL_EXIT_USAGE);
    expect_usage(
        "repl try: \"c\" is one argument too many: the usage is repl try [--flag] A [B]\n");
}

static void test_help(void **state)
{
    (void)state;
    static const char help[] = "Usage: repl try [--flag] A [B]\n\n"
                               "Tries things.\n\n"
                               "First paragraph.\n\nSecond one.\n\n"
                               "Options:\n"
                               "  --flag\n      A flag.\n"
                               "  --text FILE\n      A text's help\n\n          as it stands\n"
                               "      and filled.\n"
                               "  --size SIZE\n      A size.\n"
                               "  --count N\n      A 'count' of \\things.\n"
                               "  -x\n      A letter.\n"
                               "  --help\n      Shows this text.\n";
    assert_int_equal(dispatch(&test_verb, "try", "--help", "--nonsense", END), 0);
    expect_usage(help);
    assert_int_equal(dispatch(&test_verb, "try", "-h", END), 0);
    expect_usage(help);
}

static void test_document(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    repl_verb_document(&test_verb, out);
    fclose(out);
    assert_string_equal(text,
                        ".SH SYNOPSIS\n.B repl try\n[\\-\\-flag] A [B]\n"
                        ".SH DESCRIPTION\nTries things.\n.sp\nFirst paragraph.\n.sp\nSecond one.\n"
                        ".SH OPTIONS\n.TP\n\\fB\\-\\-flag\\fR\nA flag.\n"
                        ".TP\n\\fB\\-\\-text\\fR \\fIFILE\\fR\n"
                        "A text\\(aqs help\n.sp\n    as it stands\n.br\nand filled.\n"
                        ".TP\n\\fB\\-\\-size\\fR \\fISIZE\\fR\nA size.\n"
                        ".TP\n\\fB\\-\\-count\\fR \\fIN\\fR\nA \\(aqcount\\(aq of \\ethings.\n"
                        ".TP\n\\fB\\-x\\fR\nA letter.\n"
                        ".TP\n\\fB\\-\\-help\\fR\nShows this text.\n");
    free(text);
}

static void test_fail(void **state)
{
    (void)state;
    struct repl_error err = {.code = REPL_E_FORK, .text = "no"};
    assert_int_equal(repl_verb_fail("try", &err), REPL_EXIT_REFUSED);
}

/* keygen in a process of its own: its options are static, and one run of the program is all they
 * are made for. Returns the exit code; what it printed is in captured. */
static int keygen(const char *first, const char *second, const char *third, const char *fourth)
{
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int exit_code = dispatch(&repl_verb_keygen, "keygen", first, second, third, fourth, END);
        ssize_t written = write(pipe_fds[1], captured, strlen(captured));
        _exit(written == (ssize_t)strlen(captured) ? exit_code : 99);
    }
    close(pipe_fds[1]);
    ssize_t size = read(pipe_fds[0], captured, sizeof captured - 1);
    assert_true(size >= 0);
    captured[size] = '\0';
    close(pipe_fds[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_keygen(void **state)
{
    (void)state;
    char directory[] = "/tmp/repl-test-XXXXXX";
    assert_non_null(mkdtemp(directory));
    char path[48];
    snprintf(path, sizeof path, "%s/k", directory);
    assert_int_equal(keygen("--name", "web1", path, END), 0);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_non_null(strstr(captured, "\n[peer web1]\nfingerprint = SHA256:"));
    assert_non_null(strstr(captured, "\n[remote]\nfingerprint = SHA256:"));
    char fingerprint[128] = "";
    memcpy(fingerprint, captured, strcspn(captured, "\n") + 1);
    assert_int_equal(strlen(fingerprint), 72);
    assert_int_equal(keygen("--show", path, END, END), 0);
    assert_string_equal(captured, fingerprint);
    assert_int_equal(keygen(path, END, END, END), REPL_EXIT_REFUSED);
    assert_non_null(strstr(captured, " exists already and is not overwritten: "));
    unlink(path);

    /* Without --name a peer's name is made up, of the host's if it serves. */
    assert_int_equal(keygen(path, END, END, END), 0);
    assert_non_null(strstr(captured, "\n[peer "));
    assert_null(strstr(captured, "\n[peer ]"));
    unlink(path);
    assert_int_equal(keygen("--show", path, END, END), REPL_EXIT_USAGE);
    rmdir(directory);
}

static void test_keygen_refused(void **state)
{
    (void)state;
    assert_int_equal(keygen("--name", "a b", "/nonexistent/k", END), REPL_EXIT_USAGE);
    assert_string_equal(captured,
                        "repl keygen: --name: \"a b\" cannot name a peer: write up to 64 letters, "
                        "digits, dots, underscores and dashes, the first of them no dot or dash\n");
    assert_int_equal(keygen("/nonexistent/k", END, END, END), REPL_EXIT_INTERNAL);
    assert_string_equal(captured, "repl keygen: cannot open the directory /nonexistent/ (make it "
                                  "with \"install -d -m 700 /nonexistent/\" if it is missing): No "
                                  "such file or directory\n");
    assert_int_equal(keygen("--name", "a", "--show", "k"), REPL_EXIT_USAGE);
    assert_string_equal(captured, "repl keygen: --name is for a new key and --show for an existing "
                                  "one: remove one\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_options_given),
        cmocka_unit_test(test_options_refused),
        cmocka_unit_test(test_count_refused),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_document),
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_keygen),
        cmocka_unit_test(test_keygen_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
