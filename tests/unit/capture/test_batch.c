#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "capture/batch.h"
#include "unit/random.h"

#define VOLUME_PAGES 64u
#define TAIL         1000u /* bytes of the last page */
#define VOLUME_SIZE  ((VOLUME_PAGES - 1) * (uint64_t)REPL_PAGE_SIZE + TAIL)

static uint8_t device[VOLUME_PAGES * REPL_PAGE_SIZE];

static size_t size_of(uint64_t page)
{
    return page == VOLUME_PAGES - 1 ? TAIL : REPL_PAGE_SIZE;
}

static struct repl_page_digest digest_of(const void *bytes, size_t size)
{
    struct repl_sha256 *sha;
    struct repl_digest digest;
    assert_true(repl_ok(repl_sha256_new(&sha, NULL)));
    repl_page_digest(sha, bytes, size, &digest);
    repl_sha256_free(sha);
    return repl_page_digest_of(&digest);
}

static struct repl_digest chunk_name_at(uint64_t page)
{
    struct repl_sha256 *sha;
    struct repl_digest pages[REPL_CHUNK_PAGES], name;
    assert_true(repl_ok(repl_sha256_new(&sha, NULL)));
    for (size_t i = 0; i < REPL_CHUNK_PAGES; i++)
        repl_page_digest(sha, device + (page + i) * REPL_PAGE_SIZE, REPL_PAGE_SIZE, &pages[i]);
    repl_chunk_name(sha, pages, &name);
    repl_sha256_free(sha);
    return name;
}

static struct repl_batch batch_new(void)
{
    struct repl_batch batch;
    struct random random = {42};
    assert_true(repl_ok(repl_batch_init(&batch, NULL)));
    random_fill(&random, device, sizeof device);
    batch.volume_size = VOLUME_SIZE;
    return batch;
}

/* Adds a run and fills it; held: 0 unknown, 1 what the device has. */
static void add(struct repl_batch *batch, uint64_t page, uint32_t count, bool held)
{
    uint32_t first = batch->page_count;
    assert_int_equal(repl_batch_add(batch, page, count), count);
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *bytes = device + (page + i) * REPL_PAGE_SIZE;
        memcpy(batch->pages + (size_t)(first + i) * REPL_PAGE_SIZE, bytes, size_of(page + i));
        batch->held[first + i] =
            held ? digest_of(bytes, size_of(page + i)) : (struct repl_page_digest){0};
    }
}

/* Every extent's bytes are the device's, and digests those of the pages. */
static void assert_says_the_device(struct repl_batch *batch, uint64_t expected_bytes)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    uint64_t bytes = 0, end = 0;
    if (batch->has_frame)
        assert_true(
            repl_ok(repl_frame_decode(batch->coder, &batch->frame, batch->stored.data, raw, NULL)));
    for (uint32_t i = 0; i < batch->extent_count; i++) {
        const struct repl_extent *e = &batch->extents[i];
        assert_true(e->offset >= end);
        end = e->offset + e->length;
        bytes += e->length;
        if (e->type == REPL_RECORD_DATA)
            assert_memory_equal(raw + e->source_offset, device + e->offset, e->length);
        else if (e->type == REPL_RECORD_ZERO)
            assert_true(repl_is_zero(device + e->offset, e->length));
        else
            assert_memory_equal(batch->pages + batch->references[e->source].place,
                                device + e->offset, e->length);
    }
    assert_true(bytes == expected_bytes);
    for (uint32_t i = 0; i < batch->digest_count; i++) {
        struct repl_page_digest digest = digest_of(device + batch->digests[i].page * REPL_PAGE_SIZE,
                                                   size_of(batch->digests[i].page));
        assert_memory_equal(&batch->digests[i].digest, &digest, sizeof digest);
    }
}

static void reduce(struct repl_batch *batch)
{
    struct repl_error err;
    assert_true(repl_ok(repl_batch_reduce(batch, &err)));
}

static void unchanged_pages_cost_nothing(void **state)
{
    (void)state;
    struct repl_batch batch = batch_new();
    repl_batch_clear(&batch);
    add(&batch, 0, VOLUME_PAGES, true);
    assert_int_equal(batch.read_count, 1);
    assert_true(repl_batch_read_size(&batch, &batch.reads[0]) == VOLUME_SIZE);
    reduce(&batch);
    assert_false(batch.has_frame);
    assert_true(batch.extent_count == 0 && batch.digest_count == 0);
    repl_batch_fini(&batch);
}

static void a_changed_page_is_an_extent(void **state)
{
    (void)state;
    struct repl_batch batch = batch_new();
    add(&batch, 0, VOLUME_PAGES, true);
    memset(&batch.held[5], 0, sizeof batch.held[5]);
    memset(&batch.held[6], 7, sizeof batch.held[6]);
    memset(&batch.held[VOLUME_PAGES - 1], 0, sizeof batch.held[0]);
    reduce(&batch);
    assert_true(batch.extent_count == 2 && batch.digest_count == 3 && batch.chunk_count == 0);
    assert_says_the_device(&batch, 2 * REPL_PAGE_SIZE + TAIL);
    repl_batch_fini(&batch);
}

static void zeros_go_without_bytes(void **state)
{
    (void)state;
    struct repl_batch batch = batch_new();
    memset(device + 16 * REPL_PAGE_SIZE, 0, 16 * REPL_PAGE_SIZE);
    memset(device + (VOLUME_PAGES - 1) * REPL_PAGE_SIZE, 0, TAIL);
    add(&batch, 16, 16, false);
    add(&batch, VOLUME_PAGES - 2, 2, false);
    reduce(&batch);
    assert_true(batch.extent_count == 3);
    assert_int_equal(batch.extents[0].type, REPL_RECORD_ZERO);
    assert_int_equal(batch.extents[2].type, REPL_RECORD_ZERO);
    assert_says_the_device(&batch, 17 * REPL_PAGE_SIZE + TAIL);
    repl_batch_clear(&batch);
    add(&batch, 16, 16, true); /* known to be zeros there */
    reduce(&batch);
    assert_true(batch.extent_count == 0 && !batch.has_frame);
    repl_batch_fini(&batch);
}

static bool knows_one(void *context, const struct repl_digest *name)
{
    return repl_digest_equal(context, name);
}

static void whole_chunks_are_named_or_referred_to(void **state)
{
    (void)state;
    struct repl_batch batch = batch_new();
    struct repl_digest known = chunk_name_at(16), sent = chunk_name_at(32);
    batch.chunk_known = knows_one;
    batch.chunk_context = &known;
    add(&batch, 8, 40, false);
    reduce(&batch);
    assert_true(batch.reference_count == 1 && batch.chunk_count == 1);
    assert_true(repl_digest_equal(&batch.references[0].name, &known));
    assert_true(batch.references[0].offset == REPL_CHUNK_SIZE &&
                batch.references[0].place == 8 * REPL_PAGE_SIZE);
    assert_true(repl_digest_equal(&batch.chunks[0].name, &sent));
    assert_true(batch.chunks[0].frame_offset == 8 * REPL_PAGE_SIZE);
    assert_true(batch.digest_count == 40);
    assert_says_the_device(&batch, 40 * REPL_PAGE_SIZE);
    repl_batch_clear(&batch);
    batch.chunk_known = NULL;
    add(&batch, 16, 16, false);
    reduce(&batch);
    assert_true(batch.reference_count == 0 && batch.chunk_count == 1);
    repl_batch_fini(&batch);
}

static void partial_chunks_are_not_named(void **state)
{
    (void)state;
    struct repl_batch batch = batch_new();
    add(&batch, 16, 15, false);                /* one page short */
    add(&batch, VOLUME_PAGES - 16, 16, false); /* ends in a short page */
    reduce(&batch);
    assert_true(batch.chunk_count == 0);
    repl_batch_clear(&batch);
    add(&batch, 32, 16, false);
    memset(batch.pages, 0, REPL_PAGE_SIZE); /* one page of zeros */
    memset(device + 32 * REPL_PAGE_SIZE, 0, REPL_PAGE_SIZE);
    reduce(&batch);
    assert_true(batch.chunk_count == 0);
    assert_says_the_device(&batch, 16 * REPL_PAGE_SIZE);
    repl_batch_fini(&batch);
}

static void takes_no_more_than_fits(void **state)
{
    (void)state;
    struct repl_batch batch = batch_new();
    assert_int_equal(repl_batch_add(&batch, 0, 200), 200);
    assert_int_equal(repl_batch_add(&batch, 1000, 200), 56);
    assert_true(repl_batch_read_to(&batch, &batch.reads[1]) == batch.pages + 200 * REPL_PAGE_SIZE);
    assert_int_equal(repl_batch_add(&batch, 2000, 1), 0);
    assert_int_equal(batch.page_count, REPL_BATCH_PAGES);
    repl_batch_clear(&batch);
    assert_int_equal(repl_batch_add(&batch, 0, UINT64_C(1) << 38), REPL_BATCH_PAGES);
    repl_batch_fini(&batch);
}

static void any_mixture_says_the_device(void **state)
{
    (void)state;
    struct random random = random_begin("batch", 5);
    struct repl_batch batch = batch_new();
    for (unsigned round = 0; round < 200; round++) {
        uint64_t page = 0, bytes = 0;
        for (uint64_t i = 0; i < VOLUME_PAGES; i++) {
            if (random_below(&random, 4) == 0)
                memset(device + i * REPL_PAGE_SIZE, (int)random_below(&random, 2), REPL_PAGE_SIZE);
        }
        repl_batch_clear(&batch);
        while (page < VOLUME_PAGES) {
            uint32_t count = 1 + (uint32_t)random_below(&random, VOLUME_PAGES - page);
            bool held = random_below(&random, 3) == 0;
            add(&batch, page, count, held);
            for (uint64_t i = page; i < page + count && !held; i++)
                bytes += size_of(i);
            page += count + random_below(&random, 5);
        }
        reduce(&batch);
        assert_says_the_device(&batch, bytes);
    }
    repl_batch_fini(&batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unchanged_pages_cost_nothing),
        cmocka_unit_test(a_changed_page_is_an_extent),
        cmocka_unit_test(zeros_go_without_bytes),
        cmocka_unit_test(whole_chunks_are_named_or_referred_to),
        cmocka_unit_test(partial_chunks_are_not_named),
        cmocka_unit_test(takes_no_more_than_fits),
        cmocka_unit_test(any_mixture_says_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
