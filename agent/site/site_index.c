/*
 * The index on its way to what the log has: at a start, and whenever it has
 * failed to take a record.
 *
 * It goes on behind the last record it has, by number: a log that was written
 * anew meanwhile has other places for them, and one that begins behind that
 * record begins with a CHECKPOINT, which says all.
 *
 * A log speaks of segments that are not there any more, as later records merge
 * them into others. So the list of segments is made of all of the log first, and
 * of those in it alone are the files read for their chunks.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <syslog.h>

#include "base/ensure.h"
#include "journal/chain.h"
#include "segment/segment_references.h"
#include "site/site_chain.h"
#include "site/site_volume.h"

/* What is read, without the lock, and then put into the index in one transaction, with it: a store
 * may take its time for a segment, and whoever commits must not wait for that. */
#define BATCH_STEPS_MAX 1024u
#define BATCH_NAMES_MAX 32768u /* which is begun with another one below that */

/* The chunks of a segment or a supply, and what a segment refers to. */
struct brought {
    struct repl_segment_id id;
    struct repl_chunk_entry *chunks;
    struct repl_digest *names;
    uint32_t chunk_count, name_count;
};

struct step {
    bool is_group;          /* its records are applied, and all that its segments bring is there */
    size_t group;           /* where it begins in the log */
    struct brought brought; /* else */
};

struct follower {
    struct repl_site *site;
    const char *name;
    const uint8_t *log;
    uint64_t begin; /* the offset of its first byte */
    size_t size;
    uint64_t remakes;   /* of the index that this is of: */
    size_t at;          /* it has so much of the log, */
    uint64_t at_record; /* up to this record */
    struct repl_chain chain;
    /* the record that is next, or all of its group */
    struct repl_log_record *records;
    struct repl_index_record *added;
    size_t count, room;
    /* what has been read of it: the group that begins at group, its segments before next, and */
    size_t group, next;
    uint64_t group_record; /* the last one before it */
    struct step *steps;
    size_t step_count, name_count;
};

static void brought_fini(struct brought *b)
{
    free(b->chunks);
    free(b->names);
    *b = (struct brought){0};
}

static repl_result references_read(const struct repl_segment *segment, struct brought *b,
                                   struct repl_error *err)
{
    struct repl_frame_coder *coder;
    REPL_TRY(repl_frame_coder_new(&coder, err));
    repl_result result = repl_segment_references(segment, coder, &b->names, &b->name_count, err);
    repl_frame_coder_free(coder);
    return result;
}

/* Where it fails, there is nothing to free. */
static repl_result brought_read(struct repl_site *site, const char *name,
                                const struct repl_segment_id *id, uint64_t file_size,
                                struct brought *out, struct repl_error *err)
{
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    *out = (struct brought){.id = *id};
    REPL_TRY(repl_store_open_segment(site->store, name, id, file_size, &file, &segment, err));
    repl_result result = id->supply == 0 ? references_read(segment, out, err) : REPL_SUCCESS;
    out->chunks = segment->chunks;
    out->chunk_count = segment->footer.chunk_count;
    segment->chunks = NULL;
    repl_segment_free(segment);
    file->close(file);
    if (!repl_ok(result))
        brought_fini(out);
    return result;
}

static repl_result brought_add(struct repl_site *site, const char *name, const struct brought *b,
                               struct repl_error *err)
{
    REPL_TRY(repl_index_add_chunks(site->index, name, &b->id, b->chunks, b->chunk_count, err));
    if (b->name_count == 0)
        return REPL_SUCCESS;
    return repl_index_add_references(site->index, name, &b->id, b->names, b->name_count, err);
}

/* --- groups ---------------------------------------------------------------------------------- */

static repl_result record_decode(const struct follower *f, size_t at,
                                 struct repl_log_record *record, size_t *size,
                                 struct repl_error *err)
{
    return repl_log_record_decode(f->log + at, f->size - at, record, size, err);
}

static repl_result group_room(struct follower *f, struct repl_error *err)
{
    if (f->count < f->room)
        return REPL_SUCCESS;
    size_t room = f->room == 0 ? 64 : 2 * f->room;
    struct repl_log_record *records = reallocarray(f->records, room, sizeof *records);
    if (records != NULL)
        f->records = records;
    struct repl_index_record *added = reallocarray(f->added, room, sizeof *added);
    if (added != NULL)
        f->added = added;
    if (records == NULL || added == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the log of volume %s", f->name);
    f->room = room;
    return REPL_SUCCESS;
}

/* The record at *at, or all of its group; *at goes behind it. */
static repl_result group_read(struct follower *f, size_t *at, struct repl_error *err)
{
    uint32_t left = 1;
    f->count = 0;
    while (left-- > 0) {
        size_t size;
        REPL_TRY(group_room(f, err));
        struct repl_log_record *record = &f->records[f->count];
        REPL_TRY(record_decode(f, *at, record, &size, err));
        *at += size;
        if (f->count++ > 0)
            continue;
        if (record->type == REPL_LOG_MERGE)
            left = record->merge.records;
        else if (record->type == REPL_LOG_CHECKPOINT)
            left = record->checkpoint.records;
    }
    for (size_t i = 0; i < f->count; i++)
        f->added[i] = (struct repl_index_record){.record = &f->records[i]};
    return REPL_SUCCESS;
}

/* --- reading --------------------------------------------------------------------------------- */

/* The segment that the record brings, if it is still in the list. */
static bool is_there(const struct follower *f, const struct repl_log_record *record,
                     struct repl_segment_id *id, uint64_t *file_size)
{
    const struct repl_log_commit *commit =
        record->type == REPL_LOG_PIECE ? &record->piece.commit : &record->commit;
    if (record->type != REPL_LOG_PIECE && record->type != REPL_LOG_COMMIT)
        return false;
    *id = (struct repl_segment_id){.to_seq = commit->to_seq, .part = commit->part};
    if (record->type == REPL_LOG_PIECE)
        id->merge = record->piece.merge;
    *file_size = commit->file_size;
    return repl_chain_find(&f->chain, id->to_seq, id->part, id->merge) != SIZE_MAX;
}

static struct step *step_new(struct follower *f)
{
    struct step *step = &f->steps[f->step_count++];
    *step = (struct step){0};
    return step;
}

static repl_result segment_gather(struct follower *f, const struct repl_segment_id *id,
                                  uint64_t file_size, struct repl_error *err)
{
    struct brought brought;
    REPL_TRY(brought_read(f->site, f->name, id, file_size, &brought, err));
    step_new(f)->brought = brought;
    f->name_count += brought.chunk_count + brought.name_count;
    return REPL_SUCCESS;
}

static bool batch_is_full(const struct follower *f)
{
    return f->step_count == BATCH_STEPS_MAX || f->name_count >= BATCH_NAMES_MAX;
}

/* Of the group that is next: what its segments bring, as far as there is room, and then the group
 * itself. */
static repl_result group_gather(struct follower *f, struct repl_error *err)
{
    size_t at = f->group;
    REPL_TRY(group_read(f, &at, err));
    const struct repl_log_record *first = &f->records[0];
    /* Written anew, it says nothing that an index which was up with it would not know. */
    bool known = first->type == REPL_LOG_CHECKPOINT && f->group_record > 0 &&
                 first->number == f->group_record + 1;
    for (; f->next < f->count && !known && !batch_is_full(f); f->next++) {
        struct repl_segment_id id;
        uint64_t file_size;
        if (is_there(f, &f->records[f->next], &id, &file_size))
            REPL_TRY(segment_gather(f, &id, file_size, err));
    }
    if (batch_is_full(f))
        return REPL_SUCCESS;
    struct step *step = step_new(f);
    step->is_group = true;
    step->group = f->group;
    f->group_record = f->records[f->count - 1].number;
    f->group = at;
    f->next = 0;
    return REPL_SUCCESS;
}

static repl_result batch_gather(struct follower *f, struct repl_error *err)
{
    while (f->group < f->size && !batch_is_full(f))
        REPL_TRY(group_gather(f, err));
    return REPL_SUCCESS;
}

static void batch_drop(struct follower *f)
{
    for (size_t i = 0; i < f->step_count; i++)
        brought_fini(&f->steps[i].brought);
    f->step_count = f->name_count = 0;
}

/* --- writing, with the lock ------------------------------------------------------------------ */

/* Behind the record of that number; where the log begins behind it, at its beginning. */
static repl_result position_find(struct follower *f, uint64_t record_number, struct repl_error *err)
{
    struct repl_log_record record;
    size_t size, at = 0;
    for (f->at = 0; at < f->size; f->at = at) {
        REPL_TRY(record_decode(f, at, &record, &size, err));
        if (record.number > record_number)
            break;
        at += size;
    }
    f->at_record = record_number;
    return REPL_SUCCESS;
}

/* Where the index is, and whether it is the one that what has been read is to go on. */
static repl_result position_look(struct follower *f, bool *moved, struct repl_error *err)
{
    uint64_t log_end, record_number, remakes = repl_index_remakes(f->site->index);
    REPL_TRY(repl_index_position(f->site->index, f->name, &log_end, &record_number, err));
    *moved = remakes != f->remakes || record_number != f->at_record;
    if (!*moved)
        return REPL_SUCCESS;
    batch_drop(f);
    REPL_TRY(position_find(f, record_number, err));
    f->remakes = remakes;
    f->group = f->at;
    f->group_record = f->at_record;
    f->next = 0;
    return REPL_SUCCESS;
}

static repl_result step_put(struct follower *f, const struct step *step, struct repl_error *err)
{
    if (!step->is_group)
        return brought_add(f->site, f->name, &step->brought, err);
    f->at = step->group;
    REPL_TRY(group_read(f, &f->at, err));
    f->at_record = f->records[f->count - 1].number;
    return repl_index_apply(f->site->index, f->name, f->added, f->count, f->begin + f->at, err);
}

static repl_result batch_put(struct follower *f, struct repl_error *err)
{
    bool moved;
    REPL_TRY(position_look(f, &moved, err));
    if (moved) /* another index is in its place: what has been put in is not there any more */
        return REPL_SUCCESS;
    REPL_TRY(repl_index_batch_begin(f->site->index, err));
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; i < f->step_count && repl_ok(result); i++)
        result = step_put(f, &f->steps[i], err);
    repl_result ended = repl_index_batch_end(f->site->index, repl_ok(result) ? err : NULL);
    batch_drop(f);
    REPL_TRY(result);
    return ended;
}

/* --- one after the other --------------------------------------------------------------------- */

static repl_result chain_fold(struct follower *f, struct repl_error *err)
{
    struct repl_log_record record;
    for (size_t at = 0, size; at < f->size; at += size) {
        REPL_TRY(record_decode(f, at, &record, &size, err));
        REPL_TRY(repl_chain_apply(&f->chain, &record, err));
    }
    return REPL_SUCCESS;
}

static repl_result follow_begin(struct follower *f, struct repl_error *err)
{
    bool moved;
    REPL_TRY(chain_fold(f, err));
    f->at_record = UINT64_MAX; /* nowhere yet */
    REPL_TRY(position_look(f, &moved, err));
    f->steps = calloc(BATCH_STEPS_MAX, sizeof *f->steps);
    return f->steps != NULL
               ? REPL_SUCCESS
               : repl_fail(err, REPL_E_NOMEM, "out of memory for the log of volume %s", f->name);
}

static repl_result follow(struct follower *f, pthread_mutex_t *lock, struct repl_error *err)
{
    REPL_TRY(follow_begin(f, err));
    while (f->at < f->size) {
        struct repl_error why;
        repl_result gathered = batch_gather(f, &why);
        if (lock != NULL)
            pthread_mutex_lock(lock);
        repl_result result = batch_put(f, err);
        if (lock != NULL)
            pthread_mutex_unlock(lock);
        REPL_TRY(result);
        if (!repl_ok(gathered)) { /* what comes before it is in the index */
            *err = why;
            return gathered;
        }
    }
    return REPL_SUCCESS;
}

repl_result site_index_catch_up(struct repl_site *site, const char *name,
                                const struct repl_buffer *log, uint64_t begin, uint64_t log_end,
                                pthread_mutex_t *lock, struct repl_error *err)
{
    struct follower f = {.site = site,
                         .name = name,
                         .log = log->data,
                         .begin = begin,
                         .size = (size_t)(log_end - begin)};
    ensure(log_end >= begin && f.size <= log->size);
    repl_chain_init(&f.chain);
    repl_result result = follow(&f, lock, err);
    batch_drop(&f);
    repl_chain_fini(&f.chain);
    free(f.records);
    free(f.added);
    free(f.steps);
    return result;
}

/* --- while the site runs --------------------------------------------------------------------- */

/* Without the lock, which it takes when it has read. */
static repl_result segment_put(struct repl_site *site, const char *name,
                               const struct repl_segment_id *id, uint64_t size,
                               struct repl_error *err)
{
    struct brought brought;
    REPL_TRY(brought_read(site, name, id, size, &brought, err));
    pthread_mutex_lock(&site->index_lock);
    repl_result result = brought_add(site, name, &brought, err);
    pthread_mutex_unlock(&site->index_lock);
    brought_fini(&brought);
    return result;
}

repl_result site_index_supply(struct site_volume *v, const struct repl_segment_id *id,
                              uint64_t size, struct repl_error *err)
{
    repl_result result = segment_put(v->site, v->name, id, size, err);
    bool unreadable = result.code == REPL_E_CORRUPT || result.code == REPL_E_VERSION ||
                      result.code == REPL_E_MISSING;
    if (!unreadable)
        return result;
    repl_log(LOG_WARNING, "volume %s: a supply is left out of the index: %s", v->name, err->text);
    return REPL_SUCCESS;
}

static repl_result supply_refill(void *context, const struct repl_segment_id *id, uint64_t size,
                                 struct repl_error *err)
{
    return id->supply != 0 ? site_index_supply(context, id, size, err) : REPL_SUCCESS;
}

repl_result site_index_refill(struct site_volume *v, bool supplies, uint64_t log_end,
                              struct repl_error *err)
{
    struct repl_store *store = v->site->store;
    struct repl_buffer log = {0};
    repl_result result = REPL_SUCCESS;
    uint64_t begin;
    if (supplies)
        result = store->ops->segments(store, v->name, supply_refill, v, err);
    if (repl_ok(result))
        result = store->ops->log_read(store, v->name, &log, &begin, err);
    if (repl_ok(result) && begin + log.size < log_end)
        result = repl_fail(err, REPL_E_CORRUPT, "the log of volume %s became shorter", v->name);
    if (repl_ok(result))
        result =
            site_index_catch_up(v->site, v->name, &log, begin, log_end, &v->site->index_lock, err);
    repl_buffer_fini(&log);
    return result;
}

repl_result site_index_places(struct site_volume *v, struct repl_error *err)
{
    struct repl_chain chain;
    repl_chain_init(&chain);
    repl_result result = site_chain_read(v->site->index, v->name, &chain, err);
    for (size_t i = 0; i < chain.count && repl_ok(result); i++) {
        const struct repl_log_piece *entry = &chain.entries[i];
        const struct repl_segment_id id = {
            .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
        result = segment_put(v->site, v->name, &id, entry->commit.file_size, err);
    }
    for (size_t i = 0; i < v->supply_count && repl_ok(result); i++)
        result = site_index_supply(v, &v->supplies[i].id, 0, err);
    repl_chain_fini(&chain);
    return result;
}

/* --- what has just been logged --------------------------------------------------------------- */

static repl_result append_one(struct site_append *a, struct repl_error *err)
{
    struct repl_site *site = a->volume->site;
    const char *name = a->volume->name;
    if (!a->index_behind)
        return repl_index_apply(site->index, name, a->records, a->record_count, a->log_end, err);
    struct repl_buffer log = {0};
    uint64_t begin;
    repl_result result = site->store->ops->log_read(site->store, name, &log, &begin, err);
    if (repl_ok(result))
        result = site_index_catch_up(site, name, &log, begin, a->log_end, NULL, err);
    repl_buffer_fini(&log);
    return result;
}

/* In one transaction. Where that fails nothing of it is in the index. */
static repl_result append_together(struct repl_site *site, struct site_append *first)
{
    struct repl_error err;
    REPL_TRY(repl_index_batch_begin(site->index, &err));
    for (struct site_append *a = first; a != NULL; a = a->next) {
        repl_result result = a->index_behind
                                 ? REPL_SUCCESS
                                 : repl_index_apply(site->index, a->volume->name, a->records,
                                                    a->record_count, a->log_end, &err);
        if (!repl_ok(result))
            break; /* the end says so */
        a->index_result = REPL_SUCCESS;
    }
    return repl_index_batch_end(site->index, &err);
}

void site_index_append(struct site_append *mine)
{
    struct repl_site *site = mine->volume->site;
    pthread_mutex_lock(&site->waiting_lock);
    mine->next = site->waiting;
    site->waiting = mine;
    pthread_mutex_unlock(&site->waiting_lock);
    pthread_mutex_lock(&site->index_lock);
    if (!mine->indexed) {
        pthread_mutex_lock(&site->waiting_lock);
        struct site_append *first = site->waiting;
        site->waiting = NULL;
        pthread_mutex_unlock(&site->waiting_lock);
        bool together = first->next != NULL && repl_ok(append_together(site, first));
        for (struct site_append *a = first; a != NULL; a = a->next) {
            if (!together || a->index_behind)
                a->index_result = append_one(a, &a->index_err);
            a->indexed = true;
        }
    }
    pthread_mutex_unlock(&site->index_lock);
}
