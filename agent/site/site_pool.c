/*
 * Chunks by their names, for a recovery whose volume refers to what others of the
 * pool brought; and what the pool holds, for a source that is about to send it.
 *
 * A chunk is given to whoever may read a volume that refers to it, and to nobody
 * else: to know a name is not enough. The chunks of one request are read in the
 * order in which they lie, so that each segment is opened and each frame decoded
 * once, and are checked against their names.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "block/read_full.h"
#include "segment/segment_reader.h"
#include "site/site_internal.h"
#include "store/segment_name.h"

repl_result site_scratch_open(struct repl_site *site, const char *volume, int *fd,
                              struct repl_error *err)
{
    char directory[PATH_MAX];
    REPL_TRY(repl_store_staging(site->store, volume, directory, sizeof directory, err));
    *fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return *fd >= 0 ? REPL_SUCCESS
                    : repl_fail_errno(err, REPL_E_RETRY, errno,
                                      "cannot keep bytes of volume %s in %s", volume, directory);
}

/* --- chunks ---------------------------------------------------------------------------------- */

/* One of the wanted: where it lies, and where it goes. */
struct placed_chunk {
    struct repl_chunk_place place;
    uint32_t at;
};

/* What is open of the store while chunks are read. */
struct chunk_source {
    struct repl_store *store;
    struct repl_stored_segment *file; /* NULL: none */
    struct repl_segment *segment;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_buffer stored;
    uint8_t *raw;
    size_t raw_size;
    struct repl_chunk_place last; /* whose segment is open, and whose frame is in raw */
};

static int place_order(const void *a, const void *b)
{
    const struct repl_chunk_place *x = a, *y = b; /* the first member of a placed_chunk */
    int order = strcmp(x->volume, y->volume);
    if (order == 0)
        order = repl_segment_id_order(&x->segment, &y->segment);
    return order != 0 ? order : (x->frame > y->frame) - (x->frame < y->frame);
}

static repl_result chunk_missing(const char *volume, const struct repl_digest *name,
                                 struct repl_error *err)
{
    char text[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(name, text);
    return repl_fail(err, REPL_E_MISSING, "volume %s refers to no chunk %.16s that is here", volume,
                     text);
}

static repl_result chunks_place(struct repl_index *index, const char *volume,
                                const struct repl_missing *wanted, struct placed_chunk *out,
                                struct repl_error *err)
{
    for (uint32_t i = 0; i < wanted->count; i++) {
        bool found;
        REPL_TRY(repl_index_is_referred_by(index, volume, &wanted->names[i], &found, err));
        if (found)
            REPL_TRY(
                repl_index_chunk(index, volume, &wanted->names[i], &out[i].place, &found, err));
        if (!found)
            return chunk_missing(volume, &wanted->names[i], err);
        out[i].at = i;
    }
    qsort(out, wanted->count, sizeof *out, place_order);
    return REPL_SUCCESS;
}

static void source_close(struct chunk_source *source)
{
    repl_segment_free(source->segment);
    if (source->file != NULL)
        source->file->close(source->file);
    source->segment = NULL;
    source->file = NULL;
}

static repl_result source_open(struct chunk_source *source, const struct repl_chunk_place *place,
                               struct repl_error *err)
{
    struct repl_store *store = source->store;
    source_close(source);
    REPL_TRY(
        store->ops->segment_open(store, place->volume, &place->segment, 0, &source->file, err));
    return repl_forward(repl_segment_open(repl_stored_segment_read_at, source->file,
                                          source->file->size, &source->segment, err),
                        err, "%s", source->file->label);
}

/* The frame that the chunk lies in. */
static repl_result source_seek(struct chunk_source *source, const struct repl_chunk_place *place,
                               struct repl_error *err)
{
    if (source->segment != NULL && place_order(&source->last, place) == 0)
        return REPL_SUCCESS;
    if (source->segment == NULL || strcmp(source->last.volume, place->volume) != 0 ||
        repl_segment_id_order(&source->last.segment, &place->segment) != 0)
        REPL_TRY(source_open(source, place, err));
    source->last = *place;
    if (place->frame >= source->segment->footer.frame_count)
        return repl_fail(err, REPL_E_CORRUPT, "%s: the index points to a frame that is not there",
                         source->file->label);
    return repl_forward(repl_segment_read_frame(source->segment, place->frame, source->coder,
                                                &source->stored, source->raw, &source->raw_size,
                                                err),
                        err, "%s", source->file->label);
}

static repl_result chunk_copy(struct chunk_source *source, const struct placed_chunk *chunk,
                              const struct repl_digest *name, int fd, struct repl_error *err)
{
    struct repl_digest actual;
    uint32_t offset = chunk->place.frame_offset;
    REPL_TRY(source_seek(source, &chunk->place, err));
    bool whole = offset <= source->raw_size && source->raw_size - offset >= REPL_CHUNK_SIZE;
    if (whole)
        repl_chunk_digest(source->sha, source->raw + offset, &actual);
    if (!whole || !repl_digest_equal(&actual, name))
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s: a chunk does not have the content it is named for: run repl verify",
                         source->file->label);
    if (!repl_write_full(fd, source->raw + offset, REPL_CHUNK_SIZE,
                         (uint64_t)chunk->at * REPL_CHUNK_SIZE))
        return repl_fail_errno(err, REPL_E_RETRY, errno, "cannot keep bytes of %s",
                               source->file->label);
    return REPL_SUCCESS;
}

static repl_result chunks_copy(struct repl_site *site, const struct repl_missing *wanted,
                               const struct placed_chunk *placed, int fd, struct repl_error *err)
{
    struct chunk_source source = {.store = site->store, .raw = malloc(REPL_FRAME_RAW_MAX)};
    repl_result result = source.raw == NULL ? repl_fail(err, REPL_E_NOMEM, "no memory for a frame")
                                            : repl_frame_coder_new(&source.coder, err);
    if (repl_ok(result))
        result = repl_sha256_new(&source.sha, err);
    for (uint32_t i = 0; i < wanted->count && repl_ok(result); i++)
        result = chunk_copy(&source, &placed[i], &wanted->names[placed[i].at], fd, err);
    source_close(&source);
    repl_sha256_free(source.sha);
    repl_frame_coder_free(source.coder);
    repl_buffer_fini(&source.stored);
    free(source.raw);
    return result;
}

repl_result site_chunks_read(struct repl_site *site, const char *volume,
                             const struct repl_missing *wanted, int *fd, struct repl_error *err)
{
    struct placed_chunk *placed = calloc(wanted->count + 1, sizeof *placed);
    *fd = -1;
    if (placed == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a list of chunks");
    repl_result result = chunks_place(site->index, volume, wanted, placed, err);
    if (repl_ok(result))
        result = site_scratch_open(site, volume, fd, err);
    if (repl_ok(result))
        result = chunks_copy(site, wanted, placed, *fd, err);
    free(placed);
    if (!repl_ok(result) && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return result;
}

/* --- what the pool holds --------------------------------------------------------------------- */

repl_result site_pool_read(struct repl_site *site, const char *volume, const struct repl_uuid *id,
                           uint64_t after, struct repl_buffer *out, struct repl_error *err)
{
    struct repl_pool_names page = {.pool = *id,
                                   .prefixes = calloc(REPL_POOL_NAMES_MAX, sizeof(uint64_t))};
    if (page.prefixes == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the names of a pool");
    repl_result result = repl_index_prefixes(site->index, volume, after, page.prefixes,
                                             REPL_POOL_NAMES_MAX, &page.count, &page.more, err);
    if (repl_ok(result))
        result = repl_pool_names_encode(&page, out, err);
    repl_pool_names_fini(&page);
    return result;
}
