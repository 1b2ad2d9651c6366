#include "site/compactor/merge_run.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "block/read_full.h"
#include "journal/churn.h"
#include "journal/merge_order.h"
#include "store/segment_name.h"

#define RANGES_MAX  128u /* that wait: each halving leaves one behind */
#define BUFFER_SIZE (1u << 20)

/* A piece on its way into its staged file. */
struct output {
    const struct site_merge_options *options;
    int fd;
    char path[PATH_MAX];
    uint64_t written; /* and what lies in the buffer is behind it */
    struct repl_buffer buffer;
};

static void merge_chunks_free(struct site_merge_chunks *chunks)
{
    free(chunks->entries);
    free(chunks->refs);
}

void site_merge_result_fini(struct site_merge_result *result)
{
    for (size_t i = 0; i < result->piece_count; i++)
        merge_chunks_free(&result->chunks[i]);
    free(result->chunks);
    free(result->pieces);
    free(result->gone);
    free(result->going);
    free(result->dropped);
    *result = (struct site_merge_result){0};
}

/* --- the run's files ------------------------------------------------------------------------- */

static repl_result input_read_at(void *context, uint64_t offset, void *out, size_t size,
                                 struct repl_error *err)
{
    const struct merge_input *input = context;
    if (input->patch != NULL && offset >= input->file->size)
        return site_patch_read_at(input->patch, input->file->size, offset, out, size, err);
    return input->file->read_at(input->file, offset, out, size, err);
}

repl_result site_merge_input_open(struct merge_run *run, ptrdiff_t i, struct merge_input *input,
                                  struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    const struct repl_log_piece *entry = &o->entries[i];
    const struct repl_segment_id id = {
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
    REPL_TRY(o->store->ops->segment_open(o->store, o->volume, &id, entry->commit.file_size,
                                         &input->file, err));
    REPL_TRY(repl_forward(
        repl_segment_open(input_read_at, input, entry->commit.file_size, &input->segment, err), err,
        "%s", input->file->label));
    if (!repl_digest_equal(&input->segment->footer.digest, &entry->commit.digest))
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s is not the file that was committed: run repl "
                         "verify",
                         input->file->label);
    if (o->patch != NULL && repl_segment_id_order(&o->patch->id, &id) == 0) {
        input->patch = o->patch;
        site_patch_apply(o->patch, input->file->size, input->segment);
    }
    run->result->read_bytes += entry->commit.file_size;
    return REPL_SUCCESS;
}

void site_merge_input_close(struct merge_input *input)
{
    repl_segment_free(input->segment);
    if (input->file != NULL)
        input->file->close(input->file);
    *input = (struct merge_input){0};
}

static void inputs_close(struct merge_run *run)
{
    for (size_t i = 0; run->inputs != NULL && i < run->options->entry_count; i++)
        site_merge_input_close(&run->inputs[i]);
    free(run->inputs);
}

/* --- a piece's file -------------------------------------------------------------------------- */

static repl_result output_fail(const struct output *out, const char *what, struct repl_error *err)
{
    bool full = errno == ENOSPC || errno == EDQUOT;
    return repl_fail_errno(err, full ? REPL_E_NOSPACE : REPL_E_IO, errno, "cannot %s %s", what,
                           out->path);
}

static repl_result output_open(struct output *out, struct repl_error *err)
{
    char directory[PATH_MAX];
    const struct site_merge_options *o = out->options;
    REPL_TRY(repl_store_staging(o->store, o->volume, directory, sizeof directory, err));
    int size = snprintf(out->path, sizeof out->path, "%s/%" PRIu64 ".merge", directory, o->merge);
    if (size < 0 || (size_t)size >= sizeof out->path)
        return repl_fail(err, REPL_E_USAGE, "the path of the store is too long: move it");
    if (unlink(out->path) != 0 && errno != ENOENT)
        return output_fail(out, "remove", err);
    out->fd = open(out->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    return out->fd < 0 ? output_fail(out, "make", err) : REPL_SUCCESS;
}

static repl_result output_flush(struct output *out, struct repl_error *err)
{
    if (!repl_write_full(out->fd, out->buffer.data, out->buffer.size, out->written))
        return output_fail(out, "write", err);
    out->written += out->buffer.size;
    if (out->options->pace != NULL)
        out->options->pace(out->options->pace_context, out->buffer.size);
    out->buffer.size = 0;
    return REPL_SUCCESS;
}

static repl_result output_put(void *context, const void *data, size_t size, struct repl_error *err)
{
    struct output *out = context;
    if (out->options->stop != NULL && atomic_load(out->options->stop))
        return repl_fail(err, REPL_E_RETRY, "merging was told to stop");
    REPL_TRY(repl_buffer_append(&out->buffer, data, size, err));
    return out->buffer.size >= BUFFER_SIZE ? output_flush(out, err) : REPL_SUCCESS;
}

static void output_close(struct output *out)
{
    if (out->fd >= 0) {
        close(out->fd);
        unlink(out->path); /* published, it has another name by now */
    }
    repl_buffer_fini(&out->buffer);
}

/* --- pieces ---------------------------------------------------------------------------------- */

struct repl_merge_range site_merge_range_of(const struct repl_log_piece *entry)
{
    struct repl_merge_range range = {0};
    if (entry->begin.object <= REPL_OBJECT_DEVICE) {
        range.begin = entry->begin.offset;
        range.end = entry->end.object > REPL_OBJECT_DEVICE ? UINT64_MAX : entry->end.offset;
    }
    if (entry->end.object > REPL_OBJECT_ROOT) {
        range.object_begin =
            entry->begin.object > REPL_OBJECT_ROOT ? entry->begin.object : REPL_OBJECT_ROOT;
        range.object_end = entry->end.object;
    }
    return range;
}

void site_merge_range_put(const struct repl_merge_range *range, struct repl_log_piece *entry)
{
    bool space = range->begin < range->end, objects = range->object_begin < range->object_end;
    ensure(space || objects);
    entry->begin =
        (struct repl_record_place){.object = space ? REPL_OBJECT_DEVICE : range->object_begin,
                                   .offset = space ? range->begin : 0};
    if (objects)
        entry->end = (struct repl_record_place){.object = range->object_end};
    else if (range->end == UINT64_MAX)
        entry->end = (struct repl_record_place){.object = REPL_OBJECT_ROOT};
    else
        entry->end = (struct repl_record_place){.object = REPL_OBJECT_DEVICE, .offset = range->end};
}

/* The second half of a stretch, of which the first one is left; false: it is too small for that.
 * Objects go apart from the space first; the space is cut where its size is a power of two, so that
 * tiles keep their places as a volume grows. */
static bool range_halve(struct repl_merge_range *range, uint64_t size,
                        struct repl_merge_range *rest)
{
    *rest = *range;
    if (range->begin < range->end && range->object_begin < range->object_end) {
        rest->begin = rest->end = 0;
        range->object_begin = range->object_end = 0;
        return true;
    }
    if (range->object_begin < range->object_end) {
        uint64_t last =
            range->object_end == UINT64_MAX ? range->object_begin * 2 + 1024 : range->object_end;
        uint64_t middle = range->object_begin + (last - range->object_begin) / 2;
        if (middle <= range->object_begin)
            return false;
        range->object_end = rest->object_begin = middle;
        return true;
    }
    uint64_t end = range->end < size ? range->end : size, half = SITE_PIECE_SIZE_MIN;
    if (end <= range->begin || end - range->begin <= SITE_PIECE_SIZE_MIN)
        return false;
    while (half * 2 < end - range->begin)
        half *= 2;
    range->end = rest->begin = range->begin + half;
    return true;
}

/* Room for one more. */
static repl_result pieces_grow(struct site_merge_result *result, struct repl_error *err)
{
    size_t wanted = result->piece_count + 1;
    struct repl_log_piece *pieces = reallocarray(result->pieces, wanted, sizeof *pieces);
    if (pieces != NULL)
        result->pieces = pieces;
    struct site_merge_chunks *chunks = reallocarray(result->chunks, wanted, sizeof *chunks);
    if (chunks != NULL)
        result->chunks = chunks;
    if (pieces == NULL || chunks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of pieces");
    chunks[wanted - 1] = (struct site_merge_chunks){0};
    return REPL_SUCCESS;
}

static repl_result piece_publish(struct merge_run *run, struct output *out,
                                 const struct repl_merge_report *report,
                                 const struct repl_merge_piece *how, struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    const struct repl_log_piece *last = &o->entries[o->entry_count - 1];
    struct site_merge_result *result = run->result;
    REPL_TRY(pieces_grow(result, err));
    struct repl_log_piece *piece = &result->pieces[result->piece_count++];
    *piece = (struct repl_log_piece){.commit = {.from_seq = report->header.from_seq,
                                                .to_seq = report->header.to_seq,
                                                .part = how->part,
                                                .lineage = report->header.lineage,
                                                .file_size = report->footer.file_size,
                                                .volume_size = report->volume_size,
                                                .digest = report->footer.digest,
                                                .has_point = how->last},
                                     .merge = o->merge,
                                     .link = report->footer.digest,
                                     .committed_ns = last->committed_ns};
    const struct repl_segment_id id = {
        .to_seq = piece->commit.to_seq, .part = piece->commit.part, .merge = piece->merge};
    /* Where that fails, it may have got its name all the same. */
    REPL_TRY(o->store->ops->segment_publish(o->store, o->volume, &id, out->fd, out->path, err));
    if (how->base)
        site_merge_range_put(&how->range, piece);
    if (how->last) {
        piece->link = last->link;
        piece->unchanged_until_ns = last->unchanged_until_ns;
    }
    result->written_bytes += report->footer.file_size;
    return REPL_SUCCESS;
}

static repl_result piece_write(struct output *out, const struct repl_merge_options *merge,
                               struct repl_merge_report *report, struct repl_error *err)
{
    REPL_TRY(output_open(out, err));
    REPL_TRY(repl_segment_merge(merge, report, err));
    return output_flush(out, err);
}

static repl_result piece_step(struct merge_run *run, enum repl_merge_step step, struct output *out,
                              const struct repl_merge_options *merge,
                              struct repl_merge_report *report, struct repl_error *err)
{
    size_t made = run->result->piece_count;
    switch (step) {
    case REPL_MERGE_WRITE:
        return piece_write(out, merge, report, err);
    case REPL_MERGE_SYNC:
        return fsync(out->fd) == 0 ? REPL_SUCCESS : output_fail(out, "make durable", err);
    case REPL_MERGE_PUBLISH:
        return piece_publish(run, out, report, merge->piece, err);
    case REPL_MERGE_CHECK:
        return site_merge_check(run, merge->segments, merge->segment_count, merge->piece,
                                &run->result->pieces[made - 1], &run->result->chunks[made - 1],
                                err);
    default:
        return repl_fail(err, REPL_E_INTERNAL, "a piece has no step %d", step);
    }
}

static repl_result piece_make(struct merge_run *run, const struct repl_segment *const *segments,
                              const struct repl_digest *links, size_t count,
                              const struct repl_merge_piece *how, struct repl_merge_report *report,
                              struct repl_error *err)
{
    struct output out = {.options = run->options, .fd = -1};
    struct repl_merge_options merge = {.piece = how,
                                       .segments = segments,
                                       .segment_count = count,
                                       .links = links,
                                       .sink = output_put,
                                       .sink_context = &out};
    repl_result result = REPL_SUCCESS;
    site_merge_chunks_ask(run, &merge, how->last);
    for (enum repl_merge_step step = REPL_MERGE_WRITE; step < REPL_MERGE_MADE;
         step = repl_merge_step_next(step, repl_ok(result)))
        result = piece_step(run, step, &out, &merge, report, err);
    output_close(&out);
    REPL_TRY(result);
    return site_merge_chunks_made(run, &run->result->chunks[run->result->piece_count - 1], err);
}

/* The last piece ends where the run does. */
static repl_result piece_point(struct merge_run *run, struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    struct repl_log_piece *last = &run->result->pieces[run->result->piece_count - 1];
    const struct repl_log_commit *of = &o->entries[o->entry_count - 1].commit;
    if (!of->has_point)
        return repl_fail(err, REPL_E_INTERNAL, "a run that does not end in a point is merged");
    last->commit.point = of->point;
    repl_churn_merge(o->entries, o->entry_count, &last->commit.churn);
    return REPL_SUCCESS;
}

struct stretch {
    const struct repl_segment *const *segments;
    const struct repl_digest *links;
    size_t count;
    struct repl_merge_range range;
    bool base;
    bool last; /* behind it comes no other one */
};

static repl_result range_merge(struct merge_run *run, const struct stretch *stretch,
                               const struct repl_merge_range *range, bool last, bool limited,
                               bool *too_large, struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    const size_t made = run->result->piece_count;
    struct repl_merge_report report = {0};
    struct repl_merge_piece how = {.range = *range,
                                   .part = (uint32_t)made,
                                   .last = last,
                                   .base = stretch->base,
                                   .extents_max = limited ? o->extents_max : UINT64_MAX,
                                   .raw_size_max = limited ? o->raw_size_max : UINT64_MAX,
                                   .records_max = limited ? o->records_max : UINT64_MAX};
    if (!stretch->base)
        how.prev = made == 0 ? stretch->segments[0]->header.prev
                             : run->result->pieces[made - 1].commit.digest;
    repl_result result =
        piece_make(run, stretch->segments, stretch->links, stretch->count, &how, &report, err);
    *too_large = report.too_large;
    return result;
}

/* One stretch into as many pieces as it takes. */
static repl_result stretch_merge(struct merge_run *run, const struct stretch *stretch,
                                 struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    uint64_t size = o->entries[o->entry_count - 1].commit.volume_size;
    struct repl_merge_range ranges[RANGES_MAX] = {stretch->range};
    size_t waiting = 1;
    bool limited = true;
    while (waiting > 0) {
        struct repl_merge_range range = ranges[--waiting], rest;
        bool too_large;
        repl_result result = range_merge(run, stretch, &range, stretch->last && waiting == 0,
                                         limited, &too_large, err);
        if (!repl_ok(result) && !too_large)
            return result;
        limited = true;
        if (repl_ok(result))
            continue;
        if (waiting + 2 <= RANGES_MAX && range_halve(&range, size, &rest))
            ranges[waiting++] = rest;
        else
            limited = false; /* it is as small as it gets: whatever it takes */
        ranges[waiting++] = range;
    }
    return REPL_SUCCESS;
}

/* --- runs ------------------------------------------------------------------------------------ */

static repl_result segments_of(const struct merge_run *run, const struct repl_segment ***out,
                               struct repl_error *err)
{
    size_t count = run->options->entry_count;
    *out = malloc(count * sizeof **out);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", count);
    for (size_t i = 0; i < count; i++)
        (*out)[i] = run->inputs[i].segment;
    return REPL_SUCCESS;
}

static struct repl_merge_range everything(const struct merge_run *run)
{
    bool tree = run->inputs[0].segment->header.volume_kind == REPL_VOLUME_TREE;
    return (struct repl_merge_range){.end = UINT64_MAX,
                                     .object_begin = tree ? REPL_OBJECT_ROOT : 0,
                                     .object_end = tree ? UINT64_MAX : 0};
}

static repl_result increments_merge(struct merge_run *run,
                                    const struct repl_segment *const *segments,
                                    struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    struct repl_digest *links;
    for (size_t i = 0; i < o->entry_count; i++)
        run->inputs[i].goes = true;
    REPL_TRY(site_merge_chunks_begin(run, err));
    links = malloc(o->entry_count * sizeof *links);
    if (links == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu segments", o->entry_count);
    for (size_t i = 0; i < o->entry_count; i++)
        links[i] = o->entries[i].link;
    const struct stretch stretch = {.segments = segments,
                                    .links = links,
                                    .count = o->entry_count,
                                    .range = everything(run),
                                    .base = o->entries[0].commit.from_seq == 0,
                                    .last = true};
    repl_result result = stretch_merge(run, &stretch, err);
    free(links);
    if (repl_ok(result) && stretch.base)
        run->result->pieces[0].begins = true;
    return result;
}

/* Tile i with what follows the base; where nothing does, with the tile that has its point. */
static repl_result tile_merge(struct merge_run *run, const struct repl_segment **segments,
                              size_t base_count, size_t i, bool last, struct repl_error *err)
{
    const size_t count = run->options->entry_count;
    const size_t first = base_count == count && i + 1 < count ? count - 2 : base_count - 1;
    const struct repl_segment *before = segments[first];
    const struct stretch stretch = {.segments = segments + first,
                                    .count = count - first,
                                    .range = site_merge_range_of(&run->options->entries[i]),
                                    .base = true,
                                    .last = last};
    segments[first] = run->inputs[i].segment;
    repl_result result = stretch_merge(run, &stretch, err);
    segments[first] = before;
    return result;
}

static repl_result tiles_merge(struct merge_run *run, const struct repl_segment **segments,
                               size_t base_count, const bool *touched, struct repl_error *err)
{
    size_t last = 0;
    for (size_t i = 0; i < base_count; i++) {
        if (touched[i])
            last = i;
    }
    for (size_t i = 0; i <= last; i++) {
        if (touched[i])
            REPL_TRY(tile_merge(run, segments, base_count, i, i == last, err));
    }
    return REPL_SUCCESS;
}

static repl_result base_merge(struct merge_run *run, const struct repl_segment **segments,
                              struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    size_t base_count = 0;
    while (base_count < o->entry_count && o->entries[base_count].commit.from_seq == 0)
        base_count++;
    ensure(base_count > 0);
    bool *touched;
    REPL_TRY(site_merge_touched(run, base_count, &touched, err));
    for (size_t i = 0; i < o->entry_count; i++)
        run->inputs[i].goes = touched == NULL || i >= base_count || touched[i];
    repl_result result = site_merge_chunks_begin(run, err);
    if (repl_ok(result) && touched != NULL)
        result = tiles_merge(run, segments, base_count, touched, err);
    bool done = touched != NULL;
    free(touched);
    if (!repl_ok(result) || done)
        return result;
    const struct stretch stretch = {.segments = segments,
                                    .count = o->entry_count,
                                    .range = everything(run),
                                    .base = true,
                                    .last = true};
    return stretch_merge(run, &stretch, err);
}

/* A disk that is full must not become fuller with each try. What could not be removed stays in the
 * result. */
static void pieces_take_back(const struct merge_run *run)
{
    struct repl_store *store = run->options->store;
    struct site_merge_result *result = run->result;
    size_t left = 0;
    for (size_t i = 0; i < result->piece_count; i++) {
        const struct repl_log_piece *piece = &result->pieces[i];
        const struct repl_segment_id id = {
            .to_seq = piece->commit.to_seq, .part = piece->commit.part, .merge = piece->merge};
        merge_chunks_free(&result->chunks[i]);
        result->chunks[i] = (struct site_merge_chunks){0};
        if (repl_ok(store->ops->segment_remove(store, run->options->volume, &id, NULL)))
            continue;
        result->pieces[left++] = *piece;
    }
    result->piece_count = left;
}

repl_result site_merge_run(const struct site_merge_options *options,
                           struct site_merge_result *result, struct repl_error *err)
{
    struct merge_run run = {.options = options, .result = result};
    const struct repl_segment **segments = NULL;
    ensure(options->entry_count > 0 && options->merge != 0);
    *result = (struct site_merge_result){0};
    run.inputs = calloc(options->entry_count, sizeof *run.inputs);
    repl_result done = run.inputs == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory to merge")
                                          : repl_frame_coder_new(&run.coder, err);
    for (size_t i = 0; repl_ok(done) && i < options->entry_count; i++)
        done = site_merge_input_open(&run, (ptrdiff_t)i, &run.inputs[i], err);
    if (repl_ok(done))
        done = segments_of(&run, &segments, err);
    if (repl_ok(done))
        done = options->after_seq == 0 ? base_merge(&run, segments, err)
                                       : increments_merge(&run, segments, err);
    if (repl_ok(done))
        done = piece_point(&run, err);
    if (repl_ok(done))
        done = site_merge_chunks_end(&run, err);
    free(segments);
    site_merge_chunks_fini(&run);
    inputs_close(&run);
    repl_frame_coder_free(run.coder);
    if (!repl_ok(done))
        pieces_take_back(&run);
    return done;
}

/* --- the log --------------------------------------------------------------------------------- */

repl_result site_merge_records(const struct site_merge_options *options,
                               const struct site_merge_result *result, uint64_t first_number,
                               int64_t time_ns, struct repl_log_record **out, size_t *count,
                               struct repl_error *err)
{
    struct repl_log_record *records, *record;
    *count = 1 + result->gone_count + result->piece_count;
    *out = records = record = calloc(*count, sizeof *records);
    if (records == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu log records", *count);
    *record++ = (struct repl_log_record){
        .type = REPL_LOG_MERGE,
        .merge = {.from_seq = options->after_seq,
                  .to_seq = options->entries[options->entry_count - 1].commit.to_seq,
                  .records = (uint32_t)(*count - 1)}};
    for (size_t i = 0; i < result->gone_count; i++)
        *record++ = (struct repl_log_record){.type = REPL_LOG_GONE, .gone = result->gone[i]};
    for (size_t i = 0; i < result->piece_count; i++)
        *record++ = (struct repl_log_record){.type = REPL_LOG_PIECE, .piece = result->pieces[i]};
    for (size_t i = 0; i < *count; i++) {
        records[i].number = first_number + i;
        records[i].time_ns = time_ns;
    }
    return REPL_SUCCESS;
}
