/*
 * Chunks that a merge drops, as nobody referred to them when the visit looked.
 *
 * A commit may have come since, whose verification found such a chunk in the
 * index. Changes of a volume are made one at a time, so in the merge's own turn,
 * before its record is in the log, nothing is half-way: the names are looked at
 * once more then. Who comes later finds the chunk missing, and asks its source.
 */
#include <syslog.h>

#include "site/compactor/compactor_internal.h"

static void look_work(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    struct compactor_dropped *d = &c->dropped;
    const struct site_merge_result *result = &c->visit.result;
    for (size_t i = 0; i < result->dropped_count && repl_ok(d->result) && !d->referred; i++)
        d->result =
            repl_index_is_referred(c->site->index, c->visit.volume, &result->dropped[i],
                                   result->going, result->going_count, &d->referred, &d->err);
    /* An index that was made anew meanwhile knows of no references yet. */
    if (repl_index_remakes(c->site->index) != c->generation)
        d->referred = true;
}

static void look_done(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    struct site_volume *v = c->waits;
    site_job_ended(c->site);
    c->dropped.done(c);
    if (!v->busy)
        site_volume_pump(v);
}

static void forget_work(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    struct compactor_dropped *d = &c->dropped;
    pthread_mutex_lock(&c->site->index_lock);
    d->result = repl_index_forget_chunks(c->site->index, c->visit.volume, c->visit.result.dropped,
                                         c->visit.result.dropped_count, &d->err);
    pthread_mutex_unlock(&c->site->index_lock);
}

static void forget_done(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    site_job_ended(c->site);
    c->site->index_dirty = true;
    if (!repl_ok(c->dropped.result))
        repl_log(LOG_WARNING, "volume %s: places of chunks that are gone stay in the index: %s",
                 c->visit.volume, c->dropped.err.text);
    c->dropped.done(c);
}

static void start(struct site_compactor *c, repl_job_fn *work,
                  void (*job_done)(struct repl_job *job), void (*done)(struct site_compactor *))
{
    struct compactor_dropped *d = &c->dropped;
    *d = (struct compactor_dropped){.done = done};
    if (c->visit.result.dropped_count == 0) {
        done(c);
        return;
    }
    d->job = (struct repl_job){.work = work, .done = job_done, .context = c};
    site_job_start(c->site, &d->job);
}

void compactor_dropped_look(struct site_compactor *c, void (*done)(struct site_compactor *))
{
    start(c, look_work, look_done, done);
}

void compactor_dropped_forget(struct site_compactor *c, void (*done)(struct site_compactor *))
{
    start(c, forget_work, forget_done, done);
}
