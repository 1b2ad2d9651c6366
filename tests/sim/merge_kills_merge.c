#include "merge_kills.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "journal/merge_order.h"
#include "journal/merge_plan.h"
#include "segment/segment_merge.h"
#include "unit/segment/segment_fixture.h"

#define PIECES_MAX  (KILLS_SIZE / KILLS_TILE + 2) /* of the space, and of a tree's objects */
#define ENTRIES_MAX 256u
#define STAGED      "staged.merge"

/* A merge on its way, with what it was begun with: commits may come meanwhile. */
struct merge {
    struct kills_volume *v;
    struct kills_world *w;
    struct repl_merge plan;
    struct repl_log_piece entries[ENTRIES_MAX]; /* of the run, needless ones first */
    struct repl_segment *inputs[ENTRIES_MAX];
    bool goes[ENTRIES_MAX];
    size_t count, needless;
    uint64_t number;
    uint64_t generation; /* of the index */
    /* the pieces */
    struct repl_merge_range ranges[PIECES_MAX];
    size_t tile_of[PIECES_MAX]; /* the entry, where the base is made of tiles */
    bool base, tiles;
    size_t piece_count, made;
    struct repl_log_piece pieces[PIECES_MAX];
    struct repl_segment *outputs[PIECES_MAX];
    /* the piece being made */
    struct repl_merge_piece how;
    const struct repl_segment *segments[ENTRIES_MAX], *donors[ENTRIES_MAX];
    size_t segment_count;
    struct memory_file file;
    struct repl_merge_report report;
    struct sim_inode *staged;
};

/* --- what is merged -------------------------------------------------------------------------- */

static void points_drop(struct kills_volume *v, struct repl_merge_plan *plan)
{
    const struct repl_chain *chain = &v->chain;
    struct repl_retention_point points[ENTRIES_MAX] = {0};
    bool keep[ENTRIES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < chain->count; i++) {
        const struct repl_log_commit *commit = &chain->entries[i].commit;
        if (repl_chain_has_point(chain, i))
            points[count++] = (struct repl_retention_point){.seq = commit->to_seq,
                                                            .time_ns = commit->point.end_ns};
    }
    if (count == 0)
        return;
    points[count - 1].protect = REPL_PROTECT_NEWEST;
    repl_retention_pass(&v->w->policy, points, count, 0, v->w->now_ns, keep);
    for (size_t i = 0; i < count; i++) {
        const int64_t *before = i > 0 ? &points[i - 1].time_ns : NULL;
        int64_t until = repl_retention_until(&v->w->policy, before, points[i].time_ns, NULL);
        if (!keep[i])
            repl_merge_plan_drop(plan, points[i].seq,
                                 until == REPL_RETENTION_NEVER ? points[i].time_ns : until);
    }
}

/* As a visit of the compactor has it. */
static bool merge_find(struct kills_volume *v, struct repl_merge *merge)
{
    const struct repl_chain *chain = &v->chain;
    struct repl_merge_plan plan;
    ensure(chain->count < ENTRIES_MAX);
    repl_merge_plan_init(&plan, UINT64_MAX);
    for (size_t i = 0; i < chain->count; i++) {
        const struct repl_log_piece *entry = &chain->entries[i], *next = entry + 1;
        bool full = entry->commit.from_seq == 0;
        if (full && i + 1 < chain->count && next->commit.from_seq == 0 && !next->begins)
            continue; /* of a base the plan sees the last */
        struct repl_merge_segment segment = {.from_seq = entry->commit.from_seq,
                                             .to_seq = entry->commit.to_seq,
                                             .part = full ? 0 : entry->commit.part,
                                             .has_point = repl_chain_has_point(chain, i),
                                             .time_ns = entry->commit.point.end_ns,
                                             .file_size = entry->commit.file_size};
        ensure(repl_ok(repl_merge_plan_add(&plan, &segment, NULL)));
    }
    points_drop(v, &plan);
    bool found = repl_merge_plan_next(&plan, v->w->now_ns, merge);
    repl_merge_plan_fini(&plan);
    return found;
}

static bool is_going(const struct merge *m, const struct kills_file *file)
{
    for (size_t i = 0; i < m->count && file->v == m->v && file->entry != NULL; i++) {
        if (m->goes[i] && m->entries[i].commit.to_seq == file->entry->commit.to_seq &&
            m->entries[i].commit.part == file->entry->commit.part &&
            m->entries[i].merge == file->entry->merge)
            return true;
    }
    return false;
}

/* Whether a segment of now that stays refers to it, of whichever volume of the pool. */
static bool stays_wanted(const struct merge *m, const struct repl_digest *name)
{
    size_t count;
    bool wanted = false;
    if (m->w->site != NULL)
        return kills_index_is_referred(m->v, name, m->entries, m->goes, m->count);
    struct kills_file *files = kills_pool_open(m->v, &count);
    for (size_t i = 0; i < count && !wanted; i++) {
        bool asked = files[i].v == m->v || m->w->bug != KILLS_BUG_POOL_UNASKED;
        wanted = asked && !is_going(m, &files[i]) && kills_refers(m->w, files[i].segment, name);
    }
    kills_pool_close(files, count);
    return wanted;
}

/* Whether a record speaks of what is between the two. */
static bool record_touches(const struct merge *m, const struct repl_record *record,
                           const struct repl_log_piece *tile)
{
    struct repl_record_place begin = {record->object, 0}, end = {record->object + 1, 0};
    if (record->type == REPL_RECORD_OBJECT ||
        (record->object != REPL_OBJECT_DEVICE && m->w->bug == KILLS_BUG_OBJECTS_UNSEEN))
        return false;
    if (record->object == REPL_OBJECT_DEVICE) {
        begin.offset = record->offset;
        end = (struct repl_record_place){record->object, record->offset + record->length};
    }
    return repl_record_place_before(&begin, &tile->end) &&
           repl_record_place_before(&tile->begin, &end);
}

/* Whether an increment of the run speaks of the tile. */
static bool tile_is_touched(const struct merge *m, size_t base_count,
                            const struct repl_log_piece *tile)
{
    bool found = false;
    for (size_t i = m->needless + base_count; i < m->count && !found; i++) {
        struct repl_record_walk walk;
        struct repl_record record;
        repl_record_walk_begin(&walk, m->inputs[i], m->w->coder);
        for (bool done = false; !found;) {
            ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
            if (done)
                break;
            found = record_touches(m, &record, tile);
        }
        repl_record_walk_end(&walk);
    }
    return found;
}

static struct repl_merge_range range_of(const struct repl_log_piece *entry)
{
    if (entry->begin.object > REPL_OBJECT_DEVICE)
        return (struct repl_merge_range){.object_begin = entry->begin.object,
                                         .object_end = entry->end.object};
    return (struct repl_merge_range){
        .begin = entry->begin.offset,
        .end = entry->end.object > REPL_OBJECT_DEVICE ? UINT64_MAX : entry->end.offset};
}

/* A base of tiles is brought forward by those that something has changed in. */
static void tiles_choose(struct merge *m, size_t base_count)
{
    const struct repl_log_piece *last = &m->entries[m->needless + base_count - 1];
    bool nothing_follows =
        m->needless + base_count == m->count && m->w->bug != KILLS_BUG_TILES_ALIKE;
    m->tiles = true;
    for (size_t i = 0; i < base_count; i++) {
        const struct repl_log_piece *entry = &m->entries[m->needless + i];
        bool named = nothing_follows && entry->commit.to_seq == last->commit.to_seq;
        if (!named && !tile_is_touched(m, base_count, entry) &&
            (m->piece_count > 0 || i + 1 < base_count))
            continue;
        m->tile_of[m->piece_count] = m->needless + i;
        m->goes[m->needless + i] = true;
        m->ranges[m->piece_count++] = range_of(entry);
    }
}

/* A tree's objects, in two: behind those of its space. */
static void objects_split(struct merge *m)
{
    const uint64_t middle = REPL_OBJECT_ROOT + KILLS_OBJECTS / 2;
    if (m->v->kind != REPL_VOLUME_TREE)
        return;
    m->ranges[m->piece_count++] =
        (struct repl_merge_range){.object_begin = REPL_OBJECT_ROOT, .object_end = middle};
    m->ranges[m->piece_count++] =
        (struct repl_merge_range){.object_begin = middle, .object_end = UINT64_MAX};
}

/* One that was received becomes tiles. */
static void base_split(struct merge *m)
{
    size_t base_count = 0;
    while (m->needless + base_count < m->count &&
           m->entries[m->needless + base_count].commit.from_seq == 0)
        base_count++;
    for (size_t i = base_count; m->needless + i < m->count; i++)
        m->goes[m->needless + i] = true;
    if (m->entries[m->needless].merge != 0) {
        tiles_choose(m, base_count);
        return;
    }
    m->goes[m->needless] = true;
    for (uint64_t begin = 0; begin < KILLS_SIZE; begin += KILLS_TILE)
        m->ranges[m->piece_count++] =
            (struct repl_merge_range){.begin = begin, .end = begin + KILLS_TILE};
    objects_split(m);
}

/* Whether a full makes all of the run needless, and nobody wants a chunk of it. */
static bool only_goes(struct merge *m)
{
    if (m->plan.size_bytes > 0)
        return false;
    for (size_t i = 0; i < m->needless; i++) {
        for (uint32_t k = 0; k < m->inputs[i]->footer.chunk_count; k++) {
            if (stays_wanted(m, &m->inputs[i]->chunks[k].name))
                return false;
        }
    }
    return true;
}

static void merge_begin(struct merge *m, struct kills_volume *v, const struct repl_merge *plan)
{
    const struct repl_chain *chain = &v->chain;
    size_t end = repl_chain_find_point(chain, plan->to_seq) + 1;
    size_t first = plan->after_seq == 0 ? 0 : repl_chain_find_point(chain, plan->after_seq) + 1;
    size_t base = repl_chain_base_of(chain, end - 1);
    m->v = v;
    m->w = v->w;
    m->plan = *plan;
    m->needless = base > first ? base - first : 0;
    m->generation = kills_index_generation(v->w);
    uint64_t number = v->journal.record_number + 1;
    if (v->w->bug == KILLS_BUG_NUMBER_REUSED)
        v->last_merge++;
    else
        v->last_merge = number > v->last_merge ? number : v->last_merge + 1;
    m->number = v->last_merge;
    for (size_t i = first; i < end; i++) {
        m->entries[m->count] = chain->entries[i];
        m->inputs[m->count++] = kills_open(v, &chain->entries[i]);
    }
    for (size_t i = 0; i < m->needless; i++)
        m->goes[i] = true;
    if (only_goes(m)) {
        for (size_t i = m->needless; i < m->count; i++)
            repl_segment_free(m->inputs[i]);
        m->count = m->needless;
        return;
    }
    m->base = m->entries[m->needless].commit.from_seq == 0;
    if (m->base && plan->after_seq == 0) {
        base_split(m);
        return;
    }
    for (size_t i = m->needless; i < m->count; i++)
        m->goes[i] = true;
    m->ranges[0] = (struct repl_merge_range){.end = KILLS_SIZE / 2};
    m->ranges[1] = (struct repl_merge_range){.begin = KILLS_SIZE / 2, .end = UINT64_MAX};
    m->piece_count = 2;
    objects_split(m);
}

static void merge_end(struct merge *m)
{
    for (size_t i = 0; i < m->count; i++)
        repl_segment_free(m->inputs[i]);
    for (size_t i = 0; i < m->made; i++)
        repl_segment_free(m->outputs[i]);
    repl_buffer_fini(&m->file.bytes);
    free(m);
}

/* --- chunks ---------------------------------------------------------------------------------- */

static bool pieces_list(const struct merge *m, const struct repl_digest *name)
{
    bool listed = false;
    for (size_t i = 0; i < m->made && !listed; i++)
        listed = kills_lists(m->outputs[i], name, NULL);
    return listed;
}

/* The last piece carries what somebody refers to. */
static bool chunk_wanted(void *context, const struct repl_digest *name, bool referred)
{
    const struct merge *m = context;
    if (!m->how.last || pieces_list(m, name))
        return false;
    for (size_t i = 0; i < m->made && !referred; i++)
        referred = kills_refers(m->w, m->outputs[i], name);
    return referred || stays_wanted(m, name);
}

/* Whether a chunk that the pieces leave out is referred to by now. */
static bool dropped_is_wanted(const struct merge *m)
{
    for (size_t i = 0; i < m->count; i++) {
        if (!m->goes[i])
            continue;
        for (uint32_t k = 0; k < m->inputs[i]->footer.chunk_count; k++) {
            const struct repl_digest *name = &m->inputs[i]->chunks[k].name;
            if (!pieces_list(m, name) && stays_wanted(m, name))
                return true;
        }
    }
    return false;
}

/* --- the pieces ------------------------------------------------------------------------------ */

static size_t donors_find(struct merge *m)
{
    size_t count = 0;
    for (size_t i = 0; i < m->count; i++) {
        bool among = false;
        for (size_t k = 0; k < m->segment_count; k++)
            among |= m->segments[k] == m->inputs[i];
        if (m->goes[i] && !among && m->inputs[i]->footer.chunk_count > 0)
            m->donors[count++] = m->inputs[i];
    }
    return count;
}

static void piece_write(struct merge *m)
{
    struct repl_digest links[ENTRIES_MAX];
    struct repl_error err;
    m->segment_count = 0;
    size_t from = m->needless;
    if (m->tiles) {
        m->segments[m->segment_count++] = m->inputs[m->tile_of[m->made]];
        while (from < m->count && m->entries[from].commit.from_seq == 0)
            from++;
        if (from == m->count && m->tile_of[m->made] + 1 < m->count)
            from--; /* the tile that has the point */
    }
    for (size_t i = from; i < m->count; i++) {
        links[m->segment_count] = m->entries[i].link;
        m->segments[m->segment_count++] = m->inputs[i];
    }
    m->how = (struct repl_merge_piece){.range = m->ranges[m->made],
                                       .part = (uint32_t)m->made,
                                       .last = m->made + 1 == m->piece_count,
                                       .base = m->base,
                                       .extents_max = UINT64_MAX,
                                       .raw_size_max = UINT64_MAX,
                                       .records_max = UINT64_MAX};
    if (!m->base)
        m->how.prev =
            m->made == 0 ? m->segments[0]->header.prev : m->pieces[m->made - 1].commit.digest;
    m->file.bytes.size = 0;
    struct repl_merge_options options = {.piece = &m->how,
                                         .segments = m->segments,
                                         .segment_count = m->segment_count,
                                         .links = m->tiles ? NULL : links,
                                         .chunk_wanted = chunk_wanted,
                                         .chunk_context = m,
                                         .donors = m->donors,
                                         .donor_count = m->how.last ? donors_find(m) : 0,
                                         .sink = memory_sink,
                                         .sink_context = &m->file};
    if (!repl_ok(repl_segment_merge(&options, &m->report, &err)))
        kills_fail(m->w, "a merge: %s", err.text);
    m->staged = kills_stage(m->v, STAGED, &m->file.bytes);
}

static void piece_note(struct merge *m)
{
    const struct repl_log_piece *last = &m->entries[m->count - 1];
    struct repl_log_piece *piece = &m->pieces[m->made];
    *piece = (struct repl_log_piece){.commit = last->commit,
                                     .merge = m->number,
                                     .begins = m->base && m->plan.after_seq != 0 && m->made == 0,
                                     .link = m->report.footer.digest,
                                     .committed_ns = last->committed_ns};
    piece->commit.from_seq = m->report.header.from_seq;
    piece->commit.part = (uint32_t)m->made;
    piece->commit.file_size = m->report.footer.file_size;
    piece->commit.digest = m->report.footer.digest;
    piece->commit.has_point = m->how.last;
    if (m->how.last) {
        piece->link = last->link;
        piece->unchanged_until_ns = last->unchanged_until_ns;
    } else {
        piece->commit.point = (struct repl_point){0};
    }
    if (!m->base)
        return;
    const struct repl_merge_range *range = &m->how.range;
    bool objects = range->object_end > 0;
    piece->begin = objects ? (struct repl_record_place){range->object_begin, 0}
                           : (struct repl_record_place){REPL_OBJECT_DEVICE, range->begin};
    piece->end = objects ? (struct repl_record_place){range->object_end, 0}
                 : range->end == UINT64_MAX
                     ? (struct repl_record_place){REPL_OBJECT_ROOT, 0}
                     : (struct repl_record_place){REPL_OBJECT_DEVICE, range->end};
}

static void piece_step(struct merge *m, enum repl_merge_step step)
{
    char name[SIM_NAME_SIZE];
    switch (step) {
    case REPL_MERGE_WRITE:
        piece_write(m);
        break;
    case REPL_MERGE_SYNC:
        if (m->w->bug != KILLS_BUG_SKIP_PIECE_SYNC)
            kills_sync(m->v, m->staged, "sync of a piece");
        break;
    case REPL_MERGE_PUBLISH:
        piece_note(m);
        kills_entry_name(&m->pieces[m->made], name);
        kills_rename(m->v, STAGED, name);
        if (m->w->bug != KILLS_BUG_SKIP_NAME_SYNC)
            kills_sync_names(m->v);
        break;
    case REPL_MERGE_CHECK:
        m->outputs[m->made] = kills_open(m->v, &m->pieces[m->made]);
        kills_verify(m->w, m->outputs[m->made]);
        m->made++;
        break;
    default:
        abort();
    }
}

/* --- and behind them ------------------------------------------------------------------------- */

/* What it has left out, and what is known of who referred to that. */
static void dropped_forget(const struct merge *m)
{
    struct repl_digest dropped[ENTRIES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < m->count; i++) {
        for (uint32_t k = 0; m->goes[i] && k < m->inputs[i]->footer.chunk_count; k++) {
            const struct repl_digest *name = &m->inputs[i]->chunks[k].name;
            ensure(count < ENTRIES_MAX);
            if (!pieces_list(m, name))
                dropped[count++] = *name;
        }
    }
    kills_index_merged(m->v, dropped, repl_digests_unique(dropped, count));
}

static void merge_log(struct merge *m)
{
    struct repl_log_record records[1 + ENTRIES_MAX + PIECES_MAX];
    struct repl_segment *segments[1 + ENTRIES_MAX + PIECES_MAX] = {0};
    size_t count = 1;
    for (size_t i = 0; i < m->count; i++) {
        const struct repl_log_piece *entry = &m->entries[i];
        if (m->goes[i] && m->plan.after_seq == 0 && entry->commit.from_seq == 0)
            records[count++] = (struct repl_log_record){
                .type = REPL_LOG_GONE,
                .gone = {entry->commit.to_seq, entry->commit.part, entry->merge}};
    }
    for (size_t i = 0; i < m->made; i++)
        records[count++] = (struct repl_log_record){.type = REPL_LOG_PIECE, .piece = m->pieces[i]};
    records[0] = (struct repl_log_record){.type = REPL_LOG_MERGE,
                                          .merge = {m->plan.after_seq,
                                                    m->entries[m->count - 1].commit.to_seq,
                                                    (uint32_t)(count - 1)}};
    memcpy(&segments[count - m->made], m->outputs, m->made * sizeof *m->outputs);
    m->w->takings++;
    kills_log(m->v, records, count, segments);
    if (m->w->site != NULL)
        dropped_forget(m);
}

static void run_remove(struct merge *m, int64_t due_ns)
{
    char name[SIM_NAME_SIZE];
    for (size_t i = 0; i < m->count; i++) {
        kills_entry_name(&m->entries[i], name);
        if (m->goes[i])
            kills_remove_later(m->v, name, due_ns);
    }
}

static void pieces_remove(struct merge *m)
{
    char name[SIM_NAME_SIZE];
    for (size_t i = 0; i < m->made; i++) {
        kills_entry_name(&m->pieces[i], name);
        kills_remove_later(m->v, name, 0);
    }
    m->w->discards++;
}

/* A chunk that a piece lists is in its manifest, or somebody refers to it. */
static void pieces_check(const struct merge *m)
{
    for (size_t i = 0; i < m->made; i++) {
        for (uint32_t k = 0; k < m->outputs[i]->footer.chunk_count; k++) {
            const struct repl_chunk_entry *chunk = &m->outputs[i]->chunks[k];
            struct repl_record_walk walk;
            struct repl_record record;
            bool used = false, done = false;
            repl_record_walk_begin(&walk, m->outputs[i], m->w->coder);
            while (!used && !done) {
                ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
                used = !done && record.type == REPL_RECORD_DATA && record.frame == chunk->frame;
            }
            repl_record_walk_end(&walk);
            if (!used && !stays_wanted(m, &chunk->name))
                kills_fail(m->w, "piece %zu lists a chunk that nobody uses", i);
        }
    }
}

static bool may_drop(const struct merge *m)
{
    if (m->w->site != NULL &&
        (m->generation != kills_index_generation(m->w) || !kills_index_pool_is_known(m->v)))
        return false;
    return m->w->bug == KILLS_BUG_SKIP_LOOK || !dropped_is_wanted(m);
}

static void merge_run(struct merge *m)
{
    struct kills_world *w = m->w;
    enum repl_merge_step step = m->piece_count > 0 ? REPL_MERGE_WRITE : REPL_MERGE_LOOK;
    for (;;) {
        bool good = true;
        if (step < REPL_MERGE_LOOK)
            w->between(w);
        if (step < REPL_MERGE_MADE)
            piece_step(m, step);
        else if (step == REPL_MERGE_LOOK)
            good = may_drop(m);
        else if (step == REPL_MERGE_LOG)
            merge_log(m);
        else if (step != REPL_MERGE_MADE)
            break;
        step = step == REPL_MERGE_MADE && m->made < m->piece_count
                   ? REPL_MERGE_WRITE
                   : repl_merge_step_next(step, good);
        if (step == REPL_MERGE_LOG && w->bug == KILLS_BUG_REMOVE_EARLY) {
            run_remove(m, 0);
            kills_remove_due(m->v);
        }
    }
    if (step == REPL_MERGE_DISCARD) {
        pieces_remove(m);
        return;
    }
    if (w->site == NULL || kills_index_pool_is_known(m->v))
        pieces_check(m);
    run_remove(m, w->now_ns + (w->bug == KILLS_BUG_NO_GRACE ? 0 : KILLS_GRACE));
    w->merges++;
    w->tiled += m->base && !m->tiles;
    w->forwarded += m->tiles;
    w->needless += m->piece_count == 0;
}

bool kills_visit(struct kills_volume *v)
{
    struct repl_merge plan;
    bool known = v->w->site == NULL || kills_index_pool_is_known(v);
    if (v->w->merging || !known || !merge_find(v, &plan))
        return false;
    struct merge *m = sim_alloc(sizeof *m);
    v->w->merging = true;
    merge_begin(m, v, &plan);
    merge_run(m);
    merge_end(m);
    v->w->merging = false;
    kills_index_pump(v);
    return true;
}
