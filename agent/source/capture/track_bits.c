#include "source/capture/track_bits.h"

#include <stddef.h>

#include "base/ensure.h"
#include "source/capture/track_layout.h"

struct repl_track_bits repl_track_bits_at(uint64_t *base, uint64_t capacity_pages, unsigned area)
{
    ensure(capacity_pages % REPL_TRACK_UNIT_PAGES == 0);
    uint64_t leaf_words = capacity_pages / 64;
    uint64_t area_words = leaf_words + leaf_words / REPL_TRACK_LINE_PAGES;
    uint64_t *leaf = base + area * area_words;
    return (struct repl_track_bits){
        .leaf = leaf, .summary = leaf + leaf_words, .leaf_words = leaf_words};
}

/* The part of a leaf word that lies within the bitmap; 0: it begins past its end. */
static uint64_t word_within(const struct repl_bitmap *bitmap, uint64_t word)
{
    uint64_t first = word * 64;
    if (first >= bitmap->bit_count)
        return 0;
    uint64_t left = bitmap->bit_count - first;
    return left >= 64 ? UINT64_MAX : (UINT64_C(1) << left) - 1;
}

static void summary_set(const struct repl_track_bits *bits, uint64_t word)
{
    uint64_t line = word / REPL_TRACK_LINE_WORDS;
    __atomic_fetch_or(&bits->summary[line / 64], UINT64_C(1) << line % 64, __ATOMIC_SEQ_CST);
}

static void word_or(const struct repl_track_bits *bits, uint64_t word, uint64_t set)
{
    __atomic_fetch_or(&bits->leaf[word], set, __ATOMIC_SEQ_CST);
    summary_set(bits, word);
}

/* Only what is in taken already is cleared: a bit that the kernel sets in between stays. Returns
 * whether something past the end of into is left. */
static bool word_move(const struct repl_track_bits *from, const struct repl_track_bits *taken,
                      struct repl_bitmap *into, uint64_t word)
{
    uint64_t set = __atomic_load_n(&from->leaf[word], __ATOMIC_SEQ_CST);
    uint64_t within = set & word_within(into, word);
    if (within != 0) {
        word_or(taken, word, within);
        __atomic_fetch_and(&from->leaf[word], ~within, __ATOMIC_SEQ_CST);
        repl_bitmap_set_word(into, word, within);
    }
    return set != within;
}

void repl_track_bits_move(const struct repl_track_bits *from, const struct repl_track_bits *taken,
                          struct repl_bitmap *into)
{
    uint64_t summary_words = from->leaf_words / REPL_TRACK_LINE_PAGES;
    for (uint64_t i = 0; i < summary_words; i++) {
        /* looking first keeps a scan over what did not change from dirtying its cache lines */
        if (__atomic_load_n(&from->summary[i], __ATOMIC_SEQ_CST) == 0)
            continue;
        uint64_t lines = __atomic_exchange_n(&from->summary[i], 0, __ATOMIC_SEQ_CST);
        for (; lines != 0; lines &= lines - 1) {
            uint64_t line = i * 64 + (uint64_t)__builtin_ctzll(lines);
            uint64_t word = line * REPL_TRACK_LINE_WORDS, end = word + REPL_TRACK_LINE_WORDS;
            bool left = false;
            for (; word < end; word++)
                left |= word_move(from, taken, into, word);
            if (left)
                summary_set(from, end - 1);
        }
    }
}

void repl_track_bits_or_into(const struct repl_track_bits *from, struct repl_bitmap *into)
{
    uint64_t summary_words = from->leaf_words / REPL_TRACK_LINE_PAGES;
    for (uint64_t i = 0; i < summary_words; i++) {
        uint64_t lines = __atomic_load_n(&from->summary[i], __ATOMIC_SEQ_CST);
        for (; lines != 0; lines &= lines - 1) {
            uint64_t line = i * 64 + (uint64_t)__builtin_ctzll(lines);
            uint64_t word = line * REPL_TRACK_LINE_WORDS, end = word + REPL_TRACK_LINE_WORDS;
            for (; word < end; word++) {
                uint64_t set = __atomic_load_n(&from->leaf[word], __ATOMIC_SEQ_CST);
                set &= word_within(into, word);
                if (set != 0)
                    repl_bitmap_set_word(into, word, set);
            }
        }
    }
}

/* Leaves of a summary bit's line what is in one of keep. */
static void line_retain(const struct repl_track_bits *bits, uint64_t line,
                        const struct repl_bitmap *const *keep, size_t count)
{
    uint64_t word = line * REPL_TRACK_LINE_WORDS, end = word + REPL_TRACK_LINE_WORDS;
    bool left = false;
    for (; word < end; word++) {
        uint64_t wanted = 0;
        for (size_t i = 0; i < count; i++) {
            uint64_t within = word_within(keep[i], word);
            wanted |= within != 0 ? keep[i]->words[word] & within : 0;
        }
        left |= (__atomic_and_fetch(&bits->leaf[word], wanted, __ATOMIC_SEQ_CST)) != 0;
    }
    if (!left)
        __atomic_fetch_and(&bits->summary[line / 64], ~(UINT64_C(1) << line % 64),
                           __ATOMIC_SEQ_CST);
}

void repl_track_bits_add(const struct repl_track_bits *bits, const struct repl_bitmap *added)
{
    uint64_t words = (added->bit_count + 63) / 64;
    ensure(words <= bits->leaf_words);
    for (uint64_t word = 0; word < words; word++)
        if (added->words[word] != 0)
            word_or(bits, word, added->words[word] & word_within(added, word));
}

void repl_track_bits_retain(const struct repl_track_bits *bits,
                            const struct repl_bitmap *const *keep, size_t count)
{
    uint64_t summary_words = bits->leaf_words / REPL_TRACK_LINE_PAGES;
    for (uint64_t i = 0; i < summary_words; i++) {
        uint64_t lines = __atomic_load_n(&bits->summary[i], __ATOMIC_SEQ_CST);
        for (; lines != 0; lines &= lines - 1)
            line_retain(bits, i * 64 + (uint64_t)__builtin_ctzll(lines), keep, count);
    }
}

void repl_track_bits_clear(const struct repl_track_bits *bits)
{
    repl_track_bits_retain(bits, NULL, 0);
}

void repl_track_bits_rebuild(const struct repl_track_bits *bits)
{
    for (uint64_t word = 0; word < bits->leaf_words; word++)
        if (__atomic_load_n(&bits->leaf[word], __ATOMIC_SEQ_CST) != 0)
            summary_set(bits, word);
}

void repl_track_bits_set(const struct repl_track_bits *bits, uint64_t page)
{
    ensure(page / 64 < bits->leaf_words);
    word_or(bits, page / 64, UINT64_C(1) << page % 64);
}
