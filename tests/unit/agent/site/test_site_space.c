/*
 * Limits of space at a whole site, of a store in a directory and of one in a bucket: what is
 * refused and what goes on, what is said of it, and that the count is what lies there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/statvfs.h>

#include "site/site_internal.h"
#include "site/site_volume.h"
#include "unit/agent/site/site_world.h"

static struct world world;
static char line[64];

static int setup(void **state)
{
    world_init(&world, NULL);
    site_start(&world);
    *state = &world;
    return 0;
}

static int setup_bucket(void **state)
{
    world_init(&world, NULL);
    world_in_bucket(&world);
    site_start(&world);
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static void expect_counted(struct world *w)
{
    if (w->bucket == NULL) {
        expect_stored(w);
        return;
    }
    uint64_t bytes = fake_s3_bytes(w->bucket, "dc/site/volumes/data/") + size_below(w, "staging");
    assert_int_equal(volume_status(w, "data").stored_bytes, bytes);
}

__attribute__((format(printf, 1, 2))) static const char *text_of(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    return line;
}

static void reload(struct world *w)
{
    bool restart;
    repl_site_reload(w->site, config_make(w), &restart);
}

static struct site_volume *volume_of(struct world *w)
{
    struct site_volume *v = site_find_volume(w->site, "data");
    assert_non_null(v);
    return v;
}

static void expect_refused(struct world *w, const char *words)
{
    struct repl_volume_status status;
    site_space_tick(volume_of(w));
    status = volume_status(w, "data");
    if (status.state != REPL_STATE_REFUSED || strstr(status.cause, words) == NULL ||
        strstr(status.remedy, "room") == NULL)
        fail_msg("%s: %s: %s", repl_state_name(status.state), status.cause, status.remedy);
}

/* Everything but segments goes on. */
static void expect_the_rest_goes_on(struct world *w)
{
    struct repl_report message = {.state = REPL_STATE_OK, .sent_ns = repl_now_wall_ns()};
    assert_int_equal(hello(w).head.to_seq, w->head.to_seq);
    assert_int_equal(report(w, &message), 200);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/points/0"), 200);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/segments/after/0.0"), 200);
}

/* What has come when the limit is reached stays, and is gone on with. */
static void a_volume_reaches_its_limit_while_a_segment_comes(void **state)
{
    struct world *w = *state;
    struct build b;
    w->limit = "space_limit = 9M\n";
    reload(w); /* of a section that was not there: a restart takes it */
    site_restart(w);
    seed(w);
    expect_counted(w);
    build_big(&b, w);
    build_put(&b);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "space_limit");
    expect_refused(w, "space_limit is 9.0 MiB");
    uint64_t staged = hello(w).staged_bytes;
    assert_true(staged > 0 && staged < b.file.bytes.size);
    expect_counted(w);
    put(w, 2, 0, staged, b.file.bytes.data + staged, b.file.bytes.size - staged);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "space_limit");
    expect_the_rest_goes_on(w);
    site_restart(w);
    assert_int_equal(hello(w).staged_bytes, staged);
    expect_refused(w, "space_limit is 9.0 MiB");
    expect_counted(w);
    w->limit = "space_limit = 20M\n";
    reload(w);
    assert_int_equal(put(w, 2, 0, staged, b.file.bytes.data + staged, b.file.bytes.size - staged),
                     201);
    build_taken(&b);
    build_fini(&b);
    assert_true(volume_status(w, "data").state < REPL_STATE_REFUSED);
    expect_counted(w);
    expect_replica(w);
}

static int put_ahead(struct world *w, struct build *b)
{
    struct call call;
    call_init(&call, w, "PUT", "/v1/volumes/data/ahead/%llu.0",
              (unsigned long long)b->header.to_seq);
    call.request.body = b->file.bytes.data;
    call.request.body_size = b->file.bytes.size;
    return call_run(&call, KEY_HOST);
}

/* Nothing of one is received, whichever way it comes. */
static void at_the_limit_of_the_site_nothing_is_received(void **state)
{
    struct world *w = *state;
    struct build b, supply;
    static uint8_t chunk[REPL_CHUNK_SIZE];
    seed(w);
    uint64_t stored = volume_status(w, "data").stored_bytes;
    uint64_t received = w->site->space.taken_bytes;
    w->limits = text_of("space_limit = %llu\n", (unsigned long long)stored);
    reload(w);
    build_big(&b, w);
    build_put(&b);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "space_limit");
    put_ahead(w, &b);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "space_limit");
    random_fill(&w->random, chunk, sizeof chunk);
    supply_build(&supply, w, chunk, 1);
    supply_put(&supply, 1);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "space_limit");
    build_fini(&supply);
    assert_int_equal(w->site->space.taken_bytes, received);
    expect_refused(w, "the histories of this site have");
    expect_the_rest_goes_on(w);
    /* A little room is not room yet. */
    stored = volume_status(w, "data").stored_bytes;
    w->limits = text_of("space_limit = %llu\n", (unsigned long long)(stored + stored / 64));
    reload(w);
    expect_refused(w, "the histories of this site have");
    w->limits = text_of("space_limit = %llu\n", (unsigned long long)(3 * stored));
    reload(w);
    build_commit(&b);
    expect_counted(w);
    expect_replica(w);
}

static void the_disk_keeps_its_reserve(void **state)
{
    struct world *w = *state;
    struct build b;
    struct statvfs disk;
    seed(w);
    assert_int_equal(statvfs(w->store, &disk), 0);
    w->limits = text_of("space_reserve = %llu\n",
                        (unsigned long long)(disk.f_bavail * disk.f_frsize + ((uint64_t)1 << 30)));
    reload(w);
    build_big(&b, w);
    build_put(&b);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "disk is full");
    expect_refused(w, "space_reserve is");
    bool frees = strstr(volume_status(w, "data").remedy, "retention") != NULL;
    assert_int_equal(frees, world.bucket == NULL); /* nothing of the history lies there */
    expect_the_rest_goes_on(w);
    w->limits = "space_reserve = 0\n";
    reload(w);
    build_commit(&b);
    expect_replica(w);
    /* What has come since the last look counts. */
    struct site_space *space = &w->site->space;
    w->limits = "space_reserve = 1M\n";
    reload(w);
    repl_timer_cancel(&space->timer);
    PUMP_UNTIL(w, !space->looking);
    space->free_bytes = 4 * MIB;
    space->taken_before = space->taken_bytes;
    build_big(&b, w);
    build_put(&b);
    expect_refusal(w, 507, REPL_REFUSAL_NO_SPACE, "disk is full");
    assert_true(hello(w).staged_bytes > 0);
    build_fini(&b);
}

/* Of merges test_compactor.c says so. */
static void the_count_is_what_lies_there(void **state)
{
    struct world *w = *state;
    struct build b;
    seed(w);
    for (int i = 0; i < 3; i++)
        increment(w);
    expect_counted(w);
    site_restart(w);
    expect_counted(w);
    build_big(&b, w);
    build_commit(&b);
    expect_counted(w);
}

/* Of many that send at once each gets less, and keeps nothing. */
static void memory_for_uploads_is_bounded(void **state)
{
    struct world *w = *state;
    struct build b;
    struct call call;
    struct repl_error err = {0};
    size_t largest = 0;
    seed(w);
    const struct site_volume *v = volume_of(w);
    assert_null(v->uploads[0].intake.filling.data);
    assert_null(v->uploads[0].intake.writing.data);
    assert_int_equal(w->site->intakes, 0);
    w->site->intakes = 4000;
    build_big(&b, w);
    call_init(&call, w, "PUT", "/v1/volumes/data/segments/2.0");
    call.request.body = b.file.bytes.data;
    call.request.body_size = b.file.bytes.size;
    must(repl_request_start(w->clients[KEY_HOST], &call.request, &err), &err);
    while (!call.done) {
        turn(w);
        for (unsigned i = 0; i < 2; i++) {
            size_t size = v->uploads[i].intake.filling.size + v->uploads[i].intake.writing.size;
            largest = size > largest ? size : largest;
        }
    }
    assert_int_equal(w->status, 201);
    assert_true(largest > 0 && largest < 4 * (64u << 10));
    w->site->intakes -= 4000;
    assert_int_equal(w->site->intakes, 0);
    build_taken(&b);
    build_fini(&b);
    expect_replica(w);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define IN_BUCKET(name)                                                                            \
    {                                                                                              \
        "in a bucket: " #name, name, setup_bucket, teardown, NULL                                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_volume_reaches_its_limit_while_a_segment_comes),
        TEST(at_the_limit_of_the_site_nothing_is_received),
        TEST(the_disk_keeps_its_reserve),
        TEST(the_count_is_what_lies_there),
        TEST(memory_for_uploads_is_bounded),
        IN_BUCKET(a_volume_reaches_its_limit_while_a_segment_comes),
        IN_BUCKET(at_the_limit_of_the_site_nothing_is_received),
        IN_BUCKET(the_disk_keeps_its_reserve),
        IN_BUCKET(the_count_is_what_lies_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
