#include "source/dedup.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "base/limits.h"
#include "control/control.h"
#include "source/chunk_index.h"

/* Names for each chunk of the volume: what it holds, and as much of what it held lately. A small
 * volume's index is small enough anyway. */
#define NAMES_PER_CHUNK 2u
#define NAMES_MIN       (UINT64_C(1) << 16)

/* Names that wait for the disk: 2 MiB. More are not remembered. */
#define NAMES_WAITING_MAX (65536u * sizeof(struct repl_digest))

/* Writes of up to 1 MiB under way at once. */
#define WRITES_MAX 32u

struct repl_dedup {
    struct repl_dedup_options options;
    struct repl_supply supply;
    bool was_behind;

    /* the index; opened by the first job */
    char path[4096];
    _Atomic(struct repl_chunk_index *) index;
    atomic_bool forgetting; /* nothing in it is to be believed */
    struct repl_job index_job;
    bool index_out;
    bool clear_due;
    struct repl_buffer add_due, remove_due; /* struct repl_digest each */
    bool clear;                             /* these three: of the job */
    struct repl_buffer add, remove;
    repl_result index_result;
    struct repl_error index_err;
    bool index_failed; /* and it has been said */

    /* the supply */
    struct repl_missing missing;
    bool supply_due; /* what is held is still being written */
    uint64_t supply_number;
    struct repl_segment_header supply_header;
    struct repl_supply_plan plan;
    struct repl_job supply_job;
    bool supply_out;
    repl_result supply_result;
    struct repl_error supply_err;
};

/* --- the index, on a worker ------------------------------------------------------------------ */

static repl_result index_get(struct repl_dedup *d, struct repl_chunk_index **out,
                             struct repl_error *err)
{
    uint64_t chunks = d->options.volume_size / REPL_CHUNK_SIZE;
    uint64_t limit = chunks * NAMES_PER_CHUNK > NAMES_MIN ? chunks * NAMES_PER_CHUNK : NAMES_MIN;
    const struct repl_chunk_index_options options = {
        .path = d->path, .volume = d->options.volume, .limit = limit};
    *out = atomic_load(&d->index);
    if (*out == NULL)
        REPL_TRY(repl_chunk_index_open(&options, out, err));
    return REPL_SUCCESS;
}

static repl_result index_change(struct repl_dedup *d, struct repl_error *err)
{
    struct repl_chunk_index *index;
    REPL_TRY(index_get(d, &index, err));
    repl_result result = d->clear ? repl_chunk_index_clear(index, err) : REPL_SUCCESS;
    if (repl_ok(result) && d->add.size > 0)
        result = repl_chunk_index_add(index, (const void *)d->add.data,
                                      d->add.size / sizeof(struct repl_digest), err);
    if (repl_ok(result) && d->remove.size > 0)
        result = repl_chunk_index_remove(index, (const void *)d->remove.data,
                                         d->remove.size / sizeof(struct repl_digest), err);
    atomic_store(&d->index, index);
    return result;
}

static void index_work(struct repl_job *job)
{
    struct repl_dedup *d = job->context;
    d->index_result = index_change(d, &d->index_err);
}

/* --- the index, on the loop ------------------------------------------------------------------ */

static void buffers_swap(struct repl_buffer *a, struct repl_buffer *b)
{
    struct repl_buffer buffer = *a;
    *a = *b;
    *b = buffer;
}

static void index_start(struct repl_dedup *d)
{
    if (d->index_out)
        return;
    d->index_out = true;
    d->clear = d->clear_due;
    d->clear_due = false;
    buffers_swap(&d->add, &d->add_due);
    buffers_swap(&d->remove, &d->remove_due);
    repl_loop_work(d->options.loop, &d->index_job);
}

static void index_log(struct repl_dedup *d)
{
    bool failed = !repl_ok(d->index_result);
    if (failed && !d->index_failed)
        repl_log(LOG_WARNING, "volume %s: %s; what the site holds may be sent once more",
                 d->options.name, d->index_err.text);
    d->index_failed = failed;
}

static void index_done(struct repl_job *job)
{
    struct repl_dedup *d = job->context;
    d->index_out = false;
    d->add.size = d->remove.size = 0;
    index_log(d);
    bool more = d->clear_due || d->add_due.size > 0 || d->remove_due.size > 0;
    /* What could not be forgotten is not believed, until the next change tries again. */
    if (d->clear && !repl_ok(d->index_result))
        d->clear_due = true;
    if (d->clear && !d->clear_due)
        atomic_store(&d->forgetting, false);
    if (more)
        index_start(d);
    d->options.moved(d->options.context, 0, REPL_SUCCESS, NULL);
}

bool repl_dedup_known(void *context, const struct repl_digest *name)
{
    struct repl_dedup *d = context;
    struct repl_chunk_index *index = atomic_load(&d->index);
    return index != NULL && !atomic_load(&d->forgetting) && repl_chunk_index_has(index, name);
}

void repl_dedup_acknowledged(void *context, uint64_t number)
{
    struct repl_dedup *d = context;
    size_t before = d->add_due.size;
    struct repl_error err;
    if (!repl_ok(repl_supply_names(&d->supply, number, &d->add_due, &err)) ||
        d->add_due.size > NAMES_WAITING_MAX)
        d->add_due.size = before;
    if (d->add_due.size > before)
        index_start(d);
}

void repl_dedup_forget(struct repl_dedup *d)
{
    atomic_store(&d->forgetting, true);
    d->add_due.size = d->remove_due.size = 0;
    d->clear_due = true;
    index_start(d);
}

/* --- what is held ---------------------------------------------------------------------------- */

static void supply_start_if_due(struct repl_dedup *d);

static void held_written(void *context, struct repl_spool_file *file, repl_result result,
                         const struct repl_error *err)
{
    struct repl_dedup *d = context;
    uint64_t number = file != NULL ? repl_spool_number(file) : 0;
    if (repl_ok(result))
        supply_start_if_due(d);
    bool told = !repl_ok(result) || d->supply.spool.writes_out == 0 ||
                (d->was_behind && !repl_dedup_is_behind(d));
    d->was_behind = repl_dedup_is_behind(d);
    if (told)
        d->options.moved(d->options.context, number, result, err);
}

bool repl_dedup_is_behind(const struct repl_dedup *d)
{
    return d->supply.spool.writes_out >= WRITES_MAX;
}

repl_result repl_dedup_keep(void *context, uint64_t number, const struct repl_batch *batch,
                            uint64_t *kept, struct repl_error *err)
{
    struct repl_dedup *d = context;
    repl_result result = repl_supply_hold(&d->supply, number, batch, kept, err);
    d->was_behind = d->was_behind || repl_dedup_is_behind(d);
    return result;
}

repl_result repl_dedup_adopt(struct repl_dedup *d, uint64_t number, struct repl_buffer *carried,
                             struct repl_buffer *held, uint64_t *kept, struct repl_error *err)
{
    *kept = held->size / sizeof(struct repl_digest) * REPL_CHUNK_SIZE;
    return repl_supply_adopt(&d->supply, number, carried, held, err);
}

void repl_dedup_drop(struct repl_dedup *d, uint64_t number)
{
    repl_supply_drop(&d->supply, number);
}

/* --- a supply -------------------------------------------------------------------------------- */

void repl_dedup_missing(struct repl_dedup *d, struct repl_missing *missing)
{
    repl_missing_fini(&d->missing);
    d->missing = *missing;
    *missing = (struct repl_missing){0};
    struct repl_error err;
    /* Without memory for it they are asked for again, one day. */
    if (d->missing.count > 0 &&
        repl_ok(repl_buffer_append(&d->remove_due, d->missing.names,
                                   d->missing.count * sizeof d->missing.names[0], &err)))
        index_start(d);
}

/* On a worker. */
static void supply_work(struct repl_job *job)
{
    struct repl_dedup *d = job->context;
    if (repl_ok(d->supply_result))
        d->supply_result = repl_supply_build(&d->plan, &d->supply_err);
}

static void supply_done(struct repl_job *job)
{
    struct repl_dedup *d = job->context;
    d->supply_out = false;
    d->options.supply_made(d->options.context, d->plan.fd, d->plan.size, &d->supply_header,
                           d->supply_result, &d->supply_err);
}

static void supply_start_if_due(struct repl_dedup *d)
{
    if (!d->supply_due || !repl_supply_is_readable(&d->supply, d->supply_number))
        return;
    d->supply_due = false;
    repl_supply_plan_fini(&d->plan);
    d->supply_result =
        repl_supply_plan(&d->supply, d->supply_number, &d->supply_header, d->missing.names,
                         d->missing.count, &d->plan, &d->supply_err);
    d->supply_out = true;
    repl_loop_work(d->options.loop, &d->supply_job);
}

void repl_dedup_supply(struct repl_dedup *d, uint64_t number,
                       const struct repl_segment_header *header)
{
    ensure(!d->supply_out);
    d->supply_due = true;
    d->supply_number = number;
    d->supply_header = *header;
    supply_start_if_due(d);
}

void repl_dedup_sent(struct repl_dedup *d)
{
    d->supply_due = false;
    if (!d->supply_out)
        repl_supply_plan_fini(&d->plan);
}

/* --- new, free ------------------------------------------------------------------------------- */

repl_result repl_dedup_new(const struct repl_dedup_options *options, struct repl_dedup **out,
                           struct repl_error *err)
{
    struct repl_dedup *d = calloc(1, sizeof *d);
    if (d == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for deduplication");
    d->options = *options;
    snprintf(d->path, sizeof d->path, "%s/volumes/%s/chunks", options->state_path, options->name);
    d->plan = (struct repl_supply_plan){.held_fd = -1, .fd = -1};
    d->index_job = (struct repl_job){.work = index_work, .done = index_done, .context = d};
    d->supply_job = (struct repl_job){.work = supply_work, .done = supply_done, .context = d};
    atomic_init(&d->index, NULL);
    atomic_init(&d->forgetting, false);
    repl_supply_init(&d->supply, options->loop, options->spool_fd, held_written, d);
    *out = d;
    return REPL_SUCCESS;
}

void repl_dedup_start(struct repl_dedup *d)
{
    index_start(d); /* which opens it */
}

bool repl_dedup_is_idle(const struct repl_dedup *d)
{
    return d == NULL || (!d->index_out && !d->supply_out && repl_spool_is_idle(&d->supply.spool));
}

void repl_dedup_free(struct repl_dedup *d)
{
    if (d == NULL)
        return;
    ensure(repl_dedup_is_idle(d));
    repl_supply_plan_fini(&d->plan);
    repl_supply_fini(&d->supply);
    repl_chunk_index_close(atomic_load(&d->index));
    repl_missing_fini(&d->missing);
    repl_buffer_fini(&d->add_due);
    repl_buffer_fini(&d->remove_due);
    repl_buffer_fini(&d->add);
    repl_buffer_fini(&d->remove);
    free(d);
}
