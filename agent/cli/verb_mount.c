/*
 * repl mount: a process is made for it at once, before there is any connection
 * or thread. Everything that can fail is done in there before anything is
 * mounted; the process that was called hands its exit code on, or, once it is
 * mounted, success, and the other one stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <syslog.h>
#include <unistd.h>

#include "cli/look.h"
#include "cli/verbs.h"
#include "mount/mount.h"
#include "mount/mounted.h"
#include "recover/words.h"

static struct repl_origin_options mount_origin;
static const char *mount_at = "latest";
static const char *mount_state = "/var/lib/repl/restore";
static bool mount_foreground;

/* Lines of text, of which the caller frees the memory. */
static char *about_make(struct repl_history *history, const struct repl_points_entry *entry)
{
    char local[REPL_WORDS_SIZE], utc[REPL_WORDS_SIZE], *text;
    const struct repl_origin *origin = repl_history_origin(history);
    repl_words_local(entry->point.end_ns, local);
    repl_words_utc(entry->point.end_ns, utc);
    if (asprintf(&text,
                 "volume       %s\n"
                 "point        %llu\n"
                 "time         %s\n"
                 "time (UTC)   %s\n"
                 "consistency  %s\n"
                 "cut          %s\n"
                 "size         %llu bytes\n"
                 "from         %s\n",
                 origin->volume, (unsigned long long)entry->point.seq, local, utc,
                 repl_words_consistency(entry->point.consistency), repl_words_cut(entry->point.cut),
                 (unsigned long long)entry->volume_size, origin->label) < 0)
        return NULL;
    return text;
}

/* The process that was called is told that it is mounted, and nothing holds on to its terminal. */
static void go_background(int told)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    uint8_t code = REPL_EXIT_OK;
    setsid();
    if (chdir("/") != 0)
        syslog(LOG_WARNING, "cannot change to /: %s", strerror(errno));
    for (int fd = 0; null >= 0 && fd <= 2; fd++)
        dup2(null, fd);
    if (write(told, &code, 1) != 1)
        syslog(LOG_WARNING, "cannot say that it is mounted: %s", strerror(errno));
    close(told);
}

static void print_fault(void *context, const char *path, const struct repl_error *err)
{
    (void)context;
    fprintf(stderr, "repl mount: %s is left out: %s\n", path, err->text);
}

static repl_result serve(const struct repl_mount_options *options, int told, struct repl_error *err)
{
    struct repl_mount *mount = NULL;
    bool background = told >= 0;
    REPL_TRY(repl_mount_begin(options, &mount, err));
    fprintf(stderr, "mounted on %s; \"repl umount %s\" unmounts it\n", options->directory,
            options->directory);
    if (background)
        go_background(told);
    repl_result result = repl_mount_serve(mount, background, err);
    repl_mount_end(mount);
    return result;
}

static repl_result serve_point(struct repl_history *history, size_t point, const char *directory,
                               int told, struct repl_error *err)
{
    struct repl_point_reader *reader = NULL;
    enum repl_volume_kind kind;
    const struct repl_points_entry *entry = &repl_history_catalogue(history)->points[point];
    REPL_TRY(repl_point_kind(history, point, &kind, err));
    char *about = about_make(history, entry);
    if (about == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    const struct repl_point_options options = {
        .history = history, .point = point, .state = mount_state, .fault = print_fault};
    repl_result result = repl_point_open(&options, &reader, err);
    if (repl_ok(result))
        result = serve(&(struct repl_mount_options){.history = history,
                                                    .reader = reader,
                                                    .point = entry,
                                                    .kind = kind,
                                                    .about = about,
                                                    .directory = directory},
                       told, err);
    repl_point_close(reader);
    free(about);
    return result;
}

/* told: where success is written to once it is mounted; -1: it stays in the foreground. */
static int mount_and_serve(const char *volume, const char *directory, int told)
{
    struct repl_error err;
    struct repl_history *history = NULL;
    size_t point = 0;
    char resolved[PATH_MAX];
    repl_result result = repl_mounted_path(directory, resolved, &err);
    if (repl_ok(result))
        result = repl_mount_check(resolved, &err);
    if (repl_ok(result))
        result = repl_look_open("mount", &mount_origin, volume, &history, &err);
    if (repl_ok(result)) {
        repl_history_origin(history)->impatient = true;
        result = repl_look_point(history, "--at", mount_at, &point, &err);
    }
    if (repl_ok(result))
        result = serve_point(history, point, resolved, told, &err);
    repl_history_close(history);
    return repl_ok(result) ? REPL_EXIT_OK : repl_verb_fail("mount", &err);
}

/* The exit code of the child, or what it says while it goes on. */
static int child_wait(pid_t child, int told)
{
    uint8_t code;
    ssize_t got;
    int status;
    do
        got = read(told, &code, 1);
    while (got < 0 && errno == EINTR);
    if (got == 1)
        return code;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            return REPL_EXIT_INTERNAL;
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status);
    fprintf(stderr, "repl mount: its process was ended by signal %d, nothing is mounted\n",
            WTERMSIG(status));
    return REPL_EXIT_INTERNAL;
}

static int mount_run(int argc, char **argv)
{
    struct repl_error err;
    int pipe_fds[2];
    (void)argc;
    if (mount_foreground)
        return mount_and_serve(argv[0], argv[1], -1);
    if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
        repl_ignore(repl_fail_errno(&err, REPL_E_IO, errno, "cannot make a pipe"));
        return repl_verb_fail("mount", &err);
    }
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        repl_ignore(repl_fail_errno(&err, REPL_E_NOMEM, errno, "cannot make a process"));
        return repl_verb_fail("mount", &err);
    }
    if (child == 0) {
        close(pipe_fds[0]);
        openlog("repl-mount", LOG_PID, LOG_DAEMON);
        return mount_and_serve(argv[0], argv[1], pipe_fds[1]);
    }
    close(pipe_fds[1]);
    int code = child_wait(child, pipe_fds[0]);
    close(pipe_fds[0]);
    return code;
}

static const struct repl_option mount_options[] = {
    {"at", "WHEN", REPL_OPTION_TEXT, &mount_at,
     "Which point: its number, its name, or a time, as for \"repl restore\". Without --at it is "
     "the latest point."},
    {"foreground", NULL, REPL_OPTION_FLAG, &mount_foreground,
     "Does not go to the background: it ends when it is unmounted, and SIGINT or SIGTERM unmounts "
     "it."},
    {"state", "DIR", REPL_OPTION_TEXT, &mount_state,
     "Of a tree: where a temporary file goes while it is mounted, some 400 bytes for each of its "
     "files; /var/lib/repl/restore without it."},
    REPL_ORIGIN_OPTION_ROWS(mount_origin),
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_mount = {
    .name = "mount",
    .synopsis = "VOLUME [--at WHEN] DIR",
    .summary = "Mounts a volume as it was at a point, read-only, without restoring it.",
    .description =
        "A tree appears in DIR as it was: names, modes, owners, times of change, links, attributes "
        "and holes. Its devices cannot be opened, and set-user-ID bits have no effect.\n"
        "\n"
        "Of a block volume DIR has the file VOLUME.img, which is the volume at the point, and "
        "VOLUME.txt, "
        "which says which point that is. Only what is read is fetched. The image can be mounted in "
        "turn, \"mount -o ro,loop\"; a filesystem whose journal was not empty needs to be told not "
        "to replay it, \"noload\" for ext4 and \"norecovery\" for xfs.\n"
        "\n"
        "The history is looked at before anything is mounted: what is wrong is said by the command "
        "and its exit code. Later a read that cannot be answered, as the site is away for more "
        "than about ten seconds, say, gives an input/output error, and the reason goes to the "
        "system's log; when the site is back, reads work again. The process can be ended at any "
        "time: SIGTERM unmounts it, and after SIGKILL \"repl umount\" removes what is left. What "
        "retention gives up while it is mounted can no longer be read.\n"
        "\n"
        "The mount stays at its point; for a newer one, mount again.",
    .options = mount_options,
    .positional_min = 2,
    .positional_max = 2,
    .run = mount_run,
};
