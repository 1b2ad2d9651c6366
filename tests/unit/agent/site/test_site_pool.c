/*
 * Chunks asked for by name, and what a pool holds, of a site on loopback: who is
 * given what.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/site/site_fixture.h"

static int set_up(void **state)
{
    static struct world w;
    world_init(&w, NULL);
    site_start(&w);
    *state = &w;
    return 0;
}

static int tear_down(void **state)
{
    world_fini(*state);
    return 0;
}

/* --- chunks ---------------------------------------------------------------------------------- */

static int chunks_as(struct world *w, enum key key, const char *volume,
                     const struct repl_digest *names, uint32_t count)
{
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call call;
    must(repl_wanted_encode(names, count, &body, &err), &err);
    call_init(&call, w, "POST", "/v1/volumes/%s/chunks", volume);
    call.request.body = body.data;
    call.request.body_size = body.size;
    int status = call_run(&call, key);
    repl_buffer_fini(&body);
    return status;
}

/* Point 2 refers to chunks 17 and 19 of the seed. */
static void refer(struct world *w, uint8_t chunks[3 * REPL_CHUNK_SIZE])
{
    struct build b;
    seed(w);
    memcpy(chunks, w->model + 17 * REPL_CHUNK_SIZE, 3 * REPL_CHUNK_SIZE);
    build_begin(&b, w, 1, 2, 0);
    build_chunk(&b, 40 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunks, 0);
    build_chunk(&b, 42 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunks + 2 * REPL_CHUNK_SIZE, 0);
    build_end(&b, true);
    build_commit(&b);
}

static void test_chunks(void **state)
{
    struct world *w = *state;
    static uint8_t chunks[3 * REPL_CHUNK_SIZE];
    refer(w, chunks);
    /* in the order of the names, whatever lies where, one of them twice */
    const struct repl_digest first = chunk_name_of(chunks),
                             last = chunk_name_of(chunks + 2 * REPL_CHUNK_SIZE);
    const struct repl_digest names[3] = {last, first, last};
    for (enum key key = KEY_HOST; key <= KEY_RECOVERY; key += KEY_RECOVERY - KEY_HOST) {
        assert_int_equal(chunks_as(w, key, "data", names, 3), 200);
        assert_int_equal(w->response.size, 3 * REPL_CHUNK_SIZE);
        assert_memory_equal(w->response.data, chunks + 2 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
        assert_memory_equal(w->response.data + REPL_CHUNK_SIZE, chunks, REPL_CHUNK_SIZE);
        assert_memory_equal(w->response.data + 2 * REPL_CHUNK_SIZE, chunks + 2 * REPL_CHUNK_SIZE,
                            REPL_CHUNK_SIZE);
    }
}

/* To know a name is not enough: chunk 18 is here, but no segment refers to it by name. */
static void test_chunks_refused(void **state)
{
    struct world *w = *state;
    static uint8_t chunks[3 * REPL_CHUNK_SIZE];
    struct call call;
    refer(w, chunks);
    const struct repl_digest names[2] = {chunk_name_of(chunks),
                                         chunk_name_of(chunks + REPL_CHUNK_SIZE)};
    chunks_as(w, KEY_RECOVERY, "data", names, 2);
    expect_refusal(w, 404, REPL_REFUSAL_NOT_FOUND, "refers to no chunk");
    chunks_as(w, KEY_OTHER, "data", names, 1);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not for volume data");
    chunks_as(w, KEY_OTHER, "else", names, 1);
    expect_refusal(w, 404, REPL_REFUSAL_NOT_FOUND, "no volume else");
    call_init(&call, w, "POST", "/v1/volumes/data/chunks");
    call.request.body = "no message";
    call.request.body_size = 10;
    call_run(&call, KEY_HOST);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "wanted");
    assert_int_equal(get(w, KEY_HOST, "/v1/volumes/data/chunks"), 405);
}

/* What is not what it is named for is not given to anybody. */
static void test_chunks_damaged(void **state)
{
    struct world *w = *state;
    static uint8_t chunks[3 * REPL_CHUNK_SIZE];
    char path[256];
    refer(w, chunks);
    const struct repl_digest name = chunk_name_of(chunks);
    file_path(w, path, "segments/00000000000000000001.000000.seg");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t *zeros = calloc(1, 2 * MIB);
    assert_true(fd >= 0 && zeros != NULL);
    assert_int_equal(pwrite(fd, zeros, 2 * MIB, 4096), 2 * MIB);
    close(fd);
    free(zeros);
    chunks_as(w, KEY_RECOVERY, "data", &name, 1);
    expect_refusal(w, 404, REPL_REFUSAL_NOT_FOUND, "is damaged");
}

static const struct repl_store_ops *ops_before;
static atomic_uint opens_gone, opens;

static repl_result open_gone(struct repl_store *store, const char *volume,
                             const struct repl_segment_id *id, uint64_t size,
                             struct repl_stored_segment **out, struct repl_error *err)
{
    if (atomic_fetch_add(&opens, 1) < atomic_load(&opens_gone))
        return repl_fail(err, REPL_E_MISSING, "it has just gone");
    return ops_before->segment_open(store, volume, id, size, out, err);
}

/* A file that went after it was found in the index: its chunks are looked for again, not for ever.
 */
static void test_chunks_move(void **state)
{
    struct world *w = *state;
    static uint8_t chunks[3 * REPL_CHUNK_SIZE];
    refer(w, chunks);
    const struct repl_digest name = chunk_name_of(chunks);
    static struct repl_store_ops ops;
    expect_replica(w); /* which reads too */
    ops = *(ops_before = w->site->store->ops);
    ops.segment_open = open_gone;
    w->site->store->ops = &ops;
    atomic_store(&opens_gone, 2);
    assert_int_equal(chunks_as(w, KEY_RECOVERY, "data", &name, 1), 200);
    assert_memory_equal(w->response.data, chunks, REPL_CHUNK_SIZE);
    atomic_store(&opens, 0);
    atomic_store(&opens_gone, 100);
    chunks_as(w, KEY_RECOVERY, "data", &name, 1);
    expect_refusal(w, 404, REPL_REFUSAL_NOT_FOUND, "just gone");
    assert_in_range(atomic_load(&opens), 2, 10);
    w->site->store->ops = ops_before;
}

/* --- what the pool holds --------------------------------------------------------------------- */

static int prefix_order(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static struct repl_pool_names pool_of(struct world *w, const char *after)
{
    struct repl_pool_names names;
    struct repl_error err = {0};
    char path[64];
    snprintf(path, sizeof path, "/v1/volumes/data/pool/%s", after);
    if (get(w, KEY_HOST, path) != 200)
        fail_msg("%d %s", w->status, w->refusal.text);
    must(repl_pool_names_decode(w->response.data, w->response.size, &names, &err), &err);
    return names;
}

static void test_pool(void **state)
{
    struct world *w = *state;
    char after[17];
    seed(w);
    size_t count = w->size / REPL_CHUNK_SIZE;
    uint64_t *prefixes = calloc(count, sizeof *prefixes);
    for (size_t i = 0; i < count; i++) {
        const struct repl_digest name = chunk_name_of(w->model + i * REPL_CHUNK_SIZE);
        prefixes[i] = repl_chunk_prefix(&name);
    }
    qsort(prefixes, count, sizeof *prefixes, prefix_order);
    struct repl_pool_names names = pool_of(w, "0000000000000000");
    assert_int_equal(names.count, count);
    assert_false(names.more);
    assert_memory_equal(names.prefixes, prefixes, count * sizeof *prefixes);
    assert_memory_equal(&names.pool, &w->uuid, sizeof w->uuid); /* that it shares with nobody */
    repl_pool_names_fini(&names);
    snprintf(after, sizeof after, "%016llx", (unsigned long long)prefixes[count - 2]);
    names = pool_of(w, after);
    assert_int_equal(names.count, 1);
    assert_true(names.prefixes[0] == prefixes[count - 1]);
    repl_pool_names_fini(&names);
    names = pool_of(w, "ffffffffffffffff");
    assert_int_equal(names.count, 0);
    repl_pool_names_fini(&names);
    free(prefixes);
}

static struct repl_pool_names pool_as(struct world *w, enum key key, const char *volume)
{
    struct repl_pool_names names;
    struct repl_error err = {0};
    char path[80];
    snprintf(path, sizeof path, "/v1/volumes/%s/pool/0000000000000000", volume);
    if (get(w, key, path) != 200)
        fail_msg("%d %s", w->status, w->refusal.text);
    must(repl_pool_names_decode(w->response.data, w->response.size, &names, &err), &err);
    return names;
}

/* A host is told what its tenant's other hosts have brought, and nothing of another tenant's. */
static void test_pool_of_tenants(void **state)
{
    static const char *const tenants[][2] = {{"acme", "acme"}, {"acme", "other"}, {NULL, NULL}};
    struct world *w = *state, other;
    for (size_t i = 0; i < 3; i++) {
        site_stop(w);
        world_fini(w);
        world_init(w, NULL);
        w->tenants[0] = tenants[i][0];
        w->tenants[1] = tenants[i][1];
        site_start(w);
        seed(w);
        world_share(&other, w, "else", KEY_OTHER);
        hello(&other);
        struct repl_pool_names mine = pool_as(w, KEY_HOST, "data");
        struct repl_pool_names its = pool_as(&other, KEY_OTHER, "else");
        bool same = memcmp(&mine.pool, &its.pool, sizeof mine.pool) == 0;
        assert_true(mine.count > 0);
        assert_true(same == (i == 0));
        assert_int_equal(its.count, i == 0 ? mine.count : 0);
        assert_true(i > 0 ||
                    memcmp(mine.prefixes, its.prefixes, mine.count * sizeof mine.prefixes[0]) == 0);
        repl_pool_names_fini(&mine);
        repl_pool_names_fini(&its);
        world_unshare(&other);
    }
}

static void test_pool_refused(void **state)
{
    static const char *const paths[] = {"pool/0", "pool/000000000000000G", "pool/000000000000000A",
                                        "pool/00000000000000000", "pool"};
    struct world *w = *state;
    char path[64];
    seed(w);
    get(w, KEY_RECOVERY, "/v1/volumes/data/pool/0000000000000000");
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "told to its source");
    get(w, KEY_OTHER, "/v1/volumes/data/pool/0000000000000000");
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not for volume data");
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        snprintf(path, sizeof path, "/v1/volumes/data/%s", paths[i]);
        assert_int_equal(get(w, KEY_HOST, path), 404);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_chunks),          TEST(test_chunks_refused), TEST(test_chunks_damaged),
        TEST(test_chunks_move),     TEST(test_pool),           TEST(test_pool_refused),
        TEST(test_pool_of_tenants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
