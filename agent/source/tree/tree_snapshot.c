#include "source/tree/tree_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/hash.h"
#include "loop/loop.h"

struct repl_tree_snapshots {
    const struct repl_tree_root *root;
    struct repl_tree_root writable; /* the same directory, on a mount of our own */
    uint64_t subvolume;             /* that the tree lies in */
    int subvolume_fd, place_fd;
    char name[REPL_UUID_TEXT_SIZE];
};

static bool is_btrfs(const struct repl_tree_root *root)
{
    struct statfs fs;
    return fstatfs(root->fd, &fs) == 0 && fs.f_type == BTRFS_SUPER_MAGIC;
}

static struct repl_tree_btrfs_handle btrfs_handle_of(const struct repl_tree_root *root)
{
    struct repl_tree_btrfs_handle handle = {0};
    if (root->handle.size >= sizeof handle)
        memcpy(&handle, root->handle.bytes, sizeof handle);
    return handle;
}

bool repl_tree_has_snapshot_place(const struct repl_tree_root *root)
{
    struct repl_tree_btrfs_handle top = btrfs_handle_of(root);
    return is_btrfs(root) && top.inode == BTRFS_FIRST_FREE_OBJECTID &&
           top.subvolume == BTRFS_FS_TREE_OBJECTID;
}

/* --- where things are ------------------------------------------------------------------------ */

/* A mount like the one that the tree is on, but that it hangs nowhere and may be written to. */
static repl_result mount_clone(struct repl_tree_snapshots *s, struct repl_error *err)
{
    struct mount_attr writable = {.attr_clr = MOUNT_ATTR_RDONLY};
    s->writable = *s->root;
    s->writable.fd = -1;
    int fd = open_tree(s->root->fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (fd >= 0 && mount_setattr(fd, "", AT_EMPTY_PATH, &writable, sizeof writable) == 0)
        s->writable.fd = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int os_errno = errno;
    if (fd >= 0)
        close(fd);
    if (s->writable.fd >= 0)
        return REPL_SUCCESS;
    return repl_fail_errno(err, REPL_E_REFUSED, os_errno,
                           "%s: no mount to make snapshots on (CAP_SYS_ADMIN and a kernel of 5.12 "
                           "or newer are needed)",
                           s->root->path);
}

/* The generation of a subvolume's top directory, which its handle has. */
static repl_result generation_find(const struct repl_tree_root *root, uint64_t subvolume,
                                   uint32_t *generation, struct repl_error *err)
{
    struct btrfs_ioctl_search_args search = {.key = {.tree_id = subvolume,
                                                     .min_objectid = BTRFS_FIRST_FREE_OBJECTID,
                                                     .max_objectid = BTRFS_FIRST_FREE_OBJECTID,
                                                     .min_type = BTRFS_INODE_ITEM_KEY,
                                                     .max_type = BTRFS_INODE_ITEM_KEY,
                                                     .max_offset = UINT64_MAX,
                                                     .max_transid = UINT64_MAX,
                                                     .nr_items = 1}};
    struct btrfs_inode_item item;
    if (ioctl(root->fd, BTRFS_IOC_TREE_SEARCH, &search) != 0 || search.key.nr_items != 1)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: looking for the top of its subvolume",
                               root->path);
    memcpy(&item, search.buf + sizeof(struct btrfs_ioctl_search_header), sizeof item);
    *generation = (uint32_t)item.generation;
    return REPL_SUCCESS;
}

/* On the mount that root is on. */
static repl_result subvolume_open(const struct repl_tree_root *root, uint64_t subvolume, int *fd,
                                  struct repl_error *err)
{
    struct repl_tree_handle handle = {.type = REPL_TREE_BTRFS_HANDLE,
                                      .size = sizeof(struct repl_tree_btrfs_handle)};
    uint32_t generation;
    REPL_TRY(generation_find(root, subvolume, &generation, err));
    const struct repl_tree_btrfs_handle top = {
        .inode = BTRFS_FIRST_FREE_OBJECTID, .subvolume = subvolume, .generation = generation};
    memcpy(handle.bytes, &top, sizeof top);
    return repl_tree_handle_open(root, &handle, O_DIRECTORY, fd, err);
}

repl_result repl_tree_filesystem_open(const struct repl_tree_root *root, int *fd,
                                      struct repl_error *err)
{
    if (is_btrfs(root))
        return subvolume_open(root, BTRFS_FS_TREE_OBJECTID, fd, err);
    *fd = openat(root->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *fd >= 0 ? REPL_SUCCESS : repl_fail_errno(err, REPL_E_IO, errno, "%s", root->path);
}

/* Nobody else may put something there under a name of ours. */
static repl_result place_check(const struct repl_tree_snapshots *s, struct repl_error *err)
{
    struct stat status;
    if (fstat(s->place_fd, &status) == 0 && status.st_uid == geteuid() &&
        (status.st_mode & (S_IWGRP | S_IWOTH)) == 0)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_REFUSED,
                     "the directory " REPL_TREE_SNAPSHOT_PLACE " at the top of the btrfs of %s is "
                     "for snapshots, and belongs to somebody else: rename it",
                     s->root->path);
}

static repl_result place_open(struct repl_tree_snapshots *s, bool make, struct repl_error *err)
{
    int top;
    REPL_TRY(repl_tree_filesystem_open(&s->writable, &top, err));
    bool failed = make && mkdirat(top, REPL_TREE_SNAPSHOT_PLACE, S_IRWXU) != 0 && errno != EEXIST;
    if (!failed)
        s->place_fd =
            openat(top, REPL_TREE_SNAPSHOT_PLACE, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int os_errno = errno;
    close(top);
    if (s->place_fd >= 0)
        return place_check(s, err);
    return repl_fail_errno(
        err, REPL_E_REFUSED, os_errno,
        "%s: the directory " REPL_TREE_SNAPSHOT_PLACE
        " for snapshots at the top of its btrfs (subvolid=5): make it there, for "
        "root alone, or set quiesce = window",
        s->root->path);
}

/* --- opening --------------------------------------------------------------------------------- */

/* What is not there is removed; where nothing can be written, nothing is in the way either. */
static repl_result left_remove(const struct repl_tree_snapshots *s, struct repl_error *err)
{
    struct btrfs_ioctl_vol_args args = {0};
    snprintf(args.name, sizeof args.name, "%s", s->name);
    if (ioctl(s->place_fd, BTRFS_IOC_SNAP_DESTROY, &args) == 0 || errno == ENOENT || errno == EROFS)
        return REPL_SUCCESS;
    return repl_fail_errno(err, REPL_E_IO, errno,
                           "%s: removing the snapshot " REPL_TREE_SNAPSHOT_PLACE
                           "/%s of its btrfs; is it in use?",
                           s->root->path, s->name);
}

static repl_result parts_open(struct repl_tree_snapshots *s, bool make, struct repl_error *err)
{
    REPL_TRY(mount_clone(s, err));
    REPL_TRY(place_open(s, make, err));
    REPL_TRY(left_remove(s, err));
    return make ? subvolume_open(&s->writable, s->subvolume, &s->subvolume_fd, err) : REPL_SUCCESS;
}

static repl_result snapshots_open(const struct repl_tree_root *root, const struct repl_uuid *volume,
                                  bool make, struct repl_tree_snapshots **out,
                                  struct repl_error *err)
{
    if (!is_btrfs(root))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is not on btrfs, and has a quiesce with snapshots, which only trees "
                         "on btrfs have: set quiesce = window, or another way",
                         root->path);
    struct repl_tree_snapshots *s = calloc(1, sizeof *s);
    if (s == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for snapshots");
    s->root = root;
    s->writable.fd = s->subvolume_fd = s->place_fd = -1;
    s->subvolume = btrfs_handle_of(root).subvolume;
    repl_uuid_format(volume, s->name);
    repl_result result = parts_open(s, make, err);
    if (!repl_ok(result)) {
        repl_tree_snapshots_close(s);
        return result;
    }
    *out = s;
    return REPL_SUCCESS;
}

repl_result repl_tree_snapshots_open(const struct repl_tree_root *root,
                                     const struct repl_uuid *volume,
                                     struct repl_tree_snapshots **out, struct repl_error *err)
{
    return snapshots_open(root, volume, true, out, err);
}

void repl_tree_snapshots_close(struct repl_tree_snapshots *s)
{
    if (s == NULL)
        return;
    repl_tree_root_close(&s->writable);
    if (s->subvolume_fd >= 0)
        close(s->subvolume_fd);
    if (s->place_fd >= 0)
        close(s->place_fd);
    free(s);
}

void repl_tree_snapshots_clean(const struct repl_tree_root *root, const struct repl_uuid *volume)
{
    struct repl_tree_snapshots *s;
    if (is_btrfs(root) && repl_ok(snapshots_open(root, volume, false, &s, NULL)))
        repl_tree_snapshots_close(s);
}

/* --- one snapshot ---------------------------------------------------------------------------- */

static const char *advice(int os_errno)
{
    switch (os_errno) {
    case ENOSPC:
        return "; make room on it";
    case EDQUOT:
        return "; raise the limit of its quota group";
    case EROFS:
        return "; mount it read-write";
    case ETXTBSY:
        return "; a swap file is in use in it: move that to another subvolume";
    case EPERM:
    case EACCES:
        return "; CAP_SYS_ADMIN and CAP_FOWNER are needed";
    default:
        return "; look for btrfs in the kernel log";
    }
}

static repl_result snapshot_create(const struct repl_tree_snapshots *s, struct repl_error *err)
{
    struct btrfs_ioctl_vol_args_v2 args = {.fd = s->subvolume_fd, .flags = BTRFS_SUBVOL_RDONLY};
    snprintf(args.name, sizeof args.name, "%s", s->name);
    if (syncfs(s->root->fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: syncing its filesystem", s->root->path);
    if (ioctl(s->place_fd, BTRFS_IOC_SNAP_CREATE_V2, &args) == 0)
        return REPL_SUCCESS;
    return repl_fail_errno(err, REPL_E_IO, errno, "%s: no snapshot of its subvolume%s",
                           s->root->path, advice(errno));
}

/* The top directory in it, whatever its path, and which subvolume it is. */
static repl_result snapshot_open(const struct repl_tree_snapshots *s, struct repl_tree_root *out,
                                 struct repl_error *err)
{
    struct repl_tree_root made = {.path = s->root->path, .fd = -1};
    int fd = openat(s->place_fd, s->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: its snapshot", s->root->path);
    repl_result result = repl_tree_root_take(fd, &made, err);
    if (repl_ok(result)) {
        *out = (struct repl_tree_root){.path = s->root->path,
                                       .fd = s->writable.fd,
                                       .device_major = made.device_major,
                                       .device_minor = made.device_minor,
                                       .handle = s->root->handle,
                                       .subvolume = s->subvolume,
                                       .snapshot = btrfs_handle_of(&made).subvolume};
        result = repl_tree_handle_open(out, &out->handle, O_DIRECTORY, &out->fd, err);
    }
    close(fd);
    return result;
}

repl_result repl_tree_snapshot_make(struct repl_tree_snapshots *s, struct repl_tree_root *out,
                                    struct repl_error *err)
{
    int64_t begin_ns = repl_now_wall_ns();
    *out = (struct repl_tree_root){.fd = -1};
    REPL_TRY(left_remove(s, err));
    REPL_TRY(snapshot_create(s, err));
    repl_result result = snapshot_open(s, out, err);
    if (!repl_ok(result)) {
        repl_ignore(left_remove(s, NULL));
        out->fd = -1;
        return result;
    }
    out->as_of_ns = begin_ns;
    return REPL_SUCCESS;
}

repl_result repl_tree_snapshot_check(const struct repl_tree_root *copy, struct repl_error *err)
{
    int fd;
    if (!repl_ok(repl_tree_handle_open(copy, &copy->handle, O_DIRECTORY, &fd, NULL)))
        return repl_fail(err, REPL_E_IO,
                         "%s: the snapshot that it was read from, in " REPL_TREE_SNAPSHOT_PLACE
                         " at the top of its btrfs, was removed by somebody else",
                         copy->path);
    close(fd);
    return REPL_SUCCESS;
}

repl_result repl_tree_snapshot_remove(struct repl_tree_snapshots *s, struct repl_tree_root *copy,
                                      struct repl_error *err)
{
    repl_tree_root_close(copy);
    return left_remove(s, err);
}
