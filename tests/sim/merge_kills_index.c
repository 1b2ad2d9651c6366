/*
 * The index of a site that merges: the agent's own (agent/site/index, on sim_lmdb), with what
 * brings it up to the log and fills it again (site_index.c) and what says whether a pool is known
 * (site_gate.c). Here is what the agent's loop notes between their calls (site.c, site_volume.c,
 * site_load.c); merge_kills_store.c is the store that they read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "merge_kills.h"
#include "segment/segment_references.h"
#include "sim_lmdb.h"
#include "site/index/index_internal.h"
#include "site/site_chain.h"
#include "site/site_gate.h"
#include "site/site_volume.h"
#include "store/segment_name.h"

static struct repl_site *site_of(const struct kills_world *w)
{
    return w->site;
}

static void must(struct kills_world *w, repl_result result, const struct repl_error *err)
{
    if (!repl_ok(result))
        kills_fail(w, "the index: %s", err->text);
}

/* --- a start --------------------------------------------------------------------------------- */

static void here(void *context, const char *what)
{
    kills_here(context, what);
}

void kills_index_begin(struct kills_world *w)
{
    struct repl_site *site = sim_alloc(sizeof *site);
    struct repl_error err;
    sim_lmdb_process_end();
    sim_lmdb_observe(here, w);
    site->store = kills_store(w);
    pthread_mutex_init(&site->index_lock, NULL);
    pthread_mutex_init(&site->waiting_lock, NULL);
    pthread_mutex_init(&site->leaving_lock, NULL);
    w->site = site;
    for (size_t i = w->volume_count; i-- > 0;) {
        struct site_volume *v = sim_alloc(sizeof *v);
        v->site = site;
        v->next = site->volumes;
        snprintf(v->name, sizeof v->name, "vol%zu", i);
        site->volumes = w->volumes[i].site = v;
        w->volumes[i].refilling = false;
        w->volumes[i].found_count = 0;
    }
    must(w, repl_index_open("index.lmdb", true, &site->index, &err), &err);
}

void kills_index_end(struct kills_world *w)
{
    struct repl_site *site = site_of(w);
    if (site == NULL)
        return;
    repl_index_close(site->index);
    site_gates_free(site);
    for (size_t i = 0; i < w->volume_count; i++) {
        free(w->volumes[i].site->supplies);
        free(w->volumes[i].site);
    }
    free(site);
    sim_lmdb_fini();
}

/* The last segment up to that record; and the log has to have that record, where the index saw it.
 */
static struct repl_segment_id indexed_head(struct kills_volume *v, uint64_t number, uint64_t end)
{
    const struct sim_inode *log = sim_disk_open(&v->disk, "log");
    struct repl_segment_id head = {0};
    struct repl_log_record record = {0};
    size_t size;
    for (uint64_t at = 0; at < v->log_end && record.number < number; at += size) {
        ensure(repl_ok(
            repl_log_record_decode(log->cached.data + at, v->log_end - at, &record, &size, NULL)));
        if (record.number == number && at + size != end)
            kills_fail(v->w, "the log is not the one that the index was made from");
        if (record.number > number)
            break;
        const struct repl_log_commit *commit =
            record.type == REPL_LOG_PIECE ? &record.piece.commit : &record.commit;
        const struct repl_segment_id id = {.to_seq = commit->to_seq, .part = commit->part};
        if ((record.type == REPL_LOG_PIECE || record.type == REPL_LOG_COMMIT) &&
            repl_segment_id_order(&id, &head) > 0)
            head = id;
    }
    if (record.number < number)
        kills_fail(v->w, "the log ends at record %llu, and once went on to %llu",
                   (unsigned long long)record.number, (unsigned long long)number);
    return head;
}

static void supplies_load(struct kills_volume *v, const struct repl_segment_id *head)
{
    struct repl_segment_id id;
    struct repl_error err;
    for (size_t i = 0; i < v->supply_count; i++) {
        ensure(kills_id_parse(v->supplies[i].name, &id));
        const struct repl_segment_id of = {.to_seq = id.to_seq, .part = id.part};
        if (repl_segment_id_order(&of, head) > 0)
            must(v->w, site_index_supply(v->site, &id, 0, &err), &err);
    }
}

void kills_index_load(struct kills_volume *v)
{
    struct repl_site *site = site_of(v->w);
    struct repl_buffer log = {0};
    struct repl_error err;
    uint64_t end, number, begin;
    if (site == NULL)
        return;
    kills_index_logged(v);
    must(v->w, repl_index_position(site->index, v->site->name, &end, &number, &err), &err);
    struct repl_segment_id head = indexed_head(v, number, end);
    supplies_load(v, &head);
    must(v->w, site->store->ops->log_read(site->store, v->site->name, &log, &begin, &err), &err);
    must(v->w, site_index_catch_up(site, v->site->name, &log, 0, v->log_end, NULL, &err), &err);
    repl_buffer_fini(&log);
}

/* --- what is logged -------------------------------------------------------------------------- */

static void append(struct kills_volume *v, const struct repl_index_record *records, size_t count)
{
    struct site_volume *s = v->site;
    struct site_append append = {.volume = s,
                                 .records = records,
                                 .record_count = count,
                                 .log_end = v->log_end,
                                 .index_behind = s->index_behind,
                                 .generation = s->site->index_generation};
    site_index_append(&append);
    bool lost = s->index_lost && v->w->bug != KILLS_BUG_LOST_FOR_WHOLE;
    s->index_behind =
        !repl_ok(append.index_result) || append.generation != s->site->index_generation || lost;
    s->index_lost = s->index_lost && s->index_behind;
    s->index_stale = s->index_stale && s->index_behind;
}

void kills_index_log(struct kills_volume *v, const struct repl_log_record *records, size_t count,
                     struct repl_segment *const *segments)
{
    struct repl_index_record *added;
    struct repl_digest *names;
    if (v->w->site == NULL)
        return;
    added = sim_alloc(count * sizeof *added);
    for (size_t i = 0; i < count; i++) {
        added[i].record = &records[i];
        if (segments == NULL || segments[i] == NULL)
            continue;
        added[i].chunks = segments[i]->chunks;
        added[i].chunk_count = segments[i]->footer.chunk_count;
        ensure(repl_ok(
            repl_segment_references(segments[i], v->w->coder, &names, &added[i].ref_count, NULL)));
        added[i].refs = names;
    }
    append(v, added, count);
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)added[i].refs);
    free(added);
}

void kills_index_logged(struct kills_volume *v)
{
    if (v->w->site != NULL)
        v->site->journal = v->journal;
}

void kills_index_merged(struct kills_volume *v, const struct repl_digest *dropped, size_t count)
{
    struct site_volume *s = v->site;
    struct repl_error err;
    s->index_stale = s->index_behind && (s->index_stale || count > 0);
    /* What fails leaves places that are not good. */
    if (count > 0)
        (void)repl_ok(repl_index_forget_chunks(s->site->index, s->name, dropped, count, &err));
}

/* --- the tick -------------------------------------------------------------------------------- */

static void refill(struct kills_volume *v)
{
    struct site_volume *s = v->site;
    struct repl_error err;
    uint64_t generation = s->site->index_generation;
    v->busy = v->refilling = true;
    repl_result result = site_index_refill(s, s->index_lost, v->log_end, &err);
    v->busy = v->refilling = false;
    if (repl_ok(result) &&
        (generation == s->site->index_generation || v->w->bug == KILLS_BUG_REFILL_OF_BEFORE))
        s->index_behind = s->index_lost = s->index_stale = false;
    v->w->refills++;
}

void kills_index_pump(struct kills_volume *v)
{
    if (v->w->site != NULL && v->site->index_behind && !v->busy)
        refill(v);
}

static void remade(struct kills_world *w)
{
    w->site->index_generation++;
    w->remakes++;
    for (size_t i = 0; i < w->volume_count; i++)
        w->volumes[i].site->index_behind = w->volumes[i].site->index_lost = true;
    for (size_t i = 0; i < w->volume_count; i++)
        kills_index_pump(&w->volumes[i]);
}

void kills_index_tick(struct kills_world *w, bool fails)
{
    struct repl_index *index = w->site->index;
    struct repl_error err;
    if (fails)
        repl_index_break_sync(index, 1, EIO);
    if (!repl_ok(repl_index_sync(index, &err)) && repl_index_is_broken(index)) {
        must(w, repl_index_remake(index, &err), &err);
        remade(w);
    }
    for (size_t i = 0; i < w->volume_count; i++)
        kills_index_pump(&w->volumes[i]);
}

void kills_index_fail_next(struct kills_world *w)
{
    repl_index_break_sync(w->site->index, 1, ENOSPC);
}

/* --- what is asked --------------------------------------------------------------------------- */

bool kills_index_is_behind(const struct kills_volume *v)
{
    return v->site->index_behind;
}

bool kills_index_pool_is_known(struct kills_volume *v)
{
    return site_pool_is_known(v->site);
}

uint64_t kills_index_generation(const struct kills_world *w)
{
    return w->site != NULL ? w->site->index_generation : 0;
}

bool kills_index_place(struct kills_volume *v, const struct repl_digest *name,
                       struct kills_place *out)
{
    struct repl_chunk_place place;
    struct repl_error err;
    bool found;
    must(v->w, repl_index_chunk(v->w->site->index, v->site->name, name, &place, &found, &err),
         &err);
    if (!found)
        return false;
    *out = (struct kills_place){.v = kills_volume_of(v->w, place.volume),
                                .supply = place.segment.supply != 0,
                                .frame = place.frame,
                                .frame_offset = place.frame_offset};
    kills_id_name(&place.segment, out->name);
    return true;
}

static void found_note(struct kills_volume *v, const struct kills_place *place)
{
    ensure(v->found_count < KILLS_FOUND);
    v->found[v->found_count++] = *place;
}

bool kills_index_is_stale(struct kills_volume *v)
{
    return site_pool_is_stale(v->site);
}

bool kills_index_lacks(struct kills_volume *v, const struct repl_segment *segment)
{
    struct repl_digest *names;
    uint32_t count;
    bool lacking = false;
    ensure(repl_ok(repl_segment_references(segment, v->w->coder, &names, &count, NULL)));
    for (uint32_t i = 0; i < count && !lacking; i++) {
        struct kills_place place;
        if (kills_lists(segment, &names[i], NULL))
            continue;
        lacking = !kills_index_place(v, &names[i], &place);
        if (!lacking && place.supply)
            found_note(v, &place);
    }
    free(names);
    return lacking;
}

static int id_order(const void *a, const void *b)
{
    return repl_segment_id_order(a, b);
}

bool kills_index_is_referred(struct kills_volume *v, const struct repl_digest *name,
                             const struct repl_log_piece *without, const bool *goes, size_t count)
{
    struct repl_segment_id *ids = sim_alloc((count + 1) * sizeof *ids);
    size_t id_count = 0;
    struct repl_error err;
    bool referred;
    for (size_t i = 0; i < count; i++) {
        if (goes[i])
            ids[id_count++] = (struct repl_segment_id){.to_seq = without[i].commit.to_seq,
                                                       .part = without[i].commit.part,
                                                       .merge = without[i].merge};
    }
    qsort(ids, id_count, sizeof *ids, id_order);
    must(v->w,
         repl_index_is_referred(v->w->site->index, v->site->name, name, ids, id_count, &referred,
                                &err),
         &err);
    free(ids);
    return referred;
}

/* --- supplies -------------------------------------------------------------------------------- */

static struct repl_segment_id supply_id(const char *name)
{
    struct repl_segment_id id;
    ensure(kills_id_parse(name, &id) && id.supply != 0);
    return id;
}

/* False: a transaction has failed, and who sent it is told so. */
bool kills_index_supply(struct kills_volume *v, const char *name, const struct repl_segment *supply)
{
    const struct repl_segment_id id = supply_id(name);
    struct repl_error err;
    return repl_ok(repl_index_add_chunks(v->w->site->index, v->site->name, &id, supply->chunks,
                                         supply->footer.chunk_count, &err));
}

bool kills_index_supply_is_needed(struct kills_volume *v, const char *name,
                                  const struct repl_segment *supply)
{
    bool needed = false;
    for (uint32_t i = 0; i < supply->footer.chunk_count && !needed; i++) {
        const struct repl_digest *chunk = &supply->chunks[i].name;
        struct kills_place place;
        bool elsewhere =
            kills_index_place(v, chunk, &place) && (place.v != v || strcmp(place.name, name) != 0);
        needed = !elsewhere && kills_index_is_referred(v, chunk, NULL, NULL, 0);
    }
    return needed;
}

/* Durably, or it stays. */
bool kills_index_forget(struct kills_volume *v, const char *name, const struct repl_segment *supply)
{
    const struct repl_segment_id id = supply_id(name);
    struct repl_index *index = v->w->site->index;
    struct repl_error err;
    repl_result result = repl_index_forget_supply(index, v->site->name, &id, supply->chunks,
                                                  supply->footer.chunk_count, &err);
    if (repl_ok(result) && v->w->bug != KILLS_BUG_FORGOTTEN_NOT_SYNCED)
        result = repl_index_sync(index, &err);
    return repl_ok(result);
}

/* --- what must hold -------------------------------------------------------------------------- */

static void catalogue_check(struct kills_volume *v)
{
    struct repl_chain chain;
    struct repl_error err;
    repl_chain_init(&chain);
    must(v->w, site_chain_read(v->w->site->index, v->site->name, &chain, &err), &err);
    bool same = chain.count == v->chain.count;
    for (size_t i = 0; i < chain.count && same; i++) {
        const struct repl_log_piece *a = &chain.entries[i], *b = &v->chain.entries[i];
        same = a->commit.to_seq == b->commit.to_seq && a->commit.part == b->commit.part &&
               a->merge == b->merge && repl_digest_equal(&a->commit.digest, &b->commit.digest);
    }
    repl_chain_fini(&chain);
    if (!same)
        kills_fail(v->w, "the index has other segments of %s than its log", v->site->name);
}

/* Whoever commits next would rely on it. */
static void place_check(struct kills_volume *v, const struct kills_file *files, size_t count,
                        const struct repl_digest *name)
{
    const struct repl_chunk_entry *chunk;
    struct kills_place place;
    if (!kills_index_place(v, name, &place))
        return;
    for (size_t i = 0; i < count; i++) {
        if (files[i].v != place.v || strcmp(files[i].name, place.name) != 0)
            continue;
        if (!kills_lists(files[i].segment, name, &chunk) || chunk->frame != place.frame ||
            chunk->frame_offset != place.frame_offset)
            kills_fail(v->w, "a chunk is not where the index says in segment %s", place.name);
        return;
    }
    kills_fail(v->w, "the index says that a chunk lies in segment %s, which is not there",
               place.name);
}

void kills_index_check(struct kills_volume *v, const struct kills_file *files, size_t count)
{
    const struct repl_digest *chunks;
    struct kills_place place;
    for (size_t i = 0; i < v->w->volume_count; i++) {
        if (kills_is_pool(v, &v->w->volumes[i]) && v->w->volumes[i].site->index_behind)
            return;
    }
    catalogue_check(v);
    size_t chunk_count = kills_source_chunks(&chunks);
    for (size_t i = 0; i < chunk_count; i++)
        place_check(v, files, count, &chunks[i]);
    for (size_t i = 0; i < v->chain.count; i++) {
        struct repl_digest *names;
        uint32_t name_count;
        ensure(repl_ok(
            repl_segment_references(files[i].segment, v->w->coder, &names, &name_count, NULL)));
        for (uint32_t k = 0; k < name_count; k++) {
            if (!kills_index_place(v, &names[k], &place))
                kills_fail(v->w, "a chunk that %s refers to is nowhere in the index",
                           v->site->name);
            if (!kills_index_is_referred(v, &names[k], NULL, NULL, 0))
                kills_fail(v->w, "the index does not know that %s refers to a chunk",
                           v->site->name);
        }
        free(names);
    }
}
