/*
 * Points of a tree that are cut per file, where it has no moment without a change.
 *
 * A look at all that was heard of finds what has changed, and that is read. When
 * it has been, a file that was read is stable if nothing of it was heard of
 * meanwhile: no page that turned dirty, no direct write that began, ended or is
 * on its way, no other size or ctime. Then it has been read as it was all the
 * time since the look. One that is not is looked at and read again, it alone,
 * which takes less time than the round before.
 *
 * Names are as they were found in the one look, each at a moment of its own.
 * That they make up a tree all the same is seen to: a directory that has come to
 * lie within itself loses its name (tree_names.h), and what has no name but
 * exists has been moved to where nothing had been heard of yet: that is heard
 * of now, and looked at once more (LOOK_AGAIN before anything is read), before it
 * is taken for gone.
 *
 * A file may be gone before it has been read, often as another one was given its
 * name, which may be so over and over. So files are kept open from the look until
 * they have been read (tree_held.h). Of one that is gone by then nothing can be
 * written but by those who have it open: it is stable if no page of it turned
 * dirty, and its size and mtime are what they were. Where there were too many,
 * its names are looked at next.
 *
 * A file that was only made longer, as logs are, has been read as it was at the
 * look, for no more of it is told than its size was then: no page that turned
 * dirty is before its end, and the end is what it was.
 *
 * Nothing is forgotten. What is heard of between two looks at everything is kept,
 * also if a look at some files has gone by it (later), and the next look at
 * everything goes by all of it. So a change is either in no round yet, and was
 * heard of after the round's look began, or has been read, and is read once more.
 * That holds for direct writes that are on their way too: they are noted as
 * marks. With the agent's end the list is gone, and the next start looks at every
 * name: as in every round, what the index has of a file is of before it was read,
 * so that any later change gives it another ctime.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "epoch.h"
#include "source/tree/tree_internal.h"
#include "source/tree/tree_places.h"
#include "source/tree/tree_scan_internal.h"

/* --- another look ---------------------------------------------------------------------------- */

struct again {
    struct repl_tree *tree;
    struct repl_tree_scan scan;
    struct repl_tree_directory directory;
    struct repl_buffer linked; /* uint64_t: gone, and known to have other names */
};

struct other_name {
    uint64_t directory;
    uint32_t size;
    char name[REPL_NAME_MAX + 1];
};

static repl_result file_look(struct again *a, int path_fd, struct repl_tree_object *o,
                             struct repl_error *err)
{
    REPL_TRY(repl_tree_object_follow(&a->scan.changes, path_fd, o, err));
    return repl_tree_scan_touch(&a->scan, o, path_fd, err);
}

static bool is_file(const struct repl_tree_glance *now)
{
    return now->type == S_IFREG && !now->mount;
}

/* What the name leads to now. REPL_E_MISSING: nothing. */
static repl_result name_follow(struct again *a, const char *name, struct repl_error *err)
{
    struct repl_tree_glance now;
    struct repl_tree_object o;
    bool there;
    int path_fd;
    REPL_TRY(repl_tree_object_open(a->directory.fd, name, &path_fd, err));
    repl_result result = repl_tree_glance(&a->tree->root, path_fd, "", &now, err);
    bool file = repl_ok(result) && is_file(&now);
    a->scan.moved = false;
    if (file)
        result = file_look(a, path_fd, &o, err);
    close(path_fd);
    REPL_TRY(result);
    if (file)
        return repl_tree_name_set(&a->scan.changes, a->directory.object, name, strlen(name),
                                  o.object, err);
    REPL_TRY(
        repl_tree_scan_name(&a->scan, a->directory.object, a->directory.fd, name, &there, err));
    REPL_TRY(repl_tree_scan_directories(&a->scan, err));
    return there ? REPL_SUCCESS : (repl_result){REPL_E_MISSING};
}

static repl_result name_look(struct again *a, const struct other_name *n, struct repl_error *err)
{
    repl_result result = {REPL_E_MISSING};
    REPL_TRY(repl_tree_directory_open(&a->scan, n->directory, &a->directory, err));
    if (a->directory.fd >= 0)
        result = name_follow(a, n->name, err);
    if (result.code == REPL_E_MISSING)
        result = repl_tree_name_set(&a->scan.changes, n->directory, n->name, n->size, 0, err);
    return result;
}

/* It is gone, or has no name any more: what is found under the one that is known of it? */
static repl_result gone_follow(struct again *a, const struct repl_tree_object *o,
                               struct repl_error *err)
{
    struct repl_tree_txn *txn = &a->scan.changes.txn;
    struct other_name n = {.directory = o->parent};
    struct repl_tree_object now;
    size_t size;
    bool found;
    REPL_TRY(repl_tree_name_of(txn, o, n.name, &size, err));
    n.size = (uint32_t)size;
    if (size > 0)
        REPL_TRY(name_look(a, &n, err));
    REPL_TRY(repl_tree_object_get(txn, o->object, &now, &found, err));
    if (!found || now.links == 0)
        return REPL_SUCCESS;
    return repl_buffer_append(&a->linked, &o->object, sizeof o->object, err);
}

static bool is_linked(const struct again *a, uint64_t object)
{
    uint64_t one;
    for (size_t at = 0; at < a->linked.size; at += sizeof one) {
        memcpy(&one, a->linked.data + at, sizeof one);
        if (one == object)
            return true;
    }
    return false;
}

static repl_result others_find(struct again *a, struct repl_buffer *names, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    repl_result result =
        repl_tree_walk_begin(&a->scan.changes.txn, REPL_TREE_NAME, &key, &walk, err);
    while (repl_ok(result) && !walk.done) {
        const uint8_t *at = walk.key.mv_data;
        struct other_name n = {.directory = repl_tree_key_read(at),
                               .size = (uint32_t)(walk.key.mv_size - 16)};
        memcpy(n.name, at + 16, n.size);
        if (is_linked(a, repl_tree_key_read(walk.value.mv_data)))
            result = repl_buffer_append(names, &n, sizeof n, err);
        if (repl_ok(result))
            result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

/* The other names of what is gone: of each object one is known, so all names are gone through. */
static repl_result others_follow(struct again *a, struct repl_error *err)
{
    struct repl_buffer names = {0};
    if (a->linked.size == 0)
        return REPL_SUCCESS;
    repl_result result = others_find(a, &names, err);
    const struct other_name *n = (const void *)names.data;
    for (size_t i = 0; repl_ok(result) && i < names.size / sizeof *n; i++)
        result = name_look(a, &n[i], err);
    repl_buffer_fini(&names);
    return result;
}

static repl_result object_follow(struct again *a, uint64_t object, struct repl_error *err)
{
    struct repl_tree_glance now;
    struct repl_tree_object o, after;
    bool found;
    int fd;
    REPL_TRY(repl_tree_object_get(&a->scan.changes.txn, object, &o, &found, err));
    if (!found)
        return REPL_SUCCESS;
    repl_result result = repl_tree_handle_open(&a->tree->root, &o.handle, O_PATH, &fd, err);
    if (result.code == REPL_E_MISSING)
        return gone_follow(a, &o, err);
    REPL_TRY(result);
    result = repl_tree_glance(&a->tree->root, fd, "", &now, err);
    if (repl_ok(result))
        result = now.links == 0 ? (repl_result){REPL_E_MISSING} : file_look(a, fd, &after, err);
    close(fd);
    return result.code == REPL_E_MISSING ? gone_follow(a, &o, err) : result;
}

static repl_result again_follow(struct again *a, bool names, struct repl_error *err)
{
    const struct repl_buffer *unstable = &a->tree->unstable;
    uint64_t object;
    if (names)
        REPL_TRY(repl_tree_follow_names(&a->scan, &a->tree->hearing, err));
    for (size_t at = 0; at < unstable->size; at += sizeof object) {
        memcpy(&object, unstable->data + at, sizeof object);
        REPL_TRY(object_follow(a, object, err));
        REPL_TRY(repl_tree_scan_commit_some(&a->scan, err));
    }
    REPL_TRY(others_follow(a, err));
    return repl_tree_scan_settle(&a->scan, err);
}

repl_result repl_tree_gather_again(struct repl_tree *tree, struct repl_tree_found *found,
                                   struct repl_error *err)
{
    struct again a = {.tree = tree, .directory = {.fd = -1}};
    bool names = repl_tree_hides(tree);
    REPL_TRY(repl_tree_marks_take(tree, found, err));
    const struct repl_tree_scan_options options = repl_tree_scan_options_of(tree);
    REPL_TRY(repl_tree_follow_begin(&a.scan, &options, &tree->hearing, found, err));
    repl_result result = again_follow(&a, names, err);
    repl_tree_directory_close(&a.directory);
    repl_buffer_fini(&a.linked);
    REPL_TRY(repl_tree_follow_end(&a.scan, result, err));
    tree->unstable.size = 0;
    tree->early = names;
    if (!tree->early)
        repl_tree_heard_join(&tree->later, &tree->hearing);
    return REPL_SUCCESS;
}

void repl_tree_early_keep(struct repl_tree *tree)
{
    if (tree->early)
        repl_tree_heard_join(&tree->heard_since, &tree->hearing);
    tree->early = false;
}

bool repl_tree_hides(const struct repl_tree *tree)
{
    return tree->hidden.size > 0;
}

/* --- whether that was enough ----------------------------------------------------------------- */

/* Nothing of it that was told of, since it is longer now. */
static repl_result is_longer_only(const struct repl_tree *tree, const struct repl_tree_object *o,
                                  bool *longer, struct repl_error *err)
{
    struct repl_buffer pages = {0};
    uint64_t from;
    bool any, whole;
    *longer = repl_tree_dirty_is_precise(tree->dirty) &&
              repl_tree_held_end_is_same(&tree->held, o, &from);
    if (!*longer)
        return REPL_SUCCESS;
    repl_result result =
        repl_tree_marks_find(&tree->heard_since.marks, o->inode, &pages, &any, &whole, err);
    const struct repl_tree_pages *marked = (const void *)pages.data;
    *longer = !whole;
    for (size_t i = 0; i < pages.size / sizeof *marked; i++)
        *longer = *longer && marked[i].page >= from / REPL_PAGE_SIZE;
    repl_buffer_fini(&pages);
    return result;
}

/* heard: of it, since it was looked at. */
static repl_result is_stable(struct repl_tree *tree, struct repl_tree_txn *txn, uint64_t object,
                             bool heard, bool *stable, struct repl_error *err)
{
    struct repl_tree_glance now;
    struct repl_tree_object o;
    bool found;
    int held = repl_tree_held_fd(&tree->held, object), fd = held;
    REPL_TRY(repl_tree_object_get(txn, object, &o, &found, err));
    *stable = !found || o.node.kind != REPL_NODE_FILE;
    if (*stable)
        return REPL_SUCCESS;
    repl_result result = REPL_SUCCESS;
    if (held < 0)
        result = repl_tree_handle_open(&tree->root, &o.handle, O_PATH, &fd, err);
    tree->unread |= result.code == REPL_E_MISSING;
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS;
    REPL_TRY(result);
    result = repl_tree_glance(&tree->root, fd, "", &now, err);
    if (held < 0)
        close(fd);
    REPL_TRY(result);
    bool same = now.size == o.node.size && now.mtime_ns == o.node.mtime_ns;
    if (held >= 0 && now.links == 0) /* that it lost its name was heard of, and is its new ctime */
        *stable = same && !repl_tree_marks_any(&tree->heard_since.marks, o.inode);
    else if (held >= 0 && now.size > o.node.size)
        return is_longer_only(tree, &o, stable, err);
    else
        *stable = same && now.ctime_ns == o.ctime_ns && !heard;
    return REPL_SUCCESS;
}

static repl_result touched_judge(struct repl_tree *tree, struct repl_tree_scan *s,
                                 const struct repl_buffer *heard, struct repl_error *err)
{
    struct repl_buffer *touched = &tree->touched;
    uint64_t object, before = 0;
    if (touched->size > 0)
        qsort(touched->data, touched->size / sizeof object, sizeof object, repl_tree_numbers_order);
    for (size_t at = 0; at < touched->size; at += sizeof object) {
        memcpy(&object, touched->data + at, sizeof object);
        bool stable, again = object == before;
        before = object;
        if (again)
            continue;
        bool any = heard->size > 0 && bsearch(&object, heard->data, heard->size / sizeof object,
                                              sizeof object, repl_tree_numbers_order) != NULL;
        REPL_TRY(is_stable(tree, &s->changes.txn, object, any, &stable, err));
        if (!stable)
            REPL_TRY(repl_buffer_append(&tree->unstable, &object, sizeof object, err));
    }
    return REPL_SUCCESS;
}

static repl_result judge(struct repl_tree *tree, struct repl_error *err)
{
    const struct repl_tree_scan_options options = repl_tree_scan_options_of(tree);
    struct repl_buffer heard = {0};
    struct repl_tree_scan s;
    REPL_TRY(repl_tree_scan_begin(&s, &options, NULL, err));
    repl_result result = repl_tree_heard_objects(&s, &tree->heard_since, &heard, err);
    if (repl_ok(result))
        result = touched_judge(tree, &s, &heard, err);
    repl_buffer_fini(&heard);
    repl_tree_scan_fini(&s);
    return result;
}

/* A direct write that ends between the two is among the marks. */
static repl_result writes_hear(struct repl_tree *tree, struct repl_error *err)
{
    REPL_TRY(repl_tree_dirty_on_its_way(tree->dirty, &tree->heard_since.marks, err));
    REPL_TRY(repl_tree_marks_hear(tree, err));
    repl_tree_marks_sort(&tree->heard_since.marks);
    return REPL_SUCCESS;
}

static repl_result changes_judge(struct repl_tree *tree, struct repl_error *err)
{
    REPL_TRY(writes_hear(tree, err));
    return judge(tree, err);
}

repl_result repl_tree_unstable(struct repl_tree *tree, bool *same, uint64_t *count,
                               struct repl_error *err)
{
    *same = false;
    *count = 0;
    tree->unread = false;
    repl_tree_early_keep(tree);
    if (tree->look == REPL_TREE_LOOK_FILES)
        REPL_TRY(repl_tree_is_same(tree, same, err));
    repl_result result = *same ? REPL_SUCCESS : changes_judge(tree, err);
    repl_tree_held_close(&tree->held);
    REPL_TRY(result);
    if (*same)
        return REPL_SUCCESS;
    tree->touched.size = 0;
    bool unsure = repl_tree_is_unsure(tree) || tree->unread;
    *count = unsure ? REPL_UNSTABLE_UNKNOWN : tree->unstable.size / sizeof(uint64_t);
    return REPL_SUCCESS;
}
