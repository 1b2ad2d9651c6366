/*
 * What a message may not say: fields past their bounds, lists past their limits or out of order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/format/wire_model.h"

static void fields_are_held_to_their_bounds(void **state)
{
    struct random random = random_begin("fields_are_held_to_their_bounds", 5);
    (void)state;
    union message m = {0}, good;
    row_of(REPL_WIRE_HELLO)->make(&random, &good);
    m = good;
    for (unsigned kind = 0; kind < 256; kind++) {
        m.hello.kind = kind;
        assert_int_equal(there_and_back(REPL_WIRE_HELLO, &m),
                         kind == REPL_VOLUME_BLOCK || kind == REPL_VOLUME_TREE ? REPL_OK
                                                                               : REPL_E_CORRUPT);
    }
    m = good;
    m.hello.volume_size = REPL_VOLUME_SIZE_MAX + 1;
    assert_int_equal(there_and_back(REPL_WIRE_HELLO, &m), REPL_E_CORRUPT);

    memset(&good, 0, sizeof good);
    good.welcome.version = 1;
    assert_int_equal(there_and_back(REPL_WIRE_WELCOME, &good), REPL_OK);
    m = good;
    m.welcome.head.part = 1; /* of nothing */
    assert_int_equal(there_and_back(REPL_WIRE_WELCOME, &m), REPL_E_CORRUPT);
    m = good;
    m.welcome.staged_bytes = 1; /* of nothing */
    assert_int_equal(there_and_back(REPL_WIRE_WELCOME, &m), REPL_E_CORRUPT);
    m.welcome.staged_to_seq = 1;
    assert_int_equal(there_and_back(REPL_WIRE_WELCOME, &m), REPL_OK);
    m.welcome.staged_bytes = REPL_SEGMENT_HARD_LIMIT + 1;
    assert_int_equal(there_and_back(REPL_WIRE_WELCOME, &m), REPL_E_CORRUPT);

    row_of(REPL_WIRE_ACK)->make(&random, &m);
    m.ack.head.from_seq = m.ack.head.to_seq;
    assert_int_equal(there_and_back(REPL_WIRE_ACK, &m), REPL_E_CORRUPT);
    memset(&m, 0, sizeof m);
    assert_int_equal(there_and_back(REPL_WIRE_ACK, &m),
                     REPL_OK); /* to a report, before any segment */
    m.ack.head.has_point = true;
    assert_int_equal(there_and_back(REPL_WIRE_ACK, &m), REPL_E_CORRUPT);

    static const int codes[] = {0, REPL_REFUSAL_INTERNAL + 1, 255};
    for (size_t i = 0; i < 3; i++) {
        row_of(REPL_WIRE_REFUSAL)->make(&random, &m);
        m.refusal.code = (enum repl_refusal_code)codes[i];
        assert_int_equal(there_and_back(REPL_WIRE_REFUSAL, &m), REPL_E_CORRUPT);
    }
    row_of(REPL_WIRE_REPORT)->make(&random, &m);
    m.report.state = REPL_STATE_REPORTED_COUNT;
    assert_int_equal(there_and_back(REPL_WIRE_REPORT, &m), REPL_E_CORRUPT);
}

/* Three pages and a byte: the last page that may be spoken of is the fourth. */
static void digests_lie_within_the_volume(void **state)
{
    const struct row *digests = row_of(REPL_WIRE_DIGESTS);
    struct random random = random_begin("digests_lie_within_the_volume", 9);
    struct repl_page_digest pages[2] = {0};
    (void)state;
    union message m = {.digests = {.at = random_entry(&random, 1), .pages = pages}}, back;
    m.digests.at.volume_size = 3 * REPL_PAGE_SIZE + 1;
    for (uint32_t count = 0; count <= 2; count++) {
        for (uint64_t first = 0; first <= 5; first++) {
            struct repl_buffer buffer = {0};
            struct repl_error err;
            m.digests.count = count;
            m.digests.first_page = first;
            assert_true(repl_ok(digests->encode(&m, &buffer, &err)));
            repl_result result = digests->decode(buffer.data, buffer.size, &back, &err);
            assert_int_equal(result.code,
                             count == 0 || first + count <= 4 ? REPL_OK : REPL_E_CORRUPT);
            if (repl_ok(result))
                digests->free(&back);
            repl_buffer_fini(&buffer);
        }
    }
    m.digests.first_page = UINT64_MAX;
    assert_int_equal(there_and_back(REPL_WIRE_DIGESTS, &m), REPL_E_CORRUPT);
    /* what no replica holds has no digest */
    m.digests = (struct repl_digests){.count = 1, .pages = pages};
    assert_int_equal(there_and_back(REPL_WIRE_DIGESTS, &m), REPL_E_CORRUPT);
}

static void list_limits(enum repl_wire_type type, uint32_t limit, size_t head_size,
                        size_t entry_size)
{
    const struct row *row = row_of(type);
    struct repl_error err;
    struct repl_buffer buffer = {0};
    union message m = {0}, back;
    m.missing.count = limit; /* the first field of every list */
    void *entries = calloc(limit + 1, 256);
    if (type == REPL_WIRE_MISSING || type == REPL_WIRE_WANTED) {
        m.missing.names = entries;
    } else if (type == REPL_WIRE_POOL_NAMES) {
        m.pool.prefixes = entries;
        for (uint32_t i = 0; i <= limit; i++)
            m.pool.prefixes[i] = i;
    } else if (type == REPL_WIRE_POINTS || type == REPL_WIRE_TIMELINE) {
        m.points.entries = entries;
        for (uint32_t i = 0; i <= limit; i++)
            m.points.entries[i].point =
                (struct repl_point){.seq = i + 1, .consistency = 1, .cut = 1, .attempts = 1};
    } else if (type == REPL_WIRE_DIGESTS) {
        m.digests.pages = entries;
        m.digests.at = (struct repl_points_entry){
            .point = {.seq = 1, .consistency = 1, .cut = 1, .attempts = 1},
            .volume_size = REPL_VOLUME_SIZE_MAX};
    } else {
        m.segments.entries = entries;
        for (uint32_t i = 0; i <= limit; i++)
            m.segments.entries[i].head.to_seq = i + 1;
    }
    assert_true(repl_ok(row->encode(&m, &buffer, &err)));
    assert_int_equal(buffer.size, 12 + head_size + limit * entry_size);
    assert_true(repl_ok(row->decode(buffer.data, buffer.size, &back, &err)));
    assert_true(row->same(&m, &back));
    row->free(&back);

    /* one more is neither written nor read, and a count that is only claimed costs nothing */
    size_t size = buffer.size;
    m.missing.count = limit + 1;
    assert_int_equal(row->encode(&m, &buffer, &err).code, REPL_E_INTERNAL);
    assert_int_equal(buffer.size, size);
    m.missing.count = UINT32_MAX;
    assert_int_equal(row->encode(&m, &buffer, &err).code, REPL_E_INTERNAL);
    for (uint64_t count = limit + 1; count <= UINT32_MAX; count = count * 2 + 1) {
        struct repl_writer w = repl_writer_of(buffer.data + 12, 4);
        repl_write_u32(&w, (uint32_t)count);
        assert_int_equal(decode_copy(row, buffer.data, buffer.size), REPL_E_CORRUPT);
    }
    uint8_t *more = repl_buffer_extend(&buffer, entry_size);
    memcpy(more, more - entry_size, entry_size);
    set_size(buffer.data, buffer.size);
    struct repl_writer w = repl_writer_of(buffer.data + 12, 4);
    repl_write_u32(&w, limit + 1);
    assert_int_equal(decode_copy(row, buffer.data, buffer.size), REPL_E_CORRUPT);
    free(entries);
    repl_buffer_fini(&buffer);
}

static void lists_are_held_to_their_limits(void **state)
{
    (void)state;
    list_limits(REPL_WIRE_MISSING, REPL_MISSING_CHUNKS_MAX, 4, 32);
    list_limits(REPL_WIRE_POINTS, REPL_LIST_ENTRIES_MAX, 8, 80);
    list_limits(REPL_WIRE_SEGMENTS, REPL_LIST_ENTRIES_MAX, 8, 64);
    list_limits(REPL_WIRE_DIGESTS, REPL_DIGESTS_MAX, 96, 16);
    list_limits(REPL_WIRE_WANTED, REPL_WANTED_CHUNKS_MAX, 4, 32);
    list_limits(REPL_WIRE_POOL_NAMES, REPL_POOL_NAMES_MAX, 24, 8);
    list_limits(REPL_WIRE_TIMELINE, REPL_LIST_ENTRIES_MAX, 8, 123);
}

static void names_are_held_to_their_bounds(void **state)
{
    (void)state;
    union message m = {.mark = {.seq = 1, .name = "a"}};
    assert_int_equal(there_and_back(REPL_WIRE_MARK, &m), REPL_OK);
    m.mark.seq = 0;
    assert_int_equal(there_and_back(REPL_WIRE_MARK, &m), REPL_E_CORRUPT);
    m.mark = (struct repl_mark){.seq = 1};
    assert_int_equal(there_and_back(REPL_WIRE_MARK, &m), REPL_E_CORRUPT);

    struct repl_log_mark marks[] = {{REPL_MARK_NAME, 4, "a"}, {REPL_MARK_PROVEN, 4, ""}};
    m = (union message){.marks = {.count = 2, .marks = marks}};
    assert_int_equal(there_and_back(REPL_WIRE_MARKS, &m), REPL_OK);
    marks[1].kind = REPL_MARK_HELD;
    assert_int_equal(there_and_back(REPL_WIRE_MARKS, &m), REPL_E_CORRUPT);
    marks[1] = (struct repl_log_mark){REPL_MARK_PROVEN, 4, "b"};
    assert_int_equal(there_and_back(REPL_WIRE_MARKS, &m), REPL_E_CORRUPT);
    marks[1] = (struct repl_log_mark){REPL_MARK_REMOVED, 4, "b"};
    assert_int_equal(there_and_back(REPL_WIRE_MARKS, &m), REPL_E_CORRUPT);
    marks[1] = (struct repl_log_mark){REPL_MARK_HELD, 0, "b"};
    assert_int_equal(there_and_back(REPL_WIRE_MARKS, &m), REPL_E_CORRUPT);
    m.marks.count = REPL_LIST_ENTRIES_MAX + 1;
    struct repl_buffer buffer = {0};
    struct repl_error err;
    assert_int_equal(row_of(REPL_WIRE_MARKS)->encode(&m, &buffer, &err).code, REPL_E_INTERNAL);
}

static void pages_are_in_order_and_get_on(void **state)
{
    (void)state;
    struct repl_points_entry points[2] = {
        {.point = {.seq = 5, .end_ns = 9, .consistency = 1, .cut = 1, .attempts = 1},
         .unchanged_until_ns = 9},
        {.point = {.seq = 6, .end_ns = 9, .consistency = 1, .cut = 1, .attempts = 1},
         .unchanged_until_ns = 9},
    };
    union message m = {.points = {.count = 2, .entries = points}};
    assert_int_equal(there_and_back(REPL_WIRE_POINTS, &m), REPL_OK);
    points[1].point.seq = 5;
    assert_int_equal(there_and_back(REPL_WIRE_POINTS, &m), REPL_E_CORRUPT);
    points[1].point.seq = 6;
    points[1].unchanged_until_ns = 8;
    assert_int_equal(there_and_back(REPL_WIRE_POINTS, &m), REPL_E_CORRUPT);
    points[1].unchanged_until_ns = 9;
    points[0].volume_size = REPL_VOLUME_SIZE_MAX + 1;
    assert_int_equal(there_and_back(REPL_WIRE_POINTS, &m), REPL_E_CORRUPT);
    m.points = (struct repl_points_page){.more = true};
    assert_int_equal(there_and_back(REPL_WIRE_POINTS, &m), REPL_E_CORRUPT);

    struct repl_segments_entry segments[2] = {{.head = {.from_seq = 4, .to_seq = 5, .part = 1}},
                                              {.head = {.from_seq = 4, .to_seq = 5, .part = 2}}};
    m.segments = (struct repl_segments_page){.count = 2, .entries = segments};
    assert_int_equal(there_and_back(REPL_WIRE_SEGMENTS, &m), REPL_OK);
    segments[1].head.part = 1;
    assert_int_equal(there_and_back(REPL_WIRE_SEGMENTS, &m), REPL_E_CORRUPT);
    segments[1].head = (struct repl_head){.from_seq = 3, .to_seq = 4, .part = 9};
    assert_int_equal(there_and_back(REPL_WIRE_SEGMENTS, &m), REPL_E_CORRUPT);
    segments[1].head = (struct repl_head){.from_seq = 6, .to_seq = 6};
    assert_int_equal(there_and_back(REPL_WIRE_SEGMENTS, &m), REPL_E_CORRUPT);
    segments[1].head.to_seq = 7;
    segments[1].file_size = REPL_SEGMENT_HARD_LIMIT + 1;
    assert_int_equal(there_and_back(REPL_WIRE_SEGMENTS, &m), REPL_E_CORRUPT);
    m.segments = (struct repl_segments_page){.more = true};
    assert_int_equal(there_and_back(REPL_WIRE_SEGMENTS, &m), REPL_E_CORRUPT);
}

static void chunks_are_in_order_and_get_on(void **state)
{
    (void)state;
    uint64_t prefixes[] = {7, 8};
    union message m;
    m.pool = (struct repl_pool_names){.count = 2, .prefixes = prefixes};
    assert_int_equal(there_and_back(REPL_WIRE_POOL_NAMES, &m), REPL_OK);
    prefixes[1] = 7;
    assert_int_equal(there_and_back(REPL_WIRE_POOL_NAMES, &m), REPL_E_CORRUPT);
    m.pool = (struct repl_pool_names){.more = true};
    assert_int_equal(there_and_back(REPL_WIRE_POOL_NAMES, &m), REPL_E_CORRUPT);
    m.missing = (struct repl_missing){0}; /* nothing is wanted */
    assert_int_equal(there_and_back(REPL_WIRE_WANTED, &m), REPL_E_CORRUPT);
}

static void runs_lie_apart(void **state)
{
    (void)state;
    union message m;
    const uint64_t end = REPL_VOLUME_SIZE_MAX / REPL_PAGE_SIZE;
    struct repl_page_run runs[] = {{.first = 0, .count = 2}, {.first = 3, .count = end - 3}};
    m.resend = (struct repl_resend){.count = 2, .runs = runs};
    assert_int_equal(there_and_back(REPL_WIRE_RESEND, &m), REPL_OK);
    m.resend.full = true; /* then they are part of it */
    assert_int_equal(there_and_back(REPL_WIRE_RESEND, &m), REPL_E_CORRUPT);
    m.resend = (struct repl_resend){.full = true};
    assert_int_equal(there_and_back(REPL_WIRE_RESEND, &m), REPL_OK);
    m.resend = (struct repl_resend){.count = 2, .runs = runs};
    runs[1].count++; /* past the end of any volume */
    assert_int_equal(there_and_back(REPL_WIRE_RESEND, &m), REPL_E_CORRUPT);
    runs[1] = (struct repl_page_run){.first = 2, .count = 1}; /* is one run with the first */
    assert_int_equal(there_and_back(REPL_WIRE_RESEND, &m), REPL_E_CORRUPT);
    runs[1] = (struct repl_page_run){.first = 9};
    assert_int_equal(there_and_back(REPL_WIRE_RESEND, &m), REPL_E_CORRUPT);

    struct repl_point_run seqs[] = {{.first_seq = 7, .last_seq = 9}};
    m.damaged = (struct repl_damaged){.count = 1, .runs = seqs};
    assert_int_equal(there_and_back(REPL_WIRE_DAMAGED, &m), REPL_OK);
    assert_true(repl_damaged_has(&m.damaged, 7) && repl_damaged_has(&m.damaged, 9));
    assert_false(repl_damaged_has(&m.damaged, 6) || repl_damaged_has(&m.damaged, 10));
    seqs[0].last_seq = 6;
    assert_int_equal(there_and_back(REPL_WIRE_DAMAGED, &m), REPL_E_CORRUPT);
    seqs[0] = (struct repl_point_run){.last_seq = 6};
    assert_int_equal(there_and_back(REPL_WIRE_DAMAGED, &m), REPL_E_CORRUPT);
}

static void slices_lie_apart_in_their_frame(void **state)
{
    (void)state;
    union message m;
    struct repl_slice slices[REPL_SLICES_MAX + 1] = {{0, 10}, {11, 4085}};
    struct repl_frame_entry frame = {
        .offset = UINT64_MAX, .stored_size = 7, .raw_size = 4096, .codec = REPL_CODEC_ZSTD};
    m.slices = (struct repl_slices){.frame = frame, .count = 2, .slices = slices};
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_OK);
    slices[1].length++; /* past its end */
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_E_CORRUPT);
    slices[1] = (struct repl_slice){10, 5}; /* is one with the first */
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_E_CORRUPT);
    slices[1] = (struct repl_slice){11, 0};
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_E_CORRUPT);
    slices[1] = (struct repl_slice){UINT32_MAX, 2};
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_E_CORRUPT);
    m.slices.count = 0;
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_E_CORRUPT);
    m.slices.count = 1;
    m.slices.frame.has_pages = true;
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_E_CORRUPT);
    m.slices.frame = frame;
    m.slices.frame.raw_size = REPL_FRAME_RAW_MAX;
    slices[0].length = REPL_SLICES_BYTES_MAX;
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_OK);
    slices[0].length++; /* too much in all */
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_E_CORRUPT);
    for (uint32_t i = 0; i <= REPL_SLICES_MAX; i++)
        slices[i] = (struct repl_slice){2 * i, 1};
    m.slices.count = REPL_SLICES_MAX;
    assert_int_equal(there_and_back(REPL_WIRE_SLICES, &m), REPL_OK);
    struct repl_buffer buffer = {0};
    m.slices.count++;
    assert_int_equal(repl_slices_encode(&m.slices, &buffer, NULL).code, REPL_E_INTERNAL);

    static uint8_t bytes[REPL_SLICES_BYTES_MAX + 1];
    frame = (struct repl_frame_entry){.stored_size = REPL_SLICES_BYTES_MAX,
                                      .raw_size = REPL_SLICES_BYTES_MAX,
                                      .codec = REPL_CODEC_STORED};
    m.sliced = (struct repl_sliced){.frame = frame, .stored = bytes};
    assert_int_equal(there_and_back(REPL_WIRE_SLICED, &m), REPL_OK);
    m.sliced.frame.raw_size = m.sliced.frame.stored_size = REPL_SLICES_BYTES_MAX + 1;
    assert_int_equal(there_and_back(REPL_WIRE_SLICED, &m), REPL_E_CORRUPT);
    m.sliced.frame = frame;
    m.sliced.frame.offset = 1;
    assert_int_equal(there_and_back(REPL_WIRE_SLICED, &m), REPL_E_CORRUPT);
}

static void tails_are_held_to_their_bounds(void **state)
{
    (void)state;
    union message m;
    static uint8_t bytes[REPL_TAIL_BYTES_MAX + 1];
    struct repl_tail tails[REPL_TAILS_MAX + 1] = {
        {.size = REPL_TAIL_BYTES_MAX, .begin = 128, .header = bytes, .bytes = bytes}};
    m.tails = (struct repl_tails){.count = 1, .tails = tails};
    assert_int_equal(there_and_back(REPL_WIRE_TAILS, &m), REPL_OK);
    tails[0].begin = REPL_SEGMENT_HARD_LIMIT - REPL_TAIL_BYTES_MAX;
    assert_int_equal(there_and_back(REPL_WIRE_TAILS, &m), REPL_OK);
    tails[0].begin++; /* behind the end of any segment */
    assert_int_equal(there_and_back(REPL_WIRE_TAILS, &m), REPL_E_CORRUPT);
    tails[0].begin = 127; /* within its header */
    assert_int_equal(there_and_back(REPL_WIRE_TAILS, &m), REPL_E_CORRUPT);
    tails[0].begin = 128;
    tails[0].size++;
    assert_int_equal(there_and_back(REPL_WIRE_TAILS, &m), REPL_E_CORRUPT);
    tails[0] = (struct repl_tail){.begin = 128};
    assert_int_equal(there_and_back(REPL_WIRE_TAILS, &m), REPL_E_CORRUPT);
    tails[0] = (struct repl_tail){0};
    m.tails.count = REPL_TAILS_MAX;
    assert_int_equal(there_and_back(REPL_WIRE_TAILS, &m), REPL_OK);
    struct repl_buffer buffer = {0};
    m.tails.count++;
    assert_int_equal(repl_tails_encode(&m.tails, &buffer, NULL).code, REPL_E_INTERNAL);

    struct repl_unopened_entry entries[REPL_TAILS_MAX + 1] = {0};
    m.unopened = (struct repl_unopened){.count = REPL_TAILS_MAX, .entries = entries};
    assert_int_equal(there_and_back(REPL_WIRE_UNOPENED, &m), REPL_OK);
    m.unopened.count++;
    assert_int_equal(repl_unopened_encode(&m.unopened, &buffer, NULL).code, REPL_E_INTERNAL);
    m.unopened.count = 0;
    assert_int_equal(there_and_back(REPL_WIRE_UNOPENED, &m), REPL_E_CORRUPT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_held_to_their_bounds),
        cmocka_unit_test(digests_lie_within_the_volume),
        cmocka_unit_test(lists_are_held_to_their_limits),
        cmocka_unit_test(names_are_held_to_their_bounds),
        cmocka_unit_test(pages_are_in_order_and_get_on),
        cmocka_unit_test(chunks_are_in_order_and_get_on),
        cmocka_unit_test(runs_lie_apart),
        cmocka_unit_test(slices_lie_apart_in_their_frame),
        cmocka_unit_test(tails_are_held_to_their_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
