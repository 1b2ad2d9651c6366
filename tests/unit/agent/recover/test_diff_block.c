/*
 * What changed of a block volume between two points of a store made by hand,
 * by the verb, against a model of what it held.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "recover/origin.h"
#include "unit/agent/recover/store_model.h"
#include "unit/agent/recover/verb_output.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

static struct verb_output said;

#define DIFF(m, ...)                                                                               \
    verb_output(&repl_verb_diff, &said,                                                            \
                (const char *const[]){MODEL_VOLUME, "--store", (m)->path, __VA_ARGS__, NULL})

static int set_up(void **state)
{
    struct store_model *m = calloc(1, sizeof *m);
    model_init(m);
    *state = m;
    return 0;
}

static int tear_down(void **state)
{
    model_fini(*state);
    free(*state);
    return 0;
}

static void assert_says(const char *text)
{
    if (strstr(said.err, text) == NULL)
        fail_msg("\"%s\" is not in: %s", text, said.err);
}

/* The lines for what differs by the model, page by page. */
static void model_lines(const struct store_model *m, uint64_t a, uint64_t b, char *text)
{
    uint64_t begin = 0;
    bool within = false;
    text[0] = '\0';
    for (uint64_t at = 0; at <= MODEL_SIZE; at += REPL_PAGE_SIZE) {
        uint64_t size = MODEL_SIZE - at < REPL_PAGE_SIZE ? MODEL_SIZE - at : REPL_PAGE_SIZE;
        bool differs = memcmp(m->points[a] + at, m->points[b] + at, size) != 0;
        if (differs && !within)
            begin = at;
        if (!differs && within)
            sprintf(text + strlen(text), "%20llu %20llu\n", (unsigned long long)begin,
                    (unsigned long long)(at - begin));
        within = differs;
    }
    if (within)
        sprintf(text + strlen(text), "%20llu %20llu\n", (unsigned long long)begin,
                (unsigned long long)(MODEL_SIZE - begin));
}

/* 1: full; 2: pages; 3: some of them as before, others anew, the last bytes; 4: more, 5: a full
 * again */
static void history_make(struct store_model *m)
{
    static uint8_t before[8 * KIB];
    model_begin(m, 0, 1, 0);
    model_data(m, 0, MIB);
    model_zero(m, MIB, MODEL_SIZE - MIB);
    model_end(m, true);
    memcpy(before, m->now + 64 * KIB, sizeof before);
    model_begin(m, 1, 2, 0);
    model_data(m, 4 * KIB, 4 * KIB);
    model_data(m, 64 * KIB, 8 * KIB);
    model_data(m, 2 * MIB, 64 * KIB);
    model_end(m, true);
    model_begin(m, 2, 3, 0);
    model_data(m, 8 * KIB, 4 * KIB);
    memcpy(m->now + 64 * KIB, before, sizeof before);
    model_frame(m, 64 * KIB, sizeof before);
    model_zero(m, 2 * MIB, 64 * KIB);
    model_data(m, 6 * MIB + 8 * KIB, 512);
    model_end(m, true);
    model_begin(m, 3, 4, 0);
    model_data(m, 128 * KIB, 4 * KIB);
    model_end(m, true);
    model_begin(m, 0, 5, 0);
    for (uint64_t at = 0; at < MODEL_SIZE; at += MIB)
        model_frame(m, at, MODEL_SIZE - at < MIB ? MODEL_SIZE - at : MIB);
    model_end(m, true);
}

static void test_written(void **state)
{
    struct store_model *m = *state;
    history_make(m);
    assert_int_equal(DIFF(m, "1", "2"), REPL_EXIT_OK);
    assert_string_equal(said.out, "                4096                 4096\n"
                                  "               65536                 8192\n"
                                  "             2097152                65536\n");
    assert_says("3 extents with 76 KiB differ, of 6.0 MiB; written since");
    assert_int_equal(DIFF(m, "3", "1"), REPL_EXIT_OK);
    assert_string_equal(said.out, "                4096                 8192\n"
                                  "               65536                 8192\n"
                                  "             2097152                65536\n"
                                  "             6299648                  512\n");
    assert_int_equal(DIFF(m, "2", "2"), REPL_EXIT_OK);
    assert_string_equal(said.out, "");
    assert_says("0 extents with 0 B differ");
}

static void test_compared(void **state)
{
    struct store_model *m = *state;
    char wanted[4096], at[2][8];
    history_make(m);
    for (uint64_t a = 1; a <= 5; a++) {
        for (uint64_t b = 1; b <= 5; b++) {
            snprintf(at[0], sizeof at[0], "%u", (unsigned)a);
            snprintf(at[1], sizeof at[1], "%u", (unsigned)b);
            assert_int_equal(DIFF(m, at[0], at[1], "--compare"), REPL_EXIT_OK);
            model_lines(m, a, b, wanted);
            assert_string_equal(said.out, wanted);
        }
    }
    assert_int_equal(DIFF(m, "1", "3", "--compare"), REPL_EXIT_OK);
    assert_says("16.5 KiB were read of both points and compared");
}

/* Across a full there is nothing that says what changed. */
static void test_full(void **state)
{
    struct store_model *m = *state;
    char wanted[4096];
    history_make(m);
    assert_int_equal(DIFF(m, "2", "5"), REPL_EXIT_OK);
    model_lines(m, 2, 5, wanted);
    assert_string_equal(said.out, wanted);
    assert_says("a full copy lies in between");
}

static int64_t number_of(const json_t *object, const char *key)
{
    const json_t *number = json_object_get(object, key);
    return json_is_integer(number) ? json_integer_value(number) : -12345;
}

static void test_json(void **state)
{
    struct store_model *m = *state;
    history_make(m);
    assert_int_equal(DIFF(m, "3", "1", "--json", "--compare"), REPL_EXIT_OK);
    json_t *all = json_loads(said.out, 0, NULL);
    assert_non_null(all);
    assert_int_equal(number_of(all, "schema"), 1);
    assert_string_equal(json_string_value(json_object_get(all, "volume")), MODEL_VOLUME);
    assert_string_equal(json_string_value(json_object_get(all, "kind")), "block");
    assert_int_equal(number_of(json_object_get(all, "a"), "seq"), 3);
    assert_int_equal(number_of(json_object_get(all, "b"), "seq"), 1);
    assert_int_equal(number_of(json_object_get(all, "b"), "time_ns"), model_end_ns(1));
    assert_int_equal(number_of(all, "a_volume_bytes"), MODEL_SIZE);
    assert_int_equal(number_of(all, "b_volume_bytes"), MODEL_SIZE);
    assert_true(json_is_true(json_object_get(all, "compared")));
    assert_int_equal(number_of(all, "compared_bytes"), 16 * KIB + 512);
    assert_int_equal(number_of(all, "extent_count"), 2);
    assert_int_equal(number_of(all, "changed_bytes"), 8 * KIB + 512);
    const json_t *extents = json_object_get(all, "extents");
    assert_int_equal(json_array_size(extents), 2);
    assert_int_equal(number_of(json_array_get(extents, 1), "offset"), 6 * MIB + 8 * KIB);
    assert_int_equal(number_of(json_array_get(extents, 1), "length"), 512);
    json_decref(all);

    assert_int_equal(DIFF(m, "2", "2", "--json"), REPL_EXIT_OK);
    all = json_loads(said.out, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(all, "extents")), 0);
    assert_true(json_is_false(json_object_get(all, "compared")));
    json_decref(all);
}

static void test_refused(void **state)
{
    struct store_model *m = *state;
    history_make(m);
    assert_int_equal(DIFF(m, "1"), REPL_EXIT_USAGE);
    assert_int_equal(DIFF(m, "1", "when?"), REPL_EXIT_USAGE);
    assert_says("repl diff: B: no point has the name");
    assert_int_equal(DIFF(m, "77", "2"), REPL_EXIT_CORRUPT);
    assert_string_equal(said.out, "");
}

static void size_point(struct store_model *m, uint64_t to, uint64_t size)
{
    m->size = size;
    model_begin(m, to - 1, to, 0);
    if (to == 1)
        model_zero(m, 0, size);
    else
        model_data(m, 0, 4 * KIB);
    if (to == 2)
        model_zero(m, MIB, size - MIB);
}

static void test_resized(void **state)
{
    struct store_model *m = *state;
    const char *const wanted = "                   0                 4096\n"
                               "             1048576              1048576\n";
    size_point(m, 1, MIB);
    model_end(m, true);
    size_point(m, 2, 2 * MIB);
    model_end(m, true);
    assert_int_equal(DIFF(m, "1", "2"), REPL_EXIT_OK);
    assert_string_equal(said.out, wanted);
    assert_says("the volume had 1048576 bytes, and then 2097152");
    assert_int_equal(DIFF(m, "1", "2", "--compare"), REPL_EXIT_OK);
    assert_string_equal(said.out, wanted);
    size_point(m, 3, MIB); /* the rest is gone */
    model_end(m, true);
    assert_int_equal(DIFF(m, "2", "3"), REPL_EXIT_OK);
    assert_string_equal(said.out, "                   0                 4096\n");
    size_point(m, 4, MIB); /* what the log says is another size */
    m->size = 2 * MIB;
    model_end(m, true);
    assert_int_equal(DIFF(m, "3", "4"), REPL_EXIT_CORRUPT);
    assert_says("the volume has 1048576 bytes by its segments, and 2097152 by its log");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_written, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_compared, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_json, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_resized, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("diff_block", tests, NULL, NULL);
}
