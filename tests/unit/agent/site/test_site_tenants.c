/*
 * A site with two sources, of one tenant or of two: what of each other's chunks they need not send,
 * and what they are told.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "site/site_gate.h"
#include "site/site_volume.h"
#include "unit/agent/site/site_fixture.h"

static struct world a, b; /* volumes data and else */

static void begin(const char *of_a, const char *of_b)
{
    world_init(&a, NULL);
    a.tenants[0] = of_a;
    a.tenants[1] = of_b;
    site_start(&a);
    world_share(&b, &a, "else", KEY_OTHER);
}

static void restart(const char *of_a, const char *of_b)
{
    a.tenants[0] = of_a;
    a.tenants[1] = of_b;
    site_restart(&a);
    b.site = a.site;
    memcpy(b.clients, a.clients, sizeof b.clients);
}

static void end(void)
{
    world_unshare(&b);
    site_stop(&a);
    world_fini(&a);
}

static const char *pool_of(const struct world *w)
{
    return site_find_volume(w->site, w->volume)->journal.pool;
}

/* b's next point: of one chunk after the other what a has there. */
static void refer(struct build *build, unsigned first, unsigned count)
{
    uint64_t seq = b.head.to_seq;
    build_begin(build, &b, seq, seq + 1, 0);
    if (seq == 0)
        build_zero(build, 0, (uint64_t)first * REPL_CHUNK_SIZE);
    for (unsigned i = first; i < first + count; i++)
        build_chunk(build, (uint64_t)i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE,
                    a.model + i * REPL_CHUNK_SIZE, 0);
    uint64_t behind = (uint64_t)(first + count) * REPL_CHUNK_SIZE;
    if (seq == 0)
        build_zero(build, behind, b.size - behind);
    build_end(build, true);
}

static int chunk_get(enum key key, const char *volume, unsigned i)
{
    struct repl_digest name = chunk_name_of(a.model + i * REPL_CHUNK_SIZE);
    struct repl_buffer body = {0};
    struct repl_error err;
    struct call call;
    must(repl_wanted_encode(&name, 1, &body, &err), &err);
    call_init(&call, &b, "POST", "/v1/volumes/%s/chunks", volume);
    call.request.body = body.data;
    call.request.body_size = body.size;
    int status = call_run(&call, key);
    repl_buffer_fini(&body);
    return status;
}

/* Within a tenant a key is given what its own volume refers to, wherever it lies. */
static void a_key_reads_what_its_volume_refers_to(void **state)
{
    struct build build;
    (void)state;
    begin("acme", "acme");
    seed(&a);
    hello(&b);
    refer(&build, 1, 30);
    build_commit(&build);
    assert_int_equal(chunk_get(KEY_OTHER, "else", 7), 200);
    assert_int_equal(b.response.size, REPL_CHUNK_SIZE);
    assert_memory_equal(b.response.data, a.model + 7 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    assert_int_equal(chunk_get(KEY_OTHER, "else", 31), 404);
    assert_int_equal(chunk_get(KEY_RECOVERY, "data", 7), 404);
    end();
}

static void hosts_of_a_tenant_share_chunks(void **state)
{
    struct build build;
    (void)state;
    begin("acme", "acme");
    seed(&a);
    hello(&b);
    assert_string_equal(pool_of(&a), "acme");
    assert_string_equal(pool_of(&b), "acme");
    refer(&build, 1, 30);
    build_commit(&build);
    expect_replica(&b);
    restart("acme", "acme");
    hello(&a);
    hello(&b);
    refer(&build, 31, 20);
    build_commit(&build);
    expect_replica(&b);
    /* the index is made of logs and segments */
    char path[256];
    snprintf(path, sizeof path, "%.200s/index.lmdb", a.store);
    site_stop(&a);
    assert_int_equal(unlink(path), 0);
    site_start(&a);
    restart("acme", "acme");
    hello(&b);
    refer(&build, 51, 20);
    build_commit(&build);
    expect_replica(&b);
    assert_string_equal(volume_status(&a, "else").cause, "");
    end();
}

static void hosts_of_others_do_not(const char *of_a, const char *of_b)
{
    struct build build;
    begin(of_a, of_b);
    seed(&a);
    hello(&b);
    refer(&build, 1, 30);
    build_put(&build);
    expect_missing(&b, 30);
    build_fini(&build);
    end();
}

static void tenants_learn_nothing_of_each_other(void **state)
{
    (void)state;
    hosts_of_others_do_not("acme", "bolt");
    hosts_of_others_do_not("acme", NULL);
    hosts_of_others_do_not(NULL, "acme");
    hosts_of_others_do_not(NULL, NULL);
}

static void a_volume_with_a_history_joins_later(void **state)
{
    struct build build;
    (void)state;
    begin(NULL, "acme");
    seed(&a);
    hello(&b);
    assert_string_equal(pool_of(&a), "");
    refer(&build, 1, 30);
    build_put(&build);
    expect_missing(&b, 30);
    restart("acme", "acme");
    hello(&a);
    hello(&b);
    assert_string_equal(pool_of(&a), "acme");
    if (build_put(&build) != 201)
        fail_msg("%d %s", b.status, b.refusal.text);
    build_taken(&build);
    build_fini(&build);
    expect_replica(&b);
    end();
}

static void a_volume_stays_in_its_pool(void **state)
{
    struct build build;
    (void)state;
    begin("acme", "acme");
    seed(&a);
    hello(&b);
    restart("acme", "bolt");
    hello(&b);
    assert_string_equal(pool_of(&b), "acme");
    assert_non_null(strstr(volume_status(&b, "else").cause,
                           "shares chunks with tenant acme, and the key that writes it is of "
                           "tenant bolt"));
    assert_non_null(strstr(volume_status(&b, "else").remedy, "tenant = acme"));
    assert_string_equal(volume_status(&b, "data").cause, "nothing was heard of the source since "
                                                         "this site started");
    refer(&build, 1, 30);
    build_commit(&build);
    restart("acme", NULL);
    hello(&b);
    assert_non_null(strstr(volume_status(&b, "else").cause, "is of none"));
    end();
}

/* A log that is damaged from its first byte on, and who is held up by it. */
static void a_damaged_volume_holds_up_its_own_tenant(void **state)
{
    static const char *const tenants[] = {"acme", "other"};
    char path[256];
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        begin("acme", tenants[i]);
        seed(&a);
        hello(&b);
        site_stop(&a);
        file_path(&a, path, "log");
        int fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0 && pwrite(fd, "", 1, 0) == 1);
        close(fd);
        site_start(&a);
        b.site = a.site;
        assert_string_not_equal(site_find_volume(a.site, "data")->damaged, "");
        assert_string_equal(pool_of(&a), "");
        const struct site_volume *other = site_find_volume(a.site, "else");
        assert_int_equal(site_pool_is_known(other), i == 1);
        /* without what the index knew it may be of any */
        site_stop(&a);
        index_remove(&a);
        site_start(&a);
        assert_false(site_pool_is_known(site_find_volume(a.site, "else")));
        end();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_reads_what_its_volume_refers_to),
        cmocka_unit_test(hosts_of_a_tenant_share_chunks),
        cmocka_unit_test(tenants_learn_nothing_of_each_other),
        cmocka_unit_test(a_volume_with_a_history_joins_later),
        cmocka_unit_test(a_volume_stays_in_its_pool),
        cmocka_unit_test(a_damaged_volume_holds_up_its_own_tenant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
