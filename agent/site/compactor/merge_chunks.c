/*
 * Which chunks of what goes are carried along.
 *
 * A chunk whose bytes survive in a piece is listed there, whoever refers to it.
 * One whose bytes are superseded is kept if somebody refers to it all the same: a
 * segment that stays, or one of the pieces. Which pieces do is known when all are
 * made, so it is the last that carries such chunks, each once: those of its own
 * segments, and those of donors, which are the other tiles that go and what a
 * full has made needless. Where they are more than a segment can hold beside the
 * piece's own bytes, half a gigabyte at least, the run is not merged.
 *
 * What goes is not asked: a chunk that only it refers to is dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "segment/segment_references.h"
#include "site/compactor/merge_run.h"
#include "store/segment_name.h"

/* A chunk that a segment lists which goes. */
struct candidate {
    struct repl_digest name; /* first: found by it */
    bool listed;             /* a piece has it */
    bool asked, wanted;      /* by a segment that stays */
};

#define CANDIDATES(chunks)      ((struct candidate *)(void *)(chunks)->candidates.data)
#define CANDIDATE_COUNT(chunks) ((chunks)->candidates.size / sizeof(struct candidate))
#define NAMES(buffer)           ((struct repl_digest *)(void *)(buffer)->data)
#define NAME_COUNT(buffer)      ((buffer)->size / sizeof(struct repl_digest))

static void names_sort(struct repl_buffer *names)
{
    names->size = repl_digests_unique(NAMES(names), NAME_COUNT(names)) * sizeof(struct repl_digest);
}

static bool names_have(const struct repl_buffer *names, const struct repl_digest *name)
{
    return names->size > 0 &&
           bsearch(name, names->data, NAME_COUNT(names), sizeof *name, repl_digest_order) != NULL;
}

static repl_result chunks_append(struct repl_buffer *names, const struct repl_chunk_entry *chunks,
                                 uint32_t count, struct repl_error *err)
{
    for (uint32_t i = 0; i < count; i++)
        REPL_TRY(repl_buffer_append(names, &chunks[i].name, sizeof chunks[i].name, err));
    return REPL_SUCCESS;
}

static int id_order(const void *a, const void *b)
{
    return repl_segment_id_order(a, b);
}

static repl_result gone_add(struct site_merge_result *result, const struct repl_segment_id *id,
                            struct repl_error *err)
{
    struct repl_log_gone *gone = reallocarray(result->gone, result->gone_count + 1, sizeof *gone);
    if (gone == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of segments");
    result->gone = gone;
    gone[result->gone_count++] =
        (struct repl_log_gone){.to_seq = id->to_seq, .part = id->part, .merge = id->merge};
    return REPL_SUCCESS;
}

/* Of the base the log has to name what goes. */
static repl_result going_add(struct merge_run *run, const struct repl_log_piece *entry,
                             struct repl_error *err)
{
    struct site_merge_result *result = run->result;
    const struct repl_segment_id id = {
        .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
    struct repl_segment_id *going =
        reallocarray(result->going, result->going_count + 1, sizeof *going);
    if (going == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of segments");
    result->going = going;
    going[result->going_count++] = id;
    return run->options->after_seq == 0 && entry->commit.from_seq == 0 ? gone_add(result, &id, err)
                                                                       : REPL_SUCCESS;
}

/* --- what goes, and the chunks it lists ------------------------------------------------------ */

/* Whether others than the needless refer to a chunk of it. */
static repl_result is_donor(const struct merge_run *run, const struct repl_segment *segment,
                            bool *donor, struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    *donor = false;
    for (uint32_t i = 0; i < segment->footer.chunk_count && !*donor; i++)
        REPL_TRY(o->referred(o->referred_context, &segment->chunks[i].name, run->result->going,
                             run->result->going_count, donor, err));
    return REPL_SUCCESS;
}

static repl_result needless_add(struct merge_run *run, size_t i, struct repl_error *err)
{
    struct merge_chunks *chunks = &run->chunks;
    struct merge_input *input = &chunks->needless[chunks->needless_count++];
    bool donor;
    REPL_TRY(site_merge_input_open(run, (ptrdiff_t)i - (ptrdiff_t)run->options->needless_count,
                                   input, err));
    REPL_TRY(chunks_append(&chunks->listed, input->segment->chunks,
                           input->segment->footer.chunk_count, err));
    REPL_TRY(is_donor(run, input->segment, &donor, err));
    if (donor)
        return REPL_SUCCESS;
    site_merge_input_close(input);
    chunks->needless_count--;
    return REPL_SUCCESS;
}

/* Opens those of the needless that have chunks which are referred to. */
static repl_result needless_gather(struct merge_run *run, struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    for (size_t i = 0; i < o->needless_count; i++)
        REPL_TRY(going_add(run, o->entries - o->needless_count + i, err));
    if (o->needless_count == 0)
        return REPL_SUCCESS;
    qsort(run->result->going, run->result->going_count, sizeof *run->result->going, id_order);
    run->chunks.needless = calloc(o->needless_count, sizeof *run->chunks.needless);
    if (run->chunks.needless == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of segments");
    for (size_t i = 0; i < o->needless_count; i++)
        REPL_TRY(needless_add(run, i, err));
    return REPL_SUCCESS;
}

/* From the names that were gathered. */
static repl_result candidates_make(struct merge_chunks *chunks, struct repl_error *err)
{
    names_sort(&chunks->listed);
    for (size_t i = 0; i < NAME_COUNT(&chunks->listed); i++) {
        struct candidate candidate = {.name = NAMES(&chunks->listed)[i]};
        REPL_TRY(repl_buffer_append(&chunks->candidates, &candidate, sizeof candidate, err));
    }
    chunks->listed.size = 0;
    return REPL_SUCCESS;
}

repl_result site_merge_chunks_begin(struct merge_run *run, struct repl_error *err)
{
    const struct site_merge_options *o = run->options;
    REPL_TRY(needless_gather(run, err));
    for (size_t i = 0; i < o->entry_count; i++) {
        const struct repl_segment *segment = run->inputs[i].segment;
        if (!run->inputs[i].goes)
            continue;
        REPL_TRY(going_add(run, &o->entries[i], err));
        REPL_TRY(
            chunks_append(&run->chunks.listed, segment->chunks, segment->footer.chunk_count, err));
    }
    qsort(run->result->going, run->result->going_count, sizeof *run->result->going, id_order);
    run->chunks.donors =
        calloc(o->entry_count + run->chunks.needless_count, sizeof *run->chunks.donors);
    if (run->chunks.donors == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a list of segments");
    return candidates_make(&run->chunks, err);
}

/* --- one piece ------------------------------------------------------------------------------- */

static bool stays_wanted(struct merge_run *run, struct candidate *candidate)
{
    const struct site_merge_options *o = run->options;
    struct merge_chunks *chunks = &run->chunks;
    if (!candidate->asked && repl_ok(chunks->result))
        chunks->result = o->referred(o->referred_context, &candidate->name, run->result->going,
                                     run->result->going_count, &candidate->wanted, &chunks->err);
    candidate->asked = true;
    return candidate->wanted;
}

/* Asked for the last piece. */
static bool carry(void *context, const struct repl_digest *name, bool referred)
{
    struct merge_run *run = context;
    struct merge_chunks *chunks = &run->chunks;
    struct candidate *candidate =
        chunks->candidates.size == 0
            ? NULL
            : bsearch(name, chunks->candidates.data, CANDIDATE_COUNT(chunks), sizeof *candidate,
                      repl_digest_order);
    if (candidate == NULL || candidate->listed)
        return false;
    candidate->listed =
        referred || names_have(&chunks->referred, name) || stays_wanted(run, candidate);
    return candidate->listed;
}

/* Asked for those before it: the last has what is left. */
static bool leave(void *context, const struct repl_digest *name, bool referred)
{
    (void)context, (void)name, (void)referred;
    return false;
}

static bool is_among(const struct repl_merge_options *options, const struct repl_segment *segment)
{
    for (size_t i = 0; i < options->segment_count; i++) {
        if (options->segments[i] == segment)
            return true;
    }
    return false;
}

static size_t donors_list(struct merge_run *run, const struct repl_merge_options *options)
{
    struct merge_chunks *chunks = &run->chunks;
    size_t count = 0;
    for (size_t i = 0; i < chunks->needless_count; i++)
        chunks->donors[count++] = chunks->needless[i].segment;
    for (size_t i = 0; i < run->options->entry_count; i++) {
        const struct repl_segment *segment = run->inputs[i].segment;
        if (run->inputs[i].goes && segment->footer.chunk_count > 0 && !is_among(options, segment))
            chunks->donors[count++] = segment;
    }
    return count;
}

void site_merge_chunks_ask(struct merge_run *run, struct repl_merge_options *options, bool last)
{
    struct merge_chunks *chunks = &run->chunks;
    options->chunk_wanted = last ? carry : leave;
    options->chunk_context = run;
    if (!last)
        return;
    names_sort(&chunks->listed);
    names_sort(&chunks->referred);
    for (size_t i = 0; i < CANDIDATE_COUNT(chunks); i++) {
        struct candidate *candidate = &CANDIDATES(chunks)[i];
        candidate->listed = names_have(&chunks->listed, &candidate->name);
    }
    options->donor_count = donors_list(run, options);
    options->donors = chunks->donors;
}

repl_result site_merge_chunks_made(struct merge_run *run, const struct site_merge_chunks *of,
                                   struct repl_error *err)
{
    struct merge_chunks *chunks = &run->chunks;
    if (!repl_ok(chunks->result)) {
        *err = chunks->err;
        return chunks->result;
    }
    REPL_TRY(chunks_append(&chunks->listed, of->entries, of->count, err));
    return of->ref_count == 0 ? REPL_SUCCESS
                              : repl_buffer_append(&chunks->referred, of->refs,
                                                   of->ref_count * sizeof *of->refs, err);
}

/* --- all of them ----------------------------------------------------------------------------- */

repl_result site_merge_chunks_end(struct merge_run *run, struct repl_error *err)
{
    struct merge_chunks *chunks = &run->chunks;
    struct repl_buffer dropped = {0};
    repl_result result = REPL_SUCCESS;
    names_sort(&chunks->listed);
    for (size_t i = 0; i < CANDIDATE_COUNT(chunks) && repl_ok(result); i++) {
        const struct repl_digest *name = &CANDIDATES(chunks)[i].name;
        if (!names_have(&chunks->listed, name))
            result = repl_buffer_append(&dropped, name, sizeof *name, err);
    }
    run->result->dropped = NAMES(&dropped);
    run->result->dropped_count = NAME_COUNT(&dropped);
    return result;
}

void site_merge_chunks_fini(struct merge_run *run)
{
    struct merge_chunks *chunks = &run->chunks;
    for (size_t i = 0; i < chunks->needless_count; i++)
        site_merge_input_close(&chunks->needless[i]);
    free(chunks->needless);
    free(chunks->donors);
    repl_buffer_fini(&chunks->candidates);
    repl_buffer_fini(&chunks->listed);
    repl_buffer_fini(&chunks->referred);
}

repl_result site_merge_needless(const struct site_merge_options *options,
                                struct site_merge_result *result, bool *wanted,
                                struct repl_error *err)
{
    struct merge_run run = {.options = options, .result = result};
    *result = (struct site_merge_result){0};
    repl_result done = needless_gather(&run, err);
    *wanted = run.chunks.needless_count > 0;
    if (repl_ok(done))
        done = candidates_make(&run.chunks, err);
    if (repl_ok(done))
        done = site_merge_chunks_end(&run, err);
    site_merge_chunks_fini(&run);
    if (!repl_ok(done) || *wanted)
        site_merge_result_fini(result);
    return done;
}
