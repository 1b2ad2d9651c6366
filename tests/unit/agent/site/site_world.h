/*
 * A whole site for each test, at which nobody has been yet: for those of its
 * tests that need no other configuration.
 */
#ifndef TESTS_UNIT_SITE_WORLD_H
#define TESTS_UNIT_SITE_WORLD_H

#include "unit/agent/site/site_fixture.h"

static inline int site_setup(void **state)
{
    static struct world world;
    world_init(&world, NULL);
    site_start(&world);
    *state = &world;
    return 0;
}

static inline int site_teardown(void **state)
{
    world_fini(*state);
    return 0;
}

#define SITE_TEST(name) cmocka_unit_test_setup_teardown(name, site_setup, site_teardown)

/* The segment behind the head, of 4 MiB. */
static inline void build_big(struct build *b, struct world *w)
{
    build_begin(b, w, w->head.to_seq, w->head.to_seq + 1, 0);
    for (unsigned i = 0; i < 4; i++)
        build_data(b, (uint64_t)i * MIB, MIB);
    build_end(b, true);
}

static inline void build_with_missing(struct build *b, struct world *w, uint8_t *chunks)
{
    random_fill(&w->random, chunks, 2 * REPL_CHUNK_SIZE);
    build_begin(b, w, 1, 2, 0);
    build_data(b, 0, MIB);
    build_chunk(b, 2 * MIB, REPL_CHUNK_SIZE, chunks, 0);
    build_chunk(b, 3 * MIB, REPL_CHUNK_SIZE, chunks + REPL_CHUNK_SIZE, 0);
    build_chunk(b, 4 * MIB, 2 * REPL_PAGE_SIZE, chunks, REPL_PAGE_SIZE);
    build_end(b, true);
}

static inline bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

#endif
