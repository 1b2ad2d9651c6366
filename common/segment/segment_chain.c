#include "segment/segment_chain.h"

#include "base/hash.h"

bool repl_segment_follows(const struct repl_head *older, uint64_t from, uint64_t to, uint32_t part)
{
    if (part == 0 && from == 0 && to > older->to_seq)
        return true;
    if (older->has_point)
        return part == 0 && from == older->to_seq;
    return from == older->from_seq && to == older->to_seq && part > 0 && part - 1 == older->part;
}

repl_result repl_segment_chain_check(const struct repl_segment_link *older,
                                     const struct repl_segment_header *newer,
                                     struct repl_error *err)
{
    const struct repl_head head = {.from_seq = older->header->from_seq,
                                   .to_seq = older->header->to_seq,
                                   .part = older->header->part,
                                   .has_point = older->has_point};
    const char *wrong = NULL;
    if (!repl_uuid_equal(&older->header->volume, &newer->volume))
        wrong = "it is of another volume";
    else if (older->header->kind != REPL_SEGMENT_CHANGES || newer->kind != REPL_SEGMENT_CHANGES)
        wrong = "one of them carries only chunks";
    else if (!repl_segment_follows(&head, newer->from_seq, newer->to_seq, newer->part))
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
