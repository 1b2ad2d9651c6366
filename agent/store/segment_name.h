/*
 * The names that segments have in a store, as files or as objects:
 *
 *   TO.PART.seg    TO.PART.N.sup
 *
 * with numbers padded by zeros to 20, 6 and 3 digits, so that sorting by name
 * sorts by order.
 */
#ifndef REPL_AGENT_SEGMENT_NAME_H
#define REPL_AGENT_SEGMENT_NAME_H

#include "store/store.h"

/* What fits the padding; more would not sort. */
#define REPL_SEGMENT_PART_MAX   999999u
#define REPL_SEGMENT_SUPPLY_MAX 999u

#define REPL_SEGMENT_NAME_SIZE    48u
#define REPL_SEGMENT_ID_TEXT_SIZE 48u

/* REPL_E_REFUSED: part or supply is too large for a name. */
REPL_RESULT repl_segment_id_check(const struct repl_segment_id *id, struct repl_error *err);
void repl_segment_name_format(const struct repl_segment_id *id, char name[REPL_SEGMENT_NAME_SIZE]);
/* Only a name that repl_segment_name_format would give is one. */
bool repl_segment_name_parse(const char *name, struct repl_segment_id *out);
/* "12.0", or "12.0.3" of a supply: for messages. */
void repl_segment_id_text(const struct repl_segment_id *id, char text[REPL_SEGMENT_ID_TEXT_SIZE]);
/* Fills the label of an open segment. */
void repl_stored_segment_label(struct repl_stored_segment *segment, const char *volume,
                               const struct repl_segment_id *id);

#endif
