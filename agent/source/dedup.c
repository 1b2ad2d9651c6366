#include "source/dedup.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "base/limits.h"
#include "control/control.h"
#include "source/chunk_index.h"

/* Names for each chunk of the volume: what it holds, and as much of what it held lately. */
#define NAMES_PER_CHUNK 2u

/* Names that wait for the disk: 2 MiB. More are not remembered. */
#define NAMES_WAITING_MAX (65536u * sizeof(struct repl_digest))

/* Writes of up to 1 MiB under way at once. */
#define WRITES_MAX 32u

struct repl_dedup {
    struct repl_dedup_options options;
    struct repl_supply supply;
    bool was_behind;

    /* the index; which pool, is known by the end of the first job */
    atomic_uint_least64_t pool;
    atomic_bool pool_known;
    atomic_bool forgetting; /* nothing in it is to be believed */
    struct repl_job index_job;
    bool index_out;
    bool clear_due;
    bool join_due;
    uint64_t join_pool_due, join_pool;       /* the second: of the job */
    struct repl_buffer add_due, remove_due;  /* struct repl_digest each */
    struct repl_pool_names learn_due, learn; /* learn and what follows: of the job */
    bool clear, join;
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

static repl_result pool_find(struct repl_dedup *d, struct repl_error *err)
{
    uint64_t names = d->options.volume_size / REPL_CHUNK_SIZE * NAMES_PER_CHUNK, pool;
    if (!atomic_load(&d->pool_known)) {
        REPL_TRY(repl_chunk_index_expect(d->options.index, &d->options.volume, names, &pool, err));
        atomic_store(&d->pool, pool);
        atomic_store(&d->pool_known, true);
    }
    if (!d->join || d->join_pool == atomic_load(&d->pool))
        return REPL_SUCCESS;
    atomic_store(&d->pool, d->join_pool);
    return repl_chunk_index_join(d->options.index, &d->options.volume, d->join_pool, err);
}

/* The names become their beginnings, in their place. */
static uint64_t *prefixes_of(struct repl_buffer *names, size_t *count)
{
    struct repl_digest *from = (void *)names->data;
    uint64_t *to = (void *)names->data;
    *count = names->size / sizeof *from;
    for (size_t i = 0; i < *count; i++)
        to[i] = repl_chunk_prefix(&from[i]);
    return to;
}

static repl_result index_change(struct repl_dedup *d, struct repl_error *err)
{
    struct repl_chunk_index *index = d->options.index;
    size_t count;
    if (index == NULL)
        return REPL_SUCCESS;
    REPL_TRY(pool_find(d, err));
    uint64_t pool = atomic_load(&d->pool);
    if (d->clear)
        REPL_TRY(repl_chunk_index_clear(index, pool, err));
    uint64_t *prefixes = prefixes_of(&d->add, &count);
    REPL_TRY(repl_chunk_index_add(index, pool, prefixes, count, err));
    REPL_TRY(repl_chunk_index_add(index, pool, d->learn.prefixes, d->learn.count, err));
    prefixes = prefixes_of(&d->remove, &count);
    return count == 0 ? REPL_SUCCESS : repl_chunk_index_remove(index, pool, prefixes, count, err);
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
    d->join = d->join_due;
    d->join_pool = d->join_pool_due;
    d->learn = d->learn_due;
    d->clear_due = d->join_due = false;
    d->learn_due = (struct repl_pool_names){0};
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
    repl_pool_names_fini(&d->learn);
    index_log(d);
    bool more = d->clear_due || d->join_due || d->learn_due.count > 0 || d->add_due.size > 0 ||
                d->remove_due.size > 0;
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
    return atomic_load(&d->pool_known) && !atomic_load(&d->forgetting) &&
           repl_chunk_index_has(d->options.index, atomic_load(&d->pool), name);
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

void repl_dedup_join(struct repl_dedup *d, uint64_t pool)
{
    d->join_due = true;
    d->join_pool_due = pool;
    index_start(d);
}

bool repl_dedup_is_shared(const struct repl_dedup *d)
{
    return atomic_load(&d->pool_known) &&
           atomic_load(&d->pool) != repl_chunk_pool_of(&d->options.volume);
}

void repl_dedup_learn(struct repl_dedup *d, struct repl_pool_names *names)
{
    ensure(!repl_dedup_is_learning(d));
    d->learn_due = *names;
    *names = (struct repl_pool_names){0};
    if (d->learn_due.count > 0)
        index_start(d);
}

uint64_t repl_dedup_guesses(const struct repl_dedup *d)
{
    return d->options.index != NULL ? repl_chunk_index_guesses(d->options.index) : 0;
}

bool repl_dedup_is_learning(const struct repl_dedup *d)
{
    return d->learn_due.count > 0 || d->learn.count > 0;
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
    d->plan = (struct repl_supply_plan){.held_fd = -1, .fd = -1};
    d->index_job = (struct repl_job){.work = index_work, .done = index_done, .context = d};
    d->supply_job = (struct repl_job){.work = supply_work, .done = supply_done, .context = d};
    atomic_init(&d->pool, 0);
    atomic_init(&d->pool_known, false);
    atomic_init(&d->forgetting, false);
    repl_supply_init(&d->supply, options->loop, options->spool_fd, held_written, d);
    *out = d;
    return REPL_SUCCESS;
}

void repl_dedup_start(struct repl_dedup *d)
{
    index_start(d);
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
    repl_pool_names_fini(&d->learn_due);
    repl_missing_fini(&d->missing);
    repl_buffer_fini(&d->add_due);
    repl_buffer_fini(&d->remove_due);
    repl_buffer_fini(&d->add);
    repl_buffer_fini(&d->remove);
    free(d);
}
