/*
 * Whether a piece says what its run says of its stretch: the piece is read back
 * from the store and verified by itself, to its last byte; then it is compared
 * with the run, bytes with bytes and records with records, by other means than
 * it was made by (views, read newest wins). What both name as a chunk elsewhere
 * is the same if the name is.
 */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "repl/view.h"
#include "segment/segment_references.h"
#include "segment/segment_verify.h"
#include "segment/tree_merge.h"
#include "site/compactor/merge_run.h"

#define CACHED_FRAMES 16u

struct side {
    const struct repl_segment *const *segments; /* oldest first */
    size_t count;
    struct repl_view *view;
    struct repl_view_reader *reader;
};

struct check {
    struct merge_run *run;
    const struct repl_merge_piece *how;
    struct side sides[2]; /* the run, the piece */
};

static repl_result piece_read_at(void *context, uint64_t offset, void *out, size_t size,
                                 struct repl_error *err)
{
    struct repl_stored_segment *file = context;
    return file->read_at(file, offset, out, size, err);
}

/* --- bytes ----------------------------------------------------------------------------------- */

struct lookup {
    const struct check *check;
    const struct side *side;
};

static repl_result side_segment(void *context, size_t i, const struct repl_segment **out,
                                struct repl_error *err)
{
    const struct lookup *lookup = context;
    const struct side *side = lookup->side;
    (void)err;
    *out = i < side->count ? side->segments[side->count - 1 - i] : NULL;
    return REPL_SUCCESS;
}

/* A name on one side and bytes on the other: they were listed in the run, and are in the piece. */
static repl_result side_chunk(void *context, const struct repl_digest *name,
                              const struct repl_segment **segment, uint32_t *frame,
                              uint32_t *frame_offset, struct repl_error *err)
{
    const struct lookup *lookup = context;
    for (size_t s = 0; s < 2; s++) {
        const struct side *side = &lookup->check->sides[s];
        for (size_t i = 0; i < side->count; i++) {
            for (uint32_t k = 0; k < side->segments[i]->footer.chunk_count; k++) {
                const struct repl_chunk_entry *entry = &side->segments[i]->chunks[k];
                if (!repl_digest_equal(&entry->name, name))
                    continue;
                *segment = side->segments[i];
                *frame = entry->frame;
                *frame_offset = entry->frame_offset;
                return REPL_SUCCESS;
            }
        }
    }
    return repl_fail(err, REPL_E_CORRUPT,
                     "bytes that were a chunk elsewhere became something else");
}

static repl_result bytes_check(struct check *check, struct repl_error *err)
{
    const struct repl_merge_range *range = &check->how->range;
    struct lookup lookups[2];
    repl_result result = REPL_SUCCESS;
    for (size_t s = 0; s < 2 && repl_ok(result); s++) {
        struct side *side = &check->sides[s];
        lookups[s] = (struct lookup){check, side};
        result = repl_view_open_changes(side_segment, side_chunk, &lookups[s], range->begin,
                                        range->end, &side->view, err);
        if (repl_ok(result))
            result = repl_view_reader_new(side->view, CACHED_FRAMES, &side->reader, err);
    }
    if (repl_ok(result))
        result = repl_view_compare(check->sides[0].reader, check->sides[1].reader, err);
    for (size_t s = 0; s < 2; s++) {
        repl_view_reader_free(check->sides[s].reader);
        repl_view_free(check->sides[s].view);
    }
    return result;
}

/* --- records of a tree ----------------------------------------------------------------------- */

static bool texts_equal(const void *a, size_t a_size, const void *b, size_t b_size)
{
    return a_size == b_size && (a_size == 0 || (a == NULL) == (b == NULL)) &&
           (a_size == 0 || a == NULL || memcmp(a, b, a_size) == 0);
}

static bool nodes_equal(const struct repl_node *a, const struct repl_node *b)
{
    return a->kind == b->kind && a->mode == b->mode && a->uid == b->uid && a->gid == b->gid &&
           a->major == b->major && a->minor == b->minor && a->flags == b->flags &&
           a->project == b->project && a->size == b->size && a->mtime_ns == b->mtime_ns &&
           texts_equal(a->target, a->target_size, b->target, b->target_size);
}

static bool records_equal(const struct repl_record *a, const struct repl_record *b)
{
    return a->type == b->type && a->object == b->object && a->offset == b->offset &&
           a->length == b->length && a->place == b->place && a->child == b->child &&
           (a->type != REPL_RECORD_NODE || nodes_equal(&a->node, &b->node)) &&
           texts_equal(a->name, a->name_size, b->name, b->name_size) &&
           texts_equal(a->value, a->value_size, b->value, b->value_size);
}

static repl_result records_compare(struct repl_tree_merge *a, struct repl_tree_merge *b,
                                   struct repl_error *err)
{
    for (;;) {
        struct repl_record x = {0}, y = {0};
        bool x_done, y_done;
        REPL_TRY(repl_tree_merge_next(a, &x, &x_done, err));
        REPL_TRY(repl_tree_merge_next(b, &y, &y_done, err));
        if (x_done && y_done)
            return REPL_SUCCESS;
        if (x_done != y_done || !records_equal(&x, &y))
            return repl_fail(err, REPL_E_CORRUPT, "a record of object %llu differs",
                             (unsigned long long)(x_done ? y.object : x.object));
    }
}

static repl_result objects_check(struct check *check, struct repl_error *err)
{
    const struct repl_merge_range *range = &check->how->range;
    struct repl_tree_merge *merges[2] = {NULL, NULL};
    repl_result result = REPL_SUCCESS;
    if (range->object_begin >= range->object_end)
        return REPL_SUCCESS;
    for (size_t s = 0; s < 2 && repl_ok(result); s++) {
        const struct repl_tree_merge_options options = {.segments = check->sides[s].segments,
                                                        .segment_count = check->sides[s].count,
                                                        .full = check->how->base,
                                                        .object_begin = range->object_begin,
                                                        .object_end = range->object_end};
        result = repl_tree_merge_new(&options, check->run->coder, &merges[s], err);
    }
    if (repl_ok(result))
        result = records_compare(merges[0], merges[1], err);
    repl_tree_merge_free(merges[0]);
    repl_tree_merge_free(merges[1]);
    return result;
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result piece_check(struct merge_run *run, const struct repl_segment *const *segments,
                               size_t count, const struct repl_merge_piece *how,
                               const struct repl_segment *piece, struct repl_error *err)
{
    struct check check = {.run = run, .how = how};
    check.sides[0].segments = segments;
    check.sides[0].count = count;
    check.sides[1].segments = &piece;
    check.sides[1].count = 1;
    REPL_TRY(repl_segment_verify(piece, run->coder, err));
    REPL_TRY(bytes_check(&check, err));
    return objects_check(&check, err);
}

repl_result site_merge_check(struct merge_run *run, const struct repl_segment *const *segments,
                             size_t count, const struct repl_merge_piece *how,
                             const struct repl_log_piece *piece, struct site_merge_chunks *chunks,
                             struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    const struct repl_segment_id id = {
        .to_seq = piece->commit.to_seq, .part = piece->commit.part, .merge = piece->merge};
    struct repl_stored_segment *file;
    struct repl_segment *segment = NULL;
    REPL_TRY(
        o->store->ops->segment_open(o->store, o->volume, &id, piece->commit.file_size, &file, err));
    repl_result result =
        repl_segment_open(piece_read_at, file, piece->commit.file_size, &segment, err);
    if (repl_ok(result) && !repl_digest_equal(&segment->footer.digest, &piece->commit.digest))
        result = repl_fail(err, REPL_E_CORRUPT, "it is another file than the one that was written");
    if (repl_ok(result))
        result = piece_check(run, segments, count, how, segment, err);
    if (repl_ok(result))
        result =
            repl_segment_references(segment, run->coder, &chunks->refs, &chunks->ref_count, err);
    if (repl_ok(result)) { /* the list changes hands */
        chunks->entries = segment->chunks;
        chunks->count = segment->footer.chunk_count;
        segment->chunks = NULL;
    }
    result = repl_forward(result, err, "%s", file->label);
    repl_segment_free(segment);
    file->close(file);
    return result;
}
