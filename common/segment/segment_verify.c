#include "segment/segment_verify.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/limits.h"
#include "format/segment_format.h"

/* Read at once and hashed while it is in the processor's cache. */
#define PIECE_SIZE (64u << 10)

/* --- the digest ------------------------------------------------------------------------------ */

repl_result repl_segment_digest_init(struct repl_segment_digest *d, struct repl_error *err)
{
    REPL_TRY(repl_sha256_new(&d->sha, err));
    repl_segment_digest_restart(d);
    return REPL_SUCCESS;
}

void repl_segment_digest_fini(struct repl_segment_digest *d)
{
    repl_sha256_free(d->sha);
    d->sha = NULL;
}

void repl_segment_digest_restart(struct repl_segment_digest *d)
{
    repl_sha256_begin(d->sha);
    d->hashed = 0;
}

/* The end of what is there may be the end of the segment, which its digest does not cover. */
repl_result repl_segment_digest_follow(struct repl_segment_digest *d, repl_read_at_fn *read_at,
                                       void *context, uint64_t size, struct repl_error *err)
{
    uint64_t end = size < REPL_SEGMENT_DIGEST_TAIL ? 0 : size - REPL_SEGMENT_DIGEST_TAIL;
    ensure(d->hashed <= end);
    uint8_t *piece = malloc(PIECE_SIZE);
    if (piece == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a piece of a segment");
    repl_result result = REPL_SUCCESS;
    while (d->hashed < end && repl_ok(result)) {
        size_t step = end - d->hashed < PIECE_SIZE ? (size_t)(end - d->hashed) : PIECE_SIZE;
        result = read_at(context, d->hashed, piece, step, err);
        if (repl_ok(result)) {
            repl_sha256_update(d->sha, piece, step);
            d->hashed += step;
        }
    }
    free(piece);
    return result;
}

repl_result repl_segment_verify_digest(const struct repl_segment *s, struct repl_segment_digest *d,
                                       struct repl_error *err)
{
    struct repl_digest digest;
    REPL_TRY(repl_segment_digest_follow(d, s->read_at, s->context, s->footer.file_size, err));
    repl_sha256_end(d->sha, &digest);
    repl_segment_digest_restart(d);
    if (!repl_digest_equal(&digest, &s->footer.digest))
        return repl_fail(err, REPL_E_CORRUPT, "the digest of the whole does not match");
    return REPL_SUCCESS;
}

/* --- records --------------------------------------------------------------------------------- */

repl_result repl_segment_verify_records(const struct repl_segment *segment,
                                        struct repl_frame_coder *coder, struct repl_error *err)
{
    struct repl_record_walk walk;
    repl_record_walk_begin(&walk, segment, coder);
    repl_result result;
    bool done = false;
    do {
        struct repl_record record;
        result = repl_record_walk_next(&walk, &record, &done, err);
    } while (repl_ok(result) && !done);
    repl_record_walk_end(&walk);
    return result;
}

/* --- frames ---------------------------------------------------------------------------------- */

static int chunk_by_frame(const void *a, const void *b)
{
    const struct repl_chunk_entry *x = a, *y = b;
    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

repl_result repl_frame_verifier_init(struct repl_frame_verifier *verifier,
                                     const struct repl_segment *segment, struct repl_error *err)
{
    uint32_t count = segment->footer.chunk_count;
    verifier->segment = segment;
    verifier->chunks = malloc((count + 1) * sizeof *verifier->chunks);
    if (verifier->chunks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment's chunks");
    for (uint32_t i = 0; i < count; i++)
        verifier->chunks[i] = segment->chunks[i];
    qsort(verifier->chunks, count, sizeof *verifier->chunks, chunk_by_frame);
    return REPL_SUCCESS;
}

void repl_frame_verifier_fini(struct repl_frame_verifier *verifier)
{
    free(verifier->chunks);
    verifier->chunks = NULL;
}

/* The first chunk that lies in this frame or in one behind it. */
static uint32_t first_chunk(const struct repl_frame_verifier *verifier, uint32_t frame)
{
    uint32_t low = 0, high = verifier->segment->footer.chunk_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (verifier->chunks[middle].frame < frame)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static repl_result verify_chunk(const struct repl_chunk_entry *chunk, const uint8_t *raw,
                                struct repl_sha256 *sha, struct repl_error *err)
{
    struct repl_digest pages[REPL_CHUNK_PAGES], name;
    for (size_t i = 0; i < REPL_CHUNK_PAGES; i++)
        repl_page_digest(sha, raw + chunk->frame_offset + i * REPL_PAGE_SIZE, REPL_PAGE_SIZE,
                         &pages[i]);
    repl_chunk_name(sha, pages, &name);
    if (!repl_digest_equal(&name, &chunk->name))
        return repl_fail(err, REPL_E_CORRUPT,
                         "a chunk in frame %u does not have the name it is "
                         "listed under",
                         chunk->frame);
    return REPL_SUCCESS;
}

struct frame_scratch {
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_buffer stored, raw;
};

static repl_result verify_pages(const struct repl_segment *s, uint32_t frame, size_t size,
                                struct frame_scratch *scratch, struct repl_error *err)
{
    struct repl_page_digest listed[REPL_FRAME_PAGES_MAX], found[REPL_FRAME_PAGES_MAX];
    uint32_t count;
    REPL_TRY(repl_segment_read_pages(s, frame, listed, &count, err));
    if (count == 0)
        return REPL_SUCCESS;
    repl_page_digests(scratch->sha, scratch->raw.data, size, found);
    if (memcmp(listed, found, count * sizeof *found) != 0)
        return repl_fail(err, REPL_E_CORRUPT, "frame %u: its list of pages is of others", frame);
    return REPL_SUCCESS;
}

static repl_result verify_frames(const struct repl_frame_verifier *verifier, uint32_t first,
                                 uint32_t end, struct frame_scratch *scratch,
                                 struct repl_error *err)
{
    const struct repl_segment *s = verifier->segment;
    uint32_t next = first_chunk(verifier, first);
    for (uint32_t frame = first; frame < end; frame++) {
        size_t size;
        REPL_TRY(repl_segment_read_frame(s, frame, scratch->coder, &scratch->stored,
                                         scratch->raw.data, &size, err));
        REPL_TRY(verify_pages(s, frame, size, scratch, err));
        for (; next < s->footer.chunk_count && verifier->chunks[next].frame == frame; next++)
            REPL_TRY(verify_chunk(&verifier->chunks[next], scratch->raw.data, scratch->sha, err));
    }
    return REPL_SUCCESS;
}

repl_result repl_frame_verifier_run(const struct repl_frame_verifier *verifier, uint32_t first,
                                    uint32_t end, struct repl_frame_coder *coder,
                                    struct repl_error *err)
{
    struct frame_scratch scratch = {.coder = coder};
    REPL_TRY(repl_sha256_new(&scratch.sha, err));
    repl_result result = REPL_SUCCESS;
    if (repl_buffer_extend(&scratch.raw, REPL_FRAME_RAW_MAX) == NULL)
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
    if (repl_ok(result))
        result = verify_frames(verifier, first, end, &scratch, err);
    repl_sha256_free(scratch.sha);
    repl_buffer_fini(&scratch.stored);
    repl_buffer_fini(&scratch.raw);
    return result;
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result verify_whole(const struct repl_segment *segment, struct repl_error *err)
{
    struct repl_segment_digest digest;
    REPL_TRY(repl_segment_digest_init(&digest, err));
    repl_result result = repl_segment_verify_digest(segment, &digest, err);
    repl_segment_digest_fini(&digest);
    return result;
}

repl_result repl_segment_verify(const struct repl_segment *segment, struct repl_frame_coder *coder,
                                struct repl_error *err)
{
    struct repl_frame_verifier verifier;
    REPL_TRY(verify_whole(segment, err));
    REPL_TRY(repl_segment_verify_records(segment, coder, err));
    REPL_TRY(repl_frame_verifier_init(&verifier, segment, err));
    repl_result result =
        repl_frame_verifier_run(&verifier, 0, segment->footer.frame_count, coder, err);
    repl_frame_verifier_fini(&verifier);
    return result;
}
