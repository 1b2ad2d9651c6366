/*
 * The directories of the target, as one thread has them open: found by their
 * objects, and reached name by name from the one that is restored to, so that
 * no path is ever too long and no name, mount point or symbolic link leads out
 * of it.
 */
#ifndef REPL_AGENT_TREE_DIRS_H
#define REPL_AGENT_TREE_DIRS_H

#include "base/cursor.h"
#include "recover/tree_plan.h"

#define REPL_TREE_DIRS_OPEN 32u

/* Where a directory is: a name in another one, which may not lead round in circles. The name stays
 * until the next call. */
typedef repl_result repl_tree_where_fn(void *context, uint64_t object,
                                       struct repl_tree_place *place, bool *found,
                                       struct repl_error *err);

struct repl_tree_dirs {
    repl_tree_where_fn *where;
    void *context;
    uint64_t root;
    int root_fd; /* the caller's; -1: it does not exist */
    struct {
        uint64_t object; /* 0: empty */
        int fd;
        uint64_t used;
    } open[REPL_TREE_DIRS_OPEN];
    uint64_t clock;
    struct repl_buffer chain; /* scratch */
};

void repl_tree_dirs_init(struct repl_tree_dirs *dirs, repl_tree_where_fn *where, void *context,
                         uint64_t root, int root_fd);
void repl_tree_dirs_fini(struct repl_tree_dirs *dirs);
/* *fd is valid until the next call; -1: it, or one above it, is not there, or is no directory. */
REPL_RESULT repl_tree_dirs_get(struct repl_tree_dirs *dirs, uint64_t object, int *fd,
                               struct repl_error *err);

/* Opens what is right there in the directory: no link is followed, no mount point crossed. -1 and
 * errno: EXDEV where something is mounted. */
int repl_tree_openat(int directory, const char *name, int flags);

/* What the caller does about an error of a system call, by its code: REPL_E_REFUSED is about this
 * one thing and lets the others be restored; any other ends the run. */
REPL_RESULT repl_tree_fail(struct repl_error *err, int os_errno, const char *what);

/* A name for what is not complete yet: no other call gives the same. */
#define REPL_TREE_TEMPORARY      ".repl-restore-"
#define REPL_TREE_TEMPORARY_SIZE 40
void repl_tree_temporary(char name[REPL_TREE_TEMPORARY_SIZE]);

/* Removes what is there under this name; a directory with all that is in it, unless something is
 * mounted there. What may not be changed (chattr +i, +a) may be after this. */
REPL_RESULT repl_tree_remove(int directory, const char *name, struct repl_error *err);
/* Puts what is there under this name in the place of what is there under the other. */
REPL_RESULT repl_tree_replace(int directory, const char *from, const char *to,
                              struct repl_error *err);
/* Takes away the flags that keep it from being changed. 0 or errno. */
int repl_tree_unlock(int directory, const char *name);

#endif
