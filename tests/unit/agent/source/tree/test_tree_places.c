/*
 * The allocator of a tree's space against a model of its pages.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/limits.h"
#include "source/tree/tree_places.h"
#include "unit/random.h"
#include "unit/temporary.h"

#define BLOCKS_MAX 400u
#define STEPS      6000u
#define ORDER_MAX  9u
#define SPACE      (UINT64_C(4) << 20)
#define PAGES_MAX  (UINT64_C(1) << 18)

static struct fixture {
    struct temporary at;
    struct repl_tree_index *index;
    struct repl_tree_txn txn;
    struct repl_tree_block blocks[BLOCKS_MAX];
    size_t count;
    uint16_t owner[PAGES_MAX]; /* of each page: 1 + which block; 0: none */
    struct repl_error err;
} fixture;

static void ok(repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", fixture.err.text);
}

static int setup(void **state)
{
    (void)state;
    char path[300];
    memset(&fixture, 0, sizeof fixture);
    assert_int_equal(temporary_make(&fixture.at), 0);
    snprintf(path, sizeof path, "%s/index", fixture.at.path);
    const struct repl_tree_index_options options = {.path = path, .first_object = 3};
    ok(repl_tree_index_open(&options, &fixture.index, &fixture.err));
    ok(repl_tree_begin(fixture.index, true, &fixture.txn, &fixture.err));
    ok(repl_tree_space_reach(&fixture.txn, SPACE, &fixture.err));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    repl_tree_abort(&fixture.txn);
    repl_tree_index_close(fixture.index);
    temporary_remove(&fixture.at);
    return 0;
}

static void own(const struct repl_tree_block *block, uint16_t before, uint16_t now)
{
    uint64_t first = block->place / REPL_PAGE_SIZE;
    for (uint64_t page = first; page < first + block->size / REPL_PAGE_SIZE; page++) {
        assert_int_equal(fixture.owner[page], before);
        fixture.owner[page] = now;
    }
}

static void take(unsigned order, uint64_t object, uint64_t offset, bool value)
{
    struct repl_tree_block *block = &fixture.blocks[fixture.count];
    *block = (struct repl_tree_block){.object = object, .offset = offset, .is_value = value};
    ok(repl_tree_place_take(&fixture.txn, order, block, &fixture.err));
    assert_int_equal(block->size, (uint64_t)REPL_PAGE_SIZE << order);
    assert_int_equal(block->place % block->size, 0);
    assert_true(block->place + block->size <= repl_tree_meta(fixture.index)->space_size);
    assert_true(block->place + block->size <= PAGES_MAX * REPL_PAGE_SIZE);
    own(block, 0, (uint16_t)++fixture.count);
}

static void give(size_t which)
{
    struct repl_tree_block block = fixture.blocks[which];
    struct repl_buffer pages = {0};
    ok(repl_tree_place_give(&fixture.txn, &block, &pages, &fixture.err));
    const struct repl_tree_pages *noted = (const void *)pages.data;
    assert_int_equal(pages.size, sizeof *noted);
    assert_int_equal(noted->page, block.place / REPL_PAGE_SIZE);
    assert_int_equal(noted->count, block.size / REPL_PAGE_SIZE);
    repl_buffer_fini(&pages);
    own(&block, (uint16_t)(which + 1), 0);
    if (which != --fixture.count) {
        own(&fixture.blocks[fixture.count], (uint16_t)(fixture.count + 1), (uint16_t)(which + 1));
        fixture.blocks[which] = fixture.blocks[fixture.count];
    }
}

static void find(uint64_t place)
{
    struct repl_tree_block block;
    bool found;
    uint64_t page = place / REPL_PAGE_SIZE;
    ok(repl_tree_place_find(&fixture.txn, place, &block, &found, &fixture.err));
    while (page < PAGES_MAX && fixture.owner[page] == 0)
        page++;
    assert_int_equal(found, page < PAGES_MAX);
    if (found)
        assert_memory_equal(&block, &fixture.blocks[fixture.owner[page] - 1], sizeof block);
}

/* Rows of the table of what is free, by order. */
static void free_count(unsigned counts[REPL_TREE_ORDER_MAX + 1], uint64_t *bytes)
{
    const struct repl_tree_key first = {0};
    struct repl_tree_walk walk;
    memset(counts, 0, (REPL_TREE_ORDER_MAX + 1) * sizeof counts[0]);
    *bytes = 0;
    ok(repl_tree_walk_begin(&fixture.txn, REPL_TREE_FREE, &first, &walk, &fixture.err));
    while (!walk.done) {
        unsigned order = *(const uint8_t *)walk.key.mv_data;
        counts[order]++;
        *bytes += (uint64_t)REPL_PAGE_SIZE << order;
        ok(repl_tree_walk_next(&walk, &fixture.err));
    }
    repl_tree_walk_end(&walk);
}

static void all_is_free_in_the_largest_pieces(void)
{
    unsigned counts[REPL_TREE_ORDER_MAX + 1];
    uint64_t bytes, size = repl_tree_meta(fixture.index)->space_size;
    free_count(counts, &bytes);
    assert_int_equal(bytes, size);
    for (unsigned order = 0; order < REPL_TREE_ORDER_MAX; order++)
        assert_int_equal(counts[order], size / REPL_PAGE_SIZE >> order & 1);
}

static void pieces_are_given_out_and_back(void **state)
{
    (void)state;
    struct random random = random_begin("places", 5);
    for (unsigned step = 0; step < STEPS; step++) {
        bool more = random_below(&random, 1000) < (step / 1500 % 2 == 0 ? 650 : 350);
        if (more && fixture.count < BLOCKS_MAX)
            take((unsigned)random_below(&random, ORDER_MAX), 3 + random_below(&random, 5), step,
                 random_below(&random, 5) == 0);
        else if (fixture.count > 0)
            give((size_t)random_below(&random, fixture.count));
        find(random_below(&random, repl_tree_meta(fixture.index)->space_size));
    }
    while (fixture.count > 0)
        give((size_t)random_below(&random, fixture.count));
    find(0);
    all_is_free_in_the_largest_pieces();
}

static void a_list_is_of_one_object_by_offset(void **state)
{
    (void)state;
    struct repl_buffer blocks = {0};
    take(0, 9, 300, false);
    take(4, 9, 100, false);
    take(1, 9, 200, true);
    take(2, 8, 100, false);
    take(3, 10, 100, false);
    ok(repl_tree_place_list(&fixture.txn, 9, false, &blocks, &fixture.err));
    const struct repl_tree_block *block = (const void *)blocks.data;
    assert_int_equal(blocks.size, 2 * sizeof *block);
    assert_int_equal(block[0].offset, 100);
    assert_int_equal(block[1].offset, 300);
    ok(repl_tree_place_list(&fixture.txn, 9, true, &blocks, &fixture.err));
    assert_int_equal(blocks.size, sizeof *block);
    assert_int_equal(((const struct repl_tree_block *)(const void *)blocks.data)->offset, 200);
    repl_buffer_fini(&blocks);
}

static void the_space_grows_for_what_is_large(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        take(14, 5, i, false);
    assert_true(repl_tree_meta(fixture.index)->space_size >= UINT64_C(3) * (64 << 20));
    struct repl_tree_block block = {.object = 6};
    ok(repl_tree_place_take(&fixture.txn, REPL_TREE_ORDER_MAX, &block, &fixture.err));
    assert_int_equal(block.place % (UINT64_C(1) << 30), 0);
    assert_int_equal(
        repl_tree_space_reach(&fixture.txn, REPL_VOLUME_SIZE_MAX + 1, &fixture.err).code,
        REPL_E_REFUSED);
}

static void noted_pages_that_touch_are_one(void **state)
{
    (void)state;
    struct repl_buffer pages = {0};
    ok(repl_tree_pages_note(&pages, 0, 1, &fixture.err));
    ok(repl_tree_pages_note(&pages, REPL_PAGE_SIZE, 2 * REPL_PAGE_SIZE, &fixture.err));
    ok(repl_tree_pages_note(&pages, 2 * REPL_PAGE_SIZE, 10, &fixture.err));
    ok(repl_tree_pages_note(&pages, 5 * REPL_PAGE_SIZE, 10, &fixture.err));
    ok(repl_tree_pages_note(&pages, 4 * REPL_PAGE_SIZE, 10, &fixture.err));
    static const struct repl_tree_pages expected[] = {{0, 3}, {5, 1}, {4, 1}};
    assert_int_equal(pages.size, sizeof expected);
    assert_memory_equal(pages.data, expected, sizeof expected);
    repl_buffer_fini(&pages);
}

static void orders_hold_what_they_are_of(void **state)
{
    (void)state;
    assert_int_equal(repl_tree_order_of(0), 0);
    assert_int_equal(repl_tree_order_of(4096), 0);
    assert_int_equal(repl_tree_order_of(4097), 1);
    assert_int_equal(repl_tree_order_of(REPL_CHUNK_SIZE), REPL_TREE_ORDER_CHUNK);
    assert_int_equal(repl_tree_order_of(UINT64_C(1) << 30), REPL_TREE_ORDER_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pieces_are_given_out_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(a_list_is_of_one_object_by_offset, setup, teardown),
        cmocka_unit_test_setup_teardown(the_space_grows_for_what_is_large, setup, teardown),
        cmocka_unit_test(noted_pages_that_touch_are_one),
        cmocka_unit_test(orders_hold_what_they_are_of),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
