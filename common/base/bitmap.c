#include "base/bitmap.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"

static uint64_t words_for(uint64_t bit_count)
{
    return (bit_count + 63) / 64;
}

static bool words_grow(uint64_t **words, uint64_t before, uint64_t after)
{
    if (after <= before)
        return true;
    uint64_t *grown = realloc(*words, after * sizeof *grown);
    if (grown == NULL)
        return false;
    memset(grown + before, 0, (after - before) * sizeof *grown);
    *words = grown;
    return true;
}

repl_result repl_bitmap_init(struct repl_bitmap *bitmap, uint64_t bit_count, struct repl_error *err)
{
    *bitmap = (struct repl_bitmap){0};
    return repl_bitmap_grow(bitmap, bit_count, err);
}

void repl_bitmap_fini(struct repl_bitmap *bitmap)
{
    free(bitmap->words);
    free(bitmap->summary);
    *bitmap = (struct repl_bitmap){0};
}

repl_result repl_bitmap_grow(struct repl_bitmap *bitmap, uint64_t bit_count, struct repl_error *err)
{
    ensure(bit_count >= bitmap->bit_count);
    uint64_t old_words = words_for(bitmap->bit_count), new_words = words_for(bit_count);
    if (!words_grow(&bitmap->words, old_words, new_words) ||
        !words_grow(&bitmap->summary, words_for(old_words), words_for(new_words)))
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a bitmap of %llu pages",
                         (unsigned long long)bit_count);
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

static void word_set(struct repl_bitmap *bitmap, uint64_t word, uint64_t bits)
{
    bitmap->set_count += (uint64_t)__builtin_popcountll(bits & ~bitmap->words[word]);
    bitmap->words[word] |= bits;
    bitmap->summary[word / 64] |= (uint64_t)(bits != 0) << word % 64;
}

void repl_bitmap_set_word(struct repl_bitmap *bitmap, uint64_t word, uint64_t bits)
{
    uint64_t left = bitmap->bit_count - word * 64;
    ensure(word * 64 < bitmap->bit_count && (left >= 64 || bits >> left == 0));
    word_set(bitmap, word, bits);
}

void repl_bitmap_set(struct repl_bitmap *bitmap, uint64_t first, uint64_t count)
{
    ensure(first <= bitmap->bit_count && count <= bitmap->bit_count - first);
    for (uint64_t covered; count > 0; first += covered, count -= covered)
        word_set(bitmap, first / 64, word_mask(first, count, &covered));
}

void repl_bitmap_clear(struct repl_bitmap *bitmap, uint64_t first, uint64_t count)
{
    ensure(first <= bitmap->bit_count && count <= bitmap->bit_count - first);
    for (uint64_t covered; count > 0; first += covered, count -= covered) {
        uint64_t mask = word_mask(first, count, &covered);
        uint64_t *word = &bitmap->words[first / 64];
        bitmap->set_count -= (uint64_t)__builtin_popcountll(mask & *word);
        *word &= ~mask;
        bitmap->summary[first / 4096] &= ~((uint64_t)(*word == 0) << first / 64 % 64);
    }
}

void repl_bitmap_clear_all(struct repl_bitmap *bitmap)
{
    uint64_t count = words_for(bitmap->bit_count);
    if (count > 0) {
        memset(bitmap->words, 0, count * sizeof *bitmap->words);
        memset(bitmap->summary, 0, words_for(count) * sizeof *bitmap->summary);
    }
    bitmap->set_count = 0;
}

void repl_bitmap_merge(struct repl_bitmap *into, const struct repl_bitmap *from)
{
    ensure(into->bit_count == from->bit_count);
    for (uint64_t i = 0; i < words_for(into->bit_count); i++)
        word_set(into, i, from->words[i]);
}

/* The first bit at or after from that is set in words, or clear (flip: all ones); end: none. */
static uint64_t find_bit(const uint64_t *words, uint64_t from, uint64_t end, uint64_t flip)
{
    for (uint64_t i = from / 64; from < end; from = ++i * 64) {
        uint64_t word = (words[i] ^ flip) & UINT64_MAX << from % 64;
        if (word != 0) {
            uint64_t bit = i * 64 + (uint64_t)__builtin_ctzll(word);
            return bit < end ? bit : end;
        }
    }
    return end;
}

static uint64_t find_set(const struct repl_bitmap *bitmap, uint64_t from)
{
    uint64_t end = bitmap->bit_count, here = (from / 64 + 1) * 64;
    uint64_t bit = find_bit(bitmap->words, from, here < end ? here : end, 0);
    if (bit < here || here >= end)
        return bit;
    uint64_t word = find_bit(bitmap->summary, here / 64, words_for(end), 0);
    return find_bit(bitmap->words, word * 64, end, 0);
}

bool repl_bitmap_next_run(const struct repl_bitmap *bitmap, uint64_t from, uint64_t limit,
                          uint64_t *first, uint64_t *count)
{
    ensure(limit > 0);
    if (from >= bitmap->bit_count)
        return false;
    *first = find_set(bitmap, from);
    if (*first >= bitmap->bit_count)
        return false;
    /* No further than asked: else taking a long run piece by piece would be quadratic. */
    uint64_t left = bitmap->bit_count - *first;
    uint64_t end = *first + (limit < left ? limit : left);
    *count = find_bit(bitmap->words, *first, end, UINT64_MAX) - *first;
    return true;
}
