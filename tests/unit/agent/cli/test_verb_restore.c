/*
 * repl restore as a person gives it, of a store made by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "recover/origin.h"
#include "unit/agent/recover/store_model.h"
#include "unit/agent/recover/verb_output.h"

struct fixture {
    struct store_model model;
    struct verb_output said;
    char target[300], state[300];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    model_init(&f->model);
    snprintf(f->target, sizeof f->target, "%s/target", f->model.temporary.path);
    snprintf(f->state, sizeof f->state, "%s/state", f->model.temporary.path);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    model_fini(&f->model);
    free(f);
    return 0;
}

#define RESTORE(f, ...)                                                                            \
    verb_output(&repl_verb_restore, &(f)->said,                                                    \
                (const char *const[]){"--store", (f)->model.path, "--state", (f)->state,           \
                                      __VA_ARGS__, NULL})

static void assert_code(const struct fixture *f, int code, int wanted)
{
    if (code != wanted)
        fail_msg("exit code %d, not %d: %s", code, wanted, f->said.err);
}

static void assert_says(const struct fixture *f, const char *text)
{
    if (strstr(f->said.err, text) == NULL)
        fail_msg("\"%s\" is not in: %s", text, f->said.err);
}

static void assert_content(const struct fixture *f, uint64_t seq, const char *path)
{
    uint8_t *bytes = malloc(MODEL_SIZE);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, bytes, MODEL_SIZE), MODEL_SIZE);
    close(fd);
    assert_memory_equal(bytes, f->model.points[seq], MODEL_SIZE);
    free(bytes);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A full with 2 MiB of data, and its size. */
static double full_make(struct store_model *m, uint64_t seq)
{
    char path[400];
    struct stat status;
    model_begin(m, 0, seq, 0);
    model_data(m, 0, MODEL_MIB);
    model_zero(m, MODEL_MIB, MODEL_MIB);
    model_data(m, 2 * MODEL_MIB, MODEL_MIB);
    model_zero(m, 3 * MODEL_MIB, MODEL_SIZE - 3 * MODEL_MIB);
    model_end(m, true);
    model_segment_path(m, seq, 0, path);
    assert_int_equal(stat(path, &status), 0);
    return (double)status.st_size;
}

/* With any number of threads it takes as long as its bytes take: what was saved up is a quarter of
 * a second's. */
static void test_bandwidth(void **state)
{
    struct fixture *f = *state;
    double least_s = full_make(&f->model, 1) / (4.0 * (double)MODEL_MIB) - 0.25;
    double begin_s = now_s();
    assert_code(f, RESTORE(f, "data", "--at=1", "--to", f->target, "--bandwidth=4M", "--threads=4"),
                REPL_EXIT_OK);
    assert_true(least_s > 0.2);
    assert_true(now_s() - begin_s > least_s);
    assert_content(f, 1, f->target);

    assert_code(f, RESTORE(f, "data", "--at=1", "--to", f->target, "--bandwidth=fast"),
                REPL_EXIT_USAGE);
    assert_says(f, "--bandwidth: \"fast\" is not a size");
    assert_code(f, RESTORE(f, "data", "--at=1", "--to", f->target, "--bandwidth=5"),
                REPL_EXIT_USAGE);
    assert_says(f, "16 KiB to 64 GiB");
}

static void test_without_options(void **state)
{
    struct fixture *f = *state;
    full_make(&f->model, 1);
    assert_code(f, RESTORE(f, "data"), REPL_EXIT_USAGE);
    assert_says(f, "--to is missing");
    assert_code(f, RESTORE(f, "data", "--to", f->target, "--at=the day of"), REPL_EXIT_USAGE);
    assert_says(f, "--at: ");
    assert_code(f, RESTORE(f, "data", "--to", f->target), REPL_EXIT_OK);
    assert_says(f, "point 1");
    assert_string_equal(f->said.out, "");
    assert_content(f, 1, f->target);
}

#define VERB_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        VERB_TEST(test_bandwidth),
        VERB_TEST(test_without_options),
    };
    return cmocka_run_group_tests_name("verb_restore", tests, NULL, NULL);
}
