/*
 * Supplies whose files are gone, and which nobody has removed: no log lists them, so
 * that is seen by what was known of them, or has been read once, and the index says
 * that chunks lie in them still. What the compactor removes leaves the index first.
 *
 * That takes a walk over all places of the pool: only where something is not there any
 * more that was.
 */
#include "site/scrub/scrub_internal.h"

static bool some_are_gone(const struct scrub_visit *visit)
{
    for (size_t i = 0; i < visit->supply_count; i++) {
        if (!scrub_visit_stores(visit, &visit->supplies[i]))
            return true;
    }
    for (size_t i = 0; i < visit->file.list.count; i++) {
        const struct repl_verified *verified = &visit->file.list.items[i];
        const struct repl_segment_id id = {
            .to_seq = verified->to_seq, .part = verified->part, .supply = verified->supply};
        if (id.supply != 0 && (visit->first || verified->damaged) &&
            !scrub_visit_stores(visit, &id))
            return true;
    }
    return false;
}

repl_result scrub_gone_find(struct scrub_visit *visit, struct repl_buffer *out, bool *looked,
                            struct repl_error *err)
{
    struct repl_buffer supplies = {0};
    *looked = some_are_gone(visit);
    if (!*looked)
        return REPL_SUCCESS;
    repl_result result = repl_index_supplies(visit->index, visit->volume, &supplies, err);
    const struct repl_segment_id *ids = (const void *)supplies.data;
    for (size_t i = 0; i < supplies.size / sizeof *ids && repl_ok(result); i++) {
        if (!scrub_visit_stores(visit, &ids[i]))
            result = repl_buffer_append(out, &ids[i], sizeof ids[i], err);
    }
    repl_buffer_fini(&supplies);
    return result;
}
