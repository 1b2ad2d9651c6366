/*
 * An index on a real LMDB file, in a directory of its own: for the tests of the index.
 */
#ifndef TESTS_UNIT_INDEX_FIXTURE_H
#define TESTS_UNIT_INDEX_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "site/index/index.h"
#include "site/index/index_internal.h"
#include "unit/temporary.h"

#define PATH_SIZE 512

struct fixture {
    struct temporary temporary;
    char path[PATH_SIZE];
    struct repl_index *index;
    struct repl_error err;
};

static inline void assert_code(const struct fixture *f, repl_result result, enum repl_code code)
{
    if (result.code != code)
        print_error("%s where %s was expected: %s\n", repl_code_name(result.code),
                    repl_code_name(code), f->err.text);
    assert_int_equal(result.code, code);
}

static inline void good(const struct fixture *f, repl_result result)
{
    assert_code(f, result, REPL_OK);
}

static inline int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (temporary_make(&f->temporary) != 0)
        return -1;
    snprintf(f->path, sizeof f->path, "%s/index", f->temporary.path);
    good(f, repl_index_open(f->path, true, &f->index, &f->err));
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;
    repl_index_close(f->index);
    temporary_remove(&f->temporary);
    free(f);
    return 0;
}

static inline uint64_t entry_count(struct fixture *f)
{
    uint64_t count;
    good(f, repl_index_entry_count(f->index, &count, &f->err));
    return count;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
