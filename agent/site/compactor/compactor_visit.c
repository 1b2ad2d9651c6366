/*
 * A visit: what is there of a volume, which points the policy gives up, what is
 * to be merged by that or else swept; and the merge.
 *
 * Nothing is kept from one visit to the next: what was given up before is what
 * is not there any more, and the plan is made anew of what is. A dropped point
 * is told to it with the time at which it was due, so that a run rests as long
 * as if somebody had watched.
 */
#include <stdlib.h>
#include <string.h>

#include "base/ensure.h"
#include "journal/trouble.h"
#include "site/compactor/compactor_internal.h"
#include "site/site_chain.h"

/* A point's own time is believed where it could be: a source may have been cut off for a while. */
#define SOURCE_BEHIND_MAX_NS (INT64_C(90) * 86400 * 1000000000)

/* So many bytes of a run are merged at once; it becomes as many pieces as it takes. */
#define RUN_BYTES_MAX (UINT64_C(64) << 30)

void compactor_visit_fini(struct compactor_visit *visit)
{
    repl_chain_fini(&visit->chain);
    site_merge_result_fini(&visit->result);
    free(visit->remade);
    visit->remade = NULL;
    site_patch_free(visit->patch);
    visit->patch = NULL;
}

/* --- what there is --------------------------------------------------------------------------- */

static repl_result marks_read(struct compactor_visit *visit, struct repl_error *err)
{
    struct repl_log_mark *marks;
    size_t count;
    REPL_TRY(repl_index_marks(visit->index, visit->volume, &marks, &count, err));
    free(visit->chain.marks);
    visit->chain.marks = marks;
    visit->chain.mark_count = count;
    return REPL_SUCCESS;
}

/* --- which points are kept ------------------------------------------------------------------- */

/* By the source's clock where it says what can be; else by ours, when it came. */
static int64_t time_of(const struct repl_log_piece *entry)
{
    int64_t end_ns = entry->commit.point.end_ns, came_ns = entry->committed_ns;
    return end_ns > came_ns || end_ns < came_ns - SOURCE_BEHIND_MAX_NS ? came_ns : end_ns;
}

static unsigned protection_of(const struct compactor_visit *visit, uint64_t seq)
{
    unsigned protect = seq == visit->agreed_seq ? REPL_PROTECT_AGREED : 0;
    for (size_t i = 0; i < visit->chain.mark_count; i++) {
        const struct repl_log_mark *mark = &visit->chain.marks[i];
        if (mark->seq == seq)
            protect |= mark->kind == REPL_MARK_PROVEN ? REPL_PROTECT_PROVEN : REPL_PROTECT_HELD;
    }
    return protect;
}

static size_t points_list(const struct compactor_visit *visit, struct repl_retention_point *points)
{
    size_t count = 0;
    for (size_t i = 0; i < visit->chain.count; i++) {
        const struct repl_log_piece *entry = &visit->chain.entries[i];
        if (!repl_chain_has_point(&visit->chain, i))
            continue;
        points[count++] =
            (struct repl_retention_point){.seq = entry->commit.to_seq,
                                          .time_ns = time_of(entry),
                                          .protect = protection_of(visit, entry->commit.to_seq)};
    }
    if (count > 0)
        points[count - 1].protect |= REPL_PROTECT_NEWEST;
    repl_trouble_protect(&visit->chain, visit->now_ns, points, count);
    return count;
}

/* Tells the plan which points go. */
static repl_result points_drop(struct compactor_visit *visit, struct repl_merge_plan *plan,
                               struct repl_error *err)
{
    struct repl_retention_point *points = calloc(visit->chain.count + 1, sizeof *points);
    bool *keep = calloc(visit->chain.count + 1, sizeof *keep);
    if (points == NULL || keep == NULL) {
        free(points);
        free(keep);
        return repl_fail(err, REPL_E_NOMEM, "out of memory for %zu points", visit->chain.count);
    }
    size_t count = points_list(visit, points);
    repl_retention_pass(&visit->policy, points, count, 0, visit->now_ns, keep);
    for (size_t i = 0; i < count; i++) {
        const int64_t *before = i > 0 ? &points[i - 1].time_ns : NULL;
        int64_t until = repl_retention_until(&visit->policy, before, points[i].time_ns, NULL);
        if (!keep[i] && points[i].seq <= visit->reached_seq)
            repl_merge_plan_drop(plan, points[i].seq,
                                 until == REPL_RETENTION_NEVER ? points[i].time_ns : until);
    }
    free(points);
    free(keep);
    return REPL_SUCCESS;
}

/* --- what is merged -------------------------------------------------------------------------- */

static repl_result plan_fill(struct compactor_visit *visit, struct repl_merge_plan *plan,
                             struct repl_error *err)
{
    for (size_t i = 0; i < visit->chain.count; i++) {
        const struct repl_log_piece *entry = &visit->chain.entries[i];
        const struct repl_log_piece *next = i + 1 < visit->chain.count ? entry + 1 : NULL;
        /* Of a base that is many segments the plan sees one: the last, which has its point. */
        bool inner = entry->commit.from_seq == 0 && next != NULL && next->commit.from_seq == 0 &&
                     !next->begins;
        struct repl_merge_segment segment = {
            .from_seq = entry->commit.from_seq,
            .to_seq = entry->commit.to_seq,
            .part = entry->commit.from_seq == 0 ? 0 : entry->commit.part,
            .has_point = repl_chain_has_point(&visit->chain, i),
            .time_ns = time_of(entry),
            .file_size = entry->commit.file_size};
        if (!inner)
            REPL_TRY(repl_merge_plan_add(plan, &segment, err));
    }
    return visit->thin ? points_drop(visit, plan, err) : REPL_SUCCESS;
}

/* Where in the chain the run lies, and what of it is read: needless segments are not. */
static void run_find(struct compactor_visit *visit)
{
    const struct repl_merge *merge = &visit->merge;
    const struct repl_chain *chain = &visit->chain;
    size_t last = repl_chain_find_point(chain, merge->to_seq);
    ensure(last != SIZE_MAX);
    visit->end = last + 1;
    visit->first = merge->after_seq == 0 ? 0 : repl_chain_find_point(chain, merge->after_seq) + 1;
    size_t base = repl_chain_base_of(chain, last);
    visit->read_first = base > visit->first ? base : visit->first;
}

static repl_result referred(void *context, const struct repl_digest *name,
                            const struct repl_segment_id *without, size_t count, bool *out,
                            struct repl_error *err)
{
    const struct compactor_visit *visit = context;
    *out = visit->keep;
    if (visit->keep)
        return REPL_SUCCESS;
    return repl_index_is_referred(visit->index, visit->volume, name, without, count, out, err);
}

static void visit_pace(void *context, uint64_t bytes)
{
    site_pacer_spend(context, bytes);
}

static repl_result run_merge(struct compactor_visit *visit, struct repl_error *err)
{
    struct site_merge_options *o = &visit->options;
    run_find(visit);
    o->volume = visit->volume;
    o->entries = &visit->chain.entries[visit->read_first];
    o->entry_count = visit->end - visit->read_first;
    o->after_seq = visit->merge.after_seq;
    o->merge = visit->merge_number;
    o->needless_count = visit->read_first - visit->first;
    o->remade = visit->remade;
    o->patch = visit->patch;
    o->referred = referred;
    o->referred_context = visit;
    o->extents_max = SITE_PIECE_EXTENTS_MAX;
    o->raw_size_max = SITE_PIECE_RAW_SIZE_MAX;
    o->records_max = SITE_PIECE_RECORDS_MAX;
    o->pace = visit_pace;
    o->pace_context = &visit->pacer;
    if (visit->merge.size_bytes == 0) { /* only what is needless goes */
        REPL_TRY(site_merge_needless(o, &visit->result, &visit->reads, err));
        if (!visit->reads)
            return REPL_SUCCESS;
    }
    visit->reads = true;
    return site_merge_run(o, &visit->result, err);
}

bool compactor_visit_skips(const struct compactor_visit *visit, uint64_t after_seq, uint64_t to_seq)
{
    for (size_t i = 0; i < visit->skip_count; i++) {
        const struct compactor_skip *skip = &visit->skip[i];
        bool has = after_seq < skip->damaged_to && skip->damaged_to <= to_seq;
        if (skip->to_seq != 0 ? skip->to_seq == to_seq
                              : has && (skip->healed_seq == 0 || skip->healed_seq > to_seq))
            return true;
    }
    return false;
}

/* The next one that may be done: not beyond the replica, and not one that has failed lately. */
static bool merge_next(const struct compactor_visit *visit, struct repl_merge_plan *plan,
                       struct repl_merge *merge)
{
    while (repl_merge_plan_next(plan, visit->now_ns, merge)) {
        if (merge->to_seq <= visit->reached_seq &&
            !compactor_visit_skips(visit, merge->after_seq, merge->to_seq))
            return true;
    }
    return false;
}

static repl_result visit_do(struct compactor_visit *visit, struct repl_error *err)
{
    struct repl_merge_plan plan;
    struct repl_merge next;
    REPL_TRY(site_chain_read(visit->index, visit->volume, &visit->chain, err));
    REPL_TRY(marks_read(visit, err));
    repl_merge_plan_init(&plan, RUN_BYTES_MAX);
    repl_result result = plan_fill(visit, &plan, err);
    if (repl_ok(result)) {
        visit->found = merge_next(visit, &plan, &visit->merge);
        visit->more = visit->found && merge_next(visit, &plan, &next);
    }
    repl_merge_plan_fini(&plan);
    if (repl_ok(result) && !visit->found && visit->patch != NULL)
        result = compactor_patch_find(visit, err);
    if (repl_ok(result) && !visit->found && !visit->keep)
        result = compactor_sweep_find(visit, err);
    if (repl_ok(result) && visit->found) {
        atomic_store(visit->merging, true);
        result = run_merge(visit, err);
        atomic_store(visit->merging, false);
    }
    return result;
}

void compactor_visit_work(struct repl_job *job)
{
    struct site_compactor *c = job->context;
    struct compactor_visit *visit = &c->visit;
    visit->outcome = visit_do(visit, &visit->err);
}
