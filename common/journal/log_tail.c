#include "journal/log_tail.h"

/* Of the append that the damaged record is of: a MERGE that is open, or that it may have been. A
 * log that begins with a CHECKPOINT was put in place whole. */
static bool is_of_append(const struct repl_journal *j, const struct repl_log_record *record)
{
    if (record->type != REPL_LOG_PIECE && record->type != REPL_LOG_GONE)
        return false;
    if (j->group_left == 0)
        return j->exists;
    return !j->in_checkpoint && record->number <= j->record_number + j->group_left;
}

bool repl_log_goes_on(const struct repl_journal *journal, const uint8_t *log, size_t size,
                      size_t at)
{
    for (size_t offset = at + 1; offset < size; offset++) {
        struct repl_log_record record;
        size_t record_size;
        if (repl_ok(
                repl_log_record_decode(log + offset, size - offset, &record, &record_size, NULL)) &&
            record.number > journal->record_number && !is_of_append(journal, &record))
            return true;
    }
    return false;
}
