#include "site/compactor/compactor.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include "base/ensure.h"
#include "journal/merge_order.h"
#include "site/compactor/compactor_internal.h"

#define NICE_MAX 19

/* Between visits of a volume: where there are new points, and where not. A visit reads the list of
 * all segments: of 6,200 it takes 2 to 3 ms of a processor, so that a thousand volumes take 4 % of
 * one. */
#define VISIT_NS      (INT64_C(60) * 1000000000)
#define VISIT_IDLE_NS (10 * VISIT_NS)

#define LOG_SIZE_MIN (UINT64_C(1) << 20)

#define SUPPLY_EVERY_NS (INT64_C(86400) * 1000000000)
#define SWEEP_EVERY_NS  (INT64_C(86400) * 1000000000)

/* A merge that drops chunks waits at the gate of its pool for commits that are inside, and other
 * commits behind it: so long, so often, and then it is made again one day. */
#define GATE_WAIT_NS  (INT64_C(5) * 1000000000)
#define GATE_AGAIN_NS (INT64_C(60) * 1000000000)
#define GATE_MAX_NS   (INT64_C(600) * 1000000000)

/* Merging waits for a replica that is behind by no more than this. */
#define REPLICA_BEHIND_MAX_MS (INT64_C(86400) * 1000)

/* --- whose turn it is ------------------------------------------------------------------------ */

static const char *policy_text(const struct repl_site *site, const char *volume)
{
    const struct repl_config_volume *config = repl_config_find_volume(site->config, volume);
    return config != NULL && config->retention != NULL ? config->retention
                                                       : site->config->retention;
}

/* Whether it gives up points at all. */
static bool thins(const struct site_volume *v)
{
    return strcmp(policy_text(v->site, v->name), REPL_RETENTION_EVERYTHING) != 0;
}

static bool volume_may(const struct site_volume *v)
{
    return v->journal.exists && v->damaged[0] == '\0' && v->journal.point.seq != 0 &&
           !v->index_behind && !v->unsettled &&
           (thins(v) || site_scrub_patch(v->site->scrub, v->name) != NULL);
}

/* Looking at a volume takes a look at each of its segments: not more often than there is something
 * new in it. */
static bool volume_is_due(const struct site_compactor *c, const struct site_volume *v,
                          int64_t now_ns)
{
    bool fresh = v->points - v->visited_points >= REPL_MERGE_DROPPED_MIN || v->merge_failed ||
                 site_scrub_patch(v->site->scrub, v->name) != NULL;
    return v->visited_ns == 0 || v->visit_again ||
           now_ns - v->visited_ns >= (fresh ? c->visit_ns : VISIT_IDLE_NS);
}

/* The one that has waited longest. */
static struct site_volume *volume_next(const struct site_compactor *c)
{
    struct site_volume *next = NULL;
    int64_t now_ns = repl_now_mono_ns();
    for (struct site_volume *v = c->site->volumes; v != NULL; v = v->next) {
        if (volume_may(v) && volume_is_due(c, v, now_ns) &&
            (next == NULL || v->visited_ns < next->visited_ns))
            next = v;
    }
    return next;
}

static uint64_t replica_reached(const struct site_volume *v)
{
    struct repl_replica_status status;
    if (v->replica == NULL)
        return UINT64_MAX;
    repl_replica_look(v->replica, &status);
    return status.behind_ms > REPLICA_BEHIND_MAX_MS ? UINT64_MAX : status.reached.to_seq;
}

static void visit_done(struct repl_job *job);

static void visit_begin(struct site_compactor *c, struct site_volume *v)
{
    struct compactor_visit *visit = &c->visit;
    uint64_t number = v->journal.record_number + 1;
    struct repl_error err;
    /* A number that was given to a merge that came to nothing may lie in the store yet. */
    v->last_merge = number > v->last_merge ? number : v->last_merge + 1;
    *visit = (struct compactor_visit){
        .index = c->site->index,
        .now_ns = c->clock.wall_ns,
        .agreed_seq = v->journal.report.seq,
        .reached_seq = replica_reached(v),
        .merge_number = v->last_merge,
        .keep = !site_pool_is_known(v),
        .sweeps = &c->sweeps,
        .merging = &c->merging,
        .pacer = {.rate_bytes = c->site->config->merge_rate_bytes, .stop = &c->stop},
        .options = {.store = c->site->store, .stop = &c->stop}};
    snprintf(visit->volume, sizeof visit->volume, "%s", v->name);
    visit->thin = thins(v);
    ensure(!visit->thin ||
           repl_ok(repl_retention_parse(policy_text(c->site, v->name), &visit->policy, &err)));
    repl_chain_init(&visit->chain);
    visit->patch = site_patch_copy(site_scrub_patch(c->site->scrub, v->name));
    compactor_failures_list(c, v, visit);
    v->visited_ns = repl_now_mono_ns();
    v->visited_points = v->points;
    v->visit_again = false;
    v->merge_failed = visit->skip_count > 0;
    c->marks_seen = v->marks;
    c->generation = c->site->index_generation;
    c->out = true;
    visit->job = (struct repl_job){.work = compactor_visit_work, .done = visit_done, .context = c};
    repl_pool_work(c->pool, &visit->job);
}

/* --- what a visit has brought ---------------------------------------------------------------- */

static void turn_next(struct site_compactor *c);

static void visit_end(struct site_compactor *c)
{
    if (c->leaving.volume != NULL)
        site_leaving_end(c->site);
    c->leaving = (struct site_leaving){0};
    compactor_visit_fini(&c->visit);
    free(c->records);
    free(c->indexed);
    c->records = NULL;
    c->indexed = NULL;
    c->waits = NULL;
    c->logging = false;
    c->gate_since_ns = c->gate_first_ns = c->gate_again_ns = 0;
    site_gate_leave(&c->pass);
    turn_next(c);
}

/* Pieces that nothing will refer to; unsure: once the volume's log is settled. */
static void pieces_remove(struct site_compactor *c, bool unsure)
{
    const struct site_merge_result *result = &c->visit.result;
    for (size_t i = 0; i < result->piece_count; i++) {
        const struct repl_log_piece *piece = &result->pieces[i];
        const struct repl_segment_id id = {
            .to_seq = piece->commit.to_seq, .part = piece->commit.part, .merge = piece->merge};
        compactor_remove_later(c, c->visit.volume, &id, 0, unsure);
    }
}

static void visit_failed(struct site_compactor *c)
{
    const struct compactor_visit *visit = &c->visit;
    if (visit->outcome.code == REPL_E_RETRY && atomic_load(&c->stop))
        return;
    struct site_volume *v = site_find_volume(c->site, visit->volume);
    if (visit->found && v != NULL)
        compactor_failure_note(c, v);
    else
        repl_log(LOG_ERR, "volume %s: nothing is merged for now: %s", visit->volume,
                 visit->err.text);
}

static void visit_done(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    struct site_volume *v = site_find_volume(c->site, c->visit.volume);
    c->out = false;
    if (!repl_ok(c->visit.outcome)) {
        visit_failed(c);
        pieces_remove(c, false);
        visit_end(c);
    } else if (!c->visit.found || v == NULL || atomic_load(&c->stop)) {
        if (v != NULL)
            v->visit_again |= c->visit.more;
        pieces_remove(c, false);
        visit_end(c);
    } else {
        c->waits = v;
        site_volume_pump(v);
    }
}

/* --- the log --------------------------------------------------------------------------------- */

/* What stood in the pieces' place, needless segments too, goes when the grace is over. */
static void run_remove(struct site_compactor *c)
{
    const struct site_merge_result *result = &c->visit.result;
    int64_t due_ns = repl_now_mono_ns() + c->site->config->grace_ms * 1000000;
    for (size_t i = 0; i < result->going_count; i++)
        compactor_remove_later(c, c->visit.volume, &result->going[i], due_ns, false);
}

static void merge_logged(struct site_volume *v, repl_result result, const struct repl_error *err)
{
    struct site_compactor *c = v->site->compactor;
    (void)err; /* has been told */
    if (repl_merge_step_next(REPL_MERGE_LOG, repl_ok(result)) == REPL_MERGE_RETIRE) {
        run_remove(c);
        v->index_stale = v->index_behind && (v->index_stale || c->visit.result.dropped_count > 0);
        site_scrub_merged(v, c->visit.merge_number, c->records[0].time_ns);
        v->visit_again = c->visit.more;
        v->checkpoint_due = compactor_checkpoint_is_due(c, v, c->visit.chain.count);
        compactor_dropped_forget(c, visit_end);
    } else {
        /* Nobody knows whether the pieces are part of the history, until the log has been cut back
         * to what it was. */
        v->drop_unsure = v->drop_unsure || c->visit.result.dropped_count > 0;
        v->merge_failed = true;
        pieces_remove(c, true);
        visit_end(c);
    }
    v->busy = false;
    site_volume_pump(v);
}

/* What a log has that does not fit is refused at the next start, for good: so the list of segments
 * takes the merge before the log does. */
static repl_result records_check(struct site_compactor *c, struct repl_error *err)
{
    for (size_t i = 0; i < c->record_count; i++)
        REPL_TRY(repl_chain_apply(&c->visit.chain, &c->records[i], err));
    return REPL_SUCCESS;
}

static repl_result records_make(struct site_compactor *c, const struct site_volume *v,
                                struct repl_error *err)
{
    struct compactor_visit *visit = &c->visit;
    const struct site_merge_result *result = &visit->result;
    REPL_TRY(site_merge_records(&visit->options, result, v->journal.record_number + 1,
                                repl_now_wall_ns(), &c->records, &c->record_count, err));
    if (!visit->reads) /* all before what stays */
        c->records[0].merge.to_seq = visit->chain.entries[visit->read_first - 1].commit.to_seq;
    c->indexed = calloc(c->record_count, sizeof *c->indexed);
    if (c->indexed == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu log records", c->record_count);
    size_t first_piece = c->record_count - result->piece_count;
    for (size_t i = 0; i < c->record_count; i++) {
        c->indexed[i].record = &c->records[i];
        if (i < first_piece)
            continue;
        const struct site_merge_chunks *chunks = &result->chunks[i - first_piece];
        c->indexed[i] = (struct repl_index_record){.record = &c->records[i],
                                                   .chunks = chunks->entries,
                                                   .chunk_count = chunks->count,
                                                   .refs = chunks->refs,
                                                   .ref_count = chunks->ref_count};
    }
    return records_check(c, err);
}

/* To be made again of what there is then. */
static void merge_discard(struct site_compactor *c, struct site_volume *v)
{
    pieces_remove(c, false);
    v->busy = false;
    v->visit_again = true;
    visit_end(c);
}

static void merge_fail(struct site_compactor *c, struct site_volume *v, repl_result result)
{
    c->visit.outcome = result;
    visit_failed(c);
    pieces_remove(c, false);
    v->busy = false;
    visit_end(c);
}

/* The store may take its time for the record, and the others of the tenant are not to wait for it:
 * no commit of theirs finds what is dropped from here on. Not those of the volume itself either, in
 * whose turn this is. */
static void gate_leave(struct site_compactor *c)
{
    const struct site_merge_result *result = &c->visit.result;
    if (result->dropped_count == 0)
        return;
    c->leaving = (struct site_leaving){.volume = c->visit.volume,
                                       .names = result->dropped,
                                       .name_count = result->dropped_count,
                                       .going = result->going,
                                       .going_count = result->going_count};
    site_leaving_begin(c->site, &c->leaving);
    site_gate_leave(&c->pass);
}

static void merge_log(struct site_compactor *c)
{
    struct site_volume *v = c->waits;
    if (!repl_ok(c->dropped.result)) {
        c->visit.err = c->dropped.err;
        merge_fail(c, v, c->dropped.result);
        return;
    }
    if (repl_merge_step_next(REPL_MERGE_LOOK, !c->dropped.referred) == REPL_MERGE_DISCARD ||
        atomic_load(&c->stop)) {
        merge_discard(c, v);
        return;
    }
    repl_result result = records_make(c, v, &c->visit.err);
    if (!repl_ok(result)) {
        merge_fail(c, v, result);
        return;
    }
    repl_log(LOG_INFO, "volume %s: %zu segments up to point %" PRIu64 " became %zu", v->name,
             c->visit.end - c->visit.first, c->visit.merge.to_seq, c->visit.result.piece_count);
    if (c->visit.swept_bytes > 0)
        repl_log(LOG_INFO,
                 "volume %s: %" PRIu64 " bytes of chunks that nothing refers to go with that",
                 v->name, c->visit.swept_bytes);
    gate_leave(c);
    site_volume_append_group(v, c->indexed, c->record_count, merge_logged);
}

/* In the volume's turn, and alone at the gate where chunks are dropped: now nothing is half-way. */
static void merge_look(void *context)
{
    struct site_compactor *c = context;
    struct site_volume *v = c->waits;
    c->gate_since_ns = 0;
    bool unknown = c->visit.result.dropped_count > 0 && !site_pool_is_known(v);
    if (!unknown && !atomic_load(&c->stop)) {
        compactor_dropped_look(c, merge_log);
        return;
    }
    merge_discard(c, v);
    site_volume_pump(v);
}

static void merge_begin(struct site_compactor *c, struct site_volume *v)
{
    struct site_gate *gate = NULL;
    repl_result result = REPL_SUCCESS;
    c->logging = true;
    v->busy = true;
    c->pass = (struct site_pass){.alone = true, .entered = merge_look, .context = c};
    if (c->visit.result.dropped_count > 0)
        result = site_gate_of(v, &gate, &c->visit.err);
    if (!repl_ok(result)) {
        merge_fail(c, v, result);
        site_volume_pump(v);
    } else if (gate == NULL || site_gate_enter(gate, &c->pass)) {
        merge_look(c);
    } else {
        c->gate_since_ns = repl_now_mono_ns();
        c->gate_first_ns = c->gate_first_ns != 0 ? c->gate_first_ns : c->gate_since_ns;
    }
}

bool compactor_gate_withdraws(const struct site_compactor *c, struct site_pass *pass,
                              int64_t since_ns)
{
    return since_ns != 0 && repl_now_mono_ns() - since_ns >= c->gate_wait_ns &&
           site_gate_withdraw(pass);
}

/* A commit of the pool hangs in its store: the others are not to wait for that too. */
static void merge_tick(struct site_compactor *c)
{
    struct site_volume *v = c->waits;
    if (!c->logging || !compactor_gate_withdraws(c, &c->pass, c->gate_since_ns))
        return;
    int64_t now_ns = repl_now_mono_ns();
    if (c->gate_again_ns == 0)
        repl_log(LOG_WARNING,
                 "volume %s: a commit of its tenant takes long: a merge lets others go before it",
                 v->name);
    c->gate_since_ns = 0;
    c->gate_again_ns = now_ns + GATE_AGAIN_NS;
    c->logging = false;
    if (now_ns - c->gate_first_ns >= GATE_MAX_NS)
        merge_discard(c, v);
    v->busy = false;
    site_volume_pump(v);
}

void site_compactor_pump(struct site_compactor *c, struct site_volume *v)
{
    bool refused = v->damaged[0] != '\0';
    if (v->checkpoint_due && !v->unsettled && !v->index_behind && !refused &&
        !atomic_load(&c->stop)) {
        v->checkpoint_due = false;
        compactor_checkpoint_begin(v);
        return;
    }
    if (compactor_supplies_pump(c, v) || c->waits != v || c->logging ||
        repl_now_mono_ns() < c->gate_again_ns)
        return;
    /* A name may have been given meanwhile to a point that is about to go; and an index that was
     * made anew meanwhile may have shown the visit a history of before, on its way to this one. */
    if (c->marks_seen != v->marks || c->generation != c->site->index_generation || v->unsettled ||
        v->index_behind || refused || atomic_load(&c->stop)) {
        merge_discard(c, v);
        return;
    }
    merge_begin(c, v);
}

/* --- all of it ------------------------------------------------------------------------------- */

static void turn_next(struct site_compactor *c)
{
    if (c->out || c->waits != NULL || atomic_load(&c->stop) || !repl_clock_guard_trusts(&c->clock))
        return;
    struct site_volume *v = volume_next(c);
    if (v != NULL)
        visit_begin(c, v);
}

void site_compactor_tick(struct site_compactor *c)
{
    compactor_clock_tick(c);
    compactor_remove_due(c);
    merge_tick(c);
    compactor_supplies_tick(c);
    turn_next(c);
}

/* What is left of the grace of what a merge took the place of before the start; all of it where
 * that, or what time it is, is not known. */
static int64_t grace_left_ns(const struct site_compactor *c, const struct site_leftover *leftover)
{
    int64_t grace_ns = c->site->config->grace_ms * 1000000;
    if (leftover->replaced_ns == 0 || leftover->replaced_ns > c->clock.wall_ns ||
        !repl_clock_guard_trusts(&c->clock))
        return grace_ns;
    int64_t passed_ns = c->clock.wall_ns - leftover->replaced_ns;
    return passed_ns < grace_ns ? grace_ns - passed_ns : 0;
}

void site_compactor_leftovers(struct site_compactor *c, struct site_volume *v)
{
    int64_t now_ns = repl_now_mono_ns();
    for (size_t i = 0; i < v->leftover_count && v->damaged[0] == '\0'; i++) {
        const struct site_leftover *leftover = &v->leftovers[i];
        compactor_remove_later(c, v->name, &leftover->id, now_ns + grace_left_ns(c, leftover),
                               leftover->id.merge != 0);
    }
    free(v->leftovers);
    v->leftovers = NULL;
    v->leftover_count = 0;
}

repl_result site_compactor_new(struct repl_site *site, struct site_compactor **out,
                               struct repl_error *err)
{
    struct site_compactor *c = calloc(1, sizeof *c);
    if (c == NULL)
        return repl_fail(err, REPL_E_NOMEM, "no memory for the compactor");
    c->site = site;
    c->visit_ns = VISIT_NS;
    c->log_size_min = LOG_SIZE_MIN;
    c->gate_wait_ns = GATE_WAIT_NS;
    c->supply_every_ns = SUPPLY_EVERY_NS;
    c->sweeps.every_ns = SWEEP_EVERY_NS;
    repl_result result = repl_pool_new(site->loop, 1, NICE_MAX, "repl-merge", &c->pool, err);
    if (!repl_ok(result)) {
        free(c);
        return result;
    }
    compactor_clock_begin(c);
    for (struct site_volume *v = site->volumes; v != NULL; v = v->next)
        site_compactor_leftovers(c, v);
    *out = c;
    return REPL_SUCCESS;
}

void site_compactor_stop(struct site_compactor *c)
{
    atomic_store(&c->stop, true);
}

const atomic_bool *site_compactor_merging(const struct site_compactor *c)
{
    return &c->merging;
}

bool site_compactor_is_busy(const struct site_compactor *c)
{
    return c->out || c->logging || c->removal_out || c->supply.out || c->supply.in_turn;
}

const char *site_compactor_doubt(const struct site_compactor *c)
{
    return c->doubt;
}

void site_compactor_free(struct site_compactor *c)
{
    if (c == NULL)
        return;
    ensure(!site_compactor_is_busy(c));
    if (c->waits != NULL)
        visit_end(c);
    compactor_supply_fini(&c->supply);
    repl_pool_free(c->pool);
    compactor_sweeps_fini(&c->sweeps);
    free(c->removals.items);
    free(c);
}
