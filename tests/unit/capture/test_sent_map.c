#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/limits.h"
#include "capture/sent_map.h"
#include "unit/random.h"

#define PAGES 3000

static void put(struct repl_sent_map *map, uint64_t page, uint64_t segment, uint8_t value)
{
    struct repl_sent_page sent = {.page = page, .segment = segment};
    memset(sent.digest.bytes, value, sizeof sent.digest.bytes);
    repl_sent_map_put(map, &sent);
}

/* Against an array: puts, replacements and removals in any order, over several doublings. */
static void agrees_with_an_array(void **state)
{
    (void)state;
    struct random random = random_begin("sent_map", 3);
    static struct repl_sent_page model[PAGES];
    struct repl_sent_map map = {0};
    for (unsigned round = 0; round < 200000; round++) {
        uint64_t page = random_below(&random, PAGES);
        uint64_t segment = 1 + random_below(&random, 3);
        if (random_below(&random, 5) < 3) {
            uint8_t value = (uint8_t)random_below(&random, 256);
            put(&map, page << 20, segment, value);
            model[page].segment = segment;
            model[page].digest.bytes[0] = value;
        } else {
            repl_sent_map_remove(&map, page << 20, segment);
            if (model[page].segment == segment)
                model[page].segment = 0;
        }
        const struct repl_sent_page *sent = repl_sent_map_get(&map, page << 20);
        assert_true((sent != NULL) == (model[page].segment != 0));
    }
    size_t count = 0;
    for (uint64_t page = 0; page < PAGES; page++) {
        const struct repl_sent_page *sent = repl_sent_map_get(&map, page << 20);
        assert_true((sent != NULL) == (model[page].segment != 0));
        if (sent == NULL)
            continue;
        assert_int_equal(sent->segment, model[page].segment);
        assert_int_equal(sent->digest.bytes[0], model[page].digest.bytes[0]);
        count++;
    }
    assert_int_equal(map.count, count);
    repl_sent_map_fini(&map);
}

static void a_full_map_refuses_new_pages_only(void **state)
{
    (void)state;
    struct repl_sent_map map = {0};
    for (uint64_t page = 0; page < REPL_SENT_PAGES_MAX + 1000; page++)
        put(&map, page, 1, 1);
    assert_int_equal(map.count, REPL_SENT_PAGES_MAX);
    assert_int_equal(map.slot_count, REPL_SENT_PAGES_MAX / 3 * 4);
    assert_null(repl_sent_map_get(&map, REPL_SENT_PAGES_MAX));
    put(&map, 5, 2, 9); /* one that is there is replaced */
    assert_int_equal(repl_sent_map_get(&map, 5)->digest.bytes[0], 9);
    repl_sent_map_remove(&map, 6, 1);
    put(&map, REPL_SENT_PAGES_MAX, 2, 1);
    assert_non_null(repl_sent_map_get(&map, REPL_SENT_PAGES_MAX));
    repl_sent_map_fini(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_an_array),
        cmocka_unit_test(a_full_map_refuses_new_pages_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
