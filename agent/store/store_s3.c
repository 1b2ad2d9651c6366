/*
 * The store in a bucket of object storage. Below the location's prefix
 * (docs/formats/bucket.md is the specification):
 *
 *   repl-store                              one line, the version of this layout; written first
 *   writer                                  who writes: store_s3_writer.c
 *   object-lock                             shows that the bucket locks: store_s3_lock.c
 *   volumes/NAME/segments/TO.PART.seg, TO.PART.N.sup
 *   volumes/NAME/log/START, START-END       store_s3_log.c
 *   volumes/NAME/aside/TO.PART.seg.N        found without being part of the history; nothing here
 *                                           reads or removes them
 *
 * and in LOCAL, a directory of this machine, of which nothing is needed to read
 * the history:
 *
 *   lock                    flock of the process that writes
 *   site-id, taking-over    store_s3_writer.c
 *   removing                store_s3_remove.c
 *   volumes/NAME/           replica, and uploads in staging/
 *
 * An object is there whole or not at all, and what was answered with success is
 * durable: that is the service's promise, as that listings and reads see what was
 * written before them. Objects are made under the condition that there is none of
 * that name (If-None-Match), so that a request which was given up and arrives late
 * replaces nothing; whether the service honours it is tried at each opening.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "control/control.h"
#include "store/store_lock.h"
#include "store/store_s3_internal.h"

#define VERSION_KEY  REPL_STORE_VERSION_NAME
#define VOLUMES_NAME "volumes"

#define OPEN_DIRECTORY (O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW)

#define IMPATIENT_MS 3000

const struct s3_store_limits s3_store_limits_default = {
    .client = {.connect_ms = 10000,
               .stall_s = 20,
               .copy_stall_s = 120,
               .attempts = 8,
               .attempts_ms = 45000,
               .short_total_ms = 20000,
               .pause_first_ms = 200,
               .pause_max_ms = 10000},
    .claim_fresh_ms = 10000,
    .claim_valid_ms = 30000,
    .take_over_ms = 45000,
    .late_ms = 60000,
    .merge_pieces = 64,
    .merge_size = 256u << 10,
    .lock_first_ms = 3600 * 1000,
    .lock_again_ms = 600 * 1000,
    .lock_pause_ms = 20,
    .lock_proof_ms = 3600 * 1000,
};

static const struct repl_store_ops s3_ops;

/* --- objects --------------------------------------------------------------------------------- */

static repl_result sha256_of(const void *data, size_t size, struct repl_digest *out,
                             struct repl_error *err)
{
    struct repl_sha256 *sha;
    REPL_TRY(repl_sha256_new(&sha, err));
    repl_sha256_begin(sha);
    repl_sha256_update(sha, data, size);
    repl_sha256_end(sha, out);
    repl_sha256_free(sha);
    return REPL_SUCCESS;
}

repl_result s3_store_put(struct s3_store *store, const char *key, const void *data, size_t size,
                         bool if_absent, bool *existed, struct repl_error *err)
{
    struct repl_digest sha256;
    REPL_TRY(s3_name_check(store, key, err));
    REPL_TRY(sha256_of(data, size, &sha256, err));
    const struct s3_put put = {.key = key,
                               .data = data,
                               .fd = -1,
                               .size = size,
                               .sha256 = &sha256,
                               .if_absent = if_absent,
                               .locked_until_s = s3_lock_until(store, key)};
    return s3_put(store->client, &put, existed, err);
}

/* --- volumes --------------------------------------------------------------------------------- */

static repl_result directory_make(const struct s3_store *store, int parent, const char *name,
                                  int *fd, struct repl_error *err)
{
    bool made = mkdirat(parent, name, 0700) == 0;
    if (!made && errno != EEXIST)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                               "cannot make %s in %s", name, store->local);
    *fd = openat(parent, name, OPEN_DIRECTORY);
    if (*fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open %s in %s", name, store->local);
    return REPL_SUCCESS;
}

/* Nothing in them has to survive a power cut, so neither have they. */
static repl_result local_volume_make(struct s3_store *store, const char *volume,
                                     struct repl_error *err)
{
    const char *const names[] = {VOLUMES_NAME, volume, REPL_STORE_STAGING_NAME};
    int parent = store->local_fd;
    repl_result result = REPL_SUCCESS;
    for (size_t i = 0; repl_ok(result) && i < sizeof names / sizeof names[0]; i++) {
        int fd = -1;
        result = directory_make(store, parent, names[i], &fd, err);
        if (parent != store->local_fd)
            close(parent);
        parent = fd;
    }
    if (parent >= 0)
        close(parent);
    return result;
}

struct volume_walk {
    repl_volume_visit_fn *visit;
    void *context;
};

static repl_result volume_seen(void *context, const char *key, uint64_t size, bool is_prefix,
                               struct repl_error *err)
{
    const struct volume_walk *walk = context;
    char name[REPL_VOLUME_NAME_SIZE + 1];
    const char *begin = key + strlen(S3_VOLUMES_PREFIX);
    size_t length = strcspn(begin, "/");
    (void)size;
    if (!is_prefix || length == 0 || length > REPL_VOLUME_NAME_SIZE || begin[0] == '.')
        return REPL_SUCCESS;
    memcpy(name, begin, length);
    name[length] = '\0';
    return walk->visit(walk->context, name, err);
}

static repl_result s3_volumes(struct repl_store *base, repl_volume_visit_fn *visit, void *context,
                              struct repl_error *err)
{
    struct volume_walk walk = {.visit = visit, .context = context};
    return s3_list(s3_store_of(base)->client, S3_VOLUMES_PREFIX, true, volume_seen, &walk, err);
}

/* In the bucket a volume begins with the first piece of its log. */
static repl_result s3_volume_create(struct repl_store *base, const char *volume,
                                    struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    REPL_TRY(repl_store_check_volume(volume, err));
    REPL_TRY(s3_claim_begin(store, err));
    return local_volume_make(store, volume, err);
}

static repl_result s3_volume_directory(const struct repl_store *base, const char *volume,
                                       char *path, size_t path_size, struct repl_error *err)
{
    const struct s3_store *store = (const struct s3_store *)base;
    REPL_TRY(repl_store_check_volume(volume, err));
    if (store->local == NULL)
        return repl_fail(err, REPL_E_MISSING,
                         "the store %s was opened without a directory on this machine",
                         store->location);
    int size = snprintf(path, path_size, "%s/" VOLUMES_NAME "/%s", store->local, volume);
    if (size < 0 || (size_t)size >= path_size)
        return repl_fail(err, REPL_E_USAGE, "the path %s is too long: move it", store->local);
    return REPL_SUCCESS;
}

/* --- opening: the version -------------------------------------------------------------------- */

static repl_result foreign_seen(void *context, const char *key, uint64_t size, bool is_prefix,
                                struct repl_error *err)
{
    const struct s3_store *store = context;
    (void)size, (void)is_prefix;
    return repl_fail(err, REPL_E_REFUSED,
                     "%s is not a store and not empty (it has \"%.200s\"): name an empty prefix",
                     store->location, key);
}

static repl_result version_check(struct s3_store *store, struct repl_error *err)
{
    struct repl_buffer text = {0};
    repl_result result = s3_get_all(store->client, VERSION_KEY, 64, &text, err);
    size_t size = text.size;
    if (repl_ok(result))
        result = repl_buffer_append(&text, "", 1, err);
    if (repl_ok(result))
        result = repl_store_version_check((const char *)text.data, size, store->location, err);
    repl_buffer_fini(&text);
    return result;
}

static repl_result version_put(struct s3_store *store, bool *existed, struct repl_error *err)
{
    static const char text[] = REPL_STORE_VERSION_TEXT;
    return s3_store_put(store, VERSION_KEY, text, sizeof text - 1, true, existed, err);
}

static repl_result version_make(struct s3_store *store, bool create, struct repl_error *err)
{
    bool existed;
    repl_result result = version_check(store, err);
    if (result.code != REPL_E_MISSING)
        return result;
    if (!create)
        return repl_fail(err, REPL_E_MISSING,
                         "%s is not a store: it has no object %s; name the prefix of one",
                         store->location, VERSION_KEY);
    REPL_TRY(s3_list(store->client, "", true, foreign_seen, store, err));
    REPL_TRY(version_put(store, &existed, err));
    return version_check(store, err);
}

/* It is there by now. */
static repl_result condition_try(struct s3_store *store, struct repl_error *err)
{
    bool existed;
    REPL_TRY(version_put(store, &existed, err));
    if (!existed)
        repl_log(LOG_WARNING,
                 "store %s: the service does not honour If-None-Match, so a request that was given "
                 "up and arrives late can replace an object: let no more than one site use it, "
                 "ever",
                 store->location);
    return REPL_SUCCESS;
}

/* --- opening: this machine's side ------------------------------------------------------------ */

static repl_result local_open(struct s3_store *store, const char *path, struct repl_error *err)
{
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                               "cannot make the directory %s", path);
    store->local = realpath(path, NULL);
    if (store->local == NULL)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot find the path of %s", path);
    store->local_fd = open(store->local, OPEN_DIRECTORY);
    if (store->local_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open the directory %s", store->local);
    return repl_store_lock(store->local_fd, store->local, &store->lock_fd, err);
}

static repl_result local_volume_seen(void *context, const char *volume, struct repl_error *err)
{
    return local_volume_make(context, volume, err);
}

static repl_result open_writable(struct s3_store *store, const struct repl_store_options *options,
                                 struct repl_error *err)
{
    if (options->local == NULL)
        return repl_fail(err, REPL_E_INTERNAL,
                         "a bucket that is written to takes a directory on this machine");
    REPL_TRY(local_open(store, options->local, err));
    REPL_TRY(version_make(store, options->create, err));
    REPL_TRY(condition_try(store, err));
    REPL_TRY(s3_claim_take(store, options->take_over, err));
    REPL_TRY(s3_removals_wait(store, err));
    if (store->lock_ms != 0) {
        REPL_TRY(s3_lock_prove(store, err));
        REPL_TRY(s3_locker_start(store, err));
    }
    return s3_volumes(&store->base, local_volume_seen, store, err);
}

static void say_if_plain(const struct s3_store *store)
{
    const char *endpoint = s3_client_settings(store->client)->endpoint;
    if (strncmp(endpoint, "http://", 7) == 0)
        repl_log(LOG_WARNING,
                 "store %s: the endpoint %s is without TLS, so whoever is on the line can read "
                 "what is stored",
                 store->location, endpoint);
}

static repl_result store_open(struct s3_store *store, const struct repl_store_options *options,
                              struct repl_error *err)
{
    struct s3_settings settings;
    store->location = strdup(options->location);
    if (store->location == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the store %s", options->location);
    REPL_TRY(s3_settings_load(options->location, options->s3, &settings, err));
    REPL_TRY(s3_client_new(&settings, &store->limits.client, &store->client, err));
    say_if_plain(store);
    return store->writable ? open_writable(store, options, err) : version_make(store, false, err);
}

static void s3_stop(struct repl_store *base)
{
    s3_client_stop(s3_store_of(base)->client);
}

static void s3_close(struct repl_store *base)
{
    struct s3_store *store = s3_store_of(base);
    s3_locker_end(store);
    s3_claim_release(store);
    s3_logs_free(store);
    s3_recent_fini(&store->recent);
    s3_client_free(store->client);
    if (store->lock_fd >= 0)
        close(store->lock_fd); /* which releases the lock */
    if (store->local_fd >= 0)
        close(store->local_fd);
    pthread_mutex_destroy(&store->removals.mutex);
    pthread_mutex_destroy(&store->claim.mutex);
    pthread_mutex_destroy(&store->mutex);
    free(store->local);
    free(store->location);
    free(store);
}

repl_result s3_store_open_with(const struct repl_store_options *options,
                               const struct s3_store_limits *limits, struct repl_store **out,
                               struct repl_error *err)
{
    if (options->create && !options->writable)
        return repl_fail(err, REPL_E_INTERNAL, "a store that is created is opened for writing");
    struct s3_store *store = calloc(1, sizeof *store);
    if (store == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the store %s", options->location);
    store->base.ops = &s3_ops;
    store->base.late_ms = limits->late_ms;
    store->limits = *limits;
    store->local_fd = store->lock_fd = -1;
    store->writable = options->writable;
    store->lock_ms = options->writable ? options->object_lock_ms : 0;
    pthread_mutex_init(&store->mutex, NULL);
    pthread_mutex_init(&store->claim.mutex, NULL);
    pthread_mutex_init(&store->removals.mutex, NULL);
    s3_recent_init(&store->recent);
    repl_result result = store_open(store, options, err);
    if (!repl_ok(result)) {
        s3_close(&store->base);
        return result;
    }
    *out = &store->base;
    return REPL_SUCCESS;
}

repl_result repl_s3_store_open(const struct repl_store_options *options, struct repl_store **out,
                               struct repl_error *err)
{
    struct s3_store_limits limits = s3_store_limits_default;
    if (options->impatient) {
        limits.client.connect_ms = IMPATIENT_MS;
        limits.client.stall_s = IMPATIENT_MS / 1000;
        limits.client.attempts = 2;
        limits.client.attempts_ms = IMPATIENT_MS;
    }
    return s3_store_open_with(options, &limits, out, err);
}

static const struct repl_store_ops s3_ops = {
    .name = "s3",
    .close = s3_close,
    .stop = s3_stop,
    .warning = s3_locker_warning,
    .volumes = s3_volumes,
    .volume_create = s3_volume_create,
    .volume_directory = s3_volume_directory,
    .segments = s3_segments,
    .segment_publish = s3_segment_publish,
    .segment_replace = s3_segment_replace,
    .segment_open = s3_segment_open,
    .segment_look = s3_segment_look,
    .segment_remove = s3_segment_remove,
    .segment_set_aside = s3_segment_set_aside,
    .log_read = s3_log_read,
    .log_append = s3_log_append,
    .log_replace = s3_log_replace,
};
