/*
 * The extent map against the plainest thing that could do its work: an array that knows of each
 * byte which extent it belongs to and where in its source it lies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/extent_map.h"
#include "unit/expect_abort.h"
#include "unit/random.h"

#define SPACE      8192
#define OPERATIONS 100000

struct cell {
    uint64_t source;
    uint32_t source_offset;
    uint8_t type; /* 0: nothing there */
};

struct model {
    struct cell cells[SPACE];
};

static void model_write(struct model *model, const struct repl_extent *extent, bool overwrite)
{
    for (uint64_t i = 0; i < extent->length; i++) {
        struct cell *cell = &model->cells[extent->offset + i];
        if (!overwrite && cell->type != 0)
            continue;
        cell->type = (uint8_t)extent->type;
        cell->source = extent->source;
        cell->source_offset = extent->source_offset;
        if (extent->type != REPL_RECORD_ZERO)
            cell->source_offset += (uint32_t)i;
    }
}

static void assert_cells(const struct model *model, const struct repl_extent *extent)
{
    for (uint64_t i = 0; i < extent->length; i++) {
        const struct cell *cell = &model->cells[extent->offset + i];
        uint32_t moved = extent->type == REPL_RECORD_ZERO ? 0 : (uint32_t)i;
        assert_int_equal(cell->type, extent->type);
        assert_true(cell->source == extent->source);
        assert_int_equal(cell->source_offset, extent->source_offset + moved);
    }
}

/* Everything the map holds is right, in order, and all there is. */
static void assert_same(const struct repl_extent_map *map, const struct model *model)
{
    struct repl_extent_cursor cursor = repl_extent_map_seek(map, 0);
    const struct repl_extent *extent;
    uint64_t at = 0, count = 0;
    while ((extent = repl_extent_cursor_next(&cursor)) != NULL) {
        assert_true(extent->length > 0 && extent->offset >= at);
        for (; at < extent->offset; at++)
            assert_int_equal(model->cells[at].type, 0);
        assert_true(extent->offset + extent->length <= SPACE);
        assert_cells(model, extent);
        at += extent->length;
        count++;
    }
    for (; at < SPACE; at++)
        assert_int_equal(model->cells[at].type, 0);
    assert_true(count == map->extent_count);
    assert_null(repl_extent_cursor_next(&cursor)); /* and stays at the end */
}

static void assert_seek(const struct repl_extent_map *map, const struct model *model,
                        uint64_t offset)
{
    struct repl_extent_cursor cursor = repl_extent_map_seek(map, offset);
    const struct repl_extent *extent = repl_extent_cursor_next(&cursor);
    if (extent == NULL) {
        for (; offset < SPACE; offset++)
            assert_int_equal(model->cells[offset].type, 0);
        return;
    }
    assert_true(extent->offset + extent->length > offset);
    for (; offset < extent->offset; offset++)
        assert_int_equal(model->cells[offset].type, 0);
}

static struct repl_extent random_extent(struct random *random, uint64_t longest)
{
    uint64_t offset = random_below(random, SPACE);
    uint64_t length = 1 + random_below(random, longest);
    if (length > SPACE - offset)
        length = SPACE - offset;
    return (struct repl_extent){.offset = offset,
                                .length = length,
                                .source = random_next(random),
                                .source_offset = (uint32_t)random_below(random, 1000000),
                                .type = REPL_RECORD_DATA + (int)random_below(random, 3)};
}

/* A step of the phase: short extents split leaves, long cuts empty them again. */
static void step(struct random *random, struct repl_extent_map *map, struct model *model,
                 uint64_t longest)
{
    struct repl_error err;
    struct repl_extent extent = random_extent(random, longest);
    switch (random_below(random, 8)) {
    case 0:
    case 1:
    case 2:
    case 3:
        assert_true(repl_ok(repl_extent_map_put(map, &extent, &err)));
        model_write(model, &extent, true);
        break;
    case 4:
    case 5:
        assert_true(repl_ok(repl_extent_map_fill(map, &extent, &err)));
        model_write(model, &extent, false);
        break;
    default:
        assert_true(repl_ok(repl_extent_map_cut(map, extent.offset, extent.length, &err)));
        memset(&model->cells[extent.offset], 0, extent.length * sizeof model->cells[0]);
    }
}

static void behaves_as_an_array(void **state)
{
    (void)state;
    struct random random = random_begin("extent_map", 20240229);
    struct repl_extent_map map;
    struct model *model = calloc(1, sizeof *model);
    uint64_t most = 0;
    repl_extent_map_init(&map);
    for (unsigned i = 0; i < OPERATIONS; i++) {
        static const uint64_t longest[] = {3, 8, 2, 40, 1, 4, 3000, 5};
        step(&random, &map, model, longest[i / 2000 % 8]);
        if (i % 50 == 0)
            assert_same(&map, model);
        assert_seek(&map, model, random_below(&random, SPACE + 10));
        most = map.extent_count > most ? map.extent_count : most;
    }
    assert_same(&map, model);
    printf("extent_map: %d operations, up to %llu extents\n", OPERATIONS, (unsigned long long)most);
    assert_true(most > 1000); /* several leaves */
    repl_extent_map_fini(&map);
    free(model);
}

/* From the left, from the right, and from the middle: the three ways in which leaves fill. */
static void fills_in_any_order(void **state)
{
    (void)state;
    struct repl_error err;
    for (unsigned order = 0; order < 3; order++) {
        struct repl_extent_map map;
        struct model *model = calloc(1, sizeof *model);
        repl_extent_map_init(&map);
        for (unsigned i = 0; i < SPACE / 4; i++) {
            unsigned slot = order == 0   ? i
                            : order == 1 ? SPACE / 4 - 1 - i
                                         : (i % 2 ? SPACE / 8 + i / 2 : SPACE / 8 - 1 - i / 2);
            struct repl_extent extent = {
                .offset = 4u * slot, .length = 3, .source = i, .type = REPL_RECORD_DATA};
            assert_true(repl_ok(repl_extent_map_put(&map, &extent, &err)));
            model_write(model, &extent, true);
        }
        assert_true(map.extent_count == SPACE / 4);
        assert_same(&map, model);
        assert_true(repl_ok(repl_extent_map_cut(&map, 0, SPACE, &err)));
        assert_true(map.extent_count == 0 && map.leaf_count == 0);
        repl_extent_map_fini(&map);
        free(model);
    }
}

static void large_offsets(void **state)
{
    (void)state;
    const uint64_t end = UINT64_C(1) << 50;
    struct repl_extent_map map;
    struct repl_error err;
    struct repl_extent all = {.length = end, .type = REPL_RECORD_ZERO};
    struct repl_extent one = {
        .offset = end - 4096, .length = 4096, .source = 5, .type = REPL_RECORD_DATA};
    repl_extent_map_init(&map);
    assert_true(repl_ok(repl_extent_map_put(&map, &all, &err)));
    assert_true(repl_ok(repl_extent_map_put(&map, &one, &err)));
    struct repl_extent_cursor cursor = repl_extent_map_seek(&map, end - 4097);
    assert_true(repl_extent_cursor_next(&cursor)->length == end - 4096);
    assert_true(repl_extent_cursor_next(&cursor)->source == 5);
    assert_null(repl_extent_cursor_next(&cursor));
    repl_extent_map_fini(&map);
}

static void nothing_changes_nothing(void **state)
{
    (void)state;
    struct repl_extent_map map;
    struct repl_error err;
    struct repl_extent extent = {.offset = 10, .length = 10, .type = REPL_RECORD_DATA};
    repl_extent_map_init(&map);
    assert_true(repl_ok(repl_extent_map_cut(&map, 0, 100, &err)));
    assert_true(repl_ok(repl_extent_map_put(&map, &extent, &err)));
    assert_true(repl_ok(repl_extent_map_cut(&map, 15, 0, &err)));
    assert_true(map.extent_count == 1);
    struct repl_extent none = {.offset = 30, .length = 0, .type = REPL_RECORD_DATA};
    assert_true(repl_ok(repl_extent_map_fill(&map, &none, &err)));
    assert_true(map.extent_count == 1);
    repl_extent_map_fini(&map);
}

static void put_nothing(void *map)
{
    struct repl_extent none = {.offset = 30, .length = 0, .type = REPL_RECORD_DATA};
    repl_ignore(repl_extent_map_put(map, &none, NULL)); /* never returns */
}

static void cut_around_the_end(void *map)
{
    repl_ignore(repl_extent_map_cut(map, UINT64_MAX, 2, NULL)); /* never returns */
}

static void bounds_are_asserted(void **state)
{
    (void)state;
    struct repl_extent_map map;
    repl_extent_map_init(&map);
    assert_true(aborts(put_nothing, &map));
    assert_true(aborts(cut_around_the_end, &map));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behaves_as_an_array), cmocka_unit_test(fills_in_any_order),
        cmocka_unit_test(large_offsets),       cmocka_unit_test(nothing_changes_nothing),
        cmocka_unit_test(bounds_are_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
