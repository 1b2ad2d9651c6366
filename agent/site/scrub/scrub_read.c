/*
 * One segment, to its last byte. Its digest is the one that was committed, when
 * every frame and record had been looked at: bytes that still have it are those,
 * and frames need not be decoded again. Of a supply, whose digest nobody else
 * keeps, the footer says it, which has a checksum of its own.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "site/scrub/scrub_internal.h"

/* Read at once: one request of a bucket. */
#define BUFFER_SIZE (4u << 20)

repl_result scrub_reader_init(struct scrub_reader *reader, struct site_pacer *pacer,
                              struct repl_error *err)
{
    *reader = (struct scrub_reader){.pacer = pacer, .buffer = malloc(BUFFER_SIZE)};
    if (reader->buffer == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory to read segments");
    return repl_segment_digest_init(&reader->digest, err);
}

void scrub_reader_fini(struct scrub_reader *reader)
{
    free(reader->buffer);
    if (reader->digest.sha != NULL)
        repl_segment_digest_fini(&reader->digest);
}

static repl_result file_read(struct scrub_reader *reader, uint64_t offset, void *out, size_t size,
                             struct repl_error *err)
{
    if (reader->pacer->stop != NULL && atomic_load(reader->pacer->stop))
        return repl_fail(err, REPL_E_RETRY, "told to stop");
    REPL_TRY(reader->file->read_at(reader->file, offset, out, size, err));
    reader->read_bytes += size;
    site_pacer_spend(reader->pacer, size);
    return REPL_SUCCESS;
}

/* repl_read_at_fn. What goes through it from the first byte to the last is read in large steps, and
 * a small file at once. */
static repl_result reader_read_at(void *context, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err)
{
    struct scrub_reader *reader = context;
    uint64_t file_size = reader->file->size;
    bool inside = offset >= reader->at && offset + size <= reader->at + reader->filled;
    if (!inside && (!reader->ahead || size > BUFFER_SIZE || offset + size > file_size))
        return file_read(reader, offset, out, size, err);
    if (!inside) {
        uint64_t left = file_size - offset;
        reader->filled = 0;
        reader->at = offset;
        size_t step = left < BUFFER_SIZE ? (size_t)left : BUFFER_SIZE;
        REPL_TRY(file_read(reader, offset, reader->buffer, step, err));
        reader->filled = step;
    }
    memcpy(out, reader->buffer + (offset - reader->at), size);
    return REPL_SUCCESS;
}

static repl_result segment_check(struct scrub_reader *reader, const struct repl_digest *digest,
                                 struct repl_error *err)
{
    struct repl_segment *segment;
    REPL_TRY(repl_segment_open(reader_read_at, reader, reader->file->size, &segment, err));
    repl_result result = REPL_SUCCESS;
    if (digest != NULL && !repl_digest_equal(digest, &segment->footer.digest))
        result = repl_fail(err, REPL_E_CORRUPT, "it is another one than was committed");
    reader->ahead = true;
    repl_segment_digest_restart(&reader->digest);
    if (repl_ok(result))
        result = repl_segment_verify_digest(segment, &reader->digest, err);
    repl_segment_free(segment);
    return result;
}

/* The disk is to be read, not memory; nor is what others read to be driven out of there. */
static void cache_drop(const struct repl_stored_segment *file)
{
    if (file->fd >= 0)
        posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
}

repl_result scrub_read(struct scrub_reader *reader, struct repl_store *store, const char *volume,
                       const struct repl_segment_id *id, uint64_t size,
                       const struct repl_digest *digest, struct repl_error *err)
{
    REPL_TRY(store->ops->segment_open(store, volume, id, size, &reader->file, err));
    repl_result result = REPL_SUCCESS;
    reader->at = reader->filled = 0;
    reader->ahead = reader->file->size <= BUFFER_SIZE;
    cache_drop(reader->file);
    if (size != 0 && reader->file->size != size)
        result = repl_fail(err, REPL_E_CORRUPT, "it has %llu bytes, and %llu were committed",
                           (unsigned long long)reader->file->size, (unsigned long long)size);
    if (repl_ok(result))
        result = segment_check(reader, digest, err);
    cache_drop(reader->file);
    reader->file->close(reader->file);
    reader->file = NULL;
    return result;
}

bool scrub_is_damage(repl_result result)
{
    return result.code == REPL_E_CORRUPT || result.code == REPL_E_IO ||
           result.code == REPL_E_MISSING || result.code == REPL_E_VERSION;
}
