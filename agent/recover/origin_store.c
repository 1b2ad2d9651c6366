/*
 * A store as an origin, without its site: the volume's log says what is committed
 * (store_catalogue.h). The site's index is not needed, and nothing is written, so
 * this works beside a running site, on a read-only mount and on a copy.
 *
 * A history may have more segments than a process may have open files, so they
 * are kept open in a small pool, the one used longest ago making room.
 */
#include "recover/origin.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "journal/scrub_plan.h"
#include "loop/loop.h"
#include "recover/pool_places.h"
#include "recover/store_catalogue.h"
#include "store/segment_name.h"
#include "store/verified_file.h"

/* Beside a site what lay somewhere may lie elsewhere by now: places are looked for again where a
 * chunk is missing, so often. */
#define GATHERS_MAX 3u

#define POOL_SIZE 128u /* above the number of reading threads, below any limit of open files */

struct pooled_file {
    struct repl_segment_id id;
    struct repl_stored_segment *file; /* NULL: free */
    unsigned users;
    uint64_t used; /* the pool's clock */
};

struct store_origin {
    struct repl_origin base;
    struct repl_store *store;
    bool borrowed;                          /* the caller's, not ours to close */
    struct repl_chain chain;                /* of the last catalogue */
    char shared[REPL_VOLUME_NAME_SIZE + 1]; /* the pool the volume is of; "": its own */
    pthread_rwlock_t places_lock;           /* exclusive: they are looked for */
    struct repl_pool_places *places;        /* NULL: not looked for yet */
    unsigned gathers;                       /* how often they have been */
    repl_chunk_find_fn *find;               /* in their place; NULL: there is none */
    void *find_context;
    pthread_mutex_t mutex; /* guards the pool */
    uint64_t clock;
    struct pooled_file pool[POOL_SIZE];
};

static repl_result store_catalogue(struct repl_origin *base, struct repl_catalogue *out,
                                   struct repl_error *err)
{
    struct store_origin *origin = (struct store_origin *)base;
    repl_chain_fini(&origin->chain);
    return repl_store_catalogue(origin->store, base->label, base->volume, out, &origin->chain,
                                origin->shared, err);
}

/* --- the pool -------------------------------------------------------------------------------- */

struct gathering {
    struct store_origin *origin;
    struct repl_pool_places *places;
};

static repl_result catalogue_gather(struct gathering *g, const char *volume,
                                    const struct repl_catalogue *c, struct repl_error *err)
{
    for (size_t i = 0; i < c->segment_count; i++) {
        const struct repl_segments_entry *entry = &c->segments[i];
        const struct repl_segment_id id = {
            .to_seq = entry->head.to_seq, .part = entry->head.part, .merge = entry->merge};
        REPL_TRY(repl_pool_places_add(g->places, volume, &id, entry->file_size, err));
    }
    for (size_t i = 0; i < c->supply_count; i++)
        REPL_TRY(repl_pool_places_add(g->places, volume, &c->supplies[i], 0, err));
    return REPL_SUCCESS;
}

/* What is wrong with another volume is none of our business, as long as it has nothing we need. */
static repl_result volume_gather(void *context, const char *volume, struct repl_error *err)
{
    struct gathering *g = context;
    struct repl_catalogue c = {0};
    bool own = strcmp(volume, g->origin->base.volume) == 0;
    char pool[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_error why;
    /* What its own segments have is known, as they were at the begin. */
    if (own ? g->origin->gathers == 0 : g->origin->shared[0] == '\0')
        return REPL_SUCCESS;
    struct repl_chain chain;
    repl_result result = repl_store_catalogue(g->origin->store, g->origin->base.label, volume, &c,
                                              &chain, pool, &why);
    repl_chain_fini(&chain);
    if (repl_ok(result) && strcmp(pool, g->origin->shared) == 0) {
        if (c.damaged)
            repl_pool_places_lack(g->places, c.note);
        result = catalogue_gather(g, volume, &c, &why);
    }
    repl_catalogue_fini(&c);
    if (result.code == REPL_E_RETRY || result.code == REPL_E_NOMEM) {
        if (err != NULL)
            *err = why;
        return result;
    }
    if (!repl_ok(result))
        repl_pool_places_lack(g->places, why.text);
    return REPL_SUCCESS;
}

static repl_result places_gather(struct store_origin *origin, struct repl_error *err)
{
    struct gathering g = {.origin = origin};
    REPL_TRY(repl_pool_places_new(origin->store, &g.places, err));
    repl_result result = origin->store->ops->volumes(origin->store, volume_gather, &g, err);
    if (!repl_ok(result)) {
        repl_pool_places_free(g.places);
        return result;
    }
    repl_pool_places_sort(g.places);
    repl_pool_places_free(origin->places);
    origin->places = g.places;
    origin->gathers++;
    return REPL_SUCCESS;
}

static repl_result chunk_copy(void *context, uint32_t at, const void *bytes, struct repl_error *err)
{
    (void)err;
    memcpy((uint8_t *)context + (size_t)at * REPL_CHUNK_SIZE, bytes, REPL_CHUNK_SIZE);
    return REPL_SUCCESS;
}

static repl_result chunks_find(struct store_origin *origin, const struct repl_digest *names,
                               uint32_t count, struct repl_placed_chunk *chunks,
                               struct repl_error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        bool found;
        REPL_TRY(origin->find(origin->find_context, &names[i], &chunks[i], &found, err));
        chunks[i].at = i;
        if (!found) {
            char text[REPL_DIGEST_TEXT_SIZE];
            repl_digest_format(&names[i], text);
            return repl_fail(err, REPL_E_MISSING, "chunk %.16s is nowhere in the pool", text);
        }
    }
    return REPL_SUCCESS;
}

static repl_result found_read(struct store_origin *origin, const struct repl_digest *names,
                              uint32_t count, void *out, struct repl_error *err)
{
    struct repl_placed_chunk *chunks = calloc(count, sizeof *chunks);
    struct repl_chunk_reader *reader = NULL;
    if (chunks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the places of chunks");
    repl_result result = chunks_find(origin, names, count, chunks, err);
    if (repl_ok(result))
        result = repl_chunk_reader_new(origin->store, &reader, err);
    if (repl_ok(result))
        result = repl_chunk_reader_read(reader, chunks, count, names, chunk_copy, out, err);
    repl_chunk_reader_free(reader);
    free(chunks);
    return result;
}

/* Unless somebody has done so since the gathers were seen. */
static repl_result places_renew(struct store_origin *origin, unsigned seen, struct repl_error *err)
{
    pthread_rwlock_wrlock(&origin->places_lock);
    repl_result result = origin->gathers == seen ? places_gather(origin, err) : REPL_SUCCESS;
    pthread_rwlock_unlock(&origin->places_lock);
    return result;
}

static repl_result store_chunks(struct repl_origin *base, const struct repl_digest *names,
                                uint32_t count, void *out, struct repl_error *err)
{
    struct store_origin *origin = (struct store_origin *)base;
    REPL_TRY(repl_origin_fetch(base, (uint64_t)count * REPL_CHUNK_SIZE, err));
    if (origin->find != NULL)
        return found_read(origin, names, count, out, err);
    for (;;) {
        repl_result result = REPL_SUCCESS;
        pthread_rwlock_rdlock(&origin->places_lock);
        unsigned seen = origin->gathers;
        if (seen > 0)
            result = repl_pool_places_read(origin->places, names, count, out, err);
        pthread_rwlock_unlock(&origin->places_lock);
        if (seen > 0 && (result.code != REPL_E_MISSING || seen == GATHERS_MAX))
            return result;
        REPL_TRY(places_renew(origin, seen, err));
    }
}

/* --- files ----------------------------------------------------------------------------------- */

/* The entry of the file if it is in the pool; else one that may be filled with it. */
static struct pooled_file *pool_find(struct store_origin *origin, const struct repl_segment_id *id)
{
    struct pooled_file *victim = NULL;
    for (size_t i = 0; i < POOL_SIZE; i++) {
        struct pooled_file *entry = &origin->pool[i];
        if (entry->file != NULL && repl_segment_id_order(&entry->id, id) == 0)
            return entry;
        if (entry->users == 0 && (victim == NULL || entry->used < victim->used))
            victim = entry;
    }
    ensure(victim != NULL); /* there are fewer threads than places */
    if (victim->file != NULL)
        victim->file->close(victim->file);
    victim->file = NULL;
    victim->used = 0;
    return victim;
}

static repl_result pool_take(struct store_origin *origin, const struct repl_segment_id *id,
                             uint64_t size, struct pooled_file **out, struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    pthread_mutex_lock(&origin->mutex);
    struct pooled_file *entry = pool_find(origin, id);
    if (entry->file == NULL)
        result = origin->store->ops->segment_open(origin->store, origin->base.volume, id, size,
                                                  &entry->file, err);
    if (repl_ok(result)) {
        entry->id = *id;
        entry->users++;
        entry->used = ++origin->clock;
        *out = entry;
    }
    pthread_mutex_unlock(&origin->mutex);
    return result;
}

static void pool_give(struct store_origin *origin, struct pooled_file *entry)
{
    pthread_mutex_lock(&origin->mutex);
    entry->users--;
    pthread_mutex_unlock(&origin->mutex);
}

static repl_result store_size(struct repl_origin *base, const struct repl_segment_id *id,
                              uint64_t *size, struct repl_error *err)
{
    struct store_origin *origin = (struct store_origin *)base;
    struct pooled_file *entry;
    REPL_TRY(pool_take(origin, id, 0, &entry, err));
    *size = entry->file->size;
    pool_give(origin, entry);
    return REPL_SUCCESS;
}

static repl_result store_read_at(struct repl_origin *base, const struct repl_segment_id *id,
                                 uint64_t file_size, uint64_t offset, void *out, size_t size,
                                 struct repl_error *err)
{
    struct store_origin *origin = (struct store_origin *)base;
    struct pooled_file *entry;
    REPL_TRY(repl_origin_fetch(base, size, err));
    REPL_TRY(pool_take(origin, id, file_size, &entry, err));
    repl_result result = entry->file->read_at(entry->file, offset, out, size, err);
    pool_give(origin, entry);
    return result;
}

static repl_result store_verified(struct repl_origin *base, struct repl_verified_list *out,
                                  struct repl_error *err)
{
    struct store_origin *origin = (struct store_origin *)base;
    struct repl_verified_file file;
    repl_result result = repl_verified_file_read(origin->store, base->volume, &file, err);
    if (!repl_ok(result) && result.code != REPL_E_MISSING)
        return result;
    result = repl_scrub_list(&origin->chain, &file.list, repl_now_wall_ns(), out, err);
    repl_verified_file_fini(&file);
    return result;
}

static void store_stop(struct repl_origin *base)
{
    struct store_origin *origin = (struct store_origin *)base;
    repl_throttle_stop(base->throttle);
    if (!origin->borrowed)
        origin->store->ops->stop(origin->store);
}

static void store_close(struct repl_origin *base)
{
    struct store_origin *origin = (struct store_origin *)base;
    for (size_t i = 0; i < POOL_SIZE; i++) {
        if (origin->pool[i].file != NULL)
            origin->pool[i].file->close(origin->pool[i].file);
    }
    repl_pool_places_free(origin->places);
    if (origin->store != NULL && !origin->borrowed)
        origin->store->ops->close(origin->store);
    repl_chain_fini(&origin->chain);
    pthread_rwlock_destroy(&origin->places_lock);
    pthread_mutex_destroy(&origin->mutex);
    free(origin);
}

static const struct repl_origin_ops store_origin_ops = {
    .close = store_close,
    .catalogue = store_catalogue,
    .size = store_size,
    .read_at = store_read_at,
    .verified = store_verified,
    .chunks = store_chunks,
    .stop = store_stop,
};

static struct store_origin *origin_new(const char *volume)
{
    struct store_origin *origin = calloc(1, sizeof *origin);
    if (origin == NULL)
        return NULL;
    origin->base.ops = &store_origin_ops;
    snprintf(origin->base.volume, sizeof origin->base.volume, "%s", volume);
    pthread_mutex_init(&origin->mutex, NULL);
    pthread_rwlock_init(&origin->places_lock, NULL);
    return origin;
}

repl_result repl_origin_open_store(const struct repl_store_options *options, const char *volume,
                                   struct repl_origin **out, struct repl_error *err)
{
    struct store_origin *origin = origin_new(volume);
    if (origin == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the store %s", options->location);
    snprintf(origin->base.label, sizeof origin->base.label, "the store %s", options->location);
    repl_result result = repl_store_open(options, &origin->store, err);
    if (repl_ok(result) && !repl_store_is_bucket(options->location))
        result = origin->store->ops->volume_directory(origin->store, volume, origin->base.directory,
                                                      sizeof origin->base.directory, err);
    if (!repl_ok(result)) {
        store_close(&origin->base);
        return result;
    }
    *out = &origin->base;
    return REPL_SUCCESS;
}

repl_result repl_origin_of_store(struct repl_store *store, const char *volume,
                                 repl_chunk_find_fn *find, void *find_context,
                                 struct repl_origin **out, struct repl_error *err)
{
    struct store_origin *origin = origin_new(volume);
    if (origin == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for volume %s", volume);
    snprintf(origin->base.label, sizeof origin->base.label, "the site's store");
    origin->store = store;
    origin->borrowed = true;
    origin->find = find;
    origin->find_context = find_context;
    *out = &origin->base;
    return REPL_SUCCESS;
}
