/*
 * Directories of trees listed out of a store directory, by the verb: what it
 * prints, for people and for machines, and what it refuses.
 */
#include <time.h>

#include "unit/agent/recover/tree_model.h"
#include "unit/agent/recover/verb_output.h"

#define FAR 5000u /* an object far from the others */

static struct verb_output said;

#define LS(f, ...)                                                                                 \
    verb_output(&repl_verb_ls, &said,                                                              \
                (const char *const[]){"--store", (f)->model.path, __VA_ARGS__, NULL})

static int set_up_utc(void **state)
{
    setenv("TZ", "UTC", 1);
    tzset();
    return set_up(state);
}

static void assert_listed(struct fixture *f, const char *what, const char *at, const char *wanted)
{
    if (LS(f, what, "--at", at) != REPL_EXIT_OK)
        fail_msg("%s: %s", what, said.err);
    assert_string_equal(said.out, wanted);
}

static void assert_says(const char *text)
{
    if (strstr(said.err, text) == NULL)
        fail_msg("\"%s\" is not in: %s", text, said.err);
}

/* What changed in later segments: a name moved, one gone, one given again, an object gone. */
static void second_make(struct fixture *f)
{
    point_begin(f, 1, 2);
    node(f, 2, directory_node);
    NAMES(f, 2, {"file", 0}, {"empty", FAR}, {"fifo", 0}, {"later", 4});
    NAMES(f, 5, {"moved", 3});
    node(f, 7, (struct repl_node){.kind = REPL_NODE_GONE});
    node(f, FAR, file_node(77));
    point_end(f);
}

static void test_names(void **state)
{
    struct fixture *f = *state;
    char top[600];
    full_make(f, 1);
    second_make(f);
    snprintf(top, sizeof top,
             "block\nchar\ndir\nempty\nfifo\nfile\nhard\nlink\n%s\nprivate\n"
             "sock\nsparse\n\\xff\\xfe\\x1b[2J\n",
             name_255);
    assert_listed(f, MODEL_VOLUME, "1", top);
    assert_says("point 1");
    assert_listed(f, MODEL_VOLUME ":/./", "1", top);
    assert_listed(f, MODEL_VOLUME ":dir", "1", "below\nhard\n");
    assert_listed(f, MODEL_VOLUME ":dir/", "2", "below\nhard\nmoved\n");
    assert_listed(f, MODEL_VOLUME ":private", "2", "");
    assert_listed(f, MODEL_VOLUME ":dir/moved", "2", "moved\n");
    assert_listed(f, MODEL_VOLUME ":\xff\xfe\x1b[2J", "2", "\\xff\\xfe\\x1b[2J\n");
    snprintf(top, sizeof top,
             "block\nchar\ndir\nempty\nhard\nlater\nlink\n%s\nprivate\n"
             "sock\nsparse\n\\xff\\xfe\\x1b[2J\n",
             name_255);
    assert_listed(f, MODEL_VOLUME, "latest", top);
}

static void test_long(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    assert_int_equal(LS(f, MODEL_VOLUME ":dir", "-l"), REPL_EXIT_OK);
    assert_string_equal(
        said.out,
        "-rw-r--r--          0          0               300000  2023-11-14 22:13:20.123 +0000  "
        "below\n"
        "-rwsr-xr-x       1000        100                10000  2023-11-14 22:13:20.123 +0000  "
        "hard\n");
    assert_int_equal(LS(f, MODEL_VOLUME, "-l"), REPL_EXIT_OK);
    static const char *const lines[] = {
        "brw-------          0          0                 7,99  2023-11-14 22:13:20.123 +0000  "
        "block\n",
        "drwxrwsrwt          0          7                    0  2023-11-14 22:13:20.123 +0000  "
        "dir\n",
        "lrwxrwxrwx          5          0                    0  2023-11-14 22:13:20.123 +0000  "
        "link -> ../nowhere\n",
        "prw-r-----          0          0                    0  2023-11-14 22:13:20.123 +0000  "
        "fifo\n",
        "drwx------          0          0                    0  1969-12-31 23:59:59.999 +0000  "
        "private\n",
    };
    for (unsigned i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        if (strstr(said.out, lines[i]) == NULL)
            fail_msg("%s is not in:\n%s", lines[i], said.out);
    }
}

static void test_recursive(void **state)
{
    struct fixture *f = *state;
    char all[600];
    full_make(f, 1);
    second_make(f);
    assert_int_equal(LS(f, MODEL_VOLUME, "--recursive"), REPL_EXIT_OK);
    snprintf(all, sizeof all,
             "block\nchar\ndir\ndir/below\ndir/hard\ndir/moved\nempty\nhard\n"
             "later\nlink\n%s\nprivate\nsock\nsparse\n\\xff\\xfe\\x1b[2J\n",
             name_255);
    assert_string_equal(said.out, all);
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "none";
}

static int64_t number_of(const json_t *object, const char *key)
{
    const json_t *number = json_object_get(object, key);
    return json_is_integer(number) ? json_integer_value(number) : -12345;
}

static void test_json(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    assert_int_equal(LS(f, MODEL_VOLUME, "--json"), REPL_EXIT_OK);
    json_t *all = json_loads(said.out, 0, NULL);
    assert_non_null(all);
    assert_int_equal(number_of(all, "schema"), 1);
    assert_string_equal(text_of(all, "volume"), MODEL_VOLUME);
    assert_string_equal(text_of(all, "path"), "");
    const json_t *point = json_object_get(all, "point");
    assert_int_equal(number_of(point, "seq"), 1);
    assert_int_equal(number_of(point, "time_ns"), model_end_ns(1));
    assert_string_equal(text_of(point, "time"), "2026-05-04T10:17:10.000Z");
    const json_t *entries = json_object_get(all, "entries");
    assert_int_equal(json_array_size(entries), 13);
    const json_t *entry = json_array_get(entries, 12);
    assert_string_equal(text_of(entry, "path"), "\\xff\\xfe\\x1b[2J");
    assert_string_equal(text_of(entry, "path_hex"), "fffe1b5b324a");
    entry = json_array_get(entries, 0);
    assert_string_equal(text_of(entry, "type"), "block");
    assert_int_equal(number_of(entry, "major"), 7);
    assert_int_equal(number_of(entry, "minor"), 99);
    entry = json_array_get(entries, 5);
    assert_string_equal(text_of(entry, "path"), "file");
    assert_null(json_object_get(entry, "path_hex"));
    assert_string_equal(text_of(entry, "type"), "file");
    assert_string_equal(text_of(entry, "mode"), "4755");
    assert_int_equal(number_of(entry, "uid"), 1000);
    assert_int_equal(number_of(entry, "gid"), 100);
    assert_int_equal(number_of(entry, "size"), 10000);
    assert_int_equal(number_of(entry, "object"), 3);
    assert_int_equal(number_of(entry, "mtime_ns"), TIME + 3);
    assert_string_equal(text_of(entry, "mtime"), "2023-11-14T22:13:20.123Z");
    assert_string_equal(text_of(json_array_get(entries, 7), "target"), "../nowhere");
    json_decref(all);

    assert_int_equal(LS(f, MODEL_VOLUME ":private", "--json"), REPL_EXIT_OK);
    all = json_loads(said.out, 0, NULL);
    assert_int_equal(json_array_size(json_object_get(all, "entries")), 0);
    json_decref(all);
}

/* So many directories, far from one another, that not each is read by itself. */
static void test_scattered(void **state)
{
    struct fixture *f = *state;
    enum { COUNT = 300 };
    static char text[COUNT][8];
    struct tree_name of[COUNT];
    char wanted[COUNT * 16] = "";
    for (unsigned i = 0; i < COUNT; i++) {
        snprintf(text[i], sizeof text[i], "d%03u", i);
        of[i] = (struct tree_name){text[i], 10 + i * 1000};
        sprintf(wanted + strlen(wanted), "%s\n%s/x\n", text[i], text[i]);
    }
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    names(f, 2, of, COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        node(f, 10 + i * 1000, directory_node);
        NAMES(f, 10 + i * 1000, {"x", 11 + i * 1000});
        node(f, 11 + i * 1000, file_node(0));
        node(f, 12 + i * 1000, file_node(0)); /* of no name */
    }
    point_end(f);
    assert_int_equal(LS(f, MODEL_VOLUME, "--recursive"), REPL_EXIT_OK);
    assert_string_equal(said.out, wanted);
}

static void test_senseless(void **state)
{
    struct fixture *f = *state;
    point_begin(f, 0, 1);
    node(f, 2, directory_node);
    NAMES(f, 2, {"a", 3}, {"nothing", 9});
    node(f, 3, directory_node);
    NAMES(f, 3, {"b", 4});
    node(f, 4, directory_node);
    NAMES(f, 4, {"a", 3});
    point_end(f);
    assert_int_equal(LS(f, MODEL_VOLUME, "--recursive", "-l"), REPL_EXIT_CORRUPT);
    assert_non_null(strstr(said.out, "a/b/a\n"));
    assert_null(strstr(said.out, "a/b/a/"));
    assert_non_null(strstr(said.out, "?---------"));
    assert_says("1 names lead to nothing that the point has, 1 directories are in themselves");
    assert_int_equal(LS(f, MODEL_VOLUME), REPL_EXIT_OK);
    assert_string_equal(said.out, "a\nnothing\n");
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    assert_int_equal(LS(f, MODEL_VOLUME ":dir/none/x"), REPL_EXIT_CORRUPT);
    assert_says("the point has no dir/none: ");
    assert_int_equal(LS(f, MODEL_VOLUME ":file/x"), REPL_EXIT_CORRUPT);
    assert_says("the point has no file/x: ");
    assert_int_equal(LS(f, MODEL_VOLUME ":link/x"), REPL_EXIT_USAGE);
    assert_says("link is a symbolic link, and none is followed: name what it leads to "
                "(../nowhere)");
    assert_int_equal(LS(f, MODEL_VOLUME ":dir/.."), REPL_EXIT_USAGE);
    assert_int_equal(LS(f, MODEL_VOLUME, "--at", "when?"), REPL_EXIT_USAGE);
    assert_int_equal(LS(f, MODEL_VOLUME, "--at", "2"), REPL_EXIT_CORRUPT);
    assert_string_equal(said.out, "");

    const char *const diff[] = {"--store", f->model.path, "--compare", MODEL_VOLUME,
                                "1",       "1",           NULL};
    assert_int_equal(verb_output(&repl_verb_diff, &said, diff), REPL_EXIT_USAGE);
    assert_says(MODEL_VOLUME " is a directory tree");

    f->model.kind = REPL_VOLUME_BLOCK;
    model_begin(&f->model, 0, 2, 0);
    model_zero(&f->model, 0, MODEL_SIZE);
    model_end(&f->model, true);
    assert_int_equal(LS(f, MODEL_VOLUME, "--at", "2"), REPL_EXIT_REFUSED);
    assert_says(MODEL_VOLUME " is a block volume, which has no names");
}

/* What is printed and cannot be written is no success. */
static void test_full_output(void **state)
{
    struct fixture *f = *state;
    full_make(f, 1);
    FILE *full = fopen("/dev/full", "we");
    assert_non_null(full);
    int saved = dup(STDOUT_FILENO);
    char store[400];
    snprintf(store, sizeof store, "--store=%s", f->model.path);
    char *argv[] = {(char *)(uintptr_t) "ls", (char *)(uintptr_t)MODEL_VOLUME, store, NULL};
    verb_options_reset(&repl_verb_ls);
    fflush(stdout);
    dup2(fileno(full), STDOUT_FILENO);
    int exit_code = repl_verb_dispatch(&repl_verb_ls, 3, argv);
    clearerr(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    fclose(full);
    assert_int_equal(exit_code, REPL_EXIT_RETRY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names, set_up_utc, tear_down),
        cmocka_unit_test_setup_teardown(test_long, set_up_utc, tear_down),
        cmocka_unit_test_setup_teardown(test_recursive, set_up_utc, tear_down),
        cmocka_unit_test_setup_teardown(test_json, set_up_utc, tear_down),
        cmocka_unit_test_setup_teardown(test_scattered, set_up_utc, tear_down),
        cmocka_unit_test_setup_teardown(test_senseless, set_up_utc, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up_utc, tear_down),
        cmocka_unit_test_setup_teardown(test_full_output, set_up_utc, tear_down),
    };
    return cmocka_run_group_tests_name("tree_list", tests, NULL, NULL);
}
