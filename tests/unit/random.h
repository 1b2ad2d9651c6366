/*
 * Repeatable random numbers for tests (splitmix64). A test prints its seed, and takes another
 * from the environment: REPL_TEST_SEED=1234 test_extent_map.
 */
#ifndef TESTS_UNIT_RANDOM_H
#define TESTS_UNIT_RANDOM_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct random {
    uint64_t state;
};

static inline struct random random_begin(const char *what, uint64_t seed)
{
    const char *text = getenv("REPL_TEST_SEED");
    if (text != NULL)
        seed = strtoull(text, NULL, 0);
    printf("%s: REPL_TEST_SEED=%" PRIu64 "\n", what, seed);
    return (struct random){seed};
}

static inline uint64_t random_next(struct random *random)
{
    uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* 0 <= result < limit */
static inline uint64_t random_below(struct random *random, uint64_t limit)
{
    return random_next(random) % limit;
}

static inline void random_fill(struct random *random, void *out, size_t size)
{
    uint8_t *bytes = out;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)random_next(random);
}

#endif
