/*
 * A block volume: a directory with two files, VOLUME.img and, which point that
 * is, in VOLUME.txt.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mount/mount_internal.h"

enum { INO_TOP = FUSE_ROOT_ID, INO_IMAGE, INO_TEXT };

static struct repl_mount *mount_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

static void name_of(const struct repl_mount *mount, fuse_ino_t ino, char *out, size_t size)
{
    snprintf(out, size, "%s.%s", repl_history_origin(mount->options.history)->volume,
             ino == INO_IMAGE ? "img" : "txt");
}

static void status_of(const struct repl_mount *mount, fuse_ino_t ino, struct stat *out)
{
    int64_t time_ns = mount->options.point->point.end_ns;
    struct timespec time = {.tv_sec = time_ns / 1000000000, .tv_nsec = time_ns % 1000000000};
    *out = (struct stat){.st_ino = ino,
                         .st_nlink = 1,
                         .st_uid = getuid(),
                         .st_gid = getgid(),
                         .st_blksize = 1 << 20,
                         .st_atim = time,
                         .st_mtim = time,
                         .st_ctim = time};
    if (ino == INO_TOP) {
        out->st_mode = S_IFDIR | 0500;
        return;
    }
    out->st_mode = S_IFREG | 0400;
    out->st_size = ino == INO_IMAGE ? (off_t)repl_point_size(mount->options.reader)
                                    : (off_t)strlen(mount->options.about);
    out->st_blocks = (out->st_size + 511) / 512;
}

static void image_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    const struct repl_mount *mount = mount_of(request);
    struct fuse_entry_param entry = {.attr_timeout = REPL_MOUNT_KEEP,
                                     .entry_timeout = REPL_MOUNT_KEEP};
    char wanted[REPL_VOLUME_NAME_SIZE + 8];
    for (fuse_ino_t ino = INO_IMAGE; ino <= INO_TEXT && parent == INO_TOP; ino++) {
        name_of(mount, ino, wanted, sizeof wanted);
        if (strcmp(name, wanted) != 0)
            continue;
        entry.ino = ino;
        status_of(mount, ino, &entry.attr);
        fuse_reply_entry(request, &entry);
        return;
    }
    fuse_reply_err(request, ENOENT);
}

static void image_getattr(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    struct stat status;
    (void)info;
    if (ino > INO_TEXT) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    status_of(mount_of(request), ino, &status);
    fuse_reply_attr(request, &status, REPL_MOUNT_KEEP);
}

static void image_readdir(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                          struct fuse_file_info *info)
{
    char buffer[1024], name[REPL_VOLUME_NAME_SIZE + 8];
    size_t used = 0, room = size < sizeof buffer ? size : sizeof buffer;
    (void)info;
    for (off_t i = offset; ino == INO_TOP && i < 4; i++) {
        struct stat status = {.st_ino = INO_TOP, .st_mode = S_IFDIR};
        if (i >= 2) {
            status_of(mount_of(request), INO_IMAGE + (fuse_ino_t)i - 2, &status);
            name_of(mount_of(request), status.st_ino, name, sizeof name);
        } else {
            strcpy(name, i == 0 ? "." : "..");
        }
        size_t more = fuse_add_direntry(request, buffer + used, room - used, name, &status, i + 1);
        if (more > room - used)
            break;
        used += more;
    }
    fuse_reply_buf(request, buffer, used);
}

static void image_open(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info)
{
    if (ino == INO_TOP) {
        fuse_reply_err(request, EISDIR);
        return;
    }
    info->keep_cache = 1;
    fuse_reply_open(request, info);
}

static void image_read(fuse_req_t request, fuse_ino_t ino, size_t size, off_t offset,
                       struct fuse_file_info *info)
{
    struct repl_mount *mount = mount_of(request);
    struct repl_error err;
    struct stat status;
    (void)info;
    status_of(mount, ino, &status);
    size_t left = offset < status.st_size ? (size_t)(status.st_size - offset) : 0;
    size = left < size ? left : size;
    if (ino == INO_TEXT) {
        fuse_reply_buf(request, mount->options.about + (size > 0 ? offset : 0), size);
        return;
    }
    uint8_t *bytes = malloc(size + 1);
    if (bytes == NULL) {
        fuse_reply_err(request, ENOMEM);
        return;
    }
    if (repl_ok(repl_point_read(mount->options.reader, (uint64_t)(size > 0 ? offset : 0), bytes,
                                size, &err)))
        fuse_reply_buf(request, (const char *)bytes, size);
    else
        repl_mount_reply_failed(mount, request, &err);
    free(bytes);
}

static void image_lseek(fuse_req_t request, fuse_ino_t ino, off_t offset, int whence,
                        struct fuse_file_info *info)
{
    struct repl_mount *mount = mount_of(request);
    struct stat status;
    (void)info;
    status_of(mount, ino, &status);
    bool data = whence == SEEK_DATA;
    if (offset < 0 || offset >= status.st_size) {
        fuse_reply_err(request, ENXIO);
        return;
    }
    off_t at = ino == INO_TEXT
                   ? (data ? offset : status.st_size)
                   : (off_t)repl_point_seek(mount->options.reader, (uint64_t)offset, data);
    if (data && at == status.st_size)
        fuse_reply_err(request, ENXIO);
    else
        fuse_reply_lseek(request, at);
}

const struct fuse_lowlevel_ops repl_mount_image_ops = {
    .lookup = image_lookup,
    .getattr = image_getattr,
    .readdir = image_readdir,
    .open = image_open,
    .read = image_read,
    .lseek = image_lseek,
};
