/*
 * A tree as it was. Numbers of inodes are those of the history's objects, but
 * for the top.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "mount/mount_internal.h"
#include "recover/tree_meta.h"

_Static_assert((int)FUSE_ROOT_ID < (int)REPL_OBJECT_ROOT, "no object has the top's number");

static struct repl_mount *mount_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

static struct repl_point_reader *reader_of(fuse_req_t request)
{
    return mount_of(request)->options.reader;
}

static uint64_t object_of(fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? REPL_OBJECT_ROOT : ino;
}

static fuse_ino_t ino_of(uint64_t object)
{
    return object == REPL_OBJECT_ROOT ? FUSE_ROOT_ID : object;
}

static void reply_failed(fuse_req_t request, repl_result result, const struct repl_error *err)
{
    if (result.code == REPL_E_MISSING)
        fuse_reply_err(request, ENOENT);
    else
        repl_mount_reply_failed(mount_of(request), request, err);
}

static void status_of(const struct repl_point_node *from, struct stat *out)
{
    const struct repl_node *node = &from->node;
    int64_t seconds = node->mtime_ns / 1000000000, rest = node->mtime_ns % 1000000000;
    struct timespec time = {.tv_sec = rest < 0 ? seconds - 1 : seconds,
                            .tv_nsec = rest < 0 ? rest + 1000000000 : rest};
    *out = (struct stat){.st_ino = ino_of(from->object),
                         .st_mode = repl_tree_type(node->kind) | node->mode,
                         .st_nlink = from->links,
                         .st_uid = node->uid,
                         .st_gid = node->gid,
                         .st_rdev = makedev(node->major, node->minor),
                         .st_blksize = 1 << 17,
                         .st_size = (off_t)node->size,
                         .st_blocks = (blkcnt_t)(from->data_bytes / 512),
                         .st_atim = time,
                         .st_mtim = time,
                         .st_ctim = time};
    if (node->kind == REPL_NODE_SYMLINK)
        out->st_size = node->target_size;
}

static void tree_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.attr_timeout = REPL_MOUNT_KEEP,
                                     .entry_timeout = REPL_MOUNT_KEEP};
    struct repl_point_node node;
    struct repl_error err;
    uint64_t object;
    repl_result result =
        repl_point_lookup(reader_of(request), object_of(parent), name, strlen(name), &object, &err);
    if (repl_ok(result) && object == 0) {
        fuse_reply_entry(request, &entry); /* that it is not there may be kept too */
        return;
    }
    if (repl_ok(result))
        result = repl_point_node(reader_of(request), object, &node, &err);
    if (!repl_ok(result)) {
        reply_failed(request, result, &err);
        return;
    }
    entry.ino = ino_of(object);
    status_of(&node, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void tree_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct repl_point_node node;
    struct repl_error err;
    struct stat status;
    (void)info;
    repl_result result = repl_point_node(reader_of(request), object_of(ino), &node, &err);
    if (!repl_ok(result)) {
        reply_failed(request, result, &err);
        return;
    }
    status_of(&node, &status);
    fuse_reply_attr(request, &status, REPL_MOUNT_KEEP);
}

static void tree_readlink(fuse_req_t request, fuse_ino_t ino)
{
    char target[REPL_TARGET_MAX + 1];
    struct repl_point_node node;
    struct repl_error err;
    repl_result result = repl_point_node(reader_of(request), object_of(ino), &node, &err);
    if (!repl_ok(result)) {
        reply_failed(request, result, &err);
        return;
    }
    if (node.node.kind != REPL_NODE_SYMLINK || node.node.target_size > REPL_TARGET_MAX) {
        fuse_reply_err(request, EINVAL);
        return;
    }
    memcpy(target, node.node.target, node.node.target_size);
    target[node.node.target_size] = '\0';
    fuse_reply_readlink(request, target);
}

/* --- directories ----------------------------------------------------------------------------- */

/* An open directory: names are numbered as they are listed, and where the last one stood is kept,
 * as the next call mostly goes on from there. The kernel has one call at a time for each. */
struct opened {
    off_t at; /* names taken by the walk; . and .. are 0 and 1 */
    struct repl_point_walk walk;
};

static struct opened *opened_of(const struct fuse_file_info *info)
{
    return (struct opened *)(uintptr_t)info->fh;
}

static void tree_opendir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct opened *opened = calloc(1, sizeof *opened);
    (void)ino;
    if (opened == NULL) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    info->fh = (uintptr_t)opened;
    info->cache_readdir = 1;
    info->keep_cache = 1;
    if (fuse_reply_open(request, info) != 0)
        free(opened);
}

static void tree_releasedir(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    free(opened_of(info));
    fuse_reply_err(request, 0);
}

/* The next name, or the end; *opened stands behind it. */
static repl_result name_next(fuse_req_t request, uint64_t directory, struct opened *opened,
                             char name[REPL_NAME_MAX + 1], struct stat *status, bool *found,
                             struct repl_error *err)
{
    struct repl_point_name listed;
    *found = true;
    if (opened->at < 2) {
        strcpy(name, opened->at == 0 ? "." : "..");
        *status = (struct stat){.st_ino = ino_of(directory), .st_mode = S_IFDIR};
        opened->at++;
        return REPL_SUCCESS;
    }
    REPL_TRY(repl_point_list(reader_of(request), directory, &opened->walk, &listed, found, err));
    if (!*found)
        return REPL_SUCCESS;
    opened->at++;
    memcpy(name, listed.name, listed.name_size);
    name[listed.name_size] = '\0';
    *status =
        (struct stat){.st_ino = ino_of(listed.object), .st_mode = repl_tree_type(listed.kind)};
    return REPL_SUCCESS;
}

static repl_result names_add(fuse_req_t request, uint64_t directory, struct opened *opened,
                             off_t offset, char *buffer, size_t size, size_t *used,
                             struct repl_error *err)
{
    if (opened->at > offset)
        *opened = (struct opened){0};
    for (bool found = true;;) {
        char name[REPL_NAME_MAX + 1];
        struct stat status;
        struct opened before = *opened;
        REPL_TRY(name_next(request, directory, opened, name, &status, &found, err));
        if (!found)
            return REPL_SUCCESS;
        if (before.at < offset)
            continue;
        size_t more =
            fuse_add_direntry(request, buffer + *used, size - *used, name, &status, opened->at);
        if (more > size - *used) {
            *opened = before;
            return REPL_SUCCESS;
        }
        *used += more;
    }
}

static void tree_readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                         struct fuse_file_info *info)
{
    struct repl_error err;
    size_t used = 0;
    char *buffer = malloc(size + 1);
    if (buffer == NULL) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    repl_result result =
        names_add(request, object_of(ino), opened_of(info), offset, buffer, size, &used, &err);
    if (repl_ok(result) || used > 0)
        fuse_reply_buf(request, buffer, used);
    else
        reply_failed(request, result, &err);
    free(buffer);
}

/* --- contents -------------------------------------------------------------------------------- */

static void tree_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    (void)ino;
    info->keep_cache = 1;
    fuse_reply_open(request, info);
}

static void tree_file_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                           struct fuse_file_info *info)
{
    struct repl_error err;
    size_t got;
    uint8_t *bytes = malloc(size + 1);
    (void)info;
    if (bytes == NULL) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    repl_result result = repl_point_file_read(reader_of(request), object_of(ino), (uint64_t)offset,
                                              bytes, size, &got, &err);
    if (repl_ok(result))
        fuse_reply_buf(request, (const char *)bytes, got);
    else
        repl_mount_reply_failed(mount_of(request), request, &err);
    free(bytes);
}

static void tree_lseek(fuse_req_t request, fuse_ino_t ino, off_t offset, int whence,
                       struct fuse_file_info *info)
{
    struct repl_point_node node;
    struct repl_error err;
    uint64_t at = 0;
    bool data = whence == SEEK_DATA;
    (void)info;
    repl_result result = repl_point_node(reader_of(request), object_of(ino), &node, &err);
    bool within = repl_ok(result) && offset >= 0 && (uint64_t)offset < node.node.size;
    if (within)
        result = repl_point_file_seek(reader_of(request), object_of(ino), (uint64_t)offset, data,
                                      &at, &err);
    if (!repl_ok(result))
        reply_failed(request, result, &err);
    else if (!within || (data && at == node.node.size))
        fuse_reply_err(request, ENXIO);
    else
        fuse_reply_lseek(request, (off_t)at);
}

/* --- attributes ------------------------------------------------------------------------------ */

/* The kernel asks with a size of 0 how much room it takes. */
static void reply_sized(fuse_req_t request, const void *bytes, size_t has, size_t size)
{
    if (size == 0)
        fuse_reply_xattr(request, has);
    else if (has > size)
        fuse_reply_err(request, ERANGE);
    else
        fuse_reply_buf(request, bytes, has);
}

static void tree_getxattr(fuse_req_t request, fuse_ino_t ino, const char *name, size_t size)
{
    struct repl_point_walk walk = {0};
    struct repl_point_attribute attribute;
    struct repl_error err;
    uint8_t value[REPL_XATTR_MAX];
    repl_result result;
    for (bool found = true;;) {
        result = repl_point_attributes(reader_of(request), object_of(ino), &walk, &attribute,
                                       &found, &err);
        if (repl_ok(result) && !found) {
            fuse_reply_err(request, ENODATA);
            return;
        }
        if (!repl_ok(result) || (attribute.name_size == strlen(name) &&
                                 memcmp(attribute.name, name, attribute.name_size) == 0))
            break;
    }
    if (repl_ok(result) && size >= attribute.value_size)
        result = repl_point_attribute_read(reader_of(request), &attribute, value, &err);
    if (repl_ok(result))
        reply_sized(request, value, attribute.value_size, size);
    else
        reply_failed(request, result, &err);
}

static void tree_listxattr(fuse_req_t request, fuse_ino_t ino, size_t size)
{
    struct repl_point_walk walk = {0};
    struct repl_error err;
    char list[65536]; /* XATTR_LIST_MAX: the kernel takes no more */
    size_t used = 0;
    for (bool found = true;;) {
        struct repl_point_attribute attribute;
        repl_result result = repl_point_attributes(reader_of(request), object_of(ino), &walk,
                                                   &attribute, &found, &err);
        if (!repl_ok(result)) {
            reply_failed(request, result, &err);
            return;
        }
        if (!found)
            break;
        if (used + attribute.name_size + 1 > sizeof list) {
            fuse_reply_err(request, E2BIG);
            return;
        }
        memcpy(list + used, attribute.name, attribute.name_size);
        used += attribute.name_size;
        list[used++] = '\0';
    }
    reply_sized(request, list, used, size);
}

const struct fuse_lowlevel_ops repl_mount_tree_ops = {
    .lookup = tree_lookup,
    .getattr = tree_getattr,
    .readlink = tree_readlink,
    .opendir = tree_opendir,
    .readdir = tree_readdir,
    .releasedir = tree_releasedir,
    .open = tree_open,
    .read = tree_file_read,
    .lseek = tree_lseek,
    .getxattr = tree_getxattr,
    .listxattr = tree_listxattr,
};
