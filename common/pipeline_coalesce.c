/*
 * A spool that fills while the link is down: neighbouring segments become one,
 * without what was superseded, and the points between are kept as times only.
 * What is left when that gains nothing more is the tracker's map: no round is
 * opened while the spool is full.
 *
 * A merged segment has another digest, so what follows it would not: the run
 * reaches to the end of the chain, and nothing is opened while it is merged. A
 * segment the site may have got whole is never part of one.
 */
#include "pipeline_internal.h"

#include <stdlib.h>

#include "base/ensure.h"

/* Of the spool's limit: from when on, what makes it worth it, and how much more there must be
 * before it is tried again. */
#define BEGIN_SHARE 2
#define WORTH_SHARE 8
#define AGAIN_SHARE 8

struct run {
    struct repl_pipeline_segment *first;
    uint64_t bytes, count;
};

static bool is_free(const struct repl_pipeline *p, const struct repl_pipeline_segment *segment)
{
    return segment->kept == 0 && segment->number > p->released &&
           !repl_ship_in_flight(&p->ship, segment->number);
}

static bool begins_increment(const struct repl_pipeline *p,
                             const struct repl_pipeline_segment *segment)
{
    const struct repl_ship_segment *s = repl_ship_find(&p->ship, segment->number);
    return s != NULL && s->complete && s->part == 0;
}

/* The longest that reaches to the end and fits beside what is there. */
static struct run run_find(const struct repl_pipeline *p, uint64_t room)
{
    struct run run = {0};
    for (struct repl_pipeline_segment *s = p->segments.oldest; s != NULL; s = s->next) {
        if (!is_free(p, s))
            run = (struct run){0};
        else if (run.first == NULL)
            run = begins_increment(p, s) ? (struct run){s, s->size, 1} : run;
        else
            run = (struct run){run.first, run.bytes + s->size, run.count + 1};
    }
    while (run.first != NULL && run.bytes > room) {
        do {
            run.bytes -= run.first->size;
            run.count--;
            run.first = run.first->next;
        } while (run.first != NULL && !begins_increment(p, run.first));
    }
    return run;
}

static bool may_coalesce(const struct repl_pipeline *p)
{
    enum repl_round_phase phase = p->round.phase;
    bool between = phase == REPL_ROUND_NONE || (phase == REPL_ROUND_OPENING && p->open_due);
    return !p->coalescing && !p->stopping && !p->recovering && between && p->builder == NULL &&
           p->segments.oldest != NULL && p->ship.state == REPL_SHIP_DOWN &&
           repl_ship_tail(&p->ship).has_point;
}

bool repl_pipeline_coalesce_next(struct repl_pipeline *p, struct repl_pipeline_action *action)
{
    uint64_t limit = p->options.spool_limit_bytes, used = p->spool_bytes + p->kept_bytes;
    if (used < limit / BEGIN_SHARE) {
        p->coalesce_at_bytes = limit / BEGIN_SHARE;
        return false;
    }
    if (used < p->coalesce_at_bytes || !may_coalesce(p))
        return false;
    p->coalesce_at_bytes = used + limit / AGAIN_SHARE;
    struct run run = run_find(p, used < limit ? limit - used : 0);
    if (run.count < 2 || run.bytes < limit / WORTH_SHARE)
        return false;
    p->coalescing = true;
    p->coalesce_first = run.first->number;
    p->coalesce_last = p->number;
    p->coalesce_bytes = run.bytes;
    *action = (struct repl_pipeline_action){.type = REPL_PIPELINE_COALESCE,
                                            .number = p->coalesce_first,
                                            .last = p->coalesce_last,
                                            .into = ++p->number};
    return true;
}

repl_result repl_pipeline_run(const struct repl_pipeline *p, uint64_t first,
                              struct repl_buffer *numbers, struct repl_error *err)
{
    for (const struct repl_pipeline_segment *s = p->segments.oldest; s != NULL; s = s->next) {
        if (s->number >= first)
            REPL_TRY(repl_buffer_append(numbers, &s->number, sizeof s->number, err));
    }
    return REPL_SUCCESS;
}

/* NULL: the run is not all there any more, or no longer nobody's but ours. */
static struct repl_pipeline_segment *run_first(struct repl_pipeline *p)
{
    struct repl_pipeline_segment *first = p->segments.oldest;
    while (first != NULL && first->number != p->coalesce_first)
        first = first->next;
    for (const struct repl_pipeline_segment *s = first; s != NULL; s = s->next) {
        if (!is_free(p, s))
            return NULL;
    }
    return first != NULL && p->segments.newest->number == p->coalesce_last && p->builder == NULL
               ? first
               : NULL;
}

static repl_result run_replace(struct repl_pipeline *p, struct repl_pipeline_segment *first,
                               const struct repl_ship_segment *merged)
{
    struct repl_pipeline_segment *into = calloc(1, sizeof *into);
    if (into == NULL)
        return (repl_result){REPL_E_NOMEM};
    for (const struct repl_pipeline_segment *s = first; s != NULL; s = s->next) {
        repl_result result =
            repl_buffer_append(&into->digests, s->digests.data, s->digests.size, NULL);
        if (!repl_ok(result)) {
            repl_buffer_fini(&into->digests);
            free(into);
            return result;
        }
    }
    const struct repl_batch_digest *digests = (const void *)into->digests.data;
    for (size_t i = 0; i < into->digests.size / sizeof *digests; i++)
        repl_digest_table_sent(&p->table, digests[i].page, &digests[i].digest, merged->number);
    p->digest_bytes += into->digests.size;
    for (struct repl_pipeline_segment *s = first, *next; s != NULL; s = next) {
        next = s->next;
        into->point = s->point;
        into->resync |= s->resync;
        into->full |= s->full;
        into->stamp = into->stamp != 0 ? into->stamp : s->stamp;
        into->settled = s->stamp != 0 ? s->settled : into->settled;
        p->spool_bytes -= s->size;
        repl_pipeline_drop(p, s->number);
        repl_pipeline_segment_free(p, &p->segments, s);
    }
    into->number = merged->number;
    into->size = merged->size;
    p->spool_bytes += merged->size;
    repl_pipeline_list_add(&p->segments, into);
    repl_ship_replace(&p->ship, p->coalesce_first, merged);
    return REPL_SUCCESS;
}

bool repl_pipeline_coalesced(struct repl_pipeline *p, repl_result result, uint64_t number,
                             const struct repl_segment_header *header,
                             const struct repl_segment_footer *footer)
{
    ensure(p->coalescing);
    p->coalescing = false;
    struct repl_pipeline_segment *first = repl_ok(result) ? run_first(p) : NULL;
    if (first == NULL || footer->file_size > p->coalesce_bytes / 4 * 3)
        return false;
    const struct repl_ship_segment merged = {.number = number,
                                             .from_seq = header->from_seq,
                                             .to_seq = header->to_seq,
                                             .part = header->part,
                                             .created_ns = header->created_ns,
                                             .prev = header->prev,
                                             .complete = true,
                                             .has_point = footer->point_count > 0,
                                             .digest = footer->digest,
                                             .size = footer->file_size};
    if (!repl_ok(run_replace(p, first, &merged)))
        return false;
    p->coalesced_points += footer->point_count - 1;
    p->coalesce_at_bytes =
        p->spool_bytes + p->kept_bytes + p->options.spool_limit_bytes / AGAIN_SHARE;
    return true;
}
