#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "repl/view.h"
#include "unit/random.h"
#include "unit/view_fixture.h"

static void expect_refused(struct chain *chain, enum repl_code code, const char *words)
{
    struct repl_view *view;
    struct repl_error err;
    assert_int_equal(repl_view_open(segment_at, find_chunk, chain, &view, &err).code, code);
    assert_non_null(strstr(err.text, words));
}

static void newest_wins(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    struct repl_segment_builder *b = build(chain, 0, 1, 0, 8 * PAGE - 512);
    data(chain, b, 0, 8 * PAGE - 512, 1);
    finish(chain, b, 1, true);
    b = build(chain, 1, 2, 0, 8 * PAGE - 512);
    data(chain, b, PAGE, 2 * PAGE, 2);
    zero(b, 5 * PAGE, PAGE);
    finish(chain, b, 2, true);
    struct repl_view *view = view_of(chain);
    struct repl_view_reader *reader;
    uint8_t image[8 * PAGE];
    assert_true(repl_view_size(view) == 8 * PAGE - 512 && repl_view_segment_count(view) == 2);
    assert_true(repl_view_extent_count(view) == 5);
    assert_true(repl_ok(repl_view_reader_new(view, 1, &reader, NULL)));
    assert_true(repl_ok(repl_view_read(reader, 0, image, 8 * PAGE - 512, NULL)));
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(image[i * PAGE], i == 1 || i == 2 ? 2 : i == 5 ? 0 : 1);
    assert_true(repl_ok(repl_view_read(reader, 3 * PAGE - 1, image, 2, NULL)));
    assert_true(image[0] == 2 && image[1] == 1);
    assert_true(repl_ok(repl_view_read(reader, 8 * PAGE - 512, image, 0, NULL)));
    bool is_zero;
    assert_true(repl_view_stretch(view, 0, UINT64_MAX, &is_zero) == 5 * PAGE && !is_zero);
    assert_true(repl_view_stretch(view, 5 * PAGE, UINT64_MAX, &is_zero) == PAGE && is_zero);
    assert_true(repl_view_stretch(view, 5 * PAGE, 100, &is_zero) == 100 && is_zero);
    repl_view_reader_free(reader);
    repl_view_free(view);
    chain_free(chain);
}

static void a_volume_that_grew_and_shrank(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    struct repl_segment_builder *b = build(chain, 0, 1, 0, PAGE + 512);
    data(chain, b, 0, PAGE + 512, 1);
    finish(chain, b, 1, true);
    b = build(chain, 1, 2, 0, 4 * PAGE);
    data(chain, b, PAGE, 3 * PAGE, 2);
    finish(chain, b, 2, true);
    b = build(chain, 2, 3, 0, 3 * PAGE - 100);
    zero(b, 0, PAGE);
    finish(chain, b, 3, true);
    struct repl_view *view = view_of(chain);
    struct repl_view_reader *reader;
    uint8_t image[3 * PAGE];
    assert_true(repl_view_size(view) == 3 * PAGE - 100);
    assert_true(repl_ok(repl_view_reader_new(view, 4, &reader, NULL)));
    assert_true(repl_ok(repl_view_read(reader, 0, image, 3 * PAGE - 100, NULL)));
    assert_true(image[0] == 0 && image[PAGE] == 2 && image[3 * PAGE - 101] == 2);
    repl_view_reader_free(reader);
    repl_view_free(view);
    chain_free(chain);
}

static uint8_t value_at(struct repl_view_reader *reader, uint64_t page)
{
    uint8_t value;
    assert_true(repl_ok(repl_view_read(reader, page * PAGE, &value, 1, NULL)));
    return value;
}

/* By bytes: of small frames more fit into a MiB. What is not read again is not seen to be damaged.
 */
static void small_frames_are_kept_as_large_ones_are(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    struct repl_view_reader *reader;
    struct repl_error err;
    uint8_t value;
    for (unsigned i = 0; i < 5; i++) { /* of a quarter of a MiB each */
        struct repl_segment_builder *b = build(chain, i, i + 1, 0, 5 * 64 * PAGE);
        data(chain, b, i * 64 * PAGE, 64 * PAGE, (uint8_t)(i + 1));
        if (i == 0)
            zero(b, 64 * PAGE, 4 * 64 * PAGE);
        finish(chain, b, i + 1, true);
    }
    struct repl_view *view = view_of(chain);
    assert_true(repl_ok(repl_view_reader_new(view, 1, &reader, NULL)));
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(value_at(reader, i * 64), i + 1);
        chain->files[i].bytes.data[chain->segments[i]->frames[0].offset] ^= 1;
    }
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(value_at(reader, i * 64 + 1), i + 1);
    for (unsigned i = 4; i > 0; i--) /* for the last, the one goes that was used first */
        assert_int_equal(value_at(reader, i * 64), i + 1);
    assert_int_equal(repl_view_read(reader, 0, &value, 1, &err).code, REPL_E_CORRUPT);
    assert_int_equal(repl_view_read(reader, 0, &value, 1, &err).code, REPL_E_CORRUPT);
    assert_int_equal(value_at(reader, 64), 2);
    repl_view_reader_free(reader);
    repl_view_free(view);
    chain_free(chain);
}

static void chunks_come_from_where_they_are(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct random random = {9};
    random_fill(&random, chunk, sizeof chunk);
    struct repl_digest name = chunk_name_of(chunk);
    struct repl_segment_builder *b = build(chain, 0, 1, 0, 2 * REPL_CHUNK_SIZE);
    uint32_t frame = add_frame(b, chain->coder, chunk, sizeof chunk);
    struct repl_chunk_entry entry = {.name = name, .frame = frame};
    assert_true(repl_ok(repl_segment_builder_chunk(b, &entry, NULL)));
    struct repl_extent extent = {
        .length = REPL_CHUNK_SIZE, .source = frame, .type = REPL_RECORD_DATA};
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
    zero(b, REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    finish(chain, b, 1, true);
    b = build(chain, 1, 2, 0, 2 * REPL_CHUNK_SIZE);
    extent = (struct repl_extent){
        .offset = REPL_CHUNK_SIZE, .length = REPL_CHUNK_SIZE, .type = REPL_RECORD_CHUNK};
    assert_true(repl_ok(repl_segment_builder_reference(b, &name, &extent.source, NULL)));
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
    finish(chain, b, 2, true);

    struct repl_view *view = view_of(chain);
    struct repl_view_reader *reader;
    static uint8_t image[2 * REPL_CHUNK_SIZE];
    struct repl_error err;
    assert_true(repl_ok(repl_view_reader_new(view, 2, &reader, NULL)));
    assert_true(repl_ok(repl_view_read(reader, 0, image, sizeof image, NULL)));
    assert_memory_equal(image, chunk, sizeof chunk);
    assert_memory_equal(image + REPL_CHUNK_SIZE, chunk, sizeof chunk);
    assert_true(repl_ok(repl_view_read(reader, REPL_CHUNK_SIZE + 5000, image, 7, NULL)));
    assert_memory_equal(image, chunk + 5000, 7);

    chain->segments[0]->chunks[0].name.bytes[0] ^= 1; /* it is nowhere now */
    assert_int_equal(repl_view_read(reader, REPL_CHUNK_SIZE, image, 10, &err).code, REPL_E_MISSING);
    chain->segments[0]->chunks[0].name.bytes[0] ^= 1;
    chain->segments[0]->chunks[0].frame_offset = PAGE; /* not what it is said to be */
    assert_int_equal(repl_view_read(reader, REPL_CHUNK_SIZE, image, 10, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "outside its frame"));
    repl_view_reader_free(reader);
    repl_view_free(view);
    chain_free(chain);
}

struct fetches {
    struct chain *chain; /* first: what the other callbacks take */
    const uint8_t *bytes;
    const struct repl_digest *names;
    unsigned calls;
    size_t asked;
    bool wrong;
};

static repl_result fetched_segment(void *context, size_t i, const struct repl_segment **out,
                                   struct repl_error *err)
{
    return segment_at(((struct fetches *)context)->chain, i, out, err);
}

static repl_result fetched_nowhere(void *context, const struct repl_digest *name,
                                   const struct repl_segment **segment, uint32_t *frame,
                                   uint32_t *frame_offset, struct repl_error *err)
{
    (void)context, (void)name, (void)frame, (void)frame_offset, (void)err;
    *segment = NULL;
    return REPL_SUCCESS;
}

static repl_result fetch(void *context, const struct repl_digest *names, size_t count, void *out,
                         struct repl_error *err)
{
    struct fetches *f = context;
    size_t i = 0;
    (void)err;
    f->calls++;
    f->asked = count;
    while (!repl_digest_equal(&f->names[i], &names[0]))
        i++;
    for (size_t k = 0; k < count; k++)
        assert_true(repl_digest_equal(&names[k], &f->names[i + k])); /* in the view's order */
    memcpy(out, f->bytes + i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
    if (f->wrong)
        *(uint8_t *)out ^= 1;
    return REPL_SUCCESS;
}

/* What lies in no segment is fetched, and the names of what comes next are given along. */
static void a_chunk_that_lies_nowhere_is_fetched(void **state)
{
    (void)state;
    enum { CHUNKS = REPL_VIEW_AHEAD + 6 };
    struct chain *chain = chain_new();
    static uint8_t bytes[CHUNKS * REPL_CHUNK_SIZE], image[CHUNKS * REPL_CHUNK_SIZE];
    struct repl_digest names[CHUNKS];
    struct random random = {9};
    struct repl_error err;
    random_fill(&random, bytes, sizeof bytes);
    struct repl_segment_builder *b = build(chain, 0, 1, 0, sizeof bytes);
    for (size_t i = 0; i < CHUNKS; i++) {
        struct repl_extent extent = {
            .offset = i * REPL_CHUNK_SIZE, .length = REPL_CHUNK_SIZE, .type = REPL_RECORD_CHUNK};
        names[i] = chunk_name_of(bytes + i * REPL_CHUNK_SIZE);
        assert_true(repl_ok(repl_segment_builder_reference(b, &names[i], &extent.source, NULL)));
        assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
    }
    finish(chain, b, 1, true);
    struct fetches fetches = {.chain = chain, .bytes = bytes, .names = names};
    struct repl_view *view;
    struct repl_view_reader *reader;
    assert_true(repl_ok(repl_view_open(fetched_segment, fetched_nowhere, &fetches, &view, NULL)));
    assert_true(repl_ok(repl_view_reader_new(view, 2, &reader, NULL)));
    assert_int_equal(repl_view_read(reader, 0, image, 10, &err).code, REPL_E_MISSING);
    repl_view_fetch_by(view, fetch);
    assert_true(repl_ok(repl_view_read(reader, 5000, image, 10, &err)));
    assert_memory_equal(image, bytes + 5000, 10);
    assert_int_equal(fetches.asked, REPL_VIEW_AHEAD);
    assert_true(repl_ok(repl_view_read(reader, 0, image, sizeof image, &err)));
    assert_memory_equal(image, bytes, sizeof image);
    assert_int_equal(fetches.asked, 1); /* the last */
    fetches.wrong = true;
    assert_int_equal(repl_view_read(reader, 0, image, 10, &err).code, REPL_E_CORRUPT);
    repl_view_reader_free(reader);
    repl_view_free(view);
    chain_free(chain);
}

static void a_chunk_of_other_content_is_refused(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    static uint8_t chunk[REPL_CHUNK_SIZE];
    struct repl_digest name = chunk_name_of(chunk);
    name.bytes[3] ^= 1;
    struct repl_segment_builder *b = build(chain, 0, 1, 0, REPL_CHUNK_SIZE);
    uint32_t frame = add_frame(b, chain->coder, chunk, sizeof chunk);
    struct repl_chunk_entry entry = {.name = name, .frame = frame};
    assert_true(repl_ok(repl_segment_builder_chunk(b, &entry, NULL)));
    struct repl_extent extent = {.length = REPL_CHUNK_SIZE, .type = REPL_RECORD_CHUNK};
    assert_true(repl_ok(repl_segment_builder_reference(b, &name, &extent.source, NULL)));
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
    finish(chain, b, 1, true);
    struct repl_view *view = view_of(chain);
    struct repl_view_reader *reader;
    uint8_t out[16];
    struct repl_error err;
    assert_true(repl_ok(repl_view_reader_new(view, 1, &reader, NULL)));
    assert_int_equal(repl_view_read(reader, 0, out, sizeof out, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "segment 1.0"));
    assert_non_null(strstr(err.text, "named for"));
    repl_view_reader_free(reader);
    repl_view_free(view);
    chain_free(chain);
}

static void a_full_may_have_parts(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    struct repl_segment_builder *b = build(chain, 0, 2, 0, 2 * PAGE);
    data(chain, b, 0, PAGE, 1);
    finish(chain, b, 2, false);
    b = build(chain, 0, 2, 1, 2 * PAGE);
    data(chain, b, PAGE, PAGE, 2);
    finish(chain, b, 2, true);
    struct repl_view *view = view_of(chain);
    assert_true(repl_view_segment_count(view) == 2);
    repl_view_free(view);
    chain_free(chain);
}

static void what_is_not_whole_is_refused(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    expect_refused(chain, REPL_E_MISSING, "no segment ends in this point");
    struct repl_segment_builder *b = build(chain, 0, 1, 0, 2 * PAGE);
    data(chain, b, PAGE, PAGE, 1);
    finish(chain, b, 1, true);
    expect_refused(chain, REPL_E_MISSING, "from offset 0");
    b = build(chain, 1, 2, 0, 2 * PAGE);
    data(chain, b, 0, PAGE, 1);
    finish(chain, b, 2, true);
    repl_view_free(view_of(chain));
    b = build(chain, 2, 3, 0, 2 * PAGE);
    zero(b, 0, PAGE);
    finish(chain, b, 3, false);
    expect_refused(chain, REPL_E_CORRUPT, "segment 3.0 does not end in a point");
    chain_free(chain);
}

static void damage_is_named(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    struct repl_segment_builder *b = build(chain, 0, 1, 0, 2 * PAGE);
    data(chain, b, 0, 2 * PAGE, 1);
    finish(chain, b, 1, true);
    struct repl_view *view = view_of(chain);
    struct repl_view_reader *reader;
    struct repl_error err;
    uint8_t out[2 * PAGE];
    assert_true(repl_ok(repl_view_reader_new(view, 1, &reader, NULL)));
    chain->files[0].bytes.data[REPL_SEGMENT_HEADER_SIZE + 6] ^= 1;
    assert_int_equal(repl_view_read(reader, 0, out, sizeof out, &err).code, REPL_E_CORRUPT);
    assert_non_null(strstr(err.text, "segment 1.0"));
    chain->files[0].bytes.data[REPL_SEGMENT_HEADER_SIZE + 6] ^= 1;
    assert_true(repl_ok(repl_view_read(reader, 0, out, sizeof out, &err)));
    repl_view_reader_free(reader);
    repl_view_free(view);
    size_t block = (size_t)chain->segments[0]->blocks[0].frame.offset;
    chain->files[0].bytes.data[block + 4] ^= 1;
    expect_refused(chain, REPL_E_CORRUPT, "segment 1.0");
    chain_free(chain);
}

static void expect_said(const struct repl_view *view, uint64_t offset, uint64_t limit,
                        uint64_t length, bool said)
{
    bool is;
    assert_int_equal(repl_view_said(view, offset, limit, &is), length);
    assert_true(is == said);
}

/* Of changes alone, what they do not speak of is told from the rest. */
static void changes_alone(void **state)
{
    (void)state;
    struct chain *chain = chain_new();
    struct repl_segment_builder *b = build(chain, 3, 4, 0, 9 * PAGE);
    data(chain, b, PAGE, 2 * PAGE, 1);
    data(chain, b, 8 * PAGE, PAGE, 1);
    finish(chain, b, 4, true);
    b = build(chain, 4, 5, 0, 8 * PAGE);
    data(chain, b, 2 * PAGE, PAGE, 2);
    zero(b, 3 * PAGE, PAGE);
    finish(chain, b, 5, true);
    expect_refused(chain, REPL_E_MISSING, "an older one is missing");
    struct repl_view *view;
    struct repl_view_reader *reader;
    uint8_t image[3 * PAGE];
    assert_true(
        repl_ok(repl_view_open_changes(segment_at, find_chunk, chain, 0, UINT64_MAX, &view, NULL)));
    expect_said(view, 0, 8 * PAGE, PAGE, false);
    expect_said(view, PAGE, 8 * PAGE, 3 * PAGE, true);
    expect_said(view, PAGE + 5, 10, 10, true);
    expect_said(view, 4 * PAGE, 8 * PAGE, 4 * PAGE, false);
    expect_said(view, 4 * PAGE, PAGE, PAGE, false);
    assert_true(repl_ok(repl_view_reader_new(view, 1, &reader, NULL)));
    assert_true(repl_ok(repl_view_read(reader, PAGE, image, sizeof image, NULL)));
    assert_true(image[0] == 1 && image[PAGE] == 2 && image[2 * PAGE] == 0);
    repl_view_reader_free(reader);
    repl_view_free(view);
    chain_free(chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(newest_wins),
        cmocka_unit_test(a_volume_that_grew_and_shrank),
        cmocka_unit_test(small_frames_are_kept_as_large_ones_are),
        cmocka_unit_test(chunks_come_from_where_they_are),
        cmocka_unit_test(a_chunk_of_other_content_is_refused),
        cmocka_unit_test(a_chunk_that_lies_nowhere_is_fetched),
        cmocka_unit_test(a_full_may_have_parts),
        cmocka_unit_test(what_is_not_whole_is_refused),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(changes_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
