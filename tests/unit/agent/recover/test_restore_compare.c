#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "recover/restore_compare.h"

static unsigned looked_at(struct repl_restore_compare *compare, unsigned pieces, size_t same)
{
    unsigned looked = 0;
    for (unsigned i = 0; i < pieces; i++) {
        if (!repl_restore_compare_next(compare))
            continue;
        repl_restore_compare_note(compare, same, 100);
        looked++;
    }
    return looked;
}

static void what_held_nothing_is_not_looked_at(void **state)
{
    (void)state;
    struct repl_restore_compare compare = {0};
    assert_int_equal(looked_at(&compare, 100, 100), 0);
}

static void what_is_mostly_there_is_looked_at(void **state)
{
    (void)state;
    struct repl_restore_compare compare;
    repl_restore_compare_begin(&compare);
    assert_int_equal(looked_at(&compare, 1000, 90), 1000);
    assert_int_equal(looked_at(&compare, 1000, 10), 1000);
}

static void another_volume_is_given_up_soon_and_found_again(void **state)
{
    (void)state;
    struct repl_restore_compare compare;
    repl_restore_compare_begin(&compare);
    unsigned looked = looked_at(&compare, 1600, 0);
    assert_true(looked > 100 && looked < 125);
    assert_true(looked_at(&compare, 1000, 100) > 980);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_held_nothing_is_not_looked_at),
        cmocka_unit_test(what_is_mostly_there_is_looked_at),
        cmocka_unit_test(another_volume_is_given_up_soon_and_found_again),
    };
    return cmocka_run_group_tests_name("restore_compare", tests, NULL, NULL);
}
