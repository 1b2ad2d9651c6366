/*
 * Chunks by their names, for a recovery whose volume refers to what others of the
 * pool brought; and what the pool holds, for a source that is about to send it.
 *
 * A chunk is given to whoever may read a volume that refers to it, and to nobody
 * else: to know a name is not enough.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "block/read_full.h"
#include "site/site_internal.h"
#include "store/chunk_reader.h"

#define LOOKS_MAX 3u

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

static repl_result chunk_place(struct repl_index *index, const char *volume,
                               const struct repl_digest *name, struct repl_placed_chunk *out,
                               struct repl_error *err)
{
    struct repl_chunk_place place;
    char text[REPL_DIGEST_TEXT_SIZE];
    bool found;
    REPL_TRY(repl_index_is_referred_by(index, volume, name, &found, err));
    if (found)
        REPL_TRY(repl_index_chunk(index, volume, name, &place, &found, err));
    if (!found) {
        repl_digest_format(name, text);
        return repl_fail(err, REPL_E_MISSING, "volume %s refers to no chunk %.16s that is here",
                         volume, text);
    }
    out->segment = place.segment;
    out->frame = place.frame;
    out->frame_offset = place.frame_offset;
    memcpy(out->volume, place.volume, sizeof out->volume);
    return REPL_SUCCESS;
}

/* Into the file that *context is the descriptor of. */
static repl_result chunk_keep(void *context, uint32_t at, const void *bytes, struct repl_error *err)
{
    const int *fd = context;
    return repl_write_full(*fd, bytes, REPL_CHUNK_SIZE, (uint64_t)at * REPL_CHUNK_SIZE)
               ? REPL_SUCCESS
               : repl_fail_errno(err, REPL_E_RETRY, errno, "cannot keep the bytes of chunks");
}

/* Where the chunks lie, and then what lies there: a file may go in between, when they are elsewhere
 * already. */
static repl_result chunks_read(struct repl_site *site, const char *volume,
                               const struct repl_missing *wanted, struct repl_placed_chunk *placed,
                               struct repl_chunk_reader *reader, int *fd, struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    for (unsigned look = 0; look < LOOKS_MAX; look++) {
        for (uint32_t i = 0; i < wanted->count; i++) {
            placed[i].at = i;
            REPL_TRY(chunk_place(site->index, volume, &wanted->names[i], &placed[i], err));
        }
        result = repl_chunk_reader_read(reader, placed, wanted->count, wanted->names, chunk_keep,
                                        fd, err);
        if (result.code != REPL_E_MISSING)
            break;
    }
    return result;
}

repl_result site_chunks_read(struct repl_site *site, const char *volume,
                             const struct repl_missing *wanted, int *fd, struct repl_error *err)
{
    struct repl_placed_chunk *placed = calloc(wanted->count, sizeof *placed);
    struct repl_chunk_reader *reader = NULL;
    *fd = -1;
    if (placed == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a list of chunks");
    repl_result result = site_scratch_open(site, volume, fd, err);
    if (repl_ok(result))
        result = repl_chunk_reader_new(site->store, &reader, err);
    if (repl_ok(result))
        result = chunks_read(site, volume, wanted, placed, reader, fd, err);
    repl_chunk_reader_free(reader);
    free(placed);
    if (!repl_ok(result) && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return result;
}

/* --- what the pool holds --------------------------------------------------------------------- */

/* Of a pool with a name, the beginning of that one's digest: whoever shares it has the same. */
repl_result site_pool_id(const char *pool, struct repl_uuid *out, struct repl_error *err)
{
    struct repl_sha256 *sha;
    struct repl_digest digest;
    REPL_TRY(repl_sha256_new(&sha, err));
    repl_sha256_begin(sha);
    repl_sha256_update(sha, pool, strlen(pool));
    repl_sha256_end(sha, &digest);
    repl_sha256_free(sha);
    memcpy(out->bytes, digest.bytes, sizeof out->bytes);
    return REPL_SUCCESS;
}

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
