/*
 * A directory for one test, removed with all that is in it.
 */
#ifndef TESTS_UNIT_TEMPORARY_H
#define TESTS_UNIT_TEMPORARY_H

#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

struct temporary {
    char path[256];
};

/* 0, or -1: as a cmocka fixture returns it. */
static inline int temporary_make(struct temporary *temporary)
{
    const char *parent = getenv("TMPDIR");
    snprintf(temporary->path, sizeof temporary->path, "%s/repl-test-XXXXXX",
             parent != NULL ? parent : "/tmp");
    return mkdtemp(temporary->path) != NULL ? 0 : -1;
}

static inline int temporary_visit(const char *path, const struct stat *status, int type,
                                  struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    return remove(path);
}

static inline void temporary_remove(struct temporary *temporary)
{
    nftw(temporary->path, temporary_visit, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
