/*
 * Fulls: segments from 0, which say all there is and need nothing of what is before
 * them. The first one seeds the volume; of a tree another is begun where what it has
 * said is not known any more; and of either where somebody asks for it, as the site
 * has lost a segment that everything behind it needs.
 */
#include "pipeline_internal.h"

/* --- what the next segment is ----------------------------------------------------------------- */

static bool is_unfinished(const struct repl_head *tail)
{
    return !tail->has_point && tail->to_seq != 0;
}

bool repl_pipeline_is_torn(const struct repl_pipeline *p)
{
    const struct repl_pipeline_records *records = p->options.records;
    struct repl_head tail = repl_ship_tail(&p->ship);
    if (!is_unfinished(&tail) || records == NULL)
        return false;
    return tail.from_seq != 0 ? p->full_wanted : records->are_torn(records->context, tail.to_seq);
}

bool repl_pipeline_continues(const struct repl_pipeline *p)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    return is_unfinished(&tail) && !repl_pipeline_is_torn(p);
}

bool repl_pipeline_is_full(const struct repl_pipeline *p)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    if (p->builder != NULL)
        return repl_ship_find(&p->ship, p->number)->from_seq == 0;
    if (repl_pipeline_continues(p))
        return tail.from_seq == 0;
    return p->full_wanted || tail.to_seq == 0 || is_unfinished(&tail);
}

/* --- a full behind the first ----------------------------------------------------------------- */

static bool is_full_under_way(const struct repl_pipeline *p)
{
    struct repl_head tail = repl_ship_tail(&p->ship);
    bool is = p->full_asked || p->full_wanted || tail.to_seq == 0 ||
              (tail.from_seq == 0 && !tail.has_point);
    for (const struct repl_pipeline_segment *s = p->segments.oldest; s != NULL; s = s->next)
        is |= repl_ship_find(&p->ship, s->number)->from_seq == 0;
    return is;
}

bool repl_pipeline_send_full(struct repl_pipeline *p, int64_t now_ns)
{
    if (is_full_under_way(p))
        return false;
    p->full_asked = true;
    repl_pipeline_full_next(p, now_ns);
    return true;
}

/* Not while anything is built or read that was compared with what is about to be forgotten. And
 * since a power cut may bring back what was forgotten, none of the full is said before that is
 * durable: whoever goes on with it after a crash knows of no page but by what the full has said. */
void repl_pipeline_full_next(struct repl_pipeline *p, int64_t now_ns)
{
    if (!p->full_asked || p->round.phase != REPL_ROUND_NONE || p->round.batches_out > 0 ||
        p->builder != NULL || repl_pipeline_continues(p) || p->coalescing || p->recovering ||
        p->stopping)
        return;
    repl_digest_table_begin_anew(&p->table, p->number);
    repl_pipeline_all_dirty(p);
    p->full_asked = false;
    p->full_wanted = p->full_marked = true;
    p->checkpoint_void = true; /* of what was known before */
    p->forget_due = true;
    p->epoch.at_point = false;
    repl_epoch_hurry(&p->epoch, now_ns);
}

/* A point is complete. Where it is that of parts which were found to be there when a full of a
 * block volume was about to begin, what was to be said in the full has gone into it. */
void repl_pipeline_full_note(struct repl_pipeline *p, bool full)
{
    bool instead = !full && p->options.records == NULL && p->full_wanted;
    if (full || instead)
        p->full_wanted = p->full_asked = false;
    p->full_asked |= instead;
}

/* --- the round that begins one ---------------------------------------------------------------- */

/* A round that begins a full says all there is, also what the segments before it say: some of them
 * may be on their way, or have been made since the start to complete a point that was begun before.
 */
void repl_pipeline_full_mark(struct repl_pipeline *p)
{
    if (p->builder == NULL && !repl_pipeline_continues(p))
        repl_digest_table_begin_anew(&p->table, p->number);
    repl_round_set_all(&p->round);
    p->full_marked = true;
}
