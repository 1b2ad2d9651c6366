/*
 * Chunks that nothing refers to any more, in segments that stay.
 *
 * A merge carries chunks along whose bytes are superseded, for others that refer
 * to them (merge_chunks.c); when the last of these goes, nothing happens to what
 * carries them. So what merges have made is looked at where a visit finds nothing
 * else to do: at each segment once, to see whether it carries any, and at those
 * that carry much every day.
 *
 *   carried  of a chunk that is listed, what no extent of the segment itself reads
 *   dead     what is carried of chunks that no segment of the pool refers to
 *
 * Both as stored: the share that the bytes have in their frame.
 *
 * What is made anew is a unit: all segments of a point; of the base those that were
 * made with its point, as one of them has it and their names are wanted (docs/formats/log.md,
 * section 5), and of the others those of which SHARE is dead. It is due when SHARE of it is
 * dead: then no more than that of what merges have made is, in any volume, and what is
 * written is at most three times what it frees. It is a merge like any other, of one unit.
 *
 * What is found is not kept over a start.
 */
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/limits.h"
#include "site/compactor/compactor_internal.h"
#include "store/segment_name.h"

#define SHARE 4u /* a quarter */

/* Segments are opened and walked: the others of a volume wait for its next visit. */
#define LOOKS_MAX 32u

/* When something was looked at of which that is not known any more. */
#define LOOKED_ONCE INT64_C(1)

void compactor_sweeps_fini(struct compactor_sweeps *sweeps)
{
    for (size_t i = 0; i < sweeps->count; i++)
        free(sweeps->volumes[i].looks);
    free(sweeps->volumes);
    *sweeps = (struct compactor_sweeps){.every_ns = sweeps->every_ns};
}

/* --- one segment ----------------------------------------------------------------------------- */

/* How much of each chunk that is listed the segment's own extents read. */
struct tally {
    const struct repl_segment *segment;
    struct tally_chunk {
        const struct repl_chunk_entry *entry;
        uint64_t read_bytes;
    } * chunks; /* by frame and offset */
};

static int chunk_order(const void *a, const void *b)
{
    const struct repl_chunk_entry *x = ((const struct tally_chunk *)a)->entry;
    const struct repl_chunk_entry *y = ((const struct tally_chunk *)b)->entry;
    if (x->frame != y->frame)
        return x->frame < y->frame ? -1 : 1;
    return x->frame_offset < y->frame_offset ? -1 : x->frame_offset > y->frame_offset;
}

static void tally_extent(const struct tally *tally, const struct repl_record *record)
{
    const uint64_t begin = record->frame_offset, end = begin + record->length;
    size_t low = 0, high = tally->segment->footer.chunk_count;
    while (low < high) { /* the first that ends behind begin */
        size_t middle = low + (high - low) / 2;
        const struct repl_chunk_entry *entry = tally->chunks[middle].entry;
        if (entry->frame < record->frame ||
            (entry->frame == record->frame && entry->frame_offset + REPL_CHUNK_SIZE <= begin))
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < tally->segment->footer.chunk_count; low++) {
        struct tally_chunk *chunk = &tally->chunks[low];
        uint64_t from = chunk->entry->frame_offset, to = from + REPL_CHUNK_SIZE;
        if (chunk->entry->frame != record->frame || from >= end)
            break;
        chunk->read_bytes += (to < end ? to : end) - (from > begin ? from : begin);
    }
}

static repl_result tally_manifest(const struct tally *tally, struct site_pacer *pacer,
                                  struct repl_error *err)
{
    struct repl_frame_coder *coder;
    struct repl_record_walk walk;
    bool done = false;
    REPL_TRY(repl_frame_coder_new(&coder, err));
    repl_record_walk_begin(&walk, tally->segment, coder);
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result) && !done) {
        struct repl_record record = {0};
        result = repl_record_walk_next(&walk, &record, &done, err);
        if (repl_ok(result) && !done && record.type == REPL_RECORD_DATA)
            tally_extent(tally, &record);
    }
    repl_record_walk_end(&walk);
    repl_frame_coder_free(coder);
    for (uint32_t i = 0; i < tally->segment->footer.block_count; i++)
        site_pacer_spend(pacer, tally->segment->blocks[i].frame.stored_size);
    return result;
}

static repl_result tally_weigh(struct compactor_visit *visit, const struct tally *tally,
                               struct compactor_look *look, struct repl_error *err)
{
    for (uint32_t i = 0; i < tally->segment->footer.chunk_count; i++) {
        const struct tally_chunk *chunk = &tally->chunks[i];
        const struct repl_frame_entry *frame = &tally->segment->frames[chunk->entry->frame];
        bool referred;
        if (chunk->read_bytes >= REPL_CHUNK_SIZE) /* more where bytes are read twice */
            continue;
        uint64_t bytes =
            (REPL_CHUNK_SIZE - chunk->read_bytes) * frame->stored_size / frame->raw_size;
        look->carried_bytes += bytes;
        REPL_TRY(repl_index_is_referred(visit->index, visit->volume, &chunk->entry->name, NULL, 0,
                                        &referred, err));
        if (!referred)
            look->dead_bytes += bytes;
    }
    return REPL_SUCCESS;
}

static repl_result segment_weigh(struct compactor_visit *visit, const struct repl_segment *segment,
                                 struct compactor_look *look, struct repl_error *err)
{
    struct tally tally = {.segment = segment};
    look->carried_bytes = look->dead_bytes = 0;
    if (segment->footer.chunk_count == 0)
        return REPL_SUCCESS;
    tally.chunks = calloc(segment->footer.chunk_count, sizeof *tally.chunks);
    if (tally.chunks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %u chunks",
                         segment->footer.chunk_count);
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++)
        tally.chunks[i].entry = &segment->chunks[i];
    qsort(tally.chunks, segment->footer.chunk_count, sizeof *tally.chunks, chunk_order);
    repl_result result = tally_manifest(&tally, &visit->pacer, err);
    if (repl_ok(result))
        result = tally_weigh(visit, &tally, look, err);
    free(tally.chunks);
    return result;
}

static repl_result segment_look(struct compactor_visit *visit, const struct repl_log_piece *entry,
                                struct compactor_look *look, struct repl_error *err)
{
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    REPL_TRY(repl_store_open_segment(visit->options.store, visit->volume, &look->id,
                                     entry->commit.file_size, &file, &segment, err));
    repl_result result = segment_weigh(visit, segment, look, err);
    repl_segment_free(segment);
    result = repl_forward(result, err, "%s", file->label);
    file->close(file);
    return result;
}

/* --- what is known of a volume --------------------------------------------------------------- */

static struct compactor_sweep *sweep_of(struct compactor_sweeps *sweeps, const char *volume)
{
    for (size_t i = 0; i < sweeps->count; i++) {
        if (strcmp(sweeps->volumes[i].volume, volume) == 0)
            return &sweeps->volumes[i];
    }
    struct compactor_sweep *larger =
        reallocarray(sweeps->volumes, sweeps->count + 1, sizeof *larger);
    if (larger == NULL)
        return NULL;
    sweeps->volumes = larger;
    struct compactor_sweep *sweep = &larger[sweeps->count++];
    *sweep = (struct compactor_sweep){0};
    memcpy(sweep->volume, volume, strlen(volume) + 1);
    return sweep;
}

static struct repl_segment_id id_of(const struct repl_log_piece *entry)
{
    return (struct repl_segment_id){
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
}

/* One look for each entry of the chain, as much as is known of it. */
static repl_result looks_spread(const struct compactor_sweep *sweep, const struct repl_chain *chain,
                                struct compactor_look **out, struct repl_error *err)
{
    struct compactor_look *looks = calloc(chain->count + 1, sizeof *looks);
    if (looks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", chain->count);
    for (size_t i = 0, k = 0; i < chain->count; i++) {
        looks[i].id = id_of(&chain->entries[i]);
        while (k < sweep->count && repl_segment_id_order(&sweep->looks[k].id, &looks[i].id) < 0)
            k++;
        if (k < sweep->count && repl_segment_id_order(&sweep->looks[k].id, &looks[i].id) == 0)
            looks[i] = sweep->looks[k];
        else if (looks[i].id.merge <= sweep->looked_merge)
            looks[i].looked_ns = LOOKED_ONCE;
    }
    *out = looks;
    return REPL_SUCCESS;
}

/* The first merge of which something has not been looked at; else the one after the last. */
static uint64_t merge_unlooked(const struct compactor_look *looks, size_t count)
{
    uint64_t unlooked = UINT64_MAX, newest = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t merge = looks[i].id.merge;
        if (merge > newest)
            newest = merge;
        if (merge != 0 && looks[i].looked_ns == 0 && merge < unlooked)
            unlooked = merge;
    }
    return unlooked < newest ? unlooked : newest + 1;
}

/* A site has a thousand volumes of thousands of segments, of which next to none carry anything:
 * those are not kept one by one. A later merge has a greater number than all before. */
static void looks_keep(struct compactor_sweep *sweep, struct compactor_look *looks, size_t count)
{
    uint64_t unlooked = merge_unlooked(looks, count);
    if (unlooked - 1 > sweep->looked_merge)
        sweep->looked_merge = unlooked - 1;
    free(sweep->looks);
    sweep->count = 0;
    for (size_t i = 0; i < count; i++) {
        bool carries = looks[i].carried_bytes > 0;
        if (looks[i].looked_ns != 0 && looks[i].id.merge != 0 &&
            (carries || looks[i].id.merge > sweep->looked_merge))
            looks[sweep->count++] = looks[i];
    }
    struct compactor_look *smaller = realloc(looks, (sweep->count + 1) * sizeof *looks);
    sweep->looks = smaller != NULL ? smaller : looks;
}

/* --- units ----------------------------------------------------------------------------------- */

struct unit {
    size_t first, end; /* in the chain */
    uint64_t after_seq;
    bool base; /* what the history begins with */
};

/* The one that begins at entry i. */
static struct unit unit_at(const struct repl_chain *chain, size_t i)
{
    const struct repl_log_piece *entries = chain->entries;
    struct unit unit = {
        .first = i, .end = i + 1, .base = i == 0 && entries[0].commit.from_seq == 0};
    while (unit.end < chain->count &&
           (unit.base ? entries[unit.end].commit.from_seq == 0 && !entries[unit.end].begins
                      : entries[unit.end].commit.to_seq == entries[i].commit.to_seq))
        unit.end++;
    unit.after_seq = i > 0 ? entries[i - 1].commit.to_seq : 0;
    return unit;
}

/* Whether a merge may be of it alone: it stands between two points, and behind it is another one.
 */
static bool unit_may(const struct compactor_visit *visit, const struct unit *unit)
{
    const struct repl_chain *chain = &visit->chain;
    const struct repl_log_piece *last = &chain->entries[unit->end - 1];
    return unit->end < chain->count && last->commit.to_seq <= visit->reached_seq &&
           repl_chain_has_point(chain, unit->end - 1) &&
           (unit->base || (unit->first > 0 && repl_chain_has_point(chain, unit->first - 1))) &&
           !compactor_visit_skips(visit, unit->after_seq, last->commit.to_seq);
}

/* Whether entry i has to be made anew with the unit. */
static bool is_bound(const struct compactor_visit *visit, const struct unit *unit, size_t i)
{
    const struct repl_log_piece *entries = visit->chain.entries;
    return !unit->base || entries[i].commit.to_seq == entries[unit->end - 1].commit.to_seq;
}

/* Whether a quarter of what would be made anew would go, of so many bytes of each segment. */
static bool unit_is_over(const struct compactor_visit *visit, const struct unit *unit,
                         const struct compactor_look *looks, bool carried)
{
    uint64_t size = 0, going = 0;
    for (size_t i = unit->first; i < unit->end; i++) {
        uint64_t file_size = visit->chain.entries[i].commit.file_size;
        uint64_t bytes = carried ? looks[i].carried_bytes : looks[i].dead_bytes;
        if (!is_bound(visit, unit, i) && bytes < file_size / SHARE)
            continue;
        size += file_size;
        going += bytes;
    }
    return going > 0 && going >= size / SHARE;
}

static bool is_due(const struct compactor_visit *visit, const struct compactor_look *look,
                   bool carries)
{
    return look->id.merge != 0 && (look->looked_ns == 0 || (carries && look->carried_bytes > 0 &&
                                                            repl_now_mono_ns() - look->looked_ns >=
                                                                visit->sweeps->every_ns));
}

/* Looks at what has not been looked at, or not for a day. *left: how many more it may be. */
static void unit_look(struct compactor_visit *visit, const struct unit *unit,
                      struct compactor_look *looks, unsigned *left)
{
    bool carries = unit_is_over(visit, unit, looks, true);
    for (size_t i = unit->first; i < unit->end && !atomic_load(visit->options.stop); i++) {
        struct repl_error err;
        if (!is_due(visit, &looks[i], carries))
            continue;
        if (*left == 0) {
            visit->more = true;
            return;
        }
        (*left)--;
        looks[i].looked_ns = repl_now_mono_ns();
        if (!repl_ok(segment_look(visit, &visit->chain.entries[i], &looks[i], &err)))
            repl_log(LOG_WARNING,
                     "volume %s: what a segment carries for others is not known: %s: run repl "
                     "verify",
                     visit->volume, err.text);
    }
}

/* The merge is to be of this unit; which of its segments it makes anew is said one by one. */
static repl_result unit_merge(struct compactor_visit *visit, const struct unit *unit,
                              struct repl_error *err)
{
    const struct repl_log_commit *last = &visit->chain.entries[unit->end - 1].commit;
    visit->remade = calloc(unit->end - unit->first, sizeof *visit->remade);
    if (visit->remade == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of segments");
    visit->merge = (struct repl_merge){
        .after_seq = unit->after_seq, .to_seq = last->to_seq, .from_seq = last->from_seq};
    visit->found = true;
    return REPL_SUCCESS;
}

static void segment_remake(struct compactor_visit *visit, const struct unit *unit, size_t i)
{
    visit->remade[i - unit->first] = true;
    visit->merge.segments++;
    visit->merge.size_bytes += visit->chain.entries[i].commit.file_size;
}

static repl_result unit_take(struct compactor_visit *visit, const struct unit *unit,
                             const struct compactor_look *looks, struct repl_error *err)
{
    REPL_TRY(unit_merge(visit, unit, err));
    for (size_t i = unit->first; i < unit->end; i++) {
        uint64_t file_size = visit->chain.entries[i].commit.file_size;
        if (!is_bound(visit, unit, i) && looks[i].dead_bytes < file_size / SHARE)
            continue;
        segment_remake(visit, unit, i);
        visit->swept_bytes += looks[i].dead_bytes;
    }
    return REPL_SUCCESS;
}

static repl_result units_sweep(struct compactor_visit *visit, struct compactor_look *looks,
                               struct repl_error *err)
{
    unsigned left = LOOKS_MAX;
    for (size_t i = 0; i < visit->chain.count && !visit->found;) {
        struct unit unit = unit_at(&visit->chain, i);
        i = unit.end;
        if (visit->chain.entries[unit.end - 1].merge == 0 || !unit_may(visit, &unit))
            continue; /* what a merge has made */
        unit_look(visit, &unit, looks, &left);
        if (unit_is_over(visit, &unit, looks, false))
            REPL_TRY(unit_take(visit, &unit, looks, err));
    }
    return REPL_SUCCESS;
}

repl_result compactor_sweep_find(struct compactor_visit *visit, struct repl_error *err)
{
    struct compactor_sweep *sweep = sweep_of(visit->sweeps, visit->volume);
    struct compactor_look *looks = NULL;
    if (sweep == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for what is known of a volume");
    REPL_TRY(looks_spread(sweep, &visit->chain, &looks, err));
    repl_result result = units_sweep(visit, looks, err);
    looks_keep(sweep, looks, visit->chain.count);
    visit->more |= visit->found;
    return result;
}

/* --- what stands in for what is damaged ------------------------------------------------------ */

static repl_result patched_take(struct compactor_visit *visit, const struct unit *unit, size_t at,
                                struct repl_error *err)
{
    REPL_TRY(unit_merge(visit, unit, err));
    for (size_t i = unit->first; i < unit->end; i++) {
        if (i == at || is_bound(visit, unit, i))
            segment_remake(visit, unit, i);
    }
    return REPL_SUCCESS;
}

repl_result compactor_patch_find(struct compactor_visit *visit, struct repl_error *err)
{
    const struct repl_chain *chain = &visit->chain;
    const struct repl_segment_id *id = &visit->patch->id;
    size_t at = repl_chain_find(chain, id->to_seq, id->part, id->merge);
    for (size_t i = 0; at != SIZE_MAX && i <= at;) {
        struct unit unit = unit_at(chain, i);
        i = unit.end;
        if (at < unit.end && unit_may(visit, &unit))
            return patched_take(visit, &unit, at, err);
    }
    return REPL_SUCCESS;
}
