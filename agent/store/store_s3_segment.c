/*
 * The segments of a store in a bucket. A segment is one object, made by one PUT
 * whose hash is signed, with its SHA-256 beside it: so a request that was given up
 * and had been carried out is known again without reading it.
 *
 * Of an open segment the last bytes are kept in memory once anything in them has
 * been asked for: a small one is read by one request, and footer and index of a
 * large one by another. One that was published lately is read from its file.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/read_full.h"
#include "store/segment_name.h"
#include "store/store_s3_internal.h"

#define TAIL_SIZE (256u << 10)
#define READ_SIZE (1u << 20)
#define ASIDE_MAX 10000u

static repl_result segment_key(const char *volume, const char *below,
                               const struct repl_segment_id *id, char key[S3_STORE_KEY_SIZE],
                               struct repl_error *err)
{
    char name[REPL_SEGMENT_NAME_SIZE];
    REPL_TRY(repl_store_check_volume(volume, err));
    REPL_TRY(repl_segment_id_check(id, err));
    repl_segment_name_format(id, name);
    snprintf(key, S3_STORE_KEY_SIZE, S3_VOLUMES_PREFIX "%s/%s/%s", volume, below, name);
    return REPL_SUCCESS;
}

/* --- segments: listing, publishing, removing ------------------------------------------------- */

struct segment_walk {
    repl_segment_visit_fn *visit;
    void *context;
    size_t prefix_size;
};

static repl_result segment_seen(void *context, const char *key, uint64_t size, bool is_prefix,
                                struct repl_error *err)
{
    const struct segment_walk *walk = context;
    struct repl_segment_id id;
    if (is_prefix || !repl_segment_name_parse(key + walk->prefix_size, &id))
        return REPL_SUCCESS;
    return walk->visit(walk->context, &id, size, err);
}

repl_result s3_segments(struct repl_store *base, const char *volume, repl_segment_visit_fn *visit,
                        void *context, struct repl_error *err)
{
    char prefix[S3_STORE_KEY_SIZE];
    REPL_TRY(repl_store_check_volume(volume, err));
    snprintf(prefix, sizeof prefix, S3_VOLUMES_PREFIX "%s/segments/", volume);
    struct segment_walk walk = {.visit = visit, .context = context, .prefix_size = strlen(prefix)};
    return s3_list(s3_store_of(base)->client, prefix, true, segment_seen, &walk, err);
}

static repl_result file_hash(int fd, const char *path, struct repl_sha256 *sha, uint8_t *bytes,
                             uint64_t *size, struct repl_error *err)
{
    for (*size = 0;;) {
        ssize_t got = repl_read_full(fd, bytes, READ_SIZE, *size);
        if (got < 0)
            return repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", path);
        repl_sha256_update(sha, bytes, (size_t)got);
        *size += (uint64_t)got;
        if ((size_t)got < READ_SIZE)
            return REPL_SUCCESS;
    }
}

static repl_result file_examine(int fd, const char *path, uint64_t *size,
                                struct repl_digest *sha256, struct repl_error *err)
{
    struct repl_sha256 *sha;
    REPL_TRY(repl_sha256_new(&sha, err));
    uint8_t *bytes = malloc(READ_SIZE);
    repl_sha256_begin(sha);
    repl_result result = bytes != NULL ? file_hash(fd, path, sha, bytes, size, err)
                                       : repl_fail(err, REPL_E_NOMEM, "out of memory for %s", path);
    repl_sha256_end(sha, sha256);
    repl_sha256_free(sha);
    free(bytes);
    return result;
}

/* Whether the object is what put is about. */
static repl_result object_is(struct s3_store *store, const struct s3_put *put, bool *same,
                             struct repl_error *err)
{
    struct s3_head head;
    repl_result result = s3_head(store->client, put->key, &head, err);
    *same = repl_ok(result) && head.size == put->size && head.has_sha256 &&
            repl_digest_equal(&head.sha256, put->sha256);
    return result.code == REPL_E_MISSING ? REPL_SUCCESS : result;
}

/* Where there is one already, it is an earlier attempt at this one, or was never committed. */
static repl_result segment_put(struct s3_store *store, const struct s3_put *put,
                               struct repl_error *err)
{
    bool existed, same = true;
    REPL_TRY(s3_name_check(store, put->key, err));
    REPL_TRY(s3_put(store->client, put, &existed, err));
    if (existed)
        REPL_TRY(object_is(store, put, &same, err));
    if (same)
        return REPL_SUCCESS;
    REPL_TRY(s3_claim_begin(store, err));
    REPL_TRY(s3_store_remove(store, put->key, err));
    REPL_TRY(s3_name_check(store, put->key, err));
    REPL_TRY(s3_put(store->client, put, &existed, err));
    if (existed)
        return repl_fail(err, REPL_E_RETRY,
                         "%s: another object came in between, as of a request that was given up",
                         put->key);
    return REPL_SUCCESS;
}

repl_result s3_segment_publish(struct repl_store *base, const char *volume,
                               const struct repl_segment_id *id, int fd, const char *staged_path,
                               struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    char key[S3_STORE_KEY_SIZE];
    struct repl_digest sha256;
    struct s3_put put = {
        .key = key, .fd = fd, .sha256 = &sha256, .if_absent = true, .note_sha256 = true};
    REPL_TRY(segment_key(volume, "segments", id, key, err));
    REPL_TRY(s3_claim_begin(store, err));
    REPL_TRY(repl_store_check_staged(fd, staged_path, err));
    s3_recent_remove(&store->recent, key);
    REPL_TRY(file_examine(fd, staged_path, &put.size, &sha256, err));
    put.locked_until_s = s3_lock_until(store, key);
    REPL_TRY(segment_put(store, &put, err));
    REPL_TRY(s3_claim_end(store, err));
    if (unlink(staged_path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove %s", staged_path);
    s3_recent_add(&store->recent, key, fd, put.size);
    return REPL_SUCCESS;
}

/* One PUT without a condition, over what is damaged: whoever reads meanwhile has the one or the
 * other. One that was given up and comes late says the same, or makes an object that the history
 * does not need any more. */
repl_result s3_segment_replace(struct repl_store *base, const char *volume,
                               const struct repl_segment_id *id, int fd, const char *staged_path,
                               struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    char key[S3_STORE_KEY_SIZE];
    struct repl_digest sha256;
    struct s3_put put = {.key = key, .fd = fd, .sha256 = &sha256, .note_sha256 = true};
    bool existed;
    REPL_TRY(segment_key(volume, "segments", id, key, err));
    REPL_TRY(s3_claim_begin(store, err));
    REPL_TRY(repl_store_check_staged(fd, staged_path, err));
    REPL_TRY(file_examine(fd, staged_path, &put.size, &sha256, err));
    put.locked_until_s = s3_lock_until(store, key);
    s3_recent_remove(&store->recent, key);
    REPL_TRY(s3_put(store->client, &put, &existed, err));
    REPL_TRY(s3_claim_end(store, err));
    if (unlink(staged_path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove %s", staged_path);
    return REPL_SUCCESS;
}

repl_result s3_segment_remove(struct repl_store *base, const char *volume,
                              const struct repl_segment_id *id, struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    char key[S3_STORE_KEY_SIZE];
    REPL_TRY(segment_key(volume, "segments", id, key, err));
    REPL_TRY(s3_claim_begin(store, err));
    s3_recent_remove(&store->recent, key);
    return s3_store_remove(store, key, err);
}

/* --- segments: setting aside ----------------------------------------------------------------- */

struct aside_walk {
    size_t prefix_size;
    unsigned next; /* behind all that are there */
};

static repl_result aside_seen(void *context, const char *key, uint64_t size, bool is_prefix,
                              struct repl_error *err)
{
    struct aside_walk *walk = context;
    const char *number = key + walk->prefix_size;
    (void)size, (void)err;
    size_t digits = strspn(number, "0123456789");
    if (!is_prefix && digits > 0 && digits < 9 && number[digits] == '\0' &&
        strtoul(number, NULL, 10) >= walk->next)
        walk->next = (unsigned)strtoul(number, NULL, 10) + 1;
    return REPL_SUCCESS;
}

repl_result s3_segment_set_aside(struct repl_store *base, const char *volume,
                                 const struct repl_segment_id *id, char *name, size_t name_size,
                                 struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    char from[S3_STORE_KEY_SIZE], to[S3_STORE_KEY_SIZE];
    struct aside_walk walk = {.next = 1};
    name[0] = '\0';
    REPL_TRY(segment_key(volume, "segments", id, from, err));
    REPL_TRY(segment_key(volume, "aside", id, to, err));
    REPL_TRY(s3_claim_begin(store, err));
    s3_recent_remove(&store->recent, from);
    strcat(to, ".");
    walk.prefix_size = strlen(to);
    REPL_TRY(s3_list(store->client, to, true, aside_seen, &walk, err));
    if (walk.next > ASIDE_MAX)
        return repl_fail(err, REPL_E_REFUSED, "there are %u objects %s set aside: remove some",
                         ASIDE_MAX, to);
    snprintf(to + walk.prefix_size, sizeof to - walk.prefix_size, "%u", walk.next);
    repl_result result = s3_copy(store->client, from, to, err);
    if (result.code == REPL_E_MISSING)
        return REPL_SUCCESS;
    REPL_TRY(result);
    REPL_TRY(s3_claim_begin(store, err));
    REPL_TRY(s3_store_remove(store, from, err));
    snprintf(name, name_size, "%s", to + strlen(S3_VOLUMES_PREFIX) + strlen(volume) + 1);
    return REPL_SUCCESS;
}

/* --- segments: reading ----------------------------------------------------------------------- */

struct s3_segment {
    struct repl_stored_segment base;
    struct s3_client *client;
    char key[S3_STORE_KEY_SIZE];
    pthread_mutex_t mutex; /* guards tail, also while it is read */
    uint8_t *tail;         /* the last bytes; NULL: not asked for yet */
    size_t tail_size;
};

static repl_result tail_load(struct s3_segment *segment, struct repl_error *err)
{
    if (segment->tail != NULL)
        return REPL_SUCCESS;
    uint8_t *tail = malloc(segment->tail_size);
    if (tail == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %s", segment->base.label);
    repl_result result =
        s3_get(segment->client, segment->key, segment->base.size - segment->tail_size, tail,
               segment->tail_size, err);
    if (repl_ok(result))
        segment->tail = tail;
    else
        free(tail);
    return result;
}

static repl_result tail_read(struct s3_segment *segment, size_t offset, void *out, size_t size,
                             struct repl_error *err)
{
    pthread_mutex_lock(&segment->mutex);
    repl_result result = tail_load(segment, err);
    pthread_mutex_unlock(&segment->mutex);
    if (repl_ok(result)) /* once it is there, it stays as it is */
        memcpy(out, segment->tail + offset, size);
    return result;
}

static repl_result file_read(const struct s3_segment *segment, uint64_t offset, void *out,
                             size_t size, struct repl_error *err)
{
    ssize_t got = repl_read_full(segment->base.fd, out, size, offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read its file at byte %" PRIu64,
                               offset);
    if ((size_t)got < size)
        return repl_fail(err, REPL_E_CORRUPT, "its file became shorter");
    return REPL_SUCCESS;
}

static repl_result s3_read_at(struct repl_stored_segment *base, uint64_t offset, void *out,
                              size_t size, struct repl_error *err)
{
    struct s3_segment *segment = (struct s3_segment *)base;
    if (offset > base->size || size > base->size - offset)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s has %" PRIu64 " bytes, and %zu from byte %" PRIu64 " were asked for",
                         base->label, base->size, size, offset);
    if (base->fd >= 0)
        return repl_forward(file_read(segment, offset, out, size, err), err, "%s", base->label);
    uint64_t tail_from = base->size - segment->tail_size;
    size_t before = offset >= tail_from         ? 0
                    : size < tail_from - offset ? size
                                                : (size_t)(tail_from - offset);
    repl_result result = REPL_SUCCESS;
    if (before > 0)
        result = s3_get(segment->client, segment->key, offset, out, before, err);
    if (repl_ok(result) && before < size)
        result = tail_read(segment, (size_t)(offset + before - tail_from), (uint8_t *)out + before,
                           size - before, err);
    return repl_forward(result, err, "%s", base->label);
}

static void s3_segment_close(struct repl_stored_segment *base)
{
    struct s3_segment *segment = (struct s3_segment *)base;
    if (base->fd >= 0)
        close(base->fd);
    pthread_mutex_destroy(&segment->mutex);
    free(segment->tail);
    free(segment);
}

repl_result s3_segment_open(struct repl_store *base, const char *volume,
                            const struct repl_segment_id *id, uint64_t size,
                            struct repl_stored_segment **out, struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    struct s3_head head = {.size = size};
    char key[S3_STORE_KEY_SIZE];
    REPL_TRY(segment_key(volume, "segments", id, key, err));
    int fd = s3_recent_open(&store->recent, key, &head.size);
    if (fd < 0 && size == 0)
        REPL_TRY(s3_head(store->client, key, &head, err));
    struct s3_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL) {
        if (fd >= 0)
            close(fd);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a segment");
    }
    segment->base = (struct repl_stored_segment){
        .size = head.size, .fd = fd, .read_at = s3_read_at, .close = s3_segment_close};
    repl_stored_segment_label(&segment->base, volume, id);
    segment->client = store->client;
    memcpy(segment->key, key, sizeof key);
    pthread_mutex_init(&segment->mutex, NULL);
    segment->tail_size = head.size < TAIL_SIZE ? (size_t)head.size : TAIL_SIZE;
    *out = &segment->base;
    return REPL_SUCCESS;
}

repl_result s3_segment_look(struct repl_store *base, const char *volume,
                            const struct repl_segment_id *id, bool *there, struct repl_error *err)
{
    struct s3_store *store = s3_store_of(base);
    struct s3_head head;
    char key[S3_STORE_KEY_SIZE];
    *there = false;
    REPL_TRY(segment_key(volume, "segments", id, key, err));
    repl_result result = s3_head(store->client, key, &head, err);
    *there = repl_ok(result);
    return result.code == REPL_E_MISSING ? REPL_SUCCESS : result;
}
