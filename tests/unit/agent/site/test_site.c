/*
 * A whole site, from the TLS connection to the replica's bytes: what it takes
 * in, what it refuses, and what it makes of whatever a crash or a broken disk
 * has left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdatomic.h>
#include <sys/mount.h>

#include "site/index/index_internal.h"
#include "site/site_volume.h"
#include "store/store_posix_internal.h"
#include "unit/agent/site/site_fixture.h"

static struct world world;

static int setup(void **state)
{
    world_init(&world, NULL);
    site_start(&world);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

/* --- taking in ------------------------------------------------------------------------------- */

static void test_seed_in_parts(void **state)
{
    struct world *w = *state;
    struct build b;
    hello(w);
    build_begin(&b, w, 0, 5, 0);
    for (unsigned i = 0; i < 3; i++)
        build_data(&b, (uint64_t)i * MIB, MIB);
    build_end(&b, false);
    build_commit(&b);
    assert_int_equal(volume_status(w, "data").point.seq, 0);
    assert_int_equal(volume_status(w, "data").lag_ms, -1);

    /* The first part may be applied before the rest is here; it is no point. */
    PUMP_UNTIL(w, volume_status(w, "data").replica_applying);
    assert_int_equal(volume_status(w, "data").replica_seq, 0);

    build_begin(&b, w, 0, 5, 1);
    build_zero(&b, 3 * MIB, MIB);
    build_data(&b, 4 * MIB, MIB);
    build_data(&b, 5 * MIB, MIB);
    build_data(&b, 6 * MIB, MODEL_SIZE - 6 * MIB);
    build_end(&b, true);
    build_commit(&b);
    assert_int_equal(volume_status(w, "data").point.seq, 5);
    assert_int_equal(volume_status(w, "data").size, MODEL_SIZE);
    expect_replica(w);
}

static void test_increments(void **state)
{
    struct world *w = *state;
    seed(w);
    expect_replica(w);
    for (int i = 0; i < 5; i++) {
        increment(w);
        expect_replica(w);
    }
    /* Several points while the replica is not waited for. */
    for (int i = 0; i < 10; i++)
        increment(w);
    expect_replica(w);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.points, 16);
    assert_int_equal(status.rpo_ms, 4000);
    assert_true(status.replica_on);
}

static void test_welcome(void **state)
{
    struct world *w = *state;
    struct repl_welcome welcome = hello(w);
    assert_false(welcome.known);
    assert_int_equal(welcome.version, 1);
    assert_int_equal(welcome.lineage, 1);
    assert_true(welcome.replied_ns >= welcome.received_ns);
    seed(w);
    increment(w);
    welcome = hello(w);
    assert_true(welcome.known);
    assert_int_equal(welcome.head.to_seq, 2);
    assert_true(repl_digest_equal(&welcome.head.digest, &w->head.digest));
    assert_int_equal(welcome.point_seq, 2);
    assert_int_equal(welcome.staged_bytes, 0);
}

static void test_duplicate(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    build_begin(&b, w, 1, 2, 0);
    build_data(&b, 0, MIB);
    build_end(&b, true);
    assert_int_equal(build_put(&b), 201);
    /* The ack was lost; the whole is sent once more, and nothing is added. */
    assert_int_equal(build_put(&b), 201);
    assert_int_equal(w->ack.head.to_seq, 2);
    assert_true(repl_digest_equal(&w->ack.head.digest, &b.footer.digest));
    assert_int_equal(volume_status(w, "data").points, 2);
    build_taken(&b);
    build_fini(&b);
    increment(w);
    expect_replica(w);
}

static void test_fork_and_fence(void **state)
{
    struct world *w = *state;
    struct repl_hello message;
    struct build b;
    seed(w);
    increment(w);
    /* A clone of the host, gone another way since. */
    struct repl_head real = w->head;
    memset(&w->head.digest, 9, sizeof w->head.digest);
    build_begin(&b, w, 2, 3, 0);
    build_data(&b, 0, 4 * REPL_PAGE_SIZE);
    build_end(&b, true);
    build_put(&b);
    expect_refusal(w, 409, REPL_REFUSAL_FORK, "another history");
    build_fini(&b);
    w->head = real;
    /* Another volume under the name. */
    message = hello_of(w);
    message.volume.bytes[0] ^= 1;
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 409, REPL_REFUSAL_FORK, "set up anew");
    /* An old lineage. */
    message = hello_of(w);
    message.lineage = 0;
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 403, REPL_REFUSAL_FENCED, "lineage 1");
    message = hello_of(w);
    message.version_min = message.version_max = 9;
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 426, REPL_REFUSAL_VERSION, "upgrade the older");
    /* Nothing of this has touched the history. */
    struct repl_welcome welcome = hello(w);
    assert_int_equal(welcome.head.to_seq, 2);
    assert_true(repl_digest_equal(&welcome.head.digest, &w->head.digest));
}

static void test_gap_is_refused_early(void **state)
{
    struct world *w = *state;
    struct build b;
    struct call call;
    struct repl_error err = {0};
    seed(w);
    build_begin(&b, w, 7, 8, 0);
    build_data(&b, 0, MIB);
    build_data(&b, MIB, MIB);
    build_end(&b, true);
    /* The end of the body never comes; the answer does. */
    call_init(&call, w, "PUT", "/v1/volumes/data/segments/8.0");
    call.request.read_body = call_read;
    call.bytes = b.file.bytes.data;
    call.size = 300000;
    must(repl_request_start(w->clients[KEY_HOST], &call.request, &err), &err);
    PUMP_UNTIL(w, call.done);
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "does not follow");
    build_fini(&b);
}

static void test_damaged_upload(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    build_begin(&b, w, 1, 2, 0);
    build_data(&b, 0, MIB);
    build_end(&b, true);
    uint8_t *bytes = b.file.bytes.data;
    size_t size = b.file.bytes.size;
    bytes[size / 2] ^= 1;
    build_put(&b);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "");
    bytes[size / 2] ^= 1;
    put(w, 2, 0, 0, bytes, size - 100);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "");
    put(w, 2, 0, 0, bytes, 50);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "header");
    put(w, 2, 0, 0, NULL, 0);
    expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "header");
    put(w, 3, 0, 0, bytes, size);
    expect_refusal(w, 400, REPL_REFUSAL_REQUEST, "under the name");
    assert_int_equal(hello(w).staged_bytes, 0);
    build_commit(&b);
    expect_replica(w);
}

/* One chunk of many frames is not what its name says: whoever of those that verify comes upon it,
 * the segment is refused, and what comes after is taken. */
static void test_bad_frame_among_many(void **state)
{
    struct world *w = *state;
    struct repl_error err = {0};
    struct build b;
    seed(w);
    for (unsigned bad = 0; bad <= 70; bad += 35) {
        build_begin(&b, w, 1, 2, 0);
        for (unsigned i = 0; i <= 70; i++) {
            build_data(&b, (uint64_t)i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
            struct repl_chunk_entry chunk = {.frame = i};
            if (i == bad)
                must(repl_segment_builder_chunk(b.builder, &chunk, &err), &err);
        }
        build_end(&b, true);
        build_put(&b);
        expect_refusal(w, 422, REPL_REFUSAL_DAMAGED, "does not have the name");
        build_fini(&b);
    }
    build_begin(&b, w, 1, 2, 0);
    for (unsigned i = 0; i <= 70; i++)
        build_data(&b, (uint64_t)i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    build_end(&b, true);
    build_commit(&b);
    expect_replica(w);
}

/* --- what a point has to hold ---------------------------------------------------------------- */

static void expect_uncovered(struct build *b)
{
    build_put(b);
    expect_refusal(b->w, 422, REPL_REFUSAL_DAMAGED, "says nothing about bytes");
    build_fini(b);
}

/* A full says something about every byte, or a replica built from it would keep what was there. */
static void test_full_with_a_hole(void **state)
{
    struct world *w = *state;
    struct build b;
    hello(w);
    build_begin(&b, w, 0, 1, 0);
    build_data(&b, 0, REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
    build_begin(&b, w, 0, 1, 0); /* all but a page in the middle */
    build_data(&b, 0, REPL_PAGE_SIZE);
    build_zero(&b, 2 * REPL_PAGE_SIZE, w->size - 2 * REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
    build_begin(&b, w, 0, 1, 0); /* all but the last */
    build_zero(&b, 0, w->size - REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
    seed(w);
    expect_replica(w);
}

/* The same of one in parts, seen when the point comes. */
static void test_parts_with_a_hole(void **state)
{
    struct world *w = *state;
    struct build b;
    hello(w);
    build_begin(&b, w, 0, 5, 0);
    build_zero(&b, 0, 2 * MIB);
    build_end(&b, false);
    build_commit(&b);
    build_begin(&b, w, 0, 5, 1);
    build_zero(&b, 2 * MIB + REPL_PAGE_SIZE, w->size - 2 * MIB - REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
    /* Overlapping and out of order will do. */
    build_begin(&b, w, 0, 5, 1);
    build_zero(&b, 4 * MIB, w->size - 4 * MIB);
    build_end(&b, false);
    build_commit(&b);
    build_begin(&b, w, 0, 5, 2);
    build_zero(&b, MIB, 3 * MIB);
    build_end(&b, true);
    build_commit(&b);
    expect_replica(w);
}

/* Of a volume that has grown, everything from the page on in which it ended. */
static void test_growth_with_a_hole(void **state)
{
    struct world *w = *state;
    struct build b;
    w->size = 6 * MIB + 1024;
    seed(w);
    w->size += 512; /* within its last page */
    build_begin(&b, w, 1, 2, 0);
    build_data(&b, 0, REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
    build_begin(&b, w, 1, 2, 0);
    build_zero(&b, 6 * MIB, 1024 + 512);
    build_end(&b, true);
    build_commit(&b);
    w->size = 7 * MIB + 512;
    build_begin(&b, w, 2, 3, 0); /* not the rest of that page */
    build_zero(&b, 6 * MIB + REPL_PAGE_SIZE, MIB + 512 - REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
    build_begin(&b, w, 2, 3, 0); /* in two parts */
    build_zero(&b, 6 * MIB, REPL_PAGE_SIZE);
    build_end(&b, false);
    build_commit(&b);
    build_begin(&b, w, 2, 3, 1);
    build_data(&b, 0, REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
    build_begin(&b, w, 2, 3, 1);
    build_zero(&b, 6 * MIB + REPL_PAGE_SIZE, MIB + 512 - REPL_PAGE_SIZE);
    build_end(&b, true);
    build_commit(&b);
    memset(w->model + 6 * MIB, 0, MIB + 512);
    site_restart(w); /* what it was before is known after a restart too */
    w->size += MIB;
    build_begin(&b, w, 3, 4, 0);
    build_zero(&b, 0, REPL_PAGE_SIZE);
    build_end(&b, true);
    expect_uncovered(&b);
}

/* --- resuming -------------------------------------------------------------------------------- */

/* Sends the first bytes of a segment and loses the connection. */
static void send_beginning(struct world *w, const struct build *b, size_t size)
{
    struct call call;
    struct repl_error err = {0};
    call_init(&call, w, "PUT", "/v1/volumes/data/segments/%llu.%u",
              (unsigned long long)b->header.to_seq, b->header.part);
    call.request.read_body = call_read;
    call.bytes = b->file.bytes.data;
    call.size = size;
    must(repl_request_start(w->clients[KEY_HOST], &call.request, &err), &err);
    PUMP_UNTIL(w, call.sent == size);
    for (int i = 0; i < 30; i++)
        turn(w);
    repl_request_cancel(&call.request);
}

static void build_big(struct build *b, struct world *w)
{
    build_begin(b, w, 1, 2, 0);
    for (unsigned i = 0; i < 4; i++)
        build_data(b, (uint64_t)i * MIB, MIB);
    build_end(b, true);
}

static void test_resume(void **state)
{
    struct world *w = *state;
    struct build b;
    size_t beginning = 2 * MIB + 12345;
    seed(w);
    build_big(&b, w);
    send_beginning(w, &b, beginning);
    struct repl_welcome welcome = hello(w);
    assert_int_equal(welcome.staged_to_seq, 2);
    assert_int_equal(welcome.staged_created_ns, b.header.created_ns);
    assert_int_equal(welcome.staged_bytes, beginning);
    put(w, 2, 0, beginning - 1, b.file.bytes.data, 10);
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "other bytes are held");
    assert_int_equal(
        put(w, 2, 0, beginning, b.file.bytes.data + beginning, b.file.bytes.size - beginning), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

static void test_resume_after_restart(void **state)
{
    struct world *w = *state;
    struct build b;
    size_t beginning = 2 * MIB + 999;
    seed(w);
    build_big(&b, w);
    send_beginning(w, &b, beginning);
    assert_int_equal(hello(w).staged_bytes, beginning);
    site_restart(w);
    assert_int_equal(hello(w).staged_bytes, beginning);
    assert_int_equal(
        put(w, 2, 0, beginning, b.file.bytes.data + beginning, b.file.bytes.size - beginning), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

static void test_new_connection_takes_over(void **state)
{
    struct world *w = *state;
    struct build b;
    struct call stuck;
    struct repl_error err = {0};
    seed(w);
    build_big(&b, w);
    call_init(&stuck, w, "PUT", "/v1/volumes/data/segments/2.0");
    stuck.request.read_body = call_read;
    stuck.bytes = b.file.bytes.data;
    stuck.size = MIB;
    must(repl_request_start(w->clients[KEY_HOST], &stuck.request, &err), &err);
    PUMP_UNTIL(w, stuck.sent == MIB);
    for (int i = 0; i < 30; i++)
        turn(w);
    /* The old connection hangs; the source does not know that yet, nor do we. */
    assert_int_equal(hello(w).staged_bytes, MIB);
    PUMP_UNTIL(w, stuck.done);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "another connection");
    assert_int_equal(build_put(&b), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

/* --- chunks ---------------------------------------------------------------------------------- */

static void build_with_missing(struct build *b, struct world *w, uint8_t *chunks)
{
    random_fill(&w->random, chunks, 2 * REPL_CHUNK_SIZE);
    build_begin(b, w, 1, 2, 0);
    build_data(b, 0, MIB);
    build_chunk(b, 2 * MIB, REPL_CHUNK_SIZE, chunks, 0);
    build_chunk(b, 3 * MIB, REPL_CHUNK_SIZE, chunks + REPL_CHUNK_SIZE, 0);
    build_chunk(b, 4 * MIB, 2 * REPL_PAGE_SIZE, chunks, REPL_PAGE_SIZE);
    build_end(b, true);
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
    supply_build(&supply, w, chunks, 1);
    assert_int_equal(supply_put(&supply, 1), 201);
    assert_int_equal(w->ack.head.to_seq, 1);
    build_fini(&supply);
    put(w, 2, 0, b.file.bytes.size, NULL, 0);
    expect_missing(w, 1);
    /* The number is taken: the site finds another. The same once more changes nothing. */
    supply_build(&supply, w, chunks, 2);
    assert_int_equal(supply_put(&supply, 1), 201);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/supplies"), 200);
    json_t *list = json_loadb((const char *)w->response.data, w->response.size, 0, NULL);
    assert_int_equal(json_array_size(list), 2);
    json_decref(list);
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

static size_t supplies_stored(struct world *w)
{
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/supplies"), 200);
    json_t *list = json_loadb((const char *)w->response.data, w->response.size, 0, NULL);
    size_t count = json_array_size(list);
    json_decref(list);
    return count;
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
    supply_build(&supply, w, w->model + 5 * MIB, 1); /* a chunk of the seed */
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    assert_int_equal(supplies_stored(w), 0);
    supply_build(&supply, w, chunks, 2);
    assert_int_equal(supply_put(&supply, 1), 201);
    assert_int_equal(supply_put(&supply, 2), 201);
    assert_int_equal(supplies_stored(w), 1);
    build_commit(&b);
    build_fini(&supply);
    random_fill(&w->random, chunks, sizeof chunks);
    supply_build(&supply, w, chunks, 2); /* to a segment that is here */
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    assert_int_equal(supplies_stored(w), 1);
    expect_replica(w);
}

/* The index can be lost: segments, logs and supplies say it all again. */
static void test_index_made_anew(void **state)
{
    struct world *w = *state;
    struct build b, supply;
    static uint8_t chunks[2 * REPL_CHUNK_SIZE];
    char path[256];
    seed(w);
    build_with_missing(&b, w, chunks);
    build_put(&b);
    supply_build(&supply, w, chunks, 2);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    build_commit(&b);
    increment(w);
    expect_replica(w);
    site_stop(w);
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(unlink(path), 0);
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

/* --- restarts, crashes and damage ------------------------------------------------------------ */

static void file_write(const char *path, const void *bytes, size_t size, int flags)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), size);
    close(fd);
}

static off_t file_size(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return status.st_size;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void test_restart(void **state)
{
    struct world *w = *state;
    seed(w);
    for (int i = 0; i < 3; i++) {
        increment(w);
        site_restart(w);
        struct repl_welcome welcome = hello(w);
        assert_int_equal(welcome.head.to_seq, w->head.to_seq);
        assert_true(repl_digest_equal(&welcome.head.digest, &w->head.digest));
    }
    expect_replica(w);
}

/* Everything was received and nothing of the commit survived. */
static void test_crash_before_publish(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256];
    seed(w);
    build_big(&b, w);
    site_stop(w);
    file_path(w, path, "staging/00000000000000000002.000000.upload");
    file_write(path, b.file.bytes.data, b.file.bytes.size, 0);
    file_path(w, path, "staging/7.supply");
    file_write(path, "x", 1, 0);
    site_start(w);
    assert_false(exists(path));
    assert_int_equal(hello(w).staged_bytes, b.file.bytes.size);
    assert_int_equal(put(w, 2, 0, b.file.bytes.size, NULL, 0), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

/* What is staged is worth nothing: of another history, or no segment at all. */
static void test_staged_rubbish(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256], second[256];
    seed(w);
    struct repl_head real = w->head;
    memset(&w->head.digest, 3, sizeof w->head.digest);
    build_big(&b, w);
    w->head = real;
    site_stop(w);
    file_path(w, path, "staging/00000000000000000002.000000.upload");
    file_write(path, b.file.bytes.data, b.file.bytes.size, 0);
    file_path(w, second, "staging/00000000000000000003.000000.upload");
    file_write(second, "rubbish", 7, 0);
    build_fini(&b);
    site_start(w);
    assert_false(exists(path));
    assert_false(exists(second));
    assert_int_equal(hello(w).staged_bytes, 0);
    memset(w->model, 0, MODEL_SIZE);
}

static void test_crash_after_publish(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256];
    seed(w);
    build_big(&b, w);
    site_stop(w);
    file_path(w, path, "segments/00000000000000000002.000000.seg");
    file_write(path, b.file.bytes.data, b.file.bytes.size, 0);
    site_start(w);
    assert_false(exists(path));
    assert_int_equal(hello(w).head.to_seq, 1);
    build_commit(&b);
    expect_replica(w);
}

/* The record was being appended. */
static void test_torn_tail(void **state)
{
    struct world *w = *state;
    struct build b;
    char log[256], path[256];
    static uint8_t copy[4096];
    seed(w);
    file_path(w, log, "log");
    off_t before = file_size(log);
    build_big(&b, w);
    assert_int_equal(build_put(&b), 201);
    site_stop(w);
    /* Half of the record, and an index that has not seen it. */
    off_t after = file_size(log);
    int fd = open(log, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, copy, sizeof copy, 0), after);
    close(fd);
    assert_int_equal(truncate(log, before + (after - before) / 2), 0);
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(unlink(path), 0);
    site_start(w);
    assert_int_equal(file_size(log), before);
    assert_int_equal(hello(w).head.to_seq, 1);
    /* The replica was ahead of the history that is left, and goes back. */
    build_commit(&b);
    expect_replica(w);
}

/* The record is durable, nobody was told. */
static void test_crash_after_log(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    build_big(&b, w);
    assert_int_equal(build_put(&b), 201);
    site_restart(w);
    struct repl_welcome welcome = hello(w);
    assert_true(repl_digest_equal(&welcome.head.digest, &b.footer.digest));
    assert_int_equal(build_put(&b), 201); /* and again it is a duplicate */
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

static unsigned segments_count(struct world *w)
{
    char path[256];
    unsigned count = 0;
    for (unsigned i = 1; i < 20; i++) {
        char name[64];
        snprintf(name, sizeof name, "segments/%020u.000000.seg", i);
        file_path(w, path, name);
        count += exists(path);
    }
    return count;
}

/* Damaged history: not served, nothing deleted; the other volume goes on. */
static void expect_damaged(struct world *w, const char *words)
{
    struct repl_hello message = hello_of(w);
    unsigned segments = segments_count(w);
    size_t volumes, damaged;
    site_start(w);
    repl_site_count(w->site, &volumes, &damaged);
    assert_int_equal(damaged, 1);
    hello_as(w, KEY_HOST, "data", &message);
    expect_refusal(w, 500, REPL_REFUSAL_INTERNAL, words);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 500);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_FAILED);
    assert_non_null(strstr(status.cause, words));
    assert_int_equal(segments_count(w), segments);
    hello_as(w, KEY_HOST, "spare", &message);
    assert_int_equal(w->status, 200);
}

static void three_points(struct world *w)
{
    struct repl_hello message = hello_of(w);
    seed(w);
    increment(w);
    increment(w);
    hello_as(w, KEY_HOST, "spare", &message);
    site_stop(w);
}

static void test_damaged_log(void **state)
{
    struct world *w = *state;
    char log[256];
    three_points(w);
    file_path(w, log, "log");
    uint8_t byte;
    int fd = open(log, O_RDWR | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, 150), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, 150), 1);
    close(fd);
    expect_damaged(w, "log at byte");
}

/* The same, though the index that knows better is lost too: whole records follow. */
static void test_damaged_log_without_index(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "log");
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "\377", 1, 150), 1);
    close(fd);
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(unlink(path), 0);
    expect_damaged(w, "log at byte");
}

static void test_shorter_log(void **state)
{
    struct world *w = *state;
    char log[256];
    three_points(w);
    file_path(w, log, "log");
    assert_int_equal(truncate(log, file_size(log) - 3), 0);
    expect_damaged(w, "log");
}

static void test_missing_log(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "log");
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(unlink(path), 0);
    expect_damaged(w, "log is missing");
}

static void test_missing_segment(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "segments/00000000000000000002.000000.seg");
    assert_int_equal(unlink(path), 0);
    expect_damaged(w, "segment 2.0 is missing");
}

static void test_shorter_segment(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "segments/00000000000000000003.000000.seg");
    assert_int_equal(truncate(path, 1000), 0);
    expect_damaged(w, "segment 3.0 has 1000 bytes");
}

/* A log that lost its end, with an index that never saw it: the segments tell. */
static void test_segments_without_records(void **state)
{
    struct world *w = *state;
    char path[256];
    off_t end;
    seed(w);
    file_path(w, path, "log");
    end = file_size(path);
    increment(w);
    increment(w);
    site_stop(w);
    assert_int_equal(truncate(path, end), 0);
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(unlink(path), 0);
    expect_damaged(w, "2 segments are there");
}

/* One segment that the log does not have, and no index: a log that lost its last record looks like
 * a crash before that record. The file is kept, whatever comes after it. */
static void test_segment_without_record(void **state)
{
    struct world *w = *state;
    struct build b;
    char log[256], segment[256], aside[256], second[256], index[256];
    seed(w);
    increment(w);
    file_path(w, log, "log");
    file_path(w, segment, "segments/00000000000000000003.000000.seg");
    file_path(w, aside, "aside/00000000000000000003.000000.seg.1");
    file_path(w, second, "aside/00000000000000000003.000000.seg.2");
    snprintf(index, sizeof index, "%s/index.lmdb", w->store);
    off_t end = file_size(log);
    struct repl_head before = w->head;
    increment(w);
    off_t size = file_size(segment);
    site_stop(w);
    assert_int_equal(truncate(log, end), 0);
    assert_int_equal(unlink(index), 0);
    site_start(w);
    assert_false(exists(segment));
    assert_int_equal(file_size(aside), size);
    assert_int_equal(hello(w).head.to_seq, 2);
    site_restart(w);
    assert_int_equal(file_size(aside), size);
    /* The same once more does not replace the first. */
    w->head = before;
    build_begin(&b, w, 2, 3, 0);
    build_data(&b, 0, MIB);
    build_end(&b, true);
    build_commit(&b);
    site_stop(w);
    assert_int_equal(truncate(log, end), 0);
    assert_int_equal(unlink(index), 0);
    site_start(w);
    assert_int_equal(file_size(aside), size);
    assert_true(exists(second));
}

/* It cannot be set aside at the start: then before anything takes its name. */
static void test_set_aside_later(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256], segment[256], aside[256];
    seed(w);
    build_big(&b, w);
    site_stop(w);
    file_path(w, path, "aside");
    file_write(path, "", 0, 0);
    file_path(w, segment, "segments/00000000000000000002.000000.seg");
    file_write(segment, "found", 5, 0);
    site_start(w);
    assert_int_equal(file_size(segment), 5);
    build_put(&b);
    assert_int_equal(w->status, 500);
    assert_int_equal(file_size(segment), 5);
    assert_int_equal(unlink(path), 0);
    build_commit(&b);
    file_path(w, aside, "aside/00000000000000000002.000000.seg.1");
    assert_int_equal(file_size(aside), 5);
    assert_true(file_size(segment) > 5);
    expect_replica(w);
}

/* The directory of a volume that a hello began to make, and a crash or a full disk cut short. */
static void test_half_made_volume(void **state)
{
    struct world *w = *state;
    size_t volumes, damaged;
    char path[256];
    site_stop(w);
    file_path(w, path, "");
    assert_int_equal(mkdir(path, 0700), 0);
    site_start(w);
    repl_site_count(w->site, &volumes, &damaged);
    assert_int_equal(damaged, 0);
    seed(w);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 1);
}

static int tree_remove_one_at(const char *path)
{
    return nftw(path, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* No segments directory, and a log or an index that knows better: that was no crash of ours. */
static void test_missing_segments(void **state)
{
    struct world *w = *state;
    char path[256];
    three_points(w);
    file_path(w, path, "segments");
    assert_int_equal(tree_remove_one_at(path), 0);
    expect_damaged(w, "segments");
    site_stop(w);
    file_path(w, path, "log");
    assert_int_equal(unlink(path), 0);
    expect_damaged(w, "segments");
}

/* What is there is read at a start, however much it is; only new ones are refused. */
static void test_volumes_limit(void **state)
{
    struct world *w = *state;
    struct repl_hello message = hello_of(w);
    struct repl_error err = {0};
    struct site_volume *found = NULL;
    char path[256];
    seed(w);
    snprintf(path, sizeof path, "%s/volumes/more", w->store);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/volumes/more/log", w->store);
    file_write(path, "rubbish", 7, 0);
    size_t count = w->site->volume_count;
    w->site->volume_count = SITE_VOLUMES_MAX;
    must(site_volume_load(w->site, "more", &found, &err), &err);
    assert_non_null(found);
    site_volume_free(found);
    hello(w); /* one that is known */
    hello_as(w, KEY_HOST, "spare", &message);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "keeps 4096 volumes already");
    w->site->volume_count = count;
    hello_as(w, KEY_HOST, "spare", &message);
    assert_int_equal(w->status, 200);
}

/* A volume that a refused hello left empty is forgotten while a request to it is still being
 * ended. */
static void test_closed_after_its_volume(void **state)
{
    struct world *w = *state;
    struct repl_hello message = hello_of(w);
    struct repl_error err = {0};
    struct call call;
    message.version_min = message.version_max = REPL_PROTOCOL_MAX + 1;
    hello_as(w, KEY_HOST, "spare", &message);
    expect_refusal(w, 426, REPL_REFUSAL_VERSION, "");
    assert_int_equal(w->site->volume_count, 1);
    call_init(&call, w, "PUT", "/v1/volumes/spare/segments/1.0");
    call.request.read_body = call_read;
    call.bytes = w->model;
    call.size = 100;
    must(repl_request_start(w->clients[KEY_HOST], &call.request, &err), &err);
    PUMP_UNTIL(w, call.done); /* and the site has not seen yet that the connection is closed */
    expect_refusal(w, 409, REPL_REFUSAL_GREET, "no hello");
    w->site->tick.fire(&w->site->tick);
    assert_int_equal(w->site->volume_count, 0);
    for (int i = 0; i < 30; i++)
        turn(w);
}

static void test_second_site_is_locked_out(void **state)
{
    struct world *w = *state;
    struct repl_site *second;
    struct repl_error err = {0};
    assert_int_equal(repl_site_new(w->loop, config_make(w), &second, &err).code, REPL_E_LOCKED);
}

/* --- a disk that fails in the middle of a commit --------------------------------------------- */

static atomic_int syncs_to_fail;

static int failing_fdatasync(int fd)
{
    if (atomic_fetch_sub(&syncs_to_fail, 1) > 0) {
        errno = EIO;
        return -1;
    }
    return fdatasync(fd);
}

static int failing_fsync(int fd)
{
    if (atomic_fetch_sub(&syncs_to_fail, 1) > 0) {
        errno = EIO;
        return -1;
    }
    return fsync(fd);
}

static struct posix_store_calls *store_calls(struct world *w)
{
    return &posix_store_of(repl_store_counted_inner(w->site->store))->calls;
}

/* The record may be in the log or not; the source sends the segment again. */
static void test_log_fails(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    build_big(&b, w);
    store_calls(w)->fdatasync = failing_fdatasync;
    atomic_store(&syncs_to_fail, 1);
    build_put(&b);
    expect_refusal(w, 500, REPL_REFUSAL_INTERNAL, "see its log");
    assert_int_equal(hello(w).head.to_seq, 1);
    assert_int_equal(build_put(&b), 201);
    build_taken(&b);
    build_fini(&b);
    increment(w);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 3);
}

/* The same, and the process dies: the record was in the log, so it counts, and its segment has to
 * be there. */
static void test_log_fails_and_crash(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    build_big(&b, w);
    store_calls(w)->fdatasync = failing_fdatasync;
    atomic_store(&syncs_to_fail, 1);
    build_put(&b);
    expect_refusal(w, 500, REPL_REFUSAL_INTERNAL, "see its log");
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 2);
    assert_int_equal(build_put(&b), 201);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

/* The source gives that segment up and sends another one: nothing is left of the first. */
static void test_log_fails_and_another_comes(void **state)
{
    struct world *w = *state;
    struct build b;
    char path[256];
    seed(w);
    build_big(&b, w);
    store_calls(w)->fdatasync = failing_fdatasync;
    atomic_store(&syncs_to_fail, 1);
    build_put(&b);
    assert_int_equal(w->status, 500);
    build_fini(&b);
    file_path(w, path, "segments/00000000000000000002.000000.seg");
    assert_true(exists(path));
    build_begin(&b, w, 1, 3, 0);
    for (unsigned i = 0; i < 4; i++)
        build_data(&b, (uint64_t)i * MIB, MIB);
    build_end(&b, true);
    build_commit(&b);
    assert_false(exists(path));
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 3);
    expect_replica(w);
}

static void test_publish_fails(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    build_big(&b, w);
    store_calls(w)->fsync = failing_fsync;
    atomic_store(&syncs_to_fail, 1);
    build_put(&b);
    expect_refusal(w, 500, REPL_REFUSAL_INTERNAL, "see its log");
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 1);
    build_commit(&b);
    expect_replica(w);
}

static void test_report_log_fails(void **state)
{
    struct world *w = *state;
    struct repl_report message = {.state = REPL_STATE_DEGRADED, .cause = "x"};
    seed(w);
    store_calls(w)->fdatasync = failing_fdatasync;
    atomic_store(&syncs_to_fail, 1);
    message.sent_ns = repl_now_wall_ns();
    assert_int_equal(report(w, &message), 500);
    assert_int_equal(report(w, &message), 200);
    increment(w);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 2);
}

/* The log has a record that the index could not take. */
static void test_index_fails(void **state)
{
    struct world *w = *state;
    seed(w);
    site_find_volume(w->site, "data")->index_behind = true; /* it would do no harm if it were so */
    increment(w);
    expect_replica(w);
    assert_false(site_find_volume(w->site, "data")->index_behind);
}

static unsigned points_count(struct world *w)
{
    struct repl_points_page page;
    struct repl_error err = {0};
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 200);
    must(repl_points_page_decode(w->response.data, w->response.size, &page, &err), &err);
    unsigned count = page.count;
    repl_points_page_fini(&page);
    return count;
}

/* The disk is full for the index alone: a list without the last point would pass for a whole one.
 * The tick mends it, without a further commit. */
static void test_index_full(void **state)
{
    struct world *w = *state;
    seed(w);
    expect_replica(w);
    struct site_volume *v = site_find_volume(w->site, "data");
    PUMP_UNTIL(w, !w->site->index_dirty && !w->site->syncing);
    assert_int_equal(points_count(w), 1);
    repl_index_break_sync(w->site->index, 1, ENOSPC);
    /* What follows at once is in vain too. */
    v->index_vain = true;
    increment(w);
    assert_true(v->index_behind);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 503);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "index");
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/after/0.0"), 503);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_DEGRADED);
    assert_non_null(strstr(status.cause, "the index is not complete"));
    PUMP_UNTIL(w, !v->index_behind);
    assert_int_equal(points_count(w), 2);
    assert_null(strstr(volume_status(w, "data").cause, "the index is not complete"));
    expect_replica(w);
    /* In the ordinary case nobody waits for the tick. */
    PUMP_UNTIL(w, !w->site->index_dirty && !w->site->syncing);
    repl_index_break_sync(w->site->index, 1, ENOSPC);
    increment(w);
    increment(w);
    PUMP_UNTIL(w, !v->index_behind);
    assert_int_equal(points_count(w), 4);
    expect_replica(w);
}

/* A sync of the index fails: it is made anew while the site runs, and the replica stays. */
static void test_index_sync_fails(void **state)
{
    struct world *w = *state;
    struct build b, supply;
    static uint8_t chunks[2 * REPL_CHUNK_SIZE];
    struct stat before, after, image, image_after;
    uint64_t count, count_after;
    char path[256];
    struct repl_error err = {0};
    seed(w);
    build_with_missing(&b, w, chunks);
    build_put(&b);
    supply_build(&supply, w, chunks, 2);
    assert_int_equal(supply_put(&supply, 1), 201);
    build_fini(&supply);
    build_commit(&b);
    expect_replica(w);
    struct site_volume *v = site_find_volume(w->site, "data");
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(stat(path, &before), 0);
    must(repl_index_entry_count(w->site->index, &count, &err), &err);
    replica_path(w, path);
    assert_int_equal(stat(path, &image), 0);

    repl_index_break_sync(w->site->index, 1, EIO);
    increment(w); /* breaks it; the history goes on */
    PUMP_UNTIL(w, w->site->index_generation == 1 && !v->index_behind);
    snprintf(path, sizeof path, "%s/index.lmdb", w->store);
    assert_int_equal(stat(path, &after), 0);
    assert_true(before.st_ino != after.st_ino || before.st_ctim.tv_nsec != after.st_ctim.tv_nsec);
    must(repl_index_entry_count(w->site->index, &count_after, &err), &err);
    assert_true(count_after > count);
    increment(w);
    expect_replica(w);
    replica_path(w, path);
    assert_int_equal(stat(path, &image_after), 0);
    assert_true(image.st_ino == image_after.st_ino);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/3"), 200);
    site_restart(w);
    increment(w);
    expect_replica(w);
}

/* What waits for the index meanwhile goes into it in one transaction; where that fails, each alone.
 */
static void waiting_go_together(struct world *w, enum repl_state state, bool fails)
{
    static const char *const names[] = {"data", "spare"};
    struct repl_report message = {.state = state, .cause = "x", .sent_ns = repl_now_wall_ns()};
    struct repl_buffer body = {0};
    struct repl_error err = {0};
    struct call calls[2];
    MDB_envinfo before, after;
    unsigned waiting = 0;
    must(repl_report_encode(&message, &body, &err), &err);
    w->site->tick.fire(&w->site->tick);
    PUMP_UNTIL(w, !w->site->index_dirty && !w->site->syncing && w->site->jobs == 0);
    pthread_mutex_lock(&w->site->index_lock);
    if (fails)
        repl_index_break_sync(w->site->index, 1, ENOSPC);
    mdb_env_info(w->site->index->env, &before);
    for (int i = 0; i < 2; i++) {
        call_init(&calls[i], w, "POST", "/v1/volumes/%s/report", names[i]);
        calls[i].request.body = body.data;
        calls[i].request.body_size = body.size;
        must(repl_request_start(w->clients[KEY_HOST], &calls[i].request, &err), &err);
    }
    while (waiting < 2) {
        turn(w);
        pthread_mutex_lock(&w->site->waiting_lock);
        waiting = 0;
        for (const struct site_append *a = w->site->waiting; a != NULL; a = a->next)
            waiting++;
        pthread_mutex_unlock(&w->site->waiting_lock);
    }
    pthread_mutex_unlock(&w->site->index_lock);
    PUMP_UNTIL(w, calls[0].done && calls[1].done);
    assert_int_equal(w->status, 200);
    mdb_env_info(w->site->index->env, &after);
    assert_int_equal(after.me_last_txnid - before.me_last_txnid, fails ? 2 : 1);
    for (int i = 0; i < 2; i++)
        assert_false(site_find_volume(w->site, names[i])->index_behind);
    repl_buffer_fini(&body);
}

static void test_index_in_one_transaction(void **state)
{
    struct world *w = *state;
    struct repl_hello spare = hello_of(w);
    seed(w);
    expect_replica(w);
    spare.volume.bytes[0]++;
    assert_int_equal(hello_as(w, KEY_HOST, "spare", &spare), 200);
    waiting_go_together(w, REPL_STATE_NO_WINDOW, false);
    waiting_go_together(w, REPL_STATE_DEGRADED, true);
    increment(w);
    expect_replica(w);
}

/* --- a full disk ----------------------------------------------------------------------------- */

static void test_no_space(void **state)
{
    struct world *w = *state;
    struct build b;
    char ballast[128];
    static uint8_t block[MIB];
    site_stop(w);
    if (geteuid() != 0)
        skip();
    nftw(w->store, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    mkdir(w->store, 0700);
    if (mount("none", w->store, "tmpfs", 0, "size=24m") != 0)
        skip();
    w->limits = "space_reserve = 0\n";
    site_start(w);
    seed(w);
    expect_replica(w);
    snprintf(ballast, sizeof ballast, "%s/volumes/data/ballast", w->store);
    int fd = open(ballast, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    while (write(fd, block, sizeof block) > 0)
        continue;
    assert_int_equal(errno, ENOSPC);
    build_big(&b, w);
    build_put(&b);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "full");
    assert_int_equal(hello(w).head.to_seq, 1);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_REFUSED);
    assert_non_null(strstr(status.cause, "No space left on device"));
    assert_int_equal(unlink(ballast), 0);
    close(fd);
    assert_int_equal(build_put(&b), 201);
    assert_true(volume_status(w, "data").state < REPL_STATE_REFUSED);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
    site_restart(w);
    assert_int_equal(hello(w).head.to_seq, 2);
    site_stop(w);
    assert_int_equal(umount(w->store), 0);
}

static int teardown_mount(void **state)
{
    struct world *w = *state;
    if (w->site != NULL)
        site_stop(w);
    umount2(w->store, MNT_DETACH);
    world_fini(w);
    return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_seed_in_parts),
        TEST(test_increments),
        TEST(test_welcome),
        TEST(test_duplicate),
        TEST(test_fork_and_fence),
        TEST(test_gap_is_refused_early),
        TEST(test_damaged_upload),
        TEST(test_bad_frame_among_many),
        TEST(test_full_with_a_hole),
        TEST(test_parts_with_a_hole),
        TEST(test_growth_with_a_hole),
        TEST(test_resume),
        TEST(test_resume_after_restart),
        TEST(test_new_connection_takes_over),
        TEST(test_missing_chunks),
        TEST(test_supply_refused),
        TEST(test_supply_surplus),
        TEST(test_index_made_anew),
        TEST(test_reports),
        TEST(test_clock_ahead),
        TEST(test_report_without_hello),
        TEST(test_permissions),
        TEST(test_reload),
        TEST(test_revoked_while_uploading),
        TEST(test_bad_paths),
        TEST(test_readers),
        TEST(test_restart),
        TEST(test_crash_before_publish),
        TEST(test_staged_rubbish),
        TEST(test_crash_after_publish),
        TEST(test_torn_tail),
        TEST(test_crash_after_log),
        TEST(test_damaged_log),
        TEST(test_damaged_log_without_index),
        TEST(test_shorter_log),
        TEST(test_missing_log),
        TEST(test_missing_segment),
        TEST(test_shorter_segment),
        TEST(test_segments_without_records),
        TEST(test_half_made_volume),
        TEST(test_missing_segments),
        TEST(test_volumes_limit),
        TEST(test_closed_after_its_volume),
        TEST(test_second_site_is_locked_out),
        TEST(test_log_fails),
        TEST(test_segment_without_record),
        TEST(test_set_aside_later),
        TEST(test_index_full),
        TEST(test_index_in_one_transaction),
        TEST(test_log_fails_and_crash),
        TEST(test_log_fails_and_another_comes),
        TEST(test_publish_fails),
        TEST(test_report_log_fails),
        TEST(test_index_fails),
        TEST(test_index_sync_fails),
        cmocka_unit_test_setup_teardown(test_no_space, setup, teardown_mount),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
