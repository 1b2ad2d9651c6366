#include "source/tree/tree_marks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "source/tree/tree_places.h"

#define SECOND INT64_C(1000000000)

static struct repl_error err;

static void ok(repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", err.text);
}

/* What is said of a file: "12-13 600", "all" or "". */
static void assert_found(struct repl_buffer *marks, uint64_t inode, const char *wanted)
{
    struct repl_buffer pages = {0};
    char text[200] = "";
    bool any, whole;
    repl_tree_marks_sort(marks);
    ok(repl_tree_marks_find(marks, inode, &pages, &any, &whole, &err));
    const struct repl_tree_pages *run = (const void *)pages.data;
    for (size_t i = 0; i < pages.size / sizeof *run; i++) {
        size_t at = strlen(text);
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%llu", i > 0 ? " " : "",
                               (unsigned long long)run[i].page);
        if (run[i].count > 1)
            snprintf(text + at, sizeof text - at, "-%llu",
                     (unsigned long long)(run[i].page + run[i].count - 1));
    }
    assert_string_equal(whole ? "all" : text, wanted);
    assert_int_equal(any, wanted[0] != '\0');
    repl_buffer_fini(&pages);
}

static void marks_are_found_by_file(void **state)
{
    struct repl_buffer marks = {0};
    (void)state;
    ok(repl_tree_marks_add(&marks, 7, 1030, 1031, &err));
    ok(repl_tree_marks_add(&marks, 9, 0, 0, &err));
    ok(repl_tree_marks_add(&marks, 7, 510, 513, &err));
    ok(repl_tree_marks_add(&marks, UINT64_MAX, UINT64_C(1) << 50, UINT64_C(1) << 50, &err));
    assert_found(&marks, 7, "510-513 1030-1031");
    assert_found(&marks, 8, "");
    assert_found(&marks, 9, "0");
    assert_found(&marks, UINT64_MAX, "1125899906842624");
    const struct repl_tree_mark whole = {.key = {9, REPL_TREE_WHOLE}};
    ok(repl_buffer_append(&marks, &whole, sizeof whole, &err));
    assert_found(&marks, 9, "all");
    assert_found(&marks, 7, "510-513 1030-1031");
    repl_buffer_fini(&marks);
}

/* --- direct writes whose end is not told ----------------------------------------------------- */

static void late_write(struct repl_tree_late *late, uint64_t page, int64_t now_ns)
{
    struct repl_buffer marks = {0};
    ok(repl_tree_marks_add(&marks, 7, page, page, &err));
    ok(repl_tree_marks_add(&marks, 7, 1000, 1000, &err)); /* not a late one */
    struct repl_tree_mark *mark = (void *)marks.data;
    mark[0].key.block |= REPL_TREE_LATE;
    ok(repl_tree_late_add(late, &marks, now_ns, &err));
    char text[40];
    snprintf(text, sizeof text, "%llu 1000", (unsigned long long)page);
    assert_found(&marks, 7, text);
    repl_buffer_fini(&marks);
}

static void assert_taken(struct repl_tree_late *late, int64_t now_ns, const char *wanted)
{
    struct repl_buffer marks = {0};
    ok(repl_tree_late_take(late, &marks, now_ns, &err));
    assert_found(&marks, 7, wanted);
    repl_buffer_fini(&marks);
}

static void what_is_on_its_way_is_read_again(void **state)
{
    struct repl_tree_late late = {0};
    (void)state;
    late_write(&late, 3, 10 * SECOND);
    assert_false(repl_tree_late_is_due(&late, 11 * SECOND));
    assert_taken(&late, 11 * SECOND, "3");
    assert_true(repl_tree_late_is_due(&late, 12 * SECOND));
    assert_taken(&late, 12 * SECOND, "3");
    assert_false(repl_tree_late_is_due(&late, 39 * SECOND));
    assert_taken(&late, 39 * SECOND, "");
    assert_true(repl_tree_late_is_due(&late, 40 * SECOND));
    assert_taken(&late, 40 * SECOND, "3");
    assert_false(repl_tree_late_is_due(&late, 100 * SECOND));
    assert_taken(&late, 100 * SECOND, "");
    repl_buffer_fini(&late.marks);
}

static void a_block_is_kept_once(void **state)
{
    struct repl_tree_late late = {0};
    (void)state;
    for (uint64_t i = 0; i < 100; i++)
        late_write(&late, 3 + i % 2 * 2, (int64_t)i * SECOND);
    assert_int_equal(late.marks.size, sizeof(struct repl_tree_late_mark));
    assert_taken(&late, 101 * SECOND, "3 5"); /* of the last one's time */
    assert_taken(&late, 128 * SECOND, "");
    assert_taken(&late, 129 * SECOND, "3 5");
    assert_int_equal(late.marks.size, 0);
    repl_buffer_fini(&late.marks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_are_found_by_file),
        cmocka_unit_test(what_is_on_its_way_is_read_again),
        cmocka_unit_test(a_block_is_kept_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
