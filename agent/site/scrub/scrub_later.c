/*
 * The bytes of damaged frames as later segments say them: the first of them that
 * says anything of a page. A source that was asked for a page that it has not
 * written since says the same of it again. Whether that is so is not decided here:
 * the frame's checksum does.
 *
 * It is a view (repl/view.h) in which the oldest wins, not the newest.
 */
#include <stdlib.h>
#include <string.h>

#include "repl/view.h"
#include "site/scrub/scrub_internal.h"

struct scrub_later_reader {
    struct scrub_visit *visit;
    const struct repl_segment_id *damaged;
    struct scrub_later *later;
    struct scrub_chunk_coders *coders;
    struct repl_view *view;
    struct repl_view_reader *reader;
};

void scrub_later_fini(struct scrub_later *later)
{
    for (size_t i = 0; i < later->count; i++) {
        repl_segment_free(later->segments[i]);
        later->files[i]->close(later->files[i]);
    }
    later->count = 0;
}

static repl_result segment_at(void *context, size_t i, const struct repl_segment **out,
                              struct repl_error *err)
{
    const struct scrub_later_reader *reader = context;
    (void)err;
    *out = i < reader->later->count ? reader->later->segments[i] : NULL;
    return REPL_SUCCESS;
}

static repl_result chunk_find(void *context, const struct repl_digest *name,
                              const struct repl_segment **segment, uint32_t *frame,
                              uint32_t *frame_offset, struct repl_error *err)
{
    (void)context, (void)name, (void)err;
    *segment = NULL;
    *frame = *frame_offset = 0;
    return REPL_SUCCESS;
}

static repl_result chunk_fetch(void *context, const struct repl_digest *names, size_t count,
                               void *out, struct repl_error *err)
{
    struct scrub_later_reader *reader = context;
    bool found;
    (void)count;
    REPL_TRY(scrub_chunk_take(reader->visit, reader->damaged, &names[0], reader->coders, out,
                              &found, err));
    return found ? REPL_SUCCESS : repl_fail(err, REPL_E_MISSING, "a chunk is nowhere else");
}

repl_result scrub_later_reader_new(struct scrub_visit *visit, const struct repl_segment_id *damaged,
                                   struct scrub_later *later, uint64_t begin, uint64_t end,
                                   struct scrub_chunk_coders *coders,
                                   struct scrub_later_reader **out, struct repl_error *err)
{
    struct scrub_later_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory to read later segments");
    *reader = (struct scrub_later_reader){
        .visit = visit, .damaged = damaged, .later = later, .coders = coders};
    repl_result result =
        repl_view_open_changes(segment_at, chunk_find, reader, begin, end, &reader->view, err);
    if (repl_ok(result)) {
        repl_view_fetch_by(reader->view, chunk_fetch);
        result = repl_view_reader_new(reader->view, 4, &reader->reader, err);
    }
    if (repl_ok(result))
        *out = reader;
    else
        scrub_later_reader_free(reader);
    return result;
}

void scrub_later_reader_free(struct scrub_later_reader *reader)
{
    if (reader == NULL)
        return;
    repl_view_reader_free(reader->reader);
    repl_view_free(reader->view);
    free(reader);
}

repl_result scrub_later_read(struct scrub_later_reader *reader, uint64_t offset, size_t size,
                             uint8_t *out, uint8_t *covered, struct repl_error *err)
{
    uint64_t end = repl_view_size(reader->view);
    end = offset + size < end ? offset + size : end;
    for (uint64_t at = offset; at < end;) {
        bool said;
        uint64_t chunk_end = (at / REPL_CHUNK_SIZE + 1) * REPL_CHUNK_SIZE;
        uint64_t length =
            repl_view_said(reader->view, at, (chunk_end < end ? chunk_end : end) - at, &said);
        repl_result result = REPL_SUCCESS;
        if (said)
            result = repl_view_read(reader->reader, at, out + (at - offset), (size_t)length, err);
        if (result.code == REPL_E_NOMEM || result.code == REPL_E_RETRY)
            return result;
        /* What cannot be read is not known, and what may have been begun in its place neither. */
        if (said)
            memset(covered + (at - offset), repl_ok(result), (size_t)length);
        at += length;
    }
    return REPL_SUCCESS;
}
