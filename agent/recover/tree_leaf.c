/*
 * What is there may be used, as it is or changed, only if all its names are
 * those of this object: another name that leads to it would be changed along,
 * or would lead to one file where the point has two. Else it is made anew. Of a
 * part of a tree, names outside of that part are not known; there an equal file
 * is taken for the one that is meant.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "recover/tree_internal.h"

mode_t repl_tree_type(enum repl_node_kind kind)
{
    static const mode_t types[] = {
        [REPL_NODE_FILE] = S_IFREG,      [REPL_NODE_DIRECTORY] = S_IFDIR,
        [REPL_NODE_SYMLINK] = S_IFLNK,   [REPL_NODE_FIFO] = S_IFIFO,
        [REPL_NODE_CHARACTER] = S_IFCHR, [REPL_NODE_BLOCK] = S_IFBLK,
        [REPL_NODE_SOCKET] = S_IFSOCK,
    };
    return types[kind];
}

repl_result repl_tree_item_find(struct repl_tree_worker *worker, uint64_t object,
                                const struct repl_tree_place *place, struct repl_tree_item *item,
                                struct repl_error *err)
{
    bool found;
    *item = (struct repl_tree_item){.object = object, .place = *place, .directory = -1};
    REPL_TRY(repl_tree_node(worker->plan, object, &item->node, &found, err));
    if (!found)
        return repl_fail(err, REPL_E_INTERNAL, "object %llu is not in the plan",
                         (unsigned long long)object);
    memcpy(item->name, place->name, place->name_size);
    REPL_TRY(repl_tree_dirs_get(&worker->dirs, place->parent, &item->directory, err));
    if (item->directory < 0)
        return REPL_SUCCESS;
    item->exists = fstatat(item->directory, item->name, &item->status, AT_SYMLINK_NOFOLLOW) == 0;
    if (!item->exists && errno != ENOENT)
        return repl_tree_fail(err, errno, "cannot look at it");
    return REPL_SUCCESS;
}

static bool is_same_kind(const struct repl_tree_item *item)
{
    return item->exists && (item->status.st_mode & S_IFMT) == repl_tree_type(item->node.kind);
}

static const char *kind_name(mode_t type)
{
    switch (type & S_IFMT) {
    case S_IFREG:
        return "a file";
    case S_IFDIR:
        return "a directory";
    case S_IFLNK:
        return "a symbolic link";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    default:
        return "a device";
    }
}

repl_result repl_tree_kind_check(const struct repl_tree_run *run, const struct repl_tree_item *item,
                                 struct repl_error *err)
{
    if (!item->exists || is_same_kind(item) || run->options->overwrite)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_REFUSED,
                     "the point has %s here, and there is %s: move it away, or give --overwrite",
                     kind_name(repl_tree_type(item->node.kind)), kind_name(item->status.st_mode));
}

static repl_result has_links(struct repl_tree_worker *worker, uint64_t object, bool *has,
                             struct repl_error *err)
{
    uint64_t at = object, index = 0;
    struct repl_tree_place place;
    *has = false;
    if (worker->run->totals.links == 0)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_link_next(worker->plan, &at, &index, &place, has, err));
    *has &= at == object;
    return REPL_SUCCESS;
}

static bool is_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether no other name than the object's own leads to what is there. */
static repl_result is_own(struct repl_tree_worker *worker, struct repl_tree_item *item, bool *own,
                          struct repl_error *err)
{
    uint64_t object = item->object, index = 0, names = 1;
    *own = item->status.st_nlink <= 1;
    if (*own)
        return REPL_SUCCESS;
    for (bool found = true;;) {
        struct repl_tree_place place;
        struct repl_tree_item other;
        REPL_TRY(repl_tree_link_next(worker->plan, &object, &index, &place, &found, err));
        if (!found || object != item->object)
            break;
        REPL_TRY(repl_tree_item_find(worker, object, &place, &other, err));
        names += other.exists && is_same_file(&other.status, &item->status);
    }
    *own = names == item->status.st_nlink;
    /* Other directories may have been opened in the place of this one. */
    return repl_tree_dirs_get(&worker->dirs, item->place.parent, &item->directory, err);
}

/* --- putting something in place -------------------------------------------------------------- */

/* The name that something is made under: its own, or one beside what is there. */
static void making_name(const struct repl_tree_item *item, char name[REPL_NAME_MAX + 1])
{
    strcpy(name, item->name);
    if (item->exists)
        repl_tree_temporary(name);
}

static repl_result put_in_place(const struct repl_tree_item *item, const char *made,
                                struct repl_error *err)
{
    if (!item->exists)
        return REPL_SUCCESS;
    if (S_ISDIR(item->status.st_mode)) {
        repl_result removed = repl_tree_remove(item->directory, item->name, err);
        if (!repl_ok(removed)) {
            unlinkat(item->directory, made, 0);
            return removed;
        }
    }
    return repl_tree_replace(item->directory, made, item->name, err);
}

/* True: it is a dry run, and what would be done is told. */
static bool is_dry(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                   enum repl_tree_change change)
{
    if (worker->run->options->dry_run)
        repl_tree_changes(worker, &item->place, change);
    return worker->run->options->dry_run;
}

/* What is there has the contents that it shall have. */
static repl_result keep(struct repl_tree_worker *worker, const struct repl_tree_item *item, int fd,
                        struct repl_error *err)
{
    bool links, changed;
    REPL_TRY(has_links(worker, item->object, &links, err));
    REPL_TRY(repl_tree_meta_apply(&worker->meta, item, item->name, fd, !links, &changed, err));
    if (changed)
        repl_tree_changes(worker, &item->place, REPL_TREE_METADATA);
    else if (item->node.kind == REPL_NODE_FILE)
        repl_tree_is_equal(worker);
    return REPL_SUCCESS;
}

/* --- files ----------------------------------------------------------------------------------- */

static bool is_to_be_locked(const struct repl_tree_item *item)
{
    return (item->node.flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) != 0;
}

/* Of what was just put in place: the flags that would have been in the way before. Where there are
 * further names, they still are. */
static repl_result lock(struct repl_tree_worker *worker, const struct repl_tree_item *item, int fd,
                        struct repl_error *err)
{
    bool links, changed;
    if (!is_to_be_locked(item))
        return REPL_SUCCESS;
    REPL_TRY(has_links(worker, item->object, &links, err));
    return links ? REPL_SUCCESS
                 : repl_tree_meta_apply(&worker->meta, item, item->name, fd, true, &changed, err);
}

static repl_result file_make(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                             struct repl_error *err)
{
    char name[REPL_NAME_MAX + 1];
    uint64_t data;
    if (is_dry(worker, item, item->exists ? REPL_TREE_CONTENT : REPL_TREE_MAKE))
        return REPL_SUCCESS;
    making_name(item, name);
    int fd = repl_tree_openat(item->directory, name, O_RDWR | O_CREAT | O_EXCL);
    if (fd < 0)
        return repl_tree_fail(err, errno, "cannot make it");
    repl_tree_meta_early(item, fd);
    repl_result result = repl_tree_file_write(worker, item, fd, true, &data, err);
    if (repl_ok(result))
        result = repl_tree_meta_apply(&worker->meta, item, name, fd, false, NULL, err);
    if (!repl_ok(result)) /* a part of a file is not to be taken for the file */
        unlinkat(item->directory, name, 0);
    else
        result = put_in_place(item, name, err);
    if (repl_ok(result))
        result = lock(worker, item, fd, err);
    close(fd);
    REPL_TRY(result);
    repl_tree_data(worker, data);
    repl_tree_changes(worker, &item->place, item->exists ? REPL_TREE_CONTENT : REPL_TREE_MAKE);
    return REPL_SUCCESS;
}

static repl_result file_patch(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                              struct repl_error *err)
{
    uint64_t data;
    if (is_dry(worker, item, REPL_TREE_CONTENT))
        return REPL_SUCCESS;
    int fd = repl_tree_openat(item->directory, item->name, O_RDWR | O_NONBLOCK);
    if (fd < 0) /* it runs, or may not be changed; to put another in its place is another thing */
        return file_make(worker, item, err);
    repl_result result = repl_tree_file_write(worker, item, fd, false, &data, err);
    if (repl_ok(result))
        result = repl_tree_meta_apply(&worker->meta, item, item->name, fd, false, NULL, err);
    if (repl_ok(result))
        result = lock(worker, item, fd, err);
    close(fd);
    REPL_TRY(result);
    repl_tree_data(worker, data);
    repl_tree_changes(worker, &item->place, REPL_TREE_CONTENT);
    return REPL_SUCCESS;
}

static repl_result file_compare(struct repl_tree_worker *worker, struct repl_tree_item *item,
                                int fd, bool *patch, bool *kept, struct repl_error *err)
{
    struct repl_tree_comparison comparison;
    bool own;
    REPL_TRY(repl_tree_file_compare(worker, item, fd, &comparison, err));
    REPL_TRY(is_own(worker, item, &own, err));
    *kept = comparison.equal && (own || worker->run->options->path[0] != '\0');
    *patch = !comparison.equal && own && item->node.size > REPL_TREE_PATCH_SIZE &&
             comparison.differing <= item->node.size / 4;
    if (!*kept)
        return REPL_SUCCESS;
    repl_tree_data(worker, comparison.data);
    return keep(worker, item, fd, err);
}

static repl_result file_leaf(struct repl_tree_worker *worker, struct repl_tree_item *item,
                             struct repl_error *err)
{
    bool patch = false, kept = false;
    if (is_same_kind(item)) {
        int fd = repl_tree_openat(item->directory, item->name, O_RDONLY | O_NONBLOCK);
        if (fd < 0 && errno != EACCES) /* what may not be read is replaced */
            return repl_tree_fail(err, errno, "cannot read it");
        if (fd >= 0) {
            repl_result result = file_compare(worker, item, fd, &patch, &kept, err);
            close(fd);
            REPL_TRY(result);
        }
    }
    if (kept)
        return REPL_SUCCESS;
    return patch ? file_patch(worker, item, err) : file_make(worker, item, err);
}

/* --- links, devices, and so on --------------------------------------------------------------- */

static bool is_same_special(const struct repl_tree_item *item)
{
    const struct repl_node *node = &item->node;
    char target[REPL_TARGET_MAX + 1];
    if (!is_same_kind(item))
        return false;
    if (node->kind == REPL_NODE_CHARACTER || node->kind == REPL_NODE_BLOCK)
        return item->status.st_rdev == makedev(node->major, node->minor);
    if (node->kind != REPL_NODE_SYMLINK)
        return true;
    ssize_t size = readlinkat(item->directory, item->name, target, sizeof target);
    return size == (ssize_t)node->target_size && memcmp(target, node->target, (size_t)size) == 0;
}

int repl_tree_special_make(int directory, const char *name, const struct repl_node *node)
{
    char target[REPL_TARGET_MAX + 1] = "";
    int failed;
    if (node->kind == REPL_NODE_SYMLINK) {
        memcpy(target, node->target, node->target_size);
        failed = symlinkat(target, directory, name);
    } else {
        failed = mknodat(directory, name, repl_tree_type(node->kind) | 0600,
                         makedev(node->major, node->minor));
    }
    return failed == 0 ? 0 : errno;
}

static repl_result special_make(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                                struct repl_error *err)
{
    char name[REPL_NAME_MAX + 1];
    if (is_dry(worker, item, item->exists ? REPL_TREE_CONTENT : REPL_TREE_MAKE))
        return REPL_SUCCESS;
    making_name(item, name);
    int error = repl_tree_special_make(item->directory, name, &item->node);
    if (error != 0)
        return repl_tree_fail(err, error, "cannot make it");
    repl_result result = repl_tree_meta_apply(&worker->meta, item, name, -1, false, NULL, err);
    if (!repl_ok(result))
        unlinkat(item->directory, name, 0);
    REPL_TRY(result);
    REPL_TRY(put_in_place(item, name, err));
    repl_tree_changes(worker, &item->place, item->exists ? REPL_TREE_CONTENT : REPL_TREE_MAKE);
    return REPL_SUCCESS;
}

repl_result repl_tree_leaf(struct repl_tree_worker *worker, struct repl_tree_item *item,
                           struct repl_error *err)
{
    bool own = false;
    if (item->directory < 0) {
        if (!is_dry(worker, item, REPL_TREE_MAKE))
            repl_tree_is_lost(worker);
        return REPL_SUCCESS;
    }
    REPL_TRY(repl_tree_kind_check(worker->run, item, err));
    if (item->node.kind == REPL_NODE_FILE)
        return file_leaf(worker, item, err);
    if (is_same_special(item))
        REPL_TRY(is_own(worker, item, &own, err));
    return own ? keep(worker, item, -1, err) : special_make(worker, item, err);
}

/* --- further names --------------------------------------------------------------------------- */

/* first_directory: a descriptor of the directory that the first name is in. */
static repl_result name_add(struct repl_tree_worker *worker, int first_directory,
                            const struct repl_tree_item *first, const struct repl_tree_item *item,
                            struct repl_error *err)
{
    char name[REPL_NAME_MAX + 1];
    if (item->exists && first->exists && is_same_file(&item->status, &first->status))
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_kind_check(worker->run, item, err));
    if (is_dry(worker, item, item->exists ? REPL_TREE_CONTENT : REPL_TREE_MAKE))
        return REPL_SUCCESS;
    making_name(item, name);
    int failed = linkat(first_directory, first->name, item->directory, name, 0);
    if (failed != 0 && errno == EPERM && repl_tree_unlock(first_directory, first->name) == 0)
        failed = linkat(first_directory, first->name, item->directory, name, 0);
    if (failed != 0)
        return repl_tree_fail(err, errno, "cannot make it another name of the same file");
    REPL_TRY(put_in_place(item, name, err));
    repl_tree_changes(worker, &item->place, item->exists ? REPL_TREE_CONTENT : REPL_TREE_MAKE);
    return REPL_SUCCESS;
}

static repl_result link_make(struct repl_tree_worker *worker, uint64_t object,
                             const struct repl_tree_place *place, struct repl_error *err)
{
    struct repl_tree_item first, item;
    struct repl_tree_place first_place;
    bool found;
    REPL_TRY(repl_tree_where(worker->plan, object, &first_place, &found, err));
    REPL_TRY(repl_tree_item_find(worker, object, &first_place, &first, err));
    bool dry = worker->run->options->dry_run;
    if (!dry && (!first.exists || !is_same_kind(&first)))
        return repl_fail(err, REPL_E_REFUSED, "what it is another name of could not be restored");
    int directory = first.directory >= 0 ? fcntl(first.directory, F_DUPFD_CLOEXEC, 0) : -1;
    if (directory < 0 && !dry)
        return repl_tree_fail(err, errno, "cannot make it another name of the same file");
    repl_result result = repl_tree_item_find(worker, object, place, &item, err);
    if (repl_ok(result) && item.directory < 0 && !dry)
        repl_tree_is_lost(worker);
    else if (repl_ok(result))
        result = name_add(worker, directory, &first, &item, err);
    if (directory >= 0)
        close(directory);
    return result;
}

/* Once all names are there: what would have been in the way. */
static repl_result links_lock(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                              struct repl_error *err)
{
    bool changed;
    if (!is_to_be_locked(item) || !is_same_kind(item) || item->node.kind != REPL_NODE_FILE ||
        worker->run->options->dry_run)
        return REPL_SUCCESS;
    int fd = repl_tree_openat(item->directory, item->name, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return repl_tree_fail(err, errno, "cannot set its flags");
    repl_result result =
        repl_tree_meta_apply(&worker->meta, item, item->name, fd, true, &changed, err);
    close(fd);
    return result;
}

static repl_result links_end(struct repl_tree_worker *worker, uint64_t object,
                             struct repl_error *err)
{
    struct repl_tree_item item;
    struct repl_tree_place place;
    bool found;
    REPL_TRY(repl_tree_where(worker->plan, object, &place, &found, err));
    repl_result result = repl_tree_item_find(worker, object, &place, &item, err);
    if (repl_ok(result))
        result = links_lock(worker, &item, err);
    return repl_tree_go_on(worker, &place, result, err);
}

repl_result repl_tree_links(struct repl_tree_worker *worker, struct repl_error *err)
{
    uint64_t object = 0, index = 0, last = 0;
    for (bool found = true;;) {
        struct repl_tree_place place;
        REPL_TRY(repl_tree_link_next(worker->plan, &object, &index, &place, &found, err));
        if (last != 0 && (!found || object != last))
            REPL_TRY(links_end(worker, last, err));
        if (!found)
            return REPL_SUCCESS;
        if (repl_tree_stopped(worker->run))
            return repl_fail(err, REPL_E_RETRY, "interrupted");
        REPL_TRY(repl_tree_go_on(worker, &place, link_make(worker, object, &place, err), err));
        last = object;
    }
}
