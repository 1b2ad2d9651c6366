/*
 * When a segment or supply at the site was last read whole: one record for each
 * reading, one behind the other in the file "verified" of the volume's directory
 * (docs/formats/state.md). Losing any of it means reading again, nothing else.
 */
#ifndef REPL_VERIFIED_RECORD_H
#define REPL_VERIFIED_RECORD_H

#include "base/cursor.h"
#include "repl/error.h"
#include "repl/format.h"

#define REPL_VERIFIED_RECORD_SIZE 48u

struct repl_verified {
    uint64_t to_seq, merge; /* merge 0: as it was received, or a supply */
    uint32_t part, supply;
    int64_t time_ns; /* the site's clock */
    bool damaged;    /* it was not what it should be then */
};

void repl_verified_encode(const struct repl_verified *verified,
                          uint8_t out[REPL_VERIFIED_RECORD_SIZE]);
/* REPL_E_CORRUPT: it is not one; REPL_E_VERSION: one of a later release. */
REPL_RESULT repl_verified_decode(const uint8_t in[REPL_VERIFIED_RECORD_SIZE],
                                 struct repl_verified *out, struct repl_error *err);

/* By (to, part), then by merge and supply: as segments are ordered. */
int repl_verified_order(const struct repl_verified *a, const struct repl_verified *b);

/* --- many of them ---------------------------------------------------------------------------- */

/* Of each segment the last record, in order. Zero-initialise. */
struct repl_verified_list {
    struct repl_verified *items;
    size_t count;
};
void repl_verified_list_fini(struct repl_verified_list *list);

/* Appends all of them to *bytes, as the file has them. */
REPL_RESULT repl_verified_list_write(const struct repl_verified_list *list,
                                     struct repl_buffer *bytes, struct repl_error *err);
/* What the file holds. *whole: the bytes up to the first record that is none, which a torn append
 * leaves: what is behind it is not looked at. */
REPL_RESULT repl_verified_list_read(const uint8_t *bytes, size_t size,
                                    struct repl_verified_list *out, size_t *whole,
                                    struct repl_error *err);
/* Puts them in order, where somebody else has filled it. */
void repl_verified_list_sort(struct repl_verified_list *list);
/* The one of the same segment; NULL: there is none. */
const struct repl_verified *repl_verified_list_find(const struct repl_verified_list *list,
                                                    const struct repl_verified *key);

#endif
