#include "sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "repl/view.h"

/*
 * What must be true. When a point is cut, what was read for it is held against
 * what it claims to be. From then on the checkers look at durable bytes only,
 * through the code a restore uses, and compare with what was read.
 *
 *   cut       what was read for a point is what a crash would have left at the
 *             round's end, everything completed before its begin included; or,
 *             of a frozen one, exactly what the device held
 *   restore   every committed point opens and reads to what was read for it
 *   history   what was committed stays: no entry lost, changed or out of order
 *   replica   where its state says it is at a point, it holds that point
 *   claim     "unchanged since" is said of a volume that is unchanged
 *   fork      nothing a clone wrote becomes part of the history
 *   rot       a damaged file gives right bytes or an error that names the place
 */

void sim_check_fini(struct sim_check *check)
{
    free(check->points);
    free(check->history);
    *check = (struct sim_check){0};
}

static struct sim_point *point_find(struct sim *sim, const struct repl_digest *digest)
{
    for (size_t i = sim->check.point_count; i-- > 0;) {
        if (repl_digest_equal(&sim->check.points[i].digest, digest))
            return &sim->check.points[i];
    }
    return NULL;
}

static struct sim_point *point_new(struct sim_check *check)
{
    if (check->point_count == check->point_capacity) {
        check->point_capacity = check->point_capacity ? 2 * check->point_capacity : 64;
        check->points = realloc(check->points, check->point_capacity * sizeof *check->points);
        ensure(check->points != NULL);
    }
    return &check->points[check->point_count++];
}

/* --- a point is cut -------------------------------------------------------------------------- */

/* The oldest version a page may have. A quiet round lets no write be complete in it, so that what
 * had landed when it began is in it; of a window only what was complete then is promised, and
 * what a crash at its end would have left. */
static struct sim_version oldest_legal(const struct sim_round *round, enum repl_cut cut,
                                       uint32_t page)
{
    if (cut == REPL_CUT_FREEZE)
        return round->close_landed[page];
    struct sim_version oldest =
        cut == REPL_CUT_QUIET ? round->open_landed[page] : round->open_stable[page];
    return round->close_durable[page].number > oldest.number ? round->close_durable[page] : oldest;
}

static bool page_is_legal(const struct sim_source *source, enum repl_cut cut, uint32_t page,
                          uint64_t tag)
{
    const struct sim_round *round = &source->round;
    struct sim_version oldest = oldest_legal(round, cut, page);
    if (oldest.tag == tag)
        return true;
    for (size_t i = 0; i < round->landing_end; i++) {
        const struct sim_landing *landing = &source->device.landings[i];
        if (landing->page == page && landing->version.tag == tag &&
            landing->version.number > oldest.number)
            return cut != REPL_CUT_FREEZE;
    }
    return false;
}

static void cut_check(const struct sim_source *source, enum repl_cut cut)
{
    struct sim *sim = source->sim;
    const struct sim_round *round = &source->round;
    bool held = round->hold != 0 && round->hold == round->open_hold;
    if ((cut == REPL_CUT_FREEZE || cut == REPL_CUT_COMMAND) && !held)
        sim_fail(sim, "cut", "a freeze or a command did not hold as long as the round took");
    for (uint32_t page = 0; page < round->page_count; page++) {
        if (!page_is_legal(source, cut, page, source->read_tags[page]))
            sim_fail(sim, "cut", "page %u was read as nothing it may have been (cut %u)", page,
                     (unsigned)cut);
    }
}

static void cut_count(struct sim_counts *counts, enum repl_cut cut)
{
    counts->points++;
    counts->windows += cut == REPL_CUT_WINDOW;
    counts->frozen += cut == REPL_CUT_FREEZE;
    counts->commands += cut == REPL_CUT_COMMAND;
}

static enum repl_cut cut_of_epoch(const struct sim_source *source)
{
    struct repl_point point;
    struct repl_epoch epoch = source->pipeline.epoch;
    epoch.state = REPL_EPOCH_TRYING;
    epoch.quiesced = source->round.open_hold != 0;
    repl_epoch_point(&epoch, 0, &point);
    return (enum repl_cut)point.cut;
}

void sim_check_cut(struct sim_source *source, const struct repl_digest *digest)
{
    struct sim *sim = source->sim;
    struct sim_check *check = &sim->check;
    const struct sim_round *round = &source->round;
    enum repl_cut cut = (enum repl_cut)source->pipeline.point.cut;
    struct sim_point *point = point_new(check);
    *point = (struct sim_point){.digest = *digest,
                                .of_clone = source->is_clone,
                                .size = round->size,
                                .page_count = round->page_count};
    memcpy(point->tags, source->read_tags, sizeof point->tags);
    sim_trace(sim, "%s cuts a point (cut %u)", source->is_clone ? "clone" : "source",
              (unsigned)cut);
    cut_count(sim->counts, cut);
    cut_check(source, cut);
}

void sim_check_merged(struct sim_source *source, const struct repl_digest *last,
                      const struct repl_digest *merged)
{
    struct sim_check *check = &source->sim->check;
    const struct sim_point *point = point_find(source->sim, last);
    ensure(point != NULL);
    struct sim_point copy = *point;
    copy.digest = *merged;
    *point_new(check) = copy;
    if (repl_digest_equal(&source->verified_digest, last))
        source->verified_digest = *merged;
}

static const struct sim_point *claimed_point(struct sim_source *source,
                                             const struct repl_digest *digest)
{
    struct sim *sim = source->sim;
    const struct sim_point *point = point_find(sim, digest);
    sim->counts->claims++;
    if (point == NULL)
        sim_fail(sim, "claim", "the volume is said to equal a point that was never cut");
    if (point->page_count != source->pipeline.table.page_count)
        sim_fail(sim, "claim", "the volume is said to equal a point of another size");
    return point;
}

void sim_check_cut_empty(struct sim_source *source, const struct repl_digest *digest)
{
    const struct sim_point *point = claimed_point(source, digest);
    for (uint32_t page = 0; page < point->page_count; page++) {
        if (point->tags[page] != source->read_tags[page])
            sim_fail(source->sim, "claim", "page %u is said to be unchanged, and is not", page);
    }
    cut_check(source, cut_of_epoch(source));
}

static bool page_equals(uint64_t tag, const uint8_t *bytes, size_t size)
{
    uint8_t expected[REPL_PAGE_SIZE];
    sim_page_fill(tag, expected, size);
    return memcmp(expected, bytes, size) == 0;
}

/* The first page that is wrong; page_count: none. */
static uint32_t first_wrong(const struct sim_point *point, const uint8_t *image)
{
    for (uint32_t page = 0; page < point->page_count; page++) {
        uint64_t offset = (uint64_t)page * REPL_PAGE_SIZE;
        uint64_t left = point->size - offset;
        if (!page_equals(point->tags[page], image + offset,
                         left < REPL_PAGE_SIZE ? (size_t)left : REPL_PAGE_SIZE))
            return page;
    }
    return point->page_count;
}

/* --- history --------------------------------------------------------------------------------- */

static void history_add(struct sim *sim, const struct repl_log_commit *commit)
{
    struct sim_check *check = &sim->check;
    if (check->history_count == check->history_capacity) {
        check->history_capacity = check->history_capacity ? 2 * check->history_capacity : 64;
        check->history = realloc(check->history, check->history_capacity * sizeof *check->history);
        ensure(check->history != NULL);
    }
    check->history[check->history_count++] = *commit;
    sim->counts->commits++;
    sim->counts->parts += !commit->has_point;
    sim_trace(sim, "segment (%llu, %llu].%u is history%s", (unsigned long long)commit->from_seq,
              (unsigned long long)commit->to_seq, commit->part,
              commit->has_point ? ", with a point" : "");
    if (!commit->has_point)
        return;
    const struct sim_point *point = point_find(sim, &commit->digest);
    if (point == NULL)
        sim_fail(sim, "history", "point %llu was committed that no source has cut",
                 (unsigned long long)commit->to_seq);
    if (point->of_clone)
        sim_fail(sim, "fork", "point %llu of a clone became history",
                 (unsigned long long)commit->to_seq);
    sim->counts->fulls_whole += commit->from_seq == 0 && check->begun;
    check->begun = true;
}

void sim_check_commit(struct sim *sim, const struct repl_log_commit *commit)
{
    history_add(sim, commit);
    if (commit->has_point)
        sim_check_restore(sim, sim->check.history_count - 1);
}

void sim_check_log(struct sim *sim, const struct repl_log_commit *commits, size_t count)
{
    struct sim_check *check = &sim->check;
    if (count < check->history_count)
        sim_fail(sim, "history", "%zu committed segments of %zu are left after a restart", count,
                 check->history_count);
    if (count > check->history_count + 1)
        sim_fail(sim, "history", "%zu segments were committed without a word",
                 count - check->history_count);
    for (size_t i = 0; i < check->history_count; i++) {
        if (!repl_digest_equal(&check->history[i].digest, &commits[i].digest) ||
            check->history[i].to_seq != commits[i].to_seq)
            sim_fail(sim, "history", "committed segment %zu is another one after a restart", i);
    }
    if (count > check->history_count)
        history_add(sim, &commits[count - 1]);
}

/* --- restore --------------------------------------------------------------------------------- */

/* Committed segments as a restore finds them on the site's disk. */
struct restore {
    struct sim *sim;
    size_t newest; /* index in the history */
    struct repl_segment **opened;
    struct repl_segment **supplies;
    size_t supply_count;
};

static repl_result open_at(struct restore *r, size_t index, const struct repl_segment **out,
                           struct repl_error *err)
{
    const struct repl_log_commit *commit = &r->sim->check.history[index];
    char name[SIM_NAME_SIZE];
    sim_segment_name(commit->to_seq, commit->part, name);
    if (r->opened[index] == NULL) {
        struct sim_inode *inode = sim_disk_open_durable(&r->sim->site.disk, name);
        if (inode == NULL)
            return repl_fail(err, REPL_E_MISSING, "segment %s: no such file", name);
        REPL_TRY(repl_forward(repl_segment_open(sim_read_at, &inode->durable, inode->durable.size,
                                                &r->opened[index], err),
                              err, "segment %s", name));
        if (!repl_digest_equal(&r->opened[index]->footer.digest, &commit->digest))
            return repl_fail(err, REPL_E_CORRUPT, "segment %s: not the one that was committed",
                             name);
    }
    *out = r->opened[index];
    return REPL_SUCCESS;
}

static repl_result segment_at(void *context, size_t i, const struct repl_segment **out,
                              struct repl_error *err)
{
    struct restore *r = context;
    *out = NULL;
    return i > r->newest ? REPL_SUCCESS : open_at(r, r->newest - i, out, err);
}

static repl_result find_chunk(void *context, const struct repl_digest *name,
                              const struct repl_segment **segment, uint32_t *frame,
                              uint32_t *frame_offset, struct repl_error *err)
{
    struct restore *r = context;
    for (size_t i = 0; i < r->sim->check.history_count + r->supply_count; i++) {
        if (i < r->supply_count)
            *segment = r->supplies[i];
        else
            REPL_TRY(open_at(r, i - r->supply_count, segment, err));
        for (uint32_t k = 0; k < (*segment)->footer.chunk_count; k++) {
            if (!repl_digest_equal(&(*segment)->chunks[k].name, name))
                continue;
            *frame = (*segment)->chunks[k].frame;
            *frame_offset = (*segment)->chunks[k].frame_offset;
            return REPL_SUCCESS;
        }
    }
    return repl_fail(err, REPL_E_MISSING, "a chunk is nowhere");
}

static repl_result view_read_all(struct restore *r, uint64_t size, uint8_t *image,
                                 struct repl_error *err)
{
    struct repl_view *view;
    struct repl_view_reader *reader;
    REPL_TRY(repl_view_open(segment_at, find_chunk, r, &view, err));
    repl_result result = repl_view_size(view) == size
                             ? repl_view_reader_new(view, 8, &reader, err)
                             : repl_fail(err, REPL_E_CORRUPT, "it is of another size");
    if (repl_ok(result)) {
        result = repl_view_read(reader, 0, image, size, err);
        repl_view_reader_free(reader);
    }
    repl_view_free(view);
    return result;
}

static repl_result restore(struct sim *sim, size_t index, uint64_t size, uint8_t *image,
                           struct repl_error *err)
{
    size_t count = sim->check.history_count;
    struct restore r = {.sim = sim, .newest = index, .opened = sim_alloc(count * sizeof *r.opened)};
    r.supplies = sim_supplies_open(&sim->site, true, &r.supply_count);
    repl_result result = view_read_all(&r, size, image, err);
    sim_supplies_free(r.supplies, r.supply_count);
    for (size_t i = 0; i < count; i++)
        repl_segment_free(r.opened[i]);
    free(r.opened);
    return result;
}

void sim_check_restore(struct sim *sim, size_t index)
{
    const struct repl_log_commit *commit = &sim->check.history[index];
    const struct sim_point *point = point_find(sim, &commit->digest);
    struct repl_error err;
    ensure(commit->has_point && point != NULL);
    sim->counts->restores++;
    uint8_t *image = sim_alloc(point->size);
    if (!repl_ok(restore(sim, index, point->size, image, &err)))
        sim_fail(sim, "restore", "point %llu: %s", (unsigned long long)commit->to_seq, err.text);
    uint32_t wrong = first_wrong(point, image);
    if (wrong < point->page_count)
        sim_fail(sim, "restore", "point %llu: page %u holds what was not read for it",
                 (unsigned long long)commit->to_seq, wrong);
    free(image);
}

void sim_check_restore_some(struct sim *sim, unsigned count)
{
    for (unsigned i = 0; i < count && sim->check.history_count > 0; i++) {
        size_t index =
            i == 0 ? sim->check.history_count - 1 : sim_random(sim, sim->check.history_count);
        if (sim->check.history[index].has_point)
            sim_check_restore(sim, index);
    }
}

void sim_check_restore_all(struct sim *sim)
{
    for (size_t i = 0; i < sim->check.history_count; i++) {
        if (sim->check.history[i].has_point)
            sim_check_restore(sim, i);
    }
}

/* --- claims ---------------------------------------------------------------------------------- */

void sim_check_claim(struct sim_source *source, const struct repl_digest *digest)
{
    const struct sim_point *point = claimed_point(source, digest);
    const struct sim_round *round = &source->round;
    for (uint32_t page = 0; page < point->page_count; page++) {
        if (point->tags[page] != round->open_landed[page].tag &&
            point->tags[page] != round->open_stable[page].tag)
            sim_fail(source->sim, "claim",
                     "page %u is not what it was at the point it is said to equal", page);
    }
}

void sim_check_report(struct sim_source *source, const struct repl_report *report)
{
    const struct repl_ship *ship = &source->pipeline.ship;
    if (report->seq == 0)
        return;
    if (report->unchanged_until_ns != source->verified_until_ns ||
        !repl_digest_equal(&source->verified_digest, &ship->head.digest) ||
        report->seq != ship->head.to_seq)
        sim_fail(source->sim, "claim", "point %llu is claimed, which is not the one compared with",
                 (unsigned long long)report->seq);
}

/* --- the replica ----------------------------------------------------------------------------- */

void sim_check_replica(struct sim *sim)
{
    struct repl_replica_state state;
    uint64_t generation;
    if (!repl_ok(sim_replica_load(&sim->site, true, &state, &generation)))
        sim_fail(sim, "replica", "neither slot of its state is whole");
    if (!state.reached.has_point || state.applying)
        return;
    sim->counts->replicas++;
    const struct sim_point *point = point_find(sim, &state.reached.digest);
    const struct sim_inode *data = sim_disk_open_durable(&sim->site.disk, "replica");
    if (point == NULL || data == NULL || data->durable.size < point->size)
        sim_fail(sim, "replica", "point %llu is reached, but not there",
                 (unsigned long long)state.reached.to_seq);
    uint32_t wrong = first_wrong(point, data->durable.data);
    if (wrong < point->page_count)
        sim_fail(sim, "replica", "point %llu: page %u holds what was not read for it",
                 (unsigned long long)state.reached.to_seq, wrong);
}

/* --- the end --------------------------------------------------------------------------------- */

const char *sim_check_converged(struct sim *sim)
{
    const struct sim_check *check = &sim->check;
    const struct sim_device *device = &sim->source.device;
    if (!sim->source.up || !sim->site.up)
        return "somebody is down";
    if (device->writes_out > 0)
        return "a write is on its way";
    if (check->history_count == 0 || !check->history[check->history_count - 1].has_point)
        return "the site's history does not end in a point";
    const struct repl_log_commit *last = &check->history[check->history_count - 1];
    const struct sim_point *point = point_find(sim, &last->digest);
    if (point->size != device->size)
        return "the site's last point is of another size than the device";
    for (uint32_t page = 0; page < device->page_count; page++) {
        if (point->tags[page] != device->landed[page].tag)
            return "the site's last point is not what the device holds";
    }
    if (!repl_digest_equal(&sim->site.replica.reached.digest, &last->digest))
        return "the replica is behind";
    if (sim->source.pipeline.segments.oldest != NULL)
        return "the source has segments that are not acknowledged";
    if (sim->site.journal.report.state != REPL_STATE_IDLE)
        return "the source does not report that it is idle";
    return NULL;
}

/* One bit of one committed file flips: a restore must not hand out a wrong byte. */
void sim_check_rot(struct sim *sim)
{
    struct sim_check *check = &sim->check;
    char name[SIM_NAME_SIZE];
    size_t victim = sim_random(sim, check->history_count);
    sim_segment_name(check->history[victim].to_seq, check->history[victim].part, name);
    struct repl_buffer *bytes = &sim_disk_open_durable(&sim->site.disk, name)->durable;
    size_t at = sim_random(sim, bytes->size);
    uint8_t flip = (uint8_t)(1u << sim_random(sim, 8));
    bytes->data[at] ^= flip;
    sim->counts->rotten++;
    for (size_t i = 0; i < check->history_count; i++) {
        const struct sim_point *point = point_find(sim, &check->history[i].digest);
        struct repl_error err = {0};
        if (!check->history[i].has_point)
            continue;
        uint8_t *image = sim_alloc(point->size);
        if (!repl_ok(restore(sim, i, point->size, image, &err))) {
            sim->counts->rot_refused++;
            if (strstr(err.text, "segment ") == NULL)
                sim_fail(sim, "rot", "the error does not name the place: %s", err.text);
        } else if (first_wrong(point, image) < point->page_count) {
            sim_fail(sim, "rot", "segment %s rotten at byte %zu: wrong bytes were restored", name,
                     at);
        }
        free(image);
    }
    bytes->data[at] ^= flip;
}
