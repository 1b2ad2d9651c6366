/*
 * Listener and client, over loopback TLS in one loop. What needs a peer that
 * does not behave, or one that blocks, runs in a thread of its own and speaks
 * through GnuTLS or the fetcher.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <linux/filter.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "link/client.h"
#include "site/listen/listener.h"

#define MIB         (1u << 20)
#define TIME_LIMIT  20000
#define STREAM_SIZE (64u * MIB)

/* --- the site: what it does is in the path --------------------------------------------------- */

struct visit {
    struct world *world;
    struct repl_exchange *exchange;
    struct visit *next;
    char *body;
    size_t size, room;
    uint64_t sum;
    unsigned pieces;
    size_t piece_max;
    bool answered;
    struct repl_timer timer;
};

struct world {
    struct repl_loop *loop;
    struct repl_listener *listener;
    struct visit *visits;
    char directory[64];
    char site_key[96], other_site_key[96], host_key[96], second_host_key[96], data[96];
    struct repl_digest site, other_site, host, second_host;
    char address[32];
    unsigned begun, ended, closed, closed_complete;
    unsigned pieces;
    size_t piece_max;
    char last_remote[80];
};

static char stream_byte(uint64_t position)
{
    return (char)(position * 31 + (position >> 12));
}

static void stream_fill(char *buffer, size_t size, uint64_t position)
{
    for (size_t i = 0; i < size; i++)
        buffer[i] = stream_byte(position + i);
}

static bool on_path(const struct repl_exchange *exchange, const char *path)
{
    return strcmp(repl_exchange_path(exchange), path) == 0;
}

static void visit_answer(struct visit *visit, int status, const char *text)
{
    visit->answered = true;
    repl_exchange_respond(visit->exchange, status, "text/plain", text, strlen(text));
}

static void visit_timer(struct repl_timer *timer)
{
    struct visit *visit = timer->context;
    struct repl_exchange *exchange = visit->exchange;
    if (on_path(exchange, "/later"))
        visit_answer(visit, 200, "later");
    else if (on_path(exchange, "/disk-full"))
        visit_answer(visit, 507, "full");
    else
        repl_exchange_resume(exchange);
}

static void visit_later(struct visit *visit, int ms)
{
    repl_timer_arm(visit->world->loop, &visit->timer, repl_now_mono_ns() + ms * 1000000ll);
}

static void answer_file(struct world *world, struct repl_exchange *exchange)
{
    int fd = open(world->data, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    unsigned long from = 0, to = STREAM_SIZE / 16 - 1;
    const char *range = repl_exchange_header(exchange, "range");
    if (range != NULL)
        assert_int_equal(sscanf(range, "bytes=%lu-%lu", &from, &to), 2);
    repl_exchange_respond_file(exchange, 200, fd, from, to - from + 1, STREAM_SIZE / 16);
}

static void site_begin(void *owner, struct repl_exchange *exchange)
{
    struct world *world = owner;
    struct visit *visit = calloc(1, sizeof *visit);
    world->begun++;
    snprintf(world->last_remote, sizeof world->last_remote, "%s", repl_exchange_remote(exchange));
    visit->world = world;
    visit->exchange = exchange;
    visit->timer = (struct repl_timer){.fire = visit_timer, .context = visit};
    visit->next = world->visits;
    world->visits = visit;
    repl_exchange_set_context(exchange, visit);
    if (!on_path(exchange, "/stranger"))
        repl_exchange_trust(exchange);
    if (on_path(exchange, "/refused-at-once"))
        visit_answer(visit, 403, "not for you");
    if (on_path(exchange, "/paused-at-once")) {
        repl_exchange_pause(exchange);
        visit_later(visit, 50);
    }
}

static void visit_keep(struct visit *visit, const char *data, size_t size)
{
    if (visit->size + size > visit->room) {
        visit->room = 2 * (visit->size + size);
        visit->body = realloc(visit->body, visit->room);
        assert_non_null(visit->body);
    }
    memcpy(visit->body + visit->size, data, size);
}

static void site_body(void *owner, struct repl_exchange *exchange, const void *data, size_t size)
{
    struct world *world = owner;
    struct visit *visit = repl_exchange_context(exchange);
    assert_true(size > 0);
    assert_false(visit->answered);
    visit->pieces++;
    world->pieces++;
    if (size > world->piece_max)
        world->piece_max = size;
    if (on_path(exchange, "/stream")) {
        const char *bytes = data;
        for (size_t i = 0; i < size; i += 997)
            assert_int_equal(bytes[i], stream_byte(visit->size + i));
        if (visit->pieces % 512 == 0) {
            repl_exchange_pause(exchange);
            visit_later(visit, 3);
        }
    } else if (on_path(exchange, "/echo") || on_path(exchange, "/paused-at-once")) {
        visit_keep(visit, data, size);
    }
    visit->size += size;
    if (on_path(exchange, "/conflict") && visit->size >= 256u * 1024)
        visit_answer(visit, 409, "another lineage owns it");
    if (on_path(exchange, "/black-hole"))
        repl_exchange_pause(exchange);
    if (on_path(exchange, "/disk-full") && visit->pieces == 1)
        visit_later(visit, 20);
}

static void site_end(void *owner, struct repl_exchange *exchange)
{
    struct world *world = owner;
    struct visit *visit = repl_exchange_context(exchange);
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    assert_false(visit->answered);
    world->ended++;
    if (on_path(exchange, "/never") || on_path(exchange, "/disk-full"))
        return;
    if (on_path(exchange, "/later")) {
        visit_later(visit, 50);
        return;
    }
    visit->answered = true;
    if (on_path(exchange, "/who")) {
        repl_fingerprint_format(repl_exchange_peer(exchange), text);
        repl_exchange_respond(exchange, 200, "text/plain", text, strlen(text));
    } else if (on_path(exchange, "/file")) {
        answer_file(world, exchange);
    } else if (on_path(exchange, "/offset")) {
        const char *offset = repl_exchange_header(exchange, "repl-offset");
        visit_answer(visit, 200, offset != NULL ? offset : "none");
    } else if (on_path(exchange, "/echo") || on_path(exchange, "/paused-at-once")) {
        repl_exchange_respond(exchange, 200, NULL, visit->body, visit->size);
    } else if (on_path(exchange, "/stream")) {
        snprintf(text, sizeof text, "%zu", visit->size);
        visit_answer(visit, 201, text);
    } else {
        visit_answer(visit, 404, repl_exchange_path(exchange));
    }
}

static void site_closed(void *owner, struct repl_exchange *exchange, bool complete)
{
    struct world *world = owner;
    struct visit *visit = repl_exchange_context(exchange);
    struct visit **link = &world->visits;
    while (*link != visit)
        link = &(*link)->next;
    *link = visit->next;
    world->closed++;
    world->closed_complete += complete;
    repl_timer_cancel(&visit->timer);
    free(visit->body);
    free(visit);
}

static const struct repl_exchange_handler site_handler = {
    .begin = site_begin,
    .body = site_body,
    .end = site_end,
    .closed = site_closed,
};

/* --- the world ------------------------------------------------------------------------------- */

static void must(repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result))
        fail_msg("%s: %s", repl_code_name(result.code), err->text);
}

static void make_key(struct world *world, char path[96], const char *name,
                     struct repl_digest *fingerprint)
{
    struct repl_error err = {0};
    snprintf(path, 96, "%s/%s.key", world->directory, name);
    must(repl_key_generate(path, name, fingerprint, &err), &err);
}

static void listen_on(struct world *world, const char *key, unsigned port)
{
    struct repl_error err = {0};
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    struct repl_listener_options options = {.address = address,
                                            .key_path = key,
                                            .idle_timeout_s = 2,
                                            .handler = &site_handler,
                                            .owner = world};
    must(repl_listener_new(world->loop, &options, &world->listener, &err), &err);
    snprintf(world->address, sizeof world->address, "127.0.0.1:%u",
             repl_listener_port(world->listener));
}

static void write_data(struct world *world)
{
    static char block[MIB];
    snprintf(world->data, sizeof world->data, "%s/data", world->directory);
    int fd = open(world->data, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < STREAM_SIZE / 16 / MIB; i++) {
        stream_fill(block, sizeof block, (uint64_t)i * sizeof block);
        assert_int_equal(write(fd, block, sizeof block), sizeof block);
    }
    close(fd);
}

static int setup(void **state)
{
    static struct world world;
    world = (struct world){0};
    struct repl_error err = {0};
    struct repl_loop_options options = {.backend = REPL_LOOP_AUTO};
    must(repl_loop_new(&options, &world.loop, &err), &err);
    snprintf(world.directory, sizeof world.directory, "/tmp/test_link.XXXXXX");
    assert_non_null(mkdtemp(world.directory));
    make_key(&world, world.site_key, "site", &world.site);
    make_key(&world, world.other_site_key, "other-site", &world.other_site);
    make_key(&world, world.host_key, "host", &world.host);
    make_key(&world, world.second_host_key, "second-host", &world.second_host);
    write_data(&world);
    listen_on(&world, world.site_key, 0);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    repl_listener_free(world->listener);
    assert_null(world->visits);
    assert_int_equal(world->begun, world->closed);
    repl_loop_free(world->loop);
    unlink(world->site_key);
    unlink(world->other_site_key);
    unlink(world->host_key);
    unlink(world->second_host_key);
    unlink(world->data);
    rmdir(world->directory);
    return 0;
}

static void turn(struct world *world, int64_t deadline_ns)
{
    struct repl_error err = {0};
    must(repl_loop_once(world->loop, 20, &err), &err);
    if (repl_now_mono_ns() > deadline_ns)
        fail_msg("it takes too long");
}

#define PUMP_UNTIL(world, condition)                                                               \
    do {                                                                                           \
        int64_t deadline_ns_ = repl_now_mono_ns() + TIME_LIMIT * 1000000ll;                        \
        while (!(condition))                                                                       \
            turn(world, deadline_ns_);                                                             \
    } while (0)

static void pump_for(struct world *world, int ms)
{
    int64_t until_ns = repl_now_mono_ns() + ms * 1000000ll;
    while (repl_now_mono_ns() < until_ns)
        turn(world, INT64_MAX);
}

/* --- a call of the client -------------------------------------------------------------------- */

struct call {
    struct repl_request request;
    struct world *world;
    bool done;
    enum repl_code code;
    struct repl_error err;
    int status;
    char *response;
    size_t size;
    /* a body that is produced */
    uint64_t produced, total;
    unsigned reads;
    unsigned pause_every; /* 0: never */
    bool pause_for_good;
    bool cancel_in_read;
    struct repl_timer timer;
};

static void call_resume(struct repl_timer *timer)
{
    struct call *call = timer->context;
    repl_request_resume(&call->request);
}

static size_t call_read(struct repl_request *request, void *buffer, size_t size)
{
    struct call *call = request->context;
    if (call->cancel_in_read && call->produced > MIB) {
        repl_request_cancel(request);
        return 1;
    }
    call->reads++;
    if (call->pause_for_good && call->produced > 0)
        return REPL_BODY_PAUSE;
    if (call->pause_every != 0 && call->reads % call->pause_every == 0) {
        repl_timer_arm(call->world->loop, &call->timer, repl_now_mono_ns() + 2000000);
        return REPL_BODY_PAUSE;
    }
    if (size > call->total - call->produced)
        size = (size_t)(call->total - call->produced);
    stream_fill(buffer, size, call->produced);
    call->produced += size;
    return size;
}

static void call_done(struct repl_request *request, repl_result result,
                      const struct repl_error *err)
{
    struct call *call = request->context;
    assert_false(call->done);
    call->done = true;
    call->code = result.code;
    call->err = *err;
    call->status = request->status;
    call->size = request->response_size;
    assert_int_equal(request->response[call->size], '\0');
    call->response = malloc(call->size + 1);
    memcpy(call->response, request->response, call->size + 1);
}

static void call_init(struct call *call, struct world *world, const char *method, const char *path)
{
    memset(call, 0, sizeof *call);
    call->world = world;
    call->timer = (struct repl_timer){.fire = call_resume, .context = call};
    call->request.method = method;
    snprintf(call->request.path, sizeof call->request.path, "%s", path);
    call->request.offset = -1;
    call->request.done = call_done;
    call->request.context = call;
}

static void call_stream(struct call *call, uint64_t total)
{
    call->request.read_body = call_read;
    call->total = total;
}

static void call_start(struct call *call, struct repl_client *client)
{
    struct repl_error err = {0};
    must(repl_request_start(client, &call->request, &err), &err);
    assert_false(call->done);
}

static void call_run(struct call *call, struct repl_client *client)
{
    call_start(call, client);
    PUMP_UNTIL(call->world, call->done);
}

static void call_fini(struct call *call)
{
    repl_timer_cancel(&call->timer);
    free(call->response);
}

static void expect_answer(const struct call *call, int status, const char *text)
{
    if (call->code != REPL_OK)
        fail_msg("%s: %s", repl_code_name(call->code), call->err.text);
    assert_int_equal(call->status, status);
    assert_string_equal(call->response, text);
}

static struct repl_client *client_for(struct world *world, const char *key,
                                      const struct repl_digest *site, unsigned stall_ms)
{
    struct repl_error err = {0};
    struct repl_client *client;
    struct repl_client_options options = {.address = world->address,
                                          .key_path = key,
                                          .fingerprint = *site,
                                          .stall_timeout_ms = stall_ms};
    must(repl_client_new(world->loop, &options, &client, &err), &err);
    return client;
}

static struct repl_client *host_client(struct world *world)
{
    return client_for(world, world->host_key, &world->site, 0);
}

/* --- answers --------------------------------------------------------------------------------- */

static void test_echo(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    for (int i = 0; i < 5; i++) {
        static char body[300 * 1024 + 1];
        memset(body, 'a' + i, sizeof body - 1);
        size_t size = i == 0 ? 0 : i == 1 ? 5 : i == 2 ? 40 * 1024 : sizeof body - 1;
        body[size] = '\0';
        call_init(&call, world, "POST", "/echo");
        call.request.body = body;
        call.request.body_size = size;
        call_run(&call, client);
        expect_answer(&call, 200, body);
        assert_true(call.request.round_trip_ns > 0 && call.request.round_trip_ns < 5000000000ll);
        call_fini(&call);
        body[size] = 'x';
    }
    assert_memory_equal(world->last_remote, "127.0.0.1:", 10);
    repl_client_free(client);
    PUMP_UNTIL(world, world->closed == world->begun);
    assert_int_equal(world->closed_complete, 5);
}

static void test_connection_is_kept(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    char remote[80] = "";
    for (int i = 0; i < 4; i++) {
        struct call call;
        /* Also after an answer that came before a short body had. */
        call_init(&call, world, i % 2 == 0 ? "GET" : "POST",
                  i % 2 == 0 ? "/who" : "/refused-at-once");
        call.request.body = i % 2 == 0 ? NULL : "a short body";
        call.request.body_size = i % 2 == 0 ? 0 : 12;
        call_run(&call, client);
        assert_int_equal(call.status, i % 2 == 0 ? 200 : 403);
        if (i > 0)
            assert_string_equal(remote, world->last_remote);
        memcpy(remote, world->last_remote, sizeof remote);
        call_fini(&call);
    }
    repl_client_free(client);
}

static void test_later_and_many(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call calls[12];
    for (size_t i = 0; i < 12; i++) {
        call_init(&calls[i], world, "GET", i % 3 == 0 ? "/later" : "/who");
        call_start(&calls[i], client);
    }
    for (size_t i = 0; i < 12; i++) {
        PUMP_UNTIL(world, calls[i].done);
        assert_int_equal(calls[i].status, 200);
        if (i % 3 == 0)
            assert_true(calls[i].request.round_trip_ns >= 49000000);
        call_fini(&calls[i]);
    }
    repl_client_free(client);
}

static void test_header_and_path(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "PUT", "/offset");
    call.request.offset = 12345678901;
    call_run(&call, client);
    expect_answer(&call, 200, "12345678901");
    call_fini(&call);

    static const char odd[] = "/v1/a b?c=d#e%2f/../\xc3\xa4&@:";
    call_init(&call, world, "GET", odd);
    call_run(&call, client);
    expect_answer(&call, 404, odd);
    call_fini(&call);

    struct repl_error err = {0};
    call_init(&call, world, "GET", "@127.0.0.2/");
    assert_int_equal(repl_request_start(client, &call.request, &err).code, REPL_E_INTERNAL);
    call_init(&call, world, "GET X", "/");
    assert_int_equal(repl_request_start(client, &call.request, &err).code, REPL_E_INTERNAL);
    call_init(&call, world, "GET", "/");
    snprintf(call.request.range, sizeof call.request.range, "0-1\r\nX: y");
    assert_int_equal(repl_request_start(client, &call.request, &err).code, REPL_E_INTERNAL);
    repl_client_free(client);
}

static void test_file_ranges(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "GET", "/file");
    call.request.response_limit = STREAM_SIZE;
    call_run(&call, client);
    assert_int_equal(call.status, 200);
    assert_int_equal(call.size, STREAM_SIZE / 16);
    for (size_t i = 0; i < call.size; i++)
        if (call.response[i] != stream_byte(i))
            fail_msg("byte %zu differs", i);
    call_fini(&call);

    call_init(&call, world, "GET", "/file");
    snprintf(call.request.range, sizeof call.request.range, "1000-70999");
    call_run(&call, client);
    assert_int_equal(call.status, 206);
    assert_int_equal(call.size, 70000);
    for (size_t i = 0; i < call.size; i++)
        if (call.response[i] != stream_byte(1000 + i))
            fail_msg("byte %zu differs", i);
    call_fini(&call);
    repl_client_free(client);
}

static void test_file_too_short(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "GET", "/file");
    snprintf(call.request.range, sizeof call.request.range, "4190000-4999999");
    call_run(&call, client);
    assert_int_equal(call.code, REPL_E_RETRY);
    assert_int_equal(call.status, 0);
    call_fini(&call);
    PUMP_UNTIL(world, world->closed == 1);
    assert_int_equal(world->closed_complete, 0);
    repl_client_free(client);
}

static void test_response_limit(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "GET", "/file");
    call.request.response_limit = 100000;
    call_run(&call, client);
    assert_int_equal(call.code, REPL_E_NOMEM);
    assert_non_null(strstr(call.err.text, "longer than 100000 bytes"));
    call_fini(&call);
    repl_client_free(client);
}

/* --- bodies that are produced ---------------------------------------------------------------- */

static void test_stream_with_pauses(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "PUT", "/stream");
    call_stream(&call, STREAM_SIZE);
    call.pause_every = 5;
    call_run(&call, client);
    expect_answer(&call, 201, "67108864");
    call_fini(&call);
    repl_client_free(client);
}

static void test_stream_speed(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "PUT", "/swallow");
    call_stream(&call, STREAM_SIZE);
    int64_t begin_ns = repl_now_mono_ns();
    call_run(&call, client);
    int64_t took_ns = repl_now_mono_ns() - begin_ns;
    expect_answer(&call, 404, "/swallow");
    print_message("%s: %.0f MB/s in one thread, pieces of %zu bytes at most\n",
                  repl_loop_backend_name(world->loop), STREAM_SIZE * 1e3 / (double)took_ns,
                  world->piece_max);
    call_fini(&call);
    repl_client_free(client);
}

static void test_pause_in_begin(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "POST", "/paused-at-once");
    call.request.body = "some words";
    call.request.body_size = 10;
    call_run(&call, client);
    expect_answer(&call, 200, "some words");
    call_fini(&call);
    /* Without a body the end waits for the resume. */
    call_init(&call, world, "GET", "/paused-at-once");
    call_run(&call, client);
    expect_answer(&call, 200, "");
    call_fini(&call);
    repl_client_free(client);
}

static void early(struct world *world, const char *path, bool pause, int status, const char *text)
{
    struct repl_client *client = host_client(world);
    unsigned ended = world->ended;
    struct call call;
    call_init(&call, world, "PUT", path);
    call_stream(&call, STREAM_SIZE);
    call.pause_for_good = pause;
    call_run(&call, client);
    expect_answer(&call, status, text);
    assert_true(call.produced < STREAM_SIZE);
    assert_int_equal(world->ended, ended);
    call_fini(&call);
    PUMP_UNTIL(world, world->closed == world->begun);
    assert_int_equal(world->closed_complete, world->closed);

    call_init(&call, world, "GET", "/who"); /* the client goes on over a new connection */
    call_run(&call, client);
    assert_int_equal(call.status, 200);
    call_fini(&call);
    repl_client_free(client);
    PUMP_UNTIL(world, world->closed == world->begun);
}

static void test_early_answer(void **state)
{
    for (int i = 0; i < 10; i++) {
        early(*state, "/conflict", false, 409, "another lineage owns it");
        early(*state, "/refused-at-once", false, 403, "not for you");
        early(*state, "/disk-full", false, 507, "full");
    }
}

/* The host has nothing to send just now, and must hear of the refusal all the same. */
static void test_early_answer_to_paused_body(void **state)
{
    early(*state, "/refused-at-once", true, 403, "not for you");
    early(*state, "/disk-full", true, 507, "full");
}

static void test_early_answer_to_known_body(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    static char body[8 * MIB];
    struct call call;
    call_init(&call, world, "PUT", "/refused-at-once");
    call.request.body = body;
    call.request.body_size = sizeof body;
    call_run(&call, client);
    expect_answer(&call, 403, "not for you");
    call_fini(&call);
    repl_client_free(client);
}

static void test_cancel(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call running, queued, inside;
    call_init(&running, world, "PUT", "/stream");
    call_stream(&running, STREAM_SIZE);
    running.pause_for_good = true;
    call_start(&running, client);
    PUMP_UNTIL(world, world->pieces > 0);
    repl_request_cancel(&running.request);
    PUMP_UNTIL(world, world->closed == 1);

    call_init(&inside, world, "PUT", "/stream");
    call_stream(&inside, STREAM_SIZE);
    inside.cancel_in_read = true;
    call_start(&inside, client);
    PUMP_UNTIL(world, world->closed == 2);

    call_init(&queued, world, "GET", "/who");
    call_start(&queued, client);
    repl_request_cancel(&queued.request);
    repl_request_cancel(&queued.request);
    repl_request_resume(&queued.request);
    pump_for(world, 30);
    assert_false(running.done || inside.done || queued.done);
    assert_int_equal(world->begun, 2);
    assert_int_equal(world->closed_complete, 0);
    assert_int_equal(world->ended, 0);
    repl_client_free(client);
}

/* Both ends are freed with requests under way in every state. */
static void test_free_while_busy(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    static const char *const paths[] = {"/never", "/black-hole", "/later", "/stream", "/who"};
    struct call calls[5];
    for (size_t i = 0; i < 5; i++) {
        call_init(&calls[i], world, i % 2 == 0 ? "GET" : "PUT", paths[i]);
        if (i % 2 == 1)
            call_stream(&calls[i], STREAM_SIZE);
        calls[i].pause_for_good = true;
        call_start(&calls[i], client);
    }
    PUMP_UNTIL(world, world->begun == 5 && world->pieces >= 2);
    repl_listener_free(world->listener);
    world->listener = NULL;
    assert_int_equal(world->closed, 5);
    repl_client_free(client);
    for (size_t i = 0; i < 5; i++)
        call_fini(&calls[i]);
}

static void free_client_in_done(struct repl_request *request, repl_result result,
                                const struct repl_error *err)
{
    repl_client_free(request->client);
    call_done(request, result, err);
}

static void test_free_in_done(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call first, second;
    call_init(&first, world, "GET", "/who");
    call_init(&second, world, "GET", "/never");
    first.request.done = free_client_in_done;
    call_start(&first, client);
    call_start(&second, client);
    PUMP_UNTIL(world, first.done);
    assert_int_equal(first.status, 200);
    pump_for(world, 20);
    assert_false(second.done);
    call_fini(&first);
}

/* --- stalls ---------------------------------------------------------------------------------- */

static void stalls(struct world *world, const char *path, bool stream)
{
    struct repl_client *client = client_for(world, world->host_key, &world->site, 300);
    struct call call;
    call_init(&call, world, stream ? "PUT" : "GET", path);
    if (stream)
        call_stream(&call, STREAM_SIZE);
    int64_t begin_ns = repl_now_mono_ns();
    call_run(&call, client);
    int64_t took_ms = (repl_now_mono_ns() - begin_ns) / 1000000;
    assert_int_equal(call.code, REPL_E_RETRY);
    assert_non_null(strstr(call.err.text, "not a byte"));
    assert_true(took_ms >= 300 && took_ms < 3000);
    call_fini(&call);
    repl_client_free(client);
}

static void test_stalled_answer(void **state)
{
    stalls(*state, "/never", false);
}

static void test_stalled_upload(void **state)
{
    stalls(*state, "/black-hole", true);
}

static void test_paused_is_not_stalled(void **state)
{
    struct world *world = *state;
    struct repl_client *client = client_for(world, world->host_key, &world->site, 200);
    struct call call;
    call_init(&call, world, "PUT", "/swallow");
    call_stream(&call, 3 * MIB);
    call.pause_for_good = true;
    call_start(&call, client);
    pump_for(world, 700);
    assert_false(call.done);
    call.pause_for_good = false;
    repl_request_resume(&call.request);
    PUMP_UNTIL(world, call.done);
    expect_answer(&call, 404, "/swallow");
    call_fini(&call);
    repl_client_free(client);
}

/* --- silence --------------------------------------------------------------------------------- */

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
    struct repl_error err = {0};
    repl_listener_free(world->listener);
    struct repl_listener_options options = {.address = "127.0.0.1:0",
                                            .key_path = world->site_key,
                                            .handler = &site_handler,
                                            .owner = world};
    must(repl_listener_new(world->loop, &options, &world->listener, &err), &err);
    snprintf(world->address, sizeof world->address, "127.0.0.1:%u",
             repl_listener_port(world->listener));
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

/* --- keys ------------------------------------------------------------------------------------ */

static void test_clients_are_told_apart(void **state)
{
    struct world *world = *state;
    struct repl_client *clients[2] = {host_client(world),
                                      client_for(world, world->second_host_key, &world->site, 0)};
    const struct repl_digest *digests[2] = {&world->host, &world->second_host};
    for (int i = 0; i < 6; i++) {
        char text[REPL_FINGERPRINT_TEXT_SIZE];
        struct call call;
        call_init(&call, world, "GET", "/who");
        call_run(&call, clients[i % 2]);
        repl_fingerprint_format(digests[i % 2], text);
        expect_answer(&call, 200, text);
        call_fini(&call);
    }
    repl_client_free(clients[0]);
    repl_client_free(clients[1]);
}

static void expect_other_key(const struct call *call, const struct repl_digest *wanted,
                             const struct repl_digest *seen)
{
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    assert_int_equal(call->code, REPL_E_REFUSED);
    repl_fingerprint_format(wanted, text);
    assert_non_null(strstr(call->err.text, text));
    repl_fingerprint_format(seen, text);
    assert_non_null(strstr(call->err.text, text));
}

static void test_wrong_site(void **state)
{
    struct world *world = *state;
    struct repl_client *client = client_for(world, world->host_key, &world->other_site, 0);
    struct call call;
    for (int i = 0; i < 2; i++) {
        call_init(&call, world, "POST", "/echo");
        call.request.body = "secret";
        call.request.body_size = 6;
        call_run(&call, client);
        expect_other_key(&call, &world->other_site, &world->site);
        call_fini(&call);
    }
    assert_int_equal(world->begun, 0);
    repl_client_free(client);
}

/* A client whose site changes its key under way. */
static void test_site_changes_its_key(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "GET", "/who");
    call_run(&call, client);
    assert_int_equal(call.status, 200);
    call_fini(&call);
    unsigned port = repl_listener_port(world->listener);
    repl_listener_free(world->listener);
    world->listener = NULL;
    listen_on(world, world->other_site_key, port);
    call_init(&call, world, "GET", "/who");
    call_run(&call, client);
    expect_other_key(&call, &world->site, &world->other_site);
    call_fini(&call);
    assert_int_equal(world->begun, 1);
    repl_client_free(client);
}

static void test_nobody_there(void **state)
{
    struct world *world = *state;
    struct repl_client *client = host_client(world);
    repl_listener_free(world->listener);
    world->listener = NULL;
    struct call call;
    call_init(&call, world, "GET", "/who");
    call_run(&call, client);
    assert_int_equal(call.code, REPL_E_RETRY);
    assert_non_null(strstr(call.err.text, world->address));
    assert_non_null(strstr(call.err.text, "refused"));
    call_fini(&call);
    repl_client_free(client);
}

/* --- peers made by hand ---------------------------------------------------------------------- */

#define RAW_ANSWER_SIZE 4096

struct raw {
    struct world *world;
    const char *key;      /* NULL: no certificate */
    const char *priority; /* NULL: TLS 1.3 */
    const char *request;
    size_t request_size;
    size_t filler; /* bytes sent after it */
    bool hang_up;  /* without waiting for an answer */
    bool connected;
    char answer[RAW_ANSWER_SIZE];
    size_t answer_size;
    int ended; /* what ended it: 0 closed properly, or GnuTLS's error */
    atomic_bool done;
};

static int raw_connect(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    struct timeval limit = {.tv_sec = 10};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    int rc;
    do /* one that was interrupted goes on by itself */
        rc = connect(fd, (struct sockaddr *)&to, sizeof to);
    while (rc != 0 && (errno == EINTR || errno == EALREADY));
    if (rc == 0 || errno == EISCONN)
        return fd;
    close(fd);
    return -1;
}

static void raw_exchange(struct raw *raw, gnutls_session_t session)
{
    static const char filler[16384];
    if (raw->request_size == 0)
        raw->request_size = strlen(raw->request);
    ssize_t put = 1;
    for (size_t sent = 0; sent < raw->request_size && put > 0; sent += (size_t)put)
        put = gnutls_record_send(session, raw->request + sent, raw->request_size - sent);
    for (size_t sent = 0; sent < raw->filler; sent += sizeof filler)
        if (gnutls_record_send(session, filler, sizeof filler) < 0)
            break;
    if (raw->hang_up)
        return;
    ssize_t got;
    while ((got = gnutls_record_recv(session, raw->answer + raw->answer_size,
                                     sizeof raw->answer - 1 - raw->answer_size)) > 0)
        raw->answer_size += (size_t)got;
    raw->ended = (int)got;
}

static void *raw_thread(void *context)
{
    struct raw *raw = context;
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    gnutls_certificate_allocate_credentials(&credentials);
    if (raw->key != NULL)
        gnutls_certificate_set_x509_key_file(credentials, raw->key, raw->key, GNUTLS_X509_FMT_PEM);
    gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL);
    gnutls_priority_set_direct(
        session, raw->priority != NULL ? raw->priority : "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    int fd = raw_connect(raw->world->address);
    gnutls_transport_set_int(session, fd);
    int rc;
    do
        rc = gnutls_handshake(session);
    while (rc == GNUTLS_E_INTERRUPTED);
    raw->connected = rc == GNUTLS_E_SUCCESS;
    if (raw->connected)
        raw_exchange(raw, session);
    close(fd);
    gnutls_deinit(session);
    gnutls_certificate_free_credentials(credentials);
    raw->done = true;
    return NULL;
}

static void raw_run(struct raw *raw)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, raw_thread, raw), 0);
    PUMP_UNTIL(raw->world, raw->done);
    pthread_join(thread, NULL);
}

/* One request by hand; the answer's status, 0 for none. */
static int raw_status(struct world *world, const char *request)
{
    struct raw raw = {.world = world, .key = world->host_key, .request = request};
    int status = 0;
    raw_run(&raw);
    assert_true(raw.connected);
    sscanf(raw.answer, "HTTP/1.1 %d ", &status);
    return status;
}

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
        "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length:\t3\r\nConnection: close\r\n\r\nabc",
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

/* --- a site made by hand: what does it get to read? ------------------------------------------ */

struct impostor {
    struct world *world;
    int listen_fd;
    ssize_t read;
    bool handshaken;
    atomic_bool done;
};

static void *impostor_thread(void *context)
{
    struct impostor *impostor = context;
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    char buffer[4096];
    const char *key = impostor->world->other_site_key;
    gnutls_certificate_allocate_credentials(&credentials);
    gnutls_certificate_set_x509_key_file(credentials, key, key, GNUTLS_X509_FMT_PEM);
    gnutls_init(&session, GNUTLS_SERVER | GNUTLS_NO_SIGNAL);
    gnutls_priority_set_direct(session, "NORMAL:-VERS-ALL:+VERS-TLS1.3", NULL);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
    int fd = accept(impostor->listen_fd, NULL, NULL);
    gnutls_transport_set_int(session, fd);
    impostor->handshaken = gnutls_handshake(session) == GNUTLS_E_SUCCESS;
    impostor->read = gnutls_record_recv(session, buffer, sizeof buffer);
    close(fd);
    gnutls_deinit(session);
    gnutls_certificate_free_credentials(credentials);
    impostor->done = true;
    return NULL;
}

static void test_impostor_reads_nothing(void **state)
{
    struct world *world = *state;
    struct impostor impostor = {.world = world};
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    impostor.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(impostor.listen_fd, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(impostor.listen_fd, 4), 0);
    getsockname(impostor.listen_fd, (struct sockaddr *)&address, &size);
    snprintf(world->address, sizeof world->address, "127.0.0.1:%u", ntohs(address.sin_port));

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, impostor_thread, &impostor), 0);
    struct repl_client *client = host_client(world);
    struct call call;
    call_init(&call, world, "PUT", "/secret");
    call.request.body = "secret";
    call.request.body_size = 6;
    call_run(&call, client);
    PUMP_UNTIL(world, impostor.done);
    pthread_join(thread, NULL);
    expect_other_key(&call, &world->site, &world->other_site);
    assert_true(impostor.handshaken); /* so it could have read */
    assert_true(impostor.read <= 0);
    call_fini(&call);
    repl_client_free(client);
    close(impostor.listen_fd);
}

/* --- the fetcher ----------------------------------------------------------------------------- */

struct fetching {
    struct world *world;
    const struct repl_digest *site;
    const char *method, *path, *range, *body;
    unsigned stall_ms;
    size_t limit;
    int times;
    /* what came of it */
    enum repl_code code;
    struct repl_error err;
    int status;
    char *response;
    size_t size;
    atomic_bool done;
};

static void *fetching_thread(void *context)
{
    struct fetching *fetching = context;
    struct repl_fetcher *fetcher;
    struct repl_client_options options = {.address = fetching->world->address,
                                          .key_path = fetching->world->host_key,
                                          .fingerprint = *fetching->site,
                                          .stall_timeout_ms = fetching->stall_ms};
    repl_result result = repl_fetcher_new(&options, &fetcher, &fetching->err);
    for (int i = 0; repl_ok(result) && i < fetching->times; i++) {
        free(fetching->response);
        fetching->response = NULL;
        result =
            repl_fetch(fetcher, fetching->method, fetching->path, fetching->range, fetching->body,
                       fetching->body != NULL ? strlen(fetching->body) : 0, fetching->limit,
                       &fetching->status, &fetching->response, &fetching->size, &fetching->err);
    }
    fetching->code = result.code;
    repl_fetcher_free(fetcher);
    fetching->done = true;
    return NULL;
}

static void fetch_run(struct fetching *fetching)
{
    pthread_t thread;
    if (fetching->times == 0)
        fetching->times = 1;
    if (fetching->site == NULL)
        fetching->site = &fetching->world->site;
    assert_int_equal(pthread_create(&thread, NULL, fetching_thread, fetching), 0);
    PUMP_UNTIL(fetching->world, fetching->done);
    pthread_join(thread, NULL);
}

static void test_fetcher(void **state)
{
    struct world *world = *state;
    struct fetching post = {
        .world = world, .method = "POST", .path = "/echo", .body = "words", .times = 3};
    fetch_run(&post);
    assert_int_equal(post.code, REPL_OK);
    assert_int_equal(post.status, 200);
    assert_string_equal(post.response, "words");
    free(post.response);

    struct fetching get = {.world = world, .method = "GET", .path = "/file", .range = "5-1004"};
    fetch_run(&get);
    assert_int_equal(get.status, 206);
    assert_int_equal(get.size, 1000);
    for (size_t i = 0; i < get.size; i++)
        assert_int_equal(get.response[i], stream_byte(5 + i));
    free(get.response);

    struct fetching limited = {.world = world, .method = "GET", .path = "/file", .limit = 10};
    fetch_run(&limited);
    assert_int_equal(limited.code, REPL_E_NOMEM);
    assert_null(limited.response);

    struct fetching stalled = {.world = world, .method = "GET", .path = "/never", .stall_ms = 300};
    fetch_run(&stalled);
    assert_int_equal(stalled.code, REPL_E_RETRY);
    assert_non_null(strstr(stalled.err.text, "not a byte"));

    struct fetching wrong = {
        .world = world, .method = "GET", .path = "/who", .site = &world->other_site};
    unsigned begun = world->begun;
    fetch_run(&wrong);
    assert_int_equal(wrong.code, REPL_E_REFUSED);
    assert_int_equal(world->begun, begun);
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

/* Who is known may have more connections than a stranger. */
static void test_connection_limit(void **state)
{
    struct world *world = *state;
    struct repl_error err = {0};
    repl_listener_free(world->listener);
    struct repl_listener_options options = {.address = "127.0.0.1:0",
                                            .key_path = world->site_key,
                                            .stranger_limit_per_address = 1,
                                            .handler = &site_handler,
                                            .owner = world};
    must(repl_listener_new(world->loop, &options, &world->listener, &err), &err);
    snprintf(world->address, sizeof world->address, "127.0.0.1:%u",
             repl_listener_port(world->listener));
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
    struct repl_error err = {0};
    repl_listener_free(world->listener);
    struct repl_listener_options options = {.address = "127.0.0.1:0",
                                            .key_path = world->site_key,
                                            .connection_limit = 3,
                                            .idle_timeout_s = 1,
                                            .handler = &site_handler,
                                            .owner = world};
    must(repl_listener_new(world->loop, &options, &world->listener, &err), &err);
    snprintf(world->address, sizeof world->address, "127.0.0.1:%u",
             repl_listener_port(world->listener));
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
    struct repl_error err = {0};
    repl_listener_free(world->listener);
    struct repl_listener_options options = {.address = "127.0.0.1:0",
                                            .key_path = world->site_key,
                                            .stranger_time_ms = time_ms,
                                            .handler = &site_handler,
                                            .owner = world};
    must(repl_listener_new(world->loop, &options, &world->listener, &err), &err);
    snprintf(world->address, sizeof world->address, "127.0.0.1:%u",
             repl_listener_port(world->listener));
}

/* Closed by the other end, which has said nothing. */
static bool is_hung_up(int fd)
{
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN);
}

static void turn_for(struct world *world, int64_t ms)
{
    int64_t until_ns = repl_now_mono_ns() + ms * 1000000;
    PUMP_UNTIL(world, repl_now_mono_ns() > until_ns);
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
        turn_for(world, 50);
        assert_false(is_hung_up(silent) || is_hung_up(busy));
        assert_int_equal(send(busy, "", 1, 0), 1);
    }
    for (int i = 0; i < 15 && !is_hung_up(busy); i++) {
        turn_for(world, 50);
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
    turn_for(world, 300);
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
    turn_for(world, 200);
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
    turn_for(world, 200);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_echo),
        TEST(test_connection_is_kept),
        TEST(test_later_and_many),
        TEST(test_header_and_path),
        TEST(test_file_ranges),
        TEST(test_file_too_short),
        TEST(test_response_limit),
        TEST(test_stream_with_pauses),
        TEST(test_stream_speed),
        TEST(test_pause_in_begin),
        TEST(test_early_answer),
        TEST(test_early_answer_to_paused_body),
        TEST(test_early_answer_to_known_body),
        TEST(test_cancel),
        TEST(test_free_while_busy),
        TEST(test_free_in_done),
        TEST(test_stalled_answer),
        TEST(test_stalled_upload),
        TEST(test_paused_is_not_stalled),
        TEST(test_silent_line),
        TEST(test_quiet_line_is_probed),
        TEST(test_silent_connection),
        TEST(test_slow_site_is_not_silent),
        TEST(test_site_probes_its_hosts),
        TEST(test_clients_are_told_apart),
        TEST(test_wrong_site),
        TEST(test_site_changes_its_key),
        TEST(test_nobody_there),
        TEST(test_no_certificate),
        TEST(test_old_tls),
        TEST(test_framing),
        TEST(test_nul_in_header),
        TEST(test_oversized),
        TEST(test_bad_chunks),
        TEST(test_hang_up),
        TEST(test_idle_peer),
        TEST(test_early_answer_to_stubborn_peer),
        TEST(test_expect_continue),
        TEST(test_impostor_reads_nothing),
        TEST(test_fetcher),
        TEST(test_addresses),
        TEST(test_address_in_use),
        TEST(test_connection_limit),
        TEST(test_connections_in_all),
        TEST(test_strangers_have_little_time),
        TEST(test_unknown_keys_have_little_time),
        TEST(test_many_strangers_from_one_address),
        TEST(test_strangers_keep_no_host_out),
    };
    const char *only = getenv("TEST_ONLY");
    if (only != NULL)
        cmocka_set_test_filter(only);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
