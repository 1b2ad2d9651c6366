/*
 * One point of a block volume, read at random and by several threads.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "recover/point_reader.h"
#include "unit/agent/recover/store_model.h"

#define THREADS (2 * REPL_POINT_SEATS)
#define READS   60u

struct fixture {
    struct store_model model;
    struct repl_history *history;
    struct repl_point_reader *reader;
    struct repl_error err;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct repl_origin *origin;
    *state = f;
    model_init(&f->model);
    model_fill(&f->model);
    if (!repl_ok(model_origin_open(f->model.path, MODEL_VOLUME, &origin, &f->err)) ||
        !repl_ok(repl_history_open(origin, &f->history, &f->err)))
        fail_msg("%s", f->err.text);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_point_close(f->reader);
    repl_history_close(f->history);
    model_fini(&f->model);
    free(f);
    return 0;
}

static void open_point(struct fixture *f, uint64_t seq, uint64_t cache_bytes)
{
    const struct repl_point_options options = {
        .history = f->history, .point = (size_t)seq - 1, .cache_bytes = cache_bytes};
    repl_point_close(f->reader);
    f->reader = NULL;
    if (!repl_ok(repl_point_open(&options, &f->reader, &f->err)))
        fail_msg("%s", f->err.text);
    assert_int_equal(repl_point_size(f->reader), MODEL_SIZE);
}

static void assert_range(struct fixture *f, uint64_t seq, uint64_t offset, size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    assert_non_null(bytes);
    bytes[size] = 0xa5;
    if (!repl_ok(repl_point_read(f->reader, offset, bytes, size, &f->err)))
        fail_msg("%s", f->err.text);
    assert_memory_equal(bytes, f->model.points[seq] + offset, size);
    assert_int_equal(bytes[size], 0xa5);
    free(bytes);
}

static void test_ranges(void **state)
{
    struct fixture *f = *state;
    for (uint64_t seq = 1; seq <= MODEL_LAST; seq++) {
        open_point(f, seq, 0);
        assert_range(f, seq, 0, MODEL_SIZE);
        assert_range(f, seq, 0, 1);
        assert_range(f, seq, MODEL_SIZE - 1, 1);
        assert_range(f, seq, MODEL_SIZE, 0);
        assert_range(f, seq, 3 * MODEL_MIB - 5000, 10001);
        assert_range(f, seq, 5 * MODEL_MIB - 1, REPL_CHUNK_SIZE + 2);
    }
}

static void test_kind(void **state)
{
    struct fixture *f = *state;
    enum repl_volume_kind kind = REPL_VOLUME_TREE;
    assert_true(repl_ok(repl_point_kind(f->history, 2, &kind, &f->err)));
    assert_int_equal(kind, REPL_VOLUME_BLOCK);
}

/* What is no data by the manifests is zeros, and what is found by seeking is what is there. */
static void test_seek(void **state)
{
    static const uint8_t zeros[MODEL_MIB];
    struct fixture *f = *state;
    open_point(f, 2, 0);
    const uint64_t hole = MODEL_MIB + 6 * REPL_CHUNK_SIZE, written = 3 * MODEL_MIB - REPL_PAGE_SIZE;
    assert_int_equal(repl_point_seek(f->reader, 0, true), 0);
    assert_int_equal(repl_point_seek(f->reader, 0, false), hole);
    assert_int_equal(repl_point_seek(f->reader, hole + 1, false), hole + 1);
    assert_int_equal(repl_point_seek(f->reader, hole + 1, true), written);
    assert_int_equal(repl_point_seek(f->reader, written, false), written + 2 * REPL_PAGE_SIZE);
    assert_int_equal(repl_point_seek(f->reader, 4 * MODEL_MIB, true), 5 * MODEL_MIB);
    assert_memory_equal(f->model.points[2] + 4 * MODEL_MIB, zeros, MODEL_MIB);
    assert_int_equal(repl_point_seek(f->reader, 5 * MODEL_MIB, false), MODEL_SIZE);
    assert_int_equal(repl_point_seek(f->reader, MODEL_SIZE, true), MODEL_SIZE);
    assert_int_equal(repl_point_seek(f->reader, MODEL_SIZE + 1, true), MODEL_SIZE);
}

struct thread {
    struct fixture *fixture;
    struct random random;
    unsigned wrong;
    pthread_t id;
};

static void *thread_run(void *context)
{
    struct thread *t = context;
    uint8_t *bytes = malloc(MODEL_MIB);
    for (unsigned i = 0; bytes != NULL && i < READS; i++) {
        struct repl_error err;
        size_t size = 1 + (size_t)random_below(&t->random, i % 8 == 0 ? MODEL_MIB : 20000);
        uint64_t offset = random_below(&t->random, MODEL_SIZE - size + 1);
        if (!repl_ok(repl_point_read(t->fixture->reader, offset, bytes, size, &err)) ||
            memcmp(bytes, t->fixture->model.points[3] + offset, size) != 0)
            t->wrong++;
    }
    free(bytes);
    return NULL;
}

/* More of them than there are seats, and with caches so small that frames come and go. */
static void test_threads(void **state)
{
    struct fixture *f = *state;
    struct thread threads[THREADS];
    open_point(f, 3, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        threads[i] = (struct thread){.fixture = f, .random = random_begin("point_reader", i + 1)};
        assert_int_equal(pthread_create(&threads[i].id, NULL, thread_run, &threads[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i].id, NULL);
        assert_int_equal(threads[i].wrong, 0);
    }
}

/* One frame is damaged: what lies in it is not to be had, all else is. */
static void test_damage(void **state)
{
    struct fixture *f = *state;
    char path[400];
    uint8_t bytes[512];
    const struct repl_segment *segment;
    assert_true(repl_ok(repl_history_segment(f->history, 1, &segment, &f->err)));
    model_segment_path(&f->model, 1, 1, path);
    open_point(f, 1, 0);
    flip_bit(path, (off_t)segment->frames[1].offset + 100);
    assert_int_equal(repl_point_read(f->reader, 5 * MODEL_MIB, bytes, sizeof bytes, &f->err).code,
                     REPL_E_CORRUPT);
    assert_non_null(strstr(f->err.text, "segment 1.1"));
    assert_range(f, 1, 4 * MODEL_MIB, MODEL_MIB);
    assert_range(f, 1, 6 * MODEL_MIB, 8192);
    flip_bit(path, (off_t)segment->frames[1].offset + 100);
    assert_range(f, 1, 5 * MODEL_MIB, MODEL_MIB);
}

/* A segment that is not there is said before anything is read. */
static void test_missing_segment(void **state)
{
    struct fixture *f = *state;
    char path[400];
    const struct repl_point_options options = {.history = f->history, .point = 2};
    model_segment_path(&f->model, 2, 0, path);
    assert_int_equal(unlink(path), 0);
    assert_false(repl_ok(repl_point_open(&options, &f->reader, &f->err)));
    assert_non_null(strstr(f->err.text, "segment 2.0"));
    assert_null(f->reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ranges, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_kind, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_seek, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_threads, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damage, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_missing_segment, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
