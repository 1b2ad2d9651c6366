/*
 * Random histories of a volume of some pages, as segments in memory, and what it held after each:
 * for the tests of merging.
 */
#ifndef TESTS_UNIT_MERGE_WORLD_H
#define TESTS_UNIT_MERGE_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/limits.h"
#include "repl/view.h"
#include "segment/segment_merge.h"
#include "segment/segment_verify.h"
#include "unit/random.h"
#include "unit/segment/segment_fixture.h"

#define PAGE         REPL_PAGE_SIZE
#define PAGES_MAX    96u
#define IMAGE_MAX    (PAGES_MAX * PAGE)
#define SEGMENTS_MAX 16u
#define FRAMES_MAX   64u
#define POOL_MAX     24u

struct piece {
    struct memory_file file;
    struct memory_span span;
    struct repl_segment *segment;
};

static inline void piece_open(struct piece *piece)
{
    struct repl_error err;
    piece->span = (struct memory_span){piece->file.bytes.data, piece->file.bytes.size};
    if (!repl_ok(repl_segment_open(memory_read_at, &piece->span, piece->span.size, &piece->segment,
                                   &err)))
        fail_msg("%s", err.text);
}

static inline void piece_free(struct piece *piece)
{
    repl_segment_free(piece->segment);
    repl_buffer_fini(&piece->file.bytes);
    *piece = (struct piece){0};
}

struct image {
    uint64_t size;
    uint8_t bytes[IMAGE_MAX];
};

/* A history, and what the volume held after each segment. */
struct world {
    struct random random;
    struct repl_frame_coder *coder;
    struct piece pieces[SEGMENTS_MAX];
    struct image after[SEGMENTS_MAX];
    size_t count;
    struct repl_digest last;
    struct piece pool; /* chunks from elsewhere */
    struct repl_digest names[POOL_MAX];
    uint8_t chunks[POOL_MAX][REPL_CHUNK_SIZE];
    size_t name_count;
    /* the part being built */
    struct repl_segment_builder *builder;
    struct image *now;
    uint8_t *frames[FRAMES_MAX];
    uint32_t frame_sizes[FRAMES_MAX];
    uint32_t frame_count;
};

static struct world world;

static inline uint64_t below(uint64_t limit)
{
    return random_below(&world.random, limit);
}

static inline void content_fill(uint8_t *out, size_t size)
{
    bool noise = below(4) == 0;
    for (size_t at = 0; at < size; at += 512) {
        size_t n = size - at < 512 ? size - at : 512;
        memset(out + at, (int)below(255) + 1, n);
        for (size_t i = 0; noise && i + 8 <= n; i += 8) {
            uint64_t word = random_next(&world.random);
            memcpy(out + at + i, &word, 8);
        }
    }
}

static inline uint32_t frame_make(uint32_t size)
{
    assert_true(world.frame_count < FRAMES_MAX);
    uint8_t *raw = malloc(size);
    assert_non_null(raw);
    content_fill(raw, size);
    uint32_t index = add_frame(world.builder, world.coder, raw, size);
    assert_int_equal(index, world.frame_count);
    world.frames[index] = raw;
    world.frame_sizes[index] = size;
    world.frame_count++;
    return index;
}

static inline void extent_put(const struct repl_extent *extent, const uint8_t *bytes)
{
    struct repl_error err;
    if (!repl_ok(repl_segment_builder_extent(world.builder, extent, &err)))
        fail_msg("%s", err.text);
    if (bytes != NULL)
        memcpy(world.now->bytes + extent->offset, bytes, extent->length);
    else
        memset(world.now->bytes + extent->offset, 0, extent->length);
}

/* Bytes of a new frame that may be longer, or of an old one wherever they fit. */
static inline void data_op(uint64_t offset, uint64_t length)
{
    uint32_t frame = UINT32_MAX, slack;
    for (uint32_t i = 0; i < world.frame_count && below(3) == 0; i++)
        if (world.frame_sizes[i] >= length)
            frame = i;
    if (frame == UINT32_MAX) {
        slack = below(2) ? (uint32_t)below(4) * 1000 : 0;
        frame = frame_make((uint32_t)length + slack);
    }
    slack = world.frame_sizes[frame] - (uint32_t)length;
    struct repl_extent extent = {.offset = offset,
                                 .length = length,
                                 .source = frame,
                                 .source_offset = slack > 0 ? (uint32_t)below(slack + 1) : 0,
                                 .type = REPL_RECORD_DATA};
    extent_put(&extent, world.frames[frame] + extent.source_offset);
}

static inline void name_remember(const struct repl_digest *name, const uint8_t *bytes)
{
    size_t i = world.name_count < POOL_MAX ? world.name_count++ : (size_t)below(POOL_MAX);
    world.names[i] = *name;
    memcpy(world.chunks[i], bytes, REPL_CHUNK_SIZE);
}

/* A chunk that gets a name, and lies somewhere in its frame. */
static inline void chunk_op(uint64_t offset)
{
    uint32_t at = (uint32_t)below(3) * 777, frame = frame_make(at + REPL_CHUNK_SIZE + 100);
    struct repl_chunk_entry entry = {
        .name = chunk_name_of(world.frames[frame] + at), .frame = frame, .frame_offset = at};
    assert_true(repl_ok(repl_segment_builder_chunk(world.builder, &entry, NULL)));
    name_remember(&entry.name, world.frames[frame] + at);
    struct repl_extent extent = {.offset = offset,
                                 .length = REPL_CHUNK_SIZE,
                                 .source = frame,
                                 .source_offset = at,
                                 .type = REPL_RECORD_DATA};
    extent_put(&extent, world.frames[frame] + at);
}

static inline void reference_op(uint64_t offset, uint64_t length)
{
    size_t which = (size_t)below(world.name_count);
    struct repl_extent extent = {.offset = offset, .length = length, .type = REPL_RECORD_CHUNK};
    if (extent.length > REPL_CHUNK_SIZE)
        extent.length = REPL_CHUNK_SIZE;
    extent.source_offset = (uint32_t)below(REPL_CHUNK_SIZE - extent.length + 1);
    assert_true(repl_ok(
        repl_segment_builder_reference(world.builder, &world.names[which], &extent.source, NULL)));
    extent_put(&extent, world.chunks[which] + extent.source_offset);
}

/* Says something of [offset, offset + length), or of a part of it at its beginning; how much. */
static inline uint64_t op(uint64_t offset, uint64_t length)
{
    uint64_t kind = below(8);
    if (kind < 2) {
        struct repl_extent extent = {.offset = offset, .length = length, .type = REPL_RECORD_ZERO};
        extent_put(&extent, NULL);
    } else if (kind == 2 && length >= REPL_CHUNK_SIZE) {
        length = REPL_CHUNK_SIZE;
        chunk_op(offset);
    } else if (kind == 3) {
        if (length > REPL_CHUNK_SIZE)
            length = REPL_CHUNK_SIZE;
        reference_op(offset, length);
    } else {
        data_op(offset, length);
    }
    return length;
}

static inline void cover(uint64_t begin, uint64_t end)
{
    for (uint64_t at = begin / PAGE * PAGE; at < end;) {
        uint64_t length = (1 + below(PAGES_MAX)) * PAGE;
        at += op(at, length < end - at ? length : end - at);
    }
}

static inline void random_ops(void)
{
    uint64_t pages = (world.now->size + PAGE - 1) / PAGE;
    for (uint64_t n = below(6); n > 0; n--) {
        uint64_t at = below(pages) * PAGE, length = (1 + below(below(3) ? 6 : pages)) * PAGE;
        op(at, length < world.now->size - at ? length : world.now->size - at);
    }
}

static inline void part_begin(uint64_t from, uint64_t to, uint32_t part, uint64_t size)
{
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_CHANGES,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .lineage = 5,
                                         .from_seq = from,
                                         .to_seq = to,
                                         .part = part,
                                         .created_ns = (int64_t)(1000 * to + part),
                                         .prev = world.last};
    assert_true(world.count < SEGMENTS_MAX);
    world.now = &world.after[world.count];
    if (world.count > 0)
        *world.now = world.after[world.count - 1];
    world.now->size = size;
    memset(world.now->bytes + size, 0xee, IMAGE_MAX - size);
    assert_true(repl_ok(repl_segment_builder_new(
        &header, size, memory_sink, &world.pieces[world.count].file, &world.builder, NULL)));
}

static inline void part_end(uint64_t to, bool last)
{
    struct repl_point point = {.seq = to,
                               .begin_ns = (int64_t)to,
                               .end_ns = (int64_t)to + 1,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_QUIET,
                               .attempts = 1,
                               .changed_bytes = 1000 + to};
    struct repl_segment_footer footer;
    assert_true(repl_ok(repl_segment_builder_finish(world.builder, &point, last, &footer, NULL)));
    repl_segment_builder_free(world.builder);
    world.builder = NULL;
    world.last = footer.digest;
    piece_open(&world.pieces[world.count++]);
    for (uint32_t i = 0; i < world.frame_count; i++)
        free(world.frames[i]);
    world.frame_count = 0;
}

static inline uint64_t random_size(void)
{
    uint64_t size = (1 + below(PAGES_MAX)) * PAGE;
    return below(2) ? size : size - below(8) * 512;
}

/* An increment of one to three parts; the volume may grow or shrink at the beginning of each. */
static inline void increment(uint64_t from, uint64_t to)
{
    uint64_t size = world.count > 0 ? world.after[world.count - 1].size : random_size();
    uint32_t parts = 1 + (uint32_t)below(3);
    bool whole = from == 0;
    for (uint32_t part = 0; part < parts; part++) {
        uint64_t before = size;
        if (world.count > 0 && below(4) == 0)
            size = random_size();
        part_begin(from, to, part, size);
        random_ops();
        if (whole && (part + 1 == parts || below(2))) {
            cover(0, size);
            whole = false;
        } else if (size > before) {
            cover(before, size);
        }
        random_ops();
        part_end(to, part + 1 == parts);
    }
}

static inline void pool_make(void)
{
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_SUPPLY,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .to_seq = 1};
    struct repl_segment_footer footer;
    assert_true(repl_ok(
        repl_segment_builder_new(&header, 0, memory_sink, &world.pool.file, &world.builder, NULL)));
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t frame = frame_make(REPL_CHUNK_SIZE);
        struct repl_chunk_entry entry = {.name = chunk_name_of(world.frames[frame]),
                                         .frame = frame};
        assert_true(repl_ok(repl_segment_builder_chunk(world.builder, &entry, NULL)));
        name_remember(&entry.name, world.frames[frame]);
        free(world.frames[frame]);
    }
    world.frame_count = 0;
    assert_true(repl_ok(repl_segment_builder_finish(world.builder, NULL, 0, &footer, NULL)));
    repl_segment_builder_free(world.builder);
    piece_open(&world.pool);
}

static inline void world_begin(struct random random)
{
    memset(&world, 0, sizeof world);
    world.random = random;
    assert_true(repl_ok(repl_frame_coder_new(&world.coder, NULL)));
    pool_make();
}

static inline void world_make(void)
{
    uint64_t to = 1 + below(3), from = 0;
    for (uint64_t n = 1 + below(4); n > 0; n--) {
        increment(below(8) == 0 ? 0 : from, to);
        from = to;
        to += 1 + below(3);
    }
}

static inline void world_end(void)
{
    for (size_t i = 0; i < world.count; i++)
        piece_free(&world.pieces[i]);
    piece_free(&world.pool);
    repl_frame_coder_free(world.coder);
}

/* --- a chain, whatever it is made of ---------------------------------------------------------- */

struct chain {
    const struct repl_segment *segments[6 * SEGMENTS_MAX]; /* oldest first */
    size_t count;
    /* Chunks may also be in what of the history is neither in the chain nor of this run. */
    bool elsewhere;
    size_t run_begin, run_end;
};

static inline repl_result segment_at(void *context, size_t i, const struct repl_segment **out,
                                     struct repl_error *err)
{
    const struct chain *chain = context;
    (void)err;
    *out = i < chain->count ? chain->segments[chain->count - 1 - i] : NULL;
    return REPL_SUCCESS;
}

static inline bool find_in(const struct repl_segment *segment, const struct repl_digest *name,
                           uint32_t *frame, uint32_t *frame_offset)
{
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        if (!repl_digest_equal(&segment->chunks[i].name, name))
            continue;
        *frame = segment->chunks[i].frame;
        *frame_offset = segment->chunks[i].frame_offset;
        return true;
    }
    return false;
}

static inline repl_result find_chunk(void *context, const struct repl_digest *name,
                                     const struct repl_segment **segment, uint32_t *frame,
                                     uint32_t *frame_offset, struct repl_error *err)
{
    const struct chain *chain = context;
    for (size_t i = 0; i <= chain->count; i++) {
        *segment = i < chain->count ? chain->segments[i] : world.pool.segment;
        if (find_in(*segment, name, frame, frame_offset))
            return REPL_SUCCESS;
    }
    for (size_t i = 0; chain->elsewhere && i < world.count; i++) {
        *segment = world.pieces[i].segment;
        if ((i < chain->run_begin || i >= chain->run_end) &&
            find_in(*segment, name, frame, frame_offset))
            return REPL_SUCCESS;
    }
    return repl_fail(err, REPL_E_MISSING, "a chunk is nowhere");
}

static inline void expect_image(struct chain *chain, const struct image *image)
{
    static uint8_t bytes[IMAGE_MAX];
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_error err;
    if (!repl_ok(repl_view_open(segment_at, find_chunk, chain, &view, &err)))
        fail_msg("%s", err.text);
    assert_true(repl_view_size(view) == image->size);
    assert_true(repl_ok(repl_view_reader_new(view, 2, &reader, NULL)));
    if (!repl_ok(repl_view_read(reader, 0, bytes, image->size, &err)))
        fail_msg("%s", err.text);
    assert_memory_equal(bytes, image->bytes, image->size);
    repl_view_reader_free(reader);
    repl_view_free(view);
}

/* Whether the result or a segment behind the run refers to a chunk. */
static inline bool wanted_behind(void *context, const struct repl_digest *name, bool referred)
{
    bool found = referred;
    for (size_t i = *(size_t *)context; i < world.count && !found; i++) {
        struct repl_record_walk walk;
        struct repl_record record;
        bool done = false;
        repl_record_walk_begin(&walk, world.pieces[i].segment, world.coder);
        while (!found && repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)) && !done)
            found = record.type == REPL_RECORD_CHUNK && repl_digest_equal(&record.chunk, name);
        repl_record_walk_end(&walk);
    }
    return found;
}

#endif
