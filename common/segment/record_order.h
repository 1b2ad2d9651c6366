/*
 * The order of a manifest's records, and what one says of another: what
 * docs/formats/segment.md (section 6) asks of the manifest as a whole. Writers
 * are held to it as readers are.
 *
 *   object 1    OBJECT, then DATA, CHUNK and ZERO by offset
 *   each other  by number: NODE, XATTRs by name, NAMEs by hash and name, RUNs
 *               and HOLEs by offset
 */
#ifndef REPL_RECORD_ORDER_H
#define REPL_RECORD_ORDER_H

#include "repl/error.h"
#include "repl/format.h"

struct repl_record_order {
    uint64_t space_size; /* of object 1 */
    uint64_t object;     /* of the record before; 0: there was none */
    enum repl_record_type type;
    uint64_t offset, end; /* NAME; of an extent */
    bool node_known;      /* the object's NODE is in this segment: */
    enum repl_node_kind kind;
    uint64_t size;
    char name[REPL_NAME_MAX];
    uint32_t name_size;
    bool partial; /* of this object some records were passed over */
};

/* The order of names, as bytes: less than, equal to or greater than 0. */
int repl_name_compare(const char *a, size_t a_size, const char *b, size_t b_size);

/* Records are passed over, up to some of this object. */
void repl_record_order_skip(struct repl_record_order *order, uint64_t object);
/* The next one, which a decoder has taken; REPL_E_CORRUPT. Starts with a zeroed order. */
REPL_RESULT repl_record_order_next(struct repl_record_order *order,
                                   const struct repl_record *record, struct repl_error *err);

#endif
