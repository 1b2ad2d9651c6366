/*
 * How fast a volume's history has to be read so that none of it stays unread for
 * longer than a target age: as evenly as that allows.
 *
 * What was read longest ago comes first, and each segment is due so long after it
 * was last read. The pace is the least that is in time for all of them: the
 * most, over all beginnings of that order, of their bytes by the time that is
 * left until the last one is due. Whatever was taken in at once (a first copy) is
 * so spread over the whole age, and not read at once when that is over.
 */
#ifndef REPL_SCRUB_PLAN_H
#define REPL_SCRUB_PLAN_H

#include "format/verified_record.h"
#include "journal/chain.h"

/* A segment is due before the target age by one part in so many: what is late is nobody's plan. */
#define REPL_SCRUB_SLACK 10

struct repl_scrub_item {
    int64_t verified_ns; /* when it was last read whole */
    uint64_t size_bytes;
    size_t index; /* the caller's */
};

/* Sorts them: read longest ago first; of the same time, by index. */
void repl_scrub_sort(struct repl_scrub_item *items, size_t count);

/* Bytes a second, of sorted items. *late: so many of them, from the first, are due already: they
 * are to be read at once, and not in the rate. */
uint64_t repl_scrub_rate(const struct repl_scrub_item *items, size_t count, int64_t every_ns,
                         int64_t now_ns, size_t *late);

/* When it counts as last read, by what its record and its commit say. A time that is not over is no
 * time: a clock was ahead, and it is due. record_ns: 0: there is no record. */
int64_t repl_scrub_verified_ns(int64_t record_ns, int64_t committed_ns, int64_t every_ns,
                               int64_t now_ns);

/* When each segment of the chain, and each supply that there is a record of, was read last: by its
 * record or, newer, its commit. Damage is what the record says. */
REPL_RESULT repl_scrub_list(const struct repl_chain *chain,
                            const struct repl_verified_list *records, int64_t now_ns,
                            struct repl_verified_list *out, struct repl_error *err);

#endif
