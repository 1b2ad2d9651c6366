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

static void set(struct repl_digest_table *table, uint64_t page, uint8_t value, uint64_t segment)
{
    struct repl_page_digest digest = digest_of(value);
    repl_digest_table_set(table, page, &digest, segment);
}

static void sent(struct repl_digest_table *table, uint64_t page, uint8_t value, uint64_t segment)
{
    struct repl_page_digest digest = digest_of(value);
    repl_digest_table_sent(table, page, &digest, segment);
}

static void a_page_on_its_way_is_what_was_sent_last(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0};
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    set(&table, 3, 1, 0);
    assert_int_equal(value_of(&table, 3), 1);
    sent(&table, 3, 2, 1);
    assert_int_equal(value_of(&table, 3), 2);
    assert_int_equal(entries[3].bytes[0], 1); /* what the site holds, until it says otherwise */
    sent(&table, 3, 4, 2);
    set(&table, 3, 2, 1);
    repl_digest_table_acknowledged(&table, 1);
    assert_int_equal(value_of(&table, 3), 4);
    set(&table, 3, 4, 2);
    repl_digest_table_acknowledged(&table, 2);
    assert_int_equal(value_of(&table, 3), 4);
    assert_int_equal(table.sent.count, 0);
    /* acknowledged while others are on their way: what is known of it stays known */
    sent(&table, 3, 5, 3);
    sent(&table, 6, 6, 4);
    set(&table, 3, 5, 3);
    repl_digest_table_acknowledged(&table, 3);
    assert_int_equal(value_of(&table, 3), 5);
    assert_int_equal(value_of(&table, 6), 6);
    repl_digest_table_forget(&table, 2, 3);
    assert_int_equal(value_of(&table, 3), 0);
    repl_digest_table_fini(&table);
}

/* Whether its bytes came to the site nobody knows: nothing may be taken for unchanged. */
static void a_page_of_a_segment_given_up_is_unknown(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0};
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    set(&table, 5, 1, 0);
    sent(&table, 5, 2, 2);
    repl_digest_table_dropped(&table, 5, 2);
    repl_digest_table_acknowledged(&table, 1);
    assert_int_equal(value_of(&table, 5), 0);
    /* sent anew in a later one, the earlier one's end does not touch it */
    sent(&table, 5, 7, 3);
    repl_digest_table_dropped(&table, 5, 2);
    assert_int_equal(value_of(&table, 5), 7);
    set(&table, 5, 7, 3);
    repl_digest_table_acknowledged(&table, 3);
    assert_int_equal(value_of(&table, 5), 7);
    repl_digest_table_fini(&table);
}

/* What a page was sent with under each segment, so that acknowledging can say it again. */
struct history {
    uint64_t segment;
    uint8_t value;
    bool dropped;
};

/* Segments are sent and acknowledged in order, any number of them under way, some given up: what
 * the table says of a page is what was sent last, or that it does not know. */
static void never_knows_better_than_what_was_sent(void **state)
{
    (void)state;
    struct random random = random_begin("digest_table", 7);
    struct repl_page_digest entries[PAGES] = {0};
    struct history last[PAGES] = {0};
    static uint8_t values[20001][PAGES]; /* of each segment; 0: not in it */
    uint64_t newest = 0, acknowledged = 0, known = 0;
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t page = random_below(&random, PAGES);
        uint8_t value = (uint8_t)(1 + random_below(&random, 3));
        switch (random_below(&random, 8)) {
        case 0:
            newest++; /* fall through */
        case 1:
        case 2:
        case 3:
            if (newest == acknowledged)
                break;
            values[newest][page] = value;
            last[page] = (struct history){.segment = newest, .value = value};
            sent(&table, page, value, newest);
            break;
        case 4: /* the newest is given up */
            for (uint64_t i = 0; newest > acknowledged && i < PAGES; i++) {
                if (values[newest][i] == 0)
                    continue;
                values[newest][i] = 0;
                repl_digest_table_dropped(&table, i, newest);
                last[i].dropped = last[i].dropped || last[i].segment == newest;
            }
            break;
        default:
            if (acknowledged == newest)
                break;
            acknowledged++;
            for (uint64_t i = 0; i < PAGES; i++) {
                if (values[acknowledged][i] != 0)
                    set(&table, i, values[acknowledged][i], acknowledged);
            }
            repl_digest_table_acknowledged(&table, acknowledged);
        }
        for (uint64_t i = 0; i < PAGES; i++) {
            uint8_t says = value_of(&table, i);
            if (last[i].segment > acknowledged)
                assert_int_equal(says, last[i].dropped ? 0 : last[i].value);
            known += says != 0;
        }
    }
    assert_true(known > 100000);
    repl_digest_table_fini(&table);
}

static void what_was_sent_before_does_not_count_later(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0};
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    set(&table, 0, 1, 0);
    sent(&table, 1, 2, 1);
    sent(&table, 2, 3, 2);
    repl_digest_table_begin_anew(&table, 2);
    for (uint64_t page = 0; page < 3; page++)
        assert_int_equal(value_of(&table, page), 0);
    set(&table, 1, 2, 1);
    sent(&table, 0, 4, 3);
    set(&table, 2, 3, 2);
    assert_int_equal(value_of(&table, 0), 4);
    assert_int_equal(value_of(&table, 1), 0);
    assert_int_equal(value_of(&table, 2), 0);
    set(&table, 0, 4, 3);
    repl_digest_table_acknowledged(&table, 3);
    assert_int_equal(value_of(&table, 0), 4);
    repl_digest_table_fini(&table);
}

static void grows_with_unknown_pages(void **state)
{
    (void)state;
    struct repl_page_digest entries[PAGES] = {0}, more[PAGES + 100] = {0};
    struct repl_digest_table table;
    assert_true(repl_ok(repl_digest_table_init(&table, entries, PAGES, NULL)));
    set(&table, 0, 1, 0);
    sent(&table, 1, 3, 1);
    memcpy(more, entries, sizeof entries);
    assert_true(repl_ok(repl_digest_table_grow(&table, more, PAGES + 100, NULL)));
    assert_int_equal(value_of(&table, 0), 1);
    assert_int_equal(value_of(&table, 1), 3);
    assert_int_equal(value_of(&table, PAGES + 99), 0);
    repl_digest_table_fini(&table);
}

static void page_outside(void *context)
{
    repl_digest_table_get(context, PAGES);
}

static void segment_backwards(void *context)
{
    sent(context, 0, 1, 5);
    sent(context, 0, 1, 4);
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
        cmocka_unit_test(a_page_on_its_way_is_what_was_sent_last),
        cmocka_unit_test(a_page_of_a_segment_given_up_is_unknown),
        cmocka_unit_test(never_knows_better_than_what_was_sent),
        cmocka_unit_test(what_was_sent_before_does_not_count_later),
        cmocka_unit_test(grows_with_unknown_pages),
        cmocka_unit_test(misuse_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
