/*
 * Seats are made when they are wanted: for a read that none of those that are
 * idle was near to, or when all are busy. So each of several sequential readers
 * comes to have a seat, and the frames that it goes through, for itself.
 */
#include "recover/point_reader.h"

#include <stdlib.h>

#include "base/ensure.h"
#include "recover/point_internal.h"

/* A read that begins no farther from where another one ended goes on in the same frames. */
#define NEAR_BYTES (UINT64_C(4) << 20)

/* --- seats ----------------------------------------------------------------------------------- */

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a < b ? b - a : a - b;
}

static struct repl_point_seat *seat_nearest(struct repl_point_reader *reader, uint64_t at)
{
    struct repl_point_seat *nearest = NULL;
    for (unsigned i = 0; i < reader->seat_count; i++) {
        struct repl_point_seat *seat = &reader->seats[i];
        if (!seat->busy && (nearest == NULL || distance(seat->at, at) < distance(nearest->at, at)))
            nearest = seat;
    }
    return nearest;
}

static void seat_fini(struct repl_point_seat *seat)
{
    repl_tree_reader_free(seat->tree);
    repl_view_reader_free(seat->view);
    *seat = (struct repl_point_seat){.busy = seat->busy};
}

/* Without the lock: it is busy. One that has what it needs, or could not have it before. */
static repl_result seat_init(struct repl_point_reader *reader, struct repl_point_seat *seat,
                             struct repl_error *err)
{
    if (seat->view != NULL)
        return REPL_SUCCESS;
    REPL_TRY(repl_view_reader_new(reader->view, reader->seat_frames, &seat->view, err));
    repl_result result = REPL_SUCCESS;
    if (reader->plan != NULL)
        result = repl_tree_reader_new(reader->plan, &seat->tree, err);
    if (!repl_ok(result))
        seat_fini(seat);
    return result;
}

repl_result repl_point_seat_take(struct repl_point_reader *reader, uint64_t at,
                                 struct repl_point_seat **out, struct repl_error *err)
{
    struct repl_point_seat *seat;
    pthread_mutex_lock(&reader->mutex);
    for (;;) {
        seat = seat_nearest(reader, at);
        bool near =
            seat != NULL && (at == REPL_POINT_ANYWHERE || distance(seat->at, at) <= NEAR_BYTES);
        if (!near && reader->seat_count < REPL_POINT_SEATS)
            seat = &reader->seats[reader->seat_count++];
        if (seat != NULL)
            break;
        pthread_cond_wait(&reader->idle, &reader->mutex);
    }
    seat->busy = true;
    pthread_mutex_unlock(&reader->mutex);
    repl_result result = seat_init(reader, seat, err);
    if (repl_ok(result))
        *out = seat;
    else
        repl_point_seat_give(reader, seat, seat->at);
    return result;
}

void repl_point_seat_give(struct repl_point_reader *reader, struct repl_point_seat *seat,
                          uint64_t at)
{
    pthread_mutex_lock(&reader->mutex);
    seat->at = at;
    seat->busy = false;
    pthread_cond_signal(&reader->idle);
    pthread_mutex_unlock(&reader->mutex);
}

/* --- opening --------------------------------------------------------------------------------- */

repl_result repl_point_kind(struct repl_history *history, size_t point, enum repl_volume_kind *out,
                            struct repl_error *err)
{
    const struct repl_segment *segment;
    uint64_t seq = repl_history_catalogue(history)->points[point].point.seq;
    size_t i = repl_history_segment_of(history, seq);
    if (i == SIZE_MAX)
        return repl_fail(err, REPL_E_MISSING, "no segment ends in point %llu",
                         (unsigned long long)seq);
    REPL_TRY(repl_history_segment(history, i, &segment, err));
    *out = segment->header.volume_kind;
    return REPL_SUCCESS;
}

static unsigned frames_of(uint64_t cache_bytes)
{
    uint64_t bytes = cache_bytes != 0 ? cache_bytes : REPL_POINT_CACHE_BYTES;
    uint64_t frames = bytes / REPL_FRAME_RAW_MAX / REPL_POINT_SEATS;
    return frames == 0 ? 1 : frames > 1024 ? 1024 : (unsigned)frames;
}

repl_result repl_point_open(const struct repl_point_options *options,
                            struct repl_point_reader **out, struct repl_error *err)
{
    enum repl_volume_kind kind = REPL_VOLUME_BLOCK;
    struct repl_point_reader *reader = calloc(1, sizeof *reader);
    if (reader == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for a point");
    pthread_mutex_init(&reader->mutex, NULL);
    pthread_cond_init(&reader->idle, NULL);
    reader->history = options->history;
    reader->seat_frames = frames_of(options->cache_bytes);
    repl_result result = repl_point_kind(options->history, options->point, &kind, err);
    if (repl_ok(result))
        result = repl_history_view(options->history, options->point, &reader->view, err);
    if (repl_ok(result) && kind == REPL_VOLUME_TREE)
        result = repl_point_tree_open(reader, options, err);
    if (!repl_ok(result)) {
        repl_point_close(reader);
        return result;
    }
    *out = reader;
    return REPL_SUCCESS;
}

void repl_point_close(struct repl_point_reader *reader)
{
    if (reader == NULL)
        return;
    for (unsigned i = 0; i < reader->seat_count; i++)
        seat_fini(&reader->seats[i]);
    repl_tree_plan_free(reader->plan);
    repl_view_free(reader->view);
    pthread_cond_destroy(&reader->idle);
    pthread_mutex_destroy(&reader->mutex);
    free(reader);
}

/* --- a block volume -------------------------------------------------------------------------- */

uint64_t repl_point_size(const struct repl_point_reader *reader)
{
    return repl_view_size(reader->view);
}

repl_result repl_point_read(struct repl_point_reader *reader, uint64_t offset, void *out,
                            size_t size, struct repl_error *err)
{
    struct repl_point_seat *seat;
    uint64_t end = repl_point_size(reader);
    ensure(offset <= end && size <= end - offset);
    if (size == 0)
        return REPL_SUCCESS;
    REPL_TRY(repl_point_seat_take(reader, offset, &seat, err));
    repl_result result = repl_view_read(seat->view, offset, out, size, err);
    repl_point_seat_give(reader, seat, offset + size);
    return result;
}

uint64_t repl_point_seek(const struct repl_point_reader *reader, uint64_t offset, bool data)
{
    uint64_t size = repl_point_size(reader);
    while (offset < size) {
        bool zero;
        uint64_t length = repl_view_stretch(reader->view, offset, size - offset, &zero);
        if (zero != data)
            break;
        offset += length;
    }
    return offset < size ? offset : size;
}
