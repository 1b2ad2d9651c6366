/*
 * From which point on a damaged segment does no harm any more: the first by which
 * later segments have said something else of every byte that lay in its damaged
 * frames. A restore of that point or a later one does not read them.
 *
 * A later segment that is damaged itself counts for nothing, nor does one that
 * refers to a chunk in the damaged segment. Where this cannot be found out, no
 * point counts as free of the damage.
 */
#include <stdlib.h>

#include "site/scrub/scrub_internal.h"
#include "store/segment_name.h"

struct heal {
    struct scrub_visit *visit;
    const struct repl_segment_id *id; /* the damaged one */
    struct repl_extent_map *broken;   /* what is left of it */
    struct repl_frame_coder *coder;
};

/* Whether the chunk would be read in the damaged segment. */
static repl_result chunk_is_broken(const struct heal *heal, const struct repl_digest *name,
                                   bool *is, struct repl_error *err)
{
    struct repl_chunk_place place;
    bool found;
    REPL_TRY(repl_index_chunk(heal->visit->index, heal->visit->volume, name, &place, &found, err));
    *is = found && repl_segment_id_order(&place.segment, heal->id) == 0;
    return REPL_SUCCESS;
}

static repl_result record_cut(struct heal *heal, const struct repl_record *record,
                              struct repl_error *err)
{
    bool is_broken = false;
    if (record->object != REPL_OBJECT_DEVICE || record->length == 0)
        return REPL_SUCCESS;
    if (record->type == REPL_RECORD_CHUNK)
        REPL_TRY(chunk_is_broken(heal, &record->chunk, &is_broken, err));
    if (is_broken || (record->type != REPL_RECORD_CHUNK && record->type != REPL_RECORD_DATA &&
                      record->type != REPL_RECORD_ZERO))
        return REPL_SUCCESS;
    return repl_extent_map_cut(heal->broken, record->offset, record->length, err);
}

static repl_result manifest_cut(struct heal *heal, const struct repl_segment *segment,
                                struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    repl_record_walk_begin(&walk, segment, heal->coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    while (repl_ok(result) && !done && heal->broken->extent_count > 0) {
        result = record_cut(heal, &record, err);
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    return result;
}

static repl_result entry_cut(struct heal *heal, const struct repl_log_piece *entry,
                             struct repl_error *err)
{
    struct repl_store *store = heal->visit->store;
    const struct repl_segment_id id = {
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
    struct repl_stored_segment *file;
    struct repl_segment *segment = NULL;
    if (scrub_visit_is_damaged(heal->visit, &id))
        return REPL_SUCCESS;
    REPL_TRY(store->ops->segment_open(store, heal->visit->volume, &id, entry->commit.file_size,
                                      &file, err));
    repl_result result =
        repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, err);
    if (repl_ok(result))
        result = manifest_cut(heal, segment, err);
    repl_segment_free(segment);
    file->close(file);
    return result;
}

repl_result scrub_heal(struct scrub_visit *visit, size_t entry, const struct repl_segment_id *id,
                       struct repl_extent_map *broken, uint64_t *healed_seq, struct repl_error *err)
{
    const struct repl_chain *chain = &visit->chain;
    struct heal heal = {.visit = visit, .id = id, .broken = broken};
    *healed_seq = 0;
    REPL_TRY(repl_frame_coder_new(&heal.coder, err));
    repl_result result = REPL_SUCCESS;
    for (size_t i = entry + 1; i < chain->count && broken->extent_count > 0 && repl_ok(result);
         i++) {
        if (chain->entries[i].begins)
            break;
        result = entry_cut(&heal, &chain->entries[i], err);
        if (repl_ok(result) && broken->extent_count == 0)
            *healed_seq = chain->entries[i].commit.to_seq;
    }
    repl_frame_coder_free(heal.coder);
    return result;
}
