/*
 * The builder and the reader against each other, and the reader against segments no builder makes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/limits.h"
#include "segment/segment_verify.h"
#include "unit/expect_abort.h"
#include "unit/random.h"
#include "unit/segment/segment_cases.h"

/* What a test of a whole segment has at hand. */
struct bench {
    struct repl_frame_coder *coder;
    struct memory_file file;
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    struct repl_segment *segment;
    struct memory_span span;
    struct repl_error err;
};

static int setup(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);
    *state = bench;
    return bench == NULL || !repl_ok(repl_frame_coder_new(&bench->coder, &bench->err));
}

static int teardown(void **state)
{
    struct bench *bench = *state;
    repl_segment_builder_free(bench->builder);
    repl_segment_free(bench->segment);
    repl_buffer_fini(&bench->file.bytes);
    repl_frame_coder_free(bench->coder);
    free(bench);
    return 0;
}

static void assert_ok(struct bench *bench, repl_result result)
{
    if (!repl_ok(result))
        fail_msg("%s", bench->err.text);
}

static void begin(struct bench *bench, struct repl_segment_header header, uint64_t volume_size)
{
    repl_segment_builder_free(bench->builder);
    bench->builder = NULL;
    bench->file.bytes.size = 0;
    assert_ok(bench, repl_segment_builder_new(&header, volume_size, memory_sink, &bench->file,
                                              &bench->builder, &bench->err));
}

static void put(struct bench *bench, enum repl_record_type type, uint64_t offset, uint64_t length,
                uint64_t source, uint32_t source_offset)
{
    struct repl_extent extent = {.offset = offset,
                                 .length = length,
                                 .source = source,
                                 .source_offset = source_offset,
                                 .type = type};
    assert_ok(bench, repl_segment_builder_extent(bench->builder, &extent, &bench->err));
}

static struct repl_point point_of(uint64_t seq, uint16_t flags)
{
    struct craft craft = {.footer = {0}};
    craft_point(&craft, seq, flags);
    return craft.points[0];
}

static void assert_point(const struct repl_point *a, const struct repl_point *b)
{
    uint8_t bytes[2][REPL_POINT_SIZE];
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_point_encode(&w, a);
    repl_point_encode(&w, b);
    assert_memory_equal(bytes[0], bytes[1], sizeof bytes[0]);
}

static void finish(struct bench *bench, const struct repl_point *points, size_t count)
{
    assert_ok(bench, repl_segment_builder_finish(bench->builder, points, count, &bench->footer,
                                                 &bench->err));
    assert_int_equal(repl_segment_builder_size(bench->builder), bench->file.bytes.size);
    assert_int_equal(bench->footer.file_size, bench->file.bytes.size);
}

/* Opens what was built, and has it verified. */
static void reopen(struct bench *bench)
{
    repl_segment_free(bench->segment);
    bench->segment = NULL;
    bench->span = (struct memory_span){bench->file.bytes.data, bench->file.bytes.size};
    assert_ok(bench, repl_segment_open(memory_read_at, &bench->span, bench->span.size,
                                       &bench->segment, &bench->err));
    assert_ok(bench, repl_segment_verify(bench->segment, bench->coder, &bench->err));
    assert_memory_equal(&bench->footer, &bench->segment->footer, sizeof bench->footer);
}

/* The records but for the object's, which is checked; their number. */
static size_t records(struct bench *bench, struct repl_record *out, size_t limit, uint64_t size)
{
    struct repl_record_walk walk;
    struct repl_record record;
    size_t count = 0;
    bool done;
    repl_record_walk_begin(&walk, bench->segment, bench->coder);
    assert_ok(bench, repl_record_walk_next(&walk, &record, &done, &bench->err));
    assert_false(done);
    assert_int_equal(record.type, REPL_RECORD_OBJECT);
    assert_true(record.size == size);
    for (;;) {
        assert_ok(bench, repl_record_walk_next(&walk, &record, &done, &bench->err));
        if (done)
            break;
        assert_true(count < limit);
        out[count++] = record;
    }
    assert_ok(bench, repl_record_walk_next(&walk, &record, &done, &bench->err));
    assert_true(done);
    repl_record_walk_end(&walk);
    return count;
}

static void assert_record(const struct repl_record *record, enum repl_record_type type,
                          uint64_t offset, uint64_t length, uint32_t source_offset)
{
    assert_int_equal(record->type, type);
    assert_int_equal(record->offset, offset);
    assert_int_equal(record->length, length);
    assert_int_equal(type == REPL_RECORD_CHUNK ? record->chunk_offset : record->frame_offset,
                     source_offset);
}

/* --- round trips ----------------------------------------------------------------------------- */

static void everything_at_once(void **state)
{
    struct bench *bench = *state;
    static uint8_t raw[2 * REPL_CHUNK_SIZE], other[REPL_CHUNK_SIZE] = {9};
    static const char tail[777] = "the end";
    struct random random = random_begin("segment", 7);
    random_fill(&random, raw, REPL_CHUNK_SIZE);
    const uint64_t size = 10 * REPL_CHUNK_SIZE + 777;

    begin(bench, craft_header(4, 9), size);
    assert_true(repl_segment_builder_is_empty(bench->builder));
    uint32_t frame = add_frame(bench->builder, bench->coder, raw, sizeof raw);
    uint32_t text = add_frame(bench->builder, bench->coder, tail, sizeof tail);
    struct repl_chunk_entry chunk = {.name = chunk_name_of(raw), .frame = frame};
    assert_ok(bench, repl_segment_builder_chunk(bench->builder, &chunk, &bench->err));
    struct repl_digest name = chunk_name_of(other);
    uint64_t reference;
    assert_ok(bench,
              repl_segment_builder_reference(bench->builder, &name, &reference, &bench->err));
    put(bench, REPL_RECORD_DATA, size - 777, 777, text, 0);
    put(bench, REPL_RECORD_ZERO, 6 * REPL_CHUNK_SIZE, 2 * REPL_CHUNK_SIZE, 0, 0);
    put(bench, REPL_RECORD_CHUNK, 4 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, reference, 0);
    put(bench, REPL_RECORD_DATA, 0, REPL_CHUNK_SIZE, frame, 0);
    assert_false(repl_segment_builder_is_empty(bench->builder));
    struct repl_point points[] = {point_of(5, REPL_POINT_MERGED), point_of(9, REPL_POINT_RESYNC)};
    finish(bench, points, 2);
    reopen(bench);

    assert_int_equal(bench->segment->header.from_seq, 4);
    assert_int_equal(bench->segment->footer.chunk_count, 1);
    assert_true(repl_digest_equal(&bench->segment->chunks[0].name, &chunk.name));
    assert_int_equal(bench->segment->footer.point_count, 2);
    assert_point(&bench->segment->points[0], &points[0]);
    assert_point(&bench->segment->points[1], &points[1]);
    assert_ptr_equal(repl_segment_last_point(bench->segment), &bench->segment->points[1]);
    struct repl_record out[4];
    assert_int_equal(records(bench, out, 4, size), 4);
    assert_record(&out[0], REPL_RECORD_DATA, 0, REPL_CHUNK_SIZE, 0);
    assert_record(&out[1], REPL_RECORD_CHUNK, 4 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, 0);
    assert_true(repl_digest_equal(&out[1].chunk, &name));
    assert_record(&out[2], REPL_RECORD_ZERO, 6 * REPL_CHUNK_SIZE, 2 * REPL_CHUNK_SIZE, 0);
    assert_record(&out[3], REPL_RECORD_DATA, size - 777, 777, 0);
    assert_int_equal(out[3].frame, text);

    struct repl_buffer frames = {0};
    assert_ok(bench, read_frames(bench->segment, bench->coder, &frames, &bench->err));
    assert_int_equal(frames.size, sizeof raw + 777);
    assert_memory_equal(frames.data, raw, sizeof raw);
    assert_string_equal(frames.data + sizeof raw, "the end");
    repl_buffer_fini(&frames);
}

static void what_is_read_later_wins(void **state)
{
    struct bench *bench = *state;
    static uint8_t raw[16 * REPL_PAGE_SIZE];
    begin(bench, craft_header(0, 1), 16 * REPL_PAGE_SIZE);
    uint32_t first = add_frame(bench->builder, bench->coder, raw, sizeof raw);
    put(bench, REPL_RECORD_DATA, 0, sizeof raw, first, 0);
    uint32_t second = add_frame(bench->builder, bench->coder, raw, REPL_PAGE_SIZE);
    put(bench, REPL_RECORD_DATA, 4 * REPL_PAGE_SIZE, REPL_PAGE_SIZE, second, 0);
    put(bench, REPL_RECORD_ZERO, 8 * REPL_PAGE_SIZE, REPL_PAGE_SIZE, 0, 0);
    struct repl_point point = point_of(1, 0);
    finish(bench, &point, 1);
    reopen(bench);
    struct repl_record out[5];
    assert_int_equal(records(bench, out, 5, sizeof raw), 5);
    assert_record(&out[0], REPL_RECORD_DATA, 0, 4 * REPL_PAGE_SIZE, 0);
    assert_record(&out[1], REPL_RECORD_DATA, 4 * REPL_PAGE_SIZE, REPL_PAGE_SIZE, 0);
    assert_int_equal(out[1].frame, second);
    assert_record(&out[2], REPL_RECORD_DATA, 5 * REPL_PAGE_SIZE, 3 * REPL_PAGE_SIZE,
                  5 * REPL_PAGE_SIZE);
    assert_record(&out[3], REPL_RECORD_ZERO, 8 * REPL_PAGE_SIZE, REPL_PAGE_SIZE, 0);
    assert_record(&out[4], REPL_RECORD_DATA, 9 * REPL_PAGE_SIZE, 7 * REPL_PAGE_SIZE,
                  9 * REPL_PAGE_SIZE);
}

/* Page by page, as capture hands them over, and one record in the end; but a gap in the source, or
 * another one, keeps them apart. */
static void neighbours_become_one_record(void **state)
{
    struct bench *bench = *state;
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    const uint64_t size = UINT64_C(1) << 50;
    begin(bench, craft_header(0, 1), size);
    uint32_t frame = add_frame(bench->builder, bench->coder, raw, sizeof raw);
    struct repl_digest name = chunk_name_of(raw);
    uint64_t a, b;
    assert_ok(bench, repl_segment_builder_reference(bench->builder, &name, &a, &bench->err));
    assert_ok(bench, repl_segment_builder_reference(bench->builder, &name, &b, &bench->err));
    for (uint32_t at = 0; at < sizeof raw; at += REPL_PAGE_SIZE)
        put(bench, REPL_RECORD_DATA, at, REPL_PAGE_SIZE, frame, at);
    put(bench, REPL_RECORD_DATA, sizeof raw, REPL_PAGE_SIZE, frame, 0);
    for (uint32_t at = 0; at < REPL_CHUNK_SIZE; at += REPL_PAGE_SIZE)
        put(bench, REPL_RECORD_CHUNK, 2 * sizeof raw + at, REPL_PAGE_SIZE, a, at);
    put(bench, REPL_RECORD_CHUNK, 2 * sizeof raw + REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, b, 0);
    put(bench, REPL_RECORD_ZERO, 3 * sizeof raw, size / 2, 0, 0);
    put(bench, REPL_RECORD_ZERO, 3 * sizeof raw + size / 2, size / 2 - 3 * sizeof raw, 0, 0);
    finish(bench, NULL, 0);
    reopen(bench);
    struct repl_record out[5];
    assert_int_equal(records(bench, out, 5, size), 5);
    assert_record(&out[0], REPL_RECORD_DATA, 0, sizeof raw, 0);
    assert_record(&out[1], REPL_RECORD_DATA, sizeof raw, REPL_PAGE_SIZE, 0);
    assert_record(&out[2], REPL_RECORD_CHUNK, 2 * sizeof raw, REPL_CHUNK_SIZE, 0);
    assert_record(&out[3], REPL_RECORD_CHUNK, 2 * sizeof raw + REPL_CHUNK_SIZE, REPL_CHUNK_SIZE, 0);
    assert_record(&out[4], REPL_RECORD_ZERO, 3 * sizeof raw, size - 3 * sizeof raw, 0);
}

/* A cut chunk, and the last page of a volume that ends within it, whichever way the bytes come. */
static void tails_that_are_no_whole_page(void **state)
{
    struct bench *bench = *state;
    static const uint64_t sizes[] = {1, 511, 4095, 4096, 4097, 65536 + 1000};
    static uint8_t raw[REPL_CHUNK_SIZE + REPL_PAGE_SIZE];
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        static const enum repl_record_type types[] = {REPL_RECORD_DATA, REPL_RECORD_CHUNK,
                                                      REPL_RECORD_ZERO};
        uint64_t tail = (sizes[i] - 1) / REPL_PAGE_SIZE * REPL_PAGE_SIZE;
        for (size_t type = 0; type < 3; type++) {
            begin(bench, craft_header(0, 1), sizes[i]);
            uint32_t frame = add_frame(bench->builder, bench->coder, raw, sizes[i]);
            struct repl_digest name = chunk_name_of(raw);
            uint64_t reference;
            assert_ok(bench, repl_segment_builder_reference(bench->builder, &name, &reference,
                                                            &bench->err));
            uint64_t source = types[type] == REPL_RECORD_DATA ? frame : reference;
            put(bench, types[type], tail, sizes[i] - tail, source, 0);
            finish(bench, NULL, 0);
            reopen(bench);
            struct repl_record out[1];
            assert_int_equal(records(bench, out, 1, sizes[i]), 1);
            assert_record(&out[0], types[type], tail, sizes[i] - tail, 0);
        }
    }
}

static void many_extents_take_several_blocks(void **state)
{
    struct bench *bench = *state;
    static uint8_t raw[REPL_PAGE_SIZE];
    const uint32_t count = 40000;
    const uint64_t size = UINT64_C(3) * count * REPL_PAGE_SIZE;
    begin(bench, craft_header(0, 1), size);
    uint32_t frame = add_frame(bench->builder, bench->coder, raw, sizeof raw);
    for (uint32_t i = 0; i < count; i++) /* in no order */
        put(bench, REPL_RECORD_DATA, UINT64_C(3) * (i * 7919u % count) * REPL_PAGE_SIZE,
            REPL_PAGE_SIZE, frame, 0);
    finish(bench, NULL, 0);
    reopen(bench);
    assert_true(bench->segment->footer.block_count > 5);
    struct repl_record *out = calloc(count, sizeof *out);
    assert_int_equal(records(bench, out, count, size), count);
    for (uint32_t i = 0; i < count; i++)
        assert_record(&out[i], REPL_RECORD_DATA, UINT64_C(3) * i * REPL_PAGE_SIZE, REPL_PAGE_SIZE,
                      0);
    free(out);
    const struct repl_block_entry *blocks = bench->segment->blocks;
    assert_true(blocks[0].first_object == REPL_OBJECT_DEVICE && blocks[0].first_offset == 0);
    for (uint32_t i = 1; i < bench->segment->footer.block_count; i++)
        assert_true(blocks[i].first_offset > blocks[i - 1].first_offset);
}

/* All frames that came with a list of their pages have one, unless the segment announces none. */
static void pages_are_listed(void **state)
{
    struct bench *bench = *state;
    static uint8_t raw[2 * REPL_CHUNK_SIZE + 100];
    struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
    for (unsigned round = 0; round < 2; round++) {
        struct repl_segment_header header = craft_header(7, 10);
        header.features = round == 0 ? REPL_FEATURE_PAGES : 0;
        memset(raw, 'a', sizeof raw);
        memset(raw + REPL_PAGE_SIZE, 'b', REPL_PAGE_SIZE);
        begin(bench, header, sizeof raw);
        const size_t sizes[] = {2 * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE + 100, sizeof raw, 3};
        for (uint32_t i = 0; i < 4; i++) {
            assert_int_equal(add_frame(bench->builder, bench->coder, raw, sizes[i]), i);
        }
        put(bench, REPL_RECORD_DATA, 0, sizeof raw, 2, 0);
        struct repl_point point = point_of(10, 0);
        finish(bench, &point, 1);
        reopen(bench);
        for (uint32_t i = 0; i < 5; i++) {
            uint32_t count = 1;
            assert_ok(bench,
                      repl_segment_read_pages(bench->segment, i, pages, &count, &bench->err));
            bool listed = round == 0 && i < 4;
            assert_int_equal(count, listed ? repl_page_count_of(sizes[i]) : 0);
            for (uint32_t page = 0; page < count; page++) {
                size_t at = (size_t)page * REPL_PAGE_SIZE, left = sizes[i] - at;
                struct repl_digest digest =
                    sha256_of(raw + at, left < REPL_PAGE_SIZE ? left : REPL_PAGE_SIZE);
                assert_memory_equal(&pages[page], digest.bytes, sizeof pages[page]);
            }
        }
        repl_segment_builder_free(bench->builder);
        bench->builder = NULL;
        bench->file.bytes.size = 0;
    }
}

static void parts_carry_no_point(void **state)
{
    struct bench *bench = *state;
    struct repl_segment_header header = craft_header(3, 4);
    header.part = 2;
    begin(bench, header, 4096);
    finish(bench, NULL, 0);
    reopen(bench);
    assert_null(repl_segment_last_point(bench->segment));
    assert_int_equal(bench->segment->header.part, 2);
    assert_int_equal(records(bench, NULL, 0, 4096), 0); /* a point may change nothing */
}

static void supply_carries_chunks_only(void **state)
{
    struct bench *bench = *state;
    static uint8_t raw[REPL_FRAME_RAW_MAX];
    struct repl_segment_header header = craft_header(3, 4);
    header.kind = REPL_SEGMENT_SUPPLY;
    for (unsigned chunks = 0; chunks <= 16; chunks += 8) {
        begin(bench, header, 0);
        for (size_t i = 0; i < sizeof raw; i++)
            raw[i] = (uint8_t)(i / REPL_CHUNK_SIZE + i % 251);
        for (uint32_t i = 0; i < chunks; i++) {
            if (i == 0)
                add_frame(bench->builder, bench->coder, raw, chunks * REPL_CHUNK_SIZE);
            struct repl_chunk_entry chunk = {.name = chunk_name_of(raw + i * REPL_CHUNK_SIZE),
                                             .frame_offset = i * REPL_CHUNK_SIZE};
            assert_ok(bench, repl_segment_builder_chunk(bench->builder, &chunk, &bench->err));
        }
        finish(bench, NULL, 0);
        reopen(bench);
        assert_int_equal(bench->segment->footer.block_count, 0);
        assert_int_equal(bench->segment->footer.chunk_count, chunks);
        struct repl_buffer none = {0};
        assert_ok(bench, read_records(bench->segment, bench->coder, &none, &bench->err));
        assert_int_equal(none.size, 0);
    }
}

/* Random batches of pages, written again and again, against an array that says where each page's
 * bytes should be. */
static void random_segments(void **state)
{
    struct bench *bench = *state;
    struct random random = random_begin("random_segments", 99);
    enum { PAGES = 300 };
    for (unsigned round = 0; round < 30; round++) {
        struct repl_record model[PAGES] = {{0}};
        begin(bench, craft_header(0, 1), PAGES * REPL_PAGE_SIZE);
        for (unsigned batch = 0; batch < 40; batch++) {
            static uint8_t raw[16 * REPL_PAGE_SIZE];
            uint64_t first = random_below(&random, PAGES);
            uint64_t count = 1 + random_below(&random, 16);
            count = count < PAGES - first ? count : PAGES - first;
            bool zero = random_below(&random, 4) == 0;
            uint32_t frame =
                zero ? 0 : add_frame(bench->builder, bench->coder, raw, count * REPL_PAGE_SIZE);
            enum repl_record_type type = zero ? REPL_RECORD_ZERO : REPL_RECORD_DATA;
            put(bench, type, first * REPL_PAGE_SIZE, count * REPL_PAGE_SIZE, frame, 0);
            for (uint32_t i = 0; i < count; i++)
                model[first + i] =
                    (struct repl_record){.type = type, .frame = frame, .frame_offset = i * 4096};
        }
        finish(bench, NULL, 0);
        reopen(bench);
        struct repl_record out[PAGES];
        size_t count = records(bench, out, PAGES, PAGES * REPL_PAGE_SIZE);
        for (size_t i = 0; i < count; i++) {
            for (uint32_t at = 0; at < out[i].length; at += REPL_PAGE_SIZE) {
                struct repl_record *page = &model[(out[i].offset + at) / REPL_PAGE_SIZE];
                assert_int_equal(page->type, out[i].type);
                if (page->type == REPL_RECORD_DATA) {
                    assert_int_equal(page->frame, out[i].frame);
                    assert_int_equal(page->frame_offset, out[i].frame_offset + at);
                }
                page->type = 0; /* said once */
            }
        }
        for (size_t i = 0; i < PAGES; i++)
            assert_int_equal(model[i].type, 0);
    }
}

/* --- what the builder refuses ---------------------------------------------------------------- */

static void build_sample(struct bench *bench)
{
    static uint8_t raw[8192];
    begin(bench, craft_header(0, 1), 8192);
    uint32_t frame = add_frame(bench->builder, bench->coder, raw, sizeof raw);
    put(bench, REPL_RECORD_DATA, 0, 8192, frame, 0);
}

/* A sink that is full behind each byte in turn: whichever call it hits, that call says so. */
static void sink_errors_come_through(void **state)
{
    struct bench *bench = *state;
    struct repl_point point = point_of(1, 0);
    build_sample(bench);
    finish(bench, &point, 1);
    size_t size = bench->file.bytes.size;
    for (size_t limit = 1; limit < size; limit++) {
        struct memory_file file = {.sink_limit = limit};
        struct repl_segment_header header = craft_header(0, 1);
        struct repl_segment_builder *builder;
        struct repl_frame_entry entry;
        struct repl_buffer stored = {0};
        struct repl_segment_footer footer;
        uint32_t index;
        uint8_t raw[8192] = {0};
        assert_ok(bench,
                  repl_frame_encode(bench->coder, raw, sizeof raw, &stored, &entry, &bench->err));
        repl_result result =
            repl_segment_builder_new(&header, 8192, memory_sink, &file, &builder, &bench->err);
        assert_true(repl_ok(result) == (limit >= REPL_SEGMENT_HEADER_SIZE));
        if (repl_ok(result)) {
            result =
                repl_segment_builder_frame(builder, &entry, stored.data, NULL, &index, &bench->err);
            struct repl_extent extent = {.length = 8192, .type = REPL_RECORD_DATA};
            if (repl_ok(result))
                result = repl_segment_builder_extent(builder, &extent, &bench->err);
            if (repl_ok(result))
                result = repl_segment_builder_finish(builder, &point, 1, &footer, &bench->err);
            repl_segment_builder_free(builder);
        }
        assert_int_equal(result.code, REPL_E_NOSPACE);
        assert_string_equal(bench->err.text, "memory file is full");
        repl_buffer_fini(&stored);
        repl_buffer_fini(&file.bytes);
    }
}

static void header_is_checked_before_a_byte_is_written(void **state)
{
    struct bench *bench = *state;
    struct repl_segment_header header = craft_header(5, 5);
    assert_int_equal(repl_segment_builder_new(&header, 4096, memory_sink, &bench->file,
                                              &bench->builder, &bench->err)
                         .code,
                     REPL_E_CORRUPT);
    header = craft_header(5, 6);
    static const uint64_t sizes[] = {0, (UINT64_C(1) << 50) + 1, UINT64_MAX};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(repl_segment_builder_new(&header, sizes[i], memory_sink, &bench->file,
                                                  &bench->builder, &bench->err)
                             .code,
                         REPL_E_REFUSED);
        assert_non_null(strstr(bench->err.text, "a volume of"));
    }
    assert_int_equal(bench->file.bytes.size, 0);
    assert_null(bench->builder);
}

static void points_that_no_reader_would_take(void **state)
{
    struct bench *bench = *state;
    struct repl_point good = point_of(3, 0), merged = point_of(2, REPL_POINT_MERGED);
    struct repl_point cases[10][2];
    for (size_t i = 0; i < 10; i++) {
        cases[i][0] = merged;
        cases[i][1] = good;
    }
    cases[0][1].end_ns = cases[0][1].begin_ns - 1; /* the clock was set back */
    cases[1][0].flags = 0;
    cases[2][1].flags = REPL_POINT_MERGED;
    cases[3][0].seq = 3;
    cases[4][0].seq = 1;
    cases[5][1].consistency = REPL_CONSISTENCY_NONE;
    cases[6][1].attempts = 0;
    cases[7][1].cut = 0;
    cases[8][1].consistency = REPL_CONSISTENCY_PER_FILE; /* of no tree */
    cases[8][1].cut = REPL_CUT_FILES;
    cases[9][1].cut = REPL_CUT_SNAPSHOT; /* nor this */
    for (size_t i = 0; i < 10; i++) {
        begin(bench, craft_header(1, 3), 4096);
        assert_int_equal(
            repl_segment_builder_finish(bench->builder, cases[i], 2, &bench->footer, &bench->err)
                .code,
            REPL_E_INTERNAL);
        assert_non_null(strstr(bench->err.text, "point"));
    }
}

static repl_result sink_nothing(void *context, const void *data, size_t size,
                                struct repl_error *err)
{
    (void)context, (void)data, (void)size, (void)err;
    return REPL_SUCCESS;
}

/* More than a reader would take is an error of the builder's, not a segment that nobody can read:
 * each table is filled up to its limit and one more, and together they must fit the index. */
static void limits_hold(void **state)
{
    struct bench *bench = *state;
    static uint8_t raw[REPL_CHUNK_SIZE];
    struct repl_segment_header header = craft_header(0, 1);
    struct repl_buffer stored = {0};
    struct repl_frame_entry entry;
    header.kind = REPL_SEGMENT_SUPPLY;
    assert_ok(bench,
              repl_frame_encode(bench->coder, raw, sizeof raw, &stored, &entry, &bench->err));
    assert_ok(bench, repl_segment_builder_new(&header, 0, sink_nothing, NULL, &bench->builder,
                                              &bench->err));
    uint32_t index;
    for (uint32_t i = 0; i < REPL_FRAMES_MAX; i++)
        assert_ok(bench, repl_segment_builder_frame(bench->builder, &entry, stored.data, NULL,
                                                    &index, &bench->err));
    assert_int_equal(
        repl_segment_builder_frame(bench->builder, &entry, stored.data, NULL, &index, &bench->err)
            .code,
        REPL_E_NOMEM);
    struct repl_chunk_entry chunk = {.name = chunk_name_of(raw)};
    for (uint32_t i = 0; i < REPL_CHUNKS_MAX; i++)
        assert_ok(bench, repl_segment_builder_chunk(bench->builder, &chunk, &bench->err));
    assert_int_equal(repl_segment_builder_chunk(bench->builder, &chunk, &bench->err).code,
                     REPL_E_NOMEM);
    repl_result result =
        repl_segment_builder_finish(bench->builder, NULL, 0, &bench->footer, &bench->err);
    assert_int_equal(result.code, REPL_E_NOMEM);
    assert_non_null(strstr(bench->err.text, "limits"));
    repl_buffer_fini(&stored);
}

static void wrong_extent(void *context)
{
    struct bench *bench = *(void **)context;
    const struct repl_extent *extent = ((void **)context)[1];
    repl_ignore(repl_segment_builder_extent(bench->builder, extent, &bench->err)); /* aborts */
}

static void wrong_chunk(void *context)
{
    struct bench *bench = context;
    struct repl_chunk_entry chunk = {.frame_offset = 0};
    repl_ignore(repl_segment_builder_chunk(bench->builder, &chunk, &bench->err)); /* aborts */
}

static void wrong_last_point(void *context)
{
    struct bench *bench = context;
    struct repl_point point = point_of(2, 0);
    /* aborts: a segment to 1 that carries point 2 */
    repl_ignore(
        repl_segment_builder_finish(bench->builder, &point, 1, &bench->footer, &bench->err));
}

static void callers_mistakes_abort(void **state)
{
    struct bench *bench = *state;
    build_sample(bench); /* a volume of 8192 bytes, frame 0 of as many */
    const struct repl_extent wrong[] = {
        {.offset = 512, .length = 4096, .type = REPL_RECORD_ZERO},
        {.offset = 0, .length = 4095, .type = REPL_RECORD_ZERO},
        {.offset = 0, .length = 0, .type = REPL_RECORD_ZERO},
        {.offset = 8192, .length = 4096, .type = REPL_RECORD_ZERO},
        {.offset = 4096, .length = 8192, .type = REPL_RECORD_ZERO},
        {.offset = 0, .length = 4096, .source = 1, .type = REPL_RECORD_DATA},
        {.offset = 0, .length = 4096, .source_offset = 4097, .type = REPL_RECORD_DATA},
        {.offset = 0, .length = 4096, .source = 0, .type = REPL_RECORD_CHUNK},
        {.offset = 0, .length = 4096, .type = REPL_RECORD_OBJECT},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const void *context[2] = {bench, &wrong[i]};
        assert_true(aborts(wrong_extent, context));
    }
    assert_true(aborts(wrong_chunk, bench));
    assert_true(aborts(wrong_last_point, bench));
}

/* --- what the reader refuses ----------------------------------------------------------------- */

static void crafted_sample_is_good(void **state)
{
    struct bench *bench = *state;
    struct craft craft;
    struct repl_buffer out = {0};
    craft_sample(&craft);
    craft_layout(&craft);
    craft_write(&craft, &bench->file.bytes);
    struct memory_span span = {bench->file.bytes.data, bench->file.bytes.size};
    assert_ok(bench, read_all(span, bench->coder, true, &out, &bench->err));
    repl_buffer_fini(&out);
    craft_fini(&craft);
}

static void every_bad_case_is_refused_in_words(void **state)
{
    struct bench *bench = *state;
    for (size_t i = 0; i < BAD_CASE_COUNT; i++) {
        const struct bad_case *bad = &bad_cases[i];
        struct repl_buffer file = bad_case_make(bad), out = {0};
        struct memory_span span = {file.data, file.size};
        bench->err.text[0] = '\0';
        repl_result result = read_all(span, bench->coder, true, &out, &bench->err);
        if (result.code != bad->code || strstr(bench->err.text, bad->word) == NULL)
            fail_msg("%s: %s (%s), expected %s with \"%s\"", bad->name, repl_code_name(result.code),
                     bench->err.text, repl_code_name(bad->code), bad->word);
        repl_buffer_fini(&out);
        repl_buffer_fini(&file);
    }
    printf("%zu bad segments refused\n", BAD_CASE_COUNT);
}

static void frame_that_is_not_there(void **state)
{
    struct bench *bench = *state;
    build_sample(bench);
    finish(bench, NULL, 0);
    reopen(bench);
    struct repl_buffer stored = {0};
    uint8_t raw[1];
    size_t size;
    assert_int_equal(
        repl_segment_read_frame(bench->segment, 1, bench->coder, &stored, raw, &size, &bench->err)
            .code,
        REPL_E_CORRUPT);
    assert_non_null(strstr(bench->err.text, "no frame 1"));
}

static unsigned read_calls_left;

static repl_result read_at_that_fails(void *context, uint64_t offset, void *out, size_t size,
                                      struct repl_error *err)
{
    if (read_calls_left-- == 0)
        return repl_fail(err, REPL_E_IO, "the disk is gone");
    return memory_read_at(context, offset, out, size, err);
}

static void read_errors_come_through(void **state)
{
    struct bench *bench = *state;
    build_sample(bench);
    finish(bench, NULL, 0);
    struct memory_span span = {bench->file.bytes.data, bench->file.bytes.size};
    for (unsigned calls = 0;; calls++) {
        struct repl_segment *segment = NULL;
        read_calls_left = calls;
        repl_result result =
            repl_segment_open(read_at_that_fails, &span, span.size, &segment, &bench->err);
        if (repl_ok(result))
            result = repl_segment_verify(segment, bench->coder, &bench->err);
        repl_segment_free(segment);
        if (repl_ok(result)) {
            assert_true(calls >= 6); /* header, footer, index, whole, block, frame */
            return;
        }
        assert_int_equal(result.code, REPL_E_IO);
        assert_non_null(strstr(bench->err.text, "the disk is gone"));
    }
}

/* --- verification in pieces ------------------------------------------------------------------ */

#define FRAMES     9u
#define BAD_FRAMES 3u
static const uint32_t bad_frames[BAD_FRAMES] = {0, 4, 8};

/* Frames of two chunks each; in some the second one is listed under another name. */
static void build_chunks(struct bench *bench)
{
    static uint8_t bytes[2 * REPL_CHUNK_SIZE];
    struct random random = {7};
    begin(bench, craft_header(0, 1), FRAMES * sizeof bytes);
    for (uint32_t i = 0; i < FRAMES; i++) {
        random_fill(&random, bytes, sizeof bytes);
        uint32_t frame = add_frame(bench->builder, bench->coder, bytes, sizeof bytes);
        put(bench, REPL_RECORD_DATA, (uint64_t)i * sizeof bytes, sizeof bytes, frame, 0);
        for (uint32_t at = 0; at < sizeof bytes; at += REPL_CHUNK_SIZE) {
            struct repl_chunk_entry chunk = {
                .name = chunk_name_of(bytes + at), .frame = frame, .frame_offset = at};
            for (uint32_t k = 0; k < BAD_FRAMES; k++)
                chunk.name.bytes[0] ^= at > 0 && bad_frames[k] == i;
            assert_ok(bench, repl_segment_builder_chunk(bench->builder, &chunk, &bench->err));
        }
    }
}

static bool has_bad_frame(uint32_t first, uint32_t end)
{
    for (uint32_t k = 0; k < BAD_FRAMES; k++) {
        if (bad_frames[k] >= first && bad_frames[k] < end)
            return true;
    }
    return false;
}

/* A range finds what is wrong in its frames, and nothing else. */
static void frames_are_verified_by_ranges(void **state)
{
    struct bench *bench = *state;
    struct repl_segment *segment;
    struct repl_frame_verifier verifier;
    build_chunks(bench);
    finish(bench, NULL, 0);
    struct memory_span span = {bench->file.bytes.data, bench->file.bytes.size};
    assert_ok(bench, repl_segment_open(memory_read_at, &span, span.size, &segment, &bench->err));
    assert_ok(bench, repl_frame_verifier_init(&verifier, segment, &bench->err));
    for (uint32_t first = 0; first <= FRAMES; first++) {
        for (uint32_t end = first; end <= FRAMES; end++) {
            repl_result result =
                repl_frame_verifier_run(&verifier, first, end, bench->coder, &bench->err);
            assert_int_equal(result.code, has_bad_frame(first, end) ? REPL_E_CORRUPT : REPL_OK);
        }
    }
    repl_frame_verifier_fini(&verifier);
    assert_int_equal(repl_segment_verify(segment, bench->coder, &bench->err).code, REPL_E_CORRUPT);
    repl_segment_free(segment);
}

/* However the bytes come, and however often it begins anew. */
static void the_digest_follows_what_comes(void **state)
{
    struct bench *bench = *state;
    struct repl_segment_digest digest;
    build_sample(bench);
    finish(bench, NULL, 0);
    reopen(bench);
    struct memory_span *span = &bench->span;
    assert_ok(bench, repl_segment_digest_init(&digest, &bench->err));
    for (size_t step = 1; step <= span->size; step = step * 3 + 1) {
        for (size_t size = 0; size <= span->size; size += step) {
            assert_ok(bench,
                      repl_segment_digest_follow(&digest, memory_read_at, span, size, &bench->err));
            assert_true(digest.hashed < size || size == 0);
        }
        assert_ok(bench, repl_segment_verify_digest(bench->segment, &digest, &bench->err));
        assert_true(digest.hashed == 0);
    }
    /* a beginning that is not this segment's */
    bench->file.bytes.data[100] ^= 1;
    assert_ok(bench, repl_segment_digest_follow(&digest, memory_read_at, span, 300, &bench->err));
    bench->file.bytes.data[100] ^= 1;
    assert_int_equal(repl_segment_verify_digest(bench->segment, &digest, &bench->err).code,
                     REPL_E_CORRUPT);
    repl_segment_digest_restart(&digest);
    assert_ok(bench, repl_segment_verify_digest(bench->segment, &digest, &bench->err));
    repl_segment_digest_fini(&digest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define SEGMENT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        SEGMENT_TEST(everything_at_once),
        SEGMENT_TEST(what_is_read_later_wins),
        SEGMENT_TEST(neighbours_become_one_record),
        SEGMENT_TEST(tails_that_are_no_whole_page),
        SEGMENT_TEST(many_extents_take_several_blocks),
        SEGMENT_TEST(pages_are_listed),
        SEGMENT_TEST(parts_carry_no_point),
        SEGMENT_TEST(supply_carries_chunks_only),
        SEGMENT_TEST(random_segments),
        SEGMENT_TEST(sink_errors_come_through),
        SEGMENT_TEST(header_is_checked_before_a_byte_is_written),
        SEGMENT_TEST(points_that_no_reader_would_take),
        SEGMENT_TEST(limits_hold),
        SEGMENT_TEST(callers_mistakes_abort),
        SEGMENT_TEST(crafted_sample_is_good),
        SEGMENT_TEST(every_bad_case_is_refused_in_words),
        SEGMENT_TEST(frame_that_is_not_there),
        SEGMENT_TEST(read_errors_come_through),
        SEGMENT_TEST(frames_are_verified_by_ranges),
        SEGMENT_TEST(the_digest_follows_what_comes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
