/*
 * How hard frames are compressed: at level 1, unless the link is what holds things up and the
 * workers have time to spare.
 *
 * Of 200 MiB of a system's files in frames of 1 MiB (zstd 1.5.4, one processor, decoding and
 * comparing included):
 *
 *   level   bytes, of level 1   MB/s   its context, MiB
 *     1         100 %            428        0.6
 *     2          95.6            374        0.7
 *     3          92.2            283        1.2
 *     5          88.9            155        3.5
 *     6          87.2            127        3.5
 *     9          86.4             76       12.5
 *
 * Hence the steps 1, 3 and 6: what is beyond them saves less than a hundredth, and six batches a
 * volume have a context each. A step takes at most 2.25 times the processor time of the one before.
 *
 * A sample is taken once a second. A step up wants several in a row in which the link was busy
 * throughout and the workers had nothing to do for most of the time. One in which the link was not,
 * or the workers had no rest, is enough for level 1, and so are two in which they were busy for
 * most of it: the host's own programs come first, and then the age of the points. (Of work that
 * comes in bursts, as when a full spool has room again, one sample says too little.) After a fall
 * that followed soon on a step the next step waits for twice as long as the last time, so that a
 * load at the edge does not make the level swing.
 */
#ifndef REPL_LEVEL_H
#define REPL_LEVEL_H

#include <stdint.h>

/* What happened since the sample before. */
struct repl_level_sample {
    int64_t elapsed_ns; /* more than 0 */
    int64_t busy_ns;    /* of all workers together: wall time with a job, or with one that waited */
    unsigned workers;   /* 1 or more */
    uint64_t sent_bytes;
    uint64_t unsent_bytes; /* at its end: built, and could be sent if the link took it */
};

struct repl_level {
    unsigned fixed; /* 0: it follows the samples */
    unsigned step;
    /* of the sample before: */
    uint64_t unsent_bytes;
    double share;        /* of the workers' time, in which they were busy */
    unsigned good;       /* samples in a row that speak for a step up */
    unsigned since_step; /* samples */
    unsigned wait;       /* samples, before any speaks for a step up */
    unsigned patience;   /* how long the last such wait was */
};

/* fixed: a level that stays, 1 to REPL_FRAME_LEVEL_MAX, or 0. */
void repl_level_init(struct repl_level *level, unsigned fixed);
void repl_level_follow(struct repl_level *level, const struct repl_level_sample *sample);
/* Of the frames that are compressed next. */
unsigned repl_level_now(const struct repl_level *level);

#endif
