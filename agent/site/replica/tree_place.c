/*
 * Where something is in the directory, by the map and by what lies in staging.
 * Everything is reached name by name from PATH (recover/tree_dirs.h): names come
 * from a peer that may mean harm.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "site/replica/tree_replica.h"

/* Directories in one another, of a tree that does not lead round in circles. */
#define CLIMB_MAX (1u << 20)

repl_result replica_tree_step(struct replica_tree *t, struct repl_error *err)
{
    if (++t->steps == t->fail_step)
        return repl_fail(err, REPL_E_RETRY, "stopped");
    return replica_pulse_beat(&t->pulse, err);
}

repl_result replica_tree_fail(struct replica_tree *t, int os_errno, uint64_t object,
                              const char *what, struct repl_error *err)
{
    static const int contradictions[] = {0,      ENOENT, ENOTDIR, EISDIR,    EEXIST, ELOOP,
                                         EINVAL, EXDEV,  ENXIO,   ENOTEMPTY, EBUSY};
    for (size_t i = 0; i < sizeof contradictions / sizeof contradictions[0]; i++) {
        if (os_errno != contradictions[i])
            continue;
        t->contradicts = true;
        return repl_fail(err, REPL_E_CORRUPT, "object %llu: %s: %s", (unsigned long long)object,
                         what, os_errno == 0 ? "it is not what it was" : strerror(os_errno));
    }
    return repl_forward(repl_tree_fail(err, os_errno, what), err, "%s/tree: object %llu", t->path,
                        (unsigned long long)object);
}

void replica_tree_staged(char name[32], char what, uint64_t object)
{
    snprintf(name, 32, "%c%llu", what, (unsigned long long)object);
}

bool replica_tree_is_staged(const struct replica_tree *t, char what, uint64_t object)
{
    char name[32];
    struct stat status;
    replica_tree_staged(name, what, object);
    return fstatat(t->staging_fd, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

/* --- directories ----------------------------------------------------------------------------- */

static struct repl_tree_place place_put(struct replica_tree *t, uint64_t parent, const void *name,
                                        size_t size)
{
    memcpy(t->where_name, name, size);
    return (struct repl_tree_place){
        .parent = parent, .name = t->where_name, .name_size = (uint32_t)size};
}

/* From an entry of WHERE or TODO_OLD. */
static struct repl_tree_place place_of(struct replica_tree *t, const struct replica_key *key)
{
    return place_put(t, replica_key_number(key, 1), key->bytes + 16, key->size - 16);
}

repl_result replica_tree_where(void *context, uint64_t object, struct repl_tree_place *place,
                               bool *found, struct repl_error *err)
{
    struct replica_tree *t = context;
    struct replica_key old = REPLICA_KEY(object), now = old;
    struct replica_todo todo;
    MDB_val value;
    bool moved, touched;
    *found = true;
    if (object == REPL_OBJECT_ROOT) {
        *place = place_put(t, REPL_TREE_TARGET, "tree", 4);
        return REPL_SUCCESS;
    }
    if (++t->climbed > CLIMB_MAX)
        return repl_fail(err, REPL_E_CORRUPT, "directories lie in one another in a circle");
    REPL_TRY(replica_map_next(&t->map, REPLICA_TODO_OLD, &old, 8, &value, &moved, err));
    REPL_TRY(replica_map_todo(&t->map, object, &todo, &touched, err));
    bool is_new = touched && todo.old_kind == REPL_NODE_GONE;
    if ((moved || is_new) && replica_tree_is_staged(t, 'd', object)) {
        char path[64] = ".repl/staging/";
        replica_tree_staged(path + strlen(path), 'd', object);
        *place = place_put(t, REPL_TREE_TARGET, path, strlen(path));
        return REPL_SUCCESS;
    }
    if (moved && t->map.phase != REPLICA_ATTACHING) {
        *place = place_of(t, &old);
        return REPL_SUCCESS;
    }
    REPL_TRY(replica_map_next(&t->map, REPLICA_WHERE, &now, 8, &value, found, err));
    if (*found)
        *place = place_of(t, &now);
    return REPL_SUCCESS;
}

repl_result replica_tree_directory(struct replica_tree *t, uint64_t object, int *fd,
                                   struct repl_error *err)
{
    t->climbed = 0;
    repl_result result = repl_tree_dirs_get(&t->dirs, object, fd, err);
    t->contradicts |= result.code == REPL_E_INTERNAL; /* it has no place */
    REPL_TRY(result);
    return *fd >= 0 ? REPL_SUCCESS
                    : replica_tree_fail(t, ENOENT, object, "its directory is not there", err);
}

/* --- names ----------------------------------------------------------------------------------- */

/* The name that it had at A: one that has changed since, or one that has not. */
static repl_result old_name(struct replica_tree *t, struct replica_key *key, bool *found,
                            struct repl_error *err)
{
    uint64_t object = replica_key_number(key, 0);
    MDB_val value;
    REPL_TRY(replica_map_next(&t->map, REPLICA_TODO_OLD, key, 8, &value, found, err));
    if (*found)
        return REPL_SUCCESS;
    *key = REPLICA_KEY(object);
    for (bool changed = true; changed; replica_key_pass(key)) {
        REPL_TRY(replica_map_next(&t->map, REPLICA_WHERE, key, 8, &value, found, err));
        if (!*found)
            return REPL_SUCCESS;
        struct replica_key name = {.size = key->size - 8};
        memcpy(name.bytes, key->bytes + 8, name.size);
        REPL_TRY(replica_map_get(&t->map, REPLICA_TODO_NAME, &name, &value, &changed, err));
        if (!changed)
            return REPL_SUCCESS;
    }
    return REPL_SUCCESS;
}

repl_result replica_tree_find(struct replica_tree *t, struct repl_tree_item *item,
                              struct repl_error *err)
{
    struct replica_key key = REPLICA_KEY(item->object);
    MDB_val value;
    bool found;
    if (t->map.phase == REPLICA_ATTACHING)
        REPL_TRY(replica_map_next(&t->map, REPLICA_WHERE, &key, 8, &value, &found, err));
    else
        REPL_TRY(old_name(t, &key, &found, err));
    if (!found)
        return replica_tree_fail(t, ENOENT, item->object, "it has no name", err);
    size_t size = key.size - 16;
    memcpy(item->name, key.bytes + 16, size);
    item->name[size] = '\0';
    REPL_TRY(replica_tree_directory(t, replica_key_number(&key, 1), &item->directory, err));
    item->exists = fstatat(item->directory, item->name, &item->status, AT_SYMLINK_NOFOLLOW) == 0;
    if (!item->exists)
        return replica_tree_fail(t, errno, item->object, "cannot look at it", err);
    if ((item->status.st_mode & S_IFMT) != repl_tree_type(item->node.kind))
        return replica_tree_fail(t, 0, item->object, "it is of another kind", err);
    return REPL_SUCCESS;
}
