/*
 * Damage, byte by byte: whatever one byte of a segment is changed to, and wherever it is cut off,
 * a reader either refuses it in words or hands out exactly what was written (a bit that zstd does
 * not look at). And repl_segment_verify, which reads the digest of the whole, refuses all of it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <sys/resource.h>

#include "segment/segment_verify.h"
#include "unit/random.h"
#include "unit/segment/segment_craft.h"

struct bench {
    struct repl_frame_coder *coder;
    struct repl_buffer file;  /* the good one */
    struct repl_buffer whole; /* all it says */
    struct repl_buffer again;
    unsigned refused, same, verify_refused;
};

/* Built by the builder itself: stored and compressed frames, a chunk and a reference to another,
 * zeros, a tail, a merged point. */
static void build(struct bench *bench)
{
    static uint8_t chunk[REPL_CHUNK_SIZE], page[REPL_PAGE_SIZE / 4];
    struct random random = random_begin("damage", 11);
    struct memory_file file = {.sink_limit = 0};
    struct repl_segment_header header = craft_header(7, 10);
    struct repl_segment_builder *b;
    struct repl_segment_footer footer;
    const uint64_t size = 4 * REPL_CHUNK_SIZE + sizeof page;
    random_fill(&random, page, sizeof page);
    for (size_t i = 0; i < sizeof chunk; i++)
        chunk[i] = "abcabcab"[i / 64 % 8] ^ (uint8_t)(i % 4096 == 0 ? random_next(&random) : 0);
    assert_true(repl_ok(repl_segment_builder_new(&header, size, memory_sink, &file, &b, NULL)));
    uint32_t first = add_frame(b, bench->coder, chunk, sizeof chunk);
    uint32_t second = add_frame(b, bench->coder, page, sizeof page);
    uint32_t third = add_frame(b, bench->coder, chunk + 4096, 3 * REPL_PAGE_SIZE);
    struct repl_chunk_entry entry = {.name = chunk_name_of(chunk), .frame = first};
    assert_true(repl_ok(repl_segment_builder_chunk(b, &entry, NULL)));
    uint64_t reference;
    assert_true(repl_ok(repl_segment_builder_reference(b, &entry.name, &reference, NULL)));
    const struct repl_extent extents[] = {
        {.offset = 0, .length = REPL_CHUNK_SIZE, .source = first, .type = REPL_RECORD_DATA},
        {.offset = 4096, .length = 3 * 4096, .source = third, .type = REPL_RECORD_DATA},
        {.offset = REPL_CHUNK_SIZE, .length = REPL_CHUNK_SIZE, .type = REPL_RECORD_ZERO},
        {.offset = 2 * REPL_CHUNK_SIZE,
         .length = REPL_CHUNK_SIZE,
         .source = reference,
         .type = REPL_RECORD_CHUNK},
        {.offset = 4 * REPL_CHUNK_SIZE,
         .length = sizeof page,
         .source = second,
         .type = REPL_RECORD_DATA},
    };
    for (size_t i = 0; i < sizeof extents / sizeof extents[0]; i++)
        assert_true(repl_ok(repl_segment_builder_extent(b, &extents[i], NULL)));
    struct craft points = {.header = header};
    craft_point(&points, 9, REPL_POINT_MERGED);
    craft_point(&points, 10, REPL_POINT_RESYNC);
    assert_true(repl_ok(repl_segment_builder_finish(b, points.points, 2, &footer, NULL)));
    repl_segment_builder_free(b);
    bench->file = file.bytes;
}

static int setup(void **state)
{
    struct bench *bench = calloc(1, sizeof *bench);
    struct repl_error err;
    *state = bench;
    assert_true(repl_ok(repl_frame_coder_new(&bench->coder, &err)));
    build(bench);
    struct memory_span span = {bench->file.data, bench->file.size};
    assert_true(repl_ok(read_all(span, bench->coder, true, &bench->whole, &err)));
    return 0;
}

static int teardown(void **state)
{
    struct bench *bench = *state;
    repl_frame_coder_free(bench->coder);
    repl_buffer_fini(&bench->file);
    repl_buffer_fini(&bench->whole);
    repl_buffer_fini(&bench->again);
    free(bench);
    return 0;
}

static void try_damaged(struct bench *bench, const uint8_t *bytes, size_t size)
{
    struct repl_error err = {.text = ""};
    struct memory_span span = {bytes, size};
    bench->again.size = 0;
    repl_result result = read_all(span, bench->coder, false, &bench->again, &err);
    if (!repl_ok(result)) {
        assert_int_equal(result.code, err.code);
        assert_true(result.code == REPL_E_CORRUPT || result.code == REPL_E_VERSION);
        assert_true(strlen(err.text) > 0);
        bench->refused++;
    } else {
        assert_int_equal(bench->again.size, bench->whole.size);
        assert_memory_equal(bench->again.data, bench->whole.data, bench->whole.size);
        bench->same++;
    }
    assert_true(bench->again.size <= bench->whole.size); /* no more than was ever in it */

    struct repl_segment *segment;
    result = repl_segment_open(memory_read_at, &span, span.size, &segment, &err);
    if (repl_ok(result)) {
        result = repl_segment_verify(segment, bench->coder, &err);
        repl_segment_free(segment);
    }
    assert_false(repl_ok(result));
    bench->verify_refused++;
}

static void every_changed_byte(void **state)
{
    struct bench *bench = *state;
    static const uint8_t changes[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x42, 0xff};
    for (size_t i = 0; i < bench->file.size; i++) {
        for (size_t j = 0; j < sizeof changes; j++) {
            bench->file.data[i] ^= changes[j];
            try_damaged(bench, bench->file.data, bench->file.size);
            bench->file.data[i] ^= changes[j];
        }
    }
    printf("segment of %zu bytes, %zu changes of each: %u refused, %u read the same; "
           "verify refused %u\n",
           bench->file.size, sizeof changes, bench->refused, bench->same, bench->verify_refused);
    assert_int_equal(bench->verify_refused, bench->file.size * sizeof changes);
    assert_true(bench->refused > bench->same * 50);
}

static void every_truncation(void **state)
{
    struct bench *bench = *state;
    for (size_t size = 0; size < bench->file.size; size++) {
        uint8_t *bytes = malloc(size + (size == 0)); /* no byte behind its end */
        memcpy(bytes, bench->file.data, size);
        try_damaged(bench, bytes, size);
        free(bytes);
    }
    printf("%zu truncations: %u refused, %u read the same\n", bench->file.size, bench->refused,
           bench->same);
    assert_int_equal(bench->refused, bench->file.size);
}

/* Half of it from before, half of it from another: what a copy of a file being written may be. */
static void every_torn_mixture(void **state)
{
    struct bench *bench = *state;
    uint8_t *bytes = malloc(bench->file.size);
    for (size_t cut = 1; cut < bench->file.size; cut += 7) {
        memcpy(bytes, bench->file.data, cut);
        memset(bytes + cut, 0, bench->file.size - cut);
        try_damaged(bench, bytes, bench->file.size);
        memcpy(bytes, bench->file.data, bench->file.size);
        memset(bytes, 0, cut);
        try_damaged(bench, bytes, bench->file.size);
    }
    printf("torn in two: %u refused, %u read the same\n", bench->refused, bench->same);
    assert_int_equal(bench->same, 0);
    free(bytes);
}

/* No claim in a damaged segment has made its reader allocate what the file cannot hold. Comes last:
 * the high-water mark is of the whole program (and of the sanitizers' own memory, if any). */
static void memory_stayed_small(void **state)
{
    (void)state;
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    printf("at most %ld KiB resident\n", usage.ru_maxrss);
    assert_true(usage.ru_maxrss < 1024 * 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_changed_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(every_truncation, setup, teardown),
        cmocka_unit_test_setup_teardown(every_torn_mixture, setup, teardown),
        cmocka_unit_test(memory_stayed_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
