/*
 * What the pool of a volume holds, asked of a site on loopback: when, how often, by which of
 * several volumes, and what becomes of it where the site does not say. The volumes are bare ones:
 * each has a link that is ready and an index of chunks, and nothing else moves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "site/listen/listener.h"
#include "source/chunk_index.h"
#include "source/dedup.h"
#include "source/source_volume_internal.h"
#include "unit/agent/site/site_fixture.h"

#define DAY_NS   (INT64_C(86400) * REPL_SECOND_NS)
#define RETRY_NS (600 * REPL_SECOND_NS)

static struct world w, other; /* volumes data and else of a tenant */
static struct repl_chunk_index *chunks;
static struct repl_config_volume config = {.kind = REPL_VOLUME_BLOCK};

static void moved(void *context, uint64_t number, repl_result result, const struct repl_error *err)
{
    (void)number, (void)result, (void)err;
    volume_names_follow(context);
}

/* One that was never at the site: its first copy waits for the names. */
static void volume_begin(struct repl_source_volume *v, struct repl_client *client, uint8_t number)
{
    struct repl_error err;
    *v = (struct repl_source_volume){.options = {.volume = &config, .chunks = chunks},
                                     .phase = VOLUME_CLOSED};
    v->options.loop = w.loop;
    v->options.client = client;
    v->dir.is_new = true;
    v->pipeline.state.volume.bytes[0] = number;
    v->pipeline.ship.state = REPL_SHIP_READY;
    const struct repl_dedup_options options = {.loop = w.loop,
                                               .index = chunks,
                                               .name = "data",
                                               .volume = v->pipeline.state.volume,
                                               .volume_size = w.size,
                                               .spool_fd = -1,
                                               .moved = moved,
                                               .context = v};
    must(repl_dedup_new(&options, &v->dedup, &err), &err);
    repl_dedup_start(v->dedup);
    PUMP_UNTIL(&w, repl_dedup_is_idle(v->dedup));
    volume_names_start(v);
    assert_true(volume_names_hold(v));
}

static void volume_end(struct repl_source_volume *v)
{
    volume_names_cancel(v);
    PUMP_UNTIL(&w, repl_dedup_is_idle(v->dedup));
    repl_dedup_free(v->dedup);
}

/* Nothing is under way, and it is not due. */
static bool is_at_rest(const struct repl_source_volume *v)
{
    return !v->names_out && !v->names_more && repl_dedup_is_idle(v->dedup) &&
           v->names_due_ns > repl_now_mono_ns();
}

static void look(struct repl_source_volume *v)
{
    volume_names_look(v);
    PUMP_UNTIL(&w, is_at_rest(v));
}

static void expect_due_in(const struct repl_source_volume *v, int64_t ns)
{
    int64_t left_ns = v->names_due_ns - repl_now_mono_ns();
    assert_true(left_ns > ns - 60 * REPL_SECOND_NS && left_ns <= ns);
}

/* The other host's chunk in that slot. */
static bool knows(struct repl_source_volume *v, unsigned slot)
{
    struct repl_digest name = chunk_name_of(other.model + (size_t)slot * REPL_CHUNK_SIZE);
    return repl_dedup_known(v->dedup, &name);
}

static void other_sends(unsigned slot)
{
    struct build build;
    uint64_t seq = other.head.to_seq;
    build_begin(&build, &other, seq, seq + 1, 0);
    build_data(&build, (uint64_t)slot * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    if (seq == 0 && slot > 0)
        build_zero(&build, 0, (uint64_t)slot * REPL_CHUNK_SIZE);
    if (seq == 0)
        build_zero(&build, (slot + 1) * REPL_CHUNK_SIZE, other.size - (slot + 1) * REPL_CHUNK_SIZE);
    build_end(&build, true);
    build_commit(&build);
}

static void begin(const char *tenant)
{
    char path[256];
    struct repl_error err;
    world_init(&w, NULL);
    w.tenants[0] = tenant;
    w.tenants[1] = "acme";
    site_start(&w);
    world_share(&other, &w, "else", KEY_OTHER);
    hello(&w);
    hello(&other);
    config.name = (char *)"data";
    snprintf(path, sizeof path, "%s/chunks", w.directory);
    const struct repl_chunk_index_options options = {.path = path, .limit = 1 << 16};
    must(repl_chunk_index_open(&options, &chunks, &err), &err);
}

static void end(void)
{
    repl_chunk_index_close(chunks);
    world_unshare(&other);
    site_stop(&w);
    world_fini(&w);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void names_come_at_the_begin_and_once_a_day(void **state)
{
    static struct repl_source_volume v;
    (void)state;
    begin("acme");
    other_sends(0);
    volume_begin(&v, w.clients[KEY_HOST], 1);
    look(&v);
    assert_true(knows(&v, 0));
    assert_false(volume_names_hold(&v));
    expect_due_in(&v, DAY_NS);
    /* what comes later is not asked for before it is due, */
    other_sends(1);
    volume_names_look(&v);
    assert_true(is_at_rest(&v));
    /* a day later it is */
    v.names_due_ns = 0;
    repl_chunk_index_names_end(chunks, v.names_pool, true, repl_now_mono_ns() - DAY_NS);
    look(&v);
    assert_true(knows(&v, 0) && knows(&v, 1));
    expect_due_in(&v, DAY_NS);
    /* and at the begin of a resync */
    other_sends(2);
    repl_chunk_index_names_end(chunks, v.names_pool, true, repl_now_mono_ns() - RETRY_NS);
    v.pipeline.comparing = true;
    look(&v);
    assert_true(knows(&v, 2));
    volume_end(&v);
    end();
}

static void who_shares_with_nobody_is_told_nothing(void **state)
{
    static struct repl_source_volume v;
    (void)state;
    begin(NULL);
    other_sends(0);
    volume_begin(&v, w.clients[KEY_HOST], 1);
    v.pipeline.state.volume = w.uuid;
    look(&v);
    assert_false(knows(&v, 0) || v.names_mine || volume_names_hold(&v));
    expect_due_in(&v, DAY_NS);
    volume_end(&v);
    end();
}

/* Two volumes of a host: the one that comes second waits for what the first one is told. */
static void one_volume_asks_for_all(void **state)
{
    static struct repl_source_volume first, second;
    (void)state;
    begin("acme");
    other_sends(0);
    volume_begin(&first, w.clients[KEY_HOST], 1);
    look(&first);
    const uint64_t pool = first.names_pool;
    other_sends(1);
    /* a day later it is at it again, */
    repl_chunk_index_names_end(chunks, pool, true, repl_now_mono_ns() - DAY_NS);
    assert_int_equal(repl_chunk_index_names_begin(chunks, pool, repl_now_mono_ns()),
                     REPL_CHUNK_NAMES_MINE);
    volume_begin(&second, w.clients[KEY_HOST], 2);
    volume_names_look(&second);
    PUMP_UNTIL(&w, !second.names_out && repl_dedup_is_idle(second.dedup));
    assert_true(second.names_hold_ns != 0 && !second.names_mine);
    /* and when it has them, so has the other one, which asks for nothing */
    repl_chunk_index_names_end(chunks, pool, true, repl_now_mono_ns());
    second.names_due_ns = 0;
    look(&second);
    assert_true(second.names_hold_ns == 0 && !second.names_mine);
    assert_true(knows(&second, 0) && !knows(&second, 1));
    expect_due_in(&second, DAY_NS);
    volume_end(&first);
    volume_end(&second);
    end();
}

/* The one that asks goes away: it is the other one's turn. */
static void a_turn_that_is_given_up_is_anothers(void **state)
{
    static struct repl_source_volume first, second;
    (void)state;
    begin("acme");
    other_sends(0);
    volume_begin(&first, w.clients[KEY_HOST], 1);
    volume_begin(&second, w.clients[KEY_HOST], 2);
    volume_names_look(&first);
    PUMP_UNTIL(&w, first.names_mine);
    volume_end(&first);
    look(&second);
    assert_true(knows(&second, 0));
    volume_end(&second);
    end();
}

/* --- sites that do not say ------------------------------------------------------------------- */

static unsigned asked;

static void older_begin(void *owner, struct repl_exchange *exchange)
{
    (void)owner;
    asked++;
    repl_exchange_trust(exchange);
    repl_exchange_respond(exchange, 404, NULL, "no such path", 12);
}

static void older_closed(void *owner, struct repl_exchange *exchange, bool complete)
{
    (void)owner, (void)exchange, (void)complete;
}

/* One that knows no pools: the copy does not wait for it, and it is asked again, in case it is
 * replaced. */
static void an_older_site_holds_nothing_up(void **state)
{
    static const struct repl_exchange_handler handler = {.begin = older_begin,
                                                         .closed = older_closed};
    static struct repl_source_volume v;
    struct repl_listener *listener;
    struct repl_client *client;
    struct repl_error err;
    char address[32];
    (void)state;
    begin("acme");
    const struct repl_listener_options options = {
        .address = "127.0.0.1:0", .key_path = w.site_key, .handler = &handler};
    must(repl_listener_new(w.loop, &options, &listener, &err), &err);
    snprintf(address, sizeof address, "127.0.0.1:%u", repl_listener_port(listener));
    const struct repl_client_options to = {
        .address = address, .key_path = w.keys[KEY_HOST], .fingerprint = w.site_fingerprint};
    must(repl_client_new(w.loop, &to, &client, &err), &err);
    volume_begin(&v, client, 1);
    for (unsigned i = 1; i <= 2; i++) {
        v.names_due_ns = 0;
        look(&v);
        assert_int_equal(asked, i);
        assert_false(volume_names_hold(&v));
        expect_due_in(&v, RETRY_NS);
    }
    volume_end(&v);
    repl_client_free(client);
    repl_listener_free(listener);
    end();
}

/* It goes between two pages, and is asked again when it is there. */
static void a_site_that_goes_away_is_asked_again(void **state)
{
    static struct repl_source_volume v;
    (void)state;
    begin("acme");
    other_sends(0);
    volume_begin(&v, w.clients[KEY_HOST], 1);
    volume_names_look(&v);
    PUMP_UNTIL(&w, v.names_mine);
    site_stop(&w); /* its clients too: what was asked is never answered */
    v.names_out = false;
    site_start(&w);
    v.options.client = w.clients[KEY_HOST];
    volume_names_cancel(&v);
    v.names_due_ns = 0;
    look(&v);
    assert_true(knows(&v, 0));
    expect_due_in(&v, DAY_NS);
    volume_end(&v);
    other.site = w.site;
    end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_come_at_the_begin_and_once_a_day),
        cmocka_unit_test(who_shares_with_nobody_is_told_nothing),
        cmocka_unit_test(one_volume_asks_for_all),
        cmocka_unit_test(a_turn_that_is_given_up_is_anothers),
        cmocka_unit_test(an_older_site_holds_nothing_up),
        cmocka_unit_test(a_site_that_goes_away_is_asked_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
