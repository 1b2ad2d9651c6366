/*
 * Makes the agent overlook what changes in a tree. For as long as the file
 * $TREE_DEAF is there, nothing of what is heard reaches it; how much that was is
 * appended to the file, a line each time. While $TREE_DEAF.audit is there, all names
 * are looked at every second.
 */
#include "tree_deaf.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "source/tree/tree_dirty.h"
#include "source/tree/tree_watch.h"

repl_result __real_repl_tree_watch_drain(struct repl_tree_watch *watch,
                                         struct repl_tree_heard *heard, struct repl_error *err);
repl_result __wrap_repl_tree_watch_drain(struct repl_tree_watch *watch,
                                         struct repl_tree_heard *heard, struct repl_error *err);
repl_result __real_repl_tree_dirty_take(struct repl_tree_dirty *dirty, struct repl_buffer *marks,
                                        bool *lost, struct repl_error *err);
repl_result __wrap_repl_tree_dirty_take(struct repl_tree_dirty *dirty, struct repl_buffer *marks,
                                        bool *lost, struct repl_error *err);

/* -1: all is heard. */
static int deaf_open(void)
{
    const char *path = getenv("TREE_DEAF");
    return path != NULL ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
}

repl_result __wrap_repl_tree_watch_drain(struct repl_tree_watch *watch,
                                         struct repl_tree_heard *heard, struct repl_error *err)
{
    int fd = deaf_open();
    if (fd < 0)
        return __real_repl_tree_watch_drain(watch, heard, err);
    struct repl_tree_heard overlooked = {0};
    repl_result result = __real_repl_tree_watch_drain(watch, &overlooked, err);
    if (overlooked.count > 0)
        dprintf(fd, "%zu\n", overlooked.count);
    repl_tree_heard_fini(&overlooked);
    close(fd);
    return result;
}

repl_result __wrap_repl_tree_dirty_take(struct repl_tree_dirty *dirty, struct repl_buffer *marks,
                                        bool *lost, struct repl_error *err)
{
    int fd = deaf_open();
    if (fd < 0)
        return __real_repl_tree_dirty_take(dirty, marks, lost, err);
    struct repl_buffer overlooked = {0};
    repl_result result = __real_repl_tree_dirty_take(dirty, &overlooked, lost, err);
    if (overlooked.size > 0)
        dprintf(fd, "%zu\n", overlooked.size / sizeof(struct repl_tree_mark));
    repl_buffer_fini(&overlooked);
    close(fd);
    return result;
}

int64_t tree_deaf_audit_ns(void)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s.audit", getenv("TREE_DEAF"));
    return access(path, F_OK) == 0 ? INT64_C(1000000000) : INT64_MAX;
}
