/*
 * Links come out in order, however few are held in memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "recover/tree_links.h"
#include "unit/random.h"

#define LINKS_MAX 30000u

static int link_order(const void *a, const void *b)
{
    const struct repl_tree_link *x = a, *y = b;
    if (x->object != y->object)
        return x->object < y->object ? -1 : 1;
    return x->parent < y->parent ? -1 : x->parent > y->parent;
}

static void compare(struct random *random, size_t room, size_t count)
{
    static struct repl_tree_link expected[LINKS_MAX];
    struct repl_tree_links *links;
    struct repl_tree_link link;
    bool done;
    assert_true(repl_ok(repl_tree_links_new(room, &links, NULL)));
    for (size_t i = 0; i < count; i++) {
        expected[i] = (struct repl_tree_link){.object = random_below(random, count),
                                              .parent = random_below(random, 4)};
        expected[i].kind = expected[i].object % 8; /* the same where both are */
        assert_true(repl_ok(repl_tree_links_add(links, &expected[i], NULL)));
    }
    qsort(expected, count, sizeof expected[0], link_order);
    for (size_t i = 0; i < count; i++) {
        assert_true(repl_ok(repl_tree_links_next(links, &link, &done, NULL)));
        assert_false(done);
        assert_true(link.object == expected[i].object && link.parent == expected[i].parent &&
                    link.kind == expected[i].kind);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_true(repl_ok(repl_tree_links_next(links, &link, &done, NULL)));
        assert_true(done);
    }
    repl_tree_links_free(links);
}

static void links_come_out_in_order(void **state)
{
    struct random random = random_begin("links_come_out_in_order", 1);
    (void)state;
    compare(&random, 1, 0);
    compare(&random, 1, 1);
    compare(&random, 7, 7);
    compare(&random, 7, 8);
    for (size_t room = 1; room < 60; room += 7)
        compare(&random, room, 300);
    compare(&random, 9000, LINKS_MAX); /* runs of several pieces */
    compare(&random, LINKS_MAX, LINKS_MAX);
}

static void no_room_is_told(void **state)
{
    struct repl_tree_links *links;
    struct repl_error err;
    (void)state;
    setenv("TMPDIR", "/nowhere/at/all", 1);
    assert_true(repl_ok(repl_tree_links_new(1, &links, NULL)));
    assert_true(repl_ok(repl_tree_links_add(links, &(struct repl_tree_link){.object = 2}, NULL)));
    assert_int_equal(repl_tree_links_add(links, &(struct repl_tree_link){.object = 3}, &err).code,
                     REPL_E_NOMEM);
    repl_tree_links_free(links);
    unsetenv("TMPDIR");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links_come_out_in_order),
        cmocka_unit_test(no_room_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
