#include "site/replica/tree_bytes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "store/segment_name.h"

#define CACHED_FRAMES 32u /* MiB, as files are taken by their numbers, not by place */
/* Other segments whose chunks were asked for are kept open, up to so many. */
#define HOMES_MAX 64u

struct opened {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id id;
    struct repl_stored_segment *file;
    struct repl_segment *segment;
};

struct opened_list {
    struct opened *items;
    size_t count, room;
};

struct replica_bytes {
    struct replica_journal journal;
    struct repl_head goal;
    struct opened_list changes, homes;
    const struct repl_segment **segments; /* of changes */
    struct repl_view *view;
    struct repl_view_reader *reader;
    struct repl_history *history; /* NULL: not asked for yet */
    size_t point;                 /* of it */
    struct repl_view *whole;
    struct repl_view_reader *whole_reader;
};

/* --- segments -------------------------------------------------------------------------------- */

/* size: of the file; 0: not known. */
static repl_result segment_add(const struct replica_journal *journal, struct opened_list *list,
                               const char *volume, const struct repl_segment_id *id, uint64_t size,
                               struct repl_error *err)
{
    if (list->count == list->room) {
        size_t room = list->room == 0 ? 16 : 2 * list->room;
        struct opened *items = reallocarray(list->items, room, sizeof *items);
        if (items == NULL)
            return repl_fail(err, REPL_E_NOMEM, "no memory for %zu segments", room);
        list->items = items;
        list->room = room;
    }
    struct opened *o = &list->items[list->count];
    *o = (struct opened){.id = *id};
    snprintf(o->volume, sizeof o->volume, "%s", volume);
    REPL_TRY(repl_store_open_segment(journal->store, volume, id, size, &o->file, &o->segment, err));
    list->count++;
    return REPL_SUCCESS;
}

static void list_clear(struct opened_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        repl_segment_free(list->items[i].segment);
        list->items[i].file->close(list->items[i].file);
    }
    list->count = 0;
}

static bool is_behind(const struct repl_head *head, const struct repl_head *goal)
{
    return head->to_seq != goal->to_seq ? head->to_seq > goal->to_seq : head->part > goal->part;
}

static repl_result page_add(struct replica_bytes *b, const struct repl_segments_page *page,
                            bool *done, struct repl_error *err)
{
    for (uint32_t i = 0; i < page->count && !*done; i++) {
        const struct repl_head *head = &page->entries[i].head;
        const struct repl_segment_id id = {
            .to_seq = head->to_seq, .part = head->part, .merge = page->entries[i].merge};
        if (is_behind(head, &b->goal))
            break;
        REPL_TRY(segment_add(&b->journal, &b->changes, b->journal.volume, &id,
                             page->entries[i].file_size, err));
        const struct repl_segment *segment = b->changes.items[b->changes.count - 1].segment;
        if (!repl_digest_equal(&segment->footer.digest, &head->digest))
            return repl_fail(err, REPL_E_CORRUPT,
                             "volume %s: the file of segment %llu.%u is not the one that was "
                             "committed: run repl verify",
                             b->journal.volume, (unsigned long long)id.to_seq, id.part);
        *done = head->to_seq == b->goal.to_seq && head->part == b->goal.part;
    }
    return REPL_SUCCESS;
}

static repl_result changes_open(struct replica_bytes *b, const struct repl_head *from,
                                struct repl_error *err)
{
    struct repl_head at = *from;
    for (bool done = false; !done;) {
        struct repl_segments_page page;
        size_t before = b->changes.count;
        REPL_TRY(repl_index_segments(b->journal.index, b->journal.volume, at.to_seq, at.part, &page,
                                     err));
        repl_result result = page_add(b, &page, &done, err);
        if (page.count > 0)
            at = page.entries[page.count - 1].head;
        repl_segments_page_fini(&page);
        REPL_TRY(result);
        if (!done && b->changes.count == before)
            return repl_fail(err, REPL_E_MISSING,
                             "the index ends before segment %llu.%u of volume %s: the site "
                             "completes it as soon as it can",
                             (unsigned long long)b->goal.to_seq, b->goal.part, b->journal.volume);
    }
    b->segments = calloc(b->changes.count, sizeof *b->segments);
    if (b->segments == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for %zu segments", b->changes.count);
    for (size_t i = 0; i < b->changes.count; i++)
        b->segments[i] = b->changes.items[i].segment;
    return REPL_SUCCESS;
}

/* --- views ----------------------------------------------------------------------------------- */

static repl_result view_segment(void *context, size_t i, const struct repl_segment **out,
                                struct repl_error *err)
{
    const struct replica_bytes *b = context;
    (void)err;
    *out = i < b->changes.count ? b->segments[b->changes.count - 1 - i] : NULL;
    return REPL_SUCCESS;
}

static const struct opened *home_find(const struct opened_list *list,
                                      const struct repl_chunk_place *place)
{
    for (size_t i = 0; i < list->count; i++) {
        if (repl_segment_id_order(&list->items[i].id, &place->segment) == 0 &&
            strcmp(list->items[i].volume, place->volume) == 0)
            return &list->items[i];
    }
    return NULL;
}

static repl_result view_chunk(void *context, const struct repl_digest *name,
                              const struct repl_segment **segment, uint32_t *frame,
                              uint32_t *frame_offset, struct repl_error *err)
{
    struct replica_bytes *b = context;
    struct repl_chunk_place place;
    bool found;
    REPL_TRY(repl_index_chunk(b->journal.index, b->journal.volume, name, &place, &found, err));
    if (!found) {
        char text[REPL_DIGEST_TEXT_SIZE];
        repl_digest_format(name, text);
        return repl_fail(err, REPL_E_MISSING, "volume %s: chunk %s is not in the index",
                         b->journal.volume, text);
    }
    const struct opened *home = home_find(&b->changes, &place);
    if (home == NULL)
        home = home_find(&b->homes, &place);
    if (home == NULL) {
        REPL_TRY(segment_add(&b->journal, &b->homes, place.volume, &place.segment, 0, err));
        home = &b->homes.items[b->homes.count - 1];
    }
    if (place.frame >= home->segment->footer.frame_count)
        return repl_fail(err, REPL_E_CORRUPT,
                         "volume %s: the index points to a frame that is not there: run repl "
                         "verify",
                         b->journal.volume);
    *segment = home->segment;
    *frame = place.frame;
    *frame_offset = place.frame_offset;
    return REPL_SUCCESS;
}

/* The reader's frames know their segments by address, so both go together. */
static repl_result homes_limit(struct replica_bytes *b, struct repl_error *err)
{
    if (b->homes.count <= HOMES_MAX)
        return REPL_SUCCESS;
    repl_view_reader_free(b->reader);
    b->reader = NULL;
    list_clear(&b->homes);
    return repl_view_reader_new(b->view, CACHED_FRAMES, &b->reader, err);
}

/* The index knows, and needs no reading of the pool's other volumes. */
static repl_result chunk_place(void *context, const struct repl_digest *name,
                               struct repl_placed_chunk *out, bool *found, struct repl_error *err)
{
    const struct replica_journal *journal = context;
    struct repl_chunk_place place;
    REPL_TRY(repl_index_chunk(journal->index, journal->volume, name, &place, found, err));
    out->segment = place.segment;
    out->frame = place.frame;
    out->frame_offset = place.frame_offset;
    memcpy(out->volume, place.volume, sizeof out->volume);
    return REPL_SUCCESS;
}

repl_result replica_history_open(const struct replica_journal *journal,
                                 const struct repl_head *head, struct repl_history **out,
                                 size_t *point, struct repl_error *err)
{
    struct repl_origin *origin;
    REPL_TRY(repl_origin_of_store(journal->store, journal->volume, chunk_place,
                                  (void *)(uintptr_t)journal, &origin, err));
    REPL_TRY(repl_history_open(origin, out, err));
    const struct repl_catalogue *c = repl_history_catalogue(*out);
    for (*point = 0; *point < c->point_count; ++*point) {
        if (c->points[*point].point.seq == head->to_seq)
            return REPL_SUCCESS;
    }
    repl_history_close(*out);
    *out = NULL;
    return repl_fail(err, REPL_E_MISSING, "the log of volume %s does not have point %llu",
                     journal->volume, (unsigned long long)head->to_seq);
}

static repl_result whole_open(struct replica_bytes *b, struct repl_error *err)
{
    if (b->whole_reader != NULL)
        return REPL_SUCCESS;
    if (b->history == NULL)
        REPL_TRY(replica_history_open(&b->journal, &b->goal, &b->history, &b->point, err));
    if (b->whole == NULL)
        REPL_TRY(repl_history_view(b->history, b->point, &b->whole, err));
    return repl_view_reader_new(b->whole, CACHED_FRAMES, &b->whole_reader, err);
}

/* --- all of it ------------------------------------------------------------------------------- */

repl_result replica_bytes_read(struct replica_bytes *b, uint64_t place, void *out, size_t size,
                               struct repl_error *err)
{
    uint64_t end = repl_view_size(b->view);
    if (place > end || size > end - place)
        return repl_fail(err, REPL_E_CORRUPT, "place %llu lies behind the end of the space",
                         (unsigned long long)place);
    for (uint8_t *to = out; size > 0;) {
        bool said;
        size_t length = (size_t)repl_view_said(b->view, place, size, &said);
        if (!said)
            REPL_TRY(whole_open(b, err));
        REPL_TRY(repl_view_read(said ? b->reader : b->whole_reader, place, to, length, err));
        REPL_TRY(homes_limit(b, err));
        place += length;
        to += length;
        size -= length;
    }
    return REPL_SUCCESS;
}

const struct repl_segment *const *replica_bytes_segments(const struct replica_bytes *b,
                                                         size_t *count)
{
    *count = b->changes.count;
    return b->segments;
}

const struct repl_view *replica_bytes_changes(const struct replica_bytes *b)
{
    return b->view;
}

repl_result replica_bytes_open(const struct replica_journal *journal, const struct repl_head *from,
                               const struct repl_head *goal, struct replica_bytes **out,
                               struct repl_error *err)
{
    struct replica_bytes *b = calloc(1, sizeof *b);
    if (b == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the replica of volume %s",
                         journal->volume);
    b->journal = *journal;
    b->goal = *goal;
    repl_result result = changes_open(b, from, err);
    if (repl_ok(result))
        result = repl_view_open_changes(view_segment, view_chunk, b, 0, UINT64_MAX, &b->view, err);
    if (repl_ok(result))
        result = repl_view_reader_new(b->view, CACHED_FRAMES, &b->reader, err);
    if (!repl_ok(result)) {
        replica_bytes_free(b);
        return result;
    }
    *out = b;
    return REPL_SUCCESS;
}

void replica_bytes_free(struct replica_bytes *b)
{
    if (b == NULL)
        return;
    repl_view_reader_free(b->whole_reader);
    repl_view_free(b->whole);
    repl_history_close(b->history);
    repl_view_reader_free(b->reader);
    repl_view_free(b->view);
    free(b->segments);
    list_clear(&b->homes);
    list_clear(&b->changes);
    free(b->homes.items);
    free(b->changes.items);
    free(b);
}
