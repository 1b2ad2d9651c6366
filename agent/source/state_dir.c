#include "source/state_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "base/hash.h"
#include "control/control.h"
#include "control/lock.h"
#include "source/past_heads.h"

#define DIGESTS_HEADER 4096u
#define DIGESTS_MAGIC  0x5453454744504552ull

/* --- directories ----------------------------------------------------------------------------- */

static repl_result directory_make(int at, const char *name, int *fd, struct repl_error *err)
{
    if (mkdirat(at, name, 0700) == 0) {
        /* a new name is there after a power cut only when its directory has been synced */
        if (at != AT_FDCWD && fsync(at) != 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "%s: syncing its parent", name);
    } else if (errno != EEXIST) {
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno, "mkdir %s",
                               name);
    }
    *fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "open %s", name);
    return REPL_SUCCESS;
}

repl_result repl_state_lock(const char *path, int *lock_fd, struct repl_error *err)
{
    int dir;
    *lock_fd = -1;
    REPL_TRY(repl_forward(directory_make(AT_FDCWD, path, &dir, err), err, "[agent] state"));
    int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    int failed = fd < 0 ? errno : 0;
    close(dir);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, failed, "%s/lock", path);
    char owner[32] = "";
    failed = repl_lock_take(fd);
    if (failed == EWOULDBLOCK) {
        ssize_t got = pread(fd, owner, sizeof owner - 1, 0);
        owner[got > 0 ? got : 0] = '\0';
        close(fd);
        return repl_fail(err, REPL_E_LOCKED, "%s is in use by an agent (process %s)", path,
                         owner[0] != '\0' ? owner : "unknown");
    }
    if (failed != 0) {
        close(fd);
        return repl_fail_errno(err, REPL_E_IO, failed, "%s/lock", path);
    }
    int length = snprintf(owner, sizeof owner, "%d", (int)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, owner, (size_t)length, 0) != length) {
        failed = errno;
        close(fd);
        return repl_fail_errno(err, REPL_E_IO, failed, "%s/lock", path);
    }
    *lock_fd = fd;
    return REPL_SUCCESS;
}

/* Removes the plain files of a directory. */
static repl_result directory_empty(int fd, struct repl_error *err)
{
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;
    if (dir == NULL) {
        if (copy >= 0)
            close(copy);
        return repl_fail_errno(err, REPL_E_IO, errno, "reading a directory");
    }
    repl_result result = REPL_SUCCESS;
    for (struct dirent *entry; repl_ok(result) && (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, entry->d_name, 0) != 0 && errno != ENOENT && errno != EISDIR)
            result = repl_fail_errno(err, REPL_E_IO, errno, "removing %s", entry->d_name);
    }
    closedir(dir);
    return result;
}

/* --- the state ------------------------------------------------------------------------------- */

/* The first slot is written into a file of another name, so that a state that is there under its
 * own is never a torn first one. */
static repl_result state_create(struct repl_state_dir *dir, struct repl_error *err)
{
    dir->state_fd = openat(dir->dir_fd, "state.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (dir->state_fd < 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                               "%s/state.new", dir->label);
    /* Both slots now: on a full disk the state can still be written. */
    int failed = posix_fallocate(dir->state_fd, 0, REPL_SLOT_FILE);
    if (failed != 0)
        return repl_fail_errno(err, failed == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, failed,
                               "%s/state.new", dir->label);
    dir->written = dir->state;
    REPL_TRY(repl_state_dir_write(dir, &dir->state, err));
    if (renameat(dir->dir_fd, "state.new", dir->dir_fd, "state") != 0 || fsync(dir->dir_fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s/state", dir->label);
    return REPL_SUCCESS;
}

static repl_result state_begin(struct repl_state_dir *dir, uint64_t volume_size,
                               const char *identity, struct repl_error *err)
{
    dir->is_new = true;
    dir->state = (struct repl_source_state){.lineage = 1,
                                            .volume_size = volume_size != 0 ? volume_size
                                                                            : REPL_STATE_SPACE_SIZE,
                                            .next_seq = 1};
    snprintf(dir->state.identity, sizeof dir->state.identity, "%s", identity);
    if (getrandom(dir->state.volume.bytes, sizeof dir->state.volume.bytes, 0) !=
        sizeof dir->state.volume.bytes)
        return repl_fail_errno(err, REPL_E_IO, errno, "getrandom");
    dir->state.volume.bytes[6] = (dir->state.volume.bytes[6] & 0x0f) | 0x40; /* RFC 9562, v4 */
    dir->state.volume.bytes[8] = (dir->state.volume.bytes[8] & 0x3f) | 0x80;
    return state_create(dir, err);
}

static repl_result state_load(struct repl_state_dir *dir, uint64_t volume_size,
                              const char *identity, struct repl_error *err)
{
    uint8_t file[REPL_SLOT_FILE] = {0};
    dir->state_fd = openat(dir->dir_fd, "state", O_RDWR | O_CLOEXEC);
    if (dir->state_fd < 0 && errno == ENOENT)
        return state_begin(dir, volume_size, identity, err);
    if (dir->state_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s/state", dir->label);
    ssize_t got = pread(dir->state_fd, file, sizeof file, 0);
    close(dir->state_fd);
    dir->state_fd = -1;
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s/state", dir->label);
    REPL_TRY(repl_forward(
        repl_source_state_decode(file, &dir->state, &dir->generation, err), err,
        "%s/state: is damaged. Without it this host cannot tell its own history at the site from "
        "another's; to begin a new one: repl forget, and another volume name",
        dir->label));
    if (strcmp(dir->state.identity, identity) != 0)
        return repl_fail(err, REPL_E_REFUSED,
                         "another device or directory than the one protected so far has this "
                         "name: it is %s, and was %s. Put the right one into the configuration, "
                         "or mount what is missing; if the volume "
                         "has really moved: repl forget, and another volume name",
                         identity, dir->state.identity);
    if (volume_size != 0 && volume_size < dir->state.volume_size)
        return repl_fail(err, REPL_E_REFUSED,
                         "the device shrank from %llu to %llu bytes, which is not followed: repl "
                         "forget, and another volume name",
                         (unsigned long long)dir->state.volume_size,
                         (unsigned long long)volume_size);
    /* What was read may be in the page cache only: after a kill, or after a sync that failed, which
     * the kernel reports once. A new file cannot inherit that. */
    return state_create(dir, err);
}

static bool state_has(const struct repl_source_state *state, const struct repl_digest *head)
{
    bool has = repl_digest_equal(&state->checkpoint.digest, head);
    for (uint32_t i = 0; !has && i < state->sent_count; i++)
        has = repl_digest_equal(&state->sent[i].digest, head);
    return has;
}

/* What the next state does not speak of any more is kept elsewhere before it is written. */
static void past_keep(struct repl_state_dir *dir, const struct repl_source_state *next)
{
    static const struct repl_head none;
    const struct repl_source_state *last = &dir->written;
    struct repl_digest gone[1 + REPL_SENT_MAX];
    struct repl_error err;
    size_t count = 0;
    for (uint32_t i = 0; i <= last->sent_count; i++) {
        const struct repl_head *head = i == 0 ? &last->checkpoint : &last->sent[i - 1];
        if (!repl_digest_equal(&head->digest, &none.digest) && !state_has(next, &head->digest))
            gone[count++] = head->digest;
    }
    if (count > 0 && !repl_ok(repl_past_heads_add(dir->dir_fd, gone, count, &err)))
        repl_log(LOG_WARNING,
                 "%s/%s: a site that is put back to now from a copy will be taken for another's",
                 dir->label, err.text);
}

repl_result repl_state_dir_write(struct repl_state_dir *dir, const struct repl_source_state *state,
                                 struct repl_error *err)
{
    uint8_t slot[REPL_SLOT_SIZE];
    uint64_t generation = dir->generation + 1;
    past_keep(dir, state);
    repl_source_state_encode(state, generation, slot);
    ssize_t put = pwrite(dir->state_fd, slot, sizeof slot, (off_t)repl_slot_offset(generation));
    if (put != (ssize_t)sizeof slot || fdatasync(dir->state_fd) != 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno, "%s/state",
                               dir->label);
    dir->generation = generation;
    dir->written = *state;
    return REPL_SUCCESS;
}

/* --- the digests ----------------------------------------------------------------------------- */

static size_t digests_size(uint64_t volume_size)
{
    uint64_t pages = repl_page_count_of(volume_size);
    return DIGESTS_HEADER + (size_t)pages * sizeof(struct repl_page_digest);
}

static void digests_header(const struct repl_state_dir *dir, uint8_t header[64])
{
    memset(header, 0, 64);
    struct repl_writer w = repl_writer_of(header, 64);
    repl_write_u64(&w, DIGESTS_MAGIC);
    repl_write_u64(&w, 1); /* version */
    repl_write_uuid(&w, &dir->state.volume);
    w.position = 56;
    repl_write_u64(&w, repl_xxh3(header, 56));
}

static repl_result digests_map(struct repl_state_dir *dir, uint64_t volume_size,
                               struct repl_error *err)
{
    size_t size = digests_size(volume_size);
    if (ftruncate(dir->digests_fd, (off_t)size) != 0)
        return repl_fail_errno(err, REPL_E_NOSPACE, errno, "%s/digests: %zu bytes", dir->label,
                               size);
    /* Real blocks now: a full disk would show as SIGBUS in the mapping later. */
    int failed = posix_fallocate(dir->digests_fd, 0, (off_t)size);
    if (failed != 0)
        return repl_fail_errno(err, REPL_E_NOSPACE, failed, "%s/digests: %zu bytes", dir->label,
                               size);
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, dir->digests_fd, 0);
    if (map == MAP_FAILED)
        return repl_fail_errno(err, REPL_E_NOMEM, errno, "%s/digests: mmap", dir->label);
    dir->map = map;
    dir->map_size = size;
    dir->digests = (struct repl_page_digest *)(void *)(dir->map + DIGESTS_HEADER);
    return REPL_SUCCESS;
}

static repl_result digests_open(struct repl_state_dir *dir, uint64_t volume_size,
                                struct repl_error *err)
{
    uint8_t wanted[64], found[64] = {0};
    digests_header(dir, wanted);
    dir->digests_fd = openat(dir->dir_fd, "digests", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (dir->digests_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s/digests", dir->label);
    bool ours = pread(dir->digests_fd, found, sizeof found, 0) == (ssize_t)sizeof found &&
                memcmp(found, wanted, sizeof found) == 0;
    if (!ours && ftruncate(dir->digests_fd, 0) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s/digests", dir->label);
    REPL_TRY(digests_map(dir, volume_size, err));
    if (!ours) {
        memcpy(dir->map, wanted, sizeof wanted);
        return repl_state_dir_checkpoint(dir, err);
    }
    return REPL_SUCCESS;
}

repl_result repl_state_dir_checkpoint(struct repl_state_dir *dir, struct repl_error *err)
{
    if (msync(dir->map, dir->map_size, MS_SYNC) == 0 && fdatasync(dir->digests_fd) == 0)
        return REPL_SUCCESS;
    int failed = errno;
    /* The kernel takes the pages for clean now, whatever is on the disk. Nobody may trust this file
     * again: the table is begun anew, which costs sending everything once. */
    if (unlinkat(dir->dir_fd, "digests", 0) != 0 && errno != ENOENT)
        failed = errno;
    repl_ignore(
        repl_fail_errno(err, REPL_E_IO, failed, "%s/digests: sync; begun anew", dir->label));
    if (fsync(dir->dir_fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s: removing its digests", dir->label);
    return (repl_result){REPL_E_IO};
}

repl_result repl_state_dir_grow(struct repl_state_dir *dir, uint64_t volume_size,
                                struct repl_error *err)
{
    uint8_t *map = dir->map;
    size_t size = dir->map_size;
    REPL_TRY(digests_map(dir, volume_size, err));
    munmap(map, size);
    return REPL_SUCCESS;
}

/* --- open, close, remove --------------------------------------------------------------------- */

static repl_result volume_directory(const char *state_path, const char *volume, int *fd,
                                    struct repl_error *err)
{
    int top, volumes;
    REPL_TRY(directory_make(AT_FDCWD, state_path, &top, err));
    repl_result result = directory_make(top, "volumes", &volumes, err);
    close(top);
    REPL_TRY(result);
    result = directory_make(volumes, volume, fd, err);
    close(volumes);
    return result;
}

repl_result repl_state_dir_open(const char *state_path, const char *volume, uint64_t volume_size,
                                const char *identity, struct repl_state_dir *out,
                                struct repl_error *err)
{
    *out = (struct repl_state_dir){.dir_fd = -1, .spool_fd = -1, .state_fd = -1, .digests_fd = -1};
    snprintf(out->label, sizeof out->label, "%.60s/volumes/%s", state_path, volume);
    repl_result result = volume_directory(state_path, volume, &out->dir_fd, err);
    if (repl_ok(result))
        result = directory_make(out->dir_fd, "spool", &out->spool_fd, err);
    if (repl_ok(result))
        result = state_load(out, volume_size, identity, err);
    if (repl_ok(result))
        result = digests_open(out, volume_size != 0 ? volume_size : out->state.volume_size, err);
    if (!repl_ok(result))
        repl_state_dir_close(out);
    return result;
}

void repl_state_dir_close(struct repl_state_dir *dir)
{
    int *const fds[] = {&dir->dir_fd, &dir->spool_fd, &dir->state_fd, &dir->digests_fd};
    if (dir->map != NULL)
        munmap(dir->map, dir->map_size);
    dir->map = NULL;
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

repl_result repl_state_dir_look(const char *state_path, const char *volume,
                                struct repl_source_state *out, struct repl_error *err)
{
    char path[512];
    uint8_t file[REPL_SLOT_FILE] = {0};
    uint64_t generation;
    snprintf(path, sizeof path, "%s/volumes/%s/state", state_path, volume);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_MISSING : REPL_E_IO, errno,
                               "nothing is kept of volume %s: %s", volume, path);
    ssize_t got = pread(fd, file, sizeof file, 0);
    int failed = errno;
    close(fd);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, failed, "%s", path);
    return repl_forward(repl_source_state_decode(file, out, &generation, err), err, "%s", path);
}

repl_result repl_state_dir_forget_digests(const char *state_path, const char *volume,
                                          struct repl_error *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/volumes/%s", state_path, volume);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && (unlinkat(fd, "digests", 0) == 0 || errno == ENOENT) &&
                (unlinkat(fd, "tree", 0) == 0 || errno == ENOENT) && fsync(fd) == 0;
    int failed = errno;
    if (fd >= 0)
        close(fd);
    return good ? REPL_SUCCESS
                : repl_fail_errno(err, REPL_E_IO, failed, "%s: removing its digests", path);
}

repl_result repl_state_dir_remove(const char *state_path, const char *volume,
                                  struct repl_error *err)
{
    char path[512];
    int fd, spool;
    snprintf(path, sizeof path, "%s/volumes/%s", state_path, volume);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_MISSING : REPL_E_IO, errno,
                               "nothing is kept of volume %s: %s", volume, path);
    repl_result result = REPL_SUCCESS;
    spool = openat(fd, "spool", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (spool >= 0) {
        result = directory_empty(spool, err);
        close(spool);
        if (repl_ok(result) && unlinkat(fd, "spool", AT_REMOVEDIR) != 0)
            result = repl_fail_errno(err, REPL_E_IO, errno, "%s/spool", path);
    }
    if (repl_ok(result))
        result = directory_empty(fd, err);
    close(fd);
    if (repl_ok(result) && rmdir(path) != 0)
        result = repl_fail_errno(err, REPL_E_IO, errno, "%s", path);
    return result;
}
