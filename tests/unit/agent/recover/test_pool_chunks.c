/*
 * Chunks out of the pool, from an origin of the test's own: how many are asked for at
 * once, what is asked for twice, and what becomes of one that is not there.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "recover/pool_chunks.h"
#include "repl/view.h"
#include "unit/random.h"
#include "unit/segment/segment_fixture.h"

#define CHUNKS 1500u /* more than the cache holds */

struct fixture {
    struct repl_origin origin;
    struct repl_pool_chunks *pool;
    uint8_t *bytes;
    struct repl_digest names[CHUNKS];
    pthread_mutex_t mutex; /* guards what follows */
    unsigned calls, given;
    size_t missing, wrong; /* the number of a chunk; SIZE_MAX: none */
};

static struct fixture *fixture_of(struct repl_origin *origin)
{
    return (struct fixture *)(void *)origin; /* its first member */
}

static size_t number_of(const struct fixture *f, const struct repl_digest *name)
{
    for (size_t i = 0; i < CHUNKS; i++) {
        if (repl_digest_equal(&f->names[i], name))
            return i;
    }
    return SIZE_MAX;
}

static repl_result chunks(struct repl_origin *origin, const struct repl_digest *names,
                          uint32_t count, void *out, struct repl_error *err)
{
    struct fixture *f = fixture_of(origin);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    pthread_mutex_lock(&f->mutex);
    f->calls++;
    f->given += count;
    pthread_mutex_unlock(&f->mutex);
    for (uint32_t i = 0; i < count; i++) {
        size_t number = number_of(f, &names[i]);
        uint8_t *to = (uint8_t *)out + (size_t)i * REPL_CHUNK_SIZE;
        ensure(number != SIZE_MAX);
        if (number == f->missing)
            return repl_fail(err, REPL_E_MISSING, "there is no such chunk");
        memcpy(to, f->bytes + number * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
        if (number == f->wrong)
            to[7] ^= 1;
    }
    return REPL_SUCCESS;
}

static const struct repl_origin_ops ops = {.chunks = chunks};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct random random = random_begin("pool_chunks", 3);
    struct repl_error err;
    f->origin = (struct repl_origin){.ops = &ops, .label = "the test"};
    f->bytes = malloc((size_t)CHUNKS * REPL_CHUNK_SIZE);
    random_fill(&random, f->bytes, (size_t)CHUNKS * REPL_CHUNK_SIZE);
    for (size_t i = 0; i < CHUNKS; i++)
        f->names[i] = chunk_name_of(f->bytes + i * REPL_CHUNK_SIZE);
    f->missing = f->wrong = SIZE_MAX;
    pthread_mutex_init(&f->mutex, NULL);
    assert_true(repl_ok(repl_pool_chunks_new(&f->origin, &f->pool, &err)));
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_pool_chunks_free(f->pool);
    pthread_mutex_destroy(&f->mutex);
    free(f->bytes);
    free(f);
    return 0;
}

static enum repl_code read_one(struct fixture *f, size_t i, struct repl_error *err)
{
    static _Thread_local uint8_t out[REPL_CHUNK_SIZE];
    size_t ahead = CHUNKS - i < REPL_VIEW_AHEAD ? CHUNKS - i : REPL_VIEW_AHEAD;
    repl_result result = repl_pool_chunks_read(f->pool, &f->names[i], ahead, out, err);
    if (repl_ok(result))
        ensure(memcmp(out, f->bytes + i * REPL_CHUNK_SIZE, sizeof out) == 0);
    return result.code;
}

static void what_comes_next_comes_along(void **state)
{
    struct fixture *f = *state;
    struct repl_error err;
    for (size_t i = 0; i < CHUNKS; i++)
        assert_int_equal(read_one(f, i, &err), REPL_OK);
    assert_int_equal(f->given, CHUNKS);
    assert_int_equal(f->calls, (CHUNKS + REPL_VIEW_AHEAD - 1) / REPL_VIEW_AHEAD);
    /* The first has gone by now, to make room. */
    assert_int_equal(read_one(f, 0, &err), REPL_OK);
    assert_true(f->given > CHUNKS);
}

struct walker {
    pthread_t thread;
    struct fixture *f;
    bool good;
};

static void *walk(void *context)
{
    struct walker *walker = context;
    struct repl_error err;
    walker->good = true;
    for (size_t i = 0; i < 512; i++)
        walker->good = walker->good && read_one(walker->f, i, &err) == REPL_OK;
    return NULL;
}

static void what_several_want_is_fetched_once(void **state)
{
    struct fixture *f = *state;
    struct walker walkers[6];
    for (size_t i = 0; i < 6; i++) {
        walkers[i].f = f;
        assert_int_equal(pthread_create(&walkers[i].thread, NULL, walk, &walkers[i]), 0);
    }
    for (size_t i = 0; i < 6; i++) {
        pthread_join(walkers[i].thread, NULL);
        assert_true(walkers[i].good);
    }
    assert_true(f->given <= 512 + REPL_VIEW_AHEAD);
}

/* One that only came along must not fail the one that was wanted. */
static void a_chunk_that_is_not_there_fails_alone(void **state)
{
    struct fixture *f = *state;
    struct repl_error err = {.text = ""};
    f->missing = 20;
    f->wrong = 30;
    for (size_t i = 0; i < 40; i++)
        assert_int_equal(read_one(f, i, &err), i == 20   ? REPL_E_MISSING
                                               : i == 30 ? REPL_E_CORRUPT
                                                         : REPL_OK);
    f->missing = f->wrong = SIZE_MAX;
    assert_int_equal(read_one(f, 20, &err), REPL_OK); /* and is looked for again */
    assert_int_equal(read_one(f, 30, &err), REPL_OK);
}

static void a_check_names_what_is_not_there(void **state)
{
    struct fixture *f = *state;
    struct repl_error err;
    char text[REPL_DIGEST_TEXT_SIZE];
    assert_int_equal(repl_pool_chunks_check(f->pool, f->names, 200, &err).code, REPL_OK);
    assert_int_equal(f->calls, 4);
    f->missing = 150;
    assert_int_equal(repl_pool_chunks_check(f->pool, f->names, 200, &err).code, REPL_E_MISSING);
    repl_digest_format(&f->names[150], text);
    text[16] = '\0';
    assert_non_null(strstr(err.text, text));
    f->missing = SIZE_MAX;
    f->wrong = 199;
    assert_int_equal(repl_pool_chunks_check(f->pool, f->names, 200, &err).code, REPL_E_CORRUPT);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_comes_next_comes_along),
        TEST(what_several_want_is_fetched_once),
        TEST(a_chunk_that_is_not_there_fails_alone),
        TEST(a_check_names_what_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
