/*
 * The two-level bitmaps that the tracking programs set bits in, as the agent
 * takes bits out of them: plain memory, shared with the kernel.
 *
 * No bit is ever lost, by the order of two writes on each side. The programs set
 * the leaf bit first and the summary bit second; the agent clears the summary
 * word first and takes the leaf words second. All four are atomic and ordered.
 * Take a leaf bit set at time a, its summary bit at b > a, and an agent that
 * clears the summary at s and takes the leaf word at l > s. If a < l, the bit is
 * taken now. If a > l, then b > a > l > s: the summary bit is set again after it
 * was cleared and is found next time. (a < l and b > s: the bit is taken, and a
 * summary bit is left that leads to nothing, which is harmless.) And where the
 * summary bit was not seen set at s, b > s, so it is found next time as well.
 *
 * An agent that dies between s and l leaves a leaf bit without a summary bit. So
 * who opens an old set looks at every word once: repl_track_bits_rebuild.
 *
 * What is taken out of landed goes into taken first, and stays there until the
 * caller says what of it is safe: a bit is always in one of them, so an agent
 * that dies loses none that it had only read.
 */
#ifndef REPL_AGENT_TRACK_BITS_H
#define REPL_AGENT_TRACK_BITS_H

#include <stddef.h>
#include <stdint.h>

#include "base/bitmap.h"

struct repl_track_bits {
    uint64_t *leaf;
    uint64_t *summary;
    uint64_t leaf_words; /* a multiple of 64 * REPL_TRACK_LINE_WORDS */
};

/* The bitmap of that number among those that lie one after the other from base. */
struct repl_track_bits repl_track_bits_at(uint64_t *base, uint64_t capacity_pages, unsigned area);

/* What is in from is ORed into taken and into, and cleared. Costs what is set, and a scan of the
 * summary (64 KiB a TiB). Bits past the end of into stay. One caller at a time. */
void repl_track_bits_move(const struct repl_track_bits *from, const struct repl_track_bits *taken,
                          struct repl_bitmap *into);
void repl_track_bits_or_into(const struct repl_track_bits *from, struct repl_bitmap *into);
void repl_track_bits_add(const struct repl_track_bits *bits, const struct repl_bitmap *added);
/* Leaves only what one of keep has, which may be of any size. Costs what is set. For bitmaps that
 * nobody else writes at the time. */
void repl_track_bits_retain(const struct repl_track_bits *bits,
                            const struct repl_bitmap *const *keep, size_t count);
void repl_track_bits_clear(const struct repl_track_bits *bits);
void repl_track_bits_rebuild(const struct repl_track_bits *bits);

/* What the programs do, for tests without a kernel. */
void repl_track_bits_set(const struct repl_track_bits *bits, uint64_t page);

#endif
