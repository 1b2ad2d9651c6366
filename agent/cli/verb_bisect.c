/*
 * repl bisect: the last point at which a command is content. Each point that is
 * asked about is mounted by the program itself, called as "repl mount", and is
 * unmounted before the next. The JSON is docs/formats/bisect.md.
 *
 * SIGINT and SIGTERM are blocked from before the first mount on, and taken only
 * where a child is waited for: so there is no moment at which they leave a
 * mount behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/look.h"
#include "cli/path_words.h"
#include "cli/verbs.h"
#include "recover/words.h"

#define PROGRAM       "/proc/self/exe"
#define PLACE         "{}"
#define SKIP_CODE     125
#define BAD_CODE_LAST 127
#define END_GRACE_S   5 /* from SIGTERM to SIGKILL */
#define MOUNT_WORDS   32u

static struct repl_origin_options bisect_origin;
static const char *bisect_good, *bisect_bad;
static bool bisect_json;

static const struct repl_option origin_rows[] = {
    REPL_ORIGIN_OPTION_ROWS(bisect_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

enum verdict { UNKNOWN, GOOD, BAD, SKIPPED };
static const char *const verdict_names[] = {
    [UNKNOWN] = "unknown", [GOOD] = "good", [BAD] = "bad", [SKIPPED] = "skip"};

struct bisect {
    const char *volume;
    char **command;
    struct repl_point *points; /* from the good to the bad one */
    uint8_t *verdicts;         /* of each */
    size_t count;
    size_t good, bad; /* the newest known good, the oldest known bad one */
    char root[PATH_MAX], mount[PATH_MAX + 8], state[PATH_MAX + 8];
    sigset_t caught, before;
    int signal; /* that asked for an end; 0: none */
    json_t *steps;
};

/* --- children -------------------------------------------------------------------------------- */

/* own_group: a terminal's SIGINT does not reach it. error_fd: its standard error. */
static repl_result child_start(const struct bisect *b, char *const *words, bool own_group,
                               int error_fd, pid_t *child, struct repl_error *err)
{
    posix_spawnattr_t how;
    posix_spawn_file_actions_t files;
    posix_spawnattr_init(&how);
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_setsigmask(&how, &b->before);
    posix_spawnattr_setflags(
        &how, (short)(POSIX_SPAWN_SETSIGMASK | (own_group ? POSIX_SPAWN_SETPGROUP : 0)));
    posix_spawn_file_actions_adddup2(&files, error_fd, STDERR_FILENO);
    /* what this verb prints is data */
    posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
    int code = posix_spawnp(child, words[0], &files, &how, words, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&how);
    if (code != 0)
        return repl_fail_errno(err, REPL_E_REFUSED, code, "cannot run %s", words[0]);
    return REPL_SUCCESS;
}

/* Its status of waitpid(2). A signal to end is handed on, once, and then it is killed. told_to: as
 * for kill(2). */
static int child_wait(struct bisect *b, pid_t child, pid_t told_to, bool interruptible)
{
    struct timespec second = {.tv_sec = 1};
    unsigned waited_s = 0;
    bool told = false;
    int status;
    for (;;) {
        pid_t got = waitpid(child, &status, WNOHANG);
        if (got == child)
            return status;
        int number = sigtimedwait(&b->caught, NULL, &second);
        if (number == SIGINT || number == SIGTERM)
            b->signal = number;
        if (b->signal == 0 || !interruptible)
            continue;
        if (!told)
            kill(told_to, SIGTERM);
        else if (number < 0 && errno == EAGAIN && ++waited_s >= END_GRACE_S)
            kill(told_to, SIGKILL);
        told = true;
    }
}

/* The exit code; what it says is printed only if that is not 0. */
static repl_result program_run(struct bisect *b, char *const *words, bool interruptible, bool quiet,
                               int *code, struct repl_error *err)
{
    char text[4096];
    pid_t child;
    ssize_t got;
    int said = memfd_create("said", MFD_CLOEXEC);
    if (said < 0)
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "cannot make a file in memory");
    repl_result result = child_start(b, words, true, said, &child, err);
    if (repl_ok(result)) {
        int status = child_wait(b, child, -child, interruptible);
        *code = WIFEXITED(status) ? WEXITSTATUS(status) : REPL_EXIT_INTERNAL;
        for (off_t at = 0; *code != 0 && !quiet && (got = pread(said, text, sizeof text, at)) > 0;
             at += got)
            fwrite(text, 1, (size_t)got, stderr);
    }
    close(said);
    return result;
}

/* --- one point ------------------------------------------------------------------------------- */

static repl_result point_mount(struct bisect *b, uint64_t seq, int *code, struct repl_error *err)
{
    char number[24], *words[MOUNT_WORDS];
    char options[MOUNT_WORDS / 4][32];
    size_t count = 0, named = 0;
    snprintf(number, sizeof number, "%" PRIu64, seq);
    const char *const first[] = {PROGRAM, "mount", b->volume, b->mount,
                                 "--at",  number,  "--state", b->state};
    for (size_t i = 0; i < sizeof first / sizeof first[0]; i++)
        words[count++] = (char *)(uintptr_t)first[i];
    for (const struct repl_option *row = origin_rows; row->name != NULL; row++) {
        char *value = *(char **)row->value;
        if (value == NULL)
            continue;
        snprintf(options[named], sizeof options[named], "--%s", row->name);
        words[count++] = options[named++];
        words[count++] = value;
    }
    words[count] = NULL;
    return program_run(b, words, true, false, code, err);
}

/* Also where nothing is mounted. */
static repl_result point_unmount(struct bisect *b, bool mounted, struct repl_error *err)
{
    char verb[] = "umount", lazy[] = "--lazy", program[] = PROGRAM;
    char *words[] = {program, verb, lazy, b->mount, NULL};
    int code = 0;
    REPL_TRY(program_run(b, words, false, !mounted, &code, err));
    if (mounted && code != 0)
        return repl_fail(err, REPL_E_IO, "cannot unmount %s: \"repl umount --lazy %s\"", b->mount,
                         b->mount);
    return REPL_SUCCESS;
}

/* word with the directory in all places. The caller's to free; NULL: out of memory. */
static char *word_fill(const char *word, const char *directory)
{
    char *out = NULL;
    size_t size;
    FILE *stream = open_memstream(&out, &size);
    if (stream == NULL)
        return NULL;
    for (const char *at; (at = strstr(word, PLACE)) != NULL; word = at + strlen(PLACE))
        fprintf(stream, "%.*s%s", (int)(at - word), word, directory);
    fputs(word, stream);
    if (fclose(stream) == 0)
        return out;
    free(out);
    return NULL;
}

static void words_free(char **words)
{
    for (size_t i = 0; words != NULL && words[i] != NULL; i++)
        free(words[i]);
    free(words);
}

static repl_result probe_words(const struct bisect *b, char ***out, struct repl_error *err)
{
    size_t count = 0;
    while (b->command[count] != NULL)
        count++;
    *out = calloc(count + 1, sizeof **out);
    for (size_t i = 0; *out != NULL && i < count; i++) {
        (*out)[i] = word_fill(b->command[i], b->mount);
        if ((*out)[i] == NULL) {
            words_free(*out);
            *out = NULL;
        }
    }
    return *out != NULL ? REPL_SUCCESS : repl_fail(err, REPL_E_NOMEM, "out of memory");
}

static repl_result probe_run(struct bisect *b, char **words, int *code, struct repl_error *err)
{
    pid_t child;
    REPL_TRY(child_start(b, words, false, STDERR_FILENO, &child, err));
    int status = child_wait(b, child, child, true);
    if (b->signal != 0)
        return REPL_SUCCESS;
    if (WIFSIGNALED(status))
        return repl_fail(err, REPL_E_REFUSED,
                         "the command was ended by signal %d, which says nothing of the point",
                         WTERMSIG(status));
    *code = WEXITSTATUS(status);
    if (*code > BAD_CODE_LAST)
        return repl_fail(err, REPL_E_REFUSED,
                         "the command ended with %d, which says nothing of the point: 0 is good, "
                         "125 skips, 1 to 127 is bad",
                         *code);
    return REPL_SUCCESS;
}

/* What the command says of the mounted point; code: its exit code. */
static repl_result probe(struct bisect *b, int *code, struct repl_error *err)
{
    char **words;
    REPL_TRY(probe_words(b, &words, err));
    repl_result result = probe_run(b, words, code, err);
    words_free(words);
    return result;
}

static repl_result point_ask(struct bisect *b, size_t at, int *code, struct repl_error *err)
{
    int mounted = 0;
    struct repl_error ignored;
    REPL_TRY(point_mount(b, b->points[at].seq, &mounted, err));
    repl_result result = REPL_SUCCESS;
    if (mounted == REPL_EXIT_CORRUPT)
        *code = SKIP_CODE;
    else if (mounted != 0 && b->signal == 0)
        result = repl_fail(err, REPL_E_REFUSED, "point %" PRIu64 " cannot be mounted",
                           b->points[at].seq);
    else if (b->signal == 0)
        result = probe(b, code, err);
    if (!repl_ok(result))
        repl_ignore(point_unmount(b, mounted == 0, &ignored));
    else
        result = point_unmount(b, mounted == 0, err);
    return result;
}

/* --- the search ------------------------------------------------------------------------------ */

/* The one nearest to the middle that nothing is known of; SIZE_MAX: there is none. */
static size_t next_of(const struct bisect *b)
{
    size_t middle = b->good + (b->bad - b->good) / 2;
    for (size_t away = 0; away < b->count; away++) {
        if (middle + away < b->bad && middle + away > b->good &&
            b->verdicts[middle + away] == UNKNOWN)
            return middle + away;
        if (middle >= away && middle - away > b->good && b->verdicts[middle - away] == UNKNOWN)
            return middle - away;
    }
    return SIZE_MAX;
}

static repl_result step(struct bisect *b, size_t at, struct repl_error *err)
{
    int code = 0;
    char time[REPL_WORDS_SIZE];
    REPL_TRY(point_ask(b, at, &code, err));
    if (b->signal != 0)
        return repl_fail(err, REPL_E_REFUSED, "ended by signal %d; nothing is left mounted",
                         b->signal);
    enum verdict verdict = code == 0 ? GOOD : code == SKIP_CODE ? SKIPPED : BAD;
    b->verdicts[at] = (uint8_t)verdict;
    if (verdict == GOOD)
        b->good = at;
    else if (verdict == BAD)
        b->bad = at;
    repl_words_local(b->points[at].end_ns, time);
    fprintf(stderr, "point %" PRIu64 " of %s: %s; %zu points lie between good and bad\n",
            b->points[at].seq, time, verdict_names[verdict], b->bad - b->good - 1);
    json_t *said = json_pack("{s:o, s:s, s:i}", "point", repl_look_json_of(&b->points[at]),
                             "verdict", verdict_names[verdict], "exit_code", code);
    if (json_array_append_new(b->steps, said) != 0)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    return REPL_SUCCESS;
}

static void point_text(const char *what, const struct repl_point *point)
{
    char local[REPL_WORDS_SIZE];
    repl_words_local(point->end_ns, local);
    printf("%-10s %10" PRIu64 "  %-29s  %s\n", what, point->seq, local,
           repl_words_consistency(point->consistency));
}

static repl_result print(const struct bisect *b, struct repl_error *err)
{
    const struct repl_point *good = &b->points[b->good], *bad = &b->points[b->bad];
    size_t skipped = b->bad - b->good - 1;
    if (bisect_json) {
        json_t *json =
            json_pack("{s:i, s:s, s:O, s:o, s:o, s:I}", "schema", 1, "volume", b->volume, "steps",
                      b->steps, "last_good", repl_look_json_of(good), "first_bad",
                      repl_look_json_of(bad), "skipped_between", (json_int_t)skipped);
        if (json == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory");
        json_dumpf(json, stdout, JSON_COMPACT);
        json_decref(json);
        putchar('\n');
    } else {
        point_text("last good", good);
        point_text("first bad", bad);
    }
    if (skipped > 0)
        fprintf(stderr, "%zu points in between were skipped: each may be good or bad\n", skipped);
    fprintf(stderr, "\"repl restore %s --at %" PRIu64 " --to TARGET\" restores the last good one\n",
            b->volume, good->seq);
    return repl_output_end(err);
}

static repl_result search(struct bisect *b, struct repl_error *err)
{
    for (size_t at; (at = next_of(b)) != SIZE_MAX;)
        REPL_TRY(step(b, at, err));
    return print(b, err);
}

/* --- the verb -------------------------------------------------------------------------------- */

static repl_result directories_make(struct bisect *b, struct repl_error *err)
{
    const char *in = getenv("TMPDIR");
    snprintf(b->root, sizeof b->root, "%s/repl-bisect-XXXXXX",
             in != NULL && in[0] != '\0' ? in : "/var/tmp");
    if (mkdtemp(b->root) == NULL) {
        int code = errno;
        b->root[0] = '\0';
        return repl_fail_errno(err, REPL_E_IO, code,
                               "cannot make a directory in TMPDIR or /var/tmp");
    }
    snprintf(b->mount, sizeof b->mount, "%s/mount", b->root);
    snprintf(b->state, sizeof b->state, "%s/state", b->root);
    if (mkdir(b->mount, 0700) != 0 || mkdir(b->state, 0700) != 0 ||
        setenv("REPL_MOUNT", b->mount, 1) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", b->root);
    return REPL_SUCCESS;
}

static void directories_remove(const struct bisect *b)
{
    if (b->root[0] == '\0')
        return;
    rmdir(b->mount);
    rmdir(b->state);
    if (rmdir(b->root) != 0)
        fprintf(stderr, "repl bisect: %s is left behind: %s\n", b->root, strerror(errno));
}

/* What lies between the two; the history is not needed any more behind this. */
static repl_result points_read(struct bisect *b, struct repl_error *err)
{
    struct repl_history *history = NULL;
    size_t good = 0, bad = 0;
    repl_result result = repl_look_open("bisect", &bisect_origin, b->volume, &history, err);
    if (repl_ok(result))
        result = repl_look_point(history, "--good", bisect_good, &good, err);
    if (repl_ok(result))
        result = repl_look_point(history, "--bad", bisect_bad, &bad, err);
    if (repl_ok(result) && good >= bad)
        result = repl_fail(err, REPL_E_USAGE, "the point of --good has to be older than --bad's");
    if (repl_ok(result)) {
        b->count = bad - good + 1;
        b->bad = b->count - 1;
        b->points = calloc(b->count, sizeof *b->points);
        b->verdicts = calloc(b->count, 1);
        b->steps = json_array();
        if (b->points == NULL || b->verdicts == NULL || b->steps == NULL)
            result = repl_fail(err, REPL_E_NOMEM, "out of memory");
    }
    for (size_t i = 0; repl_ok(result) && i < b->count; i++)
        b->points[i] = repl_history_catalogue(history)->points[good + i].point;
    repl_history_close(history);
    return result;
}

static repl_result bisect(struct bisect *b, struct repl_error *err)
{
    if (bisect_good == NULL || bisect_bad == NULL)
        return repl_fail(err, REPL_E_USAGE, "--good and --bad are both needed");
    REPL_TRY(points_read(b, err));
    sigemptyset(&b->caught);
    sigaddset(&b->caught, SIGINT);
    sigaddset(&b->caught, SIGTERM);
    sigaddset(&b->caught, SIGCHLD);
    sigprocmask(SIG_BLOCK, &b->caught, &b->before);
    repl_result result = directories_make(b, err);
    if (repl_ok(result))
        result = search(b, err);
    directories_remove(b);
    return result;
}

static int bisect_run(int argc, char **argv)
{
    struct repl_error err;
    struct bisect b = {.volume = argv[0], .command = argv + 1};
    (void)argc;
    int code = repl_ok(bisect(&b, &err)) ? REPL_EXIT_OK : repl_verb_fail("bisect", &err);
    if (code == REPL_EXIT_OK && b.bad - b.good > 1)
        code = REPL_EXIT_WARNING;
    json_decref(b.steps);
    free(b.points);
    free(b.verdicts);
    return code;
}

static const struct repl_option bisect_options[] = {
    {"good", "WHEN", REPL_OPTION_TEXT, &bisect_good,
     "A point that is known to be good: its number, its name, or a time, as for \"repl restore\"."},
    {"bad", "WHEN", REPL_OPTION_TEXT, &bisect_bad, "A newer one that is known to be bad."},
    {"json", NULL, REPL_OPTION_FLAG, &bisect_json,
     "Prints one JSON object, docs/formats/bisect.md."},
    REPL_ORIGIN_OPTION_ROWS(bisect_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_bisect = {
    .name = "bisect",
    .synopsis = "VOLUME --good WHEN --bad WHEN [--json] -- COMMAND [ARGUMENT...]",
    .summary = "Finds the last good point of a volume by a command that is run on mounted points.",
    .description =
        "Points between the two are mounted read-only, one at a time, each in the middle of what "
        "is left, and COMMAND is run. It finds what \"repl mount\" mounts in the directory that "
        "the environment's REPL_MOUNT names, and that takes the place of each {} in its "
        "arguments; its own directory is the one that the verb was called in. Its exit code says "
        "what the point is: 0 good, 125 cannot be told, so that another one is tried, any other up "
        "to 127 bad. With a higher one, or by a signal, the search ends. A point that is damaged "
        "is passed over as with 125. What it prints goes to standard error.\n"
        "\n"
        "The last good and the first bad point are printed with their times and consistency. The "
        "exit code is 1 where points in between were passed over. The two points that are given "
        "are believed, not mounted.\n"
        "\n"
        "SIGINT and SIGTERM end the command and the search, and nothing stays mounted. The "
        "directory is made in TMPDIR, or /var/tmp.",
    .options = bisect_options,
    .positional_min = 2,
    .positional_max = INT_MAX,
    .run = bisect_run,
};
