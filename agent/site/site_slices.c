/*
 * Parts of a frame, for a recovery that has the others: less than the frame goes
 * over the line. Nothing is kept between two requests, and nothing is looked up:
 * whoever asks has the segment's index.
 */
#include <stdlib.h>
#include <string.h>

#include "segment/frame.h"
#include "site/site_internal.h"

struct slicing {
    struct repl_frame_coder *coder;
    struct repl_buffer stored;
    uint8_t *raw;
};

static repl_result frame_read(struct slicing *s, struct repl_stored_segment *file,
                              const struct repl_frame_entry *frame, struct repl_error *err)
{
    if (frame->offset > file->size || frame->stored_size > file->size - frame->offset)
        return repl_fail(err, REPL_E_CORRUPT, "%s: there is no frame at %llu", file->label,
                         (unsigned long long)frame->offset);
    uint8_t *stored = repl_buffer_extend(&s->stored, frame->stored_size);
    if (stored == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a frame");
    REPL_TRY(file->read_at(file, frame->offset, stored, frame->stored_size, err));
    return repl_forward(repl_frame_decode(s->coder, frame, stored, s->raw, err), err, "%s",
                        file->label);
}

/* The slices take the place of the frame that they are of. */
static repl_result slices_encode(struct slicing *s, const struct repl_slices *wanted,
                                 struct repl_buffer *out, struct repl_error *err)
{
    struct repl_sliced sliced;
    size_t size = 0;
    for (uint32_t i = 0; i < wanted->count; i++) {
        memmove(s->raw + size, s->raw + wanted->slices[i].offset, wanted->slices[i].length);
        size += wanted->slices[i].length;
    }
    s->stored.size = 0;
    REPL_TRY(repl_frame_encode(s->coder, s->raw, size, &s->stored, &sliced.frame, err));
    sliced.stored = s->stored.data;
    return repl_sliced_encode(&sliced, out, err);
}

repl_result site_slices_read(struct repl_site *site, const char *volume,
                             const struct repl_segment_id *id, const struct repl_slices *wanted,
                             struct repl_buffer *out, struct repl_error *err)
{
    struct slicing s = {.raw = malloc(REPL_FRAME_RAW_MAX)};
    struct repl_stored_segment *file = NULL;
    repl_result result = s.raw == NULL ? repl_fail(err, REPL_E_NOMEM, "no memory for a frame")
                                       : repl_frame_coder_new(&s.coder, err);
    if (repl_ok(result))
        result = site->store->ops->segment_open(site->store, volume, id, 0, &file, err);
    if (repl_ok(result)) {
        result = frame_read(&s, file, &wanted->frame, err);
        file->close(file);
    }
    if (repl_ok(result))
        result = slices_encode(&s, wanted, out, err);
    repl_frame_coder_free(s.coder);
    repl_buffer_fini(&s.stored);
    free(s.raw);
    return result;
}
