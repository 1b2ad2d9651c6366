#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "source/tree/tree_exclude.h"

static bool is_out(const char *patterns, const char *directory, const char *name)
{
    struct repl_tree_exclude exclude;
    struct repl_error err;
    assert_true(repl_ok(repl_tree_exclude_new(patterns, &exclude, &err)));
    bool out = repl_tree_is_excluded(&exclude, directory, name);
    repl_tree_exclude_fini(&exclude);
    return out;
}

static void nothing_is_left_out_unasked(void **state)
{
    (void)state;
    assert_false(is_out(NULL, "", "a"));
    assert_false(is_out("", "", "a"));
    assert_false(is_out(" \t  ", "", "a"));
}

static void without_a_slash_for_any_name(void **state)
{
    (void)state;
    assert_true(is_out("*.tmp", "", "x.tmp"));
    assert_true(is_out("*.tmp", "deep/down/", "x.tmp"));
    assert_true(is_out("*.tmp", "", ".tmp"));
    assert_false(is_out("*.tmp", "", "x.tmp2"));
    assert_true(is_out("[ab]?", "", "b7"));
    assert_false(is_out("[ab]?", "", "c7"));
    assert_true(is_out("\\*", "", "*"));
    assert_false(is_out("\\*", "", "x"));
}

static void with_a_slash_for_a_path(void **state)
{
    (void)state;
    assert_true(is_out("/cache", "", "cache"));
    assert_false(is_out("/cache", "home/", "cache"));
    assert_true(is_out("home/?/.thumbs", "home/a/", ".thumbs"));
    assert_false(is_out("home/?/.thumbs", "home/ab/", ".thumbs"));
    assert_true(is_out("home/*/x", "home/ab/", "x"));
    assert_false(is_out("home/*/x", "home/a/b/", "x")); /* "*" ends at a slash */
    assert_false(is_out("/home/*", "home/a/", "x"));
    assert_true(is_out("/home/*", "home/", "x"));
}

static void several_between_blanks(void **state)
{
    (void)state;
    const char *patterns = "  a\t b\\ c   /d/e\\\tf ";
    assert_true(is_out(patterns, "", "a"));
    assert_true(is_out(patterns, "", "b c"));
    assert_false(is_out(patterns, "", "b"));
    assert_false(is_out(patterns, "", "c"));
    assert_true(is_out(patterns, "d/", "e\tf"));
    assert_false(is_out(patterns, "", ""));
}

static void says_whether_paths_matter(void **state)
{
    (void)state;
    struct repl_tree_exclude exclude;
    assert_true(repl_ok(repl_tree_exclude_new("a b", &exclude, NULL)));
    assert_false(exclude.by_path);
    repl_tree_exclude_fini(&exclude);
    assert_true(repl_ok(repl_tree_exclude_new("a /b c", &exclude, NULL)));
    assert_true(exclude.by_path);
    assert_int_equal(exclude.count, 3);
    repl_tree_exclude_fini(&exclude);
}

/* Names are bytes: whatever the locale, what is no UTF-8 is matched as well. */
static void names_are_bytes(void **state)
{
    (void)state;
    assert_true(is_out("*.tmp", "", "\xff\xfe.tmp"));
    assert_true(is_out("?\xfe*", "", "\xff\xfe.tmp"));
    assert_true(is_out("/a/*", "a/", "\xc3"));
    assert_false(is_out("\xc3\xa4", "", "\xc3"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_left_out_unasked),
        cmocka_unit_test(without_a_slash_for_any_name),
        cmocka_unit_test(with_a_slash_for_a_path),
        cmocka_unit_test(several_between_blanks),
        cmocka_unit_test(says_whether_paths_matter),
        cmocka_unit_test(names_are_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
