/*
 * A device (zeros, on a loop device) compared with a replica that an origin of
 * the test's own makes up. Needs root; without a loop device it skips.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "loop/loop.h"
#include "recover/verify_source.h"
#include "unit/loop_device.h"
#include "unit/temporary.h"

#define SIZE          (UINT64_C(20) * 1048576 + 1536) /* more than one piece, and a short last page */
#define PAGES         (SIZE / REPL_PAGE_SIZE + 1)
#define GREAT         (UINT64_C(160) * 1048576)
#define CHANGING_PAGE 77u /* where it is no zeros, it is other bytes in each answer */
#define MS_NS         INT64_C(1000000)

/* What the replica holds of a page at the n-th answer; n counts from 1. */
typedef bool page_is_zero_fn(uint64_t page, unsigned n);

struct fake {
    struct repl_origin base;
    page_is_zero_fn *is_zero;
    uint64_t volume_size;
    unsigned small_at; /* the answer in which the volume has but one page */
    enum repl_cut cut;
    bool stands_still; /* no newer points */
    bool none;
    uint32_t withheld; /* digests of each answer that are not there */
    unsigned answers;
    int64_t began_ns;
    struct repl_page_digest zero, zero_short;
};

static struct repl_page_digest digest_of(const void *bytes, size_t size)
{
    struct repl_sha256 *sha;
    struct repl_digest digest;
    struct repl_error err;
    assert_true(repl_ok(repl_sha256_new(&sha, &err)));
    repl_page_digest(sha, bytes, size, &digest);
    repl_sha256_free(sha);
    return repl_page_digest_of(&digest);
}

static repl_result fake_digests(struct repl_origin *origin, uint64_t first_page,
                                uint32_t page_count, struct repl_digests *out,
                                struct repl_error *err)
{
    struct fake *f = (struct fake *)origin;
    uint64_t size = f->answers + 1 == f->small_at ? REPL_PAGE_SIZE : f->volume_size;
    uint64_t pages = (size + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE;
    uint64_t left = first_page < pages ? pages - first_page : 0;
    int64_t now_ns = f->stands_still ? f->began_ns : repl_now_wall_ns();
    (void)err;
    assert_true(page_count <= REPL_DIGESTS_MAX);
    *out = (struct repl_digests){.first_page = first_page};
    if (f->none)
        return REPL_SUCCESS;
    f->answers++;
    out->at = (struct repl_points_entry){.point = {.seq = f->stands_still ? 1 : f->answers,
                                                   .begin_ns = now_ns,
                                                   .end_ns = now_ns,
                                                   .cut = f->cut},
                                         .unchanged_until_ns = now_ns,
                                         .volume_size = size};
    out->count = page_count < left ? page_count : (uint32_t)left;
    out->count -= f->withheld < out->count ? f->withheld : out->count;
    if (out->count == 0)
        return REPL_SUCCESS;
    out->pages = calloc(out->count, sizeof out->pages[0]);
    assert_non_null(out->pages);
    for (uint32_t i = 0; i < out->count; i++) {
        uint64_t page = first_page + i;
        out->pages[i] = page == pages - 1 ? f->zero_short : f->zero;
        if (!f->is_zero(page, f->answers))
            out->pages[i].bytes[0] ^= page == CHANGING_PAGE ? (uint8_t)f->answers : 1;
    }
    return REPL_SUCCESS;
}

static const struct repl_origin_ops fake_ops = {.digests = fake_digests};

struct bench {
    struct temporary temporary;
    struct loop_device loop;
    struct repl_device device;
    struct fake fake;
    atomic_bool interrupted;
    struct repl_verify_source_result result;
    struct repl_error err;
};

static void bench_make(struct bench *b, uint64_t size, page_is_zero_fn *is_zero)
{
    static const uint8_t zeros[REPL_PAGE_SIZE];
    char path[300];
    *b = (struct bench){.loop.fd = -1};
    assert_int_equal(temporary_make(&b->temporary), 0);
    snprintf(path, sizeof path, "%s/disk", b->temporary.path);
    if (!loop_device_make(&b->loop, path, size)) {
        temporary_remove(&b->temporary);
        skip();
    }
    repl_result opened = repl_device_open(b->loop.path, &b->device, &b->err);
    if (!repl_ok(opened))
        fail_msg("%s", b->err.text);
    b->fake = (struct fake){.base = {.ops = &fake_ops, .volume = "data", .label = "the fake"},
                            .is_zero = is_zero,
                            .volume_size = size,
                            .cut = REPL_CUT_WINDOW,
                            .began_ns = repl_now_wall_ns(),
                            .zero = digest_of(zeros, REPL_PAGE_SIZE)};
    size_t last = size % REPL_PAGE_SIZE != 0 ? size % REPL_PAGE_SIZE : REPL_PAGE_SIZE;
    b->fake.zero_short = digest_of(zeros, last);
}

static void bench_end(struct bench *b)
{
    repl_device_close(&b->device);
    close(b->loop.fd);
    temporary_remove(&b->temporary);
}

/* Where newer points come, suspects are settled by these, and only a machine that is very slow runs
 * out of patience. */
static enum repl_code compare(struct bench *b)
{
    struct repl_verify_source_options options = {
        .origin = &b->fake.base,
        .device = &b->device,
        .patience_ns = b->fake.stands_still ? 300 * MS_NS : 60000 * MS_NS,
        .interrupted = &b->interrupted};
    b->fake.answers = 0;
    return repl_verify_source(&options, &b->result, &b->err).code;
}

static void expect_tally(const struct repl_page_tally *tally, uint64_t page_count,
                         uint64_t first_page)
{
    assert_int_equal(tally->page_count, page_count);
    if (page_count > 0)
        assert_int_equal(tally->first_page, first_page);
}

static bool all_equal(uint64_t page, unsigned n)
{
    (void)page, (void)n;
    return true;
}

/* As long as the replica is behind. */
static bool equal_later(uint64_t page, unsigned n)
{
    return page % 1000 != 5 || n > 4;
}

static void test_equal(void **state)
{
    struct bench b;
    (void)state;
    static page_is_zero_fn *const replicas[] = {all_equal, equal_later};
    for (size_t i = 0; i < 2; i++) {
        bench_make(&b, SIZE, replicas[i]);
        assert_int_equal(compare(&b), REPL_OK);
        assert_int_equal(b.result.compared_bytes, SIZE);
        assert_int_equal(b.result.first_seq, 1);
        assert_int_equal(b.result.last_seq, b.fake.answers);
        expect_tally(&b.result.differing, 0, 0);
        expect_tally(&b.result.changing, 0, 0);
        expect_tally(&b.result.unclear, 0, 0);
        bench_end(&b);
    }
}

/* Far apart, side by side, and the short last page. */
static bool four_differ(uint64_t page, unsigned n)
{
    (void)n;
    return page != 5 && page != 4500 && page != 4501 && page != PAGES - 1;
}

static void test_differing(void **state)
{
    struct bench b;
    (void)state;
    bench_make(&b, SIZE, four_differ);
    assert_int_equal(compare(&b), REPL_OK);
    expect_tally(&b.result.differing, 4, 5);
    expect_tally(&b.result.unclear, 0, 0);
    assert_false(b.result.stopped);
    /* a replica that is built anew meanwhile, from a point at which the volume was smaller */
    b.fake.small_at = 4;
    assert_int_equal(compare(&b), REPL_OK);
    assert_true(b.fake.answers > 4);
    expect_tally(&b.result.differing, 4, 5);
    b.fake.small_at = 0;
    /* the same, but the site has nothing newer */
    b.fake.stands_still = true;
    assert_int_equal(compare(&b), REPL_OK);
    expect_tally(&b.result.differing, 0, 0);
    expect_tally(&b.result.unclear, 4, 5);
    assert_false(b.result.vague);
    /* or only what proves nothing */
    b.fake.stands_still = false;
    b.fake.cut = REPL_CUT_FREEZE;
    assert_int_equal(compare(&b), REPL_OK);
    expect_tally(&b.result.differing, 0, 0);
    expect_tally(&b.result.unclear, 4, 5);
    assert_true(b.result.vague);
    bench_end(&b);
}

static bool one_changes(uint64_t page, unsigned n)
{
    (void)n;
    return page != CHANGING_PAGE && page != 5000;
}

static void test_changing(void **state)
{
    struct bench b;
    (void)state;
    bench_make(&b, SIZE, one_changes);
    assert_int_equal(compare(&b), REPL_OK);
    expect_tally(&b.result.changing, 1, CHANGING_PAGE);
    expect_tally(&b.result.differing, 1, 5000);
    bench_end(&b);
}

static bool none_equal(uint64_t page, unsigned n)
{
    (void)page, (void)n;
    return false;
}

/* More suspects than are kept: they are settled in between, and enough is enough. */
static void test_all_differs(void **state)
{
    struct bench b;
    (void)state;
    bench_make(&b, GREAT, none_equal);
    assert_int_equal(compare(&b), REPL_OK);
    assert_true(b.result.stopped);
    assert_true(b.result.compared_bytes < GREAT);
    assert_int_equal(b.result.differing.page_count + b.result.changing.page_count,
                     b.result.compared_bytes / REPL_PAGE_SIZE);
    assert_int_equal(b.result.differing.first_page, 0);
    bench_end(&b);
}

static void test_refusals(void **state)
{
    struct bench b;
    (void)state;
    bench_make(&b, SIZE, four_differ);
    b.fake.none = true;
    assert_int_equal(compare(&b), REPL_E_REFUSED);
    assert_non_null(strstr(b.err.text, "keeps no replica"));
    b.fake.none = false;
    b.fake.volume_size = SIZE + 512;
    assert_int_equal(compare(&b), REPL_E_REFUSED);
    assert_non_null(strstr(b.err.text, "right device"));
    /* the device has grown since: what the volume had is compared */
    b.fake.volume_size = SIZE - 1536;
    assert_int_equal(compare(&b), REPL_OK);
    assert_int_equal(b.result.compared_bytes, SIZE - 1536);
    b.fake.volume_size = SIZE;
    b.fake.withheld = 1;
    assert_int_equal(compare(&b), REPL_E_CORRUPT);
    b.fake.withheld = 0;
    atomic_store(&b.interrupted, true);
    assert_int_equal(compare(&b), REPL_E_RETRY);
    bench_end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),    cmocka_unit_test(test_differing),
        cmocka_unit_test(test_changing), cmocka_unit_test(test_all_differs),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
