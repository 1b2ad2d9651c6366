/*
 * A volume of a tenant that somebody has removed from the store, while the site was down or while
 * it runs: what the others have goes on, and nobody is told that a chunk lies where nothing is.
 */
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "site/site_gate.h"
#include "site/site_volume.h"
#include "unit/agent/site/site_fixture.h"
#include "unit/temporary.h"

static struct world w, b; /* volumes data and else of a tenant */

static void refer(struct build *build, const uint8_t *chunk, unsigned slot)
{
    build_begin(build, &b, b.head.to_seq, b.head.to_seq + 1, 0);
    build_chunk(build, (uint64_t)slot * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, chunk, 0);
    build_end(build, true);
}

/* Both volumes have brought the chunk shared, data the other one. */
static void volumes_make(uint8_t shared[REPL_CHUNK_SIZE], uint8_t alone[REPL_CHUNK_SIZE])
{
    struct build build;
    w.tenants[0] = w.tenants[1] = "acme";
    site_start(&w);
    seed(&w);
    memcpy(alone, w.model + 17 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    world_share(&b, &w, "else", KEY_OTHER);
    hello(&b);
    build_begin(&build, &b, 0, 1, 0);
    build_data(&build, 0, REPL_CHUNK_SIZE);
    build_zero(&build, REPL_CHUNK_SIZE, b.size - REPL_CHUNK_SIZE);
    build_end(&build, true);
    build_commit(&build);
    memcpy(shared, b.model, REPL_CHUNK_SIZE);
    struct random random = w.random;
    w.random = random_begin("else", 20261123);
    build_begin(&build, &w, 1, 2, 0);
    build_data(&build, 0, REPL_CHUNK_SIZE);
    build_end(&build, true);
    build_commit(&build);
    w.random = random;
    assert_memory_equal(w.model, shared, REPL_CHUNK_SIZE);
}

static void start(void)
{
    site_start(&w);
    b.site = w.site;
    b.loop = w.loop;
    memcpy(b.clients, w.clients, sizeof b.clients);
}

static void data_remove(void)
{
    struct temporary directory;
    snprintf(directory.path, sizeof directory.path, "%.200s/volumes/data", w.store);
    temporary_remove(&directory);
}

static void a_removed_volume_leaves_nothing_behind(void **state)
{
    static uint8_t shared[REPL_CHUNK_SIZE], alone[REPL_CHUNK_SIZE];
    struct build build;
    (void)state;
    world_init(&w, NULL);
    volumes_make(shared, alone);
    refer(&build, shared, 20);
    build_commit(&build);
    site_stop(&w);
    data_remove();
    start();
    /* what else holds itself it finds, and nothing else */
    assert_true(chunk_is_found(&w, "else", shared));
    assert_false(chunk_is_found(&w, "else", alone));
    expect_replica(&b);
    refer(&build, alone, 21);
    build_put(&build);
    expect_missing(&b, 1);
    build_fini(&build);
    /* should it come back, what it refers to is still there */
    assert_false(site_pool_is_known(site_find_volume(w.site, "else")));
    site_stop(&w);
    start();
    assert_true(site_pool_is_known(site_find_volume(w.site, "else")));
    /* another one of that name */
    w.uuid.bytes[3]++;
    w.head = (struct repl_head){0};
    seed(&w);
    increment(&w);
    expect_replica(&w);
    site_stop(&w);
    start();
    assert_string_equal(site_find_volume(w.site, "data")->damaged, "");
    assert_int_equal(site_find_volume(w.site, "data")->journal.point.seq, 2);
    expect_replica(&w);
    world_unshare(&b);
    site_stop(&w);
    world_fini(&w);
}

static void expect_refused(const char *why)
{
    struct repl_hello message = hello_of(&w);
    PUMP_UNTIL(&w, volume_status(&w, "data").state == REPL_STATE_FAILED);
    assert_int_equal(hello_as(&w, w.key, w.volume, &message), 500);
    expect_refusal(&w, 500, REPL_REFUSAL_INTERNAL, why);
}

/* The index says that the chunk lies in the volume: no commit is taken by that, and the chunk comes
 * once more. */
static void what_goes_while_the_site_runs_is_not_relied_on(void **state)
{
    static uint8_t shared[REPL_CHUNK_SIZE], alone[REPL_CHUNK_SIZE];
    struct build build;
    (void)state;
    world_init(&w, NULL);
    volumes_make(shared, alone);
    expect_replica(&w); /* or it would write into what is being removed */
    data_remove();
    assert_true(chunk_is_found(&w, "else", alone));
    refer(&build, alone, 21);
    build_put(&build);
    expect_missing(&b, 1);
    supply_give(&b, alone, 1);
    build_commit(&build);
    expect_replica(&b);
    /* which is why the site has looked for the volume */
    site_watch_tick(w.site);
    expect_refused("segment 1.0, with which its history begins");
    assert_false(site_pool_is_known(site_find_volume(w.site, "else")));
    site_stop(&w);
    start();
    assert_true(chunk_is_found(&w, "else", alone));
    assert_true(replica_equals_model(&b));
    w.head = (struct repl_head){0};
    seed(&w);
    site_watch_tick(w.site);
    PUMP_UNTIL(&w, !w.site->watch.out);
    increment(&w);
    assert_string_equal(site_find_volume(w.site, "data")->damaged, "");
    world_unshare(&b);
    world_fini(&w);
}

/* Who removes a volume is not through with it, perhaps. */
static void what_is_left_of_a_volume_is_not_relied_on(void **state)
{
    static uint8_t shared[REPL_CHUNK_SIZE], alone[REPL_CHUNK_SIZE], third[REPL_CHUNK_SIZE];
    struct build build, supply;
    char path[256];
    (void)state;
    world_init(&w, NULL);
    volumes_make(shared, alone);
    build_begin(&build, &w, 2, 3, 0);
    build_data(&build, REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    build_end(&build, true);
    build_commit(&build);
    memcpy(third, w.model + REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    file_path(&w, path, "segments/00000000000000000001.000000.seg");
    assert_int_equal(unlink(path), 0);
    w.site->watch.next_ns = 0;
    site_watch_tick(w.site);
    expect_refused("segment 1.0, with which its history begins");
    refer(&build, shared, 20); /* which the index finds in segment 2.0 */
    build_put(&build);
    expect_missing(&b, 1);
    supply_build(&supply, &b, shared, 1);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    build_commit(&build);
    expect_replica(&b);
    /* and the next start finds it as it is */
    site_stop(&w);
    start();
    assert_non_null(strstr(site_find_volume(w.site, "data")->damaged, "segment 1.0 is missing"));
    refer(&build, third, 21);
    build_put(&build);
    expect_missing(&b, 1);
    build_fini(&build);
    world_unshare(&b);
    world_fini(&w);
}

/* A bucket takes what belongs to a history that is not there any more. */
static void what_goes_of_a_bucket_is_noticed(void **state)
{
    (void)state;
    world_init(&w, NULL);
    world_in_bucket(&w);
    site_start(&w);
    seed(&w);
    increment(&w);
    expect_replica(&w);
    site_watch_tick(w.site);
    PUMP_UNTIL(&w, !w.site->watch.out);
    fake_s3_remove(w.bucket, "dc/site/volumes/data/segments/00000000000000000001.000000.seg");
    increment(&w);
    w.site->watch.next_ns = 0;
    site_watch_tick(w.site);
    expect_refused("segment 1.0, with which its history begins");
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_removed_volume_leaves_nothing_behind),
        cmocka_unit_test(what_goes_while_the_site_runs_is_not_relied_on),
        cmocka_unit_test(what_is_left_of_a_volume_is_not_relied_on),
        cmocka_unit_test(what_goes_of_a_bucket_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
