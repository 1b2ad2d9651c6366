#include "sim.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * sim [--seed N] [--seeds COUNT] [--verbose] [--bug NAME]
 *
 * Runs COUNT seeds from N on and says what befell them. The first failure ends
 * the program with 1 and the words to replay it. With --bug a breach of
 * contract is planted, and the program succeeds if the checker whose business
 * it is finds it.
 */

static const struct {
    const char *name, *checkers, *text;
} bugs[] = {{"none", "", ""},
#define BUG_ROW(id, name, checkers, text) {name, checkers, text},
            SIM_BUGS(BUG_ROW)
#undef BUG_ROW
};

/* For the handler of ensure()'s abort, which has nothing else. */
static uint64_t current_seed;

static void replay_print(const struct sim_options *options)
{
    fprintf(stderr, "replay: sim --seed %" PRIu64 " --verbose%s%s\n", options->seed,
            options->bug != SIM_BUG_NONE ? " --bug " : "",
            options->bug != SIM_BUG_NONE ? bugs[options->bug].name : "");
}

void sim_fail(struct sim *sim, const char *checker, const char *format, ...)
{
    const struct sim_options *options = &sim->options;
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    bool expected =
        options->bug != SIM_BUG_NONE && strstr(bugs[options->bug].checkers, checker) != NULL;
    fprintf(expected ? stdout : stderr, "seed %" PRIu64 ": %s: %s\n", options->seed, checker, text);
    if (!expected)
        replay_print(options);
    /* In the middle of everything: what the world holds is not for a leak checker to judge. */
    fflush(NULL);
    _exit(expected ? 0 : 1);
}

void sim_trace(struct sim *sim, const char *format, ...)
{
    if (!sim->options.verbose)
        return;
    va_list args;
    va_start(args, format);
    printf("%12.6f  ", (double)(sim->now_ns % (1000000 * SIM_SECOND)) / 1e9);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

static void on_abort(int signal_number)
{
    (void)signal_number;
    char text[96];
    int size =
        snprintf(text, sizeof text, "seed %" PRIu64 ": ensure: replay: sim --seed %" PRIu64 "\n",
                 current_seed, current_seed);
    ssize_t written = write(STDERR_FILENO, text, (size_t)size);
    _exit(written == size ? 1 : 2);
}

static int usage(void)
{
    fprintf(stderr, "usage: sim [--seed N] [--seeds COUNT] [--verbose] [--bug NAME]\nbugs:\n");
    for (unsigned i = 1; i < SIM_BUG_COUNT; i++)
        fprintf(stderr, "  %-22s %s\n", bugs[i].name, bugs[i].text);
    return 64;
}

static enum sim_bug bug_find(const char *name)
{
    for (unsigned i = 1; i < SIM_BUG_COUNT; i++) {
        if (strcmp(bugs[i].name, name) == 0)
            return (enum sim_bug)i;
    }
    return SIM_BUG_NONE;
}

static bool parse(int argc, char **argv, struct sim_options *options, uint64_t *count)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--verbose") == 0) {
            options->verbose = true;
            continue;
        }
        if (value == NULL)
            return false;
        if (strcmp(argv[i], "--seed") == 0)
            options->seed = strtoull(value, NULL, 0);
        else if (strcmp(argv[i], "--seeds") == 0)
            *count = strtoull(value, NULL, 0);
        else if (strcmp(argv[i], "--bug") != 0 || (options->bug = bug_find(value)) == 0)
            return false;
        i++;
    }
    return true;
}

static void counts_print(const struct sim_counts *counts)
{
#define COUNT_PRINT(name, text) printf("%-44s %12" PRIu64 "\n", text, counts->name);
    SIM_COUNTS(COUNT_PRINT)
#undef COUNT_PRINT
}

int main(int argc, char **argv)
{
    struct sim_options options = {.seed = 1};
    uint64_t count = 0;
    if (!parse(argc, argv, &options, &count))
        return usage();
    if (count == 0)
        count = 1;
    struct sim_counts counts = {0};
    struct repl_batch *batches = sim_alloc(2 * SIM_BATCHES * sizeof *batches);
    struct repl_frame_coder *coder;
    ensure(repl_ok(repl_frame_coder_new(&coder, NULL)));
    for (unsigned i = 0; i < 2 * SIM_BATCHES; i++)
        ensure(repl_ok(repl_batch_init(&batches[i], NULL)));
    signal(SIGABRT, on_abort);
    struct sim *sim = sim_alloc(sizeof *sim);
    for (uint64_t i = 0; i < count; i++, options.seed++) {
        memset(sim, 0, sizeof *sim);
        sim->options = options;
        sim->counts = &counts;
        sim->coder = coder;
        sim->batches = batches;
        current_seed = options.seed;
        sim_run_seed(sim);
    }
    free(sim);
    for (unsigned i = 0; i < 2 * SIM_BATCHES; i++)
        repl_batch_fini(&batches[i]);
    free(batches);
    repl_frame_coder_free(coder);
    counts_print(&counts);
    if (options.bug == SIM_BUG_NONE)
        return 0;
    fprintf(stderr, "the planted bug %s was not found in %" PRIu64 " seeds\n",
            bugs[options.bug].name, count);
    return 1;
}
