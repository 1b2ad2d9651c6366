/*
 * Where a replica stands in the journal, by the index.
 */
#include "base/hash.h"
#include "site/replica/replica_internal.h"

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

repl_result replica_reached_check(struct repl_replica *r, const struct repl_head *reached,
                                  bool *known, struct repl_error *err)
{
    bool complete = true;
    REPL_TRY(index_has(r, reached, known, err));
    if (!*known && r->step_goal.to_seq != 0)
        REPL_TRY(index_has(r, &r->step_goal, &complete, err));
    if (!complete)
        return repl_fail(err, REPL_E_RETRY, "the index of volume %s is being made anew", r->volume);
    return REPL_SUCCESS;
}

repl_result replica_start_find(struct repl_replica *r, struct repl_head *from, bool *full,
                               struct repl_error *err)
{
    struct repl_head at = *from;
    *full = false;
    for (bool more = true; more;) {
        struct repl_segments_page page;
        struct repl_head before = at;
        REPL_TRY(repl_index_segments(r->index, r->volume, at.to_seq, at.part, &page, err));
        for (uint32_t i = 0;
             i < page.count && !replica_is_before(&r->step_goal, &page.entries[i].head); i++) {
            const struct repl_head *head = &page.entries[i].head;
            /* The history begins with a full, whatever merges have made of it. */
            if (page.entries[i].begins || (before.to_seq == 0 && head->from_seq == 0)) {
                *from = before;
                *full = true;
            }
            before = *head;
        }
        at = page.count > 0 ? page.entries[page.count - 1].head : at;
        more = page.more && replica_is_before(&at, &r->step_goal);
        repl_segments_page_fini(&page);
    }
    return REPL_SUCCESS;
}
