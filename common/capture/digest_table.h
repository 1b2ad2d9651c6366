/*
 * The page digests: what the site holds of every page, as far as the source
 * knows, so that a page rewritten with the same bytes is not sent and a resync
 * compares locally.
 *
 * 128 bits of SHA-256 a page, in memory the caller provides (a mapped file at
 * the source, the heap in a test). All zeros means unknown: the page is sent.
 *
 * The rule that keeps it true: an entry changes only when the site has
 * acknowledged the segment that carries the page. From the moment a page goes
 * into a segment until then it is pending: what counts is the digest it was sent
 * with last, kept in memory (sent_map.h), since the chain delivers that segment
 * before any later one. Where that is not known, or the segment was given up, a
 * pending page is unknown: the table still has the digest of what the site held
 * before, and a page that returns to those bytes must be sent all the same.
 *
 * Pending pages are kept as two bitmaps, one of segments up to a mark, one of
 * those behind it. When all up to the mark have been acknowledged, that bitmap
 * is cleared, the other takes its place and the mark moves to the newest
 * segment. A page of which it is known that it was sent last in the acknowledged
 * segment is pending no more at once; another may stay so longer than it must,
 * which costs sending it once more and nothing else.
 *
 * After a crash the table may be behind or ahead of the checkpoint by any
 * subset of the entries that changed since; whoever starts from a checkpoint
 * forgets the pages of every segment after it (repl_digest_table_forget), and
 * what is left is exact.
 */
#ifndef REPL_DIGEST_TABLE_H
#define REPL_DIGEST_TABLE_H

#include "base/bitmap.h"
#include "capture/sent_map.h"
#include "repl/error.h"
#include "repl/format.h"

struct repl_digest_table {
    struct repl_page_digest *entries; /* not owned */
    uint64_t page_count;
    struct repl_bitmap pending[2]; /* of segments up to the mark; of those behind it */
    struct repl_sent_map sent;
    uint64_t mark;   /* segment number */
    uint64_t newest; /* highest segment number a page was sent under */
    uint64_t first;  /* what segments of lower numbers carried does not count */
};

/* entries holds page_count digests and outlives the table. */
REPL_RESULT repl_digest_table_init(struct repl_digest_table *table,
                                   struct repl_page_digest *entries, uint64_t page_count,
                                   struct repl_error *err);
void repl_digest_table_fini(struct repl_digest_table *table);
/* The volume grew (or the mapping moved): new entries are the caller's to zero. */
REPL_RESULT repl_digest_table_grow(struct repl_digest_table *table,
                                   struct repl_page_digest *entries, uint64_t page_count,
                                   struct repl_error *err);

/* What the site holds of a page, or will before anything sent from now on; zeros where that is not
 * known. */
struct repl_page_digest repl_digest_table_get(const struct repl_digest_table *table, uint64_t page);
/* The page went into segment number with this content (numbers of segments grow from 1; they are
 * the source's own count of parts, not points). */
void repl_digest_table_sent(struct repl_digest_table *table, uint64_t page,
                            const struct repl_page_digest *digest, uint64_t segment);
/* A page of segment number, which has been acknowledged. */
void repl_digest_table_set(struct repl_digest_table *table, uint64_t page,
                           const struct repl_page_digest *digest, uint64_t segment);
/* A page of segment number, which has been given up. */
void repl_digest_table_dropped(struct repl_digest_table *table, uint64_t page, uint64_t segment);
/* Every segment up to this number has been acknowledged, and set called for its pages. */
void repl_digest_table_acknowledged(struct repl_digest_table *table, uint64_t segment);
/* Nothing is known of these pages any more. */
void repl_digest_table_forget(struct repl_digest_table *table, uint64_t page, uint64_t count);
/* Nothing that segments up to this number carried counts any more, even if they are acknowledged
 * later: all is to be said again behind them. */
void repl_digest_table_begin_anew(struct repl_digest_table *table, uint64_t segment);

#endif
