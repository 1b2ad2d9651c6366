/*
 * First the tree is read out of the history, into the plan, and checked for
 * making sense. Then directories are made, from the top down; files and
 * whatever else is no directory are compared or written, by several threads;
 * further names of files are made; last, from the bottom up, as whatever happens
 * in a directory changes its times, what is not wanted is removed and directories
 * get their metadata. In the end all is synced, once, and what was written is
 * read back.
 *
 * Files are taken in the order in which their contents begin in the space, not
 * by path: what was written at one time lies together there, and in the same
 * frames, so that a frame is read and decompressed about once, and not once for
 * each file in it. To find a directory of each file costs little against that
 * (tree_dirs.h). A thread takes some neighbours at once for the same reason.
 *
 * Nothing is remembered of a run that was interrupted: the next one finds what
 * is equal already.
 */
#include "recover/tree_restore.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/ensure.h"
#include "recover/restore.h"
#include "recover/restore_progress.h"
#include "recover/tree_internal.h"
#include "recover/tree_plan_fill.h"

#define CACHED_FRAMES 32u /* of each thread: so many MiB */
/* What a thread takes at once. */
#define BATCH_COUNT 64u
#define BATCH_BYTES (UINT64_C(1) << 20)

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* --- what is told ---------------------------------------------------------------------------- */

bool repl_tree_stopped(const struct repl_tree_run *run)
{
    const atomic_bool *interrupted = run->options->interrupted;
    return atomic_load(&run->stop) || (interrupted != NULL && atomic_load(interrupted));
}

static void fault_tell(struct repl_tree_run *run, struct repl_tree_reader *reader,
                       const struct repl_tree_place *place, const struct repl_error *err)
{
    char path[REPL_TREE_PATH_SIZE];
    repl_tree_path(reader, place, path);
    pthread_mutex_lock(&run->mutex);
    run->result->faults++;
    run->result->corrupt |= err->code != REPL_E_REFUSED;
    if (run->options->fault != NULL)
        run->options->fault(run->options->context, path, err);
    pthread_mutex_unlock(&run->mutex);
}

repl_result repl_tree_go_on(struct repl_tree_worker *worker, const struct repl_tree_place *place,
                            repl_result result, struct repl_error *err)
{
    if (result.code != REPL_E_REFUSED && result.code != REPL_E_CORRUPT &&
        result.code != REPL_E_MISSING)
        return result;
    fault_tell(worker->run, worker->plan, place, err);
    return REPL_SUCCESS;
}

void repl_tree_lacks(struct repl_tree_worker *worker, const struct repl_tree_place *place,
                     enum repl_tree_lack lack, const char *what, int os_errno)
{
    char path[REPL_TREE_PATH_SIZE];
    struct repl_tree_run *run = worker->run;
    pthread_mutex_lock(&run->mutex);
    bool first = run->result->lacks[lack].count++ == 0;
    if (first) {
        repl_tree_path(worker->plan, place, path);
        snprintf(run->result->lacks[lack].first, sizeof run->result->lacks[lack].first,
                 "%.300s: %.150s%s%s", path, what, os_errno != 0 ? ": " : "",
                 os_errno != 0 ? strerror(os_errno) : "");
    }
    pthread_mutex_unlock(&run->mutex);
}

void repl_tree_changes(struct repl_tree_worker *worker, const struct repl_tree_place *place,
                       enum repl_tree_change change)
{
    struct repl_tree_run *run = worker->run;
    pthread_mutex_lock(&run->mutex);
    run->result->changes[change]++;
    run->result->touched |= !run->options->dry_run;
    if (run->options->dry_run && run->options->change != NULL) {
        char path[REPL_TREE_PATH_SIZE];
        repl_tree_path(worker->plan, place, path);
        run->options->change(run->options->context, change, path);
    }
    pthread_mutex_unlock(&run->mutex);
}

void repl_tree_is_lost(struct repl_tree_worker *worker)
{
    pthread_mutex_lock(&worker->run->mutex);
    worker->run->result->faults++;
    pthread_mutex_unlock(&worker->run->mutex);
}

void repl_tree_is_equal(struct repl_tree_worker *worker)
{
    pthread_mutex_lock(&worker->run->mutex);
    worker->run->result->equal++;
    pthread_mutex_unlock(&worker->run->mutex);
}

void repl_tree_bytes(struct repl_tree_worker *worker, uint64_t bytes)
{
    pthread_mutex_lock(&worker->run->mutex);
    worker->run->bytes += bytes;
    pthread_mutex_unlock(&worker->run->mutex);
}

void repl_tree_data(struct repl_tree_worker *worker, uint64_t bytes)
{
    pthread_mutex_lock(&worker->run->mutex);
    worker->run->result->data_bytes += bytes;
    pthread_mutex_unlock(&worker->run->mutex);
}

/* --- workers --------------------------------------------------------------------------------- */

static repl_result plan_where(void *plan, uint64_t object, struct repl_tree_place *place,
                              bool *found, struct repl_error *err)
{
    return repl_tree_where(plan, object, place, found, err);
}

static repl_result meta_attribute(void *context, struct repl_tree_key *key, struct repl_record *out,
                                  bool *found, struct repl_error *err)
{
    const struct repl_tree_worker *worker = context;
    return repl_tree_next(worker->plan, key, out, found, err);
}

static repl_result meta_read(void *context, uint64_t place, void *out, size_t size,
                             struct repl_error *err)
{
    const struct repl_tree_worker *worker = context;
    return repl_view_read(worker->view, place, out, size, err);
}

static void meta_lacks(void *context, const struct repl_tree_item *item, enum repl_tree_lack lack,
                       const char *what, int os_errno)
{
    repl_tree_lacks(context, &item->place, lack, what, os_errno);
}

static void worker_fini(struct repl_tree_worker *worker)
{
    repl_tree_dirs_fini(&worker->dirs);
    repl_tree_reader_free(worker->plan);
    repl_view_reader_free(worker->view);
    free(worker->wanted);
    free(worker->present);
    free(worker->meta.list);
}

static repl_result worker_init(struct repl_tree_worker *worker, struct repl_tree_run *run,
                               struct repl_error *err)
{
    *worker = (struct repl_tree_worker){.run = run,
                                        .wanted = malloc(REPL_TREE_BUFFER_SIZE),
                                        .present = malloc(REPL_TREE_BUFFER_SIZE)};
    const struct repl_tree_options *options = run->options;
    worker->meta = (struct repl_tree_meta_by){.context = worker,
                                              .attribute = meta_attribute,
                                              .read = meta_read,
                                              .lacks = meta_lacks,
                                              .owner = options->owner,
                                              .uid = options->uid,
                                              .gid = options->gid,
                                              .dry_run = options->dry_run,
                                              .wanted = worker->wanted,
                                              .present = worker->present,
                                              .list = malloc(XATTR_LIST_MAX)};
    repl_result result = REPL_SUCCESS;
    if (worker->wanted == NULL || worker->present == NULL || worker->meta.list == NULL)
        result = repl_fail(err, REPL_E_NOMEM, "out of memory");
    if (repl_ok(result))
        result = repl_tree_reader_new(run->plan, &worker->plan, err);
    if (repl_ok(result))
        result = repl_view_reader_new(run->view, CACHED_FRAMES, &worker->view, err);
    repl_tree_dirs_init(&worker->dirs, plan_where, worker->plan, repl_tree_plan_root(run->plan),
                        run->top_fd);
    if (!repl_ok(result))
        worker_fini(worker);
    return result;
}

struct batch {
    struct {
        uint64_t object, number;
    } items[BATCH_COUNT];
    unsigned count;
};

/* The next ones, in order; none: there are no more. */
static repl_result batch_take(struct repl_tree_run *run, struct batch *batch,
                              struct repl_error *err)
{
    repl_result result = REPL_SUCCESS;
    uint64_t begin = 0;
    batch->count = 0;
    pthread_mutex_lock(&run->taking);
    while (batch->count < BATCH_COUNT && !repl_tree_stopped(run)) {
        bool found;
        result = repl_tree_work_next(run->work_reader, &run->next_work, &found, err);
        if (!repl_ok(result) || !found)
            break;
        if (batch->count == 0)
            begin = run->next_work.space_place;
        batch->items[batch->count].object = run->next_work.object;
        batch->items[batch->count++].number = run->next_number++;
        if (run->next_work.space_place - begin >= BATCH_BYTES)
            break;
    }
    pthread_mutex_unlock(&run->taking);
    return result;
}

static repl_result item_verify(struct repl_tree_worker *worker, const struct repl_tree_item *item,
                               struct repl_error *err)
{
    if (item->directory < 0)
        return repl_fail(err, REPL_E_REFUSED, "it cannot be read back: its directory is closed");
    return repl_tree_file_verify(worker, item, err);
}

static repl_result item_do(struct repl_tree_worker *worker, uint64_t object, uint64_t number,
                           struct repl_error *err)
{
    struct repl_tree_run *run = worker->run;
    struct repl_tree_item item;
    struct repl_tree_place place;
    bool found, writing = run->phase == REPL_TREE_WRITING;
    if (!writing && run->hashes[number] == 0)
        return REPL_SUCCESS;
    REPL_TRY(repl_tree_where(worker->plan, object, &place, &found, err));
    ensure(found);
    repl_result result = repl_tree_item_find(worker, object, &place, &item, err);
    item.number = number;
    if (repl_ok(result))
        result = writing ? repl_tree_leaf(worker, &item, err) : item_verify(worker, &item, err);
    return repl_tree_go_on(worker, &place, result, err);
}

static repl_result worker_work(struct repl_tree_worker *worker, struct repl_error *err)
{
    struct repl_tree_run *run = worker->run;
    for (struct batch batch;;) {
        REPL_TRY(batch_take(run, &batch, err));
        if (batch.count == 0)
            return REPL_SUCCESS;
        for (unsigned i = 0; i < batch.count; i++) {
            if (repl_tree_stopped(run))
                return REPL_SUCCESS;
            REPL_TRY(item_do(worker, batch.items[i].object, batch.items[i].number, err));
            pthread_mutex_lock(&run->mutex);
            run->done++;
            pthread_mutex_unlock(&run->mutex);
        }
    }
}

static void *thread_run(void *context)
{
    struct repl_tree_run *run = context;
    struct repl_tree_worker worker;
    struct repl_error err;
    repl_result result = worker_init(&worker, run, &err);
    if (repl_ok(result)) {
        result = worker_work(&worker, &err);
        worker_fini(&worker);
    }
    pthread_mutex_lock(&run->mutex);
    if (!repl_ok(result) && repl_ok(run->failure)) {
        run->failure = result;
        run->err = err;
    }
    if (!repl_ok(result))
        atomic_store(&run->stop, true);
    run->running--;
    pthread_cond_signal(&run->ended);
    pthread_mutex_unlock(&run->mutex);
    return NULL;
}

/* --- phases ---------------------------------------------------------------------------------- */

static void status_report(struct repl_tree_run *run)
{
    pthread_mutex_lock(&run->mutex);
    struct repl_tree_status status = {.phase = run->phase,
                                      .done = run->done,
                                      .total = run->totals.files + run->totals.others,
                                      .bytes = run->bytes,
                                      .elapsed_ns = now_ns() - run->begin_ns};
    pthread_mutex_unlock(&run->mutex);
    if (run->options->status != NULL)
        run->options->status(run->options->context, &status);
}

static void phase_begin(struct repl_tree_run *run, enum repl_tree_phase phase)
{
    run->phase = phase;
    run->begin_ns = now_ns();
    run->done = run->bytes = 0;
    run->next_work = (struct repl_tree_work){0};
    run->next_number = 0;
    status_report(run);
}

static void threads_watch(struct repl_tree_run *run)
{
    pthread_mutex_lock(&run->mutex);
    while (run->running > 0) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&run->ended, &run->mutex, &until);
        pthread_mutex_unlock(&run->mutex);
        if (repl_tree_stopped(run)) { /* threads may be waiting for a site */
            struct repl_origin *origin = repl_history_origin(run->options->history);
            origin->ops->stop(origin);
        }
        status_report(run);
        pthread_mutex_lock(&run->mutex);
    }
    pthread_mutex_unlock(&run->mutex);
}

/* Runs the threads through all work, as the phase wants it. */
static repl_result threads_run(struct repl_tree_run *run, struct repl_error *err)
{
    pthread_t threads[REPL_RESTORE_THREADS_MAX];
    unsigned count = repl_restore_thread_count(run->options->threads), started = 0;
    pthread_mutex_lock(&run->mutex);
    for (; started < count; started++) {
        if (pthread_create(&threads[started], NULL, thread_run, run) != 0)
            break;
        run->running++;
    }
    pthread_mutex_unlock(&run->mutex);
    if (started == 0)
        return repl_fail(err, REPL_E_NOMEM, "cannot start a thread");
    threads_watch(run);
    for (unsigned i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    if (!repl_ok(run->failure)) {
        if (err != NULL)
            *err = run->err;
        return run->failure;
    }
    if (repl_tree_stopped(run))
        return repl_fail(err, REPL_E_RETRY, "interrupted");
    return REPL_SUCCESS;
}

/* --- reading the tree ------------------------------------------------------------------------ */

static void resolve_fault(void *context, struct repl_tree_reader *reader,
                          const struct repl_tree_place *place, const struct repl_error *err)
{
    fault_tell(context, reader, place, err);
}

static repl_result plan_fill(struct repl_tree_run *run, struct repl_error *err)
{
    REPL_TRY(repl_tree_plan_fill(run->options->history, run->options->point, run->view,
                                 run->options->path, run->plan, err));
    return repl_tree_plan_resolve(run->plan, run->options->path, resolve_fault, run, &run->totals,
                                  err);
}

/* On disk, as there may be many; room is made at once, for a map cannot be told that there is
 * none. */
static repl_result hashes_make(struct repl_tree_run *run, struct repl_error *err)
{
    char path[PATH_MAX];
    size_t size = ((size_t)(run->totals.files + run->totals.others) + 1) * sizeof *run->hashes;
    int length = snprintf(path, sizeof path, "%s/tree-hash-XXXXXX", run->options->state);
    int fd = length > 0 && (size_t)length < sizeof path ? mkstemp(path) : -1;
    if (fd < 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "cannot make a file in %s",
                               run->options->state);
    unlink(path);
    int failed = posix_fallocate(fd, 0, (off_t)size);
    void *map =
        failed != 0 ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int os_errno = failed != 0 ? failed : errno;
    close(fd);
    if (map == MAP_FAILED)
        return repl_fail_errno(err, os_errno == ENOSPC ? REPL_E_NOSPACE : REPL_E_IO, os_errno,
                               "no room for %zu bytes in %s: give another directory with --state",
                               size, run->options->state);
    run->hashes = map;
    return REPL_SUCCESS;
}

static void hashes_free(struct repl_tree_run *run)
{
    size_t size = ((size_t)(run->totals.files + run->totals.others) + 1) * sizeof *run->hashes;
    if (run->hashes != NULL)
        munmap(run->hashes, size);
}

static repl_result tree_read(struct repl_tree_run *run, struct repl_error *err)
{
    phase_begin(run, REPL_TREE_READING);
    REPL_TRY(repl_history_view(run->options->history, run->options->point, &run->view, err));
    REPL_TRY(repl_restore_state_make(run->options->state, err));
    REPL_TRY(repl_tree_plan_new(run->options->state, &run->plan, err));
    REPL_TRY(plan_fill(run, err));
    REPL_TRY(hashes_make(run, err));
    run->result->files = run->totals.files;
    run->result->directories = run->totals.directories;
    run->result->others = run->totals.others;
    return repl_tree_reader_new(run->plan, &run->work_reader, err);
}

/* --- all of it ------------------------------------------------------------------------------- */

/* Only what is named may be a symbolic link: what is below it is entered by name. */
static repl_result top_open(struct repl_tree_run *run, struct repl_error *err)
{
    const char *to = run->options->to;
    run->top_fd = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (run->top_fd < 0 && errno == ENOENT && run->options->dry_run)
        return REPL_SUCCESS;
    if (run->top_fd < 0 && errno == ENOENT) {
        if (mkdir(to, 0700) != 0)
            return repl_fail_errno(err, REPL_E_REFUSED, errno, "cannot make %s", to);
        run->result->touched = true;
        run->top_fd = open(to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (run->top_fd < 0 && errno == ENOTDIR)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is no directory: a tree is restored into one, name it or a new one",
                         to);
    if (run->top_fd < 0)
        return repl_fail_errno(err, REPL_E_REFUSED, errno, "cannot open %s", to);
    return REPL_SUCCESS;
}

static repl_result tree_write(struct repl_tree_run *run, struct repl_tree_worker *worker,
                              struct repl_error *err)
{
    const struct repl_tree_options *options = run->options;
    if (!options->overwrite && !options->dry_run)
        REPL_TRY(repl_tree_check_kinds(worker, err));
    phase_begin(run, REPL_TREE_WRITING);
    REPL_TRY(repl_tree_make_directories(worker, err));
    REPL_TRY(threads_run(run, err));
    REPL_TRY(repl_tree_links(worker, err));
    return repl_tree_finish_directories(worker, err);
}

static repl_result tree_verify(struct repl_tree_run *run, struct repl_error *err)
{
    if (run->options->dry_run)
        return REPL_SUCCESS;
    if (syncfs(run->top_fd) != 0)
        return repl_fail_errno(err, REPL_E_IO, errno, "%s could not be made durable",
                               run->options->to);
    phase_begin(run, REPL_TREE_VERIFYING);
    return threads_run(run, err);
}

static repl_result run_steps(struct repl_tree_run *run, struct repl_error *err)
{
    struct repl_tree_worker worker;
    REPL_TRY(tree_read(run, err));
    REPL_TRY(top_open(run, err));
    REPL_TRY(worker_init(&worker, run, err));
    repl_result result = tree_write(run, &worker, err);
    worker_fini(&worker);
    REPL_TRY(result);
    REPL_TRY(tree_verify(run, err));
    const struct repl_tree_result *r = run->result;
    if (r->faults == 0)
        return REPL_SUCCESS;
    return repl_fail(err, r->corrupt ? REPL_E_CORRUPT : REPL_E_REFUSED,
                     "%llu files or directories could not be restored, each named above, or the "
                     "directory that it is in; all else is in %s",
                     (unsigned long long)r->faults, run->options->to);
}

repl_result repl_tree_restore(const struct repl_tree_options *options, struct repl_tree_result *out,
                              struct repl_error *err)
{
    struct repl_tree_run run = {
        .options = options, .result = out, .top_fd = -1, .privileged = geteuid() == 0};
    *out = (struct repl_tree_result){0};
    if (!run.privileged && options->owner != REPL_TREE_OWNER_SKIP)
        return repl_fail(err, REPL_E_REFUSED,
                         "only root can give files their owners: run it as root, or give "
                         "--owner=skip, and all will belong to you");
    pthread_mutex_init(&run.mutex, NULL);
    pthread_mutex_init(&run.taking, NULL);
    pthread_cond_init(&run.ended, NULL);
    repl_result result = run_steps(&run, err);
    if (result.code == REPL_E_RETRY && out->touched && !options->temporary)
        result = repl_forward(
            result, err, "%s is incomplete; the same command with --at %llu goes on", options->to,
            (unsigned long long)repl_history_catalogue(options->history)
                ->points[options->point]
                .point.seq);
    if (run.top_fd >= 0)
        close(run.top_fd);
    repl_tree_reader_free(run.work_reader);
    hashes_free(&run);
    repl_tree_plan_free(run.plan);
    repl_view_free(run.view);
    pthread_cond_destroy(&run.ended);
    pthread_mutex_destroy(&run.taking);
    pthread_mutex_destroy(&run.mutex);
    return result;
}
