/*
 * The golden segments: test_golden DIRECTORY
 *
 * Each .seg in the directory is read and must say what its .expect says; and the generator must
 * still make each file as it is. (The one that the builder makes holds what zstd made of it: where
 * its bytes differ, this says so and compares what they say.)
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <zstd.h>

#include "golden/segment_golden.h"

static const char *directory;

static struct repl_buffer load(const char *prefix, const char *name, const char *suffix)
{
    struct repl_buffer bytes = {0};
    char path[4096], piece[4096];
    snprintf(path, sizeof path, "%s/%s%s%s", directory, prefix, name, suffix);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        fail_msg("%s is missing", path);
    for (size_t size; (size = fread(piece, 1, sizeof piece, file)) > 0;)
        craft_append(&bytes, piece, size);
    fclose(file);
    return bytes;
}

/* A refusal is two lines: the code, and words of the message. */
static void assert_refused(const char *name, repl_result result, const struct repl_error *err,
                           const char *expect)
{
    char code[32] = "", word[128] = "";
    if (sscanf(expect, "refused %31[a-z]\n%127[^\n]", code, word) != 2)
        fail_msg("%s should not be refused: %s", name, err->text);
    if (strcmp(repl_code_name(result.code), code) != 0 || strstr(err->text, word) == NULL)
        fail_msg("%s: %s (%s), expected %s (%s)", name, repl_code_name(result.code), err->text,
                 code, word);
}

static void check_file(const char *name)
{
    struct repl_buffer bytes = load("", name, ".seg"), expect = load("", name, ".expect");
    craft_append(&expect, "", 1);
    struct memory_span span = {bytes.data, bytes.size};
    struct repl_error err = {.text = ""};
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    repl_result result = golden_print(span, out, &err);
    fclose(out);
    if (!repl_ok(result))
        assert_refused(name, result, &err, (const char *)expect.data);
    else
        assert_string_equal(text, (const char *)expect.data);
    free(text);
    repl_buffer_fini(&bytes);
    repl_buffer_fini(&expect);
}

static void every_file_says_what_is_expected(void **state)
{
    (void)state;
    unsigned good = 0, bad = 0;
    DIR *dir = opendir(directory);
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char name[256];
        snprintf(name, sizeof name, "%s", entry->d_name);
        char *dot = strrchr(name, '.');
        if (dot == NULL || strcmp(dot, ".seg") != 0)
            continue;
        *dot = '\0';
        check_file(name);
        *(strncmp(name, "bad-", 4) == 0 ? &bad : &good) += 1;
    }
    closedir(dir);
    printf("%u good and %u bad segments\n", good, bad);
    assert_true(good >= GOLDEN_CASE_COUNT && bad >= BAD_CASE_COUNT);
}

static void assert_says_the_same(const char *name, const struct repl_buffer *a,
                                 const struct repl_buffer *b)
{
    struct repl_frame_coder *coder;
    struct repl_buffer say[2] = {{0}, {0}};
    assert_true(repl_ok(repl_frame_coder_new(&coder, NULL)));
    assert_true(
        repl_ok(read_all((struct memory_span){a->data, a->size}, coder, true, &say[0], NULL)));
    assert_true(
        repl_ok(read_all((struct memory_span){b->data, b->size}, coder, true, &say[1], NULL)));
    assert_int_equal(say[0].size, say[1].size);
    assert_memory_equal(say[0].data, say[1].data, say[0].size);
    printf("%s: other bytes with zstd %s; they say the same\n", name, ZSTD_versionString());
    repl_frame_coder_free(coder);
    repl_buffer_fini(&say[0]);
    repl_buffer_fini(&say[1]);
}

static bool same_bytes(const struct repl_buffer *a, const struct repl_buffer *b)
{
    return a->size == b->size && (a->size == 0 || memcmp(a->data, b->data, a->size) == 0);
}

static void generator_makes_them_as_they_are(void **state)
{
    (void)state;
    for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++) {
        const struct golden_case *golden = &golden_cases[i];
        struct repl_buffer there = load("", golden->name, ".seg"), made = golden_case_make(golden);
        bool same = same_bytes(&there, &made);
        if (!same && golden->build != NULL)
            assert_says_the_same(golden->name, &there, &made);
        else if (!same)
            fail_msg("%s: the generator makes other bytes of it", golden->name);
        repl_buffer_fini(&there);
        repl_buffer_fini(&made);
    }
    for (size_t i = 0; i < BAD_CASE_COUNT; i++) {
        struct repl_buffer there = load("bad-", bad_cases[i].name, ".seg");
        struct repl_buffer made = bad_case_make(&bad_cases[i]);
        if (!same_bytes(&there, &made))
            fail_msg("bad-%s: the generator makes other bytes of it", bad_cases[i].name);
        repl_buffer_fini(&there);
        repl_buffer_fini(&made);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: test_golden DIRECTORY\n");
        return 64;
    }
    directory = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file_says_what_is_expected),
        cmocka_unit_test(generator_makes_them_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
