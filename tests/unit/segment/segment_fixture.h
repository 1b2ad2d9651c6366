/*
 * Segments in memory, for the tests of common/segment, the golden files and the fuzz targets.
 */
#ifndef TESTS_UNIT_SEGMENT_FIXTURE_H
#define TESTS_UNIT_SEGMENT_FIXTURE_H

#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "base/ensure.h"
#include "base/hash.h"
#include "format/segment_format.h"
#include "segment/segment_builder.h"
#include "segment/segment_reader.h"
#include "segment/segment_verify.h"

/* A file in memory: what a builder's sink fills and a reader reads from. */
struct memory_file {
    struct repl_buffer bytes;
    size_t sink_limit; /* the disk is full behind it; 0: never */
};

static inline repl_result memory_sink(void *context, const void *data, size_t size,
                                      struct repl_error *err)
{
    struct memory_file *file = context;
    if (file->sink_limit != 0 && file->bytes.size + size > file->sink_limit)
        return repl_fail(err, REPL_E_NOSPACE, "memory file is full");
    return repl_buffer_append(&file->bytes, data, size, err);
}

/* Bytes that somebody else owns. */
struct memory_span {
    const uint8_t *data;
    size_t size;
};

static inline repl_result memory_read_at(void *context, uint64_t offset, void *out, size_t size,
                                         struct repl_error *err)
{
    const struct memory_span *span = context;
    if (offset > span->size || size > span->size - offset)
        return repl_fail(err, REPL_E_CORRUPT, "the file ends before %zu bytes at %llu", size,
                         (unsigned long long)offset);
    if (size > 0)
        memcpy(out, span->data + offset, size);
    return REPL_SUCCESS;
}

/* The name of the chunk in REPL_CHUNK_SIZE bytes. */
static inline struct repl_digest chunk_name_of(const uint8_t *bytes)
{
    struct repl_sha256 *sha;
    struct repl_digest pages[REPL_CHUNK_PAGES], name;
    ensure(repl_ok(repl_sha256_new(&sha, NULL)));
    for (size_t i = 0; i < REPL_CHUNK_PAGES; i++)
        repl_page_digest(sha, bytes + i * REPL_PAGE_SIZE, REPL_PAGE_SIZE, &pages[i]);
    repl_chunk_name(sha, pages, &name);
    repl_sha256_free(sha);
    return name;
}

static inline struct repl_digest sha256_of(const void *bytes, size_t size)
{
    struct repl_sha256 *sha;
    struct repl_digest digest;
    ensure(repl_ok(repl_sha256_new(&sha, NULL)));
    repl_page_digest(sha, bytes, size, &digest);
    repl_sha256_free(sha);
    return digest;
}

/* Encodes and adds a frame, with the list of its pages where the segment has such; its index. */
static inline uint32_t add_frame(struct repl_segment_builder *builder,
                                 struct repl_frame_coder *coder, const void *raw, size_t size)
{
    struct repl_buffer stored = {0};
    struct repl_frame_entry entry;
    uint32_t index;
    ensure(repl_ok(repl_frame_encode(coder, raw, size, &stored, &entry, NULL)));
    struct repl_page_digest *pages = calloc(REPL_FRAME_PAGES_MAX, sizeof *pages);
    struct repl_sha256 *sha;
    ensure(pages != NULL && repl_ok(repl_sha256_new(&sha, NULL)));
    repl_page_digests(sha, raw, size, pages);
    ensure(repl_ok(repl_segment_builder_frame(builder, &entry, stored.data, pages, &index, NULL)));
    repl_sha256_free(sha);
    free(pages);
    repl_buffer_fini(&stored);
    return index;
}

static inline repl_result read_records(const struct repl_segment *segment,
                                       struct repl_frame_coder *coder, struct repl_buffer *out,
                                       struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool done = false;
    repl_record_walk_begin(&walk, segment, coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    while (repl_ok(result) && !done) {
        uint8_t bytes[REPL_RECORD_SIZE_MAX];
        struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
        repl_record_encode(&w, &record);
        result = repl_buffer_append(out, bytes, w.position, err);
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    return result;
}

static inline repl_result read_frames(const struct repl_segment *segment,
                                      struct repl_frame_coder *coder, struct repl_buffer *out,
                                      struct repl_error *err)
{
    struct repl_buffer stored = {0};
    uint8_t *raw = malloc(REPL_FRAME_RAW_MAX);
    repl_result result = REPL_SUCCESS;
    ensure(raw != NULL);
    for (uint32_t i = 0; i < segment->footer.frame_count && repl_ok(result); i++) {
        size_t size;
        result = repl_segment_read_frame(segment, i, coder, &stored, raw, &size, err);
        if (repl_ok(result))
            result = repl_buffer_append(out, raw, size, err);
    }
    free(raw);
    repl_buffer_fini(&stored);
    return result;
}

/* All that a segment says, as one string of bytes: header, chunks, points, records, frames. Where
 * verify is wanted, the verdict of repl_segment_verify as well. */
static inline repl_result read_all(struct memory_span span, struct repl_frame_coder *coder,
                                   bool verify, struct repl_buffer *out, struct repl_error *err)
{
    struct repl_segment *segment;
    REPL_TRY(repl_segment_open(memory_read_at, &span, span.size, &segment, err));
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    repl_segment_header_encode(&segment->header, bytes);
    repl_result result = repl_buffer_append(out, bytes, sizeof bytes, err);
    for (uint32_t i = 0; i < segment->footer.chunk_count && repl_ok(result); i++) {
        struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
        repl_chunk_entry_encode(&w, &segment->chunks[i]);
        result = repl_buffer_append(out, bytes, w.position, err);
    }
    for (uint32_t i = 0; i < segment->footer.point_count && repl_ok(result); i++) {
        struct repl_writer w = repl_writer_of(bytes, sizeof bytes);
        repl_point_encode(&w, &segment->points[i]);
        result = repl_buffer_append(out, bytes, w.position, err);
    }
    if (repl_ok(result))
        result = read_records(segment, coder, out, err);
    if (repl_ok(result))
        result = read_frames(segment, coder, out, err);
    if (repl_ok(result) && verify)
        result = repl_segment_verify(segment, coder, err);
    repl_segment_free(segment);
    return result;
}

#endif
