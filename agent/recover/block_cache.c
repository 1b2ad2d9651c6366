/*
 * Slots are EMPTY, LOADING (by one thread, outside of the lock; others that want
 * the block wait for it) or READY. A slot that is LOADING is never taken for
 * another block. Bytes are copied out under the lock: a copy is far quicker
 * than the fetch it saves.
 */
#include "recover/block_cache.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "store/segment_name.h"

enum slot_state { SLOT_EMPTY, SLOT_LOADING, SLOT_READY };

struct cache_slot {
    enum slot_state state;
    struct repl_segment_id id;
    uint64_t block;
    uint64_t used; /* the cache's clock */
    size_t size;
    uint8_t *data; /* kept for the next block */
};

struct repl_block_cache {
    repl_block_fetch_fn *fetch;
    void *context;
    pthread_mutex_t mutex; /* guards all below */
    pthread_cond_t loaded;
    uint64_t clock;
    size_t slot_count;
    struct cache_slot *slots;
};

repl_result repl_block_cache_new(size_t block_count, repl_block_fetch_fn *fetch, void *context,
                                 struct repl_block_cache **out, struct repl_error *err)
{
    struct repl_block_cache *cache = calloc(1, sizeof *cache);
    struct cache_slot *slots = calloc(block_count, sizeof *slots);
    if (cache == NULL || slots == NULL) {
        free(cache);
        free(slots);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a cache of %zu blocks", block_count);
    }
    cache->fetch = fetch;
    cache->context = context;
    cache->slots = slots;
    cache->slot_count = block_count;
    pthread_mutex_init(&cache->mutex, NULL);
    pthread_cond_init(&cache->loaded, NULL);
    *out = cache;
    return REPL_SUCCESS;
}

void repl_block_cache_free(struct repl_block_cache *cache)
{
    if (cache == NULL)
        return;
    for (size_t i = 0; i < cache->slot_count; i++)
        free(cache->slots[i].data);
    free(cache->slots);
    pthread_cond_destroy(&cache->loaded);
    pthread_mutex_destroy(&cache->mutex);
    free(cache);
}

static bool slot_is(const struct cache_slot *slot, const struct repl_segment_id *id, uint64_t block)
{
    return slot->state != SLOT_EMPTY && slot->block == block &&
           repl_segment_id_order(&slot->id, id) == 0;
}

/* The block's slot, or the one to load it into. */
static struct cache_slot *slot_find(struct repl_block_cache *cache,
                                    const struct repl_segment_id *id, uint64_t block)
{
    struct cache_slot *victim = NULL;
    for (size_t i = 0; i < cache->slot_count; i++) {
        struct cache_slot *slot = &cache->slots[i];
        if (slot_is(slot, id, block))
            return slot;
        if (slot->state != SLOT_LOADING && (victim == NULL || slot->used < victim->used))
            victim = slot;
    }
    ensure(victim != NULL);
    return victim;
}

/* Called with the lock, which is let go while the bytes come. */
static repl_result slot_load(struct repl_block_cache *cache, struct cache_slot *slot,
                             const struct repl_segment_id *id, uint64_t block, size_t size,
                             struct repl_error *err)
{
    slot->state = SLOT_LOADING;
    slot->id = *id;
    slot->block = block;
    slot->size = size;
    if (slot->data == NULL)
        slot->data = malloc(REPL_CACHE_BLOCK_SIZE);
    pthread_mutex_unlock(&cache->mutex);
    repl_result result =
        slot->data == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a block of a segment")
                           : cache->fetch(cache->context, id, block * REPL_CACHE_BLOCK_SIZE,
                                          slot->data, size, err);
    pthread_mutex_lock(&cache->mutex);
    slot->state = repl_ok(result) ? SLOT_READY : SLOT_EMPTY;
    pthread_cond_broadcast(&cache->loaded);
    return result;
}

/* With the lock: the block, READY. Whoever waits for another's load that fails tries it himself,
 * so that each caller gets an error of its own. */
static repl_result slot_get(struct repl_block_cache *cache, const struct repl_segment_id *id,
                            uint64_t block, size_t size, struct cache_slot **out,
                            struct repl_error *err)
{
    for (;;) {
        struct cache_slot *slot = slot_find(cache, id, block);
        if (!slot_is(slot, id, block))
            REPL_TRY(slot_load(cache, slot, id, block, size, err));
        if (slot->state == SLOT_READY) {
            slot->used = ++cache->clock;
            *out = slot;
            return REPL_SUCCESS;
        }
        pthread_cond_wait(&cache->loaded, &cache->mutex);
    }
}

repl_result repl_block_cache_read(struct repl_block_cache *cache, const struct repl_segment_id *id,
                                  uint64_t file_size, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err)
{
    uint8_t *to = out;
    if (offset > file_size || size > file_size - offset)
        return repl_fail(err, REPL_E_CORRUPT,
                         "segment %llu.%u has %llu bytes, and %zu from byte %llu were asked for",
                         (unsigned long long)id->to_seq, id->part, (unsigned long long)file_size,
                         size, (unsigned long long)offset);
    repl_result result = REPL_SUCCESS;
    pthread_mutex_lock(&cache->mutex);
    while (repl_ok(result) && size > 0) {
        uint64_t block = offset / REPL_CACHE_BLOCK_SIZE, start = block * REPL_CACHE_BLOCK_SIZE;
        size_t whole = file_size - start < REPL_CACHE_BLOCK_SIZE ? (size_t)(file_size - start)
                                                                 : REPL_CACHE_BLOCK_SIZE;
        size_t skip = (size_t)(offset - start);
        size_t piece = whole - skip < size ? whole - skip : size;
        struct cache_slot *slot;
        result = slot_get(cache, id, block, whole, &slot, err);
        if (!repl_ok(result))
            break;
        memcpy(to, slot->data + skip, piece);
        to += piece;
        offset += piece;
        size -= piece;
    }
    pthread_mutex_unlock(&cache->mutex);
    return result;
}
