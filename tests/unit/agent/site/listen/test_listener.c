/* The listener against requests made by hand, and mistakes of its configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/link/raw_peer.h"

/* --- who may speak, and how ------------------------------------------------------------------ */

static void test_no_certificate(void **state)
{
    struct world *world = *state;
    struct raw raw = {.world = world, .request = "GET /who HTTP/1.1\r\nHost: x\r\n\r\n"};
    raw_run(&raw);
    assert_memory_equal(raw.answer, "HTTP/1.1 403 ", 13);
    assert_non_null(strstr(raw.answer, "fingerprint"));
    assert_int_equal(raw.ended, 0);

    struct raw upload = {.world = world,
                         .request = "PUT /stream HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                    "4000000\r\n\r\n",
                         .filler = 4000000};
    raw_run(&upload);
    assert_memory_equal(upload.answer, "HTTP/1.1 403 ", 13);
    assert_int_equal(world->begun, 0);
}

static void test_old_tls(void **state)
{
    struct world *world = *state;
    struct raw raw = {.world = world,
                      .key = world->host_key,
                      .priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2",
                      .request = "GET /who HTTP/1.1\r\nHost: x\r\n\r\n"};
    raw_run(&raw);
    assert_false(raw.connected);
    assert_int_equal(world->begun, 0);
}

#define AFTER_IT "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

static void test_framing(void **state)
{
    struct world *world = *state;
    static const char *const good[] = {
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        ("POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n"
         "Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        "GET /x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /x?a=b&c=%20 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nEmpty: \r\n\r\n",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_int_equal(raw_status(world, good[i]), 404);
    unsigned begun = world->begun;
    static const char *const bad[] = {
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\ncontent-length: 9\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 0x3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3 \r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length:3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length:\t3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 3\r\n\r\nabc" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: "
        "chunked\r\n\r\n0\r\n\r\n" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: "
        "3\r\n\r\n0\r\n\r\n" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: "
        "chunked\r\n\r\n0\r\n\r\n" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked \r\n\r\n0\r\n\r\n" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" AFTER_IT,
        "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0b"
        "chunked\r\n\r\n0\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1\r\nHost: x\r\nX: \r\n xyzwq\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1\nHost: x\n\n" AFTER_IT,
        "GET /x HTTP/1.1\r\nHost: x\nX: y\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n" AFTER_IT,
        "GET  /x HTTP/1.1\r\nHost: x\r\n\r\n" AFTER_IT,
        "GET /x  HTTP/1.1\r\nHost: x\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1 \r\nHost: x\r\n\r\n" AFTER_IT,
        "GET http://y/x HTTP/1.1\r\nHost: x\r\n\r\n" AFTER_IT,
        "GET /a%00b HTTP/1.1\r\nHost: x\r\n\r\n" AFTER_IT,
        "GET /a%0ab HTTP/1.1\r\nHost: x\r\n\r\n" AFTER_IT,
        "GET /a%zzb HTTP/1.1\r\nHost: x\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1\r\n\r\n" AFTER_IT,
        "G\x7fT /x HTTP/1.1\r\nHost: x\r\n\r\n" AFTER_IT,
        "GET /x HTTP/1.1\r\nHost: x\r\nX: a\x01\r\n\r\n" AFTER_IT,
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int status = raw_status(world, bad[i]);
        /* Some MHD does not even answer. */
        if ((status != 400 && status != 0) || world->begun != begun)
            fail_msg("status %d, %u begun, for: %s", status, world->begun - begun, bad[i]);
    }
    assert_int_equal(raw_status(world, "GET /x HTTP/1.0\r\nHost: x\r\n\r\n"), 505);
    assert_int_equal(raw_status(world, "GET /x HTTP/2.0\r\nHost: x\r\n\r\n"), 505);
    assert_int_equal(world->begun, begun);
}

static void test_nul_in_header(void **state)
{
    struct world *world = *state;
    static const char request[] = "GET /x HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n";
    struct raw raw = {.world = world,
                      .key = world->host_key,
                      .request = request,
                      .request_size = sizeof request - 1};
    raw_run(&raw);
    assert_memory_equal(raw.answer, "HTTP/1.1 400 ", 13);
    assert_int_equal(world->begun, 0);
}

static void test_oversized(void **state)
{
    struct world *world = *state;
    static char request[200000];
    static const struct {
        size_t uri, header, count;
        int status;
    } cases[] = {{900, 1, 1, 404},   {1100, 1, 1, 414},  {190000, 1, 1, 414},
                 {1, 15000, 1, 404}, {1, 17000, 1, 431}, {1, 190000, 1, 431},
                 {1, 10, 40, 404},   {1, 10, 60, 431},   {1, 100, 1500, 431}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t used =
            (size_t)sprintf(request, "GET /%0*d HTTP/1.1\r\nHost: x\r\n", (int)cases[i].uri, 0);
        for (size_t j = 0; j < cases[i].count; j++)
            used += (size_t)sprintf(request + used, "X-%zu: %0*d\r\n", j, (int)cases[i].header, 0);
        sprintf(request + used, "Connection: close\r\n\r\n");
        /* What exceeds a connection's memory is cut off while it is still being sent. */
        int status = raw_status(world, request);
        if (status != cases[i].status && (status != 0 || used < 65536))
            fail_msg("status %d for case %zu", status, i);
    }
    assert_int_equal(world->begun, 3);
}

static void test_bad_chunks(void **state)
{
    struct world *world = *state;
    static const char *const bodies[] = {"zz\r\nabc\r\n0\r\n\r\n",
                                         "-3\r\nabc\r\n0\r\n\r\n",
                                         "0x3\r\nabc\r\n0\r\n\r\n",
                                         "3\r\nabcd\r\n0\r\n\r\n",
                                         "10000000000000000\r\nabc\r\n0\r\n\r\n",
                                         "3 \r\nabc\r\n0\r\n\r\n"};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        char request[256];
        snprintf(request, sizeof request,
                 "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%s%s",
                 bodies[i], AFTER_IT);
        int status = raw_status(world, request);
        if (status == 200 || status == 404 || world->ended != 0)
            fail_msg("status %d for: %s", status, bodies[i]);
    }
    PUMP_UNTIL(world, world->closed == world->begun);
    assert_int_equal(world->closed_complete, 0);
}

static void test_hang_up(void **state)
{
    struct world *world = *state;
    struct raw raw = {.world = world,
                      .key = world->host_key,
                      .request = "PUT /swallow HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                 "1000000\r\n\r\n",
                      .filler = 100000,
                      .hang_up = true};
    raw_run(&raw);
    PUMP_UNTIL(world, world->closed == 1);
    assert_int_equal(world->begun, 1);
    assert_int_equal(world->ended, 0);
    assert_int_equal(world->closed_complete, 0);
}

static void test_idle_peer(void **state)
{
    struct world *world = *state;
    struct raw raw = {.world = world,
                      .key = world->host_key,
                      .request = "PUT /swallow HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                 "1000000\r\n\r\n",
                      .filler = 100000};
    int64_t begin_ns = repl_now_mono_ns();
    raw_run(&raw);
    int64_t took_ms = (repl_now_mono_ns() - begin_ns) / 1000000;
    assert_int_equal(raw.answer_size, 0);
    assert_true(took_ms >= 1900 && took_ms < 8000);
    PUMP_UNTIL(world, world->closed == 1);
    assert_int_equal(world->closed_complete, 0);
}

/* It goes on sending after the refusal; the answer must still be there to be read. */
static void test_early_answer_to_stubborn_peer(void **state)
{
    struct world *world = *state;
    struct raw raw = {.world = world,
                      .key = world->host_key,
                      .request = "PUT /refused-at-once HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                 "99999999\r\n\r\n",
                      .filler = 20000000};
    raw_run(&raw);
    assert_memory_equal(raw.answer, "HTTP/1.1 403 ", 13);
    PUMP_UNTIL(world, world->closed == 1);
    assert_int_equal(world->closed_complete, 1);
}

static void test_expect_continue(void **state)
{
    struct world *world = *state;
    assert_int_equal(raw_status(world, "PUT /swallow HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                       "3\r\nExpect: 100-continue\r\nConnection: "
                                       "close\r\n\r\nabc"),
                     100);
    /* The answer is the only one. */
    assert_int_equal(raw_status(world, "PUT /refused-at-once HTTP/1.1\r\nHost: "
                                       "x\r\nContent-Length: 999999\r\nExpect: "
                                       "100-continue\r\n\r\n"),
                     403);
    PUMP_UNTIL(world, world->closed == 2);
    assert_int_equal(world->closed_complete, 2);
}

/* --- bounds and mistakes of configuration ---------------------------------------------------- */

static void test_addresses(void **state)
{
    struct world *world = *state;
    static const char *const bad[] = {
        "",      "host",      ":7420",    "host:",          "host:99999", "host:12a",
        "[::1]", "[::1]7420", "::1:7420", "user@host:7420", "h/x:7420",   "[::1:7420"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct repl_error err = {0};
        struct repl_client *client;
        struct repl_listener *listener;
        struct repl_client_options options = {.address = bad[i], .key_path = world->host_key};
        struct repl_listener_options listen_options = {.address = bad[i],
                                                       .key_path = world->site_key};
        assert_int_equal(repl_client_new(world->loop, &options, &client, &err).code, REPL_E_USAGE);
        assert_int_equal(repl_listener_new(world->loop, &listen_options, &listener, &err).code,
                         REPL_E_USAGE);
        assert_null(client);
        assert_null(listener);
    }
}

static void test_address_in_use(void **state)
{
    struct world *world = *state;
    struct repl_error err = {0};
    struct repl_listener *second;
    struct repl_listener_options options = {.address = world->address,
                                            .key_path = world->site_key,
                                            .handler = &site_handler,
                                            .owner = world};
    assert_int_equal(repl_listener_new(world->loop, &options, &second, &err).code, REPL_E_LOCKED);
    assert_non_null(strstr(err.text, world->address));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_no_certificate),  TEST(test_old_tls),   TEST(test_framing),
        TEST(test_nul_in_header),   TEST(test_oversized), TEST(test_bad_chunks),
        TEST(test_hang_up),         TEST(test_idle_peer), TEST(test_early_answer_to_stubborn_peer),
        TEST(test_expect_continue), TEST(test_addresses), TEST(test_address_in_use),
    };
    tests_choose();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
