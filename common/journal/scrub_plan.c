#include "journal/scrub_plan.h"

#include <stdlib.h>

static int item_order(const void *a, const void *b)
{
    const struct repl_scrub_item *x = a, *y = b;
    if (x->verified_ns != y->verified_ns)
        return x->verified_ns < y->verified_ns ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

void repl_scrub_sort(struct repl_scrub_item *items, size_t count)
{
    qsort(items, count, sizeof *items, item_order);
}

uint64_t repl_scrub_rate(const struct repl_scrub_item *items, size_t count, int64_t every_ns,
                         int64_t now_ns, size_t *late)
{
    double most = 0, bytes = 0;
    *late = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t due_ns = items[i].verified_ns + (every_ns - every_ns / REPL_SCRUB_SLACK);
        if (due_ns <= now_ns) {
            *late = i + 1;
            continue;
        }
        bytes += (double)items[i].size_bytes;
        double rate = bytes / ((double)(due_ns - now_ns) / 1e9);
        most = rate > most ? rate : most;
    }
    return most >= 1e18 ? (uint64_t)1e18 : (uint64_t)most + 1;
}

int64_t repl_scrub_verified_ns(int64_t record_ns, int64_t committed_ns, int64_t every_ns,
                               int64_t now_ns)
{
    int64_t last_ns = record_ns > committed_ns && record_ns <= now_ns ? record_ns : committed_ns;
    return last_ns <= now_ns ? last_ns : now_ns - every_ns;
}

repl_result repl_scrub_list(const struct repl_chain *chain,
                            const struct repl_verified_list *records, int64_t now_ns,
                            struct repl_verified_list *out, struct repl_error *err)
{
    *out = (struct repl_verified_list){
        .items = calloc(chain->count + records->count + 1, sizeof *out->items)};
    if (out->items == NULL)
        return repl_fail(err, REPL_E_NOMEM, "out of memory for what was verified");
    for (size_t i = 0; i < chain->count; i++) {
        const struct repl_log_piece *entry = &chain->entries[i];
        struct repl_verified *item = &out->items[out->count++];
        *item = (struct repl_verified){
            .to_seq = entry->commit.to_seq, .part = entry->commit.part, .merge = entry->merge};
        const struct repl_verified *found = repl_verified_list_find(records, item);
        item->time_ns = repl_scrub_verified_ns(found != NULL ? found->time_ns : 0,
                                               entry->committed_ns, 0, now_ns);
        item->damaged = found != NULL && found->damaged;
    }
    for (size_t i = 0; i < records->count; i++) {
        if (records->items[i].supply != 0)
            out->items[out->count++] = records->items[i];
    }
    repl_verified_list_sort(out);
    return REPL_SUCCESS;
}
