/*
 * The client, against a listener in the same loop. A site that does not behave
 * runs in a thread of its own and speaks through GnuTLS, and so does the fetcher,
 * which blocks.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "unit/agent/link/link_fixture.h"

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

/* --- bandwidth ------------------------------------------------------------------------------- */

#define BANDWIDTH (8 * MIB) /* a second */

static struct repl_client *narrow_client(struct world *world, uint64_t bytes_per_s)
{
    struct repl_error err = {0};
    struct repl_client *client;
    struct repl_client_options options = {.address = world->address,
                                          .key_path = world->host_key,
                                          .fingerprint = world->site,
                                          .stall_timeout_ms = 200,
                                          .bandwidth = {.bytes_per_s = bytes_per_s}};
    must(repl_client_new(world->loop, &options, &client, &err), &err);
    return client;
}

/* Bodies at once, each begun later than the one before: together they take what there is, and share
 * it. */
static void test_bandwidth_is_shared(void **state)
{
    struct world *world = *state;
    struct repl_client *client = narrow_client(world, BANDWIDTH);
    struct call calls[3];
    double before[3], sent[3], sum = 0;
    assert_int_equal(repl_client_bandwidth(client), BANDWIDTH);
    for (unsigned i = 0; i < 3; i++) {
        call_init(&calls[i], world, "PUT", "/swallow");
        call_stream(&calls[i], 64 * MIB);
        call_start(&calls[i], client);
        pump_for(world, 500);
    }
    for (unsigned i = 0; i < 3; i++)
        before[i] = (double)calls[i].produced;
    int64_t begin_ns = repl_now_mono_ns();
    pump_for(world, 1500);
    double could = BANDWIDTH * (double)(repl_now_mono_ns() - begin_ns) / 1e9;
    for (unsigned i = 0; i < 3; i++) {
        sent[i] = (double)calls[i].produced - before[i];
        sum += sent[i];
    }
    print_message("of %.1f MiB three bodies took %.2f, %.2f and %.2f\n", could / MIB, sent[0] / MIB,
                  sent[1] / MIB, sent[2] / MIB);
    assert_true(sum <= could + 0.3 * BANDWIDTH && sum >= 0.7 * could);
    for (unsigned i = 0; i < 3; i++) {
        assert_true(sent[i] > 0.2 * sum);
        assert_false(calls[i].done); /* waiting for bandwidth is no stall */
        repl_request_cancel(&calls[i].request);
        call_fini(&calls[i]);
    }
    repl_client_free(client);
}

/* So narrow that a body takes longer than the time after which a stall is told. */
static void test_bandwidth_is_no_stall(void **state)
{
    struct world *world = *state;
    struct repl_client *client = narrow_client(world, 16384);
    struct call call;
    call_init(&call, world, "PUT", "/swallow");
    call_stream(&call, 20000);
    int64_t begin_ns = repl_now_mono_ns();
    call_run(&call, client);
    assert_true(repl_now_mono_ns() - begin_ns >= INT64_C(900000000));
    expect_answer(&call, 404, "/swallow");
    call_fini(&call);
    repl_client_free(client);
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
        TEST(test_bandwidth_is_shared),
        TEST(test_bandwidth_is_no_stall),
        TEST(test_clients_are_told_apart),
        TEST(test_wrong_site),
        TEST(test_site_changes_its_key),
        TEST(test_nobody_there),
        TEST(test_impostor_reads_nothing),
        TEST(test_fetcher),
    };
    tests_choose();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
