#include "source/tree/tree.h"

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
#include "source/tree/tree_records.h"
#include "source/tree/tree_snapshot.h"

/* Objects are numbered from here on, the higher the later the index was begun: fewer than 2^32
 * objects are made between two points. */
#define FIRST_OBJECT(next_seq) (((next_seq) << 32) + REPL_OBJECT_ROOT + 1)

#define SPACE_SIZE_MIN (UINT64_C(4) << 20)

/* What is heard of segments that were made. */
struct repl_tree_news {
    uint64_t settled; /* what was noted up to this stamp is the site's */
    uint64_t again;   /* what was noted from here on is to be said again; UINT64_MAX: nothing is */
    bool full;        /* a full is the site's */
    uint64_t told_size; /* of the space, as the site knows it; 0: nothing new of that */
};

static const struct repl_tree_news no_news = {.again = UINT64_MAX};

struct repl_tree {
    struct repl_tree_root root;
    dev_t device; /* that its filesystem is on */
    struct repl_tree_exclude exclude;
    struct repl_tree_index *index;
    atomic_bool stop;
    atomic_bool torn; /* something was not there any more when it was read */

    struct repl_tree_news news; /* since the last gather was begun */

    /* the gather's, and the loop's thread's between two of them */
    struct repl_tree_news heard;
    bool full; /* the next segment that takes records belongs to a full */
    struct repl_tree_records records;
    struct repl_tree_watch *watch; /* both or none; NULL: unwatched says why */
    struct repl_tree_dirty *dirty;
    char unwatched[256];
    struct repl_tree_heard heard_since; /* the last gather was begun */
    struct repl_tree_heard hearing;     /* what the gather goes by */
    struct repl_buffer touched;         /* by the last gather: uint64_t each */
    bool scanned;                       /* all of it, since it is watched */
    bool marks_hold;                    /* those of hearing are all there are */
    bool auditing;                      /* the next gather looks besides where all was heard of */
    uint64_t emitted_size;              /* of the space, with the last stamp that was told */
    bool pending;                       /* a record is, under the present stamp */
    bool opened;                        /* and not scanned since */
    bool content_unsure; /* since the start: what is pending of contents has to be read */

    struct repl_tree_snapshots *snapshots; /* NULL: none are wanted */
    struct repl_tree_root copy;            /* in the snapshot that is there; fd -1: none is */
    bool in_copy;                          /* gather and read are of that */
    struct repl_tree_heard overlap;        /* since it was begun, until the gather is */
    bool overlapping;                      /* that has not been begun */
    uint64_t overlooked;                   /* pages, as it was made */
};

/* What is looked at and read. */
static const struct repl_tree_root *root_now(const struct repl_tree *tree)
{
    return tree->in_copy ? &tree->copy : &tree->root;
}

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
    return !tree->scanned || tree->heard_since.lost || tree->overlap.lost;
}

bool repl_tree_is_quiet(const struct repl_tree *tree)
{
    const struct repl_tree_heard *heard = &tree->heard_since;
    return heard->count == 0 && heard->marks.size == 0 && !heard->lost &&
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

static struct repl_tree_scan_options scan_options(struct repl_tree *tree)
{
    return (struct repl_tree_scan_options){.index = tree->index,
                                           .root = root_now(tree),
                                           .exclude = &tree->exclude,
                                           .full = tree->full,
                                           .watched = tree->watch != NULL,
                                           .mapped = tree->watch != NULL &&
                                                     repl_tree_dirty_is_precise(tree->dirty),
                                           .marks_hold = tree->marks_hold,
                                           .first = tree->opened,
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

void repl_tree_gather_begin(struct repl_tree *tree, bool full)
{
    ensure(!tree->records.begun);
    tree->full = full;
    tree->records.next = 0; /* what is found may be about objects that have been given already */
    news_move(&tree->news, &tree->heard);
    repl_tree_heard_fini(&tree->hearing);
    if (tree->overlapping)
        repl_tree_heard_add(&tree->heard_since, &tree->overlap);
    tree->hearing = tree->heard_since;
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

/* What was written to, and whether that is all. */
static repl_result marks_take(struct repl_tree *tree, struct repl_tree_found *found,
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
    const struct repl_tree_scan_options options = scan_options(tree);
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

repl_result repl_tree_gather(struct repl_tree *tree, struct repl_tree_found *found,
                             struct repl_error *err)
{
    atomic_store(&tree->torn, false);
    REPL_TRY(root_check(tree, err));
    REPL_TRY(news_follow(tree, err));
    tree->heard = no_news;
    REPL_TRY(marks_take(tree, found, err));
    REPL_TRY(changes_find(tree, found, err));
    if (tree->in_copy)
        REPL_TRY(repl_tree_snapshot_check(&tree->copy, err));
    tree->opened = false;
    REPL_TRY(pending_look(tree, found, err));
    repl_buffer_fini(&tree->touched);
    tree->touched = found->touched;
    found->touched = (struct repl_buffer){0};
    tree->scanned = tree->watch != NULL;
    return REPL_SUCCESS;
}

/* What was written to since, and whether anything went unnoticed. */
static repl_result marks_hear(struct repl_tree *tree, struct repl_error *err)
{
    struct repl_tree_heard *heard = &tree->heard_since;
    uint64_t overlooked;
    REPL_TRY(repl_tree_dirty_take(tree->dirty, &heard->marks, &heard->lost, err));
    heard->lost |= repl_tree_dirty_audit(tree->dirty, &overlooked) == REPL_TREE_AUDIT_SHORT;
    return REPL_SUCCESS;
}

repl_result repl_tree_is_same(struct repl_tree *tree, bool *same, struct repl_error *err)
{
    const struct repl_tree_scan_options options = scan_options(tree);
    *same = false;
    if (atomic_load(&tree->torn))
        return REPL_SUCCESS;
    *same = tree->in_copy;
    if (tree->in_copy)
        return repl_tree_snapshot_check(&tree->copy, err);
    if (tree->watch == NULL)
        return repl_tree_scan_is_same(&options, same, err);
    REPL_TRY(marks_hear(tree, err));
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

/* --- reading --------------------------------------------------------------------------------- */

struct file {
    uint64_t object; /* 0: none */
    int fd;          /* -1: it is gone */
};

static void file_close(struct file *file)
{
    if (file->object != 0 && file->fd >= 0)
        close(file->fd);
    file->object = 0;
}

static repl_result file_open(struct repl_tree *tree, struct repl_tree_txn *txn, uint64_t object,
                             struct file *file, struct repl_error *err)
{
    struct repl_tree_object o;
    bool found;
    if (file->object == object)
        return REPL_SUCCESS;
    file_close(file);
    REPL_TRY(repl_tree_object_get(txn, object, &o, &found, err));
    repl_result result = {REPL_E_MISSING};
    if (found)
        result = repl_tree_handle_open(root_now(tree), &o.handle, 0, &file->fd, err);
    if (!repl_ok(result) && result.code != REPL_E_MISSING)
        return result;
    if (!repl_ok(result)) {
        if (tree->in_copy) /* a file that is there, and nowhere to be read, is not zeros */
            REPL_TRY(repl_tree_snapshot_check(&tree->copy, err));
        file->fd = -1;
        atomic_store(&tree->torn, true);
    }
    file->object = object;
    return REPL_SUCCESS;
}

/* All of it; behind the file's end zeros. */
static repl_result file_read(struct repl_tree *tree, const struct file *file, uint64_t offset,
                             uint8_t *to, size_t size, struct repl_error *err)
{
    size_t done = 0;
    while (file->fd >= 0 && done < size) {
        ssize_t got = pread(file->fd, to + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return repl_fail_errno(err, REPL_E_IO, errno,
                                   "%s: reading a file in it; look for the disk's errors in the "
                                   "kernel log",
                                   tree->root.path);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    memset(to + done, 0, size - done);
    return REPL_SUCCESS;
}

static repl_result value_read(struct repl_tree_txn *txn, const struct repl_tree_block *block,
                              uint64_t offset, uint8_t *to, size_t size, struct repl_error *err)
{
    struct repl_tree_attribute attribute;
    struct repl_tree_key key = {0};
    MDB_val value;
    bool found;
    memset(to, 0, size);
    repl_tree_key_u64(&key, block->object);
    REPL_TRY(repl_tree_get(txn, REPL_TREE_ATTRIBUTE, &key, &value, &found, err));
    for (size_t at = 0;
         found && repl_tree_attribute_next(value.mv_data, value.mv_size, &at, &attribute);) {
        if (attribute.place != block->place || attribute.value_size <= REPL_XATTR_INLINE_MAX ||
            attribute.value_size <= offset)
            continue;
        size_t left = attribute.value_size - (size_t)offset;
        memcpy(to, attribute.value + offset, left < size ? left : size);
        break;
    }
    return REPL_SUCCESS;
}

/* One piece's part of what is wanted; *done: so many bytes. */
static repl_result piece_read(struct repl_tree *tree, struct repl_tree_txn *txn, uint64_t place,
                              uint8_t *to, size_t size, struct file *file, size_t *done,
                              struct repl_error *err)
{
    struct repl_tree_block block;
    bool found;
    *done = size;
    REPL_TRY(repl_tree_place_find(txn, place, &block, &found, err));
    if (!found || block.place >= place + size) {
        memset(to, 0, size);
        return REPL_SUCCESS;
    }
    if (block.place > place) {
        *done = (size_t)(block.place - place);
        memset(to, 0, *done);
        return REPL_SUCCESS;
    }
    uint64_t within = place - block.place;
    if (block.size - within < size)
        *done = (size_t)(block.size - within);
    if (block.is_value != 0)
        return value_read(txn, &block, within, to, *done, err);
    REPL_TRY(file_open(tree, txn, block.object, file, err));
    return file_read(tree, file, block.offset + within, to, *done, err);
}

repl_result repl_tree_read(struct repl_tree *tree, uint64_t page, uint32_t count, uint8_t *to,
                           struct repl_error *err)
{
    struct repl_tree_txn txn;
    struct file file = {0};
    uint64_t place = page * REPL_PAGE_SIZE;
    size_t size = (size_t)count * REPL_PAGE_SIZE, done;
    REPL_TRY(repl_tree_begin(tree->index, false, &txn, err));
    repl_result result = REPL_SUCCESS;
    for (size_t at = 0; repl_ok(result) && at < size; at += done)
        result = piece_read(tree, &txn, place + at, to + at, size - at, &file, &done, err);
    file_close(&file);
    repl_tree_abort(&txn);
    return result;
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
