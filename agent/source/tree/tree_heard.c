/*
 * What was heard of a tree is only where to look: what is there is found by
 * looking, so neither the order of what was heard matters, nor that it may be
 * about what has changed once more.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "source/tree/tree_dirty.h"
#include "source/tree/tree_scan_internal.h"

void repl_tree_directory_close(struct repl_tree_directory *d)
{
    if (d->object != 0 && d->fd >= 0)
        close(d->fd);
    free(d->path);
    *d = (struct repl_tree_directory){.fd = -1};
}

repl_result repl_tree_directory_open(struct repl_tree_scan *s, uint64_t object,
                                     struct repl_tree_directory *d, struct repl_error *err)
{
    struct repl_tree_object o;
    bool found;
    if (d->object == object)
        return REPL_SUCCESS;
    repl_tree_directory_close(d);
    d->object = object;
    REPL_TRY(repl_tree_path_of(&s->changes.txn, object, &d->path, err));
    REPL_TRY(repl_tree_object_get(&s->changes.txn, object, &o, &found, err));
    if (!found)
        return REPL_SUCCESS;
    repl_result result =
        repl_tree_handle_open(s->options->root, &o.handle, O_DIRECTORY, &d->fd, err);
    if (!repl_ok(result))
        d->fd = -1;
    return repl_ok(result) || result.code == REPL_E_MISSING ? REPL_SUCCESS : result;
}

/* The directory in the index, if the name is one of the tree's; else 0. */
static repl_result name_directory(struct repl_tree_scan *s, const struct repl_tree_heard_name *name,
                                  struct repl_tree_directory *d, uint64_t *object,
                                  struct repl_error *err)
{
    REPL_TRY(repl_tree_object_find(&s->changes.txn, &name->directory, object, err));
    if (*object == 0)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_directory_open(s, *object, d, err));
    if (repl_tree_is_excluded(s->options->exclude, d->path, (const char *)(name + 1)))
        *object = 0;
    return REPL_SUCCESS;
}

static repl_result name_follow(struct repl_tree_scan *s, const struct repl_tree_heard_name *name,
                               struct repl_tree_directory *d, struct repl_error *err)
{
    const char *text = (const char *)(name + 1);
    uint64_t object;
    bool there = false;
    REPL_TRY(name_directory(s, name, d, &object, err));
    if (object == 0 || d->fd < 0)
        return REPL_SUCCESS; /* not of the tree, or gone with its directory */
    repl_result result = repl_tree_scan_name(s, object, d->fd, text, &there, err);
    if (!repl_ok(result) && result.code != REPL_E_MISSING)
        return repl_forward(result, err, "%s/%s%s", s->options->root->path, d->path, text);
    if (there && repl_ok(result))
        return REPL_SUCCESS;
    return repl_tree_name_set(&s->changes, object, text, name->size, 0, err);
}

repl_result repl_tree_follow_names(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                   struct repl_error *err)
{
    struct repl_tree_directory d = {.fd = -1};
    const struct repl_tree_heard_name *name;
    repl_result result = REPL_SUCCESS;
    for (size_t at = 0;
         repl_ok(result) && (name = repl_tree_heard_name_next(heard, &at)) != NULL;) {
        s->moved = false;
        result = name_follow(s, name, &d, err);
        if (repl_ok(result))
            result = repl_tree_scan_directories(s, err);
        if (repl_ok(result))
            result = repl_tree_scan_commit_some(s, err);
    }
    repl_tree_directory_close(&d);
    return result;
}

/* --- objects --------------------------------------------------------------------------------- */

static repl_result object_follow(struct repl_tree_scan *s, uint64_t object, struct repl_error *err)
{
    struct repl_tree_object o;
    bool found;
    int fd;
    REPL_TRY(repl_tree_object_get(&s->changes.txn, object, &o, &found, err));
    if (!found || o.mount)
        return REPL_SUCCESS;
    repl_result result = repl_tree_handle_open(s->options->root, &o.handle, O_PATH, &fd, err);
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS; /* its name says so */
    REPL_TRY(result);
    result = repl_tree_object_follow(
        &s->changes, object == REPL_OBJECT_ROOT ? s->options->root->fd : fd, &o, err);
    if (repl_ok(result))
        result = repl_tree_scan_touch(s, &o, fd, err);
    close(fd);
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS;
    REPL_TRY(repl_forward(result, err, "%s: object %llu", s->options->root->path,
                          (unsigned long long)object));
    return repl_tree_scan_commit_some(s, err);
}

/* Marks go by inode numbers, of which each subvolume of a btrfs has its own: where the file of the
 * tree that has it is as it was, they are of another. What is written to gets another ctime, which
 * scans rely on too; but a direct write has that of its begin, and its end may be marked and
 * nothing else told of it. So this is believed only of a file that was looked at when all direct
 * writes which that ctime could be of had ended. */
static repl_result is_of_another(struct repl_tree_scan *s, uint64_t object, bool *of_another,
                                 struct repl_error *err)
{
    struct repl_tree_glance now;
    struct repl_tree_object o;
    bool found;
    int fd;
    *of_another = false;
    if (s->options->root->handle.type != REPL_TREE_BTRFS_HANDLE)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_object_get(&s->changes.txn, object, &o, &found, err));
    if (!found || o.mount || o.read_ns - o.ctime_ns < REPL_TREE_SURE_NS)
        return REPL_SUCCESS;
    repl_result result = repl_tree_handle_open(s->options->root, &o.handle, O_PATH, &fd, err);
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS; /* it is gone, which has to be seen to */
    REPL_TRY(result);
    result = repl_tree_glance(s->options->root, fd, "", &now, err);
    close(fd);
    *of_another = repl_ok(result) && repl_tree_is_as_known(&o, &now);
    return result.code == REPL_E_MISSING ? REPL_SUCCESS : result;
}

repl_result repl_tree_heard_objects(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                    struct repl_buffer *objects, struct repl_error *err)
{
    const struct repl_tree_handle *handle = (const void *)heard->objects.data;
    const struct repl_tree_mark *mark = (const void *)heard->marks.data;
    uint64_t object, before = 0;
    for (size_t i = 0; i < heard->objects.size / sizeof *handle; i++) {
        REPL_TRY(repl_tree_object_find(&s->changes.txn, &handle[i], &object, err));
        if (object != 0)
            REPL_TRY(repl_buffer_append(objects, &object, sizeof object, err));
    }
    for (size_t i = 0; i < heard->marks.size / sizeof *mark; i++) {
        if (mark[i].key.inode == before)
            continue;
        before = mark[i].key.inode;
        bool of_another = false;
        REPL_TRY(repl_tree_inode_find(&s->changes.txn, before, &object, err));
        if (object != 0)
            REPL_TRY(is_of_another(s, object, &of_another, err));
        if (object != 0 && !of_another)
            REPL_TRY(repl_buffer_append(objects, &object, sizeof object, err));
    }
    if (objects->size > 0)
        qsort(objects->data, objects->size / sizeof object, sizeof object, repl_tree_numbers_order);
    return REPL_SUCCESS;
}

static repl_result objects_follow(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                  struct repl_error *err)
{
    struct repl_buffer objects = {0};
    uint64_t object, before = 0;
    repl_result result = repl_tree_heard_objects(s, heard, &objects, err);
    for (size_t at = 0; repl_ok(result) && at < objects.size; at += sizeof object) {
        memcpy(&object, objects.data + at, sizeof object);
        if (object != before)
            result = object_follow(s, object, err);
        before = object;
    }
    repl_buffer_fini(&objects);
    return result;
}

/* --- before it ------------------------------------------------------------------------------- */

/* So few are waited for one by one: to open each twice would cost more. */
#define FEW 16u

/* What fails here fails again in the look, which says so. */
static void write_out_begin(int path_fd)
{
    struct stat now;
    if (fstat(path_fd, &now) != 0 || !S_ISREG(now.st_mode))
        return;
    int fd = repl_tree_object_reopen(path_fd);
    if (fd < 0)
        return;
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    close(fd);
}

static repl_result named_write_out(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                   struct repl_error *err)
{
    struct repl_tree_directory d = {.fd = -1};
    const struct repl_tree_heard_name *name;
    repl_result result = REPL_SUCCESS;
    uint64_t object;
    int fd;
    for (size_t at = 0;
         repl_ok(result) && (name = repl_tree_heard_name_next(heard, &at)) != NULL;) {
        result = name_directory(s, name, &d, &object, err);
        if (!repl_ok(result) || object == 0 || d.fd < 0 ||
            !repl_ok(repl_tree_object_open(d.fd, (const char *)(name + 1), &fd, err)))
            continue;
        write_out_begin(fd);
        close(fd);
    }
    repl_tree_directory_close(&d);
    return result;
}

/* A look waits until what it looks at is written out (repl_tree_data_find). Were that begun only
 * then, a slow disk would take its time for each file, one after the other. */
static repl_result heard_write_out(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                   struct repl_error *err)
{
    struct repl_buffer objects = {0};
    struct repl_tree_object o;
    uint64_t object;
    bool found;
    int fd;
    if (s->options->root->snapshot != 0)
        return REPL_SUCCESS; /* has been */
    if (heard->count + heard->marks.size / sizeof(struct repl_tree_mark) < FEW)
        return REPL_SUCCESS;
    repl_result result = heard->lost ? REPL_SUCCESS : named_write_out(s, heard, err);
    if (repl_ok(result))
        result = repl_tree_heard_objects(s, heard, &objects, err);
    for (size_t at = 0; repl_ok(result) && at < objects.size; at += sizeof object) {
        memcpy(&object, objects.data + at, sizeof object);
        result = repl_tree_object_get(&s->changes.txn, object, &o, &found, err);
        if (!repl_ok(result) || !found || o.mount || o.node.kind != REPL_NODE_FILE ||
            !repl_ok(repl_tree_handle_open(s->options->root, &o.handle, O_PATH, &fd, err)))
            continue;
        write_out_begin(fd);
        close(fd);
    }
    repl_buffer_fini(&objects);
    return result;
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result heard_follow(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                                struct repl_error *err)
{
    if (!heard->lost)
        REPL_TRY(repl_tree_follow_names(s, heard, err));
    REPL_TRY(objects_follow(s, heard, err));
    return repl_tree_scan_settle(s, err);
}

repl_result repl_tree_follow_begin(struct repl_tree_scan *s,
                                   const struct repl_tree_scan_options *options,
                                   const struct repl_tree_heard *heard,
                                   struct repl_tree_found *found, struct repl_error *err)
{
    REPL_TRY(repl_tree_scan_begin(s, options, found, err));
    s->heard = true;
    s->changes.settle = false;
    s->changes.marks = options->marks_hold ? &heard->marks : NULL;
    s->first_new = repl_tree_meta(options->index)->next_object;
    return REPL_SUCCESS;
}

repl_result repl_tree_follow_end(struct repl_tree_scan *s, repl_result result,
                                 struct repl_error *err)
{
    if (repl_ok(result))
        result = repl_tree_commit(&s->changes.txn, err);
    s->found->changes += s->changes.count;
    repl_tree_scan_fini(s);
    return result;
}

repl_result repl_tree_follow(const struct repl_tree_scan_options *options,
                             const struct repl_tree_heard *heard, struct repl_tree_found *found,
                             struct repl_error *err)
{
    struct repl_tree_scan s;
    REPL_TRY(repl_tree_follow_begin(&s, options, heard, found, err));
    repl_result result = heard_write_out(&s, heard, err);
    if (repl_ok(result))
        result = heard_follow(&s, heard, err);
    return repl_tree_follow_end(&s, result, err);
}

/* --- whether it matters ---------------------------------------------------------------------- */

static repl_result concerns(struct repl_tree_scan *s, const struct repl_tree_heard *heard,
                            bool *any, struct repl_error *err)
{
    struct repl_tree_directory d = {.fd = -1};
    struct repl_buffer objects = {0};
    const struct repl_tree_heard_name *name;
    uint64_t object;
    repl_result result = repl_tree_heard_objects(s, heard, &objects, err);
    *any = objects.size > 0;
    repl_buffer_fini(&objects);
    for (size_t at = 0;
         repl_ok(result) && !*any && (name = repl_tree_heard_name_next(heard, &at)) != NULL;) {
        result = name_directory(s, name, &d, &object, err);
        *any = object != 0;
    }
    repl_tree_directory_close(&d);
    return result;
}

static repl_result touched_check(struct repl_tree_scan *s, const struct repl_buffer *touched,
                                 bool *same, struct repl_error *err)
{
    struct repl_tree_glance now;
    struct repl_tree_object o;
    uint64_t object;
    bool found;
    int fd;
    for (size_t at = 0; *same && at < touched->size; at += sizeof object) {
        memcpy(&object, touched->data + at, sizeof object);
        REPL_TRY(repl_tree_object_get(&s->changes.txn, object, &o, &found, err));
        if (!found)
            continue;
        repl_result result = repl_tree_handle_open(s->options->root, &o.handle, O_PATH, &fd, err);
        if (repl_ok(result)) {
            result = repl_tree_glance(s->options->root, fd, "", &now, err);
            close(fd);
        }
        if (!repl_ok(result) && result.code != REPL_E_MISSING)
            return result;
        *same = repl_ok(result) && now.ctime_ns == o.ctime_ns &&
                (o.node.kind != REPL_NODE_FILE || o.node.size == now.size);
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_follow_is_same(const struct repl_tree_scan_options *options,
                                     const struct repl_tree_heard *heard,
                                     const struct repl_buffer *touched, bool *same,
                                     struct repl_error *err)
{
    struct repl_tree_scan s;
    bool any;
    *same = false;
    if (heard->lost)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_scan_begin(&s, options, NULL, err));
    repl_result result = concerns(&s, heard, &any, err);
    *same = repl_ok(result) && !any;
    if (*same)
        result = touched_check(&s, touched, same, err);
    repl_tree_scan_fini(&s);
    return result;
}
