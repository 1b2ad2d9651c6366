/*
 * Needed frames are noted as numbers, segment and frame, chunks by their names;
 * sorted, each counts once. That is what a restore fetches if it has each at
 * hand as often as it needs it; where a volume lies scattered, its threads fetch
 * some a second time.
 *
 * A rate is measured as a restore works: its threads read pieces of the view,
 * then of the target, eight neighbours at each of 32 places, until a time is
 * over. How fast the target takes writes cannot be known without writing.
 */
#include "recover/restore_estimate.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "recover/restore.h"
#include "recover/restore_progress.h"

#define PIECE_SIZE    REPL_RESTORE_PIECE_SIZE
#define CACHED_FRAMES 32u
#define PROBE_NS      INT64_C(2000000000)
#define PROBE_PLACES  32u
#define PROBE_ROW     8u /* pieces at each place */
#define PROBE_PIECES  (PROBE_PLACES * PROBE_ROW)

/* --- what is needed -------------------------------------------------------------------------- */

struct needed {
    const struct repl_segment *segment;
    uint32_t frame;
};

struct needs {
    struct repl_buffer frames; /* struct needed each */
    struct repl_buffer chunks; /* struct repl_digest each */
};

static repl_result need_note(void *context, const struct repl_segment *segment, uint32_t frame,
                             const struct repl_digest *chunk, struct repl_error *err)
{
    struct needs *n = context;
    const struct needed last = {.segment = segment, .frame = frame};
    if (segment == NULL)
        return repl_buffer_append(&n->chunks, chunk, sizeof *chunk, err);
    const struct needed *before =
        n->frames.size == 0
            ? NULL
            : (const struct needed *)(const void *)(n->frames.data + n->frames.size) - 1;
    if (before != NULL && before->segment == segment && before->frame == frame)
        return REPL_SUCCESS; /* mostly so */
    return repl_buffer_append(&n->frames, &last, sizeof last, err);
}

static int needed_compare(const void *a, const void *b)
{
    const struct needed *x = a, *y = b;
    if (x->segment != y->segment)
        return (uintptr_t)x->segment < (uintptr_t)y->segment ? -1 : 1;
    return x->frame < y->frame ? -1 : x->frame > y->frame;
}

static int name_compare(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct repl_digest));
}

static uint64_t needs_bytes(struct needs *n)
{
    struct needed *frames = (struct needed *)(void *)n->frames.data;
    struct repl_digest *chunks = (struct repl_digest *)(void *)n->chunks.data;
    size_t frame_count = n->frames.size / sizeof *frames;
    size_t chunk_count = n->chunks.size / sizeof *chunks;
    uint64_t bytes = 0;
    if (frame_count > 0)
        qsort(frames, frame_count, sizeof *frames, needed_compare);
    if (chunk_count > 0)
        qsort(chunks, chunk_count, sizeof *chunks, name_compare);
    for (size_t i = 0; i < frame_count; i++) {
        if (i == 0 || needed_compare(&frames[i - 1], &frames[i]) != 0)
            bytes += frames[i].segment->frames[frames[i].frame].stored_size;
    }
    for (size_t i = 0; i < chunk_count; i++)
        bytes += i == 0 || name_compare(&chunks[i - 1], &chunks[i]) != 0 ? REPL_CHUNK_SIZE : 0;
    return bytes;
}

/* --- measuring ------------------------------------------------------------------------------- */

struct probe {
    const struct repl_restore_estimate_options *options;
    uint64_t size;    /* of the volume */
    uint64_t *pieces; /* to be read, in this order */
    uint64_t count;
    int fd; /* of the target; -1: the view is read */
    int64_t end_ns;
    _Atomic uint64_t next, bytes;

    pthread_mutex_t mutex; /* guards what is below */
    repl_result result;    /* the first failure */
    struct repl_error err;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool is_interrupted(const struct repl_restore_estimate_options *options)
{
    return options->interrupted != NULL && atomic_load(options->interrupted);
}

/* Of a target that cannot be read no rate is known; a restore will say why. */
static void target_piece_read(struct probe *p, uint64_t offset, size_t size, void *buffer)
{
    size_t rounded =
        (size + REPL_TARGET_ALIGNMENT - 1) / REPL_TARGET_ALIGNMENT * REPL_TARGET_ALIGNMENT;
    ssize_t got = pread(p->fd, buffer, rounded, (off_t)offset);
    atomic_fetch_add(&p->bytes, got > 0 ? (uint64_t)got : 0);
}

static repl_result pieces_read(struct probe *p, struct repl_error *err)
{
    struct repl_view_reader *reader = NULL;
    uint8_t *buffer = aligned_alloc(REPL_TARGET_ALIGNMENT, PIECE_SIZE);
    repl_result result =
        buffer == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory") : REPL_SUCCESS;
    if (repl_ok(result) && p->fd < 0)
        result = repl_view_reader_new(p->options->view, CACHED_FRAMES, &reader, err);
    while (repl_ok(result) && now_ns() < p->end_ns && !is_interrupted(p->options)) {
        uint64_t i = atomic_fetch_add(&p->next, 1);
        if (i >= p->count)
            break;
        uint64_t offset = p->pieces[i] * PIECE_SIZE, left = p->size - offset;
        size_t size = left < PIECE_SIZE ? (size_t)left : PIECE_SIZE;
        if (p->fd >= 0)
            target_piece_read(p, offset, size, buffer);
        else
            result = repl_view_read(reader, offset, buffer, size, err);
    }
    repl_view_reader_free(reader);
    free(buffer);
    return result;
}

static void *probe_thread(void *context)
{
    struct probe *p = context;
    struct repl_error err;
    repl_result result = pieces_read(p, &err);
    pthread_mutex_lock(&p->mutex);
    if (!repl_ok(result) && repl_ok(p->result)) {
        p->result = result;
        p->err = err;
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

static repl_result probe_run(struct probe *p, struct repl_restore_rate *rate,
                             struct repl_error *err)
{
    pthread_t threads[REPL_RESTORE_THREADS_MAX];
    struct repl_origin *origin = repl_history_origin(p->options->history);
    uint64_t fetched = atomic_load(&origin->fetched_bytes);
    unsigned started = 0;
    int64_t begin_ns = now_ns();
    p->end_ns = begin_ns + PROBE_NS;
    atomic_store(&p->next, 0);
    while (started < p->options->threads &&
           pthread_create(&threads[started], NULL, probe_thread, p) == 0)
        started++;
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (started == 0)
        return repl_fail(err, REPL_E_NOMEM, "cannot start a thread");
    if (!repl_ok(p->result)) {
        *err = p->err;
        return p->result;
    }
    if (is_interrupted(p->options))
        return repl_fail(err, REPL_E_RETRY, "interrupted");
    rate->bytes = p->fd >= 0 ? p->bytes : atomic_load(&origin->fetched_bytes) - fetched;
    rate->ns = rate->bytes > 0 ? now_ns() - begin_ns : 0;
    return REPL_SUCCESS;
}

/* Of many pieces some rows, spread over all of them. */
static void pieces_choose(struct probe *p)
{
    if (p->count <= PROBE_PIECES)
        return;
    for (uint64_t i = 0; i < PROBE_PIECES; i++) /* never behind what is still to be moved */
        p->pieces[i] =
            p->pieces[(p->count - PROBE_ROW) / PROBE_PLACES * (i / PROBE_ROW) + i % PROBE_ROW];
    p->count = PROBE_PIECES;
}

static repl_result rates_measure(struct probe *p, struct repl_restore_estimate *out,
                                 struct repl_error *err)
{
    const struct repl_target *target = p->options->target;
    pieces_choose(p);
    /* Through a limit it would take as long as that says, and measure nothing else. */
    if (p->count > 0 && repl_history_origin(p->options->history)->throttle == NULL)
        REPL_TRY(probe_run(p, &out->fetched, err));
    if (p->count == 0 || (!target->is_device && !target->exists))
        return REPL_SUCCESS;
    p->fd = open(target->resolved, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (p->fd < 0)
        return REPL_SUCCESS;
    repl_result result = probe_run(p, &out->read, err);
    close(p->fd);
    return result;
}

/* --- both ------------------------------------------------------------------------------------ */

/* Counts piece i, and notes what it is made of unless it is done. */
static repl_result piece_count(const struct repl_restore_estimate_options *options, uint64_t i,
                               struct needs *needs, struct probe *p,
                               struct repl_restore_estimate *out, struct repl_error *err)
{
    uint64_t begin = i * PIECE_SIZE, left = p->size - begin, data = 0;
    uint64_t size = left < PIECE_SIZE ? left : PIECE_SIZE;
    for (uint64_t at = begin, length; at < begin + size; at += length) {
        bool zero;
        length = repl_view_stretch(options->view, at, begin + size - at, &zero);
        data += zero ? 0 : length;
    }
    out->data_bytes += data;
    if (options->hashes[i] != 0) {
        out->done_bytes += size;
        return REPL_SUCCESS;
    }
    out->write_bytes += data;
    if (data == 0)
        return REPL_SUCCESS;
    p->pieces[p->count++] = i;
    return repl_view_needs(options->view, begin, size, need_note, needs, err);
}

repl_result repl_restore_estimate(const struct repl_restore_estimate_options *options,
                                  struct repl_restore_estimate *out, struct repl_error *err)
{
    struct needs needs = {0};
    struct probe p = {.options = options, .fd = -1, .size = repl_view_size(options->view)};
    uint64_t pieces = repl_restore_piece_count(p.size);
    repl_result result = REPL_SUCCESS;
    *out = (struct repl_restore_estimate){0};
    p.pieces = calloc(pieces + 1, sizeof *p.pieces);
    if (p.pieces == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory");
    pthread_mutex_init(&p.mutex, NULL);
    for (uint64_t i = 0; repl_ok(result) && i < pieces; i++)
        result = is_interrupted(options) ? repl_fail(err, REPL_E_RETRY, "interrupted")
                                         : piece_count(options, i, &needs, &p, out, err);
    if (repl_ok(result)) {
        out->fetch_bytes = needs_bytes(&needs);
        result = rates_measure(&p, out, err);
    }
    pthread_mutex_destroy(&p.mutex);
    repl_buffer_fini(&needs.frames);
    repl_buffer_fini(&needs.chunks);
    free(p.pieces);
    return result;
}

int64_t repl_restore_rate_ns(const struct repl_restore_rate *rate, uint64_t bytes)
{
    if (bytes == 0)
        return 0;
    if (rate->bytes == 0)
        return -1;
    double ns = (double)bytes / (double)rate->bytes * (double)rate->ns;
    return ns < 9e18 ? (int64_t)ns : INT64_MAX;
}
