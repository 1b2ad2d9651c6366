/*
 * Keys of LMDB tables that begin with numbers: big-endian, so that they are in
 * the order of the numbers.
 */
#ifndef REPL_AGENT_TREE_KEYS_H
#define REPL_AGENT_TREE_KEYS_H

#include <lmdb.h>
#include <stddef.h>
#include <stdint.h>

static inline MDB_val repl_tree_val(const void *data, size_t size)
{
    return (MDB_val){.mv_size = size, .mv_data = (void *)(uintptr_t)data};
}

/* Numbers of eight bytes each. */
static inline void repl_tree_numbers_put(uint8_t *out, const uint64_t *numbers, size_t count)
{
    for (size_t i = 0; i < count * 8; i++)
        out[i] = (uint8_t)(numbers[i / 8] >> (56 - i % 8 * 8));
}

static inline uint64_t repl_tree_number(const void *bytes)
{
    const uint8_t *at = bytes;
    uint64_t number = 0;
    for (size_t i = 0; i < 8; i++)
        number = number << 8 | at[i];
    return number;
}

#endif
