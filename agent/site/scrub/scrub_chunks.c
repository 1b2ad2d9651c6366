/*
 * The bytes of chunks that lie in damaged frames, from where else the pool has
 * them: what a source has supplied once more, since a segment that is damaged is
 * not relied on, or another segment that lists the chunk by now. A chunk's name is
 * a hash of its bytes, so what is found is what was there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "site/scrub/scrub_internal.h"
#include "store/segment_name.h"

/* The chunk that lies at the place into out. *found false: it is not there as its name says. */
static repl_result place_read(struct scrub_visit *visit, const struct repl_chunk_place *place,
                              const struct repl_digest *name, struct scrub_chunk_coders *coders,
                              uint8_t *out, bool *found, struct repl_error *err)
{
    struct repl_store *store = visit->store;
    struct repl_stored_segment *file;
    struct repl_segment *segment = NULL;
    struct repl_buffer stored = {0};
    struct repl_digest actual;
    size_t size = 0;
    uint8_t *raw = malloc(REPL_FRAME_RAW_MAX);
    if (raw == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
    repl_result result =
        store->ops->segment_open(store, place->volume, &place->segment, 0, &file, err);
    if (!repl_ok(result)) {
        free(raw);
        return result;
    }
    result = repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, err);
    if (repl_ok(result) && place->frame < segment->footer.frame_count)
        result = repl_segment_read_frame(segment, place->frame, coders->frames, &stored, raw, &size,
                                         err);
    site_pacer_spend(&visit->pacer, stored.size);
    *found = repl_ok(result) && place->frame_offset <= size &&
             size - place->frame_offset >= REPL_CHUNK_SIZE;
    if (*found) {
        repl_chunk_digest(coders->sha, raw + place->frame_offset, &actual);
        *found = repl_digest_equal(&actual, name);
    }
    if (*found)
        memcpy(out, raw + place->frame_offset, REPL_CHUNK_SIZE);
    repl_segment_free(segment);
    repl_buffer_fini(&stored);
    file->close(file);
    free(raw);
    return result;
}

repl_result scrub_chunk_take(struct scrub_visit *visit, const struct repl_segment_id *damaged,
                             const struct repl_digest *name, struct scrub_chunk_coders *coders,
                             uint8_t *out, bool *found, struct repl_error *err)
{
    struct repl_chunk_place place;
    REPL_TRY(repl_index_chunk(visit->index, visit->volume, name, &place, found, err));
    if (*found && strcmp(place.volume, visit->volume) == 0 &&
        repl_segment_id_order(&place.segment, damaged) == 0)
        *found = false;
    return *found ? place_read(visit, &place, name, coders, out, found, err) : REPL_SUCCESS;
}

repl_result scrub_lost_find(struct scrub_visit *visit, const struct repl_segment_id *id,
                            const struct repl_segment *segment, const bool *broken,
                            struct repl_buffer *out, struct repl_error *err)
{
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        const struct repl_chunk_entry *chunk = &segment->chunks[i];
        struct repl_chunk_place place;
        bool found;
        if (!broken[chunk->frame])
            continue;
        REPL_TRY(repl_index_chunk(visit->index, visit->volume, &chunk->name, &place, &found, err));
        bool elsewhere = found && (strcmp(place.volume, visit->volume) != 0 ||
                                   repl_segment_id_order(&place.segment, id) != 0);
        if (!elsewhere)
            REPL_TRY(repl_buffer_append(out, &chunk->name, sizeof chunk->name, err));
    }
    out->size = repl_digests_unique((struct repl_digest *)(void *)out->data,
                                    out->size / sizeof(struct repl_digest)) *
                sizeof(struct repl_digest);
    return REPL_SUCCESS;
}
