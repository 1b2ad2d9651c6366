/*
 * Filled text and troff input from the same words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/document.h"

#define WORDS_40 "one two three four five six seven eight "

static void expect_fill(unsigned indent, const char *text, const char *filled)
{
    char *output = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&output, &size);
    repl_document_fill(out, indent, text);
    fclose(out);
    assert_string_equal(output, filled);
    free(output);
}

static void expect_troff(const char *text, const char *troff)
{
    char *output = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&output, &size);
    repl_document_troff(out, text);
    fclose(out);
    assert_string_equal(output, troff);
    free(output);
}

static void test_fill(void **state)
{
    (void)state;
    expect_fill(0, "", "");
    expect_fill(2, "word", "  word\n");
    expect_fill(2, "two\nlines\n", "  two lines\n");
    expect_fill(2, "one\n\ntwo", "  one\n\n  two\n");
    expect_fill(2, "run:\n    repl\n    help\nand  read",
                "  run:\n      repl\n      help\n"
                "  and read\n");
    /* 79 columns fit, 80 do not. */
    expect_fill(0, WORDS_40 WORDS_40, WORDS_40 "one two three four five six seven eight\n");
    expect_fill(1, WORDS_40 WORDS_40, " " WORDS_40 "one two three four five six seven\n eight\n");
}

static void test_troff(void **state)
{
    (void)state;
    expect_troff("", "");
    expect_troff(".TH is no\n.request", "\\&.TH is no\n\\&.request\n");
    expect_troff("'br \"q\" `x` a^b ~ \\fB --opt a.b",
                 "\\(aqbr \\(dqq\\(dq \\(gax\\(ga a\\(hab \\(ti \\efB \\-\\-opt a.b\n");
    expect_troff("a\n\nb\n  c\nd", "a\n.sp\nb\n  c\n.br\nd\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_troff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
