/*
 * The ends of segments: whoever reads a point has to open each that it is made of,
 * and is given here what that takes of a few hundred at once.
 */
#include <stdlib.h>

#include "format/segment_format.h"
#include "segment/segment_reader.h"
#include "site/site_internal.h"

/* Where all that is behind the frames begins. */
static uint64_t tail_begin(const struct repl_segment *segment)
{
    uint32_t count = segment->footer.frame_count;
    if (count == 0)
        return REPL_SEGMENT_HEADER_SIZE;
    const struct repl_frame_entry *last = &segment->frames[count - 1];
    return last->offset + last->stored_size;
}

/* Header and tail, behind each other, to bytes. What is longer than may be given is left out. */
static repl_result tail_append(struct repl_stored_segment *file, const struct repl_segment *segment,
                               struct repl_tail *tail, struct repl_buffer *bytes,
                               struct repl_error *err)
{
    uint64_t begin = tail_begin(segment);
    if (file->size - begin > REPL_TAIL_BYTES_MAX)
        return REPL_SUCCESS;
    uint32_t size = (uint32_t)(file->size - begin);
    uint8_t *room = repl_buffer_extend(bytes, REPL_SEGMENT_HEADER_SIZE + (size_t)size);
    if (room == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the end of a segment");
    REPL_TRY(file->read_at(file, 0, room, REPL_SEGMENT_HEADER_SIZE, err));
    REPL_TRY(file->read_at(file, begin, room + REPL_SEGMENT_HEADER_SIZE, size, err));
    *tail = (struct repl_tail){.size = size, .begin = begin};
    return REPL_SUCCESS;
}

/* What cannot be opened is left out too: whoever reads it is told why. */
static repl_result tail_read(struct repl_site *site, const char *volume,
                             const struct repl_unopened_entry *entry, struct repl_tail *tail,
                             struct repl_buffer *bytes, struct repl_error *err)
{
    const struct repl_segment_id id = {
        .to_seq = entry->to_seq, .part = entry->part, .merge = entry->merge};
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    size_t before = bytes->size;
    *tail = (struct repl_tail){0};
    if (entry->to_seq == 0)
        return REPL_SUCCESS;
    repl_result result = repl_store_open_segment(site->store, volume, &id, 0, &file, &segment, err);
    if (repl_ok(result)) {
        result = tail_append(file, segment, tail, bytes, err);
        repl_segment_free(segment);
        file->close(file);
    }
    if (repl_ok(result) || result.code == REPL_E_NOMEM || result.code == REPL_E_RETRY)
        return result;
    bytes->size = before;
    *tail = (struct repl_tail){0};
    return REPL_SUCCESS;
}

static repl_result tails_gather(struct repl_site *site, const char *volume,
                                const struct repl_unopened *unopened, struct repl_tails *tails,
                                struct repl_buffer *bytes, struct repl_error *err)
{
    size_t room = 0;
    for (uint32_t i = 0; i < unopened->count; i++) {
        struct repl_tail *tail = &tails->tails[i];
        REPL_TRY(tail_read(site, volume, &unopened->entries[i], tail, bytes, err));
        room += repl_tail_room(tail);
        if (room > REPL_TAILS_ROOM)
            break;
        tails->count++;
    }
    const uint8_t *at = bytes->data;
    for (uint32_t i = 0; i < tails->count; i++) {
        struct repl_tail *tail = &tails->tails[i];
        if (tail->size == 0)
            continue;
        tail->header = at;
        tail->bytes = at + REPL_SEGMENT_HEADER_SIZE;
        at += REPL_SEGMENT_HEADER_SIZE + tail->size;
    }
    return REPL_SUCCESS;
}

repl_result site_tails_read(struct repl_site *site, const char *volume,
                            const struct repl_unopened *unopened, struct repl_buffer *out,
                            struct repl_error *err)
{
    struct repl_buffer bytes = {0};
    struct repl_tails tails = {.tails = calloc(unopened->count, sizeof tails.tails[0])};
    repl_result result = tails.tails == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "no memory for the ends of segments")
                             : tails_gather(site, volume, unopened, &tails, &bytes, err);
    if (repl_ok(result))
        result = repl_tails_encode(&tails, out, err);
    repl_tails_fini(&tails);
    repl_buffer_fini(&bytes);
    return result;
}
