#include "source/past_heads.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/ensure.h"
#include "block/read_full.h"
#include "format/slot.h"

#define HEADS_FILE "heads"
#define HEADS_OLD  "heads.old"

/* The beginning of a digest: enough for no other segment to have the same. */
#define HEAD_SIZE 16u

/* At once: those that a state holds. */
#define HEADS_ADD_MAX (REPL_SENT_MAX + 1)

static repl_result heads_open(int dir_fd, int *fd, bool *made, struct repl_error *err)
{
    struct stat status;
    *made = faccessat(dir_fd, HEADS_FILE, F_OK, 0) != 0;
    *fd = openat(dir_fd, HEADS_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*fd < 0 || fstat(*fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", HEADS_FILE);
    if ((uint64_t)status.st_size < REPL_PAST_HEADS_MAX * HEAD_SIZE)
        return REPL_SUCCESS;
    close(*fd);
    *fd = -1;
    if (renameat(dir_fd, HEADS_FILE, dir_fd, HEADS_OLD) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: giving it another name", HEADS_FILE);
    *made = true;
    *fd = openat(dir_fd, HEADS_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    return *fd >= 0 ? REPL_SUCCESS : repl_fail_errno(err, REPL_E_IO, errno, "%s", HEADS_FILE);
}

/* Behind the last whole one: a crash may have left a part of another. */
static repl_result heads_write(int fd, const uint8_t *bytes, size_t size, struct repl_error *err)
{
    off_t end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s", HEADS_FILE);
    end -= end % HEAD_SIZE;
    if (!repl_write_full(fd, bytes, size, (uint64_t)end) || fdatasync(fd) != 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno, "%s",
                               HEADS_FILE);
    return REPL_SUCCESS;
}

repl_result repl_past_heads_add(int dir_fd, const struct repl_digest *heads, size_t count,
                                struct repl_error *err)
{
    uint8_t bytes[HEADS_ADD_MAX * HEAD_SIZE];
    int fd = -1;
    bool made;
    ensure(count <= HEADS_ADD_MAX);
    for (size_t i = 0; i < count; i++)
        memcpy(bytes + i * HEAD_SIZE, heads[i].bytes, HEAD_SIZE);
    repl_result result = heads_open(dir_fd, &fd, &made, err);
    if (repl_ok(result))
        result = heads_write(fd, bytes, count * HEAD_SIZE, err);
    if (repl_ok(result) && made && fsync(dir_fd) != 0)
        result = repl_fail_errno(err, REPL_E_IO, errno, "%s: syncing its directory", HEADS_FILE);
    if (fd >= 0)
        close(fd);
    return result;
}

static repl_result file_search(int dir_fd, const char *name, const struct repl_digest *head,
                               bool *found, struct repl_error *err)
{
    uint8_t bytes[4096 * HEAD_SIZE];
    ssize_t got = 0;
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return REPL_SUCCESS;
    for (uint64_t at = 0;
         fd >= 0 && !*found && (got = repl_read_full(fd, bytes, sizeof bytes, at)) > 0;
         at += (uint64_t)got) {
        for (size_t i = 0; !*found && i + HEAD_SIZE <= (size_t)got; i += HEAD_SIZE)
            *found = memcmp(bytes + i, head->bytes, HEAD_SIZE) == 0;
    }
    repl_result result =
        fd < 0 || got < 0 ? repl_fail_errno(err, REPL_E_IO, errno, "%s", name) : REPL_SUCCESS;
    if (fd >= 0)
        close(fd);
    return result;
}

/* What add gives the other name meanwhile is found under one of the two. */
repl_result repl_past_heads_find(int dir_fd, const struct repl_digest *head, bool *found,
                                 struct repl_error *err)
{
    *found = false;
    REPL_TRY(file_search(dir_fd, HEADS_FILE, head, found, err));
    return *found ? REPL_SUCCESS : file_search(dir_fd, HEADS_OLD, head, found, err);
}
