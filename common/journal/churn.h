/*
 * How much has changed between two points: counted in the segments that say so,
 * and added up where points in between are given up.
 *
 * Of a segment: the bytes of its frames, before and after compression, so that
 * data which was read twice on the way to a point weighs the same in both; and
 * of chunks that go by name, which have no bytes in it, so many as the manifest
 * refers to.
 */
#ifndef REPL_CHURN_H
#define REPL_CHURN_H

#include "format/log_record.h"
#include "repl/format.h"
#include "segment/segment_reader.h"

/* What a segment's header and frames say. */
void repl_churn_begin(struct repl_churn *churn, const struct repl_segment *segment);
/* And a record of its manifest; own: it carries the chunk itself that the record names. */
void repl_churn_record(struct repl_churn *churn, const struct repl_record *record, bool own);

/* Adds what came later. Of troubles the worst stays, and of two as bad as each other the earlier.
 */
void repl_churn_add(struct repl_churn *sum, const struct repl_churn *later);

/* Of a merged run of the list of segments (chain.h), oldest first: of a base only its last one
 * counts, which has the sum. */
void repl_churn_merge(const struct repl_log_piece *entries, size_t count, struct repl_churn *out);

#endif
