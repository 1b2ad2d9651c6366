/*
 * Segments of directory trees, right and wrong; parts of the lists in segment_cases.h and
 * golden/segment_golden.h.
 */
#ifndef TESTS_UNIT_SEGMENT_TREE_CASES_H
#define TESTS_UNIT_SEGMENT_TREE_CASES_H

#include "unit/segment/segment_craft.h"

#define TREE_SPACE_SIZE UINT64_C(262144)

static inline struct repl_segment_header tree_header(uint64_t from_seq, uint64_t to_seq)
{
    struct repl_segment_header header = craft_header(from_seq, to_seq);
    header.volume_kind = REPL_VOLUME_TREE;
    header.features = REPL_FEATURE_TREE;
    return header;
}

static inline void tree_node(struct craft *craft, uint32_t block, uint64_t object,
                             struct repl_node node)
{
    craft_record(craft, block,
                 (struct repl_record){.type = REPL_RECORD_NODE, .object = object, .node = node});
}

static inline void tree_xattr(struct craft *craft, uint64_t object, const char *name,
                              const void *value, uint32_t value_size, uint64_t place)
{
    craft_record(craft, 0,
                 (struct repl_record){.type = REPL_RECORD_XATTR,
                                      .object = object,
                                      .name = name,
                                      .name_size = (uint32_t)strlen(name),
                                      .value = value,
                                      .value_size = value_size,
                                      .place = place});
}

struct tree_name {
    const char *name;
    uint64_t child;
};

static inline int tree_name_order(const void *a, const void *b)
{
    const struct tree_name *x = a, *y = b;
    uint64_t hash[2] = {repl_xxh3(x->name, strlen(x->name)), repl_xxh3(y->name, strlen(y->name))};
    return hash[0] < hash[1] ? -1 : hash[0] > hash[1];
}

static inline void tree_name(struct craft *craft, uint64_t directory, const char *name,
                             uint64_t child)
{
    craft_record(craft, 0,
                 (struct repl_record){.type = REPL_RECORD_NAME,
                                      .object = directory,
                                      .offset = repl_xxh3(name, strlen(name)),
                                      .name = name,
                                      .name_size = (uint32_t)strlen(name),
                                      .child = child});
}

/* In the order that the format wants. */
static inline void tree_names(struct craft *craft, uint64_t directory, struct tree_name *names,
                              size_t count)
{
    qsort(names, count, sizeof *names, tree_name_order);
    for (size_t i = 0; i < count; i++)
        tree_name(craft, directory, names[i].name, names[i].child);
}

static inline void tree_run(struct craft *craft, uint32_t block, uint64_t object, uint64_t offset,
                            uint64_t length, uint64_t place)
{
    craft_record(craft, block,
                 (struct repl_record){.type = REPL_RECORD_RUN,
                                      .object = object,
                                      .offset = offset,
                                      .length = length,
                                      .place = place});
}

static inline void tree_hole(struct craft *craft, uint32_t block, uint64_t object, uint64_t offset,
                             uint64_t length)
{
    craft_record(
        craft, block,
        (struct repl_record){
            .type = REPL_RECORD_HOLE, .object = object, .offset = offset, .length = length});
}

static const struct repl_node tree_directory = {
    .kind = REPL_NODE_DIRECTORY, .mode = 0755, .mtime_ns = INT64_C(1700000001000000001)};

static inline struct repl_node tree_file(uint64_t size)
{
    return (struct repl_node){.kind = REPL_NODE_FILE,
                              .mode = 04644,
                              .uid = 1000,
                              .gid = 100,
                              .flags = 0x10,
                              .project = 7,
                              .size = size,
                              .mtime_ns = -5};
}

/* The space, with one page in it and zeros behind. */
static inline void tree_begin(struct craft *craft)
{
    *craft = (struct craft){.header = tree_header(7, 10)};
    craft_run_frame(craft, 'T', 4096);
    craft_object(craft, TREE_SPACE_SIZE);
    craft_data(craft, 0, 0, 4096, 0, 0);
    craft_zero(craft, 0, 4096, TREE_SPACE_SIZE - 4096);
}

/* Every kind of record. Where they begin in their block is what the bad cases go by. */
static inline void tree_sample(struct craft *craft)
{
    struct tree_name names[] = {{"a", 3}, {"b", 3}, {"dir", 5}};
    tree_begin(craft);                                           /*     0 of block 0 */
    tree_node(craft, 0, 2, tree_directory);                      /*   104 */
    tree_names(craft, 2, names, sizeof names / sizeof names[0]); /*   176, 224, 272 */
    tree_node(craft, 0, 3, tree_file(8192 + 100));               /*   320 */
    tree_xattr(craft, 3, "user.a", "\0\xff\n", 3, 0);            /*   392 */
    tree_xattr(craft, 3, "user.b", NULL, 5000, 8192);            /*   440 */
    tree_run(craft, 0, 3, 0, 4096, 0);                           /*   480 */
    tree_hole(craft, 0, 3, 4096, 4096);                          /*   520 */
    tree_run(craft, 0, 3, 8192, 4096, 4096);                     /*   552 */
    tree_node(craft, 0, 4,
              (struct repl_node){.kind = REPL_NODE_SYMLINK, /* 592 */
                                 .mode = 0777,
                                 .target = "/tmp",
                                 .target_size = 4});
    tree_node(craft, 0, 5, tree_directory); /*   672 */
    tree_name(craft, 5, "gone", 0);         /*   744 */
    tree_node(craft, 1, 6,
              (struct repl_node){.kind = REPL_NODE_CHARACTER, /* 0 of block 1 */
                                 .mode = 0666,
                                 .major = 1,
                                 .minor = 3});
    tree_node(craft, 1, 7, (struct repl_node){.kind = REPL_NODE_GONE}); /*    72 */
    tree_run(craft, 1, 8, 0, 4096, 12288);                              /*   144 */
    tree_hole(craft, 1, 8, 4096, UINT64_C(1) << 40);                    /*   184 */
    craft_point(craft, 10, 0);
}

/* --- good ones ------------------------------------------------------------------------------- */

/* All that is as long or as large as it may be. */
static inline void tree_largest(struct craft *craft)
{
    static char name[REPL_NAME_MAX + 1], target[REPL_TARGET_MAX];
    static uint8_t value[REPL_XATTR_INLINE_MAX];
    memset(name, 0xff, REPL_NAME_MAX);
    memset(target, '/', sizeof target);
    memset(value, 'v', sizeof value);
    *craft = (struct craft){.header = tree_header(0, 1)};
    craft_object(craft, UINT64_C(1) << 50);
    craft_zero(craft, 0, 0, UINT64_C(1) << 50);
    tree_node(craft, 0, 2, tree_directory);
    tree_xattr(craft, 2, name, value, sizeof value, 0);
    tree_name(craft, 2, name, UINT64_MAX);
    tree_node(craft, 0, 3,
              (struct repl_node){.kind = REPL_NODE_FILE,
                                 .mode = 07777,
                                 .uid = UINT32_MAX,
                                 .gid = UINT32_MAX,
                                 .flags = UINT32_MAX,
                                 .project = UINT32_MAX,
                                 .size = UINT64_C(1) << 50,
                                 .mtime_ns = INT64_MIN});
    tree_xattr(craft, 3, "user.long", NULL, REPL_XATTR_MAX, (UINT64_C(1) << 50) - 65536);
    tree_run(craft, 0, 3, 0, UINT64_C(1) << 50, 0);
    tree_node(craft, 0, UINT64_MAX,
              (struct repl_node){.kind = REPL_NODE_SYMLINK,
                                 .mtime_ns = INT64_MAX,
                                 .target = target,
                                 .target_size = sizeof target});
    craft_point(craft, 1, 0);
}

/* Nothing but what kinds of objects there are; a file that is empty, an attribute that is. */
static inline void tree_kinds(struct craft *craft)
{
    *craft = (struct craft){.header = tree_header(1, 2)};
    craft_object(craft, 4096);
    tree_node(craft, 0, 3, (struct repl_node){.kind = REPL_NODE_FILE});
    tree_xattr(craft, 3, "user.empty", "", 0, 0);
    tree_node(craft, 0, 4, (struct repl_node){.kind = REPL_NODE_FIFO});
    tree_node(craft, 0, 5, (struct repl_node){.kind = REPL_NODE_SOCKET});
    tree_node(craft, 0, 6, (struct repl_node){.kind = REPL_NODE_BLOCK, .major = 8, .minor = 17});
    craft_point(craft, 2, 0);
}

/* Each file was read by itself; the point before, which was merged, was cut in a window. */
static inline void tree_per_file(struct craft *craft)
{
    *craft = (struct craft){.header = tree_header(1, 3)};
    craft_object(craft, 4096);
    tree_node(craft, 0, 3, tree_file(0));
    craft_point(craft, 2, REPL_POINT_MERGED);
    craft_point(craft, 3, 0);
    craft->points[1].consistency = REPL_CONSISTENCY_PER_FILE;
    craft->points[1].cut = REPL_CUT_FILES;
}

/* Two snapshots, the first of which was merged. */
static inline void tree_snapshot(struct craft *craft)
{
    *craft = (struct craft){.header = tree_header(1, 3)};
    craft_object(craft, 4096);
    tree_node(craft, 0, 3, tree_file(0));
    craft_point(craft, 2, REPL_POINT_MERGED);
    craft_point(craft, 3, 0);
    craft->points[0].cut = craft->points[1].cut = REPL_CUT_SNAPSHOT;
}

static inline void tree_supply(struct craft *craft)
{
    *craft = (struct craft){.header = tree_header(5, 6)};
    craft->header.kind = REPL_SEGMENT_SUPPLY;
    craft_run_frame(craft, 's', REPL_CHUNK_SIZE);
    craft_run_chunk(craft, 's', 0, 0);
}

/* --- bad ones that take more than one wrong number ------------------------------------------- */

static inline void bad_tree_in_block_volume(struct craft *craft)
{
    tree_begin(craft);
    craft->header.volume_kind = REPL_VOLUME_BLOCK;
    craft->header.features = 0;
    tree_node(craft, 0, 3, tree_file(0));
    craft_point(craft, 10, 0);
}

/* Bytes 24 and 25 of the point are right; the volume is not. */
static inline void bad_tree_per_file_of_block_volume(struct craft *craft)
{
    tree_begin(craft);
    craft->header.volume_kind = REPL_VOLUME_BLOCK;
    craft->header.features = 0;
    craft_point(craft, 10, 0);
    craft->points[0].consistency = REPL_CONSISTENCY_PER_FILE;
    craft->points[0].cut = REPL_CUT_FILES;
}

static inline void bad_tree_snapshot_of_block_volume(struct craft *craft)
{
    bad_tree_per_file_of_block_volume(craft);
    craft->points[0].consistency = REPL_CONSISTENCY_CRASH;
    craft->points[0].cut = REPL_CUT_SNAPSHOT;
}

static inline void bad_tree_name(struct craft *craft, const char *name)
{
    tree_begin(craft);
    tree_name(craft, 2, name, 3);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_name_dot(struct craft *craft)
{
    bad_tree_name(craft, ".");
}

static inline void bad_tree_name_dots(struct craft *craft)
{
    bad_tree_name(craft, "..");
}

static inline void bad_tree_name_slash(struct craft *craft)
{
    bad_tree_name(craft, "a/b");
}

static inline void bad_tree_name_twice(struct craft *craft)
{
    bad_tree_name(craft, "a");
    tree_name(craft, 2, "a", 4);
}

static inline void bad_tree_name_order(struct craft *craft)
{
    struct tree_name names[] = {{"a", 3}, {"b", 3}};
    tree_begin(craft);
    qsort(names, 2, sizeof *names, tree_name_order);
    tree_name(craft, 2, names[1].name, 3);
    tree_name(craft, 2, names[0].name, 3);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_name_in_file(struct craft *craft)
{
    tree_begin(craft);
    tree_node(craft, 0, 3, tree_file(0));
    tree_name(craft, 3, "a", 4);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_name_behind_run(struct craft *craft)
{
    tree_begin(craft);
    tree_run(craft, 0, 3, 0, 4096, 0);
    tree_name(craft, 3, "a", 4);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_run_behind_name(struct craft *craft)
{
    tree_begin(craft);
    tree_name(craft, 3, "a", 4);
    tree_hole(craft, 0, 3, 0, 4096);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_run_of_root(struct craft *craft)
{
    tree_begin(craft);
    tree_run(craft, 0, 2, 0, 4096, 0);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_run_of_directory(struct craft *craft)
{
    tree_begin(craft);
    tree_node(craft, 0, 3, tree_directory);
    tree_run(craft, 0, 3, 0, 4096, 0);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_xattr_without_node(struct craft *craft)
{
    tree_begin(craft);
    tree_xattr(craft, 3, "user.a", "", 0, 0);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_xattr_behind_run(struct craft *craft)
{
    tree_begin(craft);
    tree_node(craft, 0, 3, tree_file(4096));
    tree_run(craft, 0, 3, 0, 4096, 0);
    tree_xattr(craft, 3, "user.a", "", 0, 0);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_extent_behind(struct craft *craft)
{
    tree_begin(craft);
    tree_node(craft, 0, 3, tree_file(0));
    craft_zero(craft, 0, TREE_SPACE_SIZE - 4096, 4096);
    craft_point(craft, 10, 0);
}

static inline void bad_tree_node_behind_run(struct craft *craft)
{
    tree_begin(craft);
    tree_run(craft, 0, 3, 0, 4096, 0);
    tree_node(craft, 0, 3, tree_file(4096));
    craft_point(craft, 10, 0);
}

#endif
