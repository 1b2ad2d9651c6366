/*
 * Volumes that are trees, in a store directory made by hand, and what has been restored of them:
 * for the tests of a tree's restore.
 */
#ifndef TESTS_UNIT_TREE_MODEL_H
#define TESTS_UNIT_TREE_MODEL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cmocka.h>

#define MODEL_SIZE (UINT64_C(4) << 20)

#include "recover/tree_restore.h"
#include "unit/agent/recover/store_model.h"
#include "unit/segment/tree_list.h"

#define TIME   INT64_C(1700000000123456789)
#define LONG   3000u /* bytes of a value that lies in the space */
#define FAULTS 16u

struct fixture {
    struct store_model model;
    struct list list; /* of the segment that is being built */
    struct repl_history *history;
    char to[300], state[300];
    struct repl_tree_options options;
    struct repl_tree_result result;
    struct repl_error err;
    char faults[FAULTS][200], changes[4096];
    unsigned fault_count;
    const char *spoiled; /* changed before it is read back */
    atomic_bool interrupted;
};

/* --- making histories ------------------------------------------------------------------------ */

static inline void node(struct fixture *f, uint64_t object, struct repl_node made)
{
    if (made.mtime_ns == 0 && made.kind != REPL_NODE_GONE)
        made.mtime_ns = TIME + (int64_t)object;
    list_add(&f->list,
             (struct repl_record){.type = REPL_RECORD_NODE, .object = object, .node = made});
}

static inline void xattr(struct fixture *f, uint64_t object, const char *name, const void *value,
                         uint32_t size, uint64_t place)
{
    list_add(&f->list, (struct repl_record){.type = REPL_RECORD_XATTR,
                                            .object = object,
                                            .name = name,
                                            .name_size = (uint32_t)strlen(name),
                                            .value = value,
                                            .value_size = size,
                                            .place = place});
}

static inline void run(struct fixture *f, uint64_t object, uint64_t offset, uint64_t length,
                       uint64_t place)
{
    list_add(&f->list, (struct repl_record){.type = REPL_RECORD_RUN,
                                            .object = object,
                                            .offset = offset,
                                            .length = length,
                                            .place = place});
}

static inline void names(struct fixture *f, uint64_t directory, struct tree_name *of, size_t count)
{
    qsort(of, count, sizeof *of, tree_name_order);
    for (size_t i = 0; i < count; i++)
        list_add(&f->list, (struct repl_record){.type = REPL_RECORD_NAME,
                                                .object = directory,
                                                .offset = repl_xxh3(of[i].name, strlen(of[i].name)),
                                                .name = of[i].name,
                                                .name_size = (uint32_t)strlen(of[i].name),
                                                .child = of[i].child});
}

#define NAMES(f, directory, ...)                                                                   \
    names(f, directory, (struct tree_name[]){__VA_ARGS__},                                         \
          sizeof((struct tree_name[]){__VA_ARGS__}) / sizeof(struct tree_name))

static const struct repl_node directory_node = {.kind = REPL_NODE_DIRECTORY, .mode = 0755};

static inline struct repl_node file_node(uint64_t size)
{
    return (struct repl_node){.kind = REPL_NODE_FILE, .mode = 0644, .size = size};
}

/* A point begins with its space: a full has half a MiB of random bytes in it, zeros behind. */
static inline void point_begin(struct fixture *f, uint64_t from, uint64_t to)
{
    f->list.bytes.size = f->list.at = 0;
    model_begin(&f->model, from, to, 0);
    repl_segment_builder_records(f->model.builder, list_next, &f->list);
    if (from != 0)
        return;
    model_data(&f->model, 0, 512u << 10);
    model_zero(&f->model, 512u << 10, MODEL_SIZE - (512u << 10));
}

static inline void point_end(struct fixture *f)
{
    model_end(&f->model, true);
    repl_history_close(f->history);
    f->history = NULL;
}

static char name_255[REPL_NAME_MAX + 1];
/* CAP_NET_RAW, and a list of who may what: as the kernel gives them out */
static const uint8_t capability[20] = {1, 0, 0, 2, 0, 0x20};
static const uint8_t acl[44] = {2,   0,   0,   0,    1,   0,   6,    0,   255, 255, 255,
                                255, 2,   0,   4,    0,   232, 3,    0,   0,   4,   0,
                                4,   0,   255, 255,  255, 255, 0x10, 0,   6,   0,   255,
                                255, 255, 255, 0x20, 0,   4,   0,    255, 255, 255, 255};

/* Everything there is. Files lie in the space from 0 on, the long attribute at 256 KiB. */
static inline void full_make(struct fixture *f, uint64_t to)
{
    point_begin(f, 0, to);
    node(f, 2, directory_node);
    NAMES(f, 2, {"file", 3}, {"hard", 3}, {"empty", 4}, {"dir", 5}, {"link", 6}, {"fifo", 7},
          {"char", 8}, {"block", 9}, {"sock", 10}, {"sparse", 11}, {"\xff\xfe\x1b[2J", 12},
          {name_255, 13}, {"private", 15});
    node(f, 3,
         (struct repl_node){.kind = REPL_NODE_FILE,
                            .mode = 04755,
                            .uid = 1000,
                            .gid = 100,
                            .flags = FS_NODUMP_FL,
                            .size = 10000});
    xattr(f, 3, "security.capability", capability, sizeof capability, 0);
    xattr(f, 3, "user.inline", "\0\xff", 2, 0);
    xattr(f, 3, "user.long", NULL, LONG, 256u << 10);
    run(f, 3, 0, 12288, 0);
    node(f, 4, (struct repl_node){.kind = REPL_NODE_FILE, .mode = 0664});
    xattr(f, 4, "system.posix_acl_access", acl, sizeof acl, 0);
    node(f, 5, (struct repl_node){.kind = REPL_NODE_DIRECTORY, .mode = 03777, .gid = 7});
    xattr(f, 5, "user.of-a-directory", "x", 1, 0);
    NAMES(f, 5, {"hard", 3}, {"below", 14});
    node(f, 6,
         (struct repl_node){.kind = REPL_NODE_SYMLINK,
                            .mode = 0777,
                            .uid = 5,
                            .target = "../nowhere",
                            .target_size = 10});
    node(f, 7, (struct repl_node){.kind = REPL_NODE_FIFO, .mode = 0640});
    node(f, 8,
         (struct repl_node){.kind = REPL_NODE_CHARACTER, .mode = 0666, .major = 1, .minor = 3});
    node(f, 9, (struct repl_node){.kind = REPL_NODE_BLOCK, .mode = 0600, .major = 7, .minor = 99});
    node(f, 10, (struct repl_node){.kind = REPL_NODE_SOCKET, .mode = 0777});
    node(f, 11, file_node((1u << 20) + 100));
    run(f, 11, 0, 4096, 16384);
    run(f, 11, 1u << 20, 4096, 20480);
    node(f, 12, file_node(4096));
    run(f, 12, 0, 4096, 24576);
    node(f, 13, file_node(1));
    run(f, 13, 0, 4096, 28672);
    node(f, 14, file_node(300000));
    run(f, 14, 0, 200704, 32768);
    run(f, 14, 200704, 102400, 32768 + 8192 + 200704); /* what lies there serves two files */
    node(f, 15, (struct repl_node){.kind = REPL_NODE_DIRECTORY, .mode = 0700, .mtime_ns = -1});
    point_end(f);
}

/* --- restoring ------------------------------------------------------------------------------- */

static inline void note_fault(void *context, const char *path, const struct repl_error *err)
{
    struct fixture *f = context;
    if (f->fault_count < FAULTS)
        snprintf(f->faults[f->fault_count], sizeof f->faults[0], "%.60s: %.120s", path, err->text);
    f->fault_count++;
}

static inline void note_change(void *context, enum repl_tree_change change, const char *path)
{
    struct fixture *f = context;
    size_t size = strlen(f->changes);
    snprintf(f->changes + size, sizeof f->changes - size, "%c %.300s\n", "MCmR"[change], path);
}

static inline void spoil(void *context, const struct repl_tree_status *status)
{
    struct fixture *f = context;
    char path[600];
    if (status->phase != REPL_TREE_VERIFYING || f->spoiled == NULL)
        return;
    snprintf(path, sizeof path, "%s/%s", f->to, f->spoiled);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "!", 1, 77), 1);
    close(fd);
    f->spoiled = NULL;
}

static inline repl_result restore(struct fixture *f, uint64_t seq)
{
    if (f->history == NULL) {
        struct repl_origin *origin;
        REPL_TRY(model_origin_open(f->model.path, MODEL_VOLUME, &origin, &f->err));
        REPL_TRY(repl_history_open(origin, &f->history, &f->err));
    }
    f->options.history = f->history;
    f->options.point = (size_t)seq - 1;
    f->fault_count = 0;
    f->changes[0] = '\0';
    return repl_tree_restore(&f->options, &f->result, &f->err);
}

static inline void restore_well(struct fixture *f, uint64_t seq)
{
    if (!repl_ok(restore(f, seq)))
        fail_msg("%s (first of %u: %s)", f->err.text, f->fault_count, f->faults[0]);
    assert_int_equal(f->result.faults, 0);
}

static inline uint64_t change_count(const struct fixture *f)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < REPL_TREE_CHANGE_COUNT; i++)
        count += f->result.changes[i];
    return count;
}

static inline int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    umask(022);
    memset(name_255, 'n', REPL_NAME_MAX);
    model_init(&f->model);
    f->model.kind = REPL_VOLUME_TREE;
    snprintf(f->to, sizeof f->to, "%s/to", f->model.temporary.path);
    snprintf(f->state, sizeof f->state, "%s/state", f->model.temporary.path);
    f->options = (struct repl_tree_options){.to = f->to,
                                            .path = "",
                                            .state = f->state,
                                            .threads = 3,
                                            .interrupted = &f->interrupted,
                                            .status = spoil,
                                            .change = note_change,
                                            .fault = note_fault,
                                            .context = f};
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_history_close(f->history);
    repl_buffer_fini(&f->list.bytes);
    model_fini(&f->model);
    free(f);
    return 0;
}

/* --- looking at what is there ---------------------------------------------------------------- */

static inline const char *path_of(const struct fixture *f, const char *name)
{
    static char paths[4][800];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", f->to, name);
    return path;
}

static inline struct stat stat_of(const struct fixture *f, const char *name)
{
    struct stat status;
    if (lstat(path_of(f, name), &status) != 0)
        fail_msg("%s: %s", name, strerror(errno));
    return status;
}

static inline bool is_there(const struct fixture *f, const char *name)
{
    struct stat status;
    return lstat(path_of(f, name), &status) == 0;
}

static inline int64_t mtime_of(const struct stat *status)
{
    return (int64_t)status->st_mtim.tv_sec * 1000000000 + status->st_mtim.tv_nsec;
}

static inline void write_file(const struct fixture *f, const char *name, const char *text)
{
    FILE *out = fopen(path_of(f, name), "we");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static inline void assert_content(const struct fixture *f, const char *name, uint64_t offset,
                                  const void *bytes, size_t size)
{
    uint8_t *has = malloc(size);
    int fd = open(path_of(f, name), O_RDONLY | O_CLOEXEC);
    assert_non_null(has);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, has, size, (off_t)offset), (ssize_t)size);
    assert_memory_equal(has, bytes, size);
    close(fd);
    free(has);
}

static inline void assert_node(const struct fixture *f, const char *name, mode_t mode, uid_t uid,
                               gid_t gid, int64_t mtime_ns)
{
    struct stat status = stat_of(f, name);
    if (status.st_mode != mode)
        fail_msg("%s has mode %o, not %o", name, status.st_mode, mode);
    assert_int_equal(status.st_uid, uid);
    assert_int_equal(status.st_gid, gid);
    assert_int_equal(mtime_of(&status), mtime_ns);
}

static inline void assert_xattr(const struct fixture *f, const char *name, const char *attribute,
                                const void *value, size_t size)
{
    uint8_t has[4096];
    ssize_t got = lgetxattr(path_of(f, name), attribute, has, sizeof has);
    if (got != (ssize_t)size || memcmp(has, value, size) != 0)
        fail_msg("%s: %s is another one (%zd bytes)", name, attribute, got);
}

static inline void assert_everything(const struct fixture *f)
{
    const uint8_t *space = f->model.points[1];
    static const uint8_t zeros[65536];
    assert_node(f, ".", S_IFDIR | 0755, 0, 0, TIME + 2);
    assert_node(f, "file", S_IFREG | 04755, 1000, 100, TIME + 3);
    assert_int_equal(stat_of(f, "file").st_size, 10000);
    assert_content(f, "file", 0, space, 10000);
    assert_xattr(f, "file", "security.capability", capability, sizeof capability);
    assert_xattr(f, "file", "user.inline", "\0\xff", 2);
    assert_xattr(f, "file", "user.long", space + (256u << 10), LONG);
    assert_int_equal(stat_of(f, "file").st_nlink, 3);
    assert_int_equal(stat_of(f, "file").st_ino, stat_of(f, "hard").st_ino);
    assert_int_equal(stat_of(f, "file").st_ino, stat_of(f, "dir/hard").st_ino);
    assert_node(f, "empty", S_IFREG | 0664, 0, 0, TIME + 4);
    assert_xattr(f, "empty", "system.posix_acl_access", acl, sizeof acl);
    assert_node(f, "dir", S_IFDIR | 03777, 0, 7, TIME + 5);
    assert_xattr(f, "dir", "user.of-a-directory", "x", 1);
    char target[32] = "";
    assert_int_equal(readlink(path_of(f, "link"), target, sizeof target), 10);
    assert_string_equal(target, "../nowhere");
    assert_node(f, "link", S_IFLNK | 0777, 5, 0, TIME + 6);
    assert_node(f, "fifo", S_IFIFO | 0640, 0, 0, TIME + 7);
    assert_node(f, "char", S_IFCHR | 0666, 0, 0, TIME + 8);
    assert_int_equal(stat_of(f, "char").st_rdev, makedev(1, 3));
    assert_node(f, "block", S_IFBLK | 0600, 0, 0, TIME + 9);
    assert_int_equal(stat_of(f, "block").st_rdev, makedev(7, 99));
    assert_node(f, "sock", S_IFSOCK | 0777, 0, 0, TIME + 10);
    struct stat sparse = stat_of(f, "sparse");
    assert_int_equal(sparse.st_size, (1u << 20) + 100);
    assert_true(sparse.st_blocks * 512 < 65536);
    assert_content(f, "sparse", 0, space + 16384, 4096);
    assert_content(f, "sparse", 4096, zeros, sizeof zeros);
    assert_content(f, "sparse", 1u << 20, space + 20480, 100);
    assert_content(f, "\xff\xfe\x1b[2J", 0, space + 24576, 4096);
    assert_content(f, name_255, 0, space + 28672, 1);
    assert_int_equal(stat_of(f, name_255).st_size, 1);
    assert_content(f, "dir/below", 0, space + 32768, 200704);
    assert_content(f, "dir/below", 200704, space + 32768 + 8192 + 200704, 300000 - 200704);
    assert_node(f, "private", S_IFDIR | 0700, 0, 0, -1);
}

#endif
