/*
 * A whole site, from the TLS connection to the replica's bytes: what it takes
 * in, what it refuses of that, and how an upload is gone on with.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "unit/agent/site/site_world.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        SITE_TEST(test_seed_in_parts),
        SITE_TEST(test_increments),
        SITE_TEST(test_welcome),
        SITE_TEST(test_duplicate),
        SITE_TEST(test_fork_and_fence),
        SITE_TEST(test_gap_is_refused_early),
        SITE_TEST(test_damaged_upload),
        SITE_TEST(test_bad_frame_among_many),
        SITE_TEST(test_full_with_a_hole),
        SITE_TEST(test_parts_with_a_hole),
        SITE_TEST(test_growth_with_a_hole),
        SITE_TEST(test_resume),
        SITE_TEST(test_resume_after_restart),
        SITE_TEST(test_new_connection_takes_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
