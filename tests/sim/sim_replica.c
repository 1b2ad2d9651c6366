#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

/*
 * The site's live copy: brought forward segment by segment, so that a crash at
 * any moment leaves either a point or a copy that says it is between two.
 *
 *   state: applying, durable -> data written -> data synced -> state: reached
 *
 * A step that failed begins the segment anew: applying it twice does no harm,
 * and after a failed sync everything it wrote is written again.
 */

#define DATA_NAME  "replica"
#define STATE_NAME "replica.state"
#define RETRY_NS   (300 * SIM_MS)

repl_result sim_replica_load(struct sim_site *site, bool durable, struct repl_replica_state *out,
                             uint64_t *generation)
{
    struct sim_inode *inode = durable ? sim_disk_open_durable(&site->disk, STATE_NAME)
                                      : sim_disk_open(&site->disk, STATE_NAME);
    const struct repl_buffer *bytes = inode == NULL ? NULL
                                      : durable     ? &inode->durable
                                                    : &inode->cached;
    *out = (struct repl_replica_state){0};
    *generation = 0;
    if (bytes == NULL || bytes->size < REPL_SLOT_FILE)
        return REPL_SUCCESS; /* nothing was applied yet */
    uint8_t file[REPL_SLOT_FILE];
    memcpy(file, bytes->data, sizeof file);
    return repl_replica_state_decode(file, out, generation, NULL);
}

/* The first state comes with the file, whole, under another name: a file with no whole slot means
 * damage and nothing else. */
static bool state_create(struct sim_site *site, const uint8_t slot[REPL_SLOT_SIZE])
{
    uint8_t file[REPL_SLOT_FILE] = {0};
    struct sim_inode *inode = sim_disk_create(&site->disk, STATE_NAME ".new");
    memcpy(file + repl_slot_offset(1), slot, REPL_SLOT_SIZE);
    if (!repl_ok(sim_disk_write(&site->disk, inode, 0, file, sizeof file, NULL)) ||
        !repl_ok(sim_disk_sync(&site->disk, inode, NULL)))
        return false;
    sim_disk_rename(&site->disk, STATE_NAME ".new", STATE_NAME);
    return repl_ok(sim_disk_sync_directory(&site->disk, NULL));
}

static bool state_write(struct sim_site *site, const struct repl_replica_state *state)
{
    uint8_t slot[REPL_SLOT_SIZE];
    uint64_t generation = site->replica_generation + 1;
    struct sim_inode *inode = sim_disk_open(&site->disk, STATE_NAME);
    repl_replica_state_encode(state, generation, slot);
    if (generation == 1) {
        if (!state_create(site, slot))
            return false;
    } else if (!repl_ok(sim_disk_write(&site->disk, inode, repl_slot_offset(generation), slot,
                                       sizeof slot, NULL)) ||
               !repl_ok(sim_disk_sync(&site->disk, inode, NULL))) {
        return false;
    }
    site->replica_generation = generation;
    site->replica = *state;
    return true;
}

/* The committed segment after the reached one. */
static const struct repl_log_commit *next_commit(const struct sim_site *site)
{
    const struct sim_check *check = &site->sim->check;
    size_t next = 0;
    for (size_t i = 0; i < check->history_count; i++) {
        if (repl_digest_equal(&check->history[i].digest, &site->replica.reached.digest))
            next = i + 1;
    }
    return next < check->history_count ? &check->history[next] : NULL;
}

static struct repl_segment *segment_open(struct sim_site *site, uint64_t to_seq, uint32_t part)
{
    char name[SIM_NAME_SIZE];
    struct repl_segment *segment;
    sim_segment_name(to_seq, part, name);
    struct sim_inode *inode = sim_disk_open(&site->disk, name);
    if (inode == NULL || !repl_ok(repl_segment_open(sim_read_at, &inode->cached, inode->cached.size,
                                                    &segment, NULL)))
        sim_fail(site->sim, "restore", "committed segment %s cannot be opened", name);
    return segment;
}

static bool chunk_copy(struct sim_site *site, const struct repl_segment *segment,
                       const struct repl_digest *name, uint8_t *raw, uint8_t *out)
{
    struct repl_buffer stored = {0};
    size_t size;
    for (uint32_t k = 0; k < segment->footer.chunk_count; k++) {
        const struct repl_chunk_entry *chunk = &segment->chunks[k];
        if (!repl_digest_equal(&chunk->name, name))
            continue;
        ensure(repl_ok(repl_segment_read_frame(segment, chunk->frame, site->sim->coder, &stored,
                                               raw, &size, NULL)));
        memcpy(out, raw + chunk->frame_offset, REPL_CHUNK_SIZE);
        repl_buffer_fini(&stored);
        return true;
    }
    return false;
}

/* A chunk's bytes, from a supply or the first committed segment that carries it. */
static void chunk_read(struct sim_site *site, const struct repl_digest *name, uint8_t *out)
{
    const struct sim_check *check = &site->sim->check;
    uint8_t *raw = sim_alloc(REPL_FRAME_RAW_MAX);
    bool found = false;
    size_t supply_count;
    struct repl_segment **supplies = sim_supplies_open(site, false, &supply_count);
    for (size_t i = 0; i < supply_count && !found; i++)
        found = chunk_copy(site, supplies[i], name, raw, out);
    sim_supplies_free(supplies, supply_count);
    for (size_t i = 0; i < check->history_count && !found; i++) {
        struct repl_segment *segment =
            segment_open(site, check->history[i].to_seq, check->history[i].part);
        found = chunk_copy(site, segment, name, raw, out);
        repl_segment_free(segment);
    }
    ensure(found);
    free(raw);
}

static bool record_apply(struct sim_site *site, struct sim_inode *data,
                         const struct repl_segment *segment, const struct repl_record *record,
                         uint8_t *raw, struct repl_buffer *stored)
{
    const uint8_t *bytes = raw;
    size_t size;
    if (record->type == REPL_RECORD_OBJECT)
        return true;
    if (record->type == REPL_RECORD_DATA) {
        ensure(repl_ok(repl_segment_read_frame(segment, record->frame, site->sim->coder, stored,
                                               raw, &size, NULL)));
        bytes = raw + record->frame_offset;
    } else if (record->type == REPL_RECORD_CHUNK) {
        chunk_read(site, &record->chunk, raw);
        bytes = raw + record->chunk_offset;
    } else {
        ensure(record->length <= SIM_PAGES_MAX * (uint64_t)REPL_PAGE_SIZE);
        memset(raw, 0, record->length);
    }
    return repl_ok(sim_disk_write(&site->disk, data, record->offset, bytes, record->length, NULL));
}

static bool segment_apply(struct sim_site *site, struct sim_inode *data,
                          const struct repl_log_commit *commit)
{
    struct repl_segment *segment = segment_open(site, commit->to_seq, commit->part);
    struct repl_buffer stored = {0};
    uint8_t *raw = sim_alloc(2 * REPL_FRAME_RAW_MAX); /* zeros of the largest volume fit */
    struct repl_record_walk walk;
    struct repl_record record;
    bool went_well = true;
    struct repl_frame_coder *coder;
    ensure(repl_ok(repl_frame_coder_new(&coder, NULL)));
    repl_record_walk_begin(&walk, segment, coder);
    for (bool done = false; went_well;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        went_well = record_apply(site, data, segment, &record, raw, &stored);
    }
    repl_record_walk_end(&walk);
    repl_frame_coder_free(coder);
    repl_segment_free(segment);
    repl_buffer_fini(&stored);
    free(raw);
    return went_well;
}

static struct repl_replica_state state_of(const struct repl_log_commit *commit)
{
    struct repl_replica_state state = {.size = commit->volume_size, .applying = !commit->has_point};
    memset(state.volume.bytes, 7, sizeof state.volume.bytes);
    state.reached = (struct repl_head){.from_seq = commit->from_seq,
                                       .to_seq = commit->to_seq,
                                       .part = commit->part,
                                       .has_point = commit->has_point,
                                       .digest = commit->digest};
    return state;
}

static void step(void *actor, uint64_t argument, void *payload);

static void again(struct sim_site *site, int64_t delay_ns, uint64_t argument)
{
    sim_after(site->sim, delay_ns, &site->life, step, site, argument, NULL, NULL);
}

enum { STEP_MARK, STEP_WRITE, STEP_SYNC, STEP_REACHED };

static bool data_sync(struct sim_site *site, struct sim_inode *data)
{
    return repl_ok(sim_disk_sync(&site->disk, data, NULL)) &&
           repl_ok(sim_disk_sync_directory(&site->disk, NULL));
}

static bool step_do(struct sim_site *site, uint64_t which, const struct repl_log_commit *commit)
{
    struct sim_inode *data = sim_disk_open(&site->disk, DATA_NAME);
    struct repl_replica_state state = site->replica;
    bool early = site->sim->options.bug == SIM_BUG_REPLICA_EARLY;
    if (data == NULL)
        data = sim_disk_create(&site->disk, DATA_NAME);
    switch (which) {
    case STEP_MARK:
        state.applying = true;
        return state_write(site, &state);
    case STEP_WRITE:
        return segment_apply(site, data, commit);
    case STEP_SYNC:
        return early || data_sync(site, data);
    default:
        state = state_of(commit);
        return state_write(site, &state);
    }
}

static void step(void *actor, uint64_t argument, void *payload)
{
    struct sim_site *site = actor;
    const struct repl_log_commit *commit = next_commit(site);
    (void)payload;
    ensure(commit != NULL);
    if (!step_do(site, argument, commit)) {
        again(site, RETRY_NS, STEP_MARK);
        return;
    }
    if (argument != STEP_REACHED) {
        again(site, sim_span(site->sim, SIM_MS / 10, 50 * SIM_MS), argument + 1);
        return;
    }
    site->replica_busy = false;
    sim_replica_run(site);
}

void sim_replica_run(struct sim_site *site)
{
    if (site->replica_busy || next_commit(site) == NULL)
        return;
    site->replica_busy = true;
    again(site, sim_span(site->sim, SIM_MS, 100 * SIM_MS), STEP_MARK);
}

void sim_replica_start(struct sim_site *site)
{
    site->replica_busy = false;
    if (!repl_ok(sim_replica_load(site, false, &site->replica, &site->replica_generation)))
        sim_fail(site->sim, "replica", "neither slot of its state is whole");
    /* As the source does: nothing is built on a slot that is only in the cache. */
    struct sim_inode *inode = sim_disk_open(&site->disk, STATE_NAME);
    if (site->replica_generation == 0)
        return;
    uint8_t slot[REPL_SLOT_SIZE];
    uint64_t offset = repl_slot_offset(site->replica_generation);
    memcpy(slot, inode->cached.data + offset, sizeof slot);
    while (!repl_ok(sim_disk_write(&site->disk, inode, offset, slot, sizeof slot, NULL)) ||
           !repl_ok(sim_disk_sync(&site->disk, inode, NULL)))
        ;
}
