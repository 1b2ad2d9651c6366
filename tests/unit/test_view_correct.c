/*
 * Copies that are brought to what a view says: all there, altered at random, of
 * frames without a list, with a damaged one, of chunks in a segment and of others.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "unit/random.h"
#include "unit/view_fixture.h"

#define PAGES 200u
#define SIZE  (PAGES * PAGE - 512u)

struct world {
    struct chain *chain;
    struct repl_view *view;
    struct repl_view_reader *reader;
    uint8_t chunk[REPL_CHUNK_SIZE];
    struct repl_digest name;
    uint8_t image[PAGES * PAGE]; /* as the view reads */
    uint8_t copy[PAGES * PAGE];
    bool changed[PAGES];
    unsigned fetches;
    bool in_segment; /* the chunk; else it is fetched */
};

static void random_data(struct world *w, struct random *random, struct repl_segment_builder *b,
                        uint64_t offset, size_t size)
{
    static uint8_t bytes[PAGES * PAGE];
    random_fill(random, bytes, size);
    struct repl_extent extent = {.offset = offset,
                                 .length = size,
                                 .source = add_frame(b, w->chain->coder, bytes, size),
                                 .type = REPL_RECORD_DATA};
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
}

static void refer(struct world *w, struct repl_segment_builder *b, uint64_t offset)
{
    struct repl_extent extent = {
        .offset = offset, .length = REPL_CHUNK_SIZE, .type = REPL_RECORD_CHUNK};
    assert_true(repl_ok(repl_segment_builder_reference(b, &w->name, &extent.source, NULL)));
    assert_true(repl_ok(repl_segment_builder_extent(b, &extent, NULL)));
}

static repl_result world_segment(void *context, size_t i, const struct repl_segment **out,
                                 struct repl_error *err)
{
    return segment_at(((struct world *)context)->chain, i, out, err);
}

static repl_result world_chunk(void *context, const struct repl_digest *name,
                               const struct repl_segment **segment, uint32_t *frame,
                               uint32_t *frame_offset, struct repl_error *err)
{
    struct world *w = context;
    *segment = NULL;
    return w->in_segment ? find_chunk(w->chain, name, segment, frame, frame_offset, err)
                         : REPL_SUCCESS;
}

static repl_result world_fetch(void *context, const struct repl_digest *names, size_t count,
                               void *out, struct repl_error *err)
{
    struct world *w = context;
    (void)names, (void)count, (void)err;
    w->fetches++;
    memcpy(out, w->chunk, sizeof w->chunk);
    return REPL_SUCCESS;
}

/* Data and zeros; in pages 20 to 35 and 40 to 55 the chunk, whose second copy a newer segment has
 * cut into. The chunk begins in the middle of its frame. */
static struct world *world_new(bool in_segment)
{
    static struct world w;
    struct random random = {77};
    static uint8_t bytes[3 * PAGE + REPL_CHUNK_SIZE];
    memset(&w, 0, sizeof w);
    w.chain = chain_new();
    w.in_segment = in_segment;
    random_fill(&random, w.chunk, sizeof w.chunk);
    w.name = chunk_name_of(w.chunk);
    struct repl_segment_builder *b = build(w.chain, 0, 1, 0, SIZE);
    if (in_segment) {
        random_fill(&random, bytes, 3 * PAGE);
        memcpy(bytes + 3 * PAGE, w.chunk, sizeof w.chunk);
        struct repl_chunk_entry entry = {.name = w.name,
                                         .frame = add_frame(b, w.chain->coder, bytes, sizeof bytes),
                                         .frame_offset = 3 * PAGE};
        assert_true(repl_ok(repl_segment_builder_chunk(b, &entry, NULL)));
    }
    random_data(&w, &random, b, 0, 64 * PAGE);
    zero(b, 64 * PAGE, 36 * PAGE);
    random_data(&w, &random, b, 100 * PAGE, SIZE - 100 * PAGE);
    finish(w.chain, b, 1, true);
    b = build(w.chain, 1, 2, 0, SIZE);
    random_data(&w, &random, b, 5 * PAGE, 3 * PAGE);
    refer(&w, b, 20 * PAGE);
    refer(&w, b, 40 * PAGE);
    finish(w.chain, b, 2, true);
    b = build(w.chain, 2, 3, 0, SIZE);
    random_data(&w, &random, b, 45 * PAGE, 2 * PAGE);
    zero(b, 150 * PAGE, PAGE);
    finish(w.chain, b, 3, true);
    assert_true(repl_ok(repl_view_open(world_segment, world_chunk, &w, &w.view, NULL)));
    repl_view_fetch_by(w.view, world_fetch);
    assert_true(repl_ok(repl_view_reader_new(w.view, 4, &w.reader, NULL)));
    assert_true(repl_ok(repl_view_read(w.reader, 0, w.image, SIZE, NULL)));
    memcpy(w.copy, w.image, sizeof w.copy);
    w.fetches = 0;
    /* without what reading has left in the cache */
    repl_view_reader_free(w.reader);
    assert_true(repl_ok(repl_view_reader_new(w.view, 4, &w.reader, NULL)));
    return &w;
}

static void world_free(struct world *w)
{
    repl_view_reader_free(w->reader);
    repl_view_free(w->view);
    chain_free(w->chain);
}

/* Of the last page only a part is in the volume. */
static void correct(struct world *w)
{
    struct repl_error err;
    memset(w->changed, 0xff, sizeof w->changed);
    if (!repl_ok(repl_view_correct(w->reader, 0, w->copy, SIZE, w->changed, &err)))
        fail_msg("%s", err.text);
    assert_memory_equal(w->copy, w->image, SIZE);
}

static unsigned changed_count(const struct world *w)
{
    unsigned count = 0;
    for (unsigned i = 0; i < PAGES; i++)
        count += w->changed[i];
    return count;
}

static void frames_spoil(struct world *w)
{
    for (size_t i = 0; i < w->chain->count; i++) {
        for (uint32_t k = 0; k < w->chain->segments[i]->footer.frame_count; k++)
            w->chain->files[i].bytes.data[w->chain->segments[i]->frames[k].offset + 20] ^= 1;
    }
}

static void of_what_is_there_nothing_is_read(void **state)
{
    (void)state;
    struct world *w = world_new(true);
    struct repl_error err;
    frames_spoil(w);
    correct(w);
    assert_int_equal(changed_count(w), 0);
    w->copy[2 * PAGE] ^= 1; /* or nothing would be found to be spoilt */
    assert_int_equal(repl_view_correct(w->reader, 0, w->copy, SIZE, w->changed, &err).code,
                     REPL_E_CORRUPT);
    world_free(w);
}

static void what_is_altered_is_found(void **state)
{
    (void)state;
    struct random random = {5};
    for (int in_segment = 0; in_segment < 2; in_segment++) {
        struct world *w = world_new(in_segment);
        for (unsigned round = 0; round < 300; round++) {
            bool altered[PAGES] = {0};
            unsigned count = (unsigned)random_below(&random, round % 10 == 0 ? PAGES : 6);
            for (unsigned i = 0; i < count; i++) {
                size_t at = (size_t)random_below(&random, SIZE);
                w->copy[at] ^= (uint8_t)(1 + random_below(&random, 255));
                altered[at / PAGE] =
                    memcmp(w->copy + at / PAGE * PAGE, w->image + at / PAGE * PAGE, PAGE) != 0;
            }
            correct(w);
            assert_memory_equal(w->changed, altered, sizeof altered);
        }
        world_free(w);
    }
}

static void parts_of_the_volume(void **state)
{
    (void)state;
    struct random random = {6};
    struct world *w = world_new(true);
    for (unsigned round = 0; round < 300; round++) {
        size_t offset = (size_t)random_below(&random, PAGES) * PAGE;
        size_t size = (size_t)random_below(&random, SIZE - offset + 1);
        for (unsigned i = 0; size > 0 && i < 3; i++)
            w->copy[offset + random_below(&random, size)] ^= 1;
        assert_true(repl_ok(
            repl_view_correct(w->reader, offset, w->copy + offset, size, w->changed, NULL)));
        assert_memory_equal(w->copy, w->image, SIZE);
    }
    world_free(w);
}

static void a_copy_of_something_else(void **state)
{
    (void)state;
    struct world *w = world_new(true);
    memset(w->copy, 0, sizeof w->copy);
    correct(w);
    assert_int_equal(changed_count(w), PAGES - 36 - 1);
    memset(w->copy, 0xff, sizeof w->copy);
    correct(w);
    assert_int_equal(changed_count(w), PAGES);
    world_free(w);
}

/* A frame without a list, or with one that is damaged, is read and compared. */
static void without_lists(void **state)
{
    (void)state;
    for (int damaged = 0; damaged < 2; damaged++) {
        struct world *w = world_new(true);
        for (size_t i = 0; i < w->chain->count; i++) {
            struct repl_segment *segment = w->chain->segments[i];
            for (uint32_t k = 0; k < segment->footer.frame_count; k++) {
                assert_true(segment->frames[k].has_pages);
                if (damaged)
                    w->chain->files[i].bytes.data[segment->pages[k]] ^= 1;
                else
                    segment->frames[k].has_pages = false;
            }
        }
        correct(w);
        assert_int_equal(changed_count(w), 0);
        w->copy[7 * PAGE + 5] ^= 1;
        w->copy[45 * PAGE + 5] ^= 1;
        w->copy[50 * PAGE + 5] ^= 1;
        w->copy[SIZE - 1] ^= 1;
        correct(w);
        assert_int_equal(changed_count(w), 4);
        assert_true(w->changed[7] && w->changed[45] && w->changed[50] && w->changed[PAGES - 1]);
        frames_spoil(w);
        repl_view_reader_free(w->reader);
        assert_true(repl_ok(repl_view_reader_new(w->view, 4, &w->reader, NULL)));
        assert_int_equal(repl_view_correct(w->reader, 0, w->copy, SIZE, w->changed, NULL).code,
                         REPL_E_CORRUPT);
        world_free(w);
    }
}

/* The chunk of a pool that is there by its name is not fetched; of one that is not, all is. */
static void chunks_that_are_fetched(void **state)
{
    (void)state;
    struct world *w = world_new(false);
    uint8_t *first = w->copy + 20 * PAGE;
    assert_true(
        repl_ok(repl_view_correct(w->reader, 20 * PAGE, first, 16 * PAGE, w->changed, NULL)));
    assert_int_equal(w->fetches, 0);
    first[3 * PAGE] ^= 1;
    assert_true(
        repl_ok(repl_view_correct(w->reader, 20 * PAGE, first, 16 * PAGE, w->changed, NULL)));
    assert_int_equal(w->fetches, 1);
    assert_true(w->changed[3]);
    assert_memory_equal(w->copy, w->image, SIZE);
    world_free(w);
}

/* --- slices ---------------------------------------------------------------------------------- */

static struct {
    unsigned calls;
    uint32_t bytes;
    enum repl_code fails;
    bool wrong;
} sliced;

static repl_result slices_read(void *context, const struct repl_frame_entry *frame,
                               const struct repl_slice *slices, uint32_t count,
                               struct repl_frame_coder *coder, void *out, struct repl_error *err)
{
    static uint8_t raw[REPL_FRAME_RAW_MAX], stored[REPL_FRAME_RAW_MAX];
    uint8_t *to = out;
    sliced.calls++;
    if (sliced.fails != REPL_OK)
        return repl_fail(err, sliced.fails, "no slices");
    REPL_TRY(memory_read_at(context, frame->offset, stored, frame->stored_size, err));
    REPL_TRY(repl_frame_decode(coder, frame, stored, raw, err));
    for (uint32_t i = 0; i < count; i++) {
        assert_true(i == 0 || slices[i].offset > slices[i - 1].offset + slices[i - 1].length);
        memcpy(to, raw + slices[i].offset, slices[i].length);
        to += slices[i].length;
        sliced.bytes += slices[i].length;
    }
    *(uint8_t *)out ^= sliced.wrong;
    return REPL_SUCCESS;
}

static struct world *sliced_world(void)
{
    struct world *w = world_new(true);
    for (size_t i = 0; i < w->chain->count; i++)
        w->chain->segments[i]->read_slices = slices_read;
    memset(&sliced, 0, sizeof sliced);
    return w;
}

static void few_pages_come_as_slices(void **state)
{
    (void)state;
    struct world *w = sliced_world();
    static const unsigned altered[] = {1, 2, 3, 9, 63, 101, PAGES - 1};
    for (size_t i = 0; i < sizeof altered / sizeof altered[0]; i++)
        w->copy[altered[i] * PAGE + 100] ^= 1;
    correct(w);
    assert_int_equal(changed_count(w), sizeof altered / sizeof altered[0]);
    assert_int_equal(sliced.calls, 2);
    assert_int_equal(sliced.bytes, 7 * PAGE - 512);
    memset(w->copy + 100 * PAGE, 0xff, 70 * PAGE); /* of its frame more than half */
    sliced.calls = 0;
    correct(w);
    assert_int_equal(sliced.calls, 0);
    w->copy[103 * PAGE] ^= 1; /* that is at hand now */
    correct(w);
    assert_int_equal(sliced.calls, 0);
    world_free(w);
}

static void where_slices_fail_the_frame_is_read(void **state)
{
    (void)state;
    static const enum repl_code codes[] = {REPL_E_VERSION, REPL_E_CORRUPT, REPL_E_MISSING};
    for (size_t i = 0; i <= sizeof codes / sizeof codes[0]; i++) {
        struct world *w = sliced_world();
        sliced.wrong = i == sizeof codes / sizeof codes[0]; /* not what the list says */
        sliced.fails = sliced.wrong ? REPL_OK : codes[i];
        w->copy[3 * PAGE] ^= 1;
        correct(w);
        assert_int_equal(sliced.calls, 1);
        assert_true(w->changed[3]);
        world_free(w);
    }
    struct world *w = sliced_world();
    sliced.fails = REPL_E_RETRY; /* the site is away, or the restore is to end */
    w->copy[3 * PAGE] ^= 1;
    assert_int_equal(repl_view_correct(w->reader, 0, w->copy, SIZE, w->changed, NULL).code,
                     REPL_E_RETRY);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_what_is_there_nothing_is_read),
        cmocka_unit_test(what_is_altered_is_found),
        cmocka_unit_test(parts_of_the_volume),
        cmocka_unit_test(a_copy_of_something_else),
        cmocka_unit_test(without_lists),
        cmocka_unit_test(chunks_that_are_fetched),
        cmocka_unit_test(few_pages_come_as_slices),
        cmocka_unit_test(where_slices_fail_the_frame_is_read),
    };
    return cmocka_run_group_tests_name("view_correct", tests, NULL, NULL);
}
