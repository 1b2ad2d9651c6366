#include "base/extent_map.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"

#define LEAF_CAPACITY 128

/* Never empty while it is in the directory. */
struct repl_extent_leaf {
    size_t count;
    struct repl_extent extents[LEAF_CAPACITY];
};

static uint64_t extent_end(const struct repl_extent *extent)
{
    return extent->offset + extent->length;
}

void repl_extent_map_init(struct repl_extent_map *map)
{
    *map = (struct repl_extent_map){0};
}

void repl_extent_map_fini(struct repl_extent_map *map)
{
    for (size_t i = 0; i < map->leaf_count; i++)
        free(map->leaves[i]);
    free(map->leaves);
    repl_extent_map_init(map);
}

struct repl_extent_cursor repl_extent_map_seek(const struct repl_extent_map *map, uint64_t offset)
{
    size_t low = 0, high = map->leaf_count;
    while (low < high) { /* the first leaf whose last extent ends after offset */
        size_t middle = low + (high - low) / 2;
        const struct repl_extent_leaf *leaf = map->leaves[middle];
        if (extent_end(&leaf->extents[leaf->count - 1]) > offset)
            high = middle;
        else
            low = middle + 1;
    }
    struct repl_extent_cursor cursor = {.map = map, .leaf = low};
    if (low == map->leaf_count)
        return cursor;
    const struct repl_extent_leaf *leaf = map->leaves[low];
    size_t first = 0, last = leaf->count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (extent_end(&leaf->extents[middle]) > offset)
            last = middle;
        else
            first = middle + 1;
    }
    cursor.slot = first;
    return cursor;
}

const struct repl_extent *repl_extent_cursor_next(struct repl_extent_cursor *cursor)
{
    if (cursor->leaf == cursor->map->leaf_count)
        return NULL;
    const struct repl_extent_leaf *leaf = cursor->map->leaves[cursor->leaf];
    const struct repl_extent *extent = &leaf->extents[cursor->slot];
    if (++cursor->slot == leaf->count) {
        cursor->leaf++;
        cursor->slot = 0;
    }
    return extent;
}

static repl_result directory_insert(struct repl_extent_map *map, size_t at,
                                    struct repl_extent_leaf **out, struct repl_error *err)
{
    if (map->leaf_count == map->leaf_capacity) {
        size_t capacity = map->leaf_capacity ? 2 * map->leaf_capacity : 8;
        struct repl_extent_leaf **leaves = realloc(map->leaves, capacity * sizeof *leaves);
        if (leaves == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for an extent map of %llu extents",
                             (unsigned long long)map->extent_count);
        map->leaves = leaves;
        map->leaf_capacity = capacity;
    }
    struct repl_extent_leaf *leaf = malloc(sizeof *leaf);
    if (leaf == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for an extent map of %llu extents",
                         (unsigned long long)map->extent_count);
    leaf->count = 0;
    memmove(&map->leaves[at + 1], &map->leaves[at], (map->leaf_count - at) * sizeof *map->leaves);
    map->leaves[at] = leaf;
    map->leaf_count++;
    *out = leaf;
    return REPL_SUCCESS;
}

/* Puts an extent that overlaps nothing where the cursor stands: before the extent there. */
static repl_result insert_at(struct repl_extent_map *map, struct repl_extent_cursor at,
                             const struct repl_extent *extent, struct repl_error *err)
{
    struct repl_extent_leaf *leaf;
    if (at.leaf == map->leaf_count && map->leaf_count > 0) { /* behind all: into the last leaf */
        at.leaf--;
        at.slot = map->leaves[at.leaf]->count;
    }
    if (map->leaf_count == 0) {
        REPL_TRY(directory_insert(map, 0, &leaf, err));
        at.leaf = at.slot = 0;
    }
    leaf = map->leaves[at.leaf];
    if (leaf->count == LEAF_CAPACITY) {
        /* Filled from the left is the common case: then the full leaf stays full. */
        size_t keep = at.slot == LEAF_CAPACITY ? LEAF_CAPACITY : LEAF_CAPACITY / 2;
        struct repl_extent_leaf *right;
        REPL_TRY(directory_insert(map, at.leaf + 1, &right, err));
        right->count = LEAF_CAPACITY - keep;
        memcpy(right->extents, &leaf->extents[keep], right->count * sizeof *right->extents);
        leaf->count = keep;
        if (at.slot > keep || keep == LEAF_CAPACITY) {
            at.slot -= keep;
            leaf = right;
        }
    }
    memmove(&leaf->extents[at.slot + 1], &leaf->extents[at.slot],
            (leaf->count - at.slot) * sizeof *leaf->extents);
    leaf->extents[at.slot] = *extent;
    leaf->count++;
    map->extent_count++;
    return REPL_SUCCESS;
}

static void remove_at(struct repl_extent_map *map, struct repl_extent_cursor at)
{
    struct repl_extent_leaf *leaf = map->leaves[at.leaf];
    leaf->count--;
    memmove(&leaf->extents[at.slot], &leaf->extents[at.slot + 1],
            (leaf->count - at.slot) * sizeof *leaf->extents);
    map->extent_count--;
    if (leaf->count > 0)
        return;
    free(leaf);
    map->leaf_count--;
    memmove(&map->leaves[at.leaf], &map->leaves[at.leaf + 1],
            (map->leaf_count - at.leaf) * sizeof *map->leaves);
}

/* The part of an extent from offset on. */
static struct repl_extent extent_tail(const struct repl_extent *extent, uint64_t offset)
{
    struct repl_extent tail = *extent;
    uint64_t cut = offset - extent->offset;
    tail.offset = offset;
    tail.length -= cut;
    if (tail.type != REPL_RECORD_ZERO)
        tail.source_offset += (uint32_t)cut;
    return tail;
}

repl_result repl_extent_map_cut(struct repl_extent_map *map, uint64_t offset, uint64_t length,
                                struct repl_error *err)
{
    uint64_t end = offset + length;
    ensure(end >= offset);
    while (offset < end) {
        struct repl_extent_cursor at = repl_extent_map_seek(map, offset);
        if (at.leaf == map->leaf_count)
            return REPL_SUCCESS;
        struct repl_extent *extent = &map->leaves[at.leaf]->extents[at.slot];
        if (extent->offset >= end)
            return REPL_SUCCESS;
        if (extent->offset < offset) {
            if (extent_end(extent) > end) { /* a hole in its middle */
                struct repl_extent tail = extent_tail(extent, end);
                extent->length = offset - extent->offset;
                return insert_at(map, repl_extent_map_seek(map, offset), &tail, err);
            }
            extent->length = offset - extent->offset;
        } else if (extent_end(extent) > end) {
            *extent = extent_tail(extent, end);
            return REPL_SUCCESS;
        } else {
            remove_at(map, at);
        }
    }
    return REPL_SUCCESS;
}

repl_result repl_extent_map_put(struct repl_extent_map *map, const struct repl_extent *extent,
                                struct repl_error *err)
{
    ensure(extent->length > 0);
    REPL_TRY(repl_extent_map_cut(map, extent->offset, extent->length, err));
    return insert_at(map, repl_extent_map_seek(map, extent->offset), extent, err);
}

repl_result repl_extent_map_fill(struct repl_extent_map *map, const struct repl_extent *extent,
                                 struct repl_error *err)
{
    struct repl_extent rest = *extent;
    uint64_t end = extent_end(extent);
    while (rest.length > 0) {
        struct repl_extent_cursor at = repl_extent_map_seek(map, rest.offset);
        struct repl_extent_cursor look = at;
        const struct repl_extent *there = repl_extent_cursor_next(&look);
        uint64_t gap_end = there == NULL || there->offset > end ? end : there->offset;
        uint64_t next = there == NULL || extent_end(there) > end ? end : extent_end(there);
        if (gap_end == end)
            next = end;
        if (gap_end > rest.offset) {
            struct repl_extent piece = rest;
            piece.length = gap_end - rest.offset;
            REPL_TRY(insert_at(map, at, &piece, err));
        }
        rest = extent_tail(&rest, next);
    }
    return REPL_SUCCESS;
}
