/*
 * A bitmap over pages, with a count of the bits set.
 */
#ifndef REPL_BASE_BITMAP_H
#define REPL_BASE_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "repl/error.h"

struct repl_bitmap {
    uint64_t *words;
    uint64_t bit_count; /* size */
    uint64_t set_count; /* how many are set */
};

REPL_RESULT repl_bitmap_init(struct repl_bitmap *bitmap, uint64_t bit_count,
                             struct repl_error *err);
void repl_bitmap_fini(struct repl_bitmap *bitmap);
/* New bits are clear. Never shrinks. */
REPL_RESULT repl_bitmap_grow(struct repl_bitmap *bitmap, uint64_t bit_count,
                             struct repl_error *err);

bool repl_bitmap_test(const struct repl_bitmap *bitmap, uint64_t bit);
void repl_bitmap_set(struct repl_bitmap *bitmap, uint64_t first, uint64_t count);
void repl_bitmap_clear(struct repl_bitmap *bitmap, uint64_t first, uint64_t count);
void repl_bitmap_clear_all(struct repl_bitmap *bitmap);
/* into |= from; the sizes are equal. */
void repl_bitmap_merge(struct repl_bitmap *into, const struct repl_bitmap *from);

/* The first run of set bits at or after from, at most limit long; false: none. */
bool repl_bitmap_next_run(const struct repl_bitmap *bitmap, uint64_t from, uint64_t limit,
                          uint64_t *first, uint64_t *count);

#endif
