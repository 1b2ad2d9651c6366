/*
 * The volume is written in pieces of 1 MiB. Threads, each with a reader of the
 * view of its own, take the next piece in order, so a segment's frames are read
 * about once and the target is written about from front to back. Runs of zeros
 * are taken in larger bites and written as such.
 *
 * Where the target held something before, a piece is first read from there, and
 * only the pages that are others are fetched and written: a volume that is taken
 * back by minutes is mostly there. A piece of which all was there has been read
 * back with that. Reading what turns out to be of another volume is given up soon,
 * but for a sample now and then (restore_compare.h).
 *
 * Of each piece the XXH3 of what was handed to the target is kept. About every
 * two seconds the main thread makes it all durable: take a copy of what is
 * noted, sync the target, save the copy. What is saved is therefore on the
 * target whatever happens next. A failed sync ends the restore, and is not tried
 * again: the kernel reports a lost write once, and the next sync would succeed
 * over it. What was saved before it stays true.
 *
 * Then the same threads read the target back past the page cache and compare.
 * Pieces that earlier runs wrote are read back too; somebody may have written to
 * the target since, so those that are not there any more are written again, once.
 */
#include "recover/restore.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "recover/restore_check.h"
#include "recover/restore_compare.h"
#include "recover/restore_progress.h"
#include "recover/words.h"

#define PIECE_SIZE    REPL_RESTORE_PIECE_SIZE
#define ZERO_BITE     (UINT64_C(64) << 20)
#define SPARSE_UNIT   65536u
#define CHECKPOINT_NS INT64_C(2000000000)
#define CACHED_FRAMES 32u /* of each thread: so many MiB */

enum piece_state {
    PIECE_WRITTEN,   /* by this run, or not yet */
    PIECE_INHERITED, /* by an earlier one */
    PIECE_VERIFIED,
};

struct restore {
    const struct repl_restore_options *options;
    struct repl_target *target;
    struct repl_view *view;
    uint64_t size; /* of the volume */
    uint64_t piece_count;
    uint64_t *hashes;   /* of each piece, 0: not written */
    uint8_t *states;    /* of each piece: enum piece_state */
    uint64_t zero_hash; /* of a whole piece of zeros */
    struct repl_restore_progress *progress;
    enum repl_restore_phase phase;
    bool sync_failed; /* of the main thread: nothing is saved any more */

    pthread_mutex_t mutex; /* guards all below, and hashes and states while threads run */
    pthread_cond_t ended;  /* a thread has */
    uint64_t next_piece;
    struct repl_restore_compare compare;
    uint64_t done_bytes;
    uint64_t same_bytes; /* of data, found on the target */
    uint64_t lost_bytes; /* inherited, and not found on the target */
    bool mismatch;       /* what this run wrote was not found */
    unsigned running;
    bool stop;
    repl_result result; /* the first failure */
    struct repl_error err;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* A hash of 0 means that a piece is not done. */
static uint64_t piece_hash(const void *data, size_t size)
{
    uint64_t hash = repl_xxh3(data, size);
    return hash != 0 ? hash : 1;
}

static bool is_interrupted(const struct restore *r)
{
    return r->options->interrupted != NULL && atomic_load(r->options->interrupted);
}

static size_t piece_size(const struct restore *r, uint64_t piece)
{
    uint64_t left = r->size - piece * PIECE_SIZE;
    return left < PIECE_SIZE ? (size_t)left : PIECE_SIZE;
}

/* --- the threads' work ----------------------------------------------------------------------- */

struct bite {
    uint64_t piece, count;
    bool zero;    /* all of it, by the manifests */
    bool compare; /* with what the target holds */
};

/* How many whole pieces from here on are zeros by the manifests and not done yet. */
static uint64_t zero_pieces(const struct restore *r, uint64_t piece)
{
    bool zero;
    uint64_t offset = piece * PIECE_SIZE;
    uint64_t length = repl_view_stretch(r->view, offset, PIECE_SIZE, &zero);
    if (!zero || length < PIECE_SIZE)
        return 0;
    uint64_t count = repl_view_stretch(r->view, offset, ZERO_BITE, &zero) / PIECE_SIZE;
    for (uint64_t i = 0; i < count; i++) {
        if (r->hashes[piece + i] != 0)
            return i;
    }
    return count;
}

static bool piece_done(const struct restore *r, uint64_t piece)
{
    return r->phase == REPL_RESTORE_WRITING ? r->hashes[piece] != 0
                                            : r->states[piece] == PIECE_VERIFIED;
}

/* The next bite to do; false: there is none, or the threads are to end. */
static bool bite_take(struct restore *r, struct bite *bite)
{
    bool writing = r->phase == REPL_RESTORE_WRITING;
    pthread_mutex_lock(&r->mutex);
    if (is_interrupted(r))
        r->stop = true;
    while (r->next_piece < r->piece_count && piece_done(r, r->next_piece))
        r->next_piece++;
    bool taken = !r->stop && r->next_piece < r->piece_count;
    if (taken) {
        uint64_t zeros = writing ? zero_pieces(r, r->next_piece) : 0;
        *bite = (struct bite){r->next_piece, zeros > 0 ? zeros : 1, zeros > 0, false};
        if (writing && !bite->zero)
            bite->compare = repl_restore_compare_next(&r->compare);
        r->next_piece += bite->count;
    }
    pthread_mutex_unlock(&r->mutex);
    return taken;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Only what is not zero is written to a file: the rest is a hole. */
static repl_result sparse_write(const struct restore *r, uint64_t offset, const uint8_t *data,
                                size_t size, struct repl_error *err)
{
    for (size_t at = 0, end; at < size; at = end) {
        bool zero = repl_is_zero(data + at, least(size - at, SPARSE_UNIT));
        end = at + least(size - at, SPARSE_UNIT);
        while (end < size && repl_is_zero(data + end, least(size - end, SPARSE_UNIT)) == zero)
            end += least(size - end, SPARSE_UNIT);
        if (zero)
            REPL_TRY(repl_target_zero(r->target, offset + at, end - at, err));
        else
            REPL_TRY(repl_target_write(r->target, offset + at, data + at, end - at, err));
    }
    return REPL_SUCCESS;
}

static repl_result bytes_write(const struct restore *r, uint64_t offset, const uint8_t *data,
                               size_t size, struct repl_error *err)
{
    return r->target->is_device ? repl_target_write(r->target, offset, data, size, err)
                                : sparse_write(r, offset, data, size, err);
}

/* Fetches and writes what the target has not; *same: so many bytes it had. */
static repl_result piece_correct(const struct restore *r, struct repl_view_reader *reader,
                                 uint64_t offset, uint8_t *buffer, size_t size, size_t *same,
                                 struct repl_error *err)
{
    bool changed[PIECE_SIZE / REPL_PAGE_SIZE];
    REPL_TRY(repl_view_correct(reader, offset, buffer, size, changed, err));
    *same = 0;
    for (size_t at = 0, end; at < size; at = end) {
        bool differs = changed[at / REPL_PAGE_SIZE];
        for (end = at; end < size && changed[end / REPL_PAGE_SIZE] == differs;)
            end += least(size - end, REPL_PAGE_SIZE);
        if (differs)
            REPL_TRY(bytes_write(r, offset + at, buffer + at, end - at, err));
        else
            *same += end - at;
    }
    return REPL_SUCCESS;
}

/* What cannot be read of the target is written. */
static repl_result piece_write(const struct restore *r, struct repl_view_reader *reader,
                               const struct bite *bite, uint8_t *buffer, size_t *same,
                               struct repl_error *err)
{
    size_t size = piece_size(r, bite->piece);
    uint64_t offset = bite->piece * PIECE_SIZE;
    *same = 0;
    if (bite->compare && repl_ok(repl_target_read(r->target, offset, buffer, size, NULL)))
        return piece_correct(r, reader, offset, buffer, size, same, err);
    REPL_TRY(repl_view_read(reader, offset, buffer, size, err));
    return bytes_write(r, offset, buffer, size, err);
}

static repl_result bite_write(struct restore *r, struct repl_view_reader *reader,
                              const struct bite *bite, uint8_t *buffer, struct repl_error *err)
{
    uint64_t hash = r->zero_hash;
    size_t same = 0, size = piece_size(r, bite->piece);
    if (bite->zero) {
        REPL_TRY(
            repl_target_zero(r->target, bite->piece * PIECE_SIZE, bite->count * PIECE_SIZE, err));
    } else {
        REPL_TRY(piece_write(r, reader, bite, buffer, &same, err));
        hash = piece_hash(buffer, size);
    }
    pthread_mutex_lock(&r->mutex);
    for (uint64_t i = 0; i < bite->count; i++) {
        repl_restore_progress_note(r->progress, bite->piece + i, hash);
        r->done_bytes += piece_size(r, bite->piece + i);
    }
    if (bite->compare) {
        repl_restore_compare_note(&r->compare, same, size);
        r->same_bytes += same;
        if (same == size) /* it has been read */
            r->states[bite->piece] = PIECE_VERIFIED;
    }
    pthread_mutex_unlock(&r->mutex);
    return REPL_SUCCESS;
}

static repl_result bite_verify(struct restore *r, const struct bite *bite, uint8_t *buffer,
                               struct repl_error *err)
{
    size_t size = piece_size(r, bite->piece);
    uint64_t offset = bite->piece * PIECE_SIZE;
    REPL_TRY(repl_target_read(r->target, offset, buffer, size, err));
    bool same = piece_hash(buffer, size) == r->hashes[bite->piece];
    pthread_mutex_lock(&r->mutex);
    bool inherited = r->states[bite->piece] == PIECE_INHERITED;
    if (same) {
        r->states[bite->piece] = PIECE_VERIFIED;
        r->done_bytes += size;
    } else { /* it is to be written again */
        r->states[bite->piece] = PIECE_WRITTEN;
        repl_restore_progress_note(r->progress, bite->piece, 0);
        r->lost_bytes += inherited ? size : 0;
        r->mismatch |= !inherited;
    }
    pthread_mutex_unlock(&r->mutex);
    if (!same && !inherited)
        return repl_fail(err, REPL_E_CORRUPT,
                         "%s: what was read back at offset %llu is not what was written: do not "
                         "use it; see that nothing else writes to it, check the device and its "
                         "cables, then restore again with --overwrite, best to another one",
                         r->target->path, (unsigned long long)offset);
    return REPL_SUCCESS;
}

static repl_result thread_work(struct restore *r, struct repl_error *err)
{
    struct repl_view_reader *reader = NULL;
    bool writing = r->phase == REPL_RESTORE_WRITING;
    uint8_t *buffer = aligned_alloc(REPL_TARGET_ALIGNMENT, PIECE_SIZE);
    repl_result result =
        buffer == NULL ? repl_fail(err, REPL_E_NOMEM, "out of memory") : REPL_SUCCESS;
    if (repl_ok(result) && writing)
        result = repl_view_reader_new(r->view, CACHED_FRAMES, &reader, err);
    struct bite bite;
    while (repl_ok(result) && bite_take(r, &bite))
        result = writing ? bite_write(r, reader, &bite, buffer, err)
                         : bite_verify(r, &bite, buffer, err);
    repl_view_reader_free(reader);
    free(buffer);
    return result;
}

static void *thread_run(void *context)
{
    struct restore *r = context;
    struct repl_error err;
    repl_result result = thread_work(r, &err);
    pthread_mutex_lock(&r->mutex);
    if (!repl_ok(result) && repl_ok(r->result)) {
        r->result = result;
        r->err = err;
    }
    if (!repl_ok(result))
        r->stop = true;
    r->running--;
    pthread_cond_signal(&r->ended);
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

/* --- the main thread ------------------------------------------------------------------------- */

static repl_result checkpoint(struct restore *r, struct repl_error *err)
{
    if (r->sync_failed)
        return repl_fail(err, REPL_E_IO, "%s could not be made durable before", r->target->path);
    pthread_mutex_lock(&r->mutex);
    repl_result result = repl_restore_progress_take(r->progress, err);
    pthread_mutex_unlock(&r->mutex);
    REPL_TRY(result);
    result = repl_target_sync(r->target, err);
    r->sync_failed = !repl_ok(result);
    REPL_TRY(result);
    return repl_restore_progress_save(r->progress, err);
}

static void status_report(const struct restore *r, uint64_t done_bytes, uint64_t start_bytes,
                          int64_t begin_ns)
{
    struct repl_restore_status status = {.phase = r->phase,
                                         .done_bytes = done_bytes,
                                         .total_bytes = r->size,
                                         .start_bytes = start_bytes,
                                         .elapsed_ns = now_ns() - begin_ns};
    if (r->options->status != NULL)
        r->options->status(r->options->context, &status);
}

/* Until all threads have ended: a status each second, a checkpoint every two. */
static void threads_watch(struct restore *r, uint64_t start_bytes)
{
    int64_t begin_ns = now_ns(), saved_ns = begin_ns;
    pthread_mutex_lock(&r->mutex);
    while (r->running > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&r->ended, &r->mutex, &until);
        uint64_t done_bytes = r->done_bytes;
        if (is_interrupted(r))
            r->stop = true;
        bool stop = r->stop;
        pthread_mutex_unlock(&r->mutex);
        if (stop) { /* threads may be waiting for a site */
            struct repl_origin *origin = repl_history_origin(r->options->history);
            origin->ops->stop(origin);
        }
        status_report(r, done_bytes, start_bytes, begin_ns);
        struct repl_error err;
        repl_result saved = REPL_SUCCESS;
        if (r->phase == REPL_RESTORE_WRITING && now_ns() - saved_ns >= CHECKPOINT_NS) {
            saved = checkpoint(r, &err);
            saved_ns = now_ns();
        }
        pthread_mutex_lock(&r->mutex);
        if (!repl_ok(saved) && repl_ok(r->result)) {
            r->result = saved;
            r->err = err;
            r->stop = true;
        }
    }
    uint64_t done_bytes = r->done_bytes;
    pthread_mutex_unlock(&r->mutex);
    status_report(r, done_bytes, start_bytes, begin_ns);
}

unsigned repl_restore_thread_count(unsigned wanted)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned count = wanted > 0 ? wanted : processors > 2 ? (unsigned)processors : 2;
    return count < REPL_RESTORE_THREADS_MAX ? count : REPL_RESTORE_THREADS_MAX;
}

static uint64_t done_already(const struct restore *r)
{
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < r->piece_count; i++)
        bytes += piece_done(r, i) ? piece_size(r, i) : 0;
    return bytes;
}

/* Runs the threads through one phase. Success: all pieces are done. */
static repl_result phase_run(struct restore *r, enum repl_restore_phase phase,
                             struct repl_error *err)
{
    pthread_t threads[REPL_RESTORE_THREADS_MAX];
    unsigned count = repl_restore_thread_count(r->options->threads), started = 0;
    r->phase = phase;
    r->next_piece = 0;
    r->done_bytes = done_already(r);
    uint64_t start_bytes = r->done_bytes;
    pthread_mutex_lock(&r->mutex);
    for (; started < count; started++) {
        if (pthread_create(&threads[started], NULL, thread_run, r) != 0)
            break;
        r->running++;
    }
    pthread_mutex_unlock(&r->mutex);
    if (started == 0)
        return repl_fail(err, REPL_E_NOMEM, "cannot start a thread");
    threads_watch(r, start_bytes);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (!repl_ok(r->result)) {
        if (err != NULL)
            *err = r->err;
        return r->result;
    }
    if (r->stop)
        return repl_fail(err, REPL_E_RETRY, "interrupted");
    return REPL_SUCCESS;
}

/* --- around it ------------------------------------------------------------------------------- */

/* What the manifests do not call zeros. */
static uint64_t data_bytes(const struct repl_view *view)
{
    uint64_t bytes = 0, size = repl_view_size(view);
    for (uint64_t offset = 0, length; offset < size; offset += length) {
        bool zero;
        length = repl_view_stretch(view, offset, size - offset, &zero);
        bytes += zero ? 0 : length;
    }
    return bytes;
}

static void plan_make(const struct restore *r, struct repl_restore_plan *plan)
{
    const struct repl_catalogue *c = repl_history_catalogue(r->options->history);
    const struct repl_segment *segment = NULL;
    uint64_t seq = c->points[r->options->point].point.seq;
    size_t i = repl_history_segment_of(r->options->history, seq);
    /* It is open: the view has been made of it. */
    ensure(repl_ok(repl_history_segment(r->options->history, i, &segment, NULL)));
    *plan = (struct repl_restore_plan){.volume = segment->header.volume,
                                       .seq = seq,
                                       .digest = segment->footer.digest,
                                       .volume_size = r->size};
    memcpy(plan->identity, r->target->identity, sizeof plan->identity);
}

/* A dry run: what targets_open would refuse, and what there would be to do. */
static repl_result look_only(struct restore *r, struct repl_restore_result *out,
                             struct repl_error *err)
{
    const struct repl_restore_options *options = r->options;
    struct repl_restore_plan plan;
    bool keep;
    REPL_TRY(repl_restore_check_existing(options, r->size, &keep, err));
    plan_make(r, &plan);
    if (keep && !options->overwrite)
        REPL_TRY(repl_restore_progress_look(options->progress_path, &plan, r->hashes, &out->resumed,
                                            err));
    if (!options->estimate)
        return REPL_SUCCESS;
    const struct repl_restore_estimate_options estimate = {
        .history = options->history,
        .view = r->view,
        .hashes = r->hashes,
        .target = r->target,
        .threads = repl_restore_thread_count(options->threads),
        .interrupted = options->interrupted,
    };
    return repl_restore_estimate(&estimate, &out->estimate, err);
}

/* Opens target and progress so that either both are continued or both are new. */
static repl_result targets_open(struct restore *r, bool *resumed, struct repl_error *err)
{
    const struct repl_restore_options *options = r->options;
    struct repl_target *target = r->target;
    struct repl_restore_plan plan;
    bool keep;
    REPL_TRY(repl_restore_check_existing(options, r->size, &keep, err));
    if (keep) {
        /* Whether the progress belongs to it comes first: only then is the target touched. */
        plan_make(r, &plan);
        REPL_TRY(repl_restore_progress_open(options->progress_path, &plan, options->overwrite,
                                            r->hashes, &r->progress, resumed, err));
        REPL_TRY(repl_target_open(target, r->size, true, err));
        if (options->whole)
            return REPL_SUCCESS;
        /* What is compared is what the disk has. */
        repl_restore_compare_begin(&r->compare);
        REPL_TRY(repl_target_sync(target, err));
        repl_target_drop_cache(target);
        return REPL_SUCCESS;
    }
    /* The other way round: the file's number belongs to the plan, and an old progress file must
     * not outlive the content it speaks of. */
    if (unlink(options->progress_path) != 0 && errno != ENOENT)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot remove %s", options->progress_path);
    REPL_TRY(repl_target_open(target, r->size, false, err));
    plan_make(r, &plan);
    return repl_restore_progress_open(options->progress_path, &plan, true, r->hashes, &r->progress,
                                      resumed, err);
}

/* What is not done is written, what is not verified read back. */
static repl_result write_and_verify(struct restore *r, struct repl_error *err)
{
    struct repl_error late;
    repl_result result = phase_run(r, REPL_RESTORE_WRITING, err);
    repl_result saved = checkpoint(r, repl_ok(result) ? err : &late);
    REPL_TRY(repl_ok(result) ? saved : result);
    repl_target_drop_cache(r->target);
    result = phase_run(r, REPL_RESTORE_VERIFYING, err);
    if (!repl_ok(result))
        repl_ignore(checkpoint(r, &late)); /* the first error is the one to tell */
    return result;
}

static repl_result restore_steps(struct restore *r, struct repl_restore_result *out,
                                 struct repl_error *err)
{
    REPL_TRY(repl_history_view(r->options->history, r->options->point, &r->view, err));
    r->size = out->volume_size = repl_view_size(r->view);
    out->data_bytes = data_bytes(r->view);
    REPL_TRY(repl_restore_check_size(r->target, r->size, err));
    r->piece_count = repl_restore_piece_count(r->size);
    r->hashes = calloc(r->piece_count + 1, sizeof *r->hashes);
    r->states = calloc(r->piece_count + 1, sizeof *r->states);
    uint8_t *zeros = calloc(1, PIECE_SIZE);
    if (r->hashes == NULL || r->states == NULL || zeros == NULL) {
        free(zeros);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %llu hashes",
                         (unsigned long long)r->piece_count);
    }
    r->zero_hash = piece_hash(zeros, PIECE_SIZE);
    free(zeros);
    REPL_TRY(repl_restore_check_space(r->target, out->data_bytes, err));
    if (r->options->dry_run)
        return look_only(r, out, err);
    REPL_TRY(targets_open(r, &out->resumed, err));

    for (uint64_t i = 0; i < r->piece_count; i++)
        r->states[i] = r->hashes[i] != 0 ? PIECE_INHERITED : PIECE_WRITTEN;

    REPL_TRY(write_and_verify(r, err));
    if (r->lost_bytes > 0) /* nothing is inherited any more: a second time it fails */
        REPL_TRY(write_and_verify(r, err));
    out->complete = true;
    out->verified_bytes = r->size;
    return repl_forward(repl_restore_progress_remove(r->progress, err), err,
                        "%s is restored and verified", r->target->path);
}

repl_result repl_restore_run(const struct repl_restore_options *options,
                             struct repl_restore_result *out, struct repl_error *err)
{
    struct restore r = {.options = options, .target = options->target};
    *out = (struct repl_restore_result){0};
    pthread_mutex_init(&r.mutex, NULL);
    pthread_cond_init(&r.ended, NULL);
    repl_result result = restore_steps(&r, out, err);
    out->touched = options->target->touched;
    out->lost_bytes = r.lost_bytes;
    out->same_bytes = r.same_bytes;
    out->mismatch = r.mismatch;
    repl_restore_progress_close(r.progress);
    repl_view_free(r.view);
    free(r.states);
    free(r.hashes);
    pthread_cond_destroy(&r.ended);
    pthread_mutex_destroy(&r.mutex);
    return result;
}

repl_result repl_restore_explain(repl_result result, const struct repl_restore_result *out,
                                 const struct repl_restore_options *options, struct repl_error *err)
{
    const char *path = options->target->path;
    const struct repl_catalogue *c = repl_history_catalogue(options->history);
    if (repl_ok(result) || !out->touched || out->complete)
        return result;
    if (result.code == REPL_E_RETRY)
        return repl_forward(result, err,
                            "%s is incomplete, do not use it yet; the same command with --at %llu "
                            "goes on where it ended",
                            path,
                            (unsigned long long)(options->again_seq != 0
                                                     ? options->again_seq
                                                     : c->points[options->point].point.seq));
    if (!out->mismatch && (result.code == REPL_E_CORRUPT || result.code == REPL_E_MISSING))
        return repl_forward(result, err,
                            "%s is incomplete, do not use it; \"repl verify %s\" names the points "
                            "that are not affected",
                            path, repl_history_origin(options->history)->volume);
    return repl_forward(result, err, "%s is incomplete, do not use it", path);
}
