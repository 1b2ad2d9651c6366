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
 * One step goes from where the state says the replica is to the newest goal:
 *
 *     state {reached = A, applying} durable
 *     every segment behind A up to the goal applied, in order
 *     target synced
 *     state {reached = goal} durable
 *
 * A crash anywhere in it leaves {A, applying}, and applying the same segments
 * again gives the same bytes. A long step records how far it came after each
 * CHECKPOINT_SIZE bytes, still as "applying", and gives way to other replicas
 * after SLICE_NS. A full among the segments makes what lies before it
 * superfluous, so a step begins at the last one.
 *
 * The state is believed only as far as the journal knows the segment it names.
 * Where it does not (a state of another history, of another target, none at
 * all), where the target lost bytes, and after a failed sync, the replica is
 * built anew from the journal; that is said in the log.
 *
 * The state of a target outside the store lies in a file of its own, named after
 * the target's path: what is known of one is never believed of another. Nor what
 * is known of one file of another that has taken its place; a device that has
 * taken another's is refused.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "base/hash.h"
#include "control/control.h"
#include "site/replica/replica_internal.h"

#define CHECKPOINT_SIZE (UINT64_C(1) << 30)
#define RETRY_NS_MIN    INT64_C(1000000000)
#define RETRY_NS_MAX    (INT64_C(60) * 1000000000)
#define SLICE_NS        (INT64_C(10) * 1000000000)

/* A step that has done nothing for so long hangs, or its disk is as good as dead. */
#define STALL_NS (INT64_C(120) * 1000000000)

struct repl_replica {
    struct repl_loop *loop;
    struct repl_pool *pool;
    struct repl_store *store;
    struct repl_index *index;
    char volume[REPL_VOLUME_NAME_SIZE + 1];

    /* the loop's */
    struct repl_head goal;
    struct repl_timer retry;
    int64_t retry_ns;         /* the next pause, doubled at each failure in a row */
    struct repl_job job;      /* a step */
    struct repl_job read_job; /* of the first of reads */
    bool busy;                /* with one of the two */
    bool asked;               /* there is a goal to look at */
    bool waiting;             /* a step has failed: until the timer fires */
    struct repl_replica_read *reads, *reads_last;
    struct repl_replica_status status;
    int64_t behind_ns; /* when the first goal came that has not been reached; 0: none */
    int64_t newer_ns;  /* the same of those behind the step's goal */
    int64_t stall_ns;  /* STALL_NS, or a test's */
    atomic_bool stop;
    int64_t asked_ns;              /* when a thread was asked for, to step or to read */
    atomic_int_least64_t alive_ns; /* when it last did something; 0: no thread has it yet */

    /* the worker's, while busy */
    bool opened;
    bool rebuild; /* nothing of the target can be relied on */
    struct replica_target target;
    struct replica_state state;
    struct repl_head step_goal;
    repl_result result;
    struct repl_error err;
};

static bool is_before(const struct repl_head *a, const struct repl_head *b)
{
    return a->to_seq != b->to_seq ? a->to_seq < b->to_seq : a->part < b->part;
}

/* --- on a worker: where does it stand -------------------------------------------------------- */

static repl_result index_has(struct repl_replica *r, const struct repl_head *head, bool *has,
                             struct repl_error *err)
{
    struct repl_segments_page page;
    uint64_t after_to = head->part > 0 ? head->to_seq : head->to_seq - 1;
    uint32_t after_part = head->part > 0 ? head->part - 1 : UINT32_MAX;
    REPL_TRY(repl_index_segments(r->index, r->volume, after_to, after_part, &page, err));
    *has = page.count > 0 && page.entries[0].head.to_seq == head->to_seq &&
           page.entries[0].head.part == head->part &&
           repl_digest_equal(&page.entries[0].head.digest, &head->digest);
    repl_segments_page_fini(&page);
    return REPL_SUCCESS;
}

/* Does the journal know the segment that the state names? An index that is being made anew does not
 * know its own end either, and says nothing. */
static repl_result reached_check(struct repl_replica *r, bool *known, struct repl_error *err)
{
    bool complete = true;
    REPL_TRY(index_has(r, &r->state.now.reached, known, err));
    if (!*known && r->step_goal.to_seq != 0)
        REPL_TRY(index_has(r, &r->step_goal, &complete, err));
    if (!complete)
        return repl_fail(err, REPL_E_RETRY, "the index of volume %s is being made anew", r->volume);
    return REPL_SUCCESS;
}

static void say_rebuild(const struct repl_replica *r, const char *why)
{
    repl_log(LOG_WARNING,
             "volume %s: the replica %s is built anew from the journal, because %s; until then it "
             "is not to be used",
             r->volume, r->target.path, why);
}

/* Another target than the state is about? A file is simply built anew; a device may hold what
 * somebody else needs. */
static repl_result identity_check(struct repl_replica *r, const char **note, struct repl_error *err)
{
    uint64_t known = r->state.now.target, found = r->target.identity;
    if (known == 0 || found == 0 || known == found)
        return REPL_SUCCESS;
    if (r->target.block)
        return repl_fail(err, REPL_E_REFUSED,
                         "%s is not the device that held the replica of volume %s: connect that "
                         "one, or, for this one to be overwritten, remove %s",
                         r->target.path, r->volume, r->state.path);
    if (r->state.now.reached.to_seq != 0)
        *note = "another file lies in its place";
    return REPL_SUCCESS;
}

/* A device that no state calls ours may be a wrong path in a config. */
static repl_result foreign_check(const struct repl_replica *r, bool ours, struct repl_error *err)
{
    const char *name;
    if (!r->target.block || ours)
        return REPL_SUCCESS;
    REPL_TRY(replica_target_foreign(&r->target, &name, err));
    if (name == NULL)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_REFUSED,
                     "%s holds %s, and nothing says that it is the replica of volume %s: it is not "
                     "overwritten. Correct replica in [volume NAME], or, if nothing on it is "
                     "needed, run wipefs -a %s: the replica then begins by itself",
                     r->target.path, name, r->volume, r->target.path);
}

static repl_result replica_open(struct repl_replica *r, struct repl_error *err)
{
    const char *note = NULL;
    bool fresh;
    REPL_TRY(replica_state_open(&r->state, &note, err));
    repl_result result = replica_target_open(&r->target, r->state.now.size, &fresh, err);
    if (repl_ok(result))
        result = foreign_check(r, note == NULL, err);
    if (repl_ok(result))
        result = identity_check(r, &note, err);
    if (!repl_ok(result)) {
        replica_target_close(&r->target);
        replica_state_close(&r->state);
        return result;
    }
    r->opened = true;
    if (r->state.now.reached.to_seq != 0 && fresh)
        note = "it is shorter than it was";
    /* A fresh target without a state is simply a new replica. */
    bool rebuild = note != NULL && !(fresh && r->state.now.reached.to_seq == 0);
    if (rebuild)
        say_rebuild(r, note);
    r->rebuild = r->rebuild || rebuild;
    return REPL_SUCCESS;
}

/* From here on nothing is believed of the target: the state says so before its bytes go. */
static repl_result replica_reset(struct repl_replica *r, struct repl_error *err)
{
    struct repl_replica_state nothing = {
        .volume = r->state.uuid, .applying = true, .target = r->target.identity};
    REPL_TRY(replica_state_write(&r->state, &nothing, err));
    REPL_TRY(replica_target_reset(&r->target, err));
    r->rebuild = false;
    return REPL_SUCCESS;
}

static void replica_close(struct repl_replica *r)
{
    replica_target_close(&r->target);
    replica_state_close(&r->state);
    r->opened = false;
}

static repl_result replica_prepare(struct repl_replica *r, struct repl_error *err)
{
    bool known = true;
    if (r->opened && !replica_target_is_there(&r->target))
        replica_close(r);
    if (!r->opened)
        REPL_TRY(replica_open(r, err));
    if (!r->rebuild && r->state.now.reached.to_seq != 0)
        REPL_TRY(reached_check(r, &known, err));
    if (!known)
        say_rebuild(r, "what it holds is not part of the journal");
    if (!known || r->rebuild)
        return replica_reset(r, err);
    return REPL_SUCCESS;
}

/* --- on a worker: forward -------------------------------------------------------------------- */

/* Where to begin: behind *from, or at the last full between it and the goal. */
static repl_result find_start(struct repl_replica *r, struct repl_head *from,
                              struct repl_error *err)
{
    struct repl_head at = *from;
    for (bool more = true; more;) {
        struct repl_segments_page page;
        struct repl_head before = at;
        REPL_TRY(repl_index_segments(r->index, r->volume, at.to_seq, at.part, &page, err));
        for (uint32_t i = 0; i < page.count && !is_before(&r->step_goal, &page.entries[i].head);
             i++) {
            const struct repl_head *head = &page.entries[i].head;
            if (head->from_seq == 0 && head->part == 0)
                *from = before;
            before = *head;
        }
        at = page.count > 0 ? page.entries[page.count - 1].head : at;
        more = page.more && is_before(&at, &r->step_goal);
        repl_segments_page_fini(&page);
    }
    return REPL_SUCCESS;
}

static repl_result state_advance(struct repl_replica *r, const struct repl_head *reached,
                                 bool applying, struct repl_error *err)
{
    struct repl_replica_state next = {.volume = r->state.uuid,
                                      .reached = *reached,
                                      .applying = applying,
                                      .size = reached->to_seq != 0 ? r->target.size : 0,
                                      .target = r->target.identity};
    if (r->target.block)
        next.size = 0; /* a device's own: not what a shorter file would show */
    return replica_state_write(&r->state, &next, err);
}

static repl_result durable(struct repl_replica *r, const struct repl_head *reached, bool applying,
                           struct repl_error *err)
{
    repl_result result = replica_target_sync(&r->target, err);
    /* A device that went away holds what was synced before, and the rest is applied again. */
    if (!repl_ok(result) && replica_target_is_there(&r->target)) {
        r->rebuild = true;
        say_rebuild(r, err->text);
    }
    REPL_TRY(result);
    return state_advance(r, reached, applying, err);
}

static repl_result page_apply(struct repl_replica *r, struct replica_applier *applier,
                              const struct repl_segments_page *page, int64_t end_ns,
                              struct repl_head *at, uint64_t *unsynced, struct repl_error *err)
{
    for (uint32_t i = 0; i < page->count && (i == 0 || repl_now_mono_ns() < end_ns); i++) {
        const struct repl_segments_entry *entry = &page->entries[i];
        if (is_before(&r->step_goal, &entry->head))
            return REPL_SUCCESS;
        REPL_TRY(replica_apply_segment(applier, entry, unsynced, err));
        *at = entry->head;
        if (*unsynced >= CHECKPOINT_SIZE) {
            REPL_TRY(durable(r, at, true, err));
            *unsynced = 0;
        }
    }
    return REPL_SUCCESS;
}

/* Up to the goal, or to the end of a slice. */
static repl_result segments_apply(struct repl_replica *r, struct replica_applier *applier,
                                  struct repl_head at, struct repl_error *err)
{
    uint64_t unsynced = 0;
    int64_t end_ns = repl_now_mono_ns() + SLICE_NS;
    while (is_before(&at, &r->step_goal) && repl_now_mono_ns() < end_ns) {
        struct repl_segments_page page;
        struct repl_head before = at;
        REPL_TRY(repl_index_segments(r->index, r->volume, at.to_seq, at.part, &page, err));
        repl_result result = page_apply(r, applier, &page, end_ns, &at, &unsynced, err);
        repl_segments_page_fini(&page);
        REPL_TRY(result);
        if (!is_before(&before, &at))
            return repl_fail(err, REPL_E_MISSING,
                             "the index ends before segment %llu.%u of volume %s: the site "
                             "completes it as soon as it can",
                             (unsigned long long)r->step_goal.to_seq, r->step_goal.part, r->volume);
    }
    /* The end of a seed's part is no point: the replica is still between two. */
    return durable(r, &at, !at.has_point, err);
}

static repl_result replica_step(struct repl_replica *r, struct repl_error *err)
{
    struct replica_applier *applier;
    REPL_TRY(replica_prepare(r, err));
    struct repl_head at = r->state.now.reached;
    if (!is_before(&at, &r->step_goal))
        return REPL_SUCCESS;
    REPL_TRY(find_start(r, &at, err));
    if (!r->state.now.applying || r->state.fd < 0)
        REPL_TRY(state_advance(r, &r->state.now.reached, true, err));
    REPL_TRY(replica_applier_new(r->store, r->index, r->volume, &r->target, &r->stop, &r->alive_ns,
                                 &applier, err));
    repl_result result = segments_apply(r, applier, at, err);
    replica_applier_free(applier);
    return result;
}

static void step_work(struct repl_job *job)
{
    struct repl_replica *r = job->context;
    atomic_store(&r->alive_ns, repl_now_mono_ns());
    r->result = replica_step(r, &r->err);
    /* A device may be dead in ways that only show when it is opened again. */
    if (r->result.code == REPL_E_IO && r->opened && r->target.block)
        replica_close(r);
}

/* --- on a worker: reading -------------------------------------------------------------------- */

/* The point that the state names, as the index has it. */
static repl_result point_find(const struct repl_replica *r, struct repl_points_entry *out,
                              struct repl_error *err)
{
    struct repl_points_page page;
    uint64_t seq = r->state.now.reached.to_seq;
    REPL_TRY(repl_index_points(r->index, r->volume, seq - 1, &page, err));
    bool found = page.count > 0 && page.entries[0].point.seq == seq;
    if (found)
        *out = page.entries[0];
    repl_points_page_fini(&page);
    if (!found)
        return repl_fail(err, REPL_E_RETRY, "the index of volume %s is being made anew", r->volume);
    return REPL_SUCCESS;
}

static repl_result readable_check(const struct repl_replica *r, struct repl_error *err)
{
    const struct repl_replica_state *now = &r->state.now;
    if (!r->opened || !replica_target_is_there(&r->target))
        return repl_fail(err, REPL_E_RETRY, "the replica %s of volume %s is not there just now",
                         r->target.path, r->volume);
    if (r->rebuild || now->applying || !now->reached.has_point)
        return repl_fail(err, REPL_E_RETRY,
                         "the replica of volume %s is being built or brought forward, and stands "
                         "at no point just now: try again later",
                         r->volume);
    return REPL_SUCCESS;
}

static repl_result digests_read(const struct repl_replica *r, const struct repl_replica_read *read,
                                struct repl_digests *out, struct repl_error *err)
{
    REPL_TRY(readable_check(r, err));
    REPL_TRY(point_find(r, &out->at, err));
    uint64_t size = out->at.volume_size, pages = repl_page_count_of(size);
    uint64_t left = read->first_page < pages ? pages - read->first_page : 0;
    out->first_page = read->first_page;
    out->count = read->page_count < left ? read->page_count : (uint32_t)left;
    if (out->count == 0)
        return REPL_SUCCESS;
    out->pages = calloc(out->count, sizeof out->pages[0]);
    if (out->pages == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for digests of volume %s", r->volume);
    uint64_t offset = out->first_page * REPL_PAGE_SIZE;
    uint64_t end = offset + (uint64_t)out->count * REPL_PAGE_SIZE;
    return replica_target_digest(&r->target, offset, (end < size ? end : size) - offset, out->pages,
                                 err);
}

static void read_work(struct repl_job *job)
{
    struct repl_replica *r = job->context;
    struct repl_replica_read *read = r->reads;
    atomic_store(&r->alive_ns, repl_now_mono_ns());
    read->result = digests_read(r, read, &read->answer, &read->err);
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
    r->status.applying = r->status.applying || is_before(&r->status.reached, &r->goal);
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
    if (!is_before(&r->status.reached, &r->step_goal))
        r->behind_ns = r->newer_ns;
    if (is_before(&r->status.reached, &r->goal))
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
    if (is_before(&r->goal, goal) && r->behind_ns == 0)
        r->behind_ns = now_ns;
    if (is_before(&r->goal, goal) && r->newer_ns == 0)
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
    int size = target->image ? snprintf(target->path, sizeof target->path, "%s/replica.img",
                                        options->directory)
                             : snprintf(target->path, sizeof target->path, "%s", options->target);
    if (size < 0 || (size_t)size >= sizeof target->path ||
        !repl_replica_state_path(options->directory, options->target, state->path,
                                 sizeof state->path))
        return repl_fail(err, REPL_E_USAGE, "the path of volume %s's replica is too long",
                         options->volume);
    return REPL_SUCCESS;
}

repl_result repl_replica_new(const struct repl_replica_options *options, struct repl_replica **out,
                             struct repl_error *err)
{
    struct repl_replica *r = calloc(1, sizeof *r);
    if (r == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the replica of volume %s",
                         options->volume);
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
    /* Shown, not used: may be cut. */
    snprintf(r->status.path, sizeof r->status.path, "%.*s", (int)sizeof r->status.path - 1,
             r->target.path);
    *out = r;
    return REPL_SUCCESS;
}

void repl_replica_free(struct repl_replica *r)
{
    if (r == NULL)
        return;
    ensure(!r->busy && r->reads == NULL);
    repl_timer_cancel(&r->retry);
    replica_target_close(&r->target);
    replica_state_close(&r->state);
    free(r);
}
