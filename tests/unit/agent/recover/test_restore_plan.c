/*
 * What a restore of a block volume says it would do (--dry-run), against a
 * store made by hand, and that it does nothing else.
 */
#include <dirent.h>
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

struct fixture {
    struct store_model model;
    char target[300], state[300];
};

static struct verb_output said;

#define RESTORE(f, ...)                                                                            \
    verb_output(&repl_verb_restore, &said,                                                         \
                (const char *const[]){MODEL_VOLUME, "--store", (f)->model.path, "--to",            \
                                      (f)->target, "--state", (f)->state, __VA_ARGS__, NULL})

/* Random bytes are stored as they are, so what has to be fetched is known.
 * 1: 2 MiB of data, the rest zeros; 2: 4 KiB of it anew; 3: the second MiB anew, all of it; 4: as
 * 3, but the first is zeros */
static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct store_model *m = &f->model;
    *state = f;
    model_init(m);
    snprintf(f->target, sizeof f->target, "%s/target", m->temporary.path);
    snprintf(f->state, sizeof f->state, "%s/state", m->temporary.path);
    model_begin(m, 0, 1, 0);
    model_data(m, 0, MIB);
    model_zero(m, MIB, MIB);
    model_data(m, 2 * MIB, MIB);
    model_zero(m, 3 * MIB, MODEL_SIZE - 3 * MIB);
    model_end(m, true);
    model_begin(m, 1, 2, 0);
    model_data(m, 64 * KIB, 4 * KIB);
    model_end(m, true);
    model_begin(m, 2, 3, 0);
    model_data(m, 2 * MIB, MIB);
    model_end(m, true);
    model_begin(m, 3, 4, 0);
    model_zero(m, 0, MIB);
    model_end(m, true);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    model_fini(&f->model);
    free(f);
    return 0;
}

static json_t *said_json(void)
{
    json_error_t error;
    json_t *json = json_loads(said.out, 0, &error);
    if (json == NULL)
        fail_msg("%s: %s", error.text, said.out);
    return json;
}

static void assert_number(const json_t *json, const char *key, uint64_t value)
{
    const json_t *member = json_object_get(json, key);
    if (!json_is_integer(member) || (uint64_t)json_integer_value(member) != value)
        fail_msg("%s is not %llu: %s", key, (unsigned long long)value, said.out);
}

static void assert_says(const char *text, const char *part)
{
    if (strstr(text, part) == NULL)
        fail_msg("\"%s\" is not in: %s", part, text);
}

/* Nothing was made beside the store. */
static void assert_nothing_made(const struct fixture *f)
{
    DIR *listing = opendir(f->model.temporary.path);
    assert_non_null(listing);
    for (struct dirent *entry; (entry = readdir(listing)) != NULL;) {
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, "store") != 0)
            fail_msg("there is %s", entry->d_name);
    }
    closedir(listing);
}

static void test_fetch(void **state)
{
    static const struct {
        const char *at;
        uint64_t fetch, data;
    } cases[] = {
        {"1", 2 * MIB, 2 * MIB},
        {"2", 2 * MIB + 4 * KIB, 2 * MIB},
        {"3", 2 * MIB + 4 * KIB, 2 * MIB},
        {"4", MIB, MIB},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(RESTORE(f, "--at", cases[i].at, "--dry-run", "--json"), REPL_EXIT_OK);
        json_t *plan = said_json();
        assert_number(plan, "schema", 1);
        assert_true(json_is_true(json_object_get(plan, "dry_run")));
        assert_number(json_object_get(plan, "point"), "seq", i + 1);
        assert_number(plan, "volume_bytes", MODEL_SIZE);
        assert_number(plan, "data_bytes", cases[i].data);
        assert_number(plan, "write_bytes", cases[i].data);
        assert_number(plan, "fetch_bytes", cases[i].fetch);
        assert_number(plan, "done_bytes", 0);
        assert_string_equal(json_string_value(json_object_get(plan, "fetch_rate_from")),
                            "measured");
        assert_true(json_integer_value(json_object_get(plan, "fetch_ns")) > 0);
        assert_true(json_is_null(json_object_get(plan, "read_back_ns")));
        json_decref(plan);
    }
    assert_nothing_made(f);
}

static void test_words(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(RESTORE(f, "--at", "2", "--dry-run", "--bandwidth", "1M"), REPL_EXIT_OK);
    assert_says(said.out, "point     2, ");
    assert_says(said.out, "consistency: crash, cut: ");
    assert_says(said.out, "/target, which is made\n");
    assert_says(said.out, "writes    2 MiB of data");
    assert_says(said.out, "fetches   2.0 MiB, as it is stored");
    assert_says(said.out, "to fetch: 2.0 s, at 1 MiB/s (--bandwidth)");
    assert_says(said.out, "to read back: not known before");
    assert_null(strstr(said.err, "restored"));
    assert_nothing_made(f);
}

static void file_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* What a restore refuses, a dry run refuses with the same words and exit code. */
static void test_refusals(void **state)
{
    struct fixture *f = *state;
    char words[sizeof said.err];
    int code;
    file_write(f->target, "kept");
    code = RESTORE(f, "--at", "1", "--dry-run");
    assert_int_equal(code, REPL_EXIT_REFUSED);
    strcpy(words, said.err);
    assert_int_equal(RESTORE(f, "--at", "1"), code);
    assert_string_equal(said.err, words);
    assert_string_equal(said.out, "");
    assert_int_equal(RESTORE(f, "--at", "1", "--dry-run", "--overwrite"), REPL_EXIT_OK);
    char kept[8] = "";
    FILE *file = fopen(f->target, "re");
    assert_non_null(fgets(kept, sizeof kept, file));
    fclose(file);
    assert_string_equal(kept, "kept");

    snprintf(f->target, sizeof f->target, "%s/none/target", f->model.temporary.path);
    code = RESTORE(f, "--at", "1", "--dry-run");
    strcpy(words, said.err);
    assert_int_equal(RESTORE(f, "--at", "1"), code);
    assert_string_equal(said.err, words);
    assert_says(words, "cannot make");
    assert_int_equal(RESTORE(f, "--at", "99", "--dry-run"), REPL_EXIT_CORRUPT);
    assert_int_equal(RESTORE(f, "--dry-run", "--delete"), REPL_EXIT_USAGE);
}

/* A frame that a restore needs and that is damaged is found out while its rate is measured. */
static void test_unfinished(void **state)
{
    struct fixture *f = *state;
    char path[400];
    model_segment_path(&f->model, 3, 0, path);
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);
    assert_int_equal(RESTORE(f, "--at", "3", "--dry-run"), REPL_EXIT_CORRUPT);
    assert_nothing_made(f);
    assert_int_equal(RESTORE(f, "--at", "3", "--threads", "1"), REPL_EXIT_CORRUPT);
    flip_bit(path, REPL_SEGMENT_HEADER_SIZE + 100);

    assert_int_equal(RESTORE(f, "--at", "3", "--dry-run", "--json"), REPL_EXIT_OK);
    json_t *plan = said_json();
    assert_true(json_is_true(json_object_get(plan, "resumed")));
    assert_number(plan, "done_bytes", 2 * MIB);
    assert_number(plan, "write_bytes", MIB);
    assert_number(plan, "fetch_bytes", MIB);
    assert_true(json_integer_value(json_object_get(plan, "read_back_ns")) > 0);
    json_decref(plan);
    assert_int_equal(RESTORE(f, "--at", "2", "--dry-run"), REPL_EXIT_REFUSED);
    assert_says(said.err, "unfinished restore of point 3");

    assert_int_equal(RESTORE(f, "--at", "3", "--json"), REPL_EXIT_OK);
    json_t *result = said_json();
    assert_true(json_is_false(json_object_get(result, "dry_run")));
    assert_true(json_is_true(json_object_get(result, "resumed")));
    assert_number(result, "verified_bytes", MODEL_SIZE);
    assert_number(result, "data_bytes", 2 * MIB);
    assert_number(result, "rewritten_bytes", 0);
    json_decref(result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fetch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_words, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unfinished, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
