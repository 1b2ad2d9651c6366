/* Files in the tree of a rig. */
#ifndef REPL_TEST_TREE_FILES_H
#define REPL_TEST_TREE_FILES_H

#include "unit/agent/source/tree/tree_rig.h"

/* Its path. */
static inline void at(const struct rig *rig, char out[400], const char *name)
{
    snprintf(out, 400, "%s/%s", rig->top, name);
}

static inline void put(const struct rig *rig, const char *name, const char *text)
{
    char path[400];
    at(rig, path, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

#endif
