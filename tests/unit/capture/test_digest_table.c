#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "capture/digest_table.h"
#include "unit/expect_abort.h"
#include "unit/random.h"

#define PAGES 40

static struct repl_page_digest digest_of(uint8_t value)
{
    struct repl_page_digest digest;
    memset(digest.bytes, value, sizeof digest.bytes);
    return digest;
}

static uint8_t value_of(const struct repl_digest_table *table, uint64_t page)
{
    return repl_digest_table_get(table, page).bytes[0];
}

static void a_page_on_its_way_counts_as_unknown(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0}, old = digest_of(1), new = digest_of(2);
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    repl_digest_table_set(&table, 3, &old);
    assert_int_equal(value_of(&table, 3), 1);
    repl_digest_table_sent(&table, 3, 1, 1);
    assert_int_equal(value_of(&table, 3), 0);
    assert_int_equal(entries[3].bytes[0], 1); /* what the site holds, until it says otherwise */
    repl_digest_table_set(&table, 3, &new);
    repl_digest_table_acknowledged(&table, 1);
    assert_int_equal(value_of(&table, 3), 2);
    repl_digest_table_forget(&table, 2, 3);
    assert_int_equal(value_of(&table, 3), 0);
    repl_digest_table_fini(&table);
}

static void an_abandoned_segment_leaves_pages_pending(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0}, old = digest_of(1);
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    repl_digest_table_set(&table, 5, &old);
    repl_digest_table_sent(&table, 5, 1, 2);
    repl_digest_table_acknowledged(&table, 1);
    assert_int_equal(value_of(&table, 5), 0);
    /* it never left the host: what the site holds is what it held */
    repl_digest_table_sent(&table, 6, 1, 3);
    repl_digest_table_acknowledged(&table, 3);
    assert_int_equal(value_of(&table, 5), 1);
    repl_digest_table_fini(&table);
}

/* Segments are sent and acknowledged in order, any number of them under way: a page is never
 * known while one that carries it is, and everything is known once none is. */
static void never_knows_what_is_under_way(void **state)
{
    (void)state;
    struct random random = random_begin("digest_table", 7);
    struct repl_page_digest entries[PAGES] = {0};
    uint64_t newest_of[PAGES] = {0}, sent = 0, acknowledged = 0;
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    for (uint64_t i = 0; i < PAGES; i++) {
        struct repl_page_digest known = digest_of(9);
        repl_digest_table_set(&table, i, &known);
    }
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t page = random_below(&random, PAGES);
        switch (random_below(&random, 4)) {
        case 0:
            sent++; /* fall through */
        case 1:
            if (sent == 0 || sent == acknowledged)
                break;
            newest_of[page] = sent;
            repl_digest_table_sent(&table, page, 1, sent);
            break;
        default:
            if (acknowledged < sent)
                repl_digest_table_acknowledged(&table, ++acknowledged);
        }
        for (uint64_t i = 0; i < PAGES; i++) {
            if (newest_of[i] > acknowledged)
                assert_int_equal(value_of(&table, i), 0);
            else if (acknowledged == sent)
                assert_int_equal(value_of(&table, i), 9);
        }
    }
    repl_digest_table_fini(&table);
}

static void grows_with_unknown_pages(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0}, more[PAGES + 100] = {0}, old = digest_of(1);
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    repl_digest_table_set(&table, 0, &old);
    repl_digest_table_sent(&table, 1, 1, 1);
    memcpy(more, entries, sizeof entries);
    assert_true(repl_ok(repl_digest_table_grow(&table, more, PAGES + 100, NULL)));
    assert_int_equal(value_of(&table, 0), 1);
    assert_int_equal(value_of(&table, 1), 0);
    assert_int_equal(value_of(&table, PAGES + 99), 0);
    repl_digest_table_fini(&table);
}

static void page_outside(void *context)
{
    repl_digest_table_get(context, PAGES);
}

static void segment_backwards(void *context)
{
    repl_digest_table_sent(context, 0, 1, 5);
    repl_digest_table_sent(context, 0, 1, 4);
}

static void misuse_aborts(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0};
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    assert_true(aborts(page_outside, &table));
    assert_true(aborts(segment_backwards, &table));
    repl_digest_table_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_on_its_way_counts_as_unknown),
        cmocka_unit_test(an_abandoned_segment_leaves_pages_pending),
        cmocka_unit_test(never_knows_what_is_under_way),
        cmocka_unit_test(grows_with_unknown_pages),
        cmocka_unit_test(misuse_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
