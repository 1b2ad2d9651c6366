/*
 * The posix store: a directory.
 *
 *   STORE/repl-store            one line, the version of this layout; written last, so a store
 *                               that has it is whole
 *   STORE/lock                  flock of the process that writes, its id inside
 *   STORE/volumes/NAME/log      store_posix_log.c
 *                      segments/TO.PART.seg, TO.PART.N.sup: numbers padded with zeros, so that
 *                               sorting by name sorts by order
 *                      staging/ uploads, by names of their owner
 *                      aside/   TO.PART.seg.N: segments that were found without being part of the
 *                               history; nothing here reads or removes them
 *
 * Everything is reached from descriptors of directories, one component at a
 * time, and no component below STORE may be a symbolic link. A name is durable
 * when its directory has been synced after the rename, mkdir or unlink: each
 * call here that makes or removes one does so before it returns.
 *
 * A segment is complete or absent: it gets its name by rename, after its bytes
 * have been synced. Whether it belongs to the history only the log says.
 */
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/read_full.h"
#include "store/segment_name.h"
#include "store/store_lock.h"
#include "store/store_posix_internal.h"

#define VERSION_NAME  REPL_STORE_VERSION_NAME
#define VERSION_NEW   "repl-store.new"
#define VOLUMES_NAME  "volumes"
#define SEGMENTS_NAME "segments"
#define ASIDE_NAME    "aside"

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)

/* Of one name; each was left by a crash of its own. */
#define ASIDE_MAX 10000u

static const struct repl_store_ops posix_ops;

/* --- errors ---------------------------------------------------------------------------------- */

static enum repl_code code_of(int os_errno)
{
    switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
        return REPL_E_NOSPACE;
    case ENOENT:
        return REPL_E_MISSING;
    case ELOOP: /* O_NOFOLLOW met a symbolic link */
    case EXDEV:
        return REPL_E_REFUSED;
    case ENOMEM:
        return REPL_E_NOMEM;
    default:
        return REPL_E_IO;
    }
}

repl_result repl_posix_fail(struct repl_error *err, int os_errno, const char *format, ...)
{
    char text[REPL_ERROR_TEXT_SIZE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return repl_fail_errno(err, code_of(os_errno), os_errno, "%s", text);
}

repl_result repl_posix_need_writable(const struct posix_store *store, struct repl_error *err)
{
    if (!store->writable)
        return repl_fail(err, REPL_E_REFUSED, "the store %s was opened for reading only",
                         store->path);
    return REPL_SUCCESS;
}

repl_result repl_posix_file_size(int fd, const char *volume, const char *name, uint64_t *size,
                                 struct repl_error *err)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return repl_posix_fail(err, errno, "cannot examine %s of volume %s", name, volume);
    if (!S_ISREG(status.st_mode))
        return repl_fail(err, REPL_E_REFUSED, "%s of volume %s is not a regular file", name,
                         volume);
    *size = (uint64_t)status.st_size;
    return REPL_SUCCESS;
}

/* --- directories ----------------------------------------------------------------------------- */

repl_result repl_posix_volume_open(const struct posix_store *store, const char *volume, int *fd,
                                   struct repl_error *err)
{
    REPL_TRY(repl_store_check_volume(volume, err));
    *fd = openat(store->volumes_fd, volume, OPEN_DIRECTORY);
    if (*fd < 0 && errno == ENOENT)
        return repl_fail(err, REPL_E_MISSING, "there is no volume %s in the store %s", volume,
                         store->path);
    if (*fd < 0)
        return repl_posix_fail(err, errno, "cannot open volume %s in the store %s", volume,
                               store->path);
    return REPL_SUCCESS;
}

static repl_result segments_open(const struct posix_store *store, const char *volume, int *fd,
                                 struct repl_error *err)
{
    int directory;
    REPL_TRY(repl_posix_volume_open(store, volume, &directory, err));
    *fd = openat(directory, SEGMENTS_NAME, OPEN_DIRECTORY);
    int os_errno = errno;
    close(directory);
    if (*fd < 0)
        return repl_posix_fail(err, os_errno,
                               "cannot open the segments of volume %s in the store "
                               "%s",
                               volume, store->path);
    return REPL_SUCCESS;
}

static repl_result sync_directory(const struct posix_store *store, int fd, const char *name,
                                  struct repl_error *err)
{
    if (store->calls.fsync(fd) != 0)
        return repl_posix_fail(err, errno,
                               "cannot make %s in the store %s durable: check the disk "
                               "under it",
                               name, store->path);
    return REPL_SUCCESS;
}

/* Makes a directory unless it is there, and opens it. Its name is durable once parent is synced. */
static repl_result directory_make(const struct posix_store *store, int parent, const char *name,
                                  int *fd, struct repl_error *err)
{
    if (mkdirat(parent, name, 0700) != 0 && errno != EEXIST)
        return repl_posix_fail(err, errno, "cannot make %s in the store %s", name, store->path);
    *fd = openat(parent, name, OPEN_DIRECTORY);
    if (*fd < 0)
        return repl_posix_fail(err, errno, "cannot open %s in the store %s", name, store->path);
    return REPL_SUCCESS;
}

/* Calls visit for each name in the directory behind fd that does not begin with a dot. */
typedef repl_result name_visit_fn(void *context, int directory, const char *name,
                                  struct repl_error *err);

static repl_result directory_walk(const struct posix_store *store, int fd, name_visit_fn *visit,
                                  void *context, struct repl_error *err)
{
    /* A descriptor of its own: the place in the listing belongs to the open file. */
    int own = openat(fd, ".", OPEN_DIRECTORY);
    DIR *listing = own < 0 ? NULL : fdopendir(own);
    if (listing == NULL) {
        int os_errno = errno;
        if (own >= 0)
            close(own);
        return repl_posix_fail(err, os_errno, "cannot list a directory of the store %s",
                               store->path);
    }
    repl_result result = REPL_SUCCESS;
    while (repl_ok(result)) {
        errno = 0;
        struct dirent *entry = readdir(listing);
        if (entry == NULL) {
            if (errno != 0)
                result = repl_posix_fail(err, errno, "cannot list a directory of the store %s",
                                         store->path);
            break;
        }
        if (entry->d_name[0] != '.')
            result = visit(context, fd, entry->d_name, err);
    }
    closedir(listing);
    return result;
}

/* --- volumes --------------------------------------------------------------------------------- */

struct volume_walk {
    repl_volume_visit_fn *visit;
    void *context;
};

static repl_result volume_seen(void *context, int directory, const char *name,
                               struct repl_error *err)
{
    const struct volume_walk *walk = context;
    struct stat status;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(status.st_mode) ||
        strlen(name) > REPL_VOLUME_NAME_SIZE)
        return REPL_SUCCESS;
    return walk->visit(walk->context, name, err);
}

static repl_result posix_volumes(struct repl_store *base, repl_volume_visit_fn *visit,
                                 void *context, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    struct volume_walk walk = {.visit = visit, .context = context};
    return directory_walk(store, store->volumes_fd, volume_seen, &walk, err);
}

static repl_result volume_fill(struct posix_store *store, int directory, const char *volume,
                               struct repl_error *err)
{
    static const char *const names[] = {SEGMENTS_NAME, REPL_STORE_STAGING_NAME};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int fd;
        REPL_TRY(directory_make(store, directory, names[i], &fd, err));
        repl_result result = sync_directory(store, fd, names[i], err);
        close(fd);
        REPL_TRY(result);
    }
    return sync_directory(store, directory, volume, err);
}

/* Again after a crash within: whatever is there already is kept and synced once more. */
static repl_result posix_volume_create(struct repl_store *base, const char *volume,
                                       struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    int directory;
    REPL_TRY(repl_posix_need_writable(store, err));
    REPL_TRY(repl_store_check_volume(volume, err));
    REPL_TRY(directory_make(store, store->volumes_fd, volume, &directory, err));
    repl_result result = volume_fill(store, directory, volume, err);
    close(directory);
    REPL_TRY(result);
    return sync_directory(store, store->volumes_fd, VOLUMES_NAME, err);
}

static repl_result posix_volume_directory(const struct repl_store *base, const char *volume,
                                          char *path, size_t path_size, struct repl_error *err)
{
    const struct posix_store *store = (const struct posix_store *)base;
    REPL_TRY(repl_store_check_volume(volume, err));
    int size = snprintf(path, path_size, "%s/%s/%s", store->path, VOLUMES_NAME, volume);
    if (size < 0 || (size_t)size >= path_size)
        return repl_fail(err, REPL_E_USAGE, "the path of the store %s is too long: move it",
                         store->path);
    return REPL_SUCCESS;
}

/* --- segments -------------------------------------------------------------------------------- */

struct segment_walk {
    repl_segment_visit_fn *visit;
    void *context;
};

static repl_result segment_seen(void *context, int directory, const char *name,
                                struct repl_error *err)
{
    const struct segment_walk *walk = context;
    struct repl_segment_id id;
    struct stat status;
    if (!repl_segment_name_parse(name, &id))
        return REPL_SUCCESS;
    if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        /* Removed since it was listed: it is not there, which is an answer. */
        return errno == ENOENT ? REPL_SUCCESS
                               : repl_posix_fail(err, errno, "cannot examine segment %s", name);
    }
    if (!S_ISREG(status.st_mode))
        return REPL_SUCCESS;
    return walk->visit(walk->context, &id, (uint64_t)status.st_size, err);
}

static repl_result posix_segments(struct repl_store *base, const char *volume,
                                  repl_segment_visit_fn *visit, void *context,
                                  struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    struct segment_walk walk = {.visit = visit, .context = context};
    int fd;
    REPL_TRY(segments_open(store, volume, &fd, err));
    repl_result result = directory_walk(store, fd, segment_seen, &walk, err);
    close(fd);
    return result;
}

static repl_result posix_segment_publish(struct repl_store *base, const char *volume,
                                         const struct repl_segment_id *id, int fd,
                                         const char *staged_path, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    char name[REPL_SEGMENT_NAME_SIZE];
    int directory;
    REPL_TRY(repl_posix_need_writable(store, err));
    REPL_TRY(repl_segment_id_check(id, err));
    REPL_TRY(repl_store_check_staged(fd, staged_path, err));
    REPL_TRY(segments_open(store, volume, &directory, err));
    repl_segment_name_format(id, name);
    repl_result result;
    if (renameat(AT_FDCWD, staged_path, directory, name) != 0)
        result = repl_posix_fail(err, errno,
                                 "cannot move %s to the segments of volume %s (it must be staged "
                                 "in the volume's own directory)",
                                 staged_path, volume);
    else
        result = sync_directory(store, directory, SEGMENTS_NAME, err);
    close(directory);
    return result;
}

static repl_result posix_segment_remove(struct repl_store *base, const char *volume,
                                        const struct repl_segment_id *id, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    char name[REPL_SEGMENT_NAME_SIZE], text[REPL_SEGMENT_ID_TEXT_SIZE];
    int directory;
    REPL_TRY(repl_posix_need_writable(store, err));
    REPL_TRY(repl_segment_id_check(id, err));
    REPL_TRY(segments_open(store, volume, &directory, err));
    repl_segment_name_format(id, name);
    repl_segment_id_text(id, text);
    repl_result result;
    /* Synced though it was not there: an earlier removal may not have come that far. */
    if (unlinkat(directory, name, 0) != 0 && errno != ENOENT)
        result = repl_posix_fail(err, errno, "cannot remove segment %s of volume %s", text, volume);
    else
        result = sync_directory(store, directory, SEGMENTS_NAME, err);
    close(directory);
    return result;
}

/* The first name that is free: what was set aside before under that name stays. */
static repl_result aside_move(int from, const char *name, int aside, char *out, size_t out_size,
                              struct repl_error *err)
{
    char to[REPL_SEGMENT_NAME_SIZE + 16];
    for (unsigned i = 1; i <= ASIDE_MAX; i++) {
        snprintf(to, sizeof to, "%s.%u", name, i);
        if (renameat2(from, name, aside, to, RENAME_NOREPLACE) == 0) {
            snprintf(out, out_size, ASIDE_NAME "/%s", to);
            return REPL_SUCCESS;
        }
        if (errno == ENOENT)
            return REPL_SUCCESS;
        if (errno != EEXIST)
            return repl_posix_fail(err, errno, "cannot set segment file %s aside", name);
    }
    return repl_fail(err, REPL_E_REFUSED, "there are %u files %s set aside: remove some", ASIDE_MAX,
                     name);
}

/* The new name first. */
static repl_result aside_sync(const struct posix_store *store, int aside, int segments,
                              struct repl_error *err)
{
    REPL_TRY(sync_directory(store, aside, ASIDE_NAME, err));
    return sync_directory(store, segments, SEGMENTS_NAME, err);
}

static repl_result posix_segment_set_aside(struct repl_store *base, const char *volume,
                                           const struct repl_segment_id *id, char *name,
                                           size_t name_size, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    char old[REPL_SEGMENT_NAME_SIZE];
    int directory, segments = -1, aside = -1;
    name[0] = '\0';
    REPL_TRY(repl_posix_need_writable(store, err));
    REPL_TRY(repl_segment_id_check(id, err));
    REPL_TRY(repl_posix_volume_open(store, volume, &directory, err));
    repl_segment_name_format(id, old);
    repl_result result = segments_open(store, volume, &segments, err);
    if (repl_ok(result))
        result = directory_make(store, directory, ASIDE_NAME, &aside, err);
    if (repl_ok(result))
        result = sync_directory(store, directory, ASIDE_NAME, err);
    if (repl_ok(result))
        result = aside_move(segments, old, aside, name, name_size, err);
    if (repl_ok(result))
        result = aside_sync(store, aside, segments, err);
    if (aside >= 0)
        close(aside);
    if (segments >= 0)
        close(segments);
    close(directory);
    return result;
}

static repl_result posix_read_at(struct repl_stored_segment *segment, uint64_t offset, void *out,
                                 size_t size, struct repl_error *err)
{
    if (offset > segment->size || size > segment->size - offset)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s has %" PRIu64 " bytes, and %zu from byte %" PRIu64 " were asked for",
                         segment->label, segment->size, size, offset);
    ssize_t got = repl_read_full(segment->fd, out, size, offset);
    if (got < 0)
        return repl_posix_fail(err, errno, "cannot read %s at byte %" PRIu64, segment->label,
                               offset);
    if ((size_t)got < size)
        return repl_fail(err, REPL_E_CORRUPT, "%s became shorter while it was read",
                         segment->label);
    return REPL_SUCCESS;
}

static void posix_segment_close(struct repl_stored_segment *segment)
{
    close(segment->fd);
    free(segment);
}

/* The open file of a segment as a struct; closes fd where it fails. */
static repl_result stored_segment_new(const char *volume, const struct repl_segment_id *id, int fd,
                                      struct repl_stored_segment **out, struct repl_error *err)
{
    struct repl_stored_segment *segment = calloc(1, sizeof *segment);
    repl_result result = segment == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for a segment")
                             : repl_posix_file_size(fd, volume, "a segment", &segment->size, err);
    if (!repl_ok(result)) {
        free(segment);
        close(fd);
        return result;
    }
    repl_stored_segment_label(segment, volume, id);
    segment->fd = fd;
    segment->read_at = posix_read_at;
    segment->close = posix_segment_close;
    *out = segment;
    return REPL_SUCCESS;
}

static repl_result posix_segment_open(struct repl_store *base, const char *volume,
                                      const struct repl_segment_id *id, uint64_t size,
                                      struct repl_stored_segment **out, struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    (void)size; /* the file says it */
    char name[REPL_SEGMENT_NAME_SIZE], text[REPL_SEGMENT_ID_TEXT_SIZE];
    int directory;
    REPL_TRY(repl_segment_id_check(id, err));
    REPL_TRY(segments_open(store, volume, &directory, err));
    repl_segment_name_format(id, name);
    repl_segment_id_text(id, text);
    int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int os_errno = errno;
    close(directory);
    if (fd < 0 && os_errno == ENOENT)
        return repl_fail(err, REPL_E_MISSING, "segment %s of volume %s is not in the store %s",
                         text, volume, store->path);
    if (fd < 0)
        return repl_posix_fail(err, os_errno, "cannot open segment %s of volume %s", text, volume);
    return stored_segment_new(volume, id, fd, out, err);
}

static repl_result posix_segment_look(struct repl_store *base, const char *volume,
                                      const struct repl_segment_id *id, bool *there,
                                      struct repl_error *err)
{
    struct posix_store *store = posix_store_of(base);
    char name[REPL_SEGMENT_NAME_SIZE], text[REPL_SEGMENT_ID_TEXT_SIZE];
    int directory;
    *there = false;
    REPL_TRY(repl_segment_id_check(id, err));
    repl_result result = segments_open(store, volume, &directory, err);
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS;
    REPL_TRY(result);
    repl_segment_name_format(id, name);
    *there = faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    int os_errno = errno;
    close(directory);
    if (*there || os_errno == ENOENT)
        return REPL_SUCCESS;
    repl_segment_id_text(id, text);
    return repl_posix_fail(err, os_errno, "cannot look for segment %s of volume %s", text, volume);
}

/* --- opening a store ------------------------------------------------------------------------- */

/* *found false: there is no version file. */
static repl_result version_check(const struct posix_store *store, bool *found,
                                 struct repl_error *err)
{
    char text[64];
    *found = false;
    int fd = openat(store->root_fd, VERSION_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return REPL_SUCCESS;
    if (fd < 0)
        return repl_posix_fail(err, errno, "cannot open %s/%s", store->path, VERSION_NAME);
    ssize_t size = read(fd, text, sizeof text - 1);
    int os_errno = errno;
    close(fd);
    if (size < 0)
        return repl_posix_fail(err, os_errno, "cannot read %s/%s", store->path, VERSION_NAME);
    text[size] = '\0';
    *found = true;
    return repl_store_version_check(text, (size_t)size, store->path, err);
}

static repl_result version_write(const struct posix_store *store, struct repl_error *err)
{
    static const char text[] = REPL_STORE_VERSION_TEXT;
    const ssize_t size = sizeof text - 1;
    int fd = openat(store->root_fd, VERSION_NEW,
                    O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return repl_posix_fail(err, errno, "cannot make a file in the store %s", store->path);
    ssize_t written = write(fd, text, (size_t)size);
    bool durable = written == size && store->calls.fsync(fd) == 0;
    int os_errno = written >= 0 && written != size ? ENOSPC : errno;
    close(fd);
    if (!durable)
        return repl_posix_fail(err, os_errno, "cannot write %s/%s", store->path, VERSION_NEW);
    if (renameat(store->root_fd, VERSION_NEW, store->root_fd, VERSION_NAME) != 0)
        return repl_posix_fail(err, errno, "cannot make %s/%s", store->path, VERSION_NAME);
    return sync_directory(store, store->root_fd, VERSION_NAME, err);
}

/* Only a directory that is empty, or that we began to fill, becomes a store. */
static repl_result foreign_seen(void *context, int directory, const char *name,
                                struct repl_error *err)
{
    static const char *const ours[] = {REPL_STORE_LOCK_NAME, VOLUMES_NAME, VERSION_NEW,
                                       "lost+found"};
    const struct posix_store *store = context;
    (void)directory;
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++) {
        if (strcmp(name, ours[i]) == 0)
            return REPL_SUCCESS;
    }
    return repl_fail(err, REPL_E_REFUSED,
                     "%s is not a store and not empty (it has \"%s\"): name an empty directory",
                     store->path, name);
}

static repl_result store_create(struct posix_store *store, struct repl_error *err)
{
    int volumes;
    REPL_TRY(directory_make(store, store->root_fd, VOLUMES_NAME, &volumes, err));
    repl_result result = sync_directory(store, volumes, VOLUMES_NAME, err);
    close(volumes);
    REPL_TRY(result);
    return version_write(store, err);
}

static repl_result root_open(struct posix_store *store, const char *path, bool create,
                             struct repl_error *err)
{
    bool made = create && mkdir(path, 0700) == 0;
    if (create && !made && errno != EEXIST)
        return repl_posix_fail(err, errno, "cannot make the store %s", path);
    store->root_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->root_fd < 0 && errno == ENOENT)
        return repl_fail(err, REPL_E_MISSING,
                         "there is no store %s: write the directory that \"store\" in the site's "
                         "configuration names",
                         path);
    if (store->root_fd < 0)
        return repl_posix_fail(err, errno, "cannot open the store %s", path);
    store->path = realpath(path, NULL);
    if (store->path == NULL)
        return repl_posix_fail(err, errno, "cannot find the path of the store %s", path);
    if (!made)
        return REPL_SUCCESS;
    int parent = openat(store->root_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (parent < 0)
        return repl_posix_fail(err, errno, "cannot open the directory above %s", store->path);
    repl_result result = sync_directory(store, parent, "its name", err);
    close(parent);
    return result;
}

static repl_result store_open(struct posix_store *store, const char *path, bool create,
                              struct repl_error *err)
{
    bool found;
    REPL_TRY(root_open(store, path, create, err));
    REPL_TRY(version_check(store, &found, err));
    if (!found && !create)
        return repl_fail(err, REPL_E_MISSING,
                         "%s is not a store: name the directory that has the file %s, and see "
                         "that its filesystem is mounted",
                         store->path, VERSION_NAME);
    if (!found)
        REPL_TRY(directory_walk(store, store->root_fd, foreign_seen, store, err));
    if (store->writable)
        REPL_TRY(repl_store_lock(store->root_fd, store->path, &store->lock_fd, err));
    if (!found) {
        /* Somebody may have made the store while we waited to hold its lock. */
        REPL_TRY(version_check(store, &found, err));
        if (!found)
            REPL_TRY(store_create(store, err));
    }
    store->volumes_fd = openat(store->root_fd, VOLUMES_NAME, OPEN_DIRECTORY);
    if (store->volumes_fd < 0)
        return repl_posix_fail(err, errno, "cannot open %s/%s", store->path, VOLUMES_NAME);
    return REPL_SUCCESS;
}

static void posix_close(struct repl_store *base)
{
    struct posix_store *store = posix_store_of(base);
    repl_posix_logs_free(store);
    if (store->volumes_fd >= 0)
        close(store->volumes_fd);
    if (store->lock_fd >= 0)
        close(store->lock_fd); /* which releases the lock */
    if (store->root_fd >= 0)
        close(store->root_fd);
    pthread_mutex_destroy(&store->mutex);
    free(store->path);
    free(store);
}

/* Its disk is all that it waits for. */
static void posix_warning(struct repl_store *base, char *text, size_t size)
{
    (void)base;
    snprintf(text, size, "%s", "");
}

static void posix_stop(struct repl_store *base)
{
    (void)base;
}

repl_result repl_posix_store_open(const char *path, bool writable, bool create,
                                  struct repl_store **out, struct repl_error *err)
{
    if (create && !writable)
        return repl_fail(err, REPL_E_INTERNAL, "a store that is created is opened for writing");
    struct posix_store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the store %s", path);
    store->base.ops = &posix_ops;
    store->calls = (struct posix_store_calls){fsync, fdatasync, pwrite};
    store->root_fd = store->volumes_fd = store->lock_fd = -1;
    store->writable = writable;
    pthread_mutex_init(&store->mutex, NULL);
    repl_result result = store_open(store, path, create, err);
    if (!repl_ok(result)) {
        posix_close(&store->base);
        return result;
    }
    *out = &store->base;
    return REPL_SUCCESS;
}

static const struct repl_store_ops posix_ops = {
    .name = "posix",
    .close = posix_close,
    .stop = posix_stop,
    .warning = posix_warning,
    .volumes = posix_volumes,
    .volume_create = posix_volume_create,
    .volume_directory = posix_volume_directory,
    .segments = posix_segments,
    .segment_publish = posix_segment_publish,
    .segment_replace = posix_segment_publish,
    .segment_open = posix_segment_open,
    .segment_look = posix_segment_look,
    .segment_remove = posix_segment_remove,
    .segment_set_aside = posix_segment_set_aside,
    .log_read = repl_posix_log_read,
    .log_append = repl_posix_log_append,
    .log_replace = repl_posix_log_replace,
};
