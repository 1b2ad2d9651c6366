#include "source/tree/tree_places.h"

#include <string.h>

#include "base/ensure.h"
#include "base/limits.h"

/* The space grows by a part of itself, so that growing stays rare. */
#define GROWTH_SHARE 16u
#define GROWTH_MIN   (UINT64_C(4) << 20)

static uint64_t order_size(unsigned order)
{
    return (uint64_t)REPL_PAGE_SIZE << order;
}

unsigned repl_tree_order_of(uint64_t size)
{
    unsigned order = 0;
    while (order_size(order) < size)
        order++;
    ensure(order <= REPL_TREE_ORDER_MAX);
    return order;
}

repl_result repl_tree_pages_note(struct repl_buffer *pages, uint64_t place, uint64_t size,
                                 struct repl_error *err)
{
    struct repl_tree_pages run = {place / REPL_PAGE_SIZE, repl_page_count_of(size)};
    if (pages->size >= sizeof run) {
        struct repl_tree_pages *last = (void *)(pages->data + pages->size - sizeof run);
        if (last->page <= run.page && run.page <= last->page + last->count) {
            uint64_t end = run.page + run.count;
            if (end > last->page + last->count)
                last->count = end - last->page;
            return REPL_SUCCESS;
        }
    }
    return repl_buffer_append(pages, &run, sizeof run, err);
}

/* --- what is free ---------------------------------------------------------------------------- */

static void free_key(unsigned order, uint64_t place, struct repl_tree_key *key)
{
    *key = (struct repl_tree_key){0};
    repl_tree_key_u8(key, (uint8_t)order);
    repl_tree_key_u64(key, place);
}

static repl_result free_put(struct repl_tree_txn *txn, unsigned order, uint64_t place,
                            struct repl_error *err)
{
    struct repl_tree_key key;
    free_key(order, place, &key);
    return repl_tree_put(txn, REPL_TREE_FREE, &key, NULL, 0, err);
}

/* The lowest free piece of exactly this order, taken off the list. */
static repl_result free_take(struct repl_tree_txn *txn, unsigned order, uint64_t *place,
                             bool *found, struct repl_error *err)
{
    struct repl_tree_key key;
    struct repl_tree_walk walk;
    free_key(order, 0, &key);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_FREE, &key, &walk, err);
    *found = repl_ok(result) && !walk.done && *(const uint8_t *)walk.key.mv_data == order;
    if (*found) {
        *place = repl_tree_key_read((const uint8_t *)walk.key.mv_data + 1);
        result = repl_tree_walk_remove(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

/* A piece together with its buddy, and that one with its own, as far as they are free. */
static repl_result free_merge(struct repl_tree_txn *txn, unsigned order, uint64_t place,
                              struct repl_error *err)
{
    for (; order < REPL_TREE_ORDER_MAX; order++) {
        struct repl_tree_key key;
        MDB_val value;
        bool found;
        free_key(order, place ^ order_size(order), &key);
        REPL_TRY(repl_tree_get(txn, REPL_TREE_FREE, &key, &value, &found, err));
        if (!found)
            break;
        REPL_TRY(repl_tree_del(txn, REPL_TREE_FREE, &key, err));
        place &= ~order_size(order);
    }
    return free_put(txn, order, place, err);
}

/* --- the space's end ------------------------------------------------------------------------- */

repl_result repl_tree_space_reach(struct repl_tree_txn *txn, uint64_t end, struct repl_error *err)
{
    struct repl_tree_meta *meta = repl_tree_meta(txn->index);
    if (end > REPL_VOLUME_SIZE_MAX)
        return repl_fail(err, REPL_E_REFUSED, "the tree's files need more than %llu bytes",
                         (unsigned long long)REPL_VOLUME_SIZE_MAX);
    for (uint64_t at = meta->space_size; at < end; meta->space_size = at) {
        unsigned order = REPL_TREE_ORDER_MAX;
        while (at % order_size(order) != 0 || end - at < order_size(order))
            order--;
        REPL_TRY(free_merge(txn, order, at, err));
        at += order_size(order);
    }
    return REPL_SUCCESS;
}

/* By so much that a piece of this order is among it. */
static repl_result space_grow(struct repl_tree_txn *txn, unsigned order, struct repl_error *err)
{
    uint64_t at = repl_tree_meta(txn->index)->space_size, more = at / GROWTH_SHARE;
    uint64_t least = 2 * order_size(order) > GROWTH_MIN ? 2 * order_size(order) : GROWTH_MIN;
    return repl_tree_space_reach(
        txn, (at + (more > least ? more : least)) & ~(order_size(order) - 1), err);
}

/* --- pieces ---------------------------------------------------------------------------------- */

static repl_result piece_find(struct repl_tree_txn *txn, unsigned order, uint64_t *place,
                              bool *found, struct repl_error *err)
{
    unsigned larger = order;
    *found = false;
    for (; larger <= REPL_TREE_ORDER_MAX; larger++) {
        REPL_TRY(free_take(txn, larger, place, found, err));
        if (*found)
            break;
    }
    while (*found && larger > order) {
        larger--;
        REPL_TRY(free_put(txn, larger, *place + order_size(larger), err));
    }
    return REPL_SUCCESS;
}

static void piece_key(const struct repl_tree_block *block, struct repl_tree_key *key)
{
    *key = (struct repl_tree_key){0};
    repl_tree_key_u64(key, block->object);
    repl_tree_key_u8(key, block->is_value != 0);
    repl_tree_key_u64(key, block->offset);
}

repl_result repl_tree_place_take(struct repl_tree_txn *txn, unsigned order,
                                 struct repl_tree_block *block, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    bool found;
    REPL_TRY(piece_find(txn, order, &block->place, &found, err));
    if (!found) {
        REPL_TRY(space_grow(txn, order, err));
        REPL_TRY(piece_find(txn, order, &block->place, &found, err));
        ensure(found);
    }
    block->size = order_size(order);
    repl_tree_key_u64(&key, block->place);
    REPL_TRY(repl_tree_put(txn, REPL_TREE_BLOCK, &key, block, sizeof *block, err));
    piece_key(block, &key);
    return repl_tree_put(txn, REPL_TREE_PIECE, &key, block, sizeof *block, err);
}

repl_result repl_tree_place_give(struct repl_tree_txn *txn, const struct repl_tree_block *block,
                                 struct repl_buffer *pages, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    repl_tree_key_u64(&key, block->place);
    REPL_TRY(repl_tree_del(txn, REPL_TREE_BLOCK, &key, err));
    piece_key(block, &key);
    REPL_TRY(repl_tree_del(txn, REPL_TREE_PIECE, &key, err));
    REPL_TRY(free_merge(txn, repl_tree_order_of(block->size), block->place, err));
    return repl_tree_pages_note(pages, block->place, block->size, err);
}

static bool block_decode(const struct repl_tree_walk *walk, struct repl_tree_block *block)
{
    if (walk->done || walk->value.mv_size != sizeof *block)
        return false;
    memcpy(block, walk->value.mv_data, sizeof *block);
    return true;
}

repl_result repl_tree_place_list(struct repl_tree_txn *txn, uint64_t object, bool values,
                                 struct repl_buffer *blocks, struct repl_error *err)
{
    struct repl_tree_block from = {.object = object, .is_value = values}, block;
    struct repl_tree_key key;
    struct repl_tree_walk walk;
    blocks->size = 0;
    piece_key(&from, &key);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_PIECE, &key, &walk, err);
    while (repl_ok(result) && repl_tree_walk_is_at(&walk, object) && block_decode(&walk, &block) &&
           (block.is_value != 0) == values) {
        result = repl_buffer_append(blocks, &block, sizeof block, err);
        if (repl_ok(result))
            result = repl_tree_walk_next(&walk, err);
    }
    repl_tree_walk_end(&walk);
    return result;
}

static repl_result place_walk(struct repl_tree_txn *txn, uint64_t place, bool back,
                              struct repl_tree_block *block, bool *found, struct repl_error *err)
{
    struct repl_tree_key key = {0};
    struct repl_tree_walk walk;
    repl_tree_key_u64(&key, place);
    repl_result result = repl_tree_walk_begin(txn, REPL_TREE_BLOCK, &key, &walk, err);
    if (repl_ok(result) && back && !repl_tree_walk_is_at(&walk, place))
        result = repl_tree_walk_back(&walk, err);
    *found = repl_ok(result) && block_decode(&walk, block);
    repl_tree_walk_end(&walk);
    return result;
}

repl_result repl_tree_place_find(struct repl_tree_txn *txn, uint64_t place,
                                 struct repl_tree_block *block, bool *found, struct repl_error *err)
{
    REPL_TRY(place_walk(txn, place, true, block, found, err));
    if (*found && block->place + block->size > place)
        return REPL_SUCCESS;
    return place_walk(txn, place, false, block, found, err);
}
