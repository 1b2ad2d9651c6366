/*
 * The three phases in which the directory becomes what the map says (tree_map.h
 * has why there are three, and why each may be done again).
 *
 * Staging. What has new contents, or is new, is made as n<object>; a file that
 * stays as it is under other names gets o<object>, one more link, so that its old
 * names may be overwritten in any order; new directories are d<object>.
 *
 * Detaching. Directories that move, or are gone, become d<object>. In between,
 * what lies in one is found there.
 *
 * Attaching. Directories first, then names, by a link that is renamed over what
 * is there; then what is written in place; only then are names removed, so that
 * nothing is away that has another name; then metadata, of directories last.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "site/replica/tree_replica.h"

#define LINK_NAME "link" /* in staging: on its way to a name */

/* What is to do of one object that is there at G. */
typedef repl_result object_fn(struct replica_tree *t, struct repl_tree_item *item,
                              const struct replica_todo *todo, struct repl_error *err);

/* No name may lead to what is not there any more. */
static repl_result gone_check(struct replica_tree *t, uint64_t object, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(object);
    MDB_val value;
    bool named;
    REPL_TRY(replica_map_next(&t->map, REPLICA_WHERE, &key, 8, &value, &named, err));
    return named ? replica_tree_fail(t, ENOENT, object, "a name leads to it", err) : REPL_SUCCESS;
}

static repl_result objects_each(struct replica_tree *t, bool directories, object_fn *each,
                                struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(0);
    for (bool found = true;; replica_key_pass(&key)) {
        struct replica_todo todo;
        MDB_val value;
        REPL_TRY(replica_map_next(&t->map, REPLICA_TODO, &key, 0, &value, &found, err));
        if (!found)
            return REPL_SUCCESS;
        struct repl_tree_item item = {.object = replica_key_number(&key, 0), .directory = -1};
        REPL_TRY(replica_map_todo(&t->map, item.object, &todo, &found, err));
        REPL_TRY(replica_map_node(&t->map, item.object, &item.node, &found, err));
        if (!found)
            REPL_TRY(gone_check(t, item.object, err));
        if (!found || (item.node.kind == REPL_NODE_DIRECTORY) != directories)
            continue;
        REPL_TRY(replica_tree_step(t, err));
        REPL_TRY(each(t, &item, &todo, err));
    }
}

/* --- what may not be changed (chattr) -------------------------------------------------------- */

/* Takes the flags that are in the way off what lies there and off the directory; they are set again
 * with the metadata of both, which are among what is to do. */
static bool unlocked(int directory, const char *name)
{
    bool own = repl_tree_unlock(directory, name) == 0;
    return repl_tree_unlock(directory, ".") == 0 || own;
}

static int link_forced(int from_directory, const char *from, int directory, const char *name)
{
    if (linkat(from_directory, from, directory, name, 0) == 0)
        return 0;
    if (errno == EPERM && unlocked(from_directory, from) &&
        linkat(from_directory, from, directory, name, 0) == 0)
        return 0;
    return errno;
}

static int rename_forced(int from_directory, const char *from, int directory, const char *name)
{
    if (renameat(from_directory, from, directory, name) == 0)
        return 0;
    if (errno != EPERM)
        return errno;
    bool from_unlocked = unlocked(from_directory, from), to_unlocked = unlocked(directory, name);
    if (!from_unlocked && !to_unlocked)
        return EPERM;
    return renameat(from_directory, from, directory, name) == 0 ? 0 : errno;
}

static int unlink_forced(int directory, const char *name)
{
    if (unlinkat(directory, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno == EPERM && unlocked(directory, name) && unlinkat(directory, name, 0) == 0)
        return 0;
    return errno;
}

/* --- staging --------------------------------------------------------------------------------- */

static repl_result special_stage(struct replica_tree *t, struct repl_tree_item *item,
                                 struct repl_error *err)
{
    char name[32];
    replica_tree_staged(name, 'n', item->object);
    int error = repl_tree_special_make(t->staging_fd, name, &item->node);
    if (error != 0)
        return replica_tree_fail(t, error, item->object, "cannot make it", err);
    item->directory = t->staging_fd;
    return repl_tree_meta_apply(&t->meta, item, name, -1, false, NULL, err);
}

static repl_result leaf_stage(struct replica_tree *t, struct repl_tree_item *item,
                              const struct replica_todo *todo, struct repl_error *err)
{
    char name[32];
    bool is_new = todo->old_kind == REPL_NODE_GONE;
    bool made = is_new || (todo->flags & REPLICA_TODO_CONTENT) != 0;
    if (!is_new && (made || (todo->flags & REPLICA_TODO_NAMES) != 0))
        REPL_TRY(replica_tree_find(t, item, err));
    if (made && item->node.kind == REPL_NODE_FILE)
        REPL_TRY(replica_tree_file_stage(t, item, todo, err));
    else if (made)
        return special_stage(t, item, err);
    if (is_new || (todo->flags & REPLICA_TODO_NAMES) == 0 ||
        replica_tree_is_staged(t, 'n', item->object))
        return REPL_SUCCESS;
    replica_tree_staged(name, 'o', item->object);
    int error = link_forced(item->directory, item->name, t->staging_fd, name);
    return error == 0 ? REPL_SUCCESS
                      : replica_tree_fail(t, error, item->object, "cannot link it", err);
}

static repl_result directory_stage(struct replica_tree *t, struct repl_tree_item *item,
                                   const struct replica_todo *todo, struct repl_error *err)
{
    char name[32];
    if (todo->old_kind != REPL_NODE_GONE)
        return REPL_SUCCESS;
    replica_tree_staged(name, 'd', item->object);
    return mkdirat(t->staging_fd, name, 0700) == 0
               ? REPL_SUCCESS
               : replica_tree_fail(t, errno, item->object, "cannot make the directory", err);
}

repl_result replica_tree_stage(struct replica_tree *t, struct repl_error *err)
{
    REPL_TRY(objects_each(t, true, directory_stage, err));
    return objects_each(t, false, leaf_stage, err);
}

/* --- detaching ------------------------------------------------------------------------------- */

static repl_result directory_detach(struct replica_tree *t, const struct replica_key *old,
                                    struct repl_error *err)
{
    char name[REPL_NAME_MAX + 1] = "", staged[32];
    uint64_t object = replica_key_number(old, 0);
    int fd;
    if (replica_tree_is_staged(t, 'd', object))
        return REPL_SUCCESS;
    memcpy(name, old->bytes + 16, old->size - 16);
    replica_tree_staged(staged, 'd', object);
    REPL_TRY(replica_tree_directory(t, replica_key_number(old, 1), &fd, err));
    int error = rename_forced(fd, name, t->staging_fd, staged);
    return error == 0 ? REPL_SUCCESS
                      : replica_tree_fail(t, error, object, "cannot move the directory", err);
}

repl_result replica_tree_detach(struct replica_tree *t, bool *moved, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(0);
    *moved = false;
    for (bool found = true;; replica_key_pass(&key)) {
        struct replica_todo todo;
        MDB_val value;
        REPL_TRY(replica_map_next(&t->map, REPLICA_TODO_OLD, &key, 0, &value, &found, err));
        if (!found)
            return REPL_SUCCESS;
        REPL_TRY(replica_map_todo(&t->map, replica_key_number(&key, 0), &todo, &found, err));
        if (!found || todo.old_kind != REPL_NODE_DIRECTORY)
            continue;
        *moved = true;
        REPL_TRY(replica_tree_step(t, err));
        REPL_TRY(directory_detach(t, &key, err));
    }
}

/* --- attaching ------------------------------------------------------------------------------- */

/* A file, or the like, under the name of a directory goes first; a directory is not there, or it
 * would have been detached. */
static repl_result directory_attach(struct replica_tree *t, struct repl_tree_item *item,
                                    const struct replica_todo *todo, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(item->object);
    char name[REPL_NAME_MAX + 1] = "", staged[32];
    struct stat status;
    MDB_val value;
    bool found;
    int fd;
    (void)todo;
    if (!replica_tree_is_staged(t, 'd', item->object))
        return REPL_SUCCESS;
    REPL_TRY(replica_map_next(&t->map, REPLICA_WHERE, &key, 8, &value, &found, err));
    if (!found)
        return replica_tree_fail(t, ENOENT, item->object, "the directory has no name", err);
    memcpy(name, key.bytes + 16, key.size - 16);
    REPL_TRY(replica_tree_directory(t, replica_key_number(&key, 1), &fd, err));
    int error = 0;
    if (fstatat(fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(status.st_mode))
        error = unlink_forced(fd, name);
    replica_tree_staged(staged, 'd', item->object);
    if (error == 0)
        error = rename_forced(t->staging_fd, staged, fd, name);
    return error == 0
               ? REPL_SUCCESS
               : replica_tree_fail(t, error, item->object, "cannot put the directory there", err);
}

/* A rename does nothing, and leaves both, where both are links to one file. */
static repl_result name_attach(struct replica_tree *t, const struct replica_key *where,
                               const char *staged, struct repl_error *err)
{
    char name[REPL_NAME_MAX + 1] = "";
    uint64_t object = replica_key_number(where, 0);
    int fd;
    REPL_TRY(replica_tree_step(t, err));
    memcpy(name, where->bytes + 16, where->size - 16);
    REPL_TRY(replica_tree_directory(t, replica_key_number(where, 1), &fd, err));
    if (unlinkat(t->staging_fd, LINK_NAME, 0) != 0 && errno != ENOENT)
        return replica_tree_fail(t, errno, object, "cannot remove a link", err);
    int error = link_forced(t->staging_fd, staged, t->staging_fd, LINK_NAME);
    if (error == 0)
        error = rename_forced(t->staging_fd, LINK_NAME, fd, name);
    return error == 0 ? REPL_SUCCESS
                      : replica_tree_fail(t, error, object, "cannot put it in place", err);
}

static repl_result leaf_attach(struct replica_tree *t, struct repl_tree_item *item,
                               const struct replica_todo *todo, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(item->object);
    char staged[32];
    bool ready = replica_tree_is_staged(t, 'n', item->object);
    (void)todo;
    if (!ready && !replica_tree_is_staged(t, 'o', item->object))
        return REPL_SUCCESS;
    replica_tree_staged(staged, ready ? 'n' : 'o', item->object);
    for (bool found = true;; replica_key_pass(&key)) {
        MDB_val value;
        REPL_TRY(replica_map_next(&t->map, REPLICA_WHERE, &key, 8, &value, &found, err));
        if (!found)
            return REPL_SUCCESS;
        REPL_TRY(name_attach(t, &key, staged, err));
    }
}

/* What could not be made ready, and the metadata of all. */
static repl_result leaf_finish(struct replica_tree *t, struct repl_tree_item *item,
                               const struct replica_todo *todo, struct repl_error *err)
{
    bool file = item->node.kind == REPL_NODE_FILE, changed;
    bool in_place = file && (todo->flags & REPLICA_TODO_CONTENT) != 0 &&
                    !replica_tree_is_staged(t, 'n', item->object);
    int fd = -1;
    REPL_TRY(replica_tree_find(t, item, err));
    if (in_place)
        repl_tree_unlock(item->directory, item->name);
    if (file)
        fd = repl_tree_openat(item->directory, item->name,
                              (in_place ? O_RDWR : O_RDONLY) | O_NONBLOCK);
    if (file && fd < 0)
        return replica_tree_fail(t, errno, item->object, "cannot open it", err);
    repl_result result = in_place ? replica_tree_file_patch(t, item, fd, err) : REPL_SUCCESS;
    if (repl_ok(result))
        result =
            repl_forward(repl_tree_meta_apply(&t->meta, item, item->name, fd, true, &changed, err),
                         err, "%s/tree: object %llu", t->path, (unsigned long long)item->object);
    if (fd >= 0)
        close(fd);
    return result;
}

static repl_result names_remove(struct replica_tree *t, struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(0);
    for (bool found = true;; replica_key_pass(&key)) {
        char name[REPL_NAME_MAX + 1] = "";
        struct repl_node node;
        MDB_val value;
        int fd;
        REPL_TRY(replica_map_next(&t->map, REPLICA_TODO_NAME, &key, 0, &value, &found, err));
        if (!found)
            return REPL_SUCCESS;
        uint64_t directory = replica_key_number(&key, 0);
        REPL_TRY(replica_map_get(&t->map, REPLICA_NAME, &key, &value, &found, err));
        if (found)
            continue;
        REPL_TRY(replica_map_node(&t->map, directory, &node, &found, err));
        if (!found) /* it goes as a whole */
            continue;
        REPL_TRY(replica_tree_step(t, err));
        memcpy(name, key.bytes + 8, key.size - 8);
        REPL_TRY(replica_tree_directory(t, directory, &fd, err));
        int error = unlink_forced(fd, name);
        if (error != 0)
            return replica_tree_fail(t, error, directory, "cannot remove a name in it", err);
    }
}

static repl_result directory_finish(struct replica_tree *t, struct repl_tree_item *item,
                                    const struct replica_todo *todo, struct repl_error *err)
{
    bool changed;
    (void)todo;
    REPL_TRY(replica_tree_directory(t, item->object, &item->directory, err));
    return repl_forward(
        repl_tree_meta_apply(&t->meta, item, ".", item->directory, true, &changed, err), err,
        "%s/tree: directory %llu", t->path, (unsigned long long)item->object);
}

repl_result replica_tree_attach(struct replica_tree *t, struct repl_error *err)
{
    REPL_TRY(objects_each(t, true, directory_attach, err));
    REPL_TRY(objects_each(t, false, leaf_attach, err));
    REPL_TRY(names_remove(t, err));
    REPL_TRY(objects_each(t, false, leaf_finish, err));
    return objects_each(t, true, directory_finish, err);
}
