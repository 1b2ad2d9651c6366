/*
 * What a rig's segments say together, against the directory as it is: every name, what it leads to,
 * and that nothing else is said.
 */
#ifndef TESTS_UNIT_TREE_COMPARE_H
#define TESTS_UNIT_TREE_COMPARE_H

#include <dirent.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include "segment/tree_merge.h"
#include "unit/agent/source/tree/tree_rig.h"

struct copy_object {
    uint64_t number, inode; /* 0: no name has led to it yet */
    struct repl_node node;
    char target[REPL_TARGET_MAX];
    unsigned attributes, names;
};

struct copy_record { /* XATTR, NAME, RUN, HOLE */
    struct repl_record record;
    char name[REPL_NAME_MAX + 1];
    uint8_t value[REPL_XATTR_INLINE_MAX];
};

struct copy {
    struct rig *rig;
    struct repl_buffer objects, records; /* struct copy_object, struct copy_record each */
    uint8_t *space;
    uint64_t size;
    unsigned seen; /* objects */
};

static inline void copy_add(struct copy *copy, const struct repl_record *r)
{
    struct repl_error *err = &copy->rig->err;
    if (r->type == REPL_RECORD_NODE) {
        static struct copy_object o;
        assert_int_not_equal(r->node.kind, REPL_NODE_GONE);
        o = (struct copy_object){.number = r->object, .node = r->node};
        memcpy(o.target, r->node.target != NULL ? r->node.target : "", r->node.target_size);
        OK(copy->rig, repl_buffer_append(&copy->objects, &o, sizeof o, err));
        return;
    }
    static struct copy_record c;
    c = (struct copy_record){.record = *r};
    memcpy(c.name, r->name != NULL ? r->name : "", r->name_size);
    if (r->value != NULL)
        memcpy(c.value, r->value, r->value_size);
    OK(copy->rig, repl_buffer_append(&copy->records, &c, sizeof c, err));
}

/* The segments from the last full on. */
static inline void copy_make(struct rig *rig, struct copy *copy)
{
    const struct repl_segment *segments[SEGMENTS_MAX];
    struct repl_tree_merge *merge;
    size_t first = rig->count, count = 0;
    *copy = (struct copy){.rig = rig, .size = repl_tree_space_size(rig->tree)};
    copy->space = calloc(1, copy->size);
    assert_non_null(copy->space);
    while (first > 0 && !rig->pieces[--first].full) {
    }
    for (size_t i = first; i < rig->count; i++) {
        const struct page_image *images = (const void *)rig->pieces[i].pages.data;
        segments[count++] = rig->pieces[i].segment;
        for (size_t p = 0; p < rig->pieces[i].pages.size / sizeof *images; p++)
            memcpy(copy->space + images[p].page * REPL_PAGE_SIZE, images[p].bytes, REPL_PAGE_SIZE);
    }
    OK(rig, repl_tree_merge_new(&(struct repl_tree_merge_options){.segments = segments,
                                                                  .segment_count = count,
                                                                  .full = true},
                                rig->coder, &merge, &rig->err));
    for (bool done = false; !done;) {
        struct repl_record record;
        OK(rig, repl_tree_merge_next(merge, &record, &done, &rig->err));
        if (!done)
            copy_add(copy, &record);
    }
    repl_tree_merge_free(merge);
}

static inline void copy_free(struct copy *copy)
{
    repl_buffer_fini(&copy->objects);
    repl_buffer_fini(&copy->records);
    free(copy->space);
}

static inline struct copy_object *copy_object_of(struct copy *copy, uint64_t number)
{
    struct copy_object *objects = (void *)copy->objects.data;
    for (size_t i = 0; i < copy->objects.size / sizeof *objects; i++) {
        if (objects[i].number == number)
            return &objects[i];
    }
    fail_msg("object %llu has a name and is not there", (unsigned long long)number);
    return NULL;
}

/* The one of this type and, unless it is NULL, name. */
static inline const struct copy_record *copy_find(const struct copy *copy, uint64_t object,
                                                  enum repl_record_type type, const char *name)
{
    const struct copy_record *records = (const void *)copy->records.data;
    for (size_t i = 0; i < copy->records.size / sizeof *records; i++) {
        if (records[i].record.object == object && records[i].record.type == type &&
            strcmp(records[i].name, name) == 0)
            return &records[i];
    }
    return NULL;
}

static inline unsigned copy_count(const struct copy *copy, uint64_t object,
                                  enum repl_record_type type)
{
    const struct copy_record *records = (const void *)copy->records.data;
    unsigned count = 0;
    for (size_t i = 0; i < copy->records.size / sizeof *records; i++)
        count += records[i].record.object == object && records[i].record.type == type;
    return count;
}

/* --- one object ------------------------------------------------------------------------------ */

static inline void node_compare(const struct copy_object *o, int fd, const char *path)
{
    struct stat status;
    assert_int_equal(fstatat(fd, "", &status, AT_EMPTY_PATH), 0);
    const struct repl_node *n = &o->node;
    static const mode_t types[] = {0,       S_IFREG, S_IFDIR, S_IFLNK,
                                   S_IFIFO, S_IFCHR, S_IFBLK, S_IFSOCK};
    int64_t mtime_ns = status.st_mtim.tv_sec * INT64_C(1000000000) + status.st_mtim.tv_nsec;
    bool device = n->kind == REPL_NODE_CHARACTER || n->kind == REPL_NODE_BLOCK;
    if ((status.st_mode & S_IFMT) != types[n->kind] || (status.st_mode & 07777) != n->mode)
        fail_msg("%s: mode %o, copied %d %o", path, status.st_mode, n->kind, n->mode);
    if (status.st_uid != n->uid || status.st_gid != n->gid || mtime_ns != n->mtime_ns)
        fail_msg("%s: owner %u:%u, copied %u:%u; time %lld, copied %lld", path, status.st_uid,
                 status.st_gid, n->uid, n->gid, (long long)mtime_ns, (long long)n->mtime_ns);
    if (n->kind == REPL_NODE_FILE && (uint64_t)status.st_size != n->size)
        fail_msg("%s: size %lld, copied %llu", path, (long long)status.st_size,
                 (unsigned long long)n->size);
    if (device)
        assert_int_equal(status.st_rdev, makedev(n->major, n->minor));
    if (n->kind == REPL_NODE_SYMLINK) {
        char target[REPL_TARGET_MAX];
        ssize_t size = readlinkat(fd, "", target, sizeof target);
        assert_int_equal(size, n->target_size);
        assert_memory_equal(target, o->target, (size_t)size);
    }
}

static inline void attributes_compare(struct copy *copy, uint64_t object, int fd, const char *path)
{
    static char list[REPL_XATTR_MAX];
    static uint8_t value[REPL_XATTR_MAX];
    char link[64];
    unsigned count = 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = listxattr(link, list, sizeof list);
    assert_true(size >= 0);
    for (ssize_t at = 0; at < size; at += (ssize_t)strlen(list + at) + 1, count++) {
        const struct copy_record *c = copy_find(copy, object, REPL_RECORD_XATTR, list + at);
        ssize_t got = getxattr(link, list + at, value, sizeof value);
        if (c == NULL || got != c->record.value_size)
            fail_msg("%s: attribute %s of %zd bytes is not the copy's", path, list + at, got);
        const uint8_t *copied = c->record.value != NULL ? c->value : copy->space + c->record.place;
        if (memcmp(copied, value, (size_t)got) != 0)
            fail_msg("%s: attribute %s is another", path, list + at);
    }
    if (copy_count(copy, object, REPL_RECORD_XATTR) != count)
        fail_msg("%s: %u attributes, copied %u", path, count,
                 copy_count(copy, object, REPL_RECORD_XATTR));
}

/* Whether the filesystem has nothing there, or data; what is preallocated looks like the one, and
 * once it has been read like the other, so either will do. */
static inline bool is_kind(int fd, uint64_t offset, bool hole)
{
    union {
        struct fiemap map;
        uint8_t room[sizeof(struct fiemap) + sizeof(struct fiemap_extent)];
    } ask = {.map = {.fm_start = offset, .fm_length = REPL_PAGE_SIZE, .fm_extent_count = 1}};
    if (ioctl(fd, FS_IOC_FIEMAP, &ask.map) != 0)
        fail_msg("FIEMAP: %s", strerror(errno));
    bool there = ask.map.fm_mapped_extents > 0;
    if (there && (ask.map.fm_extents[0].fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0)
        return true;
    return there != hole;
}

static inline void page_compare(struct copy *copy, const struct copy_object *o, int fd,
                                uint64_t offset, const char *path)
{
    const struct copy_record *records = (const void *)copy->records.data;
    uint8_t bytes[REPL_PAGE_SIZE] = {0}, copied[REPL_PAGE_SIZE] = {0};
    uint64_t left = o->node.size - offset;
    bool hole = true;
    for (size_t i = 0; i < copy->records.size / sizeof *records; i++) {
        const struct repl_record *r = &records[i].record;
        if (r->object != o->number || r->type != REPL_RECORD_RUN || offset < r->offset ||
            offset >= r->offset + r->length)
            continue;
        memcpy(copied, copy->space + r->place + (offset - r->offset), sizeof copied);
        hole = false;
    }
    assert_true(pread(fd, bytes, sizeof bytes, (off_t)offset) > 0);
    if (memcmp(bytes, copied, left < sizeof bytes ? (size_t)left : sizeof bytes) != 0)
        fail_msg("%s: what is at %llu is not the copy's", path, (unsigned long long)offset);
    struct statfs fs; /* others move their holes about: what is preallocated, or compressed */
    if (fstatfs(fd, &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC && !is_kind(fd, offset, hole))
        fail_msg("%s: at %llu is %s hole", path, (unsigned long long)offset, hole ? "no" : "a");
}

static inline void content_compare(struct copy *copy, const struct copy_object *o, int path_fd,
                                   const char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", path_fd);
    int fd = open(link, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (uint64_t at = 0; at < o->node.size; at += REPL_PAGE_SIZE)
        page_compare(copy, o, fd, at, path);
    close(fd);
}

/* --- all of it ------------------------------------------------------------------------------- */

static inline bool is_left_out(const char *path)
{
    size_t size = strlen(path);
    return (size > 4 && strcmp(path + size - 4, ".tmp") == 0) || strcmp(path, "/d0/cache") == 0;
}

static inline void directory_compare(struct copy *copy, uint64_t number, const char *path);

static inline void object_compare(struct copy *copy, uint64_t number, const char *path)
{
    char full[4096];
    struct stat status;
    struct copy_object *o = copy_object_of(copy, number);
    snprintf(full, sizeof full, "%s%s", copy->rig->top, path);
    int fd = open(full, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &status), 0);
    if (o->inode != 0 && o->inode != status.st_ino)
        fail_msg("%s: the copy has it for a link to another file", path);
    bool first = o->inode == 0;
    o->inode = status.st_ino;
    copy->seen += first;
    if (first) {
        node_compare(o, fd, path);
        if (o->node.kind != REPL_NODE_SYMLINK)
            attributes_compare(copy, number, fd, path);
        if (o->node.kind == REPL_NODE_FILE)
            content_compare(copy, o, fd, path);
    }
    close(fd);
    if (o->node.kind == REPL_NODE_DIRECTORY)
        directory_compare(copy, number, path);
}

static inline void directory_compare(struct copy *copy, uint64_t number, const char *path)
{
    char full[4096], below[4096];
    const struct dirent *entry;
    unsigned count = 0;
    snprintf(full, sizeof full, "%s%s", copy->rig->top, path);
    DIR *stream = opendir(full);
    assert_non_null(stream);
    while ((entry = readdir(stream)) != NULL) {
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            is_left_out(below))
            continue;
        const struct copy_record *c = copy_find(copy, number, REPL_RECORD_NAME, entry->d_name);
        if (c == NULL || c->record.child == 0)
            fail_msg("%s is not in the copy", below);
        object_compare(copy, c->record.child, below);
        count++;
    }
    closedir(stream);
    if (count != copy_count(copy, number, REPL_RECORD_NAME))
        fail_msg("%s: %u names, copied %u", path, count,
                 copy_count(copy, number, REPL_RECORD_NAME));
}

/* Hard links: two names of one object are of one inode, above; two objects are of two, here. */
static inline void links_compare(const struct copy *copy)
{
    const struct copy_object *objects = (const void *)copy->objects.data;
    size_t count = copy->objects.size / sizeof *objects;
    for (size_t i = 0; i < count; i++) {
        if (objects[i].inode == 0)
            fail_msg("object %llu has no name", (unsigned long long)objects[i].number);
        for (size_t j = 0; j < i; j++)
            assert_int_not_equal(objects[i].inode, objects[j].inode);
    }
}

static inline void assert_copied(struct rig *rig)
{
    struct copy copy;
    copy_make(rig, &copy);
    object_compare(&copy, REPL_OBJECT_ROOT, "");
    links_compare(&copy);
    copy_free(&copy);
}

#endif
