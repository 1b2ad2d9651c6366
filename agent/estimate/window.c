#include "estimate/window.h"

#include <stdlib.h>

#include "format/segment_format.h"
#include "loop/loop.h"

/* A manifest's records (docs/formats/segment.md), which compress; here they count in full. */
#define DATA_RECORD_SIZE  40u
#define CHUNK_RECORD_SIZE 64u
#define ZERO_RECORD_SIZE  32u

/* The changed pages, a batch each. */
struct pieces {
    uint64_t *first; /* page */
    size_t count, room;
};

static uint32_t batch_fill(struct repl_batch *batch, const struct repl_bitmap *changed,
                           uint64_t *from)
{
    uint64_t first, count;
    repl_batch_clear(batch);
    while (batch->page_count < REPL_BATCH_PAGES &&
           repl_bitmap_next_run(changed, *from, REPL_BATCH_PAGES - batch->page_count, &first,
                                &count)) {
        uint64_t end = first + count;
        /* one that fills it ends where a chunk does, or the chunk would be cut in two */
        if (batch->page_count + count == REPL_BATCH_PAGES && end % REPL_CHUNK_PAGES < count)
            end -= end % REPL_CHUNK_PAGES;
        repl_batch_add(batch, first, end - first);
        *from = end;
        if (end - first < count)
            break;
    }
    return batch->page_count;
}

static repl_result pieces_find(struct pieces *pieces, struct repl_batch *batch,
                               const struct repl_bitmap *changed, struct repl_error *err)
{
    for (uint64_t from = 0, first = 0; batch_fill(batch, changed, &from) > 0; first = from) {
        if (pieces->count == pieces->room) {
            size_t room = pieces->room == 0 ? 64 : pieces->room * 2;
            uint64_t *more = realloc(pieces->first, room * sizeof *more);
            if (more == NULL)
                return repl_fail(err, REPL_E_NOMEM, "out of memory");
            pieces->first = more;
            pieces->room = room;
        }
        pieces->first[pieces->count++] = first;
    }
    return REPL_SUCCESS;
}

static repl_result batch_read(struct repl_followed *followed, struct repl_batch *batch,
                              struct repl_error *err)
{
    for (uint32_t i = 0; i < batch->read_count; i++) {
        const struct repl_batch_read *read = &batch->reads[i];
        size_t size = repl_batch_read_size(batch, read);
        REPL_TRY(followed->ops->read(followed, read->page, read->count, size,
                                     repl_batch_read_to(batch, read), err));
    }
    return REPL_SUCCESS;
}

static void held_find(struct repl_batch *batch, const struct repl_known *known)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < batch->run_count; i++)
        for (uint32_t k = 0; k < batch->runs[i].count; k++)
            batch->held[at++] = repl_known_page(known, batch->runs[i].page + k);
}

static void batch_count(const struct repl_batch *batch, struct repl_estimate_window *out)
{
    uint64_t zeros = 0, data = 0;
    for (uint32_t i = 0; i < batch->extent_count; i++) {
        zeros += batch->extents[i].type == REPL_RECORD_ZERO ? batch->extents[i].length : 0;
        data += batch->extents[i].type == REPL_RECORD_DATA ? batch->extents[i].length : 0;
        out->notes_bytes += batch->extents[i].type == REPL_RECORD_ZERO    ? ZERO_RECORD_SIZE
                            : batch->extents[i].type == REPL_RECORD_CHUNK ? CHUNK_RECORD_SIZE
                                                                          : DATA_RECORD_SIZE;
    }
    out->read_bytes += (uint64_t)batch->page_count * REPL_PAGE_SIZE;
    out->unchanged_bytes += (uint64_t)(batch->page_count - batch->digest_count) * REPL_PAGE_SIZE;
    out->zero_bytes += zeros;
    out->duplicate_bytes += (uint64_t)batch->reference_count * REPL_CHUNK_SIZE;
    out->frame_bytes += data;
    out->notes_bytes += (uint64_t)batch->chunk_count * REPL_CHUNK_ENTRY_SIZE;
    if (!batch->has_frame)
        return;
    out->stored_bytes += batch->stored.size;
    out->notes_bytes +=
        REPL_FRAME_ENTRY_SIZE + (data + REPL_PAGE_SIZE - 1) / REPL_PAGE_SIZE * REPL_PAGE_ENTRY_SIZE;
}

/* The names of chunks are known when a segment has been acknowledged: not in its own window. */
struct names {
    struct repl_digest names[REPL_WINDOW_BATCHES * (REPL_BATCH_PAGES / REPL_CHUNK_PAGES)];
    size_t count;
};

static void batch_learn(const struct repl_batch *batch, struct repl_known *known,
                        struct names *names)
{
    for (uint32_t i = 0; i < batch->digest_count; i++)
        repl_known_page_set(known, batch->digests[i].page, &batch->digests[i].digest);
    for (uint32_t i = 0; i < batch->chunk_count; i++)
        names->names[names->count++] = batch->chunks[i].name;
}

/* Strides through all of them: the step has no divisor in common with their number. */
static size_t step_of(size_t count)
{
    size_t step = count / 13 * 8 + 1;
    for (;; step++) {
        size_t a = count, b = step;
        while (b != 0) {
            size_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return step;
    }
}

static repl_result pieces_reduce(struct repl_followed *followed, const struct pieces *pieces,
                                 const struct repl_bitmap *changed, struct repl_known *known,
                                 struct repl_batch *batch, struct names *names,
                                 struct repl_estimate_window *out, struct repl_error *err)
{
    int64_t begin_ns = repl_now_mono_ns();
    size_t step = step_of(pieces->count), at = 0;
    for (size_t i = 0; i < pieces->count && i < REPL_WINDOW_BATCHES &&
                       (i == 0 || repl_now_mono_ns() - begin_ns < REPL_WINDOW_BUDGET_NS);
         i++, at = (at + step) % pieces->count) {
        uint64_t from = pieces->first[at];
        batch_fill(batch, changed, &from);
        REPL_TRY(batch_read(followed, batch, err));
        held_find(batch, known);
        REPL_TRY(repl_batch_reduce(batch, err));
        batch_count(batch, out);
        batch_learn(batch, known, names);
    }
    out->notes_bytes += REPL_SEGMENT_HEADER_SIZE + REPL_SEGMENT_FOOTER_SIZE +
                        REPL_BLOCK_ENTRY_SIZE + REPL_POINT_SIZE;
    return REPL_SUCCESS;
}

repl_result repl_window_reduce(struct repl_followed *followed, const struct repl_bitmap *changed,
                               struct repl_known *known, struct repl_batch *batch,
                               struct repl_estimate_window *out, struct repl_error *err)
{
    struct pieces pieces = {0};
    struct names *names = NULL;
    *out = (struct repl_estimate_window){.changed_bytes = changed->set_count * REPL_PAGE_SIZE};
    if (changed->set_count == 0)
        return REPL_SUCCESS;
    batch->volume_size = followed->size;
    batch->chunk_known = repl_known_chunk;
    batch->chunk_context = known;
    repl_result result = pieces_find(&pieces, batch, changed, err);
    if (repl_ok(result) && (names = malloc(sizeof *names)) == NULL)
        result = repl_fail(err, REPL_E_NOMEM, "out of memory");
    if (repl_ok(result)) {
        names->count = 0;
        result = pieces_reduce(followed, &pieces, changed, known, batch, names, out, err);
    }
    for (size_t i = 0; repl_ok(result) && i < names->count; i++)
        repl_known_chunk_add(known, &names->names[i]);
    free(names);
    free(pieces.first);
    return result;
}
