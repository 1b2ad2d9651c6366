/*
 * Frames of a segment made anew of what the volume's replica holds, or other
 * segments.
 *
 * A page that has not changed since the segment came is in the replica as it is
 * in the segment; one that a later segment says something of may be in the first of
 * these, as its source sent it once more. So the bytes of a damaged frame are put together of the
 * pages that the manifest says lie in it, and of chunks that lie elsewhere, too; its checksum says
 * whether they are the ones. They are compressed as they were (each level is tried), put in the
 * damaged frame's place in a copy of the file, and the copy takes the file's place if it has the
 * digest that was committed: the same file, byte for byte, or nothing.
 *
 * It takes a header, manifest, index and footer that are whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "block/read_full.h"
#include "control/control.h"
#include "site/scrub/scrub_internal.h"
#include "store/segment_name.h"

#define COPY_SIZE (1u << 20)

/* A damaged frame. */
struct broken {
    uint32_t index;
    uint8_t *raw;     /* as it is to be, */
    uint8_t *covered; /* as far as this is 1 */
    struct repl_buffer stored;
};

struct repair {
    struct scrub_visit *visit;
    size_t entry; /* of the chain */
    const struct repl_segment_id *id;
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    struct repl_frame_coder *coder;
    int replica_fd, staged_fd;
    char staged_path[PATH_MAX];
    uint32_t *broken_of; /* by frame: its number in broken and 1; 0: it is whole */
    bool too_many;       /* and more than these: numbers behind the last in broken */
    struct broken broken[SCRUB_FRAMES_MAX];
    uint32_t broken_count;
    bool filled; /* all of them have the bytes that they had */
    struct scrub_later later;
    struct scrub_later_reader *reader; /* NULL: later segments are not looked at */
    struct scrub_chunk_coders coders;
};

static repl_result file_read_at(void *context, uint64_t offset, void *out, size_t size,
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

static repl_result broken_add(struct repair *r, uint32_t index, struct repl_error *err)
{
    struct broken *broken = &r->broken[r->broken_count];
    size_t size = r->segment->frames[index].raw_size;
    r->broken_of[index] = r->broken_count + 1;
    r->too_many = r->broken_count == SCRUB_FRAMES_MAX;
    if (r->too_many)
        return REPL_SUCCESS;
    *broken = (struct broken){.index = index, .raw = malloc(size), .covered = calloc(1, size)};
    r->broken_count++;
    if (broken->raw == NULL || broken->covered == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a frame");
    return REPL_SUCCESS;
}

static repl_result broken_find(struct repair *r, struct repl_error *err)
{
    struct repl_buffer stored = {0};
    uint32_t count = r->segment->footer.frame_count;
    uint8_t *raw = malloc(REPL_FRAME_RAW_MAX);
    repl_result result = REPL_SUCCESS;
    r->broken_of = calloc(count + 1, sizeof *r->broken_of);
    if (raw == NULL || r->broken_of == NULL)
        result = repl_fail(err, REPL_E_NOMEM, "out of memory for %u frames", count);
    for (uint32_t i = 0; i < count && repl_ok(result); i++) {
        size_t size;
        repl_result found =
            repl_segment_read_frame(r->segment, i, r->coder, &stored, raw, &size, err);
        if (found.code == REPL_E_CORRUPT || found.code == REPL_E_IO)
            result = broken_add(r, i, err);
        else
            result = found;
    }
    repl_buffer_fini(&stored);
    free(raw);
    if (repl_ok(result) && r->broken_count == 0)
        result = repl_fail(err, REPL_E_CORRUPT, "none of its frames is what is damaged");
    return result;
}

/* Which bytes of the volume lie in them. */
static repl_result broken_list(struct repair *r, struct scrub_broken *broken,
                               struct repl_error *err)
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

/* What the replica holds where the record says that bytes of a broken frame are, or what a later
 * segment says first. */
static repl_result record_take(struct repair *r, const struct repl_record *record,
                               struct repl_error *err)
{
    uint32_t number = r->broken_of[record->frame];
    if (number == 0)
        return REPL_SUCCESS;
    struct broken *broken = &r->broken[number - 1];
    uint8_t *raw = broken->raw + record->frame_offset;
    uint8_t *covered = broken->covered + record->frame_offset;
    if (r->reader != NULL)
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

/* Chunks go by their names, so they are right whatever the replica has. */
static repl_result chunks_take(struct repair *r, struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    for (uint32_t i = 0; i < r->segment->footer.chunk_count && repl_ok(result); i++) {
        const struct repl_chunk_entry *chunk = &r->segment->chunks[i];
        uint32_t number = r->broken_of[chunk->frame];
        bool found;
        if (number == 0)
            continue;
        struct broken *broken = &r->broken[number - 1];
        repl_result taken = scrub_chunk_take(r->visit, r->id, &chunk->name, &r->coders,
                                             broken->raw + chunk->frame_offset, &found, err);
        if (repl_ok(taken) && found)
            memset(broken->covered + chunk->frame_offset, 1, REPL_CHUNK_SIZE);
        else if (taken.code == REPL_E_NOMEM || taken.code == REPL_E_RETRY)
            result = taken; /* else it is damaged there too */
    }
    return result;
}

/* How many bytes of the damaged frame are others. */
static size_t differing(const uint8_t *a, const uint8_t *b, size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += a[i] != b[i];
    return count;
}

/* Encodes the frame as it was: of what has its size, what differs least from what is left. */
static repl_result frame_encode(struct repair *r, struct broken *broken, struct repl_error *err)
{
    const struct repl_frame_entry *wanted = &r->segment->frames[broken->index];
    struct repl_error ignored;
    struct repl_buffer made = {0};
    size_t least = SIZE_MAX;
    uint8_t *left = calloc(1, wanted->stored_size);
    repl_result result =
        left == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a frame") : REPL_SUCCESS;
    if (repl_ok(result))
        repl_ignore(file_read_at(r, wanted->offset, left, wanted->stored_size, &ignored));
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

/* Of the replica and of chunks, or of later segments and of chunks. *wrong: the first frame that
 * does not become what it was; its number in broken and 1; 0: all do. */
static repl_result broken_fill(struct repair *r, uint32_t *wrong, struct repl_error *err)
{
    REPL_TRY(bytes_take(r, err));
    REPL_TRY(chunks_take(r, err));
    *wrong = 0;
    for (uint32_t i = 0; i < r->broken_count && *wrong == 0; i++) {
        const struct broken *broken = &r->broken[i];
        const struct repl_frame_entry *entry = &r->segment->frames[broken->index];
        if (memchr(broken->covered, 0, entry->raw_size) != NULL ||
            repl_xxh3(broken->raw, entry->raw_size) != entry->raw_xxh3)
            *wrong = i + 1;
    }
    return REPL_SUCCESS;
}

static repl_result later_fill(struct repair *r, struct scrub_broken *broken, uint32_t *wrong,
                              struct repl_error *err)
{
    REPL_TRY(scrub_heal(r->visit, r->entry, r->id, broken, &r->later, err));
    if (r->later.count == 0)
        return REPL_SUCCESS;
    REPL_TRY(scrub_later_reader_new(r->visit, r->id, &r->later, broken->begin, broken->end,
                                    &r->coders, &r->reader, err));
    return broken_fill(r, wrong, err);
}

static repl_result broken_mend(struct repair *r, struct scrub_broken *broken,
                               struct repl_error *err)
{
    uint32_t wrong;
    REPL_TRY(broken_fill(r, &wrong, err));
    if (wrong != 0)
        REPL_TRY(later_fill(r, broken, &wrong, err));
    if (wrong != 0)
        return repl_fail(err, REPL_E_CORRUPT,
                         "neither the replica nor another segment holds what was in frame %" PRIu32
                         " any more",
                         r->broken[wrong - 1].index);
    r->filled = true;
    for (uint32_t i = 0; i < r->broken_count; i++)
        REPL_TRY(frame_encode(r, &r->broken[i], err));
    return REPL_SUCCESS;
}

/* --- the file -------------------------------------------------------------------------------- */

static repl_result staged_fail(const struct repair *r, struct repl_error *err)
{
    return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                           "cannot write %s", r->staged_path);
}

static repl_result staged_open(struct repair *r, struct repl_error *err)
{
    char directory[PATH_MAX - REPL_SEGMENT_ID_TEXT_SIZE - 16], text[REPL_SEGMENT_ID_TEXT_SIZE];
    REPL_TRY(
        repl_store_staging(r->visit->store, r->visit->volume, directory, sizeof directory, err));
    repl_segment_id_text(r->id, text);
    snprintf(r->staged_path, sizeof r->staged_path, "%s/%s.repair", directory, text);
    r->staged_fd = open(r->staged_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    return r->staged_fd < 0 ? staged_fail(r, err) : REPL_SUCCESS;
}

static repl_result range_copy(struct repair *r, uint64_t from, uint64_t to, uint8_t *bytes,
                              struct repl_error *err)
{
    for (uint64_t at = from; at < to;) {
        size_t size = to - at < COPY_SIZE ? (size_t)(to - at) : COPY_SIZE;
        REPL_TRY(file_read_at(r, at, bytes, size, err));
        if (!repl_write_full(r->staged_fd, bytes, size, at))
            return staged_fail(r, err);
        at += size;
    }
    return REPL_SUCCESS;
}

/* The damaged file, but for the frames that were made anew. */
static repl_result staged_write(struct repair *r, struct repl_error *err)
{
    uint64_t at = 0;
    uint8_t *bytes = malloc(COPY_SIZE);
    repl_result result =
        bytes == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a copy") : REPL_SUCCESS;
    for (uint32_t i = 0; i < r->broken_count && repl_ok(result); i++) {
        const struct broken *broken = &r->broken[i];
        const struct repl_frame_entry *entry = &r->segment->frames[broken->index];
        result = range_copy(r, at, entry->offset, bytes, err);
        if (repl_ok(result) &&
            !repl_write_full(r->staged_fd, broken->stored.data, broken->stored.size, entry->offset))
            result = staged_fail(r, err);
        at = entry->offset + entry->stored_size;
    }
    if (repl_ok(result))
        result = range_copy(r, at, r->file->size, bytes, err);
    free(bytes);
    if (repl_ok(result) && fsync(r->staged_fd) != 0)
        result = staged_fail(r, err);
    return result;
}

static repl_result staged_read_at(void *context, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err)
{
    const struct repair *r = context;
    if (repl_read_full(r->staged_fd, out, size, offset) != (ssize_t)size)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", r->staged_path);
    return REPL_SUCCESS;
}

/* It is, to the last byte, what was committed. */
static repl_result staged_check(struct repair *r, const struct repl_log_commit *commit,
                                struct repl_error *err)
{
    struct repl_segment *segment;
    struct repl_segment_digest digest;
    REPL_TRY(repl_segment_open(staged_read_at, r, commit->file_size, &segment, err));
    repl_result result = repl_segment_digest_init(&digest, err);
    if (repl_ok(result)) {
        result = repl_segment_verify_digest(segment, &digest, err);
        repl_segment_digest_fini(&digest);
    }
    if (repl_ok(result) && !repl_digest_equal(&segment->footer.digest, &commit->digest))
        result = repl_fail(err, REPL_E_CORRUPT, "another segment came out");
    repl_segment_free(segment);
    return result;
}

/* --- all of it ------------------------------------------------------------------------------- */

static repl_result replica_open(struct repair *r, struct repl_error *err)
{
    if (r->visit->replica_path[0] == '\0')
        return REPL_SUCCESS;
    r->replica_fd = open(r->visit->replica_path, O_RDONLY | O_CLOEXEC);
    if (r->replica_fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot open the replica %s",
                               r->visit->replica_path);
    return REPL_SUCCESS;
}

static repl_result repair_run(struct repair *r, struct scrub_broken *broken, struct repl_error *err)
{
    struct repl_store *store = r->visit->store;
    const struct repl_log_commit *commit = &r->visit->chain.entries[r->entry].commit;
    REPL_TRY(
        store->ops->segment_open(store, r->visit->volume, r->id, commit->file_size, &r->file, err));
    REPL_TRY(repl_segment_open(file_read_at, r, r->file->size, &r->segment, err));
    REPL_TRY(repl_frame_coder_new(&r->coder, err));
    r->coders.frames = r->coder;
    REPL_TRY(repl_sha256_new(&r->coders.sha, err));
    REPL_TRY(broken_find(r, err));
    REPL_TRY(broken_list(r, broken, err));
    if (r->too_many)
        return repl_fail(err, REPL_E_CORRUPT, "more than %u of its frames are damaged",
                         SCRUB_FRAMES_MAX);
    REPL_TRY(replica_open(r, err));
    REPL_TRY(broken_mend(r, broken, err));
    REPL_TRY(staged_open(r, err));
    REPL_TRY(staged_write(r, err));
    REPL_TRY(staged_check(r, commit, err));
    return store->ops->segment_replace(store, r->visit->volume, r->id, r->staged_fd, r->staged_path,
                                       err);
}

/* The bytes are there, and cannot be compressed to what they were: for a merge. Where there is no
 * memory for it, later. */
static void patch_make(struct repair *r)
{
    struct repl_error ignored;
    struct site_patch *patch = site_patch_new(r->visit->volume, r->id, r->broken_count);
    repl_frame_coder_level(r->coder, REPL_FRAME_ZSTD_LEVEL);
    for (uint32_t i = 0; i < r->broken_count && patch != NULL; i++) {
        const struct broken *broken = &r->broken[i];
        struct site_patch_frame *frame = &patch->frames[i];
        frame->index = broken->index;
        if (repl_ok(repl_frame_encode(r->coder, broken->raw,
                                      r->segment->frames[broken->index].raw_size, &frame->stored,
                                      &frame->entry, &ignored)))
            continue;
        site_patch_free(patch);
        patch = NULL;
    }
    if (patch == NULL)
        return;
    patch->next = r->visit->patches;
    r->visit->patches = patch;
}

static void repair_fini(struct repair *r)
{
    for (uint32_t i = 0; i < r->broken_count; i++) {
        free(r->broken[i].raw);
        free(r->broken[i].covered);
        repl_buffer_fini(&r->broken[i].stored);
    }
    free(r->broken_of);
    scrub_later_reader_free(r->reader);
    scrub_later_fini(&r->later);
    repl_sha256_free(r->coders.sha);
    repl_frame_coder_free(r->coder);
    repl_segment_free(r->segment);
    if (r->file != NULL)
        r->file->close(r->file);
    if (r->replica_fd >= 0)
        close(r->replica_fd);
    if (r->staged_fd >= 0) {
        close(r->staged_fd);
        unlink(r->staged_path); /* gone if it has taken the file's place */
    }
}

repl_result scrub_repair(struct scrub_visit *visit, size_t entry, const struct repl_segment_id *id,
                         struct scrub_broken *broken, struct repl_error *err)
{
    struct repair r = {.visit = visit, .entry = entry, .id = id, .replica_fd = -1, .staged_fd = -1};
    repl_result result = repair_run(&r, broken, err);
    struct repl_error ignored;
    if (result.code == REPL_E_CORRUPT && r.filled)
        patch_make(&r);
    if (!repl_ok(result) && broken->known && /* else they are not named */
        !repl_ok(scrub_mates_find(visit, r.segment, r.broken_of, broken->mates,
                                  sizeof broken->mates, &ignored)))
        broken->mates[0] = '\0';
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    repl_segment_id_text(id, text);
    if (repl_ok(result))
        repl_log(LOG_WARNING,
                 "volume %s: segment %s was damaged in %u of its frames, and is as it was "
                 "committed again: they were made anew of what the replica and other segments "
                 "hold. See to the %s",
                 visit->volume, text, r.broken_count,
                 visit->in_bucket ? "service that keeps the bucket" : "disk under the store");
    repair_fini(&r);
    return result;
}
