/*
 * Bringing up to date what somebody has already: what a copy holds is told from
 * what the view says by SHA-256, page by page where a frame has a list of its
 * pages and chunk by chunk by their names, so that a frame of which all is there
 * is not read at all, and of one of which little is not the missing pages are
 * asked for alone, where that can be done. Where there is no list, the frame is
 * read and compared.
 */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/limits.h"
#include "view_internal.h"

#define PAGES_MAX (REPL_VIEW_CORRECT_MAX / REPL_PAGE_SIZE)

_Static_assert(PAGES_MAX <= REPL_SLICES_MAX, "a slice for each page at most");

/* Bytes of the copy, at most a page, that are to be those of a frame. */
struct want {
    const struct repl_segment *segment;
    uint32_t frame, frame_offset, size;
    uint8_t *to;
};

struct correction {
    struct repl_view_reader *reader;
    uint8_t *data;
    bool *changed;
    struct want wants[PAGES_MAX];
    size_t want_count;
    /* the list of pages that was read last */
    const struct repl_segment *listed;
    uint32_t listed_frame, page_count;
    struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
};

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The copy has these bytes at to: others are replaced, and their pages noted. */
static void bytes_take(struct correction *c, uint8_t *to, const uint8_t *bytes, size_t size)
{
    for (size_t at = 0, piece; at < size; at += piece) {
        size_t place = (size_t)(to + at - c->data);
        piece = least(size - at, REPL_PAGE_SIZE - place % REPL_PAGE_SIZE);
        if (memcmp(to + at, bytes + at, piece) == 0)
            continue;
        memcpy(to + at, bytes + at, piece);
        c->changed[place / REPL_PAGE_SIZE] = true;
    }
}

static void zeros_take(struct correction *c, uint8_t *to, size_t size)
{
    static const uint8_t zeros[REPL_PAGE_SIZE];
    for (size_t at = 0; at < size; at += sizeof zeros)
        bytes_take(c, to + at, zeros, least(size - at, sizeof zeros));
}

static repl_result scratch_get(struct repl_view_reader *reader, struct repl_error *err)
{
    if (reader->scratch == NULL && (reader->scratch = malloc(REPL_SLICES_BYTES_MAX)) == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory to compare");
    return REPL_SUCCESS;
}

/* As the view reads it, whatever is there. */
static repl_result read_take(struct correction *c, uint64_t offset, uint8_t *to, size_t size,
                             struct repl_error *err)
{
    struct repl_view_reader *reader = c->reader;
    REPL_TRY(scratch_get(reader, err));
    for (size_t at = 0, piece; at < size; at += piece) {
        piece = least(size - at, REPL_SLICES_BYTES_MAX);
        REPL_TRY(repl_view_read(reader, offset + at, reader->scratch, piece, err));
        bytes_take(c, to + at, reader->scratch, piece);
    }
    return REPL_SUCCESS;
}

/* --- by the lists ---------------------------------------------------------------------------- */

/* A list that is damaged is none: the frame has a checksum of its own. */
static repl_result list_get(struct correction *c, const struct repl_segment *segment,
                            uint32_t frame, struct repl_error *err)
{
    if (c->listed == segment && c->listed_frame == frame)
        return REPL_SUCCESS;
    c->listed = NULL;
    repl_result result = repl_segment_read_pages(segment, frame, c->pages, &c->page_count, err);
    if (result.code == REPL_E_CORRUPT)
        c->page_count = 0;
    else
        REPL_TRY(result);
    c->listed = segment;
    c->listed_frame = frame;
    return REPL_SUCCESS;
}

/* Whether these are the bytes of the page that is at this place of the frame, by its list. */
static bool is_listed(const struct correction *c, const uint8_t *bytes, size_t size,
                      uint32_t frame_offset)
{
    struct repl_digest digest;
    uint32_t page = frame_offset / REPL_PAGE_SIZE;
    if (page >= c->page_count ||
        size != least(c->listed->frames[c->listed_frame].raw_size - frame_offset, REPL_PAGE_SIZE))
        return false;
    repl_page_digest(c->reader->sha, bytes, size, &digest);
    struct repl_page_digest found = repl_page_digest_of(&digest);
    return repl_page_digest_equal(&found, &c->pages[page]);
}

/* What the copy has not of size bytes of a frame is wanted. Both begin with a page. One of zeros
 * passes for none: it is what a copy holds where nothing was written yet, and seldom in a frame. */
static repl_result pages_want(struct correction *c, const struct repl_segment *segment,
                              uint32_t frame, uint32_t frame_offset, uint8_t *to, size_t size,
                              struct repl_error *err)
{
    REPL_TRY(list_get(c, segment, frame, err));
    for (size_t at = 0, piece; at < size; at += piece) {
        piece = least(size - at, REPL_PAGE_SIZE);
        if (!repl_is_zero(to + at, piece) &&
            is_listed(c, to + at, piece, frame_offset + (uint32_t)at))
            continue;
        ensure(c->want_count < PAGES_MAX);
        c->wants[c->want_count++] = (struct want){.segment = segment,
                                                  .frame = frame,
                                                  .frame_offset = frame_offset + (uint32_t)at,
                                                  .size = (uint32_t)piece,
                                                  .to = to + at};
    }
    return REPL_SUCCESS;
}

/* --- what is wanted -------------------------------------------------------------------------- */

static int want_order(const void *a, const void *b)
{
    const struct want *x = a, *y = b;
    if (x->segment != y->segment)
        return (uintptr_t)x->segment < (uintptr_t)y->segment ? -1 : 1;
    if (x->frame != y->frame)
        return x->frame < y->frame ? -1 : 1;
    return (x->frame_offset > y->frame_offset) - (x->frame_offset < y->frame_offset);
}

/* What is wanted of one frame as slices; 0: too much, or the same twice. */
static uint32_t slices_make(const struct want *wants, size_t count, struct repl_slice *slices,
                            uint32_t *size)
{
    uint32_t made = 0, end = 0;
    *size = 0;
    for (size_t i = 0; i < count; i++) {
        const struct want *want = &wants[i];
        if (i > 0 && want->frame_offset < end)
            return 0;
        if (i > 0 && want->frame_offset == end)
            slices[made - 1].length += want->size;
        else
            slices[made++] = (struct repl_slice){want->frame_offset, want->size};
        end = want->frame_offset + want->size;
        *size += want->size;
    }
    return *size <= REPL_SLICES_BYTES_MAX ? made : 0;
}

/* Whether the bytes, one behind the other, are what the frame's list says. */
static bool are_listed(const struct correction *c, const struct want *wants, size_t count,
                       const uint8_t *bytes)
{
    for (size_t i = 0; i < count; i++) {
        if (!is_listed(c, bytes, wants[i].size, wants[i].frame_offset))
            return false;
        bytes += wants[i].size;
    }
    return true;
}

/* Less than half of a frame as slices, if there is such a way. *taken: there was, and they are what
 * the frame's list says; else the frame has to be read. */
static repl_result slices_take(struct correction *c, const struct want *wants, size_t count,
                               bool *taken, struct repl_error *err)
{
    struct repl_slice slices[PAGES_MAX];
    const struct repl_segment *segment = wants->segment;
    struct repl_view_reader *reader = c->reader;
    uint32_t size, slice_count = slices_make(wants, count, slices, &size);
    *taken = false;
    if (segment->read_slices == NULL || slice_count == 0 ||
        size >= segment->frames[wants->frame].raw_size / 2)
        return REPL_SUCCESS;
    REPL_TRY(list_get(c, segment, wants->frame, err));
    REPL_TRY(scratch_get(reader, err));
    if (c->page_count == 0)
        return REPL_SUCCESS;
    repl_result result =
        segment->read_slices(segment->context, &segment->frames[wants->frame], slices, slice_count,
                             reader->coder, reader->scratch, err);
    if (result.code == REPL_E_RETRY || result.code == REPL_E_NOMEM)
        return result;
    *taken = repl_ok(result) && are_listed(c, wants, count, reader->scratch);
    const uint8_t *bytes = reader->scratch;
    for (size_t i = 0; *taken && i < count; i++) {
        bytes_take(c, wants[i].to, bytes, wants[i].size);
        bytes += wants[i].size;
    }
    return REPL_SUCCESS;
}

static repl_result frame_take(struct correction *c, const struct want *wants, size_t count,
                              struct repl_error *err)
{
    bool taken = false;
    const struct view_frame *frame;
    if (!view_frame_is_kept(c->reader, wants->segment, wants->frame))
        REPL_TRY(slices_take(c, wants, count, &taken, err));
    if (taken)
        return REPL_SUCCESS;
    REPL_TRY(view_frame_get(c->reader, wants->segment, wants->frame, &frame, err));
    for (size_t i = 0; i < count; i++) {
        ensure((size_t)wants[i].frame_offset + wants[i].size <= frame->size);
        bytes_take(c, wants[i].to, frame->raw + wants[i].frame_offset, wants[i].size);
    }
    return REPL_SUCCESS;
}

static repl_result wants_take(struct correction *c, struct repl_error *err)
{
    qsort(c->wants, c->want_count, sizeof c->wants[0], want_order);
    for (size_t i = 0, end; i < c->want_count; i = end) {
        const struct want *first = &c->wants[i];
        for (end = i + 1; end < c->want_count && c->wants[end].segment == first->segment &&
                          c->wants[end].frame == first->frame;)
            end++;
        if (first->frame >= first->segment->footer.frame_count)
            return repl_fail(err, REPL_E_CORRUPT, "segment %llu.%u: there is no frame %u",
                             (unsigned long long)first->segment->header.to_seq,
                             first->segment->header.part, first->frame);
        REPL_TRY(frame_take(c, first, end - i, err));
    }
    return REPL_SUCCESS;
}

/* --- extents --------------------------------------------------------------------------------- */

static bool begins_page(uint64_t offset)
{
    return offset % REPL_PAGE_SIZE == 0;
}

static repl_result data_correct(struct correction *c, const struct repl_extent *extent,
                                uint64_t offset, uint8_t *to, size_t size, struct repl_error *err)
{
    uint64_t source = extent->source_offset + (offset - extent->offset);
    if (!begins_page(offset) || !begins_page(source))
        return read_take(c, offset, to, size, err);
    return pages_want(c, c->reader->view->segments[extent->source >> 32], (uint32_t)extent->source,
                      (uint32_t)source, to, size, err);
}

/* Whether the copy has these bytes of a chunk; all of it by its name. */
static repl_result chunk_is_there(struct correction *c, const struct repl_extent *extent,
                                  uint64_t offset, uint8_t *to, size_t size, bool *there,
                                  struct repl_error *err)
{
    const struct repl_view *v = c->reader->view;
    const struct repl_digest *name = view_chunk_name(v, extent);
    uint64_t source = extent->source_offset + (offset - extent->offset);
    const struct repl_segment *segment;
    struct repl_digest found;
    uint32_t frame, frame_offset;
    *there = false;
    if (size == REPL_CHUNK_SIZE) {
        repl_chunk_digest(c->reader->sha, to, &found);
        *there = repl_digest_equal(&found, name);
        return REPL_SUCCESS;
    }
    REPL_TRY(v->find_chunk(v->context, name, &segment, &frame, &frame_offset, err));
    if (segment == NULL || !begins_page(offset) || !begins_page(frame_offset + source))
        return REPL_SUCCESS;
    size_t before = c->want_count;
    REPL_TRY(pages_want(c, segment, frame, frame_offset + (uint32_t)source, to, size, err));
    *there = c->want_count == before;
    c->want_count = before; /* a chunk is read as a whole, and compared with its name */
    return REPL_SUCCESS;
}

static repl_result extent_correct(struct correction *c, const struct repl_extent *extent,
                                  uint64_t offset, uint8_t *to, size_t size, struct repl_error *err)
{
    bool there;
    switch (extent->type) {
    case REPL_RECORD_ZERO:
        zeros_take(c, to, size);
        return REPL_SUCCESS;
    case REPL_RECORD_CHUNK:
        REPL_TRY(chunk_is_there(c, extent, offset, to, size, &there, err));
        return there ? REPL_SUCCESS : read_take(c, offset, to, size, err);
    default:
        return data_correct(c, extent, offset, to, size, err);
    }
}

repl_result repl_view_correct(struct repl_view_reader *reader, uint64_t offset, void *data,
                              size_t size, bool *changed, struct repl_error *err)
{
    const struct repl_view *v = reader->view;
    ensure(begins_page(offset) && size <= REPL_VIEW_CORRECT_MAX && offset <= v->size &&
           size <= v->size - offset);
    struct correction c = {.reader = reader, .data = data, .changed = changed};
    memset(changed, 0, repl_page_count_of(size) * sizeof *changed);
    struct repl_extent_cursor cursor = repl_extent_map_seek(&v->extents, offset);
    for (size_t at = 0, piece; at < size; at += piece) {
        const struct repl_extent *extent = repl_extent_cursor_next(&cursor);
        ensure(extent != NULL && extent->offset <= offset + at);
        uint64_t left = extent->offset + extent->length - (offset + at);
        piece = left < size - at ? (size_t)left : size - at;
        REPL_TRY(extent_correct(&c, extent, offset + at, c.data + at, piece, err));
    }
    return wants_take(&c, err);
}
