/*
 * The end of a volume's log, as it is found after a crash.
 *
 * What is appended at once may be torn: a record, or a MERGE with all that belongs
 * to it, of which a disk may have kept any part. It was acknowledged to nobody and
 * is cut off. Whatever lies behind an append was written after that was durable, so
 * a whole record behind one that does not decode tells damage from a torn end,
 * unless both may have been of one append.
 */
#ifndef REPL_LOG_TAIL_H
#define REPL_LOG_TAIL_H

#include "journal/journal.h"

/* Whether a later append is to be seen behind the record at `at`, which does not decode. journal:
 * the fold of all before it. */
bool repl_log_goes_on(const struct repl_journal *journal, const uint8_t *log, size_t size,
                      size_t at);

#endif
