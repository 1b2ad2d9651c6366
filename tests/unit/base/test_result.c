#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/ensure.h"
#include "repl/error.h"
#include "unit/expect_abort.h"

static void fail_says_where_and_why(void **state)
{
    (void)state;
    struct repl_error err;
    assert_int_equal(repl_fail(&err, REPL_E_FORK, "point %d", 7).code, REPL_E_FORK);
    assert_int_equal(err.code, REPL_E_FORK);
    assert_int_equal(err.os_errno, 0);
    assert_string_equal(err.text, "point 7");
    assert_int_equal(repl_fail(NULL, REPL_E_IO, "nobody listens").code, REPL_E_IO);

    assert_int_equal(repl_fail_errno(&err, REPL_E_IO, ENOENT, "%s", "/dev/x").code, REPL_E_IO);
    assert_int_equal(err.os_errno, ENOENT);
    assert_string_equal(err.text, "/dev/x: No such file or directory");
    assert_int_equal(repl_fail_errno(NULL, REPL_E_IO, ENOENT, "x").code, REPL_E_IO);
}

static void forward_puts_context_before(void **state)
{
    (void)state;
    struct repl_error err;
    repl_result result = repl_fail_errno(&err, REPL_E_IO, EIO, "offset %d", 4096);
    result = repl_forward(result, &err, "volume %s", "db");
    assert_int_equal(result.code, REPL_E_IO);
    assert_int_equal(err.code, REPL_E_IO);
    assert_int_equal(err.os_errno, EIO);
    assert_string_equal(err.text, "volume db: offset 4096: Input/output error");

    strcpy(err.text, "untouched");
    assert_true(repl_ok(repl_forward(REPL_SUCCESS, &err, "never")));
    assert_string_equal(err.text, "untouched");
    assert_int_equal(repl_forward((repl_result){REPL_E_IO}, NULL, "never").code, REPL_E_IO);
}

/* Every length of context and of text around the room there is: cut at the end, never beyond it. */
static void long_text_is_cut(void **state)
{
    (void)state;
    char filler[2 * REPL_ERROR_TEXT_SIZE];
    memset(filler, 'x', sizeof filler);
    struct {
        struct repl_error err;
        char guard[8];
    } room;
    memset(room.guard, 0x5a, sizeof room.guard);
    for (int size = REPL_ERROR_TEXT_SIZE - 40; size < REPL_ERROR_TEXT_SIZE + 40; size++) {
        repl_result result = repl_fail_errno(&room.err, REPL_E_IO, EIO, "%.*s", size, filler);
        assert_true(strlen(room.err.text) < REPL_ERROR_TEXT_SIZE);
        for (int context = 0; context < REPL_ERROR_TEXT_SIZE + 40; context += 3) {
            struct repl_error before = room.err;
            result = repl_forward(result, &room.err, "%.*s", context, filler);
            assert_true(strlen(room.err.text) < REPL_ERROR_TEXT_SIZE);
            if (context >= REPL_ERROR_TEXT_SIZE) /* nothing is better than context alone */
                assert_string_equal(room.err.text, before.text);
            room.err = before;
        }
        assert_int_equal(result.code, REPL_E_IO);
    }
    assert_memory_equal(room.guard, "ZZZZZZZZ", sizeof room.guard);
}

static repl_result twice(int *calls)
{
    ++*calls;
    REPL_TRY(*calls < 2 ? REPL_SUCCESS : ((repl_result){REPL_E_LOCKED}));
    ++*calls;
    return REPL_SUCCESS;
}

static void try_leaves_on_failure(void **state)
{
    (void)state;
    int calls = 0;
    assert_true(repl_ok(twice(&calls)));
    assert_int_equal(calls, 2);
    assert_int_equal(twice(&calls).code, REPL_E_LOCKED);
    assert_int_equal(calls, 3);
}

static void every_code_has_name_and_exit(void **state)
{
    (void)state;
    for (int code = 0; code < REPL_CODE_COUNT; code++) {
        assert_string_not_equal(repl_code_name(code), "unknown");
        for (int other = 0; other < code; other++)
            assert_string_not_equal(repl_code_name(code), repl_code_name(other));
        assert_true((repl_exit_code(code) == REPL_EXIT_OK) == (code == REPL_OK));
    }
    assert_string_equal(repl_code_name(REPL_CODE_COUNT), "unknown");
    assert_string_equal(repl_code_name((enum repl_code) - 1), "unknown");
    assert_int_equal(repl_exit_code(REPL_CODE_COUNT), REPL_EXIT_INTERNAL);
    assert_int_equal(repl_exit_code(REPL_E_NOSPACE), REPL_EXIT_RETRY);
    assert_int_equal(repl_exit_code(REPL_E_LOCKED), REPL_EXIT_LOCKED);
    assert_int_equal(repl_exit_code(REPL_E_MISSING), REPL_EXIT_CORRUPT);
    assert_int_equal(repl_exit_code(REPL_E_FENCED), REPL_EXIT_REFUSED);
    assert_int_equal(repl_exit_code(REPL_E_USAGE), REPL_EXIT_USAGE);
    assert_int_equal(repl_exit_code(REPL_E_IO), REPL_EXIT_INTERNAL);
}

static void ensure_value(void *value)
{
    ensure(*(int *)value == 1);
}

static void ensure_aborts_in_every_build(void **state)
{
    (void)state;
    int right = 1, wrong = 0;
    assert_false(aborts(ensure_value, &right));
    assert_true(aborts(ensure_value, &wrong));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fail_says_where_and_why),
        cmocka_unit_test(long_text_is_cut),
        cmocka_unit_test(forward_puts_context_before),
        cmocka_unit_test(try_leaves_on_failure),
        cmocka_unit_test(every_code_has_name_and_exit),
        cmocka_unit_test(ensure_aborts_in_every_build),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
