/*
 * The session: mounting, serving by several threads, and its end.
 *
 * libfuse's handlers of signals only ask its loop to end, and the loop waits
 * for its threads; one of these may wait for a site. A watcher sees that the
 * loop is to end and makes the origin give up.
 */
#include "mount/mount.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "mount/mount_internal.h"
#include "mount/mounted.h"

#define TELL_EVERY_S 10
#define WATCH_NS     100000000

/* --- what is told ---------------------------------------------------------------------------- */

static _Thread_local char fuse_said[256]; /* the last line of the library's */

__attribute__((format(printf, 2, 0))) static void fuse_log_take(enum fuse_log_level level,
                                                                const char *format, va_list args)
{
    if (level > FUSE_LOG_ERR)
        return;
    vsnprintf(fuse_said, sizeof fuse_said, format, args);
    fuse_said[strcspn(fuse_said, "\n")] = '\0';
}

void repl_mount_reply_failed(struct repl_mount *mount, fuse_req_t request,
                             const struct repl_error *err)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    fuse_reply_err(request, EIO);
    pthread_mutex_lock(&mount->mutex);
    bool tell = mount->told_s == 0 || now.tv_sec - mount->told_s >= TELL_EVERY_S;
    unsigned long long untold = mount->untold;
    mount->untold = tell ? 0 : untold + 1;
    if (tell)
        mount->told_s = now.tv_sec;
    pthread_mutex_unlock(&mount->mutex);
    const char *directory = mount->options.directory;
    if (!tell)
        return;
    if (atomic_load(&mount->quiet))
        syslog(LOG_ERR, "%s: a read failed (and %llu before it): %s", directory, untold, err->text);
    else
        fprintf(stderr, "repl mount: %s: a read failed (and %llu before it): %s\n", directory,
                untold, err->text);
}

/* --- mounting -------------------------------------------------------------------------------- */

repl_result repl_mount_check(const char *directory, struct repl_error *err)
{
    struct stat status;
    char type[REPL_MOUNTED_TYPE_SIZE];
    if (access("/dev/fuse", F_OK) != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "there is no /dev/fuse: \"modprobe fuse\" loads what is needed, or use "
                         "\"repl restore\"");
    REPL_TRY(repl_mounted_type(directory, type, err));
    if (strcmp(type, REPL_MOUNTED_TYPE) == 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s has a mount of \"repl mount\" already: \"repl umount %s\" removes it",
                         directory, directory);
    if (stat(directory, &status) == 0)
        return S_ISDIR(status.st_mode)
                   ? REPL_SUCCESS
                   : repl_fail(err, REPL_E_REFUSED, "%s is no directory: name one to mount on",
                               directory);
    return repl_fail_errno(err, REPL_E_REFUSED, errno, "cannot mount on %s", directory);
}

static struct fuse_session *session_new(struct repl_mount *mount, struct repl_error *err)
{
    char options[512];
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    snprintf(options, sizeof options,
             "ro,nodev,nosuid,subtype=repl,fsname=%s@%llu,default_permissions%s",
             repl_history_origin(mount->options.history)->volume,
             (unsigned long long)mount->options.point->point.seq,
             geteuid() == 0 ? ",allow_other" : "");
    const struct fuse_lowlevel_ops *ops =
        mount->options.kind == REPL_VOLUME_TREE ? &repl_mount_tree_ops : &repl_mount_image_ops;
    struct fuse_session *session = NULL;
    fuse_said[0] = '\0';
    if (fuse_opt_add_arg(&args, "repl") == 0 && fuse_opt_add_arg(&args, "-o") == 0 &&
        fuse_opt_add_arg(&args, options) == 0)
        session = fuse_session_new(&args, ops, sizeof *ops, mount);
    fuse_opt_free_args(&args);
    if (session == NULL)
        repl_ignore(repl_fail(err, REPL_E_INTERNAL, "cannot make a session of FUSE: %s",
                              fuse_said[0] != '\0' ? fuse_said : "out of memory"));
    return session;
}

repl_result repl_mount_begin(const struct repl_mount_options *options, struct repl_mount **out,
                             struct repl_error *err)
{
    struct repl_mount *mount = calloc(1, sizeof *mount);
    if (mount == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a mount");
    mount->options = *options;
    pthread_mutex_init(&mount->mutex, NULL);
    fuse_set_log_func(fuse_log_take);
    mount->session = session_new(mount, err);
    repl_result result = REPL_SUCCESS;
    if (mount->session == NULL)
        result = (repl_result){err != NULL ? err->code : REPL_E_INTERNAL};
    else if (fuse_session_mount(mount->session, options->directory) != 0)
        result = repl_fail(err, REPL_E_REFUSED, "cannot mount on %s: %s", options->directory,
                           fuse_said[0] != '\0' ? fuse_said : "the kernel refused it");
    else
        mount->mounted = true;
    if (!repl_ok(result)) {
        repl_mount_end(mount);
        return result;
    }
    *out = mount;
    return REPL_SUCCESS;
}

void repl_mount_end(struct repl_mount *mount)
{
    if (mount == NULL)
        return;
    if (mount->mounted)
        fuse_session_unmount(mount->session);
    if (mount->session != NULL)
        fuse_session_destroy(mount->session);
    pthread_mutex_destroy(&mount->mutex);
    free(mount);
}

/* --- serving --------------------------------------------------------------------------------- */

static void *watch(void *context)
{
    struct repl_mount *mount = context;
    struct repl_origin *origin = repl_history_origin(mount->options.history);
    while (!fuse_session_exited(mount->session) && !atomic_load(&mount->ended))
        nanosleep(&(struct timespec){.tv_nsec = WATCH_NS}, NULL);
    if (origin->ops->stop != NULL)
        origin->ops->stop(origin);
    return NULL;
}

repl_result repl_mount_serve(struct repl_mount *mount, bool quiet, struct repl_error *err)
{
    pthread_t watcher;
    atomic_store(&mount->quiet, quiet);
    struct fuse_loop_config *config = fuse_loop_cfg_create();
    if (config == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a mount");
    fuse_loop_cfg_set_max_threads(config, 2 * REPL_POINT_SEATS);
    fuse_loop_cfg_set_idle_threads(config, REPL_POINT_SEATS);
    if (fuse_set_signal_handlers(mount->session) != 0 ||
        pthread_create(&watcher, NULL, watch, mount) != 0) {
        fuse_loop_cfg_destroy(config);
        return repl_fail(err, REPL_E_INTERNAL, "cannot start to serve the mount");
    }
    int failed = fuse_session_loop_mt(mount->session, config);
    atomic_store(&mount->ended, true);
    pthread_join(watcher, NULL);
    fuse_remove_signal_handlers(mount->session);
    fuse_loop_cfg_destroy(config);
    if (failed < 0)
        return repl_fail_errno(err, REPL_E_IO, -failed, "the kernel ended the mount on %s",
                               mount->options.directory);
    return REPL_SUCCESS;
}
