#include "store/store_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "control/lock.h"

static enum repl_code code_of(int os_errno)
{
    return os_errno == ENOSPC || os_errno == EDQUOT ? REPL_E_NOSPACE
           : os_errno == ELOOP                      ? REPL_E_REFUSED
                                                    : REPL_E_IO;
}

static repl_result locked_by_other(int fd, const char *path, struct repl_error *err)
{
    char owner[32] = "";
    ssize_t size = pread(fd, owner, sizeof owner - 1, 0);
    owner[size > 0 ? size : 0] = '\0';
    owner[strspn(owner, "0123456789")] = '\0';
    return repl_fail(err, REPL_E_LOCKED,
                     "the store %s is in use by %s%s: stop that one first, or name another store",
                     path, owner[0] != '\0' ? "process " : "another process", owner);
}

repl_result repl_store_lock(int directory, const char *path, int *fd, struct repl_error *err)
{
    char owner[32];
    *fd = openat(directory, REPL_STORE_LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (*fd < 0)
        return repl_fail_errno(err, code_of(errno), errno, "cannot open %s/%s", path,
                               REPL_STORE_LOCK_NAME);
    int failed = repl_lock_take(*fd);
    if (failed == EWOULDBLOCK)
        return locked_by_other(*fd, path, err);
    if (failed != 0)
        return repl_fail_errno(err, code_of(failed), failed, "cannot lock %s/%s", path,
                               REPL_STORE_LOCK_NAME);
    /* The process id is a courtesy to whoever finds the lock taken; a full disk may deny it. */
    int size = snprintf(owner, sizeof owner, "%ld\n", (long)getpid());
    bool noted = ftruncate(*fd, 0) == 0 && pwrite(*fd, owner, (size_t)size, 0) == size;
    (void)noted;
    return REPL_SUCCESS;
}
