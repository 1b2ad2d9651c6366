/*
 * Sites that may die, each in a process of its own.
 */
#ifndef TESTS_UNIT_COMPACTOR_LIVES_H
#define TESTS_UNIT_COMPACTOR_LIVES_H

#include <signal.h>
#include <sys/prctl.h>

#include "unit/agent/site/compactor/compactor_world.h"

/* What the site's configuration is made of, out of the parent's world. */
static inline void world_take(const char *path, const char *retention)
{
    static struct world from;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, &from, sizeof from), sizeof from);
    close(fd);
    memcpy(w.store, from.store, sizeof w.store);
    memcpy(w.control, from.control, sizeof w.control);
    memcpy(w.site_key, from.site_key, sizeof w.site_key);
    memcpy(w.fingerprints, from.fingerprints, sizeof w.fingerprints);
    w.retention = retention;
}

static inline void world_give(char path[96])
{
    snprintf(path, 96, "%s/world", w.directory);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &w, sizeof w), sizeof w);
    close(fd);
}

/* This program again, as somebody else, with as, the path of the world, fd and the number for its
 * arguments: of a process with threads, nothing but that is safe. */
static inline pid_t self_spawn(const char *as, int fd, int64_t number)
{
    char world[96], fd_text[16], number_text[32];
    world_give(world);
    snprintf(fd_text, sizeof fd_text, "%d", fd);
    snprintf(number_text, sizeof number_text, "%lld", (long long)number);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("/proc/self/exe", as, world, fd_text, number_text, (char *)NULL);
        _exit(127);
    }
    return pid;
}

#endif
