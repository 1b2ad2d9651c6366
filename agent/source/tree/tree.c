#include "source/tree/tree_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/ensure.h"
#include "block/mounts.h"
#include "loop/loop.h"
#include "source/tree/tree_dirty.h"
#include "source/tree/tree_names.h"
#include "source/tree/tree_snapshot.h"

/* Objects are numbered from here on, the higher the later the index was begun: fewer than 2^32
 * objects are made between two points. */
#define FIRST_OBJECT(next_seq) (((next_seq) << 32) + REPL_OBJECT_ROOT + 1)

#define SPACE_SIZE_MIN (UINT64_C(4) << 20)

static const struct repl_tree_news no_news = {.again = UINT64_MAX};

/* What has been heard goes there. */
static struct repl_tree_heard *heard_now(struct repl_tree *tree)
{
    return tree->overlapping ? &tree->overlap : &tree->heard_since;
}

/* --- opening --------------------------------------------------------------------------------- */

/* The part of struct xfs_fsop_geom_v1 (xfs' own header is not always there) that matters. */
struct xfs_geometry {
    uint8_t before[64];
    uint8_t uuid[16];
    uint8_t behind[32];
};
#define XFS_GEOMETRY _IOR('X', 100, struct xfs_geometry)

/* What stays over a mount of it elsewhere. statfs has it of ext4 and btrfs, made of their UUIDs;
 * that of xfs is the number of its device. */
static repl_result filesystem_identify(int fd, uint32_t id[4], struct repl_error *err)
{
    struct xfs_geometry xfs = {0};
    struct statfs fs;
    if (fstatfs(fd, &fs) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "statfs");
    memset(id, 0, 4 * sizeof *id);
    if (fs.f_type != XFS_SUPER_MAGIC) {
        memcpy(id, &fs.f_fsid, sizeof fs.f_fsid);
        return REPL_SUCCESS;
    }
    if (ioctl(fd, XFS_GEOMETRY, &xfs) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "the UUID of its xfs");
    memcpy(id, xfs.uuid, sizeof xfs.uuid);
    return REPL_SUCCESS;
}

repl_result repl_tree_identify(const char *path, char *identity, size_t size,
                               struct repl_error *err)
{
    struct repl_tree_root root;
    uint32_t id[4];
    REPL_TRY(repl_tree_root_open(path, &root, err));
    repl_result result = repl_forward(filesystem_identify(root.fd, id, err), err, "%s", path);
    repl_tree_root_close(&root);
    REPL_TRY(result);
    int at = snprintf(identity, size, "tree:%08x%08x%08x%08x:%x:", id[0], id[1], id[2], id[3],
                      (unsigned)root.handle.type);
    for (uint32_t i = 0; i < root.handle.size && (size_t)at + 3 < size; i++)
        at += snprintf(identity + at, size - (size_t)at, "%02x", root.handle.bytes[i]);
    return REPL_SUCCESS;
}

static repl_result index_begin(struct repl_tree *tree, uint64_t space_size, struct repl_error *err)
{
    struct repl_tree_txn txn;
    uint64_t size = space_size > SPACE_SIZE_MIN ? space_size : SPACE_SIZE_MIN;
    REPL_TRY(repl_tree_begin(tree->index, true, &txn, err));
    repl_result result = repl_tree_space_reach(&txn, size, err);
    if (repl_ok(result)) /* what an earlier run has sent, and does not know whether it arrived */
        result = repl_tree_pending_again(&txn, 0, err);
    if (!repl_ok(result)) {
        repl_tree_abort(&txn);
        return result;
    }
    return repl_tree_commit(&txn, err);
}

/* What lies in memory only is never written out, so that of what is stored through a mapping there
 * is no sign: neither a page that turns dirty nor a change of the ctime. */
static repl_result kind_check(const struct repl_tree *tree, struct repl_error *err)
{
    struct statfs fs;
    if (fstatfs(tree->root.fd, &fs) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", tree->root.path);
    if (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s lies in memory (tmpfs), where not all changes of a file show: protect "
                         "a directory of a filesystem on a disk",
                         tree->root.path);
    return REPL_SUCCESS;
}

static void watch_open(struct repl_tree *tree)
{
    struct repl_error why;
    int fd = -1;
    repl_result result = repl_tree_filesystem_open(&tree->root, &fd, &why);
    if (repl_ok(result))
        result = repl_tree_watch_open(&tree->root, fd, &tree->watch, &why);
    if (fd >= 0)
        close(fd);
    if (repl_ok(result))
        result = repl_tree_dirty_open(&tree->root, &tree->dirty, &why);
    if (repl_ok(result))
        return;
    repl_tree_watch_close(tree->watch);
    tree->watch = NULL;
    tree->dirty = NULL;
    snprintf(tree->unwatched, sizeof tree->unwatched, "%.*s", (int)sizeof tree->unwatched - 1,
             why.text);
}

static repl_result parts_open(struct repl_tree *tree, const struct repl_tree_options *options,
                              struct repl_error *err)
{
    const struct repl_tree_index_options index = {.path = options->index_path,
                                                  .volume = options->volume,
                                                  .first_object = FIRST_OBJECT(options->next_seq),
                                                  .full_wanted = options->next_seq > 1,
                                                  .told_to = options->sent_to};
    dev_t number;
    REPL_TRY(repl_tree_root_open(options->path, &tree->root, err));
    REPL_TRY(kind_check(tree, err));
    if (!repl_ok(repl_mount_of(tree->root.fd, tree->root.path, &number, &tree->device, NULL)))
        tree->device = makedev(tree->root.device_major, tree->root.device_minor);
    REPL_TRY(repl_tree_exclude_new(options->exclude, &tree->exclude, err));
    if (repl_tree_has_snapshot_place(&tree->root))
        tree->exclude.own = REPL_TREE_SNAPSHOT_PLACE;
    if (options->snapshots)
        REPL_TRY(repl_tree_snapshots_open(&tree->root, &options->volume, &tree->snapshots, err));
    else
        repl_tree_snapshots_clean(&tree->root, &options->volume);
    REPL_TRY(repl_tree_index_open(&index, &tree->index, err));
    watch_open(tree);
    return index_begin(tree, options->space_size, err);
}

repl_result repl_tree_open(const struct repl_tree_options *options, struct repl_tree **out,
                           struct repl_error *err)
{
    struct repl_tree *tree = calloc(1, sizeof *tree);
    if (tree == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a tree");
    tree->root.fd = tree->copy.fd = -1;
    tree->news = tree->heard = no_news;
    tree->opened = tree->content_unsure = true;
    repl_result result = parts_open(tree, options, err);
    if (!repl_ok(result)) {
        repl_tree_close(tree);
        return result;
    }
    *out = tree;
    return REPL_SUCCESS;
}

void repl_tree_close(struct repl_tree *tree)
{
    if (tree == NULL)
        return;
    repl_tree_records_end(&tree->records);
    repl_tree_watch_close(tree->watch);
    repl_tree_dirty_close(tree->dirty);
    repl_tree_heard_fini(&tree->heard_since);
    repl_tree_heard_fini(&tree->hearing);
    repl_tree_heard_fini(&tree->overlap);
    repl_tree_heard_fini(&tree->later);
    repl_tree_held_close(&tree->held);
    repl_buffer_fini(&tree->hidden);
    repl_buffer_fini(&tree->unstable);
    repl_buffer_fini(&tree->touched);
    repl_tree_root_close(&tree->copy);
    repl_tree_snapshots_close(tree->snapshots);
    repl_tree_index_close(tree->index);
    repl_tree_exclude_fini(&tree->exclude);
    repl_tree_root_close(&tree->root);
    free(tree);
}

void repl_tree_stop(struct repl_tree *tree)
{
    atomic_store(&tree->stop, true);
}

uint64_t repl_tree_space_size(const struct repl_tree *tree)
{
    return repl_tree_meta(tree->index)->space_size;
}

bool repl_tree_full_wanted(const struct repl_tree *tree)
{
    return repl_tree_meta(tree->index)->full_wanted;
}

bool repl_tree_is_new(const struct repl_tree *tree)
{
    return repl_tree_meta(tree->index)->stamp == REPL_TREE_STAMP_FIRST;
}

/* --- what is heard --------------------------------------------------------------------------- */

bool repl_tree_is_watched(const struct repl_tree *tree)
{
    return tree->watch != NULL;
}

const char *repl_tree_unwatched(const struct repl_tree *tree)
{
    return tree->unwatched;
}

int repl_tree_watch_fd_of(const struct repl_tree *tree)
{
    return tree->watch != NULL ? repl_tree_watch_fd(tree->watch) : -1;
}

repl_result repl_tree_hear(struct repl_tree *tree, struct repl_error *err)
{
    if (tree->watch == NULL)
        return REPL_SUCCESS;
    return repl_tree_watch_drain(tree->watch, heard_now(tree), err);
}

void repl_tree_audit(struct repl_tree *tree)
{
    tree->auditing = true;
}

bool repl_tree_is_unsure(const struct repl_tree *tree)
{
    return !tree->scanned || tree->heard_since.lost || tree->later.lost || tree->overlap.lost ||
           (tree->early && tree->hearing.lost);
}

static bool is_empty(const struct repl_tree_heard *heard)
{
    return heard->count == 0 && heard->marks.size == 0 && !heard->lost;
}

bool repl_tree_is_quiet(const struct repl_tree *tree)
{
    return is_empty(&tree->heard_since) && is_empty(&tree->later) && !tree->early &&
           (tree->dirty == NULL || repl_tree_dirty_is_quiet(tree->dirty));
}

bool repl_tree_is_idle(const struct repl_tree *tree)
{
    const struct repl_tree_news *news = &tree->news;
    return tree->watch != NULL && tree->scanned && repl_tree_is_quiet(tree) &&
           !atomic_load(&tree->torn) && !tree->content_unsure && news->settled == 0 &&
           news->again == UINT64_MAX && !news->full;
}

dev_t repl_tree_device(const struct repl_tree *tree)
{
    return tree->device;
}

/* --- a round --------------------------------------------------------------------------------- */

/* The path may lead elsewhere by now. */
static repl_result root_check(const struct repl_tree *tree, struct repl_error *err)
{
    struct repl_tree_root now;
    REPL_TRY(repl_tree_root_open(tree->root.path, &now, err));
    bool same = now.handle.size == tree->root.handle.size &&
                now.handle.type == tree->root.handle.type &&
                now.device_major == tree->root.device_major &&
                now.device_minor == tree->root.device_minor &&
                memcmp(now.handle.bytes, tree->root.handle.bytes, now.handle.size) == 0;
    repl_tree_root_close(&now);
    if (!same)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is another directory than the one that is protected: is the "
                         "filesystem mounted?",
                         tree->root.path);
    return REPL_SUCCESS;
}

static repl_result news_follow(struct repl_tree *tree, struct repl_error *err)
{
    const struct repl_tree_news *heard = &tree->heard;
    struct repl_tree_meta *meta = repl_tree_meta(tree->index);
    struct repl_tree_txn txn;
    bool full_wanted = tree->full || (meta->full_wanted && !heard->full);
    bool told = heard->told_size != 0 && heard->told_size != meta->told_size;
    if (heard->settled == 0 && heard->again == UINT64_MAX && full_wanted == meta->full_wanted &&
        !told)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_begin(tree->index, true, &txn, err));
    txn.changed = told || full_wanted != meta->full_wanted;
    meta->full_wanted = full_wanted;
    if (told)
        meta->told_size = heard->told_size;
    repl_result result = repl_tree_pending_settle(&txn, heard->settled, err);
    if (repl_ok(result) && heard->again != UINT64_MAX)
        result = repl_tree_pending_again(&txn, heard->again, err);
    if (repl_ok(result))
        return repl_tree_commit(&txn, err);
    repl_tree_abort(&txn);
    return result;
}

/* Contents of files, and values of attributes, that were on their way when an earlier run ended,
 * and what the space had grown by. */
static repl_result unsure_note(struct repl_tree_txn *txn, struct repl_tree_found *found,
                               struct repl_error *err)
{
    const struct repl_tree_meta *meta = repl_tree_meta(txn->index);
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    if (meta->space_size > meta->told_size)
        REPL_TRY(repl_tree_pages_note(&found->pages, meta->told_size,
                                      meta->space_size - meta->told_size, err));
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_PENDING, &key, &walk, err);
    while (repl_ok(result) && !walk.done) {
        const uint8_t *at = walk.key.mv_data;
        if (at[16] == REPL_TREE_PENDING_CONTENT)
            result = repl_tree_content_note(txn, repl_tree_key_read(at + 8), &found->pages, err);
        else if (at[16] == REPL_TREE_PENDING_NODE)
            result = repl_tree_attributes_note(txn, repl_tree_key_read(at + 8), &found->pages, err);
        if (repl_ok(result))
            result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

/* Whether anything is noted under the present stamp that a record has to say. */
static repl_result records_look(struct repl_tree *tree, struct repl_tree_txn *txn,
                                struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    uint64_t stamp = repl_tree_meta(tree->index)->stamp;
    tree->pending = false;
    repl_tree_key_u64(&key, stamp);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_PENDING, &key, &walk, err);
    while (repl_ok(result) && !tree->pending && repl_tree_walk_is_at(&walk, stamp)) {
        const uint8_t *at = walk.key.mv_data;
        tree->pending = at[16] != REPL_TREE_PENDING_CONTENT;
        result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

/* What has to be said; and what the last run was not sure of. */
static repl_result pending_look(struct repl_tree *tree, struct repl_tree_found *found,
                                struct repl_error *err)
{
    struct repl_tree_txn txn;
    REPL_TRY(repl_tree_begin(tree->index, false, &txn, err));
    repl_result result = records_look(tree, &txn, err);
    if (repl_ok(result) && tree->content_unsure)
        result = unsure_note(&txn, found, err);
    repl_tree_abort(&txn);
    tree->content_unsure = tree->content_unsure && !repl_ok(result);
    return result;
}

struct repl_tree_scan_options repl_tree_scan_options_of(struct repl_tree *tree)
{
    return (struct repl_tree_scan_options){
        .index = tree->index,
        .root = repl_tree_root_now(tree),
        .exclude = &tree->exclude,
        .full = tree->full,
        .watched = tree->watch != NULL,
        .mapped = tree->watch != NULL && repl_tree_dirty_is_precise(tree->dirty),
        .marks_hold = tree->marks_hold,
        .first = tree->opened,
        .held = tree->look != REPL_TREE_LOOK ? &tree->held : NULL,
        .hidden = &tree->hidden,
        .stop = &tree->stop};
}

/* To what a gather that failed has left. */
static void news_move(struct repl_tree_news *from, struct repl_tree_news *to)
{
    if (to->settled < from->settled)
        to->settled = from->settled;
    if (to->again > from->again)
        to->again = from->again;
    to->full |= from->full;
    if (from->told_size != 0)
        to->told_size = from->told_size;
    *from = no_news;
}

void repl_tree_gather_begin(struct repl_tree *tree, bool full, enum repl_tree_look look)
{
    ensure(!tree->records.begun);
    bool wide = repl_tree_is_unsure(tree) || tree->news.again != UINT64_MAX || tree->full != full;
    tree->look = look == REPL_TREE_LOOK_AGAIN && wide ? REPL_TREE_LOOK_FILES : look;
    tree->records.next = 0; /* what is found may be about objects that have been given already */
    repl_tree_early_keep(tree);
    repl_tree_heard_fini(&tree->hearing);
    if (tree->look == REPL_TREE_LOOK_AGAIN) {
        tree->hearing = tree->heard_since;
        tree->heard_since = (struct repl_tree_heard){0};
        return;
    }
    repl_tree_held_close(&tree->held);
    tree->full = full;
    news_move(&tree->news, &tree->heard);
    repl_tree_heard_join(&tree->later, &tree->heard_since);
    if (tree->overlapping)
        repl_tree_heard_add(&tree->later, &tree->overlap);
    tree->hearing = tree->later;
    tree->later = (struct repl_tree_heard){0};
    tree->heard_since = tree->overlap;
    tree->overlap = (struct repl_tree_heard){0};
    tree->overlapping = false;
    tree->hearing.lost |= !tree->scanned;
    tree->scanned = false; /* until it has come to its end */
}

static repl_result marks_add(struct repl_tree *tree, struct repl_tree_heard *heard,
                             struct repl_error *err)
{
    REPL_TRY(repl_tree_dirty_on_its_way(tree->dirty, &heard->marks, err));
    REPL_TRY(repl_tree_dirty_take(tree->dirty, &heard->marks, &heard->lost, err));
    repl_tree_marks_sort(&heard->marks);
    return REPL_SUCCESS;
}

repl_result repl_tree_marks_take(struct repl_tree *tree, struct repl_tree_found *found,
                                 struct repl_error *err)
{
    struct repl_tree_heard *heard = &tree->hearing;
    tree->marks_hold = false;
    if (tree->watch == NULL)
        return REPL_SUCCESS;
    if (tree->in_copy) { /* that was done when it was made */
        found->overlooked = tree->overlooked;
        return REPL_SUCCESS;
    }
    REPL_TRY(marks_add(tree, heard, err));
    enum repl_tree_verdict audit = repl_tree_dirty_audit(tree->dirty, &found->overlooked);
    tree->marks_hold = audit == REPL_TREE_AUDIT_PASSED && repl_tree_dirty_is_precise(tree->dirty);
    heard->lost |= audit == REPL_TREE_AUDIT_SHORT;
    return REPL_SUCCESS;
}

static repl_result changes_find(struct repl_tree *tree, struct repl_tree_found *found,
                                struct repl_error *err)
{
    const struct repl_tree_scan_options options = repl_tree_scan_options_of(tree);
    bool scan = tree->hearing.lost, audit = tree->auditing && !scan;
    tree->auditing = false;
    REPL_TRY(repl_tree_follow(&options, &tree->hearing, found, err));
    if (!scan && !audit)
        return REPL_SUCCESS;
    uint64_t heard = found->changes;
    REPL_TRY(repl_tree_scan(&options, found, err));
    found->unheard = audit ? found->changes - heard : 0;
    return REPL_SUCCESS;
}

static repl_result gather_all(struct repl_tree *tree, struct repl_tree_found *found,
                              struct repl_error *err)
{
    REPL_TRY(news_follow(tree, err));
    tree->heard = no_news;
    REPL_TRY(repl_tree_marks_take(tree, found, err));
    REPL_TRY(changes_find(tree, found, err));
    if (tree->in_copy)
        REPL_TRY(repl_tree_snapshot_check(&tree->copy, err));
    tree->opened = false;
    tree->scanned = tree->watch != NULL;
    repl_buffer_fini(&tree->touched);
    repl_buffer_fini(&tree->unstable);
    return REPL_SUCCESS;
}

repl_result repl_tree_gather(struct repl_tree *tree, struct repl_tree_found *found,
                             struct repl_error *err)
{
    atomic_store(&tree->torn, false);
    REPL_TRY(root_check(tree, err));
    REPL_TRY(tree->look == REPL_TREE_LOOK_AGAIN ? repl_tree_gather_again(tree, found, err)
                                                : gather_all(tree, found, err));
    REPL_TRY(pending_look(tree, found, err));
    REPL_TRY(repl_buffer_append(&tree->touched, found->touched.data, found->touched.size, err));
    found->touched.size = 0;
    return REPL_SUCCESS;
}

repl_result repl_tree_marks_hear(struct repl_tree *tree, struct repl_error *err)
{
    struct repl_tree_heard *heard = &tree->heard_since;
    uint64_t overlooked;
    REPL_TRY(repl_tree_dirty_take(tree->dirty, &heard->marks, &heard->lost, err));
    heard->lost |= repl_tree_dirty_audit(tree->dirty, &overlooked) == REPL_TREE_AUDIT_SHORT;
    return REPL_SUCCESS;
}

repl_result repl_tree_is_same(struct repl_tree *tree, bool *same, struct repl_error *err)
{
    const struct repl_tree_scan_options options = repl_tree_scan_options_of(tree);
    *same = false;
    if (atomic_load(&tree->torn))
        return REPL_SUCCESS;
    *same = tree->in_copy;
    if (tree->in_copy)
        return repl_tree_snapshot_check(&tree->copy, err);
    if (tree->watch == NULL)
        return repl_tree_scan_is_same(&options, same, err);
    REPL_TRY(repl_tree_marks_hear(tree, err));
    REPL_TRY(repl_tree_follow_is_same(&options, &tree->heard_since, &tree->touched, same, err));
    if (*same) /* it was about something else */
        repl_tree_heard_fini(&tree->heard_since);
    return REPL_SUCCESS;
}

/* --- a snapshot ------------------------------------------------------------------------------ */

/* What is heard as one is made, and whether anything was overlooked. The marks come first: by when
 * they have been taken, whoever was just telling of a name has done so. */
static repl_result overlap_hear(struct repl_tree *tree, struct repl_error *err)
{
    struct repl_tree_heard *heard = &tree->overlap;
    REPL_TRY(repl_tree_dirty_take(tree->dirty, &heard->marks, &heard->lost, err));
    heard->lost |= repl_tree_dirty_audit(tree->dirty, &tree->overlooked) == REPL_TREE_AUDIT_SHORT;
    return repl_tree_watch_drain(tree->watch, heard, err);
}

repl_result repl_tree_snapshot_take(struct repl_tree *tree, int64_t *begin_ns, int64_t *end_ns,
                                    struct repl_error *err)
{
    ensure(tree->watch != NULL && !tree->in_copy);
    tree->overlooked = 0;
    REPL_TRY(repl_tree_watch_drain(tree->watch, &tree->heard_since, err));
    REPL_TRY(marks_add(tree, &tree->heard_since, err));
    *begin_ns = repl_now_wall_ns();
    REPL_TRY(repl_tree_snapshot_make(tree->snapshots, &tree->copy, err));
    *end_ns = repl_now_wall_ns();
    tree->in_copy = tree->overlapping = true;
    repl_result result = overlap_hear(tree, err);
    if (!repl_ok(result)) {
        repl_tree_snapshot_release(tree);
        repl_ignore(repl_tree_snapshot_drop(tree, NULL));
    }
    return result;
}

bool repl_tree_is_snapshot(const struct repl_tree *tree)
{
    return tree->in_copy;
}

void repl_tree_snapshot_release(struct repl_tree *tree)
{
    tree->in_copy = tree->overlapping = false;
    repl_tree_heard_add(&tree->heard_since, &tree->overlap); /* where no gather has come to it */
    repl_tree_heard_fini(&tree->overlap);
}

repl_result repl_tree_snapshot_drop(struct repl_tree *tree, struct repl_error *err)
{
    return repl_tree_snapshot_remove(tree->snapshots, &tree->copy, err);
}

/* --- records --------------------------------------------------------------------------------- */

bool repl_tree_records_are_pending(const void *context)
{
    const struct repl_tree *tree = context;
    return tree->pending || tree->records.next != 0 || tree->news.again != UINT64_MAX;
}

bool repl_tree_records_are_many(const void *context, bool full)
{
    const struct repl_tree *tree = context;
    uint64_t given = tree->records.next != 0 ? tree->records.given : 0;
    if (!full && !tree->pending)
        return false; /* all is said; some of it may not be settled */
    return repl_tree_count(tree->index, full ? REPL_TREE_OBJECT : REPL_TREE_PENDING) >
           given + REPL_TREE_RECORDS_OBJECTS;
}

/* Objects that it was said of to be there may be gone by the next look, which in a full says only
 * what is there. */
bool repl_tree_records_are_torn(const void *context, uint64_t to_seq)
{
    const struct repl_tree *tree = context;
    return tree->records.next == 0 && to_seq <= repl_tree_meta(tree->index)->told_to;
}

/* Durably, before any of them leaves the host. */
static repl_result told_note(struct repl_tree *tree, uint64_t to_seq, struct repl_error *err)
{
    struct repl_tree_txn txn;
    REPL_TRY(repl_tree_begin(tree->index, true, &txn, err));
    repl_tree_meta(tree->index)->told_to = to_seq;
    txn.changed = true;
    return repl_tree_commit(&txn, err);
}

repl_result repl_tree_segment_begin(void *context, bool full, uint64_t to_seq, uint64_t *stamp,
                                    struct repl_error *err)
{
    struct repl_tree *tree = context;
    if (tree->news.again != UINT64_MAX || full != tree->full)
        return repl_fail(err, REPL_E_RETRY, "segments were given up: the tree is looked at again");
    if (full && tree->records.next == 0 && repl_tree_records_are_many(tree, full))
        REPL_TRY(told_note(tree, to_seq, err));
    *stamp = tree->records.stamp = repl_tree_meta(tree->index)->stamp;
    return repl_tree_records_begin(&tree->records, tree->index, full, err);
}

repl_result repl_tree_segment_record(void *context, struct repl_record *record, bool *done,
                                     struct repl_error *err)
{
    struct repl_tree *tree = context;
    return repl_tree_records_next(&tree->records, record, done, err);
}

bool repl_tree_segment_end(void *context)
{
    struct repl_tree *tree = context;
    repl_tree_records_end(&tree->records);
    if (tree->records.next != 0)
        return false;
    tree->pending = false;
    tree->emitted_size = repl_tree_space_size(tree);
    repl_tree_meta(tree->index)->stamp++;
    return true;
}

void repl_tree_records_settled(void *context, uint64_t stamp, bool full)
{
    struct repl_tree *tree = context;
    if (tree->news.settled < stamp)
        tree->news.settled = stamp;
    if (stamp + 1 == repl_tree_meta(tree->index)->stamp && tree->emitted_size != 0)
        tree->news.told_size = tree->emitted_size;
    tree->news.full |= full;
}

void repl_tree_records_lost(void *context, uint64_t stamp)
{
    struct repl_tree *tree = context;
    if (tree->news.again > stamp)
        tree->news.again = stamp;
    tree->records.next = 0; /* what was begun is begun anew */
}
