/*
 * A tree's index: what is put in is there, what is to be said waits until it is settled, and what
 * cannot be gone on with is begun anew.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "source/tree/tree_index.h"
#include "unit/temporary.h"

#define FIRST (UINT64_C(5) << 32)

static struct fixture {
    struct temporary at;
    char path[300];
    struct repl_tree_index *index;
    struct repl_tree_txn txn;
    struct repl_error err;
} fixture;

static void ok(repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", fixture.err.text);
}

static void open_as(uint8_t volume, uint64_t first_object)
{
    const struct repl_tree_index_options options = {.path = fixture.path,
                                                    .volume = {{volume}},
                                                    .first_object = first_object,
                                                    .full_wanted = first_object != FIRST};
    ok(repl_tree_index_open(&options, &fixture.index, &fixture.err));
}

static void close_it(void)
{
    repl_tree_index_close(fixture.index);
    fixture.index = NULL;
}

static int setup(void **state)
{
    (void)state;
    memset(&fixture, 0, sizeof fixture);
    assert_int_equal(temporary_make(&fixture.at), 0);
    snprintf(fixture.path, sizeof fixture.path, "%s/index", fixture.at.path);
    open_as(1, FIRST);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    close_it();
    temporary_remove(&fixture.at);
    return 0;
}

static void begin(void)
{
    ok(repl_tree_begin(fixture.index, true, &fixture.txn, &fixture.err));
}

static void commit(void)
{
    ok(repl_tree_commit(&fixture.txn, &fixture.err));
}

static struct repl_tree_object object_of(uint64_t number)
{
    struct repl_tree_object o = {.object = number,
                                 .node = {.kind = REPL_NODE_SYMLINK,
                                          .mode = 0777,
                                          .uid = 1,
                                          .gid = 2,
                                          .mtime_ns = -3,
                                          .target_size = 6},
                                 .ctime_ns = 4,
                                 .inode = 100 + number,
                                 .parent = 2,
                                 .hash = 7,
                                 .links = 1,
                                 .racy = true,
                                 .handle = {.type = 1, .size = 12}};
    memcpy(o.handle.bytes, &number, sizeof number);
    memcpy(o.target, "target", 6);
    return o;
}

static void objects_put(uint64_t first, uint64_t count)
{
    begin();
    for (uint64_t number = first; number < first + count; number++) {
        const struct repl_tree_object o = object_of(number);
        ok(repl_tree_object_put(&fixture.txn, &o, &fixture.err));
        ok(repl_tree_object_identify(&fixture.txn, &o, &fixture.err));
        repl_tree_meta(fixture.index)->next_object = number + 1;
    }
    commit();
}

static void assert_object(uint64_t number)
{
    struct repl_tree_object expected = object_of(number), o;
    uint64_t by_handle, by_inode;
    bool found;
    ok(repl_tree_object_get(&fixture.txn, number, &o, &found, &fixture.err));
    assert_true(found);
    assert_int_equal(o.node.kind, expected.node.kind);
    assert_int_equal(o.node.mtime_ns, -3);
    assert_int_equal(o.inode, expected.inode);
    assert_true(o.racy && !o.mount && o.links == 1);
    assert_int_equal(o.node.target_size, 6);
    assert_memory_equal(o.node.target, "target", 6);
    ok(repl_tree_object_find(&fixture.txn, &expected.handle, &by_handle, &fixture.err));
    ok(repl_tree_inode_find(&fixture.txn, expected.inode, &by_inode, &fixture.err));
    assert_true(by_handle == number && by_inode == number);
}

static void what_is_put_in_is_there(void **state)
{
    (void)state;
    uint64_t child;
    bool found;
    struct repl_tree_object o = object_of(10);
    objects_put(10, 2);
    begin();
    assert_object(10);
    ok(repl_tree_object_del(&fixture.txn, &o, &fixture.err));
    ok(repl_tree_object_get(&fixture.txn, 10, &o, &found, &fixture.err));
    assert_false(found);
    ok(repl_tree_object_find(&fixture.txn, &o.handle, &child, &fixture.err));
    assert_int_equal(child, 0);
    assert_object(11);
    ok(repl_tree_name_get(&fixture.txn, 2, "a", 1, &child, &fixture.err));
    assert_int_equal(child, 0);
    commit();
    assert_int_equal(repl_tree_count(fixture.index, REPL_TREE_OBJECT), 1);
}

static void another_with_its_inode_keeps_it(void **state)
{
    (void)state;
    uint64_t number;
    struct repl_tree_object old = object_of(10), new = object_of(11);
    new.inode = old.inode;
    begin();
    ok(repl_tree_object_put(&fixture.txn, &old, &fixture.err));
    ok(repl_tree_object_identify(&fixture.txn, &old, &fixture.err));
    ok(repl_tree_object_put(&fixture.txn, &new, &fixture.err));
    ok(repl_tree_object_identify(&fixture.txn, &new, &fixture.err));
    ok(repl_tree_object_del(&fixture.txn, &old, &fixture.err));
    ok(repl_tree_inode_find(&fixture.txn, old.inode, &number, &fixture.err));
    assert_int_equal(number, 11);
    commit();
}

static void with_nothing_changed_nothing_is_written(void **state)
{
    (void)state;
    struct stat before, after;
    objects_put(10, 1);
    assert_int_equal(stat(fixture.path, &before), 0);
    usleep(20000);
    begin();
    assert_object(10);
    commit();
    assert_int_equal(stat(fixture.path, &after), 0);
    assert_int_equal(before.st_mtim.tv_nsec, after.st_mtim.tv_nsec);
    assert_int_equal(before.st_ctim.tv_nsec, after.st_ctim.tv_nsec);
}

/* --- pending --------------------------------------------------------------------------------- */

static void pending_add(uint64_t stamp, uint64_t first, uint64_t count)
{
    repl_tree_meta(fixture.index)->stamp = stamp;
    for (uint64_t number = first; number < first + count; number++) {
        ok(repl_tree_pending_add(&fixture.txn, number, REPL_TREE_PENDING_NODE, NULL, 0,
                                 &fixture.err));
        ok(repl_tree_pending_add(&fixture.txn, number, REPL_TREE_PENDING_NAME, "name", 4,
                                 &fixture.err));
    }
}

/* Rows of this stamp; in order. */
static uint64_t pending_count(uint64_t stamp)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    uint64_t count = 0, before = 0;
    repl_tree_key_u64(&key, stamp);
    ok(repl_tree_walk_begin(&fixture.txn, REPL_TREE_PENDING, &key, &walk, &fixture.err));
    for (; repl_tree_walk_is_at(&walk, stamp); count++) {
        uint64_t object = repl_tree_key_read((const uint8_t *)walk.key.mv_data + 8);
        assert_true(object >= before);
        before = object;
        ok(repl_tree_walk_next(&walk, &fixture.err));
    }
    repl_tree_walk_end(&walk);
    return count;
}

static void what_is_settled_is_not_said_again(void **state)
{
    (void)state;
    begin();
    pending_add(1, 10, 1000);
    pending_add(2, 500, 1000);
    pending_add(3, 10, 3);
    ok(repl_tree_pending_settle(&fixture.txn, 1, &fixture.err));
    assert_int_equal(pending_count(1), 0);
    assert_int_equal(pending_count(2), 2000);
    ok(repl_tree_pending_settle(&fixture.txn, 2, &fixture.err));
    assert_int_equal(pending_count(2), 0);
    assert_int_equal(pending_count(3), 6);
    commit();
}

/* What is noted twice becomes one. */
static void what_is_lost_is_said_again(void **state)
{
    (void)state;
    begin();
    pending_add(4, 10, 3000);
    pending_add(5, 20, 3000);
    pending_add(7, 5, 10);
    repl_tree_meta(fixture.index)->stamp = 9;
    ok(repl_tree_pending_again(&fixture.txn, 5, &fixture.err));
    assert_int_equal(pending_count(4), 6000);
    assert_int_equal(pending_count(5), 0);
    assert_int_equal(pending_count(7), 0);
    assert_int_equal(pending_count(9), 6020);
    ok(repl_tree_pending_again(&fixture.txn, 0, &fixture.err));
    assert_int_equal(pending_count(4), 0);
    assert_int_equal(pending_count(9), 2 * 3015);
    ok(repl_tree_pending_again(&fixture.txn, 9, &fixture.err));
    assert_int_equal(pending_count(9), 2 * 3015);
    commit();
}

/* --- the file -------------------------------------------------------------------------------- */

static void what_was_committed_is_there_again(void **state)
{
    (void)state;
    objects_put(10, 500);
    begin();
    pending_add(1, 10, 3);
    repl_tree_meta(fixture.index)->stamp = 77;
    repl_tree_meta(fixture.index)->space_size = 4096;
    commit();
    begin(); /* and not ended */
    pending_add(77, 1000, 3);
    repl_tree_abort(&fixture.txn);
    close_it();
    open_as(1, FIRST * 2);
    const struct repl_tree_meta *meta = repl_tree_meta(fixture.index);
    assert_int_equal(meta->next_object, 510);
    assert_int_equal(meta->stamp, 77);
    assert_int_equal(meta->space_size, 4096);
    assert_false(meta->full_wanted);
    begin();
    assert_object(10);
    assert_object(509);
    assert_int_equal(pending_count(1), 6);
    assert_int_equal(pending_count(77), 0);
    commit();
}

static void assert_begun_anew(uint8_t volume)
{
    open_as(volume, FIRST * 2);
    const struct repl_tree_meta *meta = repl_tree_meta(fixture.index);
    assert_int_equal(meta->next_object, FIRST * 2);
    assert_int_equal(meta->stamp, REPL_TREE_STAMP_FIRST);
    assert_int_equal(meta->space_size, 0);
    assert_true(meta->full_wanted);
    assert_int_equal(repl_tree_count(fixture.index, REPL_TREE_OBJECT), 0);
    objects_put(10, 3);
    close_it();
    open_as(volume, FIRST * 3);
    assert_int_equal(repl_tree_meta(fixture.index)->next_object, 13);
    assert_true(repl_tree_meta(fixture.index)->full_wanted);
}

static void one_of_another_volume_is_begun_anew(void **state)
{
    (void)state;
    objects_put(10, 500);
    close_it();
    assert_begun_anew(2);
}

static void one_that_is_cut_off_is_begun_anew(void **state)
{
    (void)state;
    static const off_t sizes[] = {0, 100, 4096, 8192, 40000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        objects_put(10, 500);
        close_it();
        assert_int_equal(truncate(fixture.path, sizes[i]), 0);
        assert_begun_anew(1);
    }
}

/* LMDB does not write pages that a transaction took and gave back: if they were the last, the file
 * ends before its last page. */
static void one_that_ends_with_what_was_given_back_is_gone_on_with(void **state)
{
    (void)state;
    static const uint8_t value[100000];
    struct repl_tree_key key = {0};
    objects_put(10, 500);
    begin();
    repl_tree_key_u64(&key, 1000);
    ok(repl_tree_put(&fixture.txn, REPL_TREE_ATTRIBUTE, &key, value, sizeof value, &fixture.err));
    ok(repl_tree_del(&fixture.txn, REPL_TREE_ATTRIBUTE, &key, &fixture.err));
    commit();
    close_it();
    open_as(1, FIRST * 2);
    assert_int_equal(repl_tree_meta(fixture.index)->next_object, 510);
    objects_put(510, 500);
    begin();
    for (uint64_t object = 10; object < 1010; object++)
        assert_object(object);
    commit();
}

static void one_that_is_damaged_is_begun_anew(void **state)
{
    (void)state;
    for (int fill = 0; fill < 256; fill += 51) {
        uint8_t bytes[8192];
        memset(bytes, fill, sizeof bytes);
        objects_put(10, 500);
        close_it();
        int fd = open(fixture.path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, bytes, sizeof bytes, 0), sizeof bytes);
        close(fd);
        assert_begun_anew(1);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_is_put_in_is_there),
        TEST(another_with_its_inode_keeps_it),
        TEST(with_nothing_changed_nothing_is_written),
        TEST(what_is_settled_is_not_said_again),
        TEST(what_is_lost_is_said_again),
        TEST(what_was_committed_is_there_again),
        TEST(one_of_another_volume_is_begun_anew),
        TEST(one_that_is_cut_off_is_begun_anew),
        TEST(one_that_ends_with_what_was_given_back_is_gone_on_with),
        TEST(one_that_is_damaged_is_begun_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
