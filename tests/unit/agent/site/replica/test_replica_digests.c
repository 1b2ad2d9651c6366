/*
 * The digests of a replica: of what it holds, of one point, from who may ask,
 * and not from anybody too often.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "site/replica/replica_internal.h"
#include "site/site_volume.h"
#include "unit/agent/site/site_fixture.h"

#define SHORT_SIZE (MODEL_SIZE - 5 * 512) /* the last page is a short one */

static struct world world;

static int setup(void **state)
{
    world_init(&world, NULL);
    world.size = SHORT_SIZE;
    *state = &world;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

/* The next point: some pages in the middle, some zeros, and the short last page. */
static void change(struct world *w)
{
    struct build b;
    uint64_t last = w->size - w->size % REPL_PAGE_SIZE;
    build_begin(&b, w, w->head.to_seq, w->head.to_seq + 1, 0);
    build_data(&b, random_below(&w->random, 16) * REPL_CHUNK_SIZE, 3 * REPL_PAGE_SIZE);
    build_zero(&b, (20 + random_below(&w->random, 16)) * REPL_CHUNK_SIZE, 9 * REPL_PAGE_SIZE);
    build_data(&b, last, w->size - last);
    build_end(&b, true);
    build_commit(&b);
}

static struct repl_replica *data_replica(struct world *w)
{
    return site_find_volume(w->site, "data")->replica;
}

static struct repl_digests answer_decode(struct world *w)
{
    struct repl_digests digests;
    struct repl_error err;
    if (w->status != 200)
        fail_msg("%d %s", w->status, w->refusal.text);
    must(repl_digests_decode(w->response.data, w->response.size, &digests, &err), &err);
    return digests;
}

static struct repl_digests ask(struct world *w, uint64_t first_page, uint32_t page_count)
{
    char path[128];
    snprintf(path, sizeof path, "/v1/volumes/data/replica/%llu.%u", (unsigned long long)first_page,
             page_count);
    get(w, KEY_HOST, path);
    return answer_decode(w);
}

static bool page_is_of_model(const struct world *w, const struct repl_digests *digests, uint32_t i)
{
    uint64_t offset = (digests->first_page + i) * REPL_PAGE_SIZE, left = w->size - offset;
    struct repl_sha256 *sha;
    struct repl_digest whole;
    struct repl_error err;
    must(repl_sha256_new(&sha, &err), &err);
    repl_page_digest(sha, w->model + offset, left < REPL_PAGE_SIZE ? left : REPL_PAGE_SIZE, &whole);
    repl_sha256_free(sha);
    struct repl_page_digest page = repl_page_digest_of(&whole);
    return repl_page_digest_equal(&page, &digests->pages[i]);
}

/* Asks, and wants count digests of what the model has. */
static void expect_digests(struct world *w, uint64_t first_page, uint32_t page_count,
                           uint32_t count)
{
    struct repl_digests digests = ask(w, first_page, page_count);
    assert_int_equal(digests.count, count);
    assert_int_equal(digests.first_page, first_page);
    assert_int_equal(digests.at.point.seq, w->head.to_seq);
    assert_int_equal(digests.at.volume_size, w->size);
    for (uint32_t i = 0; i < count; i++) {
        if (!page_is_of_model(w, &digests, i))
            fail_msg("page %llu", (unsigned long long)first_page + i);
    }
    repl_digests_fini(&digests);
}

static void begin(struct world *w)
{
    site_start(w);
    seed(w);
    change(w);
    expect_replica(w);
}

static void test_ranges(void **state)
{
    struct world *w = *state;
    uint32_t pages = SHORT_SIZE / REPL_PAGE_SIZE + 1;
    begin(w);
    expect_digests(w, 0, REPL_DIGESTS_MAX, pages);
    expect_digests(w, 0, 0, 0);
    expect_digests(w, 7, 300, 300);
    expect_digests(w, pages - 1, 9, 1);
    expect_digests(w, pages, 1, 0);
    expect_digests(w, UINT64_MAX, REPL_DIGESTS_MAX, 0);
    change(w);
    expect_replica(w);
    expect_digests(w, 0, REPL_DIGESTS_MAX, pages);
    site_restart(w);
    expect_replica(w);
    expect_digests(w, 0, REPL_DIGESTS_MAX, pages);
}

static void test_altered_image(void **state)
{
    struct world *w = *state;
    char path[256];
    begin(w);
    replica_path(w, path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, "x", 1, 9 * REPL_PAGE_SIZE + 17), 1);
    close(fd);
    struct repl_digests digests = ask(w, 0, REPL_DIGESTS_MAX);
    for (uint32_t i = 0; i < digests.count; i++)
        assert_int_equal(page_is_of_model(w, &digests, i), i != 9);
    repl_digests_fini(&digests);
    /* what the image lost at its end is zeros */
    assert_int_equal(truncate(path, (off_t)(w->size - 1)), 0);
    digests = ask(w, 0, REPL_DIGESTS_MAX);
    assert_false(page_is_of_model(w, &digests, digests.count - 1));
    repl_digests_fini(&digests);
}

/* How long nothing changed is told as the source has said it last, before the index has it. */
static void test_unchanged(void **state)
{
    struct world *w = *state;
    begin(w);
    struct repl_report message = {.seq = w->head.to_seq,
                                  .unchanged_until_ns = w->time_ns + 5 * SECOND_NS,
                                  .state = REPL_STATE_IDLE,
                                  .sent_ns = w->time_ns + 9 * SECOND_NS};
    assert_int_equal(report(w, &message), 200);
    message.unchanged_until_ns += SECOND_NS;
    assert_int_equal(report(w, &message), 200); /* not logged so soon */
    struct repl_digests digests = ask(w, 0, 0);
    assert_int_equal(digests.at.unchanged_until_ns, message.unchanged_until_ns);
    repl_digests_fini(&digests);
}

static void test_no_replica(void **state)
{
    struct world *w = *state;
    w->replica = "none";
    site_start(w);
    seed(w);
    struct repl_digests digests = ask(w, 0, 16);
    assert_int_equal(digests.count, 0);
    assert_int_equal(digests.at.point.seq, 0);
    repl_digests_fini(&digests);
}

static void test_at_no_point(void **state)
{
    struct world *w = *state;
    struct build b;
    site_start(w);
    hello(w);
    get(w, KEY_HOST, "/v1/volumes/data/replica/0.16");
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "just now");
    build_begin(&b, w, 0, 1, 0);
    build_data(&b, 0, MIB);
    build_end(&b, false);
    build_commit(&b);
    get(w, KEY_HOST, "/v1/volumes/data/replica/0.16");
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "at no point just now");
}

static void test_who_may(void **state)
{
    struct world *w = *state;
    static const char *const bad[] = {"0.4097", "0", "0.", ".1", "01.1", "0.1.1", "x.1", "0.x"};
    char path[128];
    begin(w);
    assert_int_equal(get(w, KEY_RECOVERY, "/v1/volumes/data/replica/0.1"), 200);
    assert_int_equal(get(w, KEY_OTHER, "/v1/volumes/data/replica/0.1"), 403);
    assert_int_equal(get(w, KEY_REVOKED, "/v1/volumes/data/replica/0.1"), 403);
    assert_int_equal(get(w, KEY_HOST, "/v1/volumes/spare/replica/0.1"), 404);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(path, sizeof path, "/v1/volumes/data/replica/%s", bad[i]);
        if (get(w, KEY_HOST, path) != 404)
            fail_msg("%s: %d", bad[i], w->status);
    }
}

/* While a segment is being applied nobody reads, so nobody sees half of it; and who waits is
 * answered as soon as it is there. */
static void test_reading_waits_for_applying(void **state)
{
    struct world *w = *state;
    struct call calls[5];
    struct repl_error err;
    begin(w);
    struct replica_target *target = repl_replica_target(data_replica(w));
    atomic_store(&target->held, true);
    change(w);
    for (size_t i = 0; i < 5; i++) { /* the fifth is one too many of one key */
        call_init(&calls[i], w, "GET", "/v1/volumes/data/replica/0.4096");
        must(repl_request_start(w->clients[KEY_HOST], &calls[i].request, &err), &err);
    }
    PUMP_UNTIL(w,
               calls[0].done || calls[1].done || calls[2].done || calls[3].done || calls[4].done);
    expect_refusal(w, 503, REPL_REFUSAL_BUSY, "under way");
    struct call other;
    call_init(&other, w, "GET", "/v1/volumes/data/replica/0.0");
    must(repl_request_start(w->clients[KEY_RECOVERY], &other.request, &err), &err);
    for (int i = 0; i < 10; i++)
        turn(w);
    assert_int_equal(calls[0].done + calls[1].done + calls[2].done + calls[3].done + calls[4].done,
                     1);
    assert_false(other.done);
    atomic_store(&target->held, false);
    PUMP_UNTIL(w, other.done && calls[0].done && calls[1].done && calls[2].done && calls[3].done &&
                      calls[4].done);
    assert_int_equal(w->status, 200);
    expect_digests(w, 0, REPL_DIGESTS_MAX, SHORT_SIZE / REPL_PAGE_SIZE + 1);
    change(w);
    expect_replica(w);
}

static void test_stop_while_reading_waits(void **state)
{
    struct world *w = *state;
    struct call calls[2];
    struct repl_error err;
    begin(w);
    struct replica_target *target = repl_replica_target(data_replica(w));
    atomic_store(&target->held, true);
    change(w);
    for (size_t i = 0; i < 2; i++) {
        call_init(&calls[i], w, "GET", "/v1/volumes/data/replica/0.4096");
        must(repl_request_start(w->clients[KEY_HOST], &calls[i].request, &err), &err);
    }
    PUMP_UNTIL(w, w->site->digests != NULL);
    atomic_store(&target->held, false);
    site_restart(w);
    expect_replica(w);
    expect_digests(w, 0, REPL_DIGESTS_MAX, SHORT_SIZE / REPL_PAGE_SIZE + 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ranges),
        TEST(test_altered_image),
        TEST(test_unchanged),
        TEST(test_no_replica),
        TEST(test_at_no_point),
        TEST(test_who_may),
        TEST(test_reading_waits_for_applying),
        TEST(test_stop_while_reading_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
