/*
 * The programs that notice writes to files, in this kernel, and whether it shows that they were
 * not called. Of the unit itself, for a program is detached for a while.
 */
#include "source/tree/tree_dirty.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/temporary.h"

#define TRIES 200

struct world {
    struct temporary at;
    struct repl_tree_root root;
    struct repl_tree_dirty *dirty;
    int fd;
    uint64_t inode;
    struct repl_error err;
};

static bool world_begin(struct world *w)
{
    struct stat status;
    *w = (struct world){.fd = -1, .root.fd = -1};
    if (getenv("TMPDIR") == NULL)
        setenv("TMPDIR", "/var/tmp", 1);
    assert_int_equal(temporary_make(&w->at), 0);
    repl_result result = repl_tree_root_open(w->at.path, &w->root, &w->err);
    /* Before the tracking: another's file that is removed meanwhile leaves its inode's number. */
    if (repl_ok(result)) {
        w->fd = openat(w->root.fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        assert_true(w->fd >= 0 && fstat(w->fd, &status) == 0);
        w->inode = status.st_ino;
        result = repl_tree_dirty_open(&w->root, &w->dirty, &w->err);
    }
    if (!repl_ok(result)) {
        print_message("not run: %s: %s\n", w->at.path, w->err.text);
        if (w->fd >= 0)
            close(w->fd);
        repl_tree_root_close(&w->root);
        temporary_remove(&w->at);
        return false;
    }
    return true;
}

static void world_end(struct world *w)
{
    close(w->fd);
    repl_tree_dirty_close(w->dirty);
    repl_tree_root_close(&w->root);
    temporary_remove(&w->at);
}

static void pages_write(struct world *w, uint64_t first, unsigned count)
{
    static const uint8_t page[REPL_PAGE_SIZE] = {1};
    for (uint64_t i = first; i < first + count; i++)
        assert_int_equal(pwrite(w->fd, page, sizeof page, (off_t)(i * sizeof page)), sizeof page);
}

/* Where others write to some filesystem, it takes a moment at which they do not. */
static enum repl_tree_verdict audit(struct world *w, uint64_t *overlooked)
{
    for (int i = 0; i < TRIES; i++) {
        enum repl_tree_verdict verdict = repl_tree_dirty_audit(w->dirty, overlooked);
        if (verdict != REPL_TREE_AUDIT_BUSY)
            return verdict;
    }
    fail_msg("no moment without writes in %d tries", TRIES);
    return REPL_TREE_AUDIT_BUSY;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void each_page_that_turns_dirty_is_marked(void **state)
{
    struct world w;
    struct repl_buffer marks = {0}, pages = {0};
    bool lost = false, any, whole;
    (void)state;
    if (!world_begin(&w))
        skip();
    pages_write(&w, 3, 1);
    pages_write(&w, 511, 2);
    pages_write(&w, 5000, 70);
    assert_false(repl_tree_dirty_is_quiet(w.dirty));
    assert_int_equal(repl_tree_dirty_take(w.dirty, &marks, &lost, &w.err).code, REPL_OK);
    repl_tree_marks_sort(&marks);
    assert_int_equal(repl_tree_marks_find(&marks, w.inode, &pages, &any, &whole, &w.err).code,
                     REPL_OK);
    const struct repl_tree_pages *found = (const void *)pages.data;
    assert_true(any && !whole && !lost);
    assert_int_equal(pages.size / sizeof *found, 3);
    assert_int_equal(found[0].page, 3);
    assert_int_equal(found[0].count, 1);
    assert_int_equal(found[1].page, 511);
    assert_int_equal(found[1].count, 2);
    assert_int_equal(found[2].page, 5000);
    assert_int_equal(found[2].count, 70);
    repl_buffer_fini(&marks);
    repl_buffer_fini(&pages);
    world_end(&w);
}

static void a_call_that_was_skipped_shows(void **state)
{
    struct world w;
    uint64_t overlooked = 0;
    (void)state;
    if (!world_begin(&w))
        skip();
    pages_write(&w, 0, 100);
    assert_int_equal(audit(&w, &overlooked), REPL_TREE_AUDIT_PASSED);
    assert_int_equal(bpf_link__destroy(w.dirty->links[0]), 0);
    pages_write(&w, 100, 3);
    w.dirty->links[0] =
        bpf_program__attach(bpf_object__find_program_by_name(w.dirty->object, "repl_dirtied"));
    assert_non_null(w.dirty->links[0]);
    pages_write(&w, 200, 100);
    assert_int_equal(audit(&w, &overlooked), REPL_TREE_AUDIT_SHORT);
    assert_true(overlooked >= 3); /* others may have written as well */
    pages_write(&w, 300, 100);
    assert_int_equal(audit(&w, &overlooked), REPL_TREE_AUDIT_PASSED);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_page_that_turns_dirty_is_marked),
        cmocka_unit_test(a_call_that_was_skipped_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
