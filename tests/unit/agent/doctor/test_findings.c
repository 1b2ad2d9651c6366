#include "doctor/findings.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void fail_with(struct repl_findings *findings, enum repl_code code, const char *text)
{
    struct repl_error err = {.code = code};
    snprintf(err.text, sizeof err.text, "%s", text);
    repl_finding_fail(findings, "volume", "data", "look for it", &err);
}

static void test_exit_codes(void **state)
{
    struct repl_findings findings = {0};
    (void)state;
    assert_int_equal(repl_findings_exit(&findings), REPL_EXIT_OK);
    repl_finding_add(&findings, REPL_FINDING_OK, "kernel", NULL, NULL, "fine");
    repl_finding_add(&findings, REPL_FINDING_NOTE, "store", NULL, NULL, "not yet");
    assert_int_equal(repl_findings_exit(&findings), REPL_EXIT_OK);
    repl_finding_add(&findings, REPL_FINDING_WARNING, "clock", NULL, "set it", "off");
    assert_int_equal(repl_findings_exit(&findings), REPL_EXIT_WARNING);
    /* the first that failed, not the highest code */
    fail_with(&findings, REPL_E_MISSING, "gone");
    fail_with(&findings, REPL_E_USAGE, "wrong");
    assert_int_equal(repl_findings_exit(&findings), REPL_EXIT_CORRUPT);
    assert_int_equal(repl_findings_worst(&findings), REPL_FINDING_FAILED);
    repl_findings_fini(&findings);
    findings.lost = true;
    assert_int_equal(repl_findings_exit(&findings), REPL_EXIT_INTERNAL);
}

static void test_join(void **state)
{
    struct repl_findings all = {0}, more = {0};
    (void)state;
    for (int i = 0; i < 20; i++)
        repl_finding_add(i % 2 == 0 ? &all : &more, REPL_FINDING_OK, "kernel", NULL, NULL, "%d", i);
    more.lost = true;
    repl_findings_join(&all, &more);
    assert_int_equal(all.count, 20);
    assert_int_equal(more.count, 0);
    assert_true(all.lost);
    assert_string_equal(all.list[9].text, "18");
    assert_string_equal(all.list[10].text, "1");
    repl_findings_fini(&all);
}

static void test_lines(void **state)
{
    struct repl_findings findings = {0};
    char *text = NULL;
    size_t size = 0;
    (void)state;
    repl_finding_add(&findings, REPL_FINDING_OK, "kernel", NULL, NULL, "Linux 6.1");
    fail_with(&findings, REPL_E_MISSING, "/dev/x is gone");
    FILE *out = open_memstream(&text, &size);
    repl_findings_print(&findings, out);
    fclose(out);
    assert_string_equal(text, "ok       kernel      Linux 6.1\n"
                              "failed   volume      volume data: /dev/x is gone\n"
                              "                     next: look for it\n");
    free(text);
    repl_findings_fini(&findings);
}

static void test_json(void **state)
{
    struct repl_findings findings = {0};
    (void)state;
    repl_finding_add(&findings, REPL_FINDING_NOTE, "store", NULL, NULL, "not yet");
    fail_with(&findings, REPL_E_MISSING, "gone");
    json_t *json = repl_findings_to_json(&findings);
    assert_int_equal(json_array_size(json), 2);
    const json_t *note = json_array_get(json, 0), *failed = json_array_get(json, 1);
    assert_string_equal(json_string_value(json_object_get(note, "level")), "note");
    assert_string_equal(json_string_value(json_object_get(note, "code")), "");
    assert_string_equal(json_string_value(json_object_get(note, "volume")), "");
    assert_string_equal(json_string_value(json_object_get(failed, "level")), "failed");
    assert_string_equal(json_string_value(json_object_get(failed, "check")), "volume");
    assert_string_equal(json_string_value(json_object_get(failed, "volume")), "data");
    assert_string_equal(json_string_value(json_object_get(failed, "text")), "gone");
    assert_string_equal(json_string_value(json_object_get(failed, "next")), "look for it");
    assert_string_equal(json_string_value(json_object_get(failed, "code")), "missing");
    json_decref(json);
    repl_findings_fini(&findings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exit_codes),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
