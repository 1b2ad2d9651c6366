/*
 * Pieces together say what their run said: random histories, cut at random places, with increments
 * merged and the base brought forward by the tiles alone that something has changed in.
 */
#include "unit/segment/merge_world.h"

#define ROUNDS     250
#define RANGES_MAX 6u
#define TILES_MAX  64u

struct tile {
    struct piece piece;
    struct repl_merge_range range;
};

/* Ends of stretches, ascending, the last at the end of everything. */
static size_t random_cuts(uint64_t ends[RANGES_MAX])
{
    size_t count = 0;
    for (uint64_t at = 0; count + 1 < RANGES_MAX && below(5) > 0;) {
        at += (1 + below(PAGES_MAX / 2)) * PAGE;
        ends[count++] = at;
    }
    ends[count++] = UINT64_MAX;
    return count;
}

static bool wanted_always(void *context, const struct repl_digest *name, bool referred)
{
    (void)context, (void)name, (void)referred;
    return true;
}

/* Other segments of the base may refer to what one of them has, so that is kept. */
static repl_result piece_merge(const struct repl_segment *const *segments, size_t count,
                               const struct repl_merge_piece *how, size_t behind, struct piece *out,
                               struct repl_merge_report *report, struct repl_error *err)
{
    struct repl_merge_options options = {.piece = how,
                                         .segments = segments,
                                         .segment_count = count,
                                         .chunk_wanted = how->base   ? wanted_always
                                                         : how->last ? wanted_behind
                                                                     : NULL,
                                         .chunk_context = &behind,
                                         .sink = memory_sink,
                                         .sink_context = &out->file};
    repl_result result = repl_segment_merge(&options, report, err);
    if (!repl_ok(result))
        return result;
    piece_open(out);
    if (!repl_ok(repl_segment_verify(out->segment, world.coder, err)))
        fail_msg("%s", err->text);
    return REPL_SUCCESS;
}

static struct repl_merge_piece piece_of(uint64_t begin, uint64_t end, uint32_t part, bool last)
{
    return (struct repl_merge_piece){.range = {.begin = begin, .end = end},
                                     .part = part,
                                     .last = last,
                                     .extents_max = UINT64_MAX,
                                     .raw_size_max = UINT64_MAX,
                                     .records_max = UINT64_MAX};
}

static bool has_point(size_t i)
{
    return repl_segment_last_point(world.pieces[i].segment) != NULL;
}

/* The history's segments from i on behind what is in the chain: right at each point. */
static void expect_behind(struct chain *chain, size_t i)
{
    for (; i < world.count; i++) {
        chain->segments[chain->count++] = world.pieces[i].segment;
        if (has_point(i))
            expect_image(chain, &world.after[i]);
    }
}

/* --- increments ------------------------------------------------------------------------------ */

/* From behind one point to another, without a full in it. */
static bool is_run(size_t begin, size_t end)
{
    if (begin == 0 || !has_point(begin - 1) || !has_point(end - 1))
        return false;
    for (size_t i = begin; i < end; i++) {
        if (world.pieces[i].segment->header.from_seq == 0)
            return false;
    }
    return true;
}

static void expect_report(const struct piece *piece, const struct repl_merge_piece *how,
                          size_t begin, size_t end)
{
    const struct repl_segment_header *header = &piece->segment->header;
    const struct repl_point *point = repl_segment_last_point(piece->segment);
    uint64_t changed = 0;
    assert_int_equal(header->part, how->part);
    assert_int_equal(header->from_seq, world.pieces[begin].segment->header.from_seq);
    assert_int_equal(header->to_seq, world.pieces[end - 1].segment->header.to_seq);
    assert_memory_equal(&header->prev, &how->prev, sizeof how->prev);
    assert_int_equal(piece->segment->footer.point_count, how->last);
    for (size_t i = begin; i < end; i++) {
        if (has_point(i))
            changed += repl_segment_last_point(world.pieces[i].segment)->changed_bytes;
    }
    if (how->last) {
        assert_int_equal(point->seq, header->to_seq);
        assert_int_equal(point->flags, 0);
        assert_int_equal(point->changed_bytes, changed);
    }
}

static void merge_increments(size_t begin, size_t end)
{
    struct piece pieces[RANGES_MAX] = {0};
    const struct repl_segment *segments[SEGMENTS_MAX];
    uint64_t ends[RANGES_MAX], from = 0;
    size_t count = random_cuts(ends), base = begin;
    struct chain chain = {.elsewhere = true, .run_begin = begin, .run_end = end};
    for (size_t i = begin; i < end; i++)
        segments[i - begin] = world.pieces[i].segment;
    while (world.pieces[base].segment->header.from_seq != 0 ||
           world.pieces[base].segment->header.part != 0)
        base--;
    for (size_t i = base; i < begin; i++)
        chain.segments[chain.count++] = world.pieces[i].segment;
    for (size_t i = 0; i < count; i++) {
        struct repl_merge_piece how = piece_of(from, ends[i], (uint32_t)i, i + 1 == count);
        struct repl_merge_report report;
        struct repl_error err;
        how.prev.bytes[0] = (uint8_t)i + 1;
        if (!repl_ok(piece_merge(segments, end - begin, &how, end, &pieces[i], &report, &err)))
            fail_msg("%s", err.text);
        expect_report(&pieces[i], &how, begin, end);
        chain.segments[chain.count++] = pieces[i].segment;
        from = ends[i];
    }
    expect_image(&chain, &world.after[end - 1]);
    expect_behind(&chain, end);
    for (size_t i = 0; i < count; i++)
        piece_free(&pieces[i]);
}

static void increments_in_pieces(void **state)
{
    struct random random = random_begin("increments_in_pieces", 1);
    unsigned runs = 0;
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        world_begin(random);
        world_make();
        for (size_t begin = 1; begin < world.count; begin++) {
            for (size_t end = begin + 1; end <= world.count; end++) {
                if (!is_run(begin, end))
                    continue;
                merge_increments(begin, end);
                runs++;
            }
        }
        random = world.random;
        world_end();
    }
    assert_true(runs > ROUNDS);
}

/* --- the base -------------------------------------------------------------------------------- */

static struct tile *tiles[TILES_MAX]; /* segments point into them: they stay where they are */
static size_t tile_count;

static void tile_free(size_t i)
{
    piece_free(&tiles[i]->piece);
    free(tiles[i]);
    memmove(&tiles[i], &tiles[i + 1], (tile_count - i - 1) * sizeof tiles[0]);
    tile_count--;
}

static bool touches(const struct repl_segment *segment, const struct repl_merge_range *range,
                    uint64_t *size)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool done = false, found = false;
    repl_record_walk_begin(&walk, segment, world.coder);
    while (!found && repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)) && !done) {
        if (record.type != REPL_RECORD_OBJECT) {
            found = record.offset < range->end && record.offset + record.length > range->begin;
            continue;
        }
        uint64_t low = record.size < *size ? record.size : *size;
        uint64_t high = record.size < *size ? *size : record.size;
        found = low != high && low < range->end && high > range->begin;
        *size = record.size;
    }
    repl_record_walk_end(&walk);
    return found;
}

/* The tile, cut in two now and then, with what segments [begin, end) say of it. */
static void tile_make(const struct repl_segment *const *of, size_t of_count,
                      const struct repl_merge_range *range, size_t begin, size_t end,
                      uint32_t *part, bool last)
{
    const struct repl_segment *segments[2 * SEGMENTS_MAX];
    size_t count = 0;
    uint64_t middle = range->begin + (1 + below(PAGES_MAX / 2)) * PAGE;
    bool cut = below(4) == 0 && middle < range->end;
    for (size_t i = 0; i < of_count; i++)
        segments[count++] = of[i];
    for (size_t i = begin; i < end; i++)
        segments[count++] = world.pieces[i].segment;
    for (unsigned half = 0; half < 1u + cut; half++) {
        struct repl_merge_piece how =
            piece_of(half == 0 ? range->begin : middle, half == 0 && cut ? middle : range->end,
                     (*part)++, last && half == cut);
        struct repl_merge_report report;
        struct repl_error err;
        how.base = true;
        assert_true(tile_count < TILES_MAX);
        struct tile *tile = calloc(1, sizeof *tile);
        assert_non_null(tile);
        tiles[tile_count++] = tile;
        tile->range = how.range;
        if (!repl_ok(piece_merge(segments, count, &how, end, &tile->piece, &report, &err)))
            fail_msg("%s", err.text);
        assert_int_equal(tile->piece.segment->header.from_seq, 0);
        assert_int_equal(report.volume_size, world.after[end - 1].size);
    }
}

/* The first base: a full as it was received, in tiles. */
static void base_make(size_t end)
{
    const struct repl_segment *full[SEGMENTS_MAX];
    uint64_t ends[RANGES_MAX], from = 0;
    size_t count = random_cuts(ends);
    uint32_t part = 0;
    for (size_t i = 0; i < end; i++)
        full[i] = world.pieces[i].segment;
    for (size_t i = 0; i < count; i++) {
        struct repl_merge_range range = {.begin = from, .end = ends[i]};
        tile_make(full, end, &range, end, end, &part, i + 1 == count);
        from = ends[i];
    }
}

/* To the point that segments [begin, end) lead to; how many tiles stay as they are. */
static size_t base_forward(size_t begin, size_t end)
{
    bool touched[TILES_MAX] = {false};
    size_t old = tile_count, last = SIZE_MAX, stayed = 0;
    uint32_t part = 0;
    for (size_t i = 0; i < old; i++) {
        uint64_t size = world.after[begin - 1].size;
        for (size_t k = begin; k < end && !touched[i]; k++)
            touched[i] = touches(world.pieces[k].segment, &tiles[i]->range, &size);
        if (touched[i])
            last = i;
    }
    if (last == SIZE_MAX) /* one has to carry the point */
        touched[last = 0] = true;
    for (size_t i = 0; i < old; i++) {
        const struct repl_segment *tile = tiles[i]->piece.segment;
        const struct repl_merge_range range = tiles[i]->range;
        if (touched[i])
            tile_make(&tile, 1, &range, begin, end, &part, i == last);
        else
            stayed++;
    }
    for (size_t i = old; i-- > 0;) {
        if (touched[i])
            tile_free(i);
    }
    return stayed;
}

static void expect_base(size_t end)
{
    struct chain chain = {0};
    for (size_t i = 0; i < tile_count; i++)
        chain.segments[chain.count++] = tiles[i]->piece.segment;
    expect_image(&chain, &world.after[end - 1]);
    expect_behind(&chain, end);
}

static void the_base_by_tiles(void **state)
{
    struct random random = random_begin("the_base_by_tiles", 2);
    size_t stayed = 0, forward = 0;
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        world_begin(random);
        increment(0, 1);
        size_t full = world.count;
        for (uint64_t seq = 2; seq < 6; seq++)
            increment(seq - 1, seq);
        base_make(full);
        expect_base(full);
        for (size_t begin = full, end = full + 1; end <= world.count; end++) {
            if (!has_point(end - 1) || below(3) == 0)
                continue;
            stayed += base_forward(begin, end);
            expect_base(end);
            begin = end;
            forward++;
        }
        while (tile_count > 0)
            tile_free(tile_count - 1);
        random = world.random;
        world_end();
    }
    assert_true(forward > ROUNDS && stayed > ROUNDS / 4);
}

/* --- what is refused ------------------------------------------------------------------------- */

static void what_is_no_piece_is_refused(void **state)
{
    struct piece out = {0};
    struct repl_merge_report report;
    struct repl_error err;
    (void)state;
    world_begin(random_begin("what_is_no_piece_is_refused", 3));
    increment(0, 1);
    size_t full = world.count;
    increment(1, 2);
    const struct repl_segment *segments[SEGMENTS_MAX];
    for (size_t i = 0; i < world.count; i++)
        segments[i] = world.pieces[i].segment;
    struct repl_merge_piece how = piece_of(0, UINT64_MAX, 0, true);
    how.base = true;
    how.extents_max = 0;
    assert_int_equal(piece_merge(segments, world.count, &how, 0, &out, &report, &err).code,
                     REPL_E_REFUSED);
    assert_true(report.too_large);
    how.extents_max = 1000;
    how.raw_size_max = 1;
    assert_int_equal(piece_merge(segments, world.count, &how, 0, &out, &report, &err).code,
                     REPL_E_REFUSED);
    assert_true(report.too_large);
    assert_int_equal(out.file.bytes.size, 0);
    how.raw_size_max = UINT64_MAX;
    /* increments alone are no base; parts of a full do not cover it */
    assert_int_equal(
        piece_merge(segments + full, world.count - full, &how, 0, &out, &report, &err).code,
        REPL_E_REFUSED);
    assert_false(report.too_large);
    piece_free(&out);
    world_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(increments_in_pieces),
        cmocka_unit_test(the_base_by_tiles),
        cmocka_unit_test(what_is_no_piece_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
