/*
 * Segments that refer to chunks, of whichever volume of the pool: where in these
 * volumes the chunks are, and so what a replica has of them.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "block/read_full.h"
#include "site/scrub/scrub_internal.h"
#include "store/segment_name.h"

/* Many names have the same referrers: what is known of them is sorted when it has grown to this. */
#define REFERRERS_STEP 65536u

static int referrer_order(const void *a, const void *b)
{
    const struct repl_chunk_referrer *x = a, *y = b;
    int order = strcmp(x->volume, y->volume);
    return order != 0 ? order : repl_segment_id_order(&x->segment, &y->segment);
}

static size_t referrers_unique(struct repl_chunk_referrer *list, size_t count)
{
    size_t kept = 0;
    if (count > 0)
        qsort(list, count, sizeof *list, referrer_order);
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || referrer_order(&list[kept - 1], &list[i]) != 0)
            list[kept++] = list[i];
    }
    return kept;
}

repl_result scrub_referrers_list(struct scrub_visit *visit, const struct repl_digest *names,
                                 size_t count, struct repl_buffer *out, struct repl_error *err)
{
    size_t limit = REFERRERS_STEP;
    for (size_t i = 0; i < count; i++) {
        struct repl_chunk_referrer *list;
        REPL_TRY(repl_index_referrers(visit->index, visit->volume, &names[i], out, err));
        list = (struct repl_chunk_referrer *)(void *)out->data;
        if (out->size / sizeof *list < limit && i + 1 < count)
            continue;
        out->size = referrers_unique(list, out->size / sizeof *list) * sizeof *list;
        limit = 2 * (out->size / sizeof *list) + REFERRERS_STEP;
    }
    return REPL_SUCCESS;
}

repl_result scrub_manifest_walk(struct scrub_visit *visit, const char *volume,
                                const struct repl_segment_id *id, struct repl_frame_coder *coder,
                                scrub_record_fn *each, void *context, struct repl_error *err)
{
    struct repl_store *store = visit->store;
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    if (atomic_load(visit->stop))
        return repl_fail(err, REPL_E_RETRY, "told to stop");
    REPL_TRY(repl_store_open_segment(store, volume, id, 0, &file, &segment, err));
    repl_record_walk_begin(&walk, segment, coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    while (repl_ok(result) && !done) {
        result = each(context, &record, err);
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    for (uint32_t i = 0; i < segment->footer.block_count; i++)
        site_pacer_spend(&visit->pacer, segment->blocks[i].frame.stored_size);
    repl_segment_free(segment);
    file->close(file);
    return result;
}

/* --- replicas -------------------------------------------------------------------------------- */

struct replicas {
    struct scrub_visit *visit;
    const struct repl_digest *names;
    size_t count, left;
    bool *found; /* by name */
    struct scrub_chunk_coders *coders;
    scrub_chunk_fn *take;
    void *context;
    const char *path; /* of the replica that fd is of */
    int fd;
    uint8_t *bytes;
};

static const char *replica_of(const struct scrub_visit *visit, const char *volume)
{
    if (strcmp(volume, visit->volume) == 0)
        return visit->replica_path;
    for (size_t i = 0; i < visit->mate_count; i++) {
        if (strcmp(volume, visit->mates[i].volume) == 0)
            return visit->mates[i].replica_path;
    }
    return "";
}

/* What the replica has in the place of the chunk is that one, or it is not. */
static repl_result chunk_record(void *context, const struct repl_record *record,
                                struct repl_error *err)
{
    struct replicas *r = context;
    struct repl_digest actual;
    (void)err;
    if (record->type != REPL_RECORD_CHUNK || record->object != REPL_OBJECT_DEVICE ||
        record->offset < record->chunk_offset)
        return REPL_SUCCESS;
    const struct repl_digest *name =
        bsearch(&record->chunk, r->names, r->count, sizeof *name, repl_digest_order);
    if (name == NULL || r->found[name - r->names])
        return REPL_SUCCESS;
    ssize_t got =
        repl_read_full(r->fd, r->bytes, REPL_CHUNK_SIZE, record->offset - record->chunk_offset);
    if (got != REPL_CHUNK_SIZE)
        return REPL_SUCCESS;
    site_pacer_spend(&r->visit->pacer, REPL_CHUNK_SIZE);
    repl_chunk_digest(r->coders->sha, r->bytes, &actual);
    if (!repl_digest_equal(&actual, name))
        return REPL_SUCCESS;
    r->found[name - r->names] = true;
    r->left--;
    r->take(r->context, name, r->bytes);
    return REPL_SUCCESS;
}

/* A replica that is not there, or a segment that cannot be read, has nothing to say. */
static repl_result referrer_read(struct replicas *r, const struct repl_chunk_referrer *referrer,
                                 struct repl_error *err)
{
    const char *path = replica_of(r->visit, referrer->volume);
    struct repl_error why = {.text = ""};
    if (path != r->path && r->fd >= 0)
        close(r->fd);
    if (path != r->path)
        r->fd = path[0] != '\0' ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    r->path = path;
    if (r->fd < 0)
        return REPL_SUCCESS;
    repl_result result = scrub_manifest_walk(r->visit, referrer->volume, &referrer->segment,
                                             r->coders->frames, chunk_record, r, &why);
    if (repl_ok(result) || scrub_is_damage(result))
        return REPL_SUCCESS;
    return repl_fail(err, result.code, "%s", why.text);
}

repl_result scrub_replicas_read(struct scrub_visit *visit, const struct repl_digest *names,
                                size_t count, struct scrub_chunk_coders *coders,
                                scrub_chunk_fn *take, void *context, struct repl_error *err)
{
    struct repl_buffer referrers = {0};
    struct replicas r = {.visit = visit,
                         .names = names,
                         .count = count,
                         .left = count,
                         .found = calloc(count, sizeof *r.found),
                         .coders = coders,
                         .take = take,
                         .context = context,
                         .fd = -1,
                         .bytes = malloc(REPL_CHUNK_SIZE)};
    repl_result result = scrub_referrers_list(visit, names, count, &referrers, err);
    const struct repl_chunk_referrer *list = (const void *)referrers.data;
    if (r.found == NULL || r.bytes == NULL)
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for chunks");
    /* Of what was said last it is most likely that it is so still. */
    for (size_t i = referrers.size / sizeof *list; i > 0 && r.left > 0 && repl_ok(result); i--)
        result = referrer_read(&r, &list[i - 1], err);
    if (r.fd >= 0)
        close(r.fd);
    free(r.found);
    free(r.bytes);
    repl_buffer_fini(&referrers);
    return result;
}
