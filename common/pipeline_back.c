/*
 * A site that has less than it had: nothing of the volume any more, or a history
 * that ends before what it has acknowledged, as it was put back from a copy. What
 * the digest table says of the pages behind that end is of a history that is no
 * more, and the table does not tell which those are: all of it is forgotten, and
 * the volume compared with what the site has.
 *
 * That is not durable before the next checkpoint. So until then the state has
 * none, and whoever starts from it believes nothing in the table.
 */
#include "pipeline_internal.h"

#include <stdio.h>

#include "base/hash.h"

int repl_pipeline_place_of(const struct repl_source_state *state, const struct repl_digest *head)
{
    if (repl_digest_equal(&state->checkpoint.digest, head))
        return 0;
    for (uint32_t i = 0; i < state->sent_count; i++) {
        if (repl_digest_equal(&state->sent[i].digest, head))
            return 1 + (int)i;
    }
    return -1;
}

/* Whatever the site is found to hold, it may be something newer. */
static void acknowledged_forget(struct repl_pipeline *p)
{
    while (p->acknowledged.oldest != NULL) {
        struct repl_pipeline_segment *segment = p->acknowledged.oldest;
        const struct repl_batch_digest *digests = (const void *)segment->digests.data;
        for (size_t i = 0; i < segment->digests.size / sizeof *digests; i++) {
            repl_digest_table_dropped(&p->table, digests[i].page, segment->number);
            repl_digest_table_forget(&p->table, digests[i].page, 1);
            repl_bitmap_set(&p->round.dirty, digests[i].page, 1);
        }
        repl_pipeline_segment_free(p, &p->acknowledged, segment);
    }
}

void repl_pipeline_drop_all(struct repl_pipeline *p)
{
    repl_pipeline_abandon(p);
    while (p->segments.oldest != NULL)
        repl_pipeline_give_up(p, p->segments.oldest);
    acknowledged_forget(p);
    p->lost.size = 0;
    p->spool_bytes = 0;
    p->point_changed_bytes = 0;
}

/* The site has nothing of this volume any more: a new chain, everything anew. */
void repl_pipeline_restart(struct repl_pipeline *p, int64_t now_ns)
{
    repl_pipeline_drop_all(p);
    repl_digest_table_forget(&p->table, 0, p->table.page_count);
    p->state.checkpoint = (struct repl_head){0};
    p->state.sent_count = p->state.acknowledged_count = 0;
    repl_pipeline_site_point(p, &(struct repl_point){0});
    p->state_due = true;
    if (p->epoch.next_seq < p->state.next_seq)
        p->epoch.next_seq = p->state.next_seq;
    repl_ship_restarted(&p->ship);
    p->greeted = true;
    p->recovering = false;
    repl_pipeline_all_dirty(p);
    repl_pipeline_round_void(p, now_ns);
    repl_pipeline_resync(p, now_ns);
}

/* --- put back -----------------------------------------------------------------------------------
 */

/* The furthest along the chain that something here takes for the site's. */
static int place_believed(const struct repl_pipeline *p)
{
    int acknowledged = (int)p->state.acknowledged_count;
    int settled = p->audited && p->audit.base.completed_known != 0
                      ? repl_pipeline_place_of(&p->state, &p->settled_head)
                      : 0;
    return acknowledged > settled ? acknowledged : settled;
}

bool repl_pipeline_is_unknown(const struct repl_pipeline *p, const struct repl_welcome *welcome)
{
    return welcome->known && repl_pipeline_place_of(&p->state, &welcome->head.digest) < 0;
}

bool repl_pipeline_site_went_back(const struct repl_pipeline *p, const struct repl_welcome *welcome,
                                  bool remembered)
{
    int place = repl_pipeline_place_of(&p->state, &welcome->head.digest);
    return p->greeted && welcome->known &&
           (place < 0 ? remembered : place < (int)p->state.acknowledged_count);
}

void repl_pipeline_site_put_back(struct repl_pipeline *p, const struct repl_head *head,
                                 int64_t now_ns)
{
    repl_pipeline_drop_all(p);
    repl_ship_put_back(&p->ship, head);
    p->comparing = p->audited;
    snprintf(p->degraded_cause, sizeof p->degraded_cause,
             "the site's history is shorter than it was; was it put back?");
    p->state.checkpoint = (struct repl_head){0};
    p->state.sent[0] = *head;
    p->state.sent_count = p->state.acknowledged_count = 1;
    p->state_due = true;
    repl_pipeline_site_point(p, &(struct repl_point){0});
    p->full_wanted = p->options.records != NULL; /* what it has been told is not kept */
    repl_digest_table_forget(&p->table, 0, p->table.page_count);
    repl_pipeline_all_dirty(p);
    repl_pipeline_round_void(p, now_ns);
    repl_pipeline_resync(p, now_ns);
}

/* The site had more, when a digest was noted or the tracking was settled: what is behind its head
 * is at neither end. */
void repl_pipeline_site_found(struct repl_pipeline *p, const struct repl_head *head, int64_t now_ns)
{
    int place = repl_pipeline_place_of(&p->state, &head->digest);
    if (place >= 0 && place < place_believed(p))
        repl_pipeline_site_put_back(p, head, now_ns);
}
