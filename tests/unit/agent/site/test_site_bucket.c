/*
 * A whole site whose store is a bucket, of a service in this process: what is
 * acknowledged is there, whatever fails, and is all that a site needs to begin.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "recover/origin.h"
#include "site/site_volume.h"
#include "unit/agent/site/site_fixture.h"

static struct world world;

static int set_up(void **state)
{
    *state = &world;
    world_init(&world, NULL);
    world_in_bucket(&world);
    site_start(&world);
    return 0;
}

static int tear_down(void **state)
{
    world_fini(*state);
    return 0;
}

static void directory_lose(struct world *w)
{
    assert_int_equal(nftw(w->store, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

/* The points that a reader of the bucket alone sees. */
static size_t points_in_bucket(struct world *w, bool *damaged)
{
    const struct repl_s3_options s3 = world_s3(w);
    const struct repl_store_options options = {.location = BUCKET, .s3 = &s3};
    struct repl_origin *origin;
    struct repl_catalogue catalogue = {0};
    struct repl_error err = {0};
    must(repl_origin_open_store(&options, "data", &origin, &err), &err);
    must(origin->ops->catalogue(origin, &catalogue, &err), &err);
    size_t count = catalogue.point_count;
    *damaged = catalogue.damaged;
    repl_catalogue_fini(&catalogue);
    origin->ops->close(origin);
    return count;
}

static void expect_points(struct world *w, size_t count)
{
    bool damaged;
    assert_int_equal(points_in_bucket(w, &damaged), count);
    assert_false(damaged);
}

static void test_points_come_and_stay(void **state)
{
    struct world *w = *state;
    seed(w);
    for (int i = 0; i < 5; i++)
        increment(w);
    expect_replica(w);
    expect_points(w, 6);
    assert_int_equal(fake_s3_count(w->bucket, "dc/site/volumes/data/segments/"), 6);
    site_restart(w);
    hello(w);
    increment(w);
    expect_replica(w);
    expect_points(w, 7);
}

static void test_a_directory_that_is_lost(void **state)
{
    struct world *w = *state;
    seed(w);
    for (int i = 0; i < 3; i++)
        increment(w);
    expect_replica(w);
    site_stop(w);
    directory_lose(w);
    site_start(w);
    expect_replica(w);
    hello(w);
    increment(w); /* which names chunks: the index is there again */
    expect_replica(w);
    expect_points(w, 5);
}

static void test_a_full_bucket(void **state)
{
    struct world *w = *state;
    struct build build;
    seed(w);
    fake_s3_switch(w->bucket, &(struct fake_s3_switches){.quota = 1});
    build_begin(&build, w, 1, 2, 0);
    build_data(&build, 0, REPL_PAGE_SIZE);
    build_end(&build, true);
    assert_int_not_equal(build_put(&build), 201);
    assert_int_equal(w->refusal.code, REPL_REFUSAL_NO_SPACE);
    expect_points(w, 1);
    struct repl_volume_status status = volume_status(w, "data");
    assert_int_equal(status.state, REPL_STATE_REFUSED);
    assert_non_null(strstr(status.cause, "the service has no more room for it"));
    assert_non_null(strstr(status.remedy, "in its bucket"));
    fake_s3_switch(w->bucket, &(struct fake_s3_switches){0});
    build_commit(&build);
    expect_replica(w);
    assert_true(volume_status(w, "data").state < REPL_STATE_REFUSED);
    expect_points(w, 2);
}

/* The segment is there and its record is not: it is no part of the history, and makes room. */
static void test_a_commit_that_is_cut_short(void **state)
{
    struct world *w = *state;
    struct build build;
    seed(w);
    for (int restarted = 0; restarted < 2; restarted++) {
        uint64_t seq = w->head.to_seq;
        build_begin(&build, w, seq, seq + 1, 0);
        build_data(&build, 0, REPL_PAGE_SIZE);
        build_end(&build, true);
        fake_s3_fault(w->bucket, &(struct fake_s3_fault){.kind = FAKE_S3_STATUS,
                                                         .method = "PUT",
                                                         .key = "/log/",
                                                         .count = 1,
                                                         .status = 403,
                                                         .code = "AccessDenied"});
        assert_int_not_equal(build_put(&build), 201);
        assert_int_equal(fake_s3_count(w->bucket, "dc/site/volumes/data/segments/"), seq + 1);
        if (restarted != 0)
            site_restart(w);
        hello(w);
        build_commit(&build);
        expect_replica(w);
        expect_points(w, seq + 1);
    }
    assert_int_equal(fake_s3_count(w->bucket, "dc/site/volumes/data/aside/"), 1);
}

static void test_answers_that_are_lost(void **state)
{
    struct world *w = *state;
    seed(w);
    for (int i = 0; i < 4; i++) {
        fake_s3_fault(w->bucket, &(struct fake_s3_fault){.kind = i % 2 != 0 ? FAKE_S3_CUT_DONE
                                                                            : FAKE_S3_CUT_UPLOAD,
                                                         .method = "PUT",
                                                         .key = i < 2 ? "/log/" : "/segments/",
                                                         .count = 1});
        increment(w);
    }
    expect_replica(w);
    site_restart(w);
    expect_points(w, 5);
}

/* One that does not answer makes no volume a damaged one: the site does not begin. */
static void test_a_log_that_cannot_be_read_now(void **state)
{
    struct world *w = *state;
    struct repl_error err;
    seed(w);
    site_stop(w);
    static const struct {
        const char *code, *key, *words;
    } cases[] = {{"RequestTimeTooSkewed", "log%2F", "clocks"},
                 {"AccessDenied", "log%2F", "the credentials"},
                 {"ExpiredToken", "volumes/data/log/", "renew it"},
                 {"InvalidAccessKeyId", "segments%2F", "correct it"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fake_s3_fault(w->bucket, &(struct fake_s3_fault){.kind = FAKE_S3_STATUS,
                                                         .method = "GET",
                                                         .key = cases[i].key,
                                                         .count = 1,
                                                         .status = 403,
                                                         .code = cases[i].code});
        repl_result result = repl_site_new(w->loop, config_make(w), &w->site, &err);
        assert_int_equal(result.code, i == 0 ? REPL_E_RETRY : REPL_E_REFUSED);
        assert_non_null(strstr(err.text, cases[i].words));
    }
    site_start(w);
    assert_string_equal(w->site->volumes->damaged, "");
    hello(w);
    increment(w);
    expect_points(w, 2);
}

/* It is said, with the store as the cause, and not that the source is silent; then it goes on. */
static void test_a_store_that_hangs(void **state)
{
    struct world *w = *state;
    struct build build;
    struct call call;
    struct repl_error err = {0};
    seed(w);
    fake_s3_fault(
        w->bucket,
        &(struct fake_s3_fault){.kind = FAKE_S3_HANG, .method = "PUT", .key = "/log/", .count = 1});
    build_begin(&build, w, 1, 2, 0);
    build_data(&build, 0, REPL_PAGE_SIZE);
    build_end(&build, true);
    call_init(&call, w, "PUT", "/v1/volumes/data/segments/2.0");
    call.request.body = build.file.bytes.data;
    call.request.body_size = build.file.bytes.size;
    must(repl_request_start(w->clients[KEY_HOST], &call.request, &err), &err);
    PUMP_UNTIL(w, volume_status(w, "data").state == REPL_STATE_DEGRADED);
    assert_non_null(strstr(volume_status(w, "data").cause, "the store has been at work for 5 s"));
    assert_false(call.done);
    fake_s3_release(w->bucket);
    PUMP_UNTIL(w, call.done);
    assert_int_equal(w->status, 201);
    assert_int_not_equal(volume_status(w, "data").state, REPL_STATE_DEGRADED);
    build_taken(&build);
    build_fini(&build);
    expect_points(w, 2);
}

/* Whoever commits does not wait for what is read meanwhile to make the index anew. */
static void test_an_index_that_is_made_anew(void **state)
{
    struct world *w = *state;
    struct repl_report message = {.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    struct repl_error err;
    seed(w);
    for (int i = 0; i < 3; i++)
        increment(w);
    expect_replica(w);
    w->volume = "spare";
    hello(w);
    site_restart(w); /* what was published lately is not read from its file then */
    fake_s3_fault(
        w->bucket,
        &(struct fake_s3_fault){
            .kind = FAKE_S3_HANG, .method = "GET", .key = "data/segments/", .skip = 2, .count = 1});
    struct site_volume *data = site_find_volume(w->site, "data");
    struct site_volume *spare = site_find_volume(w->site, "spare");
    pthread_mutex_lock(&w->site->index_lock);
    must(repl_index_remake(w->site->index, &err), &err);
    pthread_mutex_unlock(&w->site->index_lock);
    w->site->index_generation++;
    data->index_behind = data->index_lost = true;
    spare->index_behind = spare->index_lost = true;
    site_volume_pump(data);
    site_volume_pump(spare);
    PUMP_UNTIL(w, !spare->index_behind);
    assert_int_equal(report(w, &message), 200);
    assert_true(data->index_behind && data->busy);
    fake_s3_release(w->bucket);
    PUMP_UNTIL(w, !data->index_behind);
    w->volume = "data";
    hello(w);
    increment(w);
    expect_replica(w);
    expect_points(w, 5);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_points_come_and_stay),  TEST(test_a_directory_that_is_lost),
        TEST(test_a_full_bucket),         TEST(test_a_commit_that_is_cut_short),
        TEST(test_answers_that_are_lost), TEST(test_a_log_that_cannot_be_read_now),
        TEST(test_a_store_that_hangs),    TEST(test_an_index_that_is_made_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
