/*
 * A site that does what the path says, and calls of clients, over loopback TLS in
 * one loop: for the tests of both ends of the link.
 */
#ifndef TESTS_UNIT_LINK_FIXTURE_H
#define TESTS_UNIT_LINK_FIXTURE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static inline char stream_byte(uint64_t position)
{
    return (char)(position * 31 + (position >> 12));
}

static inline void stream_fill(char *buffer, size_t size, uint64_t position)
{
    for (size_t i = 0; i < size; i++)
        buffer[i] = stream_byte(position + i);
}

static inline bool on_path(const struct repl_exchange *exchange, const char *path)
{
    return strcmp(repl_exchange_path(exchange), path) == 0;
}

static inline void visit_answer(struct visit *visit, int status, const char *text)
{
    visit->answered = true;
    repl_exchange_respond(visit->exchange, status, "text/plain", text, strlen(text));
}

static inline void visit_timer(struct repl_timer *timer)
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

static inline void visit_later(struct visit *visit, int ms)
{
    repl_timer_arm(visit->world->loop, &visit->timer, repl_now_mono_ns() + ms * 1000000ll);
}

static inline void answer_file(struct world *world, struct repl_exchange *exchange)
{
    int fd = open(world->data, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    unsigned long from = 0, to = STREAM_SIZE / 16 - 1;
    const char *range = repl_exchange_header(exchange, "range");
    if (range != NULL)
        assert_int_equal(sscanf(range, "bytes=%lu-%lu", &from, &to), 2);
    repl_exchange_respond_file(exchange, 200, fd, from, to - from + 1, STREAM_SIZE / 16);
}

static inline void site_begin(void *owner, struct repl_exchange *exchange)
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

static inline void visit_keep(struct visit *visit, const char *data, size_t size)
{
    if (visit->size + size > visit->room) {
        visit->room = 2 * (visit->size + size);
        visit->body = realloc(visit->body, visit->room);
        assert_non_null(visit->body);
    }
    memcpy(visit->body + visit->size, data, size);
}

static inline void site_body(void *owner, struct repl_exchange *exchange, const void *data,
                             size_t size)
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

static inline void site_end(void *owner, struct repl_exchange *exchange)
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

static inline void site_closed(void *owner, struct repl_exchange *exchange, bool complete)
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

static inline void must(repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result))
        fail_msg("%s: %s", repl_code_name(result.code), err->text);
}

static inline void make_key(struct world *world, char path[96], const char *name,
                            struct repl_digest *fingerprint)
{
    struct repl_error err = {0};
    snprintf(path, 96, "%s/%s.key", world->directory, name);
    must(repl_key_generate(path, name, fingerprint, &err), &err);
}

/* In place of the listener there is. What the options leave out: any port, and the site's key. */
static inline void listen_with(struct world *world, struct repl_listener_options options)
{
    struct repl_error err = {0};
    if (options.address == NULL)
        options.address = "127.0.0.1:0";
    if (options.key_path == NULL)
        options.key_path = world->site_key;
    options.handler = &site_handler;
    options.owner = world;
    repl_listener_free(world->listener);
    must(repl_listener_new(world->loop, &options, &world->listener, &err), &err);
    snprintf(world->address, sizeof world->address, "127.0.0.1:%u",
             repl_listener_port(world->listener));
}

static inline void listen_on(struct world *world, const char *key, unsigned port)
{
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    listen_with(world, (struct repl_listener_options){
                           .address = address, .key_path = key, .idle_timeout_s = 2});
}

static inline void write_data(struct world *world)
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

static inline int setup(void **state)
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

static inline int teardown(void **state)
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

static inline void turn(struct world *world, int64_t deadline_ns)
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

static inline void pump_for(struct world *world, int ms)
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

static inline void call_resume(struct repl_timer *timer)
{
    struct call *call = timer->context;
    repl_request_resume(&call->request);
}

static inline size_t call_read(struct repl_request *request, void *buffer, size_t size)
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

static inline void call_done(struct repl_request *request, repl_result result,
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

static inline void call_init(struct call *call, struct world *world, const char *method,
                             const char *path)
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

static inline void call_stream(struct call *call, uint64_t total)
{
    call->request.read_body = call_read;
    call->total = total;
}

static inline void call_start(struct call *call, struct repl_client *client)
{
    struct repl_error err = {0};
    must(repl_request_start(client, &call->request, &err), &err);
    assert_false(call->done);
}

static inline void call_run(struct call *call, struct repl_client *client)
{
    call_start(call, client);
    PUMP_UNTIL(call->world, call->done);
}

static inline void call_fini(struct call *call)
{
    repl_timer_cancel(&call->timer);
    free(call->response);
}

static inline void expect_answer(const struct call *call, int status, const char *text)
{
    if (call->code != REPL_OK)
        fail_msg("%s: %s", repl_code_name(call->code), call->err.text);
    assert_int_equal(call->status, status);
    assert_string_equal(call->response, text);
}

static inline struct repl_client *client_for(struct world *world, const char *key,
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

static inline struct repl_client *host_client(struct world *world)
{
    return client_for(world, world->host_key, &world->site, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* TEST_ONLY in the environment: the tests to run, a pattern. */
static inline void tests_choose(void)
{
    const char *only = getenv("TEST_ONLY");
    if (only != NULL)
        cmocka_set_test_filter(only);
}

#endif
