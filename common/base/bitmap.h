/*
 * A bitmap over pages, with a count of the bits set, and a second level above it
 * so that looking for a few bits among many costs a 64th of it: a volume of 1 TiB
 * has 32 MiB of bits and 512 KiB of those above.
 */
#ifndef REPL_BASE_BITMAP_H
#define REPL_BASE_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "repl/error.h"

struct repl_bitmap {
    uint64_t *words;    /* read by all, changed in here only */
    uint64_t *summary;  /* a bit for each word that is not 0 */
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
/* Those of bits, at 64 * word and behind. */
void repl_bitmap_set_word(struct repl_bitmap *bitmap, uint64_t word, uint64_t bits);
void repl_bitmap_clear(struct repl_bitmap *bitmap, uint64_t first, uint64_t count);
void repl_bitmap_clear_all(struct repl_bitmap *bitmap);
/* into |= from; the sizes are equal. */
void repl_bitmap_merge(struct repl_bitmap *into, const struct repl_bitmap *from);

/* The first run of set bits at or after from, at most limit long; false: none. */
bool repl_bitmap_next_run(const struct repl_bitmap *bitmap, uint64_t from, uint64_t limit,
                          uint64_t *first, uint64_t *count);

#endif
