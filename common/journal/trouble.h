/*
 * Whether the changes that a point brings look like trouble: data that is being
 * encrypted, removed, or written over as never before.
 *
 * Each point brings a number of changed bytes, of bytes that they take compressed, and of objects
 * of a tree that were removed. Three quantities are followed, each by a cumulative sum (CUSUM: E.
 * S. Page, "Continuous inspection schemes", Biometrika 41, 1954):
 *
 *     S = max(0, S + x - K * t)
 *
 * x is what the point brings, t the time it is about, K an allowance. S at 0 is the usual; where it
 * has left 0 for good is where the jump began, however slowly it went on and however late S reached
 * the threshold h: the last point before that is the one to go back to. As it is sums that are
 * compared, it does not matter whether there is a point a second or, of a history that was thinned,
 * one an hour.
 *
 * - hard bytes: changed bytes that do not compress, beyond the usual. Of a mix of n bytes with the
 *   usual ratio r (stored/changed) and x that do not compress at all, stored = r * n + x. That
 *   contents which no program can compress appear where they did not use to is what gives
 *   encryption away (N. Scaife and others, "CryptoLock (and Drop It)", ICDCS 2016). r is the
 *   greater of that of the last full and the median of the hours of a week. Where it is near 1
 *   already, nothing can be told.
 * - changed bytes
 * - removed objects
 *
 * K and h come from what the volume itself has done, by measures that a few wild values do not move
 * (median and MAD: B. Iglewicz, D. Hoaglin, "How to Detect and Handle Outliers", 1993):
 *
 * - K, by the hours of the last week in which anything changed: median + 3 * 1.4826 * MAD of what
 *   they brought, and at least twice the mean of all hours, so that S comes back to 0.
 * - h: twice (of hard bytes; else four times) the highest S of the days before within 30, so that
 *   what a job does each night or each week is usual from its second time on; and at least a part
 *   of what the volume holds, a larger one as long as less than a day of work is known.
 *
 * Fulls and points that were found by comparison say nothing of when their bytes were written: they
 * are not looked at, but for what a volume holds. A volume that was idle has no K and no h but that
 * part; changed bytes and removals are not judged before the habits of 8 days are known, as
 * whatever comes first is more than ever.
 *
 * What it cannot see: a change that is small against the volume (less than a 32nd of it), or one
 * smaller than what was usual or has happened within 30 days; encryption of what did not compress
 * in the first place; of a volume's first day, or of one that is mostly idle, less than an eighth
 * of it. What it takes for trouble once: the first time that much is written that does not
 * compress.
 */
#ifndef REPL_TROUBLE_H
#define REPL_TROUBLE_H

#include "format/wire.h"
#include "journal/chain.h"
#include "journal/retention.h"

#define REPL_TROUBLE_HOURS 168
#define REPL_TROUBLE_DAYS  30

/* For so long the last point before a jump is kept whatever the policy says, */
#define REPL_TROUBLE_YOUNG_NS (INT64_C(30) * 86400 * 1000000000)
/* of so many of the latest. */
#define REPL_TROUBLE_KEPT_MAX 16u

enum repl_trouble_measure {
    REPL_MEASURE_HARD,
    REPL_MEASURE_CHANGED,
    REPL_MEASURE_REMOVED,
    REPL_MEASURE_COUNT,
};

/* One cumulative sum. */
struct repl_trouble_sum {
    double sum, highest; /* since it left 0 */
    int64_t highest_ns;
    uint64_t before_seq; /* the last point with a sum of 0 */
    bool told;
    float peaks[REPL_TROUBLE_DAYS]; /* by day */
    double allowance;               /* K, a second */
    double least;                   /* of h, from the days before */
};

struct repl_trouble_hour {
    float changed, stored, removed;
};

/* The latest jump. */
struct repl_trouble_jump {
    enum repl_trouble_kind kind; /* NONE: there was none */
    uint64_t seq, before_seq;
    int64_t end_ns; /* of point seq */
    bool seen; /* since then the site's operator has held one of the points from before_seq on (a
                * host may give names too, and its key may be stolen) */
};

/* What is known of a volume: some 3 KiB. A fold over its COMMIT records. */
struct repl_trouble {
    struct repl_trouble_jump jump;
    struct repl_churn parts; /* of the segments whose point is still to come */
    /* private */
    bool begun;
    uint64_t last_seq;
    int64_t last_end_ns, idle_until_ns;
    /* of the last full */
    double content_bytes, content_ratio, content_objects;
    int64_t first_hour, hour; /* since 1970, of the source's clock */
    struct repl_trouble_hour hours[REPL_TROUBLE_HOURS];
    unsigned active_hours;                /* of the last week, as K and h have been made of them */
    double usual_ratio;                   /* 1: nothing can be told */
    double recent_changed, recent_stored; /* about what h is */
    struct repl_trouble_sum sums[REPL_MEASURE_COUNT];
};

void repl_trouble_init(struct repl_trouble *trouble);

/* A segment is about to be committed: fills commit->churn, from what has been counted in it (NULL:
 * nothing was) and in the parts before it, and where it ends in a point, with what that looks like.
 * idle_until_ns: until then the point before was the present. */
void repl_trouble_judge(const struct repl_trouble *trouble, const struct repl_churn *segment,
                        int64_t idle_until_ns, struct repl_log_commit *commit);
/* It is committed, or was so once, in this order. */
void repl_trouble_add(struct repl_trouble *trouble, const struct repl_log_commit *commit,
                      int64_t idle_until_ns);
/* Which of the points, oldest first, is the last one up to before_seq; SIZE_MAX: none is. */
size_t repl_trouble_last_before(const struct repl_points_entry *points, size_t count,
                                uint64_t before_seq);

/* Marks those of the chain's points, oldest first, that are the last before a jump which was seen
 * within REPL_TROUBLE_YOUNG_NS, by the site's clock. */
void repl_trouble_protect(const struct repl_chain *chain, int64_t now_ns,
                          struct repl_retention_point *points, size_t count);

/* A point has been given a name, or lost it. */
void repl_trouble_named(struct repl_trouble *trouble, const struct repl_log_mark *mark);

#endif
