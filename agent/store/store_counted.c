#include "store/store_counted.h"

#include <errno.h>
#include <pthread.h>
#include <search.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/limits.h"

struct repl_store_usage {
    char name[REPL_VOLUME_NAME_SIZE + 1];
    _Atomic uint64_t bytes;
    /* under the store's mutex */
    bool listed; /* what was there before has been counted */
    uint64_t log_begin, log_bytes;
    /* The segment that was published last, or may have been. It may be replaced or removed, as long
     * as it is not committed. */
    bool has_latest;
    struct repl_segment_id latest;
    uint64_t latest_bytes;
};

struct counted_store {
    struct repl_store base;
    struct repl_store *inner;
    _Atomic uint64_t total;
    pthread_mutex_t mutex; /* never held over a call of inner */
    void *usages;          /* a tree of struct repl_store_usage, by name */
};

static const struct repl_store_ops counted_ops;

static struct counted_store *counted_of(struct repl_store *base)
{
    return (struct counted_store *)base;
}

/* --- counting -------------------------------------------------------------------------------- */

static int usage_order(const void *a, const void *b)
{
    const struct repl_store_usage *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Under the mutex. NULL: out of memory. */
static struct repl_store_usage *usage_find(struct counted_store *store, const char *volume)
{
    struct repl_store_usage *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    snprintf(made->name, sizeof made->name, "%s", volume);
    struct repl_store_usage **place = tsearch(made, &store->usages, usage_order);
    if (place == NULL || *place != made)
        free(made);
    return place != NULL ? *place : NULL;
}

repl_result repl_store_usage_of(struct repl_store *counted, const char *volume,
                                struct repl_store_usage **out, struct repl_error *err)
{
    struct counted_store *store = counted_of(counted);
    REPL_TRY(repl_store_check_volume(volume, err));
    pthread_mutex_lock(&store->mutex);
    *out = usage_find(store, volume);
    pthread_mutex_unlock(&store->mutex);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory to count what volume %s holds", volume);
    return REPL_SUCCESS;
}

uint64_t repl_store_usage_bytes(const struct repl_store_usage *usage)
{
    return atomic_load(&usage->bytes);
}

uint64_t repl_store_usage_total(const struct repl_store *counted)
{
    return atomic_load(&((const struct counted_store *)counted)->total);
}

/* Under the mutex: what was old bytes has become bytes. */
static void usage_change(struct counted_store *store, struct repl_store_usage *usage, uint64_t old,
                         uint64_t bytes)
{
    atomic_fetch_add(&usage->bytes, bytes - old);
    atomic_fetch_add(&store->total, bytes - old);
}

static bool is_latest(const struct repl_store_usage *usage, const struct repl_segment_id *id)
{
    return usage->has_latest && usage->latest.to_seq == id->to_seq &&
           usage->latest.part == id->part && usage->latest.supply == id->supply &&
           usage->latest.merge == id->merge;
}

/* --- segments -------------------------------------------------------------------------------- */

struct counting_walk {
    repl_segment_visit_fn *visit;
    void *context;
    uint64_t bytes;
};

static repl_result segment_counted(void *context, const struct repl_segment_id *id, uint64_t size,
                                   struct repl_error *err)
{
    struct counting_walk *walk = context;
    walk->bytes += size;
    return walk->visit(walk->context, id, size, err);
}

/* The first whole list says what is there; from then on it is known. */
static repl_result counted_segments(struct repl_store *base, const char *volume,
                                    repl_segment_visit_fn *visit, void *context,
                                    struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    struct counting_walk walk = {.visit = visit, .context = context};
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    REPL_TRY(store->inner->ops->segments(store->inner, volume, segment_counted, &walk, err));
    pthread_mutex_lock(&store->mutex);
    if (!usage->listed)
        usage_change(store, usage, 0, walk.bytes);
    usage->listed = true;
    pthread_mutex_unlock(&store->mutex);
    return REPL_SUCCESS;
}

static void published(struct counted_store *store, struct repl_store_usage *usage,
                      const struct repl_segment_id *id, uint64_t bytes, bool good)
{
    bool received = id->merge == 0 && id->supply == 0;
    pthread_mutex_lock(&store->mutex);
    if (is_latest(usage, id))
        usage_change(store, usage, usage->latest_bytes, 0);
    /* Where it failed the segment may be there all the same, and whoever made it sees to it. */
    if (good || received)
        usage_change(store, usage, 0, bytes);
    usage->listed = true; /* a volume that was not there at the start */
    if (received) {
        usage->has_latest = true;
        usage->latest = *id;
        usage->latest_bytes = bytes;
    }
    pthread_mutex_unlock(&store->mutex);
}

static repl_result counted_publish(struct repl_store *base, const char *volume,
                                   const struct repl_segment_id *id, int fd,
                                   const char *staged_path, struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    struct stat status;
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    if (fstat(fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine the staged segment %s",
                               staged_path);
    repl_result result =
        store->inner->ops->segment_publish(store->inner, volume, id, fd, staged_path, err);
    published(store, usage, id, (uint64_t)status.st_size, repl_ok(result));
    return result;
}

/* As many bytes as before. */
/* What goes when the segment does; 0: nothing that could be told. */
static uint64_t bytes_of(struct counted_store *store, struct repl_store_usage *usage,
                         const struct repl_segment_id *id)
{
    struct repl_stored_segment *file;
    pthread_mutex_lock(&store->mutex);
    bool latest = is_latest(usage, id);
    uint64_t bytes = latest ? usage->latest_bytes : 0;
    pthread_mutex_unlock(&store->mutex);
    if (latest ||
        !repl_ok(store->inner->ops->segment_open(store->inner, usage->name, id, 0, &file, NULL)))
        return bytes;
    bytes = file->size;
    file->close(file);
    return bytes;
}

/* A segment has the size that it had; a supply that takes another one's place may have another. */
static repl_result counted_replace(struct repl_store *base, const char *volume,
                                   const struct repl_segment_id *id, int fd,
                                   const char *staged_path, struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    struct stat status;
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    if (fstat(fd, &status) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot examine the staged segment %s",
                               staged_path);
    uint64_t size = (uint64_t)status.st_size;
    uint64_t bytes = id->supply != 0 ? bytes_of(store, usage, id) : size;
    REPL_TRY(store->inner->ops->segment_replace(store->inner, volume, id, fd, staged_path, err));
    pthread_mutex_lock(&store->mutex);
    usage_change(store, usage, bytes, size);
    pthread_mutex_unlock(&store->mutex);
    return REPL_SUCCESS;
}

static void removed(struct counted_store *store, struct repl_store_usage *usage,
                    const struct repl_segment_id *id, uint64_t bytes)
{
    pthread_mutex_lock(&store->mutex);
    usage_change(store, usage, bytes, 0);
    if (is_latest(usage, id))
        usage->has_latest = false;
    pthread_mutex_unlock(&store->mutex);
}

static repl_result counted_remove(struct repl_store *base, const char *volume,
                                  const struct repl_segment_id *id, struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    uint64_t bytes = bytes_of(store, usage, id);
    REPL_TRY(store->inner->ops->segment_remove(store->inner, volume, id, err));
    removed(store, usage, id, bytes);
    return REPL_SUCCESS;
}

static repl_result counted_set_aside(struct repl_store *base, const char *volume,
                                     const struct repl_segment_id *id, char *name, size_t name_size,
                                     struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    uint64_t bytes = bytes_of(store, usage, id);
    REPL_TRY(store->inner->ops->segment_set_aside(store->inner, volume, id, name, name_size, err));
    removed(store, usage, id, bytes);
    return REPL_SUCCESS;
}

/* --- logs ------------------------------------------------------------------------------------ */

static void log_is(struct counted_store *store, struct repl_store_usage *usage, uint64_t begin,
                   uint64_t bytes)
{
    pthread_mutex_lock(&store->mutex);
    usage_change(store, usage, usage->log_bytes, bytes);
    usage->log_begin = begin;
    usage->log_bytes = bytes;
    pthread_mutex_unlock(&store->mutex);
}

static void log_ends(struct counted_store *store, struct repl_store_usage *usage, uint64_t end)
{
    pthread_mutex_lock(&store->mutex);
    usage_change(store, usage, usage->log_bytes, end - usage->log_begin);
    usage->log_bytes = end - usage->log_begin;
    pthread_mutex_unlock(&store->mutex);
}

static repl_result counted_log_read(struct repl_store *base, const char *volume,
                                    struct repl_buffer *out, uint64_t *begin,
                                    struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    uint64_t from;
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    REPL_TRY(store->inner->ops->log_read(store->inner, volume, out, &from, err));
    log_is(store, usage, from, out->size);
    if (begin != NULL)
        *begin = from;
    return REPL_SUCCESS;
}

static repl_result counted_log_append(struct repl_store *base, const char *volume, uint64_t end,
                                      const void *data, size_t size, struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    REPL_TRY(store->inner->ops->log_append(store->inner, volume, end, data, size, err));
    log_ends(store, usage, end + size);
    return REPL_SUCCESS;
}

static repl_result counted_log_replace(struct repl_store *base, const char *volume,
                                       const void *data, size_t size, uint64_t *end,
                                       struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    struct repl_store_usage *usage;
    REPL_TRY(repl_store_usage_of(base, volume, &usage, err));
    REPL_TRY(store->inner->ops->log_replace(store->inner, volume, data, size, end, err));
    log_is(store, usage, *end - size, size);
    return REPL_SUCCESS;
}

/* --- what is passed on ----------------------------------------------------------------------- */

static void counted_close(struct repl_store *base)
{
    struct counted_store *store = counted_of(base);
    store->inner->ops->close(store->inner);
    tdestroy(store->usages, free);
    pthread_mutex_destroy(&store->mutex);
    free(store);
}

static void counted_stop(struct repl_store *base)
{
    struct counted_store *store = counted_of(base);
    store->inner->ops->stop(store->inner);
}

static void counted_warning(struct repl_store *base, char *text, size_t size)
{
    struct counted_store *store = counted_of(base);
    store->inner->ops->warning(store->inner, text, size);
}

static repl_result counted_volumes(struct repl_store *base, repl_volume_visit_fn *visit,
                                   void *context, struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    return store->inner->ops->volumes(store->inner, visit, context, err);
}

static repl_result counted_volume_create(struct repl_store *base, const char *volume,
                                         struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    return store->inner->ops->volume_create(store->inner, volume, err);
}

static repl_result counted_volume_directory(const struct repl_store *base, const char *volume,
                                            char *path, size_t path_size, struct repl_error *err)
{
    const struct counted_store *store = (const struct counted_store *)base;
    return store->inner->ops->volume_directory(store->inner, volume, path, path_size, err);
}

static repl_result counted_segment_open(struct repl_store *base, const char *volume,
                                        const struct repl_segment_id *id, uint64_t size,
                                        struct repl_stored_segment **out, struct repl_error *err)
{
    struct counted_store *store = counted_of(base);
    return store->inner->ops->segment_open(store->inner, volume, id, size, out, err);
}

static repl_result counted_segment_look(struct repl_store *base, const char *volume,
                                        const struct repl_segment_id *id, bool *there,
                                        struct repl_error *err)
{
    struct repl_store *inner = counted_of(base)->inner;
    return inner->ops->segment_look(inner, volume, id, there, err);
}

struct repl_store *repl_store_counted_inner(struct repl_store *counted)
{
    return counted_of(counted)->inner;
}

repl_result repl_store_counted(struct repl_store *inner, struct repl_store **out,
                               struct repl_error *err)
{
    struct counted_store *store = calloc(1, sizeof *store);
    if (store == NULL) {
        inner->ops->close(inner);
        return repl_fail(err, REPL_E_NOMEM, "no memory for the store");
    }
    store->base.ops = &counted_ops;
    store->base.late_ms = inner->late_ms;
    store->inner = inner;
    pthread_mutex_init(&store->mutex, NULL);
    *out = &store->base;
    return REPL_SUCCESS;
}

static const struct repl_store_ops counted_ops = {
    .name = "counted",
    .close = counted_close,
    .stop = counted_stop,
    .warning = counted_warning,
    .volumes = counted_volumes,
    .volume_create = counted_volume_create,
    .volume_directory = counted_volume_directory,
    .segments = counted_segments,
    .segment_publish = counted_publish,
    .segment_replace = counted_replace,
    .segment_open = counted_segment_open,
    .segment_look = counted_segment_look,
    .segment_remove = counted_remove,
    .segment_set_aside = counted_set_aside,
    .log_read = counted_log_read,
    .log_append = counted_log_append,
    .log_replace = counted_log_replace,
};
