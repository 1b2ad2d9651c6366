/*
 * What is asked of a whole site beside taking in: chunks that it lacks, reports,
 * who may what, and reading.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "unit/agent/site/site_world.h"

/* --- chunks ---------------------------------------------------------------------------------- */

static size_t supplies_stored(struct world *w)
{
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/supplies"), 200);
    json_t *list = json_loadb((const char *)w->response.data, w->response.size, 0, NULL);
    size_t count = json_array_size(list);
    json_decref(list);
    return count;
}

static void test_missing_chunks(void **state)
{
    struct world *w = *state;
    struct build b, supply;
    static uint8_t chunks[2 * REPL_CHUNK_SIZE];
    seed(w);
    build_with_missing(&b, w, chunks);
    build_put(&b);
    expect_missing(w, 2);
    /* Half of it helps half. */
    supply_give(w, chunks, 1);
    assert_int_equal(w->ack.head.to_seq, 1);
    put(w, 2, 0, b.file.bytes.size, NULL, 0);
    expect_missing(w, 1);
    /* The number is taken: the site finds another. The same once more changes nothing. */
    supply_build(&supply, w, chunks, 2);
    assert_int_equal(supply_put(&supply, 1), 201);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    assert_int_equal(supplies_stored(w), 2);
    /* Nothing has to be sent again. */
    assert_int_equal(put(w, 2, 0, b.file.bytes.size, NULL, 0), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

static void test_supply_refused(void **state)
{
    struct world *w = *state;
    struct build supply;
    static uint8_t chunks[REPL_CHUNK_SIZE];
    seed(w);
    random_fill(&w->random, chunks, sizeof chunks);
    supply_build(&supply, w, chunks, 1);
    supply.file.bytes.data[200] ^= 1;
    supply_put(&supply, 1);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "");
    supply.file.bytes.data[200] ^= 1;
    /* A supply is no segment of the history. */
    put(w, 2, 0, 0, supply.file.bytes.data, supply.file.bytes.size);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "carries no changes");
    build_fini(&supply);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/2.0.1"), 404);
    increment(w);
    expect_replica(w);
}

/* What nobody lacks is acknowledged and not kept. */
static void test_supply_surplus(void **state)
{
    struct world *w = *state;
    struct build b, supply;
    static uint8_t chunks[2 * REPL_CHUNK_SIZE];
    seed(w);
    build_with_missing(&b, w, chunks);
    build_put(&b);
    supply_give(w, w->model + 5 * MIB, 1); /* a chunk of the seed */
    assert_int_equal(supplies_stored(w), 0);
    supply_build(&supply, w, chunks, 2);
    assert_int_equal(supply_put(&supply, 1), 201);
    assert_int_equal(supply_put(&supply, 2), 201);
    assert_int_equal(supplies_stored(w), 1);
    build_commit(&b);
    build_fini(&supply);
    random_fill(&w->random, chunks, sizeof chunks);
    supply_give(w, chunks, 2); /* to a segment that is here */
    assert_int_equal(supplies_stored(w), 1);
    expect_replica(w);
}

/* The index can be lost: segments, logs and supplies say it all again. */
static void test_index_made_anew(void **state)
{
    struct world *w = *state;
    struct build b;
    static uint8_t chunks[2 * REPL_CHUNK_SIZE];
    char path[256];
    seed(w);
    build_with_missing(&b, w, chunks);
    build_put(&b);
    supply_give(w, chunks, 2);
    build_commit(&b);
    increment(w);
    expect_replica(w);
    site_stop(w);
    index_remove(w);
    snprintf(path, sizeof path, "%s/index.lmdb-lock", w->store);
    unlink(path);
    file_path(w, path, "replica.state"); /* the replica has to find every chunk again */
    assert_int_equal(unlink(path), 0);
    site_start(w);
    hello(w);
    expect_replica(w);
    increment(w);
    expect_replica(w);
}

/* --- reports --------------------------------------------------------------------------------- */

static void test_reports(void **state)
{
    struct world *w = *state;
    struct repl_report message = {.seq = 1, .state = REPL_STATE_IDLE};
    seed(w);
    site_restart(w);
    assert_int_equal(volume_status(w, "data").state, REPL_STATE_LINK_DOWN);
    message.sent_ns = repl_now_wall_ns();
    message.unchanged_until_ns = message.sent_ns - 500000000;
    assert_int_equal(report(w, &message), 200);
    assert_int_equal(w->ack.head.to_seq, 1);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_IDLE);
    assert_int_equal(status.unchanged_until_ns, message.unchanged_until_ns);
    assert_in_range(status.lag_ms, 500, 20000);

    message.state = REPL_STATE_DEGRADED;
    snprintf(message.cause, sizeof message.cause, "a mark was lost");
    message.backlog_bytes = 77;
    assert_int_equal(report(w, &message), 200);
    status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_DEGRADED);
    assert_string_equal(status.cause, "a mark was lost");
    assert_int_equal(status.backlog_bytes, 77);
    assert_true(status.remedy[0] != '\0');

    /* What the log says of it survives. */
    site_restart(w);
    assert_int_equal(volume_status(w, "data").unchanged_until_ns, message.unchanged_until_ns);
    increment(w);
    expect_replica(w);
}

/* A source whose clock was an hour ahead: its last point's time says nothing of its age. */
static void test_clock_ahead(void **state)
{
    struct world *w = *state;
    w->time_ns = repl_now_wall_ns() + 3600 * SECOND_NS;
    seed(w);
    struct repl_volume_status status = volume_status(w, "data");
    assert_in_range(status.clock_ahead_ms, 3500000, 3600000);
    assert_non_null(strstr(status.cause, "in the future"));
    assert_non_null(strstr(status.remedy, "NTP"));
    int64_t before_ms = status.lag_ms;
    int64_t until_ns = repl_now_mono_ns() + SECOND_NS / 2;
    PUMP_UNTIL(w, repl_now_mono_ns() > until_ns);
    assert_true(volume_status(w, "data").lag_ms >= before_ms + 500);
    site_restart(w);
    assert_true(volume_status(w, "data").lag_ms >= before_ms + 500);
}

static void test_report_without_hello(void **state)
{
    struct world *w = *state;
    struct repl_report message = {.state = REPL_STATE_OK};
    report(w, &message);
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "no hello");
    put(w, 1, 0, 0, (const uint8_t *)"x", 1);
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "no hello");
}

/* --- who may what ---------------------------------------------------------------------------- */

static void test_permissions(void **state)
{
    struct world *w = *state;
    struct repl_hello message = hello_of(w);
    char text[REPL_FINGERPRINT_TEXT_SIZE];
    seed(w);
    hello_as(w, KEY_UNKNOWN, "data", &message);
    repl_fingerprint_format(&w->fingerprints[KEY_UNKNOWN], text);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, text);
    hello_as(w, KEY_REVOKED, "data", &message);
    repl_fingerprint_format(&w->fingerprints[KEY_REVOKED], text);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, text);
    assert_non_null(strstr(w->refusal.text, "revoked"));
    hello_as(w, KEY_OTHER, "data", &message);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not for volume data");
    hello_as(w, KEY_RECOVERY, "data", &message);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not write");
    hello_as(w, KEY_HOST, "else", &message);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "not for volume else");

    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 200);
    assert_int_equal(get(w, KEY_HOST, "/v1/volumes/data/points/0"), 200);
    assert_int_equal(get(w, KEY_OTHER, "/v1/volumes/data/points/0"), 403);
    assert_int_equal(get(w, KEY_REVOKED, "/v1/volumes/data/points/0"), 403);
    assert_int_equal(get(w, KEY_OTHER, "/v1/volumes"), 200);
    assert_int_equal(w->response.size, 2);
    assert_memory_equal(w->response.data, "[]", 2);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes"), 200);
    assert_memory_equal(w->response.data, "[\"data\"]", 8);
}

static void test_reload(void **state)
{
    struct world *w = *state;
    bool restart;
    seed(w);
    assert_int_equal(get(w, KEY_OTHER, "/v1/volumes/data/points/0"), 403);
    /* The two have changed places. */
    struct repl_digest host = w->fingerprints[KEY_HOST];
    w->fingerprints[KEY_HOST] = w->fingerprints[KEY_OTHER];
    w->fingerprints[KEY_OTHER] = host;
    repl_site_reload(w->site, config_make(w), &restart);
    assert_false(restart);
    assert_int_equal(get(w, KEY_OTHER, "/v1/volumes/data/points/0"), 200);
    assert_int_equal(get(w, KEY_HOST, "/v1/volumes/data/points/0"), 403);
    struct repl_config *config = config_make(w);
    config->connections++;
    repl_site_reload(w->site, config, &restart);
    assert_true(restart);
    w->retention = "1d:30d";
    repl_site_reload(w->site, config_make(w), &restart);
    assert_true(restart);
    w->retention = NULL;
    w->replica = "none";
    repl_site_reload(w->site, config_make(w), &restart);
    assert_true(restart);
}

/* The key is revoked while a segment is on its way: what has come of it is not taken in. */
static void test_revoked_while_uploading(void **state)
{
    struct world *w = *state;
    struct build b;
    struct call call;
    struct repl_error err = {0};
    bool restart;
    seed(w);
    build_begin(&b, w, 1, 2, 0);
    build_data(&b, 0, MIB);
    build_end(&b, true);
    call_init(&call, w, "PUT", "/v1/volumes/data/segments/2.0");
    call.request.read_body = call_read;
    call.bytes = b.file.bytes.data;
    call.size = b.file.bytes.size;
    must(repl_request_start(w->clients[KEY_HOST], &call.request, &err), &err);
    PUMP_UNTIL(w, call.sent == call.size);
    w->revoke_host = true;
    repl_site_reload(w->site, config_make(w), &restart);
    call.ends = true;
    repl_request_resume(&call.request);
    PUMP_UNTIL(w, call.done);
    expect_refusal(w, 403, REPL_REFUSAL_PERMISSION, "revoked");
    assert_int_equal(volume_status(w, "data").point.seq, 1);
    w->revoke_host = false;
    repl_site_reload(w->site, config_make(w), &restart);
    assert_int_equal(hello(w).head.to_seq, 1);
    build_commit(&b);
    expect_replica(w);
}

static void test_bad_paths(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *path;
        int status;
    } cases[] = {
        {"/", 404},
        {"/v1", 404},
        {"/v1/volumes/", 404},
        {"/v1/volumes/data", 404},
        {"/v1/volumes/.data/points/0", 404},
        {"/v1/volumes/../points/0", 404},
        {"/v1/volumes//points/0", 404},
        {"/v1/volumes/data/points/", 404},
        {"/v1/volumes/data/points/x", 404},
        {"/v1/volumes/data/points/00", 404},
        {"/v1/volumes/data/points/99999999999999999999", 404},
        {"/v1/volumes/data/segments/1", 404},
        {"/v1/volumes/data/segments/1.", 404},
        {"/v1/volumes/data/segments/1.0.0", 404},
        {"/v1/volumes/data/segments/1.0.1.", 404},
        {"/v1/volumes/data/segments/1.0.1.1", 404},
        {"/v1/volumes/data/segments/1.4294967296", 404},
        {"/v1/volumes/data/segments/after/1.0.1", 404},
        {"/v1/volumes/data/segments/2.0", 404},
        {"/v1/volumes/data/hello", 405},
        {"/v1/volumes/spare/points/0", 404},
        {"/v2/volumes", 426},
        {"/v0/volumes", 426},
    };
    seed(w);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (get(w, KEY_HOST, cases[i].path) != cases[i].status)
            fail_msg("%s: %d", cases[i].path, w->status);
        assert_true(w->refusal.code != 0 && w->refusal.text[0] != '\0');
    }
    struct call call;
    call_init(&call, w, "DELETE", "/v1/volumes/data/segments/1.0");
    assert_int_equal(call_run(&call, KEY_HOST), 405);
    static uint8_t much[100000];
    call_init(&call, w, "POST", "/v1/volumes/data/hello");
    call.request.body = much;
    call.request.body_size = sizeof much;
    assert_int_equal(call_run(&call, KEY_HOST), 413);
    call_init(&call, w, "POST", "/v1/volumes/data/report");
    call.request.body = much;
    call.request.body_size = 100;
    assert_int_equal(call_run(&call, KEY_HOST), 400);
}

/* --- reading --------------------------------------------------------------------------------- */

static void range_get(struct world *w, const char *range, int status, uint64_t offset, size_t size,
                      const uint8_t *whole)
{
    struct call call;
    call_init(&call, w, "GET", "/v1/volumes/data/segments/2.0");
    snprintf(call.request.range, sizeof call.request.range, "%s", range);
    if (call_run(&call, KEY_RECOVERY) != status)
        fail_msg("%s: %d %s", range, w->status, w->refusal.text);
    if (status == 416) {
        assert_int_equal(w->refusal.code, REPL_REFUSAL_REQUEST);
        return;
    }
    assert_int_equal(w->response.size, size);
    assert_memory_equal(w->response.data, whole + offset, size);
}

static void test_readers(void **state)
{
    struct world *w = *state;
    struct build b;
    struct repl_points_page points;
    struct repl_segments_page segments;
    struct repl_error err = {0};
    seed(w);
    build_begin(&b, w, 1, 2, 0);
    build_data(&b, 0, MIB);
    build_end(&b, true);
    assert_int_equal(build_put(&b), 201);
    build_taken(&b);
    increment(w);

    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/1"), 200);
    must(repl_points_page_decode(w->response.data, w->response.size, &points, &err), &err);
    assert_int_equal(points.count, 2);
    assert_int_equal(points.entries[0].point.seq, 2);
    assert_int_equal(points.entries[1].volume_size, MODEL_SIZE);
    repl_points_page_fini(&points);

    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/after/0.0"), 200);
    must(repl_segments_page_decode(w->response.data, w->response.size, &segments, &err), &err);
    assert_int_equal(segments.count, 3);
    assert_true(repl_digest_equal(&segments.entries[1].head.digest, &b.footer.digest));
    assert_int_equal(segments.entries[1].file_size, b.file.bytes.size);
    repl_segments_page_fini(&segments);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/after/3.0"), 200);
    must(repl_segments_page_decode(w->response.data, w->response.size, &segments, &err), &err);
    assert_int_equal(segments.count, 0);
    repl_segments_page_fini(&segments);

    const uint8_t *whole = b.file.bytes.data;
    size_t size = b.file.bytes.size;
    range_get(w, "", 200, 0, size, whole);
    range_get(w, "0-127", 206, 0, 128, whole);
    range_get(w, "1000-1000", 206, 1000, 1, whole);
    range_get(w, "4096-", 206, 4096, size - 4096, whole);
    range_get(w, "-128", 206, size - 128, 128, whole);
    range_get(w, "128-99999999999", 206, 128, size - 128, whole);
    range_get(w, "99999999-", 416, 0, 0, whole);
    range_get(w, "5-4", 416, 0, 0, whole);
    range_get(w, "1-2,4-5", 416, 0, 0, whole);
    /* as much of it as would be kept is a range, another one */
    range_get(w, "0000000000000000000000000000000000000000000000000000000-10", 416, 0, 0, whole);
    build_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SITE_TEST(test_missing_chunks),
        SITE_TEST(test_supply_refused),
        SITE_TEST(test_supply_surplus),
        SITE_TEST(test_index_made_anew),
        SITE_TEST(test_reports),
        SITE_TEST(test_clock_ahead),
        SITE_TEST(test_report_without_hello),
        SITE_TEST(test_permissions),
        SITE_TEST(test_reload),
        SITE_TEST(test_revoked_while_uploading),
        SITE_TEST(test_bad_paths),
        SITE_TEST(test_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
