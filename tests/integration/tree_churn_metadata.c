/* tree_churn: what changes what files and directories are besides what is in them. */
#include "tree_churn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

/* Something in the tree, by a path that does not follow it; the top directory now and then. */
static int thing_open(struct writer *w, unsigned wanted, int *fd, char path[64])
{
    struct place p;
    int error = 0;
    if ((wanted & WANT_DIRECTORY) != 0 && any(w, 200) == 0) {
        *fd = openat(w->world->base_fd, "root", O_PATH | O_CLOEXEC);
        error = error_of(*fd);
    } else {
        error = place_find(w, EITHER, wanted, &p);
        if (error != 0)
            return error;
        *fd = openat(p.fd, p.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        error = error_of(*fd);
        place_end(&p);
    }
    snprintf(path, 64, "/proc/self/fd/%d", *fd);
    return error;
}

static int end(int fd, int error)
{
    close(fd);
    return error;
}

/* --- mode, owner, times ---------------------------------------------------------------------- */

static int mode_set(struct writer *w, unsigned wanted, mode_t mode)
{
    char path[64];
    int fd, error = thing_open(w, wanted, &fd, path);
    return error != 0 ? error : end(fd, error_of(chmod(path, mode)));
}

static int change_mode(struct writer *w)
{
    return mode_set(w, WANT_FILE | WANT_DIRECTORY, 0400 | any(w, 512));
}

static int change_mode_setuid(struct writer *w)
{
    return mode_set(w, WANT_FILE | WANT_DIRECTORY, 0500 | any(w, 4096));
}

static int change_owner(struct writer *w)
{
    char path[64];
    int fd, error = thing_open(w, WANT_ANY, &fd, path);
    if (error != 0)
        return error;
    uid_t uid = any(w, 8) == 0 ? 4000000000u : (uid_t)any(w, 70000);
    return end(fd, error_of(fchownat(fd, "", uid, (gid_t)any(w, 70000), AT_EMPTY_PATH)));
}

static int change_times(struct writer *w)
{
    char path[64];
    const struct timespec times[2] = {
        {.tv_nsec = UTIME_OMIT},
        {.tv_sec = (time_t)any(w, UINT64_C(1) << 31), .tv_nsec = (long)any(w, 1000000000)}};
    int fd, error = thing_open(w, WANT_ANY, &fd, path);
    return error != 0 ? error : end(fd, error_of(utimensat(fd, "", times, AT_EMPTY_PATH)));
}

/* --- attributes ------------------------------------------------------------------------------ */

static int attribute_set(struct writer *w, const char *prefix, size_t size, int flags)
{
    char path[64], name[64];
    bool by_users = strcmp(prefix, "user.") == 0; /* which only these two can have */
    int fd, error = thing_open(w, by_users ? WANT_FILE | WANT_DIRECTORY : WANT_ANY, &fd, path);
    if (error != 0)
        return error;
    snprintf(name, sizeof name, "%sname%u", prefix, (unsigned)any(w, 4));
    content(w, size);
    return end(fd, error_of(setxattr(path, name, w->buffer, size, flags)));
}

static int attribute_user(struct writer *w)
{
    return attribute_set(w, "user.", any(w, 200), 0);
}

static int attribute_trusted(struct writer *w)
{
    return attribute_set(w, "trusted.", any(w, 200), 0);
}

/* More than goes into a record. */
static int attribute_large(struct writer *w)
{
    return attribute_set(w, "user.large.", 2049 + any(w, 1700), 0);
}

static int attribute_huge(struct writer *w)
{
    return attribute_set(w, "user.huge.", 4200 + any(w, any(w, 2) == 0 ? 8000 : 61336), 0);
}

static int attribute_change(struct writer *w)
{
    return attribute_set(w, any(w, 2) == 0 ? "user." : "user.large.", any(w, 3000), XATTR_REPLACE);
}

static int attribute_remove(struct writer *w)
{
    char path[64], list[65536];
    int fd, error = thing_open(w, WANT_ANY, &fd, path);
    if (error != 0)
        return error;
    ssize_t size = listxattr(path, list, sizeof list);
    if (size <= 0)
        return end(fd, EAGAIN);
    return end(fd, error_of(removexattr(path, list)));
}

/* As the kernel takes it: version 2, entries of tag, permissions, id. */
struct acl {
    uint32_t version;
    struct {
        uint16_t tag, permissions;
        uint32_t id;
    } entries[6];
};

static int acl_set(struct writer *w, unsigned wanted, const char *name)
{
    char path[64];
    const uint32_t nobody = UINT32_MAX;
    struct acl acl = {2,
                      {{0x01, 6, nobody},
                       {0x02, (uint16_t)any(w, 8), (uint32_t)any(w, 1000)},
                       {0x04, (uint16_t)any(w, 8), nobody},
                       {0x08, (uint16_t)any(w, 8), (uint32_t)any(w, 1000)},
                       {0x10, (uint16_t)any(w, 8), nobody},
                       {0x20, (uint16_t)any(w, 8), nobody}}};
    int fd, error = thing_open(w, wanted, &fd, path);
    return error != 0 ? error : end(fd, error_of(setxattr(path, name, &acl, sizeof acl, 0)));
}

static int acl_access(struct writer *w)
{
    return acl_set(w, WANT_FILE | WANT_DIRECTORY, "system.posix_acl_access");
}

static int acl_default(struct writer *w)
{
    return acl_set(w, WANT_DIRECTORY, "system.posix_acl_default");
}

static int capability_set(struct writer *w)
{
    char path[64];
    struct vfs_cap_data data = {.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE};
    data.data[0].permitted = 1 + (uint32_t)any(w, 1000);
    int fd, error = thing_open(w, WANT_FILE, &fd, path);
    return error != 0
               ? error
               : end(fd,
                     error_of(setxattr(path, "security.capability", &data, XATTR_CAPS_SZ_2, 0)));
}

/* --- inode flags ----------------------------------------------------------------------------- */

static int flags_change(int fd, int set, int clear)
{
    int flags;
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0)
        return errno;
    struct stat status;
    flags = (flags | set) & ~clear;
    int error = error_of(ioctl(fd, FS_IOC_SETFLAGS, &flags));
    /* The kernel tells nobody of flags; of this it does, where it is allowed. */
    if (error == 0 && (flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)) == 0 && fstat(fd, &status) == 0)
        error = error_of(fchmod(fd, status.st_mode & 07777));
    return error;
}

static int flag_nodump(struct writer *w)
{
    int fd, error = file_open(w, O_RDONLY, &fd);
    if (error != 0)
        return error;
    bool set = any(w, 3) != 0;
    return end(fd, flags_change(fd, set ? FS_NODUMP_FL : 0, set ? 0 : FS_NODUMP_FL));
}

static int flag_noatime(struct writer *w)
{
    int fd, error = file_open(w, O_RDONLY, &fd);
    return error != 0 ? error : end(fd, flags_change(fd, FS_NOATIME_FL, 0));
}

/* One a writer, for as long as until the next one is chosen. */
static int flag_immutable(struct writer *w)
{
    if (w->frozen_fd >= 0)
        return EAGAIN;
    int fd, error = file_open(w, O_RDONLY, &fd);
    if (error != 0)
        return error;
    error = flags_change(fd, any(w, 4) == 0 ? FS_APPEND_FL : FS_IMMUTABLE_FL, 0);
    if (error != 0)
        return end(fd, error);
    w->frozen_fd = fd;
    return 0;
}

static int flag_immutable_clear(struct writer *w)
{
    if (w->frozen_fd < 0)
        return EAGAIN;
    int fd = w->frozen_fd, error = flags_change(fd, 0, FS_IMMUTABLE_FL | FS_APPEND_FL);
    w->frozen_fd = -1;
    return end(fd, error);
}

void flags_clear(struct writer *w)
{
    (void)flag_immutable_clear(w);
}

const struct operation metadata_operations[] = {
    {"chmod", change_mode, 16, CHANGES},
    {"chmod_setuid", change_mode_setuid, 6, CHANGES},
    {"chown", change_owner, 12, CHANGES},
    {"utimes", change_times, 16, CHANGES},
    {"xattr_user", attribute_user, 12, CHANGES},
    {"xattr_trusted", attribute_trusted, 8, CHANGES},
    {"xattr_large", attribute_large, 6, CHANGES},
    {"xattr_huge", attribute_huge, 3, CHANGES},
    {"xattr_change", attribute_change, 60, CHANGES},
    {"xattr_remove", attribute_remove, 24, CHANGES},
    {"acl_access", acl_access, 8, CHANGES},
    {"acl_default", acl_default, 4, CHANGES},
    {"capability", capability_set, 4, CHANGES},
    {"nodump", flag_nodump, 6, CHANGES},
    {"noatime", flag_noatime, 3, CHANGES},
    {"immutable", flag_immutable, 6, CHANGES},
    {"immutable_clear", flag_immutable_clear, 12, CHANGES},
    {0},
};
