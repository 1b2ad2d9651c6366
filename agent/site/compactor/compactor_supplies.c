/*
 * Supplies (site_supply.c) whose chunks nothing refers to, or that are found
 * elsewhere by now: they go as whole files. A merge does not carry their chunks
 * along, as it would of a segment: a supply is rare and no part of the chain.
 *
 *   a look, on the thread, once a day: needed -> the next day, or what is needed of it
 *       goes into another one (compactor_supply_pack.c)
 *   nothing needs it -> again after the grace, as who began to read before the last
 *       reference went may still need it; after a day, if the segment that it came for
 *       is not there yet
 *   a commit finds a chunk in it -> that begins anew
 *   nothing does still -> in the volume's turn and alone at the gate: a last look, its
 *       places leave the index, durably, and then, when others may pass again, the file goes
 *
 * Durably, as after a power cut the index may have any of its latest states: one in
 * which chunks still lie in the file would let a commit refer to them.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "site/compactor/compactor_internal.h"
#include "store/segment_name.h"

#define LOST_NAMES_MAX (1u << 20) /* 32 MiB */

/* --- on a worker ----------------------------------------------------------------------------- */

/* Where the index finds the chunk elsewhere, it has to be there: a volume may have been removed. In
 * the turn nobody asks the store for that: what was not seen then counts as not there. */
static repl_result chunk_needs(struct compactor_supply *s, const struct repl_digest *name,
                               bool *needed, struct repl_error *err)
{
    struct repl_index *index = s->volume->site->index;
    struct repl_chunk_place place;
    bool found;
    REPL_TRY(repl_index_is_referred(index, s->volume->name, name, NULL, 0, needed, err));
    if (!*needed)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_chunk(index, s->volume->name, name, &place, &found, err));
    if (!found || (strcmp(place.volume, s->volume->name) == 0 &&
                   repl_segment_id_order(&place.segment, &s->id) == 0))
        return REPL_SUCCESS;
    if (s->in_turn)
        found = site_place_seen(s->volume, &place, &s->seen);
    else
        REPL_TRY(site_place_look(s->volume, &place, &s->seen, &found, err));
    *needed = !found;
    return REPL_SUCCESS;
}

/* Those that are needed come first, then. In the turn one is enough. */
static repl_result supply_look(struct compactor_supply *s, struct repl_error *err)
{
    s->needed_count = 0;
    for (uint32_t i = 0; i < s->chunk_count && !(s->in_turn && s->needed_count > 0); i++) {
        const struct repl_chunk_entry chunk = s->chunks[i];
        bool needed;
        REPL_TRY(chunk_needs(s, &chunk.name, &needed, err));
        if (!needed)
            continue;
        s->chunks[i] = s->chunks[s->needed_count];
        s->chunks[s->needed_count++] = chunk;
    }
    return REPL_SUCCESS;
}

static repl_result chunks_take(struct compactor_supply *s, struct repl_stored_segment *file,
                               struct repl_error *err)
{
    struct repl_segment *segment;
    REPL_TRY(repl_forward(
        repl_segment_open(repl_stored_segment_read_at, file, file->size, &segment, err), err, "%s",
        file->label));
    s->header = segment->header;
    s->header.features |= REPL_FEATURE_PAGES;
    s->chunks = segment->chunks;
    s->chunk_count = segment->footer.chunk_count;
    segment->chunks = NULL;
    repl_segment_free(segment);
    return REPL_SUCCESS;
}

/* What one lists that does not open is not known: beside what the index says that it has, whatever
 * is referred to and lies nowhere may be in it. */
static repl_result chunks_guess(struct compactor_supply *s, struct repl_error *err)
{
    struct repl_index *index = s->volume->site->index;
    struct repl_buffer names = {0};
    s->closed = true;
    repl_result result =
        repl_index_lost(index, s->volume->name, &s->id, &names, LOST_NAMES_MAX, err);
    if (repl_ok(result) && names.size >= LOST_NAMES_MAX * sizeof(struct repl_digest))
        result = repl_fail(err, REPL_E_NOMEM, "it does not open, and too many chunks are missing");
    if (repl_ok(result))
        result = repl_index_listed(index, s->volume->name, &s->id, &names, err);
    const struct repl_digest *list = (const void *)names.data;
    size_t count = names.size / sizeof *list;
    s->chunks = calloc(count + 1, sizeof *s->chunks);
    if (repl_ok(result) && (s->chunks == NULL || count > UINT32_MAX))
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for %zu chunks", count);
    for (size_t i = 0; i < count && repl_ok(result); i++)
        s->chunks[s->chunk_count++].name = list[i];
    repl_buffer_fini(&names);
    return result;
}

static repl_result supply_read(struct compactor_supply *s, struct repl_error *err)
{
    struct repl_store *store = s->volume->site->store;
    struct repl_stored_segment *file;
    REPL_TRY(store->ops->segment_open(store, s->volume->name, &s->id, 0, &file, err));
    repl_result result = chunks_take(s, file, err);
    file->close(file);
    return result.code == REPL_E_CORRUPT ? chunks_guess(s, err) : result;
}

static repl_result supply_forget(const struct compactor_supply *s, struct repl_error *err)
{
    struct repl_site *site = s->volume->site;
    pthread_mutex_lock(&site->index_lock);
    /* One that was made anew meanwhile knew of no references. */
    repl_result result = REPL_SUCCESS;
    if (repl_index_remakes(site->index) != s->generation)
        result = repl_fail(err, REPL_E_RETRY, "the index is being made anew");
    if (repl_ok(result))
        result = repl_index_forget_supply(site->index, s->volume->name, &s->id, s->chunks,
                                          s->chunk_count, err);
    if (repl_ok(result))
        result = repl_index_sync(site->index, err);
    pthread_mutex_unlock(&site->index_lock);
    return result;
}

static void look_work(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    s->result = supply_read(s, &s->err);
    if (repl_ok(s->result))
        s->result = supply_look(s, &s->err);
}

/* In the turn and alone at the gate: what it asks is the index. */
static void forget_work(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    s->result = supply_look(s, &s->err);
    if (repl_ok(s->result) && s->needed_count == 0)
        s->result = supply_forget(s, &s->err);
}

static void removal_work(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    struct repl_store *store = s->volume->site->store;
    s->result = store->ops->segment_remove(store, s->volume->name, &s->id, &s->err);
}

/* --- on the loop ----------------------------------------------------------------------------- */

static struct site_supply *entry_of(const struct compactor_supply *s)
{
    for (size_t i = 0; i < s->volume->supply_count; i++) {
        if (repl_segment_id_order(&s->volume->supplies[i].id, &s->id) == 0)
            return &s->volume->supplies[i];
    }
    return NULL;
}

/* For how long nothing must have needed it. */
static int64_t wait_ns(const struct site_compactor *c, const struct compactor_supply *s)
{
    int64_t grace_ns = c->site->config->grace_ms * 1000000;
    bool late = site_supply_is_late(s->volume, &s->id);
    return late || grace_ns > c->supply_every_ns ? grace_ns : c->supply_every_ns;
}

void compactor_supply_fini(struct compactor_supply *s)
{
    free(s->chunks);
    s->chunks = NULL;
    s->chunk_count = 0;
    s->closed = false;
    site_seen_fini(&s->seen);
    compactor_pack_fini(&s->pack);
}

/* The next look, and what is known until then. */
static void looked(struct site_compactor *c, bool idle)
{
    struct compactor_supply *s = &c->supply;
    struct site_supply *entry = entry_of(s);
    int64_t now_ns = repl_now_mono_ns();
    if (entry != NULL && idle && entry->idle_ns == 0)
        entry->idle_ns = now_ns;
    else if (entry != NULL && !idle)
        entry->idle_ns = 0;
    if (entry != NULL)
        entry->look_ns = idle ? entry->idle_ns + wait_ns(c, s) : now_ns + c->supply_every_ns;
    compactor_supply_fini(s);
    s->volume = NULL;
    s->due = s->in_turn = false;
}

static bool failed(struct site_compactor *c)
{
    struct compactor_supply *s = &c->supply;
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    if (repl_ok(s->result))
        return false;
    repl_segment_id_text(&s->id, text);
    if (!atomic_load(&c->stop))
        repl_log(LOG_WARNING, "volume %s: supply %s stays for now: %s", s->volume->name, text,
                 s->err.text);
    looked(c, false);
    return true;
}

/* Well, and nothing needs it; or not, and it stays as it is for another day. */
void compactor_supply_packed(struct site_compactor *c)
{
    struct site_supply *entry = entry_of(&c->supply);
    if (failed(c))
        return;
    looked(c, false);
    if (entry != NULL)
        entry->look_ns = repl_now_mono_ns();
}

static void look_done(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    struct site_compactor *c = s->volume->site->compactor;
    struct site_volume *v = s->volume;
    const struct site_supply *entry = entry_of(s);
    s->out = false;
    if (failed(c))
        return;
    s->due = s->needed_count == 0 && entry != NULL && entry->idle_ns != 0 &&
             repl_now_mono_ns() - entry->idle_ns >= wait_ns(c, s);
    if (s->due) {
        site_volume_pump(v);
    } else if (entry != NULL && compactor_pack_is_due(s) && !atomic_load(&c->stop)) {
        compactor_pack_begin(c);
    } else {
        looked(c, s->needed_count == 0);
        compactor_supplies_tick(c);
    }
}

static void turn_end(struct site_compactor *c, struct site_volume *v)
{
    v->busy = false;
    site_volume_pump(v);
    compactor_supplies_tick(c);
}

static void removal_done(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    struct site_compactor *c = s->volume->site->compactor;
    struct site_volume *v = s->volume;
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    site_job_ended(v->site);
    if (!failed(c)) {
        repl_segment_id_text(&s->id, text);
        site_supply_drop(v, &s->id);
        repl_log(LOG_INFO, "volume %s: nothing needs supply %s any more: removed", v->name, text);
        looked(c, false);
    }
    turn_end(c, v);
}

/* Nobody finds anything in it: the others need not wait for the store. */
static void forget_done(struct repl_job *job)
{
    struct compactor_supply *s = job->context;
    struct site_compactor *c = s->volume->site->compactor;
    struct site_volume *v = s->volume;
    site_job_ended(v->site);
    site_gate_leave(&s->pass);
    v->site->index_dirty = true;
    if (failed(c)) {
        turn_end(c, v);
    } else if (s->needed_count > 0) {
        looked(c, false);
        turn_end(c, v);
    } else {
        s->job = (struct repl_job){.work = removal_work, .done = removal_done, .context = s};
        site_job_start(v->site, &s->job);
    }
}

static void removal_begin(void *context)
{
    struct site_compactor *c = context;
    struct compactor_supply *s = &c->supply;
    const struct site_supply *entry = entry_of(s);
    s->job = (struct repl_job){.work = forget_work, .done = forget_done, .context = s};
    /* It may have changed while it waited, or something has found it: then nothing goes. */
    if (!site_pool_is_known(s->volume) || atomic_load(&c->stop) || entry == NULL ||
        entry->idle_ns == 0) {
        struct site_volume *v = s->volume;
        site_gate_leave(&s->pass);
        v->busy = false;
        looked(c, true);
        site_volume_pump(v);
        return;
    }
    s->generation = c->site->index_generation;
    site_job_start(c->site, &s->job);
}

bool compactor_supplies_pump(struct site_compactor *c, struct site_volume *v)
{
    struct compactor_supply *s = &c->supply;
    struct site_gate *gate;
    if (s->volume != v || s->in_turn)
        return false;
    if (s->pack.ready) {
        s->in_turn = v->busy = true;
        compactor_pack_publish(c);
        return true;
    }
    if (!s->due)
        return false;
    const struct site_supply *entry = entry_of(s);
    if (entry == NULL || entry->idle_ns == 0) { /* it has come once more, or has been found */
        looked(c, false);
        return false;
    }
    s->result = site_gate_of(v, &gate, &s->err);
    if (failed(c))
        return false;
    s->in_turn = true;
    v->busy = true;
    s->pass = (struct site_pass){.alone = true, .entered = removal_begin, .context = c};
    s->gate_since_ns = repl_now_mono_ns();
    if (gate == NULL || site_gate_enter(gate, &s->pass))
        removal_begin(c);
    return true;
}

/* It stays for another day. */
static void removal_tick(struct site_compactor *c)
{
    struct compactor_supply *s = &c->supply;
    struct site_volume *v = s->volume;
    if (!s->in_turn || !compactor_gate_withdraws(c, &s->pass, s->gate_since_ns))
        return;
    v->busy = false;
    looked(c, false);
    site_volume_pump(v);
}

/* The one whose look has been due for longest. */
static void next_find(const struct site_compactor *c, struct compactor_supply *out)
{
    int64_t look_ns = repl_now_mono_ns();
    for (struct site_volume *v = c->site->volumes; v != NULL; v = v->next) {
        if (v->supply_count == 0 || !site_pool_is_known(v))
            continue;
        for (size_t i = 0; i < v->supply_count; i++) {
            if (v->supplies[i].look_ns > look_ns)
                continue;
            look_ns = v->supplies[i].look_ns;
            out->volume = v;
            out->id = v->supplies[i].id;
        }
    }
}

void compactor_supplies_tick(struct site_compactor *c)
{
    struct compactor_supply *s = &c->supply;
    removal_tick(c);
    if (s->volume != NULL || atomic_load(&c->stop))
        return;
    next_find(c, s);
    if (s->volume == NULL)
        return;
    s->out = true;
    s->job = (struct repl_job){.work = look_work, .done = look_done, .context = s};
    repl_pool_work(c->pool, &s->job);
}
