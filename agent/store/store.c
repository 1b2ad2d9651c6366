/*
 * Which store a location means, and what all stores do alike.
 */
#include "store/store.h"

#include <stdio.h>
#include <string.h>

#define BUCKET_START "s3://"

bool repl_store_is_bucket(const char *location)
{
    return strncmp(location, BUCKET_START, strlen(BUCKET_START)) == 0;
}

repl_result repl_store_open(const struct repl_store_options *options, struct repl_store **out,
                            struct repl_error *err)
{
    if (repl_store_is_bucket(options->location))
        return repl_s3_store_open(options, out, err);
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

repl_result repl_stored_segment_read_at(void *segment, uint64_t offset, void *out, size_t size,
                                        struct repl_error *err)
{
    struct repl_stored_segment *stored = segment;
    return stored->read_at(stored, offset, out, size, err);
}
