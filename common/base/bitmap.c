#include "base/bitmap.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"

static uint64_t words_for(uint64_t bit_count)
{
    return (bit_count + 63) / 64;
}

repl_result repl_bitmap_init(struct repl_bitmap *bitmap, uint64_t bit_count, struct repl_error *err)
{
    *bitmap = (struct repl_bitmap){0};
    return repl_bitmap_grow(bitmap, bit_count, err);
}

void repl_bitmap_fini(struct repl_bitmap *bitmap)
{
    free(bitmap->words);
    *bitmap = (struct repl_bitmap){0};
}

repl_result repl_bitmap_grow(struct repl_bitmap *bitmap, uint64_t bit_count, struct repl_error *err)
{
    ensure(bit_count >= bitmap->bit_count);
    uint64_t old_words = words_for(bitmap->bit_count), new_words = words_for(bit_count);
    if (new_words > old_words) {
        uint64_t *words = realloc(bitmap->words, new_words * sizeof *words);
        if (words == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for a bitmap of %llu pages",
                             (unsigned long long)bit_count);
        memset(words + old_words, 0, (new_words - old_words) * sizeof *words);
        bitmap->words = words;
    }
    bitmap->bit_count = bit_count;
    return REPL_SUCCESS;
}

bool repl_bitmap_test(const struct repl_bitmap *bitmap, uint64_t bit)
{
    ensure(bit < bitmap->bit_count);
    return bitmap->words[bit / 64] >> bit % 64 & 1;
}

/* The bits of one word that lie in [first, first + count), and how many bits of the range that is.
 */
static uint64_t word_mask(uint64_t first, uint64_t count, uint64_t *covered)
{
    uint64_t low = first % 64;
    *covered = count < 64 - low ? count : 64 - low;
    return (*covered == 64 ? UINT64_MAX : (UINT64_C(1) << *covered) - 1) << low;
}

void repl_bitmap_set(struct repl_bitmap *bitmap, uint64_t first, uint64_t count)
{
    ensure(first <= bitmap->bit_count && count <= bitmap->bit_count - first);
    for (uint64_t covered; count > 0; first += covered, count -= covered) {
        uint64_t mask = word_mask(first, count, &covered);
        uint64_t *word = &bitmap->words[first / 64];
        bitmap->set_count += (uint64_t)__builtin_popcountll(mask & ~*word);
        *word |= mask;
    }
}

void repl_bitmap_clear(struct repl_bitmap *bitmap, uint64_t first, uint64_t count)
{
    ensure(first <= bitmap->bit_count && count <= bitmap->bit_count - first);
    for (uint64_t covered; count > 0; first += covered, count -= covered) {
        uint64_t mask = word_mask(first, count, &covered);
        uint64_t *word = &bitmap->words[first / 64];
        bitmap->set_count -= (uint64_t)__builtin_popcountll(mask & *word);
        *word &= ~mask;
    }
}

void repl_bitmap_clear_all(struct repl_bitmap *bitmap)
{
    if (bitmap->words != NULL)
        memset(bitmap->words, 0, words_for(bitmap->bit_count) * sizeof *bitmap->words);
    bitmap->set_count = 0;
}

void repl_bitmap_merge(struct repl_bitmap *into, const struct repl_bitmap *from)
{
    ensure(into->bit_count == from->bit_count);
    for (uint64_t i = 0; i < words_for(into->bit_count); i++) {
        into->set_count += (uint64_t)__builtin_popcountll(from->words[i] & ~into->words[i]);
        into->words[i] |= from->words[i];
    }
}

/* The first bit in [from, end) whose value is wanted; end: none. */
static uint64_t find_bit(const struct repl_bitmap *bitmap, uint64_t from, uint64_t end, bool wanted)
{
    uint64_t flip = wanted ? 0 : UINT64_MAX;
    for (uint64_t i = from / 64; from < end; from = ++i * 64) {
        uint64_t word = (bitmap->words[i] ^ flip) & UINT64_MAX << from % 64;
        if (word != 0) {
            uint64_t bit = i * 64 + (uint64_t)__builtin_ctzll(word);
            return bit < end ? bit : end;
        }
    }
    return end;
}

bool repl_bitmap_next_run(const struct repl_bitmap *bitmap, uint64_t from, uint64_t limit,
                          uint64_t *first, uint64_t *count)
{
    ensure(limit > 0);
    *first = find_bit(bitmap, from, bitmap->bit_count, true);
    if (*first >= bitmap->bit_count)
        return false;
    /* No further than asked: else taking a long run piece by piece would be quadratic. */
    uint64_t left = bitmap->bit_count - *first;
    *count = find_bit(bitmap, *first, *first + (limit < left ? limit : left), false) - *first;
    return true;
}
