#include "source/supply.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "block/read_full.h"
#include "format/segment_format.h"
#include "segment/segment_builder.h"

/* Names of the chunks held, found by a hash table with open addressing: names are digests, so
 * their own bytes are the hash. */
struct supply_segment {
    struct supply_segment *next;
    uint64_t number;
    struct repl_buffer carried; /* struct repl_digest each */
    struct repl_buffer held;    /* the same; the i-th lies at i * REPL_CHUNK_SIZE in the file */
    uint32_t *slots;            /* index in held + 1; 0: free */
    size_t slot_count;          /* a power of two, more than twice as many as are held */
};

void repl_supply_init(struct repl_supply *supply, struct repl_loop *loop, int dir_fd,
                      repl_spool_fn *progress, void *context)
{
    *supply = (struct repl_supply){0};
    repl_spool_init(&supply->spool, loop, dir_fd, REPL_SPOOL_SUPPLY, progress, context);
}

static void segment_free(struct supply_segment *segment)
{
    repl_buffer_fini(&segment->carried);
    repl_buffer_fini(&segment->held);
    free(segment->slots);
    free(segment);
}

void repl_supply_fini(struct repl_supply *supply)
{
    while (supply->segments != NULL) {
        struct supply_segment *segment = supply->segments;
        supply->segments = segment->next;
        segment_free(segment);
    }
    repl_spool_fini(&supply->spool);
}

static struct supply_segment *segment_find(const struct repl_supply *supply, uint64_t number)
{
    for (struct supply_segment *s = supply->segments; s != NULL; s = s->next) {
        if (s->number == number)
            return s;
    }
    return NULL;
}

void repl_supply_drop(struct repl_supply *supply, uint64_t number)
{
    for (struct supply_segment **link = &supply->segments; *link != NULL; link = &(*link)->next) {
        struct supply_segment *segment = *link;
        if (segment->number != number)
            continue;
        *link = segment->next;
        segment_free(segment);
        break;
    }
    repl_spool_drop(&supply->spool, number);
}

/* --- what is held ---------------------------------------------------------------------------- */

static size_t held_count(const struct supply_segment *segment)
{
    return segment->held.size / sizeof(struct repl_digest);
}

static const struct repl_digest *held_name(const struct supply_segment *segment, size_t i)
{
    return (const struct repl_digest *)(const void *)segment->held.data + i;
}

/* The slot that has the name, or the free one where it belongs. */
static uint32_t *slot_find(const struct supply_segment *segment, const struct repl_digest *name)
{
    uint64_t hash;
    memcpy(&hash, name->bytes, sizeof hash);
    for (size_t i = hash;; i++) {
        uint32_t *slot = &segment->slots[i & (segment->slot_count - 1)];
        if (*slot == 0 || repl_digest_equal(held_name(segment, *slot - 1), name))
            return slot;
    }
}

/* count: a power of two, more than twice as many as are held. */
static repl_result slots_make(struct supply_segment *segment, size_t count, struct repl_error *err)
{
    uint32_t *slots = calloc(count, sizeof *slots);
    if (slots == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the names of chunks");
    free(segment->slots);
    segment->slots = slots;
    segment->slot_count = count;
    for (size_t i = 0; i < held_count(segment); i++)
        *slot_find(segment, held_name(segment, i)) = (uint32_t)i + 1;
    return REPL_SUCCESS;
}

/* *added false: it is held already. */
static repl_result held_add(struct supply_segment *segment, const struct repl_digest *name,
                            bool *added, struct repl_error *err)
{
    if (segment->slot_count <= 2 * held_count(segment))
        REPL_TRY(slots_make(segment, segment->slot_count > 0 ? 2 * segment->slot_count : 64, err));
    uint32_t *slot = slot_find(segment, name);
    *added = *slot == 0;
    if (!*added)
        return REPL_SUCCESS;
    REPL_TRY(repl_buffer_append(&segment->held, name, sizeof *name, err));
    *slot = (uint32_t)held_count(segment);
    return REPL_SUCCESS;
}

static repl_result segment_get(struct repl_supply *supply, uint64_t number,
                               struct supply_segment **out, struct repl_error *err)
{
    *out = segment_find(supply, number);
    if (*out != NULL)
        return REPL_SUCCESS;
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the names of chunks");
    (*out)->number = number;
    (*out)->next = supply->segments;
    supply->segments = *out;
    return REPL_SUCCESS;
}

repl_result repl_supply_adopt(struct repl_supply *supply, uint64_t number,
                              struct repl_buffer *carried, struct repl_buffer *held,
                              struct repl_error *err)
{
    struct supply_segment *segment;
    size_t slots = 64;
    ensure(segment_find(supply, number) == NULL);
    if (carried->size == 0 && held->size == 0)
        return REPL_SUCCESS;
    REPL_TRY(segment_get(supply, number, &segment, err));
    segment->carried = *carried;
    segment->held = *held;
    *carried = *held = (struct repl_buffer){0};
    size_t count = held_count(segment);
    if (count == 0)
        return REPL_SUCCESS;
    while (slots <= 2 * count)
        slots *= 2;
    REPL_TRY(slots_make(segment, slots, err));
    return repl_spool_adopt(&supply->spool, number, (uint64_t)count * REPL_CHUNK_SIZE, err);
}

/* References whose bytes follow each other are one write. */
static repl_result references_hold(struct repl_supply *supply, struct supply_segment *segment,
                                   const struct repl_batch *batch, uint64_t *bytes,
                                   struct repl_error *err)
{
    size_t begin = 0, end = 0;
    for (uint32_t i = 0; i < batch->reference_count; i++) {
        const struct repl_batch_reference *reference = &batch->references[i];
        bool added;
        REPL_TRY(held_add(segment, &reference->name, &added, err));
        if (!added)
            continue;
        if (reference->place != end && begin < end)
            REPL_TRY(repl_spool_append(&supply->spool, segment->number, batch->pages + begin,
                                       end - begin, err));
        if (reference->place != end)
            begin = reference->place;
        end = (size_t)reference->place + REPL_CHUNK_SIZE;
        *bytes += REPL_CHUNK_SIZE;
    }
    return begin < end ? repl_spool_append(&supply->spool, segment->number, batch->pages + begin,
                                           end - begin, err)
                       : REPL_SUCCESS;
}

repl_result repl_supply_hold(struct repl_supply *supply, uint64_t number,
                             const struct repl_batch *batch, uint64_t *bytes,
                             struct repl_error *err)
{
    struct supply_segment *segment;
    *bytes = 0;
    if (batch->reference_count == 0 && batch->chunk_count == 0)
        return REPL_SUCCESS;
    REPL_TRY(segment_get(supply, number, &segment, err));
    for (uint32_t i = 0; i < batch->chunk_count; i++)
        REPL_TRY(repl_buffer_append(&segment->carried, &batch->chunks[i].name,
                                    sizeof batch->chunks[i].name, err));
    return references_hold(supply, segment, batch, bytes, err);
}

repl_result repl_supply_names(const struct repl_supply *supply, uint64_t number,
                              struct repl_buffer *out, struct repl_error *err)
{
    const struct supply_segment *segment = segment_find(supply, number);
    if (segment == NULL)
        return REPL_SUCCESS;
    REPL_TRY(repl_buffer_append(out, segment->carried.data, segment->carried.size, err));
    return repl_buffer_append(out, segment->held.data, segment->held.size, err);
}

bool repl_supply_is_readable(struct repl_supply *supply, uint64_t number)
{
    const struct repl_spool_file *file = repl_spool_find(&supply->spool, number);
    return file == NULL || repl_spool_readable(file) == repl_spool_appended(file);
}

/* --- a supply: what it is made of ------------------------------------------------------------ */

static int chunk_order(const void *a, const void *b)
{
    const struct supply_chunk *x = a, *y = b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static repl_result chunks_place(const struct supply_segment *segment,
                                const struct repl_digest *names, size_t count,
                                struct repl_supply_plan *plan, struct repl_error *err)
{
    plan->chunks = calloc(count + 1, sizeof *plan->chunks);
    if (plan->chunks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a supply");
    for (size_t i = 0; i < count; i++) {
        const uint32_t *slot =
            segment != NULL && segment->slot_count > 0 ? slot_find(segment, &names[i]) : NULL;
        if (slot == NULL || *slot == 0)
            return repl_fail(err, REPL_E_MISSING,
                             "the site lacks a chunk that the segment sent to it never named");
        plan->chunks[i] = (struct supply_chunk){.name = names[i],
                                                .offset = (uint64_t)(*slot - 1) * REPL_CHUNK_SIZE};
    }
    plan->chunk_count = count;
    qsort(plan->chunks, count, sizeof *plan->chunks, chunk_order);
    return REPL_SUCCESS;
}

/* What kind of volume it is of, the segment itself says. */
static repl_result kind_read(int dir_fd, uint64_t number, struct repl_segment_header *out,
                             struct repl_error *err)
{
    uint8_t bytes[REPL_SEGMENT_HEADER_SIZE];
    struct repl_segment_header header;
    char name[REPL_SPOOL_NAME_SIZE];
    repl_spool_name(number, REPL_SPOOL_SEGMENT, name);
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "spool: %s", name);
    ssize_t got = repl_read_full(fd, bytes, sizeof bytes, 0);
    int failed = got < 0 ? errno : EIO;
    close(fd);
    if (got != (ssize_t)sizeof bytes)
        return repl_fail_errno(err, REPL_E_IO, failed, "spool: reading %s", name);
    REPL_TRY(repl_forward(repl_segment_header_decode(bytes, sizeof bytes, &header, err), err,
                          "spool: %s", name));
    out->volume_kind = header.volume_kind;
    out->features = REPL_FEATURE_PAGES | (header.features & REPL_FEATURE_TREE);
    return REPL_SUCCESS;
}

repl_result repl_supply_plan(struct repl_supply *supply, uint64_t number,
                             const struct repl_segment_header *header,
                             const struct repl_digest *names, size_t count,
                             struct repl_supply_plan *out, struct repl_error *err)
{
    *out = (struct repl_supply_plan){
        .header = *header, .held_fd = -1, .dir_fd = supply->spool.dir_fd, .fd = -1};
    out->header.kind = REPL_SEGMENT_SUPPLY;
    out->header.prev = (struct repl_digest){0};
    repl_result result = chunks_place(segment_find(supply, number), names, count, out, err);
    if (repl_ok(result))
        result = kind_read(supply->spool.dir_fd, number, &out->header, err);
    if (repl_ok(result))
        result = repl_spool_open(&supply->spool, number, &out->held_fd, err);
    if (!repl_ok(result))
        repl_supply_plan_fini(out);
    return result;
}

void repl_supply_plan_fini(struct repl_supply_plan *plan)
{
    if (plan->held_fd >= 0)
        close(plan->held_fd);
    if (plan->fd >= 0)
        close(plan->fd);
    free(plan->chunks);
    *plan = (struct repl_supply_plan){.held_fd = -1, .fd = -1};
}

/* --- a supply: building it, on a worker ------------------------------------------------------ */

struct supply_builder {
    struct repl_supply_plan *plan;
    struct repl_segment_builder *segment;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    uint8_t *raw;
    struct repl_buffer stored;
};

#define FRAME_CHUNKS (REPL_FRAME_RAW_MAX / REPL_CHUNK_SIZE)

static repl_result supply_sink(void *context, const void *data, size_t size, struct repl_error *err)
{
    struct repl_supply_plan *plan = context;
    for (const uint8_t *from = data; size > 0;) {
        ssize_t put = write(plan->fd, from, size);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return repl_fail_errno(err, put < 0 && errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO,
                                   put < 0 ? errno : EIO, "spool: writing a supply");
        from += put;
        size -= (size_t)put;
        plan->size += (uint64_t)put;
    }
    return REPL_SUCCESS;
}

static repl_result chunk_read(struct supply_builder *b, const struct supply_chunk *chunk,
                              uint8_t *out, struct repl_page_digest *listed, struct repl_error *err)
{
    struct repl_digest pages[REPL_CHUNK_PAGES], name;
    ssize_t got;
    do
        got = pread(b->plan->held_fd, out, REPL_CHUNK_SIZE, (off_t)chunk->offset);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)REPL_CHUNK_SIZE)
        return repl_fail_errno(err, REPL_E_IO, got < 0 ? errno : EIO,
                               "spool: reading back a chunk that the site lacks");
    for (size_t i = 0; i < REPL_CHUNK_PAGES; i++) {
        repl_page_digest(b->sha, out + i * REPL_PAGE_SIZE, REPL_PAGE_SIZE, &pages[i]);
        listed[i] = repl_page_digest_of(&pages[i]);
    }
    repl_chunk_name(b->sha, pages, &name);
    if (!repl_digest_equal(&name, &chunk->name))
        return repl_fail(err, REPL_E_CORRUPT,
                         "spool: a chunk that the site lacks does not read back as it was written; "
                         "check the disk of [agent] state");
    return REPL_SUCCESS;
}

static repl_result frame_build(struct supply_builder *b, const struct supply_chunk *chunks,
                               size_t count, struct repl_error *err)
{
    struct repl_frame_entry entry;
    struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
    uint32_t frame;
    for (size_t i = 0; i < count; i++)
        REPL_TRY(chunk_read(b, &chunks[i], b->raw + i * REPL_CHUNK_SIZE,
                            pages + i * REPL_CHUNK_PAGES, err));
    b->stored.size = 0;
    REPL_TRY(repl_frame_encode(b->coder, b->raw, count * REPL_CHUNK_SIZE, &b->stored, &entry, err));
    REPL_TRY(repl_segment_builder_frame(b->segment, &entry, b->stored.data, pages, &frame, err));
    for (size_t i = 0; i < count; i++) {
        const struct repl_chunk_entry chunk = {
            .name = chunks[i].name, .frame = frame, .frame_offset = (uint32_t)i * REPL_CHUNK_SIZE};
        REPL_TRY(repl_segment_builder_chunk(b->segment, &chunk, err));
    }
    return REPL_SUCCESS;
}

static repl_result supply_write(struct supply_builder *b, struct repl_error *err)
{
    struct repl_supply_plan *plan = b->plan;
    struct repl_segment_footer footer;
    b->raw = malloc(REPL_FRAME_RAW_MAX);
    if (b->raw == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a supply");
    REPL_TRY(repl_frame_coder_new(&b->coder, err));
    REPL_TRY(repl_sha256_new(&b->sha, err));
    REPL_TRY(repl_segment_builder_new(&plan->header, 0, supply_sink, plan, &b->segment, err));
    for (size_t at = 0; at < plan->chunk_count; at += FRAME_CHUNKS) {
        size_t left = plan->chunk_count - at;
        REPL_TRY(frame_build(b, plan->chunks + at, left < FRAME_CHUNKS ? left : FRAME_CHUNKS, err));
    }
    return repl_segment_builder_finish(b->segment, NULL, 0, &footer, err);
}

repl_result repl_supply_build(struct repl_supply_plan *plan, struct repl_error *err)
{
    struct supply_builder b = {.plan = plan};
    plan->fd = openat(plan->dir_fd, "supply", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (plan->fd < 0)
        return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                               "spool: making a supply");
    unlinkat(plan->dir_fd, "supply", 0);
    repl_result result = supply_write(&b, err);
    repl_segment_builder_free(b.segment);
    repl_sha256_free(b.sha);
    repl_frame_coder_free(b.coder);
    repl_buffer_fini(&b.stored);
    free(b.raw);
    return result;
}
