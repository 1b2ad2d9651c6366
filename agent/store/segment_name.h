/*
 * The names that segments have in a store, as files or as objects:
 *
 *   TO.PART.seg    TO.PART.N.sup    TO.PART.MERGE.mrg
 *
 * with numbers padded by zeros to 20, 6, 3 and 20 digits, so that sorting by
 * name sorts by order. In paths of the wire protocol and in messages they are
 *
 *   TO.PART        TO.PART.N        TO.PART.mMERGE
 *
 * without leading zeros.
 */
#ifndef REPL_AGENT_SEGMENT_NAME_H
#define REPL_AGENT_SEGMENT_NAME_H

#include "store/store.h"

/* What fits the padding; more would not sort. */
#define REPL_SEGMENT_PART_MAX   999999u
#define REPL_SEGMENT_SUPPLY_MAX 999u

#define REPL_SEGMENT_NAME_SIZE    64u
#define REPL_SEGMENT_ID_TEXT_SIZE 64u

/* REPL_E_REFUSED: part or supply is too large for a name. */
REPL_RESULT repl_segment_id_check(const struct repl_segment_id *id, struct repl_error *err);
void repl_segment_name_format(const struct repl_segment_id *id, char name[REPL_SEGMENT_NAME_SIZE]);
/* Only a name that repl_segment_name_format would give is one. */
bool repl_segment_name_parse(const char *name, struct repl_segment_id *out);
/* "12.0", "12.0.3", "12.0.m7" */
void repl_segment_id_text(const struct repl_segment_id *id, char text[REPL_SEGMENT_ID_TEXT_SIZE]);
/* Only a text that repl_segment_id_text would give is one. */
bool repl_segment_id_parse(const char *text, struct repl_segment_id *out);
/* By (to, part), as a chain goes; then by merge and supply. */
int repl_segment_id_order(const struct repl_segment_id *a, const struct repl_segment_id *b);
/* Fills the label of an open segment. */
void repl_stored_segment_label(struct repl_stored_segment *segment, const char *volume,
                               const struct repl_segment_id *id);

#endif
