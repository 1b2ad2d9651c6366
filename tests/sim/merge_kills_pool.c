/*
 * What the volumes of a pool share: chunks by name, wherever in it they lie, and
 * supplies (agent/site/site_supply.c, agent/site/compactor/compactor_supplies.c).
 */
#include "merge_kills.h"

#include <stdlib.h>
#include <string.h>

#define STAGED_NAME "staged.supply"

bool kills_is_pool(const struct kills_volume *v, const struct kills_volume *of)
{
    return v == of ||
           (v->journal.pool[0] != '\0' && strcmp(v->journal.pool, of->journal.pool) == 0);
}

/* --- files ----------------------------------------------------------------------------------- */

static struct kills_file *file_add(struct kills_file **files, size_t *count, struct kills_volume *v,
                                   const struct repl_log_piece *entry)
{
    *files = realloc(*files, (*count + 1) * sizeof **files);
    ensure(*files != NULL);
    struct kills_file *file = &(*files)[(*count)++];
    *file = (struct kills_file){.v = v, .entry = entry};
    return file;
}

static void chain_add(struct kills_file **files, size_t *count, struct kills_volume *v)
{
    for (size_t i = 0; i < v->chain.count; i++) {
        struct kills_file *file = file_add(files, count, v, &v->chain.entries[i]);
        kills_entry_name(file->entry, file->name);
        file->segment = kills_open(v, file->entry);
    }
}

static void supplies_add(struct kills_file **files, size_t *count, struct kills_volume *v)
{
    for (size_t i = 0; i < v->disk.cached.count; i++) {
        const char *name = v->disk.cached.names[i].text;
        unsigned long long to_seq;
        unsigned number;
        if (sscanf(name, "%llu.0.s%u", &to_seq, &number) != 2)
            continue;
        struct kills_file *file = file_add(files, count, v, NULL);
        snprintf(file->name, sizeof file->name, "%s", name);
        file->segment = kills_open_name(v, name);
    }
}

struct kills_file *kills_pool_open(struct kills_volume *v, size_t *count)
{
    struct kills_world *w = v->w;
    struct kills_file *files = NULL;
    *count = 0;
    chain_add(&files, count, v);
    for (size_t i = 0; i < w->volume_count; i++) {
        if (&w->volumes[i] != v && kills_is_pool(v, &w->volumes[i]))
            chain_add(&files, count, &w->volumes[i]);
    }
    for (size_t i = 0; i < w->volume_count; i++) {
        if (kills_is_pool(v, &w->volumes[i]))
            supplies_add(&files, count, &w->volumes[i]);
    }
    return files;
}

void kills_pool_close(struct kills_file *files, size_t count)
{
    for (size_t i = 0; i < count; i++)
        repl_segment_free(files[i].segment);
    free(files);
}

/* --- chunks ---------------------------------------------------------------------------------- */

bool kills_lists(const struct repl_segment *segment, const struct repl_digest *name,
                 const struct repl_chunk_entry **where)
{
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        if (!repl_digest_equal(&segment->chunks[i].name, name))
            continue;
        if (where != NULL)
            *where = &segment->chunks[i];
        return true;
    }
    return false;
}

bool kills_refers(struct kills_world *w, const struct repl_segment *segment,
                  const struct repl_digest *name)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool found = false;
    repl_record_walk_begin(&walk, segment, w->coder);
    for (bool done = false; !found;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        found = record.type == REPL_RECORD_CHUNK && repl_digest_equal(&record.chunk, name);
    }
    repl_record_walk_end(&walk);
    return found;
}

static bool is_listed(const struct kills_file *files, size_t count, const struct repl_digest *name)
{
    bool found = false;
    for (size_t i = 0; i < count && !found; i++)
        found = kills_lists(files[i].segment, name, NULL);
    return found;
}

bool kills_is_lacking(struct kills_volume *v, const struct repl_segment *segment)
{
    struct repl_record_walk walk;
    struct repl_record record;
    bool lacking = false;
    size_t count;
    struct kills_file *files = kills_pool_open(v, &count);
    repl_record_walk_begin(&walk, segment, v->w->coder);
    for (bool done = false; !lacking;) {
        ensure(repl_ok(repl_record_walk_next(&walk, &record, &done, NULL)));
        if (done)
            break;
        lacking = record.type == REPL_RECORD_CHUNK && !is_listed(files, count, &record.chunk);
    }
    repl_record_walk_end(&walk);
    kills_pool_close(files, count);
    return lacking;
}

/* --- supplies come --------------------------------------------------------------------------- */

static void supply_add(struct kills_volume *v, const char *name, uint64_t to_seq)
{
    ensure(v->supply_count < KILLS_SUPPLIES);
    struct kills_supply *supply = &v->supplies[v->supply_count++];
    *supply = (struct kills_supply){.to_seq = to_seq};
    snprintf(supply->name, sizeof supply->name, "%s", name);
}

bool kills_supply_note(struct kills_volume *v, const char *name)
{
    unsigned long long to_seq;
    unsigned number;
    if (sscanf(name, "%llu.0.s%u", &to_seq, &number) != 2)
        return false;
    if (v->w->bug != KILLS_BUG_SUPPLY_UNNOTED)
        supply_add(v, name, to_seq);
    return true;
}

/* The first number that is free: what is there is never replaced. */
static void number_find(const struct kills_volume *v, uint64_t to_seq, char name[SIM_NAME_SIZE])
{
    for (unsigned number = 1;; number++) {
        snprintf(name, SIM_NAME_SIZE, "%llu.0.s%u", (unsigned long long)to_seq, number);
        if (sim_disk_open(&v->disk, name) == NULL)
            return;
    }
}

static bool is_needed(struct kills_volume *v)
{
    size_t count;
    struct repl_segment *staged = kills_open_name(v, STAGED_NAME);
    struct kills_file *files = kills_pool_open(v, &count);
    bool needed = false;
    struct kills_place place;
    for (uint32_t i = 0; i < staged->footer.chunk_count && !needed; i++) {
        const struct repl_digest *chunk = &staged->chunks[i].name;
        needed = v->w->site != NULL ? !kills_index_place(v, chunk, &place)
                                    : !is_listed(files, count, chunk);
    }
    kills_pool_close(files, count);
    kills_verify(v->w, staged);
    repl_segment_free(staged);
    return needed;
}

static bool supply_index(struct kills_volume *v, const char *name)
{
    struct repl_segment *supply = kills_open_name(v, name);
    bool known = v->w->site == NULL || kills_index_supply(v, name, supply);
    repl_segment_free(supply);
    return known;
}

bool kills_supply(struct kills_volume *v, uint64_t to_seq, const struct repl_buffer *bytes)
{
    char name[SIM_NAME_SIZE];
    kills_index_pump(v);
    v->busy = true;
    struct sim_inode *staged = kills_stage(v, STAGED_NAME, bytes);
    if (v->w->bug != KILLS_BUG_SUPPLY_NOT_SYNCED)
        kills_sync(v, staged, "sync of a supply");
    bool kept = is_needed(v);
    if (kept) {
        number_find(v, to_seq, name);
        kills_rename(v, STAGED_NAME, name);
        kills_sync_names(v);
        kept = supply_index(v, name);
        supply_add(v, name, to_seq);
        v->w->supplies++;
    } else {
        kills_unlink(v, STAGED_NAME);
    }
    v->busy = false;
    kills_index_pump(v);
    return kept;
}

/* --- and go ---------------------------------------------------------------------------------- */

/* own: whoever looks at the references of the supply's own volume alone. */
static bool chunk_needs(const struct kills_file *files, size_t count,
                        const struct kills_file *supply, const struct repl_digest *name, bool own)
{
    bool referred = false;
    for (size_t i = 0; i < count; i++) {
        const struct kills_file *file = &files[i];
        if (file != supply && kills_lists(file->segment, name, NULL))
            return false;
        referred |=
            (!own || file->v == supply->v) && kills_refers(supply->v->w, file->segment, name);
    }
    return referred;
}

static bool supply_needed(struct kills_volume *v, const char *name, bool own)
{
    size_t count, at = 0;
    struct kills_file *files = kills_pool_open(v, &count);
    while (files[at].v != v || strcmp(files[at].name, name) != 0)
        ensure(++at < count);
    const struct repl_segment *segment = files[at].segment;
    bool needed = v->w->site != NULL && kills_index_supply_is_needed(v, name, segment);
    for (uint32_t i = 0; i < segment->footer.chunk_count && !needed && v->w->site == NULL; i++)
        needed = chunk_needs(files, count, &files[at], &segment->chunks[i].name, own);
    kills_pool_close(files, count);
    return needed;
}

bool kills_supply_is_needed(struct kills_volume *v, const char *name)
{
    return supply_needed(v, name, false);
}

/* For how long nothing must have needed it. */
static int64_t wait_ns(const struct kills_volume *v, const struct kills_supply *supply)
{
    bool late = supply->to_seq <= v->journal.head.to_seq;
    if (v->w->bug == KILLS_BUG_SUPPLY_NO_GRACE)
        return 0;
    return late || v->w->bug == KILLS_BUG_SUPPLY_EARLY ? KILLS_GRACE : KILLS_WAIT;
}

static bool finds(struct kills_world *w, const struct repl_segment *segment,
                  const struct kills_file *supply)
{
    for (uint32_t i = 0; i < supply->segment->footer.chunk_count; i++) {
        if (kills_refers(w, segment, &supply->segment->chunks[i].name))
            return true;
    }
    return false;
}

static void wait_anew(struct kills_volume *v, const char *name)
{
    for (size_t i = 0; i < v->supply_count; i++) {
        if (strcmp(v->supplies[i].name, name) == 0)
            v->supplies[i].idle_ns = 0;
    }
}

void kills_supplies_found(struct kills_volume *v, const char *name)
{
    size_t count;
    if (v->w->bug == KILLS_BUG_SUPPLY_NOT_ANEW)
        return;
    if (v->w->site != NULL) {
        for (size_t i = 0; i < v->found_count; i++)
            wait_anew(v->found[i].v, v->found[i].name);
        return;
    }
    struct repl_segment *segment = kills_open_name(v, name);
    struct kills_file *files = kills_pool_open(v, &count);
    for (size_t i = 0; i < count; i++) {
        if (files[i].entry == NULL && finds(v->w, segment, &files[i]))
            wait_anew(files[i].v, files[i].name);
    }
    kills_pool_close(files, count);
    repl_segment_free(segment);
}

/* Whether it has gone: nobody finds its chunks any more, whatever happens, and then its file goes.
 */
static bool supply_remove(struct kills_volume *v, const struct kills_supply *supply)
{
    struct repl_segment *segment = kills_open_name(v, supply->name);
    bool late = v->w->bug == KILLS_BUG_FORGOTTEN_LATE;
    bool goes = v->w->site == NULL || late || kills_index_forget(v, supply->name, segment);
    v->w->takings++;
    if (goes) {
        kills_unlink(v, supply->name);
        kills_sync_names(v);
        v->w->supplies_gone++;
    }
    if (late)
        kills_index_forget(v, supply->name, segment);
    repl_segment_free(segment);
    return goes;
}

/* Whether it has gone. */
static bool supply_look(struct kills_volume *v, struct kills_supply *supply)
{
    if (v->w->site != NULL && !kills_index_pool_is_known(v))
        return false;
    if (supply_needed(v, supply->name, v->w->bug == KILLS_BUG_SUPPLY_UNASKED)) {
        supply->idle_ns = 0;
        return false;
    }
    if (supply->idle_ns == 0)
        supply->idle_ns = v->w->now_ns;
    if (v->w->now_ns - supply->idle_ns < wait_ns(v, supply))
        return false;
    return supply_remove(v, supply);
}

void kills_supplies_visit(struct kills_volume *v)
{
    size_t kept = 0;
    for (size_t i = 0; i < v->supply_count; i++) {
        struct kills_supply supply = v->supplies[i];
        if (!supply_look(v, &supply))
            v->supplies[kept++] = supply;
    }
    v->supply_count = kept;
}
