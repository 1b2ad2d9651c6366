/*
 * Whether a target is what this host protects, and what is done where nobody
 * knows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "recover/source_guard.h"
#include "unit/temporary.h"

static void test_unreadable(void **state)
{
    (void)state;
    struct temporary temporary;
    struct repl_error err;
    char path[300];
    char name[] = "/dev/some";
    struct repl_target device = {.path = name, .is_device = true, .exists = true};
    struct repl_target file = {.path = name};
    assert_int_equal(temporary_make(&temporary), 0);
    snprintf(path, sizeof path, "%s/agent.conf", temporary.path);

    assert_true(repl_ok(repl_source_guard(&device, path, false, &err)));
    assert_false(repl_ok(repl_source_guard(&device, path, true, &err)));
    FILE *out = fopen(path, "we");
    assert_non_null(out);
    fputs("[volume data\nnonsense\n", out);
    fclose(out);
    assert_int_equal(repl_source_guard(&device, path, false, &err).code, REPL_E_REFUSED);
    assert_non_null(strstr(err.text, "--onto-source"));
    assert_non_null(strstr(err.text, "mend the configuration"));
    assert_true(repl_ok(repl_source_guard(&file, path, false, &err)));
    assert_false(repl_ok(repl_source_guard(&file, path, true, &err)));
    temporary_remove(&temporary);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unreadable)};
    return cmocka_run_group_tests_name("source_guard", tests, NULL, NULL);
}
