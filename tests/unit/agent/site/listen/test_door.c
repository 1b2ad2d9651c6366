/*
 * How many connections there may be, and strangers: whose key nobody has called
 * welcome.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/link/raw_peer.h"

/* Who is known may have more connections than a stranger. */
static void test_connection_limit(void **state)
{
    struct world *world = *state;
    listen_with(world, (struct repl_listener_options){.stranger_limit_per_address = 1});
    struct repl_client *client = host_client(world);
    struct call calls[3];
    for (size_t i = 0; i < 3; i++) {
        call_init(&calls[i], world, "GET", "/later");
        call_start(&calls[i], client);
        PUMP_UNTIL(world, world->begun == i + 1);
    }
    for (size_t i = 0; i < 3; i++) {
        PUMP_UNTIL(world, calls[i].done);
        assert_int_equal(calls[i].code, REPL_OK);
        call_fini(&calls[i]);
    }
    repl_client_free(client);
}

/* One more than there may be comes in when another has gone. */
static void test_connections_in_all(void **state)
{
    struct world *world = *state;
    listen_with(world, (struct repl_listener_options){.connection_limit = 3, .idle_timeout_s = 1});
    struct repl_client *client = host_client(world);
    struct call calls[4];
    for (size_t i = 0; i < 4; i++) {
        call_init(&calls[i], world, "PUT", "/swallow");
        call_stream(&calls[i], 3 * MIB);
        calls[i].pause_for_good = i < 3;
        call_start(&calls[i], client);
        if (i < 3)
            PUMP_UNTIL(world, world->begun == i + 1);
    }
    pump_for(world, 400); /* less than the idle timeout */
    assert_int_equal(world->begun, 3);
    calls[0].pause_for_good = false;
    repl_request_resume(&calls[0].request);
    PUMP_UNTIL(world, calls[3].done);
    assert_int_equal(calls[3].code, REPL_OK);
    repl_client_free(client);
    for (size_t i = 0; i < 4; i++)
        call_fini(&calls[i]);
}

static void listen_for_strangers(struct world *world, unsigned time_ms)
{
    listen_with(world, (struct repl_listener_options){.stranger_time_ms = time_ms});
}

/* Closed by the other end, which has said nothing. */
static bool is_hung_up(int fd)
{
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN);
}

/* Who has not shown a known key has little time, however busy it keeps itself. */
static void test_strangers_have_little_time(void **state)
{
    struct world *world = *state;
    struct call call;
    listen_for_strangers(world, 1000);
    int silent = raw_connect(world->address), busy = raw_connect(world->address);
    assert_true(silent >= 0 && busy >= 0);
    struct repl_client *client = host_client(world);
    call_init(&call, world, "GET", "/echo");
    call_run(&call, client);
    assert_int_equal(call.code, REPL_OK);
    call_fini(&call);
    assert_int_equal(send(busy, "\x16\x03\x01\x40", 4, 0), 4);
    for (int i = 0; i < 10; i++) {
        pump_for(world, 50);
        assert_false(is_hung_up(silent) || is_hung_up(busy));
        assert_int_equal(send(busy, "", 1, 0), 1);
    }
    for (int i = 0; i < 15 && !is_hung_up(busy); i++) {
        pump_for(world, 50);
        send(busy, "", 1, MSG_NOSIGNAL);
    }
    PUMP_UNTIL(world, is_hung_up(silent) && is_hung_up(busy));
    /* A known one stays, on the connection it has. */
    char remote[sizeof world->last_remote];
    memcpy(remote, world->last_remote, sizeof remote);
    call_init(&call, world, "GET", "/echo");
    call_run(&call, client);
    assert_int_equal(call.code, REPL_OK);
    assert_string_equal(remote, world->last_remote);
    call_fini(&call);
    repl_client_free(client);
    close(silent);
    close(busy);
}

/* The same where the key is proven, and nobody has called it welcome. */
static void test_unknown_keys_have_little_time(void **state)
{
    struct world *world = *state;
    listen_for_strangers(world, 500);
    struct raw raw = {.world = world,
                      .key = world->host_key,
                      .request = "PUT /stranger HTTP/1.1\r\nHost: x\r\nContent-Length: "
                                 "1000000\r\n\r\n",
                      .filler = 100000};
    int64_t begin_ns = repl_now_mono_ns();
    raw_run(&raw);
    assert_in_range((repl_now_mono_ns() - begin_ns) / 1000000, 400, 5000);
    PUMP_UNTIL(world, world->closed == 1);
}

static void test_many_strangers_from_one_address(void **state)
{
    struct world *world = *state;
    int strangers[20];
    listen_for_strangers(world, 2000);
    for (size_t i = 0; i < 20; i++) {
        strangers[i] = raw_connect(world->address);
        assert_true(strangers[i] >= 0);
    }
    pump_for(world, 300);
    for (size_t i = 0; i < 20; i++)
        assert_int_equal(is_hung_up(strangers[i]), i < 4); /* the oldest make room */
    for (size_t i = 0; i < 20; i++)
        PUMP_UNTIL(world, is_hung_up(strangers[i]));
    for (size_t i = 0; i < 20; i++)
        close(strangers[i]);
}

/* A host with a known key behind the same address gets through, and stays. */
static void test_strangers_keep_no_host_out(void **state)
{
    struct world *world = *state;
    struct call call;
    int strangers[48];
    listen_for_strangers(world, 60000);
    for (size_t i = 0; i < 24; i++) {
        strangers[i] = raw_connect(world->address);
        assert_true(strangers[i] >= 0);
    }
    pump_for(world, 200);
    struct repl_client *client = host_client(world);
    call_init(&call, world, "GET", "/echo");
    call_run(&call, client);
    assert_int_equal(call.code, REPL_OK);
    call_fini(&call);
    char remote[sizeof world->last_remote];
    memcpy(remote, world->last_remote, sizeof remote);
    for (size_t i = 24; i < 48; i++) {
        strangers[i] = raw_connect(world->address);
        assert_true(strangers[i] >= 0);
    }
    pump_for(world, 200);
    call_init(&call, world, "GET", "/echo");
    call_run(&call, client);
    assert_int_equal(call.code, REPL_OK);
    assert_string_equal(remote, world->last_remote);
    call_fini(&call);
    for (size_t i = 0; i < 48; i++) {
        assert_int_equal(is_hung_up(strangers[i]), i < 32);
        close(strangers[i]);
    }
    repl_client_free(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_connection_limit),
        TEST(test_connections_in_all),
        TEST(test_strangers_have_little_time),
        TEST(test_unknown_keys_have_little_time),
        TEST(test_many_strangers_from_one_address),
        TEST(test_strangers_keep_no_host_out),
    };
    tests_choose();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
