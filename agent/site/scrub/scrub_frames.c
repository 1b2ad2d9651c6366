/*
 * The damaged frames of a segment or supply: which they are, and what was in them.
 *
 * A page that has not changed since the segment came is in the replica as it is
 * in the segment; one that a later segment says something of may be in the first of
 * these, as its source sent it once more. A chunk goes by its name: it is right wherever
 * it is found, in another segment, or in the replica of any volume of the pool that
 * refers to it. Whether the bytes are the ones the frame's checksum says.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "block/read_full.h"
#include "site/scrub/scrub_repair.h"

repl_result repair_read_at(void *context, uint64_t offset, void *out, size_t size,
                           struct repl_error *err)
{
    struct repair *r = context;
    if (atomic_load(r->visit->stop))
        return repl_fail(err, REPL_E_RETRY, "told to stop");
    REPL_TRY(r->file->read_at(r->file, offset, out, size, err));
    site_pacer_spend(&r->visit->pacer, size);
    return REPL_SUCCESS;
}

/* --- which frames ---------------------------------------------------------------------------- */

repl_result repair_find(struct repair *r, struct repl_error *err)
{
    struct repl_buffer stored = {0};
    uint32_t count = r->segment->footer.frame_count;
    uint8_t *raw = malloc(REPL_FRAME_RAW_MAX);
    repl_result result = REPL_SUCCESS;
    r->broken_of = calloc(count + 1, sizeof *r->broken_of);
    r->indices = calloc(count + 1, sizeof *r->indices);
    if (raw == NULL || r->broken_of == NULL || r->indices == NULL)
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for %u frames", count);
    for (uint32_t i = 0; i < count && repl_ok(result); i++) {
        struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
        uint32_t listed;
        size_t size;
        result = repl_segment_read_pages(r->segment, i, pages, &listed, err);
        if (result.code == REPL_E_CORRUPT || result.code == REPL_E_IO)
            r->lists_broken++;
        else if (!repl_ok(result))
            break;
        result = repl_segment_read_frame(r->segment, i, r->coder, &stored, raw, &size, err);
        if (result.code != REPL_E_CORRUPT && result.code != REPL_E_IO)
            continue;
        r->indices[r->broken_count] = i;
        r->broken_of[i] = ++r->broken_count;
        result = REPL_SUCCESS;
    }
    repl_buffer_fini(&stored);
    free(raw);
    if (repl_ok(result) && r->broken_count == 0 && r->lists_broken == 0)
        result = repl_fail(err, REPL_E_CORRUPT, "none of its frames is what is damaged");
    return result;
}

/* Which bytes of the volume lie in them. */
repl_result repair_list(struct repair *r, struct scrub_broken *broken, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    repl_record_walk_begin(&walk, r->segment, r->coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    while (repl_ok(result) && !done) {
        const struct repl_extent extent = {
            .offset = record.offset, .length = record.length, .type = REPL_RECORD_DATA};
        if (record.type == REPL_RECORD_DATA && r->broken_of[record.frame] != 0) {
            result = repl_extent_map_put(&broken->extents, &extent, err);
            broken->begin = record.offset < broken->begin ? record.offset : broken->begin;
            broken->end = record.offset + record.length > broken->end
                              ? record.offset + record.length
                              : broken->end;
        }
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    broken->frame_count = r->segment->footer.frame_count;
    broken->frames = calloc(broken->frame_count + 1, sizeof *broken->frames);
    if (broken->frames == NULL && repl_ok(result))
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for a list of frames");
    for (uint32_t i = 0; i < broken->frame_count && repl_ok(result); i++)
        broken->frames[i] = r->broken_of[i] != 0;
    broken->known = repl_ok(result);
    return result;
}

/* --- their bytes ----------------------------------------------------------------------------- */

/* NULL: it is whole, or of another round. */
static struct broken *in_round(struct repair *r, uint32_t frame)
{
    uint32_t number = r->broken_of[frame];
    if (number <= r->round_first || number - r->round_first > r->round_count)
        return NULL;
    return &r->round[number - r->round_first - 1];
}

/* What the replica holds where the record says that bytes of a broken frame are, or what a later
 * segment says first. */
static repl_result record_take(struct repair *r, const struct repl_record *record,
                               struct repl_error *err)
{
    struct broken *broken = in_round(r, record->frame);
    if (broken == NULL)
        return REPL_SUCCESS;
    uint8_t *raw = broken->raw + record->frame_offset;
    uint8_t *covered = broken->covered + record->frame_offset;
    if (r->of_later)
        return scrub_later_read(r->reader, record->offset, (size_t)record->length, raw, covered,
                                err);
    if (r->replica_fd < 0)
        return REPL_SUCCESS;
    ssize_t got = repl_read_full(r->replica_fd, raw, (size_t)record->length, record->offset);
    if (got < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read the replica");
    memset(covered, 1, (size_t)got);
    return REPL_SUCCESS;
}

static repl_result bytes_take(struct repair *r, struct repl_error *err)
{
    struct repl_record_walk walk;
    struct repl_record record = {0};
    bool done = false;
    repl_record_walk_begin(&walk, r->segment, r->coder);
    repl_result result = repl_record_walk_next(&walk, &record, &done, err);
    while (repl_ok(result) && !done) {
        if (record.type == REPL_RECORD_DATA && record.object == REPL_OBJECT_DEVICE)
            result = record_take(r, &record, err);
        if (repl_ok(result))
            result = repl_record_walk_next(&walk, &record, &done, err);
    }
    repl_record_walk_end(&walk);
    return result;
}

static void chunk_cover(struct repair *r, const struct repl_chunk_entry *chunk,
                        const uint8_t *bytes)
{
    struct broken *broken = in_round(r, chunk->frame);
    memcpy(broken->raw + chunk->frame_offset, bytes, REPL_CHUNK_SIZE);
    memset(broken->covered + chunk->frame_offset, 1, REPL_CHUNK_SIZE);
}

/* Chunks go by their names, so they are right whatever the replica has. */
static repl_result chunks_take(struct repair *r, struct repl_error *err)
{
    uint8_t *bytes = malloc(REPL_CHUNK_SIZE);
    repl_result result =
        bytes == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a chunk") : REPL_SUCCESS;
    for (uint32_t i = 0; i < r->segment->footer.chunk_count && repl_ok(result); i++) {
        const struct repl_chunk_entry *chunk = &r->segment->chunks[i];
        bool found;
        if (in_round(r, chunk->frame) == NULL)
            continue;
        repl_result taken =
            scrub_chunk_take(r->visit, r->id, &chunk->name, &r->coders, bytes, &found, err);
        if (repl_ok(taken) && found)
            chunk_cover(r, chunk, bytes);
        else if (taken.code == REPL_E_NOMEM || taken.code == REPL_E_RETRY)
            result = taken; /* else it is damaged there too */
    }
    free(bytes);
    return result;
}

static bool is_right(const struct repair *r, const struct broken *broken)
{
    const struct repl_frame_entry *entry = &r->segment->frames[broken->index];
    return memchr(broken->covered, 0, entry->raw_size) == NULL &&
           repl_xxh3(broken->raw, entry->raw_size) == entry->raw_xxh3;
}

/* The first that does not become what it was; NULL: all do. */
static const struct broken *first_wrong(const struct repair *r)
{
    for (uint32_t i = 0; i < r->round_count; i++) {
        if (!is_right(r, &r->round[i]))
            return &r->round[i];
    }
    return NULL;
}

static repl_result later_open(struct repair *r, struct scrub_broken *broken, struct repl_error *err)
{
    if (r->entry == SIZE_MAX || broken->healed_known)
        return REPL_SUCCESS;
    REPL_TRY(scrub_heal(r->visit, r->entry, r->id, broken, &r->later, err));
    if (r->later.count == 0)
        return REPL_SUCCESS;
    return scrub_later_reader_new(r->visit, r->id, &r->later, broken->begin, broken->end,
                                  &r->coders, &r->reader, err);
}

static repl_result pages_take(struct repair *r, bool of_later, struct repl_error *err)
{
    r->of_later = of_later;
    REPL_TRY(bytes_take(r, err));
    return chunks_take(r, err);
}

/* Called for one chunk of a name: others of it have the same bytes. */
static void chunk_found(void *context, const struct repl_digest *name, const uint8_t *bytes)
{
    struct repair *r = context;
    for (uint32_t i = 0; i < r->segment->footer.chunk_count; i++) {
        const struct repl_chunk_entry *chunk = &r->segment->chunks[i];
        if (in_round(r, chunk->frame) != NULL && repl_digest_equal(&chunk->name, name))
            chunk_cover(r, chunk, bytes);
    }
}

/* Of the chunks in frames that are not what they were yet; sorted, each once. */
static repl_result wrong_names(struct repair *r, struct repl_buffer *names, struct repl_error *err)
{
    names->size = 0;
    for (uint32_t i = 0; i < r->segment->footer.chunk_count; i++) {
        const struct repl_chunk_entry *chunk = &r->segment->chunks[i];
        const struct broken *broken = in_round(r, chunk->frame);
        if (broken != NULL && !is_right(r, broken))
            REPL_TRY(repl_buffer_append(names, &chunk->name, sizeof chunk->name, err));
    }
    struct repl_digest *list = (struct repl_digest *)(void *)names->data;
    names->size = repl_digests_unique(list, names->size / sizeof *list) * sizeof *list;
    return REPL_SUCCESS;
}

/* Chunks from the replicas of volumes that refer to them, and of all segments that list them. */
static repl_result chunks_search(struct repair *r, struct repl_error *err)
{
    struct repl_buffer names = {0};
    repl_result result = wrong_names(r, &names, err);
    if (repl_ok(result) && names.size > 0)
        result = scrub_replicas_read(r->visit, (const void *)names.data,
                                     names.size / sizeof(struct repl_digest), &r->coders,
                                     chunk_found, r, err);
    if (repl_ok(result) && r->visit->search)
        result = wrong_names(r, &names, err);
    if (repl_ok(result) && r->visit->search && names.size > 0)
        result = scrub_chunks_search(r->visit, r->id, (const void *)names.data,
                                     names.size / sizeof(struct repl_digest), &r->coders,
                                     chunk_found, r, err);
    repl_buffer_fini(&names);
    return result;
}

static repl_result round_begin(struct repair *r, uint32_t first, struct repl_error *err)
{
    uint32_t left = r->broken_count - first;
    r->round_first = first;
    r->round_count = left < SCRUB_FRAMES_MAX ? left : SCRUB_FRAMES_MAX;
    memset(r->round, 0, sizeof r->round);
    for (uint32_t i = 0; i < r->round_count; i++) {
        struct broken *broken = &r->round[i];
        broken->index = r->indices[first + i];
        size_t size = r->segment->frames[broken->index].raw_size;
        broken->raw = malloc(size);
        broken->covered = calloc(1, size);
        if (broken->raw == NULL || broken->covered == NULL)
            return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
    }
    return REPL_SUCCESS;
}

void repair_round_end(struct repair *r)
{
    for (uint32_t i = 0; i < r->round_count; i++) {
        free(r->round[i].raw);
        free(r->round[i].covered);
        repl_buffer_fini(&r->round[i].stored);
    }
    r->round_count = 0;
}

repl_result repair_round(struct repair *r, uint32_t first, struct scrub_broken *broken,
                         struct repl_error *err)
{
    REPL_TRY(round_begin(r, first, err));
    REPL_TRY(pages_take(r, false, err));
    if (first_wrong(r) != NULL)
        REPL_TRY(later_open(r, broken, err));
    if (first_wrong(r) != NULL && r->reader != NULL)
        REPL_TRY(pages_take(r, true, err));
    if (first_wrong(r) != NULL)
        REPL_TRY(chunks_search(r, err));
    const struct broken *wrong = first_wrong(r);
    if (wrong != NULL)
        return repl_fail(err, REPL_E_CORRUPT,
                         "neither a replica nor another segment holds what was in frame %" PRIu32
                         " any more",
                         wrong->index);
    return REPL_SUCCESS;
}

/* --- compressed ------------------------------------------------------------------------------ */

/* How many bytes of the damaged frame are others. */
static size_t differing(const uint8_t *a, const uint8_t *b, size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += a[i] != b[i];
    return count;
}

/* Of what has its size, what differs least from what is left. */
repl_result repair_encode(struct repair *r, struct broken *broken, struct repl_error *err)
{
    const struct repl_frame_entry *wanted = &r->segment->frames[broken->index];
    struct repl_error ignored;
    struct repl_buffer made = {0};
    size_t least = SIZE_MAX;
    uint8_t *left = calloc(1, wanted->stored_size);
    repl_result result =
        left == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a frame") : REPL_SUCCESS;
    if (repl_ok(result))
        repl_ignore(repair_read_at(r, wanted->offset, left, wanted->stored_size, &ignored));
    for (unsigned level = 1; level <= REPL_FRAME_LEVEL_MAX && repl_ok(result); level++) {
        struct repl_frame_entry entry;
        made.size = 0;
        repl_frame_coder_level(r->coder, level);
        result = repl_frame_encode(r->coder, broken->raw, wanted->raw_size, &made, &entry, err);
        if (!repl_ok(result) || entry.codec != wanted->codec ||
            entry.stored_size != wanted->stored_size)
            continue;
        size_t others = differing(made.data, left, wanted->stored_size);
        if (others >= least)
            continue;
        least = others;
        broken->stored.size = 0;
        result = repl_buffer_append(&broken->stored, made.data, made.size, err);
    }
    free(left);
    repl_buffer_fini(&made);
    if (repl_ok(result) && least == SIZE_MAX)
        result = repl_fail(err, REPL_E_CORRUPT,
                           "frame %" PRIu32 " is compressed as this program does not do it",
                           broken->index);
    return result;
}
