/*
 * A merged segment says what its run said: random histories against a model of the volume, merged
 * in one step and in two, and viewed with what came before and after. Then the shapes that are
 * refused, damage at every byte, and how much memory it takes.
 */
#include <malloc.h>

#include "segment/segment_relink.h"
#include "unit/segment/merge_world.h"

static repl_result merge_run(const struct repl_segment *const *segments, size_t count,
                             const struct repl_digest *links, size_t behind, struct piece *out,
                             struct repl_merge_report *report, struct repl_error *err)
{
    struct repl_merge_options options = {.segments = segments,
                                         .segment_count = count,
                                         .links = links,
                                         .chunk_wanted = wanted_behind,
                                         .chunk_context = &behind,
                                         .sink = memory_sink,
                                         .sink_context = &out->file};
    repl_result result = repl_segment_merge(&options, report, err);
    if (!repl_ok(result)) {
        piece_free(out);
        return result;
    }
    piece_open(out);
    if (!repl_ok(repl_segment_verify(out->segment, world.coder, err)))
        fail_msg("%s", err->text);
    assert_memory_equal(&report->footer.digest, &out->segment->footer.digest, 32);
    return REPL_SUCCESS;
}

static repl_result merge_range(size_t begin, size_t end, struct piece *out,
                               struct repl_merge_report *report, struct repl_error *err)
{
    const struct repl_segment *segments[SEGMENTS_MAX] = {0};
    for (size_t i = begin; i < end; i++)
        segments[i - begin] = world.pieces[i].segment;
    return merge_run(segments, end - begin, NULL, end, out, report, err);
}

/* The history with merged in the place of [begin, end): as it was at each point from there on. */
static void expect_history(const struct piece *merged, size_t begin, size_t end)
{
    struct piece behind[SEGMENTS_MAX] = {0};
    struct chain chain = {0};
    for (size_t i = 0; i < begin; i++)
        chain.segments[chain.count++] = world.pieces[i].segment;
    chain.segments[chain.count++] = merged->segment;
    if (repl_segment_last_point(merged->segment) != NULL)
        expect_image(&chain, &world.after[end - 1]);
    for (size_t i = end; i < world.count; i++) {
        const struct repl_segment *before = chain.segments[chain.count - 1];
        const struct repl_segment *segment = world.pieces[i].segment;
        struct repl_segment_footer footer;
        struct repl_error err;
        uint32_t part = segment->header.part > 0 ? before->header.part + 1 : 0;
        if (!repl_ok(repl_segment_relink(segment, &before->footer.digest, part, memory_sink,
                                         &behind[i].file, &footer, &err)))
            fail_msg("%s", err.text);
        piece_open(&behind[i]);
        assert_true(repl_ok(repl_segment_verify(behind[i].segment, world.coder, NULL)));
        assert_memory_equal(&footer.digest, &behind[i].segment->footer.digest, 32);
        chain.segments[chain.count++] = behind[i].segment;
        if (repl_segment_last_point(segment) != NULL)
            expect_image(&chain, &world.after[i]);
    }
    for (size_t i = end; i < world.count; i++)
        piece_free(&behind[i]);
}

static void expect_points(const struct repl_segment *merged, size_t begin, size_t end)
{
    uint64_t changed = 0;
    uint32_t count = 0;
    for (size_t i = begin; i < end; i++) {
        const struct repl_point *point = repl_segment_last_point(world.pieces[i].segment);
        if (point == NULL)
            continue;
        changed += point->changed_bytes;
        assert_true(count < merged->footer.point_count);
        const struct repl_point *kept = &merged->points[count++];
        bool last = count == merged->footer.point_count;
        assert_true(kept->seq == point->seq && kept->begin_ns == point->begin_ns);
        assert_int_equal(kept->flags, last ? 0 : REPL_POINT_MERGED);
        assert_true(kept->changed_bytes == (last ? changed : point->changed_bytes));
    }
    assert_int_equal(count, merged->footer.point_count);
}

static bool same_increment(size_t a, size_t b)
{
    return world.pieces[a].segment->header.to_seq == world.pieces[b].segment->header.to_seq;
}

static bool can_merge(size_t begin, size_t end)
{
    return same_increment(begin, end - 1) ||
           (world.pieces[begin].segment->header.part == 0 &&
            repl_segment_last_point(world.pieces[end - 1].segment) != NULL);
}

static bool size_differs(size_t begin, size_t end)
{
    for (size_t i = begin + 1; i < end; i++)
        if (world.after[i].size != world.after[begin].size)
            return true;
    return false;
}

/* Merged in two steps it is the same as in one. */
static void expect_steps(const struct piece *merged, size_t begin, size_t middle, size_t end)
{
    struct piece left = {0}, right = {0}, both = {0};
    struct repl_merge_report report;
    struct repl_error err;
    const struct repl_segment *segments[SEGMENTS_MAX] = {0};
    for (size_t i = begin; i < end; i++)
        segments[i - begin] = world.pieces[i].segment;
    if (!can_merge(begin, middle) || !can_merge(middle, end))
        return;
    repl_result result = merge_run(segments, middle - begin, NULL, middle, &left, &report, &err);
    if (repl_ok(result))
        result =
            merge_run(segments + (middle - begin), end - middle, NULL, end, &right, &report, &err);
    if (repl_ok(result) && right.segment->header.part <= left.segment->header.part + 1) {
        const struct repl_segment *two[] = {left.segment, right.segment};
        const struct repl_digest *link = &world.pieces[middle - 1].segment->footer.digest;
        if (!repl_ok(merge_run(two, 2, link, end, &both, &report, &err)))
            fail_msg("%s", err.text);
        expect_points(both.segment, begin, end);
        expect_history(&both, begin, end);
        assert_true(both.segment->footer.raw_size == merged->segment->footer.raw_size ||
                    merged->segment->footer.chunk_count > 0);
    }
    piece_free(&left);
    piece_free(&right);
    piece_free(&both);
}

static bool try_run(size_t begin, size_t end)
{
    struct piece merged = {0};
    struct repl_merge_report report;
    struct repl_error err;
    repl_result result = merge_range(begin, end, &merged, &report, &err);
    bool can = can_merge(begin, end), grew = size_differs(begin, end);
    bool open_end = repl_segment_last_point(world.pieces[end - 1].segment) == NULL;
    if (!can || (!repl_ok(result) && open_end && grew)) {
        assert_int_equal(result.code, REPL_E_REFUSED);
        assert_non_null(strstr(err.text, can ? "larger later" : "the run "));
        return false;
    }
    if (!repl_ok(result))
        fail_msg("%s", err.text);
    const struct repl_segment *first = world.pieces[begin].segment;
    assert_memory_equal(&merged.segment->header.prev, &first->header.prev, 32);
    assert_int_equal(merged.segment->header.part, first->header.part);
    assert_true(merged.segment->header.created_ns == first->header.created_ns);
    assert_true(report.volume_size == world.after[end - 1].size);
    expect_points(merged.segment, begin, end);
    expect_history(&merged, begin, end);
    if (end - begin > 1)
        expect_steps(&merged, begin, begin + 1 + below(end - begin - 1), end);
    uint64_t raw = 0;
    for (size_t i = begin; i < end; i++)
        raw += world.pieces[i].segment->footer.raw_size;
    assert_true(raw - report.dropped_bytes == merged.segment->footer.raw_size);
    piece_free(&merged);
    return true;
}

static void random_histories(void **state)
{
    (void)state;
    struct random random = random_begin("random_histories", 20261122);
    unsigned merged = 0, tried = 0;
    for (unsigned round = 0; round < 700; round++) {
        world_begin(random);
        world_make();
        for (unsigned i = 0; i < 5; i++, tried++) {
            size_t begin = (size_t)below(world.count);
            size_t end = begin + 1 + (size_t)below(world.count - begin);
            merged += try_run(begin, end);
        }
        merged += try_run(0, world.count);
        random = world.random;
        world_end();
    }
    printf("%u of %u runs merged\n", merged, tried + 700);
    assert_true(merged > 2000);
}

/* --- by hand --------------------------------------------------------------------------------- */

static void simple_data(uint64_t offset, uint32_t length)
{
    struct repl_extent extent = {
        .offset = offset, .length = length, .source = frame_make(length), .type = REPL_RECORD_DATA};
    extent_put(&extent, world.frames[extent.source]);
}

static void simple_segment(uint64_t from, uint64_t to, uint64_t offset, uint32_t length)
{
    part_begin(from, to, 0, 32 * PAGE);
    if (from == 0)
        simple_data(0, 32 * PAGE);
    simple_data(offset, length);
    part_end(to, true);
}

static void superseded_data_goes(void **state)
{
    (void)state;
    struct piece merged = {0};
    struct repl_merge_report report;
    world_begin((struct random){1});
    simple_segment(0, 1, 0, PAGE);
    simple_segment(1, 2, 4 * PAGE, 8 * PAGE);
    simple_segment(2, 3, 4 * PAGE, 8 * PAGE);
    simple_segment(3, 4, 0, 2 * PAGE);
    assert_true(repl_ok(merge_range(1, 4, &merged, &report, NULL)));
    assert_true(merged.segment->footer.raw_size == 10 * PAGE);
    assert_true(report.dropped_bytes == 8 * PAGE);
    assert_int_equal(merged.segment->footer.frame_count, 1);
    assert_int_equal(merged.segment->footer.record_count, 3);
    assert_true(merged.segment->header.from_seq == 1 && merged.segment->header.to_seq == 4);
    assert_int_equal(report.packed_frames, 1);
    piece_free(&merged);
    world_end();
}

/* A chunk lies where it was overwritten later, and a record elsewhere in the run refers to it. */
static void a_chunk_that_is_referred_to_stays(void **state)
{
    (void)state;
    struct piece merged = {0};
    struct repl_merge_report report;
    world_begin((struct random){2});
    simple_segment(0, 1, 0, PAGE);
    part_begin(1, 2, 0, 32 * PAGE);
    chunk_op(0);
    chunk_op(16 * PAGE);
    size_t name = world.name_count - 2;
    part_end(2, true);
    part_begin(2, 3, 0, 32 * PAGE);
    struct repl_extent extent = {
        .offset = 20 * PAGE, .length = PAGE, .source_offset = PAGE, .type = REPL_RECORD_CHUNK};
    assert_true(repl_ok(
        repl_segment_builder_reference(world.builder, &world.names[name], &extent.source, NULL)));
    simple_data(0, 32 * PAGE);
    extent_put(&extent, world.chunks[name] + PAGE);
    part_end(3, true);
    assert_true(repl_ok(merge_range(1, 3, &merged, &report, NULL)));
    assert_int_equal(merged.segment->footer.chunk_count, 1);
    assert_int_equal(report.dropped_chunks, 1);
    expect_history(&merged, 1, 3);
    piece_free(&merged);
    world_end();
}

static void whole_frames_are_copied(void **state)
{
    (void)state;
    struct piece merged = {0};
    struct repl_merge_report report;
    world_begin((struct random){3});
    part_begin(0, 1, 0, 96 * PAGE);
    simple_data(0, 80 * PAGE);
    simple_data(80 * PAGE, 16 * PAGE);
    part_end(1, true);
    part_begin(1, 2, 0, 96 * PAGE);
    simple_data(90 * PAGE, PAGE);
    part_end(2, true);
    assert_true(repl_ok(merge_range(0, 2, &merged, &report, NULL)));
    assert_int_equal(report.copied_frames, 1);
    assert_int_equal(report.packed_frames, 1);
    expect_history(&merged, 0, 2);
    piece_free(&merged);
    world_end();
}

/* A page of it costs a reader all of a frame. */
static void packed_frames_are_not_large(void **state)
{
    (void)state;
    struct piece merged = {0};
    struct repl_merge_report report;
    world_begin((struct random){5});
    part_begin(0, 1, 0, 96 * PAGE);
    simple_data(0, 96 * PAGE);
    part_end(1, true);
    for (uint64_t seq = 2; seq <= 5; seq++) {
        part_begin(seq - 1, seq, 0, 96 * PAGE);
        for (uint64_t i = 0; i < 2; i++)
            simple_data(((seq - 2) * 2 + i) * 10 * PAGE, 10 * PAGE);
        part_end(seq, true);
    }
    assert_true(repl_ok(merge_range(1, 5, &merged, &report, NULL)));
    assert_int_equal(report.packed_frames, 3);
    for (uint32_t i = 0; i < merged.segment->footer.frame_count; i++)
        assert_true(merged.segment->frames[i].raw_size <= 32 * PAGE);
    expect_history(&merged, 1, 5);
    piece_free(&merged);
    world_end();
}

static void a_full_in_the_run_makes_a_full(void **state)
{
    (void)state;
    struct piece merged = {0};
    struct repl_merge_report report;
    world_begin((struct random){4});
    simple_segment(0, 1, 0, PAGE);
    simple_segment(1, 2, 0, PAGE);
    simple_segment(0, 3, 0, PAGE);
    simple_segment(3, 4, 0, PAGE);
    assert_true(repl_ok(merge_range(1, 4, &merged, &report, NULL)));
    assert_true(merged.segment->header.from_seq == 0 && merged.segment->header.to_seq == 4);
    assert_int_equal(merged.segment->footer.point_count, 3);
    assert_true(merged.segment->footer.raw_size == 32 * PAGE);
    expect_history(&merged, 1, 4);
    piece_free(&merged);
    world_end();
}

static void expect_failure(size_t begin, size_t end, enum repl_code code, const char *words)
{
    struct piece merged = {0};
    struct repl_merge_report report;
    struct repl_error err = {0};
    assert_int_equal(merge_range(begin, end, &merged, &report, &err).code, code);
    if (strstr(err.text, words) == NULL)
        fail_msg("'%s' does not say '%s'", err.text, words);
}

static void what_cannot_be_one_segment_is_refused(void **state)
{
    (void)state;
    world_begin((struct random){5});
    simple_segment(0, 1, 0, PAGE);
    part_begin(1, 2, 0, 32 * PAGE);
    simple_data(0, PAGE);
    part_end(2, false);
    part_begin(1, 2, 1, 32 * PAGE);
    part_end(2, true);
    simple_segment(2, 3, 0, PAGE);
    expect_failure(0, 2, REPL_E_REFUSED, "ends with part 0 of (1, 2]");
    expect_failure(2, 4, REPL_E_REFUSED, "begins with part 1 of (1, 2]");
    struct repl_segment_header *header = &world.pieces[3].segment->header;
    header->lineage++;
    expect_failure(1, 4, REPL_E_REFUSED, "lineage 5 and 6");
    header->lineage--;
    header->volume.bytes[0] ^= 1;
    expect_failure(1, 4, REPL_E_CORRUPT, "another volume");
    header->volume.bytes[0] ^= 1;
    header->prev.bytes[9] ^= 1;
    expect_failure(1, 4, REPL_E_CORRUPT, "(2, 3].0 does not follow (1, 2].1: it names another");
    header->prev.bytes[9] ^= 1;
    header->from_seq = 1;
    expect_failure(1, 4, REPL_E_CORRUPT, "something lies between them");
    header->from_seq = 2;
    header->kind = REPL_SEGMENT_SUPPLY;
    expect_failure(3, 4, REPL_E_REFUSED, "only chunks");
    expect_failure(1, 4, REPL_E_CORRUPT, "only chunks");
    header->kind = REPL_SEGMENT_CHANGES;
    assert_true(try_run(0, 4));
    world_end();
}

/* A volume that grew, and nobody said what is behind its old end. */
static void growth_without_content_is_refused(void **state)
{
    (void)state;
    world_begin((struct random){6});
    part_begin(0, 1, 0, 3 * PAGE + 512);
    simple_data(0, 3 * PAGE + 512);
    part_end(1, true);
    part_begin(1, 2, 0, 8 * PAGE);
    simple_data(4 * PAGE, 4 * PAGE);
    part_end(2, false);
    part_begin(1, 2, 1, 8 * PAGE);
    part_end(2, true);
    expect_failure(0, 3, REPL_E_CORRUPT, "segment 1.0: the volume has 12800 bytes");
    expect_failure(0, 3, REPL_E_CORRUPT, "from offset 12800");
    world_end();
    world_begin((struct random){6});
    part_begin(0, 1, 0, 8 * PAGE);
    simple_data(PAGE, 7 * PAGE);
    part_end(1, true);
    expect_failure(0, 1, REPL_E_CORRUPT, "from offset 0");
    world_end();
}

static repl_result sink_fails(void *context, const void *data, size_t size, struct repl_error *err)
{
    (void)context;
    (void)data;
    return repl_fail(err, REPL_E_NOSPACE, "no room for %zu bytes", size);
}

static void a_failing_sink_ends_it(void **state)
{
    (void)state;
    struct repl_merge_report report;
    struct repl_error err;
    world_begin((struct random){7});
    simple_segment(0, 1, 0, PAGE);
    const struct repl_segment *segment = world.pieces[0].segment;
    struct repl_merge_options options = {
        .segments = &segment, .segment_count = 1, .sink = sink_fails};
    assert_int_equal(repl_segment_merge(&options, &report, &err).code, REPL_E_NOSPACE);
    struct memory_file file = {0};
    options.sink = memory_sink;
    options.sink_context = &file;
    assert_true(repl_ok(repl_segment_merge(&options, &report, &err)));
    for (size_t limit = 1; limit < file.bytes.size; limit += 97) {
        struct memory_file small = {.sink_limit = limit};
        options.sink_context = &small;
        assert_int_equal(repl_segment_merge(&options, &report, &err).code, REPL_E_NOSPACE);
        repl_buffer_fini(&small.bytes);
    }
    repl_buffer_fini(&file.bytes);
    world_end();
}

/* The bytes of a frame's data are all alike: few of them stand for the others. */
static size_t next_place(const struct repl_segment *segment, size_t at)
{
    const size_t edge = 64, step = 61;
    for (uint32_t i = 0; i < segment->footer.frame_count; i++) {
        const struct repl_frame_entry *frame = &segment->frames[i];
        if (at >= frame->offset + edge && at + step + edge < frame->offset + frame->stored_size)
            return at + step;
    }
    return at + 1;
}

/* Whatever byte of a run is damaged: it is found, or the result is the right one. */
static void damage_is_found_or_does_not_matter(void **state)
{
    (void)state;
    struct piece right = {0};
    struct repl_merge_report report;
    unsigned found = 0, harmless = 0;
    world_begin((struct random){8});
    simple_segment(0, 1, 0, PAGE);
    simple_segment(1, 2, 4 * PAGE, 2 * PAGE);
    simple_segment(2, 3, 5 * PAGE, 2 * PAGE);
    assert_true(repl_ok(merge_range(0, 3, &right, &report, NULL)));
    for (size_t i = 0; i < 3; i++) {
        struct piece *piece = &world.pieces[i];
        for (size_t at = 0; at < piece->file.bytes.size; at = next_place(piece->segment, at)) {
            struct piece merged = {0};
            struct repl_error err = {0};
            piece->file.bytes.data[at] ^= 0x10;
            repl_segment_free(piece->segment);
            piece->segment = NULL;
            repl_result result = repl_segment_open(memory_read_at, &piece->span, piece->span.size,
                                                   &piece->segment, &err);
            bool opened = repl_ok(result);
            if (opened)
                result = merge_range(0, 3, &merged, &report, &err);
            if (!repl_ok(result)) {
                found++;
                char name[32];
                snprintf(name, sizeof name, "segment %zu.0: ", i + 1);
                assert_true(result.code == REPL_E_CORRUPT || result.code == REPL_E_VERSION);
                if (opened && strncmp(err.text, name, strlen(name)) != 0)
                    fail_msg("byte %zu: '%s' does not begin '%s'", at, err.text, name);
            } else {
                harmless++;
                assert_true(merged.file.bytes.size == right.file.bytes.size);
                assert_memory_equal(merged.file.bytes.data, right.file.bytes.data,
                                    right.file.bytes.size);
                piece_free(&merged);
            }
            piece->file.bytes.data[at] ^= 0x10;
            repl_segment_free(piece->segment);
            piece_open(piece);
        }
    }
    printf("%u found, %u of no consequence\n", found, harmless);
    assert_true(found > 500);
    size_t frame = (size_t)world.pieces[1].segment->frames[0].offset;
    world.pieces[1].file.bytes.data[frame + 12] ^= 1;
    expect_failure(0, 3, REPL_E_CORRUPT, "segment 2.0: frame 0: ");
    piece_free(&right);
    world_end();
}

static void a_relinked_segment_is_held_to_its_digest(void **state)
{
    (void)state;
    struct memory_file file = {0};
    struct repl_segment_footer footer;
    struct repl_error err;
    world_begin((struct random){9});
    simple_segment(0, 1, 0, PAGE);
    const struct repl_segment *segment = world.pieces[0].segment;
    assert_true(repl_ok(
        repl_segment_relink(segment, &segment->header.prev, 0, memory_sink, &file, &footer, &err)));
    assert_true(file.bytes.size == world.pieces[0].file.bytes.size);
    assert_memory_equal(file.bytes.data, world.pieces[0].file.bytes.data, file.bytes.size);
    repl_buffer_fini(&file.bytes);
    file = (struct memory_file){0};
    world.pieces[0].file.bytes.data[200] ^= 1;
    assert_int_equal(
        repl_segment_relink(segment, &segment->header.prev, 0, memory_sink, &file, &footer, &err)
            .code,
        REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "segment 1.0: the digest"));
    assert_true(file.bytes.size < world.pieces[0].file.bytes.size);
    repl_buffer_fini(&file.bytes);
    world_end();
}

/* --- memory ---------------------------------------------------------------------------------- */

#define RUN_SEGMENTS 8u
#define RUN_FRAMES   12u /* of 1 MiB, in each */

/* Of what malloc gave out; stays 0 under a sanitizer, which brings its own. */
static size_t memory_peak;

static void memory_sample(void)
{
    struct mallinfo2 info = mallinfo2();
    if (info.uordblks + info.hblkhd > memory_peak)
        memory_peak = info.uordblks + info.hblkhd;
}

static repl_result sampling_read_at(void *context, uint64_t offset, void *out, size_t size,
                                    struct repl_error *err)
{
    memory_sample();
    return memory_read_at(context, offset, out, size, err);
}

static repl_result sampling_sink(void *context, const void *data, size_t size,
                                 struct repl_error *err)
{
    (void)data;
    (void)err;
    memory_sample();
    *(uint64_t *)context += size;
    return REPL_SUCCESS;
}

static void big_segment(struct piece *piece, uint64_t to, struct repl_digest *prev,
                        struct random *random)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_CHANGES,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .from_seq = to,
                                         .to_seq = to + 1,
                                         .prev = *prev};
    struct repl_segment_builder *builder;
    uint64_t size = (uint64_t)RUN_SEGMENTS * RUN_FRAMES << 20;
    assert_true(repl_ok(
        repl_segment_builder_new(&header, size, memory_sink, &piece->file, &builder, NULL)));
    for (uint64_t i = 0; i < RUN_FRAMES; i++) {
        for (size_t at = 0; at < sizeof raw; at += 8) {
            uint64_t word = random_next(random);
            memcpy(raw + at, &word, 8);
        }
        struct repl_extent extent = {.offset = (i * RUN_SEGMENTS + to % RUN_SEGMENTS) << 20,
                                     .length = sizeof raw,
                                     .source = add_frame(builder, world.coder, raw, sizeof raw),
                                     .type = REPL_RECORD_DATA};
        assert_true(repl_ok(repl_segment_builder_extent(builder, &extent, NULL)));
        extent.offset = random_below(random, size / PAGE - 16) * PAGE; /* a hole in another's */
        extent.length = 3 * PAGE;
        assert_true(repl_ok(repl_segment_builder_extent(builder, &extent, NULL)));
    }
    struct repl_point point = {
        .seq = to + 1, .consistency = REPL_CONSISTENCY_CRASH, .cut = REPL_CUT_QUIET, .attempts = 1};
    struct repl_segment_footer footer;
    assert_true(repl_ok(repl_segment_builder_finish(builder, &point, 1, &footer, NULL)));
    repl_segment_builder_free(builder);
    *prev = footer.digest;
}

static void memory_is_bounded(void **state)
{
    (void)state;
    static struct piece pieces[RUN_SEGMENTS];
    const struct repl_segment *segments[RUN_SEGMENTS];
    struct repl_digest prev = {{1}};
    struct random random = {10};
    world_begin(random);
    for (size_t i = 0; i < RUN_SEGMENTS; i++) {
        big_segment(&pieces[i], i + 1, &prev, &random);
        pieces[i].span = (struct memory_span){pieces[i].file.bytes.data, pieces[i].file.bytes.size};
        assert_true(repl_ok(repl_segment_open(sampling_read_at, &pieces[i].span,
                                              pieces[i].span.size, &pieces[i].segment, NULL)));
        segments[i] = pieces[i].segment;
    }
    memory_peak = 0;
    memory_sample();
    size_t before = memory_peak;
    uint64_t written = 0;
    struct repl_merge_options options = {.segments = segments,
                                         .segment_count = RUN_SEGMENTS,
                                         .sink = sampling_sink,
                                         .sink_context = &written};
    struct repl_merge_report report;
    assert_true(repl_ok(repl_segment_merge(&options, &report, NULL)));
    assert_true(written == report.footer.file_size && written > (UINT64_C(80) << 20));
    assert_true(report.copied_frames > 0 && report.packed_frames > 0);
    printf("%zu KiB for a run of %u MiB\n", (memory_peak - before) >> 10,
           RUN_SEGMENTS * RUN_FRAMES);
    assert_true(memory_peak - before < (size_t)16 << 20);
    for (size_t i = 0; i < RUN_SEGMENTS; i++)
        piece_free(&pieces[i]);
    world_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_histories),
        cmocka_unit_test(superseded_data_goes),
        cmocka_unit_test(a_chunk_that_is_referred_to_stays),
        cmocka_unit_test(whole_frames_are_copied),
        cmocka_unit_test(packed_frames_are_not_large),
        cmocka_unit_test(a_full_in_the_run_makes_a_full),
        cmocka_unit_test(what_cannot_be_one_segment_is_refused),
        cmocka_unit_test(growth_without_content_is_refused),
        cmocka_unit_test(a_failing_sink_ends_it),
        cmocka_unit_test(damage_is_found_or_does_not_matter),
        cmocka_unit_test(a_relinked_segment_is_held_to_its_digest),
        cmocka_unit_test(memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
