#include "store/chunk_reader.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "segment/segment_reader.h"
#include "store/segment_name.h"

struct repl_chunk_reader {
    struct repl_store *store;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_stored_segment *file; /* NULL: none is open */
    struct repl_segment *segment;
    struct repl_placed_chunk last; /* whose segment is open, and whose frame is in raw */
    struct repl_buffer stored;
    uint8_t *raw;
    size_t raw_size; /* 0: nothing */
};

repl_result repl_chunk_reader_new(struct repl_store *store, struct repl_chunk_reader **out,
                                  struct repl_error *err)
{
    struct repl_chunk_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a reader of chunks");
    reader->store = store;
    reader->raw = malloc(REPL_FRAME_RAW_MAX);
    repl_result result = reader->raw == NULL ? repl_fail(err, REPL_E_NOMEM, "no memory for a frame")
                                             : repl_frame_coder_new(&reader->coder, err);
    if (repl_ok(result))
        result = repl_sha256_new(&reader->sha, err);
    if (!repl_ok(result)) {
        repl_chunk_reader_free(reader);
        return result;
    }
    *out = reader;
    return REPL_SUCCESS;
}

static void segment_close(struct repl_chunk_reader *reader)
{
    repl_segment_free(reader->segment);
    if (reader->file != NULL)
        reader->file->close(reader->file);
    reader->segment = NULL;
    reader->file = NULL;
    reader->raw_size = 0;
}

void repl_chunk_reader_free(struct repl_chunk_reader *reader)
{
    if (reader == NULL)
        return;
    segment_close(reader);
    repl_sha256_free(reader->sha);
    repl_frame_coder_free(reader->coder);
    repl_buffer_fini(&reader->stored);
    free(reader->raw);
    free(reader);
}

static int segment_order(const struct repl_placed_chunk *a, const struct repl_placed_chunk *b)
{
    int order = strcmp(a->volume, b->volume);
    return order != 0 ? order : repl_segment_id_order(&a->segment, &b->segment);
}

static int chunk_order(const void *x, const void *y)
{
    const struct repl_placed_chunk *a = x, *b = y;
    int order = segment_order(a, b);
    return order != 0 ? order : (a->frame > b->frame) - (a->frame < b->frame);
}

static repl_result segment_open(struct repl_chunk_reader *reader,
                                const struct repl_placed_chunk *chunk, struct repl_error *err)
{
    if (reader->segment != NULL && segment_order(&reader->last, chunk) == 0)
        return REPL_SUCCESS;
    segment_close(reader);
    return repl_store_open_segment(reader->store, chunk->volume, &chunk->segment, 0, &reader->file,
                                   &reader->segment, err);
}

static repl_result frame_read(struct repl_chunk_reader *reader,
                              const struct repl_placed_chunk *chunk, struct repl_error *err)
{
    if (reader->raw_size > 0 && chunk_order(&reader->last, chunk) == 0)
        return REPL_SUCCESS;
    REPL_TRY(segment_open(reader, chunk, err));
    reader->last = *chunk;
    reader->raw_size = 0;
    if (chunk->frame >= reader->segment->footer.frame_count)
        return repl_fail(err, REPL_E_CORRUPT, "%s has no frame %u, in which a chunk was to be",
                         reader->file->label, chunk->frame);
    size_t size = 0;
    REPL_TRY(repl_forward(repl_segment_read_frame(reader->segment, chunk->frame, reader->coder,
                                                  &reader->stored, reader->raw, &size, err),
                          err, "%s", reader->file->label));
    reader->raw_size = size;
    return REPL_SUCCESS;
}

static repl_result chunk_read(struct repl_chunk_reader *reader,
                              const struct repl_placed_chunk *chunk, const struct repl_digest *name,
                              const void **out, struct repl_error *err)
{
    struct repl_digest actual;
    REPL_TRY(frame_read(reader, chunk, err));
    bool whole = chunk->frame_offset <= reader->raw_size &&
                 reader->raw_size - chunk->frame_offset >= REPL_CHUNK_SIZE;
    *out = reader->raw + chunk->frame_offset;
    if (whole)
        repl_chunk_digest(reader->sha, *out, &actual);
    return whole && repl_digest_equal(&actual, name)
               ? REPL_SUCCESS
               : repl_fail(err, REPL_E_CORRUPT,
                           "%s: a chunk does not have the content it is named for: run repl verify",
                           reader->file->label);
}

repl_result repl_chunk_reader_read(struct repl_chunk_reader *reader,
                                   struct repl_placed_chunk *chunks, uint32_t count,
                                   const struct repl_digest *names, repl_chunk_sink_fn *sink,
                                   void *context, struct repl_error *err)
{
    qsort(chunks, count, sizeof *chunks, chunk_order);
    for (uint32_t i = 0; i < count; i++) {
        const void *bytes;
        REPL_TRY(chunk_read(reader, &chunks[i], &names[chunks[i].at], &bytes, err));
        REPL_TRY(sink(context, chunks[i].at, bytes, err));
    }
    return REPL_SUCCESS;
}
