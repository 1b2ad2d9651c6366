/*
 * Segments and supplies share one table of slots: the catalogue's segments
 * first, then its supplies. A slot is filled once and never changes again, so
 * what it holds may be used without the lock. It is opened outside of the lock;
 * if two threads open the same one, the second result is thrown away. Where a
 * site gives the ends of many at once, those of it and of the ones before it, as
 * far as a view goes back, are asked for when one is to be opened.
 *
 * Chunks are found by a hash table of (slot, place in that segment's chunk
 * table). It is filled when the first chunk is asked for, supplies first and
 * then from the newest segment to the oldest, and only as far as is needed: a
 * chunk that is referred to mostly lies not far behind. What cannot be opened
 * on the way is noted and left out: another copy may do, and where none does,
 * the error names it. What lies nowhere another volume of the pool may have
 * brought (pool_chunks.h).
 */
#include "recover/history.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "recover/pool_chunks.h"

/* So many bytes of ends are kept: of a history whose segments are large they are read as needed. */
#define TAILS_BYTES_MAX (UINT64_C(64) << 20)

struct history_slot {
    struct repl_history *history;
    struct repl_segment_id id;
    uint64_t file_size;           /* 0: not known yet */
    struct repl_segment *segment; /* NULL: not opened yet; set once, under the mutex */
    uint8_t *tail;                /* its header, and all from tail_begin on; NULL: not at hand */
    uint64_t tail_begin;
    bool tail_asked; /* set once, like those before it, under the tail_mutex */
};

struct chunk_place {
    uint32_t slot_plus_1; /* 0: empty */
    uint32_t chunk;
};

/* What a view calls back with: kept until the history is closed, for views do not own it. */
struct view_context {
    struct repl_history *history;
    size_t newest; /* the slot of the segment that ends in the view's point, */
    size_t oldest; /* and of the first of the base */
    struct view_context *next;
};

struct repl_history {
    struct repl_origin *origin;
    struct repl_catalogue catalogue;
    struct history_slot *slots;
    size_t slot_count;
    pthread_mutex_t mutex; /* guards the pointers to open segments, supplies' sizes and views */
    struct view_context *views;
    /* Guarded by tail_mutex, which is taken without another: */
    pthread_mutex_t tail_mutex;
    bool no_tails;       /* they cannot be had, as from a site that is too old for them */
    uint64_t tail_bytes; /* kept */
    /* Guarded by chunk_mutex, which is taken before mutex: */
    pthread_mutex_t chunk_mutex;
    struct chunk_place *chunks;
    size_t chunk_room, chunk_count; /* room: a power of two, or 0 */
    size_t chunk_slots_left;        /* slots not yet looked at, supplies last in number first */
    char unread[REPL_ERROR_TEXT_SIZE / 2]; /* why the first one was left out */
    unsigned unread_count;
    struct repl_pool_chunks *pool;
};

/* --- opening --------------------------------------------------------------------------------- */

static repl_result slots_make(struct repl_history *history, struct repl_error *err)
{
    const struct repl_catalogue *c = &history->catalogue;
    history->slot_count = c->segment_count + c->supply_count;
    history->slots = calloc(history->slot_count + 1, sizeof *history->slots);
    if (history->slots == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", history->slot_count);
    for (size_t i = 0; i < history->slot_count; i++) {
        struct history_slot *slot = &history->slots[i];
        slot->history = history;
        if (i >= c->segment_count) {
            slot->id = c->supplies[i - c->segment_count];
            continue;
        }
        slot->id = (struct repl_segment_id){.to_seq = c->segments[i].head.to_seq,
                                            .part = c->segments[i].head.part,
                                            .merge = c->segments[i].merge};
        slot->file_size = c->segments[i].file_size;
    }
    history->chunk_slots_left = history->slot_count;
    return REPL_SUCCESS;
}

repl_result repl_history_open(struct repl_origin *origin, struct repl_history **out,
                              struct repl_error *err)
{
    struct repl_history *history = calloc(1, sizeof *history);
    if (history == NULL) {
        origin->ops->close(origin);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a history");
    }
    history->origin = origin;
    pthread_mutex_init(&history->mutex, NULL);
    pthread_mutex_init(&history->tail_mutex, NULL);
    pthread_mutex_init(&history->chunk_mutex, NULL);
    repl_result result = origin->ops->catalogue(origin, &history->catalogue, err);
    if (repl_ok(result))
        result = slots_make(history, err);
    if (repl_ok(result))
        result = repl_pool_chunks_new(origin, &history->pool, err);
    if (!repl_ok(result)) {
        repl_history_close(history);
        return result;
    }
    *out = history;
    return REPL_SUCCESS;
}

void repl_history_close(struct repl_history *history)
{
    if (history == NULL)
        return;
    for (size_t i = 0; history->slots != NULL && i < history->slot_count; i++) {
        repl_segment_free(history->slots[i].segment);
        free(history->slots[i].tail);
    }
    free(history->slots);
    while (history->views != NULL) {
        struct view_context *view = history->views;
        history->views = view->next;
        free(view);
    }
    free(history->chunks);
    repl_pool_chunks_free(history->pool);
    repl_catalogue_fini(&history->catalogue);
    pthread_mutex_destroy(&history->chunk_mutex);
    pthread_mutex_destroy(&history->tail_mutex);
    pthread_mutex_destroy(&history->mutex);
    history->origin->ops->close(history->origin);
    free(history);
}

const struct repl_catalogue *repl_history_catalogue(const struct repl_history *history)
{
    return &history->catalogue;
}

struct repl_origin *repl_history_origin(struct repl_history *history)
{
    return history->origin;
}

/* --- segments -------------------------------------------------------------------------------- */

static repl_result slot_read_at(void *context, uint64_t offset, void *out, size_t size,
                                struct repl_error *err)
{
    const struct history_slot *slot = context;
    struct repl_origin *origin = slot->history->origin;
    if (slot->tail != NULL && offset <= slot->file_size && size <= slot->file_size - offset) {
        if (offset >= slot->tail_begin) {
            memcpy(out, slot->tail + REPL_SEGMENT_HEADER_SIZE + (offset - slot->tail_begin), size);
            return REPL_SUCCESS;
        }
        if (offset + size <= REPL_SEGMENT_HEADER_SIZE) {
            memcpy(out, slot->tail + offset, size);
            return REPL_SUCCESS;
        }
    }
    return origin->ops->read_at(origin, &slot->id, slot->file_size, offset, out, size, err);
}

static repl_result slot_read_slices(void *context, const struct repl_frame_entry *frame,
                                    const struct repl_slice *slices, uint32_t count,
                                    struct repl_frame_coder *coder, void *out,
                                    struct repl_error *err)
{
    const struct history_slot *slot = context;
    struct repl_origin *origin = slot->history->origin;
    struct repl_slice copy[REPL_SLICES_MAX];
    memcpy(copy, slices, count * sizeof copy[0]);
    struct repl_slices wanted = {.frame = *frame, .count = count, .slices = copy};
    wanted.frame.has_pages = false;
    return origin->ops->slices(origin, &slot->id, &wanted, coder, out, err);
}

/* Whether segment i is of one base with the one before it. */
static bool continues_base(const struct repl_segments_entry *segments, size_t i)
{
    const struct repl_head *head = &segments[i].head;
    return i > 0 && head->from_seq == 0 && segments[i - 1].head.from_seq == 0 &&
           !segments[i].begins;
}

bool repl_history_is_linked(const struct repl_history *history, size_t i,
                            const struct repl_segment *segment)
{
    const struct repl_segments_entry *segments = history->catalogue.segments;
    bool free = segments[i].begins || (segments[i].head.from_seq == 0 && segments[i].merge != 0);
    return i == 0 || free || repl_digest_equal(&segment->header.prev, &segments[i - 1].link);
}

/* Whether the file is the one that was committed under this name. */
static repl_result identity_check(const struct repl_history *history, size_t i,
                                  const struct repl_segment *segment, struct repl_error *err)
{
    const struct repl_segment_header *header = &segment->header;
    const struct repl_catalogue *c = &history->catalogue;
    const struct repl_segment_id *id = &history->slots[i].id;
    if (i >= c->segment_count)
        return header->kind == REPL_SEGMENT_SUPPLY
                   ? REPL_SUCCESS
                   : repl_fail(err, REPL_E_CORRUPT, "it is not a supply");
    const struct repl_head *head = &c->segments[i].head;
    if (header->kind != REPL_SEGMENT_CHANGES || header->to_seq != id->to_seq ||
        header->part != id->part || header->from_seq != head->from_seq)
        return repl_fail(err, REPL_E_CORRUPT, "its header is that of segment %llu.%u",
                         (unsigned long long)header->to_seq, header->part);
    if (!repl_digest_equal(&segment->footer.digest, &head->digest))
        return repl_fail(err, REPL_E_CORRUPT, "its digest is not the one that was committed");
    if ((repl_segment_last_point(segment) != NULL) != head->has_point)
        return repl_fail(err, REPL_E_CORRUPT, "it %s a point, and the catalogue says otherwise",
                         head->has_point ? "lacks" : "ends in");
    return REPL_SUCCESS;
}

static repl_result slot_open(struct repl_history *history, size_t i, struct repl_segment **out,
                             struct repl_error *err)
{
    struct history_slot *slot = &history->slots[i];
    struct repl_segment *segment = NULL;
    uint64_t file_size = slot->file_size;
    REPL_TRY(repl_segment_open(slot_read_at, slot, file_size, &segment, err));
    repl_result result = identity_check(history, i, segment, err);
    if (!repl_ok(result)) {
        repl_segment_free(segment);
        return result;
    }
    if (history->origin->ops->slices != NULL)
        segment->read_slices = slot_read_slices;
    *out = segment;
    return REPL_SUCCESS;
}

/* A supply's size is not in the catalogue. It is asked for under the lock: there are few. */
static repl_result slot_size(struct repl_history *history, struct history_slot *slot,
                             struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    pthread_mutex_lock(&history->mutex);
    if (slot->file_size == 0)
        result = history->origin->ops->size(history->origin, &slot->id, &slot->file_size, err);
    pthread_mutex_unlock(&history->mutex);
    return result;
}

static repl_result slot_failed(repl_result result, const struct history_slot *slot,
                               struct repl_error *err)
{
    if (slot->id.supply != 0)
        return repl_forward(result, err, "supply %llu.%u.%u", (unsigned long long)slot->id.to_seq,
                            slot->id.part, slot->id.supply);
    return repl_forward(result, err, "segment %llu.%u", (unsigned long long)slot->id.to_seq,
                        slot->id.part);
}

/* --- ends of segments ------------------------------------------------------------------------ */

/* What has another end than the catalogue says is read as if there were none. */
static void tail_keep(struct repl_history *history, struct history_slot *slot,
                      const struct repl_tail *tail)
{
    size_t size = REPL_SEGMENT_HEADER_SIZE + (size_t)tail->size;
    if (tail->size == 0 || tail->begin + tail->size != slot->file_size)
        return;
    slot->tail = malloc(size);
    if (slot->tail == NULL)
        return;
    memcpy(slot->tail, tail->header, REPL_SEGMENT_HEADER_SIZE);
    memcpy(slot->tail + REPL_SEGMENT_HEADER_SIZE, tail->bytes, tail->size);
    slot->tail_begin = tail->begin;
    history->tail_bytes += size;
}

/* Of the i-th and those before it that a view of it takes; how many of them are asked for. */
static uint32_t unopened_list(struct repl_history *history, size_t i,
                              struct repl_unopened_entry entries[REPL_TAILS_MAX],
                              struct history_slot *slots[REPL_TAILS_MAX])
{
    uint32_t count = 0;
    size_t base = repl_history_base_of(history, i);
    for (size_t k = i + 1; k-- > base && count < REPL_TAILS_MAX;) {
        struct history_slot *slot = &history->slots[k];
        if (slot->tail_asked)
            continue;
        entries[count] = (struct repl_unopened_entry){
            .to_seq = slot->id.to_seq, .part = slot->id.part, .merge = slot->id.merge};
        slots[count++] = slot;
    }
    return count;
}

/* Without them each segment is opened by itself, which also tells what is wrong. Those that did not
 * fit into the answer are asked for again. */
static void tails_ask(struct repl_history *history, size_t i)
{
    struct repl_unopened_entry entries[REPL_TAILS_MAX];
    struct history_slot *slots[REPL_TAILS_MAX];
    struct repl_origin *origin = history->origin;
    struct repl_tails tails = {0};
    struct repl_error ignored;
    void *body = NULL;
    pthread_mutex_lock(&history->tail_mutex);
    bool ask = origin->ops->tails != NULL && i < history->catalogue.segment_count &&
               !history->no_tails && !history->slots[i].tail_asked &&
               history->tail_bytes < TAILS_BYTES_MAX;
    if (ask) {
        const struct repl_unopened unopened = {.count = unopened_list(history, i, entries, slots),
                                               .entries = entries};
        repl_result result = origin->ops->tails(origin, &unopened, &body, &tails, &ignored);
        history->no_tails = !repl_ok(result);
        slots[0]->tail_asked = true; /* in any case */
        for (uint32_t k = 0; repl_ok(result) && k < tails.count && k < unopened.count; k++) {
            slots[k]->tail_asked = true;
            tail_keep(history, slots[k], &tails.tails[k]);
        }
    }
    pthread_mutex_unlock(&history->tail_mutex);
    repl_tails_fini(&tails);
    free(body);
}

static repl_result slot_get(struct repl_history *history, size_t i, const struct repl_segment **out,
                            struct repl_error *err)
{
    struct history_slot *slot = &history->slots[i];
    pthread_mutex_lock(&history->mutex);
    struct repl_segment *segment = slot->segment;
    pthread_mutex_unlock(&history->mutex);
    if (segment == NULL) {
        tails_ask(history, i);
        repl_result result = slot_size(history, slot, err);
        if (repl_ok(result))
            result = slot_open(history, i, &segment, err);
        REPL_TRY(slot_failed(result, slot, err));
        pthread_mutex_lock(&history->mutex);
        if (slot->segment != NULL) {
            repl_segment_free(segment);
            segment = slot->segment;
        } else {
            slot->segment = segment;
        }
        pthread_mutex_unlock(&history->mutex);
    }
    *out = segment;
    return REPL_SUCCESS;
}

repl_result repl_history_segment(struct repl_history *history, size_t i,
                                 const struct repl_segment **out, struct repl_error *err)
{
    return slot_get(history, i, out, err);
}

repl_result repl_history_supply(struct repl_history *history, size_t i,
                                const struct repl_segment **out, struct repl_error *err)
{
    return slot_get(history, history->catalogue.segment_count + i, out, err);
}

size_t repl_history_segment_of(const struct repl_history *history, uint64_t seq)
{
    const struct repl_catalogue *c = &history->catalogue;
    size_t low = 0, high = c->segment_count; /* the first with to_seq > seq lies in [low, high] */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (c->segments[middle].head.to_seq <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || c->segments[low - 1].head.to_seq != seq || !c->segments[low - 1].head.has_point)
        return SIZE_MAX;
    return low - 1;
}

bool repl_history_is_base(const struct repl_history *history, size_t i)
{
    const struct repl_segments_entry *segments = history->catalogue.segments;
    return segments[i].head.from_seq == 0 && !continues_base(segments, i);
}

size_t repl_history_base_of(const struct repl_history *history, size_t i)
{
    const struct repl_segments_entry *segments = history->catalogue.segments;
    while (i > 0 && segments[i].head.from_seq != 0)
        i--;
    while (continues_base(segments, i))
        i--;
    return i;
}

/* --- chunks ---------------------------------------------------------------------------------- */

static const struct repl_chunk_entry *place_entry(const struct repl_history *history,
                                                  const struct chunk_place *place)
{
    return &history->slots[place->slot_plus_1 - 1].segment->chunks[place->chunk];
}

/* Where a name is or would be. Names are SHA-256: any eight bytes of one are a good hash. */
static struct chunk_place *place_find(const struct repl_history *history,
                                      const struct repl_digest *name)
{
    uint64_t hash;
    memcpy(&hash, name->bytes, sizeof hash);
    for (size_t i = hash & (history->chunk_room - 1);; i = (i + 1) & (history->chunk_room - 1)) {
        struct chunk_place *place = &history->chunks[i];
        if (place->slot_plus_1 == 0 || repl_digest_equal(&place_entry(history, place)->name, name))
            return place;
    }
}

static repl_result chunks_grow(struct repl_history *history, size_t more, struct repl_error *err)
{
    size_t room = history->chunk_room == 0 ? 1024 : history->chunk_room;
    while ((history->chunk_count + more) * 2 > room)
        room *= 2;
    if (room == history->chunk_room)
        return REPL_SUCCESS;
    struct chunk_place *old = history->chunks, *larger = calloc(room, sizeof *larger);
    if (larger == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a table of %zu chunks", room);
    size_t old_room = history->chunk_room;
    history->chunks = larger;
    history->chunk_room = room;
    for (size_t i = 0; i < old_room; i++) {
        if (old[i].slot_plus_1 != 0)
            *place_find(history, &place_entry(history, &old[i])->name) = old[i];
    }
    free(old);
    return REPL_SUCCESS;
}

static repl_result slot_chunks_add(struct repl_history *history, size_t slot,
                                   struct repl_error *err)
{
    const struct repl_segment *segment;
    struct repl_error reason;
    repl_result result = slot_get(history, slot, &segment, &reason);
    if (result.code == REPL_E_NOMEM || result.code == REPL_E_RETRY) {
        if (err != NULL)
            *err = reason;
        return result;
    }
    if (!repl_ok(result)) {
        if (history->unread_count++ == 0)
            snprintf(history->unread, sizeof history->unread, "%.*s",
                     (int)sizeof history->unread - 1, reason.text);
        return REPL_SUCCESS;
    }
    REPL_TRY(chunks_grow(history, segment->footer.chunk_count, err));
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        struct chunk_place *place = place_find(history, &segment->chunks[i].name);
        if (place->slot_plus_1 != 0)
            continue;
        *place = (struct chunk_place){.slot_plus_1 = (uint32_t)slot + 1, .chunk = i};
        history->chunk_count++;
    }
    return REPL_SUCCESS;
}

/* NULL in *out: it is in none. */
static repl_result chunk_find(struct repl_history *history, const struct repl_digest *name,
                              const struct chunk_place **out, struct repl_error *err)
{
    REPL_TRY(chunks_grow(history, 0, err));
    for (;;) {
        *out = place_find(history, name);
        if ((*out)->slot_plus_1 != 0)
            return REPL_SUCCESS;
        *out = NULL;
        if (history->chunk_slots_left == 0)
            return REPL_SUCCESS;
        REPL_TRY(slot_chunks_add(history, history->chunk_slots_left - 1, err));
        history->chunk_slots_left--;
    }
}

repl_result repl_history_chunk(struct repl_history *history, const struct repl_digest *name,
                               struct repl_chunk_home *out, struct repl_error *err)
{
    const struct chunk_place *place = NULL;
    *out = (struct repl_chunk_home){0};
    pthread_mutex_lock(&history->chunk_mutex);
    repl_result result = chunk_find(history, name, &place, err);
    if (repl_ok(result) && place != NULL) {
        size_t slot = place->slot_plus_1 - 1, segments = history->catalogue.segment_count;
        const struct repl_chunk_entry *entry = place_entry(history, place);
        *out = (struct repl_chunk_home){.segment = history->slots[slot].segment,
                                        .index = slot < segments ? slot : slot - segments,
                                        .supply = slot >= segments,
                                        .frame = entry->frame,
                                        .frame_offset = entry->frame_offset};
    }
    pthread_mutex_unlock(&history->chunk_mutex);
    return result;
}

/* What the pool did not have either may lie in what could not be read. */
static repl_result pool_failed(struct repl_history *history, repl_result result,
                               struct repl_error *err)
{
    if (result.code != REPL_E_MISSING || err == NULL)
        return result;
    const struct repl_error why = *err;
    pthread_mutex_lock(&history->chunk_mutex);
    if (history->unread_count > 0)
        result = repl_fail(err, REPL_E_MISSING,
                           "%.250s, and it is in no segment that can be read; %u cannot, the "
                           "first: %.200s",
                           why.text, history->unread_count, history->unread);
    pthread_mutex_unlock(&history->chunk_mutex);
    return result;
}

repl_result repl_history_pool_check(struct repl_history *history, const struct repl_digest *names,
                                    size_t count, struct repl_error *err)
{
    return pool_failed(history, repl_pool_chunks_check(history->pool, names, count, err), err);
}

/* --- views ----------------------------------------------------------------------------------- */

static repl_result view_segment(void *context, size_t i, const struct repl_segment **out,
                                struct repl_error *err)
{
    const struct view_context *view = context;
    *out = NULL;
    if (i > view->newest - view->oldest)
        return REPL_SUCCESS;
    size_t slot = view->newest - i;
    REPL_TRY(slot_get(view->history, slot, out, err));
    if (i == view->newest - view->oldest || repl_history_is_linked(view->history, slot, *out))
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_CORRUPT,
                     "segment %llu.%u does not follow the one before it: the chain is broken",
                     (unsigned long long)(*out)->header.to_seq, (*out)->header.part);
}

static repl_result view_chunk(void *context, const struct repl_digest *name,
                              const struct repl_segment **segment, uint32_t *frame,
                              uint32_t *frame_offset, struct repl_error *err)
{
    const struct view_context *view = context;
    struct repl_chunk_home home;
    REPL_TRY(repl_history_chunk(view->history, name, &home, err));
    *segment = home.segment;
    *frame = home.frame;
    *frame_offset = home.frame_offset;
    return REPL_SUCCESS;
}

static repl_result view_fetch(void *context, const struct repl_digest *names, size_t count,
                              void *out, struct repl_error *err)
{
    const struct view_context *view = context;
    return pool_failed(view->history,
                       repl_pool_chunks_read(view->history->pool, names, count, out, err), err);
}

/* Of the segments from oldest to newest; it is there as long as the history. */
static repl_result view_context_new(struct repl_history *history, size_t newest, size_t oldest,
                                    struct view_context **out, struct repl_error *err)
{
    struct view_context *context = malloc(sizeof *context);
    if (context == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a view");
    pthread_mutex_lock(&history->mutex);
    *context = (struct view_context){history, newest, oldest, history->views};
    history->views = context;
    pthread_mutex_unlock(&history->mutex);
    *out = context;
    return REPL_SUCCESS;
}

static repl_result segment_of_point(const struct repl_history *history, size_t point, size_t *out,
                                    struct repl_error *err)
{
    uint64_t seq = history->catalogue.points[point].point.seq;
    *out = repl_history_segment_of(history, seq);
    if (*out == SIZE_MAX)
        return repl_fail(err, REPL_E_MISSING, "no segment ends in point %llu",
                         (unsigned long long)seq);
    return REPL_SUCCESS;
}

repl_result repl_history_tree_segments(struct repl_history *history, size_t point,
                                       const struct repl_segment ***out, size_t *count,
                                       struct repl_error *err)
{
    uint64_t seq = history->catalogue.points[point].point.seq;
    size_t last = repl_history_segment_of(history, seq);
    if (last == SIZE_MAX)
        return repl_fail(err, REPL_E_MISSING, "no segment ends in point %llu",
                         (unsigned long long)seq);
    size_t first = repl_history_base_of(history, last);
    const struct repl_segment **segments = calloc(last - first + 1, sizeof *segments);
    if (segments == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", last - first + 1);
    repl_result result = REPL_SUCCESS;
    for (size_t i = last - first + 1; i-- > 0 && repl_ok(result);) {
        result = repl_history_segment(history, first + i, &segments[i], err);
        if (repl_ok(result) && segments[i]->header.volume_kind != REPL_VOLUME_TREE)
            result = repl_fail(err, REPL_E_REFUSED,
                               "%s is a block volume, which has no names, not a directory tree: "
                               "\"repl mount %s --at %llu DIR\" makes it an image to mount",
                               history->origin->volume, history->origin->volume,
                               (unsigned long long)seq);
    }
    if (!repl_ok(result)) {
        free(segments);
        return result;
    }
    *out = segments;
    *count = last - first + 1;
    return REPL_SUCCESS;
}

repl_result repl_history_view(struct repl_history *history, size_t point, struct repl_view **out,
                              struct repl_error *err)
{
    size_t newest;
    struct view_context *context = NULL;
    REPL_TRY(segment_of_point(history, point, &newest, err));
    REPL_TRY(
        view_context_new(history, newest, repl_history_base_of(history, newest), &context, err));
    REPL_TRY(repl_forward(repl_view_open(view_segment, view_chunk, context, out, err), err,
                          "point %llu",
                          (unsigned long long)history->catalogue.points[point].point.seq));
    repl_view_fetch_by(*out, view_fetch);
    return REPL_SUCCESS;
}

repl_result repl_history_changes(struct repl_history *history, size_t from, size_t to,
                                 struct repl_view **out, struct repl_error *err)
{
    size_t before, newest;
    struct view_context *context = NULL;
    *out = NULL;
    REPL_TRY(segment_of_point(history, from, &before, err));
    REPL_TRY(segment_of_point(history, to, &newest, err));
    if (before >= newest || repl_history_base_of(history, newest) > before)
        return REPL_SUCCESS;
    REPL_TRY(view_context_new(history, newest, before + 1, &context, err));
    REPL_TRY(repl_view_open_changes(view_segment, view_chunk, context, 0, UINT64_MAX, out, err));
    repl_view_fetch_by(*out, view_fetch);
    return REPL_SUCCESS;
}
