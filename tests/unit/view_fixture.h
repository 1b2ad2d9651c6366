/*
 * A chain of segments in memory and the view of its last point. Needs cmocka.h before it.
 */
#ifndef TESTS_UNIT_VIEW_FIXTURE_H
#define TESTS_UNIT_VIEW_FIXTURE_H

#include "repl/view.h"
#include "unit/segment/segment_fixture.h"

#define SEGMENTS_MAX 8u
#define PAGE         REPL_PAGE_SIZE

/* A chain of segments in memory, oldest first. */
struct chain {
    struct memory_file files[SEGMENTS_MAX];
    struct memory_span spans[SEGMENTS_MAX];
    struct repl_segment *segments[SEGMENTS_MAX];
    size_t count;
    struct repl_digest last;
    struct repl_frame_coder *coder;
};

static inline struct chain *chain_new(void)
{
    static struct chain chain;
    memset(&chain, 0, sizeof chain);
    assert_true(repl_ok(repl_frame_coder_new(&chain.coder, NULL)));
    return &chain;
}

static inline void chain_free(struct chain *chain)
{
    for (size_t i = 0; i < chain->count; i++) {
        repl_segment_free(chain->segments[i]);
        repl_buffer_fini(&chain->files[i].bytes);
    }
    repl_frame_coder_free(chain->coder);
}

static inline struct repl_segment_builder *build(struct chain *chain, uint64_t from, uint64_t to,
                                                 uint32_t part, uint64_t size)
{
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_CHANGES,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .features = REPL_FEATURE_PAGES,
                                         .lineage = 1,
                                         .from_seq = from,
                                         .to_seq = to,
                                         .part = part,
                                         .prev = chain->last};
    struct repl_segment_builder *builder;
    assert_true(repl_ok(repl_segment_builder_new(&header, size, memory_sink,
                                                 &chain->files[chain->count], &builder, NULL)));
    return builder;
}

static inline void finish(struct chain *chain, struct repl_segment_builder *builder, uint64_t to,
                          bool has_point)
{
    struct repl_point point = {.seq = to,
                               .begin_ns = 1,
                               .end_ns = 2,
                               .consistency = REPL_CONSISTENCY_CRASH,
                               .cut = REPL_CUT_QUIET,
                               .attempts = 1};
    struct repl_segment_footer footer;
    assert_true(repl_ok(repl_segment_builder_finish(builder, &point, has_point, &footer, NULL)));
    repl_segment_builder_free(builder);
    size_t i = chain->count++;
    chain->last = footer.digest;
    chain->spans[i] = (struct memory_span){chain->files[i].bytes.data, chain->files[i].bytes.size};
    assert_true(repl_ok(repl_segment_open(memory_read_at, &chain->spans[i], chain->spans[i].size,
                                          &chain->segments[i], NULL)));
}

static inline void data(struct chain *chain, struct repl_segment_builder *builder, uint64_t offset,
                        uint64_t length, uint8_t value)
{
    uint8_t bytes[64 * PAGE];
    memset(bytes, value, length);
    struct repl_extent extent = {.offset = offset,
                                 .length = length,
                                 .source = add_frame(builder, chain->coder, bytes, length),
                                 .type = REPL_RECORD_DATA};
    assert_true(repl_ok(repl_segment_builder_extent(builder, &extent, NULL)));
}

static inline void zero(struct repl_segment_builder *builder, uint64_t offset, uint64_t length)
{
    struct repl_extent extent = {.offset = offset, .length = length, .type = REPL_RECORD_ZERO};
    assert_true(repl_ok(repl_segment_builder_extent(builder, &extent, NULL)));
}

static inline repl_result segment_at(void *context, size_t i, const struct repl_segment **out,
                                     struct repl_error *err)
{
    const struct chain *chain = context;
    (void)err;
    *out = i < chain->count ? chain->segments[chain->count - 1 - i] : NULL;
    return REPL_SUCCESS;
}

static inline repl_result find_chunk(void *context, const struct repl_digest *name,
                                     const struct repl_segment **segment, uint32_t *frame,
                                     uint32_t *frame_offset, struct repl_error *err)
{
    const struct chain *chain = context;
    for (size_t i = 0; i < chain->count; i++) {
        for (uint32_t k = 0; k < chain->segments[i]->footer.chunk_count; k++) {
            const struct repl_chunk_entry *chunk = &chain->segments[i]->chunks[k];
            if (!repl_digest_equal(&chunk->name, name))
                continue;
            *segment = chain->segments[i];
            *frame = chunk->frame;
            *frame_offset = chunk->frame_offset;
            return REPL_SUCCESS;
        }
    }
    return repl_fail(err, REPL_E_MISSING, "a chunk is nowhere");
}

static inline struct repl_view *view_of(struct chain *chain)
{
    struct repl_view *view;
    struct repl_error err;
    if (!repl_ok(repl_view_open(segment_at, find_chunk, chain, &view, &err)))
        fail_msg("%s", err.text);
    return view;
}

#endif
