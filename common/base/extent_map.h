/*
 * A map from offsets to where their bytes are: extents that never overlap,
 * kept in order. The builder uses it so that what is read later in a point
 * replaces what was read earlier, the view so that a newer segment hides an
 * older one.
 *
 * Kept as a sorted directory of sorted leaves (a B+-tree of two levels):
 * finding costs two binary searches, inserting moves at most one leaf, and
 * walking is a scan over arrays. 32 bytes an extent.
 */
#ifndef REPL_BASE_EXTENT_MAP_H
#define REPL_BASE_EXTENT_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "repl/error.h"
#include "repl/format.h"

struct repl_extent {
    uint64_t offset;
    uint64_t length;
    uint64_t source;        /* the caller's: which frame, which chunk, which segment */
    uint32_t source_offset; /* of the extent's first byte; moves along when its head is cut off */
    enum repl_record_type type;
};

struct repl_extent_leaf;

struct repl_extent_map {
    struct repl_extent_leaf **leaves;
    size_t leaf_count;
    size_t leaf_capacity;
    uint64_t extent_count;
};

void repl_extent_map_init(struct repl_extent_map *map);
void repl_extent_map_fini(struct repl_extent_map *map);

/* The new extent wins: what it overlaps is cut or goes. */
REPL_RESULT repl_extent_map_put(struct repl_extent_map *map, const struct repl_extent *extent,
                                struct repl_error *err);
/* What is there wins: only the gaps are filled. */
REPL_RESULT repl_extent_map_fill(struct repl_extent_map *map, const struct repl_extent *extent,
                                 struct repl_error *err);
/* Removes [offset, offset + length). */
REPL_RESULT repl_extent_map_cut(struct repl_extent_map *map, uint64_t offset, uint64_t length,
                                struct repl_error *err);

/* A place in the map; any change to the map ends its validity. */
struct repl_extent_cursor {
    const struct repl_extent_map *map;
    size_t leaf;
    size_t slot;
};

/* At the first extent that ends after offset. */
struct repl_extent_cursor repl_extent_map_seek(const struct repl_extent_map *map, uint64_t offset);
/* The extent there, and on to the next; NULL at the end. */
const struct repl_extent *repl_extent_cursor_next(struct repl_extent_cursor *cursor);

#endif
