/*
 * Which tiles of a base something has changed in, of what follows it.
 *
 * Each record of the manifests behind the base is held to the tiles, sorted by
 * the places where they begin, which together leave no gap. A volume that has
 * become larger or smaller has changed between its sizes, whatever the records
 * say.
 */
#include <stdlib.h>
#include <string.h>

#include "site/compactor/merge_run.h"

struct tile {
    struct repl_record_place begin, end;
    size_t entry;
    uint64_t file_size;
};

struct tiles {
    struct tile *items; /* by begin */
    size_t count;
    bool *touched; /* by entry */
};

static int tile_order(const void *a, const void *b)
{
    const struct tile *x = a, *y = b;
    return repl_record_place_before(&x->begin, &y->begin)   ? -1
           : repl_record_place_before(&y->begin, &x->begin) ? 1
                                                            : 0;
}

/* All tiles that [begin, end) has a part in. */
static void touch(struct tiles *tiles, const struct repl_record_place *begin,
                  const struct repl_record_place *end)
{
    size_t low = 0, high = tiles->count; /* the first that ends behind begin lies there */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (repl_record_place_before(begin, &tiles->items[middle].end))
            high = middle;
        else
            low = middle + 1;
    }
    for (; low < tiles->count && repl_record_place_before(&tiles->items[low].begin, end); low++)
        tiles->touched[tiles->items[low].entry] = true;
}

static void touch_space(struct tiles *tiles, uint64_t begin, uint64_t end)
{
    const struct repl_record_place from = {REPL_OBJECT_DEVICE, begin},
                                   to = {REPL_OBJECT_DEVICE, end};
    if (begin < end)
        touch(tiles, &from, &to);
}

static void record_touch(struct tiles *tiles, const struct repl_record *record, uint64_t *size)
{
    if (record->type == REPL_RECORD_OBJECT) {
        bool grown = record->size > *size;
        touch_space(tiles, grown ? *size : record->size, grown ? record->size : *size);
        *size = record->size;
    } else if (record->object == REPL_OBJECT_DEVICE) {
        touch_space(tiles, record->offset, record->offset + record->length);
    } else {
        const struct repl_record_place begin = {record->object, 0}, end = {record->object + 1, 0};
        touch(tiles, &begin, &end);
    }
}

static repl_result manifest_touch(struct merge_run *run, size_t i, struct tiles *tiles,
                                  uint64_t *size, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    repl_record_walk_begin(&walk, run->inputs[i].segment, run->coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    while (repl_ok(result) && !done) {
        record_touch(tiles, &record, size);
        result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    return repl_forward(result, err, "%s", run->inputs[i].file->label);
}

/* Where nothing has changed, one has to carry the point all the same. */
static void touch_one(struct tiles *tiles)
{
    const struct tile *least = &tiles->items[0];
    for (size_t i = 0; i < tiles->count; i++) {
        if (tiles->touched[tiles->items[i].entry])
            return;
        if (tiles->items[i].file_size < least->file_size)
            least = &tiles->items[i];
    }
    tiles->touched[least->entry] = true;
}

/* Where nothing follows, what is made ends where the base does: tiles that end there already would
 * be of the same names in the index. */
static void touch_last(const struct repl_log_piece *entries, size_t count, bool *touched)
{
    for (size_t i = 0; i < count; i++)
        touched[i] |= entries[i].commit.to_seq == entries[count - 1].commit.to_seq;
}

/* Whether they speak of everything, each of its own stretch. */
static bool tiles_meet(const struct tiles *tiles)
{
    const struct tile *first = &tiles->items[0], *last = &tiles->items[tiles->count - 1];
    for (size_t i = 1; i < tiles->count; i++) {
        const struct repl_record_place *end = &tiles->items[i - 1].end;
        const struct repl_record_place *begin = &tiles->items[i].begin;
        bool meet = end->object == begin->object && end->offset == begin->offset;
        if (!meet)
            return false;
    }
    return first->begin.object == REPL_OBJECT_DEVICE && first->begin.offset == 0 &&
           last->end.object > REPL_OBJECT_DEVICE;
}

static bool tiles_gather(const struct merge_run *run, size_t base_count, struct tiles *tiles)
{
    for (size_t i = 0; i < base_count; i++) {
        const struct repl_log_piece *entry = &run->options->entries[i];
        if (entry->end.object == 0) /* as it was received */
            return false;
        tiles->items[i] = (struct tile){.begin = entry->begin,
                                        .end = entry->end,
                                        .entry = i,
                                        .file_size = entry->commit.file_size};
    }
    tiles->count = base_count;
    qsort(tiles->items, tiles->count, sizeof *tiles->items, tile_order);
    return tiles_meet(tiles);
}

repl_result site_merge_touched(struct merge_run *run, size_t base_count, bool **touched,
                               struct repl_error *err)
{
    struct tiles tiles = {.items = calloc(base_count, sizeof *tiles.items),
                          .touched = calloc(base_count, sizeof *tiles.touched)};
    uint64_t size = run->options->entries[base_count - 1].commit.volume_size;
    repl_result result = REPL_SUCCESS;
    *touched = NULL;
    if (tiles.items == NULL || tiles.touched == NULL) {
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", base_count);
    } else if (tiles_gather(run, base_count, &tiles)) {
        for (size_t i = base_count; repl_ok(result) && i < run->options->entry_count; i++)
            result = manifest_touch(run, i, &tiles, &size, err);
        for (size_t i = 0; run->options->remade != NULL && i < base_count; i++)
            tiles.touched[i] |= run->options->remade[i];
        if (base_count == run->options->entry_count)
            touch_last(run->options->entries, base_count, tiles.touched);
        touch_one(&tiles);
        *touched = tiles.touched;
        tiles.touched = NULL;
    }
    free(tiles.items);
    free(tiles.touched);
    if (!repl_ok(result)) {
        free(*touched);
        *touched = NULL;
    }
    return result;
}
