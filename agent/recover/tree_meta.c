/*
 * The order: owner (which takes set-user-ID bits and capabilities away), mode,
 * attributes (an ACL is more than the mode says), project, flags, time, and
 * last the flags after which nothing can be changed any more.
 *
 * Of what is there already, all is compared first, and only if something
 * differs is anything set, so that an equal file keeps even its ctime.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "recover/tree_dirs.h"
#include "recover/tree_meta.h"

#define LOCKS ((unsigned)(FS_IMMUTABLE_FL | FS_APPEND_FL))
/* What chattr may set; the others say how the filesystem keeps the file. */
#define SETTABLE                                                                                   \
    (LOCKS | (unsigned)(FS_SECRM_FL | FS_UNRM_FL | FS_COMPR_FL | FS_SYNC_FL | FS_NODUMP_FL |       \
                        FS_NOATIME_FL | FS_JOURNAL_DATA_FL | FS_NOTAIL_FL | FS_DIRSYNC_FL |        \
                        FS_TOPDIR_FL | FS_NOCOW_FL | FS_PROJINHERIT_FL))
#define EARLY ((unsigned)(FS_NOCOW_FL | FS_COMPR_FL))

struct meta {
    const struct repl_tree_meta_by *by;
    const struct repl_tree_item *item;
    const char *name; /* in item->directory */
    int fd;           /* -1: not open */
    char path[64 + REPL_NAME_MAX];
    struct stat now;
    bool compare; /* only looks whether anything differs */
    bool differs;
    bool packed;  /* what has no room now has none */
    bool no_room; /* for an attribute, among those that are there */
};

static void lacks(const struct meta *m, enum repl_tree_lack lack, const char *what, int os_errno)
{
    m->by->lacks(m->by->context, m->item, lack, what, os_errno);
}

static repl_result look(struct meta *m, struct repl_error *err)
{
    int failed = m->fd >= 0 ? fstat(m->fd, &m->now)
                            : fstatat(m->item->directory, m->name, &m->now, AT_SYMLINK_NOFOLLOW);
    return failed == 0 ? REPL_SUCCESS : repl_tree_fail(err, errno, "cannot look at it");
}

/* Whether to go on and set what differs. */
static bool set(struct meta *m, bool differs)
{
    m->differs |= differs;
    return differs && !m->compare;
}

/* --- owner, mode, time ----------------------------------------------------------------------- */

static void owner_wanted(const struct meta *m, uid_t *uid, gid_t *gid)
{
    const struct repl_node *node = &m->item->node;
    bool numeric = m->by->owner == REPL_TREE_OWNER_NUMERIC;
    bool given = m->by->owner == REPL_TREE_OWNER_GIVEN;
    *uid = numeric ? node->uid : given ? m->by->uid : m->now.st_uid;
    *gid = numeric ? node->gid : given ? m->by->gid : m->now.st_gid;
}

static repl_result owner_apply(struct meta *m, struct repl_error *err)
{
    uid_t uid;
    gid_t gid;
    owner_wanted(m, &uid, &gid);
    if (!set(m, uid != m->now.st_uid || gid != m->now.st_gid))
        return REPL_SUCCESS;
    int failed = m->fd >= 0 ? fchown(m->fd, uid, gid)
                            : fchownat(m->item->directory, m->name, uid, gid, AT_SYMLINK_NOFOLLOW);
    if (failed != 0)
        return repl_tree_fail(err, errno, "cannot set the owner");
    return look(m, err); /* the mode may be another one now */
}

static repl_result mode_apply(struct meta *m, struct repl_error *err)
{
    const struct repl_node *node = &m->item->node;
    uid_t uid;
    gid_t gid;
    mode_t mode = node->mode;
    if (node->kind == REPL_NODE_SYMLINK)
        return REPL_SUCCESS;
    owner_wanted(m, &uid, &gid);
    bool same_owner = uid == node->uid && gid == node->gid;
    if (!same_owner && node->kind != REPL_NODE_DIRECTORY && (mode & (S_ISUID | S_ISGID)) != 0) {
        mode &= ~(mode_t)(S_ISUID | S_ISGID);
        if (!m->compare)
            lacks(m, REPL_TREE_LACK_SETUID, "it belongs to somebody else now", 0);
    }
    if (!set(m, (m->now.st_mode & REPL_NODE_MODE_MASK) != mode))
        return REPL_SUCCESS;
    int failed = m->fd >= 0 ? fchmod(m->fd, mode)
                            : fchmodat(m->item->directory, m->name, mode, AT_SYMLINK_NOFOLLOW);
    return failed == 0 ? REPL_SUCCESS : repl_tree_fail(err, errno, "cannot set the mode");
}

static bool time_differs(const struct meta *m)
{
    int64_t ns = m->item->node.mtime_ns, part = ns % 1000000000;
    if (part < 0)
        part += 1000000000;
    return m->now.st_mtim.tv_sec != (ns - part) / 1000000000 || m->now.st_mtim.tv_nsec != part;
}

static repl_result time_apply(struct meta *m, struct repl_error *err)
{
    int64_t ns = m->item->node.mtime_ns, part = ns % 1000000000;
    if (part < 0)
        part += 1000000000;
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                {.tv_sec = (ns - part) / 1000000000, .tv_nsec = part}};
    if (!set(m, time_differs(m)))
        return REPL_SUCCESS;
    int failed = m->fd >= 0 ? futimens(m->fd, times)
                            : utimensat(m->item->directory, m->name, times, AT_SYMLINK_NOFOLLOW);
    if (failed != 0)
        return repl_tree_fail(err, errno, "cannot set the time");
    REPL_TRY(look(m, err));
    if (time_differs(m))
        lacks(m, REPL_TREE_LACK_TIME, "the filesystem keeps times less exactly", 0);
    return REPL_SUCCESS;
}

/* --- attributes ------------------------------------------------------------------------------ */

static ssize_t attribute_get(const struct meta *m, const char *name, void *value, size_t size)
{
    return m->fd >= 0 ? fgetxattr(m->fd, name, value, size) : lgetxattr(m->path, name, value, size);
}

/* The kernel says so of what cannot be, whether the filesystem is too small for it or one may not.
 */
static bool cannot_hold(int os_errno)
{
    static const int reasons[] = {ENOTSUP, EPERM,  EACCES, ENOSPC, E2BIG,
                                  ERANGE,  EINVAL, ENOTTY, ENODATA};
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        if (os_errno == reasons[i])
            return true;
    }
    return false;
}

static repl_result attribute_failed(const struct meta *m, const char *name, struct repl_error *err)
{
    char what[4 * REPL_NAME_MAX + 64] = "attribute ";
    int os_errno = errno;
    repl_tree_name_text(name, strlen(name), what + strlen(what));
    if (!cannot_hold(os_errno))
        return repl_tree_fail(err, os_errno, "cannot set an attribute");
    lacks(m, REPL_TREE_LACK_ATTRIBUTE, what, os_errno);
    return REPL_SUCCESS;
}

/* Sets the attribute where it is missing or another one. */
static repl_result attribute_apply(struct meta *m, const struct repl_record *attribute,
                                   struct repl_error *err)
{
    char name[REPL_NAME_MAX + 1];
    const uint8_t *value = attribute->value;
    memcpy(name, attribute->name, attribute->name_size);
    name[attribute->name_size] = '\0';
    if (value == NULL) {
        REPL_TRY(m->by->read(m->by->context, attribute->place, m->by->wanted, attribute->value_size,
                             err));
        value = m->by->wanted;
    }
    ssize_t has = attribute_get(m, name, m->by->present, REPL_TREE_BUFFER_SIZE);
    bool same = has >= 0 && (size_t)has == attribute->value_size &&
                memcmp(m->by->present, value, attribute->value_size) == 0;
    if (!set(m, !same))
        return REPL_SUCCESS;
    int failed = m->fd >= 0 ? fsetxattr(m->fd, name, value, attribute->value_size, 0)
                            : lsetxattr(m->path, name, value, attribute->value_size, 0);
    if (failed != 0 && errno == ENOSPC && !m->packed) {
        m->no_room = true;
        return REPL_SUCCESS;
    }
    return failed == 0 ? REPL_SUCCESS : attribute_failed(m, name, err);
}

/* Not those by which a host's own policy or filesystem marks its files. */
static bool is_managed(const char *name)
{
    if (strncmp(name, REPL_XATTR_XFS_ACL, strlen(REPL_XATTR_XFS_ACL)) == 0)
        return false;
    return strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0 ||
           strncmp(name, "system.posix_acl_", 17) == 0 || strcmp(name, "security.capability") == 0;
}

static repl_result is_wanted(const struct meta *m, const char *name, bool *wanted,
                             struct repl_error *err)
{
    struct repl_tree_key key = {.object = m->item->object, .type = REPL_RECORD_XATTR};
    *wanted = false;
    for (bool found = true; !*wanted;) {
        struct repl_record record;
        REPL_TRY(m->by->attribute(m->by->context, &key, &record, &found, err));
        if (!found)
            return REPL_SUCCESS;
        *wanted =
            record.name_size == strlen(name) && memcmp(record.name, name, record.name_size) == 0;
    }
    return REPL_SUCCESS;
}

/* The attribute of the next lower size than *below, which becomes that size. */
static repl_result size_below(struct meta *m, uint32_t *below, bool *found, struct repl_error *err)
{
    struct repl_tree_key key = {.object = m->item->object, .type = REPL_RECORD_XATTR};
    uint32_t size = 0;
    *found = false;
    for (bool more = true;;) {
        struct repl_record record;
        REPL_TRY(m->by->attribute(m->by->context, &key, &record, &more, err));
        if (!more)
            break;
        if (record.value_size < *below && (!*found || record.value_size > size)) {
            size = record.value_size;
            *found = true;
        }
    }
    *below = size;
    return REPL_SUCCESS;
}

/* Sets those of that size, or all. */
static repl_result attributes_set(struct meta *m, const uint32_t *size, struct repl_error *err)
{
    struct repl_tree_key key = {.object = m->item->object, .type = REPL_RECORD_XATTR};
    for (bool found = true;;) {
        struct repl_record record;
        REPL_TRY(m->by->attribute(m->by->context, &key, &record, &found, err));
        if (!found)
            return REPL_SUCCESS;
        if (size == NULL || record.value_size == *size)
            REPL_TRY(attribute_apply(m, &record, err));
    }
}

/* Removes what is not wanted, or all. */
static repl_result attributes_remove(struct meta *m, bool all, struct repl_error *err)
{
    char *list = m->by->list;
    ssize_t size = m->fd >= 0 ? flistxattr(m->fd, list, XATTR_LIST_MAX)
                              : llistxattr(m->path, list, XATTR_LIST_MAX);
    for (const char *name = list; size > 0 && name < list + size; name += strlen(name) + 1) {
        bool wanted = true;
        if (all)
            wanted = !is_managed(name);
        else if (is_managed(name))
            REPL_TRY(is_wanted(m, name, &wanted, err));
        if (!set(m, !wanted))
            continue;
        int failed = m->fd >= 0 ? fremovexattr(m->fd, name) : lremovexattr(m->path, name);
        if (failed != 0)
            REPL_TRY(attribute_failed(m, name, err));
    }
    return REPL_SUCCESS;
}

/* Without its ACL a file would be open to whom that names a mask for. */
static repl_result close_to_others(struct meta *m, struct repl_error *err)
{
    mode_t mode = m->now.st_mode & 07777 & ~(mode_t)(S_IRWXG | S_IRWXO);
    if (S_ISLNK(m->now.st_mode))
        return REPL_SUCCESS;
    int failed = m->fd >= 0 ? fchmod(m->fd, mode)
                            : fchmodat(m->item->directory, m->name, mode, AT_SYMLINK_NOFOLLOW);
    return failed == 0 ? REPL_SUCCESS : repl_tree_fail(err, errno, "cannot set the mode");
}

/* ext4 has one block for the attributes of a file, and some room beside its inode. There may be no
 * room for one while another is still as long as it was, or lies where a longer one would fit: then
 * all are set anew, the longest first. */
static repl_result attributes_pack(struct meta *m, struct repl_error *err)
{
    uint32_t size = UINT32_MAX;
    bool found = true;
    m->packed = true;
    REPL_TRY(close_to_others(m, err));
    REPL_TRY(attributes_remove(m, true, err));
    while (found) {
        REPL_TRY(size_below(m, &size, &found, err));
        if (found)
            REPL_TRY(attributes_set(m, &size, err));
    }
    REPL_TRY(look(m, err));
    bool by_acl = (m->now.st_mode & (S_IRWXG | S_IRWXO)) != 0; /* which has set it */
    return by_acl ? REPL_SUCCESS : mode_apply(m, err);
}

static repl_result attributes_apply(struct meta *m, struct repl_error *err)
{
    REPL_TRY(attributes_remove(m, false, err));
    REPL_TRY(attributes_set(m, NULL, err));
    return m->no_room ? attributes_pack(m, err) : REPL_SUCCESS;
}

/* --- project and flags: of what can be opened ------------------------------------------------ */

static void project_apply(struct meta *m)
{
    struct fsxattr has = {0};
    uint32_t project = m->item->node.project;
    bool known = ioctl(m->fd, FS_IOC_FSGETXATTR, &has) == 0;
    if (!set(m, has.fsx_projid != project))
        return;
    has.fsx_projid = project;
    if (!known || ioctl(m->fd, FS_IOC_FSSETXATTR, &has) != 0)
        lacks(m, REPL_TREE_LACK_PROJECT, "project", errno);
}

/* Those of mask, as many as the filesystem knows. */
static void flags_apply(struct meta *m, unsigned mask)
{
    unsigned has = 0, wants = m->item->node.flags & mask;
    bool known = ioctl(m->fd, FS_IOC_GETFLAGS, &has) == 0;
    if (!set(m, (has & mask) != wants))
        return;
    wants |= has & ~mask;
    if (known && ioctl(m->fd, FS_IOC_SETFLAGS, &wants) == 0)
        return;
    int os_errno = errno;
    for (unsigned bit = 1; known && bit != 0; bit <<= 1) {
        unsigned one = has ^ bit;
        if (((has ^ wants) & bit) != 0 && ioctl(m->fd, FS_IOC_SETFLAGS, &one) == 0)
            has = one;
    }
    if (has != wants)
        lacks(m, REPL_TREE_LACK_FLAGS, "flags (see chattr)", os_errno);
}

void repl_tree_meta_early(const struct repl_tree_item *item, int fd)
{
    unsigned has = 0;
    if ((item->node.flags & EARLY) == 0 || ioctl(fd, FS_IOC_GETFLAGS, &has) != 0)
        return;
    has |= item->node.flags & EARLY;
    ioctl(fd, FS_IOC_SETFLAGS, &has); /* what does not work here is told when all are set */
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result pass(struct meta *m, bool lock, struct repl_error *err)
{
    REPL_TRY(owner_apply(m, err));
    REPL_TRY(mode_apply(m, err));
    REPL_TRY(attributes_apply(m, err));
    if (m->fd >= 0) {
        project_apply(m);
        flags_apply(m, SETTABLE & ~LOCKS);
    }
    REPL_TRY(time_apply(m, err));
    if (m->fd >= 0 && lock)
        flags_apply(m, LOCKS);
    return REPL_SUCCESS;
}

repl_result repl_tree_meta_apply(const struct repl_tree_meta_by *by,
                                 const struct repl_tree_item *item, const char *name, int fd,
                                 bool lock, bool *changed, struct repl_error *err)
{
    struct meta m = {.by = by, .item = item, .name = name, .fd = fd, .compare = true};
    unsigned flags = 0;
    snprintf(m.path, sizeof m.path, "/proc/self/fd/%d/%s", item->directory, name);
    REPL_TRY(look(&m, err));
    if (changed != NULL) {
        REPL_TRY(pass(&m, lock, err));
        *changed = m.differs;
        if (!m.differs || by->dry_run)
            return REPL_SUCCESS;
    }
    if (changed != NULL && fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 &&
        (flags & LOCKS) != 0) {
        flags &= ~LOCKS;
        if (ioctl(fd, FS_IOC_SETFLAGS, &flags) != 0)
            return repl_tree_fail(err, errno, "cannot change it: it may not be (see chattr)");
    }
    m.compare = false;
    return pass(&m, lock, err);
}
