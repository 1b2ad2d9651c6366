/*
 * Volumes of one pool in a store without a site: a point is read of which another volume holds
 * chunks, and it is said which could not be had.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "recover/history.h"
#include "recover/verify_history.h"
#include "unit/agent/recover/store_model.h"

#define SHARED 6u /* chunks that the one has and the other refers to */

struct fixture {
    struct store_model first, second;
    uint8_t shared[SHARED][REPL_CHUNK_SIZE];
    struct repl_digest names[SHARED];
    struct repl_history *history;
    char findings[4096];
    struct repl_error err;
};

/* Two segments, and a supply with the last chunk. */
static void first_fill(struct fixture *f)
{
    struct store_model *m = &f->first;
    model_begin(m, 0, 1, 0);
    model_zero(m, 0, MODEL_SIZE);
    for (size_t i = 0; i < SHARED - 1; i++) {
        if (i == 3) {
            model_end(m, true);
            model_begin(m, 1, 2, 0);
        }
        f->names[i] = model_chunk(m, (i + 1) * MODEL_MIB);
        memcpy(f->shared[i], m->now + (i + 1) * MODEL_MIB, REPL_CHUNK_SIZE);
    }
    model_end(m, true);
    random_fill(&m->random, f->shared[SHARED - 1], REPL_CHUNK_SIZE);
    f->names[SHARED - 1] = model_supply(m, 3, f->shared[SHARED - 1]);
}

/* Refers to all of them, in another order, and has bytes of its own. */
static void second_fill(struct fixture *f)
{
    struct store_model *m = &f->second;
    model_begin(m, 0, 1, 0);
    model_zero(m, 0, MODEL_SIZE);
    model_data(m, 2 * MODEL_MIB, MODEL_MIB);
    for (size_t i = 0; i < SHARED; i++)
        model_refer(m, (SHARED - i) * 3 * REPL_CHUNK_SIZE, &f->names[i], f->shared[i]);
    model_end(m, true);
}

static void reopen(struct fixture *f)
{
    struct repl_origin *origin;
    repl_history_close(f->history);
    f->history = NULL;
    if (!repl_ok(model_origin_open(f->first.path, "web", &origin, &f->err)) ||
        !repl_ok(repl_history_open(origin, &f->history, &f->err)))
        fail_msg("%s", f->err.text);
}

static void begin(void **state, const char *of_first, const char *of_second)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    model_init(&f->first);
    if (of_first != NULL)
        model_pool(&f->first, of_first);
    model_init_beside(&f->second, &f->first, "web");
    if (of_second != NULL)
        model_pool(&f->second, of_second);
    first_fill(f);
    second_fill(f);
    reopen(f);
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_history_close(f->history);
    model_fini(&f->second);
    model_fini(&f->first);
    free(f);
    return 0;
}

static enum repl_code read_point(struct fixture *f)
{
    struct repl_view *view;
    struct repl_view_reader *reader;
    uint8_t *bytes = malloc(MODEL_SIZE);
    repl_result result = repl_history_view(f->history, 0, &view, &f->err);
    assert_true(repl_ok(result));
    assert_true(repl_ok(repl_view_reader_new(view, 4, &reader, &f->err)));
    result = repl_view_read(reader, 0, bytes, MODEL_SIZE, &f->err);
    if (repl_ok(result))
        assert_memory_equal(bytes, f->second.points[1], MODEL_SIZE);
    repl_view_reader_free(reader);
    repl_view_free(view);
    free(bytes);
    return result.code;
}

static void finding(void *context, const char *text)
{
    struct fixture *f = context;
    size_t used = strlen(f->findings);
    snprintf(f->findings + used, sizeof f->findings - used, "%s\n", text);
}

static uint64_t damaged_count(struct fixture *f)
{
    struct repl_verify_result result;
    const struct repl_verify_options options = {
        .history = f->history, .threads = 2, .finding = finding, .context = f};
    f->findings[0] = '\0';
    assert_true(repl_ok(repl_verify_history(&options, &result, &f->err)));
    uint64_t count = result.damaged_count;
    repl_verify_result_fini(&result);
    return count;
}

static void what_another_volume_holds_is_read(void **state)
{
    begin(state, "acme", "acme");
    struct fixture *f = *state;
    assert_int_equal(read_point(f), REPL_OK);
    assert_int_equal(damaged_count(f), 0);
    assert_string_equal(f->findings, "");
}

static void other_pools_are_not_looked_into(void **state)
{
    static const char *const pools[][2] = {{"acme", "other"}, {NULL, "acme"}, {"acme", NULL}};
    for (size_t i = 0; i < 3; i++) {
        begin(state, pools[i][0], pools[i][1]);
        struct fixture *f = *state;
        assert_int_equal(read_point(f), REPL_E_MISSING);
        assert_non_null(strstr(f->err.text, "is in no segment of the"));
        assert_int_equal(damaged_count(f), 1);
        assert_non_null(strstr(f->findings, "segment 1.0: chunk "));
        if (i < 2)
            tear_down(state);
    }
}

/* One of two segments that hold what is needed. */
static void what_is_damaged_elsewhere_is_named(void **state)
{
    char path[400];
    begin(state, "acme", "acme");
    struct fixture *f = *state;
    model_segment_path(&f->first, 2, 0, path);
    flip_bit(path, 200);
    assert_int_equal(read_point(f), REPL_E_MISSING);
    assert_non_null(strstr(f->err.text, "volume data, segment 2.0"));
    assert_int_equal(damaged_count(f), 1);
    assert_non_null(strstr(f->findings, "volume data, segment 2.0"));
    assert_int_equal(truncate(path, 100), 0); /* its list cannot be read either */
    reopen(f);
    assert_int_equal(read_point(f), REPL_E_MISSING);
    assert_non_null(strstr(f->err.text, "1 cannot, the first: volume data, segment 2.0"));
}

/* Two copies: the one that is whole is found. */
static void a_second_copy_is_as_good(void **state)
{
    char path[400];
    begin(state, "acme", "acme");
    struct fixture *f = *state;
    struct store_model third;
    model_init_beside(&third, &f->first, "again");
    model_pool(&third, "acme");
    model_begin(&third, 0, 1, 0);
    model_zero(&third, 0, MODEL_SIZE);
    for (size_t i = 3; i < SHARED - 1; i++) {
        memcpy(third.now + i * MODEL_MIB, f->shared[i], REPL_CHUNK_SIZE);
        model_list(&third, f->shared[i], model_frame(&third, i * MODEL_MIB, REPL_CHUNK_SIZE));
    }
    model_end(&third, true);
    model_segment_path(&f->first, 2, 0, path);
    flip_bit(path, 200);
    reopen(f);
    assert_int_equal(read_point(f), REPL_OK);
    assert_int_equal(damaged_count(f), 0);
    model_fini(&third);
}

/* Asked in the place of the lists: nothing of a pool is in the log here. */
static repl_result find(void *context, const struct repl_digest *name,
                        struct repl_placed_chunk *out, bool *found, struct repl_error *err)
{
    const struct fixture *f = context;
    (void)err;
    for (size_t i = 0; i < SHARED; i++) {
        if (memcmp(&f->names[i], name, sizeof *name) != 0)
            continue;
        *found = i != 5 || f->findings[0] == '\0';
        out->segment = (struct repl_segment_id){.to_seq = i < 3   ? 1
                                                          : i < 5 ? 2
                                                                  : 3,
                                                .supply = i == 5};
        out->frame = i < 3 ? (uint32_t)i : i < 5 ? (uint32_t)i - 3 : 0;
        out->frame_offset = 0;
        snprintf(out->volume, sizeof out->volume, "data");
    }
    return REPL_SUCCESS;
}

static void whoever_knows_is_asked(void **state)
{
    struct repl_origin *origin;
    begin(state, NULL, NULL);
    struct fixture *f = *state;
    repl_history_close(f->history);
    assert_true(repl_ok(repl_origin_of_store(f->first.store, "web", find, f, &origin, &f->err)));
    assert_true(repl_ok(repl_history_open(origin, &f->history, &f->err)));
    assert_int_equal(read_point(f), REPL_OK);
    repl_history_close(f->history);
    f->findings[0] = 'x'; /* of the supply it does not know any more */
    assert_true(repl_ok(repl_origin_of_store(f->first.store, "web", find, f, &origin, &f->err)));
    assert_true(repl_ok(repl_history_open(origin, &f->history, &f->err)));
    assert_int_equal(read_point(f), REPL_E_MISSING);
    assert_non_null(strstr(f->err.text, "nowhere in the pool"));
}

#define TEST(function) cmocka_unit_test_teardown(function, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_another_volume_holds_is_read),
        TEST(other_pools_are_not_looked_into),
        TEST(what_is_damaged_elsewhere_is_named),
        TEST(a_second_copy_is_as_good),
        TEST(whoever_knows_is_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
