#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/*
 * Chunks that were sent by name only: what the source keeps of them until the
 * segment is acknowledged, the supply it makes of those the site lacks, and the
 * supplies that lie beside the segments at the site.
 *
 * A source's index of what the site holds is a guess. Here it is the truth, but
 * for chunks now and then that it believes in without a reason.
 */

#define SUPPLY_PREFIX "supply-"

struct sim_kept {
    uint64_t number; /* of the segment that refers to it */
    struct repl_digest name;
    uint8_t bytes[REPL_CHUNK_SIZE];
};

/* --- the source ------------------------------------------------------------------------------ */

bool sim_chunk_known(void *context, const struct repl_digest *name)
{
    struct sim_source *source = context;
    struct sim *sim = source->sim;
    if (sim_site_has_chunk(&sim->site, name))
        return true;
    if (!sim_chance(sim, sim->stale_names))
        return false;
    sim->counts->stale_names++;
    return true;
}

static struct sim_kept *kept_find(const struct sim_source *source, uint64_t number,
                                  const struct repl_digest *name)
{
    for (size_t i = 0; i < source->kept_count; i++) {
        if (source->kept[i]->number == number && repl_digest_equal(&source->kept[i]->name, name))
            return source->kept[i];
    }
    return NULL;
}

repl_result sim_supply_keep(void *context, uint64_t number, const struct repl_batch *batch,
                            uint64_t *kept, struct repl_error *err)
{
    struct sim_source *source = context;
    struct sim *sim = source->sim;
    for (uint32_t i = 0; i < batch->reference_count; i++) {
        const struct repl_batch_reference *reference = &batch->references[i];
        if (kept_find(source, number, &reference->name) != NULL)
            continue;
        if (!sim->calm && sim_chance(sim, sim->faults.disk_write)) {
            sim->counts->write_failures++;
            return repl_fail(err, REPL_E_NOSPACE, "spool: no space left");
        }
        struct sim_kept *one = sim_alloc(sizeof *one);
        one->number = number;
        one->name = reference->name;
        memcpy(one->bytes, batch->pages + reference->place, sizeof one->bytes);
        source->kept = realloc(source->kept, (source->kept_count + 1) * sizeof(struct sim_kept *));
        ensure(source->kept != NULL);
        source->kept[source->kept_count++] = one;
        *kept += sizeof one->bytes;
    }
    return REPL_SUCCESS;
}

void sim_supply_drop(struct sim_source *source, uint64_t number)
{
    size_t left = 0;
    for (size_t i = 0; i < source->kept_count; i++) {
        if (source->kept[i]->number == number)
            free(source->kept[i]);
        else
            source->kept[left++] = source->kept[i];
    }
    source->kept_count = left;
}

const uint8_t *sim_supply_find(const struct sim_source *source, uint64_t number,
                               const struct repl_digest *name)
{
    const struct sim_kept *kept = kept_find(source, number, name);
    return kept != NULL ? kept->bytes : NULL;
}

uint64_t sim_supply_bytes(const struct sim_source *source, uint64_t number)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < source->kept_count; i++)
        bytes += source->kept[i]->number == number ? sizeof source->kept[i]->bytes : 0;
    return bytes;
}

/* Chunks without their bytes are gone: their names are hashes of these. */
void sim_supply_damage(struct sim_source *source)
{
    size_t left = 0;
    for (size_t i = 0; i < source->kept_count; i++) {
        if (sim_chance(source->sim, 100))
            free(source->kept[i]);
        else
            source->kept[left++] = source->kept[i];
    }
    source->kept_count = left;
}

void sim_supply_fini(struct sim_source *source)
{
    for (size_t i = 0; i < source->kept_count; i++)
        free(source->kept[i]);
    free(source->kept);
    source->kept = NULL;
    source->kept_count = 0;
}

static repl_result into_buffer(void *context, const void *data, size_t size, struct repl_error *err)
{
    return repl_buffer_append(context, data, size, err);
}

static void chunk_build(struct sim_source *source, struct repl_segment_builder *builder,
                        const struct sim_kept *kept)
{
    struct repl_buffer stored = {0};
    struct repl_frame_entry entry;
    struct repl_chunk_entry chunk = {.name = kept->name};
    ensure(repl_ok(repl_frame_encode(source->sim->coder, kept->bytes, sizeof kept->bytes, &stored,
                                     &entry, NULL)));
    ensure(repl_ok(
        repl_segment_builder_frame(builder, &entry, stored.data, NULL, &chunk.frame, NULL)));
    ensure(repl_ok(repl_segment_builder_chunk(builder, &chunk, NULL)));
    repl_buffer_fini(&stored);
}

/* Only what the site has said it lacks. */
void sim_supply_build(struct sim_source *source, const struct repl_ship_segment *segment,
                      struct repl_buffer *out)
{
    struct repl_segment_builder *builder;
    struct repl_segment_footer footer;
    struct repl_segment_header header = {.version = REPL_SEGMENT_VERSION,
                                         .kind = REPL_SEGMENT_SUPPLY,
                                         .volume_kind = REPL_VOLUME_BLOCK,
                                         .volume = source->pipeline.state.volume,
                                         .lineage = source->pipeline.state.lineage,
                                         .from_seq = segment->from_seq,
                                         .to_seq = segment->to_seq,
                                         .part = segment->part,
                                         .created_ns = sim_source_now(source)};
    const struct repl_digest *names = (const void *)source->missing.data;
    ensure(repl_ok(repl_segment_builder_new(&header, 0, into_buffer, out, &builder, NULL)));
    for (size_t i = 0; i < source->missing.size / sizeof *names; i++) {
        const struct sim_kept *kept = kept_find(source, segment->number, &names[i]);
        if (kept == NULL)
            sim_fail(source->sim, "supply", "the site lacks a chunk that was not kept");
        chunk_build(source, builder, kept);
    }
    ensure(repl_ok(repl_segment_builder_finish(builder, NULL, 0, &footer, NULL)));
    repl_segment_builder_free(builder);
}

/* --- the site -------------------------------------------------------------------------------- */

void sim_supply_name(struct sim_site *site, char name[SIM_NAME_SIZE])
{
    snprintf(name, SIM_NAME_SIZE, SUPPLY_PREFIX "%llu", (unsigned long long)++site->supplies_named);
}

struct repl_segment **sim_supplies_open(const struct sim_site *site, bool durable, size_t *count)
{
    const struct sim_directory *directory = durable ? &site->disk.durable : &site->disk.cached;
    struct repl_segment **segments = sim_alloc((directory->count + 1) * sizeof(void *));
    *count = 0;
    for (size_t i = 0; i < directory->count; i++) {
        const struct sim_name *name = &directory->names[i];
        struct repl_buffer *bytes = durable ? &name->inode->durable : &name->inode->cached;
        /* One that was never acknowledged may be torn. */
        if (strncmp(name->text, SUPPLY_PREFIX, strlen(SUPPLY_PREFIX)) == 0 &&
            repl_ok(repl_segment_open(sim_read_at, bytes, bytes->size, &segments[*count], NULL)))
            ++*count;
    }
    return segments;
}

void sim_supplies_free(struct repl_segment **segments, size_t count)
{
    for (size_t i = 0; i < count; i++)
        repl_segment_free(segments[i]);
    free(segments);
}
