#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recover/tree_internal.h"

/* --- before anything is changed -------------------------------------------------------------- */

static repl_result names_check(struct repl_tree_worker *worker, uint64_t directory,
                               struct repl_error *err)
{
    struct repl_tree_key key = {.object = directory, .type = REPL_RECORD_NAME};
    int fd;
    REPL_TRY(repl_tree_dirs_get(&worker->dirs, directory, &fd, err));
    for (bool found = fd >= 0; found;) {
        struct repl_record record;
        struct repl_tree_item item = {.directory = fd};
        REPL_TRY(repl_tree_next(worker->plan, &key, &record, &found, err));
        if (!found)
            break;
        memcpy(item.name, record.name, record.name_size);
        item.exists = fstatat(fd, item.name, &item.status, AT_SYMLINK_NOFOLLOW) == 0;
        if (!item.exists)
            continue;
        bool known;
        REPL_TRY(repl_tree_node(worker->plan, record.child, &item.node, &known, err));
        const struct repl_tree_place place = {directory, record.name, record.name_size};
        if (known)
            REPL_TRY(repl_tree_go_on(worker, &place, repl_tree_kind_check(worker->run, &item, err),
                                     err));
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_check_kinds(struct repl_tree_worker *worker, struct repl_error *err)
{
    uint64_t faults = worker->run->result->faults;
    for (uint64_t number = 0;; number++) {
        uint64_t directory;
        bool found;
        if (repl_tree_stopped(worker->run))
            return repl_fail(err, REPL_E_RETRY, "interrupted");
        REPL_TRY(repl_tree_directory(worker->plan, number, &directory, &found, err));
        if (!found)
            break;
        REPL_TRY(names_check(worker, directory, err));
    }
    faults = worker->run->result->faults - faults;
    if (faults == 0)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_REFUSED,
                     "%s has %llu things of another kind than the point: nothing was changed",
                     worker->run->options->to, (unsigned long long)faults);
}

/* --- making them ----------------------------------------------------------------------------- */

/* For one who is not root, a directory of his own may be closed. */
static repl_result directory_open_up(const struct repl_tree_run *run,
                                     const struct repl_tree_item *item, struct repl_error *err)
{
    if (!run->privileged && (item->status.st_mode & S_IRWXU) != S_IRWXU &&
        fchmodat(item->directory, item->name, (item->status.st_mode & 07777) | S_IRWXU,
                 AT_SYMLINK_NOFOLLOW) != 0)
        return repl_tree_fail(err, errno, "cannot open the directory");
    int fd = repl_tree_openat(item->directory, item->name, O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return repl_tree_fail(err, errno, "cannot open the directory");
    close(fd);
    repl_tree_unlock(item->directory, item->name); /* if not, what is to change in it says so */
    return REPL_SUCCESS;
}

static repl_result directory_make(struct repl_tree_worker *worker,
                                  const struct repl_tree_item *item, struct repl_error *err)
{
    bool dry = worker->run->options->dry_run;
    if (item->directory < 0 && !dry) {
        repl_tree_is_lost(worker);
        return REPL_SUCCESS;
    }
    REPL_TRY(repl_tree_kind_check(worker->run, item, err));
    if (item->exists && S_ISDIR(item->status.st_mode))
        return dry ? REPL_SUCCESS : directory_open_up(worker->run, item, err);
    if (!dry && item->exists)
        REPL_TRY(repl_tree_remove(item->directory, item->name, err));
    if (!dry && mkdirat(item->directory, item->name, 0700) != 0)
        return repl_tree_fail(err, errno, "cannot make the directory");
    repl_tree_changes(worker, &item->place, item->exists ? REPL_TREE_CONTENT : REPL_TREE_MAKE);
    return REPL_SUCCESS;
}

repl_result repl_tree_make_directories(struct repl_tree_worker *worker, struct repl_error *err)
{
    if (worker->run->totals.directories > 0 && !worker->run->options->dry_run)
        repl_tree_unlock(worker->run->top_fd, ".");
    for (uint64_t number = 1;; number++) { /* the first is the one that is restored to */
        struct repl_tree_item item;
        struct repl_tree_place place;
        uint64_t object;
        bool found;
        if (repl_tree_stopped(worker->run))
            return repl_fail(err, REPL_E_RETRY, "interrupted");
        REPL_TRY(repl_tree_directory(worker->plan, number, &object, &found, err));
        if (!found)
            return REPL_SUCCESS;
        REPL_TRY(repl_tree_where(worker->plan, object, &place, &found, err));
        repl_result result = repl_tree_item_find(worker, object, &place, &item, err);
        if (repl_ok(result))
            result = directory_make(worker, &item, err);
        REPL_TRY(repl_tree_go_on(worker, &place, result, err));
    }
}

/* --- the end of them ------------------------------------------------------------------------- */

static repl_result entry_check(struct repl_tree_worker *worker, uint64_t directory, int fd,
                               const char *name, struct repl_error *err)
{
    uint64_t child;
    const struct repl_tree_place place = {directory, name, (uint32_t)strlen(name)};
    REPL_TRY(repl_tree_child(worker->plan, directory, name, place.name_size, &child, err));
    if (child != 0)
        return REPL_SUCCESS;
    repl_result result = REPL_SUCCESS;
    if (!worker->run->options->dry_run)
        result = repl_tree_remove(fd, name, err);
    if (repl_ok(result))
        repl_tree_changes(worker, &place, REPL_TREE_REMOVE);
    return repl_tree_go_on(worker, &place, result, err);
}

static repl_result extras_remove(struct repl_tree_worker *worker, uint64_t directory, int fd,
                                 struct repl_error *err)
{
    int own = repl_tree_openat(fd, ".", O_RDONLY | O_DIRECTORY); /* with a position of its own */
    DIR *stream = own >= 0 ? fdopendir(own) : NULL;
    if (stream == NULL) {
        int os_errno = errno;
        if (own >= 0)
            close(own);
        return repl_tree_fail(err, os_errno, "cannot read the directory");
    }
    repl_result result = REPL_SUCCESS;
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(stream)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            result = entry_check(worker, directory, fd, entry->d_name, err);
        if (repl_ok(result) && repl_tree_stopped(worker->run))
            result = repl_fail(err, REPL_E_RETRY, "interrupted");
    }
    closedir(stream);
    return result;
}

static repl_result directory_finish(struct repl_tree_worker *worker,
                                    const struct repl_tree_item *item, struct repl_error *err)
{
    bool changed = false;
    if (worker->run->options->exact)
        REPL_TRY(extras_remove(worker, item->object, item->directory, err));
    REPL_TRY(repl_tree_meta_apply(&worker->meta, item, ".", item->directory, true, &changed, err));
    if (changed)
        repl_tree_changes(worker, &item->place, REPL_TREE_METADATA);
    return REPL_SUCCESS;
}

repl_result repl_tree_finish_directories(struct repl_tree_worker *worker, struct repl_error *err)
{
    for (uint64_t number = worker->run->totals.directories; number-- > 0;) {
        struct repl_tree_item item = {.place = {.parent = REPL_TREE_TARGET}};
        bool found;
        if (repl_tree_stopped(worker->run))
            return repl_fail(err, REPL_E_RETRY, "interrupted");
        REPL_TRY(repl_tree_directory(worker->plan, number, &item.object, &found, err));
        REPL_TRY(repl_tree_node(worker->plan, item.object, &item.node, &found, err));
        REPL_TRY(repl_tree_where(worker->plan, item.object, &item.place, &found, err));
        REPL_TRY(repl_tree_dirs_get(&worker->dirs, item.object, &item.directory, err));
        if (item.directory < 0) /* it was told why */
            continue;
        REPL_TRY(repl_tree_go_on(worker, &item.place, directory_finish(worker, &item, err), err));
    }
    return REPL_SUCCESS;
}
