#include "capture/batch.h"

#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"

repl_result repl_batch_init(struct repl_batch *batch, struct repl_error *err)
{
    memset(batch, 0, sizeof *batch);
    batch->level = REPL_FRAME_ZSTD_LEVEL;
    /* O_DIRECT reads want the alignment of the device's logical block, 4 KiB at most */
    if (posix_memalign((void **)&batch->pages, REPL_PAGE_SIZE, REPL_FRAME_RAW_MAX) != 0)
        batch->pages = NULL;
    batch->raw = malloc(REPL_FRAME_RAW_MAX);
    repl_result result = batch->pages == NULL || batch->raw == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for a batch of pages")
                             : repl_frame_coder_new(&batch->coder, err);
    if (repl_ok(result))
        result = repl_sha256_new(&batch->sha, err);
    if (!repl_ok(result)) {
        repl_batch_fini(batch);
        return result;
    }
    memset(batch->pages, 0, REPL_PAGE_SIZE);
    repl_page_digest(batch->sha, batch->pages, REPL_PAGE_SIZE, &batch->zero_page);
    return REPL_SUCCESS;
}

void repl_batch_fini(struct repl_batch *batch)
{
    free(batch->pages);
    free(batch->raw);
    repl_frame_coder_free(batch->coder);
    repl_sha256_free(batch->sha);
    repl_buffer_fini(&batch->stored);
    batch->pages = batch->raw = NULL;
    batch->coder = NULL;
    batch->sha = NULL;
}

void repl_batch_clear(struct repl_batch *batch)
{
    batch->run_count = 0;
    batch->page_count = 0;
    batch->read_count = 0;
    batch->parked = false;
}

uint32_t repl_batch_add(struct repl_batch *batch, uint64_t page, uint64_t count)
{
    uint32_t room = REPL_BATCH_PAGES - batch->page_count;
    uint32_t fits = count < room ? (uint32_t)count : room;
    if (fits == 0)
        return 0;
    batch->runs[batch->run_count++] = (struct repl_batch_run){.page = page, .count = fits};
    batch->reads[batch->read_count++] =
        (struct repl_batch_read){.page = page, .count = fits, .place = batch->page_count};
    batch->page_count += fits;
    return fits;
}

/* Bytes of one page: a whole one but for the volume's last. */
static size_t page_size(const struct repl_batch *batch, uint64_t page)
{
    uint64_t left = batch->volume_size - page * REPL_PAGE_SIZE;
    return left < REPL_PAGE_SIZE ? (size_t)left : REPL_PAGE_SIZE;
}

size_t repl_batch_read_size(const struct repl_batch *batch, const struct repl_batch_read *read)
{
    return (size_t)(read->count - 1) * REPL_PAGE_SIZE +
           page_size(batch, read->page + read->count - 1);
}

uint8_t *repl_batch_read_to(const struct repl_batch *batch, const struct repl_batch_read *read)
{
    return batch->pages + (size_t)read->place * REPL_PAGE_SIZE;
}

/* What became of a page. */
enum page_fate { PAGE_UNCHANGED, PAGE_ZERO, PAGE_SENT };

static void extent_append(struct repl_batch *batch, enum repl_record_type type, uint64_t offset,
                          uint64_t length, uint64_t source, uint32_t source_offset)
{
    struct repl_extent *last =
        batch->extent_count > 0 ? &batch->extents[batch->extent_count - 1] : NULL;
    bool continues =
        last != NULL && last->type == type && type != REPL_RECORD_CHUNK &&
        last->offset + last->length == offset &&
        (type == REPL_RECORD_ZERO || last->source_offset + last->length == source_offset);
    if (continues) {
        last->length += length;
        return;
    }
    batch->extents[batch->extent_count++] = (struct repl_extent){.offset = offset,
                                                                 .length = length,
                                                                 .source = source,
                                                                 .source_offset = source_offset,
                                                                 .type = type};
}

static void digest_append(struct repl_batch *batch, uint64_t page, const struct repl_digest *digest)
{
    batch->digests[batch->digest_count++] =
        (struct repl_batch_digest){.page = page, .digest = repl_page_digest_of(digest)};
}

/* Names one page by its digest and says what becomes of it. A page of zeros goes by content like
 * any other: it is unchanged if the site is known to hold zeros there. Its digest is known
 * beforehand, and to see that it is zeros costs a tenth of hashing it. */
static enum page_fate page_reduce(struct repl_batch *batch, uint32_t index, uint64_t page,
                                  const uint8_t *bytes, struct repl_digest *digest)
{
    size_t size = page_size(batch, page);
    bool zero = repl_is_zero(bytes, size);
    if (zero && size == REPL_PAGE_SIZE)
        *digest = batch->zero_page;
    else
        repl_page_digest(batch->sha, bytes, size, digest);
    struct repl_page_digest now = repl_page_digest_of(digest);
    if (memcmp(&now, &batch->held[index], sizeof now) == 0)
        return PAGE_UNCHANGED;
    return zero ? PAGE_ZERO : PAGE_SENT;
}

static void page_send(struct repl_batch *batch, uint64_t page, const uint8_t *bytes,
                      const struct repl_digest *digest)
{
    size_t size = page_size(batch, page);
    batch->frame_pages_fit &= batch->raw_size % REPL_PAGE_SIZE == 0;
    batch->frame_pages[batch->raw_size / REPL_PAGE_SIZE] = repl_page_digest_of(digest);
    memcpy(batch->raw + batch->raw_size, bytes, size);
    extent_append(batch, REPL_RECORD_DATA, page * REPL_PAGE_SIZE, size, 0,
                  (uint32_t)batch->raw_size);
    batch->raw_size += size;
}

/* A whole aligned chunk, all of it to be sent: by name if the site has it, else as bytes that get
 * a name. */
static void chunk_send(struct repl_batch *batch, uint64_t page, const uint8_t *bytes,
                       const struct repl_digest digests[REPL_CHUNK_PAGES])
{
    struct repl_digest name;
    repl_chunk_name(batch->sha, digests, &name);
    if (batch->chunk_known != NULL && batch->chunk_known(batch->chunk_context, &name)) {
        extent_append(batch, REPL_RECORD_CHUNK, page * REPL_PAGE_SIZE, REPL_CHUNK_SIZE,
                      batch->reference_count, 0);
        batch->references[batch->reference_count++] =
            (struct repl_batch_reference){.offset = page * REPL_PAGE_SIZE,
                                          .place = (uint32_t)(bytes - batch->pages),
                                          .name = name};
        return;
    }
    batch->chunks[batch->chunk_count++] = (struct repl_chunk_entry){
        .name = name, .frame = 0, .frame_offset = (uint32_t)batch->raw_size};
    for (uint32_t i = 0; i < REPL_CHUNK_PAGES; i++)
        page_send(batch, page + i, bytes + i * REPL_PAGE_SIZE, &digests[i]);
}

/* Up to a chunk's worth of pages that lie in one aligned chunk. */
static void group_reduce(struct repl_batch *batch, uint32_t index, uint64_t page, uint32_t count,
                         const uint8_t *bytes)
{
    struct repl_digest digests[REPL_CHUNK_PAGES];
    enum page_fate fates[REPL_CHUNK_PAGES];
    uint32_t sent = 0;
    for (uint32_t i = 0; i < count; i++) {
        fates[i] = page_reduce(batch, index + i, page + i, bytes + i * REPL_PAGE_SIZE, &digests[i]);
        sent += fates[i] == PAGE_SENT;
        if (fates[i] != PAGE_UNCHANGED)
            digest_append(batch, page + i, &digests[i]);
    }
    bool whole = sent == REPL_CHUNK_PAGES && page_size(batch, page + count - 1) == REPL_PAGE_SIZE;
    if (whole) {
        chunk_send(batch, page, bytes, digests);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (fates[i] == PAGE_SENT)
            page_send(batch, page + i, bytes + i * REPL_PAGE_SIZE, &digests[i]);
        else if (fates[i] == PAGE_ZERO)
            extent_append(batch, REPL_RECORD_ZERO, (page + i) * REPL_PAGE_SIZE,
                          page_size(batch, page + i), 0, 0);
    }
}

repl_result repl_batch_reduce(struct repl_batch *batch, struct repl_error *err)
{
    batch->extent_count = batch->reference_count = batch->chunk_count = batch->digest_count = 0;
    batch->raw_size = 0;
    batch->frame_pages_fit = true;
    batch->stored.size = 0;
    uint32_t index = 0;
    for (uint32_t i = 0; i < batch->run_count; i++) {
        uint64_t page = batch->runs[i].page;
        for (uint32_t left = batch->runs[i].count, step; left > 0; left -= step) {
            uint32_t to_boundary = REPL_CHUNK_PAGES - page % REPL_CHUNK_PAGES;
            step = left < to_boundary ? left : to_boundary;
            group_reduce(batch, index, page, step, batch->pages + (size_t)index * REPL_PAGE_SIZE);
            page += step;
            index += step;
        }
    }
    ensure(index == batch->page_count);
    batch->has_frame = batch->raw_size > 0;
    if (!batch->has_frame)
        return REPL_SUCCESS;
    repl_frame_coder_level(batch->coder, batch->level);
    return repl_frame_encode(batch->coder, batch->raw, batch->raw_size, &batch->stored,
                             &batch->frame, err);
}
