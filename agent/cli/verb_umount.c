/*
 * repl umount: also of a mount whose process is gone. So the mount is found in
 * the list of mounts, and nothing is asked of it.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/verbs.h"
#include "mount/mounted.h"

#define USERS_TOLD 10u

static bool umount_lazy;

static repl_result mount_check(const char *path, struct repl_error *err)
{
    char type[REPL_MOUNTED_TYPE_SIZE];
    REPL_TRY(repl_mounted_type(path, type, err));
    if (strcmp(type, REPL_MOUNTED_TYPE) == 0)
        return REPL_SUCCESS;
    if (type[0] != '\0')
        return repl_fail(err, REPL_E_REFUSED,
                         "what is mounted on %s is %s, and not by \"repl mount\": \"umount %s\" "
                         "unmounts it",
                         path, type, path);
    return repl_fail(err, REPL_E_REFUSED,
                     "nothing is mounted on %s: \"findmnt -t fuse.repl\" lists what is", path);
}

/* --- who uses it ----------------------------------------------------------------------------- */

static bool is_below(const char *path, const char *directory)
{
    size_t size = strlen(directory);
    return strncmp(path, directory, size) == 0 && (path[size] == '/' || path[size] == '\0');
}

static bool link_is_below(const char *link, const char *directory)
{
    char target[PATH_MAX];
    ssize_t size = readlink(link, target, sizeof target - 1);
    if (size < 0)
        return false;
    target[size] = '\0';
    return is_below(target, directory);
}

static bool process_uses(const char *pid, const char *directory)
{
    static const char *const links[] = {"cwd", "root", "exe"};
    char path[600];
    bool uses = false;
    for (unsigned i = 0; i < 3 && !uses; i++) {
        snprintf(path, sizeof path, "/proc/%s/%s", pid, links[i]);
        uses = link_is_below(path, directory);
    }
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    DIR *fds = uses ? NULL : opendir(path);
    for (struct dirent *entry; fds != NULL && !uses && (entry = readdir(fds)) != NULL;) {
        snprintf(path, sizeof path, "/proc/%s/fd/%s", pid, entry->d_name);
        uses = link_is_below(path, directory);
    }
    if (fds != NULL)
        closedir(fds);
    return uses;
}

static bool first_line(const char *path, char *out, int size)
{
    FILE *file = fopen(path, "re");
    bool got = file != NULL && fgets(out, size, file) != NULL;
    if (file != NULL)
        fclose(file);
    out[got ? strcspn(out, "\n") : 0] = '\0';
    return got;
}

static unsigned loops_print(const char *directory)
{
    unsigned count = 0;
    DIR *blocks = opendir("/sys/block");
    for (struct dirent *entry; blocks != NULL && (entry = readdir(blocks)) != NULL;) {
        char path[600], backing[PATH_MAX];
        snprintf(path, sizeof path, "/sys/block/%s/loop/backing_file", entry->d_name);
        if (strncmp(entry->d_name, "loop", 4) != 0 || !first_line(path, backing, sizeof backing) ||
            !is_below(backing, directory))
            continue;
        count++;
        fprintf(stderr, "  /dev/%s: unmount what lies on it, then \"losetup -d /dev/%s\"\n",
                entry->d_name, entry->d_name);
    }
    if (blocks != NULL)
        closedir(blocks);
    return count;
}

static void users_print(const char *directory)
{
    unsigned count = loops_print(directory);
    DIR *processes = opendir("/proc");
    for (struct dirent *entry; processes != NULL && (entry = readdir(processes)) != NULL;) {
        char path[600], name[64];
        if (!isdigit(entry->d_name[0]) || !process_uses(entry->d_name, directory) ||
            ++count > USERS_TOLD)
            continue;
        snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
        first_line(path, name, sizeof name);
        fprintf(stderr, "  process %s (%s)\n", entry->d_name, name);
    }
    if (processes != NULL)
        closedir(processes);
    if (count > USERS_TOLD)
        fprintf(stderr, "  and %u more\n", count - USERS_TOLD);
}

/* --- doing it -------------------------------------------------------------------------------- */

/* For who is not root the helper of FUSE does it. */
static int helper_run(const char *path)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        if (umount_lazy)
            execlp("fusermount3", "fusermount3", "-u", "-q", "-z", "--", path, (char *)NULL);
        else
            execlp("fusermount3", "fusermount3", "-u", "-q", "--", path, (char *)NULL);
        _exit(127);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return errno;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return EPERM;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EBUSY;
}

static repl_result unmount(const char *given, struct repl_error *err)
{
    char path[PATH_MAX];
    REPL_TRY(repl_mounted_path(given, path, err));
    REPL_TRY(mount_check(path, err));
    int failed = umount2(path, UMOUNT_NOFOLLOW | (umount_lazy ? MNT_DETACH : 0)) == 0 ? 0 : errno;
    if (failed == EPERM)
        failed = helper_run(path);
    if (failed == 0)
        return REPL_SUCCESS;
    if (failed != EBUSY)
        return repl_fail_errno(err, REPL_E_REFUSED, failed, "cannot unmount %s", path);
    fprintf(stderr, "%s is in use by:\n", path);
    users_print(path);
    return repl_fail(err, REPL_E_LOCKED,
                     "%s is in use, and stays mounted: end what is named above, or give --lazy, "
                     "which takes it away from under it",
                     path);
}

static int umount_run(int argc, char **argv)
{
    struct repl_error err;
    (void)argc;
    return repl_ok(unmount(argv[0], &err)) ? REPL_EXIT_OK : repl_verb_fail("umount", &err);
}

static const struct repl_option umount_options[] = {
    {"lazy", NULL, REPL_OPTION_FLAG, &umount_lazy,
     "Also when it is in use: the mount is gone from its directory at once, and for good when "
     "nobody uses it any more."},
    {NULL, NULL, REPL_OPTION_FLAG, NULL, NULL},
};

const struct repl_verb repl_verb_umount = {
    .name = "umount",
    .synopsis = "DIR [--lazy]",
    .summary = "Unmounts what \"repl mount\" has mounted.",
    .description = "The process that served it ends. It also removes what is left of a mount whose "
                   "process was killed. If it is in use, who uses it is said, and the exit code is "
                   "3.",
    .options = umount_options,
    .positional_min = 1,
    .positional_max = 1,
    .run = umount_run,
};
