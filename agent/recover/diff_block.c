#include "recover/diff_block.h"

#include <stdlib.h>
#include <string.h>

#define PIECE_SIZE    (UINT64_C(1) << 20)
#define CACHED_FRAMES 32u /* MiB, of each point */

struct diff {
    const struct repl_diff_block_options *options;
    struct repl_diff_block *out;
    struct repl_view *views[2]; /* from, to; NULL where contents are not compared */
    struct repl_view_reader *readers[2];
    uint8_t *bytes[2];
    uint64_t begin, end; /* the extent that is not told yet; empty: none */
};

static void extent_end(struct diff *d)
{
    if (d->begin == d->end)
        return;
    d->out->extent_count++;
    d->out->changed_bytes += d->end - d->begin;
    d->options->extent(d->options->context, d->begin, d->end - d->begin);
    d->begin = d->end;
}

static void changed(struct diff *d, uint64_t offset, uint64_t length)
{
    if (offset != d->end) {
        extent_end(d);
        d->begin = offset;
    }
    d->end = offset + length;
}

/* --- contents -------------------------------------------------------------------------------- */

static uint64_t page_end(uint64_t offset, uint64_t end)
{
    uint64_t next = offset - offset % REPL_PAGE_SIZE + REPL_PAGE_SIZE;
    return next < end ? next : end;
}

static repl_result piece_compare(struct diff *d, uint64_t offset, size_t size,
                                 struct repl_error *err)
{
    for (unsigned i = 0; i < 2; i++)
        REPL_TRY(repl_view_read(d->readers[i], offset, d->bytes[i], size, err));
    d->out->compared_bytes += size;
    for (uint64_t at = offset, next; at < offset + size; at = next) {
        next = page_end(at, offset + size);
        if (memcmp(d->bytes[0] + (at - offset), d->bytes[1] + (at - offset), next - at) != 0)
            changed(d, at, next - at);
    }
    return REPL_SUCCESS;
}

/* Of bytes that both points have. */
static repl_result range_compare(struct diff *d, uint64_t offset, uint64_t end,
                                 struct repl_error *err)
{
    while (offset < end) {
        bool zero[2];
        uint64_t length = end - offset;
        for (unsigned i = 0; i < 2; i++)
            length = repl_view_stretch(d->views[i], offset, length, &zero[i]);
        if (!zero[0] || !zero[1]) {
            /* pieces end where others do, or a page could be in two */
            uint64_t piece = PIECE_SIZE - offset % PIECE_SIZE;
            if (length > piece)
                length = piece;
            REPL_TRY(piece_compare(d, offset, (size_t)length, err));
        }
        offset += length;
    }
    return REPL_SUCCESS;
}

/* The catalogue and the segments are files of their own. */
static repl_result size_check(const struct repl_view *view, uint64_t size, struct repl_error *err)
{
    if (repl_view_size(view) == size)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_CORRUPT,
                     "the volume has %llu bytes by its segments, and %llu by its log",
                     (unsigned long long)repl_view_size(view), (unsigned long long)size);
}

static repl_result compare_begin(struct diff *d, struct repl_error *err)
{
    const size_t points[2] = {d->options->from, d->options->to};
    const uint64_t sizes[2] = {d->out->from_size, d->out->to_size};
    for (unsigned i = 0; i < 2; i++) {
        REPL_TRY(repl_history_view(d->options->history, points[i], &d->views[i], err));
        REPL_TRY(size_check(d->views[i], sizes[i], err));
        REPL_TRY(repl_view_reader_new(d->views[i], CACHED_FRAMES, &d->readers[i], err));
        d->bytes[i] = malloc(PIECE_SIZE);
        if (d->bytes[i] == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory");
    }
    return REPL_SUCCESS;
}

static void compare_end(struct diff *d)
{
    for (unsigned i = 0; i < 2; i++) {
        repl_view_reader_free(d->readers[i]);
        repl_view_free(d->views[i]);
        free(d->bytes[i]);
    }
}

/* --- all of it ------------------------------------------------------------------------------- */

/* What was written in between; changes NULL: perhaps all of it. */
static repl_result range_diff(struct diff *d, const struct repl_view *changes, uint64_t end,
                              struct repl_error *err)
{
    bool said = true;
    for (uint64_t at = 0, length; at < end; at += length) {
        length = changes != NULL ? repl_view_said(changes, at, end - at, &said) : end;
        if (said && d->views[0] != NULL)
            REPL_TRY(range_compare(d, at, at + length, err));
        else if (said)
            changed(d, at, length);
    }
    return REPL_SUCCESS;
}

static repl_result diff(struct diff *d, const struct repl_view *changes, struct repl_error *err)
{
    uint64_t from = d->out->from_size, to = d->out->to_size;
    if (changes != NULL)
        REPL_TRY(size_check(changes, to, err));
    if (d->options->compare || d->out->full)
        REPL_TRY(compare_begin(d, err));
    REPL_TRY(range_diff(d, changes, from < to ? from : to, err));
    if (to > from) /* where there was nothing */
        changed(d, from, to - from);
    extent_end(d);
    return REPL_SUCCESS;
}

repl_result repl_diff_block(const struct repl_diff_block_options *options,
                            struct repl_diff_block *out, struct repl_error *err)
{
    struct diff d = {.options = options, .out = out};
    const struct repl_points_entry *points = repl_history_catalogue(options->history)->points;
    struct repl_view *changes;
    *out = (struct repl_diff_block){.from_size = points[options->from].volume_size,
                                    .to_size = points[options->to].volume_size};
    if (options->from == options->to)
        return REPL_SUCCESS;
    REPL_TRY(repl_history_changes(options->history, options->from, options->to, &changes, err));
    out->full = changes == NULL;
    repl_result result = diff(&d, changes, err);
    compare_end(&d);
    repl_view_free(changes);
    return result;
}
