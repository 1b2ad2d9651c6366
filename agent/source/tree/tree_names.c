#include "source/tree/tree_names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "source/tree/tree_dirty.h"
#include "source/tree/tree_mapping.h"

/* An object that changes while it is looked at is looked at so often. */
#define STATE_TRIES 8

static repl_result note(struct repl_tree_changes *c, uint64_t object, enum repl_tree_pending what,
                        const char *name, size_t size, struct repl_error *err)
{
    c->writes++;
    c->count += what != REPL_TREE_PENDING_CONTENT; /* what differs of that is not known yet */
    return c->full ? REPL_SUCCESS : repl_tree_pending_add(&c->txn, object, what, name, size, err);
}

/* --- objects --------------------------------------------------------------------------------- */

static bool nodes_equal(const struct repl_node *a, const struct repl_node *b)
{
    return a->kind == b->kind && a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
           a->major == b->major && a->minor == b->minor && a->flags == b->flags &&
           a->project == b->project && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           a->target_size == b->target_size &&
           (a->target_size == 0 || memcmp(a->target, b->target, a->target_size) == 0);
}

/* Its number: the one it has, or a new one. *before: as it was; its kind GONE if it is new. */
static repl_result number_find(struct repl_tree_changes *c, struct repl_tree_object *object,
                               struct repl_tree_object *before, struct repl_error *err)
{
    bool found = false;
    before->node.kind = REPL_NODE_GONE;
    REPL_TRY(repl_tree_object_find(&c->txn, &object->handle, &object->object, err));
    if (object->object != 0)
        REPL_TRY(repl_tree_object_get(&c->txn, object->object, before, &found, err));
    if (found)
        return REPL_SUCCESS;
    struct repl_tree_meta *meta = repl_tree_meta(c->txn.index);
    bool root = object->handle.size == c->root->handle.size && !object->mount &&
                memcmp(object->handle.bytes, c->root->handle.bytes, object->handle.size) == 0;
    object->object = root ? REPL_OBJECT_ROOT : meta->next_object++;
    return repl_tree_object_identify(&c->txn, object, err);
}

/* The pages at the end it had and the one it has: what is behind in them is zeros. */
static repl_result ends_note(uint64_t before, uint64_t now, struct repl_buffer *pages,
                             struct repl_error *err)
{
    if (before == now)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_pages_note(pages, before / REPL_PAGE_SIZE * REPL_PAGE_SIZE, 1, err));
    return repl_tree_pages_note(pages, now / REPL_PAGE_SIZE * REPL_PAGE_SIZE, 1, err);
}

/* Where in the file it is to be read, into c->wanted; *all: everywhere. */
static repl_result wanted_find(struct repl_tree_changes *c, int fd,
                               const struct repl_tree_object *object,
                               const struct repl_tree_object *before, bool *all,
                               struct repl_error *err)
{
    bool known, marked, whole;
    *all = true;
    c->wanted.size = 0;
    if (!c->mapped)
        return REPL_SUCCESS;
    if (object->node.size < REPL_TREE_MAPPED_MIN)
        return repl_tree_mapping_drop(&c->txn, object->object, err);
    REPL_TRY(repl_tree_mapping_follow(&c->txn, object->object, fd, object->node.size, &c->wanted,
                                      &known, err));
    if (!known || c->marks == NULL || object->journaled || before->node.kind != REPL_NODE_FILE)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_marks_find(c->marks, object->inode, &c->wanted, &marked, &whole, err));
    /* A file that was extended, where that turns no page dirty, as well: the extension explains its
     * mtime, but may hide a direct write of which begin and end went unnoticed, which nothing that
     * the kernel counts would tell. */
    *all = whole || (!marked && object->node.mtime_ns != before->node.mtime_ns);
    return ends_note(before->node.size, object->node.size, &c->wanted, err);
}

static repl_result data_follow(struct repl_tree_changes *c, int fd,
                               const struct repl_tree_object *object,
                               const struct repl_tree_object *before, struct repl_error *err)
{
    bool remapped, all;
    REPL_TRY(repl_tree_data_find(fd, object->node.size, &c->data, err));
    REPL_TRY(wanted_find(c, fd, object, before, &all, err));
    REPL_TRY(repl_tree_content_follow(&c->txn, object->object, object->node.size, &c->data,
                                      all ? NULL : &c->wanted, c->pages, &remapped, err));
    if (remapped)
        REPL_TRY(note(c, object->object, REPL_TREE_PENDING_EXTENTS, NULL, 0, err));
    return note(c, object->object, REPL_TREE_PENDING_CONTENT, NULL, 0, err);
}

static repl_result content_follow(struct repl_tree_changes *c, int path_fd,
                                  const struct repl_tree_object *object,
                                  const struct repl_tree_object *before, struct repl_error *err)
{
    int fd = repl_tree_object_reopen(path_fd);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "opening it");
    repl_result result = data_follow(c, fd, object, before, err);
    close(fd);
    return result;
}

static void stand_in_identify(const struct repl_tree_changes *c, struct repl_tree_object *object)
{
    if (!object->mount || c->root->snapshot == 0)
        return;
    memcpy(object->handle.bytes, &c->directory, 8);
    memcpy(object->handle.bytes + 8, &c->hash, 8);
}

/* What it is, and its attributes. Where nobody looks whether they are of one moment (files), here.
 */
static repl_result state_read(struct repl_tree_changes *c, int fd, struct repl_tree_object *object,
                              struct repl_error *err)
{
    struct repl_tree_glance now;
    for (unsigned tries = c->files ? STATE_TRIES : 1; tries > 0; tries--) {
        *object = (struct repl_tree_object){0};
        REPL_TRY(repl_tree_object_read(c->root, fd, c->settle, object, err));
        if (object->mount)
            return REPL_SUCCESS;
        REPL_TRY(repl_tree_attributes_read(fd, &c->attributes, err));
        if (tries > 1)
            REPL_TRY(repl_tree_glance(c->root, fd, "", &now, err));
        if (tries > 1 && now.ctime_ns == object->ctime_ns)
            break;
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_object_follow(struct repl_tree_changes *c, int fd,
                                    struct repl_tree_object *object, struct repl_error *err)
{
    struct repl_tree_object before;
    bool attributes_changed = false;
    REPL_TRY(state_read(c, fd, object, err));
    stand_in_identify(c, object);
    REPL_TRY(number_find(c, object, &before, err));
    bool is_new = before.node.kind == REPL_NODE_GONE;
    if (!is_new) {
        object->links = before.links;
        object->parent = before.parent;
        object->hash = before.hash;
    }
    if (!object->mount)
        REPL_TRY(repl_tree_attributes_follow(&c->txn, object->object, &c->attributes, c->pages,
                                             &attributes_changed, err));
    if (is_new || attributes_changed || !nodes_equal(&before.node, &object->node))
        REPL_TRY(note(c, object->object, REPL_TREE_PENDING_NODE, NULL, 0, err));
    if (object->node.kind == REPL_NODE_FILE && !object->mount)
        REPL_TRY(content_follow(c, fd, object, &before, err));
    c->writes++;
    return repl_tree_object_put(&c->txn, object, err);
}

/* --- names ----------------------------------------------------------------------------------- */

static repl_result link_take(struct repl_tree_changes *c, uint64_t object, struct repl_error *err)
{
    struct repl_tree_object o;
    bool found;
    REPL_TRY(repl_tree_object_get(&c->txn, object, &o, &found, err));
    if (!found)
        return REPL_SUCCESS;
    if (o.links > 0)
        o.links--;
    if (o.links == 0)
        REPL_TRY(repl_buffer_append(&c->nameless, &object, sizeof object, err));
    return repl_tree_object_put(&c->txn, &o, err);
}

static repl_result link_give(struct repl_tree_changes *c, uint64_t object, uint64_t directory,
                             const char *name, size_t size, struct repl_error *err)
{
    struct repl_tree_object o;
    bool found;
    REPL_TRY(repl_tree_object_get(&c->txn, object, &o, &found, err));
    if (!found)
        return repl_fail(err, REPL_E_INTERNAL, "a name for object %llu, which is not there",
                         (unsigned long long)object);
    o.links++;
    o.parent = directory;
    o.hash = repl_xxh3(name, size);
    if (c->files && o.node.kind == REPL_NODE_DIRECTORY)
        REPL_TRY(repl_buffer_append(&c->moved, &object, sizeof object, err));
    return repl_tree_object_put(&c->txn, &o, err);
}

repl_result repl_tree_name_of(struct repl_tree_txn *txn, const struct repl_tree_object *o,
                              char name[REPL_NAME_MAX], size_t *size, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    *size = 0;
    repl_tree_key_u64(&key, o->parent);
    repl_tree_key_u64(&key, o->hash);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_NAME, &key, &walk, err);
    while (repl_ok(result) && *size == 0 && repl_tree_walk_is_at(&walk, o->parent)) {
        if (repl_tree_key_read(walk.value.mv_data) == o->object) {
            *size = walk.key.mv_size - 16;
            memcpy(name, (const uint8_t *)walk.key.mv_data + 16, *size);
        }
        result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

/* Of a directory, which has one name: the one it was found under last. */
static repl_result other_name_drop(struct repl_tree_changes *c, uint64_t object,
                                   struct repl_error *err)
{
    struct repl_tree_object o;
    char name[REPL_NAME_MAX];
    size_t size;
    bool found;
    REPL_TRY(repl_tree_object_get(&c->txn, object, &o, &found, err));
    if (!found || o.links == 0 || o.node.kind != REPL_NODE_DIRECTORY)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_name_of(&c->txn, &o, name, &size, err));
    return size > 0 ? repl_tree_name_set(c, o.parent, name, size, 0, err) : REPL_SUCCESS;
}

repl_result repl_tree_name_set(struct repl_tree_changes *c, uint64_t directory, const char *name,
                               size_t size, uint64_t object, struct repl_error *err)
{
    struct repl_tree_key key, child = {0};
    uint64_t before;
    REPL_TRY(repl_tree_name_get(&c->txn, directory, name, size, &before, err));
    if (before == object)
        return REPL_SUCCESS;
    if (object != 0)
        REPL_TRY(other_name_drop(c, object, err));
    repl_tree_name_key(directory, name, size, &key);
    if (object != 0) {
        repl_tree_key_u64(&child, object);
        REPL_TRY(repl_tree_put(&c->txn, REPL_TREE_NAME, &key, child.bytes, child.size, err));
        REPL_TRY(link_give(c, object, directory, name, size, err));
    } else {
        REPL_TRY(repl_tree_del(&c->txn, REPL_TREE_NAME, &key, err));
    }
    if (before != 0)
        REPL_TRY(link_take(c, before, err));
    return note(c, directory, REPL_TREE_PENDING_NAME, name, size, err);
}

/* --- what has no name ------------------------------------------------------------------------ */

static uint64_t object_at(const struct repl_buffer *objects, size_t i)
{
    uint64_t object;
    memcpy(&object, objects->data + i * sizeof object, sizeof object);
    return object;
}

/* One that is open somewhere can be found by its handle, and is gone all the same. */
static bool has_links(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && status.st_nlink > 0;
}

static repl_result is_there(const struct repl_tree_changes *c, const struct repl_tree_object *o,
                            bool *there, struct repl_error *err)
{
    int fd;
    *there = false;
    if (o->mount)
        return REPL_SUCCESS;
    repl_result result = repl_tree_handle_open(c->root, &o->handle, O_PATH, &fd, err);
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS;
    REPL_TRY(result);
    *there = has_links(fd);
    close(fd);
    return REPL_SUCCESS;
}

repl_result repl_tree_nameless_look(struct repl_tree_changes *c, bool *hidden,
                                    struct repl_error *err)
{
    *hidden = false;
    for (size_t i = 0; i < c->nameless.size / sizeof(uint64_t) && !*hidden; i++) {
        struct repl_tree_object o;
        bool found;
        REPL_TRY(repl_tree_object_get(&c->txn, object_at(&c->nameless, i), &o, &found, err));
        if (found && o.links == 0)
            REPL_TRY(is_there(c, &o, hidden, err));
    }
    return REPL_SUCCESS;
}

/* The names in a directory that is gone: nothing is said of them, as it is. */
static repl_result names_drop(struct repl_tree_changes *c, uint64_t directory,
                              struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_buffer children = {0};
    struct repl_tree_walk walk;
    repl_tree_key_u64(&key, directory);
    repl_result result = repl_tree_walk_begin(&c->txn, REPL_TREE_NAME, &key, &walk, err);
    while (repl_ok(result) && repl_tree_walk_is_at(&walk, directory)) {
        uint64_t child = repl_tree_key_read(walk.value.mv_data);
        result = repl_buffer_append(&children, &child, sizeof child, err);
        if (repl_ok(result))
            result = repl_tree_walk_remove(&walk, err);
    }
    repl_tree_walk_end(&walk);
    for (size_t at = 0; repl_ok(result) && at < children.size; at += sizeof(uint64_t)) {
        uint64_t child;
        memcpy(&child, children.data + at, sizeof child);
        result = link_take(c, child, err);
    }
    repl_buffer_fini(&children);
    return result;
}

static repl_result object_drop(struct repl_tree_changes *c, const struct repl_tree_object *o,
                               struct repl_error *err)
{
    REPL_TRY(repl_tree_content_drop(&c->txn, o->object, c->pages, err));
    REPL_TRY(repl_tree_object_del(&c->txn, o, err));
    if (o->node.kind == REPL_NODE_DIRECTORY)
        REPL_TRY(names_drop(c, o->object, err));
    return note(c, o->object, REPL_TREE_PENDING_NODE, NULL, 0, err);
}

/* *kept: it is there all the same, and is looked for once more. */
static repl_result nameless_keep(struct repl_tree_changes *c, const struct repl_tree_object *o,
                                 bool *kept, struct repl_error *err)
{
    *kept = false;
    if (c->hidden == NULL)
        return REPL_SUCCESS;
    REPL_TRY(is_there(c, o, kept, err));
    return *kept ? repl_buffer_append(c->hidden, &o->object, sizeof o->object, err) : REPL_SUCCESS;
}

repl_result repl_tree_nameless_drop(struct repl_tree_changes *c, struct repl_error *err)
{
    /* what was below is found nameless in turn */
    for (size_t i = 0; i < c->nameless.size / sizeof(uint64_t); i++) {
        struct repl_tree_object o;
        bool found, kept;
        REPL_TRY(repl_tree_object_get(&c->txn, object_at(&c->nameless, i), &o, &found, err));
        if (!found || o.links > 0 || o.object == REPL_OBJECT_ROOT)
            continue;
        REPL_TRY(nameless_keep(c, &o, &kept, err));
        if (!kept)
            REPL_TRY(object_drop(c, &o, err));
    }
    c->nameless.size = 0;
    return REPL_SUCCESS;
}

/* --- up to the top ------------------------------------------------------------------------------
 */

/* From a directory to those above it. Within a round there may be a circle of them: one of every so
 * many steps, ever more of them (Brent), is remembered, and come by again. */
struct climb {
    uint64_t at, mark;
    unsigned steps, limit;
};

/* False: it has been there. */
static bool climb_to(struct climb *climb, uint64_t above)
{
    if (climb->steps == climb->limit) {
        climb->mark = climb->at;
        climb->steps = 0;
        climb->limit = 2 * climb->limit + 1;
    }
    climb->steps++;
    climb->at = above;
    return above != climb->mark;
}

/* --- circles --------------------------------------------------------------------------------- */

static repl_result circle_find(struct repl_tree_txn *txn, uint64_t directory, bool *circle,
                               struct repl_error *err)
{
    struct climb climb = {.at = directory};
    *circle = false;
    while (!*circle && climb.at != REPL_OBJECT_ROOT) {
        struct repl_tree_object o;
        bool found;
        REPL_TRY(repl_tree_object_get(txn, climb.at, &o, &found, err));
        if (!found || o.links == 0)
            break; /* it is dropped with all below it */
        bool goes_on = climb_to(&climb, o.parent);
        *circle = climb.at == directory;
        if (!goes_on)
            break; /* others' circle */
    }
    return REPL_SUCCESS;
}

/* Names are looked at one after the other. A directory may be found in one that was below it
 * before, and is known there still: that one was moved out of it after what is followed here was
 * heard, so where it is now will be heard of, or has been since. */
repl_result repl_tree_circles_break(struct repl_tree_changes *c, struct repl_error *err)
{
    for (size_t i = 0; i < c->moved.size / sizeof(uint64_t); i++) {
        bool circle;
        uint64_t directory = object_at(&c->moved, i);
        REPL_TRY(circle_find(&c->txn, directory, &circle, err));
        if (circle)
            REPL_TRY(other_name_drop(c, directory, err));
    }
    c->moved.size = 0;
    return REPL_SUCCESS;
}

/* --- paths ----------------------------------------------------------------------------------- */

/* Puts the name, and a slash, before what is there. */
static repl_result path_prepend(struct repl_buffer *path, const void *name, size_t size,
                                struct repl_error *err)
{
    size_t behind = path->size;
    if (repl_buffer_extend(path, size + 1) == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a path");
    memmove(path->data + size + 1, path->data, behind);
    memcpy(path->data, name, size);
    path->data[size] = '/';
    return REPL_SUCCESS;
}

static repl_result name_prepend(struct repl_tree_txn *txn, const struct repl_tree_object *o,
                                struct repl_buffer *path, struct repl_error *err)
{
    char name[REPL_NAME_MAX];
    size_t size;
    REPL_TRY(repl_tree_name_of(txn, o, name, &size, err));
    return size > 0 ? path_prepend(path, name, size, err) : REPL_SUCCESS;
}

repl_result repl_tree_path_of(struct repl_tree_txn *txn, uint64_t directory, char **path,
                              struct repl_error *err)
{
    struct repl_buffer text = {0};
    struct climb climb = {.at = directory};
    repl_result result = REPL_SUCCESS;
    *path = NULL;
    while (repl_ok(result) && climb.at != REPL_OBJECT_ROOT) {
        struct repl_tree_object o;
        bool found;
        result = repl_tree_object_get(txn, climb.at, &o, &found, err);
        if (!repl_ok(result) || !found || o.links == 0)
            break;
        result = name_prepend(txn, &o, &text, err);
        if (!climb_to(&climb, o.parent))
            break;
    }
    if (repl_ok(result))
        result = repl_buffer_append(&text, "", 1, err);
    if (!repl_ok(result)) {
        repl_buffer_fini(&text);
        return result;
    }
    *path = (char *)text.data;
    return REPL_SUCCESS;
}
