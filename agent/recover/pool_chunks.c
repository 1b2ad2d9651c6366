/*
 * Slots are EMPTY, LOADING (by one thread, outside of the lock; others that want
 * the chunk wait for it) or READY. A batch takes the slots of all its names at
 * once, the one used longest ago each time, and none that is LOADING: where
 * there are no others, it is shorter. A batch that fails empties its slots; those
 * who have waited try for themselves, so that each gets an error of its own.
 */
#include "recover/pool_chunks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "repl/view.h"

#define SLOT_COUNT 1024u /* 64 MiB */

enum slot_state { SLOT_EMPTY, SLOT_LOADING, SLOT_READY };

struct slot {
    enum slot_state state;
    struct repl_digest name;
    uint64_t used;  /* the cache's clock */
    uint8_t *bytes; /* kept for the next chunk */
};

struct repl_pool_chunks {
    struct repl_origin *origin;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t loaded;
    uint64_t clock;
    struct slot slots[SLOT_COUNT];
};

/* What one thread fetches at once. */
struct batch {
    struct repl_digest names[REPL_VIEW_AHEAD];
    struct slot *slots[REPL_VIEW_AHEAD]; /* NULL: of the first, where there was no room */
    size_t count;
    uint8_t *bytes;
};

repl_result repl_pool_chunks_new(struct repl_origin *origin, struct repl_pool_chunks **out,
                                 struct repl_error *err)
{
    struct repl_pool_chunks *pool = calloc(1, sizeof *pool);
    if (pool == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a cache of chunks");
    pool->origin = origin;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->loaded, NULL);
    *out = pool;
    return REPL_SUCCESS;
}

void repl_pool_chunks_free(struct repl_pool_chunks *pool)
{
    if (pool == NULL)
        return;
    for (size_t i = 0; i < SLOT_COUNT; i++)
        free(pool->slots[i].bytes);
    pthread_cond_destroy(&pool->loaded);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* --- fetching, without the lock -------------------------------------------------------------- */

static repl_result bytes_check(const struct repl_pool_chunks *pool, const struct repl_digest *names,
                               size_t count, const uint8_t *bytes, struct repl_error *err)
{
    struct repl_sha256 *sha;
    repl_result result = repl_sha256_new(&sha, err);
    REPL_TRY(result);
    for (size_t i = 0; i < count && repl_ok(result); i++) {
        struct repl_digest actual;
        repl_chunk_digest(sha, bytes + i * REPL_CHUNK_SIZE, &actual);
        if (!repl_digest_equal(&actual, &names[i]))
            result = repl_fail(err, REPL_E_CORRUPT, "%s gave other bytes for a chunk of the pool",
                               pool->origin->label);
    }
    repl_sha256_free(sha);
    return result;
}

static repl_result fetch(const struct repl_pool_chunks *pool, const struct repl_digest *names,
                         size_t count, uint8_t *out, struct repl_error *err)
{
    struct repl_origin *origin = pool->origin;
    REPL_TRY(origin->ops->chunks(origin, names, (uint32_t)count, out, err));
    return bytes_check(pool, names, count, out, err);
}

/* --- the cache, with the lock ---------------------------------------------------------------- */

static struct slot *slot_of(struct repl_pool_chunks *pool, const struct repl_digest *name)
{
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        struct slot *slot = &pool->slots[i];
        if (slot->state != SLOT_EMPTY && repl_digest_equal(&slot->name, name))
            return slot;
    }
    return NULL;
}

/* NULL: all are being loaded, or there is no memory. */
static struct slot *slot_take(struct repl_pool_chunks *pool, const struct repl_digest *name)
{
    struct slot *victim = NULL;
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        struct slot *slot = &pool->slots[i];
        uint64_t used = slot->state == SLOT_EMPTY ? 0 : slot->used;
        if (slot->state != SLOT_LOADING && (victim == NULL || used < victim->used))
            victim = slot;
    }
    if (victim == NULL ||
        (victim->bytes == NULL && (victim->bytes = malloc(REPL_CHUNK_SIZE)) == NULL))
        return NULL;
    victim->state = SLOT_LOADING;
    victim->name = *name;
    victim->used = ++pool->clock;
    return victim;
}

static void batch_take(struct repl_pool_chunks *pool, struct batch *batch,
                       const struct repl_digest *names, size_t count)
{
    for (size_t i = 0; i < count && i < REPL_VIEW_AHEAD; i++) {
        if (i > 0 && slot_of(pool, &names[i]) != NULL)
            continue;
        struct slot *slot = slot_take(pool, &names[i]);
        if (slot == NULL && i > 0)
            return;
        batch->names[batch->count] = names[i];
        batch->slots[batch->count++] = slot;
    }
}

static void batch_give(struct repl_pool_chunks *pool, const struct batch *batch, bool ready)
{
    for (size_t i = 0; i < batch->count; i++) {
        struct slot *slot = batch->slots[i];
        if (slot == NULL)
            continue;
        if (ready)
            memcpy(slot->bytes, batch->bytes + i * REPL_CHUNK_SIZE, REPL_CHUNK_SIZE);
        slot->state = ready ? SLOT_READY : SLOT_EMPTY;
    }
    pthread_cond_broadcast(&pool->loaded);
}

/* With the lock, which is let go while the bytes come. What is missing may be one of those that
 * come along only: then the first is asked for alone. */
static repl_result batch_load(struct repl_pool_chunks *pool, struct batch *batch, void *out,
                              struct repl_error *err)
{
    pthread_mutex_unlock(&pool->mutex);
    batch->bytes = malloc(batch->count * REPL_CHUNK_SIZE);
    repl_result result = batch->bytes == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for chunks")
                             : fetch(pool, batch->names, batch->count, batch->bytes, err);
    bool whole = repl_ok(result);
    if (whole)
        memcpy(out, batch->bytes, REPL_CHUNK_SIZE);
    else if ((result.code == REPL_E_MISSING || result.code == REPL_E_CORRUPT) && batch->count > 1)
        result = fetch(pool, batch->names, 1, out, err);
    pthread_mutex_lock(&pool->mutex);
    batch_give(pool, batch, whole);
    free(batch->bytes);
    return result;
}

static repl_result read_locked(struct repl_pool_chunks *pool, const struct repl_digest *names,
                               size_t count, void *out, struct repl_error *err)
{
    for (;;) {
        struct slot *slot = slot_of(pool, &names[0]);
        if (slot == NULL) {
            struct batch batch = {0};
            batch_take(pool, &batch, names, count);
            return batch_load(pool, &batch, out, err);
        }
        if (slot->state == SLOT_READY) {
            slot->used = ++pool->clock;
            memcpy(out, slot->bytes, REPL_CHUNK_SIZE);
            return REPL_SUCCESS;
        }
        pthread_cond_wait(&pool->loaded, &pool->mutex);
    }
}

repl_result repl_pool_chunks_read(struct repl_pool_chunks *pool, const struct repl_digest *names,
                                  size_t count, void *out, struct repl_error *err)
{
    pthread_mutex_lock(&pool->mutex);
    repl_result result = read_locked(pool, names, count, out, err);
    pthread_mutex_unlock(&pool->mutex);
    return result;
}

/* --- checking -------------------------------------------------------------------------------- */

/* One by one, so that the first that is not to be had is named. */
static repl_result singles_check(const struct repl_pool_chunks *pool,
                                 const struct repl_digest *names, size_t count, uint8_t *bytes,
                                 struct repl_error *err)
{
    for (size_t i = 0; i < count; i++) {
        char text[REPL_DIGEST_TEXT_SIZE];
        repl_digest_format(&names[i], text);
        REPL_TRY(repl_forward(fetch(pool, &names[i], 1, bytes, err), err, "chunk %.16s", text));
    }
    return REPL_SUCCESS;
}

repl_result repl_pool_chunks_check(struct repl_pool_chunks *pool, const struct repl_digest *names,
                                   size_t count, struct repl_error *err)
{
    uint8_t *bytes = malloc(REPL_VIEW_AHEAD * (size_t)REPL_CHUNK_SIZE);
    repl_result result =
        bytes == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for chunks") : REPL_SUCCESS;
    for (size_t i = 0, size; i < count && repl_ok(result); i += size) {
        size = count - i < REPL_VIEW_AHEAD ? count - i : REPL_VIEW_AHEAD;
        result = fetch(pool, &names[i], size, bytes, err);
        if (result.code == REPL_E_MISSING || result.code == REPL_E_CORRUPT)
            result = singles_check(pool, &names[i], size, bytes, err);
    }
    free(bytes);
    return result;
}
