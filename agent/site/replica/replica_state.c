/*
 * How far the replica is, durably: two slots of docs/formats/state.md.
 *
 * Losing this file costs time, never truth: without it the replica is built
 * anew, and with an old one the segments since are applied again, which gives
 * the same bytes. But it also says which device is ours: without it a device
 * that has something on it is refused. So a file of which a write or sync has
 * failed stays as it is, and the next write makes a new one in place of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "site/replica/replica_internal.h"

static repl_result state_fail(const struct replica_state *state, int os_errno, const char *what,
                              struct repl_error *err)
{
    return repl_fail_errno(err, os_errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, os_errno,
                           "cannot %s the replica's state %s", what, state->path);
}

static repl_result state_read(struct replica_state *state, const char **note,
                              struct repl_error *err)
{
    uint8_t bytes[REPL_SLOT_FILE] = {0};
    ssize_t size = pread(state->fd, bytes, sizeof bytes, 0);
    if (size < 0)
        return state_fail(state, errno, "read", err);
    repl_result result = repl_replica_state_decode(bytes, &state->now, &state->generation, err);
    if (result.code == REPL_E_VERSION)
        return result;
    if (!repl_ok(result)) {
        *note = "its state file is damaged";
        state->now = (struct repl_replica_state){0};
    } else if (!repl_uuid_equal(&state->now.volume, &state->uuid)) {
        *note = "it was another volume's";
        state->now = (struct repl_replica_state){0};
    }
    return REPL_SUCCESS;
}

repl_result replica_state_open(struct replica_state *state, const char **note,
                               struct repl_error *err)
{
    state->now = (struct repl_replica_state){0};
    state->generation = 0;
    state->fd = open(state->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (state->fd < 0 && errno == ENOENT) {
        *note = "it has no state file";
        return REPL_SUCCESS;
    }
    if (state->fd < 0)
        return state_fail(state, errno, "open", err);
    repl_result result = state_read(state, note, err);
    if (!repl_ok(result))
        replica_state_close(state);
    return result;
}

void replica_state_close(struct replica_state *state)
{
    if (state->fd >= 0)
        close(state->fd);
    state->fd = -1;
}

static repl_result slot_put(const struct replica_state *state, int fd,
                            const struct repl_replica_state *next, struct repl_error *err)
{
    uint8_t slot[REPL_SLOT_SIZE];
    uint64_t generation = state->generation + 1;
    repl_replica_state_encode(next, generation, slot);
    ssize_t written = pwrite(fd, slot, sizeof slot, (off_t)repl_slot_offset(generation));
    if (written != (ssize_t)sizeof slot)
        return state_fail(state, written < 0 ? errno : ENOSPC, "write", err);
    return fdatasync(fd) == 0 ? REPL_SUCCESS : state_fail(state, errno, "sync", err);
}

static repl_result name_sync(const struct replica_state *state, struct repl_error *err)
{
    char copy[PATH_MAX];
    strcpy(copy, state->path);
    int directory = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = directory >= 0 && fsync(directory) == 0;
    int os_errno = errno;
    if (directory >= 0)
        close(directory);
    return good ? REPL_SUCCESS : state_fail(state, os_errno, "make", err);
}

/* A new file, whole before it takes the place of the old one. */
static repl_result state_replace(struct replica_state *state, const struct repl_replica_state *next,
                                 struct repl_error *err)
{
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s.new", state->path);
    if (unlink(path) != 0 && errno != ENOENT)
        return state_fail(state, errno, "replace", err);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return state_fail(state, errno, "make", err);
    repl_result result = ftruncate(fd, REPL_SLOT_FILE) == 0 ? slot_put(state, fd, next, err)
                                                            : state_fail(state, errno, "make", err);
    if (repl_ok(result) && rename(path, state->path) != 0)
        result = state_fail(state, errno, "replace", err);
    if (!repl_ok(result)) {
        close(fd);
        unlink(path);
        return result;
    }
    replica_state_close(state);
    state->fd = fd;
    return name_sync(state, err);
}

repl_result replica_state_write(struct replica_state *state, const struct repl_replica_state *next,
                                struct repl_error *err)
{
    repl_result result = state->fd >= 0 && !state->spoiled ? slot_put(state, state->fd, next, err)
                                                           : state_replace(state, next, err);
    state->spoiled = !repl_ok(result);
    if (state->spoiled) {
        replica_state_close(state);
        return result;
    }
    state->generation++;
    state->now = *next;
    return REPL_SUCCESS;
}
