/*
 * Writes the golden segments: make_segments DIRECTORY
 *
 * Run by hand, when the format gets a new case; a file that is in the repository already must
 * come out as it is (tests/golden/test_golden.c sees to that). For each segment NAME.seg there is
 * NAME.expect: what a decoder prints of it, or "refused", the code, and a word of the message.
 */
#include <errno.h>

#include "golden/segment_golden.h"

static FILE *create(const char *directory, const char *prefix, const char *name, const char *suffix)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s%s%s", directory, prefix, name, suffix);
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
    return file;
}

static void write_segment(FILE *file, const struct repl_buffer *bytes)
{
    if (fwrite(bytes->data, 1, bytes->size, file) != bytes->size || fclose(file) != 0) {
        perror("write");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_segments DIRECTORY\n");
        return 64;
    }
    for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++) {
        struct repl_buffer bytes = golden_case_make(&golden_cases[i]);
        write_segment(create(argv[1], "", golden_cases[i].name, ".seg"), &bytes);
        FILE *expect = create(argv[1], "", golden_cases[i].name, ".expect");
        struct repl_error err = {.text = ""};
        struct memory_span span = {bytes.data, bytes.size};
        if (!repl_ok(golden_print(span, expect, &err))) {
            fprintf(stderr, "%s: %s\n", golden_cases[i].name, err.text);
            return 1;
        }
        fclose(expect);
        repl_buffer_fini(&bytes);
    }
    for (size_t i = 0; i < BAD_CASE_COUNT; i++) {
        struct repl_buffer bytes = bad_case_make(&bad_cases[i]);
        write_segment(create(argv[1], "bad-", bad_cases[i].name, ".seg"), &bytes);
        FILE *expect = create(argv[1], "bad-", bad_cases[i].name, ".expect");
        fprintf(expect, "refused %s\n%s\n", repl_code_name(bad_cases[i].code), bad_cases[i].word);
        fclose(expect);
        repl_buffer_fini(&bytes);
    }
    return 0;
}
