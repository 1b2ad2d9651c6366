#include "source/tree/tree_object.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs_tree.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "loop/loop.h"
#include "segment/record_order.h"
#include "source/tree/tree_places.h"

/* Of the inode flags those that say what somebody wants of the file; the others are the
 * filesystem's own affair, and change by themselves. */
#define FLAGS_KEPT (FS_FL_USER_MODIFIABLE | FS_NOCOW_FL | FS_PROJINHERIT_FL | FS_CASEFOLD_FL)

/* The kernel's clock for timestamps ticks every 1 to 10 ms (CONFIG_HZ). */
#define TICK_NS INT64_C(20000000)

/* --- the root -------------------------------------------------------------------------------- */

static repl_result handle_of(int fd, struct repl_tree_handle *out, struct repl_error *err)
{
    union {
        struct file_handle handle;
        uint8_t room[sizeof(struct file_handle) + REPL_TREE_HANDLE_MAX];
    } h = {.handle = {.handle_bytes = REPL_TREE_HANDLE_MAX}};
    int mount_id;
    if (name_to_handle_at(fd, "", &h.handle, &mount_id, AT_EMPTY_PATH) != 0)
        return repl_fail_errno(err, errno == EOPNOTSUPP ? REPL_E_REFUSED : REPL_E_IO, errno,
                               "no file handle: the filesystem does not give any, which a tree "
                               "needs");
    *out = (struct repl_tree_handle){.type = h.handle.handle_type, .size = h.handle.handle_bytes};
    memcpy(out->bytes, h.handle.f_handle, out->size);
    return REPL_SUCCESS;
}

repl_result repl_tree_root_take(int fd, struct repl_tree_root *out, struct repl_error *err)
{
    struct statx status;
    REPL_TRY(repl_forward(handle_of(fd, &out->handle, err), err, "%s", out->path));
    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", out->path);
    out->device_major = status.stx_dev_major;
    out->device_minor = status.stx_dev_minor;
    return REPL_SUCCESS;
}

repl_result repl_tree_root_open(const char *path, struct repl_tree_root *out,
                                struct repl_error *err)
{
    *out = (struct repl_tree_root){.path = path};
    out->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (out->fd < 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_MISSING : REPL_E_IO, errno, "%s",
                               path);
    repl_result result = repl_tree_root_take(out->fd, out, err);
    if (!repl_ok(result))
        repl_tree_root_close(out);
    return result;
}

void repl_tree_root_close(struct repl_tree_root *root)
{
    if (root->fd >= 0)
        close(root->fd);
    root->fd = -1;
}

/* --- opening --------------------------------------------------------------------------------- */

static enum repl_code code_of(int os_errno)
{
    return os_errno == ENOENT || os_errno == ESTALE || os_errno == ENOTDIR ? REPL_E_MISSING
                                                                           : REPL_E_IO;
}

repl_result repl_tree_object_open(int directory, const char *name, int *fd, struct repl_error *err)
{
    *fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return *fd >= 0 ? REPL_SUCCESS : repl_fail_errno(err, code_of(errno), errno, "%s", name);
}

int repl_tree_object_reopen(int path_fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", path_fd);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOATIME | O_CLOEXEC);
    if (fd < 0 && errno == EPERM) /* O_NOATIME is for the owner, and for CAP_FOWNER */
        fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    return fd;
}

/* The handle that the same file has in another subvolume; one of neither stays as it is. */
static void handle_move(struct repl_tree_handle *handle, uint64_t from, uint64_t to)
{
    struct repl_tree_btrfs_handle at;
    if (from == 0 || handle->size < sizeof at)
        return;
    memcpy(&at, handle->bytes, sizeof at);
    if (at.subvolume == from)
        at.subvolume = to;
    memcpy(handle->bytes, &at, sizeof at);
}

/* Linux 6.18 was seen to answer ENOMEM for a moment, with memory to spare, where files came and
 * went by the thousand. */
static int handle_open(int mount_fd, struct file_handle *handle, int flags)
{
    int fd = open_by_handle_at(mount_fd, handle, flags);
    for (int tries = 0; fd < 0 && errno == ENOMEM && tries < 10; tries++) {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        fd = open_by_handle_at(mount_fd, handle, flags);
    }
    return fd;
}

repl_result repl_tree_handle_open(const struct repl_tree_root *root,
                                  const struct repl_tree_handle *handle, int flags, int *fd,
                                  struct repl_error *err)
{
    union {
        struct file_handle handle;
        uint8_t room[sizeof(struct file_handle) + REPL_TREE_HANDLE_MAX];
    } h = {.handle = {.handle_bytes = handle->size, .handle_type = handle->type}};
    struct repl_tree_handle there = *handle;
    handle_move(&there, root->subvolume, root->snapshot);
    memcpy(h.handle.f_handle, there.bytes, there.size);
    *fd = handle_open(root->fd, &h.handle, flags | O_RDONLY | O_NOATIME | O_CLOEXEC);
    if (*fd < 0 && errno == EPERM)
        *fd = handle_open(root->fd, &h.handle, flags | O_RDONLY | O_CLOEXEC);
    return *fd >= 0 ? REPL_SUCCESS
                    : repl_fail_errno(err, code_of(errno), errno, "%s: a file in it", root->path);
}

/* --- what it is ------------------------------------------------------------------------------ */

static int64_t time_ns(const struct statx_timestamp *time)
{
    return time->tv_sec * INT64_C(1000000000) + time->tv_nsec;
}

/* In a snapshot, of another subvolume. */
static bool is_stand_in(const struct repl_tree_root *root, const struct statx *status)
{
    return root->snapshot != 0 && status->stx_ino == BTRFS_EMPTY_SUBVOL_DIR_OBJECTID;
}

static bool is_mount(const struct repl_tree_root *root, const struct statx *status)
{
    return status->stx_dev_major != root->device_major ||
           status->stx_dev_minor != root->device_minor ||
           (status->stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0 || is_stand_in(root, status);
}

repl_result repl_tree_glance(const struct repl_tree_root *root, int fd, const char *name,
                             struct repl_tree_glance *out, struct repl_error *err)
{
    struct statx status;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (name[0] == '\0' ? AT_EMPTY_PATH : 0);
    if (statx(fd, name, flags, STATX_BASIC_STATS, &status) != 0)
        return repl_fail_errno(err, code_of(errno), errno, "%s", name);
    *out = (struct repl_tree_glance){.inode = status.stx_ino,
                                     .size = status.stx_size,
                                     .ctime_ns = time_ns(&status.stx_ctime),
                                     .mtime_ns = time_ns(&status.stx_mtime),
                                     .links = status.stx_nlink,
                                     .type = status.stx_mode & S_IFMT,
                                     .mount = is_mount(root, &status)};
    return REPL_SUCCESS;
}

static enum repl_node_kind kind_of(uint16_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return REPL_NODE_FILE;
    case S_IFDIR:
        return REPL_NODE_DIRECTORY;
    case S_IFLNK:
        return REPL_NODE_SYMLINK;
    case S_IFIFO:
        return REPL_NODE_FIFO;
    case S_IFCHR:
        return REPL_NODE_CHARACTER;
    case S_IFBLK:
        return REPL_NODE_BLOCK;
    default:
        return REPL_NODE_SOCKET;
    }
}

static void node_of(const struct statx *status, struct repl_node *node)
{
    *node = (struct repl_node){.kind = kind_of(status->stx_mode),
                               .mode = status->stx_mode & REPL_NODE_MODE_MASK,
                               .uid = status->stx_uid,
                               .gid = status->stx_gid,
                               .mtime_ns = time_ns(&status->stx_mtime)};
    if (node->kind == REPL_NODE_FILE)
        node->size = status->stx_size;
    if (node->kind == REPL_NODE_CHARACTER || node->kind == REPL_NODE_BLOCK) {
        node->major = status->stx_rdev_major;
        node->minor = status->stx_rdev_minor;
    }
}

/* Flags and project, where the filesystem has such; only files and directories can be asked. */
static void flags_read(int path_fd, struct repl_tree_object *object)
{
    struct repl_node *node = &object->node;
    struct fsxattr extra;
    int flags = 0;
    if (node->kind != REPL_NODE_FILE && node->kind != REPL_NODE_DIRECTORY)
        return;
    int fd = repl_tree_object_reopen(path_fd);
    if (fd < 0)
        return;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0)
        node->flags = (uint32_t)flags & FLAGS_KEPT;
    object->journaled = (flags & FS_JOURNAL_DATA_FL) != 0;
    if (ioctl(fd, FS_IOC_FSGETXATTR, &extra) == 0)
        node->project = extra.fsx_projid;
    close(fd);
}

/* A change within the tick of the ctime would leave it as it is. In a snapshot nothing changes:
 * what would be taken for the same is a change in the subvolume since it was begun, of which the
 * snapshot may have no more than the ctime. */
static int64_t settles_in(const struct repl_tree_root *root, const struct statx *status)
{
    int64_t now_ns = root->snapshot != 0 ? root->as_of_ns : repl_now_wall_ns();
    int64_t age_ns = now_ns - time_ns(&status->stx_ctime);
    bool ahead = age_ns < 0 && root->snapshot == 0;
    return ahead || age_ns >= TICK_NS ? 0 : TICK_NS - age_ns;
}

static repl_result status_read(const struct repl_tree_root *root, int fd, bool settle,
                               struct statx *status, bool *racy, struct repl_error *err)
{
    settle = settle && root->snapshot == 0;
    for (int tries = settle ? 3 : 1; tries > 0; tries--) {
        if (statx(fd, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, status) != 0)
            return repl_fail_errno(err, code_of(errno), errno, "statx");
        int64_t wait_ns = settles_in(root, status);
        *racy = wait_ns > 0;
        if (!*racy)
            break;
        if (settle)
            nanosleep(&(struct timespec){.tv_nsec = wait_ns}, NULL);
    }
    return REPL_SUCCESS;
}

repl_result repl_tree_object_read(const struct repl_tree_root *root, int fd, bool settle,
                                  struct repl_tree_object *out, struct repl_error *err)
{
    struct statx status;
    REPL_TRY(status_read(root, fd, settle, &status, &out->racy, err));
    node_of(&status, &out->node);
    out->ctime_ns = time_ns(&status.stx_ctime);
    out->read_ns = root->snapshot != 0 ? root->as_of_ns : repl_now_wall_ns();
    out->inode = status.stx_ino;
    out->mount = fd != root->fd && is_mount(root, &status); /* the top may well be one */
    if (out->node.kind == REPL_NODE_SYMLINK) {
        ssize_t size = readlinkat(fd, "", out->target, sizeof out->target);
        if (size <= 0)
            return repl_fail_errno(err, code_of(errno), errno, "readlink");
        out->node.target = out->target;
        out->node.target_size = (uint32_t)size;
    }
    if (out->mount) { /* a handle of another filesystem: told by what is mounted */
        out->handle = (struct repl_tree_handle){.type = INT32_MAX, .size = 16};
        memcpy(out->handle.bytes, &status.stx_dev_major, 4);
        memcpy(out->handle.bytes + 4, &status.stx_dev_minor, 4);
        memcpy(out->handle.bytes + 8, &status.stx_ino, 8);
        return REPL_SUCCESS;
    }
    flags_read(fd, out);
    REPL_TRY(handle_of(fd, &out->handle, err));
    handle_move(&out->handle, root->snapshot, root->subvolume);
    return REPL_SUCCESS;
}

/* --- attributes ------------------------------------------------------------------------------ */

#define ATTRIBUTE_HEADER (1 + 4 + 8)

static int names_order(const void *a, const void *b)
{
    const char *const *x = a, *const *y = b;
    return repl_name_compare(*x, strlen(*x), *y, strlen(*y));
}

static bool is_attribute(const char *name)
{
    return strncmp(name, REPL_XATTR_XFS_ACL, strlen(REPL_XATTR_XFS_ACL)) != 0;
}

static repl_result attribute_append(const char *path, const char *name, struct repl_buffer *out,
                                    struct repl_error *err)
{
    uint8_t value[REPL_XATTR_MAX], header[ATTRIBUTE_HEADER] = {0};
    ssize_t size = getxattr(path, name, value, sizeof value);
    if (size < 0 && (errno == ENODATA || errno == EOPNOTSUPP))
        return REPL_SUCCESS; /* gone meanwhile, which shows in the ctime; or not for us to read */
    if (size < 0)
        return repl_fail_errno(err, code_of(errno), errno, "attribute %s", name);
    header[0] = (uint8_t)strlen(name);
    memcpy(header + 1, &(uint32_t){(uint32_t)size}, 4);
    REPL_TRY(repl_buffer_append(out, header, sizeof header, err));
    REPL_TRY(repl_buffer_append(out, name, strlen(name), err));
    return repl_buffer_append(out, value, (size_t)size, err);
}

/* list: names, each with a NUL behind it. */
static repl_result attributes_append(const char *path, const char *list, size_t size,
                                     struct repl_buffer *out, struct repl_error *err)
{
    size_t count = 0;
    const char **names = calloc(size, sizeof *names); /* more than there are */
    if (names == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for attributes");
    for (size_t at = 0; at < size; at += strlen(list + at) + 1) {
        if (is_attribute(list + at))
            names[count++] = list + at;
    }
    qsort(names, count, sizeof *names, names_order);
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < count; i++)
        result = attribute_append(path, names[i], out, err);
    free(names);
    return result;
}

repl_result repl_tree_attributes_read(int fd, struct repl_buffer *out, struct repl_error *err)
{
    char path[64], list[REPL_XATTR_MAX];
    out->size = 0;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = listxattr(path, list, sizeof list);
    if (size == 0 || (size < 0 && errno == EOPNOTSUPP))
        return REPL_SUCCESS;
    if (size < 0)
        return repl_fail_errno(err, code_of(errno), errno, "its attributes");
    return attributes_append(path, list, (size_t)size, out, err);
}

bool repl_tree_attribute_next(const void *attributes, size_t size, size_t *at,
                              struct repl_tree_attribute *out)
{
    if (size - *at < ATTRIBUTE_HEADER)
        return false;
    const uint8_t *bytes = (const uint8_t *)attributes + *at;
    out->name_size = bytes[0];
    memcpy(&out->value_size, bytes + 1, 4);
    memcpy(&out->place, bytes + 5, 8);
    out->name = (const char *)bytes + ATTRIBUTE_HEADER;
    out->value = bytes + ATTRIBUTE_HEADER + out->name_size;
    *at += ATTRIBUTE_HEADER + out->name_size + out->value_size;
    return *at <= size;
}

/* --- data and holes -------------------------------------------------------------------------- */

#define EXTENTS 32u

/* Before Linux 6.9 an xfs with reflinks, asked for data from within a hole, passes over what lies
 * behind it as far as the extent that it has set aside for copies on write goes. Where the
 * filesystem keeps what has been written, it knows. */
static repl_result hole_check(int fd, uint64_t from, uint64_t end, struct repl_buffer *out,
                              struct repl_error *err)
{
    union {
        struct fiemap map;
        uint8_t room[sizeof(struct fiemap) + EXTENTS * sizeof(struct fiemap_extent)];
    } ask;
    for (uint64_t at = from; at < end;) {
        memset(&ask.map, 0, sizeof ask.map);
        ask.map.fm_start = at;
        ask.map.fm_length = end - at;
        ask.map.fm_extent_count = EXTENTS;
        if (ioctl(fd, FS_IOC_FIEMAP, &ask.map) != 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "looking for data");
        if (ask.map.fm_mapped_extents == 0)
            break;
        for (uint32_t i = 0; i < ask.map.fm_mapped_extents; i++) {
            const struct fiemap_extent *extent = &ask.map.fm_extents[i];
            uint64_t first = extent->fe_logical > at ? extent->fe_logical : at;
            at = extent->fe_logical + extent->fe_length;
            uint64_t last = at < end ? at : end;
            if ((extent->fe_flags & FIEMAP_EXTENT_UNWRITTEN) == 0 && last > first)
                REPL_TRY(repl_tree_pages_note(out, first, last - first, err));
        }
    }
    return REPL_SUCCESS;
}

static repl_result holes_find(int fd, uint64_t size, struct repl_buffer *out,
                              struct repl_error *err)
{
    struct statfs fs;
    bool check = fstatfs(fd, &fs) == 0 && fs.f_type == XFS_SUPER_MAGIC;
    for (off_t at = 0; (uint64_t)at < size;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        bool none = data < 0 && errno == ENXIO;
        off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
        if (hole < 0 && !none)
            return repl_fail_errno(err, REPL_E_IO, errno, "looking for holes");
        uint64_t first = none ? size : (uint64_t)data / REPL_PAGE_SIZE * REPL_PAGE_SIZE;
        if (check && first > (uint64_t)at)
            REPL_TRY(hole_check(fd, (uint64_t)at, first < size ? first : size, out, err));
        if (none)
            break;
        uint64_t end = (uint64_t)hole < size ? (uint64_t)hole : size;
        if (end > first)
            REPL_TRY(repl_tree_pages_note(out, first, end - first, err));
        at = hole;
    }
    return REPL_SUCCESS;
}

/* A write that had begun, and given the file its ctime, when that was looked at: ext4 and btrfs
 * wait for its end where holes are looked for, xfs where the file is read. Not for that of a direct
 * write (tree_scan.h). */
static repl_result writers_wait(int fd, struct repl_error *err)
{
    uint8_t byte;
    if (pread(fd, &byte, sizeof byte, 0) >= 0)
        return REPL_SUCCESS;
    return repl_fail_errno(err, REPL_E_IO, errno, "reading it");
}

/* Writes out the file's pages and waits for that. An error of before is told once, to whoever asks
 * next, as of a direct write that met a page of the cache: what can be read is all the same what
 * the file has, and if it still cannot be written, the second time says so. */
static bool pages_write_out(int fd)
{
    for (int tries = 2; tries > 0; tries--) {
        if (sync_file_range(fd, 0, 0,
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                SYNC_FILE_RANGE_WAIT_AFTER) == 0 ||
            errno == ESPIPE)
            return true;
        if (errno != EIO && errno != ENOSPC)
            break;
    }
    return false;
}

repl_result repl_tree_data_find(int fd, uint64_t size, struct repl_buffer *out,
                                struct repl_error *err)
{
    out->size = 0;
    REPL_TRY(writers_wait(fd, err));
    /* A page that is dirty already can be written to again without a sign; of one that has been
     * written out, and is protected again, the next write changes the ctime. */
    if (!pages_write_out(fd))
        return repl_fail_errno(err, REPL_E_IO, errno, "writing out what was changed");
    return holes_find(fd, size, out, err);
}
