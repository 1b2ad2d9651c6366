/*
 * The records one by one: bytes where the specification says, back to what they were, and every
 * bound that a record alone can be held to. What relates records to each other is tested by
 * tests/unit/segment/test_segment.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/limits.h"
#include "format/segment_format.h"

static struct repl_segment_header sample_header(void)
{
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_SUPPLY,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .lineage = 0x1111111111111111,
                                         .from_seq = 0x2222222222222222,
                                         .to_seq = 0x3333333333333333,
                                         .part = 0x44444444,
                                         .created_ns = -5};
    memset(&header.volume, 0x66, sizeof header.volume);
    memset(&header.prev, 0x77, sizeof header.prev);
    return header;
}

static void assert_bytes(const uint8_t *bytes, size_t offset, int value, size_t count)
{
    for (size_t i = 0; i < count; i++)
        assert_int_equal(bytes[offset + i], value);
}

static void header_bytes_lie_where_they_should(void **state)
{
    (void)state;
    struct repl_segment_header header = sample_header(), back;
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    repl_segment_header_encode(&header, bytes);
    assert_memory_equal(bytes, "\x89REPL\r\n\x1a\x01\0\x80\0\x02\x01\0\0", 16);
    assert_bytes(bytes, 16, 0, 8);
    assert_bytes(bytes, 24, 0x66, 16);
    assert_bytes(bytes, 40, 0x11, 8);
    assert_bytes(bytes, 48, 0x22, 8);
    assert_bytes(bytes, 56, 0x33, 8);
    assert_bytes(bytes, 64, 0x44, 4);
    assert_bytes(bytes, 68, 0, 4);
    assert_int_equal(bytes[72], 0xfb);
    assert_bytes(bytes, 73, 0xff, 7);
    assert_bytes(bytes, 80, 0x77, 32);
    assert_bytes(bytes, 112, 0, 8);
    struct repl_error err;
    assert_true(repl_ok(repl_segment_header_decode(bytes, sizeof bytes, &back, &err)));
    uint8_t again[REPL_SEGMENT_HEADER_SIZE]; /* structs have padding: bytes are compared */
    repl_segment_header_encode(&back, again);
    assert_memory_equal(bytes, again, sizeof bytes);
}

static void every_header_flip_is_refused(void **state)
{
    (void)state;
    struct repl_segment_header header = sample_header(), back;
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    struct repl_error err;
    repl_segment_header_encode(&header, bytes);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        err.text[0] = '\0';
        repl_result result = repl_segment_header_decode(bytes, sizeof bytes, &back, &err);
        bool version = bit / 8 == 8 || bit / 8 == 9;
        assert_int_equal(result.code, version ? REPL_E_VERSION : REPL_E_CORRUPT);
        assert_true(strlen(err.text) > 0);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t size = 0; size < sizeof bytes; size++)
        assert_int_equal(repl_segment_header_decode(bytes, size, &back, &err).code, REPL_E_CORRUPT);
}

/* Another version's header need not have our checksum: its number is believed without one. */
static void newer_versions_are_named(void **state)
{
    (void)state;
    struct repl_segment_header header = sample_header(), back;
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    struct repl_error err;
    header.version = 513;
    repl_segment_header_encode(&header, bytes);
    memset(bytes + 120, 0, 8);
    assert_int_equal(repl_segment_header_decode(bytes, sizeof bytes, &back, &err).code,
                     REPL_E_VERSION);
    assert_non_null(strstr(err.text, "version 513"));

    header = sample_header();
    header.features = 0x4000000000000001;
    repl_segment_header_encode(&header, bytes);
    assert_int_equal(repl_segment_header_decode(bytes, sizeof bytes, &back, &err).code,
                     REPL_E_VERSION);
    assert_non_null(strstr(err.text, "0x4000000000000001"));
    assert_non_null(strstr(err.text, "newer"));
}

static struct repl_segment_footer sample_footer(void)
{
    struct repl_segment_footer footer = {.frame_count = 1,
                                         .block_count = 2,
                                         .chunk_count = 3,
                                         .point_count = 4,
                                         .index_offset = 0x12345,
                                         .index_xxh3 = 0x5555555555555555,
                                         .record_count = 0x6666666666666666,
                                         .raw_size = 0x77777777};
    memset(&footer.digest, 0x88, sizeof footer.digest);
    footer.file_size =
        footer.index_offset + repl_segment_index_size(&footer) + REPL_SEGMENT_FOOTER_SIZE;
    return footer;
}

static repl_result footer_round_trip(const struct repl_segment_footer *footer,
                                     struct repl_segment_footer *back, struct repl_error *err)
{
    uint8_t bytes[REPL_SEGMENT_FOOTER_SIZE];
    repl_segment_footer_encode(footer, bytes);
    repl_segment_footer_seal(&footer->digest, bytes);
    return repl_segment_footer_decode(bytes, sizeof bytes, back, err);
}

static void footer_bytes_lie_where_they_should(void **state)
{
    (void)state;
    struct repl_segment_footer footer = sample_footer(), back;
    uint8_t bytes[REPL_SEGMENT_FOOTER_SIZE];
    struct repl_error err;
    assert_int_equal(repl_segment_index_size(&footer), 32 + 2 * 48 + 3 * 40 + 4 * 64);
    repl_segment_footer_encode(&footer, bytes);
    repl_segment_footer_seal(&footer.digest, bytes);
    assert_memory_equal(bytes, "REPLFOOT\x45\x23\x01\0\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0",
                        32);
    assert_bytes(bytes, 32, 0x55, 8);
    assert_bytes(bytes, 40, 0x66, 8);
    assert_bytes(bytes, 48, 0x77, 4);
    assert_bytes(bytes, 52, 0, 4);
    assert_memory_equal(bytes + 56, "\xbd\x25\x01\0\0\0\0\0", 8);
    assert_bytes(bytes, 64, 0, 16);
    assert_bytes(bytes, 80, 0x88, 32);
    assert_bytes(bytes, 112, 0, 8);
    assert_true(repl_ok(repl_segment_footer_decode(bytes, sizeof bytes, &back, &err)));
    assert_memory_equal(&footer, &back, sizeof footer);
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(repl_segment_footer_decode(bytes, sizeof bytes, &back, &err).code,
                         REPL_E_CORRUPT);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(repl_segment_footer_decode(bytes, sizeof bytes - 1, &back, &err).code,
                     REPL_E_CORRUPT);
}

static void footer_has_bounds(void **state)
{
    (void)state;
    const struct repl_segment_footer good = sample_footer();
    struct repl_segment_footer bad[11], back;
    struct repl_error err;
    for (size_t i = 0; i < 11; i++)
        bad[i] = good;
    bad[0].frame_count = REPL_FRAMES_MAX + 1;
    bad[1].block_count = REPL_BLOCKS_MAX + 1;
    bad[2].chunk_count = REPL_CHUNKS_MAX + 1;
    bad[3].point_count = REPL_POINTS_MAX + 1;
    bad[4].frame_count = REPL_FRAMES_MAX; /* each is in its bounds, all together are not */
    bad[4].chunk_count = REPL_CHUNKS_MAX;
    bad[5].file_size = REPL_SEGMENT_HARD_LIMIT + 1;
    bad[6].index_offset = 127;
    bad[7].index_offset = bad[7].file_size + 1;
    bad[8].index_offset--;
    bad[9].index_offset = UINT64_MAX;
    bad[10].raw_size = REPL_SEGMENT_RAW_MAX + 1;
    for (size_t i = 0; i < 11; i++) {
        if (i < 6)
            bad[i].index_offset =
                bad[i].file_size - repl_segment_index_size(&bad[i]) - REPL_SEGMENT_FOOTER_SIZE;
        assert_int_equal(footer_round_trip(&bad[i], &back, &err).code, REPL_E_CORRUPT);
    }
    struct repl_segment_footer most = {.frame_count = REPL_FRAMES_MAX,
                                       .point_count = REPL_POINTS_MAX,
                                       .raw_size = REPL_SEGMENT_RAW_MAX,
                                       .file_size = REPL_SEGMENT_HARD_LIMIT};
    most.index_offset = most.file_size - repl_segment_index_size(&most) - REPL_SEGMENT_FOOTER_SIZE;
    assert_true(repl_ok(footer_round_trip(&most, &back, &err)));
}

static bool frame_decodes(struct repl_frame_entry entry)
{
    uint8_t bytes[REPL_FRAME_ENTRY_SIZE], again[REPL_FRAME_ENTRY_SIZE];
    struct repl_frame_entry back;
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    struct repl_reader r = repl_reader_of(bytes, sizeof bytes);
    repl_frame_entry_encode(&w, &entry);
    assert_true(!w.failed && w.position == sizeof bytes);
    repl_frame_entry_decode(&r, &back);
    w = repl_writer_of(again, sizeof again);
    repl_frame_entry_encode(&w, &back);
    if (!r.failed)
        assert_memory_equal(bytes, again, sizeof bytes);
    return !r.failed;
}

static void frame_entries_have_bounds(void **state)
{
    (void)state;
    const uint32_t most = REPL_FRAME_RAW_MAX;
    assert_true(frame_decodes((struct repl_frame_entry){UINT64_MAX, 1, 1, UINT64_MAX, 0, false}));
    assert_true(frame_decodes((struct repl_frame_entry){0, most, most, 0, 0, false}));
    assert_true(frame_decodes((struct repl_frame_entry){0, most - 1, most, 0, 1, false}));
    assert_false(frame_decodes((struct repl_frame_entry){0, 0, 0, 0, 0, false}));
    assert_false(frame_decodes((struct repl_frame_entry){0, 0, 1, 0, 1, false}));
    assert_false(frame_decodes((struct repl_frame_entry){0, most + 1, most + 1, 0, 0, false}));
    assert_false(frame_decodes((struct repl_frame_entry){0, 5, most + 1, 0, 1, false}));
    assert_false(frame_decodes((struct repl_frame_entry){0, 5, 6, 0, 0, false}));
    assert_false(frame_decodes((struct repl_frame_entry){0, 6, 6, 0, 1, false}));
    assert_false(frame_decodes((struct repl_frame_entry){0, 5, 6, 0, 2, false}));
}

static void entries_come_back(void **state)
{
    (void)state;
    uint8_t bytes[REPL_BLOCK_ENTRY_SIZE + REPL_CHUNK_ENTRY_SIZE];
    struct repl_block_entry block = {.frame = {1, 2, 3, 4, REPL_CODEC_ZSTD, true},
                                     .first_object = 5,
                                     .first_offset = 6},
                            block_back;
    struct repl_chunk_entry chunk = {.frame = 7, .frame_offset = 8}, chunk_back;
    memset(&chunk.name, 9, sizeof chunk.name);
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_block_entry_encode(&w, &block);
    repl_chunk_entry_encode(&w, &chunk);
    assert_true(!w.failed && w.position == sizeof bytes);
    assert_memory_equal(bytes,
                        "\1\0\0\0\0\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\0\0\0\0\1\1\0\0\0\0\0\0"
                        "\5\0\0\0\0\0\0\0\6\0\0\0\0\0\0\0",
                        48);
    assert_bytes(bytes, 48, 9, 32);
    assert_memory_equal(bytes + 80, "\7\0\0\0\x08\0\0\0", 8);
    struct repl_reader r = repl_reader_of(bytes, sizeof bytes);
    repl_block_entry_decode(&r, &block_back);
    repl_chunk_entry_decode(&r, &chunk_back);
    assert_false(r.failed);
    uint8_t again[sizeof bytes];
    w = repl_writer_of(again, sizeof again);
    repl_block_entry_encode(&w, &block_back);
    repl_chunk_entry_encode(&w, &chunk_back);
    assert_memory_equal(bytes, again, sizeof bytes);
    bytes[25] = 2;
    r = repl_reader_of(bytes, sizeof bytes);
    repl_block_entry_decode(&r, &block_back);
    assert_true(r.failed);
    bytes[25] = 1;
    bytes[26] = 1;
    r = repl_reader_of(bytes, sizeof bytes);
    repl_block_entry_decode(&r, &block_back);
    assert_true(r.failed);
}

static struct repl_point sample_point(void)
{
    return (struct repl_point){.seq = 0x1111111111111111,
                               .begin_ns = -2,
                               .end_ns = 0x3333333333333333,
                               .consistency = REPL_CONSISTENCY_FILESYSTEM,
                               .cut = REPL_CUT_FREEZE,
                               .flags = REPL_POINT_MERGED | REPL_POINT_RESYNC,
                               .attempts = 0x44444444,
                               .changed_bytes = 0x5555555555555555};
}

static bool point_decodes(struct repl_point point)
{
    uint8_t bytes[REPL_POINT_SIZE];
    struct repl_point back;
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    struct repl_reader r = repl_reader_of(bytes, sizeof bytes);
    repl_point_encode(&w, &point);
    assert_true(!w.failed && w.position == sizeof bytes);
    repl_point_decode(&r, &back);
    if (!r.failed) {
        uint8_t again[REPL_POINT_SIZE];
        w = repl_writer_of(again, sizeof again);
        repl_point_encode(&w, &back);
        assert_memory_equal(bytes, again, sizeof bytes);
        for (size_t i = 40; i < sizeof bytes; i++) { /* reserved */
            bytes[i] = 1;
            r = repl_reader_of(bytes, sizeof bytes);
            repl_point_decode(&r, &back);
            assert_true(r.failed);
            bytes[i] = 0;
        }
        r.failed = false;
    }
    return !r.failed;
}

static void points_have_bounds(void **state)
{
    (void)state;
    uint8_t bytes[REPL_POINT_SIZE];
    struct repl_point point = sample_point();
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_point_encode(&w, &point);
    assert_bytes(bytes, 0, 0x11, 8);
    assert_int_equal(bytes[8], 0xfe);
    assert_bytes(bytes, 16, 0x33, 8);
    assert_memory_equal(bytes + 24, "\2\3\3\0DDDDUUUUUUUU", 16);

    assert_true(point_decodes(sample_point()));
    for (int value = 0; value < 10; value++) {
        point = sample_point();
        point.consistency = value;
        assert_true(point_decodes(point) == (value >= 1 && value <= 3));
        point = sample_point();
        point.cut = value;
        assert_true(point_decodes(point) ==
                    ((value >= 1 && value <= 4) || value == REPL_CUT_SNAPSHOT));
        point.consistency = REPL_CONSISTENCY_PER_FILE;
        assert_true(point_decodes(point) == (value == REPL_CUT_FILES));
        point = sample_point();
        point.flags = (uint16_t)value;
        assert_true(point_decodes(point) == (value <= 7));
    }
    point = sample_point();
    point.end_ns = point.begin_ns;
    assert_true(point_decodes(point));
    point.end_ns--;
    assert_false(point_decodes(point));
    point = sample_point();
    point.seq = 0;
    assert_false(point_decodes(point));
    point = sample_point();
    point.attempts = 0;
    assert_false(point_decodes(point));
}

/* --- manifest records ------------------------------------------------------------------------ */

static bool record_decodes(struct repl_record record)
{
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_record back;
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    if (record.object == 0)
        record.object = REPL_OBJECT_DEVICE;
    repl_record_encode(&w, &record);
    assert_true(!w.failed && w.position % 8 == 0);
    struct repl_reader r = repl_reader_of(bytes, w.position);
    repl_record_decode(&r, &back);
    if (r.failed)
        return false;
    assert_int_equal(repl_reader_left(&r), 0);
    uint8_t again[REPL_RECORD_SIZE_MAX];
    struct repl_writer rewrite = repl_writer_of(again, sizeof again);
    repl_record_encode(&rewrite, &back);
    assert_int_equal(w.position, rewrite.position);
    assert_memory_equal(bytes, again, w.position);
    for (size_t size = 0; size < w.position; size++) {
        r = repl_reader_of(bytes, size);
        repl_record_decode(&r, &back);
        assert_true(r.failed);
    }
    return true;
}

static void records_lie_where_they_should(void **state)
{
    (void)state;
    uint8_t bytes[REPL_RECORD_SIZE_MAX];
    struct repl_record chunk = {.type = REPL_RECORD_CHUNK,
                                .object = 1,
                                .offset = 0x3000,
                                .length = 0x2000,
                                .chunk_offset = 0x1000};
    memset(&chunk.chunk, 0x99, sizeof chunk.chunk);
    struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
    repl_record_encode(&w, &chunk);
    assert_int_equal(w.position, 64);
    assert_memory_equal(
        bytes, "\3\0\x40\0\0\0\0\0\1\0\0\0\0\0\0\0\0\x30\0\0\0\0\0\0\0\x20\0\0\0\x10\0\0", 32);
    assert_bytes(bytes, 32, 0x99, 32);

    struct repl_record data = {.type = REPL_RECORD_DATA,
                               .object = 1,
                               .offset = 0x3000,
                               .length = 0x2000,
                               .frame = 0x55555,
                               .frame_offset = 0x1234};
    w = repl_writer_of(bytes, sizeof bytes);
    repl_record_encode(&w, &data);
    assert_int_equal(w.position, 40);
    assert_memory_equal(bytes,
                        "\2\0\x28\0\x55\x55\5\0\1\0\0\0\0\0\0\0\0\x30\0\0\0\0\0\0"
                        "\0\x20\0\0\x34\x12\0\0\0\0\0\0\0\0\0\0",
                        40);

    struct repl_record zero = {
        .type = REPL_RECORD_ZERO, .object = 1, .offset = 0x3000, .length = UINT64_C(1) << 49};
    w = repl_writer_of(bytes, sizeof bytes);
    repl_record_encode(&w, &zero);
    assert_int_equal(w.position, 32);
    assert_memory_equal(bytes,
                        "\4\0\x20\0\0\0\0\0\1\0\0\0\0\0\0\0\0\x30\0\0\0\0\0\0\0\0\0\0\0\0\2\0", 32);

    struct repl_record object = {.type = REPL_RECORD_OBJECT, .object = 1, .size = 0x1234567};
    w = repl_writer_of(bytes, sizeof bytes);
    repl_record_encode(&w, &object);
    assert_int_equal(w.position, 32);
    assert_memory_equal(
        bytes, "\1\0\x20\0\0\0\0\0\1\0\0\0\0\0\0\0\x67\x45\x23\1\0\0\0\0\0\0\0\0\0\0\0\0", 32);
}

#define RECORD(kind, ...) ((struct repl_record){.type = REPL_RECORD_##kind, __VA_ARGS__})

static void records_have_bounds(void **state)
{
    (void)state;
    const uint64_t most = REPL_VOLUME_SIZE_MAX;
    assert_true(record_decodes(RECORD(OBJECT, .size = 1)));
    assert_true(record_decodes(RECORD(OBJECT, .size = most)));
    assert_false(record_decodes(RECORD(OBJECT, .size = 0)));
    assert_false(record_decodes(RECORD(OBJECT, .size = most + 1)));
    assert_false(record_decodes(RECORD(OBJECT, .size = 1, .object = 2)));
    assert_false(record_decodes(RECORD(OBJECT, .size = 1, .object = UINT64_MAX)));

    assert_true(record_decodes(RECORD(ZERO, .length = most)));
    assert_true(record_decodes(RECORD(ZERO, .offset = most - 4096, .length = 4096)));
    assert_true(record_decodes(RECORD(ZERO, .offset = 4096, .length = 1)));
    assert_false(record_decodes(RECORD(ZERO, .length = 0)));
    assert_false(record_decodes(RECORD(ZERO, .length = most + 1)));
    assert_false(record_decodes(RECORD(ZERO, .offset = 4096, .length = most)));
    assert_false(record_decodes(RECORD(ZERO, .offset = UINT64_MAX - 4095, .length = 4096)));
    assert_false(record_decodes(RECORD(ZERO, .offset = 4096, .length = UINT64_MAX - 4095)));
    assert_false(record_decodes(RECORD(ZERO, .offset = 2048, .length = 4096)));

    const uint32_t frame = REPL_FRAME_RAW_MAX;
    assert_true(record_decodes(RECORD(DATA, .length = frame)));
    assert_true(record_decodes(RECORD(DATA, .length = 1, .frame_offset = frame - 1)));
    assert_true(record_decodes(RECORD(DATA, .length = 4096, .frame = REPL_FRAMES_MAX - 1)));
    assert_false(record_decodes(RECORD(DATA, .length = frame + 4096)));
    assert_false(record_decodes(RECORD(DATA, .length = 4096, .frame_offset = frame - 4095)));
    assert_false(record_decodes(RECORD(DATA, .length = 4096, .frame_offset = UINT32_MAX)));
    assert_false(record_decodes(RECORD(DATA, .length = 4096, .frame = REPL_FRAMES_MAX)));
    assert_false(record_decodes(RECORD(DATA, .length = 0)));

    assert_true(record_decodes(RECORD(CHUNK, .length = REPL_CHUNK_SIZE)));
    assert_true(record_decodes(RECORD(CHUNK, .length = 4096, .chunk_offset = 15 * 4096)));
    assert_false(record_decodes(RECORD(CHUNK, .length = REPL_CHUNK_SIZE + 1)));
    assert_false(record_decodes(RECORD(CHUNK, .length = REPL_CHUNK_SIZE, .chunk_offset = 1)));
    assert_false(record_decodes(RECORD(CHUNK, .length = 0)));
}

/* Each byte that has no meaning in a type must be zero. */
static void unused_bytes_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum repl_record_type type;
        size_t from, to;
    } unused[] = {
        {REPL_RECORD_OBJECT, 1, 2}, {REPL_RECORD_OBJECT, 4, 8}, {REPL_RECORD_OBJECT, 24, 32},
        {REPL_RECORD_DATA, 1, 2},   {REPL_RECORD_DATA, 32, 40}, {REPL_RECORD_CHUNK, 1, 2},
        {REPL_RECORD_CHUNK, 4, 8},  {REPL_RECORD_ZERO, 1, 2},   {REPL_RECORD_ZERO, 4, 8},
    };
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++) {
        struct repl_record record = {
            .type = unused[i].type, .object = 1, .length = 4096, .size = 4096};
        uint8_t bytes[REPL_RECORD_SIZE_MAX];
        struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
        repl_record_encode(&w, &record);
        for (size_t at = unused[i].from; at < unused[i].to; at++) {
            bytes[at] = 1;
            struct repl_reader r = repl_reader_of(bytes, w.position);
            repl_record_decode(&r, &record);
            assert_true(r.failed);
            bytes[at] = 0;
        }
    }
}

static void unknown_types_are_refused(void **state)
{
    (void)state;
    for (int type = 0; type < 256; type++) {
        uint8_t bytes[256] = {0};
        for (unsigned size = 0; size <= 128; size += 8) {
            struct repl_record record;
            struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
            repl_write_u8(&w, (uint8_t)type);
            repl_write_u8(&w, 0);
            repl_write_u16(&w, (uint16_t)size);
            repl_write_u32(&w, 0);
            repl_write_u64(&w, 1);
            repl_write_u64(&w, 4096);
            repl_write_u64(&w, type == REPL_RECORD_OBJECT ? 0 : 4096);
            struct repl_reader r = repl_reader_of(bytes, sizeof bytes);
            repl_record_decode(&r, &record);
            static const unsigned sizes[] = {0, 32, 40, 64, 32};
            assert_true(r.failed == !(type >= 1 && type <= 4 && size == sizes[type]));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_bytes_lie_where_they_should),
        cmocka_unit_test(every_header_flip_is_refused),
        cmocka_unit_test(newer_versions_are_named),
        cmocka_unit_test(footer_bytes_lie_where_they_should),
        cmocka_unit_test(footer_has_bounds),
        cmocka_unit_test(frame_entries_have_bounds),
        cmocka_unit_test(entries_come_back),
        cmocka_unit_test(points_have_bounds),
        cmocka_unit_test(records_lie_where_they_should),
        cmocka_unit_test(records_have_bounds),
        cmocka_unit_test(unused_bytes_are_refused),
        cmocka_unit_test(unknown_types_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
