/*
 * An array of (first 8 bytes of the name, place), sorted. Names that agree in
 * these are told apart by reading: whoever is not the one that is wanted does not
 * have its content.
 */
#include "recover/pool_places.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "format/wire.h"
#include "segment/segment_reader.h"
#include "store/chunk_reader.h"

/* A place: segment, frame, offset in it. */
#define FRAME_BITS   20u
#define OFFSET_BITS  20u
#define SEGMENTS_MAX (1u << 24)

_Static_assert(REPL_FRAMES_MAX <= 1u << FRAME_BITS, "a frame's number fits");
_Static_assert(REPL_FRAME_RAW_MAX <= 1u << OFFSET_BITS, "an offset in a frame fits");

struct entry {
    uint64_t prefix;
    uint64_t place;
};

struct place_segment {
    uint32_t volume; /* in names */
    struct repl_segment_id id;
};

struct repl_pool_places {
    struct repl_store *store;
    struct repl_buffer entries;            /* struct entry */
    struct repl_buffer segments;           /* struct place_segment */
    struct repl_buffer volumes;            /* char [REPL_VOLUME_NAME_SIZE + 1] each */
    char lacked[REPL_ERROR_TEXT_SIZE / 2]; /* why the first one was left out */
    unsigned lacked_count;
    pthread_mutex_t mutex; /* guards the readers that nobody uses */
    struct repl_chunk_reader **readers;
    size_t reader_count, reader_room;
};

typedef char volume_name[REPL_VOLUME_NAME_SIZE + 1];

#define ENTRIES(p)  ((struct entry *)(void *)(p)->entries.data)
#define SEGMENTS(p) ((const struct place_segment *)(const void *)(p)->segments.data)
#define VOLUMES(p)  ((const volume_name *)(const void *)(p)->volumes.data)

repl_result repl_pool_places_new(struct repl_store *store, struct repl_pool_places **out,
                                 struct repl_error *err)
{
    *out = calloc(1, sizeof **out);
    if (*out == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the places of chunks");
    (*out)->store = store;
    pthread_mutex_init(&(*out)->mutex, NULL);
    return REPL_SUCCESS;
}

void repl_pool_places_free(struct repl_pool_places *places)
{
    if (places == NULL)
        return;
    for (size_t i = 0; i < places->reader_count; i++)
        repl_chunk_reader_free(places->readers[i]);
    free(places->readers);
    repl_buffer_fini(&places->entries);
    repl_buffer_fini(&places->segments);
    repl_buffer_fini(&places->volumes);
    pthread_mutex_destroy(&places->mutex);
    free(places);
}

/* --- gathering ------------------------------------------------------------------------------- */

void repl_pool_places_lack(struct repl_pool_places *places, const char *why)
{
    if (places->lacked_count++ == 0)
        snprintf(places->lacked, sizeof places->lacked, "%.*s", (int)sizeof places->lacked - 1,
                 why);
}

/* Volumes are added one after the other. */
static repl_result segment_note(struct repl_pool_places *places, const char *volume,
                                const struct repl_segment_id *id, struct repl_error *err)
{
    size_t count = places->volumes.size / sizeof(volume_name);
    if (places->segments.size / sizeof(struct place_segment) >= SEGMENTS_MAX)
        return repl_fail(err, REPL_E_NOMEM, "the pool has more than %u segments", SEGMENTS_MAX);
    if (count == 0 || strcmp(VOLUMES(places)[count - 1], volume) != 0) {
        volume_name name = "";
        snprintf(name, sizeof name, "%s", volume);
        REPL_TRY(repl_buffer_append(&places->volumes, name, sizeof name, err));
        count++;
    }
    const struct place_segment segment = {.volume = (uint32_t)count - 1, .id = *id};
    return repl_buffer_append(&places->segments, &segment, sizeof segment, err);
}

static repl_result chunks_note(struct repl_pool_places *places, const struct repl_segment *segment,
                               struct repl_error *err)
{
    uint64_t number = places->segments.size / sizeof(struct place_segment) - 1;
    for (uint32_t i = 0; i < segment->footer.chunk_count; i++) {
        const struct repl_chunk_entry *chunk = &segment->chunks[i];
        const struct entry entry = {.prefix = repl_chunk_prefix(&chunk->name),
                                    .place = number << (FRAME_BITS + OFFSET_BITS) |
                                             (uint64_t)chunk->frame << OFFSET_BITS |
                                             chunk->frame_offset};
        REPL_TRY(repl_buffer_append(&places->entries, &entry, sizeof entry, err));
    }
    return REPL_SUCCESS;
}

static repl_result segment_add(struct repl_pool_places *places, const char *volume,
                               const struct repl_segment_id *id, uint64_t file_size,
                               struct repl_error *err)
{
    struct repl_stored_segment *file;
    struct repl_segment *segment;
    REPL_TRY(repl_store_open_segment(places->store, volume, id, file_size, &file, &segment, err));
    repl_result result = REPL_SUCCESS;
    if (segment->footer.chunk_count > 0) {
        result = segment_note(places, volume, id, err);
        if (repl_ok(result))
            result = chunks_note(places, segment, err);
    }
    repl_segment_free(segment);
    file->close(file);
    return result;
}

repl_result repl_pool_places_add(struct repl_pool_places *places, const char *volume,
                                 const struct repl_segment_id *id, uint64_t file_size,
                                 struct repl_error *err)
{
    struct repl_error why;
    repl_result result = segment_add(places, volume, id, file_size, &why);
    if (result.code == REPL_E_NOMEM || result.code == REPL_E_RETRY) {
        if (err != NULL)
            *err = why;
        return result;
    }
    if (!repl_ok(result))
        repl_pool_places_lack(places, why.text);
    return REPL_SUCCESS;
}

static int entry_order(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int order = (x->prefix > y->prefix) - (x->prefix < y->prefix);
    return order != 0 ? order : (x->place > y->place) - (x->place < y->place);
}

void repl_pool_places_sort(struct repl_pool_places *places)
{
    size_t count = places->entries.size / sizeof(struct entry);
    if (count > 0)
        qsort(ENTRIES(places), count, sizeof(struct entry), entry_order);
}

/* --- reading --------------------------------------------------------------------------------- */

static repl_result reader_take(struct repl_pool_places *places, struct repl_chunk_reader **out,
                               struct repl_error *err)
{
    *out = NULL;
    pthread_mutex_lock(&places->mutex);
    if (places->reader_count > 0)
        *out = places->readers[--places->reader_count];
    pthread_mutex_unlock(&places->mutex);
    return *out != NULL ? REPL_SUCCESS : repl_chunk_reader_new(places->store, out, err);
}

static void reader_give(struct repl_pool_places *places, struct repl_chunk_reader *reader)
{
    pthread_mutex_lock(&places->mutex);
    if (places->reader_count == places->reader_room) {
        size_t room = places->reader_room + 8;
        struct repl_chunk_reader **larger = reallocarray(places->readers, room, sizeof *larger);
        if (larger != NULL) {
            places->readers = larger;
            places->reader_room = room;
        }
    }
    bool kept = places->reader_count < places->reader_room;
    if (kept)
        places->readers[places->reader_count++] = reader;
    pthread_mutex_unlock(&places->mutex);
    if (!kept)
        repl_chunk_reader_free(reader);
}

/* The first entry that may be the name's; count: there is none. */
static size_t entry_find(const struct repl_pool_places *places, uint64_t prefix)
{
    const struct entry *entries = ENTRIES(places);
    size_t low = 0, high = places->entries.size / sizeof *entries;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (entries[middle].prefix < prefix)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The i-th of those that may be the name's. False: there are no more. */
static bool place_get(const struct repl_pool_places *places, const struct repl_digest *name,
                      size_t i, uint32_t at, struct repl_placed_chunk *out)
{
    uint64_t prefix = repl_chunk_prefix(name);
    size_t entry = entry_find(places, prefix) + i;
    if (entry >= places->entries.size / sizeof(struct entry) ||
        ENTRIES(places)[entry].prefix != prefix)
        return false;
    uint64_t place = ENTRIES(places)[entry].place;
    const struct place_segment *segment = &SEGMENTS(places)[place >> (FRAME_BITS + OFFSET_BITS)];
    *out = (struct repl_placed_chunk){.segment = segment->id,
                                      .frame = (uint32_t)(place >> OFFSET_BITS) &
                                               ((1u << FRAME_BITS) - 1),
                                      .frame_offset = (uint32_t)place & ((1u << OFFSET_BITS) - 1),
                                      .at = at};
    memcpy(out->volume, VOLUMES(places)[segment->volume], sizeof out->volume);
    return true;
}

static repl_result bytes_take(void *context, uint32_t at, const void *bytes, struct repl_error *err)
{
    (void)err;
    memcpy((uint8_t *)context + (size_t)at * REPL_CHUNK_SIZE, bytes, REPL_CHUNK_SIZE);
    return REPL_SUCCESS;
}

static repl_result place_missing(const struct repl_pool_places *places,
                                 const struct repl_digest *name, struct repl_error *err)
{
    char text[REPL_DIGEST_TEXT_SIZE];
    repl_digest_format(name, text);
    if (places->lacked_count == 0)
        return repl_fail(err, REPL_E_MISSING, "chunk %.16s is in no segment of the pool", text);
    return repl_fail(err, REPL_E_MISSING,
                     "chunk %.16s is in no segment of the pool that can be read; %u cannot, the "
                     "first: %s",
                     text, places->lacked_count, places->lacked);
}

/* Wherever it may lie, until it is found whole. */
static repl_result single_read(struct repl_pool_places *places, struct repl_chunk_reader *reader,
                               const struct repl_digest *name, uint8_t *out, struct repl_error *err)
{
    struct repl_placed_chunk chunk;
    for (size_t i = 0; place_get(places, name, i, 0, &chunk); i++) {
        struct repl_error why;
        repl_result result = repl_chunk_reader_read(reader, &chunk, 1, name, bytes_take, out, &why);
        if (repl_ok(result))
            return result;
        if (result.code == REPL_E_NOMEM || result.code == REPL_E_RETRY) {
            if (err != NULL)
                *err = why;
            return result;
        }
        char text[REPL_DIGEST_TEXT_SIZE];
        repl_digest_format(name, text);
        if (!place_get(places, name, i + 1, 0, &chunk))
            return repl_fail(err, REPL_E_MISSING, "chunk %.16s: %.300s", text, why.text);
    }
    return place_missing(places, name, err);
}

static repl_result places_read(struct repl_pool_places *places, struct repl_chunk_reader *reader,
                               struct repl_placed_chunk *chunks, const struct repl_digest *names,
                               uint32_t count, uint8_t *out, struct repl_error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        if (!place_get(places, &names[i], 0, i, &chunks[i]))
            return place_missing(places, &names[i], err);
    }
    repl_result result = repl_chunk_reader_read(reader, chunks, count, names, bytes_take, out, err);
    if (repl_ok(result) || result.code == REPL_E_NOMEM || result.code == REPL_E_RETRY)
        return result;
    for (uint32_t i = 0; i < count; i++)
        REPL_TRY(single_read(places, reader, &names[i], out + (size_t)i * REPL_CHUNK_SIZE, err));
    return REPL_SUCCESS;
}

repl_result repl_pool_places_read(struct repl_pool_places *places, const struct repl_digest *names,
                                  uint32_t count, uint8_t *out, struct repl_error *err)
{
    struct repl_chunk_reader *reader;
    struct repl_placed_chunk *chunks = calloc(count + 1, sizeof *chunks);
    if (chunks == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for the places of chunks");
    repl_result result = reader_take(places, &reader, err);
    if (repl_ok(result)) {
        result = places_read(places, reader, chunks, names, count, out, err);
        reader_give(places, reader);
    }
    free(chunks);
    return result;
}
