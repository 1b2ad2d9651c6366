/*
 * The lines in which the operator of a site asks for names of points: there and back, and what is
 * none of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "control/mark_request.h"
#include "control/request_line.h"

static void there_and_back(const struct repl_mark_request *request, const char *line)
{
    char written[REPL_MARK_REQUEST_SIZE];
    struct repl_mark_request back;
    struct repl_error err;
    repl_mark_request_write(request, written);
    if (line != NULL)
        assert_string_equal(written, line);
    assert_true(strlen(written) < REQUEST_LINE_SIZE);
    assert_true(repl_ok(repl_mark_request_parse(written, &back, &err)));
    assert_int_equal(back.ticket, request->ticket);
    assert_string_equal(back.volume, request->volume);
    assert_int_equal(back.mark.kind, request->mark.kind);
    assert_int_equal(back.mark.seq, request->mark.seq);
    assert_string_equal(back.mark.name, request->mark.name);
}

static void test_there_and_back(void **state)
{
    (void)state;
    there_and_back(&(struct repl_mark_request){.ticket = 12}, "marked 12");
    there_and_back(
        &(struct repl_mark_request){.volume = "data", .mark = {REPL_MARK_HELD, 7, "a \xc3\xa9"}},
        "mark data 2 7 6120c3a9");
    there_and_back(
        &(struct repl_mark_request){.volume = "data", .mark = {REPL_MARK_REMOVED, 0, "a"}},
        "mark data 0 0 61");
    there_and_back(&(struct repl_mark_request){.volume = "data", .mark = {REPL_MARK_PROVEN, 7, ""}},
                   "mark data 3 7 -");
    struct repl_mark_request longest = {.mark = {.kind = REPL_MARK_NAME, .seq = INT64_MAX}};
    memset(longest.volume, 'v', REPL_VOLUME_NAME_SIZE);
    memset(longest.mark.name, 0xff, REPL_MARK_NAME_SIZE);
    there_and_back(&longest, NULL);
}

static void test_what_is_none(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "",
        "mark",
        "marks",
        "marked",
        "marked 0",
        "marked x",
        "marked 1 2",
        "marked 12345678901234567890",
        "mark data 1 7",
        "mark data 1 7 6",
        "mark data 1 7 6g",
        "mark data 1 7 00",
        "mark data 1 7 6A",
        "mark data 1 7 61 62",
        "mark data 1 7 -",
        "mark data 3 7 61",
        "mark data 3 7 -61",
        "mark data 1 -7 61",
        "mark data 1 a 61",
        "mark .data 1 7 61",
        "mark  data 1 7 61",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        struct repl_mark_request out;
        struct repl_error err;
        if (repl_mark_request_parse(lines[i], &out, &err).code != REPL_E_USAGE)
            fail_msg("\"%s\" is taken", lines[i]);
        assert_non_null(strstr(err.text, lines[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_what_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
