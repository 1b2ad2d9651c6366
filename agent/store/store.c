/*
 * Which store a location means, and what all stores do alike.
 */
#include "store/store.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/limits.h"
#include "segment/segment_reader.h"

#define BUCKET_START  "s3://"
#define VERSION_START "repl store, version "
#define STORE_VERSION 1u

bool repl_store_is_bucket(const char *location)
{
    return strncmp(location, BUCKET_START, strlen(BUCKET_START)) == 0;
}

repl_result repl_store_open(const struct repl_store_options *options, struct repl_store **out,
                            struct repl_error *err)
{
    if (repl_store_is_bucket(options->location))
        return repl_s3_store_open(options, out, err);
    if (options->object_lock_ms != 0)
        return repl_fail(err, REPL_E_USAGE,
                         "object_lock is for a store in a bucket, and %s is a directory: remove it",
                         options->location);
    return repl_posix_store_open(options->location, options->writable, options->create, out, err);
}

repl_result repl_store_staging(const struct repl_store *store, const char *volume, char *path,
                               size_t path_size, struct repl_error *err)
{
    REPL_TRY(store->ops->volume_directory(store, volume, path, path_size, err));
    size_t used = strlen(path);
    int size = snprintf(path + used, path_size - used, "/" REPL_STORE_STAGING_NAME);
    if (size < 0 || (size_t)size >= path_size - used)
        return repl_fail(err, REPL_E_USAGE, "the path of the store is too long: move it");
    return REPL_SUCCESS;
}

repl_result repl_store_version_check(const char *text, size_t size, const char *path,
                                     struct repl_error *err)
{
    unsigned version = 0;
    int end = 0;
    if (strlen(text) != size || sscanf(text, VERSION_START "%9u\n%n", &version, &end) != 1 ||
        (size_t)end != size)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s/%s is not what a store begins with: bring it back from a backup", path,
                         REPL_STORE_VERSION_NAME);
    if (version != STORE_VERSION)
        return repl_fail(err, REPL_E_VERSION,
                         "the store %s has layout version %u, and this version of repl knows %u: "
                         "use the release that wrote it, or a later one",
                         path, version, STORE_VERSION);
    return REPL_SUCCESS;
}

repl_result repl_store_check_volume(const char *volume, struct repl_error *err)
{
    if (volume[0] == '\0' || volume[0] == '.' || strchr(volume, '/') != NULL ||
        strlen(volume) > REPL_VOLUME_NAME_SIZE)
        return repl_fail(err, REPL_E_INTERNAL, "\"%.80s\" is not a name for a volume", volume);
    return REPL_SUCCESS;
}

repl_result repl_store_check_staged(int fd, const char *path, struct repl_error *err)
{
    struct stat behind, named;
    if (fstat(fd, &behind) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine the staged segment %s", path);
    if (lstat(path, &named) != 0)
        return repl_fail_errno(err, errno == ENOENT ? REPL_E_MISSING : REPL_E_IO, errno,
                               "cannot examine the staged segment %s", path);
    if (behind.st_dev != named.st_dev || behind.st_ino != named.st_ino || !S_ISREG(behind.st_mode))
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is another file than the one that was received: upload it again",
                         path);
    return REPL_SUCCESS;
}

repl_result repl_stored_segment_read_at(void *segment, uint64_t offset, void *out, size_t size,
                                        struct repl_error *err)
{
    struct repl_stored_segment *stored = segment;
    return stored->read_at(stored, offset, out, size, err);
}

repl_result repl_store_open_segment(struct repl_store *store, const char *volume,
                                    const struct repl_segment_id *id, uint64_t size,
                                    struct repl_stored_segment **file,
                                    struct repl_segment **segment, struct repl_error *err)
{
    *file = NULL;
    *segment = NULL;
    REPL_TRY(store->ops->segment_open(store, volume, id, size, file, err));
    repl_result result =
        repl_segment_open(repl_stored_segment_read_at, *file, (*file)->size, segment, err);
    result = repl_forward(result, err, "%s", (*file)->label);
    if (!repl_ok(result)) {
        (*file)->close(*file);
        *file = NULL;
        *segment = NULL;
    }
    return result;
}
