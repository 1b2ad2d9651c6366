/*
 * Directories are opened by their handles, one at a time, from a stack of
 * numbers: neither the depth of the tree nor the length of a path matters.
 */
#include "source/tree/tree_scan_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "loop/loop.h"

/* A transaction keeps what it has changed in memory until it is committed. */
#define WRITES_PER_COMMIT 16384u

/* Directories that are moved while they are looked for are looked for so often. */
#define PASSES_MAX 3

/* Where the end of a write is not heard of: a file is read again when so long has passed since its
 * change, and again when that is REREAD_FACTOR times as long as when it was read last; not if that
 * was SURE_NS. */
#define REREAD_NS     INT64_C(2000000000)
#define REREAD_FACTOR 16
#define SURE_NS       INT64_C(30000000000)

void repl_tree_found_fini(struct repl_tree_found *found)
{
    repl_buffer_fini(&found->pages);
    repl_buffer_fini(&found->touched);
    *found = (struct repl_tree_found){0};
}

/* A difference. False: there is no need to go on. */
static bool differs(struct repl_tree_scan *s)
{
    s->differs = true;
    return s->found != NULL;
}

repl_result repl_tree_scan_commit_some(struct repl_tree_scan *s, struct repl_error *err)
{
    if (s->found == NULL || s->changes.writes - s->committed < WRITES_PER_COMMIT)
        return REPL_SUCCESS;
    s->committed = s->changes.writes;
    REPL_TRY(repl_tree_commit(&s->changes.txn, err));
    return repl_tree_begin(s->options->index, true, &s->changes.txn, err);
}

static repl_result push(struct repl_tree_scan *s, uint64_t directory, struct repl_error *err)
{
    return repl_buffer_append(&s->stack, &directory, sizeof directory, err);
}

static bool pop(struct repl_tree_scan *s, uint64_t *directory)
{
    if (s->stack.size == 0)
        return false;
    s->stack.size -= sizeof *directory;
    memcpy(directory, s->stack.data + s->stack.size, sizeof *directory);
    return true;
}

/* --- one name -------------------------------------------------------------------------------- */

bool repl_tree_is_as_known(const struct repl_tree_object *o, const struct repl_tree_glance *now)
{
    return !o->racy && o->inode == now->inode && o->ctime_ns == now->ctime_ns &&
           o->mount == now->mount && (o->node.kind != REPL_NODE_FILE || o->node.size == now->size);
}

static bool has_to_be_read_again(const struct repl_tree_object *o, int64_t now_ns)
{
    int64_t then = o->read_ns - o->ctime_ns, now = now_ns - o->ctime_ns;
    return o->node.kind == REPL_NODE_FILE && then < SURE_NS && now >= REREAD_NS &&
           now >= REREAD_FACTOR * then;
}

repl_result repl_tree_scan_touch(struct repl_tree_scan *s, const struct repl_tree_object *object,
                                 int path_fd, struct repl_error *err)
{
    if (s->options->held != NULL)
        repl_tree_hold(s->options->held, object, path_fd);
    return repl_buffer_append(&s->found->touched, &object->object, sizeof object->object, err);
}

/* Another one than was known, or another state of it. */
static repl_result name_follow(struct repl_tree_scan *s, uint64_t directory, int fd,
                               const char *name, struct repl_tree_object *object,
                               struct repl_error *err)
{
    uint64_t before = object->object;
    int path_fd;
    s->changes.directory = directory;
    s->changes.hash = repl_xxh3(name, strlen(name));
    REPL_TRY(repl_tree_object_open(fd, name, &path_fd, err));
    repl_result result = repl_tree_object_follow(&s->changes, path_fd, object, err);
    if (repl_ok(result) && s->options->held != NULL)
        result = repl_tree_scan_touch(s, object, path_fd, err);
    close(path_fd);
    REPL_TRY(result);
    /* what is left out below a directory depends on its path */
    if (s->options->exclude->by_path && object->node.kind == REPL_NODE_DIRECTORY &&
        object->object != before)
        s->moved = true;
    return repl_tree_name_set(&s->changes, directory, name, strlen(name), object->object, err);
}

/* *there: the name is one of the tree's. */
repl_result repl_tree_scan_name(struct repl_tree_scan *s, uint64_t directory, int fd,
                                const char *name, bool *there, struct repl_error *err)
{
    struct repl_tree_glance now;
    struct repl_tree_object object;
    bool known = false;
    *there = false;
    REPL_TRY(repl_tree_glance(s->options->root, fd, name, &now, err));
    if (now.mount && now.type != S_IFDIR)
        return REPL_SUCCESS;
    *there = true;
    REPL_TRY(
        repl_tree_name_get(&s->changes.txn, directory, name, strlen(name), &object.object, err));
    if (object.object != 0)
        REPL_TRY(repl_tree_object_get(&s->changes.txn, object.object, &object, &known, err));
    bool again = known && s->found != NULL && !s->options->watched &&
                 has_to_be_read_again(&object, s->begin_ns);
    /* of a subvolume in this one, a snapshot tells only that it is there */
    bool stands_in = known && object.mount && now.mount && s->options->root->snapshot != 0;
    if (!known || again || (!stands_in && !repl_tree_is_as_known(&object, &now))) {
        if (!differs(s))
            return REPL_SUCCESS;
        REPL_TRY(name_follow(s, directory, fd, name, &object, err));
    }
    if (s->found != NULL) {
        s->found->objects++;
        s->found->mounts += object.mount;
    }
    bool enter = !s->heard || s->moved || object.object >= s->first_new;
    if (!enter || object.node.kind != REPL_NODE_DIRECTORY || object.mount)
        return REPL_SUCCESS;
    return push(s, object.object, err);
}

static repl_result name_take(struct repl_tree_scan *s, uint64_t directory, int fd, const char *path,
                             const char *name, struct repl_error *err)
{
    bool there;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
        repl_tree_is_excluded(s->options->exclude, path, name))
        return REPL_SUCCESS;
    if (s->options->stop != NULL && atomic_load(s->options->stop))
        return repl_fail(err, REPL_E_RETRY, "the agent is being stopped");
    repl_result result = repl_tree_scan_name(s, directory, fd, name, &there, err);
    if (result.code == REPL_E_MISSING) { /* it vanished, which the next look at it will show */
        s->differs = true;
        return REPL_SUCCESS;
    }
    REPL_TRY(repl_forward(result, err, "%s/%s%s", s->options->root->path, path, name));
    uint64_t hash = repl_xxh3(name, strlen(name));
    if (there)
        REPL_TRY(repl_buffer_append(&s->listed, &hash, sizeof hash, err));
    return repl_tree_scan_commit_some(s, err);
}

/* --- a directory ----------------------------------------------------------------------------- */

int repl_tree_numbers_order(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

struct gone_name {
    uint32_t size;
    char name[REPL_NAME_MAX];
};

/* Names that the index has, and the directory has not. That one which is gone shares its hash with
 * one that is there is not to be expected, and by design would keep a file in the copy. */
static repl_result gone_find(struct repl_tree_scan *s, uint64_t directory, struct repl_buffer *gone,
                             struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    size_t count = s->listed.size / sizeof(uint64_t);
    if (count > 0)
        qsort(s->listed.data, count, sizeof(uint64_t), repl_tree_numbers_order);
    repl_tree_key_u64(&key, directory);
    repl_result result = repl_tree_walk_begin(&s->changes.txn, REPL_TREE_NAME, &key, &walk, err);
    while (repl_ok(result) && repl_tree_walk_is_at(&walk, directory)) {
        const uint8_t *at = walk.key.mv_data;
        uint64_t hash = repl_tree_key_read(at + 8);
        struct gone_name name = {.size = (uint32_t)(walk.key.mv_size - 16)};
        memcpy(name.name, at + 16, name.size);
        if (count == 0 ||
            bsearch(&hash, s->listed.data, count, sizeof hash, repl_tree_numbers_order) == NULL)
            result = repl_buffer_append(gone, &name, sizeof name, err);
        if (repl_ok(result))
            result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

static repl_result gone_follow(struct repl_tree_scan *s, uint64_t directory, struct repl_error *err)
{
    struct repl_buffer gone = {0};
    repl_result result = gone_find(s, directory, &gone, err);
    const struct gone_name *name = (const void *)gone.data;
    for (size_t i = 0; repl_ok(result) && i < gone.size / sizeof *name; i++) {
        if (!differs(s))
            break;
        result = repl_tree_name_set(&s->changes, directory, name[i].name, name[i].size, 0, err);
    }
    repl_buffer_fini(&gone);
    return result;
}

static repl_result names_read(struct repl_tree_scan *s, uint64_t directory, DIR *stream,
                              const char *path, struct repl_error *err)
{
    s->listed.size = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (entry == NULL && errno != 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "%s/%s", s->options->root->path, path);
        if (entry == NULL)
            break;
        REPL_TRY(name_take(s, directory, dirfd(stream), path, entry->d_name, err));
        if (s->found == NULL && s->differs)
            return REPL_SUCCESS;
    }
    return gone_follow(s, directory, err);
}

/* The directory itself is looked at with its name; the top one here. What its ctime says is as of
 * before its names are read. */
static repl_result directory_read(struct repl_tree_scan *s, uint64_t directory,
                                  struct repl_error *err)
{
    struct repl_tree_object object;
    char *path = NULL;
    bool found;
    int fd;
    REPL_TRY(repl_tree_object_get(&s->changes.txn, directory, &object, &found, err));
    if (!found)
        return REPL_SUCCESS;
    repl_result result =
        repl_tree_handle_open(s->options->root, &object.handle, O_DIRECTORY, &fd, err);
    if (result.code == REPL_E_MISSING) {
        s->differs = true;
        return REPL_SUCCESS;
    }
    REPL_TRY(result);
    DIR *stream = fdopendir(fd);
    if (stream == NULL) {
        close(fd);
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "%s: a directory in it",
                               s->options->root->path);
    }
    result = repl_tree_path_of(&s->changes.txn, directory, &path, err);
    if (repl_ok(result))
        result = names_read(s, directory, stream, path, err);
    free(path);
    closedir(stream);
    return result;
}

/* --- the whole ------------------------------------------------------------------------------- */

static repl_result root_look(struct repl_tree_scan *s, struct repl_error *err)
{
    const struct repl_tree_root *root = s->options->root;
    struct repl_tree_object object;
    struct repl_tree_glance now;
    bool found;
    REPL_TRY(repl_tree_glance(root, root->fd, "", &now, err));
    now.mount = false; /* the top may well be one */
    REPL_TRY(repl_tree_object_get(&s->changes.txn, REPL_OBJECT_ROOT, &object, &found, err));
    if (found && repl_tree_is_as_known(&object, &now))
        return REPL_SUCCESS;
    return differs(s) ? repl_tree_object_follow(&s->changes, root->fd, &object, err) : REPL_SUCCESS;
}

repl_result repl_tree_scan_directories(struct repl_tree_scan *s, struct repl_error *err)
{
    uint64_t directory;
    while (pop(s, &directory)) {
        if (s->found == NULL && s->differs)
            break;
        REPL_TRY(directory_read(s, directory, err));
        REPL_TRY(repl_tree_scan_commit_some(s, err));
    }
    return REPL_SUCCESS;
}

static repl_result pass(struct repl_tree_scan *s, struct repl_error *err)
{
    s->stack.size = 0;
    if (s->found != NULL)
        s->found->objects = s->found->mounts = 0;
    REPL_TRY(root_look(s, err));
    REPL_TRY(push(s, REPL_OBJECT_ROOT, err));
    return repl_tree_scan_directories(s, err);
}

/* A scan that was cut off has committed that they lost their names, and no more. */
static repl_result nameless_find(struct repl_tree_scan *s, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    repl_result result = repl_tree_walk_begin(&s->changes.txn, REPL_TREE_OBJECT, &key, &walk, err);
    while (repl_ok(result) && !walk.done) {
        struct repl_tree_object o;
        bool found;
        uint64_t object = repl_tree_key_read(walk.key.mv_data);
        result = repl_tree_object_get(&s->changes.txn, object, &o, &found, err);
        if (repl_ok(result) && o.links == 0 && object != REPL_OBJECT_ROOT)
            result = repl_buffer_append(&s->changes.nameless, &object, sizeof object, err);
        if (repl_ok(result))
            result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

/* What lost its name and still exists may have moved to where the scan had been by then. */
static repl_result passes(struct repl_tree_scan *s, struct repl_error *err)
{
    bool hidden = true;
    if (s->options->first)
        REPL_TRY(nameless_find(s, err));
    for (int i = 0; hidden && i < PASSES_MAX; i++) {
        REPL_TRY(pass(s, err));
        REPL_TRY(repl_tree_nameless_look(&s->changes, &hidden, err));
    }
    return repl_tree_scan_settle(s, err);
}

repl_result repl_tree_scan_settle(struct repl_tree_scan *s, struct repl_error *err)
{
    if (s->options->held != NULL)
        REPL_TRY(repl_tree_circles_break(&s->changes, err));
    return repl_tree_nameless_drop(&s->changes, err);
}

void repl_tree_scan_fini(struct repl_tree_scan *s)
{
    repl_tree_abort(&s->changes.txn);
    repl_buffer_fini(&s->stack);
    repl_buffer_fini(&s->listed);
    repl_buffer_fini(&s->changes.nameless);
    repl_buffer_fini(&s->changes.moved);
    repl_buffer_fini(&s->changes.attributes);
    repl_buffer_fini(&s->changes.data);
    repl_buffer_fini(&s->changes.wanted);
}

static void changes_begin(struct repl_tree_scan *s, const struct repl_tree_scan_options *options,
                          struct repl_tree_found *found)
{
    struct repl_tree_changes *c = &s->changes;
    c->pages = &found->pages;
    c->files = options->held != NULL;
    c->hidden = c->files && options->hidden->size == 0 ? options->hidden : NULL;
    if (c->hidden == NULL) { /* whether they have been moved */
        c->nameless = *options->hidden;
        *options->hidden = (struct repl_buffer){0};
    }
}

repl_result repl_tree_scan_begin(struct repl_tree_scan *s,
                                 const struct repl_tree_scan_options *options,
                                 struct repl_tree_found *found, struct repl_error *err)
{
    *s = (struct repl_tree_scan){.options = options,
                                 .found = found,
                                 .begin_ns = repl_now_wall_ns(),
                                 .changes = {.root = options->root,
                                             .full = options->full,
                                             .settle = true,
                                             .mapped = options->mapped}};
    if (found != NULL)
        changes_begin(s, options, found);
    return repl_tree_begin(options->index, found != NULL, &s->changes.txn, err);
}

repl_result repl_tree_scan(const struct repl_tree_scan_options *options,
                           struct repl_tree_found *found, struct repl_error *err)
{
    struct repl_tree_scan s;
    REPL_TRY(repl_tree_scan_begin(&s, options, found, err));
    repl_result result = passes(&s, err);
    if (repl_ok(result))
        result = repl_tree_commit(&s.changes.txn, err);
    found->changes += s.changes.count;
    repl_tree_scan_fini(&s);
    return result;
}

repl_result repl_tree_scan_is_same(const struct repl_tree_scan_options *options, bool *same,
                                   struct repl_error *err)
{
    struct repl_tree_scan s;
    REPL_TRY(repl_tree_scan_begin(&s, options, NULL, err));
    repl_result result = pass(&s, err);
    *same = repl_ok(result) && !s.differs;
    repl_tree_scan_fini(&s);
    return result;
}
