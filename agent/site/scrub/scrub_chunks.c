/*
 * The bytes of chunks that lie in damaged frames, from where else the pool has
 * them: what a source has supplied once more, since a segment that is damaged is
 * not relied on, or another segment that lists the chunk. A chunk's name is
 * a hash of its bytes, so what is found is what was there.
 *
 * The index knows one place of each. Who else lists a chunk, as two volumes with the same
 * content do that came at the same time, is found by opening every segment and supply of the
 * pool: when damage is found, and not each time that it is looked at again.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "site/scrub/scrub_internal.h"
#include "site/site_chain.h"
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

/* --- all lists of the pool ------------------------------------------------------------------- */

struct search {
    struct scrub_visit *visit;
    const struct repl_segment_id *damaged;
    const struct repl_digest *names;
    size_t count, left;
    bool *found; /* by name */
    struct scrub_chunk_coders *coders;
    scrub_chunk_fn *take;
    void *context;
    uint8_t *bytes;
};

/* What cannot be read there is no error. */
static bool goes_on(repl_result result)
{
    return result.code != REPL_E_NOMEM && result.code != REPL_E_RETRY;
}

static repl_result lists_match(struct search *s, const char *volume,
                               const struct repl_segment_id *id, const struct repl_segment *segment,
                               struct repl_error *err)
{
    struct repl_chunk_place place = {.segment = *id};
    memcpy(place.volume, volume, strlen(volume) + 1);
    for (uint32_t i = 0; i < segment->footer.chunk_count && s->left > 0; i++) {
        const struct repl_chunk_entry *chunk = &segment->chunks[i];
        const struct repl_digest *name =
            bsearch(&chunk->name, s->names, s->count, sizeof *name, repl_digest_order);
        bool whole;
        if (name == NULL || s->found[name - s->names])
            continue;
        place.frame = chunk->frame;
        place.frame_offset = chunk->frame_offset;
        repl_result result = place_read(s->visit, &place, name, s->coders, s->bytes, &whole, err);
        if (!goes_on(result))
            return result;
        if (!repl_ok(result) || !whole)
            continue;
        s->found[name - s->names] = true;
        s->left--;
        s->take(s->context, name, s->bytes);
    }
    return REPL_SUCCESS;
}

static repl_result segment_search(struct search *s, const char *volume,
                                  const struct repl_segment_id *id, uint64_t size,
                                  struct repl_error *err)
{
    struct repl_store *store = s->visit->store;
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    bool same = strcmp(volume, s->visit->volume) == 0;
    if (s->left == 0 || (same && repl_segment_id_order(id, s->damaged) == 0))
        return REPL_SUCCESS;
    if (atomic_load(s->visit->stop))
        return repl_fail(err, REPL_E_RETRY, "told to stop");
    repl_result result = repl_store_open_segment(store, volume, id, size, &file, &segment, err);
    if (!repl_ok(result))
        return goes_on(result) ? REPL_SUCCESS : result;
    site_pacer_spend(&s->visit->pacer, segment->footer.chunk_count * sizeof segment->chunks[0]);
    result = lists_match(s, volume, id, segment, err);
    repl_segment_free(segment);
    file->close(file);
    return result;
}

static repl_result supply_note(void *context, const struct repl_segment_id *id, uint64_t size,
                               struct repl_error *err)
{
    (void)size;
    return id->supply != 0 ? repl_buffer_append(context, id, sizeof *id, err) : REPL_SUCCESS;
}

static repl_result volume_search(struct search *s, const char *volume, struct repl_error *err)
{
    struct repl_store *store = s->visit->store;
    struct repl_buffer supplies = {0};
    struct repl_chain chain;
    repl_chain_init(&chain);
    repl_result result = site_chain_read(s->visit->index, volume, &chain, err);
    for (size_t i = 0; i < chain.count && repl_ok(result) && s->left > 0; i++) {
        const struct repl_log_piece *entry = &chain.entries[i];
        const struct repl_segment_id id = {
            .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
        result = segment_search(s, volume, &id, entry->commit.file_size, err);
    }
    repl_chain_fini(&chain);
    if (repl_ok(result) && s->left > 0)
        result = store->ops->segments(store, volume, supply_note, &supplies, err);
    const struct repl_segment_id *ids = (const void *)supplies.data;
    for (size_t i = 0; i < supplies.size / sizeof *ids && repl_ok(result); i++)
        result = segment_search(s, volume, &ids[i], 0, err);
    repl_buffer_fini(&supplies);
    return result;
}

repl_result scrub_chunks_search(struct scrub_visit *visit, const struct repl_segment_id *damaged,
                                const struct repl_digest *names, size_t count,
                                struct scrub_chunk_coders *coders, scrub_chunk_fn *take,
                                void *context, struct repl_error *err)
{
    struct search s = {.visit = visit,
                       .damaged = damaged,
                       .names = names,
                       .count = count,
                       .left = count,
                       .found = calloc(count, sizeof *s.found),
                       .coders = coders,
                       .take = take,
                       .context = context,
                       .bytes = malloc(REPL_CHUNK_SIZE)};
    repl_result result = s.found == NULL || s.bytes == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for chunks")
                             : volume_search(&s, visit->volume, err);
    for (size_t i = 0; i < visit->mate_count && repl_ok(result); i++)
        result = volume_search(&s, visit->mates[i].volume, err);
    free(s.found);
    free(s.bytes);
    return result;
}

/* --- what lies nowhere else ------------------------------------------------------------------ */

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
