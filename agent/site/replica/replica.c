/*
 * The replica follows its volume's journal.
 *
 *     IDLE --goal--> STEPPING (a worker's job) --reached--> IDLE
 *                        \--failed--> WAITING --time--> STEPPING
 *     IDLE, WAITING --somebody asks for digests--> READING --> as before
 *
 * Stepping and reading exclude each other, so that what is read is never torn
 * between two points, and take turns where both wait.
 *
 * What a step does depends on what the volume is: replica_image.c, of a block
 * volume, replica_directory.c, of a directory tree. Both leave the state where
 * the next one goes on, whatever ends them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "control/control.h"
#include "site/replica/replica_internal.h"

#define RETRY_NS_MIN INT64_C(1000000000)
#define RETRY_NS_MAX (INT64_C(60) * 1000000000)

/* A step that has done nothing for so long hangs, or its disk is as good as dead. */
#define STALL_NS (INT64_C(120) * 1000000000)

static void step_work(struct repl_job *job)
{
    struct repl_replica *r = job->context;
    atomic_store(&r->alive_ns, repl_now_mono_ns());
    r->result = r->tree ? replica_directory_step(r, &r->err) : replica_image_step(r, &r->err);
    /* A device may be dead in ways that only show when it is opened again. */
    if (r->result.code == REPL_E_IO && r->opened && r->target.block)
        replica_image_close(r);
}

/* --- on a worker: reading -------------------------------------------------------------------- */

static void read_work(struct repl_job *job)
{
    struct repl_replica *r = job->context;
    struct repl_replica_read *read = r->reads;
    atomic_store(&r->alive_ns, repl_now_mono_ns());
    read->result = replica_image_digests(r, read, &read->answer, &read->err);
}

/* --- on the loop ----------------------------------------------------------------------------- */

static void thread_ask(struct repl_replica *r, struct repl_job *job)
{
    r->busy = true;
    r->asked_ns = repl_now_mono_ns();
    atomic_store(&r->alive_ns, 0);
    repl_pool_work(r->pool, job);
}

static void replica_start(struct repl_replica *r)
{
    if (r->busy || r->waiting || !r->asked || atomic_load(&r->stop))
        return;
    r->asked = false;
    r->step_goal = r->goal;
    r->newer_ns = 0;
    r->status.applying = r->status.applying || replica_is_before(&r->status.reached, &r->goal);
    thread_ask(r, &r->job);
}

static void read_start(struct repl_replica *r)
{
    if (!r->busy && r->reads != NULL && !atomic_load(&r->stop))
        thread_ask(r, &r->read_job);
}

static void read_end(struct repl_replica *r)
{
    struct repl_replica_read *read = r->reads;
    r->reads = read->next;
    if (r->reads == NULL)
        r->reads_last = NULL;
    read->done(read, read->result, &read->err);
}

/* Once it has been stopped, nobody comes for them any more. */
static void reads_give_up(struct repl_replica *r)
{
    while (atomic_load(&r->stop) && !r->busy && r->reads != NULL) {
        r->reads->result = repl_fail(&r->reads->err, REPL_E_RETRY, "the site is being stopped");
        read_end(r);
    }
}

static void read_done(struct repl_job *job)
{
    struct repl_replica *r = job->context;
    r->busy = false;
    read_end(r);
    reads_give_up(r);
    replica_start(r);
    read_start(r);
}

void repl_replica_read(struct repl_replica *r, struct repl_replica_read *read)
{
    read->next = NULL;
    read->answer = (struct repl_digests){0};
    *(r->reads != NULL ? &r->reads_last->next : &r->reads) = read;
    r->reads_last = read;
    read_start(r);
}

static void problem_note(struct repl_replica *r)
{
    if (strcmp(r->status.problem, r->err.text) != 0) /* once, not at each attempt */
        repl_log(LOG_ERR, "volume %s: the replica cannot follow: %s", r->volume, r->err.text);
    snprintf(r->status.problem, sizeof r->status.problem, "%s", r->err.text);
    r->asked = r->waiting = true;
    repl_timer_arm(r->loop, &r->retry, repl_now_mono_ns() + r->retry_ns);
    r->retry_ns = 2 * r->retry_ns < RETRY_NS_MAX ? 2 * r->retry_ns : RETRY_NS_MAX;
}

static void step_ended(struct repl_replica *r)
{
    bool follows = r->status.problem[0] != '\0' && repl_ok(r->result);
    r->status.reached = r->state.now.reached;
    r->status.applying = r->state.now.applying;
    if (atomic_load(&r->stop))
        return;
    if (follows)
        repl_log(LOG_INFO, "volume %s: the replica follows again", r->volume);
    if (!repl_ok(r->result)) {
        problem_note(r);
        return;
    }
    r->status.problem[0] = '\0';
    r->retry_ns = RETRY_NS_MIN;
    if (!replica_is_before(&r->status.reached, &r->step_goal))
        r->behind_ns = r->newer_ns;
    if (replica_is_before(&r->status.reached, &r->goal))
        r->asked = true;
}

static void step_done(struct repl_job *job)
{
    struct repl_replica *r = job->context;
    r->busy = false;
    step_ended(r);
    reads_give_up(r);
    read_start(r);
    replica_start(r);
}

static void retry_fire(struct repl_timer *timer)
{
    struct repl_replica *r = timer->context;
    r->waiting = false;
    replica_start(r);
}

void repl_replica_follow(struct repl_replica *r, const struct repl_head *goal)
{
    int64_t now_ns = repl_now_mono_ns();
    if (replica_is_before(&r->goal, goal) && r->behind_ns == 0)
        r->behind_ns = now_ns;
    if (replica_is_before(&r->goal, goal) && r->newer_ns == 0)
        r->newer_ns = now_ns;
    r->goal = *goal;
    r->asked = true;
    /* After a failure the timer has the word: a full disk is not asked at each point. */
    replica_start(r);
}

void repl_replica_stop(struct repl_replica *r)
{
    atomic_store(&r->stop, true);
    repl_timer_cancel(&r->retry);
    reads_give_up(r);
}

bool repl_replica_is_busy(const struct repl_replica *r)
{
    return r->busy;
}

/* A step that takes too long: is it its own disk, or does it wait for a thread? */
static void stall_look(const struct repl_replica *r, int64_t now_ns,
                       struct repl_replica_status *out)
{
    int64_t alive_ns = atomic_load(&r->alive_ns);
    bool waits = alive_ns == 0;
    int64_t idle_ns = now_ns - (waits ? r->asked_ns : alive_ns);
    if (!r->busy || idle_ns <= r->stall_ns)
        return;
    if (waits)
        snprintf(out->problem, sizeof out->problem,
                 "it has waited its turn for %lld s: other replicas hold all threads that write; "
                 "see those whose disk is slow, or hangs",
                 (long long)(idle_ns / 1000000000));
    else
        snprintf(out->problem, sizeof out->problem,
                 "nothing has been written to %.200s, or read, for %lld s: its disk is slow, or "
                 "hangs",
                 r->target.path, (long long)(idle_ns / 1000000000));
}

void repl_replica_look(const struct repl_replica *r, struct repl_replica_status *out)
{
    int64_t now_ns = repl_now_mono_ns();
    *out = r->status;
    out->behind_ms = r->behind_ns == 0 ? 0 : (now_ns - r->behind_ns) / 1000000;
    if (out->problem[0] == '\0')
        stall_look(r, now_ns, out);
}

void repl_replica_set_stall(struct repl_replica *r, int64_t stall_ns)
{
    r->stall_ns = stall_ns;
}

struct replica_target *repl_replica_target(struct repl_replica *r)
{
    return &r->target;
}

bool repl_replica_state_path(const char *directory, const char *target, char *path,
                             size_t path_size)
{
    int size = strcmp(target, "image") == 0
                   ? snprintf(path, path_size, "%s/replica.state", directory)
                   : snprintf(path, path_size, "%s/replica-%016llx.state", directory,
                              (unsigned long long)repl_xxh3(target, strlen(target)));
    return size >= 0 && (size_t)size < path_size;
}

static repl_result paths_fill(struct repl_replica *r, const struct repl_replica_options *options,
                              struct repl_error *err)
{
    struct replica_target *target = &r->target;
    struct replica_state *state = &r->state;
    target->image = strcmp(options->target, "image") == 0;
    const char *own = r->tree ? "replica" : "replica.img";
    int size = target->image
                   ? snprintf(target->path, sizeof target->path, "%s/%s", options->directory, own)
                   : snprintf(target->path, sizeof target->path, "%s", options->target);
    bool fits = size >= 0 && (size_t)size < sizeof target->path;
    if (fits && r->tree) {
        size = snprintf(state->path, sizeof state->path, "%s/.repl/state", target->path);
        fits = size >= 0 && (size_t)size < sizeof state->path;
    } else if (fits) {
        fits = repl_replica_state_path(options->directory, options->target, state->path,
                                       sizeof state->path);
    }
    if (!fits)
        return repl_fail(err, REPL_E_USAGE, "the path of volume %s's replica is too long",
                         options->volume);
    return REPL_SUCCESS;
}

static void directory_init(struct repl_replica *r)
{
    struct replica_tree *t = &r->directory;
    t->top_fd = t->mark_fd = t->state_fd = t->staging_fd = -1;
    memcpy(t->path, r->target.path, sizeof t->path);
    t->image = r->target.image;
    t->volume = r->state.uuid;
    t->journal =
        (struct replica_journal){.store = r->store, .index = r->index, .volume = r->volume};
    t->pulse = (struct replica_pulse){&r->stop, &r->alive_ns};
}

repl_result repl_replica_new(const struct repl_replica_options *options, struct repl_replica **out,
                             struct repl_error *err)
{
    struct repl_replica *r = calloc(1, sizeof *r);
    if (r == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the replica of volume %s",
                         options->volume);
    r->tree = options->kind == REPL_VOLUME_TREE;
    repl_result result = paths_fill(r, options, err);
    if (!repl_ok(result)) {
        free(r);
        return result;
    }
    r->loop = options->loop;
    r->pool = options->pool;
    r->stall_ns = STALL_NS;
    r->store = options->store;
    r->index = options->index;
    snprintf(r->volume, sizeof r->volume, "%s", options->volume);
    r->state.uuid = options->uuid;
    r->target.fd = r->state.fd = -1;
    r->retry_ns = RETRY_NS_MIN;
    r->job = (struct repl_job){.work = step_work, .done = step_done, .context = r};
    r->read_job = (struct repl_job){.work = read_work, .done = read_done, .context = r};
    r->retry = (struct repl_timer){.fire = retry_fire, .context = r};
    if (r->tree)
        directory_init(r);
    /* Shown, not used: may be cut. */
    snprintf(r->status.path, sizeof r->status.path, "%.240s%s", r->target.path,
             r->tree ? "/tree" : "");
    *out = r;
    return REPL_SUCCESS;
}

void repl_replica_free(struct repl_replica *r)
{
    if (r == NULL)
        return;
    ensure(!r->busy && r->reads == NULL);
    repl_timer_cancel(&r->retry);
    if (r->tree && r->opened)
        replica_tree_close(&r->directory);
    replica_target_close(&r->target);
    replica_state_close(&r->state);
    free(r);
}
