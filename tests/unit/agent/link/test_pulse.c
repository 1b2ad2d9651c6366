/*
 * Lines that are cut and ends that are gone, without a word: what both ends of
 * the link find out by the kernel at the other end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <linux/filter.h>
#include <sys/socket.h>

#include "unit/agent/link/link_fixture.h"

/* From now on nothing reaches the client's ends of its connections, not even an acknowledgement:
 * a line that is cut. Those opened later are whole. */
static void line_cut(const struct world *world)
{
    struct sock_filter nothing = {.code = BPF_RET | BPF_K, .k = 0};
    struct sock_fprog drop = {.len = 1, .filter = &nothing};
    int port = atoi(strrchr(world->address, ':') + 1), count = 0;
    for (int fd = 3; fd < 256; fd++) {
        struct sockaddr_in peer = {0};
        socklen_t size = sizeof peer;
        if (getpeername(fd, (struct sockaddr *)&peer, &size) != 0 || peer.sin_family != AF_INET ||
            ntohs(peer.sin_port) != port)
            continue;
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &drop, sizeof drop), 0);
        count++;
    }
    assert_true(count > 0);
}

static struct repl_client *silence_client(struct world *world, unsigned silence_ms)
{
    struct repl_error err = {0};
    struct repl_client *client;
    struct repl_client_options options = {.address = world->address,
                                          .key_path = world->host_key,
                                          .fingerprint = world->site,
                                          .silence_timeout_ms = silence_ms};
    must(repl_client_new(world->loop, &options, &client, &err), &err);
    return client;
}

/* A site without the short idle timeout of the others. */
static void listen_patiently(struct world *world)
{
    listen_with(world, (struct repl_listener_options){.address = NULL});
}

static void expect_silent(const struct call *call)
{
    assert_true(call->done);
    assert_int_equal(call->code, REPL_E_RETRY);
    assert_non_null(strstr(call->err.text, "not even an acknowledgement"));
}

/* What is sent into a line that is cut is not acknowledged; all that is under way ends with it,
 * also what waits for an answer, has paused, or is held up by the site. */
static void test_silent_line(void **state)
{
    struct world *world = *state;
    listen_patiently(world);
    struct repl_client *client = silence_client(world, 500);
    struct call waiting, paused, held_up, idle, sending;
    call_init(&waiting, world, "GET", "/never");
    call_start(&waiting, client);
    call_init(&paused, world, "PUT", "/swallow");
    call_stream(&paused, STREAM_SIZE);
    paused.pause_for_good = true;
    call_start(&paused, client);
    call_init(&held_up, world, "PUT", "/black-hole");
    call_stream(&held_up, STREAM_SIZE);
    call_start(&held_up, client);
    call_init(&idle, world, "GET", "/who");
    call_run(&idle, client);
    assert_int_equal(idle.code, REPL_OK);
    call_fini(&idle);
    pump_for(world, 300); /* the window of the one held up is closed */
    assert_false(waiting.done || paused.done || held_up.done);

    line_cut(world);
    int64_t cut_ns = repl_now_mono_ns();
    call_init(&sending, world, "GET", "/who"); /* on the connection that idles */
    call_run(&sending, client);
    assert_in_range((repl_now_mono_ns() - cut_ns) / 1000000, 450, 1900);
    expect_silent(&sending);
    expect_silent(&waiting);
    expect_silent(&paused);
    expect_silent(&held_up);
    call_fini(&sending);
    call_fini(&waiting);
    call_fini(&paused);
    call_fini(&held_up);
    repl_client_free(client);
}

/* Where nothing is sent, it is the probe of a quiet connection that is not answered. */
static void test_quiet_line_is_probed(void **state)
{
    struct world *world = *state;
    listen_patiently(world);
    struct repl_client *client = silence_client(world, 500);
    struct call call;
    call_init(&call, world, "GET", "/never");
    call_start(&call, client);
    PUMP_UNTIL(world, world->ended == 1);
    line_cut(world);
    int64_t cut_ns = repl_now_mono_ns();
    PUMP_UNTIL(world, call.done);
    assert_in_range((repl_now_mono_ns() - cut_ns) / 1000000, 1500, 6000);
    expect_silent(&call);
    call_fini(&call);
    repl_client_free(client);
}

/* One connection that died is no line that is cut. */
static void test_silent_connection(void **state)
{
    struct world *world = *state;
    listen_patiently(world);
    struct repl_client *client = silence_client(world, 500);
    struct call dead, alive, echo;
    call_init(&dead, world, "PUT", "/swallow");
    call_stream(&dead, STREAM_SIZE);
    dead.pause_for_good = true;
    call_start(&dead, client);
    PUMP_UNTIL(world, world->pieces > 0);
    line_cut(world);
    call_init(&alive, world, "GET", "/never");
    call_start(&alive, client);
    PUMP_UNTIL(world, world->ended == 1);
    dead.pause_for_good = false;
    repl_request_resume(&dead.request);
    while (!dead.done) {
        call_init(&echo, world, "GET", "/who");
        call_run(&echo, client);
        assert_int_equal(echo.code, REPL_OK);
        call_fini(&echo);
        pump_for(world, 50);
    }
    expect_silent(&dead);
    pump_for(world, 300);
    assert_false(alive.done);
    call_fini(&dead);
    repl_client_free(client);
}

/* A site that takes nothing for a while, or thinks for long, is there: its kernel says so. Longer
 * than keepalive takes to ask, and than a window that stays closed is asked about. */
static void test_slow_site_is_not_silent(void **state)
{
    struct world *world = *state;
    listen_patiently(world);
    struct repl_client *client = silence_client(world, 400);
    struct call held_up, thinking;
    call_init(&held_up, world, "PUT", "/black-hole");
    call_stream(&held_up, STREAM_SIZE);
    call_start(&held_up, client);
    call_init(&thinking, world, "GET", "/never");
    call_start(&thinking, client);
    pump_for(world, 4000);
    assert_false(held_up.done || thinking.done);
    assert_true(held_up.produced < STREAM_SIZE);
    repl_client_free(client);
    call_fini(&held_up);
    call_fini(&thinking);
}

/* The site lets go of a connection whose host has vanished, though its own timeout is longer. */
static void test_site_probes_its_hosts(void **state)
{
    struct world *world = *state;
    listen_patiently(world);
    struct repl_client *client = silence_client(world, 60000);
    struct call call;
    call_init(&call, world, "PUT", "/swallow");
    call_stream(&call, STREAM_SIZE);
    call.pause_for_good = true;
    call_start(&call, client);
    PUMP_UNTIL(world, world->pieces > 0);
    line_cut(world);
    int64_t cut_ns = repl_now_mono_ns();
    PUMP_UNTIL(world, world->closed == 1);
    assert_in_range((repl_now_mono_ns() - cut_ns) / 1000000, 7000, 15000);
    repl_client_free(client);
    call_fini(&call);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_silent_line),           TEST(test_quiet_line_is_probed),
        TEST(test_silent_connection),     TEST(test_slow_site_is_not_silent),
        TEST(test_site_probes_its_hosts),
    };
    tests_choose();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
