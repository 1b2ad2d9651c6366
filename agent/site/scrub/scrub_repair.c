/*
 * A damaged segment or supply made what it was.
 *
 * The bytes of its damaged frames (scrub_frames.c) are compressed as they were (each
 * level is tried), put in the damaged frames' place in a copy of the file, and the copy takes
 * the file's place if it has the digest that was committed: the same file, byte for byte,
 * or nothing. Where another zstd had made a frame, what stands in for it is left for a
 * merge (site_patch.h); of a supply, which is in no chain, another file is made that says the
 * same (scrub_supply.c).
 *
 * It takes a header, manifest, index and footer that are whole.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include "block/read_full.h"
#include "control/control.h"
#include "format/segment_format.h"
#include "site/scrub/scrub_repair.h"
#include "store/segment_name.h"

#define COPY_SIZE (1u << 20)

/* Of frames that stand in for others, compressed: they stay in memory until the merge, which has
 * them twice. */
#define PATCH_SIZE_MAX (128u << 20)

/* --- the file -------------------------------------------------------------------------------- */

repl_result repair_staged_fail(const struct repair *r, struct repl_error *err)
{
    return repl_fail_errno(err, errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, errno,
                           "cannot write %s", r->staged_path);
}

repl_result repair_staged_open(struct repair *r, struct repl_error *err)
{
    char directory[PATH_MAX - REPL_SEGMENT_ID_TEXT_SIZE - 16], text[REPL_SEGMENT_ID_TEXT_SIZE];
    REPL_TRY(
        repl_store_staging(r->visit->store, r->visit->volume, directory, sizeof directory, err));
    repl_segment_id_text(r->id, text);
    snprintf(r->staged_path, sizeof r->staged_path, "%s/%s.repair", directory, text);
    r->staged_fd = open(r->staged_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    return r->staged_fd < 0 ? repair_staged_fail(r, err) : REPL_SUCCESS;
}

static repl_result range_copy(struct repair *r, uint64_t from, uint64_t to, uint8_t *bytes,
                              struct repl_error *err)
{
    for (uint64_t at = from; at < to;) {
        size_t size = to - at < COPY_SIZE ? (size_t)(to - at) : COPY_SIZE;
        REPL_TRY(repair_read_at(r, at, bytes, size, err));
        if (!repl_write_full(r->staged_fd, bytes, size, at))
            return repair_staged_fail(r, err);
        at += size;
    }
    return REPL_SUCCESS;
}

/* The damaged file, but for the damaged frames. */
static repl_result staged_copy(struct repair *r, struct repl_error *err)
{
    uint64_t at = 0;
    uint8_t *bytes = malloc(COPY_SIZE);
    repl_result result =
        bytes == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a copy") : REPL_SUCCESS;
    for (uint32_t i = 0; i < r->broken_count && repl_ok(result); i++) {
        const struct repl_frame_entry *entry = &r->segment->frames[r->indices[i]];
        result = range_copy(r, at, entry->offset, bytes, err);
        at = entry->offset + entry->stored_size;
    }
    if (repl_ok(result))
        result = range_copy(r, at, r->file->size, bytes, err);
    free(bytes);
    return result;
}

static repl_result round_encode(struct repair *r, struct repl_error *err)
{
    for (uint32_t i = 0; i < r->round_count; i++) {
        repl_result result = repair_encode(r, &r->round[i], err);
        r->foreign = result.code == REPL_E_CORRUPT;
        REPL_TRY(result);
    }
    return REPL_SUCCESS;
}

static repl_result staged_begin(struct repair *r, struct repl_error *err)
{
    if (r->staged_fd >= 0)
        return REPL_SUCCESS;
    REPL_TRY(repair_staged_open(r, err));
    return staged_copy(r, err);
}

static repl_result round_write(struct repair *r, struct repl_error *err)
{
    REPL_TRY(staged_begin(r, err));
    for (uint32_t i = 0; i < r->round_count; i++) {
        const struct broken *broken = &r->round[i];
        if (!repl_write_full(r->staged_fd, broken->stored.data, broken->stored.size,
                             r->segment->frames[broken->index].offset))
            return repair_staged_fail(r, err);
    }
    return REPL_SUCCESS;
}

repl_result repair_staged_read_at(void *context, uint64_t offset, void *out, size_t size,
                                  struct repl_error *err)
{
    const struct repair *r = context;
    if (repl_read_full(r->staged_fd, out, size, offset) != (ssize_t)size)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot read %s", r->staged_path);
    return REPL_SUCCESS;
}

/* It is, to the last byte, what was committed; of a supply the footer says that. */
static repl_result staged_check(struct repair *r, struct repl_error *err)
{
    struct repl_segment *segment;
    struct repl_segment_digest digest;
    REPL_TRY(repl_segment_open(repair_staged_read_at, r, r->file->size, &segment, err));
    repl_result result = repl_segment_digest_init(&digest, err);
    if (repl_ok(result)) {
        result = repl_segment_verify_digest(segment, &digest, err);
        repl_segment_digest_fini(&digest);
    }
    if (repl_ok(result) && r->entry != SIZE_MAX &&
        !repl_digest_equal(&segment->footer.digest,
                           &r->visit->chain.entries[r->entry].commit.digest))
        result = repl_fail(err, REPL_E_CORRUPT, "another segment came out");
    repl_segment_free(segment);
    return result;
}

repl_result repair_staged_publish(struct repair *r, struct repl_error *err)
{
    struct repl_store *store = r->visit->store;
    return store->ops->segment_replace(store, r->visit->volume, r->id, r->staged_fd, r->staged_path,
                                       err);
}

static repl_result list_mend(struct repair *r, const struct repl_segment *staged, uint32_t frame,
                             uint8_t *raw, struct repl_buffer *stored, struct repl_error *err)
{
    struct repl_page_digest pages[REPL_FRAME_PAGES_MAX];
    uint8_t tail[REPL_PAGES_TAIL];
    uint32_t count;
    size_t size;
    repl_result result = repl_segment_read_pages(staged, frame, pages, &count, err);
    if (result.code != REPL_E_CORRUPT)
        return result;
    REPL_TRY(repl_segment_read_frame(staged, frame, r->coder, stored, raw, &size, err));
    repl_page_digests(r->coders.sha, raw, size, pages);
    uint64_t listed = repl_page_count_of(size);
    repl_frame_pages_seal(pages, listed, tail);
    if (!repl_write_full(r->staged_fd, pages, listed * sizeof pages[0], staged->pages[frame]) ||
        !repl_write_full(r->staged_fd, tail, sizeof tail,
                         staged->pages[frame] + listed * sizeof pages[0]))
        return repair_staged_fail(r, err);
    return REPL_SUCCESS;
}

/* What the frames' pages are, of the frames, which are whole in the copy. */
static repl_result lists_mend(struct repair *r, struct repl_error *err)
{
    struct repl_segment *staged;
    struct repl_buffer stored = {0};
    REPL_TRY(repl_segment_open(repair_staged_read_at, r, r->file->size, &staged, err));
    uint8_t *raw = malloc(REPL_FRAME_RAW_MAX);
    repl_result result =
        raw == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory for a frame") : REPL_SUCCESS;
    for (uint32_t i = 0; i < staged->footer.frame_count && repl_ok(result); i++)
        result = list_mend(r, staged, i, raw, &stored, err);
    free(raw);
    repl_buffer_fini(&stored);
    repl_segment_free(staged);
    return result;
}

static repl_result exact_run(struct repair *r, struct scrub_broken *broken, struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    for (uint32_t first = 0; first < r->broken_count && repl_ok(result);
         first += SCRUB_FRAMES_MAX) {
        result = repair_round(r, first, broken, err);
        if (repl_ok(result))
            result = round_encode(r, err);
        if (repl_ok(result))
            result = round_write(r, err);
        repair_round_end(r);
    }
    if (repl_ok(result) && r->lists_broken > 0) {
        result = staged_begin(r, err);
        if (repl_ok(result))
            result = lists_mend(r, err);
    }
    if (repl_ok(result) && fsync(r->staged_fd) != 0)
        result = repair_staged_fail(r, err);
    if (!repl_ok(result))
        return result;
    result = staged_check(r, err);
    r->foreign = result.code == REPL_E_CORRUPT; /* of the same size, and other bytes */
    return repl_ok(result) ? repair_staged_publish(r, err) : result;
}

/* --- what another zstd has made -------------------------------------------------------------- */

repl_result repair_encode_anew(struct repair *r, const struct broken *broken,
                               struct repl_buffer *stored, struct repl_frame_entry *entry,
                               struct repl_error *err)
{
    repl_frame_coder_level(r->coder, REPL_FRAME_ZSTD_LEVEL);
    return repl_frame_encode(r->coder, broken->raw, r->segment->frames[broken->index].raw_size,
                             stored, entry, err);
}

static repl_result patch_fill(struct repair *r, struct site_patch *patch,
                              struct scrub_broken *broken, struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    size_t size = 0;
    for (uint32_t first = 0; first < r->broken_count && repl_ok(result);
         first += SCRUB_FRAMES_MAX) {
        result = repair_round(r, first, broken, err);
        for (uint32_t i = 0; i < r->round_count && repl_ok(result); i++) {
            struct site_patch_frame *frame = &patch->frames[first + i];
            frame->index = r->round[i].index;
            result = repair_encode_anew(r, &r->round[i], &frame->stored, &frame->entry, err);
            size += frame->stored.size;
            if (repl_ok(result) && size > PATCH_SIZE_MAX)
                result = repl_fail(err, REPL_E_CORRUPT,
                                   "another zstd has made its frames, and more than %u MiB of them "
                                   "are damaged",
                                   PATCH_SIZE_MAX >> 20);
        }
        repair_round_end(r);
    }
    return result;
}

/* For a merge. */
static repl_result patch_make(struct repair *r, struct scrub_broken *broken, struct repl_error *err)
{
    struct site_patch *patch = site_patch_new(r->visit->volume, r->id, r->broken_count);
    if (patch == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %u frames", r->broken_count);
    repl_result result = patch_fill(r, patch, broken, err);
    if (!repl_ok(result)) {
        site_patch_free(patch);
        return result;
    }
    patch->next = r->visit->patches;
    r->visit->patches = patch;
    return REPL_SUCCESS;
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

static repl_result repair_open(struct repair *r, struct scrub_broken *broken,
                               struct repl_error *err)
{
    struct repl_store *store = r->visit->store;
    uint64_t size = r->entry != SIZE_MAX ? r->visit->chain.entries[r->entry].commit.file_size : 0;
    repl_result opened =
        store->ops->segment_open(store, r->visit->volume, r->id, size, &r->file, err);
    if (repl_ok(opened))
        opened = repl_segment_open(repair_read_at, r, r->file->size, &r->segment, err);
    /* a later release can read what is of another version */
    broken->opaque = scrub_is_damage(opened) && opened.code != REPL_E_VERSION;
    REPL_TRY(opened);
    REPL_TRY(repl_frame_coder_new(&r->coder, err));
    r->coders.frames = r->coder;
    return repl_sha256_new(&r->coders.sha, err);
}

static repl_result repair_run(struct repair *r, struct scrub_broken *broken, struct repl_error *err)
{
    struct repl_error other;
    REPL_TRY(repair_open(r, broken, err));
    broken->opened = true;
    REPL_TRY(repair_find(r, err));
    REPL_TRY(repair_list(r, broken, err));
    REPL_TRY(replica_open(r, err));
    repl_result result = exact_run(r, broken, err);
    if (repl_ok(result) || !r->foreign)
        return result;
    if (r->entry == SIZE_MAX)
        return repair_supply(r, broken, err);
    repl_result patched = patch_make(r, broken, &other);
    return repl_ok(patched) ? result : repl_fail(err, patched.code, "%s", other.text);
}

static void repair_fini(struct repair *r)
{
    free(r->broken_of);
    free(r->indices);
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
    struct repl_error why;
    if (!repl_ok(result) && broken->known &&
        !repl_ok(scrub_lost_find(visit, id, r.segment, broken->frames, &broken->lost, &why)))
        repl_log(LOG_ERR, "volume %s: who refers to what is damaged is not known: %s",
                 visit->volume, why.text);
    char text[REPL_SEGMENT_ID_TEXT_SIZE];
    repl_segment_id_text(id, text);
    if (repl_ok(result) && r.broken_count == 0)
        repl_log(LOG_WARNING,
                 "volume %s: segment %s was damaged in what it says of its pages, and is as it was "
                 "committed again: that was made anew of its frames. See to the %s",
                 visit->volume, text,
                 visit->in_bucket ? "service that keeps the bucket" : "disk under the store");
    else if (repl_ok(result))
        repl_log(LOG_WARNING,
                 "volume %s: %s %s was damaged in %u of its frames, and %s: they were made anew of "
                 "what replicas and other segments hold. See to the %s",
                 visit->volume, id->supply != 0 ? "supply" : "segment", text, r.broken_count,
                 r.foreign ? "has the same chunks again" : "is as it was committed again",
                 visit->in_bucket ? "service that keeps the bucket" : "disk under the store");
    repair_fini(&r);
    return result;
}
