/*
 * From which point on a damaged segment does no harm any more: the first by which
 * later segments have said something else of every byte that lay in its damaged
 * frames. A restore of that point or a later one does not read them.
 *
 * A later segment that is damaged itself counts for nothing. What refers to a chunk
 * in a damaged frame is damaged, wherever in the volume it stands. Where this cannot
 * be found out, no point counts as free of the damage.
 */
#include <stdlib.h>
#include <string.h>

#include "site/scrub/scrub_internal.h"
#include "store/segment_name.h"

struct heal {
    struct scrub_visit *visit;
    const struct repl_segment_id *id; /* the damaged one */
    struct scrub_broken *broken;
    struct repl_frame_coder *coder;
};

void scrub_broken_init(struct scrub_broken *broken)
{
    *broken = (struct scrub_broken){.begin = UINT64_MAX};
    repl_extent_map_init(&broken->extents);
}

void scrub_broken_fini(struct scrub_broken *broken)
{
    repl_extent_map_fini(&broken->extents);
    free(broken->frames);
    repl_buffer_fini(&broken->lost);
}

/* Whether the chunk would be read in a damaged frame. */
static repl_result chunk_is_broken(const struct heal *heal, const struct repl_digest *name,
                                   bool *is, struct repl_error *err)
{
    struct repl_chunk_place place;
    bool found;
    REPL_TRY(repl_index_chunk(heal->visit->index, heal->visit->volume, name, &place, &found, err));
    *is = found && strcmp(place.volume, heal->visit->volume) == 0 &&
          repl_segment_id_order(&place.segment, heal->id) == 0 &&
          place.frame < heal->broken->frame_count && heal->broken->frames[place.frame];
    return REPL_SUCCESS;
}

/* *spoke: it says something of what is damaged. */
static repl_result record_apply(struct heal *heal, const struct repl_record *record, bool *spoke,
                                struct repl_error *err)
{
    struct repl_extent_map *map = &heal->broken->extents;
    bool is_broken = false;
    if (record->object != REPL_OBJECT_DEVICE || record->length == 0)
        return REPL_SUCCESS;
    if (record->type == REPL_RECORD_CHUNK)
        REPL_TRY(chunk_is_broken(heal, &record->chunk, &is_broken, err));
    const struct repl_extent extent = {
        .offset = record->offset, .length = record->length, .type = REPL_RECORD_DATA};
    if (is_broken)
        return repl_extent_map_put(map, &extent, err);
    if (record->type != REPL_RECORD_CHUNK && record->type != REPL_RECORD_DATA &&
        record->type != REPL_RECORD_ZERO)
        return REPL_SUCCESS;
    struct repl_extent_cursor cursor = repl_extent_map_seek(map, record->offset);
    const struct repl_extent *next = repl_extent_cursor_next(&cursor);
    if (next == NULL || next->offset >= record->offset + record->length)
        return REPL_SUCCESS;
    *spoke = true;
    return repl_extent_map_cut(map, record->offset, record->length, err);
}

static repl_result manifest_apply(struct heal *heal, const struct repl_segment *segment,
                                  bool *spoke, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    repl_record_walk_begin(&walk, segment, heal->coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    while (repl_ok(result) && !done) {
        result = record_apply(heal, &record, spoke, err);
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    return result;
}

static repl_result entry_apply(struct heal *heal, const struct repl_log_piece *entry,
                               struct scrub_later *later, struct repl_error *err)
{
    struct repl_store *store = heal->visit->store;
    const struct repl_segment_id id = {
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
    struct repl_stored_segment *file;
    struct repl_segment *segment = NULL;
    bool spoke = false;
    if (scrub_visit_is_damaged(heal->visit, &id))
        return REPL_SUCCESS;
    REPL_TRY(store->ops->segment_open(store, heal->visit->volume, &id, entry->commit.file_size,
                                      &file, err));
    repl_result result =
        repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, err);
    if (repl_ok(result))
        result = manifest_apply(heal, segment, &spoke, err);
    if (repl_ok(result) && spoke && later != NULL && later->count < SCRUB_LATER_MAX) {
        later->files[later->count] = file;
        later->segments[later->count++] = segment;
        return REPL_SUCCESS;
    }
    repl_segment_free(segment);
    file->close(file);
    return result;
}

repl_result scrub_heal(struct scrub_visit *visit, size_t entry, const struct repl_segment_id *id,
                       struct scrub_broken *broken, struct scrub_later *later,
                       struct repl_error *err)
{
    const struct repl_chain *chain = &visit->chain;
    struct heal heal = {.visit = visit, .id = id, .broken = broken};
    size_t i = entry + 1;
    REPL_TRY(repl_frame_coder_new(&heal.coder, err));
    repl_result result = REPL_SUCCESS;
    for (; i < chain->count && broken->extents.extent_count > 0 && repl_ok(result); i++) {
        if (chain->entries[i].begins)
            break;
        result = entry_apply(&heal, &chain->entries[i], later, err);
        if (repl_ok(result) && broken->extents.extent_count == 0)
            broken->healed_seq = chain->entries[i].commit.to_seq;
    }
    repl_frame_coder_free(heal.coder);
    broken->healed_known = repl_ok(result);
    broken->current = repl_ok(result) && i == chain->count;
    return result;
}
