#include "journal/merge_times.h"

struct merged {
    uint64_t number, from_seq, to_seq;
    int64_t time_ns;
};

void repl_merge_times_fini(struct repl_merge_times *times)
{
    repl_buffer_fini(&times->merges);
    *times = (struct repl_merge_times){0};
}

repl_result repl_merge_times_apply(struct repl_merge_times *times,
                                   const struct repl_log_record *record, struct repl_error *err)
{
    if (record->type == REPL_LOG_CHECKPOINT) {
        times->checkpoint_number = record->number;
        times->checkpoint_ns = record->time_ns;
    }
    if (record->type != REPL_LOG_MERGE)
        return REPL_SUCCESS;
    const struct merged merged = {.number = record->number,
                                  .from_seq = record->merge.from_seq,
                                  .to_seq = record->merge.to_seq,
                                  .time_ns = record->time_ns};
    return repl_buffer_append(&times->merges, &merged, sizeof merged, err);
}

int64_t repl_merge_times_find(const struct repl_merge_times *times, uint64_t to_seq, uint64_t merge)
{
    const struct merged *all = (const struct merged *)(const void *)times->merges.data;
    /* The number of a merge is never below that of its record. */
    int64_t found_ns = merge < times->checkpoint_number ? times->checkpoint_ns : 0;
    for (size_t i = 0; i < times->merges.size / sizeof *all; i++) {
        if (all[i].number <= merge || to_seq <= all[i].from_seq || to_seq > all[i].to_seq)
            continue;
        found_ns = all[i].time_ns;
        if (all[i].from_seq > 0)
            break; /* all of the run went */
    }
    return found_ns;
}
