/*
 * One segment, applied to the replica.
 *
 * Its records are walked in the order of the volume. Data lies in frames of the
 * segment itself, chunks anywhere in the pool, where the index says; a few
 * decoded frames and opened segments are kept, least recently used goes first.
 * Records in order mostly come from frames in order; a point that was read in
 * several rounds is as many such sequences, and each needs one frame.
 *
 * Every frame is checked by its own checksum, and a chunk by its name: what the
 * index says is a hint that was computed, not a fact.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/limits.h"
#include "segment/segment_reader.h"
#include "site/replica/replica_internal.h"
#include "store/segment_name.h"

#define FRAMES_KEPT   8
#define SEGMENTS_KEPT 16

/* A segment of the volume, or of another one of its pool. */
struct home {
    char volume[REPL_VOLUME_NAME_SIZE + 1];
    struct repl_segment_id id;
};

struct open_segment {
    struct home home;
    struct repl_stored_segment *file; /* NULL: an empty place */
    struct repl_segment *segment;
    uint64_t used;
};

struct decoded_frame {
    struct home home;
    uint32_t frame;
    uint8_t *raw; /* NULL: an empty place */
    size_t size;
    uint64_t used;
};

struct replica_applier {
    struct repl_store *store;
    struct repl_index *index;
    const char *volume;
    struct replica_target *target;
    const atomic_bool *stop;
    atomic_int_least64_t *alive_ns;
    struct repl_frame_coder *coder;
    struct repl_sha256 *sha;
    struct repl_buffer stored;
    struct open_segment segments[SEGMENTS_KEPT];
    struct decoded_frame frames[FRAMES_KEPT];
    uint64_t clock; /* counts uses */
};

/* --- what is kept ---------------------------------------------------------------------------- */

static void segment_close(struct open_segment *place)
{
    repl_segment_free(place->segment);
    if (place->file != NULL)
        place->file->close(place->file);
    *place = (struct open_segment){0};
}

static bool home_same(const struct home *a, const struct home *b)
{
    return repl_segment_id_order(&a->id, &b->id) == 0 && strcmp(a->volume, b->volume) == 0;
}

static repl_result segment_get(struct replica_applier *a, const struct home *home,
                               const struct repl_segment **out, struct repl_error *err)
{
    struct open_segment *oldest = &a->segments[0];
    for (size_t i = 0; i < SEGMENTS_KEPT; i++) {
        struct open_segment *place = &a->segments[i];
        if (place->file != NULL && home_same(&place->home, home)) {
            if (place->used != UINT64_MAX) /* being walked: stays so */
                place->used = ++a->clock;
            *out = place->segment;
            return REPL_SUCCESS;
        }
        if (place->used < oldest->used)
            oldest = place;
    }
    segment_close(oldest);
    REPL_TRY(repl_store_open_segment(a->store, home->volume, &home->id, 0, &oldest->file,
                                     &oldest->segment, err));
    oldest->home = *home;
    oldest->used = ++a->clock;
    *out = oldest->segment;
    return REPL_SUCCESS;
}

static repl_result frame_load(struct replica_applier *a, struct decoded_frame *place,
                              const struct home *home, uint32_t frame, struct repl_error *err)
{
    const struct repl_segment *segment;
    place->used = 0; /* until it is whole again */
    place->frame = UINT32_MAX;
    if (place->raw == NULL)
        place->raw = malloc(REPL_FRAME_RAW_MAX);
    if (place->raw == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for a frame of volume %s", a->volume);
    REPL_TRY(segment_get(a, home, &segment, err));
    REPL_TRY(repl_forward(repl_segment_read_frame(segment, frame, a->coder, &a->stored, place->raw,
                                                  &place->size, err),
                          err, "volume %s, segment %llu.%u, frame %u", home->volume,
                          (unsigned long long)home->id.to_seq, home->id.part, frame));
    place->home = *home;
    place->frame = frame;
    return REPL_SUCCESS;
}

/* size bytes at offset of a frame. */
static repl_result frame_get(struct replica_applier *a, const struct home *home, uint32_t frame,
                             uint64_t offset, uint64_t size, const uint8_t **out,
                             struct repl_error *err)
{
    struct decoded_frame *found = NULL, *oldest = &a->frames[0];
    for (size_t i = 0; i < FRAMES_KEPT && found == NULL; i++) {
        struct decoded_frame *place = &a->frames[i];
        if (place->raw != NULL && place->frame == frame && home_same(&place->home, home))
            found = place;
        else if (place->used < oldest->used)
            oldest = place;
    }
    if (found == NULL) {
        REPL_TRY(frame_load(a, oldest, home, frame, err));
        found = oldest;
    }
    found->used = ++a->clock;
    if (offset > found->size || size > found->size - offset)
        return repl_fail(err, REPL_E_CORRUPT, "volume %s: frame %u of segment %llu.%u is too short",
                         home->volume, frame, (unsigned long long)home->id.to_seq, home->id.part);
    *out = found->raw + offset;
    return REPL_SUCCESS;
}

/* --- records --------------------------------------------------------------------------------- */

static repl_result chunk_check(struct replica_applier *a, const uint8_t *bytes,
                               const struct repl_digest *name, struct repl_error *err)
{
    struct repl_digest actual;
    char text[REPL_DIGEST_TEXT_SIZE];
    repl_chunk_digest(a->sha, bytes, &actual);
    if (repl_digest_equal(&actual, name))
        return REPL_SUCCESS;
    repl_digest_format(name, text);
    return repl_fail(err, REPL_E_CORRUPT,
                     "volume %s: the index points to other bytes for chunk %s: run repl verify",
                     a->volume, text);
}

static repl_result chunk_apply(struct replica_applier *a, const struct repl_record *record,
                               struct repl_error *err)
{
    struct repl_chunk_place place;
    const uint8_t *bytes;
    bool found;
    REPL_TRY(repl_index_chunk(a->index, a->volume, &record->chunk, &place, &found, err));
    if (!found) {
        char text[REPL_DIGEST_TEXT_SIZE];
        repl_digest_format(&record->chunk, text);
        return repl_fail(err, REPL_E_MISSING, "volume %s: chunk %s is not in the index", a->volume,
                         text);
    }
    struct home home = {.id = place.segment};
    memcpy(home.volume, place.volume, sizeof home.volume);
    REPL_TRY(frame_get(a, &home, place.frame, place.frame_offset, REPL_CHUNK_SIZE, &bytes, err));
    REPL_TRY(chunk_check(a, bytes, &record->chunk, err));
    if (record->chunk_offset > REPL_CHUNK_SIZE ||
        record->length > REPL_CHUNK_SIZE - record->chunk_offset)
        return repl_fail(err, REPL_E_CORRUPT, "volume %s: an extent leaves its chunk", a->volume);
    return replica_target_write(a->target, record->offset, bytes + record->chunk_offset,
                                record->length, err);
}

static repl_result record_apply(struct replica_applier *a, const struct home *home,
                                const struct repl_record *record, struct repl_error *err)
{
    const uint8_t *bytes;
    switch (record->type) {
    case REPL_RECORD_OBJECT:
        return replica_target_resize(a->target, record->size, err);
    case REPL_RECORD_DATA:
        REPL_TRY(
            frame_get(a, home, record->frame, record->frame_offset, record->length, &bytes, err));
        return replica_target_write(a->target, record->offset, bytes, record->length, err);
    case REPL_RECORD_CHUNK:
        return chunk_apply(a, record, err);
    case REPL_RECORD_ZERO:
        return replica_target_zero(a->target, record->offset, record->length, err);
    default:
        return repl_fail(err, REPL_E_CORRUPT,
                         "volume %s: the records of a directory tree in a block volume", a->volume);
    }
}

static repl_result records_apply(struct replica_applier *a, const struct home *home,
                                 struct repl_record_walk *walk, uint64_t *written,
                                 struct repl_error *err)
{
    for (;;) {
        struct repl_record record = {0};
        bool done;
        if (atomic_load(a->stop))
            return repl_fail(err, REPL_E_RETRY, "stopped");
        atomic_store(a->alive_ns, repl_now_mono_ns());
        REPL_TRY(repl_record_walk_next(walk, &record, &done, err));
        if (done)
            return REPL_SUCCESS;
        REPL_TRY(record_apply(a, home, &record, err));
        if (record.type != REPL_RECORD_OBJECT)
            *written += record.length;
    }
}

repl_result replica_apply_segment(struct replica_applier *a,
                                  const struct repl_segments_entry *entry, uint64_t *written,
                                  struct repl_error *err)
{
    struct home home = {
        .id = {.to_seq = entry->head.to_seq, .part = entry->head.part, .merge = entry->merge}};
    const struct repl_segment_id *id = &home.id;
    const struct repl_segment *segment;
    struct repl_record_walk walk;
    snprintf(home.volume, sizeof home.volume, "%s", a->volume);
    REPL_TRY(segment_get(a, &home, &segment, err));
    if (!repl_digest_equal(&segment->footer.digest, &entry->head.digest))
        return repl_fail(err, REPL_E_CORRUPT,
                         "volume %s: the file of segment %llu.%u is not the one that was "
                         "committed: run repl verify",
                         a->volume, (unsigned long long)id->to_seq, id->part);
    repl_record_walk_begin(&walk, segment, a->coder);
    /* The segment must stay open while others are looked at for its chunks. */
    for (size_t i = 0; i < SEGMENTS_KEPT; i++) {
        if (a->segments[i].segment == segment)
            a->segments[i].used = UINT64_MAX;
    }
    repl_result result = records_apply(a, &home, &walk, written, err);
    repl_record_walk_end(&walk);
    for (size_t i = 0; i < SEGMENTS_KEPT; i++) {
        if (a->segments[i].segment == segment)
            a->segments[i].used = ++a->clock;
    }
    return repl_forward(result, err, "segment %llu.%u", (unsigned long long)id->to_seq, id->part);
}

/* --- new and free ---------------------------------------------------------------------------- */

repl_result replica_applier_new(struct repl_store *store, struct repl_index *index,
                                const char *volume, struct replica_target *target,
                                const atomic_bool *stop, atomic_int_least64_t *alive_ns,
                                struct replica_applier **out, struct repl_error *err)
{
    struct replica_applier *a = calloc(1, sizeof *a);
    if (a == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the replica of volume %s", volume);
    a->store = store;
    a->index = index;
    a->volume = volume;
    a->target = target;
    a->stop = stop;
    a->alive_ns = alive_ns;
    repl_result result = repl_frame_coder_new(&a->coder, err);
    if (repl_ok(result))
        result = repl_sha256_new(&a->sha, err);
    if (!repl_ok(result)) {
        replica_applier_free(a);
        return result;
    }
    *out = a;
    return REPL_SUCCESS;
}

void replica_applier_free(struct replica_applier *a)
{
    if (a == NULL)
        return;
    for (size_t i = 0; i < SEGMENTS_KEPT; i++)
        segment_close(&a->segments[i]);
    for (size_t i = 0; i < FRAMES_KEPT; i++)
        free(a->frames[i].raw);
    repl_buffer_fini(&a->stored);
    repl_sha256_free(a->sha);
    repl_frame_coder_free(a->coder);
    free(a);
}
