/*
 * Who waits for whom in the freeze guard: holds of one volume, and freezes of one
 * filesystem.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "source/freeze/guard_internal.h"

static struct repl_freeze_set set_of(dev_t first, dev_t second)
{
    struct repl_freeze_set set = {.count = second != 0 ? 2 : 1};
    set.mounts[0].device = first;
    set.mounts[1].device = second;
    return set;
}

static void of_one_volume_one_hold_is_on(void **state)
{
    (void)state;
    assert_true(guard_turn_take(0, "volume a"));
    assert_false(guard_turn_take(1, "volume a"));
    assert_true(guard_turn_take(1, "group a")); /* which is something else */
    guard_turn_thawed(0);
    assert_false(guard_turn_take(2, "volume a")); /* its post_command still runs */
    guard_turn_end(0);
    assert_true(guard_turn_take(2, "volume a"));
    guard_turn_end(1);
    guard_turn_end(2);
}

static void of_one_filesystem_one_freeze_is_on(void **state)
{
    (void)state;
    struct repl_freeze_set first = set_of(1, 2), second = set_of(2, 3), third = set_of(3, 0);
    assert_true(guard_turn_freeze(0, &first));
    assert_false(guard_turn_freeze(1, &second));
    assert_true(guard_turn_freeze(2, &third)); /* who waits has none of them */
    guard_turn_thawed(0);
    assert_false(guard_turn_freeze(1, &second));
    guard_turn_end(2);
    assert_true(guard_turn_freeze(1, &second));
    assert_false(guard_turn_freeze(0, &first));
    guard_turn_end(1);
    assert_true(guard_turn_freeze(0, &first));
    guard_turn_end(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_one_volume_one_hold_is_on),
        cmocka_unit_test(of_one_filesystem_one_freeze_is_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
