/*
 * A supply that another zstd had compressed, made anew: each whole frame as it is,
 * each damaged one of the same bytes. Frames keep their numbers, and chunks their places
 * in them, so that what the index says of the supply stays true. Its digest is
 * another one, which nobody has kept: a supply is in no chain.
 *
 * Who has the damaged file open goes on with that one. In a bucket what is read may be of the
 * old file and of the new one: a frame that is neither has another checksum.
 */
#include <stdlib.h>
#include <unistd.h>

#include "block/read_full.h"
#include "segment/segment_builder.h"
#include "site/scrub/scrub_repair.h"

struct output {
    struct repair *r;
    struct repl_segment_builder *builder;
    uint64_t written;
    uint32_t next; /* frame */
    struct repl_buffer stored;
};

static repl_result output_put(void *context, const void *data, size_t size, struct repl_error *err)
{
    struct output *out = context;
    if (!repl_write_full(out->r->staged_fd, data, size, out->written))
        return repair_staged_fail(out->r, err);
    out->written += size;
    return REPL_SUCCESS;
}

static repl_result frame_put(struct output *out, const struct repl_frame_entry *entry,
                             const struct repl_page_digest *pages, struct repl_error *err)
{
    uint32_t index;
    out->next++;
    return repl_segment_builder_frame(out->builder, entry, out->stored.data, pages, &index, err);
}

/* Whole frames, up to one that is not. */
static repl_result frames_copy(struct output *out, uint32_t end, struct repl_error *err)
{
    while (out->next < end) {
        const struct repl_frame_entry *entry = &out->r->segment->frames[out->next];
        struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
        uint32_t listed;
        if (!repl_ok(repl_segment_read_pages(out->r->segment, out->next, pages, &listed, NULL)))
            listed = 0; /* its pages are compared by reading it */
        out->stored.size = 0;
        uint8_t *bytes = repl_buffer_extend(&out->stored, entry->stored_size);
        if (bytes == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
        REPL_TRY(repair_read_at(out->r, entry->offset, bytes, entry->stored_size, err));
        REPL_TRY(frame_put(out, entry, listed > 0 ? pages : NULL, err));
    }
    return REPL_SUCCESS;
}

static repl_result frames_write(struct output *out, struct scrub_broken *broken,
                                struct repl_error *err)
{
    struct repair *r = out->r;
    repl_result result = REPL_SUCCESS;
    for (uint32_t first = 0; first < r->broken_count && repl_ok(result);
         first += SCRUB_FRAMES_MAX) {
        result = repair_round(r, first, broken, err);
        for (uint32_t i = 0; i < r->round_count && repl_ok(result); i++) {
            struct repl_frame_entry entry;
            struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
            result = frames_copy(out, r->round[i].index, err);
            out->stored.size = 0;
            if (repl_ok(result))
                result = repair_encode_anew(r, &r->round[i], &out->stored, &entry, err);
            if (repl_ok(result)) {
                repl_page_digests(r->coders.sha, r->round[i].raw, entry.raw_size, pages);
                result = frame_put(out, &entry, pages, err);
            }
        }
        repair_round_end(r);
    }
    return repl_ok(result) ? frames_copy(out, r->segment->footer.frame_count, err) : result;
}

static repl_result supply_write(struct output *out, struct scrub_broken *broken,
                                struct repl_error *err)
{
    const struct repl_segment *segment = out->r->segment;
    struct repl_segment_footer footer;
    REPL_TRY(repl_segment_builder_new(&segment->header, 0, output_put, out, &out->builder, err));
    REPL_TRY(frames_write(out, broken, err));
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++)
        REPL_TRY(repl_segment_builder_chunk(out->builder, &segment->chunks[i], err));
    REPL_TRY(repl_segment_builder_finish(out->builder, NULL, 0, &footer, err));
    return fsync(out->r->staged_fd) == 0 ? REPL_SUCCESS : repair_staged_fail(out->r, err);
}

static repl_result supply_check(struct repair *r, uint64_t size, struct repl_error *err)
{
    struct repl_segment *segment;
    REPL_TRY(repl_segment_open(repair_staged_read_at, r, size, &segment, err));
    repl_result result = repl_segment_verify(segment, r->coder, err);
    repl_segment_free(segment);
    return result;
}

repl_result repair_supply(struct repair *r, struct scrub_broken *broken, struct repl_error *err)
{
    struct output out = {.r = r};
    if (r->staged_fd >= 0) { /* of what did not become what it was */
        close(r->staged_fd);
        r->staged_fd = -1;
    }
    repl_result result = repair_staged_open(r, err);
    if (repl_ok(result))
        result = supply_write(&out, broken, err);
    if (repl_ok(result))
        result = supply_check(r, out.written, err);
    if (repl_ok(result))
        result = repair_staged_publish(r, err);
    repl_segment_builder_free(out.builder);
    repl_buffer_fini(&out.stored);
    return result;
}
