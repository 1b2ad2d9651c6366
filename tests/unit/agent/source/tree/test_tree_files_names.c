/*
 * Points of a tree that are cut per file: files that are replaced or go before they are read, and
 * directories that move meanwhile. The names make up a tree; and nothing is forgotten.
 */
#include "unit/agent/source/tree/tree_cut.h"

#include "epoch.h"
#include "source/tree/tree_names.h"

/* --- files that go --------------------------------------------------------------------------- */

/* So many others have changed that what is changed now is not kept open, at first. */
static void hold_others(struct rig *rig)
{
    char name[16];
    for (unsigned i = 0; i < REPL_TREE_HELD_MAX; i++) {
        snprintf(name, sizeof name, "other%u", i);
        put(rig, name, "it is held");
    }
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
}

static void a_file_that_is_replaced_before_it_is_read_is_kept_open(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    replace(rig, "a", "the second file");
    put(rig, "b", "the second of b");
    look(rig, REPL_TREE_LOOK_FILES);
    replace(rig, "a", "the third file");
    drop(rig, "b");
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_string_equal(text_in(rig, "a"), "the second file");
    assert_string_equal(text_in(rig, "b"), "the second of b");
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void one_of_many_that_is_replaced_all_the_time_is_one_of_them(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    hold_others(rig);
    replace(rig, "a", "the second file");
    look(rig, REPL_TREE_LOOK_FILES);
    replace(rig, "a", "the third file");
    pages_read(rig); /* of the second nothing is left */
    assert_true(unstable(rig) == REPL_UNSTABLE_UNKNOWN);
    look(rig, REPL_TREE_LOOK_AGAIN);
    replace(rig, "a", "the fourth file");
    pages_read(rig); /* the third was kept open */
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_string_equal(text_in(rig, "a"), "the third file");
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void one_of_many_that_goes_before_it_is_read_is_gone(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    hold_others(rig);
    put(rig, "a", "nobody reads this");
    put(rig, "d/below", "nor this");
    look(rig, REPL_TREE_LOOK_FILES);
    drop(rig, "a");
    drop(rig, "d/below");
    char path[400];
    at(rig, path, "d");
    assert_int_equal(rmdir(path), 0);
    pages_read(rig);
    assert_true(unstable(rig) == REPL_UNSTABLE_UNKNOWN);
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_null(text_in(rig, "a"));
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void one_of_several_names_goes_with_all_of_them(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    char from[400], to[400];
    hold_others(rig);
    at(rig, from, "a");
    for (unsigned i = 0; i < 3; i++) {
        static const char *const names[] = {"a1", "a2", "d/a3"};
        at(rig, to, names[i]);
        assert_int_equal(link(from, to), 0);
    }
    put(rig, "a", "nobody reads this");
    look(rig, REPL_TREE_LOOK_FILES);
    drop(rig, "a");
    drop(rig, "a1");
    drop(rig, "a2");
    replace(rig, "d/a3", "another file");
    pages_read(rig);
    assert_true(unstable(rig) == REPL_UNSTABLE_UNKNOWN);
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    assert_null(text_in(rig, "a"));
    assert_null(text_in(rig, "a1"));
    assert_null(text_in(rig, "a2"));
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

/* --- names ----------------------------------------------------------------------------------- */

static void moves_on(struct rig *rig)
{
    move(rig, "e", "f");
}

/* Neither where it was nor where it is heard to be. */
static void a_directory_that_moves_on_is_found(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    copy_make(rig, &copy);
    uint64_t before = object_of(&copy, "d");
    copy_free(&copy);
    move(rig, "d", "e");
    look_after(rig, moves_on);
    pages_read(rig);
    unstable(rig);
    cut(rig);
    copy_make(rig, &copy);
    assert_int_equal(object_of(&copy, "f"), before);
    assert_int_equal(object_of(&copy, "d"), 0);
    copy_free(&copy);
    assert_copied(rig);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

#define BIG 64u /* pages: where it was written to is gone by */

static void big_write(struct rig *rig, unsigned page, char with)
{
    char path[400], bytes[REPL_PAGE_SIZE];
    at(rig, path, "big");
    memset(bytes, with, sizeof bytes);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    assert_int_equal(pwrite(fd, bytes, sizeof bytes, (off_t)page * REPL_PAGE_SIZE), sizeof bytes);
    close(fd);
}

static void moves_on_and_writes(struct rig *rig)
{
    big_write(rig, 0, 'b');
    moves_on(rig);
}

/* Between the two looks before it is read. */
static void what_changes_before_what_is_hidden_is_found_is_read(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    for (unsigned page = 0; page < BIG; page++)
        big_write(rig, page, 'a');
    for (unsigned i = 0; i < 2; i++) { /* when it is where it stays */
        big_write(rig, 5, 'a');
        assert_true(point(rig));
    }
    move(rig, "d", "e");
    big_write(rig, 1, 'b');
    OK(rig, repl_tree_hear(rig->tree, &rig->err));
    repl_tree_gather_begin(rig->tree, rig_is_full(rig), REPL_TREE_LOOK_FILES);
    moves_on_and_writes(rig);
    OK(rig, repl_tree_gather(rig->tree, &rig->found, &rig->err));
    pages_take(rig);
    assert_true(repl_tree_hides(rig->tree));
    big_write(rig, 20, 'b');
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    big_write(rig, 21, 'b'); /* of which is heard later than of the one before */
    assert_int_equal(unstable(rig), 1);
    look(rig, REPL_TREE_LOOK_AGAIN);
    pages_read(rig);
    assert_int_equal(unstable(rig), 0);
    cut(rig);
    copy_make(rig, &copy);
    const struct copy_record *run = copy_find(&copy, object_of(&copy, "big"), REPL_RECORD_RUN, "");
    for (unsigned page = 0; page < BIG; page++)
        assert_int_equal(copy.space[run->record.place + page * REPL_PAGE_SIZE],
                         page < 2 || page / 2 == 10 ? 'b' : 'a');
    copy_free(&copy);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void moves_out(struct rig *rig)
{
    move(rig, "d", "../outside/d");
}

static void a_directory_that_leaves_the_tree_is_gone(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    put(rig, "d/below", "it has to be looked at");
    move(rig, "d", "e");
    move(rig, "e", "d");
    look_after(rig, moves_out);
    pages_read(rig);
    unstable(rig);
    look(rig, REPL_TREE_LOOK_AGAIN);
    cut(rig);
    assert_copied(rig);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

static void turns_inside_out(struct rig *rig)
{
    move(rig, "d/in", "in");
    move(rig, "d", "in/d");
}

/* The one that was below is heard of later than the other, in it. */
static void directories_that_change_places_are_no_circle(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct copy copy;
    make_directory(rig, "d/in");
    put(rig, "d/in/c", "what is in c");
    assert_true(point(rig));
    put(rig, "d/in/d", "a file of this name");
    drop(rig, "d/in/d");
    copy_make(rig, &copy);
    uint64_t before = copy_find(&copy, object_of(&copy, "d"), REPL_RECORD_NAME, "in")->record.child;
    copy_free(&copy);
    look_after(rig, turns_inside_out);
    pages_read(rig);
    unstable(rig);
    cut(rig);
    copy_make(rig, &copy);
    assert_int_equal(object_of(&copy, "in"), before);
    assert_int_equal(object_of(&copy, "d"), 0);
    copy_free(&copy);
    assert_nothing_forgotten(rig);
    rig_free(rig);
}

/* Until it is broken; its path is asked for, for patterns. */
static void the_path_of_a_directory_in_a_circle_ends(void **state)
{
    (void)state;
    struct rig *rig = rig_of();
    struct repl_tree_changes changes = {.files = true};
    uint64_t d, in, at = 0;
    char *path;
    make_directory(rig, "d/in");
    make_directory(rig, "d/in/below");
    assert_true(point(rig));
    OK(rig, repl_tree_begin(rig->tree->index, true, &changes.txn, &rig->err));
    OK(rig, repl_tree_name_get(&changes.txn, REPL_OBJECT_ROOT, "d", 1, &d, &rig->err));
    OK(rig, repl_tree_name_get(&changes.txn, d, "in", 2, &in, &rig->err));
    OK(rig, repl_tree_name_get(&changes.txn, in, "below", 5, &at, &rig->err));
    assert_true(d != 0 && in != 0 && at != 0);
    OK(rig, repl_tree_name_set(&changes, in, "d", 1, d, &rig->err));
    OK(rig, repl_tree_path_of(&changes.txn, at, &path, &rig->err));
    assert_true(strlen(path) < 40);
    free(path);
    OK(rig, repl_tree_circles_break(&changes, &rig->err));
    OK(rig, repl_tree_path_of(&changes.txn, at, &path, &rig->err));
    assert_string_equal(path, "in/below/");
    free(path);
    repl_buffer_fini(&changes.nameless);
    repl_buffer_fini(&changes.moved);
    repl_tree_abort(&changes.txn);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_that_is_replaced_before_it_is_read_is_kept_open),
        cmocka_unit_test(one_of_many_that_is_replaced_all_the_time_is_one_of_them),
        cmocka_unit_test(one_of_many_that_goes_before_it_is_read_is_gone),
        cmocka_unit_test(one_of_several_names_goes_with_all_of_them),
        cmocka_unit_test(a_directory_that_moves_on_is_found),
        cmocka_unit_test(what_changes_before_what_is_hidden_is_found_is_read),
        cmocka_unit_test(a_directory_that_leaves_the_tree_is_gone),
        cmocka_unit_test(directories_that_change_places_are_no_circle),
        cmocka_unit_test(the_path_of_a_directory_in_a_circle_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
