/*
 * The pages a volume's rounds have to read, and the batches that are out for
 * them.
 *
 * A page is always in one of four places: dirty (to be read), in a batch, in a
 * segment whose digests are pending, or at the site as it is on the device. What
 * comes back from a batch that failed, or was read for nothing, is dirty again;
 * so is what was in a segment that is given up. That is all that keeps a page
 * from being forgotten, and why nobody else clears a dirty bit.
 *
 * A small round is parked: all of its batches are read before the first is
 * reduced, so that the round is as short as reading is, and one that is torn has
 * cost neither processor time nor a byte on the link. Nor is it read again: its
 * batches stay as they are, and the next round reads, into their places, only
 * those pages that were written since, and into what room there is those that
 * are new. So each round of a row takes as long as the one before it let pages
 * get dirty, and soon fits between two flushes (pre-copy, as in live migration:
 * Clark et al., NSDI 2005).
 */
#ifndef REPL_CAPTURE_ROUND_H
#define REPL_CAPTURE_ROUND_H

#include "base/bitmap.h"
#include "capture/batch.h"
#include "capture/digest_table.h"

/* What to do with a batch that has been read. */
enum repl_batch_fate {
    REPL_BATCH_WAIT,    /* ask again after the next event; till then it may be filled again */
    REPL_BATCH_REDUCE,  /* then hand it in */
    REPL_BATCH_DISCARD, /* hand it in without reducing */
};

enum repl_round_phase {
    REPL_ROUND_NONE,
    REPL_ROUND_QUIESCING, /* until the filesystem is frozen, the command has run */
    REPL_ROUND_OPENING,   /* until the counters of its beginning are known */
    REPL_ROUND_READING,
    REPL_ROUND_CLOSING,  /* all is read: until the counters of its end are known */
    REPL_ROUND_DRAINING, /* torn: until no batch is out, for the next one */
    REPL_ROUND_PROVING,  /* whole: until all is reduced, audited and resumed */
    REPL_ROUND_TELLING,  /* of a tree: until no more records are left than fit into one segment */
    REPL_ROUND_CUTTING,  /* and until the others of its group are */
};

struct repl_round {
    enum repl_round_phase phase;
    struct repl_bitmap dirty; /* a bit a page */
    uint64_t next_page;       /* where to look for the next dirty one */
    uint64_t page_count;      /* dirty at its beginning */
    uint32_t reads_out;       /* batches handed out, and not yet read */
    uint32_t batches_out;
    struct repl_batch *parked_batches; /* of these, read: a list in no order */
    uint32_t stale;                    /* of these, with pages that have to be read again */
    bool parked;
    bool torn;    /* what is parked is of no use */
    bool is_void; /* what it reads is no point: an error, or what it compares with is gone */
};

REPL_RESULT repl_round_init(struct repl_round *round, uint64_t page_count, struct repl_error *err);
void repl_round_fini(struct repl_round *round);
/* New pages are dirty. */
REPL_RESULT repl_round_grow(struct repl_round *round, uint64_t page_count, struct repl_error *err);

void repl_round_set_all(struct repl_round *round);
/* No batch is out but those that are parked. */
void repl_round_begin(struct repl_round *round, bool parked);
/* Pages in parked batches. */
uint64_t repl_round_parked_pages(const struct repl_round *round);

/* Moves dirty pages into a batch that was handed in, or is parked; what is to be read for it is
 * then in batch->reads. False: nothing. */
bool repl_round_fill(struct repl_round *round, const struct repl_digest_table *table,
                     struct repl_batch *batch);
/* Nothing is dirty, nor being read. */
bool repl_round_is_read(const struct repl_round *round);
/* All of batch->reads have been read, or could not be. */
void repl_round_batch_read(struct repl_round *round, struct repl_batch *batch);
enum repl_batch_fate repl_round_batch_fate(const struct repl_round *round,
                                           const struct repl_batch *batch);
/* A batch is handed in. taken: its pages are in a segment or were found unchanged; else they are
 * dirty again. */
void repl_round_batch_back(struct repl_round *round, struct repl_batch *batch, bool taken);

#endif
