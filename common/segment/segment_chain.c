#include "segment/segment_chain.h"

#include "base/hash.h"

static bool numbers_continue(const struct repl_segment_link *older,
                             const struct repl_segment_header *n)
{
    const struct repl_segment_header *o = older->header;
    if (older->has_point)
        return n->part == 0 &&
               (n->from_seq == o->to_seq || (n->from_seq == 0 && n->to_seq > o->to_seq));
    return n->from_seq == o->from_seq && n->to_seq == o->to_seq && n->part > 0 &&
           n->part - 1 == o->part;
}

repl_result repl_segment_chain_check(const struct repl_segment_link *older,
                                     const struct repl_segment_header *newer,
                                     struct repl_error *err)
{
    const char *wrong = NULL;
    if (!repl_uuid_equal(&older->header->volume, &newer->volume))
        wrong = "it is of another volume";
    else if (older->header->kind != REPL_SEGMENT_CHANGES || newer->kind != REPL_SEGMENT_CHANGES)
        wrong = "one of them carries only chunks";
    else if (!numbers_continue(older, newer))
        wrong = "something lies between them";
    else if (!repl_digest_equal(&older->digest, &newer->prev))
        wrong = "it names another segment as the one before it";
    if (wrong == NULL)
        return REPL_SUCCESS;
    return repl_fail(err, REPL_E_CORRUPT,
                     "segment (%llu, %llu].%u does not follow (%llu, %llu].%u: %s",
                     (unsigned long long)newer->from_seq, (unsigned long long)newer->to_seq,
                     newer->part, (unsigned long long)older->header->from_seq,
                     (unsigned long long)older->header->to_seq, older->header->part, wrong);
}
